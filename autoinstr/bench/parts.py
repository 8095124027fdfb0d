"""What the rooms of the harness hand to one another: variants, cells, planned runs, records of runs, results.

Owns: the vocabulary of a campaign (docs/bench.md), and how its records are written as JSON and read back.
Must not know: processes, sockets, files, statistics.
Invariants: frozen values; every number has its unit in its name (``_us`` microseconds, ``_s`` seconds, ``_bytes``); what a
run could not measure is None, never 0; reading ignores keys that it does not know, so that newer records can be read.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

#: Of the manifest and of the records; a reader refuses a greater major number.
SCHEMA_VERSION = "1.0"

# Exit codes of every subcommand.
PASSED, BROKEN, USAGE, INCONCLUSIVE, INVALID = range(5)

#: The program without any agent: what everything is compared with.
BASE = "none"
#: The same again, as a variant of its own (A/A): its difference from BASE is the harness's error.
AGAIN = "none#2"

SATURATION, RATE = "saturation", "rate"


class Refusal(Exception):
    """What was asked for cannot be done: ``str()`` names the cause and what to do; ``status`` is the exit code."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Sampling:
    """What a variant's sampler is set to do: ``type`` const, prob, rate (per second), remote, budget (share of the CPU time).

    None where there is none.
    """

    type: str
    param: float

    def expected_share(self) -> float | None:
        """The share of traces that is kept, where the setting says it."""
        return None if self.type in ("rate", "budget") else self.param


@dataclass(frozen=True)
class Variant:
    """A way to start the program.

    ``launcher`` are the words before the program, the first one a program of the environment ``environment`` ("" is the
    one that runs the harness). Words and values of ``variables`` may hold ``{http}`` (http://host:port of the sink),
    ``{udp_port}``, ``{http_port}``, ``{metrics_port}``.
    """

    #: As the user wrote it, and as reports show it: ``prob:0.1``, ``otel``, ``burn:50``.
    name: str
    #: none, off, autoinstr, otel, ddtrace, elastic, burn, command.
    kind: str
    launcher: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    sampling: Sampling | None = None
    #: Whether spans leave the process (a null reporter drops them, an agent that is off makes none).
    exports: bool = False
    #: Whether the process answers ``/metrics`` with the agent's own counters on ``{metrics_port}``.
    has_counters: bool = False
    #: Whether it belongs to the cost model: bare, and this agent with one exporter at different samplings.
    in_cost_model: bool = False


@dataclass(frozen=True)
class Cell:
    """One question: what do the variants cost here?

    ``concurrency`` is users in saturation mode and the most requests at once in rate mode, where ``load`` is the share of
    what the bare program can do at most (0 in saturation mode).
    """

    scenario: str
    framework: str
    mode: str
    concurrency: int
    load: float = 0.0

    def __str__(self) -> str:
        load = f" {self.load:.0%}" if self.mode == RATE else ""
        return f"{self.scenario} {self.framework} c{self.concurrency} {self.mode}{load}"


@dataclass(frozen=True)
class Planned:
    """One run of the plan; ``position`` counts from 0 within the block (first half 0..k, mirrored half k+1..2k+1)."""

    cell: Cell
    block: int
    position: int
    variant: str

    @property
    def key(self) -> str:
        """What a resumed campaign knows a finished run by."""
        return f"{self.cell}|{self.block}|{self.position}|{self.variant}"


@dataclass(frozen=True)
class Timing:
    """How long the parts of a run take, in seconds; a window that is not steady is extended up to ``extensions`` times."""

    warm_up_s: float = 5.0
    warm_up_requests: int = 2000
    window_s: int = 8
    idle_s: float = 1.0
    extensions: int = 1
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 15.0


# What a run leaves behind.


