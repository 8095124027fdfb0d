"""Apache Thrift's compact and binary protocols, writing and reading, without any schema.

Owns: varints, struct writers, the batch-wide varint encoder, self-describing readers.
Must not know: Jaeger.
Invariants: both protocols describe themselves, so a reader gives a struct as ``{field id: value}`` and its user checks
the types; every size that the bytes declare is checked against the bytes that are left, and nesting is limited.

Types are named by their numbers in the binary protocol. Sources: Thrift's ``thrift-binary-protocol`` and
``thrift-compact-protocol`` documents; doubles are little-endian in compact, as all implementations have it.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.wire import DecodeError, Room, read_varint, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    #: A field to write: id, type, value. A ``STRUCT`` is given as bytes, a ``LIST`` as a list of structs as bytes
    #: (Jaeger has no other lists).
    Field: TypeAlias = tuple[int, int, Any]
    #: A struct that was read: field id to bool, int, float, bytes, list, or struct.
    Struct: TypeAlias = dict[int, Any]

STOP, BOOL, I8, DOUBLE, I16, I32, I64, STRING, STRUCT, MAP, SET, LIST = 0, 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15

_COMPACT_TRUE, _COMPACT_FALSE = 1, 2
_TO_COMPACT = {BOOL: 1, I8: 3, I16: 4, I32: 5, I64: 6, DOUBLE: 7, STRING: 8, LIST: 9, SET: 10, MAP: 11, STRUCT: 12}
_FROM_COMPACT = {code: kind for kind, code in _TO_COMPACT.items()} | {_COMPACT_FALSE: BOOL}

CALL, ONEWAY = 1, 4
#: Deeper nesting is refused; Jaeger's own structs are seven levels deep.
MAX_DEPTH = 32
#: Structs of one payload: each is a dictionary of a quarter of a kilobyte until it is understood.
MAX_STRUCTS = 500_000

_EMPTY: dict[int, Any] = {}


# Writing ----------------------------------------------------------------------------------------------------------


def signed(number: int) -> int:
    """An unsigned 64-bit id as the i64 with the same bits."""
    return number - (1 << 64) if number >> 63 else number


def zigzag_varint(number: int) -> bytes:
    """Varint of a signed 64-bit number: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return varint((number << 1) ^ (number >> 63))


def compact_string(data: bytes) -> bytes:
    """Bytes with their length before them."""
    return varint(len(data)) + data


def compact_fields(fields: Sequence[Field], previous: int = 0) -> bytes:
    """Fields in ascending order of their ids, which are at most 15 apart; ``previous`` is the id before the first."""
    pieces = []
    for field, kind, value in fields:
        code = _TO_COMPACT[kind] if kind != BOOL else _COMPACT_TRUE if value else _COMPACT_FALSE
        pieces.append(bytes(((field - previous) << 4 | code,)))
        pieces.append(_compact_value(kind, value))
        previous = field
    return b"".join(pieces)


def compact_struct(fields: Sequence[Field]) -> bytes:
    """A struct; ``fields`` as for ``compact_fields``."""
    return compact_fields(fields) + b"\0"


def _compact_value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return compact_string(value)
    if kind in (I64, I32):
        return zigzag_varint(value)
    if kind == DOUBLE:
        return _struct.pack("<d", value)
    if kind == LIST:
        size = len(value)
        header = bytes((size << 4 | 0x0C,)) if size < 15 else b"\xfc" + varint(size)
        return header + b"".join(value)
    return value if kind == STRUCT else b""


def compact_message_header(name: bytes, kind: int, sequence: int) -> bytes:
    """What stands before the struct of a call's arguments."""
    return bytes((0x82, kind << 5 | 1)) + varint(sequence) + compact_string(name)


def binary_string(data: bytes) -> bytes:
    """Bytes with their length before them."""
    return len(data).to_bytes(4, "big") + data


def binary_fields(fields: Sequence[Field], previous: int = 0) -> bytes:
    """Fields in any order; ``previous`` is there for the sake of the same signature as ``compact_fields``."""
    return b"".join([bytes((kind, 0, field)) + _binary_value(kind, value) for field, kind, value in fields])


def binary_struct(fields: Sequence[Field]) -> bytes:
    """A struct."""
    return binary_fields(fields) + b"\0"


