"""What the agent says when something is wrong: one line on stderr, and about the same trouble at most one a minute.

Never goes through ``logging`` (the program's handlers could trace, block or recurse) nor through ``sys.stderr`` (which the
program may have replaced).
"""

from __future__ import annotations

from os import write
from time import monotonic

#: Seconds for which the same trouble is not mentioned again.
QUIET_S = 60.0
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
    line = " ".join(text.split()) + (f" ({repeated} more like this)" if repeated else "")
    try:
        write(2, f"autoinstr: {line}\n".encode("utf-8", "replace"))
    except OSError:  # Host safety: stderr may be closed, and nobody is there to be told.
        return False
    return True


def fault(where: str, error: BaseException) -> None:
    """Report an exception of our own that was kept from the program."""
    say(f"internal error in {where}: {type(error).__name__}: {error}; the program is not affected", about=where)
