"""The queue before the store, and its thread, with real threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from autoinstr.backend.parts import Full
from autoinstr.backend.receive.writer import SPANS_AT_ONCE, NotStored, QueueWriter
from autoinstr.model import Batch, Resource, SpanData
from autoinstr.wire import DecodeError

from .conftest import DEADLINE_S, poll


def batch(spans: int = 1, name: str = "span") -> Batch:
    return Batch(Resource("service"), [SpanData(name, 1, number + 1) for number in range(spans)])


class Shelf:
    """A store that remembers its calls, waits when told so, and refuses spans named ``poison``."""

    def __init__(self) -> None:
        self.writes: list[int] = []
        self.names: list[str] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_busy = threading.Event()
        self.broken = False

    def write(self, batches: Sequence[Batch]) -> None:
        self.is_busy.set()
        assert self.is_open.wait(DEADLINE_S)
        names = [span.name for each in batches for span in each.spans]
        if self.broken or "poison" in names:
            raise OSError("disk full")
        self.writes.append(len(names))
        self.names += names


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def writer(shelf: Shelf) -> Iterator[QueueWriter]:
    made = QueueWriter(shelf, max_bytes=1000, max_spans=20_000)
    yield made
    shelf.is_open.set()
    made.close(DEADLINE_S)


def hold(shelf: Shelf, writer: QueueWriter) -> None:
    """Have the thread wait within a write, so that what is submitted now gathers."""
    shelf.is_open.clear()
    shelf.is_busy.clear()
    writer.submit([batch()], 1)
    assert shelf.is_busy.wait(DEADLINE_S)


def test_a_future_is_done_only_after_the_write(shelf: Shelf, writer: QueueWriter) -> None:
    """A client that has its 202 forgets the spans: answered too early they would be lost when the process is killed."""
    shelf.is_open.clear()
    stored = writer.submit([batch()], 10)
    assert shelf.is_busy.wait(DEADLINE_S)
    assert not stored.done()
    shelf.is_open.set()
    assert stored.result(DEADLINE_S) is None
    assert shelf.writes == [1]


def test_what_gathers_is_written_together_up_to_a_bound(shelf: Shelf, writer: QueueWriter) -> None:
    """One transaction per payload would be ten times slower; one without a bound would keep everybody waiting."""
    hold(shelf, writer)
    half = SPANS_AT_ONCE // 2
    futures = [writer.submit([batch(half)], 1) for _ in range(5)]
    shelf.is_open.set()
    for future in futures:
        future.result(DEADLINE_S)
    assert shelf.writes == [1, 2 * half, 2 * half, half]


def test_payloads_that_do_not_fit_are_refused_at_once(shelf: Shelf, writer: QueueWriter) -> None:
    """Waiting instead would fill the memory, first with requests, then with their bodies."""
    hold(shelf, writer)
    writer.submit([batch()], 990)
    with pytest.raises(Full):
        writer.submit([batch()], 10)
    writer.submit([batch()], 9)
    assert writer.is_full
    figures = writer.figures()
    assert (figures["writer_refused_payloads_total"], figures["writer_queue_bytes"]) == (1, 1000)
    shelf.is_open.set()
    poll(lambda: writer.figures()["writer_queue_bytes"] == 0, "an empty queue")
    assert not writer.is_full
    assert writer.submit([batch()], 999).result(DEADLINE_S) is None


def test_decoded_spans_count_as_well(shelf: Shelf, writer: QueueWriter) -> None:
    """An upload is small as text, and large once it is spans."""
    hold(shelf, writer)
    writer.submit([batch(19_999)], 1)
    with pytest.raises(Full):
        writer.submit([batch(1)], 1)


def test_a_payload_larger_than_the_bound_is_taken_by_an_empty_queue(shelf: Shelf, writer: QueueWriter) -> None:
    """It could otherwise never be stored, however often it is sent again."""
    assert writer.submit([batch()], 5000).result(DEADLINE_S) is None


def test_a_failing_store_fails_the_payload_and_is_asked_again(shelf: Shelf, writer: QueueWriter) -> None:
    """A full disk must be told to the senders, and must not end the backend: there may be room again."""
    shelf.broken = True
    with pytest.raises(NotStored, match="disk full"):
        writer.submit([batch(3)], 1).result(DEADLINE_S)
    assert writer.is_failing
    assert writer.figures()["writer_failed_spans_total"] == 3
    shelf.broken = False
    writer.submit([batch()], 1).result(DEADLINE_S)
    assert not writer.is_failing


def test_one_bad_payload_does_not_cost_its_neighbours(shelf: Shelf, writer: QueueWriter) -> None:
    """Payloads of different senders meet in one transaction; what the store cannot take may be one span of one of them."""
    hold(shelf, writer)
    futures = [writer.submit([batch(name=name)], 1) for name in ("one", "poison", "two")]
    shelf.is_open.set()
    results = [type(future.exception(DEADLINE_S)) for future in futures]
    assert results == [type(None), NotStored, type(None)]
    assert shelf.names[1:] == ["one", "two"]


def test_undecodable_payloads_are_told_so(shelf: Shelf, writer: QueueWriter) -> None:
    """The one sender has to learn it, the others must not notice."""

    def refuse() -> list[Batch]:
        raise DecodeError("no spans")

    def fail() -> list[Batch]:
        raise ZeroDivisionError

    hold(shelf, writer)
    bad, worse, good = writer.submit_encoded(refuse, 1), writer.submit_encoded(fail, 1), writer.submit([batch()], 1)
    shelf.is_open.set()
    with pytest.raises(DecodeError, match="no spans"):
        bad.result(DEADLINE_S)
    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        worse.result(DEADLINE_S)
    assert good.result(DEADLINE_S) is None


def test_listeners_are_told_of_what_is_stored_and_of_nothing_else(shelf: Shelf, writer: QueueWriter) -> None:
    """A live tail that showed what was not stored would lead to traces that are not there."""
    told: list[str] = []

    def bad(batches: Sequence[Batch]) -> None:
        raise RuntimeError

    writer.listen(bad)
    forget = writer.listen(lambda batches: told.extend(span.name for each in batches for span in each.spans))
    for name in ("first", "poison", "second"):
        writer.submit([batch(name=name)], 1).exception(DEADLINE_S)
    assert told == ["first", "second"]
    assert writer.figures()["writer_listener_errors_total"] == 2
    forget()
    writer.submit([batch(name="third")], 1).result(DEADLINE_S)
    assert told == ["first", "second"]


def test_closing_writes_what_waits_and_takes_no_more(shelf: Shelf, writer: QueueWriter) -> None:
    """A restart must not lose what was taken over UDP, where nobody sends it again."""
    hold(shelf, writer)
    waiting = [writer.submit([batch()], 1) for _ in range(3)]
    closer = threading.Thread(target=lambda: results.append(writer.close(DEADLINE_S)))
    results: list[bool] = []
    closer.start()
    shelf.is_open.set()
    closer.join(DEADLINE_S)
    assert results == [True]
    assert sum(shelf.writes) == 4
    assert all(future.done() for future in waiting)
    with pytest.raises(Full):
        writer.submit([batch()], 1)


def test_closing_does_not_wait_for_ever(shelf: Shelf, writer: QueueWriter) -> None:
    """A store that hangs (a dead network disk) must not keep the process from ending."""
    hold(shelf, writer)
    waiting = writer.submit([batch()], 1)
    assert writer.close(0.1) is False
    with pytest.raises(NotStored):
        waiting.result(0)


def test_a_future_that_nobody_waits_for_any_more_harms_nothing(shelf: Shelf, writer: QueueWriter) -> None:
    """Requests time out and clients hang up, and the thread has to go on."""
    hold(shelf, writer)
    assert writer.submit([batch()], 1).cancel()
    after = writer.submit([batch()], 1)
    shelf.is_open.set()
    assert after.result(DEADLINE_S) is None
