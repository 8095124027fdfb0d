"""What is served on the query port: Jaeger's query API, traces as text, the backend's own counters.

Owns: parameters and their errors, the answer's envelope, text pages.
Must not know: how traces came in, how they are kept.
Invariants: a wrong parameter is a 400 that names it, never a 500; no answer is longer than the search's limit allows.

Source: the HTTP JSON API of Jaeger's query service, as its UI uses it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend import tree
from autoinstr.backend.receive import Intake
from autoinstr.backend.store import FOREVER_NS, Store, Trace, TraceQuery
from autoinstr.model import Kind
from autoinstr.wire import jaegerjson

DEFAULT_LIMIT, LARGEST_LIMIT = 100, 2**31 - 1
DEFAULT_LOOKBACK_NS = 48 * 3600 * 10**9
TRACES_ON_START_PAGE = 20

DURATION_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
DURATION_UNITS_NS["h"] = 60 * DURATION_UNITS_NS["m"]
DURATION_PART = re.compile(r"(\d{1,19}(?:\.\d{0,19})?|\.\d{1,19})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")

Figures = Callable[[], Mapping[str, int]]


class ParameterError(ValueError):
    """A query parameter that cannot be used; the text is for the client."""


def query_app(store: Store, intake: Intake, *figures: Figures) -> Starlette:
    """What listens on Jaeger's query port 16686. ``figures`` are further numbers for ``/metrics``."""
    return Starlette(
        routes=[
            Route("/", partial(_start_page, store)),
            Route("/metrics", partial(_metrics, intake, (store.figures, *figures))),
            Route("/trees/{trace_id}", partial(_tree, store)),
            Route("/api/services", partial(_services, store)),
            Route("/api/services/{service:path}/operations", partial(_operation_names, store)),
            Route("/api/operations", partial(_operations, store)),
            Route("/api/traces", partial(_traces, store)),
            Route("/api/traces/{trace_id}", partial(_trace, store)),
        ]
    )


async def _services(store: Store, request: Request) -> Response:
    services = store.services()
    return _answer(request, services, total=len(services))


async def _operation_names(store: Store, request: Request) -> Response:
    names = sorted({name for name, _ in store.operations(request.path_params["service"])})
    return _answer(request, names, total=len(names))


async def _operations(store: Store, request: Request) -> Response:
    service, wanted = request.query_params.get("service", ""), request.query_params.get("spanKind", "")
    if not service:
        return _error(400, "parameter 'service' is required")
    found = [
        {"name": name, "spanKind": Kind.NAMES[kind]}
        for name, kind in store.operations(service)
        if wanted in ("", Kind.NAMES[kind])
    ]
    return _answer(request, found, total=len(found))


async def _traces(store: Store, request: Request) -> Response:
    try:
        ids = [parse_trace_id(text) for text in request.query_params.getlist("traceID")]
        query = None if ids else parse_query(request, time.time_ns())
    except ParameterError as error:
        return _error(400, str(error))
    if query is None:
        return _traces_by_id(store, request, ids)
    # Looking through all traces takes long, and whoever sends spans must not wait for it.
    found = await asyncio.to_thread(lambda: [_encode(trace) for trace in store.find(query)])
    return _answer(request, found)


def _traces_by_id(store: Store, request: Request, ids: list[int]) -> Response:
    traces = {trace_id: store.trace(trace_id) for trace_id in ids}
    errors = [
        {"msg": "trace not found", "traceID": jaegerjson.trace_id_text(trace_id)}
        for trace_id, trace in traces.items()
        if not trace
    ]
    return _answer(request, [_encode(trace) for trace in traces.values() if trace], errors=errors)


async def _trace(store: Store, request: Request) -> Response:
    try:
        trace = store.trace(parse_trace_id(request.path_params["trace_id"]))
    except ParameterError as error:
        return _error(400, str(error))
    return _answer(request, [_encode(trace)]) if trace else _error(404, "trace not found")


async def _tree(store: Store, request: Request) -> Response:
    """One trace as text; ``?width=120`` for the columns, ``?colour=true`` for ANSI colours."""
    try:
        trace = store.trace(parse_trace_id(request.path_params["trace_id"]))
        width = _integer(request, "width", 100, 1, 10_000)
    except ParameterError as error:
        return PlainTextResponse(f"{error}\n", status_code=400)
    if not trace:
        return PlainTextResponse("trace not found\n", status_code=404)
    return PlainTextResponse(tree.render(trace, width=width, colour=request.query_params.get("colour") == "true"))


