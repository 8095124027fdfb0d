"""The workflows of the forge: nobody sees a mistake in them before a release depends on it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from interpreters import SUPPORTED

from .conftest import ROOT
from .venvs import RUN_S, tool

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NAMES = [path.stem for path in WORKFLOWS]


def read(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8"))
    return found


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job.get("steps", ())]


def check(*words: str | Path) -> None:
    """A checker that finds nothing."""
    if not Path(words[0]).exists():
        pytest.skip(f"{Path(words[0]).name} is not installed: pip install -e '.[test]'")
    ended = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=RUN_S)
    assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_schema() -> None:
    """A misspelt key is ignored, or the whole workflow is."""
    check(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


def test_audit() -> None:
    """Text of strangers reaches a shell, a token is left lying about, a permission is wider than needed."""
    check(tool("zizmor"), "--offline", "--no-config", "--min-severity", "medium", *WORKFLOWS)


def test_matrix() -> None:
    """A Python is promised and not tested where it counts."""
    jobs = read("ci")["jobs"]
    assert list(SUPPORTED) == jobs["tests"]["strategy"]["matrix"]["python"]
    (several,) = [
        step["with"]["python-version"].split()
        for step in jobs["distribution"]["steps"]
        if "setup-python" in step.get("uses", "")
    ]
    assert set(SUPPORTED) == set(several)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"{SUPPORTED[0]} to {SUPPORTED[-1]}" in makefile


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned(name: str) -> None:
    """A tag can be moved to other code by whoever takes over an action; a commit cannot."""
    lines = re.findall(r"uses: (\S+)(.*)", (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8"))
    outside = [(action, comment) for action, comment in lines if not action.startswith("./")]
    assert outside
    for action, comment in outside:
        assert re.search(r"@[0-9a-f]{40}$", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}: which version is it?"


def test_one_version_of_each_action() -> None:
    """Two workflows test with different versions of one action."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = set(re.findall(r"uses: ([^.@\s][^@\s]*)@(\w+)", texts))
    assert len(used) == len({action for action, _ in used})


@pytest.mark.parametrize("name", NAMES)
def test_permissions(name: str) -> None:
    """A job that tests a stranger's pull request may write, or publish."""
    workflow = read(name)
    assert {} == workflow["permissions"]
    may = {
        job: {what for what, level in each["permissions"].items() if level == "write"}
        for job, each in workflow["jobs"].items()
    }
    allowed = {"publish": {"id-token"}, "image": {"packages"}, "docs": {"contents"}} if name == "release" else {}
    assert {job: allowed.get(job, set()) for job in may} == may


def test_nothing_is_published_before_it_is_tested() -> None:
    """What has been uploaded cannot be replaced."""
    jobs = read("release")["jobs"]
    assert {"tests", "build"} <= set(jobs["publish"]["needs"])
    assert {"tests", "build"} <= set(jobs["image"]["needs"])
    assert "publish" == jobs["docs"]["needs"]
    # YAML takes the key ``on`` for a truth value.
    assert {"push": {"tags": ["v*"]}} == read("release")[True]


def test_commands_that_are_run_exist() -> None:
    """A make target, a script or a Dockerfile has moved."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in NAMES:
        for step in steps(name):
            for target in re.findall(r"\bmake ([a-z]+)", step.get("run", "")):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
            files = re.findall(r"(?:^|\s)((?:\.ci|tests)/[\w./-]+)", step.get("run", ""))
            for file in [*files, *filter(None, [step.get("with", {}).get("file")])]:
                assert (ROOT / file).exists(), file


def test_system_packages_can_be_installed_alone() -> None:
    """The jobs install by ``.ci/run packages`` what the tests need; without that word it would run all tests instead."""
    assert any(".ci/run packages" in step.get("run", "") for step in steps("ci"))
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r'\[ "\$\{1:-\}" = packages \] && exit', script)
