"""OTLP over gRPC, port 4317.

Owns: the one method that OTLP's exporters call, its limits, its answers, the server of grpcio.
Must not know: how spans are kept.
Invariants: as in ``receive``: nothing that a peer sends raises out of here or takes unbounded memory; OK is answered only when
the store has the spans. No generated code: requests are bytes, which ``wire.otlp`` reads.

How far grpcio inflates a compressed message before it looks at its size depends on its version, so messages are inflated here,
with the limit that they have.
Sources: ``opentelemetry.proto.collector.trace.v1.TraceService``; the OTLP specification, "OTLP/gRPC".
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from autoinstr.backend.guard import Credentials
from autoinstr.backend.parts import Full
from autoinstr.backend.receive import RETRY_AFTER_S, STORE_TIMEOUT_S, Intake, RequestError, partial_success
from autoinstr.backend.receive.writer import NotStored
from autoinstr.wire import DecodeError, TooLarge, otlp, protobuf

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
#: Larger than the 4 MiB that gRPC has by itself: exporters that batch much are told so otherwise at every batch.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_CALLS = 32
WORKERS = 8
#: How messages in gzip and in deflate begin; a request that is not compressed begins with the tag of its first field, 0x0a.
COMPRESSED = (b"\x1f\x8b", b"\x78")


class NotAvailable(Exception):
    """There is no grpcio, or it cannot listen; the text says what to do."""


def start(address: str, intake: Intake, credentials: Credentials) -> GrpcReceiver:
    """Listen on ``host:port`` (0: any free port). ``NotAvailable`` without grpcio; OSError when the port is taken."""
    try:
        # Its core writes to stderr what is also raised.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import grpc  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise NotAvailable("OTLP over gRPC is off: pip install 'autoinstr[grpc]'") from error
    return GrpcReceiver(grpc, address, intake, credentials)


class GrpcReceiver:
    """A running server; ``port`` is the one it listens on."""

    def __init__(self, grpc: Any, address: str, intake: Intake, credentials: Credentials) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="autoinstr-grpc"),
            handlers=(_Handlers(grpc, intake, credentials),),
            maximum_concurrent_rpcs=MAX_CALLS,
            options=(
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_metadata_size", 16 * 1024),
                # Otherwise two servers could share a port, each with half of the spans.
                ("grpc.so_reuseport", 0),
                ("grpc.per_message_decompression", 0),
            ),
        )
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if not self.port:
            raise OSError("Address already in use")

    def start(self) -> None:
        """Take calls from now on."""
        self._server.start()

    def close(self, timeout_s: float) -> None:
        """Take no more calls, and end those that are under way within ``timeout_s``."""
        self._server.stop(timeout_s).wait(timeout_s + 1)


def _Handlers(grpc: Any, intake: Intake, credentials: Credentials) -> Any:  # noqa: N802 - stands in for a class
    """A generic handler, made here because its base class is grpcio's."""
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, context: _export(grpc, intake, credentials, request, context)
    )

    class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return method if details.method == METHOD else None

    return Handlers()


def _export(grpc: Any, intake: Intake, credentials: Credentials, request: bytes, context: Any) -> bytes:
    """The answer of one call; ``context.abort`` raises."""
    codes = grpc.StatusCode
    metadata = dict(context.invocation_metadata())
    if credentials and not credentials.accept(str(metadata.get("authorization", ""))):
        intake.count("refused", "otlp-grpc")
        context.abort(codes.UNAUTHENTICATED, "a password or a token is needed")
    encoding = "gzip" if request.startswith(COMPRESSED) else ""
    try:
        stored = intake.take("otlp-grpc", otlp.decode_protobuf, request, encoding, MAX_MESSAGE_BYTES)
        return partial_success(stored.result(STORE_TIMEOUT_S))
    except Full as error:
        _abort_with_retry(codes.RESOURCE_EXHAUSTED, str(error), context)
    except (NotStored, FutureTimeout) as error:
        context.abort(codes.UNAVAILABLE, str(error) or "not stored in time")
    except RequestError as error:
        context.abort(codes.RESOURCE_EXHAUSTED if error.status == 413 else codes.INVALID_ARGUMENT, error.message)
    except TooLarge as error:
        context.abort(codes.RESOURCE_EXHAUSTED, str(error))
    except DecodeError as error:
        context.abort(codes.INVALID_ARGUMENT, f"Unable to process request: {error}")
    raise AssertionError("abort has raised")


def _abort_with_retry(code: Any, message: str, context: Any) -> None:
    """Clients try RESOURCE_EXHAUSTED again only when it comes with a ``google.rpc.RetryInfo``."""
    delay = protobuf.bytes_field(1, protobuf.varint_field(1, RETRY_AFTER_S))
    detail = protobuf.bytes_field(1, b"type.googleapis.com/google.rpc.RetryInfo") + protobuf.bytes_field(2, delay)
    status = (
        protobuf.varint_field(1, code.value[0])
        + protobuf.bytes_field(2, message.encode())
        + protobuf.bytes_field(3, detail)
    )
    context.set_trailing_metadata((("grpc-status-details-bin", status),))
    context.abort(code, message)
