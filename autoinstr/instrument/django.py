"""Django: server spans on WSGI and ASGI, route names, and errors that Django turns into a 500.

Django is neither imported nor configured here: that would read the settings before the program has said where they are.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, asgi, wsgi
from autoinstr.instrument.http import open_server, set_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch_wsgi(patcher: Patcher, tracing: Tracing) -> None:
    """``WSGIHandler`` is the application that ``get_wsgi_application()`` gives."""
    patcher.wrap("WSGIHandler.__call__", wsgi.wrap_method(tracing, "django"))


def patch_asgi(patcher: Patcher, tracing: Tracing) -> None:
    """``ASGIHandler`` is the application that ``get_asgi_application()`` gives."""
    patcher.wrap("ASGIHandler.__call__", asgi.wrap_method(tracing, "django"))


def patch_base(patcher: Patcher, tracing: Tracing) -> None:
    """Both handlers resolve the URL here."""
    patcher.wrap("BaseHandler.resolve_request", name_by_route)


def patch_exception(patcher: Patcher, tracing: Tracing) -> None:
    """Called with an exception that nobody handled, before the 500 is made."""
    patcher.wrap("handle_uncaught_exception", record_uncaught)


def name_by_route(wrapped: Any) -> Callable[..., Any]:
    """Names the span by the pattern that matched."""

    def resolve_request(self: Any, request: Any) -> Any:
        match = wrapped(self, request)
        span = open_server()
        if span is not None:
            route = getattr(match, "route", None)
            if route is not None:
                # The prefix where the application is mounted ends without a slash (PEP 3333: SCRIPT_NAME).
                prefix = request.META.get("SCRIPT_NAME", "").rstrip("/")
                set_route(span, f"{prefix}/" + str(route).removeprefix("^").removeprefix("/"))
        return match

    return resolve_request


def record_uncaught(wrapped: Any) -> Callable[..., Any]:
    """Records the exception on the server span."""

    def handle_uncaught_exception(request: Any, resolver: Any, exc_info: Any) -> Any:
        span = open_server()
        if span is not None and exc_info and isinstance(exc_info[1], BaseException):
            span.fail(exc_info[1])
        return wrapped(request, resolver, exc_info)

    return handle_uncaught_exception
