"""What a campaign has shown: its runs become differences from bare with intervals, a cost model, accounts and one sentence.

Owns: which runs go into which estimate, what is stated and what is withheld, the verdict.
Must not know: how runs were made, files, how results are shown.
Invariants: pure (the seed of a permutation is the campaign's); a block counts for a metric only where both mirrored runs of the
variant and of bare are usable for it; nothing is stated of fewer than ``FEWEST_BLOCKS`` blocks; where bare differs from
bare by more than counts, or spans were lost, the verdict says that first. "No difference" is said only where equivalence is shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from autoinstr.bench import durations, stats, validity
from autoinstr.bench.parts import (
    AGAIN,
    BASE,
    INCONCLUSIVE,
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
    Manifest,
    Pace,
    Results,
    Run,
    SpanFigures,
    Variant,
)

PRIMARY = "cpu_us"
#: The coverage of the intervals was simulated from here on (tests/bench/test_stats.py); of fewer, figures are shown and not stated.
FEWEST_BLOCKS = 4
#: A quantile with fewer requests beyond it is the maximum by another name.
TAIL_REQUESTS = 10
#: Where a curve of percentiles is drawn.
PERCENTILES = (
    0.0, 10.0, 25.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.5, 98.0, 99.0, 99.5, 99.75, 99.9, 99.95, 99.975,
    99.99, 99.995, 99.999,
)  # fmt: skip
#: A straight line goes through any two points.
FEWEST_FOR_A_MODEL = 3


@dataclass(frozen=True)
class Metric:
    """A figure of a run: which kind of faults spoil it, and how it is read (None where it was not measured)."""

    name: str
    scope: str
    read: Callable[[Run], float | None]
    is_duration: bool = False
    #: Whether the pace of the CPUs is in it.
    is_paced: bool = True
    modes: tuple[str, ...] = (SATURATION, RATE)

    def of(self, run: Run) -> float | None:
        """The run's figure; None where the rules spoil it."""
        return self.read(run) if run.usable(self.scope) else None


def _cpu_us(run: Run) -> float | None:
    return run.server.cpu_us_per_request if run.server else None


def _rss_bytes(run: Run) -> float | None:
    return run.server.rss_bytes_end if run.server else None


def _per_second(run: Run) -> float | None:
    return run.load.per_second if run.load else None


def _quantile(name: str, beyond: float) -> Metric:
    """The response time that a share ``beyond`` of the requests exceeds."""

    def read(run: Run) -> float | None:
        if run.load is None or run.load.requests * beyond < TAIL_REQUESTS * (1 - 1e-9):
            return None
        found: float = getattr(run.load.response, name)
        return found

    return Metric(f"{name}_us", "latency", read, is_duration=True)


METRICS = (
    Metric(PRIMARY, "cpu", _cpu_us, is_duration=True),
    _quantile("p50", 0.5),
    _quantile("p90", 0.1),
    _quantile("p99", 0.01),
    _quantile("p999", 0.001),
    Metric("throughput", "throughput", _per_second, modes=(SATURATION,)),
    Metric("rss_bytes", "memory", _rss_bytes, is_paced=False),
)


@dataclass(frozen=True)
class Question:
    """What the analysis is asked: the campaign, and which differences count as none."""

    manifest: Manifest
    delta_percent: float
    delta_us: float


@dataclass(frozen=True)
class Answer:
    """What a cell shows, and how far that goes: why nothing of it can be relied on, what it leaves open ("" for nothing)."""

    result: CellResult
    invalid: str
    open: str


def analyse(campaign: Campaign, delta_percent: float = 1.0, delta_us: float = 2.0) -> Results:
    """Everything that reports, gates and comparisons read. Differences within ``delta_percent`` of bare, or ``delta_us``
    for durations, count as none where equivalence is asked (0 asks nothing). Never raises for what runs lack: that is in
    ``trouble``.
    """
    question = Question(campaign.manifest, delta_percent, delta_us)
    latest = campaign.latest()
    answers = [
        _answer(question, cell, _Runs([run for run in latest if run.planned.cell == cell]), _sequence(campaign, cell))
        for cell in campaign.manifest.cells
    ]
    kept = {id(run) for run in latest if run.status in ("ok", "unsteady")}
    status, verdict = _verdict(question, answers)
    return Results(
        manifest=campaign.manifest,
        cells=tuple(answer.result for answer in answers),
        excluded=tuple(run for run in campaign.runs if id(run) not in kept),
        verdict=verdict,
        status=status,
        runs=len(campaign.runs),
        start_up=campaign.start_up,
    )


