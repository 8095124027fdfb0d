"""The store in memory, and the values that all stores share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from autoinstr.backend.store import (
    BUCKETS_PER_OCTAVE,
    MemoryStore,
    StoreError,
    TraceQuery,
    bucket_bound_ns,
    bucket_of,
)

from .contract_store import StoreContract
from .spans import NOW_NS, SHOP, a_span, found, span_ids, write, write_each


class TestMemoryStore(StoreContract):
    """Everything that a store has to do."""

    FLOOD = 300

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(200_000)

    @pytest.fixture
    def small_store(self) -> MemoryStore:
        return MemoryStore(500)


def test_it_never_holds_more_than_it_was_told_to() -> None:
    """The memory of a laptop is shared with the service that is being debugged."""
    store = MemoryStore(3)
    write_each(store, *(a_span(f"op{n}", trace_id=n) for n in range(1, 11)))
    assert [n for n in range(1, 11) if store.trace(n)] == [8, 9, 10]
    figures = store.figures()
    assert (figures["store_spans"], figures["store_traces"], figures["store_evicted_spans_total"]) == (3, 3, 7)


def test_one_endless_trace_is_bounded_too() -> None:
    """A loop that never ends its trace must not fill the memory."""
    store = MemoryStore(10)
    write_each(store, *(a_span(trace_id=1, span_id=n) for n in range(1, 101)))
    assert 1 <= len(store.trace(1)) <= 10
    assert store.figures()["store_spans"] == len(store.trace(1))


def test_what_is_too_old_goes() -> None:
    """Somebody who asks for a day of traces does not want last week's, even if there is room."""
    now_s = 1000.0
    store = MemoryStore(1000, max_age_s=60, clock=lambda: now_s)
    write(store, a_span(trace_id=1))
    now_s += 50
    write(store, a_span(trace_id=2))
    assert found(store) == [1, 2]
    now_s += 11
    write(store, a_span(trace_id=3))
    assert sorted(found(store)) == [2, 3]
    assert store.evicted() == {"shop": 1}


def test_the_memory_it_says_it_takes_is_given_back() -> None:
    """The status page would otherwise show a store that grows although it does not."""
    store = MemoryStore(1)
    write(store, a_span(trace_id=1, attributes={"text": "x" * 1000}))
    assert store.figures()["store_bytes"] > 1000
    write(store, a_span(trace_id=2))
    assert store.figures()["store_bytes"] < 1000


def test_the_archive_is_bounded_too() -> None:
    """Archiving is open to whoever sees the interface; it must not be a way to fill the memory."""
    store = MemoryStore(2)
    for trace_id in (1, 2):
        write(store, a_span(trace_id=trace_id))
        assert store.archive(trace_id)
    write(store, a_span(trace_id=3))
    with pytest.raises(StoreError, match="archive is full"):
        store.archive(3)
    assert store.archive(2)


def test_buckets_hold_what_they_say() -> None:
    """Quantiles that are drawn from histograms are wrong by no more than a bucket."""
    for duration_ns in (-1, 0, 1, 999, 1000, 1001, 1189, 1190, 2000, 2001, 10**6, 10**9 + 1, 86_400 * 10**9):
        bucket = bucket_of(duration_ns)
        assert duration_ns <= bucket_bound_ns(bucket)
        assert bucket == 0 or duration_ns > bucket_bound_ns(bucket - 1)
    assert bucket_of(2**40 * 1000) == 40 * BUCKETS_PER_OCTAVE
    assert bucket_of(10**40) >= bucket_of(2**63)


def test_a_clock_that_was_set_back_hides_no_span() -> None:
    """A span that ended before it began lasted no time; it is found by a search that asks for no duration."""
    store = MemoryStore(10)
    write(store, a_span(lasts_ns=-5))
    assert found(store) == [1]
    assert found(store, min_duration_ns=1) == []


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns so often that what is not guarded is caught in the middle."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_writers_and_readers_at_once() -> None:
    """Even if several wrote: the counts have to be right."""
    store = MemoryStore(500)
    finished: list[str] = []

    def run(base: int) -> None:
        for number in range(1, 2000):
            write(store, a_span(f"op{number % 50}", trace_id=base + number, start_ns=NOW_NS))

    def read() -> None:
        while any(writer.is_alive() for writer in writers):
            store.find(TraceQuery(tags={"x": "y"}))
            store.operations(SHOP.service_name)
        finished.append("reader")

    writers = [threading.Thread(target=run, args=(base,)) for base in (0, 10_000)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in (*writers, reader):
        thread.join(timeout=60)
    assert finished == ["reader"]
    assert store.figures()["store_spans"] == 500
    assert store.figures()["store_evicted_spans_total"] == 2 * 1999 - 500
    assert span_ids(store.trace(1)) == []
