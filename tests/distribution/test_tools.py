"""pipx and uv run autoinstr as docs/install.md says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from interpreters import interpreters

from .conftest import Dist
from .venvs import INSTALL_S, Venv, call, kept_environ, pip_environ, succeed, tool, uv_environ

#: Which Python a program has, whether it is traced, and whether it sees a package of its own environment.
APP = """\
import importlib.util, json, sys
print(json.dumps({
    "prefix": sys.prefix,
    "python": "%d.%d" % sys.version_info[:2],
    "traced": "autoinstr.runtime" in sys.modules,
    "own": importlib.util.find_spec("six") is not None,
}))
"""


def facts(printed: str) -> dict[str, object]:
    """What the program printed of itself."""
    found: dict[str, object] = json.loads(printed.splitlines()[-1])
    return found


@pytest.fixture
def environ(tmp_path: Path, index: None) -> dict[str, str]:
    """For uv and pipx, which keep what they install below ``tmp_path``."""
    return {
        **kept_environ(),
        **pip_environ(),
        **uv_environ(),
        "AUTOINSTR_EXPORTER": "none",
        "UV_TOOL_DIR": str(tmp_path / "uv-tools"),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
    }


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A program in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    program = folder / "app.py"
    program.write_text(APP)
    return program


def uv(app: Path, environ: dict[str, str], *words: str | Path) -> str:
    return succeed(call(tool("uv"), *words, cwd=app.parent, environ=environ, timeout=INSTALL_S))


def test_uvx_runs_a_script(dist: Dist, app: Path, environ: dict[str, str]) -> None:
    """``uvx autoinstr app.py``: the program runs in the tool's environment, without packages of its own."""
    seen = facts(uv(app, environ, "tool", "run", "--python", sys.executable, "--from", dist.wheel, "autoinstr", "app.py"))
    assert (True, False) == (seen["traced"], seen["own"])
    assert sys.prefix != seen["prefix"]


def test_uvx_with_packages_of_the_program(dist: Dist, app: Path, environ: dict[str, str]) -> None:
    """``uvx --with six autoinstr app.py``: the program's packages come into the tool's environment."""
    words = ("tool", "run", "--python", sys.executable, "--from", dist.wheel, "--with", "six", "autoinstr", "app.py")
    seen = facts(uv(app, environ, *words))
    assert (True, True) == (seen["traced"], seen["own"])


def test_uvx_python_with_the_agent(dist: Dist, app: Path, environ: dict[str, str]) -> None:
    """``uvx --with autoinstr python -m autoinstr app.py``: a Python of uv's, with the agent in it."""
    words = ("tool", "run", "--python", sys.executable, "--with", dist.wheel, "python", "-m", "autoinstr", "app.py")
    seen = facts(uv(app, environ, *words))
    assert (True, False) == (seen["traced"], seen["own"])


@pytest.mark.parametrize("version", sorted(set(interpreters()) & {"3.10", "3.13"}))
def test_uvx_python(dist: Dist, app: Path, environ: dict[str, str], version: str) -> None:
    """The program runs on the Python that ``--python`` names, not on the one that has uv."""
    words = ("tool", "run", "--python", interpreters()[version], "--from", dist.wheel, "autoinstr", "app.py")
    assert version == facts(uv(app, environ, *words))["python"]


def test_uv_run_in_a_project(dist: Dist, app: Path, environ: dict[str, str]) -> None:
    """``uv run --with autoinstr``: in the project's environment, which stays as it is."""
    project = '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["six"]\n'
    (app.parent / "pyproject.toml").write_text(project)
    words = ("run", "--quiet", "--python", sys.executable)
    seen = facts(uv(app, environ, *words, "--with", dist.wheel, "--", "python", "-m", "autoinstr", "app.py"))
    assert (True, True) == (seen["traced"], seen["own"])
    bare = facts(uv(app, environ, *words, "--", "python", "app.py"))
    assert (False, True) == (bare["traced"], bare["own"])
    assert "autoinstr" not in (app.parent / "uv.lock").read_text()


def test_uv_run_of_a_script_with_its_own_requirements(dist: Dist, app: Path, environ: dict[str, str]) -> None:
    """A script with inline metadata (PEP 723), whose environment only ``uv run --script`` makes."""
    app.write_text(f'# /// script\n# dependencies = ["six"]\n# ///\n{APP}')
    words = ("run", "--quiet", "--python", sys.executable, "--with", dist.wheel, "--with-requirements", app)
    seen = facts(uv(app, environ, *words, "--", "python", "-m", "autoinstr", "app.py"))
    assert (True, True) == (seen["traced"], seen["own"])


def test_pipx_run(dist: Dist, app: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """``pipx run autoinstr app.py``, and a pipx that is installed apart from the program."""
    venv = Venv(tmp_path / "for-pipx")
    venv.install("pipx")
    words = (venv.bin / "pipx", "run", "--python", sys.executable, "--spec", dist.wheel, "autoinstr")
    helped = succeed(call(*words, "--help", cwd=app.parent, environ=environ, timeout=INSTALL_S))
    assert helped.startswith("usage: python -m autoinstr")
    seen = facts(succeed(call(*words, "app.py", cwd=app.parent, environ=environ, timeout=INSTALL_S)))
    assert (True, False) == (seen["traced"], seen["own"])
    assert str(tmp_path) in str(seen["prefix"])


def test_tool_and_another_environment(dist: Dist, app: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """``uv tool install autoinstr``: it traces what its own Python runs, and nothing of another environment."""
    environ["UV_TOOL_BIN_DIR"] = str(tmp_path / "bin")
    uv(app, environ, "tool", "install", "--quiet", "--python", sys.executable, dist.wheel)
    service = Venv(tmp_path / "service")
    service.install("six")
    seen = facts(succeed(call(tmp_path / "bin" / "autoinstr", "app.py", cwd=app.parent, environ=environ)))
    assert (True, False) == (seen["traced"], seen["own"])
    words = (tmp_path / "bin" / "autoinstr", service.python, "app.py")
    seen = facts(succeed(call(*words, cwd=app.parent, environ=environ)))
    assert (False, True, str(service.folder)) == (seen["traced"], seen["own"], seen["prefix"])


def test_agent_in_a_folder(dist: Dist, app: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """``pip install --target``: an environment is traced in which nothing may be installed."""
    service = Venv(tmp_path / "service")
    service.install("six")
    agent = tmp_path / "agent"
    uv(app, environ, "pip", "install", "--quiet", "--python", service.python, "--target", agent, dist.wheel)
    lent = {**environ, "PYTHONPATH": f"{agent / 'autoinstr' / '_boot'}{os.pathsep}{agent}"}
    seen = facts(succeed(call(service.python, "app.py", cwd=app.parent, environ=lent)))
    assert (True, True, str(service.folder)) == (seen["traced"], seen["own"], seen["prefix"])
