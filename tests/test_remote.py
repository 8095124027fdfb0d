"""Sampling strategies that are polled from a backend: a real HTTP server, real threads, a real fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import pytest

from autoinstr import sampling
from autoinstr.remote import RemoteSampler
from autoinstr.sampling import ConstSampler

ALL = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1.0}}
NONE = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.0}}
PER_OPERATION = {
    "operationSampling": {
        "defaultSamplingProbability": 0.0,
        "perOperationStrategies": [{"operation": "kept", "probabilisticSampling": {"samplingRate": 1.0}}],
    }
}
DEADLINE_S = 20
TRACE_ID = 1 << 62  # Kept at a rate of 1, dropped at a rate of 0.


class Backend:
    """Answers ``GET /sampling`` with ``answer``: a strategy, bytes, or a status code; waits while ``may_answer`` is clear."""

    def __init__(self) -> None:
        self.answer: object = ALL
        self.paths: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                backend.paths.append(self.path)
                backend.may_answer.wait(DEADLINE_S)
                answer = backend.answer
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/sampling"

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()


def fetch(url: str) -> bytes:
    with build_opener(ProxyHandler({})).open(url, timeout=DEADLINE_S) as response:
        return response.read()


def until(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def backend():
    result = Backend()
    yield result
    result.close()


@pytest.fixture
def build(backend):
    """Builds samplers, with ``counters`` and ``troubles`` to look at, and stops them."""
    built = []

    def build_one(**options):
        counters = SimpleNamespace(
            sampler_queries_ok=0, sampler_queries_err=0, sampler_updates_ok=0, sampler_updates_err=0
        )
        troubles: list[str] = []
        defaults = {
            "initial": ConstSampler(False),
            "fetch": fetch,
            "on_trouble": troubles.append,
            "counters": counters,
            "first_wait_s": DEADLINE_S,
            "refresh_s": 3600,
        }
        sampler = RemoteSampler("my service/é", options.pop("url", backend.url), **defaults | options)
        sampler.counters, sampler.troubles = counters, troubles
        built.append(sampler)
        return sampler

    yield build_one
    for sampler in built:
        sampler.stop()


def counted(sampler) -> tuple[int, int, int, int]:
    """Queries ok and failed, updates ok and failed."""
    counters = sampler.counters
    return (
        counters.sampler_queries_ok,
        counters.sampler_queries_err,
        counters.sampler_updates_ok,
        counters.sampler_updates_err,
    )


def polling_threads() -> int:
    return sum(thread.name == "autoinstr-sampling" for thread in threading.enumerate())


def test_first_decision_already_follows_the_backend(backend, build):
    """A script of one second would end before its first strategy, and leave no trace."""
    sampler = build()
    facts = sampler.decide(TRACE_ID, "op")
    assert {"sampler.type": "probabilistic", "sampler.param": 1.0} == facts[0](*facts[1:])
    until(lambda: counted(sampler) == (1, 0, 1, 0))
    assert ["/sampling?service=my%20service%2F%C3%A9"] == backend.paths
    assert [] == sampler.troubles


def test_query_of_the_endpoint_is_kept(backend, build):
    """A gateway that needs a parameter of its own could not be used."""
    build(url=backend.url + "?key=1").decide(TRACE_ID, "op")
    assert ["/sampling?key=1&service=my%20service%2F%C3%A9"] == backend.paths


def test_nothing_happens_before_the_first_decision(backend, build):
    """A preforking server would leave the thread in its master; a program without traces would pay for one."""
    before = polling_threads()
    build()
    assert (before, []) == (polling_threads(), backend.paths)


def test_building_one_imports_nothing_heavy():
    """The start of every program would be slower, and gevent would patch too late."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import autoinstr.remote, autoinstr.propagate, autoinstr.sampling as s\n"
        "autoinstr.remote.RemoteSampler('s', 'http://x', initial=s.ConstSampler(True), fetch=None, on_trouble=None,"
        " counters=None)\n"
        "autoinstr.propagate.Propagator(autoinstr.propagate.FORMATS).extract({})\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )
    ours = {"__future__", "_struct", "struct"}
    assert {name for name in done.stdout.split() if not name.startswith("autoinstr")} <= ours


def test_one_thread_for_many_first_decisions(backend, build):
    """A busy server would start a thread for each of its first requests."""
    backend.may_answer.clear()
    before = polling_threads()
    sampler = build(first_wait_s=0.01)
    callers = [threading.Thread(target=sampler.decide, args=(TRACE_ID, "op")) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE_S)
    sampler.ensure_started()
    assert before + 1 == polling_threads()
    assert next(thread for thread in threading.enumerate() if thread.name == "autoinstr-sampling").daemon


