"""The analysis of constructed campaigns whose truth is known: costs, drift, noise, losses, and what must not be said."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("hdrh", reason="hdrhistogram is not installed")

from autoinstr.bench import analysis, durations, parts, plan, stats
from autoinstr.bench.parts import (
    AGAIN,
    BASE,
    INCONCLUSIVE,
    INVALID,
    PASSED,
    RATE,
    SATURATION,
    Campaign,
    Cell,
    CellResult,
    Difference,
    Estimate,
    Fault,
    GeneratorFigures,
    LoadFigures,
    Manifest,
    NoiseFigures,
    Planned,
    Quantiles,
    Results,
    Run,
    Sampling,
    ServerFigures,
    SpanFigures,
    Timing,
    Variant,
)

BARE_US, FIXED_US, PER_SPAN_US, SPANS = 120.0, 14.0, 9.0, 3
REQUESTS = 40_000
CELL = Cell("hello", "flask", SATURATION, 16)
AT_A_RATE = Cell("hello", "flask", RATE, 64, 0.6)


def ours(name: str, kind: str, param: float, **fields: Any) -> Variant:
    return Variant(
        name, "autoinstr", sampling=Sampling(kind, param), exports=True, has_counters=True, in_cost_model=True, **fields
    )


BASES = (Variant(BASE, "none", in_cost_model=True), Variant(AGAIN, "none", in_cost_model=True))
LADDER = (ours("const:0", "const", 0), ours("prob:0.1", "prob", 0.1), ours("prob:0.5", "prob", 0.5), ours("const:1", "const", 1))
RIVAL = Variant("otel", "otel", sampling=Sampling("const", 1), exports=True)
OFF = Variant("off", "off")
TRUTH = {BASE: 0.0, AGAIN: 0.0, "off": 0.0, "otel": 110.0} | {
    one.name: FIXED_US + PER_SPAN_US * SPANS * one.sampling.param for one in LADDER if one.sampling
}

# Limited to what the tenth comes to.
TRUTH["rate:10"] = TRUTH["prob:0.1"]

#: What a run is, by its plan and its number in the campaign: the cost in µs, and the noise.
Cost = Callable[[Planned, int], float]


def noise_of(seed: int, scale: float = 0.5) -> Cost:
    """The truth, with noise of which one in ten is three times as wide."""
    chance = random.Random(seed)
    return lambda planned, number: (
        BARE_US + TRUTH[planned.variant] + chance.gauss(0, 3 * scale if chance.random() < 0.1 else scale)
    )


def exactly(planned: Planned, number: int) -> float:
    return BARE_US + TRUTH[planned.variant]


def spans_of(variant: Variant, requests: int = REQUESTS) -> SpanFigures:
    if variant.sampling is None:
        return SpanFigures(requests=requests)
    traces = round(requests * variant.sampling.param)
    received = SpanFigures(received=traces * SPANS, received_traces=traces, bytes=traces * SPANS * 200, requests=requests)
    if not variant.has_counters:
        return received
    return dataclasses.replace(
        received,
        started=requests * SPANS,
        finished=traces * SPANS,
        traces_sampled=traces,
        dropped=0,
        failed=0,
        exported=traces * SPANS,
        left=0,
    )


def run_of(planned: Planned, variant: Variant, cpu_us: float) -> Run:
    latency_us = 4 * cpu_us
    quantiles = Quantiles(latency_us, latency_us, 2 * latency_us, 4 * latency_us, 8 * latency_us, 10 * latency_us)
    is_rate = planned.cell.mode == RATE
    return Run(
        planned=planned,
        status="ok",
        started_at="2026-11-23T09:00:00+00:00",
        seconds=16.0,
        load=LoadFigures(
            seconds=8.0,
            requests=REQUESTS,
            errors=0,
            late=0,
            per_second=1e6 / cpu_us,
            target_per_second=5000.0 if is_rate else None,
            response=quantiles,
            service=quantiles,
            lag=quantiles if is_rate else None,
            all_requests=REQUESTS,
        ),
        server=ServerFigures(
            cpu_us=cpu_us * REQUESTS,
            idle_cpu_us_per_s=0.0,
            cpu_us_per_request=cpu_us,
            requests=REQUESTS,
            rss_bytes_start=40_000_000,
            rss_bytes_end=50_000_000 + round(100_000 * TRUTH[planned.variant]),
        ),
        spans=spans_of(variant),
        generator=GeneratorFigures(0.5),
        noise=NoiseFigures(),
    )


def campaign(
    variants: Sequence[Variant] = LADDER,
    blocks: int = 8,
    cost: Cost = exactly,
    cells: Sequence[Cell] = (CELL,),
    change: Callable[[Run], Run] = lambda run: run,
    **manifest: Any,
) -> Campaign:
    everything = (BASES[0], *variants, BASES[1])
    by_name = {one.name: one for one in everything}
    planned = [one for block in plan.blocks(cells, list(by_name), blocks, 1) for one in block]
    runs = [change(run_of(one, by_name[one.variant], cost(one, number))) for number, one in enumerate(planned)]
    return Campaign(
        Manifest(
            id="synthetic",
            created_at="2026-11-23T09:00:00+00:00",
            seed=1,
            argv=(),
            blocks=blocks,
            timing=Timing(),
            variants=everything,
            cells=tuple(cells),
            machine={},
            versions={},
            **manifest,
        ),
        tuple(runs),
    )


def spoiling(scope: str, text: str, *, variant: str | None = None, blocks: Sequence[int] = range(99)) -> Callable[[Run], Run]:
    """Runs of a variant (of all) in these blocks get a fault."""

    def change(run: Run) -> Run:
        if run.planned.block in blocks and variant in (None, run.planned.variant):
            return dataclasses.replace(run, status="invalid", faults=(Fault(scope, text),))
        return run

    return change


def only_cell(results: Results) -> CellResult:
    (cell,) = results.cells
    return cell


def difference(cell: CellResult, variant: str, metric: str = "cpu_us") -> Difference:
    found = cell.difference(variant, metric)
    assert found is not None
    return found


def absolute(cell: CellResult, variant: str, metric: str = "cpu_us") -> Estimate:
    found = difference(cell, variant, metric).absolute
    assert found is not None
    return found


# Truth is found.


def test_the_cost_of_each_variant_is_recovered() -> None:
    """The figures of the report would not be what was measured."""
    results = analysis.analyse(campaign(cost=noise_of(31)))
    cell = only_cell(results)
    assert results.status == PASSED
    for variant in LADDER:
        found = difference(cell, variant.name)
        assert found.blocks == len(found.series) == 8
        assert found.absolute is not None
        assert found.percent is not None
        assert not found.absolute.excludes(TRUTH[variant.name])
        assert 0 < found.absolute.high - found.absolute.low < 3
        assert not found.percent.excludes(100 * TRUTH[variant.name] / BARE_US)
        assert found.base == pytest.approx(BARE_US, abs=1)
        assert found.value - found.base == pytest.approx(found.absolute.mean)
        assert found.p == 2 / 2**8
    assert results.verdict.startswith("const:1 costs +4")
    assert "µs a request [+4" in results.verdict
    assert "in hello flask c16 saturation; bare again differs by " in results.verdict


def test_intervals_of_campaigns_cover_the_truth() -> None:
    """Of twenty campaigns more than one or two would be wrong, although each says 95 %."""
    covered = []
    for seed in range(120):
        cell = only_cell(analysis.analyse(campaign(LADDER[3:], 5, noise_of(seed))))
        covered.append(not absolute(cell, "const:1").excludes(TRUTH["const:1"]))
    assert 0.89 <= sum(covered) / len(covered) <= 0.995


def test_a_drift_of_the_machine_cancels() -> None:
    """A machine that warms up would make the variants that run later look dear."""
    results = analysis.analyse(campaign(cost=lambda planned, number: exactly(planned, number) + 0.7 * number))
    cell = only_cell(results)
    for variant, truth in ((one.name, TRUTH[one.name]) for one in (*LADDER, BASES[1])):
        assert absolute(cell, variant).mean == pytest.approx(truth, abs=1e-6)


def slowed(seed: int, elasticity: float = 0.9) -> Callable[[Run], Run]:
    """A machine whose speed changes by a fifth from run to run, as its gauge shows to one percent."""
    chance = random.Random(seed)

    def change(run: Run) -> Run:
        assert run.server is not None
        slow = math.exp(chance.gauss(0, 0.2))
        seconds = tuple((1e6, 25.0 * slow * math.exp(chance.gauss(0, 0.01))) for _ in range(3))
        cpu_us = run.server.cpu_us_per_request * slow**elasticity
        return dataclasses.replace(run, server=dataclasses.replace(run.server, cpu_us_per_request=cpu_us, seconds=seconds))

    return change


def test_what_the_pace_explains_is_taken_out() -> None:
    """On a virtual machine the neighbours' work, at a fifth of the speed from run to run, would hide what an agent costs."""
    cell = only_cell(analysis.analyse(campaign(cost=noise_of(37), change=slowed(1))))
    assert cell.pace is not None
    assert cell.pace.elasticity["cpu_us"] == pytest.approx(0.9, abs=0.05)
    assert cell.pace.fastest_us < 20 < cell.pace.usual_us < 30 < cell.pace.slowest_us
    assert cell.pace.left_percent < 2
    assert cell.pace.scatter_percent > 15
    for variant in LADDER:
        found = difference(cell, variant.name)
        assert found.absolute is not None and found.as_measured is not None and found.percent is not None
        assert found.percent.mean == pytest.approx(100 * TRUTH[variant.name] / BARE_US, abs=1)
        width, as_measured = (one.high - one.low for one in (found.absolute, found.as_measured))
        assert width < as_measured / 4
    rss = difference(cell, "const:1", "rss_bytes")
    assert rss.as_measured is None and rss.absolute is not None and rss.absolute.mean == 100_000 * TRUTH["const:1"]


