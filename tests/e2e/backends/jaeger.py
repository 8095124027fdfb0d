"""Jaeger, and whatever speaks its query API: reading by ``/api``.

Owns: how Jaeger's JSON is read; a Jaeger of the developer's own, running somewhere or as a program to be started.
Must not know: who else speaks this API.
Invariants: traces are asked for as they were sent (``raw``), not as the backend would correct them.

A Jaeger is never there by itself: ``AUTOINSTR_TEST_JAEGER`` names one, by the URL of its query API or by the path of its
program (``jaeger`` of version 2, ``jaeger-all-in-one`` of version 1), which is then started on Jaeger's own ports.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .contract import ASKED, HOST, Carries, Event, Record, ask
from .shared import shared_server

VARIABLE = "AUTOINSTR_TEST_JAEGER"
#: Where its receivers are if not told otherwise: by reporter, the variable's ending, the scheme, the port.
RECEIVERS = {
    "jaeger-udp": ("UDP", "udp", 6831),
    "jaeger-http": ("HTTP", "http", 14268),
    "otlp-protobuf": ("OTLP", "http", 4318),
    "otlp-gzip": ("OTLP", "http", 4318),
    "otlp-json": ("OTLP", "http", 4318),
    "zipkin": ("ZIPKIN", "http", 9411),
}
#: What version 1 needs to be told; version 2 does not look.
ENVIRON = {"COLLECTOR_ZIPKIN_HOST_PORT": ":9411", "COLLECTOR_OTLP_ENABLED": "true", "SPAN_STORAGE_TYPE": "memory"}
QUERY_PORT = 16686
HOUR_S = 3600


class JaegerApi:
    """The read half of a backend."""

    #: Lists are shown as the text of their JSON, times in microseconds.
    carries = Carries(lists=False, nanoseconds=False)
    patience_s = 20.0

    def __init__(self, query_url: str) -> None:
        self.query_url = query_url.rstrip("/")

    def trace(self, trace_id: int) -> list[Record]:
        found = self._data(f"/api/traces/{trace_id:032x}?raw=true") or []
        return [record for trace in found for record in _records(trace)]

    def traces(self, service: str) -> list[list[Record]]:
        now_us = time.time_ns() // 1000
        window = {"start": now_us - HOUR_S * 10**6, "end": now_us + 60 * 10**6, "limit": 100, "raw": "true"}
        return [_records(trace) for trace in self._data(f"/api/traces?{urlencode({'service': service, **window})}") or []]

    def services(self) -> list[str]:
        return list(self._data("/api/services") or [])

    def operations(self, service: str) -> list[str]:
        return list(self._data(f"/api/services/{quote(service, safe='')}/operations") or [])

    def dependencies(self) -> dict[tuple[str, str], int] | None:
        window = {"endTs": time.time_ns() // 10**6 + 60_000, "lookback": HOUR_S * 1000}
        edges = self._data(f"/api/dependencies?{urlencode(window)}") or []
        return {(edge["parent"], edge["child"]): edge["callCount"] for edge in edges}

    def _data(self, path: str) -> Any:
        answer = ask(self.query_url + path)
        return answer and answer["data"]


class Jaeger(JaegerApi):
    """One that the developer has named."""

    def __init__(self, query_url: str) -> None:
        super().__init__(query_url)
        self._host = urlsplit(query_url).hostname

    def target(self, reporter: str) -> str:
        ending, scheme, port = RECEIVERS[reporter]
        return ASKED.get(f"{VARIABLE}_{ending}") or f"{scheme}://{self._host}:{port}"


def reporters() -> list[str]:
    """Those that the Jaeger at hand takes: one whose variable is ``none`` is left out."""
    return [name for name, (ending, _, _) in RECEIVERS.items() if ASKED.get(f"{VARIABLE}_{ending}") != "none"]


@contextmanager
def opened(folder: Path) -> Iterator[Jaeger]:
    named = ASKED[VARIABLE]
    if "://" in named:
        yield Jaeger(named)
        return
    assert Path(named).is_file(), f"{VARIABLE} is neither a URL nor a file: {named}"
    url = f"http://{HOST}:{QUERY_PORT}"
    with shared_server("jaeger", folder, [named], ENVIRON, QUERY_PORT, "/api/services"):
        yield Jaeger(url)


# Its JSON -------------------------------------------------------------------------------------------------------------


def _records(trace: Mapping[str, Any]) -> list[Record]:
    return [_record(span, trace["processes"][span["processID"]]) for span in trace["spans"]]


def _record(span: Mapping[str, Any], process: Mapping[str, Any]) -> Record:
    tags = _tags(span["tags"])
    trace_id = int(span["traceID"], 16)
    parents, links = _references(span["references"], trace_id)
    return Record(
        trace_id=trace_id,
        span_id=int(span["spanID"], 16),
        parent_id=parents[0] if parents else 0,
        name=span["operationName"],
        service=process["serviceName"],
        kind=tags.pop("span.kind", ""),
        start_ns=span["startTime"] * 1000,
        duration_ns=span["duration"] * 1000,
        is_error=tags.pop("error", False) is True,
        status_message=tags.pop("otel.status_description", ""),
        tags=tags,
        events=tuple(_event(log) for log in span["logs"]),
        links=tuple(links),
        resource=_tags(process["tags"]),
    )


def _references(references: list[dict[str, str]], trace_id: int) -> tuple[list[int], list[tuple[int, int]]]:
    targets = [(int(each["traceID"], 16), int(each["spanID"], 16), each["refType"] == "CHILD_OF") for each in references]
    parents = [span for trace, span, child_of in targets if child_of and trace == trace_id]
    return parents[:1], [(trace, span) for trace, span, _ in targets if (trace, span) != (trace_id, *parents[:1])]


def _event(log: Mapping[str, Any]) -> Event:
    fields = _tags(log["fields"])
    return Event(fields.pop("event", ""), log["timestamp"] * 1000, fields)


def _tags(tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {tag["key"]: _value(tag["type"], tag["value"]) for tag in tags}


def _value(kind: str, value: Any) -> Any:
    """With the type that is said, which JSON alone would not tell: 2.0 may be written as 2, and large integers as text."""
    return {"int64": int, "float64": float}.get(kind, lambda same: same)(value)
