"""When requests are due, and how what one process or several saw of them is put together, second by second."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest

from autoinstr.bench import durations
from autoinstr.bench.load import schedule, seconds
from autoinstr.bench.parts import Refusal


def first(count: int, *arguments: Any) -> list[float]:
    return list(itertools.islice(schedule.arrivals(*arguments), count))


@pytest.mark.parametrize("kind", schedule.KINDS)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_together_send_every_arrival_once(kind: str, workers: int) -> None:
    """With --processes 2 the program would get twice the rate, or half of it."""
    shares = [first(100, kind, 50.0, 7, worker, workers) for worker in range(workers)]
    assert sorted(itertools.chain(*shares)) == first(100 * workers, kind, 50.0, 7)


def test_uniform_arrivals_do_not_drift() -> None:
    """After an hour a sum of rounded gaps would be off, and the rate with it."""
    assert first(4, "uniform", 4.0, 0) == [0.0, 0.25, 0.5, 0.75]
    millionth = next(itertools.islice(schedule.arrivals("uniform", 3.0, 0), 999_999, None))
    assert millionth == 333_333.0


def test_poisson_arrivals_are_those_of_independent_users() -> None:
    """Bursts are what makes queues; evenly spaced requests would hide what tracing does to the tail."""
    due = first(20_001, "poisson", 200.0, 3)
    gaps = [later - sooner for sooner, later in itertools.pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1.0, abs=0.03)
    per_second = [sum(1 for one in due if second <= one < second + 1) for second in range(90)]
    assert statistics.variance(per_second) / statistics.mean(per_second) == pytest.approx(1.0, abs=0.4)


def test_a_seed_is_a_schedule() -> None:
    """Two variants would get different bursts, and their difference would be the bursts'."""
    assert first(50, "poisson", 10.0, 1) == first(50, "poisson", 10.0, 1)
    assert first(50, "poisson", 10.0, 1) != first(50, "poisson", 10.0, 2)


@pytest.mark.parametrize(
    ("kind", "rate", "says"),
    [("poison", 10.0, "poisson or uniform"), ("poisson", 0.0, "above 0"), ("uniform", float("nan"), "above 0")],
)
def test_what_is_no_schedule_is_refused(kind: str, rate: float, says: str) -> None:
    """A rate of 0 would end in a division error within Locust's log."""
    with pytest.raises(Refusal, match=says):
        schedule.arrivals(kind, rate, 0)


# Seconds.


def recorded(*requests: tuple[float, float, float | None], began: float = 100.25, offset: float = 1000.0) -> Any:
    """A recording of requests (done in seconds, service in ms, due in seconds)."""
    has_due = any(due is not None for _, _, due in requests)
    recording = seconds.Recording(began, offset, has_due=has_due)
    for done, service, due in requests:
        recording.done.append(done)
        recording.service.append(service)
        if due is not None:
            recording.due.append(due)
    return recording


def test_a_request_belongs_to_the_second_in_which_it_ended() -> None:
    """Folding runs late on a busy machine; what came after the second would be counted in it, and the rate would jitter."""
    recording = recorded((100.5, 1.0, None), (101.0, 2.0, None), (101.0001, 4.0, None), (102.5, 8.0, None))
    pieces = [recording.cut(10.0, 0), recording.cut(25.0, 0), recording.cut(45.0, 0, until=102.75)]
    assert [(one.end, list(one.service)) for one in pieces] == [(1101, [1.0, 2.0]), (1102, [4.0]), (1103, [8.0])]
    assert [one.seconds for one in pieces] == pytest.approx([0.75, 1.0, 0.75])
    assert [one.is_whole for one in pieces] == [False, True, False]
    assert [one.cpu_us for one in pieces] == [10.0, 15.0, 20.0]
    assert (recording.requests, len(recording.done)) == (4, 0)


