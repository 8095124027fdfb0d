"""The sections on CPU: what a request costs more, the cost model, Dapper's figures beside ours.

Owns: their sentences, tables and figures. Must not know: HTML, style, other sections.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoinstr.bench.parts import AGAIN, CellResult, CostModel, Difference
from autoinstr.bench.report import (
    dapper,
    figures,
    quantities,
    scales,
    tables,
)
from autoinstr.bench.report.blocks import (
    Beside,
    Block,
    Column,
    Figure,
    Grid,
    Group,
    Matrix,
    Note,
    Section,
    Table,
)
from autoinstr.bench.report.figures import Series
from autoinstr.bench.report.forest import rows_of, scale_of
from autoinstr.bench.report.layout import OPEN, Page, detailed, left_out

# 2: what a request costs.


def costs(shown: Page) -> Section | str:
    cells = [one for one in shown.results.cells if tables.variants_of(one)]
    if not cells:
        return "Costs per request: no variant has two complete blocks yet."
    known = [d for cell in cells for d in cell.differences if d.metric == "cpu_us"]
    scale = scale_of(known)
    blocks: list[Block] = []
    if len(cells) > 2:
        blocks.append(overview(cells))
    blocks += [_forest(shown, one, scale, number < OPEN) for number, one in enumerate(cells)]
    reading = (
        "A dot is the mean over blocks, its bar the 95 % interval; right of 0 is dearer than the bare program. "
        "Unclear: the interval has 0 in "
        "it, which shows neither a cost nor the lack of one. Equivalent: two one-sided tests show the same as "
        "bare, within the margin. " + scale.note
    )
    lead = "" if shown.results.manifest.is_smoke else _cheapest_and_dearest(cells)
    return Section("cost", "What a request costs more", "Cost", tuple(blocks), lead, reading.strip())


def _cheapest_and_dearest(cells: Sequence[CellResult]) -> str:
    known = [
        (d, cell)
        for cell in cells
        for d in cell.differences
        if d.metric == "cpu_us" and d.variant != AGAIN and d.absolute
    ]
    if not known:
        return ""
    if len(known) == 1:
        return f"{_with_name(*known[0], len(cells))}."
    low = min(known, key=lambda pair: pair[0].absolute.mean if pair[0].absolute else 0.0)
    high = max(known, key=lambda pair: pair[0].absolute.mean if pair[0].absolute else 0.0)
    return f"From {_with_name(*low, len(cells))} to {_with_name(*high, len(cells))}."


def _with_name(difference: Difference, cell: CellResult, cells: int) -> str:
    where = f" ({tables.cell_title(cell)})" if cells > 1 else ""
    return f"{quantities.change(difference)} for {difference.variant}{where}"


def overview(cells: Sequence[CellResult]) -> Matrix:
    """All cells at a glance."""
    names = list(dict.fromkeys(name for cell in cells for name in tables.variants_of(cell)))
    rows, weights = [], []
    for cell in cells:
        found = [cell.difference(name) for name in names]
        rows.append(
            (tables.cell_title(cell) + (" (noisy)" if cell.is_noisy else ""), tuple(_short(one) for one in found))
        )
        weights.append(tuple(_weight(one) for one in found))
    head = ("cell", *(tables.variant_name(name) for name in names))
    return Matrix(
        "Added CPU per request in µs, all cells; shaded by its share of bare (full at 50 %)",
        head,
        tuple(rows),
        tuple(weights),
    )


def _short(difference: Difference | None) -> str:
    if difference is None:
        return ""
    value = difference.absolute.mean if difference.absolute else difference.value - difference.base
    return quantities.signed(value, 0 if abs(value) >= 100 else 1)


def _weight(difference: Difference | None) -> float:
    if difference is None or difference.percent is None:
        return 0.0
    return min(max(difference.percent.mean / 50, 0.0), 1.0)


def _forest(shown: Page, cell: CellResult, scale: scales.Scale, is_open: bool) -> Group:
    own = [one for one in cell.differences if one.metric == "cpu_us"]
    body = rows_of(own, shown, scale, "CPU per request against bare", "added µs of CPU per request")
    # What other figures lack stands behind what this one shows; such a text begins with their names.
    others = tuple({one.metric for one in cell.differences} - {"cpu_us"})
    own_trouble = tuple(Note(text, "warning") for text in cell.trouble if not text.startswith(others))
    other_trouble = tuple(Note(text, "aside") for text in cell.trouble if text.startswith(others))
    noisy = (
        (Note("A/A excludes 0 here: bare differs from bare. Nothing in this cell is a finding.", "warning"),)
        if cell.is_noisy
        else ()
    )
    return Group(
        tables.cell_title(cell),
        (*noisy, *own_trouble, body, *_needed(own), *other_trouble),
        tables.stamps(cell),
        f"bare: {tables.bare(cell)}",
        is_open,
    )


def _needed(own: Sequence[Difference]) -> tuple[Note, ...]:
    """How much longer a campaign would have to be for a figure to be quoted."""
    known = [(one.blocks_for_one_percent, one) for one in own if one.blocks_for_one_percent is not None]
    if not known:
        return ()
    blocks, widest = max(known, key=lambda pair: pair[0])
    return (
        Note(
            f"{widest.blocks} blocks; every interval would be ±1 % of bare or narrower with {max(blocks, 2)} "
            f"(widest: {widest.variant}).",
            "aside",
        ),
    )


# 3: fixed cost and cost per span.


def models(shown: Page) -> Section | str:
    found = [(one, one.model) for one in shown.results.cells if one.model]
    if not found:
        return (
            "Fixed cost and cost per span: the model needs three variants that differ in sampling only, such as "
            "const:0, prob:0.1, const:1."
        )
    drawn = detailed([cell for cell, _ in found])
    groups = [
        _model_group(shown, cell, model, number < OPEN) for number, (cell, model) in enumerate(found) if cell in drawn
    ]
    blocks: list[Block] = [_model_overview(found)] if len(found) > 2 else []
    reading = (
        "Added CPU against the spans that were really sampled, per request. Where the line meets the left edge "
        "is what every request pays, sampled "
        "or not; its slope is the price of a span. The band is the 95 % interval of the line."
    )
    return Section(
        "model",
        "Fixed cost, and cost per sampled span",
        "Fixed and per span",
        (*blocks, *groups, *left_out([cell for cell, _ in found])),
        _model_lead(*found[0]),
        reading,
    )


def _model_lead(cell: CellResult, model: CostModel) -> str:
    return f"In {tables.cell_title(cell)}, {tables.model_sentence(model)}"


def _model_overview(found: Sequence[tuple[CellResult, CostModel]]) -> Table:

    rows = tuple(
        (
            tables.cell_title(cell),
            quantities.estimate(model.fixed_us, "µs"),
            quantities.estimate(model.per_span_us, "µs"),
            f"{model.r_squared:.3f}",
        )
        for cell, model in found
    )
    columns = (Column("cell"), Column("every request", True), Column("each sampled span", True), Column("R²", True))
    return Table("The model in all cells", columns, rows)


def _model_group(shown: Page, cell: CellResult, model: CostModel, is_open: bool) -> Group:
    series = []
    for name, spans, measured in model.points:
        known = cell.difference(name)
        ends = ((known.absolute.low, known.absolute.high),) if known and known.absolute else ()
        title = f"{name}: {quantities.signed(measured)} µs at {spans:.4g} sampled spans per request"
        series.append(Series(name, shown.colour(name), ((spans, measured),), ends, title))
    furthest = max([spans for _, spans, _ in model.points] + [1e-9])
    line = [
        (share * model.spans_per_request, e.low, e.mean, e.high)
        for share, e in model.predictions
        if share * model.spans_per_request <= furthest * 1.01
    ]
    line.sort()
    if len(line) < 2:
        line = [(at, *(model.fixed_us.mean + model.per_span_us.mean * at,) * 3) for at in (0.0, furthest)]
    x = scales.linear([0.0, furthest], 5, with_zero=True, is_tight=True)
    heights = [end for one in series for pair in one.ends for end in pair] + [
        end for _, low, _, high in line for end in (low, high)
    ]
    y = scales.linear([*heights, *(measured for _, _, measured in model.points)], 5, with_zero=True)
    title = tables.cell_title(cell)
    drawn = figures.fitted(
        series, line, x, y,
        label=f"Added CPU per request against sampled spans per request, {title}. {tables.model_sentence(model)}",
        x_title="sampled spans per request", y_title="added µs of CPU per request",
    )  # fmt: skip
    figure = Figure("Measured, and the fitted line", drawn, "", shown.keys(name for name, _, _ in model.points))
    aside = f"{quantities.signed(model.fixed_us.mean)} µs, {quantities.signed(model.per_span_us.mean)} µs per span"
    return Group(
        title,
        (Beside((Grid((figure,), "large"), tables.model(model), tables.model_points(model))),),
        tables.stamps(cell),
        aside,
        is_open,
    )


# 3b: Dapper.


def comparison(shown: Page) -> Section | str:
    found = dapper.beside(shown.results)
    if not found:
        return "Dapper's figures beside ours: needs variants that differ in the share of traces that they keep."
    blocks = [Group(one.title, (Grid((_dapper_figure(one),), "large"), dapper.table(one))) for one in found]
    reading = "Sampled fraction of traces against the change of latency and throughput, as Dapper's paper has it."
    return Section("dapper", "Beside Dapper's figures", "Dapper", tuple(blocks), "", reading)


def _dapper_figure(one: dapper.Beside) -> Figure:
    theirs = Series(
        "Dapper", 0, tuple((fraction, latency) for fraction, latency, _ in dapper.PUBLISHED),
        tuple((latency - dapper.LATENCY_ERROR, latency + dapper.LATENCY_ERROR) for _, latency, _ in dapper.PUBLISHED),
        f"Dapper: change of latency, with the stated error ({dapper.SOURCE})", is_dashed=True,
    )  # fmt: skip
    ours = [(row.fraction, row.cpu) for row in one.rows if row.cpu]
    mine = Series(
        "ours: CPU", 3, tuple((fraction, cpu.mean) for fraction, cpu in ours),
        tuple((cpu.low, cpu.high) for _, cpu in ours),
        "here: change of CPU per request, measured or predicted",
    )  # fmt: skip
    late = [(row.fraction, row.latency) for row in one.rows if row.latency]
    third = Series(
        "ours: latency", 2, tuple((fraction, value.mean) for fraction, value in late),
        tuple((value.low, value.high) for _, value in late),
        "here: change of the median response time, measured or predicted",
    )  # fmt: skip
    series = [one_ for one_ in (theirs, mine, third) if one_.points]
    # All of them at the right end, where everything is sampled.
    series = [Series(s.name, s.colour, s.points[::-1], s.ends[::-1], s.title, s.has_dots, s.is_dashed) for s in series]
    x = scales.doublings(fraction for fraction, _, _ in dapper.PUBLISHED)
    ticks = tuple(scales.Tick(f, quantities.fraction(f), f in (1 / 2, 1 / 8)) for f, _, _ in dapper.PUBLISHED)
    x = scales.Scale(x.low, x.high, x.forward, ticks)
    y = scales.linear([end for s in series for pair in s.ends for end in pair], 5, with_zero=True)
    drawn = figures.chart(
        series,
        x,
        y,
        label=f"Change against sampled fraction, Dapper and {one.title}",
        x_title="traces sampled",
        y_title="change from bare, %",
    )
    return Figure("", drawn)
