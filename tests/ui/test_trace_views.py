"""Searching in a trace, the detail of a span, the other views; and what holds for all of the page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from backend.conftest import Backend
from ui import shop, traces
from ui.conftest import THEMES, Visitor, barriers, overflow, send, summaries
from ui.site import Site, serve
from ui.tracepage import ROWS, Opener, active, names, query_of, row, wait_for_colours, wait_for_query


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as one:
        yield one


@pytest.fixture
def show(site: Site, visitor: Visitor) -> Opener:
    return Opener(site, visitor)


# --- searching and filtering ------------------------------------------------------------------------------------------


def test_searching_goes_from_match_to_match(show: Opener) -> None:
    """How many there are, which one is looked at, the next and the one before, also those that were folded away."""
    page = show(traces.checkout())
    page.keyboard.press("f")
    page.keyboard.type("sku=A-1")
    expect(page.locator(".find-count")).to_contain_text("3")
    wait_for_query(page, find="sku=A-1")
    page.keyboard.press("Enter")
    expect(page.locator(".find-count")).to_contain_text("1 / 3")
    expect(page.locator(f"{ROWS}.active.match")).to_contain_text("SELECT price")
    page.keyboard.press("Enter")
    expect(page.locator(".find-count")).to_contain_text("2 / 3")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".find-count")).to_contain_text("3 / 3")
    page.locator("[role=treegrid]").focus()
    page.keyboard.press("n")
    expect(page.locator(".find-count")).to_contain_text("1 / 3")
    page.keyboard.press("b")
    expect(page.locator(".find-count")).to_contain_text("3 / 3")


def test_the_rest_is_hidden_and_the_address_says_so(show: Opener) -> None:
    """A colleague who gets the address sees the same rows."""
    page = show(traces.checkout(), "?find=timeouterror")
    assert len(names(page)) > 10
    assert page.locator(f"{ROWS}.match").count() == 1
    page.get_by_role("button", name="Hide the rest").click()
    left = ["storefront POST /checkout", "storefront POST", "checkout POST /orders", "checkout reserve"]
    expect(page.locator(ROWS)).to_have_count(4)
    assert names(page) == left
    wait_for_query(page, find="timeouterror", hide="1")
    page.reload()
    expect(page.locator(ROWS)).to_have_count(4)
    assert names(page) == left


def test_filters_leave_what_they_name(show: Opener) -> None:
    """Errors only, the critical path only, what is longer than; and what is wrong with a length is told."""
    page = show(traces.checkout())
    page.get_by_role("button", name="Errors").click()
    expect(page.locator(ROWS)).to_have_count(4)
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_role("button", name="Critical path").click()
    expect(row(page, "send receipt")).to_be_visible()
    page.get_by_role("button", name="Critical path").click()
    longer = page.get_by_label("Longer than")
    longer.fill("140ms")
    expect(page.locator(ROWS)).to_have_count(6)
    wait_for_query(page, longer="140ms")
    longer.fill("long")
    expect(longer).to_have_attribute("aria-invalid", "true")
    expect(page.locator(ROWS).nth(8)).to_be_visible()
    longer.fill("1h")
    longer.fill("1000s")
    expect(page.get_by_text("No span is like that.")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(ROWS).nth(8)).to_be_visible()
    assert query_of(page) == {}


def test_a_service_is_found_by_its_colour(show: Opener) -> None:
    """The legend is a search: one click shows where a service took part."""
    page = show(traces.checkout())
    page.locator(".services").get_by_role("button", name="inventory").click()
    wait_for_query(page, find="service=inventory")
    expect(page.locator(f"{ROWS}.match")).to_have_count(2)


# --- the detail of a span ---------------------------------------------------------------------------------------------


def test_the_detail_of_a_span_tells_everything(show: Opener) -> None:
    """Tags, process, events at their time, references, why the trace is here: what somebody came to read."""
    page = show(traces.checkout(), "?span=0000000000000001")
    detail = page.locator(".detail")
    expect(detail).to_contain_text(
        "Kept by a probabilistic sampler at 0.1: about 10 such requests happened for each one shown."
    )
    expect(detail.get_by_label("Tags", exact=True)).to_contain_text("http.response.status_code")
    expect(detail.get_by_label("Process", exact=True)).to_contain_text("storefront-1")
    link = detail.get_by_role("link", name="https://shop.example/checkout?step=pay", exact=True)
    assert "noopener" in (link.get_attribute("rel") or "")
    row(page, "POST /orders").click()
    events = page.locator(".detail", has_text="retry").locator(".events")
    expect(events.locator(".when").first).to_have_text("1.50 ms")
    events.locator("summary", has_text="retry").click()
    expect(events).to_contain_text("inventory is slow")
    row(page, "send receipt").click()
    other = page.get_by_role("link", name="00000000000000000000000000000abc")
    expect(other).to_have_attribute("href", "/trace/00000000000000000000000000000abc?span=00000000000000aa")
    page.locator(".detail", has_text="send receipt").get_by_role("button", name="checkout: POST /orders").click()
    assert active(page) == "checkout POST /orders"


def test_a_value_is_a_search_for_traces_like_it(show: Opener) -> None:
    """The quickest question: is it always this user, this query, this host?"""
    page = show(traces.checkout(), "?span=0000000000000001")
    link = page.get_by_role("link", name="Find traces with user.id=8812")
    href = link.get_attribute("href")
    assert href == "/?service=storefront&tags=user.id%3D%228812%22"
    expect(page.get_by_role("link", name="Traces like this")).to_have_attribute(
        "href", "/?service=storefront&operation=POST+%2Fcheckout"
    )


def test_a_value_and_a_link_can_be_copied(show: Opener) -> None:
    """What is seen is carried elsewhere in one click: the value without its quotes, the address with its span."""
    page = show(traces.checkout(), "?span=0000000000000001", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the value of user.id").click()
    expect(page.get_by_role("button", name="Copy the value of user.id")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "8812"
    page.get_by_role("button", name="Copy link to this span").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).endsWith('?span=0000000000000001')")


def test_many_tags_have_a_filter(show: Opener) -> None:
    """One of sixty attributes is found by typing a part of it."""
    to = traces.Builder("60")
    to.span("a", "root", 0, 10, tags={f"tag.{number}": f"value {number}" for number in range(60)})
    page = show(to.trace, "?span=0000000000000001")
    page.get_by_label("Filter Tags").fill("value 42")
    expect(page.get_by_label("Tags", exact=True).locator("dt")).to_have_text(["tag.42"])


def test_adjusted_clocks_are_told_and_can_be_undone(show: Opener, site: Site) -> None:
    """Times that were moved are marked, by how much, and the times as they were sent are one click away."""
    raw = traces.skewed()
    raw["spans"][1] |= {"startTime": traces.START_US + 2_505_000, "warnings": None}
    site.raw["5e"] = raw
    page = show(traces.skewed())
    expect(page.get_by_text("The times of 1 span were adjusted")).to_be_visible()
    expect(row(page, "GET /slow").locator(".skewed")).to_be_visible()
    row(page, "GET /slow").click()
    expect(page.locator(".warnings")).to_contain_text("adjusted by 2.5s")
    page.get_by_role("button", name="Times as sent").click()
    wait_for_query(page, raw="1")
    expect(page.locator(".trace-head")).to_contain_text("2.54 s")
    expect(page.get_by_role("button", name="Times as sent")).to_have_attribute("aria-pressed", "true")
    assert any(one.startswith("/api/traces/5e?raw=true") for one in site.asked)
    page.get_by_role("button", name="Times as sent").click()
    expect(page.locator(".trace-head")).to_contain_text("50.0 ms")


# --- other views ------------------------------------------------------------------------------------------------------


def test_the_flame_graph_zooms_by_mouse_and_keys(show: Opener) -> None:
    """Where the time goes, by the sum of all like calls; and the same as a table for those who do not see it."""
    page = show(traces.checkout(), "?view=flame", ready=".flame canvas")
    canvas = page.locator(".flame canvas")
    page.wait_for_function("() => document.querySelector('.flame canvas').height > 100")
    wait_for_colours(page, ".flame canvas", 11)
    crumbs = page.locator(".crumbs button")
    expect(crumbs).to_have_text(["Whole trace"])
    canvas.click(position={"x": 60, "y": 22 * 2 + 8})
    expect(crumbs).to_have_text(["Whole trace", "storefront: POST /checkout", "storefront: POST"])
    expect(page.locator(".flame-told")).to_contain_text("1 span · 253 ms in all")
    canvas.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(crumbs.last).to_have_text("checkout: POST /orders")
    page.keyboard.press("Escape")
    expect(crumbs.last).to_have_text("storefront: POST")
    crumbs.first.click()
    expect(crumbs).to_have_count(1)
    box = canvas.bounding_box()
    assert box
    canvas.click(position={"x": box["width"] * 0.98, "y": 22 * 2 + 8})  # the root's own time: nothing is below it
    canvas.click(position={"x": box["width"] * 0.9, "y": 22 * 2 + 8})
    expect(crumbs).to_have_count(3)
    expect(crumbs.last).to_have_text("storefront: GET")
    crumbs.first.click()
    page.get_by_role("button", name="As a table").click()
    line = page.get_by_role("row").filter(has_text="SELECT price")
    expect(line.get_by_role("cell")).to_have_text(["4", "12", "21.3 ms", "21.3 ms", "0"])
    line.get_by_role("button").click()
    expect(page.locator(f"{ROWS}.active")).to_contain_text("SELECT price")


def test_statistics_sort_by_every_column(show: Opener) -> None:
    """The operation that costs most is on top, whichever cost is asked for."""
    page = show(traces.checkout(), "?view=statistics", ready=".statistics td")
    first = page.locator(".statistics tbody tr").first
    expect(first).to_contain_text("POST api.bank.example")
    page.get_by_role("button", name="Spans", exact=True).click()
    expect(first).to_contain_text("SELECT price")
    expect(page.get_by_role("columnheader", name="Spans")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Operation", exact=True).last.click()
    expect(first).to_contain_text("GET")
    page.get_by_role("button", name="Service", exact=True).first.click()
    expect(page.locator(".statistics tbody tr")).to_have_count(5)
    page.locator(".statistics tbody").get_by_role("button", name="inventory").click()
    wait_for_query(page, find="service=inventory", view=None)
    expect(page.locator(f"{ROWS}.match")).to_have_count(2)


def test_the_span_table_sorts_and_leads_back(show: Opener) -> None:
    """The slowest span of all, wherever it is, in two clicks."""
    page = show(traces.wide(3000), "?view=table", ready=".spans .rows [role=row]")
    lines = page.locator(".spans .rows [role=row]")
    assert lines.count() < 80
    expect(lines.first).to_contain_text("GET /")
    page.get_by_role("button", name="Self time").click()
    longest = lines.first.locator(".span-operation").inner_text()
    lines.first.get_by_role("button").click()
    expect(page.locator(f"{ROWS}.active")).to_contain_text(longest)
    expect(page.locator(".detail")).to_be_visible()


def test_views_are_addresses(show: Opener) -> None:
    """Going back goes back to the view before, and the search goes along."""
    page = show(traces.checkout(), "?find=reserve")
    page.get_by_role("link", name="Statistics").click()
    expect(page.locator(".statistics")).to_contain_text("2 of 26 spans")
    wait_for_query(page, view="statistics", find="reserve")
    page.keyboard.press("2")
    wait_for_query(page, view="flame", find="reserve")
    page.go_back()
    expect(page.locator(".statistics")).to_be_visible()
    page.go_back()
    expect(page.locator(ROWS).first).to_be_visible()


def test_the_json_can_be_taken_away(show: Opener, tmp_path: Path) -> None:
    """What Jaeger and this interface's upload can read again."""
    page = show(traces.checkout())
    with page.expect_download() as downloading:
        page.get_by_role("link", name="JSON").click()
    assert downloading.value.suggested_filename == f"trace-{traces.CHECKOUT_ID}.json"
    downloading.value.save_as(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["data"][0] == traces.checkout()
    expect(page.get_by_role("link", name="Compare with …")).to_have_attribute(
        "href", f"/compare?a={traces.CHECKOUT_ID}"
    )


def test_a_permalink_shows_its_span(show: Opener) -> None:
    """A link to the nine-thousandth span leads to it and not to the top of ten thousand rows."""
    page = show(traces.wide(10_000), "?span=0000000000002328")
    expect(page.locator(".detail")).to_be_visible()
    expect(page.locator(f"{ROWS}.active")).to_be_in_viewport()
    assert page.locator(".detail").get_by_text("0000000000002328").count() == 1


# --- hostile text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["waterfall", "flame", "statistics", "table"])
def test_hostile_text_is_text(show: Opener, view: str) -> None:
    """Names and tags come from anybody who can send a span: they must not run, and not break what surrounds them."""
    ready = {
        "waterfall": ".detail",
        "flame": "canvas",
        "statistics": ".statistics td",
        "table": ".spans .rows [role=row]",
    }[view]
    page = show(traces.hostile(), f"?view={view}&span=0000000000000001&find={traces.HOSTILE_NAME[:12]}", ready=ready)
    expect(page.locator("h1")).to_contain_text(traces.HOSTILE_NAME)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main iframe").count() == 0
    links = page.locator("main a").evaluate_all("links => links.map((one) => one.protocol)")
    assert set(links) <= {"http:", "https:"}
    assert overflow(page) == 0
    if view == "waterfall":
        page.get_by_role("button", name="Show all 32,768 characters").click()
        expect(page.get_by_label("Tags", exact=True)).to_contain_text("v" * 32_768)
        assert overflow(page) == 0
        for name in page.locator(f"{ROWS} .name").all():
            box = name.bounding_box()
            assert box and box["height"] < 30
    assert page.evaluate("window.hacked") is None


# --- everybody --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    ("query", "ready"),
    [
        ("?span=0000000000000007", ".detail"),
        ("?find=select&hide=1&from=1000&to=200000", ROWS),
        ("?find=cart", ROWS),
        ("?view=flame", "canvas"),
        ("?view=statistics", ".statistics td"),
        ("?view=table", ".spans .rows [role=row]"),
    ],
)
def test_nothing_on_the_page_of_a_trace_hinders_people(show: Opener, theme: str, query: str, ready: str) -> None:
    """Screen readers, keyboards and weak eyes can use each view in either theme, by axe-core's judgement."""
    page = show(traces.checkout(), query, ready=ready, color_scheme=theme, reduced_motion="reduce")
    assert barriers(page) == []


