"""The load engine with real Locust processes against a real server: what is counted, what is measured, how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("locust") is None:  # Importing it would patch this process.
    pytest.skip("the load engine is Locust", allow_module_level=True)
pytest.importorskip("hdrh", reason="durations are HdrHistograms")

from autoinstr.bench import durations, load
from autoinstr.bench.parts import RATE, SATURATION, Refusal

DEADLINE_S = 60.0

PLAIN = """
    from locust import FastHttpUser, between, task

    class Plain(FastHttpUser):
        wait_time = between(50, 60)

        @task
        def hello(self):
            self.client.get("/")
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a locustfile."""

    def write(text: str) -> Path:
        path = tmp_path / "scenario_of_a_test.py"
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    return write


class Server:
    """The static server, stoppable."""

    def __init__(self, delay_ms: float = 0.0) -> None:
        words = [sys.executable, "-m", "autoinstr.bench.load.static_server", "--delay-ms", str(delay_ms)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def requests(self) -> int:
        with urllib.request.urlopen(f"{self.url}/-/stats", timeout=DEADLINE_S) as answer:
            return json.load(answer)["requests"]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.end()


@pytest.fixture
def slow_server() -> Iterator[Server]:
    """Requests are in flight whenever one looks."""
    server = Server(delay_ms=700.0)
    yield server
    server.end()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def running(generator: load.Generator) -> Iterator[load.Generator]:
    try:
        yield generator
    finally:
        generator.kill()


def above(text: str, limit_us: float) -> int:
    """How many durations of a histogram are longer."""
    histogram = durations.decode(text)
    return histogram.get_total_count() - sum(
        count
        for index, count in enumerate(histogram.counts)
        if count and histogram.get_value_from_index(index) <= limit_us
    )


def test_saturation_is_exact_and_waits_for_nothing(
    scenario: Callable[[str], Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed load with a scenario's own pauses would measure the pauses; one lost request and no account adds up."""
    # Settings of the caller's own tests with Locust: with these no task would be left.
    monkeypatch.setenv("LOCUST_TAGS", "nothing")
    (tmp_path / ".locust.conf").write_text("exclude-tags = all\ntags = nothing\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    locustfile = scenario(
        """
        from locust import FastHttpUser, SequentialTaskSet, between, constant, task

        class Steps(SequentialTaskSet):
            wait_time = constant(1000)

            @task
            def one(self):
                self.client.get("/one")

            @task
            def two(self):
                self.client.get("/two")
                self.interrupt()

        class Plain(FastHttpUser):
            wait_time = between(50, 60)
            tasks = [Steps]

            @task
            def hello(self):
                self.client.get("/")
        """
    )
    generator = load.Generator.start(locustfile, server.url, users=6, mode=SATURATION, folder=tmp_path / "run")
    with running(generator):
        until(lambda: len(generator.slots()) >= 2)
        assert generator.pids() == [generator.pid]
        assert generator.cpu_us() > 0
        final = generator.stop()
        slots = generator.slots()
    assert final == load.Final(all_requests=server.requests(), all_errors=0)
    assert [slot.end_s for slot in slots] == list(range(slots[0].end_s, slots[0].end_s + len(slots)))
    assert all(slot.seconds == 1.0 and slot.requests > 60 and slot.cpu_us > 0 and slot.lag is None for slot in slots)
    figures = load.figures(slots, final, None)
    assert figures.requests == sum(slot.requests for slot in slots) < figures.all_requests == final.all_requests
    assert figures.per_second == figures.requests / figures.seconds
    # Locust's own statistics would say whole milliseconds, most of them 0.
    assert 0 < figures.service.p50 < 1e6 / figures.per_second * 6 * 3
    assert durations.decode(figures.service.histogram).get_total_count() == figures.requests
    assert (figures.response, figures.lag, figures.target_per_second) == (figures.service, None, None)


def test_requests_in_flight_end_before_the_generator_does(
    scenario: Callable[[str], Path], slow_server: Server, tmp_path: Path
) -> None:
    """The program would have served requests that nobody counted, and its spans would not add up."""
    generator = load.Generator.start(scenario(PLAIN), slow_server.url, users=8, mode=SATURATION, folder=tmp_path)
    with running(generator):
        until(lambda: slow_server.requests() >= 8)
        final = generator.stop()
    assert final == load.Final(all_requests=slow_server.requests(), all_errors=0)


