"""The sections on the runs themselves: their order, spans, memory, start-up, what was thrown out, how it was done.

Owns: their sentences, tables and figures. Must not know: HTML, style, other sections.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from autoinstr.bench.parts import AGAIN, CellResult, Difference
from autoinstr.bench.report import (
    figures,
    method,
    quantities,
    scales,
    tables,
)
from autoinstr.bench.report.blocks import (
    Block,
    Column,
    Figure,
    Grid,
    Group,
    Key,
    Note,
    Section,
    Table,
)
from autoinstr.bench.report.figures import Series
from autoinstr.bench.report.forest import rows_of, scale_of
from autoinstr.bench.report.layout import OPEN, Page, detailed, left_out
from autoinstr.bench.report.quantities import GLUE

# 8: drift.


def drift(shown: Page) -> Section | str:
    cells = [one for one in shown.results.cells if any(len(d.series) > 1 for d in one.differences)]
    if not cells:
        return "Differences in run order: needs two complete blocks."
    groups = [_drift_group(shown, one, number < OPEN) for number, one in enumerate(detailed(cells, OPEN))]
    reading = (
        "Each dot is the difference of one block, in the order in which the blocks ran: the line is their mean, "
        "the band its 95 % "
        "interval. Within a cell all panels have the same height in µs. A slope would be a drift that the "
        "mirrored order did not cancel."
    )
    return Section(
        "order", "Differences in the order of the runs", "Run order", (*groups, *left_out(cells, OPEN)), "", reading
    )


def _drift_group(shown: Page, cell: CellResult, is_open: bool) -> Group:
    own = [one for one in cell.differences if one.metric == "cpu_us" and len(one.series) > 1 and one.absolute]
    half = (
        max((abs(value - d.absolute.mean) for d in own if d.absolute for value in d.series), default=1.0) * 1.15 or 1.0
    )
    drawn = [_drift_figure(shown, one, half) for one in own]
    blocks: list[Block] = [
        Grid(tuple(drawn), "small"),
        Note(f"Height of a panel: ±{quantities.plain(half)} µs around its mean; dotted: 0."),
    ]
    if cell.sequence and (cell is shown.results.cells[0] or cell.is_noisy):
        blocks.append(
            Group(
                "CPU per request of every single run, in order",
                (Grid((_sequence_figure(shown, cell),), "large"),),
                is_open=len(shown.results.cells) == 1,
            )
        )
    return Group(tables.cell_title(cell), tuple(blocks), tables.stamps(cell), "", is_open)


def _drift_figure(shown: Page, one: Difference, half: float) -> Figure:
    assert one.absolute is not None  # noqa: S101 (chosen by it)
    name, colour = tables.variant_name(one.variant), shown.colour(one.variant)
    middle = f"{quantities.signed(one.absolute.mean)}{GLUE}µs"
    ends = (one.absolute.low, one.absolute.mean, one.absolute.high)
    drawn = figures.spark(
        one.series, ends, half, colour, label=f"{name}: differences in {len(one.series)} blocks around {middle}"
    )
    return Figure("", drawn, "", (Key(f"{name} {middle}", colour),))


def _sequence_figure(shown: Page, cell: CellResult) -> Figure:
    numbers = {number: order + 1 for order, number in enumerate(sorted({one[0] for one in cell.sequence}))}
    points = [
        (float(numbers[number]), value, name, status) for number, name, value, status in cell.sequence if value > 0
    ]
    x = scales.linear([1.0, *(one[0] for one in points)], 5, is_tight=True)
    values = [one[1] for one in points]
    y = (
        scales.logarithmic(values, label=scales.microseconds)
        if values and max(values) > 2 * min(values)
        else scales.linear(values, 4, label=scales.microseconds)
    )
    names = list(dict.fromkeys(name for _, _, name, _ in points))
    clouds: dict[int, tuple[str, list[tuple[float, float]]]] = {}
    for name in names:
        colour = shown.colour(name)
        there = clouds.get(colour, ("", []))
        joined = f"{there[0]}, {name}" if there[0] else name
        clouds[colour] = (joined, [*there[1], *((at, value) for at, value, other, _ in points if other == name)])
    hollow = [(at, value) for at, value, _, status in points if status != "ok"]
    drawn = figures.scatter(
        clouds, hollow, x, y, label=f"CPU per request of every run in order, {tables.cell_title(cell)}",
        x_title="run of this cell, in order", y_title="µs of CPU per request",
    )  # fmt: skip
    note = "A ring marks a run that is unsteady or invalid." if hollow else ""
    return Figure("", drawn, note, shown.keys(names))


# 9 and 10: spans and memory.


def spans(shown: Page) -> Section | str:
    cells = [one for one in shown.results.cells if one.accounts]
    if not cells:
        return "Accounting of spans: no run told anything of its spans."
    troubles = [
        f"{account.variant} in {tables.cell_title(cell)}: {account.trouble}"
        for cell in cells
        for account in cell.accounts
        if account.trouble
    ]
    notes = tuple(Note(text, "warning") for text in troubles)
    groups = tuple(
        Group(
            tables.cell_title(one),
            (tables.accounts(one),),
            tables.stamps(one),
            "",
            len(cells) <= OPEN or any(account.trouble for account in one.accounts),
        )
        for one in cells
    )
    lead = (
        "Not all spans add up."
        if troubles
        else "All spans add up: what was finished was exported, and what was exported was received."
    )
    reading = (
        "A tracer that loses spans is a faster tracer, so losses stand beside every cost. What an agent does not tell "
        "is shown as –."
    )
    return Section("spans", "Where the spans went", "Spans", (*notes, *groups), lead, reading)


def memory(shown: Page) -> Section | str:
    known = [one for one in shown.results.cells if any(one.memory.values())]
    if not known:
        return ""
    # Memory hardly depends on the load: of many cells, those with the most users of each service tell all.
    most = {(one.cell.scenario, one.cell.framework): one for one in sorted(known, key=lambda one: one.cell.concurrency)}
    cells = known if len(known) <= OPEN else [one for one in known if one in most.values()]
    groups = tuple(_memory_group(shown, one, number < OPEN) for number, one in enumerate(cells))
    reading = (
        "Resident memory of all processes of the program, at the start and the end of the window of each run. "
        "A run is too short to show a leak: see autoinstr bench soak."
    )
    if len(cells) < len(known):
        reading += " Shown are the cells with the most users of each service."
    return Section("memory", "Memory", "Memory", groups, "", reading)


def _memory_group(shown: Page, cell: CellResult, is_open: bool) -> Group:
    points = [point for one in cell.memory.values() for point in one]
    x = scales.linear([at for at, _ in points], 4, with_zero=True, is_tight=True)
    y = scales.linear([value for _, value in points], 4, label=scales.megabytes)
    series = []
    for name, own in cell.memory.items():
        if not own:
            continue
        parts = [half for half in tables.halves(own) if half]
        middle = tuple((median(at for at, _ in half), median(value for _, value in half)) for half in parts)
        spread = tuple((min(value for _, value in half), max(value for _, value in half)) for half in parts)
        series.append(Series(tables.variant_name(name), shown.colour(name), middle, spread, is_dashed=name == AGAIN))
    drawn = figures.chart(
        series,
        x,
        y,
        label=f"Resident memory, {tables.cell_title(cell)}",
        x_title="seconds",
        y_title="resident memory, median and range of the runs",
    )
    return Group(
        tables.cell_title(cell),
        (Grid((Figure("", drawn),), "large"), tables.memory(cell)),
        tables.stamps(cell),
        "",
        is_open,
    )


# 11: start-up.


def starting(shown: Page) -> Section | str:
    start_up = shown.results.start_up
    if not start_up:
        return "Start-up: measured apart, by autoinstr bench startup --add-to RUN."
    groups: list[Group] = []
    for title, differences in start_up.items():
        for metric in dict.fromkeys(one.metric for one in differences):
            own = [one for one in differences if one.metric == metric]
            factor, unit = quantities.metric_of(metric).factor, quantities.metric_of(metric).unit
            body = rows_of(own, shown, scale_of(own, factor), f"{metric} against bare, {title}", f"added {unit}")
            bare = f"bare: {quantities.amount(metric, own[0].base)}"
            groups.append(Group(f"{title}: {quantities.metric_of(metric).title}", (body,), (), bare, len(groups) < OPEN))
    return Section("startup", "Start-up", "Start-up", tuple(groups), "", "What a start of a program costs more.")


# 12: invalid runs and method.


def invalid_runs(shown: Page) -> Section:
    results = shown.results
    if not results.excluded:
        return Section("invalid", "Runs thrown out", "Thrown out", (), "No run was thrown out or repeated.")
    share = f"Of {results.runs:,} runs {tables.how_many_excluded(results)}, by rules stated beforehand."
    return Section(
        "invalid",
        "Runs thrown out",
        "Thrown out",
        (Group("The list", (tables.excluded(results),), is_open=len(results.excluded) <= 20),),
        share,
    )


def how(shown: Page) -> Section:
    manifest = shown.results.manifest
    paragraphs: list[Block] = [Note(text, "method") for text in method.sentences(manifest, shown.results.runs)]

    rules = Table("Rules that make a run invalid", (Column("spoils"), Column("rule")), method.rules())
    more = (rules, tables.pace(shown.results), tables.machine(manifest), tables.versions(manifest), tables.variants(manifest))
    folded = [
        Group(one.caption, (replace(one, caption=""),), is_open=number < 2)
        for number, one in enumerate(more)
        if one.rows
    ]
    return Section("method", "Method and machine", "Method", (*paragraphs, *folded))
