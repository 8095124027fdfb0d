"""Zipkin's v2 JSON: spans to a list of Zipkin spans, and back.

Owns: how a span is said in Zipkin's model, where tags are text, a service is an endpoint and there is no status.
Must not know: HTTP, the environment.
Invariants: a span that cannot be encoded is counted, never raised. Zipkin has no place for links, for OK as a status,
for types of values, or for a resource: its attributes go into the tags of every span.
Source: ``zipkin2-api.yaml``, and OpenTelemetry's specification of the mapping.
"""

from __future__ import annotations

from autoinstr.model import DEBUG, SAMPLED, Batch, Event, Kind, Resource, SpanData, Status
from autoinstr.wire import UNKNOWN_SERVICE, DecodeError
from autoinstr.wire.documents import all_objects, hex_id, json_value, member, objects, text, unsigned
from autoinstr.wire.values import base64_text, described, json_ready, json_text, plain, printable, whole_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Lost: TypeAlias = tuple[int, int, int]

_KINDS = {Kind.SERVER: "SERVER", Kind.CLIENT: "CLIENT", Kind.PRODUCER: "PRODUCER", Kind.CONSUMER: "CONSUMER"}
_KIND_NUMBERS = {name: kind for kind, name in _KINDS.items()}

_SCOPE, _TRACE_STATE = "otel.scope.name", "w3c.tracestate"
_PEER_SERVICE, _PEER_ADDRESS, _PEER_PORT = "peer.service", "network.peer.address", "network.peer.port"

_LATEST_US = ((1 << 64) - 1) // 1000


