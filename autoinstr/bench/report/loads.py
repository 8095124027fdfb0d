"""The sections on load: latency percentiles, throughput, latency against utilisation, concurrency.

Owns: their sentences, tables and figures. Must not know: HTML, style, other sections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoinstr.bench.parts import AGAIN, BASE, RATE, SATURATION, CellResult, Curve
from autoinstr.bench.report import (
    figures,
    quantities,
    scales,
    tables,
)
from autoinstr.bench.report.blocks import (
    Figure,
    Grid,
    Group,
    Row,
    Rows,
    Section,
)
from autoinstr.bench.report.figures import Series
from autoinstr.bench.report.forest import scale_of
from autoinstr.bench.report.layout import OPEN, Page, detailed, families, left_out

# 4: percentiles.


def percentiles(shown: Page) -> Section | str:
    cells = [one for one in shown.results.cells if any(curve.response for curve in one.curves)]
    if not cells:
        return "Latency percentiles: no run was usable for latency."
    groups = [_percentile_group(shown, one, number < OPEN, one in detailed(cells)) for number, one in enumerate(cells)]
    reading = (
        "How long so many percent of the requests took at most; each further nine takes the same room, so that "
        "the tail can be seen. "
        "Response counts from when a request was due, service from when it was sent: a gap between the two is waiting."
    )
    return Section("latency", "Latency percentiles", "Latency", (*groups, *left_out(cells)), "", reading)


def _percentile_group(shown: Page, cell: CellResult, is_open: bool, is_detailed: bool) -> Group:
    table = tables.latencies(cell, tables.LATENCIES if is_detailed else ("p50_us", "p99_us"))
    aside = f"bare p99: {tables.bare(cell, 'p99_us')}"
    if not is_detailed:
        return Group(tables.cell_title(cell), (table,), tables.stamps(cell), aside, is_open)
    is_paced = cell.cell.mode == RATE
    kinds: list[tuple[str, Callable[[Curve], tuple[tuple[float, float], ...]]]] = [
        ("response time" if is_paced else "response time (= service time)", lambda one: one.response)
    ]
    if is_paced and any(curve.service for curve in cell.curves):
        kinds.append(("service time", lambda one: one.service))
    values = [value for curve in cell.curves for _, read in kinds for _, value in read(curve) if value > 0]
    y = scales.logarithmic(values, label=scales.microseconds)
    highest = max((q for curve in cell.curves for q, _ in curve.response if q < 100), default=99.0)
    x = scales.percentiles(highest)
    drawn = []
    for title, read in kinds:
        series = [
            Series(
                tables.variant_name(curve.variant),
                shown.colour(curve.variant),
                _below_100(read(curve)),
                has_dots=False,
                is_dashed=curve.variant == AGAIN,
            )
            for curve in cell.curves
            if read(curve)
        ]
        label = f"{title} by percentile, {tables.cell_title(cell)}"
        drawn.append(
            Figure(title, figures.chart(series, x, y, label=label, x_title="percentile", y_title="logarithmic"))
        )
    drawn += _against_bare(shown, cell, x)
    return Group(tables.cell_title(cell), (Grid(tuple(drawn)), table), tables.stamps(cell), aside, is_open)


def _against_bare(shown: Page, cell: CellResult, x: scales.Scale) -> list[Figure]:
    """The same curves as a change from bare, where curves that lie on one another part."""
    bare = {q: value for curve in cell.curves if curve.variant == BASE for q, value in curve.response if value > 0}
    series = []
    for curve in cell.curves:
        points = tuple((q, 100 * (value / bare[q] - 1)) for q, value in curve.response if q in bare and 0 < q < 100)
        if curve.variant != BASE and points:
            series.append(
                Series(
                    tables.variant_name(curve.variant),
                    shown.colour(curve.variant),
                    points,
                    has_dots=False,
                    is_dashed=curve.variant == AGAIN,
                )
            )
    if not series:
        return []
    y = scales.linear([value for one in series for _, value in one.points], 5, with_zero=True)
    title = "response time, change from bare, %"
    return [
        Figure(
            "response time against bare",
            figures.chart(
                series,
                x,
                y,
                label=f"{title}, {tables.cell_title(cell)}",
                x_title="percentile",
                y_title="change from bare, %",
            ),
        )
    ]


def _below_100(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The maximum has no place on a scale of nines."""
    return tuple((q, value) for q, value in points if q < 100)


