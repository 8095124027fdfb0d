"""The graph of services, and where its boxes and lines stand."""

from __future__ import annotations

import itertools
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from backend.conftest import Backend
from ui.conftest import Visitor, address, barriers, overflow

BOX = {"width": 100, "height": 40, "gapX": 80, "gapY": 20}
LAY_OUT = """async ([names, edges, box]) => {
    const { layOut } = await import('/ui/dependencies/layout.js');
    const started = performance.now();
    const plan = layOut(names, edges, box);
    return {
        ms: performance.now() - started, width: plan.width, height: plan.height, nodes: Object.fromEntries(plan.nodes),
        routes: edges.map((edge) => plan.routes.get(edge) ?? null),
    };
}"""


def edges_of(backend: Backend) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(backend.get("query", "/ui/data/dependencies")[1])["edges"]
    return found


def graph(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """``"a>b b>c"`` as names and edges."""
    edges = [dict(zip(("parent", "child"), pair.split(">"))) for pair in text.split()]
    return sorted({name for edge in edges for name in edge.values()}), edges


def test_the_graph_shows_calls_and_failures(visitor: Visitor, shop_backend: Backend) -> None:
    """One sees who calls whom, how often, and where it fails: in words as well as in colour, as a graph and as a table."""
    page = visitor.open(shop_backend, "/dependencies", ready="svg.graph")
    edges = edges_of(shop_backend)
    names = {name for edge in edges for name in (edge["parent"], edge["child"])}
    assert set(page.locator("a.node .node-name").all_text_contents()) == names
    expect(page.locator("tbody tr")).to_have_count(len(edges))
    failing = [edge for edge in edges if edge["errors"]]
    assert failing
    labels = page.locator("svg.graph .edge text").all_text_contents()
    assert sorted(int(label.split()[0].replace(",", "")) for label in labels) == sorted(edge["calls"] for edge in edges)
    assert sum("failed" in label for label in labels) == len(failing)
    worst = max(failing, key=lambda edge: edge["errors"])
    row = page.locator("tbody tr", has_text=worst["parent"]).filter(has_text=worst["child"])
    expect(row).to_contain_text(f"{worst['calls']:,}")


def test_callers_stand_to_the_left_of_whom_they_call(visitor: Visitor, shop_backend: Backend) -> None:
    """The graph is read from left to right."""
    page = visitor.open(shop_backend, "/dependencies", ready="svg.graph")
    left = page.evaluate("""() => Object.fromEntries([...document.querySelectorAll('a.node')].map(
        (node) => [node.querySelector('.node-name').textContent, node.getBoundingClientRect().left]))""")
    for edge in edges_of(shop_backend):
        assert left[edge["parent"]] < left[edge["child"]]


def test_pointing_at_a_service_fades_what_is_not_around_it(visitor: Visitor, shop_backend: Backend) -> None:
    """In a crowded graph one follows a single service, by mouse or by keyboard."""
    page = visitor.open(shop_backend, "/dependencies", ready="svg.graph", reduced_motion="reduce")
    page.locator("a.node", has_text="payments").focus()
    near = set(page.locator("a.node.near .node-name").all_text_contents())
    edges = edges_of(shop_backend)
    assert near == {name for edge in edges if "payments" in edge.values() for name in (edge["parent"], edge["child"])}
    opacity = "element => Number(getComputedStyle(element).opacity)"
    assert page.locator("a.node", has_text="recommender").evaluate(opacity) < 0.5
    assert page.locator("a.node", has_text="checkout").evaluate(opacity) == 1


def test_choosing_a_service_searches_its_traces(visitor: Visitor, shop_backend: Backend) -> None:
    """From "who is failing" to the traces that show why, in one step and in the same time."""
    page = visitor.open(shop_backend, "/dependencies?lookback=3h", ready="svg.graph")
    page.locator("a.node", has_text="payments").click()
    page.wait_for_url("**/?lookback=3h&service=payments")
    expect(page.locator(".result").first).to_be_visible()


def test_the_time_and_the_part_shown_are_in_the_address(visitor: Visitor, shop_backend: Backend) -> None:
    """A part of the graph can be sent as a link; an hour without calls says so."""
    page = visitor.open(shop_backend, "/dependencies", ready="svg.graph")
    page.get_by_label("Around").select_option("payments")
    expect(page.locator("a.node")).to_have_count(2)
    assert parse_qs(urlsplit(page.url).query) == {"around": ["payments"]}
    page.get_by_label("From the last").select_option("5m")
    assert parse_qs(urlsplit(page.url).query) == {"around": ["payments"], "lookback": ["5m"]}
    again = visitor.open(shop_backend, "/dependencies?around=payments", ready="svg.graph")
    expect(again.locator("a.node")).to_have_count(2)


def test_no_calls_are_explained(visitor: Visitor, own_backend: Backend) -> None:
    """An empty page would leave one guessing why calls are missing."""
    page = visitor.open(own_backend, "/dependencies")
    expect(page.get_by_text("No calls between services in this time")).to_be_visible()
    assert barriers(page) == []


def test_too_many_services_lead_to_a_choice(visitor: Visitor, shop_backend: Backend) -> None:
    """Hundreds of boxes are not drawn on top of each other; the table still has them, and a part can be chosen."""
    page = visitor.page()
    edges = [{"parent": f"s{number // 3}", "child": f"s{number + 1}", "calls": number + 1, "errors": 0} for number in range(300)]
    page.route("**/ui/data/dependencies?*", lambda route: route.fulfill(json={"edges": edges}))
    page.goto(address(shop_backend, "/dependencies"))
    expect(page.get_by_text("are too many to read at once")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(300)
    page.get_by_label("Around").select_option("s5")
    expect(page.locator("a.node")).to_have_count(5)
    assert overflow(page) == 0


@pytest.mark.parametrize(
    "text",
    [
        "a>b", "a>b b>a", "a>a", "a>b b>c c>a", "a>b b>c a>c", "a>b b>c c>d a>d d>b", "a>b c>d", "a>b a>c b>d c>d d>e e>b",
        " ".join(f"n{one}>n{(one * 7 + 3) % 30}" for one in range(30)),
        " ".join(f"n{one % 40}>n{(one * one + 11) % 40}" for one in range(120)),
    ],
)  # fmt: skip
def test_layout(visitor: Visitor, shop_backend: Backend, text: str) -> None:
    """Whatever calls whom, cycles and calls of oneself included: no two boxes touch, all is inside, lines join what they should."""
    page = visitor.open(shop_backend, "/sampling")
    names, edges = graph(text)
    plan = page.evaluate(LAY_OUT, [names, edges, BOX])
    places = list(plan["nodes"].values())
    assert len(places) == len(names)
    for number, one in enumerate(places):
        assert BOX["width"] / 2 - 0.01 <= one["x"] <= plan["width"] - BOX["width"] / 2 + 0.01
        assert BOX["height"] / 2 - 0.01 <= one["y"] <= plan["height"] - BOX["height"] / 2 + 0.01
        for other in places[:number]:
            apart_x, apart_y = abs(one["x"] - other["x"]), abs(one["y"] - other["y"])
            assert apart_x >= BOX["width"] or apart_y >= BOX["height"] + BOX["gapY"] - 0.01
    for edge, route in zip(edges, plan["routes"]):
        if edge["parent"] == edge["child"]:
            assert route is None
            continue
        assert route[0] == plan["nodes"][edge["parent"]]
        assert route[-1] == plan["nodes"][edge["child"]]
        steps = [later["x"] - earlier["x"] for earlier, later in itertools.pairwise(route)]
        assert all(step > 0 for step in steps) or all(step < 0 for step in steps)


def test_layout_crosses_lines_only_where_it_must(visitor: Visitor, shop_backend: Backend) -> None:
    """Two chains that have nothing to do with each other do not cross, in whatever order they come."""
    page = visitor.open(shop_backend, "/sampling")
    names, edges = graph("a>y b>x y>p x>q")
    nodes = page.evaluate(LAY_OUT, [names, edges, BOX])["nodes"]
    assert (nodes["a"]["y"] < nodes["b"]["y"]) == (nodes["y"]["y"] < nodes["x"]["y"]) == (nodes["p"]["y"] < nodes["q"]["y"])


def test_a_large_graph_is_laid_out_quickly(visitor: Visitor, shop_backend: Backend) -> None:
    """Two hundred services with six hundred calls do not freeze the page."""
    page = visitor.open(shop_backend, "/sampling")
    names, edges = graph(" ".join(f"s{one * 7919 % 200}>s{(one * 104729 + 13) % 200}" for one in range(600)))
    assert page.evaluate(LAY_OUT, [names, edges, BOX])["ms"] < 1500
