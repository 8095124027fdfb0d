"""aiohttp's client, and what is particular to it: trace configurations, middleware, retries, websockets."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import pytest
from aiohttp import web

from autoinstr.model import Kind, Status
from autoinstr.trace import current
from fakes import until

from .contract_client import USER_PARENT, Answer, ClientContract, below
from .loop import Loop
from .origin import FAILURES

if TYPE_CHECKING:
    from autoinstr.instrument import Watcher
    from autoinstr.trace import Span

    from .origin import Server

T = TypeVar("T")
DEADLINE_S = 20

needs_new_client = pytest.mark.skipif(
    not hasattr(aiohttp, "ClientHandlerType"), reason="aiohttp before 3.12 has no client middleware, and does not try again"
)


class Content:
    """A response as a file."""

    def __init__(self, response: aiohttp.ClientResponse, run: Callable[[Any], Any]) -> None:
        self.read = lambda size: run(response.content.readexactly(size))
        self.close = response.close


async def piecewise(body: Iterator[bytes]) -> AsyncIterator[bytes]:
    """An iterator of the contract's, as one that is async."""
    for piece in body:
        yield piece


class TestAiohttp(ClientContract):
    """The contract, with sessions in an event loop that all tests' threads share."""

    scope = "aiohttp.client"
    unreachable = frozenset({"ClientConnectorError", "ClientConnectorDNSError", "ClientConnectorCertificateError"})
    #: aiohttp has a timeout of its own.
    test_default_timeout_is_respected = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def loop(self, servers: None) -> None:
        loop = Loop()
        self.closing.callback(loop.close)
        self.run = loop.run

    @contextlib.contextmanager
    def session(self, **options: Any) -> Iterator[aiohttp.ClientSession]:
        async def make() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(**options)

        session = self.run(make())
        try:
            yield session
        finally:
            self.run(session.close())

    async def fetch(self, session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Answer:
        async with session.request(method, url, **options) as response:
            return Answer(response.status, await response.read())

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        if headers and "Transfer-Encoding" in headers:
            headers = {name: value for name, value in headers.items() if name != "Transfer-Encoding"}
        data = piecewise(body) if hasattr(body, "__next__") else body
        limit = aiohttp.ClientTimeout(total=timeout or DEADLINE_S)
        with self.session() as session:
            return self.run(self.fetch(session, method, url, headers=headers, data=data, timeout=limit))

    def open(self, url: str) -> Any:
        session = self.closing.enter_context(self.session())
        return Content(self.run(session._request("GET", url)), self.run)

    @staticmethod
    def trust(certificate: str | None) -> Any:
        return ssl.create_default_context(cafile=certificate) if certificate else True

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        with self.session() as session:
            return self.run(self.fetch(session, "GET", url, ssl=self.trust(certificate)))

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        with self.session() as session:
            return self.run(self.fetch(session, "GET", url, proxy=proxy, ssl=self.trust(certificate)))

    def shared_sender(self) -> Callable[[str], Answer]:
        session = self.closing.enter_context(self.session())
        return lambda url: self.run(self.fetch(session, "GET", url))

    @pytest.mark.parametrize("name", ["*", "requests,aiohttp-client,headers"])
    def test_switched_off(self, watch: Callable[..., Watcher], name: str) -> None:
        """The switch does not work."""
        super().test_switched_off(watch, name)

    def test_headers_switched_off(self, watch: Callable[..., Watcher]) -> None:
        """Who wants no headers sent loses the spans, too, or they never end."""
        with below(watch(AUTOINSTR_DISABLED_INSTRUMENTS="headers")):
            self.send("GET", self.url("/redirect/1"))
        assert [span.attributes["http.response.status_code"] for span in self.reporter.spans] == [302, 200]
        assert [request.trace for request in self.origin.received] == [None, None]

    def test_body_that_fails(self, watch: Callable[..., Watcher]) -> None:
        """An exception in the program's own generator, of which aiohttp makes one of its own, is not to be found."""

        def body() -> Iterator[bytes]:
            yield b"one"
            raise LookupError("own trouble")

        (span,) = self.fails_as_bare(watch, lambda: self.send("POST", self.url("/failing"), {}, body()))
        assert span.status == Status.ERROR
        assert span.attributes["error.type"].rpartition(".")[2] in {"ClientConnectionError", "ServerDisconnectedError"}
        assert "own trouble" in span.events[0].attributes["exception.stacktrace"]

    def test_password_in_the_url(self, watch: Callable[..., Watcher]) -> None:
        """Passwords in URLs can be read by everybody who can read traces, or are not sent."""
        watch()
        self.send("GET", f"http://ann:secret@127.0.0.1:{self.origin.port}/a")
        assert "secret" not in str(self.the_span().attributes)
        assert self.origin.received[0].value("authorization") == "Basic YW5uOnNlY3JldA=="

    def test_script_has_one_trace_for_one_call(self, watch: Callable[..., Watcher]) -> None:
        """In a script, without a span around it, each hop of a redirect is a trace of its own, or drawn for anew."""
        watcher = watch()
        self.send("GET", self.url("/redirect/2"))
        assert len({span.trace_id for span in self.reporter.spans}) == 1
        assert len(self.reporter.spans) == 3
        tracer = watcher.tracing.tracer
        assert (tracer.roots_sampled, tracer.joined_sampled) == (1, 2)

    def test_script_that_is_not_sampled(self, watch: Callable[..., Watcher]) -> None:
        """Where no trace is kept, each hop of a redirect is drawn for anew, or counted as a trace."""
        tracer = watch(keep=False).tracing.tracer
        self.send("GET", self.url("/redirect/2"))
        assert (tracer.roots_unsampled, tracer.joined_unsampled, tracer.finished_unsampled) == (1, 0, 1)
        assert len({request.trace for request in self.origin.received}) == 1

    def test_call_that_sends_nothing_is_no_trace(self, watch: Callable[..., Watcher]) -> None:
        """With URLs that are wrong the counts of started and finished spans drift apart, and spans seem to be lost."""
        tracer = watch().tracing.tracer
        with pytest.raises(aiohttp.InvalidURL):
            self.send("GET", "http://")
        assert tracer.roots_sampled == 0
        assert not self.reporter.spans

    def test_tunnel_of_a_trace_that_is_not_kept(
        self, watch: Callable[..., Watcher], second: Server, secure: Server, certificate: str
    ) -> None:
        """The proxy is told of the trace, whose business it is not."""
        with below(watch(keep=False)) as parent:
            assert self.send_by_proxy(f"{secure.url}/a", second.url, certificate).status == 200
        assert secure.received[0].trace == (parent.trace_id, parent.span_id, 0)
        assert [(request.method, request.trace) for request in second.received] == [("CONNECT", None)]

    def test_timeout_while_waiting_for_a_connection(self, watch: Callable[..., Watcher]) -> None:
        """A pool that is exhausted, which is how many outages look, is shown as calls that somebody has cancelled."""

        async def work() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
                held = await session._request("GET", self.url("/held"))
                with pytest.raises(asyncio.TimeoutError):
                    await session._request("GET", self.url("/a"), timeout=aiohttp.ClientTimeout(total=0.1))
                held.close()

        with below(watch()):
            self.run(work())
        _, span = self.reporter.spans
        assert span.attributes["url.full"] == self.url("/a")
        assert span.status == Status.ERROR
        assert str(span.attributes["error.type"]).rpartition(".")[2] == "TimeoutError"

    def test_call_of_another_library_inside(self, watch: Callable[..., Watcher]) -> None:
        """What a library with spans of its own sends meanwhile is taken for the request that is under way."""
        watcher = watch()
        tracer = watcher.tracing.tracer
        inner: list[Span] = []

        async def look_up(session: Any, context: Any, params: Any) -> None:
            span = tracer.start("look up", Kind.CLIENT, current.get())
            span.leaf = True
            inner.append(span)
            token = current.set(span)
            try:
                async with aiohttp.ClientSession() as other:
                    await self.fetch(other, "GET", self.url("/inner"))
            finally:
                current.reset(token)

        config = aiohttp.TraceConfig()
        config.on_connection_create_start.append(look_up)
        with self.session(trace_configs=[config]) as session, below(watcher):
            self.run(self.fetch(session, "GET", self.url("/outer")))
        span = self.the_span()
        assert span.attributes["url.full"] == self.url("/outer")
        traces = {request.target: request.trace for request in self.origin.received}
        assert traces == {
            "/inner": (inner[0].trace_id, inner[0].span_id, 1), "/outer": (span.trace_id, span.span_id, 1)
        }

    def test_what_the_program_sees(self, watch: Callable[..., Watcher]) -> None:
        """Trace configurations of the program are not called, are called twice, or see one of ours."""
        seen = []

        async def note(session: Any, context: Any, params: Any) -> None:
            seen.append((type(params).__name__, "traceparent" in getattr(params, "headers", {})))

        config = aiohttp.TraceConfig()
        for signal in (config.on_request_start, config.on_request_redirect, config.on_request_end):
            signal.append(note)

        async def work() -> None:
            async with aiohttp.ClientSession(trace_configs=[config]) as session:
                assert session.trace_configs == [config]
                async with session.get(self.url("/redirect/1"), headers={"X-Own": "1"}) as response:
                    assert "X-Own" in response.request_info.headers
                    assert "traceparent" not in response.request_info.headers
                    assert "traceparent" not in response.history[0].request_info.headers

        with below(watch()):
            self.run(work())
        assert seen == [
            ("TraceRequestStartParams", False), ("TraceRequestRedirectParams", False), ("TraceRequestEndParams", False)
        ]
        assert all(request.trace for request in self.origin.received)

    def test_own_header_of_a_session(self, watch: Callable[..., Watcher]) -> None:
        """A header that was set on the session for all requests is doubled, or replaced."""
        with self.session(headers={"traceparent": USER_PARENT}) as session, below(watch()):
            self.run(self.fetch(session, "GET", self.url("/redirect/1")))
        assert [request.value("traceparent") for request in self.origin.received] == [USER_PARENT] * 2

    @needs_new_client
    def test_middleware(self, watch: Callable[..., Watcher]) -> None:
        """Middleware that tries again has one span for all tries, or the headers of the first; what it sends itself has none."""
        session: aiohttp.ClientSession

        async def retrying(request: Any, handler: Any) -> Any:
            if request.url.path == "/token":
                return await handler(request)
            await self.fetch(session, "GET", self.url("/token"))
            while True:
                response = await handler(request)
                if response.status != 503:
                    return response
                response.release()

        assert FAILURES == 2
        with self.session(middlewares=(retrying,)) as session, below(watch()) as parent:
            assert self.run(self.fetch(session, "GET", self.url("/flaky"))).status == 200
        told = [
            (str(span.attributes["url.full"]).rpartition("/")[2], span.attributes.get("http.request.resend_count"))
            for span in self.reporter.spans
        ]
        assert told == [("token", None), ("flaky", None), ("flaky", 1), ("flaky", 2)]
        assert {span.parent_id for span in self.reporter.spans} == {parent.span_id}
        assert [request.trace for request in self.origin.received] == [
            (span.trace_id, span.span_id, 1) for span in self.reporter.spans
        ]

    @needs_new_client
    def test_middleware_that_gives_up(self, watch: Callable[..., Watcher]) -> None:
        """A try that middleware has given up is never reported, or its time is that of the next."""

        async def impatient(request: Any, handler: Any) -> Any:
            try:
                return await asyncio.wait_for(handler(request), 0.1)
            except asyncio.TimeoutError:
                request.url = request.url.with_path("/second")
                return await handler(request)

        with self.session(middlewares=(impatient,)) as session, below(watch()):
            assert self.run(self.fetch(session, "GET", self.url("/silent"))).status == 200
        first, second = self.reporter.spans
        assert "http.response.status_code" not in first.attributes
        assert second.attributes["http.request.resend_count"] == 1
        assert second.attributes["url.full"] == self.url("/second")

    @needs_new_client
    def test_middleware_that_answers_itself(self, watch: Callable[..., Watcher]) -> None:
        """A try that was given up for another answer is never reported."""

        async def replacing(request: Any, handler: Any) -> Any:
            if request.url.path == "/second":
                return await handler(request)
            try:
                return await asyncio.wait_for(handler(request), 0.1)
            except asyncio.TimeoutError:
                return await session._request("GET", self.url("/second"))

        with self.session(middlewares=(replacing,)) as session, below(watch()):
            assert self.run(self.fetch(session, "GET", self.url("/silent"))).status == 200
        told = [
            (span.attributes["url.full"], span.attributes.get("http.response.status_code")) for span in self.reporter.spans
        ]
        assert told == [(self.url("/second"), 200), (self.url("/silent"), None)]

    @needs_new_client
    def test_request_that_cannot_be_written(self, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch) -> None:
        """aiohttp sends again where a connection breaks as it is written to, and why does not show."""
        write_headers = aiohttp.http.StreamWriter.write_headers
        failures = [aiohttp.ClientOSError(104, "gone")]

        async def broken(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            await write_headers(*arguments)

        monkeypatch.setattr(aiohttp.http.StreamWriter, "write_headers", broken)
        with below(watch()):
            assert self.send("GET", self.url()).status == 200
        failed, again = self.reporter.spans
        assert failed.attributes["error.type"] == "aiohttp.client_exceptions.ClientOSError"
        assert again.attributes["http.request.resend_count"] == 1
        assert self.origin.received[0].trace == (again.trace_id, again.span_id, 1)

    @needs_new_client
    def test_connection_that_was_closed_meanwhile(self, watch: Callable[..., Watcher]) -> None:
        """aiohttp sends again where the server has closed an idle connection; the first try looks like the second."""
        answered = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answered)
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")  # The second request is read, and left without an answer.
            writer.close()

        async def work() -> None:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with server, aiohttp.ClientSession() as session:
                assert (await self.fetch(session, "GET", url)).status == 200
                assert (await self.fetch(session, "GET", url)).status == 200

        with below(watch()):
            self.run(work())
        _, failed, again = self.reporter.spans
        assert failed.attributes["error.type"] == "aiohttp.client_exceptions.ServerDisconnectedError"
        assert "http.request.resend_count" not in failed.attributes
        assert again.attributes["http.response.status_code"] == 200
        assert again.attributes["http.request.resend_count"] == 1

    def test_many_at_once(self, watch: Callable[..., Watcher]) -> None:
        """``gather`` gives requests the spans of others, or those of redirects as parents."""
        watcher = watch()

        async def one(session: aiohttp.ClientSession, number: int) -> int:
            with below(watcher) as parent:
                assert (await self.fetch(session, "GET", self.url(f"/redirect/1?{number}"))).status == 200
                return parent.trace_id

        async def work(session: aiohttp.ClientSession) -> list[int]:
            return list(await asyncio.gather(*[one(session, number) for number in range(20)]))

        with self.session() as session:
            traces = self.run(work(session))
        spans = {span.span_id: span for span in self.reporter.spans}
        assert sorted([*traces, *traces]) == sorted(span.trace_id for span in spans.values())
        assert len(spans) == 40
        for request in self.origin.received:
            assert request.trace is not None
            span = spans[request.trace[1]]
            assert span.attributes["url.full"] == self.url(request.target)
            assert span.attributes.get("http.request.resend_count") == (1 if request.target == "/redirect/0" else None)

    def test_cancelled(self, watch: Callable[..., Watcher]) -> None:
        """A call that the program gives up looks like a failure of the callee, or is never reported."""

        async def work() -> None:
            async with aiohttp.ClientSession() as session:
                task = asyncio.ensure_future(self.fetch(session, "GET", self.url("/silent")))
                await asyncio.to_thread(until, lambda: self.origin.received)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        with below(watch()):
            self.run(work())
        span = self.the_span()
        assert span.status == Status.UNSET
        assert "http.response.status_code" not in span.attributes
        assert not span.events

    def test_websocket(self, watch: Callable[..., Watcher]) -> None:
        """A websocket has no span, one that lasts as long as the connection, or its messages are changed."""

        async def echo(request: web.Request) -> web.WebSocketResponse:
            received.append(request.headers.get("traceparent"))
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket

        async def work() -> None:
            app = web.Application()
            app.router.add_get("/chat", echo)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://127.0.0.1:{port}/chat") as socket:
                assert [span.scope for span in self.reporter.spans][-1:] == ["aiohttp.client"]
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
            await runner.cleanup()

        received: list[Any] = []
        with below(watch(AUTOINSTR_DISABLED_INSTRUMENTS="aiohttp-server")):
            self.run(work())
        span = self.the_span()
        assert span.name == "GET"
        assert span.attributes["http.response.status_code"] == 101
        assert received == [f"00-{span.trace_id:032x}-{span.span_id:016x}-03"]

    def test_signatures(self, watch: Callable[..., Watcher]) -> None:
        """What looks at the client's methods, to mock or to call them, sees other functions."""
        functions = [
            (aiohttp.ClientSession, "_request"),
            (aiohttp.BaseConnector, "connect"),
            (aiohttp.ClientRequest, "send"),
            (aiohttp.ClientResponse, "start"),
        ]

        def facts() -> list[Any]:
            found = [getattr(owner, name) for owner, name in functions]
            return [(inspect.signature(one), inspect.iscoroutinefunction(one), one.__qualname__) for one in found]

        bare = facts()
        watch()
        assert all(hasattr(getattr(owner, name), "__autoinstr__") for owner, name in functions)
        assert facts() == bare
