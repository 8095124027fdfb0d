"""aiohttp's client: one span for each request that really goes out, with its headers; websockets: their handshake.

A span begins when a connection is asked for and ends when the headers of the response are in, so redirects, retries on a stale
connection and middleware that tries again are attempts of one call, each with a span of its own, and what the program's
middleware and trace configurations send themselves are calls of their own. A session that is mocked sends nothing, and has none.

Nothing of the program's is touched: no trace configuration is added, and the headers are on the request only while it is being
written. Requests to a proxy (CONNECT) get none of them.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import (
    Attempts,
    attempts,
    client_facts,
    end_client,
    excluder,
    full_url,
    header_attributes,
    start_client,
)
from autoinstr.instrument.http_calls import Calls, close
from autoinstr.instrument.http_client import MARKS, SIGNED_TARGET
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

SCOPE = "aiohttp.client"
#: Names of headers by which a program says itself what the callee is told.
OWN_CHOICE = tuple(mark.strip(b"\n:").decode() for mark in MARKS if not mark.startswith(b"\nauthorization"))
SIGNED_QUERY = SIGNED_TARGET.decode()


class Call(Attempts):
    """One call to a session: request, connection and span of the attempt that is under way, and why it could not be written."""

    __slots__ = ("connection", "error", "request", "span")

    def __init__(self, owner: object, scope: str, made: int = 0, first: Span | None = None) -> None:
        super().__init__(owner, scope, made, first)
        self.request: Any = None
        self.connection: Any = None
        self.span: Span | None = None
        self.error: BaseException | None = None


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """A session's one method behind all others."""
    patcher.wrap("ClientSession._request", Sending(tracing).make_call)


def patch_connector(patcher: Patcher, tracing: Tracing) -> None:
    """Where each attempt begins."""
    patcher.wrap("BaseConnector.connect", Sending(tracing).make_connect)


def patch_request(patcher: Patcher, tracing: Tracing) -> None:
    """Where a request is written, and where the headers of its response are read."""
    patcher.wrap("ClientResponse.start", Sending(tracing).make_start)


def patch_headers(patcher: Patcher, tracing: Tracing) -> None:
    """Where the headers of a request are written."""
    patcher.wrap("ClientRequest.send", Headers(tracing).make_send)


class Sending:
    """Spans: begun by the call's attempts to connect, ended by the response or by what came instead."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._excluded = excluder(tracing.config, "aiohttp_client", "aiohttp-client", SCOPE, "aiohttp")
        self._calls = Calls(tracing, SCOPE, look_at_url=self._excluded is not None, kind=Call)
        self._response_headers = tracing.config.client_response_headers

    def begin(self, call: Call, request: Any) -> None:
        """The span of an attempt, if it is to have one; never raises."""
        try:
            self.give_up(call)  # Middleware may try again where it has given up.
            call.request = request
            call.connection = call.error = None
            resends = call.next()
            url, method = request.url, request.method
            scheme, host, port = url.scheme, url.raw_host or "", url.port or 0
            target = url.raw_path_qs
            if self._excluded is not None and self._excluded(full_url(scheme, host, port, target)):
                call.span = SUPPRESSED
                return
            facts = client_facts(self._tracing.conventions, method, scheme, host, port, target)
            call.span = start_client(self._tracing, current.get(), SCOPE, method, facts, call, resends)
        except Exception as trouble:  # Host safety: the request goes out untraced.
            fault("the start of an aiohttp request", trouble)

    def finish(self, call: Call, response: Any, error: BaseException | None) -> None:
        """End the span of the attempt that is under way."""
        span, call.span = call.span, None
        if span is None or span is SUPPRESSED:
            return
        try:
            status, version = 0, ""
            if response is not None:
                status = response.status
                if response.version is not None:
                    version = "{}.{}".format(*response.version)
                if self._response_headers and span.recording:
                    span.set_attributes(self._captured(response.headers))
            end_client(span, status, version, error, self._tracing.conventions.client_response)
        except Exception as trouble:  # Host safety: the response is the program's.
            fault("the end of an aiohttp request", trouble)

    def fail(self, call: Call, error: BaseException) -> None:
        """End it by an error. A cancellation may be aiohttp's own, by a timeout: how it ends is known further up."""
        if not is_cancellation(error):
            self.finish(call, None, error)

    def give_up(self, call: Call) -> None:
        """End an attempt of which nothing more will be heard, if there is one."""
        if call.span is not None:
            self.finish(call, None, call.error or GeneratorExit())

    def _captured(self, headers: Any) -> dict[str, Any]:
        get = headers.getall
        return header_attributes(self._response_headers, "http.response.header", lambda name: get(name, None))

    def make_call(self, wrapped: Any) -> Callable[..., Any]:
        """For ``ClientSession._request``."""
        calls = self._calls

        async def _request(session: Any, *arguments: Any, **keywords: Any) -> Any:
            opened = calls.open(session)
            if opened is None:
                return await wrapped(session, *arguments, **keywords)
            call = opened[2]
            try:
                result = await wrapped(session, *arguments, **keywords)
                if isinstance(call, Call):
                    self.give_up(call)
                return result
            except BaseException as error:
                if isinstance(call, Call):
                    self.finish(call, None, error)
                raise
            finally:
                close(*opened)

        return _request

    def make_connect(self, wrapped: Any) -> Callable[..., Any]:
        """For ``BaseConnector.connect``."""

        async def connect(connector: Any, req: Any, *arguments: Any, **keywords: Any) -> Any:
            call = attempts.get()
            if call.__class__ is not Call or self._calls.is_left_alone(current.get()):
                return await wrapped(connector, req, *arguments, **keywords)
            self.begin(call, req)
            try:
                call.connection = await wrapped(connector, req, *arguments, **keywords)
            except BaseException as error:
                self.fail(call, error)
                raise
            return call.connection

        return connect

    def make_start(self, wrapped: Any) -> Callable[..., Any]:
        """For ``ClientResponse.start``."""

        async def start(response: Any, connection: Any) -> Any:
            call = attempts.get()
            if call.__class__ is not Call or call.connection is not connection:
                return await wrapped(response, connection)
            try:
                result = await wrapped(response, connection)
            except BaseException as error:
                self.fail(call, error)
                raise
            self.finish(call, response, None)
            return result

        return start


