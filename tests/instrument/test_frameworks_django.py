"""Django, called in this process through both of its interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
import pytest
from django.conf import settings
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.urls import include, path, re_path

from .contract_framework import FrameworkContract, call_asgi, call_wsgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from autoinstr.report import InMemoryReporter

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"], DATABASES={}, ROOT_URLCONF=__name__, SECRET_KEY="none", USE_TZ=True, LOGGING_CONFIG=None
    )
    django.setup()


def user(request: Any, user_id: int) -> HttpResponse:
    return HttpResponse(f"hello {user_id}")


def item(request: Any, item_id: int) -> HttpResponse:
    return HttpResponse(f"item {item_id}")


async def item_later(request: Any, item_id: int) -> HttpResponse:
    return HttpResponse(f"item {item_id}")


def fail(request: Any) -> HttpResponse:
    raise RuntimeError("on purpose")


def teapot(request: Any) -> HttpResponse:
    return HttpResponse(status=418)


def gone(request: Any) -> HttpResponse:
    raise Http404("gone")


def year(request: Any, number: str) -> HttpResponse:
    return HttpResponse(number)


def stream(request: Any) -> StreamingHttpResponse:
    async def later() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"part "

    def now() -> Iterator[bytes]:
        for _ in range(3):
            yield b"part "

    return StreamingHttpResponse(later() if hasattr(request, "scope") else now())


urlpatterns = [
    path("users/<int:user_id>", user),
    path("fail", fail),
    path("teapot", teapot),
    path("gone", gone),
    path("stream", stream),
    re_path(r"^years/(?P<number>[0-9]{4})/$", year),
    path("v1/", include([path("items/<int:item_id>", item), path("later/<int:item_id>", item_later)])),
]


class DjangoContract(FrameworkContract):
    user_route = "/users/<int:user_id>"
    item_route = "/v1/items/<int:item_id>"
    scope = "django"

    def test_method_not_allowed(self, app: Any, reporter: InMemoryReporter) -> None:
        """A view that takes any method is named by its route, whatever was asked for."""
        assert self.get(app, "/users/1", "DELETE")[0] in {200, 403}
        assert self.only(reporter).name in {"DELETE", f"DELETE {self.user_route}"}

    def test_view_that_finds_nothing(self, app: Any, reporter: InMemoryReporter) -> None:
        """``Http404`` is an answer, and the route is known."""
        assert self.get(app, "/gone")[0] == 404
        span = self.only(reporter)
        assert span.name == "GET /gone"
        assert not span.events

    def test_regular_expression(self, app: Any, reporter: InMemoryReporter) -> None:
        """As it is written, but for the anchor at its start."""
        assert self.get(app, "/years/2024/") == (200, b"2024")
        assert self.only(reporter).name == "GET /years/(?P<number>[0-9]{4})/$"

    def test_view_with_await(self, app: Any, reporter: InMemoryReporter) -> None:
        """Django moves such a view to another task or thread, depending on the interface."""
        assert self.get(app, "/v1/later/3") == (200, b"item 3")
        assert self.only(reporter).name == "GET /v1/later/<int:item_id>"

    @pytest.fixture(autouse=True)
    def quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        """Django logs each 4xx and 5xx."""
        caplog.set_level("CRITICAL", "django")


class TestDjangoWSGI(DjangoContract):
    """``get_wsgi_application()``."""

    call = call_wsgi

    def make(self) -> Any:
        from django.core.wsgi import get_wsgi_application

        return get_wsgi_application()


class TestDjangoASGI(DjangoContract):
    """``get_asgi_application()``."""

    call = call_asgi

    def make(self) -> Any:
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
