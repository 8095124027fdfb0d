"""The agent's own counters for Prometheus: the text, and the port where it can be fetched (AUTOINSTR_METRICS_PORT).

Owns: the names on the page, the listening socket, its thread, their rest during a fork.
Must not know: what is counted (``read`` gives the counts by Jaeger's names), spans' contents, the environment.
Invariants: nothing listens before the first span (the master of a preforking server would take the port from its workers);
one request at a time, each limited in time and size; never raises into the program. HTTP is spoken by hand here: what the
instruments patch is not used, so nothing of this is ever traced.
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic

from autoinstr.trace import Tracer
from autoinstr.trouble import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

#: Jaeger's Go and Java clients call theirs like this in Prometheus.
PREFIX = "jaeger_tracer_"
GAUGES = frozenset({"reporter_backlog_length", "reporter_queue_length"})
HELP = {
    "traces": "Traces by where they started and whether they are kept",
    "started_spans": "Spans started",
    "finished_spans": "Spans finished",
    "span_context_decoding_errors": "Incoming headers that could not be read",
    "reporter_spans": "Spans sent (ok), lost on the way (err) and lost before it (dropped)",
    "reporter_queue_length": "Spans that wait to be sent",
    "reporter_backlog_length": "Spans that could not be sent and will be tried again",
    "cpu_microseconds": "CPU time of the process, and what tracing has taken of it (where the sampler is budget)",
    "sampler_queries": "Polls for a sampling strategy",
    "sampler_updates": "Sampling strategies received",
}
HOST = "127.0.0.1"
#: Further processes of a program (workers) take the next ports, up to so many in all.
PORTS = 32
#: For one request: seconds that its sender may take, and bytes.
REQUEST_TIMEOUT_S = 2.0
MAX_REQUEST = 8192
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(counts: dict[str, int]) -> str:
    """Counts by name, with tags written as in Prometheus, in its text format 0.0.4."""
    families: dict[str, list[str]] = {}
    for key, count in counts.items():
        name, brace, tags = key.partition("{")
        full_name = PREFIX + name + ("" if name in GAUGES else "_total")
        lines = families.get(name)
        if lines is None:
            kind = "gauge" if name in GAUGES else "counter"
            families[name] = lines = [f"# HELP {full_name} {HELP.get(name, name)}.", f"# TYPE {full_name} {kind}"]
        lines.append(f"{full_name}{brace}{tags} {count}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def announcing(announce: Callable[[], object], kind: type[Tracer] = Tracer) -> type[Tracer]:
    """A kind of tracer that calls ``announce`` with its first span, and from then on is a plain one, at no cost."""

    class AnnouncingTracer(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def start(self, *arguments: Any, **keywords: Any) -> Span:
            self._become_plain()
            return self.start(*arguments, **keywords)

        def start_local_root(self, *arguments: Any, **keywords: Any) -> Span:
            self._become_plain()
            return self.start_local_root(*arguments, **keywords)

        def _become_plain(self) -> None:
            self.__class__ = kind  # type: ignore[assignment]
            announce()

    return AnnouncingTracer


class MetricsServer:
    """Answers ``GET /metrics`` (and ``/``) on this host's loopback address, on a thread of its own.

    ``port`` is a TCP port; where it is taken, by another worker as a rule, the next free one is; where all are, that costs a
    line and no more. ``read()`` gives the counts, ``start_thread(work, arguments)`` begins a thread.
    """

    def __init__(
        self,
        port: int,
        read: Callable[[], dict[str, int]],
        start_thread: Callable[[Callable[..., object], tuple[object, ...]], object],
    ) -> None:
        self.port = port
        self._begin_thread = start_thread
        self._read = read
        self._listener: socket.socket | None = None
        self._is_ending = False
        self._running = False
        self._thread_id = 0
        #: Only ever tried, never waited for: two threads may have their first span at once.
        self._starting = allocate_lock()

    def start(self) -> None:
        """Listen, and start the thread. Never raises."""
        if not self._starting.acquire(blocking=False):
            return
        try:
            if not self._running:
                self._listener = self._listener or self._listen()
                self._start_thread(self._listener)
        except Exception as error:  # Host safety: a taken port, no threads; the program's request goes on.
            self._close()
            ports = f"port {self.port} or the {PORTS - 1} after it"
            say(f"no metrics on {ports} (AUTOINSTR_METRICS_PORT) in this process: {error}", about="metrics")
        finally:
            self._starting.release()

    def _listen(self) -> socket.socket:
        import errno

        port, last = self.port, min(self.port + PORTS - 1, 65535)
        while True:
            try:
                return _listening(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port >= last:
                    raise
            port += 1

    def _start_thread(self, listener: socket.socket) -> None:
        self._is_ending = False
        self._running = True
        try:
            self._begin_thread(self._serve, (listener,))
        except BaseException:
            self._running = False
            raise

    def _serve(self, listener: socket.socket) -> None:
        import _thread

        self._thread_id = _thread.get_native_id() if hasattr(_thread, "get_native_id") else 0
        try:
            while not self._is_ending:
                connection, _ = listener.accept()
                if not self._is_ending:
                    self._answer(connection)
                connection.close()
        except OSError:  # The listener was closed; or there are no descriptors left, and then metrics are the least.
            return
        finally:
            self._running = False

    def _answer(self, connection: socket.socket) -> None:
        try:
            target = _read_target(connection)
            known = target.partition("?")[0] in {"/", "/metrics"}
            body = prometheus_text(self._read()) if known else "Metrics are at /metrics.\n"
            status = "200 OK" if known else "404 Not Found"
            head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall((head + body).encode())
        except Exception as error:  # Host safety: whoever asks badly must not end the thread.
            if not isinstance(error, OSError):
                say(f"cannot answer on the metrics port: {type(error).__name__}: {error}", about="metrics")

    def pause(self, timeout_s: float) -> int:
        """Before a fork: end the thread; the port stays open. Returns the system's id of the thread that ended, or 0."""
        if not self._running:
            return 0
        self._is_ending = True
        self._knock()
        deadline = monotonic() + timeout_s
        while self._running:
            if monotonic() >= deadline:
                return 0
            _look_away()
        return self._thread_id

    def _knock(self) -> None:
        """Connect, so that ``accept`` returns: the one way to wake it that works everywhere."""
        import socket

        try:
            if self._listener is not None:
                socket.create_connection(self._listener.getsockname(), 0.05).close()
        except OSError:
            return

    def resume(self) -> None:
        """After a fork, in the parent: ``start`` goes on where this left off.

        Not at once, because Python 3.13 looks for threads only after the hooks of a fork.
        """
        self._is_ending = False

    def abandon(self) -> None:
        """After a fork, in the child: the port is the parent's."""
        self._running = False
        self._starting = allocate_lock()
        self._close()

    def stop(self, timeout_s: float) -> None:
        """Close the port and end the thread."""
        self.pause(timeout_s)
        self._close()

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


def _listening(port: int) -> socket.socket:
    import socket

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def _read_target(connection: socket.socket) -> str:
    """The path of a request; raises ``OSError`` for one that does not come in time, or is none."""
    deadline = monotonic() + REQUEST_TIMEOUT_S
    received = b""
    while b"\r\n\r\n" not in received and b"\n\n" not in received:
        left_s = deadline - monotonic()
        if left_s <= 0 or len(received) > MAX_REQUEST:
            raise TimeoutError
        connection.settimeout(left_s)
        chunk = connection.recv(MAX_REQUEST)
        if not chunk:
            raise ConnectionAbortedError
        received += chunk
    words = received.split(b"\r\n", 1)[0].split()
    if len(words) != 3 or words[0] != b"GET":
        raise ConnectionAbortedError
    return words[1].decode("latin-1")


def _look_away() -> None:
    from time import sleep  # Not at start-up: gevent must patch it first.

    sleep(0.0005)
