"""Steered sampling rates: the arithmetic by properties, the whole by a simulation with real samplers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.backend.sampling.adaptive import (
    GREATEST_GROWTH,
    LOOK_BACK,
    MAX_ENTRIES,
    MAX_INSTANCES,
    MAX_OPERATIONS,
    MAX_SERVICES,
    TOLERANCE,
    Adaptive,
    Settings,
    next_rate,
)
from autoinstr.model import Batch, Resource, SpanData
from autoinstr.sampling import ConstSampler, ProbabilisticSampler, from_strategy

PERIOD_S = 30.0


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def ns(self) -> int:
        return round(self.now * 1e9)


def rates(adaptive: Adaptive, service: str = "shop") -> dict[str, float]:
    rows = adaptive.strategy(service)["operationSampling"]["perOperationStrategies"]
    return {row["operation"]: row["probabilisticSampling"]["samplingRate"] for row in rows}


def lower_bound(adaptive: Adaptive, service: str = "shop") -> float:
    return adaptive.strategy(service)["operationSampling"]["defaultLowerBoundTracesPerSecond"]


def traces(
    count: int,
    param: float | bool | str,
    kind: str = "probabilistic",
    operation: str = "GET /",
    instance: int = 1,
    service: str = "shop",
) -> Batch:
    spans = [
        SpanData(operation, 1, number, attributes={"sampler.type": kind, "sampler.param": param})
        for number in range(1, count + 1)
    ]
    return Batch(Resource(service, {"service.instance.id": str(instance)}), spans)


class Rig:
    """One service with one operation, seen period by period."""

    def __init__(self, **options: float) -> None:
        self.clock = Clock()
        self.adaptive = Adaptive(options.pop("target_per_s", 1.0), clock=self.clock, period_s=PERIOD_S, **options)

    def period(self, *batches: Batch) -> float | None:
        """Let a period pass in which these came; the rate after it."""
        self.adaptive.observe(batches)
        self.clock.now += PERIOD_S
        return rates(self.adaptive).get("GET /")


# ---- Arithmetic --------------------------------------------------------------------------------------

settings = st.builds(
    Settings,
    target_per_s=st.floats(1e-3, 1e6),
    initial=st.floats(1e-3, 1),
    minimum=st.floats(1e-9, 1e-3),
)
a_rate = st.floats(1e-9, 1)
traffic = st.floats(0, 1e12)


@given(settings, a_rate, traffic)
def test_a_rate_stays_in_its_bounds(settings: Settings, rate: float, traffic: float) -> None:
    """A service would be told a rate that its client refuses, or drown the backend from one period to the next."""
    after = next_rate(rate, traffic, settings)
    assert settings.minimum <= after <= 1
    assert after <= max(settings.minimum, rate * GREATEST_GROWTH * (1 + 1e-5))


@given(settings, a_rate, traffic)
def test_a_step_leads_to_the_target(settings: Settings, rate: float, traffic: float) -> None:
    """More traffic than wanted may not last; less may last only while the rate is bounded or growing as fast as it may."""
    after = next_rate(rate, traffic, settings)
    kept = after * traffic
    assert kept <= settings.target_per_s * (1 + TOLERANCE + 1e-5) or after == settings.minimum
    if traffic and kept < settings.target_per_s * (1 - TOLERANCE - 1e-5):
        assert after == 1 or after >= min(1, rate * GREATEST_GROWTH) * (1 - 1e-5)


@given(settings, a_rate, traffic, traffic)
def test_more_traffic_never_gives_a_much_higher_rate(settings: Settings, rate: float, one: float, other: float) -> None:
    """The steering would work in the wrong direction."""
    less, more = sorted((one, other))
    limit = next_rate(rate, less, settings) / (1 - TOLERANCE) if less else 1
    assert next_rate(rate, more, settings) <= max(limit, settings.minimum) * (1 + 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"target_per_s": 0},
        {"target_per_s": float("nan")},
        {"initial": 2},
        {"minimum": 0},
        {"minimum": 0.1, "initial": 0.01},
        {"lower_bound_per_s": -1},
        {"period_s": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    """A slip on the command line would sample nothing, or everything, without a word."""
    with pytest.raises(ValueError, match="must be"):
        Adaptive(**{"target_per_s": 1.0, **options})


# ---- One operation -----------------------------------------------------------------------------------


def test_an_unknown_service_is_told_the_initial_rate() -> None:
    """As Jaeger answers: clients read every one of these members."""
    assert Adaptive(1).strategy("new") == {
        "strategyType": "PROBABILISTIC",
        "operationSampling": {
            "defaultSamplingProbability": 0.001,
            "defaultLowerBoundTracesPerSecond": 1 / 60,
            "perOperationStrategies": [],
            "defaultUpperBoundTracesPerSecond": 0,
        },
    }


def test_traffic_is_estimated_from_what_chance_kept() -> None:
    """600 traces a period at 0.01 are 2,000 a second: for one a second the rate has to be 0.0005, at once."""
    rig = Rig(initial=0.01)
    assert rig.period(traces(600, 0.01)) == pytest.approx(0.0005)
    # Processes that have not heard of it yet send at the old rate; that is the same traffic.
    assert rig.period(traces(600, 0.01)) == pytest.approx(0.0005)
    assert rig.period(traces(15, 0.0005), traces(300, 0.01)) == pytest.approx(0.0005)
    assert rig.period(traces(30, 0.0005)) == pytest.approx(0.0005)


def test_growth_is_bounded_by_the_period() -> None:
    """One lucky trace would open a busy service completely."""
    rig = Rig(initial=0.01)
    seen = [rig.period(traces(1, 0.01, "lowerbound")) for _ in range(4)]
    assert seen == pytest.approx([0.02, 0.04, 0.08, 0.16])


def test_what_the_lower_bound_added_says_nothing_about_the_traffic() -> None:
    """Three hundred processes that start send three hundred traces, and the rate would fall where it has to rise."""
    rig = Rig(initial=0.01)
    assert rig.period(traces(300, 0.01, "lowerbound")) == 0.02


def test_small_differences_change_nothing() -> None:
    """Every poll would bring other rates, and the tables of the clients would never rest."""
    rig = Rig(initial=0.01)
    for count in (30, 25, 36, 22):
        assert rig.period(traces(count, 0.01)) == 0.01


def test_a_service_that_does_not_listen_is_left_alone() -> None:
    """A service with a rate of its own would be steered without effect to one end, and flood when it listens one day."""
    rig = Rig(initial=0.01)
    for batch in (traces(900, 0.5), traces(900, True, "const"), traces(9, 5.0, "ratelimiting"), traces(5, "x")):
        assert rig.period(batch) == 0.01
    assert rig.period(traces(900, 0.5), traces(200, 0.01)) < 0.01


def test_silence_moves_nothing_until_it_is_forgotten() -> None:
    """A job that runs at night would find its rate at one, and flood; a name that never returns would stay for ever."""
    rig = Rig(initial=0.01)
    low = rig.period(traces(3000, 0.01))
    assert low is not None and low < 0.01
    for _ in range(LOOK_BACK - 1):
        assert rig.period() == low
    assert rig.period() is None


def test_pauses_count_when_traffic_is_back() -> None:
    """A job that runs every five minutes gives its target on average, not while it runs."""
    rig = Rig(initial=0.01)
    assert rig.period(traces(30, 0.01)) == 0.01
    rig.clock.now += (LOOK_BACK - 2) * PERIOD_S
    after = rig.period(traces(45, 0.01))
    assert after is not None
    assert after > 0.012


def test_silence_that_nobody_looked_at_is_silence_too() -> None:
    """Services that do not ask for ten minutes would come back to an old history."""
    rig = Rig(initial=0.01)
    low = rig.period(traces(3000, 0.01))
    rig.clock.now += 3 * PERIOD_S
    assert rates(rig.adaptive) == {"GET /": low}
    rig.clock.now += LOOK_BACK * PERIOD_S
    assert rates(rig.adaptive) == {}


def test_the_lower_bound_is_shared_by_the_processes() -> None:
    """Each process keeps it for itself: three hundred of them would send five traces a second where one is wanted."""
    rig = Rig()
    for instance in range(300):
        rig.adaptive.observe([traces(1, 0.001, "lowerbound", instance=instance)] * 2)
    assert lower_bound(rig.adaptive) == pytest.approx(1 / 60 / 300)
    rig.clock.now += (LOOK_BACK + 1) * PERIOD_S
    rig.adaptive.observe([traces(1, 0.001, "lowerbound", instance=7)])
    assert lower_bound(rig.adaptive) == pytest.approx(1 / 60)


def test_memory_is_bounded() -> None:
    """Operations named by ids, and a sender with ever new services, would eat the backend's memory."""
    adaptive = Adaptive(1, clock=Clock())
    names = (f"GET /{number}" for number in range(MAX_OPERATIONS + 50))
    adaptive.observe([traces(1, 0.001, operation=name, instance=number) for number, name in enumerate(names)])
    assert len(rates(adaptive)) == MAX_OPERATIONS
    for number in range(MAX_INSTANCES + 50):
        adaptive.observe([traces(1, 0.001, instance=number)])
    assert lower_bound(adaptive) == pytest.approx(1 / 60 / MAX_INSTANCES)
    for number in range(MAX_SERVICES + 50):
        adaptive.observe([traces(1, 0.001, service=f"service {number}")])
        adaptive.strategy(f"asks {number}")
    assert len(adaptive.services()) == MAX_SERVICES
    assert MAX_SERVICES == adaptive.figures()["adaptive_operations"]


