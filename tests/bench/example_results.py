"""Campaigns of known truth, made up but lifelike, for tests of what only reads results: reports, gates, comparisons.

The truth: an agent's hooks cost ``FIXED_US`` a request, a sampled span ``PER_SPAN_US``; rivals have costs of their own. The machine
drifts slowly, every run has noise of its own, and response times grow with utilisation as in a queue with one server.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from statistics import NormalDist, stdev
from typing import Any

from scipy import stats as judge

from autoinstr.bench.parts import (
    AGAIN,
    BASE,
    INVALID,
    PASSED,
    RATE,
    SATURATION,
    Account,
    Campaign,
    Cell,
    CellResult,
    CostModel,
    Curve,
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

BARE_US = {"wsgi": 180.0, "flask": 310.0, "fastapi": 420.0}
FIXED_US, PER_SPAN_US = 2.4, 9.8
RIVALS_US = {"otel": 212.0, "otel:0.1": 118.0, "ddtrace": 431.0}
SPANS = {"hello": 1, "fanout_requests": 4}
WINDOW_S = 8
PERCENTILES = (0, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)


def variant(name: str) -> Variant:
    kind = "none" if name.startswith("none") else "off" if name == "off" else name.partition(":")[0]
    if kind in ("const", "prob", "rate", "remote"):
        share = float(name.partition(":")[2].partition("-")[0] or 0.001)
        exports = not name.endswith("-null")
        sampling = Sampling(kind, share)
        return Variant(name, "autoinstr", ("autoinstr", "run"), {}, "", sampling, exports, True, exports)
    return Variant(name, kind, exports=kind in ("otel", "ddtrace"), in_cost_model=kind == "none")


LADDER = ("off", "const:0", "prob:0.01", "prob:0.1", "const:1-null", "const:1")
EVERYTHING = (
    "off",
    "const:0",
    "prob:0.001",
    "prob:0.01",
    "prob:0.1",
    "rate:10",
    "const:1-null",
    "const:1",
    "otel:0.1",
    "otel",
    "ddtrace",
)


def cell(text: str) -> Cell:
    """``hello flask c16 saturation`` or ``hello flask c16 rate 60%``."""
    scenario, framework, concurrency, mode, *load = text.split()
    return Cell(scenario, framework, mode, int(concurrency[1:]), float(load[0].rstrip("%")) / 100 if load else 0.0)


ONE_CELL = (cell("hello flask c16 saturation"),)
#: A full campaign: two scenarios, two frameworks, three concurrencies, three loads.
FULL = tuple(
    cell(f"{scenario} {framework} {rest}")
    for scenario in ("hello", "fanout_requests")
    for framework in ("flask", "fastapi")
    for rest in ("c1 saturation", "c16 saturation", "c128 saturation", "c16 rate 30%", "c16 rate 60%", "c16 rate 80%")
)


def share_of(name: str) -> float:
    """Of the traces of a variant of ours, how many are kept."""
    if name == "rate:10":
        return 0.004
    found = variant(name).sampling
    return found.param if found else 0.0


def added_us(where: Cell, name: str) -> float:
    """What a variant truly costs."""
    if name in (BASE, AGAIN):
        return 0.0
    spans = SPANS[where.scenario]
    if name in RIVALS_US:
        return RIVALS_US[name] * (0.6 + 0.4 * spans)
    if name == "off":
        return 0.1
    per_span = PER_SPAN_US * (0.55 if name.endswith("-null") else 1.0)
    return FIXED_US + per_span * spans * share_of(name)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run."""

    planned: Planned
    number: int
    cpu_us: float
    per_second: float
    latencies: Mapping[str, float]
    rss: tuple[float, float]


def bare_us(where: Cell) -> float:
    return BARE_US[where.framework] * (1.0 if where.scenario == "hello" else 3.5)


