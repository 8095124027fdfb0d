"""Which sampling strategy a service is told to use.

Owns: whose word counts (what somebody edited, the strategies file, the adaptive mode, the default), the file that is followed,
the edits and their file, the answers on the sampling port.
Must not know: stores, receivers, how rates are steered, how a strategy is written (``strategies``).
Invariants: a strategies file that cannot be read or understood never replaces one that could; at the start it is an error. An
edit is in force only when it is kept. What is remembered of services that ask is bounded.

Source: Jaeger's ``sampling.strategies-file``, the port 5778 of its agent and of its v2 ``remote_sampling`` extension.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend import log
from autoinstr.backend.sampling.adaptive import Adaptive
from autoinstr.backend.sampling.decisions import LONGEST_NAME, DecisionTable, touched
from autoinstr.backend.sampling.strategies import (
    DEFAULT_ANSWER,
    Answer,
    StrategiesDocument,
    StrategiesError,
    edited_answer,
    member,
)
from autoinstr.model import Batch

__all__ = ["StrategiesError", "StrategyBook", "sampling_app"]

#: The file is looked at no more often than this, and only when somebody asks.
LOOK_EVERY_S = 1.0
MAX_ASKED = 1000
MAX_EDITS = 1000
#: The clients' old address, where Jaeger's collector answers, and where its agent answered first (old Java clients).
PATHS = ("/sampling", "/api/sampling", "/")


class StrategyBook:
    """What each service is told. As ``parts.Strategies``; may be used by several threads at once."""

    def __init__(
        self,
        path: str | None = None,
        *,
        edits_path: str | None = None,
        adaptive: Adaptive | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``path``: a file in Jaeger's form. ``edits_path``: where edits are kept across restarts. ``StrategiesError``."""
        self._lock = threading.Lock()
        self._file = FollowedFile(path, clock) if path is not None else None
        self._edits = Edits(edits_path)
        self._adaptive = adaptive
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._questions = 0
        self._decisions = DecisionTable()

    # ---- Questions -----------------------------------------------------------------------------------

    def for_service(self, service: str) -> Answer:
        """The strategy, as Jaeger's HTTP endpoint answers it. Not to be changed by who gets it."""
        with self._lock:
            self._questions += 1
            if 0 < len(service) <= LONGEST_NAME:
                touched(self._asked, service, MAX_ASKED, lambda: None)
            return self._find(service)[1]

    def source(self, service: str) -> str:
        """Where that strategy is from: ``file``, ``edited``, ``adaptive`` or ``default``."""
        with self._lock:
            return self._find(service)[0]

    def _find(self, service: str) -> tuple[str, Answer]:
        edited = self._edits.answers.get(service)
        if edited is not None:
            return "edited", edited
        filed = self._file.current().answer(service) if self._file is not None else None
        if filed is not None:
            return "file", filed
        if self._adaptive is not None:
            return "adaptive", self._adaptive.strategy(service)
        return "default", DEFAULT_ANSWER

    def services(self) -> list[str]:
        """Services that have a strategy of their own, have asked for one, or have sent a decision, sorted."""
        with self._lock:
            listed = self._file.current().services() if self._file is not None else []
            return sorted({*self._edits.answers, *listed, *self._asked, *self._decisions.services()})

    def decisions(self, service: str) -> list[dict[str, Any]]:
        """``[{"operation", "type", "param", "traces"}]``: what the samplers of a service said of the traces that came."""
        with self._lock:
            return self._decisions.of(service[:LONGEST_NAME])

    @property
    def target_per_s(self) -> float | None:
        """Traces per second and operation that the adaptive mode steers to; ``None`` when it is off."""
        return self._adaptive.target_per_s if self._adaptive is not None else None

    # ---- What is told to it --------------------------------------------------------------------------

    def edit(self, service: str, strategy: object) -> None:
        """Give a service a strategy, over all others; ``StrategiesError`` tells what is wrong with it.

        ``strategy`` is decoded JSON: an entry of Jaeger's file, or what Jaeger's endpoint answers (``edited_answer``).
        """
        with self._lock:
            self._edits.put(service, edited_answer(service, strategy))

    def reset(self, service: str) -> None:
        """Take an edit back; nothing when there is none. ``StrategiesError`` when that cannot be kept."""
        with self._lock:
            self._edits.remove(service)

    def observe(self, batches: Sequence[Batch]) -> None:
        """Take note of the samplers' decisions in what was written (for ``Writer.listen``)."""
        with self._lock:
            self._decisions.observe(batches)
        if self._adaptive is not None:
            self._adaptive.observe(batches)

    def figures(self) -> dict[str, int]:
        """Counters and gauges to publish, by name."""
        with self._lock:
            figures = {
                "sampling_questions_total": self._questions,
                "sampling_edits": len(self._edits.answers),
                "sampling_file_read_total": self._file.read_ok if self._file is not None else 0,
                "sampling_file_errors_total": self._file.read_err if self._file is not None else 0,
                "sampling_file_is_broken": int(self._file is not None and self._file.is_broken),
            }
        return figures | (self._adaptive.figures() if self._adaptive is not None else {})


