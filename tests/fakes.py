"""Stand-ins for what lies around the reporter, and servers that misbehave on purpose."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from autoinstr.model import SpanData
from autoinstr.transport import TransportError

#: How long a test waits for something that will happen; it fails afterwards.
DEADLINE_S = 20


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.002)
    return value


def make_span(number: int = 1) -> SpanData:
    """A finished span; ``number`` is its id and its name."""
    return SpanData(f"span {number}", 1, number, start_ns=1, end_ns=2)


class FakeEncoder:
    """One payload per batch: the ids of its spans. ``error`` is raised, spans whose id is in ``unfit`` are too large."""

    content_type = "text/plain"

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.unfit: set[int] = set()
        self.batches: list[int] = []
        self.lost: list[tuple[int, int, int]] = []

    def encode(
        self, spans: Sequence[SpanData], lost: tuple[int, int, int] = (0, 0, 0)
    ) -> tuple[list[tuple[bytes, int]], int]:
        self.lost.append(lost)
        if self.error is not None:
            raise self.error
        self.batches.append(len(spans))
        ids = [span.span_id for span in spans if span.span_id not in self.unfit]
        return [(" ".join(map(str, ids)).encode(), len(ids))], len(spans) - len(ids)

    def rejected(self, response: bytes) -> int:
        return int(response)


class FakeTransport:
    """Keeps what it is sent. ``errors`` are raised first, one a send (the last one for ever, if ``keeps_failing``).

    While ``may_send`` is clear, a send hangs; ``sending`` is set meanwhile.
    """

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.times: list[float] = []
        self.errors: list[BaseException] = []
        self.keeps_failing = False
        self.response = b""
        self.may_send = threading.Event()
        self.may_send.set()
        self.sending = threading.Event()
        self.closed = self.abandoned = 0
        self.senders: set[int] = set()
        self.busy = threading.Lock()

    @property
    def ids(self) -> list[int]:
        """The ids of all spans that arrived."""
        return [int(word) for payload in list(self.payloads) for word in payload.split()]

    def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
        assert self.busy.acquire(blocking=False), "two threads use one transport"
        try:
            self.times.append(time.monotonic())
            self.senders.add(threading.get_ident())
            self.sending.set()
            if not self.may_send.wait(DEADLINE_S if timeout_s is None else timeout_s):
                raise TransportError("timed out", retryable=True)
            self.sending.clear()
            if self.errors:
                raise self.errors[0] if self.keeps_failing and len(self.errors) == 1 else self.errors.pop(0)
            self.payloads.append(payload)
            return self.response
        finally:
            self.busy.release()

    def close(self) -> None:
        self.closed += 1

    def abandon(self) -> None:
        self.abandoned += 1


class Server:
    """A TCP server in which each connection is handed to ``talk(connection, number of the connection)``, then closed."""

    def __init__(self, talk: Callable[[Any, int], object], context: Any = None, port: int = 0) -> None:
        self.connections = 0
        self.talk = talk
        self.context = context
        self.failures: list[BaseException] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection, self.connections), daemon=True).start()

    def _talk(self, connection: Any, number: int) -> None:
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            self.talk(connection, number)
        except OSError as error:
            self.failures.append(error)
        finally:
            connection.close()

    def close(self) -> None:
        # Closing alone does not wake `accept`.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()


class Request:
    """A request as it came over the wire."""

    def __init__(self, head: str, body: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        self.body = body


def read_request(connection: socket.socket) -> Request | None:
    """The next request on a connection; ``None`` when the client has closed it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    request = Request(head.decode(), body)
    while len(request.body) < int(request.headers.get("content-length", 0)):
        request.body += connection.recv(65536)
    return request


def response(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Collector(Server):
    """Answers every request with ``answer`` (bytes, or a list of them to be used up but for the last), and keeps it."""

    def __init__(self, *answers: bytes, context: Any = None, port: int = 0) -> None:
        self.answers = list(answers) or [response()]
        self.requests: list[Request] = []
        super().__init__(self._serve, context, port)

    def _serve(self, connection: Any, number: int) -> None:
        while (request := read_request(connection)) is not None:
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            connection.sendall(answer)


class SpanSink(Collector):
    """A collector that reads OTLP in JSON: ``spans`` is what arrived, as (name, pid, trace id, span id, parent id)."""

    @property
    def spans(self) -> list[tuple[str, int, str, str, str]]:
        found = []
        for request in list(self.requests):
            for group in json.loads(request.body)["resourceSpans"]:
                resource = {item["key"]: item["value"] for item in group["resource"]["attributes"]}
                pid = int(resource["process.pid"]["intValue"])
                found += [
                    (span["name"], pid, span["traceId"], span["spanId"], span.get("parentSpanId", ""))
                    for scope in group["scopeSpans"]
                    for span in scope["spans"]
                ]
        return found

    @property
    def names(self) -> list[str]:
        """The names of the spans that arrived, sorted."""
        return sorted(span[0] for span in self.spans)

    @property
    def environ(self) -> dict[str, str]:
        """What leads a traced process here, with all its traces."""
        return {
            "AUTOINSTR_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "JAEGER_SAMPLER_TYPE": "const",
            "JAEGER_SAMPLER_PARAM": "1",
        }
