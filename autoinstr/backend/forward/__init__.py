"""The agent on a host: takes what the receivers got, keeps it on disk, and sends it on to a collector elsewhere.

Owns: where to send and in which format, what becomes of an answer (again later, never again, done), the pace of trying
again, the counters of all that; the passing on of sampling strategies.
Must not know: how spans come in, how the spool looks on disk.
Invariants: what ``Forwarder.write`` has returned for is on disk before; nothing is dropped because the collector is away,
only because the spool is full or the collector refuses it for good, and that is counted; one request at a time, so that
spans arrive in order; nothing that a collector answers ends the sending.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend import log
from autoinstr.backend.forward.outgoing import MAX_PAYLOAD_BYTES, JaegerWire, OtlpWire, Wire
from autoinstr.backend.forward.spool import Record, Spool, SpoolError
from autoinstr.backend.sampling import PATHS
from autoinstr.model import Batch
from autoinstr.transport import (
    RETRYABLE_STATUS,
    HTTPTransport,
    TransportError,
    fetch,
    parse_retry_after,
    shown_url,
)
from autoinstr.wire import DecodeError
from autoinstr.wire.documents import json_object

DEFAULT_MAX_BYTES = 256 * 2**20
JAEGER_PATH, OTLP_PATH, JAEGER_PORT = "/api/traces", "/v1/traces", 14268

#: Seconds between tries, before chance shortens them; and the longest that a collector's Retry-After can make us wait.
FIRST_DELAY_S, LONGEST_DELAY_S, LONGEST_RETRY_AFTER_S = 0.25, 15.0, 600.0
#: A 500 may be a collector with a full queue (Jaeger's), or a payload that it will never digest.
MAX_TRIES_OF_500 = 20
#: A connection is renewed after so many seconds, so that a collector whose name points elsewhere now is found.
RECONNECT_S = 60.0
#: How long ``close`` goes on sending what waits; the rest stays on disk.
CLOSE_S = 5.0
#: How long a wait may be when it is nearly time to end; and for a thread that was interrupted in one.
SHORTEST_WAIT_S, INTERRUPT_S = 0.1, 2.0
#: How often an idle sender looks up.
IDLE_S = 1.0
REQUEST_TIMEOUT = 408

#: How long programs that ask for their strategy wait for the backend behind us, and how long nobody asks one that was away.
ASK_TIMEOUT_S, ASK_AGAIN_S = 2.0, 5.0
#: Strategies that are remembered: so many, and so many bytes of them.
MAX_KNOWN, MAX_KNOWN_BYTES = 1000, 8 * 2**20
LONGEST_NAME = 1000


class ForwardError(ValueError):
    """The address of the collector cannot be used, in a sentence for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and whether as Jaeger's Thrift or as OTLP. ``headers`` hold the credentials that the URL had."""

    url: str
    is_jaeger: bool
    headers: Mapping[str, str]


