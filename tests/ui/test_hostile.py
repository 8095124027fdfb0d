"""Text from spans is only ever text: nothing of it runs, and the layout holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from backend.conftest import Backend, running
from ui import hostile
from ui.conftest import Visitor, barriers, overflow, send

PAGES = {
    "/": ".result", "/dependencies": "svg.graph", "/services": ".service-table", "/sampling": ".sampling-service",
    "/?service=%3Cscript%3Ewindow.hacked%20%3D%201%3C%2Fscript%3E": ".result",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A backend that has taken hostile spans."""
    with running(tmp_path_factory.mktemp("hostile")) as backend:
        for payload in hostile.payloads():
            send(backend, payload)
        yield backend


def harm(page: Page) -> dict[str, object]:
    """What a script or an element from a span would have left."""
    found: dict[str, object] = page.evaluate("""() => ({
        hacked: window.hacked ?? null,
        scripts: [...document.scripts].filter((one) => !one.src.startsWith(location.origin + '/ui/')).length,
        images: [...document.images].filter((one) => !one.src.endsWith('/ui/icon.svg')).length,
        handlers: document.querySelectorAll('[onerror], [onclick], [onload]').length,
    })""")
    return found


@pytest.mark.parametrize("path", PAGES)
def test_nothing_of_a_span_runs_and_the_layout_holds(visitor: Visitor, hostile_backend: Backend, path: str) -> None:
    """Whoever can send spans cannot act in the reader's browser, nor push the page out of its window."""
    page = visitor.open(hostile_backend, path, ready=PAGES[path])
    assert harm(page) == {"hacked": None, "scripts": 0, "images": 0, "handlers": 0}
    assert overflow(page) == 0
    header = page.locator("header.top").bounding_box()
    assert header is not None
    assert header["height"] < 120
    assert barriers(page) == []


def test_hostile_rows_stay_in_their_places(visitor: Visitor, hostile_backend: Backend) -> None:
    """A name of ten kilobytes, or one that writes from right to left, does not cover the figures beside it."""
    page = visitor.open(hostile_backend, "/?limit=50", ready=".result")
    expect(page.locator(".result")).to_have_count(len(hostile.TEXTS))
    places = page.evaluate("""() => [...document.querySelectorAll('.result')].map((row) => {
        row.scrollIntoView();
        const of = (name) => row.querySelector(name).getBoundingClientRect();
        const [title, length, age] = [of('.title'), of('.length'), of('.age')];
        return { inOrder: title.right <= length.left && length.right <= age.left, height: row.getBoundingClientRect().height };
    })""")
    assert all(place["inOrder"] for place in places)
    assert max(place["height"] for place in places) < 130


@pytest.mark.parametrize("text", [hostile.SCRIPT, hostile.IMAGE, hostile.PROTOTYPE, "a/b?c#d%2F%zz"])
def test_a_hostile_service_can_be_worked_with(visitor: Visitor, hostile_backend: Backend, text: str) -> None:
    """A strange name is still a service: found by the form, opened among the services, edited under sampling."""
    page = visitor.open(hostile_backend, "/", ready=".result")
    page.get_by_label("Service", exact=True).select_option(text)
    expect(page.locator(".result .title b").first).to_be_visible()
    expect(page.locator(".result")).to_have_count(2)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Services").click()
    row = page.locator("tr", has=page.get_by_role("button", name=text, exact=True))
    row.get_by_role("button", name=text, exact=True).click()
    expect(page.locator(".charts canvas")).to_have_count(3)
    page.get_by_role("link", name="Its sampling").click()
    expect(page.locator(".sampling-service")).to_have_count(1)
    page.get_by_role("button", name=f"Edit the strategy of {text}").click()
    page.get_by_role("dialog").get_by_label("Share", exact=True).fill("0.25")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".sampling-service .strategy")).to_have_text("keeps 25 %")
    assert harm(page)["hacked"] is None


def test_hostile_words_in_the_address_are_only_words(visitor: Visitor, hostile_backend: Backend) -> None:
    """A link that somebody sends cannot act in the reader's browser either."""
    visitor.expected = ["status of 400"]
    attack = "%22%3E%3Cimg%20src%3Dx%20onerror%3D%22window.hacked%3D9%22%3E"
    for path in (f"/?service={attack}&tags={attack}&operation={attack}&minDuration={attack}&start={attack}&sort=__proto__&limit=1e9",
                 f"/dependencies?around={attack}&lookback=__proto__", f"/services?open={attack}", f"/sampling?service={attack}",
                 "/?sort=constructor&scale=constructor", "/?traceID=zz&traceID=%00"):  # fmt: skip
        page = visitor.open(hostile_backend, path)
        page.wait_for_load_state("networkidle")
        assert harm(page)["hacked"] is None
        assert overflow(page) == 0
