"""What the trace page computes, without the page: its pure modules in Chromium against plain computations here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser

from ui import traces
from ui.site import Site, serve
from ui.traces import Builder, Trace, reference

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(chromium: Browser) -> Iterator[Run]:
    """Calls ``script`` (the body of a function of ``t``, the modules' exports, and ``x``) in a page of its own."""
    with serve(Site()) as site:
        page = chromium.new_page()
        page.goto(f"{site.url}/empty")
        page.evaluate("""async () => {
          const names = ["model", "critical", "rows", "search", "paths", "figures", "words", "difference", "zoom",
            "values", "../compare/picker"];
          window.t = Object.assign({}, ...await Promise.all(names.map((name) => import(`/ui/trace/${name}.js`))));
        }""")
        yield lambda script, argument=None: page.evaluate(f"(x) => {{ const t = window.t; {script} }}", argument)
        page.close()


def columns(run: Run, trace: Trace) -> dict[str, Any]:
    """The columns that tests look at, as lists."""
    return run(
        """const trace = t.buildTrace(x);
        const names = ["parent", "depth", "size", "start", "duration", "self", "error", "errorsInside", "remote",
          "operation", "key"];
        const {orphans, problems, count} = trace;
        const lists = Object.fromEntries(names.map((name) => [name, Array.from(trace[name])]));
        return {...lists, orphans, problems, count};""",
        trace,
    )


def children_by_parent(trace: Trace) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for span in trace["spans"]:
        parent = span["references"][0]["spanID"] if span["references"] else ""
        found[parent].append(span)
    return found


def time_alone(span: dict[str, Any], children: list[dict[str, Any]]) -> int:
    """A span's self time, by counting microseconds."""
    busy = {at for child in children for at in range(child["startTime"], child["startTime"] + child["duration"])}
    return sum(at not in busy for at in range(span["startTime"], span["startTime"] + span["duration"]))


def small_times(trace: Trace) -> Trace:
    for span in trace["spans"]:
        span["startTime"], span["duration"] = span["startTime"] // 1000, span["duration"] // 1000
    return trace


def test_every_span_stands_once_below_its_parent_with_its_own_time(run: Run) -> None:
    """A span below the wrong parent, or a self time that is not its own, sends somebody after the wrong service."""
    trace = small_times(traces.wide(400, seed=11))
    found = columns(run, trace)
    children = children_by_parent(trace)
    by_id = {span["spanID"]: span for span in trace["spans"]}
    assert sorted(found["key"]) == sorted(by_id)
    for node, key in enumerate(found["key"]):
        parent = found["parent"][node]
        references = by_id[key]["references"]
        assert [found["key"][parent]] == [one["spanID"] for one in references] if references else parent == -1
        assert found["self"][node] == time_alone(by_id[key], children[key]), key
        descendants = found["key"][node + 1 : node + found["size"][node]]
        assert all(found["depth"][found["key"].index(one)] > found["depth"][node] for one in descendants)
        errors = [one for one in descendants if {"key": "error", "type": "bool", "value": True} in by_id[one]["tags"]]
        assert found["errorsInside"][node] == len(errors)
    starts = [found["start"][node] for node in range(400) if found["parent"][node] == 0]
    assert starts == sorted(starts)


def test_the_critical_path_explains_each_moment_once(run: Run) -> None:
    """What is drawn as critical is what the end was waiting for: it covers the trace from start to end, once."""
    trace = traces.wide(500, seed=5)
    sections = run("const trace = t.buildTrace(x); return [...t.criticalPath(trace).values()].flatMap((one) => "
                   "one.flatMap((from, at) => at % 2 ? [] : [[from, one[at + 1]]]));", trace)  # fmt: skip
    sections.sort()
    assert sections[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(sections))
    assert sections[-1][1] == trace["spans"][0]["duration"]


def test_the_critical_path_is_the_last_finishers(run: Run) -> None:
    """Of calls at once, the one that ended last is on the path; what merely follows another is not waited for."""
    to = Builder("1")
    root = to.span("a", "root", 0, 100)
    to.span("a", "fast", 10, 20, root)
    to.span("a", "slow", 10, 50, root)
    to.span("a", "last", 70, 20, root)
    to.span("a", "background", 75, 200, root)
    to.trace["spans"][-1]["references"][0]["refType"] = "FOLLOWS_FROM"
    path = run(
        """const trace = t.buildTrace(x);
        return [...t.criticalPath(trace)].map(([node, one]) => [trace.operation[node], one]);""",
        to.trace,
    )
    assert dict(path) == {"root": [90, 100, 60, 70, 0, 10], "slow": [10, 60], "last": [70, 90]}


def test_spans_without_their_parent_stand_below_a_row_that_says_so(run: Run) -> None:
    """A gap in a trace is shown as a gap: not as a root, and not left out."""
    found = columns(run, traces.orphaned())
    assert found["orphans"] == 3
    assert [key.removeprefix("0" * 15) for key in found["key"]] == ["1", "2", "missing:f1", "3", "4", "missing:f2", "5"]
    assert [found["parent"][at] for at in (3, 4, 6)] == [2, 2, 5]
    assert (found["start"][2], found["duration"][2], found["self"][2]) == (4_000, 13_000, 0)
    assert found["count"] == 5


def test_broken_references_lose_no_span(run: Run) -> None:
    """A trace with circles, ids that occur twice or nothing at all in its fields opens all the same."""
    found = columns(run, traces.circle())
    assert sorted(found["operation"]) == ["one", "two"]
    assert found["problems"] == ["Some spans name each other as parent; the earliest of them is shown as a root."]

    to = Builder("2")
    root = to.span("a", "root", 0, 10)
    to.span("a", "twin", 1, 2, root, span_id="aa")
    to.span("a", "twin", 4, 2, root, span_id="00aa")
    to.span("a", "own parent", 6, 2, "bb", span_id="bb")
    found = columns(run, to.trace)
    assert len(set(found["key"])) == 4
    assert found["problems"] == ["1 of the spans have an id that another span has as well."]
    assert found["parent"] == [-1, 0, 0, -1]

    hostile = columns(run, traces.hostile())
    assert hostile["count"] == 5
    assert max(hostile["start"]) < 10_000
    for nothing in (None, {}, {"spans": None}, {"spans": [None, 3]}):
        assert columns(run, nothing)["count"] == 0


def test_a_chain_of_fifty_thousand_spans_is_no_problem(run: Run) -> None:
    """A run-away recursion in a traced program must not become one in the page."""
    script = """
    const parent = (at) => at ? [{refType: "CHILD_OF", traceID: "1", spanID: at.toString(16)}] : [];
    const spans = Array.from({length: 50000}, (_, at) => ({
      traceID: "1", spanID: (at + 1).toString(16), operationName: "f", startTime: at,
      duration: 100000 - 2 * at, references: parent(at), processID: "p"}));
    const trace = t.buildTrace({traceID: "1", spans, processes: {p: {serviceName: "a"}}});
    return [trace.depthMost, t.criticalPath(trace).size, t.pathTree(trace).length, t.difference(trace, trace).length,
      t.visibleRows(trace, {collapsed: new Set(), unfolded: new Set(), fold: true, shown: null}).length];"""
    assert run(script) == [49_999, 50_000, 50_001, 50_000, 50_000]


def test_ids_of_two_lengths_are_the_same_ids(run: Run) -> None:
    """Jaeger writes ids with and without leading zeros, in upper and lower case."""
    to = Builder("00ab")
    root = to.span("a", "root", 0, 10, span_id="00000000000000AA")
    to.span("a", "child", 1, 2, root)
    to.trace["spans"][1]["references"] = [reference("AB", "aa")]
    assert columns(run, to.trace)["parent"] == [-1, 0]


def test_a_call_of_another_service_is_seen_as_one(run: Run) -> None:
    """The time on the wire is the difference between a client's span and its server's, so the two have to be paired."""
    found = columns(run, traces.checkout())
    pairs = {found["operation"][node]: found["operation"][one] for node, one in enumerate(found["remote"]) if one >= 0}
    assert pairs["GET"] == "GET /items"
    assert pairs["reserve"] == "POST /reservations"


ROWS = """
const trace = t.buildTrace(x.trace);
const at = (name) => trace.operation.indexOf(name);
const nodes = (names) => new Set((names ?? []).map(at));
const rows = t.visibleRows(trace, {collapsed: nodes(x.collapsed), unfolded: nodes(x.unfolded), fold: x.fold ?? true,
  shown: null});
return rows.map((row) => [trace.operation[row.node], row.last - row.node + 1, row.level, row.place, row.of]);
"""


def test_like_siblings_are_folded_and_counted(run: Run) -> None:
    """214 equal queries take one row, and a screen reader is told the truth about how many rows there are beside it."""
    to = Builder("3")
    root = to.span("a", "root", 0, 1000)
    to.span("a", "first", 0, 5, root)
    for number in range(6):
        to.span("a", "query", 10 + 10 * number, 8, root)
    last = to.span("a", "last", 100, 50, root)
    for number in range(3):
        to.span("a", "few", 110 + number, 1, last)
    folded = run(ROWS, {"trace": to.trace})
    assert folded == [["root", 1, 1, 1, 1], ["first", 1, 2, 1, 3], ["query", 6, 2, 2, 3], ["last", 1, 2, 3, 3],
                      ["few", 1, 3, 1, 3], ["few", 1, 3, 2, 3], ["few", 1, 3, 3, 3]]  # fmt: skip
    assert len(run(ROWS, {"trace": to.trace, "fold": False})) == 12
    assert len(run(ROWS, {"trace": to.trace, "unfolded": ["query"]})) == 12
    assert run(ROWS, {"trace": to.trace, "collapsed": ["last"]})[-1] == ["last", 1, 2, 3, 3]
    assert run(ROWS, {"trace": to.trace, "collapsed": ["root"]}) == [["root", 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("find", "expected"),
    [
        ("", 26),
        ("reserv", 3),
        ("RESERVE", 2),
        ("service=cart", 2),
        ("sku=A-1", 3),
        ("sku=A-11", 1),
        ("timeouterror", 1),
        ("db.query.text=prices", 12),
        ("select -price", 1),
        ("-service=checkout", 9),
        ('"post /orders"', 1),
        ("kind=producer", 1),
        ("7", 3),
        ("0000000000000007 -storefront", 1),
        ("0000000000000007 -reserve", 0),
        ("storefront get", 1),
        ("cart = $1", 1),
        ('"cart = $1"', 1),
        ("no such thing", 0),
        ("(((", 0),
        ('"', 26),
        ("http.response.status_code=201", 1),
        ("attempt=2", 1),
    ],
)
def test_the_search_finds_what_it_says(run: Run, find: str, expected: int) -> None:
    """Words anywhere in a span, a tag's value, a negation, a phrase, an id; what looks like a pattern is just text."""
    script = """const trace = t.buildTrace(x.trace);
    const {count, matches} = t.findMatches(trace, {find: x.find});
    return [count, [...matches].flatMap((one, node) => one ? [`${trace.operation[node]} ${trace.key[node]}`] : [])];"""
    found = run(script, {"trace": traces.checkout(), "find": find})
    assert found[0] == expected, found[1]


def test_filters_add_up_and_the_way_to_a_match_stays(run: Run) -> None:
    """With the rest hidden, a match still stands below what called it."""
    script = """
    const trace = t.buildTrace(x);
    const path = t.criticalPath(trace);
    const names = (matches) => [...matches].flatMap((one, node) => one ? [trace.operation[node]] : []);
    const errors = t.findMatches(trace, {errors: true});
    return {errors: names(errors.matches), shown: names(t.withAncestors(trace, errors.matches)),
      longer: t.findMatches(trace, {longerUs: 140000}).count,
      critical: t.findMatches(trace, {critical: path}).count === path.size,
      none: t.findMatches(trace, {errors: true, longerUs: 1e9}).count,
      next: [[errors.matches, -1], [errors.matches, 25], [new Uint8Array(3), 0]].map((one) => t.nextMatch(...one, 1)),
    };"""
    found = run(script, traces.checkout())
    assert found["errors"] == ["reserve"]
    assert found["shown"] == ["POST /checkout", "POST", "POST /orders", "reserve"]
    assert (found["longer"], found["critical"], found["none"]) == (6, True, 0)
    assert found["next"][0] == found["next"][1] >= 0 > found["next"][2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10ms", 10_000),
        ("1.5 s", 1_500_000),
        ("250us", 250),
        ("250µs", 250),
        ("2m", 120_000_000),
        ("3", 3_000),
        (".5ms", 500),
        ("", None),
        ("fast", None),
        ("1e3", None),
        ("-1ms", None),
    ],
)
def test_durations_are_read_as_people_write_them(run: Run, text: str, expected: float | None) -> None:
    """A filter that takes what it cannot read for zero would hide nothing and say nothing."""
    assert run("return t.parseDuration(x);", text) == expected


def test_figures_are_the_figures(run: Run) -> None:
    """Counts, sums, averages, extremes and the 95th percentile of each operation, and shares that make a whole."""
    trace = traces.wide(1500, seed=9)
    groups = run("return t.figuresBy(t.buildTrace(x), 'both');", trace)
    by_name = defaultdict(list)
    for span in trace["spans"]:
        by_name[trace["processes"][span["processID"]]["serviceName"], span["operationName"]].append(span["duration"])
    assert {(group["service"], group["operation"]) for group in groups} == set(by_name)
    for group in groups:
        durations = sorted(by_name[group["service"], group["operation"]])
        assert group["count"] == len(durations)
        assert (group["total"], group["min"], group["max"]) == (sum(durations), durations[0], durations[-1])
        assert group["avg"] == pytest.approx(statistics.mean(durations))
        assert group["p95"] == durations[-(-len(durations) * 95 // 100) - 1]
    assert sum(group["share"] for group in groups) == pytest.approx(1)
    assert run("return [1, 19, 20, 21, 100].map((n) => t.quantile(Array.from({length: n}, (_, at) => at + 1), 0.95));") == [
        1, 19, 19, 20, 95,
    ]  # fmt: skip
    by_service = run("return t.figuresBy(t.buildTrace(x), 'service');", trace)
    assert sum(group["count"] for group in by_service) == 1500
    assert len(by_service) == 8


def test_boxes_of_the_flame_graph_fit_into_their_parents(run: Run) -> None:
    """A child that is wider than its parent, or covers its sibling, shows time that nobody spent."""
    script = """const trace = t.buildTrace(x); const paths = t.pathTree(trace);
    return {paths: paths.map(({children, ...one}) => one), frames: t.flameFrames(paths, 0, 0)};"""
    found = run(script, traces.wide(800, seed=2))
    paths, frames = found["paths"], {frame["path"]: frame for frame in found["frames"]}
    assert len(frames) == len(paths)
    inside = defaultdict(list)
    for number, frame in frames.items():
        if number:
            inside[paths[number]["parent"]].append(frame)
    for parent, boxes in inside.items():
        boxes.sort(key=lambda box: box["left"])
        right = frames[parent]["left"]
        for box in boxes:
            assert box["left"] >= right - 1e-9
            right = box["left"] + box["width"]
        assert right <= frames[parent]["left"] + frames[parent]["width"] + 1e-9
    assert paths[0]["weightUs"] == sum(path["selfUs"] for path in paths)


def test_two_traces_are_matched_by_their_paths(run: Run) -> None:
    """The comparison says what is new, gone, called more often, slower or faster; and that equal traces are equal."""
    script = """return t.difference(t.buildTrace(x[0]), t.buildTrace(x[1])).map((one) =>
      [one.operation, one.sign, one.a?.count ?? 0, one.b?.count ?? 0, one.deltaUs]);"""
    before, after = (
        traces.checkout(),
        traces.checkout(traces.CHECKOUT_AFTER_ID, prices=30, slower_bank=50_000, mail=False),
    )
    next(span for span in after["spans"] if span["operationName"] == "SELECT items")["duration"] = 9_000
    cart = next(span for span in after["spans"] if span["operationName"] == "GET /items")
    cart["operationName"] = "GET /items/all"
    found = {name: rest for name, *rest in run(script, [before, after])}
    assert found["POST api.bank.example"] == ["slower", 1, 1, 50_000]
    assert found["SELECT price"][:3] == ["calls", 12, 30]
    assert found["send receipt"] == ["removed", 1, 0, -2_000]
    assert (found["GET /items"][0], found["GET /items/all"][0]) == ("removed", "added")
    assert found["reserve"][0] == "same"
    assert {sign for _, sign, *_ in run(script, [before, before])} == {"same"}


def test_the_window_of_time_stays_within_the_trace(run: Run) -> None:
    """Zooming and moving on and on must end at the edges, not beyond them or at nothing."""
    script = """
    let seenNow = [0, 1000];
    const seen = [];
    for (const [factor, around, part] of x) {
      seenNow = t.panned(t.zoomed(seenNow, factor, around, 1000), part, 1000);
      seen.push(seenNow);
    }
    return seen;"""
    steps = [(0.5, 500, 0), (0.01, 500, 3), (0.0001, 999, 1), (1e6, 0, 0), (0.3, 0, -5), (0.3, 1000, 9)]
    for start, end in run(script, steps):
        assert 0 <= start < end <= 1000
    assert run("return t.zoomed([0, 1000], 0.5, 250, 1000);") == [125, 625]
    assert run("return t.clampWindow(5, 5, 0);") == [0, 1]
    assert run("return t.ticks([0, 1000], 5);") == [0, 200, 400, 600, 800, 1000]


def test_a_hint_is_given_only_for_calls_one_after_the_other(run: Run) -> None:
    """Queries that run at once are no N+1, and code that calls nobody gets no hint."""
    script = "const trace = t.buildTrace(x); return t.hintAbout(trace, 1, trace.size.length - 1);"

    def hint(step: int, **options: Any) -> str:
        to = Builder("4")
        root = to.span("a", "root", 0, 1000)
        for number in range(5):
            to.span("a", "call", step * number, 10, root, **options)
        return run(script, to.trace)

    query = {"kind": "client", "tags": {"db.system.name": "postgresql"}}
    assert hint(20, **query).startswith("N+1 queries?")
    assert hint(5, **query) == ""
    assert hint(20, kind="client").startswith("Calls one after the other")
    assert hint(20) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://localhost:8080", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://a b", False),
        ("see https://example.org", False),
        ("ftp://example.org/x", False),
        ("https://", False),
        (" https://example.org", False),
    ],
)
def test_only_whole_web_addresses_become_links(run: Run, text: str, expected: bool) -> None:
    """A tag's value that is a script address must stay text."""
    assert run("return t.isAddress(x);", text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5AF7183F", "5af7183f"),
        ("  5af7 ", "5af7"),
        ("http://localhost:16686/trace/5af7183f?view=flame#x", "5af7183f"),
        ("/trace/abc/", "abc"),
        ("not an id", ""),
        ("", ""),
        ("5af7" * 9, ""),
        ("https://example.org/other/5af7", ""),
    ],
)
def test_an_id_is_found_in_what_was_pasted(run: Run, text: str, expected: str) -> None:
    """People paste addresses from other tabs into the field for an id."""
    assert run("return t.idIn(x);", text) == expected


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"param": 0.1}, "within an overhead budget, whose rate was 0.1 then: about 10 such requests happened"),
        ({"param": 1.0}, "within an overhead budget, whose rate was 1 then: each such request is here."),
        ({"param": 1.0, "reason": "error"}, "beyond the rate of an overhead budget: its request failed."),
        ({"param": 1.0, "reason": "slow"}, "its request took unusually long. It stands for itself"),
    ],
)
def test_why_a_budget_kept_a_trace(run: Run, tags: dict[str, Any], sentence: str) -> None:
    """A request that was kept because it failed would seem to stand for many, or for all."""
    told = {"sampler.type": "budget", **{f"sampler.{name}": value for name, value in tags.items()}}
    listed = [{"key": key, "value": value} for key, value in told.items()]
    assert sentence in run("return t.whySampled(x);", listed)
