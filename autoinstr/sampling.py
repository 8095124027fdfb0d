"""Deciding which traces are kept: once per trace, at its root, from the trace id, the operation's name and a clock.

Owns: the samplers, their credit buckets, and the reading of a sampling strategy as Jaeger's backend sends it.
Must not know: spans, headers, threads, sockets; time comes from the clock that is passed in.
Invariants: a rate is a float in [0, 1]; the facts of a decision are made when a sampler is built or updated, never in
``decide``; memory is bounded by what a strategy lists plus ``max_operations``; ``decide`` never raises.

A tracer asks a sampler only for roots: with a valid parent the parent's decision stands. Samplers whose
``ignores_parent`` is true are to be asked for every span with a remote parent too (OpenTelemetry's names without the
``parentbased_`` prefix).
"""

from __future__ import annotations

from _thread import RLock
from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autoinstr.model import Facts, Sampler

#: What Jaeger's clients assume for an operation about which a strategy says nothing.
DEFAULT_RATE = 0.001
MAX_OPERATIONS = 2000

_PARTS = ("operationSampling", "probabilisticSampling", "rateLimitingSampling")
_LOW_63_BITS = 0x7FFF_FFFF_FFFF_FFFF

# One lock for all buckets: it is held for a few hundred nanoseconds, only by traces that need a credit, and a single one
# is easily renewed in a forked child. It is reentrant because a signal handler or a finaliser may start a trace
# while its own thread holds the lock.
_lock = RLock()


def renew_locks() -> None:
    """Replace the lock; to be called in a forked child, where its holder may not exist any more."""
    global _lock
    _lock = RLock()


def describe_sampler(kind: str, param: bool | float) -> dict[str, str | bool | float]:
    """Attributes by which Jaeger's adaptive sampling learns how a root span came to be kept."""
    return {"sampler.type": kind, "sampler.param": param}


def checked_rate(rate: object) -> float:
    """``rate`` as a probability; ``ValueError`` when it is no number in [0, 1]."""
    number = _number(rate, "a sampling rate")
    if number > 1:
        raise ValueError(f"a sampling rate must lie between 0 and 1, not {rate!r:.60}")
    return number


class ConstSampler:
    """Keeps every trace or none."""

    by_name = False

    def __init__(self, decision: bool, *, ignores_parent: bool = False) -> None:
        self.decision = bool(decision)
        self.ignores_parent = ignores_parent
        self._facts: Facts | None = (describe_sampler, "const", True) if decision else None

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        return self._facts

    def __repr__(self) -> str:
        return f"ConstSampler({self.decision})"


class ProbabilisticSampler:
    """Keeps a trace when the low 63 bits of its id lie under ``rate`` of their range, as Jaeger's Go client does.

    The rule is a pure function of the id, so two samplers of one rate always agree. ``ValueError`` for a rate
    outside [0, 1].
    """

    by_name = False

    def __init__(self, rate: float, *, ignores_parent: bool = False) -> None:
        self.rate = checked_rate(rate)
        self.ignores_parent = ignores_parent
        self._boundary = _boundary(self.rate)
        self._facts: Facts = (describe_sampler, "probabilistic", self.rate)

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        return self._facts if trace_id & _LOW_63_BITS <= self._boundary else None

    def __repr__(self) -> str:
        return f"ProbabilisticSampler({self.rate})"


class LeakyBucket:
    """Credits that drip in at ``rate`` per second; it starts full and holds at least one (so that 0.1/s can ever pay).

    A rate of 0 pays nothing at all: Jaeger's Go client would keep one trace, which nobody who writes 0 means.
    """

    __slots__ = ("_balance", "_clock_ns", "_filled_ns", "_room", "rate")

    def __init__(self, rate: float, clock_ns: Callable[[], int]) -> None:
        self.rate = rate
        self._clock_ns = clock_ns
        self._room = max(rate, 1.0)
        self._balance = self._room
        self._filled_ns = clock_ns()

    def take(self) -> bool:
        """Spend one credit, if there is one."""
        if self.rate <= 0:
            return False
        with _lock:
            if self._balance < 1.0:
                self._refill()
            if self._balance < 1.0:
                return False
            self._balance -= 1.0
            return True

    def update(self, rate: float) -> None:
        """Change the rate; the bucket stays as full as it was, in proportion."""
        if rate == self.rate:
            return
        with _lock:
            self._refill()
            room = max(rate, 1.0)
            self._balance *= room / self._room
            self._room = room
            self.rate = rate

    def _refill(self) -> None:
        now_ns = self._clock_ns()
        elapsed_ns = max(0, now_ns - self._filled_ns)
        self._filled_ns = now_ns
        self._balance = min(self._room, self._balance + elapsed_ns * self.rate / 1e9)


