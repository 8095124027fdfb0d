"""Servers on the loopback that clients of the tests talk to: an origin that notes all it receives, with TLS or not, and a proxy."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 10
LARGE = 8 * 1024 * 1024
#: How often ``/flaky`` answers 503 before it answers 200.
FAILURES = 2


class Received(NamedTuple):
    """One request, as it came in; names of headers in lower case."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str | None:
        """The one value of a header that must not be there twice."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def trace(self) -> tuple[int, int, int] | None:
        """Trace id, span id and the sampled flag, which both formats of ours must agree on (not on their other flags)."""
        parent, uber = self.value("traceparent"), self.value("uber-trace-id")
        if parent is None and uber is None:
            return None
        assert parent is not None
        assert uber is not None
        _, trace_id, span_id, flags = parent.split("-")
        theirs = uber.split(":")
        ids = int(trace_id, 16), int(span_id, 16), int(flags, 16) & 1
        assert ids == (int(theirs[0], 16), int(theirs[1], 16), int(theirs[3], 16))
        return ids


class Handler(BaseHTTPRequestHandler):
    """``/status/404``, ``/redirect/2``, ``/flaky``, ``/held``, ``/silent``, ``/large``; anything else is ``ok``."""

    protocol_version = "HTTP/1.1"
    server: Server

    def _note(self) -> Received:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        received = Received(self.command, self.path, headers, self._body(), self.client_address[1])
        self.server.received.append(received)
        return received

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = b""
            while size := int(self.rfile.readline(), 16):
                chunks += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return chunks
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, status: int, body: bytes = b"ok", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Answer", "first")
        self.send_header("X-Answer", "second")
        self.send_header("Set-Cookie", "session=secret")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:  # noqa: N802
        self._note()
        _, _, rest = self.path.partition("://")
        path = "/" + (rest.partition("/")[2] if rest else self.path[1:])
        name, _, argument = path[1:].partition("?")[0].partition("/")
        if name == "status":
            self._answer(int(argument))
        elif name == "redirect" and int(argument):
            self._answer(302, Location=f"/redirect/{int(argument) - 1}")
        elif name == "flaky" and sum("/flaky" in request.target for request in self.server.received) <= FAILURES:
            self._answer(503)
        elif name == "held":
            self._answer(200, b"begin", length=LARGE)
            self.wfile.flush()
            self.server.release.wait(DEADLINE_S)
            self.wfile.write(b"x" * (LARGE - len(b"begin")))
        elif name == "silent":
            self.server.release.wait(DEADLINE_S)
            self.close_connection = True
        else:
            self._answer(200)

    do_POST = do_PUT = do_BREW = do_HEAD = do_GET  # noqa: N815

    def do_CONNECT(self) -> None:  # noqa: N802
        self._note()
        if self.server.refuses:
            self._answer(502)
            return
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port)), DEADLINE_S) as upstream:
            self.send_response(200, "Connection established")
            self.end_headers()
            forth = threading.Thread(target=_pump, args=(self.connection, upstream), daemon=True)
            forth.start()
            _pump(upstream, self.connection)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Server(ThreadingHTTPServer):
    """Runs until closed; ``release`` lets go of ``/held`` and ``/silent``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[Received] = []
        self.release = threading.Event()
        self.refuses = False
        self.port: int = self.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""

    def close(self) -> None:
        self.release.set()
        self.shutdown()
        self._thread.join(DEADLINE_S)
        self.server_close()


def write_certificate(folder: Path) -> Path:
    """A key and a self-signed certificate for the loopback, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "loopback.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
