"""Requests that are due, handed to users that are free.

Owns: the wait until a request is due, the users that wait, the requests that wait because no user is free.
Must not know: Locust, durations, files. Loaded inside the generator's process only: it needs gevent.
Invariants: every arrival is handed out once, in order; one for which no user is free is handed to the next that becomes free
(late, never skipped); after ``close`` nothing new is due.

The wait: gevent's timers are rounded up to a millisecond on Linux (libev gives epoll whole milliseconds), which would make half of all
requests 0.5 ms late. A timerfd(2) ends the wait to the microsecond, at no CPU while it waits.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter

import gevent
from gevent.hub import Waiter

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_READ = 1


class Turnstile:
    """``due`` gives the times at which requests are due, ascending, without end, in seconds of ``perf_counter``."""

    def __init__(self, due: Iterator[float]) -> None:
        self._due = due
        self._next = next(due)
        self._until = math.inf
        self._is_shut = False
        #: The last to become idle is the first to go: its connection is warm, as with any client's pool.
        self._idle: list[Waiter] = []
        self._backlog: deque[float] = deque()
        self._alarm: _Alarm | _Timer = _Alarm(self._release) if _Alarm.is_here() else _Timer(self._release)
        self._alarm.set(self._next)

    @property
    def backlog(self) -> int:
        """Requests that are due and wait for a user."""
        return len(self._backlog)

    def take(self) -> tuple[float, bool]:
        """Wait for the next request that is due; when it was, and whether it had to wait for a user."""
        if self._backlog and not self._is_shut:
            return self._backlog.popleft(), True
        waiter = Waiter()
        self._idle.append(waiter)
        try:
            return waiter.get(), False
        finally:
            if waiter in self._idle:
                # The user was stopped while it waited.
                self._idle.remove(waiter)

    def close(self, grace_s: float) -> int:
        """Nothing is due from now on; what is due by now is sent within ``grace_s``. How many could not be."""
        self._until = perf_counter()
        deadline = self._until + grace_s
        while (self._next <= self._until or self._backlog) and perf_counter() < deadline:
            gevent.sleep(0.001)
        self._is_shut = True
        self._alarm.close()
        while self._next <= self._until:
            self._backlog.append(self._next)
            self._next = next(self._due)
        return len(self._backlog)

    def _release(self) -> None:
        """Called by gevent's loop when the next request is due."""
        while self._next <= min(perf_counter(), self._until):
            due, self._next = self._next, next(self._due)
            if self._idle:
                # The user runs until it waits for its answer, and then it goes on here.
                self._idle.pop().switch(due)
            else:
                self._backlog.append(due)
        if self._next <= self._until:
            self._alarm.set(self._next)


class _Alarm:
    """Calls ``ring`` when ``perf_counter`` reaches a time, to the microsecond. Linux only."""

    @staticmethod
    def is_here() -> bool:
        return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "timerfd_create")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        self._ring = ring
        self._watcher = gevent.get_hub().loop.io(self._descriptor, _READ)
        self._watcher.start(self._expired)

    def set(self, at: float) -> None:
        # One in the past rings at once; all zeros would mean never.
        nanoseconds = max(int(at * 1e9), 1)
        self._set((0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000))

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        os.close(self._descriptor)

    def _expired(self) -> None:
        # Or it would ring again and again when nobody sets it anew.
        self._set((0, 0, 0, 0))
        self._ring()

    def _set(self, times: tuple[int, int, int, int]) -> None:
        self._libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, (ctypes.c_long * 4)(*times), None)


class _Timer:
    """The same where there is no timerfd: as exact as gevent's loop."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: gevent.Greenlet | None = None

    def set(self, at: float) -> None:
        self.close()
        loop = gevent.get_hub().loop
        self._timer = loop.timer(max(at - perf_counter(), 0.0))
        self._timer.start(self._ring, update=True)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
