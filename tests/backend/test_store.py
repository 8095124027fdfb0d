"""What a store finds and how much it keeps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from autoinstr.backend.store import MemoryStore, TraceQuery
from autoinstr.model import Batch, Event, Kind, Resource, SpanData, Status

SHOP = Resource("shop", {"hostname": "web-1", "shards": 3})


def span(name: str = "GET", trace_id: int = 1, span_id: int = 1, start_ns: int = 0, **more) -> SpanData:
    return SpanData(name, trace_id, span_id, start_ns=start_ns, end_ns=start_ns + 100, **more)


def store_of(*spans: SpanData, resource: Resource = SHOP, max_spans: int = 1000) -> MemoryStore:
    store = MemoryStore(max_spans)
    for each in spans:
        store.write(Batch(resource, [each]))
    return store


def found(store: MemoryStore, **conditions) -> list[int]:
    return [trace[0][1].trace_id for trace in store.find(TraceQuery(**conditions))]


def test_a_trace_comes_together_from_pieces_in_any_order() -> None:
    """Each process reports its own part whenever it likes."""
    store = store_of(span(trace_id=1), span(trace_id=2), span(trace_id=1, span_id=2))
    assert [entry.span_id for _, entry in store.trace(1)] == [1, 2]
    assert store.trace(3) == []


def test_the_oldest_traces_make_room() -> None:
    """The backend runs for days; its memory must not grow, and what is new must be there."""
    store = store_of(*(span(f"op{n}", trace_id=n) for n in range(1, 11)), max_spans=3)
    assert [n for n in range(1, 11) if store.trace(n)] == [8, 9, 10]
    assert store.figures() == {"store_spans": 3, "store_traces": 3, "store_evicted_spans_total": 7}
    assert store.operations("shop") == [("op10", Kind.INTERNAL), ("op8", Kind.INTERNAL), ("op9", Kind.INTERNAL)]


def test_one_endless_trace_is_bounded_too() -> None:
    """A loop that never ends its trace must not fill the memory."""
    store = store_of(*(span(trace_id=1, span_id=n) for n in range(1, 101)), max_spans=10)
    assert 1 <= len(store.trace(1)) <= 10
    assert store.figures()["store_spans"] == len(store.trace(1))


def test_a_service_is_forgotten_with_its_last_span() -> None:
    """Otherwise names that vary would fill the memory, and the UI's list would offer what cannot be found."""
    store = store_of(span(trace_id=1), max_spans=1)
    store.write(Batch(Resource("stock"), [span(trace_id=2)]))
    assert store.services() == ["stock"]
    assert store.operations("shop") == []


def test_results_do_not_change_afterwards() -> None:
    """A trace that is being encoded must not grow under the encoder."""
    store = store_of(span())
    before, (searched,) = store.trace(1), store.find(TraceQuery())
    store.write(Batch(SHOP, [span(span_id=2)]))
    assert (len(before), len(searched), len(store.trace(1))) == (1, 1, 2)


def test_newest_first_and_limited() -> None:
    """By the start of the first span, not by arrival."""
    store = store_of(span(trace_id=1, start_ns=300), span(trace_id=2, start_ns=100), span(trace_id=3, start_ns=200))
    assert found(store) == [1, 3, 2]
    assert found(store, limit=2) == [1, 3]


def test_all_conditions_must_hold_for_one_and_the_same_span() -> None:
    """Jaeger's rule: a slow span and an erroneous span elsewhere in the trace are no "slow error"."""
    store = store_of(span("a", attributes={"x": "1"}), span("b", span_id=2))
    assert found(store, operation="a", tags={"x": "1"}) == [1]
    assert found(store, operation="b", tags={"x": "1"}) == []
    assert found(store, tags={"x": "1", "y": "2"}) == []


@pytest.mark.parametrize(
    ("conditions", "is_found"),
    [
        ({"service": "shop"}, True),
        ({"service": "sho"}, False),
        ({"operation": "GET"}, True),
        ({"operation": "get"}, False),
        ({"start_ns": 1000, "end_ns": 1000}, True),
        ({"start_ns": 1001}, False),
        ({"end_ns": 999}, False),
        ({"min_duration_ns": 100, "max_duration_ns": 100}, True),
        ({"min_duration_ns": 101}, False),
        ({"max_duration_ns": 99}, False),
    ],
)
def test_conditions(conditions: dict, is_found: bool) -> None:
    """Bounds are inclusive, names exact, as in Jaeger."""
    assert bool(found(store_of(span(start_ns=1000)), **conditions)) is is_found


@pytest.mark.parametrize(
    ("key", "text", "is_found"),
    [
        ("http.status_code", "404", True),
        ("http.status_code", "40", False),
        ("cache", "true", True),
        ("cache", "True", False),
        ("ratio", "0.5", True),
        ("third", "0.3333333333", True),
        ("raw", "00ff", True),
        ("list", '["a","b"]', True),
        ("hostname", "web-1", True),
        ("shards", "3", True),
        ("event", "retry", True),
        ("attempt", "2", True),
        ("span.kind", "server", True),
        ("error", "true", True),
        ("error", "false", False),
        ("absent", "", False),
    ],
)
def test_tags_are_searched_as_text_on_span_process_and_logs(key: str, text: str, is_found: bool) -> None:
    """What the UI shows can be searched for in the form in which Jaeger's users type it."""
    attributes = {
        "http.status_code": 404,
        "cache": True,
        "ratio": 0.5,
        "third": 1 / 3,
        "raw": b"\x00\xff",
        "list": ["a", "b"],
    }
    events = [Event("retry", 0, {"attempt": 2})]
    store = store_of(span(kind=Kind.SERVER, status=Status.ERROR, attributes=attributes, events=events))
    assert bool(found(store, tags={key: text})) is is_found


def test_error_false_finds_what_has_no_error() -> None:
    """Nobody writes error=false on a span, and still it is what users type."""
    store = store_of(span(trace_id=1), span(trace_id=2, status=Status.ERROR))
    assert found(store, tags={"error": "false"}) == [1]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns so often that what is not guarded is caught in the middle."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_writers_and_readers_at_once() -> None:
    """Datagrams, requests and queries come at the same time, on threads of their own."""
    store = MemoryStore(500)
    finished: list[str] = []

    def write(base: int) -> None:
        for number in range(1, 2000):
            store.write(Batch(SHOP, [span(f"op{number % 50}", trace_id=base + number)]))

    def read() -> None:
        while any(writer.is_alive() for writer in writers):
            store.find(TraceQuery(tags={"x": "y"}))
            store.operations("shop")
        finished.append("reader")

    writers = [threading.Thread(target=write, args=(base,)) for base in (0, 10_000)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in (*writers, reader):
        thread.join(timeout=60)
    assert finished == ["reader"]
    assert store.figures()["store_spans"] == 500
    assert store.figures()["store_evicted_spans_total"] == 2 * 1999 - 500