def test_intervals_at_the_usual_pace_cover_the_truth() -> None:
    """The slope is estimated from the same runs: intervals that forget it would be too narrow."""
    covered, false_alarms = [], []
    for seed in range(150):
        found = only_cell(analysis.analyse(campaign(LADDER[3:], 4, noise_of(seed, 1.5), change=slowed(seed))))
        percent = difference(found, "const:1").percent
        covered.append(percent is not None and not percent.excludes(100 * TRUTH["const:1"] / BARE_US))
        false_alarms.append(found.is_noisy)
    assert 0.89 <= sum(covered) / len(covered) <= 0.995
    assert sum(false_alarms) / len(false_alarms) <= 0.11


def test_what_costs_the_same_at_every_pace_keeps_its_cost() -> None:
    """A known number of µs that is burnt by the clock would be found as less on a machine with slow spells."""

    def burner(run: Run) -> Run:
        run = slowed(1000 * run.planned.block + run.planned.position)(run)
        assert run.server is not None
        if run.planned.variant == "const:1":
            slow_us = slowed(1000 * run.planned.block + run.planned.position)(run_of(run.planned, LADDER[3], BARE_US)).server
            assert slow_us is not None
            server = dataclasses.replace(run.server, cpu_us_per_request=slow_us.cpu_us_per_request + 50)
            run = dataclasses.replace(run, server=server)
        return run

    cell = only_cell(analysis.analyse(campaign(LADDER[3:], 60, change=burner)))
    assert absolute(cell, "const:1").mean == pytest.approx(50, abs=2.5)


