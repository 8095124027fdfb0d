"""The process of the counting sink: its ports, what it keeps of what arrives there, and the HTTP that agents speak.

Owns: the payloads received since the last take, sampling strategies to hand out, answers that agents are content with.
Must not know: the command line, who started it and who is measured; what is in a payload (``sink_formats``).
Invariants: nothing is decoded while a measurement runs, so a slow decoder cannot slow an agent down: payloads are kept, up to
a limit of bytes, and counted at the take (what comes beyond the limit is counted at once, and the take says how many payloads
that were); every loop over what a network sent is bounded; nothing that is sent ends the sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qs

from autoinstr.bench import parts
from autoinstr.bench.sink_formats import JAEGER_UDP, OTLP, PATHS, Tally

#: Payloads are kept up to so many bytes, together with what each of them costs beside its own.
KEPT_BYTES = 256 * 1024 * 1024
PAYLOAD_COST_BYTES = 120
#: Datagrams read before HTTP has its turn, and at most before a take.
DATAGRAMS_AT_ONCE = 64
DATAGRAMS_BEFORE_TAKE = 65_536
#: Seconds of counting after which the ports have their turn.
COUNTING_S = 0.005

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_TRAILERS = 100
MAX_CONNECTIONS = 512
MAX_SERVICES = 1000
#: What a client that sends too much may go on sending, so that it gets to read why: bytes and seconds.
MAX_IGNORED_BYTES, IGNORING_S = 4 * MAX_BODY_BYTES, 10.0

#: Kinds of requests beside the formats.
SAMPLING, INFO, OTHER, REFUSED, INCOMPLETE = "sampling", "info", "other", "refused", "incomplete"

ANSWERS = {
    "/": (INFO, b'{"version":"8.15.0"}'),  # Elastic: from 8.0 on the agent keeps unsampled transactions to itself
    "/info": (INFO, b'{"version":"7.60.0","endpoints":["/v0.4/traces","/v0.5/traces"]}'),  # Datadog
    "/v1/metrics": (OTHER, b""),
    "/v1/logs": (OTHER, b""),
}
#: What an agent expects in answer to its spans, where it is not an empty 200.
STATUS = {"/api/traces": 202, "/api/v1/spans": 202, "/api/v2/spans": 202, "/intake/v2/events": 202}
BODIES = {"/v0.4/traces": b'{"rate_by_service":{}}', "/v0.5/traces": b'{"rate_by_service":{}}'}


@dataclass(frozen=True)
class Counts:
    """What arrived since the take before. ``cpu_us`` is the sink's CPU in that time, without that of counting."""

    #: By kind: the formats of ``sink_formats``, sampling, info, other, refused (413 and the like), incomplete.
    requests: Mapping[str, int]
    #: Payloads with at least one span.
    batches: int
    #: Of all payloads, as they were sent (compressed, where they were).
    bytes: int
    spans: int
    #: Spans without a parent.
    roots: int
    #: Distinct trace ids; there are more where ``traces_are_exact`` is false.
    traces: int
    traces_are_exact: bool
    #: Payloads that could not be read, and what was wrong with the first one.
    undecodable: int
    trouble: str
    #: Payloads beyond the limit of what is kept: counting them took CPU while the measurement ran.
    counted_at_once: int
    #: Datagrams that the kernel threw away because they were not read in time; None where it does not say.
    datagrams_lost: int | None
    cpu_us: float

    def __str__(self) -> str:
        at_least = "" if self.traces_are_exact else "at least "
        by_kind = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.requests.items()))
        text = f"{self.spans:,} spans of {at_least}{self.traces:,} traces in {self.batches:,} batches, {self.bytes:,} bytes"
        text += f" ({by_kind})" if by_kind else ""
        if self.undecodable:
            text += f"; {self.undecodable:,} payloads could not be read ({self.trouble})"
        return text + (f"; {self.datagrams_lost:,} datagrams were lost here" if self.datagrams_lost else "")