def test_a_stall_shows_in_the_response_time(scenario: Callable[[str], Path], server: Server, tmp_path: Path) -> None:
    """Coordinated omission: a program that stops for a second would have four slow requests instead of two hundred."""
    users, rate, stall_s = 4, 200.0, 1.0
    locustfile = scenario(PLAIN)
    generator = load.Generator.start(locustfile, server.url, users=users, mode=RATE, rate=rate, seed=5, folder=tmp_path)
    with running(generator):
        until(lambda: server.requests() > users)
        server.process.send_signal(signal.SIGSTOP)
        stalled = time.monotonic()
        time.sleep(stall_s)
        server.process.send_signal(signal.SIGCONT)
        stall_s = time.monotonic() - stalled
        after = time.time()
        until(lambda: any(slot.end_s > after and slot.due_unsent == 0 for slot in generator.slots()))
        final = generator.stop()
        slots = generator.slots()
    figures = load.figures(slots, final, rate)
    assert final.all_requests == server.requests()
    assert final.unsent == 0
    due_in_first_half = rate * stall_s / 2
    assert above(figures.response.histogram, stall_s / 2 * 1e6) > due_in_first_half / 2
    assert above(figures.service.histogram, stall_s / 2 * 1e6) <= 2 * users
    assert figures.late > due_in_first_half / 2
    assert figures.lag is not None
    assert figures.lag.max > stall_s / 2 * 1e6
    counts = [durations.decode(one.histogram).get_total_count() for one in (figures.response, figures.lag)]
    assert counts == [figures.requests] * 2