def test_a_pace_that_was_not_always_measured_changes_nothing() -> None:
    """Some runs at the usual pace and some as measured would be compared with each other."""

    def sometimes(run: Run) -> Run:
        run = slowed(run.planned.position)(run)
        assert run.server is not None
        if run.planned.block == 1:
            run = dataclasses.replace(run, server=dataclasses.replace(run.server, seconds=((1e6, None),)))
        return run

    cell = only_cell(analysis.analyse(campaign(change=sometimes)))
    assert cell.pace is None and difference(cell, "const:1").as_measured is None


def test_no_p_is_shown_of_blocks_that_can_show_none() -> None:
    """0.125 beside an interval far from 0 reads as if nothing had been found."""
    few, enough = (only_cell(analysis.analyse(campaign(blocks=blocks, cost=noise_of(38)))) for blocks in (5, 6))
    assert difference(few, "const:1").p is None and difference(few, "const:1").p_holm is None
    assert difference(enough, "const:1").p == 2 / 2**6


def test_other_metrics_are_differences_too() -> None:
    cell = only_cell(analysis.analyse(campaign(cost=noise_of(32))))
    assert absolute(cell, "const:1", "p50_us").mean == pytest.approx(4 * TRUTH["const:1"], abs=6)
    assert absolute(cell, "const:1", "p99_us").mean == pytest.approx(16 * TRUTH["const:1"], abs=24)
    assert absolute(cell, "const:1", "throughput").high < 0
    assert absolute(cell, "const:1", "rss_bytes").mean == pytest.approx(100_000 * TRUTH["const:1"])
    assert cell.throughput[BASE].mean == pytest.approx(1e6 / BARE_US, rel=0.01)
    assert cell.utilisation == pytest.approx(BARE_US * REQUESTS / 8e6, rel=0.01)


