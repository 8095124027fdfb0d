"""Whether the figures of one run can be used: the rules of docs/bench.md, stated before anything was measured.

Owns: the limits, what breaks them, which figures that spoils, and the sentence that says so.
Must not know: other runs, intervals, what the figures are going to show: a rule that looked at results would choose them.
Invariants: pure; a figure that could not be measured (None) breaks no rule by itself; every text has the numbers, and what to do.

In a closed loop a generator at its limit makes requests later, not dearer: CPU per request stays usable, throughput and latency
do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from autoinstr.bench import stats
from autoinstr.bench.parts import (
    RATE,
    Cell,
    Fault,
    GeneratorFigures,
    LoadFigures,
    NoiseFigures,
    ServerFigures,
    SpanFigures,
    Variant,
)

#: Of requests that may fail: a program that refuses work is a fast one.
MOST_ERRORS = 0.0001
#: Of spans that may be lost: UDP between kernel buffers, and before a figure is called too good for its losses.
MOST_LOST = 0.001
#: A sampler that does what it is set to breaks the rule in one run of a thousand.
SAMPLING_LEVEL = 0.001
#: Of its core, for each process of the generator.
MOST_GENERATOR_CPU = 0.70
#: Achieved requests per second against the target, and how many standard deviations random arrivals may add to it.
RATE_TOLERANCE = 0.01
ARRIVAL_DEVIATIONS = 3.29
#: Lag of the 99th percentile: this, or a share of the median response time where that is more.
MOST_LAG_US, MOST_LAG_SHARE = 1000.0, 0.10
#: (noticeable, bad): shares of time, and cores.
STEAL_LIMITS = (0.01, 0.05)
OTHERS_LIMITS = (0.05, 0.20)
#: A run's length by its mean rate is only about right: the first seconds are slower.
LENGTH_MARGIN = 1.5


def faults(
    variant: Variant,
    cell: Cell,
    *,
    load: LoadFigures | None,
    server: ServerFigures | None,
    spans: SpanFigures | None,
    generator: GeneratorFigures | None,
    noise: NoiseFigures | None,
    seconds: float | None = None,
    is_uniform: bool = False,
) -> tuple[Fault, ...]:
    """What is wrong with a run; nothing where nothing is.

    ``seconds`` is how long the program ran (for rate limits; estimated from the requests where not given); ``is_uniform``
    says that all requests of the scenario make equally many spans.
    """
    if load is None or server is None or not load.requests:
        return (Fault("all", "no request was measured: the program's log has the cause"),)
    found: list[Fault] = [*_of_requests(load, server, spans)]
    if spans is not None:
        if seconds is None:
            seconds = LENGTH_MARGIN * load.all_requests / load.per_second if load.per_second else load.seconds
        found += [Fault("all", text) for text in unaccounted(variant, spans, seconds, load.all_errors, is_uniform)]
        found += [Fault("spans", text) for text in lost(variant, spans)]
        if spans.read_early:
            text = f"the sink had to read {spans.read_early:,} payloads while it measured: a shorter window, or less load"
            found += _spoils(("throughput", "latency"), text)
    if generator is not None:
        found += _of_generator(generator)
    if cell.mode == RATE:
        found += [Fault("latency", text) for text in _of_schedule(load)]
    if noise is not None:
        found += _of_noise(noise)
    return tuple(found)


def status_of(found: Iterable[Fault], is_steady: bool) -> str:
    """``invalid``, ``unsteady`` or ``ok``: what ``Run.status`` says of a run that could be measured."""
    if any(found):
        return "invalid"
    return "ok" if is_steady else "unsteady"


def is_worth_repeating(found: Iterable[Fault]) -> bool:
    """Whether all of the run is spoiled. A generator at its limit, or an agent that drops spans, will be so again."""
    return any(fault.scope == "all" for fault in found)


# Requests.


def _of_requests(load: LoadFigures, server: ServerFigures, spans: SpanFigures | None) -> Iterator[Fault]:
    for errors, requests, where in (
        (load.errors, load.requests, "in the window"),
        (load.all_errors, load.all_requests, "in the run"),
    ):
        if errors > MOST_ERRORS * requests:
            yield Fault(
                "all",
                f"{errors:,} of {requests:,} requests {where} failed ({_percent(errors / max(requests, 1))}): "
                "see what the program answers at this concurrency",
            )
            break
    if server.requests is not None and spans is not None and abs(server.requests - spans.requests) > load.all_errors:
        yield Fault(
            "all",
            f"the program served {server.requests:,} requests, but {spans.requests:,} were made: "
            "does something else send requests to it, or does it have several processes?",
        )
    if server.cpu_us_per_request <= 0:
        yield Fault(
            "cpu",
            f"a request used {server.cpu_us_per_request:.1f} µs beyond the {server.idle_cpu_us_per_s:.0f} µs/s that the "
            "program uses idle: more load, or a longer window",
        )


# Spans.


def unaccounted(
    variant: Variant, spans: SpanFigures, seconds: float, errors: int = 0, is_uniform: bool = False
) -> Iterator[str]:
    """What does not add up in the accounting of spans: sentences, each with its numbers.

    ``errors`` requests may have reached the program or not. Agents without counters (rivals) are judged by what the sink received:
    traces against requests, and where requests are alike (``is_uniform``) a whole number of spans for each trace.
    """
    yield from _own_accounting(variant, spans)
    yield from _arrival(variant, spans)
    yield from _sampling(variant, spans, seconds, errors)
    if spans.undecodable:
        yield f"the sink could not read {spans.undecodable:,} payloads, so that nobody knows what was in them"
    if is_uniform and spans.exported is None and spans.received_traces and spans.received % spans.received_traces:
        yield (
            f"{spans.received:,} spans of {spans.received_traces:,} traces arrived, which is no whole number for each: "
            "the agent lost spans, or the sink did"
        )


def _own_accounting(variant: Variant, spans: SpanFigures) -> Iterator[str]:
    """Every finished span is sent, lost with our knowledge, or still there."""
    parts = (spans.exported, spans.dropped, spans.failed, spans.left)
    if not variant.exports or spans.finished is None or None in parts:
        return
    total = sum(part for part in parts if part is not None)
    if total != spans.finished:
        yield (
            f"{spans.finished:,} spans finished, but exported {spans.exported:,} + dropped {spans.dropped:,} + "
            f"failed {spans.failed:,} + left {spans.left:,} are {total:,}: the agent's counters are wrong, or were read "
            "before its queue was empty"
        )


def _arrival(variant: Variant, spans: SpanFigures) -> Iterator[str]:
    """What was sent has arrived, and nothing else."""
    if not variant.exports:
        if spans.received:
            yield (
                f"{spans.received:,} spans arrived though {variant.name} sends none: another process sends to this sink, "
                "or a variable of another agent is set"
            )
        return
    if spans.exported is None or spans.received == spans.exported:
        return
    missing = spans.exported - spans.received
    if missing < 0:
        yield f"{spans.exported:,} spans were exported but {spans.received:,} arrived: another process sends to this sink"
    elif not uses_udp(variant):
        yield f"{spans.exported:,} spans were exported but {spans.received:,} arrived: see whether the sink answered all"
    elif missing > MOST_LOST * spans.exported:
        by_kernel = "no word from the kernel" if spans.datagrams_lost is None else f"datagrams lost: {spans.datagrams_lost:,}"
        yield (
            f"{missing:,} of {spans.exported:,} spans were lost on UDP ({_percent(missing / spans.exported)}; "
            f"{by_kernel}): less load, a core for the sink, or a larger net.core.rmem_max"
        )


def uses_udp(variant: Variant) -> bool:
    """Whether its spans may be lost without anybody's fault."""
    return any("{udp_port}" in value for value in (*variant.variables.values(), *variant.launcher))