def measured(
    cells: Sequence[Cell],
    names: Sequence[str],
    blocks: int,
    seed: int,
    noise: float = 0.003,
    shift_us: Mapping[str, float] | None = None,
) -> list[Measured]:
    """The runs of a campaign, block by block in mirrored order."""
    dice = random.Random(seed)
    runs, drift = [], 0.0
    for number in range(blocks):
        for where in cells:
            others = [name for name in names if name != BASE]
            dice.shuffle(others)
            half = [BASE, *others]
            for position, name in enumerate(half + half[::-1]):
                drift = 0.98 * drift + dice.gauss(0, 0.002)
                cpu = (bare_us(where) + added_us(where, name) + (shift_us or {}).get(name, 0.0)) * math.exp(
                    drift + dice.gauss(0, noise)
                )
                runs.append(
                    Measured(Planned(where, number, position, name), len(runs), cpu, *_rest(where, name, cpu, dice))
                )
    return runs


def _rest(
    where: Cell, name: str, cpu: float, dice: random.Random
) -> tuple[float, dict[str, float], tuple[float, float]]:
    most = 0.92e6 / cpu * min(1.0, 0.55 + 0.2 * math.log2(where.concurrency))
    if where.mode == SATURATION:
        per_second = most * math.exp(dice.gauss(0, 0.012))
        typical = where.concurrency / per_second * 1e6
        spread = {"p50_us": 0.94, "p90_us": 1.35, "p99_us": 2.4, "p999_us": 4.6}
    else:
        per_second = where.load * 0.92e6 / bare_us(where)
        free = max(1 - per_second * cpu / 1e6, 0.04)
        typical = (cpu + 140) * (1 + 0.5 * (1 - free) / free)
        spread = {"p50_us": 0.9, "p90_us": 1.7, "p99_us": 3.6, "p999_us": 7.5}
    latencies = {
        key: typical * factor * math.exp(dice.gauss(0, 0.012 + 0.012 * rank))
        for rank, (key, factor) in enumerate(spread.items())
    }
    start = (
        (41.0 if name.startswith("none") else 44.5 if name not in RIVALS_US else 66.0)
        * 1e6
        * math.exp(dice.gauss(0, 0.004))
    )
    return per_second, latencies, (start, start * (1.012 if name in ("const:1", "otel", "ddtrace") else 1.003))


@cache
def t_quantile(p: float, freedom: int) -> float:
    return float(judge.t.ppf(p, freedom))


def interval(values: Sequence[float], confidence: float = 0.95) -> Estimate | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def _value(run: Measured, metric: str) -> float:
    if metric == "cpu_us":
        return run.cpu_us
    if metric == "throughput":
        return run.per_second
    return run.rss[1] if metric == "rss_bytes" else run.latencies[metric]


def difference(runs: Sequence[Measured], name: str, metric: str, blocks: int) -> Difference:
    pairs: dict[tuple[int, str], list[float]] = {}
    for run in runs:
        if run.planned.variant in (BASE, name):
            pairs.setdefault((run.planned.block, run.planned.variant), []).append(_value(run, metric))
    raw, logs, bases, values = [], [], [], []
    for number in range(blocks):
        base, value = pairs[number, BASE], pairs[number, name]
        raw.append(sum(value) / 2 - sum(base) / 2)
        logs.append(sum(map(math.log, value)) / 2 - sum(map(math.log, base)) / 2)
        bases.append(sum(base) / 2)
        values.append(sum(value) / 2)
    log_interval = interval(logs)
    percent = log_interval and Estimate(*(100 * math.expm1(one) for one in dataclasses.astuple(log_interval)))
    # Of the normal distribution: near enough for an example.
    p = math.erfc(abs(sum(raw)) / stdev(raw) / math.sqrt(2 * blocks)) if blocks > 1 else None
    half = (percent.high - percent.low) / 2 if percent else 1.0
    return Difference(
        variant=name, metric=metric, blocks=blocks, base=sum(bases) / blocks, value=sum(values) / blocks,
        absolute=interval(raw), percent=percent, p=p, p_holm=None if p is None else min(1.0, p * 5),
        is_equivalent=bool(percent and abs(percent.mean) + half < 1), blocks_for_one_percent=max(3, math.ceil(blocks * half**2)),
        series=tuple(raw),
    )  # fmt: skip