class FollowedFile:
    """The strategies of a file, read again when it changes. ``StrategiesError`` when the first reading fails."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._stamp = _stamp(path)
        self.read_ok = self.read_err = 0
        #: Whether what stands in the file now is not what is in force.
        self.is_broken = False
        self._document = self._read()

    def current(self) -> StrategiesDocument:
        """The strategies in force, after a look whether the file has changed."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._read_if_changed()
        return self._document

    def _read_if_changed(self) -> None:
        stamp = _stamp(self._path)
        if stamp is None or stamp == self._stamp:
            return
        # Remembered also when the content is bad, so that one mistake is reported once and not on every request.
        self._stamp = stamp
        try:
            self._document = self._read()
        except StrategiesError as error:
            self.read_err += 1
            self.is_broken = True
            log.error("strategies_file_refused", error=str(error), instead="what was read before stays in force")

    def _read(self) -> StrategiesDocument:
        try:
            document = StrategiesDocument(_load(self._path))
        except StrategiesError as error:
            raise StrategiesError(f"strategies file {self._path}: {error}") from error
        for warning in document.warnings:
            log.warning("strategies_file_partly_ignored", file=self._path, reason=warning)
        self.read_ok += 1
        self.is_broken = False
        return document


class Edits:
    """Strategies that somebody set by hand, kept in a file when there is one. ``StrategiesError`` when that is broken."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.answers: dict[str, Answer] = {}
        if path is not None and os.path.exists(path):
            self.answers = _read_edits(path)

    def put(self, service: str, answer: Answer) -> None:
        """Set and keep; ``StrategiesError``, and nothing has changed, when that fails."""
        if service not in self.answers and len(self.answers) >= MAX_EDITS:
            raise StrategiesError(f"there are {MAX_EDITS} edited strategies already; take some back first")
        self._replace({**self.answers, service: answer})

    def remove(self, service: str) -> None:
        """Take back and keep."""
        if service in self.answers:
            self._replace({name: answer for name, answer in self.answers.items() if name != service})

    def _replace(self, answers: dict[str, Answer]) -> None:
        if self._path is not None:
            _write_whole(self._path, json.dumps({"strategies": answers}, indent=1) + "\n")
        self.answers = answers


def _read_edits(path: str) -> dict[str, Answer]:
    try:
        strategies = member(_load(path), "strategies")
        return {service: edited_answer(service, strategy) for service, strategy in strategies.items()}
    except StrategiesError as error:
        raise StrategiesError(
            f"the edited strategies in {path} cannot be used: {error}; mend or remove that file"
        ) from error


def _write_whole(path: str, text: str) -> None:
    """All of it or nothing, also when the process is killed meanwhile."""
    unfinished = f"{path}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(unfinished)
        raise StrategiesError(f"the change cannot be kept in {path}: {error.strerror}") from error


def _load(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise StrategiesError(f"it cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StrategiesError(f"it is not JSON: {error}") from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Changes when the file does; the inode too, since editors and ConfigMaps replace files within one clock tick."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Answers(Protocol):
    """All that the sampling port needs."""

    def for_service(self, service: str) -> dict[str, Any]:
        """The strategy of a service."""


def sampling_app(strategies: Answers) -> Starlette:
    """What listens on Jaeger's port 5778: ``?service=`` on each of ``PATHS``.

    Like Jaeger's from 2.16 on, it names the strategy's type as text on every path.
    """
    endpoint = partial(_sampling, strategies)
    return Starlette(routes=[Route(path, endpoint) for path in PATHS])


async def _sampling(strategies: Answers, request: Request) -> Response:
    services = request.query_params.getlist("service")
    if len(services) != 1:
        return _refused("'service' parameter must be provided once", 400)
    try:
        return JSONResponse(strategies.for_service(services[0]))
    except Exception as error:
        log.error("sampling_failed", error=error)
        return _refused(f"collector error: {type(error).__name__}", 500)


def _refused(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=status, headers={"X-Content-Type-Options": "nosniff"})
