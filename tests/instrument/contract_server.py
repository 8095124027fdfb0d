"""What holds for every server that is run under the agent, whichever it is: subclass ``ServerContract`` and say how it starts.

The servers are real processes, started as a user starts them, and the spans are what arrives at a UDP socket as from any
other of Jaeger's clients. SIGTERM follows the last answer at once, because most tracers lose their spans there.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from autoinstr.model import Kind, Status
from autoinstr.wire.jaeger import decode_message
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoinstr.model import SpanData

APPS = Path(__file__).with_name("apps")
DEADLINE_S = 40
REQUESTS = 30
#: What each application's routes are called; an application without a framework has none.
ROUTES = {
    "plain_wsgi": {},
    "plain_asgi": {},
    "flask": {"/users": "/users/<int:user_id>", "/fail": "/fail", "/stream": "/stream"},
    "fastapi": {"/users": "/users/{user_id}", "/fail": "/fail", "/stream": "/stream"},
    "django_wsgi": {"/users": "/users/<int:user_id>", "/fail": "/fail", "/stream": "/stream"},
    "django_asgi": {"/users": "/users/<int:user_id>", "/fail": "/fail", "/stream": "/stream"},
}
#: Where servers find the applications.
TARGETS = {
    "plain_wsgi": "plain_wsgi:app",
    "plain_asgi": "plain_asgi:app",
    "flask": "flask_app:app",
    "fastapi": "fastapi_app:app",
    "django_wsgi": "django_wsgi:application",
    "django_asgi": "django_asgi:application",
}


class Receiver:
    """Takes what the agent sends, as a Jaeger agent does."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def spans(self) -> list[SpanData]:
        """All that has arrived; the senders have ended by now."""
        found: list[SpanData] = []
        self.socket.settimeout(0.05)
        while True:
            try:
                found += decode_message(self.socket.recv(1 << 17)).spans
            except TimeoutError:
                return found

    def close(self) -> None:
        self.socket.close()


class Server:
    """A server process and what it printed."""

    def __init__(self, command: list[str], port: int, log: Path, *, traced: bool, environ: dict[str, str]) -> None:
        self.port = port
        self.log = log
        prefix = [sys.executable, "-m", "autoinstr"]
        if not traced:
            is_command = command[0] != "-m" and not command[0].endswith(".py")
            prefix = [] if is_command else [sys.executable]
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START") if name in os.environ}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, *command],
                cwd=APPS,
                env={
                    **kept,
                    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONUNBUFFERED": "1",
                    **environ,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """One request on a connection of its own; waits for the server to come up."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
            try:
                connection.connect()
            except ConnectionError:  # Not listening yet, or just about to.
                connection.close()
                assert self.process.poll() is None, self.output()
                assert time.monotonic() < deadline, self.output()
                time.sleep(0.02)
                continue
            try:
                connection.request(method, path)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

    def terminate(self) -> int:
        """SIGTERM to the process that was started, as a container's runtime does it; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"does not end: {self.output()}")

    def kill(self) -> None:
        """Nothing of it is left behind, whatever the test did."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class ServerContract:
    """Subclasses say which applications the server can serve, and how it is started."""

    apps: ClassVar[tuple[str, ...]]
    environ: ClassVar[dict[str, str]] = {}
    #: What the server prints when all of its processes are up, for one that hangs, bare as well, if stopped before.
    is_up_when_it_says: ClassVar[tuple[str, ...]] = ()

    def command(self, target: str, port: int) -> list[str]:
        """The words after ``python -m autoinstr``."""
        raise NotImplementedError

    def start(self, app: str, receiver: Receiver, folder: Path, *, traced: bool = True) -> Server:
        port = free_port()
        environ = {
            "JAEGER_SERVICE_NAME": "contract",
            "JAEGER_SAMPLER_TYPE": "const",
            "JAEGER_SAMPLER_PARAM": "1",
            "JAEGER_AGENT_HOST": "127.0.0.1",
            "JAEGER_AGENT_PORT": str(receiver.port),
            **self.environ,
        }
        log = folder / f"{'traced' if traced else 'bare'}.log"
        server = Server(self.command(TARGETS.get(app, app), port), port, log, traced=traced, environ=environ)
        deadline = time.monotonic() + DEADLINE_S
        while not all(line in server.output() for line in self.is_up_when_it_says):
            assert server.process.poll() is None, server.output()
            assert time.monotonic() < deadline, server.output()
            time.sleep(0.02)
        return server

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "app" in metafunc.fixturenames:
            metafunc.parametrize("app", self.apps)

    def test_each_request_is_one_span_even_if_the_server_is_stopped_at_once(
        self, app: str, receiver: Receiver, tmp_path: Path
    ) -> None:
        """Users would see requests missing, twice, under a wrong name, or not as failed."""
        server = self.start(app, receiver, tmp_path)
        try:
            assert server.get("/nothing")[0] == 404
            assert server.get("/fail")[0] == 500
            assert server.get("/stream") == (200, b"part part part ")
            for number in range(REQUESTS - 3):
                assert server.get(f"/users/{number}") == (200, f"hello {number}".encode())
            server.terminate()
        finally:
            server.kill()
        spans = [span for span in receiver.spans() if span.kind == Kind.SERVER]
        assert len(spans) == REQUESTS, server.output()
        assert len({span.span_id for span in spans}) == len({span.trace_id for span in spans}) == REQUESTS
        by_path: dict[str, list[SpanData]] = {}
        for span in spans:
            by_path.setdefault("/" + str(span.attributes["url.path"]).split("/")[1], []).append(span)
        assert {path: len(found) for path, found in by_path.items()} == {
            "/users": REQUESTS - 3, "/nothing": 1, "/fail": 1, "/stream": 1
        }
        for path, found in by_path.items():
            route = ROUTES[app].get(path)
            expected_status = {"/users": 200, "/stream": 200, "/nothing": 404, "/fail": 500}[path]
            for span in found:
                assert span.name == (f"GET {route}" if route else "GET")
                assert span.attributes.get("http.route") == route
                assert span.attributes.get("http.response.status_code", 500) == expected_status
                assert span.end_ns > span.start_ns
                assert span.status == (Status.ERROR if path == "/fail" else Status.UNSET)
        (failed,) = by_path["/fail"]
        assert failed.attributes["error.type"] == "RuntimeError"
        assert [event.name for event in failed.events or ()] == ["exception"]
        assert "autoinstr:" not in server.output()

    def test_ends_as_without_us(self, receiver: Receiver, tmp_path: Path) -> None:
        """A supervisor would restart, or alarm, because of another exit status, and logs would show strange lines."""
        ends = []
        for traced in (False, True):
            server = self.start(self.apps[0], receiver, tmp_path, traced=traced)
            try:
                for number in range(3):  # The last of them may go unlogged.
                    assert server.get(f"/users/{number}") == (200, f"hello {number}".encode())
                ends.append((server.terminate(), comparable(server)))
            finally:
                server.kill()
        assert ends[0] == ends[1]


def comparable(server: Server) -> set[str]:
    """The lines of a server's output, without what differs from run to run: numbers, and the order of several processes.

    watchdog, which some reloaders use, complains when other processes write many files beside those that it watches.
    """
    text = server.output().replace(f":{server.port}", ":PORT")  # A process may have that number, too.
    lines = [line for line in text.splitlines() if line and not line.startswith("Inotify queue overflowed")]
    return {re.sub(r"\d[\d.:,]*", "N", line) for line in lines}
