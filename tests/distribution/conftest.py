"""What is uploaded when a release is made, built once for all tests, and environments in which it is installed."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from .venvs import INSTALL_S, Venv, call, kept_environ, tool, uv_environ

ROOT = Path(__file__).parents[2]

#: ``once(name, make)``: the folder ``name``, which ``make`` has filled, in whichever worker came first.
Once = Callable[[str, Callable[[Path], None]], Path]


@dataclass(frozen=True)
class Dist:
    """What ``python -m build`` makes."""

    wheel: Path
    sdist: Path

    @property
    def version(self) -> str:
        return self.wheel.name.split("-")[1]

    def extra(self, *names: str) -> str:
        """The wheel, with extras, as a requirement."""
        return f"autoinstr[{','.join(names)}] @ {self.wheel.as_uri()}"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(shared: Path) -> Once:
    """What is made once for all workers."""

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def dist(once: Once) -> Dist:
    """The source distribution of this checkout, and the wheel that is made from it: no file may come by another way."""
    pytest.importorskip("build", reason="build is not installed: pip install -e '.[test]'")

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
        assert built.returncode == 0, built.stdout + built.stderr

    folder = once("dist", build)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Dist(wheel, sdist)


@pytest.fixture(scope="session")
def metadata(dist: Dist) -> Metadata:
    """That of the wheel; reading it finds what the package index would refuse."""
    with zipfile.ZipFile(dist.wheel) as wheel:
        text = wheel.read(f"autoinstr-{dist.version}.dist-info/METADATA")
    return Metadata.from_email(text, validate=True)


@pytest.fixture(scope="session")
def index(shared: Path) -> None:
    """Packages can be had; otherwise the test is skipped."""
    if not Path(tool("uv")).exists():
        pytest.skip("uv is not installed: pip install -e '.[test]'")
    environ = {**kept_environ(), **uv_environ()}
    question = shared / f"question-{os.getpid()}.txt"
    question.write_text("wrapt\n")
    asked = call(tool("uv"), "pip", "compile", "--quiet", question, cwd=shared, environ=environ, timeout=INSTALL_S)
    if asked.returncode:
        pytest.skip(f"no package index: {re.sub(r'//[^/ ]*', '//…', asked.stderr.strip())[-300:]}")


@pytest.fixture
def venv(tmp_path: Path, index: None) -> Venv:
    """An empty environment of this Python."""
    return Venv(tmp_path)