def test_gaps_and_tables_hinder_nobody(show: Opener) -> None:
    """The rarer sights, too: missing parents with their reason, the flame graph as a table."""
    page = show(traces.orphaned(), "?span=missing:f1", ready=".detail", reduced_motion="reduce")
    assert barriers(page) == []
    page = show(traces.checkout(), "?view=flame", ready="canvas", reduced_motion="reduce")
    page.get_by_role("button", name="As a table").click()
    assert barriers(page) == []


@pytest.mark.parametrize("width", [360, 640])
def test_the_page_works_in_a_small_window(show: Opener, width: int) -> None:
    """At 200 % zoom, and on a phone, rows are there and nothing has to be scrolled sideways."""
    page = show(traces.checkout(), "?span=0000000000000001", ready=".detail", viewport={"width": width, "height": 500})
    assert overflow(page) == 0
    box = page.locator(".waterfall-box").bounding_box()
    assert box and box["height"] >= 300


def test_the_keys_are_told_in_the_help(show: Opener) -> None:
    """Keys that nobody tells are keys that nobody uses."""
    page = show(traces.checkout())
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Expand all, collapse all")
    before = len(names(page))
    page.keyboard.press("]")
    page.keyboard.press("Escape")
    assert len(names(page)) == before


def test_a_trace_from_the_backend_opens(own_backend: Backend, visitor: Visitor) -> None:
    """What a program sends as OTLP is what the page shows: names, parents, errors, the sampler's word."""
    for payload in shop.payloads(time.time_ns() - 60 * 10**9, traces=8, minutes=2):
        send(own_backend, payload)
    largest = max(summaries(own_backend), key=lambda one: one["spans"])
    page = visitor.open(own_backend, f"/trace/{largest['traceID']}", ready=ROWS)
    expect(page.locator("h1")).to_have_text(f"{largest['service']} {largest['operation']}")
    expect(page.locator(".trace-head")).to_contain_text(f"Spans{largest['spans']}")
    assert page.locator("[role=treegrid]").get_attribute("aria-rowcount") == str(largest["spans"] + 1)
    assert page.locator(f"{ROWS}.failed").count() == largest["errors"]
