"""A real backend in a process of its own, and spans as other people's libraries encode them."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HOST = "127.0.0.1"
NAMES = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")
DEADLINE_S = 30


def serve_command(*options: str) -> list[str]:
    """Any free port for everything, and spans in memory, unless ``options`` say otherwise."""
    ports = [word for name in NAMES for word in (f"--{name}-port", "0")]
    keeps = () if {"--storage", "--forward", "--data"} & set(options) else ("--storage", "memory")
    return [sys.executable, "-m", "autoinstr", "serve", *ports, *keeps, *options]


def poll(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.02)
    return value


class Backend:
    """A running backend: its process, its ports by name, its HTTP."""

    def __init__(self, process: subprocess.Popen[str], ports: dict[str, int]) -> None:
        self.process = process
        self.ports = ports

    def post(self, name: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        status, answer, _ = self.request(name, "POST", path, body, headers)
        return status, answer

    def get(self, name: str, path: str) -> tuple[int, bytes]:
        status, answer, _ = self.request(name, "GET", path)
        return status, answer

    def request(
        self, name: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(HOST, self.ports[name], timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def send_datagram(self, payload: bytes, port: str = "agent") -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(payload, (HOST, self.ports[port]))

    def data(self, path: str) -> Any:
        """What a successful query answers, without its envelope."""
        status, body = self.get("query", path)
        assert status == 200, body
        return json.loads(body)["data"]

    def wait_for_service(self, service: str) -> dict[str, Any]:
        """The newest trace of a service, once there is one."""
        return poll(lambda: self.data(f"/api/traces?service={service}&start=0"), f"a trace of {service}")[0]

    def metric(self, name: str) -> int:
        """One number of ``/metrics``, by its name with its labels; 0 when it is not there."""
        lines = self.get("query", "/metrics")[1].decode().splitlines()
        return next((int(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0)

    def lost(self, service: str, where: str) -> int:
        """How much of a service was lost in one place."""
        return self.metric(f'autoinstr_service_lost_total{{service="{service}",where="{where}"}}')


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Backend]:
    ports_file = folder / "ports.json"
    process = subprocess.Popen(
        serve_command("--ports-file", str(ports_file), *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        poll(lambda: ports_file.exists() or process.poll() is not None, "the backend's ports file")
        assert process.poll() is None, process.communicate()[1]
        yield Backend(process, json.loads(ports_file.read_text()))
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One backend for all tests of a module, which therefore use different services."""
    with running(tmp_path_factory.mktemp("backend")) as started:
        yield started
