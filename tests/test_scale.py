"""docs/scale.md: what it says of a fleet under remote sampling, on a small fleet; and that its figures are those of the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fleet  # noqa: E402
import scale  # noqa: E402
import scale_page  # noqa: E402

# ---- A small fleet -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told() -> dict[str, float]:
    """A story of 50 processes, 4 services with 4 operations each, 200 requests a second."""
    return fleet.story(3, 50, 4, 4, 200.0).facts


def test_a_fleet_comes_to_its_goals(told: dict[str, float]) -> None:
    """Who turns steering on would have too many traces for ever, or none."""
    assert told["start_settled_min"] <= 10
    assert told["start_share"] >= 0.9
    assert told["start_kept_per_s"] == pytest.approx(told["start_goal_per_s"], rel=0.25)


def test_traffic_that_changes_over_a_day_is_followed(told: dict[str, float]) -> None:
    """Rates that are right at night would flood the backend at noon."""
    assert told["day_swing"] > 2.5
    assert told["day_mean_share"] >= 0.8
    assert 0.55 < told["day_least_excess"]
    # Twice in ten minutes, of which the rates lag behind by two.
    assert told["day_most_excess"] < 1.7


def test_a_burst_is_taken_back(told: dict[str, float]) -> None:
    """One operation that is asked twenty times as often would take all the room that there is."""
    assert told["burst_first_per_s"] > 4 * fleet.TARGET_PER_S
    assert told["burst_last_per_s"] < (1 + fleet.BAND) * fleet.TARGET_PER_S
    assert told["burst_after_last_per_s"] > (1 - fleet.BAND) * fleet.TARGET_PER_S


def test_processes_that_come_and_go_change_nothing(told: dict[str, float]) -> None:
    """A service that scales out would send more traces of the same traffic."""
    assert told["crowd_to"] > told["crowd_from"] > told["crowd_left"]
    assert told["crowd_most_per_s"] < 1.25 * told["crowd_before_per_s"]
    assert told["crowd_least_per_s"] > 0.75 * told["crowd_before_per_s"]


def test_a_rare_new_operation_is_seen_at_once(told: dict[str, float]) -> None:
    """At one in a thousand, what is asked three times a minute would be seen once in five hours."""
    assert told["new_kept_in_first_minute"] >= 1
    # One a minute is promised.
    assert told["new_kept"] >= fleet.NEW


def test_without_the_backend_the_last_rates_stay(told: dict[str, float]) -> None:
    """A backend that is restarted for an hour would change what is kept in every program."""
    assert told["gone_quiet_per_s"] == pytest.approx(told["gone_before_per_s"], rel=0.15)
    assert told["gone_busy_per_s"] < 1.15 * fleet.GONE_FACTOR * told["gone_quiet_per_s"]
    assert told["gone_restarted_rate"] < 3 * fleet.DEFAULT_RATE


def test_a_backend_that_is_back_is_not_flooded(told: dict[str, float]) -> None:
    """It would fall over again at once: it knows no rates, and everybody asks."""
    assert told["back_settled_min"] <= 12
    assert told["back_last_per_s"] == pytest.approx(told["back_goal_per_s"], rel=0.25)
    assert told["back_most_excess"] < 1.4
    assert told["back_least_per_s"] > 0


def test_one_seed_one_story() -> None:
    """Figures on the page could not be checked by whoever doubts them."""

    def outcome(seed: int) -> list[object]:
        world = fleet.World(seed, fleet.uneven_services(3, 3, 60.0))
        with fleet.simulated(world):
            fleet.staffed(world, 12, over_s=30)
            world.run(5 * 60)
        return [(minute.requests, minute.kept, minute.most_polls) for minute in world.minutes]

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_each_backend_adds_a_target() -> None:
    """Who runs two for safety would pay twice, and not know why: the page warns, as long as it is so."""
    assert fleet.replicas(1, 1, minutes=20) == pytest.approx(1, rel=0.35)
    assert fleet.replicas(1, 2, minutes=20) == pytest.approx(2, rel=0.35)


def test_a_hundred_services_are_steered() -> None:
    """The page promises so many; one that is forgotten between two polls stays at the initial rate."""
    assert fleet.many_services(1, 100, minutes=15)["share"] > 0.9


# ---- The page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    return json.loads(scale.RECORD.read_text(encoding="utf-8"))


def test_the_page_says_what_the_results_say(record: dict[str, object]) -> None:
    """Somebody would buy machines by a figure that was edited by hand: `python benchmarks/scale.py docs` writes them."""
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page == scale_page.with_tables(page, record)
    assert scale_page.chart(record) == scale.CHART.read_text(encoding="utf-8")
    assert scale_page.results_page(record) == scale.RECORD.with_suffix(".md").read_text(encoding="utf-8")


def test_spans_weigh_what_the_page_says(record: dict[str, object]) -> None:
    """An attribute more on each span costs disks; the page would not tell. `python benchmarks/scale.py measure` weighs anew."""
    said = record["measured"]["weights"]  # type: ignore[index]
    weighed = scale.weights()
    assert set(said) == set(weighed)
    for wire, found in weighed.items():
        assert found["bytes"] == pytest.approx(said[wire]["bytes"], rel=0.01), wire
        assert found["gzip_bytes"] == pytest.approx(said[wire]["gzip_bytes"], rel=0.05), wire


def test_the_mix_is_what_instruments_make() -> None:
    """Sizes would be those of spans that nobody has."""
    spans = scale.mix(400)
    client, select, insert, server = spans[:4]
    kind = str(server.attributes["http.route"]).split(":")[1].rstrip(">")
    assert [server.name, client.name, select.name, insert.name] == [
        f"GET {server.attributes['http.route']}",
        "GET",
        f"SELECT {kind}s",
        f"INSERT {kind}_views",
    ]
    assert server.attributes.keys() >= {"http.route", "url.path", "client.address", "http.response.status_code"}
    assert client.attributes.keys() >= {"url.full", "server.address", "http.response.status_code"}
    assert select.attributes.keys() >= {"db.query.text", "db.namespace", "server.address"}
    roots = sum(not span.parent_id for span in spans)
    assert 10 <= roots <= 30


def test_sizing_by_hand(record: dict[str, object]) -> None:
    """A slip in a formula is a factor of ten in machines."""
    found = scale_page.sizes(record, 1000, "10 %")
    assert found["requests_per_s"] == 50_000
    assert found["spans_per_s"] == pytest.approx(50_000 * 4 * 0.1)
    weight = record["measured"]["weights"][scale_page.MAIN_WIRE]["bytes"]  # type: ignore[index]
    assert found["mbit_per_s"] == pytest.approx(20_000 * weight * 8 / 1e6)
    assert scale_page.sizes(record, 1000, scale_page.STEERED)["spans_per_s"] == pytest.approx(500 * 5 * 4)
