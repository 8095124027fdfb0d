"""Zipkin's own server, from Maven Central, with its spans in memory.

Owns: running it; how Zipkin's JSON is read.
Must not know: what is tested.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ports import free_port

from . import zipkin_jar
from .contract import HOST, Carries, Event, Record, ask
from .shared import shared_server

ENVIRON = {"QUERY_PORT": "{port}", "SELF_TRACING_ENABLED": "false", "STORAGE_TYPE": "mem"}
#: A quick start matters more than a fast server.
JAVA = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
HOUR_MS = 3_600_000


class Zipkin:
    """One that listens at a port."""

    #: Names in small letters; no types, no links; kinds but "internal"; what is known of the process is in the tags.
    carries = Carries(
        types=False, lists=False, case=False, internal=False, resource_apart=False, links=False, nanoseconds=False
    )
    patience_s = 20.0

    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}"

    def target(self, reporter: str) -> str:
        assert reporter == "zipkin"
        return self.url

    def trace(self, trace_id: int) -> list[Record]:
        return [_record(span) for span in ask(f"{self.url}/api/v2/trace/{trace_id:032x}") or []]

    def traces(self, service: str) -> list[list[Record]]:
        found = ask(f"{self.url}/api/v2/traces?{urlencode({'serviceName': service, **_window(), 'limit': 100})}")
        return [[_record(span) for span in trace] for trace in found]

    def services(self) -> list[str]:
        return list(ask(f"{self.url}/api/v2/services"))

    def operations(self, service: str) -> list[str]:
        return list(ask(f"{self.url}/api/v2/spans?{urlencode({'serviceName': service})}"))

    def dependencies(self) -> dict[tuple[str, str], int] | None:
        links = ask(f"{self.url}/api/v2/dependencies?{urlencode(_window())}")
        return {(link["parent"], link["child"]): link["callCount"] for link in links}


def missing() -> str:
    """What is not there, and what to do; empty if all is."""
    if shutil.which("java") is None:
        return "no java (17 or later; Debian: default-jre-headless)"
    return zipkin_jar.trouble()


@contextmanager
def opened(folder: Path) -> Iterator[Zipkin]:
    command = [*JAVA, "-jar", str(zipkin_jar.path())]
    with shared_server("zipkin", folder, command, ENVIRON, free_port(), "/health") as port:
        yield Zipkin(port)


def _window() -> dict[str, int]:
    return {"endTs": time.time_ns() // 10**6 + 60_000, "lookback": HOUR_MS}


def _record(span: Mapping[str, Any]) -> Record:
    tags = dict(span.get("tags", {}))
    error = tags.pop("error", None)
    return Record(
        trace_id=int(span["traceId"], 16),
        span_id=int(span["id"], 16),
        parent_id=int(span.get("parentId", "0"), 16),
        name=span.get("name", ""),
        service=span.get("localEndpoint", {}).get("serviceName", ""),
        kind=span.get("kind", "").lower(),
        start_ns=span["timestamp"] * 1000,
        duration_ns=span["duration"] * 1000,
        tags=tags,
        events=tuple(map(_event, span.get("annotations", ()))),
        is_error=error is not None,
        status_message="" if error in (None, "true") else error,
    )


def _event(annotation: Mapping[str, Any]) -> Event:
    """Attributes stand between bars, as OpenTelemetry's collector writes them."""
    name, *rest = annotation["value"].split("|", 1)
    attributes = json.loads(rest[0].rpartition("|")[0]) if rest else {}
    return Event(name, annotation["timestamp"] * 1000, attributes)
