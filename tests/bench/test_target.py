"""The program under test as a process: it comes up or its failure is explained, its counts are read, nothing of it is left."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoinstr.bench import target, variants
from autoinstr.bench.parts import Refusal, SpanFigures
from autoinstr.bench.target import COUNTER_PORTS, Target, TargetFailed, free_port
from autoinstr.prometheus import PORTS, prometheus_text
from fakes import until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and signals")

#: What starting may take on a busy machine.
START_S = 60.0
STOP_S = 30.0
#: A server of the standard library; ``{status}`` is its answer, ``{more}`` what it does first.
SERVER = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
served = 0
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global served
        if self.path == "/-/stats":
            self.answer(200, json.dumps({{"requests": served}}))
        else:
            served += 1
            self.answer({status}, self.path)
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *words):
        pass
{more}
ThreadingHTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
FLASK = """
from flask import Flask
app = Flask(__name__)
@app.get("/")
def hello():
    return "hello"
"""

Start = Callable[..., Target]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python program that listens on ``port`` (one of its own, if none is given)."""
    started: list[Target] = []

    def one(more: str = "", status: str = "200", port: int = 0, text: str = SERVER, **options: Any) -> Target:
        port = port or free_port()
        program = tmp_path / f"{port}.py"
        program.write_text(text.format(more=more, status=status, port=port))
        options = {"timeout_s": START_S, "url": f"http://127.0.0.1:{port}/", "log": tmp_path / "log", **options}
        started.append(Target.start([sys.executable, str(program)], os.environ, **options))
        return started[-1]

    yield one
    for each in started:
        each.kill()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_free(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def port_of(one: Target) -> int:
    return one._address.port


def test_answers_and_counts(start: Start, tmp_path: Path) -> None:
    """The accounting of spans would be wrong by the requests that the harness makes itself."""
    one = start(ready_path="/ready?x=1")
    assert one.probes == 1
    assert one.requests() == 1
    assert one.requests() == 1
    assert (one.probes, one.stats_requests) == (1, 2)
    assert one.stop(STOP_S) == -signal.SIGTERM
    assert is_gone(one.pid)
    assert is_free(port_of(one))


def test_waits_for_an_answer_below_500(start: Start) -> None:
    """Load would meet a program that is not ready, and the run be thrown away for its errors."""
    one = start(status="503 if served < 4 else 404")
    assert one.probes == 4
    assert one.requests() == 4


def test_programs_that_do_not_count(start: Start) -> None:
    """Any program but the sample applications could not be measured."""
    assert start(more="json.dumps = repr").requests() is None
    assert start(more="json.dumps = lambda it: '[]'").requests() is None


def test_death_at_the_start_is_explained(start: Start, tmp_path: Path) -> None:
    """Somebody with a misspelt module would wait for the timeout, and then not know why."""
    with pytest.raises(TargetFailed) as failed:
        start(more="print('all is well')\nimport no_such_module")
    assert "the program ended with exit code 1; its last lines were:\n" in str(failed.value)
    assert "  all is well" in str(failed.value)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in str(failed.value)
    with pytest.raises(TargetFailed, match=r"was ended by SIGKILL; it printed nothing"):
        start(more="os.kill(os.getpid(), signal.SIGKILL)")


def test_death_later_is_explained(start: Start) -> None:
    """A run whose program crashed under load would be reported as one of the generator's troubles."""
    one = start()
    one.check()
    os.kill(one.pid, signal.SIGSEGV)
    until(lambda: one.pids() == [])
    with pytest.raises(TargetFailed, match="was ended by SIGSEGV"):
        one.check()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"text": "import time; print('hm', flush=True); time.sleep(600)"}, r"(?s)nothing listens there.*  hm$"),
        ({"status": "500"}, "its last answer had status 500"),
    ],
)
def test_a_program_that_never_answers(start: Start, tmp_path: Path, options: dict[str, Any], told: str) -> None:
    """A campaign would hang; or leave the program behind, which then takes the port of the next one."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    port = free_port()
    with pytest.raises(TargetFailed, match=told) as failed:
        start(port=port, timeout_s=3.0, **options)
    assert f"did not answer GET / on 127.0.0.1:{port} within 3 s" in str(failed.value)
    left = [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert all(map(is_gone, left))
    assert is_free(port)


def test_taken_port(start: Start) -> None:
    """Somebody else's program would be measured."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(TargetFailed, match="something answers on 127.0.0.1:.* before the program was started"):
            start(port=other.getsockname()[1])


