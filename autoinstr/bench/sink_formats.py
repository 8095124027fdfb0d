"""What is in a payload of any agent: how many spans, of which traces, how many of them roots.

Owns: which path means which format, a reader for each format, and ``Tally``, the sum over payloads.
Must not know: sockets, processes, when anything is counted.
Invariants: of a payload that cannot be read nothing is counted but that; every loop consumes bytes of its payload; what a
payload unpacks to is limited, and so is the set of traces.

Only Jaeger's spans are read by the agent's own decoders. The others are read here, as little of them as has to be: what
counts the spans of an encoder must not be the encoder's twin.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from autoinstr.model import SpanData
from autoinstr.wire import DecodeError, TooLarge, jaeger_read, protobuf

#: Trace id, and whether the span has no parent.
Spans: TypeAlias = list[tuple[int, bool]]

JAEGER_UDP, JAEGER_HTTP, OTLP, ZIPKIN, DATADOG_4, DATADOG_5, ELASTIC = (
    "jaeger-udp", "jaeger-http", "otlp", "zipkin", "datadog-0.4", "datadog-0.5", "elastic",
)  # fmt: skip

#: Where agents POST (Datadog's PUT) their spans. Zipkin's first JSON differs from its second in nothing that is counted.
PATHS = {
    "/api/traces": JAEGER_HTTP,
    "/v1/traces": OTLP,
    "/api/v2/spans": ZIPKIN,
    "/api/v1/spans": ZIPKIN,
    "/v0.4/traces": DATADOG_4,
    "/v0.5/traces": DATADOG_5,
    "/intake/v2/events": ELASTIC,
}

#: Bytes that a compressed payload may unpack to.
MAX_PLAIN_BYTES = 128 * 1024 * 1024
#: Distinct traces of one take; the set of so many takes half a gigabyte.
MAX_TRACES = 5_000_000
#: How deep values of MessagePack may be nested; spans are three or four deep.
MAX_DEPTH = 32
#: Beginnings of gzip and of zlib streams. No payload of any format above begins like one of these.
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


class Tally:
    """What the payloads of one take, or of several, consist of.

    ``undecodable`` payloads are part of ``bytes`` and of nothing else; ``trouble`` is what was wrong with the first one.
    A batch is a payload with at least one span.
    """

    def __init__(self, most_traces: int = MAX_TRACES) -> None:
        self.batches = self.bytes = self.spans = self.roots = self.undecodable = 0
        self.trouble = ""
        self.traces: set[int] = set()
        #: False once there were more traces than are remembered; from then on no new one is.
        self.traces_are_exact = True
        self._most_traces = most_traces

    def add(self, kind: str, body: bytes) -> None:
        """Count one payload, as it was sent. Never raises."""
        self.bytes += len(body)
        try:
            spans = spans_in(kind, body)
        except Exception as error:  # Anybody may have sent it, and there is no end to what can be wrong with it.
            self.undecodable += 1
            self.trouble = self.trouble or f"{kind}: {error or type(error).__name__}"
            return
        self.batches += bool(spans)
        self.spans += len(spans)
        self.roots += sum(is_root for _, is_root in spans)
        self._remember(trace_id for trace_id, _ in spans)

    def merge(self, other: Tally) -> None:
        """Count what another one has counted."""
        for name in ("batches", "bytes", "spans", "roots", "undecodable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.trouble = self.trouble or other.trouble
        self.traces_are_exact &= other.traces_are_exact
        self._remember(other.traces)

    def _remember(self, trace_ids: Iterable[int]) -> None:
        if len(self.traces) < self._most_traces:
            self.traces.update(trace_ids)
        elif self.traces_are_exact:
            self.traces_are_exact = self.traces.issuperset(trace_ids)


def spans_in(kind: str, body: bytes) -> Spans:
    """The spans of a payload of one of the formats above. Raises ``DecodeError``, or whatever reading nonsense raises."""
    return _READERS[kind](inflated(body))


def inflated(body: bytes) -> bytes:
    """A payload without its compression, gzip or zlib, if it has any; ``DecodeError`` and ``zlib.error``."""
    if body[:2] not in _COMPRESSED:
        return body
    stream = zlib.decompressobj(wbits=47)  # either of the two
    plain = stream.decompress(body, MAX_PLAIN_BYTES)
    if stream.unconsumed_tail:
        raise TooLarge(f"unpacks to more than {MAX_PLAIN_BYTES} bytes")
    if not stream.eof or stream.unused_data:
        raise DecodeError("is not one whole compressed stream")
    return plain


# Jaeger ------------------------------------------------------------------------------------------------------------


def _jaeger_message(body: bytes) -> Spans:
    return _jaeger(jaeger_read.decode_message(body).spans)


def _jaeger_batch(body: bytes) -> Spans:
    return _jaeger(jaeger_read.decode_batch(body).spans)


def _jaeger(spans: Iterable[SpanData]) -> Spans:
    return [(span.trace_id, not span.parent_id) for span in spans]


# OTLP --------------------------------------------------------------------------------------------------------------

#: Tags of fields 1, 2 and 4 that have a length (opentelemetry/proto/trace/v1/trace.proto).
_FIELD_1, _FIELD_2, _FIELD_4 = 0x0A, 0x12, 0x22


def _otlp(body: bytes) -> Spans:
    """``TracesData.resource_spans`` (1) . ``scope_spans`` (2) . ``spans`` (2) . ``trace_id`` (1), ``parent_span_id`` (4)."""
    if body[:1] == b"{":
        return _otlp_json(body)
    return [
        _protobuf_span(protobuf.fields(span))
        for resource_spans in protobuf.fields(body).get(_FIELD_1, ())
        for scope_spans in protobuf.fields(resource_spans).get(_FIELD_2, ())
        for span in protobuf.fields(scope_spans).get(_FIELD_2, ())
    ]


def _protobuf_span(fields: protobuf.Message) -> tuple[int, bool]:
    trace_id = fields.get(_FIELD_1, (b"",))[-1]
    if len(trace_id) != 16:
        raise DecodeError(f"a trace id of {len(trace_id)} bytes")
    return int.from_bytes(trace_id, "big"), not any(fields.get(_FIELD_4, (b"",))[-1])


def _otlp_json(body: bytes) -> Spans:
    return [
        _json_span(span, "traceId", "parentSpanId")
        for resource_spans in json.loads(body).get("resourceSpans", ())
        for scope_spans in resource_spans.get("scopeSpans", ())
        for span in scope_spans.get("spans", ())
    ]


def _json_span(span: Mapping[str, Any], trace_id: str, parent: str) -> tuple[int, bool]:
    digits = span[trace_id]
    if not isinstance(digits, str) or len(digits) > 32:
        raise DecodeError("a trace id that is not up to 32 hexadecimal digits")
    return int(digits, 16), not (span.get(parent) or "").strip("0")


# Zipkin and Elastic ------------------------------------------------------------------------------------------------


def _zipkin(body: bytes) -> Spans:
    return [_json_span(span, "traceId", "parentId") for span in json.loads(body)]


def _elastic(body: bytes) -> Spans:
    """Lines of JSON, each an object with one member. Similar spans that the agent has merged (``composite``) are one."""
    spans = []
    for line in body.splitlines():
        event = json.loads(line) if line.strip() else {}
        found = event.get("transaction") or event.get("span")
        if found:
            spans.append(_json_span(found, "trace_id", "parent_id"))
    return spans


# Datadog -----------------------------------------------------------------------------------------------------------


def _datadog_4(body: bytes) -> Spans:
    """An array of traces, each an array of spans, each a map."""
    return [
        _numbers(span[b"trace_id"], span.get(b"parent_id"))
        for trace in _messagepack(body) or ()  # nil is sent for no traces
        for span in trace
    ]


def _datadog_5(body: bytes) -> Spans:
    """A table of texts and an array as above, but a span is an array of 12, with the trace id at 3 and the parent at 5."""
    _, traces = _messagepack(body)
    return [_numbers(span[3], span[5]) for trace in traces for span in trace]


def _numbers(trace_id: Any, parent_id: Any) -> tuple[int, bool]:
    if not isinstance(trace_id, int):
        raise DecodeError("a trace id that is not an integer")
    return trace_id, not parent_id


_SCALAR, _TEXT, _ARRAY, _MAP, _UINT = "scalar", "text", "array", "map", "uint"

#: First byte -> (bytes of the number that follows, what the number is: a value, a size of text, a count of items).
_MESSAGEPACK = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (0, _SCALAR)),
    **{0xCC + power: (1 << power, _UINT) for power in range(4)},
    **{0xD0 + power: (1 << power, _SCALAR) for power in range(4)},
    0xCA: (4, _SCALAR),
    0xCB: (8, _SCALAR),
    **{first + power: (1 << power, _TEXT) for first in (0xC4, 0xD9) for power in range(3)},
    **{0xDC + power: (2 << power, _ARRAY) for power in range(2)},
    **{0xDE + power: (2 << power, _MAP) for power in range(2)},
}


def _messagepack(body: bytes) -> Any:
    value, end = _unpacked(body, 0, 0)
    if end != len(body):
        raise DecodeError(f"{len(body) - end} bytes are left after the value")
    return value


def _unpacked(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """One value of MessagePack and where it ends: unsigned integers, text as bytes, arrays, maps; all else is None."""
    first = body[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return None, at
    if first < 0xC0:
        if first >= 0xA0:
            kind, number = _TEXT, first & 0x1F
        else:
            kind, number = _MAP if first < 0x90 else _ARRAY, first & 0x0F
    else:
        width, kind = _MESSAGEPACK[first]
        number = int.from_bytes(body[at : at + width], "big")
        at += width
    if kind in (_UINT, _SCALAR):
        return number if kind == _UINT else None, at
    # Each item has a byte at least, so that nobody can claim more of them than there can be.
    if at + number > len(body):
        raise DecodeError(f"{number} bytes or items wanted at {at}, but {len(body) - at} bytes are left")
    if kind == _TEXT:
        return body[at : at + number], at + number
    if depth == MAX_DEPTH:
        raise DecodeError(f"nested more than {MAX_DEPTH} deep")
    items = []
    for _ in range(number * 2 if kind == _MAP else number):
        item, at = _unpacked(body, at, depth + 1)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == _MAP else items), at


_READERS: dict[str, Callable[[bytes], Spans]] = {
    JAEGER_UDP: _jaeger_message,
    JAEGER_HTTP: _jaeger_batch,
    OTLP: _otlp,
    ZIPKIN: _zipkin,
    DATADOG_4: _datadog_4,
    DATADOG_5: _datadog_5,
    ELASTIC: _elastic,
}
