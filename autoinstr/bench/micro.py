"""``autoinstr bench micro``: single operations of the agent, in nanoseconds.

Owns: the operations, how one process times them, how several processes become an interval, the table.
Must not know: requests, variants, servers.
Invariants: the agent's modules are imported only in the measuring processes, never in the one that reports; each of these is
fresh, pinned, has an order of operations and a hash seed of its own, and times an empty function beside every operation;
the interval is over processes, because rounds within one share its memory layout (Georges et al., OOPSLA 2007).

The clock is the thread's CPU time where the system has a fine one, so a busy machine disturbs caches, but not the count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median, stdev
from typing import Any

from autoinstr.bench.parts import PASSED, Estimate, Refusal, to_json

#: A round is so many calls that it takes about this long: the clock's own 0.3 µs do not count then.
ROUND_NS = 1_000_000
ROUNDS = 15
MOST_CALLS = 1 << 22
#: Longer than any round by far; a process that takes longer hangs.
TIMEOUT_S = 300.0
#: Above this relative spread between processes a figure is marked (pyperf's rule for an unstable benchmark).
UNSTABLE = 0.1
#: ... unless it is so little that it is the clock's.
UNSTABLE_NS = 5.0
#: Of the batches that encoders are given; the figure is per span.
BATCH = 50


@dataclass(frozen=True)
class Operation:
    """``call`` is what is timed, and does ``per_call`` of it; ``reset`` runs before each round, uncounted."""

    name: str
    call: Callable[[], object]
    per_call: int = 1
    reset: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timed:
    """An operation over all processes: nanoseconds, with the interval of the mean (95 %, Student's t)."""

    name: str
    ns: Estimate
    processes: tuple[float, ...]

    @property
    def is_unstable(self) -> bool:
        """Whether the processes differ so much (standard deviation) that the interval should not be relied on."""
        return stdev(self.processes) > max(UNSTABLE * abs(self.ns.mean), UNSTABLE_NS)


def main(words: list[str]) -> int:
    """Carry out ``autoinstr bench micro words``; the exit status. Raises Refusal."""
    if words[:1] == ["--child"]:
        return _child(json.loads(words[1]))
    parser = argparse.ArgumentParser("autoinstr bench micro", description="Single operations of the agent, in nanoseconds.")
    parser.add_argument("--processes", type=int, default=10, metavar="N", help="fresh processes; default: 10, at least 2")
    parser.add_argument("--only", default="", metavar="TEXT", help="operations whose name contains this")
    parser.add_argument("--rivals", action="store_true", help="the OpenTelemetry SDK's spans, too, where it is installed")
    parser.add_argument("--cpu", type=int, help="where to measure; default: the first one that may be used")
    parser.add_argument("--seed", type=int, default=1, help="of the orders; default: 1")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    options = parser.parse_args(words)
    if options.processes < 2:
        raise Refusal("--processes must be at least 2: an interval needs more than one")
    if options.rivals and find_spec("opentelemetry") is None:
        raise Refusal("--rivals needs the OpenTelemetry SDK in this environment: pip install opentelemetry-sdk")
    timed = measure(
        options.processes, seed=options.seed, only=options.only, with_rivals=options.rivals, cpus=_cpus(options.cpu)
    )
    print(json.dumps(_as_json(timed), indent=1) if options.json else as_text(timed))
    return PASSED


def measure(
    processes: int,
    *,
    seed: int = 1,
    only: str = "",
    with_rivals: bool = False,
    cpus: frozenset[int] = frozenset(),
    round_ns: int = ROUND_NS,
    rounds: int = ROUNDS,
) -> list[Timed]:
    """Time the operations in fresh processes, one after the other. Raises Refusal where one fails, or none is named so."""
    from autoinstr.bench.stats import t_interval

    found: dict[str, list[float]] = {}
    for number in range(processes):
        task = {
            "seed": seed + number,
            "only": only,
            "with_rivals": with_rivals,
            "cpus": sorted(cpus),
            "round_ns": round_ns,
            "rounds": rounds,
        }
        for name, ns in _asked(task).items():
            found.setdefault(name, []).append(ns)
    return [Timed(name, t_interval(values), tuple(values)) for name, values in found.items()]


def _asked(task: Mapping[str, Any]) -> dict[str, float]:
    """What a fresh process has measured, in the order in which operations are listed."""
    from autoinstr.bench import variants

    # As any program's, without the caller's settings for agents; but the layout of dictionaries is to vary.
    environment = {**variants.environment(variants.parse("none"), {}), "PYTHONHASHSEED": str(task["seed"] % 2**32)}
    command = [sys.executable, "-m", "autoinstr.bench.micro", "--child", json.dumps(task)]
    try:
        done = subprocess.run(  # noqa: S603 (this very module)
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refusal(f"a measuring process did not end within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise Refusal(f"a measuring process failed: {last[0]}")
    answer: dict[str, float] = json.loads(done.stdout)
    if not answer:
        raise Refusal(f"no operation's name contains {task['only']!r}; `autoinstr bench micro` lists them all")
    return answer


def _cpus(asked: int | None) -> frozenset[int]:
    from autoinstr.bench.machine import allowed_cpus

    allowed = allowed_cpus()
    if asked is None:
        return frozenset([min(allowed)]) if allowed else frozenset()
    if asked not in allowed:
        text = ",".join(map(str, sorted(allowed)))
        raise Refusal(f"CPU {asked} cannot be used here: " + (f"this process may use {text}" if allowed else "nothing can be pinned"))
    return frozenset([asked])


def as_text(timed: Sequence[Timed]) -> str:
    """The table for people."""
    width = max(len(one.name) for one in timed)
    lines = [f"{'operation':<{width}}  {'ns':>8}  95 % interval"]
    for one in timed:
        mark = "  unstable: the processes differ by more than 10 %" if one.is_unstable else ""
        lines.append(f"{one.name:<{width}}  {one.ns.mean:8.0f}  [{one.ns.low:.0f}, {one.ns.high:.0f}]{mark}")
    lines.append(f"{len(timed[0].processes)} processes; an empty function's time is taken off")
    return "\n".join(lines)


def _as_json(timed: Sequence[Timed]) -> dict[str, Any]:
    from autoinstr.bench.machine import machine

    operations = {one.name: {"ns": to_json(one.ns), "processes": one.processes, "is_unstable": one.is_unstable} for one in timed}
    return {"machine": machine(), "operations": operations}


# ---- In the measuring process ----------------------------------------------------------------------


def _child(task: Mapping[str, Any]) -> int:
    if task["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, task["cpus"])
    every = [*_operations(), *(_rival_operations() if task["with_rivals"] else [])]
    operations = [one for one in every if task["only"].lower() in one.name.lower()]
    order = list(operations)
    random.Random(task["seed"]).shuffle(order)  # noqa: S311 (an order, no secret)
    found = {one.name: nanoseconds(one, task["round_ns"], task["rounds"]) for one in order}
    print(json.dumps({one.name: found[one.name] for one in operations}))
    return 0


def nanoseconds(operation: Operation, round_ns: int = ROUND_NS, rounds: int = ROUNDS) -> float:
    """Nanoseconds for one: the median over rounds of its time less that of an empty function, timed right beside it."""
    clock = _clock()
    calls = _calls_per_round(operation, round_ns, clock)
    differences = []
    for number in range(rounds):
        # Which comes first alternates, so that a frequency that changes slowly favours neither.
        pair = [operation, EMPTY] if number % 2 else [EMPTY, operation]
        times = {one.name: _round(one, calls, clock) for one in pair}
        differences.append((times[operation.name] - times[EMPTY.name]) / calls / operation.per_call)
    return median(differences)


def _nothing() -> None:
    """What a call costs in itself."""


EMPTY = Operation("", _nothing)


def _calls_per_round(operation: Operation, round_ns: int, clock: Callable[[], int]) -> int:
    """As many calls as fill a round; finding out warms the operation up."""
    calls = 1
    while calls < MOST_CALLS:
        taken_ns = _round(operation, calls, clock)
        if taken_ns >= round_ns:
            break
        calls = max(calls + 1, min(2 * calls, calls * round_ns // max(taken_ns, 1)))
    return calls


def _round(operation: Operation, calls: int, clock: Callable[[], int]) -> int:
    call = operation.call
    if operation.reset is not None:
        operation.reset()
    again = itertools.repeat(None, calls)
    begun_ns = clock()
    for _ in again:
        call()
    return clock() - begun_ns


def _clock() -> Callable[[], int]:
    """The thread's CPU time, or what passes where that is too coarse (Windows: 16 ms)."""
    if time.get_clock_info("thread_time").resolution < 1e-6:
        return time.thread_time_ns
    return time.perf_counter_ns


def _operations() -> list[Operation]:
    return [*_span_operations(), *_sampler_operations(), *_propagator_operations(), *_report_operations(), *_encoders()]


def _span_operations() -> list[Operation]:
    from autoinstr.model import Kind
    from autoinstr.report import NullReporter
    from autoinstr.sampling import ConstSampler
    from autoinstr.trace import Span, Tracer, current

    def whole(tracer: Tracer, parent: Span | None) -> Callable[[], object]:
        def call() -> None:
            span = tracer.start("GET /items/{id}", Kind.SERVER, parent)
            token = current.set(span)
            current.reset(token)
            span.end()

        return call

    def with_attributes(tracer: Tracer) -> Callable[[], object]:
        def call() -> None:
            span = tracer.start("GET /items/{id}", Kind.SERVER)
            span.set_attribute("http.request.method", "GET")
            span.set_attribute("http.response.status_code", 200)
            span.end()

        return call

    found = []
    for word, decision in (("sampled", True), ("unsampled", False)):
        tracer = Tracer(ConstSampler(decision), NullReporter())
        parent = tracer.start("parent")
        found += [
            Operation(f"span, {word}: start and end of a root", whole(tracer, None)),
            Operation(f"span, {word}: start and end of a child", whole(tracer, parent)),
            Operation(f"span, {word}: a root with two attributes", with_attributes(tracer)),
        ]
    return found


def _sampler_operations() -> list[Operation]:
    from autoinstr.sampling import ConstSampler, PerOperationSampler, ProbabilisticSampler, RateLimitingSampler

    operations = {"perOperationStrategies": [{"operation": "GET /", "probabilisticSampling": {"samplingRate": 0.1}}]}
    samplers: Mapping[str, Any] = {
        "const": ConstSampler(True),
        "probabilistic, 0.1": ProbabilisticSampler(0.1),
        "ratelimiting, 10 a second": RateLimitingSampler(10),
        "per operation": PerOperationSampler({"defaultSamplingProbability": 0.001, **operations}),
    }
    draw = random.Random(1).getrandbits  # noqa: S311 (trace ids of a measurement)
    ids = [draw(128) for _ in range(1024)]

    def decision(decide: Callable[[int, str], object]) -> Callable[[], object]:
        following = itertools.cycle(ids).__next__
        return lambda: decide(following(), "GET /")

    return [Operation(f"sampler: {name}", decision(sampler.decide)) for name, sampler in samplers.items()]


def _propagator_operations() -> list[Operation]:
    from autoinstr.model import STARTED, SpanContext
    from autoinstr.propagate import FORMATS, Propagator

    context = SpanContext(0x5B8AA5A2D2C872E8321CF37308D69DF2, 0x51581BF3CB55C13B, STARTED, baggage={"user": "alice"})
    plain = SpanContext(context.trace_id, context.span_id, context.flags)
    other = {"host": "127.0.0.1:8000", "user-agent": "bench", "accept": "*/*", "accept-encoding": "gzip, deflate"}

    def inject(propagator: Propagator, what: SpanContext) -> Callable[[], object]:
        return lambda: propagator.inject(what)

    def extract(propagator: Propagator, headers: Mapping[str, str]) -> Callable[[], object]:
        return lambda: propagator.extract(headers)

    found = []
    sets = [(name, (name,)) for name in FORMATS] + [("the default three", ("jaeger", "tracecontext", "baggage"))]
    for name, formats in sets:
        propagator = Propagator(formats)
        what = context if formats == ("baggage",) else plain
        headers = {**other, **dict(propagator.inject(what))}
        found.append(Operation(f"inject: {name}", inject(propagator, what)))
        found.append(Operation(f"extract: {name}", extract(propagator, headers)))
        if len(formats) > 1:
            found.append(Operation(f"extract: {name}, from no headers", extract(propagator, other)))
    return found


def _report_operations() -> list[Operation]:
    """What ending a sampled span costs the program's thread; no worker runs, and the queue is emptied between rounds."""
    from autoinstr.model import SpanData
    from autoinstr.report import Reporter

    reporter = Reporter(list, max_queue=1 << 40, start_thread=lambda work, arguments: None)
    full = Reporter(list, max_queue=2, start_thread=lambda work, arguments: None)
    span = SpanData("GET /items/{id}", 1, 1)
    for _ in range(2):
        full.report(span)
    return [
        Operation("report: a span into the queue", lambda: reporter.report(span), reset=reporter.queue.clear),
        Operation("report: a span dropped, the queue is full", lambda: full.report(span)),
    ]


def _encoders() -> list[Operation]:
    from autoinstr.model import Resource
    from autoinstr.wire import jaeger, otlp, zipkin

    resource = Resource("bench", {"host.name": "bench"})
    spans = _finished_spans()
    encoders: Mapping[str, Any] = {
        "Jaeger, compact (UDP)": jaeger.CompactEncoder(resource, 65000),
        "Jaeger, binary (HTTP)": jaeger.BinaryEncoder(resource),
        "OTLP, protobuf": otlp.ProtobufEncoder(resource),
        "Zipkin, JSON": zipkin.JsonEncoder(resource),
    }

    def encode(encoder: Any) -> Callable[[], object]:
        return lambda: encoder.encode(spans)

    return [Operation(f"encode a span: {name}", encode(encoder), BATCH) for name, encoder in encoders.items()]


def _finished_spans() -> list[Any]:
    """Server spans as a web application has them."""
    from autoinstr.model import Kind
    from autoinstr.report import InMemoryReporter
    from autoinstr.sampling import ConstSampler
    from autoinstr.trace import Tracer

    kept = InMemoryReporter()
    tracer = Tracer(ConstSampler(True), kept)
    for number in range(BATCH):
        span = tracer.start("GET /items/{id}", Kind.SERVER)
        span.set_attributes(
            {
                "http.request.method": "GET",
                "http.route": "/items/{id}",
                "url.path": f"/items/{number}",
                "url.scheme": "http",
                "server.port": 8000,
                "http.response.status_code": 200,
            }
        )
        span.end()
    return list(kept.spans)


def _rival_operations() -> list[Operation]:
    """The same on OpenTelemetry's SDK: no exporter, so nothing but making the span."""
    from opentelemetry.sdk.trace import TracerProvider, sampling
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = []
    for word, sampler in (("sampled", sampling.ALWAYS_ON), ("unsampled", sampling.ALWAYS_OFF)):
        tracer = TracerProvider(sampler=sampler).get_tracer("bench")

        def call(tracer: Any = tracer) -> None:
            with tracer.start_as_current_span("GET /items/{id}"):
                pass

        found.append(Operation(f"OpenTelemetry's span, {word}: start and end of a root", call))
    propagator = TraceContextTextMapPropagator()
    headers = {"traceparent": "00-5b8aa5a2d2c872e8321cf37308d69df2-51581bf3cb55c13b-01"}
    found.append(Operation("OpenTelemetry's extract: tracecontext", lambda: propagator.extract(headers)))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
