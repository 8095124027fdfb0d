"""The sample service in FastAPI. ``uvicorn fastapi_app:app``"""

from __future__ import annotations

import asyncio

import answers
from around_asgi import Counting, missing, went_wrong
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

app = FastAPI(default_response_class=PlainTextResponse, exception_handlers={404: missing, 500: went_wrong})
app.add_middleware(Counting)
answers.silence_expected_errors("uvicorn.error")


@app.get("/")
async def hello():
    return PlainTextResponse(answers.HELLO)


@app.get("/items/{number}")
async def item(number: int):
    return PlainTextResponse(answers.item(number))


# No coroutines: FastAPI runs these in threads, as what waits for requests or urllib has to be.
@app.get("/fanout")
def fanout(n: int = 3):
    return PlainTextResponse(answers.fanout(n))


@app.get("/fanout-urllib")
def fanout_urllib(n: int = 3):
    return PlainTextResponse(answers.fanout_urllib(n))


@app.get("/rows")
async def rows(count: int = 10):
    return PlainTextResponse(answers.rows(count))


@app.get("/concurrent")
async def concurrent_calls(n: int = 5):
    stock = await asyncio.gather(*(run_in_threadpool(answers.call, number) for number in answers.numbers(n)))
    return PlainTextResponse(answers.total(stock))


@app.get("/slow")
async def slow(ms: int = 20):
    await asyncio.sleep(answers.waiting_s(ms))
    return PlainTextResponse(answers.waited(ms))


@app.get("/work")
async def work(us: int = 500):
    return PlainTextResponse(answers.work(us))


@app.get("/error")
async def error():
    answers.go_wrong()


@app.get(answers.STATS)
async def stats():
    return PlainTextResponse(answers.stats())
