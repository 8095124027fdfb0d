"""What makes reading fast, and what bounds it, must not change what is read."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoinstr.model import Batch, Resource
from autoinstr.wire import DecodeError, jaeger, jaeger_read, jaeger_structs, protobuf, thrift, thrift_varints

from . import cases, strategies


def facts_of(batch: Batch) -> object:
    """Everything that a batch says, to be compared."""
    spans = [
        [repr(getattr(span, name)) for name in span.__slots__] + [[event.attributes for event in span.events or ()]]
        for span in batch.spans
    ]
    return repr((batch.resource, batch.sequence, batch.lost, spans))


def long_way(data: bytes) -> Batch:
    reader = thrift.CompactReader(data)
    if reader.message_name() != b"emitBatch":
        raise DecodeError
    return jaeger_structs.batch_of(jaeger_structs.child(reader.struct(), 1))


def outcome(decode: Callable[[bytes], Batch], data: bytes) -> object:
    try:
        return facts_of(decode(data))
    except DecodeError:
        return "refused"


@settings(max_examples=60, deadline=None)
@given(st.lists(strategies.spans(), min_size=1, max_size=6))
def test_the_short_way_reads_what_the_long_way_reads(spans) -> None:
    """Two readers of one format that disagree would show different traces for the same bytes."""
    payloads, _ = jaeger.CompactEncoder(Resource("service", {"a": 1, "b": "x"})).encode(spans, (1, 2, 3))
    for payload, _ in payloads:
        assert jaeger_read._short_batch(payload, 14, 1)[0] is not None
        assert outcome(jaeger.decode_message, payload) == outcome(long_way, payload)


def damaged(payload: bytes, number: int) -> Iterator[bytes]:
    dice = random.Random(number)
    for at in range(len(payload)):
        for byte in (0, 0x15, 0x19, 0x25, 0x7F, 0x80, 0xFF, payload[at] ^ 1, dice.randrange(256)):
            yield payload[:at] + bytes((byte,)) + payload[at + 1 :]
    for _ in range(1000):
        start = dice.randrange(len(payload))
        end = min(start + dice.randrange(1, 12), len(payload))
        yield payload[:start] + dice.choice((b"", payload[start:end] * 2, dice.randbytes(3))) + payload[end:]


def test_the_short_way_refuses_what_the_long_way_refuses() -> None:
    """A datagram that is damaged a little is either refused or means one thing."""
    encoder = jaeger.CompactEncoder(cases.RESOURCE)
    spans = [cases.span(), cases.span("other", attributes={"t": True, "n": -7, "f": 1.5, "s": "é" * 80})]
    [(payload, _)], _ = encoder.encode(spans, (1, 2, 3))
    for data in damaged(payload, 1):
        assert outcome(jaeger.decode_message, data) == outcome(long_way, data), data.hex()


def test_processes_that_begin_alike_are_told_apart() -> None:
    """Replicas differ in one tag near the end; taken for one, all traces would seem to come from one host."""
    common = {f"tag-{number}": "x" * 20 for number in range(20)}
    names = []
    for host in ("one", "two", "one", "three"):
        [(payload, _)], _ = jaeger.CompactEncoder(Resource("service", {**common, "host": host})).encode([cases.span()])
        names.append(jaeger.decode_message(payload).resource.attributes["host"])
    assert names == ["one", "two", "one", "three"]


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=40))
def test_varints_side_by_side(numbers: list[int]) -> None:
    """A bit of one number in another would make ids up."""
    read = thrift_varints.zigzags([thrift.zigzag_varint(number) for number in numbers], 6)
    assert list(read[: len(numbers)]) == [number & (1 << 64) - 1 for number in numbers]


def test_varints_of_more_than_64_bits_are_refused() -> None:
    """As one by one."""
    with pytest.raises(DecodeError):
        thrift_varints.zigzags([b"\x00", b"\xff" * 9 + b"\x7f"], 6)


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "binary"])
def test_skimming(compact: bool) -> None:
    """What cannot be taken is counted for its service, without the time to read it."""
    spans = [cases.span() for _ in range(40)]
    if compact:
        [(payload, _)], _ = jaeger.CompactEncoder(cases.RESOURCE).encode(spans)
        skim = jaeger_read.skim_message
    else:
        [(payload, _)], _ = jaeger.BinaryEncoder(cases.RESOURCE).encode(spans)
        skim = jaeger_read.skim_batch
    assert skim(payload) == (cases.RESOURCE.service_name, 40)
    for end in range(0, len(payload) // 2, 7):
        try:
            skim(payload[:end])
        except DecodeError:
            continue


def nested(*fields: int) -> Callable[[bytes], bytes]:
    """A message within messages."""

    def wrap(inner: bytes) -> bytes:
        for field in reversed(fields):
            inner = protobuf.bytes_field(field, inner)
        return inner

    return wrap


STRUCT_OF_A_BOOL = b"\x02\0\x01\x01\0"
LISTS = nested(2)(nested(9)(b"\x0a\x01k" + nested(2, 5)(b"\x0a\x02\x2a\0" * 400_000)))
EMPTY_JSON = b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b"{}," * 400_000 + b"{}]}]}]}"
HUNGRY = [
    pytest.param("otlp.decode_protobuf", nested(1, 2)(b"\x12\0" * 1_000_000), id="empty spans"),
    pytest.param("otlp.decode_protobuf", b"\x0a\0" * 1_000_000, id="empty resources"),
    pytest.param("otlp.decode_protobuf", nested(1, 2, 2)(b"\x4a\0" * 3_000_000), id="a huge span"),
    pytest.param("otlp.decode_protobuf", nested(1, 2)(LISTS * 3), id="lists in lists"),
    pytest.param("otlp.decode_json", EMPTY_JSON, id="json"),
    pytest.param(
        "jaeger.decode_batch",
        b"\x0f\0\x09\x0c" + (600_000).to_bytes(4, "big") + STRUCT_OF_A_BOOL * 600_000,
        id="thrift structs",
    ),
]
#: Prints how many MB the process had at most. (``ru_maxrss`` would begin with what its parent had.)
MEASURE = """
import re, sys
from autoinstr.wire import TooLarge, jaeger, otlp
try:
    {decode}(sys.stdin.buffer.read())
except TooLarge:
    print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("decode", "payload"), HUNGRY)
def test_little_input_does_not_claim_much_memory(decode: str, payload: bytes) -> None:
    """Two bytes can stand for an object of hundreds: a few megabytes would end the process."""
    command = [sys.executable, "-c", MEASURE.format(decode=decode)]
    ended = subprocess.run(command, input=payload, capture_output=True, timeout=120, check=True)
    assert ended.stdout, "it was decoded"
    assert int(ended.stdout) < 400
