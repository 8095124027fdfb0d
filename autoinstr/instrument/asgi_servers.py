"""ASGI servers: wrap the application that a server is given, so that a plain callable is traced, too."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, asgi, wsgi
from autoinstr.instrument.wsgi_servers import wrap_attribute
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch_uvicorn(patcher: Patcher, tracing: Tracing) -> None:
    """After ``load``, which has told ASGI 2, ASGI 3 and WSGI apart by looking at the program's own callable."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def load(self: Any) -> None:
            wrapped(self)
            try:
                self.loaded_app = asgi.wrap_application(self.loaded_app, tracing, "uvicorn")
            except Exception as error:  # Host safety: it is served, untraced.
                fault("uvicorn's application", error)

        return load

    patcher.wrap("Config.load", make)


def patch_uvicorn_server(patcher: Patcher, tracing: Tracing) -> None:
    """Uvicorn gives back the handlers that it found and sends itself the signal again; as a worker of gunicorn it has put
    the default back before, by which the process would end at once."""
    if not hasattr(patcher.module.Server, "capture_signals"):  # Before 0.29 it ended normally.
        return

    def make(wrapped: Any) -> Callable[..., Any]:
        def capture_signals(self: Any) -> Any:
            tracing.catch_sigterm()
            return wrapped(self)

        return capture_signals

    patcher.wrap("Server.capture_signals", make)


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
            try:
                callback = wrap(callback, tracing, "granian")
            except Exception as error:  # Host safety: it is served, untraced.
                fault("granian's application", error)
            return wrapped(callback, *arguments, **keywords)

        return callback_wrapper

    return make
