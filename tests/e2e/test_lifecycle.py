"""Real processes and their ends: every span arrives once, nobody waits long, and the program ends as it would without us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes import DEADLINE_S, Server, SpanSink, read_request, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and signals")

PROLOGUE = "import os, sys, time\nfrom autoinstr import span\n"
#: What the end of a process may take beyond what is stated, on a busy machine.
SLACK_S = 1.5
#: The worker never wakes up by itself: what arrives was sent by the end of the process.
NEVER = {"JAEGER_REPORTER_FLUSH_INTERVAL": "1h"}


class Outcome:
    """How a process ended."""

    def __init__(self, process: subprocess.Popen[str], out: str, err: str, took_s: float) -> None:
        self.status = process.returncode
        self.pid = process.pid
        self.out = out
        self.err = err
        self.took_s = took_s


class Programs:
    """Runs a text as a program under the agent, or bare."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.py"
        self.environ = dict(os.environ)

    def start(self, text: str, environ: Mapping[str, str], *flags: str, bare: bool = False) -> subprocess.Popen[str]:
        self.path.write_text(PROLOGUE + text)
        launcher = [] if bare else ["-m", "autoinstr"]
        return subprocess.Popen(
            [sys.executable, *flags, *launcher, str(self.path)],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, environ: Mapping[str, str], *flags: str, bare: bool = False) -> Outcome:
        started = time.monotonic()
        return self.finish(self.start(text, environ, *flags, bare=bare), started)

    @staticmethod
    def finish(process: subprocess.Popen[str], started: float) -> Outcome:
        try:
            out, err = process.communicate(timeout=3 * DEADLINE_S)
        finally:
            process.kill()
        return Outcome(process, out, err, time.monotonic() - started)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def sink() -> Iterator[SpanSink]:
    one = SpanSink()
    yield one
    one.close()


def counted_once(sink: SpanSink, *names: str) -> None:
    """Exactly these spans have arrived, each with an id of its own."""
    assert sink.names == sorted(names)
    assert len({span[3] for span in sink.spans}) == len(names)


