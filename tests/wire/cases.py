"""Spans that every codec must be able to say, and the byte vectors of Jaeger's Thrift: one table for many tests."""

from __future__ import annotations

from typing import Any

from autoinstr.model import Event, Kind, Link, Resource, SpanContext, SpanData, Status

TRACE_ID = 0x0123456789ABCDEF_FEDCBA9876543210
START_NS = 1_763_867_358_123_456_000

RESOURCE = Resource("shop", {"hostname": "h1", "process.pid": 42})


def route(method: str, name: str, code: int) -> dict[str, Any]:
    """What an instrument's ``describe`` looks like."""
    return {"http.request.method": method, "http.route": name, "http.response.status_code": code}


def refuse(text: str) -> dict[str, Any]:
    """A ``describe`` with a bug."""
    raise RuntimeError(text)


def span(name: str = "op", **changes: Any) -> SpanData:
    """A span with the given fields changed; ``facts`` and ``dropped`` may be among them."""
    facts, dropped = changes.pop("facts", ()), changes.pop("dropped", None)
    times = {"start_ns": START_NS, "end_ns": START_NS + 250_000}
    values: dict[str, Any] = {"trace_id": TRACE_ID, "span_id": 0xF00D, **times, **changes}
    made = SpanData(name, values.pop("trace_id"), values.pop("span_id"), values.pop("parent_id", 0), **values)
    made.facts = facts
    made.dropped = dropped
    return made


OTHER = SpanContext(0xABCDEF, 7)

#: What all formats carry unchanged.
COMMON: list[tuple[str, SpanData]] = [
    ("plain", span()),
    ("64-bit trace id", span(trace_id=0xFEDC)),
    ("low half zero", span(trace_id=1 << 64)),
    ("largest ids", span(trace_id=(1 << 128) - 1, span_id=(1 << 64) - 1, parent_id=(1 << 64) - 2, kind=Kind.SERVER)),
    ("ids at the sign", span(trace_id=1 << 127 | 1 << 63, span_id=1 << 63, parent_id=(1 << 63) - 1)),
    ("child", span(parent_id=5, kind=Kind.CLIENT, scope="requests")),
    ("unicode", span("Grüße 🎉", attributes={"ключ": "значение", "empty": ""})),
    ("error", span(status=Status.ERROR, status_message="it broke")),
    ("trace state", span(trace_state="a=1,b=2")),
    ("long text", span(attributes={"text": "x" * 5000})),
    ("many attributes", span(attributes={f"key{number}": str(number) for number in range(100)})),
    ("facts", span(kind=Kind.SERVER, facts=((route, "GET", "/a", 200),), attributes={"x": "y"})),
    ("events", span(events=[Event("first", START_NS + 1000), Event("second", START_NS + 2000, {"detail": "d"})])),
]

#: What Zipkin cannot say.
TYPED: list[tuple[str, SpanData]] = [
    ("types", span(attributes={"s": "v", "i": -3, "f": 1.5, "t": True, "n": False, "b": b"\0a"})),
    ("integers", span(attributes={"largest": 2**63 - 1, "smallest": -(2**63), "zero": 0})),
    ("one as int, bool, float", span(attributes={"a": 1, "b": True, "c": 1.0})),
    ("OK", span(status=Status.OK)),
    ("error without message", span(status=Status.ERROR)),
    ("zero length", span(end_ns=START_NS)),
    ("epoch", span(start_ns=0, end_ns=1000)),
    ("all kinds: unspecified", span(kind=Kind.UNSPECIFIED)),
    ("event without tags", span(kind=Kind.UNSPECIFIED, events=[Event("first", START_NS)])),
    ("dropped", span(dropped=(1, 2, 3))),
    ("follows from", span(parent_id=9, links=[Link(OTHER)])),
]

ALL = COMMON + TYPED

#: Messages made with Apache Thrift's own library.
M_COMPACT = bytes.fromhex(
    "82810109656d697442617463681c1c180373766300191c160216001604160018026f7025021680897a16f403000000"
)
M_COMPACT_BATCH = M_COMPACT[14:-1]
M_BINARY = bytes.fromhex(
    "8001000400000009656d69744261746368000000010c00010c00010b000100000003737663000f00020c000000010a000100000000000000010a"
    "000200000000000000000a000300000000000000020a000400000000000000000b0005000000026f70080007000000010a000800000000000f42"
    "400a000900000000000000fa000000"
)
M_BINARY_BATCH = bytes.fromhex(
    "0c00010b000100000003737663000f00020c000000010a000100000000000000010a000200000000000000000a000300000000000000020a0004"
    "00000000000000000b0005000000026f70080007000000010a000800000000000f42400a000900000000000000fa0000"
)
F_COMPACT = bytes.fromhex(
    "82810109656d697442617463681c1c180373766300191c160116001604160018026f7025021680897a16f403195c180173150018017600180164"
    "150227000000000000f83f00180162150431001801661504320018016c1506460500191c1682897a191c18056576656e74150018017800000000"
    "00"
)
R_COMPACT_BATCH = bytes.fromhex(
    "1c18017300191c16ffffffffffffffffff01160216feffffffffffffffff01160a1802c3a9191c15021602160016060015061600160000160e1c"
    "1602160416060000"
)


def normal(data: SpanData) -> dict[str, Any]:
    """Everything about a span in comparable form."""
    return {
        "name": data.name,
        "ids": (data.trace_id, data.span_id, data.parent_id),
        "kind": data.kind,
        "flags": data.flags,
        "times": (data.start_ns, data.end_ns),
        "attributes": {key: (type(value).__name__, value) for key, value in data.attributes.items()},
        "events": [(event.name, event.time_ns, dict(event.attributes)) for event in data.events or ()],
        "links": [(link.context.trace_id, link.context.span_id, link.child_of) for link in data.links],
        "status": (data.status, data.status_message),
        "scope": data.scope,
        "trace_state": data.trace_state,
        "dropped": data.dropped,
    }