@dataclass(frozen=True)
class Quantiles:
    """Of one duration over a window, in microseconds; ``histogram`` is HdrHistogram V2, base64 (1 µs to 60 s, 3 digits)."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    histogram: str = ""


@dataclass(frozen=True)
class LoadFigures:
    """What the generator saw in the window.

    In rate mode ``response`` counts from when a request was due, ``service`` from when it was sent, ``lag`` is between.
    In saturation mode nothing is due: ``response`` is ``service``, ``lag`` is None.
    """

    seconds: float
    requests: int
    errors: int
    late: int
    per_second: float
    target_per_second: float | None
    response: Quantiles
    service: Quantiles
    lag: Quantiles | None
    #: Per second of the window: (requests, median of the service time in µs).
    slots: tuple[tuple[int, float], ...] = ()
    #: Due but never sent, at the end.
    unsent: int = 0
    #: Of the whole run, warm-up included: what the accounting of spans goes by.
    all_requests: int = 0
    all_errors: int = 0


@dataclass(frozen=True)
class ServerFigures:
    """What the server's processes used in the window."""

    cpu_us: float
    #: CPU of the same processes without load, per second, before the window's share is taken off.
    idle_cpu_us_per_s: float
    #: (cpu_us - idle share) / requests: the primary figure.
    cpu_us_per_request: float
    #: What the program itself counted over the whole run (sample applications do), None where it does not say.
    requests: int | None
    rss_bytes_start: int | None = None
    rss_bytes_end: int | None = None
    pss_bytes_end: int | None = None
    switches: int | None = None
    processes: int = 1
    threads: int | None = None
    #: Per second of the window: (CPU in µs, pace in µs: what a fixed piece of work took there, None where it was not measured).
    seconds: tuple[tuple[float, float | None], ...] = ()


@dataclass(frozen=True)
class SpanFigures:
    """The accounting of spans over the whole run. What an agent does not tell is None."""

    started: int | None = None
    finished: int | None = None
    traces_sampled: int | None = None
    dropped: int | None = None
    failed: int | None = None
    exported: int | None = None
    left: int | None = None
    #: What the sink got and decoded.
    received: int = 0
    received_traces: int = 0
    batches: int = 0
    bytes: int = 0
    #: Datagrams that the kernel threw away before the sink read them.
    datagrams_lost: int | None = 0
    #: Payloads that the sink could not read, and spans' payloads that it had to read in the window for want of memory.
    undecodable: int = 0
    read_early: int = 0
    #: Requests whose trace this is about: load, warm-up and probes.
    requests: int = 0


@dataclass(frozen=True)
class GeneratorFigures:
    """CPU of the generator and of the sink in the window, as a share of one core for each process."""

    cpu_share: float
    sink_cpu_share: float = 0.0
    processes: int = 1


@dataclass(frozen=True)
class NoiseFigures:
    """What else went on in the window: shares of time (0..1), None where the system does not say."""

    #: Taken by the hypervisor.
    steal: float | None = None
    #: Pressure: share of time in which a runnable task waited for a CPU, over the server's own waiting.
    psi: float | None = None
    #: CPU of processes that are not ours, in cores.
    other_cores: float | None = None
    load_average: float | None = None
    throttled: int | None = None


@dataclass(frozen=True)
class Fault:
    """A reason why a run cannot be used, and for which figures: cpu, latency, throughput, spans, or all."""

    scope: str
    text: str


