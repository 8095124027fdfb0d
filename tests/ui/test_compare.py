"""The comparison of two traces, in Chromium, in front of a server that answers with traces made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from ui import traces
from ui.conftest import THEMES, Visitor, barriers, overflow
from ui.site import Site, serve
from ui.traces import CHECKOUT_AFTER_ID, CHECKOUT_ID

PATHS = "[role=treegrid] .path"
BOTH = f"/compare?a={CHECKOUT_ID}&b={CHECKOUT_AFTER_ID}"


@pytest.fixture
def site() -> Iterator[Site]:
    """Two checkouts, the second with more queries, a slower bank and no mail; and a trace of something else."""
    with serve(Site()) as one:
        one.put(traces.checkout())
        one.put(traces.checkout(CHECKOUT_AFTER_ID, prices=40, slower_bank=60_000, mail=False))
        one.put(traces.orphaned())
        yield one


@pytest.fixture
def compare(site: Site, visitor: Visitor) -> Callable[..., Page]:
    def open_page(path: str = BOTH, *, ready: str = PATHS, **options: object) -> Page:
        options = {"viewport": {"width": 1400, "height": 900}} | options
        return visitor.open(site, path, ready=ready, **options)  # type: ignore[arg-type]

    return open_page


def path(page: Page, name: str) -> Locator:
    return page.locator(PATHS).filter(has_text=name).first


def cells(page: Page, name: str) -> list[str]:
    """Spans in A and B, time in A and B, difference."""
    return [text.strip() for text in path(page, name).get_by_role("gridcell").all_inner_texts()[1:6]]


def test_what_differs_is_told_in_figures(compare: Callable[..., Page]) -> None:
    """Why is it slower since yesterday: the summary says it, and each path says its part."""
    page = compare()
    summary = page.get_by_role("region", name="Summary")
    expect(summary.get_by_role("row").filter(has_text="Duration")).to_contain_text("+124 ms (+43 %)")
    expect(summary.get_by_role("row").filter(has_text="Spans")).to_contain_text("+27")
    expect(summary.locator("li").first).to_contain_text("+60.0 ms")
    expect(summary.locator("li").first).to_contain_text("POST api.bank.example")
    expect(summary).to_contain_text("8 paths of 14: 1 only in A, 1 called another number of times, 6 slower.")
    assert cells(page, "SELECT price") == ["12", "40", "21.3 ms", "71.0 ms", "+49.7 ms"]
    assert cells(page, "send receipt") == ["1", "–", "2.00 ms", "–", "−2.00 ms"]
    assert cells(page, "SELECT items")[4] == "±0"


def test_signs_do_not_depend_on_colours(compare: Callable[..., Page]) -> None:
    """Added and removed are told by a sign and in words, for those who do not see red and green."""
    page = compare(f"/compare?a={CHECKOUT_AFTER_ID}&b={CHECKOUT_ID}")
    expect(path(page, "send receipt").locator(".sign")).to_have_text("+only in B: ")
    expect(path(page, "SELECT price").locator(".sign")).to_contain_text("≠")
    expect(path(page, "POST api.bank.example").locator(".sign")).to_contain_text("▼")
    page.keyboard.press("x")
    expect(path(page, "send receipt").locator(".sign")).to_have_text("−only in A: ")
    assert page.url.endswith(BOTH)


def test_only_what_changed_can_be_shown(compare: Callable[..., Page]) -> None:
    """In a large trace the few paths that changed are found without scrolling; what leads to them stays."""
    page = compare()
    expect(page.locator(PATHS)).to_have_count(14)
    page.get_by_role("button", name="Only what changed").click()
    expect(page.locator(PATHS)).to_have_count(8)
    assert page.locator(PATHS).filter(has_text="SELECT items").count() == 0
    page.reload()
    expect(page.locator(PATHS)).to_have_count(8)
    page.keyboard.press("c")
    expect(page.locator(PATHS)).to_have_count(14)


def test_what_leads_to_a_change_stays(compare: Callable[..., Page], site: Site) -> None:
    """A path that is gone is shown where it was, below callers that have not changed themselves."""
    site.put(traces.checkout("e0", mail=False))
    page = compare(f"/compare?a={CHECKOUT_ID}&b=e0&only=changed")
    expect(page.locator(PATHS)).to_have_count(4)
    expect(page.locator(PATHS).locator(".name")).to_have_text(
        ["storefront POST /checkout", "storefront POST", "checkout POST /orders", "checkout send receipt"]
    )


def test_equal_traces_are_said_to_be_equal(compare: Callable[..., Page]) -> None:
    """Nothing changed is an answer, too."""
    page = compare(f"/compare?a={CHECKOUT_ID}&b={CHECKOUT_ID}")
    expect(page.get_by_role("heading", name="Nothing differs")).to_be_visible()
    page.get_by_role("button", name="Only what changed").click()
    expect(page.get_by_text("Nothing changed.")).to_be_visible()


def test_the_traces_are_chosen_by_suggestion_or_by_what_is_pasted(compare: Callable[..., Page], site: Site) -> None:
    """One trace is given, the other is one of those like it, or whatever somebody has in the clipboard."""
    page = compare(f"/compare?a={CHECKOUT_ID}", ready=".suggestions")
    assert any(
        "service=storefront" in one and "operation=POST" in one
        for one in site.asked
        if one.startswith("/ui/data/search")
    )
    suggestions = page.get_by_role("list", name="Suggestions for trace B")
    expect(suggestions.get_by_role("listitem")).to_have_count(2)
    suggestions.get_by_role("button").filter(has_text="417 ms").click()
    expect(path(page, "SELECT price")).to_be_visible()
    field = page.get_by_label("Id or address of trace B")
    field.fill(f"{site.url}/trace/0f?view=flame")
    field.press("Enter")
    page.wait_for_function("() => new URLSearchParams(location.search).get('b') === '0f'")
    expect(path(page, "missing parent")).to_be_visible()
    page.go_back()
    expect(path(page, "SELECT price")).to_be_visible()


def test_what_cannot_be_compared_is_told(compare: Callable[..., Page], visitor: Visitor) -> None:
    """A wrong id, and one that is not there, each get a sentence at the place where it was typed."""
    visitor.expected = ["404"]
    page = compare(f"/compare?a={CHECKOUT_ID}&b=dead", ready="[role=alert]")
    picker = page.get_by_role("region", name="Trace B")
    expect(picker.get_by_role("alert")).to_have_text("Trace B: trace not found.")
    field = page.get_by_label("Id or address of trace B")
    field.fill("what?")
    field.press("Enter")
    expect(picker.get_by_role("alert")).to_contain_text("A trace id is 1 to 32 of the digits")
    expect(field).to_have_attribute("aria-invalid", "true")


def test_the_keyboard_reaches_the_tree(compare: Callable[..., Page]) -> None:
    """Rows, branches and back, without a mouse."""
    page = compare()
    page.locator("[role=treegrid]").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    expect(page.locator(f"{PATHS}.active")).to_contain_text("GET")
    expect(page.locator(f"{PATHS}.active")).to_have_attribute("aria-expanded", "false")
    expect(page.locator(PATHS)).to_have_count(12)
    page.keyboard.press("ArrowRight")
    expect(page.locator(PATHS)).to_have_count(14)
    page.keyboard.press("End")
    expect(page.locator(f"{PATHS}.active")).to_contain_text("send receipt")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(f"{PATHS}.active")).to_contain_text("POST /orders")


def test_a_time_leads_to_its_span(compare: Callable[..., Page]) -> None:
    """From what is slower to the span that is slower, in one click."""
    page = compare()
    path(page, "POST api.bank.example").get_by_role("link").last.click()
    expect(page.locator(".detail h3")).to_have_text("payments POST api.bank.example")
    assert f"/trace/{CHECKOUT_AFTER_ID}" in page.url


def test_large_traces_are_compared(compare: Callable[..., Page], site: Site) -> None:
    """Ten thousand spans with themselves, and a deep one with a wide one: only what is seen is in the document."""
    site.put(traces.wide(10_000))
    site.put(traces.deep(2_000))
    page = compare("/compare?a=1d&b=de")
    assert page.locator(PATHS).count() < 80
    page.locator("[role=treegrid]").focus()
    page.keyboard.press("End")
    expect(page.locator(f"{PATHS}.active")).to_be_in_viewport()


def test_hostile_text_is_text_here_too(compare: Callable[..., Page], site: Site) -> None:
    """Names from strangers do not run and do not break the layout."""
    site.put(traces.hostile())
    page = compare(f"/compare?a=bad&b={CHECKOUT_ID}")
    expect(page.locator(PATHS).first).to_contain_text("<script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0
    assert overflow(page) == 0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("address", "ready"), [(BOTH, PATHS), (f"/compare?a={CHECKOUT_ID}", ".suggestions")])
def test_nothing_on_the_comparison_hinders_people(
    compare: Callable[..., Page], theme: str, address: str, ready: str
) -> None:
    """Screen readers, keyboards and weak eyes can use it in either theme, by axe-core's judgement."""
    page = compare(address, ready=ready, color_scheme=theme, reduced_motion="reduce")
    assert barriers(page) == []


@pytest.mark.parametrize("width", [360, 640])
def test_it_fits_a_small_window(compare: Callable[..., Page], width: int) -> None:
    """At 200 % zoom, and on a phone, only the wide table is scrolled sideways."""
    assert overflow(compare(viewport={"width": width, "height": 500})) == 0
