"""Sampling rates that are steered, so that each operation gives a target of traces per second.

Owns: what is known of each operation's traffic, the rate that its service is told.
Must not know: HTTP, files, where spans are from or go to.
Invariants: a rate lies in [minimum, 1] and at most doubles from one period to the next; it moves only while the service
uses rates that it was told, and only when there was traffic; memory is bounded. Time comes from the clock that is passed in.

The idea and the defaults are those of Jaeger's adaptive sampling. Where Jaeger moves a rate by what came in, this estimates
the traffic itself: a trace that chance kept at a rate of 0.01 stands for a hundred. So traces that processes still send by an
older rate, or several rates at once, count rightly, and a look-back over many periods does not make it swing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoinstr.backend.sampling.decisions import LONGEST_NAME, Param, decisions, instance_of, touched
from autoinstr.model import Batch

#: Periods that are looked back on. The newest weighs most: by the fourth power of its place, as in Jaeger.
LOOK_BACK = 10
WEIGHTS = tuple(place**4 for place in range(LOOK_BACK, 0, -1))
#: A rate is left alone while what comes in is that close to the target.
TOLERANCE = 0.3
GREATEST_GROWTH = 2.0
#: Rates are rounded to so many digits, so that they are found again in what processes send back.
DIGITS = 6
#: The last rates told for an operation: processes refresh theirs each in their own time.
TOLD = 16
MAX_SERVICES = 1000
#: Operations and processes of all services together; the services that were heard of longest ago are forgotten first.
MAX_ENTRIES = 50_000
#: For each service.
MAX_OPERATIONS = 300
MAX_INSTANCES = 2000


@dataclass(frozen=True)
class Settings:
    """What is steered to, and how.

    ``target_per_s``: traces per second and operation. ``lower_bound_per_s``: traces per second and operation that a service
    sends even if chance picks none, all its processes together. ``initial``: the rate of an operation of which nothing is
    known yet.
    """

    target_per_s: float
    initial: float = 0.001
    minimum: float = 1e-5
    lower_bound_per_s: float = 1 / 60
    period_s: float = 30.0

    def __post_init__(self) -> None:
        """``ValueError`` names the setting that makes no sense."""
        if not 0 < self.target_per_s < math.inf:
            raise ValueError(f"the target must be a number of traces per second above 0, not {self.target_per_s!r}")
        if not 0 < self.minimum <= self.initial <= 1:
            raise ValueError(f"rates must be 0 < minimum <= initial <= 1, not {self.minimum!r} and {self.initial!r}")
        if not 0 <= self.lower_bound_per_s < math.inf:
            raise ValueError(f"the lower bound must be a number from 0 upwards, not {self.lower_bound_per_s!r}")
        if not 0 < self.period_s < math.inf:
            raise ValueError(f"the period must be a number of seconds above 0, not {self.period_s!r}")


class Operation:
    """The traffic of one operation, and the rate that it is told.

    ``history`` has one number for each past period, the newest first: how many traces there were, kept or not.
    """

    __slots__ = ("_settings", "_told", "history", "is_following", "rate", "silent_periods", "traces", "was_seen")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.rate = settings.initial
        self._told = [self.rate]
        self.history: list[float] = []
        #: In the period under way: traces that happened (estimated), whether any came, and by a rate that we had told.
        self.traces = 0.0
        self.was_seen = self.is_following = False
        self.silent_periods = 0

    def observe(self, kind: str, param: Param) -> None:
        """One trace came, which a sampler of type ``kind`` with the parameter ``param`` has kept."""
        self.was_seen = True
        if isinstance(param, (bool, str)) or kind not in {"probabilistic", "lowerbound"}:
            return
        # What the lower bound adds was not picked by chance: it tells which rate is used, not how much traffic there is.
        self.is_following = self.is_following or any(_is_same(param, told) for told in self._told)
        if kind == "probabilistic" and 0 < param <= 1:
            self.traces += 1 / max(param, self._settings.minimum)

    def end_periods(self, count: int) -> None:
        """The period under way has ended, and ``count - 1`` others in which nothing came."""
        self.history.insert(0, self.traces)
        del self.history[LOOK_BACK:]
        if self.is_following:
            self._tell(next_rate(self.rate, self._traffic_per_s(), self._settings))
        # After the rate: whether the traffic has ended or only pauses will be seen when there is some again.
        self.history = ([0.0] * min(count - 1, LOOK_BACK) + self.history)[:LOOK_BACK]
        self.silent_periods = count - 1 if self.was_seen else self.silent_periods + count
        self.traces, self.was_seen, self.is_following = 0.0, False, False

    def _traffic_per_s(self) -> float:
        """Traces per second over the look-back."""
        weights = WEIGHTS[: len(self.history)]
        traces = sum(weight * number for weight, number in zip(weights, self.history, strict=True))
        return traces / (sum(weights) * self._settings.period_s)

    def _tell(self, rate: float) -> None:
        if rate != self.rate:
            self.rate = rate
            self._told = [rate, *self._told][:TOLD]


def next_rate(rate: float, traffic_per_s: float, settings: Settings) -> float:
    """The rate after ``rate`` for so much traffic (traces per second, kept or not; 0: chance has picked none)."""
    if traffic_per_s <= 0:
        # Something came by the lower bound alone: chance has to pick one before the traffic can be told.
        wanted = rate * GREATEST_GROWTH
    elif abs(rate * traffic_per_s / settings.target_per_s - 1) < TOLERANCE:
        wanted = rate
    else:
        wanted = min(settings.target_per_s / traffic_per_s, rate * GREATEST_GROWTH)
    return min(1.0, max(settings.minimum, float(f"{wanted:.{DIGITS}g}")))


def _is_same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=10.0 ** (1 - DIGITS))


class Service:
    """The operations of one service, the processes that it runs in, and the period that they are in."""

    __slots__ = ("_settings", "began_at", "instances", "operations")

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self.began_at = now
        self.operations: OrderedDict[str, Operation] = OrderedDict()
        #: When each was heard of last.
        self.instances: OrderedDict[int, float] = OrderedDict()

    @property
    def entries(self) -> int:
        """How many operations and processes of it are known."""
        return len(self.operations) + len(self.instances)

    def go_on(self, now: float) -> None:
        """End the periods that are over by now."""
        count = int((now - self.began_at) / self._settings.period_s)
        if count < 1:
            return
        self.began_at += count * self._settings.period_s
        for name, operation in list(self.operations.items()):
            operation.end_periods(count)
            if operation.silent_periods >= LOOK_BACK:
                del self.operations[name]
        forgotten_at = now - LOOK_BACK * self._settings.period_s
        while self.instances and next(iter(self.instances.values())) < forgotten_at:
            self.instances.popitem(last=False)

    def observe(self, operation: str, kind: str, param: Param) -> None:
        """One trace came."""
        known = touched(self.operations, operation, MAX_OPERATIONS, lambda: Operation(self._settings))
        known.observe(kind, param)

    def hear_of(self, instance: int, now: float) -> None:
        """One of its processes has sent a trace."""
        touched(self.instances, instance, MAX_INSTANCES, float)
        self.instances[instance] = now

    def strategy(self) -> dict[str, Any]:
        """The answer that its processes are given."""
        settings = self._settings
        rates = {name: operation.rate for name, operation in self.operations.items()}
        return _answer(settings, settings.lower_bound_per_s / max(1, len(self.instances)), rates)


def _answer(settings: Settings, lower_bound_per_s: float, rates: dict[str, float]) -> dict[str, Any]:
    return {
        "strategyType": "PROBABILISTIC",
        "operationSampling": {
            "defaultSamplingProbability": settings.initial,
            # Clients keep it each for itself: with hundreds of them it would be more than the target.
            "defaultLowerBoundTracesPerSecond": lower_bound_per_s,
            "perOperationStrategies": [
                {"operation": name, "probabilisticSampling": {"samplingRate": rate}} for name, rate in rates.items()
            ],
            "defaultUpperBoundTracesPerSecond": 0,
        },
    }


class Adaptive:
    """Strategies that follow the traffic. May be used by several threads at once; needs none of its own."""

    def __init__(
        self,
        target_per_s: float,
        *,
        initial: float = Settings.initial,
        minimum: float = Settings.minimum,
        lower_bound_per_s: float = Settings.lower_bound_per_s,
        period_s: float = Settings.period_s,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As ``Settings``, with its ``ValueError``; ``clock`` gives seconds."""
        self.settings = Settings(target_per_s, initial, minimum, lower_bound_per_s, period_s)
        self._clock = clock
        self._lock = threading.Lock()
        #: The one that was heard of longest ago comes first.
        self._services: OrderedDict[str, Service] = OrderedDict()
        self._entries = 0

    @property
    def target_per_s(self) -> float:
        """Traces per second and operation."""
        return self.settings.target_per_s

    def observe(self, batches: Sequence[Batch]) -> None:
        """Take note of the root spans in what was received."""
        with self._lock:
            now = self._clock()
            for batch in batches:
                self._observe(batch, now)

    def _observe(self, batch: Batch, now: float) -> None:
        service: Service | None = None
        for decision in decisions(batch):
            if service is None:
                service = self._going_on(decision.service, now)
                self._entries -= service.entries
                service.hear_of(instance_of(batch.resource), now)
            service.observe(decision.operation, decision.kind, decision.param)
        if service is not None:
            self._entries += service.entries
            self._forget()

    def _going_on(self, name: str, now: float) -> Service:
        service = self._services.pop(name, None) or Service(self.settings, now)
        self._services[name] = service
        self._entries -= service.entries
        service.go_on(now)
        self._entries += service.entries
        return service

    def _forget(self) -> None:
        """What is more than there is room for, but never the service that was heard of just now."""
        while len(self._services) > MAX_SERVICES or (self._entries > MAX_ENTRIES and len(self._services) > 1):
            _, oldest = self._services.popitem(last=False)
            self._entries -= oldest.entries

    def strategy(self, service: str) -> dict[str, Any]:
        """What a service is told now, in the form of Jaeger's HTTP endpoint; of an unknown one nothing is remembered."""
        name = service[:LONGEST_NAME]
        with self._lock:
            if name not in self._services:
                return _answer(self.settings, self.settings.lower_bound_per_s, {})
            return self._going_on(name, self._clock()).strategy()

    def services(self) -> list[str]:
        """Services whose traffic is known, sorted."""
        with self._lock:
            return sorted(self._services)

    def figures(self) -> dict[str, int]:
        """Gauges to publish, by name."""
        with self._lock:
            operations = sum(len(service.operations) for service in self._services.values())
            return {"adaptive_services": len(self._services), "adaptive_operations": operations}
