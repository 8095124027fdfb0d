"""What an attribute value becomes before a format writes it: a few plain types, whatever the application gave.

Owns: the reduction of any object to plain values, text to UTF-8, plain values to JSON, facts to attributes.
Must not know: wire formats.
Invariants: nothing here raises for a value, and nothing recurses deeper than ``MAX_DEPTH``. Runs only when a cache
misses, so clarity goes before speed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from autoinstr.model import Facts

    #: ``None``, ``bool``, ``int`` of 64 bits, ``float``, ``str``, ``bytes``, and lists and dictionaries of them.
    Plain: TypeAlias = Any

#: Lists and dictionaries nested deeper are written as text. It also ends structures that contain themselves.
MAX_DEPTH = 8

_INFINITY = float("inf")
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1


def utf8(text: str) -> bytes:
    """UTF-8 of ``text``; what has no UTF-8 (half of a surrogate pair, as in undecodable file names) becomes ``?``."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def printable(value: object) -> str:
    """``str(value)`` of an object that may refuse."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the code that runs here is the application's
        return f"<unprintable {type(value).__name__}>"


def plain(value: object, limit: int | None = None, depth: int = 0) -> Plain:
    """``value`` in plain types; text and bytes are cut at ``limit`` characters or bytes when it is given."""
    try:
        return _reduced(value, limit, depth)
    except Exception:  # noqa: BLE001 - the code that runs here is the application's
        return printable(value)[:limit]


def _reduced(value: object, limit: int | None, depth: int) -> Plain:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)[:limit]
    if isinstance(value, int):
        number = int.__int__(value)
        return number if _INT_MIN <= number <= _INT_MAX else str(number)[:limit]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)[:limit]
    if depth < MAX_DEPTH:
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(item, limit, depth + 1) for item in list(value)]
        if isinstance(value, dict):
            return {printable(key): plain(item, limit, depth + 1) for key, item in list(value.items())}
    return printable(value)[:limit]


def json_ready(value: Plain) -> Plain:
    """A plain value in what JSON can say: bytes as base64, ``NaN`` and ``Infinity`` as text (proto3)."""
    if isinstance(value, float):
        return value if value - value == 0 else _not_finite(value)
    if isinstance(value, bytes):
        return base64_text(value)
    if isinstance(value, list):
        return [json_ready(item) for item in value]
    if isinstance(value, dict):
        return {json_ready(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, str):
        return whole_text(value)
    return value


def _not_finite(value: float) -> str:
    if value not in (_INFINITY, -_INFINITY):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def whole_text(text: str) -> str:
    """``text`` without halves of surrogate pairs."""
    return text if text.isascii() else utf8(text).decode()


def base64_text(data: bytes) -> str:
    """Standard base64 with padding."""
    from binascii import b2a_base64

    return b2a_base64(data, newline=False).decode()


def json_text(value: Plain) -> str:
    """A plain value as compact JSON text, for formats whose values are scalars."""
    import json

    return json.dumps(json_ready(value), ensure_ascii=False, separators=(",", ":"))


def described(facts: tuple[Facts, ...]) -> dict[str, Any]:
    """The attributes that ``facts`` stand for; a fact that cannot be described is left out, not the span."""
    result: dict[str, Any] = {}
    for fact in facts:
        try:
            result.update(fact[0](*fact[1:]))
        except Exception:  # noqa: BLE001, S112 - a fact with a bug must not take the others along
            continue
    return result