class Inbox:
    """Payloads and their counts, of the time between two takes."""

    def __init__(self, kept_bytes: int = 0) -> None:
        self.requests: Counter[str] = Counter()
        self.payloads: deque[tuple[str, bytes]] = deque()
        self.tally = Tally()
        self.counted_at_once = 0
        self.datagrams_lost: int | None = None
        self.cpu_us = 0.0
        self._room = kept_bytes

    def add(self, kind: str, body: bytes) -> None:
        self.requests[kind] += 1
        if not body:
            return
        self._room -= len(body) + PAYLOAD_COST_BYTES
        if self._room >= 0:
            self.payloads.append((kind, body))
        else:
            self.counted_at_once += 1
            self.tally.add(kind, body)

    async def count(self) -> None:
        """Count the payloads that were kept; the ports are served meanwhile."""
        pause_at = time.monotonic() + COUNTING_S
        while self.payloads:
            self.tally.add(*self.payloads.popleft())
            if time.monotonic() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.monotonic() + COUNTING_S

    def merge(self, other: Inbox) -> None:
        """Add what another one has counted."""
        self.requests.update(other.requests)
        self.tally.merge(other.tally)
        self.counted_at_once += other.counted_at_once
        if other.datagrams_lost is not None:
            self.datagrams_lost = (self.datagrams_lost or 0) + other.datagrams_lost
        self.cpu_us += other.cpu_us

    def counts(self) -> Counts:
        tally = self.tally
        return Counts(
            requests=dict(self.requests),
            batches=tally.batches,
            bytes=tally.bytes,
            spans=tally.spans,
            roots=tally.roots,
            traces=len(tally.traces),
            traces_are_exact=tally.traces_are_exact,
            undecodable=tally.undecodable,
            trouble=tally.trouble,
            counted_at_once=self.counted_at_once,
            datagrams_lost=self.datagrams_lost,
            cpu_us=self.cpu_us,
        )


