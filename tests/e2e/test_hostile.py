"""What strangers send and what programs hand in: the service answers as it would bare, and nothing of it costs a span.

Two processes serve the same five applications, one bare and one under the agent; both are sent the same bytes, and have to
answer the same. What a program hands to the API is tried on every format.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoinstr.model import Resource, SpanContext
from autoinstr.propagate import Propagator
from autoinstr.report import InMemoryReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import Span, Tracer
from autoinstr.wire import console, jaeger, otlp, zipkin
from conftest import PREFIXES
from fakes import DEADLINE_S, Server, SpanSink, read_request, response

# ---- The service -----------------------------------------------------------------------------------------------------

#: Says its ports, then its counts for each line on its stdin. What an application has seen of a request is its answer.
SERVICE = """\
import asyncio, logging, socket, sys, threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django.conf, django.core.wsgi, django.http, django.urls
import fastapi, flask, uvicorn, werkzeug.serving
from werkzeug.middleware.proxy_fix import ProxyFix

logging.disable()
reached = dict.fromkeys(('wsgi', 'flask', 'django', 'asgi', 'fastapi'), 0)

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass

def seen(environ):
    kept = ('REQUEST_METHOD', 'SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'REMOTE_ADDR', 'SERVER_PROTOCOL')
    return sorted((k, repr(v)) for k, v in environ.items() if k in kept or k.startswith(('HTTP_', 'CONTENT_')))

def plain(environ, start_response):
    environ['wsgi.input'].read(100)
    if 'boom' in environ['PATH_INFO']:
        raise RuntimeError('boom')
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [repr(seen(environ)).encode()]

def counted(name, app):
    def count(environ, start_response):
        reached[name] += 1
        return app(environ, start_response)
    return count

flask_app = flask.Flask('flask')
flask_app.wsgi_app = ProxyFix(flask_app.wsgi_app, 1, 1, 1, 1, 1)

@flask_app.route('/', defaults={'path': ''}, methods=['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
@flask_app.route('/<path:path>', methods=['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
def flask_view(path):
    if 'boom' in path:
        raise RuntimeError('boom')
    r = flask.request
    facts = (path, r.method, r.path, r.host, r.url, r.remote_addr, r.access_route, r.content_length, r.get_data(),
             str(r.user_agent), list(r.headers.items()), r.args.to_dict(False))
    return flask.Response(repr(facts), mimetype='text/plain')

def django_view(request, path):
    if 'boom' in path:
        raise RuntimeError('boom')
    facts = (path, request.method, request.get_host(), request.build_absolute_uri(), request.body, request.is_secure(),
             sorted(request.headers.items()))
    return django.http.HttpResponse(repr(facts), content_type='text/plain')

django.conf.settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=['127.0.0.1', '.example'], USE_X_FORWARDED_HOST=True, LOGGING_CONFIG=None,
    SECURE_PROXY_SSL_HEADER=('HTTP_X_FORWARDED_PROTO', 'https'), SECRET_KEY='x', MIDDLEWARE=[
        'django.middleware.security.SecurityMiddleware', 'django.middleware.common.CommonMiddleware'])
urlpatterns = [django.urls.re_path('^(.*)$', django_view)]

class Plain:
    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            return
        reached['asgi'] += 1
        if 'boom' in scope['path']:
            raise RuntimeError('boom')
        kept = ('method', 'path', 'raw_path', 'query_string', 'root_path', 'scheme', 'headers', 'http_version')
        text = repr([(key, scope[key]) for key in kept] + [scope['client'][0]])
        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})
        await send({'type': 'http.response.body', 'body': text.encode('utf-8', 'replace')})

fastapi_app = fastapi.FastAPI()

@fastapi_app.middleware('http')
async def count(request, call_next):
    reached['fastapi'] += 1
    return await call_next(request)

@fastapi_app.api_route('/{path:path}', methods=['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
async def fastapi_view(path: str, request: fastapi.Request, user_agent: str = fastapi.Header(''), q: int = 0):
    if 'boom' in path:
        raise RuntimeError('boom')
    facts = (path, q, request.method, str(request.url), request.client.host, user_agent, request.headers.items())
    return fastapi.Response(repr(facts).encode('utf-8', 'replace'), media_type='text/plain')

def serve_asgi(listener, app, http):
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, http=http, lifespan='off', forwarded_allow_ips='*'))
    server.install_signal_handlers = lambda: None
    asyncio.run(server.serve([listener]))

ports = []
for name, app in (('wsgi', plain), ('django', django.core.wsgi.get_wsgi_application())):
    server = make_server('127.0.0.1', 0, counted(name, app), handler_class=Quiet)
    server.daemon_threads = True
    ports.append((name, server.server_port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
server = werkzeug.serving.make_server('127.0.0.1', 0, counted('flask', flask_app), threaded=True)
ports.append(('flask', server.server_port))
threading.Thread(target=server.serve_forever, daemon=True).start()
for name, app, http in (('asgi', Plain(), 'httptools'), ('fastapi', fastapi_app, 'h11')):
    listener = socket.create_server(('127.0.0.1', 0))
    ports.append((name, listener.getsockname()[1]))
    threading.Thread(target=serve_asgi, args=(listener, app, http), daemon=True).start()
print(dict(ports), flush=True)
for line in sys.stdin:
    import autoinstr
    print((reached, autoinstr.flush(20) and autoinstr.metrics()), flush=True)
"""

STACKS = ("wsgi", "flask", "django", "asgi", "fastapi")
#: Whose servers wait for a body as long as it takes, and for nothing else.
BLOCKING = {"wsgi", "flask", "django"}
CAPTURED = "host,x-forwarded-for,user-agent,tracestate,baggage,x-odd,content-length"


class Service:
    """The five applications in a process of their own."""

    def __init__(self, path: Path, environ: dict[str, str], *flags: str) -> None:
        bare = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
        self.err = path.with_suffix(".err")
        with self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *flags, str(path)],
                env={**bare, "PYTHONHASHSEED": "0", **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ports: dict[str, int] = self._read()

    def _read(self) -> Any:
        line = self.stdout.readline()
        assert line, self.err.read_text()
        return eval(line)

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many requests each application has seen, and the agent's own counts, everything sent."""
        self.stdin.write("\n")
        self.stdin.flush()
        return self._read()  # type: ignore[no-any-return]

    @property
    def complaints(self) -> list[str]:
        """What the agent had to say."""
        return [line for line in self.err.read_text().splitlines() if line.startswith("autoinstr:")]

    def answer(self, stack: str, request: bytes) -> bytes:
        """All bytes that come back, but for what differs from process to process."""
        port = self.ports[stack]
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            answer = b""
            try:
                connection.sendall(request)
                if stack in BLOCKING:
                    connection.shutdown(socket.SHUT_WR)
            except OSError as error:  # It did not want to read all of it, and may have answered all the same.
                assert not isinstance(error, TimeoutError)
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
            except ConnectionError:
                pass
        answer = re.sub(rb"(?i)\r\ndate: [^\r]*", b"", answer)
        return answer.replace(b"%d" % port, b"<port>")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self.stdin.close()
        self.stdout.close()


class Pair(NamedTuple):
    bare: Service
    traced: Service
    sink: SpanSink


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    sink = SpanSink()
    path = tmp_path_factory.mktemp("hostile") / "service.py"
    path.write_text(SERVICE)
    (path.parent / "bare.py").write_text(SERVICE)
    environ = {
        **sink.environ,
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": CAPTURED,
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": "content-type",
        "OTEL_PYTHON_EXCLUDED_URLS": "/never$",
        "JAEGER_PROPAGATION": "jaeger,w3c,b3",
    }
    bare = Service(path.parent / "bare.py", {"OTEL_SDK_DISABLED": "true"})
    traced = Service(path, environ, "-m", "autoinstr")
    yield Pair(bare, traced, sink)
    bare.close()
    traced.close()
    sink.close()


# ---- What strangers send ---------------------------------------------------------------------------------------------

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = {
    "Host": "127.0.0.1:8000",
    "traceparent": f"00-{TRACE}-{SPAN}-01",
    "tracestate": "vendor=1,other@x=2",
    "baggage": "user=me,key=a%20b;property=1",
    "uber-trace-id": f"{TRACE}:{SPAN}:0:1",
    "uberctx-user": "me",
    "jaeger-debug-id": "odd",
    "jaeger-baggage": "a=1,b=2",
    "b3": f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90",
    "X-B3-TraceId": TRACE,
    "X-B3-SpanId": SPAN,
    "X-B3-Sampled": "1",
    "X-B3-Flags": "1",
    "User-Agent": "curl/8.0",
    "X-Forwarded-For": "1.2.3.4, 5.6.7.8",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Port": "443",
    "X-Forwarded-Prefix": "/shop",
    "Forwarded": "for=1.2.3.4;proto=https",
    "Content-Length": "0",
    "X-Odd": "x",
    "Cookie": "a=b",
}
NASTY = (
    "", " ", ",", ";", "=", ":", "::::", "-", "----", "%", "%zz", "%00", "\x00", "\x7f", "\t", "ÿ", "é", "\xa0", "[", "[::1", "[::1]:x",
    "[]:1", "127.0.0.1:99999999999", "127.0.0.1:-1", "127.0.0.1:²", "a:b:c", "user:secret@host", "0x10", "+1", "-1", "1_0", "٣", "1e9", "NaN",
    f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more",
    f"{TRACE}{TRACE}:{SPAN}:0:1", f"0:{SPAN}:0:1", f"{TRACE}%3A{SPAN}%3A0%3A1", f"{TRACE}:{SPAN}:0:-1", "d", "0", "true",
    "a=" + "b" * 5000, ",".join(f"k{number}=v" for number in range(300)), "=" * 3000, "%41" * 2000, "x" * 8000, "\\\r", "{}'\"<script>",
)  # fmt: skip
#: As they go over the wire in latin-1; line breaks would end the header.
letters = st.characters(max_codepoint=255, exclude_characters="\r\n")


FIT = frozenset(map(chr, range(33, 127)))
FIT_METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"))
#: What parsers judge a request by.
FRAMING = frozenset(("content-length", "host"))


@st.composite
def damaged(draw: st.DrawFn, value: str) -> str:
    """A valid value with a piece of it replaced."""
    start = draw(st.integers(0, len(value)))
    end = draw(st.integers(start, len(value)))
    return value[:start] + draw(st.one_of(st.text(letters, max_size=4), st.sampled_from(NASTY))) + value[end:]


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, str]:
    name = draw(st.sampled_from(sorted(VALID)))
    value = draw(st.one_of(damaged(VALID[name]), st.sampled_from(NASTY), st.text(letters, max_size=60)))
    return draw(st.sampled_from((name, name.lower(), name.upper()))), value


targets = st.one_of(
    st.sampled_from((
        "/", "/boom", "//", "/%", "/%zz", "/%00", "/%ff%fe", "/é", "/a b", "/../..", "/?", "/?q=1", "/?q=x&token=secret", "/?%", "*", "", "x",
        "http://other.example/path?a=b", "http://", "://", "/#f", "/;p", "/" + "a" * 3000, "/?" + "a=b&" * 1000, "/\x7f", "/%ed%a0%80",
    )),
    st.text(letters, max_size=30).map(lambda text: "/" + text.replace(" ", "+")),
    st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), max_size=30),
)  # fmt: skip
methods = st.one_of(
    st.sampled_from(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "get", "", "G\xc9T", "A" * 300, "G(T")),
    st.text(st.characters(codec="ascii", categories=["Lu"]), min_size=1, max_size=10),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request of which some things are odd; every other one such that each server's parser lets it through."""
    is_fit = draw(st.booleans())
    method = draw(st.one_of(st.just("GET"), st.just("GET"), methods))
    target = draw(st.one_of(st.just("/path"), targets))
    version = draw(st.sampled_from(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "")))
    lines = draw(st.lists(headers(), max_size=8))
    if is_fit:
        method = method if method in FIT_METHODS else "POST"
        target = "/" + "".join(filter(FIT.__contains__, target))
        version = "HTTP/1.1"
        lines = [(name, "".join(filter(FIT.__contains__, value))) for name, value in lines if name.lower() not in FRAMING]
    if is_fit or draw(st.booleans()):
        lines.append(("Host", draw(st.sampled_from(("127.0.0.1:8000", "shop.example", "127.0.0.1")))))
    head = [f"{method} {target} {version}", "Connection: close", *(f"{name}: {value}" for name, value in lines)]
    body = b"some body" if draw(st.booleans()) and not is_fit else b""
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + body


