"""Decoders read what strangers send: whatever it is, they raise ``DecodeError`` or nothing, and soon."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoinstr.model import Event, Link
from autoinstr.wire import DecodeError, jaeger, otlp, zipkin

from . import cases

RICH = cases.span(
    "operation",
    parent_id=3,
    attributes={"s": "v", "i": -3, "f": 1.5, "t": True, "b": b"\0\xff", "list": [1, ["a"]], "dict": {"a": 1}},
    events=[Event("event", cases.START_NS, {"k": "v"})],
    links=[Link(cases.OTHER, {"k": "v"})],
    status=2,
    status_message="broke",
    trace_state="a=b",
)


def made_by(encoder) -> bytes:
    [(payload, _)], _ = encoder.encode([RICH, cases.span()])
    return payload


COMPACT = made_by(jaeger.CompactEncoder(cases.RESOURCE))
BINARY = made_by(jaeger.BinaryEncoder(cases.RESOURCE))

DECODERS = [
    pytest.param(jaeger.decode_message, COMPACT, id="compact message"),
    pytest.param(jaeger.decode_message, cases.M_BINARY, id="binary message"),
    pytest.param(jaeger.decode_batch, BINARY, id="binary batch"),
    pytest.param(jaeger.decode_compact_batch, COMPACT[14:-1], id="compact batch"),
    pytest.param(otlp.decode_protobuf, made_by(otlp.ProtobufEncoder(cases.RESOURCE)), id="protobuf"),
    pytest.param(otlp.decode_json, made_by(otlp.JsonEncoder(cases.RESOURCE)), id="otlp json"),
    pytest.param(zipkin.decode_json, made_by(zipkin.JsonEncoder(cases.RESOURCE)), id="zipkin json"),
]

#: CPU seconds; a decoder that a short payload can occupy for longer is one that strangers can stop.
LONGEST = 1.0


def survives(decode: Callable[[bytes], object], data: bytes) -> bool:
    """Whether ``data`` was decoded; any exception but ``DecodeError`` fails the test, and so does a long time."""
    started = time.process_time()
    try:
        decode(data)
    except DecodeError:
        return False
    finally:
        assert time.process_time() - started < LONGEST, data[:100]
    return True


@pytest.mark.parametrize(("decode", "payload"), DECODERS)
def test_cut_anywhere(decode, payload: bytes) -> None:
    """A truncated datagram would kill the receiving thread, or give half a batch as a whole one."""
    assert survives(decode, payload)
    whole = [end for end in range(len(payload)) if survives(decode, payload[:end])]
    # Only protobuf has no end mark: a request of no resources at all is one.
    assert whole == ([0] if decode is otlp.decode_protobuf else [])


@pytest.mark.parametrize(("decode", "payload"), DECODERS)
def test_every_byte_replaced(decode, payload: bytes) -> None:
    """A flipped bit would kill the receiving thread."""
    for at in range(len(payload)):
        for byte in (0, 0x7F, 0x80, 0xFF, payload[at] ^ 1, payload[at] ^ 0x10):
            survives(decode, payload[:at] + bytes((byte,)) + payload[at + 1 :])


@pytest.mark.parametrize(("decode", "payload"), DECODERS)
def test_random_damage(decode, payload: bytes) -> None:
    """As above, for pieces that are lost, doubled, swapped or made up."""
    dice = random.Random(0)
    for _ in range(500):
        data = bytearray(payload)
        for _ in range(dice.randint(1, 4)):
            start, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
            end = min(end, start + 20)
            data[start:end] = dice.choice(
                (b"", data[start:end] * 2, dice.randbytes(dice.randrange(8)), data[end : end + 9])
            )
        survives(decode, bytes(data))


@pytest.mark.parametrize(("decode", "payload"), DECODERS)
@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes(decode, payload: bytes, data: bytes) -> None:
    """A port scan would kill the receiving thread."""
    survives(decode, data)
    survives(decode, payload[:20] + data)


@pytest.mark.parametrize(("decode", "payload"), DECODERS)
@pytest.mark.parametrize(
    "unit", [b"\x1c", b"\x19\xfc", b"\x0c\0\1", b"\x0a\x00", b"\x00", b"\xff", b"\x12\x02", b"[", b"{}"]
)
def test_long_repetition(decode, payload: bytes, unit: bytes) -> None:
    """A short pattern, repeated to the size of a datagram, would occupy a processor or exhaust the stack."""
    survives(decode, unit * (60_000 // len(unit)))
    survives(decode, payload[:20] + unit * (60_000 // len(unit)))
