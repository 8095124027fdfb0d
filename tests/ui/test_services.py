"""The services page: figures, losses in words, charts."""

from __future__ import annotations

import json
import time
from typing import Any

from playwright.sync_api import Page, expect

from autoinstr.model import Kind, Resource, SpanData
from autoinstr.wire.jaeger import BinaryEncoder
from backend.conftest import Backend, poll
from ui.conftest import Visitor, barriers

PAINTED = """canvas => {
    const wanted = document.createElement('canvas').getContext('2d');
    wanted.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--accent');
    wanted.fillRect(0, 0, 1, 1);
    const [red, green, blue] = wanted.getImageData(0, 0, 1, 1).data;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) count += data[at + 3] > 200 && Math.abs(data[at] - red) + Math.abs(data[at + 1] - green) + Math.abs(data[at + 2] - blue) < 30;
    return count;
}"""


def rows_of(backend: Backend) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(backend.get("query", "/ui/data/services")[1])["services"]
    return found


def cells(page: Page, service: str) -> list[str]:
    row = page.locator("tr", has=page.get_by_role("button", name=service, exact=True)).first
    return row.locator("th, td").all_text_contents()


def send_with_losses(backend: Backend, service: str, lost: tuple[int, int, int]) -> None:
    """A batch of a client that says what it has lost so far."""
    now = time.time_ns() - 10**9
    span = SpanData("GET /", 7, 9, kind=Kind.SERVER, start_ns=now, end_ns=now + 10**7)
    encoder = BinaryEncoder(Resource(service, {"client-uuid": "c0ffee"}))
    for counts in ((0, 0, 0), lost):
        (payload, _), *_ = encoder.encode([span], counts)[0]
        status, answer = backend.post("collector", "/api/traces", payload, {"Content-Type": "application/x-thrift"})
        assert status // 100 == 2, answer


def test_each_service_has_its_figures(visitor: Visitor, shop_backend: Backend) -> None:
    """Load, errors, durations and the cost of tracing can be compared across services at a glance."""
    page = visitor.open(shop_backend, "/services", ready=".service-table")
    rows = rows_of(shop_backend)
    expect(page.locator(".disclose")).to_have_count(len(rows))
    payments = next(row for row in rows if row["name"] == "payments")
    shown = cells(page, "payments")
    assert shown[1] == f"{payments['spans']:,}"
    assert shown[3].startswith(f"{payments['errors']} (")
    assert shown[4].endswith("ms")
    assert shown[6].endswith("µs")
    assert "keeps everything" in shown[7]
    assert cells(page, "mailer")[6] == "–", "a service that does not say what tracing costs it was given a figure"


def test_a_service_opens_to_its_charts(visitor: Visitor, shop_backend: Backend) -> None:
    """Rate, errors and durations of the last hour, and of each operation, are one click away, and in the address."""
    page = visitor.open(shop_backend, "/services", ready=".service-table")
    page.get_by_role("button", name="inventory", exact=True).click()
    page.wait_for_url("**/services?open=inventory")
    expect(page.locator(".charts canvas")).to_have_count(3)
    assert page.get_by_role("img", name="Requests").evaluate(PAINTED) > 50
    label = page.get_by_role("img", name="Duration").get_attribute("aria-label") or ""
    assert "95 %: now" in label
    operations = page.locator(".operations tbody tr")
    assert {text.split("\n")[0] for text in operations.locator("td:first-child").all_text_contents()} == {
        "GET /stock/{sku}", "POST /reservations",
    }  # fmt: skip
    assert barriers(page) == []
    page.get_by_role("link", name="POST /reservations").click()
    page.wait_for_url("**/?service=inventory&operation=POST+%2Freservations")
    expect(page.locator(".result").first).to_be_visible()


def test_a_chart_says_what_is_pointed_at(visitor: Visitor, shop_backend: Backend) -> None:
    """The figure of a minute can be read off."""
    page = visitor.open(shop_backend, "/services?open=storefront", ready=".charts canvas")
    page.get_by_role("img", name="Duration").hover()
    expect(page.locator(".tooltip")).to_contain_text("95 %")


def test_losses_are_told_with_what_helps(visitor: Visitor, own_backend: Backend) -> None:
    """A gap in a trace explains itself: on every page a banner, beside the service the cause and the remedy."""
    send_with_losses(own_backend, "hasty", (412, 1, 0))
    poll(lambda: own_backend.lost("hasty", "client_queue") == 412, "the client's losses")
    page = visitor.open(own_backend, "/services", ready=".service-table")
    banner = page.locator(".notices")
    expect(banner).to_contain_text("Some traces have gaps.")
    expect(banner).to_contain_text("hasty: 412 spans were lost in the client's queue")
    page.get_by_role("button", name="412 spans were lost in the client's queue").click()
    losses = page.get_by_role("list", name="What was lost").get_by_role("listitem")
    expect(losses.first).to_have_text(
        "412 spans were lost in the client's queue: raise JAEGER_REPORTER_MAX_QUEUE_SIZE or lower the rate."
    )
    expect(losses.nth(1)).to_contain_text("1 span was larger than the client may send")
    assert barriers(page) == []
    banner.get_by_role("button", name="Close").click()
    expect(banner).to_have_count(0)


def test_without_losses_there_is_no_banner(visitor: Visitor, shop_backend: Backend) -> None:
    """A warning that is always there is not read."""
    page = visitor.open(shop_backend, "/services", ready=".service-table")
    page.wait_for_load_state("networkidle")
    expect(page.locator(".notices")).to_have_count(0)
    expect(page.locator(".service-table .chip.warning")).to_have_count(0)


def test_an_empty_backend_leads_to_the_first_trace(visitor: Visitor, own_backend: Backend) -> None:
    """The page of services is no dead end for who has just begun."""
    page = visitor.open(own_backend, "/services")
    page.get_by_role("link", name="How to send the first trace").click()
    expect(page.get_by_text("python -m autoinstr app.py")).to_be_visible()
