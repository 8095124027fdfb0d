"""One file of a SQLite store: the spans of some stretch of time, with all that is needed to search them.

Owns: the tables, opening and checking a file, connections for readers, the rows of one write.
Must not know: other partitions, limits, what a search means.
Invariants: a write is one transaction; readers never wait for the writer (WAL); at most one thread uses a connection at a
time; every error of SQLite comes out as ``PartitionError``.

The data survive a process that is killed at any moment: a commit has been handed to the operating system when it returns
(``synchronous=NORMAL`` spares the wait for the disk, so that a power failure may take the last commits, but not the file).
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any
from urllib.parse import quote

from autoinstr.backend.store import StoreError, Trace, spancodec
from autoinstr.model import Resource

#: "AITR", so that a file of something else is not taken for one of ours.
APPLICATION_ID = 0x41495452
SCHEMA_VERSION = 1
PAGE_BYTES = 8192
#: Names remembered with their numbers.
MAX_NAMES = 20_000
MAX_PARTS = 20_000
IDLE_READERS = 4
#: Numbers in one SQL statement; SQLite before 3.32 took 999.
VARIABLES = 500
WAIT_S = 10.0

SMALLEST, LARGEST = -(2**63), 2**63 - 1

TABLES = """
CREATE TABLE state (spans INTEGER NOT NULL, traces INTEGER NOT NULL, last INTEGER NOT NULL, created REAL NOT NULL,
    written REAL NOT NULL);
