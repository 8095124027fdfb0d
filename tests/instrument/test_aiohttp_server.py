"""aiohttp's server: as processes, whose every answered request is one span at the backend, and what one span says."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from autoinstr.instrument import Watcher
from autoinstr.model import Kind, Status
from autoinstr.trace import current
from fakes import until

from . import contract_server
from .contract_server import ServerContract
from .contract_server import receiver as receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from autoinstr.report import InMemoryReporter
    from autoinstr.trace import Span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

contract_server.ROUTES.setdefault("aiohttp", {"/users": "/users/{user_id}", "/fail": "/fail", "/stream": "/stream"})
contract_server.TARGETS.setdefault("aiohttp", "aiohttp_app:app")


class TestAiohttp(ServerContract):
    """``web.run_app``."""

    apps = ("aiohttp",)

    def command(self, target: str, port: int) -> list[str]:
        return [target.replace(":app", ".py"), str(port)]


class TestGunicornAiohttp(ServerContract):
    """aiohttp as a worker of gunicorn."""

    apps = ("aiohttp",)

    def command(self, target: str, port: int) -> list[str]:
        worker = "--worker-class=aiohttp.GunicornWebWorker"
        return ["gunicorn", f"--bind=127.0.0.1:{port}", "--no-control-socket", worker, target]


# ---- In this process -----------------------------------------------------------------------------


@pytest.fixture
def server(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> Callable[..., Watcher]:
    """``watch`` without the client, which is only the tests' own; the program's spans are what is left of ``reporter``."""
    return lambda **environ: watch(**{"AUTOINSTR_DISABLED_INSTRUMENTS": "aiohttp-client,headers", **environ})


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The URL at which an application, or a server without one, is served."""
    runner: Any = web.AppRunner(app) if isinstance(app, web.Application) else web.ServerRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def ask(app: Any, *paths: str, method: str = "GET", **options: Any) -> list[tuple[int, str]]:
    """What an application answers, asked for one path after the other."""

    async def work() -> list[tuple[int, str]]:
        answers = []
        async with serving(app) as url, aiohttp.ClientSession() as session:
            for path in paths:
                async with session.request(method, url + path, **options) as response:
                    answers.append((response.status, await response.text()))
        return answers

    return asyncio.run(work())


def app_with(path: str, handler: Any, **options: Any) -> web.Application:
    app = web.Application(**options)
    app.router.add_route("*", path, handler)
    return app


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello", headers={"X-Answer": "first"})


