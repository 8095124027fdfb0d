"""WSGI as the protocol says it (PEP 3333): what server and application see of us is nothing, and the span tells it all."""

from __future__ import annotations

import contextvars
import copy
import io
import sys
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from autoinstr.instrument.wsgi import wrap_application
from autoinstr.model import Kind, Resource, Status
from autoinstr.trace import current
from autoinstr.wire.jaeger import CompactEncoder, decode_message

from .conftest import build_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from autoinstr.instrument import Tracing
    from autoinstr.model import SpanData
    from autoinstr.report import InMemoryReporter

HEADERS = [("Content-Type", "text/plain")]


def environ_of(method: str = "GET", path: str = "/a", **more: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, **more}
    setup_testing_defaults(environ)
    return environ


def call(app: Any, environ: dict[str, Any] | None = None) -> tuple[list[tuple[Any, ...]], Any]:
    """Call as a server does: the arguments of each ``start_response``, and the very object returned."""
    started: list[tuple[Any, ...]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        started.append((status, headers, *exc_info))
        return lambda data: None

    return started, app(environ_of() if environ is None else environ, start_response)


def returns(result: Any, status: str = "200 OK") -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, list(HEADERS))
        return result

    return app


def the_span(reporter: InMemoryReporter) -> SpanData:
    (span,) = reporter.spans
    return span


class Parts:
    """An iterable whose ``close`` is on itself and not on its iterator, and which records what is done with it."""

    def __init__(self, *parts: bytes | BaseException, on_close: BaseException | None = None) -> None:
        self.parts = parts
        self.on_close = on_close
        self.closed = 0
        self.seen: list[object] = []

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            self.seen.append(current.get())
            if isinstance(part, BaseException):
                raise part
            yield part

    def close(self) -> None:
        self.closed += 1
        self.seen.append(current.get())
        if self.on_close is not None:
            raise self.on_close


class Sized(Parts):
    def __len__(self) -> int:
        return len(self.parts)


class TestResult:
    """The server handles what the application returned, and must get what it would get without us."""

    @pytest.mark.parametrize("result", [[b"one"], [b"one", b"two"], [], (b"one",), (b"one", b"two")])
    def test_complete_response_is_returned_itself(self, result: Any, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Servers derive Content-Length from the length of a list; a wrapper would lose it."""
        _, returned = call(wrap_application(returns(result), tracing))
        assert returned is result
        assert the_span(reporter).attributes["http.response.status_code"] == 200

    def test_file_wrapper_of_the_server_is_returned_itself(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """``sendfile`` would be off: servers know their own class."""
        result = FileWrapper(io.BytesIO(b"content"))
        environ = environ_of(**{"wsgi.file_wrapper": FileWrapper})
        assert call(wrap_application(returns(result), tracing), environ)[1] is result
        assert len(reporter.spans) == 1

    def test_file_from_a_wrapper_that_is_a_function(self, tracing: Tracing, tmp_path: Any) -> None:
        """uWSGI's ``file_wrapper`` is a function that returns the file, which it compares by identity."""
        path = tmp_path / "file"
        path.write_bytes(b"content")
        with path.open("rb") as result:
            environ = environ_of(**{"wsgi.file_wrapper": lambda file, size=0: file})
            assert call(wrap_application(returns(result), tracing), environ)[1] is result

    def test_has_a_length_only_if_the_original_has_one(self, tracing: Tracing) -> None:
        """``len()`` of a generator must fail, or servers believe it; ``len()`` of a sized body must not."""
        app = wrap_application(returns(Sized(b"a", b"b")), tracing)
        assert len(call(app)[1]) == 2
        _, unsized = call(wrap_application(returns(Parts(b"a")), tracing))
        assert not hasattr(unsized, "__len__")
        with pytest.raises(TypeError):
            len(unsized)

    def test_attributes_of_the_original_are_there(self, tracing: Tracing) -> None:
        """A middleware between us and the server may look at the response of its framework; a copy must not recurse."""
        result = Parts(b"a")
        _, returned = call(wrap_application(returns(result), tracing))
        assert returned.seen is result.seen
        assert not hasattr(returned, "fileno")
        assert list(copy.copy(returned)) == [b"a"]

    def test_content_length_of_a_single_part_survives(self, tracing: Tracing) -> None:
        """wsgiref adds Content-Length for a body with a length of one; without it connections cannot be kept alive."""
        out = io.BytesIO()
        handler = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ_of())
        handler.run(wrap_application(returns(Sized(b"hello")), tracing))
        assert b"Content-Length: 5\r\n" in out.getvalue()
        assert out.getvalue().endswith(b"hello")


