"""Records on disk that wait to be sent: appended, read in order, forgotten; the oldest make room for new ones.

Owns: the segment files and their form, the mark up to which records were sent, the lock of the folder, eviction.
Must not know: spans, wire formats, sockets: a record is a kind, bytes, and how many spans of which service they hold.
Invariants: what ``append`` has returned for outlives the process (a kill in the next instant, too; only a power failure may
take the last moments); the files together are never larger than ``max_bytes``; records leave in the order in which they came;
what a damaged file holds is skipped and counted, never sent and never an error.

A segment file is a magic word and records. A record is its header (lengths of label and payload, kind, check sum), a label
(JSON: spans by service) and the payload. A process only appends to segments that it began itself, so that a record that was
torn by a kill is always the end of its file.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes out of one folder there.
    fcntl = None  # type: ignore[assignment]

MAGIC = b"aispool1"
#: Lengths of label and payload, kind, CRC-32 of these three fields, the label and the payload.
_HEADER = struct.Struct(">IIII")
_CHECKED_FIELDS = struct.Struct(">III")
#: Segment and offset up to which everything was sent, and their CRC-32.
_MARK = struct.Struct(">QQI")
_SUFFIX = ".spool"
#: Eviction takes whole segments, so there must be several; but a file for a handful of records is a waste.
SEGMENTS = 16
LARGEST_SEGMENT_BYTES = 8 * 2**20
SMALLEST_SPOOL_BYTES = 64 * 2**10
#: Evicted spans are counted by service for so many services; those of the others are counted together.
MAX_SERVICES = 1000
OTHER_SERVICES = "(other services)"


class SpoolError(Exception):
    """The folder cannot be used, or takes nothing more; in a sentence for whoever named it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be sent: how it is encoded, its bytes, and its spans by service."""

    kind: int
    payload: bytes
    spans: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Record:
    """An entry in its place: ``end`` is the offset behind it in ``segment``."""

    entry: Entry
    segment: int
    end: int


@dataclass(slots=True)
class _Segment:
    path: str
    size: int
    #: Spans by service in the records that were not sent yet.
    waiting: Counter[str] = field(default_factory=Counter)


class Spool:
    """A bounded queue of records in ``folder``, for one appending and one taking thread. ``SpoolError`` if it cannot be used."""

    def __init__(self, folder: str, max_bytes: int) -> None:
        if max_bytes < SMALLEST_SPOOL_BYTES:
            raise SpoolError(f"a spool needs {SMALLEST_SPOOL_BYTES} bytes at least, not {max_bytes}")
        self.folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(max_bytes // SEGMENTS, LARGEST_SEGMENT_BYTES)
        self._changed = threading.Condition()
        self._evicted: Counter[str] = Counter()
        self._damaged = 0
        self._is_closed = False
        self._taken: list[Record] = []
        self._active: FileIO | None = None
        self._reading: tuple[int, BinaryIO] | None = None
        self._lock_file, self._mark_file = _open_folder(folder)
        self._mark = _read_mark(self._mark_file)
        try:
            self._segments = _find_segments(folder, self._mark)
        except (OSError, SpoolError) as error:
            self._mark_file.close()
            self._lock_file.close()
            raise SpoolError(f"cannot read what waits in {folder}: {error}") from error
        self._next_number = max([*self._segments, self._mark[0]], default=0) + 1

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep all entries, or none and a ``SpoolError`` (a full disk); the oldest make room, entries of this call, too."""
        frames = [(_frame(entry), entry.spans) for entry in entries]
        with self._changed:
            for spans in _too_many(frames, self._max_bytes - len(MAGIC)):
                self._count_evicted(spans)
            data = b"".join([frame for frame, _ in frames])
            if not data:
                return
            try:
                segment = self._room_for(len(data))
                self._write(segment, data)
            except OSError as error:
                raise SpoolError(f"cannot keep spans in {self.folder}: {error.strerror}") from error
            for _, spans in frames:
                segment.waiting.update(spans)
            self._changed.notify_all()

    def take(self, max_records: int, max_bytes: int, timeout_s: float) -> list[Record]:
        """The oldest records of one kind, together at most ``max_bytes`` unless the first is larger; none after ``timeout_s``.

        They stay in the spool until ``done`` is told; until then, or until ``give_back``, nothing else may be taken.
        """
        with self._changed:
            records = self._read(max_records, max_bytes)
            if not records and timeout_s > 0 and not self._is_closed:
                self._changed.wait(timeout_s)
                records = self._read(max_records, max_bytes)
            self._taken = records
            return records

    def done(self) -> None:
        """Forget what was taken: it has been sent, or will never be."""
        with self._changed:
            if self._is_closed:
                return  # The sender was still waiting for an answer; what it has sent is sent once more next time.
            taken, self._taken = self._taken, []
            for record in taken:
                segment = self._segments.get(record.segment)
                if segment is not None:
                    segment.waiting.subtract(record.entry.spans)
                    self._mark = record.segment, record.end
            self._write_mark()
            self._drop_sent()

    def give_back(self) -> None:
        """What was taken could not be sent; it is taken again next time, unless it made room meanwhile."""
        with self._changed:
            for record in self._taken:
                if record.segment not in self._segments:
                    self._count_evicted(record.entry.spans)
            self._taken = []

    def wake(self) -> None:
        """End the waiting of a ``take``."""
        with self._changed:
            self._changed.notify_all()

    def evicted(self) -> dict[str, int]:
        """Spans that made room for newer ones, by service."""
        with self._changed:
            return dict(self._evicted)

    def figures(self) -> dict[str, int]:
        """Gauges and counters by name."""
        with self._changed:
            return {
                "forward_waiting_spans": sum([segment.waiting.total() for segment in self._segments.values()]),
                "forward_waiting_bytes": self._size(),
                "forward_evicted_spans_total": sum(self._evicted.values()),
                "forward_damaged_segments_total": self._damaged,
            }

    def close(self) -> None:
        """Let go of the folder; what waits is found again by the next one who opens it."""
        with self._changed:
            self._is_closed = True
            self._close_active()
            self._close_reading()
            self._mark_file.close()
            self._lock_file.close()

    # Writing

    def _room_for(self, size: int) -> _Segment:
        """The segment to append ``size`` bytes to, after what is too old has gone."""
        active = self._segments.get(self._next_number - 1) if self._active is not None else None
        is_full = active is None or active.size + size > self._segment_bytes
        while self._segments and self._size() + size + (len(MAGIC) if is_full else 0) > self._max_bytes:
            oldest = next(iter(self._segments))
            is_full = is_full or self._segments[oldest] is active
            self._evict(oldest)
        if is_full or active is None:
            active = self._begin_segment()
        return active

    def _begin_segment(self) -> _Segment:
        self._close_active()
        path = os.path.join(self.folder, f"{self._next_number:020d}{_SUFFIX}")
        self._active = open(path, "xb", buffering=0)  # noqa: SIM115 - it stays open until the segment is full
        segment = _Segment(path, 0)
        number, self._next_number = self._next_number, self._next_number + 1
        self._segments[number] = segment
        try:
            self._write(segment, MAGIC)
        except OSError:
            self._remove(number)
            raise
        self._drop_sent()
        return segment

    def _write(self, segment: _Segment, data: bytes) -> None:
        assert self._active is not None  # noqa: S101 - the caller has just got its segment
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._active.write(rest) or 0 :]
        except OSError:
            # The disk is full, perhaps: half a record would hide those that follow it. A new segment follows, in any case.
            with contextlib.suppress(OSError):
                self._active.truncate(segment.size)
            self._close_active()
            raise
        segment.size += len(data)

    def _close_active(self) -> None:
        if self._active is not None:
            self._active.close()
            self._active = None

    # Reading

    def _read(self, max_records: int, max_bytes: int) -> list[Record]:
        """The records that follow the mark."""
        found: list[Record] = []
        number, offset = self._start()
        while len(found) < max_records and number in self._segments and not self._is_closed:
            entry, end = self._entry_at(number, offset)
            if entry is None:
                if found:
                    break
                if not self._forget_rest(number):
                    return []
                number, offset = self._start()
                continue
            max_bytes -= len(entry.payload)
            if found and (max_bytes < 0 or entry.kind != found[0].entry.kind):
                break
            found.append(Record(entry, number, end))
            offset = end
        return found

    def _start(self) -> tuple[int, int]:
        """Segment and offset of the oldest record that was not sent."""
        number, offset = self._mark
        if number in self._segments:
            return number, max(offset, len(MAGIC))
        return next(iter(self._segments), 0), len(MAGIC)

    def _entry_at(self, number: int, offset: int) -> tuple[Entry | None, int]:
        """The entry at an offset and the offset behind it; no entry at the end, and where the file is damaged."""
        if offset >= self._segments[number].size:
            return None, offset
        if self._reading is None or self._reading[0] != number:
            self._close_reading()
            try:
                self._reading = number, open(self._segments[number].path, "rb")  # noqa: SIM115 - closed with its segment
            except OSError:
                return None, offset
        return _read_entry(self._reading[1], offset, self._segments[number].size)

    def _forget_rest(self, number: int) -> bool:
        """Go on behind a segment of which nothing more can be read; False when that is the last one and may still grow."""
        segment = self._segments[number]
        if self._start()[1] < segment.size:
            self._damaged += 1
            self._count_evicted(+segment.waiting)
        elif self._active is not None and number == self._next_number - 1:
            return False
        self._remove(number)
        return True

    def _drop_sent(self) -> None:
        """Delete segments all of whose records were sent, but not the one that is being written to."""
        while self._segments:
            number, offset = self._start()
            if offset < self._segments[number].size or (self._active is not None and number == self._next_number - 1):
                return
            self._remove(number)

    def _evict(self, number: int) -> None:
        """Delete a segment. What of it is just being sent may still arrive: ``give_back`` counts it if it does not."""
        waiting = self._segments[number].waiting
        for record in self._taken:
            if record.segment == number:
                waiting.subtract(record.entry.spans)
        self._count_evicted(+waiting)
        self._remove(number)

    def _count_evicted(self, spans: Mapping[str, int]) -> None:
        for service, count in spans.items():
            # Names are the senders' choice: endless new ones must not fill the memory.
            known = service in self._evicted or len(self._evicted) < MAX_SERVICES
            self._evicted[service if known else OTHER_SERVICES] += count

    def _remove(self, number: int) -> None:
        if self._active is not None and number == self._next_number - 1:
            self._close_active()
        if self._reading is not None and self._reading[0] == number:
            self._close_reading()
        segment = self._segments.pop(number)
        with contextlib.suppress(OSError):  # Gone already, or it is found again at the next start, before the mark.
            os.unlink(segment.path)

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def _write_mark(self) -> None:
        """Without it (a full disk) some records would be sent twice after a restart, which collectors can bear."""
        with contextlib.suppress(OSError):
            self._mark_file.seek(0)
            self._mark_file.write(_MARK.pack(*self._mark, zlib.crc32(b"%d %d" % self._mark)))

    def _size(self) -> int:
        return sum([segment.size for segment in self._segments.values()])


