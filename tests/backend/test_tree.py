"""The tree that the demo prints: complete, aligned and harmless whatever the spans hold."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.backend.query.tree import duration_text, render
from autoinstr.model import Kind, Resource, SpanData, Status

MS = 10**6


def span(name: str, span_id: int, parent_id: int = 0, start_ms: float = 0, end_ms: float = 10, **more) -> SpanData:
    times = {"start_ns": round(start_ms * MS), "end_ns": round(end_ms * MS)}
    return SpanData(name, 0xABC, span_id, parent_id, **times, **more)


SHOP, STOCK = Resource("shop"), Resource("stock")
PURCHASE = [
    # In the order in which processes report them: not that of the tree.
    (STOCK, span("GET /stock/{item}", 3, 2, 2, 4, kind=Kind.SERVER, attributes={"http.response.status_code": 200})),
    (SHOP, span("POST", 4, 1, 6, 9, kind=Kind.CLIENT, status=Status.ERROR, attributes={"http.status_code": 402})),
    (SHOP, span("GET", 2, 1, 1, 5, kind=Kind.CLIENT, attributes={"http.url": "http://stock/stock/cup"})),
    (SHOP, span("GET /buy/<item>", 1, 0, 0, 10, kind=Kind.SERVER)),
]


def test_the_whole_picture() -> None:
    """What a reader of the README sees: who called whom, when, how long, and what failed."""
    assert render(PURCHASE, width=120) == (
        "trace 0000000000000abc  4 spans  2 services  10.0 ms  1 error\n"
        "shop  GET /buy/<item>            10.0 ms  ████████████████████████\n"
        "├─ shop  GET                     4.00 ms  ··██████████············  http://stock/stock/cup\n"
        "│  └─ stock  GET /stock/{item}   2.00 ms  ····██████··············  200\n"
        "└─ shop  POST                    3.00 ms  ··············████████··  ERROR  402\n"
    )


def test_colours_only_add_escape_sequences() -> None:
    """Without colours (a file, a pipe) the same text must come out."""
    coloured = render(PURCHASE, width=120, colour=True)
    assert "\x1b[31mERROR  402\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == render(PURCHASE, width=120)
    assert "\x1b" not in render(PURCHASE, width=120)


def test_nothing_for_no_spans() -> None:
    """Asking for an empty trace is no error."""
    assert render([]) == ""


def test_spans_without_their_parent_are_shown_as_roots() -> None:
    """A trace is often looked at before all of it has come."""
    lines = render([(SHOP, span("a", 1)), (SHOP, span("lost", 9, 7, 5))]).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["a", "lost"]


def test_loops_and_doubled_ids_neither_hang_nor_hide_spans() -> None:
    """Zipkin's clients and servers share ids, and a broken client may send anything."""
    entries = [
        (SHOP, span("a", 1, 2)),
        (SHOP, span("b", 2, 1)),
        (SHOP, span("self", 3, 3)),
        (STOCK, span("twin", 3, 2)),
    ]
    lines = render(entries).splitlines()
    assert sorted(re.findall(r"(?:shop|stock)  (\w+)", "\n".join(lines))) == ["a", "b", "self", "twin"]


def test_a_very_long_chain() -> None:
    """Recursion in the traced program must not become recursion here, and names stay in sight."""
    entries = [(SHOP, span(f"n{number}", number, number - 1)) for number in range(1, 5001)]
    text = render(entries, width=100)
    assert text.count("\n") == 5001
    assert len(text) < 5001 * 120


def test_escape_sequences_of_strangers_do_not_reach_the_terminal() -> None:
    """A URL is chosen by whoever calls the service; it must not move the reader's cursor or forge lines."""
    nasty = "GET \x1b[2J\n\r\x07\u202e"
    attributes = {"url.full": nasty}
    text = render([(Resource(f"s{nasty}"), span(nasty, 1, attributes=attributes, status_message=nasty))])
    assert text.count("\n") == 2
    assert not set("\x1b\r\x07\u202e") & set(text)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_lines_keep_to_the_width(width: int) -> None:
    """Wrapped lines would break the picture."""
    long = "x" * 300
    entries = [(Resource(long), span(long, 1)), (SHOP, span(long, 2, 1, attributes={"url.full": long}))]
    lines = render(entries, width=width).splitlines()[1:]
    assert [len(line) <= width for line in lines] == [True, True]
    assert len(lines[1]) == width


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0.00 µs"),
        (850_000, "850 µs"),
        (999_999, "1000 µs"),
        (12_345_678, "12.3 ms"),
        (9_996_000, "10.0 ms"),
        (1_200_000_000, "1.20 s"),
        (3_600_000_000_000, "3600 s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    """Three digits with a unit that fits: readable at a glance, and never wider than the column."""
    assert duration_text(nanoseconds) == text


ids = st.integers(0, 6)
any_span = st.builds(
    lambda name, span_id, parent_id, start_ns, end_ns: SpanData(
        name, 1, span_id, parent_id, start_ns=start_ns, end_ns=end_ns
    ),
    st.text(max_size=5),
    ids,
    ids,
    st.integers(0, 2**64),
    st.integers(0, 2**64),
)


@given(st.lists(st.tuples(st.sampled_from([SHOP, STOCK]), any_span), min_size=1, max_size=12))
def test_every_span_has_its_line(entries) -> None:
    """Whatever the parents, ids and times: nothing raises, nothing is left out or shown twice."""
    assert render(entries).count("\n") == len(entries) + 1
