"""rotel, an OpenTelemetry collector in Rust that comes as a wheel, between the agent and our backend.

Owns: running it.
Must not know: what is tested. What arrived is asked of the backend behind it.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fakes import DEADLINE_S, until
from ports import free_port

from . import ours
from .contract import HOST, PREFIXES


class Rotel(ours.Ours):
    """Our backend, with a collector in front of it."""

    def __init__(self, behind: ours.Ours, port: int) -> None:
        super().__init__(behind.ports)
        self.collector_port = port

    def target(self, reporter: str) -> str:
        assert reporter.startswith("otlp")
        return f"http://{HOST}:{self.collector_port}"


def program() -> Path | None:
    """The program in the wheel; it is not imported, which would change this process."""
    spec = find_spec("rotel")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).with_name("rotel-agent")
    return found if found.exists() else None


def missing() -> str:
    """What is not there, and what to do; empty if all is."""
    return "" if program() else "no rotel (pip install rotel; wheels for Linux and macOS)"


@contextmanager
def opened(folder: Path) -> Iterator[Rotel]:
    with ours.opened(folder) as behind, _collector(folder, behind, "http") as port:
        yield Rotel(behind, port)


@contextmanager
def opened_grpc(folder: Path) -> Iterator[Rotel]:
    """The same, speaking gRPC to our backend."""
    with ours.opened(folder) as behind, _collector(folder, behind, "grpc") as port:
        yield Rotel(behind, port)


@contextmanager
def _collector(folder: Path, behind: ours.Ours, protocol: str) -> Iterator[int]:
    """Takes OTLP over HTTP (its gRPC port is one that nobody uses), and passes it on."""
    port, grpc_port = free_port(), free_port()
    out = behind.ports["otlp-grpc" if protocol == "grpc" else "otlp"]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith((*PREFIXES, "ROTEL_"))},
        "ROTEL_OTLP_HTTP_ENDPOINT": f"{HOST}:{port}",
        "ROTEL_OTLP_GRPC_ENDPOINT": f"{HOST}:{grpc_port}",
        "ROTEL_OTLP_EXPORTER_ENDPOINT": f"http://{HOST}:{out}",
        "ROTEL_OTLP_EXPORTER_PROTOCOL": protocol,
        "ROTEL_BATCH_TIMEOUT": "50ms",
    }
    with open(folder / "rotel.log", "wb") as log:
        process = subprocess.Popen([str(program()), "start"], env=environ, stdout=log, stderr=log)
    try:
        until(lambda: _listens(port) or process.poll() is not None, "rotel's start")
        assert process.poll() is None, (folder / "rotel.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