def _sampling(variant: Variant, spans: SpanFigures, seconds: float, errors: int) -> Iterator[str]:
    """As many traces are kept as the sampler is set to keep. (A budget says nothing of their number.)"""
    if variant.sampling is None or (spans.traces_sampled is None and not variant.exports):
        return
    if variant.sampling.type == "budget":
        return
    sampled = spans.received_traces if spans.traces_sampled is None else spans.traces_sampled
    share = variant.sampling.expected_share()
    if share is None:
        yield from _rate_limit(variant, sampled, spans.requests, seconds)
        return
    text = f"{sampled:,} of {spans.requests:,} requests were sampled, where {variant.name} keeps "
    advice = ": the sampler is set otherwise than the variant says, or traces are missing"
    if share in (0.0, 1.0):
        fewest = 0.0
        if share:
            may_be_lost = MOST_LOST if spans.traces_sampled is None and uses_udp(variant) else 0.0
            fewest = (spans.requests - errors) * (1 - may_be_lost)
        if not fewest <= sampled <= share * spans.requests:
            yield text + ("all" if share else "none") + advice
        return
    p = stats.binomial_two_sided(sampled, spans.requests, share) if sampled <= spans.requests else 0.0
    if p < SAMPLING_LEVEL:
        around = ARRIVAL_DEVIATIONS * math.sqrt(spans.requests * share * (1 - share))
        yield f"{text}{share * spans.requests:,.0f} ± {around:,.0f} (p = {p:.1g})" + advice


