"""Many varints at once, read: the counterpart of ``thrift.i64_fields``.

Owns: zigzag varints of a whole payload to numbers.
Must not know: fields, structs, Jaeger.
Invariants: works on what it is given, which must be varints of at most ten bytes; more than 64 bits is a ``DecodeError``.

A 64-bit varint costs more than half a microsecond in a Python loop, and a span has six. Here they lie side by side in one big
integer, each in a lane of sixteen bytes, and every step works on all lanes at once.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.wire import DecodeError

_LANE_BITS = 128


class _Masks:
    """The constants for a number of lanes; bits are counted from a lane's lowest."""

    def __init__(self, lanes: int) -> None:
        every_lane = ((1 << (_LANE_BITS * lanes)) - 1) // ((1 << _LANE_BITS) - 1)

        def bits(*ranges: tuple[int, int]) -> int:
            """A mask of the bits from ``first``, so many, of each lane."""
            return every_lane * sum(((1 << count) - 1) << first for first, count in ranges)

        self.numbers = _struct.Struct("<" + "Q8x" * lanes)
        self.one = every_lane
        # Groups of seven bits lie at multiples of 8, then of fourteen at multiples of 16, and so on.
        self.even_7, self.odd_7 = (bits(*((at, 7) for at in range(first, 80, 16))) for first in (0, 8))
        self.even_14, self.odd_14 = (bits(*((at, 14) for at in range(first, 80, 32))) for first in (0, 16))
        self.even_28, self.odd_28 = (bits(*((at, 28) for at in range(first, 96, 64))) for first in (0, 32))
        self.low_56, self.high = bits((0, 56)), bits((64, 14))


_masks_by_lanes: dict[int, _Masks] = {}


def zigzags(varints: list[bytes], unit: int) -> tuple[int, ...]:
    """The signed numbers that zigzag varints stand for, as unsigned ones with the same 64 bits.

    ``unit`` of them belong together: lanes are padded to ``unit`` times a power of two, so that there are few sets of masks.
    There may be more numbers than varints.
    """
    lanes = unit
    while lanes < len(varints):
        lanes *= 2
    masks = _masks_by_lanes.get(lanes)
    if masks is None:
        masks = _masks_by_lanes[lanes] = _Masks(lanes)
    x = int.from_bytes(b"".join([varint.ljust(16, b"\0") for varint in varints]), "little")
    x = x & masks.even_7 | (x & masks.odd_7) >> 1
    x = x & masks.even_14 | (x & masks.odd_14) >> 2
    x = x & masks.even_28 | (x & masks.odd_28) >> 4
    x = x & masks.low_56 | (x & masks.high) >> 8
    if x & (masks.one << 64) * 63:
        raise DecodeError("varint longer than 64 bits")
    # Zigzag: the lowest bit is the sign, and inverts the others.
    sign = x & masks.one
    x = (x ^ sign) >> 1 ^ (sign << 64) - sign
    return masks.numbers.unpack(x.to_bytes(16 * lanes, "little"))
