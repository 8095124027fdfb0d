"""OpenTelemetry's protocol: spans to ``ExportTraceServiceRequest`` in protobuf or JSON, and back.

Owns: the messages of ``opentelemetry/proto/trace/v1`` and what they say about a span.
Must not know: HTTP, compression, the environment.
Invariants: a span that cannot be encoded is counted, never raised; attribute names are unique within a span, as OTLP
demands: an own attribute replaces a fact's. Jaeger's debug and firehose flags do not travel: OTLP's flags are W3C's.

How it is fast: as in ``jaeger``, what repeats is kept encoded: a *shape* is what name, kind, status, flags and facts
become, a *piece* is one fact or own attribute.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.model import MASK_64, RANDOM, SAMPLED, Event, Link, Resource, SpanData
from autoinstr.wire import CACHED_CHARACTERS, Cache, DecodeError, protobuf, varint
from autoinstr.wire.documents import int_of, json_object, member
from autoinstr.wire.otlp_json import DROPPED, decode_json
from autoinstr.wire.otlp_read import (
    HAS_IS_REMOTE,
    IS_REMOTE,
    SCOPE,
    SCOPE_PREFIX,
    SERVICE_NAME,
    decode_protobuf,
    field_bytes,
    field_int,
)
from autoinstr.wire.values import described, json_ready, plain, printable, utf8, whole_text

__all__ = ["JsonEncoder", "ProtobufEncoder", "decode_json", "decode_protobuf"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any, TypeAlias

    Lost: TypeAlias = tuple[int, int, int]
    #: The fields that repeat, and the names of the attributes among them.
    Shape: TypeAlias = tuple[bytes, frozenset[str]]

_NO_NAMES: frozenset[str] = frozenset()
_IDS = _struct.Struct(">HQQHQ")
_IDS_AND_PARENT = _struct.Struct(">HQQHQHQ")
_TIMES = _struct.Struct("<BQBQ")
#: Tag and length of trace id, span id and parent span id; tags of start and end.
_TRACE_ID, _SPAN_ID, _PARENT_ID, _START, _END = 0x0A10, 0x1208, 0x2208, 0x39, 0x41


# Encoding ---------------------------------------------------------------------------------------------------------


class ProtobufEncoder:
    """Requests in protobuf, one for all spans given."""

    content_type = "application/x-protobuf"

    def __init__(self, resource: Resource, max_value_length: int | None = None, *, version: str = "") -> None:
        self._limit = max_value_length
        self._version = utf8(version)
        self._shapes = Cache()
        self._frames = Cache()
        self._facts = Cache()
        self._strings = Cache()
        self._ints = Cache()
        self._names = Cache()
        self._scopes = Cache()
        self._span_headers = [b"\x12" + varint(size) for size in range(1024)]
        attributes = self._attributes(1, {SERVICE_NAME: resource.service_name, **resource.attributes})
        self._resource = protobuf.bytes_field(1, attributes)

    def encode(self, spans: Sequence[SpanData], lost: Lost = (0, 0, 0)) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``; OTLP has no place for ``lost``."""
        pieces_by_scope: dict[str, list[bytes]] = {}
        bad = self._encode(spans, pieces_by_scope)
        if bad == len(spans):
            return [], bad
        scopes = b"".join([self._scope_spans(name, pieces) for name, pieces in pieces_by_scope.items()])
        return [(protobuf.bytes_field(1, self._resource + scopes), len(spans) - bad)], bad

    def rejected(self, response: bytes) -> int:
        """How many spans the receiver's ``ExportTraceServiceResponse`` says that it refused; 0 if it is unreadable."""
        try:
            partial = field_bytes(protobuf.fields(bytes(response)), 1)
            return max(protobuf.signed(field_int(protobuf.fields(partial), 1)), 0)
        except DecodeError:
            return 0

    def _encode(self, spans: Sequence[SpanData], pieces_by_scope: dict[str, list[bytes]]) -> int:
        """Append the spans to the pieces of their scopes; how many cannot be encoded.

        The hot loop: flat on purpose, no call per attribute on a hit.
        """
        bad = 0
        shape_of, string_of, int_of = self._shapes.get, self._strings.get, self._ints.get
        pack_ids, pack_all_ids, pack_times = _IDS.pack, _IDS_AND_PARENT.pack, _TIMES.pack
        span_headers = self._span_headers
        for span in spans:
            try:
                own, trace_id, parent_id = span.own, span.trace_id, span.parent_id
                status = 0 if span.status_message else span.status
                key = (span.name, span.kind, status, span.flags, span.parent_is_remote, span.facts)
                try:
                    shape = shape_of(key)
                except TypeError:  # a fact with an argument that cannot be hashed
                    shape = None
                fixed, names = shape or self._shape(span, key)
                if parent_id:
                    ids = pack_all_ids(
                        _TRACE_ID, trace_id >> 64, trace_id & MASK_64, _SPAN_ID, span.span_id, _PARENT_ID, parent_id
                    )
                else:
                    ids = pack_ids(_TRACE_ID, trace_id >> 64, trace_id & MASK_64, _SPAN_ID, span.span_id)
                parts = [ids, pack_times(_START, span.start_ns, _END, span.end_ns), fixed]
                if own:
                    if not names.isdisjoint(own):
                        parts[2] = self._whole_shape(span, key, own)[0]
                    for item in own.items():
                        kind_of_value = type(item[1])
                        if kind_of_value is str:
                            piece = string_of(item)
                        elif kind_of_value is int:
                            piece = int_of(item)
                        else:
                            piece = None
                        parts.append(self._piece(item) if piece is None else piece)
                if span.events or span.links or span.status_message or span.trace_state or span.dropped:
                    parts += self._rare_fields(span)
                body = b"".join(parts)
                size = len(body)
                pieces = pieces_by_scope.get(span.scope)
                if pieces is None:
                    pieces = pieces_by_scope[span.scope] = []
                pieces += (span_headers[size] if size < 1024 else b"\x12" + varint(size), body)
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += 1
        return bad

    def _scope_spans(self, name: str, pieces: list[bytes]) -> bytes:
        """A ``ScopeSpans`` as field 2 of ``ResourceSpans``."""
        scope = protobuf.bytes_field(1, utf8(_scope_name(name)))
        if self._version:
            scope += protobuf.bytes_field(2, self._version)
        return protobuf.bytes_field(2, protobuf.bytes_field(1, scope) + b"".join(pieces))

    def _shape(self, span: SpanData, key: tuple[Any, ...]) -> Shape:
        """What repeats of a span, from what each of its facts became before; remembered if none of them was new.

        With a new one in it (a path with an id) the shape will hardly come again, and would take another one's room.
        """
        parts, names = [self._frame(key[:-1])], _NO_NAMES
        are_known = True
        for fact in span.facts:
            try:
                piece = self._facts.get(fact)
            except TypeError:  # an argument that cannot be hashed
                return self._whole_shape(span, key)
            if piece is None:
                are_known = False
                attributes = described((fact,))
                piece = self._attributes(9, attributes), frozenset(attributes)
                self._facts.keep(fact, piece, len(piece[0]))
            if not names.isdisjoint(piece[1]):
                return self._whole_shape(span, key)
            parts.append(piece[0])
            names |= piece[1]
        shape = b"".join(parts), names
        if are_known:
            self._shapes.keep(key, shape, len(shape[0]))
        return shape

    def _whole_shape(self, span: SpanData, key: tuple[Any, ...], without: Collection[str] = ()) -> Shape:
        """As ``_shape`` with nothing remembered of the facts, where they overlap (the later wins) or cannot be hashed."""
        attributes = {name: value for name, value in described(span.facts).items() if name not in without}
        return self._frame(key[:-1]) + self._attributes(9, attributes), frozenset(attributes)

    def _frame(self, key: tuple[Any, ...]) -> bytes:
        """Name, kind, flags and status."""
        frame: bytes | None = self._frames.get(key)
        if frame is None:
            name, kind, status, flags, is_remote = key
            fields = [
                protobuf.bytes_field(5, utf8(printable(name))),
                protobuf.varint_field(6, kind),
                protobuf.fixed_32_field(16, _flags(flags, is_remote)),
            ]
            if status:
                fields.append(protobuf.bytes_field(15, protobuf.varint_field(3, status)))
            frame = b"".join(fields)
            self._frames.keep(key, frame, len(frame))
        return frame

    def _piece(self, item: tuple[str, Any]) -> bytes:
        """An own attribute, encoded, and remembered if it may well come again."""
        piece = self._attributes(9, dict((item,)))
        value = item[1]
        if type(value) is int:
            self._ints.keep(item, piece, len(piece))
        elif type(value) is str and len(value) <= CACHED_CHARACTERS:
            self._strings.keep(item, piece, len(piece))
        return piece

    def _rare_fields(self, span: SpanData) -> list[bytes]:
        """What few spans have."""
        fields = []
        if span.status_message:
            message = protobuf.bytes_field(2, utf8(printable(span.status_message)))
            fields.append(protobuf.bytes_field(15, message + protobuf.varint_field(3, span.status)))
        if span.trace_state:
            fields.append(protobuf.bytes_field(3, utf8(span.trace_state)))
        fields += [protobuf.bytes_field(11, self._event(event)) for event in span.events or ()]
        fields += [protobuf.bytes_field(13, self._link(link)) for link in span.links]
        fields += [
            protobuf.varint_field(field, count)
            for field, count in zip((10, 12, 14), span.dropped or (), strict=False)
            if count
        ]
        return fields

    def _event(self, event: Event) -> bytes:
        name = protobuf.bytes_field(2, utf8(printable(event.name)))
        return protobuf.fixed_64_field(1, event.time_ns) + name + self._attributes(3, event.attributes)

    def _link(self, link: Link) -> bytes:
        context = link.context
        fields = [
            protobuf.bytes_field(1, context.trace_id.to_bytes(16, "big")),
            protobuf.bytes_field(2, context.span_id.to_bytes(8, "big")),
            self._attributes(4, link.attributes),
            protobuf.fixed_32_field(6, _flags(context.flags, context.is_remote)),
        ]
        if context.trace_state:
            fields.append(protobuf.bytes_field(3, utf8(context.trace_state)))
        return b"".join(fields)

    def _attributes(self, field: int, attributes: Mapping[str, Any]) -> bytes:
        """A ``KeyValue`` in ``field`` for each attribute that has a value."""
        return b"".join(
            [
                protobuf.bytes_field(
                    field, self._name(name) + protobuf.bytes_field(2, _any_value(plain(value, self._limit)))
                )
                for name, value in attributes.items()
                if value is not None
            ]
        )

    def _name(self, name: str) -> bytes:
        """The key of a ``KeyValue``."""
        encoded: bytes | None = self._names.get(name)
        if encoded is None:
            encoded = protobuf.bytes_field(1, utf8(printable(name)))
            self._names.keep(name, encoded, len(encoded))
        return encoded


