"""Arize Phoenix, a large server that takes OTLP; only on demand.

Owns: running it; how the JSON of its REST API is read.
Must not know: what is tested.

``AUTOINSTR_TEST_PHOENIX`` names one that runs, by its URL, or the ``phoenix`` program of an installation (some 150 packages:
nothing for each run).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ports import free_port

from .contract import ASKED, HOST, Carries, Event, Record, ask
from .shared import shared_server

VARIABLE = "AUTOINSTR_TEST_PHOENIX"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Phoenix:
    """One that runs. It knows projects, not services, and keeps nothing of the process."""

    carries = Carries(
        services=False, kinds=False, internal=False, resource=False, resource_apart=False, links=False, nanoseconds=False
    )
    #: It stores some 200 spans in a second of CPU time.
    patience_s = 120.0

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def target(self, reporter: str) -> str:
        assert reporter.startswith("otlp")
        return self.url

    def trace(self, trace_id: int) -> list[Record]:
        found: list[Record] = []
        parameters: dict[str, Any] = {"trace_id": f"{trace_id:032x}", "limit": 1000}
        while True:
            answer = ask(f"{self.url}/v1/projects/default/spans?{urlencode(parameters)}")
            found += map(_record, answer["data"] if answer else ())
            if not answer or not answer.get("next_cursor"):
                return found
            parameters["cursor"] = answer["next_cursor"]

    def traces(self, service: str) -> list[list[Record]]:
        raise NotImplementedError

    def services(self) -> list[str]:
        raise NotImplementedError

    def operations(self, service: str) -> list[str]:
        raise NotImplementedError

    def dependencies(self) -> dict[tuple[str, str], int] | None:
        return None


@contextmanager
def opened(folder: Path) -> Iterator[Phoenix]:
    named = ASKED[VARIABLE]
    if "://" in named:
        yield Phoenix(named)
        return
    assert Path(named).is_file(), f"{VARIABLE} is neither a URL nor a file: {named}"
    environ = {
        "PHOENIX_PORT": "{port}",
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_HOST": HOST,
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with shared_server("phoenix", folder, [named, "serve"], environ, free_port(), "/healthz") as port:
        yield Phoenix(f"http://{HOST}:{port}")


def _record(span: Mapping[str, Any]) -> Record:
    start_ns = _time_ns(span["start_time"])
    return Record(
        trace_id=int(span["context"]["trace_id"], 16),
        span_id=int(span["context"]["span_id"], 16),
        parent_id=int(span.get("parent_id") or "0", 16),
        name=span["name"],
        service="",
        kind="",
        start_ns=start_ns,
        duration_ns=_time_ns(span["end_time"]) - start_ns,
        tags=_flat(span["attributes"]),
        events=tuple(
            Event(event["name"], _time_ns(event["timestamp"]), _flat(event.get("attributes") or {}))
            for event in span.get("events") or ()
        ),
        is_error=span["status_code"] == "ERROR",
        status_message=span.get("status_message") or "",
    )


def _flat(attributes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names with dots may come as nested objects."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _time_ns(text: str) -> int:
    """Exactly: seconds as a float would lose the last digits."""
    passed = datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH
    return ((passed.days * 86_400 + passed.seconds) * 10**6 + passed.microseconds) * 1000
