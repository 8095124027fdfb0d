"""Bottle: server spans, route names, and errors that Bottle turns into a 500."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import open_server, set_route
from autoinstr.instrument.wsgi import wrap_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """The application's ``__call__``, the router's ``match``, and ``_handle``, where exceptions become responses."""
    patcher.wrap("Bottle.__call__", wrap_method(tracing, "bottle"))
    patcher.wrap("Router.match", name_by_rule)
    patcher.wrap("Bottle._handle", record_handled)


def name_by_rule(wrapped: Any) -> Callable[..., Any]:
    """Names the span by the rule of the route that matched."""

    def match(self: Any, environ: Any) -> Any:
        found = wrapped(self, environ)
        span = open_server()
        if span is not None:
            rule = getattr(found[0], "rule", None)
            if rule:
                set_route(span, environ.get("SCRIPT_NAME", "").rstrip("/") + rule)
        return found

    return match


def record_handled(wrapped: Any) -> Callable[..., Any]:
    """Bottle keeps the exception on the error response that it makes of it."""

    def _handle(self: Any, environ: Any) -> Any:
        result = wrapped(self, environ)
        error = getattr(result, "exception", None)
        if isinstance(error, Exception):
            span = open_server()
            if span is not None:
                span.fail(error)
        return result

    return _handle
