"""One run: a fresh process of the program under one variant, warmed up, loaded, measured, stopped.

Owns: the order of a run's steps (docs/bench.md), and that nothing of it is left behind.
Must not know: the plan, files of the campaign, statistics beyond asking whether a window is steady.
Invariants: nothing is decoded or counted in the window; a run that goes wrong becomes a record with its cause; the generator,
the sink and this process stay off the server's cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoinstr.bench import load, probe, stats, target, validity, variants
from autoinstr.bench.machine import Cores
from autoinstr.bench.parts import (
    Cell,
    Fault,
    GeneratorFigures,
    LoadFigures,
    Planned,
    Run,
    ServerFigures,
    SpanFigures,
    Timing,
    Variant,
)
from autoinstr.bench.sink import Sink

#: Between looks at what the generator has written.
POLL_S = 0.1
SETTLE_S = 0.2
#: Kinds of errors that are shown of a run.
MOST_KINDS = 3
#: For workers on other hosts to come back after the run before.
WORKERS_S = 120.0
#: Warm-up by requests ends at the latest after this many times its seconds: a slow service makes fewer.
LONGEST_WARM_UP = 4
#: How long spans may be on their way after the load has ended.
DRAIN_S = 20.0
#: An agent that tells nothing has sent everything when the sink has been silent for longer than the agent waits between two
#: batches; these are the agents' defaults.
SILENCE_S = {"otel": 5.5, "ddtrace": 1.5, "elastic": 10.5}
OTHERS_SILENCE_S = 5.5
#: One that keeps no trace has nothing to send: what it sends nevertheless is seen while the load runs.
NOTHING_S = 0.5


@dataclass(frozen=True)
class Service:
    """The program of a cell: how it is started, where it answers, what is asked of it.

    ``program`` are its words, the first one a program of the variant's environment; ``url`` is where it answers once it is
    ready, with the path; ``counts_requests`` says that ``/-/stats`` there tells how many requests were served.
    """

    program: tuple[str, ...]
    url: str
    locustfile: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Of the generator: what the locustfile is told.
    load_variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    counts_requests: bool = False
    #: Whether all requests make equally many spans, so that missing ones show even where an agent tells nothing.
    is_uniform: bool = False

    @property
    def host(self) -> str:
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Conditions:
    """What all runs of a campaign share."""

    sink: Sink
    cores: Cores
    timing: Timing
    seed: int
    #: For what the generator writes while it runs; emptied by each run.
    folder: Path
    processes: int = 1
    #: Generators on other hosts, and the address where they find this one.
    workers: int = 0
    master: tuple[str, int] | None = None


@dataclass(frozen=True)
class Window:
    """The slots that are measured, and whether they were steady in the end."""

    slots: tuple[load.Slot, ...]
    is_steady: bool
    extensions: int

    @property
    def start(self) -> float:
        return self.slots[0].end_s - 1.0

    @property
    def end(self) -> float:
        return float(self.slots[-1].end_s)


def measure(
    planned: Planned,
    variant: Variant,
    service: Service,
    conditions: Conditions,
    log: Path,
    *,
    rate: float | None = None,
    attempt: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Do one run. ``rate`` is the target in requests per second (rate mode); the program's output goes to ``log``.

    Never raises for what the program or the generator does wrong: that is a run that failed, with its cause.
    """
    begun, clock = dt.datetime.now(dt.timezone.utc), time.monotonic()
    run = Run(planned, "failed", begun.isoformat(timespec="seconds"), 0.0, attempt=attempt)
    try:
        run = _measured(run, variant, service, conditions, log, rate, say)
    except (target.TargetFailed, load.GeneratorFailed) as error:
        run = dataclasses.replace(run, faults=(Fault("all", str(error)),))
    return dataclasses.replace(run, seconds=round(time.monotonic() - clock, 2))


@dataclass(frozen=True)
class _Seen:
    """What was seen of a run, before anything is made of it."""

    window: Window
    final: load.Final
    series: probe.CpuSeries
    noise: probe.Noise
    pace: probe.Pace
    rss_bytes_at_start: int
    memory: probe.Memory
    switches: int | None
    processes: int
    threads: int
    idle_us_per_s: float
    spans: SpanFigures
    #: Requests that the program itself has counted, where it does.
    served: int | None
    #: Requests to the program that were not the generator's.
    probes: int
    #: From the start of the program to the last look at its spans.
    seconds: float


