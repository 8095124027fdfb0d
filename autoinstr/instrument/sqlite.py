"""sqlite3: a span for each statement, also through aiosqlite, whose thread gets the context of each call.

The module's classes are made in C and cannot be changed, so connections are made of subclasses of what they would be made of: they are
what ``isinstance`` says, and what C code takes them for. Cursors of the program's own kind (Django's) are subclassed alike.
"""

from __future__ import annotations

import sys

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.dbapi import NOWHERE, Driver, Kinds, like
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.instrument.dbapi import Make

SCOPE, SYSTEM = "sqlite3", "sqlite"
METHODS = ("execute", "executemany", "executescript")
#: Where ``connect`` has its ``factory`` among positional arguments.
FACTORY_AT = 5


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``connect`` makes traced connections; all statements go through their cursors, those of ``Connection.execute`` as well."""
    original = patcher.module.Connection
    connections = connection_kinds(tracing, original, patcher.module.Cursor)

    def make(wrapped: Any) -> Callable[..., Any]:
        def connect(*arguments: Any, **keywords: Any) -> Any:
            try:
                is_positional = len(arguments) > FACTORY_AT
                factory = connections.traced(arguments[FACTORY_AT] if is_positional else keywords.get("factory", original))
                target = name_of_database(arguments[0] if arguments else keywords.get("database")), "", 0
            except Exception as trouble:  # Host safety: the connection is as it would be without us.
                fault("a connection of sqlite3", trouble)
                return wrapped(*arguments, **keywords)
            if is_positional:
                arguments = (*arguments[:FACTORY_AT], factory, *arguments[FACTORY_AT + 1 :])
            else:
                keywords["factory"] = factory
            connection = wrapped(*arguments, **keywords)
            if type(connection) is factory:
                connection.__autoinstr_target__ = target
            return connection

        return connect

    patcher.wrap("connect", make)


def patch_aiosqlite(patcher: Patcher, tracing: Tracing) -> None:
    """Its thread does all calls of a connection, in the context in which that was opened, unless each brings its own."""
    from contextvars import copy_context
    from functools import partial

    def carrying(kind: Any) -> Any:
        class Calls(kind):  # type: ignore[misc]
            def put_nowait(self, item: Any) -> None:
                try:
                    future, function = item
                    item = future, partial(copy_context().run, function)
                except Exception as trouble:  # Host safety: what is not understood goes through as it is.
                    fault("a call of aiosqlite", trouble)
                super().put_nowait(item)

        return Calls

    for name in ("SimpleQueue", "Queue"):  # Which of them it uses depends on its version.
        if hasattr(patcher.module, name):
            patcher.set(patcher.module, name, carrying(getattr(patcher.module, name)))


def name_of_database(database: Any) -> str:
    """The last part of its path: whole paths differ from machine to machine, and say who uses it."""
    import os

    if not isinstance(database, (str, bytes, os.PathLike)):
        return ""
    text = os.fsdecode(database)
    return text if text.startswith(":") else text.partition("?")[0].replace("\\", "/").rpartition("/")[2]


def connection_kinds(tracing: Tracing, bare_connection: Any, bare_cursor: Any) -> Kinds:
    """Connections whose statements, and whose cursors' statements, are traced."""
    driver = Driver(tracing, SCOPE, SYSTEM, lambda _: NOWHERE, lambda error: getattr(error, "sqlite_errorname", None))
    makers: dict[str, Make] = {
        "execute": driver.statement("sql", "parameters"),
        "executemany": driver.batch("sql", "parameters"),
        "executescript": driver.statement("sql_script", ""),
        "commit": driver.aside("COMMIT"),
        "rollback": driver.aside("ROLLBACK"),
        # The end of a `with` block, which does not come through the other two.
        "__exit__": driver.aside("COMMIT"),
    }

    def make(name: str, method: Any) -> Any:
        return like(method, makers[name])

    cursors = Kinds(bare_cursor, {name: make(name, getattr(bare_cursor, name)) for name in METHODS}, make)

    def cursor(self: Any, factory: Any = bare_cursor) -> Any:
        try:
            factory = cursors.traced(factory)
        except Exception as trouble:  # Host safety: a kind of cursor that cannot be subclassed.
            fault("a cursor of sqlite3", trouble)
        return bare_connection.cursor(self, factory)

    def by_cursor(name: str) -> Any:
        def call(original: Any) -> Callable[..., Any]:
            def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
                # As the original does in C, where it would make a cursor that is not ours.
                return getattr(cursor(self), name)(*arguments, **keywords)

            return method

        return like(getattr(bare_connection, name), call)

    methods: dict[str, Any] = {"cursor": like(bare_connection.cursor, lambda _: cursor)}
    methods |= {name: make(name, getattr(bare_connection, name)) for name in ("commit", "rollback", "__exit__")}
    if sys.version_info >= (3, 11):  # Before, they ask the connection's own method for a cursor.
        methods |= {name: by_cursor(name) for name in METHODS}

    def make_connection_method(name: str, method: Any) -> Any:
        return method if name == "cursor" else make(name, method)

    return Kinds(bare_connection, methods, make_connection_method)
