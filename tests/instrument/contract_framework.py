"""What holds for every framework, called in this process as a server calls it: subclass ``FrameworkContract``.

Each application has the same routes: ``/users/<number>``, ``/fail`` (raises), ``/teapot`` (the framework's own exception for
a 418), ``/v1/items/<number>`` by the framework's way of mounting or including, and ``/stream``.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, ClassVar
from wsgiref.util import setup_testing_defaults

import pytest

from autoinstr.model import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.instrument import Watcher
    from autoinstr.model import SpanData
    from autoinstr.report import InMemoryReporter


class ByName:
    """A sampler that must be asked by the final name."""

    by_name = True
    ignores_parent = False

    def __init__(self) -> None:
        self.names: list[str] = []

    def decide(self, trace_id: int, name: str) -> None:
        self.names.append(name)


def call_wsgi(app: Any, method: str, path: str, prefix: str = "") -> tuple[int, bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": prefix}
    setup_testing_defaults(environ)
    environ["wsgi.errors"] = io.StringIO()
    statuses = []
    result = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    try:
        body = b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    return int(statuses[-1][:3]), body


def call_asgi(app: Any, method: str, path: str, prefix: str = "") -> tuple[int, bytes]:
    sent: list[Any] = []
    waiting = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not waiting.is_set():
            waiting.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(1)  # Quart on CPython 3.13.0 waits for this, traced or not; the others have answered long before.
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": prefix + path,
        "raw_path": (prefix + path).encode(),
        "root_path": prefix,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def exchange_asgi(app: Any, scope: dict[str, Any], *received: dict[str, Any]) -> list[dict[str, Any]]:
    """Run anything else than a request: what the application sends when it receives these messages."""
    sent: list[Any] = []
    waiting = list(received)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


class FrameworkContract:
    """Subclasses make the application and name the routes as the framework spells them."""

    user_route: ClassVar[str]
    item_route: ClassVar[str]
    scope: ClassVar[str]
    call: ClassVar[Any]
    #: Whether the exception behind a 500 comes out to the server as well.
    raises_to_server = False
    #: Whether the framework passes on a prefix under which the whole application stands.
    has_prefix = True

    def make(self) -> Any:
        """The application, made after the framework was instrumented."""
        raise NotImplementedError

    @pytest.fixture
    def app(self, watch: Callable[..., Watcher]) -> Any:
        watch()
        return self.make()

    def get(self, app: Any, path: str, method: str = "GET", prefix: str = "") -> tuple[int, bytes]:
        return type(self).call(app, method, path, prefix)

    @staticmethod
    def only(reporter: InMemoryReporter) -> SpanData:
        (span,) = [span for span in reporter.spans if span.kind == Kind.SERVER]
        return span

    def test_named_by_the_route(self, app: Any, reporter: InMemoryReporter) -> None:
        """One operation per user would make Jaeger's list of operations useless."""
        assert self.get(app, "/users/17") == (200, b"hello 17")
        span = self.only(reporter)
        assert span.name == f"GET {self.user_route}"
        assert span.attributes["http.route"] == self.user_route
        assert span.attributes["url.path"] == "/users/17"
        assert span.attributes["http.response.status_code"] == 200
        assert span.scope == self.scope

    def test_named_by_the_whole_route_below_a_mount(self, app: Any, reporter: InMemoryReporter) -> None:
        """Two mounted applications with the same routes would be one operation."""
        assert self.get(app, "/v1/items/3") == (200, b"item 3")
        assert self.only(reporter).name == f"GET {self.item_route}"

    def test_prefix_of_the_whole_application(self, app: Any, reporter: InMemoryReporter) -> None:
        """OpenTelemetry: ``http.route`` includes the application's root."""
        if not self.has_prefix:
            return
        assert self.get(app, "/users/17", prefix="/shop") == (200, b"hello 17")
        span = self.only(reporter)
        assert span.attributes["http.route"] == "/shop" + self.user_route
        assert span.attributes["url.path"] == "/shop/users/17"

    def test_nothing_found(self, app: Any, reporter: InMemoryReporter) -> None:
        """Scanners ask for anything: the path must not become a name."""
        assert self.get(app, "/wp-login.php")[0] == 404
        span = self.only(reporter)
        assert span.name == "GET"
        assert "http.route" not in span.attributes
        assert span.status == Status.UNSET

    def test_method_not_allowed(self, app: Any, reporter: InMemoryReporter) -> None:
        """The same, with or without the route."""
        assert self.get(app, "/users/1", "DELETE")[0] in {405, 501}
        assert self.only(reporter).name in {"DELETE", f"DELETE {self.user_route}"}

    def test_exception_behind_a_500(self, app: Any, reporter: InMemoryReporter) -> None:
        """The framework hides it from the server; it is what one looks for in a trace."""
        if self.raises_to_server:
            with pytest.raises(RuntimeError, match="on purpose"):
                self.get(app, "/fail")
        else:
            assert self.get(app, "/fail")[0] == 500
        span = self.only(reporter)
        assert span.name == "GET /fail"
        assert span.status == Status.ERROR
        assert span.attributes["error.type"] == "RuntimeError"
        assert [event.attributes["exception.message"] for event in span.events or ()] == ["on purpose"]
        assert "in fail" in str((span.events or ())[0].attributes["exception.stacktrace"])

    def test_answer_by_exception_is_no_error(self, app: Any, reporter: InMemoryReporter) -> None:
        """``abort(418)`` is a way to answer."""
        assert self.get(app, "/teapot")[0] == 418
        span = self.only(reporter)
        assert span.status == Status.UNSET
        assert not span.events

    def test_stream(self, app: Any, reporter: InMemoryReporter) -> None:
        """A streamed response is whole, and its span has the status."""
        assert self.get(app, "/stream") == (200, b"part part part ")
        assert self.only(reporter).attributes["http.response.status_code"] == 200

    def test_sampled_by_the_final_name(self, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
        """Jaeger's per-operation strategies are keyed by the names that Jaeger shows."""
        watcher = watch()
        sampler = watcher.tracing.tracer.sampler = ByName()
        assert self.get(self.make(), "/users/1") == (200, b"hello 1")
        assert sampler.names == [f"GET {self.user_route}"]
        assert not reporter.spans

    def test_unsampled(self, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
        """The application works just the same."""
        watch(keep=False)
        app = self.make()
        assert self.get(app, "/users/1") == (200, b"hello 1")
        assert self.get(app, "/v1/items/3") == (200, b"item 3")
        assert self.get(app, "/stream") == (200, b"part part part ")
        assert not reporter.spans

