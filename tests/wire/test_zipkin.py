"""Zipkin's v2 JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoinstr.model import DEBUG, SAMPLED, Kind, Resource, SpanData, Status
from autoinstr.wire import DecodeError, zipkin

from . import cases
from .strategies import spans as random_spans

NO_RESOURCE = Resource("shop")


def documents(spans: list[SpanData], resource: Resource = NO_RESOURCE, **options: Any) -> list[dict[str, Any]]:
    [(payload, count)], bad = zipkin.JsonEncoder(resource, **options).encode(spans)
    assert (count, bad) == (len(spans), 0)
    result = json.loads(payload)
    assert isinstance(result, list)
    return result


def test_a_span_as_zipkin_has_it() -> None:
    """Zipkin would refuse our spans, or show them wrongly."""
    attributes = {
        "n": 1,
        "yes": True,
        "peer.service": "db",
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 5432,
    }
    span = cases.span("get /", parent_id=0xABC, kind=Kind.CLIENT, scope="flask", attributes=attributes)
    span.flags |= DEBUG
    assert documents([span], cases.RESOURCE) == [
        {
            "traceId": "0123456789abcdeffedcba9876543210",
            "id": "000000000000f00d",
            "parentId": "0000000000000abc",
            "name": "get /",
            "kind": "CLIENT",
            "timestamp": cases.START_NS // 1000,
            "duration": 250,
            "debug": True,
            "localEndpoint": {"serviceName": "shop"},
            "remoteEndpoint": {"serviceName": "db", "ipv4": "192.0.2.7", "port": 5432},
            "tags": {
                "hostname": "h1",
                "process.pid": "42",
                "n": "1",
                "yes": "true",
                "otel.scope.name": "flask",
                "peer.service": "db",
                "network.peer.address": "192.0.2.7",
                "network.peer.port": "5432",
            },
        }
    ]


@pytest.mark.parametrize(("name", "span"), cases.COMMON, ids=[name for name, _ in cases.COMMON])
def test_round_trip(name: str, span: SpanData) -> None:
    """Our own backend would show other spans than the application made."""
    [(payload, _)], _ = zipkin.JsonEncoder(NO_RESOURCE).encode([span])
    [batch] = zipkin.decode_json(payload)
    expected = cases.normal(span)
    expected["attributes"] = {key: ("str", str(value)) for key, (_, value) in expected["attributes"].items()}
    assert [cases.normal(result) for result in batch.spans] == [expected]
    assert batch.resource.service_name == "shop"


@settings(max_examples=50, deadline=None)
@given(st.lists(random_spans(st.text()), min_size=1, max_size=10))
def test_round_trip_of_random_spans(spans: list[SpanData]) -> None:
    """As ``test_round_trip``, for whatever else an application may make."""
    for span in spans:
        span.kind = max(span.kind, Kind.INTERNAL)
        span.flags = span.flags & DEBUG | SAMPLED
        span.end_ns = max(span.end_ns, span.start_ns + 1000)
        span.links = []
        span.parent_id = 0 if span.parent_id == span.span_id else span.parent_id
        if span.status != Status.ERROR:
            span.status = Status.UNSET
        if span.status_message == "true":
            span.status_message = ""
        for event in span.events or ():
            event.name = event.name.replace("|", "")
    [(payload, _)], _ = zipkin.JsonEncoder(NO_RESOURCE).encode(spans)
    [batch] = zipkin.decode_json(payload)
    assert [cases.normal(span) for span in batch.spans] == [cases.normal(span) for span in spans]


def test_groups_by_service() -> None:
    """Spans of different services in one request would all be shown under one."""
    batches = zipkin.decode_json(
        b"""[{"traceId":"1","id":"2","localEndpoint":{"serviceName":"a"}},{"traceId":"1","id":"3"},
             {"traceId":"1","id":"4","localEndpoint":{"serviceName":"a"}}]"""
    )
    found = [(batch.resource.service_name, [span.span_id for span in batch.spans]) for batch in batches]
    assert found == [("a", [2, 4]), ("unknown_service", [3])]


def test_decodes_what_brave_sends() -> None:
    """Spans of Zipkin's own clients would be lost or incomplete."""
    [batch] = zipkin.decode_json(
        b"""[{"traceId":"5AF7183FB1D4CF5F","parentId":"6b221d5bc9e6496c","id":"352bff9a74ca9ad2","kind":"SERVER",
              "name":"get /api","timestamp":1556604172355737,"duration":1431,"shared":true,
              "localEndpoint":{"serviceName":"backend","ipv4":"192.168.99.1","port":3306},
              "remoteEndpoint":{"serviceName":"frontend","ipv4":"172.19.0.2","port":58648},
              "annotations":[{"timestamp":1556604172355740,"value":"wr|{bad"}],
              "tags":{"http.method":"GET","error":"500"}}]"""
    )
    [span] = batch.spans
    assert (span.trace_id, span.span_id, span.parent_id) == (0x5AF7183FB1D4CF5F, 0x352BFF9A74CA9AD2, 0x6B221D5BC9E6496C)
    assert (span.kind, span.status, span.status_message) == (Kind.SERVER, Status.ERROR, "500")
    assert (span.start_ns, span.end_ns) == (1556604172355737000, 1556604172357168000)
    assert span.own == {
        "peer.service": "frontend",
        "network.peer.address": "172.19.0.2",
        "network.peer.port": 58648,
        "http.method": "GET",
    }
    assert cases.normal(span)["events"] == [("wr|{bad", 1556604172355740000, {})]