class TestClose:
    """PEP 3333: ``close`` is called once, on the iterable, whether or not it was iterated."""

    @pytest.mark.parametrize("parts_read", [0, 1, 3])
    def test_is_passed_on_once_however_much_was_read(
        self, parts_read: int, tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """A client that goes away, HEAD and 304 would leak the application's connections, and leave the span open."""
        result = Parts(b"1", b"2")
        _, returned = call(wrap_application(returns(result), tracing))
        iterator = iter(returned)
        assert [part for _, part in zip(range(parts_read), iterator)] == [b"1", b"2"][:parts_read]
        assert not reporter.spans
        returned.close()
        assert result.closed == 1
        assert the_span(reporter).status == Status.UNSET

    def test_close_of_the_iterator_alone_is_not_taken_for_the_iterables(self, tracing: Tracing) -> None:
        """An iterable without ``close`` has none; its iterator's is Python's business."""

        class Iterable:
            def __iter__(self) -> Iterator[bytes]:
                return iterator

        events = []

        class Iterator_:
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> bytes:
                raise StopIteration

            def close(self) -> None:
                events.append("closed")

        iterator: Any = Iterator_()
        _, returned = call(wrap_application(returns(Iterable()), tracing))
        list(returned)
        returned.close()
        assert events == []

    def test_generator_is_closed(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """``finally`` in a generator application must run when the client goes; that is no error."""
        events = []

        def body() -> Iterator[bytes]:
            try:
                yield b"1"
                yield b"2"
            finally:
                events.append("closed")

        _, returned = call(wrap_application(returns(body()), tracing))
        assert next(iter(returned)) == b"1"
        returned.close()
        assert events == ["closed"]
        assert the_span(reporter).status == Status.UNSET
        assert not the_span(reporter).events

    def test_span_ends_if_the_server_drops_the_response(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """A server that never closes (or dies of an exception) must not cost the span."""
        _, returned = call(wrap_application(returns(Parts(b"1")), tracing))
        del returned
        assert len(reporter.spans) == 1


class TestExceptions:
    """They are the program's: the same object, with what it had, and on the span."""

    @pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration("x")])
    @pytest.mark.parametrize("place", ["call", "next", "close"])
    def test_reaches_the_server_unchanged(
        self, place: str, error: BaseException, tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """Servers act on the type and log the chain: another exception, or a context of ours, would mislead."""
        cause = ValueError("cause")
        error.__cause__, error.__context__ = cause, None

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            start_response("200 OK", HEADERS)
            if place == "call":
                raise error
            return Parts(b"1", *([error] if place == "next" else []), on_close=error if place == "close" else None)

        expected: Any = type(error)
        if place == "next" and isinstance(error, StopIteration):
            expected = RuntimeError  # Python's own doing in the generator.
        with pytest.raises(expected) as caught:
            _, returned = call(wrap_application(app, tracing))
            for _ in returned:
                pass
            returned.close()
        if expected is type(error):
            assert caught.value is error
            assert error.__cause__ is cause
            assert error.__context__ is None
        else:
            returned.close()
        span = the_span(reporter)
        assert span.status == Status.ERROR
        assert span.attributes["error.type"] == expected.__name__
        assert [event.name for event in span.events or ()] == ["exception"]
        assert current.get() is None

    def test_error_in_the_middle_is_recorded_once_though_close_follows(
        self, tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """Servers close after an error, too: one span, with the first error."""
        result = Parts(RuntimeError("in the body"), on_close=ValueError("in close"))
        _, returned = call(wrap_application(returns(result), tracing))
        with pytest.raises(RuntimeError):
            next(returned)
        with pytest.raises(ValueError):
            returned.close()
        assert the_span(reporter).attributes["error.type"] == "RuntimeError"

    def test_what_is_not_iterable_fails_as_without_us(self, tracing: Tracing) -> None:
        """``return None`` is a common mistake; its TypeError must come out when the server iterates."""
        _, returned = call(wrap_application(returns(None), tracing))
        with pytest.raises(TypeError, match="NoneType"):
            list(returned)
        returned.close()


class TestStartResponse:
    """What the application passes is passed on exactly, and the status is read from it, whatever it is."""

    def test_arguments_and_write_are_those_of_the_server(self, tracing: Tracing) -> None:
        """A server with a two-argument callable fails if there are three; ``write`` is an object of the server."""
        seen: list[object] = []

        def write(data: bytes) -> None:
            seen.append(data)

        def start_response(*arguments: Any) -> Callable[[bytes], None]:
            seen.append(arguments)
            return write

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            assert start("200 OK", HEADERS) is write
            write(b"data")
            return []

        wrap_application(app, tracing)(environ_of(), start_response)
        assert seen == [("200 OK", HEADERS), b"data"]

    def test_last_status_counts(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """An application may change its mind until the headers are sent, with ``exc_info``."""

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", HEADERS)
            try:
                raise RuntimeError("late")
            except RuntimeError:
                start_response("503 Busy", HEADERS, sys.exc_info())
            return []

        started, _ = call(wrap_application(app, tracing))
        assert started[1][2][0] is RuntimeError
        assert the_span(reporter).attributes["http.response.status_code"] == 503
        assert the_span(reporter).status == Status.ERROR

    def test_headers_sent_already(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """The server raises the application's exception then (PEP 3333), and it must come through."""

        def start_response(status: str, headers: object, exc_info: Any = None) -> None:
            if exc_info:
                raise exc_info[1]

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            start("200 OK", HEADERS)
            try:
                raise LookupError("late")
            except LookupError:
                start("500 Oops", HEADERS, sys.exc_info())
            raise AssertionError("not reached")

        with pytest.raises(LookupError):
            wrap_application(app, tracing)(environ_of(), start_response)
        assert the_span(reporter).attributes["error.type"] == "LookupError"

    def test_called_with_the_first_part(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """A generator application starts the response when it is first iterated, after the call has returned."""

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            start_response("404 Nothing", HEADERS)
            yield b"nothing"

        started, returned = call(wrap_application(app, tracing))
        assert started == []
        assert list(returned) == [b"nothing"]
        returned.close()
        assert the_span(reporter).attributes["http.response.status_code"] == 404

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            ("200", 200),
            ("299 Fine \xe9", 299),
            ("", None),
            ("OK", None),
            (200, None),
            (None, None),
            (b"200 OK", None),
            ([], None),
        ],
    )
    def test_status_may_be_anything(
        self, status: Any, code: int | None, tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """Servers have opinions on bad status lines, we have not."""
        started, _ = call(wrap_application(returns([], status), tracing))
        assert started[0][0] is status
        found = the_span(reporter).attributes.get("http.response.status_code")
        assert found == code or status == b"200 OK"

    def test_never_called(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """The server will complain; the span just has no status."""
        call(wrap_application(lambda environ, start: [], tracing))
        assert "http.response.status_code" not in the_span(reporter).attributes


class TestContext:
    """The span is current while the application's code runs, and at no other time."""

    def test_in_each_step_and_not_between(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Client spans made while a body is produced belong to the request; the server's own work does not."""
        result = Parts(b"1", b"2")
        in_call: list[object] = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Parts:
            in_call.append(current.get())
            start_response("200 OK", HEADERS)
            return result

        _, returned = call(wrap_application(app, tracing))
        assert current.get() is None
        for _ in returned:
            assert current.get() is None
        returned.close()
        assert current.get() is None
        span = the_span(reporter)
        assert in_call == [span]
        assert result.seen == [span, span, span]

    def test_iterated_elsewhere(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Servers may iterate and close in another thread or context than they have called in."""
        result = Parts(b"1")
        app = wrap_application(returns(result), tracing)
        _, returned = contextvars.Context().run(call, app)
        assert contextvars.Context().run(list, returned) == [b"1"]
        contextvars.Context().run(returned.close)
        assert result.seen == [the_span(reporter)] * 2

    def test_middleware_and_application_are_one_request(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Server, framework and middleware are all instrumented: the outermost makes the span."""
        inner = wrap_application(returns(Parts(b"1")), tracing, "inner")

        def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            yield from inner(environ, start_response)

        _, returned = call(wrap_application(middleware, tracing, "outer"))
        assert list(returned) == [b"1"]
        returned.close()
        assert the_span(reporter).scope == "outer"

    def test_one_request_after_another(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """A thread serves one request after another: each is a trace of its own."""
        app = wrap_application(returns([b""]), tracing)
        for _ in range(3):
            call(app)
        assert len({span.trace_id for span in reporter.spans}) == 3


class TestRequest:
    """What the span says of the request, and what no request can do."""

    def test_described_as_the_conventions_want(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Searches in Jaeger are by these names (OpenTelemetry: HTTP server spans)."""
        environ = environ_of(
            "POST",
            "/caf\xc3\xa9 x",
            SCRIPT_NAME="/app",
            QUERY_STRING="q=1&sig=secret",
            HTTP_HOST="example.org:8080",
            HTTP_USER_AGENT="agent/1",
            REMOTE_ADDR="10.0.0.9",
            HTTP_X_FORWARDED_FOR="1.2.3.4, 10.0.0.1",
            SERVER_PROTOCOL="HTTP/1.1",
        )
        environ["wsgi.url_scheme"] = "http"
        call(wrap_application(returns([]), tracing, "server"), environ)
        span = the_span(reporter)
        assert (span.name, span.kind, span.scope) == ("POST", Kind.SERVER, "server")
        assert span.attributes == {
            **{name: span.attributes[name] for name in ("sampler.type", "sampler.param")},
            "http.request.method": "POST",
            "url.scheme": "http",
            "server.address": "example.org",
            "server.port": 8080,
            "network.protocol.version": "1.1",
            "url.path": "/app/caf%C3%A9%20x",
            "url.query": "q=1&sig=REDACTED",
            "client.address": "1.2.3.4",
            "network.peer.address": "10.0.0.9",
            "user_agent.original": "agent/1",
            "http.response.status_code": 200,
        }

    def test_joins_the_trace_of_the_caller(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """The point of it all."""
        header = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        call(wrap_application(returns([]), tracing), environ_of(HTTP_TRACEPARENT=header))
        span = the_span(reporter)
        assert span.trace_id == 0x0123456789ABCDEF0123456789ABCDEF
        assert span.parent_id == 0x0123456789ABCDEF
        assert span.parent_is_remote

    def test_unknown_method(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Scanners invent methods, and each would be an operation of its own."""
        call(wrap_application(returns([]), tracing), environ_of("PROPFIND"))
        span = the_span(reporter)
        assert span.name == "HTTP"
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "PROPFIND"

    @pytest.mark.parametrize(
        "changes",
        [
            {"HTTP_HOST": "[:::]"},
            {"HTTP_HOST": "[::1"},
            {"HTTP_HOST": "a:b:c:99999999999999999999"},
            {"HTTP_HOST": "\xff\xfe:\xb2"},
            {"HTTP_HOST": ""},
            {"PATH_INFO": "\xff\x00%\ud800"},
            {"QUERY_STRING": "\xff=&&=;%zz"},
            {"HTTP_USER_AGENT": "\xff" * 100_000},
            {"HTTP_X_FORWARDED_FOR": ",,, ,"},
            {"HTTP_TRACEPARENT": "00-zz"},
            {"HTTP_BAGGAGE": "=;\xff,,,"},
            {"HTTP_UBER_TRACE_ID": "1:2"},
            {"SERVER_PORT": ""},
            {"SERVER_PROTOCOL": "", "wsgi.url_scheme": ""},
            {"REQUEST_METHOD": "G\xffT"},
            {"REMOTE_ADDR": None, "SCRIPT_NAME": None},
            {"PATH_INFO": b"/bytes", "HTTP_HOST": ["list"]},
        ],
        ids=repr,
    )
    def test_hostile_request_is_answered_and_can_be_sent(
        self, changes: dict[str, Any], tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """A request that breaks the tracer must break neither the response nor the spans beside it."""
        app = wrap_application(returns([b"fine"]), tracing)
        environ = environ_of()
        environ.update(changes)
        started, returned = call(app, environ)
        call(app)
        assert returned == [b"fine"]
        assert started[0][0] == "200 OK"
        payloads, unfit = CompactEncoder(Resource("service"), 65_000).encode(list(reporter.spans))
        arrived = [span for payload, _ in payloads for span in decode_message(payload).spans]
        assert len(arrived) + unfit == len(reporter.spans)
        assert "/a" in {span.attributes.get("url.path") for span in arrived}

    def test_environ_without_anything(self, tracing: Tracing, reporter: InMemoryReporter) -> None:
        """Test clients and hand-written gateways leave out even what PEP 3333 requires."""
        environ: dict[str, Any] = {}
        call(wrap_application(returns([b""]), tracing), environ)
        assert environ == {}
        assert the_span(reporter).name == "GET"

    def test_environ_is_neither_changed_nor_kept(self, tracing: Tracing) -> None:
        """Applications copy and pickle it; uWSGI must get it back when the request is over."""
        environ = environ_of()
        before = dict(environ)
        references = sys.getrefcount(environ)
        _, returned = call(wrap_application(returns(Parts(b"")), tracing), environ)
        list(returned)
        returned.close()
        assert environ == before
        del returned
        assert sys.getrefcount(environ) == references

    @pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No")])
    def test_response_without_a_body(
        self, method: str, status: str, tracing: Tracing, reporter: InMemoryReporter
    ) -> None:
        """Servers close such a response without iterating."""
        _, returned = call(wrap_application(returns(Parts(b"x"), status), tracing), environ_of(method))
        returned.close()
        assert the_span(reporter).attributes["http.response.status_code"] == int(status[:3])

    def test_excluded_request(self, reporter: InMemoryReporter) -> None:
        """Health checks can be left out by their URL."""
        tracing = build_tracing(reporter, OTEL_PYTHON_EXCLUDED_URLS="health")
        app = wrap_application(returns([]), tracing)
        call(app, environ_of(path="/health"))
        call(app, environ_of(path="/work"))
        assert the_span(reporter).attributes["url.path"] == "/work"

    def test_headers_that_are_asked_for(self, reporter: InMemoryReporter) -> None:
        """As configured; secrets never."""
        tracing = build_tracing(
            reporter,
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST="x-id,cookie",
            OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE="content-type",
        )
        call(wrap_application(returns([]), tracing), environ_of(HTTP_X_ID="7", HTTP_COOKIE="secret"))
        span = the_span(reporter)
        assert span.attributes["http.request.header.x-id"] == ["7"]
        assert span.attributes["http.response.header.content-type"] == ["text/plain"]
        assert "secret" not in str(span.attributes)

    def test_unsampled(self, reporter: InMemoryReporter) -> None:
        """Nothing is recorded, and the decision is there for the calls downstream."""
        seen = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Parts:
            start_response("200 OK", HEADERS)
            seen.append(current.get())
            return Parts(b"1")

        _, returned = call(wrap_application(app, build_tracing(reporter, keep=False)))
        assert list(returned) == [b"1"]
        returned.close()
        assert not reporter.spans
        assert seen[0] is not None
        assert not seen[0].recording
        assert current.get() is None


class TestValidated:
    """The standard library's checker on both sides of us, in the standard library's server."""

    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("result", [lambda: [b"hello"], lambda: (b"he", b"llo"), lambda: iter([b"hello"])])
    def test_protocol_is_kept(
        self, result: Callable[[], Any], method: str, keep: bool, reporter: InMemoryReporter
    ) -> None:
        """Any breach of the protocol by us is an AssertionError here."""

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            start_response("200 OK", list(HEADERS))
            return result()

        traced = wrap_application(validator(app), build_tracing(reporter, keep=keep))
        errors = io.StringIO()
        out = io.BytesIO()
        environ = environ_of(method, QUERY_STRING="", SCRIPT_NAME="")
        handler = SimpleHandler(io.BytesIO(), out, errors, environ, multithread=False)
        handler.http_version = "1.1"
        handler.run(validator(traced))
        assert errors.getvalue() == ""
        assert out.getvalue().startswith(b"HTTP/1.1 200 OK")
        assert len(reporter.spans) == keep

    def test_wrapping_twice_is_wrapping_once(self, tracing: Tracing) -> None:
        """gunicorn asks for its application more than once."""
        app = wrap_application(returns([]), tracing)
        assert wrap_application(app, tracing) is app


def test_long_texts_are_not_held(tracing: Tracing, reporter: InMemoryReporter) -> None:
    """Thousands of spans wait while a collector hangs: with 60 KB of path and headers each, that is the whole memory."""
    long = "/" + "a" * 60_000
    more = {"QUERY_STRING": long, "HTTP_USER_AGENT": long, "HTTP_X_FORWARDED_FOR": long, "HTTP_HOST": long}
    call(wrap_application(returns([b"x"]), tracing), environ_of(path=long, **more))
    texts = [text for fact in the_span(reporter).facts for text in fact if isinstance(text, str)]
    assert max(map(len, texts)) == tracing.config.attribute_length
