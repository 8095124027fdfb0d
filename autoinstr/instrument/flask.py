"""Flask: server spans for test clients and embedded servers, route names, and errors that Flask turns into a 500."""

from __future__ import annotations

import sys

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import open_server, set_route
from autoinstr.instrument.wsgi import wrap_method
from autoinstr.model import Kind
from autoinstr.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SERVER = Kind.SERVER


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``__call__`` and not ``wsgi_app``, because programs replace the latter with their own middleware."""
    patcher.wrap("Flask.__call__", wrap_method(tracing, "flask"))
    patcher.wrap("Flask.full_dispatch_request", name_by_rule())
    patcher.wrap("Flask.handle_exception", record_handled)


def context_getter(globals_module: str, kind: str = "request") -> Callable[[], Any]:
    """What gives the context that holds the ``request`` or ``websocket``; in Flask and in Quart.

    The context variables behind ``flask.request`` are read directly, because the proxy is an order slower; they were one
    per kind, and became one for all.
    """
    known = vars(sys.modules[globals_module])
    getter: Callable[[], Any] = (known.get(f"_cv_{kind}") or known["_cv_app"]).get
    return getter


def name_by_rule() -> Callable[[Any], Callable[..., Any]]:
    """Names the span by the URL rule, below where the application is mounted, before any code of the application runs."""
    get_context = context_getter("flask.globals")

    def make(wrapped: Any) -> Callable[..., Any]:
        def full_dispatch_request(self: Any, *arguments: Any, **keywords: Any) -> Any:
            span = current.get()
            if span is None or span.kind != SERVER or span.end_ns:
                return wrapped(self, *arguments, **keywords)
            if span.recording:
                try:
                    request = get_context().request
                    rule = request.url_rule
                    if rule is not None:
                        set_route(span, request.root_path + rule.rule)
                except Exception:  # noqa: S110 - Host safety: without a route the span is named by its method.
                    pass
            response = wrapped(self, *arguments, **keywords)
            if getattr(response, "response", None).__class__ is list and not getattr(response, "_on_close", True):
                span.is_complete = True  # The whole body is there, and nothing waits for its end.
            return response

        return full_dispatch_request

    return make


def record_handled(wrapped: Any) -> Callable[..., Any]:
    """Records an unhandled exception, which a framework answers with a 500 that hides it from the server."""

    def handle_exception(self: Any, *arguments: Any, **keywords: Any) -> Any:
        _record(arguments)
        return wrapped(self, *arguments, **keywords)

    return handle_exception


def record_handled_async(wrapped: Any) -> Callable[..., Any]:
    """The same for a coroutine function, which has to stay one: Falcon refuses handlers that are none."""

    async def handle_exception(self: Any, *arguments: Any, **keywords: Any) -> Any:
        _record(arguments)
        return await wrapped(self, *arguments, **keywords)

    return handle_exception


def _record(arguments: tuple[Any, ...]) -> None:
    span = open_server()
    if span is not None:
        error = next((value for value in arguments if isinstance(value, BaseException)), None)
        if error is not None:
            span.fail(error)
