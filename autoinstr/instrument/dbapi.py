"""What instruments of DB-API drivers, and of those that work alike, share: what is said of a statement, and what has a span at all.

Owns: the rules below, the reading of what drivers are given, the subclassing of classes that are made in C.
Must not know: any driver. An instrument says where a connection goes, and wraps its driver's methods with what is made here.

* A statement is one span, whatever the driver calls inside for it. It lasts until the driver's method returns; rows that are fetched
  from the server later are not waited for.
* Whatever else goes to the server (connecting, commits, fetches) has a span only where it was slow or failed, and only below another
  one: nearly all are quick, there are as many as statements, and a trace full of them shows nothing. So has a statement that does no
  more, ``BEGIN`` and the like.
"""

from __future__ import annotations

from functools import wraps

from autoinstr.instrument.operation import around, around_async, end, is_left_alone, start
from autoinstr.instrument.sql import MAX_READ, describe_batch, describe_statement, name_of, text_of
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from autoinstr.instrument import Tracing
    from autoinstr.model import AttributeValue, Facts
    from autoinstr.trace import Span

    Make = Callable[[Any], Callable[..., Any]]
    #: Where a connection goes: the database's name, the host (or the path of a socket), the port.
    Target = tuple[str, str, int]

#: The flag of a coroutine function's code.
CO_COROUTINE = 0x80

#: What has a span only when it is slow, is slow from here on.
SLOW_NS = 10_000_000
#: Statements that only open, close or undo a transaction.
CONTROL = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"})
#: Classes of the program that subclasses are remembered for.
MAX_KINDS = 100
NOWHERE: Target = ("", "", 0)


