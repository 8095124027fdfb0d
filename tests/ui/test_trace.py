"""The waterfall of a trace, in Chromium, in front of a server that answers with traces that each test makes itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from ui import traces
from ui.conftest import Visitor
from ui.site import Site, serve
from ui.tracepage import ROWS, Opener, active, drag, names, query_of, row, wait_for_colours, wait_for_query

#: CPU time of the page's main thread, which other work on the machine does not lengthen; ten times what it takes.
MOST_CPU_TO_DRAW_S = 4.0
MOST_CPU_PER_STEP_S = 0.15


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as one:
        yield one


@pytest.fixture
def show(site: Site, visitor: Visitor) -> Opener:
    return Opener(site, visitor)


# --- the waterfall ----------------------------------------------------------------------------------------------------


def test_a_trace_is_shown_as_a_tree_with_times(show: Opener) -> None:
    """The first look: what was called by what, how long it took, what failed, in which service."""
    page = show(traces.checkout())
    expect(page.locator("h1")).to_have_text("storefront POST /checkout")
    assert page.title() == "storefront: POST /checkout · autoinstr"
    assert names(page)[:4] == ["storefront POST /checkout", "storefront GET", "cart GET /items", "cart SELECT items"]
    for fact in ("Spans 26", "Services 5", "Depth 6", "Errors 1"):
        expect(page.locator(".trace-head")).to_contain_text(re.compile(fact.replace(" ", r"\s*")))
    expect(row(page, "SELECT items").locator(".label")).to_have_text("14.5 ms")
    expect(row(page, "GET /items").locator(".label")).to_have_text("19.0 ms · self 4.50 ms")
    failed = page.locator(f"{ROWS}.failed")
    assert failed.count() == 1
    expect(failed).to_contain_text("Error: ")
    assert {one["aria-level"] for one in attributes(page, "aria-level")} == {"1", "2", "3", "4", "5", "6"}
    assert page.locator("[role=treegrid]").get_attribute("aria-rowcount") == str(len(names(page)) + 1)


def attributes(page: Page, *wanted: str) -> list[dict[str, str]]:
    return page.locator(ROWS).evaluate_all(
        "(rows, wanted) => rows.map((one) => Object.fromEntries(wanted.map((key) => [key, one.getAttribute(key)])))",
        list(wanted),
    )


def test_bars_stand_where_the_time_was(show: Opener) -> None:
    """A bar at the wrong place is a wrong answer to the question that the page is for."""
    page = show(traces.checkout(prices=0))
    whole = traces.checkout(prices=0)["spans"][0]["duration"]
    for span in traces.checkout(prices=0)["spans"]:
        bar = page.locator(f"#row-{node_of(page, span['spanID'])} .bar").first
        left, width = bar.evaluate(
            """(bar) => {
              const [inner, outer] = [bar, bar.parentElement].map((one) => one.getBoundingClientRect());
              return [(inner.left - outer.left) / outer.width, inner.width / outer.width]; }"""
        )
        assert left == pytest.approx((span["startTime"] - traces.START_US) / whole, abs=0.004)
        assert width == pytest.approx(span["duration"] / whole, abs=0.004)


def node_of(page: Page, span_id: str) -> int:
    """The number of a span in the page's order."""
    script = """async (id) => { const {buildTrace} = await import("/ui/trace/model.js");
      const answer = await (await fetch(location.pathname.replace("/trace/", "/api/traces/"))).json();
      return buildTrace(answer.data[0]).indexOf.get(id); }"""
    return page.evaluate(script, span_id)


