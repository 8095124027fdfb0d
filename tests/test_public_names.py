"""The names that programs import from us: there are few, they are documented, and they do not disappear."""

from __future__ import annotations

import inspect
import re
from importlib import metadata
from pathlib import Path

import pytest

import autoinstr

ROOT = Path(__file__).parents[1]
PUBLIC = [
    *("Kind", "Link", "SpanContext", "Status"),
    *("current_span", "extract", "flush", "inject", "metrics", "span", "wrap_asgi", "wrap_wsgi"),
]


def test_public_names() -> None:
    """A name that goes breaks programs; one that comes has to be documented and kept."""
    assert PUBLIC == autoinstr.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_documented(name: str) -> None:
    """Names are loaded when they are used: a wrong one fails in the program, not here."""
    assert inspect.getdoc(getattr(autoinstr, name))


def test_unknown_name() -> None:
    """``hasattr`` and ``from autoinstr import typo`` must behave as in any module."""
    assert not hasattr(autoinstr, "tracer")
    with pytest.raises(ImportError, match="typo"):
        exec("from autoinstr import typo")


def test_star_import() -> None:
    """``from autoinstr import *`` in a notebook."""
    names: dict[str, object] = {}
    exec("from autoinstr import *", names)
    assert set(PUBLIC) <= set(names)


def test_version() -> None:
    """The version in the package, in its metadata and in the changelog's newest entry are one."""
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert (autoinstr.__version__, autoinstr.__version__) == (newest[1], metadata.version("autoinstr"))


def test_package_says_that_it_is_typed() -> None:
    """Without the marker, type checkers ignore the annotations of the installed package."""
    assert (ROOT / "autoinstr" / "py.typed").is_file()