# 5: throughput.


def throughput(shown: Page) -> Section | str:
    cells = [one for one in shown.results.cells if one.throughput]
    if not cells:
        return "Throughput at saturation: there is no cell in saturation mode with usable runs."
    groups = [_throughput_group(shown, one, number < OPEN) for number, one in enumerate(cells)]
    reading = (
        "Requests per second that the program could do at most; the thin line is the 95 % interval over blocks, the "
        "change is paired."
    )
    return Section("throughput", "Throughput at saturation", "Throughput", tuple(groups), "", reading)


def _throughput_group(shown: Page, cell: CellResult, is_open: bool) -> Group:
    scale = scales.linear([end for one in cell.throughput.values() for end in (one.low, one.high)], 4, with_zero=True)
    rows = []
    for name, value in cell.throughput.items():
        changed = cell.difference(name, "throughput")
        text = (
            ("", "")
            if changed is None or changed.percent is None
            else (quantities.percent(changed.percent.mean), quantities.interval(changed.percent))
        )
        plot = figures.bar(scale, value.low, value.mean, value.high, shown.colour(name))
        rows.append(
            Row(tables.variant_name(name), shown.colour(name), plot, (f"{quantities.plain(value.mean)}/s", *text))
        )
    lines = (scale.place(0), *(scale.place(tick.value) for tick in scale.ticks if tick.value))
    body = Rows(
        "Requests per second at saturation",
        figures.strip_axis(scale),
        "requests per second",
        ("throughput", "change", "95 % interval"),
        tuple(rows),
        lines,
    )
    first = cell.throughput.get(BASE)
    return Group(
        tables.cell_title(cell),
        (body,),
        tables.stamps(cell),
        f"bare: {quantities.plain(first.mean)}/s" if first else "",
        is_open,
    )


# 6: latency against utilisation.


def hockey_stick(shown: Page) -> Section | str:
    groups: list[Group] = []
    for title, cells in families(
        shown.results.cells,
        RATE,
        lambda one: f"{one.cell.scenario} · {one.cell.framework} · {one.cell.concurrency} users",
    ):
        known = [one for one in cells if one.utilisation is not None]
        if len(known) >= 2:
            groups.append(
                _hockey_group(shown, title, sorted(known, key=lambda one: one.utilisation or 0.0), len(groups) < OPEN)
            )
    if not groups:
        return "Latency against utilisation: needs cells in rate mode at two loads or more."
    reading = (
        "The same rates for all variants; across, how much of a core the bare program used. Waiting grows as "
        "1/(1 − utilisation), so a "
        "few µs of CPU are nothing at 30 % and much at 90 %: a latency in percent without the load says nothing. "
        "The numbers are in the tables of latencies."
    )
    return Section("utilisation", "Latency against utilisation", "Utilisation", tuple(groups), "", reading)


def _hockey_group(shown: Page, title: str, cells: Sequence[CellResult], is_open: bool) -> Group:
    x = scales.linear([one.utilisation or 0.0 for one in cells], 4, label=scales.whole_percent, is_tight=True)
    drawn = []
    for metric in ("p50_us", "p99_us"):
        names = list(dict.fromkeys(name for one in cells for name in tables.variants_of(one, metric)))
        series = [
            _values_line(shown, name, cells, metric, lambda one: one.utilisation or 0.0) for name in (BASE, *names)
        ]
        series = [one for one in series if one.points]
        if not series:
            continue
        y = scales.logarithmic([value for one in series for _, value in one.points], label=scales.microseconds)
        how_ = quantities.metric_of(metric).title
        drawn.append(
            Figure(
                how_,
                figures.chart(
                    series,
                    x,
                    y,
                    label=f"{how_} against utilisation, {title}",
                    x_title="utilisation of the server's core, bare",
                    y_title="logarithmic",
                ),
            )
        )
    return Group(title, (Grid(tuple(drawn)),), (), f"{len(cells)} loads", is_open)


