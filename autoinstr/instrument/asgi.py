"""ASGI: a server span around any application callable (asgiref, ASGI 3), whatever server or framework calls it.

One span for an HTTP request, ended when the last message of its response has been sent (background tasks run on after that);
one for a websocket's handshake, or for the whole connection if so configured; none for ``lifespan`` and unknown types. The
scope is passed on as it came, ``receive`` is not touched.
"""

from __future__ import annotations

from autoinstr.instrument import Tracing
from autoinstr.instrument.http import end_server, excluder, header_attributes, is_disconnect, text
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
    from typing import Any, TypeAlias

    from autoinstr.trace import Span

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVER = Kind.SERVER
NO_HEADERS: dict[bytes, bytes] = {}


class Exchange:
    """The response half of one request: watches what is sent, and knows when the span is over."""

    __slots__ = ("_awaits_trailers", "_finish", "_handshake_only", "_send", "_span", "_wanted", "status")

    def __init__(
        self,
        send: Send,
        span: Span,
        finish: Callable[[Span, int, BaseException | None], None],
        wanted: tuple[str, ...],
        handshake_only: bool,  # noqa: FBT001 - keyword passing costs on the hot path
    ) -> None:
        self._send = send
        self._span = span
        self._finish = finish
        self._wanted = wanted
        self._handshake_only = handshake_only
        self._awaits_trailers = False
        self.status = 0

    def send(self, message: Message) -> Awaitable[None]:
        """What the application gets as ``send``: the server's own awaitable, but for the last message."""
        try:
            last = self._look(message)
        except Exception:  # Host safety: an odd message is for the server to complain about.
            last = False
        return self._send_last(message) if last else self._send(message)

    def _look(self, message: Message) -> bool:
        """Take the status where there is one; True for a message after which the span is over."""
        kind = message["type"]
        if kind == "http.response.start" or kind == "websocket.http.response.start":
            self.status = message["status"]
            self._awaits_trailers = bool(message.get("trailers"))
            if self._wanted and self._span.recording:
                self._capture(message["headers"])
            return False
        if kind == "http.response.body" or kind == "websocket.http.response.body":
            return not message.get("more_body") and not self._awaits_trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind == "websocket.accept":
            self.status = 101
            return self._handshake_only
        if kind == "websocket.close":
            self.status = self.status or 403  # Closed before it was accepted: the server answers 403.
            return True
        return kind == "http.response.pathsend" or kind == "http.response.zerocopysend"

    async def _send_last(self, message: Message) -> None:
        await self._send(message)
        span = self._span
        if self.status < 500:
            self._finish(span, self.status, None)
        elif span.recording:
            # The framework may answer 500 first and let the exception through afterwards: it belongs on the span.
            span.set_attribute("http.response.end_ns", span.now_ns())

    def _capture(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if isinstance(headers, (list, tuple)):
            found = {text(name).lower(): text(value) for name, value in headers}
            self._span.set_attributes(header_attributes(self._wanted, "http.response.header", found.get))


def make_handler(tracing: Tracing, scope_name: str) -> Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]:
    """``handle(app, scope, receive, send)``: runs the application inside a server span."""
    conventions = tracing.conventions
    request_facts, target_facts = conventions.server_request, conventions.server_target
    client_facts, response_facts = conventions.server_client, conventions.server_response
    known_methods = conventions.known_methods
    extract = tracing.asgi.extract_asgi
    excluded = excluder(tracing.config, scope_name, "asgi")
    wanted = tracing.config.server_request_headers
    wanted_back = tracing.config.server_response_headers
    handshake_only = tracing.config.websocket_span != "connection"

    def begin(scope: Scope) -> Span | None:
        """Start the server span; ``None`` when this request is left out."""
        raw = scope.get("headers") or ()
        # A header list that can be read only once is the application's.
        headers = dict(raw) if raw.__class__ is list or isinstance(raw, (list, tuple)) else NO_HEADERS
        if excluded is not None and excluded(_url(scope, headers)):
            return None
        method = scope.get("method", "GET")
        span = tracing.tracer.start(
            method if method in known_methods else "HTTP", SERVER, extract(raw, headers), scope_name, True  # noqa: FBT003
        )
        if span.recording:
            client = scope.get("client")
            host = headers.get(b"host")
            span.facts = (
                *span.facts,
                (
                    request_facts,
                    method,
                    scope.get("scheme", "http"),
                    host if host is not None else _server(scope),
                    scope.get("http_version", ""),
                ),
                (target_facts, "", scope.get("path", ""), scope.get("query_string", b"")),
                (
                    client_facts,
                    headers.get(b"user-agent", b""),
                    headers.get(b"x-forwarded-for", b""),
                    client[0] if client else "",
                ),
            )
            if wanted:
                span.set_attributes(header_attributes(wanted, "http.request.header", _scope_header(headers)))
        return span

    def finish(span: Span, status: int, error: BaseException | None) -> None:
        """End the span with the outcome, once."""
        if span.end_ns:
            return
        try:
            if not span.recording:
                span.end()
                return
            end_ns = span.own.pop("http.response.end_ns", 0) if span.own else 0
            if error is not None and is_disconnect(error):
                span.set_attribute("autoinstr.cancelled", True)
            end_server(span, status if status.__class__ is int else 0, error, response_facts, end_ns)  # type: ignore[arg-type]
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an ASGI request", trouble)

    async def handle(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        outer = current.get()
        if (kind != "http" and kind != "websocket") or (
            outer is not None and outer.kind == SERVER and not outer.end_ns
        ):
            await app(scope, receive, send)
            return
        try:
            span = begin(scope)
        except Exception as trouble:  # Host safety: a request that we do not understand is still answered.
            fault("the start of an ASGI request", trouble)
            span = None
        if span is None:
            await app(scope, receive, send)
            return
        status = 0
        token = current.set(span)
        try:
            if span.recording:
                exchange = Exchange(send, span, finish, wanted_back, handshake_only and kind == "websocket")
                try:
                    await app(scope, receive, exchange.send)
                finally:
                    status = exchange.status
            else:
                await app(scope, receive, send)
        except BaseException as error:
            finish(span, status, error)
            raise
        else:
            finish(span, status, None)
        finally:
            try:
                current.reset(token)
            except ValueError:  # The coroutine was closed in another context than it ran in.
                pass

    return handle


def wrap_application(app: ASGIApp, tracing: Tracing, scope: str = "asgi") -> ASGIApp:
    """The application inside server spans; one that is wrapped already is returned as it is."""
    if getattr(app, "__autoinstr__", False):
        return app
    handle = make_handler(tracing, scope)

    async def traced_application(scope: Scope, receive: Receive, send: Send) -> None:
        await handle(app, scope, receive, send)

    traced_application.__wrapped__ = app  # type: ignore[attr-defined]
    traced_application.__autoinstr__ = True  # type: ignore[attr-defined]
    return traced_application


def wrap_method(tracing: Tracing, scope: str) -> Callable[[Any], Callable[..., Any]]:
    """For ``Patcher.wrap``: makes a framework's ``async def __call__(self, scope, receive, send)`` a traced one."""
    handle = make_handler(tracing, scope)

    def make(wrapped: Any) -> Callable[..., Any]:
        async def __call__(self: Any, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: N807
            await handle(wrapped.__get__(self), scope, receive, send)

        return __call__

    return make


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