def test_only_the_first_decision_waits_and_not_for_ever(backend, build):
    """A backend that hangs would hang every request."""
    backend.may_answer.clear()
    waits: list[float] = []
    sampler = build(first_wait_s=0.05, initial=ConstSampler(True))
    assert sampler.decide(TRACE_ID, "op")[1] == "const"
    sampler._answered.wait = waits.append
    for _ in range(3):
        assert sampler.decide(TRACE_ID, "op")[1] == "const"
    assert [] == waits
    backend.may_answer.set()
    until(lambda: sampler.is_known)
    assert sampler.decide(TRACE_ID, "op")[1] == "probabilistic"


def test_refused_connection_ends_the_wait(backend, build):
    """Without a backend every program would start later by the whole wait."""
    backend.close()
    sampler = build(initial=ConstSampler(True))
    started = time.monotonic()
    assert sampler.decide(TRACE_ID, "op")[1] == "const"
    assert time.monotonic() - started < DEADLINE_S / 2
    assert (0, 1, 0, 0) == counted(sampler)
    assert backend.url in sampler.troubles[0]


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (500, (0, 1, 0, 0)),
        (404, (0, 1, 0, 0)),
        (b"", (1, 0, 0, 1)),
        (b"<html>", (1, 0, 0, 1)),
        (b"\xff\xfe\xfd", (1, 0, 0, 1)),
        (b"[" * 200_000, (1, 0, 0, 1)),
        (b"null", (1, 0, 0, 1)),
        ({}, (1, 0, 0, 1)),
        ({"probabilisticSampling": {"samplingRate": 2}}, (1, 0, 0, 1)),
    ],
)
def test_bad_answers_keep_the_current_sampler(backend, build, answer, counts):
    """A misconfigured backend would turn tracing off, or kill the polling."""
    backend.answer = answer
    sampler = build(initial=ConstSampler(True), refresh_s=0.01)
    assert sampler.decide(TRACE_ID, "op")[1] == "const"
    assert sampler.troubles
    until(lambda: [count > 0 for count in counted(sampler)] == [count > 0 for count in counts])
    backend.answer = NONE
    until(lambda: sampler.decide(TRACE_ID, "op") is None)


def test_strategy_changes_while_the_program_runs(backend, build):
    """Operators would have to restart programs to change their rates; ``by_name`` tells the tracer to wait for names."""
    sampler = build(refresh_s=0.01)
    assert sampler.decide(TRACE_ID, "op") is not None
    assert not sampler.by_name
    backend.answer = NONE
    until(lambda: sampler.decide(TRACE_ID, "op") is None)
    backend.answer = PER_OPERATION
    until(lambda: sampler.by_name)
    assert [True, False] == [sampler.decide(TRACE_ID, name) is not None for name in ("kept", "other")]
    backend.answer = ALL
    until(lambda: sampler.decide(TRACE_ID, "other") is not None)
    assert not sampler.by_name


def test_programs_that_start_together_do_not_poll_together(backend, build):
    """A thousand processes of one deployment would ask in one second, every minute, for as long as they live."""
    together = [build() for _ in range(24)]
    for sampler in together:
        sampler.decide(TRACE_ID, "op")
    now = time.monotonic()
    pauses = [sampler._due_at - now for sampler in together]
    assert 0 <= min(pauses) < 1800 < max(pauses) <= 3600


def test_only_the_first_pause_is_short(backend, build, monkeypatch):
    """The backend would be asked twice as often as it was planned for."""
    monkeypatch.setattr(os, "urandom", bytes)  # The least that chance can give.
    sampler = build()
    sampler.decide(TRACE_ID, "op")
    until(lambda: len(backend.paths) == 2)
    until(lambda: sampler._due_at > time.monotonic() + 3500)
    assert 2 == len(backend.paths)


def test_same_strategy_keeps_its_credits(backend, build):
    """A rate limit would be granted anew with every poll."""
    backend.answer = {"rateLimitingSampling": {"maxTracesPerSecond": 3}}
    sampler = build(refresh_s=0.005, clock_ns=lambda: 0)
    assert 3 == sum(sampler.decide(TRACE_ID, "op") is not None for _ in range(10))
    polls = len(backend.paths)
    until(lambda: len(backend.paths) > polls + 3)
    assert sampler.decide(TRACE_ID, "op") is None


def test_trouble_that_cannot_be_told_is_swallowed(backend, build):
    """A broken stderr would end the polling."""

    def fail(text: str) -> None:
        raise OSError(text)

    backend.answer = 500
    sampler = build(on_trouble=fail, refresh_s=0.01)
    sampler.decide(TRACE_ID, "op")
    backend.answer = ALL
    until(lambda: sampler.decide(TRACE_ID, "op") is not None)