def _measured(
    run: Run,
    variant: Variant,
    service: Service,
    conditions: Conditions,
    log: Path,
    rate: float | None,
    say: Callable[[str], None],
) -> Run:
    seen = _seen(run.planned, variant, service, conditions, log, rate, say)
    figures = load.figures(seen.window.slots, seen.final, rate)
    server = _server_figures(seen, figures)
    spans = dataclasses.replace(seen.spans, requests=figures.all_requests + seen.probes)
    generator = _generator_figures(seen, figures, conditions)
    noise = seen.noise.between(seen.window.start, seen.window.end)
    faults = validity.faults(
        variant,
        run.planned.cell,
        load=figures,
        server=server,
        spans=spans,
        generator=generator,
        noise=noise,
        seconds=seen.seconds,
        is_uniform=service.is_uniform,
    )
    faults += tuple(_of_the_end(seen.final, has_failed=bool(faults)))
    return dataclasses.replace(
        run,
        status=validity.status_of(faults, seen.window.is_steady),
        faults=faults,
        load=figures,
        server=server,
        spans=spans,
        generator=generator,
        noise=noise,
        extensions=seen.window.extensions,
    )


def _seen(
    planned: Planned,
    variant: Variant,
    service: Service,
    conditions: Conditions,
    log: Path,
    rate: float | None,
    say: Callable[[str], None],
) -> _Seen:
    timing, cores, sink = conditions.timing, conditions.cores, conditions.sink
    sink.take()
    say("starting")
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        metrics_port = target.free_port(target.COUNTER_PORTS)
        server = _started(variant, service, conditions, metrics_port, log)
        stack.callback(server.kill)
        rss_bytes_at_start = probe.memory(server.pids(), with_pss=False).rss_bytes
        generator = _generator(planned.cell, service, conditions, rate)
        stack.callback(generator.kill)
        if conditions.master is not None:
            say(f"waiting for {conditions.workers} workers")
            generator.wait_until_begun(WORKERS_S)
        series = stack.enter_context(probe.CpuSeries({"server": server.pid, "sink": sink.pid}, cpus=cores.generator))
        noise = stack.enter_context(probe.Noise(cores.server | cores.generator))
        pace = stack.enter_context(probe.Pace(cores.server))
        switches = _Change(lambda: probe.switches(server.pids()))
        window = _window(generator, server, timing, say)
        memory, threads, processes = probe.memory(server.pids()), probe.threads(server.pids()), len(server.pids())
        switched = switches.so_far()
        final = generator.stop()
        say("draining")
        idle_us_per_s = _idle(series, timing.idle_s)
        spans = _spans(server, variant, sink, metrics_port)
        seconds = time.monotonic() - begun
        served = server.requests() if service.counts_requests else None
        say("stopping")
        server.stop(timing.stop_timeout_s)
    return _Seen(
        window,
        final,
        series,
        noise,
        pace,
        rss_bytes_at_start,
        memory,
        switched,
        processes,
        threads,
        idle_us_per_s,
        spans,
        served,
        server.probes,
        seconds,
    )


def _generator(cell: Cell, service: Service, conditions: Conditions, rate: float | None) -> load.Generator:
    return load.Generator.start(
        service.locustfile,
        service.host,
        users=cell.concurrency,
        mode=cell.mode,
        rate=rate,
        seed=conditions.seed,
        cpus=conditions.cores.generator or None,
        processes=conditions.processes,
        folder=conditions.folder,
        environment=service.load_variables,
        master_bind=conditions.master,
        expect_workers=conditions.workers,
    )


def _server_figures(seen: _Seen, figures: LoadFigures) -> ServerFigures:
    cpu_us = seen.series.between("server", seen.window.start, seen.window.end)
    return ServerFigures(
        cpu_us=cpu_us,
        idle_cpu_us_per_s=seen.idle_us_per_s,
        cpu_us_per_request=(cpu_us - seen.idle_us_per_s * figures.seconds) / max(figures.requests, 1),
        requests=seen.served,
        rss_bytes_start=seen.rss_bytes_at_start,
        rss_bytes_end=seen.memory.rss_bytes,
        pss_bytes_end=seen.memory.pss_bytes,
        switches=seen.switches,
        processes=seen.processes,
        threads=seen.threads,
        seconds=tuple(_second(seen.series, seen.pace, slot.end_s) for slot in seen.window.slots),
    )


def _generator_figures(seen: _Seen, figures: LoadFigures, conditions: Conditions) -> GeneratorFigures:
    microseconds = figures.seconds * 1e6
    processes_with_users = conditions.workers or conditions.processes
    return GeneratorFigures(
        cpu_share=sum(slot.cpu_us for slot in seen.window.slots) / microseconds / processes_with_users,
        sink_cpu_share=seen.series.between("sink", seen.window.start, seen.window.end) / microseconds,
        processes=processes_with_users,
    )


def _second(series: probe.CpuSeries, pace: probe.Pace, end_s: int) -> tuple[float, float | None]:
    pace_us = pace.between(end_s - 1.0, end_s)
    return round(series.between("server", end_s - 1.0, end_s), 1), None if pace_us is None else round(pace_us, 3)


def _of_the_end(final: load.Final, *, has_failed: bool) -> Iterator[Fault]:
    if final.aborted:
        yield Fault("spans", f"{final.aborted} requests were cut off at the end: the program answers too slowly to be drained")
    if final.kinds and has_failed:
        most = sorted(final.kinds.items(), key=lambda item: -item[1])[:MOST_KINDS]
        yield Fault("errors", "; ".join(f"{count} times {kind}" for kind, count in most))


