"""Spans around calls to databases, caches, queues and the like: when there is one, what is current inside it, how it ends.

Owns: the wrappers (plain and async) that every such instrument uses, and their rules.
Must not know: any library, what its operations are called, which attributes they have.

An instrument gives ``begin(self, *arguments, **keywords)``, which returns the name of the span and its facts, or ``None`` where
the call is left alone; and, where the outcome says more than whether it failed, ``finish(span, result)``. Both may fail: the
call goes out untraced then, or its span without what was lost. The call itself gets what it was given, and gives what it gives.
"""

from __future__ import annotations

from autoinstr.instrument.http import is_disconnect
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.instrument import Tracing
    from autoinstr.model import Facts
    from autoinstr.trace import Span

    Begin = Callable[..., tuple[str, tuple[Facts, ...]] | None]
    Finish = Callable[[Span, Any], None]
    EndFailed = Callable[[Span, str, BaseException], None]


def is_left_alone(tracing: Tracing, parent: Span | None) -> bool:
    """Whether a call needs no span: inside another call's, below a trace that is not kept, or where a parent is required."""
    if parent is None:
        return tracing.config.require_parent
    return parent.leaf or not parent.recording


def start(
    tracing: Tracing, parent: Span | None, scope: str, kind: int, name: str, facts: tuple[Facts, ...]
) -> Span:
    """A span for a call that ``is_left_alone`` has let through; what happens inside it gets no spans of its own."""
    if parent is None:
        span = tracing.tracer.start_local_root(name, kind, None, scope, False)  # noqa: FBT003
    else:
        span = tracing.tracer.start(name, kind, parent, scope)
    span.leaf = True
    if span.recording:
        span.facts = (*span.facts, *facts)
    return span


def end(span: Span, scope: str, finish: Finish | None, result: Any, error: BaseException | None) -> None:
    """End it by the call's result, or by its error; never raises."""
    try:
        if span.recording:
            if error is not None:
                if not is_disconnect(error):
                    span.fail(error)
            elif finish is not None:
                finish(span, result)
    except Exception as trouble:  # Host safety: the result is the program's.
        fault(f"the outcome of a {scope} call", trouble)
    finally:
        span.end()


def end_failed(span: Span, scope: str, error: BaseException) -> None:
    """End it by an error that may be told as it is."""
    end(span, scope, None, None, error)


def around(
    tracing: Tracing,
    scope: str,
    begin: Begin,
    finish: Finish | None = None,
    kind: int = Kind.CLIENT,
    end_failed: EndFailed = end_failed,
) -> Callable[[Any], Callable[..., Any]]:
    """For a method or function that does the whole of its work before it returns."""
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def make(wrapped: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            parent = get_current()
            if is_left_alone(tracing, parent):
                return wrapped(*arguments, **keywords)
            span = _begun(tracing, parent, scope, kind, begin, arguments, keywords)
            if span is None:
                return wrapped(*arguments, **keywords)
            token = set_current(span)
            try:
                result = wrapped(*arguments, **keywords)
            except BaseException as error:
                end_failed(span, scope, error)
                raise
            finally:
                reset_current(token)
            end(span, scope, finish, result, None)
            return result

        return call

    return make


def around_async(
    tracing: Tracing,
    scope: str,
    begin: Begin,
    finish: Finish | None = None,
    kind: int = Kind.CLIENT,
    end_failed: EndFailed = end_failed,
) -> Callable[[Any], Callable[..., Any]]:
    """For a coroutine function; it stays one."""
    get_current, set_current, reset_current = current.get, current.set, current.reset

    def make(wrapped: Any) -> Callable[..., Any]:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            parent = get_current()
            if is_left_alone(tracing, parent):
                return await wrapped(*arguments, **keywords)
            span = _begun(tracing, parent, scope, kind, begin, arguments, keywords)
            if span is None:
                return await wrapped(*arguments, **keywords)
            token = set_current(span)
            try:
                result = await wrapped(*arguments, **keywords)
            except BaseException as error:
                end_failed(span, scope, error)
                raise
            finally:
                reset_current(token)
            end(span, scope, finish, result, None)
            return result

        return call

    return make


def _begun(
    tracing: Tracing,
    parent: Span | None,
    scope: str,
    kind: int,
    begin: Begin,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Span | None:
    try:
        described = begin(*arguments, **keywords)
        return None if described is None else start(tracing, parent, scope, kind, *described)
    except Exception as trouble:  # Host safety: the call goes out untraced.
        fault(f"the start of a {scope} call", trouble)
        return None
