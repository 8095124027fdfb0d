"""Reading Jaeger's Thrift format: datagrams (compact or binary) and HTTP bodies (binary) to batches.

Owns: the messages and batches, and a short way for compact batches as all clients write them.
Must not know: sockets, HTTP, the environment, what tags mean (``jaeger_structs``).
Invariants: raises ``DecodeError`` and nothing else; the short way gives what the long way gives, or leaves it to that; equal
processes are one resource, which nobody may change.

How the short way is fast: nothing is read into dictionaries first; tags and processes, which repeat from span to span, are
looked up by their bytes; ids and times of a payload are made at once (``thrift_varints``).
"""

from __future__ import annotations

import re

from autoinstr.model import Batch, Kind, Resource, SpanData, Status
from autoinstr.wire import CACHED_CHARACTERS, READER_CACHE_BYTES, Cache, DecodeError, read_varint, thrift
from autoinstr.wire.jaeger_structs import (
    I32_MAX,
    LATEST_NS,
    attributes_of,
    batch_of,
    child,
    event_of,
    int_of,
    key_value_of,
    link_of,
    span_of,
    text_of,
)
from autoinstr.wire.opentracing import take_attributes, take_references
from autoinstr.wire.thrift_varints import zigzags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: Name, flags, attributes, references and logs of a span; its numbers are made with those of all others.
    Half: TypeAlias = tuple[str, int, dict[str, Any], list[Any] | None, list[Any] | None]


def decode_message(data: bytes) -> Batch:
    """The batch of an ``emitBatch`` message as agents receive it over UDP, in the compact or the binary protocol.

    Calls are taken as well as oneway messages: Jaeger's Go client sends the former. ``DecodeError`` on anything else.
    """
    data = bytes(data)
    reader = thrift.CompactReader(data) if data[:1] == b"\x82" else thrift.BinaryReader(data)
    name = reader.message_name()
    if name != b"emitBatch":
        raise DecodeError(f"not a Jaeger batch, but a call of {name[:50]!r}")
    start = reader.at
    if data[:1] == b"\x82" and data[start : start + 1] == b"\x1c":
        batch, reader.at = _short_batch(data, start + 1, 1)
        # Nothing else belongs to the arguments; what is there all the same is for the long way.
        if batch is not None and data[reader.at : reader.at + 1] == b"\0":
            return batch
        reader.at = start
    return batch_of(child(reader.struct(), 1))


def decode_batch(data: bytes) -> Batch:
    """A bare batch in the binary protocol, as collectors receive it over HTTP; ``DecodeError`` on anything else."""
    return batch_of(thrift.BinaryReader(bytes(data)).struct())


def decode_compact_batch(data: bytes) -> Batch:
    """A bare batch in the compact protocol; ``DecodeError`` on anything else."""
    data = bytes(data)
    batch, _ = _short_batch(data, 0, 0)
    return batch_of(thrift.CompactReader(data).struct()) if batch is None else batch


def skim_message(data: bytes) -> tuple[str, int]:
    """Service and number of spans of what ``decode_message`` takes, without a look at the spans.

    For receivers that cannot take a payload, and have to say whose it was. ``DecodeError`` if it is not as Thrift's own
    code would write it, fields in the order of their ids.
    """
    data = bytes(data)
    reader = thrift.CompactReader(data) if data[:1] == b"\x82" else thrift.BinaryReader(data)
    reader.message_name()
    reader.enter(1, thrift.STRUCT)
    return _skim(reader)


def skim_batch(data: bytes) -> tuple[str, int]:
    """As ``skim_message``, for what ``decode_batch`` takes."""
    return _skim(thrift.BinaryReader(bytes(data)))


def _skim(reader: thrift.CompactReader | thrift.BinaryReader) -> tuple[str, int]:
    reader.enter(1, thrift.STRUCT)
    service = text_of(reader.struct(), 1)
    reader.enter(2, thrift.LIST, previous=1)
    return service, reader.list_size()


# The short way ----------------------------------------------------------------------------------------------------

_VARINT = rb"([\x80-\xff]{0,9}[\x00-\x7f])"
#: Fields 1 to 4 of a span (ids), and the header and the length of the name.
_match_ids = re.compile(rb"\x16" + rb"\x16".join([_VARINT] * 4) + rb"\x18" + _VARINT).match
#: Fields 7 (flags, of one byte), 8 and 9 (times), and the header of what comes next: nothing, tags or logs.
_match_times = re.compile(rb"[\x15\x25]([\x00-\x7f])\x16" + _VARINT + rb"\x16" + _VARINT + rb"([\x00\x19\x29])").match