def test_what_could_not_be_sent_is_said(
    scenario: Callable[[str], Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that hangs would look as if nobody had asked it for anything."""
    monkeypatch.setattr(load, "DRAIN_S", 1.0)
    generator = load.Generator.start(scenario(PLAIN), server.url, users=2, mode=RATE, rate=50.0, folder=tmp_path)
    with running(generator):
        until(lambda: server.requests() > 0)
        server.process.send_signal(signal.SIGSTOP)
        until(lambda: any(slot.due_unsent > 10 for slot in generator.slots()))
        final = generator.stop()
        server.process.send_signal(signal.SIGCONT)
    assert final.unsent > 10
    assert final.aborted == 2


def test_processes_share_the_schedule_and_add_up(
    scenario: Callable[[str], Path], server: Server, tmp_path: Path
) -> None:
    """With --processes 2 the program would get twice the rate, or the figures would be those of one process."""
    # The second request of a task is nobody's arrival: it is due when it is sent.
    twice = scenario(PLAIN + '            self.client.get("/again")\n')
    generator = load.Generator.start(
        twice, server.url, users=4, mode=RATE, rate=60.0, arrivals="uniform", processes=2, folder=tmp_path
    )
    with running(generator):
        assert len(generator.pids()) == 3
        until(generator.slots)
        sooner = time.time()
        final = generator.stop()
        slots = generator.slots()
    assert (final.all_requests, final.all_errors, final.aborted) == (server.requests(), 0, 0)
    begun = json.loads((tmp_path / "slots.jsonl").read_text().splitlines()[0])["begun"]
    # Half a second after that the first arrival is due; all that are due before the stop are sent.
    arrivals = final.all_requests / 2 + final.unsent
    assert 60 * (sooner - begun - 0.7) < arrivals < 60 * (time.time() - begun)
    figures = load.figures(slots, final, 60.0)
    assert figures.lag is not None
    counts = [durations.decode(one.histogram).get_total_count() for one in (figures.response, figures.lag)]
    assert counts == [figures.requests] * 2
    assert above(figures.lag.histogram, 1.5) <= figures.requests / 2 + 4


def test_workers_of_other_hosts_add_up(scenario: Callable[[str], Path], slow_server: Server, tmp_path: Path) -> None:
    """Load from many hosts would be a sum of guesses: Locust gives its workers half a second for their last words."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = probing.getsockname()[1]
    locustfile = scenario(PLAIN)
    generator = load.Generator.start(
        locustfile,
        slow_server.url,
        users=4,
        mode=SATURATION,
        folder=tmp_path / "run",
        master_bind=("127.0.0.1", port),
        expect_workers=2,
    )
    words = load.worker_command(locustfile, "127.0.0.1", port)
    with (tmp_path / "workers.log").open("wb") as log, running(generator):
        workers = [subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log) for _ in range(2)]
        generator.wait_until_begun(DEADLINE_S)
        until(lambda: slow_server.requests() >= 4)
        final = generator.stop()
        assert [worker.wait(DEADLINE_S) for worker in workers] == [0, 0]
    assert final == load.Final(all_requests=slow_server.requests(), all_errors=0)


def test_a_lost_worker_is_no_result(scenario: Callable[[str], Path], server: Server, tmp_path: Path) -> None:
    """The run would go on with half of the load, and count half of the requests."""
    impatient = scenario("from locust import runners; runners.HEARTBEAT_INTERVAL = 0.5\n" + textwrap.dedent(PLAIN))
    generator = load.Generator.start(impatient, server.url, users=2, mode=SATURATION, processes=2, folder=tmp_path)

    def fails() -> bool:
        with contextlib.suppress(load.GeneratorFailed):
            generator.slots()
            return False
        return True

    with running(generator):
        worker = max(generator.pids())
        os.kill(worker, signal.SIGKILL)
        until(fails)
        with pytest.raises(load.GeneratorFailed, match="1 of 2 workers of the generator were lost"):
            generator.slots()


def test_errors_come_with_their_text(scenario: Callable[[str], Path], slow_server: Server, tmp_path: Path) -> None:
    """"Requests failed" alone helps nobody; a scenario with a mistake in it would look like a program that answers nothing."""
    locustfile = scenario(
        """
        from locust import FastHttpUser, task

        class Wrong(FastHttpUser):
            def on_start(self):
                self.client.get("/login")

            @task
            def refused(self):
                with self.client.get("/", catch_response=True) as response:
                    response.failure("not what I wanted")
                raise LookupError("a mistake")
        """
    )
    generator = load.Generator.start(locustfile, slow_server.url, users=4, mode=RATE, rate=50.0, folder=tmp_path)
    with running(generator):
        until(lambda: slow_server.requests() >= 12)
        final = generator.stop()
    tasks = slow_server.requests() - 4
    assert (final.all_requests, final.aborted) == (tasks + 4, 0)
    assert final.all_errors == 2 * tasks
    assert sorted(final.kinds.values()) == [tasks, tasks]
    told = " ".join(final.kinds)
    assert "GET /: " in told
    assert "not what I wanted" in told
    assert "LookupError('a mistake')" in told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def wrong(:", "SyntaxError: .*scenario_of_a_test.py"),
        ("x = 1", "has no class of users"),
        (
            PLAIN
            + "    from locust import LoadTestShape\n    class Steps(LoadTestShape):\n        def tick(self): return 1, 1\n",
            "cannot be run at a rate",
        ),
    ],
)
def test_a_wrong_locustfile_is_named(text: str, says: str, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    """Somebody would look for the mistake in their program."""
    with pytest.raises(load.GeneratorFailed, match=says):
        load.Generator.start(scenario(text), "http://127.0.0.1:9", users=1, mode=RATE, rate=1.0, folder=tmp_path)


def test_a_generator_that_was_killed_says_so(tmp_path: Path) -> None:
    """The campaign would wait for slots that nobody writes."""
    generator = load.Generator(subprocess.Popen(["sleep", "600"], start_new_session=True), tmp_path)
    assert generator.slots() == []
    os.kill(generator.pid, signal.SIGKILL)
    with pytest.raises(load.GeneratorFailed, match="SIGKILL"):
        generator.stop()
    with pytest.raises(load.GeneratorFailed, match="SIGKILL"):
        generator.slots()


def test_the_generator_ends_with_the_harness(scenario: Callable[[str], Path], server: Server, tmp_path: Path) -> None:
    """A harness that was killed would leave its load on the machine for ever."""
    script = f"""
import os, sys
from pathlib import Path
from autoinstr.bench import load
generator = load.Generator.start(Path({str(scenario(PLAIN))!r}), {server.url!r}, users=1, mode="saturation", folder=Path({str(tmp_path)!r}))
print(generator.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    harness = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S)
    assert harness.returncode == -9
    record = tmp_path / "slots.jsonl"
    try:
        until(lambda: '"final": true' in record.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(harness.stdout), signal.SIGKILL)
    assert json.loads(record.read_text().splitlines()[-1])["all_requests"] == server.requests()


@dataclasses.dataclass
class Case:
    says: str
    changes: dict[str, object]


@pytest.mark.parametrize(
    "case",
    [
        Case("no locustfile", {"locustfile": Path("/nowhere.py")}),
        Case("There is no mode 'open'", {"mode": "open"}),
        Case("cannot be kept", {"mode": RATE}),
        Case("poisson or uniform", {"mode": RATE, "rate": 1.0, "arrivals": "even"}),
        Case("too few for 3 processes", {"processes": 3}),
        Case("do not go together", {"processes": 2, "master_bind": ("127.0.0.1", 1), "expect_workers": 1}),
        Case("how many to wait for", {"master_bind": ("127.0.0.1", 1)}),
    ],
    ids=lambda case: case.says,
)
def test_what_cannot_be_is_refused(case: Case, scenario: Callable[[str], Path], tmp_path: Path) -> None:
    """A user would read Locust's log to learn that a number is missing."""
    arguments = {"locustfile": scenario(PLAIN), "host": "http://127.0.0.1:9", "users": 2, "mode": SATURATION}
    with pytest.raises(Refusal, match=case.says):
        load.Generator.start(**{**arguments, "folder": tmp_path, **case.changes})  # type: ignore[arg-type]


def test_without_locust_there_is_a_sentence(
    scenario: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ImportError in a log, where an extra was forgotten."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"pip install 'autoinstr\[bench\]'"):
        load.Generator.start(scenario(PLAIN), "http://127.0.0.1:9", users=1, mode=SATURATION, folder=tmp_path)


def test_the_driver_leaves_locust_alone() -> None:
    """Importing Locust patches sockets and threads of the process: the harness would run on gevent."""
    script = "import sys, autoinstr.bench.load; print([m for m in sys.modules if m.split('.')[0] in ('locust', 'gevent')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_ceiling_is_measured() -> None:
    """Nobody could say whether the program or the generator is the bottleneck."""
    assert load.ceiling(None, 1) > 100


TURNSTILE = """
import sys
from time import perf_counter
import gevent
from autoinstr.bench.load import turnstile
if sys.argv[1] == "plain":
    turnstile._Alarm.is_here = staticmethod(lambda: False)
start = perf_counter() + 0.05
due = [start + number / 200 for number in range(20)]
stile = turnstile.Turnstile(iter([*due, due[-1] + 3600]))
taken = []
def user():
    while True:
        taken.append((*stile.take(), perf_counter()))
idle = gevent.spawn(user)
gone = gevent.spawn(stile.take)
gevent.sleep(0.01)
gone.kill()
gevent.sleep(due[-1] - perf_counter())
unsent = stile.close(1.0)
assert unsent == 0, unsent
assert [one for one, _, _ in taken] == due, taken
assert not any(late for _, late, _ in taken), taken
assert all(when >= one for one, _, when in taken), taken
idle.kill()
busy = turnstile.Turnstile(iter([perf_counter() - 1, perf_counter(), perf_counter() + 3600]))
gevent.sleep(0.01)
assert busy.backlog == 2
assert busy.take()[1] is True
assert busy.close(0.01) == 1
print("fine")
"""


@pytest.mark.parametrize("timer", ["timerfd", "plain"])
def test_arrivals_are_handed_out_in_order_and_none_is_lost(timer: str) -> None:
    """A request handed to a user that had been stopped would never be sent, nor missed; where there is no timerfd, none would be."""
    done = subprocess.run([sys.executable, "-c", TURNSTILE, timer], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout.strip() == "fine", done.stderr