def target_of(url: str) -> Target:
    """What a URL means: ``http(s)://host[:4318][/v1/traces]`` is OTLP, ``jaeger+http(s)://host[:14268]`` and every path
    that ends in ``/api/traces`` Jaeger's binary Thrift. ``ForwardError`` for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForwardError(f"{url!r} is not a URL: {error}") from error
    scheme = parts.scheme.removeprefix("jaeger+")
    path = parts.path.rstrip("/")
    is_jaeger = scheme != parts.scheme or path.endswith(JAEGER_PATH)
    if scheme not in ("http", "https") or not parts.hostname:
        wanted = "http://HOST:4318 (OTLP) or jaeger+http://HOST:14268 (Jaeger's Thrift), or with https"
        raise ForwardError(f"{url!r} is not the address of a collector: {wanted}")
    wanted_path = JAEGER_PATH if is_jaeger else OTLP_PATH
    if not path.endswith(wanted_path):
        path += wanted_path
    if port is None and scheme != parts.scheme:
        port = JAEGER_PORT
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port is None else f"{host}:{port}"
    return Target(urlunsplit((scheme, authority, path, parts.query, "")), is_jaeger, _credentials(parts))


def _credentials(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class Forwarder:
    """What takes the place of a store when spans are sent on; its thread is the sender.

    ``url`` as in ``target_of``; ``folder`` keeps at most ``max_bytes`` of what waits. ``certificate`` is a file of trusted
    CAs (else the system's, or ``SSL_CERT_FILE``'s), ``client_certificate`` and ``client_key`` are ours. ``gzip`` compresses
    requests. Raises ``ForwardError`` and ``spool.SpoolError``.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: str,
        max_bytes: int = DEFAULT_MAX_BYTES,
        headers: Mapping[str, str] | None = None,
        batch_spans: int = 2000,
        timeout_s: float = 10.0,
        certificate: str = "",
        client_certificate: str = "",
        client_key: str = "",
        gzip: bool = False,
    ) -> None:
        target = target_of(url)
        make_wire = partial(JaegerWire if target.is_jaeger else OtlpWire, batch_spans)
        self._wire: Wire = make_wire()
        self._spool = Spool(folder, max_bytes)
        self._counters: Counter[str] = Counter()
        collector = _Collector(
            target.url,
            headers={"Content-Type": self._wire.content_type, **target.headers, **(headers or {})},
            timeout_s=timeout_s,
            gzip=gzip,
            certificate=certificate,
            client_certificate=client_certificate,
            client_key=client_key,
        )
        self._sender = _Sender(self._spool, make_wire(), collector, timeout_s)
        self._sender.start()

    def write(self, batches: Sequence[Batch]) -> None:
        """Take spans, to be sent as soon as it goes; in the spool once this returns. ``SpoolError`` if it takes none of them."""
        entries, bad = self._wire.entries(batches)
        spans = sum([len(batch.spans) for batch in batches])
        try:
            self._spool.append(entries)
        except SpoolError:
            self._counters["forward_write_failed_spans_total"] += spans
            raise
        self._counters["forward_received_spans_total"] += spans
        self._counters["forward_unencodable_spans_total"] += bad

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""
        names = ("forward_received_spans_total", "forward_write_failed_spans_total", "forward_unencodable_spans_total")
        return {**{name: self._counters[name] for name in names}, **self._spool.figures(), **self._sender.figures()}

    def evicted(self) -> dict[str, int]:
        """Spans that made room for newer ones while the collector was away, by service, since the start."""
        return self._spool.evicted()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Send what waits for at most ``timeout_s`` as long as the collector takes it; the rest stays for the next start."""
        self._sender.stop(timeout_s)
        self._spool.close()


class _Collector(HTTPTransport):
    """The connection to the collector; remembers what the last answer was, which the transport's errors do not tell."""

    status = 0
    retry_after: str | None = None
    _connected_at = 0.0

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        self.status, self.retry_after = 0, None
        if time.monotonic() - self._connected_at > RECONNECT_S:
            self.close()
        return super().send(payload, timeout_s)

    def _connect(self) -> http.client.HTTPConnection:
        connection = super()._connect()
        take_answer = connection.getresponse

        def remember_answer() -> http.client.HTTPResponse:
            answer = take_answer()
            self.status, self.retry_after = answer.status, answer.getheader("Retry-After")
            return answer

        connection.getresponse = remember_answer  # type: ignore[method-assign]
        self._connected_at = time.monotonic()
        return connection

    def interrupt(self) -> None:
        """From another thread: end a wait for the collector."""
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Sender:
    """The thread that empties the spool."""

    def __init__(self, spool: Spool, wire: Wire, collector: _Collector, timeout_s: float) -> None:
        self._spool = spool
        self._wire = wire
        self._collector = collector
        self._timeout_s = timeout_s
        self._counters: Counter[str] = Counter()
        self._failures = 0
        self._joined = wire.max_joined
        self._stopping = threading.Event()
        self._stop_at = float("inf")
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="autoinstr-forward", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send what waits, for ``timeout_s`` at most; end at the first failure."""
        self._stop_at = time.monotonic() + timeout_s
        self._stopping.set()
        self._spool.wake()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._is_over = True
            self._collector.interrupt()
            self._thread.join(INTERRUPT_S)

    def figures(self) -> dict[str, int]:
        return {
            **{name: self._counters[name] for name in _SENDER_COUNTERS},
            "forward_collector_up": int(not self._failures),
        }

    def _run(self) -> None:
        while not self._is_over and time.monotonic() < self._stop_at:
            try:
                self._step()
            except Exception as error:  # Whatever happens to one request, the next ones have to be sent.
                log.error("forward_failed", error=error)
                self._stopping.wait(LONGEST_DELAY_S)
        self._collector.close()

    def _step(self) -> None:
        stopping = self._stopping.is_set()
        records = self._spool.take(self._joined, MAX_PAYLOAD_BYTES, 0 if stopping else IDLE_S)
        if not records:
            self._is_over = stopping
            return
        try:
            self._send(records)
        except DecodeError as error:
            self._failed(records, error, is_final=True)
        except TransportError as error:
            self._counters["forward_failed_requests_total"] += 1
            self._failed(records, error, is_final=self._is_final(self._collector.status))
        else:
            self._failures = 0
            self._joined = min(2 * self._joined, self._wire.max_joined)
            self._spool.done()

    def _send(self, records: Sequence[Record]) -> None:
        for request in self._wire.requests(records):
            limit_s = max(min(self._timeout_s, self._stop_at - time.monotonic()), SHORTEST_WAIT_S)
            answer = self._collector.send(request, limit_s)
            self._counters["forward_rejected_spans_total"] += self._wire.rejected(answer)
            self._counters["forward_requests_total"] += 1
        self._counters["forward_sent_spans_total"] += _count(records)

    def _failed(self, records: Sequence[Record], error: Exception, *, is_final: bool) -> None:
        if is_final and len(records) == 1:
            self._drop(records, error)
            return
        self._spool.give_back()
        self._joined = 1  # If it was the fault of one of the records, only that one must go.
        if not is_final:
            self._failures += 1
            self._is_over = self._stopping.is_set()
            log.warning("collector_away", error=error, spans_wait_in=self._spool.folder)
            self._stopping.wait(self._delay_s())

    def _drop(self, records: Sequence[Record], error: Exception) -> None:
        self._counters["forward_refused_spans_total"] += _count(records)
        log.warning("collector_refused", error=error, lost_spans=_count(records))
        self._failures = 0
        self._spool.done()

    def _is_final(self, status: int) -> bool:
        """Whether trying again is useless: the collector wants this request never, or not after many tries.

        Without a status there was no answer, with 2xx one that could not be read to its end.
        """
        if status in RETRYABLE_STATUS or status == REQUEST_TIMEOUT or status < 300:
            return False
        return status < 500 or self._failures >= MAX_TRIES_OF_500

    def _delay_s(self) -> float:
        """Twice as long after each failure, shortened by chance so that not all hosts come back in one moment."""
        longest: float = min(FIRST_DELAY_S * 2 ** min(self._failures - 1, 10), LONGEST_DELAY_S)
        delay = random.uniform(0.5, 1.0) * longest  # noqa: S311 - nothing secret
        asked_s = retry_after_s(self._collector.retry_after)
        return max(delay, min(asked_s, LONGEST_RETRY_AFTER_S))


_SENDER_COUNTERS = (
    "forward_sent_spans_total",
    "forward_refused_spans_total",
    "forward_rejected_spans_total",
    "forward_requests_total",
    "forward_failed_requests_total",
)


def _count(records: Sequence[Record]) -> int:
    return sum([sum(record.entry.spans.values()) for record in records])


def retry_after_s(header: str | None) -> float:
    """Seconds to wait by a ``Retry-After`` header, in either form (RFC 9110, 10.2.3); 0 without one, or a bad one."""
    seconds = parse_retry_after(header)
    if seconds is not None or header is None:
        return seconds or 0.0
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


# Sampling strategies


def strategies_app(url: str) -> Starlette:
    """What listens on port 5778 of an agent: asks the backend at ``url`` (``http://host:5778``), and remembers its answers.

    While the backend is away, what it last said is repeated, marked as stale (RFC 9111: ``Age``, ``Warning: 110``); for what it
    never said the answer is Jaeger's agent's: 500 and ``collector error: …``. ``ForwardError`` when ``url`` is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ForwardError(f"{url!r} is not the address of sampling strategies: http://HOST:5778")
    endpoint = partial(_strategy, _Strategies(url.rstrip("/").removesuffix("/sampling")))
    return Starlette(routes=[Route(path, endpoint) for path in PATHS])


async def _strategy(strategies: _Strategies, request: Request) -> Response:
    services = request.query_params.getlist("service")
    if len(services) != 1:
        return PlainTextResponse("'service' parameter must be provided once\n", status_code=400)
    if len(services[0]) > LONGEST_NAME:
        return PlainTextResponse(f"'service' has more than {LONGEST_NAME} characters\n", status_code=400)
    try:
        answer = await asyncio.to_thread(strategies.ask, request.url.path, services[0])
    except TransportError as error:
        return PlainTextResponse(f"collector error: {error}\n", status_code=500)
    headers = {"Age": str(answer.age_s), "Warning": '110 - "Response is Stale"'} if answer.age_s else {}
    return Response(answer.body, media_type="application/json", headers=headers)


@dataclass(frozen=True, slots=True)
class _Strategy:
    """A body as the backend gave it. ``age_s`` is 0 for a fresh one, and at least 1 for one from memory."""

    body: bytes
    age_s: int = 0


class _Strategies:
    """Asks the backend for strategies; used by several threads at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        #: Path and service to when the backend answered, and what.
        self._known: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._known_bytes = 0
        self._ask_again_at = 0.0
        self._trouble = TransportError("not asked yet")

    def ask(self, path: str, service: str) -> _Strategy:
        """The backend's answer, or its last one; ``TransportError`` when it is away and has never given one."""
        # Programs ask all the time: they must not all wait for a backend that has just not answered.
        if time.monotonic() >= self._ask_again_at:
            try:
                body = _fetch_json(f"{self._url}{path}?service={quote(service, safe='')}")
            except TransportError as error:
                self._trouble = error
                if error.retryable:  # Else it is about this one service.
                    self._ask_again_at = time.monotonic() + ASK_AGAIN_S
                log.warning("strategies_away", error=error)
            else:
                self._remember((path, service), body)
                return _Strategy(body)
        with self._lock:
            known = self._known.get((path, service))
        if known is None:
            raise self._trouble
        return _Strategy(known[1], max(int(time.monotonic() - known[0]), 1))

    def _remember(self, key: tuple[str, str], body: bytes) -> None:
        with self._lock:
            self._known_bytes += len(body) - len(self._known.pop(key, (0.0, b""))[1])
            self._known[key] = time.monotonic(), body
            while self._known_bytes > MAX_KNOWN_BYTES or len(self._known) > MAX_KNOWN:
                _, (_, forgotten) = self._known.popitem(last=False)
                self._known_bytes -= len(forgotten)


def _fetch_json(url: str) -> bytes:
    """What a backend answers; an answer that is no JSON object is as good as none."""
    body = fetch(url, ASK_TIMEOUT_S)
    try:
        json_object(body)
    except DecodeError as error:
        raise TransportError(f"{shown_url(url)} answered something else than a strategy: {error}") from error
    return body
