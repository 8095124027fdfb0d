"""The shell: routes, header, footer, keys, themes, and what holds for every page."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from backend.conftest import Backend
from ui.colour import contrast, distance
from ui.conftest import THEMES, Visitor, address, barriers, overflow

PAGES = {
    "/": "Search", "/?live=1&sort=longest": "Search", "/dependencies": "Dependencies", "/services?open=payments": "Services",
    "/sampling": "Sampling", "/no-such-page": "There is no such page",
}  # fmt: skip
READY = {"/": ".result", "/?live=1&sort=longest": ".result", "/dependencies": "svg.graph", "/services?open=payments": ".operations",
         "/sampling": ".sampling-service"}  # fmt: skip


def serve_below(page: Page, backend: Backend, prefix: str) -> None:
    """As a proxy that serves the backend below a path, and has told it so."""

    def forward(route: Route) -> None:
        response = route.fetch(url=route.request.url.replace(prefix, "", 1))
        if "text/html" not in response.headers.get("content-type", ""):
            route.fulfill(response=response)
            return
        body = response.text().replace('<base href="/">', f'<base href="{prefix}/">')
        route.fulfill(response=response, body=body)

    page.route(f"{address(backend)}{prefix[1:]}/**", forward)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("path", READY)
def test_nothing_on_a_page_hinders_people(visitor: Visitor, shop_backend: Backend, path: str, theme: str) -> None:
    """Screen readers, keyboards and weak eyes can use each page in either theme, by axe-core's judgement."""
    page = visitor.open(shop_backend, path, ready=READY[path], color_scheme=theme, reduced_motion="reduce")
    expect(page.locator("h1")).to_have_count(1)
    expect(page.locator("h1")).to_have_text(PAGES[path])
    assert page.title() == f"{PAGES[path]} · autoinstr"
    assert barriers(page) == []


@pytest.mark.parametrize("path", READY)
def test_a_page_keeps_its_width_when_it_is_enlarged(visitor: Visitor, shop_backend: Backend, path: str) -> None:
    """At 200 % zoom on a small laptop, and on a phone, nothing has to be scrolled sideways but wide tables in their own box."""
    for width in (640, 360):
        page = visitor.open(shop_backend, path, ready=READY[path], viewport={"width": width, "height": 400})
        assert overflow(page) == 0, width


def test_an_unknown_address_says_so(visitor: Visitor, shop_backend: Backend) -> None:
    """Somebody who follows an old link is told, and led back."""
    page = visitor.open(shop_backend, "/")
    page.evaluate("history.pushState(null, '', '/no-such-page'); dispatchEvent(new PopStateEvent('popstate'))")
    expect(page.locator("h1")).to_have_text("There is no such page")
    assert barriers(page) == []
    page.get_by_role("link", name="Go to the search").click()
    expect(page.locator(".result").first).to_be_visible()


def test_pages_change_without_reloading_and_back_goes_back(visitor: Visitor, shop_backend: Backend) -> None:
    """What was typed and fetched is not lost by looking at another page; the browser's own buttons work."""
    page = visitor.open(shop_backend, "/")
    page.evaluate("window.stillHere = true")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Services").click()
    expect(page.locator("h1")).to_have_text("Services")
    expect(page.get_by_role("link", name="Services", exact=True)).to_have_attribute("aria-current", "page")
    assert page.evaluate("document.activeElement.id") == "main", "the focus stayed on what is gone"
    page.go_back()
    expect(page.locator("h1")).to_have_text("Search")
    assert page.evaluate("window.stillHere") is True


