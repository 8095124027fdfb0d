"""httpx and httpx2: one span for each request that really goes out, over their own transports; headers where httpcore sends them.

Spans end when the headers of the response are in; bodies are the program's to read. Redirects and authentication are attempts of
one call. A transport of the program's own (a mock, ``ASGITransport``) sends nothing, and has no span. httpcore gets a request of
its own from httpx each time: what is added there is in no object of the program.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import (
    DEFAULT_PORTS,
    attempts,
    client_facts,
    end_client,
    excluder,
    full_url,
    header_attributes,
    needs_no_span,
    start_client,
)
from autoinstr.instrument.http_calls import Calls, reset
from autoinstr.instrument.http_client import MARKS, SIGNED_TARGET
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

#: Names of headers by which a program says itself what the callee is told, as httpcore has them.
OWN_CHOICE = frozenset(mark.strip(b"\n:") for mark in MARKS if not mark.startswith(b"\nauthorization"))


def patch_client(patcher: Patcher, tracing: Tracing) -> None:
    """``send`` is what all other methods of a client come to, once for each call."""
    scope = scope_of(patcher)
    calls = Calls(tracing, scope, look_at_url=make_excluded(tracing, scope) is not None)
    patcher.wrap("Client.send", calls.make)
    patcher.wrap("AsyncClient.send", calls.make_async)


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """The two transports that open connections."""
    sending = Sending(tracing, scope_of(patcher))
    patcher.wrap("HTTPTransport.handle_request", sending.make)
    patcher.wrap("AsyncHTTPTransport.handle_async_request", sending.make_async)


def patch_headers(patcher: Patcher, tracing: Tracing) -> None:
    """httpcore's pools, plain ones and those behind a proxy."""
    add_headers = make_add_headers(tracing)

    def make(wrapped: Any) -> Callable[..., Any]:
        def handle_request(self: Any, request: Any) -> Any:
            add_headers(request)
            return wrapped(self, request)

        return handle_request

    def make_async(wrapped: Any) -> Callable[..., Any]:
        async def handle_async_request(self: Any, request: Any) -> Any:
            add_headers(request)
            return await wrapped(self, request)

        return handle_async_request

    if hasattr(patcher.module, "ConnectionPool"):
        patcher.wrap("ConnectionPool.handle_request", make)
    else:
        patcher.wrap("AsyncConnectionPool.handle_async_request", make_async)


def scope_of(patcher: Patcher) -> str:
    """The name of the package, which is the spans' scope."""
    return patcher.module.__name__.partition(".")[0]


def make_excluded(tracing: Tracing, scope: str) -> Callable[[str], bool] | None:
    """Whether a URL is left out; what is said of httpx holds for its successor."""
    return excluder(tracing.config, scope, "httpx")


class Sending:
    """A span around a transport's one method."""

    def __init__(self, tracing: Tracing, scope: str) -> None:
        self._tracing = tracing
        self._scope = scope
        self._excluded = make_excluded(tracing, scope)
        self._response_headers = tracing.config.client_response_headers

    def begin(self, parent: Span | None, request: Any) -> Span | None:
        """The span, the one that suppresses what is below, or nothing."""
        call = attempts.get()
        resends = 0 if call is None else call.next()
        url, method = request.url, request.method
        scheme, host = url.scheme, url.host
        port = url.port or DEFAULT_PORTS.get(scheme, 0)
        target = url.raw_path.decode("ascii", "replace")
        if self._excluded is not None and self._excluded(full_url(scheme, host, port, target)):
            return SUPPRESSED
        facts = client_facts(self._tracing.conventions, method, scheme, host, port, target)
        return start_client(self._tracing, parent, self._scope, method, facts, call, resends)

    def open(self, request: Any) -> Span | None:
        """``begin`` where a span is wanted; never raises."""
        parent = current.get()
        if needs_no_span(parent, self._excluded is not None):
            return None
        try:
            return self.begin(parent, request)
        except Exception as trouble:  # Host safety: the request goes out untraced.
            fault("the start of an httpx request", trouble)
            return None

    def finish(self, span: Span, response: Any, error: BaseException | None) -> None:
        """By the headers of the response, or by what came instead."""
        try:
            status = version = None
            if response is not None:
                status = response.status_code
                version = response.extensions.get("http_version", b"").decode("ascii", "replace").partition("/")[2]
                if self._response_headers and span.recording:
                    get = response.headers.get_list
                    wanted = header_attributes(self._response_headers, "http.response.header", lambda name: get(name) or None)
                    span.set_attributes(wanted)
            end_client(span, status or 0, version or "", error, self._tracing.conventions.client_response)
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an httpx request", trouble)

    def make(self, wrapped: Any) -> Callable[..., Any]:
        """For ``handle_request``."""

        def handle_request(transport: Any, request: Any) -> Any:
            span = self.open(request)
            if span is None:
                return wrapped(transport, request)
            token = current.set(span)
            try:
                response = wrapped(transport, request)
            except BaseException as error:
                self.finish(span, None, error)
                raise
            finally:
                current.reset(token)
            self.finish(span, response, None)
            return response

        return handle_request

    def make_async(self, wrapped: Any) -> Callable[..., Any]:
        """For ``handle_async_request``."""

        async def handle_async_request(transport: Any, request: Any) -> Any:
            span = self.open(request)
            if span is None:
                return await wrapped(transport, request)
            token = current.set(span)
            try:
                response = await wrapped(transport, request)
            except BaseException as error:
                self.finish(span, None, error)
                raise
            finally:
                reset(current, token)
            self.finish(span, response, None)
            return response

        return handle_async_request


def make_add_headers(tracing: Tracing) -> Callable[[Any], None]:
    """``add_headers(request)``: adds those of the current span to a request of httpcore's; never raises."""
    may_propagate_to = tracing.conventions.may_propagate_to
    wanted = tracing.config.client_request_headers
    inject = tracing.plain.inject

    def add_headers(request: Any) -> None:
        try:
            span = current.get()
            if span is None or not span.trace_id or (span.recording and not span.leaf):
                return
            headers = request.headers
            if wanted and span.recording:
                named = header_attributes(wanted, "http.request.header", lambda name: _values(headers, name))
                span.set_attributes(named)
            if may_propagate_to is not None and not may_propagate_to(request.url.host.decode("ascii", "replace")):
                return
            if any(name.lower() in OWN_CHOICE or value[:5].lower() == b"aws4-" for name, value in headers):
                return
            if SIGNED_TARGET in request.url.target.lower():
                return
            there = {name.lower() for name, _ in headers}
            for name, value in inject(span):
                encoded = name.encode("latin-1")
                if encoded not in there:
                    headers.append((encoded, value.encode("latin-1", "replace")))
        except Exception as trouble:  # Host safety: the request goes out without our headers.
            fault("trace headers", trouble)

    return add_headers


def _values(headers: list[tuple[bytes, bytes]], name: str) -> list[str] | None:
    encoded = name.encode("latin-1")
    found = [value.decode("latin-1") for own, value in headers if own.lower() == encoded]
    return found or None
