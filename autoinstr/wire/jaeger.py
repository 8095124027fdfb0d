"""Jaeger's Thrift format: spans to datagrams (compact) and HTTP bodies (binary), and back.

Owns: how a span is said in ``jaeger.thrift`` (tags for kind, status and scope, references for links, logs for events),
the tag names that Jaeger's users search by, and the splitting into datagrams.
Must not know: sockets, HTTP, the environment.
Invariants: no datagram is longer than ``max_bytes``; a span that cannot be encoded is counted, never raised; encoders
and decoders are exact counterparts, except that links lose attributes, trace state and flags, times lose their
nanoseconds, and lists and dictionaries become JSON text.

How it is fast: everything that repeats is kept encoded. A *shape* is what name, kind, status, flags, scope and facts
become; a fact or an own attribute is one *piece*; ids and times of a whole batch are made at once (``thrift.i64_fields``).
"""

from __future__ import annotations

import struct as _struct

from autoinstr.model import MASK_64, Event, Kind, Link, Resource, SpanData, Status
from autoinstr.wire import CACHED_CHARACTERS, Cache, thrift, varint
from autoinstr.wire.jaeger_structs import (
    BINARY,
    BOOL,
    CHILD_OF,
    DOUBLE,
    FOLLOWS_FROM,
    I32_MAX,
    LONG,
    STRING,
)
from autoinstr.wire.opentracing import DROPPED, with_aliases
from autoinstr.wire.values import described, json_text, plain, printable, utf8

