"""What encoding a span costs: CPU per span and bytes per span for each format, and beside it what others need.

Usage: ``python benchmarks/encode.py``. Spans have nine attributes, all of an instrument (facts). Ours are measured twice: with a
hundred paths, which are known after a while, and with a path of its own for each span, as with ids in it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from autoinstr.model import Kind, Resource, SpanData
from autoinstr.wire import jaeger, otlp, zipkin

BATCH = 512
ROUNDS = 20
RESOURCE = Resource("shop", {"host.name": "web-1", "process.pid": 4711})


def _route(method: str, scheme: str, host: str, port: int, route: str, status: int) -> dict[str, Any]:
    return {
        "http.request.method": method,
        "url.scheme": scheme,
        "server.address": host,
        "server.port": port,
        "http.route": route,
        "http.response.status_code": status,
    }


def _target(path: str) -> dict[str, Any]:
    return {"url.path": path}


def _client(address: str, user_agent: str) -> dict[str, Any]:
    return {"client.address": address, "user_agent.original": user_agent}


def spans(paths: Callable[[int], str] = lambda number: f"/item/{number % 100}") -> list[SpanData]:
    """A batch of a web service: few routes, random ids, every other span a root."""
    dice = random.Random(7)
    made = []
    for number in range(BATCH):
        start = 1_763_867_358_123_456_789 + number * 1_000_003
        span = SpanData(
            "GET /item/<id>",
            dice.getrandbits(128),
            dice.getrandbits(64),
            dice.getrandbits(64) * (number & 1),
            kind=Kind.SERVER,
            start_ns=start,
            end_ns=start + dice.randint(100_000, 50_000_000),
            scope="flask",
        )
        span.facts = (
            (_route, "GET", "http", "shop.example", 8080, "/item/<id>", (200, 201, 404)[number % 3]),
            (_target, paths(number)),
            (_client, "10.0.0.1", "curl/8.5"),
        )
        made.append(span)
    return made


def measure(encode: Callable[[], Sequence[bytes]], prepare: Callable[[], object] = lambda: None) -> tuple[float, float]:
    """The least CPU nanoseconds per span of several rounds, ``prepare`` not counted, and bytes per span."""
    size = sum(map(len, encode()))
    best = float("inf")
    for _ in range(ROUNDS):
        prepare()
        started = time.process_time_ns()
        encode()
        best = min(best, time.process_time_ns() - started)
    return best / BATCH, size / BATCH


def ours() -> dict[str, Any]:
    """Our encoders."""
    return {
        "jaeger compact": jaeger.CompactEncoder(RESOURCE),
        "jaeger binary": jaeger.BinaryEncoder(RESOURCE),
        "otlp protobuf": otlp.ProtobufEncoder(RESOURCE, version="1"),
        "otlp json": otlp.JsonEncoder(RESOURCE, version="1"),
        "zipkin json": zipkin.JsonEncoder(RESOURCE),
    }


def measure_ours(encoder: Any, batch: list[SpanData]) -> tuple[float, float, float]:
    """CPU nanoseconds per span where paths repeat and where they do not, and bytes per span."""
    known, size = measure(lambda: [payload for payload, _ in encoder.encode(batch)[0]])
    ids = count()
    fresh: list[SpanData] = []

    def renew() -> None:
        fresh[:] = spans(lambda _: f"/item/{next(ids)}")

    renew()
    new, _ = measure(lambda: [payload for payload, _ in encoder.encode(fresh)[0]], renew)
    return known, new, size


def theirs(batch: list[SpanData]) -> dict[str, Callable[[], Sequence[bytes]]]:
    """Other people's classes for the same formats, where they are installed."""
    found: dict[str, Callable[[], Sequence[bytes]]] = {}
    for add in (_jaeger_client, _opentelemetry_proto):
        try:
            found.update(add(batch))
        except ImportError as error:
            print(f"left out: {error}")
    return found


def _jaeger_client(batch: list[SpanData]) -> dict[str, Callable[[], Sequence[bytes]]]:
    """Jaeger's Python client: from its tags to bytes, as its reporter does it."""
    from jaeger_client.thrift_gen.jaeger import ttypes
    from thrift.protocol import TBinaryProtocol, TCompactProtocol
    from thrift.transport.TTransport import TMemoryBuffer

    def tag(key: str, value: Any) -> Any:
        return ttypes.Tag(key, 0, vStr=value) if isinstance(value, str) else ttypes.Tag(key, 3, vLong=value)

    def span(data: SpanData) -> Any:
        tags = [tag(key, value) for key, value in data.attributes.items()]
        ids = [value - (1 << 64) * (value >> 63) for value in (data.trace_id & (1 << 64) - 1, data.trace_id >> 64)]
        own = [value - (1 << 64) * (value >> 63) for value in (data.span_id, data.parent_id)]
        start, duration = data.start_ns // 1000, (data.end_ns - data.start_ns) // 1000
        return ttypes.Span(*ids, *own, data.name, None, 1, start, duration, tags, None)

    def encode(protocol: Any) -> list[bytes]:
        buffer = TMemoryBuffer()
        process = ttypes.Process(RESOURCE.service_name, [tag(*item) for item in RESOURCE.attributes.items()])
        ttypes.Batch(process, [span(data) for data in batch]).write(protocol(buffer))
        return [buffer.getvalue()]

    return {
        "jaeger compact": lambda: encode(TCompactProtocol.TCompactProtocol),
        "jaeger binary": lambda: encode(TBinaryProtocol.TBinaryProtocol),
    }


def _opentelemetry_proto(batch: list[SpanData]) -> dict[str, Callable[[], Sequence[bytes]]]:
    """OpenTelemetry's generated classes (C inside), filled as its exporter fills them."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource as PbResource
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

    def pairs(attributes: Any) -> list[Any]:
        return [
            KeyValue(
                key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
            )
            for key, value in attributes.items()
        ]

    def span(data: SpanData) -> Any:
        return Span(
            trace_id=data.trace_id.to_bytes(16, "big"),
            span_id=data.span_id.to_bytes(8, "big"),
            parent_span_id=data.parent_id.to_bytes(8, "big") if data.parent_id else None,
            name=data.name,
            kind=data.kind,
            start_time_unix_nano=data.start_ns,
            end_time_unix_nano=data.end_ns,
            attributes=pairs(data.attributes),
            flags=0x101,
        )

    def encode() -> list[bytes]:
        scope_spans = ScopeSpans(
            scope=InstrumentationScope(name="autoinstr.flask"), spans=[span(data) for data in batch]
        )
        resource = PbResource(attributes=pairs({"service.name": RESOURCE.service_name, **RESOURCE.attributes}))
        request = ExportTraceServiceRequest(
            resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope_spans])]
        )
        return [request.SerializeToString()]

    return {"otlp protobuf": encode}


def main() -> None:
    """Print the table."""
    batch = spans()
    others = theirs(batch)
    print(f"{'format':16}{'ns/span':>10}{'new paths':>12}{'bytes/span':>12}{'others ns':>12}{'others bytes':>14}{'ratio':>8}")
    for name, encoder in ours().items():
        known, new, size = measure_ours(encoder, batch)
        line = f"{name:16}{known:10.0f}{new:12.0f}{size:12.0f}"
        if name in others:
            their_nanoseconds, their_size = measure(others[name])
            line += f"{their_nanoseconds:12.0f}{their_size:14.0f}{their_nanoseconds / known:8.1f}"
        print(line)


if __name__ == "__main__":
    main()
