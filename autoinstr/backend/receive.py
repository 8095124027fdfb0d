"""How spans come in: Jaeger's UDP and HTTP ports, OTLP over HTTP, Zipkin.

Owns: listening on UDP, limits on request bodies, the answers that each protocol's clients expect, counting.
Must not know: how spans are kept and found; which ports are used.
Invariants: nothing that a peer sends raises out of here or takes unbounded memory; what is not stored is counted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend.store import Store
from autoinstr.model import Batch
from autoinstr.wire import DecodeError, jaeger, otlp, zipkin

#: Largest request body, before and after decompression (OTLP recommends this limit).
MAX_BODY_BYTES = 64 * 1024 * 1024
#: Datagrams received but not decoded yet.
MAX_BACKLOG_BYTES = 64 * 1024 * 1024
#: Asked of the kernel, which grants up to its own limit (Linux: ``net.core.rmem_max``).
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
LARGEST_DATAGRAM = 65_535

#: gRPC's INVALID_ARGUMENT and RESOURCE_EXHAUSTED, with which OTLP's error bodies name what was wrong.
INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 3, 8

Decode = Callable[[bytes], Iterable[Batch]]


class RequestError(Exception):
    """A request that is not taken: the HTTP status and a sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Intake:
    """The one way into the store. Counts payloads, spans and refusals by protocol; used by several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counters: Counter[tuple[str, str]] = Counter()

    def take(self, protocol: str, decode: Decode, payload: bytes) -> None:
        """Store what the payload holds; DecodeError when it is not what its protocol asks for."""
        try:
            batches = list(decode(payload))
        except DecodeError:
            self.count("undecodable", protocol)
            raise
        for batch in batches:
            self._store.write(batch)
        self.count("payloads", protocol)
        self.count("spans", protocol, sum(len(batch.spans) for batch in batches))

    def count(self, what: str, protocol: str, number: int = 1) -> None:
        with self._lock:
            self._counters[what, protocol] += number

    def counters(self) -> dict[tuple[str, str], int]:
        """``(what, protocol)`` to how many."""
        with self._lock:
            return dict(self._counters)


def jaeger_app(intake: Intake) -> Starlette:
    """What listens on Jaeger's collector port 14268."""
    return Starlette(routes=[Route("/api/traces", partial(_post_jaeger, intake), methods=["POST"])])


def otlp_app(intake: Intake) -> Starlette:
    """What listens on OTLP's HTTP port 4318."""
    return Starlette(routes=[Route("/v1/traces", partial(_post_otlp, intake), methods=["POST"])])


def zipkin_app(intake: Intake) -> Starlette:
    """What listens on Zipkin's port 9411."""
    return Starlette(routes=[Route("/api/v2/spans", partial(_post_zipkin, intake), methods=["POST"])])


async def _post_jaeger(intake: Intake, request: Request) -> Response:
    media_type = _media_type(request)
    if media_type not in ("application/x-thrift", "application/vnd.apache.thrift.binary"):
        return PlainTextResponse(f"Unsupported content type: {media_type}\n", status_code=400)
    try:
        await _take(intake, "jaeger-http", _decode_jaeger, request)
    except RequestError as refused:
        return PlainTextResponse(f"{refused.message}\n", status_code=refused.status)
    return Response(status_code=202)


async def _post_otlp(intake: Intake, request: Request) -> Response:
    media_type = _media_type(request)
    if media_type not in ("application/x-protobuf", "application/json"):
        return PlainTextResponse(f"Unsupported content type: {media_type}\n", status_code=415)
    decode = otlp.decode_json if media_type == "application/json" else otlp.decode_protobuf
    try:
        await _take(intake, "otlp", decode, request)
    except RequestError as refused:
        return _otlp_error(refused, media_type)
    # An empty message says that nothing was rejected.
    return Response(b"{}" if media_type == "application/json" else b"", media_type=media_type)


async def _post_zipkin(intake: Intake, request: Request) -> Response:
    if _media_type(request) == "application/x-protobuf":
        return PlainTextResponse("Zipkin's protobuf is not supported; send JSON\n", status_code=415)
    try:
        await _take(intake, "zipkin", zipkin.decode_json, request)
    except RequestError as refused:
        return PlainTextResponse(f"{refused.message}\n", status_code=refused.status)
    return Response(status_code=202)


async def _take(intake: Intake, protocol: str, decode: Decode, request: Request) -> None:
    try:
        body = await _read_body(request)
        # Decoding a large body takes seconds, in which the server has to go on answering.
        await asyncio.to_thread(_decompress_and_take, intake, protocol, decode, body, _content_encoding(request))
    except DecodeError as error:
        raise RequestError(400, f"Unable to process request body: {error}") from error
    except RequestError:
        intake.count("refused", protocol)
        raise


