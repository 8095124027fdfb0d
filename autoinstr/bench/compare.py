"""``autoinstr bench compare RUN_A RUN_B``: did what tracing costs change between two campaigns?

Owns: which cells and variants are the same in both, the difference of their added costs with its interval, what is
clear.
Must not know: how campaigns are made, files' formats.
Invariants: compared is what a variant *adds* in each campaign, never the raw figures, since two campaigns are never on
equal terms; figures of different machines are compared in percent only; a change is called clear only where its
interval excludes 0 after Holm's correction over all that is compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from autoinstr.bench import machine, stats
from autoinstr.bench.parts import (
    AGAIN,
    INCONCLUSIVE,
    INVALID,
    PASSED,
    CellResult,
    Difference,
    Estimate,
    Manifest,
    Refusal,
    Results,
    to_json,
)
from autoinstr.bench.report import console, pull_request, quantities, tables
from autoinstr.bench.report.blocks import Column, Table
from autoinstr.bench.report.quantities import NOTHING

METRICS = ("cpu_us", "p50_us", "p99_us", "throughput", "rss_bytes")
#: Of a false alarm anywhere among the comparisons.
ALPHA = 0.05
OTHER_MACHINE = "different machines: only the percentages can be compared, with care"


@dataclass(frozen=True)
class Change:
    """One variant and metric: what it added in each campaign, and the change from the first to the second.

    ``percent`` is the change of the ratio to bare: +1 % says that with the variant a request costs 1 % more than
    before, beside what happened to bare. ``p`` is Welch's, two-sided, of the absolute change (of the percentage, on
    different machines).
    """

    cell: str
    variant: str
    metric: str
    before: Estimate | None
    after: Estimate | None
    absolute: Estimate | None
    percent: Estimate | None
    p: float | None
    is_clear: bool = False


@dataclass(frozen=True)
class Comparison:
    """``status`` is the exit code; ``warnings`` what a reader must know before any number."""

    status: int
    verdict: str
    is_other_machine: bool
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    #: Cells and variants that only one of the campaigns has.
    unmatched: tuple[str, ...]


# Comparing.


def compare(before: Results, after: Results, metrics: Sequence[str] = METRICS) -> Comparison:
    """What changed from one campaign to the other. Raises Refusal where they have no cell and variant in common."""
    is_other = is_other_machine(before.manifest, after.manifest)
    found = [_changed(cell, old, new, is_other) for cell, old, new in _pairs(before, after, metrics)]
    if not found:
        raise Refusal(
            "the campaigns have no cell and variant in common: compare campaigns of the same scenarios and variants"
        )
    changes = tuple(_with_clear_ones(found))
    status, verdict = _verdict(before, after, changes)
    return Comparison(status, verdict, is_other, changes, _warnings(before, after, is_other), _unmatched(before, after))


def _pairs(
    before: Results, after: Results, metrics: Sequence[str]
) -> Iterator[tuple[CellResult, Difference, Difference]]:
    earlier = {one.cell: one for one in before.cells}
    for cell in after.cells:
        if cell.cell not in earlier:
            continue
        for new in cell.differences:
            old = earlier[cell.cell].difference(new.variant, new.metric)
            if old is not None and new.metric in metrics and new.variant != AGAIN:
                yield cell, old, new


def _changed(cell: CellResult, old: Difference, new: Difference, is_other: bool) -> Change:
    found = change(old, new)
    decisive = found.percent if is_other else found.absolute
    absolute = found.absolute.estimate if found.absolute and not is_other else None
    percent = found.percent.estimate if found.percent else None
    return Change(
        str(cell.cell),
        new.variant,
        new.metric,
        old.absolute,
        new.absolute,
        absolute,
        percent,
        decisive.p if decisive else None,
    )


def _with_clear_ones(changes: Sequence[Change]) -> Iterator[Change]:
    adjusted = iter(stats.holm([one.p for one in changes if one.p is not None]))
    for one in changes:
        yield one if one.p is None else replace(one, is_clear=next(adjusted) < ALPHA)


@dataclass(frozen=True)
class Welch:
    """The difference of two means of unequal spread, and its two-sided p (Welch 1947)."""

    estimate: Estimate
    p: float


@dataclass(frozen=True)
class Both:
    """A change in the metric's unit, and of the ratio to bare in percent; None where there are too few blocks."""

    absolute: Welch | None
    percent: Welch | None


def change(old: Difference, new: Difference) -> Both:
    """``new`` less ``old``."""
    percent = _welch(_of_percent(new), _of_percent(old))
    if percent:
        log = percent.estimate
        percent = Welch(Estimate(*(100 * math.expm1(one) for one in (log.mean, log.low, log.high))), percent.p)
    return Both(_welch(_of_series(new), _of_series(old)), percent)


