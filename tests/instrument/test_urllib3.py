"""urllib3: a pool manager, a pool of one host, and what is particular to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.util import parse_url

from autoinstr.instrument.urllib3 import remember_history, which_attempt

from .contract_client import Answer, ClientContract, below

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.instrument import Watcher


def answer(response: Any) -> Answer:
    """With the body, which urllib3 has read already."""
    return Answer(response.status, response.data)


#: Follows redirects and tries nothing again.
ONCE = urllib3.Retry(9, connect=0, read=0, other=0, redirect=9)


def keywords(headers: dict[str, str] | None, body: Any, timeout: float | None) -> dict[str, Any]:
    """What urllib3 is told; it writes the header for a body in chunks itself."""
    own = {name: value for name, value in (headers or {}).items() if name != "Transfer-Encoding"}
    chunked = len(own) < len(headers or {})
    return {"headers": own, "body": body, "chunked": chunked} | ({} if timeout is None else {"timeout": timeout})


class TestPoolManager(ClientContract):
    """The contract, with the object that most programs use."""

    scope = "urllib3"
    unreachable = frozenset({"NewConnectionError", "NameResolutionError", "SSLError", "SSLCertVerificationError"})  # The last: 1.x

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        with urllib3.PoolManager(retries=ONCE) as manager:
            return answer(manager.urlopen(method, url, **keywords(headers, body, timeout)))

    def open(self, url: str) -> Any:
        manager = self.closing.enter_context(urllib3.PoolManager())
        return manager.request("GET", url, preload_content=False)

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        with urllib3.PoolManager(ca_certs=certificate, retries=False) as manager:
            return answer(manager.request("GET", url))

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        with urllib3.ProxyManager(proxy, ca_certs=certificate, retries=False) as manager:
            return answer(manager.request("GET", url))

    def shared_sender(self) -> Callable[[str], Answer]:
        manager = self.closing.enter_context(urllib3.PoolManager(maxsize=8))
        return lambda url: answer(manager.request("GET", url))

    def test_retries(self, watch: Callable[..., Watcher]) -> None:
        """Tries that failed are not shown."""
        manager = self.closing.enter_context(urllib3.PoolManager(retries=urllib3.Retry(3, status_forcelist=[503])))
        self.retries(watch, lambda url: answer(manager.request("GET", url)))

    def test_password_in_the_url(self, watch: Callable[..., Watcher]) -> None:
        """Passwords in URLs can be read by everybody who can read traces."""
        watch()
        self.send("GET", f"http://ann:secret@127.0.0.1:{self.origin.port}/a")
        assert "secret" not in str(self.the_span().attributes)


class TestPool(TestPoolManager):
    """The contract, with a pool for one host. It follows redirects on that host only."""

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        with urllib3.connection_from_url(url, retries=ONCE) as pool:
            return answer(pool.urlopen(method, url[url.index("/", 8) :], **keywords(headers, body, timeout)))

    def shared_sender(self) -> Callable[[str], Answer]:
        pool = self.closing.enter_context(urllib3.HTTPConnectionPool("127.0.0.1", self.origin.port, maxsize=8))
        return lambda url: answer(pool.request("GET", parse_url(url).request_uri))


class TestConnection:
    """urllib3's connections are http.client's, and may be used without a pool."""

    def test_direct(self, watch: Callable[..., Watcher], reporter: Any) -> None:
        """A connection that is used without its pool has two spans, or none."""
        from .origin import Server

        origin = Server()
        try:
            with below(watch()):
                connection = urllib3.connection.HTTPConnection("127.0.0.1", origin.port)
                connection.request("GET", "/direct")
                assert connection.getresponse().status == 200
                connection.close()
        finally:
            origin.close()
        (span,) = reporter.spans
        assert span.scope == "http.client"
        assert origin.received[0].trace == (span.trace_id, span.span_id, 1)


def test_history_of_older_releases() -> None:
    """With urllib3 1.x, as botocore has it, every retry and redirect looks like a first try."""
    seen = []

    class Pool:
        def urlopen(self, method: str, url: str, body: object = None, headers: object = None, retries: Any = None) -> None:
            seen.append(which_attempt(None)[1:])
            if retries:
                self.urlopen(method, url, body, headers, None)

        urlopen = remember_history(urlopen)

    class History:
        history = (1, 2)

    Pool().urlopen("GET", "/", None, None, History())
    Pool().urlopen("GET", "/", retries=History())
    Pool().urlopen("GET", "/")
    assert seen == [("urllib3", 2), ("urllib3", 3)] * 2 + [("urllib3", 0)]
