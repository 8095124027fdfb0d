"""The start page: finding traces, watching them come, taking them in and out."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from backend.conftest import Backend, poll
from ui import shop
from ui.conftest import Visitor, address, barriers, send, summaries


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def ids(page: Page) -> list[str]:
    """The ids of the traces in the list, in its order."""
    found: list[str] = page.eval_on_selector_all(
        ".result .title", "all => all.map(one => one.getAttribute('href').split('/').pop())"
    )
    return found


def new_trace(backend: Backend, seed: int = 0) -> str:
    """Send one more trace of the shop; its id."""
    payload = shop.one_trace(random.Random(seed or time.time_ns()), time.time_ns() - 10**9)
    send(backend, payload)
    span = json.loads(payload)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    trace_id: str = span["traceId"]
    return trace_id


def point_of(page: Page, row: Locator) -> tuple[float, float]:
    """Where the point of a trace is drawn: the ring that its row puts around it is the only thing in the colour of text."""
    row.hover()
    place = page.evaluate("""async () => {
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        const canvas = document.querySelector('.scatter canvas');
        const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const wanted = getComputedStyle(document.documentElement).getPropertyValue('--text').match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
        const xs = [], ys = [];
        for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] === 255 && wanted.every((value, index) => data[at + index] === value)) {
                xs.push((at / 4) % width); ys.push(Math.floor(at / 4 / width));
            }
        }
        return [(Math.min(...xs) + Math.max(...xs)) / 2 / devicePixelRatio, (Math.min(...ys) + Math.max(...ys)) / 2 / devicePixelRatio];
    }""")
    return place[0], place[1]


def test_the_newest_traces_are_there_at_once(visitor: Visitor, shop_backend: Backend) -> None:
    """Opening the page is enough to see what happened last, with its length, size, errors and reason."""
    page = visitor.open(shop_backend, "/", ready=".result")
    expected = summaries(shop_backend, "limit=100")
    assert ids(page) == [trace["traceID"] for trace in expected]
    newest, row = expected[0], page.locator(".result").first
    expect(row).to_contain_text(newest["service"])
    expect(row).to_contain_text(newest["operation"])
    expect(row.locator(".spans")).to_have_text(f"{newest['spans']} spans")
    failed = [trace for trace in expected if trace["errors"]]
    assert failed
    expect(page.locator(".result.failed")).to_have_count(len(failed))


def test_the_form_is_the_address_and_the_address_is_the_form(visitor: Visitor, shop_backend: Backend) -> None:
    """A search can be sent to a colleague as a link, and is changed where it was typed."""
    page = visitor.open(shop_backend, "/", ready=".result")
    page.get_by_label("Service", exact=True).select_option("payments")
    expect(page.locator(".result").first).to_be_visible()
    page.get_by_label("Operation", exact=True).fill("POST /charges")
    page.get_by_label("Tags").fill('http.route=/charges  service="not here"')
    page.get_by_label("Tags").fill("http.route=/charges")
    page.get_by_label("Shortest").fill("50ms")
    page.get_by_role("button", name="Find traces").click()
    page.wait_for_url("**minDuration=50ms*")
    assert query_of(page) == {
        "service": ["payments"], "operation": ["POST /charges"], "tags": ["http.route=/charges"], "minDuration": ["50ms"],
    }  # fmt: skip
    tags = '{"http.route":"/charges"}'
    expected = summaries(shop_backend, f"service=payments&operation=POST%20/charges&minDuration=50ms&tags={tags}&limit=100")
    expect(page.locator(".result")).to_have_count(len(expected))
    assert ids(page) == [trace["traceID"] for trace in expected]
    again = visitor.open(shop_backend, page.url.removeprefix(address(shop_backend, "")), ready=".result")
    assert again.get_by_label("Operation", exact=True).input_value() == "POST /charges"
    assert again.get_by_label("Shortest").input_value() == "50ms"
    assert ids(again) == ids(page)


def test_operations_are_suggested(visitor: Visitor, shop_backend: Backend) -> None:
    """Nobody has to know by heart how an operation is called."""
    page = visitor.open(shop_backend, "/?service=inventory", ready="#operations option")
    offered = page.eval_on_selector_all("#operations option", "all => all.map(one => one.value)")
    assert offered == sorted({row["name"] for row in shop_backend.data("/api/operations?service=inventory")})
    assert "POST /reservations" in offered


def test_only_traces_with_errors(visitor: Visitor, shop_backend: Backend) -> None:
    """One click leaves what went wrong."""
    page = visitor.open(shop_backend, "/", ready=".result")
    page.get_by_label("Only with errors").check()
    page.wait_for_url("**tags=error%3Dtrue")
    expected = [trace["traceID"] for trace in summaries(shop_backend) if trace["errors"]]
    expect(page.locator(".result")).to_have_count(len(expected))
    assert ids(page) == expected


@pytest.mark.parametrize(
    ("field", "text", "told"),
    [("Tags", "no equals sign", "Tags are written key=value"), ("Tags", 'key="open', "Tags are written key=value")],
)
def test_tags_that_cannot_be_read_are_told_where_they_are_typed(
    visitor: Visitor, shop_backend: Backend, field: str, text: str, told: str
) -> None:
    """A slip of the pen does not look like "nothing found"."""
    page = visitor.open(shop_backend, "/", ready=".result")
    page.get_by_label(field).fill(text)
    expect(page.get_by_text(told)).to_be_visible()
    expect(page.get_by_label(field)).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Find traces").click()
    assert query_of(page) == {}


def test_what_the_backend_refuses_is_shown(visitor: Visitor, shop_backend: Backend) -> None:
    """The backend's own sentence says what is wrong with a search that came by a link."""
    visitor.expected = ["status of 400"]
    page = visitor.open(shop_backend, "/?minDuration=soon", ready="[role=alert]")
    expect(page.get_by_role("alert")).to_contain_text("cannot parse 'soon' as a duration")
    assert barriers(page) == []