def _scope_name(scope: str) -> str:
    return SCOPE_PREFIX + printable(scope) if scope else SCOPE


def _flags(flags: int, is_remote: bool) -> int:
    """W3C's flags: whether the trace is kept, and whether its id is random; Jaeger's own mean nothing there."""
    return flags & SAMPLED | (flags & RANDOM) >> 7 | HAS_IS_REMOTE | (IS_REMOTE if is_remote else 0)


def _any_value(value: Any) -> bytes:
    """The fields of an ``AnyValue``: none when there is no value, which OTLP allows in arrays."""
    if isinstance(value, str):
        return protobuf.bytes_field(1, utf8(value))
    if isinstance(value, bool):
        return protobuf.varint_field(2, value)
    if isinstance(value, int):
        return protobuf.varint_field(3, value)
    if isinstance(value, float):
        return protobuf.double_field(4, value)
    if isinstance(value, bytes):
        return protobuf.bytes_field(7, value)
    if isinstance(value, list):
        return protobuf.bytes_field(5, b"".join([protobuf.bytes_field(1, _any_value(item)) for item in value]))
    if isinstance(value, dict):
        pairs = [
            protobuf.bytes_field(1, utf8(key)) + protobuf.bytes_field(2, _any_value(v)) for key, v in value.items()
        ]
        return protobuf.bytes_field(6, b"".join([protobuf.bytes_field(1, pair) for pair in pairs]))
    return b""


