"""What is served on the query port: Jaeger's query API, traces as text; it puts the other routes of the port beside them.

Owns: the first version of Jaeger's HTTP JSON API, its envelope and its errors, the pages for terminals.
Must not know: how traces came in, how they are kept.
Invariants: a wrong parameter is a 400 that names it, never a 500; no answer is longer than the search's limit allows; long
answers are written on another thread and in small pieces, so that the event loop gets its turns.

Source: the HTTP JSON API of Jaeger's query service, as its UI and Grafana's data source use it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend.parts import Parts
from autoinstr.backend.query import pages, red, tree
from autoinstr.backend.query import v3 as query_v3
from autoinstr.backend.query.analysis import Adjusted, adjust
from autoinstr.backend.query.asking import (
    Asking,
    Handler,
    ParameterError,
    Refused,
    boolean,
    dependencies_in_window,
    endpoint,
    integer,
    parse_query,
    parse_trace_id,
    parse_trace_ids,
    read_body,
)
from autoinstr.backend.store import Store, Trace, TraceQuery
from autoinstr.model import Batch, Kind
from autoinstr.wire import DecodeError, jaegerjson, otlp

TRACES_ON_START_PAGE = 20
MAX_TRANSFORM_BYTES = 64 * 1024 * 1024

Document = dict[str, Any]
_compact = json.JSONEncoder(separators=(",", ":")).encode


def query_app(parts: Parts) -> Starlette:
    """What listens on Jaeger's query port 16686; ``app.state.end_streams()`` ends live tails, for a server that stops."""
    asking = Asking(parts)
    interface = pages.Pages(asking)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        interface.end_streams()
        asking.close()

    app = Starlette(
        routes=[*_text_routes(asking, interface), *_routes(asking), *query_v3.routes(asking), *interface.routes()],
        lifespan=lifespan,
    )
    app.state.end_streams = interface.end_streams
    return app


def _routes(asking: Asking) -> list[Route]:
    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, endpoint(asking, handler, error), methods=[method])

    return [
        route("/api/services", _services),
        route("/api/services/{service:path}/operations", _operation_names),
        route("/api/operations", _operations),
        route("/api/traces", _traces),
        route("/api/traces/{trace_id}", _trace),
        route("/api/archive/{trace_id}", _archive, "POST"),
        route("/api/dependencies", _dependencies),
        route("/api/transform", _transform, "POST"),
        route("/api/metrics/minstep", _smallest_step),
        *(route(f"/api/metrics/{what}", partial(red.answer, what)) for what in red.FAMILIES),
    ]


def _text_routes(asking: Asking, interface: pages.Pages) -> list[Route]:
    def tell(refused: Refused) -> Response:
        return PlainTextResponse(f"{refused.message}\n", status_code=refused.status)

    async def start_page(asking: Asking, request: Request) -> Response:
        if pages.wants_html(request):
            return interface.index(request)
        return await _newest_as_text(asking, request)

    return [
        Route("/", endpoint(asking, start_page, tell)),
        Route("/trees/{trace_id}", endpoint(asking, _tree, tell)),
    ]


# Services and operations ------------------------------------------------------------------------------------------


async def _services(asking: Asking, request: Request) -> Response:
    services = await asking.lookups.run(asking.parts.store.services)
    return envelope(request, services, total=len(services))


async def _operation_names(asking: Asking, request: Request) -> Response:
    found = await asking.lookups.run(asking.parts.store.operations, request.path_params["service"])
    names = sorted({name for name, _ in found})
    return envelope(request, names, total=len(names))


async def _operations(asking: Asking, request: Request) -> Response:
    service, wanted = request.query_params.get("service", ""), request.query_params.get("spanKind", "")
    if not service:
        raise ParameterError("parameter 'service' is required")
    operations = await asking.lookups.run(asking.parts.store.operations, service)
    found = [
        {"name": name, "spanKind": Kind.NAMES[kind]} for name, kind in operations if wanted in ("", Kind.NAMES[kind])
    ]
    return envelope(request, found, total=len(found))


# Traces -----------------------------------------------------------------------------------------------------------


async def _traces(asking: Asking, request: Request) -> Response:
    ids = parse_trace_ids(request)
    query = None if ids else parse_query(request, time.time_ns())
    raw, store = boolean(request, "raw"), asking.parts.store
    if query is None:
        return await asking.searches.run(_traces_by_id, request, store, ids, raw=raw)
    return await asking.searches.run(lambda: _traces_answer(request, store.find(query), raw=raw))


def _traces_by_id(request: Request, store: Store, ids: Iterable[int], *, raw: bool) -> Response:
    traces = {trace_id: store.trace(trace_id) for trace_id in ids}
    errors = [
        {"msg": "trace not found", "traceID": jaegerjson.trace_id_text(trace_id)}
        for trace_id, trace in traces.items()
        if not trace
    ]
    return _traces_answer(request, [trace for trace in traces.values() if trace], raw=raw, errors=errors)


async def _trace(asking: Asking, request: Request) -> Response:
    trace_id, raw = parse_trace_id(request.path_params["trace_id"]), boolean(request, "raw")
    for hint in ("start", "end"):
        # Jaeger's storage may need the times to find a trace; ours does not, but a wrong one is an error there, too.
        integer(request, hint, 0, 0, 2**63 - 1)
    return await asking.lookups.run(_one_trace, request, asking.parts.store, trace_id, raw=raw)


