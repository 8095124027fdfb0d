"""What Jaeger's model says about a span by references and tags, which ours has fields for: parent, kind, status, scope.

Owns: the reading of those references and tags; the names of OpenTracing that attributes have besides.
Must not know: any format, JSON or Thrift.
Invariants: nothing here raises; a tag whose value is of another type than expected stays an attribute.

Source: Jaeger's own translation of spans into OpenTelemetry's model, and OpenTracing's semantic conventions.
"""

from __future__ import annotations

from autoinstr.model import Kind, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from autoinstr.model import Link, SpanData

#: Tags for how much a client's limits removed.
DROPPED = ("otel.dropped_attributes_count", "otel.dropped_events_count", "otel.dropped_links_count")
#: What few spans have, so that one look spares five.
_RARE = frozenset((*DROPPED, "otel.status_description", "w3c.tracestate"))

#: Attributes that are also written under the names that Jaeger's users know (OpenTracing's semantic conventions).
ALIASES = {
    "http.request.method": "http.method",
    "http.response.status_code": "http.status_code",
    "url.full": "http.url",
}
#: The same on client spans only: they are about the other side.
CLIENT_ALIASES = {
    "server.address": "peer.hostname",
    "server.port": "peer.port",
    "network.peer.address": "peer.ipv4",
}


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


def with_aliases(attributes: Mapping[str, Any], client: bool) -> dict[str, Any]:
    """``attributes`` and what they are called in OpenTracing, where they are not there under that name already."""
    result = dict(attributes)
    for name, value in attributes.items():
        alias = ALIASES.get(name) or (CLIENT_ALIASES.get(name) if client else None)
        if alias and (alias != "peer.ipv4" or _is_ipv4(value)):
            result.setdefault(alias, value)
    return result


def _is_ipv4(value: object) -> bool:
    parts = value.split(".") if isinstance(value, str) else ()
    return len(parts) == 4 and all(part.isdecimal() and part.isascii() and len(part) < 4 for part in parts)
