"""Remote and adaptive sampling over many processes, in simulated time: `benchmarks/scale.py simulate` runs it and keeps what it finds.

Owns: the simulated clock and calendar, services whose traffic is as uneven as Zipf's law, their processes, the story that they live through.
Must not know: files, sockets, the real clock, how results are shown.
Invariants: real are the samplers (`RemoteSampler` with its own polling loop, and what it makes of an answer), the decisions one by one, the spans'
attributes, and the backend's answers and steering (`StrategyBook`, `Adaptive`); simulated are time, network and traffic. One seed, one outcome.
"""

from __future__ import annotations

import heapq
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import cos, tau
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from autoinstr import remote
from autoinstr.backend.sampling import StrategyBook
from autoinstr.backend.sampling.adaptive import Adaptive
from autoinstr.model import Batch, Resource, SpanData
from autoinstr.sampling import DEFAULT_RATE, ProbabilisticSampler

#: Traces a second that are wanted of each operation.
TARGET_PER_S = 1.0
REFRESH_S = 60.0
#: An operation is at its goal while it gives that share of it, more or less: the steering leaves 30 % alone, and chance adds some.
BAND = 0.5
#: The fleet is, while that share of its operations is.
SETTLED = 0.95
#: Operations of which less is to be expected are not judged by the minute.
LEAST_PER_S = 0.2
MINUTE_S = 60

Load = Callable[[float, str, str], float]


# ---- Time ----------------------------------------------------------------------------------------------


