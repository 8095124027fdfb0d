"""The web interface: its files as they are, and the data that only it asks for.

Owns: which addresses are pages, the serving of ``ui/``, the routes under ``/ui/data``.
Must not know: what is in the files, how the data is found.
Invariants: no path leaves ``ui/``; no HTML is made but ``index.html``, in which only the base address is replaced; what is
wrong with a request is a 4xx with a sentence.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from autoinstr.backend.parts import Full
from autoinstr.backend.query import overview, uploads
from autoinstr.backend.query.analysis import summarise
from autoinstr.backend.query.asking import (
    Asking,
    Handler,
    ParameterError,
    Refused,
    dependencies_in_window,
    endpoint,
    parse_query,
    parse_trace_ids,
    read_body,
)
from autoinstr.backend.query.live import LiveTail
from autoinstr.backend.sampling.strategies import StrategiesError
from autoinstr.model import Batch
from autoinstr.wire import DecodeError
from autoinstr.wire.jaegerjson import trace_id_text

FOLDER = Path(__file__).parent.parent / "ui"
#: Addresses that the interface draws itself, beside ``/``.
PAGES = ("/trace/{trace_id}", "/compare", "/dependencies", "/services", "/sampling")

CONTENT_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
#: Words with single dots and slashes between them: ".." and absolute paths cannot be said.
FILE_NAME = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*", re.ASCII)
BASE = re.compile(rb'<base href="[^"]*">')

MAX_STRATEGY_BYTES = 1024 * 1024
STORED_WITHIN_S = 60.0


class Pages:
    """The interface over one set of parts."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._live = LiveTail(asking)
        self._costs = overview.Costs(asking.parts.store)
        self._started_s = time.monotonic()

    def index(self, request: Request) -> Response:
        """The one page, whose scripts draw what the address names."""
        content = _read(FOLDER / "index.html")
        base = html.escape(quote(request.scope.get("root_path", "").rstrip("/")), quote=True)
        content = BASE.sub(lambda _: b'<base href="%s/">' % base.encode(), content, count=1)
        return _file(request, content, CONTENT_TYPES[".html"], vary="Accept")

    def end_streams(self) -> None:
        """End the live tails, so that a server that stops need not wait for them; from any thread."""
        self._live.end()

    def routes(self) -> list[Route]:
        """All but ``/``, which is shared with terminals."""

        async def index(_: Asking, request: Request) -> Response:
            return self.index(request)

        return [
            *(Route(path, endpoint(self._asking, index, tell)) for path in PAGES),
            *self._data_routes(),
            Route("/ui/{path:path}", endpoint(self._asking, _static, tell)),
        ]

    def _data_routes(self) -> list[Route]:
        def route(path: str, handler: Handler, method: str = "GET") -> Route:
            return Route(f"/ui/data/{path}", endpoint(self._asking, handler, tell), methods=[method])

        return [
            route("search", _search),
            route("live", self._follow),
            route("services", self._services),
            route("losses", partial(_looked_up, overview.loss_rows)),
            route("dependencies", _dependencies),
            route("sampling", partial(_looked_up, overview.sampling_rows)),
            route("sampling/{service:path}", _edit_strategy, "PUT"),
            route("sampling/{service:path}", _reset_strategy, "DELETE"),
            route("upload", _upload, "POST"),
            route("traces", _clear, "DELETE"),
            route("status", self._status),
        ]

    async def _follow(self, asking: Asking, request: Request) -> Response:
        return self._live.open()

    async def _services(self, asking: Asking, request: Request) -> Response:
        rows = await asking.searches.run(overview.service_rows, asking.parts, self._costs, time.time_ns())
        return _json({"services": rows})

    async def _status(self, asking: Asking, request: Request) -> Response:
        return _json(await asking.lookups.run(overview.status, asking.parts, self._started_s))


# Files ------------------------------------------------------------------------------------------------------------


def wants_html(request: Request) -> bool:
    """Whether a browser asks for a page, and not a program for an answer."""
    return "text/html" in request.headers.get("accept", "")


async def _static(asking: Asking, request: Request) -> Response:
    name = request.path_params["path"]
    path = FOLDER / name
    if not FILE_NAME.fullmatch(name) or path.suffix not in CONTENT_TYPES or not path.is_file():
        raise Refused(404, "there is no such file")
    return _file(request, _read(path), CONTENT_TYPES[path.suffix])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(404, f"a file of the web interface cannot be read: {error.strerror}") from error


