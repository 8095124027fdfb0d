"""Spans of one trace as bytes to be stored, and back.

Owns: the layout of a stored segment, the values that JSON has no form for, what spans share ("parts") as JSON.
Must not know: SQL, files, searching.
Invariants: what is decoded equals what was encoded (tuples come back as lists); a segment says which codec wrote it, so that
old ones stay readable; broken bytes raise ``CodecError`` and nothing else.

Layout of a segment: one byte for the codec, four for the number of spans, eight for each span id (random, so that they would
only make the compressor slower), then the columns ``[base, shapes, parents, starts, durations, values, extensions]`` as JSON,
compressed unless it is short. Times are nanoseconds, starts count from ``base``. A shape is the number of the part that says
how many of the values are the span's, and what they are; a parent is 0, an id, or ``-1 - n`` for the n-th span of this segment;
an extension is what few spans have (events, links, texts), for those whose shape says so.

What repeats from trace to trace (resource, name, kind, the names of attributes) is kept once per partition, as a *part*:
``[service, attributes]`` for a resource, ``[resource, name, kind, flags, status, scope, is remote, extended, [key, ...]]`` for a
shape.
"""

from __future__ import annotations

import binascii
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autoinstr.backend.store import Trace
from autoinstr.model import Event, Link, Resource, SpanContext, SpanData
from autoinstr.wire.values import plain

PLAIN_JSON, DEFLATED_JSON = 0, 1
#: Shorter texts are not worth setting up a compressor.
WORTH_COMPRESSING = 160
#: A window of 4 KiB and little memory: the segments are small, and a large compressor takes longer to set up than to run.
WINDOW_BITS, MEMORY_LEVEL = -12, 5
#: What one segment may inflate to; far above what a write can hold.
MAX_INFLATED_BYTES = 1 << 30

#: Base, shapes, parents, starts, durations, values, extensions.
Columns = Sequence[Any]

_HEAD = struct.Struct(">BI")
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class CodecError(ValueError):
    """Stored bytes that cannot be read."""


class Shape(NamedTuple):
    """What the values of a row belong to."""

    resource: Resource
    name: str
    kind: int
    flags: int
    status: int
    scope: str
    parent_is_remote: bool
    extended: bool
    keys: list[str]


#: Gives a part of the partition by its number: the resource, or the shape.
ResourceOf = Callable[[int], Resource]
ShapeOf = Callable[[int], Shape]


def encode(span_ids: Sequence[int], columns: Columns) -> bytes:
    """A segment."""
    text = _to_json(columns).encode()
    codec = PLAIN_JSON
    if len(text) > WORTH_COMPRESSING:
        compressor = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL)
        text = compressor.compress(text) + compressor.flush()
        codec = DEFLATED_JSON
    return _HEAD.pack(codec, len(span_ids)) + struct.pack(f">{len(span_ids)}Q", *span_ids) + text


def decode(trace_id: int, data: bytes, shape_of: ShapeOf) -> Trace:
    """The spans of a segment; CodecError."""
    try:
        codec, count = _HEAD.unpack_from(data)
        span_ids = struct.unpack_from(f">{count}Q", data, _HEAD.size)
        return _spans(trace_id, span_ids, _columns(codec, data[_HEAD.size + 8 * count :]), shape_of)
    except (ValueError, TypeError, LookupError, AttributeError, struct.error, zlib.error, RecursionError) as error:
        raise CodecError(f"a segment of {len(data)} bytes cannot be read: {error!r}") from error


def _columns(codec: int, text: bytes) -> Columns:
    if codec == DEFLATED_JSON:
        text = zlib.decompressobj(WINDOW_BITS).decompress(text, MAX_INFLATED_BYTES)
    elif codec != PLAIN_JSON:
        raise CodecError(f"codec {codec} is not known; it may be that of a newer version")
    columns: Columns = json.loads(text)
    return columns


