"""PyMySQL, aiomysql, mysqlclient and mysql-connector with a real MariaDB."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

import aiomysql
import mysql.connector
import mysql.connector.aio
import pymysql
import pymysql.cursors
import pytest

from autoinstr.instrument import mysql as instrument
from ports import free_port

from .contract_sql import BY_DJANGO, SqlContract, executed_by_django, mariadb_server, needs_mariadb

try:
    import MySQLdb
    import MySQLdb.cursors
except ImportError:  # It is built where it is installed, with a client library of MySQL's or MariaDB's.
    MySQLdb = None

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

pytestmark = needs_mariadb


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def folder(port: int) -> Iterator[Path]:
    with mariadb_server(port) as folder:
        yield folder


class MysqlContract(SqlContract):
    system = "mysql"
    no_table, duplicate = "1146", "1062"
    folder: Path
    #: How the driver calls its arguments.
    library: Any

    @pytest.fixture(autouse=True)
    def server(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def options(self, **changed: Any) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "user": "tests", "password": "secret", "database": "tests", **changed}

    def connect(self, **changed: Any) -> Any:
        return self.library.connect(**self.options(**changed))

    def refused(self) -> Any:
        return self.connect(port=1, database="nowhere")

    def misled(self) -> Any:
        return self.connect(port="many")

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        cursor = connection.cursor()
        cursor.execute(statement, values)
        found = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
        return found

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        cursor = connection.cursor()
        cursor.executemany(statement, values)
        cursor.close()

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()

    def test_a_closed_cursor(self, connection: Any) -> None:
        """A cursor that knows no connection any more would break the instrument."""
        cursor = connection.cursor()
        cursor.close()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
            cursor.execute("SELECT 1")

    def test_procedure(self, connection: Any) -> None:
        """What a procedure takes would be a gap in the trace, or the queries that the driver makes around it would be statements."""
        self.execute(connection, "CREATE OR REPLACE PROCEDURE p (IN x INT) SELECT x")
        self.reporter.spans.clear()
        cursor = connection.cursor()
        cursor.callproc("p", (5,))
        cursor.close()
        span = self.the_span()
        assert (span.name, span.attributes["db.collection.name"]) == ("CALL p", "p")

    def test_text_in_double_quotes(self, connection: Any) -> None:
        """What is a name elsewhere is a value here: passwords would be stored with the traces."""
        self.execute(connection, "SELECT a FROM `t` WHERE b = \"private\" AND 'it\\'s private' <> b")
        span = self.the_span()
        assert (span.name, span.attributes["db.query.text"]) == ("SELECT t", "SELECT a FROM `t` WHERE b = ? AND ?")


class TestPyMySQL(MysqlContract):
    scope = "pymysql"
    library = pymysql

    def instrument(self) -> None:
        self.patch(instrument.patch_pymysql, pymysql)

    def test_kinds_of_cursors(self, connection: Any) -> None:
        """Statements of cursors that give dictionaries, or read row by row, would be missing."""
        for kind in (pymysql.cursors.DictCursor, pymysql.cursors.SSCursor, pymysql.cursors.SSDictCursor):
            with connection.cursor(kind) as cursor:
                cursor.execute("SELECT 1 AS one")
                assert cursor.fetchone() in ({"one": 1}, (1,))
        assert self.names() == ["SELECT"] * 3

    def test_over_a_socket(self, connection: Any) -> None:
        with self.connect(unix_socket=f"{self.folder}/socket") as local, local.cursor() as cursor:
            cursor.execute("SELECT 1")
        attributes = self.the_span().attributes
        assert (attributes["server.address"], "server.port" in attributes) == (f"{self.folder}/socket", False)


@pytest.mark.skipif(MySQLdb is None, reason="mysqlclient is not installed")
class TestMysqlclient(MysqlContract):
    scope = "MySQLdb"
    library = MySQLdb

    def instrument(self) -> None:
        self.patch(instrument.patch_mysqldb, importlib.import_module("MySQLdb.connections"))

    def test_kinds_of_cursors(self, connection: Any) -> None:
        for kind in (MySQLdb.cursors.DictCursor, MySQLdb.cursors.SSCursor):
            with connection.cursor(kind) as cursor:
                cursor.execute(query="SELECT 1 AS one")
                assert cursor.fetchall() in (({"one": 1},), ((1,),))
        assert self.names() == ["SELECT"] * 2

    def test_django(self) -> None:
        """Django wraps the cursors: its statements would be missing, or the program would not run."""
        database: dict[str, object] = {
            "ENGINE": "django.db.backends.mysql", "HOST": "127.0.0.1", "PORT": self.port,
            "NAME": "tests", "USER": "tests", "PASSWORD": "secret",
        }  # fmt: skip
        executed = executed_by_django(database, "MySQLdb.connections", "mysql:patch_mysqldb")
        assert [name for name, _ in executed if name not in ("SELECT", "SET")] == BY_DJANGO
        assert "private" not in str(executed)

    def test_positional_arguments(self, connection: Any) -> None:
        """The address would be missing for programs that give it by position."""
        opened = MySQLdb.connect("127.0.0.1", "tests", "secret", "tests", self.port)
        self.closing.callback(opened.close)
        self.execute(opened, "SELECT 1")
        assert self.place().items() <= self.the_span().attributes.items()
        assert "secret" not in str(self.the_span().attributes)


class TestConnector(MysqlContract):
    scope = "mysql.connector"
    library = mysql.connector
    is_pure = True

    def instrument(self) -> None:
        ending = "" if self.is_pure else "_cext"
        self.patch(instrument.patch_connector_connections, importlib.import_module(f"mysql.connector.connection{ending}"))
        self.patch(instrument.patch_connector_cursors, importlib.import_module(f"mysql.connector.cursor{ending}"))

    def connect(self, **changed: Any) -> Any:
        return super().connect(use_pure=self.is_pure, **changed)

    def test_kinds_of_cursors(self, connection: Any) -> None:
        for kind in ({"dictionary": True}, {"buffered": True}, {"prepared": True}, {"raw": True}):
            cursor = connection.cursor(**kind)
            cursor.execute("SELECT 1 AS one")
            assert len(cursor.fetchall()) == 1
            cursor.close()
        assert self.names() == ["SELECT"] * 4


@pytest.mark.skipif(not mysql.connector.HAVE_CEXT, reason="mysql-connector's own library does not load here")
class TestConnectorInC(TestConnector):
    is_pure = False


class AsyncContract(MysqlContract):
    @pytest.fixture(autouse=True)
    def loop(self, stage: None) -> None:
        self._loop = asyncio.new_event_loop()
        self.closing.callback(self._loop.close)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        async def work() -> list[tuple[Any, ...]]:
            cursor = await connection.cursor()
            try:
                await cursor.execute(statement, values)
                return list(await cursor.fetchall()) if cursor.description else []
            finally:
                await cursor.close()

        return self.run(work())

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        async def work() -> None:
            cursor = await connection.cursor()
            try:
                await cursor.executemany(statement, values)
            finally:
                await cursor.close()

        self.run(work())

    def commit(self, connection: Any) -> None:
        self.run(connection.commit())

    def rollback(self, connection: Any) -> None:
        self.run(connection.rollback())

    def test_a_closed_cursor(self, connection: Any) -> None:
        async def work() -> None:
            cursor = await connection.cursor()
            await cursor.close()
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
                await cursor.execute("SELECT 1")

        self.run(work())

    def test_procedure(self, connection: Any) -> None:
        self.execute(connection, "CREATE OR REPLACE PROCEDURE p (IN x INT) SELECT x")
        self.reporter.spans.clear()

        async def work() -> None:
            cursor = await connection.cursor()
            await cursor.callproc("p", (5,))
            await cursor.close()

        self.run(work())
        assert self.names() == ["CALL p"]

    def test_failure(self, connection: Any) -> None:
        self.fails(lambda: self.execute(connection, "SELECT * FROM nope"), self.no_table)


class TestConnectorAsync(AsyncContract):
    scope = "mysql.connector"

    def instrument(self) -> None:
        self.patch(instrument.patch_connector_connections, importlib.import_module("mysql.connector.aio.connection"))
        self.patch(instrument.patch_connector_cursors, importlib.import_module("mysql.connector.aio.cursor"))

    def connect(self, **changed: Any) -> Any:
        return self.run(mysql.connector.aio.connect(**self.options(ssl_disabled=True, **changed)))

    def close(self, connection: Any) -> None:
        self.run(connection.close())


@pytest.mark.filterwarnings("ignore:Unknown table")  # Of the server, passed on by the driver: DROP TABLE IF EXISTS.
class TestAiomysql(AsyncContract):
    scope = "aiomysql"

    def instrument(self) -> None:
        self.patch(instrument.patch_aiomysql, aiomysql)

    def connect(self, **changed: Any) -> Any:
        options = self.options(**changed)
        options["db"] = options.pop("database")
        return self.run(aiomysql.connect(**options))

    def close(self, connection: Any) -> None:
        self.run(connection.ensure_closed())
