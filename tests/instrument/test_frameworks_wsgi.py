"""WSGI frameworks, called in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bottle
import falcon
import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from autoinstr.model import Status

from .contract_framework import FrameworkContract, call_wsgi

if TYPE_CHECKING:
    from autoinstr.report import InMemoryReporter


def make_flask() -> Any:
    app = flask.Flask(__name__)
    api = flask.Blueprint("api", __name__, url_prefix="/v1")

    @app.get("/users/<int:user_id>")
    def user(user_id: int) -> str:
        return f"hello {user_id}"

    @app.get("/fail")
    def fail() -> str:
        raise RuntimeError("on purpose")

    @app.get("/teapot")
    def teapot() -> str:
        flask.abort(418)

    @app.get("/stream")
    def stream() -> Any:
        return (b"part " for _ in range(3))

    @api.get("/items/<int:item_id>")
    def item(item_id: int) -> str:
        return f"item {item_id}"

    app.register_blueprint(api)
    return app


class TestFlask(FrameworkContract):
    """With a blueprint."""

    user_route = "/users/<int:user_id>"
    item_route = "/v1/items/<int:item_id>"
    scope = "flask"
    call = call_wsgi

    def make(self) -> Any:
        return make_flask()

    def test_exception_that_is_let_through(self, app: Any, reporter: InMemoryReporter) -> None:
        """In debugging and testing the exception is both handled and raised: it is one event."""
        app.testing = True
        with pytest.raises(RuntimeError):
            self.get(app, "/fail")
        assert len(self.only(reporter).events or ()) == 1

    def test_application_mounted_by_a_dispatcher(self, app: Any, reporter: InMemoryReporter) -> None:
        """Werkzeug's way of serving several applications."""
        outer = make_flask()
        outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/shop": app})
        assert self.get(outer, "/shop/users/5") == (200, b"hello 5")
        assert self.only(reporter).name == "GET /shop/users/<int:user_id>"

    def test_middleware_in_wsgi_app(self, app: Any, reporter: InMemoryReporter) -> None:
        """The documented place for middleware, which may raise, or answer itself."""

        def middleware(environ: dict[str, Any], start_response: Any) -> Any:
            raise LookupError("in the middleware")

        app.wsgi_app = middleware
        with pytest.raises(LookupError):
            self.get(app, "/users/1")
        assert self.only(reporter).attributes["error.type"] == "LookupError"

    def test_error_with_a_handler_of_its_own(self, app: Any, reporter: InMemoryReporter) -> None:
        """An exception that the program answers by itself is no error."""
        app.register_error_handler(RuntimeError, lambda error: ("handled", 409))
        assert self.get(app, "/fail") == (409, b"handled")
        assert self.only(reporter).status == Status.UNSET

    def test_response_with_work_at_its_end(self, app: Any, reporter: InMemoryReporter) -> None:
        """``call_on_close`` still runs, once, inside of the span."""
        from autoinstr.trace import current

        seen = []

        @app.after_request
        def add(response: Any) -> Any:
            response.call_on_close(lambda: seen.append(current.get()))
            return response

        assert self.get(app, "/users/1") == (200, b"hello 1")
        assert seen == [self.only(reporter)]

    def test_client_of_flask(self, app: Any, reporter: InMemoryReporter) -> None:
        """``app.test_client()`` calls the application without a server."""
        assert app.test_client().get("/users/3").data == b"hello 3"
        assert self.only(reporter).name == "GET /users/<int:user_id>"

    def test_views_with_await(self, app: Any, reporter: InMemoryReporter) -> None:
        """Flask runs them on a thread of asgiref's: the route is known all the same."""

        @app.get("/later")
        async def later() -> str:
            return "later"

        assert self.get(app, "/later") == (200, b"later")
        assert self.only(reporter).name == "GET /later"


class TestBottle(FrameworkContract):
    """With a mounted application."""

    user_route = "/users/<user_id:int>"
    item_route = "/v1/items/<item_id:int>"
    scope = "bottle"
    call = call_wsgi

    def make(self) -> Any:
        app = bottle.Bottle()
        api = bottle.Bottle()

        @app.get("/users/<user_id:int>")
        def user(user_id: int) -> str:
            return f"hello {user_id}"

        @app.get("/fail")
        def fail() -> str:
            raise RuntimeError("on purpose")

        @app.get("/teapot")
        def teapot() -> str:
            raise bottle.HTTPError(418)

        @app.get("/stream")
        def stream() -> Any:
            for _ in range(3):
                yield b"part "

        @api.get("/items/<item_id:int>")
        def item(item_id: int) -> str:
            return f"item {item_id}"

        app.mount("/v1/", api)
        return app

    def test_exception_that_is_let_through(self, app: Any, reporter: InMemoryReporter) -> None:
        """``catchall = False`` gives exceptions to the server."""
        app.catchall = False
        with pytest.raises(RuntimeError):
            self.get(app, "/fail")
        assert len(self.only(reporter).events or ()) == 1


class TestFalcon(FrameworkContract):
    """Resources and URI templates."""

    user_route = "/users/{user_id:int}"
    item_route = "/v1/items/{item_id:int}"
    scope = "falcon"
    call = call_wsgi

    def make(self) -> Any:
        class User:
            def on_get(self, request: Any, response: Any, user_id: int) -> None:
                response.text = f"hello {user_id}"

        class Item:
            def on_get(self, request: Any, response: Any, item_id: int) -> None:
                response.text = f"item {item_id}"

        class Fail:
            def on_get(self, request: Any, response: Any) -> None:
                def fail() -> None:
                    raise RuntimeError("on purpose")

                fail()

        class Teapot:
            def on_get(self, request: Any, response: Any) -> None:
                raise falcon.HTTPError("418 I'm a teapot")

        class Stream:
            def on_get(self, request: Any, response: Any) -> None:
                response.stream = iter([b"part "] * 3)

        app: Any = falcon.App()
        app.add_route("/users/{user_id:int}", User())
        app.add_route("/v1/items/{item_id:int}", Item())
        app.add_route("/fail", Fail())
        app.add_route("/teapot", Teapot())
        app.add_route("/stream", Stream())
        return app

    def test_is_still_generic(self, app: Any) -> None:
        """``falcon.App[Request, Response]`` stands in annotations and base classes, and runs at import."""
        assert falcon.App[falcon.Request, falcon.Response]

        class Mine(falcon.App[falcon.Request, falcon.Response]):
            pass

        assert isinstance(Mine(), falcon.App)
