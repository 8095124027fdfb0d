"""What the package index shows and pip goes by."""

from __future__ import annotations

import re
import sys
from html import unescape

import pytest
from packaging.metadata import Metadata

from interpreters import SUPPORTED

from .conftest import ROOT
from .release import faults

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_classifiers(metadata: Metadata) -> None:
    """The index refuses an upload with a classifier that it does not know."""
    trove_classifiers = pytest.importorskip("trove_classifiers")
    assert set() == set(metadata.classifiers or ()) - trove_classifiers.classifiers


def test_pythons(metadata: Metadata) -> None:
    """A Python is promised and not tested, or tested and not promised."""
    named = [each.rpartition(" ")[2] for each in metadata.classifiers or () if "Python :: 3." in each]
    assert list(SUPPORTED) == named
    assert f">={SUPPORTED[0]}" == str(metadata.requires_python)


def test_one_dependency(metadata: Metadata) -> None:
    """Whatever the agent needs beyond wrapt can be in conflict with what the program needs."""
    needed = [each for each in metadata.requires_dist or () if each.marker is None or "extra" not in str(each.marker)]
    assert ["wrapt"] == [each.name for each in needed]


def test_licence(metadata: Metadata) -> None:
    """Companies install nothing whose licence a program cannot find."""
    assert ("Apache-2.0", ["LICENSE"]) == (metadata.license_expression, metadata.license_files)


def test_readme_is_shown(metadata: Metadata) -> None:
    """The page on the index is plain text, or lacks its tables."""
    markdown = pytest.importorskip("readme_renderer.markdown")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ("text/markdown", text) == (metadata.description_content_type, metadata.description)
    shown = unescape(markdown.render(text) or "")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    assert headings
    assert [] == [heading for heading in headings if heading not in shown]
    assert len(re.findall(r"^\|(?:-+\|)+$", prose, re.MULTILINE)) == shown.count("<table")


def test_urls(metadata: Metadata) -> None:
    """A link on the index leads into the unencrypted, or nowhere."""
    assert [] == [url for url in (metadata.project_urls or {}).values() if not url.startswith("https://")]


def test_changelog() -> None:
    """Tools and readers find a version by its heading; a kind of change that is none of the six is a typing error."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    assert "https://keepachangelog.com/en/1.1.0/" in text
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions
    form = r"\[?(Unreleased|\d+\.\d+\.\d+)\]?( - (\d{4}-\d\d-\d\d|unreleased))?"
    assert [] == [version for version in versions if not re.fullmatch(form, version)]
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert set() == kinds - {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_one_source_of_the_version() -> None:
    """Two places for one number differ sooner or later."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert "version" not in project["project"]
    assert "autoinstr/__init__.py" == project["tool"]["hatch"]["version"]["path"]


REPOSITORY = "https://github.com/someone/autoinstr"
METADATA = f"Metadata-Version: 2.4\nName: autoinstr\nVersion: 1.2.3\nProject-URL: Source, {REPOSITORY}\n"
CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2027-01-31\n\n### Added\n\n- All of it.\n"


@pytest.mark.parametrize(
    ("metadata", "changelog", "tag", "fault"),
    [
        (METADATA, CHANGELOG, "v1.2.4", "tag v1.2.4"),
        (METADATA, CHANGELOG, "1.2.3", "tag 1.2.3"),
        (METADATA, CHANGELOG.replace("2027-01-31", "unreleased"), "v1.2.3", "CHANGELOG.md"),
        (METADATA, CHANGELOG.replace("1.2.3", "1.2.2"), "v1.2.3", "CHANGELOG.md"),
        (METADATA.replace("someone", "nobody"), CHANGELOG, "v1.2.3", "project.urls"),
    ],
)
def test_release_that_is_not_ready(metadata: str, changelog: str, tag: str, fault: str) -> None:
    """A release that says something wrong of itself cannot be taken back."""
    found = faults(metadata, changelog, tag, REPOSITORY)
    assert 1 == len(found)
    assert fault in found[0]


def test_release_that_is_ready() -> None:
    """A check that refuses everything would be switched off."""
    assert [] == faults(METADATA, CHANGELOG, "v1.2.3", REPOSITORY)


def test_docs_name_the_pythons() -> None:
    """A page promises a Python that is not tested."""
    wanted = f"{SUPPORTED[0]} to {SUPPORTED[-1]}"
    for page in (ROOT / "docs" / "install.md", ROOT / "CONTRIBUTING.md"):
        assert wanted in page.read_text(encoding="utf-8"), page.name
