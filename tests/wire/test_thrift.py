"""Thrift's two protocols, against Thrift's own library."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer

from autoinstr.wire import DecodeError, thrift, varint

u64 = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda bit: 1 << bit), st.integers(0, 300))


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        *((0, "00"), (-1, "01"), (1, "02"), (63, "7e"), (-64, "7f"), (64, "8001"), (300, "d804")),
        *(((1 << 63) - 1, "feffffffffffffffff01"), (-(1 << 63), "ffffffffffffffffff01")),
    ],
)
def test_zigzag_varint(number: int, encoded: str) -> None:
    """Ids and times would reach Jaeger as other numbers."""
    assert thrift.zigzag_varint(number).hex() == encoded
    assert thrift.CompactReader(bytes.fromhex(encoded)).zigzag() == number


@given(st.lists(u64, max_size=70))
def test_varints_of_a_batch_are_those_of_the_plain_loop(values: list[int]) -> None:
    """A wrong mask would give single spans of a busy service wrong ids."""
    raw = thrift.i64_fields(values, 6)
    lanes = [raw[at : at + thrift.LANE] for at in range(0, len(values) * thrift.LANE, thrift.LANE)]
    for value, lane in zip(values, lanes, strict=True):
        expected = b"\x16" + thrift.zigzag_varint(thrift.signed(value))
        assert lane == expected.ljust(thrift.LANE, b"\0")
        assert lane.translate(None, b"\0") == (expected if value else b"\x16")


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_varints_of_a_batch_refuse_what_is_no_u64(bad: int) -> None:
    """A bad id would spill over into its neighbours instead of being noticed."""
    with pytest.raises(struct.error):
        thrift.i64_fields([1, bad], 6)


FIELDS: list[thrift.Field] = [
    (1, thrift.STRING, b"text"),
    (2, thrift.BOOL, True),
    (3, thrift.BOOL, False),
    (5, thrift.I32, -7),
    (9, thrift.I64, 1 << 62),
    (10, thrift.DOUBLE, 1.5),
    (11, thrift.STRUCT, b"\0"),
    (15, thrift.LIST, [b"\0"] * 20),
]


@pytest.mark.parametrize(
    ("write", "protocol"), [(thrift.compact_struct, TCompactProtocol), (thrift.binary_struct, TBinaryProtocol)]
)
def test_struct_is_read_by_thrifts_library(write, protocol) -> None:
    """Collectors, which use that library, would refuse our payloads."""
    reader = protocol(TMemoryBuffer(write(FIELDS)))
    found = {}
    readers = {
        2: reader.readBool,
        4: reader.readDouble,
        8: reader.readI32,
        10: reader.readI64,
        11: reader.readBinary,
        12: lambda: reader.skip(12),
        15: lambda: reader.skip(15),
    }
    reader.readStructBegin()
    while True:
        _, kind, field = reader.readFieldBegin()
        if kind == 0:
            break
        found[field] = (kind, readers[kind]())
        reader.readFieldEnd()
    reader.readStructEnd()
    assert found == {
        1: (11, b"text"),
        2: (2, True),
        3: (2, False),
        5: (8, -7),
        9: (10, 1 << 62),
        10: (4, 1.5),
        11: (12, None),
        15: (15, None),
    }


@pytest.mark.parametrize(
    ("protocol", "reader"), [(TCompactProtocol, thrift.CompactReader), (TBinaryProtocol, thrift.BinaryReader)]
)
def test_reads_all_types_that_thrifts_library_writes(protocol, reader) -> None:
    """A newer client's unknown fields, of whatever type, would make its spans unreadable."""
    buffer = TMemoryBuffer()
    out = protocol(buffer)
    out.writeStructBegin("s")
    for field, kind, write in [
        (1, 2, lambda: out.writeBool(True)),
        (2, 3, lambda: out.writeByte(5)),
        (3, 4, lambda: out.writeDouble(2.5)),
        (4, 6, lambda: out.writeI16(-300)),
        (5, 8, lambda: out.writeI32(70_000)),
        (6, 10, lambda: out.writeI64(-(1 << 63))),
        (7, 11, lambda: out.writeBinary(b"\xff")),
        (8, 13, lambda: (out.writeMapBegin(11, 8, 1), out.writeString("k"), out.writeI32(1), out.writeMapEnd())),
        (9, 13, lambda: (out.writeMapBegin(11, 8, 0), out.writeMapEnd())),
        (10, 14, lambda: (out.writeSetBegin(8, 2), out.writeI32(1), out.writeI32(2), out.writeSetEnd())),
        (11, 15, lambda: (out.writeListBegin(2, 2), out.writeBool(True), out.writeBool(False), out.writeListEnd())),
        (300, 8, lambda: out.writeI32(9)),
    ]:
        out.writeFieldBegin("", kind, field)
        write()
        out.writeFieldEnd()
    out.writeFieldStop()
    out.writeStructEnd()
    assert reader(buffer.getvalue()).struct() == {
        1: True,
        2: 5,
        3: 2.5,
        4: -300,
        5: 70_000,
        6: -(1 << 63),
        7: b"\xff",
        8: None,
        9: None,
        10: [1, 2],
        11: [True, False],
        300: 9,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"\x1c" * 5000,  # structs in structs
        b"\x19\x19" + b"\x19" * 5000,  # lists in lists
        b"\x19\xfc" + varint(1 << 31),  # two thousand million structs
        b"\x1b" + varint(1 << 40) + b"\x11",  # a map of as many booleans
        b"\x18" + varint(1 << 62),  # a string of as many bytes
        b"\x16" + b"\xff" * 10 + b"\x01",  # a varint of 77 bits
        b"\x1d\x00",  # no such type
    ],
)
def test_compact_reader_refuses_what_would_exhaust_it(data: bytes) -> None:
    """One datagram from anybody could stop a collector."""
    with pytest.raises(DecodeError):
        thrift.CompactReader(data).struct()


@pytest.mark.parametrize(
    "data",
    [
        b"\x0c\0\1" * 5000,
        b"\x0f\0\1" + b"\x0f\0\0\0\1" * 5000,
        b"\x0f\0\1\x0c\x7f\xff\xff\xff",
        b"\x0f\0\1\x0c\xff\xff\xff\xff",
        b"\x0b\0\1\xff\xff\xff\xff",
        b"\x0d\0\1\2\2\x7f\xff\xff\xff",
        b"\x01\0\1",
    ],
)
def test_binary_reader_refuses_what_would_exhaust_it(data: bytes) -> None:
    """One request from anybody could stop a collector."""
    with pytest.raises(DecodeError):
        thrift.BinaryReader(data).struct()
