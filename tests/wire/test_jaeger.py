"""Jaeger's Thrift: byte vectors, the classes of Jaeger's own Python client as judge, and the splitting of batches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaeger_client.thrift_gen.agent import Agent
from jaeger_client.thrift_gen.jaeger import ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer

from autoinstr.model import Event, Kind, Link, Resource, SpanContext, SpanData, Status
from autoinstr.wire import DecodeError, jaeger, opentracing

from . import cases
from .strategies import spans as random_spans

ALIASES = {*opentracing.ALIASES.values(), *opentracing.CLIENT_ALIASES.values()}

ENCODERS = [
    pytest.param(jaeger.CompactEncoder, jaeger.decode_message, id="compact"),
    pytest.param(jaeger.BinaryEncoder, jaeger.decode_batch, id="binary"),
]


def encode_one(encoder: Any, span: SpanData) -> bytes:
    """The only payload of a single span, without number and counts."""
    [(payload, count)], bad = encoder.encode([span], None)
    assert (count, bad) == (1, 0)
    return payload


def tags_on_wire(span: SpanData) -> dict[str, Any]:
    """The tags of a span as Jaeger's own client reads them."""
    args = Agent.emitBatch_args()
    protocol = TCompactProtocol(TMemoryBuffer(encode_one(jaeger.CompactEncoder(cases.RESOURCE), span)))
    protocol.readMessageBegin()
    args.read(protocol)
    values = ("vStr", "vDouble", "vBool", "vLong", "vBinary")
    pairs = [(tag.key, getattr(tag, values[tag.vType])) for tag in args.batch.spans[0].tags or []]
    assert len(dict(pairs)) == len(pairs), "a tag is there twice"
    return dict(pairs)


# Vectors


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (jaeger.decode_message, cases.M_COMPACT),
        (jaeger.decode_message, cases.M_COMPACT[:1] + b"\x21" + cases.M_COMPACT[2:]),  # CALL, as Go has it
        (jaeger.decode_message, cases.M_BINARY),
        (jaeger.decode_message, b"\0\0\0\x09emitBatch\x04\0\0\0\1" + cases.M_BINARY[21:]),  # not strict
        (jaeger.decode_batch, cases.M_BINARY_BATCH),
        (jaeger.decode_compact_batch, cases.M_COMPACT_BATCH),
    ],
)
def test_decodes_the_smallest_batch(decode, data: bytes) -> None:
    """Some Jaeger client's spans would not be received."""
    batch = decode(data)
    assert (batch.resource.service_name, batch.resource.attributes) == ("svc", {})
    assert (batch.sequence, batch.lost) == (None, None)
    expected = cases.span("op", trace_id=1, span_id=2, start_ns=10**9, end_ns=10**9 + 250_000, kind=Kind.UNSPECIFIED)
    assert [cases.normal(span) for span in batch.spans] == [cases.normal(expected)]


def test_decodes_tags_and_logs() -> None:
    """Tags of some type, or logs, would be lost."""
    [span] = jaeger.decode_message(cases.F_COMPACT).spans
    assert span.trace_id == (1 << 64) - 1
    assert cases.normal(span)["attributes"] == {
        "s": ("str", "v"),
        "d": ("float", 1.5),
        "b": ("bool", True),
        "f": ("bool", False),
        "l": ("int", -3),
    }
    assert cases.normal(span)["events"] == [("x", 1_000_001_000, {})]


def test_decodes_references_numbers_and_counts() -> None:
    """Links and what a client says about its losses would be lost."""
    batch = jaeger.decode_compact_batch(cases.R_COMPACT_BATCH)
    assert (batch.sequence, batch.lost) == (7, (1, 2, 3))
    [span] = batch.spans
    assert (span.trace_id, span.span_id, span.parent_id) == (1 << 64 | 1 << 63, (1 << 63) - 1, 5)
    assert (span.name, span.flags) == ("é", 3)
    assert cases.normal(span)["links"] == [(1, 3, False)]


