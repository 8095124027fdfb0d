"""OTLP in protobuf and JSON, with OpenTelemetry's own generated classes as judge."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

from autoinstr.model import DEBUG, RANDOM, SAMPLED, Event, Kind, Link, Resource, SpanContext, SpanData, Status
from autoinstr.wire import DecodeError, otlp, protobuf

from . import cases
from .strategies import scalars
from .strategies import spans as random_spans

FORMATS = [
    pytest.param(otlp.ProtobufEncoder, otlp.decode_protobuf, id="protobuf"),
    pytest.param(otlp.JsonEncoder, otlp.decode_json, id="json"),
]


def payload_of(encoder: Any, spans: list[SpanData]) -> bytes:
    [(payload, count)], bad = encoder.encode(spans)
    assert (count, bad) == (len(spans), 0)
    return payload


def parse(payload: bytes, encoder: Any) -> service.ExportTraceServiceRequest:
    """A payload as OpenTelemetry's own classes read it."""
    if isinstance(encoder, otlp.ProtobufEncoder):
        return service.ExportTraceServiceRequest.FromString(payload)
    document = json.loads(payload)
    for resource_spans in document["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                for message in (span, *span.get("links", [])):
                    for name in {"traceId", "spanId", "parentSpanId"} & message.keys():
                        # Proto3's JSON has base64 here; OTLP makes an exception for ids.
                        message[name] = base64.b64encode(bytes.fromhex(message[name])).decode()
    return json_format.ParseDict(document, service.ExportTraceServiceRequest())


def value_of(value: common.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: value_of(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def attributes_of(pairs: Any) -> dict[str, Any]:
    names = [pair.key for pair in pairs]
    assert len(set(names)) == len(names), "an attribute is there twice"
    return {pair.key: (type(value_of(pair.value)).__name__, value_of(pair.value)) for pair in pairs}


def normal_of(span: trace.Span, scope: str) -> dict[str, Any]:
    """A span as ``cases.normal`` has it, from OpenTelemetry's classes."""
    dropped = span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count
    return {
        "name": span.name,
        "ids": tuple(int.from_bytes(part, "big") for part in (span.trace_id, span.span_id, span.parent_span_id)),
        "kind": span.kind,
        "flags": span.flags & 0xFF,
        "times": (span.start_time_unix_nano, span.end_time_unix_nano),
        "attributes": attributes_of(span.attributes),
        "events": [
            (
                event.name,
                event.time_unix_nano,
                {key: value for key, (_, value) in attributes_of(event.attributes).items()},
            )
            for event in span.events
        ],
        "links": [
            (int.from_bytes(link.trace_id, "big"), int.from_bytes(link.span_id, "big"), False) for link in span.links
        ],
        "status": (span.status.code, span.status.message),
        "scope": "" if scope == "autoinstr" else scope.removeprefix("autoinstr."),
        "trace_state": span.trace_state,
        "dropped": dropped if any(dropped) else None,
    }


@pytest.mark.parametrize(("make", "decode"), FORMATS)
@pytest.mark.parametrize(("name", "span"), cases.ALL, ids=[name for name, _ in cases.ALL])
def test_opentelemetrys_classes_and_ours_read_what_we_write(make, decode, name: str, span: SpanData) -> None:
    """Collectors, or our own backend, would see other spans than the application made."""
    encoder = make(cases.RESOURCE, version="9.9")
    for _ in range(2):  # the second time from the caches
        payload = payload_of(encoder, [span])
        [resource_spans] = parse(payload, encoder).resource_spans
        assert attributes_of(resource_spans.resource.attributes) == {
            "service.name": ("str", "shop"),
            "hostname": ("str", "h1"),
            "process.pid": ("int", 42),
        }
        [scope_spans] = resource_spans.scope_spans
        assert scope_spans.scope.version == "9.9"
        [theirs] = scope_spans.spans
        assert normal_of(theirs, scope_spans.scope.name) == cases.normal(span)
        [batch] = decode(payload)
        assert [cases.normal(result) for result in batch.spans] == [cases.normal(span)]
        assert (batch.resource.service_name, batch.resource.attributes) == ("shop", cases.RESOURCE.attributes)


nested = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(random_spans(nested), min_size=1, max_size=10))
def test_round_trip_of_random_spans(spans: list[SpanData]) -> None:
    """As the test above, for whatever else an application may make."""
    for span in spans:
        span.scope = span.scope.replace("autoinstr", "")
        span.flags &= SAMPLED
        for link in span.links:
            link.child_of = False
    expected = sorted((cases.normal(span) for span in spans), key=repr)
    for encoder, decode in (
        (otlp.ProtobufEncoder(cases.RESOURCE), otlp.decode_protobuf),
        (otlp.JsonEncoder(cases.RESOURCE), otlp.decode_json),
    ):
        for _ in range(2):
            payload = payload_of(encoder, spans)
            [batch] = decode(payload)
            assert sorted((cases.normal(span) for span in batch.spans), key=repr) == expected
            groups = parse(payload, encoder).resource_spans[0].scope_spans
            theirs = [normal_of(span, group.scope.name) for group in groups for span in group.spans]
            assert len(theirs) == len(spans)


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_scopes(make, decode) -> None:
    """Nobody could tell which instrument made a span."""
    spans = [cases.span("a", scope="flask"), cases.span("b"), cases.span("c", scope="flask")]
    encoder = make(cases.RESOURCE)
    payload = payload_of(encoder, spans)
    groups = parse(payload, encoder).resource_spans[0].scope_spans
    assert [(group.scope.name, [span.name for span in group.spans]) for group in groups] == [
        ("autoinstr.flask", ["a", "c"]),
        ("autoinstr", ["b"]),
    ]
    assert {span.name: span.scope for span in decode(payload)[0].spans} == {"a": "flask", "b": "", "c": "flask"}


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_flags_tell_remote_parents(make, decode) -> None:
    """Backends could not tell entry spans from inner ones."""
    spans = [
        cases.span("in", parent_id=1, parent_is_remote=True),
        cases.span("own", parent_id=1, flags=SAMPLED | DEBUG),
    ]
    spans[1].links = [Link(SpanContext(5, 6, SAMPLED, "x=y", is_remote=True), {"why": "batch"})]
    encoder = make(cases.RESOURCE)
    payload = payload_of(encoder, spans)
    theirs = parse(payload, encoder).resource_spans[0].scope_spans[0].spans
    assert [span.flags for span in theirs] == [0x301, 0x101]
    assert (theirs[1].links[0].flags, theirs[1].links[0].trace_state) == (0x301, "x=y")
    one, two = decode(payload)[0].spans
    assert (one.parent_is_remote, two.parent_is_remote, two.flags) == (True, False, SAMPLED)
    [link] = two.links
    assert (link.context.is_remote, link.context.flags, link.context.trace_state) == (True, SAMPLED, "x=y")
    assert link.attributes == {"why": "batch"}


def test_every_length_of_a_span() -> None:
    """Spans of just the length at which its own length takes another byte would spoil their batch."""
    spans = [cases.span("n" * length) for length in (*range(20, 140), *range(900, 1100))]
    encoder = otlp.ProtobufEncoder(cases.RESOURCE)
    theirs = parse(payload_of(encoder, spans), encoder).resource_spans[0].scope_spans[0].spans
    assert [span.name for span in theirs] == [span.name for span in spans]


def test_status_is_said_once() -> None:
    """Receivers that do not join the parts of a message would lose the code or its message."""
    payload = payload_of(
        otlp.ProtobufEncoder(cases.RESOURCE), [cases.span(status=Status.ERROR, status_message="it broke")]
    )
    message = payload
    for field in (1, 2, 2):
        [message] = protobuf.fields(message)[field << 3 | protobuf.LENGTH]
    assert protobuf.fields(message)[15 << 3 | protobuf.LENGTH] == [b"\x12\x08it broke\x18\x02"]


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_own_attributes_win_over_facts(make, decode) -> None:
    """A user could not correct what an instrument says, or an attribute would be there twice, which OTLP forbids."""
    facts = ((cases.refuse, "no"), (dict, [("listed", 1)]), (cases.route, "GET", "/a", 200))
    span = cases.span(facts=facts, attributes={"http.route": "/mine", "x": 1})
    encoder = make(cases.RESOURCE)
    [theirs] = parse(payload_of(encoder, [span]), encoder).resource_spans[0].scope_spans[0].spans
    assert {key: value for key, (_, value) in attributes_of(theirs.attributes).items()} == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/mine",
        "listed": 1,
        "x": 1,
    }


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_kinds_of_one_do_not_mix(make, decode) -> None:
    """A cached ``1`` would be sent for ``True``, since they are equal."""
    encoder = make(cases.RESOURCE)
    for value in (1, True, 1.0, "1", 0, False, 0.0):
        [span] = decode(payload_of(encoder, [cases.span(attributes={"k": value})]))[0].spans
        assert cases.normal(span)["attributes"] == {"k": (type(value).__name__, value)}


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_values_of_other_types(make, decode) -> None:
    """Attributes of unusual types would lose the span, or raise."""
    own: dict[str, Any] = {
        "none": None,
        "huge": 1 << 70,
        "surrogate": "a\udc80",
        "inf": float("-inf"),
        "odd": object,
        "nested": {"a": [1, {"b": b"\xff"}], "é\ud800": None},
    }
    own["self"] = [1]
    own["self"].append(own["self"])
    encoder = make(cases.RESOURCE)
    payload = payload_of(encoder, [cases.span(attributes=own)])
    parse(payload, encoder)
    result = decode(payload)[0].spans[0].own
    assert result.pop("self")[1][1][0] == 1
    assert result == {
        "huge": str(1 << 70),
        "surrogate": "a?",
        "inf": float("-inf"),
        "odd": "<class 'object'>",
        "nested": {"a": [1, {"b": b"\xff"}], "é?": None},
    }


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_nan(make, decode) -> None:
    """JSON without a word for it would be refused as a whole."""
    encoder = make(cases.RESOURCE)
    payload = payload_of(encoder, [cases.span(attributes={"k": float("nan")})])
    parse(payload, encoder)
    value = decode(payload)[0].spans[0].own["k"]
    assert math.isnan(value)


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_long_values_are_cut(make, decode) -> None:
    """``OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`` would have no effect."""
    encoder = make(cases.RESOURCE, max_value_length=5)
    span = cases.span(
        attributes={"text": "é" * 10, "list": ["a" * 10]}, events=[Event("long name", 5, {"k": "b" * 10})]
    )
    [result] = decode(payload_of(encoder, [span]))[0].spans
    assert result.own == {"text": "é" * 5, "list": ["a" * 5]}
    assert cases.normal(result)["events"] == [("long name", 5, {"k": "b" * 5})]


@pytest.mark.parametrize(("make", "decode"), FORMATS)
@pytest.mark.parametrize(
    ("field", "value"),
    [("trace_id", 1 << 130), ("span_id", 1 << 64), ("end_ns", None), ("own", 5), ("events", [None]), ("scope", [])],
)
def test_bad_span_is_counted_and_others_go(make, decode, field: str, value: Any) -> None:
    """One broken span would lose its batch, or kill the worker."""
    broken = cases.span()
    setattr(broken, field, value)
    payloads, bad = make(cases.RESOURCE).encode([cases.span(), broken, cases.span()])
    assert ([count for _, count in payloads], bad) == ([2], 1)
    assert len(decode(payloads[0][0])[0].spans) == 2


@pytest.mark.parametrize(("make", "decode"), FORMATS)
def test_no_spans_no_payload(make, decode) -> None:
    """Empty requests would be sent."""
    assert make(cases.RESOURCE).encode([]) == ([], 0)


@pytest.mark.parametrize("rejected", [0, 1, 300])
def test_partial_success(rejected: int) -> None:
    """Spans that a collector refused would be counted as delivered."""
    response = service.ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = "too many"
    assert otlp.ProtobufEncoder(cases.RESOURCE).rejected(response.SerializeToString()) == rejected
    document = json_format.MessageToJson(response).encode()
    assert otlp.JsonEncoder(cases.RESOURCE).rejected(document) == rejected


@pytest.mark.parametrize(
    "response", [b"", b"{}", b"\xff\xff", b"[]", b"<html>", b'{"partialSuccess":{"rejectedSpans":"x"}}']
)
def test_unreadable_answers_mean_success(response: bytes) -> None:
    """A proxy's odd answer would stop the worker."""
    assert otlp.ProtobufEncoder(cases.RESOURCE).rejected(response) == 0
    assert otlp.JsonEncoder(cases.RESOURCE).rejected(response) == 0


def test_decodes_all_of_others_requests() -> None:
    """Spans of OpenTelemetry's SDKs, several resources in a request, would be lost or mixed up."""
    request = service.ExportTraceServiceRequest()
    for name in ("one", "two"):
        resource_spans = request.resource_spans.add()
        pair = resource_spans.resource.attributes.add()
        pair.key, pair.value.string_value = "service.name", name
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "opentelemetry.instrumentation.flask"
        span = scope_spans.spans.add()
        span.trace_id, span.span_id, span.name, span.kind = b"\1" * 16, b"\2" * 8, "op", 99
    request.resource_spans.add().scope_spans.add().spans.add().name = "no service"
    batches = otlp.decode_protobuf(request.SerializeToString())
    assert [batch.resource.service_name for batch in batches] == ["one", "two", "unknown_service"]
    [span] = batches[1].spans
    assert (span.scope, span.kind) == ("opentelemetry.instrumentation.flask", Kind.UNSPECIFIED)
    assert span.flags == SAMPLED, "a sender that does not fill the flags sends only what is sampled"
    assert (span.trace_id, span.span_id) == (int("01" * 16, 16), int("02" * 8, 16))


def test_decodes_the_json_of_the_specification() -> None:
    """Senders that write ids in capitals, numbers as numbers, or members unknown to us, would be refused."""
    [batch] = otlp.decode_json(
        b"""{"resourceSpans": [{"resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": "my.service"}}]},
          "scopeSpans": [{"scope": {"name": "my.library", "version": "1.0.0", "attributes": []}, "spans": [{
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174",
            "parentSpanId": "EEE19B7EC3C1B173", "name": "I'm a server span", "kind": 2, "new": {"x": 1},
            "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": 1544712661000000000,
            "attributes": [{"key": "n", "value": {"intValue": 5}}, {"key": "m", "value": {"intValue": "-5"}}],
            "status": null}]}]}]}"""
    )
    [span] = batch.spans
    assert batch.resource.service_name == "my.service"
    assert (span.trace_id, span.span_id) == (0x5B8EFFF798038103D269B633813FC60C, 0xEEE19B7EC3C1B174)
    assert (span.parent_id, span.kind, span.scope) == (0xEEE19B7EC3C1B173, Kind.SERVER, "my.library")
    assert (span.start_ns, span.end_ns) == (1544712660000000000, 1544712661000000000)
    assert (span.own, span.status) == ({"n": 5, "m": -5}, Status.UNSET)


SPAN = b'{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}'


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"resourceSpans":{}}'),
        *(b'{"resourceSpans":[1]}', SPAN % b"1", SPAN % b'{"traceId":"xyz"}', SPAN % b'{"traceId":5}'),
        *(SPAN % b'{"spanId":"0x1234567890abcd"}', SPAN % b'{"spanId":" 123456789012345"}', SPAN % b'{"name":1}'),
        *(
            SPAN % b'{"startTimeUnixNano":-1}',
            SPAN % b'{"startTimeUnixNano":"1e3"}',
            SPAN % b'{"endTimeUnixNano":1e30}',
        ),
        SPAN % b'{"startTimeUnixNano":%d}' % (1 << 64),
        SPAN % b'{"startTimeUnixNano":NaN}',
        SPAN % b'{"startTimeUnixNano":%s}' % (b"9" * 5000),
        SPAN % b'{"attributes":[{"key":"k","value":{"intValue":"1_0"}}]}',
        SPAN % b'{"attributes":[{"key":"k","value":{"boolValue":"yes"}}]}',
        SPAN % b'{"attributes":[{"key":"k","value":{"bytesValue":"*"}}]}',
        SPAN % b'{"attributes":[{"key":"k","value":{"doubleValue":true}}]}',
        SPAN % b'{"attributes":[{"key":"k","value":%s1%s}]}' % (b'{"arrayValue":{"values":[' * 50, b"]}}" * 50),
    ],
)
def test_refuses_json_that_is_no_request(data: bytes) -> None:
    """A receiver would fall over, or store nonsense."""
    with pytest.raises(DecodeError):
        otlp.decode_json(data)