# One cell.


class _Runs:
    """The runs of one cell, by variant and block, and their figures at the cell's usual pace.

    The pace is a control variate: it shows what the machine did to a run, and the variant has no part in it. What it explains of
    the scatter within the variants is taken out (analysis of covariance; for experiments on live systems: Deng et al. 2013).
    The usual pace is the one at which the factors of all runs are 1 on the average: what costs the same at every pace keeps its cost.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.all = runs
        self._paces = {id(run): math.log(pace) for run in runs if (pace := _pace_us(run))}
        self._controls: dict[str, tuple[float, float]] = {}
        self._by_place: dict[tuple[str, int], list[Run]] = {}
        #: In the order in which the blocks ran.
        self.blocks = list(dict.fromkeys(run.planned.block for run in runs))
        for run in runs:
            self._by_place.setdefault((run.planned.variant, run.planned.block), []).append(run)

    def of(self, variant: str) -> list[Run]:
        return [run for run in self.all if run.planned.variant == variant]

    def pair(self, variant: str, block: int) -> list[Run]:
        """The two mirrored runs, or fewer."""
        return self._by_place.get((variant, block), [])

    def values(
        self, metric: Metric, variant: str, block: int, *, as_measured: bool = False
    ) -> tuple[float, float] | None:
        """The metric of both mirrored runs; None where either is missing or spoiled."""
        found = [metric.of(run) if as_measured else self.value(metric, run) for run in self.pair(variant, block)]
        if len(found) != 2 or found[0] is None or found[1] is None:
            return None
        return found[0], found[1]

    def complete(
        self, metric: Metric, variant: str, *, as_measured: bool = False
    ) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """The variant's and bare's mirrored runs, of each block in which all four are usable."""
        pairs = [
            (
                self.values(metric, variant, block, as_measured=as_measured),
                self.values(metric, BASE, block, as_measured=as_measured),
            )
            for block in self.blocks
        ]
        return [(mine, bare) for mine, bare in pairs if mine and bare]

    def value(self, metric: Metric, run: Run) -> float | None:
        """The metric of a run at the usual pace."""
        measured = metric.of(run)
        if measured is None or id(run) not in self._paces:
            return measured
        elasticity, usual = self._control(metric)
        return measured * math.exp(elasticity * (usual - self._paces[id(run)]))

    def elasticity(self, metric: Metric) -> float:
        """0 where the pace says nothing of the metric, or was measured too seldom; all runs of the cell have it, or none is used."""
        return self._control(metric)[0]

    def _control(self, metric: Metric) -> tuple[float, float]:
        """The elasticity, and the logarithm of the usual pace."""
        if metric.name not in self._controls:
            points = self._points(metric)
            is_known = metric.is_paced and all(id(run) in self._paces for run in self.all if metric.of(run) is not None)
            slope = stats.pooled_slope(points) if is_known else None
            paces = [x for group in points for x, _ in group]
            usual = -math.log(fmean(math.exp(-slope * x) for x in paces)) / slope if slope else 0.0
            self._controls[metric.name] = (slope or 0.0, usual)
        return self._controls[metric.name]

    def _points(self, metric: Metric) -> list[list[tuple[float, float]]]:
        """By variant: logarithms of the pace and of the metric of its runs."""
        found: dict[str, list[tuple[float, float]]] = {}
        for run in self.all:
            measured = metric.of(run)
            if measured is not None and measured > 0 and id(run) in self._paces:
                # Bare and bare again are the same program.
                name = BASE if run.planned.variant == AGAIN else run.planned.variant
                found.setdefault(name, []).append((self._paces[id(run)], math.log(measured)))
        return list(found.values())

    def pace(self) -> Pace | None:
        """What the pace was, and what was made of it."""
        groups = self._points(METRICS[0])
        elasticity, usual = self._control(METRICS[0])
        before = stats.scatter_within([[y for _, y in group] for group in groups])
        after = stats.scatter_within([[y - elasticity * x for x, y in group] for group in groups])
        if before is None or after is None or not elasticity:
            return None
        return Pace(
            usual_us=math.exp(usual),
            fastest_us=math.exp(min(self._paces.values())),
            slowest_us=math.exp(max(self._paces.values())),
            elasticity={metric.name: self.elasticity(metric) for metric in METRICS if metric.is_paced},
            scatter_percent=100 * before,
            left_percent=100 * after,
        )


def _pace_us(run: Run) -> float | None:
    seconds = run.server.seconds if run.server else ()
    known = [pace_us for _, pace_us in seconds if pace_us is not None]
    return fmean(known) if known and len(known) == len(seconds) else None


def _answer(question: Question, cell: Cell, runs: _Runs, sequence: tuple[tuple[int, str, float, str], ...]) -> Answer:
    metrics = [metric for metric in METRICS if cell.mode in metric.modes]
    others = [one.name for one in question.manifest.variants if one.name != BASE]
    differences = tuple(one for metric in metrics for one in _differences(question, runs, metric, others))
    again = next((one for one in differences if one.variant == AGAIN and one.metric == PRIMARY), None)
    model, model_trouble = _model(question.manifest, runs)
    result = CellResult(
        cell=cell,
        differences=differences,
        model=model,
        accounts=tuple(_account(one, runs.of(one.name)) for one in question.manifest.variants if runs.of(one.name)),
        curves=tuple(curve for one in (BASE, *others) for curve in _curve(one, runs.of(one))),
        throughput=_throughput(runs, (BASE, *others)) if cell.mode == SATURATION else {},
        utilisation=_utilisation(runs.of(BASE)),
        sequence=sequence,
        memory={one: found for one in (BASE, *others) if (found := _memory(runs.of(one)))},
        again=again,
        is_noisy=again is not None and again.absolute is not None and again.absolute.excludes(0),
        pace=runs.pace(),
    )
    result = replace(result, trouble=(*_trouble(result, runs, metrics), *model_trouble))
    return Answer(result, _invalid(question, result, runs, metrics), _open(result))


def _sequence(campaign: Campaign, cell: Cell) -> tuple[tuple[int, str, float, str], ...]:
    return tuple(
        (number, run.planned.variant, run.server.cpu_us_per_request, run.status)
        for number, run in enumerate(campaign.runs, start=1)
        if run.planned.cell == cell and run.server is not None
    )


def _throughput(runs: _Runs, variants: Iterable[str]) -> dict[str, Estimate]:
    metric = next(one for one in METRICS if one.name == "throughput")
    found = {}
    for variant in variants:
        pairs = [runs.values(metric, variant, block) for block in runs.blocks]
        means = [fmean(pair) for pair in pairs if pair]
        if len(means) >= 2:
            found[variant] = stats.t_interval(means)
    return found


def _utilisation(runs: Sequence[Run]) -> float | None:
    shares = [
        run.server.cpu_us / (run.load.seconds * 1e6)
        for run in runs
        if run.usable("cpu") and run.server and run.load and run.load.seconds
    ]
    return fmean(shares) if shares else None


def _memory(runs: Sequence[Run]) -> tuple[tuple[float, float], ...]:
    found: list[tuple[float, float]] = []
    for run in runs:
        if run.server and run.load and run.usable("memory"):
            if run.server.rss_bytes_start is not None:
                found.append((0.0, float(run.server.rss_bytes_start)))
            if run.server.rss_bytes_end is not None:
                found.append((run.load.seconds, float(run.server.rss_bytes_end)))
    return tuple(found)


def _curve(variant: str, runs: Sequence[Run]) -> list[Curve]:
    loads = [run.load for run in runs if run.load and run.usable("latency")]
    response = _percentiles(load.response.histogram for load in loads)
    service = _percentiles(load.service.histogram for load in loads)
    return [Curve(variant, response, service)] if response or service else []


def _percentiles(histograms: Iterable[str]) -> tuple[tuple[float, float], ...]:
    """As far up as there are requests beyond."""
    texts = [text for text in histograms if text]
    if not texts:
        return ()
    merged = durations.merged(texts)
    total = merged.get_total_count()
    shown = [one for one in PERCENTILES if (100 - one) / 100 * total >= 1]
    return tuple(zip(shown, durations.at(merged, shown), strict=True))


# Differences from bare.


def _differences(question: Question, runs: _Runs, metric: Metric, variants: Sequence[str]) -> list[Difference]:
    found = [_difference(question, runs, metric, variant) for variant in variants]
    # Bare against bare is the control, and no member of the family that is tested.
    tested = [index for index, one in enumerate(found) if one.p is not None and one.variant != AGAIN]
    adjusted = stats.holm([found[index].p or 0.0 for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        found[index] = replace(found[index], p_holm=p)
    return found


def _difference(question: Question, runs: _Runs, metric: Metric, variant: str) -> Difference:
    complete = runs.complete(metric, variant)
    blocks = [stats.mirrored_difference(mine, bare) for mine, bare in complete]
    series = [one.absolute for one in blocks]
    base = fmean(fmean(bare) for _, bare in complete) if complete else _level(runs, metric, BASE)
    value = fmean(fmean(mine) for mine, _ in complete) if complete else _level(runs, metric, variant)
    found = Difference(
        variant=variant,
        metric=metric.name,
        blocks=len(blocks),
        base=base,
        value=value,
        absolute=None,
        percent=None,
        p=None,
        p_holm=None,
        is_equivalent=None,
        blocks_for_one_percent=None,
        series=tuple(series),
    )
    if len(blocks) < 2:
        return found
    logs = [one.log for one in blocks if one.log is not None]
    has_logs = len(logs) == len(blocks)
    p = stats.sign_flip_p(series, question.manifest.seed) if len(series) >= stats.FEWEST_FOR_SIGNS else None
    return replace(
        found,
        absolute=stats.t_interval(series),
        as_measured=_as_measured(runs, metric, variant),
        percent=stats.log_ratio_interval(logs) if has_logs else None,
        p=p,
        p_holm=p,
        is_equivalent=_is_equivalent(question, metric, series, logs if has_logs else None),
        blocks_for_one_percent=stats.blocks_needed(series, 0.01 * base) if base > 0 else None,
    )


def _as_measured(runs: _Runs, metric: Metric, variant: str) -> Estimate | None:
    """The difference before the pace was taken out; None where it was not."""
    if not runs.elasticity(metric):
        return None
    pairs = runs.complete(metric, variant, as_measured=True)
    return stats.t_interval([stats.mirrored_difference(mine, bare).absolute for mine, bare in pairs])


def _level(runs: _Runs, metric: Metric, variant: str) -> float:
    """What there is without a complete block; 0 where there is nothing."""
    values = [value for run in runs.of(variant) if (value := runs.value(metric, run)) is not None]
    return fmean(values) if values else 0.0


def _is_equivalent(
    question: Question, metric: Metric, series: Sequence[float], logs: Sequence[float] | None
) -> bool | None:
    """Within either limit: one of them lies inside the other, so that the wider one decides and the level holds."""
    answers = []
    if question.delta_percent > 0 and logs is not None:
        answers.append(stats.tost_percent(logs, question.delta_percent))
    if question.delta_us > 0 and metric.is_duration:
        answers.append(stats.tost(series, question.delta_us))
    return any(answers) if answers else None


# The cost model.


def _model(manifest: Manifest, runs: _Runs) -> tuple[CostModel | None, tuple[str, ...]]:
    """The model, or why there is none although one was to be expected."""
    variants = [one for one in manifest.variants if one.in_cost_model and one.kind not in (BASE, "off")]
    if len(variants) < FEWEST_FOR_A_MODEL or not runs.all:
        return None, ()
    blocks, base_us = _model_blocks(runs, variants)
    if len(blocks) < 2:
        return None, (f"no cost model: fewer than 2 blocks have {FEWEST_FOR_A_MODEL} usable variants at different samplings",)
    figures = [run.spans for one in variants for run in runs.of(one.name) if run.spans and run.usable("cpu")]
    traces = sum(_traces(one) or 0 for one in figures)
    spans_per_request = sum(_spans(one) for one in figures) / traces if traces else 0.0
    try:
        return stats.cost_model(blocks, base_us, spans_per_request), ()
    except ValueError as error:
        return None, (f"no cost model: {error}",)


def _model_blocks(runs: _Runs, variants: Sequence[Variant]) -> tuple[list[list[stats.CostPoint]], list[float]]:
    """The points of each block that has enough of them, and what bare cost there."""
    metric = METRICS[0]
    blocks, base_us = [], []
    for block in runs.blocks:
        bare = runs.values(metric, BASE, block)
        if bare is None:
            continue
        points = [point for one in variants for point in _point(runs, metric, one.name, block, bare)]
        if len(points) >= FEWEST_FOR_A_MODEL and len({point.spans for point in points}) >= 2:
            blocks.append(points)
            base_us.append(fmean(bare))
    return blocks, base_us


def _point(runs: _Runs, metric: Metric, variant: str, block: int, bare: tuple[float, float]) -> list[stats.CostPoint]:
    """What the variant added, and the sampled spans per request that it achieved, which its setting only intends."""
    mine = runs.values(metric, variant, block)
    figures = [run.spans for run in runs.pair(variant, block)]
    requests = sum(one.requests for one in figures if one)
    if mine is None or None in figures or not requests:
        return []
    spans = sum(_spans(one) for one in figures if one) / requests
    return [stats.CostPoint(variant, spans, stats.mirrored_difference(mine, bare).absolute)]


def _spans(figures: SpanFigures) -> int:
    """Sampled spans that were made: by the agent's own count, by what arrived where it has none."""
    return figures.received if figures.finished is None else figures.finished


