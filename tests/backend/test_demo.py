"""``make demo`` as a newcomer runs it: the agent, two services, a third party and the backend together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import poll

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Marks every process of one demo, so that those left behind can be found among everything that runs."""
    return {**os.environ, "DEMO_MARK": str(tmp_path)}


def left_behind(environment: dict[str, str]) -> list[int]:
    mark = f"DEMO_MARK={environment['DEMO_MARK']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_the_demo_shows_a_trace_across_all_processes(environment: dict[str, str]) -> None:
    """The first thing that anybody tries."""
    command = [sys.executable, str(DEMO)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    bought, refused = ended.stdout.split("\ntrace ")[1:]
    assert bought.startswith(tuple("0123456789abcdef"))
    assert "  4 spans  2 services  " in bought.splitlines()[0]
    services = [line.lstrip("│├└─ ").split()[0] for line in bought.splitlines()[1:5]]
    assert services == ["shop", "shop", "stock", "shop"]
    assert "402" in refused
    assert left_behind(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [3, 5])
def test_an_interrupted_demo_leaves_no_process_behind(environment: dict[str, str], number: int, processes: int) -> None:
    """Whoever presses Ctrl-C must not find the ports taken afterwards."""
    command = [sys.executable, str(DEMO), "--keep"]
    demo = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Five are all: the demo, the backend, the two services and the third party.
    poll(lambda: len(left_behind(environment)) >= processes, "the demo's processes")
    demo.send_signal(number)
    demo.wait(timeout=30)
    assert left_behind(environment) == []
