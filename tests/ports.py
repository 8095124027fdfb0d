"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses.

    Below those that systems give to outgoing connections: such a one could take the port before the server does, or even
    connect to itself while the test waits for the server.
    """
    for port in random.sample(range(10_000, 32_000), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