def _model(where: Cell, names: Iterable[str], of: Mapping[str, Difference]) -> CostModel | None:
    ours = [name for name in names if name not in (BASE, AGAIN) and variant(name).in_cost_model]
    if len(ours) < 3:
        return None
    spans = SPANS[where.scenario]
    points = tuple((name, share_of(name) * spans, of[name].absolute.mean) for name in ours)
    fit = judge.linregress([x for _, x, _ in points], [y for _, _, y in points])
    wide = t_quantile(0.975, max(len(points) - 2, 1))

    def around(mean: float, error: float) -> Estimate:
        return Estimate(float(mean), float(mean - wide * error), float(mean + wide * error))

    predictions = []
    for share in (1.0, 0.5, 0.25, 0.125, 0.0625, 0.01, 1 / 1024, 0.0):
        mean = fit.intercept + fit.slope * share * spans
        predictions.append((share, around(mean, math.hypot(fit.intercept_stderr, fit.stderr * share * spans))))
    base = next(iter(of.values())).base
    return CostModel(
        Estimate(base, base * 0.996, base * 1.004), around(fit.intercept, fit.intercept_stderr), around(fit.slope, fit.stderr),
        float(fit.rvalue**2), float(spans), points, tuple(predictions),
    )  # fmt: skip


def _account(where: Cell, name: str, blocks: int) -> Account:
    found, runs, spans = variant(name), 2 * blocks, SPANS[where.scenario]
    requests = runs * 21_400
    if name in ("none", AGAIN, "off"):
        return Account(name, runs, requests, None, None, None, None, None, None, None, 0, None, None)
    if name in RIVALS_US:
        share = 0.1 if name.endswith("0.1") else 1.0
        return Account(
            name,
            runs,
            requests,
            None,
            share,
            share,
            None,
            None,
            None,
            None,
            int(requests * share * spans),
            452.0,
            float(spans),
        )
    share = share_of(name)
    sent = int(requests * share * spans) if found.exports else 0
    expected = found.sampling.expected_share()
    return Account(
        name,
        runs,
        requests,
        requests * spans,
        share,
        expected,
        0,
        0,
        sent,
        0,
        sent,
        214.6 if sent else None,
        float(spans) if sent else None,
    )


def _curves(where: Cell, runs: Sequence[Measured], names: Iterable[str]) -> tuple[Curve, ...]:
    curves = []
    for name in names:
        own = [run for run in runs if run.planned.variant == name]
        median = sum(run.latencies["p50_us"] for run in own) / len(own)
        tail = math.log(sum(run.latencies["p999_us"] for run in own) / len(own) / median) / 3.09
        response = tuple(
            (q, median * math.exp(tail * NormalDist().inv_cdf(min(max(q / 100, 0.001), 0.99995)))) for q in PERCENTILES
        )
        wait = 0.0 if where.mode == SATURATION else 0.35
        service = tuple((q, value * (1 - wait * q / 100)) for q, value in response)
        curves.append(Curve(name, response, service))
    return tuple(curves)


METRICS = ("cpu_us", "p50_us", "p90_us", "p99_us", "p999_us", "throughput", "rss_bytes")


