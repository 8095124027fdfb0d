"""Sampling strategies from a backend: a sampler that polls for its rules and decides by the latest.

Owns: the polling thread, its start, its end, its rest during a fork and its renewal afterwards, and the swapping of samplers.
Must not know: HTTP (``fetch`` brings the body of a URL), how strategies are written (``sampling.from_strategy``), spans.
Invariants: no thread before the first decision; whatever goes wrong, the current sampler stays; only the first decision of
the program ever waits, and no longer than ``first_wait_s``.
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic, monotonic_ns

from autoinstr.sampling import MAX_OPERATIONS, from_strategy, renew_locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event, Thread
    from typing import Protocol

    from autoinstr.model import Facts, Sampler

    class Counters(Protocol):
        """Where polls are counted: answers of the backend, and what became of the strategies in them."""

        sampler_queries_ok: int
        sampler_queries_err: int
        sampler_updates_ok: int
        sampler_updates_err: int


class RemoteSampler:
    """A ``model.Sampler`` that follows the strategy of ``service_name`` at ``endpoint_url`` (Jaeger: ``/sampling``).

    ``initial`` decides until the first answer. The first poll starts with the first decision, which waits for its
    outcome, at most ``first_wait_s`` seconds, so that even a program of one second is sampled as the backend wants;
    then every ``refresh_s`` seconds, but for the first pause, which is any part of that: processes that were started
    together do not ask together for ever. ``fetch(url)`` returns the body, raises whatever it likes when there is none,
    and bounds its time and size itself. ``on_trouble`` gets a line for each failed poll (and limits the rate).
    """

    by_name: bool
    _decide: Callable[[int, str], Facts | None]
    _thread: Thread | None
    _answered: Event
    _stopping: Event

    def __init__(
        self,
        service_name: str,
        endpoint_url: str,
        *,
        initial: Sampler,
        fetch: Callable[[str], bytes],
        on_trouble: Callable[[str], None],
        counters: Counters,
        refresh_s: float = 60.0,
        max_operations: int = MAX_OPERATIONS,
        first_wait_s: float = 0.1,
        clock_ns: Callable[[], int] = monotonic_ns,
        ignores_parent: bool = False,
    ) -> None:
        self._service_name = service_name
        self._endpoint_url = endpoint_url
        self._fetch = fetch
        self._on_trouble = on_trouble
        self._counters = counters
        self._refresh_s = refresh_s
        self._max_operations = max_operations
        self._first_wait_s = first_wait_s
        self._clock_ns = clock_ns
        self.ignores_parent = ignores_parent
        #: Whether a strategy of the backend is in force.
        self.is_known = False
        self._is_stopped = False
        self._may_wait = True
        #: When to poll next, on the monotonic clock; 0: at once, as the first time.
        self._due_at = 0.0
        self._sampler = initial
        self._make_startable()

    @property
    def current(self) -> Sampler:
        """The sampler that decides at present."""
        return self._sampler

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``; the first call starts the polling."""
        return self._decide(trace_id, name)

    def ensure_started(self) -> None:
        """Start polling if nobody has, and then wait for the first outcome if no strategy is known. Never raises."""
        # Taken once and never released: the cheapest "first caller only" that a signal handler cannot block on.
        if not self._start.acquire(blocking=False):
            return
        self._decide = self._sampler.decide
        try:
            self._start_thread()
        except Exception as error:  # Host safety: no thread may be had (limits, exit); the current sampler goes on.
            self._complain(f"cannot poll for sampling strategies: {error}")
            return
        if self._may_wait and not self.is_known:
            self._answered.wait(self._first_wait_s)

    def stop(self) -> None:
        """Poll no more; decisions go on with the current sampler. Does not wait for a poll that is under way."""
        self._is_stopped = True
        if self._start.acquire(blocking=False):
            self._decide = self._sampler.decide
        if self._thread is not None:
            self._stopping.set()

    def pause(self, timeout_s: float) -> int:
        """Before a fork: end the thread unless it is just polling, for which ``timeout_s`` are waited.

        Returns the system's id of the thread that ended, 0 if there is none: Python 3.12 warns of a fork beside threads.
        """
        thread = self._thread
        if thread is None:
            return 0
        self._stopping.set()
        thread.join(timeout_s)
        return 0 if thread.is_alive() else thread.native_id or 0

    def resume(self) -> None:
        """After a fork, in the parent: the next decision starts a thread, which polls when the next poll is due."""
        if self._thread is not None and not self._is_stopped:
            self._may_wait = False
            self._make_startable()

    def after_fork(self) -> None:
        """In a forked child: forget the thread, which stayed in the parent; the next decision starts a new one."""
        renew_locks()
        if not self._is_stopped:
            self._may_wait = True
            self._due_at = 0.0
            self._make_startable()

    def poll(self) -> None:
        """Ask once, and take over the answer. Never raises."""
        try:
            body = self._fetch(self._url())
        except Exception as error:  # Host safety: whatever fails out there, things stay as they are.
            self._counters.sampler_queries_err += 1
            self._complain(f"cannot fetch the sampling strategy from {self._endpoint_url}: {error}")
            return
        self._counters.sampler_queries_ok += 1
        try:
            from json import loads

            self._use(from_strategy(loads(body), self._sampler, self._max_operations, self._clock_ns))
        except Exception as error:  # Host safety: the answer may be anything, even JSON too deep to be read.
            self._counters.sampler_updates_err += 1
            self._complain(f"unusable sampling strategy from {self._endpoint_url}: {error}")
        else:
            self._counters.sampler_updates_ok += 1

    def _make_startable(self) -> None:
        self._start = allocate_lock()
        self._decide = self._first_decide
        self._thread = None
        # A fork may have come between the two assignments of `_use`.
        self.by_name = self._sampler.by_name

    def _first_decide(self, trace_id: int, name: str) -> Facts | None:
        self.ensure_started()
        return self._sampler.decide(trace_id, name)

    def _start_thread(self) -> None:
        from contextvars import Context
        from threading import Event, Thread  # Not at start-up: slow to load, and gevent must patch it first.

        self._answered, self._stopping = Event(), Event()
        thread = Thread(
            target=self._keep_polling, args=(self._answered, self._stopping), name="autoinstr-sampling", daemon=True
        )
        Context().run(thread.start)  # Not below the span of whoever came first, which would live as long as the thread.
        self._thread = thread

    def _keep_polling(self, answered: Event, stopping: Event) -> None:
        # `_is_stopped` too: `stop` may have come before it could see the thread.
        while not stopping.wait(max(self._due_at - monotonic(), 0.0)) and not self._is_stopped:
            self.poll()
            pause_s = self._refresh_s if self._due_at else self._refresh_s * _chance()
            self._due_at = monotonic() + pause_s
            answered.set()

    def _use(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.by_name = sampler.by_name
        self._decide = sampler.decide
        self.is_known = True

    def _url(self) -> str:
        from urllib.parse import quote

        separator = "&" if "?" in self._endpoint_url else "?"
        return f"{self._endpoint_url}{separator}service={quote(self._service_name, safe='')}"

    def _complain(self, text: str) -> None:
        try:
            self._on_trouble(text)
        except Exception:  # noqa: S110 - Host safety: there is nobody left to tell.
            pass


def _chance() -> float:
    """Evenly in [0, 1). Not from ``random``: forked processes share its state, and programs set its seed."""
    from os import urandom

    return int.from_bytes(urandom(4), "big") / 2**32
