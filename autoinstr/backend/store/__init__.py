"""Where received spans live: the contract of a store, what a search means, and a store in memory.

Owns: what a search means (Jaeger's rules), when two spans are one, the values that stores answer with.
Must not know: wire formats on the way in, HTTP.
Invariants: a store may be used by several threads at once, but only one writes; it never holds more than it was told to; what
a call has returned does not change afterwards.
"""

from __future__ import annotations

import heapq
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autoinstr.backend.store.calls import MINUTE_NS, Call, Calls
from autoinstr.model import Batch, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import span_tags, tag_text

if TYPE_CHECKING:
    from autoinstr.model import Attributes

#: The spans of one trace with who emitted them, in order of arrival.
Trace = list[tuple[Resource, SpanData]]

FOREVER_NS = 2**63


class StoreError(Exception):
    """A store cannot do what it was asked to do; the text says why and what to do, for its user."""


class MissingExtra(StoreError):
    """What was asked for needs a library that is not installed; the text names the extra that brings it."""


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """A search. Every condition must hold for one and the same span; ``tags`` compare as text; empty means any."""

    service: str = ""
    operation: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = FOREVER_NS
    min_duration_ns: int = 0
    max_duration_ns: int = FOREVER_NS
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Dependency:
    """Calls from one service to another: spans of ``child`` whose parent is a span of ``parent``."""

    parent: str
    child: str
    calls: int
    errors: int


#: Histograms of durations: ``BUCKETS_PER_OCTAVE`` buckets for each doubling, from 1 µs on (bucket 0 holds what is shorter).
BUCKETS_PER_OCTAVE = 4


def bucket_bound_ns(bucket: int) -> float:
    """The longest duration that a bucket holds, in nanoseconds."""
    return float(1000 * 2 ** (bucket / BUCKETS_PER_OCTAVE))


#: The bounds of all buckets but the last, which holds whatever is longer than a century.
_BOUNDS_NS = [bucket_bound_ns(bucket) for bucket in range(54 * BUCKETS_PER_OCTAVE)]


def bucket_of(duration_ns: int) -> int:
    """The bucket of a duration; what ended before it began lasted no time."""
    return bisect_left(_BOUNDS_NS, duration_ns)


@dataclass(frozen=True, slots=True)
class Rate:
    """What the spans of one operation and kind did in one minute (rate, errors, durations).

    ``minute`` counts from the epoch, by the spans' start; ``buckets`` maps ``bucket_of`` to a count.
    """

    minute: int
    service: str
    operation: str
    kind: int
    calls: int
    errors: int
    duration_ns: int
    buckets: Mapping[int, int]


