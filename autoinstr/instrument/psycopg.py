"""psycopg (3, plain and async) and psycopg2: a span for each statement, COPY and streaming included.

psycopg's classes are Python's, and their methods are wrapped. psycopg2's are made in C: its connections and cursors are of subclasses
of what they would be made of, which is also what its C code and ``register_type`` take them for. Its asynchronous connections are left
alone: there a method returns before the statement is done.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.dbapi import NOWHERE, Driver, Kinds, like, place
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from autoinstr.instrument.dbapi import Make, Target

SYSTEM = "postgresql"
#: Where ``connect`` of psycopg2 has its ``connection_factory`` among positional arguments, and ``cursor`` its ``cursor_factory``.
FACTORY_AT = 1


def read_target(connection: Any) -> Target:
    """Both psycopgs tell it alike, and only while the connection is open."""
    if connection.closed:
        return NOWHERE
    info = connection.info
    return str(info.dbname or ""), *place(info.host, info.port)


# psycopg


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Cursors of all kinds, and what connections do besides."""
    driver = Driver(tracing, "psycopg", SYSTEM, read_target, lambda error: getattr(error, "sqlstate", None))
    connecting = make_read_connecting(patcher.module)
    for prefix, is_async in (("", False), ("Async", True)):
        for kind in ("Cursor", "ServerCursor"):
            patcher.wrap(f"{prefix}{kind}.execute", driver.statement("query", "params", is_async=is_async))
            patcher.wrap(f"{prefix}{kind}.executemany", driver.batch("query", "params_seq", is_async=is_async))
        for name in ("fetchone", "fetchmany", "fetchall"):
            patcher.wrap(f"{prefix}ServerCursor.{name}", driver.aside("FETCH", is_async=is_async))
        patcher.wrap(f"{prefix}Connection.commit", driver.aside("COMMIT", is_async=is_async))
        patcher.wrap(f"{prefix}Connection.rollback", driver.aside("ROLLBACK", is_async=is_async))
        patcher.wrap(f"{prefix}Connection.connect", driver.aside("CONNECT", connecting, is_async=is_async))
        # Transactions as context managers do not come through the connection's methods.
        ends = "__aexit__" if is_async else "__exit__"
        patcher.wrap(f"{prefix}Transaction.{ends}", driver.aside("COMMIT", is_async=is_async))
    patcher.set(patcher.module, "connect", patcher.module.Connection.connect)  # The same, bound before.
    patcher.wrap("Cursor.copy", make_copy(driver))
    patcher.wrap("AsyncCursor.copy", make_copy_async(driver))
    patcher.wrap("Cursor.stream", make_stream(driver))
    patcher.wrap("AsyncCursor.stream", make_stream_async(driver))


def make_read_connecting(module: Any) -> Callable[..., Target]:
    """Where ``connect`` is about to go."""

    def read(_: Any, conninfo: str = "", **keywords: Any) -> Target:
        keywords = {name: keywords[name] for name in ("host", "port", "dbname") if keywords.get(name)}
        found = {**module.conninfo.conninfo_to_dict(conninfo), **keywords}
        return str(found.get("dbname") or ""), *place(found.get("host") or "", found.get("port"))

    return read


def make_copy(driver: Driver) -> Make:
    """The span lasts as long as the block in which data are copied, and is not current there: that is the program's code."""
    from contextlib import contextmanager

    def make(wrapped: Any) -> Callable[..., Any]:
        @contextmanager
        def copy(self: Any, *arguments: Any, **keywords: Any) -> Iterator[Any]:
            span = driver.open(self, *arguments, **keywords)
            error: BaseException | None = None
            try:
                with wrapped(self, *arguments, **keywords) as copied:
                    yield copied
            except BaseException as raised:
                error = raised
                raise
            finally:
                if span is not None:
                    driver.close(span, error)

        return copy

    return make


def make_copy_async(driver: Driver) -> Make:
    """As ``make_copy``."""
    from contextlib import asynccontextmanager

    def make(wrapped: Any) -> Callable[..., Any]:
        @asynccontextmanager
        async def copy(self: Any, *arguments: Any, **keywords: Any) -> AsyncIterator[Any]:
            span = driver.open(self, *arguments, **keywords)
            error: BaseException | None = None
            try:
                async with wrapped(self, *arguments, **keywords) as copied:
                    yield copied
            except BaseException as raised:
                error = raised
                raise
            finally:
                if span is not None:
                    driver.close(span, error)

        return copy

    return make


