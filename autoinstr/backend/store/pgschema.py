"""The tables of the PostgreSQL store: how they are made, cut into slices, measured, and dropped.

Owns: names and forms of tables, the version of the schema, connecting, the locks between several backends, retention.
Must not know: spans.
Invariants: whoever writes, begins a slice, drops one or forgets everything holds the one advisory lock of the database, so
that numbers of writes ascend in the order in which they are committed; numbers are never used twice.

A *slice* is a stretch of time of arrivals: a partition of each of the tables in ``SLICED``. What is too old or too much goes
by dropping slices, which takes milliseconds and gives the disk back at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from autoinstr.backend.store import MissingExtra, StoreError

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

VERSION = 1
#: Into how many slices the allowed age and size are cut: so much more than the newest slice is dropped at once.
SLICES = 8
SMALLEST_BYTES = 4 * 2**20
#: "auto" and what is locked. Advisory locks belong to a database, so that another program's could be in the way.
LOCK = "pg_advisory_xact_lock(1635087471, 1)"
CONNECT_TIMEOUT_S = 10
#: Dropping waits for readers, and new readers wait for it: rather later than long.
DROP_TIMEOUT = "2s"
MAX_READERS = 8

SLICED = ("segment", "part", "rate", "edge")
#: Parts of archived traces are in a slice that is never dropped.
ARCHIVE_SLICE = 0

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS autoinstr;
CREATE TABLE autoinstr.meta (version integer NOT NULL, epoch bigint NOT NULL);
CREATE SEQUENCE autoinstr.number;
CREATE TABLE autoinstr.slice (
    id bigint PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    spans bigint NOT NULL DEFAULT 0,
    traces bigint NOT NULL DEFAULT 0
);
CREATE TABLE autoinstr.segment (
    slice bigint NOT NULL,
    write bigint NOT NULL,
    trace_id uuid NOT NULL,
    first_ns bigint NOT NULL,
    last_ns bigint NOT NULL,
    shortest_ns bigint NOT NULL,
    longest_ns bigint NOT NULL,
    is_wide boolean NOT NULL,
    words integer[] NOT NULL,
    data bytea STORAGE EXTERNAL NOT NULL
) PARTITION BY LIST (slice);
CREATE INDEX ON autoinstr.segment (trace_id, write);
CREATE INDEX ON autoinstr.segment (first_ns, write, trace_id) WHERE NOT is_wide;
CREATE INDEX ON autoinstr.segment (first_ns, write, trace_id) WHERE is_wide;
CREATE INDEX ON autoinstr.segment (longest_ns);
CREATE INDEX ON autoinstr.segment USING gin (words);
CREATE TABLE autoinstr.part (
    slice bigint NOT NULL,
    id bigint NOT NULL,
    key bytea NOT NULL,
    data bytea NOT NULL,
    service bytea,
    operation bytea,
    kind smallint,
    PRIMARY KEY (slice, key)
) PARTITION BY LIST (slice);
CREATE INDEX ON autoinstr.part (id);
CREATE TABLE autoinstr.rate (
    slice bigint NOT NULL,
    key bytea NOT NULL,
    minute bigint NOT NULL,
    service bytea NOT NULL,
    operation bytea NOT NULL,
    kind smallint NOT NULL,
    calls bigint NOT NULL,
    errors bigint NOT NULL,
    duration_ns numeric NOT NULL,
    buckets bytea NOT NULL,
    PRIMARY KEY (slice, key)
) PARTITION BY LIST (slice);
CREATE INDEX ON autoinstr.rate (minute);
CREATE TABLE autoinstr.edge (
    slice bigint NOT NULL,
    key bytea NOT NULL,
    minute bigint NOT NULL,
    parent bytea NOT NULL,
    child bytea NOT NULL,
    calls bigint NOT NULL,
    errors bigint NOT NULL,
    PRIMARY KEY (slice, key)
) PARTITION BY LIST (slice);
CREATE INDEX ON autoinstr.edge (minute);
CREATE TABLE autoinstr.archive (trace_id uuid PRIMARY KEY, data bytea STORAGE EXTERNAL NOT NULL);
CREATE TABLE autoinstr.part_0 PARTITION OF autoinstr.part FOR VALUES IN (0);
"""

_Found = TypeVar("_Found")


def load_psycopg() -> Any:
    """The library; MissingExtra when it is not installed."""
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtra(f"the PostgreSQL store needs psycopg ({error}): pip install 'autoinstr[postgres]'") from error
    return psycopg


