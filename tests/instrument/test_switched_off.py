"""A framework that is switched off by its name: its applications get no server spans, whatever serves them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.instrument import framework_of
from autoinstr.model import Kind
from ports import free_port

from .conftest import build_tracing
from .contract_framework import call_asgi, call_wsgi
from .contract_server import TARGETS, Server
from .contract_server import receiver as receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter

    from .contract_server import Receiver

GUNICORN = ("gunicorn", "--bind=127.0.0.1:PORT", "--no-control-socket")
SERVERS = {
    "gunicorn": (*GUNICORN, "APP"),
    "gunicorn with uvicorn": (*GUNICORN, "--worker-class=uvicorn.workers.UvicornWorker", "APP"),
    "uvicorn": ("uvicorn", "--port=PORT", "APP"),
    "uvicorn for WSGI": ("uvicorn", "--port=PORT", "--interface=wsgi", "APP"),
    "hypercorn": ("hypercorn", "--bind=127.0.0.1:PORT", "APP"),
    "waitress": ("waitress-serve", "--listen=127.0.0.1:PORT", "APP"),
    "flask run": ("flask", "--app=flask_app", "run", "--port=PORT", "--debug", "--no-reload"),
    "runserver": ("manage.py", "runserver", "PORT", "--noreload"),
}


@pytest.mark.parametrize(
    ("server", "app", "name"),
    [
        ("gunicorn", "flask", "flask"),
        ("gunicorn", "django_wsgi", "django"),
        ("gunicorn with uvicorn", "fastapi", "fastapi"),
        ("uvicorn", "fastapi", "fastapi"),
        ("uvicorn", "django_asgi", "django"),
        ("uvicorn for WSGI", "flask", "flask"),
        ("hypercorn", "fastapi", "fastapi"),
        ("waitress", "flask", "flask"),
        ("flask run", "flask", "flask"),
        ("runserver", "django_wsgi", "django"),
    ],
)
def test_server_leaves_the_applications_alone(
    server: str, app: str, name: str, receiver: Receiver, tmp_path: Path
) -> None:
    """Who switches off ``fastapi`` gets spans all the same, of the server; who switches off another one gets none."""
    counts = []
    for disabled in (name, "tornado,sanic,bottle"):
        port = free_port()
        words = [word.replace("PORT", str(port)).replace("APP", TARGETS[app]) for word in SERVERS[server]]
        environ = {
            "JAEGER_SAMPLER_TYPE": "const",
            "JAEGER_SAMPLER_PARAM": "1",
            "JAEGER_AGENT_HOST": "127.0.0.1",
            "JAEGER_AGENT_PORT": str(receiver.port),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled,
        }
        process = Server(words, port, tmp_path / "log", traced=True, environ=environ)
        try:
            assert process.get("/stream") == (200, b"part part part ")
            assert process.get("/fail")[0] == 500
            assert process.get("/users/7") == (200, b"hello 7")
            process.terminate()
        finally:
            process.kill()
        assert "autoinstr:" not in process.output()
        counts.append(sum(span.kind == Kind.SERVER for span in receiver.spans()))
    assert counts == [0, 3], process.output()


# ---- Which applications are whose ----------------------------------------------------------------


def of_flask() -> Any:
    from flask import Flask

    class Shop(Flask):
        """As some write theirs."""

    return Shop("shop")


def of_django(*, asgi: bool) -> Any:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="none")
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    return ASGIHandler() if asgi else WSGIHandler()


def of_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    return Starlette(routes=[Route("/users", lambda request: PlainTextResponse("hello"))])


def of_fastapi() -> Any:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()
    app.add_api_route("/users", lambda: PlainTextResponse("hello"))
    return app


def of_quart() -> Any:
    from quart import Quart

    return Quart("shop")


def of_bottle() -> Any:
    from bottle import Bottle

    return Bottle()


def of_falcon(*, asgi: bool) -> Any:
    import falcon
    import falcon.asgi

    return falcon.asgi.App() if asgi else falcon.App()


def behind_middleware() -> Any:
    from starlette.middleware.cors import CORSMiddleware
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return ProxyHeadersMiddleware(CORSMiddleware(of_fastapi()))


def behind_proxy_fix() -> Any:
    from werkzeug.debug import DebuggedApplication
    from werkzeug.middleware.proxy_fix import ProxyFix

    return DebuggedApplication(ProxyFix(of_flask()))


def dispatched() -> Any:
    """Several applications, of which the one behind ``app`` is only the one for all other paths."""
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(of_flask(), {"/plain": lambda environ, start_response: []})


def endless() -> Any:
    """No application at all, but some would look through it for ever."""
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return ProxyHeadersMiddleware(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("flask", of_flask),
        ("django", lambda: of_django(asgi=False)),
        ("django", lambda: of_django(asgi=True)),
        ("starlette", of_starlette),
        ("fastapi", of_fastapi),
        ("quart", of_quart),
        ("bottle", of_bottle),
        ("falcon", lambda: of_falcon(asgi=False)),
        ("falcon", lambda: of_falcon(asgi=True)),
        ("fastapi", behind_middleware),
        ("flask", behind_proxy_fix),
        ("", dispatched),
        ("", endless),
        ("", lambda: print),
    ],
)
def test_framework_of_an_application(name: str, make: Callable[[], Any]) -> None:
    """A framework that is not recognised cannot be switched off, and one too many would take other people's spans."""
    assert name == framework_of(make())


