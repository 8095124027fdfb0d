"""Which libraries are instrumented, when, and how a patch is put in and taken out again.

Owns: the table of instruments, the import hook, ``Patcher`` (the only place that changes a library), ``Tracing`` (what every
instrument is given). Must not know: any library's inside; that is one file each, beside this one.

Other packages add instruments of their own as entry points of the group ``autoinstr.instruments`` (docs/instruments.md).

An instrument is a function ``patch(patcher, tracing)`` that is called right after its library was imported, with the module as
``patcher.module``. If it raises, everything that it patched is undone, one line says so, and the library stays as it was.

wrapt does the hooking and the patching. It is loaded when the first library of the table is imported and not before, because
it brings asyncio with it. The wrappers themselves are plain functions that keep the original's signature (``functools.wraps``):
unlike a ``FunctionWrapper`` they are still functions for ``inspect``, ``pickle`` and C code, and cost a fifth.
"""

from __future__ import annotations

import sys

from autoinstr.trouble import ERROR, fault, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from autoinstr.config import Config
    from autoinstr.instrument.http import Conventions
    from autoinstr.instrument.logging import Finder
    from autoinstr.propagate import Propagator
    from autoinstr.trace import Tracer

#: (module to watch, name for switching it off, "file:function" of the instrument; a file beside this one, or a full name).
TABLE = (
    ("wsgiref.handlers", "wsgiref", "wsgi_servers:patch_wsgiref"),
    ("werkzeug.serving", "werkzeug", "wsgi_servers:patch_werkzeug"),
    ("werkzeug._reloader", "werkzeug", "reloaders:patch_werkzeug"),
    ("gunicorn.app.base", "gunicorn", "wsgi_servers:patch_gunicorn"),
    ("waitress.server", "waitress", "wsgi_servers:patch_waitress"),
    ("cheroot.wsgi", "cheroot", "wsgi_servers:patch_cheroot"),
    ("uvicorn.config", "uvicorn", "asgi_servers:patch_uvicorn"),
    ("uvicorn.server", "uvicorn", "asgi_servers:patch_uvicorn_server"),
    ("hypercorn.app_wrappers", "hypercorn", "asgi_servers:patch_hypercorn"),
    ("daphne.server", "daphne", "asgi_servers:patch_daphne"),
    ("granian.asgi", "granian", "asgi_servers:patch_granian_asgi"),
    ("granian.wsgi", "granian", "asgi_servers:patch_granian_wsgi"),
    ("flask.app", "flask", "flask:patch"),
    ("quart.app", "quart", "quart:patch"),
    ("django.core.handlers.base", "django", "django:patch_base"),
    ("django.core.handlers.wsgi", "django", "django:patch_wsgi"),
    ("django.core.handlers.asgi", "django", "django:patch_asgi"),
    ("django.core.handlers.exception", "django", "django:patch_exception"),
    ("django.utils.autoreload", "django", "reloaders:patch_django"),
    ("bottle", "bottle", "bottle:patch"),
    ("falcon.app", "falcon", "falcon:patch"),
    ("falcon.asgi.app", "falcon", "falcon:patch_asgi"),
    ("starlette.applications", "starlette", "starlette:patch"),
    ("starlette.routing", "starlette", "starlette:patch_routing"),
    ("fastapi.routing", "fastapi", "starlette:patch_fastapi_routing"),
    ("requests.sessions", "requests", "requests:patch"),
    ("urllib3.connectionpool", "urllib3", "urllib3:patch"),
    ("urllib.request", "urllib", "urllib:patch"),
    ("http.client", "http.client", "http_client:patch"),
    ("http.client", "headers", "http_client:patch_headers"),
    ("httpx._client", "httpx", "httpx:patch_client"),
    ("httpx._transports.default", "httpx", "httpx:patch"),
    ("httpcore._sync.connection_pool", "headers", "httpx:patch_headers"),
    ("httpcore._async.connection_pool", "headers", "httpx:patch_headers"),
    ("httpx2._client", "httpx2", "httpx:patch_client"),
    ("httpx2._transports.default", "httpx2", "httpx:patch"),
    ("httpcore2._sync.connection_pool", "headers", "httpx:patch_headers"),
    ("httpcore2._async.connection_pool", "headers", "httpx:patch_headers"),
    ("aiohttp.client", "aiohttp-client", "aiohttp_client:patch"),
    ("aiohttp.connector", "aiohttp-client", "aiohttp_client:patch_connector"),
    ("aiohttp.client_reqrep", "aiohttp-client", "aiohttp_client:patch_request"),
    ("aiohttp.client_reqrep", "headers", "aiohttp_client:patch_headers"),
    ("aiohttp.web_protocol", "aiohttp-server", "aiohttp_server:patch"),
    ("aiohttp.web_urldispatcher", "aiohttp-server", "aiohttp_server:patch_routing"),
    ("aiohttp.web_ws", "aiohttp-server", "aiohttp_server:patch_websocket"),
    ("sqlite3.dbapi2", "sqlite3", "sqlite:patch"),
    ("sqlite3", "sqlite3", "sqlite:patch"),
    ("aiosqlite.core", "aiosqlite", "sqlite:patch_aiosqlite"),
    ("psycopg", "psycopg", "psycopg:patch"),
    ("psycopg2", "psycopg2", "psycopg:patch_psycopg2"),
    ("asyncpg", "asyncpg", "asyncpg:patch"),
    ("pymysql", "pymysql", "mysql:patch_pymysql"),
    ("aiomysql", "aiomysql", "mysql:patch_aiomysql"),
    ("MySQLdb.connections", "mysqlclient", "mysql:patch_mysqldb"),
    ("mysql.connector.cursor", "mysql.connector", "mysql:patch_connector_cursors"),
    ("mysql.connector.cursor_cext", "mysql.connector", "mysql:patch_connector_cursors"),
    ("mysql.connector.connection", "mysql.connector", "mysql:patch_connector_connections"),
    ("mysql.connector.connection_cext", "mysql.connector", "mysql:patch_connector_connections"),
    ("mysql.connector.aio.cursor", "mysql.connector", "mysql:patch_connector_cursors"),
    ("mysql.connector.aio.connection", "mysql.connector", "mysql:patch_connector_connections"),
    ("sqlalchemy.engine.default", "sqlalchemy", "sqlalchemy:patch"),
    ("redis.client", "redis", "redis:patch"),
    ("redis.cluster", "redis", "redis:patch"),
    ("redis.asyncio.client", "redis", "redis:patch_async"),
    ("redis.asyncio.cluster", "redis", "redis:patch_async"),
    ("valkey.client", "valkey", "redis:patch"),
    ("valkey.cluster", "valkey", "redis:patch"),
    ("valkey.asyncio.client", "valkey", "redis:patch_async"),
    ("valkey.asyncio.cluster", "valkey", "redis:patch_async"),
    ("kombu.transport.redis", "redis", "redis:patch_kombu"),
    ("celery.signals", "celery", "celery:patch"),
    ("celery.app.amqp", "celery", "celery:patch_amqp"),
    ("pymongo.monitoring", "pymongo", "pymongo:patch"),
    ("kafka.producer.kafka", "kafka", "kafka:patch_producer"),
    ("kafka.consumer.group", "kafka", "kafka:patch_consumer"),
    ("aiokafka.producer.producer", "aiokafka", "kafka:patch_aio_producer"),
    ("aiokafka.consumer.consumer", "aiokafka", "kafka:patch_aio_consumer"),
    ("confluent_kafka.cimpl", "confluent_kafka", "kafka:patch_confluent"),
    ("confluent_kafka", "confluent_kafka", "kafka:patch_confluent"),
    ("grpc._channel", "grpc", "grpc:patch_channel"),
    ("grpc._server", "grpc", "grpc:patch_server"),
    ("grpc.aio._channel", "grpc", "grpc:patch_aio_channel"),
    ("grpc.aio._server", "grpc", "grpc:patch_aio_server"),
    ("botocore.client", "botocore", "botocore:patch"),
    ("aiobotocore.client", "botocore", "botocore:patch_aio"),
    ("threading", "threading", "threads:patch_threading"),
    ("concurrent.futures.thread", "futures", "threads:patch_executor"),
    ("opentelemetry.trace", "opentelemetry", "autoinstr.bridge.opentelemetry:patch"),
    ("opentelemetry.propagate", "opentelemetry", "autoinstr.bridge.opentelemetry:patch_propagation"),
    ("fastapi.telemetry._api", "opentelemetry", "autoinstr.bridge.opentelemetry:patch_fastapi"),
    ("opentracing", "opentracing", "autoinstr.bridge.opentracing:patch"),
)
#: Frameworks whose applications are told by their class: (name for switching it off, module, class), special ones first.
APPLICATIONS = (
    ("fastapi", "fastapi.applications", "FastAPI"),
    ("starlette", "starlette.applications", "Starlette"),
    ("quart", "quart.app", "Quart"),
    ("flask", "flask.app", "Flask"),
    ("django", "django.core.handlers.base", "BaseHandler"),
    ("bottle", "bottle", "Bottle"),
    ("falcon", "falcon.app", "App"),
)
#: Middleware with one application inside, as ``app``, that servers put around what they are given, or programs do.
MIDDLEWARE = ("uvicorn.middleware.", "a2wsgi.", "werkzeug.debug", "werkzeug.middleware.proxy_fix", "starlette.middleware.")
#: The group of entry points by which other packages add instruments: name = module to watch, value = "module:function".
GROUP = "autoinstr.instruments"
#: Watched without being worth loading wrapt for: without one of the others there are no spans to carry on.
FOLLOWERS = frozenset({"threading", "concurrent.futures.thread"})