#: Headers of fields 6, 7, 7 after 6, and 11 after 10: they count from the field before.
_REFERENCES, _FLAGS, _FLAGS_AFTER_REFERENCES, _LOGS_AFTER_TAGS = 0x19, 0x25, 0x15, 0x19
#: Headers of fields 1 (key) and 2 (type) of a tag, of its values by type, and the types as zigzag varints.
_KEY, _TYPE, _STRING_VALUE, _LONG_VALUE, _TRUE_VALUE, _FALSE_VALUE = 0x18, 0x15, 0x18, 0x46, 0x31, 0x32
_IS_STRING, _IS_BOOL, _IS_LONG = 0, 4, 6

_tags_read = Cache(READER_CACHE_BYTES)
_names_read = Cache(READER_CACHE_BYTES)
#: The beginning of a process (where its tags begin to tell) to its bytes and what they mean.
_processes_read = Cache(READER_CACHE_BYTES)
_PROCESS_KEY_BYTES = 160
_CACHED_PROCESS_BYTES = 4096


class _LongWay(Exception):
    """Not as clients write it; it may be well formed all the same."""


def _short_batch(data: bytes, at: int, depth: int) -> tuple[Batch | None, int]:
    """The batch at ``at`` and where it ends; ``None`` when it is not as all clients write it.

    ``depth`` is how deep the batch is nested, for the limit on what is nested in it.
    """
    try:
        resource, at = _process(data, at, depth)
        if data[at] != 0x19:
            raise _LongWay
        count, at = _list_size(data, at + 1)
        varints: list[bytes] = []
        halves: list[Half | SpanData] = []
        for _ in range(count):
            at = _half_span(data, at, depth + 2, varints, halves)
        reader = thrift.CompactReader(data, at)
        rest = reader.rest_of_struct(2, depth)
        if 1 in rest or 2 in rest:
            raise _LongWay
        spans = _whole_spans(halves, zigzags(varints, 6)) if varints else halves
    except (_LongWay, IndexError, DecodeError):
        # The long way finds out what is wrong, if anything is.
        return None, at
    stats = child(rest, 4) if 4 in rest else None
    lost = (int_of(stats, 1), int_of(stats, 2), int_of(stats, 3)) if stats is not None else None
    return Batch(resource, spans, int_of(rest, 3) if 3 in rest else None, lost), reader.at  # type: ignore[arg-type]


def _process(data: bytes, at: int, depth: int) -> tuple[Resource, int]:
    """Field 1 of a batch. A client sends the same with each batch."""
    if data[at] != 0x1C:
        raise _LongWay
    at += 1
    key = data[at : at + _PROCESS_KEY_BYTES]
    known = _processes_read.get(key)
    # A struct ends where it says, so that one which begins with these bytes consists of them.
    if known is not None and data.startswith(known[0], at):
        return known[1], at + len(known[0])
    reader = thrift.CompactReader(data, at)
    fields = reader.struct(depth + 1)
    resource = Resource(text_of(fields, 1), attributes_of(fields, 2))
    raw = data[at : reader.at]
    if len(raw) <= _CACHED_PROCESS_BYTES:
        _processes_read.keep(key, (raw, resource), 5 * len(raw))
    return resource, reader.at


def _list_size(data: bytes, at: int) -> tuple[int, int]:
    """The size of a list of structs, and where its first one begins."""
    header = data[at]
    size, at = (header >> 4, at + 1) if header < 0xF0 else read_varint(data, at + 1)
    if header & 0x0F != 0x0C or size > len(data) - at:
        raise _LongWay
    return size, at


def _half_span(data: bytes, at: int, depth: int, varints: list[bytes], halves: list[Half | SpanData]) -> int:
    """Read the span at ``at``; where it ends."""
    ids = _match_ids(data, at)
    if ids is None:
        return _odd_span(data, at, depth, halves)
    stop = ids.end()
    size = data[stop - 1] if ids.end(5) - ids.start(5) == 1 else read_varint(data, ids.start(5))[0]
    raw_name = data[stop : stop + size]
    after_name = stop + size
    name: str = _names_read.get(raw_name) or _name(raw_name)
    references = None
    if data[after_name] == _REFERENCES:
        references, after_name = _structs(data, after_name + 1, depth)
    times = _match_times(data, after_name)
    if times is None or data[after_name] != (_FLAGS if references is None else _FLAGS_AFTER_REFERENCES):
        return _odd_span(data, at, depth, halves)
    flags, start, duration, following = times.groups()
    stop = times.end()
    attributes: dict[str, Any] = {}
    logs = None
    if following == b"\x19":
        stop = _read_tags(data, stop, depth, attributes)
        header = data[stop]
        stop += 1
        if header == _LOGS_AFTER_TAGS:
            following = b"\x29"
        elif header:
            return _odd_span(data, at, depth, halves)
    if following == b"\x29":
        logs, stop = _structs(data, stop, depth)
        if data[stop]:
            return _odd_span(data, at, depth, halves)
        stop += 1
    varints += ids.group(1, 2, 3, 4)
    varints.append(start)
    varints.append(duration)
    halves.append((name, flags[0], attributes, references, logs))
    return stop


