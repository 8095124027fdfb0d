"""What a generator's process saw, second by second, and how several processes' seconds become one.

Owns: the arrays of the hot path, their folding into histograms, the form of a slot as JSON, the merging of workers.
Must not know: Locust, gevent, files, processes.
Invariants: a slot ends with a second of the wall clock, so that those of several workers fit together; durations come from
``perf_counter`` alone; a request belongs to the slot in which it ended, and to one only; what the hot path does for a request
is to append numbers. A slot that is not ``whole`` (the first, the last, one that not all workers saw) is never measured.
"""

from __future__ import annotations

import math
import statistics
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoinstr.bench import durations

#: So many durations are folded at a time (0.1 ms): requests that become due meanwhile must not wait for all of them.
CHUNK = 100
#: Kinds of errors that are kept with their text; the rest is counted together.
MOST_KINDS = 20
LONGEST_TEXT = 300


@dataclass(frozen=True)
class Piece:
    """What one process recorded in one second, unfolded: times in seconds of ``perf_counter``, ``service`` in ms."""

    end: int
    seconds: float
    done: Sequence[float]
    service: Sequence[float]
    due: Sequence[float]
    errors: int
    late: int
    cpu_us: float
    due_unsent: int
    is_whole: bool


class Recording:
    """The requests of one process.

    ``began`` and ``offset`` are seconds: ``perf_counter`` at the start, and what must be added to it for the wall clock.
    ``has_due`` says whether requests are due at certain times (rate mode).
    """

    def __init__(self, began: float, offset: float, *, has_due: bool) -> None:
        self.done = array("d")
        self.service = array("d")
        self.due = array("d")
        self.failed = array("d")
        self.late = array("d")
        self.kinds: Counter[str] = Counter()
        self.requests = self.errors = 0
        self._has_due = has_due
        self._offset = offset
        self._from = began
        self._cpu_us = 0.0
        self.next_end = math.floor(began + offset) + 1

    @property
    def next_boundary(self) -> float:
        """``perf_counter`` at which the second that is being recorded ends."""
        return self.next_end - self._offset

    def note_error(self, now: float, text: str) -> None:
        """Something failed just now (``perf_counter``)."""
        self.failed.append(now)
        text = text[:LONGEST_TEXT]
        self.kinds[text if text in self.kinds or len(self.kinds) < MOST_KINDS else "others"] += 1

    def cut(self, cpu_us: float, due_unsent: int, until: float | None = None) -> Piece:
        """Take out what ended by the next boundary, or by ``until`` if that is given: then it is the last piece.

        ``cpu_us`` is the CPU of this process so far, ``due_unsent`` how many requests are due and not sent.
        """
        boundary = self.next_boundary if until is None else until
        count = bisect_right(self.done, boundary)
        piece = Piece(
            end=self.next_end,
            seconds=boundary - self._from,
            done=_taken(self.done, count),
            service=_taken(self.service, count),
            due=_taken(self.due, count) if self._has_due else (),
            errors=len(_taken(self.failed, bisect_right(self.failed, boundary))),
            late=len(_taken(self.late, bisect_right(self.late, boundary))),
            cpu_us=cpu_us - self._cpu_us,
            due_unsent=due_unsent,
            is_whole=until is None and boundary - self._from > 1 - 1e-6,
        )
        self.requests += count
        self.errors += piece.errors
        self._cpu_us = cpu_us
        self._from = boundary
        self.next_end += 1
        return piece


def _taken(values: array[float], count: int) -> array[float]:
    taken = values[:count]
    del values[:count]
    return taken


def fold(piece: Piece, pause: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """The piece as a slot for JSON; ``pause`` is called every 0.1 ms of work.

    ``response``, ``service``, ``lag`` are encoded histograms; the first and the last are None where nothing was due.
    """
    service_us = [1e3 * one for one in piece.service]
    slot: dict[str, Any] = {
        "end": piece.end,
        "seconds": round(piece.seconds, 6),
        "whole": piece.is_whole,
        "requests": len(service_us),
        "errors": piece.errors,
        "late": piece.late,
        "due_unsent": piece.due_unsent,
        "median_us": round(statistics.median(service_us), 2) if service_us else 0.0,
        "cpu_us": round(piece.cpu_us, 1),
        "service": _encoded(service_us, pause),
        "response": None,
        "lag": None,
    }
    if piece.due:
        response_us = [1e6 * (done - due) for done, due in zip(piece.done, piece.due, strict=True)]
        slot["response"] = _encoded(response_us, pause)
        lag_us = [response - service for response, service in zip(response_us, service_us, strict=True)]
        slot["lag"] = _encoded(lag_us, pause)
    return slot


def _encoded(values_us: Sequence[float], pause: Callable[[], object]) -> str:
    histogram = durations.new()
    for first in range(0, len(values_us), CHUNK):
        durations.record(histogram, values_us[first : first + CHUNK])
        pause()
    return durations.encode(histogram)


class Merging:
    """Slots of several workers, put together in the order of time as soon as every worker has sent its own."""

    def __init__(self, workers: Iterable[str]) -> None:
        self._latest = dict.fromkeys(workers, 0)
        self._waiting: dict[int, list[Mapping[str, Any]]] = {}

    def add(self, worker: str, slot: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is complete now that this worker has sent this slot."""
        self._latest[worker] = slot["end"]
        self._waiting.setdefault(slot["end"], []).append(slot)
        return self._complete(min(self._latest.values()))

    def rest(self) -> list[dict[str, Any]]:
        """What is left when no more slots will come."""
        return self._complete(max(self._latest.values(), default=0))

    def _complete(self, until: int) -> list[dict[str, Any]]:
        ends = sorted(end for end in self._waiting if end <= until)
        return [merged(self._waiting.pop(end), len(self._latest)) for end in ends]


def merged(slots: Sequence[Mapping[str, Any]], workers: int) -> dict[str, Any]:
    """Slots of the same second as one; whole when all of so many ``workers`` saw the second whole."""
    slot: dict[str, Any] = {
        name: sum(one[name] for one in slots) for name in ("requests", "errors", "late", "due_unsent", "cpu_us")
    }
    service = durations.merged(one["service"] for one in slots)
    slot.update(
        end=slots[0]["end"],
        seconds=max(one["seconds"] for one in slots),
        whole=len(slots) == workers and all(one["whole"] for one in slots),
        median_us=durations.at(service, [50])[0],
        service=durations.encode(service),
        response=_sum(slots, "response"),
        lag=_sum(slots, "lag"),
    )
    return slot


def _sum(slots: Sequence[Mapping[str, Any]], name: str) -> str | None:
    texts = [one[name] for one in slots if one[name]]
    return durations.encode(durations.merged(texts)) if texts else None


def totals(finals: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last words of several workers as one."""
    kinds: Counter[str] = Counter()
    for one in finals:
        kinds.update(one["kinds"])
    counts = {name: sum(one[name] for one in finals) for name in ("all_requests", "all_errors", "unsent", "aborted")}
    return {"final": True, **counts, "kinds": dict(kinds)}