def cell_result(where: Cell, runs: Sequence[Measured], names: Sequence[str], blocks: int) -> CellResult:
    own = [run for run in runs if run.planned.cell == where]
    others = [name for name in names if name != BASE]
    metrics = [one for one in METRICS if one != "throughput" or where.mode == SATURATION]
    differences = tuple(difference(own, name, metric, blocks) for metric in metrics for name in others)
    of = {one.variant: one for one in differences if one.metric == "cpu_us"}
    again = of.get(AGAIN)
    throughput: dict[str, Estimate] = {}
    for name in names if where.mode == SATURATION else ():
        estimate = interval([run.per_second for run in own if run.planned.variant == name])
        if estimate:
            throughput[name] = estimate
    bare = [run for run in own if run.planned.variant == BASE]
    return CellResult(
        where, differences, _model(where, names, of) if blocks > 1 else None,
        tuple(_account(where, name, blocks) for name in names), _curves(where, own, names), throughput,
        sum(run.cpu_us * run.per_second for run in bare) / len(bare) / 1e6,
        tuple((run.number, run.planned.variant, run.cpu_us, "unsteady" if run.number % 47 == 11 else "ok") for run in own),
        {name: tuple(point for run in own if run.planned.variant == name for point in ((1.2, run.rss[0]), (15.5, run.rss[1]))) for name in names},
        again, bool(again and again.absolute and again.absolute.excludes(0)),
    )  # fmt: skip


MACHINE: dict[str, Any] = {
    "system": "Linux", "kernel": "6.1.0", "architecture": "x86_64",
    "cpu": {"model": "AMD EPYC 7R13", "cores": 2, "allowed": 2, "threads_per_core": 1, "governor": None, "boost": None, "max_mhz": None},
    "memory_bytes": 4_110_417_920, "virtualisation": "kvm", "container": None,
    "cgroup": {"cpu_limit_cores": None, "memory_limit_bytes": None},
    "python": {"implementation": "CPython", "version": "3.11.7", "compiler": "GCC 12.2.0", "has_lto": True, "has_gil": True},
}  # fmt: skip


def manifest(
    cells: Sequence[Cell],
    names: Sequence[str],
    blocks: int,
    seed: int = 1,
    *,
    is_smoke: bool = False,
    machine: Mapping[str, Any] = MACHINE,
) -> Manifest:
    argv = ("--scenario", "hello", "--variants", ",".join(names), "--blocks", str(blocks))
    versions = {
        "": {"autoinstr": "0.1.0", "flask": "3.1.3", "fastapi": "0.165.0", "gunicorn": "27.0.1", "locust": "2.46.7"},
        "otel": {"opentelemetry-sdk": "1.45.1"}, "ddtrace": {"ddtrace": "4.16.0"},
    }  # fmt: skip
    calibration = {"generator": 9400.0} | {
        f"{one.scenario} {one.framework} c{one.concurrency}": 0.92e6 / bare_us(one) for one in cells
    }
    return Manifest(
        "20261123-0916-hello", "2026-11-23T09:16:03+00:00", seed, argv, blocks, Timing(), tuple(map(variant, names)), tuple(cells),
        machine, versions, calibration, server_cpus=(0,), generator_cpus=(1,), is_smoke=is_smoke,
    )  # fmt: skip


def with_bases(names: Sequence[str]) -> tuple[str, ...]:
    return (BASE, *names, AGAIN)


def results(
    cells: Sequence[Cell] = ONE_CELL,
    names: Sequence[str] = LADDER,
    blocks: int = 10,
    seed: int = 1,
    *,
    is_smoke: bool = False,
    excluded: int = 0,
    **kwargs: Any,
) -> Results:
    """What an analysis of such a campaign would say."""
    everyone = with_bases(names)
    runs = measured(cells, everyone, blocks, seed, **kwargs)
    done = tuple(cell_result(where, runs, everyone, blocks) for where in cells)
    dearest = done[0].difference("const:1")
    estimate = dearest and dearest.absolute
    verdict = "smoke, no inference" if is_smoke else "too few blocks to say anything"
    if estimate and not is_smoke:
        verdict = f"const:1 costs {estimate.mean:+.1f} µs a request [{estimate.low:+.1f}, {estimate.high:+.1f}] in {cells[0]}."
    if any(one.is_noisy for one in done):
        verdict = f"Noisy: bare differs from bare in {', '.join(str(one.cell) for one in done if one.is_noisy)}."
    bad = tuple(
        Run(run.planned, "invalid", "2026-11-23T09:20:00+00:00", 15.2, (Fault("all", "other processes used 31 % of a core of ours: stop them, or choose other cores"),), attempt=1)
        for run in runs[5 : 5 + excluded]
    )  # fmt: skip
    status = 3 if is_smoke else PASSED
    return Results(
        manifest(cells, everyone, blocks, seed, is_smoke=is_smoke), done, bad, verdict, status, len(runs) + excluded
    )


