"""The packages opentelemetry-instrumentation-*, and the spans that FastAPI and Starlette make by themselves, unchanged.

Real requests over the loopback, with our own instrument of the library beside them and without: one trace, no span twice.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.config import from_env
from autoinstr.instrument import Tracing, Watcher
from autoinstr.model import Kind, SpanContext, SpanData
from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
from autoinstr.report import InMemoryReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import Tracer, current
from fakes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

api = pytest.importorskip("opentelemetry.trace")
pytest.importorskip("opentelemetry.instrumentation")

#: What is switched off where the package is to be alone.
OFF = "flask,werkzeug,fastapi,starlette,uvicorn,requests,urllib3,http.client,httpx,sqlite3,threading,futures"
both = pytest.mark.parametrize("off", ["", OFF], ids=["beside ours", "alone"])


@pytest.fixture
def reporter() -> InMemoryReporter:
    return InMemoryReporter()


@pytest.fixture
def agent(reporter: InMemoryReporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Tracing]]:
    """``agent(names)`` instruments everything in this process but what is switched off."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    watchers: list[Watcher] = []

    def start(off: str) -> Tracing:
        config = from_env({"AUTOINSTR_DISABLED_INSTRUMENTS": off}, ())
        propagators = (Propagator(config.propagators, key) for key in (plain, environ_key, asgi_key))
        tracing = Tracing(Tracer(ConstSampler(True, ignores_parent=False), reporter), config, *propagators)
        watchers.append(Watcher(tracing))
        watchers[0].install()
        return tracing

    yield start
    for watcher in watchers:
        watcher.uninstall()
    assert current.get() is None, "something was left current"


@contextlib.contextmanager
def instrumented(name: str, cls: str, *arguments: Any) -> Iterator[None]:
    """One of the packages, put in and taken out again."""
    instrumentor = getattr(pytest.importorskip(f"opentelemetry.instrumentation.{name}"), cls)()
    instrumentor.instrument(*arguments)
    try:
        yield
    finally:
        instrumentor.uninstrument()


@contextlib.contextmanager
def flask_served(app: Any) -> Iterator[str]:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def asgi_served(app: Any) -> Iterator[str]:
    import uvicorn

    from ports import free_port

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the start of uvicorn")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def get(url: str) -> Any:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=10)


def arrived(reporter: InMemoryReporter, count: int) -> dict[str, SpanData]:
    """The spans by name, as soon as there are so many; a server may end its span after the client has its answer."""
    until(lambda: len(reporter.spans) >= count, f"{count} spans")
    spans = {span.name: span for span in list(reporter.spans)}
    assert len(reporter.spans) == count, [span.name for span in reporter.spans]
    assert len({span.trace_id for span in spans.values()}) == 1, "not one trace"
    return spans


@both
def test_requests_flask_and_sqlite(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str, tmp_path: Any) -> None:
    """Programs have these packages in already: requests would be there twice, or fall into pieces."""
    tracing = agent(off)
    flask = pytest.importorskip("flask")
    package = pytest.importorskip("opentelemetry.instrumentation.flask")
    app = flask.Flask("shop")

    @app.route("/item/<number>")
    def item(number: str) -> str:
        with api.get_tracer("shop").start_as_current_span("look up"), contextlib.closing(sqlite3.connect(tmp_path / "db")) as db:
            cursor = db.cursor()
            cursor.execute("SELECT 1")
            (found,) = cursor.fetchone()
            cursor.close()
        return f"{number} {found}"

    package.FlaskInstrumentor().instrument_app(app)
    with (
        instrumented("requests", "RequestsInstrumentor"),
        instrumented("sqlite3", "SQLite3Instrumentor"),
        flask_served(app) as url,
        api.get_tracer("test").start_as_current_span("test") as test,
    ):
        assert get(f"{url}/item/7").text == "7 1"
        spans = arrived(reporter, 4)
    package.FlaskInstrumentor().uninstrument_app(app)
    server, client = spans["GET /item/<number>"], spans["GET"]
    assert (server.kind, client.kind) == (Kind.SERVER, Kind.CLIENT)
    assert client.scope == "opentelemetry.instrumentation.requests"
    assert server.scope == ("opentelemetry.instrumentation.flask" if off else "werkzeug")
    assert client.parent_id == test.own.span_id
    assert (server.parent_id, server.parent_is_remote) == (client.span_id, True)
    assert spans["look up"].parent_id == server.span_id
    assert spans["SELECT"].parent_id == spans["look up"].span_id
    assert (spans["SELECT"].scope, spans["SELECT"].kind) == ("opentelemetry.instrumentation.sqlite3", Kind.CLIENT)
    assert server.attributes["http.route"] == "/item/<number>"
    assert server.attributes["http.status_code"] == 200
    assert tracing.tracer.roots_sampled == 1