def test_holm_counts_the_variants_and_not_the_control() -> None:
    """Bare against bare in the family would make every other claim weaker."""
    cell = only_cell(analysis.analyse(campaign(cost=noise_of(33))))
    assert difference(cell, "const:1").p_holm == pytest.approx(4 * 2 / 2**8)
    again = difference(cell, AGAIN)
    assert again.p_holm == again.p


# What spoils.


def test_bare_that_differs_from_bare_makes_a_cell_noisy() -> None:
    """A harness that finds costs where there are none would be believed."""
    shifted = noise_of(34)
    results = analysis.analyse(
        campaign(cost=lambda planned, number: shifted(planned, number) + 4 * (planned.variant == AGAIN))
    )
    cell = only_cell(results)
    assert cell.is_noisy
    assert cell.again is not None
    assert results.status == INVALID
    assert results.verdict.startswith("no statement holds, for it is noisy (bare differs from bare by +")
    assert any(text.startswith("noisy: bare differs from bare") for text in cell.trouble)


def test_bare_that_differs_by_less_than_counts_is_stamped_and_not_thrown_away() -> None:
    """Of twenty good cells one is noisy by chance: campaigns of many cells would never be valid."""
    wobble = (0.4, 0.6)
    built = campaign(
        cost=lambda planned, number: exactly(planned, number) + (planned.variant == AGAIN) * wobble[planned.block % 2]
    )
    results = analysis.analyse(built)
    assert only_cell(results).is_noisy
    assert results.status == PASSED
    assert results.verdict.endswith("bare again differs by +0.5 [+0.4, +0.6] (noisy)")
    assert analysis.analyse(built, delta_percent=0.1, delta_us=0.5).status == INVALID


@pytest.mark.parametrize("count", ["dropped", "failed"])
def test_a_variant_that_loses_spans_makes_no_claim(count: str) -> None:
    """An agent that drops every tenth span would win."""

    def lossy(run: Run) -> Run:
        if run.planned.variant != "const:1" or run.spans is None:
            return run
        sent = SPANS * REQUESTS - 12_000
        spans = dataclasses.replace(run.spans, exported=sent, received=sent, **{count: 12_000})
        return dataclasses.replace(run, spans=spans, status="invalid", faults=(Fault("spans", "lost"),))

    results = analysis.analyse(campaign(cost=noise_of(35), change=lossy))
    assert results.status == INVALID
    assert "const:1 lost 10 % of its spans, so that it seems cheaper than it is" in results.verdict
    cell = only_cell(results)
    account = next(one for one in cell.accounts if one.variant == "const:1")
    assert getattr(account, count) == 16 * 12_000
    assert account.trouble.startswith("16 of 16 runs: 12,000 of 120,000 spans were lost by the agent (10 %")
    assert any(text.startswith("const:1: 16 of 16 runs") for text in cell.trouble)
    assert difference(cell, "const:1").absolute is not None


def test_spoiled_runs_take_their_block_with_them_for_this_variant_only() -> None:
    """Half a mirrored block would bring the drift back."""

    def change(run: Run) -> Run:
        at = run.planned
        if at.variant == "const:1" and at.block in (2, 5) and at.position > 5:
            return dataclasses.replace(spoiling("all", "requests failed")(run), server=dataclasses.replace(run.server, cpu_us_per_request=9e9))
        return run

    results = analysis.analyse(campaign(cost=noise_of(36), change=change))
    cell = only_cell(results)
    assert difference(cell, "const:1").blocks == 6
    assert difference(cell, "const:0").blocks == 8
    assert absolute(cell, "const:1").high < 60
    assert [run.planned.block for run in results.excluded] == [2, 5]
    assert results.status == PASSED


def test_a_bare_run_that_is_spoiled_costs_all_variants_the_block() -> None:
    cell = only_cell(analysis.analyse(campaign(change=spoiling("all", "steal", variant=BASE, blocks=[0]))))
    assert {one.blocks for one in cell.differences if one.metric == "cpu_us"} == {7}


