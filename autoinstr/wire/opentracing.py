"""What Jaeger's model says about a span by references and tags, which ours has fields for: parent, kind, status, scope.

Owns: the reading of those references and tags. Must not know: any format, JSON or Thrift.
Invariants: nothing here raises; a tag whose value is of another type than expected stays an attribute.

Source: Jaeger's own translation of spans into OpenTelemetry's model, and OpenTracing's semantic conventions.
"""

from __future__ import annotations

from autoinstr.model import Kind, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoinstr.model import Link, SpanData

#: Tags for how much a client's limits removed.
DROPPED = ("otel.dropped_attributes_count", "otel.dropped_events_count", "otel.dropped_links_count")
#: What few spans have, so that one look spares five.
_RARE = frozenset((*DROPPED, "otel.status_description", "w3c.tracestate"))


def take_references(span: SpanData, links: list[Link]) -> None:
    """Find the parent as Jaeger's collector does: the field, else the first CHILD_OF, else the first FOLLOWS_FROM."""
    if not span.parent_id:
        in_trace = [link for link in links if link.context.trace_id == span.trace_id]
        parents = [link for link in in_trace if link.child_of] or in_trace
        span.parent_id = parents[0].context.span_id if parents else 0
    parent = span.trace_id, span.parent_id
    span.links = [
        link for link in links if not link.child_of or (link.context.trace_id, link.context.span_id) != parent
    ]


def take_attributes(span: SpanData, attributes: dict[str, Any]) -> None:
    """Give a span its attributes, and what its codec or its client said about it by tags."""
    kind = attributes.get("span.kind")
    if isinstance(kind, str) and kind in Kind.NAMES:
        span.kind = Kind.NAMES.index(kind)
        del attributes["span.kind"]
    code = attributes.get("otel.status_code")
    if isinstance(code, str) and code in Status.NAMES:
        span.status = Status.NAMES.index(code)
        del attributes["otel.status_code"]
    error = attributes.get("error")
    if error is True or error == "true":
        span.status = Status.ERROR
        del attributes["error"]
    span.scope = _pop_text(attributes, "component")
    span.status_message = span.trace_state = ""
    if not _RARE.isdisjoint(attributes):
        span.status_message = _pop_text(attributes, "otel.status_description")
        span.trace_state = _pop_text(attributes, "w3c.tracestate")
        dropped = [attributes.pop(name) if type(attributes.get(name)) is int else 0 for name in DROPPED]
        if any(dropped):
            span.dropped = dropped[0], dropped[1], dropped[2]
    span.own = attributes or None


def _pop_text(attributes: dict[str, Any], name: str) -> str:
    return attributes.pop(name) if isinstance(attributes.get(name), str) else ""