# Short sleeps: Python runs no handler for a signal that comes just before a system call that waits.
ENDS = {
    "normal": ("with span('a'): print('said')\n", 0),
    "exit": ("with span('a'): pass\nprint('said')\nsys.exit(3)\n", 3),
    "exit inside": ("with span('a'):\n print('said')\n sys.exit(3)\n", 3),
    "exception": ("with span('a'):\n print('said')\n raise ValueError('odd')\n", 1),
    "os._exit": ("with span('a'): pass\nprint('said', flush=True)\nos._exit(4)\n", 4),
    "exec": ("with span('a'): pass\nos.execl('/bin/sh', 'sh', '-c', 'echo said; exit 5')\n", 5),
    "execvpe": ("with span('a'): pass\nos.execvpe('sh', ['sh', '-c', 'echo said; exit 5'], os.environ)\n", 5),
    "abort by default handler": (
        "with span('a'): pass\nprint('said', flush=True)\nos.kill(os.getpid(), 15)\nwhile True: time.sleep(0.01)\n",
        -15,
    ),
    "interrupt": (
        "with span('a'): pass\nprint('said', flush=True)\nos.kill(os.getpid(), 2)\nwhile True: time.sleep(0.01)\n",
        -2,
    ),
    "own handler": (
        "import signal\nsignal.signal(15, lambda *_: sys.exit(6))\nwith span('a'): pass\n"
        "print('said', flush=True)\nos.kill(os.getpid(), 15)\nwhile True: time.sleep(0.01)\n",
        6,
    ),
    "after an export": (
        "from autoinstr import flush\nwith span('a'): pass\nprint('said' if flush(20) else 'late')\n",
        0,
    ),
    "daemon thread": (
        "import threading\ndef work():\n while True:\n  time.sleep(0.001)\n"
        "threading.Thread(target=work, daemon=True).start()\nwith span('a'): pass\nprint('said')\n",
        0,
    ),
    "last span in a thread": (
        "import threading\ndef work():\n time.sleep(0.2)\n with span('a'): print('said')\n"
        "threading.Thread(target=work).start()\n",
        0,
    ),
    "span of an exit handler": (
        "import atexit\n@atexit.register\ndef late():\n with span('a'): print('said')\n",
        0,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_last_span_arrives_and_the_end_is_as_bare(programs: Programs, sink: SpanSink, end: str) -> None:
    """The last second of a program would be missing, or the agent would change its status, its output, its traceback."""
    text, status = ENDS[end]
    bare = programs.run(text, {"OTEL_SDK_DISABLED": "true"}, bare=True)
    traced = programs.run(text, {**sink.environ, **NEVER})
    assert (traced.status, traced.out, traced.err) == (bare.status, bare.out, bare.err)
    assert (traced.status, traced.out) == (status, "said\n")
    counted_once(sink, "a")


def test_sigterm_can_be_left_alone(programs: Programs, sink: SpanSink) -> None:
    """A program that compares ``signal.getsignal`` could not be helped."""
    text = "import signal\nprint(signal.getsignal(15) is signal.SIG_DFL)\n"
    assert programs.run(text, {**sink.environ, "AUTOINSTR_SIGTERM": "false"}).out == "True\n"
    assert programs.run(text, sink.environ).out == "False\n"


FORKS = """\
with span('before'): pass
with span('around'):
    child = os.fork()
    if child == 0:
        with span('child'): pass
    else:
        with span('parent'): pass
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status)
if child == 0:
    {child_ends}
with span('after'): pass
"""


@pytest.mark.parametrize("child_ends", ["os._exit(7)", "sys.exit(7)"])
def test_fork(programs: Programs, sink: SpanSink, child_ends: str) -> None:
    """Spans would be missing, or twice there: those queued before the fork, the one that is open, the child's own."""
    done = programs.run(FORKS.format(child_ends=child_ends), {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "7\n", "")
    counted_once(sink, "before", "around", "parent", "child", "after")
    by_name = {span[0]: span for span in sink.spans}
    assert {name for name, span in by_name.items() if span[1] == done.pid} == {"before", "around", "parent", "after"}
    assert by_name["child"][2] == by_name["around"][2]
    assert by_name["child"][4] == by_name["parent"][4] == by_name["around"][3]


def test_ids_of_many_children_differ(programs: Programs, sink: SpanSink) -> None:
    """Workers forked from one master would use the same ids: their traces would be mixed up."""
    text = (
        "for number in range(8):\n if os.fork() == 0:\n  for _ in range(20):\n   with span('child'): pass\n  os._exit(0)\n"
        " os.wait()\n"
    )
    assert programs.run(text, {**sink.environ, **NEVER}).status == 0
    assert len(sink.spans) == len({span[3] for span in sink.spans}) == len({span[2] for span in sink.spans}) == 160


def test_fork_beside_our_threads_is_no_warning(programs: Programs, sink: SpanSink) -> None:
    """From Python 3.12 on, programs that forbid warnings would fail: the exporter, the sampler and the metrics have threads."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    text = (
        "for number in range(20):\n with span('a'): pass\n time.sleep(0.01)\n"
        " if os.fork() == 0: os._exit(0)\n os.wait()\nprint('all')\n"
    )
    environ = {
        **sink.environ,
        "JAEGER_SAMPLER_TYPE": "remote",
        "JAEGER_SAMPLING_ENDPOINT": f"http://127.0.0.1:{sink.port}/sampling",
        "JAEGER_SAMPLER_PARAM": "1",
        "AUTOINSTR_METRICS_PORT": str(port),
    }
    done = programs.run(text, environ, "-W", "error::DeprecationWarning")
    assert (done.status, done.out) == (0, "all\n")
    assert "Warning" not in done.err


MULTIPROCESSING = """\
import multiprocessing

def work(number):
    with span('child'): pass
    return number

if __name__ == '__main__':
    context = multiprocessing.get_context({method!r})
    with span('before'): pass
    process = context.Process(target=work, args=(1,))
    process.start()
    process.join()
    with span('after'): pass
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(programs: Programs, sink: SpanSink, method: str) -> None:
    """Children of ``multiprocessing`` leave without Python's exit handlers: their spans would be lost."""
    done = programs.run(MULTIPROCESSING.format(method=method), {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "0\n", "")
    counted_once(sink, "before", "child", "after")


def test_process_pools(programs: Programs, sink: SpanSink) -> None:
    """Spans of a pool's workers would be lost: one kind is ended by SIGTERM, the other by a message."""
    text = (
        "import concurrent.futures, multiprocessing\n"
        "def work(number):\n with span('child'): pass\n return number\n"
        "if __name__ == '__main__':\n"
        " fork = multiprocessing.get_context('fork')\n"
        " with concurrent.futures.ProcessPoolExecutor(2, fork) as pool: print(sum(pool.map(work, range(6))))\n"
        " with fork.Pool(2) as pool: print(sum(pool.map(work, range(6))))\n"
    )
    done = programs.run(text, {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "15\n15\n", "")
    counted_once(sink, *["child"] * 12)


def test_exec_that_fails(programs: Programs, sink: SpanSink) -> None:
    """A program that tries several commands would not be traced after the first."""
    text = (
        "with span('a'): pass\ntry:\n os.execv('/nonexistent', ['x'])\nexcept FileNotFoundError:\n print('none')\n"
        "with span('b'): pass\n"
    )
    assert programs.run(text, {**sink.environ, **NEVER}).out == "none\n"
    counted_once(sink, "a", "b")


def hang(connection: Any, number: int) -> None:
    """Take a request and never answer."""
    read_request(connection)
    time.sleep(DEADLINE_S)


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


HURRIED = {
    "exit": ("with span('a'): pass\nprint('said')\nsys.exit(3)\n", 3, 1.0),
    "SIGTERM": (
        "with span('a'): pass\nprint('said', flush=True)\nos.kill(os.getpid(), 15)\nwhile True: time.sleep(0.01)\n",
        -15,
        1.0,
    ),
    "os._exit": ("with span('a'): pass\nprint('said', flush=True)\nos._exit(4)\n", 4, 1.0),
    "exit handler": ("import atexit\n@atexit.register\ndef late():\n with span('a'): print('said')\n", 0, 1.0),
}


@pytest.mark.parametrize("end", HURRIED)
@pytest.mark.parametrize("state", ["hanging", "dead"])
def test_end_beside_a_collector_that_is_gone(programs: Programs, end: str, state: str) -> None:
    """A deployment would take minutes because the collector is down, or supervisors would kill the program."""
    text, status, limit_s = HURRIED[end]
    there = Server(hang)
    if state == "dead":
        there.close()
        limit_s = 0.2
    sink_environ = SpanSink.environ.fget(there)  # type: ignore[attr-defined]
    bare = programs.run(text, {"OTEL_SDK_DISABLED": "true"}, bare=True)
    done = programs.run(text, {**sink_environ, **NEVER, "AUTOINSTR_EXIT_TIMEOUT": "1"})
    there.close()
    assert (done.status, done.out) == (status, "said\n")
    assert done.took_s - bare.took_s < limit_s + SLACK_S
    assert done.err.count("\n") <= 1
    assert done.err.startswith("autoinstr: ") or not done.err


def test_interrupt_while_the_last_spans_are_sent(programs: Programs) -> None:
    """Somebody who presses Ctrl-C because the end takes long would get a traceback of ours."""
    there = Server(hang)
    environ = SpanSink.environ.fget(there)  # type: ignore[attr-defined]
    process = programs.start(
        "with span('a'): pass\nprint('said', flush=True)\n", {**environ, **NEVER, "AUTOINSTR_EXIT_TIMEOUT": "20"}
    )
    started = time.monotonic()
    until(lambda: there.connections, "the last send")
    process.send_signal(signal.SIGINT)
    done = programs.finish(process, started)
    there.close()
    assert done.took_s < DEADLINE_S / 2
    assert (done.status, done.out, done.err) == (0, "said\n", "")


@pytest.mark.parametrize("end", ["signal.raise_signal(15)", "sys.exit()"])
def test_span_that_is_about_to_end(programs: Programs, sink: SpanSink, end: str) -> None:
    """The last request before the end has no span: its answer had arrived, but its thread was not yet through with it."""
    text = (
        "import signal, threading\n"
        "inside = threading.Event()\n"
        "def serve():\n with span('last'):\n  inside.set()\n  time.sleep(0.01)\n"
        "threading.Thread(target=serve, daemon=True).start()\n"
        "inside.wait()\n"
    )
    programs.run(text + end, sink.environ)
    counted_once(sink, "last")


def test_second_sigterm_does_not_wait(programs: Programs) -> None:
    """A supervisor that asks twice would have to kill."""
    there = Server(hang)
    environ = SpanSink.environ.fget(there)  # type: ignore[attr-defined]
    text = "with span('a'): pass\nprint('said', flush=True)\nwhile True: time.sleep(0.01)\n"
    process = programs.start(text, {**environ, **NEVER, "AUTOINSTR_EXIT_TIMEOUT": "20"})
    assert process.stdout is not None
    assert process.stdout.readline() == "said\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    until(lambda: there.connections, "the last send")
    process.send_signal(signal.SIGTERM)
    done = programs.finish(process, started)
    there.close()
    assert done.status == -signal.SIGTERM
    assert done.took_s < DEADLINE_S / 2


def test_no_backend_is_exactly_one_line(programs: Programs) -> None:
    """Without a backend the log would be flooded, or nobody would know what to do."""
    environ = {
        "JAEGER_AGENT_PORT": str(dead_port()),
        "JAEGER_SAMPLING_ENDPOINT": f"http://localhost:{dead_port()}/sampling",
    }
    text = "for _ in range(5):\n with span('a'): pass\n time.sleep(0.05)\nprint('said')\n"
    done = programs.run(text, {**environ, "JAEGER_REPORTER_FLUSH_INTERVAL": "20ms", "JAEGER_SAMPLER_PARAM": "1"})
    assert (done.status, done.out) == (0, "said\n")
    (line,) = done.err.splitlines()
    assert line.startswith("autoinstr: nothing answers at ")
    for name in ("autoinstr serve", "JAEGER_AGENT_HOST", "JAEGER_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        assert name in line


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """The real backend with strategy 1.0, as a function from the name of a listener to its port."""
    pytest.importorskip("uvicorn")
    import json

    strategies = tmp_path / "strategies.json"
    strategies.write_text('{"default_strategy": {"type": "probabilistic", "param": 1.0}}')
    ports = tmp_path / "ports.json"
    names = ("query", "sampling", "collector", "otlp", "zipkin", "agent")
    options = [word for name in names for word in (f"--{name}-port", "0")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "autoinstr",
            "serve",
            *options,
            "--ports-file",
            str(ports),
            "--strategies-file",
            str(strategies),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(ports.exists, "the backend")
        yield json.loads(ports.read_text()).__getitem__
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_short_script_has_its_trace_every_time(programs: Programs, backend: Callable[[str], Any]) -> None:
    """A script that ends before its first strategy came would be decided by the default, one in a thousand."""
    import json
    from urllib.request import urlopen

    environ = {
        "JAEGER_AGENT_PORT": str(backend("agent")),
        "JAEGER_SAMPLING_ENDPOINT": f"http://localhost:{backend('sampling')}/sampling",
    }
    for number in range(10):
        done = programs.run("with span('a'): pass\n", {**environ, "JAEGER_SERVICE_NAME": f"script-{number}"})
        assert (done.status, done.out, done.err) == (0, "", "")

    def services() -> set[str]:
        with urlopen(f"http://127.0.0.1:{backend('query')}/api/services", timeout=DEADLINE_S) as answer:
            return set(json.load(answer)["data"])

    wanted = {f"script-{number}" for number in range(10)}
    until(lambda: wanted <= services(), "the traces of all scripts")
