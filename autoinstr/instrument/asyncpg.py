"""asyncpg: a span for each statement, prepared ones and cursors' included.

Its transactions and its pools execute statements of their own through the same methods: they are told from the program's by what they
say, or by the method that they come from.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.dbapi import Driver, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoinstr.instrument.dbapi import Target

#: Methods of a connection that execute their first argument with the others as its values.
FETCHING = ("execute", "fetch", "fetchval", "fetchrow")


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Connections (those of pools hand on to these), prepared statements, cursors."""
    driver = Driver(
        tracing, "asyncpg", "postgresql", read_target, lambda error: getattr(error, "sqlstate", None), connection_of, is_kept=False
    )
    direct = driver.given(lambda _, query, *values, **__: (query, bool(values)), is_async=True)
    prepared = driver.given(lambda owner, *values, **_: (owner._query, True), is_async=True)
    for name in FETCHING:
        patcher.wrap(f"connection.Connection.{name}", direct)
    for name in ("executemany", "fetchmany"):
        if hasattr(patcher.module.connection.Connection, name):
            values = "command" if name == "executemany" else "query"
            patcher.wrap(f"connection.Connection.{name}", driver.batch(values, "args", is_async=True))
    copies = {
        "copy_from_table": driver.given(lambda _, table_name, **__: (f"COPY {table_name}", True), is_async=True),
        "copy_from_query": driver.given(lambda _, query, *values, **__: (query, bool(values)), is_async=True),
        "copy_to_table": driver.given(lambda _, table_name, **__: (f"COPY {table_name}", True), is_async=True),
        "copy_records_to_table": driver.given(lambda _, table_name, **__: (f"COPY {table_name}", True), is_async=True),
    }
    for name, make in copies.items():
        patcher.wrap(f"connection.Connection.{name}", make)
    for name in ("fetch", "fetchval", "fetchrow", "fetchmany", "executemany"):
        if hasattr(patcher.module.prepared_stmt.PreparedStatement, name):
            patcher.wrap(f"prepared_stmt.PreparedStatement.{name}", prepared)
    for name in ("_bind", "_bind_exec"):
        patcher.wrap(f"cursor.BaseCursor.{name}", prepared)
    patcher.wrap("cursor.BaseCursor._exec", driver.aside("FETCH", is_async=True))
    patcher.wrap("connection.Connection.prepare", driver.aside("PREPARE", is_async=True))
    # Done each time that a connection goes back to its pool.
    patcher.wrap("connection.Connection.reset", driver.aside("RESET", is_async=True))
    patcher.wrap("connect_utils._connect", driver.aside("CONNECT", read_connecting, is_async=True))


def connection_of(owner: Any) -> Any:
    """Of a prepared statement or a cursor, or the connection itself."""
    return getattr(owner, "_connection", owner)


def read_target(connection: Any) -> Target:
    address = connection._addr
    host, port = (address, 0) if isinstance(address, str) else address[:2]
    return str(connection._params.database or ""), *place(host, port)


def read_connecting(dsn: Any = None, host: Any = None, port: Any = None, database: Any = None, **_: Any) -> Target:
    """Where ``connect`` is about to go; of several hosts none is named."""
    if dsn:
        from urllib.parse import urlsplit

        parts = urlsplit(dsn)
        is_one = "," not in parts.netloc
        host = host or (parts.hostname if is_one else None)
        port = port or (parts.port if is_one else None)
        database = database or parts.path.lstrip("/")
    return str(database or ""), *place(host, port)
