"""Which traces are kept: the arithmetic of the samplers, and how strategies of a backend are read."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr import sampling
from autoinstr.sampling import (
    ConstSampler,
    GuaranteedThroughputSampler,
    PerOperationSampler,
    ProbabilisticSampler,
    RateLimitingSampler,
    describe_sampler,
    from_strategy,
)

BIT_62 = 1 << 62
BIT_63 = 1 << 63
NEVER_BY_CHANCE = BIT_63 - 1  # The largest low 63 bits: kept only at a rate of 1.
SECOND_NS = 1_000_000_000


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_ns = 5 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


def kept(sampler, times: int, name: str = "op", trace_id: int = NEVER_BY_CHANCE) -> int:
    """How many of so many decisions were to keep the trace."""
    return sum(sampler.decide(trace_id, name) is not None for _ in range(times))


def attributes(facts) -> dict[str, object]:
    return facts[0](*facts[1:])


def operations(default: float = 0.0, bound: float = 0.0, **rates: float) -> dict[str, object]:
    return {
        "defaultSamplingProbability": default,
        "defaultLowerBoundTracesPerSecond": bound,
        "perOperationStrategies": [
            {"operation": name, "probabilisticSampling": {"samplingRate": rate}} for name, rate in rates.items()
        ],
    }


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (ConstSampler(True), {"sampler.type": "const", "sampler.param": True}),
        (ProbabilisticSampler(1), {"sampler.type": "probabilistic", "sampler.param": 1.0}),
        (RateLimitingSampler(3), {"sampler.type": "ratelimiting", "sampler.param": 3.0}),
        (GuaranteedThroughputSampler(1, 0.5), {"sampler.type": "lowerbound", "sampler.param": 0.5}),
    ],
)
def test_facts_name_the_sampler_and_its_parameter(sampler, expected):
    """Jaeger's adaptive sampling and its users read these tags; a 1 where 1.0 belongs would share a cache entry with True."""
    facts = sampler.decide(NEVER_BY_CHANCE, "op")
    assert facts[0] is describe_sampler
    result = attributes(facts)
    assert expected == result
    assert type(expected["sampler.param"]) is type(result["sampler.param"])


def test_const_keeps_all_or_nothing():
    """A user who turns tracing fully on or off would get something in between."""
    assert 10 == kept(ConstSampler(True), 10)
    assert 0 == kept(ConstSampler(False), 10)


@pytest.mark.parametrize(
    ("rate", "boundary"),
    [
        (0.0, 0),
        (0.001, 9223372036854776),
        (0.1, 922337203685477632),
        (0.25, 2305843009213693952),
        (0.5, BIT_62),
        (1.0, BIT_63),
    ],
)
def test_probabilistic_boundary_is_that_of_the_go_client(rate, boundary):
    """Services in Go and in Python would disagree about traces near the boundary."""
    sampler = ProbabilisticSampler(rate)
    assert 1 == kept(sampler, 1, trace_id=boundary & (BIT_63 - 1))
    if rate < 1:
        assert 0 == kept(sampler, 1, trace_id=boundary + 1)


@pytest.mark.parametrize("high", [0, BIT_63, 0xABC << 64, 0xABC << 64 | BIT_63])
def test_probabilistic_decides_by_the_low_63_bits(high):
    """The test points of the Go client at rate 0.5, also as ids of 64 and 128 bits with bit 63 set."""
    sampler = ProbabilisticSampler(0.5)
    assert sampler.decide(high | (BIT_62 + 10), "") is None
    assert sampler.decide(high | (BIT_62 - 20), "") is not None


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 2**128 - 1))
def test_a_higher_rate_keeps_whatever_a_lower_one_keeps(one, other, trace_id):
    """Raising a rate would lose traces that were kept before."""
    low, high = sorted((one, other))
    if ProbabilisticSampler(low).decide(trace_id, ""):
        assert ProbabilisticSampler(high).decide(trace_id, "") is not None


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_rates_that_are_no_probability_are_refused(rate):
    """A typing error in a rate would silently sample something."""
    with pytest.raises(ValueError, match="sampling rate"):
        ProbabilisticSampler(rate)


