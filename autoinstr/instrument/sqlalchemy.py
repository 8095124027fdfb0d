"""SQLAlchemy: spans for the statements of drivers that have no instrument of their own, with what the engine knows of the database.

With the other drivers it adds nothing: their spans are there already, and one for the same statement above them would say it twice.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.dbapi import NOWHERE, Driver, drop_if_quick, has_values, place
from autoinstr.instrument.operation import around
from autoinstr.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.instrument.dbapi import Target
    from autoinstr.model import Facts

SCOPE = "sqlalchemy"
#: As dialects call the drivers that have instruments.
TRACED = frozenset(
    {
        *("pysqlite", "pysqlite_numeric", "pysqlite_dollar", "aiosqlite"),
        *("psycopg", "psycopg_async", "psycopg2", "asyncpg"),
        *("pymysql", "aiomysql", "mysqldb", "mysqlconnector"),
    }
)
#: Dialects that OpenTelemetry calls otherwise.
SYSTEMS = {"oracle": "oracle.db", "mssql": "microsoft.sql_server", "db2": "ibm.db2", "redshift": "aws.redshift", "bigquery": "gcp.bigquery"}


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """The dialects' methods that call the driver, and nothing else."""
    statements = Statements(tracing)
    for name in ("do_execute", "do_execute_no_params", "do_executemany"):
        patcher.wrap(f"DefaultDialect.{name}", around(tracing, SCOPE, statements.begin(name)))
    for name, operation in (("do_commit", "COMMIT"), ("do_rollback", "ROLLBACK")):
        patcher.wrap(f"DefaultDialect.{name}", around(tracing, SCOPE, statements.begin_aside(operation), drop_if_quick))


class Statements:
    """What is said of a statement whose driver is unknown."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._drivers: dict[str, Driver] = {}

    def begin(self, name: str) -> Callable[..., Any]:
        """For a method that is given a cursor, a statement, its values where it has some, and the context."""
        is_batch, has_none = name == "do_executemany", name == "do_execute_no_params"

        def begin(
            dialect: Any, cursor: Any, statement: Any, *others: Any, context: Any = None, **_: Any
        ) -> tuple[str, tuple[Facts, ...]] | None:
            if dialect.driver in TRACED:
                return None
            values = others[0] if others and not has_none else ()
            context = context or (others[-1] if len(others) > (0 if has_none else 1) else None)
            size = len(values) if is_batch and hasattr(values, "__len__") else 0
            return self._driver(dialect.name).described(
                None, statement, is_parameterized=is_batch or has_values(values), size=size, where=target_of(context)
            )

        return begin

    def begin_aside(self, operation: str) -> Callable[..., Any]:
        """For the end of a transaction."""

        def begin(dialect: Any, *_: Any) -> tuple[str, tuple[Facts, ...]] | None:
            if dialect.driver in TRACED or current.get() is None:
                return None
            return operation, self._driver(dialect.name).said(operation, NOWHERE)

        return begin

    def _driver(self, dialect: str) -> Driver:
        found = self._drivers.get(dialect)
        if found is None:
            system = SYSTEMS.get(dialect, dialect)
            found = self._drivers[dialect] = Driver(self._tracing, SCOPE, system, lambda _: NOWHERE, lambda _: None)
        return found


def target_of(context: Any) -> Target:
    """Where the engine goes, by its URL."""
    if context is None:
        return NOWHERE
    url = context.root_connection.engine.url
    return str(url.database or ""), *place(url.host, url.port)
