"""Dapper's table of what sampling costs, and ours beside it.

Owns: the published figures; which of our cells and variants stand for a sampled fraction.
Must not know: how tables look.
Invariants: what was measured and what the cost model predicts is never mixed without saying so.

Source: Sigelman et al., "Dapper, a large-scale distributed systems tracing infrastructure", Google technical report
dapper-2010-1, 2010, Table 2: a web search cluster; experimental errors as stated there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoinstr.bench.parts import RATE, SATURATION, CellResult, Difference, Estimate, Manifest, Results
from autoinstr.bench.report import quantities
from autoinstr.bench.report.blocks import Column, Table
from autoinstr.bench.report.quantities import GLUE, NOTHING

SOURCE = "Sigelman et al., Dapper, Google technical report dapper-2010-1, Table 2"
#: In percent of latency and of throughput, both ways.
LATENCY_ERROR, THROUGHPUT_ERROR = 2.5, 0.15
#: Sampled fraction, change of average latency and of average throughput in percent.
PUBLISHED = (
    (1.0, 16.3, -1.48),
    (1 / 2, 9.40, -0.73),
    (1 / 4, 6.38, -0.30),
    (1 / 8, 4.12, -0.23),
    (1 / 16, 2.12, -0.08),
    (1 / 1024, -0.20, -0.06),
)


@dataclass(frozen=True)
class Ours:
    """What tracing changes at one fraction, in percent; ``measured_as`` is the variant, or "" for a prediction."""

    fraction: float
    cpu: Estimate | None
    latency: Estimate | None
    throughput: Estimate | None
    cpu_us: Estimate | None
    measured_as: str = ""


@dataclass(frozen=True)
class Beside:
    """A scenario on a framework: the cell that the latency is from, and that which the rest is from."""

    title: str
    saturated: CellResult | None
    paced: CellResult | None
    rows: tuple[Ours, ...]


def beside(results: Results) -> tuple[Beside, ...]:
    """Ours for each scenario and framework that says anything about sampled fractions."""
    pairs = dict.fromkeys((one.cell.scenario, one.cell.framework) for one in results.cells)
    found = []
    for scenario, framework in pairs:
        own = [one for one in results.cells if (one.cell.scenario, one.cell.framework) == (scenario, framework)]
        saturated = _last([one for one in own if one.cell.mode == SATURATION])
        # Dapper's cluster had room to spare: of several loads, the lowest one is the nearest.
        paced = min((one for one in own if one.cell.mode == RATE), key=lambda one: one.cell.load, default=None)
        rows = tuple(_at(fraction, results.manifest, saturated, paced) for fraction, _, _ in PUBLISHED)
        if sum(row.cpu_us is not None for row in rows) >= 2:
            found.append(Beside(f"{scenario} · {framework}", saturated, paced, rows))
    return tuple(found)


def _last(cells: Sequence[CellResult]) -> CellResult | None:
    return max(cells, key=lambda one: one.cell.concurrency, default=None)


def _at(fraction: float, manifest: Manifest, saturated: CellResult | None, paced: CellResult | None) -> Ours:
    for one in manifest.variants:
        share = one.sampling.expected_share() if one.sampling else None
        if one.in_cost_model and share is not None and abs(share - fraction) < fraction * 1e-3:
            cpu = _difference(saturated or paced, one.name, "cpu_us")
            latency = _difference(paced or saturated, one.name, "p50_us")
            throughput = _difference(saturated, one.name, "throughput")
            if cpu and cpu.absolute:
                return Ours(fraction, cpu.percent, _percent(latency), _percent(throughput), cpu.absolute, one.name)
    return _predicted(fraction, saturated or paced, paced or saturated)


def _difference(cell: CellResult | None, variant: str, metric: str) -> Difference | None:
    return cell.difference(variant, metric) if cell else None


def _percent(difference: Difference | None) -> Estimate | None:
    return difference.percent if difference else None


def _predicted(fraction: float, where: CellResult | None, timed: CellResult | None) -> Ours:
    """By the cost model: CPU as it says; throughput of a server whose CPU is all in use; latency without queueing."""
    model = where.model if where else None
    found = next((one for share, one in model.predictions if abs(share - fraction) < 1e-9), None) if model else None
    if model is None or found is None:
        return Ours(fraction, None, None, None, None)
    base = model.base_us.mean
    cpu = Estimate(*(100 * one / base for one in (found.mean, found.low, found.high)))
    throughput = Estimate(*(-100 * one / (base + one) for one in (found.mean, found.high, found.low)))
    median = next((one.base for one in timed.differences if one.metric == "p50_us"), 0.0) if timed else 0.0
    latency = (
        Estimate(*(100 * one / median for one in (found.mean, found.low, found.high)))
        if median and timed and timed.cell.mode == RATE
        else None
    )
    return Ours(fraction, cpu, latency, throughput, found)


def table(one: Beside) -> Table:
    rows = []
    for (fraction, latency, throughput), ours in zip(PUBLISHED, one.rows, strict=True):
        rows.append(
            (
                quantities.fraction(fraction),
                _written(latency, 2), _written(throughput, 2),
                _cost(ours), _with_ends(ours.latency), _with_ends(ours.throughput, 2),
                "–" if ours.cpu_us is None else f"measured ({ours.measured_as})" if ours.measured_as else "predicted",
            )
        )  # fmt: skip
    columns = (
        Column("sampled"), Column("Dapper: latency", True), Column("Dapper: throughput", True),
        Column("here: CPU per request", True),
        Column("here: median latency", True), Column("here: throughput", True), Column("how"),
    )  # fmt: skip
    where = (
        f"latency at {quantities.share(one.paced.cell.load)} load"
        if one.paced
        else "latency at saturation, where known"
    )
    notes = (
        (
            f"Dapper: {SOURCE}; a web search cluster, experimental error ±{LATENCY_ERROR}{GLUE}% of latency and "
            f"±{THROUGHPUT_ERROR}{GLUE}% "
            "of throughput, so that its rows from 1/16 down are within the error."
        ),
        (
            f"Ours: {where}. Predicted: by the cost model of the section before; latency without queueing, throughput "
            "of a server whose CPU is the limit. Other requests on other machines: compare the shapes, not the "
            "percentages."
        ),
    )
    return Table(f"Sampling in Dapper and here: {one.title}", columns, tuple(rows), notes)


def _cost(ours: Ours) -> str:
    if ours.cpu_us is None:
        return NOTHING
    text = quantities.estimate(ours.cpu_us, "µs", 1)
    return f"{text} ({quantities.percent(ours.cpu.mean)})" if ours.cpu else text


def _written(value: float, places: int = 1) -> str:
    return quantities.percent(value, places)


def _with_ends(estimate: Estimate | None, places: int = 1) -> str:
    if estimate is None:
        return NOTHING
    return f"{quantities.signed(estimate.mean, places)}{GLUE}% {quantities.interval(estimate, places)}"