class Asleep(Exception):
    """A thread waits for so many seconds: the simulation goes on without it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Alarm:
    """``threading.Event`` as the polling thread knows it: waiting is done by the calendar."""

    def wait(self, timeout: float) -> bool:
        if timeout > 1e-6:
            raise Asleep(timeout)
        return False

    def set(self) -> None:
        """Nobody waits."""


class Answered(Alarm):
    """The network takes no time here, so that the first decision never waits."""

    def wait(self, timeout: float) -> bool:
        return True


class PollingSampler(remote.RemoteSampler):
    """The real one. What would be its thread is an entry in the calendar; ``spread(pause)`` tries another rhythm."""

    def __init__(self, world: World, service: str, spread: Spread) -> None:
        super().__init__(
            service,
            "http://backend/sampling",
            initial=ProbabilisticSampler(DEFAULT_RATE),
            fetch=world.fetch,
            on_trouble=lambda text: None,
            counters=SimpleNamespace(
                sampler_queries_ok=0, sampler_queries_err=0, sampler_updates_ok=0, sampler_updates_err=0
            ),
            refresh_s=REFRESH_S,
            clock_ns=world.clock_ns,
        )
        self._world = world
        self._spread = spread

    def _start_thread(self) -> None:
        self._answered, self._stopping = Answered(), Alarm()  # type: ignore[assignment]
        self._wake()

    def _wake(self) -> None:
        try:
            self._keep_polling(self._answered, self._stopping)
        except Asleep as asleep:
            self._due_at = self._world.now + self._spread(asleep.seconds)
            self._world.call_at(self._due_at, self._wake)


Spread = Callable[[float], float]
#: Rhythms of polling: as the agent has it; and without chance in it.
SPREADS: dict[str, Spread] = {
    "as it is": lambda pause_s: pause_s,
    "if all pauses were alike": lambda pause_s: REFRESH_S,
}


# ---- The world -----------------------------------------------------------------------------------------


@dataclass
class Service:
    """``traffic``: requests per second that begin a trace, by operation, while the load is 1."""

    name: str
    traffic: dict[str, float]
    instances: list[Instance] = field(default_factory=list)


class Instance:
    """One process."""

    __slots__ = ("resource", "sampler")

    def __init__(self, world: World, service: str, number: int, spread: Spread) -> None:
        self.sampler = PollingSampler(world, service, spread)
        self.resource = Resource(service, {"service.instance.id": f"{service}-{number}"})


@dataclass
class Minute:
    """What happened in one: requests and kept traces by (service, operation), polls, the most of them in a second."""

    requests: Counter[tuple[str, str]]
    kept: Counter[tuple[str, str]]
    polls: int
    most_polls: int
    instances: int

    @property
    def kept_per_s(self) -> float:
        return sum(self.kept.values()) / MINUTE_S

    @property
    def goal_per_s(self) -> float:
        return sum(self.goals().values())

    def goals(self) -> dict[tuple[str, str], float]:
        """The target, or all there is."""
        return {each: min(TARGET_PER_S, count / MINUTE_S) for each, count in self.requests.items()}

    def share_at_goal(self) -> float:
        """The share of operations that gave about what was wanted."""
        judged = [(self.kept[each] / MINUTE_S, goal) for each, goal in self.goals().items() if goal >= LEAST_PER_S]
        return sum(abs(kept / goal - 1) <= BAND for kept, goal in judged) / max(len(judged), 1)


class World:
    """Services, their processes and their backends, second by second."""

    def __init__(
        self,
        seed: int,
        services: Sequence[Service],
        *,
        backends: int = 1,
        spread: str = "as it is",
        initial: float = DEFAULT_RATE,
    ) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.services = list(services)
        self.spread = SPREADS[spread]
        self.initial = initial
        self.is_up = True
        self.minutes: list[Minute] = []
        #: Attempts, by second.
        self.polls: Counter[int] = Counter()
        self._began = 0
        self._calendar: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._kept: Counter[tuple[str, str]] = Counter()
        self.backends = [self._new_backend() for _ in range(backends)]

    def _new_backend(self) -> StrategyBook:
        adaptive = Adaptive(TARGET_PER_S, initial=self.initial, clock=self.clock)
        return StrategyBook(adaptive=adaptive, clock=self.clock)

    def restart_backends(self) -> None:
        """New processes, which know nothing: rates are held in memory."""
        self.backends = [self._new_backend() for _ in self.backends]

    def clock(self) -> float:
        return self.now

    def clock_ns(self) -> int:
        return round(self.now * 1e9)

    def call_at(self, when: float, work: Callable[[], None]) -> None:
        self._entries += 1
        heapq.heappush(self._calendar, (when, self._entries, work))

    def fetch(self, url: str) -> bytes:
        """What the network brings for the URL of a poll."""
        self.polls[int(self.now)] += 1
        if not self.is_up:
            raise ConnectionRefusedError("the backend is gone")
        service = parse_qs(urlsplit(url).query)["service"][0]
        return json.dumps(self.chance.choice(self.backends).for_service(service)).encode()

    # Processes.

    @property
    def instances(self) -> int:
        return sum(len(service.instances) for service in self.services)

    def join(self, service: Service, count: int, over_s: float = 0.0) -> None:
        """Processes start: now, or evenly over some seconds."""
        for number in range(count):
            if over_s:
                self.call_at(self.now + over_s * number / count, lambda: self._join(service))
            else:
                self._join(service)

    def _join(self, service: Service) -> None:
        self._began += 1
        service.instances.append(Instance(self, service.name, self._began, self.spread))

    def leave(self, service: Service, count: int) -> None:
        """The oldest processes end; one stays."""
        for _ in range(min(count, len(service.instances) - 1)):
            service.instances.pop(0).sampler.stop()

    # Traffic.

    def run(self, seconds: int, load: Load = lambda now, service, operation: 1.0) -> None:
        """Go on for whole minutes."""
        for _ in range(seconds // MINUTE_S):
            for _ in range(MINUTE_S):
                self._second(load)
            self._end_minute()

    def _second(self, load: Load) -> None:
        while self._calendar and self._calendar[0][0] <= self.now:
            heapq.heappop(self._calendar)[2]()
        for service in self.services:
            if service.instances:
                kept = [
                    span
                    for operation, per_s in service.traffic.items()
                    for span in self._serve(service, operation, per_s * load(self.now, service.name, operation))
                ]
                self._deliver(service, kept)
        self._sleep_until(self.now + 1)

    def _sleep_until(self, until: float) -> None:
        """Polls come at their own moments between the seconds."""
        while self._calendar and self._calendar[0][0] < until:
            self.now, _, work = heapq.heappop(self._calendar)
            work()
        self.now = until

    def _serve(self, service: Service, operation: str, per_s: float) -> Iterator[tuple[Instance, SpanData]]:
        """One second of requests to one operation, each by some process; the traces that are kept."""
        chance, bits, instances = self.chance.random, self.chance.getrandbits, service.instances
        count = int(per_s) + (chance() < per_s % 1)
        kept = 0
        for _ in range(count):
            instance = instances[int(chance() * len(instances))]
            trace_id = bits(64)
            facts = instance.sampler.decide(trace_id, operation)
            if facts is not None:
                kept += 1
                yield instance, SpanData(operation, trace_id, 1, attributes=facts[0](*facts[1:]))
        if count:
            self._requests[service.name, operation] += count
        if kept:
            self._kept[service.name, operation] += kept

    def _deliver(self, service: Service, kept: Sequence[tuple[Instance, SpanData]]) -> None:
        if self.is_up and kept:
            backend = self.chance.choice(self.backends)
            backend.observe([Batch(instance.resource, [span]) for instance, span in kept])

    def _end_minute(self) -> None:
        ended = int(self.now)
        polls = [self.polls[second] for second in range(ended - MINUTE_S, ended)]
        self.minutes.append(Minute(self._requests, self._kept, sum(polls), max(polls), self.instances))
        self._requests, self._kept = Counter(), Counter()


@contextmanager
def simulated(world: World) -> Iterator[World]:
    """The clock that the polling loop reads, and chance, are the world's meanwhile."""
    real_clock, real_chance = remote.monotonic, os.urandom
    remote.monotonic, os.urandom = world.clock, world.chance.randbytes
    try:
        yield world
    finally:
        remote.monotonic, os.urandom = real_clock, real_chance


