"""A FastAPI application with an included router."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()
router = APIRouter(prefix="/users")


@router.get("/{user_id}", response_class=PlainTextResponse)
async def user(user_id: int):
    return f"hello {user_id}"


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")


@app.get("/stream")
async def stream():
    return StreamingResponse(iter([b"part "] * 3))


app.include_router(router)