def test_encodes_the_vectors() -> None:
    """Our bytes would not be what Thrift's own library writes."""
    resource = Resource("svc")
    span = cases.span("op", trace_id=1, span_id=2, start_ns=10**9, end_ns=10**9 + 250_000, kind=Kind.UNSPECIFIED)
    assert encode_one(jaeger.CompactEncoder(resource), span) == cases.M_COMPACT
    assert encode_one(jaeger.BinaryEncoder(resource), span) == cases.M_BINARY_BATCH
    [full] = jaeger.decode_message(cases.F_COMPACT).spans
    assert encode_one(jaeger.CompactEncoder(resource), full) == cases.F_COMPACT


def test_encodes_number_and_counts() -> None:
    """Jaeger could not tell that spans were lost on their way."""
    [span] = jaeger.decode_compact_batch(cases.R_COMPACT_BATCH).spans
    encoder = jaeger.CompactEncoder(Resource("s"))
    for _ in range(6):
        encoder.encode([span])
    [(payload, _)], _ = encoder.encode([span], (1, 2, 3))
    assert payload == b"\x82\x81\x07\x09emitBatch\x1c" + cases.R_COMPACT_BATCH + b"\0"


# Jaeger's own client as judge


@pytest.mark.parametrize(("name", "span"), cases.ALL, ids=[name for name, _ in cases.ALL])
def test_bytes_are_canonical(name: str, span: SpanData) -> None:
    """Jaeger's own client reads our payload, and writes what it read: any difference would be a liberty of ours."""
    payload = encode_one(jaeger.CompactEncoder(cases.RESOURCE), span)
    args = Agent.emitBatch_args()
    reader = TCompactProtocol(TMemoryBuffer(payload))
    header = reader.readMessageBegin()
    args.read(reader)
    buffer = TMemoryBuffer()
    writer = TCompactProtocol(buffer)
    writer.writeMessageBegin(*header)
    args.write(writer)
    assert buffer.getvalue() == payload

    payload = encode_one(jaeger.BinaryEncoder(cases.RESOURCE), span)
    batch = ttypes.Batch()
    batch.read(TBinaryProtocol(TMemoryBuffer(payload)))
    buffer = TMemoryBuffer()
    batch.write(TBinaryProtocol(buffer))
    assert buffer.getvalue() == payload


@pytest.mark.parametrize("number_of_tags", [0, 1, 14, 15, 63, 64, 200])
def test_lengths_of_tag_lists(number_of_tags: int) -> None:
    """Spans with as many tags as make the list header longer would be unreadable."""
    span = cases.span(kind=Kind.UNSPECIFIED, attributes={f"k{number}": "v" for number in range(number_of_tags)})
    assert tags_on_wire(span) == (span.own or {})


@pytest.mark.parametrize(("encoder", "decode"), ENCODERS)
@pytest.mark.parametrize(("name", "span"), cases.ALL, ids=[name for name, _ in cases.ALL])
def test_round_trip(encoder, decode, name: str, span: SpanData) -> None:
    """Our own backend would show other spans than the application made."""
    for payload in (encode_one(encoder(cases.RESOURCE), span), encode_one(encoder(cases.RESOURCE), span)):
        batch = decode(payload)
        [result] = batch.spans
        result.own = {key: value for key, value in (result.own or {}).items() if key not in ALIASES}
        assert cases.normal(result) == cases.normal(span)
        assert (batch.resource.service_name, batch.resource.attributes) == ("shop", cases.RESOURCE.attributes)


@settings(max_examples=50, deadline=None)
@given(st.lists(random_spans(), min_size=1, max_size=20))
def test_round_trip_of_random_spans(spans: list[SpanData]) -> None:
    """As ``test_round_trip``, for whatever else an application may make; and twice, from the caches."""
    for encoder, decode in (
        (jaeger.CompactEncoder, jaeger.decode_message),
        (jaeger.BinaryEncoder, jaeger.decode_batch),
    ):
        instance = encoder(cases.RESOURCE)
        for sequence in (1, 2):
            [(payload, count)], bad = instance.encode(spans, (4, 5, 6))
            batch = decode(payload)
            assert (count, bad, batch.sequence, batch.lost) == (len(spans), 0, sequence, (4, 5, 6))
            assert [cases.normal(span) for span in batch.spans] == [cases.normal(_expected(span)) for span in spans]