@dataclass(frozen=True)
class Run:
    """One line of ``runs.jsonl``.

    ``status`` is ok, unsteady (kept and shown), invalid (faults of scope ``all`` or of single figures) or failed (the
    program did not come up or died; everything measured is None then).
    """

    planned: Planned
    status: str
    started_at: str
    seconds: float
    faults: tuple[Fault, ...] = ()
    load: LoadFigures | None = None
    server: ServerFigures | None = None
    spans: SpanFigures | None = None
    generator: GeneratorFigures | None = None
    noise: NoiseFigures | None = None
    #: How often this position had been tried before (runs invalid by the rules are repeated, at most twice).
    attempt: int = 0
    extensions: int = 0
    #: Of the remote sampler, as the sink served it.
    strategy: str = ""

    def usable(self, scope: str) -> bool:
        """Whether the figures of this kind may go into an estimate."""
        return self.status in ("ok", "unsteady", "invalid") and not any(
            fault.scope in ("all", scope) for fault in self.faults
        )


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``: everything about a campaign but its runs."""

    id: str
    created_at: str
    seed: int
    argv: tuple[str, ...]
    blocks: int
    timing: Timing
    variants: tuple[Variant, ...]
    cells: tuple[Cell, ...]
    #: See ``machine.machine``.
    machine: Mapping[str, Any]
    #: Environment -> package -> version.
    versions: Mapping[str, Mapping[str, str]]
    #: Cell of the bare program at saturation -> requests per second; "generator" -> its ceiling.
    calibration: Mapping[str, float] = field(default_factory=dict)
    #: The user's own program, where it is not a scenario's: command and URL.
    program: str = ""
    url: str = ""
    #: The user's own locustfile, where there is one.
    locustfile: str = ""
    #: Of the generator on this host.
    processes: int = 1
    #: Generators on other hosts, and the address (HOST:PORT) where they find this one; none where 0.
    workers: int = 0
    master: str = ""
    server_cpus: tuple[int, ...] = ()
    generator_cpus: tuple[int, ...] = ()
    is_smoke: bool = False
    schema_version: str = SCHEMA_VERSION


@dataclass(frozen=True)
class Campaign:
    """What ``store`` reads back: the manifest and all attempts, in the order in which they ran."""

    manifest: Manifest
    runs: tuple[Run, ...]
    #: What a start of a program costs more: title of the program -> differences. Measured apart, by ``startup --add-to``.
    start_up: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)

    def latest(self) -> tuple[Run, ...]:
        """The last attempt at each planned run."""
        return tuple({run.planned.key: run for run in self.runs}.values())


# What the analysis makes of it (pure; ``analysis.analyse``), and reports, gates and comparisons read.


@dataclass(frozen=True)
class Estimate:
    """A mean of block differences with its confidence interval (95 %, unless said otherwise)."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


@dataclass(frozen=True)
class Difference:
    """One variant against bare in one cell, for one metric.

    Metrics: ``cpu_us`` (per request), ``p50_us``, ``p90_us``, ``p99_us`` and ``p999_us`` (response time), ``throughput``
    (requests per second), ``rss_bytes``; of a start ``ms`` and ``cpu_ms``. ``absolute`` is in the unit of the metric,
    ``percent`` by log-ratio.
    """

    variant: str
    metric: str
    blocks: int
    base: float
    value: float
    absolute: Estimate | None
    percent: Estimate | None
    #: Sign-flip permutation test, two-sided; ``p_holm`` adjusted over the variants of the cell. None of so few blocks that no
    #: values at all could give 0.05.
    p: float | None
    p_holm: float | None
    #: Whether equivalence (TOST) within ``delta_percent`` or ``delta_us`` is shown; None where not asked.
    is_equivalent: bool | None
    #: Blocks that would be needed for a half-width of 1 % (of bare).
    blocks_for_one_percent: int | None
    #: The block differences (absolute), in the order in which the blocks ran.
    series: tuple[float, ...] = ()
    #: ``absolute`` as measured, before the figures were brought to the usual pace; None where they were not.
    as_measured: Estimate | None = None


@dataclass(frozen=True)
class Pace:
    """How the speed of the server's CPUs changed from run to run in one cell, and what was made of it.

    Figures are stated at the usual pace: each run's is multiplied by ``(usual / its pace) ** elasticity``.
    """

    #: What the fixed piece of work took, in µs of CPU: usually (an average of the runs), in the fastest and in the slowest run.
    usual_us: float
    fastest_us: float
    slowest_us: float
    #: By metric: percent of change for each percent that the work took longer, by least squares within the variants.
    elasticity: Mapping[str, float]
    #: Standard deviation of CPU per request from run to run of a variant, in percent: as measured, and at the usual pace.
    scatter_percent: float
    left_percent: float


