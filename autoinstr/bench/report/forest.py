"""Forest plots: differences from bare as rows with a dot, an interval and the numbers.

Owns: the common scale, what stands in a row, the word at its end. Must not know: which section it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from autoinstr.bench.parts import AGAIN, Difference
from autoinstr.bench.report import (
    figures,
    quantities,
    scales,
    tables,
)
from autoinstr.bench.report.blocks import (
    Row,
    Rows,
)
from autoinstr.bench.report.layout import Page
from autoinstr.bench.report.quantities import GLUE


def scale_of(differences: Sequence[Difference], factor: float = 1.0) -> scales.Scale:
    ends = [end * factor for d in differences for end in _ends(d)]
    halves = [(d.absolute.high - d.absolute.low) / 2 * factor for d in differences if d.absolute]
    return scales.around_zero(ends, median(halves) if halves else 1.0)


def _ends(difference: Difference) -> tuple[float, ...]:
    if difference.absolute is None:
        return (difference.value - difference.base,)
    return (difference.absolute.low, difference.absolute.high)


def rows_of(own: Sequence[Difference], shown: Page, scale: scales.Scale, caption: str, axis_title: str) -> Rows:
    """Differences as a forest plot."""
    factor = quantities.metric_of(own[0].metric).factor
    places = quantities.decimals([one.absolute for one in own], factor)
    columns: tuple[str, ...] = ("added", "95 % interval", "of bare", "p (Holm)")
    if all(one.p_holm is None for one in own):  # Few blocks have none, and nobody needs a column of dashes.
        columns = columns[:-1]
    rows = []
    for one in own:
        ends = (one.absolute.low * factor, one.absolute.high * factor) if one.absolute else (None, None)
        middle = (one.absolute.mean if one.absolute else one.value - one.base) * factor
        plot = figures.strip(scale, ends[0], middle, ends[1], shown.colour(one.variant))
        rows.append(
            Row(
                tables.variant_name(one.variant),
                shown.colour(one.variant),
                plot,
                _numbers(one, places)[: len(columns)],
                "" if shown.results.manifest.is_smoke else _stamp(one),
            )
        )
    lines = (scale.place(0), *(scale.place(tick.value) for tick in scale.ticks if tick.value and not tick.is_minor))
    return Rows(
        caption,
        figures.strip_axis(scale),
        axis_title,
        columns,
        tuple(rows),
        lines,
    )


def _numbers(one: Difference, places: int) -> tuple[str, ...]:
    how_ = quantities.metric_of(one.metric)
    percent = f"({quantities.percent(one.percent.mean)})" if one.percent else ""
    if one.absolute is None:
        return (quantities.seen(one, places), "no interval", percent, "")
    mean = f"{quantities.signed(one.absolute.mean * how_.factor, places)}{GLUE}{how_.unit}"
    return (mean, quantities.interval(one.absolute, places, how_.factor), percent, tables.probability(one.p_holm))


def _stamp(one: Difference) -> str:
    if one.is_equivalent:
        return "equivalent"
    if one.absolute is None:
        return "too few blocks"
    if one.absolute.excludes(0):
        return ""
    return "no difference" if one.variant == AGAIN else "unclear"
