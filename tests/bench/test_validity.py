"""The rules for one run: each is broken alone, from figures that break none, and spoils what docs/bench.md says."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from autoinstr.bench import validity
from autoinstr.bench.parts import (
    RATE,
    SATURATION,
    Cell,
    Fault,
    GeneratorFigures,
    LoadFigures,
    NoiseFigures,
    Quantiles,
    Sampling,
    ServerFigures,
    SpanFigures,
    Variant,
)

UDP = {"JAEGER_AGENT_PORT": "{udp_port}"}
ALL = Variant("const:1", "autoinstr", variables=UDP, sampling=Sampling("const", 1), exports=True, has_counters=True)
TENTH = dataclasses.replace(ALL, name="prob:0.1", sampling=Sampling("prob", 0.1))
LIMITED = dataclasses.replace(ALL, name="rate:10", sampling=Sampling("rate", 10))
NULL = dataclasses.replace(ALL, name="const:1-null", exports=False)
OVER_HTTP = dataclasses.replace(ALL, name="const:1@http", variables={"JAEGER_ENDPOINT": "{http}/api/traces"})
RIVAL = Variant("otel", "otel", variables={"ENDPOINT": "{http}"}, sampling=Sampling("const", 1), exports=True)
RIVAL_TENTH = dataclasses.replace(RIVAL, name="otel:0.1", sampling=Sampling("prob", 0.1))
BARE = Variant("none", "none")

CLOSED = Cell("hello", "flask", SATURATION, 16)
OPEN = Cell("hello", "flask", RATE, 64, 0.6)

DURATION = Quantiles(mean=900, p50=800, p90=1200, p99=2000, p999=3000, max=9000)
LOAD = LoadFigures(
    seconds=8.0,
    requests=40_000,
    errors=0,
    late=0,
    per_second=5000.0,
    target_per_second=None,
    response=DURATION,
    service=DURATION,
    lag=None,
    all_requests=59_990,
)
IN_TIME = Quantiles(mean=100, p50=50, p90=200, p99=900, p999=950, max=990)
DUE = dataclasses.replace(LOAD, target_per_second=5000.0, lag=IN_TIME)
SERVER = ServerFigures(cpu_us=7.2e6, idle_cpu_us_per_s=2000.0, cpu_us_per_request=180.0, requests=60_000)
#: Of 60,000 requests, ten of them probes, each of three spans.
SPANS = SpanFigures(
    started=180_000,
    finished=180_000,
    traces_sampled=60_000,
    dropped=0,
    failed=0,
    exported=180_000,
    left=0,
    received=180_000,
    received_traces=60_000,
    requests=60_000,
)
FROM_A_RIVAL = SpanFigures(received=180_000, received_traces=60_000, requests=60_000)
NOTHING_SENT = SpanFigures(requests=60_000)
GENERATOR = GeneratorFigures(cpu_share=0.5)
QUIET = NoiseFigures(steal=0.0, psi=0.0, other_cores=0.01, load_average=1.0, throttled=0)


def judged(variant: Variant = ALL, cell: Cell = CLOSED, **figures: Any) -> tuple[Fault, ...]:
    good: dict[str, Any] = {
        "load": DUE if cell.mode == RATE else LOAD,
        "server": SERVER,
        "spans": SPANS,
        "generator": GENERATOR,
        "noise": QUIET,
        "seconds": 12.0,
    }
    return validity.faults(variant, cell, **(good | figures))


def scopes(found: tuple[Fault, ...]) -> list[str]:
    return [fault.scope for fault in found]


def kept(traces: int, variant: Variant = TENTH) -> tuple[Fault, ...]:
    """So many traces of one span were kept of 60,000 requests."""
    if variant.has_counters:
        spans = SpanFigures(
            started=60_000, finished=traces, traces_sampled=traces, dropped=0, failed=0, exported=traces, left=0
        )
    else:
        spans = SpanFigures()
    spans = dataclasses.replace(spans, received=traces, received_traces=traces, requests=60_000)
    return judged(variant, spans=spans)


@pytest.mark.parametrize(
    ("variant", "cell", "spans"),
    [
        (ALL, CLOSED, SPANS),
        (ALL, OPEN, SPANS),
        (OVER_HTTP, CLOSED, SPANS),
        (RIVAL, CLOSED, FROM_A_RIVAL),
        (BARE, CLOSED, NOTHING_SENT),
        (NULL, CLOSED, dataclasses.replace(SPANS, exported=0, received=0, received_traces=0)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_good_run_has_no_faults(variant: Variant, cell: Cell, spans: SpanFigures) -> None:
    """Every run would be thrown away."""
    found = judged(variant, cell, spans=spans, is_uniform=True)
    assert found == ()
    assert validity.status_of(found, is_steady=True) == "ok"
    assert validity.status_of(found, is_steady=False) == "unsteady"


def test_figures_that_a_system_does_not_give_break_no_rule() -> None:
    """On a system without /proc nothing could be measured at all."""
    unknown = dataclasses.replace(SERVER, requests=None)
    assert judged(server=unknown, noise=NoiseFigures(), generator=None, spans=None) == ()
    assert judged(noise=None) == ()


def test_nothing_measured_spoils_all() -> None:
    """A program that died would be the fastest."""
    assert scopes(judged(load=None)) == scopes(judged(server=None)) == ["all"]
    assert scopes(judged(load=dataclasses.replace(LOAD, requests=0))) == ["all"]


@pytest.mark.parametrize(
    ("errors", "all_errors", "expected"), [(0, 5, []), (4, 4, []), (5, 5, ["all"]), (0, 7, ["all"])]
)
def test_failed_requests_spoil_all(errors: int, all_errors: int, expected: list[str]) -> None:
    """A variant under which the program answers 500 would be the cheapest."""
    found = judged(load=dataclasses.replace(LOAD, errors=errors, all_errors=all_errors))
    assert scopes(found) == expected
    assert all("failed" in fault.text for fault in found)


def test_requests_that_nobody_made_spoil_all() -> None:
    """Somebody else's requests would be counted as our own CPU."""
    (fault,) = judged(server=dataclasses.replace(SERVER, requests=60_100))
    assert fault.scope == "all"
    assert "served 60,100 requests, but 60,000 were made" in fault.text
    failed = dataclasses.replace(LOAD, all_errors=2)
    assert judged(server=dataclasses.replace(SERVER, requests=59_998), load=failed) == ()


