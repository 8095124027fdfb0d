"""The bounded cache, and the reduction of values on which it rests."""

from __future__ import annotations

import enum
import subprocess
import sys
from typing import Any

import pytest

from autoinstr.wire import CACHE_BYTES, Cache, values


def test_cache_forgets_before_it_is_too_large() -> None:
    """What never repeats would fill the memory of the service."""
    cache = Cache()
    for number in range(100_000):
        cache.keep(number, b"", 100)
        assert cache[number] == b""
        assert len(cache) * 100 < CACHE_BYTES
    cache.keep("huge", b"", 10 * CACHE_BYTES)
    assert list(cache) == ["huge"]
    cache.keep("next", b"", 1)
    assert list(cache) == ["next"]


class Colour(enum.IntEnum):
    RED = 1


class Word(str, enum.Enum):
    YES = "yes"


class Bad:
    def __str__(self) -> str:
        raise ValueError

    def __repr__(self) -> str:
        raise ValueError


class BadText(str):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(
            (Colour.RED, 1),
            (Word.YES, "yes"),
            (Bad(), "<unprintable Bad>"),
            (BadText("text"), "text"),
            (1 << 63, str(1 << 63)),
        ),
        *(
            (-(1 << 63), -(1 << 63)),
            ((1, (True,)), [1, [True]]),
            ({1: memoryview(b"x")}, {"1": b"x"}),
            (1 + 0j, "(1+0j)"),
        ),
    ],
)
def test_plain(value: object, expected: Any) -> None:
    """Attributes of unusual types would not be understood by any format."""
    result = values.plain(value)
    assert result == expected
    assert type(result) is type(expected)


def test_enormous_integer() -> None:
    """Python refuses to print it, and the span would be lost."""
    assert isinstance(values.plain(10**5000), str)


def test_agent_imports_nothing_heavy_with_encoders() -> None:
    """Every traced process would start later, and gevent could not patch what is imported already."""
    code = (
        "before = set(sys.modules); import autoinstr.wire.jaeger, autoinstr.wire.otlp, autoinstr.wire.zipkin;"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('autoinstr')))"
    )
    # Isolated and without site packages' start files, which import things of their own.
    path = [entry for entry in sys.path if entry]
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.strip() in ("['_struct', 'struct']", "['__future__', '_struct', 'struct']")
