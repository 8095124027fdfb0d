"""WSGI servers: wrap the application that a server is given, so that a plain callable is traced, too."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.wsgi import make_handler, wrap_application

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch_wsgiref(patcher: Patcher, tracing: Tracing) -> None:
    """``run(application)`` is called for each request, so the handler is made once and not per application."""
    handle = make_handler(tracing, "wsgiref")

    def make(wrapped: Any) -> Callable[..., Any]:
        def run(self: Any, application: Any) -> Any:
            return wrapped(self, lambda environ, start_response: handle(application, environ, start_response))

        return run

    patcher.wrap("BaseHandler.run", make)


def patch_werkzeug(patcher: Patcher, tracing: Tracing) -> None:
    """Behind ``flask run`` and ``app.run``. The server keeps the application in ``self.app``."""
    patcher.wrap("BaseWSGIServer.__init__", wrap_attribute("app", tracing, "werkzeug"))


def patch_waitress(patcher: Patcher, tracing: Tracing) -> None:
    """``WSGIServer`` is a base of all of waitress's servers."""
    patcher.wrap("BaseWSGIServer.__init__", wrap_attribute("application", tracing, "waitress"))


def patch_cheroot(patcher: Patcher, tracing: Tracing) -> None:
    """Cheroot and CherryPy."""
    patcher.wrap("Server.__init__", wrap_attribute("wsgi_app", tracing, "cheroot"))


def patch_gunicorn(patcher: Patcher, tracing: Tracing) -> None:
    """``wsgi()`` loads the application in each worker (or before the fork with --preload).

    Some worker classes serve ASGI applications from here: those are left to the ASGI instruments.
    """

    def make(wrapped: Any) -> Callable[..., Any]:
        def wsgi(self: Any) -> Any:
            application = wrapped(self)
            if is_asgi(application):
                return application
            return wrap_once(self, application)

        return wsgi

    def wrap_once(owner: Any, application: Any) -> Any:
        """gunicorn asks again and again, and keeps the application in ``callable``."""
        if not getattr(application, "__autoinstr__", False):
            application = wrap_application(application, tracing, "gunicorn")
            owner.callable = application
        return application

    patcher.wrap("BaseApplication.wsgi", make)


def wrap_attribute(
    name: str, tracing: Tracing, scope: str, wrap: Callable[..., Any] = wrap_application
) -> Callable[[Any], Callable[..., Any]]:
    """For a server's ``__init__``: wraps the application that it has put into an attribute."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
            wrapped(self, *arguments, **keywords)
            application = getattr(self, name, None)
            if callable(application):
                setattr(self, name, wrap(application, tracing, scope))

        return __init__

    return make


def is_asgi(application: Any) -> bool:
    """Whether a callable is an ASGI 3 application: a coroutine function, or an object with an async ``__call__``."""
    from inspect import iscoroutinefunction

    return iscoroutinefunction(application) or iscoroutinefunction(getattr(application, "__call__", None))  # noqa: B004
