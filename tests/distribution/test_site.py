"""The documentation as a site, and its versions beside each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT
from .venvs import INSTALL_S, kept_environ, tool


@pytest.fixture(autouse=True)
def site_tools() -> None:
    """What the extra ``docs`` brings."""
    for name in ("mkdocs", "mike"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[docs]'")


def run(*words: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program to its end, with the tools of this environment."""
    names = ("GIT_AUTHOR", "GIT_COMMITTER")
    who = {f"{name}_{part}": f"{part}@example.com" for name in names for part in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    everything = {**kept_environ(), "PATH": path, **who, **environ}
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=everything, capture_output=True, text=True, timeout=INSTALL_S
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the site is made of, in a repository of its own."""
    copy = tmp_path / "checkout"
    for name in ("docs", "benchmarks", "scenarios"):
        ignored = shutil.ignore_patterns("__pycache__", ".venvs")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for path in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "LICENSE"):
        shutil.copy(path, copy)
    return copy


def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A reader of the site meets a link that leads nowhere, or a page that the menu does not have."""
    built = run(tool("mkdocs"), "build", "--strict", "--site-dir", tmp_path / "site", cwd=ROOT)
    assert 0 == built.returncode, built.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="install/"' in page and 'href="site.css"' in page
    # The README and the changelog are pages, and link to pages.
    assert 'href="../configuration/"' in (tmp_path / "site" / "overview" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "changelog" / "index.html").is_file()
    assert not list((tmp_path / "site").rglob("*.py*"))


@pytest.mark.parametrize("target", ["nowhere.md", "install.md#nowhere", "../nowhere.md", "../LICENSE.md"])
def test_broken_link_stops_the_build(checkout: Path, tmp_path: Path, target: str) -> None:
    """``--strict`` lets a broken link pass: nobody would ever know."""
    with (checkout / "docs" / "design.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[broken]({target})\n")
    built = run(tool("mkdocs"), "build", "--strict", "--site-dir", tmp_path / "site", cwd=checkout)
    assert 1 == built.returncode
    assert target.rpartition("/")[2].partition("#")[2] in built.stderr
    assert "design.md" in built.stderr


def test_sources_are_linked_to_where_they_are(checkout: Path, tmp_path: Path) -> None:
    """On the site of a release, a link to a file that is no page leads to the newest state, or is dead."""
    environ = {"REPOSITORY_URL": "https://github.com/someone/autoinstr", "GITHUB_REF_NAME": "v1.2.3"}
    built = run(tool("mkdocs"), "build", "--strict", "--site-dir", tmp_path / "site", cwd=checkout, **environ)
    assert 0 == built.returncode, built.stderr
    overview = (tmp_path / "site" / "overview" / "index.html").read_text(encoding="utf-8")
    assert "https://github.com/someone/autoinstr/blob/v1.2.3/LICENSE" in overview


def test_versions_beside_each_other(checkout: Path) -> None:
    """A release overwrites the pages of the one before, or readers have no way from one to the other."""
    for words in (["init", "--quiet", "-b", "main"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        assert 0 == run("git", *words, cwd=checkout).returncode
    for version in ("0.1", "0.2"):
        deployed = run(tool("mike"), "deploy", "--update-aliases", version, "latest", cwd=checkout)
        assert 0 == deployed.returncode, deployed.stderr
    assert 0 == run(tool("mike"), "set-default", "latest", cwd=checkout).returncode

    def shown(path: str) -> str:
        return run("git", "show", f"gh-pages:{path}", cwd=checkout).stdout

    versions = {each["version"]: each["aliases"] for each in json.loads(shown("versions.json"))}
    assert {"0.1": [], "0.2": ["latest"]} == versions
    for version in versions:
        assert "version-select" in shown(f"{version}/install/index.html"), "no selector on the page"
    assert "latest/" in shown("index.html")
