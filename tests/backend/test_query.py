"""Jaeger's query API as its UI, Grafana and curl ask it: in this process where only the answer matters, over HTTP where
HTTP does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from autoinstr.backend.query import asking as asking_module
from autoinstr.backend.query.asking import ParameterError, parse_duration, parse_trace_id
from autoinstr.backend.store import MemoryStore, Store, StoreError, Trace, TraceQuery
from autoinstr.model import Event, Kind, Link, Resource, SpanContext, SpanData, Status

from .asked import Asked, asking, now_span
from .conftest import Backend, poll

JSON = {"Content-Type": "application/json"}
ANSWERS = sorted((Path(__file__).parent / "jaeger_answers").glob("*.json"))


# Answers of Jaeger's ----------------------------------------------------------------------------------------------

MS, START_NS = 10**6, 1_700_000_000 * 10**9
FRONTEND = Resource("frontend", {"hostname": "web-1", "ip": 0x0A000001})
ROUTE = Resource("team/route", {"hostname": "route-1"})
LATER = SpanContext(1 << 64 | 0xB, 5)


def known_traces() -> Iterator[tuple[Resource, SpanData]]:
    """What the recorded questions are asked about. The clock of ``route-1`` is a second behind."""
    tags = {
        "http.status_code": 500,
        "sampler.type": "probabilistic",
        "sampler.param": 0.5,
        "large": 2**53 + 1,
        "ratio": 1.5,
        "binary": b"\0\xff",
    }
    yield (
        FRONTEND,
        SpanData(
            "HTTP GET /dispatch",
            0xA,
            1,
            kind=Kind.SERVER,
            start_ns=START_NS,
            end_ns=START_NS + 100 * MS,
            attributes=tags,
            events=[Event("error", START_NS + 5 * MS, {"message": "no driver"})],
            status=Status.ERROR,
        ),
    )
    begin, end = START_NS + 10 * MS, START_NS + 60 * MS
    yield (
        FRONTEND,
        SpanData("HTTP GET /route", 0xA, 2, 1, kind=Kind.CLIENT, start_ns=begin, end_ns=end, scope="requests"),
    )
    begin, end = START_NS - 990 * MS, START_NS - 970 * MS
    yield ROUTE, SpanData("FindRoute", 0xA, 3, 2, kind=Kind.SERVER, start_ns=begin, end_ns=end, links=[Link(LATER)])
    begin, end = START_NS + 20_000 * MS, START_NS + 20_000 * MS + 300_000
    yield (
        FRONTEND,
        SpanData("HTTP GET /health", LATER.trace_id, 5, 0xFF, kind=Kind.SERVER, flags=0, start_ns=begin, end_ns=end),
    )


@pytest.fixture(scope="module")
def known() -> Iterator[Asked]:
    with asking() as asked:
        for resource, span in known_traces():
            asked.write(span, resource=resource)
        yield asked


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in ANSWERS])
def test_answers_are_those_of_jaeger(known: Asked, path: Path) -> None:
    """Jaeger's UI and Grafana read these answers: a missing member breaks a page of theirs, a wrong one misleads."""
    case = json.loads(path.read_text())
    response = known.client.request(case.get("method", "GET"), case["request"], json=case.get("body"))
    assert (response.status_code, response.json()) == (case["status"], case["answer"])


# Questions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked() -> Iterator[Asked]:
    with asking() as found:
        yield found


def ids(traces: list[dict]) -> list[int]:
    return [int(trace["traceID"], 16) for trace in traces]