async def _start_page(store: Store, request: Request) -> Response:
    newest = await asyncio.to_thread(store.find, TraceQuery(limit=TRACES_ON_START_PAGE))
    return PlainTextResponse("\n".join(map(tree.render, newest)) or "No traces yet.\n")


async def _metrics(intake: Intake, figures: tuple[Figures, ...], request: Request) -> Response:
    """Counters in Prometheus' text format."""
    lines = [
        f'autoinstr_received_{what}_total{{protocol="{protocol}"}} {number}'
        for (what, protocol), number in sorted(intake.counters().items())
    ]
    lines += [f"autoinstr_{name} {number}" for each in figures for name, number in each().items()]
    return PlainTextResponse("\n".join(lines) + "\n")


def parse_query(request: Request, now_ns: int) -> TraceQuery:
    """A search from the parameters that Jaeger's UI sends; ParameterError. ``lookback`` is ignored, as Jaeger does."""
    parameters = request.query_params
    service = parameters.get("service", "")
    if not service:
        raise ParameterError("parameter 'service' is required")
    shortest = parse_duration(parameters.get("minDuration", ""), 0)
    longest = parse_duration(parameters.get("maxDuration", ""), FOREVER_NS)
    if longest < shortest:
        raise ParameterError("'maxDuration' should be greater than 'minDuration'")
    return TraceQuery(
        service=service,
        operation=parameters.get("operation", ""),
        tags=_tags(request),
        start_ns=_integer(request, "start", (now_ns - DEFAULT_LOOKBACK_NS) // 1000, 0, FOREVER_NS) * 1000,
        end_ns=_integer(request, "end", now_ns // 1000 + 1, 0, FOREVER_NS) * 1000,
        min_duration_ns=shortest,
        max_duration_ns=longest,
        limit=_integer(request, "limit", DEFAULT_LIMIT, 1, LARGEST_LIMIT),
    )


def parse_duration(text: str, default_ns: int) -> int:
    """Nanoseconds from Go's form (``1.5s``, ``1m30s``, ``100us``); ``default_ns`` for no text; ParameterError."""
    if not text:
        return default_ns
    parts = DURATION_PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise ParameterError(f"cannot parse {text!r} as a duration; use for example 1.5s, 100ms or 250us")
    return round(sum(float(number) * DURATION_UNITS_NS[unit] for number, unit in parts))


def parse_trace_id(text: str) -> int:
    """An id from at most 32 hex digits, leading zeros or none; ParameterError."""
    if not TRACE_ID.fullmatch(text) or not int(text, 16):
        raise ParameterError(f"cannot parse {text[:64]!r} as a trace ID")
    return int(text, 16)


def _tags(request: Request) -> dict[str, str]:
    """From ``tag=key:value`` and ``tags={"key":"value"}``, each any number of times."""
    tags: dict[str, str] = {}
    for text in request.query_params.getlist("tag"):
        key, colon, value = text.partition(":")
        if not colon:
            raise ParameterError(f"malformed 'tag' parameter, expecting key:value, received: {text[:200]}")
        tags[key] = value
    for text in request.query_params.getlist("tags"):
        tags.update(_json_tags(text))
    return tags


def _json_tags(text: str) -> dict[str, str]:
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        tags = None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ParameterError(f"malformed 'tags' parameter, expecting an object of strings, received: {text[:200]}")
    return tags


def _integer(request: Request, name: str, default: int, smallest: int, largest: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII) or not smallest <= int(text) <= largest:
        raise ParameterError(f"cannot use {name}={text[:64]!r}: it must be an integer from {smallest} to {largest}")
    return int(text)


def _encode(trace: Trace) -> dict[str, Any]:
    return jaegerjson.encode(trace[0][1].trace_id, trace)


def _answer(request: Request, data: object, *, total: int = 0, errors: object = None) -> Response:
    content = {"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors or None}
    pretty = request.query_params.get("prettyPrint") == "true"
    # Escaped to ASCII: text from strangers may hold lone surrogates, which UTF-8 cannot write.
    text = json.dumps(content, indent=4 if pretty else None, separators=None if pretty else (",", ":"))
    return Response(text, media_type="application/json")


def _error(status: int, message: str) -> Response:
    content = {"data": None, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": status, "msg": message}]}
    return Response(json.dumps(content) + "\n", status_code=status, media_type="application/json")
