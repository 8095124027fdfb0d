"""Reading JSON documents that strangers send: members of the right type, or ``DecodeError``.

Owns: the checks that JSON's own parser does not make.
Must not know: OTLP, Zipkin.
Invariants: raises nothing but ``DecodeError``; ``null`` is as good as absent (proto3's JSON mapping).
"""

from __future__ import annotations

from autoinstr.wire import DecodeError
from autoinstr.wire.values import whole_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UINT_MAX = (1 << 64) - 1
_INT_MIN = -(1 << 63)
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def json_value(data: bytes) -> Any:
    """A JSON document; ``DecodeError`` if it is none, or is nested deeper than Python can read."""
    import json

    try:
        return json.loads(bytes(data).decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}") from None


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON document that is an object."""
    value = json_value(data)
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value


def member(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A member of a JSON object, which must be of ``kind``; ``default`` if absent."""
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise DecodeError(f"{name} is not a {kind.__name__}")
    return value


def objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A member that is a list of objects; empty if absent."""
    return all_objects(member(document, name, list, []))


def all_objects(items: list[Any]) -> list[dict[str, Any]]:
    """``items`` if all of them are objects."""
    if any(type(item) is not dict for item in items):
        raise DecodeError("a list holds something else than objects")
    return items


def text(document: dict[str, Any], name: str) -> str:
    """A member that is text; empty if absent."""
    return whole_text(member(document, name, str, ""))


def unsigned(document: dict[str, Any], name: str) -> int:
    """A member that is an unsigned integer of 64 bits; 0 if absent."""
    value = document.get(name)
    number = 0 if value is None else int_of(value)
    if number < 0:
        raise DecodeError(f"{name} is negative")
    return number


def int_of(value: object) -> int:
    """An integer of 64 bits, signed or not, written as a number or as text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        value = int(value)
    if type(value) is not int or not _INT_MIN <= value <= _UINT_MAX:
        raise DecodeError("not an integer of 64 bits")
    return value


def double_of(value: object) -> float:
    """A float, written as a number or, when it is not finite, as text."""
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DecodeError("not a number")
    try:
        return float(value)
    except OverflowError:
        raise DecodeError("number out of range") from None


def bytes_of(value: object) -> bytes:
    """Bytes, written in base64, in either alphabet and with or without padding (proto3's JSON mapping)."""
    from binascii import a2b_base64

    if not isinstance(value, str):
        raise DecodeError("not base64")
    digits = value.rstrip("=").replace("-", "+").replace("_", "/")
    if digits.strip(_BASE64):
        raise DecodeError("not base64")
    try:
        return a2b_base64(digits + "=" * (-len(digits) % 4))
    except ValueError:
        raise DecodeError("not base64") from None


def hex_id(digits: str) -> int:
    """The number that hexadecimal digits, and nothing but digits, stand for."""
    if not digits or digits.strip("0123456789abcdefABCDEF"):
        raise DecodeError(f"not a hexadecimal id: {digits[:40]!r}")
    return int(digits, 16)


def fixed_hex_id(document: dict[str, Any], name: str, size: int) -> int:
    """A member that is a hexadecimal id of ``size`` digits, in either case; 0 if absent or empty."""
    digits: str = member(document, name, str, "")
    if digits and len(digits) != size:
        raise DecodeError(f"{name} has {len(digits)} digits where {size} belong")
    return hex_id(digits) if digits else 0
