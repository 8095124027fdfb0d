"""OTLP over gRPC, with grpcio's own client and OpenTelemetry's messages."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from autoinstr.backend import receive
from autoinstr.backend.guard import Credentials
from autoinstr.backend.receive.grpc import METHOD, start
from autoinstr.backend.receive.losses import LossBook
from autoinstr.backend.receive.writer import QueueWriter
from autoinstr.wire import protobuf

from . import clients
from .conftest import DEADLINE_S, HOST, Backend, running, serve_command
from .test_writer import Shelf, hold


def export(port: int, body: bytes, **options: object) -> ExportTraceServiceResponse:
    """One call with bytes that somebody else made."""
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.unary_unary(METHOD)
        return ExportTraceServiceResponse.FromString(call(body, timeout=DEADLINE_S, **options))


def refusal(port: int, body: bytes, **options: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        export(port, body, **options)
    return raised.value


def test_spans_are_stored(backend: Backend) -> None:
    """OpenTelemetry's exporters send gRPC where nobody said otherwise."""
    answer = export(backend.ports["otlp-grpc"], clients.otlp_body("grpc", spans=3))
    assert not answer.HasField("partial_success")
    assert len(backend.wait_for_service("grpc")["spans"]) == 3


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_spans_are_stored(backend: Backend, compression: grpc.Compression) -> None:
    """OTEL_EXPORTER_OTLP_COMPRESSION=gzip."""
    service = f"grpc-{compression.name}"
    export(backend.ports["otlp-grpc"], clients.otlp_body(service, spans=50), compression=compression)
    assert len(backend.wait_for_service(service)["spans"]) == 50


def test_garbage_is_an_invalid_argument(backend: Backend) -> None:
    """Exporters must not try again what will never be right."""
    assert refusal(backend.ports["otlp-grpc"], b"garbage").code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(backend.ports["otlp-grpc"], b"\x1f\x8bgarbage").code() == grpc.StatusCode.INVALID_ARGUMENT


def test_other_methods_are_unimplemented(backend: Backend) -> None:
    """Exporters of metrics and logs find the same port."""
    with grpc.insecure_channel(f"{HOST}:{backend.ports['otlp-grpc']}") as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=DEADLINE_S)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def resident_mb(backend: Backend) -> int:
    lines = Path(f"/proc/{backend.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_bomb_does_not_unfold(backend: Backend) -> None:
    """A megabyte of zeros, compressed, is a gigabyte: grpcio alone would inflate it before it looks at its size."""
    export(backend.ports["otlp-grpc"], clients.otlp_body("grpc-before"))
    before = resident_mb(backend)
    bomb = gzip.compress(bytes(1 << 30), 1)
    assert refusal(backend.ports["otlp-grpc"], bomb).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    # And as clients do it, who say in a header that the message is compressed.
    code = refusal(backend.ports["otlp-grpc"], bytes(150 << 20), compression=grpc.Compression.Gzip).code()
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_mb(backend) - before < 100


def test_spans_without_ids_are_a_partial_success(backend: Backend) -> None:
    """The sender is told of what was dropped, as the specification has it, and keeps the rest."""
    body = clients.otlp_body("grpc-partial", spans=2)
    nameless = protobuf.bytes_field(1, protobuf.bytes_field(2, protobuf.bytes_field(2, b"")))
    answer = export(backend.ports["otlp-grpc"], body + nameless)
    assert answer.partial_success.rejected_spans == 1
    assert "no trace id" in answer.partial_success.error_message
    assert len(backend.wait_for_service("grpc-partial")["spans"]) == 2


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def writer(shelf: Shelf) -> Iterator[QueueWriter]:
    made = QueueWriter(shelf, max_bytes=100)
    yield made
    shelf.is_open.set()
    made.close(DEADLINE_S)


def test_a_full_queue_says_when_to_come_again(shelf: Shelf, writer: QueueWriter) -> None:
    """Without RetryInfo exporters drop the spans instead of trying again."""
    server = start(f"{HOST}:0", receive.Intake(writer, LossBook()), Credentials())
    server.start()
    try:
        hold(shelf, writer)
        writer.submit([], 99)
        error = refusal(server.port, clients.otlp_body("full"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = protobuf.fields(details)
        assert status[1 << 3] == [8]
        [detail] = status[3 << 3 | protobuf.LENGTH]
        assert b"type.googleapis.com/google.rpc.RetryInfo" in detail
    finally:
        shelf.is_open.set()
        server.close(5)


def test_a_failing_store_is_unavailable(shelf: Shelf, writer: QueueWriter) -> None:
    """UNAVAILABLE is tried again; OK would be a lie, INTERNAL the end."""
    shelf.broken = True
    server = start(f"{HOST}:0", receive.Intake(writer, LossBook()), Credentials())
    server.start()
    try:
        assert refusal(server.port, clients.otlp_body("broken")).code() == grpc.StatusCode.UNAVAILABLE
    finally:
        server.close(5)


def test_a_password_is_demanded(tmp_path: Path) -> None:
    """The one port without HTTP must not be the way around the password."""
    with running(tmp_path, "--token", "secret") as backend:
        port = backend.ports["otlp-grpc"]
        assert refusal(port, clients.otlp_body("x")).code() == grpc.StatusCode.UNAUTHENTICATED
        export(port, clients.otlp_body("x"), metadata=(("authorization", "Bearer secret"),))


def test_without_grpcio_the_rest_runs(tmp_path: Path) -> None:
    """grpcio is large, and not there on every platform."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nsys.modules['grpc'] = None\nfrom autoinstr.backend.app import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(script), *serve_command()[4:], "--ports-file", str(tmp_path / "ports.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(8)]
    finally:
        process.terminate()
        _, error = process.communicate(timeout=DEADLINE_S)
    assert "otlp-grpc off: OTLP over gRPC is off: pip install 'autoinstr[grpc]'\n" in lines
    assert any(line.startswith("query ") for line in lines)
    assert error == ""
