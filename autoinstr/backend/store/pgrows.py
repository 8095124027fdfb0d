"""From received spans to the rows that the PostgreSQL store keeps of them.

Owns: which spans go into one segment, what of them can be searched for, what is a duplicate, the sums of calls and rates.
Must not know: SQL, connections; the store gives numbers for the parts of ``spancodec`` and brings what is stored of a trace.
Invariants: pure, but for what it remembers; every number fits its column, however wrong a sender's clock is; names are bytes
and keys are digests, since what strangers send may hold what a text column or an index cannot.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from autoinstr.backend.store import RateSum, Trace, TraceQuery, bucket_of, duration_ns, identity, spancodec
from autoinstr.backend.store.calls import MINUTE_NS, Call, Calls
from autoinstr.model import Batch, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import span_tags, tag_text

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
#: Words, and spans of traces, that are remembered; all are forgotten when there are more.
MAX_WORDS = 100_000
MAX_REMEMBERED_SPANS = 200_000
#: Longer texts hardly repeat, and would fill the memory.
LONGEST_REMEMBERED_TEXT = 200


def clamped(number: int) -> int:
    """The number as a column of 64 bits holds it; order is kept, so that bounds of a search may be cut in the same way."""
    return min(max(number, _INT_MIN), _INT_MAX)


def name_bytes(text: str) -> bytes:
    """A name as it is stored: also with halves of surrogate pairs and NUL, which text columns refuse."""
    return text.encode("utf-8", "surrogatepass")


def name_text(data: bytes) -> str:
    """The name that ``name_bytes`` was given."""
    return bytes(data).decode("utf-8", "surrogatepass")


def digest(*fields: object) -> bytes:
    """A key for an index, which could not hold the fields themselves if they were long."""
    text = json.dumps(fields, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# Words


class Words:
    """The numbers by which spans are found: checksums of ``key=text``, of service and of operation.

    Two different ones with the same number only cost a look too many, since every hit is verified on the span.
    """

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def of_span(self, service: str, resource_words: Iterable[int], span: SpanData) -> set[int]:
        """All words of a span: of its own tags, its resource's and its events'."""
        words = {_word("operation", span.name), _word(service, span.name), *resource_words}
        words.update(self.of_attributes(span_tags(span)))
        for event in span.events or ():
            words.update(self.of_attributes({"event": event.name}))
            words.update(self.of_attributes(event.attributes))
        return words

    def of_resource(self, resource: Resource) -> set[int]:
        """The words that all spans of a resource have."""
        return {_word("service", resource.service_name), *self.of_attributes(resource.attributes)}

    def of_attributes(self, attributes: Mapping[str, Any]) -> list[int]:
        return [self._of_tag(key, value) for key, value in attributes.items()]

    def _of_tag(self, key: str, value: Any) -> int:
        place = (key, value) if type(value) is str and len(value) <= LONGEST_REMEMBERED_TEXT else None
        known = self._known.get(place) if place else None
        if known is not None:
            return known
        word = _word("tag", key, tag_text(value))
        if place:
            if len(self._known) >= MAX_WORDS:
                self._known.clear()
            self._known[place] = word
        return word


def words_of_query(query: TraceQuery) -> list[int]:
    """The words that a segment must have for one of its spans to satisfy the search."""
    words = [_word("tag", key, text) for key, text in query.tags.items() if (key, text) != ("error", "false")]
    if query.service and query.operation:
        words.append(_word(query.service, query.operation))
    elif query.service:
        words.append(_word("service", query.service))
    elif query.operation:
        words.append(_word("operation", query.operation))
    return words


def _word(*parts: str) -> int:
    """A checksum of 32 bits, signed as the column is."""
    number = zlib.crc32("\0".join(parts).encode("utf-8", "surrogatepass"))
    return number - (1 << 32) if number >> 31 else number


# What is stored already


class Known:
    """One trace as far as it is stored, up to the write ``last_write``: its spans' identities, and what calls need."""

    __slots__ = ("calls", "last_write", "seen")

    def __init__(self) -> None:
        self.last_write = 0
        self.seen: set[int] = set()
        self.calls = Calls()

    def add(self, service: str, span: SpanData) -> list[Call] | None:
        """Take note of a span; the calls that are known by it, or None for a span that is there already."""
        key = hash(identity(service, span))
        if key in self.seen:
            return None
        self.seen.add(key)
        return self.calls.add(service, span) or []


class Recent:
    """What is known of the traces that spans came for lately. Only a copy: it may be forgotten at any time."""

    def __init__(self) -> None:
        self._traces: dict[int, Known] = {}
        self._spans = 0

    def of(self, trace_id: int) -> Known:
        known = self._traces.get(trace_id)
        if known is None:
            known = self._traces[trace_id] = Known()
        return known

    def clear(self) -> None:
        self._traces.clear()
        self._spans = 0

    def note(self, spans: int) -> None:
        """So many spans were added."""
        self._spans += spans
        if self._spans > MAX_REMEMBERED_SPANS:
            self.clear()


# Rows


