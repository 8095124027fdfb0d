"""The measured process: one scenario, looped, in an interpreter that an agent may have prepared.

Owns: what a request is in each scenario, the window of the measurement, how each agent is made to send.
Must not know: sampling rates, wires, other samples.
Invariants: imports nothing that an agent could want to patch before the scenario does; the window holds the requests, a
flush after every ``FLUSH_EVERY`` of them and one at the end. Prints ``@ready``; for every line on stdin makes a block of
requests and prints ``@done``; at the end of stdin prints ``@cpu`` and the microseconds of CPU.

Usage: workloads.py SCENARIO REQUESTS_PER_BLOCK  (the origin server's URL is in BENCH_ORIGIN)
"""

from __future__ import annotations

import importlib
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping
    from typing import Any

    #: Makes this many requests.
    Loop = Callable[[int], None]

FLUSH_EVERY = 500
WARM_UP = 300
AGENT = os.environ.get("BENCH_AGENT", "bare")

#: What a browser behind a proxy sends; no trace headers.
HEADERS = {
    "Host": "shop.example.com",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Connection": "keep-alive",
    "Cookie": "session=eyJ1c2VyIjoxMjM0fQ.aRfUuw.1q2w3e4r5t6y7u8i9o0p; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Priority": "u=0, i",
    "Cache-Control": "no-cache",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
}


def environ_of_server() -> dict[str, Any]:
    """What gunicorn puts into the WSGI environ for `GET /` with these headers."""
    import io

    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "RAW_URI": "/",
        "SERVER_NAME": "0.0.0.0",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "gunicorn/27.0.1",
        "REMOTE_ADDR": "10.0.0.9",
        "REMOTE_PORT": "51234",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in HEADERS.items()},
    }


def scope_of_server() -> dict[str, Any]:
    """What uvicorn puts into the ASGI scope for `GET /` with these headers."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("10.0.0.1", 8000),
        "client": ("10.0.0.9", 51234),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()],
    }


def loop_over_wsgi(app: Callable[..., Iterable[bytes]]) -> Loop:
    template = environ_of_server()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        assert status == "200 OK"

    def loop(count: int) -> None:
        for _ in range(count):
            body = app(template.copy(), start_response)
            for _chunk in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return loop


def plain_wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


#: What each agent wraps a WSGI application in by hand.
MIDDLEWARE = {
    "autoinstr": ("autoinstr", "wrap_wsgi"),
    "opentelemetry": ("opentelemetry.instrumentation.wsgi", "OpenTelemetryMiddleware"),
    "ddtrace": ("ddtrace.contrib.wsgi", "DDWSGIMiddleware"),
}


def raw_wsgi() -> Loop:
    """A WSGI function, wrapped by hand in the middleware of the agent."""
    if AGENT not in MIDDLEWARE:
        return loop_over_wsgi(plain_wsgi_app)
    module, name = MIDDLEWARE[AGENT]
    return loop_over_wsgi(getattr(importlib.import_module(module), name)(plain_wsgi_app))


def flask() -> Loop:
    """A Flask application that only answers."""
    from flask import Flask

    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return "hello"

    return loop_over_wsgi(app)


def fastapi() -> Loop:
    """A FastAPI application that only answers."""
    import asyncio

    from fastapi import FastAPI

    app = FastAPI()
    if AGENT == "elastic":
        # Not zero-code: elasticapm-run sends nothing for FastAPI, which overrides the method that it patches.
        import elasticapm
        from elasticapm.contrib.starlette import ElasticAPM, make_apm_client

        app.add_middleware(ElasticAPM, client=elasticapm.get_client() or make_apm_client())

    @app.get("/")
    async def index() -> dict[str, str]:
        return {"hello": "world"}

    template = scope_of_server()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200

    async def requests(count: int) -> None:
        for _ in range(count):
            await app({**template, "headers": template["headers"].copy(), "state": {}}, receive, send)

    event_loop = asyncio.new_event_loop()
    asyncio.set_event_loop(event_loop)
    return lambda count: event_loop.run_until_complete(requests(count))


def requests_get() -> Loop:
    import requests

    url = os.environ["BENCH_ORIGIN"]

    def loop(count: int) -> None:
        for _ in range(count):
            assert requests.get(url, timeout=5).status_code == 200

    return loop


def urlopen() -> Loop:
    import urllib.request

    url = os.environ["BENCH_ORIGIN"]

    def loop(count: int) -> None:
        for _ in range(count):
            with urllib.request.urlopen(url, timeout=5) as response:
                assert response.status == 200
                response.read()

    return loop


SCENARIOS: dict[str, Callable[[], Loop]] = {
    "wsgi": raw_wsgi,
    "flask": flask,
    "fastapi": fastapi,
    "requests": requests_get,
    "urlopen": urlopen,
}


def flush_of_agent() -> Callable[[], object]:
    """What makes the agent send everything that it holds, and waits until it has."""
    load: Callable[[str], Any] = importlib.import_module
    if AGENT == "autoinstr":
        return lambda: load("autoinstr").flush(10)
    if AGENT == "opentelemetry":
        provider = load("opentelemetry.trace").get_tracer_provider()
        return lambda: provider.force_flush()
    if AGENT == "ddtrace":
        tracer = load("ddtrace.trace").tracer
        return lambda: tracer.flush()
    if AGENT == "elastic":
        return lambda: load("elasticapm").get_client()._transport.flush()
    return lambda: None


def obey(scenario: str, block: int) -> None:
    """Make a block of requests for every line of the driver; report the CPU of all threads when the lines end.

    CPU between blocks counts too: that is where an agent's background threads may work.
    """
    import gc

    loop = SCENARIOS[scenario]()
    loop(WARM_UP)
    flush = flush_of_agent()
    flush()
    gc.collect()
    print("@ready", flush=True)
    done = 0
    begin = 0
    for _line in sys.stdin:
        begin = begin or time.process_time_ns()
        loop(block)
        done += block
        if done % FLUSH_EVERY == 0:
            flush()
        print("@done", flush=True)
    flush()
    print("@cpu", (time.process_time_ns() - begin) / 1000, flush=True)


if __name__ == "__main__":
    obey(sys.argv[1], int(sys.argv[2]))
    # What agents do at exit would fall into the next sample.
    os._exit(0)