def _expected(span: SpanData) -> SpanData:
    parent = span.trace_id, span.parent_id
    links = [
        link for link in span.links if not link.child_of or (link.context.trace_id, link.context.span_id) != parent
    ]
    expected = copy.copy(span)
    expected.links = links
    return expected


def test_many_spans_in_many_chunks() -> None:
    """Spans of a busy service would be mixed up at the seams between chunks."""
    spans = [
        cases.span(f"op{number % 7}", span_id=number * 0x1234567 + 1, parent_id=number % 3) for number in range(500)
    ]
    payloads, bad = jaeger.CompactEncoder(cases.RESOURCE, 3000).encode(spans)
    decoded = [span for payload, _ in payloads for span in jaeger.decode_message(payload).spans]
    assert bad == 0
    assert [cases.normal(span) for span in decoded] == [cases.normal(span) for span in spans]


# Splitting into datagrams


def sizes(encoder: jaeger.CompactEncoder, spans: list[SpanData]) -> tuple[list[tuple[int, int]], int]:
    payloads, bad = encoder.encode(spans)
    for payload, count in payloads:
        assert len(jaeger.decode_message(payload).spans) == count
    return [(len(payload), count) for payload, count in payloads], bad


@pytest.mark.parametrize("count", [1, 2, 14, 15, 16, 127, 128])
def test_splits_at_the_exact_byte(count: int) -> None:
    """A datagram one byte too long would be lost as a whole; too short ones would cost time."""
    spans = [cases.span() for _ in range(count)]
    [(whole, _)], _ = sizes(jaeger.CompactEncoder(cases.RESOURCE), spans)
    assert sizes(jaeger.CompactEncoder(cases.RESOURCE, whole), spans) == ([(whole, count)], 0)
    parts, bad = sizes(jaeger.CompactEncoder(cases.RESOURCE, whole - 1), spans)
    if count == 1:
        assert (parts, bad) == ([], 1)
    else:
        assert [part for _, part in parts] == [count - 1, 1]
        assert bad == 0


def test_too_large_span_is_counted_and_others_go() -> None:
    """One huge span would take its whole batch with it."""
    spans = [cases.span("a"), cases.span("b" * 2000), cases.span("c")]
    payloads, bad = jaeger.CompactEncoder(cases.RESOURCE, 1000).encode(spans)
    names = [[span.name for span in jaeger.decode_message(payload).spans] for payload, _ in payloads]
    assert (names, bad) == ([["a"], ["c"]], 1)
    assert [jaeger.decode_message(payload).sequence for payload, _ in payloads] == [1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(0, 400), max_size=60), st.integers(150, 1200))
def test_no_datagram_is_too_long_and_no_span_is_lost(lengths: list[int], max_bytes: int) -> None:
    """Spans would be lost without being counted."""
    spans = [cases.span("n" * length, span_id=number + 1) for number, length in enumerate(lengths)]
    payloads, bad = jaeger.CompactEncoder(Resource("s"), max_bytes).encode(spans)
    assert all(len(payload) <= max_bytes for payload, _ in payloads)
    decoded = [span.span_id for payload, _ in payloads for span in jaeger.decode_message(payload).spans]
    assert len(decoded) + bad == len(spans)
    assert decoded == sorted(decoded)


def test_process_that_is_too_large_loses_spans_but_does_not_raise() -> None:
    """An application with huge resource attributes would make the worker loop or die."""
    encoder = jaeger.CompactEncoder(Resource("s", {"text": "x" * 2000}), 1000)
    assert encoder.encode([cases.span(), cases.span()]) == ([], 2)