class Driver:
    """The spans of one driver.

    ``read_target(connection)`` says where it goes; it is asked once for each, or (``is_kept`` false) each time. ``status_code(error)`` is
    the database's own code for an error, ``connection_of(owner)`` the connection of what a method is called on.
    """

    def __init__(
        self,
        tracing: Tracing,
        scope: str,
        system: str,
        read_target: Callable[[Any], Target],
        status_code: Callable[[BaseException], object],
        connection_of: Callable[[Any], Any] = lambda owner: getattr(owner, "connection", owner),
        *,
        is_kept: bool = True,
    ) -> None:
        self._tracing = tracing
        self.scope = scope
        self.system = system
        self._read_target = read_target
        self._status_code = status_code
        self._connection_of = connection_of
        self._is_kept = is_kept

    # What wraps a driver's methods.

    def statement(self, name: str, values: str, *, is_async: bool = False) -> Make:
        """For ``execute(self, name, values)``."""
        return self._around(self._begin(name, values), self._finish, is_async)

    def batch(self, name: str, values: str, *, is_async: bool = False) -> Make:
        """For ``executemany(self, name, values)``."""
        return self._around(self._begin(name, values, is_batch=True), self._finish, is_async)

    def procedure(self, name: str, *, is_async: bool = False) -> Make:
        """For ``callproc(self, name, …)``."""

        def begin(owner: Any, *arguments: Any, **keywords: Any) -> tuple[str, tuple[Facts, ...]]:
            called = arguments[0] if arguments else keywords.get(name)
            return self.described(owner, f"CALL {called}", is_parameterized=True)

        return self._around(begin, None, is_async)

    def given(self, read: Callable[..., tuple[object, bool]], *, is_async: bool = False) -> Make:
        """For a method from whose arguments ``read`` makes a statement, and whether its values are apart from it."""

        def begin(owner: Any, *arguments: Any, **keywords: Any) -> tuple[str, tuple[Facts, ...]] | None:
            statement, is_parameterized = read(owner, *arguments, **keywords)
            return self._unless_control(*self.described(owner, statement, is_parameterized=is_parameterized))

        return self._around(begin, self._finish, is_async)

    def aside(self, operation: str, target: Callable[..., Target] | None = None, *, is_async: bool = False) -> Make:
        """For what is no statement: a span if it is slow or fails. ``target`` reads the method's arguments where there is no connection."""

        def begin(*arguments: Any, **keywords: Any) -> tuple[str, tuple[Facts, ...]] | None:
            if current.get() is None:
                return None
            try:
                where = self.target(arguments[0]) if target is None else target(*arguments, **keywords)
            except Exception:  # An address that nobody understands: the driver will say so.
                where = NOWHERE
            return operation, self.said(operation, where)

        return self._around(begin, drop_if_quick, is_async)

    def _around(self, begin: Callable[..., Any], finish: Callable[[Span, Any], None] | None, is_async: bool) -> Make:
        span_around = (around_async if is_async else around)(self._tracing, self.scope, begin, finish)

        def make(wrapped: Any) -> Callable[..., Any]:
            async def noting_async(*arguments: Any, **keywords: Any) -> Any:
                try:
                    return await wrapped(*arguments, **keywords)
                except Exception as error:
                    self._note(error)
                    raise

            def noting(*arguments: Any, **keywords: Any) -> Any:
                try:
                    return wrapped(*arguments, **keywords)
                except Exception as error:
                    self._note(error)
                    raise

            traced = span_around(noting_async if is_async else noting)
            return functionlike(traced) if is_async and not _is_coroutine_function(wrapped) else traced

        return make

    # A span that lasts longer than a call.

    def open(self, owner: Any, *arguments: Any, **keywords: Any) -> Span | None:
        """A span for the statement that is the first of the arguments, for ``close``; it is never the current one."""
        parent = current.get()
        if is_left_alone(self._tracing, parent):
            return None
        try:
            statement = arguments[0] if arguments else next(iter(keywords.values()), "")
            is_parameterized = len(arguments) > 1 and has_values(arguments[1])
            described = self.described(owner, statement, is_parameterized=is_parameterized)
            return start(self._tracing, parent, self.scope, Kind.CLIENT, *described)
        except Exception as trouble:  # Host safety: it runs untraced.
            fault(f"the start of a {self.scope} call", trouble)
            return None

    def close(self, span: Span, error: BaseException | None) -> None:
        """End it; never raises."""
        if error is not None:
            self._note(error, span)
        end(span, self.scope, None, None, error)

    # What is said of a statement.

    def said(self, operation: str, where: Target) -> tuple[Facts, ...]:
        """The facts of what is no statement."""
        return (describe_statement, self.system, *where, "", True), (describe_operation, operation)

    def described(
        self, owner: Any, statement: Any, *, is_parameterized: bool, size: int = 0, where: Target | None = None
    ) -> tuple[str, tuple[Facts, ...]]:
        """The name of its span, and its facts."""
        if statement.__class__ is str:
            text: str = statement
        elif hasattr(statement, "as_string"):  # Composed of parts (psycopg), among which are values.
            text, is_parameterized = str(statement.as_string(self._connection_of(owner))), False
        else:
            text = text_of(statement)
        if len(text) > MAX_READ:
            text = text[:MAX_READ]
        fact = (describe_statement, self.system, *(where or self.target(owner)), text, is_parameterized)
        return name_of(text) or self.system, ((fact, (describe_batch, size)) if size > 1 else (fact,))

    def target(self, owner: Any) -> Target:
        """Where its connection goes."""
        connection = self._connection_of(owner)
        if connection is None:  # Closed.
            return NOWHERE
        found: Target | None = getattr(connection, "__autoinstr_target__", None) if self._is_kept else None
        if found is None:
            try:
                found = self._read_target(connection)
                if self._is_kept:
                    connection.__autoinstr_target__ = found
            except Exception as trouble:  # The statement is worth more than where it went.
                fault(f"the address of a {self.scope} connection", trouble)
        return found or NOWHERE

    def _begin(self, name: str, values: str, *, is_batch: bool = False) -> Callable[..., Any]:
        def begin(owner: Any, *arguments: Any, **keywords: Any) -> tuple[str, tuple[Facts, ...]] | None:
            statement = arguments[0] if arguments else keywords.get(name)
            given = arguments[1] if len(arguments) > 1 else keywords.get(values)
            if is_batch:
                size = 0 if given is None or not hasattr(given, "__len__") else len(given)
                return self.described(owner, statement, is_parameterized=True, size=size)
            return self._unless_control(*self.described(owner, statement, is_parameterized=has_values(given)))

        return begin

    @staticmethod
    def _unless_control(name: str, facts: tuple[Facts, ...]) -> tuple[str, tuple[Facts, ...]] | None:
        return None if name in CONTROL and current.get() is None else (name, facts)

    @staticmethod
    def _finish(span: Span, _: Any) -> None:
        if span.name in CONTROL:
            drop_if_quick(span, None)

    def _note(self, error: BaseException, span: Span | None = None) -> None:
        try:
            span = span or current.get()
            if span is not None and span.leaf and span.recording and span.scope == self.scope:
                code = self._status_code(error)
                if code:
                    span.set_attribute("db.response.status_code", str(code))
        except Exception as trouble:  # Host safety: the error is the program's.
            fault(f"the outcome of a {self.scope} call", trouble)


