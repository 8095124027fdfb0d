"""What samplers said of the traces that came: read from root spans, counted, bounded."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoinstr.backend.sampling.decisions import Decision, DecisionTable, decisions, instance_of
from autoinstr.model import Batch, Resource, SpanData
from autoinstr.wire import jaeger, otlp, zipkin


def root(name: str, kind: object, param: object, parent_id: int = 0) -> SpanData:
    attributes = {"sampler.type": kind, "sampler.param": param}
    return SpanData(name, 1, 2, parent_id, start_ns=1, end_ns=2, attributes=attributes)


def batch(*spans: SpanData, service: str = "shop") -> Batch:
    return Batch(Resource(service), list(spans))


def test_only_root_spans_with_a_sampler_count() -> None:
    """A trace of a hundred spans would count a hundred times."""
    spans = [root("GET /", "const", True), root("child", "const", True, parent_id=7), SpanData("bare", 1, 3)]
    assert list(decisions(batch(*spans))) == [Decision("shop", "GET /", "const", True)]


@pytest.mark.parametrize("codec", ["jaeger", "otlp", "zipkin"])
def test_decisions_survive_every_format(codec: str) -> None:
    """The same sampler would be shown as two, one with a number and one with a text; adaptive sampling would be blind."""
    resource = Resource("shop", {"service.instance.id": "x"})
    spans = [root("GET /", "probabilistic", 0.25), root("POST /", "const", True)]
    for number, span in enumerate(spans, 1):
        span.span_id = number
    if codec == "jaeger":
        payloads, _ = jaeger.BinaryEncoder(resource).encode(spans)
        received = [jaeger.decode_batch(payloads[0][0])]
    elif codec == "otlp":
        payloads, _ = otlp.ProtobufEncoder(resource).encode(spans)
        received = otlp.decode_protobuf(payloads[0][0])
    else:
        payloads, _ = zipkin.JsonEncoder(resource).encode(spans)
        received = zipkin.decode_json(payloads[0][0])
    found = [decision for part in received for decision in decisions(part)]
    assert sorted(found) == [
        Decision("shop", "GET /", "probabilistic", 0.25),
        Decision("shop", "POST /", "const", True),
    ]


def test_decisions_are_counted_by_operation_and_parameter() -> None:
    """Why there are so few traces of one operation, and whether the new rate has arrived, could not be seen."""
    table = DecisionTable()
    table.observe([batch(root("b", "probabilistic", 0.5), root("a", "lowerbound", 0.001))])
    table.observe([batch(*[root("b", "probabilistic", "0.25")] * 3), batch(root("x", "const", 1), service="other")])
    assert table.of("shop") == [
        {"operation": "a", "type": "lowerbound", "param": 0.001, "traces": 1},
        {"operation": "b", "type": "probabilistic", "param": 0.25, "traces": 3},
        {"operation": "b", "type": "probabilistic", "param": 0.5, "traces": 1},
    ]
    assert table.of("nobody") == []
    assert table.services() == ["other", "shop"]


def test_the_table_is_bounded_and_keeps_what_is_used() -> None:
    """Names made of ids would eat the backend's memory, or push out the operations that everybody looks at."""
    table = DecisionTable(max_services=3, max_rows=5)
    for number in range(100):
        table.observe([batch(root("GET /", "const", True), root(f"GET /{number}" * 1000, "const", True))])
        table.observe([batch(root("GET /", "const", True), service=f"service {number}")])
    rows = table.of("shop")
    assert len(rows) == 5
    assert {"operation": "GET /", "type": "const", "param": True, "traces": 100} in rows
    assert max(len(row["operation"]) for row in rows) <= 256
    assert table.services() == ["service 98", "service 99", "shop"]


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@given(anything, anything)
@example("const", 10**400)
@example("const", 10**5000)
@example("const", "1" * 5000)
def test_no_tag_raises(kind: object, param: object) -> None:
    """One odd span would end the counting for all services."""
    table = DecisionTable()
    table.observe([batch(root("a", kind, param))])
    for row in table.of("shop"):
        assert row["type"] == kind
        assert isinstance(row["param"], (bool, float, str))


def test_processes_are_told_apart() -> None:
    """Each process keeps its lower bound: taken for one, three hundred would send three hundred times as much."""
    instances = [
        {"service.instance.id": "a", "hostname": "h"},
        {"service.instance.id": "b", "hostname": "h"},
        {"client-uuid": "c", "hostname": "h"},
        {"hostname": "h", "process.pid": 1},
        {"hostname": "h", "process.pid": 2},
        {"ip": "10.0.0.1"},
    ]
    assert len({instance_of(Resource("shop", attributes)) for attributes in instances}) == len(instances)