class Parts(Protocol):
    """Gives numbers to the parts of ``spancodec``, which the store keeps once."""

    def number(self, data: bytes, about: Operation | None) -> int:
        """The number of a part; ``about`` says what a shape is about, so that the store can list operations."""


class Operation(NamedTuple):
    """What the spans of a shape are, by name."""

    service: str
    name: str
    kind: int


class Numbers:
    """Numbers of shapes for the spans of one write: looking a part up by its bytes is slow, and most spans are alike."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._shapes: dict[tuple[Any, ...], int] = {}
        #: By identity: a payload's spans share one resource. The object is kept, so that the identity stays its own.
        self._resources: dict[int, tuple[Resource, int]] = {}

    def shape(self, resource: Resource, span: SpanData, keys: Iterable[str], extended: bool) -> int:
        """The number of a span's shape."""
        about = (
            span.name,
            span.kind,
            span.flags,
            span.status,
            span.scope,
            span.parent_is_remote,
            extended,
            tuple(keys),
        )
        key = id(resource), about
        found = self._shapes.get(key)
        if found is None:
            data = spancodec.encode_shape(self._resource(resource), about)
            operation = Operation(resource.service_name, span.name, span.kind)
            found = self._shapes[key] = self._parts.number(data, operation)
        return found

    def _resource(self, resource: Resource) -> int:
        found = self._resources.get(id(resource))
        if found is None:
            found = self._resources[id(resource)] = (
                resource,
                self._parts.number(spancodec.encode_resource(resource), None),
            )
        return found[1]


@dataclass(slots=True)
class Segment:
    """The new spans of one trace in one write, and what narrows a search to them."""

    trace_id: int
    spans: Trace = field(default_factory=list)
    words: set[int] = field(default_factory=set)

    def times(self) -> tuple[int, int, int, int]:
        """First start, last start, shortest and longest duration, as columns hold them."""
        starts = [span.start_ns for _, span in self.spans]
        durations = [duration_ns(span) for _, span in self.spans]
        return clamped(min(starts)), clamped(max(starts)), clamped(min(durations)), clamped(max(durations))

    def encoded(self, numbers: Numbers) -> bytes:
        """The spans as bytes."""
        return encode_trace(self.spans, numbers)


def encode_trace(spans: Trace, numbers: Numbers) -> bytes:
    """Spans of one trace as one segment of ``spancodec``."""
    places = {span.span_id: -1 - place for place, (_, span) in enumerate(spans)}
    base_ns = spans[0][1].start_ns
    shapes, values, extensions = [], [], []
    for resource, span in spans:
        attributes = span.attributes if span.facts else span.own or {}
        extension = spancodec.extension(span)
        shapes.append(numbers.shape(resource, span, attributes, bool(extension)))
        values += [spancodec.pack(value) for value in attributes.values()]
        if extension:
            extensions.append(extension)
    parents = [places.get(span.parent_id, span.parent_id) if span.parent_id else 0 for _, span in spans]
    starts = [span.start_ns - base_ns for _, span in spans]
    durations = [span.end_ns - span.start_ns for _, span in spans]
    columns = [base_ns, shapes, parents, starts, durations, values, extensions]
    return spancodec.encode([span.span_id for _, span in spans], columns)


@dataclass(slots=True)
class Written:
    """What one write adds: segments, sums of rates by minute, service, operation and kind, sums of calls by minute and pair."""

    segments: dict[int, Segment] = field(default_factory=dict)
    rates: dict[tuple[int, str, str, int], RateSum] = field(default_factory=dict)
    calls: dict[tuple[int, str, str], list[int]] = field(default_factory=dict)
    spans: int = 0
    new_traces: int = 0


def digest_batches(batches: Sequence[Batch], known_of: Callable[[int], Known], words: Words) -> Written:
    """What is new in some batches; ``known_of`` takes note of it."""
    written = Written()
    for batch in batches:
        resource_words = words.of_resource(batch.resource)
        for span in batch.spans:
            known = known_of(span.trace_id)
            is_new_trace = not known.seen
            calls = known.add(batch.resource.service_name, span)
            if calls is None:
                continue
            segment = written.segments.get(span.trace_id)
            if segment is None:
                segment = written.segments[span.trace_id] = Segment(span.trace_id)
            segment.spans.append((batch.resource, span))
            segment.words |= words.of_span(batch.resource.service_name, resource_words, span)
            written.spans += 1
            written.new_traces += is_new_trace
            _add_rate(written, batch.resource.service_name, span)
            _add_calls(written, calls)
    return written


def _add_rate(written: Written, service: str, span: SpanData) -> None:
    lasted = duration_ns(span)
    key = (clamped(span.start_ns // MINUTE_NS), service, span.name, span.kind)
    total = written.rates.get(key)
    if total is None:
        total = written.rates[key] = RateSum()
    total.add(1, span.status == Status.ERROR, lasted, {bucket_of(lasted): 1})


def _add_calls(written: Written, calls: Iterable[Call]) -> None:
    for minute, parent, child, failed in calls:
        total = written.calls.setdefault((clamped(minute), parent, child), [0, 0])
        total[0] += 1
        total[1] += failed
