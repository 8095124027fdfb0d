"""The service behind the sample services: a fixed answer, as cheaply as Python can give it.

    python origin.py [--port 8001] [--cpus 1,2]

Owns: one port, printed as one line of JSON at the start. Must not know: who calls.
Invariants: the connection is closed from here when the caller asks for that, so that the ports of callers that open one
for each request do not run out; ends when its standard input does, with ``--until-eof``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys

BODY = b'{"stock": 12}'


def answer(body):
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


ANSWER = answer(BODY)


class Origin(asyncio.Protocol):
    """Answers each head of a request; the callers send no bodies. ``/-/stats`` says how many others there were."""

    requests = 0

    def connection_made(self, transport):
        self.transport = transport
        self.pending = b""

    def data_received(self, data):
        *heads, self.pending = (self.pending + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(b"GET /-/stats "):
                self.transport.write(answer(b'{"requests": %d}' % Origin.requests))
            else:
                Origin.requests += 1
                self.transport.write(ANSWER)
            if b"connection: close" in head.lower():
                self.transport.close()


async def serve(options):
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if options.until_eof:
        loop.add_reader(sys.stdin, ended.set)
    server = await loop.create_server(Origin, "127.0.0.1", options.port, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "url": f"http://127.0.0.1:{port}"}), flush=True)
    await ended.wait()


def main():
    parser = argparse.ArgumentParser(description="A service that answers at once.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (any free one)")
    parser.add_argument("--cpus", default="", metavar="1,2", help="CPUs to run on (all)")
    parser.add_argument("--until-eof", action="store_true", help="end when the standard input does")
    options = parser.parse_args()
    if options.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