class RateLimitingSampler:
    """Keeps at most ``rate`` traces per second (and up to ``rate`` at once after a pause). ``ValueError`` if negative."""

    by_name = False
    ignores_parent = False

    def __init__(self, rate: float, clock_ns: Callable[[], int] = monotonic_ns) -> None:
        self.rate = _number(rate, "traces per second")
        self._bucket = LeakyBucket(self.rate, clock_ns)
        self._facts: Facts = (describe_sampler, "ratelimiting", self.rate)

    def update(self, rate: float) -> None:
        """Change the rate, keeping the fill ratio of the bucket. ``ValueError`` if negative."""
        self.rate = _number(rate, "traces per second")
        self._facts = (describe_sampler, "ratelimiting", self.rate)
        self._bucket.update(self.rate)

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        return self._facts if self._bucket.take() else None

    def __repr__(self) -> str:
        return f"RateLimitingSampler({self.rate})"


class GuaranteedThroughputSampler:
    """Probabilistic, but keeps ``lower_bound`` traces per second even when chance has not picked them.

    A trace that chance picks spends a credit too, so the bound only adds what is missing. What the bound adds is
    marked ``lowerbound`` and carries the *rate*: that is how adaptive sampling tells the two apart.
    """

    by_name = False
    ignores_parent = False

    def __init__(self, lower_bound: float, rate: float, clock_ns: Callable[[], int] = monotonic_ns) -> None:
        self._bucket = LeakyBucket(_number(lower_bound, "a lower bound"), clock_ns)
        self._set_rate(checked_rate(rate))

    def update(self, lower_bound: float, rate: float) -> None:
        """Change both in place, keeping the fill ratio of the bucket. ``ValueError`` as the constructor."""
        bound = _number(lower_bound, "a lower bound")
        self._set_rate(checked_rate(rate))
        self._bucket.update(bound)

    def _set_rate(self, rate: float) -> None:
        self.rate = rate
        self._by_chance: Facts = (describe_sampler, "probabilistic", rate)
        self._by_bound: Facts = (describe_sampler, "lowerbound", rate)
        self._boundary = _boundary(rate)

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        if trace_id & _LOW_63_BITS <= self._boundary:
            self._bucket.take()
            return self._by_chance
        return self._by_bound if self._bucket.take() else None

    def __repr__(self) -> str:
        return f"GuaranteedThroughputSampler({self._bucket.rate}, {self.rate})"


