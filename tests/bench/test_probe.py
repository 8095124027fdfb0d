"""What the figures of a run are made of: CPU of whole process trees, memory, and what else went on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoinstr.bench import probe
from autoinstr.bench.probe import CpuSeries, Noise, Pace, Tree, cpu_ns
from fakes import DEADLINE_S, until

pytestmark = pytest.mark.skipif(not probe.IS_LINUX, reason="reads Linux's /proc")

BURN = """
import os, subprocess, sys, threading, time
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
def used():
    import resource
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
def say(*words):
    print(*words, flush=True)
"""


@contextlib.contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """A Python that can ``burn``, ``say`` and read; ended at the end."""
    command = [sys.executable, "-c", BURN + text]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    # Whoever waits for words that never come hears the end instead.
    watchdog = threading.Timer(DEADLINE_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_process_clock_counts_threads_that_have_ended() -> None:
    """Otherwise a server that starts a thread per request would look free of charge."""
    with program("t = threading.Thread(target=burn, args=(0.1,)); t.start(); t.join(); say(used()); input()") as child:
        stated_s = float(heard(child))
        assert stated_s >= 0.1
        assert stated_s - 0.001 <= cpu_ns(child.pid) / 1e9 < stated_s + 0.1


def test_a_process_that_is_gone_has_no_clock() -> None:
    """A server that died must be noticed, not measured as using nothing; until it is waited for it can still be read."""
    with program("burn(0.02); say('burnt')") as child:
        assert heard(child) == "burnt"
        until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "the end")
        assert cpu_ns(child.pid) >= 20_000_000
        child.wait()
        with pytest.raises(ProcessLookupError, match=str(child.pid)):
            cpu_ns(child.pid)


def test_children_are_counted_also_those_nobody_has_seen() -> None:
    """Workers of a server are its children; a worker that ended between two looks must not take its CPU with it."""
    text = """
input()
for _ in range(4):
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.05: pass"])
say(used()); input()
"""
    with program(text) as child:
        tree = Tree([child.pid])
        begin_ns = tree.read_ns()
        go(child)
        stated_s = float(heard(child))
        assert stated_s >= 0.2
        tree.look_for_children()
        # Children that have ended are accounted in ticks of the clock, of user and of system time.
        assert (tree.read_ns() - begin_ns) / 1e9 == pytest.approx(stated_s, abs=0.05)


def test_children_that_come_later_are_found() -> None:
    """gunicorn's worker, started after its master, does all the work."""
    text = """
input()
p = subprocess.Popen([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.1: pass\\nprint('burnt', flush=True); input()"])
p.wait()
"""
    with program(text) as child:
        tree = Tree([child.pid])
        before_ns = tree.read_ns()
        assert tree.pids() == [child.pid]
        go(child)
        assert heard(child) == "burnt"
        tree.look_for_children()
        assert tree.pids() == [child.pid, *probe.descendants(child.pid)]
        assert len(tree.pids()) == 2
        assert 0.1e9 <= tree.read_ns() - before_ns <= sum(map(cpu_ns, tree.pids()))


def test_grandchildren_are_found_at_once() -> None:
    """A launcher that starts gunicorn that starts a worker: the work is at the third level."""
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with program(f"subprocess.run([sys.executable, '-c', {nested!r}])") as child:
        assert heard(child) == "1"
        assert len(Tree([child.pid]).pids()) == 3


def test_what_a_child_has_waited_for_is_not_counted_again_when_it_ends() -> None:
    """A worker that ran programs of its own, and then ended: the kernel hands its whole account to the parent."""
    text = """
worker = '''
import subprocess, sys
print("begun", flush=True); input()
subprocess.run([sys.executable, "-c", "import time\\\\nwhile time.process_time() < 0.3: pass"])
print("worked", flush=True); input()
'''
p = subprocess.Popen([sys.executable, "-c", worker], stdin=subprocess.PIPE)
input(); p.stdin.write(b"\\n"); p.stdin.flush()
input(); p.communicate(b"x"); say(used()); input()
"""
    with program(text) as child:
        assert heard(child) == "begun"
        tree = Tree([child.pid])
        go(child)
        assert heard(child) == "worked"
        tree.look_for_children()
        go(child)
        stated_s = float(heard(child))
        assert tree.read_ns() / 1e9 == pytest.approx(stated_s, abs=0.07)


