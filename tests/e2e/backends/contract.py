"""What the acceptance tests know of any backend: spans in neutral words, ways to send, what each way can carry.

Owns: ``Record``, ``Reporter``, ``Carries``, the contract ``Backend``, the reading of OTLP's JSON.
Must not know: any backend, how processes are started.
Invariants: a record says only what the backend showed; nothing here comes from the agent's own codecs, so that a fault of
theirs cannot hide itself.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

PREFIXES = ("AUTOINSTR_", "_AUTOINSTR_", "JAEGER_", "OTEL_")
#: What a developer asks for. Read at import: the tests run without these variables.
ASKED = {name: value for name, value in os.environ.items() if name.startswith("AUTOINSTR_TEST_")}
HOST = "127.0.0.1"
ASK_S = 20


@dataclass(frozen=True)
class Event:
    """A note on a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A span as a backend shows it. What the backend does not tell is empty."""

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    service: str
    kind: str
    start_ns: int
    duration_ns: int
    tags: Mapping[str, Any]
    events: tuple[Event, ...] = ()
    is_error: bool = False
    status_message: str = ""
    links: tuple[tuple[int, int], ...] = ()
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Carries:
    """What arrives on a way; of two ways one behind the other, what both carry (``&``)."""

    #: Values that are no text, lists, empty texts; names as they are written, large and small letters.
    types: bool = True
    lists: bool = True
    empty_text: bool = True
    case: bool = True
    services: bool = True
    kinds: bool = True
    #: That a span is of the kind "internal", and not of none.
    internal: bool = True
    #: What is known of the process, at all, and apart from the spans' own tags.
    resource: bool = True
    resource_apart: bool = True
    links: bool = True
    #: Nanoseconds; False: microseconds.
    nanoseconds: bool = True

    def __and__(self, other: Carries) -> Carries:
        return Carries(**{each.name: getattr(self, each.name) and getattr(other, each.name) for each in fields(self)})

    @property
    def resolution_ns(self) -> int:
        """Times differ by less than that."""
        return 1 if self.nanoseconds else 1000

    @property
    def duration_resolution_ns(self) -> int:
        """Durations differ by less: some backends keep the two ends instead, each rounded by itself."""
        return 1 if self.nanoseconds else 2000


@dataclass(frozen=True)
class Reporter:
    """One of the agent's ways to send: its variables (``{url}``, ``{host}``, ``{port}`` stand for the target's)."""

    name: str
    environ: Mapping[str, str]
    carries: Carries
    #: Whether spans wait for a receiver that is away.
    retries: bool = True

    def variables(self, target: str) -> dict[str, str]:
        parts = urlsplit(target)
        return {
            name: value.format(url=target.rstrip("/"), host=parts.hostname, port=parts.port)
            for name, value in self.environ.items()
        }


_OTLP = {"AUTOINSTR_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"}
_JAEGER = Carries(lists=False, nanoseconds=False)
_TEXT = Carries(types=False, lists=False, resource_apart=False, links=False, nanoseconds=False)

_UDP = {"AUTOINSTR_EXPORTER": "jaeger-udp", "JAEGER_AGENT_HOST": "{host}", "JAEGER_AGENT_PORT": "{port}"}
_HTTP = {"AUTOINSTR_EXPORTER": "jaeger-http", "JAEGER_ENDPOINT": "{url}/api/traces"}
_ZIPKIN = {"AUTOINSTR_EXPORTER": "zipkin", "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "{url}/api/v2/spans"}

#: All that the agent has. ``jaeger-udp-6832``: compact Thrift at the port where Jaeger takes binary, which ours takes as well.
REPORTERS = {
    reporter.name: reporter
    for reporter in (
        Reporter("jaeger-udp", _UDP, _JAEGER, retries=False),
        Reporter("jaeger-udp-6832", _UDP, _JAEGER, retries=False),
        Reporter("jaeger-http", _HTTP, _JAEGER),
        Reporter("otlp-protobuf", _OTLP, Carries()),
        Reporter("otlp-gzip", {**_OTLP, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, Carries()),
        Reporter("otlp-json", {**_OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, Carries()),
        Reporter("zipkin", _ZIPKIN, _TEXT),
    )
}
OTLP = ("otlp-protobuf", "otlp-gzip", "otlp-json")


class Backend(Protocol):
    """A backend that runs, by the API that its own users have. What is not there yet is empty, not an error."""

    carries: Carries
    #: How long 2,000 spans may take until they are shown, on a busy machine.
    patience_s: float

    def target(self, reporter: str) -> str:
        """Where a reporter sends to: ``http://host:port`` or ``udp://host:port``."""

    def trace(self, trace_id: int) -> list[Record]: ...

    def traces(self, service: str) -> list[list[Record]]: ...

    def services(self) -> list[str]: ...

    def operations(self, service: str) -> list[str]: ...

    def dependencies(self) -> dict[tuple[str, str], int] | None:
        """How often which service called which; ``None`` where the backend has no such thing."""


def ask(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON of an answer; ``None`` for 404."""
    try:
        with _open(urllib.request.Request(url, headers={"Accept": "application/json", **(headers or {})})) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise AssertionError(f"{url} answered {error.code}: {error.read(2000)!r}") from None


def post(url: str, document: Any) -> None:
    """Send JSON; whatever is not a success is an error."""
    headers = {"Content-Type": "application/json"}
    with _open(urllib.request.Request(url, json.dumps(document).encode(), headers, method="POST")) as answer:
        answer.read()


def answers(url: str) -> bool:
    """Whether a server is there and well."""
    try:
        with _open(urllib.request.Request(url)) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _open(request: urllib.request.Request) -> Any:
    # No proxy: all of this is on this machine, or where the developer's own backend is.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=ASK_S)


def moved(target: str, port: int) -> str:
    """The same target at another port of this machine."""
    return urlunsplit(urlsplit(target)._replace(netloc=f"{HOST}:{port}"))


# OTLP's JSON, as files and the newer of Jaeger's APIs have it ---------------------------------------------------------

_KINDS = ("", "internal", "server", "client", "producer", "consumer")
_ERROR = 2


def records_of_otlp(document: Mapping[str, Any]) -> list[Record]:
    """The spans of an ``ExportTraceServiceRequest``, or of what has its form."""
    return [
        _record_of_otlp(span, _attributes(group.get("resource", {})))
        for group in document.get("resourceSpans", ())
        for scope in group.get("scopeSpans", ())
        for span in scope["spans"]
    ]


def _record_of_otlp(span: Mapping[str, Any], resource: dict[str, Any]) -> Record:
    start_ns, status = int(span["startTimeUnixNano"]), span.get("status", {})
    events = [Event(event["name"], int(event["timeUnixNano"]), _attributes(event)) for event in span.get("events", ())]
    return Record(
        trace_id=int(span["traceId"], 16),
        span_id=int(span["spanId"], 16),
        parent_id=int(span.get("parentSpanId") or "0", 16),
        name=span["name"],
        service=resource.get("service.name", ""),
        kind=_KINDS[span.get("kind", 0)],
        start_ns=start_ns,
        duration_ns=int(span["endTimeUnixNano"]) - start_ns,
        tags=_attributes(span),
        events=tuple(events),
        is_error=status.get("code") == _ERROR,
        status_message=status.get("message", ""),
        links=tuple((int(link["traceId"], 16), int(link["spanId"], 16)) for link in span.get("links", ())),
        resource=resource,
    )


def _attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in document.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "doubleValue":
        return float(content)
    if kind == "arrayValue":
        return [_value(item) for item in content.get("values", ())]
    return content