# Facts, names and values


def test_facts_give_the_same_bytes_as_attributes() -> None:
    """What an instrument knows would look different from what the user sets."""
    facts = cases.span(facts=((cases.route, "GET", "/a", 200),), kind=Kind.SERVER)
    plain = cases.span(attributes=cases.route("GET", "/a", 200), kind=Kind.SERVER)
    encoders = jaeger.CompactEncoder(cases.RESOURCE), jaeger.BinaryEncoder(cases.RESOURCE)
    for encoder in encoders:
        for _ in range(2):  # the second time from the caches
            [[(one, _)], [(two, _)]] = [encoder.encode([span], None)[0] for span in (facts, plain)]
            assert sorted(one[4:]) == sorted(two[4:])
    assert tags_on_wire(facts) == tags_on_wire(plain)


def test_own_attributes_win_over_facts() -> None:
    """A user could not correct what an instrument says."""
    facts = ((cases.route, "GET", "/a", 200),)
    span = cases.span(facts=facts, attributes={"http.route": "/mine", "http.response.status_code": 201, "x": "y"})
    assert tags_on_wire(span) == {
        "span.kind": "internal",
        "http.request.method": "GET",
        "http.method": "GET",
        "http.route": "/mine",
        "http.response.status_code": 201,
        "http.status_code": 201,
        "x": "y",
    }


def test_bad_facts_do_not_cost_the_span() -> None:
    """A bug in one instrument, or an argument without a hash, would lose spans."""
    facts = ((cases.refuse, "no"), (dict, [("listed", 1)]), (cases.route, "GET", "/a", 200))
    assert tags_on_wire(cases.span(facts=facts, kind=Kind.UNSPECIFIED)) == {
        **cases.route("GET", "/a", 200),
        "listed": 1,
        "http.method": "GET",
        "http.status_code": 200,
    }


def test_names_that_jaegers_users_search_by() -> None:
    """Searches for ``http.method`` and the like, saved for years, would find nothing any more."""
    attributes = {"server.address": "example.org", "server.port": 80, "url.full": "http://example.org/"}
    client = tags_on_wire(cases.span(kind=Kind.CLIENT, attributes={**attributes, "network.peer.address": "192.0.2.1"}))
    assert client["peer.hostname"] == "example.org"
    assert (client["peer.port"], client["http.url"], client["peer.ipv4"]) == (80, "http://example.org/", "192.0.2.1")
    server = tags_on_wire(cases.span(kind=Kind.SERVER, attributes={**attributes, "network.peer.address": "192.0.2.1"}))
    assert not [name for name in server if name.startswith("peer.")]
    assert "peer.ipv4" not in tags_on_wire(cases.span(kind=Kind.CLIENT, attributes={"network.peer.address": "::1"}))


def test_alias_that_is_there_already_stays() -> None:
    """A tag that the user set would be there twice, with two values."""
    span = cases.span(facts=((cases.route, "GET", "/a", 200),), attributes={"http.method": "mine"})
    assert tags_on_wire(span)["http.method"] == "mine"


def test_kinds_of_one_do_not_mix() -> None:
    """A cached ``1`` would be sent for ``True``, since they are equal."""
    encoder = jaeger.CompactEncoder(cases.RESOURCE)
    for value in (1, True, 1.0, "1", 0, False, 0.0):
        [span] = jaeger.decode_message(encode_one(encoder, cases.span(attributes={"k": value}))).spans
        assert cases.normal(span)["attributes"] == {"k": (type(value).__name__, value)}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_values_of_other_types() -> None:
    """Attributes of unusual types would lose the span, or raise."""
    own: dict[str, Any] = {
        "list": ["a", 1, None],
        "dict": {"a": [1.5]},
        "none": None,
        "huge": 1 << 70,
        "odd": Unprintable(),
        "surrogate": "a\udc80",
        "nan": [float("nan")],
        "bytes": bytearray(b"x"),
    }
    own["self"] = [own["list"]]
    own["self"].append(own["self"])
    tags = tags_on_wire(cases.span(attributes=own, kind=Kind.UNSPECIFIED))
    assert tags.pop("self").startswith('[["a",1,null],[["a",1,null],')
    assert tags == {
        "list": '["a",1,null]',
        "dict": '{"a":[1.5]}',
        "huge": str(1 << 70),
        "odd": "<unprintable Unprintable>",
        "surrogate": "a?",
        "nan": '["NaN"]',
        "bytes": "x",
    }