class Tracing:
    """What instruments work with; one per process. ``tracer`` is replaced after a fork, so read it each time."""

    __slots__ = ("_conventions", "asgi", "catch_sigterm", "config", "environ", "plain", "tracer")

    def __init__(
        self, tracer: Tracer, config: Config, plain: Propagator, environ: Propagator, asgi: Propagator
    ) -> None:
        self.tracer = tracer
        self.config = config
        self._conventions: Conventions | None = None
        #: The propagators by the spelling of header names: lower-case text, WSGI environ keys, ASGI bytes.
        self.plain = plain
        self.environ = environ
        self.asgi = asgi
        #: Makes SIGTERM flush again in a process whose server has put the default back.
        self.catch_sigterm: Callable[[], None] = lambda: None

    @property
    def conventions(self) -> Conventions:
        """The semantic conventions, made when the first instrument wants them."""
        if self._conventions is None:
            from autoinstr.instrument.http import Conventions

            self._conventions = Conventions(self.config)
        return self._conventions

    def is_disabled(self, *names: str) -> bool:
        """Whether an instrument that goes by one of these names is switched off."""
        return not self.config.disabled_instruments.isdisjoint(("*", *names))


class Patcher:
    """Replaces attributes of one library, and can put them back."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self._undo: list[tuple[Any, str, Any, bool]] = []

    def wrap(self, path: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace ``Class.method`` or ``function`` of the module by ``make(original)``.

        The original is looked up through the class dictionaries (wrapt), so that descriptors are seen as they are. A
        ``staticmethod`` or ``classmethod`` stays one. Wrapping twice with the same ``make`` is a no-op.
        """
        from functools import wraps

        from wrapt import apply_patch, resolve_path

        owner, name, original = resolve_path(self.module, path)
        kind: Any = type(original) if isinstance(original, (staticmethod, classmethod)) else None
        function: Any = original.__func__ if kind else original  # type: ignore[attr-defined]
        maker = f"{make.__module__}:{make.__qualname__}"
        makers = getattr(function, "__autoinstr__", ())
        if maker in makers:
            return
        wrapper = wraps(function)(make(function))
        wrapper.__autoinstr__ = (*makers, maker)  # type: ignore[attr-defined]
        was_own = name in vars(owner)
        apply_patch(owner, name, kind(wrapper) if kind else wrapper)
        self._undo.append((owner, name, original, was_own))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class by any object: a class by a subclass, a registry by one of ours."""
        was_own = name in vars(owner)
        original = vars(owner)[name] if was_own else None
        setattr(owner, name, value)
        self._undo.append((owner, name, original, was_own))

    def undo(self) -> None:
        """Put everything back, the newest first."""
        while self._undo:
            owner, name, original, was_own = self._undo.pop()
            try:
                if was_own:
                    setattr(owner, name, original)
                else:
                    delattr(owner, name)
            except Exception as error:  # Host safety: this may run in the program's import; the rest is put back.
                fault(f"taking out {name}", error)


class Watcher:
    """A finder on ``sys.meta_path`` that finds nothing, but sees which library is about to be imported.

    It stays there: when a library is imported anew (after ``del sys.modules[...]``), it is patched anew.
    """

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing
        self.patched: dict[str, str] = {}
        self.patchers: list[Patcher] = []
        #: Module to watch -> "module:function" of its instruments.
        self._targets: dict[str, list[str]] = {}
        for module, name, target in TABLE:
            if not tracing.is_disabled(name):
                self._targets.setdefault(module, []).append(full_name(target))
        self._armed: set[str] = set()
        self._loading_wrapt = False
        self._has_wrapt = False
        self._logging: Finder | None = None

    def install(self) -> None:
        """Begin to watch; libraries that are there already are patched now."""
        self._watch_logging()
        sys.meta_path.insert(0, self)
        for name in list(self._targets):
            if name in sys.modules and name not in FOLLOWERS and name not in self.patched:
                self._arm(name)

    def uninstall(self) -> None:
        """Stop watching and undo all patches."""
        if self._logging is not None:
            self._logging.uninstall()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._targets = {}
        while self.patchers:
            self.patchers.pop().undo()

    def _watch_logging(self) -> None:
        """Not in the table: patched only when asked, and without wrapt, which must not come as early as everybody imports it."""
        config = self.tracing.config
        if (config.log_correlation or config.log_events) and not self.tracing.is_disabled("logging"):
            from autoinstr.instrument.logging import Finder

            self._logging = Finder(self.tracing, self.patchers)
            self._logging.install()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Called for every import: see to the hook if the name is in the table, and let the others find it."""
        if name not in self._targets or name in self._armed or self._loading_wrapt:
            return None
        if name in FOLLOWERS and not self._has_wrapt:
            return None
        try:
            if not self._arm(name):
                return None
            for finder in sys.meta_path:
                if type(finder).__name__ == "ImportHookFinder":
                    # wrapt's finder was put in front of us just now, where this import has passed already.
                    find_spec: Any = finder.find_spec
                    found: ModuleSpec | None = find_spec(name)
                    return found
        except Exception as error:  # Host safety: the program's import goes on without us.
            fault(f"the import hook for {name}", error)
        return None

    def _arm(self, name: str) -> bool:
        """Register the hook with wrapt. False when wrapt is not to be had."""
        if not self._has_wrapt:
            if not self._load_wrapt():
                return False
            if name in self.patched:
                return True
        from wrapt import register_post_import_hook

        self._armed.add(name)
        register_post_import_hook(self._on_import, name)
        return True

    def _load_wrapt(self) -> bool:
        self._loading_wrapt = True
        try:
            from wrapt import apply_patch, register_post_import_hook, resolve_path  # noqa: F401

            self._add_others()
        except Exception as error:  # Host safety: a broken or missing wrapt must not break the import that led here.
            self._targets = {}
            text = f"wrapt cannot be imported ({error}); nothing is traced. Install it: pip install 'wrapt>=1.14,<3'"
            say(text, "", ERROR, error)
            return False
        finally:
            self._loading_wrapt = False
        self._has_wrapt = True
        for name in list(self._targets):
            # What is there already; wrapt itself, or .pth files, may have imported some of them.
            if name in sys.modules and name not in self._armed:
                self._arm(name)
        return True

    def _add_others(self) -> None:
        """Watch for what the instruments of other packages want; done once, when the first library is imported."""
        try:
            for module, target in find_others():
                if not self.tracing.is_disabled(module.lower(), module.lower().partition(".")[0]):
                    self._targets.setdefault(module, []).append(target)
        except Exception as error:  # Host safety: one unreadable package must cost no more than its own instruments.
            fault("the search for instruments of other packages", error)

    def _on_import(self, module: ModuleType) -> None:
        """wrapt calls this when a watched module has been executed; whatever happens here, the import succeeds."""
        name = module.__name__
        self._armed.discard(name)
        failures = []
        for target in self._targets.get(name, ()):
            patcher = Patcher(module)
            try:
                load(target)(patcher, self.tracing)
            except Exception as error:  # Host safety: an exception in a hook would fail the program's import.
                patcher.undo()
                failures.append(f"{type(error).__name__}: {error}")
                text = f"cannot instrument {name}: {failures[-1]}; it runs, untraced"
                say(text, f"{name} {target}", ERROR, error)
            else:
                self.patchers.append(patcher)
        self.patched[name] = f"failed: {'; '.join(failures)}" if failures else "patched"


