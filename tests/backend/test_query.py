"""The query API, asked over HTTP as Jaeger's UI and curl ask it."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest

from autoinstr.backend.query import ParameterError, parse_duration, parse_trace_id

from .conftest import Backend

JSON = {"Content-Type": "application/json"}


def send(backend: Backend, service: str, name: str = "GET /", trace_id: int = 1, **more) -> None:
    """One span over Zipkin's port, ten milliseconds long, begun a second ago."""
    span = {
        "traceId": f"{trace_id:032x}",
        "id": f"{trace_id % 2**64:016x}",
        "name": name,
        "kind": "SERVER",
        "timestamp": time.time_ns() // 1000 - 1_000_000,
        "duration": 10_000,
        "localEndpoint": {"serviceName": service},
        **more,
    }
    assert backend.post("zipkin", "/api/v2/spans", json.dumps([span]).encode(), JSON)[0] == 202


def ids(traces: list[dict]) -> list[int]:
    return [int(trace["traceID"], 16) for trace in traces]


def error(backend: Backend, path: str) -> tuple[int, str]:
    status, body = backend.get("query", path)
    answer = json.loads(body)
    assert answer["data"] is None
    assert answer["errors"][0]["code"] == status
    return status, answer["errors"][0]["msg"]


def test_services_and_operations(backend: Backend) -> None:
    """The UI's two drop-down lists; names with slashes come percent-encoded."""
    send(backend, "team/shop", "GET /a", 0x101)
    send(backend, "team/shop", "GET /b", 0x102)
    send(backend, "team/shop", "GET /b", 0x103, kind="CLIENT")
    assert "team/shop" in backend.data("/api/services")
    assert backend.data("/api/services/team%2Fshop/operations") == ["GET /a", "GET /b"]
    assert backend.data("/api/operations?service=team%2Fshop") == [
        {"name": "GET /a", "spanKind": "server"},
        {"name": "GET /b", "spanKind": "server"},
        {"name": "GET /b", "spanKind": "client"},
    ]
    assert backend.data("/api/operations?service=team%2Fshop&spanKind=client") == [
        {"name": "GET /b", "spanKind": "client"}
    ]
    assert backend.data("/api/services/nobody/operations") == []
    assert error(backend, "/api/operations") == (400, "parameter 'service' is required")


def test_the_envelope(backend: Backend) -> None:
    """Clients read total for lists of names, and errors as null when there are none."""
    send(backend, "envelope", trace_id=0x201)
    status, body, headers = backend.request("query", "GET", "/api/services/envelope/operations")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"data": ["GET /"], "total": 1, "limit": 0, "offset": 0, "errors": None}
    assert b'\n    "data"' in backend.get("query", "/api/services?prettyPrint=true")[1]


def test_one_trace_by_id(backend: Backend) -> None:
    """An id copied from a log finds its trace, with leading zeros or without."""
    send(backend, "by-id", trace_id=0x301)
    for text in ("301", "0000000000000301", f"{0x301:032x}"):
        assert ids(backend.data(f"/api/traces/{text}")) == [0x301]
    assert error(backend, "/api/traces/302") == (404, "trace not found")
    assert error(backend, "/api/traces/nonsense")[0] == 400


def test_a_search_by_several_ids_names_the_missing_ones(backend: Backend) -> None:
    """The UI compares traces by ids of which some may be gone."""
    send(backend, "by-ids", trace_id=0x401)
    status, body = backend.get("query", "/api/traces?traceID=401&traceID=402")
    answer = json.loads(body)
    assert (status, ids(answer["data"])) == (200, [0x401])
    assert answer["errors"] == [{"msg": "trace not found", "traceID": "0000000000000402"}]


