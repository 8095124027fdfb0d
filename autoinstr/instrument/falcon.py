"""Falcon: server spans on WSGI and ASGI, route names, and errors that Falcon turns into a 500."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, asgi, wsgi
from autoinstr.instrument.flask import record_handled, record_handled_async
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
    patcher.wrap("App._python_error_handler", record_handled_async)


def name_by_template(wrapped: Any) -> Callable[..., Any]:
    """Names the span by the URI template of the route; sinks have none."""

    def _get_responder(self: Any, request: Any) -> Any:
        found = wrapped(self, request)
        span = open_server()
        if span is not None and found[3]:
            # The ASGI half matches the whole path, with what is before the application in it.
            prefix = "" if hasattr(request, "scope") else request.root_path
            set_route(span, prefix + found[3])
        return found

    return _get_responder