CREATE TABLE name (id INTEGER PRIMARY KEY, text BLOB NOT NULL UNIQUE);
CREATE TABLE part (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE segment (id INTEGER PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX segment_by_trace ON segment (low);
CREATE INDEX segment_by_time ON segment (last);
CREATE TABLE span_group (service INTEGER, operation INTEGER, last INTEGER, segment INTEGER, shortest INTEGER, longest INTEGER,
    PRIMARY KEY (service, operation, last, segment)) WITHOUT ROWID;
CREATE TABLE operation (service INTEGER, name INTEGER, kind INTEGER, spans INTEGER NOT NULL,
    PRIMARY KEY (service, name, kind)) WITHOUT ROWID;
CREATE TABLE call (minute INTEGER, parent INTEGER, child INTEGER, calls INTEGER NOT NULL, errors INTEGER NOT NULL,
    PRIMARY KEY (minute, parent, child)) WITHOUT ROWID;
CREATE TABLE rate (minute INTEGER, service INTEGER, operation INTEGER, kind INTEGER, calls INTEGER NOT NULL,
    errors INTEGER NOT NULL, duration INTEGER NOT NULL, buckets BLOB NOT NULL,
    PRIMARY KEY (minute, service, operation, kind)) WITHOUT ROWID;
"""
WORD_INDEX = (
    "CREATE VIRTUAL TABLE word USING fts5 (words, content='', detail=none, columnsize=0, tokenize='ascii')",
    # Merging little by little costs more than a search over a few more pieces.
    "INSERT INTO word (word, rank) VALUES ('automerge', 16)",
)


class PartitionError(StoreError):
    """SQLite's word on a partition. ``is_damaged``: the file itself is broken."""

    def __init__(self, partition: Partition, error: Exception) -> None:
        super().__init__(f"{os.path.basename(partition.path)}: {error}")
        self.partition = partition
        # "malformed" and "not a database" are plain DatabaseErrors; whatever may pass has a class of its own.
        self.is_damaged = type(error) is sqlite3.DatabaseError


@cache
def has_word_index() -> bool:
    """Whether this build of SQLite has FTS5."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(WORD_INDEX[0])
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def signed(number: int) -> int:
    """The lower 64 bits as SQLite's integers have them."""
    number &= 2**64 - 1
    return number - 2**64 if number >> 63 else number


def clamped(number: int) -> int:
    """The nearest integer that SQLite can take: clocks and searches may say anything."""
    return max(SMALLEST, min(number, LARGEST))


def chunks(numbers: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
    """``("?,?,?", numbers)`` in pieces that fit into a statement."""
    for start in range(0, len(numbers), VARIABLES):
        piece = numbers[start : start + VARIABLES]
        yield ",".join("?" * len(piece)), piece


class Reader:
    """A connection for questions, of one thread at a time."""

    def __init__(self, partition: Partition, connection: sqlite3.Connection) -> None:
        self.partition = partition
        self.connection = connection

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of an answer, as SQLite finds them."""
        try:
            # Not ``yield from``: it would close the cursor when nobody asks on, which fails when the connection went first.
            for row in self.connection.execute(sql, parameters):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise PartitionError(self.partition, error) from error

    def first(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of an answer, or None."""
        return next(self.rows(sql, parameters), None)

    def number(self, name: str) -> int | None:
        """The number of a name that this partition knows."""
        row = self.first("SELECT id FROM name WHERE text = ?", (blob_of(name),))
        return row[0] if row else None

    def name(self, number: int) -> str:
        """The name with that number."""
        return self.partition.name_of(self, number)

    def segment(self, number: int, unless: Container[int] = ()) -> Trace:
        """The spans of a segment; none when it is of one of the traces ``unless``. CodecError."""
        low, high, data = self.first("SELECT low, high, data FROM segment WHERE id = ?", (number,))
        trace_id = _trace_id(low, high)
        return [] if trace_id in unless else self._decoded(trace_id, data)

    def spans_of(self, trace_ids: Sequence[int], most: float = float("inf")) -> Iterator[Trace]:
        """The segments of traces, in order of arrival, at most so many of each; what cannot be read is counted."""
        left = dict.fromkeys(trace_ids, most)
        for marks, lows in chunks([signed(trace_id) for trace_id in trace_ids]):
            sql = f"SELECT low, high, data FROM segment WHERE low IN ({marks}) ORDER BY id"  # noqa: S608
            for low, high, data in self.rows(sql, lows):
                trace_id = _trace_id(low, high)
                if left.get(trace_id, 0) > 0:
                    left[trace_id] -= 1
                    try:
                        yield self._decoded(trace_id, data)
                    except spancodec.CodecError:
                        self.partition.unreadable_segments += 1

    def _decoded(self, trace_id: int, data: bytes) -> Trace:
        return spancodec.decode(trace_id, data, lambda number: self.partition.shape_of(self, number))

    def part(self, number: int) -> bytes:
        """A part as it was written; CodecError when it is not there."""
        row = self.first("SELECT data FROM part WHERE id = ?", (number,))
        if row is None:
            raise spancodec.CodecError(f"part {number} is missing")
        data: bytes = row[0]
        return data


class Partition:
    """One file. ``open`` finds or makes it; ``write`` is for one thread; ``reader`` for any number."""

    def __init__(self, path: str, *, has_words: bool) -> None:
        self.path = path
        self.has_words = has_words
        self.created_s = self.written_s = 0.0
        self.spans = self.traces = 0
        self.last_slot = SMALLEST
        self.unreadable_segments = 0
        #: Nobody asks it any more: it is gone, or about to go.
        self.is_retired = False
        self.is_damaged = False
        self._lock = threading.Lock()
        self._idle: list[Reader] = []
        self._shapes: dict[int, spancodec.Shape] = {}
        self._resources: dict[int, Resource] = {}
        self._names: dict[int, str] = {}

    # ---- Files ------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str) -> Partition:
        """An existing file; PartitionError when it is damaged, StoreError when it is not of this version."""
        partition = cls(path, has_words=False)
        try:
            with partition.reader() as reader:
                partition._read_state(reader)
        except StoreError:
            partition.retire()
            raise
        return partition

    def _read_state(self, reader: Reader) -> None:
        application, version = (reader.first(f"PRAGMA {name}")[0] for name in ("application_id", "user_version"))
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version of autoinstr (format {version}, known here: {SCHEMA_VERSION}); "
                "use that version, or another folder"
            )
        state = reader.first("SELECT spans, traces, last, created, written FROM state") if application else None
        if application != APPLICATION_ID or state is None:
            raise PartitionError(self, sqlite3.DatabaseError("not a partition of autoinstr"))
        self.spans, self.traces, self.last_slot, self.created_s, self.written_s = state
        self.has_words = reader.first("SELECT 1 FROM sqlite_master WHERE name = 'word'") is not None

    @classmethod
    def create(cls, path: str, now_s: float) -> Partition:
        """A new file; StoreError when that is not possible."""
        has_words = has_word_index()
        unfinished = f"{path}.new"
        try:
            _remove(unfinished)
            connection = sqlite3.connect(unfinished, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("BEGIN IMMEDIATE")
                for statement in (*TABLES.split(";")[:-1], *(WORD_INDEX if has_words else ())):
                    connection.execute(statement)
                connection.execute("INSERT INTO state VALUES (0, 0, ?, ?, ?)", (SMALLEST, now_s, now_s))
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            # Whoever is killed before this leaves nothing that looks like a partition.
            os.replace(unfinished, path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot create {path}: {error}") from error
        partition = cls(path, has_words=has_words)
        partition.created_s = partition.written_s = now_s
        return partition

    @property
    def has_usable_words(self) -> bool:
        """Whether there is a word index, and this build of SQLite can read it."""
        return self.has_words and has_word_index()

    @property
    def aside_path(self) -> str:
        """Where the file is when it was set aside."""
        return f"{self.path}.damaged"

    def size(self) -> int:
        """Bytes on disk."""
        return _file_size(self.path) + _file_size(f"{self.path}-wal")

    def retire(self) -> None:
        """Close the connections, those that are in use when they come back."""
        with self._lock:
            self.is_retired = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.connection.close()

    def delete(self) -> None:
        """Remove the files; who is reading them goes on undisturbed."""
        self.retire()
        self._remove_log()
        _remove(self.path)

    def set_aside(self) -> None:
        """Keep a damaged file for whoever wants to look into it, out of our way."""
        self.retire()
        self._remove_log()
        os.replace(self.path, self.aside_path)

    def _remove_log(self) -> None:
        """Before the file itself: a log that were left alone would be taken for that of the next file of this name."""
        _remove(f"{self.path}-wal")
        _remove(f"{self.path}-shm")

    # ---- Reading ----------------------------------------------------------------------------------------

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A connection to ask questions with, for the time of the ``with``."""
        with self._lock:
            reader = self._idle.pop() if self._idle else None
        if reader is None:
            reader = self._new_reader()
        try:
            yield reader
        finally:
            with self._lock:
                is_kept = not self.is_retired and len(self._idle) < IDLE_READERS
                if is_kept:
                    self._idle.append(reader)
            if not is_kept:
                reader.connection.close()

    def _new_reader(self) -> Reader:
        connection = connect(self)
        try:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("PRAGMA mmap_size = 268435456")
        except sqlite3.Error as error:
            connection.close()
            raise PartitionError(self, error) from error
        return Reader(self, connection)

    def shape_of(self, reader: Reader, number: int) -> spancodec.Shape:
        """A shape by its number; CodecError."""
        shape = self._shapes.get(number)
        if shape is None:
            if len(self._shapes) >= MAX_PARTS:
                self._shapes.clear()
            shape = spancodec.decode_shape(reader.part(number), lambda part: self._resource_of(reader, part))
            self._shapes[number] = shape
        return shape

    def _resource_of(self, reader: Reader, number: int) -> Resource:
        resource = self._resources.get(number)
        if resource is None:
            if len(self._resources) >= MAX_PARTS:
                self._resources.clear()
            resource = self._resources[number] = spancodec.decode_resource(reader.part(number))
        return resource

    def name_of(self, reader: Reader, number: int) -> str:
        """A name by its number."""
        name = self._names.get(number)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            row = reader.first("SELECT text FROM name WHERE id = ?", (number,))
            name = self._names[number] = text_of(row[0]) if row else ""
        return name


def stored_buckets(buckets: Mapping[int, int]) -> bytes:
    """The buckets of a rate as they are stored: buckets and counts in turn."""
    return struct.pack(f"<{2 * len(buckets)}q", *chain.from_iterable(buckets.items()))


def buckets_of(stored: bytes) -> Mapping[int, int]:
    """The buckets of a rate as they were."""
    flat = struct.unpack(f"<{len(stored) // 8}q", stored)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _trace_id(low: int, high: int) -> int:
    return (high & 2**64 - 1) << 64 | low & 2**64 - 1


def blob_of(text: str) -> bytes:
    """A name as it is stored."""
    # As bytes, since SQLite's text can hold neither halves of pairs nor, everywhere, a NUL.
    return text.encode("utf-8", "surrogatepass")


def text_of(blob: bytes) -> str:
    """A name as it was."""
    return blob.decode("utf-8", "surrogatepass")


def connect(partition: Partition) -> sqlite3.Connection:
    """A connection to an existing file; PartitionError."""
    # Without mode=rw a file that was deleted meanwhile would come into being again, empty.
    uri = f"file:{quote(os.path.abspath(partition.path))}?mode=rw"
    try:
        return sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise PartitionError(partition, error) from error


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
