"""asyncpg with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from autoinstr.instrument import asyncpg as instrument
from autoinstr.instrument import dbapi
from ports import free_port

from .contract_sql import SqlContract, needs_postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

pytestmark = needs_postgres


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def folder(port: int) -> Iterator[Path]:
    with postgres_server(port) as folder:
        yield folder


class TestAsyncpg(SqlContract):
    scope = "asyncpg"
    system = "postgresql"
    mark = "$1"
    no_table, duplicate = "42P01", "23505"

    @pytest.fixture(autouse=True)
    def loop(self, stage: None, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self._loop = asyncio.new_event_loop()
        self.closing.callback(self._loop.close)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def instrument(self) -> None:
        self.patch(instrument.patch, asyncpg)

    def options(self, **changed: Any) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "user": "tests", "database": "tests", **changed}

    def connect(self) -> Any:
        async def work() -> Any:
            connection = await asyncpg.connect(**self.options())
            self.transaction = connection.transaction()
            await self.transaction.start()
            return connection

        return self.run(work())

    def close(self, connection: Any) -> None:
        self.run(connection.close())

    def refused(self) -> Any:
        return self.run(asyncpg.connect("postgres://tests@127.0.0.1:1/nowhere"))

    def misled(self) -> Any:
        return self.run(asyncpg.connect("postgres://tests@127.0.0.1:many/nowhere"))

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.run(connection.fetch(statement, *values))]

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        self.run(connection.executemany(statement, values))

    def _end(self, connection: Any, how: str) -> None:
        async def work() -> None:
            await getattr(self.transaction, how)()
            self.transaction = connection.transaction()
            await self.transaction.start()

        self.run(work())

    def commit(self, connection: Any) -> None:
        self._end(connection, "commit")

    def rollback(self, connection: Any) -> None:
        self._end(connection, "rollback")

    def test_failure(self, connection: Any) -> None:
        self.fails(lambda: self.execute(connection, "SELECT * FROM nope"), self.no_table)
        assert self.names() == ["SELECT nope"]

    def test_every_way_to_execute(self, connection: Any) -> None:
        """Statements would be missing, or there twice: some methods call others."""

        async def work() -> None:
            await connection.execute("SELECT 1 FROM t")
            await connection.fetch("SELECT 2 FROM t WHERE a = $1", 1)
            await connection.fetchval("SELECT 3 FROM t")
            await connection.fetchrow("SELECT 4 FROM t")
            statement = await connection.prepare("SELECT 5 FROM t WHERE a = $1")
            await statement.fetch(1)
            await statement.fetchval(1)
            await statement.fetchrow(1)
            assert [row async for row in connection.cursor("SELECT 6 FROM t")] == []
            assert [row async for row in statement.cursor(1)] == []
            cursor = await connection.cursor("SELECT 7 FROM t")
            assert await cursor.fetch(5) == []

        self.run(work())
        assert self.names() == ["SELECT t"] * 10
        texts = [span.attributes["db.query.text"] for span in self.reporter.spans]
        assert (texts[0], texts[1], texts[5]) == (
            "SELECT ? FROM t", "SELECT 2 FROM t WHERE a = $1", "SELECT 5 FROM t WHERE a = $1",
        )

    def test_copy(self, connection: Any) -> None:
        async def work() -> None:
            await connection.copy_records_to_table("t", records=[(1, "x")])
            await connection.copy_from_table("t", output=io.BytesIO())
            await connection.copy_from_query("SELECT a FROM t WHERE a = 4711", output=io.BytesIO())

        self.run(work())
        assert self.names() == ["COPY t", "COPY t", "SELECT t"]
        assert "4711" not in str(self.reporter.spans[-1].attributes)

    def test_pools(self, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a pool executes to clean up after each request would stand in each trace as the program's own."""

        async def work() -> None:
            async with asyncpg.create_pool(**self.options(), min_size=1, max_size=1) as pool:
                await pool.fetch("SELECT 1")
                async with pool.acquire() as own:
                    await own.fetch("SELECT 2")

        with self.within() as parent:
            self.run(work())
        assert [name for name in self.names() if name != "CONNECT"] == ["SELECT", "SELECT"]
        assert {span.parent_id for span in self.reporter.spans} == {parent.span_id}
        monkeypatch.setattr(dbapi, "SLOW_NS", 0)
        self.reporter.spans.clear()
        with self.within():
            self.run(work())
        assert self.names() == ["CONNECT", "SELECT", "RESET", "SELECT", "RESET"]

    def test_over_a_socket(self, connection: Any) -> None:
        local = self.run(asyncpg.connect(**self.options(host=str(self.folder))))
        self.closing.callback(self.close, local)
        self.execute(local, "SELECT 1")
        attributes = self.the_span().attributes
        assert attributes["server.address"].startswith(str(self.folder))
        assert "server.port" not in attributes

    def test_side_by_side(self, connection: Any) -> None:
        """The statements of tasks that run at once would hang on each other."""

        async def work() -> None:
            async with asyncpg.create_pool(**self.options(), min_size=3, max_size=3) as pool:
                await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.02)") for _ in range(3)))

        with self.within() as parent:
            self.run(work())
        assert [span.parent_id for span in self.reporter.spans if span.name == "SELECT"] == [parent.span_id] * 3
