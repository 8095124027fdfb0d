"""Stands in for every collector: takes what the agents send, as fast as it can, and counts it when asked.

Owns: one UDP and one HTTP port, the payloads received since the last question, the spans in them.
Must not know: who is measured.
Invariants: nothing is decoded while a measurement runs, so a slow decoder cannot slow an agent down; the ports are printed
as one line of JSON at the start. ``GET /-/take`` answers with the counts so far and forgets the payloads.

Runs in the environment of autoinstr, whose decoders count Jaeger's spans; the other formats are counted here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

RECEIVE_BUFFER = 4 * 1024 * 1024

ANSWERS: dict[str, tuple[str, bytes]] = {
    "/": ("200 OK", b'{"version":"8.15.0"}'),  # Elastic: from 8.0 on the agent keeps unsampled transactions to itself
    "/info": ("200 OK", b'{"version":"7.60.0","endpoints":["/v0.4/traces","/v0.5/traces"]}'),  # Datadog
    "/v0.4/traces": ("200 OK", b'{"rate_by_service":{}}'),
    "/v0.5/traces": ("200 OK", b'{"rate_by_service":{}}'),
    "/intake/v2/events": ("202 Accepted", b""),
    "/api/traces": ("202 Accepted", b""),
    "/v1/traces": ("200 OK", b""),
}


class Received:
    """Payloads by what they are: a path, or ``udp``."""

    def __init__(self) -> None:
        self.payloads: list[tuple[str, bytes]] = []
        self.requests: dict[str, int] = {}

    def add(self, kind: str, payload: bytes) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1
        if payload:
            self.payloads.append((kind, payload))

    def take(self) -> dict[str, object]:
        """Counts of everything since the last call; ``bytes`` are bodies as sent (compressed, where they were)."""
        payloads, requests = self.payloads, self.requests
        self.payloads, self.requests = [], {}
        counted = [(len(body), spans_in(kind, body)) for kind, body in payloads]
        return {
            "requests": requests,
            "payloads": len(counted),
            "bytes": sum(size for size, _ in counted),
            "spans": sum(spans for _, spans in counted),
        }


def spans_in(kind: str, body: bytes) -> int:
    count = COUNTERS.get(kind)
    return count(inflated(body)) if count else 0


def inflated(body: bytes) -> bytes:
    return zlib.decompress(body, 47) if body[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda") else body


def spans_in_message(body: bytes) -> int:
    from autoinstr.wire import jaeger

    return len(jaeger.decode_message(body).spans)


def spans_in_batch(body: bytes) -> int:
    from autoinstr.wire import jaeger

    return len(jaeger.decode_batch(body).spans)


def spans_in_otlp(body: bytes) -> int:
    """``TracesData.resource_spans`` (1) . ``scope_spans`` (2) . ``spans`` (2), by opentelemetry/proto/trace/v1."""
    return sum(
        1
        for resource_spans in protobuf_field(body, 1)
        for scope_spans in protobuf_field(resource_spans, 2)
        for _ in protobuf_field(scope_spans, 2)
    )


def protobuf_field(message: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited values of one field."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        size, at = varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, 0), at)
        if kind == 0:
            _, at = varint(message, at)
        elif kind == 2 and tag >> 3 == wanted:
            yield message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def spans_in_datadog(body: bytes) -> int:
    """v0.4 is an array of traces, v0.5 a pair of a string table and such an array; a trace is an array of spans."""
    value: list[Any] = messagepack(body, 0)[0]
    has_table = len(value) == 2 and isinstance(value[0], list) and all(isinstance(text, bytes) for text in value[0])
    return sum(len(trace) for trace in (value[1] if has_table else value))


#: First byte -> (bytes of the number that follows, what the number is: a value, a size of text, a count of items).
MESSAGEPACK = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (0, "value")),
    **dict(zip((0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3), [(n, "value") for n in (1, 2, 4, 8, 1, 2, 4, 8)])),
    0xCA: (4, "value"),
    0xCB: (8, "value"),
    **dict(zip((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB), [(n, "text") for n in (1, 2, 4, 1, 2, 4)])),
    0xDC: (2, "array"),
    0xDD: (4, "array"),
    0xDE: (2, "map"),
    0xDF: (4, "map"),
}


def messagepack(body: bytes, at: int) -> tuple[Any, int]:
    """One value and where it ends. Arrays become lists, text its bytes, everything else None: it is only counted."""
    first = body[at]
    at += 1
    if first < 0x80 or first >= 0xE0:
        return None, at
    if first < 0xC0:
        kind, number = ("map", first & 0x0F) if first < 0x90 else ("array", first & 0x0F)
        if first >= 0xA0:
            kind, number = "text", first & 0x1F
    else:
        width, kind = MESSAGEPACK[first]
        number = int.from_bytes(body[at : at + width], "big")
        at += width
    if kind == "value":
        return None, at
    if kind == "text":
        return body[at : at + number], at + number
    items = []
    for _ in range(number * 2 if kind == "map" else number):
        item, at = messagepack(body, at)
        items.append(item)
    return (items if kind == "array" else None), at


def spans_in_elastic(body: bytes) -> int:
    return sum(line.startswith((b'{"transaction":', b'{"span":')) for line in body.splitlines())


COUNTERS: dict[str, Callable[[bytes], int]] = {
    "udp": spans_in_message,
    "/api/traces": spans_in_batch,
    "/v1/traces": spans_in_otlp,
    "/v0.4/traces": spans_in_datadog,
    "/v0.5/traces": spans_in_datadog,
    "/intake/v2/events": spans_in_elastic,
}


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Received) -> None:
        self.received = received

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received.add("udp", data)


async def serve_connection(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one HTTP connection until the client leaves."""
    try:
        while True:
            path, headers = await read_head(reader)
            body = await read_body(reader, headers)
            if path == "/-/take":
                status, answer = "200 OK", json.dumps(received.take()).encode()
            else:
                received.add(path, body)
                status, answer = ANSWERS.get(path, ("404 Not Found", b"{}"))
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(answer), answer))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """The path without its query, and the headers by lower-case name."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    return head[0].split(" ")[1].partition("?")[0], headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


async def main() -> None:
    received = Received()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    udp.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Datagrams(received), sock=udp)
    server = await asyncio.start_server(lambda r, w: serve_connection(received, r, w), "127.0.0.1", 0)
    ports = {"udp_port": udp.getsockname()[1], "http_port": server.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
