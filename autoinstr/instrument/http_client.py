"""http.client: where headers go out for every client that is built on it, and spans for programs that use it directly.

Owns: adding the trace headers, recording those that are asked for, ``one_request`` (a span around a method that sends once).
Headers are put in where ``http.client`` writes them, so that requests, urllib and urllib3 all get them once, and no object of
the program is copied or changed.
"""

from __future__ import annotations

import sys

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import (
    DEFAULT_PORTS,
    client_facts,
    end_client,
    excluder,
    full_url,
    header_attributes,
    is_absolute,
    needs_no_span,
    split_host,
    split_url,
    start_client,
)
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

    Finish = Callable[[Span, Any, BaseException | None], None]

#: Where an open span is kept on a connection: a request and its response are two calls here. Set and read as an attribute:
#: touching an object's ``__dict__`` makes CPython build one, and all later accesses to that object slower.
SPAN = "_autoinstr_span"
#: A program that sends one of the first has decided for itself what the callee is told. The last stands for a request whose
#: headers are signed, where one more would break the signature (AWS Signature Version 4), as does this part of a target.
MARKS = (b"\ntraceparent:", b"\nuber-trace-id:", b"\nb3:", b"\nx-b3-traceid:", b"\nauthorization: aws4-")
SIGNED_TARGET = b"x-amz-signature="
VERSIONS = {9: "0.9", 10: "1.0", 11: "1.1", 20: "2"}
#: How many different sets of request headers are remembered as holding none of these.
MAX_REMEMBERED = 1024


def patch_headers(patcher: Patcher, tracing: Tracing) -> None:
    """Adds the trace headers of the current client span to what is about to be sent."""
    add_headers = make_add_headers(tracing)
    end = make_end(tracing)

    def make(wrapped: Any) -> Callable[..., Any]:
        def endheaders(self: Any, message_body: Any = None, *, encode_chunked: bool = False) -> Any:
            try:
                add_headers(self)
            except Exception as trouble:  # Host safety: the request goes out without our headers.
                fault("trace headers", trouble)
            try:
                return wrapped(self, message_body, encode_chunked=encode_chunked)
            except BaseException as error:
                end(self, error=error)
                raise

        return endheaders

    patcher.wrap("HTTPConnection.endheaders", make)


def make_add_headers(tracing: Tracing) -> Callable[[Any], None]:
    """``add_headers(connection)``: adds to the lines that a connection is about to send."""
    may_propagate_to = tracing.conventions.may_propagate_to
    wanted = tracing.config.client_request_headers
    inject, inject_lines = tracing.plain.inject, tracing.plain.inject_lines
    own_choice = make_own_choice()

    def add_headers(connection: Any) -> None:
        span = current.get()
        if span is None or not span.leaf:
            span = getattr(connection, SPAN, None) or span
        if span is None or not span.trace_id or (span.recording and not span.leaf):
            return
        buffer = connection._buffer
        if wanted and span.recording:
            lines = buffer[1:]
            span.set_attributes(header_attributes(wanted, "http.request.header", lambda name: _values(lines, name)))
        if may_propagate_to is not None and not may_propagate_to(_target_host(connection)):
            return
        if own_choice(buffer):
            return
        # One item for all of them: http.client joins its items by the same line ends.
        if not (span.baggage or span.trace_state):
            lines = inject_lines(span)
            if lines:  # An empty one would end the headers: no format is configured, or only that of baggage.
                buffer.append(lines)
            return
        head = b"\n".join(buffer).lower()
        for name, value in inject(span):
            if b"\n" + name.encode() + b":" not in head:
                buffer.append(f"{name}: {value}".encode("latin-1", "replace"))

    return add_headers


def make_own_choice() -> Callable[[list[bytes]], bool]:
    """``own_choice(lines)``: whether the program has put trace headers in itself, or has signed what it sends.

    Looking for all the marks takes longer than anything else here, and most programs send the same headers over and over, so
    headers without a mark are remembered: by their hash, since they hold passwords; without the target, which differs.
    """
    without_marks: set[int] = set()

    def own_choice(lines: list[bytes]) -> bool:
        headers = b"\n".join(lines[1:])
        known = hash(headers)
        if known not in without_marks:
            lower = b"\n" + headers.lower()
            for mark in MARKS:
                if mark in lower:
                    return True
            if len(without_marks) >= MAX_REMEMBERED:
                without_marks.clear()
            without_marks.add(known)
        return SIGNED_TARGET in lines[0].lower()

    return own_choice


def _target_host(connection: Any) -> str:
    """The host that a request is meant for, behind the proxy if there is one."""
    if connection._tunnel_host:
        return str(connection._tunnel_host)
    target = connection._buffer[0].split(b" ", 2)[1].decode("latin-1")
    if is_absolute(target):
        return split_host(split_url(target)[1].rpartition("@")[2], "")[0]
    return str(connection.host)


