"""Quart: Flask's interface on ASGI. What is a coroutine function there is one here, because programs can ask."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.asgi import wrap_method
from autoinstr.instrument.flask import context_getter, record_handled_async
from autoinstr.instrument.http import open_server, set_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Server spans, route names and hidden errors."""
    patcher.wrap("Quart.__call__", wrap_method(tracing, "quart"))
    patcher.wrap("Quart.full_dispatch_request", name_by_rule("request"))
    patcher.wrap("Quart.full_dispatch_websocket", name_by_rule("websocket"))
    patcher.wrap("Quart.handle_exception", record_handled_async)
    patcher.wrap("Quart.handle_websocket_exception", record_handled_async)


def name_by_rule(kind: str) -> Callable[[Any], Callable[..., Any]]:
    """Names the span by the URL rule, before any code of the application runs."""
    get_context = context_getter("quart.globals", kind)

    def make(wrapped: Any) -> Callable[..., Any]:
        async def full_dispatch(self: Any, *arguments: Any, **keywords: Any) -> Any:
            span = open_server()
            if span is not None:
                try:
                    request = getattr(get_context(), kind)
                    rule = request.url_rule
                    if rule is not None:
                        set_route(span, request.root_path + rule.rule)
                except Exception:  # noqa: S110 - Host safety: without a route the span is named by its method.
                    pass
            return await wrapped(self, *arguments, **keywords)

        return full_dispatch

    return make
