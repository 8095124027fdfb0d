"""What the agent says when something is wrong: one line on stderr, and about the same trouble at most one a minute.

Owns: the level of what is said (``OTEL_LOG_LEVEL``), the rate, and the writing.
Never goes through ``logging`` (the program's handlers could trace, block or recurse) nor through ``sys.stderr`` (which
the program may have replaced). A line that would have to wait, because nobody empties the pipe that stderr is, is not said.
"""

from __future__ import annotations

from os import write
from time import monotonic

#: What OTEL_LOG_LEVEL can be. ERROR: the program is not traced, or a part of it is not, or we have made a mistake.
#: WARN: spans are lost, or a setting is not as it was meant. Of less than that nothing is said.
LEVELS = {"none": 0, "error": 1, "warn": 2, "info": 3, "debug": 4}
ERROR, WARN, DEBUG = LEVELS["error"], LEVELS["warn"], LEVELS["debug"]

#: Seconds for which the same trouble is not mentioned again.
QUIET_S = 60.0
#: Characters of a line at most: it may quote what a server answered.
LONGEST_LINE = 1000
#: Lines of a traceback at most, the last ones, where it says what failed.
LONGEST_TRACEBACK = 100
_STDERR = 2
_MAX_KEYS = 256
_level = LEVELS["info"]
_last_said: dict[str, float] = {}
_held_back: dict[str, int] = {}


def set_level(name: str) -> None:
    """Say from now on only what belongs to a level, one of ``LEVELS``."""
    global _level  # noqa: PLW0603 - one per process, as is stderr
    _level = LEVELS[name]


def say(text: str, about: str = "", level: int = WARN, error: BaseException | None = None) -> bool:
    """Print ``autoinstr: text`` on stderr unless ``about`` (by default the text) was the subject within a minute.

    Whether it was printed. ``error``, if given, is what led to it: its traceback follows where the level is debug.
    """
    if level > _level:
        return False
    about = about or text
    now = monotonic()
    last = _last_said.get(about)
    if last is not None and now - last < QUIET_S:
        _held_back[about] = _held_back.get(about, 0) + 1
        return False
    if len(_last_said) >= _MAX_KEYS:
        _last_said.clear()
        _held_back.clear()
    _last_said[about] = now
    repeated = _held_back.pop(about, 0)
    said = _print(_one_line(text) + (f" ({repeated} more like this)" if repeated else ""))
    if said and error is not None and _level >= DEBUG:
        _print_traceback(error)
    return said


def fault(where: str, error: BaseException) -> None:
    """Report an exception of our own that was kept from the program."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # Host safety: the exception may be the program's, and so its __str__.
        text = type(error).__name__
    say(f"internal error in {where}: {text}; the program is not affected", where, ERROR, error)


def _print_traceback(error: BaseException) -> None:
    try:
        from traceback import format_exception  # Slow to load.

        lines = "".join(format_exception(type(error), error, error.__traceback__)).splitlines()
    except Exception:  # Host safety: formatting reads files, and calls the __str__ of who knows what.
        return
    for line in lines[-LONGEST_TRACEBACK:]:
        # By line, because no more than that can be written without perhaps waiting.
        if not _print(_printable(line[:LONGEST_LINE])):
            return


def _one_line(text: str) -> str:
    """The text without line breaks, and without what a terminal would obey."""
    return _printable(" ".join(text[: 2 * LONGEST_LINE].split())[:LONGEST_LINE])


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(char if char.isprintable() else "?" for char in line)


def _print(line: str) -> bool:
    try:
        if not _takes_a_line():
            return False
        write(_STDERR, f"autoinstr: {line}\n".encode("utf-8", "replace"))
    except Exception:  # Host safety: stderr may be closed, and nobody is there to be told.
        return False
    return True


def _takes_a_line() -> bool:
    """Whether stderr can be written to without waiting; True where that cannot be asked (Windows, eventlet)."""
    import select

    if not hasattr(select, "poll"):
        return True
    watch = select.poll()
    watch.register(_STDERR, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in watch.poll(0))
