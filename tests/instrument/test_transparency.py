"""What a program can find out about the agent by looking at the libraries that it uses: as little as can be."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr import instrument
from autoinstr.instrument import Patcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.instrument import Tracing, Watcher
    from autoinstr.report import InMemoryReporter

PROBE = Path(__file__).with_name("apps") / "probe.py"
DEADLINE_S = 60


def run_probe(*names: str, traced: bool) -> Any:
    command = [sys.executable, *(["-m", "autoinstr"] if traced else []), str(PROBE), *names]
    environ = {**os.environ, "AUTOINSTR_EXPORTER": "none", "JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "autoinstr:" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen() -> tuple[dict[str, Any], dict[str, Any]]:
    """What a program sees of everything that is patched: (bare, under the agent)."""
    names = run_probe("patched", traced=True)
    return run_probe(*names, traced=False), run_probe(*names, traced=True)


def test_each_library_is_patched(seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Guards the tests below against looking at nothing."""
    modules = {name.partition(":")[0].partition(".")[0] for name in seen[1]}
    assert modules >= {
        "bottle", "cheroot", "concurrent", "daphne", "django", "falcon", "fastapi", "flask", "granian", "gunicorn", "http",
        "hypercorn", "quart", "requests", "starlette", "threading", "urllib", "urllib3", "uvicorn", "waitress", "werkzeug",
        "wsgiref",
    }  # fmt: skip


def test_patched_functions_look_as_they_are(seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Signatures, documentation, ``iscoroutinefunction``, ``mock`` and ``pickle``: frameworks and tests build on them."""
    bare, traced = seen
    differences = {
        (name, fact): (value, traced[name].get(fact))
        for name, facts in bare.items()
        for fact, value in facts.items()
        if traced[name].get(fact) != value
    }
    assert not differences


def test_uninstall_puts_everything_back(watch: Callable[..., Watcher]) -> None:
    """Who stops the agent has the library as it was, to the object."""
    import http.client

    import flask

    owners = (flask.Flask, http.client.HTTPConnection)
    before = [dict(vars(owner)) for owner in owners]
    watcher = watch()
    assert [dict(vars(owner)) for owner in owners] != before
    assert all(type(owner) is type and owner is again for owner, again in zip(owners, (flask.Flask, http.client.HTTPConnection)))
    watcher.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before


def write_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with a class and a subclass that inherits from it, unknown to any other test."""
    (folder / "strange_library.py").write_text(
        "class Base:\n    def call(self):\n        return 'base'\n\n\nclass Heir(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "strange_library", raising=False)


def wrap_both(patcher: Patcher, tracing: Tracing) -> None:
    def make(wrapped: Any) -> Any:
        return lambda self: f"traced {wrapped(self)}"

    patcher.wrap("Heir.call", make)
    patcher.wrap("Base.call", make)


def fail_half_way(patcher: Patcher, tracing: Tracing) -> None:
    wrap_both(patcher, tracing)
    patcher.wrap("Base.gone_in_this_version", lambda wrapped: wrapped)


def watch_strange(monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Watcher], target: str) -> Watcher:
    row = ("strange_library", "strange", f"strange:{target}")
    monkeypatch.setattr(instrument, "load", lambda target: globals()[target.rpartition(":")[2]])
    monkeypatch.setattr(instrument, "TABLE", (row,))
    return watch()


def test_reimported_library_is_patched_anew(
    watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Test runners and gevent's tools throw modules away and import them again."""
    write_library(tmp_path, monkeypatch)
    watch_strange(monkeypatch, watch, "wrap_both")
    for _ in range(3):
        library = importlib.import_module("strange_library")
        assert library.Base().call() == "traced base"
        del sys.modules["strange_library"]


def test_inherited_method_is_undone_by_removal(
    watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy of the parent's method in the heir's class would shadow later changes of the parent."""
    write_library(tmp_path, monkeypatch)
    watcher = watch_strange(monkeypatch, watch, "wrap_both")
    library = importlib.import_module("strange_library")
    watcher.uninstall()
    assert "call" not in vars(library.Heir)
    assert library.Base().call() == library.Heir().call() == "base"


def test_failing_patch_leaves_the_library_alone(
    watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A new version of a library must cost its spans, and neither the import nor half of the behaviour."""
    write_library(tmp_path, monkeypatch)
    watcher = watch_strange(monkeypatch, watch, "fail_half_way")
    library = importlib.import_module("strange_library")
    assert library.Base().call() == library.Heir().call() == "base"
    assert "call" not in vars(library.Heir)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("autoinstr: cannot instrument strange_library: ")
    assert "gone_in_this_version" in line
    assert watcher.patched["strange_library"].startswith("failed: ")


@pytest.mark.parametrize(
    ("broken", "word"), [("raise ImportError('gone')", "gone"), ("1 / 0", "division"), ("", "apply_patch")]
)
def test_wrapt_that_cannot_be_used(broken: str, word: str, tmp_path: Path) -> None:
    """A broken environment runs its program, and is told once why there are no traces."""
    (tmp_path / "wrapt.py").write_text(broken)
    program = "import http.client, wsgiref.handlers, urllib.request; print('ran')"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "AUTOINSTR_EXPORTER": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "autoinstr", "-c", program],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ran\n")
    lines = [line for line in done.stderr.splitlines() if word in line]
    assert len(lines) == len(done.stderr.splitlines()) == 1


def test_spans_are_made_by_patches_alone(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """After ``uninstall`` the program is as untraced as it was before."""
    import flask

    app = flask.Flask(__name__)
    app.get("/")(lambda: "x")
    watcher = watch()
    app.test_client().get("/")
    watcher.uninstall()
    app.test_client().get("/")
    assert len(reporter.spans) == 1