def _frame(entry: Entry) -> bytes:
    label = json.dumps(dict(entry.spans)).encode()
    return _HEADER.pack(len(label), len(entry.payload), entry.kind, _checksum(entry.kind, label, entry.payload)) + (
        label + entry.payload
    )


def _checksum(kind: int, label: bytes, payload: bytes) -> int:
    start = zlib.crc32(_CHECKED_FIELDS.pack(len(label), len(payload), kind))
    return zlib.crc32(payload, zlib.crc32(label, start))


def _too_many(frames: list[tuple[bytes, Mapping[str, int]]], max_bytes: int) -> list[Mapping[str, int]]:
    """Remove what does not fit even into an empty spool, the oldest first; the spans of what was removed."""
    removed = []
    size = sum([len(frame) for frame, _ in frames])
    while size > max_bytes:
        frame, spans = frames.pop(0)
        size -= len(frame)
        removed.append(spans)
    return removed


def _read_entry(file: BinaryIO, offset: int, size: int) -> tuple[Entry | None, int]:
    try:
        file.seek(offset)
        header = _read_header(file, offset, size)
        if header is None:
            return None, offset
        label_length, payload_length, kind, checksum = header
        label, payload = file.read(label_length), file.read(payload_length)
        if checksum != _checksum(kind, label, payload):
            return None, offset
        return Entry(kind, payload, json.loads(label)), offset + _HEADER.size + label_length + payload_length
    except (OSError, ValueError):
        return None, offset


