"""Threads and thread pools: work that is handed to another thread stays below the span that handed it over.

asyncio tasks and ``asyncio.to_thread`` copy the context by themselves; ``run_in_executor`` comes through the pool. Only the
span is carried over, never the whole context: the program's own context variables must not leak, nor live longer.
"""

from __future__ import annotations

import sys

from autoinstr.instrument import Patcher, Tracing
from autoinstr.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span

SPAN = "_autoinstr_span"


def patch_threading(patcher: Patcher, tracing: Tracing) -> None:
    """``start`` remembers the span, and the first thing that runs in the new thread takes it up.

    ``run`` and ``target`` are left alone: programs override and inspect them.
    """
    if getattr(sys.flags, "thread_inherit_context", False):
        return  # Python hands the context over itself (3.14, free-threaded builds).
    patcher.wrap("Thread.start", remember_span)
    patcher.wrap("Thread._bootstrap_inner", take_up_span)


def remember_span(wrapped: Any) -> Callable[..., Any]:
    """The half that runs in the starting thread."""

    def start(self: Any) -> None:
        span = current.get()
        if span is None:
            wrapped(self)
            return
        self.__dict__[SPAN] = span
        try:
            wrapped(self)
        except BaseException:
            self.__dict__.pop(SPAN, None)
            raise

    return start


def take_up_span(wrapped: Any) -> Callable[..., Any]:
    """The half that runs in the new thread, whose context is its own, so that nothing needs to be put back."""

    def _bootstrap_inner(self: Any) -> None:
        span = self.__dict__.pop(SPAN, None)
        if span is not None:
            current.set(span)
        wrapped(self)

    return _bootstrap_inner


def patch_executor(patcher: Patcher, tracing: Tracing) -> None:
    """``map`` and ``run_in_executor`` call ``submit``."""
    patcher.wrap("ThreadPoolExecutor.submit", submit_below_span)


def submit_below_span(wrapped: Any) -> Callable[..., Any]:
    """Runs the function below the submitter's span. The pool's threads outlive that span, so they do not inherit it."""

    def submit(self: Any, fn: Any, /, *arguments: Any, **keywords: Any) -> Any:
        span = current.get()
        if span is None:
            return wrapped(self, fn, *arguments, **keywords)
        token = current.set(None)
        try:
            return wrapped(self, run_below, span, fn, *arguments, **keywords)
        finally:
            current.reset(token)

    return submit


def run_below(span: Span, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Call a function with ``span`` as the current one."""
    token = current.set(span)
    try:
        return function(*arguments, **keywords)
    finally:
        current.reset(token)