def test_rate_limiting_starts_full_and_refills_with_time():
    """A burst would be cut, or the limit exceeded."""
    clock = Clock()
    sampler = RateLimitingSampler(2, clock)
    assert 2 == kept(sampler, 10)
    clock.pass_s(0.25)
    assert 0 == kept(sampler, 10)
    clock.pass_s(0.25)
    assert 1 == kept(sampler, 10)
    clock.pass_s(3600)
    assert 2 == kept(sampler, 10)


def test_rate_limiting_below_one_per_second():
    """A limit of a trace every ten seconds would never let one through."""
    clock = Clock()
    sampler = RateLimitingSampler(0.1, clock)
    assert 1 == kept(sampler, 10)
    clock.pass_s(9.9)
    assert 0 == kept(sampler, 10)
    clock.pass_s(0.2)
    assert 1 == kept(sampler, 10)


def test_rate_limit_of_zero_keeps_nothing():
    """Who writes 0 wants no traces, not one per process."""
    clock = Clock()
    sampler = RateLimitingSampler(0, clock)
    clock.pass_s(100)
    assert 0 == kept(sampler, 10)


@pytest.mark.parametrize(("spent", "new_rate", "expected"), [(0, 20, 20), (5, 20, 10), (5, 2, 1), (10, 20, 0)])
def test_rate_update_keeps_the_fill_ratio(spent, new_rate, expected):
    """Each poll of the backend would grant a full bucket, or take away what was saved."""
    sampler = RateLimitingSampler(10, Clock())
    kept(sampler, spent)
    sampler.update(new_rate)
    assert expected == kept(sampler, 100)
    assert new_rate == sampler.rate


def test_clock_that_goes_back_takes_no_credit():
    """A suspended virtual machine may set clocks back."""
    clock = Clock()
    sampler = RateLimitingSampler(1, clock)
    kept(sampler, 1)
    clock.pass_s(-3)
    assert 0 == kept(sampler, 1)
    clock.pass_s(1)
    assert 1 == kept(sampler, 5)


