"""What the agent says when something is wrong: one line on stderr, and about the same trouble at most one a minute.

Never goes through ``logging`` (the program's handlers could trace, block or recurse) nor through ``sys.stderr`` (which the
program may have replaced). A line that would have to wait, because nobody empties the pipe that stderr is, is not said.
"""

from __future__ import annotations

from os import write
from time import monotonic

#: Seconds for which the same trouble is not mentioned again.
QUIET_S = 60.0
#: Characters of a line at most: it may quote what a server answered.
LONGEST_LINE = 1000
_STDERR = 2
_MAX_KEYS = 256
_last_said: dict[str, float] = {}
_held_back: dict[str, int] = {}


def say(text: str, about: str = "") -> bool:
    """Print ``autoinstr: text`` on stderr unless ``about`` (by default the text) was the subject within a minute."""
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
    return _print(_one_line(text) + (f" ({repeated} more like this)" if repeated else ""))


def fault(where: str, error: BaseException) -> None:
    """Report an exception of our own that was kept from the program."""
    say(f"internal error in {where}: {type(error).__name__}: {error}; the program is not affected", about=where)


def _one_line(text: str) -> str:
    """The text without line breaks, and without what a terminal would obey."""
    line = " ".join(text[: 2 * LONGEST_LINE].split())[:LONGEST_LINE]
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