def test_many_large_services_are_forgotten_by_age() -> None:
    """A thousand services with hundreds of routes each would fill the backend's memory; new ones would never be steered."""
    adaptive = Adaptive(1.0)
    count = MAX_ENTRIES // MAX_OPERATIONS + 50
    for number in range(count):
        name = f"service-{number}"
        adaptive.observe([traces(1, 0.001, operation=f"GET /{each}", service=name) for each in range(MAX_OPERATIONS)])
    known = adaptive.services()
    assert MAX_ENTRIES - MAX_OPERATIONS - 1 <= adaptive.figures()["adaptive_operations"] + len(known) <= MAX_ENTRIES
    assert {f"service-{number}" for number in range(count - len(known), count)} == set(known)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["probabilistic", "lowerbound", "const", ""]),
            st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.just(0.001),
            st.floats(0, 400),
        ),
        max_size=30,
    )
)
def test_whatever_comes_the_answer_can_be_used(events: list[tuple[str, object, float]]) -> None:
    """One odd tag would make a service's strategy unusable, or stop the steering of all."""
    clock = Clock()
    adaptive = Adaptive(1, clock=clock)
    before = 0.001
    for kind, param, pause_s in events:
        adaptive.observe([traces(1, param, kind)])  # type: ignore[arg-type]
        clock.now += pause_s
        answer = adaptive.strategy("shop")
        from_strategy(answer)
        after = rates(adaptive).get("GET /", 0.001)
        assert 1e-5 <= after <= max(before * GREATEST_GROWTH, 0.001) * (1 + 1e-5)
        before = after


