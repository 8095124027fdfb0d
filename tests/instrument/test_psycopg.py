"""psycopg and psycopg2 with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool
import pytest

from autoinstr.instrument import dbapi
from autoinstr.instrument import psycopg as instrument
from autoinstr.model import Status
from ports import free_port

from .contract_sql import BY_DJANGO, SqlContract, executed_by_django, needs_postgres, postgres_server

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


class PostgresContract(SqlContract):
    system = "postgresql"
    no_table, duplicate = "42P01", "23505"
    folder: Path

    @pytest.fixture(autouse=True)
    def server(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def dsn(self, **changed: object) -> str:
        wanted = {"host": "127.0.0.1", "port": self.port, "dbname": "tests", "user": "tests", **changed}
        return " ".join(f"{name}={value}" for name, value in wanted.items())


class CursorContract(PostgresContract):
    """Of both psycopgs."""

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(statement, values)

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()

    def test_a_cursor_of_a_closed_connection(self, connection: Any) -> None:
        """A connection that does not say any more where it went would break the instrument."""
        opened = self.connect()
        cursor = opened.cursor()
        opened.close()
        with pytest.raises(Exception, match="closed"):
            cursor.execute("SELECT 1")


class TestPsycopg(CursorContract):
    scope = "psycopg"

    def instrument(self) -> None:
        self.patch(instrument.patch, psycopg)

    def connect(self) -> Any:
        return psycopg.connect(self.dsn())

    def refused(self) -> Any:
        return psycopg.connect(self.dsn(port=1), dbname="nowhere")

    def misled(self) -> Any:
        return psycopg.connect("what=is this")

    def test_every_way_to_execute(self, connection: Any) -> None:
        """Statements would be missing, or there twice: a connection's method makes a cursor inside, kinds of cursors have their own."""
        connection.execute("SELECT 1 FROM t")
        psycopg.ClientCursor(connection).execute("SELECT 2 FROM t")
        psycopg.RawCursor(connection).execute("SELECT $1::int FROM t", (3,))
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT 4 FROM t")
            assert cursor.fetchall() == []
        cursor = connection.cursor()
        cursor.execute(query=b"SELECT 5 FROM t")
        cursor.executemany("SELECT %s::int FROM t", iter([(6,)]))
        cursor.executemany("SELECT %s::int FROM t", [(6,)], returning=True)
        assert self.names() == ["SELECT t"] * 7
        texts = [span.attributes["db.query.text"] for span in self.reporter.spans]
        assert texts[2:5] == ["SELECT $1::int FROM t", "SELECT ? FROM t", "SELECT ? FROM t"]

    def test_composed(self, connection: Any) -> None:
        """Statements that are put together safely would have no names, or show the values that are put into them."""
        made = psycopg.sql.SQL("SELECT {} FROM {} WHERE a = %s").format(psycopg.sql.Literal("private"), psycopg.sql.Identifier("t"))
        connection.execute(made, (1,))
        span = self.the_span()
        assert (span.name, span.attributes["db.query.text"]) == ("SELECT t", 'SELECT ? FROM "t" WHERE a = %s')

    def test_copy(self, connection: Any) -> None:
        """Loading data would be a gap in the trace; or what the program does meanwhile would hang on it."""
        with self.within() as parent:
            with connection.cursor().copy("COPY t (a, b) FROM STDIN") as copy:
                copy.write_row((1, "x"))
                assert instrument_current() is parent
            with connection.cursor().copy("COPY t TO STDOUT") as copy:
                assert list(copy.rows()) == [("1", "x")]
        assert self.names() == ["COPY t", "COPY t"]
        assert {span.parent_id for span in self.reporter.spans} == {parent.span_id}
        self.fails(lambda: copied(connection, "COPY nope FROM STDIN"), self.no_table)
        connection.rollback()

    def test_stream(self, connection: Any) -> None:
        """A statement whose rows are taken one by one would be missing, or never end."""
        rows = connection.cursor().stream("SELECT generate_series(1, %s)", (3,))
        assert list(rows) == [(1,), (2,), (3,)]
        assert self.names() == ["SELECT"]
        for row in connection.cursor().stream("SELECT generate_series(1, 3)"):
            assert row == (1,)
            break
        assert [span.status for span in self.reporter.spans] == [Status.UNSET] * 2
        self.fails(lambda: list(connection.cursor().stream("SELECT * FROM nope")), self.no_table)

    def test_transactions(self, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A constraint that is checked at the end would fail without a trace."""
        connection.execute("CREATE TEMP TABLE u (a INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        connection.commit()
        self.reporter.spans.clear()

        def work() -> None:
            with connection.transaction():
                connection.execute("INSERT INTO u VALUES (1), (1)")

        with self.within():
            self.fails(work, self.duplicate)
        assert self.names() == ["INSERT u", "COMMIT"]

    def test_fetching_from_the_server(self, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wait for the rows of a large result would be a gap in the trace."""
        with self.within(), connection.cursor("named") as cursor:
            cursor.execute("SELECT a FROM t")
            cursor.fetchmany(5)
            monkeypatch.setattr(dbapi, "SLOW_NS", 0)
            cursor.fetchmany(5)
        assert self.names() == ["SELECT t", "FETCH"]

    def test_over_a_socket(self, connection: Any) -> None:
        """A connection without a port would be said to have one."""
        with psycopg.connect(self.dsn(host=self.folder)) as local:
            local.execute("SELECT 1")
        attributes = self.reporter.spans[-1].attributes
        assert (attributes["server.address"], "server.port" in attributes) == (str(self.folder), False)

    def test_signatures(self, connection: Any) -> None:
        """Tools that look at signatures, and programs that subclass, would find others."""
        import inspect

        assert list(inspect.signature(psycopg.Cursor.execute).parameters) == ["self", "query", "params", "prepare", "binary"]
        assert inspect.iscoroutinefunction(psycopg.AsyncCursor.execute)
        assert inspect.isgeneratorfunction(psycopg.Cursor.stream)
        assert inspect.isasyncgenfunction(psycopg.AsyncCursor.stream)


def copied(connection: Any, statement: str) -> None:
    with connection.cursor().copy(statement):
        pass


def instrument_current() -> Any:
    from autoinstr.trace import current

    return current.get()


class TestPsycopgAsync(PostgresContract):
    scope = "psycopg"

    @pytest.fixture(autouse=True)
    def loop(self, stage: None) -> None:
        self._loop = asyncio.new_event_loop()
        self.closing.callback(self._loop.close)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def instrument(self) -> None:
        self.patch(instrument.patch, psycopg)

    def connect(self) -> Any:
        return self.run(psycopg.AsyncConnection.connect(self.dsn()))

    def refused(self) -> Any:
        return self.run(psycopg.AsyncConnection.connect(self.dsn(port=1), dbname="nowhere"))

    def misled(self) -> Any:
        return self.run(psycopg.AsyncConnection.connect("what=is this"))

    def close(self, connection: Any) -> None:
        self.run(connection.close())

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        async def work() -> list[tuple[Any, ...]]:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

        return self.run(work())

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        self.run(connection.cursor().executemany(statement, values))

    def commit(self, connection: Any) -> None:
        self.run(connection.commit())

    def rollback(self, connection: Any) -> None:
        self.run(connection.rollback())

    def test_failure(self, connection: Any) -> None:
        self.fails(lambda: self.execute(connection, "SELECT * FROM nope"), self.no_table)

    def test_side_by_side(self, connection: Any) -> None:
        """The statements of tasks that run at once would hang on each other."""

        async def one(number: int) -> None:
            async with await psycopg.AsyncConnection.connect(self.dsn()) as own:
                await own.execute("SELECT pg_sleep(0.05), %s::int", (number,))

        async def work() -> None:
            await asyncio.gather(*map(one, range(3)))

        with self.within() as parent:
            self.run(work())
        sleeps = [span for span in self.reporter.spans if span.name == "SELECT"]
        assert [span.parent_id for span in sleeps] == [parent.span_id] * 3

    def test_the_rest(self, connection: Any) -> None:
        async def work() -> None:
            async with connection.cursor().copy("COPY t (a, b) FROM STDIN") as copy:
                await copy.write_row((1, "x"))
            assert [row async for row in connection.cursor().stream("SELECT a FROM t")] == [(1,)]
            rows = connection.cursor().stream("SELECT generate_series(1, 3)")
            async for _ in rows:
                break
            await rows.aclose()
            async with connection.cursor("named") as cursor:
                await cursor.execute("SELECT 4 FROM t")
                assert await cursor.fetchall() == [(4,)]
            async with connection.transaction():
                await connection.execute("DELETE FROM t")

        self.run(work())
        assert self.names() == ["COPY t", "SELECT t", "SELECT", "SELECT t", "DELETE t"]


@pytest.mark.parametrize("is_by_2", [False, True], ids=["psycopg", "psycopg2"])
def test_django(port: int, folder: Path, is_by_2: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Django has cursors of its own, and uses those of the server: statements would be missing, or there twice."""
    if is_by_2:  # Django takes the newer one, if it is there.
        (tmp_path / "psycopg.py").write_text("raise ImportError")
    database: dict[str, object] = {
        "ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": port, "NAME": "tests", "USER": "tests",
        "OPTIONS": {"options": f"-c search_path={'two' if is_by_2 else 'three'}"},
    }  # fmt: skip
    with psycopg.connect(host="127.0.0.1", port=port, user="tests", dbname="tests") as connection:
        connection.execute("CREATE SCHEMA two" if is_by_2 else "CREATE SCHEMA three")
    target = "psycopg:patch_psycopg2" if is_by_2 else "psycopg:patch"
    executed = executed_by_django(database, "psycopg2" if is_by_2 else "psycopg", target, str(tmp_path))
    assert [name for name, _ in executed if name not in ("SELECT", "SET")] == BY_DJANGO
    assert "private" not in str(executed)


class TestPsycopg2(CursorContract):
    scope = "psycopg2"

    def instrument(self) -> None:
        self.patch(instrument.patch_psycopg2, psycopg2)

    def connect(self) -> Any:
        return psycopg2.connect(self.dsn())

    def refused(self) -> Any:
        return psycopg2.connect(self.dsn(port=1), dbname="nowhere")

    def misled(self) -> Any:
        return psycopg2.connect("what=is this")

    def test_objects_are_what_they_would_be(self, connection: Any) -> None:
        """``isinstance``, the registration of types and what C code checks would not be as the program knows them."""
        assert isinstance(connection, psycopg2.extensions.connection)
        assert (type(connection).__name__, type(connection).__module__) == ("connection", "psycopg2.extensions")
        with connection.cursor() as cursor:
            assert isinstance(cursor, psycopg2.extensions.cursor)
            assert cursor.connection is connection
            psycopg2.extensions.register_type(psycopg2.extensions.UNICODE, connection)
            psycopg2.extensions.register_type(psycopg2.extensions.UNICODE, cursor)
            psycopg2.extras.register_uuid(conn_or_curs=connection)
            psycopg2.extras.register_default_jsonb(cursor)
            assert psycopg2.extensions.quote_ident("a b", connection) == '"a b"'
            cursor.execute("""SELECT '{"a": 1}'::jsonb""")
            assert cursor.fetchone() == ({"a": 1},)
        assert psycopg2.extensions.adapt("x").getquoted() == b"'x'"
        with connection, connection.cursor(name="named") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT generate_series(1, 5)")
            assert [row[0] for row in cursor] == [1, 2, 3, 4, 5]

    def test_factories_of_the_program(self, connection: Any) -> None:
        """Programs bring classes of their own, and psycopg2 has some: their statements would be missing, or they would be others."""

        class Own(psycopg2.extensions.connection):
            def cursor(self, *arguments: Any, **keywords: Any) -> Any:
                keywords.setdefault("cursor_factory", OwnCursor)
                return super().cursor(*arguments, **keywords)

        class OwnCursor(psycopg2.extras.RealDictCursor):
            def execute(self, *arguments: Any) -> Any:
                return psycopg2.extensions.cursor.execute(self, *arguments)

        extras = psycopg2.extras
        for connection_factory, cursor_factory, expected in (
            (None, extras.DictCursor, extras.DictCursor),
            (None, extras.NamedTupleCursor, extras.NamedTupleCursor),
            (extras.DictConnection, None, extras.DictCursor),
            (extras.RealDictConnection, None, extras.RealDictCursor),
            (Own, None, OwnCursor),
        ):
            opened = psycopg2.connect(self.dsn(), connection_factory=connection_factory, cursor_factory=cursor_factory)
            self.closing.callback(opened.close)
            self.reporter.spans.clear()
            with opened.cursor() as cursor:
                assert isinstance(cursor, expected)
                assert type(cursor).__name__ == expected.__name__
                cursor.execute("SELECT 1 AS one")
                if expected is not OwnCursor:
                    row = cursor.fetchone()
                    assert (row.one if expected is extras.NamedTupleCursor else row["one"]) == 1
            assert self.names() == ["SELECT"]
            assert connection_factory is None or isinstance(opened, connection_factory)

    def test_every_way_to_execute(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(query="SELECT 1 FROM t")
            cursor.callproc("lower", ("X",))
            cursor.copy_from(io.StringIO("1\tx\n"), "t")
            cursor.copy_expert("COPY t TO STDOUT", io.StringIO())
            psycopg2.extras.execute_values(cursor, "INSERT INTO t (a, b) VALUES %s", [(2, "private"), (3, "private")])
            cursor.execute(psycopg2.sql.SQL("DELETE FROM {}").format(psycopg2.sql.Identifier("t")))
        assert self.names() == ["SELECT t", "CALL lower", "COPY t", "COPY t", "INSERT t", "DELETE t"]
        assert "private" not in str([span.attributes for span in self.reporter.spans])

    def test_pools_and_asynchronous_connections(self, connection: Any) -> None:
        pool = psycopg2.pool.SimpleConnectionPool(1, 1, self.dsn())
        self.closing.callback(pool.closeall)
        opened = pool.getconn()
        self.execute(opened, "SELECT 1")
        pool.putconn(opened)
        assert self.names() == ["SELECT"]
        opened = psycopg2.connect(self.dsn(), async_=1)
        self.closing.callback(opened.close)
        assert type(opened) is psycopg2.extensions.connection