@dataclass(frozen=True)
class _Mean:
    value: float
    error: float
    blocks: int


def _of_series(one: Difference) -> _Mean | None:
    if len(one.series) < 2:
        return None
    return _Mean(fmean(one.series), stdev(one.series) / math.sqrt(len(one.series)), len(one.series))


def _of_percent(one: Difference) -> _Mean | None:
    """Of the logarithms that the interval in percent was made of, by Student's t."""
    percent = one.percent
    if percent is None or one.blocks < 2 or percent.low <= -100:
        return None
    low, mean, high = (math.log1p(end / 100) for end in (percent.low, percent.mean, percent.high))
    return _Mean(mean, (high - low) / 2 / stats.t_quantile(0.975, one.blocks - 1), one.blocks)


def _welch(one: _Mean | None, other: _Mean | None) -> Welch | None:
    if one is None or other is None:
        return None
    mean, variance = one.value - other.value, one.error**2 + other.error**2
    if not variance:
        return Welch(Estimate(mean, mean, mean), float(mean == 0))
    freedom = variance**2 / (one.error**4 / (one.blocks - 1) + other.error**4 / (other.blocks - 1))
    half = stats.t_quantile(0.975, freedom) * math.sqrt(variance)
    return Welch(Estimate(mean, mean - half, mean + half), 2 * stats.t_cdf(-abs(mean) / math.sqrt(variance), freedom))


def is_other_machine(one: Manifest, other: Manifest) -> bool:
    return machine.fingerprint(one.machine) != machine.fingerprint(other.machine)


def _warnings(before: Results, after: Results, is_other: bool) -> tuple[str, ...]:
    found = []
    if is_other:
        found.append(f"{OTHER_MACHINE} ({tables.machine_line(before.manifest)}; {tables.machine_line(after.manifest)})")
    for name, results in (("first", before), ("second", after)):
        if results.manifest.is_smoke:
            found.append(f"the {name} campaign is a smoke test: no inference")
        if results.status == INVALID:
            found.append(f"the {name} campaign is invalid: {results.verdict}")
        found += [
            f"the {name} campaign is noisy in {one.cell}: bare differs from bare"
            for one in results.cells
            if one.is_too_noisy
        ]
    if before.manifest.timing != after.manifest.timing:
        found.append("the campaigns have different windows or warm-ups")
    return tuple(found)


def _verdict(before: Results, after: Results, changes: Sequence[Change]) -> tuple[int, str]:
    """Passed is what could be compared, whatever came of it: limits are for ``gate --baseline``."""
    if any(one.status == INVALID or any(cell.is_too_noisy for cell in one.cells) for one in (before, after)):
        return INVALID, "nothing can be said: a campaign is invalid or noisy"
    if before.manifest.is_smoke or after.manifest.is_smoke:
        return INCONCLUSIVE, "nothing can be said: a smoke test allows no inference"
    if all(one.p is None for one in changes):
        return INCONCLUSIVE, "nothing can be said: too few complete blocks"
    clear = [one for one in changes if one.is_clear]
    if not clear:
        return PASSED, f"no clear change in {len(changes)} comparisons{_largest_possible(changes)}"
    worse = sum(_is_worse(one) for one in clear)
    return (
        PASSED,
        (
            f"{len(clear)} clear change{'s' if len(clear) > 1 else ''} in {len(changes)} comparisons: {worse} for the "
            f"worse, {len(clear) - worse} for the better"
        ),
    )


def _largest_possible(changes: Sequence[Change]) -> str:
    """What the widest interval of the primary metric leaves open."""
    ends = [
        max(abs(one.percent.low), abs(one.percent.high)) for one in changes if one.metric == "cpu_us" and one.percent
    ]
    return (
        f"; CPU per request has changed by less than {quantities.plain(max(ends))}{quantities.GLUE}% everywhere"
        if ends
        else ""
    )


def _is_worse(one: Change) -> bool:
    decisive = one.absolute or one.percent
    return decisive is not None and (decisive.mean < 0 if one.metric == "throughput" else decisive.mean > 0)


def _unmatched(before: Results, after: Results) -> tuple[str, ...]:
    names = [
        {(str(cell.cell), one.variant) for cell in results.cells for one in cell.differences}
        for results in (before, after)
    ]
    only = [f"only in the first: {variant} in {cell}" for cell, variant in sorted(names[0] - names[1])]
    return (*only, *(f"only in the second: {variant} in {cell}" for cell, variant in sorted(names[1] - names[0])))


