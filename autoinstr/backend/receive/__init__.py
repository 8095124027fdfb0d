"""How spans come in: Jaeger's UDP and HTTP ports, OTLP over HTTP, Zipkin.

Owns: limits on what a peer sends, the answers that each protocol's clients expect, counting.
Must not know: how spans are kept and found; which ports are used.
Invariants: nothing that a peer sends raises out of here or takes unbounded memory; what is not stored is counted; a success
is answered only when the store has the spans.

Sources: Jaeger's collector (``POST /api/traces``), the OTLP specification, Zipkin's ``zipkin2-api.yaml``.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend.parts import Full
from autoinstr.backend.receive.losses import LossBook
from autoinstr.backend.receive.writer import NotStored, QueueWriter
from autoinstr.model import Batch
from autoinstr.wire import DecodeError, TooLarge, jaeger_read, otlp, protobuf, zipkin

#: Largest request body, before and after decompression (OTLP recommends this limit). JSON takes thirty times its size in
#: memory once it is read, Thrift twenty times, hence less; Jaeger's clients send a megabyte at most.
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = MAX_THRIFT_BYTES = 16 * 1024 * 1024
#: Bodies that are being received: beyond that nothing more is read.
MAX_READING_BYTES = 256 * 1024 * 1024
#: How long a body may take to come, and a payload to be stored.
BODY_TIMEOUT_S = 60.0
STORE_TIMEOUT_S = 30.0
#: What a sender that comes too soon is told to wait.
RETRY_AFTER_S = 1

#: gRPC's codes, with which OTLP's error bodies name what was wrong.
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE = 3, 8, 14

Decode = Callable[[bytes], Iterable[Batch]]


class RequestError(DecodeError):
    """A request that is not taken: the HTTP status and a sentence for the client; whether it is counted already."""

    def __init__(self, status: int, message: str, *, counted: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.counted = counted


class Intake:
    """The one way to the writer. Counts payloads, spans and refusals by protocol; used by several threads."""

    def __init__(self, writer: QueueWriter, losses: LossBook) -> None:
        self._writer = writer
        self._losses = losses
        self._lock = threading.Lock()
        self._counters: Counter[tuple[str, str]] = Counter()
        #: Bytes of bodies that are being received; only the event loop's thread counts here.
        self.reading_bytes = 0

    def take(
        self, protocol: str, decode: Decode, payload: bytes, encoding: str = "", limit: int = MAX_BODY_BYTES
    ) -> Future[int]:
        """Queue a payload; the result, once it is stored, is how many of its spans cannot be kept. Raises ``Full``.

        The future raises ``DecodeError`` (``TooLarge`` among them), ``RequestError`` for what cannot be decompressed, or
        ``NotStored``.
        """
        invalid: list[int] = []

        def batches() -> list[Batch]:
            return self._decode(protocol, decode, decompress(payload, encoding, limit), invalid)

        try:
            stored = self._writer.submit_encoded(batches, len(payload))
        except Full:
            self._count_full(protocol, [payload] if not encoding else [])
            raise
        answer: Future[int] = Future()
        stored.add_done_callback(lambda done: _pass_on(done, answer, invalid))
        return answer

    def take_datagrams(self, datagrams: list[bytes]) -> None:
        """Queue what one read of a socket brought. There is nobody to tell when that fails: it is counted."""
        kept: list[Batch] = []
        try:
            stored = self._writer.submit_encoded(
                partial(self._decode_datagrams, datagrams, kept), sum(map(len, datagrams))
            )
        except Full:
            self._count_full("jaeger-udp", datagrams)
            return
        stored.add_done_callback(lambda done: self._count_lost(done, kept))

    def count(self, what: str, protocol: str, number: int = 1) -> None:
        with self._lock:
            self._counters[what, protocol] += number

    def counters(self) -> dict[tuple[str, str], int]:
        """``(what, protocol)`` to how many."""
        with self._lock:
            return dict(self._counters)

    def _decode(self, protocol: str, decode: Decode, payload: bytes, invalid: list[int]) -> list[Batch]:
        batches: list[Batch] = []
        try:
            batches += decode(payload)
        except DecodeError:
            self._count_undecodable(protocol, 1)
            raise
        invalid.append(self._note(protocol, batches, 1))
        return batches

    def _decode_datagrams(self, datagrams: list[bytes], kept: list[Batch]) -> list[Batch]:
        for datagram in datagrams:
            try:
                kept.append(jaeger_read.decode_message(datagram))
            except DecodeError:
                # The other datagrams are other clients'.
                continue
        if len(kept) < len(datagrams):
            self._count_undecodable("jaeger-udp", len(datagrams) - len(kept))
        self._note("jaeger-udp", kept, len(kept))
        return kept

    def _count_undecodable(self, protocol: str, payloads: int) -> None:
        self.count("undecodable", protocol, payloads)
        self._losses.lost_payloads("undecodable", payloads)

    def _note(self, protocol: str, batches: list[Batch], payloads: int) -> int:
        """Count what was received, and take out what cannot be kept; how many spans that are."""
        self._losses.received(protocol, batches)
        spans = sum([len(batch.spans) for batch in batches])
        invalid = sum([self._drop_invalid(batch) for batch in batches])
        with self._lock:
            self._counters["payloads", protocol] += payloads
            self._counters["spans", protocol] += spans
            if invalid:
                self._counters["invalid_spans", protocol] += invalid
        return invalid

    def _drop_invalid(self, batch: Batch) -> int:
        """Take out spans that no trace can hold: all formats demand both ids."""
        valid = [span for span in batch.spans if span.trace_id and span.span_id]
        refused = len(batch.spans) - len(valid)
        if refused:
            batch.spans = valid
            self._losses.refused(batch.resource.service_name, refused)
        return refused

    def _count_lost(self, done: Future[None], batches: list[Batch]) -> None:
        if done.exception() is not None:
            for batch in batches:
                self._losses.refused(batch.resource.service_name, len(batch.spans))

    def _count_full(self, protocol: str, payloads: list[bytes]) -> None:
        """Count what found the queue full. Jaeger's clients do not try again, so that their spans are lost."""
        self.count("refused", protocol, max(len(payloads), 1))
        skim = {"jaeger-udp": jaeger_read.skim_message, "jaeger-http": jaeger_read.skim_batch}.get(protocol)
        for payload in payloads if skim else ():
            try:
                self._losses.refused(*skim(payload))  # type: ignore[misc]  # (there is one where there are payloads)
            except DecodeError:
                self._losses.lost_payloads("refused")


