"""Reading OpenTelemetry's protocol in JSON: requests to batches.

Owns: the JSON form of what ``otlp_read`` reads in protobuf: names of members, hexadecimal ids, numbers as text.
Must not know: HTTP, compression, the environment.
Invariants: as in ``otlp_read``.
"""

from __future__ import annotations

from autoinstr.model import Batch, Event, Link, SpanContext, SpanData
from autoinstr.wire import SPAN_PARTS, DecodeError, Room
from autoinstr.wire.documents import (
    bytes_of,
    double_of,
    fixed_hex_id,
    int_of,
    json_object,
    member,
    objects,
    text,
    unsigned,
)
from autoinstr.wire.otlp_read import (
    IS_REMOTE,
    dropped_of,
    enum_of,
    flags_of,
    from_w3c,
    named_resource,
    scope_of,
    weight,
)
from autoinstr.wire.values import MAX_DEPTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DROPPED = ("droppedAttributesCount", "droppedEventsCount", "droppedLinksCount")


def decode_json(data: bytes) -> list[Batch]:
    """As ``otlp_read.decode_protobuf``, of a request in JSON. Unknown members are ignored, as the specification demands."""
    room = Room()
    return [_batch(item, room) for item in objects(json_object(data), "resourceSpans")]


def _batch(message: dict[str, Any], room: Room) -> Batch:
    attributes = _attributes(member(message, "resource", dict, {}))
    room.take(SPAN_PARTS + len(attributes))
    spans: list[SpanData] = []
    for item in objects(message, "scopeSpans"):
        scope = scope_of(text(member(item, "scope", dict, {}), "name"))
        for document in objects(item, "spans"):
            span = _span(document, scope)
            room.take(weight(span))
            spans.append(span)
    return Batch(named_resource(attributes), spans)


def _span(message: dict[str, Any], scope: str) -> SpanData:
    flags = unsigned(message, "flags")
    status = member(message, "status", dict, {})
    span = SpanData(
        text(message, "name"),
        fixed_hex_id(message, "traceId", 32),
        fixed_hex_id(message, "spanId", 16),
        fixed_hex_id(message, "parentSpanId", 16),
        kind=enum_of(unsigned(message, "kind"), 5),
        flags=flags_of(flags),
        start_ns=unsigned(message, "startTimeUnixNano"),
        end_ns=unsigned(message, "endTimeUnixNano"),
        attributes=_attributes(message),
        events=[_event(event) for event in objects(message, "events")] or None,
        links=[_link(link) for link in objects(message, "links")],
        status=enum_of(unsigned(status, "code"), 2),
        status_message=text(status, "message"),
        scope=scope,
        trace_state=text(message, "traceState"),
        parent_is_remote=flags & IS_REMOTE != 0,
    )
    span.dropped = dropped_of([unsigned(message, name) for name in DROPPED])
    return span


def _event(message: dict[str, Any]) -> Event:
    return Event(text(message, "name"), unsigned(message, "timeUnixNano"), _attributes(message))


def _link(message: dict[str, Any]) -> Link:
    flags = unsigned(message, "flags")
    context = SpanContext(
        fixed_hex_id(message, "traceId", 32),
        fixed_hex_id(message, "spanId", 16),
        from_w3c(flags),
        text(message, "traceState"),
        is_remote=flags & IS_REMOTE != 0,
    )
    return Link(context, _attributes(message))


def _attributes(message: dict[str, Any]) -> dict[str, Any]:
    pairs = [_key_value(item, 0) for item in objects(message, "attributes")]
    return {key: value for key, value in pairs if value is not None}


def _key_value(message: dict[str, Any], depth: int) -> tuple[str, Any]:
    return text(message, "key"), _value(member(message, "value", dict, {}), depth)


def _value(message: dict[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise DecodeError(f"values nested deeper than {MAX_DEPTH}")
    for name, value in message.items():
        if name == "stringValue":
            return text(message, name)
        if name == "boolValue":
            return member(message, name, bool, False)
        if name == "intValue":
            return int_of(value)
        if name == "doubleValue":
            return double_of(value)
        if name == "bytesValue":
            return bytes_of(value)
        if name == "arrayValue":
            items = objects(member(message, name, dict, {}), "values")
            return [_value(item, depth + 1) for item in items]
        if name == "kvlistValue":
            items = objects(member(message, name, dict, {}), "values")
            return dict([_key_value(item, depth + 1) for item in items])
    return None
