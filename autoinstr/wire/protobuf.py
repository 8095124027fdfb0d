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
    from typing import Any, TypeAlias

    #: A message that was read: tag (number and wire type) to values, ints or (``LENGTH``) bytes, in their order.
    Message: TypeAlias = dict[int, list[Any]]

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


def fields(data: bytes) -> Message:
    """The fields of a message; ``DecodeError`` when the bytes are none."""
    found: Message = {}
    at, end = 0, len(data)
    while at < end:
        # Tags and lengths of one byte, which nearly all are, are read in place.
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = read_varint(data, at - 1)
        if not 8 <= tag < 1 << 32:
            raise DecodeError(f"field number {tag >> 3}, before {at}")
        wire_type = tag & 7
        value: int | bytes
        if wire_type == VARINT:
            value, at = read_varint(data, at)
            value &= _UINT_64  # longer ones are cut, as all readers do
        else:
            if wire_type == LENGTH:
                size, at = (data[at], at + 1) if at < end and data[at] < 0x80 else read_varint(data, at)
            elif wire_type in (FIXED_64, FIXED_32):
                size = 8 if wire_type == FIXED_64 else 4
            else:
                raise DecodeError(f"unknown wire type {wire_type}, before {at}")
            if size > end - at:
                raise DecodeError(f"{size} bytes wanted at {at}, but {end - at} are left")
            value = data[at : at + size]
            at += size
            if wire_type != LENGTH:
                value = int.from_bytes(value, "little")
        if tag in found:
            found[tag].append(value)
        else:
            found[tag] = [value]
    return found