# ---- Many processes ----------------------------------------------------------------------------------

INSTANCES = 200
REFRESH_S = 60
#: Traces that are asked for: of one operation, per second.
TARGET_PER_S = 2.0


class Fleet:
    """Processes of one service with the samplers that they really have, each polling in its own time; time is simulated."""

    def __init__(self, seed: int, *, deaf: int = 0) -> None:
        self.clock = Clock()
        self.random = random.Random(seed)
        self.adaptive = Adaptive(TARGET_PER_S, clock=self.clock, period_s=PERIOD_S)
        #: As an agent begins, before the backend has answered.
        self.samplers = [ProbabilisticSampler(0.001) for _ in range(INSTANCES)]
        self.deaf = deaf
        for number in range(deaf):
            self.samplers[number] = ConstSampler(False)
        #: Traces that came, by second and operation.
        self.kept: list[Counter[str]] = []

    def run(self, seconds: int, traffic_per_s: Callable[[int], dict[str, float]]) -> None:
        for second in range(seconds):
            self._poll(second)
            self._work(traffic_per_s(second))
            self.clock.now += 1

    def _poll(self, second: int) -> None:
        for number in range(self.deaf, INSTANCES):
            if (second + number * 7) % REFRESH_S == 0:
                answer = self.adaptive.strategy("shop")
                self.samplers[number] = from_strategy(answer, self.samplers[number], clock_ns=self.clock.ns)

    def _work(self, traffic_per_s: dict[str, float]) -> None:
        kept: Counter[str] = Counter()
        for operation, count in traffic_per_s.items():
            whole = int(count) + (self.random.random() < count % 1)
            for _ in range(whole):
                instance = self.random.randrange(INSTANCES)
                facts = self.samplers[instance].decide(self.random.getrandbits(64), operation)
                if facts is not None:
                    kept[operation] += 1
                    self._arrive(operation, instance, facts[0](*facts[1:]))
        self.kept.append(kept)

    def _arrive(self, operation: str, instance: int, attributes: dict[str, str | bool | float]) -> None:
        span = SpanData(operation, 1, 1, attributes=attributes)
        self.adaptive.observe([Batch(Resource("shop", {"service.instance.id": str(instance)}), [span])])

    def kept_per_s(self, operation: str, last_s: int) -> float:
        return sum(kept[operation] for kept in self.kept[-last_s:]) / last_s