def _spans(trace_id: int, span_ids: Sequence[int], columns: Columns, shape_of: ShapeOf) -> Trace:
    base_ns, shapes, parents, starts, durations, values, extensions = columns
    extension_of = iter(extensions)
    found = []
    place = 0
    for span_id, number, parent, start, lasted in zip(span_ids, shapes, parents, starts, durations, strict=True):
        shape = shape_of(number)
        start_ns = base_ns + start
        span = SpanData(
            shape.name,
            trace_id,
            span_id,
            parent if parent >= 0 else span_ids[-1 - parent],
            kind=shape.kind,
            flags=shape.flags,
            start_ns=start_ns,
            end_ns=start_ns + lasted,
            status=shape.status,
            scope=shape.scope,
            parent_is_remote=shape.parent_is_remote,
        )
        if shape.keys:
            end = place + len(shape.keys)
            own = dict(zip(shape.keys, values[place:end], strict=True))
            span.own = unpack_all(own) if list in map(type, own.values()) else own
            place = end
        if shape.extended:
            _extend(span, next(extension_of))
        found.append((shape.resource, span))
    return found


# ---- What few spans have --------------------------------------------------------------------------------


def extension(span: SpanData) -> dict[str, Any]:
    """What few spans have, as JSON takes it."""
    found: dict[str, Any] = {}
    if span.events:
        found["events"] = [[event.name, event.time_ns, pack_all(event.attributes)] for event in span.events]
    if span.links:
        found["links"] = [_packed_link(link) for link in span.links]
    if span.status_message:
        found["message"] = span.status_message
    if span.trace_state:
        found["state"] = span.trace_state
    if span.dropped:
        found["dropped"] = list(span.dropped)
    return found


def _packed_link(link: Link) -> list[Any]:
    to = link.context
    return [to.trace_id, to.span_id, to.flags, to.trace_state, to.is_remote, link.child_of, pack_all(link.attributes)]


def _extend(span: SpanData, found: dict[str, Any]) -> None:
    span.events = [
        Event(name, time_ns, unpack_all(packed)) for name, time_ns, packed in found.get("events", ())
    ] or None
    span.links = [
        Link(SpanContext(trace_id, span_id, flags, state, is_remote=is_remote), unpack_all(packed), child_of=child_of)
        for trace_id, span_id, flags, state, is_remote, child_of, packed in found.get("links", ())
    ]
    span.status_message = found.get("message", "")
    span.trace_state = found.get("state", "")
    if "dropped" in found:
        attributes, events, links = found["dropped"]
        span.dropped = attributes, events, links


# ---- Parts ----------------------------------------------------------------------------------------------


def encode_resource(resource: Resource) -> bytes:
    """A resource as a part."""
    return _to_json([resource.service_name, pack_all(resource.attributes)]).encode()


def decode_resource(data: bytes) -> Resource:
    """The resource of a part; CodecError."""
    try:
        service, attributes = json.loads(data)
        return Resource(service, unpack_all(attributes))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CodecError(f"a resource cannot be read: {error!r}") from error


def encode_shape(resource: int, fields: Sequence[Any]) -> bytes:
    """A shape as a part: the number of its resource's part, and the fields of ``Shape`` after the resource."""
    return _to_json([resource, *fields]).encode()


def decode_shape(data: bytes, resource_of: ResourceOf) -> Shape:
    """The shape of a part; CodecError."""
    try:
        resource, *fields = json.loads(data)
        return Shape(resource_of(resource), *fields)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CodecError(f"a shape cannot be read: {error!r}") from error


# ---- Values ---------------------------------------------------------------------------------------------


def pack(value: Any) -> Any:
    """A value in what JSON can say: text, numbers and truth as they are, anything else as a list that says what it is."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return ["b", binascii.b2a_base64(value, newline=False).decode()]
    if isinstance(value, list | tuple):
        return ["l", *map(pack, value)]
    if isinstance(value, dict):
        return ["d", pack_all(value)]
    return pack(plain(value))


def pack_all(attributes: Any) -> dict[str, Any]:
    """The attributes with each value packed."""
    return {key: pack(value) for key, value in attributes.items()}


def unpack_all(packed: dict[str, Any]) -> dict[str, Any]:
    """What ``pack_all`` was given."""
    return {key: _unpack(value) if isinstance(value, list) else value for key, value in packed.items()}


def _unpack(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *content = value
    if kind == "b":
        return binascii.a2b_base64(content[0])
    if kind == "l":
        return list(map(_unpack, content))
    if kind == "d":
        return unpack_all(content[0])
    raise CodecError(f"a value of kind {kind!r} is not known; it may be that of a newer version")
