"""OpenTelemetry's protocol: spans to ``ExportTraceServiceRequest`` in protobuf or JSON, and back.

Owns: the messages of ``opentelemetry/proto/trace/v1`` and what they say about a span.
Must not know: HTTP, compression, the environment.
Invariants: a span that cannot be encoded is counted, never raised; attribute names are unique within a span, as OTLP
demands: an own attribute replaces a fact's. Jaeger's debug and firehose flags do not travel: OTLP's flags are W3C's.

How it is fast: as in ``jaeger``, what repeats is kept encoded: a *shape* is what name, kind, status, flags and facts
become, a *piece* is one own attribute.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.model import MASK_64, SAMPLED, Batch, Event, Link, Resource, SpanContext, SpanData
from autoinstr.wire import CACHED_CHARACTERS, UNKNOWN_SERVICE, Cache, DecodeError, protobuf, varint
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
from autoinstr.wire.values import MAX_DEPTH, described, json_ready, plain, printable, utf8, whole_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    Lost: TypeAlias = tuple[int, int, int]
    #: The fields that repeat, and the names of the attributes among them.
    Shape: TypeAlias = tuple[bytes, frozenset[str]]

#: Scopes are "autoinstr.flask" and the like on the wire, so that it can be seen who made the span.
_SCOPE = "autoinstr"
_SCOPE_PREFIX = "autoinstr."
#: The resource attribute that names the service.
_SERVICE_NAME = "service.name"

#: Bits of span and link flags: W3C's in the lowest eight, then whether it is known and true that the parent is remote.
_W3C_FLAGS, _HAS_IS_REMOTE, _IS_REMOTE = 0xFF, 0x100, 0x200

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
        self._strings = Cache()
        self._ints = Cache()
        self._names = Cache()
        self._scopes = Cache()
        self._span_headers = [b"\x12" + varint(size) for size in range(1024)]
        attributes = self._attributes(1, {_SERVICE_NAME: resource.service_name, **resource.attributes})
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
            partial = _field_bytes(protobuf.fields(bytes(response)), 1)
            return max(protobuf.signed(_field_int(protobuf.fields(partial), 1)), 0)
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
                        parts[2] = self._overridden(span, key)
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
        """What repeats of a span, encoded and remembered."""
        attributes = described(span.facts)
        shape = self._fixed(key, attributes), frozenset(attributes)
        try:
            self._shapes.keep(key, shape, len(shape[0]))
        except TypeError:
            pass
        return shape

    def _overridden(self, span: SpanData, key: tuple[Any, ...]) -> bytes:
        """The shape of a span without those of its facts' attributes that its own attributes replace."""
        own = span.own or {}
        facts = {name: value for name, value in described(span.facts).items() if name not in own}
        return self._fixed(key, facts)

    def _fixed(self, key: tuple[Any, ...], attributes: Mapping[str, Any]) -> bytes:
        name, kind, status, flags, is_remote, _ = key
        fields = [
            protobuf.bytes_field(5, utf8(printable(name))),
            protobuf.varint_field(6, kind),
            self._attributes(9, attributes),
            protobuf.fixed_32_field(16, _flags(flags, is_remote)),
        ]
        if status:
            fields.append(protobuf.bytes_field(15, protobuf.varint_field(3, status)))
        return b"".join(fields)

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
    return _SCOPE_PREFIX + printable(scope) if scope else _SCOPE


def _flags(flags: int, is_remote: bool) -> int:
    """Only the sampled flag means the same in Jaeger's flags and in W3C's."""
    return flags & SAMPLED | _HAS_IS_REMOTE | (_IS_REMOTE if is_remote else 0)


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
        self._resource = {"attributes": self._attributes({_SERVICE_NAME: resource.service_name, **resource.attributes})}

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
        message.update((name, count) for name, count in zip(_DROPPED, span.dropped or (), strict=False) if count)
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


_DROPPED = ("droppedAttributesCount", "droppedEventsCount", "droppedLinksCount")


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


# Decoding protobuf ------------------------------------------------------------------------------------------------


def decode_protobuf(data: bytes) -> list[Batch]:
    """The batches, one per resource, of an ``ExportTraceServiceRequest``; ``DecodeError`` when it is none."""
    return [_batch(message) for message in _messages(protobuf.fields(bytes(data)), 1)]


def _batch(message: bytes) -> Batch:
    fields = protobuf.fields(message)
    attributes = _attributes(protobuf.fields(_field_bytes(fields, 1)), 1)
    spans = [span for scope_spans in _messages(fields, 2) for span in _scope_spans(scope_spans)]
    return Batch(_resource(attributes), spans)


