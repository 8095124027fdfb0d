"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port(count: int = 1) -> int:
    """A TCP port of the loopback interface that nobody uses; the first of ``count`` in a row.

    Below those that systems give to outgoing connections: such a one could take the port before the server does, or even
    connect to itself while the test waits for the server.
    """
    for port in random.sample(range(10_000, 32_000 - count), 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(count):
                probe = stack.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port + number))
            return port
    raise RuntimeError("no free port")
