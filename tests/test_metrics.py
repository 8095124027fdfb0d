"""The agent's counters: their text, and the port on which they can be fetched."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from autoinstr import prometheus, trouble
from autoinstr.prometheus import MetricsServer, announcing, prometheus_text
from autoinstr.report import InMemoryReporter
from autoinstr.runtime import start_thread
from autoinstr.sampling import ConstSampler
from autoinstr.trace import Tracer
from fakes import DEADLINE_S, until
from ports import free_port


def test_text_is_what_prometheus_reads() -> None:
    """Prometheus would refuse the page, or dashboards made for Jaeger's clients find nothing."""
    counts = {
        'traces{state="started",sampled="y"}': 3,
        'traces{state="joined",sampled="n"}': 0,
        "reporter_queue_length": 7,
    }
    assert prometheus_text(counts) == (
        "# HELP jaeger_tracer_traces_total Traces by where they started and whether they are kept.\n"
        "# TYPE jaeger_tracer_traces_total counter\n"
        'jaeger_tracer_traces_total{state="started",sampled="y"} 3\n'
        'jaeger_tracer_traces_total{state="joined",sampled="n"} 0\n'
        "# HELP jaeger_tracer_reporter_queue_length Spans that wait to be sent.\n"
        "# TYPE jaeger_tracer_reporter_queue_length gauge\n"
        "jaeger_tracer_reporter_queue_length 7\n"
    )


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MetricsServer]]:
    monkeypatch.setattr(trouble, "_last_said", {})
    made: list[MetricsServer] = []

    def make(port: int = 0, read: Callable[[], dict[str, int]] = lambda: {"traces": 1}) -> MetricsServer:
        made.append(MetricsServer(port or free_port(), read, start_thread))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop(DEADLINE_S)


def get(port: int, target: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_page(serve: Callable[..., MetricsServer]) -> None:
    """AUTOINSTR_METRICS_PORT would be without effect, or show old numbers."""
    counts = {"traces": 1}
    port = serve(read=lambda: counts).port
    assert get(port)[1].endswith("jaeger_tracer_traces_total 1\n")
    counts["traces"] = 2
    assert get(port, "/?x=1") == (200, get(port)[1])
    assert get(port)[1].endswith("_total 2\n")
    assert get(port, "/other")[0] == 404


@pytest.mark.parametrize(
    "request_bytes", [b"", b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"\xff" * 20000, b"GET /"]
)
def test_bad_requests_do_not_end_it(serve: Callable[..., MetricsServer], request_bytes: bytes) -> None:
    """A port scan would end the metrics."""
    port = serve().port
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
        connection.settimeout(DEADLINE_S)
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)  # The server may have gone away by now.
            assert connection.recv(10) == b""
        except OSError:
            pass
    assert get(port)[0] == 200


def test_fault_in_the_counts_does_not_end_it(
    serve: Callable[..., MetricsServer], capfd: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours would be a traceback on the program's stderr."""
    faults = [RuntimeError("odd")]

    def read() -> dict[str, int]:
        if faults:
            raise faults.pop()
        return {}

    port = serve(read=read).port
    with pytest.raises(http.client.RemoteDisconnected):
        get(port)
    assert get(port)[0] == 200
    assert capfd.readouterr().err == "autoinstr: cannot answer on the metrics port: RuntimeError: odd\n"


def test_further_processes_take_the_next_ports(
    serve: Callable[..., MetricsServer], capfd: pytest.CaptureFixture[str]
) -> None:
    """The counters of all workers but one would be out of reach."""
    base = free_port(3)
    for count in range(3):
        serve(base, read=lambda count=count: {"traces": count})
    assert [get(base + number)[1][-2] for number in range(3)] == ["0", "1", "2"]
    assert capfd.readouterr().err == ""


def test_the_thread_of_a_later_port_rests_and_ends_too(serve: Callable[..., MetricsServer]) -> None:
    """It would be woken at the first process's port, and hold up a fork or the end."""
    serve(base := free_port(2))
    second = serve(base)
    until(lambda: second._thread_id)
    assert second.pause(DEADLINE_S) > 0
    assert not second._running


def test_ports_that_are_all_taken_are_one_line(
    serve: Callable[..., MetricsServer], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker too many would fail, or tell it with each request."""
    monkeypatch.setattr(prometheus, "PORTS", 2)
    base = free_port(2)
    for _ in range(5):
        serve(base)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"port {base} or the 1 after it (AUTOINSTR_METRICS_PORT)" in line
    assert get(base)[0] == 200


def test_only_this_host_is_answered(serve: Callable[..., MetricsServer]) -> None:
    """Numbers of the program would be open to the network."""
    listener = serve()._listener
    assert listener is not None
    assert listener.getsockname()[0] == "127.0.0.1"


def test_rest_during_a_fork(serve: Callable[..., MetricsServer]) -> None:
    """Python 3.12 would warn of the thread, or the metrics be gone after a fork; the child must not hold the port."""
    server = serve()
    until(lambda: server._thread_id)
    assert server.pause(DEADLINE_S) > 0
    assert not server._running
    child = os.fork()
    if child == 0:
        server.abandon()
        os._exit(0 if server._listener is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    server.resume()
    assert not server._running
    server.start()
    assert get(server.port)[0] == 200


def test_stop_frees_the_port(serve: Callable[..., MetricsServer]) -> None:
    """A program that starts the agent anew would find its own port taken."""
    server = serve()
    assert get(server.port)[0] == 200
    server.stop(DEADLINE_S)
    with pytest.raises(ConnectionRefusedError):
        get(server.port)


def test_first_span_announces_and_then_costs_nothing() -> None:
    """The metrics would never start, or be started by each span."""
    announced: list[int] = []
    reporter = InMemoryReporter()
    tracer = announcing(lambda: announced.append(1))(ConstSampler(False), reporter)
    assert announced == []
    tracer.start("a").end()
    assert type(tracer) is Tracer
    tracer.start("b").end()
    assert (announced, tracer.roots_unsampled) == ([1], 2)
    tracer.__class__ = announcing(lambda: announced.append(2))
    tracer.start_local_root("c", 2, None, "", False).end()  # As servers do.
    assert (announced, tracer.roots_unsampled) == ([1, 2], 3)


def test_two_first_spans_at_once(serve: Callable[..., MetricsServer], capfd: pytest.CaptureFixture[str]) -> None:
    """The second of two first requests would find the port taken, by the first."""
    server = MetricsServer(free_port(), dict, start_thread)
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=lambda: (barrier.wait(DEADLINE_S), server.start())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert get(server.port)[0] == 200
    server.stop(DEADLINE_S)
    assert capfd.readouterr().err == ""
