"""What holds for every HTTP client, whichever it is: subclass ``ClientContract`` and say how it sends.

The origin is a real server on the loopback which notes what it receives, so "sent" means "has arrived".
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from autoinstr.instrument.http import attempts
from autoinstr.model import Kind, SpanContext, Status
from autoinstr.trace import current

from .in_request import in_request
from .origin import FAILURES, Server, write_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter
    from autoinstr.trace import Span

USER_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Answer(NamedTuple):
    """What the program got."""

    status: int
    body: bytes


def below(watcher: Watcher, parent: SpanContext | None = None) -> contextlib.AbstractContextManager[Span]:
    """As inside a request that the program is serving."""
    return in_request(watcher.tracing, parent)


def clear_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an exception, and of those before it, hold."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class ClientContract:
    """The suite; a subclass gives ``scope``, ``send`` and, where it can, the others."""

    #: Name of the spans' scope, and of what is switched off.
    scope: str
    #: What the client raises when it cannot connect.
    unreachable = frozenset({"ConnectionRefusedError", "gaierror", "SSLCertVerificationError"})
    origin: Server
    reporter: InMemoryReporter
    #: Closes what a client leaves open, when the test is over.
    closing: contextlib.ExitStack

    # What a subclass fills in.

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        """Send a request and read the answer; raises what the client raises, but not for an error status."""
        raise NotImplementedError

    def open(self, url: str) -> Any:
        """Send a GET and return the response with its body unread; it has ``close()``."""
        raise NotImplementedError

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        """GET an https URL, trusting a certificate or only what the system trusts."""
        raise NotImplementedError

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        """GET through a proxy."""
        raise NotImplementedError

    def shared_sender(self) -> Callable[[str], Answer]:
        """A function that sends a GET with one object (session, pool, opener) for all threads."""
        return lambda url: self.send("GET", url)

    # The stage.

    @pytest.fixture(autouse=True)
    def servers(self, reporter: InMemoryReporter) -> Iterator[None]:
        self.reporter = reporter
        self.origin = Server()
        with contextlib.ExitStack() as self.closing:
            self.closing.callback(self.origin.close)
            yield
        assert current.get() is None, "a span was left behind as the current one"
        assert attempts.get() is None, "a call was left behind as the current one"

    @pytest.fixture
    def second(self) -> Iterator[Server]:
        """Another server, which is used as the proxy."""
        server = Server()
        yield server
        server.close()

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> str:
        return str(write_certificate(tmp_path))

    @pytest.fixture
    def secure(self, certificate: str) -> Iterator[Server]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = Server(context)
        yield server
        server.close()

    def url(self, path: str = "/") -> str:
        return self.origin.url + path

    def the_span(self) -> Any:
        (span,) = self.reporter.spans
        return span

    # What a span says.

    def test_describes_the_request(self, watch: Callable[..., Watcher]) -> None:
        """The client's part of a trace is missing, or cannot be searched by the semantic conventions."""
        with below(watch()) as parent:
            assert self.send("GET", self.url("/items?page=2")) == Answer(200, b"ok")
        span = self.the_span()
        assert (span.name, span.kind, span.scope) == ("GET", Kind.CLIENT, self.scope)
        assert (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)
        assert span.status == Status.UNSET
        assert 0 < span.end_ns - span.start_ns < 10**10
        assert span.attributes == {
            "http.request.method": "GET",
            "url.full": self.url("/items?page=2"),
            "server.address": "127.0.0.1",
            "server.port": self.origin.port,
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
        }

    @pytest.mark.parametrize("dialect", ["old", "dup"])
    def test_old_names(self, watch: Callable[..., Watcher], dialect: str) -> None:
        """Dashboards that were made with the old names show nothing."""
        watch(AUTOINSTR_SEMCONV=dialect)
        self.send("GET", self.url("/status/404"))
        attributes = self.the_span().attributes
        old = {
            "http.method": "GET",
            "http.url": self.url("/status/404"),
            "net.peer.name": "127.0.0.1",
            "net.peer.port": self.origin.port,
            "http.status_code": 404,
            "http.flavor": "1.1",
        }
        assert old.items() <= attributes.items()
        assert ("url.full" in attributes) == (dialect == "dup")

    def test_unknown_method(self, watch: Callable[..., Watcher]) -> None:
        """A method that somebody makes up becomes an operation name of its own, and there is no end of them."""
        watch()
        self.send("BREW", self.url())
        span = self.the_span()
        assert span.name == "HTTP"
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "BREW"

    @pytest.mark.parametrize("status", [404, 500])
    def test_error_status(self, watch: Callable[..., Watcher], status: int) -> None:
        """A failed call looks like a good one, or is recorded as an exception that the program never saw."""
        with below(watch()):
            assert self.send("GET", self.url(f"/status/{status}")).status == status
        span = self.the_span()
        assert span.status == Status.ERROR
        assert span.attributes["http.response.status_code"] == status
        assert span.attributes["error.type"] == str(status)
        assert not span.events

    def test_secrets_in_the_query(self, watch: Callable[..., Watcher]) -> None:
        """API keys that are sent in URLs can be read by everybody who can read traces."""
        watch()
        self.send("GET", self.url("/a?Token=abc&x=1&sig=def&X-AMZ-Credential=ghi"))
        assert self.origin.received[0].target == "/a?Token=abc&x=1&sig=def&X-AMZ-Credential=ghi"
        expected = self.url("/a?Token=REDACTED&x=1&sig=REDACTED&X-AMZ-Credential=REDACTED")
        assert self.the_span().attributes["url.full"] == expected

    def test_captured_headers(self, watch: Callable[..., Watcher]) -> None:
        """Headers that the user asked for are not recorded, or passwords are."""
        watch(
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST="X-Tenant,Authorization,X-Absent",
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE="x-answer,set-cookie,x-absent",
        )
        self.send("GET", self.url(), {"x-Tenant": "blue", "Authorization": "Basic abc"})
        recorded = {key: value for key, value in self.the_span().attributes.items() if ".header." in key}
        assert recorded == {
            "http.request.header.x-tenant": ["blue"],
            "http.response.header.x-answer": ["first", "second"],
        }

    # What fails.

    def fails_as_bare(self, watch: Callable[..., Watcher], call: Callable[[], object]) -> Any:
        """The one span of a call that raises, and raises the same as without the agent."""
        with pytest.raises(Exception) as bare:  # noqa: PT011 - whatever the client raises
            call()
        with below(watch()) as parent, pytest.raises(type(bare.value)) as traced:
            call()
        assert type(traced.value) is type(bare.value)
        # Python 3.10 leaves the socket of a refused tunnel to the frames that knew it.
        clear_frames(bare.value)
        clear_frames(traced.value)
        assert current.get() is None
        spans = [span for span in self.reporter.spans if span.end_ns]
        assert {span.parent_id for span in spans} <= {parent.span_id}
        return spans

    def test_connection_refused(self, watch: Callable[..., Watcher]) -> None:
        """An outage of the service behind does not show."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            (span,) = self.fails_as_bare(watch, lambda: self.send("GET", f"http://127.0.0.1:{port}/"))
        assert span.status == Status.ERROR
        assert "http.response.status_code" not in span.attributes
        assert span.attributes["error.type"].rpartition(".")[2] in self.unreachable
        assert [event.name for event in span.events] == ["exception"]

    def test_unknown_host(self, watch: Callable[..., Watcher]) -> None:
        """A failed look-up of a name does not show."""
        (span,) = self.fails_as_bare(watch, lambda: self.send("GET", "http://nowhere.invalid/"))
        assert span.status == Status.ERROR
        assert span.attributes["server.address"] == "nowhere.invalid"
        assert span.attributes["server.port"] == 80
        assert span.attributes["error.type"].rpartition(".")[2] in self.unreachable

    def test_timeout(self, watch: Callable[..., Watcher]) -> None:
        """A call that was given up after its timeout does not show, or the timeout is no longer respected."""
        (span,) = self.fails_as_bare(watch, lambda: self.send("GET", self.url("/silent"), timeout=0.1))
        assert span.status == Status.ERROR
        assert span.attributes["error.type"].rpartition(".")[2] in {"TimeoutError", "timeout", "ReadTimeoutError"}

    def test_default_timeout_is_respected(self, watch: Callable[..., Watcher], monkeypatch: Any) -> None:
        """``socket.setdefaulttimeout`` no longer works, and the program hangs."""
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.1)
        try:
            spans = self.fails_as_bare(watch, lambda: self.send("GET", self.url("/silent")))
        finally:
            socket.setdefaulttimeout(before)
        assert len(spans) == 1

    def test_text_that_no_url_may_hold(self, watch: Callable[..., Watcher]) -> None:
        """A URL that is not ASCII behaves differently under the agent."""

        def outcome() -> object:
            try:
                return self.send("GET", self.url("/caf\N{LATIN SMALL LETTER E WITH ACUTE}?q=\N{SNOWMAN}"))
            except Exception as error:  # noqa: BLE001 - whatever the client raises
                return type(error), str(error)

        bare = outcome()
        watch()
        assert outcome() == bare
        answered = [span for span in self.reporter.spans if span.status == Status.UNSET]
        assert len(answered) == len(self.origin.received) // 2

    # What is sent.

    def test_callee_continues_the_span(self, watch: Callable[..., Watcher]) -> None:
        """The callee's spans hang on another span, or on none."""
        with below(watch()):
            self.send("GET", self.url())
        span = self.the_span()
        assert self.origin.received[0].trace == (span.trace_id, span.span_id, 1)

    def test_unsampled(self, watch: Callable[..., Watcher]) -> None:
        """A trace that was not to be kept is kept by the callee, in part."""
        with below(watch(keep=False)) as parent:
            assert self.send("GET", self.url()) == Answer(200, b"ok")
        assert not self.reporter.spans
        assert self.origin.received[0].trace == (parent.trace_id, parent.span_id, 0)

    def test_unsampled_without_parent(self, watch: Callable[..., Watcher]) -> None:
        """As before, for a program that serves nobody: a script, a job."""
        watch(keep=False)
        self.send("GET", self.url())
        assert not self.reporter.spans
        trace = self.origin.received[0].trace
        assert trace is not None
        assert trace[2] == 0

    def test_without_parent(self, watch: Callable[..., Watcher]) -> None:
        """The calls of a script are not traced."""
        watch()
        self.send("GET", self.url())
        span = self.the_span()
        assert span.parent_id == 0
        assert self.origin.received[0].trace == (span.trace_id, span.span_id, 1)

    def test_parent_required(self, watch: Callable[..., Watcher]) -> None:
        """Background chatter fills the backend though it was switched off."""
        watcher = watch(AUTOINSTR_REQUIRE_PARENT="true")
        self.send("GET", self.url())
        assert (len(self.reporter.spans), self.origin.received[0].trace) == (0, None)
        with below(watcher):
            self.send("GET", self.url())
        assert len(self.reporter.spans) == 1

    @pytest.mark.parametrize("formats", ["none", "baggage"])
    def test_formats_without_ids(self, watch: Callable[..., Watcher], formats: str) -> None:
        """An empty line where headers would be ends them: the server takes the rest for a body, or for another request."""
        watch(OTEL_PROPAGATORS=formats)
        assert self.send("POST", self.url(), {"X-Later": "1"}, b"abc").status == 200
        (received,) = self.origin.received
        assert (received.body, received.value("x-later"), received.trace) == (b"abc", "1", None)
        assert received.value("host")

    def test_trace_state_and_baggage(self, watch: Callable[..., Watcher]) -> None:
        """Other vendors' state and the program's baggage end here."""
        parent = SpanContext(1 << 70, 2, 1, "vendor=1", {"user": "ann"}, is_remote=True)
        with below(watch(), parent):
            self.send("GET", self.url())
        received = self.origin.received[0]
        assert received.value("tracestate") == "vendor=1"
        assert received.value("baggage") == "user=ann"
        assert received.value("uberctx-user") == "ann"

    @pytest.mark.parametrize("name", ["traceparent", "TraceParent", "uber-trace-id", "b3", "X-B3-TraceId"])
    def test_own_trace_header(self, watch: Callable[..., Watcher], name: str) -> None:
        """A header that the program sends itself is overwritten, doubled or contradicted."""
        with below(watch()):
            self.send("GET", self.url(), {name: USER_PARENT})
        received = self.origin.received[0]
        sent = {key: value for key, value in received.headers if key in {"traceparent", "uber-trace-id", "b3", "x-b3-traceid"}}
        assert sent == {name.lower(): USER_PARENT}
        assert received.value(name.lower()) == USER_PARENT
        assert len(self.reporter.spans) == 1

    def test_own_baggage_header(self, watch: Callable[..., Watcher]) -> None:
        """The program's own baggage header is doubled."""
        parent = SpanContext(1, 2, 1, "vendor=1", {"user": "ann"}, is_remote=True)
        with below(watch(), parent):
            self.send("GET", self.url(), {"Baggage": "own=1", "Tracestate": "own=2"})
        received = self.origin.received[0]
        assert received.value("baggage") == "own=1"
        assert received.value("tracestate") == "own=2"
        assert received.trace is not None

    @pytest.mark.parametrize("where", ["header", "query"])
    def test_signed_request(self, watch: Callable[..., Watcher], where: str) -> None:
        """Requests to AWS are refused: their signature covers the headers."""
        path = "/?X-Amz-Signature=abc" if where == "query" else "/"
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=a"} if where == "header" else {}
        self.send("GET", self.url(path), headers)
        with below(watch()):
            self.send("GET", self.url(path), headers)
        bare, traced = self.origin.received
        assert traced.headers == bare.headers
        assert len(self.reporter.spans) == 1

    def test_headers_are_not_the_programs(self, watch: Callable[..., Watcher]) -> None:
        """A dictionary that the program sends again and again collects headers of old requests."""
        headers = {"X-Own": "1"}
        with below(watch()):
            self.send("GET", self.url(), headers)
            self.send("GET", self.url(), headers)
        assert headers == {"X-Own": "1"}
        first, second = self.origin.received
        assert first.trace != second.trace

    @pytest.mark.parametrize(
        ("variable", "value", "sent"),
        [
            ("AUTOINSTR_PROPAGATE_TO", "*.example.com", False),
            ("AUTOINSTR_PROPAGATE_TO", "*.example.com,127.0.*", True),
            ("AUTOINSTR_PROPAGATE_TO", "none", False),
            ("AUTOINSTR_NO_PROPAGATE_TO", "127.*", False),
            ("AUTOINSTR_NO_PROPAGATE_TO", "*.example.com", True),
        ],
    )
    @pytest.mark.parametrize("keep", [True, False])
    def test_hosts_that_get_headers(
        self, watch: Callable[..., Watcher], variable: str, value: str, *, sent: bool, keep: bool
    ) -> None:
        """Strangers are told our ids, or our own services are not."""
        with below(watch(keep=keep, **{variable: value})):
            self.send("GET", self.url())
        assert (self.origin.received[0].trace is not None) == sent
        assert len(self.reporter.spans) == keep

    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("variable", ["AUTOINSTR_EXCLUDED_URLS", "OTEL_PYTHON_{}_EXCLUDED_URLS"])
    def test_excluded_url(self, watch: Callable[..., Watcher], variable: str, *, keep: bool) -> None:
        """Health checks and the like are traced though they were left out."""
        variable = variable.format(self.scope.upper().replace(".", "_"))
        with below(watch(keep=keep, **{variable: "health$,other"})):
            self.send("GET", self.url("/health"))
            self.send("GET", self.url("/healthy"))
        excluded, included = self.origin.received
        assert excluded.trace is None
        assert included.trace is not None
        assert len(self.reporter.spans) == keep

    def test_excluded_pattern_that_is_none(self, watch: Callable[..., Watcher], capfd: Any) -> None:
        """One wrong pattern switches the whole instrument off."""
        watch(AUTOINSTR_EXCLUDED_URLS="(,health$")
        self.send("GET", self.url("/health"))
        self.send("GET", self.url("/"))
        assert len(self.reporter.spans) == 1
        capfd.readouterr()

    @pytest.mark.parametrize("name", ["*", "requests,urllib3,urllib,http.client"])
    def test_switched_off(self, watch: Callable[..., Watcher], name: str) -> None:
        """The switch does not work."""
        with below(watch(AUTOINSTR_DISABLED_INSTRUMENTS=name)):
            assert self.send("GET", self.url()) == Answer(200, b"ok")
        assert (len(self.reporter.spans), self.origin.received[0].trace) == (0, None)

    # Several requests for one call.

    def test_redirects(self, watch: Callable[..., Watcher]) -> None:
        """A chain of redirects is one span of the wrong host, or its hops cannot be told apart."""
        with below(watch()) as parent:
            assert self.send("GET", self.url("/redirect/2")).status == 200
            self.send("GET", self.url("/"))
        spans = list(self.reporter.spans)
        assert [span.attributes.get("http.request.resend_count") for span in spans] == [None, 1, 2, None]
        assert [span.attributes["http.response.status_code"] for span in spans] == [302, 302, 200, 200]
        paths = ["/redirect/2", "/redirect/1", "/redirect/0", "/"]
        assert [span.attributes["url.full"] for span in spans] == [self.url(path) for path in paths]
        assert {span.parent_id for span in spans} == {parent.span_id}
        assert [request.trace for request in self.origin.received] == [
            (span.trace_id, span.span_id, 1) for span in spans
        ]

    def retries(self, watch: Callable[..., Watcher], call: Callable[[str], Answer]) -> None:
        """For clients that can try again: each try has a span and headers of its own."""
        with below(watch()):
            assert call(self.url("/flaky")).status == 200
        spans = list(self.reporter.spans)
        assert [span.attributes["http.response.status_code"] for span in spans] == [503] * FAILURES + [200]
        assert [span.attributes.get("http.request.resend_count") for span in spans] == [None, 1, 2]
        assert [request.trace for request in self.origin.received] == [
            (span.trace_id, span.span_id, 1) for span in spans
        ]

    # Bodies.

    def test_bodies_arrive(self, watch: Callable[..., Watcher]) -> None:
        """A body that is sent piece by piece, or all at once, is changed or read beforehand."""
        watch()
        pieces = []

        def body() -> Iterator[bytes]:
            for piece in (b"one ", b"two"):
                pieces.append(len(self.origin.received))
                yield piece

        assert self.send("POST", self.url(), {"Content-Type": "text/plain"}, b"all").status == 200
        self.send("POST", self.url(), {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}, body())
        assert [request.body for request in self.origin.received] == [b"all", b"one two"]
        assert pieces == [1, 1]
        assert len(self.reporter.spans) == 2

    def test_body_that_fails(self, watch: Callable[..., Watcher]) -> None:
        """An exception in the program's own generator is swallowed, or leaves the span open."""

        class OwnError(Exception):
            pass

        def body() -> Iterator[bytes]:
            yield b"one"
            raise OwnError

        headers = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
        (span,) = self.fails_as_bare(watch, lambda: self.send("POST", self.url("/failing"), headers, body()))
        assert span.status == Status.ERROR
        assert span.attributes["error.type"].endswith("OwnError")

    def test_response_is_not_read(self, watch: Callable[..., Watcher]) -> None:
        """The agent waits for a stream to end, or reads a large file into memory before the program does."""
        with below(watch()):
            response = self.open(self.url("/held"))
            try:
                # The origin sends the rest only when it is released.
                assert self.the_span().attributes["http.response.status_code"] == 200
                self.origin.release.set()
                assert response.read(5) == b"begin"
            finally:
                response.close()
        assert len(self.reporter.spans) == 1

    def test_head(self, watch: Callable[..., Watcher]) -> None:
        """Responses without a body are waited for."""
        watch()
        assert self.send("HEAD", self.url()) == Answer(200, b"")
        assert self.the_span().name == "HEAD"

    # Ways there.

    def test_connection_is_used_again(self, watch: Callable[..., Watcher]) -> None:
        """Spans of one connection run into each other."""
        send = self.shared_sender()
        with below(watch()) as parent:
            for _ in range(3):
                assert send(self.url()).status == 200
        spans = list(self.reporter.spans)
        assert [request.trace for request in self.origin.received] == [
            (parent.trace_id, span.span_id, 1) for span in spans
        ]
        assert len({span.span_id for span in spans}) == 3

    def test_threads_share_a_session(self, watch: Callable[..., Watcher]) -> None:
        """Under load the headers of one request go out with another."""
        watcher = watch()
        send = self.shared_sender()
        start = threading.Barrier(8)

        def work(number: int) -> int:
            start.wait(10)
            with below(watcher) as parent:
                for _ in range(5):
                    assert send(self.url(f"/{number}")).status == 200
            return parent.trace_id

        with ThreadPoolExecutor(8) as pool:
            traces = list(pool.map(work, range(8)))
        spans = {span.span_id: span for span in self.reporter.spans}
        assert len(spans) == len(self.reporter.spans) == 40
        for request in self.origin.received:
            assert request.trace is not None
            trace_id, span_id, _ = request.trace
            assert trace_id == traces[int(request.target[1:])] == spans[span_id].trace_id
            assert spans[span_id].attributes["url.full"] == self.url(request.target)
        assert len({request.trace for request in self.origin.received}) == 40

    def test_tls(self, watch: Callable[..., Watcher], secure: Server, certificate: str) -> None:
        """Over TLS there are no spans, no headers, or the wrong scheme."""
        with below(watch()):
            assert self.send_securely(f"{secure.url}/a", certificate).status == 200
        span = self.the_span()
        assert span.attributes["url.full"] == f"{secure.url}/a"
        assert span.attributes["server.port"] == secure.port
        assert secure.received[0].trace == (span.trace_id, span.span_id, 1)

    def test_tls_certificate_unknown(self, watch: Callable[..., Watcher], secure: Server) -> None:
        """A callee with a bad certificate does not show."""
        (span,) = self.fails_as_bare(watch, lambda: self.send_securely(secure.url, None))
        assert span.status == Status.ERROR
        assert span.attributes["error.type"].rpartition(".")[2] in self.unreachable

    def test_proxy(self, watch: Callable[..., Watcher], second: Server) -> None:
        """Behind a proxy all callees look like the proxy; the list of hosts is taken for a list of proxies."""
        watcher = watch(AUTOINSTR_PROPAGATE_TO="shop.example")
        with below(watcher):
            assert self.send_by_proxy("http://shop.example:8080/a?key=b", second.url).status == 200
            assert self.send_by_proxy("http://other.example/", second.url).status == 200
        ours, other = self.reporter.spans
        assert ours.attributes["url.full"] == "http://shop.example:8080/a?key=REDACTED"
        assert (ours.attributes["server.address"], ours.attributes["server.port"]) == ("shop.example", 8080)
        assert (other.attributes["server.address"], other.attributes["server.port"]) == ("other.example", 80)
        assert [request.trace for request in second.received] == [(ours.trace_id, ours.span_id, 1), None]

    def test_tunnel(
        self, watch: Callable[..., Watcher], second: Server, secure: Server, certificate: str
    ) -> None:
        """Through a tunnel the proxy gets the headers, the callee none, or the tunnel has a span besides the request's."""
        proxy = second.url.replace("127.0.0.1", "localhost")
        with below(watch(AUTOINSTR_NO_PROPAGATE_TO="localhost")):
            assert self.send_by_proxy(f"{secure.url}/a", proxy, certificate).status == 200
        span = self.the_span()
        assert span.attributes["url.full"] == f"{secure.url}/a"
        assert span.attributes["server.port"] == secure.port
        assert secure.received[0].trace == (span.trace_id, span.span_id, 1)
        assert [(request.method, request.trace) for request in second.received] == [("CONNECT", None)]

    def test_tunnel_refused(
        self, watch: Callable[..., Watcher], second: Server, secure: Server, certificate: str
    ) -> None:
        """A proxy that lets nobody through does not show."""
        second.refuses = True
        (span,) = self.fails_as_bare(watch, lambda: self.send_by_proxy(f"{secure.url}/a", second.url, certificate))
        assert span.status == Status.ERROR
        assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", secure.port)
        assert not secure.received
