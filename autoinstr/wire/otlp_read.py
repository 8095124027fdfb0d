"""Reading OpenTelemetry's protocol in protobuf: requests to batches.

Owns: how the messages of ``opentelemetry/proto/trace/v1`` become spans, what of a request nobody can mean.
Must not know: HTTP, compression, the environment, how spans are written (``otlp``), JSON (``otlp_json``).
Invariants: raises ``DecodeError`` and nothing else; what a request may claim is bounded by ``Room``; of a field that comes
twice the last one counts, and what is unknown is skipped, as protobuf has it.

How it is fast: spans are read where they lie, in one loop each; what repeats from span to span (attributes, names, whole
resources) is looked up by its bytes. So equal resources are one object, which nobody may change.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.model import SAMPLED, Batch, Event, Link, Resource, SpanContext, SpanData
from autoinstr.wire import (
    CACHED_CHARACTERS,
    READER_CACHE_BYTES,
    SPAN_PARTS,
    UNKNOWN_SERVICE,
    Cache,
    DecodeError,
    Room,
    TooLarge,
    protobuf,
    read_varint,
)
from autoinstr.wire.values import MAX_DEPTH, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

#: Scopes are "autoinstr.flask" and the like on the wire, so that it can be seen who made the span.
SCOPE = "autoinstr"
SCOPE_PREFIX = "autoinstr."
#: The resource attribute that names the service.
SERVICE_NAME = "service.name"
#: Bits of span and link flags: W3C's in the lowest eight, then whether it is known and true that the parent is remote.
W3C_RANDOM, HAS_IS_REMOTE, IS_REMOTE = 0x02, 0x100, 0x200

#: A span of more bytes is refused: gRPC's receivers do not take such a request by default.
MAX_SPAN_BYTES = 4 * 1024 * 1024

_TRACE_ID, _SPAN_ID, _STATE, _PARENT_ID, _NAME, _KIND, _START, _END = 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x30, 0x39, 0x41
_ATTRIBUTE, _EVENT, _LINK, _STATUS = 0x4A, 0x5A, 0x6A, 0x7A
_DROPPED_FIELDS = {0x50: 0, 0x60: 1, 0x70: 2}
#: The two bytes of the tag of ``flags``.
_FLAGS, _FLAGS_2 = 0x85, 0x01

_fixed_64 = _struct.Struct("<Q").unpack_from

_attributes_read = Cache(READER_CACHE_BYTES)
_texts_read = Cache(READER_CACHE_BYTES)
_resources_read = Cache(READER_CACHE_BYTES)
#: Resources of more bytes are not kept.
_CACHED_RESOURCE_BYTES = 4096


def decode_protobuf(data: bytes) -> list[Batch]:
    """The batches, one per resource, of an ``ExportTraceServiceRequest``; ``DecodeError`` when it is none."""
    data = bytes(data)
    room = Room()
    try:
        return [_batch(data, start, end, room) for tag, start, end in _fields(data, 0, len(data)) if tag == 0x0A]
    except (IndexError, _struct.error):
        raise DecodeError("ends within a message") from None


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of the value of each field of the message in ``data[at:end]``."""
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = read_varint(data, at - 1)
        if not 8 <= tag < 1 << 32:
            raise DecodeError(f"field number {tag >> 3}, before {at}")
        start, at = _value_bounds(data, at, tag & 7)
        if at > end:
            raise DecodeError(f"{at - start} bytes wanted at {start}, but {end - start} are left")
        yield tag, start, at