class Receiver:
    """The ports, and what is done with what arrives there. ``udp`` and ``tcp`` are bound, and not listening yet."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, kept_bytes: int = KEPT_BYTES) -> None:
        self.udp = udp
        self.udp.setblocking(False)
        self.strategies: dict[str, bytes] = {}
        self._tcp = tcp
        self._server: asyncio.Server | None = None
        self._kept_bytes = kept_bytes
        self._connections = 0
        self._inbox = Inbox(kept_bytes)
        self._lost_before = kernel_drops(udp)
        self._cpu_before = time.process_time_ns()

    async def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.udp, self._read_datagrams)
        self._server = await asyncio.start_server(self._serve, sock=self._tcp, limit=MAX_HEAD_BYTES, backlog=128)

    async def take(self) -> Inbox:
        """What arrived since the last time, counted. What had been sent before is in it: the socket is emptied first."""
        self._read_datagrams(DATAGRAMS_BEFORE_TAKE)
        taken, self._inbox = self._inbox, Inbox(self._kept_bytes)
        taken.cpu_us = (time.process_time_ns() - self._cpu_before) / 1000
        lost = kernel_drops(self.udp)
        if lost is not None and self._lost_before is not None:
            taken.datagrams_lost = lost - self._lost_before
        self._lost_before = lost
        await taken.count()
        self._cpu_before = time.process_time_ns()
        return taken

    def arrived(self) -> int:
        """Requests and datagrams since the last take; none of them is looked into."""
        self._read_datagrams(DATAGRAMS_BEFORE_TAKE)
        return self._inbox.requests.total()

    def _read_datagrams(self, most: int = DATAGRAMS_AT_ONCE) -> None:
        for _ in range(most):
            try:
                datagram = self.udp.recv(65_536)
            except BlockingIOError:
                return
            except OSError:  # About an answer that nobody sent; the socket is as good as before.
                continue
            self._inbox.add(JAEGER_UDP, datagram)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until its client leaves."""
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                raise NotAnswered(503)
            while await self._serve_request(reader, writer):
                pass
        except NotAnswered as refused:
            self._inbox.requests[REFUSED] += 1
            await _refuse(reader, writer, refused.status)
        except asyncio.IncompleteReadError as error:
            if error.partial:  # Between two requests anybody may leave.
                self._inbox.requests[INCOMPLETE] += 1
        except (OSError, asyncio.CancelledError):  # The client has gone, or the sink ends.
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether there may be another."""
        request = await read_request(reader)
        status, body = await self._answer(request)
        writer.write(_response(status, b"" if request.method == "HEAD" else body, closes=not request.keeps_alive))
        await writer.drain()
        return request.keeps_alive

    async def _answer(self, request: Request) -> tuple[int, bytes]:
        path = request.path
        if path in PATHS and request.method in ("POST", "PUT"):
            self._inbox.add(PATHS[path], request.body)
            is_json = PATHS[path] == OTLP and request.body[:1] == b"{"
            return STATUS.get(path, 200), b"{}" if is_json else BODIES.get(path, b"")
        if path in ("/sampling", "/api/sampling"):
            self._inbox.requests[SAMPLING] += 1
            return self._strategy_of(request.service)
        if path == "/-/take" and request.method == "POST":
            return 200, json.dumps(parts.to_json((await self.take()).counts())).encode()
        if path == "/-/arrived" and request.method == "GET":
            return 200, str(self.arrived()).encode()
        if path == "/-/strategy" and request.method == "PUT":
            if len(self.strategies) >= MAX_SERVICES and request.service not in self.strategies:
                return 413, b""
            self.strategies[request.service] = request.body
            return 200, b""
        kind, body = ANSWERS.get(path, (OTHER, None))
        self._inbox.requests[kind] += 1
        return (404, b"{}") if body is None else (200, body)

    def _strategy_of(self, service: str) -> tuple[int, bytes]:
        """That of the service, or else that of all services (``""``)."""
        strategy = self.strategies.get(service, self.strategies.get(""))
        return (404, b'{"error":"no sampling strategy is set here"}') if strategy is None else (200, strategy)


def kernel_drops(udp: socket.socket) -> int | None:
    """How many datagrams the kernel has thrown away at this socket since it was opened; None where it does not say.

    The last column of ``/proc/net/udp`` (proc_net(5)), in the line with the inode of the socket.
    """
    inode = str(os.fstat(udp.fileno()).st_ino)
    try:
        with open("/proc/net/udp6" if udp.family == socket.AF_INET6 else "/proc/net/udp") as table:
            return next((int(line[-1]) for line in map(str.split, table) if len(line) > 12 and line[9] == inode), None)
    except (OSError, ValueError):
        return None


# HTTP, as much of it as agents speak (RFC 9112) -----------------------------------------------------------------------


class NotAnswered(Exception):
    """A request that is too large, or not HTTP; the connection is of no more use."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Request(NamedTuple):
    """A request; ``service`` is the parameter of that name in its query."""

    method: str
    path: str
    service: str
    body: bytes
    keeps_alive: bool


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises ``NotAnswered``, and ``IncompleteReadError`` with what there was of it."""
    head = await _until(reader, b"\r\n\r\n", 431)
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise NotAnswered(400)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    try:
        body = await _read_body(reader, headers)
    except asyncio.IncompleteReadError as error:
        # A body that never began is as incomplete as one that broke off.
        raise asyncio.IncompleteReadError(error.partial or head, error.expected) from None
    path, _, query = words[1].partition("?")
    keeps_alive = words[2] != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
    return Request(words[0], path, parse_qs(query).get("service", [""])[0] if query else "", body, keeps_alive)


async def _until(reader: asyncio.StreamReader, separator: bytes, status: int) -> bytes:
    try:
        return await reader.readuntil(separator)
    except asyncio.LimitOverrunError:
        raise NotAnswered(status) from None


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        return await _read_chunks(reader)
    length = _number(headers.get("content-length", "0"), 10)
    if length > MAX_BODY_BYTES:
        raise NotAnswered(413)
    return await reader.readexactly(length)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    room = MAX_BODY_BYTES
    while size := _number((await _until(reader, b"\n", 400)).partition(b";")[0].decode("latin-1"), 16):
        room -= size
        if room < 0:
            raise NotAnswered(413)
        chunks.append((await reader.readexactly(size + 2))[:-2])
    for _ in range(MAX_TRAILERS):
        if not (await _until(reader, b"\n", 400)).strip():
            return b"".join(chunks)
    raise NotAnswered(400)


def _number(text: str, base: int) -> int:
    digits = text.strip()
    if not digits or len(digits) > 16 or not digits.isascii() or not digits.isalnum():
        raise NotAnswered(400)
    try:
        return int(digits, base)
    except ValueError:
        raise NotAnswered(400) from None


def _response(status: int, body: bytes, *, closes: bool) -> bytes:
    reason = http.client.responses[status]
    connection = "Connection: close\r\n" if closes else ""
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{connection}\r\n"
    return head.encode() + body


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int) -> None:
    """Say so, and let the client finish: one that is cut off while it sends does not read the answer."""
    writer.write(_response(status, b"", closes=True))
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await writer.drain()
        writer.write_eof()
        await asyncio.wait_for(_ignore(reader), IGNORING_S)


async def _ignore(reader: asyncio.StreamReader) -> None:
    left = MAX_IGNORED_BYTES
    while left > 0 and (ignored := await reader.read(MAX_HEAD_BYTES)):
        left -= len(ignored)
