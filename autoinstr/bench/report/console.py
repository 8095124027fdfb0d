"""The report on a terminal: plain aligned tables.

Owns: alignment, width, colour. Must not know: how figures are computed.
Invariants: at most ``WIDTH`` columns; control characters in names are shown, not obeyed; colour only where it was
asked for or the output is a terminal that has not said NO_COLOR (no-color.org).
"""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from autoinstr.bench import analysis
from autoinstr.bench.parts import BROKEN, INCONCLUSIVE, INVALID, PASSED, CellResult, Results
from autoinstr.bench.report import quantities, tables
from autoinstr.bench.report.blocks import Column, Table

WIDTH = 100
#: More than so many cells: one line for each, instead of a table.
MOST_CELLS = 6
COLOURS = {PASSED: "32", BROKEN: "31;1", INCONCLUSIVE: "33", INVALID: "31;1"}
BOLD, DIM, WARNING = "1", "2", "33;1"


def terminal(results: Results, *, is_colour: bool | None = None) -> str:
    """The text, without a newline at its end. ``is_colour`` None: as the standard output can."""
    ink = _Ink(_can_colour() if is_colour is None else is_colour)
    parts = [ink(COLOURS.get(results.status, WARNING), wrapped(results.verdict))]
    if results.manifest.is_smoke:
        parts.append(ink(WARNING, "smoke, no inference: a few short blocks to see that it works"))
    line = f"{results.runs:,} runs, {tables.how_many_excluded(results)}; {tables.machine_line(results.manifest)}"
    parts.append(ink(DIM, wrapped(line)))
    shown = results.cells[:MOST_CELLS]
    parts += [_cell(one, ink) for one in shown]
    if results.cells[MOST_CELLS:]:
        parts.append(
            "\n".join(
                [
                    "further cells (all of them: autoinstr bench report RUN --html FILE)",
                    *map(_line, results.cells[MOST_CELLS:]),
                ]
            )
        )
    reasons = [text for one in results.excluded for text in {fault.text for fault in one.faults}]
    if reasons:
        lines = [f"  {count} x {wrapped(text, 8)}" for text, count in _counted(reasons)]
        parts.append("\n".join(["why runs were not used, or not for everything:", *lines]))
    return "\n\n".join(parts)


class _Ink:
    """Wraps text in colour, or leaves it."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on

    def __call__(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_on and text else text


def _can_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _cell(one: CellResult, ink: _Ink) -> str:
    lines = [ink(BOLD, clean(tables.cell_title(one))[: WIDTH - 24]) + f"   bare {tables.bare(one)}"]
    if one.is_noisy:
        lines.append(ink(WARNING, "  NOISY: bare differs from bare, nothing here is a finding"))
    if tables.variants_of(one):
        lines += aligned(_differences(one))
    if one.pace:
        text = f"runs of a variant scatter by {one.pace.scatter_percent:.1f} %, {one.pace.left_percent:.1f} % at the CPUs' usual pace, which is what is shown"
        lines.append(f"  {wrapped(text, 2)}")
    lines += [f"  {wrapped(text, 2)}" for text in one.trouble]
    if one.model:
        lines.append("  " + wrapped(tables.model_sentence(one.model), 2))
    lines += [ink(WARNING, "  " + wrapped(f"spans of {a.variant}: {a.trouble}", 2)) for a in one.accounts if a.trouble]
    return "\n".join(line.replace(quantities.GLUE, " ") for line in lines)


def _differences(one: CellResult) -> Table:
    """CPU per request; and p99 and throughput, where there is room: as percentages."""
    added = tables.added(one)
    rows = []
    for name, row in zip(tables.variants_of(one), added.rows, strict=True):
        rows.append((*row[:5], _percent(one, name, "p99_us"), _percent(one, name, "throughput")))
    columns = (*added.columns[:5], Column("p99", True), Column("throughput", True))
    kept = [at for at in range(len(columns)) if at < 5 or any(row[at] != quantities.NOTHING for row in rows)]
    return Table("", tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows))


def _percent(one: CellResult, variant: str, metric: str) -> str:
    found = one.difference(variant, metric)
    return quantities.percent(found.percent.mean) if found and found.percent else quantities.NOTHING


def _line(one: CellResult) -> str:
    known = [d for d in one.differences if d.metric == "cpu_us"]
    dearest = max(known, key=lambda d: d.value - d.base, default=None)
    text = f"  {tables.cell_title(one)}{' NOISY' if one.is_noisy else ''}"
    if dearest:
        text += f": at most {quantities.change(dearest)}, {dearest.variant}"
    return wrapped(text.replace(quantities.GLUE, " "), 4, keep="  ")


def aligned(table: Table, width: int = WIDTH) -> list[str]:
    """Columns side by side, numbers to the right; a first column that is too wide is cut, and never the numbers."""
    rows = [tuple(column.title for column in table.columns), *table.rows]
    cells = [[clean(text) for text in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(table.columns))]
    rest = sum(widths[1:]) + 2 * len(widths)
    widths[0] = max(min(widths[0], width - rest), 8)
    lines = []
    for row in cells:
        first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        texts = [first.ljust(widths[0])]
        others = zip(row[1:], widths[1:], table.columns[1:], strict=True)
        texts += [text.rjust(wide) if column.is_number else text.ljust(wide) for text, wide, column in others]
        lines.append(("  " + "  ".join(texts)).rstrip()[:width])
    return lines


def clean(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    text = " ".join(text.replace(quantities.GLUE, " ").split())
    return "".join("?" if unicodedata.category(one)[0] == "C" else one for one in text)


def wrapped(text: str, indent: int = 0, *, keep: str = "") -> str:
    """At most ``WIDTH`` columns; further lines are indented."""
    return keep + textwrap.fill(clean(text), WIDTH - indent, subsequent_indent=" " * indent, break_on_hyphens=False)


def _counted(texts: Iterable[str]) -> Sequence[tuple[str, int]]:
    """Texts that are alike but for their numbers are one: the first of them, and how many."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(analysis.without_numbers(text), []).append(text)
    return sorted(((some[0], len(some)) for some in alike.values()), key=lambda pair: -pair[1])
