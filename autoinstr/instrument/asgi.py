"""ASGI: a server span around any application callable (asgiref, ASGI 3), whatever server or framework calls it.

One span for an HTTP request, ended when the last message of its response has been sent (background tasks run on after that);
one for a websocket's handshake, or for the whole connection if so configured; none for ``lifespan`` and unknown types. The
scope is passed on as it came, ``receive`` is not touched.
"""

from __future__ import annotations

from autoinstr.instrument import Tracing, wrap_once
from autoinstr.instrument.http import call_application, end_server, excluder, header_attributes, is_disconnect, text
from autoinstr.model import Kind
from autoinstr.trace import RemoteSpan, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping
    from typing import Any, TypeAlias

    from autoinstr.trace import Span

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVER = Kind.SERVER
NO_HEADERS: dict[bytes, bytes] = {}


def make_handler(
    tracing: Tracing, scope_name: str, call: Callable[[Any, Scope, Receive, Send], Awaitable[None]] = call_application
) -> Callable[[Any, Scope, Receive, Send], Awaitable[None]]:
    """``handle(app, scope, receive, send)``: runs the application inside a server span.

    ``call`` is a framework's ``__call__``, of which ``handle`` then takes the place, or calls the application itself.
    Written flat, for this runs once per request: each call of a function of ours costs as much as five attributes.
    """
    conventions = tracing.conventions
    request_facts, target_facts = conventions.server_request, conventions.server_target
    client_facts, response_facts = conventions.server_client, conventions.server_response
    longest = conventions.longest
    known_methods = conventions.known_methods
    extract, trace_headers = tracing.asgi.extract_asgi, tracing.asgi.probes
    excluded = excluder(tracing.config, scope_name, "asgi")
    wanted = tracing.config.server_request_headers
    wanted_back = tracing.config.server_response_headers
    handshake_only = tracing.config.websocket_span != "connection"
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def begin(scope: Scope, outer: Span | None) -> Span | None:
        """Start the server span; ``None`` when this request is left out."""
        raw = scope.get("headers") or ()
        # A header list that can be read only once is the application's.
        headers = dict(raw) if raw.__class__ is list or isinstance(raw, (list, tuple)) else NO_HEADERS
        if excluded is not None and excluded(_url(scope, headers)):
            return None
        parent = None if headers.keys().isdisjoint(trace_headers) else extract(raw, headers)
        if outer.__class__ is RemoteSpan:  # The program's own tracing has begun this request.
            parent = outer.context
        method = scope.get("method", "GET")
        span = tracing.tracer.start_local_root(
            method if method in known_methods else "HTTP",
            SERVER,
            parent,
            scope_name,
            True,  # noqa: FBT003
        )
        if span.recording:
            client = scope.get("client")
            path = scope.get("path", "")[:longest]
            host = headers.get(b"host")
            span.facts = (
                *span.facts,
                (
                    request_facts,
                    method,
                    scope.get("scheme", "http"),
                    host[:longest] if host is not None else _server(scope),
                    scope.get("http_version", ""),
                ),
                (target_facts, "", path if path.isascii() else _native(path), scope.get("query_string", b"")[:longest]),
                (
                    client_facts,
                    headers.get(b"user-agent", b"")[:longest],
                    headers.get(b"x-forwarded-for", b"")[:longest],
                    client[0] if client else "",
                ),
            )
            if wanted:
                span.set_attributes(header_attributes(wanted, "http.request.header", _scope_header(headers)))
        return span

    def finish(span: Span, status: int, error: BaseException | None, end_ns: int = 0) -> None:
        """End the span with the outcome, once."""
        if span.end_ns:
            return
        try:
            if not span.recording:
                span.end()
                return
            if error is not None and is_disconnect(error):
                span.set_attribute("autoinstr.cancelled", True)
            if status.__class__ is not int:  # ``HTTPStatus.OK`` is one, too, and prints otherwise.
                status = int(status) if isinstance(status, int) else 0
            end_server(span, status, error, response_facts, end_ns)
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an ASGI request", trouble)

    async def handle(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        outer = get_current()
        span = None
        if (kind == "http" or kind == "websocket") and (outer is None or outer.kind != SERVER or outer.end_ns):
            try:
                span = begin(scope, outer)
            except Exception as trouble:  # Host safety: a request that we do not understand is still answered.
                fault("the start of an ASGI request", trouble)
        if span is None:
            await call(app, scope, receive, send)
            return
        if not span.recording:
            token = set_current(span)
            try:
                await call(app, scope, receive, send)
            finally:
                span.end()
                _reset(reset_current, token)
            return
        status = end_ns = 0
        has_trailers = False

        def watch(message: Message) -> Awaitable[None]:
            """What the application gets as ``send``: looks at the message and returns the server's own awaitable."""
            nonlocal status, end_ns, has_trailers
            try:
                kind = message["type"]
                if kind == "http.response.start" or kind == "websocket.http.response.start":
                    status = message["status"]
                    if "trailers" in message:
                        has_trailers = message["trailers"]
                    if wanted_back and span.recording:
                        _capture(span, wanted_back, message)
                elif _is_last(kind, message, has_trailers):
                    if kind == "websocket.close" and not status:
                        status = 403  # Closed before it was accepted: the server answers so.
                    if status < 500:
                        finish(span, status, None)
                    else:
                        # A framework may answer 500 first and let the exception through afterwards: it belongs here.
                        end_ns = span.now_ns()
                elif kind == "websocket.accept":
                    status = 101
                    if handshake_only:
                        finish(span, status, None)
            except Exception:  # noqa: S110 - Host safety: an odd message is for the server to complain about.
                pass
            return send(message)

        token = set_current(span)
        try:
            await call(app, scope, receive, watch)
        except BaseException as error:
            finish(span, status, error, end_ns)
            raise
        else:
            if not span.end_ns:
                finish(span, status, None, end_ns)
        finally:
            _reset(reset_current, token)

    return handle


def _is_last(kind: str, message: Message, has_trailers: bool) -> bool:  # noqa: FBT001
    """Whether nothing of the response comes after this message (ASGI: HTTP and websocket message format)."""
    if kind == "http.response.body" or kind == "websocket.http.response.body":
        return not has_trailers and ("more_body" not in message or not message["more_body"])
    if kind == "http.response.trailers":
        return not message.get("more_trailers")
    return kind in {"http.response.pathsend", "http.response.zerocopysend", "websocket.close"}


def _capture(span: Span, wanted: tuple[str, ...], message: Message) -> None:
    headers = message["headers"]
    if isinstance(headers, (list, tuple)):
        found = {text(name).lower(): text(value) for name, value in headers}
        span.set_attributes(header_attributes(wanted, "http.response.header", found.get))


def _reset(reset: Callable[[Any], None], token: Any) -> None:
    try:
        reset(token)
    except ValueError:  # The coroutine was closed in another context than it ran in.
        pass


def wrap_application(app: ASGIApp, tracing: Tracing, scope: str = "asgi") -> ASGIApp:
    """The application inside server spans; as it is, if it is wrapped already or its framework is switched off."""
    traced: ASGIApp = wrap_once(app, tracing, lambda: make_handler(tracing, scope))
    return traced


def wrap_method(tracing: Tracing, scope: str) -> Callable[[Any], Callable[..., Any]]:
    """For ``Patcher.wrap``: makes a framework's ``async def __call__(self, scope, receive, send)`` a traced one."""

    def make(wrapped: Any) -> Callable[..., Any]:
        return make_handler(tracing, scope, wrapped)

    return make


def _native(path: str) -> str:
    """A path as WSGI has it, whose bytes are characters, for what describes the request serves both."""
    return path.encode("utf-8", "surrogatepass").decode("latin-1")


def _server(scope: Scope) -> str:
    """Host and port from the socket, where there is no Host header."""
    server = scope.get("server")
    if not server:
        return ""
    return f"{server[0]}:{server[1]}" if server[1] else str(server[0])


def _url(scope: Scope, headers: Mapping[bytes, bytes]) -> str:
    """The URL of a request, for exclusion patterns."""
    host = headers.get(b"host")
    return f"{scope.get('scheme', 'http')}://{text(host) if host is not None else _server(scope)}{scope.get('path', '')}"


def _scope_header(headers: Mapping[bytes, bytes]) -> Callable[[str], str | None]:
    def get(name: str) -> str | None:
        value = headers.get(name.encode("latin-1", "replace"))
        return None if value is None else text(value)

    return get