def describe_operation(operation: str) -> Mapping[str, AttributeValue]:
    """What was done where there was no statement."""
    return {"db.operation.name": operation}


def drop_if_quick(span: Span, _: Any) -> None:
    """Take back a span that is not worth showing: as if it had not been started."""
    if not span.end_ns and span.now_ns() - span.start_ns < SLOW_NS:
        span.end_ns = span.start_ns
        span.tracer.children -= 1


def has_values(given: Any) -> bool:
    """Whether a statement's values were given apart from it."""
    try:
        return bool(given)
    except Exception:  # An array: it has values.
        return True


def place(host: Any, port: Any, socket: Any = None) -> tuple[str, int]:
    """Host and port as they are recorded: a socket's path has no port."""
    if socket:
        return text_of(socket), 0
    host = text_of(host)
    try:
        return host, 0 if host.startswith("/") else int(port or 0)
    except (TypeError, ValueError):
        return host, 0


# Classes that are made in C: they cannot be changed, so their objects are made of subclasses.


class Kinds:
    """Subclasses of a class, and of the program's own subclasses of it, with methods of ours put *between* the two.

    There, calls by ``super()`` find them, and they see what reaches the driver. ``make(name, method)`` traces a single one.
    """

    def __init__(self, base: Any, methods: dict[str, Any], make: Callable[[str, Any], Any]) -> None:
        self.base = base
        self._make = make
        self._names = tuple(methods)
        self._layer = self._subclass(base, (base,), methods)
        self._known: dict[Any, Any] = {base: self._layer}

    def traced(self, kind: Any) -> Any:
        """A class that stands for ``kind``; anything that is no class of these stays what it is."""
        if not isinstance(kind, type) or not issubclass(kind, self.base) or issubclass(kind, self._layer):
            return kind
        found = self._known.get(kind)
        if found is None:
            if len(self._known) >= MAX_KINDS:
                self._known = {self.base: self._layer}
            # A method that calls the one below by the name of its class gets past us, so it is wrapped itself.
            bypassing = (name for name in self._names if _calls_by_name(getattr(kind, name)))
            methods = {name: self._make(name, getattr(kind, name)) for name in bypassing}
            found = self._known[kind] = self._subclass(kind, (kind, self._layer), methods)
        return found

    @staticmethod
    def _subclass(kind: Any, bases: tuple[Any, ...], methods: dict[str, Any]) -> Any:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        return type(kind)(kind.__name__, bases, {**names, **methods})


def _calls_by_name(method: Any) -> bool:
    code = getattr(method, "__code__", None)
    return code is not None and "super" not in code.co_names


def _is_coroutine_function(function: Any) -> bool:
    """As ``inspect`` says it, which is not worth loading for this."""
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & CO_COROUTINE)


def functionlike(make_coroutine: Callable[..., Any]) -> Callable[..., Any]:
    """For functions that return a coroutine and are no coroutine functions themselves, under some libraries' decorators."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return make_coroutine(*arguments, **keywords)

    return call


def like(original: Any, make: Make) -> Any:
    """``make(original)``, named and documented as it."""
    return wraps(original)(make(original))