def make_stream(driver: Driver) -> Make:
    """The span lasts until the last row is taken, or the program wants no more; it is not current in between."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def stream(self: Any, *arguments: Any, **keywords: Any) -> Iterator[Any]:
            span = driver.open(self, *arguments, **keywords)
            error: BaseException | None = None
            try:
                yield from wrapped(self, *arguments, **keywords)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if span is not None:
                    driver.close(span, error)

        return stream

    return make


def make_stream_async(driver: Driver) -> Make:
    """As ``make_stream``."""

    def make(wrapped: Any) -> Callable[..., Any]:
        async def stream(self: Any, *arguments: Any, **keywords: Any) -> AsyncIterator[Any]:
            span = driver.open(self, *arguments, **keywords)
            error: BaseException | None = None
            rows = wrapped(self, *arguments, **keywords)
            try:
                async for row in rows:
                    yield row
            except BaseException as raised:
                error = raised
                raise
            finally:
                try:
                    await rows.aclose()
                finally:
                    if span is not None:
                        driver.close(span, error)

        return stream

    return make


# psycopg2


def patch_psycopg2(patcher: Patcher, tracing: Tracing) -> None:
    """``connect`` makes traced connections, and these traced cursors."""
    extensions = patcher.module.extensions
    driver = Driver(tracing, "psycopg2", SYSTEM, read_target, lambda error: getattr(error, "pgcode", None))
    connections = psycopg2_kinds(driver, extensions.connection, extensions.cursor)
    connecting = driver.aside("CONNECT", lambda *arguments, **keywords: read_dsn(extensions, *arguments, **keywords))

    def make(wrapped: Any) -> Callable[..., Any]:
        noticed = connecting(wrapped)

        def connect(*arguments: Any, **keywords: Any) -> Any:
            if keywords.get("async") or keywords.get("async_"):
                return wrapped(*arguments, **keywords)
            try:
                is_positional = len(arguments) > FACTORY_AT
                given = arguments[FACTORY_AT] if is_positional else keywords.get("connection_factory")
                factory = connections.traced(given or extensions.connection)
            except Exception as trouble:  # Host safety: the connection is as it would be without us.
                fault("a connection of psycopg2", trouble)
                return wrapped(*arguments, **keywords)
            if is_positional:
                arguments = (*arguments[:FACTORY_AT], factory, *arguments[FACTORY_AT + 1 :])
            else:
                keywords["connection_factory"] = factory
            return noticed(*arguments, **keywords)

        return connect

    patcher.wrap("connect", make)


def read_dsn(extensions: Any, dsn: Any = None, *_: Any, **keywords: Any) -> Target:
    """Where ``connect`` is about to go."""
    found: dict[str, Any] = {**(extensions.parse_dsn(dsn) if dsn else {}), **keywords}
    return str(found.get("dbname") or found.get("database") or ""), *place(found.get("host") or "", found.get("port"))


def psycopg2_kinds(driver: Driver, bare_connection: Any, bare_cursor: Any) -> Kinds:
    """Connections whose cursors' statements are traced."""
    makers: dict[str, Make] = {
        "execute": driver.statement("query", "vars"),
        "executemany": driver.batch("query", "vars_list"),
        "callproc": driver.procedure("procname"),
        "copy_expert": driver.given(lambda _, sql, *__, **___: (sql, False)),
        "copy_from": driver.given(lambda _, file, table, *__, **___: (f"COPY {table}", True)),
        "copy_to": driver.given(lambda _, file, table, *__, **___: (f"COPY {table}", True)),
    }
    asides: dict[str, Make] = {
        "commit": driver.aside("COMMIT"),
        "rollback": driver.aside("ROLLBACK"),
        "__exit__": driver.aside("COMMIT"),
    }

    def make(name: str, method: Any) -> Any:
        return like(method, makers[name])

    def make_aside(name: str, method: Any) -> Any:
        return method if name == "cursor" else like(method, asides[name])

    cursors = Kinds(bare_cursor, {name: make(name, getattr(bare_cursor, name)) for name in makers}, make)

    def cursor(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            is_positional = len(arguments) > FACTORY_AT
            given = arguments[FACTORY_AT] if is_positional else keywords.get("cursor_factory")
            factory = cursors.traced(given or self.cursor_factory or bare_cursor)
            if is_positional:
                arguments = (*arguments[:FACTORY_AT], factory, *arguments[FACTORY_AT + 1 :])
            else:
                keywords["cursor_factory"] = factory
        except Exception as trouble:  # Host safety: a kind of cursor that cannot be subclassed.
            fault("a cursor of psycopg2", trouble)
        return bare_connection.cursor(self, *arguments, **keywords)

    methods = {name: make_aside(name, getattr(bare_connection, name)) for name in asides}
    return Kinds(bare_connection, {"cursor": like(bare_connection.cursor, lambda _: cursor), **methods}, make_aside)
