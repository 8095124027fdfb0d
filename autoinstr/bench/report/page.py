"""The report as one HTML file that needs nothing else: no network, no script.

Owns: the page around the sections. Must not know: what is measured.
Invariants: everything is escaped by the template; style and figures are inside; the page's own policy forbids to load
anything.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from autoinstr.bench.parts import AGAIN, BASE, BROKEN, INCONCLUSIVE, INVALID, PASSED, Refusal, Results
from autoinstr.bench.report import layout, sections
from autoinstr.bench.report.tables import variant_name

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent
STATUS = {
    PASSED: ("good", "Measured"),
    BROKEN: ("bad", "Broken"),
    INCONCLUSIVE: ("warning", "Inconclusive"),
    INVALID: ("bad", "Invalid data"),
}


def html(results: Results) -> str:
    """The page. Raises Refusal without Jinja."""
    found, missing = sections.sections(results)
    shown = layout.page(results)
    is_noisy = any(cell.is_noisy for cell in results.cells)
    tone, word = _status(results, is_noisy)
    text = _template().render(
        results=results,
        manifest=results.manifest,
        tone=tone,
        word=word,
        cards=sections.cards(results),
        sections=found,
        missing=missing,
        keys=[
            (variant_name(name), colour)
            for name, colour in shown.colours.items()
            if name in (BASE, AGAIN) or any(one.name == name for one in results.manifest.variants)
        ],
        colours=range(layout.COLOURS),
        style=Markup(_style()),  # noqa: S704 (our own file)
        is_noisy=is_noisy,
    )
    return re.sub(r"\n\s*\n+", "\n", text)


def _status(results: Results, is_noisy: bool) -> tuple[str, str]:
    tone, word = STATUS.get(results.status, STATUS[INVALID])
    if results.manifest.is_smoke and results.status != INVALID:
        return "warning", "Smoke"
    return ("warning", "Noisy") if is_noisy and tone == "good" else (tone, word)


@cache
def _style() -> str:
    """Without comments and indentation."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / "page.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise Refusal(f"The report needs Jinja ({error}): pip install 'autoinstr[bench]'.") from error
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return made.get_template("page.html.jinja")