def traces(counts: dict[str, int]) -> int:
    """How many requests the agent has seen."""
    return sum(count for name, count in counts.items() if name.startswith("traces{"))


@pytest.mark.parametrize("stack", STACKS)
def test_any_request_is_answered_as_without_tracing(pair: Pair, stack: str) -> None:
    """A stranger could get errors out of a traced service, make it see another request than was sent, or hide from it."""
    statuses = set()

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(request=requests())
    def is_answered_alike(request: bytes) -> None:
        bare, traced = pair.bare.answer(stack, request), pair.traced.answer(stack, request)
        statuses.add(bare[9:12])
        assert traced == bare

    before_bare, _ = pair.bare.counts()
    before, counts_before = pair.traced.counts()
    is_answered_alike()
    after_bare, _ = pair.bare.counts()
    after, counts = pair.traced.counts()
    # Otherwise nothing has been tried.
    assert b"200" in statuses and len(statuses) > 1
    assert counts["span_context_decoding_errors"] > counts_before["span_context_decoding_errors"]
    reached = after[stack] - before[stack]
    assert reached == after_bare[stack] - before_bare[stack] > 0
    assert traces(counts) - traces(counts_before) == reached
    assert counts['reporter_spans{result="ok"}'] == counts['started_spans{sampled="y"}'] == len(pair.sink.spans)
    assert pair.traced.complaints == []


