"""The documentation: what it says is true, as far as that can be checked by a program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoinstr import config, doctor, runtime
from autoinstr.__main__ import USAGE

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What the tests themselves read.
VARIABLES_OF_TESTS = {
    name
    for file in (ROOT / "tests" / "e2e" / "backends").glob("*.py")
    for name in re.findall(r"AUTOINSTR_TEST_[A-Z]+", file.read_text(encoding="utf-8"))
}
VARIABLE = re.compile(r"\b_?(?:AUTOINSTR|JAEGER|OTEL)_[A-Z0-9_]*[A-Z0-9]\b")


def anchors(page: Path) -> set[str]:
    """The names under which headings can be linked to, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """A reader who follows a link to a page or heading that is not there gives up."""
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target} has no such heading"


def test_every_page_is_listed() -> None:
    """A page that no list leads to is not found."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {str((ROOT / "docs" / target.partition("#")[0]).resolve()) for target in LINK.findall(index)}
    pages = {str(page.resolve()) for page in ROOT.glob("docs/**/*.md")} - {str((ROOT / "docs" / "index.md").resolve())}
    assert set() == pages - listed


def test_every_variable_is_documented() -> None:
    """A variable that is read and not documented is found by accident only."""
    reference = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [] == [variable for variable, *_ in config.ROWS if f"`{variable}`" not in reference]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "configuration.md"], ids=lambda page: page.stem
)
def test_variables_in_the_guides_exist(page: Path) -> None:
    """A variable with a typing error is copied from the guide and does nothing."""
    text = page.read_text(encoding="utf-8")
    named = set(VARIABLE.findall(text)) - {config.PROGRAM_VARIABLE}
    of_tests = {name for name in named if name.startswith("AUTOINSTR_TEST_")}
    # "…_JAEGER_HTTP" and the like are put together of two parts.
    assert set() == {name for name in of_tests if not {name, name.rpartition("_")[0]} & VARIABLES_OF_TESTS}
    named -= of_tests
    # "OTEL_*" and the like: the beginning of names.
    starts = {name for name in named if f"{name}_*" in text}
    assert set() == {name for name in named - starts if name not in config.FORMS}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "propagation.md"], ids=lambda page: page.name)
def test_python_in_pages_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a reader does with an example is to copy it."""
    monkeypatch.setenv("AUTOINSTR_EXPORTER", "none")
    monkeypatch.setenv("AUTOINSTR_SIGTERM", "false")
    blocks = PYTHON.findall(page.read_text(encoding="utf-8"))
    assert blocks
    try:
        for block in blocks:
            exec(compile(block, page.name, "exec"), {"__name__": "example"})
    finally:
        runtime.stop()


def test_settings_of_the_readme() -> None:
    """Six variables are promised; each example must be one that is accepted."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert 6 == len(rows)
    effective = config.from_env(dict(rows))
    assert [] == effective.warnings
    assert {variable for variable, _ in rows} == {variable for variable, _ in effective.sources.values()} | {
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    }


def test_help_names_every_command() -> None:
    """``--help`` is the documentation that most people read."""
    from autoinstr.__main__ import _ROOMS

    assert [] == [command for command in _ROOMS if command not in USAGE]
    assert all(option in doctor.USAGE for option in ("--json", "--path"))


def test_make_targets_that_are_named() -> None:
    """``make demo`` from the first page has to be there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"[`$][^`\n]*", page.read_text("utf-8")))):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