def _binary_value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return binary_string(value)
    if kind == I64:
        return _struct.pack(">q", value)
    if kind == I32:
        return _struct.pack(">i", value)
    if kind == BOOL:
        return b"\1" if value else b"\0"
    if kind == DOUBLE:
        return _struct.pack(">d", value)
    if kind == LIST:
        return bytes((STRUCT,)) + len(value).to_bytes(4, "big") + b"".join(value)
    return bytes(value)


# Varints of a whole batch -----------------------------------------------------------------------------------------
#
# One 64-bit varint costs about a microsecond in a Python loop, and a span has six. Here all of a batch lie side by side
# in one big integer, each in a lane of eleven bytes: the field's header, then up to ten bytes of varint. Every step
# below is one operation of that integer and so works on all lanes at once (SIMD within a register).

LANE = 11
_LANE_BITS = 8 * LANE
#: Header of an i64 field that directly follows the previous one: delta 1, type 6.
I64_NEXT = 0x16


class _LaneMasks:
    """The constants for a number of lanes. Bits are counted from a lane's lowest, and 8 is where the varint begins."""

    def __init__(self, lanes: int) -> None:
        every_lane = ((1 << (_LANE_BITS * lanes)) - 1) // ((1 << _LANE_BITS) - 1)

        def bits(*ranges: tuple[int, int]) -> int:
            """A mask of the bits ``first`` to ``last`` of each varint."""
            return every_lane * sum((1 << (last + 9)) - (1 << (first + 8)) for first, last in ranges)

        def top_bits(size: int) -> int:
            """A mask of the highest bits of the first ``size`` bytes of each varint."""
            return bits(*((8 * byte + 7, 8 * byte + 7) for byte in range(size)))

        self.lanes = _struct.Struct("<" + "xQ2x" * lanes)
        self.header = every_lane * I64_NEXT
        self.one = bits((0, 0))
        self.value = bits((0, 63))
        self.above_35 = bits((35, 63))
        self.above_14 = bits((14, 34), (54, 74))
        self.above_28 = bits((30, 36), (70, 76))
        self.group_odd = bits((7, 13), (23, 29), (47, 53), (63, 69))
        self.seven_ones = bits(*((8 * byte, 8 * byte + 6) for byte in range(10)))
        self.nonzero = top_bits(10)
        self.continued, self.continued_6, self.continued_4 = top_bits(9), top_bits(7), top_bits(5)


_masks_by_lanes: dict[int, _LaneMasks] = {}


def i64_fields(values: list[int], unit: int) -> bytes:
    """Each of ``values`` as an i64 field (header and zigzag varint) in a lane of ``LANE`` bytes, filled up with zeros.

    Values are u64 and are taken for the i64 with the same bits; ``struct.error`` if one is not. ``unit`` is how many of
    them belong together: lanes are padded to ``unit`` times a power of two, so that there are few sets of masks.
    Since a canonical varint contains no zero byte, ``lane.translate(None, b"\\0")`` takes the filling off, except that
    zero itself vanishes: its lane becomes the mere header.
    """
    lanes = unit
    while lanes < len(values):
        lanes *= 2
    masks = _masks_by_lanes.get(lanes)
    if masks is None:
        masks = _masks_by_lanes[lanes] = _LaneMasks(lanes)
    if lanes > len(values):
        values = values + [0] * (lanes - len(values))
    x = int.from_bytes(masks.lanes.pack(*values), "little")
    return _spread(x, masks).to_bytes(LANE * lanes, "little")


def _spread(x: int, masks: _LaneMasks) -> int:
    # Zigzag: shift left by one, and invert where the sign bit was set.
    sign = (x >> 63) & masks.one
    x = ((x << 1) & masks.value) ^ ((sign << 64) - sign)
    # Groups of seven bits to bytes, by halves: 35 + 29 bits move 5 apart, then 14 + 14 + 7 move 2 apart, then 7 + 7
    # move 1 apart. Adding (2**k - 1) times the upper part moves it k places up, as the places above it are free.
    x += (x & masks.above_35) * 31
    x += (x & masks.above_14) * 3
    x += (x & masks.above_28) * 3
    x += x & masks.group_odd
    # A byte is continued if any byte above it is not zero: smear that downwards over distances 1, 2, 4, 8 and 9.
    # The masks keep a lane's bits from falling into the lane below.
    more = (((x + masks.seven_ones) & masks.nonzero) >> 8) & masks.continued
    more |= more >> 8
    more |= (more >> 16) & masks.continued_6
    more |= (more >> 32) & masks.continued_4
    more |= (more >> 8) & masks.continued
    return x | (more & masks.continued) | masks.header


# Reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    """A position in bytes; subclasses know a protocol."""

    __slots__ = ("_room", "at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self._room = Room(MAX_STRUCTS)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise DecodeError(f"{size} bytes wanted at {self.at}, but {len(self.data) - self.at} are left")
        self.at = end
        return self.data[end - size : end]

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        if self.at > len(self.data):
            raise DecodeError(f"ends too early, at {self.at - 1}")
        return self.data[self.at - 1]

    def string(self) -> bytes:
        raise NotImplementedError

    def message_name(self) -> bytes:
        """Skip a message's header; the name of the method that it calls. Its type does not matter to receivers."""
        raise NotImplementedError

    def struct(self, depth: int = 0) -> Struct:
        """The next struct; of a field that comes twice the last one counts."""
        if depth > MAX_DEPTH:
            raise DecodeError(f"nested deeper than {MAX_DEPTH}")
        fields = self._fields(depth)
        if fields:
            self._room.take(1)
        # Shared when empty, so that a byte of input cannot claim a dictionary of its own.
        return fields or _EMPTY

    def enter(self, field: int, kind: int, previous: int = 0) -> None:
        """Go past the header of a field, which must be this one; ``previous`` is the id before it in its struct."""
        raise NotImplementedError

    def list_size(self) -> int:
        """Go past a list's header, of structs; how many there are said to be."""
        kind, size = self._list_header()
        self._check_container(size, 0)
        if kind != STRUCT:
            raise DecodeError(f"a list of something else than structs, before {self.at}")
        return size

    def _fields(self, depth: int) -> Struct:
        raise NotImplementedError

    def _value(self, kind: int, depth: int) -> Any:
        raise NotImplementedError

    def _map_header(self) -> tuple[int, int, int]:
        raise NotImplementedError

    def _list_header(self) -> tuple[int, int]:
        raise NotImplementedError

    def _list(self, depth: int) -> list[Any]:
        kind, size = self._list_header()
        self._check_container(size, depth)
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> None:
        """Skip a map: nothing that we read has one."""
        key_kind, value_kind, size = self._map_header()
        self._check_container(size, depth)
        for _ in range(size):
            self._value(key_kind, depth + 1)
            self._value(value_kind, depth + 1)

    def _check_container(self, size: int, depth: int) -> None:
        # Every element takes at least a byte.
        if size < 0 or size > len(self.data) - self.at:
            raise DecodeError(f"{size} elements declared at {self.at}, but {len(self.data) - self.at} bytes are left")
        if depth > MAX_DEPTH:
            raise DecodeError(f"nested deeper than {MAX_DEPTH}")


class CompactReader(_Reader):
    """Reads the compact protocol."""

    __slots__ = ()

    def varint(self) -> int:
        """The next varint, of at most 64 bits."""
        number, self.at = read_varint(self.data, self.at)
        if number >> 64:
            raise DecodeError(f"varint longer than 64 bits, before {self.at}")
        return number

    def zigzag(self) -> int:
        """The next signed number."""
        number = self.varint()
        return (number >> 1) ^ -(number & 1)

    def string(self) -> bytes:
        return self.take(self.varint())

    def message_name(self) -> bytes:
        if self.byte() != 0x82:
            raise DecodeError("not a compact message")
        version = self.byte() & 0x1F
        if version != 1:
            raise DecodeError(f"unknown version {version} of the compact protocol")
        self.varint()
        return self.string()

    def _fields(self, depth: int, previous: int = 0) -> Struct:
        # Numbers and lengths of one byte, which nearly all are, are read in place.
        data, at, field = self.data, self.at, previous
        fields: Struct = {}
        try:
            while header := data[at]:
                at += 1
                code = header & 0x0F
                if header < 0x10:
                    self.at = at
                    field = self.zigzag()
                    at = self.at
                else:
                    field += header >> 4
                if code == 8:
                    size = data[at]
                    if size < 0x80:
                        at += 1
                    else:
                        self.at = at
                        size = self.varint()
                        at = self.at
                    fields[field] = data[at : at + size]
                    at += size
                    if at > len(data):
                        raise DecodeError(f"{size} bytes wanted, but {len(data) - at + size} are left")
                elif code in (6, 5, 4):
                    number = data[at]
                    if number < 0x80:
                        at += 1
                        fields[field] = (number >> 1) ^ -(number & 1)
                    else:
                        self.at = at
                        fields[field] = self.zigzag()
                        at = self.at
                elif code in (_COMPACT_TRUE, _COMPACT_FALSE):
                    fields[field] = code == _COMPACT_TRUE
                else:
                    self.at = at
                    fields[field] = self._value(_FROM_COMPACT.get(code, STOP), depth)
                    at = self.at
        except IndexError:
            raise DecodeError(f"ends within a struct, at {at}") from None
        self.at = at + 1
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == STRING:
            return self.string()
        if kind in (I64, I32, I16):
            return self.zigzag()
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == DOUBLE:
            return _struct.unpack("<d", self.take(8))[0]
        if kind == BOOL:
            return self.byte() == _COMPACT_TRUE
        if kind == I8:
            return self.byte()
        if kind == MAP:
            return self._map(depth)
        raise DecodeError(f"unknown type, before {self.at}")

    def rest_of_struct(self, previous: int, depth: int) -> Struct:
        """The fields of a struct from here on, after the one with the id ``previous``."""
        return self._fields(depth, previous)

    def enter(self, field: int, kind: int, previous: int = 0) -> None:
        if self.byte() != (field - previous) << 4 | _TO_COMPACT[kind]:
            raise DecodeError(f"field {field} wanted, before {self.at}")

    def _list_header(self) -> tuple[int, int]:
        header = self.byte()
        size = header >> 4
        return _FROM_COMPACT.get(header & 0x0F, STOP), self.varint() if size == 15 else size

    def _map_header(self) -> tuple[int, int, int]:
        size = self.varint()
        kinds = self.byte() if size else 0
        return _FROM_COMPACT.get(kinds >> 4, STOP), _FROM_COMPACT.get(kinds & 0x0F, STOP), size


_read_i32 = _struct.Struct(">i").unpack_from
_read_i64 = _struct.Struct(">q").unpack_from


class BinaryReader(_Reader):
    """Reads the binary protocol."""

    __slots__ = ()

    def _int(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def string(self) -> bytes:
        return self.take(self._int(4))

    def message_name(self) -> bytes:
        word = self._int(4)
        if word < 0:
            if word >> 16 & 0x7FFF != 1:
                raise DecodeError("unknown version of the binary protocol")
            name = self.string()
        else:
            name = self.take(word)
            self.byte()
        self._int(4)
        return name

    def _fields(self, depth: int) -> Struct:
        # The commonest types are read in place.
        data, at = self.data, self.at
        fields: Struct = {}
        try:
            while kind := data[at]:
                field = data[at + 1] << 8 | data[at + 2]
                at += 3
                if kind == STRING:
                    (size,) = _read_i32(data, at)
                    at += 4 + size
                    if size < 0 or at > len(data):
                        raise DecodeError(f"{size} bytes wanted, but {len(data) - at + size} are left")
                    fields[field] = data[at - size : at]
                elif kind == I64:
                    (fields[field],) = _read_i64(data, at)
                    at += 8
                elif kind == I32:
                    (fields[field],) = _read_i32(data, at)
                    at += 4
                else:
                    self.at = at
                    fields[field] = self._value(kind, depth)
                    at = self.at
        except (IndexError, _struct.error):
            raise DecodeError(f"ends within a struct, at {at}") from None
        self.at = at + 1
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self.take(self._int(4))
        if kind == I64:
            return self._int(8)
        if kind == I32:
            return self._int(4)
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == BOOL:
            return self.byte() != 0
        if kind == DOUBLE:
            return _struct.unpack(">d", self.take(8))[0]
        if kind == I16:
            return self._int(2)
        if kind == I8:
            return self.byte()
        if kind == MAP:
            return self._map(depth)
        raise DecodeError(f"unknown type {kind}, before {self.at}")

    def enter(self, field: int, kind: int, previous: int = 0) -> None:
        if self.byte() != kind or self._int(2) != field:
            raise DecodeError(f"field {field} wanted, before {self.at}")

    def _list_header(self) -> tuple[int, int]:
        return self.byte(), self._int(4)

    def _map_header(self) -> tuple[int, int, int]:
        return self.byte(), self.byte(), self._int(4)