def find_others() -> list[tuple[str, str]]:
    """(module to watch, "module:function") of the instruments that other packages have."""
    if not any(map(_has_instruments, sys.path)):
        return []
    from importlib.metadata import entry_points

    return [(entry.name, f"{entry.module}:{entry.attr}") for entry in entry_points(group=GROUP)]


def _has_instruments(folder: str) -> bool:
    """Whether some package in a folder may have instruments: a look for the name of the group, and nothing else.

    Few programs have such packages, and to load ``importlib.metadata`` and let it read everything takes 30 times as long.
    """
    import os

    try:
        names = os.listdir(folder or ".")
    except OSError:  # A zip file, or not there.
        return False
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    if GROUP.encode() in file.read():
                        return True
            except OSError:
                continue
    return False


def framework_of(app: Any) -> str:
    """The name of the framework that an application is made with, also behind a server's own middleware; "" if unknown."""
    while type(app).__module__.startswith(MIDDLEWARE) and hasattr(app, "app"):
        app = app.app
    for name, module, cls in APPLICATIONS:
        known = getattr(sys.modules.get(module), cls, None)  # What nobody has imported has no applications.
        if isinstance(known, type) and isinstance(app, known):
            return name
    return ""


def is_left_alone(app: Any, tracing: Tracing) -> bool:
    """Whether an application gets no server spans, whatever serves it, because its framework is switched off."""
    disabled = tracing.config.disabled_instruments
    if not disabled:
        return False
    try:
        return framework_of(app) in disabled
    except Exception as error:  # Host safety: an application can be any object, a proxy that raises among them.
        fault("the look at an application", error)
        return False


def wrap_once(app: Any, tracing: Tracing, make_handler: Callable[[], Callable[..., Any]]) -> Any:
    """``app`` inside ``handle(app, ...)``, marked, so that a server above another one does not wrap it again."""
    from functools import partial

    if getattr(app, "__autoinstr__", None) is True or is_left_alone(app, tracing):
        return app
    # A `partial` is called without a frame of its own, and counts as a coroutine function where the handler is one.
    wrapped: Any = partial(make_handler(), app)
    wrapped.__wrapped__ = app
    wrapped.__autoinstr__ = True
    return wrapped


def full_name(target: str) -> str:
    """The target of a row of ``TABLE`` as ``load`` wants it."""
    return target if "." in target.partition(":")[0] else f"{__name__}.{target}"


def load(target: str) -> Callable[[Patcher, Tracing], None]:
    """The instrument function that "module:function" names."""
    from importlib import import_module

    module, _, function = target.partition(":")
    found: Callable[[Patcher, Tracing], None] = getattr(import_module(module), function)
    return found