class JsonEncoder:
    """Requests in OTLP's JSON, one for all spans given: ids in hex, 64-bit integers as text, enums as numbers."""

    content_type = "application/json"

    def __init__(self, resource: Resource, max_value_length: int | None = None, *, version: str = "") -> None:
        self._limit = max_value_length
        self._version = version
        self._resource = {"attributes": self._attributes({SERVICE_NAME: resource.service_name, **resource.attributes})}

    def encode(self, spans: Sequence[SpanData], lost: Lost = (0, 0, 0)) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``; OTLP has no place for ``lost``."""
        import json

        texts_by_scope: dict[str, list[str]] = {}
        bad = 0
        for span in spans:
            try:
                document = json.dumps(self._span(span), separators=(",", ":"))
                texts_by_scope.setdefault(span.scope, []).append(document)
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += 1
        if bad == len(spans):
            return [], bad
        resource = json.dumps(self._resource, separators=(",", ":"))
        scopes = ",".join([self._scope_spans(name, texts) for name, texts in texts_by_scope.items()])
        request = f'{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{scopes}]}}]}}'
        return [(request.encode(), len(spans) - bad)], bad

    def rejected(self, response: bytes) -> int:
        """As ``ProtobufEncoder.rejected``, of an answer in JSON."""
        try:
            partial = member(json_object(response), "partialSuccess", dict, {})
            return max(int_of(partial.get("rejectedSpans", 0)), 0)
        except DecodeError:
            return 0

    def _scope_spans(self, name: str, texts: list[str]) -> str:
        import json

        scope = {"name": whole_text(_scope_name(name))}
        if self._version:
            scope["version"] = self._version
        return f'{{"scope":{json.dumps(scope)},"spans":[{",".join(texts)}]}}'

    def _span(self, span: SpanData) -> dict[str, Any]:
        attributes = {**described(span.facts), **(span.own or {})}
        message: dict[str, Any] = {
            **_json_ids(span.trace_id, span.span_id),
            "name": whole_text(printable(span.name)),
            "kind": span.kind,
            "startTimeUnixNano": str(span.start_ns + 0),
            "endTimeUnixNano": str(span.end_ns + 0),
            "attributes": self._attributes(attributes),
            "flags": _flags(span.flags, span.parent_is_remote),
        }
        if span.parent_id:
            message["parentSpanId"] = f"{span.parent_id:016x}"
        if span.trace_state:
            message["traceState"] = whole_text(span.trace_state)
        if span.status or span.status_message:
            message["status"] = {"code": span.status, "message": whole_text(printable(span.status_message))}
        if span.events:
            message["events"] = [self._event(event) for event in span.events]
        if span.links:
            message["links"] = [self._link(link) for link in span.links]
        message.update((name, count) for name, count in zip(DROPPED, span.dropped or (), strict=False) if count)
        return message

    def _event(self, event: Event) -> dict[str, Any]:
        return {
            "timeUnixNano": str(event.time_ns + 0),
            "name": whole_text(printable(event.name)),
            "attributes": self._attributes(event.attributes),
        }

    def _link(self, link: Link) -> dict[str, Any]:
        context = link.context
        return {
            **_json_ids(context.trace_id, context.span_id),
            "traceState": whole_text(context.trace_state),
            "attributes": self._attributes(link.attributes),
            "flags": _flags(context.flags, context.is_remote),
        }

    def _attributes(self, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {"key": whole_text(printable(name)), "value": _json_any_value(plain(value, self._limit))}
            for name, value in attributes.items()
            if value is not None
        ]


def _json_ids(trace_id: int, span_id: int) -> dict[str, str]:
    if trace_id >> 128 or span_id >> 64:
        raise ValueError("id out of range")
    return {"traceId": f"{trace_id:032x}", "spanId": f"{span_id:016x}"}


def _json_any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": whole_text(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": json_ready(value)}
    if isinstance(value, bytes):
        return {"bytesValue": json_ready(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_json_any_value(item) for item in value]}}
    if isinstance(value, dict):
        pairs = [{"key": whole_text(key), "value": _json_any_value(item)} for key, item in value.items()]
        return {"kvlistValue": {"values": pairs}}
    return {}
