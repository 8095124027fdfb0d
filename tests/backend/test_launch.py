"""``python -m autoinstr --ui app.py``: the program runs, and a backend beside it."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from autoinstr.backend import launch

from .conftest import DEADLINE_S, HOST, NAMES, poll

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")

#: The command line, with other ports than Jaeger's, which may be in use where tests run.
MAIN = """
import sys
from autoinstr.backend import launch
launch.QUERY_PORT, launch.SAMPLING_PORT, launch.AGENT_PORT = {ports}
launch.COMMAND = {command}
from autoinstr.__main__ import main
sys.exit(main())
"""
PROGRAM = """
import os
# The three, and the one that lists them.
descriptors = len(os.listdir("/proc/self/fd"))
import autoinstr
with autoinstr.span("early"):
    pass
autoinstr.flush(5)
try:
    os.waitpid(-1, os.WNOHANG)
    print("a child that I did not start")
except ChildProcessError:
    print("done", descriptors)
"""


def free_ports(count: int) -> list[int]:
    """Free for TCP and for UDP."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, port))
            udp.bind((HOST, port))
            found.append(port)
    return found


class Desk:
    """A developer's machine: its own folder, ports and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.query, self.sampling, self.agent = free_ports(3)
        words = [word for name in NAMES for word in (f"--{name}-port", "0")]
        self.command = (sys.executable, "-m", "autoinstr", "serve", "--data", str(folder / "data"), *words)

    def run(self, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
        script = self.folder / "main.py"
        script.write_text(MAIN.format(ports=(self.query, self.sampling, self.agent), command=self.command))
        (self.folder / "app.py").write_text(program)
        environ = {
            **os.environ,
            "LAUNCH_MARK": str(self.folder),
            "JAEGER_AGENT_PORT": str(self.agent),
            "JAEGER_SAMPLING_ENDPOINT": f"http://{HOST}:{self.sampling}/sampling",
            "OTEL_SERVICE_NAME": "early-bird",
        }
        command = [sys.executable, str(script), "--ui", str(self.folder / "app.py")]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    def processes(self) -> list[int]:
        """What was left running."""
        mark = f"LAUNCH_MARK={self.folder}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def traces(self) -> list[object]:
        try:
            with closing(http.client.HTTPConnection(HOST, self.query, timeout=5)) as connection:
                connection.request("GET", "/api/traces?service=early-bird&start=0")
                return json.loads(connection.getresponse().read())["data"]
        except OSError:
            return []


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    for process in made.processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    poll(lambda: not made.processes(), "the end of the backend")


def test_a_backend_is_started_once_and_has_the_first_spans(desk: Desk) -> None:
    """Someone who tries it on a script of a tenth of a second must find its trace, and the next run's in the same place."""
    first = desk.run()
    url = f"http://{HOST}:{desk.query}/"
    assert first.returncode == 0, first.stderr
    assert first.stdout == "done 4\n"
    assert first.stderr == f"autoinstr: traces at {url} (started, and left running)\n"
    assert len(poll(desk.traces, "the first trace")) == 1
    [backend] = desk.processes()
    second = desk.run()
    assert second.stderr == f"autoinstr: traces at {url}\n"
    poll(lambda: len(desk.traces()) == 2, "the second trace")
    assert desk.processes() == [backend]


def test_a_backend_that_cannot_start_does_not_disturb_the_program(desk: Desk) -> None:
    """The program matters: its status, its output, its time."""
    desk.command = (sys.executable, "-c", "raise SystemExit('cannot')")
    ended = desk.run("import sys\nprint('ran')\nsys.exit(3)\n")
    assert (ended.returncode, ended.stdout) == (3, "ran\n")
    desk.command = ("/nowhere/python",)
    ended = desk.run("import sys\nprint('ran')\nsys.exit(3)\n")
    assert (ended.returncode, ended.stdout) == (3, "ran\n")


def test_a_taken_port_of_datagrams_is_said(desk: Desk) -> None:
    """A Jaeger agent may listen there: the spans go to it, and there is nothing to see here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, desk.agent))
        ended = desk.run("print('ran')")
    assert ended.stdout == "ran\n"
    assert f"{HOST}:{desk.agent} (UDP) is taken" in ended.stderr


def test_the_program_does_not_wait(desk: Desk) -> None:
    """What is started takes half a second; the program must not."""
    desk.command = (sys.executable, "-c", f"import time; time.sleep({DEADLINE_S})")
    started = time.monotonic()
    assert desk.run("print('ran')").stdout == "ran\n"
    assert time.monotonic() - started < DEADLINE_S / 2
    for process in desk.processes():
        os.kill(process, signal.SIGKILL)


def test_without_the_backends_libraries_it_is_said(desk: Desk, tmp_path: Path) -> None:
    """The agent alone is a common installation."""
    script = "import sys\nsys.modules['starlette'] = None\n"
    code = f"{script}from autoinstr.backend import launch\nprint(launch.ready())"
    code = code.replace("print(", f"launch.QUERY_PORT = {desk.query}\nlaunch.SAMPLING_PORT = {desk.sampling}\nprint(")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.startswith("no web interface: ")


@pytest.mark.parametrize("name", ["JAEGER_SAMPLER_TYPE", "JAEGER_SAMPLER_PARAM", "OTEL_TRACES_SAMPLER"])
def test_what_the_user_said_about_sampling_stays(name: str) -> None:
    """Whoever looks for why a trace is not kept must not find another setting than his own."""
    assert launch.with_first_trace({name: "x"}) == {name: "x"}
    assert launch.with_first_trace({}) == {"JAEGER_SAMPLER_PARAM": "1"}