def _read_header(file: BinaryIO, offset: int, size: int) -> tuple[int, int, int, int] | None:
    """A header, unless it is torn, or promises more than the file holds."""
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        return None
    label_length, payload_length, kind, checksum = _HEADER.unpack(data)
    if offset + _HEADER.size + label_length + payload_length > size:
        return None
    return label_length, payload_length, kind, checksum


# Opening


def _open_folder(folder: str) -> tuple[BinaryIO, FileIO]:
    """The locked file of the folder, and the one with the mark. Spans are nobody else's business: only the owner may read."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        lock_file = open(os.path.join(folder, "lock"), "wb")  # noqa: SIM115 - holds the lock as long as it is open
    except OSError as error:
        raise SpoolError(f"cannot use the folder {folder} for spans that wait: {error.strerror}") from error
    try:
        if fcntl is not None:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark = os.path.join(folder, "sent")
        return lock_file, open(mark, "r+b" if os.path.exists(mark) else "w+b", buffering=0)
    except BlockingIOError as error:
        lock_file.close()
        raise SpoolError(f"another process uses the folder {folder}; give each its own") from error
    except OSError as error:
        lock_file.close()
        raise SpoolError(f"cannot use the folder {folder} for spans that wait: {error.strerror}") from error


def _read_mark(file: FileIO) -> tuple[int, int]:
    data = file.read(_MARK.size) or b""
    if len(data) == _MARK.size:
        number, offset, checksum = _MARK.unpack(data)
        if checksum == zlib.crc32(b"%d %d" % (number, offset)):
            return number, offset
    return 0, 0


def _find_segments(folder: str, mark: tuple[int, int]) -> dict[int, _Segment]:
    """What an earlier process has left, in order; files that were sent altogether are deleted."""
    found: dict[int, _Segment] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix != _SUFFIX or not stem.isdecimal():
            continue
        path = os.path.join(folder, name)
        if int(stem) < mark[0]:
            os.unlink(path)
            continue
        start = mark[1] if int(stem) == mark[0] else len(MAGIC)
        found[int(stem)] = _scan(path, max(start, len(MAGIC)))
    return found


def _scan(path: str, start: int) -> _Segment:
    """A segment up to its last whole record, without a look at the payloads."""
    size = os.path.getsize(path)
    segment = _Segment(path, min(start, size))
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
        if len(magic) == len(MAGIC) and magic != MAGIC:
            raise SpoolError(f"{path} was written by another version of this program; move it away")
        for end, spans in _labels(file, start, size):
            segment.size = end
            segment.waiting.update(spans)
    return segment


def _labels(file: BinaryIO, offset: int, size: int) -> Iterator[tuple[int, dict[str, int]]]:
    """The end and the label of each record from ``offset`` on."""
    while offset < size:
        file.seek(offset)
        header = _read_header(file, offset, size)
        if header is None:
            return
        try:
            spans = json.loads(file.read(header[0]))
        except ValueError:
            spans = {}  # Damaged: it is noticed when the record is read.
        offset += _HEADER.size + header[0] + header[1]
        yield offset, spans if isinstance(spans, dict) else {}
