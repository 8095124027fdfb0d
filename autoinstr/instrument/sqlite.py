"""sqlite3: a span for each statement.

The module's classes are made in C and cannot be changed, so connections are made of subclasses of what they would be made of: they are
what ``isinstance`` says, and what C code takes them for. Cursors of the program's own kind (Django's) are subclassed alike.
"""

from __future__ import annotations

from functools import wraps

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.operation import around
from autoinstr.instrument.sql import describe_statement, name_of
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.model import Facts

SCOPE, SYSTEM = "sqlite3", "sqlite"
METHODS = ("execute", "executemany", "executescript")
#: Where ``connect`` has its ``factory`` among positional arguments.
FACTORY_AT = 5


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``connect`` makes traced connections; all statements go through their cursors, those of ``Connection.execute`` as well."""
    original = patcher.module.Connection
    traced = subclasses(tracing)

    def make(wrapped: Any) -> Callable[..., Any]:
        def connect(*arguments: Any, **keywords: Any) -> Any:
            try:
                is_positional = len(arguments) > FACTORY_AT
                factory = arguments[FACTORY_AT] if is_positional else keywords.get("factory", original)
                namespace = name_of_database(arguments[0] if arguments else keywords.get("database"))
                factory = traced(factory, namespace)
            except Exception as trouble:  # Host safety: the connection is as it would be without us.
                fault("a connection of sqlite3", trouble)
                return wrapped(*arguments, **keywords)
            if is_positional:
                arguments = (*arguments[:FACTORY_AT], factory, *arguments[FACTORY_AT + 1 :])
            else:
                keywords["factory"] = factory
            return wrapped(*arguments, **keywords)

        return connect

    patcher.wrap("connect", make)


def name_of_database(database: Any) -> str:
    """The last part of its path: whole paths differ from machine to machine, and say who uses it."""
    import os

    text = os.fsdecode(database)
    return text if text.startswith(":") else text.partition("?")[0].replace("\\", "/").rpartition("/")[2]


def subclasses(tracing: Tracing) -> Callable[[Any, str], Any]:
    """``traced(factory, namespace)``: what makes traced connections instead of a class; anything else stays what it is."""
    connections: dict[Any, Any] = {}
    cursors: dict[Any, Any] = {}

    def begin(method: str) -> Callable[..., tuple[str, tuple[Facts, ...]]]:
        is_batch = method == "executemany"

        def described(owner: Any, statement: Any = "", parameters: Any = (), *_: Any) -> tuple[str, tuple[Facts, ...]]:
            size = len(parameters) if is_batch and hasattr(parameters, "__len__") else 0
            namespace = getattr(owner, "connection", owner).__autoinstr_namespace__
            fact = (describe_statement, SYSTEM, namespace, "", 0, statement, bool(parameters), size)
            return name_of(statement) or SYSTEM, (fact,)

        return described

    def statements(kind: Any) -> dict[str, Any]:
        return {name: wraps(getattr(kind, name))(around(tracing, SCOPE, begin(name))(getattr(kind, name))) for name in METHODS}

    def traced_cursor(kind: Any) -> Any:
        if kind not in cursors:
            cursors[kind] = _subclass(kind, statements(kind))
        return cursors[kind]

    def make_cursor_method(kind: Any, default: Any) -> Callable[..., Any]:
        def cursor(self: Any, factory: Any = default) -> Any:
            try:
                factory = traced_cursor(factory) if isinstance(factory, type) else factory
            except Exception as trouble:  # Host safety: a kind of cursor that cannot be subclassed.
                fault("a cursor of sqlite3", trouble)
            return kind.cursor(self, factory)

        return cursor

    def traced(factory: Any, namespace: str) -> Any:
        if not isinstance(factory, type):
            return factory
        if factory not in connections:
            import sqlite3

            # Those of the connection make a cursor, and do not come through its methods.
            methods = {"cursor": make_cursor_method(factory, sqlite3.Cursor), **statements(factory)}
            connections[factory] = _subclass(factory, methods)
        kind = connections[factory]

        def connection(*arguments: Any, **keywords: Any) -> Any:
            made = kind(*arguments, **keywords)
            made.__autoinstr_namespace__ = namespace
            return made

        return connection

    return traced


def _subclass(kind: Any, methods: dict[str, Any]) -> Any:
    """It goes by the name of what it stands for."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind)(kind.__name__, (kind,), {**names, **methods})
