"""ASGI as the specification says it: what server and application see of us is nothing, and the span tells it all."""

from __future__ import annotations

import asyncio
import contextvars
import http
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.instrument.asgi import wrap_application
from autoinstr.model import Kind, Resource, Status
from autoinstr.trace import current
from autoinstr.wire.jaeger import CompactEncoder, decode_message

from .conftest import build_tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from autoinstr.instrument import Tracing
    from autoinstr.model import SpanData
    from autoinstr.report import InMemoryReporter

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"x"}
PART = {**BODY, "more_body": True}


def scope_of(kind: str = "http", **more: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": kind, "path": "/a", "query_string": b"", "headers": [(b"host", b"example.org")]}
    if kind == "http":
        scope["method"] = "GET"
    return {**scope, **more}


class Server:
    """The other side: remembers messages, and how many spans had been finished at each."""

    def __init__(self, reporter: InMemoryReporter, failing_at: str = "") -> None:
        self.reporter = reporter
        self.failing_at = failing_at
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        if self.failing_at and message["type"] == self.failing_at:
            raise ConnectionResetError("the client has gone")
        self.sent.append(message)


def run(app: Any, server: Server, scope: dict[str, Any] | None = None) -> None:
    asyncio.run(app(scope_of() if scope is None else scope, server.receive, server.send))


def sends(*messages: Any, after: Callable[[], Awaitable[None]] | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if after is not None:
            await after()

    return app


def the_span(reporter: InMemoryReporter) -> SpanData:
    (span,) = reporter.spans
    return span


@pytest.fixture
def server(reporter: InMemoryReporter) -> Server:
    return Server(reporter)


class TestEnd:
    """The span ends when the last message of the response has been sent, whichever that is."""

    @pytest.mark.parametrize(
        "messages",
        [
            [START, BODY],
            [START, PART, PART, {"type": "http.response.body"}],
            [{"type": "http.response.early_hint", "links": []}, START, BODY],
            [{**START, "trailers": True}, BODY, {"type": "http.response.trailers", "headers": []}],
            [
                {**START, "trailers": True},
                BODY,
                {"type": "http.response.trailers", "headers": [], "more_trailers": True},
                {"type": "http.response.trailers", "headers": []},
            ],
            [START, {"type": "http.response.pathsend", "path": "/file"}],
            [START, {"type": "http.response.debug", "info": {}}, BODY],
        ],
        ids=lambda messages: " ".join(message["type"].rpartition(".")[2] for message in messages),
    )
    def test_work_after_the_response_does_not_lengthen_it(
        self, messages: list[Any], tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """A background task of a minute would show as a response of a minute."""
        finished: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in messages:
                finished.append(len(reporter.spans))
                await send(message)
            finished.append(len(reporter.spans))

        run(wrap_application(app, tracing), server)
        assert finished == [0] * len(messages) + [1]
        assert [id(message) for message in server.sent] == [id(message) for message in messages]
        assert the_span(reporter).attributes["http.response.status_code"] == 200

    def test_background_task_after_an_error_response(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """A 5xx waits for its exception, but its duration is that of the response."""

        async def linger() -> None:
            await asyncio.sleep(0.05)

        run(wrap_application(sends({**START, "status": 503}, BODY, after=linger), tracing), server)
        span = the_span(reporter)
        assert span.status == Status.ERROR
        assert span.end_ns - span.start_ns < 50_000_000

    def test_response_that_is_never_finished(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """An application that returns early is the server's to complain about; the span ends there."""
        run(wrap_application(sends(START, PART), tracing), server)
        assert the_span(reporter).attributes["http.response.status_code"] == 200

    def test_no_response_at_all(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """The same, without a status."""
        run(wrap_application(sends(), tracing), server)
        assert "http.response.status_code" not in the_span(reporter).attributes

    @pytest.mark.parametrize(
        "odd", [None, {}, {"type": 7}, {"type": "http.response.start"}, {"type": "http.response.start", "status": "200"}], ids=repr
    )
    def test_odd_messages_are_the_servers(
        self, odd: Any, tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """The server's own error must come, and none of ours."""
        run(wrap_application(sends(odd, BODY), tracing), server)
        assert server.sent == [odd, BODY]
        assert len(reporter.spans) == 1

    def test_status_of_the_standard_library(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """``HTTPStatus.NOT_FOUND`` is a number, too."""
        run(wrap_application(sends({**START, "status": http.HTTPStatus.NOT_FOUND}, BODY), tracing), server)
        code = the_span(reporter).attributes["http.response.status_code"]
        assert code == 404
        assert type(code) is int


class TestExceptions:
    """They are the program's: the same object, on the span, whatever was answered before."""

    @pytest.mark.parametrize("before", [(), (START,), ({**START, "status": 500}, BODY)], ids=["none", "start", "all"])
    @pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)], ids=repr)
    def test_reaches_the_server_and_the_span(
        self, before: tuple[Any, ...], error: BaseException, tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """Frameworks answer 500 first and raise afterwards, for the server's log."""

        async def fail() -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            run(wrap_application(sends(*before, after=fail), tracing), server)
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        span = the_span(reporter)
        assert span.status == Status.ERROR
        assert span.attributes["error.type"] == type(error).__name__
        assert [event.name for event in span.events or ()] == ["exception"]

    def test_cancelled_by_a_disconnect_is_no_error(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Every closed event stream would count as a failure."""

        async def cancelled() -> None:
            raise asyncio.CancelledError

        async def main() -> None:
            app = wrap_application(sends(START, PART, after=cancelled), tracing)
            with pytest.raises(asyncio.CancelledError):
                await app(scope_of(), server.receive, server.send)

        asyncio.run(main())
        span = the_span(reporter)
        assert span.status == Status.UNSET
        assert not span.events
        assert "error.type" not in span.attributes

    def test_server_that_cannot_send(self, reporter: InMemoryReporter, tracing: Tracing) -> None:
        """The application hears of it from ``send`` as it does bare."""
        heard = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            try:
                await send(BODY)
            except ConnectionResetError as error:
                heard.append(error)

        run(wrap_application(app, tracing), Server(reporter, failing_at="http.response.body"))
        assert len(heard) == len(reporter.spans) == 1

    def test_coroutine_closed_elsewhere(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """At shutdown, event loops drop coroutines, which are then closed in another context than they ran in."""

        class Forever:
            def __await__(self) -> Any:
                yield

        async def wait() -> None:
            await Forever()

        app = wrap_application(sends(after=wait), tracing)
        coroutine = app(scope_of(), server.receive, server.send)
        contextvars.copy_context().run(coroutine.send, None)
        contextvars.copy_context().run(coroutine.close)
        assert the_span(reporter).status == Status.UNSET


class TestWebsocket:
    """One span for the handshake, or for the connection if so configured; never one per message."""

    ACCEPT = {"type": "websocket.accept"}
    SEND = {"type": "websocket.send", "text": "x"}
    CLOSE = {"type": "websocket.close"}

    def test_handshake_ends_with_accept(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """A connection of twelve hours would ruin the latency statistics."""
        finished = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(self.ACCEPT)
            finished.append(len(reporter.spans))
            await send(self.SEND)
            await send(self.CLOSE)

        run(wrap_application(app, tracing), server, scope_of("websocket", scheme="ws"))
        assert finished == [1]
        span = the_span(reporter)
        assert (span.name, span.kind) == ("GET", Kind.SERVER)
        assert span.attributes["http.response.status_code"] == 101
        assert span.attributes["url.scheme"] == "ws"

    def test_connection(self, server: Server, reporter: InMemoryReporter) -> None:
        """As configured: until it is closed, with what went wrong on it."""
        tracing = build_tracing(reporter, AUTOINSTR_WEBSOCKET_SPAN="connection")
        finished = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(self.ACCEPT)
            finished.append(len(reporter.spans))
            raise RuntimeError("in the conversation")

        with pytest.raises(RuntimeError):
            run(wrap_application(app, tracing), server, scope_of("websocket"))
        assert finished == [0]
        assert the_span(reporter).attributes["error.type"] == "RuntimeError"
        assert the_span(reporter).attributes["http.response.status_code"] == 101

    def test_refused(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Closed before it was accepted, which the server answers with 403 (ASGI: websocket, close)."""
        run(wrap_application(sends(self.CLOSE), tracing), server, scope_of("websocket"))
        assert the_span(reporter).attributes["http.response.status_code"] == 403

    def test_denied_with_a_response(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """ASGI's websocket denial response."""
        messages = (
            {"type": "websocket.http.response.start", "status": 401, "headers": []},
            {"type": "websocket.http.response.body", "body": b"no", "more_body": True},
            {"type": "websocket.http.response.body"},
        )
        run(wrap_application(sends(*messages), tracing), server, scope_of("websocket"))
        assert the_span(reporter).attributes["http.response.status_code"] == 401

    def test_exception_instead_of_an_answer(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Before the handshake is over, an exception is on the span."""

        async def fail() -> None:
            raise LookupError("no")

        with pytest.raises(LookupError):
            run(wrap_application(sends(after=fail), tracing), server, scope_of("websocket"))
        assert the_span(reporter).attributes["error.type"] == "LookupError"


class TestOtherScopes:
    """What is no request passes as if we were not there."""

    @pytest.mark.parametrize("kind", ["lifespan", "pubsub.message"])
    def test_same_objects_and_no_span(self, kind: str, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """A wrapper around ``send`` of lifespan can break a server's start."""
        seen: list[Any] = []

        async def app(*arguments: Any) -> None:
            seen.extend((*arguments, current.get()))

        scope = {"type": kind}
        receive, send = server.receive, server.send
        asyncio.run(wrap_application(app, tracing)(scope, receive, send))
        assert seen[0] is scope
        assert seen[1] is receive
        assert seen[2] is send
        assert seen[3] is None
        assert not reporter.spans

    def test_exception_of_lifespan(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Servers take it for "no lifespan here", by its coming out."""
        error = RuntimeError("no lifespan")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise error

        with pytest.raises(RuntimeError) as caught:
            run(wrap_application(app, tracing), server, {"type": "lifespan"})
        assert caught.value is error


class TestContext:
    """The span is current in the application and what it starts, and nowhere else."""

    def test_scope_and_receive_are_the_servers_own(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """State, extensions and subclasses depend on the identity of the scope."""
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.extend((scope, receive, current.get()))
            scope["state"] = "changed"

        scope, receive = scope_of(), server.receive
        asyncio.run(wrap_application(app, tracing)(scope, receive, server.send))
        assert seen[0] is scope
        assert seen[1] is receive
        assert seen[2] is the_span(reporter)
        assert scope["state"] == "changed"

    def test_reset_after_each_request(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Requests on one connection may share a task: each is a trace of its own."""
        app = wrap_application(sends(START, BODY), tracing)

        async def main() -> None:
            for _ in range(3):
                await app(scope_of(), server.receive, server.send)
                assert current.get() is None

        asyncio.run(main())
        assert len({span.trace_id for span in reporter.spans}) == 3

    def test_middleware_and_application_are_one_request(
        self, tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """Also where the middleware runs the application in a task of its own, as Starlette's does."""
        inner = wrap_application(sends(START, BODY), tracing, "inner")

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.ensure_future(inner(scope, receive, send))

        run(wrap_application(middleware, tracing, "outer"), server)
        assert the_span(reporter).scope == "outer"

    def test_concurrent_requests(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Each sees its own span, whatever the order of their steps."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            span = current.get()
            for message in (START, PART, BODY):
                await asyncio.sleep(0)
                assert current.get() is span
                await send(message)

        traced = wrap_application(app, tracing)

        async def main() -> None:
            await asyncio.gather(*(traced(scope_of(path=f"/{n}"), server.receive, server.send) for n in range(20)))

        asyncio.run(main())
        assert len({span.attributes["url.path"] for span in reporter.spans}) == 20

    def test_is_a_coroutine_function(self, tracing: Tracing) -> None:
        """Servers tell ASGI 3 from ASGI 2 and WSGI by this."""
        app = wrap_application(sends(), tracing)
        assert inspect.iscoroutinefunction(app)
        assert wrap_application(app, tracing) is app


class TestRequest:
    """What the span says of the request, and what no request can do."""

    def test_described_as_the_conventions_want(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Searches in Jaeger are by these names (OpenTelemetry: HTTP server spans)."""
        scope = scope_of(
            method="POST",
            scheme="https",
            http_version="2",
            path="/café x",
            query_string=b"q=1&sig=secret",
            client=("10.0.0.9", 4711),
            server=("0.0.0.0", 8443),
            headers=[
                (b"host", b"example.org:8443"),
                (b"user-agent", b"agent/1"),
                (b"x-forwarded-for", b"1.2.3.4, 10.0.0.1"),
            ],
        )
        run(wrap_application(sends(START, BODY), tracing, "server"), server, scope)
        span = the_span(reporter)
        assert (span.name, span.kind, span.scope) == ("POST", Kind.SERVER, "server")
        assert span.attributes == {
            **{name: span.attributes[name] for name in ("sampler.type", "sampler.param")},
            "http.request.method": "POST",
            "url.scheme": "https",
            "server.address": "example.org",
            "server.port": 8443,
            "network.protocol.version": "2",
            "url.path": "/caf%C3%A9%20x",
            "url.query": "q=1&sig=REDACTED",
            "client.address": "1.2.3.4",
            "network.peer.address": "10.0.0.9",
            "user_agent.original": "agent/1",
            "http.response.status_code": 200,
        }

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_joins_the_trace_of_the_caller(
        self, kind: type, tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """The point of it all."""
        header = (b"traceparent", b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
        run(wrap_application(sends(START, BODY), tracing), server, scope_of(headers=kind([header])))
        assert the_span(reporter).trace_id == 0x0123456789ABCDEF0123456789ABCDEF
        assert the_span(reporter).parent_id == 0x0123456789ABCDEF

    def test_two_traceparents_are_none(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """W3C Trace Context: more than one is invalid, so a new trace begins."""
        headers = [(b"traceparent", b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")] * 2
        run(wrap_application(sends(START, BODY), tracing), server, scope_of(headers=headers))
        assert the_span(reporter).parent_id == 0

    def test_headers_that_can_be_read_only_once(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """ASGI allows any iterable; that one reading is the application's."""
        headers = [(b"host", b"example.org"), (b"x", b"y")]
        read = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            read.extend(scope["headers"])

        run(wrap_application(app, tracing), server, scope_of(headers=iter(headers)))
        assert read == headers
        assert len(reporter.spans) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"headers": [(b"host", b"[:::]")]},
            {"headers": [(b"host", b"[::1")]},
            {"headers": [(b"host", b"\xff:99999999999")]},
            {"headers": [(b"host", b"a"), (b"host", b"b")]},
            {"headers": [(b"traceparent", b"\xff"), (b"baggage", b"=,;\xff")]},
            {"headers": [[b"list", b"pair"]]},
            {"headers": [("text", "pair")]},
            {"headers": [(b"three", b"in", b"one")]},
            {"headers": 7},
            {"headers": None, "client": None, "server": None},
            {"headers": [], "server": ("/run/socket", None)},
            {"path": "/\ud800\x00", "query_string": b"\xff=%zz"},
            {"path": None},
            {"method": None},
            {"client": [], "server": []},
            {"client": ["::1", 80]},
        ],
        ids=repr,
    )
    def test_hostile_request_is_answered_and_can_be_sent(
        self, changes: dict[str, Any], tracing: Tracing, server: Server, reporter: InMemoryReporter
    ) -> None:
        """A request that breaks the tracer must break neither the response nor the spans beside it."""
        app = wrap_application(sends(START, BODY), tracing)
        run(app, server, {**scope_of(), **changes})
        run(app, server)
        assert server.sent == [START, BODY] * 2
        payloads, unfit = CompactEncoder(Resource("service"), 65_000).encode(list(reporter.spans))
        arrived = [span for payload, _ in payloads for span in decode_message(payload).spans]
        assert len(arrived) + unfit == len(reporter.spans)
        assert "/a" in {span.attributes.get("url.path") for span in arrived}

    def test_scope_with_nothing_but_a_type(self, tracing: Tracing, server: Server, reporter: InMemoryReporter) -> None:
        """Test clients leave out even what is required."""
        run(wrap_application(sends(START, BODY), tracing), server, {"type": "http"})
        assert the_span(reporter).name == "GET"

    def test_headers_that_are_asked_for(self, server: Server, reporter: InMemoryReporter) -> None:
        """As configured; secrets never."""
        tracing = build_tracing(
            reporter,
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST="x-id,cookie",
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE="content-type",
        )
        headers = [(b"x-id", b"7"), (b"cookie", b"secret")]
        run(wrap_application(sends(START, BODY), tracing), server, scope_of(headers=headers))
        span = the_span(reporter)
        assert span.attributes["http.request.header.x-id"] == ["7"]
        assert span.attributes["http.response.header.content-type"] == ["text/plain"]
        assert "secret" not in str(span.attributes)

    def test_response_headers_that_can_be_read_only_once(self, server: Server, reporter: InMemoryReporter) -> None:
        """They are the server's to read."""
        tracing = build_tracing(
            reporter, OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE="content-type"
        )
        start = {**START, "headers": iter(START["headers"])}  # type: ignore[call-overload]
        run(wrap_application(sends(start, BODY), tracing), server)
        assert list(server.sent[0]["headers"]) == START["headers"]
        assert the_span(reporter).attributes["http.response.status_code"] == 200

    def test_excluded_request(self, server: Server, reporter: InMemoryReporter) -> None:
        """Health checks can be left out by their URL."""
        app = wrap_application(sends(START, BODY), build_tracing(reporter, OTEL_PYTHON_EXCLUDED_URLS="health"))
        run(app, server, scope_of(path="/health"))
        run(app, server, scope_of(path="/work"))
        assert the_span(reporter).attributes["url.path"] == "/work"

    def test_unsampled(self, server: Server, reporter: InMemoryReporter) -> None:
        """Nothing is recorded, the server's ``send`` is not wrapped, and the decision is there for calls downstream."""
        seen: list[Any] = []
        send = server.send

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.extend((current.get(), send))
            await send(START)
            await send(BODY)

        traced = wrap_application(app, build_tracing(reporter, keep=False))
        asyncio.run(traced(scope_of(), server.receive, send))
        assert not reporter.spans
        assert not seen[0].recording
        assert seen[1] is send


# ---- Checks of others ----------------------------------------------------------------------------


class Instance:
    """An application as an object."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was sent; accepts a socket; takes part in the lifespan."""
    if scope["type"] == "lifespan":
        for word in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{word}"
            await send({"type": f"lifespan.{word}.complete"})
    elif scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
    else:
        body, is_more = b"", True
        while is_more:
            message = await receive()
            body, is_more = body + message["body"], message.get("more_body", False)
        await send(START)
        await send({"type": "http.response.body", "body": body})


def legacy(scope: Any) -> Any:
    """ASGI 2: called twice."""

    async def instance(receive: Any, send: Any) -> None:
        await echo(scope, receive, send)

    return instance


@pytest.mark.parametrize("app", [echo, Instance(), legacy], ids=["function", "object", "legacy"])
def test_communicator_of_asgiref(app: Any, tracing: Tracing, reporter: InMemoryReporter) -> None:
    """Servers and test clients built on asgiref (Django's, Channels', daphne) would take the application for another kind."""
    compatibility = pytest.importorskip("asgiref.compatibility")
    communicator = pytest.importorskip("asgiref.testing").ApplicationCommunicator
    traced = wrap_application(compatibility.guarantee_single_callable(app), tracing)  # As servers do, before us.
    assert not compatibility.is_double_callable(traced)

    async def talk() -> None:
        http = communicator(traced, scope_of(method="POST"))
        await http.send_input({"type": "http.request", "body": b"first ", "more_body": True})
        await http.send_input({"type": "http.request", "body": b"second"})
        assert await http.receive_output() == START
        assert await http.receive_output() == {"type": "http.response.body", "body": b"first second"}
        assert await http.receive_nothing()
        await http.wait()
        socket = communicator(traced, scope_of("websocket"))
        await socket.send_input({"type": "websocket.connect"})
        assert (await socket.receive_output())["type"] == "websocket.accept"
        await socket.send_input({"type": "websocket.receive", "text": "hello"})
        assert await socket.receive_output() == {"type": "websocket.send", "text": "hello"}
        await socket.wait()
        lifespan = communicator(traced, {"type": "lifespan"})
        for word in ("startup", "shutdown"):
            await lifespan.send_input({"type": f"lifespan.{word}"})
            assert (await lifespan.receive_output())["type"] == f"lifespan.{word}.complete"
        await lifespan.wait()

    asyncio.run(talk())
    assert [span.name for span in reporter.spans][:1] == ["POST"]


def test_long_texts_are_not_held(tracing: Tracing, reporter: InMemoryReporter) -> None:
    """As for WSGI: what waits in the queue would be the whole memory."""
    long = b"/" + b"a" * 60_000
    headers = [(b"host", long), (b"user-agent", long), (b"x-forwarded-for", long)]
    app = wrap_application(sends(START, BODY), tracing)
    run(app, Server(reporter), scope_of(path=long.decode(), query_string=long, headers=headers))
    texts = [text for fact in the_span(reporter).facts for text in fact if isinstance(text, (str, bytes))]
    assert max(map(len, texts)) == tracing.config.attribute_length