def test_search(asked: Asked) -> None:
    """Each of the search form's fields narrows the result."""
    now_us = time.time_ns() // 1000
    old_ns = time.time_ns() - 3 * 86_400 * 10**9
    asked.write(now_span("GET /fast", 1, lasts_ns=1_000_000))
    asked.write(now_span("GET /slow", 2, lasts_ns=900_000_000, attributes={"user": "ann", "note": "a:b"}))
    asked.write(now_span("GET /old", 3, start_ns=old_ns))

    def search(parameters: str) -> list[int]:
        return sorted(ids(asked.data(f"/api/traces?service=shop&lookback=1h&{parameters}")))

    assert search("") == [1, 2]
    assert search("operation=GET%20/slow") == [2]
    assert search("minDuration=1ms&maxDuration=1.5ms") == [1]
    assert search("minDuration=900ms") == [2]
    assert search("tags=" + quote('{"user":"ann"}')) == [2]
    assert search("tag=user:ann&tag=note:a:b") == [2]
    assert search("tag=user:bob") == []
    assert search("start=0") == [1, 2, 3]
    assert search(f"start=0&end={now_us - 86_400 * 1_000_000}") == [3]
    assert len(search("limit=1")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/traces",
        "/api/traces?service=a&minDuration=5",
        "/api/traces?service=a&minDuration=2s&maxDuration=1s",
        "/api/traces?service=a&limit=0",
        "/api/traces?service=a&limit=1e3",
        "/api/traces?service=a&limit=1501",
        "/api/traces?service=a&limit=99999999999",
        "/api/traces?service=a&start=yesterday",
        "/api/traces?service=a&start=-1",
        "/api/traces?service=a&end=9223372036854775807",
        "/api/traces?service=a&tag=novalue",
        "/api/traces?service=a&tags={",
        "/api/traces?service=a&tags=" + quote('{"status":404}'),
        "/api/traces?service=a&tags=" + "[" * 5000,
        "/api/traces?service=a&raw=perhaps",
        "/api/traces?traceID=xyz",
        "/api/traces?traceID=0",
        "/api/traces?" + "&".join(f"traceID={number:x}" for number in range(1, 1600)),
        "/api/traces/1?start=now",
        "/api/traces/1?raw=2",
        "/api/dependencies?endTs=now",
        "/api/dependencies?lookback=-1",
        "/api/dependencies?endTs=99999999999999999",
        "/api/metrics/latencies?service=a",
        "/api/metrics/latencies?service=a&quantile=2",
        "/api/metrics/latencies?service=a&quantile=nan",
        "/api/metrics/calls?service=a&spanKind=sever",
        "/api/metrics/calls?service=a&step=0",
        "/api/metrics/calls?service=a&step=1",
        "/api/metrics/calls?service=a&groupByOperation=maybe",
    ],
)
def test_wrong_parameters_are_errors_of_the_client(known: Asked, path: str) -> None:
    """The UI shows the message; a 500 would look like our fault, and ignoring it would show wrong results."""
    status, message = known.error(path)
    assert status == 400
    assert len(message) > 10


def test_the_sentence_names_parameter_and_bound(known: Asked) -> None:
    """Whoever asked for too much has to know for how much to ask."""
    assert known.error("/api/traces?service=a&limit=2000") == (
        400,
        "cannot use limit='2000': it must be an integer from 1 to 1500",
    )


def test_answers_can_be_read_by_people(known: Asked) -> None:
    """``?prettyPrint=true`` is for curl; what it says is the same."""
    pretty = known.client.get("/api/traces/a?prettyPrint=true")
    assert '\n    "data": [\n' in pretty.text
    assert pretty.json() == known.get("/api/traces/a")


def test_text_that_is_no_utf8_can_be_queried(asked: Asked) -> None:
    """JSON lets clients send half a surrogate pair; one such name must not break the whole search, in any form."""
    asked.write(now_span("GET \ud800", 1, attributes={"\ud801": "\ud802"}))
    assert ids(asked.data("/api/traces?service=shop")) == [1]
    assert asked.client.get("/trees/1").status_code == 200
    assert asked.client.get("/").status_code == 200
    assert asked.get("/api/v3/traces/1")["result"]["resourceSpans"]
    assert asked.get("/ui/data/search")["traces"][0]["operation"] == "GET ?"


