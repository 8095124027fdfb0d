"""A traced server beside a collector that misbehaves: requests do not notice, the log stays quiet, spans come back."""

from __future__ import annotations

import http.client
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
