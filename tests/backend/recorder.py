"""A collector that does as it is told: it records requests, and answers what a test wants, when it wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jaeger_client.thrift_gen.jaeger import ttypes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

#: Status, headers, body.
Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b"")


class Recorder:
    """Listens on a port of its own, which it keeps over ``stop`` and ``start``."""

    def __init__(self) -> None:
        #: What the next requests are answered; afterwards ``otherwise``. A function is called, and does everything itself.
        self.answers: deque[Answer | Callable[[BaseHTTPRequestHandler], None]] = deque()
        self.otherwise: Answer = OK
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        #: Bodies that were answered 2xx.
        self.taken: list[bytes] = []
        self.tls: ssl.SSLContext | None = None
        self.port = 0
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                recorder._connections.add(self.request)
                super().setup()

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()
                recorder._connections.discard(self.request)

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def do_POST(self) -> None:
                recorder._take(self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """As if it was killed: no new connections, and the open ones end where they are."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.socket.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.path, dict(handler.headers.items()), body))
        answer = self.answers.popleft() if self.answers else self.otherwise
        if callable(answer):
            answer(handler)
            return
        status, headers, text = answer
        if 200 <= status < 300:
            self.taken.append(body)
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)


def otlp_names(bodies: list[bytes]) -> list[str]:
    """The names of all spans, read by OpenTelemetry's own library."""
    return [
        span.name
        for body in bodies
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def jaeger_batch_of(body: bytes) -> ttypes.Batch:
    """A request's batch, read by Jaeger's own library."""
    batch = ttypes.Batch()
    batch.read(TBinaryProtocol(TMemoryBuffer(body)))
    return batch