# ---- What programs hand in -------------------------------------------------------------------------------------------


class Refuses:
    """Cannot be printed, compared or hashed."""

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise ValueError("no")

    def __hash__(self) -> int:
        raise ValueError("no")

    def __bool__(self) -> bool:
        raise ValueError("no")

    def __int__(self) -> int:
        raise ValueError("no")


class NoClass:
    """A proxy whose object is gone."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ReferenceError("gone")


class BadText(str):
    def __len__(self) -> int:
        raise ValueError("no")

    def __getitem__(self, place: Any) -> str:
        raise ValueError("no")

    def __str__(self) -> str:
        raise ValueError("no")


class BadList(list[Any]):
    def __len__(self) -> int:
        raise ValueError("no")

    def __iter__(self) -> Iterator[Any]:
        raise ValueError("no")

    def __getitem__(self, place: Any) -> Any:
        raise ValueError("no")


class BadDict(dict[Any, Any]):
    def items(self) -> Any:
        raise ValueError("no")

    keys = __iter__ = items

    def __bool__(self) -> bool:
        raise ValueError("no")


class BadError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


itself: list[Any] = []
itself.append(itself)
deep: list[Any] = []
for _ in range(10_000):
    deep = [deep]

VALUES: dict[str, Any] = {
    "refuses": Refuses(),
    "no class": NoClass(),
    "bad text": BadText("text"),
    "bad list": BadList([1, 2]),
    "bad dict": BadDict(a=1),
    "bad item": [BadText("text"), Refuses()],
    "itself": itself,
    "deep": deep,
    "half a pair": "\ud800",
    "control": "\0\x1b[2J\r\n",
    "bytes": b"\xff\xfe\0",
    "infinity": float("inf"),
    "no number": float("nan"),
    "huge number": 10**5000,
    "none": None,
    "long": "x" * (1 << 20),
    "long bytes": bytes(1 << 20),
    "long list": ["x" * 1000] * 1000,
    "class": Refuses,
}

HAND_IN: dict[str, Callable[[Span, Any], object]] = {
    "attribute": lambda span, value: span.set_attribute("key", value),
    "attributes": lambda span, value: span.set_attributes({"key": value}),
    "key": lambda span, value: span.set_attribute(value, 1),
    "priority": lambda span, value: span.set_attribute("sampling.priority", value),
    "event": lambda span, value: span.add_event("event", {"key": value}),
    "event's attributes": lambda span, value: span.add_event("event", value),
    "link": lambda span, value: span.add_link(SpanContext(1, 2), {"key": value}),
    "baggage": lambda span, value: span.set_baggage("key", value),
    "status": lambda span, value: span.set_status(2, value),
    "error": lambda span, value: span.record_exception(ValueError(value)),
    "error's attributes": lambda span, value: span.record_exception(ValueError(), {"key": value}),
    "unprintable error": lambda span, value: span.fail(BadError(value)),
    "facts": lambda span, value: setattr(span, "facts", ((lambda found: {"key": found}, value),)),
}

ENCODERS: dict[str, Callable[[Resource, int], Any]] = {
    "udp": lambda resource, limit: jaeger.CompactEncoder(resource, max_value_length=limit),
    "jaeger": lambda resource, limit: jaeger.BinaryEncoder(resource, max_value_length=limit),
    "protobuf": lambda resource, limit: otlp.ProtobufEncoder(resource, max_value_length=limit),
    "json": lambda resource, limit: otlp.JsonEncoder(resource, max_value_length=limit),
    "zipkin": lambda resource, limit: zipkin.JsonEncoder(resource, max_value_length=limit),
    "console": lambda resource, limit: console.ConsoleEncoder(resource),
}


@pytest.fixture
def finished() -> InMemoryReporter:
    return InMemoryReporter()


@pytest.fixture
def tracer(finished: InMemoryReporter) -> Tracer:
    return Tracer(ConstSampler(True), finished)


@pytest.mark.parametrize("way", HAND_IN)
def test_no_value_raises_into_the_program(tracer: Tracer, way: str) -> None:
    """A line that was added for tracing would break the program with the one odd object that comes along."""
    raised = {}
    for name, value in VALUES.items():
        span = tracer.start("span")
        try:
            HAND_IN[way](span, value)
            Propagator(("jaeger", "tracecontext", "baggage")).inject(span)
            span.end()
        except Exception as error:
            raised[name] = f"{type(error).__name__}: {error}"
    assert raised == {}


@pytest.mark.parametrize("name", ENCODERS)
def test_no_value_takes_other_spans_along(tracer: Tracer, name: str) -> None:
    """One odd object in one request would cost the traces of all requests of that second."""
    encoder = ENCODERS[name](Resource("service"), 4096)
    wrong = {}
    for (way, hand_in), (kind, value) in ((pair, value) for pair in HAND_IN.items() for value in VALUES.items()):
        spans = [tracer.start("before"), tracer.start("odd"), tracer.start("after")]
        try:
            hand_in(spans[1], value)
        except Exception:  # The test above.
            continue
        for span in spans:
            span.end()
        try:
            payloads, lost = encoder.encode(spans)
        except Exception as error:
            wrong[way, kind] = f"{type(error).__name__}: {error}"
            continue
        if lost + sum(count for _, count in payloads) != 3 or lost > 1:
            wrong[way, kind] = f"{lost} lost"
        # 4096 characters, or a hundred of them for a list, and as much again for how a format writes it. Keys and facts are
        # not the program's data.
        if way not in {"key", "facts"} and sum(len(payload) for payload, _ in payloads) > 2 * 128 * 4096:
            wrong[way, kind] = "too long"
    assert wrong == {}


# ---- What programs do ------------------------------------------------------------------------------------------------


def run_program(folder: Path, text: str, environ: dict[str, str], *, bare: bool = False) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, *([] if bare else ["-m", "autoinstr"]), str(path)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
    )


@pytest.fixture
def sink() -> Iterator[SpanSink]:
    one = SpanSink()
    yield one
    one.close()


def test_recursion_to_the_limit(tmp_path: Path, sink: SpanSink) -> None:
    """A stack that overflows in the middle of our work would raise something else, or leave a span current for ever."""
    text = """\
