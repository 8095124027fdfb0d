"""SQLAlchemy over drivers with and without instruments of their own, and aiosqlite, with a real PostgreSQL and SQLite."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiosqlite
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.engine import default
from sqlalchemy.ext.asyncio import create_async_engine

from autoinstr.instrument import Patcher, dbapi, sqlite
from autoinstr.instrument import psycopg as psycopg_instrument
from autoinstr.instrument import sqlalchemy as instrument
from autoinstr.model import Kind, Status
from ports import free_port

from .contract_client import below
from .contract_sql import needs_postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.instrument import Tracing, Watcher
    from autoinstr.report import InMemoryReporter


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    with postgres_server(port):
        yield port


@pytest.fixture
def patch(tracing: Tracing) -> Iterator[Callable[..., None]]:
    """``patch(function, module)``, taken out after the test."""
    patchers = []

    def put_in(function: Any, module: Any) -> None:
        patchers.append(Patcher(module))
        function(patchers[-1], tracing)

    yield put_in
    for patcher in reversed(patchers):
        patcher.undo()


@pytest.fixture
def engine(port: int, patch: Callable[..., None], reporter: InMemoryReporter) -> Iterator[Any]:
    """Over pg8000, which has no instrument."""
    patch(instrument.patch, default)
    made = sqlalchemy.create_engine(f"postgresql+pg8000://tests:secret@127.0.0.1:{port}/tests")
    with made.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS t"))
        connection.execute(sqlalchemy.text("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)"))
    reporter.spans.clear()
    yield made
    made.dispose()


@needs_postgres
def test_a_driver_without_an_instrument(engine: Any, port: int, reporter: InMemoryReporter, tracing: Tracing) -> None:
    """Time in a database whose driver we do not know would be a gap in the trace."""
    with below(tracing_of(tracing)) as parent, engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("SELECT a FROM t WHERE b = :b"), {"b": "private"}).all() == []
    (span,) = reporter.spans
    assert (span.name, span.kind, span.scope, span.parent_id) == ("SELECT t", Kind.CLIENT, "sqlalchemy", parent.span_id)
    assert span.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "tests",
        "db.query.summary": "SELECT t",
        "db.query.text": "SELECT a FROM t WHERE b = %s",
        "db.operation.name": "SELECT",
        "db.collection.name": "t",
        "server.address": "127.0.0.1",
        "server.port": port,
    }


@needs_postgres
def test_batches_literals_and_failures(engine: Any, reporter: InMemoryReporter) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:a, :b)"), [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])
        connection.exec_driver_sql("SELECT a FROM t WHERE b = 'private'")
    assert [span.name for span in reporter.spans] == ["INSERT t", "SELECT t"]
    assert reporter.spans[0].attributes["db.operation.batch.size"] == 2
    assert reporter.spans[1].attributes["db.query.text"] == "SELECT a FROM t WHERE b = ?"
    with pytest.raises(sqlalchemy.exc.DBAPIError), engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM nope")
    assert reporter.spans[-1].status == Status.ERROR


@needs_postgres
def test_commits_show_when_they_are_slow(engine: Any, reporter: InMemoryReporter, tracing: Tracing, monkeypatch: Any) -> None:
    monkeypatch.setattr(dbapi, "SLOW_NS", 0)
    with below(tracing_of(tracing)), engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert [span.name for span in reporter.spans] == ["SELECT", "COMMIT", "ROLLBACK"]


@needs_postgres
def test_a_driver_with_an_instrument(port: int, patch: Callable[..., None], reporter: InMemoryReporter) -> None:
    """Each statement would be there twice."""
    patch(psycopg_instrument.patch, psycopg)
    patch(instrument.patch, default)
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://tests@127.0.0.1:{port}/tests")
    with engine.connect() as connection:
        reporter.spans.clear()
        connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()
    assert [(span.name, span.scope) for span in reporter.spans] == [("SELECT", "psycopg")]

    async def work() -> None:
        engine = create_async_engine(f"postgresql+psycopg://tests@127.0.0.1:{port}/tests")
        async with engine.connect() as connection:
            reporter.spans.clear()
            await connection.execute(sqlalchemy.text("SELECT 1"))
        await engine.dispose()

    asyncio.run(work())
    assert [(span.name, span.scope) for span in reporter.spans] == [("SELECT", "psycopg")]


def tracing_of(tracing: Tracing) -> Any:
    """What ``below`` wants."""

    class Held:
        pass

    held: Any = Held()
    held.tracing = tracing
    return held


# SQLite, whose async driver works in a thread of its own.


def test_sqlite(watch: Callable[..., Watcher], patch: Callable[..., None], reporter: InMemoryReporter) -> None:
    watch()
    patch(instrument.patch, default)
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        reporter.spans.clear()
        connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()
    assert [(span.name, span.scope) for span in reporter.spans] == [("SELECT", "sqlite3")]


def test_aiosqlite(watch: Callable[..., Watcher], patch: Callable[..., None], reporter: InMemoryReporter) -> None:
    """Statements would belong to the request in which the connection was opened, or to none."""
    watcher = watch()
    patch(sqlite.patch_aiosqlite, aiosqlite.core)

    async def work() -> list[int]:
        parents = []
        with below(watcher):
            connection = await aiosqlite.connect(":memory:")
        try:
            for statement in ("CREATE TABLE t (a INTEGER)", "SELECT 1 FROM t"):
                with below(watcher) as parent:
                    parents.append(parent.span_id)
                    await connection.execute(statement)
            with below(watcher) as parent:
                parents.append(parent.span_id)
                cursor = await connection.cursor()
                await cursor.execute("SELECT 2 FROM t")
                await connection.commit()
            parents.append(0)
            await connection.execute("SELECT 3")
        finally:
            await connection.close()
        return parents

    parents = asyncio.run(work())
    assert [span.name for span in reporter.spans] == ["CREATE t", "SELECT t", "SELECT t", "SELECT"]
    assert [span.parent_id for span in reporter.spans] == parents


def test_sqlalchemy_over_aiosqlite(watch: Callable[..., Watcher], patch: Callable[..., None], reporter: InMemoryReporter) -> None:
    watcher = watch()
    patch(sqlite.patch_aiosqlite, aiosqlite.core)
    patch(instrument.patch, default)

    async def work() -> int:
        engine = create_async_engine("sqlite+aiosqlite://", isolation_level="SERIALIZABLE")
        async with engine.connect() as connection:
            reporter.spans.clear()
            with below(watcher) as parent:
                await connection.execute(sqlalchemy.text("SELECT 1"))
        await engine.dispose()
        return parent.span_id

    parent = asyncio.run(work())
    assert [(span.name, span.scope, span.parent_id) for span in reporter.spans] == [("SELECT", "sqlite3", parent)]
