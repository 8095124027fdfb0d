"""aiohttp's server: a server span around the handling of a request, ended when the response has been written.

Owns: the spans of ``aiohttp.web``, by its own server, as a worker of gunicorn, in test servers; routes of its router.
Must not know: the program's middleware and handlers, which see requests and responses as without us.
Invariants: one span for each request that could be parsed; one for a websocket's handshake, or for the whole connection if so
configured; the task that handles a request is one of its own, so the current span is nobody else's.

``RequestHandler._handle_request`` is where an application's answer, an ``HTTPException`` and what is made of other exceptions
come together; what such an exception was is known where it is logged, in ``handle_error``.
"""

from __future__ import annotations

import sys

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import end_server, excluder, header_attributes, is_disconnect, open_server, set_route
from autoinstr.instrument.http_calls import reset
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.model import SpanContext
    from autoinstr.trace import Span

SCOPE = "aiohttp.server"
VERSIONS = {(1, 1): "1.1", (1, 0): "1.0"}


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """The protocol of a connection, which is what every way of serving comes to."""
    serving = Serving(tracing, getattr(patcher.module, "ERROR", None))
    patcher.wrap("RequestHandler._handle_request", serving.make)
    patcher.wrap("RequestHandler.handle_error", make_handle_error)


def patch_routing(patcher: Patcher, tracing: Tracing) -> None:
    """The route is known before middleware and handler run."""
    patcher.wrap("UrlDispatcher.resolve", make_resolve)


def patch_websocket(patcher: Patcher, tracing: Tracing) -> None:
    """A websocket's request is answered when its handshake is done."""
    if tracing.config.websocket_span != "connection":
        patcher.wrap("WebSocketResponse.prepare", Serving(tracing, None).make_prepare)


class Serving:
    """Spans of requests; ``unreadable`` is what stands for the message of a request that could not be parsed."""

    def __init__(self, tracing: Tracing, unreadable: object) -> None:
        self._tracing = tracing
        self._unreadable = unreadable
        self._excluded = excluder(tracing.config, "aiohttp_server", "aiohttp-server", SCOPE, "aiohttp")
        self._probes = tracing.plain.probes
        self._request_headers = tracing.config.server_request_headers
        self._response_headers = tracing.config.server_response_headers

    def begin(self, request: Any) -> Span | None:
        """Start the span; ``None`` when this request is left out."""
        if getattr(request, "_message", self) is self._unreadable:
            return None
        headers = request.headers
        if self._excluded is not None and self._excluded(_url(request)):
            return None
        method = request.method
        span = self._tracing.tracer.start_local_root(
            method if method in self._tracing.conventions.known_methods else "HTTP",
            Kind.SERVER,
            self._extract(headers),
            SCOPE,
            True,  # noqa: FBT003
        )
        if span.recording:
            self._describe(span, request, headers)
        return span

    def _extract(self, headers: Any) -> SpanContext | None:
        for probe in self._probes:
            if probe in headers:
                return self._tracing.plain.extract(joined(headers))
        return None

    def _describe(self, span: Span, request: Any, headers: Any) -> None:
        """Put on the span what is known of the request."""
        conventions = self._tracing.conventions
        get = headers.get
        url = request.rel_url
        longest = conventions.longest
        path = url.path[:longest]
        version = request.version
        span.facts = (
            *span.facts,
            (
                conventions.server_request,
                request.method,
                request.scheme,
                (get("Host") or _server(request))[:longest],
                VERSIONS.get(version) or "{}.{}".format(*version),
            ),
            (
                conventions.server_target,
                "",
                path if path.isascii() else path.encode("utf-8", "surrogatepass").decode("latin-1"),
                url.raw_query_string[:longest],
            ),
            (
                conventions.server_client,
                get("User-Agent", "")[:longest],
                get("X-Forwarded-For", "")[:longest],
                request.remote or "",
            ),
        )
        if self._request_headers:
            span.set_attributes(header_attributes(self._request_headers, "http.request.header", _values(headers)))

    def finish(self, span: Span, response: Any, error: BaseException | None) -> None:
        """End the span with the outcome, once."""
        if span.end_ns:
            return
        try:
            if not span.recording:
                span.end()
                return
            status = 0
            if response is not None:
                status = int(response.status)
                if self._response_headers:
                    headers = _values(response.headers)
                    span.set_attributes(header_attributes(self._response_headers, "http.response.header", headers))
            if error is not None and (is_disconnect(error) or is_told(span)):
                if is_disconnect(error):
                    span.set_attribute("autoinstr.cancelled", True)
                error = None
            end_server(span, status, error, self._tracing.conventions.server_response)
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an aiohttp.web request", trouble)

    def make(self, wrapped: Any) -> Callable[..., Any]:
        """For ``RequestHandler._handle_request``."""

        async def _handle_request(protocol: Any, request: Any, *arguments: Any, **keywords: Any) -> Any:
            try:
                span = self.begin(request)
            except Exception as trouble:  # Host safety: a request that we do not understand is still answered.
                fault("the start of an aiohttp.web request", trouble)
                span = None
            if span is None:
                return await wrapped(protocol, request, *arguments, **keywords)
            token = current.set(span)
            try:
                result = await wrapped(protocol, request, *arguments, **keywords)
            except BaseException as error:
                self.finish(span, None, error)
                raise
            finally:
                reset(current, token)
            self.finish(span, _response(result), None)
            return result

        return _handle_request

    def make_prepare(self, wrapped: Any) -> Callable[..., Any]:
        """For ``WebSocketResponse.prepare``."""

        async def prepare(socket: Any, request: Any) -> Any:
            result = await wrapped(socket, request)
            span = open_server()
            if span is not None and span.scope == SCOPE:
                self.finish(span, socket, None)
            return result

        return prepare