class Store(Protocol):
    """Keeps spans and finds them again."""

    def write(self, batches: Sequence[Batch]) -> None:
        """Take the spans of some payloads, durably once this returns: all of them, or none and an exception.

        A trace may come in any number of pieces, in any order; the same span (``identity``) twice is kept once.
        """

    def trace(self, trace_id: int) -> Trace:
        """All spans of a trace, in order of arrival, also of an archived one; empty when there is no such trace."""

    def find(self, query: TraceQuery) -> list[Trace]:
        """Whole traces, the newest first (by their first span's start), at most ``query.limit``."""

    def services(self) -> list[str]:
        """Names of services that have spans here, sorted."""

    def operations(self, service: str) -> list[tuple[str, int]]:
        """``(span name, kind)`` pairs of a service, sorted."""

    def dependencies(self, start_ns: int, end_ns: int) -> list[Dependency]:
        """Calls between services by spans that started in the window, to the minute; summed by pair, sorted."""

    def rates(self, services: Sequence[str], start_ns: int, end_ns: int) -> list[Rate]:
        """What the spans that started in the window did, to the minute; of all services when ``services`` is empty."""

    def archive(self, trace_id: int) -> bool:
        """Keep a trace beyond all limits, so that ``trace`` still finds it; False when there is no such trace.

        What comes of it later is kept as any other span; archiving it again adds that. StoreError when the archive, which
        may hold as much as the store, is full.
        """

    def clear(self) -> None:
        """Forget everything, archived traces included."""

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name: at least ``store_spans``, ``store_traces``, ``store_bytes``,
        ``store_evicted_spans_total``."""

    def evicted(self) -> dict[str, int]:
        """Spans that made room for newer ones, by service, since the start."""

    def close(self) -> None:
        """Let go of files and connections; nothing may be called afterwards."""


#: What tells a span from the others of its trace. The halves of a call may share an id (Zipkin), so that it is not enough;
#: a sender that had no answer sends again, so that all of this comes twice.
Identity = tuple[int, int, int, int, str]


def identity(service: str, span: SpanData) -> Identity:
    """Equal for two spans of a trace that are one and the same."""
    return span.span_id, span.kind, span.start_ns, span.end_ns, service


def duration_ns(span: SpanData) -> int:
    """How long a span lasted; none that ended before it began, by a clock that was set back."""
    return max(0, span.end_ns - span.start_ns)


def first_start_ns(trace: Trace) -> int:
    """When the first span of a trace started: what "newest" goes by."""
    return min(span.start_ns for _, span in trace)


def matches(query: TraceQuery, resource: Resource, span: SpanData) -> bool:
    """Whether one span alone satisfies the whole search."""
    return (
        query.service in ("", resource.service_name)
        and query.operation in ("", span.name)
        and query.start_ns <= span.start_ns <= query.end_ns
        and query.min_duration_ns <= duration_ns(span) <= query.max_duration_ns
        and _has_tags(query.tags, resource, span)
    )


def _has_tags(wanted: dict[str, str], resource: Resource, span: SpanData) -> bool:
    """Tags are looked for on the span, on its process and in its logs, as in Jaeger."""
    if not wanted:
        return True
    logs: list[Attributes] = [{"event": event.name, **event.attributes} for event in span.events or ()]
    sources = [span_tags(span), resource.attributes, *logs]
    return all(_has_tag(key, text, span, sources) for key, text in wanted.items())


def _has_tag(key: str, text: str, span: SpanData, sources: Sequence[Attributes]) -> bool:
    if key == "error" and text == "false":
        # Nobody writes error=false; who searches for it means "without an error".
        return span.status != Status.ERROR
    return any(key in source and tag_text(source[key]) == text for source in sources)


def summed_calls(calls: Iterable[tuple[tuple[str, str], int, int]]) -> list[Dependency]:
    """``((parent, child), calls, errors)``, each pair any number of times, summed and sorted."""
    sums: dict[tuple[str, str], list[int]] = {}
    for pair, count, errors in calls:
        total = sums.setdefault(pair, [0, 0])
        total[0] += count
        total[1] += errors
    return [Dependency(*pair, *sums[pair]) for pair in sorted(sums)]


#: Minute, service, operation, kind.
RateKey = tuple[int, str, str, int]


class RateSum:
    """A ``Rate`` that is still being added to."""

    __slots__ = ("buckets", "calls", "duration_ns", "errors")

    def __init__(self, calls: int = 0, errors: int = 0, duration_ns: int = 0) -> None:
        self.calls = calls
        self.errors = errors
        self.duration_ns = duration_ns
        self.buckets: dict[int, int] = {}

    def add(self, calls: int, errors: int, duration_ns: int, buckets: Mapping[int, int]) -> None:
        self.calls += calls
        self.errors += errors
        self.duration_ns += duration_ns
        for bucket, count in buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


def sorted_rates(sums: Mapping[RateKey, RateSum]) -> list[Rate]:
    """The sums as values, by minute, service, operation and kind."""
    return [
        Rate(*key, found.calls, found.errors, found.duration_ns, found.buckets) for key, found in sorted(sums.items())
    ]


class _Held:
    """One trace in memory: only ever appended to, so that readers need no lock once they have it."""

    __slots__ = ("arrived_s", "known", "spans")

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s
        self.spans: Trace = []
        self.known: set[Identity] = set()


class MemoryStore:
    """Keeps the newest spans in memory; the oldest traces make room for new ones, and go when they are too old.

    ``max_age_s`` counts from the arrival of a trace's first span; it is looked at when spans are written.
    """

    def __init__(
        self, max_spans: int, max_age_s: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_spans = max_spans
        self._max_age_s = float("inf") if max_age_s is None else max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._evicted: Counter[str] = Counter()
        self._forget_all()

    def _forget_all(self) -> None:
        #: In order of arrival.
        self._traces: dict[int, _Held] = {}
        self._archived: dict[int, Trace] = {}
        self._operations: dict[str, Counter[tuple[str, int]]] = {}
        self._span_count = 0
        self._bytes = 0

    def write(self, batches: Sequence[Batch]) -> None:
        with self._lock:
            now_s = self._clock()
            for batch in batches:
                for span in batch.spans:
                    self._add(batch.resource, span, now_s)
            self._evict_older_than(now_s - self._max_age_s)

    def trace(self, trace_id: int) -> Trace:
        with self._lock:
            return self._trace(trace_id)

    def find(self, query: TraceQuery) -> list[Trace]:
        # Looking through everything takes long, and the writer must not wait for it.
        found = (trace for trace in self._all_traces() if any(matches(query, *entry) for entry in trace))
        newest = heapq.nlargest(query.limit, found, key=first_start_ns)
        return [self.trace(trace[0][1].trace_id) or list(trace) for trace in newest]

    def services(self) -> list[str]:
        with self._lock:
            return sorted(self._operations)

    def operations(self, service: str) -> list[tuple[str, int]]:
        with self._lock:
            return sorted(self._operations.get(service, ()))

    def dependencies(self, start_ns: int, end_ns: int) -> list[Dependency]:
        first, last = start_ns // MINUTE_NS, end_ns // MINUTE_NS
        calls = (call for trace in self._all_traces() for call in _calls_of(trace) if first <= call[0] <= last)
        return summed_calls(((parent, child), 1, failed) for _, parent, child, failed in calls)

    def rates(self, services: Sequence[str], start_ns: int, end_ns: int) -> list[Rate]:
        first, last = start_ns // MINUTE_NS, end_ns // MINUTE_NS
        sums: dict[RateKey, RateSum] = {}
        for trace in self._all_traces():
            for resource, span in trace:
                minute, service = span.start_ns // MINUTE_NS, resource.service_name
                if first <= minute <= last and (not services or service in services):
                    lasted = duration_ns(span)
                    total = sums.setdefault((minute, service, span.name, span.kind), RateSum())
                    total.add(1, span.status == Status.ERROR, lasted, {bucket_of(lasted): 1})
        return sorted_rates(sums)

    def archive(self, trace_id: int) -> bool:
        with self._lock:
            trace = self._trace(trace_id)
            others = sum(len(kept) for other, kept in self._archived.items() if other != trace_id)
            if others + len(trace) > self._max_spans:
                raise StoreError(f"the archive is full: it holds {others} spans of at most {self._max_spans}")
            if trace:
                self._archived[trace_id] = trace
            return bool(trace)

    def clear(self) -> None:
        with self._lock:
            self._forget_all()

    def figures(self) -> dict[str, int]:
        with self._lock:
            return {
                "store_spans": self._span_count,
                "store_traces": len(self._traces),
                "store_bytes": self._bytes,
                "store_archived_traces": len(self._archived),
                "store_evicted_spans_total": sum(self._evicted.values()),
            }

    def evicted(self) -> dict[str, int]:
        with self._lock:
            return dict(self._evicted)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _all_traces(self) -> list[Trace]:
        with self._lock:
            return [held.spans for held in self._traces.values()]

    def _trace(self, trace_id: int) -> Trace:
        held, archived = self._traces.get(trace_id), self._archived.get(trace_id)
        if not archived:
            return list(held.spans) if held else []
        known = {identity(resource.service_name, span) for resource, span in archived}
        later = held.spans if held else ()
        return archived + [entry for entry in later if identity(entry[0].service_name, entry[1]) not in known]

    def _add(self, resource: Resource, span: SpanData, now_s: float) -> None:
        key = identity(resource.service_name, span)
        held = self._traces.get(span.trace_id)
        if held is not None and key in held.known:
            return
        while self._span_count >= self._max_spans and self._traces:
            self._evict_oldest()
        # Not the trace of before, which may just have been the oldest.
        held = self._traces.get(span.trace_id)
        if held is None:
            held = self._traces[span.trace_id] = _Held(now_s)
        held.known.add(key)
        held.spans.append((resource, span))
        self._operations.setdefault(resource.service_name, Counter())[span.name, span.kind] += 1
        self._span_count += 1
        self._bytes += _size(span)

    def _evict_older_than(self, moment_s: float) -> None:
        while self._traces and next(iter(self._traces.values())).arrived_s < moment_s:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        held = self._traces.pop(next(iter(self._traces)))
        for resource, span in held.spans:
            self._forget_operation(resource.service_name, (span.name, span.kind))
            self._evicted[resource.service_name] += 1
            self._bytes -= _size(span)
        self._span_count -= len(held.spans)

    def _forget_operation(self, service: str, operation: tuple[str, int]) -> None:
        """Names go with their last span, so that endless new names cannot fill the memory."""
        operations = self._operations[service]
        operations[operation] -= 1
        if not operations[operation]:
            del operations[operation]
        if not operations:
            del self._operations[service]


def _calls_of(trace: Trace) -> list[Call]:
    calls = Calls()
    return [call for resource, span in list(trace) for call in calls.add(resource.service_name, span) or ()]


def _size(span: SpanData) -> int:
    """About what a span takes in memory: objects of CPython, measured by and large, and its long texts."""
    texts = sum(len(value) for value in (span.own or {}).values() if isinstance(value, str | bytes))
    return 600 + 150 * len(span.own or ()) + texts + 700 * len(span.events or ())
