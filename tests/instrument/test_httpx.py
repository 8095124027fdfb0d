"""httpx and httpx2, plain and async, and what is particular to them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import httpx
import pytest

from autoinstr.model import Status
from fakes import until
from ports import free_port

from .apps import plain_asgi
from .contract_client import Answer, ClientContract, below
from .loop import Loop
from .origin import FAILURES

if TYPE_CHECKING:
    from autoinstr.instrument import Watcher

T = TypeVar("T")
DEADLINE_S = 20
#: For requests without TLS: to read the system's certificates takes longer than all the rest.
QUICK = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Modern(contextlib.AbstractContextManager["Modern"]):
    """A server that speaks HTTP/2, over TLS; notes the headers of what it receives."""

    def __init__(self, certificate: str) -> None:
        from hypercorn.config import Config

        self.received: list[list[tuple[bytes, bytes]]] = []
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._config = Config()
        self._config.bind = [f"127.0.0.1:{self.port}"]
        self._config.certfile = self._config.keyfile = certificate
        self._config.alpn_protocols = ["h2"]
        self._config.errorlog = None

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.received.append(list(scope["headers"]))
            await plain_asgi.app(scope, receive, send)

    def __enter__(self) -> Modern:  # noqa: PYI034 - Python 3.10 has no Self
        from hypercorn.asyncio import serve

        self._loop = Loop()
        self._end = asyncio.Event()
        serving = serve(self._app, self._config, shutdown_trigger=self._end.wait)
        self._served = asyncio.run_coroutine_threadsafe(serving, self._loop.loop)
        until(self._listens, "the server's start")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_: object) -> None:
        self._loop.loop.call_soon_threadsafe(self._end.set)
        self._served.result(DEADLINE_S)
        self._loop.close()


class Chunks:
    """A response as a file, from the chunks that the client gives."""

    def __init__(self, chunk: Callable[[], bytes], close: Callable[[], object]) -> None:
        self._chunk = chunk
        self.close = close

    def read(self, size: int) -> bytes:
        return self._chunk()[:size]


async def piecewise(body: Iterator[bytes]) -> AsyncIterator[bytes]:
    """An iterator of the contract's, as one that is async."""
    for piece in body:
        yield piece