def _values_line(
    shown: Page, name: str, cells: Sequence[CellResult], metric: str, where: Callable[[CellResult], float]
) -> Series:
    points = []
    for one in cells:
        if name == BASE:
            base = next((d.base for d in one.differences if d.metric == metric), None)
        else:
            found = one.difference(name, metric)
            base = found.value if found else None
        if base is not None and base > 0:
            points.append((where(one), base))
    return Series(tables.variant_name(name), shown.colour(name), tuple(points), is_dashed=name == AGAIN)


# 7: concurrency.


def sweep(shown: Page) -> Section | str:
    groups: list[Group] = []
    for title, cells in families(
        shown.results.cells, SATURATION, lambda one: f"{one.cell.scenario} · {one.cell.framework}"
    ):
        if len({one.cell.concurrency for one in cells}) >= 2:
            groups.append(
                _sweep_group(shown, title, sorted(cells, key=lambda one: one.cell.concurrency), len(groups) < OPEN)
            )
    if not groups:
        return ""
    reading = (
        "Whether the cost of a request depends on how many are under way at once; bars are 95 % intervals. "
        "The numbers are in the tables of costs and of throughput."
    )
    return Section("concurrency", "Concurrency", "Concurrency", tuple(groups), "", reading)


def _sweep_group(shown: Page, title: str, cells: Sequence[CellResult], is_open: bool) -> Group:
    x = scales.doublings(one.cell.concurrency for one in cells)
    names = list(dict.fromkeys(name for one in cells for name in tables.variants_of(one)))
    added = [_added_line(shown, name, cells) for name in names]
    known = [d for one in cells for d in one.differences if d.metric == "cpu_us"]
    y = scale_of(known)
    cost = figures.chart(
        added,
        x,
        y,
        label=f"Added CPU per request against users, {title}",
        x_title="users",
        y_title="added µs of CPU per request",
    )
    rates = [
        _rates_line(shown, name, cells) for name in dict.fromkeys(name for one in cells for name in one.throughput)
    ]
    drawn = [Figure("added CPU per request", cost, y.note)]
    if rates:
        up = scales.linear([value for one in rates for _, value in one.points], 5, with_zero=True)
        drawn.append(
            Figure(
                "throughput",
                figures.chart(
                    rates,
                    x,
                    up,
                    label=f"Throughput against users, {title}",
                    x_title="users",
                    y_title="requests per second",
                ),
            )
        )
    return Group(title, (Grid(tuple(drawn)),), (), f"{len(cells)} concurrencies", is_open)


def _added_line(shown: Page, name: str, cells: Sequence[CellResult]) -> Series:
    found = [(one.cell.concurrency, one.difference(name)) for one in cells]
    known = [(users, d.absolute) for users, d in found if d and d.absolute]
    points = tuple((float(users), estimate.mean) for users, estimate in known)
    return Series(
        tables.variant_name(name),
        shown.colour(name),
        points,
        tuple((e.low, e.high) for _, e in known),
        is_dashed=name == AGAIN,
    )


def _rates_line(shown: Page, name: str, cells: Sequence[CellResult]) -> Series:
    known = [(one.cell.concurrency, one.throughput[name]) for one in cells if name in one.throughput]
    points = tuple((float(users), estimate.mean) for users, estimate in known)
    return Series(
        tables.variant_name(name),
        shown.colour(name),
        points,
        tuple((e.low, e.high) for _, e in known),
        is_dashed=name == AGAIN,
    )