def near_target(value: float) -> bool:
    # The tolerance within which a rate is left alone, and chance.
    return TARGET_PER_S * (1 - TOLERANCE - 0.15) < value < TARGET_PER_S * (1 + TOLERANCE + 0.15)


@pytest.mark.parametrize("seed", [1, 2])
def test_steady_traffic_comes_to_the_target(seed: int) -> None:
    """The whole point: busy operations give what was asked for, rare ones everything that there is."""
    fleet = Fleet(seed)
    fleet.run(1500, lambda second: {"busy": 150.0, "middling": 20.0, "rare": 0.2})
    assert near_target(fleet.kept_per_s("busy", 300)), fleet.kept_per_s("busy", 300)
    assert near_target(fleet.kept_per_s("middling", 300)), fleet.kept_per_s("middling", 300)
    assert fleet.kept_per_s("rare", 300) > 0.1
    told = rates(fleet.adaptive)
    assert told["rare"] == 1
    assert told["busy"] < told["middling"] < 0.2


def test_bursts_come_to_the_target_on_average() -> None:
    """A shop with a rush every two minutes would be all or nothing."""
    fleet = Fleet(3)
    fleet.run(1800, lambda second: {"rush": 400.0 if second % 120 < 30 else 5.0})
    average = fleet.kept_per_s("rush", 600)
    assert 0.4 * TARGET_PER_S < average < 1.6 * TARGET_PER_S, average


def test_traffic_that_rises_is_taken_back() -> None:
    """The backend would drown at the moment when everybody looks."""
    fleet = Fleet(4)
    fleet.run(900, lambda second: {"GET /": 10.0})
    assert near_target(fleet.kept_per_s("GET /", 300))
    fleet.run(600, lambda second: {"GET /": 300.0})
    assert near_target(fleet.kept_per_s("GET /", 240)), fleet.kept_per_s("GET /", 240)


def test_traffic_that_vanishes_and_returns_does_not_flood() -> None:
    """After a night's rest the first minute of the morning would be kept whole."""
    fleet = Fleet(5)
    fleet.run(900, lambda second: {"GET /": 200.0, "health": 1.0})
    before = rates(fleet.adaptive)["GET /"]
    fleet.run(200, lambda second: {"health": 1.0})
    assert rates(fleet.adaptive)["GET /"] <= before * 2
    fleet.run(700, lambda second: {"health": 1.0})
    assert "GET /" not in rates(fleet.adaptive)
    fleet.run(60, lambda second: {"GET /": 200.0, "health": 1.0})
    assert fleet.kept_per_s("GET /", 60) < 2 * TARGET_PER_S
    fleet.run(840, lambda second: {"GET /": 200.0, "health": 1.0})
    assert near_target(fleet.kept_per_s("GET /", 240)), fleet.kept_per_s("GET /", 240)


def test_processes_that_do_not_listen_do_not_mislead() -> None:
    """A quarter of the fleet with a sampler of its own would spoil the rate of the others."""
    fleet = Fleet(6, deaf=INSTANCES // 4)
    fleet.run(1200, lambda second: {"GET /": 150.0})
    assert near_target(fleet.kept_per_s("GET /", 300)), fleet.kept_per_s("GET /", 300)
