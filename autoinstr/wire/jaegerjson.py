"""A trace as the JSON that Jaeger's query service answers, its UI reads, and its users keep as files.

Owns: the shape of one trace, its processes, spans, references, tags and logs; reading such a file back.
Must not know: HTTP, stores, searching.
Invariants: pure; what is encoded holds only what ``json.dumps`` can write as strict JSON (no NaN, no bytes); tags, logs
and references are always lists; times are integer microseconds. Decoding raises ``DecodeError`` and nothing else.

Source: the ``Trace`` type of jaeger-ui and Jaeger's ``uimodel``.
"""

from __future__ import annotations

from autoinstr.model import Batch, Event, Kind, Link, Resource, SpanContext, SpanData, Status
from autoinstr.wire import UNKNOWN_SERVICE, DecodeError
from autoinstr.wire.documents import all_objects, bytes_of, double_of, hex_id, int_of, json_value, member, objects, text
from autoinstr.wire.opentracing import DROPPED, take_attributes, take_references
from autoinstr.wire.values import base64_text, json_ready, json_text, whole_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from autoinstr.model import AttributeValue

#: Beyond this a JavaScript number is no longer exact, so that Jaeger writes integers as strings.
LARGEST_EXACT_INTEGER = 2**53 - 1
#: The attribute in which a span's warnings are kept, as in Jaeger's own storage.
WARNINGS = "@jaeger@warnings"

_LATEST_US = ((1 << 64) - 1) // 1000
_LARGEST_FLAGS = 2**31 - 1

# Encoding ---------------------------------------------------------------------------------------------------------


def encode(
    trace_id: int, spans: Sequence[tuple[Resource, SpanData]], warnings: Mapping[int, Sequence[str]] | None = None
) -> dict[str, Any]:
    """One trace; equal resources become one process, named ``p1``, ``p2`` … in the order of the spans.

    ``warnings`` are those found here and now, by the span's position; what spans brought along is kept, too.
    """
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
    for position, texts in (warnings or {}).items():
        encoded[position]["warnings"] = [*(encoded[position]["warnings"] or ()), *map(whole_text, texts)]
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
    tags = span_tags(span)
    result: dict[str, Any] = {
        "traceID": trace_id_text(span.trace_id),
        "spanID": f"{span.span_id:016x}",
        "operationName": span.name,
        "references": _references(span),
        "startTime": span.start_ns // 1000,
        "duration": max(0, span.end_ns - span.start_ns) // 1000,
        "warnings": _own_warnings(tags.pop(WARNINGS, None)),
        "tags": _tags(tags),
        "logs": [_log(event) for event in span.events or ()],
        "processID": process,
    }
    if span.flags & 0xFF:  # What is above has no place in Jaeger's formats.
        result["flags"] = span.flags & 0xFF
    return result


def _own_warnings(value: AttributeValue | None) -> list[str] | None:
    if isinstance(value, list | tuple):
        return [whole_text(str(item)) for item in value] or None
    return None if value is None else [whole_text(tag_text(value))]


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
    for name, count in zip(DROPPED, dropped or (), strict=False):
        if count:
            tags.setdefault(name, count)


# Decoding ---------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> list[Batch]:
    """The batches, one per process and trace, of a file that Jaeger's UI or API gave; ``DecodeError`` when it is none.

    An answer with its envelope, a list of traces and a single trace are taken alike.
    """
    return decode_value(json_value(data))


def decode_value(document: object) -> list[Batch]:
    """As ``decode``, of JSON that is parsed already."""
    if isinstance(document, dict):
        document = document.get("data") if "data" in document else [document]
    if not isinstance(document, list):
        raise DecodeError("neither a trace nor a list of traces")
    return [batch for trace in all_objects(document) for batch in _batches(trace)]


def _batches(trace: dict[str, Any]) -> list[Batch]:
    processes = member(trace, "processes", dict, {})
    resources = {name: _resource(member(processes, name, dict, {})) for name in processes}
    batches: dict[str, Batch] = {}
    for document in objects(trace, "spans"):
        name, resource = _process(document, resources)
        batch = batches.get(name)
        if batch is None:
            batch = batches[name] = Batch(resource, [])
        batch.spans.append(_span_of(document, trace))
    return list(batches.values())


