"""What is said of whole traces: summaries, adjustments, quantiles, series, costs."""

from __future__ import annotations

import json
import math
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoinstr.backend.query import analysis
from autoinstr.backend.query.analysis import (
    DUPLICATE_ID,
    adjust,
    call_rate,
    duration_text,
    error_share,
    latency_ms,
    quantile_ns,
    red_series,
    summarise,
    tracing_cost_us,
    with_unique_ids,
    without_duplicates,
    without_skew,
)
from autoinstr.backend.store import Rate, Trace, bucket_of
from autoinstr.model import Event, Kind, Link, Resource, SpanContext, SpanData, Status

from .spans import MINUTE, MINUTE_NS, NOW_NS, SHOP, STOCK, a_span

MS = 10**6
#: The machine may be busy with other tests.
at_any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
#: Parents by small numbers, so that they meet: missing ones, loops, ids used twice, a span that is its own parent.
ids = st.integers(0, 6)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any trace of a few spans, however broken."""
    resources = [SHOP, STOCK, Resource("shop", {"hostname": "web-2"}), Resource("bare")]
    made = []
    for _ in range(draw(st.integers(1, 12))):
        span = a_span(
            draw(st.sampled_from(["GET", "", "\ud800"])),
            7,
            draw(ids),
            draw(ids),
            NOW_NS + draw(st.integers(-(10**10), 10**10)),
            draw(st.integers(-100, 10**10)),
            kind=draw(st.integers(0, 5)),
            status=draw(st.integers(0, 2)),
            events=draw(st.sampled_from([None, [Event("e", NOW_NS)]])),
        )
        made.append((draw(st.sampled_from(resources)), span))
    return made


def told(trace: Trace) -> list[tuple[object, ...]]:
    """Everything about a trace, to see whether it has changed."""
    return [
        (resource.service_name, resource.attributes, *[getattr(span, name) for name in SpanData.__slots__])
        for resource, span in trace
    ]


def of_shop(*spans: SpanData) -> Trace:
    return [(SHOP, span) for span in spans]


# Summaries --------------------------------------------------------------------------------------------------------


def test_a_summary_says_what_a_list_of_results_shows() -> None:
    """Every member of docs/backend.md, with its unit: the page would show nothing, or microseconds for milliseconds."""
    sampled = {"sampler.type": "probabilistic", "sampler.param": 0.25}
    trace = [
        (STOCK, a_span("find", 0xA, 2, 1, NOW_NS + 5 * MS, 20 * MS, status=Status.ERROR)),
        (SHOP, a_span("GET /buy", 0xA, 1, 0, NOW_NS, 10 * MS, attributes=sampled)),
        (STOCK, a_span("lost", 0xA, 3, 99, NOW_NS + MS, MS)),
    ]
    assert summarise(trace) == {
        "traceID": "000000000000000a",
        "service": "shop",
        "operation": "GET /buy",
        "start_us": NOW_NS // 1000,
        "duration_us": 25_000,
        "spans": 3,
        "errors": 1,
        "orphans": 1,
        "services": [{"name": "stock", "spans": 2, "errors": 1}, {"name": "shop", "spans": 1, "errors": 0}],
        "sampler": {"type": "probabilistic", "param": 0.25},
    }


@pytest.mark.parametrize(
    ("spans", "root"),
    [
        ([("late root", 1, 0, 5), ("orphan", 2, 9, 0)], "late root"),
        ([("second", 1, 0, 5), ("first", 2, 0, 0)], "first"),
        ([("child", 1, 2, 0), ("orphan", 2, 9, 5)], "orphan"),
        ([("later", 1, 2, 5), ("earlier", 2, 1, 0)], "earlier"),
        ([("child", 1, 2, 0), ("its own parent", 2, 2, 5)], "its own parent"),
    ],
    ids=["root before orphan", "earliest root", "orphan before child", "loop", "own parent"],
)
def test_the_root_of_a_trace(spans: list[tuple[str, int, int, int]], root: str) -> None:
    """A result is named after its root; a broken trace has to be named, too, and not after any span of it."""
    trace = of_shop(*(a_span(name, 1, own, parent, NOW_NS + ms * MS) for name, own, parent, ms in spans))
    assert summarise(trace)["operation"] == root


@pytest.mark.parametrize(
    ("tags", "sampler"),
    [
        ({}, None),
        ({"sampler.type": "const", "sampler.param": True}, {"type": "const", "param": True}),
        (
            {"sampler.type": "budget", "sampler.param": 1.0, "sampler.reason": "slow"},
            {"type": "budget", "param": 1.0, "reason": "slow"},
        ),
        ({"sampler.type": "remote"}, {"type": "remote", "param": None}),
        ({"sampler.type": 3, "sampler.param": float("nan")}, {"type": "3", "param": "NaN"}),
        ({"sampler.param": b"\0"}, {"type": "", "param": "00"}),
    ],
)
def test_why_a_trace_was_sampled(tags: dict, sampler: object) -> None:
    """Whatever a client puts there, the answer must stay JSON that a browser can read."""
    found = summarise(of_shop(a_span(attributes=tags)))["sampler"]
    assert found == sampler
    json.dumps(found, allow_nan=False)


@at_any_speed
@given(traces())
def test_a_summary_counts_every_span_once(trace: Trace) -> None:
    """Counts that do not add up would make people distrust all of it."""
    summary = summarise(trace)
    assert summary["spans"] == len(trace) == sum(service["spans"] for service in summary["services"])
    assert summary["errors"] == sum(service["errors"] for service in summary["services"])
    assert len({service["name"] for service in summary["services"]}) == len(summary["services"])
    known = {span.span_id for _, span in trace}
    assert summary["orphans"] == sum(1 for _, span in trace if span.parent_id and span.parent_id not in known)
    assert summary["start_us"] == min(span.start_ns for _, span in trace) // 1000
    assert summary["duration_us"] >= 0
    json.dumps(summary, allow_nan=False).encode()


# Adjustments ------------------------------------------------------------------------------------------------------


@at_any_speed
@given(traces())
def test_adjusting_loses_nothing(trace: Trace) -> None:
    """Every distinct span is shown, the durations stay, every moved span says so, and what was handed in is as before."""
    before = told(trace)
    adjusted = adjust(trace)
    assert told(trace) == before
    kept = without_duplicates(trace)
    assert [span.end_ns - span.start_ns for _, span in adjusted.trace] == [
        span.end_ns - span.start_ns for _, span in kept
    ]
    for position, ((_, old), (_, new)) in enumerate(zip(kept, adjusted.trace, strict=True)):
        texts = adjusted.warnings.get(position, [])
        delta_ns = new.start_ns - old.start_ns
        assert any(duration_text(delta_ns) in text for text in texts) == bool(delta_ns)
    assert adjust(adjusted.trace).trace == adjusted.trace or _has_loop_or_twins(kept)


def _has_loop_or_twins(trace: Trace) -> bool:
    """Where moving once need not be the last word: a parent that ends before it starts has no room for a child."""
    return len({span.span_id for _, span in trace}) != len(trace) or any(
        span.end_ns < span.start_ns or span.span_id == 0 for _, span in trace
    )


def skewed(child_ms: tuple[int, int], *, there: Resource = STOCK, **child) -> analysis.Adjusted:
    """A parent of 100 ms from 0, and a child (start, duration) on another host with a child of its own there."""
    start_ns = NOW_NS + child_ms[0] * MS
    return without_skew(
        [
            (SHOP, a_span("call", 1, 1, 0, NOW_NS, 100 * MS, kind=child.pop("parent_kind", Kind.CLIENT))),
            (there, a_span("serve", 1, 2, 1, start_ns, child_ms[1] * MS, **child)),
            (there, a_span("query", 1, 3, 2, start_ns + MS, MS, events=[Event("found", start_ns + MS)])),
        ]
    )


def starts_ms(adjusted: analysis.Adjusted) -> list[int]:
    return [(span.start_ns - NOW_NS) // MS for _, span in adjusted.trace]


@pytest.mark.parametrize(
    ("child_ms", "expected"),
    [
        ((10, 50), [0, 10, 11]),
        ((-500, 50), [0, 25, 26]),
        ((700, 50), [0, 25, 26]),
        ((80, 50), [0, 25, 26]),
        ((-500, 300), [0, 0, 1]),
        ((50, 300), [0, 50, 51]),
    ],
    ids=["fits", "clock behind", "clock ahead", "ends too late", "longer, before", "longer, after"],
)
def test_clock_skew_is_taken_out_by_jaegers_rules(child_ms: tuple[int, int], expected: list[int]) -> None:
    """A server's span seconds before its client's makes a waterfall unreadable; all below it has to move along."""
    assert starts_ms(skewed(child_ms)) == expected


def test_moved_spans_say_by_how_much_with_their_logs() -> None:
    """An adjustment that cannot be seen is a lie about what was measured."""
    adjusted = skewed((-500, 50))
    assert adjusted.warnings == {
        1: ["This span's timestamps were adjusted by 525ms"],
        2: ["This span's timestamps were adjusted by 525ms"],
    }
    query = adjusted.trace[2][1]
    assert query.events[0].time_ns == query.start_ns
    assert query.end_ns - query.start_ns == MS


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ({"there": Resource("stock", {"hostname": "web-1"})}, [0, 700, 701]),
        ({"there": Resource("shop")}, [0, 25, 26]),
        ({"kind": Kind.CONSUMER}, [0, 700, 701]),
        ({"parent_kind": Kind.PRODUCER}, [0, 700, 701]),
        ({"links": [Link(SpanContext(1, 1))]}, [0, 700, 701]),
        ({"links": [Link(SpanContext(1, 1), child_of=True)]}, [0, 25, 26]),
    ],
    ids=["same host", "unnamed host", "consumer", "producer", "follows from", "child of"],
)
def test_what_may_well_come_later_stays_where_it_is(child: dict, expected: list[int]) -> None:
    """A task that runs after its request, on the same clock or from a queue, is no skew; moving it would be a mistake."""
    assert starts_ms(skewed((700, 50), **child)) == expected


def test_a_message_cannot_be_received_before_it_is_sent() -> None:
    """There the clock is wrong for sure, and the consumer begins with its producer."""
    assert starts_ms(skewed((-700, 50), kind=Kind.CONSUMER)) == [0, 0, 1]


def test_one_service_on_unnamed_hosts_is_one_host() -> None:
    """Senders without host names are common; within a service nothing may be moved for it."""
    bare = Resource("shop")
    trace = [(bare, a_span("a", 1, 1, 0, NOW_NS, 100)), (bare, a_span("b", 1, 2, 1, NOW_NS + 5000, 50))]
    assert without_skew(trace).trace == trace


def test_missing_parents_and_ids_used_twice_are_told() -> None:
    """Jaeger warns of both, and without the reason nobody knows why times look odd."""
    trace = of_shop(a_span("a", 1, 1), a_span("twin", 1, 1), a_span("orphan", 1, 2, 0xAB))
    assert without_skew(trace).warnings == {
        1: [DUPLICATE_ID],
        2: ["parent span ID=00000000000000ab is not in the trace; skipping clock skew adjustment"],
    }


def test_the_two_sides_of_a_call_that_share_an_id() -> None:
    """Zipkin's clients do that; the server's work would otherwise hang below the client, or vanish."""
    trace = [
        (SHOP, a_span("GET /", 1, 1, kind=Kind.SERVER)),
        (SHOP, a_span("call", 1, 2, 1, kind=Kind.CLIENT)),
        (STOCK, a_span("serve", 1, 2, 1, kind=Kind.SERVER)),
        (STOCK, a_span("query", 1, 3, 2, kind=Kind.CLIENT)),
    ]
    unique = with_unique_ids(trace)
    assert [(span.name, span.span_id, span.parent_id) for _, span in unique] == [
        ("GET /", 1, 0),
        ("call", 2, 1),
        ("serve", 4, 2),
        ("query", 3, 4),
    ]
    assert [span.span_id for _, span in trace] == [1, 2, 2, 3]


def test_the_largest_ids_are_followed_by_unused_ones() -> None:
    """Ids have 64 bits, and 0 means that there is none."""
    largest = 2**64 - 1
    trace = of_shop(
        a_span("a", 1, largest, kind=Kind.CLIENT), a_span("b", 1, largest, kind=Kind.SERVER), a_span("c", 1, 1)
    )
    assert [span.span_id for _, span in with_unique_ids(trace)] == [largest, 2, 1]


def test_spans_sent_twice_are_shown_once() -> None:
    """A client that had no answer sends again; the first one is kept."""
    twin = of_shop(a_span("a", 1, 1), a_span("b", 1, 2, 1), a_span("a", 1, 1))
    assert [span.name for _, span in without_duplicates(twin)] == ["a", "b"]
    other = of_shop(a_span("a", 1, 1), a_span("a", 1, 1, lasts_ns=101))
    assert len(without_duplicates(other)) == 2


def test_addresses_sent_as_numbers_can_be_read() -> None:
    """Old clients send 32 bits where people look for dots."""
    trace = [(Resource("s", {"ip": 0x7F000001}), a_span(attributes={"peer.ipv4": 0x0A000001, "n": 1}))]
    [(resource, span)] = adjust(trace).trace
    assert resource.attributes == {"ip": "127.0.0.1"}
    assert span.own == {"peer.ipv4": "10.0.0.1", "n": 1}
    assert trace[0][1].own["peer.ipv4"] == 0x0A000001


@pytest.mark.parametrize("shape", ["chain", "star", "loop", "twins"])
def test_a_hundred_thousand_spans_take_linear_time(shape: str) -> None:
    """Whoever sends a huge or broken trace must not be able to stop the backend: ten times the spans, about ten times
    the time, and no recursion."""
    parent_of = {"chain": lambda n: n - 1, "star": lambda n: int(n > 1), "loop": lambda n: n % 100_000 + 1}.get(
        shape, lambda n: 1
    )
    count = 100_000
    trace = [
        (SHOP if n % 2 else STOCK, a_span("x", 1, n if shape != "twins" else n % 2 + 1, parent_of(n), NOW_NS - n))
        for n in range(1, count + 1)
    ]
    started = time.process_time()
    summary, adjusted = summarise(trace), adjust(trace)
    assert time.process_time() - started < 10
    assert summary["spans"] == count
    assert len(adjusted.trace) == count


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1, "1ns"), (-1500, "-1.5µs"), (12_500_000, "12.5ms"), (1_200_000_000, "1.2s")]
    + [(90 * 10**9, "1m30s"), (-3_723_000_000_001, "-1h2m3.000000001s"), (3600 * 10**9, "1h0m0s")],
)
def test_durations_as_go_writes_them(nanoseconds: int, text: str) -> None:
    """Jaeger's warnings have this form, and tools look for it."""
    assert duration_text(nanoseconds) == text