def test_a_generator_at_its_limit_leaves_cpu_usable() -> None:
    """A closed loop would have no figures at all on a machine with two cores."""

    def saturated(run: Run) -> Run:
        faults = tuple(Fault(scope, "the generator used 83 % of its core") for scope in ("throughput", "latency"))
        return dataclasses.replace(run, status="invalid", faults=faults)

    results = analysis.analyse(campaign(cost=noise_of(37), change=saturated))
    cell = only_cell(results)
    assert results.status == PASSED
    assert absolute(cell, "const:1").low > 35
    assert difference(cell, "const:1", "throughput").absolute is None
    assert difference(cell, "const:1", "p50_us").absolute is None
    assert cell.throughput == {}
    assert cell.curves == ()
    (text,) = [one for one in cell.trouble if "spoiled" in one]
    assert text.startswith("p50_us, p90_us, p99_us, p999_us, throughput of const:0, prob:0.1, prob:0.5, const:1, none#2: ")
    assert "no complete block; 32 of 32 runs were spoiled, most often as here: the generator used 83 %" in text


def test_a_rate_cell_without_latency_is_invalid() -> None:
    """Rate mode is there for latency: a generator that came late has measured itself."""
    results = analysis.analyse(campaign(cells=[AT_A_RATE], cost=noise_of(38), change=spoiling("latency", "left 5 ms late")))
    assert results.status == INVALID
    assert "only 0 of 8 blocks are usable for p50_us of const:0 (left 5 ms late)" in results.verdict
    cell = only_cell(results)
    assert cell.difference("const:1", "throughput") is None
    assert cell.throughput == {}
    assert analysis.analyse(campaign(cells=[AT_A_RATE], cost=noise_of(38))).status == PASSED


def test_blocks_that_were_run_and_spoiled_are_invalid_and_not_too_few() -> None:
    """"Run more blocks" would be the wrong advice on a machine that is too busy."""
    busy = spoiling("all", "other processes used 40 % of a core", variant="prob:0.5", blocks=range(6))
    results = analysis.analyse(campaign(cost=noise_of(39), change=busy))
    assert results.status == INVALID
    assert "only 2 of 8 blocks are usable for cpu_us of prob:0.5 (other processes used 40 % of a core)" in results.verdict


def test_only_the_last_attempt_counts() -> None:
    """A run that was repeated because it was spoiled would count twice, or as the spoiled one."""
    good = campaign(cost=noise_of(40))
    first = good.runs[3]
    spoiled = spoiling("all", "steal")(dataclasses.replace(first, server=None))
    repeated = Campaign(good.manifest, (*good.runs[:3], spoiled, dataclasses.replace(first, attempt=1), *good.runs[4:]))
    results = analysis.analyse(repeated)
    assert results.cells[0].differences == analysis.analyse(good).cells[0].differences
    assert results.excluded == (spoiled,)
    assert results.runs == len(good.runs) + 1
    twice = Campaign(good.manifest, (*good.runs, dataclasses.replace(first, attempt=1)))
    assert analysis.analyse(twice).excluded == (first,)
    numbers = [number for number, _, _, _ in results.cells[0].sequence]
    assert numbers == [1, 2, 3, *range(5, len(good.runs) + 2)]


# Few blocks.


def test_one_block_is_no_statement() -> None:
    """A single pair would be published with an interval."""
    results = analysis.analyse(campaign(blocks=1))
    cell = only_cell(results)
    found = difference(cell, "const:1")
    assert (found.absolute, found.percent, found.p, found.is_equivalent, found.blocks_for_one_percent) == (None,) * 5
    assert found.series == pytest.approx((TRUTH["const:1"],))
    assert (found.base, found.value) == pytest.approx((BARE_US, BARE_US + TRUTH["const:1"]))
    everything = "cpu_us, p50_us, p90_us, p99_us, p999_us, throughput, rss_bytes"
    assert f"{everything} of const:0, prob:0.1, prob:0.5, const:1, none#2: only one complete block" in cell.trouble
    assert cell.model is None
    assert results.status == INCONCLUSIVE
    assert "there are 1 complete blocks, of at least 4: what const:1 costs is not known (+41.0 µs a request in 1 block)" in results.verdict


