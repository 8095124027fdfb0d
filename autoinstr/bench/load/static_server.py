"""The fastest server that Python has: what a generator makes of it is the generator's ceiling.

    python -m autoinstr.bench.load.static_server [--port N] [--delay-ms N]

Owns: one socket, one answer, two counts. Must not know: Locust, campaigns.
Invariants: every request without a body is answered, also several that come in one segment or in pieces, and counted once, before
its answer is sent; ``GET /-/stats`` says ``{"requests": N}`` and is not counted. Prints ``{"port": N}`` and ends when its standard
input does, so that it never outlives who started it. ``--delay-ms`` answers later (for tests of what is in flight).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

END = b"\r\n\r\n"
#: What geventhttpclient 2.4 sends after the headers of a GET: an empty body in chunks.
NO_BODY = b"0"
STATS = b"GET /-/stats "
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
#: More than any request line and headers of ours; what is longer is not HTTP.
MAX_BUFFER = 65_536


class Server:
    """Answers, and counts."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.requests = 0

    def answer(self, request: bytes) -> bytes:
        if request.startswith(STATS):
            body = json.dumps({"requests": self.requests}).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        self.requests += 1
        return ANSWER


class Connection(asyncio.Protocol):
    """One client, with keep-alive."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy; TCP has no other.
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while END in self._buffer:
            request, _, self._buffer = self._buffer.partition(END)
            if request == NO_BODY:
                continue
            answer = self._server.answer(request)
            if self._server.delay_s and answer is ANSWER:
                asyncio.get_running_loop().call_later(self._server.delay_s, self._transport.write, answer)
            else:
                self._transport.write(answer)
        if len(self._buffer) > MAX_BUFFER:
            self._transport.close()


async def serve(port: int, delay_s: float) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    server = Server(delay_s)
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, backlog=1024)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    print(json.dumps({"port": listener.sockets[0].getsockname()[1]}), flush=True)
    await ended.wait()
    listener.close()


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="static_server", description="Answers every request with the same three bytes.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    options = parser.parse_args(words)
    asyncio.run(serve(options.port, options.delay_ms / 1e3))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