def test_zero_length_is_one_microsecond() -> None:
    """Zipkin takes a duration of 0 for unknown and does not show the span's end."""
    assert documents([cases.span(end_ns=cases.START_NS)])[0]["duration"] == 1


def test_own_attributes_win_over_facts_and_bad_facts_are_left_out() -> None:
    """A bug in one instrument would lose spans, or a user could not correct it."""
    facts = ((cases.refuse, "no"), (cases.route, "GET", "/a", 200))
    [document] = documents(
        [cases.span(facts=facts, attributes={"http.route": "/mine", "long": "x" * 9})], max_value_length=5
    )
    assert document["tags"] == {
        "http.request.method": "GET",
        "http.response.status_code": "200",
        "http.route": "/mine",
        "long": "xxxxx",
    }


@pytest.mark.parametrize(("field", "value"), [("trace_id", 1 << 130), ("span_id", -1), ("end_ns", None), ("own", 5)])
def test_bad_span_is_counted_and_others_go(field: str, value: Any) -> None:
    """One broken span would lose its batch, or kill the worker."""
    broken = cases.span()
    setattr(broken, field, value)
    payloads, bad = zipkin.JsonEncoder(NO_RESOURCE).encode([cases.span(), broken])
    assert ([count for _, count in payloads], bad) == ([1], 1)
    assert zipkin.JsonEncoder(NO_RESOURCE).encode([]) == ([], 0)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[1]", b"[[]]", b"[{}]", b'[{"traceId":"1"}]', b'[{"traceId":"","id":"1"}]', b"[" * 100_000),
        *(b'[{"traceId":"1","id":"xyz"}]', b'[{"traceId":"1","id":"12345678901234567"}]', b'[{"traceId":1,"id":"1"}]'),
        *(b'[{"traceId":"1","id":"1","tags":{"a":1}}]', b'[{"traceId":"1","id":"1","timestamp":-5}]'),
        *(b'[{"traceId":"1","id":"1","tags":[]}]', b'[{"traceId":"1","id":"1","annotations":[5]}]'),
    ],
)
def test_refuses_what_is_no_list_of_spans(data: bytes) -> None:
    """A receiver would fall over, or make up spans."""
    with pytest.raises(DecodeError):
        zipkin.decode_json(data)