def test_a_request_without_cpu_spoils_cpu() -> None:
    """A program that is busy when idle would have a cost below nothing."""
    assert scopes(judged(server=dataclasses.replace(SERVER, cpu_us_per_request=-1.0))) == ["cpu"]


@pytest.mark.parametrize("change", [{"finished": 180_001}, {"exported": 179_999, "received": 179_999}, {"left": 1}])
def test_a_span_that_is_nowhere_spoils_all(change: dict[str, int]) -> None:
    """An agent that loses spans silently is faster (Pinpoint and Scouter do, ICPE 2026)."""
    found = judged(spans=dataclasses.replace(SPANS, **change))
    assert scopes(found) == ["all"]
    assert "spans finished, but exported" in found[0].text


def test_lost_datagrams_are_forgiven_to_a_thousandth() -> None:
    """UDP loses; but a sink that loses much measures nothing."""
    assert judged(spans=dataclasses.replace(SPANS, received=179_820)) == ()
    (fault,) = judged(spans=dataclasses.replace(SPANS, received=179_800, datagrams_lost=7))
    assert fault.scope == "all"
    assert "200 of 180,000 spans were lost on UDP (0.111 %; datagrams lost: 7)" in fault.text
    (fault,) = judged(spans=dataclasses.replace(SPANS, received=179_000, datagrams_lost=None))
    assert "no word from the kernel" in fault.text


def test_payloads_that_the_sink_cannot_read_are_no_spans_of_nobody() -> None:
    """Spans in a format that we read wrongly would be missing from the account without a word."""
    (fault,) = judged(RIVAL, spans=dataclasses.replace(FROM_A_RIVAL, undecodable=2))
    assert fault.scope == "all"
    assert "could not read 2 payloads" in fault.text


def test_a_sink_that_reads_while_it_measures_takes_the_generators_time() -> None:
    found = judged(spans=dataclasses.replace(SPANS, read_early=3))
    assert scopes(found) == ["throughput", "latency"]


def test_over_http_every_span_arrives() -> None:
    (fault,) = judged(OVER_HTTP, spans=dataclasses.replace(SPANS, received=179_999))
    assert fault.scope == "all"
    assert "180,000 spans were exported but 179,999 arrived" in fault.text