def connect(url: str) -> Connection:
    """A connection on which each statement is a transaction unless said otherwise; StoreError without the URL's secrets."""
    psycopg = load_psycopg()
    try:
        connection: Connection = psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="autoinstr"
        )
    except psycopg.ProgrammingError as error:
        raise StoreError("not a PostgreSQL URL; write postgresql://user:password@host:5432/database") from error
    except psycopg.OperationalError as error:
        raise StoreError(f"cannot connect to PostgreSQL: {str(error).strip()}") from error
    return connection


def prepare(connection: Connection) -> None:
    """Make the tables if they are not there; StoreError when they are a newer version's, or may not be made."""
    psycopg = load_psycopg()
    try:
        with connection.transaction():
            connection.execute(f"SELECT {LOCK}")
            if _one(connection, "SELECT to_regclass('autoinstr.meta') IS NULL"):
                _make(connection)
            version = _one(connection, "SELECT version FROM autoinstr.meta")
    except psycopg.Error as error:
        raise StoreError(f"cannot prepare the tables in the schema autoinstr: {str(error).strip()}") from error
    if version != VERSION:
        raise StoreError(
            f"the tables in the schema autoinstr have version {version}, and this program knows version {VERSION}:"
            " upgrade autoinstr, or name another database"
        )


def _make(connection: Connection) -> None:
    # `STORAGE` within CREATE TABLE came with PostgreSQL 16; the data is compressed already.
    for statement in _SCHEMA.replace(" STORAGE EXTERNAL", "").split(";"):
        if statement.strip():
            connection.execute(statement)
    for table in ("segment", "archive"):
        connection.execute(f"ALTER TABLE autoinstr.{table} ALTER data SET STORAGE EXTERNAL")
    connection.execute("INSERT INTO autoinstr.meta VALUES (%s, 1)", (VERSION,))


def next_number(connection: Connection) -> int:
    """A number that was never used."""
    return int(_one(connection, "SELECT nextval('autoinstr.number')"))


def begin_slice(connection: Connection) -> int:
    """A new slice, which is the newest."""
    number = next_number(connection)
    connection.execute("INSERT INTO autoinstr.slice (id) VALUES (%s)", (number,))
    for table in SLICED:
        connection.execute(
            f"CREATE TABLE autoinstr.{table}_{number} PARTITION OF autoinstr.{table} FOR VALUES IN ({number})"
        )
    return number


def drop_slice(connection: Connection, number: int) -> dict[bytes, int]:
    """Forget a slice; its spans by service."""
    connection.execute(f"SET LOCAL lock_timeout = '{DROP_TIMEOUT}'")
    rows = connection.execute(
        f"SELECT service, sum(calls)::bigint FROM autoinstr.rate_{number} GROUP BY service"  # noqa: S608 - a number of ours
    ).fetchall()
    for table in SLICED:
        connection.execute(f"DROP TABLE autoinstr.{table}_{number}")
    connection.execute("DELETE FROM autoinstr.slice WHERE id = %s", (number,))
    return dict(rows)


def slice_sizes(connection: Connection) -> list[tuple[int, float, int]]:
    """``(number, age in seconds, bytes on disk)`` of all slices, the oldest first."""
    size = " + ".join(f"pg_total_relation_size(format('autoinstr.{table}_%%s', id)::regclass)" for table in SLICED)
    return connection.execute(
        f"SELECT id, extract(epoch FROM clock_timestamp() - began_at)::float8, {size} FROM autoinstr.slice ORDER BY id",  # noqa: S608
        (),
    ).fetchall()


def _one(connection: Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    return row[0] if row else None


class Readers:
    """A few connections for those who ask, each used by one thread at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_READERS)
        self._idle: list[Connection] = []
        self._is_closed = False

    def run(self, question: Callable[[Connection], _Found]) -> _Found:
        """The answer to a question, which is asked again when a slice was dropped under it, or the server restarted."""
        psycopg = load_psycopg()
        passing = (
            psycopg.OperationalError,
            psycopg.errors.UndefinedTable,
            psycopg.errors.DeadlockDetected,
            psycopg.errors.InternalError_,
        )
        for delay_s in (0.0, 0.05, 0.5):
            time.sleep(delay_s)
            try:
                with self._connection() as connection:
                    return question(connection)
            except passing as error:
                trouble = error
            except psycopg.Error as error:
                raise StoreError(f"PostgreSQL: {str(error).strip()}") from error
        raise StoreError(f"PostgreSQL: {str(trouble).strip()}") from trouble

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._places:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = connect(self._url)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                if not self._is_closed:
                    self._idle.append(connection)
                    return
            connection.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