def test_proxy_that_raises(reporter: InMemoryReporter) -> None:
    """An application that does not want to be looked at must not raise in the server's start."""
    from werkzeug.local import LocalProxy

    from autoinstr.instrument import is_left_alone

    unbound: Any = LocalProxy(lambda: 1 / 0)
    of_flask()
    assert not is_left_alone(unbound, build_tracing(reporter, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="flask"))


# ---- In this process -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disabled", "starlette", "fastapi"),
    [("flask", 1, 1), ("fastapi", 1, 0), ("starlette", 0, 0), ("starlette,fastapi", 0, 0)],
)
def test_fastapi_is_not_starlette(
    disabled: str,
    starlette: int,
    fastapi: int,
    watch: Callable[..., Watcher],
    reporter: InMemoryReporter,
) -> None:
    """FastAPI's applications are Starlette's, too, and end in Starlette's own method."""
    watch(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    for make, expected in ((of_starlette, starlette), (of_fastapi, fastapi)):
        reporter.spans.clear()
        assert call_asgi(make(), "GET", "/users") == (200, b"hello")
        assert expected == len(reporter.spans)


@pytest.mark.parametrize(("disabled", "expected"), [("flask", 0), ("bottle", 1)])
def test_server_that_is_given_its_application_anew(
    disabled: str, expected: int, watch: Callable[..., Watcher], reporter: InMemoryReporter
) -> None:
    """wsgiref is handed the application with each request, and behind it are test servers and Django's own."""
    import io
    import wsgiref.handlers
    from wsgiref.util import setup_testing_defaults

    app = of_flask()
    app.add_url_rule("/", view_func=lambda: "hello")
    watch(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    output = io.BytesIO()
    handler = wsgiref.handlers.SimpleHandler(io.BytesIO(), output, io.StringIO(), environ)
    handler.run(app)
    assert output.getvalue().endswith(b"hello")
    assert expected == sum(span.kind == Kind.SERVER for span in reporter.spans)


def test_another_framework_inside_is_still_traced(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Who switches off the outer application has not said a word about the one that is mounted in it."""
    from starlette.routing import Mount

    outer = of_fastapi()
    outer.router.routes.append(Mount("/inner", of_starlette()))
    watch(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="fastapi")
    assert call_asgi(outer, "GET", "/inner/users") == (200, b"hello")
    assert call_asgi(outer, "GET", "/users") == (200, b"hello")
    assert ["/inner/users"] == [span.attributes["url.path"] for span in reporter.spans]


def test_wrapped_by_hand(monkeypatch: pytest.MonkeyPatch, reporter: InMemoryReporter) -> None:
    """The environment has the last word over what the program does by hand; ``*`` is only about what is patched."""
    from autoinstr.instrument.wsgi import wrap_application

    app = of_flask()
    app.add_url_rule("/", view_func=lambda: "hello")
    for disabled, expected in (("flask", 0), ("django", 1), ("*", 1)):
        reporter.spans.clear()
        traced = wrap_application(app, build_tracing(reporter, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled))
        assert call_wsgi(traced, "GET", "/") == (200, b"hello")
        assert expected == len(reporter.spans)
