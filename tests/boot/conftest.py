"""Runs programs bare and under the agent, as real processes, so that a test can compare what they saw.

The launcher and the bootstrap are the real files; the runtime below them is a stand-in that writes one line per start, so
that the tests see where the agent was started, how often, and what happens when it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import venv
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "autoinstr"
PROBE = Path(__file__).with_name("probe.py")
DEADLINE_S = 60

RUNTIME = """\
import os, sys

def start(environ):
    if hasattr(sys, "_stand_in"):
        return
    sys._stand_in = True
    with open(environ["STARTS"], "a") as starts:
        starts.write("%d\\n" % os.getpid())
    fault = environ.get("FAULT")
    if fault:
        raise {"error": RuntimeError, "exit": SystemExit}[fault]("first line\\nsecond line")
"""


class Environment:
    """A virtual environment in which ``autoinstr`` is installed, with the stand-in as its runtime."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "packages"
        self.boot = str(self.root / "autoinstr" / "_boot")
        self.bin = folder / "venv" / "bin"
        self.python = str(self.bin / "python")
        Path(self.boot).mkdir(parents=True)
        for name in ("__init__.py", "__main__.py", "_boot/sitecustomize.py"):
            shutil.copy(PACKAGE / name, self.root / "autoinstr" / name)
        (self.root / "autoinstr" / "runtime.py").write_text(RUNTIME)
        venv.create(folder / "venv", symlinks=True)
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "agent.pth").write_text(f"{self.root}\n")
        self.script("autoinstr", "import sys\nfrom autoinstr.__main__ import main\nsys.exit(main())\n")

    def script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{self.python}\n{text}")
        path.chmod(0o755)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One for all tests; they do not change it."""
    environment = Environment(tmp_path_factory.mktemp("agent"))
    environment.script("beside", "print('beside')\n")
    return environment


class Programs:
    """Starts programs in one folder; ``started`` is the pids of the processes in which the agent was started."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.folder = folder
        self.python = environment.python
        self.boot = environment.boot
        self.marks = folder.parent / f"{folder.name}-starts"
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR") if name in os.environ
        }
        self.environ = {**kept, "STARTS": str(self.marks), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def started(self) -> list[int]:
        return [int(line) for line in self.marks.read_text().split()] if self.marks.exists() else []

    def file(self, name: str, text: str, *, executable: bool = False) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if executable:
            path.chmod(0o755)
        return path

    def run(self, *argv: str | bytes, stdin: bytes = b"", **environ: str) -> Result:
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(stdin, timeout=DEADLINE_S)
        finally:
            process.kill()
        return Result(process.pid, process.returncode, out, err)

    def bare(self, *words: str | bytes, flags: tuple[str, ...] = (), stdin: bytes = b"", **environ: str) -> Result:
        """``python [flags] words``."""
        return self.run(self.python, *flags, *words, stdin=stdin, **environ)

    def agent(self, *words: str | bytes, flags: tuple[str, ...] = (), stdin: bytes = b"", **environ: str) -> Result:
        """``python [flags] -m autoinstr words``."""
        return self.run(self.python, *flags, "-m", "autoinstr", *words, stdin=stdin, **environ)


class Result:
    """How a process ended."""

    def __init__(self, pid: int, status: int, out: bytes, err: bytes) -> None:
        self.pid = pid
        self.status = status
        self.out = out
        self.err = err

    @property
    def facts(self) -> dict[str, object]:
        """What ``probe.py`` printed, without what differs from process to process."""
        assert (b"", 0) == (self.err, self.status)
        facts: dict[str, object] = json.loads(self.out)
        assert self.pid == facts.pop("pid")
        return facts

    @property
    def outcome(self) -> tuple[int, bytes, bytes]:
        return self.status, self.out, self.err

    def __repr__(self) -> str:
        return f"{self.outcome!r} ({signal.Signals(-self.status).name if self.status < 0 else 'exit'})"


@pytest.fixture
def programs(tmp_path: Path, environment: Environment) -> Programs:
    """Programs in a fresh folder that holds ``app.py``, the probe."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(PROBE, folder / "app.py")
    return Programs(folder, environment)