def _started(variant: Variant, service: Service, conditions: Conditions, metrics_port: int, log: Path) -> target.Target:
    sink = conditions.sink
    addresses: dict[str, int | str] = {"http": sink.url, "http_port": sink.http_port, "udp_port": sink.udp_port}
    if variant.has_counters:
        addresses["metrics_port"] = metrics_port
    return target.Target.start(
        variants.command(variant, service.program, addresses),
        variants.environment(variant, addresses, service.variables),
        cpus=conditions.cores.server or None,
        url=service.url,
        log=log,
        timeout_s=conditions.timing.start_timeout_s,
        folder=service.folder,
    )


class _Change:
    """How much a count has grown since this was made; None where the system does not tell."""

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._before = count()

    def so_far(self) -> int | None:
        now = self._count()
        return None if now is None or self._before is None else now - self._before


def _window(generator: load.Generator, server: target.Target, timing: Timing, say: Callable[[str], None]) -> Window:
    """Warm up, then the first window that is steady, or the last one tried."""
    say("warming up")
    warm = _warmed_up(generator, server, timing)
    extension = 0
    while True:
        say("measuring" if not extension else f"measuring again: not steady yet ({extension})")
        slots = _slots_after(generator, server, warm, timing.window_s)
        is_steady = stats.is_steady([slot.median_us for slot in slots])
        if is_steady or extension == timing.extensions:
            return Window(tuple(slots), is_steady, extension)
        warm = slots[-1].end_s
        extension += 1


def _warmed_up(generator: load.Generator, server: target.Target, timing: Timing) -> int:
    """The end of the slot with which the warm-up is over (epoch seconds)."""
    deadline = time.monotonic() + timing.start_timeout_s + LONGEST_WARM_UP * timing.warm_up_s
    while time.monotonic() < deadline:
        slots = _look(generator, server)
        if slots:
            elapsed = slots[-1].end_s - slots[0].end_s + 1
            requests = sum(slot.requests for slot in slots)
            is_warm = elapsed >= timing.warm_up_s and requests >= timing.warm_up_requests
            if is_warm or elapsed >= LONGEST_WARM_UP * timing.warm_up_s:
                return slots[-1].end_s
        time.sleep(POLL_S)
    raise load.GeneratorFailed("no second of load was complete in time: the program answers too slowly, or not at all")


def _slots_after(generator: load.Generator, server: target.Target, after_s: int, count: int) -> list[load.Slot]:
    longest = 3 * count + 10
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        slots = [slot for slot in _look(generator, server) if slot.end_s > after_s]
        if len(slots) >= count:
            return slots[:count]
        time.sleep(POLL_S)
    raise load.GeneratorFailed(f"{count} seconds of load were not complete after {longest} s: the program hangs")


def _look(generator: load.Generator, server: target.Target) -> list[load.Slot]:
    server.check()
    return generator.slots()


def _idle(series: probe.CpuSeries, seconds: float) -> float:
    """CPU of the server without load, in µs per second."""
    if seconds <= 0:
        return 0.0
    # The last requests' own work, such as closing 128 connections, is not idling.
    time.sleep(SETTLE_S)
    start = time.time()
    time.sleep(seconds)
    end = time.time()
    series.poll()
    return series.between("server", start, end) / (end - start)


def _spans(server: target.Target, variant: Variant, sink: Sink, metrics_port: int) -> SpanFigures:
    """Once all spans are sent: what the agent tells, and what the sink got."""
    told = SpanFigures()
    if variant.has_counters:
        # The page is there from the first span on: where nobody answers now, the agent has traced nothing.
        if server.counters(metrics_port) is not None:
            server.wait_until_drained(metrics_port, DRAIN_S)
            told = server.span_figures(metrics_port)
    elif variant.exports:
        keeps_none = variant.sampling is not None and variant.sampling.expected_share() == 0
        _wait_for_silence(sink, NOTHING_S if keeps_none else SILENCE_S.get(variant.kind, OTHERS_SILENCE_S))
    counts = sink.take()
    return dataclasses.replace(
        told,
        received=counts.spans,
        received_traces=counts.traces,
        batches=counts.batches,
        bytes=counts.bytes,
        datagrams_lost=counts.datagrams_lost,
        undecodable=counts.undecodable,
        read_early=counts.counted_at_once,
    )


def _wait_for_silence(sink: Sink, silence_s: float) -> None:
    deadline = time.monotonic() + DRAIN_S + silence_s
    arrived, since = sink.arrived(), time.monotonic()
    while time.monotonic() < min(since + silence_s, deadline):
        time.sleep(POLL_S)
        now = sink.arrived()
        if now != arrived:
            arrived, since = now, time.monotonic()