def zipf(count: int, exponent: float) -> list[float]:
    """Shares of a whole, the largest first."""
    weights = [1 / (place + 1) ** exponent for place in range(count)]
    return [weight / sum(weights) for weight in weights]


def uneven_services(services: int, operations: int, per_s: float, exponent: float = 1.2) -> list[Service]:
    """A few services have most of the traffic, and a few operations most of a service's."""
    shares = zipf(operations, exponent)
    return [
        Service(f"service-{number}", {f"GET /{place}": per_s * share * part for place, part in enumerate(shares)})
        for number, share in enumerate(zipf(services, exponent))
    ]


def staffed(world: World, instances: int, over_s: float) -> None:
    """As many processes in all, more where there is more traffic, at least two of each service; they start within ``over_s``."""
    whole = sum(sum(service.traffic.values()) for service in world.services)
    spare = instances - 2 * len(world.services)
    counts = [2 + int(spare * sum(service.traffic.values()) / whole) for service in world.services]
    counts[0] += instances - sum(counts)
    for service, count in zip(world.services, counts):
        world.join(service, count, over_s)


# ---- The story -----------------------------------------------------------------------------------------

#: Minutes: how long each chapter takes.
START, DAY, BURST, AFTER_BURST, JOINING, LEAVING, NEW, GONE, BACK = 15, 20, 5, 5, 5, 5, 10, 12, 18
#: In the burst, one operation has so many times its traffic; while the backend is gone, all have after some minutes.
BURST_FACTOR, GONE_FACTOR, GONE_QUIET = 20, 3, 4
NEW_OPERATION, NEW_PER_S = "GET /new", 0.05


