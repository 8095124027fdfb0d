"""``autoinstr serve``, as a process of its own with its spans in memory.

Owns: starting it; its ports; the newer API, which tells nanoseconds and lists.
Must not know: what is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes import DEADLINE_S, until

from .contract import HOST, OTLP, PREFIXES, Record, ask, records_of_otlp
from .jaeger import JaegerApi

PORTS = {
    "jaeger-udp": ("udp", "agent"),
    "jaeger-udp-6832": ("udp", "agent-binary"),
    "jaeger-http": ("http", "collector"),
    **dict.fromkeys(OTLP, ("http", "otlp")),
    "zipkin": ("http", "zipkin"),
}
NAMES = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")


class Ours(JaegerApi):
    """A running one, by its ports."""

    def __init__(self, ports: dict[str, int]) -> None:
        super().__init__(f"http://{HOST}:{ports['query']}")
        self.ports = ports

    def target(self, reporter: str) -> str:
        scheme, port = PORTS[reporter]
        return f"{scheme}://{HOST}:{self.ports[port]}"

    def trace_v3(self, trace_id: int) -> list[Record]:
        """As OTLP."""
        answer = ask(f"{self.query_url}/api/v3/traces/{trace_id:032x}?raw_traces=true")
        return records_of_otlp(answer["result"]) if answer else []


@contextmanager
def opened(folder: Path) -> Iterator[Ours]:
    """On free ports."""
    import os

    ports_file = folder / "ports.json"
    words = [word for name in NAMES for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "autoinstr", "serve", "--storage", "memory", "--ports-file", str(ports_file), *words]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        until(lambda: ports_file.exists() or process.poll() is not None, "the backend's start")
        assert process.poll() is None, (folder / "log").read_text()
        yield Ours(json.loads(ports_file.read_text()))
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