def _decompress_and_take(intake: Intake, protocol: str, decode: Decode, body: bytes, encoding: str) -> None:
    intake.take(protocol, decode, decompress(body, encoding))


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except ClientDisconnect as error:
        raise RequestError(400, "the connection was closed before the whole body had come") from error
    return bytes(body)


def decompress(body: bytes, encoding: str, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body without its ``Content-Encoding``; RequestError when it is unknown, damaged, or over ``limit`` bytes."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"Content-Encoding {encoding!r} is not supported; use gzip, deflate or none")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body cannot be decompressed: {error}") from error
    if len(content) > limit:
        raise RequestError(413, f"the decompressed body is larger than {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise RequestError(400, "the body is not exactly one compressed stream")
    return content


def _decode_jaeger(payload: bytes) -> list[Batch]:
    return [jaeger.decode_batch(payload)]


def _decode_datagram(payload: bytes) -> list[Batch]:
    return [jaeger.decode_message(payload)]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _content_encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower()


def _otlp_error(refused: RequestError, media_type: str) -> Response:
    """A ``google.rpc.Status`` in the request's own format, as OTLP/HTTP asks for."""
    code = RESOURCE_EXHAUSTED if refused.status == 413 else INVALID_ARGUMENT
    if media_type == "application/json":
        return JSONResponse({"code": code, "message": refused.message}, status_code=refused.status)
    # Cut so that the length fits into one byte.
    message = refused.message.encode("utf-8", "replace")[:127]
    body = bytes((0x08, code, 0x12, len(message))) + message
    return Response(body, status_code=refused.status, media_type=media_type)


class UdpReceiver:
    """Takes datagrams of Jaeger's clients (compact and binary Thrift alike) from a bound socket.

    One thread does nothing but empty the socket, since what the kernel's small buffer cannot hold is lost without a
    trace; another decodes. Between them is a queue bounded in bytes, and what does not fit is counted.
    """

    def __init__(self, sock: socket.socket, intake: Intake) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.socket = sock
        self._intake = intake
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # Each number has one writing thread, so that no lock is needed; the backlog is their difference.
        self._queued_bytes = 0
        self._decoded_bytes = 0
        self._overflowed = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._receive, name="autoinstr-udp-receive", daemon=True),
            threading.Thread(target=self._decode, name="autoinstr-udp-decode", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop receiving, decode what has come, close the socket."""
        self._closing = True
        # A thread that waits in recv() does not notice that its socket is closed; a datagram wakes it.
        self.socket.sendto(b"", self.socket.getsockname())
        for thread in self._threads:
            thread.join(timeout=10)
        self.socket.close()

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""
        return {
            "udp_backlog_bytes": self._queued_bytes - self._decoded_bytes,
            "udp_overflowed_datagrams_total": self._overflowed,
            "udp_kernel_dropped_datagrams_total": _kernel_drops(self.socket),
        }

    def _receive(self) -> None:
        receive, put = self.socket.recv, self._queue.put
        while True:
            try:
                datagram = receive(LARGEST_DATAGRAM)
            except OSError:
                # An answer "port unreachable" to something sent from here; the socket itself is fine.
                if self._closing:
                    break
                continue
            if self._closing:
                break
            if self._queued_bytes - self._decoded_bytes + len(datagram) > MAX_BACKLOG_BYTES:
                self._overflowed += 1
                continue
            self._queued_bytes += len(datagram)
            put(datagram)
        put(None)

    def _decode(self) -> None:
        while (datagram := self._queue.get()) is not None:
            try:
                self._intake.take("jaeger-udp", _decode_datagram, datagram)
            except DecodeError:
                # Already counted; over UDP there is nobody to tell.
                pass
            except Exception:  # noqa: BLE001 - whatever one datagram brings about, the next ones have to be taken
                self._intake.count("failed", "jaeger-udp")
            self._decoded_bytes += len(datagram)


def _kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel threw away because the socket's buffer was full; 0 where it cannot be known."""
    table = "/proc/net/udp6" if sock.family == socket.AF_INET6 else "/proc/net/udp"
    try:
        inode = str(os.fstat(sock.fileno()).st_ino)
        with open(table, encoding="ascii") as lines:
            rows = (line.split() for line in lines)
            return next((int(row[-1]) for row in rows if len(row) > 9 and row[9] == inode), 0)
    except (OSError, ValueError):
        return 0
