"""Burns CPU in each request, or in a share of them: wraps the application that a server is given.

Owns: the variables, the loop and its calibration, the wrappers, where servers keep their applications.
Must not know: frameworks; anything of this project, which may not be installed here.
Invariants: what is burned is CPU time of the thread that serves, waiting not counted; a request is burned for once, however many
servers and middlewares hand the application on; a server that is not as expected ends the program with a message.
"""

from __future__ import annotations

import importlib.util
import inspect
import random
import sys
import time
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

US, SHARE, SEED = "AUTOINSTR_BENCH_BURN_US", "AUTOINSTR_BENCH_BURN_SHARE", "AUTOINSTR_BENCH_BURN_SEED"

#: The calibration's own burning: some 12 ms at the start of a process, in slices of which a low one counts, for what disturbs
#: only adds.
SLICES, CALLS, SLICE_NS = 12, 50, 20_000
_MARK = "_autoinstr_burns"


class Burner:
    """``microseconds`` of CPU in a ``share`` (0 to 1) of the requests, chosen by chance from ``seed``.

    ``loss_ns`` is what a call costs beyond what the loop itself sees; it is burned less.
    """

    def __init__(self, microseconds: float, share: float = 1.0, seed: int = 1, loss_ns: int | None = None) -> None:
        self.loss_ns = _loss_ns() if loss_ns is None else loss_ns
        self._share = share
        self._seed = seed
        self._amount_ns = max(0, round(microseconds * 1000) - self.loss_ns)

    def wrapped(self, application: Callable[..., Any]) -> Callable[..., Any]:
        """The application with the burning in front, WSGI or ASGI as it is; one that burns already as it is."""
        if getattr(application, _MARK, False):
            return application
        make = _asgi if _is_asgi(application) else _wsgi
        burning = make(application, self.burn())
        setattr(burning, _MARK, True)
        return burning

    def burn(self) -> Callable[[], None]:
        """What is called once a request."""
        clock, amount, share = time.thread_time_ns, self._amount_ns, self._share
        draw = random.Random(self._seed).random  # noqa: S311

        def always() -> None:
            end = clock() + amount
            while clock() < end:
                pass

        def sometimes() -> None:
            if draw() < share:
                always()

        return always if share >= 1 else sometimes


def _wsgi(application: Callable[..., Any], burn: Callable[[], None]) -> Callable[..., Any]:
    def burning(environ: Any, start_response: Any) -> Any:
        burn()
        return application(environ, start_response)

    return burning


def _asgi(application: Callable[..., Any], burn: Callable[[], None]) -> Callable[..., Any]:
    # Servers tell the kinds of applications apart by whether they are coroutine functions.
    async def burning(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "http":
            burn()
        return await application(scope, receive, send)

    return burning


def _is_asgi(application: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__)


def _loss_ns() -> int:
    """What a wrapped call of an application costs more than a plain one, beyond what it was told to burn."""

    def application(environ: Any, start_response: Any) -> None:
        return None

    burning = _wsgi(application, Burner(SLICE_NS / 1000, loss_ns=0).burn())
    differences = sorted(_calls_ns(burning) - _calls_ns(application) for _ in range(SLICES))
    return max(0, differences[SLICES // 4] // CALLS - SLICE_NS)


def _calls_ns(application: Callable[..., Any]) -> int:
    begun = time.thread_time_ns()
    for _ in range(CALLS):
        application({}, None)
    return time.thread_time_ns() - begun


# ---- Servers ---------------------------------------------------------------------------------------


def _gunicorn(module: Any, burner: Burner) -> None:
    """``wsgi()`` loads the application in each worker, and is asked again and again."""
    application_class = module.BaseApplication
    load = application_class.wsgi

    def wsgi(self: Any) -> Any:
        self.callable = burner.wrapped(load(self))
        return self.callable

    application_class.wsgi = wsgi


def _uvicorn(module: Any, burner: Burner) -> None:
    """After ``load`` the application is there, as ASGI 3; under gunicorn it burns already, inside uvicorn's middlewares."""
    load = module.Config.load

    def loaded(self: Any) -> None:
        load(self)
        if not getattr(self.app, _MARK, False):
            self.loaded_app = burner.wrapped(self.loaded_app)

    module.Config.load = loaded


def _wsgiref(module: Any, burner: Burner) -> None:
    """Also Django's ``runserver``."""
    set_app = module.WSGIServer.set_app

    def set_burning_app(self: Any, application: Any) -> None:
        set_app(self, burner.wrapped(application))

    module.WSGIServer.set_app = set_burning_app


def _werkzeug(module: Any, burner: Burner) -> None:
    """Behind ``flask run``."""
    init = module.BaseWSGIServer.__init__

    def burning_init(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **keywords)
        self.app = burner.wrapped(self.app)

    module.BaseWSGIServer.__init__ = burning_init


SERVERS: Mapping[str, Callable[[Any, Burner], None]] = {
    "gunicorn.app.base": _gunicorn,
    "uvicorn.config": _uvicorn,
    "werkzeug.serving": _werkzeug,
    "wsgiref.simple_server": _wsgiref,
}


class Watcher:
    """A finder of modules that finds nothing by itself: it sees servers being imported, and patches them afterwards."""

    def __init__(self, burner: Burner) -> None:
        self._burner = burner
        self._awaited = dict(SERVERS)

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = self._awaited.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                patch(module, self._burner)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def start(environ: Mapping[str, str]) -> None:
    """Watch for servers, as the variables say; raises ValueError for a variable that is no number."""
    if environ.get(US):
        burner = Burner(float(environ[US]), float(environ.get(SHARE) or 1), int(environ.get(SEED) or 1))
        sys.meta_path.insert(0, Watcher(burner))