def _process(document: dict[str, Any], resources: dict[str, Resource]) -> tuple[str, Resource]:
    """A span's process and what to know it by; some exporters write it into the span itself."""
    inline: dict[str, Any] = member(document, "process", dict, {})
    if inline:
        resource = _resource(inline)
        return repr(resource), resource
    name = text(document, "processID")
    return name, resources.get(name) or Resource(UNKNOWN_SERVICE)


def _resource(process: dict[str, Any]) -> Resource:
    return Resource(text(process, "serviceName") or UNKNOWN_SERVICE, _attributes(process, "tags"))


def _span_of(document: dict[str, Any], trace: dict[str, Any]) -> SpanData:
    start = _microseconds(document, "startTime")
    span = SpanData(
        text(document, "operationName"),
        _id(document, "traceID", 32) or _id(trace, "traceID", 32),
        _id(document, "spanID", 16),
        _id(document, "parentSpanID", 16),
        kind=Kind.UNSPECIFIED,
        # Jaeger leaves flags of 0 out.
        flags=_flags(document),
        start_ns=start * 1000,
        end_ns=min(start + _microseconds(document, "duration"), _LATEST_US) * 1000,
        events=[_event(log) for log in objects(document, "logs")] or None,
    )
    attributes = _attributes(document, "tags")
    warnings = [str(item) for item in member(document, "warnings", list, []) if isinstance(item, str)]
    if warnings:
        attributes[WARNINGS] = [whole_text(item) for item in warnings]
    take_references(span, [_link_of(reference) for reference in objects(document, "references")])
    take_attributes(span, attributes)
    return span


def _flags(document: dict[str, Any]) -> int:
    return min(max(int_of(document.get("flags") or 0), 0), _LARGEST_FLAGS)


def _id(document: dict[str, Any], name: str, longest: int) -> int:
    """An id, 0 if absent or empty."""
    digits: str = member(document, name, str, "")
    if len(digits) > longest:
        raise DecodeError(f"{name} has {len(digits)} digits where at most {longest} belong")
    return hex_id(digits) if digits else 0


def _microseconds(document: dict[str, Any], name: str) -> int:
    """A time, which some exporters write with a fraction; what lies before 1970 or cannot be kept is clamped."""
    value = document.get(name)
    if value is None:
        return 0
    number = double_of(value) if isinstance(value, float) else int_of(value)
    # Comparing first: neither NaN nor the infinite have an integer.
    return int(number) if 0 < number <= _LATEST_US else (_LATEST_US if number > _LATEST_US else 0)


def _link_of(reference: dict[str, Any]) -> Link:
    context = SpanContext(_id(reference, "traceID", 32), _id(reference, "spanID", 16))
    return Link(context, child_of=text(reference, "refType") == "CHILD_OF")


def _event(log: dict[str, Any]) -> Event:
    attributes = _attributes(log, "fields")
    name = attributes.get("event")
    if isinstance(name, str):
        del attributes["event"]
    return Event(name if isinstance(name, str) else "", _microseconds(log, "timestamp") * 1000, attributes)


def _attributes(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Tags as a dictionary; of a name that comes twice the last one counts, and ``null`` is no value."""
    pairs = [(text(tag, "key"), _value(tag)) for tag in objects(document, name)]
    return {key: value for key, value in pairs if value is not None}


def _value(tag: dict[str, Any]) -> Any:
    value = tag.get("value")
    kind = tag.get("type")
    if value is None or isinstance(value, bool):
        return value
    if kind == "binary":
        return bytes_of(value)
    if kind == "int64":
        return int_of(value)
    if kind == "float64":
        return double_of(value)
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, int | float):
        return int_of(value) if isinstance(value, int) else value
    raise DecodeError(f"the value of tag {text(tag, 'key')[:40]!r} is neither text nor a number")