# Rates, errors, durations -----------------------------------------------------------------------------------------


@at_any_speed
@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations: list[int], quantile: float) -> None:
    """The pages show p50 and p95; a bucket is 19 % wide, and further off it may not be."""
    true_ns = sorted(durations)[max(0, math.ceil(quantile * len(durations)) - 1)]
    found_ns = quantile_ns(Counter(map(bucket_of, durations)), quantile)
    longest_ns = 1000 * 2 ** (bucket_of(true_ns) / 4)
    shortest_ns = 0 if bucket_of(true_ns) == 0 else longest_ns / 2**0.25
    assert shortest_ns * 0.999 <= found_ns <= longest_ns * 1.001


def test_there_is_no_quantile_of_nothing() -> None:
    """A service without spans has no p95, and 0 would be a very good one."""
    assert math.isnan(quantile_ns({}, 0.5))
    assert math.isnan(quantile_ns({3: 0}, 0.5))


def a_rate(minute: int, calls: int, errors: int = 0, operation: str = "GET", lasts_ns: int = MS) -> Rate:
    return Rate(
        MINUTE + minute, "shop", operation, Kind.SERVER, calls, errors, calls * lasts_ns, {bucket_of(lasts_ns): calls}
    )


def test_series_slide_over_the_minutes() -> None:
    """The graphs of rates: each point covers the minutes before it, no more and no less."""
    rates = [a_rate(0, 60), a_rate(1, 120, 30), a_rate(3, 180)]
    times = [NOW_NS + minute * MINUTE_NS for minute in range(1, 7)]
    later = NOW_NS + 100 * MINUTE_NS

    def series(measure: analysis.Measure, minutes: int) -> list[float]:
        return red_series(rates, times, minutes, later, measure, by_operation=False)["shop", ""]

    assert series(call_rate, 1) == [1, 2, 0, 3, 0, 0]
    assert series(call_rate, 2) == [0.5, 1.5, 1, 1.5, 1.5, 0]
    assert series(error_share, 1)[:2] == [0, 0.25]
    assert [math.isnan(value) for value in series(error_share, 1)] == [False, False, True, False, True, True]
    assert [math.isnan(value) for value in series(latency_ms(0.9), 2)] == [False] * 5 + [True]
    assert series(latency_ms(1), 1)[0] == pytest.approx(1, rel=0.2)


