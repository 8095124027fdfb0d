"""A traced server beside a collector that misbehaves: requests do not notice, the log stays quiet, spans come back.

And what else fails around a program: the name service, the disk, the clock. Whatever it is, memory stays within a bound that is
stated here, each span is counted once, and the program ends in time.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import DEADLINE_S, Collector, Server, SpanSink, read_request, response, until

APP = """\
import os, sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass

def app(environ, start_response):
    if environ['PATH_INFO'] == '/stop':
        os.kill(os.getpid(), 15)
    text = 'fine'
    if environ['PATH_INFO'] == '/memory':
        with open('/proc/self/status') as status:
            text = next(line.split()[1] for line in status if line.startswith('VmRSS'))
    if environ['PATH_INFO'] == '/spans':
        from autoinstr import span
        for _ in range(20000):
            with span('inner', attributes={'text': 'x' * 100}): pass
    if environ['PATH_INFO'] == '/metrics':
        from autoinstr import metrics
        text = repr(metrics())
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [text.encode()]

server = make_server('127.0.0.1', 0, app, handler_class=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


class App:
    """A server in a process of its own."""

    def __init__(self, folder: Path, environ: dict[str, str], *, bare: bool = False) -> None:
        path = folder / "app.py"
        path.write_text(APP)
        self.err = folder / "stderr"
        with self.err.open("w") as err:
            launcher = [] if bare else ["-m", "autoinstr"]
            self.process = subprocess.Popen(
                [sys.executable, *launcher, str(path)],
                env={**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "20", **environ},
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def get(self, path: str = "/") -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def counts(self) -> dict[str, int]:
        return eval(self.get("/metrics"))  # type: ignore[no-any-return]  # noqa: S307

    @property
    def lines(self) -> list[str]:
        return self.err.read_text().splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def start(there: Server, **environ: str) -> App:
        made.append(App(tmp_path, {**SpanSink.environ.fget(there), **environ}))  # type: ignore[attr-defined]
        return made[-1]

    yield start
    for one in made:
        one.close()


def never_answers(connection: Any, number: int) -> None:
    read_request(connection)
    time.sleep(3 * DEADLINE_S)


def drips(connection: Any, number: int) -> None:
    read_request(connection)
    for byte in response(body=b"x" * 1000):
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def talks_nonsense(connection: Any, number: int) -> None:
    read_request(connection)
    connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46 no HTTP\r\n\r\n")


def hangs_up(connection: Any, number: int) -> None:
    connection.recv(10)


def fails(connection: Any, number: int) -> None:
    while read_request(connection) is not None:
        connection.sendall(response("500 Oh\x1b[2J", b"a\nlong\nstory " * 1000))


def is_busy(connection: Any, number: int) -> None:
    while read_request(connection) is not None:
        connection.sendall(response("503 Busy", b"", "Retry-After: 1"))


def floods(connection: Any, number: int) -> None:
    read_request(connection)
    connection.sendall(response(body=b"x" * (10 << 20)))


FAULTS = (never_answers, drips, talks_nonsense, hangs_up, fails, is_busy, floods)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_requests_go_on_and_the_log_stays_quiet(run: Callable[..., App], fault: Callable[[Any, int], None]) -> None:
    """A sick collector would make the program slow, fill its log, or break it."""
    there = Server(fault)
    app = run(there)
    started = time.monotonic()
    for _ in range(100):
        assert app.get() == "fine"
    # A request that waits for the collector would take its timeout of ten seconds, and not only one of them.
    assert time.monotonic() - started < 8
    until(lambda: there.connections, "an export")
    until(lambda: app.counts()["reporter_queue_length"] < 100 or app.get(), "some time")
    for _ in range(20):
        assert app.get() == "fine"
    assert len(app.lines) <= 1
    assert all(line.startswith("autoinstr: cannot export spans: ") and line.isprintable() for line in app.lines)
    there.close()


def test_dead_collector_comes_back(run: Callable[..., App]) -> None:
    """An outage would end tracing until the program restarts, or flood the log."""
    there = SpanSink()
    there.close()
    app = run(there)
    for _ in range(50):
        app.get("/early")
    until(lambda: app.lines, "a line about the collector")
    back = SpanSink(port=there.port)
    app.get("/late")
    until(lambda: len(back.names) >= 51, "the spans")
    (line,) = app.lines
    assert "ConnectionRefusedError" in line
    counts = app.counts()
    assert (counts['reporter_spans{result="err"}'], counts['reporter_spans{result="dropped"}']) == (0, 0)
    back.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_is_bounded_beside_a_dead_collector(run: Callable[..., App]) -> None:
    """An outage of the collector would end with the program being killed for its memory."""
    there = SpanSink()
    there.close()
    app = run(there)
    app.get("/spans")
    before = int(app.get("/memory"))
    for _ in range(4):
        app.get("/spans")
    # 80,000 spans are 50 MB and more; the queue and what waits to be tried again hold 4096 each.
    assert int(app.get("/memory")) - before < 12_000
    counts = app.counts()
    assert counts["reporter_queue_length"] <= 4096
    lost = counts['reporter_spans{result="dropped"}'] + counts['reporter_spans{result="err"}']
    assert lost > 80_000
    assert len(app.lines) == 1


def test_own_traffic_is_not_traced(run: Callable[..., App]) -> None:
    """Each export would be a span that is exported: tracing would never come to rest."""
    there = SpanSink(response(body=b"{}"))
    sampling = Collector(
        response(body=b'{"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1.0}}')
    )
    app = run(
        there,
        JAEGER_SAMPLER_TYPE="remote",
        JAEGER_SAMPLING_ENDPOINT=f"http://127.0.0.1:{sampling.port}/sampling",
        JAEGER_SAMPLER_REFRESH_INTERVAL="100ms",
    )
    for _ in range(3):
        app.get("/wanted")
    until(lambda: len(there.names) >= 3, "the spans")
    polls = len(sampling.requests)
    until(lambda: len(sampling.requests) >= polls + 10, "some more polls")
    assert len(there.names) == 3
    traced = {"traceparent", "uber-trace-id", "baggage"}
    assert not [request.headers for request in (*there.requests, *sampling.requests) if traced & set(request.headers)]
    assert app.lines == []
    there.close()
    sampling.close()


def test_metrics_port(run: Callable[..., App]) -> None:
    """AUTOINSTR_METRICS_PORT would be without effect, or its requests be traced."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    there = SpanSink()
    app = run(there, AUTOINSTR_METRICS_PORT=str(port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    app.get("/wanted")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def sent() -> int:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
        found = re.search(r'^jaeger_tracer_reporter_spans_total\{result="ok"\} (\d+)$', page, re.MULTILINE)
        assert found
        return int(found[1])

    until(lambda: sent() == 1, "the count of the span")
    for _ in range(5):
        sent()
    time.sleep(0.1)
    assert (sent(), len(there.names)) == (1, 1)
    connection.close()
    there.close()


# ---- 100,000 requests ------------------------------------------------------------------------------------------------

#: Calls a WSGI application as a server does, without the server: what is measured is the agent. Prints what grew and the counts.
LOAD = """\
import json, sys, time
from autoinstr import flush, metrics, wrap_wsgi
from autoinstr import runtime

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']

app = wrap_wsgi(application)

def start_response(status, headers): pass

def serve(first, count):
    for number in range(first, first + count):
        environ = {
            'REQUEST_METHOD': 'GET', 'PATH_INFO': '/users/%d' % number, 'QUERY_STRING': 'page=%d' % number,
            'SERVER_PROTOCOL': 'HTTP/1.1', 'wsgi.url_scheme': 'http', 'HTTP_HOST': 'shop.example', 'REMOTE_ADDR': '10.0.0.1',
            'HTTP_USER_AGENT': 'browser %d' % number, 'HTTP_TRACEPARENT': '00-%032x-%016x-01' % (number + 1, number + 1)}
        assert app(environ, start_response) == [b'fine']
        if is_paced and len(runtime.running.reporter.queue) > 2000:
            flush(20)

def resident_kb():
    with open('/proc/self/status') as status:
        return int(next(line.split()[1] for line in status if line.startswith('VmRSS')))

def counted():
    # What is in none of the counts is being encoded.
    counts = metrics()
    waiting = sum(exporter.waiting for exporter in runtime.running.reporter.exporters)
    ends = sum(count for name, count in counts.items() if name.startswith('reporter_spans'))
    return ends + counts['reporter_queue_length'] + waiting, waiting, counts

exec(sys.argv[1])
#: Whether all spans are to be encoded and sent.
is_paced = sys.argv[2] == 'nothing'
serve(0, 30_000)
flush(0.3)  # What is kept at most is there by now: queue, caches, what is to be sent again.
before, started = resident_kb(), time.perf_counter()
serve(30_000, 100_000)
took, grown = time.perf_counter() - started, resident_kb() - before
if is_paced:
    flush(20)
deadline = time.monotonic() + 10
while (ends := counted())[0] != 130_000 and time.monotonic() < deadline:
    time.sleep(0.01)
print(json.dumps([grown, took, *ends]))
"""
#: A finished span takes a kilobyte and more: not one in sixteen may stay.
MOST_GROWTH_KB = 6000
#: A request that waited once for whatever is broken would make it more, on the busiest machine.
LONGEST_S = 30


def continues_for_ever(connection: Any, number: int) -> None:
    read_request(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def is_well(connection: Any, number: int) -> None:
    while read_request(connection) is not None:
        connection.sendall(response())


NO_NAMES = "import socket\ndef fail(*a, **k): raise socket.gaierror(-3, 'no name service')\nsocket.getaddrinfo = fail\n"
SLOW_NAMES = "import socket\nsocket.getaddrinfo = lambda *a, **k: time.sleep(100)\n"
ALL = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1", "AUTOINSTR_EXIT_TIMEOUT": "0.3"}
UDP = {**ALL, "AUTOINSTR_EXPORTER": "jaeger-udp"}
#: What is broken -> how the collector talks (None: there is none), what else is broken, and where the spans should go.
BROKEN: dict[str, tuple[Callable[[Any, int], None] | None, str, dict[str, str]]] = {
    "nothing": (is_well, "", {}),
    "gone": (None, "", {}),
    "hangs": (never_answers, "", {}),
    "nonsense": (talks_nonsense, "", {}),
    "busy": (is_busy, "", {}),
    "floods": (floods, "", {}),
    "continues": (continues_for_ever, "", {}),
    "no names": (None, NO_NAMES, {**UDP, "JAEGER_AGENT_HOST": "agent.example"}),
    "slow names": (None, SLOW_NAMES, {**UDP, "JAEGER_AGENT_HOST": "agent.example"}),
    "no agent": (None, "", {**UDP, "JAEGER_AGENT_PORT": "9"}),
    "disk full": (None, "", {**ALL, "AUTOINSTR_EXPORTER": "file", "AUTOINSTR_FILE": "/dev/full"}),
}


def run_program(
    folder: Path, text: str, environ: dict[str, str], *arguments: str, bare: bool = False
) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(text)
    launcher = [] if bare else ["-m", "autoinstr"]
    return subprocess.run(
        [sys.executable, *launcher, str(path), *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE_S,
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("what", BROKEN)
def test_hundred_thousand_requests(tmp_path: Path, what: str) -> None:
    """A long outage would fill the memory, slow the service down, flood its log, or lose spans that nobody counts."""
    talk, also, environ = BROKEN[what]
    there = Server(talk or is_well)
    if talk is None:
        there.close()
    target = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    done = run_program(tmp_path, LOAD, {**SpanSink.environ.fget(there), **target, **ALL, **environ}, also, what)  # type: ignore[attr-defined]
    there.close()
    assert done.returncode == 0, done.stderr
    grown_kb, took_s, ends, waiting, counts = json.loads(done.stdout)
    assert grown_kb < MOST_GROWTH_KB
    assert took_s < LONGEST_S
    assert counts["reporter_queue_length"] <= 4096
    assert waiting <= 4096  # To be sent again.
    assert [ends, counts['finished_spans{sampled="y"}'], counts['started_spans{sampled="y"}']] == [130_000] * 3, counts
    if what == "nothing":
        assert counts['reporter_spans{result="ok"}'] == 130_000, counts
    else:
        assert (counts['reporter_spans{result="ok"}'] > 0) == (what == "floods")
    lines = done.stderr.splitlines()
    # About the export, the missing backend, and the end.
    assert len(lines) <= (0 if what == "nothing" else 3)
    assert all(line.startswith("autoinstr: ") and line.isprintable() for line in lines)


# ---- The disk, the clock, the end ------------------------------------------------------------------------------------


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """A full disk would leave half a line in the file, glue the next one to it, and count the spans as written."""
    text = """\
import resource, signal, time
from autoinstr import flush, metrics, span

def work(count):
    for _ in range(count):
        with span('work'): pass
        assert flush(20)

work(5)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
work(20)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
work(5)
print(metrics())
"""
    file = tmp_path / "spans.json"
    done = run_program(tmp_path, text, {**ALL, "AUTOINSTR_EXPORTER": "file", "AUTOINSTR_FILE": str(file)})
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("autoinstr: cannot export spans: cannot write spans to ")
    lines = file.read_text().splitlines()
    whole = [line for line in lines if is_json(line)]
    # One was cut, and stands alone.
    assert (len(lines), 10 <= len(whole) < 30) == (len(whole) + 1, True)
    counts = eval(done.stdout)
    ok, err = counts['reporter_spans{result="ok"}'], counts['reporter_spans{result="err"}']
    assert (ok, err) == (len(whole), 30 - len(whole))


@pytest.mark.parametrize("place", ["missing/spans.json", "a folder", "a pipe"])
def test_file_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    """A mistake in a path would stop the program, or keep it from ending."""
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a pipe")  # Whose reader never comes.
    environ = {**ALL, "AUTOINSTR_EXPORTER": "file", "AUTOINSTR_FILE": str(tmp_path / place)}
    text = "from autoinstr import span\nfor _ in range(3):\n with span('work'): print('said')\n"
    started = time.monotonic()
    done = run_program(tmp_path, text, environ)
    assert time.monotonic() - started < 0.3 + 3
    assert (done.returncode, done.stdout) == (0, "said\n" * 3)
    (line,) = done.stderr.splitlines()
    assert line.startswith(("autoinstr: cannot export spans: cannot write spans to ", "autoinstr: left with spans unsent"))


def test_clock_that_is_stepped(tmp_path: Path) -> None:
    """A correction of the clock would give spans that end before they begin, or children outside of their parents."""
    text = """\
import time
from autoinstr import flush, span, trace

real, steps = time.time_ns, [0]
trace.time_ns = lambda: real() + steps[0]
for step in (-3600, 7200, -1 << 31):
    with span('outer'):
        time.sleep(0.001)
        steps[0] += step * 1_000_000_000
        with span('inner'):
            time.sleep(0.001)
    with span('next'): pass
assert flush(20)
"""
    sink = SpanSink()
    done = run_program(tmp_path, text, sink.environ)
    sink.close()
    assert (done.returncode, done.stderr) == (0, "")
    found = [
        span
        for request in sink.requests
        for group in json.loads(request.body)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    times = {span["spanId"]: (int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])) for span in found}
    assert len(times) == len(found) == 9
    assert all(0 <= end - start < 10e9 for start, end in times.values())
    inner = [span for span in found if "parentSpanId" in span]
    assert len(inner) == 3
    for span in inner:
        (start, end), (outer_start, outer_end) = times[span["spanId"]], times[span["parentSpanId"]]
        assert outer_start < start < end < outer_end


@pytest.mark.parametrize("what", ["hangs", "continues", "floods", "slow names"])
def test_end_in_time(tmp_path: Path, what: str) -> None:
    """A deployment would wait for each process whose collector is sick until it is killed."""
    talk, also, environ = BROKEN[what]
    there = Server(talk or is_well)
    text = f"import time\nfrom autoinstr import span\n{also}\nwith span('a'): pass\nprint(time.monotonic(), flush=True)\n"
    done = run_program(tmp_path, text, {**SpanSink.environ.fget(there), **ALL, **environ})  # type: ignore[attr-defined]
    took_s = time.monotonic() - float(done.stdout)
    there.close()
    assert done.returncode == 0
    assert took_s < 0.3 + 1.5