def _pass_on(done: Future[None], answer: Future[int], invalid: list[int]) -> None:
    if answer.set_running_or_notify_cancel():
        error = done.exception()
        if error is None:
            answer.set_result(sum(invalid))
        else:
            answer.set_exception(error)


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
    async def store() -> Response:
        media_type = _media_type(request)
        if media_type not in ("application/x-thrift", "application/vnd.apache.thrift.binary"):
            raise RequestError(400, f"Unsupported content type: {media_type}")
        await _take(intake, "jaeger-http", _decode_jaeger, request, MAX_THRIFT_BYTES)
        return Response(status_code=202)

    return await _answered(intake, "jaeger-http", store, _text_error)


async def _post_otlp(intake: Intake, request: Request) -> Response:
    media_type = _media_type(request)
    is_json = media_type == "application/json"

    async def store() -> Response:
        if not is_json and media_type != "application/x-protobuf":
            raise RequestError(415, f"Unsupported content type: {media_type}")
        decode = otlp.decode_json if is_json else otlp.decode_protobuf
        invalid = await _take(intake, "otlp", decode, request, MAX_JSON_BYTES if is_json else MAX_BODY_BYTES)
        return _otlp_success(invalid, is_json=is_json)

    if not is_json and media_type != "application/x-protobuf":
        return await _answered(intake, "otlp", store, _text_error)
    return await _answered(intake, "otlp", store, partial(_otlp_error, is_json=is_json))


async def _post_zipkin(intake: Intake, request: Request) -> Response:
    async def store() -> Response:
        if _media_type(request) == "application/x-protobuf":
            raise RequestError(415, "Zipkin's protobuf is not supported; send JSON")
        await _take(intake, "zipkin", zipkin.decode_json, request, MAX_JSON_BYTES)
        return Response(status_code=202)

    return await _answered(intake, "zipkin", store, _text_error)


