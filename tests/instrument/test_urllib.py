"""urllib.request, and what is particular to it."""

from __future__ import annotations

import io
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.model import Status

from .contract_client import Answer, ClientContract, below

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autoinstr.instrument import Watcher


class TestUrllib(ClientContract):
    """The contract, with openers of the program's own."""

    scope = "urllib"
    unreachable = frozenset({"URLError"})

    def send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None, timeout: float | None = None
    ) -> Answer:
        request = urllib.request.Request(url, body, headers or {}, method=method)
        keywords: Any = {} if timeout is None else {"timeout": timeout}
        return self.answer(lambda: urllib.request.urlopen(request, **keywords))

    @staticmethod
    def answer(call: Callable[[], Any]) -> Answer:
        """An error status is an exception here, which is a response as well."""
        try:
            response = call()
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Answer(response.status, response.read())

    def open(self, url: str) -> Any:
        return urllib.request.urlopen(url)

    def send_securely(self, url: str, certificate: str | None) -> Answer:
        return self.answer(lambda: urllib.request.urlopen(url, context=ssl.create_default_context(cafile=certificate)))

    def send_by_proxy(self, url: str, proxy: str, certificate: str | None = None) -> Answer:
        handlers: list[Any] = [urllib.request.ProxyHandler({"http": proxy, "https": proxy})]
        if certificate:
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificate)))
        return self.answer(lambda: urllib.request.build_opener(*handlers).open(url))

    def shared_sender(self) -> Callable[[str], Answer]:
        opener = urllib.request.build_opener()
        return lambda url: self.answer(lambda: opener.open(url))

    def test_error_is_a_response(self, watch: Callable[..., Watcher]) -> None:
        """``HTTPError`` no longer has its status, headers or body, or the span has not."""
        with below(watch()), pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(self.url("/status/404"))
        with caught.value as error:
            assert (error.code, error.read(), error.headers["X-Answer"]) == (404, b"ok", "first")
        span = self.the_span()
        assert (span.status, span.attributes["http.response.status_code"]) == (Status.ERROR, 404)

    def test_request_object_is_not_changed(self, watch: Callable[..., Watcher]) -> None:
        """A ``Request`` that is used again carries the headers of the time before."""
        request = urllib.request.Request(self.url(), headers={"X-Own": "1"})
        with urllib.request.urlopen(request) as response:
            response.read()
        bare = dict(request.headers), dict(request.unredirected_hdrs)
        with below(watch()), urllib.request.urlopen(request) as response:
            response.read()
        assert (request.headers, request.unredirected_hdrs) == bare

    def test_other_schemes(self, watch: Callable[..., Watcher], tmp_path: Path) -> None:
        """``file:`` and ``data:`` URLs, which are no requests, have spans or fail."""
        (tmp_path / "a.txt").write_text("text")
        watch()
        with urllib.request.urlopen((tmp_path / "a.txt").as_uri()) as response:
            assert response.read() == b"text"
        with urllib.request.urlopen("data:,abc") as response:
            assert response.read() == b"abc"
        assert not self.reporter.spans

    def test_file_as_body(self, watch: Callable[..., Watcher]) -> None:
        """A file, whose length nobody knows, cannot be sent."""
        watch()
        request = urllib.request.Request(self.url(), io.BytesIO(b"from a file"), {"Content-Type": "text/plain"})
        with urllib.request.urlopen(request) as response:
            assert response.status == 200
        assert self.origin.received[0].body == b"from a file"

    def test_password_in_the_url(self, watch: Callable[..., Watcher]) -> None:
        """Passwords in URLs can be read by everybody who can read traces; urllib sends them nowhere, and fails."""
        (span,) = self.fails_as_bare(watch, lambda: self.send("GET", "http://ann:secret@nowhere.invalid/a"))
        assert "secret" not in str(span.attributes)
        assert span.attributes["url.full"] == "http://REDACTED:REDACTED@nowhere.invalid/a"

    def test_fragment(self, watch: Callable[..., Watcher]) -> None:
        """A fragment becomes part of the host's name, or shows the token that is in it."""
        watch()
        self.send("GET", f"http://127.0.0.1:{self.origin.port}#access_token=abc")
        attributes = self.the_span().attributes
        assert attributes["server.address"] == "127.0.0.1"
        assert attributes["url.full"] == f"http://127.0.0.1:{self.origin.port}#access_token=REDACTED"
