"""ASGI frameworks, called in this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi
import fastapi
import quart
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from autoinstr.model import Status

from .contract_framework import FrameworkContract, call_asgi, exchange_asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from autoinstr.report import InMemoryReporter


class StarletteContract(FrameworkContract):
    raises_to_server = True
    call = call_asgi

    def test_middleware_that_runs_the_application_in_a_task(self, app: Any, reporter: InMemoryReporter) -> None:
        """``BaseHTTPMiddleware``: the route is found in another task than the request was begun."""

        class Passing(BaseHTTPMiddleware):
            async def dispatch(self, request: Any, call_next: Any) -> Any:
                return await call_next(request)

        app.add_middleware(Passing)
        assert self.get(app, "/users/4") == (200, b"hello 4")
        assert self.only(reporter).name == f"GET {self.user_route}"

    def test_static_files(self, app: Any, tmp_path: Path, reporter: InMemoryReporter) -> None:
        """There are no routes below such a mount: its own path is the name, not the file's."""
        (tmp_path / "style.css").write_text("body {}")
        app.mount("/static", StaticFiles(directory=tmp_path))
        assert self.get(app, "/static/style.css") == (200, b"body {}")
        span = self.only(reporter)
        assert span.name == "GET /static"
        assert span.attributes["http.route"] == "/static"

    def test_websocket(self, app: Any, reporter: InMemoryReporter) -> None:
        """One span for the handshake, by its route."""

        async def talk(websocket: Any) -> None:
            await websocket.accept()
            await websocket.send_text("hello")
            await websocket.close()

        app.router.routes.append(WebSocketRoute("/talk/{room}", talk))
        scope = {"type": "websocket", "path": "/talk/5", "query_string": b"", "headers": [], "root_path": ""}
        sent = exchange_asgi(app, scope, {"type": "websocket.connect"})
        assert sent[1] == {"type": "websocket.send", "text": "hello"}
        span = self.only(reporter)
        assert span.name == "GET /talk/{room}"
        assert span.attributes["http.response.status_code"] == 101

    def test_lifespan(self, app: Any, reporter: InMemoryReporter) -> None:
        """Start and stop of an application are no requests."""
        messages = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        sent = exchange_asgi(app, {"type": "lifespan", "state": {}}, *messages)
        assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert not reporter.spans


class TestStarlette(StarletteContract):
    """With a mounted router."""

    user_route = "/users/{user_id}"
    item_route = "/v1/items/{item_id}"
    scope = "starlette"

    def make(self) -> Any:
        async def user(request: Any) -> PlainTextResponse:
            return PlainTextResponse(f"hello {request.path_params['user_id']}")

        async def item(request: Any) -> PlainTextResponse:
            return PlainTextResponse(f"item {request.path_params['item_id']}")

        async def fail(request: Any) -> PlainTextResponse:
            raise RuntimeError("on purpose")

        async def teapot(request: Any) -> PlainTextResponse:
            raise HTTPException(418)

        async def stream(request: Any) -> StreamingResponse:
            return StreamingResponse(iter([b"part "] * 3))

        return Starlette(
            routes=[
                Route("/users/{user_id:int}", user),
                Route("/fail", fail),
                Route("/teapot", teapot),
                Route("/stream", stream),
                Mount("/v1", routes=[Mount("/items", routes=[Route("/{item_id:int}", item)])]),
            ]
        )

    def test_background_task(self, app: Any, reporter: InMemoryReporter) -> None:
        """The request is over when it is answered."""
        finished = []

        async def work() -> None:
            finished.append(len(reporter.spans))
            await asyncio.sleep(0.05)

        async def answer(request: Any) -> PlainTextResponse:
            return PlainTextResponse("x", background=BackgroundTask(work))

        app.router.routes.append(Route("/background", answer))
        assert self.get(app, "/background") == (200, b"x")
        assert finished == [1]
        span = self.only(reporter)
        assert span.end_ns - span.start_ns < 50_000_000