__all__ = ["BinaryEncoder", "CompactEncoder", "decode_batch", "decode_compact_batch", "decode_message"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    from autoinstr.wire.jaeger_read import decode_batch, decode_compact_batch, decode_message

    Lost: TypeAlias = tuple[int, int, int]
    #: Name and flags, tags, how many tags, their names.
    Shape: TypeAlias = tuple[bytes, bytes, int, frozenset[str]]
    #: Encoded tags and how many they are: an attribute may be said twice, or not at all.
    Piece: TypeAlias = tuple[bytes, int]
    #: The same of a fact, and the names of its attributes.
    FactPiece: TypeAlias = tuple[bytes, int, frozenset[str]]

#: The longest datagram that Jaeger's agent reads and that its clients send.
MAX_DATAGRAM_BYTES = 65_000

#: How many spans have their ids and times encoded in one go; more gains nothing, and costs masks.
_CHUNK = 64
_ZERO = b"\0"
_NOTHING: dict[str, Any] = {}


# Encoding ---------------------------------------------------------------------------------------------------------


class _ThriftEncoder:
    """What both protocols share: everything but ids, times and envelopes."""

    content_type = "application/x-thrift"
    #: Whether attributes are also written under OpenTracing's names: not by those who only pass spans on.
    has_aliases = True

    _fields: Callable[..., bytes]
    _string: Callable[[bytes], bytes]

    def __init__(self, resource: Resource, max_value_length: int | None = None) -> None:
        self._limit = max_value_length
        self._sequence = 0
        self._shapes = Cache()
        self._heads = Cache()
        self._string_prefixes = Cache()
        self._pieces = _Pieces(client=False), _Pieces(client=True)
        self._tag_headers = [
            self._fields([(10, thrift.LIST, [b""] * count)] if count else [], 9) for count in range(64)
        ]
        name: thrift.Field = (1, thrift.STRING, utf8(printable(resource.service_name)))
        tags = self._tags(resource.attributes)
        self._process = self._struct([name, (2, thrift.LIST, tags)] if tags else [name])

    def rejected(self, response: bytes) -> int:
        """Always 0: Jaeger takes a payload as a whole."""
        return 0

    def _numbers(self, spans: Sequence[SpanData]) -> list[tuple[bytes, bytes]]:
        """Fields 1 to 4 (ids) and fields 8 and 9 (times) of each span; raises if one of them has none."""
        raise NotImplementedError

    def _bodies(self, spans: Sequence[SpanData]) -> tuple[list[bytes], int]:
        """The spans as structs, and how many cannot be encoded."""
        bodies: list[bytes] = []
        bad = 0
        for start in range(0, len(spans), _CHUNK):
            chunk = spans[start : start + _CHUNK]
            try:
                numbers = self._numbers(chunk)
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += self._one_by_one(chunk, bodies)
            else:
                bad += self._encode(chunk, numbers, bodies)
        return bodies, bad

    def _one_by_one(self, spans: Sequence[SpanData], bodies: list[bytes]) -> int:
        """As ``_encode``, when a span among them spoils the chunk."""
        bad = 0
        for span in spans:
            try:
                numbers = self._numbers([span])
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += 1
            else:
                bad += self._encode([span], numbers, bodies)
        return bad

    def _encode(self, spans: Sequence[SpanData], numbers: list[tuple[bytes, bytes]], bodies: list[bytes]) -> int:
        """Append the structs of ``spans`` to ``bodies``; how many cannot be encoded.

        The hot loop: flat on purpose, no call per attribute on a hit.
        """
        bad = 0
        shape_of, tag_headers, client = self._shapes.get, self._tag_headers, Kind.CLIENT
        for span, (ids, times) in zip(spans, numbers, strict=True):
            try:
                kind, own = span.kind, span.own
                key = (span.name, kind, span.status, span.flags, span.scope, span.facts)
                try:
                    shape = shape_of(key)
                except TypeError:  # a fact with an argument that cannot be hashed
                    shape = None
                head, tags, count, names = shape or self._shape(span, key)
                parts = [ids, head, times, b"", tags]
                if own:
                    pieces = self._pieces[kind == client]
                    if not names.isdisjoint(own):
                        parts[4], count = self._overridden(span)
                        own = _NOTHING
                    for item in own.items():
                        kind_of_value = type(item[1])
                        if kind_of_value is str:
                            piece = pieces.strings.get(item)
                        elif kind_of_value is int:
                            piece = pieces.ints.get(item)
                        else:
                            piece = None
                        if piece is None:
                            piece = self._piece(item, pieces)
                        parts.append(piece[0])
                        count += piece[1]
                if span.events or span.links or span.status_message or span.trace_state or span.dropped:
                    count = self._extend(parts, count, span)
                parts[3] = tag_headers[count] if count < 64 else self._fields([(10, thrift.LIST, [b""] * count)], 9)
                parts.append(_ZERO)
                bodies.append(b"".join(parts))
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += 1
        return bad

    def _shape(self, span: SpanData, key: tuple[Any, ...]) -> Shape:
        """What repeats of a span, from what each of its facts became before; remembered if none of them was new.

        With a new one in it (a path with an id) the shape will hardly come again, and would take another one's room.
        """
        name, kind, status, flags, scope, facts = key
        pieces = self._pieces[kind == Kind.CLIENT]
        said_key = kind, status, scope
        said = pieces.said.get(said_key)
        if said is None:
            attributes: Mapping[str, Any] = _said_by_tags(span)
            said = _fact_piece(attributes, self._tags(attributes))
            pieces.said.keep(said_key, said, len(said[0]))
        tags, names, count = [said[0]], said[2], said[1]
        are_known = True
        for fact in facts:
            try:
                piece = pieces.facts.get(fact)
            except TypeError:  # an argument that cannot be hashed
                return self._whole_shape(span)
            if piece is None:
                are_known = False
                attributes = self._with_aliases(described((fact,)), pieces.client)
                piece = _fact_piece(attributes, self._cut_tags(attributes))
                pieces.facts.keep(fact, piece, len(piece[0]))
            if not names.isdisjoint(piece[2]):
                return self._whole_shape(span)
            tags.append(piece[0])
            count += piece[1]
            names |= piece[2]
        head = self._heads.get((name, flags))
        if head is None:
            head = self._head(span, [])
            self._heads.keep((name, flags), head, len(head))
        shape = head, b"".join(tags), count, names
        if are_known:
            self._shapes.keep(key, shape, len(head) + len(shape[1]))
        return shape

    def _whole_shape(self, span: SpanData) -> Shape:
        """As ``_shape`` without what is remembered, where facts overlap (the later wins) or cannot be hashed."""
        attributes = self._with_aliases(described(span.facts), span.kind == Kind.CLIENT)
        said = _said_by_tags(span)
        tags = self._shape_tags(said, attributes)
        return self._head(span, []), b"".join(tags), len(tags), frozenset(attributes) | frozenset(said)

    def _with_aliases(self, attributes: Mapping[str, Any], client: bool) -> Mapping[str, Any]:
        return with_aliases(attributes, client) if self.has_aliases else attributes

    def _overridden(self, span: SpanData) -> Piece:
        """All tags of a span whose own attributes replace some of its shape's."""
        attributes = {**described(span.facts), **(span.own or {})}
        tags = self._shape_tags(_said_by_tags(span), self._with_aliases(attributes, span.kind == Kind.CLIENT))
        return b"".join(tags), len(tags)

    def _shape_tags(self, said: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[bytes]:
        """Tags of both; attributes win, and only they are cut."""
        return self._tags({name: said[name] for name in said if name not in attributes}) + self._cut_tags(attributes)

    def _piece(self, item: tuple[str, Any], pieces: _Pieces) -> Piece:
        """An own attribute, encoded, and remembered if it may well come again."""
        tags = self._cut_tags(self._with_aliases(dict((item,)), pieces.client))
        piece = b"".join(tags), len(tags)
        value = item[1]
        if type(value) is int:
            pieces.ints.keep(item, piece, len(piece[0]))
        elif type(value) is str and len(value) <= CACHED_CHARACTERS:
            pieces.strings.keep(item, piece, len(piece[0]))
        return piece

    def _extend(self, parts: list[bytes], count: int, span: SpanData) -> int:
        """Add what few spans have to a span's parts; the new number of tags."""
        if span.links:
            parts[1] = self._head(span, [self._reference(link) for link in span.links])
        tags = self._tags(_rare_attributes(span))
        parts += tags
        count += len(tags)
        if span.events:
            logs = [self._log(event) for event in span.events]
            parts.append(self._fields([(11, thrift.LIST, logs)], 10 if count else 9))
        return count

    def _head(self, span: SpanData, references: list[bytes]) -> bytes:
        """Fields 5 to 7."""
        name: thrift.Field = (5, thrift.STRING, utf8(printable(span.name)))
        flags: thrift.Field = (7, thrift.I32, span.flags & 0xFF)  # What is above has no place in Jaeger's formats.
        return self._fields([name, (6, thrift.LIST, references), flags] if references else [name, flags], 4)

    def _reference(self, link: Link) -> bytes:
        context = link.context
        return self._struct(
            [
                (1, thrift.I32, CHILD_OF if link.child_of else FOLLOWS_FROM),
                (2, thrift.I64, thrift.signed(context.trace_id & MASK_64)),
                (3, thrift.I64, thrift.signed(context.trace_id >> 64)),
                (4, thrift.I64, thrift.signed(context.span_id)),
            ]
        )

    def _log(self, event: Event) -> bytes:
        fields = self._tags({"event": event.name}) if event.name else []
        fields += self._cut_tags(event.attributes)
        return self._struct([(1, thrift.I64, event.time_ns // 1000), (2, thrift.LIST, fields)])

    def _tags(self, attributes: Mapping[str, Any]) -> list[bytes]:
        """A tag for each attribute that has a value."""
        return [self._tag(printable(key), plain(value)) for key, value in attributes.items() if value is not None]

    def _cut_tags(self, attributes: Mapping[str, Any]) -> list[bytes]:
        """As ``_tags``, with long values cut."""
        if self._limit is None:
            return self._tags(attributes)
        return self._tags({key: plain(value, self._limit) for key, value in attributes.items()})

    def _tag(self, key: str, value: Any) -> bytes:
        if isinstance(value, list | dict):
            value = json_text(value)
        if isinstance(value, str):
            return self._string_prefix(key) + self._string(utf8(value)) + _ZERO
        kind, field = _tag_field(value)
        return self._struct([(1, thrift.STRING, utf8(key)), (2, thrift.I32, kind), field])

    def _string_prefix(self, key: str) -> bytes:
        """A string tag up to its value: most attributes that vary are strings, under a few names."""
        prefix: bytes | None = self._string_prefixes.get(key)
        if prefix is None:
            empty = self._fields([(1, thrift.STRING, utf8(key)), (2, thrift.I32, STRING), (3, thrift.STRING, b"")])
            prefix = empty[: -len(self._string(b""))]
            self._string_prefixes.keep(key, prefix, len(prefix))
        return prefix

    def _struct(self, fields: Sequence[thrift.Field]) -> bytes:
        return self._fields(fields) + _ZERO

    def _batch_end(self, lost: Lost | None) -> bytes:
        """What follows the spans in a batch: its number and what was lost so far, unless ``lost`` is ``None``."""
        if lost is None:
            return _ZERO
        counts: list[thrift.Field] = [(index + 1, thrift.I64, count) for index, count in enumerate(lost)]
        return self._fields([(3, thrift.I64, self._sequence), (4, thrift.STRUCT, self._struct(counts))], 2) + _ZERO


class CompactEncoder(_ThriftEncoder):
    """``Agent.emitBatch`` messages in the compact protocol, one per datagram (UDP port 6831)."""

    _fields = staticmethod(thrift.compact_fields)
    _string = staticmethod(thrift.compact_string)

    def __init__(
        self, resource: Resource, max_bytes: int = MAX_DATAGRAM_BYTES, max_value_length: int | None = None
    ) -> None:
        super().__init__(resource, max_value_length)
        self._max_bytes = max_bytes

    def encode(self, spans: Sequence[SpanData], lost: Lost | None = (0, 0, 0)) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``; ``lost=None`` leaves batch number and counts out, as Jaeger's Python client."""
        bodies, bad = self._bodies(spans)
        payloads: list[tuple[bytes, int]] = []
        at = 0
        while at < len(bodies):
            payload, taken, too_large = self._datagram(bodies, at, lost)
            at += taken + too_large
            bad += too_large
            if taken:
                payloads.append((payload, taken))
        return payloads, bad

    def _datagram(self, bodies: list[bytes], at: int, lost: Lost | None) -> tuple[bytes, int, int]:
        """The message of as many spans from ``at`` on as fit, their number, and 1 if not even the first fits."""
        self._sequence += 1
        start = thrift.compact_message_header(
            b"emitBatch", thrift.ONEWAY, self._sequence & I32_MAX
        ) + thrift.compact_fields([(1, thrift.STRUCT, thrift.compact_fields([(1, thrift.STRUCT, self._process)]))])
        end = self._batch_end(lost) + _ZERO
        room = self._max_bytes - len(start) - len(end)
        stop = at
        while stop < len(bodies) and len(_spans_header(stop + 1 - at)) + len(bodies[stop]) <= room:
            room -= len(bodies[stop])
            stop += 1
        if stop == at:
            self._sequence -= 1
            return b"", 0, 1
        return b"".join((start, _spans_header(stop - at), *bodies[at:stop], end)), stop - at, 0

    def _numbers(self, spans: Sequence[SpanData]) -> list[tuple[bytes, bytes]]:
        values: list[int] = []
        vanished: list[int] = []
        for span in spans:
            trace_id, start_ns = span.trace_id, span.start_ns
            low, span_id, start = trace_id & MASK_64, span.span_id, start_ns // 1000
            duration = (span.end_ns - start_ns) // 1000
            if duration < 0:  # noqa: PLR1730 - a clock was set back; max() would cost a call for each span
                duration = 0
            if not (low and span_id and start):
                vanished.append(len(values))
            values += (low, trace_id >> 64, span_id, span.parent_id, start, duration)
        raw = thrift.i64_fields(values, 6)
        numbers = []
        ids_end, times_end = 4 * thrift.LANE, 6 * thrift.LANE
        at = 0
        for span in spans:
            # Zeros vanish with the filling. Those that are common are put back here: no high half, no parent, no time.
            if span.trace_id > MASK_64:
                ids = raw[at : at + ids_end].translate(None, _ZERO)
            else:
                middle = at + 2 * thrift.LANE
                ids = raw[at:middle].translate(None, _ZERO) + _ZERO + raw[middle : at + ids_end].translate(None, _ZERO)
            if not span.parent_id:
                ids += _ZERO
            times = raw[at + ids_end : at + times_end].translate(None, _ZERO)
            if not raw[at + times_end - thrift.LANE + 1]:
                times += _ZERO
            numbers.append((ids, times))
            at += times_end
        for first in vanished:
            fields = [b"\x16" + thrift.zigzag_varint(thrift.signed(value)) for value in values[first : first + 6]]
            numbers[first // 6] = b"".join(fields[:4]), b"".join(fields[4:])
        return numbers


class BinaryEncoder(_ThriftEncoder):
    """A bare ``Batch`` in the binary protocol, as Jaeger's collector takes it over HTTP (port 14268)."""

    _fields = staticmethod(thrift.binary_fields)
    _string = staticmethod(thrift.binary_string)

    def encode(self, spans: Sequence[SpanData], lost: Lost | None = (0, 0, 0)) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``; ``lost=None`` leaves batch number and counts out, as Jaeger's Python client."""
        bodies, bad = self._bodies(spans)
        if not bodies:
            return [], bad
        self._sequence += 1
        batch = thrift.binary_fields([(1, thrift.STRUCT, self._process), (2, thrift.LIST, bodies)])
        return [(batch + self._batch_end(lost), len(bodies))], bad

    def _numbers(self, spans: Sequence[SpanData]) -> list[tuple[bytes, bytes]]:
        pack_ids, pack_times = _BINARY_IDS.pack, _BINARY_TIMES.pack
        numbers = []
        for span in spans:
            trace_id, start_ns = span.trace_id, span.start_ns
            duration = (span.end_ns - start_ns) // 1000
            if duration < 0:  # noqa: PLR1730 - a clock was set back; max() would cost a call for each span
                duration = 0
            numbers.append(
                (
                    pack_ids(
                        *(b"\x0a\0\1", trace_id & MASK_64, b"\x0a\0\2", trace_id >> 64),
                        *(b"\x0a\0\3", span.span_id, b"\x0a\0\4", span.parent_id),
                    ),
                    pack_times(b"\x0a\0\x08", start_ns // 1000, b"\x0a\0\x09", duration),
                )
            )
        return numbers


_BINARY_IDS = _struct.Struct(">3sQ3sQ3sQ3sQ")
_BINARY_TIMES = _struct.Struct(">3sQ3sQ")


class _Pieces:
    """What was encoded before: attributes and facts, of spans that are a client's and of others.

    Numbers are apart from text, since 1 == True == 1.0 but "1" != 1.
    """

    __slots__ = ("client", "facts", "ints", "said", "strings")

    def __init__(self, *, client: bool) -> None:
        self.client = client
        self.strings = Cache()
        self.ints = Cache()
        self.facts = Cache()
        self.said = Cache()


def _fact_piece(attributes: Mapping[str, Any], tags: list[bytes]) -> FactPiece:
    return b"".join(tags), len(tags), frozenset(attributes)


def _spans_header(count: int) -> bytes:
    """Field 2 of a compact ``Batch``, up to the first of ``count`` spans."""
    if count < 15:
        return bytes((0x19, count << 4 | 0x0C))
    return b"\x19\xfc" + varint(count)


def _tag_field(value: Any) -> tuple[int, thrift.Field]:
    """The type of a tag and the field that holds its value."""
    if isinstance(value, bool):
        return BOOL, (5, thrift.BOOL, value)
    if isinstance(value, int):
        return LONG, (6, thrift.I64, value)
    if isinstance(value, float):
        return DOUBLE, (4, thrift.DOUBLE, value)
    return BINARY, (7, thrift.STRING, value)


def _said_by_tags(span: SpanData) -> dict[str, Any]:
    """A span's kind, status and scope, for which Jaeger's format has no fields."""
    said: dict[str, Any] = {}
    if span.kind:
        said["span.kind"] = Kind.NAMES[span.kind]
    if span.status == Status.ERROR:
        said["error"] = True
    elif span.status == Status.OK:
        said["otel.status_code"] = Status.NAMES[Status.OK]
    if span.scope:
        said["component"] = span.scope
    return said


def _rare_attributes(span: SpanData) -> dict[str, Any]:
    """What few spans have, as tags."""
    said: dict[str, Any] = {}
    if span.status_message:
        if span.status == Status.ERROR:
            said["otel.status_code"] = Status.NAMES[Status.ERROR]
        said["otel.status_description"] = span.status_message
    if span.trace_state:
        said["w3c.tracestate"] = span.trace_state
    for name, count in zip(DROPPED, span.dropped or (), strict=False):
        if count:
            said[name] = count
    return said


def __getattr__(name: str) -> Any:
    """The readers, which receivers load and traced programs do not."""
    if not name.startswith("decode_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autoinstr.wire import jaeger_read

    return getattr(jaeger_read, name)