@pytest.mark.parametrize(("blocks", "status"), [(2, INCONCLUSIVE), (3, INCONCLUSIVE), (4, PASSED)])
def test_few_blocks_are_shown_and_not_stated(blocks: int, status: int) -> None:
    results = analysis.analyse(campaign(blocks=blocks, cost=noise_of(41, 0.2)))
    cell = only_cell(results)
    assert absolute(cell, "const:1").mean == pytest.approx(41, abs=1)
    assert results.status == status
    assert (f"only {blocks} complete blocks: nothing is stated of fewer than 4" in cell.trouble) == (status != PASSED)
    assert results.verdict.startswith("const:1 costs" if status == PASSED else "no clear statement yet, for there are ")


def test_an_interrupted_campaign_is_analysed_as_far_as_it_got() -> None:
    """Ctrl-C after five hours would leave nothing."""
    whole = campaign(cost=noise_of(42))
    results = analysis.analyse(Campaign(whole.manifest, whole.runs[:-5]))
    cell = only_cell(results)
    assert {one.blocks for one in cell.differences if one.metric == "cpu_us"} == {7}
    assert results.status == PASSED


def test_nothing_measured_is_said() -> None:
    manifest = campaign().manifest
    results = analysis.analyse(Campaign(manifest, ()))
    assert results.status == INVALID
    assert results.verdict == "nothing was measured: no run came to its end"
    assert only_cell(results).trouble == ("no run of this cell was made",)
    failed = tuple(
        dataclasses.replace(run, status="failed", load=None, server=None, spans=None, faults=(Fault("all", "died"),))
        for run in campaign().runs
    )
    results = analysis.analyse(Campaign(manifest, failed))
    assert results.status == INVALID
    assert len(results.excluded) == len(failed)
    assert "16 of 32" not in only_cell(results).trouble[0]
    assert "32 of 32 runs were spoiled, most often as here: died" in only_cell(results).trouble[0]


def test_a_smoke_campaign_infers_nothing() -> None:
    """Two minutes of trying out would be quoted as a measurement."""
    results = analysis.analyse(campaign(blocks=8, cost=noise_of(43), is_smoke=True))
    assert results.verdict.startswith("smoke, no inference: const:1 costs +4")
    assert results.status == INCONCLUSIVE


# What may be called no difference.


def test_no_difference_is_said_only_where_it_is_shown() -> None:
    """"No measurable overhead" would be said of a machine that measures nothing."""
    quiet = analysis.analyse(campaign([OFF], cost=noise_of(44, 0.5)))
    assert difference(only_cell(quiet), "off").is_equivalent is True
    assert quiet.status == PASSED
    assert quiet.verdict.startswith("off costs no more than 2 µs or 1 %: ")
    loud = analysis.analyse(campaign([OFF], cost=noise_of(45, 8.0)))
    found = difference(only_cell(loud), "off")
    assert found.is_equivalent is False
    assert found.blocks_for_one_percent is not None
    assert found.blocks_for_one_percent > 8
    assert loud.status == INCONCLUSIVE
    assert "off can neither be told from bare nor shown to be like it" in loud.verdict
    assert f"about {found.blocks_for_one_percent} blocks tell to 1 %" in loud.verdict


def test_what_is_clear_is_said_before_what_is_not() -> None:
    """A campaign that shows the cost of tracing would be headed by a variant that nobody asked for first."""
    results = analysis.analyse(campaign([OFF, LADDER[-1]], cost=noise_of(45, 8.0)))
    assert results.status == INCONCLUSIVE
    assert results.verdict.startswith("const:1 costs +")
    assert "; not clear yet: 1 of 1 cells (as hello flask c16 saturation: off can neither be told from" in results.verdict


def test_the_limits_of_equivalence_are_the_callers() -> None:
    small = campaign([OFF], cost=noise_of(44, 0.5))
    asked = only_cell(analysis.analyse(small, delta_percent=0.0, delta_us=0.01))
    assert difference(asked, "off").is_equivalent is False
    unasked = only_cell(analysis.analyse(small, delta_percent=0.0, delta_us=0.0))
    assert difference(unasked, "off").is_equivalent is None
    memory = only_cell(analysis.analyse(small, delta_percent=0.0, delta_us=2.0))
    assert difference(memory, "off", "rss_bytes").is_equivalent is None


