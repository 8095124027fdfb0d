"""Protocol Buffers' wire format: varints and fields, writing and reading, without any schema.

Owns: tags, lengths, the walk over the fields of one message.
Must not know: OTLP.
Invariants: the walk is not recursive (users walk into the submessages that they know), and each step consumes bytes.
Source: "Encoding" in the Protocol Buffers documentation. Groups are refused; they were gone before OTLP began.
"""

from __future__ import annotations

import struct as _struct

from autoinstr.wire import DecodeError, read_varint, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    #: A field that was read: number, wire type, and an int (``VARINT``, ``FIXED``) or bytes (``LENGTH``).
    Field: TypeAlias = tuple[int, int, int | bytes]

VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5

_UINT_64 = 0xFFFF_FFFF_FFFF_FFFF


def varint_field(field: int, number: int) -> bytes:
    """An integer, enum or bool; a negative one is its two's complement of 64 bits."""
    return varint(field << 3 | VARINT) + varint(number & _UINT_64)


def bytes_field(field: int, data: bytes) -> bytes:
    """A string, bytes or submessage."""
    return varint(field << 3 | LENGTH) + varint(len(data)) + data


def fixed_64_field(field: int, number: int) -> bytes:
    """An unsigned integer of always eight bytes."""
    return varint(field << 3 | FIXED_64) + _struct.pack("<Q", number)


def fixed_32_field(field: int, number: int) -> bytes:
    """An unsigned integer of always four bytes."""
    return varint(field << 3 | FIXED_32) + _struct.pack("<I", number)


def double_field(field: int, number: float) -> bytes:
    """A float of eight bytes."""
    return varint(field << 3 | FIXED_64) + _struct.pack("<d", number)


def double(bits: int) -> float:
    """The float that a ``FIXED_64`` field holds."""
    number: float = _struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    return number


def signed(number: int) -> int:
    """The int64 that a varint stands for."""
    return number - (1 << 64) if number >> 63 else number


def fields(data: bytes) -> list[Field]:
    """The fields of a message in their order; ``DecodeError`` when the bytes are none."""
    found: list[Field] = []
    at, end = 0, len(data)
    while at < end:
        key, at = read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise DecodeError(f"field number {number}, before {at}")
        if wire_type == VARINT:
            value, at = read_varint(data, at)
            found.append((number, wire_type, value & _UINT_64))  # longer ones are cut, as all readers do
            continue
        if wire_type == LENGTH:
            size, at = read_varint(data, at)
        elif wire_type in (FIXED_64, FIXED_32):
            size = 8 if wire_type == FIXED_64 else 4
        else:
            raise DecodeError(f"unknown wire type {wire_type}, before {at}")
        if size > end - at:
            raise DecodeError(f"{size} bytes wanted at {at}, but {end - at} are left")
        taken = data[at : at + size]
        found.append((number, wire_type, taken if wire_type == LENGTH else int.from_bytes(taken, "little")))
        at += size
    return found
