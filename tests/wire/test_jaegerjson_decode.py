"""Jaeger's JSON read back: what its UI exports must open again."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoinstr.model import Kind, Resource, SpanData, Status
from autoinstr.wire import UNKNOWN_SERVICE, DecodeError, jaegerjson

from . import cases, strategies

#: The machine may be busy with other tests.
at_any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHOP = Resource("shop", {"hostname": "web-1", "shards": 3})


def decoded(document: object) -> list[tuple[Resource, SpanData]]:
    batches = jaegerjson.decode(json.dumps(document).encode())
    return [(batch.resource, span) for batch in batches for span in batch.spans]


def one_span(**members: object) -> SpanData:
    [(_, span)] = decoded({"traceID": "a", "spans": [{"spanID": "b", **members}]})
    return span


@at_any_speed
@given(strategies.spans())
def test_what_is_encoded_is_read_back(span: SpanData) -> None:
    """A trace that was downloaded and opened again must be the same trace."""
    document = jaegerjson.encode(span.trace_id, [(SHOP, span)])
    [(resource, found)] = decoded(document)
    assert (resource.service_name, resource.attributes) == (SHOP.service_name, SHOP.attributes)
    assert jaegerjson.encode(found.trace_id, [(resource, found)]) == document
    for name in ("name", "trace_id", "span_id", "parent_id", "kind", "start_ns", "end_ns", "flags", "scope"):
        assert getattr(found, name) == getattr(span, name)


@pytest.mark.parametrize("wrap", [lambda trace: trace, lambda trace: [trace], lambda trace: {"data": [trace]}])
def test_answers_lists_and_single_traces_are_taken(wrap) -> None:
    """The UI downloads an answer with its envelope; scripts keep the traces alone."""
    assert len(decoded(wrap({"traceID": "a", "spans": [{"spanID": "b"}, {"spanID": "c"}]}))) == 2


def test_what_other_exporters_leave_out_or_write_otherwise() -> None:
    """Null lists, an unknown process or one inside the span, a parent as a member, times with a fraction."""
    span = one_span(
        parentSpanID="c",
        tags=None,
        logs=None,
        references=None,
        warnings=None,
        startTime=1700000000000000.7,
        duration="5",
    )
    assert (span.parent_id, span.start_ns, span.end_ns) == (0xC, 1_700_000_000_000_000_000, 1_700_000_000_000_005_000)
    process = {"serviceName": "shop", "tags": [{"key": "hostname", "type": "string", "value": "web-1"}]}
    inline = {"traceID": "a", "spans": [{"spanID": "b", "process": process}, {"spanID": "c", "process": process}]}
    [(first, _), (second, _)] = decoded(inline)
    assert first is second
    assert (first.service_name, first.attributes) == ("shop", {"hostname": "web-1"})
    [(unknown, _)] = decoded({"traceID": "a", "spans": [{"spanID": "b", "processID": "p9"}]})
    assert unknown.service_name == UNKNOWN_SERVICE


def test_tags_say_what_our_spans_have_fields_for() -> None:
    """Otherwise errors would not be counted and kinds not be seen after an upload."""
    tags = [
        {"key": "span.kind", "type": "string", "value": "server"},
        {"key": "error", "type": "bool", "value": True},
        {"key": "large", "type": "int64", "value": "9007199254740993"},
        {"key": "nan", "type": "float64", "value": "NaN"},
        {"key": "raw", "type": "binary", "value": "AP8="},
        {"key": "untyped", "value": 1.5},
    ]
    span = one_span(tags=tags)
    assert (span.kind, span.status) == (Kind.SERVER, Status.ERROR)
    attributes = span.attributes
    assert math.isnan(attributes.pop("nan"))
    assert attributes == {"large": 2**53 + 1, "raw": b"\0\xff", "untyped": 1.5}


def test_warnings_survive() -> None:
    """An export of adjusted times must go on saying that they were adjusted."""
    span = one_span(warnings=["adjusted by 1s", 5])
    trace = jaegerjson.encode(0xA, [(SHOP, span), (SHOP, one_span())], {0: ["late"], 1: ["lost"]})
    assert [found["warnings"] for found in trace["spans"]] == [["adjusted by 1s", "late"], ["lost"]]
    assert jaegerjson.WARNINGS not in json.dumps(trace)


@pytest.mark.parametrize(
    "document",
    [
        5,
        {"data": None},
        {"data": [5]},
        {"spans": 5},
        {"spans": [5]},
        {"spans": [{"spanID": 5}]},
        {"spans": [{"spanID": "x"}]},
        {"spans": [{"spanID": "1" * 17}]},
        {"spans": [{"traceID": "1" * 33}]},
        {"spans": [{"startTime": "now"}]},
        {"spans": [{"startTime": True}]},
        {"spans": [{"tags": {}}]},
        {"spans": [{"tags": [{"key": "k", "value": {}}]}]},
        {"spans": [{"tags": [{"key": "k", "type": "int64", "value": "1e3"}]}]},
        {"spans": [{"tags": [{"key": "k", "type": "binary", "value": "!"}]}]},
        {"spans": [{"references": [5]}]},
        {"spans": [{"process": 5}]},
        {"spans": [], "processes": []},
        {"spans": [], "processes": {"p1": 5}},
    ],
)
def test_what_is_no_trace_is_refused(document: object) -> None:
    """A file that is half understood would show a trace that never was."""
    with pytest.raises(DecodeError):
        decoded(document)


@pytest.mark.parametrize("time_us", [-5, 1e300, float("inf"), float("nan"), 2**64 - 1])
def test_times_out_of_range_are_clamped(time_us: float) -> None:
    """Stores keep 64 bits; one odd span must not make a whole export unreadable."""
    span = one_span(startTime=time_us, duration=time_us)
    assert 0 <= span.start_ns <= span.end_ns < 2**64


def test_hostile_files_end_soon() -> None:
    """Whatever is in a file: DecodeError or nothing, within a second."""
    good = json.dumps(jaegerjson.encode(cases.TRACE_ID, [(cases.RESOURCE, span) for _, span in cases.COMMON])).encode()
    deep = b'{"spans":[{"process":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}]}"
    generator = random.Random(7)
    payloads = [b"[" * 100_000, b'{"data":' * 50_000, b"\xff\xfe", b"1" * 5000, deep]
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(generator.randint(1, 5)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        payloads += [bytes(damaged), good[: generator.randrange(len(good))]]
    started = time.process_time()
    for payload in payloads:
        with contextlib.suppress(DecodeError):
            jaegerjson.decode(payload)
    assert time.process_time() - started < 20


NAMES = st.sampled_from(["data", "spans", "tags", "key", "value", "process", "logs", "fields", "references", "spanID"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@at_any_speed
@given(DOCUMENTS)
def test_any_json_is_a_trace_or_refused(document: object) -> None:
    """No member of the wrong kind may raise anything else."""
    with contextlib.suppress(DecodeError):
        jaegerjson.decode_value(document)