import sqlite3, sys
from autoinstr import current_span, flush, span

def down():
    with span('level'):
        return down()

base = sqlite3.connect(':memory:')
def query():
    base.execute('select 1').fetchall()
    return query()

def shifted(work, by):
    return shifted(work, by - 1) if by else work()

ends = []
sys.setrecursionlimit(110)
for work in (down, query):
    for by in range(8):  # So that it overflows at each depth of ours.
        try:
            shifted(work, by)
        except BaseException as error:
            ends.append(type(error).__name__)
sys.setrecursionlimit(1000)
with span('after') as after:
    pass
print(set(ends), current_span().trace_id, after.parent_id)
base.close()
"""
    bare = run_program(tmp_path, text, {"OTEL_SDK_DISABLED": "true"}, bare=True)
    traced = run_program(tmp_path, text, sink.environ)
    assert (traced.returncode, traced.stdout, traced.stderr) == (0, bare.stdout, bare.stderr)
    assert traced.stdout == "{'RecursionError'} 0 0\n"
    assert "after" in sink.names


def test_object_that_is_slow_to_print(tmp_path: Path, sink: SpanSink) -> None:
    """A request would wait for the text of an object that nobody may ever look at, and so would the end of the program."""
    text = """\
import time
from autoinstr import span

class Slow:
    def __str__(self):
        time.sleep(10)
        return 'slow'