def test_uploading_to_transform_tells_what_is_wrong(known: Asked) -> None:
    """Jaeger's UI shows the sentence to whoever chose the wrong file."""
    for body in (b"", b"{", b"[]", b'{"resourceSpans": 5}', b"[" * 100_000):
        status, message = known.error("/api/transform", "POST", content=body)
        assert status == 400
        assert "OTLP JSON" in message
    assert known.client.request("POST", "/api/transform", content=b"{}").json()["data"] == []


def test_metrics_of_many_series_are_bounded(asked: Asked) -> None:
    """An answer of a hundred million numbers would take all memory; the sentence says what to do."""
    asked.write(*(now_span(f"op {number}", number + 1) for number in range(500)))
    status, message = asked.error("/api/metrics/calls?service=shop&groupByOperation=true&step=1000&lookback=3600000")
    assert (status, "500 series of 3601 points" in message) == (400, True)
    assert len(asked.get("/api/metrics/calls?service=shop&step=60000&groupByOperation=true")["metrics"]) == 500


def test_latencies_are_in_milliseconds(asked: Asked) -> None:
    """Jaeger's "Monitor" page labels them so."""
    asked.write(*(now_span("GET", number + 1, lasts_ns=50 * MS) for number in range(20)))
    family = asked.get("/api/metrics/latencies?service=shop&quantile=0.95&step=60000&lookback=0")
    [point] = family["metrics"][0]["metricPoints"]
    assert family["name"] == "service_latencies"
    assert point["gaugeValue"]["doubleValue"] == pytest.approx(50, rel=0.2)


def test_answers_carry_the_base_path(known: Asked) -> None:
    """Behind a proxy everything lies below a path; the API has to be found there, too."""
    with asking(root_path="/jaeger") as below:
        below.write(now_span())
        assert below.get("/jaeger/api/services")["data"] == ["shop"]
        assert below.get("/jaeger/api/v3/services") == {"services": ["shop"]}
        page = below.client.get("/jaeger/", headers={"Accept": "text/html"}).text
        assert '<base href="/jaeger/">' in page


# The store --------------------------------------------------------------------------------------------------------


class SlowStore(MemoryStore):
    """A store whose searches take until they are let go."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.go_on = threading.Event()
        self.searching = 0

    def find(self, query: TraceQuery) -> list[Trace]:
        self.searching += 1
        self.go_on.wait(30)
        return super().find(query)


def test_a_slow_search_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody looks through a million spans, the others go on; too many at once are told to come again."""
    monkeypatch.setattr(asking_module, "MOST_WAITING", 2)
    store = SlowStore()
    answers: list[tuple[int, str | None]] = []
    with asking(store) as asked:
        asked.write(now_span())

        def search() -> None:
            response = asked.client.get("/api/traces?service=shop")
            answers.append((response.status_code, response.headers.get("Retry-After")))

        threads = [threading.Thread(target=search) for _ in range(10)]
        try:
            for thread in threads:
                thread.start()
            poll(lambda: len(answers) == 6, "two searches run, two wait, six are refused")
            assert set(answers) == {(503, "1")}
            assert store.searching == 2
            assert asked.data("/api/services") == ["shop"]
            assert ids(asked.data("/api/traces/1")) == [1]
        finally:
            store.go_on.set()
            for thread in threads:
                thread.join(30)
    assert sorted(answers)[:4] == [(200, None)] * 4


def test_a_store_that_cannot_says_why() -> None:
    """An archive that is full is no bug of ours; the button has to tell."""

    class FullArchive(MemoryStore):
        def archive(self, trace_id: int) -> bool:
            raise StoreError("the archive is full")

    store: Store = FullArchive(10)
    with asking(store) as asked:
        assert asked.error("/api/archive/1", "POST") == (507, "the archive is full")


# Text -------------------------------------------------------------------------------------------------------------