def _traces(figures: SpanFigures) -> int:
    return figures.received_traces if figures.traces_sampled is None else figures.traces_sampled


# Spans.


def _account(variant: Variant, runs: Sequence[Run]) -> Account:
    counted = [(run, run.spans) for run in runs if run.spans is not None]
    figures = [spans for _, spans in counted]
    requests, received = sum(one.requests for one in figures), sum(one.received for one in figures)
    has_traces = variant.exports or all(one.traces_sampled is not None for one in figures)
    traces = sum(map(_traces, figures))
    return Account(
        variant=variant.name,
        runs=len(counted),
        requests=requests,
        started=_sum(one.started for one in figures),
        sampled_share=traces / requests if requests and has_traces else None,
        expected_share=variant.sampling.expected_share() if variant.sampling else None,
        dropped=_sum(one.dropped for one in figures),
        failed=_sum(one.failed for one in figures),
        exported=_sum(one.exported for one in figures),
        left=_sum(one.left for one in figures),
        received=received,
        bytes_per_span=sum(one.bytes for one in figures) / received if received else None,
        spans_per_sampled_request=sum(map(_spans, figures)) / traces if traces else None,
        trouble=_accounting_trouble(variant, counted),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where any is unknown: a sum of the rest would be too small."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _accounting_trouble(variant: Variant, counted: Sequence[tuple[Run, SpanFigures]]) -> str:
    """The commonest first text of the runs, and in how many of them something was wrong."""
    texts = []
    for run, spans in counted:
        errors = run.load.all_errors if run.load else 0
        found = [*validity.unaccounted(variant, spans, run.seconds, errors), *validity.lost(variant, spans)]
        texts += found[:1]
    return f"{len(texts)} of {len(counted)} runs: {texts[0]}" if texts else ""


# What is not stated, and why.


def _trouble(result: CellResult, runs: _Runs, metrics: Sequence[Metric]) -> list[str]:
    if not runs.all:
        return ["no run of this cell was made"]
    found = _missing(result, runs, metrics)
    few = [one.blocks for one in result.differences if one.metric == PRIMARY and 2 <= one.blocks < FEWEST_BLOCKS]
    if few:
        found.append(f"only {min(few)} complete blocks: nothing is stated of fewer than {FEWEST_BLOCKS}")
    if result.again is None or result.again.absolute is None:
        found.append("bare was not measured against bare often enough: nobody knows how noisy this cell is")
    elif result.is_noisy:
        found.append(f"noisy: bare differs from bare by {_interval(result.again.absolute)} µs a request")
    return found + [f"{account.variant}: {account.trouble}" for account in result.accounts if account.trouble]


def _missing(result: CellResult, runs: _Runs, metrics: Sequence[Metric]) -> list[str]:
    """What has no statement, put together where the cause is the same but for its numbers: a sentence for each cause."""
    by_metric: dict[tuple[tuple[str, ...], str], tuple[str, list[str]]] = {}
    for metric in metrics:
        by_cause: dict[str, tuple[str, list[str]]] = {}
        for one in result.differences:
            if one.metric == metric.name and one.absolute is None:
                blocks = "no complete block" if not one.blocks else "only one complete block"
                cause = blocks + _cause(runs, metric, one.variant)
                by_cause.setdefault(without_numbers(cause), (cause, []))[1].append(one.variant)
        for kind, (cause, variants) in by_cause.items():
            by_metric.setdefault((tuple(variants), kind), (cause, []))[1].append(metric.name)
    return [
        f"{', '.join(names)} of {', '.join(variants)}: {cause}" for (variants, _), (cause, names) in by_metric.items()
    ]


def _cause(runs: _Runs, metric: Metric, variant: str) -> str:
    concerned = [*runs.of(variant), *runs.of(BASE)]
    spoiled = _spoiled(concerned, metric.scope)
    if spoiled:
        return f"; {len(spoiled)} of {len(concerned)} runs were spoiled, most often as here: {_commonest(spoiled)}"
    if all(metric.read(run) is not None for run in concerned):
        return ""
    if metric.scope == "latency":
        return f"; fewer than {TAIL_REQUESTS} requests of a run lie beyond this quantile: longer windows"
    return "; it was not measured"


def _spoiled(runs: Iterable[Run], scope: str) -> list[str]:
    """Of each run that is not usable, why."""
    found = []
    for run in runs:
        if not run.usable(scope):
            texts = [fault.text for fault in run.faults if fault.scope in ("all", scope)]
            found.append(texts[0] if texts else run.status)
    return found


def _commonest(texts: Sequence[str]) -> str:
    """Of the texts that are alike but for their numbers, the first of the largest group."""
    kinds = [without_numbers(text) for text in texts]
    (kind, _), *_ = Counter(kinds).most_common(1)
    return texts[kinds.index(kind)]


def without_numbers(text: str) -> str:
    """What texts of one rule have in common."""
    return "".join(character for character in text if character not in "0123456789.,")


def _invalid(question: Question, result: CellResult, runs: _Runs, metrics: Sequence[Metric]) -> str:
    """Why nothing that this cell shows can be relied on; nothing where it can."""
    again = result.again
    if result.is_too_noisy and again and again.absolute:
        return f"it is noisy (bare differs from bare by {_interval(again.absolute)} µs)"
    for one in question.manifest.variants:
        text = _loss(one, runs.of(one.name))
        if text:
            return text
    # A cell in rate mode is asked for latency; CPU is the primary figure of all.
    needed = {PRIMARY, "p50_us"} if result.cell.mode == RATE else {PRIMARY}
    for metric in metrics:
        if metric.name in needed:
            text = _too_much_spoiled(result, runs, metric)
            if text:
                return text
    return ""


def _loss(variant: Variant, runs: Sequence[Run]) -> str:
    """Whether the variant seems cheaper than it is: it gave spans up, or nobody knows."""
    figures = [run.spans for run in runs if run.spans and run.usable("cpu")]
    gone = sum((one.dropped or 0) + (one.failed or 0) for one in figures)
    made = sum(one.finished or 0 for one in figures)
    if made and gone > validity.MOST_LOST * made:
        return f"{variant.name} lost {100 * gone / made:.3g} % of its spans, so that it seems cheaper than it is"
    unread = [text for one in figures if one.finished is None for text in validity.lost(variant, one)]
    return unread[0] if unread else ""


def _too_much_spoiled(result: CellResult, runs: _Runs, metric: Metric) -> str:
    """Blocks that were run and cannot be used, so that too few are left."""
    begun = sum(len(runs.pair(BASE, block)) == 2 for block in runs.blocks)
    for one in result.differences:
        if one.metric == metric.name and one.blocks < min(FEWEST_BLOCKS, begun):
            spoiled = _spoiled([*runs.of(one.variant), *runs.of(BASE)], metric.scope)
            if spoiled:
                return f"only {one.blocks} of {begun} blocks are usable for {metric.name} of {one.variant} ({_commonest(spoiled)})"
    return ""


def _open(result: CellResult) -> str:
    """What this cell leaves open; nothing where every variant is told from bare, or shown to be like it."""
    primary = [one for one in result.differences if one.metric == PRIMARY]
    fewest = min((one.blocks for one in primary), default=0)
    if fewest < FEWEST_BLOCKS:
        return f"there are {fewest} complete blocks, of at least {FEWEST_BLOCKS}"
    if result.again is None:
        return "bare was not measured against bare"
    unclear = [one.variant for one in primary if one.variant != AGAIN and not _is_clear(one)]
    return f"{', '.join(unclear)} can neither be told from bare nor shown to be like it" if unclear else ""


def _is_clear(one: Difference) -> bool:
    return one.absolute is not None and (one.absolute.excludes(0) or bool(one.is_equivalent))


# The verdict.


def _verdict(question: Question, answers: Sequence[Answer]) -> tuple[int, str]:
    """The status, and one sentence: what holds, or why nothing can be said."""
    if not any(answer.result.sequence for answer in answers):
        return INVALID, "nothing was measured: no run came to its end"
    is_smoke = question.manifest.is_smoke
    invalid = [one for one in answers if one.invalid]
    unclear = [one for one in answers if one.open and not one.invalid]
    status = INVALID if invalid else INCONCLUSIVE if unclear or is_smoke else PASSED
    clear = [one for one in answers if not one.invalid and not one.open]
    telling = [one for one in unclear if _is_telling(question.manifest, one.result)]
    shown = (clear or telling or unclear or invalid or answers)[0]
    text = _headline(question, shown.result) + _again(shown.result)
    if shown.invalid:
        measured = _headliner(question.manifest, shown.result)
        text = f"no statement holds, for {shown.invalid}" + (f"; measured was: {text}" if measured and measured.absolute else "")
    elif shown.open and shown not in telling and not is_smoke:
        text = f"no clear statement yet, for {shown.open}: {text}"
    for kind, some in (("invalid", invalid), ("not clear yet", [] if is_smoke else unclear)):
        others = [one for one in some if one is not shown or one in telling]
        if others:
            why = others[0].invalid or others[0].open
            text += f"; {kind}: {len(some)} of {len(answers)} cells (as {others[0].result.cell}: {why})"
    return status, f"smoke, no inference: {text}" if is_smoke else text


def _is_telling(manifest: Manifest, cell: CellResult) -> bool:
    """Whether what a reader asks for first is clear, though other variants are not."""
    first = _headliner(manifest, cell)
    return first is not None and first.blocks >= FEWEST_BLOCKS and cell.again is not None and _is_clear(first)


def _headline(question: Question, cell: CellResult) -> str:
    one = _headliner(question.manifest, cell)
    where = f"in {cell.cell}"
    if one is None:
        return f"nothing but bare was measured {where}"
    if one.absolute is None:
        few = f" ({fmean(one.series):+.1f} µs a request in {one.blocks} block)" if one.series else ""
        return f"what {one.variant} costs is not known{few} {where}"
    figures = f"{_microseconds(one.absolute)}{_percentage(one.percent)} {where}"
    if one.absolute.excludes(0):
        return f"{one.variant} {'costs' if one.absolute.mean > 0 else 'saves'} {figures}"
    if one.is_equivalent:
        return f"{one.variant} costs no more than {question.delta_us:g} µs or {question.delta_percent:g} %: {figures}"
    blocks = f", about {one.blocks_for_one_percent} blocks tell to 1 %" if one.blocks_for_one_percent else ""
    return f"whether {one.variant} costs anything is open: {figures}{blocks}"


def _headliner(manifest: Manifest, cell: CellResult) -> Difference | None:
    """The variant that a reader asks for first: all traces kept, else the last of the cost model, else the last one."""
    names = [one.name for one in manifest.variants if one.name not in (BASE, AGAIN)]
    modelled = [one.name for one in manifest.variants if one.in_cost_model and one.name in names]
    for name in ("const:1", *reversed(modelled), *reversed(names)):
        found = cell.difference(name)
        if found is not None:
            return found
    return None


def _again(cell: CellResult) -> str:
    if cell.again is None or cell.again.absolute is None:
        return "; bare was not measured against bare"
    return f"; bare again differs by {_interval(cell.again.absolute)}{' (noisy)' if cell.is_noisy else ''}"


def _microseconds(estimate: Estimate) -> str:
    return f"{estimate.mean:+.1f} µs a request [{estimate.low:+.1f}, {estimate.high:+.1f}]"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}]"


def _percentage(estimate: Estimate | None) -> str:
    if estimate is None or not math.isfinite(estimate.mean):
        return ""
    return f" ({estimate.mean:+.1f} %)" if abs(estimate.mean) < 10 else f" ({estimate.mean:+.0f} %)"