def test_thread_that_cannot_be_had(build, monkeypatch):
    """A program at its limit of threads would get our exception in its request."""

    def refuse(self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sampler = build(initial=ConstSampler(True))
    assert sampler.decide(TRACE_ID, "op") is not None
    assert sampler.decide(TRACE_ID, "op") is not None
    assert ["cannot poll for sampling strategies: can't start new thread"] == sampler.troubles


def test_stop_ends_the_polling(backend, build):
    """A program that turns tracing off would go on talking to the backend."""
    sampler = build(refresh_s=0.005)
    assert sampler.decide(TRACE_ID, "op") is not None
    thread = sampler._thread
    sampler.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert sampler.decide(TRACE_ID, "op") is not None


def test_stop_before_the_start(backend, build):
    """A program that is shut down at once would start a thread in the middle of it."""
    sampler = build(initial=ConstSampler(True))
    sampler.stop()
    sampler.after_fork()
    assert sampler.decide(TRACE_ID, "op")[1] == "const"
    assert (None, []) == (sampler._thread, backend.paths)


def test_after_fork_renews_the_lock_of_the_samplers(build):
    """A worker forked while its master took a credit would hang at its first trace."""
    before = sampling._lock
    build().after_fork()
    assert sampling._lock is not before


def in_child(work) -> int:
    """Exit status of a forked child that does ``work``; the child ends itself if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            threading.Timer(DEADLINE_S, os._exit, (99,)).start()
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - pytest must not go on in the child.
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
forks_with_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@needs_fork
@forks_with_threads
def test_forked_child_polls_by_itself(backend, build):
    """Workers of a preforking server would keep the strategy of the moment of the fork for ever."""
    sampler = build(refresh_s=0.01)
    assert sampler.decide(TRACE_ID, "op") is not None
    sampler.stop = lambda: None

    def work() -> None:
        sampler.after_fork()
        assert sampler._thread is None
        assert sampler.decide(TRACE_ID, "op") is not None
        backend_says_none()
        until(lambda: sampler.decide(TRACE_ID, "op") is None)

    # The server lives in the parent: it learns from a pipe when to change its answer.
    reading, writing = os.pipe()

    def backend_says_none() -> None:
        os.write(writing, b"x")

    def change_answer() -> None:
        os.read(reading, 1)
        backend.answer = NONE

    threading.Thread(target=change_answer, daemon=True).start()
    assert 0 == in_child(work)
    os.close(reading)
    os.close(writing)


@needs_fork
@forks_with_threads
def test_forked_child_does_not_wait_when_a_strategy_is_known(backend, build):
    """The first request of every worker would be slow."""
    sampler = build()
    assert sampler.decide(TRACE_ID, "op") is not None
    until(lambda: sampler.counters.sampler_updates_ok == 1)
    backend.may_answer.clear()

    def work() -> None:
        sampler.after_fork()
        started = time.monotonic()
        assert sampler.decide(TRACE_ID, "op") is not None
        assert time.monotonic() - started < DEADLINE_S / 2

    assert 0 == in_child(work)


@needs_fork
@forks_with_threads
def test_fork_in_the_middle_of_the_first_poll(backend, build):
    """A worker forked while its master polls would never poll."""
    backend.may_answer.clear()
    sampler = build(first_wait_s=0.01)
    assert sampler.decide(TRACE_ID, "op") is None
    until(lambda: backend.paths)

    def work() -> None:
        sampler.after_fork()
        sampler.decide(TRACE_ID, "op")
        until(lambda: sampler.decide(TRACE_ID, "op") is not None)

    threading.Thread(
        target=lambda: (until(lambda: len(backend.paths) > 1), backend.may_answer.set()), daemon=True
    ).start()
    assert 0 == in_child(work)


def test_program_ends_while_a_poll_hangs(backend):
    """Every program beside a dead backend would take longer to end."""
    backend.may_answer.clear()
    code = (
        "import sys, urllib.request\n"
        "from types import SimpleNamespace\n"
        "from autoinstr.remote import RemoteSampler\n"
        "from autoinstr.sampling import ConstSampler\n"
        "fetch = lambda url: urllib.request.urlopen(url, timeout=600).read()\n"
        "RemoteSampler('s', sys.argv[1], initial=ConstSampler(True), fetch=fetch, on_trouble=print, first_wait_s=0.5,"
        " counters=SimpleNamespace()).decide(1, 'op')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, backend.url],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "no_proxy": "*"},
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