def _odd_span(data: bytes, at: int, depth: int, halves: list[Half | SpanData]) -> int:
    reader = thrift.CompactReader(data, at)
    halves.append(span_of(reader.struct(depth)))
    return reader.at


def _name(raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    if len(raw) <= CACHED_CHARACTERS:
        _names_read.keep(raw, name, len(raw))
    return name


def _structs(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """A list of structs, which is rare, read into dictionaries."""
    size, at = _list_size(data, at)
    reader = thrift.CompactReader(data, at)
    return [reader.struct(depth + 2) for _ in range(size)], reader.at


def _read_tags(data: bytes, at: int, depth: int, attributes: dict[str, Any]) -> int:
    """Read the list of tags at ``at`` into ``attributes``; where it ends. One loop, no calls for a tag that is known."""
    count, at = _list_size(data, at)
    tag_read = _tags_read.get
    for _ in range(count):
        stop = 0
        type_at = at + 2 + data[at + 1]
        if data[at] == _KEY and type_at < at + 130 and data[type_at] == _TYPE:
            kind = data[type_at + 1]
            if kind == _IS_STRING:
                if data[type_at + 2] == _STRING_VALUE and data[type_at + 3] < 0x80:
                    stop = type_at + 4 + data[type_at + 3]
            elif kind == _IS_LONG:
                if data[type_at + 2] == _LONG_VALUE:
                    stop = type_at + 3
                    while data[stop] > 0x7F:
                        stop += 1
                    stop += 1
            elif kind == _IS_BOOL and data[type_at + 2] in (_TRUE_VALUE, _FALSE_VALUE):
                stop = type_at + 3
        if stop and not data[stop]:
            raw = data[at : stop + 1]
            pair = tag_read(raw)
            if pair is None:
                pair = _text_tag(data, at, type_at, raw) if kind == _IS_STRING else _tag(data, at, depth, raw)
            at = stop + 1
        else:
            # A long text, a float, bytes.
            reader = thrift.CompactReader(data, at)
            pair = key_value_of(reader.struct(depth + 2))
            at = reader.at
        attributes[pair[0]] = pair[1]
    return at


def _text_tag(data: bytes, at: int, type_at: int, raw: bytes) -> tuple[str, Any]:
    """The tag of these bytes, whose value is a short text, remembered: what varies from span to span is such a tag."""
    raw_key = data[at + 2 : type_at]
    pair = _names_read.get(raw_key) or _name(raw_key), raw[type_at + 4 - at : -1].decode("utf-8", "replace")
    if len(raw) <= CACHED_CHARACTERS:
        _tags_read.keep(raw, pair, 2 * len(raw))
    return pair


def _tag(data: bytes, at: int, depth: int, raw: bytes) -> tuple[str, Any]:
    """The tag of these bytes, remembered."""
    pair = key_value_of(thrift.CompactReader(data, at).struct(depth + 2))
    if len(raw) <= CACHED_CHARACTERS:
        _tags_read.keep(raw, pair, 2 * len(raw))
    return pair


_new_span = SpanData.__new__
_SIGN = 1 << 63


def _whole_spans(halves: list[Half | SpanData], numbers: tuple[int, ...]) -> list[SpanData]:
    """The spans: ``numbers`` has six for each half."""
    spans: list[SpanData] = []
    at = 0
    for half in halves:
        if type(half) is not tuple:
            spans.append(half)  # type: ignore[arg-type]
            continue
        name, flags, attributes, references, logs = half
        low, high, span_id, parent_id, start, duration = numbers[at : at + 6]
        at += 6
        if start >= _SIGN:
            start = 0
        if duration >= _SIGN:
            duration = 0
        span = _new_span(SpanData)
        span.name = name
        span.trace_id = high << 64 | low
        span.span_id = span_id
        span.parent_id = parent_id
        span.parent_is_remote = False
        span.kind = Kind.UNSPECIFIED
        # Zigzag: a positive number is twice itself, a negative one is odd.
        span.flags = (flags >> 1 ^ -(flags & 1)) & I32_MAX
        span.start_ns = min(start * 1000, LATEST_NS)
        span.end_ns = min((start + duration) * 1000, LATEST_NS)
        span.facts = ()
        span.events = [event_of(log) for log in logs] or None if logs else None
        span.links = []
        span.status = Status.UNSET
        span.dropped = None
        if references:
            take_references(span, [link_of(reference) for reference in references])
        take_attributes(span, attributes)
        spans.append(span)
    return spans