def test_search(backend: Backend) -> None:
    """Each of the search form's fields narrows the result."""
    send(backend, "search", "GET /fast", 0x501, duration=1_000)
    send(backend, "search", "GET /slow", 0x502, duration=900_000, tags={"user": "ann", "note": "a:b"})
    send(backend, "search", "GET /old", 0x503, timestamp=time.time_ns() // 1000 - 3 * 86_400 * 1_000_000)

    def search(parameters: str) -> list[int]:
        return sorted(ids(backend.data(f"/api/traces?service=search&lookback=1h&{parameters}")))

    assert search("") == [0x501, 0x502]
    assert search("operation=GET%20/slow") == [0x502]
    assert search("minDuration=1ms&maxDuration=1.5ms") == [0x501]
    assert search("minDuration=900ms") == [0x502]
    assert search("tags=" + quote('{"user":"ann"}')) == [0x502]
    assert search("tag=user:ann&tag=note:a:b") == [0x502]
    assert search("tag=user:bob") == []
    assert search("start=0") == [0x501, 0x502, 0x503]
    assert search(f"start=0&end={time.time_ns() // 1000 - 86_400 * 1_000_000}") == [0x503]
    assert len(search("limit=1")) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "service=a&minDuration=5",
        "service=a&minDuration=2s&maxDuration=1s",
        "service=a&limit=0",
        "service=a&limit=1e3",
        "service=a&limit=99999999999",
        "service=a&start=yesterday",
        "service=a&tag=novalue",
        "service=a&tags={",
        "service=a&tags=" + quote('{"status":404}'),
        "service=a&tags=" + "[" * 5000,
        "traceID=xyz",
        "traceID=0",
    ],
)
def test_wrong_parameters_are_errors_of_the_client(backend: Backend, parameters: str) -> None:
    """The UI shows the message; a 500 would look like our fault, and ignoring it would show wrong results."""
    status, message = error(backend, f"/api/traces?{parameters}")
    assert status == 400
    assert message


def test_text_that_is_no_utf8_can_be_queried(backend: Backend) -> None:
    """JSON lets clients send half a surrogate pair; one such name must not break the whole search."""
    send(backend, "surrogate", "GET \ud800", 0x601)
    assert ids(backend.data("/api/traces?service=surrogate")) == [0x601]
    assert backend.get("query", "/trees/601")[0] == 200
    assert backend.get("query", "/")[0] == 200


def test_trees(backend: Backend) -> None:
    """curl is enough to see a trace."""
    send(backend, "tree", "GET /tree", 0x701)
    text = backend.get("query", "/trees/701")[1].decode()
    assert text.startswith("trace 0000000000000701  1 span  1 service  10.0 ms\ntree  GET /tree ")
    assert "\x1b[" not in text
    assert "\x1b[" in backend.get("query", "/trees/701?colour=true")[1].decode()
    assert max(map(len, text.splitlines())) < 100
    assert backend.get("query", "/trees/702")[0] == 404
    assert [backend.get("query", f"/trees/{rest}")[0] for rest in ("zzz", "701?width=x")] == [400, 400]
    assert "GET /tree" in backend.get("query", "/")[1].decode()


def test_metrics_are_prometheus_text(backend: Backend) -> None:
    """A scrape must parse: one name, optional labels and one number a line."""
    send(backend, "metrics", trace_id=0x801)
    lines = backend.get("query", "/metrics")[1].decode().splitlines()
    parsed = dict(line.rsplit(" ", 1) for line in lines)
    assert int(parsed['autoinstr_received_spans_total{protocol="zipkin"}']) >= 1
    assert int(parsed["autoinstr_store_spans"]) >= 1
    assert {"autoinstr_udp_overflowed_datagrams_total", "autoinstr_udp_kernel_dropped_datagrams_total"} < set(parsed)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1.2s", 1_200_000_000), ("100ms", 100_000_000), ("500us", 500_000), ("7µs", 7_000), ("3ns", 3)]
    + [("1h2m3.5s", 3_723_500_000_000), (".5s", 500_000_000), ("", 42)],
)
def test_durations_in_gos_form(text: str, nanoseconds: int) -> None:
    """The UI sends what the user types into "Max Duration": 1.2s, 100ms, 500us."""
    assert parse_duration(text, 42) == nanoseconds


@pytest.mark.parametrize("text", ["5", "s", "1 s", "-1s", "1s!", "1x", "1..5s", "١s", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    """Half understood, it would filter by something that the user did not say."""
    with pytest.raises(ParameterError):
        parse_duration(text, 0)


@pytest.mark.parametrize("text", ["", "0", "g", "1" * 33, "-1", "0x1", " 1"])
def test_what_is_no_trace_id(text: str) -> None:
    """Longer ids must not be cut into ids of other traces."""
    with pytest.raises(ParameterError):
        parse_trace_id(text)