def _rate_limit(variant: Variant, sampled: int, requests: int, seconds: float) -> Iterator[str]:
    assert variant.sampling is not None  # noqa: S101 (asked by the caller)
    per_second = variant.sampling.param
    if not stats.rate_limit_allows(sampled, per_second, seconds):
        yield (
            f"{sampled:,} traces were sampled in about {seconds:.0f} s, where {variant.name} allows "
            f"{per_second * seconds + max(per_second, 1):,.0f}: does the program have several processes?"
        )
    elif not sampled and requests and per_second >= 1:
        yield f"no trace of {requests:,} requests was sampled, where {variant.name} begins with one: does the agent run?"


def lost(variant: Variant, spans: SpanFigures) -> Iterator[str]:
    """Spans that the agent gave up: it is faster for it, so that no cost may be stated without its losses."""
    if variant.has_counters and variant.exports and spans.finished is None and spans.received:
        yield f"the counters of {variant.name} could not be read: nobody knows how many spans it dropped"
    gone = (spans.dropped or 0) + (spans.failed or 0)
    if spans.finished and gone > MOST_LOST * spans.finished:
        yield (
            f"{gone:,} of {spans.finished:,} spans were lost by the agent ({_percent(gone / spans.finished)}: "
            f"{spans.dropped or 0:,} dropped, {spans.failed or 0:,} failed), so that it seems cheaper than it is: "
            "less load, a lower rate, or a larger queue"
        )


# Generator, schedule, machine.


def _of_generator(generator: GeneratorFigures) -> Iterator[Fault]:
    if generator.cpu_share > MOST_GENERATOR_CPU:
        text = (
            f"the generator used {_percent(generator.cpu_share)} of its core (at most {_percent(MOST_GENERATOR_CPU)}): "
            f"fewer users, or --processes {generator.processes + 1}"
        )
        yield from _spoils(("throughput", "latency"), text)


def _of_schedule(load: LoadFigures) -> Iterator[str]:
    """Rate mode: the requests that were due were made, in time."""
    target = load.target_per_second
    if target:
        # Random arrivals scatter by the root of their number; within that, the schedule was kept.
        scatter = ARRIVAL_DEVIATIONS / math.sqrt(max(target * load.seconds, 1.0))
        achieved, tolerance = load.per_second / target, max(RATE_TOLERANCE, scatter)
        if abs(achieved - 1) > tolerance:
            yield (
                f"{load.per_second:,.0f} requests/s instead of {target:,.0f} ({_percent(achieved)}, at most "
                f"{_percent(tolerance)} off): the program cannot keep up at this load, or has too few connections"
            )
    if load.lag is not None:
        most_us = max(MOST_LAG_US, MOST_LAG_SHARE * load.response.p50)
        if load.lag.p99 > most_us:
            yield (
                f"requests left {load.lag.p99 / 1000:.1f} ms late (99th percentile; at most {most_us / 1000:.1f} ms): "
                "more concurrency, a core for the generator alone, or less load"
            )
    if load.unsent:
        yield f"{load.unsent:,} requests that were due were never sent: more concurrency, or less load"


def _of_noise(noise: NoiseFigures) -> Iterator[Fault]:
    for value, (noticeable, bad), what, advice in (
        (noise.steal, STEAL_LIMITS, "the hypervisor took {} of the time", "measure on a machine of one's own"),
        (noise.other_cores, OTHERS_LIMITS, "other processes used {} of a core on these CPUs", "end them"),
    ):
        if value is not None and value > noticeable:
            text = f"{what.format(_percent(value))} (at most {_percent(noticeable)}): {advice}, or wait until it is quiet"
            yield from _spoils(("all",) if value >= bad else ("latency", "throughput"), text)


def _spoils(scopes: Iterable[str], text: str) -> Iterator[Fault]:
    return (Fault(scope, text) for scope in scopes)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
