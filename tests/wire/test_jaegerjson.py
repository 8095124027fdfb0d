"""A trace in the JSON that Jaeger's UI reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.model import Event, Kind, Link, Resource, SpanContext, SpanData, Status
from autoinstr.wire import jaegerjson

SHOP = Resource("shop", {"hostname": "web-1"})


def encoded_span(span: SpanData) -> dict:
    return jaegerjson.encode(span.trace_id, [(SHOP, span)])["spans"][0]


def tags(span: SpanData) -> dict[str, tuple[str, object]]:
    return {tag["key"]: (tag["type"], tag["value"]) for tag in encoded_span(span)["tags"]}


def test_a_whole_trace() -> None:
    """Every key that the UI reads, with its type: the UI fails on a missing list and misplaces a wrong unit."""
    span = SpanData(
        "GET /buy",
        0xA,
        0xB,
        0xC,
        kind=Kind.SERVER,
        start_ns=1_700_000_000_000_001_999,
        end_ns=1_700_000_000_000_005_001,
        attributes={"http.status_code": 500},
        events=[Event("exception", 1_700_000_000_000_003_000, {"exception.type": "ValueError"})],
        status=Status.ERROR,
        scope="flask",
    )
    assert jaegerjson.encode(0xA, [(SHOP, span)]) == {
        "traceID": "000000000000000a",
        "spans": [
            {
                "traceID": "000000000000000a",
                "spanID": "000000000000000b",
                "flags": 1,
                "operationName": "GET /buy",
                "references": [{"refType": "CHILD_OF", "traceID": "000000000000000a", "spanID": "000000000000000c"}],
                "startTime": 1_700_000_000_000_001,
                "duration": 3,
                "tags": [
                    {"key": "component", "type": "string", "value": "flask"},
                    {"key": "error", "type": "bool", "value": True},
                    {"key": "http.status_code", "type": "int64", "value": 500},
                    {"key": "span.kind", "type": "string", "value": "server"},
                ],
                "logs": [
                    {
                        "timestamp": 1_700_000_000_000_003,
                        "fields": [
                            {"key": "event", "type": "string", "value": "exception"},
                            {"key": "exception.type", "type": "string", "value": "ValueError"},
                        ],
                    }
                ],
                "processID": "p1",
                "warnings": None,
            }
        ],
        "processes": {"p1": {"serviceName": "shop", "tags": [{"key": "hostname", "type": "string", "value": "web-1"}]}},
        "warnings": None,
    }


@pytest.mark.parametrize(
    ("trace_id", "text"),
    [
        (1, "0000000000000001"),
        (2**64 - 1, "f" * 16),
        (2**64, "0" * 15 + "1" + "0" * 16),
        (2**128 - 1, "f" * 32),
    ],
)
def test_trace_ids(trace_id: int, text: str) -> None:
    """The id in the UI's address must be the one in the service's log and headers."""
    assert jaegerjson.trace_id_text(trace_id) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", ("string", "text")),
        (True, ("bool", True)),
        (2**53 - 1, ("int64", 2**53 - 1)),
        (2**53, ("int64", "9007199254740992")),
        (-(2**53), ("int64", "-9007199254740992")),
        (0.5, ("float64", 0.5)),
        (float("nan"), ("float64", "NaN")),
        (float("-inf"), ("float64", "-Infinity")),
        (b"\x00\xff", ("binary", "AP8=")),
        (["a", 1], ("string", '["a",1]')),
    ],
)
def test_values(value: object, expected: tuple[str, object]) -> None:
    """JavaScript rounds integers beyond 2^53, and NaN is no JSON."""
    assert tags(SpanData("x", 1, 1, attributes={"key": value}))["key"] == expected


def test_equal_processes_are_written_once() -> None:
    """A service that sent a thousand batches is one process to the UI, not a thousand."""
    again = Resource("shop", {"hostname": "web-1"})
    other = Resource("shop", {"hostname": "web-2"})
    spans = [(resource, SpanData("x", 1, 1)) for resource in (SHOP, other, again)]
    trace = jaegerjson.encode(1, spans)
    assert [span["processID"] for span in trace["spans"]] == ["p1", "p2", "p1"]
    assert list(trace["processes"]) == ["p1", "p2"]


def test_the_parent_is_the_first_reference_and_not_repeated() -> None:
    """The UI takes the first reference that it finds for the parent; references to nothing confuse it."""
    links = [
        Link(SpanContext(1, 7)),
        Link(SpanContext(1, 2), child_of=True),
        Link(SpanContext(3, 4), child_of=True),
        Link(SpanContext(0, 4)),
    ]
    references = encoded_span(SpanData("x", 1, 9, 2, links=links))["references"]
    assert [(r["refType"], int(r["traceID"], 16), int(r["spanID"], 16)) for r in references] == [
        ("CHILD_OF", 1, 2),
        ("FOLLOWS_FROM", 1, 7),
        ("CHILD_OF", 3, 4),
    ]


def test_status_and_losses_become_tags() -> None:
    """What OpenTelemetry's model knows beyond Jaeger's must be visible in Jaeger's UI."""
    failed = SpanData("x", 1, 1, status=Status.ERROR, status_message="boom", trace_state="a=b")
    failed.dropped = (2, 0, 1)
    expected = {
        "error": ("bool", True),
        "otel.status_code": ("string", "ERROR"),
        "otel.status_description": ("string", "boom"),
        "w3c.tracestate": ("string", "a=b"),
        "otel.dropped_attributes_count": ("int64", 2),
        "otel.dropped_links_count": ("int64", 1),
    }
    assert expected.items() <= tags(failed).items()
    assert "otel.dropped_events_count" not in tags(failed)
    assert tags(SpanData("x", 1, 1, status=Status.OK))["otel.status_code"] == ("string", "OK")


def test_the_applications_own_tags_win() -> None:
    """A span that says error="oops" itself must not get a second, different error tag."""
    span = SpanData("x", 1, 1, status=Status.ERROR, scope="flask", attributes={"error": "oops", "component": "mine"})
    assert tags(span)["error"] == ("string", "oops")
    assert tags(span)["component"] == ("string", "mine")


values = st.one_of(st.text(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(st.floats(), max_size=3))


@given(st.dictionaries(st.text(), values, max_size=5), st.integers(-(2**63), 2**64), st.integers(-(2**63), 2**64))
def test_anything_is_strict_json(attributes: dict, start_ns: int, end_ns: int) -> None:
    """One odd value in one span must not make a search fail for everybody."""
    events = [Event("e", start_ns, attributes)]
    span = SpanData("x", 1, 2, start_ns=start_ns, end_ns=end_ns, attributes=attributes, events=events)
    trace = jaegerjson.encode(1, [(Resource("s", attributes), span)])
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