class TestFastAPI(StarletteContract):
    """With an included router."""

    user_route = "/users/{user_id}"
    item_route = "/v1/items/{item_id}"
    scope = "starlette"  # FastAPI is one.

    def make(self) -> Any:
        app = fastapi.FastAPI()
        items = fastapi.APIRouter(prefix="/items", default_response_class=PlainTextResponse)

        @app.get("/users/{user_id}", response_class=PlainTextResponse)
        async def user(user_id: int) -> str:
            return f"hello {user_id}"

        @app.get("/fail")
        def fail() -> None:
            raise RuntimeError("on purpose")

        @app.get("/teapot")
        async def teapot() -> None:
            raise fastapi.HTTPException(418)

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(iter([b"part "] * 3))

        @items.get("/{item_id}")
        def item(item_id: int) -> str:
            return f"item {item_id}"

        app.include_router(items, prefix="/v1")
        return app

    def test_mounted_application(self, app: Any, reporter: InMemoryReporter) -> None:
        """A whole FastAPI application below another one's path."""
        outer = fastapi.FastAPI()
        outer.mount("/shop", app)
        assert self.get(outer, "/shop/v1/items/8") == (200, b"item 8")
        assert self.only(reporter).name == "GET /shop/v1/items/{item_id}"

    def test_dependencies_with_yield(self, app: Any, reporter: InMemoryReporter) -> None:
        """They run inside of the span."""
        from autoinstr.trace import current

        seen = []

        async def resource() -> AsyncIterator[None]:
            seen.append(current.get())
            yield

        @app.get("/depends")
        async def depends(value: Any = fastapi.Depends(resource)) -> str:  # noqa: B008 - as FastAPI wants it
            return "x"

        self.get(app, "/depends")
        assert seen == [self.only(reporter)]


class TestQuart(FrameworkContract):
    """With a blueprint."""

    user_route = "/users/<int:user_id>"
    item_route = "/v1/items/<int:item_id>"
    scope = "quart"
    call = call_asgi

    def make(self) -> Any:
        app = quart.Quart(__name__)
        api = quart.Blueprint("api", __name__, url_prefix="/v1")

        @app.get("/users/<int:user_id>")
        async def user(user_id: int) -> str:
            return f"hello {user_id}"

        @app.get("/fail")
        async def fail() -> str:
            raise RuntimeError("on purpose")

        @app.get("/teapot")
        async def teapot() -> str:
            quart.abort(418)

        @app.get("/stream")
        async def stream() -> Any:
            async def parts() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield b"part "

            return parts()

        @api.get("/items/<int:item_id>")
        async def item(item_id: int) -> str:
            return f"item {item_id}"

        @app.websocket("/talk/<room>")
        async def talk(room: str) -> None:
            await quart.websocket.send("hello")

        app.register_blueprint(api)
        return app

    def test_exception_that_is_let_through(self, app: Any, reporter: InMemoryReporter) -> None:
        """In debugging and testing the exception is both handled and raised: it is one event."""
        app.config["PROPAGATE_EXCEPTIONS"] = True
        with contextlib.suppress(RuntimeError):
            self.get(app, "/fail")
        span = self.only(reporter)
        assert len(span.events or ()) == 1
        assert span.status == Status.ERROR

    def test_websocket(self, app: Any, reporter: InMemoryReporter) -> None:
        """One span for the handshake, by its route."""

        async def main() -> str:
            async with app.test_client().websocket("/talk/5") as websocket:
                return str(await websocket.receive())

        assert asyncio.run(main()) == "hello"
        assert self.only(reporter).name == "GET /talk/<room>"


class TestFalcon(FrameworkContract):
    """Its ASGI half, which matches the whole path, ``root_path`` included."""

    has_prefix = False
    user_route = "/users/{user_id:int}"
    item_route = "/v1/items/{item_id:int}"
    scope = "falcon"
    call = call_asgi

    def make(self) -> Any:
        class User:
            async def on_get(self, request: Any, response: Any, user_id: int) -> None:
                response.text = f"hello {user_id}"

        class Item:
            async def on_get(self, request: Any, response: Any, item_id: int) -> None:
                response.text = f"item {item_id}"

        class Fail:
            async def on_get(self, request: Any, response: Any) -> None:
                def fail() -> None:
                    raise RuntimeError("on purpose")

                fail()

        class Teapot:
            async def on_get(self, request: Any, response: Any) -> None:
                raise falcon.HTTPError("418 I'm a teapot")

        class Stream:
            async def on_get(self, request: Any, response: Any) -> None:
                async def parts() -> AsyncIterator[bytes]:
                    for _ in range(3):
                        yield b"part "

                response.stream = parts()

        app: Any = falcon.asgi.App()
        app.add_route("/users/{user_id:int}", User())
        app.add_route("/v1/items/{item_id:int}", Item())
        app.add_route("/fail", Fail())
        app.add_route("/teapot", Teapot())
        app.add_route("/stream", Stream())
        return app
