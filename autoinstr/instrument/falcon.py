"""Falcon: server spans on WSGI and ASGI, route names, and errors that Falcon turns into a 500."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, asgi, wsgi
from autoinstr.instrument.flask import record_handled
from autoinstr.instrument.http import open_server, set_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """The WSGI application; ``_get_responder`` is inherited by the ASGI one."""
    patcher.wrap("App.__call__", wsgi.wrap_method(tracing, "falcon"))
    patcher.wrap("App._get_responder", name_by_template)
    patcher.wrap("App._python_error_handler", record_handled)


def patch_asgi(patcher: Patcher, tracing: Tracing) -> None:
    """The ASGI application."""
    patcher.wrap("App.__call__", asgi.wrap_method(tracing, "falcon"))
    patcher.wrap("App._python_error_handler", record_handled)


def name_by_template(wrapped: Any) -> Callable[..., Any]:
    """Names the span by the URI template of the route; sinks have none."""

    def _get_responder(self: Any, request: Any) -> Any:
        found = wrapped(self, request)
        span = open_server()
        if span is not None and found[3]:
            set_route(span, found[3])
        return found

    return _get_responder