def _one_trace(request: Request, store: Store, trace_id: int, *, raw: bool) -> Response:
    trace = store.trace(trace_id)
    if not trace:
        raise Refused(404, "trace not found")
    return _traces_answer(request, [trace], raw=raw)


async def _archive(asking: Asking, request: Request) -> Response:
    trace_id = parse_trace_id(request.path_params["trace_id"])
    if not await asking.lookups.run(asking.parts.store.archive, trace_id):
        raise Refused(404, "trace not found")
    return envelope(request, [], errors=[])


async def _transform(asking: Asking, request: Request) -> Response:
    """OTLP JSON to Jaeger's, for the upload in Jaeger's UI; nothing is stored."""
    body = await read_body(request, MAX_TRANSFORM_BYTES)
    return await asking.searches.run(_transformed, request, body)


def _transformed(request: Request, body: bytes) -> Response:
    try:
        batches = otlp.decode_json(body)
    except DecodeError as problem:
        raise Refused(400, f"cannot read the body as OTLP JSON: {problem}") from problem
    return _traces_answer(request, traces_of(batches), raw=False)


def traces_of(batches: Iterable[Batch]) -> list[Trace]:
    """The spans of some batches by their traces, in order of appearance."""
    traces: dict[int, Trace] = {}
    for batch in batches:
        for span in batch.spans:
            traces.setdefault(span.trace_id, []).append((batch.resource, span))
    return list(traces.values())


# Dependencies, metrics --------------------------------------------------------------------------------------------


async def _dependencies(asking: Asking, request: Request) -> Response:
    found = await dependencies_in_window(asking, request)
    service = request.query_params.get("service", "")
    edges = [
        {"parent": edge.parent, "child": edge.child, "callCount": edge.calls}
        for edge in found
        if service in ("", edge.parent, edge.child)
    ]
    return envelope(request, edges)


async def _smallest_step(asking: Asking, request: Request) -> Response:
    return envelope(request, red.SMALLEST_STEP_MS)


# Text -------------------------------------------------------------------------------------------------------------


async def _newest_as_text(asking: Asking, request: Request) -> Response:
    newest = await asking.searches.run(asking.parts.store.find, TraceQuery(limit=TRACES_ON_START_PAGE))
    text = await asking.searches.run(lambda: "\n".join(map(tree.render, newest)))
    return PlainTextResponse(text or "No traces yet.\n", headers={"Vary": "Accept"})


async def _tree(asking: Asking, request: Request) -> Response:
    """One trace as text; ``?width=120`` for the columns, ``?colour=true`` for ANSI colours."""
    trace_id = parse_trace_id(request.path_params["trace_id"])
    width, colour = integer(request, "width", 100, 1, 10_000), boolean(request, "colour", "color")
    trace = await asking.lookups.run(asking.parts.store.trace, trace_id)
    if not trace:
        raise Refused(404, "trace not found")
    return PlainTextResponse(await asking.lookups.run(tree.render, trace, width=width, colour=colour))


# Answers ----------------------------------------------------------------------------------------------------------


def shown(trace: Trace, *, raw: bool) -> Document:
    """A trace in Jaeger's JSON, as it was sent or adjusted."""
    adjusted = Adjusted(trace) if raw else adjust(trace)
    return jaegerjson.encode(trace[0][1].trace_id, adjusted.trace, adjusted.warnings)


def _traces_answer(
    request: Request, traces: Sequence[Trace], *, raw: bool, errors: Sequence[Mapping[str, Any]] = ()
) -> Response:
    if _is_pretty(request):
        return envelope(request, [shown(trace, raw=raw) for trace in traces], errors=errors or None)
    texts = ",".join([_trace_text(shown(trace, raw=raw)) for trace in traces])
    return _json(f'{{"data":[{texts}],"total":0,"limit":0,"offset":0,"errors":{_compact(errors or None)}}}')


def _trace_text(document: Document) -> str:
    """Span by span: a single call for a large trace would keep Python's lock, and the event loop from its turn."""
    spans = ",".join(map(_compact, document["spans"]))
    rest = _compact({key: value for key, value in document.items() if key != "spans"})
    return f'{rest[:-1]},"spans":[{spans}]}}'


def envelope(request: Request, data: object, *, total: int = 0, errors: object = None) -> Response:
    """What all answers of Jaeger's first API are wrapped in."""
    content = {"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors}
    # Escaped to ASCII: text from strangers may hold lone surrogates, which UTF-8 cannot write.
    return _json(json.dumps(content, indent=4) if _is_pretty(request) else _compact(content))


def error(refused: Refused) -> Response:
    """The envelope of an error."""
    content = {
        "data": None,
        "total": 0,
        "limit": 0,
        "offset": 0,
        "errors": [{"code": refused.status, "msg": refused.message}],
    }
    return Response(_compact(content) + "\n", status_code=refused.status, media_type="application/json")


def _is_pretty(request: Request) -> bool:
    return request.query_params.get("prettyPrint") == "true"


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