@pytest.mark.parametrize("variant", [ALL, OVER_HTTP])
def test_spans_from_nowhere_spoil_all(variant: Variant) -> None:
    """Another agent's variables in the environment would be measured as ours."""
    (fault,) = judged(variant, spans=dataclasses.replace(SPANS, received=180_001))
    assert "another process sends" in fault.text
    (fault,) = judged(BARE, spans=dataclasses.replace(NOTHING_SENT, received=1))
    assert fault.scope == "all"
    assert "none sends none" in fault.text


@pytest.mark.parametrize("variant", [TENTH, RIVAL_TENTH])
def test_a_share_is_judged_by_the_exact_interval(variant: Variant) -> None:
    """A sampler that keeps 9.5 % instead of 10 % would be measured as 10 %; by counters, or by what arrived."""
    assert kept(6000, variant) == kept(5760, variant) == kept(6240, variant) == ()
    (fault,) = kept(5740, variant)
    assert fault.scope == "all"
    assert f"5,740 of 60,000 requests were sampled, where {variant.name} keeps 6,000 ± 242" in fault.text
    assert scopes(kept(6260, variant)) == scopes(kept(0, variant)) == scopes(kept(60_001, variant)) == ["all"]


def test_samplers_that_work_are_seldom_accused() -> None:
    """One good run in a thousand is repeated, not one in twenty."""
    chance = random.Random(21)
    accused = sum(bool(kept(sum(chance.random() < 0.01 for _ in range(60_000)), share_of(0.01))) for _ in range(60))
    assert accused <= 1


def share_of(share: float) -> Variant:
    return dataclasses.replace(TENTH, name=f"prob:{share}", sampling=Sampling("prob", share))


@pytest.mark.parametrize("variant", [ALL, RIVAL])
def test_const_keeps_exactly_all(variant: Variant) -> None:
    """One request without a trace is a fault of the agent, not chance."""
    assert kept(60_000, variant) == ()
    (fault,) = kept(59_999, variant)
    assert "keeps all" in fault.text


def test_const_keeps_exactly_nothing() -> None:
    nothing = dataclasses.replace(ALL, name="const:0", sampling=Sampling("const", 0))
    assert kept(0, nothing) == ()
    assert "keeps none" in kept(1, nothing)[0].text


def test_traces_without_counters_may_be_lost_on_udp_too() -> None:
    deaf = dataclasses.replace(ALL, has_counters=False)
    assert kept(59_940, deaf) == ()
    assert scopes(kept(59_939, deaf)) == ["all"]


def test_a_budget_says_nothing_of_the_number_of_traces() -> None:
    """No run of it would ever count: a share of the CPU time is not a rate of traces."""
    budget = dataclasses.replace(ALL, name="budget:0.02", sampling=Sampling("budget", 0.02))
    assert [kept(sampled, budget) for sampled in (0, 1, 131, 1200)] == [()] * 4


def test_a_rate_limit_is_a_limit() -> None:
    """Two worker processes would sample twice as many, and be called rate:10."""
    assert kept(130, LIMITED) == kept(1, LIMITED) == ()
    (fault,) = kept(131, LIMITED)
    assert "131 traces were sampled in about 12 s, where rate:10 allows 130" in fault.text
    (fault,) = kept(0, LIMITED)
    assert "does the agent run" in fault.text


def test_a_run_of_unknown_length_is_judged_by_its_requests() -> None:
    """60,000 requests at 5,000/s took 12 s, and at the start a little longer."""
    many = dataclasses.replace(SPANS, **dict.fromkeys(("finished", "exported", "received", "traces_sampled"), 250))
    assert scopes(judged(LIMITED, spans=many, seconds=None)) == ["all"]
    few = dataclasses.replace(SPANS, **dict.fromkeys(("finished", "exported", "received", "traces_sampled"), 130))
    assert judged(LIMITED, spans=few, seconds=None) == ()


