"""ASGI servers: wrap the application that a server is given, so that a plain callable is traced, too."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, asgi, wsgi
from autoinstr.instrument.wsgi_servers import wrap_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch_uvicorn(patcher: Patcher, tracing: Tracing) -> None:
    """After ``load``, which has told ASGI 2, ASGI 3 and WSGI apart by looking at the program's own callable."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def load(self: Any) -> None:
            wrapped(self)
            self.loaded_app = asgi.wrap_application(self.loaded_app, tracing, "uvicorn")

        return load

    patcher.wrap("Config.load", make)


def patch_hypercorn(patcher: Patcher, tracing: Tracing) -> None:
    """Hypercorn has an adapter for each of the two interfaces."""
    patcher.wrap("ASGIWrapper.__init__", wrap_attribute("app", tracing, "hypercorn", asgi.wrap_application))
    patcher.wrap("WSGIWrapper.__init__", wrap_attribute("app", tracing, "hypercorn", wsgi.wrap_application))


def patch_daphne(patcher: Patcher, tracing: Tracing) -> None:
    """The server keeps the application in ``self.application``."""
    patcher.wrap("Server.__init__", wrap_attribute("application", tracing, "daphne", asgi.wrap_application))


def patch_granian_asgi(patcher: Patcher, tracing: Tracing) -> None:
    """Granian's Rust half calls what this makes of the application."""
    patcher.wrap("_callback_wrapper", wrap_first_argument(tracing, asgi.wrap_application))


def patch_granian_wsgi(patcher: Patcher, tracing: Tracing) -> None:
    """The same for WSGI."""
    patcher.wrap("_callback_wrapper", wrap_first_argument(tracing, wsgi.wrap_application))


def wrap_first_argument(tracing: Tracing, wrap: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """For a function that is called with the application first."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def callback_wrapper(callback: Any, *arguments: Any, **keywords: Any) -> Any:
            return wrapped(wrap(callback, tracing, "granian"), *arguments, **keywords)

        return callback_wrapper

    return make
