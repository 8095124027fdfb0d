"""Spans on disk: a store in a folder, in SQLite files of which the oldest make room for new spans.

Owns: the folder and its lock, which partition is written to, limits, the archive, what happens to a damaged file.
Must not know: the tables (``sqlite_partition``), how a search goes (``sqlite_search``).
Invariants: when ``write`` returns, a process that is killed loses nothing; readers never wait for the writer; the folder is
no larger than ``max_bytes`` (without the archive) after each write, unless a single write is.

To forget is to delete a file, which takes milliseconds and gives the disk back; deleting rows would take seconds and would not.
"""

from __future__ import annotations

import glob
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from autoinstr.backend import log
from autoinstr.backend.store import (
    Dependency,
    Identity,
    Rate,
    RateKey,
    RateSum,
    StoreError,
    Trace,
    TraceQuery,
    identity,
    sorted_rates,
    sqlite_search,
    summed_calls,
)
from autoinstr.backend.store.calls import MINUTE_NS
from autoinstr.backend.store.segments import Recent
from autoinstr.backend.store.sqlite_partition import (
    PAGE_BYTES,
    Partition,
    PartitionError,
    Reader,
    buckets_of,
    chunks,
    clamped,
    has_word_index,
)
from autoinstr.backend.store.sqlite_writer import PartitionWriter
from autoinstr.model import Batch

DEFAULT_MAX_BYTES = 512 * 2**20
DEFAULT_MAX_AGE_S = 24 * 3600.0
DEFAULT_PARTITION_S = 3600.0
PARTITIONS = 8
LARGEST_PARTITION_BYTES = 256 * 2**20
SMALLEST_PARTITION_BYTES = 256 * 1024
LARGEST_WAL_PAGES = 4000
#: Segments of a trace that are read again when more of it comes: to know duplicates and parents, but not for ever.
MAX_REREAD_SEGMENTS = 256
ARCHIVE = "archive.db"

Answer = TypeVar("Answer")


