"""http.client used directly, and what is particular to it."""

from __future__ import annotations

import http.client
import ssl
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import urllib3.connection

from autoinstr.instrument.http_client import MAX_REMEMBERED, make_own_choice
from autoinstr.model import Status

from .contract_client import Answer, ClientContract, below
from .origin import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.instrument import Watcher


def split(url: str) -> tuple[str, str]:
    """Host with port, and the target as it stands in the text."""
    authority, slash, rest = url.partition("://")[2].partition("/")
    return authority, slash + rest


def ask(connection: http.client.HTTPConnection, method: str, target: str, **keywords: Any) -> Answer:
    """Send, and read the answer."""
    try:
        connection.request(method, target, **keywords)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


class TestHttpClient(ClientContract):
    """The contract, on a connection that the program makes itself."""

    scope = "http.client"
    #: It does not follow them.
    test_redirects = None  # type: ignore[assignment]

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        authority, target = split(url)
        keywords: Any = {} if timeout is None else {"timeout": timeout}
        connection = http.client.HTTPConnection(authority, **keywords)
        return ask(
            connection, method, target, body=body, headers=headers or {}, encode_chunked="Transfer-Encoding" in (headers or {})
        )

    def open(self, url: str) -> Any:
        authority, target = split(url)
        connection = http.client.HTTPConnection(authority)
        self.closing.callback(connection.close)
        connection.request("GET", target)
        return connection.getresponse()

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        authority, target = split(url)
        context = ssl.create_default_context(cafile=certificate)
        return ask(http.client.HTTPSConnection(authority, context=context), "GET", target)

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        address = urlsplit(proxy).netloc
        if not url.startswith("https"):
            return ask(http.client.HTTPConnection(address), "GET", url)
        authority, target = split(url)
        connection = http.client.HTTPSConnection(address, context=ssl.create_default_context(cafile=certificate))
        host, _, port = authority.partition(":")
        connection.set_tunnel(host, int(port))
        return ask(connection, "GET", target)

    def shared_sender(self) -> Callable[[str], Answer]:
        """A connection cannot be shared between threads, so each has its own, which it uses again."""
        own = threading.local()

        def send(url: str) -> Answer:
            authority, target = split(url)
            if not hasattr(own, "connection"):
                own.connection = http.client.HTTPConnection(authority)
                self.closing.callback(own.connection.close)
            own.connection.request("GET", target)
            response = own.connection.getresponse()
            return Answer(response.status, response.read())

        return send

    def test_by_hand(self, watch: Callable[..., Watcher]) -> None:
        """Programs that write header by header have no spans."""
        with below(watch()):
            connection = http.client.HTTPConnection("127.0.0.1", self.origin.port)
            connection.putrequest("PUT", "", skip_accept_encoding=True)
            connection.putheader("Content-Length", "3")
            connection.endheaders()
            connection.send(b"abc")
            assert connection.getresponse().status == 200
            connection.close()
        span = self.the_span()
        assert (span.name, span.attributes["url.full"]) == ("PUT", self.url("/"))
        assert self.origin.received[0].body == b"abc"
        assert self.origin.received[0].trace == (span.trace_id, span.span_id, 1)

    @pytest.mark.parametrize("kind", [http.client.HTTPConnection, urllib3.connection.HTTPConnection])
    def test_body_by_hand_that_fails(self, kind: Any, watch: Callable[..., Watcher]) -> None:
        """An upload that fails half-way leaves no span: the very request that one would look for.

        requests before 2.29 writes its bodies in chunks like this, past urllib3's pool.
        """

        def upload() -> None:
            connection = kind("127.0.0.1", self.origin.port)
            try:
                connection.putrequest("POST", "/upload")
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders()
                connection.send(b"3\r\none\r\n")
                raise OSError("the disk is gone")
            except Exception:
                connection.close()
                raise

        (span,) = self.fails_as_bare(watch, upload)
        assert (span.name, span.attributes["url.full"]) == ("POST", self.url("/upload"))
        assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "OSError")

    def test_tunnel_refused_while_another_error_is_handled(self, watch: Callable[..., Watcher]) -> None:
        """A second try through a proxy, which fails, too, is shown to have failed as the first one did."""

        def second_try() -> None:
            proxy = Server()
            proxy.refuses = True
            try:
                raise KeyError("the first try")
            except KeyError:
                connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
                connection.set_tunnel("127.0.0.1", self.origin.port)
                connection.request("GET", "/a")
            finally:
                proxy.close()

        (span,) = self.fails_as_bare(watch, second_try)
        assert span.attributes["error.type"] == "OSError"

    def test_response_not_asked_for(self, watch: Callable[..., Watcher]) -> None:
        """A request whose response nobody wanted swallows the next one's span."""
        with below(watch()):
            connection = http.client.HTTPConnection("127.0.0.1", self.origin.port)
            connection.request("GET", "/first")
            connection.close()
            connection.request("GET", "/second")
            connection.getresponse().read()
            connection.close()
        first, second = self.reporter.spans
        assert first.attributes["url.full"] == self.url("/first")
        assert second.attributes["url.full"] == self.url("/second")
        assert second.attributes["http.response.status_code"] == 200

    def test_call_inside_a_body(self, watch: Callable[..., Watcher]) -> None:
        """A body that is fetched from elsewhere while it is sent mixes up the two requests."""

        def body() -> Any:
            yield self.send("GET", self.url("/source")).body

        with below(watch()):
            self.send("POST", self.url("/sink"), {"Transfer-Encoding": "chunked"}, body())
        spans = {span.attributes["url.full"]: span for span in self.reporter.spans}
        assert len(spans) == 2
        for request in self.origin.received:
            span = spans[self.url(request.target)]
            assert request.trace == (span.trace_id, span.span_id, 1)

    def test_connection_of_ipv6(self, watch: Callable[..., Watcher]) -> None:
        """An address in brackets is recorded as a name with a port in it."""
        with below(watch()):
            connection = http.client.HTTPConnection("[::1]:9")
            connection.sock = _Nowhere()
            connection.request("GET", "/a")
            connection.close()
            connection.putrequest("GET", "/b")
        span = self.the_span()
        assert span.attributes["server.address"] == "::1"
        assert span.attributes["url.full"] == "http://[::1]:9/a"