def _file(request: Request, content: bytes, content_type: str, vary: str = "") -> Response:
    """Asked for again each time, and sent again when it has changed: an update of the package shows at once."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", **({"Vary": vary} if vary else {})}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": content_type})


# Data -------------------------------------------------------------------------------------------------------------


async def _looked_up(find: Callable[..., Any], asking: Asking, request: Request) -> Response:
    return _json(await asking.lookups.run(find, asking.parts))


async def _search(asking: Asking, request: Request) -> Response:
    ids = parse_trace_ids(request)
    query = parse_query(request, time.time_ns(), service_required=False)
    store = asking.parts.store

    def summaries() -> Response:
        traces = [store.trace(trace_id) for trace_id in ids] if ids else store.find(query)
        return _json({"traces": [summarise(trace) for trace in traces if trace]})

    return await asking.searches.run(summaries)


async def _dependencies(asking: Asking, request: Request) -> Response:
    found = await dependencies_in_window(asking, request)
    return _json(
        {
            "edges": [
                {"parent": edge.parent, "child": edge.child, "calls": edge.calls, "errors": edge.errors}
                for edge in found
            ]
        }
    )


async def _clear(asking: Asking, request: Request) -> Response:
    await asking.lookups.run(asking.parts.store.clear)
    return _json({})


# Sampling ---------------------------------------------------------------------------------------------------------


async def _edit_strategy(asking: Asking, request: Request) -> Response:
    service = _service(request)
    body = await read_body(request, MAX_STRATEGY_BYTES)
    try:
        strategy = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the strategy is not JSON: {error}") from error
    return await _changed_strategy(asking, service, lambda: asking.parts.strategies.edit(service, strategy))


async def _reset_strategy(asking: Asking, request: Request) -> Response:
    service = _service(request)
    return await _changed_strategy(asking, service, lambda: asking.parts.strategies.reset(service))


async def _changed_strategy(asking: Asking, service: str, change: Callable[[], None]) -> Response:
    try:
        await asking.lookups.run(change)
    except StrategiesError as error:
        raise Refused(400, str(error)) from error
    return _json(await asking.lookups.run(overview.sampling_row, asking.parts.strategies, service))


def _service(request: Request) -> str:
    service: str = request.path_params["service"]
    if not service:
        raise ParameterError("the address must end with the name of a service")
    return service


# Upload -----------------------------------------------------------------------------------------------------------


async def _upload(asking: Asking, request: Request) -> Response:
    """Answered once the traces are stored, so that the page that opens finds them."""
    body = await read_body(request, uploads.MAX_BYTES)
    batches = await asking.searches.run(_decoded, body)
    await _store(asking, batches, len(body))
    ids = dict.fromkeys(span.trace_id for batch in batches for span in batch.spans)
    return _json({"traceIDs": [trace_id_text(trace_id) for trace_id in ids]})


def _decoded(body: bytes) -> list[Batch]:
    try:
        return uploads.decode(body)
    except DecodeError as error:
        raise Refused(400, str(error)) from error


async def _store(asking: Asking, batches: list[Batch], size: int) -> None:
    try:
        stored = asyncio.wrap_future(asking.parts.writer.submit(batches, size))
        # Shielded, because a future that is cancelled here could not be answered by the writer any more.
        await asyncio.wait_for(asyncio.shield(stored), STORED_WITHIN_S)
    except Full as error:
        raise Refused(503, "too many spans are waiting to be stored; try again in a moment") from error
    except asyncio.TimeoutError as error:
        raise Refused(503, f"the spans could not be stored within {STORED_WITHIN_S:.0f} seconds") from error
    except Exception as error:
        raise Refused(503, "the spans could not be stored; the log of the backend says why") from error


# Answers ----------------------------------------------------------------------------------------------------------


def tell(refused: Refused) -> Response:
    """An error as Jaeger's API has it, which the interface reads anyway."""
    errors = [{"code": refused.status, "msg": refused.message}]
    return Response(json.dumps({"errors": errors}) + "\n", status_code=refused.status, media_type="application/json")


def _json(content: object) -> Response:
    # Escaped to ASCII: text from strangers may hold lone surrogates, which UTF-8 cannot write.
    text = json.dumps(content, separators=(",", ":"))
    return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})
