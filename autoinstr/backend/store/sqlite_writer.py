"""Writing to a partition of a SQLite store: one transaction for all that came together.

Owns: the rows of a write, the numbers of names and parts.
Must not know: other partitions, limits, searching.
Invariants: a write is all or nothing; what is remembered (numbers, sums) is what is stored, so that after an error a writer
may only be closed, and a new one has to take its place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from autoinstr.backend.store import RateSum
from autoinstr.backend.store.segments import SLOT_BITS, Builder, Flush, Recent
from autoinstr.backend.store.sqlite_partition import (
    SMALLEST,
    Partition,
    PartitionError,
    blob_of,
    buckets_of,
    clamped,
    connect,
    signed,
    stored_buckets,
    text_of,
)
from autoinstr.model import Batch

#: Names remembered with their numbers.
MAX_NAMES = 20_000
#: Sums of rates that are not read again before they are added to.
MAX_RATES = 10_000

#: Minute, and the numbers of service, operation and kind.
RateKey = tuple[int, int, int, int]


class PartitionWriter:
    """The one that writes to a partition. After an error nothing of it may be used again but ``close``."""

    def __init__(self, partition: Partition, wal_pages: int) -> None:
        self.partition = partition
        self._builder = Builder(self)
        self._names: dict[str, int] = {}
        self._rates: dict[RateKey, RateSum] = {}
        self._new_names: list[tuple[int, bytes]] = []
        self._new_parts: list[tuple[int, bytes]] = []
        self._connection = connect(partition)
        try:
            self._prepare(wal_pages)
        except sqlite3.Error as error:
            self._connection.close()
            raise PartitionError(partition, error) from error

    def build(self, batches: Sequence[Batch], recent: Recent) -> Flush:
        """What the batches come to in this partition."""
        try:
            return self._builder.build(batches, recent)
        except sqlite3.Error as error:
            raise PartitionError(self.partition, error) from error

    def _prepare(self, wal_pages: int) -> None:
        execute = self._connection.execute
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA cache_size = -65536")
        execute("PRAGMA temp_store = MEMORY")
        execute(f"PRAGMA wal_autocheckpoint = {wal_pages}")
        last_ids = (execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0 for table in ("segment", "name", "part"))  # noqa: S608
        self._last_segment, self._last_name, self._last_part = last_ids

    def name(self, text: str) -> int:
        """As ``segments.Numbers``."""
        number = self._names.get(text)
        if number is None:
            if len(self._names) >= MAX_NAMES + len(self._new_names):
                # Those of this write are not in the table yet, and have to stay.
                self._names = {text_of(name): new for new, name in self._new_names}
            row = self._connection.execute("SELECT id FROM name WHERE text = ?", (blob_of(text),)).fetchone()
            number = self._names[text] = row[0] if row else self._new_name(text)
        return number

    def _new_name(self, text: str) -> int:
        self._last_name += 1
        self._new_names.append((self._last_name, blob_of(text)))
        return self._last_name

    def part(self, data: bytes) -> int:
        """As ``segments.Numbers``."""
        self._last_part += 1
        self._new_parts.append((self._last_part, data))
        return self._last_part

    def write(self, flush: Flush, now_s: float, *, with_sums: bool = True) -> None:
        """Add everything in one transaction. Without sums: the spans only, found by trace and by nothing else."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                state = self._insert(flush, now_s, with_sums)
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        except sqlite3.Error as error:
            raise PartitionError(self.partition, error) from error
        partition = self.partition
        partition.spans, partition.traces, partition.last_slot, partition.written_s = state
        self._new_names.clear()
        self._new_parts.clear()

    def _roll_back(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            # SQLite has done so itself, for example when the disk is full.
            pass

    def _insert(self, flush: Flush, now_s: float, with_sums: bool) -> tuple[int, int, int, float]:  # noqa: FBT001
        insert = self._connection.executemany
        numbered = list(enumerate(flush.segments, self._last_segment + 1))
        calls = self._numbered_calls(flush) if with_sums else []
        insert("INSERT INTO name VALUES (?, ?)", self._new_names)
        insert("INSERT INTO part VALUES (?, ?)", self._new_parts)
        insert(
            "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    number,
                    signed(segment.trace_id),
                    signed(segment.trace_id >> 64),
                    clamped(segment.first_ns),
                    clamped(segment.last_ns >> SLOT_BITS),
                    segment.encoded(),
                )
                for number, segment in numbered
            ],
        )
        if with_sums:
            insert(
                "INSERT INTO span_group VALUES (?, ?, ?, ?, ?, ?)",
                chain.from_iterable(segment.groups(number, flush.places) for number, segment in numbered),
            )
            if self.partition.has_words:
                insert(
                    "INSERT INTO word (rowid, words) VALUES (?, ?)",
                    [(number, " ".join(segment.words)) for number, segment in numbered],
                )
            self._add_sums(flush, calls)
        self._last_segment += len(numbered)
        return self._update_state(flush, now_s)

    def _numbered_calls(self, flush: Flush) -> list[tuple[int, ...]]:
        return [
            (clamped(minute), self.name(parent), self.name(child), calls, errors)
            for (minute, parent, child), (calls, errors) in flush.calls.items()
        ]

    def _add_sums(self, flush: Flush, calls: Sequence[tuple[int, ...]]) -> None:
        insert = self._connection.executemany
        insert(
            "INSERT INTO operation VALUES (?, ?, ?, ?)"
            " ON CONFLICT (service, name, kind) DO UPDATE SET spans = spans + excluded.spans",
            [(*operation, count) for operation, count in flush.operations().items()],
        )
        insert(
            "INSERT INTO call VALUES (?, ?, ?, ?, ?) ON CONFLICT (minute, parent, child)"
            " DO UPDATE SET calls = calls + excluded.calls, errors = errors + excluded.errors",
            calls,
        )
        insert(
            "REPLACE INTO rate VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [self._added_rate((clamped(minute), *operation), new) for (minute, operation), new in flush.rates.items()],
        )

    def _added_rate(self, key: RateKey, new: RateSum) -> tuple[Any, ...]:
        """The row of a rate, with what is there already."""
        total = self._rates.get(key)
        if total is None:
            if len(self._rates) >= MAX_RATES:
                self._rates.clear()
            total = self._rates[key] = self._stored_rate(key)
        total.add(new.calls, new.errors, new.duration_ns, new.buckets)
        return (*key, total.calls, total.errors, clamped(total.duration_ns), stored_buckets(total.buckets))

    def _stored_rate(self, key: RateKey) -> RateSum:
        total = RateSum()
        row = self._connection.execute(
            "SELECT calls, errors, duration, buckets FROM rate"
            " WHERE minute = ? AND service = ? AND operation = ? AND kind = ?",
            key,
        ).fetchone()
        if row:
            calls, errors, duration_ns, buckets = row
            total.add(calls, errors, duration_ns, buckets_of(buckets))
        return total

    def _update_state(self, flush: Flush, now_s: float) -> tuple[int, int, int, float]:
        partition = self.partition
        last_slot = max((clamped(segment.last_ns >> SLOT_BITS) for segment in flush.segments), default=SMALLEST)
        state = (
            partition.spans + flush.span_count,
            partition.traces + flush.new_traces,
            max(partition.last_slot, last_slot),
            now_s,
        )
        self._connection.execute("UPDATE state SET spans = ?, traces = ?, last = ?, written = ?", state)
        return state

    def close(self) -> None:
        """Bring what is in the log into the file, as far as readers permit, and let go of it."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            # It stays in the log, which is as good.
            pass
        self._connection.close()
