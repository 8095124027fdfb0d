"""The bounded queue before the store, and the one thread that decodes and writes.

Owns: how much may wait, how much is written at once, who is told of it, what happens when the store fails.
Must not know: sockets, protocols, how a store keeps spans.
Invariants: what does not fit is refused at once (``Full``), never waited for; every payload that was taken has its future
answered exactly once, a success only after the store has it; an exception of a store, a decoder or a listener ends nothing.

Why payloads are decoded here, and not where they come in: undecoded they take a tenth of the memory, so the bound is an
honest one; refusing costs nothing when there is too much anyway; and two threads that compute would hand Python's lock to
and fro at each call into SQLite and zlib, which costs more than what they could do side by side.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from autoinstr.backend import log
from autoinstr.backend.parts import Full
from autoinstr.wire import DecodeError

if TYPE_CHECKING:
    from autoinstr.model import Batch

#: Spans that one call of ``Store.write`` gets, unless a single payload has more: SQLite is the fastest from here on.
SPANS_AT_ONCE = 5_000
DEFAULT_MAX_BYTES = 64 * 1024 * 1024
DEFAULT_MAX_SPANS = 200_000
#: How long a failed write counts as the state of the store, when nothing was written since.
FAILURE_COUNTS_S = 10.0

Listener = Callable[[Sequence["Batch"]], None]
Decode = Callable[[], Sequence["Batch"]]


class Target(Protocol):
    """What is written to: a store, or a forwarder."""

    def write(self, batches: Sequence[Batch]) -> None:
        """All of them, or none and an exception."""


class NotStored(Exception):
    """The store failed, or the end came first: whoever sent it may try again."""


class _Job:
    """One payload on its way. ``size`` is what it counts in the queue, in bytes; ``spans`` if they are known."""

    __slots__ = ("batches", "decode", "future", "size", "spans")

    def __init__(self, decode: Decode, size: int, spans: int) -> None:
        self.decode: Decode | None = decode
        self.size = size
        self.spans = spans
        self.batches: Sequence[Batch] = ()
        self.future: Future[None] = Future()


class QueueWriter:
    """Writes to ``store`` what is submitted: at once when idle, all that has gathered when busy.

    At most ``max_bytes`` of payloads and ``max_spans`` decoded spans wait; what is being written counts as waiting.
    """

    def __init__(
        self, store: Target, *, max_bytes: int = DEFAULT_MAX_BYTES, max_spans: int = DEFAULT_MAX_SPANS
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._waiting_spans = 0
        self._waiting_payloads = 0
        self._closing = False
        self._listeners: list[Listener] = []
        self._failed_at: float | None = None
        self._counts = dict.fromkeys(
            (
                "writer_written_spans_total",
                "writer_writes_total",
                "writer_microseconds_total",
                "writer_failed_spans_total",
                "writer_failed_writes_total",
                "writer_refused_payloads_total",
                "writer_listener_errors_total",
            ),
            0,
        )
        self._thread = threading.Thread(target=self._work, name="autoinstr-writer", daemon=True)
        self._thread.start()

    def submit(self, batches: Sequence[Batch], size: int) -> Future[None]:
        """As ``parts.Writer.submit``."""
        return self._put(_Job(lambda: batches, size, sum(len(batch.spans) for batch in batches)))

    def submit_encoded(self, decode: Decode, size: int) -> Future[None]:
        """Queue a payload of ``size`` bytes that ``decode`` will make batches of, on the writer's thread. Raises ``Full``.

        The future raises what ``decode`` raises, or ``NotStored``.
        """
        return self._put(_Job(decode, size, 0))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """As ``parts.Writer.listen``."""
        with self._changed:
            self._listeners = [*self._listeners, listener]
        return lambda: self._forget(listener)

    @property
    def is_full(self) -> bool:
        """Whether hardly anything more would be taken."""
        return self._waiting_bytes >= self._max_bytes * 0.9 or self._waiting_spans >= self._max_spans * 0.9

    @property
    def is_failing(self) -> bool:
        """Whether the newest write failed, not long ago."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < FAILURE_COUNTS_S

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""
        with self._changed:
            return {
                **self._counts,
                "writer_queue_bytes": self._waiting_bytes,
                "writer_queue_payloads": self._waiting_payloads,
                "writer_queue_limit_bytes": self._max_bytes,
            }

    def close(self, timeout_s: float) -> bool:
        """Take nothing more, write what waits; False when that took longer, and what still waits is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            left, self._jobs = list(self._jobs), deque()
        for job in left:
            self._answer(job, NotStored("the backend was stopped before it could store this"))
        return not (left or self._thread.is_alive())

    # ---- The queue -----------------------------------------------------------------------------------

    def _put(self, job: _Job) -> Future[None]:
        with self._changed:
            if self._closing or not self._fits(job):
                self._counts["writer_refused_payloads_total"] += 1
                raise Full("the backend is stopping" if self._closing else "the queue before the store is full")
            self._waiting_bytes += job.size
            self._waiting_spans += job.spans
            self._waiting_payloads += 1
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _fits(self, job: _Job) -> bool:
        # Into an empty queue everything goes: what is larger than the bound could otherwise never be taken.
        return not self._waiting_payloads or (
            self._waiting_bytes + job.size <= self._max_bytes and self._waiting_spans + job.spans <= self._max_spans
        )

    def _next(self, *, wait: bool) -> _Job | None:
        """The next payload, ``None`` at the end, or if there is none and nobody wants to ``wait``."""
        with self._changed:
            while wait and not self._jobs and not self._closing:
                self._changed.wait()
            return self._jobs.popleft() if self._jobs else None

    def _forget(self, listener: Listener) -> None:
        with self._changed:
            self._listeners = [each for each in self._listeners if each is not listener]

    def _answer(self, job: _Job, error: BaseException | None = None) -> None:
        with self._changed:
            self._waiting_bytes -= job.size
            self._waiting_spans -= job.spans
            self._waiting_payloads -= 1
        job.batches = ()
        # The one who asked may have gone away meanwhile, and taken the question back.
        if job.future.set_running_or_notify_cancel():
            if error is None:
                job.future.set_result(None)
            else:
                job.future.set_exception(error)

    def _count(self, **numbers: int) -> None:
        with self._changed:
            for name, number in numbers.items():
                self._counts[f"writer_{name}_total"] += number

    # ---- The thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        kept_back: _Job | None = None
        while True:
            job = kept_back or self._next(wait=True)
            if job is None:
                return
            group, kept_back = self._gather(job)
            if group:
                self._write_group(group)

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """Payloads that together fit into one write, decoded, and the one that would not have fitted."""
        group: list[_Job] = []
        spans = 0
        job: _Job | None = first
        while job is not None:
            if job.decode is None or self._decode(job):
                count = sum(len(batch.spans) for batch in job.batches)
                if group and spans + count > SPANS_AT_ONCE:
                    return group, job
                group.append(job)
                spans += count
            job = self._next(wait=False) if spans < SPANS_AT_ONCE else None
        return group, None

    def _decode(self, job: _Job) -> bool:
        """Make batches of a payload; False when that is not possible, and its sender has been told."""
        decode, job.decode = job.decode, None
        try:
            job.batches = decode() if decode else ()
        except DecodeError as error:
            self._answer(job, error)
            return False
        except Exception as error:  # whatever one payload brings about, the next ones have to be taken
            log.error("decoder_failed", error=error)
            self._answer(job, DecodeError(f"cannot be decoded: {type(error).__name__}"))
            return False
        return True

    def _write_group(self, group: list[_Job]) -> None:
        error = self._write([batch for job in group for batch in job.batches])
        if error is None or len(group) == 1:
            self._answer_all(group, error)
        else:
            self._write_one_by_one(group)

    def _write_one_by_one(self, group: list[_Job]) -> None:
        """One payload that the store cannot take must not cost its neighbours; but a store that is down is not asked
        a thousand times."""
        failures = 0
        for position, job in enumerate(group):
            error = self._write(job.batches)
            self._answer_all([job], error)
            failures = failures + 1 if error else 0
            if error is not None and failures == 2:
                self._answer_all(group[position + 1 :], error)
                return

    def _answer_all(self, jobs: Sequence[_Job], error: Exception | None) -> None:
        if error is None:
            self._tell([batch for job in jobs for batch in job.batches])
        for job in jobs:
            if error is not None:
                self._count(failed_spans=sum(len(batch.spans) for batch in job.batches))
            self._answer(job, None if error is None else NotStored(f"the store failed: {error}"))

    def _write(self, batches: Sequence[Batch]) -> Exception | None:
        """Give batches to the store; what it raised."""
        spans = sum(len(batch.spans) for batch in batches)
        started = time.monotonic()
        try:
            if spans:
                self._store.write(batches)
        except Exception as error:  # a store may fail in any way that disks and networks know
            self._failed_at = time.monotonic()
            self._count(failed_writes=1)
            log.error("store_failed", error=error, spans=spans)
            return error
        self._failed_at = None
        self._count(written_spans=spans, writes=1, microseconds=int((time.monotonic() - started) * 1e6))
        return None

    def _tell(self, batches: Sequence[Batch]) -> None:
        for listener in self._listeners:
            try:
                listener(batches)
            except Exception as error:  # a listener's fault is not the sender's
                self._count(listener_errors=1)
                log.error("listener_failed", error=error)
