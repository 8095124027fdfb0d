"""What the PostgreSQL store says to its tables: the statements that take more than a line, and the parts of ``spancodec``.

Owns: putting segments and sums in, finding segments again, parts by their numbers and numbers by their parts.
Must not know: transactions, locks, when something is dropped.
Invariants: what a statement is given goes as a parameter, never as text; what is remembered of parts is never wrong, because
a number never changes its meaning.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from autoinstr.backend.store import RateSum, TraceQuery, spancodec
from autoinstr.backend.store.pgrows import Operation, Written, clamped, digest, name_bytes, words_of_query
from autoinstr.model import Resource

if TYPE_CHECKING:
    from autoinstr.backend.store.pgschema import Connection

#: Segments whose spans start within this of each other can be found by an index over their first start alone.
WIDE_NS = 10 * 10**9
MAX_CACHED_PARTS = 50_000
#: Parts are read together with their neighbours, which were made in the same write.
NEIGHBOURS = 100


def buckets_of(data: bytes) -> dict[int, int]:
    return {int(bucket): count for bucket, count in json.loads(bytes(data)).items()}


class Gone(Exception):
    """A part of a slice that was dropped."""


class WrittenParts:
    """Numbers of parts in one slice; new ones are stored."""

    def __init__(self, connection: Connection, number: int, known: dict[bytes, int]) -> None:
        self._connection = connection
        self._slice = number
        self._known = known

    def number(self, data: bytes, about: Operation | None) -> int:
        found = self._known.get(data)
        if found is None:
            found = self._stored(data, about)
            if len(self._known) >= MAX_CACHED_PARTS:
                self._known.clear()
            self._known[data] = found
        return found

    def _stored(self, data: bytes, about: Operation | None) -> int:
        names = (name_bytes(about.service), name_bytes(about.name), about.kind) if about else (None, None, None)
        row = self._connection.execute(
            "INSERT INTO autoinstr.part VALUES (%s, nextval('autoinstr.number'), %s, %s, %s, %s, %s)"
            " ON CONFLICT (slice, key) DO UPDATE SET data = EXCLUDED.data RETURNING id",
            (self._slice, digest(data.decode()), data, *names),
        ).fetchone()
        assert row is not None  # noqa: S101 - it was inserted or updated
        return int(row[0])


class ReadParts:
    """Parts by their numbers, which never change their meaning; used by several threads at once."""

    def __init__(self) -> None:
        self._data: dict[int, bytes] = {}
        self._resources: dict[int, Resource] = {}
        self._shapes: dict[int, spancodec.Shape] = {}

    def shape(self, connection: Connection, number: int) -> spancodec.Shape:
        found = self._shapes.get(number)
        if found is None:
            data = self._part(connection, number)
            found = spancodec.decode_shape(data, lambda resource: self._resource(connection, resource))
            self._shapes[number] = found
        return found

    def _resource(self, connection: Connection, number: int) -> Resource:
        found = self._resources.get(number)
        if found is None:
            found = self._resources[number] = spancodec.decode_resource(self._part(connection, number))
        return found

    def _part(self, connection: Connection, number: int) -> bytes:
        if number not in self._data:
            if len(self._data) > MAX_CACHED_PARTS:
                self._data, self._resources, self._shapes = {}, {}, {}
            statement = "SELECT id, data FROM autoinstr.part WHERE id BETWEEN %s AND %s"
            around = (number - NEIGHBOURS, number + NEIGHBOURS)
            self._data.update({row[0]: bytes(row[1]) for row in connection.execute(statement, around)})
        try:
            return self._data[number]
        except KeyError:
            raise Gone from None


# Statements


def copy_segments(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    columns = "slice, write, trace_id, first_ns, last_ns, shortest_ns, longest_ns, is_wide, words, data"
    with connection.cursor().copy(f"COPY autoinstr.segment ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "int8", "uuid", "int8", "int8", "int8", "int8", "bool", "int4[]", "bytea"])
        for row in rows:
            copy.write_row(row)


def add_rates(connection: Connection, number: int, written: Written) -> None:
    """Add sums to what is there. Read and written again: nobody else writes, and SQL cannot add the buckets."""
    added = {digest(*key): (key, total) for key, total in written.rates.items()}
    rows = connection.execute(
        "SELECT key, calls, errors, duration_ns, buckets FROM autoinstr.rate WHERE slice = %s AND key = ANY(%s)",
        (number, list(added)),
    ).fetchall()
    for key, calls, errors, duration_ns, buckets in rows:
        added[bytes(key)][1].add(calls, errors, int(duration_ns), buckets_of(buckets))
    statement = (
        "INSERT INTO autoinstr.rate VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (slice, key) DO UPDATE SET"
        " calls = EXCLUDED.calls, errors = EXCLUDED.errors, duration_ns = EXCLUDED.duration_ns, buckets = EXCLUDED.buckets"
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            statement,
            [
                (number, key, minute, name_bytes(service), name_bytes(operation), kind, *_columns(total))
                for key, ((minute, service, operation, kind), total) in added.items()
            ],
        )


def _columns(total: RateSum) -> tuple[int, int, int, bytes]:
    return total.calls, total.errors, total.duration_ns, json.dumps(total.buckets).encode()


def add_edges(connection: Connection, number: int, written: Written) -> None:
    statement = (
        "INSERT INTO autoinstr.edge VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (slice, key) DO UPDATE SET"
        " calls = edge.calls + EXCLUDED.calls, errors = edge.errors + EXCLUDED.errors"
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            statement,
            [
                (number, digest(*key), key[0], name_bytes(key[1]), name_bytes(key[2]), calls, errors)
                for key, (calls, errors) in written.calls.items()
            ],
        )


_NARROW = "NOT is_wide AND first_ns >= %(narrow_start)s"
_WIDE = "is_wide AND last_ns >= %(start)s"


def page_of_segments(
    connection: Connection, query: TraceQuery, after: tuple[Any, ...], size: int
) -> list[tuple[Any, ...]]:
    """``(first start, write, trace, data)`` of segments that may hold what is looked for, newest first, behind ``after``."""
    conditions = "first_ns <= %(end)s AND longest_ns >= %(shortest)s AND shortest_ns <= %(longest)s"
    words = words_of_query(query)
    if words:
        conditions += " AND words @> %(words)s::integer[]"
    if after:
        conditions += " AND (first_ns, write, trace_id) < (%(after_ns)s, %(after_write)s, %(after_trace)s)"
    order = "ORDER BY first_ns DESC, write DESC, trace_id DESC LIMIT %(size)s"
    halves = [
        f"(SELECT first_ns, write, trace_id, data FROM autoinstr.segment WHERE {window} AND {conditions} {order})"  # noqa: S608
        for window in (_NARROW, _WIDE)
    ]
    parameters = {
        "narrow_start": clamped(query.start_ns - WIDE_NS),
        "start": clamped(query.start_ns),
        "end": clamped(query.end_ns),
        "shortest": clamped(query.min_duration_ns),
        "longest": clamped(query.max_duration_ns),
        "words": words,
        "size": size,
        **dict(zip(("after_ns", "after_write", "after_trace"), after, strict=False)),
    }
    return connection.execute(f"{' UNION ALL '.join(halves)} {order}", parameters).fetchall()


def first_starts(connection: Connection, trace_ids: Iterable[int]) -> dict[int, int]:
    """When traces start, as far as columns know."""
    ids = [uuid.UUID(int=trace_id) for trace_id in trace_ids]
    if not ids:
        return {}
    statement = "SELECT trace_id, min(first_ns) FROM autoinstr.segment WHERE trace_id = ANY(%s) GROUP BY trace_id"
    return {trace_uuid.int: start for trace_uuid, start in connection.execute(statement, (ids,)).fetchall()}
