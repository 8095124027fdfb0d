"""What tracing costs this process per span, measured by the worker once, before it sends the first spans.

Owns: how it is measured. Must not know: the configuration, transports, the program's tracer (it is handed one of its own).
Invariants: takes at most about ``BUDGET_S`` of CPU time in all, in slices of a fraction of a millisecond, between which other
threads run unless the program waits for us; changes nothing outside, for encoders and tracer are made for the measuring and thrown away.

What is counted: starting, marking as the current one and ending a span, on the program's thread; encoding it once for each
exporter, on the worker's. What is not: reading a request for what to put on the span, and what the network takes.
"""

from __future__ import annotations

from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoinstr.model import Encoder, SpanData
    from autoinstr.trace import Tracer

#: CPU time for all slices, and the tracer's part of it; with making the encoders and sleeping it comes to 2 ms.
BUDGET_S = 0.0016
TRACER_BUDGET_S = 0.0003
#: The fastest slice counts: in the others somebody else has used the processor, its caches or the memory's collector.
TRACER_SLICES = 6
CYCLES = 20
#: Spans that an encoder is given first, uncounted: it keeps what repeats, so that the first of a kind cost much more.
FIRST = 4
#: Of so many slices the middle one counts, for spans differ.
ENCODER_SLICES = 3
SPANS = 12
#: How many spans of the program can be made use of.
MOST_SPANS = FIRST + ENCODER_SLICES * SPANS
#: Long enough that a thread that waits for the interpreter gets it.
REST_S = 0.0002


def span_cost_us(
    tracer: Tracer,
    encoders: Sequence[Encoder],
    spans: Sequence[SpanData],
    *,
    in_haste: bool = False,
    clock: Callable[[], float] | None = None,
    rest: Callable[[float], object] = sleep,
) -> float:
    """Microseconds per span. ``spans`` are finished ones of the program, at least one; too few are used repeatedly.

    ``in_haste``: the program waits for us, perhaps to end; then there are no rests, which on a busy machine become long.
    ``clock`` gives seconds, of CPU time where the system has such a clock; ``rest`` sleeps.
    """
    clock = clock or cpu_clock()
    if in_haste:
        rest = _go_on
    cost_s = tracer_cost_s(tracer, clock, rest)
    for encoder in encoders:
        budget_s = (BUDGET_S - TRACER_BUDGET_S) / len(encoders)
        cost_s += _encoding_s(encoder.encode, spans, budget_s, clock, rest)
    return round(cost_s * 1e6, 2)


def tracer_cost_s(tracer: Tracer, clock: Callable[[], float], rest: Callable[[float], object]) -> float:
    """Seconds that the tracer takes for a span without attributes: start, mark as the current one, end."""
    slices = [lambda: _live(tracer)] * TRACER_SLICES
    return min(_durations(slices, TRACER_BUDGET_S, clock, rest)) / CYCLES


def cpu_clock() -> Callable[[], float]:
    """The clock of this thread's CPU time, in seconds; of the time that passes where that is too coarse (Windows: 16 ms)."""
    import time

    try:
        if time.get_clock_info("thread_time").resolution < 1e-6:
            return time.thread_time
    except (AttributeError, ValueError):  # There is none.
        pass
    return time.perf_counter


def _go_on(seconds: float) -> None:
    """No rest."""


def _live(tracer: Tracer) -> None:
    """What the tracer does for some spans."""
    from autoinstr.trace import current

    for _ in range(CYCLES):
        span = tracer.start("autoinstr")
        token = current.set(span)
        current.reset(token)
        span.end()


def _encoding_s(
    encode: Callable[[Sequence[SpanData]], object],
    spans: Sequence[SpanData],
    budget_s: float,
    clock: Callable[[], float],
    rest: Callable[[float], object],
) -> float:
    """How long it takes to encode a span that the encoder has not seen, but the likes of it."""

    def slice_of(first: int, count: int) -> Callable[[], object]:
        batch = [spans[number % len(spans)] for number in range(first, first + count)]
        return lambda: encode(batch)

    used_s = sum(_durations([slice_of(0, FIRST)], 0.0, clock, rest))
    slices = [slice_of(first, SPANS) for first in range(FIRST, MOST_SPANS, SPANS)]
    durations = sorted(_durations(slices, budget_s - used_s, clock, rest))
    return durations[(len(durations) - 1) // 2] / SPANS


def _durations(
    slices: Sequence[Callable[[], object]], budget_s: float, clock: Callable[[], float], rest: Callable[[float], object]
) -> list[float]:
    """Run the first slice, and then as many as the budget is likely to allow; how many seconds each took."""
    durations: list[float] = []
    for work in slices:
        begun = clock()
        work()
        durations.append(clock() - begun)
        rest(REST_S)
        if sum(durations) + durations[-1] > budget_s:
            break
    return durations
