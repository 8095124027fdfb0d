"""Cores that are kept busy with nothing: in nobody's way, and gone with whoever wanted them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoinstr.bench import awake, probe
from fakes import until

pytestmark = pytest.mark.skipif(not awake.is_possible(), reason="the system has no class of tasks that yields to all others")


def fillers_of(pid: int) -> list[int]:
    return [child for child in probe.descendants(pid) if b"SCHED_IDLE" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_an_idle_core_is_busy_and_a_wanted_one_is_not_disturbed() -> None:
    """A filler that takes its share would make the generator the bottleneck: it did, where each session has a share of its own."""
    core = max(os.sched_getaffinity(0))
    with awake.kept([core]):
        until(lambda: bool(fillers_of(os.getpid())), "the filler")
        (filler,) = fillers_of(os.getpid())
        until(lambda: os.sched_getscheduler(filler) == os.SCHED_IDLE, "the idle class")
        assert os.sched_getaffinity(filler) == {core}
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            start, filler_ns, own_ns = time.monotonic(), probe.cpu_ns(filler), time.process_time_ns()
            while time.monotonic() < start + 1.0:
                pass
            filled_ns, worked_ns = probe.cpu_ns(filler) - filler_ns, time.process_time_ns() - own_ns
        finally:
            os.sched_setaffinity(0, before)
        # Others run here, too; what counts is how the two share what is left to them.
        assert filled_ns < 0.05 * worked_ns
        filler_ns = probe.cpu_ns(filler)
        until(lambda: probe.cpu_ns(filler) - filler_ns > 20e6, "the filler to run on an idle core")
    assert not fillers_of(os.getpid())


def test_fillers_end_with_a_harness_that_is_killed() -> None:
    """Else a forgotten one heats the machine until the next start."""
    code = "import time\nfrom autoinstr.bench import awake\nwith awake.kept([0]):\n    print('kept', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        harness.stdout.readline()
        until(lambda: bool(fillers_of(harness.pid)), "the filler")
        (filler,) = fillers_of(harness.pid)
        harness.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{filler}").exists(), "the end of the filler")