def test_order(visitor: Visitor, shop_backend: Backend) -> None:
    """The slowest, the largest and the worst traces can be brought up."""
    page = visitor.open(shop_backend, "/", ready=".result")
    found = {trace["traceID"]: trace for trace in summaries(shop_backend, "limit=100")}
    for name, key in {"Longest": "duration_us", "Most spans": "spans", "Most errors": "errors", "Newest": "start_us"}.items():
        page.get_by_role("group", name="Order").get_by_role("button", name=name).click()
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        values = [found[one][key] for one in ids(page)]
        assert values == sorted(values, reverse=True), name


def test_why_a_trace_was_kept(visitor: Visitor, shop_backend: Backend) -> None:
    """Nobody wonders why so few traces are there: each says who kept it, and for how many it stands; also by keyboard."""
    page = visitor.open(shop_backend, "/", ready=".result")
    chip = page.get_by_role("button", name="probabilistic 0.1").first
    chip.focus()
    tooltip = page.locator(".tooltip")
    expect(tooltip).to_have_text(
        "Kept by a probabilistic sampler at 0.1: about 10 such requests happened for each one shown."
    )
    page.keyboard.press("Escape")
    expect(tooltip).to_have_count(0)
    page.get_by_role("button", name="ratelimiting 2").first.hover()
    expect(tooltip).to_contain_text("at most 2 traces a second")
    assert "for each one shown" in (chip.get_attribute("aria-label") or "")


def test_two_traces_are_chosen_for_comparison(visitor: Visitor, shop_backend: Backend) -> None:
    """By mouse or by keys, two marks lead to the comparison; a third takes the place of the first."""
    page = visitor.open(shop_backend, "/", ready=".result")
    first, second, third = ids(page)[:3]
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Comparison")).to_contain_text("One trace is selected")
    page.keyboard.press("j")
    page.keyboard.press("x")
    link = page.get_by_role("region", name="Comparison").get_by_role("link", name="Compare")
    expect(link).to_have_attribute("href", f"/compare?a={first}&b={second}")
    page.locator(".result").nth(2).get_by_role("checkbox").check()
    expect(link).to_have_attribute("href", f"/compare?a={second}&b={third}")
    assert barriers(page) == []
    page.get_by_role("button", name="Clear the selection").click()
    expect(page.get_by_role("region", name="Comparison")).to_have_count(0)


def test_the_plot_opens_a_trace_and_names_what_is_pointed_at(visitor: Visitor, shop_backend: Backend) -> None:
    """A point that stands out is one click away from its trace."""
    page = visitor.open(shop_backend, "/?sort=longest", ready=".result")
    slowest = ids(page)[0]
    x, y = point_of(page, page.locator(".result").first)
    plot = page.locator(".scatter canvas")
    plot.hover(position={"x": x, "y": y})
    expect(page.locator(".tooltip")).to_contain_text("storefront")
    page.route("**/api/traces/**", lambda route: route.fulfill(json={"data": []}))
    plot.click(position={"x": x, "y": y})
    page.wait_for_url(f"**/trace/{slowest}")


