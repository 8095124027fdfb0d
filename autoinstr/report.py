"""From finished spans to payloads on their way: the queue and its worker.

Owns: the bounded queue, the worker thread, batches, retries, flushing, the counts of what was sent and lost.
Must not know: what a span means, how it is encoded, what carries it (an ``Exporter`` pairs an encoder with a transport).
Invariants: ``report`` never blocks, never takes a lock and never raises; the worker is started by the first finished span and
not before (a thread at start-up breaks programs that fork); what does not fit is counted and dropped.

Locks and threads come from ``_thread``, looked up at first use: under gevent's or eventlet's monkey patching these are the
patched ones, and the worker is a greenlet like everything else there.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.model import Encoder, SpanData, Transport

#: The first wait before a payload is sent again; it doubles each time.
FIRST_DELAY_S = 0.5


class Exporter:
    """One way out: an encoder and the transport for its payloads."""

    __slots__ = ("encoder", "failed", "name", "sent", "too_large", "transport")

    def __init__(self, name: str, encoder: Encoder, transport: Transport) -> None:
        self.name = name
        self.encoder = encoder
        self.transport = transport
        self.sent = self.failed = self.too_large = 0


class Reporter:
    """Takes finished spans and exports them in batches, on a thread of its own.

    ``make_exporters()`` is called by the worker when there is something to export, because codecs and sockets need not be
    loaded before. ``max_queue`` and ``max_batch`` are counts of spans; ``interval_s`` is the longest that a span waits for
    company; a payload that could not be sent is tried again for ``retry_for_s``, then dropped and counted.
    ``on_trouble(text)`` is told of failures (the caller limits the rate). ``shield()`` is called once on the worker, and makes
    sure that its own traffic is not traced.
    """

    __slots__ = (
        "_attention",
        "_closing",
        "_gate",
        "_has_exporters",
        "_running",
        "_waiters",
        "_wake_at",
        "dropped",
        "exporters",
        "interval_s",
        "make_exporters",
        "max_batch",
        "max_queue",
        "on_trouble",
        "queue",
        "retry_for_s",
        "shield",
        "taken",
    )

    def __init__(
        self,
        make_exporters: Callable[[], list[Exporter]],
        *,
        max_queue: int = 4096,
        max_batch: int = 512,
        interval_s: float = 1.0,
        retry_for_s: float = 30.0,
        on_trouble: Callable[[str], object] = lambda text: None,
        shield: Callable[[], object] = lambda: None,
    ) -> None:
        self.make_exporters = make_exporters
        self.exporters: list[Exporter] = []
        self._has_exporters = False
        self.max_queue = max_queue
        self.max_batch = min(max_batch, max_queue)
        self.interval_s = interval_s
        self.retry_for_s = retry_for_s
        self.on_trouble = on_trouble
        self.shield = shield
        self.queue: deque[SpanData] = deque()
        self.dropped = 0
        self.taken = 0
        self._wake_at = max(self.max_batch - 1, 1)
        self._start_over()

    def _start_over(self) -> None:
        """State that belongs to a thread, as it is before there is one."""
        #: ``report`` looks up only when the queue is at least this long: at once, at a full batch, or when it is full.
        self._attention = 0
        self._running = False
        self._closing = False
        self._gate: object = None
        self._waiters: list[object] = []

    def report(self, span: SpanData) -> None:
        """Queue a finished span. Called on the program's own thread: no lock, no wait, no exception."""
        queue = self.queue
        length = len(queue)
        if length >= self._attention and not self._attend(length):
            return
        queue.append(span)

    def _attend(self, length: int) -> bool:
        """What ``report`` does now and then: start the worker, wake it, or drop. True when the span may be queued."""
        if length >= self.max_queue:
            self.dropped += 1
            return False
        if self._running:
            self._attention = self.max_queue
            self._open_gate()
        else:
            self._attention = self._wake_at
            self._start_worker()
        return True

    def _start_worker(self) -> bool:
        """Start the thread; False where that is not possible, as while the interpreter shuts down."""
        import _thread

        self._running = True
        self._gate = gate = _thread.allocate_lock()
        gate.acquire()
        try:
            _thread.start_new_thread(self._work, (gate,))
        except RuntimeError:
            self._running = False
            self._attention = self.max_queue
            return False
        return True

    def _open_gate(self) -> None:
        """Wake the worker, whatever it waits for."""
        try:
            self._gate.release()  # type: ignore[attr-defined]
        except (RuntimeError, AttributeError):  # It is awake already, or not there.
            return

    def _work(self, gate: object) -> None:
        """The worker: wait for the interval or a wake-up, then drain; until told to close."""
        try:
            self.shield()
            while self._gate is gate:
                gate.acquire(True, self.interval_s)  # type: ignore[attr-defined]
                closing = self._closing
                waiters, self._waiters = self._waiters, []
                self._attention = self.max_queue
                self._drain()
                self._attention = self._wake_at
                for waiter in waiters:
                    waiter.release()  # type: ignore[attr-defined]
                if closing and not self._waiters:
                    break
        except Exception as error:  # Host safety: nothing may appear on the program's stderr but our own line.
            self.on_trouble(f"the reporting thread failed: {type(error).__name__}: {error}")
        finally:
            if self._gate is gate:
                self._running = False
                self._attention = 0
                for waiter in self._waiters:  # Somebody who came while the last ones were served.
                    waiter.release()  # type: ignore[attr-defined]

    def _drain(self) -> None:
        """Export everything that is queued now, batch by batch."""
        queue = self.queue
        left = len(queue)
        if left and not self._has_exporters:
            self._has_exporters = True
            self.exporters = self.make_exporters()
        while left > 0:
            batch = []
            try:
                for _ in range(min(left, self.max_batch)):
                    batch.append(queue.popleft())  # noqa: PERF401 - what was taken must survive an empty queue
            except IndexError:
                left = 0
            left -= len(batch)
            if batch:
                self.taken += len(batch)
                for exporter in self.exporters:
                    self._export(exporter, batch)

    def _export(self, exporter: Exporter, batch: list[SpanData]) -> None:
        try:
            payloads, unfit = exporter.encoder.encode(batch, (self.dropped, exporter.too_large, exporter.failed))
        except Exception as error:  # Host safety: a fault of ours may cost spans, never the thread.
            exporter.failed += len(batch)
            self.on_trouble(f"cannot encode spans for {exporter.name}: {type(error).__name__}: {error}")
            return
        exporter.too_large += unfit
        for payload, count in payloads:
            self._send(exporter, payload, count)

    def _send(self, exporter: Exporter, payload: bytes, count: int) -> None:
        """Send one payload, trying again for a while where that can help."""
        delay_s = FIRST_DELAY_S
        give_up_at = monotonic() + self.retry_for_s
        while True:
            try:
                response = exporter.transport.send(payload)
                refused = min(exporter.encoder.rejected(response), count) if response else 0
            except Exception as error:
                self.on_trouble(f"cannot export spans: {error}")
                if getattr(error, "retryable", False) and not self._closing:
                    wait_s = getattr(error, "retry_after_s", None) or delay_s
                    if monotonic() + wait_s < give_up_at and self._pause(wait_s):
                        delay_s *= 2
                        continue
                exporter.failed += count
                return
            exporter.sent += count - refused
            exporter.failed += refused
            if refused:
                self.on_trouble(f"{exporter.name} refused {refused} of {count} spans")
            return

    def _pause(self, seconds: float) -> bool:
        """Wait before a retry, spread by a jitter of half; False when the process is about to end meanwhile."""
        from os import urandom

        until = monotonic() + seconds * (0.75 + urandom(1)[0] / 512)
        gate = self._gate
        while not self._closing and (left := until - monotonic()) > 0:
            if gate is None:  # No worker: this is the program's own thread, which must not wait.
                return False
            gate.acquire(True, left)  # type: ignore[attr-defined]
        return not self._closing

    def flush(self, timeout_s: float, *, last: bool = False) -> bool:
        """Export what is queued, waiting at most ``timeout_s``; True when all of it went out or was given up.

        ``last``: the process is about to end, so failures are not tried again, and the worker ends, too.
        """
        if last:
            self._closing = True
        if not self._running:
            # No worker: there is nothing, or no thread can be started any more, so do it here.
            if self.queue:
                self._drain()
            return not self.queue
        import _thread

        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        self._open_gate()
        return waiter.acquire(True, max(timeout_s, 0))

    def pause(self, timeout_s: float) -> None:
        """Before a fork: end the worker if it is idle, so that no thread is lost and Python need not warn of one."""
        if self._running:
            self.flush(timeout_s, last=True)
            deadline = monotonic() + timeout_s
            while self._running and monotonic() < deadline:
                _yield_to_others()

    def resume(self) -> None:
        """After a fork, in the parent: work goes on with the next span, or at once if some are queued."""
        self._closing = False
        if not self._running:
            self._attention = 0
            if self.queue:
                self._attention = self._wake_at
                self._start_worker()

    def abandon(self) -> None:
        """After a fork, in the child: the queued spans, the thread and the connections are the parent's."""
        self.queue = deque()
        self.dropped = self.taken = 0
        self._start_over()
        exporters, self.exporters = self.exporters, []
        self._has_exporters = False
        for exporter in exporters:
            exporter.transport.abandon()

    def close(self, timeout_s: float) -> bool:
        """Flush for the last time and close the transports; False if that was not done in time."""
        done = self.flush(timeout_s, last=True)
        if done:
            for exporter in self.exporters:
                exporter.transport.close()
        return done


class NullReporter:
    """Takes spans and forgets them."""

    def report(self, span: SpanData) -> None:
        """Nothing."""


class InMemoryReporter:
    """Keeps finished spans in ``spans``, for tests: the newest ``max_spans`` of them."""

    def __init__(self, max_spans: int = 100_000) -> None:
        self.spans: deque[SpanData] = deque(maxlen=max_spans)

    def report(self, span: SpanData) -> None:
        """Keep it."""
        self.spans.append(span)


def _yield_to_others() -> None:
    from time import sleep

    sleep(0.001)