def test_trees(asked: Asked) -> None:
    """curl is enough to see a trace."""
    asked.write(now_span("GET /tree", 0x701))
    text = asked.client.get("/trees/701").text
    assert text.startswith("trace 0000000000000701  1 span  1 service  10.0 ms\nshop  GET /tree ")
    assert "\x1b[" not in text
    assert "\x1b[" in asked.client.get("/trees/701?colour=true").text
    assert max(map(len, text.splitlines())) < 100
    assert asked.client.get("/trees/702").status_code == 404
    assert [asked.client.get(f"/trees/{rest}").status_code for rest in ("zzz", "701?width=x")] == [400, 400]


@pytest.mark.parametrize(("accept", "is_page"), [("*/*", False), ("text/plain", False), ("text/html,*/*;q=0.8", True)])
def test_the_start_page_is_for_terminals_and_for_browsers(asked: Asked, accept: str, is_page: bool) -> None:
    """curl gets the newest traces as text, a browser the interface, and caches are told that it depends."""
    asked.write(now_span("GET /newest"))
    response = asked.client.get("/", headers={"Accept": accept})
    assert ("GET /newest" in response.text) != is_page
    assert ("<!doctype html>" in response.text) == is_page
    assert response.headers["Vary"] == "Accept"


# Over HTTP --------------------------------------------------------------------------------------------------------


def test_the_api_over_http(backend: Backend) -> None:
    """The real process: names with slashes come percent-encoded, and answers are JSON to whoever looks at headers."""
    span = {
        "traceId": "00000000000000aa",
        "id": "00000000000000aa",
        "name": "GET /a",
        "kind": "SERVER",
        "timestamp": time.time_ns() // 1000 - 1_000_000,
        "duration": 10_000,
        "localEndpoint": {"serviceName": "team/shop"},
    }
    assert backend.post("zipkin", "/api/v2/spans", json.dumps([span]).encode(), JSON)[0] == 202
    backend.wait_for_service("team%2Fshop")
    assert "team/shop" in backend.data("/api/services")
    assert backend.data("/api/services/team%2Fshop/operations") == ["GET /a"]
    assert backend.data("/api/operations?service=team%2Fshop") == [{"name": "GET /a", "spanKind": "server"}]
    assert ids(backend.data("/api/traces/aa")) == [0xAA]
    assert "GET /a" in backend.get("query", "/")[1].decode()
    status, body, headers = backend.request("query", "GET", "/api/traces/ab")
    assert (status, headers["Content-Type"], body[-1:]) == (404, "application/json", b"\n")
    assert backend.request("query", "HEAD", "/api/services")[0] == 200
    assert backend.request("query", "POST", "/api/services")[0] == 405


# Parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1.2s", 1_200_000_000), ("100ms", 100_000_000), ("500us", 500_000), ("7µs", 7_000), ("3ns", 3)]
    + [("1h2m3.5s", 3_723_500_000_000), (".5s", 500_000_000), ("", 42), ("9" * 19 + "h", 2**63)],
)
def test_durations_in_gos_form(text: str, nanoseconds: int) -> None:
    """The UI sends what the user types into "Max Duration": 1.2s, 100ms, 500us."""
    assert parse_duration(text, 42) == nanoseconds


@pytest.mark.parametrize("text", ["5", "s", "1 s", "-1s", "1s!", "1x", "1..5s", "١s", "1e3s", "1s" * 60])
def test_what_is_no_duration(text: str) -> None:
    """Half understood, it would filter by something that the user did not say."""
    with pytest.raises(ParameterError):
        parse_duration(text, 0)


@pytest.mark.parametrize("text", ["", "0", "g", "1" * 33, "-1", "0x1", " 1"])
def test_what_is_no_trace_id(text: str) -> None:
    """Longer ids must not be cut into ids of other traces."""
    with pytest.raises(ParameterError):
        parse_trace_id(text)