@both
def test_an_error_in_flask(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """The exception would be on the span twice, or not at all."""
    agent(off)
    flask = pytest.importorskip("flask")
    package = pytest.importorskip("opentelemetry.instrumentation.flask")
    app = flask.Flask("shop")
    app.logger.disabled = True

    @app.route("/")
    def fails() -> str:
        raise KeyError("nothing")

    package.FlaskInstrumentor().instrument_app(app)
    with flask_served(app) as url:
        assert get(url).status_code == 500
        until(lambda: reporter.spans and reporter.spans[-1].kind == Kind.SERVER)
    package.FlaskInstrumentor().uninstrument_app(app)
    server = reporter.spans[-1]
    assert [event.attributes["exception.type"] for event in server.events or ()] == ["KeyError"]
    assert server.status == 2


def fastapi_app(seen: list[str] | None = None) -> Any:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.get("/item/{number}")
    async def item(number: int) -> dict[str, int]:
        with api.get_tracer("shop").start_as_current_span("look up"):
            return {"number": number}

    @app.get("/fail")
    async def fails() -> None:
        raise KeyError("nothing")

    return app


@both
def test_fastapi_with_its_package(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """The package's middleware stands inside ours: its spans are those that it always makes, less the server's."""
    agent(off)
    app = fastapi_app()
    package = pytest.importorskip("opentelemetry.instrumentation.fastapi")
    package.FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
    with asgi_served(app) as url, instrumented("requests", "RequestsInstrumentor"):
        assert get(f"{url}/item/7").json() == {"number": 7}
        spans = arrived(reporter, 3)
    package.FastAPIInstrumentor.uninstrument_app(app)
    server = spans["GET /item/{number}"]
    assert (server.kind, server.parent_id) == (Kind.SERVER, spans["GET"].span_id)
    assert server.scope == ("opentelemetry.instrumentation.fastapi" if off else "uvicorn")
    assert spans["look up"].parent_id == server.span_id


def native_fastapi() -> None:
    pytest.importorskip("fastapi.telemetry", reason="this FastAPI makes no spans of its own")


@both
@pytest.mark.parametrize("wanted", [False, True], ids=["by itself", "set up"])
def test_fastapi_with_its_own_spans(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str, wanted: bool) -> None:
    """Each request would be there twice; and half a dozen spans for each would be made that nobody has asked for."""
    agent(off)
    native_fastapi()
    app = fastapi_app()
    if wanted:
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        api.set_tracer_provider(sdk.TracerProvider(shutdown_on_exit=False))
    with asgi_served(app) as url, instrumented("requests", "RequestsInstrumentor"):
        assert get(f"{url}/item/7").json() == {"number": 7}
        until(lambda: any(span.kind == Kind.CLIENT for span in reporter.spans))
        if not off or wanted:
            until(lambda: sum(span.kind == Kind.SERVER for span in reporter.spans))
    if off and not wanted:
        assert [span for span in reporter.spans if span.kind == Kind.SERVER] == []
        return
    spans = {span.name: span for span in reporter.spans}
    (server,) = [span for span in reporter.spans if span.kind == Kind.SERVER]
    assert (server.name, server.parent_id) == ("GET /item/{number}", spans["GET"].span_id)
    assert server.scope == ("fastapi" if off else "uvicorn")
    assert server.attributes["http.route"] == "/item/{number}"
    assert ("fastapi.endpoint" in spans) == wanted
    assert spans["look up"].parent_id == (spans["fastapi.endpoint"] if wanted else server).span_id
    assert len({span.trace_id for span in reporter.spans}) == 1


@both
def test_an_error_in_fastapi_with_its_own_spans(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """FastAPI names the error on the span, and leaves out what it was; our server instrument must still tell."""
    agent(off)
    native_fastapi()
    app = fastapi_app()
    api.get_tracer_provider().is_wanted = True
    with asgi_served(app) as url:
        assert get(f"{url}/fail").status_code == 500
        until(lambda: any(span.kind == Kind.SERVER for span in reporter.spans))
    (server,) = [span for span in reporter.spans if span.kind == Kind.SERVER]
    assert (server.status, server.attributes["error.type"]) == (2, "KeyError")
    assert off or [event.attributes["exception.type"] for event in server.events or ()] == ["KeyError"]


@both
def test_starlettes_own_middleware(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """As FastAPI's, but put in by the program."""
    agent(off)
    middleware = pytest.importorskip("starlette.middleware.opentelemetry")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def item(request: Any) -> Any:
        return PlainTextResponse(request.path_params["number"])

    routes = [Mount("/shop", routes=[Route("/item/{number}", item)])]
    app = Starlette(routes=routes, middleware=[Middleware(middleware.OpenTelemetryMiddleware)])
    with asgi_served(app) as url, instrumented("requests", "RequestsInstrumentor"):
        assert get(f"{url}/shop/item/7").text == "7"
        spans = arrived(reporter, 2)
    server = spans["GET /shop/item/{number}"]
    assert (server.kind, server.parent_id) == (Kind.SERVER, spans["GET"].span_id)
    assert server.scope == ("starlette" if off else "uvicorn")


@pytest.mark.parametrize("sampled", [True, False])
def test_middleware_with_a_provider_of_its_own(
    agent: Callable[[str], Tracing], reporter: InMemoryReporter, sampled: bool
) -> None:
    """A request would be in two traces, which nothing connects: what lies behind the program's own span, and the rest."""
    agent("uvicorn")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace import sampling

    asgi = pytest.importorskip("opentelemetry.instrumentation.asgi")
    provider = sdk.TracerProvider(sampler=sampling.ALWAYS_ON if sampled else sampling.ALWAYS_OFF, shutdown_on_exit=False)
    app = asgi.OpenTelemetryMiddleware(fastapi_app(), tracer_provider=provider, exclude_spans=["send", "receive"])
    theirs: list[Any] = []
    provider.add_span_processor(type("Seen", (sdk.SpanProcessor,), {"on_end": lambda _, span: theirs.append(span)})())
    with asgi_served(app) as url:
        assert get(f"{url}/item/7").json() == {"number": 7}
        until(lambda: any(span.kind == Kind.SERVER for span in reporter.spans))
    provider.shutdown()
    (server,) = [span for span in reporter.spans if span.kind == Kind.SERVER]
    assert server.name == "GET /item/{number}"
    if sampled:
        (own,) = theirs
        assert (server.trace_id, server.parent_id) == (own.context.trace_id, own.context.span_id)


@both
def test_httpx(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """A request would be two spans, the lower one ours; or go out with two identities."""
    agent(off)
    httpx = pytest.importorskip("httpx")
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with instrumented("httpx", "HTTPXClientInstrumentor"), httpx.Client(trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{server.server_port}/").status_code == 200
    thread.join()
    server.server_close()
    (span,) = [span for span in reporter.spans if span.kind == Kind.CLIENT]
    assert span.scope == "opentelemetry.instrumentation.httpx"
    assert f"-{span.span_id:016x}-" in seen[0]["HTTP_TRACEPARENT"]


@both
def test_jinja_and_threads(agent: Callable[[str], Tracing], reporter: InMemoryReporter, off: str) -> None:
    """Work that is handed to threads would fall out of its trace, or lose the program's context."""
    tracing = agent(off)
    jinja2 = pytest.importorskip("jinja2")
    from concurrent.futures import ThreadPoolExecutor

    from opentelemetry import context

    template = jinja2.Environment(autoescape=True)
    kept: list[Any] = []

    def render() -> str:
        kept.append(context.get_value("key"))
        return template.from_string("{{ 1 + 1 }}").render()

    with instrumented("jinja2", "Jinja2Instrumentor"), instrumented("threading", "ThreadingInstrumentor"):
        server = tracing.tracer.start("GET /", Kind.SERVER, SpanContext(5, 6, 1))
        own_token = current.set(server)
        token = context.attach(context.set_value("key", "value"))
        thread = threading.Thread(target=render)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(render).result() == "2"
            context.detach(token)
            current.reset(own_token)
            assert pool.submit(current.get).result() is None
    assert kept == ["value", "value"]
    rendered = [span for span in reporter.spans if span.name.startswith("jinja2.render")]
    assert [span.parent_id for span in rendered] == [server.span_id] * 2
