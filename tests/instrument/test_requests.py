"""requests, and what is particular to it.

Before 2.29 it sent bodies in chunks past urllib3's pool, and urllib3 1.26 has other insides. Nobody has two releases in one
environment, so these tests are run against the old ones in an environment of its own (they leave sockets open):

    python -m venv old
    old/bin/pip install --editable . 'requests<2.29' 'urllib3<2' pytest pytest-xdist hypothesis cryptography
    old/bin/python -m pytest -W ignore::pytest.PytestUnraisableExceptionWarning \
        tests/instrument/test_requests.py tests/instrument/test_urllib3.py tests/instrument/test_http_client.py
"""

from __future__ import annotations

import inspect
import io
import pickle
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import requests
import requests.adapters
import urllib3

from autoinstr.model import Status

from .contract_client import USER_PARENT, Answer, ClientContract, below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.instrument import Watcher


class TestRequests(ClientContract):
    """The contract, with sessions."""

    scope = "requests"
    #: requests waits for ever unless told otherwise.
    test_default_timeout_is_respected = None  # type: ignore[assignment]
    unreachable = frozenset({"NewConnectionError", "NameResolutionError", "SSLError", "SSLCertVerificationError"})  # The last: 1.x

    @pytest.fixture(autouse=True)
    def no_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """requests would take them, and netrc, from the environment."""
        monkeypatch.setenv("NO_PROXY", "*")

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        if headers and "Transfer-Encoding" in headers:
            headers = {name: value for name, value in headers.items() if name != "Transfer-Encoding"}
        with requests.Session() as session:
            return self.answer(session.request(method, url, headers=headers, data=body, timeout=timeout))

    @staticmethod
    def answer(response: requests.Response) -> Answer:
        return Answer(response.status_code, response.content)

    def open(self, url: str) -> Any:
        return self.closing.enter_context(requests.get(url, stream=True)).raw

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        return self.answer(requests.get(url, verify=certificate or True))

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        with requests.Session() as session:
            session.trust_env = False
            proxies = {"http": proxy, "https": proxy}
            return self.answer(session.get(url, proxies=proxies, verify=certificate or True))

    def shared_sender(self) -> Callable[[str], Answer]:
        session = self.closing.enter_context(requests.Session())
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=8))
        return lambda url: self.answer(session.get(url))

    def test_retries(self, watch: Callable[..., Watcher]) -> None:
        """Tries that failed are not shown."""
        session = self.closing.enter_context(requests.Session())
        retry = urllib3.Retry(3, status_forcelist=[503])
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        self.retries(watch, lambda url: self.answer(session.get(url)))

    def test_prepared_request_is_not_changed(self, watch: Callable[..., Watcher]) -> None:
        """A prepared request that is sent again, or was signed, carries the headers of the time before."""
        watcher = watch()
        with requests.Session() as session:
            prepared = session.prepare_request(requests.Request("GET", self.url(), headers={"X-Own": "1"}))
            before = dict(prepared.headers)
            with below(watcher):
                for _ in range(2):
                    response = session.send(prepared)
                    assert response.request is prepared
        assert dict(prepared.headers) == before
        assert [request.trace is not None for request in self.origin.received] == [True, True]

    def test_prepared_request_without_headers(self, watch: Callable[..., Watcher]) -> None:
        """A prepared request that was put together by hand, without headers, fails."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = "GET", self.url()

        def outcome() -> object:
            try:
                return requests.Session().send(prepared).status_code
            except Exception as error:  # noqa: BLE001 - whatever requests raises
                return type(error), str(error)

        bare = outcome()
        watch()
        assert outcome() == bare

    def test_not_a_request(self, watch: Callable[..., Watcher]) -> None:
        """A wrong argument gives an exception of the agent's own in place of the one that requests raises."""

        def outcome() -> object:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - AttributeError or ValueError, by the release
                requests.Session().send("x")  # type: ignore[arg-type]
            return caught.type, str(caught.value)

        bare = outcome()
        watch()
        assert outcome() == bare

    def test_password_in_the_url(self, watch: Callable[..., Watcher]) -> None:
        """Passwords in URLs can be read by everybody who can read traces, or are not sent."""
        watch()
        self.send("GET", f"http://ann:secret@127.0.0.1:{self.origin.port}/a")
        assert "secret" not in str(self.the_span().attributes)
        assert self.origin.received[0].value("authorization") == "Basic YW5uOnNlY3JldA=="

    def test_response_is_falsy(self, watch: Callable[..., Watcher]) -> None:
        """``Response`` is false for errors; a tracer that asks "is there a response?" records no status."""
        watch()
        response = requests.get(self.url("/status/500"))
        assert not response
        assert self.the_span().attributes["http.response.status_code"] == 500

    def test_file_as_body(self, watch: Callable[..., Watcher]) -> None:
        """A file is not sent, or sent empty."""
        watch()
        requests.post(self.url(), data=io.BytesIO(b"from a file"))
        assert self.origin.received[0].body == b"from a file"

    def test_session_of_own_kind(self, watch: Callable[..., Watcher]) -> None:
        """Classes that override ``send``, as many SDKs have them, lose their spans or have two."""

        class Session(requests.Session):
            def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
                request.headers["X-Own"] = "1"
                return super().send(request, **keywords)

        with below(watch()):
            Session().get(self.url("/redirect/1"))
        assert [span.scope for span in self.reporter.spans] == ["requests", "requests"]
        assert [request.value("x-own") for request in self.origin.received] == ["1", "1"]

    def test_adapter_of_own_kind(self, watch: Callable[..., Watcher]) -> None:
        """Adapters that send nothing (mocks, files, other transports) fail under the agent."""

        class Adapter(requests.adapters.BaseAdapter):
            def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
                response = requests.Response()
                response.status_code, response.request, response.url = 200, request, str(request.url)
                response.raw = io.BytesIO(b"made up")
                return response

            def close(self) -> None:
                pass

        with requests.Session() as session, below(watch()):
            session.mount("own://", Adapter())
            response = session.get("own://anything")
            assert response.content == b"made up"
            assert response.request.headers.keys() == session.headers.keys()
        assert not self.reporter.spans

    def test_authentication_that_asks_again(self, watch: Callable[..., Watcher]) -> None:
        """A second request that a hook sends (digest authentication does) is not shown as one of the same call."""

        def ask_again(response: requests.Response, **keywords: Any) -> requests.Response:
            if response.status_code != 401:
                return response
            response.content  # noqa: B018 - lets go of the connection
            again = response.request.copy()
            again.url = self.url("/authenticated")
            return response.connection.send(again, **keywords)

        with below(watch()):
            requests.get(self.url("/status/401"), hooks={"response": ask_again})
        first, second = self.reporter.spans
        assert first.status == Status.ERROR
        assert "http.request.resend_count" not in first.attributes
        assert second.attributes["http.request.resend_count"] == 1

    def test_call_inside_a_hook(self, watch: Callable[..., Watcher]) -> None:
        """A call of its own that a hook makes (to tell somebody) is taken for a retry of the one that it watches."""

        def tell(response: requests.Response, **_: Any) -> None:
            requests.get(self.url("/told"))

        with below(watch()):
            requests.get(self.url("/redirect/1"), hooks={"response": tell})
        counts = [
            (str(span.attributes["url.full"]).rpartition("/")[2], span.attributes.get("http.request.resend_count"))
            for span in self.reporter.spans
        ]
        assert counts == [("1", None), ("told", None), ("0", 1), ("told", None)]

    def test_own_header_of_a_session(self, watch: Callable[..., Watcher]) -> None:
        """A header that was set on the session for all requests is doubled."""
        with requests.Session() as session, below(watch()):
            session.headers["traceparent"] = USER_PARENT
            session.get(self.url("/redirect/1"))
        assert [request.value("traceparent") for request in self.origin.received] == [USER_PARENT] * 2

    def test_what_the_program_sees_of_the_wrapper(self, watch: Callable[..., Watcher]) -> None:
        """Type checkers, mocks and picklers that look at ``Session.send`` see another function."""

        def facts() -> object:
            send = requests.Session.send
            spec = mock.create_autospec(requests.Session)
            return (
                inspect.signature(send),
                inspect.isfunction(send),
                send.__qualname__,
                send.__doc__,
                inspect.signature(spec.send),
                pickle.loads(pickle.dumps(send)) is send,
            )

        bare = facts()
        watch()
        assert facts() == bare

    def test_stream_is_a_generator(self, watch: Callable[..., Watcher]) -> None:
        """A generator that is sent as a body is used up before it is sent."""

        def body() -> Iterator[bytes]:
            yield b"a"
            yield b"b"

        watch()
        requests.post(self.url(), data=body())
        assert self.origin.received[0].body == b"ab"


class NoNetwork(requests.adapters.BaseAdapter):
    """What a mock or a ``file:`` adapter is: it answers without sending anything."""

    def send(self, request: Any, *arguments: Any, **keywords: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        return response

    def close(self) -> None:
        """Nothing is open."""


def test_call_that_sends_nothing_is_no_trace(watch: Any) -> None:
    """With mocks or local files the counts of started and finished spans drift apart, and spans seem to be lost."""
    tracer = watch().tracing.tracer
    with requests.Session() as session:
        session.mount("mock:", NoNetwork())
        assert session.get("mock://anything").status_code == 200
    assert tracer.roots_sampled == 0


def test_sampler_that_fails_does_not_fail_the_call(watch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """A fault of ours would come out of the program's ``requests.get``."""

    class Broken:
        by_name = ignores_parent = False

        decide = mock.Mock(side_effect=RuntimeError("on purpose"))

    watch().tracing.tracer.sampler = Broken()
    with requests.Session() as session:
        session.mount("mock:", NoNetwork())
        assert session.get("mock://anything").status_code == 200
    assert capfd.readouterr().err.count("\n") <= 1