def test_bare_alone_is_compared_with_itself() -> None:
    """The doctor's question: what can this machine tell apart?"""
    results = analysis.analyse(campaign([], cost=noise_of(46)))
    assert results.status == PASSED
    assert results.verdict.startswith("nothing but bare was measured in hello flask c16 saturation; bare again differs by ")
    assert only_cell(results).again is not None


def test_a_quantile_without_requests_beyond_it_is_withheld() -> None:
    """The maximum of 5,000 requests would be called their p99.9."""

    def short(run: Run) -> Run:
        return dataclasses.replace(run, load=dataclasses.replace(run.load, requests=9_999))

    cell = only_cell(analysis.analyse(campaign(change=short)))
    assert difference(cell, "const:1", "p999_us").absolute is None
    assert difference(cell, "const:1", "p99_us").absolute is not None
    (text,) = [one for one in cell.trouble if one.startswith("p999_us")]
    assert "fewer than 10 requests of a run lie beyond this quantile" in text
    assert len(difference(only_cell(analysis.analyse(campaign())), "const:1", "p999_us").series) == 8


# The model, the accounts, the curves.


def test_the_cost_model_is_fixed_plus_per_span() -> None:
    """Nobody could say what another sampling rate would cost."""
    cell = only_cell(analysis.analyse(campaign([*LADDER, OFF, RIVAL], cost=noise_of(47))))
    model = cell.model
    assert model is not None
    assert not model.fixed_us.excludes(FIXED_US)
    assert not model.per_span_us.excludes(PER_SPAN_US)
    assert not model.base_us.excludes(BARE_US)
    assert model.r_squared > 0.99
    assert model.spans_per_request == SPANS
    assert [(name, spans) for name, spans, _ in model.points] == [
        ("const:0", 0.0), ("prob:0.1", 0.3), ("prob:0.5", 1.5), ("const:1", 3.0)
    ]  # fmt: skip
    shares = dict(model.predictions)
    assert not shares[0.25].excludes(FIXED_US + PER_SPAN_US * SPANS / 4)
    assert tuple(shares) == stats.SHARES


def test_the_model_goes_by_what_was_sampled_and_not_by_the_setting() -> None:
    """rate:10 has no share at all, and a remote strategy may be another one than was meant."""
    limited = ours("rate:10", "rate", 10)

    def at_its_limit(run: Run) -> Run:
        if run.planned.variant != "rate:10":
            return run
        return dataclasses.replace(run, spans=dataclasses.replace(spans_of(LADDER[1]), requests=REQUESTS))

    built = campaign([LADDER[0], limited, LADDER[3]], change=at_its_limit)
    cell = only_cell(analysis.analyse(built))
    assert cell.model is not None
    assert ("rate:10", 0.3) in [(name, spans) for name, spans, _ in cell.model.points]
    assert cell.model.fixed_us.mean == pytest.approx(FIXED_US)
    account = next(one for one in cell.accounts if one.variant == "rate:10")
    assert account.expected_share is None
    assert account.sampled_share == pytest.approx(0.1)


def test_two_variants_are_no_model() -> None:
    """A line goes through any two points: R² would be 1."""
    cell = only_cell(analysis.analyse(campaign([LADDER[0], LADDER[3]])))
    assert cell.model is None
    assert cell.trouble == ()


def test_a_model_that_lacks_its_points_says_so() -> None:
    unread = spoiling("all", "died", variant="prob:0.1")
    cell = only_cell(analysis.analyse(campaign(LADDER[:3], change=unread)))
    assert cell.model is None
    assert any(text.startswith("no cost model: fewer than 2 blocks have 3 usable variants") for text in cell.trouble)


