"""What the agent on a host sends: batches as payloads of OTLP or of Jaeger's binary Thrift, of sizes that collectors take.

Owns: the sizes, what is put together and what must stay apart, and what of a batch goes on beside its spans.
Must not know: files, sockets, the clock.
Invariants: no payload holds more than ``batch_spans`` spans, nor more than ``MAX_PAYLOAD_BYTES`` unless it is a single span;
the spans of one resource keep their order; an entry of the other format, left by an earlier run, is translated.

What the formats have no room for: OTLP carries neither a client's batch numbers nor its counts of lost spans, nor Jaeger's
debug and firehose flags. Jaeger's Thrift carries all of these, so batches that have numbers or losses are sent on one by one;
it rounds times to microseconds and has no attributes on links.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from autoinstr.backend.forward.spool import Entry, Record
from autoinstr.model import Batch, Resource, SpanData
from autoinstr.wire import jaeger, otlp, protobuf
from autoinstr.wire.values import printable, utf8

#: A payload that is larger is cut in halves, down to single spans: proxies and collectors have limits (gRPC's is 4 MiB).
MAX_PAYLOAD_BYTES = 4 * 2**20
#: Records that are sent together at most, once everything goes well.
MAX_JOINED = 64
#: Resources whose encoders, with what they remember, are kept.
MAX_ENCODERS = 16

#: ``([(payload, spans in it), ...], spans that cannot be encoded)``
_Payloads: TypeAlias = tuple[list[tuple[bytes, int]], int]
#: Encodes some spans of a batch, and is told whether they are its first ones.
_Encode: TypeAlias = Callable[[Sequence[SpanData], bool], _Payloads]
_AnyEncoder = TypeVar("_AnyEncoder")


class Wire(Protocol):
    """A format: batches to entries of the spool, and entries to requests. ``max_joined`` records become one request."""

    kind: int
    content_type: str
    max_joined: int

    def entries(self, batches: Sequence[Batch]) -> tuple[list[Entry], int]:
        """Batches as entries, and how many spans cannot be encoded."""

    def requests(self, records: Sequence[Record]) -> list[bytes]:
        """The bodies to send for some records; ``DecodeError`` when a record of another format cannot be read."""

    def rejected(self, answer: bytes) -> int:
        """How many spans of an accepted request the collector says that it refused."""


class _OtlpEncoder(otlp.ProtobufEncoder):
    """Keeps the names of scopes as they came, instead of marking them as instruments of ours."""

    def encode_some(self, spans: Sequence[SpanData], _is_first: bool) -> _Payloads:
        return self.encode(spans)

    def _scope_spans(self, name: str, pieces: list[bytes]) -> bytes:
        scope = protobuf.bytes_field(1, utf8(printable(name)))
        return protobuf.bytes_field(2, protobuf.bytes_field(1, scope) + b"".join(pieces))


class _JaegerEncoder(jaeger.BinaryEncoder):
    """Keeps attributes as they came: what has its second, older name already would go on with that name twice."""

    has_aliases = False

    def encode_some_of(self, batch: Batch, spans: Sequence[SpanData], is_first: bool) -> _Payloads:
        """Some spans of a batch; the first ones with its number and its losses, so that nobody counts them twice."""
        if not is_first or not _is_numbered(batch):
            return self.encode(spans, None)
        if batch.sequence is not None:
            self._sequence = batch.sequence - 1
        return self.encode(spans, batch.lost or (0, 0, 0))


class OtlpWire:
    """OTLP in protobuf: requests are lists of batches, so that they can be joined by putting one behind the other."""

    kind = 1
    content_type = otlp.ProtobufEncoder.content_type
    max_joined = MAX_JOINED

    def __init__(self, batch_spans: int) -> None:
        self._batch_spans = batch_spans
        self._encoders = _Encoders(_OtlpEncoder)
        self._reader = otlp.ProtobufEncoder(Resource(""))

    def entries(self, batches: Sequence[Batch]) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        bad = 0
        for resource, spans in _by_resource(batches):
            encode = self._encoders.of(resource).encode_some
            payloads, unencodable = _encode(encode, spans, self._batch_spans)
            entries += [Entry(self.kind, payload, {resource.service_name: count}) for payload, count in payloads]
            bad += unencodable
        return list(self._joined(entries)), bad

    def _joined(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Fewer and larger entries, for what came in many small batches."""
        payloads: list[bytes] = []
        spans: Counter[str] = Counter()
        size = 0
        for entry in entries:
            count = sum(entry.spans.values())
            is_full = size + len(entry.payload) > MAX_PAYLOAD_BYTES or spans.total() + count > self._batch_spans
            if payloads and is_full:
                yield Entry(self.kind, b"".join(payloads), dict(spans))
                payloads, spans, size = [], Counter(), 0
            payloads.append(entry.payload)
            spans.update(entry.spans)
            size += len(entry.payload)
        if payloads:
            yield Entry(self.kind, b"".join(payloads), dict(spans))

    def requests(self, records: Sequence[Record]) -> list[bytes]:
        return [b"".join([entry.payload for record in records for entry in self._own(record.entry)])]

    def _own(self, entry: Entry) -> list[Entry]:
        return [entry] if entry.kind == self.kind else self.entries([jaeger.decode_batch(entry.payload)])[0]

    def rejected(self, answer: bytes) -> int:
        return self._reader.rejected(answer)


