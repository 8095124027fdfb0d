"""From finished spans to payloads on their way: the queue and its worker.

Owns: the bounded queue, the worker thread, batches, retries, flushing, the counts of what was sent and lost.
Must not know: what a span means, how it is encoded, what carries it (an ``Exporter`` pairs an encoder with a transport).
Invariants: ``report`` never blocks, never waits for a lock and never raises; the worker is started by the first finished span
and not before (a thread at start-up breaks programs that fork); what does not fit is counted and dropped; one thread at a
time exports; every span taken ends up in exactly one count of each exporter (sent, failed, too large, or waiting); a child
that C code has forked, where no hook of Python's runs, is noticed by its first span at the latest, and begins anew.

Locks and threads come from ``_thread``, looked up at first use: under gevent's or eventlet's monkey patching these are the
patched ones, and the worker is a greenlet like everything else there. The two locks that are made earlier are only ever
tried, never waited for, so that a signal handler, a greenlet or a forked child cannot hang on them.
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from _collections import deque  # `collections` brings three more modules with it, at every start.
else:
    from collections import deque
    from collections.abc import Callable
    from typing import Any

    from autoinstr.model import Encoder, SpanData, Transport

#: The first wait before a payload is sent again; it doubles each time, up to the longest.
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 5.0
#: Of a process with nothing yet that a child should not have.
_UNMARKED = b"\1"
#: madvise(2), Linux: a forked child finds zeros in the page. Python does not name it.
_MADV_WIPEONFORK = 18
#: When to go on with a queue that was filled while others were being sent: nobody has woken the worker for it.
_SOON_S = 0.01
#: How often somebody who has to wait without a lock looks again.
_LOOK_AGAIN_S = 0.0005
#: How long the end of the process waits for a worker that has sent everything: Python may crash while it ends beside a thread
#: that runs Python code.
_LAST_WORDS_S = 0.05


class Exporter:
    """One way out: an encoder, the transport for its payloads, and the payloads that could not be sent yet.

    ``sent``, ``failed``, ``too_large`` and ``waiting`` count spans. A payload that fails for a reason that may pass waits in
    the backlog, with growing delays, for at most ``retry_for_s``; the backlog holds at most ``max_waiting`` spans, the newest.
    """

    __slots__ = (
        "_backlog",
        "_delay_s",
        "encoder",
        "failed",
        "name",
        "retry_at",
        "sent",
        "too_large",
        "transport",
        "waiting",
    )

    def __init__(self, name: str, encoder: Encoder, transport: Transport) -> None:
        self.name = name
        self.encoder = encoder
        self.transport = transport
        self.sent = self.failed = self.too_large = self.waiting = 0
        #: (payload, spans in it, when to give it up), the oldest first.
        self._backlog: deque[tuple[bytes, int, float]] = deque()
        self._delay_s = FIRST_DELAY_S
        #: When to try again, on the monotonic clock; 0 while all is well.
        self.retry_at = 0.0

    def add(self, batch: list[SpanData], dropped: int, retry_for_s: float, max_waiting: int) -> None:
        """Encode a batch and put it behind what waits. Raises what a faulty encoder raises; the spans are counted then."""
        try:
            payloads, unfit = self.encoder.encode(batch, (dropped, self.too_large, self.failed))
        except BaseException:
            self.failed += len(batch)
            raise
        self.too_large += unfit
        give_up_at = monotonic() + retry_for_s
        for payload, count in payloads:
            self._backlog.append((payload, count, give_up_at))
            self.waiting += count
        while self.waiting > max_waiting and len(self._backlog) > 1:
            self._give_up()

    def send_waiting(
        self, complain: Callable[[str], object], retry_for_s: float, deadline: float | None = None
    ) -> None:
        """Send what waits until something fails. With a ``deadline`` nothing waits any longer: it is sent or given up."""
        if deadline is None and self.retry_at > monotonic():
            return
        while self._backlog:
            payload, count, _ = self._backlog[0]
            if deadline is not None and monotonic() >= deadline:
                return
            try:
                refused = self._send(payload, count, deadline)
            except Exception as error:
                if not getattr(error, "told", False):
                    complain(f"cannot export spans: {error or type(error).__name__}")
                if not getattr(error, "retryable", False):
                    self._give_up()
                elif deadline is None:
                    self._postpone(getattr(error, "retry_after_s", None), retry_for_s)
                    return
                else:
                    while self._backlog:
                        self._give_up()
                continue
            self._backlog.popleft()
            self.waiting -= count
            self.sent += count - refused
            self.failed += refused
            self.retry_at = 0.0
            self._delay_s = FIRST_DELAY_S
            if refused:
                complain(f"{self.name} refused {refused} of {count} spans")

    def _send(self, payload: bytes, count: int, deadline: float | None) -> int:
        """Send one payload; how many of its spans the receiver refused."""
        if deadline is None:
            response = self.transport.send(payload)
        else:
            response = self.transport.send(payload, max(deadline - monotonic(), _LOOK_AGAIN_S))
        return max(min(self.encoder.rejected(response), count), 0) if response else 0

    def _postpone(self, asked_s: float | None, retry_for_s: float) -> None:
        """Wait before the next try, not less than the server asked for; what would be too old by then is given up."""
        from os import urandom

        spread = urandom(1)[0] / 512  # Half a delay at most, so that a thousand workers do not come back as one.
        if asked_s:
            delay_s = asked_s * (1 + spread / 4)
        else:
            delay_s = self._delay_s * (0.75 + spread)
            self._delay_s = min(self._delay_s * 2, LONGEST_DELAY_S)
        now = monotonic()
        while self._backlog and now + delay_s > self._backlog[0][2]:
            self._give_up()
        self.retry_at = now + min(delay_s, max(retry_for_s, LONGEST_DELAY_S))

    def _give_up(self) -> None:
        """Lose the oldest payload, and count it."""
        count = self._backlog.popleft()[1]
        self.waiting -= count
        self.failed += count


class Waiter:
    """Somebody who waits for a flush: ``served`` tells an export from the end of the worker."""

    __slots__ = ("lock", "served")

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.served = False

    def release(self, *, served: bool) -> None:
        """Let it go on."""
        self.served = served
        self.lock.release()


class Reporter:
    """Takes finished spans and exports them in batches, on a thread of its own.

    ``make_exporters()`` is called by the worker when there is something to export, because codecs and sockets need not be
    loaded before. ``max_queue`` and ``max_batch`` are counts of spans; ``interval_s`` is the longest that a span waits for
    company; a payload that could not be sent is tried again for ``retry_for_s``, then dropped and counted.
    ``on_trouble(text)`` is told of failures (the caller limits the rate). ``shield()`` is called once on the worker, and makes
    sure that its own traffic is not traced. ``start_thread(work, arguments)`` begins a thread, or raises ``RuntimeError``.
    ``on_fork()`` is called in a child that found out by itself that it is one.
    """

    __slots__ = (
        "_attention",
        "_closed",
        "_closing_at",
        "_exporting",
        "_gate",
        "_has_exporters",
        "_mark",
        "_pausing",
        "_running",
        "_starting",
        "_thread_id",
        "_waiters",
        "_wake_at",
        "cpu_s",
        "dropped",
        "exporters",
        "interval_s",
        "is_awaited",
        "make_exporters",
        "max_batch",
        "max_queue",
        "on_fork",
        "on_trouble",
        "queue",
        "retry_for_s",
        "shield",
        "start_thread",
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
        start_thread: Callable[[Callable[..., object], tuple[object, ...]], object] | None = None,
        on_fork: Callable[[], object] = lambda: None,
    ) -> None:
        self.make_exporters = make_exporters
        self.max_queue = max_queue
        self.max_batch = min(max_batch, max_queue)
        self.interval_s = interval_s
        self.retry_for_s = retry_for_s
        self.on_trouble = on_trouble
        self.shield = shield
        self.start_thread = start_thread or _start_thread
        self.on_fork = on_fork
        self._wake_at = max(self.max_batch - 1, 1)
        self._start_over()

    def _start_over(self) -> None:
        """State as it is before the first span: at the beginning, and in a forked child."""
        self.queue: deque[SpanData] = deque()
        self.exporters: list[Exporter] = []
        self._has_exporters = False
        self.dropped = 0
        self.taken = 0
        #: CPU time that workers have taken, in seconds, where the system tells.
        self.cpu_s = 0.0
        #: ``report`` looks up only when the queue is at least this long: at once, at a full batch, or when it is full.
        self._attention = 0
        self._running = False
        self._pausing = False
        self._closed = False
        #: When the process wants to be gone, on the monotonic clock; 0 while it lives.
        self._closing_at = 0.0
        #: Whether somebody waits for the export that is under way: a flush, the end of the process.
        self.is_awaited = False
        self._thread_id = 0
        self._gate: Any = None
        self._waiters: deque[Waiter] = deque()
        self._starting = allocate_lock()
        self._exporting = allocate_lock()
        #: Its first item is 0 in a process other than the one that took the first span.
        self._mark: Any = _UNMARKED

    # ---- Taking spans --------------------------------------------------------------------------------

    def report(self, span: SpanData) -> None:
        """Queue a finished span. Called on the program's own thread: no waiting, no exception."""
        if not self._mark[0]:
            self.notice_fork()
        queue = self.queue
        length = len(queue)
        if length >= self._attention and not self._attend(length):
            return
        queue.append(span)

    def _attend(self, length: int) -> bool:
        """What ``report`` does now and then: start the worker, wake it, or drop. True when the span may be queued."""
        if length >= self.max_queue or self._closed:
            self.dropped += 1
            return False
        if self._mark is _UNMARKED:
            self._mark = process_mark()
        if self._running:
            self._attention = self.max_queue
            self._open_gate()
        else:
            self._attention = self._wake_at
            if not self._start_worker():  # Threads may be had again later.
                self._attention = min(length + self._wake_at, self.max_queue)
        return True

    def peek(self, count: int) -> list[SpanData]:
        """The first spans of the queue, which stay there. For the worker, which alone takes spans out."""
        queue = self.queue
        return [queue[place] for place in range(min(count, len(queue)))]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, being sent, or waiting to be tried again."""
        return not (self.queue or self._exporting.locked() or self._has_backlog())

    def _has_backlog(self) -> bool:
        return any(exporter.waiting for exporter in self.exporters)

    # ---- The worker ----------------------------------------------------------------------------------

    def _start_worker(self) -> bool:
        """Start the thread unless there is one; False where that is not possible, as while the interpreter shuts down."""
        import _thread

        if not self._starting.acquire(blocking=False):
            return True  # Another thread is just doing it, or this one, below a signal handler.
        try:
            if not self._running:
                self._gate = gate = _thread.allocate_lock()
                gate.acquire()
                self._running = True
                try:
                    self.start_thread(self._work, (gate,))
                except Exception:  # Host safety: RuntimeError by documentation, but this is the program's thread.
                    self._running = False
            return self._running
        finally:
            self._starting.release()

    def _open_gate(self) -> None:
        """Wake the worker, or keep it from going to sleep."""
        try:
            self._gate.release()
        except (RuntimeError, AttributeError):  # It is awake already, or not there.
            return

    def _work(self, gate: Any) -> None:
        """The worker: wait for the interval or a wake-up, then export; until told to pause or to close."""
        import _thread

        unserved: list[Waiter] = []
        clock, before_s = cpu_clock(), self.cpu_s
        try:
            self._thread_id = _thread.get_native_id() if hasattr(_thread, "get_native_id") else 0
            self.shield()
            while not self._pausing:
                gate.acquire(True, self._patience_s())  # Whoever wakes us opens it after having said what for.
                if self._pausing:
                    break
                closing_at = self._closing_at
                self._take_waiters(unserved)
                self._attention = self.max_queue
                self.is_awaited = bool(unserved)
                is_done = self._export_queue(closing_at or None)
                self._attention = self._wake_at
                self.cpu_s = before_s + clock()
                if is_done and (closing_at or not self._has_backlog()):
                    while unserved:
                        unserved.pop().release(served=True)
                if closing_at and not self._waiters:
                    break
        except Exception as error:  # Host safety: nothing may appear on the program's stderr but our own line.
            self._complain(f"the reporting thread failed: {type(error).__name__}: {error}")
        finally:
            self._leave(unserved)

    def _leave(self, unserved: list[Waiter]) -> None:
        """The worker ends: the next span starts another, and nobody is left waiting for this one."""
        self._attention = 0
        self._running = False
        self._take_waiters(unserved)
        for waiter in unserved:
            waiter.release(served=False)

    def _take_waiters(self, unserved: list[Waiter]) -> None:
        """Move them over. A worker that ends and its successor may be at it at the same time."""
        try:
            while True:
                unserved.append(self._waiters.popleft())
        except IndexError:
            return

    def _patience_s(self) -> float:
        """How long to sleep: the interval, or less if something is to be tried again before, or much came meanwhile."""
        if len(self.queue) > self._wake_at:
            return _SOON_S
        retries = [exporter.retry_at for exporter in self.exporters if exporter.waiting]
        return min(self.interval_s, max(min(retries) - monotonic(), 0.0)) if retries else self.interval_s

    def _complain(self, text: str) -> None:
        try:
            self.on_trouble(text)
        except Exception:  # noqa: S110 - Host safety: there is nobody left to tell.
            pass

    # ---- Exporting -----------------------------------------------------------------------------------

    def _export_queue(self, deadline: float | None = None) -> bool:
        """Export everything that is queued now, batch by batch; False, and nothing, if another thread is at it."""
        if not self._exporting.acquire(blocking=False):
            return False
        try:
            queue = self.queue
            left = len(queue)
            if left and not self._has_exporters and not self._make_exporters():
                self.dropped += left
                while left:
                    queue.popleft()
                    left -= 1
            while not self._pausing and (deadline is None or monotonic() < deadline):
                batch = [queue.popleft() for _ in range(min(left, self.max_batch))]
                left -= len(batch)
                self.taken += len(batch)
                for exporter in self.exporters:
                    self._export(exporter, batch, deadline)
                if left <= 0:
                    break
        finally:
            self._exporting.release()
        return True

    def _make_exporters(self) -> bool:
        try:
            self.exporters = self.make_exporters()
        except Exception as error:  # Host safety: a fault of ours may cost spans, never the thread.
            self._complain(f"cannot export spans: {type(error).__name__}: {error}")
            return False
        self._has_exporters = True
        return True

    def _export(self, exporter: Exporter, batch: list[SpanData], deadline: float | None) -> None:
        if batch:
            try:
                exporter.add(batch, self.dropped, self.retry_for_s, self.max_queue)
            except Exception as error:  # Host safety: a fault of ours may cost spans, never the thread.
                self._complain(f"cannot encode spans for {exporter.name}: {type(error).__name__}: {error}")
        exporter.send_waiting(self._complain, self.retry_for_s, deadline)

    def _export_here(self, deadline: float) -> bool:
        """Export on the program's own thread, where no other can be had; True when all of it was done in time."""
        while self._exporting.locked():
            if monotonic() >= deadline:
                return False
            _look_away()
        self.is_awaited = True
        self._export_queue(deadline)
        return self.is_idle

    # ---- Flushing, forking, ending -------------------------------------------------------------------

    def notice_fork(self) -> None:
        """Begin anew in a child that was forked without Python's hooks: by uWSGI, or by other C code."""
        if not self._mark[0]:
            self.abandon()
            self.on_fork()

    def flush(self, timeout_s: float) -> bool:
        """Export what is queued, waiting at most ``timeout_s``; True when all of it went out or was given up."""
        self.notice_fork()
        return self.is_idle or self._flush(monotonic() + timeout_s)

    def _flush(self, deadline: float) -> bool:
        import _thread

        while True:
            if not self._running:
                if self.is_idle:
                    return True
                if not self._start_worker():
                    return self._export_here(deadline)
            waiter = Waiter(_thread.allocate_lock())
            waiter.lock.acquire()
            self._waiters.append(waiter)
            if not self._running:
                continue  # The worker has just ended, perhaps without seeing the waiter.
            self._open_gate()
            if not waiter.lock.acquire(True, max(deadline - monotonic(), 0.0)):
                return False
            if waiter.served:
                return True
            if monotonic() >= deadline:
                return False

    def close(self, timeout_s: float) -> bool:
        """Flush for the last time, end the worker, close the transports; False if that was not done in time.

        What fails now is not tried again, and spans that are reported afterwards are dropped and counted.
        """
        self.notice_fork()
        deadline = self._closing_at = self._closing_at or monotonic() + timeout_s
        done = self._flush(deadline)
        self._closed = True
        self._attention = 0
        if done and self.queue:  # Of threads that go on while the process ends.
            done = self._flush(deadline)
        done = done and not self._has_backlog() and (monotonic() < deadline or not self.queue)
        if done:
            self._await_end(monotonic() + _LAST_WORDS_S)
            for exporter in self.exporters:
                exporter.transport.close()
        return done

    def pause(self, timeout_s: float) -> int:
        """Before a fork: end the worker unless it is just sending; what is queued stays so.

        Returns the system's id of the thread that ended, 0 if there is none: Python 3.12 warns of a fork beside threads.
        """
        if not self._running:
            return 0
        self._pausing = True
        self._open_gate()
        return self._thread_id if self._await_end(monotonic() + timeout_s) else 0

    def _await_end(self, deadline: float) -> bool:
        """Wait until the worker has ended; False if it has not by then."""
        while self._running:
            if monotonic() >= deadline:
                return False
            _look_away()
        return True

    def resume(self) -> None:
        """After a fork, in the parent: work goes on with the next span, flush or end.

        Not at once, because Python 3.13 looks for threads only after the hooks of a fork.
        """
        self._pausing = False

    def abandon(self) -> None:
        """After a fork, in the child: the queued spans, the thread and the connections are the parent's."""
        exporters = self.exporters
        self._start_over()
        for exporter in exporters:
            exporter.transport.abandon()


class _Pid:
    """A mark of this process where memory cannot be one: slower, since it asks the system each time."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        from os import getpid

        self._pid = getpid()

    def __getitem__(self, place: int) -> bool:
        from os import getpid

        return getpid() == self._pid


def process_mark() -> Any:
    """Something whose first item is true in this process, and false in those forked from it, whoever forks.

    A page that the system empties in the child costs a tenth of what asking for the process's id does.
    """
    try:
        import mmap

        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
        page[0] = 1
    except Exception:  # Host safety: not on Linux, on an old one, or without mmap.
        return _Pid()
    return page


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


def _start_thread(work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    import _thread

    _thread.start_new_thread(work, arguments)


def cpu_clock() -> Callable[[], float]:
    """The clock of this thread's CPU time, in seconds; one that stands still where there is none."""
    import time

    return getattr(time, "thread_time", lambda: 0.0)


def _look_away() -> None:
    from time import sleep  # Not at start-up: gevent must patch it first.

    sleep(_LOOK_AGAIN_S)