def _resource(attributes: dict[str, Any]) -> Resource:
    name = attributes.pop(_SERVICE_NAME, "")
    return Resource(printable(name) or UNKNOWN_SERVICE, attributes)


def _scope_spans(message: bytes) -> list[SpanData]:
    fields = protobuf.fields(message)
    scope = _scope_of(_field_text(protobuf.fields(_field_bytes(fields, 1)), 1))
    return [_span(span, scope) for span in _messages(fields, 2)]


def _scope_of(name: str) -> str:
    return "" if name == _SCOPE else name.removeprefix(_SCOPE_PREFIX)


def _span(message: bytes, scope: str) -> SpanData:
    fields = protobuf.fields(message)
    flags = _field_int(fields, 16, protobuf.FIXED_32)
    status = protobuf.fields(_field_bytes(fields, 15))
    span = SpanData(
        _field_text(fields, 5),
        _field_id(fields, 1, 16),
        _field_id(fields, 2, 8),
        _field_id(fields, 4, 8),
        kind=_enum(_field_int(fields, 6), 5),
        flags=_flags_of(flags),
        start_ns=_field_int(fields, 7, protobuf.FIXED_64),
        end_ns=_field_int(fields, 8, protobuf.FIXED_64),
        attributes=_attributes(fields, 9),
        events=[_event(event) for event in _messages(fields, 11)] or None,
        links=[_link(link) for link in _messages(fields, 13)],
        status=_enum(_field_int(status, 3), 2),
        status_message=_field_text(status, 2),
        scope=scope,
        trace_state=_field_text(fields, 3),
        parent_is_remote=flags & _IS_REMOTE != 0,
    )
    span.dropped = _dropped([_field_int(fields, field) for field in (10, 12, 14)])
    return span


def _event(message: bytes) -> Event:
    fields = protobuf.fields(message)
    return Event(_field_text(fields, 2), _field_int(fields, 1, protobuf.FIXED_64), _attributes(fields, 3))


def _link(message: bytes) -> Link:
    fields = protobuf.fields(message)
    flags = _field_int(fields, 6, protobuf.FIXED_32)
    context = SpanContext(
        _field_id(fields, 1, 16),
        _field_id(fields, 2, 8),
        flags & _W3C_FLAGS,
        _field_text(fields, 3),
        is_remote=flags & _IS_REMOTE != 0,
    )
    return Link(context, _attributes(fields, 4))


def _attributes(fields: protobuf.Message, field: int) -> dict[str, Any]:
    """``KeyValue`` messages as a dictionary, without those that have no value."""
    pairs = [_key_value(message, 0) for message in _messages(fields, field)]
    return {key: value for key, value in pairs if value is not None}


def _key_value(message: bytes, depth: int) -> tuple[str, Any]:
    fields = protobuf.fields(message)
    return _field_text(fields, 1), _value(_field_bytes(fields, 2), depth)


def _value(message: bytes, depth: int) -> Any:
    """The value of an ``AnyValue``."""
    if depth > MAX_DEPTH:
        raise DecodeError(f"values nested deeper than {MAX_DEPTH}")
    result: Any = None
    for tag, values in protobuf.fields(message).items():
        read = _VALUE_READERS.get(tag)
        if read is not None:
            result = read(values[-1], depth)
    return result


def _array(message: bytes, depth: int) -> list[Any]:
    return [_value(item, depth + 1) for item in _messages(protobuf.fields(message), 1)]


def _kvlist(message: bytes, depth: int) -> dict[str, Any]:
    return dict([_key_value(item, depth + 1) for item in _messages(protobuf.fields(message), 1)])


_VALUE_READERS: dict[int, Callable[[Any, int], Any]] = {
    1 << 3 | protobuf.LENGTH: lambda value, depth: _decoded(value),
    2 << 3 | protobuf.VARINT: lambda value, depth: value != 0,
    3 << 3 | protobuf.VARINT: lambda value, depth: protobuf.signed(value),
    4 << 3 | protobuf.FIXED_64: lambda value, depth: protobuf.double(value),
    5 << 3 | protobuf.LENGTH: _array,
    6 << 3 | protobuf.LENGTH: _kvlist,
    7 << 3 | protobuf.LENGTH: lambda value, depth: value,
}


def _messages(fields: protobuf.Message, field: int) -> list[bytes]:
    """The values of a repeated submessage."""
    return fields.get(field << 3 | protobuf.LENGTH, [])