def make_resolve(wrapped: Any) -> Callable[..., Any]:
    """For ``UrlDispatcher.resolve``, which applications that are mounted in others go through as well, before them."""

    async def resolve(router: Any, request: Any) -> Any:
        match = await wrapped(router, request)
        span = open_server()
        if span is not None and span.scope == SCOPE:
            try:
                resource = match.route.resource
                if resource is not None:  # There is none where nothing has matched.
                    set_route(span, resource.canonical)
            except Exception as trouble:  # Host safety: the request is answered all the same.
                fault("the route of an aiohttp.web request", trouble)
        return match

    return resolve


def make_handle_error(wrapped: Any) -> Callable[..., Any]:
    """For ``RequestHandler.handle_error``: the exception that the answer is made of. That of a timeout is not passed on."""

    def handle_error(protocol: Any, request: Any, *arguments: Any, **keywords: Any) -> Any:
        span = open_server()
        error = sys.exc_info()[1]
        if span is not None and error is not None and span.scope == SCOPE:
            try:
                if isinstance(error, ConnectionError) and protocol.transport is None:
                    span.set_attribute("autoinstr.cancelled", True)  # The client has gone.
                else:
                    span.fail(error)
            except Exception as trouble:  # Host safety: the request is answered all the same.
                fault("the error of an aiohttp.web request", trouble)
        return wrapped(protocol, request, *arguments, **keywords)

    return handle_error


def is_told(span: Span) -> bool:
    """Whether the span says already how the request has failed; what follows from that is no news."""
    return span.own is not None and ("error.type" in span.own or "autoinstr.cancelled" in span.own)


def joined(headers: Any) -> dict[str, str]:
    """Headers by their lower-case names. Those that occur more than once are joined by commas, as WSGI servers do."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _response(result: Any) -> Any:
    """The response, which comes with a flag."""
    return result[0] if isinstance(result, tuple) else result


def _values(headers: Any) -> Callable[[str], list[str] | None]:
    return lambda name: headers.getall(name, None)


def _server(request: Any) -> str:
    """Host and port from the socket, where there is no Host header."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""


def _url(request: Any) -> str:
    """The URL of a request, for exclusion patterns."""
    return f"{request.scheme}://{request.headers.get('Host') or _server(request)}{request.rel_url.raw_path}"