def test_the_model_counts_spans_that_were_made_and_not_those_that_arrived() -> None:
    """What UDP lost was paid for all the same."""

    def lossy(run: Run) -> Run:
        return dataclasses.replace(run, spans=dataclasses.replace(run.spans, received=run.spans.received * 999 // 1000))

    model = only_cell(analysis.analyse(campaign(change=lossy))).model
    assert model is not None
    assert model.per_span_us.mean == pytest.approx(PER_SPAN_US)
    assert [spans for _, spans, _ in model.points] == [0.0, 0.3, 1.5, 3.0]


def test_accounts_add_up_over_runs() -> None:
    cell = only_cell(analysis.analyse(campaign([*LADDER, RIVAL])))
    accounts = {one.variant: one for one in cell.accounts}
    assert list(accounts) == [BASE, "const:0", "prob:0.1", "prob:0.5", "const:1", "otel", AGAIN]
    tenth = accounts["prob:0.1"]
    assert (tenth.runs, tenth.requests, tenth.exported) == (16, 16 * REQUESTS, 16 * 12_000)
    assert (tenth.sampled_share, tenth.expected_share, tenth.spans_per_sampled_request) == (0.1, 0.1, 3.0)
    assert tenth.bytes_per_span == 200
    rival = accounts["otel"]
    assert (rival.exported, rival.dropped, rival.started) == (None, None, None)
    assert (rival.sampled_share, rival.received) == (1.0, 16 * 120_000)
    assert accounts[BASE].sampled_share is None
    assert {one.trouble for one in accounts.values()} == {""}


def test_an_account_with_one_unknown_count_has_no_sum() -> None:
    """A sum of the runs that told would be read as the sum of all."""

    def deaf(run: Run) -> Run:
        if run.planned.variant == "const:1" and run.planned.block == 0:
            return dataclasses.replace(run, spans=spans_of(RIVAL))
        return run

    results = analysis.analyse(campaign(change=deaf))
    account = next(one for one in only_cell(results).accounts if one.variant == "const:1")
    assert account.exported is None
    assert account.received == 16 * 120_000
    assert account.trouble.startswith("2 of 16 runs: the counters of const:1 could not be read")
    assert results.status == INVALID


def test_losses_of_nobody_knows_how_many_make_no_claim() -> None:
    """An agent whose counters are half there would end the analysis."""

    def half_deaf(run: Run) -> Run:
        return dataclasses.replace(run, spans=dataclasses.replace(run.spans, finished=None, dropped=3))

    assert analysis.analyse(campaign(change=half_deaf)).status == INVALID


def test_curves_are_read_off_merged_histograms() -> None:
    """The mean of sixteen p99s would be drawn as a p99."""
    fast, slow = durations.new(), durations.new()
    durations.record(fast, [100] * 900)
    durations.record(slow, [100] * 800 + [5000] * 100)

    def change(run: Run) -> Run:
        histogram = fast if run.planned.position < 6 else slow
        quantiles = durations.quantiles(histogram)
        return dataclasses.replace(run, load=dataclasses.replace(run.load, response=quantiles, service=durations.quantiles(fast)))

    cell = only_cell(analysis.analyse(campaign(blocks=2, change=change)))
    curve = next(one for one in cell.curves if one.variant == "const:1")
    response = dict(curve.response)
    assert response[90.0] == 100
    assert response[95.0] == pytest.approx(5000, rel=0.001)
    assert max(dict(curve.service).values()) == 100
    assert max(response) <= 100 * (1 - 1 / 3600)
    assert [one.variant for one in cell.curves] == [BASE, *(one.name for one in LADDER), AGAIN]


def test_memory_is_shown_at_start_and_end() -> None:
    cell = only_cell(analysis.analyse(campaign(blocks=2)))
    assert cell.memory[BASE] == ((0.0, 40_000_000.0), (8.0, 50_000_000.0)) * 4


# Several cells.


def test_the_verdict_speaks_of_a_good_cell_and_names_the_bad_ones() -> None:
    """A verdict of the first cell alone would hide that another one failed."""
    other = dataclasses.replace(CELL, framework="django")

    def change(run: Run) -> Run:
        return spoiling("all", "the program died")(run) if run.planned.cell == CELL else run

    results = analysis.analyse(campaign(cells=[CELL, other], cost=noise_of(48), change=change))
    assert results.status == INVALID
    assert results.verdict.startswith("const:1 costs +4")
    assert "in hello django c16" in results.verdict
    assert "; invalid: 1 of 2 cells (as hello flask c16 saturation: only 0 of 8 blocks are usable" in results.verdict
    assert [cell.cell for cell in results.cells] == [CELL, other]


def test_results_can_be_written_as_json_and_read_back() -> None:
    """A report made elsewhere would fail on what has no JSON, such as infinity."""
    for built in (campaign([*LADDER, RIVAL], cost=noise_of(49)), campaign(blocks=1), Campaign(campaign().manifest, ())):
        results = analysis.analyse(built)
        text = json.dumps(parts.to_json(results), allow_nan=False)
        assert parts.from_json(Results, json.loads(text)) == results
