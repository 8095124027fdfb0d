"""The overhead budget: a sampler that keeps tracing within a share of the program's CPU time.

Owns: the account of what tracing costs, the rates that follow from it, errors and slow requests that are kept beyond the rate.
Must not know: queues, encodings, headers; where counts come from (``read`` gives them).
Invariants: a root of the program reads the account once a second (one in sixteen looks at the clock), no thread is needed; a
rate lies in [0, 1]; memory is bounded by ``MAX_OPERATIONS``; nothing here raises for what a program does.

How the cost is known: what the reporting thread takes is read from its own CPU clock. What spans cost on the program's threads
is their number times a price (``Prices``), which was measured from outside (benchmarks/budget.toml) and is scaled by how long
this machine takes for a span. The program's CPU time is the process's clock. A few clock readings a second are all that costs.

How the rates follow: spans that are not kept are paid first, for no rate changes what they cost. What is left of the share goes
to watching requests whose trace is not kept, up to half of it, and to keeping traces. What was spent too much or too little in
the past is made good over some seconds.
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic_ns

from autoinstr.model import SAMPLED, Kind, Status
from autoinstr.sampling import LeakyBucket, describe_sampler
from autoinstr.trace import Span, Tracer, UnsampledSpan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.model import Facts, SpanContext

PERIOD_NS = 1_000_000_000
FIRST_PERIOD_NS = 50_000_000
#: Roots that look at the clock: those whose id has these bits clear.
LOOK_MASK = 0xF
LOW_63_BITS = 0x7FFF_FFFF_FFFF_FFFF
#: What was spent too much or too little is made good over so many seconds. Remembered is at most the share of so many seconds
#: of CPU time: a debt is paid, but an idle hour saves nothing up for a burst.
HORIZON_S = 5.0
DEBT_CPU_S = 20.0
CREDIT_CPU_S = 0.5
#: How far a period's counts move the averages.
WEIGHT = 0.5
#: Of what is left for choosing, the most that goes to watching.
WATCHING = 0.5
#: Traces per second that are kept where the share is too small for any: who sees nothing takes the agent for broken.
LEAST_TRACES = 0.1
MAX_OPERATIONS = 1000
#: Unusual is a duration of more than so many times the 99th percentile of its operation, once so many were seen.
UNUSUAL, QUANTILE, STEP, ENOUGH = 1.5, 0.99, 0.1, 100


class Prices:
    """Seconds on the program's threads for a request that is kept, a span below it, a request that is not kept, or watched;
    for headers that are sent.
    """

    __slots__ = ("below_s", "injected_s", "kept_s", "unkept_s", "watched_s")

    def __init__(self, kept_s: float, below_s: float, unkept_s: float, watched_s: float, injected_s: float) -> None:
        self.kept_s = kept_s
        self.below_s = below_s
        self.unkept_s = unkept_s
        self.watched_s = watched_s
        self.injected_s = injected_s

    def times(self, factor: float) -> Prices:
        """On a machine that takes so many times as long."""
        names = ("kept_s", "below_s", "unkept_s", "watched_s", "injected_s")
        return Prices(*(getattr(self, name) * factor for name in names))


#: On the machine of benchmarks/results/budget, where a cycle of `cost.tracer_cost_s` takes `CYCLE_S`.
CYCLE_S = 0.83e-6
PRICES = Prices(kept_s=18e-6, below_s=5e-6, unkept_s=12e-6, watched_s=17e-6, injected_s=36e-6)


class Reading:
    """Since the process began: CPU seconds of process and reporting thread; traces that are kept and spans below their first
    ones, traces that are not, or watched; headers; roots that a sampler decided.
    """

    __slots__ = ("below", "cpu_s", "injected", "kept", "reporting_s", "roots", "roots_kept", "unkept", "watched")

    def __init__(
        self,
        cpu_s: float = 0.0,
        reporting_s: float = 0.0,
        kept: int = 0,
        below: int = 0,
        unkept: int = 0,
        watched: int = 0,
        injected: int = 0,
        roots: int = 0,
        roots_kept: int = 0,
    ) -> None:
        self.cpu_s = cpu_s
        self.reporting_s = reporting_s
        self.kept = kept
        self.below = below
        self.unkept = unkept
        self.watched = watched
        self.injected = injected
        self.roots = roots
        self.roots_kept = roots_kept

    def since(self, earlier: Reading) -> Reading:
        """What has come since another one; a clock or count that went back (a fork) gives 0."""
        return Reading(*(max(getattr(self, name) - getattr(earlier, name), 0) for name in ORDER))


ORDER = ("cpu_s", "reporting_s", "kept", "below", "unkept", "watched", "injected", "roots", "roots_kept")


class BudgetSampler:
    """Keeps as many traces as ``share`` (of the process's CPU time) pays for. ``ValueError`` unless 0 < share <= 1.

    ``spent_s`` and ``share_spent`` say what tracing has taken so far.
    """

    by_name = False
    ignores_parent = False

    def __init__(self, share: float, read: Callable[[], Reading], clock_ns: Callable[[], int] = monotonic_ns) -> None:
        if not 0 < share <= 1:
            text = "an overhead budget is a share of the program's CPU time, above 0 and at most 1"
            raise ValueError(f"{text}, not {share!r:.60}")
        self.share = share
        self.prices = PRICES
        self._read = read
        self._clock_ns = clock_ns
        self._slowness = Slowness()
        self._exceptions = LeakyBucket(1.0, clock_ns)
        self.renew(Reading())

    def renew(self, now: Reading) -> None:
        """Begin anew, in a forked child too: with what the process has used so far as its credit."""
        self._lock = allocate_lock()
        self._last = now
        self._due_ns = self._clock_ns() + FIRST_PERIOD_NS
        self._looked_ns = self._clock_ns()
        self._balance_s = self.share * min(now.cpu_s, CREDIT_CPU_S)
        self._roots_per_s = self._cpu_per_s = self._unkept_per_s = self._trace_s = 0.0
        self.spent_s = self.cpu_s = 0.0
        self._set_rates(1.0, 0.0)

    def _set_rates(self, kept: float, watched: float) -> None:
        self.rate, self.watched_rate = kept, watched
        self._facts: Facts = (describe_budget, round(kept, 6), round(self.share_spent, 5))
        self._boundary = int(2.0**63 * kept)
        self._watched_boundary = int(2.0**63 * min(kept + watched, 1.0))

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        if not trace_id & LOOK_MASK:
            self._look()
        return self._facts if trace_id & LOW_63_BITS <= self._boundary else None

    def is_watched(self, trace_id: int) -> bool:
        """Whether a trace that is not kept is to be looked at when it ends."""
        return trace_id & LOW_63_BITS <= self._watched_boundary

    def reason(self, span: Span) -> str:
        """Why a watched root is kept after all: "error", "slow", or "" where it is not."""
        is_slow = self._slowness.is_unusual(span.name, span.end_ns - span.start_ns)
        reason = "error" if span.status == Status.ERROR else "slow" if is_slow else ""
        return reason if reason and self._exceptions.take() else ""

    # ---- The account ---------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._clock_ns() >= self._due_ns and self._lock.acquire(blocking=False):
            try:
                self._adjust()
            finally:
                self._lock.release()

    def _adjust(self) -> None:
        now_ns, now = self._clock_ns(), self._read()
        took_s = max(now_ns - self._looked_ns, 1) / 1e9
        past = now.since(self._last)
        self._looked_ns, self._last, self._due_ns = now_ns, now, now_ns + PERIOD_NS
        prices = self.prices
        # Headers are sent whether a trace is kept or not.
        unkept_s = past.unkept * prices.unkept_s + past.injected * prices.injected_s
        keeping_s = past.kept * prices.kept_s + past.below * prices.below_s + past.reporting_s
        spent_s = unkept_s + keeping_s + past.watched * prices.watched_s
        self.spent_s += spent_s
        self.cpu_s += past.cpu_s
        balance_s = self._balance_s + self.share * past.cpu_s - spent_s
        self._balance_s = min(max(balance_s, -self.share * DEBT_CPU_S), self.share * CREDIT_CPU_S)
        self._roots_per_s = _moved(self._roots_per_s, past.roots / took_s)
        self._cpu_per_s = _moved(self._cpu_per_s, past.cpu_s / took_s)
        self._unkept_per_s = _moved(self._unkept_per_s, unkept_s / took_s)
        if past.roots_kept:
            self._trace_s = _moved(self._trace_s, keeping_s / past.roots_kept)
        self._choose()

    def _choose(self) -> None:
        """The rates for the next period."""
        left_s = self.share * self._cpu_per_s - self._unkept_per_s + self._balance_s / HORIZON_S
        roots = max(self._roots_per_s, 1e-3)
        trace_s = self._trace_s or self.prices.kept_s
        least = min(LEAST_TRACES / roots, 1.0)
        if left_s >= trace_s * roots:
            self._set_rates(1.0, 0.0)
            return
        watched_s = self.prices.watched_s
        watched = min(max(left_s * WATCHING / (watched_s * roots), 0.0), 1.0)
        kept = (left_s - watched * watched_s * roots) / (trace_s * roots)
        self._set_rates(min(max(kept, least), 1.0), watched)
        self._exceptions.update(max(left_s * (1 - WATCHING) / trace_s, LEAST_TRACES))

    @property
    def share_spent(self) -> float:
        """What tracing has taken so far, as a share of the process's CPU time."""
        return self.spent_s / self.cpu_s if self.cpu_s else 0.0

    def counts(self) -> dict[str, int]:
        """For the client's metrics: CPU time in microseconds, whose rates give the share at any time."""
        self._look()  # Where callers decide about all traces, no root of the program has looked.
        return {
            'cpu_microseconds{of="process"}': int(self.cpu_s * 1e6),
            'cpu_microseconds{of="tracing"}': int(self.spent_s * 1e6),
        }

    def __repr__(self) -> str:
        return f"BudgetSampler({self.share})"


class Slowness:
    """What is unusually slow, for each operation: its 99th percentile by stochastic approximation, a number per name.

    Source: Ma, Muthukrishnan, Sandler, "Frugal Streaming for Estimating Quantiles", 2013; steps are a share of it here.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def is_unusual(self, name: str, duration_ns: int) -> bool:
        """Whether it is, by what was seen before it; remembers it."""
        seen = self._seen
        if name not in seen and len(seen) >= MAX_OPERATIONS:
            name = ""
        estimate, count = seen.get(name, (0.0, 0))
        if count < ENOUGH:
            seen[name] = (max(estimate, float(duration_ns)), count + 1)
            return False
        move = STEP * QUANTILE if duration_ns > estimate else -STEP * (1 - QUANTILE)
        seen[name] = (max(estimate * (1 + move), 1.0), count)
        return duration_ns > estimate * UNUSUAL


def describe_budget(rate: float, spent: float) -> dict[str, str | bool | float]:
    """How a root came to be kept, and what share of the CPU time tracing has taken in this process until then."""
    return {**describe_sampler("budget", rate), "sampler.spent": spent}


class WatchedSpan(Span):
    """The root of a trace that is not kept, which is kept alone if it fails or takes unusually long.

    It records; what is below it does not, and what is called is told that the trace is not kept.
    """

    __slots__ = ()

    def end(self, end_ns: int = 0) -> None:
        """Finish, and hand it on if there is a reason."""
        if self.end_ns:
            return
        self.end_ns = end_ns or self.now_ns()
        tracer = self.tracer
        sampler = tracer.sampler
        reason = sampler.reason(self) if isinstance(sampler, BudgetSampler) else ""
        if not reason:
            tracer.finished_unsampled += 1
            return
        tracer.roots_unsampled -= 1
        tracer.roots_sampled += 1
        self.flags |= SAMPLED
        self.facts = (*self.facts, (describe_exception_to_rate, reason))
        tracer.sink.report(self)


def describe_exception_to_rate(reason: str) -> dict[str, str | bool | float]:
    """Such a span stands for itself alone, so that nobody multiplies it by a rate."""
    return {**describe_sampler("budget", 1.0), "sampler.reason": reason}


def watching(kind: type[Tracer]) -> type[Tracer]:
    """A kind of tracer that watches roots which its ``BudgetSampler`` has not kept."""

    class WatchingTracer(kind):  # type: ignore[misc, valid-type]
        __slots__ = ("watched",)

        def start_local_root(
            self, name: str, kind: int, parent: SpanContext | None, scope: str, late: bool  # noqa: FBT001
        ) -> Span:
            span: Span = super().start_local_root(name, kind, parent, scope, late)
            if parent is None and span.__class__ is UnsampledSpan and kind in (Kind.SERVER, Kind.CONSUMER):
                sampler = self.sampler
                if sampler.is_watched(span.trace_id):
                    span._start_clock()
                    span.__class__ = WatchedSpan  # type: ignore[assignment]
                    self.watched = getattr(self, "watched", 0) + 1
            return span

    return WatchingTracer


def _moved(average: float, value: float) -> float:
    """An average that follows; the first value is taken as it is."""
    return average + WEIGHT * (value - average) if average else value