def invalid(of: Results) -> Results:
    """The same, thrown out."""
    first = of.cells[0]
    accounts = tuple(
        dataclasses.replace(one, dropped=412, trouble="412 spans were dropped (0.19 %)") for one in first.accounts[-2:]
    )
    spoilt = dataclasses.replace(first, accounts=first.accounts[:-2] + accounts)
    return dataclasses.replace(
        of, cells=(spoilt, *of.cells[1:]), status=INVALID, verdict="Nothing can be said: const:1 dropped spans."
    )


def noisy(of: Results, number: int = 0) -> Results:
    """The same, with a cell whose A/A excludes 0."""
    first = of.cells[number]
    assert first.again is not None
    again = dataclasses.replace(first.again, absolute=Estimate(3.1, 1.2, 5.0), is_equivalent=False)
    others = tuple(again if one.variant == AGAIN and one.metric == "cpu_us" else one for one in first.differences)
    changed = dataclasses.replace(first, again=again, is_noisy=True, differences=others)
    return dataclasses.replace(of, cells=(*of.cells[:number], changed, *of.cells[number + 1 :]))


def campaign(
    cells: Sequence[Cell] = ONE_CELL,
    names: Sequence[str] = LADDER,
    blocks: int = 10,
    seed: int = 1,
    *,
    machine: Mapping[str, Any] = MACHINE,
    **kwargs: Any,
) -> Campaign:
    """The same as records of runs, as a folder holds them."""
    everyone = with_bases(names)
    dice = random.Random(seed)
    runs = tuple(_record(run, dice) for run in measured(cells, everyone, blocks, seed, **kwargs))
    return Campaign(manifest(cells, everyone, blocks, seed, machine=machine), runs)


def _record(run: Measured, dice: random.Random) -> Run:
    where, name = run.planned.cell, run.planned.variant
    found, spans = variant(name), SPANS[where.scenario]
    requests = round(run.per_second * WINDOW_S)
    whole = requests * 2
    kept = _binomial(dice, whole, share_of(name))
    of_ours = found.kind == "autoinstr"
    sent = kept * spans if found.exports else 0
    times = Quantiles(
        run.latencies["p50_us"] * 1.1, *(run.latencies[one] for one in METRICS[1:5]), run.latencies["p999_us"] * 2
    )
    is_rate = where.mode == RATE
    return Run(
        run.planned, "ok", "2026-11-23T09:20:00+00:00", 15.2,
        load=LoadFigures(
            WINDOW_S, requests, 0, 0, run.per_second, run.per_second if is_rate else None, times, times,
            Quantiles(100, 80, 150, 200, 300, 400) if is_rate else None,
            tuple((requests // WINDOW_S, times.p50) for _ in range(WINDOW_S)), 0, whole, 0,
        ),
        server=ServerFigures(run.cpu_us * requests, 900.0, run.cpu_us, whole, int(run.rss[0]), int(run.rss[1])),
        spans=SpanFigures(
            *((whole * spans, kept * spans, kept, 0, 0, sent, 0) if of_ours else (None,) * 7), received=sent, received_traces=kept if sent else 0,
            batches=sent // 200, bytes=sent * 214, requests=whole,
        ),
        generator=GeneratorFigures(0.41, 0.02), noise=NoiseFigures(0.0, 0.01, 0.005, 1.1, 0),
    )  # fmt: skip


def _binomial(dice: random.Random, trials: int, share: float) -> int:
    if share in (0.0, 1.0):
        return round(trials * share)
    return max(0, round(dice.gauss(trials * share, math.sqrt(trials * share * (1 - share)))))
