"""The report as Markdown for a pull request: what a reviewer wants at a glance, the rest folded away.

Owns: which parts, their order, Markdown's marks. Must not know: how figures are computed.
Invariants: text from outside cannot end a table cell, start markup or mention anybody; no HTML but ``details``,
``summary`` and line breaks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from autoinstr.bench.parts import AGAIN, BROKEN, INCONCLUSIVE, INVALID, PASSED, CellResult, Results
from autoinstr.bench.report import dapper, quantities, tables
from autoinstr.bench.report.blocks import Table
from autoinstr.bench.report.quantities import GLUE, NOTHING

MARKS = {PASSED: "✅", BROKEN: "❌", INCONCLUSIVE: "❔", INVALID: "⚠️"}
#: So many tables of costs are in sight.
OPEN = 4


def markdown(results: Results) -> str:
    """The whole text, ending in a newline."""
    parts = [f"### {MARKS.get(results.status, MARKS[INVALID])} What tracing costs: {escaped(results.verdict)}"]
    if results.manifest.is_smoke:
        parts.append("> **Smoke, no inference**: a few short blocks to see that it works.")
    parts.append(_facts(results))
    groups = _groups(results.cells)
    shown = [_costs(title, cells) for title, cells in groups]
    parts += shown[:OPEN]
    if shown[OPEN:]:
        parts.append(folded(f"{len(shown) - OPEN} more tables of costs", shown[OPEN:]))
    parts.append(_models(results.cells))
    parts += [_dapper(results), _accounts(results.cells), _thrown_out(results), _machine(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Plain text: no Markdown, no HTML, no control characters, no mention of a user or an issue, one line."""
    text = "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", " ".join(text.split()))
    # A zero-width joint keeps the reader's eye and breaks the link.
    return re.sub(r"([@#])(?=\w)", "\\1\N{ZERO WIDTH NON-JOINER}", text)


def _number(text: str) -> str:
    """What we wrote ourselves: brackets must not become links."""
    return text.replace("[", "\\[").replace("]", "\\]")


def written(table: Table) -> str:
    """A Markdown table, with its caption above it."""
    lines = [f"**{escaped(table.caption)}**", ""] if table.caption else []
    lines.append("| " + " | ".join(escaped(column.title) for column in table.columns) + " |")
    lines.append("| " + " | ".join("---:" if column.is_number else "---" for column in table.columns) + " |")
    lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in table.rows]
    return "\n".join([*lines, *(f"\n{escaped(note)}" for note in table.notes)])


def folded(summary: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"<details><summary>{escaped(summary)}</summary>", *parts, "</details>"])


def _facts(results: Results) -> str:
    lines = []
    for one in results.cells:
        if one.again:
            stamp = " **noisy**" if one.is_noisy else ""
            lines.append(
                f"- A/A, {escaped(tables.cell_title(one))}: bare against bare "
                f"{_number(quantities.change(one.again))}{stamp}"
            )
    if len(lines) > OPEN:
        noisy = [line for line in lines if line.endswith("**noisy**")]
        widest = max((one for one in results.cells if one.again and one.again.absolute), key=_width, default=None)
        first = f"- A/A: {len(lines)} cells, {len(noisy)} noisy"
        if widest and widest.again:
            first += f"; widest: {_number(quantities.change(widest.again))} in {escaped(tables.cell_title(widest))}"
        lines = [first, *noisy]
    lines.append(
        f"- {results.runs:,} runs, {tables.how_many_excluded(results)}; "
        f"{escaped(tables.machine_line(results.manifest))}"
    )
    lines += [f"- {escaped(tables.cell_title(one))}: {escaped(text)}" for one in results.cells for text in one.trouble]
    return "\n".join(lines)


def _width(cell: CellResult) -> float:
    estimate = cell.again.absolute if cell.again else None
    return estimate.high - estimate.low if estimate else 0.0


def _groups(cells: Sequence[CellResult]) -> list[tuple[str, list[CellResult]]]:
    """Cells of the same scenario, framework and concurrency."""
    found: dict[str, list[CellResult]] = {}
    for one in cells:
        cell = one.cell
        found.setdefault(f"{cell.scenario} · {cell.framework} · {cell.concurrency} users", []).append(one)
    return list(found.items())


def _costs(title: str, cells: Sequence[CellResult]) -> str:
    """A row for each variant, a column for each mode and load."""
    names = list(dict.fromkeys(name for one in cells for name in tables.variants_of(one)))
    heads = [f"{escaped(_mode(one))}{' **noisy**' if one.is_noisy else ''}" for one in cells]
    lines = [
        f"**Added CPU per request, {escaped(title)}**\n",
        "| variant | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(cells),
        "| bare | " + " | ".join(tables.bare(one) for one in cells) + " |",
    ]
    for name in sorted(names, key=lambda one: one != AGAIN):
        found = [one.difference(name) for one in cells]
        texts = [_number(quantities.change(one)) if one else NOTHING for one in found]
        lines.append(f"| {escaped(tables.variant_name(name))} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _mode(one: CellResult) -> str:
    return tables.load_of(one).split(", ", 1)[-1].split(" at ", 1)[-1]


def _models(cells: Sequence[CellResult]) -> str:
    known = [(one, one.model) for one in cells if one.model]
    lines = [f"- {escaped(tables.cell_title(one))}: {_number(tables.model_sentence(model))}" for one, model in known]
    if not lines:
        return ""
    predictions = [written(tables.model(known[0][1]))]
    return (
        "\n".join(["**Fixed cost and cost per span**", "", *lines[:OPEN]])
        + "\n\n"
        + folded(
            "What the model predicts for other "
            f"samplings{f', and {len(lines) - OPEN} more models' if len(lines) > OPEN else ''}",
            [*(["\n".join(lines[OPEN:])] if lines[OPEN:] else []), *predictions],
        )
    )


def _dapper(results: Results) -> str:
    found = dapper.beside(results)
    return folded("Beside Dapper's figures", [written(dapper.table(one)) for one in found]) if found else ""


def _accounts(cells: Sequence[CellResult]) -> str:
    known = [one for one in cells if one.accounts]
    if not known:
        return ""
    troubles = [
        f"- {escaped(a.variant)} in {escaped(tables.cell_title(one))}: {escaped(a.trouble)}"
        for one in known
        for a in one.accounts
        if a.trouble
    ]
    parts = [f"**{escaped(tables.cell_title(one))}**\n\n{written(tables.accounts(one))}" for one in known]
    head = "**Spans that do not add up**\n\n" + "\n".join(troubles) + "\n\n" if troubles else ""
    return head + folded("Where the spans went" + ("" if troubles else f" (all add up){GLUE}"), parts)


def _thrown_out(results: Results) -> str:
    return (
        folded(f"{len(results.excluded)} runs thrown out or repeated", [written(tables.excluded(results))])
        if results.excluded
        else ""
    )


def _machine(results: Results) -> str:
    manifest = results.manifest
    return folded("Machine and versions", [written(tables.machine(manifest)), written(tables.versions(manifest))])
