"""A real browser in front of a real backend; whatever goes wrong in a page fails the test that opened it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from backend.conftest import Backend, running
from ui import shop

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
WAIT_MS = 20_000
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium. For a module and not for the session, since Playwright keeps an event loop running in
    this thread for as long as it is open, and other modules' tests run loops of their own."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shop_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A backend with an hour of the shop's traces, for tests that change nothing in it."""
    with running(tmp_path_factory.mktemp("shop")) as backend:
        for payload in shop.payloads(time.time_ns()):
            send(backend, payload)
        yield backend


def send(backend: Backend, payload: bytes) -> None:
    status, answer = backend.post("otlp", "/v1/traces", payload, {"Content-Type": "application/json"})
    assert status == 200, answer


class Visitor:
    """Opens pages and notes what is wrong with them. ``expected`` are parts of messages that a test provokes."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.problems: list[str] = []
        self.expected: list[str] = []
        self.requests: list[str] = []

    def open(self, backend: Backend, path: str = "/", *, ready: str = "h1", **options: Any) -> Page:
        """A page in a session of its own, once ``ready`` is there. ``options`` are those of Playwright's contexts."""
        page = self.page(**options)
        page.goto(address(backend, path))
        page.wait_for_selector(ready, state="attached")
        return page

    def page(self, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", "timezone_id": "Europe/Berlin"} | options
        context = self._browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", self._note_request)
        return page

    def close(self) -> None:
        while self._contexts:
            self._contexts.pop().close()

    def unexpected(self) -> list[str]:
        return [one for one in self.problems if not any(part in one for part in self.expected)]

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _note_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        self.requests.append(f"{request.method} {url.path}?{url.query}")
        if url.scheme not in ("blob", "data") and url.hostname != "127.0.0.1":
            self.problems.append(f"request to another host: {request.url}")


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Fails the test at its end when a page had an error, or asked another host for anything."""
    one = Visitor(chromium)
    yield one
    one.close()
    assert one.unexpected() == []


@pytest.fixture
def own_backend(tmp_path: Path, visitor: Visitor) -> Iterator[Backend]:
    """An empty backend for one test; its pages are closed before it goes."""
    with running(tmp_path) as backend:
        yield backend
        visitor.close()


def address(backend: Backend, path: str = "/") -> str:
    return f"http://127.0.0.1:{backend.ports['query']}{path}"


def barriers(page: Page) -> list[str]:
    """What axe-core finds that hinders people, of serious or critical impact: rule, and where."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {violation['help']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def summaries(backend: Backend, query: str = "limit=1500") -> list[dict[str, Any]]:
    """What the backend finds, to be compared with what a page shows."""
    status, body = backend.get("query", f"/ui/data/search?{query}")
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["traces"]
    return found


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width