# Showing.


def table(found: Comparison, metric: str, cell: str) -> Table:
    """The variants of one cell and metric."""
    how = quantities.metric_of(metric)
    rows = []
    for one in found.changes:
        if (one.metric, one.cell) != (metric, cell):
            continue
        rows.append(
            (
                one.variant,
                _added(one.before, how),
                _added(one.after, how),
                _added(one.absolute, how),
                _percent(one),
                "clear" if one.is_clear else "",
            )
        )
    columns = (
        Column("variant"), Column("added before", True), Column("added after", True), Column("change", True),
        Column("change, % of all", True), Column(""),
    )  # fmt: skip
    return Table(f"{how.title}, {cell}", columns, tuple(rows))


def _added(estimate: Estimate | None, how: quantities.Metric) -> str:
    if estimate is None:
        return NOTHING
    scaled = Estimate(*(one * how.factor for one in (estimate.mean, estimate.low, estimate.high)))
    return quantities.estimate(scaled, how.unit)


def _percent(one: Change) -> str:
    return quantities.estimate(one.percent, "%") if one.percent else NOTHING


def _tables(found: Comparison) -> Iterator[Table]:
    for cell, metric in dict.fromkeys((one.cell, one.metric) for one in found.changes):
        yield table(found, metric, cell)


def text(found: Comparison) -> str:
    """For a terminal: clear changes first, then CPU in full, at most 100 columns."""
    parts = [console.wrapped(found.verdict)]
    parts += [console.wrapped(f"! {one}", 2) for one in found.warnings]
    for one in _tables(found):
        parts.append("\n".join([console.clean(one.caption), *_stacked(one)]))
    if found.unmatched:
        parts.append("\n".join(console.wrapped(one, 2) for one in found.unmatched))
    return "\n\n".join(parts)


def _stacked(one: Table) -> list[str]:
    """A table that is too wide for a terminal has no intervals of before and after."""
    lines = console.aligned(one, 10_000)
    if max(map(len, lines)) <= console.WIDTH:
        return lines
    short = tuple((row[0], *(text.split(" [")[0] for text in row[1:3]), *row[3:]) for row in one.rows)
    return console.aligned(Table(one.caption, one.columns, short))


def markdown(found: Comparison) -> str:
    """For a pull request: clear changes in sight, everything else folded away."""
    parts = [f"### What tracing costs, before and after: {pull_request.escaped(found.verdict)}"]
    parts += [f"> {pull_request.escaped(one)}" for one in found.warnings]
    clear = tuple(one for one in found.changes if one.is_clear)
    if clear:
        parts.append(pull_request.written(_clear_table(clear)))
    parts.append(pull_request.folded("All comparisons", [pull_request.written(one) for one in _tables(found)]))
    if found.unmatched:
        parts.append(
            pull_request.folded(
                "What only one campaign has", ["\n".join(f"- {pull_request.escaped(one)}" for one in found.unmatched)]
            )
        )
    return "\n\n".join(parts) + "\n"


def _clear_table(clear: Sequence[Change]) -> Table:
    rows = []
    for one in clear:
        how = quantities.metric_of(one.metric)
        rows.append(
            (
                one.cell,
                one.variant,
                how.title,
                _added(one.absolute, how),
                _percent(one),
                "worse" if _is_worse(one) else "better",
            )
        )
    columns = (
        Column("cell"),
        Column("variant"),
        Column("metric"),
        Column("change", True),
        Column("change, % of all", True),
        Column(""),
    )
    return Table("Clear changes", columns, tuple(rows))


# The command.


def results_of(path: Path) -> Results:
    """What the campaign in a folder has shown. Raises Refusal."""
    from autoinstr.bench import analysis, store

    campaign = store.read(path)
    if not campaign.runs:
        raise Refusal(f"{path} has no runs yet", INCONCLUSIVE)
    return analysis.analyse(campaign)


def main(words: list[str]) -> int:
    """``autoinstr bench compare RUN_A RUN_B``; returns the exit code. Raises Refusal."""
    parser = argparse.ArgumentParser(
        "autoinstr bench compare",
        description="Did what tracing costs change between two campaigns? "
        "Exit codes: 0 compared, 2 usage, 3 too few blocks, 4 invalid data.",
    )
    parser.add_argument("before", type=Path, help="folder of the first campaign")
    parser.add_argument("after", type=Path, help="folder of the second campaign")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    found = compare(results_of(options.before), results_of(options.after))
    if options.json:
        json.dump(to_json(found), sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        print(markdown(found) if options.markdown else text(found))
    return found.status