def test_marking_a_range_in_the_plot_narrows_the_time(visitor: Visitor, shop_backend: Backend) -> None:
    """A cluster of slow traces is looked at by dragging over it; the range is in the address and can be taken back."""
    page = visitor.open(shop_backend, "/?limit=1500", ready=".result")
    everything = page.locator(".result").count()
    box = page.locator(".scatter canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=4)
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_url("**start=*")
    start, end = (int(query_of(page)[key][0]) for key in ("start", "end"))
    expected = summaries(shop_backend, f"start={start}&end={end}&limit=1500")
    expect(page.locator(".result")).to_have_count(len(expected))
    assert 0 < len(expected) < everything
    page.get_by_role("button", name="All times").click()
    expect(page.locator(".result")).to_have_count(everything)


def test_the_scale_of_the_plot_is_in_the_address(visitor: Visitor, shop_backend: Backend) -> None:
    """Differences of milliseconds and of seconds can both be seen, and the choice is part of the link."""
    page = visitor.open(shop_backend, "/", ready=".result")
    picture = "document.querySelector('.scatter canvas').toDataURL()"
    logarithmic = page.evaluate(picture)
    page.get_by_role("button", name="Logarithmic").click()
    expect(page.get_by_role("button", name="Logarithmic")).to_have_attribute("aria-pressed", "false")
    assert query_of(page) == {"scale": ["linear"]}
    assert page.evaluate(picture) != logarithmic


def test_new_traces_come_by_themselves(visitor: Visitor, own_backend: Backend) -> None:
    """One sends a request and sees it, without searching again; pausing holds the list still, clearing empties it."""
    page = visitor.open(own_backend, "/?live=1", ready=".beat.on")
    expect(page.get_by_text("No traces yet")).to_be_visible()
    first = new_trace(own_backend)
    expect(page.locator(".result")).to_have_count(1)
    assert ids(page)[0].endswith(first.lstrip("0"))
    page.get_by_role("button", name="Pause").click()
    new_trace(own_backend)
    new_trace(own_backend)
    page.get_by_role("button", name="Show 2 new traces").wait_for()
    expect(page.locator(".result")).to_have_count(1)
    page.get_by_role("button", name="Show 2 new traces").click()
    expect(page.locator(".result")).to_have_count(3)
    page.get_by_role("button", name="Clear the list").click()
    expect(page.locator(".result")).to_have_count(0)
    assert barriers(page) == []


def test_nothing_moves_under_the_eyes_of_who_reads(visitor: Visitor, own_backend: Backend) -> None:
    """Who has the keyboard in the list keeps the row there; what has come waits until it is wanted."""
    new_trace(own_backend)
    page = visitor.open(own_backend, "/?live=1", ready=".beat.on")
    expect(page.locator(".result")).to_have_count(1)
    page.keyboard.press("j")
    before = ids(page)
    new_trace(own_backend)
    waiting = page.get_by_role("button", name="Show 1 new trace")
    waiting.wait_for()
    assert ids(page) == before
    waiting.click()
    expect(page.locator(".result")).to_have_count(2)


def test_the_live_tail_keeps_to_the_search(visitor: Visitor, own_backend: Backend) -> None:
    """Watching one service's errors is not disturbed by everything else."""
    for seed in range(1, 9):
        new_trace(own_backend, seed)
    page = visitor.open(own_backend, "/?live=1&service=payments&operation=POST%20/charges", ready=".beat.on")
    shown = len(summaries(own_backend, "service=payments&operation=POST%20/charges"))
    expect(page.locator(".result")).to_have_count(shown)
    wanted = 0
    for seed in range(100, 130):
        payload = shop.one_trace(random.Random(seed), time.time_ns() - 10**9)
        wanted += b'"POST /charges"' in payload
        send(own_backend, payload)
    assert 0 < wanted < 30
    expect(page.locator(".result")).to_have_count(shown + wanted, timeout=20_000)


def test_traces_go_out_as_a_file_and_come_in_again(
    visitor: Visitor, shop_backend: Backend, own_backend: Backend, tmp_path: Path
) -> None:
    """What one has found can be kept, sent to somebody, and opened there, by the button or by dropping the file."""
    page = visitor.open(shop_backend, "/?service=payments&limit=20", ready=".result")
    with page.expect_download() as download:
        page.get_by_role("button", name="as Jaeger JSON").click()
    file = tmp_path / "traces.json"
    download.value.save_as(file)
    content = json.loads(file.read_text())
    assert [trace["traceID"] for trace in content["data"]] == ids(page)

    other = visitor.open(own_backend, "/")
    expect(other.get_by_text("No traces yet")).to_be_visible()
    with other.expect_file_chooser() as chooser:
        other.get_by_role("button", name="Open files of traces").click()
    chooser.value.set_files(file)
    expect(other.locator(".result")).to_have_count(len(content["data"]))
    assert sorted(ids(other)) == sorted(ids(page))

    single = {"data": content["data"][:1]}
    drop(other, "one.json", json.dumps(single))
    other.wait_for_url(f"**/trace/{content['data'][0]['traceID']}")


def drop(page: Page, name: str, content: str) -> None:
    transfer = page.evaluate_handle(
        "([name, text]) => { const all = new DataTransfer(); all.items.add(new File([text], name)); return all; }",
        [name, content],
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop files of traces here")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


def test_a_file_that_holds_no_traces_is_told(visitor: Visitor, shop_backend: Backend) -> None:
    """The wrong file leads to its name and a reason, and nothing else on the page is lost."""
    visitor.expected = ["status of 400"]
    page = visitor.open(shop_backend, "/", ready=".result")
    drop(page, "holiday.json", '{"photos": []}')
    expect(page.get_by_role("alert")).to_contain_text("holiday.json")
    expect(page.locator(".result").first).to_be_visible()


def test_deleting_everything_asks_first(visitor: Visitor, own_backend: Backend) -> None:
    """One click deletes nothing; the second one does, and the page shows how to begin anew."""
    new_trace(own_backend)
    page = visitor.open(own_backend, "/", ready=".result")
    page.get_by_role("button", name="Delete everything").click()
    dialog = page.get_by_role("dialog", name="Delete every trace?")
    dialog.get_by_role("button", name="Keep them").click()
    assert summaries(own_backend)
    page.get_by_role("button", name="Delete everything").click()
    assert barriers(page) == []
    dialog.get_by_role("button", name="Delete everything").click()
    expect(page.get_by_text("No traces yet")).to_be_visible()
    assert poll(lambda: not summaries(own_backend), "an empty store")


def test_an_empty_backend_says_how_to_begin(visitor: Visitor, own_backend: Backend) -> None:
    """The first look at the page is not a blank list."""
    page = visitor.open(own_backend, "/")
    expect(page.get_by_text("python -m autoinstr app.py")).to_be_visible()
    assert barriers(page) == []


def test_a_search_without_results_offers_a_way_out(visitor: Visitor, shop_backend: Backend) -> None:
    """Too narrow a search is widened by a click."""
    page = visitor.open(shop_backend, "/?service=mailer&tags=no.such.tag%3D1")
    expect(page.get_by_text("No trace is like that")).to_be_visible()
    page.get_by_role("button", name="Without the conditions").click()
    expect(page.locator(".result").first).to_be_visible()
    assert query_of(page) == {}


def test_many_results_stay_usable(visitor: Visitor, own_backend: Backend) -> None:
    """The largest list that can be asked for is drawn and sorted without a wait, and all of it can be reached."""
    for number in range(10):
        send(own_backend, many(150, number))
    page = visitor.open(own_backend, "/?limit=1500", ready=".result")
    expect(page.get_by_role("heading", name="1,500 traces")).to_be_visible()
    drawn = page.locator(".result").count()
    assert drawn < 500
    sorting_ms = page.evaluate("""async () => {
        const started = performance.now();
        [...document.querySelectorAll('button')].find((one) => one.textContent === 'Longest').click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        return performance.now() - started;
    }""")
    assert sorting_ms < 1000
    longest = [trace["traceID"] for trace in sorted(summaries(own_backend), key=lambda trace: -trace["duration_us"])]
    assert ids(page)[:3] == longest[:3]
    for _ in range(3):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_timeout(100)
    assert page.locator(".result").count() > drawn


def many(number: int, part: int) -> bytes:
    now = time.time_ns() - 10**10
    rows: list[dict[str, Any]] = [
        {
            "traceId": f"{part + 1:016x}{index + 1:016x}", "spanId": f"{index + 1:016x}", "name": f"GET /{index % 7}", "kind": 2,
            "startTimeUnixNano": str(now + index * 10**6), "endTimeUnixNano": str(now + (index * 7919 % 100 + index + 1) * 10**6),
        }
        for index in range(number)
    ]  # fmt: skip
    return shop.body({"bulk": rows})