def test_rate_limit_holds_across_threads():
    """Credits would be granted twice when threads race."""
    clock = Clock()

    def switching_clock() -> int:
        clock.pass_s(0.001)
        now_ns = clock.now_ns
        time.sleep(0)  # Lets another thread run between the reading and its use.
        return now_ns

    sampler = RateLimitingSampler(100, switching_clock)
    kept(sampler, 100)
    started_ns = clock.now_ns
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(kept(sampler, 500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert abs(100 * (clock.now_ns - started_ns) / SECOND_NS - sum(counts)) <= 1


def test_guaranteed_throughput_adds_what_chance_left_out():
    """A rare operation would never show up, or the bound would come on top of chance."""
    clock = Clock()
    sampler = GuaranteedThroughputSampler(1, 0.5, clock)
    by_chance = sampler.decide(1, "op")
    assert {"sampler.type": "probabilistic", "sampler.param": 0.5} == attributes(by_chance)
    assert 0 == kept(sampler, 5), "the trace that chance picked has spent the credit"
    clock.pass_s(1)
    by_bound = sampler.decide(NEVER_BY_CHANCE, "op")
    assert {"sampler.type": "lowerbound", "sampler.param": 0.5} == attributes(by_bound)
    assert 5 == kept(sampler, 5, trace_id=1), "chance needs no credit"


def test_lower_bound_of_zero_guarantees_nothing():
    """An operation set to probability 0, say a health check, would be kept once in every process."""
    assert 0 == kept(GuaranteedThroughputSampler(0, 0.0, Clock()), 5)


def test_per_operation_rates():
    """Operations would be sampled by each other's rates."""
    sampler = PerOperationSampler(operations(default=0.5, always=1.0, never=0.0), clock_ns=Clock())
    assert sampler.by_name
    assert 3 == kept(sampler, 3, "always")
    assert 0 == kept(sampler, 3, "never", trace_id=1)
    assert 3 == kept(sampler, 3, "unheard of", trace_id=BIT_62 - 20)
    assert 0 == kept(sampler, 3, "unheard of", trace_id=BIT_62 + 10)


def test_each_operation_has_a_lower_bound_of_its_own():
    """A busy operation would use up the guarantee of a rare one."""
    sampler = PerOperationSampler(operations(bound=1.0, listed=0.0), clock_ns=Clock())
    assert [1, 1, 1] == [kept(sampler, 5, name) for name in ("listed", "one", "two")]


def test_operations_beyond_the_cap_share_the_default():
    """Names made of ids would fill the memory of the program."""
    sampler = PerOperationSampler(operations(default=0.5, bound=1.0, listed=0.0), max_operations=3, clock_ns=Clock())
    assert [1, 1, 0, 0] == [kept(sampler, 5, f"/item/{number}") for number in range(4)]
    for number in range(1000):
        sampler.decide(NEVER_BY_CHANCE, f"/item/{number}")
    assert len(sampler._samplers) == 3
    assert 1 == kept(sampler, 1, "/item/777", trace_id=1)


def test_per_operation_update_in_place():
    """Every poll would refill the buckets of all operations, and give away a trace of each."""
    sampler = PerOperationSampler(operations(bound=1.0, listed=0.0, gone=1.0), clock_ns=Clock())
    assert [1, 1] == [kept(sampler, 5, name) for name in ("listed", "unlisted")]
    sampler.update(operations(bound=1.0, listed=0.5, fresh=1.0))
    assert [0, 0] == [kept(sampler, 5, name) for name in ("listed", "unlisted")]
    assert 5 == kept(sampler, 5, "listed", trace_id=1), "the new rate is in force"
    assert 5 == kept(sampler, 5, "fresh")
    assert 1 == kept(sampler, 5, "gone"), "no longer listed: the default rate, with a credit that was never spent"


@pytest.mark.parametrize(
    "broken",
    [
        {"perOperationStrategies": {}},
        {"perOperationStrategies": [1]},
        {"perOperationStrategies": [{}]},
        {"perOperationStrategies": [{"operation": 1, "probabilisticSampling": {"samplingRate": 1}}]},
        {"perOperationStrategies": [{"operation": "op"}]},
        {"perOperationStrategies": [{"operation": "op", "probabilisticSampling": {}}]},
        {"perOperationStrategies": [{"operation": "op", "probabilisticSampling": {"samplingRate": -1}}]},
        {"defaultSamplingProbability": "1"},
        {"defaultLowerBoundTracesPerSecond": -1},
    ],
)
def test_broken_operation_strategies_change_nothing(broken):
    """Half of a broken answer would be in force."""
    sampler = PerOperationSampler(operations(op=1.0), clock_ns=Clock())
    with pytest.raises(ValueError, match="."):
        sampler.update({"defaultSamplingProbability": 0.0} | broken)
    assert 5 == kept(sampler, 5, "op")


PROBABILISTIC = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.5}}
RATE_LIMITING = {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 5}}
PER_OPERATION = {**PROBABILISTIC, "operationSampling": operations(default=0.8, op1=0.2)}


@pytest.mark.parametrize("kind", ["as is", "absent", 0, 7, None, "NONSENSE"])
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (PROBABILISTIC, "ProbabilisticSampler(0.5)"),
        (RATE_LIMITING, "RateLimitingSampler(5.0)"),
        (PER_OPERATION, "PerOperationSampler(1 operations, default 0.8)"),
    ],
)
def test_strategy_is_chosen_by_what_is_there(strategy, expected, kind):
    """Backends of several generations send strategyType as text, as a number, or not at all."""
    strategy = dict(strategy, strategyType=kind) if kind != "as is" else strategy
    if kind == "absent":
        strategy = {key: value for key, value in strategy.items() if key != "strategyType"}
    assert expected == repr(from_strategy(json.loads(json.dumps(strategy | {"unknownKey": [1]}))))