def test_wrong_words(start: Start, tmp_path: Path) -> None:
    """A traceback instead of a word about what is wrong."""
    with pytest.raises(TargetFailed, match="/no/such/program cannot be started"):
        Target.start(["/no/such/program"], {}, url="http://127.0.0.1:1/", log=tmp_path / "log")
    with pytest.raises(Refusal, match="'127.0.0.1:80' is not the URL"):
        start(url="127.0.0.1:80")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
def test_pinned_from_the_first_instruction(start: Start, tmp_path: Path) -> None:
    """The program would run on the generator's CPU, and both disturb each other."""
    mine = os.sched_getaffinity(0)
    cpu = max(mine)
    text = "print('on', sorted(os.sched_getaffinity(0)), flush=True)"
    one = start(more=text, cpus=frozenset({cpu}))
    assert (tmp_path / "log").read_text() == f"on [{cpu}]\n"
    assert os.sched_getaffinity(one.pid) == {cpu}
    assert os.sched_getaffinity(0) == mine
    with pytest.raises(Refusal, match=r"cannot be pinned to CPU \[4000\]"):
        start(cpus=frozenset({4000}))
    assert os.sched_getaffinity(0) == mine


FAMILY = """
def descend(depth, leave):
    if leave:
        os.setsid()
    if depth:
        if os.fork() == 0:
            descend(depth - 1, False)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)
children = []
for leave in (False, True):
    pid = os.fork()
    if pid == 0:
        descend(1, leave)
        time.sleep(600)
    children.append(pid)
"""


def test_the_whole_family_is_known_and_ended(start: Start) -> None:
    """Workers would be left out of the CPU of the program, and live on with its port after it."""
    one = start(more=FAMILY)
    family = until(lambda: one.pids() if len(one.pids()) == 5 else None, "four processes")
    assert family[0] == one.pid
    one.stop(STOP_S)
    assert all(map(is_gone, family))
    assert one.pids() == []


ORPHAN = """
if os.fork() == 0:
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def test_orphans_are_ended(start: Start, tmp_path: Path) -> None:
    """A child that was let go of would use the CPU of the runs after it."""
    one = start(more=ORPHAN)
    pid = int(until(lambda: (tmp_path / "log").read_text(), "the orphan's pid").split()[1])
    assert not is_gone(pid)
    one.stop(STOP_S)
    assert is_gone(pid)


def test_programs_that_ignore_sigterm(start: Start) -> None:
    """The campaign would hang at the end of each run."""
    one = start(more="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert one.stop(0.2) == -signal.SIGKILL
    assert is_free(port_of(one))


def test_programs_may_end_in_order(start: Start) -> None:
    """Agents would have no time to send their last spans."""
    text = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(7)))"
    assert start(more=text).stop(STOP_S) == 7


ESCAPED = """
class ThreadingHTTPServer(ThreadingHTTPServer):
    def server_activate(self):
        super().server_activate()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print("pid", os.getpid(), flush=True)
                time.sleep(600)
            os._exit(0)
        os.wait()
"""


def test_a_listener_that_got_away_is_named(start: Start, tmp_path: Path) -> None:
    """The next run would measure what this one left; a daemon in a session of its own is not ours to guess."""
    one = start(more=ESCAPED)
    pid = int(until(lambda: (tmp_path / "log").read_text(), "the daemon's pid").split()[1])
    try:
        with pytest.raises(TargetFailed, match=f"something still listens on 127.0.0.1:{port_of(one)}"):
            one.stop(STOP_S)
    finally:
        os.kill(pid, signal.SIGKILL)


def serve_flask(tmp_path: Path, name: str, addresses: dict[str, Any], workers: int = 1) -> Target:
    (tmp_path / "shop.py").write_text(FLASK)
    port = free_port()
    one = variants.parse(name)
    program = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--no-control-socket", "shop:app"]
    return Target.start(
        variants.command(one, program, addresses),
        variants.environment(one, addresses),
        url=f"http://127.0.0.1:{port}/",
        log=tmp_path / "log",
        folder=tmp_path,
        timeout_s=START_S,
    )


def get(one: Target, count: int) -> None:
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port_of(one), timeout=START_S)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()


def test_nothing_is_left_of_what_an_interrupt_has_made_unknown() -> None:
    """Ctrl-C while a program is being started: it runs on for ever, on its port, and nobody knows of it."""
    known = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = "import os, subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\ntime.sleep(600)"

    def interrupted() -> None:
        with target.nothing_left():
            lost.append(subprocess.Popen([sys.executable, "-c", started], start_new_session=True))
            until(lambda: len(psutil.Process().children(recursive=True)) == 3, "the program and its child")
            unknown.extend(one for one in psutil.Process().children(recursive=True) if one.pid != known.pid)
            raise KeyboardInterrupt

    unknown: list[psutil.Process] = []
    #: For Python's sake alone, which warns of a program that runs on after its object.
    lost: list[subprocess.Popen[bytes]] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert len(unknown) == 2
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in unknown), "their end")
        assert known.poll() is None
        assert lost[0].wait(STOP_S) == -signal.SIGKILL
    finally:
        known.kill()
        known.wait()


def test_counters_of_the_agent(tmp_path: Path) -> None:
    """The accounting of spans would have nothing to go by, or be made before the last spans are sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        metrics_port = free_port()
        addresses = {"udp_port": sink.getsockname()[1], "metrics_port": metrics_port}
        one = serve_flask(tmp_path, "const:1", addresses)
        try:
            get(one, 9)
            assert one.wait_until_drained(metrics_port, START_S)
            assert one.span_figures(metrics_port) == SpanFigures(
                started=10, finished=10, traces_sampled=10, dropped=0, failed=0, exported=10, left=0
            )
            assert one.probes == 1
            assert one.stop(STOP_S) == 0
            assert one.counters(metrics_port) is None
            assert one.span_figures(metrics_port) == SpanFigures()
        finally:
            one.kill()