def test_dropped_spans_spoil_what_is_said_of_spans() -> None:
    """A variant that drops is faster: its figures are shown, but nothing is claimed for it."""
    few = dataclasses.replace(SPANS, dropped=180, exported=179_820, received=179_820)
    assert judged(spans=few) == ()
    (fault,) = judged(spans=dataclasses.replace(SPANS, dropped=100, failed=81, exported=179_819, received=179_819))
    assert fault.scope == "spans"
    assert "181 of 180,000 spans were lost by the agent (0.101 %: 100 dropped, 81 failed)" in fault.text
    assert validity.status_of([fault], is_steady=True) == "invalid"


def test_counters_that_could_not_be_read_are_not_zero() -> None:
    (fault,) = judged(spans=FROM_A_RIVAL)
    assert fault.scope == "spans"
    assert "could not be read" in fault.text


def test_a_rival_sends_a_whole_number_of_spans_for_each_request() -> None:
    """A rival has no counters: a lost batch shows as a fraction of a span."""
    broken = dataclasses.replace(FROM_A_RIVAL, received=179_488)
    assert judged(RIVAL, spans=broken) == ()
    (fault,) = judged(RIVAL, spans=broken, is_uniform=True)
    assert fault.scope == "all"
    assert "no whole number" in fault.text


@pytest.mark.parametrize("cell", [CLOSED, OPEN])
def test_a_generator_at_its_limit_spoils_latency_and_throughput_but_not_cpu(cell: Cell) -> None:
    """The generator's own limit would be reported as the program's."""
    found = judged(cell=cell, generator=GeneratorFigures(cpu_share=0.83, processes=2))
    assert scopes(found) == ["throughput", "latency"]
    assert found[0].text == "the generator used 83 % of its core (at most 70 %): fewer users, or --processes 3"
    assert not validity.is_worth_repeating(found)
    assert judged(cell=cell, generator=GeneratorFigures(cpu_share=0.70)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_second": 4900.0}, "4,900 requests/s instead of 5,000 (98 %, at most 1.6"),
        ({"per_second": 5100.0}, "5,100 requests/s"),
        ({"lag": dataclasses.replace(IN_TIME, p99=1001)}, "requests left 1.0 ms late"),
        ({"unsent": 3}, "3 requests that were due were never sent"),
    ],
)
def test_a_schedule_that_was_not_kept_spoils_latency(change: dict[str, Any], words: str) -> None:
    """A generator that falls behind asks less, and the service looks better for it (coordinated omission)."""
    late = dataclasses.replace(DUE, **change)
    (fault,) = judged(cell=OPEN, load=late)
    assert fault.scope == "latency"
    assert words in fault.text
    assert judged(cell=CLOSED, load=late) == ()


def test_a_schedule_is_kept_within_what_random_arrivals_scatter() -> None:
    """100 requests a second for 8 s are 800 ± 28: a limit of 1 % would throw three runs of four away."""
    slow = dataclasses.replace(DUE, target_per_second=100.0, per_second=91.0)
    assert judged(cell=OPEN, load=slow) == ()
    assert scopes(judged(cell=OPEN, load=dataclasses.replace(slow, per_second=87.0))) == ["latency"]
    assert judged(cell=OPEN, load=dataclasses.replace(DUE, per_second=4960.0)) == ()


def test_slow_services_may_be_asked_a_little_later() -> None:
    """A lag of 5 ms is nothing where an answer takes 200 ms."""
    slow = dataclasses.replace(DUE, response=dataclasses.replace(DURATION, p50=200_000), lag=dataclasses.replace(IN_TIME, p99=20_000))
    assert judged(cell=OPEN, load=slow) == ()
    later = dataclasses.replace(slow, lag=dataclasses.replace(IN_TIME, p99=20_001))
    assert scopes(judged(cell=OPEN, load=later)) == ["latency"]


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ({"steal": 0.01}, []),
        ({"steal": 0.011}, ["latency", "throughput"]),
        ({"steal": 0.05}, ["all"]),
        ({"other_cores": 0.05}, []),
        ({"other_cores": 0.12}, ["latency", "throughput"]),
        ({"other_cores": 0.20}, ["all"]),
    ],
)
def test_a_busy_machine_spoils_time_first_and_then_all(noise: dict[str, float], expected: list[str]) -> None:
    """A backup that ran at night would be reported as the cost of tracing."""
    found = judged(noise=dataclasses.replace(QUIET, **noise))
    assert scopes(found) == expected
    assert all("wait until it is quiet" in fault.text for fault in found)
    assert validity.is_worth_repeating(found) == (expected == ["all"])
