"""MySQL and MariaDB: PyMySQL, aiomysql, mysqlclient (MySQLdb) and mysql-connector-python, plain and async.

Their cursors are Python's classes and work alike; what differs is where a connection keeps its address. It is read once: a database
that is chosen later (``USE``) is not seen.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.dbapi import NOWHERE, Driver, place
from autoinstr.instrument.sql import text_of
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.instrument.dbapi import Target

SYSTEM = "mysql"
#: How ``MySQLdb.connect`` has its arguments among positional ones; and their other names.
POSITIONS = ("host", "user", "password", "database", "port", "unix_socket")
DEFAULT_HOST, DEFAULT_PORT = "localhost", 3306


def first_argument(error: BaseException) -> object:
    """The number of an error, by which MySQL's drivers tell them apart."""
    code = error.args[0] if error.args and not isinstance(error, OSError) else None
    return code if isinstance(code, int) else None


# PyMySQL, and what is made after it


def patch_pymysql(patcher: Patcher, tracing: Tracing) -> None:
    """``pymysql``."""
    driver = Driver(tracing, "pymysql", SYSTEM, read_pymysql, first_argument)
    patch_cursor(patcher, driver, "cursors.Cursor", is_async=False)
    patcher.wrap("connections.Connection.commit", driver.aside("COMMIT"))
    patcher.wrap("connections.Connection.rollback", driver.aside("ROLLBACK"))
    patcher.wrap("connections.Connection.connect", driver.aside("CONNECT"))


def patch_aiomysql(patcher: Patcher, tracing: Tracing) -> None:
    """``aiomysql``."""
    driver = Driver(tracing, "aiomysql", SYSTEM, read_aiomysql, first_argument)
    patch_cursor(patcher, driver, "cursors.Cursor", is_async=True)
    patcher.wrap("connection.Connection.commit", driver.aside("COMMIT", is_async=True))
    patcher.wrap("connection.Connection.rollback", driver.aside("ROLLBACK", is_async=True))
    patcher.wrap("connection.Connection._connect", driver.aside("CONNECT", is_async=True))


def patch_cursor(patcher: Patcher, driver: Driver, name: str, *, is_async: bool) -> None:
    """A cursor with the methods that those of PyMySQL have."""
    patcher.wrap(f"{name}.execute", driver.statement("query", "args", is_async=is_async))
    patcher.wrap(f"{name}.executemany", driver.batch("query", "args", is_async=is_async))
    patcher.wrap(f"{name}.callproc", driver.procedure("procname", is_async=is_async))


def read_pymysql(connection: Any) -> Target:
    return text_of(connection.db), *place(connection.host, connection.port, connection.unix_socket)


def read_aiomysql(connection: Any) -> Target:
    return text_of(connection.db), *place(connection.host, connection.port, connection.unix_socket)


# mysqlclient


def patch_mysqldb(patcher: Patcher, tracing: Tracing) -> None:
    """``MySQLdb.connections``: what they are in C does not say where they go, so it is kept when they are made."""
    driver = Driver(tracing, "MySQLdb", SYSTEM, lambda _: NOWHERE, first_argument)
    connecting = driver.aside("CONNECT")

    def make(wrapped: Any) -> Callable[..., None]:
        noticed = connecting(wrapped)

        def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807 - it is one
            try:
                self.__autoinstr_target__ = read_connecting(*arguments, **keywords)
            except Exception as trouble:  # Host safety: the connection is the program's.
                fault("the address of a MySQLdb connection", trouble)
            noticed(self, *arguments, **keywords)

        return __init__

    patch_cursor(patcher, driver, "cursors.BaseCursor", is_async=False)
    patcher.wrap("Connection.__init__", make)
    patcher.wrap("Connection.commit", driver.aside("COMMIT"))
    patcher.wrap("Connection.rollback", driver.aside("ROLLBACK"))


def read_connecting(*arguments: Any, **keywords: Any) -> Target:
    """Where ``MySQLdb.connect`` is about to go."""
    found = {**dict(zip(POSITIONS, arguments, strict=False)), **keywords}
    host, port = found.get("host") or DEFAULT_HOST, found.get("port") or DEFAULT_PORT
    if "read_default_file" in found or "read_default_group" in found:
        host, port = found.get("host") or "", found.get("port") or 0
    database = found.get("database") or found.get("db")
    return text_of(database), *place(host, port, found.get("unix_socket"))


# mysql-connector-python


def connector(tracing: Tracing) -> Driver:
    """Its cursors keep the connection to themselves."""
    return Driver(
        tracing, "mysql.connector", SYSTEM, read_connector,
        lambda error: getattr(error, "errno", None) if hasattr(error, "sqlstate") else None,
        lambda owner: getattr(owner, "_connection", owner),
    )  # fmt: skip


def patch_connector_cursors(patcher: Patcher, tracing: Tracing) -> None:
    """All classes of a module of cursors that execute in a way of their own; those of ``aio`` among them."""
    from inspect import iscoroutinefunction

    driver = connector(tracing)
    for name, kind in list(vars(patcher.module).items()):
        if not isinstance(kind, type) or kind.__module__ != patcher.module.__name__:
            continue
        own = vars(kind)
        for method, make in (("execute", driver.statement), ("executemulti", driver.statement), ("executemany", driver.batch)):
            if method in own:
                values = "seq_params" if method == "executemany" else "params"
                patcher.wrap(f"{name}.{method}", make("operation", values, is_async=iscoroutinefunction(own[method])))
        if "callproc" in own:
            patcher.wrap(f"{name}.callproc", driver.procedure("procname", is_async=iscoroutinefunction(own["callproc"])))


def patch_connector_connections(patcher: Patcher, tracing: Tracing) -> None:
    """What a module's connections do besides."""
    from inspect import iscoroutinefunction

    driver = connector(tracing)
    asides = {"commit": "COMMIT", "rollback": "ROLLBACK", "_open_connection": "CONNECT", "connect": "CONNECT"}
    for name in ("MySQLConnection", "CMySQLConnection"):
        own = vars(getattr(patcher.module, name, object))
        if getattr(own.get("commit"), "__module__", "") != patcher.module.__name__:
            continue
        for method, operation in asides.items():
            if method in own:
                patcher.wrap(f"{name}.{method}", driver.aside(operation, is_async=iscoroutinefunction(own[method])))


def read_connector(connection: Any) -> Target:
    found = getattr(connection, "_database", "")
    return text_of(found), *place(connection._host, connection._port, connection._unix_socket)