def test_long_values_are_cut() -> None:
    """``OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`` and its like would have no effect."""
    encoder = jaeger.CompactEncoder(cases.RESOURCE, max_value_length=5)
    span = cases.span(attributes={"text": "é" * 10, "bytes": b"x" * 10, "list": ["a" * 10]}, scope="longer than five")
    [result] = jaeger.decode_message(encode_one(encoder, span)).spans
    assert result.own == {"text": "é" * 5, "bytes": b"x" * 5, "list": '["aaaaa"]'}
    assert (result.kind, result.scope) == (Kind.INTERNAL, "longer than five")


@pytest.mark.parametrize("encoder", [jaeger.CompactEncoder, jaeger.BinaryEncoder])
@pytest.mark.parametrize(
    ("field", "value"), [("trace_id", 1 << 130), ("span_id", -1), ("end_ns", None), ("kind", 99), ("own", 5)]
)
def test_bad_span_is_counted_and_others_go(encoder, field: str, value: Any) -> None:
    """One broken span would lose its batch, or kill the worker."""
    broken = cases.span()
    setattr(broken, field, value)
    payloads, bad = encoder(cases.RESOURCE).encode([cases.span(), broken, cases.span()])
    assert ([count for _, count in payloads], bad) == ([2], 1)


def test_end_before_start_is_zero_length() -> None:
    """A clock that was set back would lose spans."""
    for encoder, decode in (
        (jaeger.CompactEncoder, jaeger.decode_message),
        (jaeger.BinaryEncoder, jaeger.decode_batch),
    ):
        span = cases.span(end_ns=cases.START_NS - 10**9)
        [result] = decode(encode_one(encoder(cases.RESOURCE), span)).spans
        assert (result.start_ns, result.end_ns) == (cases.START_NS, cases.START_NS)


def test_no_spans_no_payload() -> None:
    """Empty datagrams would be sent."""
    assert jaeger.CompactEncoder(cases.RESOURCE).encode([]) == ([], 0)
    assert jaeger.BinaryEncoder(cases.RESOURCE).encode([]) == ([], 0)


def test_memory_is_bounded() -> None:
    """An attribute that never repeats would fill the memory of the service."""
    import tracemalloc

    encoder = jaeger.CompactEncoder(cases.RESOURCE)
    spans = [cases.span(attributes={"id": f"{number:0100d}"}) for number in range(1000)]
    tracemalloc.start()
    try:
        for batch in range(20):
            for span in spans:
                span.own = {"id": f"{batch}{span.own['id'] if span.own else ''}"[:120]}
            encoder.encode(spans)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3_000_000


# Decoding what others send


def thrift_span(**changes: Any) -> ttypes.Span:
    values: dict[str, Any] = {"traceIdLow": 1, "traceIdHigh": 0, "spanId": 2, "parentSpanId": 0, "operationName": "op"}
    values.update({"flags": 1, "startTime": 5, "duration": 6, **changes})
    return ttypes.Span(**values)


def decode_theirs(span: ttypes.Span) -> SpanData:
    """Through bytes that Jaeger's own client writes."""
    buffer = TMemoryBuffer()
    batch = ttypes.Batch(process=ttypes.Process(serviceName="s", tags=[]), spans=[span])
    batch.write(TBinaryProtocol(buffer))
    [result] = jaeger.decode_batch(buffer.getvalue()).spans
    return result


