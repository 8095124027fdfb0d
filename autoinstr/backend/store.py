"""Where received spans live: the contract of a store, and one in memory.

Owns: what a search means (Jaeger's rules), the bound on what is kept.
Must not know: wire formats on the way in, HTTP.
Invariants: a store may be used by several threads at once; it never holds more spans than it was told; what a call has
returned does not change afterwards.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from autoinstr.model import Batch, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import span_tags, tag_text

if TYPE_CHECKING:
    from autoinstr.model import Attributes

#: The spans of one trace with who emitted them, in order of arrival.
Trace = list[tuple[Resource, SpanData]]

FOREVER_NS = 2**63


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


class Store(Protocol):
    """Keeps spans and finds them again."""

    def write(self, batch: Batch) -> None:
        """Take the spans of a payload; a trace may come in any number of pieces, in any order."""

    def trace(self, trace_id: int) -> Trace:
        """All spans of a trace; empty when there is no such trace."""

    def find(self, query: TraceQuery) -> list[Trace]:
        """Whole traces, the newest first (by their first span's start), at most ``query.limit``."""

    def services(self) -> list[str]:
        """Names of services that have spans here, sorted."""

    def operations(self, service: str) -> list[tuple[str, int]]:
        """``(span name, kind)`` pairs of a service, sorted."""

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""


def matches(query: TraceQuery, resource: Resource, span: SpanData) -> bool:
    """Whether one span alone satisfies the whole search."""
    return (
        query.service in ("", resource.service_name)
        and query.operation in ("", span.name)
        and query.start_ns <= span.start_ns <= query.end_ns
        and query.min_duration_ns <= span.end_ns - span.start_ns <= query.max_duration_ns
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


class MemoryStore:
    """Keeps the newest spans in memory; the oldest traces make room for new ones."""

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._lock = threading.Lock()
        self._traces: dict[int, Trace] = {}
        self._operations: dict[str, Counter[tuple[str, int]]] = {}
        self._span_count = 0
        self._evicted = 0

    def write(self, batch: Batch) -> None:
        with self._lock:
            for span in batch.spans:
                self._add(batch.resource, span)

    def trace(self, trace_id: int) -> Trace:
        with self._lock:
            return list(self._traces.get(trace_id, ()))

    def find(self, query: TraceQuery) -> list[Trace]:
        # Looking through everything takes long, and writers must not wait for it: they only ever append to a trace.
        with self._lock:
            traces = list(self._traces.values())
        found = (trace for trace in traces if any(matches(query, *entry) for entry in trace))
        return [list(trace) for trace in heapq.nlargest(query.limit, found, key=_start_ns)]

    def services(self) -> list[str]:
        with self._lock:
            return sorted(self._operations)

    def operations(self, service: str) -> list[tuple[str, int]]:
        with self._lock:
            return sorted(self._operations.get(service, ()))

    def figures(self) -> dict[str, int]:
        return {
            "store_spans": self._span_count,
            "store_traces": len(self._traces),
            "store_evicted_spans_total": self._evicted,
        }

    def _add(self, resource: Resource, span: SpanData) -> None:
        while self._span_count >= self._max_spans:
            self._evict_oldest()
        self._traces.setdefault(span.trace_id, []).append((resource, span))
        self._operations.setdefault(resource.service_name, Counter())[span.name, span.kind] += 1
        self._span_count += 1

    def _evict_oldest(self) -> None:
        trace = self._traces.pop(next(iter(self._traces)))
        for resource, span in trace:
            self._forget_operation(resource.service_name, (span.name, span.kind))
        self._span_count -= len(trace)
        self._evicted += len(trace)

    def _forget_operation(self, service: str, operation: tuple[str, int]) -> None:
        """Names go with their last span, so that endless new names cannot fill the memory."""
        operations = self._operations[service]
        operations[operation] -= 1
        if not operations[operation]:
            del operations[operation]
        if not operations:
            del self._operations[service]


def _start_ns(trace: Trace) -> int:
    return min(span.start_ns for _, span in trace)