def test_null_parts_count_as_absent():
    """A backend that writes nulls for what it leaves out would be refused."""
    strategy = {"operationSampling": None, "probabilisticSampling": None, **RATE_LIMITING}
    assert "RateLimitingSampler(5.0)" == repr(from_strategy(strategy))
    assert from_strategy({"operationSampling": {"perOperationStrategies": None}}).by_name


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ({}, "must have one of"),
        ({"strategyType": "PROBABILISTIC"}, "must have one of"),
        ({"probabilisticSampling": 0.5}, "probabilisticSampling must be"),
        ({"probabilisticSampling": {}}, "samplingRate is missing"),
        ({"probabilisticSampling": {"samplingRate": 1.5}}, "between 0 and 1"),
        ({"probabilisticSampling": {"samplingRate": "x" * 10_000}}, "must be a number"),
        ({"rateLimitingSampling": {"maxTracesPerSecond": -1}}, "traces per second"),
        ({"rateLimitingSampling": {}}, "maxTracesPerSecond is missing"),
        ({"operationSampling": {"perOperationStrategies": 3}}, "perOperationStrategies"),
    ],
)
def test_unusable_strategies_say_what_is_wrong(strategy, what):
    """A misconfigured backend would be hard to find, or its answer would flood the log."""
    with pytest.raises(ValueError, match=what) as caught:
        from_strategy(strategy)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("strategy", [PROBABILISTIC, RATE_LIMITING, PER_OPERATION])
def test_same_kind_of_strategy_updates_the_previous_sampler(strategy):
    """Credits would be granted anew with every poll."""
    first = from_strategy(strategy)
    assert from_strategy(strategy, first) is first


def test_from_strategy_keeps_balances_and_clock():
    """A rate limit would be exceeded once a minute."""
    clock = Clock()
    sampler = from_strategy(RATE_LIMITING, None, 10, clock)
    kept(sampler, 5)
    sampler = from_strategy({"rateLimitingSampling": {"maxTracesPerSecond": 7}}, sampler, 10, clock)
    assert 0 == kept(sampler, 10)
    clock.pass_s(1)
    assert 7 == kept(sampler, 10)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "operationSampling",
                        "probabilisticSampling",
                        "samplingRate",
                        "perOperationStrategies",
                        "operation",
                        "rateLimitingSampling",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_gives_a_sampler_or_a_value_error(response):
    """Another exception would kill the thread that polls."""
    try:
        sampler = from_strategy(response)
    except ValueError:
        return
    sampler.decide(1, "op")


def test_samplers_tell_whether_they_ignore_the_parent():
    """OpenTelemetry's ``always_on`` would obey a parent that is not sampled."""
    assert ConstSampler(True, ignores_parent=True).ignores_parent
    assert ProbabilisticSampler(0.5, ignores_parent=True).ignores_parent
    assert not any(
        sampler.ignores_parent
        for sampler in (
            ConstSampler(True),
            ProbabilisticSampler(1),
            RateLimitingSampler(1),
            GuaranteedThroughputSampler(1, 1),
            PerOperationSampler({}),
        )
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_lock_held_during_a_fork_does_not_block_the_child():
    """A forked worker would hang at its first request."""
    sampler = RateLimitingSampler(1, Clock())
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with sampling._lock:
            is_held.set()
            may_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(30)
    child = os.fork()
    if child == 0:
        threading.Timer(20, os._exit, (1,)).start()
        sampling.renew_locks()
        os._exit(0 if kept(sampler, 2) == 1 else 2)
    may_go.set()
    holder.join()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_signal_handler_may_sample_while_its_thread_holds_the_lock():
    """A handler or finaliser that starts a trace inside a decision would hang the program."""
    sampler: RateLimitingSampler
    nested: list[int] = []
    clock = Clock()

    def interrupted() -> int:
        if not nested:
            nested.append(0)
            nested.append(kept(sampler, 1))
        return clock()

    sampler = RateLimitingSampler(1, clock)
    kept(sampler, 1)
    sampler._bucket._clock_ns = interrupted
    done = threading.Thread(target=kept, args=(sampler, 1), daemon=True)
    done.start()
    done.join(20)
    assert [0, 0] == nested
