"""The third version of Jaeger's API; its answers as such are in ``jaeger_answers`` and asked for in ``test_query``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from autoinstr.backend.query.asking import ParameterError
from autoinstr.backend.query.v3 import _nanoseconds, _trace_id
from autoinstr.model import Event, Kind, Resource, SpanData, Status
from autoinstr.wire import otlp

from .asked import STOCK, Asked, asking, now_span

#: A window that everything lies in.
ALWAYS = "query.startTimeMin=2020-01-01T00:00:00Z&query.startTimeMax=2200-01-01T00:00:00Z"


@pytest.fixture
def asked() -> Iterator[Asked]:
    with asking() as found:
        yield found


def spans_of(answer: dict) -> dict[str, list[SpanData]]:
    """The spans of a result by service, as our own decoder of OTLP reads them."""
    batches = otlp.decode_json(json.dumps(answer["result"]).encode())
    found: dict[str, list[SpanData]] = {}
    for batch in batches:
        found.setdefault(batch.resource.service_name, []).extend(batch.spans)
    return found


def test_a_trace_in_otlp_says_what_was_sent(asked: Asked) -> None:
    """Whoever takes traces out by this API must get what came in: times to the nanosecond, types, events, scopes."""
    sent = now_span(
        "GET /",
        1,
        attributes={"n": 5, "f": 1.5, "t": True, "b": b"\0", "l": ["a"]},
        events=[Event("e", 1_700_000_000_000_000_001, {"k": "v"})],
        status=Status.ERROR,
        status_message="broke",
        scope="opentelemetry.instrumentation.flask",
    )
    asked.write(sent)
    asked.write(now_span("find", 1, 2, 1), resource=STOCK)
    answer = asked.get("/api/v3/traces/1")
    [scope] = answer["result"]["resourceSpans"][0]["scopeSpans"]
    assert scope["scope"]["name"] == "opentelemetry.instrumentation.flask"
    [shop], [stock] = spans_of(answer)["shop"], spans_of(answer)["stock"]
    for name in ("name", "trace_id", "span_id", "start_ns", "end_ns", "attributes", "kind", "status", "status_message"):
        assert getattr(shop, name) == getattr(sent, name)
    assert [(event.name, event.time_ns, event.attributes) for event in shop.events] == [
        ("e", 1_700_000_000_000_000_001, {"k": "v"})
    ]
    assert stock.parent_id == 1


def test_equal_resources_come_once(asked: Asked) -> None:
    """Each payload of a client brings its resource anew; an answer that repeats it for each span is several times larger."""
    for number in range(1, 4):
        asked.write(now_span("x", 1, number), resource=Resource("shop", {"host.name": "web-1"}))
    assert len(asked.get("/api/v3/traces/1")["result"]["resourceSpans"]) == 1


def test_large_traces_come_whole(asked: Asked) -> None:
    """Long answers are written in pieces, none of which may be lost."""
    asked.write(*(now_span("x", 1, number) for number in range(1, 1302)))
    [spans] = spans_of(asked.get("/api/v3/traces/1")).values()
    assert sorted(span.span_id for span in spans) == list(range(1, 1302))


def test_traces_are_adjusted_unless_raw(asked: Asked) -> None:
    """As in the older API: the clock of another host is put right, and the raw times can be had."""
    asked.write(now_span("call", 1, 1, kind=Kind.CLIENT, start_ns=5 * 10**9, lasts_ns=100))
    asked.write(now_span("serve", 1, 2, 1, start_ns=10**9, lasts_ns=50), resource=STOCK)
    for path in (
        "/api/v3/traces/1?",
        "/api/v3/traces?query.startTimeMin=1970-01-01T00:00:00Z&query.startTimeMax=1971-01-01T00:00:00Z&query.",
    ):
        raw = "rawTraces=true"
        assert spans_of(asked.get(path + "x=y"))["stock"][0].start_ns == 5 * 10**9 + 25
        assert spans_of(asked.get(path + raw))["stock"][0].start_ns == 10**9


def test_operations_without_a_kind_are_internal(asked: Asked) -> None:
    """As Jaeger has it; one name with and without a kind is then one operation, not two."""
    asked.write(now_span("a", 1, kind=Kind.UNSPECIFIED), now_span("a", 2, kind=Kind.INTERNAL), now_span("b", 3))
    assert asked.get("/api/v3/operations?service=shop")["operations"] == [
        {"name": "a", "spanKind": "internal"},
        {"name": "b", "spanKind": "server"},
    ]
    assert asked.get("/api/v3/operations?service=shop&spanKind=server")["operations"] == [
        {"name": "b", "spanKind": "server"}
    ]


@pytest.mark.parametrize(
    "path",
    [
        "operations",
        "traces/zz",
        "traces/0",
        "traces/1?startTime=yesterday",
        "traces/1?rawTraces=maybe",
        "traces?query.startTimeMin=2020-01-01T00:00:00Z",
        "traces?query.startTimeMin=2020-13-01T00:00:00Z&query.startTimeMax=2021-01-01T00:00:00Z",
        "traces?query.startTimeMin=2020-01-01T00:00:00Z&query.startTimeMax=2021-01-01",
        f"traces?{ALWAYS}&query.searchDepth=1501",
        f"traces?{ALWAYS}&query.searchDepth=0",
        f"traces?{ALWAYS}&query.num_traces=x",
        f"traces?{ALWAYS}&query.durationMin=5",
        f"traces?{ALWAYS}&query.durationMin=2s&query.durationMax=1s",
        f"traces?{ALWAYS}&query.attributes=[]",
        f"trace-summaries?{ALWAYS}&query.attributes=" + '{"a":1}',
    ],
)
def test_wrong_parameters_are_errors_of_the_client(asked: Asked, path: str) -> None:
    """In the form that this version of the API has for errors, with the sentence that the UI shows."""
    response = asked.client.get(f"/api/v3/{path}")
    assert response.status_code == 400
    assert response.json()["error"]["httpCode"] == 400
    assert len(response.json()["error"]["message"]) > 10


def test_no_summaries_are_an_empty_list(asked: Asked) -> None:
    """The search page says "no results"; an error would look like a failure."""
    assert asked.get(f"/api/v3/trace-summaries?{ALWAYS}") == {"summaries": []}


def test_fifteen_hundred_summaries_come_soon(asked: Asked) -> None:
    """The largest search of Jaeger's form; the page waits for it."""
    for start in range(1, 1501, 100):
        asked.write(*(now_span("x", start + n // 20, n % 20 + 1, n % 20) for n in range(2000)))
    started = time.process_time()
    summaries = asked.get(f"/api/v3/trace-summaries?{ALWAYS}&query.searchDepth=1500")["summaries"]
    assert time.process_time() - started < 5
    assert len(summaries) == 1500
    assert {(one["spanCount"], one["orphanSpanCount"]) for one in summaries} == {(20, 0)}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (("1970-01-01T00:00:01", "5", "Z"), 1_500_000_000),
        (("2023-11-14T22:13:20", "000000001", "Z"), 1_700_000_000_000_000_001),
        (("2023-11-14T23:13:20", "", "+01:00"), 1_700_000_000 * 10**9),
        (("0001-01-01T00:00:00", "", "Z"), 0),
        (("9999-12-31T23:59:59", "", "Z"), 2**63),
    ],
)
def test_times_of_rfc_3339(text: tuple[str, str, str], nanoseconds: int) -> None:
    """The UI sends microseconds, other clients nanoseconds or another zone; some send the beginning of time."""
    assert _nanoseconds(*text) == nanoseconds


def test_ids_in_base64() -> None:
    """As protobuf's JSON writes bytes; sixteen hexadecimal digits must not be taken for it."""
    assert _trace_id("AAAAAAAAAAEAAAAAAAAACw==") == 1 << 64 | 0xB
    assert _trace_id("AAAAAAAAAAs=") == 0xB
    assert _trace_id("aaaaaaaaaaaaaaaa") == 0xAAAA_AAAA_AAAA_AAAA
    with pytest.raises(ParameterError):
        _trace_id("AAAAAAAAAAEAAAAAAAAACw")