class SqliteStore:
    """Keeps spans in ``folder``, which belongs to one process at a time.

    ``max_bytes`` and ``max_age_s`` (seconds since arrival) bound what is kept, to the file: a new file is begun after
    ``partition_bytes`` or ``partition_s`` seconds. Raises StoreError when the folder cannot be used.
    """

    def __init__(
        self,
        folder: str,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        partition_bytes: int | None = None,
        partition_s: float = DEFAULT_PARTITION_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        share = max(SMALLEST_PARTITION_BYTES, max_bytes // PARTITIONS)
        self._partition_bytes = partition_bytes or min(share, LARGEST_PARTITION_BYTES)
        # A file goes when its last span is too old, so that files have to be shorter than what is kept.
        self._partition_s = min(partition_s, max_age_s / 4)
        self._clock = clock
        self._write_lock = threading.RLock()
        self._recent = Recent()
        self._evicted: Counter[str] = Counter()
        self._writer: PartitionWriter | None = None
        #: The oldest first; the last is written to. Replaced, never changed, since readers walk it.
        self._partitions: tuple[Partition, ...] = ()
        self._archive: Partition | None = None
        self._damaged: list[str] = []
        self._last_number = 0
        self._lock_file = _lock(folder)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # ---- Writing ----------------------------------------------------------------------------------------

    def write(self, batches: Sequence[Batch]) -> None:
        with self._write_lock:
            self._keep_house()
            for _ in range(len(self._partitions)):
                try:
                    return self._write(batches)
                except PartitionError as error:
                    if not error.is_damaged:
                        raise
                    # A file is broken; the spans are not.
                    error.partition.is_damaged = True
                    self._keep_house()
            return self._write(batches)

    def _write(self, batches: Sequence[Batch]) -> None:
        try:
            self._recall(batches)
            writer = self._writer or self._begin_writing()
            flush = writer.build(batches, self._recent)
            if flush.segments:
                writer.write(flush, self._clock())
            self._recent.shrink()
        except BaseException:
            # What is remembered may now be more than what is stored.
            self._stop_writing()
            self._recent.clear()
            raise
        self._make_room()

    def _recall(self, batches: Sequence[Batch]) -> None:
        """Have in memory what is stored of the traces that more spans came for, as far as it is likely to matter."""
        missing = self._recent.missing({span.trace_id for batch in batches for span in batch.spans})
        for partition in self._partitions[-2:] if missing else ():
            with partition.reader() as reader:
                for stored in reader.spans_of(missing, most=MAX_REREAD_SEGMENTS):
                    self._recent.remember(stored)

    # ---- Asking -----------------------------------------------------------------------------------------

    def trace(self, trace_id: int) -> Trace:
        return self._ask(lambda: self._traces([trace_id])[0])

    def find(self, query: TraceQuery) -> list[Trace]:
        def search() -> list[Trace]:
            found = self._traces(sqlite_search.newest_traces(self._readable(), query))
            return [trace for trace in found if trace]

        return self._ask(search)

    def services(self) -> list[str]:
        sql = "SELECT DISTINCT service FROM operation"
        return sorted(
            self._ask(lambda: {reader.name(row[0]) for reader in self._readers() for row in reader.rows(sql)})
        )

    def operations(self, service: str) -> list[tuple[str, int]]:
        sql = "SELECT name, kind FROM operation WHERE service = ?"

        def ask() -> set[tuple[str, int]]:
            return {
                (reader.name(name), kind)
                for reader in self._readers()
                for name, kind in reader.rows(sql, (reader.number(service),))
            }

        return sorted(self._ask(ask))

    def dependencies(self, start_ns: int, end_ns: int) -> list[Dependency]:
        sql = "SELECT parent, child, sum(calls), sum(errors) FROM call WHERE minute BETWEEN ? AND ? GROUP BY parent, child"
        window = clamped(start_ns // MINUTE_NS), clamped(end_ns // MINUTE_NS)

        def ask() -> list[Dependency]:
            return summed_calls(
                ((reader.name(parent), reader.name(child)), calls, errors)
                for reader in self._readers()
                for parent, child, calls, errors in reader.rows(sql, window)
            )

        return self._ask(ask)

    def rates(self, services: Sequence[str], start_ns: int, end_ns: int) -> list[Rate]:
        window = clamped(start_ns // MINUTE_NS), clamped(end_ns // MINUTE_NS)

        def ask() -> list[Rate]:
            sums: dict[RateKey, RateSum] = {}
            for reader in self._readers():
                _add_rates(sums, reader, services, window)
            return sorted_rates(sums)

        return self._ask(ask)

    def figures(self) -> dict[str, int]:
        partitions, archive = self._readable(), self._archive
        return {
            "store_spans": sum(partition.spans for partition in partitions),
            "store_traces": sum(partition.traces for partition in partitions),
            "store_bytes": self._size(),
            "store_partitions": len(partitions),
            "store_archived_spans": archive.spans if archive else 0,
            "store_archived_bytes": archive.size() if archive else 0,
            "store_evicted_spans_total": sum(self._evicted.copy().values()),
            "store_unreadable_segments_total": sum(partition.unreadable_segments for partition in partitions),
            "store_damaged_files": len(self._damaged),
        }

    def evicted(self) -> dict[str, int]:
        return dict(self._evicted.copy())

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer of all partitions, asked again when one of them went away meanwhile."""
        while True:
            try:
                return question()
            except PartitionError as error:
                if error.is_damaged:
                    # The next write moves it out of the way; until then it is not asked any more.
                    error.partition.is_damaged = True
                elif not error.partition.is_retired:
                    raise

    def _readable(self) -> list[Partition]:
        """What can be asked, the oldest first."""
        return [partition for partition in self._partitions if not (partition.is_damaged or partition.is_retired)]

    def _readers(self) -> Iterator[Reader]:
        """A connection to each partition in turn, the oldest first."""
        for partition in self._readable():
            with partition.reader() as reader:
                yield reader

    def _traces(self, trace_ids: Sequence[int]) -> list[Trace]:
        """The traces with these ids, what is archived of them first."""
        traces: dict[int, Trace] = {trace_id: [] for trace_id in trace_ids}
        known: dict[int, set[Identity]] = {trace_id: set() for trace_id in trace_ids}
        archive = self._archive
        for partition in [*([archive] if archive and not archive.is_damaged else []), *self._readable()]:
            with partition.reader() as reader:
                for stored in reader.spans_of(trace_ids):
                    for resource, span in stored:
                        key = identity(resource.service_name, span)
                        if key not in known[span.trace_id]:
                            known[span.trace_id].add(key)
                            traces[span.trace_id].append((resource, span))
        return [traces[trace_id] for trace_id in trace_ids]

    # ---- Keeping and forgetting -------------------------------------------------------------------------

    def archive(self, trace_id: int) -> bool:
        with self._write_lock:
            trace = self.trace(trace_id)
            if not trace:
                return False
            archive = self._archive or Partition.create(os.path.join(self._folder, ARCHIVE), self._clock())
            self._archive = archive
            if archive.size() >= self._max_bytes:
                raise StoreError(f"the archive is full: it holds {archive.size()} bytes of at most {self._max_bytes}")
            with archive.reader() as reader:
                recent = Recent()
                for stored in reader.spans_of([trace_id]):
                    recent.remember(stored)
            writer = PartitionWriter(archive, LARGEST_WAL_PAGES)
            try:
                flush = writer.build([Batch(resource, [span]) for resource, span in trace], recent)
                writer.write(flush, self._clock(), with_sums=False)
            finally:
                writer.close()
            return True

    def clear(self) -> None:
        with self._write_lock:
            self._stop_writing()
            self._recent.clear()
            old = [*self._partitions, *([self._archive] if self._archive else [])]
            self._partitions = (self._new_partition(),)
            self._archive = None
            for partition in old:
                partition.delete()
            self._forget_damaged(len(self._damaged))

    def close(self) -> None:
        with self._write_lock:
            self._stop_writing()
            for partition in (*self._partitions, *([self._archive] if self._archive else [])):
                partition.retire()
            self._lock_file.close()

    def _keep_house(self) -> None:
        """What is due before a write: broken files out of the way, a new file for each hour, old files gone."""
        if self._archive and self._archive.is_damaged:
            self._set_aside(self._archive)
            self._archive = None
        for partition in self._partitions:
            if partition.is_damaged:
                self._set_aside(partition)
            elif not os.path.exists(partition.path):
                # Somebody tidied up; what is written to a file without a name would be lost.
                log.error("file_missing", file=partition.path, spans=partition.spans)
                self._drop(partition)
        now_s = self._clock()
        newest = self._partitions[-1] if self._partitions else None
        if newest is None or (newest.spans and self._is_complete(newest, now_s)):
            self._stop_writing()
            self._partitions = (*self._partitions, self._new_partition())
        while len(self._partitions) > 1 and self._partitions[0].written_s < now_s - self._max_age_s:
            self._evict_oldest()

    def _is_complete(self, partition: Partition, now_s: float) -> bool:
        return (
            partition.size() >= self._partition_bytes
            # A clock that was set back must not stop the hours.
            or not partition.created_s <= now_s < partition.created_s + self._partition_s
            or partition.has_words != has_word_index()
        )

    def _make_room(self) -> None:
        while self._size() > self._max_bytes and (self._damaged or len(self._partitions) > 1):
            if self._damaged:
                self._forget_damaged(1)
            else:
                self._evict_oldest()

    def _evict_oldest(self) -> None:
        oldest, *others = self._partitions
        self._partitions = tuple(others)
        sql = "SELECT service, sum(spans) FROM operation GROUP BY service"
        try:
            with oldest.reader() as reader:
                for service, spans in reader.rows(sql):
                    self._evicted[reader.name(service)] += spans
        except PartitionError as error:
            log.warning("evicted_spans_not_counted", file=oldest.path, error=error)
        oldest.delete()

    def _set_aside(self, partition: Partition) -> None:
        self._drop(partition)
        partition.set_aside()
        self._damaged.append(partition.aside_path)
        log.error("file_damaged", file=partition.path, moved_to=partition.aside_path, spans=partition.spans)

    def _drop(self, partition: Partition) -> None:
        """Use a partition no more."""
        if self._partitions and partition is self._partitions[-1]:
            self._stop_writing()
            self._recent.clear()
        self._partitions = tuple(each for each in self._partitions if each is not partition)
        partition.retire()

    def _forget_damaged(self, count: int) -> None:
        for path in self._damaged[:count]:
            os.remove(path)
        del self._damaged[:count]

    def _size(self) -> int:
        return sum(partition.size() for partition in self._partitions) + sum(map(os.path.getsize, self._damaged))

    # ---- Files ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._sweep()
        self._damaged = self._files("*.damaged")
        for path in self._files("spans-*.db"):
            partition = self._opened(path)
            if partition is not None:
                self._partitions = (*self._partitions, partition)
                self._last_number = int(os.path.basename(path)[len("spans-") : -len(".db")])
        archive = os.path.join(self._folder, ARCHIVE)
        self._archive = self._opened(archive) if os.path.exists(archive) else None
        self._keep_house()
        self._make_room()

    def _sweep(self) -> None:
        """Remove what a process that was killed left half made or half deleted."""
        for path in self._files("*.new*"):
            os.remove(path)
        for path in self._files("*.db-*"):
            if not os.path.exists(path.rpartition("-")[0]):
                os.remove(path)

    def _files(self, pattern: str) -> list[str]:
        return sorted(glob.glob(os.path.join(glob.escape(self._folder), pattern)))

    def _opened(self, path: str) -> Partition | None:
        """The partition in a file, unless it is damaged."""
        try:
            return Partition.open(path)
        except PartitionError as error:
            if not error.is_damaged:
                raise
            self._set_aside(error.partition)
            return None

    def _new_partition(self) -> Partition:
        self._last_number += 1
        return Partition.create(os.path.join(self._folder, f"spans-{self._last_number:08}.db"), self._clock())

    def _begin_writing(self) -> PartitionWriter:
        wal_pages = max(8, min(LARGEST_WAL_PAGES, self._partition_bytes // 4 // PAGE_BYTES))
        self._writer = PartitionWriter(self._partitions[-1], wal_pages)
        return self._writer

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _lock(folder: str) -> sqlite3.Connection:
    """Hold the folder for this process until the connection is closed; StoreError when another one does, or it cannot be."""
    try:
        # What services send is nobody else's business.
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot use {folder}: {error.strerror}") from error
    connection = sqlite3.connect(os.path.join(folder, "lock"), timeout=0, isolation_level=None, check_same_thread=False)
    try:
        # A lock of SQLite's, since that works on every system and ends with the process.
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if "locked" in str(error):
            raise StoreError(f"{folder} is in use by another process; stop that, or use another folder") from error
        raise StoreError(f"cannot use {folder}: {error}") from error
    return connection


def _add_rates(sums: dict[RateKey, RateSum], reader: Reader, services: Sequence[str], window: tuple[int, int]) -> None:
    sql = "SELECT minute, service, operation, kind, calls, errors, duration, buckets FROM rate WHERE minute BETWEEN ? AND ?"
    numbers = [number for service in services if (number := reader.number(service)) is not None]
    for marks, wanted in chunks(numbers) if services else [("", ())]:
        among = f"{sql} AND service IN ({marks})" if marks else sql
        for minute, service, operation, kind, calls, errors, duration, buckets in reader.rows(
            among, (*window, *wanted)
        ):
            key = (minute, reader.name(service), reader.name(operation), kind)
            sums.setdefault(key, RateSum()).add(calls, errors, duration, buckets_of(buckets))
