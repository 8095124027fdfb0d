"""The sampling page: what services are told, by whose word, and changing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from backend.conftest import Backend, running
from ui import shop
from ui.conftest import Visitor, barriers, send

FILE = {
    "default_strategy": {"type": "probabilistic", "param": 0.5},
    "service_strategies": [{"service": "catalog", "type": "ratelimiting", "param": 5}],
}


@pytest.fixture
def sampled_backend(tmp_path: Path, visitor: Visitor) -> Iterator[Backend]:
    """A backend with a strategies file, that has taken traces."""
    file = tmp_path / "strategies.json"
    file.write_text(json.dumps(FILE))
    with running(tmp_path, "--strategies-file", str(file)) as backend:
        for payload in shop.payloads(1_800_000_000 * 10**9, traces=30):
            send(backend, payload)
        yield backend
        visitor.close()


def told(backend: Backend, service: str) -> Any:
    """What the service itself is answered."""
    return json.loads(backend.get("sampling", f"/sampling?service={service}")[1])


def card(page: Page, service: str) -> Locator:
    return page.get_by_role("region", name=f"Sampling of {service}", exact=True)


def test_strategies_and_where_they_come_from(visitor: Visitor, sampled_backend: Backend) -> None:
    """One sees what each service keeps, and whether a file or nobody said so."""
    page = visitor.open(sampled_backend, "/sampling", ready=".sampling-service")
    expect(card(page, "catalog")).to_contain_text("keeps at most 5 traces a second")
    expect(card(page, "storefront")).to_contain_text("keeps 50 %")
    chip = card(page, "catalog").get_by_role("button", name="file")
    chip.focus()
    expect(page.locator(".tooltip")).to_contain_text("the strategies file that the backend was started with")


def test_what_the_samplers_decided(visitor: Visitor, sampled_backend: Backend) -> None:
    """For each operation: who kept its traces, how many came, and about how many requests these stand for."""
    page = visitor.open(sampled_backend, "/sampling", ready=".sampling-service")
    decisions = json.loads(sampled_backend.get("query", "/ui/data/sampling")[1])["services"]
    rows = next(row for row in decisions if row["name"] == "storefront")["decisions"]
    chance = next(row for row in rows if row["type"] == "probabilistic")
    shown = card(page, "storefront").locator("tbody tr", has=page.get_by_role("link", name=chance["operation"], exact=True))
    cells = shown.first.locator("td").all_text_contents()
    assert cells[1:] == ["probabilistic 0.1", str(chance["traces"]), str(chance["traces"] * 10)]
    expect(card(page, "mailer")).to_contain_text("No trace has begun in this service yet")


def test_a_strategy_is_changed_and_taken_back(visitor: Visitor, sampled_backend: Backend) -> None:
    """A change in the page is what the service is told from then on; resetting brings the file's word back."""
    page = visitor.open(sampled_backend, "/sampling", ready=".sampling-service")
    before = told(sampled_backend, "catalog")
    page.get_by_role("button", name="Edit the strategy of catalog").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Traces a second")).to_have_value("5")
    assert barriers(page) == []
    dialog.get_by_label("Keep").select_option("probabilistic")
    dialog.get_by_label("Share", exact=True).fill("0.2")
    dialog.get_by_role("button", name="Add an operation").click()
    dialog.get_by_label("Operation 1", exact=True).fill("GET /prices")
    dialog.get_by_label("Share of operation 1").fill("1")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(card(page, "catalog")).to_contain_text("keeps 20 %; 1 operation otherwise")
    expect(card(page, "catalog").get_by_role("button", name="edited")).to_be_visible()
    answer = told(sampled_backend, "catalog")
    assert answer["operationSampling"]["defaultSamplingProbability"] == 0.2
    assert [
        (row["operation"], row["probabilisticSampling"]["samplingRate"])
        for row in answer["operationSampling"]["perOperationStrategies"]
    ] == [("GET /prices", 1)]
    card(page, "catalog").get_by_role("button", name="Reset", exact=True).click()
    expect(card(page, "catalog")).to_contain_text("keeps at most 5 traces a second")
    assert told(sampled_backend, "catalog") == before


@pytest.mark.parametrize(("kind", "param"), [("probabilistic", "7"), ("probabilistic", "often"), ("ratelimiting", "-1"), ("ratelimiting", "")])
def test_a_wrong_strategy_is_refused_with_a_reason(
    visitor: Visitor, sampled_backend: Backend, kind: str, param: str
) -> None:
    """A typing mistake does not switch tracing off: nothing is changed, the dialog stays, and says what is wrong."""
    visitor.expected = ["status of 400"]
    page = visitor.open(sampled_backend, "/sampling?service=cart", ready=".sampling-service")
    before = told(sampled_backend, "cart")
    page.get_by_role("button", name="Edit the strategy of cart").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Keep").select_option(kind)
    dialog.locator("#param").fill(param)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("param")
    assert barriers(page) == []
    assert told(sampled_backend, "cart") == before


def test_the_adaptive_target_is_told(visitor: Visitor, tmp_path: Path) -> None:
    """Who has switched adaptive sampling on sees that, and to what it steers."""
    with running(tmp_path, "--adaptive", "2") as backend:
        send(backend, shop.payloads(1_800_000_000 * 10**9, traces=1)[0])
        page = visitor.open(backend, "/sampling", ready=".sampling-service")
        expect(page.get_by_text("The backend steers each operation to 2 traces a second")).to_be_visible()
        visitor.close()