def test_the_keyboard_reaches_everything_in_the_tree(show: Opener) -> None:
    """Nobody needs a mouse: rows, branches and details by the keys that a tree has everywhere."""
    page = show(traces.checkout())
    grid = page.locator("[role=treegrid]")
    grid.focus()
    page.keyboard.press("Home")
    assert active(page) == "storefront POST /checkout"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert active(page) == "cart GET /items"
    page.keyboard.press("ArrowLeft")
    expect(page.locator(ROWS).filter(has_text="SELECT items")).to_have_count(0)
    assert page.locator(f"{ROWS}.active").get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowRight")
    expect(row(page, "SELECT items")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert active(page) == "storefront GET"
    page.keyboard.press("End")
    assert active(page) == "checkout send receipt"
    page.keyboard.press("Enter")
    expect(page.locator(".detail h3")).to_have_text("checkout send receipt")
    wait_for_query(page, span="000000000000001a")
    page.keyboard.press("Enter")
    expect(page.locator(".detail")).to_have_count(0)
    wait_for_query(page, span=None)


def test_collapsing_by_one_level_by_all_and_back(show: Opener) -> None:
    """A big trace is read from the top: the levels open and close together, by keys and by buttons."""
    page = show(traces.checkout())
    everything = len(names(page))
    page.keyboard.press("]")
    expect(page.locator(ROWS)).to_have_count(1)
    expect(row(page, "POST /checkout")).to_contain_text("1 error inside")
    page.keyboard.press("o")
    expect(page.locator(ROWS)).to_have_count(3)
    page.keyboard.press("o")
    expect(page.locator(ROWS)).to_have_count(5)
    page.keyboard.press("p")
    expect(page.locator(ROWS)).to_have_count(3)
    page.keyboard.press("[")
    expect(page.locator(ROWS)).to_have_count(everything)
    page.get_by_role("button", name="Collapse", exact=True).click()
    expect(page.locator(ROWS)).to_have_count(1)
    row(page, "POST /checkout").locator(".toggle").click()
    expect(page.locator(ROWS)).to_have_count(3)


def test_an_error_in_what_is_collapsed_is_still_seen(show: Opener) -> None:
    """Somebody who closes a branch must not lose the error in it."""
    page = show(traces.checkout())
    row(page, "POST /orders").locator(".toggle").click()
    expect(row(page, "POST /orders").locator(".chip.error")).to_have_text("1 error inside")
    page.keyboard.press("e")
    expect(page.locator(f"{ROWS}.failed.active")).to_be_visible()


def test_like_calls_are_one_row_with_a_hint(show: Opener) -> None:
    """Twelve equal queries are told as twelve queries, and looked at one by one when wanted."""
    page = show(traces.checkout(prices=12))
    folded = row(page, "SELECT price")
    expect(folded).to_contain_text("× 12")
    expect(folded).to_contain_text("N+1")
    expect(folded.locator(".label")).to_have_text("21.3 ms in all")
    folded.click()
    expect(page.locator(ROWS).filter(has_text="SELECT price")).to_have_count(12)
    page.locator("[data-act=fold]").click()
    expect(page.locator(ROWS).filter(has_text="SELECT price")).to_have_count(1)
    page.get_by_role("button", name="Fold repeats").click()
    expect(page.locator(ROWS).filter(has_text="SELECT price")).to_have_count(12)
    wait_for_query(page, fold="0")


def test_a_call_of_another_service_is_drawn_within_the_callers_bar(show: Opener) -> None:
    """The time on the network is what of the caller's bar the other service's does not cover."""
    page = show(traces.checkout())
    caller = page.locator(ROWS).nth(1)
    expect(caller.locator(".called")).to_have_text("cart")
    outer, inner = (caller.locator(f".bar.{one}").bounding_box() for one in ("outer", "inner"))
    assert outer and inner
    assert outer["x"] < inner["x"] < inner["x"] + inner["width"] < outer["x"] + outer["width"]


def test_events_and_the_critical_path_are_marked_on_the_bar(show: Opener) -> None:
    """Where something was said, and where the time was decided, is seen before anything is opened."""
    page = show(traces.checkout())
    orders = row(page, "POST /orders")
    assert orders.locator(".event").count() == 2
    assert orders.locator(".critical").count() > 2
    assert row(page, "send receipt").locator(".event").count() == 0


# --- time -------------------------------------------------------------------------------------------------------------


def test_zooming_with_keys_wheel_and_minimap(show: Opener) -> None:
    """A closer look at a part of the time, which the address keeps for whoever is sent it."""
    page = show(traces.checkout())
    page.keyboard.press("w")
    page.keyboard.press("w")
    expect(page.locator(".zoom-told")).to_be_visible()
    page.wait_for_function("() => new URLSearchParams(location.search).has('from')")
    start, end = (int(query_of(page)[key]) for key in ("from", "to"))
    assert 0 < start < end < 292_600
    page.keyboard.press("d")
    page.wait_for_function("(start) => Number(new URLSearchParams(location.search).get('from')) > start", arg=start)
    page.keyboard.press("0")
    wait_for_query(page, **{"from": None, "to": None})

    area = page.locator(".minimap-area").bounding_box()
    assert area
    y = area["y"] + area["height"] / 2
    drag(page, (area["x"] + area["width"] * 0.5, y), (area["x"] + area["width"] * 0.75, y))
    page.wait_for_function("() => new URLSearchParams(location.search).has('from')")
    assert int(query_of(page)["from"]) == pytest.approx(292_600 * 0.5, rel=0.02)
    assert int(query_of(page)["to"]) == pytest.approx(292_600 * 0.75, rel=0.02)
    drag(page, (area["x"] + area["width"] * 0.6, y), (area["x"] + area["width"] * 0.5, y))
    page.wait_for_function("() => Number(new URLSearchParams(location.search).get('from')) < 130000")
    assert int(query_of(page)["to"]) - int(query_of(page)["from"]) == pytest.approx(292_600 * 0.25, rel=0.02)
    page.reload()
    expect(page.locator(".zoom-told")).to_be_visible()

    page.get_by_role("slider", name="End of the time that is shown").focus()
    page.keyboard.press("End")
    wait_for_query(page, to="292600")
    page.mouse.move(1000, 500)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_function("() => Number(new URLSearchParams(location.search).get('to')) < 292600")
    page.get_by_role("button", name="Show the whole trace").click()
    wait_for_query(page, **{"from": None, "to": None})


def test_going_back_goes_back_to_the_time_that_was_seen(show: Opener) -> None:
    """Zooming replaces the address instead of adding one for each step; where one came from is as it was left."""
    page = show(traces.checkout())
    page.keyboard.press("2")
    wait_for_query(page, view="flame")
    page.keyboard.press("1")
    expect(page.locator(ROWS).first).to_be_visible()
    page.keyboard.press("w")
    page.keyboard.press("w")
    page.wait_for_function("() => new URLSearchParams(location.search).has('from')")
    page.go_back()
    page.go_back()
    expect(page.locator(ROWS).first).to_be_visible()
    expect(page.locator(".zoom-told")).to_have_count(0)


def test_the_minimap_shows_all_spans_in_both_themes(show: Opener) -> None:
    """The canvas follows the theme, as everything else does: a dark drawing on a dark page shows nothing."""
    page = show(traces.checkout(), color_scheme="light")
    wait_for_colours(page, ".minimap canvas", 6)
    before = page.evaluate("document.querySelector('.minimap canvas').toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(before) => document.querySelector('.minimap canvas').toDataURL() !== before", arg=before)
    wait_for_colours(page, ".minimap canvas", 6)


def test_the_columns_can_be_resized(show: Opener) -> None:
    """Long names need room, and whoever needs it can make it, with or without a mouse."""
    page = show(traces.checkout())

    def width() -> float:
        return page.locator(f"{ROWS} .cell-name").first.evaluate("(cell) => cell.getBoundingClientRect().width")

    before = width()
    divider = page.get_by_role("separator", name="Width of the names")
    divider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "(before) => document.querySelector('.row .cell-name').getBoundingClientRect().width > before + 10", arg=before
    )
    box = divider.bounding_box()
    assert box
    drag(page, (box["x"] + 4, box["y"] + 100), (box["x"] - 200, box["y"] + 100))
    assert width() == pytest.approx(before + 0.02 * 1340 - 204, abs=12)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_a_gap_explains_itself(show: Opener, site: Site) -> None:
    """Spans without their parent stand below a row that says it never came, and why, when the losses tell."""
    site.losses = {
        "services": [{"name": "cart", "client_queue": 12, "packets": 0}, {"name": "unrelated", "client_queue": 99}],
        "receiver": {},
    }
    page = show(traces.orphaned())
    assert names(page) == [
        "front GET /",
        "front template",
        "Missing parent f1",
        "cart load",
        "cart load",
        "Missing parent f2",
        "mail send",
    ]
    expect(page.locator(".trace-notices")).to_contain_text("The parents of 3 spans")
    expect(page.locator(".trace-notices")).to_contain_text("cart: 12 spans were lost in the client's queue")
    row(page, "Missing parent f1").click()
    expect(page.locator(".detail")).to_contain_text("cart: 12 spans were lost")
    assert "unrelated" not in page.locator(".trace-page").inner_text()
    row(page, "Missing parent f2").click()
    expect(page.locator(".detail").last).to_contain_text("No loss is known of mail.")


