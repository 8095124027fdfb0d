"""Results as the sections of a page: which there are, in which order, and what stands at the top.

Owns: the order of sections, the numbers at the top, why a section is not there.
Must not know: what a section says (``costs``, ``loads``, ``runs``), HTML, style.
Invariants: pure; a figure always stands with a table that has its numbers; a section without data is not there, and a
line says why where a reader would look for it.
"""

from __future__ import annotations

from collections.abc import Callable

from autoinstr.bench.parts import AGAIN, CellResult, Results
from autoinstr.bench.report import (
    costs,
    loads,
    quantities,
    runs,
    tables,
)
from autoinstr.bench.report.blocks import (
    Card,
    Section,
)
from autoinstr.bench.report.layout import Page, page

#: In the order of the page. Each gives its section, or why it is not there ("" where nobody would look for it).
MAKERS: tuple[Callable[[Page], Section | str], ...] = (
    costs.costs,
    costs.models,
    costs.comparison,
    loads.percentiles,
    loads.throughput,
    loads.hockey_stick,
    loads.sweep,
    runs.drift,
    runs.spans,
    runs.memory,
    runs.starting,
)


def sections(results: Results) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """Those that have something to say, and a line for each that does not."""
    shown = page(results)
    found: list[Section] = []
    missing: list[str] = []
    for make in MAKERS:
        one = make(shown)
        if isinstance(one, Section):
            found.append(one)
        elif one:
            missing.append(one)
    found += [runs.invalid_runs(shown), runs.how(shown)]
    return tuple(found), tuple(missing)


def cards(results: Results) -> tuple[Card, ...]:
    """The numbers at the top."""
    modelled = next((one for one in results.cells if one.model), None)
    costs_ = _model_cards(modelled) if modelled else _dearest_card(results)
    return (_again_card(results), *costs_, _runs_card(results), Card("machine", tables.machine_line(results.manifest)))


def _model_cards(cell: CellResult) -> list[Card]:
    model, where = cell.model, tables.cell_title(cell)
    parts = {"every request": model.fixed_us, "each sampled span": model.per_span_us} if model else {}
    found = []
    for title, estimate in parts.items():
        mean, _, ends = quantities.estimate(estimate, "µs").partition(" ")
        found.append(Card(title, mean, f"{ends} · {where}"))
    return found


def _runs_card(results: Results) -> Card:
    spoilt = sum(not one.usable("cpu") for one in results.excluded)
    detail = tables.how_many_excluded(results)
    return Card("runs", f"{results.runs:,}", detail, "warning" if spoilt > results.runs / 10 else "")


def _again_card(results: Results) -> Card:
    known = [one for one in results.cells if one.again and one.again.absolute]
    if not known:
        return Card("A/A: bare against bare", "not known", "too few blocks for an interval", "warning")
    widest = max(known, key=lambda one: max(abs(one.again.absolute.low), abs(one.again.absolute.high)))  # type: ignore[union-attr]
    again = widest.again
    assert again is not None  # noqa: S101 (known has only such)
    noisy = sum(one.is_noisy for one in results.cells)
    first, _, rest = quantities.change(again).partition(" [")
    detail = f"[{rest} · {'the widest of all cells, ' if len(known) > 1 else ''}{tables.cell_title(widest)}"
    return Card(
        "A/A: bare against bare",
        first,
        f"{noisy} noisy cell{'s' if noisy > 1 else ''} · {detail}" if noisy else detail,
        "warning" if noisy else "" if results.manifest.is_smoke else "good",
    )


def _dearest_card(results: Results) -> list[Card]:
    known = [d for cell in results.cells for d in cell.differences if d.metric == "cpu_us" and d.variant != AGAIN]
    if not known:
        return []
    one = max(known, key=lambda d: d.value - d.base)
    first, _, rest = quantities.change(one).partition(" [")
    return [Card(f"{one.variant}, a request", first, f"[{rest}" if rest else "")]
