"""The HTTP server that the measured clients call: a fixed answer, as cheaply as Python can give it.

Owns: one port, printed as one line of JSON at the start.
Must not know: who calls.
"""

from __future__ import annotations

import asyncio
import json

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"stock": 1234}'


class Origin(asyncio.Protocol):
    """Answers each request head; the measured clients send no bodies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        *heads, self.pending = (self.pending + data).split(b"\r\n\r\n")
        for head in heads:
            self.transport.write(ANSWER)
            if b"connection: close" in head.lower():
                self.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
