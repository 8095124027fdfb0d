"""From received spans to what a segment store keeps of them: segments, search words, groups, calls, sums.

Owns: which spans go into one segment, by which words they are found, what is a duplicate.
Must not know: SQL, files; the store gives numbers for names and parts, and the spans of traces that were stored before.
Invariants: does nothing but count and remember; what it remembers of traces is only ever a copy of what is stored, so that
after a failed write it must be thrown away, or the spans would be taken for duplicates when they are sent again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from autoinstr.backend.store import RateSum, Trace, bucket_of, identity, spancodec
from autoinstr.backend.store.calls import MINUTE_NS, Calls
from autoinstr.model import Batch, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import span_tags, tag_text

#: Time in search indexes: slots of 2**20 ns, about a millisecond.
SLOT_BITS = 20
#: The spans of a group start within 2**30 ns, about a second, so that an index over their last start knows the first, too.
SLOTS_PER_GROUP = 1 << 10
#: Beyond this SQLite's integers cannot hold a slot; such a clock is wrong anyway.
FAR_NS = 1 << 82

#: A longer trace is cut, so that finding one of its spans does not mean to decode all.
SPANS_PER_SEGMENT = 1_000

# What is remembered between writes, at most: some tens of megabytes together.
MAX_TRACES = 20_000
MAX_SPANS = 100_000
MAX_SHAPES = 10_000
MAX_RESOURCES = 1_000
#: Keys of one service, and words of one key: what has more values hardly repeats.
MAX_KEYS = 1_000
MAX_WORDS = 200
#: Longer texts hardly repeat, and would fill the memory.
LONGEST_REMEMBERED_TEXT = 200

_ERROR = Status.ERROR

#: Numbers of a service, an operation and the kind.
Operation = tuple[int, int, int]
#: Service, operation, the last start of its spans in slots, the segment, the buckets of the shortest and the longest.
Group = tuple[int, int, int, int, int, int]


class Numbers(Protocol):
    """What the store keeps once, and segments refer to by number."""

    def name(self, text: str) -> int:
        """The number of a service's or an operation's name."""

    def part(self, data: bytes) -> int:
        """The number of a new part (see ``spancodec``)."""


class Known:
    """What is remembered of one trace: which spans are stored, and what its calls need."""

    __slots__ = ("calls", "seen")

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.calls = Calls()


class Recent:
    """The traces that spans came for lately, bounded; what drops out is read from the store again when it is needed."""

    def __init__(self) -> None:
        #: The newest last.
        self._traces: dict[int, Known] = {}

    def clear(self) -> None:
        """Forget everything, because it may not be what is stored."""
        self._traces.clear()

    def missing(self, trace_ids: Iterable[int]) -> list[int]:
        """Those of the traces that are not remembered."""
        return [trace_id for trace_id in trace_ids if trace_id not in self._traces]

    def remember(self, stored: Trace) -> None:
        """Take note of spans that are stored."""
        for resource, span in stored:
            known = self.take(span.trace_id)
            known.seen.add(hash(identity(resource.service_name, span)))
            known.calls.add(resource.service_name, span)

    def take(self, trace_id: int) -> Known:
        """What is known of a trace, which becomes the newest."""
        known = self._traces.pop(trace_id, None) or Known()
        self._traces[trace_id] = known
        return known

    def shrink(self) -> None:
        """Forget the oldest beyond the bounds."""
        held = sum(len(known.seen) for known in self._traces.values())
        excess = len(self._traces) - MAX_TRACES
        for trace_id in list(self._traces):
            if excess <= 0 and held <= MAX_SPANS:
                return
            held -= len(self._traces.pop(trace_id).seen)
            excess -= 1


class Segment:
    """Spans of one trace that came in one write.

    Kept as columns of plain values, one list for all spans, because each object that holds others makes the garbage
    collector's rounds longer, and at this rate they are most of the cost.
    """

    __slots__ = (
        "base_ns",
        "durations",
        "extensions",
        "first_ns",
        "known",
        "last_ns",
        "packed_groups",
        "parents",
        "shapes",
        "span_ids",
        "starts",
        "trace_id",
        "values",
        "words",
    )

    def __init__(self, trace_id: int, known: Known, start_ns: int) -> None:
        self.trace_id = trace_id
        self.known = known
        self.base_ns = self.first_ns = self.last_ns = start_ns
        self.span_ids: list[int] = []
        self.shapes: list[int] = []
        self.parents: list[int] = []
        self.starts: list[int] = []
        self.durations: list[int] = []
        self.values: list[Any] = []
        self.extensions: list[dict[str, Any]] = []
        self.words: set[str] = set()
        #: Start in units of a group and place (32 bits) to last slot, shortest (8 bits), longest bucket (8 bits).
        self.packed_groups: dict[int, int] = {}

    def encoded(self) -> bytes:
        """The segment as bytes; parents within it are written by their place."""
        places = {span_id: -1 - place for place, span_id in enumerate(self.span_ids)}
        parents = [places.get(parent, parent) for parent in self.parents]
        columns = (self.base_ns, self.shapes, parents, self.starts, self.durations, self.values, self.extensions)
        return spancodec.encode(self.span_ids, columns)

    def groups(self, number: int, places: Sequence[tuple[int, int]]) -> list[Group]:
        """The groups of spans; ``number`` is the segment's, ``places`` are the builder's."""
        return [
            (*places[key & 0xFFFF_FFFF], packed >> 16, number, packed >> 8 & 0xFF, packed & 0xFF)
            for key, packed in self.packed_groups.items()
        ]


class Flush:
    """Everything that one write adds to a store."""

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.segments: list[Segment] = []
        #: What ``Segment.groups`` asks for.
        self.places = places
        self.new_traces = 0
        self.rates: dict[tuple[int, Operation], RateSum] = {}
        #: ``(minute, parent, child)`` to calls and errors.
        self.calls: dict[tuple[int, str, str], list[int]] = {}

    @property
    def span_count(self) -> int:
        """How many spans are new."""
        return sum(total.calls for total in self.rates.values())

    def operations(self) -> dict[Operation, int]:
        """Spans by operation."""
        counts: dict[Operation, int] = {}
        for (_, operation), total in self.rates.items():
            counts[operation] = counts.get(operation, 0) + total.calls
        return counts


class Words:
    """The words by which the tags of one service are found: a checksum of service, key and text.

    A checksum, because it is short, holds nothing that a full-text index takes for syntax, and keeps every difference between
    texts (case, accents, blanks) that such an index does away with. Two tags with one word only cost a look too many.
    """

    __slots__ = ("_service", "_starts", "known")

    def __init__(self, service: str) -> None:
        self._service = service
        #: By key: the checksum up to the text, and how many more words of this key may be remembered.
        self._starts: dict[str, list[int]] = {}
        #: Words by ``(key, value)``. For a dictionary 1, 1.0 and True are the same; they have the same word, too.
        self.known: dict[tuple[str, Any], str] = {}

    def word(self, key: str, value: Any) -> str:
        """The word of a tag."""
        return _word(self._start(key)[0], value)

    def all(self, attributes: Mapping[str, Any]) -> list[str]:
        """The words of all attributes."""
        return [_word(self._start(key)[0], value) for key, value in attributes.items()]

    def learn(self, item: tuple[str, Any]) -> str:
        """The word of a tag, remembered if it is likely to come again."""
        key, value = item
        start = self._starts.get(key) or self._start(key)
        word = _word(start[0], value)
        if start[1] and _is_remembered(value):
            start[1] -= 1
            self.known[item] = word
        return word

    def _start(self, key: str) -> list[int]:
        start = self._starts.get(key)
        if start is None:
            if len(self._starts) >= MAX_KEYS:
                self._starts.clear()
                self.known.clear()
            start = self._starts[key] = [
                zlib.crc32(f"{self._service}\0{key}=".encode("utf-8", "surrogatepass")),
                MAX_WORDS,
            ]
        return start


def _word(start: int, value: Any) -> str:
    text = value if type(value) is str else tag_text(value)
    if text in _SAME_AS_NUMBERS:
        text = _SAME_AS_NUMBERS[text]
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return f"{zlib.crc32(data, start):x}"


def _is_remembered(value: Any) -> bool:
    """Short text; and numbers, but not large ones, of which those that are equal do not all have the same text."""
    if type(value) is str:
        return len(value) <= LONGEST_REMEMBERED_TEXT
    return _is_scalar(value) and abs(value) < 10**9


#: The texts of True and False have the words of what they are equal to.
_SAME_AS_NUMBERS = {"true": "1", "false": "0"}


def _is_scalar(value: Any) -> bool:
    """Whether JSON takes a value as it is (a subclass may be anything)."""
    kind = type(value)
    return kind is str or kind is int or kind is bool or kind is float


class _Origin:
    """A resource, with what is the same for all its spans."""

    __slots__ = ("found_by", "number", "service", "words")

    def __init__(self, resource: Resource, number: int, service: int, words: Words) -> None:
        self.number = number
        self.service = service
        self.words = words
        self.found_by = words.all(resource.attributes)


class _Shape:
    """What the spans with one combination of resource, name, kind, ... and attribute names share."""

    __slots__ = ("flush", "found_by", "minute", "number", "operation", "place", "total")

    def __init__(self, number: int, operation: Operation, place: int, found_by: list[str]) -> None:
        #: The sum that was added to last, in which write and of which minute.
        self.total = RateSum()
        self.flush: Flush | None = None
        self.minute = 0
        self.number = number
        self.operation = operation
        self.place = place
        self.found_by = found_by


class Builder:
    """Makes segments for one partition; remembers the numbers that it got."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._origins: dict[bytes, _Origin] = {}
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._words: dict[str, Words] = {}
        #: Numbers of services and operations, by their place in this list; and the other way round.
        self._places: list[tuple[int, int]] = []
        self._place_of: dict[tuple[int, int], int] = {}

    def build(self, batches: Sequence[Batch], recent: Recent) -> Flush:
        """What the spans come to, without those that are known."""
        flush = Flush(self._places)
        open_segments: dict[int, Segment] = {}
        for batch in batches:
            if batch.spans:
                self._add(batch.resource, batch.spans, recent, flush, open_segments)
        flush.segments = [segment for segment in flush.segments if segment.span_ids]
        return flush

    def _add(
        self,
        resource: Resource,
        spans: Sequence[SpanData],
        recent: Recent,
        flush: Flush,
        open_segments: dict[int, Segment],
    ) -> None:
        """Flat, because it runs for every span."""
        origin = self._origin(resource)
        service, origin_number = resource.service_name, origin.number
        learn, known_word = origin.words.learn, origin.words.known.get
        shapes = self._shapes
        for span in spans:
            start_ns, end_ns, trace_id, kind, status = span.start_ns, span.end_ns, span.trace_id, span.kind, span.status
            segment = open_segments.get(trace_id)
            if segment is None or len(segment.span_ids) >= SPANS_PER_SEGMENT:
                segment = open_segments[trace_id] = Segment(trace_id, recent.take(trace_id), start_ns)
                flush.segments.append(segment)
                flush.new_traces += not segment.known.seen
            known = segment.known
            span_id = span.span_id
            # As store.identity, without the call.
            itself = hash((span_id, kind, start_ns, end_ns, service))
            if itself in known.seen:
                continue
            known.seen.add(itself)

            attributes = span.attributes if span.facts else span.own or {}
            extended = bool(span.events or span.links or span.status_message or span.trace_state or span.dropped)
            key = (
                origin_number,
                span.name,
                kind,
                span.flags,
                status,
                span.scope,
                span.parent_is_remote,
                extended,
                *attributes,
            )
            shape = shapes.get(key)
            if shape is None:
                shape = self._new_shape(origin, key, span)
            words = segment.words
            words.update(shape.found_by)
            is_simple = True
            try:
                found: list[Any] = list(map(known_word, attributes.items()))
            except TypeError:
                # A list or an object, which cannot be looked up.
                found = [known_word(item) if _is_scalar(item[1]) else None for item in attributes.items()]
            if None in found:
                for place, item in enumerate(attributes.items()):
                    if found[place] is None:
                        found[place] = learn(item)
                        is_simple = is_simple and _is_scalar(item[1])
            words.update(found)
            segment.span_ids.append(span_id)
            segment.shapes.append(shape.number)
            segment.parents.append(span.parent_id)
            segment.starts.append(start_ns - segment.base_ns)
            segment.durations.append(end_ns - start_ns)
            segment.values += attributes.values() if is_simple else map(spancodec.pack, attributes.values())
            if extended:
                segment.extensions.append(spancodec.extension(span))
                words.update(_words_of_extension(origin.words, span))

            if start_ns < segment.first_ns:
                segment.first_ns = start_ns
            elif start_ns > segment.last_ns:
                segment.last_ns = start_ns
            lasted = end_ns - start_ns if end_ns > start_ns else 0
            bucket = bucket_of(lasted)
            groups = segment.packed_groups
            slot = (start_ns if -FAR_NS < start_ns < FAR_NS else FAR_NS) >> SLOT_BITS
            group = slot // SLOTS_PER_GROUP << 32 | shape.place
            packed = groups.get(group)
            if packed is None:
                groups[group] = slot << 16 | bucket << 8 | bucket
            else:
                groups[group] = (
                    max(slot, packed >> 16) << 16 | min(bucket, packed >> 8 & 0xFF) << 8 | max(bucket, packed & 0xFF)
                )

            minute = start_ns // MINUTE_NS
            total = shape.total
            if minute != shape.minute or flush is not shape.flush:
                total = _total(flush, shape, minute)
            total.calls += 1
            total.errors += status == _ERROR
            total.duration_ns += lasted
            total.buckets[bucket] = total.buckets.get(bucket, 0) + 1
            calls = known.calls.add(service, span)
            if calls:
                for minute, parent, child, failed in calls:
                    sums = flush.calls.setdefault((minute, parent, child), [0, 0])
                    sums[0] += 1
                    sums[1] += failed

    def _origin(self, resource: Resource) -> _Origin:
        data = spancodec.encode_resource(resource)
        origin = self._origins.get(data)
        if origin is None:
            if len(self._origins) >= MAX_RESOURCES:
                self._origins.clear()
                self._words.clear()
            service = resource.service_name
            words = self._words.setdefault(service, Words(service))
            origin = _Origin(resource, self._numbers.part(data), self._numbers.name(service), words)
            self._origins[data] = origin
        return origin

    def _new_shape(self, origin: _Origin, key: tuple[Any, ...], span: SpanData) -> _Shape:
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        _, name, kind, flags, status, scope, is_remote, extended, *keys = key
        fields = (name, kind, flags, status, scope, is_remote, extended, keys)
        number = self._numbers.part(spancodec.encode_shape(origin.number, fields))
        # What Jaeger shows as tags although it is kept in fields.
        bare = SpanData(name, 0, 0, kind=kind, status=status, scope=scope)
        found_by = [*origin.found_by, *origin.words.all(span_tags(bare))]
        operation = (origin.service, self._numbers.name(name), kind)
        shape = _Shape(number, operation, self._place(operation[:2]), found_by)
        self._shapes[key] = shape
        return shape

    def _place(self, names: tuple[int, int]) -> int:
        place = self._place_of.get(names)
        if place is None:
            place = self._place_of[names] = len(self._places)
            self._places.append(names)
        return place


def _total(flush: Flush, shape: _Shape, minute: int) -> RateSum:
    """The sum that the spans of a shape are added to in this write; of several shapes it may be the same."""
    key = minute, shape.operation
    total = flush.rates.get(key)
    if total is None:
        total = flush.rates[key] = RateSum()
    shape.total, shape.flush, shape.minute = total, flush, minute
    return total


def _words_of_extension(words: Words, span: SpanData) -> list[str]:
    found = words.all(span_tags(span)) if span.status_message or span.trace_state or span.dropped else []
    for event in span.events or ():
        found.append(words.word("event", event.name))
        found += words.all(event.attributes)
    return found