started = time.monotonic()
with span('fast'): pass
for _ in range(20):
    with span('slow') as current:
        current.set_attribute('object', Slow())
        current.add_event('event', {'object': Slow()})
print(time.monotonic() - started < 1, time.monotonic(), flush=True)
"""
    done = run_program(tmp_path, text, {**sink.environ, "AUTOINSTR_EXIT_TIMEOUT": "0.5"})
    quick, ended = done.stdout.split()
    assert (done.returncode, quick) == (0, "True")
    assert time.monotonic() - float(ended) < 0.5 + 1.5
    (line,) = done.stderr.splitlines()
    assert line.startswith("autoinstr: left with spans unsent")


#: Prints by how many kilobytes the process has grown at most.
GROWTH = """\
import time
from autoinstr import flush, metrics, span
from autoinstr.runtime import running

def resident_kb():
    with open('/proc/self/status') as status:
        return int(next(line.split()[1] for line in status if line.startswith('VmRSS')))

def work(first, count):
    most = 0
    for number in range(first, first + count):
        {body}
        if number % 1000 == 0:
            most = max(most, resident_kb())
        if {pace} and len(running.reporter.queue) >= 4000:
            flush(20)
    flush(20)
    return max(most, resident_kb())

before = work(0, {warm_up})
print(work({warm_up}, {count}) - before, {{name: count for name, count in metrics().items() if count}})
"""

#: What is different each time -> (what is done, how often, whether all of it is sent, kilobytes that it may cost).
ALWAYS_NEW: dict[str, tuple[str, int, bool, int]] = {
    "a million names": ("with span('name %d' % number): pass", 1_000_000, False, 3000),
    "everything": (
        "with span('name %d' % number) as s: s.set_attribute('key %d' % number, 'value %d' % number).add_event(str(number))",
        30_000,
        True,
        3000,
    ),
    # Of a value of 1 MB 4 KB are kept, in a queue of 4096.
    "megabytes": ("with span('one') as s: s.set_attribute('key', '%d' % number + 'x' * (1 << 20))", 3000, True, 20_000),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("what", ALWAYS_NEW)
def test_what_never_repeats_does_not_fill_the_memory(tmp_path: Path, what: str) -> None:
    """An id in a span's name, the mistake that everybody makes once, would end with the service being killed."""
    body, count, pace, most_kb = ALWAYS_NEW[what]
    text = GROWTH.format(body=body, count=count, pace=pace, warm_up=min(count // 3, 20_000))
    there = Server(swallows)
    environ = {
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{there.port}",
    }
    done = run_program(tmp_path, text, environ)
    there.close()
    assert (done.returncode, done.stderr) == (0, "")
    grown_kb, _, counts = done.stdout.partition(" ")
    found = eval(counts)
    ends = found['reporter_spans{result="ok"}'] + found.get('reporter_spans{result="dropped"}', 0)
    assert ends == found['started_spans{sampled="y"}'] == count + min(count // 3, 20_000)
    assert int(grown_kb) < most_kb


def swallows(connection: Any, number: int) -> None:
    while read_request(connection) is not None:
        connection.sendall(response())
