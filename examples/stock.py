"""The stock service: what there is, and what it costs."""

from fastapi import FastAPI, HTTPException

PRICES = {"teapot": 20, "cup": 5, "yacht": 1_000_000}

app = FastAPI()


@app.get("/stock/{item}")
async def stock(item: str):
    if item not in PRICES:
        raise HTTPException(404, f"no {item} in stock")
    return {"item": item, "price": PRICES[item]}