@dataclass(frozen=True)
class CostModel:
    """``cpu_us = base_us + fixed_us * [hooks active] + per_span_us * sampled spans per request``."""

    base_us: Estimate
    fixed_us: Estimate
    per_span_us: Estimate
    r_squared: float
    #: Spans that a sampled request makes.
    spans_per_request: float
    #: (variant, achieved sampled spans per request, added µs measured).
    points: tuple[tuple[str, float, float], ...]
    #: (sampled share, predicted added µs per request).
    predictions: tuple[tuple[float, Estimate], ...]


@dataclass(frozen=True)
class Account:
    """The spans of one variant in one cell, summed over its runs."""

    variant: str
    runs: int
    requests: int
    started: int | None
    sampled_share: float | None
    expected_share: float | None
    dropped: int | None
    failed: int | None
    exported: int | None
    left: int | None
    received: int
    bytes_per_span: float | None
    spans_per_sampled_request: float | None
    #: Nothing, or what does not add up.
    trouble: str = ""


@dataclass(frozen=True)
class Curve:
    """Latency percentiles of one variant in one cell, merged over its runs: (percentile 0..100, µs)."""

    variant: str
    response: tuple[tuple[float, float], ...]
    service: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CellResult:
    """Everything that a cell shows."""

    cell: Cell
    differences: tuple[Difference, ...]
    model: CostModel | None
    accounts: tuple[Account, ...]
    curves: tuple[Curve, ...]
    #: Variant -> requests per second, with the interval over blocks.
    throughput: Mapping[str, Estimate]
    #: Share of a core that the bare server used (utilisation), over its runs.
    utilisation: float | None
    #: (sequence number of the run, variant, cpu_us_per_request, status), in the order in which they ran.
    sequence: tuple[tuple[int, str, float, str], ...]
    #: Variant -> (seconds since its start, resident bytes) at start and end of each run.
    memory: Mapping[str, tuple[tuple[float, float], ...]]
    #: A/A: the difference of bare from bare, and whether it excludes 0 for the primary metric.
    again: Difference | None
    is_noisy: bool
    #: None where the pace was not measured, or in too few runs.
    pace: Pace | None = None
    #: Why there is no statement here, where there is none.
    trouble: tuple[str, ...] = ()

    @property
    def is_too_noisy(self) -> bool:
        """Noisy, and not shown to differ by too little to matter: one quiet cell in twenty is noisy by chance."""
        return self.is_noisy and not (self.again and self.again.is_equivalent)

    def difference(self, variant: str, metric: str = "cpu_us") -> Difference | None:
        return next((d for d in self.differences if d.variant == variant and d.metric == metric), None)


@dataclass(frozen=True)
class Results:
    """What a campaign has shown."""

    manifest: Manifest
    cells: tuple[CellResult, ...]
    #: Runs that were thrown out or repeated, with why.
    excluded: tuple[Run, ...]
    #: One sentence: what holds, or why nothing can be said.
    verdict: str
    #: PASSED, INCONCLUSIVE (too few blocks) or INVALID (accounting, saturated generator, noise).
    status: int
    runs: int
    start_up: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Dataclasses as objects, tuples as arrays; the rest is JSON already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: to_json(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    return value


def from_json(kind: type[T], value: Any) -> T:
    """The inverse of ``to_json``. Raises ValueError that names what is missing or of the wrong type."""
    built: T = _build(kind, value, kind.__name__)
    return built


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: not an object")
        hints = typing.get_type_hints(kind)
        known = {}
        for one in dataclasses.fields(kind):
            if one.name in value:
                known[one.name] = _build(hints[one.name], value[one.name], f"{where}.{one.name}")
            elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                raise ValueError(f"{where}: {one.name} is missing")
        return kind(**known)  # type: ignore[operator]
    return _build_plain(kind, value, where)


def _build_plain(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(one for one in arguments if one is not types.NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: not an array")
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"{where}: {len(value)} values instead of {len(kinds)}")
        return tuple(_build(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: not an object")
        return {key: _build(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: {value!r} is not {kind.__name__}")
    return value