class PerOperationSampler:
    """A ``GuaranteedThroughputSampler`` for each operation, from the ``operationSampling`` object of a strategy.

    An operation that the strategy does not list gets one of its own with the default rate, until there are
    ``max_operations``; from then on new names share a plain probabilistic sampler, so that names made of ids
    cannot fill the memory. ``ValueError`` names what is wrong with ``strategies``.
    """

    by_name = True
    ignores_parent = False

    def __init__(
        self,
        strategies: Mapping[str, object],
        max_operations: int = MAX_OPERATIONS,
        clock_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._max_operations = max_operations
        self._clock_ns = clock_ns
        self._samplers: dict[str, GuaranteedThroughputSampler] = {}
        self.update(strategies)

    def update(self, strategies: Mapping[str, object]) -> None:
        """Take new strategies over in place: operations keep their credits. Nothing changes if ``ValueError`` is raised."""
        rates = _operation_rates(strategies)
        default_rate = _clamped_rate(strategies.get("defaultSamplingProbability", DEFAULT_RATE))
        lower_bound = _number(strategies.get("defaultLowerBoundTracesPerSecond", 0.0), "a lower bound")
        with _lock:
            samplers = {name: self._updated(name, lower_bound, rate) for name, rate in rates.items()}
            # Names that are listed no longer, or never were, keep their credits too: a new bucket is a full one, and a
            # trace of each such operation would be kept after every poll.
            for name in list(self._samplers):
                if len(samplers) >= self._max_operations:
                    break
                if name not in samplers:
                    samplers[name] = self._updated(name, lower_bound, default_rate)
            self._default_rate, self._lower_bound = default_rate, lower_bound
            self._default = ProbabilisticSampler(default_rate)
            self._samplers = samplers

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        sampler = self._samplers.get(name) or self._introduced(name)
        return sampler.decide(trace_id, name)

    def _updated(self, name: str, lower_bound: float, rate: float) -> GuaranteedThroughputSampler:
        known = self._samplers.get(name)
        if known is None:
            return GuaranteedThroughputSampler(lower_bound, rate, self._clock_ns)
        known.update(lower_bound, rate)
        return known

    def _introduced(self, name: str) -> GuaranteedThroughputSampler | ProbabilisticSampler:
        if len(self._samplers) >= self._max_operations:
            return self._default
        with _lock:
            sampler = self._updated(name, self._lower_bound, self._default_rate)
            self._samplers[name] = sampler
            return sampler

    def __repr__(self) -> str:
        return f"PerOperationSampler({len(self._samplers)} operations, default {self._default_rate})"


def from_strategy(
    response: object,
    previous: Sampler | None = None,
    max_operations: int = MAX_OPERATIONS,
    clock_ns: Callable[[], int] = monotonic_ns,
) -> Sampler:
    """The sampler that a sampling strategy (decoded JSON of ``/sampling?service=``) asks for.

    ``previous`` itself is returned, updated in place, where it is of the same type, so that its credits live on.
    What counts is which object is there, most specific first; ``strategyType`` is not looked at, for backends send it
    as a string, as a number, or leave it out. ``ValueError`` names what is wrong; ``previous`` is untouched then.
    """
    if not isinstance(response, dict):
        raise ValueError("a sampling strategy must be a JSON object")  # noqa: TRY004 (the data is wrong, not the call)
    operations = _part(response, "operationSampling")
    if operations is not None:
        return _per_operation(operations, previous, max_operations, clock_ns)
    probabilistic = _part(response, "probabilisticSampling")
    if probabilistic is not None:
        return _probabilistic(checked_rate(_member(probabilistic, "samplingRate")), previous)
    limiting = _part(response, "rateLimitingSampling")
    if limiting is not None:
        return _rate_limiting(_number(_member(limiting, "maxTracesPerSecond"), "traces per second"), previous, clock_ns)
    raise ValueError(f"a sampling strategy must have one of {', '.join(_PARTS)}")


def _per_operation(
    operations: Mapping[str, object], previous: Sampler | None, max_operations: int, clock_ns: Callable[[], int]
) -> Sampler:
    if not isinstance(previous, PerOperationSampler):
        return PerOperationSampler(operations, max_operations, clock_ns)
    previous.update(operations)
    return previous


def _probabilistic(rate: float, previous: Sampler | None) -> Sampler:
    if isinstance(previous, ProbabilisticSampler) and previous.rate == rate:
        return previous
    return ProbabilisticSampler(rate)


def _rate_limiting(rate: float, previous: Sampler | None, clock_ns: Callable[[], int]) -> Sampler:
    if not isinstance(previous, RateLimitingSampler):
        return RateLimitingSampler(rate, clock_ns)
    previous.update(rate)
    return previous


def _operation_rates(strategies: Mapping[str, object]) -> dict[str, float]:
    entries = strategies.get("perOperationStrategies")
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ValueError("perOperationStrategies must be a list")  # noqa: TRY004
    rates = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError("a strategy of an operation must be a JSON object")  # noqa: TRY004
        name = _member(entry, "operation")
        if not isinstance(name, str):
            raise ValueError(f"the name of an operation must be a string, not {name!r:.60}")  # noqa: TRY004
        part = _part(entry, "probabilisticSampling")
        if part is None:
            raise ValueError(f"the strategy of operation {name!r:.60} has no probabilisticSampling")
        rates[name] = _clamped_rate(_member(part, "samplingRate"))
    return rates


def _boundary(rate: float) -> int:
    # Go computes uint64(float64(2^63 - 1) * rate), and that float64 is 2^63. Kept to the bit, for other clients of the
    # same trace decide by it too: even a rate of 0 passes the one id in 2^63 whose low bits are all zero.
    return int(2.0**63 * rate)


def _clamped_rate(value: object) -> float:
    return min(1.0, _number(value, "a sampling rate"))


def _number(value: object, what: str) -> float:
    """``value`` as a float that is finite and not negative (a bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e18:
        raise ValueError(f"{what} must be a number from 0 upwards, not {value!r:.60}")
    return float(value)


def _part(mapping: Mapping[str, object], key: str) -> Mapping[str, object] | None:
    part = mapping.get(key)
    if part is None or isinstance(part, dict):
        return part
    raise ValueError(f"{key} must be a JSON object")


def _member(mapping: Mapping[str, object], key: str) -> object:
    try:
        return mapping[key]
    except KeyError:
        raise ValueError(f"{key} is missing from a sampling strategy") from None