def _values(lines: list[bytes], name: str) -> list[str] | None:
    """The values of one header among the lines of a request."""
    prefix = name.encode("latin-1") + b":"
    found = [line[len(prefix) :].strip().decode("latin-1") for line in lines if line[: len(prefix)].lower() == prefix]
    return found or None


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Spans for direct use: from ``putrequest`` to ``getresponse``, or to the ``close`` that follows a failure in between.

    A body that the caller writes itself, with ``send``, may fail in the caller's own code (requests before 2.29 writes bodies
    in chunks so): what is seen of that is only that the connection is closed while an exception is on its way.
    """
    end, finish = make_end(tracing), make_finish(tracing)
    excluded = excluder(tracing.config, "http.client", "http_client", "httplib")
    look_at_url = excluded is not None
    conventions = tracing.conventions
    get_current = current.get

    def begin(connection: Any, parent: Span | None, method: str, target: str) -> None:
        tunnel = connection._tunnel_host
        host, port = (tunnel, connection._tunnel_port) if tunnel else (connection.host, connection.port)
        scheme = "https" if connection.default_port == DEFAULT_PORTS["https"] else "http"
        port = int(port or 0)
        if excluded is not None and excluded(full_url(scheme, host, port, target)):
            span: Span | None = SUPPRESSED
        else:
            facts = client_facts(conventions, method, scheme, host, port, target)
            span = start_client(tracing, parent, "http.client", method, facts)
        if span is not None:
            setattr(connection, SPAN, span)

    def make_putrequest(wrapped: Any) -> Callable[..., Any]:
        def putrequest(
            self: Any, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False  # noqa: FBT001, FBT002
        ) -> None:
            wrapped(self, method, url, skip_host, skip_accept_encoding)
            parent = get_current()
            if parent is not None and parent.leaf:
                return
            if not needs_no_span(parent, look_at_url):
                try:
                    end(self)  # One that was given up: its response was never asked for.
                    begin(self, parent, method, url or "/")
                except Exception as trouble:  # Host safety: the request goes out untraced.
                    fault("the start of an http.client request", trouble)

        return putrequest

    def make_getresponse(wrapped: Any) -> Callable[..., Any]:
        def getresponse(self: Any) -> Any:
            span: Span | None = getattr(self, SPAN, None)
            if span is None:
                return wrapped(self)
            delattr(self, SPAN)  # http.client may close the connection before it has returned the response.
            try:
                response = wrapped(self)
            except BaseException as error:
                finish(span, None, error)
                raise
            finish(span, response, None)
            return response

        return getresponse

    def make_close(wrapped: Any) -> Callable[..., Any]:
        def close(self: Any) -> None:
            if getattr(self, SPAN, None) is not None:
                error = sys.exc_info()[1]
                # http.client itself closes a connection whose tunnel was refused, and raises what happened afterwards.
                if error is not None and sys._getframe(1).f_globals.get("__name__") != "http.client":
                    end(self, error=error)
            wrapped(self)

        return close

    patcher.wrap("HTTPConnection.putrequest", make_putrequest)
    patcher.wrap("HTTPConnection.getresponse", make_getresponse)
    patcher.wrap("HTTPConnection.close", make_close)


def make_end(tracing: Tracing) -> Callable[..., None]:
    """``end(connection, response, error)``: ends the span that is open on a connection, if there is one."""
    finish = make_finish(tracing)

    def end(connection: Any, response: Any = None, error: BaseException | None = None) -> None:
        span: Span | None = getattr(connection, SPAN, None)
        if span is not None:
            delattr(connection, SPAN)
            finish(span, response, error)

    return end


def make_finish(tracing: Tracing) -> Finish:
    """``finish(span, response, error)``: ends a client span by a response of http.client or urllib3, or by an error."""
    describe = tracing.conventions.client_response
    wanted = tracing.config.client_response_headers

    def finish(span: Span, response: Any, error: BaseException | None) -> None:
        try:
            status = getattr(response, "status", 0)
            version = VERSIONS.get(getattr(response, "version", 0), "")
            if wanted and span.recording and response is not None:
                get = response.headers.get_all
                span.set_attributes(header_attributes(wanted, "http.response.header", lambda name: get(name) or None))
            end_client(span, status if status.__class__ is int else 0, version, error, describe)
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an HTTP request", trouble)

    return finish


def one_request(
    tracing: Tracing, begin: Callable[..., Span | None], *, look_at_url: bool
) -> Callable[[Any], Callable[..., Any]]:
    """For the method of a client that sends exactly one request: a span around it, which is the current one inside.

    ``begin(parent, self, *arguments, **keywords)`` starts it; ``None`` means that the request goes out as it is.
    """
    finish = make_finish(tracing)
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def make(wrapped: Any) -> Callable[..., Any]:
        def send(self: Any, *arguments: Any, **keywords: Any) -> Any:
            parent = get_current()
            if parent is not None and (parent.leaf or not (parent.recording or look_at_url)):  # `needs_no_span`
                return wrapped(self, *arguments, **keywords)
            try:
                span = begin(parent, self, *arguments, **keywords)
            except Exception as trouble:  # Host safety: the request goes out untraced.
                fault("the start of an HTTP request", trouble)
                span = None
            if span is None:
                return wrapped(self, *arguments, **keywords)
            token = set_current(span)
            try:
                response = wrapped(self, *arguments, **keywords)
            except BaseException as error:
                finish(span, None, error)
                raise
            finally:
                reset_current(token)
            finish(span, response, None)
            return response

        return send

    return make
