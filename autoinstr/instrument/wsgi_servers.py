"""WSGI servers: wrap the application that a server is given, so that a plain callable is traced, too."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing, is_left_alone
from autoinstr.instrument.wsgi import make_handler, wrap_application
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def patch_wsgiref(patcher: Patcher, tracing: Tracing) -> None:
    """``run(application)`` is called for each request, so the handler is made once and not per application."""
    handle = make_handler(tracing, "wsgiref")
    some_are_left_alone = bool(tracing.config.disabled_instruments)

    def make(wrapped: Any) -> Callable[..., Any]:
        def run(self: Any, application: Any) -> Any:
            if some_are_left_alone and is_left_alone(application, tracing):
                return wrapped(self, application)
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
    """``wsgi()`` loads the application in each worker (or before the fork with --preload), and is asked again and again."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def wsgi(self: Any) -> Any:
            application = wrapped(self)
            try:
                wrap = _wrapper_for_worker(self.cfg.worker_class)
                if wrap is not None:
                    # Kept where gunicorn keeps it.
                    self.callable = application = wrap(application, tracing, "gunicorn")
            except Exception as error:  # Host safety: it is served, untraced.
                fault("gunicorn's application", error)
            return application

        return wsgi

    patcher.wrap("BaseApplication.wsgi", make)


def _wrapper_for_worker(worker_class: type) -> Callable[..., Any] | None:
    """How to wrap what a gunicorn worker serves, by its ancestry; ``None`` for those of other packages, which are free to
    serve anything: Tornado's and uvicorn's are instrumented elsewhere."""
    for base in worker_class.__mro__:
        if base.__module__ in {"gunicorn.workers.sync", "gunicorn.workers.gthread", "gunicorn.workers.base_async"}:
            return wrap_application
        if base.__module__ == "gunicorn.workers.gasgi":
            from autoinstr.instrument.asgi import wrap_application as wrap_asgi_application

            return wrap_asgi_application
    return None


def wrap_attribute(
    name: str, tracing: Tracing, scope: str, wrap: Callable[..., Any] = wrap_application
) -> Callable[[Any], Callable[..., Any]]:
    """For a server's ``__init__``: wraps the application that it has put into an attribute."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
            wrapped(self, *arguments, **keywords)
            try:
                application = getattr(self, name, None)
                # Some put a function of their own around what they are given, which hides what it was.
                given = (*arguments, *keywords.values())
                if callable(application) and not any(is_left_alone(each, tracing) for each in given):
                    setattr(self, name, wrap(application, tracing, scope))
            except Exception as error:  # Host safety: it is served, untraced.
                fault(f"the application of {scope}", error)

        return __init__

    return make

