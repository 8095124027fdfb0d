"""A trace as the JSON that Jaeger's query service answers and its UI reads.

Owns: the shape of one trace, its processes, spans, references, tags and logs.
Must not know: HTTP, the answer's envelope, stores, searching.
Invariants: pure; the result holds only what ``json.dumps`` can write as strict JSON (no NaN, no bytes); tags, logs and
references are always lists; times are integer microseconds.

Source: the ``Trace`` type of jaeger-ui and Jaeger's ``uimodel``.
"""

from __future__ import annotations

from autoinstr.model import Kind, Status
from autoinstr.wire.values import base64_text, json_ready, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from autoinstr.model import AttributeValue, Event, Link, Resource, SpanData

#: Beyond this a JavaScript number is no longer exact, so that Jaeger writes integers as strings.
LARGEST_EXACT_INTEGER = 2**53 - 1


def encode(trace_id: int, spans: Sequence[tuple[Resource, SpanData]]) -> dict[str, Any]:
    """One trace; equal resources become one process, named ``p1``, ``p2`` … in the order of the spans."""
    processes: dict[str, dict[str, Any]] = {}
    known: dict[str, str] = {}
    names: dict[int, str] = {}
    encoded = []
    for resource, span in spans:
        # Looking at a resource's content is slow, and the spans of one payload share one resource object.
        name = names.get(id(resource))
        if name is None:
            name = names[id(resource)] = _process_name(resource, known, processes)
        encoded.append(_span(span, name))
    return {"traceID": trace_id_text(trace_id), "spans": encoded, "processes": processes, "warnings": None}


def trace_id_text(trace_id: int) -> str:
    """Lower-case hex, 16 digits for an id of 64 bits, otherwise 32: how Jaeger writes trace ids."""
    return f"{trace_id:032x}" if trace_id >> 64 else f"{trace_id:016x}"


def span_tags(span: SpanData) -> dict[str, AttributeValue]:
    """A span's attributes, and what Jaeger also shows and finds as tags: kind, status, scope, trace state, losses."""
    tags = span.attributes
    if span.kind:
        tags.setdefault("span.kind", Kind.NAMES[span.kind])
    if span.scope:
        tags.setdefault("component", span.scope)
    if span.trace_state:
        tags.setdefault("w3c.tracestate", span.trace_state)
    _add_status(tags, span)
    _add_losses(tags, span.dropped)
    return tags


def tag_text(value: AttributeValue) -> str:
    """What a tag is searched by: ``true``, decimal integers, floats as ``%.10g``, bytes as hex, lists as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(value, ".10g")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        return str(value)
    return json_text(value)


def _process_name(resource: Resource, known: dict[str, str], processes: dict[str, dict[str, Any]]) -> str:
    process = {"serviceName": resource.service_name, "tags": _tags(resource.attributes)}
    content = repr(process)
    if content not in known:
        known[content] = f"p{len(known) + 1}"
        processes[known[content]] = process
    return known[content]


def _span(span: SpanData, process: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "traceID": trace_id_text(span.trace_id),
        "spanID": f"{span.span_id:016x}",
        "operationName": span.name,
        "references": _references(span),
        "startTime": span.start_ns // 1000,
        "duration": max(0, span.end_ns - span.start_ns) // 1000,
        "tags": _tags(span_tags(span)),
        "logs": [_log(event) for event in span.events or ()],
        "processID": process,
        "warnings": None,
    }
    if span.flags:
        result["flags"] = span.flags
    return result


def _references(span: SpanData) -> list[dict[str, str]]:
    """The parent first, since the UI takes the first reference that it finds in the trace for the parent."""
    parent = [_reference("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    return parent + [_link(link) for link in span.links if _is_further_reference(span, link)]


def _is_further_reference(span: SpanData, link: Link) -> bool:
    target = (link.context.trace_id, link.context.span_id)
    return link.context.trace_id != 0 and target != (span.trace_id, span.parent_id)


def _link(link: Link) -> dict[str, str]:
    kind = "CHILD_OF" if link.child_of else "FOLLOWS_FROM"
    return _reference(kind, link.context.trace_id, link.context.span_id)


def _reference(kind: str, trace_id: int, span_id: int) -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id_text(trace_id), "spanID": f"{span_id:016x}"}


def _log(event: Event) -> dict[str, Any]:
    fields = dict(event.attributes)
    if event.name:
        fields.setdefault("event", event.name)
    return {"timestamp": event.time_ns // 1000, "fields": _tags(fields)}


def _tags(attributes: Mapping[str, AttributeValue]) -> list[dict[str, Any]]:
    return [_tag(key, attributes[key]) for key in sorted(attributes)]


def _tag(key: str, value: AttributeValue) -> dict[str, Any]:
    if isinstance(value, str):
        return {"key": key, "type": "string", "value": value}
    if isinstance(value, bool):
        return {"key": key, "type": "bool", "value": value}
    if isinstance(value, int):
        exact = -LARGEST_EXACT_INTEGER <= value <= LARGEST_EXACT_INTEGER
        return {"key": key, "type": "int64", "value": value if exact else str(value)}
    if isinstance(value, float):
        return {"key": key, "type": "float64", "value": json_ready(value)}
    if isinstance(value, bytes):
        return {"key": key, "type": "binary", "value": base64_text(value)}
    return {"key": key, "type": "string", "value": json_text(value)}


def _add_status(tags: dict[str, AttributeValue], span: SpanData) -> None:
    if span.status == Status.ERROR:
        tags.setdefault("error", True)
    if span.status == Status.OK or (span.status and span.status_message):
        tags.setdefault("otel.status_code", Status.NAMES[span.status])
    if span.status_message:
        tags.setdefault("otel.status_description", span.status_message)


def _add_losses(tags: dict[str, AttributeValue], dropped: tuple[int, int, int] | None) -> None:
    for what, count in zip(("attributes", "events", "links"), dropped or (), strict=False):
        if count:
            tags.setdefault(f"otel.dropped_{what}_count", count)