def test_a_stall_is_in_the_response_time_and_not_in_the_service_time() -> None:
    """Coordinated omission: the report would say 2 ms of a request that its user waited a second for."""
    slot = seconds.fold(recorded((100.9, 2.0, 99.9), (100.95, 4.0, 100.94)).cut(0.0, 3))
    response, service, lag = (durations.decode(slot[name]) for name in ("response", "service", "lag"))
    assert durations.at(response, [0, 100]) == pytest.approx([10_000, 1_000_000], rel=0.001)
    assert durations.at(service, [0, 100]) == pytest.approx([2_000, 4_000], rel=0.001)
    assert durations.at(lag, [0, 100]) == pytest.approx([6_000, 998_000], rel=0.001)
    assert (slot["median_us"], slot["due_unsent"]) == (3_000.0, 3)


def test_folding_makes_way_for_requests_that_are_due() -> None:
    """A second's histograms take milliseconds; requests due meanwhile would be late, every second anew."""
    pauses = []
    seconds.fold(recorded(*[(100.5, 1.0, 100.4)] * 1000).cut(0.0, 0), lambda: pauses.append(1))
    assert len(pauses) == 3 * 1000 / seconds.CHUNK


def test_errors_and_lateness_are_counted_where_they_happened() -> None:
    """A run with one bad second would be thrown out without saying when, or kept with errors in its window."""
    recording = recorded((100.5, 1.0, None), (101.5, 1.0, None))
    recording.note_error(101.5, "GET /: refused")
    recording.late.append(100.3)
    before, after = recording.cut(0.0, 0), recording.cut(0.0, 0)
    assert [(one.errors, one.late) for one in (before, after)] == [(0, 1), (1, 0)]
    assert (recording.errors, recording.kinds) == (1, {"GET /: refused": 1})


def test_texts_of_errors_are_bounded() -> None:
    """A program that puts a number into each error would fill the generator's memory."""
    recording = recorded()
    for number in range(1000):
        recording.note_error(100.5, f"{number}: " + "x" * 1000)
    assert len(recording.kinds) == seconds.MOST_KINDS + 1
    assert sum(recording.kinds.values()) == 1000
    assert max(map(len, recording.kinds)) == seconds.LONGEST_TEXT


def slot_of(end: int, *service_ms: float, whole: bool = True, **changes: Any) -> dict[str, Any]:
    piece = seconds.Piece(end, 1.0, [], service_ms, (), errors=1, late=2, cpu_us=5.0, due_unsent=3, is_whole=whole)
    return {**seconds.fold(piece), **changes}


def test_workers_seconds_become_one() -> None:
    """Percentiles of two workers would be averaged, which is the percentile of nothing."""
    merging = seconds.Merging(["a", "b"])
    assert merging.add("a", slot_of(7, 1.0, 1.0, 1.0)) == []
    assert merging.add("a", slot_of(8)) == []
    [slot] = merging.add("b", slot_of(7, 9.0))
    assert {name: slot[name] for name in ("end", "requests", "errors", "late", "cpu_us", "due_unsent", "whole")} == {
        "end": 7,
        "requests": 4,
        "errors": 2,
        "late": 4,
        "cpu_us": 10.0,
        "due_unsent": 6,
        "whole": True,
    }
    assert durations.at(durations.decode(slot["service"]), [50, 100]) == pytest.approx([1_000, 9_000], rel=0.001)
    assert (slot["response"], slot["lag"]) == (None, None)
    assert [one["end"] for one in merging.rest()] == [8]


def test_a_second_that_a_worker_did_not_see_is_not_whole() -> None:
    """The first second, in which only one of two workers had begun, would look like half the rate."""
    merging = seconds.Merging(["a", "b"])
    merging.add("a", slot_of(7, 1.0))
    [alone] = merging.add("b", slot_of(8, 1.0, whole=False))
    [partly] = merging.add("a", slot_of(8, 1.0))
    assert (alone["end"], alone["whole"], alone["requests"]) == (7, False, 1)
    assert (partly["end"], partly["whole"], partly["requests"]) == (8, False, 2)


def test_last_words_of_workers_add_up() -> None:
    """Requests of one worker would be missing from the account of spans."""
    one = {"all_requests": 5, "all_errors": 1, "unsent": 2, "aborted": 0, "kinds": {"x": 1}}
    assert seconds.totals([one, one]) == {
        "final": True,
        "all_requests": 10,
        "all_errors": 2,
        "unsent": 4,
        "aborted": 0,
        "kinds": {"x": 2},
    }