def test_keys_lead_everywhere(visitor: Visitor, shop_backend: Backend) -> None:
    """Who does not use a mouse reaches every page, the box for ids, and the help that says so."""
    page = visitor.open(shop_backend, "/", ready=".result")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for key, title in {"d": "Dependencies", "v": "Services", "a": "Sampling", "s": "Search"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page.locator("h1")).to_have_text(title)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Next or previous trace")
    assert barriers(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "trace-id"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_trace_is_opened_by_its_id(visitor: Visitor, shop_backend: Backend) -> None:
    """An id from a log line leads to its trace; what cannot be an id is told before anything is asked."""
    page = visitor.open(shop_backend, "/")
    box = page.get_by_role("textbox", name="Trace id")
    box.fill("not an id")
    box.press("Enter")
    assert "1 to 32" in box.evaluate("element => element.validationMessage")
    assert not [one for one in visitor.requests if "/trace/" in one]
    page.route("**/api/traces/**", lambda route: route.fulfill(json={"data": []}))
    box.fill("  00AB12 ")
    box.press("Enter")
    page.wait_for_url("**/trace/00ab12")


def test_the_theme_is_chosen_and_remembered(visitor: Visitor, shop_backend: Backend) -> None:
    """Light or dark follows the system, until somebody chooses; the choice outlives the page and is there from the first paint."""
    page = visitor.open(shop_backend, "/", color_scheme="light")
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    page.emulate_media(color_scheme="dark")
    expect(root).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Colours: as the system has it").click()
    expect(root).to_have_attribute("data-theme", "light")
    page.reload()
    expect(root).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Colours: light").click()
    expect(root).to_have_attribute("data-theme", "dark")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert contrast(background, "#ffffff") > 10


@pytest.mark.parametrize("theme", THEMES)
def test_colours_can_be_told_apart(visitor: Visitor, shop_backend: Backend, theme: str) -> None:
    """Text is readable on every ground, services stand out from theirs and from each other, also for colour-blind eyes."""
    page = visitor.open(shop_backend, "/", color_scheme=theme)
    style = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    value = {name: page.evaluate(style, f"--{name}") for name in (
        "bg", "surface", "sunken", "text", "muted", "accent", "error", "warning", "ok", "error-soft", "warning-soft",
        "accent-soft", "on-accent", *(f"service-{number}" for number in range(12)))}  # fmt: skip
    for text in ("text", "muted", "accent", "error", "warning", "ok"):
        for ground in ("bg", "surface"):
            assert contrast(value[text], value[ground]) >= 4.5, (text, ground)
    for text, ground in (("error", "error-soft"), ("warning", "warning-soft"), ("accent", "accent-soft"), ("on-accent", "accent")):
        assert contrast(value[text], value[ground]) >= 4.5, (text, ground)
    services = [value[f"service-{number}"] for number in range(12)]
    assert min(contrast(colour, value["surface"]) for colour in services) >= 3
    for one, other in combinations(services, 2):
        # About ten times what the eye can just tell apart with two patches side by side.
        assert distance(one, other) > 0.03, (one, other)


def test_services_have_colours_of_their_own(visitor: Visitor, shop_backend: Backend) -> None:
    """No two of the shop's eight services look the same, and each looks the same on every page and after a reload."""
    page = visitor.open(shop_backend, "/services", ready=".service-table")
    colours = "Object.fromEntries([...document.querySelectorAll('.disclose')].map(one => [one.textContent, getComputedStyle(one.querySelector('.dot')).color]))"
    on_services = page.evaluate(colours)
    assert len(set(on_services.values())) == len(on_services) == 8
    page.goto(address(shop_backend, "/dependencies"))
    links = "Object.fromEntries([...document.querySelectorAll('.service-link')].map(one => [one.textContent, getComputedStyle(one.querySelector('.dot')).color]))"
    page.wait_for_selector(".service-link")
    on_dependencies = page.evaluate(links)
    assert on_dependencies == {name: on_services[name] for name in on_dependencies}


def test_forced_colours_reach_the_canvases(visitor: Visitor, shop_backend: Backend) -> None:
    """With the system's high-contrast colours the pages use those, in drawings as well."""
    page = visitor.open(shop_backend, "/", ready=".result", forced_colors="active")
    text = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--text').trim()")
    assert text == "CanvasText"
    drawn = page.evaluate("""() => {
        const canvas = document.querySelector('.scatter canvas');
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0);
    }""")
    assert drawn


def test_nothing_moves_when_motion_is_unwanted(visitor: Visitor, shop_backend: Backend) -> None:
    """Who is made ill by movement sees none, not even in the live tail."""
    moving = visitor.open(shop_backend, "/?live=1", ready=".beat.on")
    assert moving.evaluate("document.getAnimations().length") > 0
    still = visitor.open(shop_backend, "/?live=1", ready=".beat.on", reduced_motion="reduce")
    assert still.evaluate("document.getAnimations().length") == 0


def test_it_works_below_a_path(visitor: Visitor, shop_backend: Backend) -> None:
    """Behind a proxy that serves the backend at /tools/traces every link and every question stays below that path."""
    prefix = "/tools/traces"
    page = visitor.page()
    serve_below(page, shop_backend, prefix)
    page.goto(address(shop_backend, f"{prefix}/services"))
    page.wait_for_selector(".service-table")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Dependencies").click()
    page.wait_for_selector("svg.graph")
    page.locator("svg.graph a.node").first.click()
    page.wait_for_selector(".result")
    assert page.url.startswith(address(shop_backend, f"{prefix}/?service="))
    outside = [one for one in visitor.requests if not one.split()[1].startswith(prefix)]
    assert outside == []


def test_the_footer_says_what_is_kept(visitor: Visitor, shop_backend: Backend) -> None:
    """One sees at a glance whether spans arrive at all."""
    page = visitor.open(shop_backend, "/")
    held = json.loads(shop_backend.get("query", "/ui/data/status")[1])["store"]
    expect(page.locator("footer")).to_contain_text(f"{held['spans']:,} spans in {held['traces']:,} traces kept")


def test_a_backend_that_is_gone_is_told(visitor: Visitor, shop_backend: Backend) -> None:
    """Stopping the backend leads to a sentence, not to an empty page."""
    page = visitor.open(shop_backend, "/", ready=".result")
    visitor.expected = ["net::ERR_FAILED"]
    page.route("**/ui/data/**", lambda route: route.abort())
    page.get_by_label("Only with errors").check()
    alert = page.locator("section.found [role=alert]")
    expect(alert).to_contain_text("The backend does not answer")
    page.unroute_all()
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_have_count(0)


def test_vendored_files_are_what_they_say() -> None:
    """A library that was changed by hand, or half updated, is noticed."""
    root = Path(__file__).resolve().parents[2]
    for folder in (root / "tests/ui/vendor", root / "autoinstr/backend/ui/vendor"):
        for entry in json.loads((folder / "VENDOR.json").read_text()):
            assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]


def test_no_script_and_no_style_is_inline() -> None:
    """The page works under a policy that forbids both, and nothing is ever made into HTML from text."""
    folder = Path(__file__).resolve().parents[2] / "autoinstr" / "backend" / "ui"
    page = (folder / "index.html").read_text()
    assert "style=" not in page
    assert page.count("<script") == page.count("<script src=") + page.count('<script type="module" src=')
    for script in folder.rglob("*.js"):
        text = script.read_text()
        if "vendor" not in script.parts:
            for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "://cdn"):
                assert forbidden not in text, f"{script.name}: {forbidden}"
            assert len(text.splitlines()) <= 500, script.name
