"""Other people's clients as senders, and what no client would send."""

from __future__ import annotations

import gzip
import random
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind
from py_zipkin import Encoding, zipkin

from autoinstr.backend.receive.grpc import METHOD

from . import clients
from .conftest import HOST, Backend, poll, running

HEADERS = {
    "thrift": {"Content-Type": "application/x-thrift"},
    "protobuf": {"Content-Type": "application/x-protobuf"},
    "json": {"Content-Type": "application/json"},
    "gzip": {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
}


def trace_with(exporter: SpanExporter, service: str) -> None:
    """Two spans as an application with OpenTelemetry's SDK makes them."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("their.library", "1.2")
    attributes = {"http.route": "/x", "n": [1, 2]}
    with (
        tracer.start_as_current_span("parent", kind=SpanKind.SERVER, attributes=attributes),
        tracer.start_as_current_span("child") as child,
    ):
        child.add_event("happened", {"why": "test"})
        child.record_exception(ValueError("broke"))
    provider.shutdown()


def assert_both_spans(backend: Backend, service: str) -> None:
    trace = poll(
        lambda: next((t for t in backend.data(f"/api/traces?service={service}&start=0") if len(t["spans"]) == 2), None),
        "two spans",
    )
    spans = {span["operationName"]: span for span in trace["spans"]}
    assert spans["child"]["references"][0]["spanID"] == spans["parent"]["spanID"]
    assert len(spans["child"]["logs"]) == 2
    tags = {tag["key"]: tag["value"] for tag in spans["parent"]["tags"]}
    assert (tags["span.kind"], tags["http.route"]) == ("server", "/x")


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
def test_opentelemetrys_http_exporter(backend: Backend, compression: Compression) -> None:
    """What most Python services of today send."""
    service = f"otel-http-{compression.value}"
    endpoint = f"http://{HOST}:{backend.ports['otlp']}/v1/traces"
    trace_with(HttpExporter(endpoint=endpoint, compression=compression), service)
    assert_both_spans(backend, service)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_opentelemetrys_grpc_exporter(backend: Backend, compression: grpc.Compression) -> None:
    """And what they send when nobody chose."""
    service = f"otel-grpc-{compression.name}"
    endpoint = f"{HOST}:{backend.ports['otlp-grpc']}"
    trace_with(GrpcExporter(endpoint=endpoint, insecure=True, compression=compression), service)
    assert_both_spans(backend, service)


def test_py_zipkin(backend: Backend) -> None:
    """Zipkin's Python client, by its own words."""

    def send(payload: str) -> None:
        url = f"http://{HOST}:{backend.ports['zipkin']}/api/v2/spans"
        request = urllib.request.Request(url, payload.encode(), HEADERS["json"], method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 202

    root = zipkin.zipkin_span(
        service_name="py-zipkin",
        span_name="parent",
        transport_handler=send,
        sample_rate=100.0,
        encoding=Encoding.V2_JSON,
        binary_annotations={"wombat": "yes"},
    )
    with root, zipkin.zipkin_span(service_name="py-zipkin", span_name="child"):
        pass
    trace = backend.wait_for_service("py-zipkin")
    spans = {span["operationName"]: span for span in trace["spans"]}
    assert spans["child"]["references"][0]["spanID"] == spans["parent"]["spanID"]
    assert {"key": "wombat", "type": "string", "value": "yes"} in spans["parent"]["tags"]


@pytest.mark.parametrize("port", ["agent", "agent-binary"])
@pytest.mark.parametrize("compact", [True, False], ids=["compact", "binary"])
def test_jaegers_clients_over_udp(backend: Backend, port: str, compact: bool) -> None:
    """Jaeger's own classes, either protocol, on either port: clients are configured with all four."""
    service = f"jaeger-{port}-{compact}"
    backend.send_datagram(clients.jaeger_datagram(service, compact=compact), port)
    assert len(backend.wait_for_service(service)["spans"]) == 1


def damaged(payload: bytes, dice: random.Random) -> bytes:
    data = bytearray(payload)
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.randrange(1, 20))
        data[start:end] = dice.choice((b"", dice.randbytes(dice.randrange(1, 9)), data[start:end] * 2, bytes(8)))
    return bytes(data)


def bodies(payload: bytes, number: int) -> Iterator[bytes]:
    """What is nearly right, what is not at all, and what is meant to hurt."""
    dice = random.Random(payload)
    for _ in range(number):
        yield damaged(payload, dice)
    yield b""
    yield dice.randbytes(1000)
    for unit in (b"[", b'{"a":', b"\x0a\x00", b"\x12\x00", b"\x1c", b"\x0c\x00\x01", b"\xff"):
        yield unit * (30_000 // len(unit))


POSTS: list[tuple[str, str, str, Callable[[], bytes]]] = [
    ("collector", "/api/traces", "thrift", lambda: clients.jaeger_http_body("fuzz")),
    ("otlp", "/v1/traces", "protobuf", lambda: clients.otlp_body("fuzz")),
    ("otlp", "/v1/traces", "json", lambda: clients.otlp_json_body("fuzz")),
    ("otlp", "/v1/traces", "gzip", lambda: gzip.compress(clients.otlp_body("fuzz"))),
    ("zipkin", "/api/v2/spans", "json", lambda: clients.zipkin_body("fuzz")),
]


@pytest.mark.parametrize(("port", "path", "kind", "make"), POSTS, ids=[f"{post[0]}-{post[2]}" for post in POSTS])
def test_damaged_bodies_are_the_senders_fault(
    backend: Backend, port: str, path: str, kind: str, make: Callable[[], bytes]
) -> None:
    """A 500 would be tried again for ever, and a crash is the end of everybody's traces."""
    statuses = {backend.post(port, path, body, HEADERS[kind])[0] for body in bodies(make(), 60)}
    assert statuses <= {200, 202, 400, 413}
    assert 400 in statuses


def test_damaged_calls_are_the_senders_fault(backend: Backend) -> None:
    """The same over gRPC."""
    codes = set()
    with grpc.insecure_channel(f"{HOST}:{backend.ports['otlp-grpc']}") as channel:
        call = channel.unary_unary(METHOD)
        for body in bodies(clients.otlp_body("fuzz"), 60):
            try:
                call(body, timeout=30)
            except grpc.RpcError as error:
                codes.add(error.code())
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}


def test_damaged_datagrams_end_nothing(backend: Backend) -> None:
    """Anybody can send a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for compact in (True, False):
            for body in bodies(clients.jaeger_datagram("fuzz", compact=compact), 300):
                sock.sendto(body, (HOST, backend.ports["agent"]))
                sock.sendto(body, (HOST, backend.ports["agent-binary"]))
    backend.send_datagram(clients.jaeger_datagram("after-fuzz", compact=True))
    backend.wait_for_service("after-fuzz")


def test_damaged_requests_end_nothing(backend: Backend) -> None:
    """Scanners send what is no HTTP at all, to every port."""
    for port in ("query", "sampling", "collector", "otlp", "zipkin", "otlp-grpc"):
        for request in (
            b"\x16\x03\x01\x02\x00",
            b"GET\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"\0" * 999,
        ):
            with socket.create_connection((HOST, backend.ports[port]), timeout=30) as sock:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    pass
    assert backend.get("query", "/health") == (200, b"ok\n")


def test_none_of_this_is_a_fault_of_ours(tmp_path: Path) -> None:
    """An error that a handler did not expect ends in the log, not in an answer."""
    with running(tmp_path) as backend:
        for port, path, kind, make in POSTS:
            for body in bodies(make(), 10):
                backend.post(port, path, body, HEADERS[kind])
        for body in bodies(clients.jaeger_datagram("fuzz", compact=True), 10):
            backend.send_datagram(body)
        assert backend.get("query", "/ready") == (200, b"ready\n")
        backend.process.terminate()
        assert backend.process.wait(30) == 0
        assert backend.process.stderr.read() == ""
