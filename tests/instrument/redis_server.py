"""A redis server of the tests' own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from fakes import until
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
WHY_NOT = "no redis-server (Debian's package redis-server) is installed"


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[int]:
    """A server that keeps everything in memory; its port. Its socket is ``folder``/s."""
    port = free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--save", "", *options]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([str(BINARY), *words], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port) or process.poll() is not None, "the start of redis-server")
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(100).startswith(b"+PONG")
    return False
