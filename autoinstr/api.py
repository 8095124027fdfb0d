"""The Python API, for programs that want more than the agent does by itself. Nothing here is needed for tracing.

Everything works, without effect, where the agent is disabled; where it was not started by the launcher, the first call starts
it from the environment, without patching any library.
"""

from __future__ import annotations

from autoinstr import runtime
from autoinstr.model import Kind, Link, SpanContext
from autoinstr.trace import SUPPRESSED, Span, UnsampledSpan, current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence
    from contextvars import Token
    from types import TracebackType
    from typing import Any, TypeVar

    from autoinstr.model import Attributes, AttributeValue

    F = TypeVar("F", bound=Callable[..., Any])


class NoSpan(UnsampledSpan):
    """What stands for the span where there is none. One for all, so nothing that a program does to it may stay."""

    __slots__ = ()

    def set_attribute(self, key: str, value: AttributeValue) -> Span:
        """Nothing, not even for ``sampling.priority``."""
        return self

    def set_baggage(self, key: str, value: str | None) -> Span:
        """Nothing."""
        return self

    def update_name(self, name: str) -> None:
        """Nothing."""

    def end(self, end_ns: int = 0) -> None:
        """Nothing."""


def _make_no_span() -> Span:
    span = SUPPRESSED.tracer.start("none")
    span.__class__ = NoSpan
    span.trace_id = span.span_id = 0
    return span


NO_SPAN = _make_no_span()


def current_span() -> Span:
    """The span that is active now; one that takes everything and records nothing where there is none."""
    span = current.get()
    return NO_SPAN if span is None or span is SUPPRESSED else span


class span:  # noqa: N801 - used like a function
    """A span around a block or a function: ``with span("load"):``, ``@span("load")``.

    It is current inside; an exception that leaves the block is recorded and sets the status. ``kind`` is one of ``Kind``;
    ``parent`` is a span or an extracted context instead of the current span. ``with`` gives the ``Span``. A decorated function
    has a new span for each call, until the coroutine has been awaited or the generator has ended.
    """

    __slots__ = ("_attributes", "_entered", "_kind", "_links", "_name", "_parent")

    def __init__(
        self,
        name: str,
        *,
        kind: int = Kind.INTERNAL,
        attributes: Attributes | None = None,
        parent: Span | SpanContext | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._parent = parent
        self._links = links
        #: What was entered and not yet left: the object may be entered again, also inside itself.
        self._entered: list[tuple[Span, Token[Span | None]]] = []

    def _start(self) -> Span:
        agent = runtime.get()
        if agent is None:
            return NO_SPAN
        return agent.tracing.tracer.start_span(
            self._name,
            kind=self._kind,
            parent=self._parent if self._parent is not None else current.get(),
            attributes=self._attributes,
            links=self._links,
        )

    def __enter__(self) -> Span:
        started = self._start()
        self._entered.append((started, current.set(started)))
        return started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started, token = self._entered.pop()
        _reset(token)
        started.__exit__(kind, error, traceback)

    def _again(self) -> span:
        return span(
            self._name, kind=self._kind, attributes=self._attributes, parent=self._parent, links=self._links
        )

    def __call__(self, function: F) -> F:
        """Decorate: a new span for each call."""
        from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

        for is_kind, trace in (
            (iscoroutinefunction, _trace_coroutine),
            (isgeneratorfunction, _trace_generator),
            (isasyncgenfunction, _trace_async_generator),
        ):
            if is_kind(function):
                return trace(self, function)  # type: ignore[return-value]
        return _trace_function(self, function)  # type: ignore[return-value]


def _trace_function(template: span, function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)
    def traced(*arguments: Any, **keywords: Any) -> Any:
        with template._again():
            return function(*arguments, **keywords)

    return traced


def _trace_coroutine(template: span, function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)
    async def traced(*arguments: Any, **keywords: Any) -> Any:
        with template._again():
            return await function(*arguments, **keywords)

    return traced


def _trace_generator(template: span, function: Callable[..., Any]) -> Callable[..., Any]:
    """The span is the current one in the generator's steps, and not in between, which is the consumer's time."""
    from functools import wraps

    @wraps(function)
    def traced(*arguments: Any, **keywords: Any) -> Any:
        generator = function(*arguments, **keywords)
        move, value = generator.send, None
        with template._start() as started:
            while True:
                token = current.set(started)
                try:
                    result = move(value)
                except StopIteration as stop:
                    return stop.value
                finally:
                    _reset(token)
                try:
                    move, value = generator.send, (yield result)
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as error:
                    move, value = generator.throw, error

    return traced


def _trace_async_generator(template: span, function: Callable[..., Any]) -> Callable[..., Any]:
    """As for a generator."""
    from functools import wraps

    @wraps(function)
    async def traced(*arguments: Any, **keywords: Any) -> Any:
        generator = function(*arguments, **keywords)
        move, value = generator.asend, None
        with template._start() as started:
            while True:
                token = current.set(started)
                try:
                    result = await move(value)
                except StopAsyncIteration:
                    return
                finally:
                    _reset(token)
                try:
                    move, value = generator.asend, (yield result)
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:
                    move, value = generator.athrow, error

    return traced


def _reset(token: Token[Span | None]) -> None:
    try:
        current.reset(token)
    except ValueError:  # A generator that is closed elsewhere than it ran.
        pass


def inject(carrier: MutableMapping[str, str] | None = None, context: Span | SpanContext | None = None) -> Any:
    """Write the headers that continue ``context`` (by default the current span) into ``carrier``, and return it."""
    carrier = {} if carrier is None else carrier
    agent = runtime.get()
    source = context if context is not None else current.get()
    if agent is not None and source is not None and (source.trace_id or source.baggage):
        for name, value in agent.tracing.plain.inject(source):
            carrier[name] = value
    return carrier


def extract(carrier: Mapping[str, str] | Mapping[bytes, bytes]) -> SpanContext | None:
    """The context that a caller sent in a mapping of headers, whatever the case of their names; ``None`` if none.

    Names and values may be bytes, as message queues hand them over.
    """
    agent = runtime.get()
    if agent is None:
        return None
    items: Any = carrier.items()
    plain = {(name.decode("latin-1") if isinstance(name, bytes) else str(name)).lower(): value for name, value in items}
    return agent.tracing.plain.extract(plain)


def flush(timeout: float = 5.0) -> bool:
    """Send all finished spans now, waiting at most ``timeout`` seconds; True if nothing is left."""
    agent = runtime.get()
    return agent is None or agent.flush(timeout)


def metrics() -> dict[str, int]:
    """The agent's own counts, by Jaeger's names: spans started, finished, sent, dropped; queue; sampler."""
    agent = runtime.get()
    return {} if agent is None else agent.metrics()


def wrap_wsgi(app: Any) -> Any:
    """A WSGI application with a server span around each request, for servers that the agent does not know."""
    from autoinstr.instrument.wsgi import wrap_application

    agent = runtime.get()
    return app if agent is None else wrap_application(app, agent.tracing)


def wrap_asgi(app: Any) -> Any:
    """An ASGI application with a server span around each request, for servers that the agent does not know."""
    from autoinstr.instrument.asgi import wrap_application

    agent = runtime.get()
    return app if agent is None else wrap_application(app, agent.tracing)