def test_the_running_minute_counts_as_long_as_it_lasted() -> None:
    """Otherwise every graph would drop at its right end."""
    now_ns = NOW_NS + 15 * 10**9
    [values] = red_series([a_rate(0, 30)], [now_ns], 1, now_ns, call_rate, by_operation=False).values()
    assert values == [2]


def test_series_by_operation() -> None:
    """ "Monitor" shows which operation is slow."""
    rates = [a_rate(0, 60, operation="a"), a_rate(0, 120, operation="b"), a_rate(0, 60, operation="b")]
    found = red_series(rates, [NOW_NS + MINUTE_NS], 1, NOW_NS + MINUTE_NS, call_rate, by_operation=True)
    assert found == {("shop", "a"): [1], ("shop", "b"): [3]}


# What tracing costs -----------------------------------------------------------------------------------------------


def test_the_cost_of_a_request_is_that_of_all_its_spans() -> None:
    """The page says what tracing adds to a request of a service, and a request has many spans."""
    shop = Resource("shop", {"autoinstr.span_cost_us": 6.0})
    trace = [
        (shop, a_span("GET /", 1, 1)),
        (shop, a_span("query", 1, 2, 1)),
        (shop, a_span("render", 1, 3, 1)),
        (STOCK, a_span("find", 1, 4, 2)),
    ]
    assert tracing_cost_us([trace], "shop") == 18
    assert tracing_cost_us([trace, [(shop, a_span("GET /", 2, 1))]], "shop") == 12
    assert tracing_cost_us([trace], "stock") is None


@pytest.mark.parametrize("said", ["6", None, float("nan"), -1, float("inf")])
def test_a_cost_that_is_none_is_unknown(said: object) -> None:
    """The number comes from a peer, and must not make the answer unreadable."""
    attributes = {} if said is None else {"autoinstr.span_cost_us": said}
    assert tracing_cost_us([[(Resource("s", attributes), a_span())]], "s") is None