class Headers:
    """What is sent along: the identity of the attempt's span, or of the span that the call is left alone for."""

    def __init__(self, tracing: Tracing) -> None:
        self._may_propagate_to = tracing.conventions.may_propagate_to
        self._wanted = tracing.config.client_request_headers
        self._inject = tracing.plain.inject

    def add(self, request: Any) -> list[str]:
        """Add them; the names of what was added. Never raises."""
        added: list[str] = []
        try:
            span = self._span(request)
            if span is None:
                return added
            headers = request.headers
            if self._wanted and span.recording:
                get = headers.getall
                span.set_attributes(header_attributes(self._wanted, "http.request.header", lambda name: get(name, None)))
            if self._may_propagate_to is not None and not self._may_propagate_to(request.url.raw_host or ""):
                return added
            if is_own_choice(headers, request.url.raw_query_string):
                return added
            for name, value in self._inject(span):
                if name not in headers:
                    headers[name] = value
                    added.append(name)
        except Exception as trouble:  # Host safety: the request goes out without our headers.
            fault("trace headers", trouble)
        return added

    @staticmethod
    def _span(request: Any) -> Span | None:
        """Whose identity a request carries; ``None`` where it carries none."""
        if request.method == "CONNECT":
            return None
        call = attempts.get()
        if call.__class__ is Call and call.request is request and call.span is not None:
            return call.span if call.span.trace_id else None
        span = current.get()
        if span is None or not span.trace_id or (span.recording and not span.leaf):
            return None
        return span

    def make_send(self, wrapped: Any) -> Callable[..., Any]:
        """For ``ClientRequest.send``."""

        async def send(request: Any, *arguments: Any, **keywords: Any) -> Any:
            added = self.add(request)
            try:
                return await wrapped(request, *arguments, **keywords)
            except BaseException as error:
                note_error(request, error)
                raise
            finally:
                for name in added:  # Written by now; aiohttp shows the program what it has asked for.
                    request.headers.popall(name, None)

        return send


def is_own_choice(headers: Any, query: str) -> bool:
    """Whether the program has put trace headers in itself, or has signed what it sends."""
    if SIGNED_QUERY in query.lower() or any(name in headers for name in OWN_CHOICE):
        return True
    return any(value[:5].lower() == "aws4-" for value in headers.getall("Authorization", ()))


def note_error(request: Any, error: BaseException) -> None:
    """Keep what an attempt has failed with, for it may be tried again without anybody hearing of it."""
    call = attempts.get()
    if call.__class__ is Call and call.request is request and not is_cancellation(error):
        call.error = error


def is_cancellation(error: BaseException) -> bool:
    """Whether a task was stopped, by the program or by a timeout of aiohttp's."""
    return isinstance(error, GeneratorExit) or type(error).__name__ == "CancelledError"
