"""What Jaeger's structs mean: ``jaeger.thrift`` to spans, once Thrift has been read.

Owns: which fields a struct must have, references as links, events from logs, values of tags.
Must not know: Thrift's protocols, how structs are written (``jaeger``).
Invariants: raises ``DecodeError`` and nothing else, for whatever a reader may have found.
"""

from __future__ import annotations

from autoinstr.model import MASK_64, Batch, Event, Kind, Link, Resource, SpanContext, SpanData
from autoinstr.wire import DecodeError, thrift
from autoinstr.wire.opentracing import take_attributes, take_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STRING, DOUBLE, BOOL, LONG, BINARY = range(5)
CHILD_OF, FOLLOWS_FROM = range(2)
I32_MAX = 0x7FFF_FFFF
#: The latest time that fits the 64 bits of other formats.
LATEST_NS = (1 << 64) - 1


def batch_of(fields: thrift.Struct) -> Batch:
    process = child(fields, 1)
    resource = Resource(text_of(process, 1), attributes_of(process, 2))
    spans = [span_of(span) for span in children(fields, 2, required=True)]
    stats = child(fields, 4) if 4 in fields else None
    lost = (int_of(stats, 1), int_of(stats, 2), int_of(stats, 3)) if stats is not None else None
    return Batch(resource, spans, int_of(fields, 3) if 3 in fields else None, lost)


def span_of(fields: thrift.Struct) -> SpanData:
    start = max(int_of(fields, 8), 0)
    span = SpanData(
        text_of(fields, 5),
        _trace_id(fields, 1),
        int_of(fields, 3) & MASK_64,
        int_of(fields, 4) & MASK_64,
        kind=Kind.UNSPECIFIED,
        flags=int_of(fields, 7) & I32_MAX,
        start_ns=min(start * 1000, LATEST_NS),
        end_ns=min((start + max(int_of(fields, 9), 0)) * 1000, LATEST_NS),
        events=[event_of(log) for log in children(fields, 11)] or None,
    )
    take_references(span, [link_of(reference) for reference in children(fields, 6)])
    take_attributes(span, attributes_of(fields, 10))
    return span


def link_of(fields: thrift.Struct) -> Link:
    context = SpanContext(_trace_id(fields, 2), int_of(fields, 4) & MASK_64)
    return Link(context, child_of=int_of(fields, 1) == CHILD_OF)


def event_of(fields: thrift.Struct) -> Event:
    name = ""
    attributes = {}
    for key, value in [key_value_of(tag) for tag in children(fields, 2, required=True)]:
        if key == "event" and not name and isinstance(value, str):
            name = value
        else:
            attributes[key] = value
    return Event(name, min(max(int_of(fields, 1), 0) * 1000, LATEST_NS), attributes)


def attributes_of(fields: thrift.Struct, field: int) -> dict[str, Any]:
    """Tags as a dictionary; of a name that comes twice the last one counts."""
    return dict([key_value_of(tag) for tag in children(fields, field)])


def key_value_of(fields: thrift.Struct) -> tuple[str, Any]:
    kind = int_of(fields, 2)
    if kind == STRING:
        return text_of(fields, 1), _optional(fields, 3, bytes, b"").decode("utf-8", "replace")
    if kind == BOOL:
        return text_of(fields, 1), _optional(fields, 5, bool, False)
    if kind == LONG:
        return text_of(fields, 1), _optional(fields, 6, int, 0)
    if kind == DOUBLE:
        return text_of(fields, 1), _optional(fields, 4, float, 0.0)
    if kind == BINARY:
        return text_of(fields, 1), _optional(fields, 7, bytes, b"")
    raise DecodeError(f"tag of unknown type {kind}")


def _trace_id(fields: thrift.Struct, low: int) -> int:
    """A trace id from its halves, whose fields follow each other, the lower one first."""
    return (int_of(fields, low + 1) & MASK_64) << 64 | int_of(fields, low) & MASK_64


def _optional(fields: thrift.Struct, field: int, kind: type, default: Any) -> Any:
    value = fields.get(field, default)
    if type(value) is not kind:
        raise DecodeError(f"field {field} is a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _required(fields: thrift.Struct, field: int, kind: type) -> Any:
    if field not in fields:
        raise DecodeError(f"field {field} is missing")
    return _optional(fields, field, kind, None)


def int_of(fields: thrift.Struct, field: int) -> int:
    value: int = _required(fields, field, int)
    return value


def text_of(fields: thrift.Struct, field: int) -> str:
    value: bytes = _required(fields, field, bytes)
    return value.decode("utf-8", "replace")


def child(fields: thrift.Struct, field: int) -> thrift.Struct:
    value: thrift.Struct = _required(fields, field, dict)
    return value


def children(fields: thrift.Struct, field: int, *, required: bool = False) -> list[thrift.Struct]:
    """The structs of a list."""
    value: list[Any] = _required(fields, field, list) if required else _optional(fields, field, list, [])
    if any(type(item) is not dict for item in value):
        raise DecodeError(f"field {field} is a list of something else than structs")
    return value
