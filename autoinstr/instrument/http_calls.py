"""One call of the program to an HTTP client that sends all requests of a call from within one method, which never calls itself.

Owns: ``Calls``, the wrappers around such a method, plain and ``async``: what it sends are attempts of one call, whatever hooks,
middleware and authentication of the program do in between, with the same client too, are calls of their own.
Must not know: any library. (``http.one_call`` is for clients whose outermost method calls itself for redirects.)
Invariants: a call without a span around it is decided upon once, for all of its attempts; a call that sends nothing (a mock) is
no trace; the context is as it was when the method returns, raises or is closed.
"""

from __future__ import annotations

from autoinstr.instrument import Tracing
from autoinstr.instrument.http import Attempts, attempts, needs_no_span
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar, Token
    from typing import Any

    from autoinstr.trace import Span


class Calls:
    """The calls to one kind of client; ``look_at_url``: whether requests may be left out by their URL.

    ``kind`` is what an instrument keeps of a call, if that is more than its attempts.
    """

    def __init__(
        self, tracing: Tracing, scope: str, *, look_at_url: bool, kind: Callable[..., Attempts] = Attempts
    ) -> None:
        self._tracing = tracing
        self._kind = kind
        self._scope = scope
        self._look_at_url = look_at_url
        self._decides_here = not (look_at_url or tracing.config.require_parent)

    def is_left_alone(self, parent: Span | None) -> bool:
        """Whether there is nothing to do here for a call below ``parent``."""
        return needs_no_span(parent, self._look_at_url)

    def first(self, parent: Span | None) -> Span | None:
        """The root of a call without a span around it; ``None`` where one is, or the decision is not made here."""
        if parent is not None or not self._decides_here:
            return None
        tracer = self._tracing.tracer
        if tracer.sampler.by_name:
            return None
        try:
            return tracer.start_local_root("HTTP", Kind.CLIENT, None, self._scope, False)  # noqa: FBT003
        except Exception as trouble:  # Host safety: the request goes out untraced.
            fault("the start of an HTTP call", trouble)
            return None

    def open(self, owner: object) -> tuple[ContextVar[Any], Token[Any], Span | Attempts] | None:
        """Make what a call below the current span needs the current one: nothing, an unsampled root, or its ``Attempts``."""
        parent = current.get()
        if self.is_left_alone(parent):
            return None
        first = self.first(parent)
        if first is not None and not first.recording:
            first.leaf = True
            return current, current.set(first), first
        call = self._kind(owner, self._scope, 0, first)
        return attempts, attempts.set(call), call

    def make(self, wrapped: Any) -> Callable[..., Any]:
        """For ``Patcher.wrap``."""

        def send(client: Any, *arguments: Any, **keywords: Any) -> Any:
            opened = self.open(client)
            if opened is None:
                return wrapped(client, *arguments, **keywords)
            try:
                return wrapped(client, *arguments, **keywords)
            finally:
                close(*opened)

        return send

    def make_async(self, wrapped: Any) -> Callable[..., Any]:
        """For ``Patcher.wrap``, where the method is a coroutine function."""

        async def send(client: Any, *arguments: Any, **keywords: Any) -> Any:
            opened = self.open(client)
            if opened is None:
                return await wrapped(client, *arguments, **keywords)
            try:
                return await wrapped(client, *arguments, **keywords)
            finally:
                close(*opened)

        return send


def close(variable: ContextVar[Any], token: Token[Any], opened: Span | Attempts) -> None:
    """Undo ``Calls.open``."""
    reset(variable, token)
    if not isinstance(opened, Attempts):
        opened.end()
    elif opened.first is not None:  # Nothing was sent (a mock): this trace has never been.
        opened.first.tracer.roots_sampled -= 1


def reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Put a variable back; a coroutine that nobody finishes is closed in another context than it ran in."""
    try:
        variable.reset(token)
    except ValueError:
        pass
