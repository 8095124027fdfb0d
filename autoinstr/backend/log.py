"""What the backend says of itself: one line per event, on stderr.

Owns: the two forms of a line (text for people, JSON for machines), which events are worth one, how often.
Must not know: what the events mean.
Invariants: one event is one line, whatever its fields hold; an event that repeats is written at most once in
``REPEAT_AFTER_S`` seconds, with the number of those left out; nothing here raises.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import TextIO

REPEAT_AFTER_S = 10.0
#: Distinct events whose last time is remembered; names are ours, so that there are few.
MAX_EVENTS = 200

INFO, WARNING, ERROR = "info", "warning", "error"


class _Log:
    """Where lines go, and in which form; one for the process."""

    def __init__(self) -> None:
        self.as_json = False
        self.stream: TextIO | None = None
        self._lock = threading.Lock()
        #: Event to when it was last written, and how often it was left out since.
        self._seen: dict[str, tuple[float, int]] = {}

    def write(self, level: str, event: str, fields: dict[str, object]) -> None:
        """Write a line, unless the event was written just now."""
        with self._lock:
            left_out = self._turn(event, time.monotonic()) if level != INFO else 0
            if left_out is None:
                return
            if left_out:
                fields["left_out"] = left_out
            line = (_json_line if self.as_json else _text_line)(level, event, fields)
            try:
                stream = self.stream or sys.stderr
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):
                # Whoever read it is gone; there is nobody left to tell.
                pass

    def _turn(self, event: str, now: float) -> int | None:
        """How often the event was left out since its last line; ``None`` when it has to be left out again."""
        last, left_out = self._seen.get(event, (float("-inf"), 0))
        if now - last < REPEAT_AFTER_S:
            self._seen[event] = last, left_out + 1
            return None
        if len(self._seen) >= MAX_EVENTS:
            self._seen.clear()
        self._seen[event] = now, 0
        return left_out


_log = _Log()


def configure(*, as_json: bool, stream: TextIO | None = None) -> None:
    """Choose the form of the lines, and route what uvicorn says through here. ``stream`` is stderr unless given."""
    _log.as_json = as_json
    _log.stream = stream
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = [_FromLogging()]
    logger.propagate = False
    logger.setLevel(logging.WARNING)


def info(event: str, **fields: object) -> None:
    """What goes as it should: written only for machines, since a person wants silence then."""
    if _log.as_json:
        _log.write(INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    """What somebody should look at."""
    _log.write(WARNING, event, fields)


def error(event: str, **fields: object) -> None:
    """What went wrong."""
    _log.write(ERROR, event, fields)


class _FromLogging(logging.Handler):
    """What libraries log, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"message": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            fields["error"] = record.exc_info[1]
        _log.write(ERROR if record.levelno >= logging.ERROR else WARNING, "server", fields)


def _json_line(level: str, event: str, fields: dict[str, object]) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    return json.dumps({"time": moment, "level": level, "event": event, **{key: _plain(fields[key]) for key in fields}})


def _text_line(level: str, event: str, fields: dict[str, object]) -> str:
    told = "".join(f" {key}={_plain(value)!r}" for key, value in fields.items())
    return f"autoinstr serve: {level}: {event}{told}"


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