@pytest.mark.parametrize("text", ["+/8=", "-_8=", "+/8"])
def test_base64_in_any_of_its_forms(text: str) -> None:
    """Bytes that a sender writes as proto3's JSON allows would be refused."""
    attribute = json.dumps({"key": "k", "value": {"bytesValue": text}}).encode()
    [batch] = otlp.decode_json(SPAN % b'{"attributes":[%s]}' % attribute)
    assert batch.spans[0].own == {"k": b"\xfb\xff"}


def nested_value(depth: int) -> bytes:
    value = common.AnyValue(string_value="x")
    for _ in range(depth):
        value = common.AnyValue(array_value=common.ArrayValue(values=[value]))
    span = trace.Span(attributes=[common.KeyValue(key="k", value=value)])
    spans = trace.ResourceSpans(scope_spans=[trace.ScopeSpans(spans=[span])])
    return service.ExportTraceServiceRequest(resource_spans=[spans]).SerializeToString()


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05", b"\xff" * 11, b"\x0b", b"\x00\x00", b"\x0a\x02\x12\x7f", nested_value(20)]
)
def test_refuses_bytes_that_are_no_request(data: bytes) -> None:
    """A receiver would fall over, or store nonsense."""
    with pytest.raises(DecodeError):
        otlp.decode_protobuf(data)
    assert otlp.decode_protobuf(nested_value(8))


def test_empty_request_is_success() -> None:
    """Exporters that check their connection with an empty request would see an error."""
    assert otlp.decode_protobuf(b"") == []
    assert otlp.decode_json(b"{}") == []


def test_service_without_name() -> None:
    """A resource whose name is no text would break the receiver."""
    [batch] = otlp.decode_json(
        b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"intValue":"5"}}]}}]}'
    )
    assert batch.resource.service_name == "5"
    assert payload_of(otlp.ProtobufEncoder(Resource("")), [cases.span()])


@pytest.mark.parametrize(("make", "decode"), FORMATS)
@pytest.mark.parametrize("flags", [SAMPLED, SAMPLED | RANDOM, RANDOM])
def test_random_flag_is_not_the_debug_flag(make, decode, flags) -> None:
    """Every trace of an SDK that sets W3C's second flag would look forced, and pass by all sampling."""
    link = Link(SpanContext(7, 8, flags))
    [(payload, _)], _ = make(cases.RESOURCE).encode([cases.span(flags=flags, links=(link,))])
    [batch] = decode(payload)
    assert (batch.spans[0].flags, batch.spans[0].links[0].context.flags) == (flags, flags)