async def _answered(
    intake: Intake,
    protocol: str,
    store: Callable[[], Awaitable[Response]],
    to_response: Callable[[RequestError], Response],
) -> Response:
    """What ``store`` answers, or the refusal that it raises, as the protocol says it."""
    try:
        return await store()
    except RequestError as error:
        refused = error
    if not refused.counted:
        intake.count("refused", protocol)
    response = to_response(refused)
    if refused.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


async def _take(intake: Intake, protocol: str, decode: Decode, request: Request, limit: int) -> int:
    """Have a request's spans stored; how many of them cannot be kept. ``RequestError`` when none are."""
    body = await _read_body(intake, request, limit)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    try:
        stored = intake.take(protocol, decode, body, encoding, limit)
        return await asyncio.wait_for(asyncio.wrap_future(stored), STORE_TIMEOUT_S)
    except RequestError:
        raise
    except DecodeError as error:
        status = 413 if isinstance(error, TooLarge) else 400
        raise RequestError(status, f"Unable to process request body: {error}", counted=True) from error
    except (Full, NotStored) as error:
        raise RequestError(503, f"Try again: {error}", counted=isinstance(error, Full)) from error
    except asyncio.TimeoutError as error:
        raise RequestError(503, f"Try again: not stored within {STORE_TIMEOUT_S:.0f} s") from error


async def _read_body(intake: Intake, request: Request, limit: int) -> bytes:
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            intake.reading_bytes += len(chunk)
            if len(body) > limit:
                raise RequestError(413, f"the body is larger than {limit} bytes")
            if intake.reading_bytes > MAX_READING_BYTES:
                raise RequestError(503, "Try again: too much is being received at once")

    try:
        await asyncio.wait_for(read(), BODY_TIMEOUT_S)
    except ClientDisconnect as error:
        raise RequestError(400, "the connection was closed before the whole body had come") from error
    except asyncio.TimeoutError as error:
        raise RequestError(408, f"the body did not come within {BODY_TIMEOUT_S:.0f} s") from error
    finally:
        intake.reading_bytes -= len(body)
    return bytes(body)


def decompress(body: bytes, encoding: str, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body without its ``Content-Encoding``; RequestError when it is unknown, damaged, or over ``limit`` bytes."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"Content-Encoding {encoding[:40]!r} is not supported; use gzip, deflate or none")
    # Either of the two, by how it begins: some clients take one for the other.
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
    return [jaeger_read.decode_batch(payload)]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _text_error(refused: RequestError) -> Response:
    return PlainTextResponse(f"{refused.message}\n", status_code=refused.status)


def partial_success(invalid: int) -> bytes:
    """An ``ExportTraceServiceResponse``: empty, unless spans were not kept."""
    if not invalid:
        return b""
    message = protobuf.varint_field(1, invalid) + protobuf.bytes_field(2, _why_invalid(invalid).encode())
    return protobuf.bytes_field(1, message)


def _why_invalid(invalid: int) -> str:
    return f"{invalid} spans have no trace id or no span id"


def _otlp_success(invalid: int, *, is_json: bool) -> Response:
    if not is_json:
        return Response(partial_success(invalid), media_type="application/x-protobuf")
    # An empty message says that nothing was rejected; 64-bit numbers are text in protobuf's JSON.
    told = {"rejectedSpans": str(invalid), "errorMessage": _why_invalid(invalid)}
    return JSONResponse({"partialSuccess": told} if invalid else {})


def _otlp_error(refused: RequestError, *, is_json: bool) -> Response:
    """A ``google.rpc.Status`` in the request's own format, as OTLP/HTTP asks for."""
    code = {413: RESOURCE_EXHAUSTED, 503: UNAVAILABLE}.get(refused.status, INVALID_ARGUMENT)
    if is_json:
        return JSONResponse({"code": code, "message": refused.message}, status_code=refused.status)
    message = refused.message.encode("utf-8", "replace")
    body = protobuf.varint_field(1, code) + protobuf.bytes_field(2, message)
    return Response(body, status_code=refused.status, media_type="application/x-protobuf")