@dataclass
class Story:
    """A fleet from its start over a day in miniature to an hour without its backend, and what is said of it."""

    world: World
    facts: dict[str, float] = field(default_factory=dict)
    #: Name of a chapter and its first minute.
    chapters: list[tuple[str, int]] = field(default_factory=list)

    def tell(self, instances: int) -> Story:
        with simulated(self.world):
            staffed(self.world, instances, over_s=MINUTE_S)
            for chapter in (self._start, self._day, self._burst, self._crowd, self._new, self._gone, self._back):
                chapter()
        self.facts["instances"] = instances
        self.facts["operations"] = sum(len(service.traffic) for service in self.world.services) - 1
        self.facts["requests"] = sum(sum(minute.requests.values()) for minute in self.world.minutes)
        return self

    def _chapter(self, name: str, minutes: int, load: Load = lambda now, service, operation: 1.0) -> list[Minute]:
        began = len(self.world.minutes)
        self.chapters.append((name, began))
        self.world.run(minutes * MINUTE_S, load)
        return self.world.minutes[began:]

    def _note(self, **facts: float) -> None:
        self.facts.update(facts)

    def _start(self) -> None:
        minutes = self._chapter("start", START)
        self._note(
            start_settled_min=settled_after(minutes),
            start_first_kept_per_s=minutes[0].kept_per_s,
            start_goal_per_s=minutes[-1].goal_per_s,
            start_kept_per_s=minutes[-1].kept_per_s,
            start_share=minutes[-1].share_at_goal(),
        )

    def _day(self) -> None:
        began = self.world.now
        minutes = self._chapter("a day in 20 minutes", DAY, lambda now, *which: day(now - began))
        shares = [minute.share_at_goal() for minute in minutes]
        self._note(
            day_least_share=min(shares),
            day_mean_share=sum(shares) / len(shares),
            day_most_excess=max(minute.kept_per_s / minute.goal_per_s for minute in minutes),
            day_least_excess=min(minute.kept_per_s / minute.goal_per_s for minute in minutes),
            day_swing=max(sum(m.requests.values()) for m in minutes) / min(sum(m.requests.values()) for m in minutes),
        )

    def _burst(self) -> None:
        where = self.world.services[1].name, "GET /0"
        before = self.world.minutes[-1].kept[where] / MINUTE_S

        def load(now: float, service: str, operation: str) -> float:
            return BURST_FACTOR if (service, operation) == where else 1.0

        kept = [minute.kept[where] / MINUTE_S for minute in self._chapter(f"one operation ×{BURST_FACTOR}", BURST, load)]
        after = [minute.kept[where] / MINUTE_S for minute in self._chapter("burst over", AFTER_BURST)]
        self._note(
            burst_before_per_s=before,
            burst_first_per_s=kept[0],
            burst_second_per_s=kept[1],
            burst_last_per_s=kept[-1],
            burst_after_first_per_s=after[0],
            burst_after_last_per_s=after[-1],
        )

    def _crowd(self) -> None:
        before = self.world.minutes[-1].kept_per_s
        count = self.world.instances
        for service in self.world.services:
            self.world.join(service, max(1, len(service.instances) * 3 // 10), 30)
        joining = self._chapter("30 % more processes", JOINING)
        most = self.world.instances
        for service in self.world.services:
            self.world.leave(service, len(service.instances) // 2)
        leaving = self._chapter("half of them leave", LEAVING)
        self._note(
            crowd_from=count,
            crowd_to=most,
            crowd_left=self.world.instances,
            crowd_before_per_s=before,
            crowd_most_per_s=max(minute.kept_per_s for minute in joining),
            crowd_least_per_s=min(minute.kept_per_s for minute in leaving),
            crowd_share=min(minute.share_at_goal() for minute in joining + leaving),
        )

    def _new(self) -> None:
        service = self.world.services[0]
        service.traffic[NEW_OPERATION] = NEW_PER_S
        where = service.name, NEW_OPERATION
        minutes = self._chapter("a rare new operation", NEW)
        seen = [minute.requests[where] for minute in minutes]
        kept = [minute.kept[where] for minute in minutes]
        self._note(
            new_per_s=NEW_PER_S,
            new_instances=len(service.instances),
            new_requests=sum(seen),
            new_kept=sum(kept),
            new_kept_in_first_minute=kept[next(place for place, count in enumerate(seen) if count)],
        )

    def _gone(self) -> None:
        before = self.world.minutes[-1].kept_per_s
        began = self.world.now
        self.world.is_up = False

        def load(now: float, service: str, operation: str) -> float:
            return 1.0 if now - began < GONE_QUIET * MINUTE_S else GONE_FACTOR

        quiet = self._chapter("backend gone", GONE_QUIET, load)
        service = self.world.services[2]
        count = len(service.instances)
        self.world.join(service, count)
        self.world.leave(service, count)
        busy = self._chapter(f"gone, traffic ×{GONE_FACTOR}, one service restarts", GONE - GONE_QUIET, load)
        requests = sum(minute.requests[service.name, name] for minute in busy for name in service.traffic)
        kept = sum(minute.kept[service.name, name] for minute in busy for name in service.traffic)
        self._note(
            gone_before_per_s=before,
            gone_quiet_per_s=sum(minute.kept_per_s for minute in quiet) / len(quiet),
            gone_busy_per_s=max(minute.kept_per_s for minute in busy),
            gone_restarted=count,
            gone_restarted_rate=kept / requests,
        )

    def _back(self) -> None:
        self.world.is_up = True
        self.world.restart_backends()
        minutes = self._chapter("back, knowing nothing", BACK)
        self._note(
            back_settled_min=settled_after(minutes),
            back_most_excess=max(minute.kept_per_s / minute.goal_per_s for minute in minutes),
            back_first_per_s=minutes[0].kept_per_s,
            back_least_per_s=min(minute.kept_per_s for minute in minutes),
            back_goal_per_s=minutes[-1].goal_per_s,
            back_last_per_s=minutes[-1].kept_per_s,
            back_most_polls_in_a_second=max(minute.most_polls for minute in minutes),
        )

    def series(self) -> dict[str, list[float]]:
        """By the minute."""
        minutes = self.world.minutes
        return {
            "requests_per_s": [round(sum(minute.requests.values()) / MINUTE_S, 1) for minute in minutes],
            "goal_per_s": [round(minute.goal_per_s, 2) for minute in minutes],
            "kept_per_s": [round(minute.kept_per_s, 2) for minute in minutes],
            "share_at_goal": [round(minute.share_at_goal(), 3) for minute in minutes],
            "most_polls": [minute.most_polls for minute in minutes],
            "instances": [minute.instances for minute in minutes],
        }


def day(seconds: float) -> float:
    """The load over a day that takes 20 minutes: from 1 up to 3 and back, in steps of a minute."""
    return 2 - cos(tau * (seconds // MINUTE_S) / DAY)


def settled_after(minutes: Sequence[Minute]) -> int:
    """Minutes until the fleet was at its goals, the first minute in which it was included; all of them if it never was."""
    found = (place for place, minute in enumerate(minutes, 1) if minute.share_at_goal() >= SETTLED)
    return next(found, len(minutes))


def story(seed: int, instances: int, services: int, operations: int, per_s: float) -> Story:
    """Traffic is in requests per second that begin a trace."""
    return Story(World(seed, uneven_services(services, operations, per_s))).tell(instances)


# ---- Single questions ----------------------------------------------------------------------------------


def herd(seed: int, instances: int, spread: str, over_s: float, minutes: int = 30) -> dict[str, float]:
    """Processes that start within ``over_s``: the most polls in one second, of the first minute, the next four, and the last ten."""
    world = World(seed, [Service("shop", {"GET /": 1.0})], spread=spread)
    with simulated(world):
        world.join(world.services[0], instances, over_s)
        asked = 0
        for _ in range(minutes * MINUTE_S):
            world._second(lambda *which: 0.0)
            # Each has its first request in its first second.
            for instance in world.services[0].instances[asked:]:
                instance.sampler.decide(1, "GET /")
            asked = world.instances
    most = [max(world.polls[s] for s in range(m * MINUTE_S, (m + 1) * MINUTE_S)) for m in range(minutes)]
    return {"first": most[0], "next": max(most[1:5]), "later": max(most[-10:]), "mean": instances / REFRESH_S}


def replicas(seed: int, backends: int, minutes: int = 30) -> float:
    """Traces a second of one operation of 200 requests a second, the target being 1, when spans and polls go to several backends."""
    world = World(seed, [Service("shop", {"GET /": 200.0})], backends=backends)
    with simulated(world):
        world.join(world.services[0], 100, MINUTE_S)
        world.run(minutes * MINUTE_S)
    return sum(minute.kept_per_s for minute in world.minutes[-10:]) / 10


def many_services(seed: int, services: int, minutes: int = 30) -> dict[str, float]:
    """What comes of two operations of 10 requests a second in each of many services: share at the goal, and traces a second of each."""
    world = World(seed, [Service(f"service-{n}", {"GET /a": 10.0, "GET /b": 10.0}) for n in range(services)])
    with simulated(world):
        for service in world.services:
            world.join(service, 2, MINUTE_S)
        world.run(minutes * MINUTE_S)
    last = world.minutes[-5:]
    return {
        "share": sum(minute.share_at_goal() for minute in last) / len(last),
        "per_operation_s": sum(minute.kept_per_s for minute in last) / len(last) / (2 * services),
    }


def outcome(told: Story) -> dict[str, Any]:
    """What is kept of a story."""
    facts = {name: round(number, 4) for name, number in told.facts.items()}
    return {"facts": facts, "chapters": told.chapters, "series": told.series()}