def test_describes_the_request(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The server's part of a trace is missing, is no part of the caller's, or cannot be searched by the conventions."""
    server()
    headers = {"traceparent": PARENT, "User-Agent": "tester", "X-Forwarded-For": "192.0.2.7, 10.0.0.1"}
    app = app_with("/items/{number}", hello)
    assert ask(app, "/items/caf%C3%A9%20x?page=2&token=abc", headers=headers) == [(200, "hello")]
    (span,) = reporter.spans
    assert (span.name, span.kind, span.scope) == ("GET /items/{number}", Kind.SERVER, "aiohttp.server")
    assert (span.trace_id, span.parent_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert span.status == Status.UNSET
    assert 0 < span.end_ns - span.start_ns < 10**10
    attributes = dict(span.attributes)
    assert isinstance(attributes.pop("server.port"), int)
    assert attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/items/caf%C3%A9%20x",
        "url.query": "page=2&token=REDACTED",
        "server.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.7",
        "network.peer.address": "127.0.0.1",
        "user_agent.original": "tester",
        "http.response.status_code": 200,
        "http.route": "/items/{number}",
    }


def test_handler_is_inside_its_span(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """What a handler does hangs on nothing, or on the request before on the same connection."""
    seen: list[Span | None] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(current.get())
        return web.Response()

    server()
    ask(app_with("/", handler), "/", "/", "/")
    assert [span.span_id for span in seen if span] == [span.span_id for span in reporter.spans]
    assert len({span.trace_id for span in reporter.spans}) == 3


def test_started_inside_a_span(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """All requests of a server that was started in a traced function become parts of that one trace."""
    tracer = server().tracing.tracer
    outer = tracer.start("main", Kind.SERVER)
    token = current.set(outer)
    try:
        ask(app_with("/", hello), "/")
    finally:
        current.reset(token)
    (span,) = reporter.spans
    assert span.trace_id != outer.trace_id
    assert span.parent_id == 0


@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        (RuntimeError("on purpose"), 500, "RuntimeError"),
        (asyncio.TimeoutError(), 504, "TimeoutError"),
        (web.HTTPNotFound(), 404, None),
        (web.HTTPFound("/"), 302, None),
        (web.HTTPServiceUnavailable(), 503, "503"),
    ],
)
def test_errors(
    raised: Exception, status: int, error: str | None, server: Callable[..., Watcher], reporter: InMemoryReporter
) -> None:
    """Failures look like successes, or an answer that aiohttp makes of an exception (a redirect) like a failure."""

    async def handler(request: web.Request) -> web.Response:
        raise raised

    server()
    assert [found for found, _ in ask(app_with("/a", handler), "/a", allow_redirects=False)] == [status]
    (span,) = reporter.spans
    assert span.attributes["http.response.status_code"] == status
    assert span.status == (Status.ERROR if error else Status.UNSET)
    assert str(span.attributes.get("error.type", "None")).rpartition(".")[2] == str(error)
    is_exception = error is not None and not error.isdigit()
    assert [event.name for event in span.events or ()] == ["exception"] * is_exception


def test_exception_that_the_program_handles(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """What the program's own middleware has answered for is shown as a failure, or changed."""

    @web.middleware
    async def forgive(request: web.Request, handler: Any) -> Any:
        try:
            return await handler(request)
        except LookupError:
            return web.json_response({"error": "none"}, status=404)

    async def handler(request: web.Request) -> web.Response:
        raise LookupError

    server()
    assert ask(app_with("/a", handler, middlewares=[forgive]), "/a") == [(404, '{"error": "none"}')]
    (span,) = reporter.spans
    assert (span.name, span.status, span.events) == ("GET /a", Status.UNSET, None)


def test_failure_after_the_response_has_begun(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """A stream that breaks off looks complete, or has two failures for one."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        raise RuntimeError("on purpose")

    server()
    with pytest.raises(aiohttp.ClientPayloadError):
        ask(app_with("/a", handler), "/a")
    (span,) = reporter.spans
    assert span.status == Status.ERROR
    assert span.attributes["error.type"] == "RuntimeError"
    assert [event.attributes["exception.type"] for event in span.events or ()] == ["RuntimeError"]


def test_stream_is_sent_as_it_comes(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The agent holds a stream back, or its span ends before the stream does."""

    async def work() -> None:
        released = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            await released.wait()
            await response.write(b"second")
            await response.write_eof()
            return response

        async with serving(app_with("/a", handler)) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/a") as response:
                assert await response.content.readexactly(5) == b"first"
                assert not reporter.spans
                released.set()
                assert await response.read() == b"second"
            await asyncio.to_thread(until, lambda: reporter.spans)

    server()
    asyncio.run(work())
    assert reporter.spans[0].attributes["http.response.status_code"] == 200


def test_client_that_goes_away(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Clients that hang up raise the rate of errors."""

    async def work() -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
                await asyncio.sleep(0)

        async with serving(app_with("/a", handler)) as url:
            _, _, address = url.partition("//")
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
            await reader.readexactly(1000)
            writer.transport.abort()
            await asyncio.to_thread(until, lambda: reporter.spans)

    server()
    asyncio.run(work())
    (span,) = reporter.spans
    assert span.status == Status.UNSET
    assert span.attributes["autoinstr.cancelled"] is True
    assert span.attributes["server.address"] == "shop.example"


def test_handler_that_is_cancelled(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """With ``handler_cancellation`` a request whose client has gone is never reported, or as a failure."""

    async def work() -> None:
        started = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            started.set()
            await asyncio.Event().wait()
            return web.Response()

        runner = web.AppRunner(app_with("/a", handler), handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        await started.wait()
        writer.transport.abort()
        await asyncio.to_thread(until, lambda: reporter.spans)
        await runner.cleanup()

    server()
    asyncio.run(work())
    (span,) = reporter.spans
    assert (span.status, span.attributes["autoinstr.cancelled"]) == (Status.UNSET, True)


@pytest.mark.parametrize(("setting", "ended"), [("handshake", 1), ("connection", 0)])
def test_websocket(setting: str, ended: int, server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """A websocket that is open for a day is a request of a day, or its messages are held back or changed."""

    async def work() -> None:
        async def echo(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket

        async with serving(app_with("/chat", echo)) as url, aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/chat") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                assert len(reporter.spans) == ended
            await asyncio.to_thread(until, lambda: reporter.spans)

    server(AUTOINSTR_WEBSOCKET_SPAN=setting)
    asyncio.run(work())
    (span,) = reporter.spans
    assert span.name == "GET /chat"
    assert span.attributes["http.response.status_code"] == 101
    assert span.status == Status.UNSET


def test_websocket_that_fails_later(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """What has been reported as a good handshake is changed afterwards, while it is being sent."""

    async def work() -> None:
        done = asyncio.Event()

        async def handler(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            try:
                raise RuntimeError("on purpose")
            finally:
                done.set()

        async with serving(app_with("/chat", handler)) as url, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(f"{url}/chat")
            await done.wait()
            assert (await socket.receive()).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
            await socket.close()

    server()
    asyncio.run(work())
    (span,) = reporter.spans
    assert (span.attributes["http.response.status_code"], span.status, span.events) == (101, Status.UNSET, None)


def test_routes(server: Callable[..., Watcher], reporter: InMemoryReporter, tmp_path: Path, capfd: Any) -> None:
    """Paths become operation names, of which there is no end, or routes of mounted applications lose their prefix."""
    (tmp_path / "style.css").write_text("body {}")
    inner = app_with(r"/{number:\d+}", hello)
    outer = app_with("/", hello)
    outer.router.add_static("/static", tmp_path)
    outer.add_subapp("/inner", inner)

    class View(web.View):
        async def get(self) -> web.Response:
            return web.Response(text="view")

    outer.router.add_view("/view", View)
    paths = ["/", "/inner/7", "/static/style.css", "/view", "/nowhere", "/inner/x"]
    server()
    assert [status for status, _ in ask(outer, *paths)] == [200, 200, 200, 200, 404, 404]
    names = ["GET /", r"GET /inner/{number}", "GET /static", "GET /view", "GET", "GET"]
    assert [span.name for span in reporter.spans] == names
    assert [span.attributes.get("http.route") for span in reporter.spans][-2:] == [None, None]
    assert "autoinstr:" not in capfd.readouterr().err


def test_server_without_an_application(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The lower one of aiohttp's two servers leaves no traces."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.path)

    async def work() -> None:
        async with serving(web.Server(handler)) as url, aiohttp.request("GET", f"{url}/low") as response:
            assert await response.text() == "/low"

    server()
    asyncio.run(work())
    (span,) = reporter.spans
    assert (span.name, span.attributes["url.path"]) == ("GET", "/low")


def test_request_that_cannot_be_parsed(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Port scanners fill the backend with requests of no method and no path."""

    async def work() -> bytes:
        async with serving(app_with("/", hello)) as url:
            host, _, port = url.rpartition("/")[2].partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\x16\x03\x01 what\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    server()
    assert asyncio.run(work()).startswith(b"HTTP/1.0 400")
    assert not reporter.spans


@pytest.mark.parametrize(
    ("lines", "trace_id"),
    [
        (f"traceparent: {PARENT}\r\nTraceParent: {PARENT}\r\n", None),
        ("uber-trace-id: 1:2:0:1\r\nUberctx-User: ann\r\n", 1),
        ("", None),
    ],
)
def test_headers_of_the_caller(
    lines: str, trace_id: int | None, server: Callable[..., Watcher], reporter: InMemoryReporter
) -> None:
    """Traces of callers are not joined, or those that contradict themselves are; baggage ends here."""
    baggage = []

    async def handler(request: web.Request) -> web.Response:
        span = current.get()
        baggage.append(span.baggage if span else "no span")
        return web.Response(headers={"Connection": "close"})

    async def work() -> None:
        async with serving(app_with("/", handler)) as url:
            host, _, port = url.rpartition("/")[2].partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET / HTTP/1.0\r\n{lines}\r\n".encode())
            await reader.read()
            writer.close()
            await asyncio.to_thread(until, lambda: reporter.spans)

    server()
    asyncio.run(work())
    (span,) = reporter.spans
    assert (span.trace_id == trace_id) == (trace_id is not None)
    assert span.parent_id == (2 if trace_id else 0)
    assert baggage == [{"user": "ann"} if trace_id else None]
    assert span.attributes["network.protocol.version"] == "1.0"
    assert span.attributes["server.address"] == "127.0.0.1"


def test_unsampled(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Requests of traces that are not kept fail, are kept all the same, or do not tell those below."""
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        span = current.get()
        seen.append((span.recording, span.trace_id) if span else None)
        return web.Response(text="hello")

    tracer = watch(keep=False, AUTOINSTR_DISABLED_INSTRUMENTS="aiohttp-client,headers").tracing.tracer
    headers = {"traceparent": PARENT[:-1] + "0"}
    assert ask(app_with("/", handler), "/", headers=headers) == [(200, "hello")]
    assert seen == [(False, 0x0AF7651916CD43DD8448EB211C80319C)]
    assert not reporter.spans
    assert tracer.finished_unsampled == 1


def test_settings(server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Headers that the user asked for are not recorded, or health checks that were left out are."""
    server(
        OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS="health$",
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST="x-tenant,authorization",
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE="X-Answer",
    )
    headers = {"X-Tenant": "blue", "Authorization": "Basic YTpi"}
    assert ask(app_with("/{name}", hello), "/health", "/a", headers=headers) == [(200, "hello")] * 2
    (span,) = reporter.spans
    recorded = {key: value for key, value in span.attributes.items() if ".header." in key}
    assert recorded == {"http.request.header.x-tenant": ["blue"], "http.response.header.x-answer": ["first"]}


@pytest.mark.parametrize("name", ["*", "aiohttp-server,aiohttp-client"])
def test_switched_off(name: str, server: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The switch does not work."""
    server(AUTOINSTR_DISABLED_INSTRUMENTS=name)
    assert ask(app_with("/", hello), "/") == [(200, "hello")]
    assert not reporter.spans


def test_fault_of_ours(
    server: Callable[..., Watcher], reporter: InMemoryReporter, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """An error in the agent becomes an answer 500 of the program."""
    from autoinstr.instrument.aiohttp_server import Serving

    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    server()
    for name in ("_describe", "_extract"):
        with monkeypatch.context() as patched:
            patched.setattr(Serving, name, broken)
            assert ask(app_with("/", hello), "/") == [(200, "hello")]
    assert "autoinstr: internal error in the start of an aiohttp.web request" in capfd.readouterr().err


def test_signatures(server: Callable[..., Watcher]) -> None:
    """What looks at aiohttp's methods, to override or to call them, sees other functions."""
    from aiohttp.web_protocol import RequestHandler
    from aiohttp.web_urldispatcher import UrlDispatcher

    functions = [
        (RequestHandler, "_handle_request"),
        (RequestHandler, "handle_error"),
        (UrlDispatcher, "resolve"),
        (web.WebSocketResponse, "prepare"),
    ]

    def facts() -> list[Any]:
        found = [getattr(owner, name) for owner, name in functions]
        return [(inspect.signature(one), inspect.iscoroutinefunction(one), one.__qualname__) for one in found]

    bare = facts()
    server()
    assert all(hasattr(getattr(owner, name), "__autoinstr__") for owner, name in functions)
    assert facts() == bare