class _Nowhere:
    """A socket that takes everything."""

    def sendall(self, data: bytes) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing is open."""


def test_remembered_headers_are_bounded() -> None:
    """Programs whose headers are always new fill the memory; headers with a trace header are forgotten to have one."""
    own_choice = make_own_choice()
    (remembered,) = [cell.cell_contents for cell in own_choice.__closure__ or () if isinstance(cell.cell_contents, set)]
    for number in range(3 * MAX_REMEMBERED):
        assert not own_choice([b"GET / HTTP/1.1", b"X-Request: %d" % number])
        assert len(remembered) <= MAX_REMEMBERED
    for _ in range(2):
        assert own_choice([b"GET / HTTP/1.1", b"TraceParent: x"])
        assert own_choice([b"GET / HTTP/1.1", b"A: b", b"Authorization: AWS4-HMAC-SHA256 x"])
        assert own_choice([b"GET /?X-Amz-Signature=1 HTTP/1.1", b"A: b"])
        assert not own_choice([b"GET / HTTP/1.1", b"X-Traceparent: x"])


def test_remembered_headers_are_without_the_target() -> None:
    """A program that asks for ever new targets is looked through anew at each request."""
    own_choice = make_own_choice()
    (remembered,) = [cell.cell_contents for cell in own_choice.__closure__ or () if isinstance(cell.cell_contents, set)]
    for number in range(9):
        assert not own_choice([b"GET /%d HTTP/1.1" % number, b"Host: a"])
    assert len(remembered) == 1