def test_cpu_of_an_ended_child_is_kept_once() -> None:
    """The child's CPU is in its own last reading and in its parent's account: the figure must have it once."""
    text = """
p = subprocess.Popen([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass\\nprint('burnt', flush=True); input()"],
                     stdin=subprocess.PIPE)
input(); p.communicate(b"x"); say(used()); input()
"""
    with program(text) as child:
        assert heard(child) == "burnt"
        tree = Tree([child.pid])
        before_ns = tree.read_ns()
        assert before_ns >= 0.3e9
        go(child)
        stated_s = float(heard(child))
        after_ns = tree.read_ns()
        assert before_ns <= after_ns
        assert after_ns / 1e9 == pytest.approx(stated_s, abs=0.05)


def test_cpu_never_goes_back_when_nobody_waits_for_a_child() -> None:
    """A program that ignores SIGCHLD has its children's CPU thrown away by the kernel; a negative cost would be nonsense."""
    text = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
p = subprocess.Popen([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.2: pass\\nprint('burnt', flush=True); input()"],
                     stdin=subprocess.PIPE)
input(); p.stdin.write(b"x\\n"); p.stdin.close()
while os.path.exists(f"/proc/{p.pid}"): time.sleep(0.001)
say("gone"); input(); os._exit(0)
"""
    with program(text) as child:
        assert heard(child) == "burnt"
        tree = Tree([child.pid])
        before_ns = tree.read_ns()
        assert before_ns >= 0.2e9
        go(child)
        assert heard(child) == "gone"
        assert tree.read_ns() >= before_ns
        assert tree.pids() == [child.pid]


def test_a_window_of_the_series_has_the_cpu_of_the_window() -> None:
    """The primary figure of every report is one such window."""
    with program("input(); burn(0.2); say(used()); input()") as child:
        series = CpuSeries({"server": child.pid, "harness": os.getpid()})
        series.poll()
        idle_s = time.time()
        until(lambda: time.time() > idle_s, "a moment")
        series.poll()
        begin_s = series.span()[1]
        go(child)
        stated_s = float(heard(child))
        series.poll()
        first_s, end_s = series.span()
        assert series.pids("server") == [child.pid]
        assert first_s < begin_s < end_s
        assert series.between("server", first_s, begin_s) < 50_000
        assert 200_000 <= series.between("server", begin_s, end_s) <= stated_s * 1e6 + 50_000
        middle_s = (begin_s + end_s) / 2
        halves = series.between("server", begin_s, middle_s) + series.between("server", middle_s, end_s)
        assert halves == pytest.approx(series.between("server", begin_s, end_s))
        assert series.between("harness", first_s, end_s) > series.between("server", first_s, end_s)


def test_the_thread_samples_until_it_is_stopped() -> None:
    """The runner asks for windows afterwards, anywhere in the run."""
    with program("input()") as child, CpuSeries({"server": child.pid}, interval_s=0.005) as series:
        until(lambda: len(series._series["server"]) > 5, "samples")
        begin_s, end_s = series.span()
        assert series.between("server", begin_s, end_s) >= 0
    assert not series._thread.is_alive()
    assert series.span()[1] > end_s


def test_a_window_that_was_not_sampled_is_refused() -> None:
    """Silently measuring half a window would halve the cost."""
    with CpuSeries({"harness": os.getpid()}) as series:
        pass
    start, end = series.span()
    with pytest.raises(ValueError, match="was not sampled"):
        series.between("harness", start - 1, end)
    with pytest.raises(ValueError, match="was not sampled"):
        series.between("harness", start, end + 1)


def test_edges_between_samples_are_interpolated() -> None:
    """Windows begin at full seconds, samples do not."""
    series = [(10.0, 100.0), (11.0, 200.0), (13.0, 200.0)]
    assert [probe._at(series, moment) for moment in (10.0, 10.25, 11.0, 12.0, 13.0)] == [100.0, 125.0, 200.0, 200.0, 200.0]


def test_an_interrupted_reading_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading whose moment is unknown by 50 ms would move CPU from one second into the next."""
    moments = iter([1.0, 1.05, 2.0, 2.0001])
    monkeypatch.setattr(probe, "time", SimpleNamespace(time=lambda: next(moments)))
    readings = iter([1, 2])
    assert probe._timed(lambda: next(readings)) == (pytest.approx(2.00005), 2)


def test_the_sampling_thread_runs_where_it_is_told_to() -> None:
    """On the server's core it would disturb what it measures; and pinning it must not pin the harness."""
    before = os.sched_getaffinity(0)
    last = max(before)
    with CpuSeries({"harness": os.getpid()}, cpus={last}) as series:
        thread = series._thread.native_id
        until(lambda: os.sched_getaffinity(thread) == {last}, "the pinned thread")
        assert os.sched_getaffinity(0) == before


def test_the_pace_falls_where_the_cpu_is_shared() -> None:
    """Work that takes longer because the CPU is slower would be taken for the variant's. A clock that counts it makes it visible:
    here the same work is done on a core that runs as it is, and by a gauge whose every pass is made three times as long."""
    core = {max(os.sched_getaffinity(0))}

    class Slow(Pace):
        def _work(self) -> int:
            return sum(super(Slow, self)._work() for _ in range(3))

    with Pace(core, interval_s=0.002) as pace, Slow(core, interval_s=0.002) as slow:
        thread = pace._thread.native_id
        until(lambda: os.sched_getaffinity(thread) == core, "the pinned thread")
        start = time.time()
        until(lambda: len(pace._samples) > 60 and len(slow._samples) > 60, "samples")
        end = time.time()
    usual, slowed = pace.between(start, end), slow.between(start, end)
    assert 2 < slowed / usual < 4.5
    assert pace.between(end + 10, end + 11) is None


def test_a_series_that_broke_says_so() -> None:
    """A sampling thread that died in silence would leave a window without samples and nobody knowing why."""

    class Broken(CpuSeries):
        def _sample(self) -> None:
            if threading.current_thread() is self._thread:
                raise RuntimeError("no more")
            super()._sample()

    series = Broken({"harness": os.getpid()}, interval_s=0.001).start()
    until(lambda: not series._thread.is_alive(), "the end of the thread")
    with pytest.raises(RuntimeError, match="no more"):
        series.stop()


def test_memory_threads_and_switches_are_those_of_all_the_processes() -> None:
    """Memory is a figure of the report; shared pages counted for each worker would make prefork servers look huge."""
    text = """
block = bytearray(os.urandom(1)) * (30 << 20)
def wait(): time.sleep(60)
for _ in range(3): threading.Thread(target=wait, daemon=True).start()
r, w = os.pipe()
if os.fork() == 0:
    os.close(w); os.read(r, 1); os._exit(0)
say("ready")
def naps():
    for _ in range(50): time.sleep(0.0001)
    say("slept"); time.sleep(60)
threading.Thread(target=naps, daemon=True).start(); input()
"""
    with program(text) as child:
        assert heard(child) == "ready"
        pids = [child.pid, *probe.descendants(child.pid)]
        assert len(pids) == 2
        used = probe.memory(pids)
        assert used.rss_bytes >= 60 << 20
        assert 30 << 20 <= used.pss_bytes < used.rss_bytes - (25 << 20)
        assert probe.memory(pids, with_pss=False).pss_bytes is None
        assert probe.peak_rss_bytes(child.pid) >= 30 << 20
        assert heard(child) == "slept"
        assert probe.threads(pids) == 6
        assert probe.switches(pids) >= 50


def test_an_ended_process_has_no_memory_and_unknown_switches() -> None:
    """The program may die while it is looked at."""
    with program("") as child:
        child.wait()
        assert probe.memory([child.pid]) == (0, None)
        assert probe.switches([child.pid]) is None
        assert probe.threads([child.pid]) == 0
        assert probe.descendants(child.pid) == []
        assert probe.peak_rss_bytes(child.pid) is None


# ---- Noise -----------------------------------------------------------------------------------------


def test_cpu_of_others_is_what_is_not_ours() -> None:
    """This figure makes runs invalid: the program under test must not count as somebody else, a stranger must."""
    cpus = os.sched_getaffinity(0)
    with program("say('go')\nwhile True: pass") as stranger, program("input()") as ours:
        heard(stranger)
        begin_ns = cpu_ns(stranger.pid)
        with_stranger, without = Noise(cpus, lambda: [ours.pid, stranger.pid]), Noise(cpus, [ours.pid])
        for noise in (with_stranger, without):
            noise.poll()
        until(lambda: cpu_ns(stranger.pid) - begin_ns > 0.5e9, "half a second of CPU")
        for noise in (with_stranger, without):
            noise.poll()
        seconds = without._looks[1].at_s - without._looks[0].at_s
        used_s = (cpu_ns(stranger.pid) - begin_ns) / 1e9
    difference = without.figures().other_cores - with_stranger.figures().other_cores
    assert without.figures().other_cores >= 0.8 * used_s / seconds
    assert difference == pytest.approx(used_s / seconds, rel=0.15)


def test_a_real_machine_states_its_noise() -> None:
    """doctor and every run print these."""
    with Noise(os.sched_getaffinity(0), interval_s=0.01) as noise:
        until(lambda: len(noise._looks) >= 3, "samples")
    figures = noise.figures()
    assert figures.load_average is not None
    assert figures.steal is None or 0 <= figures.steal <= 1
    assert figures.psi is None or 0 <= figures.psi <= 1
    assert 0 <= figures.other_cores <= len(os.sched_getaffinity(0)) + 0.5


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Write the system's counters; the system itself cannot be made to steal."""
    monkeypatch.setattr(probe, "_PROC", tmp_path)
    (tmp_path / "pressure").mkdir()
    (tmp_path / "control").mkdir()
    monkeypatch.setattr(probe, "cgroup_folders", lambda controller: [tmp_path / "control"])

    def write(stat: str, waiting_us: int, throttled: int = 0) -> None:
        (tmp_path / "stat").write_text(stat)
        (tmp_path / "pressure" / "cpu").write_text(f"some avg10=0.00 avg60=0.00 avg300=0.00 total={waiting_us}\n")
        (tmp_path / "control" / "cpu.stat").write_text(f"nr_periods 9\nnr_throttled {throttled}\n")

    return write


def noise_of(proc: Callable[..., None], cpus: set[int], *states: tuple) -> tuple[Noise, float]:
    for number, state in enumerate(states):
        proc(*state)
        if number == 0:
            noise = Noise(cpus, [])
        noise.poll()
    return noise, noise._looks[-1].at_s - noise._looks[0].at_s


def test_steal_and_pressure_are_shares_of_the_window(
    proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the CPUs in use count: what the hypervisor takes from the others does not touch the run."""
    clock = iter([100.0, 100.0, 102.0, 102.0])
    monkeypatch.setattr(probe, "time", SimpleNamespace(time=lambda: next(clock)))
    states = (
        ("cpu 0 0 0 0 0 0 0 0\ncpu0 100 0 0 0 0 0 0 50\ncpu1 100 0 0 0 0 0 0 70\ncpu2 0 0 0 0 0 0 0 0\n", 1_000_000, 4),
        ("cpu 0 0 0 0 0 0 0 0\ncpu0 150 10 20 0 0 0 5 60\ncpu1 100 0 0 0 0 0 0 70\ncpu2 9 9 9 9 9 9 9 99\n", 1_500_000, 6),
    )
    noise, seconds = noise_of(proc, {0, 1}, *states)
    assert seconds == 2.0
    figures = noise.figures()
    assert figures.steal == pytest.approx(0.1 / 2 / 2)
    assert figures.psi == pytest.approx(0.25)
    assert figures.other_cores == pytest.approx((0.5 + 0.1 + 0.2 + 0.05) / 2)
    assert figures.throttled == 2
    assert noise.between(100.5, 101.5).psi == pytest.approx(0.25)


def test_interrupts_count_only_where_processes_are_charged_for_them(proc: Callable[..., None]) -> None:
    """On kernels that measure interrupts the network's own work would look like a foreign process."""
    measured = "cpu 1000 0 1000 0 0 90 90 0\ncpu0 100 0 0 0 0 30 40 0\n"
    proc(measured, 0)
    assert probe.busy_and_steal_s({0}) == (1.0, 0.0)
    sampled = "cpu 1000 0 1000 0 0 0 90 0\ncpu0 100 0 0 0 0 0 40 0\n"
    proc(sampled, 0)
    assert probe.busy_and_steal_s({0}) == (1.4, 0.0)


def test_what_the_system_does_not_say_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that hides its steal must not pass for one that has none."""
    monkeypatch.setattr(probe, "_PROC", tmp_path)
    monkeypatch.setattr(probe, "cgroup_folders", lambda controller: [])
    noise = Noise({0}, [])
    noise.poll()
    until(lambda: time.time() > noise._looks[0].at_s, "a moment")
    noise.poll()
    figures = noise.figures()
    assert (figures.steal, figures.psi, figures.other_cores, figures.throttled) == (None, None, None, None)


def test_sampling_ten_times_a_second_costs_next_to_nothing() -> None:
    """The harness measures microseconds; CPU time of a sample, not wall time, so that a busy machine does not matter."""
    series = CpuSeries({"a": os.getpid(), "b": os.getppid()})
    series.poll()
    costs = []
    for _ in range(20):
        begin = time.thread_time()
        for _ in range(10):
            series.poll()
        costs.append((time.thread_time() - begin) / 10)
    assert min(costs) < 0.001