def _value_bounds(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where the value of a field begins, without its length, and where it ends."""
    if wire_type == protobuf.LENGTH:
        size, at = (data[at], at + 1) if data[at] < 0x80 else read_varint(data, at)
        return at, at + size
    if wire_type == protobuf.VARINT:
        return at, read_varint(data, at)[1]
    if wire_type in (protobuf.FIXED_64, protobuf.FIXED_32):
        return at, at + (8 if wire_type == protobuf.FIXED_64 else 4)
    raise DecodeError(f"unknown wire type {wire_type}, before {at}")


def _batch(data: bytes, at: int, end: int, room: Room) -> Batch:
    """A ``ResourceSpans``."""
    room.take(SPAN_PARTS)
    resource = b""
    spans: list[SpanData] = []
    for tag, start, stop in _fields(data, at, end):
        if tag == 0x12:
            _read_scope_spans(data, start, stop, spans, room)
        elif tag == 0x0A:
            resource += data[start:stop]
    return Batch(_resource(resource, room), spans)


def _resource(message: bytes, room: Room) -> Resource:
    known: Resource | None = _resources_read.get(message)
    if known is not None:
        return known
    attributes = _attributes(protobuf.fields(message), 1)
    room.take(len(attributes))
    resource = named_resource(attributes)
    if len(message) <= _CACHED_RESOURCE_BYTES:
        _resources_read.keep(message, resource, 4 * len(message))
    return resource


def named_resource(attributes: dict[str, Any]) -> Resource:
    name = attributes.pop(SERVICE_NAME, "")
    return Resource(printable(name) or UNKNOWN_SERVICE, attributes)


def _read_scope_spans(data: bytes, at: int, end: int, spans: list[SpanData], room: Room) -> None:
    """A ``ScopeSpans``. Its scope may come behind its spans."""
    scope = b""
    first = len(spans)
    for tag, start, stop in _fields(data, at, end):
        if tag == 0x12:
            if stop - start > MAX_SPAN_BYTES:
                raise TooLarge(f"a span of {stop - start} bytes")
            span = _span(data, start, stop)
            room.take(weight(span))
            spans.append(span)
        elif tag == 0x0A:
            scope += data[start:stop]
    if scope:
        name = scope_of(_field_text(protobuf.fields(scope), 1))
        for position in range(first, len(spans)):
            spans[position].scope = name


def weight(span: SpanData) -> int:
    """Parts of ``Room`` that a span counts as."""
    parts = SPAN_PARTS + len(span.links) + _attributes_weight(span.own)
    for event in span.events or ():
        parts += 1 + _attributes_weight(event.attributes)
    return parts


def _attributes_weight(attributes: Mapping[str, Any] | None) -> int:
    if not attributes:
        return 0
    nested = [value for value in attributes.values() if type(value) in (list, dict)]
    return len(attributes) + (sum(map(_count, nested)) if nested else 0)


def _count(value: Any) -> int:
    """Values in lists and dictionaries; the depth is limited already."""
    if type(value) is dict:
        value = list(value.values())
    return 1 + sum(map(_count, value)) if type(value) is list else 1


def scope_of(name: str) -> str:
    return "" if name == SCOPE else name.removeprefix(SCOPE_PREFIX)


def _span(data: bytes, at: int, end: int) -> SpanData:
    """The span in ``data[at:end]``, in one loop without calls for what nearly all spans have."""
    span = _new_span(SpanData)
    trace_id = span_id = parent_id = kind = start_ns = end_ns = flags = 0
    name = trace_state = ""
    own: dict[str, Any] = {}
    events: list[Event] = []
    links: list[Link] = []
    status = b""
    dropped = [0, 0, 0]
    attribute_read, text_read = _attributes_read.get, _texts_read.get
    while at < end:
        tag = data[at]
        at += 1
        if tag == _ATTRIBUTE:
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = read_varint(data, at - 1)
            message = data[at : at + size]
            at += size
            pair = attribute_read(message)
            if pair is None:
                pair = _attribute(message)
            if pair[1] is not None:
                own[pair[0]] = pair[1]
        elif tag == _TRACE_ID:
            if data[at] != 16:
                trace_id, at = _no_id(data, at)
                continue
            trace_id = int.from_bytes(data[at + 1 : at + 17], "big")
            at += 17
        elif tag == _SPAN_ID:
            if data[at] != 8:
                span_id, at = _no_id(data, at)
                continue
            span_id = int.from_bytes(data[at + 1 : at + 9], "big")
            at += 9
        elif tag == _PARENT_ID:
            if data[at] != 8:
                parent_id, at = _no_id(data, at)
                continue
            parent_id = int.from_bytes(data[at + 1 : at + 9], "big")
            at += 9
        elif tag == _START:
            start_ns = _fixed_64(data, at)[0]
            at += 8
        elif tag == _END:
            end_ns = _fixed_64(data, at)[0]
            at += 8
        elif tag == _NAME:
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = read_varint(data, at - 1)
            message = data[at : at + size]
            at += size
            name = text_read(message) or _text(message)
        elif tag == _KIND and data[at] < 0x80:
            kind = data[at]
            at += 1
        elif tag == _FLAGS and data[at] == _FLAGS_2:
            flags = int.from_bytes(data[at + 1 : at + 5], "little")
            at += 5
        else:
            # What few spans have.
            if tag > 0x7F:
                tag, at = read_varint(data, at - 1)
            if not 8 <= tag < 1 << 32:
                raise DecodeError(f"field number {tag >> 3}, before {at}")
            start, at = _value_bounds(data, at, tag & 7)
            if at > end:
                break
            if tag == _EVENT:
                events.append(_event(data[start:at]))
            elif tag == _LINK:
                links.append(_link(data[start:at]))
            elif tag == _STATUS:
                status += data[start:at]
            elif tag == _STATE:
                trace_state = _decoded(data[start:at])
            elif tag == _KIND:
                kind = _uint64(data, start)
            elif tag in _DROPPED_FIELDS:
                dropped[_DROPPED_FIELDS[tag]] = _uint64(data, start)
    if at != end:
        raise DecodeError(f"a span's fields end at {at}, the span at {end}")
    span.name = name
    span.trace_id = trace_id
    span.span_id = span_id
    span.parent_id = parent_id
    span.parent_is_remote = flags & IS_REMOTE != 0
    span.kind = kind if kind <= 5 else 0
    span.flags = flags_of(flags)
    span.start_ns = start_ns
    span.end_ns = end_ns
    span.facts = ()
    span.own = own or None
    span.events = events or None
    span.links = links
    span.status = 0
    span.status_message = ""
    span.scope = ""
    span.trace_state = trace_state
    span.dropped = (dropped[0], dropped[1], dropped[2]) if any(dropped) else None
    if status:
        fields = protobuf.fields(status)
        span.status = enum_of(field_int(fields, 3), 2)
        span.status_message = _field_text(fields, 2)
    return span


_new_span = SpanData.__new__


def _no_id(data: bytes, at: int) -> tuple[int, int]:
    """An id that has not its full length: 0 if it is empty, as it should not be sent."""
    size, after = read_varint(data, at)
    if size:
        raise DecodeError(f"id of {size} bytes, before {after}")
    return 0, after


def _uint64(data: bytes, at: int) -> int:
    """The integer at ``at``; longer ones are cut, as all readers do."""
    return read_varint(data, at)[0] & 0xFFFF_FFFF_FFFF_FFFF


def _text(data: bytes) -> str:
    """Text that may well come again."""
    result = _decoded(data)
    if len(data) <= CACHED_CHARACTERS:
        _texts_read.keep(data, result, len(data))
    return result


def _attribute(message: bytes) -> tuple[str, Any]:
    """A ``KeyValue``, remembered if it may well come again."""
    pair = _simple_attribute(message) or _key_value(message, 0)
    # Lists and dictionaries could be changed by who gets them.
    if len(message) <= CACHED_CHARACTERS and type(pair[1]) not in (list, dict):
        _attributes_read.keep(message, pair, 2 * len(message))
    return pair


def _simple_attribute(message: bytes) -> tuple[str, Any] | None:
    """A ``KeyValue`` of text or of a small number, as nearly all are; ``None`` for any other."""
    size = len(message)
    if size < 6 or message[0] != 0x0A:
        return None
    key_end = message[1] + 2
    # Key, tag of the value, its length, then its own tag. Lengths of 128 and more fail the comparison.
    if key_end + 4 > size or message[key_end] != 0x12 or key_end + 2 + message[key_end + 1] != size or size > 0x7F:
        return None
    raw_key = message[2:key_end]
    key = _texts_read.get(raw_key) or _text(raw_key)
    kind, value = message[key_end + 2], message[key_end + 3]
    if kind == 0x0A and key_end + 4 + value == size:
        return key, _decoded(message[key_end + 4 :])
    if kind == 0x18 and key_end + 4 == size and value < 0x80:
        return key, value
    return None


def _event(message: bytes) -> Event:
    fields = protobuf.fields(message)
    return Event(_field_text(fields, 2), field_int(fields, 1, protobuf.FIXED_64), _attributes(fields, 3))


def _link(message: bytes) -> Link:
    fields = protobuf.fields(message)
    flags = field_int(fields, 6, protobuf.FIXED_32)
    context = SpanContext(
        _field_id(fields, 1, 16),
        _field_id(fields, 2, 8),
        from_w3c(flags),
        _field_text(fields, 3),
        is_remote=flags & IS_REMOTE != 0,
    )
    return Link(context, _attributes(fields, 4))


def _attributes(fields: protobuf.Message, field: int) -> dict[str, Any]:
    """``KeyValue`` messages as a dictionary, without those that have no value."""
    pairs = [_key_value(message, 0) for message in _messages(fields, field)]
    return {key: value for key, value in pairs if value is not None}


def _key_value(message: bytes, depth: int) -> tuple[str, Any]:
    fields = protobuf.fields(message)
    return _field_text(fields, 1), _value(field_bytes(fields, 2), depth)


def _value(message: bytes, depth: int) -> Any:
    """The value of an ``AnyValue``."""
    if depth > MAX_DEPTH:
        raise DecodeError(f"values nested deeper than {MAX_DEPTH}")
    result: Any = None
    for tag, values in protobuf.fields(message).items():
        read = _VALUE_READERS.get(tag)
        if read is not None:
            result = read(values[-1], depth)
    return result


def _array(message: bytes, depth: int) -> list[Any]:
    return [_value(item, depth + 1) for item in _messages(protobuf.fields(message), 1)]


def _kvlist(message: bytes, depth: int) -> dict[str, Any]:
    return dict([_key_value(item, depth + 1) for item in _messages(protobuf.fields(message), 1)])


_VALUE_READERS: dict[int, Callable[[Any, int], Any]] = {
    1 << 3 | protobuf.LENGTH: lambda value, depth: _decoded(value),
    2 << 3 | protobuf.VARINT: lambda value, depth: value != 0,
    3 << 3 | protobuf.VARINT: lambda value, depth: protobuf.signed(value),
    4 << 3 | protobuf.FIXED_64: lambda value, depth: protobuf.double(value),
    5 << 3 | protobuf.LENGTH: _array,
    6 << 3 | protobuf.LENGTH: _kvlist,
    7 << 3 | protobuf.LENGTH: lambda value, depth: value,
}


def _messages(fields: protobuf.Message, field: int) -> list[bytes]:
    """The values of a repeated submessage."""
    return fields.get(field << 3 | protobuf.LENGTH, [])


def field_bytes(fields: protobuf.Message, field: int) -> bytes:
    """A string, bytes or submessage, empty if absent; parts of a submessage are joined, as protobuf has it."""
    values = _messages(fields, field)
    return values[0] if len(values) == 1 else b"".join(values)


def _field_text(fields: protobuf.Message, field: int) -> str:
    values = _messages(fields, field)
    return _decoded(values[-1]) if values else ""


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"text is not UTF-8: {error.reason}") from None


def field_int(fields: protobuf.Message, field: int, kind: int = protobuf.VARINT) -> int:
    """An integer, 0 if absent."""
    values = fields.get(field << 3 | kind)
    return values[-1] if values else 0


def _field_id(fields: protobuf.Message, field: int, size: int) -> int:
    values = _messages(fields, field)
    if not values or not values[-1]:
        return 0
    if len(values[-1]) != size:
        raise DecodeError(f"id of {len(values[-1])} bytes where {size} belong")
    return int.from_bytes(values[-1], "big")


def enum_of(number: int, highest: int) -> int:
    """A kind or status; one that we do not know is unspecified."""
    return number if number <= highest else 0


def flags_of(flags: int) -> int:
    """The span's own flags. Many senders leave the field out; what they send was sampled all the same."""
    return from_w3c(flags) if flags else SAMPLED


def from_w3c(flags: int) -> int:
    """Our flags for W3C's: bit 1 is not Jaeger's debug flag there."""
    return flags & SAMPLED | (flags & W3C_RANDOM) << 7


def dropped_of(counts: list[int]) -> tuple[int, int, int] | None:
    return (counts[0], counts[1], counts[2]) if any(counts) else None