def reference(kind: int, low: int, span_id: int) -> ttypes.SpanRef:
    return ttypes.SpanRef(refType=kind, traceIdLow=low, traceIdHigh=0, spanId=span_id)


@pytest.mark.parametrize(
    ("parent", "references", "expected", "links"),
    [
        (9, [(0, 1, 9)], 9, []),  # Go repeats the parent
        (9, [(1, 1, 3)], 9, [(1, 3, False)]),
        (0, [(1, 1, 3), (0, 1, 4)], 4, [(1, 3, False)]),
        (0, [(1, 1, 3), (1, 1, 4)], 3, [(1, 3, False), (1, 4, False)]),
        (0, [(0, 8, 3)], 0, [(8, 3, True)]),  # of another trace
        (0, [], 0, []),
    ],
)
def test_parent_as_jaegers_collector_finds_it(parent, references, expected, links) -> None:
    """Traces of clients that say the parent by a reference would fall to pieces."""
    span = decode_theirs(thrift_span(parentSpanId=parent, references=[reference(*item) for item in references]))
    assert span.parent_id == expected
    assert cases.normal(span)["links"] == links


def test_status_and_kind_of_other_clients() -> None:
    """Errors of OpenTracing clients would not be seen as such."""
    tags = [
        ttypes.Tag(key="span.kind", vType=0, vStr="server"),
        ttypes.Tag(key="error", vType=2, vBool=True),
        ttypes.Tag(key="component", vType=0, vStr="net/http"),
        ttypes.Tag(key="http.method", vType=0, vStr="GET"),
    ]
    span = decode_theirs(thrift_span(tags=tags))
    assert (span.kind, span.status, span.scope, span.own) == (
        Kind.SERVER,
        Status.ERROR,
        "net/http",
        {"http.method": "GET"},
    )
    span = decode_theirs(thrift_span(tags=[ttypes.Tag(key="error", vType=2, vBool=False)]))
    assert (span.status, span.own) == (Status.UNSET, {"error": False})


def test_log_without_event_name() -> None:
    """Logs of clients that do not say ``event`` would be lost or renamed."""
    log = ttypes.Log(timestamp=7, fields=[ttypes.Tag(key="message", vType=0, vStr="hi")])
    span = decode_theirs(thrift_span(logs=[log]))
    assert cases.normal(span)["events"] == [("", 7000, {"message": "hi"})]


def test_links_are_references() -> None:
    """Jaeger would not show what a span follows from, or of which further spans it is a child."""
    links = [Link(SpanContext(8, 9)), Link(SpanContext(10, 11), child_of=True)]
    [span] = jaeger.decode_message(
        encode_one(jaeger.CompactEncoder(cases.RESOURCE), cases.span(parent_id=3, links=links, attributes={"a": "b"}))
    ).spans
    assert cases.normal(span)["links"] == [(8, 9, False), (10, 11, True)]
    assert (span.parent_id, span.own) == (3, {"a": "b"})


def test_event_attribute_called_event() -> None:
    """The event's name would be replaced by an attribute."""
    span = cases.span(events=[Event("name", cases.START_NS, {"event": "attribute"})])
    [result] = jaeger.decode_message(encode_one(jaeger.CompactEncoder(cases.RESOURCE), span)).spans
    assert cases.normal(result)["events"] == cases.normal(span)["events"]


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (jaeger.decode_message, b""),
        (jaeger.decode_message, cases.M_COMPACT.replace(b"emitBatch", b"emitWrong")),
        (jaeger.decode_message, b"\x82\x82" + cases.M_COMPACT[2:]),
        (jaeger.decode_message, b"\x80\x02" + cases.M_BINARY[2:]),
        (jaeger.decode_batch, b"\0"),
        (jaeger.decode_compact_batch, cases.M_COMPACT_BATCH.replace(b"\x02op", b"\x02o")),
    ],
)
def test_refuses_what_is_no_batch(decode, data: bytes) -> None:
    """A receiver would fall over, or make up spans."""
    with pytest.raises(DecodeError):
        decode(data)