def test_a_trace_that_still_arrives_fills_by_itself(show: Opener, site: Site) -> None:
    """Whoever opens a trace too early does not have to know that it was too early; what was opened stays open."""
    whole = traces.checkout(prices=0)
    now = time.time_ns() // 1000
    for span in whole["spans"]:
        span["startTime"] += now - traces.START_US - 1_000_000
    early = {**whole, "spans": whole["spans"][:4]}
    page = show(early, "?span=0000000000000004")
    expect(page.locator(".trace-notices")).to_contain_text("may still be arriving")
    assert len(names(page)) == 4
    site.put(whole)
    below = page.locator(ROWS).nth(4)
    expect(below).to_contain_text("POST")
    expect(page.locator(".detail h3")).to_have_text("cart SELECT items")
    box, after = page.locator(".detail-row").bounding_box(), below.bounding_box()
    assert box
    assert after
    assert after["y"] == pytest.approx(box["y"] + box["height"], abs=2)


def test_a_link_to_a_span_that_comes_later_leads_there_when_it_has_come(site: Site, show: Opener) -> None:
    """A link from a log line is often followed before the span that it names has been sent."""
    whole = traces.checkout(prices=0)
    now = time.time_ns() // 1000
    for span in whole["spans"]:
        span["startTime"] += now - traces.START_US - 1_000_000
    page = show({**whole, "spans": whole["spans"][:4]}, "?span=000000000000000a")
    expect(page.locator(".detail")).to_have_count(0)
    site.put(whole)
    expect(page.locator(".detail h3")).to_have_text("inventory UPDATE stock")