class HTTPX(ClientContract):
    """What holds for both packages, plain and async."""

    library: ClassVar[Any] = httpx
    scope = "httpx"
    unreachable = frozenset({"ConnectError"})
    #: httpx has a timeout of its own.
    test_default_timeout_is_respected = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def no_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """httpx would take them, and netrc, from the environment."""
        monkeypatch.setenv("NO_PROXY", "*")

    @staticmethod
    def answer(response: Any) -> Answer:
        return Answer(response.status_code, response.content)

    #: ``call(url, **options)``: GET with a client that is made with these options.
    call: Callable[..., Any]

    @staticmethod
    def trust(certificate: str | None) -> Any:
        return ssl.create_default_context(cafile=certificate) if certificate else True

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        return self.answer(self.call(url, verify=self.trust(certificate)))

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        return self.answer(self.call(url, proxy=proxy, verify=self.trust(certificate)))

    def test_timeout(self, watch: Callable[..., Watcher]) -> None:
        """A call that was given up after its timeout does not show, or the timeout is no longer respected."""
        (span,) = self.fails_as_bare(watch, lambda: self.send("GET", self.url("/silent"), timeout=0.1))
        assert span.status == Status.ERROR
        assert span.attributes["error.type"] == f"{self.scope}.ReadTimeout"

    @pytest.mark.parametrize("name", ["*", "requests,httpx,httpx2,headers"])
    def test_switched_off(self, watch: Callable[..., Watcher], name: str) -> None:
        """The switch does not work."""
        super().test_switched_off(watch, name)

    def test_password_in_the_url(self, watch: Callable[..., Watcher]) -> None:
        """Passwords in URLs can be read by everybody who can read traces, or are not sent."""
        watch()
        self.send("GET", f"http://ann:secret@127.0.0.1:{self.origin.port}/a")
        assert "secret" not in str(self.the_span().attributes)
        assert self.origin.received[0].value("authorization") == "Basic YW5uOnNlY3JldA=="

    def test_authentication_that_asks_again(self, watch: Callable[..., Watcher]) -> None:
        """A second request that authentication sends is not shown as one of the same call, or has the first one's headers."""

        class Auth(self.library.Auth):  # type: ignore[name-defined,misc]
            def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
                response = yield request
                assert response.status_code == 401
                request.url = request.url.copy_with(path="/authenticated")
                yield request

        with below(watch()):
            assert self.call(self.url("/status/401"), auth=Auth()).status_code == 200
        first, second = self.reporter.spans
        assert first.status == Status.ERROR
        assert "http.request.resend_count" not in first.attributes
        assert second.attributes["http.request.resend_count"] == 1
        assert [request.trace for request in self.origin.received] == [
            (span.trace_id, span.span_id, 1) for span in (first, second)
        ]

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

    def test_headers_of_the_program_are_untouched(self, watch: Callable[..., Watcher]) -> None:
        """The request that a response shows, and that recorders of test traffic keep, has headers which nobody wrote."""
        with below(watch()):
            response = self.call(self.url("/redirect/1"))
        assert "traceparent" not in response.request.headers
        assert "traceparent" not in response.history[0].request.headers
        assert all(request.trace for request in self.origin.received)

    def test_http2(self, watch: Callable[..., Watcher], certificate: str) -> None:
        """Over HTTP/2 there are no headers, or the protocol is told wrongly."""
        with Modern(certificate) as server, below(watch()):
            response = self.call(f"{server.url}/users/7", http2=True, verify=self.trust(certificate))
            assert (response.text, response.http_version) == ("hello 7", "HTTP/2")
        span = self.the_span()
        assert span.attributes["network.protocol.version"] == "2"
        (headers,) = server.received
        names = [name for name, _ in headers]
        assert names.count(b"traceparent") == names.count(b"uber-trace-id") == 1
        assert dict(headers)[b"traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-03".encode()

    def test_own_mock(self, watch: Callable[..., Watcher]) -> None:
        """Tests of the program, with mocks that send nothing, get spans of requests that never were."""
        watcher = watch()
        seen = []

        def respond(request: Any) -> Any:
            seen.append(sorted(request.headers))
            return self.library.Response(200, text="made up")

        transport = self.library.MockTransport(respond)
        assert self.call("http://nowhere.invalid/", transport=transport).text == "made up"
        assert not self.reporter.spans
        assert watcher.tracing.tracer.roots_sampled == 0
        assert "traceparent" not in seen[0]

    def test_signatures(self, watch: Callable[..., Watcher]) -> None:
        """What looks at the client's methods, to mock or to call them, sees other functions."""
        module = importlib.import_module(f"{self.scope}._transports.default")
        functions = [
            (self.library.Client, "send"),
            (self.library.AsyncClient, "send"),
            (module.HTTPTransport, "handle_request"),
            (module.AsyncHTTPTransport, "handle_async_request"),
        ]

        def facts() -> list[Any]:
            found = [getattr(owner, name) for owner, name in functions]
            return [(inspect.signature(one), inspect.iscoroutinefunction(one), one.__qualname__) for one in found]

        bare = facts()
        watch()
        assert all(hasattr(getattr(owner, name), "__autoinstr__") for owner, name in functions)
        assert facts() == bare


class Plain(HTTPX):
    """``Client``."""

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        with self.library.Client(follow_redirects=True, verify=QUICK) as client:
            return self.answer(client.request(method, url, headers=headers, content=body, timeout=timeout or DEADLINE_S))

    def call(self, url: str, **options: Any) -> Any:
        with self.library.Client(follow_redirects=True, **options) as client:
            return client.get(url)

    def open(self, url: str) -> Any:
        client = self.closing.enter_context(self.library.Client())
        response = self.closing.enter_context(client.stream("GET", url))
        chunks = response.iter_raw()
        return Chunks(lambda: next(chunks), response.close)

    def shared_sender(self) -> Callable[[str], Answer]:
        client = self.closing.enter_context(self.library.Client())
        return lambda url: self.answer(client.get(url))

    def test_call_inside_a_hook(self, watch: Callable[..., Watcher]) -> None:
        """A call of its own that a hook makes, with the same client, is taken for a retry of the one that it watches."""

        def tell(response: Any) -> None:
            if "/told" not in str(response.url):
                client.get(self.url("/told"))

        with self.library.Client(follow_redirects=True, event_hooks={"response": [tell]}) as client, below(watch()):
            client.get(self.url("/redirect/1"))
        counts = [
            (str(span.attributes["url.full"]).rpartition("/")[2], span.attributes.get("http.request.resend_count"))
            for span in self.reporter.spans
        ]
        assert counts == [("1", None), ("told", None), ("0", 1), ("told", None)]

    def test_retry_by_the_program(self, watch: Callable[..., Watcher]) -> None:
        """A transport around the library's own, which most programs use to try again, has no spans, or one for all tries."""
        library = self.library

        class Retrying(library.BaseTransport):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                self.inner = library.HTTPTransport()

            def handle_request(self, request: Any) -> Any:
                while True:
                    response = self.inner.handle_request(request)
                    if response.status_code != 503:
                        return response
                    response.close()

            def close(self) -> None:
                self.inner.close()

        assert FAILURES == 2
        self.retries(watch, lambda url: self.answer(self.call(url, transport=Retrying())))

    def test_transport_alone(self, watch: Callable[..., Watcher]) -> None:
        """A transport that is used without a client leaves no trace."""
        with self.library.HTTPTransport() as transport, below(watch()):
            response = transport.handle_request(self.library.Request("GET", self.url("/alone")))
            response.read()
            response.close()
        assert self.origin.received[0].trace == (self.the_span().trace_id, self.the_span().span_id, 1)

    def test_body_of_a_response_is_unpacked_by_the_library(self, watch: Callable[..., Watcher]) -> None:
        """Streams that are read to their end in pieces come out changed."""
        with below(watch()), self.library.Client() as client, client.stream("GET", self.url("/")) as response:
            assert len(self.reporter.spans) == 1
            assert b"".join(response.iter_bytes()) == b"ok"


class Async(HTTPX):
    """``AsyncClient``, in an event loop that all tests' threads share."""

    @pytest.fixture(autouse=True)
    def loop(self, servers: None) -> None:
        loop = Loop()
        self.closing.callback(loop.close)
        self.run = loop.run

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[Any]:
        client = self.library.AsyncClient(**options)
        try:
            yield client
        finally:
            self.run(client.aclose())

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        content = piecewise(body) if hasattr(body, "__next__") else body
        with self.client(follow_redirects=True, verify=QUICK) as client:
            sent = client.request(method, url, headers=headers, content=content, timeout=timeout or DEADLINE_S)
            return self.answer(self.run(sent))

    def call(self, url: str, **options: Any) -> Any:
        with self.client(follow_redirects=True, **options) as client:
            return self.run(client.get(url))

    def open(self, url: str) -> Any:
        client = self.closing.enter_context(self.client())
        response = self.run(client.send(client.build_request("GET", url), stream=True))
        chunks = response.aiter_raw()
        return Chunks(lambda: self.run(chunks.__anext__()), lambda: self.run(response.aclose()))

    def shared_sender(self) -> Callable[[str], Answer]:
        client = self.closing.enter_context(self.client())
        return lambda url: self.answer(self.run(client.get(url)))

    def test_many_at_once(self, watch: Callable[..., Watcher]) -> None:
        """``gather`` gives requests the spans of others, or those of redirects as parents."""
        watcher = watch()

        async def one(client: Any, number: int) -> int:
            with below(watcher) as parent:
                response = await client.get(self.url(f"/redirect/1?{number}"))
                assert response.status_code == 200
                return parent.trace_id

        async def work(client: Any) -> list[int]:
            return list(await asyncio.gather(*[one(client, number) for number in range(20)]))

        with self.client(follow_redirects=True) as client:
            traces = self.run(work(client))
        spans = {span.span_id: span for span in self.reporter.spans}
        assert sorted([*traces, *traces]) == sorted(span.trace_id for span in spans.values())
        assert len(spans) == 40
        for request in self.origin.received:
            assert request.trace is not None
            span = spans[request.trace[1]]
            assert span.attributes["url.full"] == self.url(request.target)
            expected = 1 if request.target == "/redirect/0" else None
            assert span.attributes.get("http.request.resend_count") == expected

    def test_cancelled(self, watch: Callable[..., Watcher]) -> None:
        """A call that the program gives up looks like a failure of the callee, or is never reported."""
        watcher = watch()

        async def work(client: Any) -> None:
            task = asyncio.ensure_future(client.get(self.url("/silent")))
            await asyncio.to_thread(until, lambda: self.origin.received)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with below(watcher), self.client() as client:
            self.run(work(client))
        span = self.the_span()
        assert span.status == Status.UNSET
        assert "http.response.status_code" not in span.attributes
        assert not span.events

    def test_coroutine_that_is_never_finished(self, watch: Callable[..., Watcher], capfd: Any) -> None:
        """A program that ends with calls under way prints tracebacks of ours."""
        watcher = watch()
        client = self.library.AsyncClient(transport=self.library.MockTransport(never))
        with below(watcher):
            call = client.get("http://nowhere.invalid/")
            contextvars.copy_context().run(call.send, None)
        call.close()  # In another context than it has run in.
        self.run(client.aclose())
        assert capfd.readouterr().err == ""

    def test_application_in_the_same_process(self, watch: Callable[..., Watcher]) -> None:
        """Tests that call an application without a network get client spans of requests that were never sent."""
        transport = self.library.ASGITransport(app=plain_asgi.app)
        with below(watch()):
            assert self.call("http://test/users/7", transport=transport).text == "hello 7"
        assert not self.reporter.spans


async def never(request: Any) -> Any:
    """A transport that waits."""
    await Forever()


class Forever:
    """Waits for nothing, without a loop."""

    def __await__(self) -> Generator[None, None, None]:
        while True:
            yield


class TestClient(Plain):
    """httpx."""


class TestAsyncClient(Async):
    """httpx, in coroutines."""


class Second(HTTPX):
    """The successor, which is another package with the same insides."""

    scope = "httpx2"

    @pytest.fixture(autouse=True)
    def library_two(self) -> None:
        type(self).library = pytest.importorskip("httpx2")


class TestClientOfHTTPX2(Second, Plain):
    """httpx2."""


class TestAsyncClientOfHTTPX2(Second, Async):
    """httpx2, in coroutines."""