def test_counters_of_several_processes(tmp_path: Path) -> None:
    """A service with workers could not be measured: its spans would be too many for the counters of one."""
    assert COUNTER_PORTS == PORTS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        metrics_port = free_port(COUNTER_PORTS)
        one = serve_flask(tmp_path, "const:1", {"udp_port": sink.getsockname()[1], "metrics_port": metrics_port}, workers=3)
        try:
            asked = 0
            while one.counters(metrics_port + 1) is None:
                assert asked < 500, "no second worker was ever given a request"
                get(one, 5)
                asked += 5
            assert one.wait_until_drained(metrics_port, START_S)
            figures = one.span_figures(metrics_port)
            assert figures.started == figures.finished == figures.exported == asked + one.probes
        finally:
            one.kill()


def test_drained_where_nothing_is_sent(tmp_path: Path) -> None:
    """Each run with a null exporter would wait for the timeout."""
    metrics_port = free_port()
    one = serve_flask(tmp_path, "const:1-null", {"metrics_port": metrics_port})
    try:
        get(one, 4)
        assert one.wait_until_drained(metrics_port, START_S)
        figures = one.span_figures(metrics_port)
        assert (figures.started, figures.finished, figures.exported, figures.left) == (5, 5, 0, 0)
    finally:
        one.kill()


def test_not_drained_while_nobody_answers(tmp_path: Path) -> None:
    """A program without the agent would pass for one that has sent everything."""
    one = serve_flask(tmp_path, "none", {})
    try:
        assert not one.wait_until_drained(free_port(), 0.1)
    finally:
        one.kill()


SLOW_EXPORT = """
asked = 0
class Handler(Handler):
    def do_GET(self):
        global asked
        if self.path != "/metrics":
            return super().do_GET()
        asked += 1
        sent = min(asked, 8)
        self.answer(200, 'jaeger_tracer_started_spans_total{{sampled="y"}} 8\\n'
            'jaeger_tracer_finished_spans_total{{sampled="y"}} 8\\n'
            f'jaeger_tracer_reporter_spans_total{{{{result="ok"}}}} {{sent}}\\n'
            'jaeger_tracer_reporter_queue_length 0\\n')
"""


def test_spans_on_their_way_are_waited_for(start: Start) -> None:
    """Spans that a slow sink has not taken yet would be missing, and the run be called invalid."""
    one = start(more=SLOW_EXPORT.replace("{{", "{").replace("}}", "}"))
    assert one.wait_until_drained(port_of(one), START_S)
    assert one.span_figures(port_of(one)).exported == 8


def test_counters_are_read_as_they_are_written() -> None:
    """Counts of the agent would be taken for others, or be lost."""
    counts = {
        'traces{state="started",sampled="y"}': 3,
        'traces{state="joined",sampled="y"}': 2,
        'started_spans{sampled="y"}': 17,
        'started_spans{sampled="n"}': 4,
        'finished_spans{sampled="y"}': 16,
        'reporter_spans{result="ok"}': 9,
        'reporter_spans{result="err"}': 1,
        'reporter_spans{result="dropped"}': 2,
        "reporter_queue_length": 4,
        "sampler_queries": 12_345_678_901,
    }
    assert target.read_counters("other_total 1\n" + prometheus_text(counts) + "jaeger_tracer_broken x\n") == counts
    assert target.span_figures(counts) == SpanFigures(
        started=17, finished=16, traces_sampled=5, dropped=2, failed=1, exported=9, left=4
    )