class JaegerWire:
    """Jaeger's binary Thrift: one batch a request. A batch that brings its number or its losses goes on as it is."""

    kind = 2
    content_type = jaeger.BinaryEncoder.content_type
    max_joined = 1

    def __init__(self, batch_spans: int) -> None:
        self._batch_spans = batch_spans
        self._encoders = _Encoders(_JaegerEncoder)

    def entries(self, batches: Sequence[Batch]) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        bad = 0
        numbered = [batch for batch in batches if _is_numbered(batch)]
        others = _by_resource([batch for batch in batches if not _is_numbered(batch)])
        for batch in numbered + [Batch(resource, spans) for resource, spans in others]:
            encode = partial(self._encoders.of(batch.resource).encode_some_of, batch)
            payloads, unencodable = _encode(encode, batch.spans, self._batch_spans)
            entries += [Entry(self.kind, payload, {batch.resource.service_name: count}) for payload, count in payloads]
            bad += unencodable
        return entries, bad

    def requests(self, records: Sequence[Record]) -> list[bytes]:
        return [entry.payload for record in records for entry in self._own(record.entry)]

    def _own(self, entry: Entry) -> list[Entry]:
        return [entry] if entry.kind == self.kind else self.entries(otlp.decode_protobuf(entry.payload))[0]

    def rejected(self, answer: bytes) -> int:
        return 0


class _Encoders(Generic[_AnyEncoder]):
    """An encoder for each of the resources that were seen last: what an encoder remembers is what makes it fast."""

    def __init__(self, make: Callable[[Resource], _AnyEncoder]) -> None:
        self._make = make
        self._kept: OrderedDict[str, _AnyEncoder] = OrderedDict()

    def of(self, resource: Resource) -> _AnyEncoder:
        key = _resource_key(resource)
        encoder = self._kept.get(key)
        if encoder is None:
            encoder = self._kept[key] = self._make(resource)
            if len(self._kept) > MAX_ENCODERS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return encoder


def _resource_key(resource: Resource) -> str:
    return f"{resource.service_name!r}{resource.attributes!r}"


def _by_resource(batches: Sequence[Batch]) -> list[tuple[Resource, list[SpanData]]]:
    """The spans of equal resources together, each list in order."""
    found: dict[str, tuple[Resource, list[SpanData]]] = {}
    for batch in batches:
        found.setdefault(_resource_key(batch.resource), (batch.resource, []))[1].extend(batch.spans)
    return list(found.values())


def _is_numbered(batch: Batch) -> bool:
    return batch.sequence is not None or batch.lost is not None


def _encode(encode: _Encode, spans: Sequence[SpanData], batch_spans: int) -> _Payloads:
    """Payloads of at most ``batch_spans`` spans; ``encode`` gets some of the spans, and whether they are the first ones."""
    payloads: list[tuple[bytes, int]] = []
    bad = 0
    for start in range(0, len(spans), batch_spans):
        more, unencodable = _encode_halves(encode, spans[start : start + batch_spans], start == 0)
        payloads += more
        bad += unencodable
    return payloads, bad


def _encode_halves(encode: _Encode, spans: Sequence[SpanData], is_first: bool) -> _Payloads:
    """Payloads of at most ``MAX_PAYLOAD_BYTES``, but for single spans that are larger."""
    payloads, bad = encode(spans, is_first)
    if len(spans) == 1 or all(len(payload) <= MAX_PAYLOAD_BYTES for payload, _ in payloads):
        return payloads, bad
    half = len(spans) // 2
    left, bad_left = _encode_halves(encode, spans[:half], is_first)
    right, bad_right = _encode_halves(encode, spans[half:], False)
    return left + right, bad_left + bad_right