class JsonEncoder:
    """Lists of spans, one list for all spans given."""

    content_type = "application/json"

    def __init__(self, resource: Resource, max_value_length: int | None = None) -> None:
        self._limit = max_value_length
        self._endpoint = {"serviceName": whole_text(printable(resource.service_name))}
        self._resource = resource.attributes

    def encode(self, spans: Sequence[SpanData], lost: Lost = (0, 0, 0)) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``; Zipkin has no place for ``lost``."""
        import json

        documents = []
        for span in spans:
            try:
                documents.append(json.dumps(self._span(span), separators=(",", ":")))
            except Exception:  # noqa: BLE001, S112 - a span that cannot be encoded is counted, not raised
                continue
        bad = len(spans) - len(documents)
        return ([(f"[{','.join(documents)}]".encode(), len(documents))] if documents else []), bad

    def rejected(self, response: bytes) -> int:
        """Always 0: Zipkin takes a payload as a whole."""
        return 0

    def _span(self, span: SpanData) -> dict[str, Any]:
        if span.trace_id >> 128 or span.span_id >> 64 or span.parent_id >> 64:
            raise ValueError("id out of range")
        attributes = {**described(span.facts), **(span.own or {})}
        document: dict[str, Any] = {
            "traceId": f"{span.trace_id:032x}" if span.trace_id >> 64 else f"{span.trace_id:016x}",
            "id": f"{span.span_id:016x}",
            "name": whole_text(printable(span.name)),
            "timestamp": span.start_ns // 1000,
            # Zipkin takes 0 for "unknown".
            "duration": max((span.end_ns - span.start_ns) // 1000, 1),
            "localEndpoint": self._endpoint,
            "tags": self._tags(span, attributes),
        }
        if span.parent_id:
            document["parentId"] = f"{span.parent_id:016x}"
        if span.kind in _KINDS:
            document["kind"] = _KINDS[span.kind]
        if span.flags & DEBUG:
            document["debug"] = True
        if span.events:
            document["annotations"] = [self._annotation(event) for event in span.events]
        remote = _remote_endpoint(attributes)
        if remote:
            document["remoteEndpoint"] = remote
        return document

    def _tags(self, span: SpanData, attributes: dict[str, Any]) -> dict[str, str]:
        said: dict[str, Any] = {**self._resource, **attributes}
        if span.status == Status.ERROR:
            said["error"] = span.status_message or "true"
        if span.scope:
            said[_SCOPE] = span.scope
        if span.trace_state:
            said[_TRACE_STATE] = span.trace_state
        return {
            whole_text(printable(name)): whole_text(_as_text(plain(value, self._limit)))
            for name, value in said.items()
            if value is not None
        }

    def _annotation(self, event: Event) -> dict[str, Any]:
        """Attributes follow the name after a bar, then how many were dropped, as OpenTelemetry's collector reads it."""
        value = printable(event.name)
        if event.attributes:
            value = f"{value}|{json_text(plain(dict(event.attributes), self._limit))}|0"
        return {"timestamp": event.time_ns // 1000, "value": whole_text(value)}


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64_text(value)
    if isinstance(value, float):
        return str(json_ready(value))
    return json_text(value)


def _remote_endpoint(attributes: dict[str, Any]) -> dict[str, Any]:
    """The other side, as far as the attributes tell: Zipkin draws its dependencies from it."""
    endpoint: dict[str, Any] = {}
    service, address, port = (attributes.get(name) for name in (_PEER_SERVICE, _PEER_ADDRESS, _PEER_PORT))
    if isinstance(service, str):
        endpoint["serviceName"] = whole_text(service)
    if isinstance(address, str):
        family = _address_family(address)
        if family:
            endpoint[family] = address
    if endpoint and type(port) is int:
        endpoint["port"] = port
    return endpoint


def _address_family(address: str) -> str:
    if not address.isascii() or len(address) > 45:
        return ""
    if ":" in address:
        return "ipv6"
    parts = address.split(".")
    return "ipv4" if len(parts) == 4 and all(part.isdigit() for part in parts) else ""


def decode_json(data: bytes) -> list[Batch]:
    """The batches, one per local service, of a list of v2 spans; ``DecodeError`` when it is none."""
    document = json_value(data)
    if not isinstance(document, list):
        raise DecodeError("not a list of spans")
    batches: dict[str, Batch] = {}
    for item in all_objects(document):
        service = text(member(item, "localEndpoint", dict, {}), "serviceName") or UNKNOWN_SERVICE
        batch = batches.get(service)
        if batch is None:
            batch = batches[service] = Batch(Resource(service), [])
        batch.spans.append(_span(item))
    return list(batches.values())


def _span(document: dict[str, Any]) -> SpanData:
    trace_id, span_id = _id(document, "traceId", 32), _id(document, "id", 16)
    parent_id = _id(document, "parentId", 16) if document.get("parentId") else 0
    start = _microseconds(document, "timestamp")
    kind = _KIND_NUMBERS.get(text(document, "kind"), Kind.INTERNAL)
    span = SpanData(
        text(document, "name"),
        trace_id,
        span_id,
        # A span that is its own parent comes from clients that take a root for shared.
        0 if parent_id == span_id else parent_id,
        kind=kind,
        flags=SAMPLED | (DEBUG if member(document, "debug", bool, False) else 0),
        start_ns=start * 1000,
        end_ns=min(start + _microseconds(document, "duration"), _LATEST_US) * 1000,
        events=[_event(annotation) for annotation in objects(document, "annotations")] or None,
    )
    attributes = _remote_attributes(member(document, "remoteEndpoint", dict, {}))
    attributes.update(_texts(member(document, "tags", dict, {})))
    _take_attributes(span, attributes)
    return span


def _id(document: dict[str, Any], name: str, longest: int) -> int:
    digits: str = member(document, name, str, "")
    if len(digits) > longest:
        raise DecodeError(f"{name} has {len(digits)} digits where {longest} belong")
    return hex_id(digits)


def _microseconds(document: dict[str, Any], name: str) -> int:
    return min(unsigned(document, name), _LATEST_US)


def _event(annotation: dict[str, Any]) -> Event:
    value = text(annotation, "value")
    name, attributes = _name_and_attributes(value)
    return Event(name, _microseconds(annotation, "timestamp") * 1000, attributes)


def _name_and_attributes(value: str) -> tuple[str, dict[str, Any]]:
    """What ``JsonEncoder._annotation`` joined; any other annotation is a name as a whole."""
    name, _, rest = value.partition("|")
    between, bar, _ = rest.rpartition("|")
    if bar:
        try:
            attributes = json_value(between.encode())
        except DecodeError:
            return value, {}
        if isinstance(attributes, dict):
            return name, attributes
    return value, {}


def _remote_attributes(endpoint: dict[str, Any]) -> dict[str, Any]:
    """The other side, under the names that the rest of the world has for it."""
    found = {
        _PEER_SERVICE: text(endpoint, "serviceName"),
        _PEER_ADDRESS: text(endpoint, "ipv4") or text(endpoint, "ipv6"),
        _PEER_PORT: unsigned(endpoint, "port"),
    }
    return {name: value for name, value in found.items() if value}


def _texts(tags: dict[str, Any]) -> dict[str, str]:
    """Tags, which must be text."""
    return {whole_text(name): text(tags, name) for name in tags}


def _take_attributes(span: SpanData, attributes: dict[str, Any]) -> None:
    """Give a span its attributes, and what its encoder said about it by tags. Any ``error`` tag means an error."""
    error = attributes.pop("error", None)
    if error is not None:
        span.status = Status.ERROR
        span.status_message = "" if error == "true" else error
    span.scope = attributes.pop(_SCOPE, "")
    span.trace_state = attributes.pop(_TRACE_STATE, "")
    span.own = attributes or None
