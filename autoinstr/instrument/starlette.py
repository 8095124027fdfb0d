"""Starlette, FastAPI and what is built on them: server spans, and route names through mounts and included routers.

A route is known when its ``handle`` is called. Mounts come before the routes in them, each with its own part of the path, so
the parts are collected on the span. ``app.routes`` is never walked: not everything in it has a path.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, is_left_alone
from autoinstr.instrument.asgi import wrap_method
from autoinstr.instrument.http import open_server, set_route
from autoinstr.model import Kind
from autoinstr.trace import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SERVER = Kind.SERVER


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``Starlette.__call__``, which FastAPI's own ends in, too: one wrapper for both."""
    make = wrap_method(tracing, "starlette")
    patcher.wrap("Starlette.__call__", all_but_fastapi(make, tracing) if tracing.is_disabled("fastapi") else make)


def all_but_fastapi(make: Callable[[Any], Callable[..., Any]], tracing: Tracing) -> Callable[[Any], Callable[..., Any]]:
    """The same for programs where FastAPI is switched off, and Starlette is not."""

    def make_choice(wrapped: Any) -> Callable[..., Any]:
        traced = make(wrapped)

        async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
            await (wrapped if is_left_alone(self, tracing) else traced)(self, scope, receive, send)

        return __call__

    return make_choice


def patch_routing(patcher: Patcher, tracing: Tracing) -> None:
    """Starlette's kinds of routes."""
    patcher.wrap("Route.handle", name_by_route)
    patcher.wrap("WebSocketRoute.handle", name_by_route)
    patcher.wrap("Mount.handle", collect_mount)


def patch_fastapi_routing(patcher: Patcher, tracing: Tracing) -> None:
    """FastAPI's own route, which may not call Starlette's ``handle``."""
    patcher.wrap("APIRoute.handle", name_by_route)


def name_by_route(wrapped: Any) -> Callable[..., Any]:
    """Names the span by the path template."""

    async def handle(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        span = current.get()
        if span is not None and span.recording and not span.end_ns and span.kind == SERVER and " " not in span.name:
            try:
                # FastAPI keeps the whole path of a route in an included router here.
                included = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
                route = span.route + (getattr(included, "path_format", "") or self.path_format)
                set_route(span, root_of(scope) + route if scope.get("root_path") else route)
            except Exception:  # noqa: S110 - Host safety: without a route the span is named by its method.
                pass
        await wrapped(self, scope, receive, send)

    return handle


def root_of(scope: Any) -> str:
    """The prefix under which the outermost application stands; mounts add their part of the path to ``root_path``."""
    root: str = scope["app_root_path"] if "app_root_path" in scope else scope.get("root_path", "")
    return root


def collect_mount(wrapped: Any) -> Callable[..., Any]:
    """Remembers a mount's part of the path, for the routes in it; where there are none (static files), it is the route."""

    async def handle(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        span = open_server()
        if span is not None and " " not in span.name:
            try:
                span.route += self.path
                if span.route and not self.routes:
                    set_route(span, root_of(scope) + span.route)
            except Exception:  # noqa: S110 - Host safety: without a route the span is named by its method.
                pass
        await wrapped(self, scope, receive, send)

    return handle
