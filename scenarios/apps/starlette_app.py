"""The sample service in plain Starlette. ``uvicorn starlette_app:app``"""

from __future__ import annotations

import asyncio

import answers
from around_asgi import Counting, missing, went_wrong
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route


def parameter(request, name, default):
    return int(request.query_params.get(name, default))


async def hello(request):
    return PlainTextResponse(answers.HELLO)


async def item(request):
    return PlainTextResponse(answers.item(request.path_params["number"]))


# No coroutines: Starlette runs these in threads, as what waits for requests or urllib has to be.
def fanout(request):
    return PlainTextResponse(answers.fanout(parameter(request, "n", 3)))


def fanout_urllib(request):
    return PlainTextResponse(answers.fanout_urllib(parameter(request, "n", 3)))


async def rows(request):
    return PlainTextResponse(answers.rows(parameter(request, "count", 10)))


async def concurrent_calls(request):
    numbers = answers.numbers(parameter(request, "n", 5))
    stock = await asyncio.gather(*(run_in_threadpool(answers.call, number) for number in numbers))
    return PlainTextResponse(answers.total(stock))


async def slow(request):
    milliseconds = parameter(request, "ms", 20)
    await asyncio.sleep(answers.waiting_s(milliseconds))
    return PlainTextResponse(answers.waited(milliseconds))


async def work(request):
    return PlainTextResponse(answers.work(parameter(request, "us", 500)))


async def error(request):
    answers.go_wrong()


async def stats(request):
    return PlainTextResponse(answers.stats())


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/items/{number:int}", item),
        Route("/fanout", fanout),
        Route("/fanout-urllib", fanout_urllib),
        Route("/rows", rows),
        Route("/concurrent", concurrent_calls),
        Route("/slow", slow),
        Route("/work", work),
        Route("/error", error),
        Route(answers.STATS, stats),
    ],
    exception_handlers={404: missing, 500: went_wrong},
)
app.add_middleware(Counting)
answers.silence_expected_errors("uvicorn.error")
