"""http.client: where headers go out for every client that is built on it, and spans for programs that use it directly.

Headers are put in where ``http.client`` writes them, so that requests, urllib and urllib3 all get them once, and no object of
the program is copied or changed.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import DEFAULT_PORTS, end_client, excluder, full_url, start_client
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

#: Where an open span is kept on a connection: a request and its response are two calls here. Set and read as an attribute:
#: touching an object's ``__dict__`` makes CPython build one, and all later accesses to that object slower.
SPAN = "_autoinstr_span"
#: A program that sends one of these has decided for itself what the callee is told.
IDENTIFYING = (b"\ntraceparent:", b"\nuber-trace-id:", b"\nb3:", b"\nx-b3-traceid:")
#: Requests whose headers are signed, where one more would break the signature (AWS Signature Version 4).
SIGNED = (b"\nauthorization: aws4-hmac", b"x-amz-signature=")
VERSIONS = {9: "0.9", 10: "1.0", 11: "1.1", 20: "2"}


def patch_headers(patcher: Patcher, tracing: Tracing) -> None:
    """Adds the trace headers of the current client span to what is about to be sent."""
    conventions = tracing.conventions
    everywhere = conventions.may_propagate_to_all
    inject = tracing.plain.inject

    def add_headers(connection: Any) -> None:
        span = current.get()
        if span is None or not span.leaf:
            span = getattr(connection, SPAN, None) or span
        if span is None or not span.trace_id or (span.recording and not span.leaf):
            return
        if not everywhere and not conventions.may_propagate_to(connection._tunnel_host or connection.host):  # noqa: SLF001
            return
        buffer = connection._buffer  # noqa: SLF001
        head = b"\n".join(buffer).lower()
        for mark in IDENTIFYING:
            if mark in head:
                return
        for mark in SIGNED:
            if mark in head:
                return
        for name, value in inject(span):
            line = f"{name}: {value}".encode("latin-1", "replace")
            if b"\n" + line[: len(name) + 1] not in head:
                buffer.append(line)

    def make(wrapped: Any) -> Callable[..., Any]:
        def endheaders(self: Any, *arguments: Any, **keywords: Any) -> Any:
            try:
                add_headers(self)
            except Exception as trouble:  # Host safety: the request goes out without our headers.
                fault("trace headers", trouble)
            try:
                return wrapped(self, *arguments, **keywords)
            except BaseException as error:
                end(self, error=error)
                raise

        return endheaders

    end = make_end(tracing)
    patcher.wrap("HTTPConnection.endheaders", make)


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Spans for direct use: from ``putrequest`` to ``getresponse``."""
    end = make_end(tracing)
    excluded = excluder(tracing.config, "http.client", "httplib")

    def begin(connection: Any, method: str, target: str) -> None:
        end(connection)  # One that was given up: its response was never asked for.
        conventions = tracing.conventions
        parent = current.get()
        if parent is not None and (parent.leaf or not parent.recording):
            return
        scheme = "https" if connection.default_port == DEFAULT_PORTS["https"] else "http"
        host = connection._tunnel_host or connection.host  # noqa: SLF001
        port = (connection._tunnel_port if connection._tunnel_host else connection.port) or 0  # noqa: SLF001
        if excluded is not None and excluded(full_url(scheme, host, port, target)):
            return
        facts = ((conventions.client_request, method, scheme, host, port), (conventions.client_url, scheme, host, port, target))
        span = start_client(tracing, "http.client", method, facts)
        if span is not None:
            setattr(connection, SPAN, span)

    def make_putrequest(wrapped: Any) -> Callable[..., Any]:
        def putrequest(self: Any, *arguments: Any, **keywords: Any) -> Any:
            result = wrapped(self, *arguments, **keywords)
            parent = current.get()
            if parent is None or not parent.leaf:
                try:
                    begin(self, *_method_and_target(*arguments, **keywords))
                except Exception as trouble:  # Host safety: the request goes out untraced.
                    fault("the start of an http.client request", trouble)
            return result

        return putrequest

    def make_getresponse(wrapped: Any) -> Callable[..., Any]:
        def getresponse(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if getattr(self, SPAN, None) is None:
                return wrapped(self, *arguments, **keywords)
            try:
                response = wrapped(self, *arguments, **keywords)
            except BaseException as error:
                end(self, error=error)
                raise
            end(self, response)
            return response

        return getresponse

    patcher.wrap("HTTPConnection.putrequest", make_putrequest)
    patcher.wrap("HTTPConnection.getresponse", make_getresponse)


def make_end(tracing: Tracing) -> Callable[..., None]:
    """``end(connection, response, error)``: ends the span that is open on a connection, if there is one."""
    describe = tracing.conventions.client_response

    def end(connection: Any, response: Any = None, error: BaseException | None = None) -> None:
        span: Span | None = getattr(connection, SPAN, None)
        if span is not None:
            delattr(connection, SPAN)
            finish(span, response, error, describe)

    return end


def finish(span: Span, response: Any, error: BaseException | None, describe: Any) -> None:
    """End a client span by an ``HTTPResponse`` of http.client or urllib3, or by an error."""
    try:
        status = getattr(response, "status", 0)
        version = VERSIONS.get(getattr(response, "version", 0), "")
        end_client(span, status if status.__class__ is int else 0, version, error, describe)
    except Exception as trouble:  # Host safety: the response is the program's.
        fault("the end of an HTTP request", trouble)


def _method_and_target(method: str, url: str, *_: Any, **__: Any) -> tuple[str, str]:
    return method, url or "/"