def test_an_old_whole_trace_is_not_asked_for_again(show: Opener, site: Site) -> None:
    """A page that is left open overnight must not keep the backend busy."""
    page = show(traces.checkout())
    page.wait_for_timeout(2500)
    assert sum(one.startswith("/api/traces/") for one in site.asked) == 1


def test_a_trace_that_is_not_there_is_told(site: Site, visitor: Visitor) -> None:
    """An old link says what is wrong, and the page comes by itself once the trace does."""
    visitor.expected = ["404"]
    page = visitor.open(site, f"/trace/{traces.CHECKOUT_ID}", ready=".notice")  # type: ignore[arg-type]
    expect(page.locator(".notice.error")).to_contain_text("trace not found")
    site.put(traces.checkout())
    expect(row(page, "POST /checkout")).to_be_visible()


# --- size -------------------------------------------------------------------------------------------------------------


def test_ten_thousand_spans_are_drawn_and_scrolled_at_once(show: Opener) -> None:
    """Large traces are where other viewers freeze: only what is seen is in the document, and a step costs little."""
    page = show(traces.wide(10_000), ready="body")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cpu_s() -> float:
        return next(
            one["value"] for one in session.send("Performance.getMetrics")["metrics"] if one["name"] == "TaskDuration"
        )

    page.wait_for_selector(ROWS)
    assert cpu_s() < MOST_CPU_TO_DRAW_S
    assert page.locator(ROWS).count() < 80
    before = cpu_s()
    steps = page.evaluate("""async () => {
      const box = document.querySelector('.waterfall-box');
      let rows = 0;
      for (let step = 0; step < 40; step++) {
        box.scrollTop += 600;
        await new Promise(requestAnimationFrame);
        rows = Math.max(rows, document.querySelectorAll('.row').length);
      }
      return rows; }""")
    assert steps < 120
    assert (cpu_s() - before) / 40 < MOST_CPU_PER_STEP_S
    page.locator("[role=treegrid]").focus()
    page.keyboard.press("End")
    total = int(page.locator("[role=treegrid]").get_attribute("aria-rowcount") or 0)
    expect(page.locator(f"{ROWS}.active")).to_have_attribute("aria-rowindex", str(total))
    expect(page.locator(f"{ROWS}.active")).to_be_in_viewport()
    assert total > 9_000


def test_a_deep_trace_keeps_its_names_readable(show: Opener) -> None:
    """Five hundred levels do not push the names out of their column; the level is told in figures."""
    page = show(traces.deep(500))
    page.locator("[role=treegrid]").focus()
    page.keyboard.press("End")
    last = row(page, "call-499")
    expect(last).to_be_in_viewport()
    name, cell = last.locator(".name").bounding_box(), last.locator(".cell-name").bounding_box()
    assert name and cell
    assert name["x"] + name["width"] <= cell["x"] + cell["width"]
    assert name["width"] > 70
    expect(last.locator(".depth")).to_have_text("500")


def test_a_tall_detail_does_not_confuse_the_rows_below(show: Opener) -> None:
    """With a detail open the rows below stand below it, also when it is closed again."""
    page = show(traces.checkout(), "?span=0000000000000004")
    detail, below = page.locator(".detail-row"), page.locator(ROWS).nth(4)

    def gap() -> float:
        above, box = detail.bounding_box(), below.bounding_box()
        assert above
        assert box
        return box["y"] - above["y"] - above["height"]

    page.wait_for_function("() => document.querySelector('.detail-row').offsetHeight > 100")
    expect(below).to_contain_text("POST")
    page.wait_for_timeout(100)
    assert abs(gap()) < 2
