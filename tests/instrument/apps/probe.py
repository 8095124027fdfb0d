"""Says what a program can see of the functions named in its arguments ("module:Class.method"), as JSON on stdout.

``patched`` as the only argument: names everything that the agent has patched in the libraries below instead.
"""

import copy
import importlib
import inspect
import json
import pickle
import pydoc
import re
import sys
import warnings
from unittest import mock

LIBRARIES = ["http.client", "urllib.request", "wsgiref.handlers", "threading", "concurrent.futures.thread", "bottle", "cheroot.wsgi", "daphne.server", "django.core.handlers.asgi", "django.core.handlers.wsgi", "django.utils.autoreload", "falcon", "falcon.asgi", "fastapi", "fastapi.routing", "flask", "granian.asgi", "granian.wsgi", "gunicorn.app.base", "hypercorn.app_wrappers", "quart", "requests", "sqlite3", "aiosqlite", "psycopg", "psycopg2", "asyncpg", "pymysql", "aiomysql", "MySQLdb.connections", "mysql.connector", "sqlalchemy.engine", "redis.asyncio", "redis.cluster", "celery", "celery.app.amqp", "pymongo", "kafka", "aiokafka", "confluent_kafka", "grpc.aio", "botocore.client", "aiohttp", "aiohttp.web", "httpx", "httpx2", "opentracing", "starlette.applications", "starlette.routing", "urllib3", "uvicorn.config", "uvicorn.server", "waitress.server", "werkzeug._reloader", "werkzeug.serving"]


def find(name):
    module, _, path = name.partition(":")
    owner = importlib.import_module(module)
    *classes, last = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return owner, last


def describe(name):
    owner, last = find(name)
    function = getattr(owner, last)
    facts = {
        "type": type(function).__name__,
        "kind in its class": type(vars(owner).get(last)).__name__,
        "signature": without_addresses(str(inspect.signature(function))),
        "is a coroutine function": inspect.iscoroutinefunction(function),
        "names": [getattr(function, attribute, None) for attribute in ("__name__", "__qualname__", "__module__")],
        # Without a docstring pydoc looks for a comment above the function's own source.
        "document": function.__doc__ and without_addresses(pydoc.render_doc(function, renderer=pydoc.plaintext)),
        "source": inspect.getsource(function),
        "annotations": str(function.__annotations__),
        "copies are itself": copy.deepcopy(function) is function is copy.copy(function),
        "autospec": type(mock.create_autospec(function)).__name__,
    }
    if inspect.isclass(owner):
        facts["autospec in its class"] = type(getattr(mock.create_autospec(owner), last)).__name__
        facts["class"] = [type(owner).__name__, owner.__module__, owner.__qualname__, str(owner.__mro__)]
        subclass = type("Mine", (owner,), {last: lambda self, *arguments: getattr(super(owner, self), last)})
        facts["in a subclass"] = vars(subclass)[last].__name__
    try:
        facts["pickles to itself"] = pickle.loads(pickle.dumps(function)) is function
    except Exception as error:
        facts["pickles to itself"] = type(error).__name__
    return facts


def without_addresses(text):
    return re.sub("0x[0-9a-f]+", "0x", text)


def patched():
    watcher = sys._autoinstr_running.watcher
    for patcher in watcher.patchers:
        for owner, name, _, _ in patcher._undo:
            if not (inspect.ismodule(owner) or inspect.isclass(owner)) or not inspect.isfunction(inspect.unwrap(getattr(owner, name))):
                continue  # A class in place of another, an object, or what a C library has.
            place = owner.__name__ + ":" if inspect.ismodule(owner) else f"{owner.__module__}:{owner.__qualname__}."
            yield place + name


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    from django.conf import settings

    settings.configure()
    for library in LIBRARIES:
        importlib.import_module(library)
    if sys.argv[1:] == ["patched"]:
        json.dump(sorted(set(patched())), sys.stdout)
    else:
        json.dump({name: describe(name) for name in sys.argv[1:]}, sys.stdout)
