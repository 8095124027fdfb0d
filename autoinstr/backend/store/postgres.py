"""A store in PostgreSQL, for a team: several backends may write to one database, and all of them see everything.

Owns: writing, searching and forgetting in the tables of ``pgschema``.
Must not know: wire formats, HTTP, how a span becomes bytes.
Invariants: a write is one transaction; writers take turns (by an advisory lock), so that a span that two backends got is kept
once and calls between services are found whoever got which half; what is remembered of the database is only a copy, and is
forgotten when a write fails or another backend has dropped something; every hit of a search is verified on the span.

Retention looks at arrival, not at the clocks of senders, and drops whole slices: up to an eighth more than asked for.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autoinstr.backend.store import (
    Dependency,
    Rate,
    RateSum,
    StoreError,
    Trace,
    TraceQuery,
    first_start_ns,
    identity,
    matches,
    pgschema,
    sorted_rates,
    spancodec,
    summed_calls,
)
from autoinstr.backend.store.calls import MINUTE_NS
from autoinstr.backend.store.pgrows import (
    Numbers,
    Recent,
    Segment,
    Words,
    Written,
    clamped,
    digest_batches,
    encode_trace,
    name_bytes,
    name_text,
)
from autoinstr.backend.store.pgstatements import (
    WIDE_NS,
    Gone,
    ReadParts,
    WrittenParts,
    add_edges,
    add_rates,
    buckets_of,
    copy_segments,
    first_starts,
    page_of_segments,
)
from autoinstr.model import Batch

if TYPE_CHECKING:
    from autoinstr.backend.store.pgschema import Connection

#: Segments that a search looks at in one go: few at first, because most searches find what they want at once.
FIRST_PAGE, LARGEST_PAGE = 50, 1000


class PostgresStore:
    """A ``store.Store`` at ``url`` (``postgresql://…``), which forgets after ``max_age_s`` and beyond ``max_bytes`` on disk (``None``: never).

    StoreError when psycopg is missing, the server cannot be reached, or its tables are a newer version's.
    """

    def __init__(self, url: str, *, max_age_s: float | None = None, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < pgschema.SMALLEST_BYTES:
            raise StoreError(f"a PostgreSQL store needs at least {pgschema.SMALLEST_BYTES} bytes, not {max_bytes}")
        self._url = url
        self._max_age_s = float("inf") if max_age_s is None else max_age_s
        self._max_bytes = max_bytes
        self._psycopg = pgschema.load_psycopg()
        self._lock = threading.Lock()
        self._evicted: Counter[str] = Counter()
        self._words = Words()
        self._read_parts = ReadParts()
        self._readers = pgschema.Readers(url)
        self._connection: Connection | None = pgschema.connect(url)
        self._forget_copies()
        try:
            pgschema.prepare(self._connection)
        except StoreError:
            self._connection.close()
            raise

    # ---- Writing -------------------------------------------------------------------------------------

    def write(self, batches: Sequence[Batch]) -> None:
        with self._lock:
            written = self._transact(lambda connection: self._write(connection, batches))
            self._recent.note(written.spans)
            self._make_room()

    def _transact(self, work: Callable[[Connection], Any]) -> Any:
        """Do some work in a transaction, alone among all backends; StoreError, and nothing is done, when it fails."""
        try:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = pgschema.connect(self._url)
            with connection.transaction():
                connection.execute(f"SELECT {pgschema.LOCK}")
                return work(connection)
        except BaseException as error:
            self._forget_copies()
            if isinstance(error, self._psycopg.OperationalError) and self._connection is not None:
                self._connection.close()
            if isinstance(error, self._psycopg.Error):
                raise StoreError(f"PostgreSQL: {str(error).strip()}") from error
            raise

    def _forget_copies(self) -> None:
        self._recent = Recent()
        self._part_numbers: dict[bytes, int] = {}
        #: Epoch, oldest slice: when they change, another backend has dropped what is remembered here.
        self._state: tuple[int, int | None] = (0, None)
        self._slice = 0

    def _write(self, connection: Connection, batches: Sequence[Batch]) -> Written:
        self._enter_slice(connection)
        self._learn(connection, {span.trace_id for batch in batches for span in batch.spans})
        written = digest_batches(batches, self._recent.of, self._words)
        if not written.spans:
            return written
        write = pgschema.next_number(connection)
        numbers = Numbers(WrittenParts(connection, self._slice, self._part_numbers))
        rows = [self._segment_row(write, segment, numbers) for segment in written.segments.values()]
        copy_segments(connection, rows)
        add_rates(connection, self._slice, written)
        add_edges(connection, self._slice, written)
        connection.execute(
            "UPDATE autoinstr.slice SET spans = spans + %s, traces = traces + %s WHERE id = %s",
            (written.spans, written.new_traces, self._slice),
        )
        for trace_id in written.segments:
            self._recent.of(trace_id).last_write = write
        return written

    def _enter_slice(self, connection: Connection) -> None:
        """Find the slice to write to, or begin one; forget what no longer is."""
        row = connection.execute(
            "SELECT epoch, (SELECT min(id) FROM autoinstr.slice), (SELECT max(id) FROM autoinstr.slice) FROM autoinstr.meta"
        ).fetchone()
        assert row is not None  # noqa: S101 - the table has one row
        epoch, oldest, newest = row
        if (epoch, oldest) != self._state:
            self._recent.clear()
        if newest is None or self._is_full(connection):
            newest = pgschema.begin_slice(connection)
            oldest = oldest or newest
            self._room_is_due = True
        if newest != self._slice:
            self._part_numbers.clear()
        self._state, self._slice = (epoch, oldest), newest

    def _is_full(self, connection: Connection) -> bool:
        _, age_s, size = pgschema.slice_sizes(connection)[-1]
        return age_s * pgschema.SLICES > self._max_age_s or (
            self._max_bytes is not None and size * pgschema.SLICES > self._max_bytes
        )

    def _learn(self, connection: Connection, trace_ids: Iterable[int]) -> None:
        """Bring what is remembered of some traces up to what is stored, also by others."""
        ids = list(trace_ids)
        seen = [self._recent.of(trace_id).last_write for trace_id in ids]
        rows = connection.execute(
            "SELECT s.trace_id, s.write, s.data FROM unnest(%s::uuid[], %s::bigint[]) AS known (trace_id, write)"
            " JOIN autoinstr.segment s ON s.trace_id = known.trace_id AND s.write > known.write ORDER BY s.write",
            ([uuid.UUID(int=trace_id) for trace_id in ids], seen),
        ).fetchall()
        for trace_uuid, write, data in rows:
            known = self._recent.of(trace_uuid.int)
            for resource, span in self._decoded(connection, trace_uuid.int, data):
                known.add(resource.service_name, span)
            known.last_write = write

    def _segment_row(self, write: int, segment: Segment, numbers: Numbers) -> tuple[Any, ...]:
        times = segment.times()
        is_wide = times[1] - times[0] > WIDE_NS
        data = encode_trace(segment.spans, numbers)
        return self._slice, write, uuid.UUID(int=segment.trace_id), *times, is_wide, list(segment.words), data

    # ---- Asking --------------------------------------------------------------------------------------

    def trace(self, trace_id: int) -> Trace:
        return self._readers.run(lambda connection: self._traces(connection, [trace_id]))[trace_id]

    def find(self, query: TraceQuery) -> list[Trace]:
        if query.limit <= 0:
            return []
        return self._readers.run(lambda connection: self._find(connection, query))

    def _find(self, connection: Connection, query: TraceQuery) -> list[Trace]:
        """Walks segments from the newest to the oldest. A trace starts no later than any of its segments, so that the walk
        is over when ``limit`` traces are known that start later than the segment that comes next."""
        starts: dict[int, int] = {}
        after: tuple[Any, ...] = ()
        page = FIRST_PAGE
        while rows := page_of_segments(connection, query, after, page):
            fresh = dict.fromkeys(
                row[2].int for row in rows if row[2].int not in starts and self._has_match(connection, query, row)
            )
            starts.update(first_starts(connection, fresh))
            newest = sorted(starts.values(), reverse=True)[: query.limit]
            if len(rows) < page or (len(newest) == query.limit and newest[-1] > rows[-1][0]):
                break
            after = rows[-1][:3]
            page = min(2 * page, LARGEST_PAGE)
        ids = sorted(starts, key=lambda trace_id: starts[trace_id], reverse=True)[: query.limit]
        traces = [trace for trace in self._traces(connection, ids).values() if trace]
        return sorted(traces, key=first_start_ns, reverse=True)

    def _has_match(self, connection: Connection, query: TraceQuery, row: tuple[Any, ...]) -> bool:
        spans = self._decoded(connection, row[2].int, row[3])
        return any(matches(query, resource, span) for resource, span in spans)

    def _traces(self, connection: Connection, trace_ids: Sequence[int]) -> dict[int, Trace]:
        """Whole traces, what was archived of them first; empty ones where there is nothing."""
        found: dict[int, Trace] = {trace_id: [] for trace_id in trace_ids}
        known: dict[int, set[Any]] = {trace_id: set() for trace_id in trace_ids}
        rows = connection.execute(
            "SELECT trace_id, data FROM (SELECT 0 AS write, trace_id, data FROM autoinstr.archive WHERE trace_id = ANY(%(ids)s)"
            " UNION ALL SELECT write, trace_id, data FROM autoinstr.segment WHERE trace_id = ANY(%(ids)s)) AS pieces"
            " ORDER BY write",
            {"ids": [uuid.UUID(int=trace_id) for trace_id in trace_ids]},
        )
        for trace_uuid, data in rows.fetchall():
            trace_id = trace_uuid.int
            for resource, span in self._decoded(connection, trace_id, data):
                key = identity(resource.service_name, span)
                if key not in known[trace_id]:
                    known[trace_id].add(key)
                    found[trace_id].append((resource, span))
        return found

    def _decoded(self, connection: Connection, trace_id: int, data: bytes) -> Trace:
        """The spans of a segment; none when its parts were dropped a moment ago."""
        try:
            return spancodec.decode(trace_id, bytes(data), lambda number: self._read_parts.shape(connection, number))
        except Gone:
            return []

    def services(self) -> list[str]:
        return sorted(
            {
                name_text(row[0])
                for row in self._rows(
                    "SELECT DISTINCT service FROM autoinstr.part WHERE slice > 0 AND service IS NOT NULL"
                )
            }
        )

    def operations(self, service: str) -> list[tuple[str, int]]:
        statement = "SELECT DISTINCT operation, kind FROM autoinstr.part WHERE slice > 0 AND service = %s"
        return sorted((name_text(name), kind) for name, kind in self._rows(statement, name_bytes(service)))

    def dependencies(self, start_ns: int, end_ns: int) -> list[Dependency]:
        statement = "SELECT parent, child, calls, errors FROM autoinstr.edge WHERE minute BETWEEN %s AND %s"
        rows = self._rows(statement, *_minutes(start_ns, end_ns))
        return summed_calls(((name_text(row[0]), name_text(row[1])), row[2], row[3]) for row in rows)

    def rates(self, services: Sequence[str], start_ns: int, end_ns: int) -> list[Rate]:
        statement = (
            "SELECT minute, service, operation, kind, calls, errors, duration_ns, buckets FROM autoinstr.rate"
            " WHERE minute BETWEEN %s AND %s AND (%s OR service = ANY(%s))"
        )
        names = [name_bytes(service) for service in services]
        sums: dict[tuple[int, str, str, int], RateSum] = {}
        for row in self._rows(statement, *_minutes(start_ns, end_ns), not names, names):
            key = row[0], name_text(row[1]), name_text(row[2]), row[3]
            sums.setdefault(key, RateSum()).add(row[4], row[5], int(row[6]), buckets_of(row[7]))
        return sorted_rates(sums)

    def figures(self) -> dict[str, int]:
        ((spans, traces, archived, size),) = self._rows(
            "SELECT coalesce(sum(spans), 0)::bigint, coalesce(sum(traces), 0)::bigint,"
            " (SELECT count(*) FROM autoinstr.archive), (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class"
            " WHERE relnamespace = 'autoinstr'::regnamespace AND relkind = 'r') FROM autoinstr.slice"
        )
        return {
            "store_spans": spans,
            "store_traces": traces,
            "store_bytes": size,
            "store_archived_traces": archived,
            "store_evicted_spans_total": sum(self._evicted.values()),
        }

    def evicted(self) -> dict[str, int]:
        """As the contract has it; of several backends, each counts what it dropped itself."""
        return dict(self._evicted)

    def _rows(self, statement: str, *parameters: object) -> list[Any]:
        return self._readers.run(lambda connection: connection.execute(statement, parameters).fetchall())

    # ---- Keeping and forgetting ------------------------------------------------------------------------

    def archive(self, trace_id: int) -> bool:
        with self._lock:
            return bool(self._transact(lambda connection: self._archive(connection, trace_id)))

    def _archive(self, connection: Connection, trace_id: int) -> bool:
        trace = self._traces(connection, [trace_id])[trace_id]
        if not trace:
            return False
        data = encode_trace(trace, Numbers(WrittenParts(connection, pgschema.ARCHIVE_SLICE, {})))
        row = connection.execute(
            "SELECT coalesce(sum(length(data)), 0) FROM autoinstr.archive WHERE trace_id <> %s",
            (uuid.UUID(int=trace_id),),
        ).fetchone()
        if self._max_bytes is not None and row is not None and row[0] + len(data) > self._max_bytes:
            raise StoreError(f"the archive is full: it holds {row[0]} bytes of at most {self._max_bytes}")
        connection.execute(
            "INSERT INTO autoinstr.archive VALUES (%s, %s) ON CONFLICT (trace_id) DO UPDATE SET data = EXCLUDED.data",
            (uuid.UUID(int=trace_id), data),
        )
        return True

    def clear(self) -> None:
        with self._lock:
            self._transact(self._clear)
            self._forget_copies()

    def _clear(self, connection: Connection) -> None:
        for number, _, _ in pgschema.slice_sizes(connection):
            pgschema.drop_slice(connection, number)
        connection.execute("TRUNCATE autoinstr.archive, autoinstr.part_0")
        connection.execute("UPDATE autoinstr.meta SET epoch = epoch + 1")

    _room_is_due = True

    def _make_room(self) -> None:
        """Drop the oldest slices when a new one was begun. When readers are in the way for too long, the next write tries."""
        if not self._room_is_due:
            return
        try:
            dropped = self._transact(self._drop_old)
        except StoreError as error:
            if not isinstance(error.__cause__, self._psycopg.errors.LockNotAvailable):
                raise
            return
        self._room_is_due = False
        self._evicted.update(dropped)

    def _drop_old(self, connection: Connection) -> Counter[str]:
        slices = pgschema.slice_sizes(connection)
        total = sum(size for _, _, size in slices[:-1])
        allowed = None if self._max_bytes is None else self._max_bytes * (pgschema.SLICES - 1) // pgschema.SLICES
        dropped: Counter[str] = Counter()
        for (number, _, size), (_, next_age_s, _) in pairwise(slices):
            # Nothing that came after the next slice began is in this one.
            if next_age_s <= self._max_age_s and (allowed is None or total <= allowed):
                break
            total -= size
            for service, spans in pgschema.drop_slice(connection, number).items():
                dropped[name_text(service)] += spans
        return dropped

    def close(self) -> None:
        with self._lock:
            self._readers.close()
            if self._connection is not None:
                self._connection.close()


def _minutes(start_ns: int, end_ns: int) -> tuple[int, int]:
    return clamped(start_ns // MINUTE_NS), clamped(end_ns // MINUTE_NS)