def _field_bytes(fields: protobuf.Message, field: int) -> bytes:
    """A string, bytes or submessage, empty if absent; parts of a submessage are joined, as protobuf has it."""
    values = _messages(fields, field)
    return values[0] if len(values) == 1 else b"".join(values)


def _field_text(fields: protobuf.Message, field: int) -> str:
    values = _messages(fields, field)
    return _decoded(values[-1]) if values else ""


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"text is not UTF-8: {error.reason}") from None


def _field_int(fields: protobuf.Message, field: int, kind: int = protobuf.VARINT) -> int:
    """An integer, 0 if absent."""
    values = fields.get(field << 3 | kind)
    return values[-1] if values else 0


def _field_id(fields: protobuf.Message, field: int, size: int) -> int:
    values = _messages(fields, field)
    if not values or not values[-1]:
        return 0
    if len(values[-1]) != size:
        raise DecodeError(f"id of {len(values[-1])} bytes where {size} belong")
    return int.from_bytes(values[-1], "big")


def _enum(number: int, highest: int) -> int:
    """A kind or status; one that we do not know is unspecified."""
    return number if number <= highest else 0


def _flags_of(flags: int) -> int:
    """The span's own flags. Many senders leave the field out; what they send was sampled all the same."""
    return flags & _W3C_FLAGS if flags else SAMPLED


def _dropped(counts: list[int]) -> tuple[int, int, int] | None:
    return (counts[0], counts[1], counts[2]) if any(counts) else None


# Decoding JSON ----------------------------------------------------------------------------------------------------


def decode_json(data: bytes) -> list[Batch]:
    """As ``decode_protobuf``, of a request in JSON. Unknown members are ignored, as the specification demands."""
    return [_json_batch(item) for item in objects(json_object(data), "resourceSpans")]


def _json_batch(message: dict[str, Any]) -> Batch:
    attributes = _json_attributes(member(message, "resource", dict, {}))
    spans = [span for item in objects(message, "scopeSpans") for span in _json_scope_spans(item)]
    return Batch(_resource(attributes), spans)


def _json_scope_spans(message: dict[str, Any]) -> list[SpanData]:
    scope = _scope_of(text(member(message, "scope", dict, {}), "name"))
    return [_json_span(span, scope) for span in objects(message, "spans")]


def _json_span(message: dict[str, Any], scope: str) -> SpanData:
    flags = unsigned(message, "flags")
    status = member(message, "status", dict, {})
    span = SpanData(
        text(message, "name"),
        fixed_hex_id(message, "traceId", 32),
        fixed_hex_id(message, "spanId", 16),
        fixed_hex_id(message, "parentSpanId", 16),
        kind=_enum(unsigned(message, "kind"), 5),
        flags=_flags_of(flags),
        start_ns=unsigned(message, "startTimeUnixNano"),
        end_ns=unsigned(message, "endTimeUnixNano"),
        attributes=_json_attributes(message),
        events=[_json_event(event) for event in objects(message, "events")] or None,
        links=[_json_link(link) for link in objects(message, "links")],
        status=_enum(unsigned(status, "code"), 2),
        status_message=text(status, "message"),
        scope=scope,
        trace_state=text(message, "traceState"),
        parent_is_remote=flags & _IS_REMOTE != 0,
    )
    span.dropped = _dropped([unsigned(message, name) for name in _DROPPED])
    return span


def _json_event(message: dict[str, Any]) -> Event:
    return Event(text(message, "name"), unsigned(message, "timeUnixNano"), _json_attributes(message))


def _json_link(message: dict[str, Any]) -> Link:
    flags = unsigned(message, "flags")
    context = SpanContext(
        fixed_hex_id(message, "traceId", 32),
        fixed_hex_id(message, "spanId", 16),
        flags & _W3C_FLAGS,
        text(message, "traceState"),
        is_remote=flags & _IS_REMOTE != 0,
    )
    return Link(context, _json_attributes(message))


def _json_attributes(message: dict[str, Any]) -> dict[str, Any]:
    pairs = [_json_key_value(item, 0) for item in objects(message, "attributes")]
    return {key: value for key, value in pairs if value is not None}


def _json_key_value(message: dict[str, Any], depth: int) -> tuple[str, Any]:
    return text(message, "key"), _json_to_value(member(message, "value", dict, {}), depth)


def _json_to_value(message: dict[str, Any], depth: int) -> Any:
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
            return [_json_to_value(item, depth + 1) for item in items]
        if name == "kvlistValue":
            items = objects(member(message, name, dict, {}), "values")
            return dict([_json_key_value(item, depth + 1) for item in items])
    return None
