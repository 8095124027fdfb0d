"""The Python API, for programs that want more than the agent does by itself. Nothing here is needed for tracing.

Everything works, without effect, where the agent is disabled; where it was not started by the launcher, the first call starts
it from the environment, without patching any library.
"""

from __future__ import annotations

from autoinstr import runtime
from autoinstr.model import Kind, Link, SpanContext
from autoinstr.trace import SUPPRESSED, Span, current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence
    from types import TracebackType
    from typing import Any, TypeVar

    from autoinstr.model import Attributes

    F = TypeVar("F", bound=Callable[..., Any])


def current_span() -> Span:
    """The span that is active now; one that takes everything and records nothing where there is none."""
    return current.get() or SUPPRESSED


class span:  # noqa: N801 - used like a function
    """A span around a block or a function: ``with span("load"):``, ``@span("load")``, also on coroutine functions.

    It is current inside; an exception that leaves the block is recorded and sets the status. ``kind`` is one of ``Kind``;
    ``parent`` is a span or an extracted context instead of the current span. ``with`` gives the ``Span``.
    """

    __slots__ = ("_attributes", "_kind", "_links", "_name", "_parent", "_span", "_token")

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

    def __enter__(self) -> Span:
        agent = runtime.get()
        if agent is None:
            self._span = SUPPRESSED
        else:
            parent = self._parent if self._parent is not None else current.get()
            self._span = agent.tracing.tracer.start_span(
                self._name, kind=self._kind, parent=parent, attributes=self._attributes, links=self._links
            )
        self._token = current.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            current.reset(self._token)
        except ValueError:  # A generator that is closed elsewhere than it ran.
            pass
        if self._span is not SUPPRESSED:
            self._span.__exit__(kind, error, traceback)

    def _again(self) -> span:
        return span(
            self._name, kind=self._kind, attributes=self._attributes, parent=self._parent, links=self._links
        )

    def __call__(self, function: F) -> F:
        """Decorate: a new span for each call."""
        from functools import wraps
        from inspect import iscoroutinefunction

        if iscoroutinefunction(function):

            @wraps(function)
            async def traced_coroutine(*arguments: Any, **keywords: Any) -> Any:
                with self._again():
                    return await function(*arguments, **keywords)

            return traced_coroutine  # type: ignore[return-value]

        @wraps(function)
        def traced(*arguments: Any, **keywords: Any) -> Any:
            with self._again():
                return function(*arguments, **keywords)

        return traced  # type: ignore[return-value]


def inject(carrier: MutableMapping[str, str] | None = None, context: Span | SpanContext | None = None) -> Any:
    """Write the headers that continue ``context`` (by default the current span) into ``carrier``, and return it."""
    carrier = {} if carrier is None else carrier
    agent = runtime.get()
    source = context if context is not None else current.get()
    if agent is not None and source is not None and (source.trace_id or source.baggage):
        for name, value in agent.tracing.plain.inject(source):
            carrier[name] = value
    return carrier


def extract(carrier: Mapping[str, str]) -> SpanContext | None:
    """The context that a caller sent in a mapping of headers, whatever the case of their names; ``None`` if none."""
    agent = runtime.get()
    if agent is None:
        return None
    return agent.tracing.plain.extract({str(name).lower(): value for name, value in carrier.items()})


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
