"""Bytes in and out, one module per format; here is only what all of them share.

Owns: ``DecodeError``, ``TooLarge``, ``Room``, ``Cache``, and varints, which Thrift and Protocol Buffers have in common.
Must not know: any format, sockets, threads, clocks, the environment.
Invariants: encoders never raise for a span, decoders raise ``DecodeError`` and nothing else, everything is bounded by
the size of its input.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    _Table: TypeAlias = dict[Any, Any]
else:
    _Table = dict

#: Bytes that one cache may hold on to, more or less: some two thousand attributes.
CACHE_BYTES = 1_000_000
#: The same for receivers, which read what many clients wrote: some forty thousand attributes.
READER_CACHE_BYTES = 16_000_000
#: What an entry costs beyond its encoded bytes: key, text, object headers, its place in the dictionary.
_ENTRY_BYTES = 400

#: What one payload may consist of (a span counts as ``SPAN_PARTS``): some 200 MB of memory, decoded.
MAX_PARTS = 1_000_000
SPAN_PARTS = 4

#: Longer strings are not kept in caches: they hardly repeat.
CACHED_CHARACTERS = 128
#: The service of spans that do not name theirs (OpenTelemetry's semantic conventions).
UNKNOWN_SERVICE = "unknown_service"


class DecodeError(ValueError):
    """The bytes are not a payload of the expected format; the message says what is wrong, for a log or a 400 reply."""


class TooLarge(DecodeError):
    """The payload is well formed as far as it was read, but says more than anybody can mean, or a receiver can hold."""


class Room:
    """How much a payload may still claim while it is decoded.

    Two bytes of input can claim an object of some hundred bytes; this is what bounds the whole.
    """

    __slots__ = ("_left", "_parts")

    def __init__(self, parts: int = MAX_PARTS) -> None:
        self._left = self._parts = parts

    def take(self, parts: int) -> None:
        """Claim room for so many parts; ``TooLarge`` when there is none."""
        self._left -= parts
        if self._left < 0:
            raise TooLarge(f"more than {self._parts} spans, attributes and the like in one payload")


class Cache(_Table):
    """A dictionary from values to their encoded bytes that forgets everything when it has grown too large.

    Forgetting all at once keeps hits as cheap as in a plain dictionary: no order, no ages, no lock.
    """

    __slots__ = ("_limit", "_room")

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        super().__init__()
        self._limit = self._room = limit

    def keep(self, key: Any, value: Any, size: int) -> None:
        """Remember ``value``, whose encoded bytes are ``size`` long."""
        cost = size + _ENTRY_BYTES
        if self._room < cost:
            self.clear()
            self._room = self._limit
        self._room -= cost
        self[key] = value


def varint(number: int) -> bytes:
    """ULEB128 of a number that is not negative: 7 bits per byte, low group first."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, of at most ten bytes (which may hold 70 bits), and where it ends."""
    number = shift = 0
    while shift < 70:
        if at >= len(data):
            raise DecodeError(f"ends within a varint, at {at}")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise DecodeError(f"varint longer than ten bytes, before {at}")
