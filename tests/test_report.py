"""The reporter with real threads between a fake encoder and a fake transport: nothing is lost uncounted, nobody waits."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autoinstr.report import Exporter, InMemoryReporter, Reporter
from autoinstr.transport import TransportError
from fakes import DEADLINE_S, FakeEncoder, FakeTransport, make_span, until

#: Longer than any test: the worker does nothing by itself.
NEVER_S = 3600.0


class Rig:
    """A reporter with its fakes; ``troubles`` is what the user would be told."""

    def __init__(self, **options: Any) -> None:
        self.encoder = FakeEncoder()
        self.transport = FakeTransport()
        self.exporter = Exporter("fake", self.encoder, self.transport)
        self.troubles: list[str] = []
        defaults: dict[str, Any] = {"interval_s": NEVER_S, "on_trouble": self.troubles.append}
        make: Callable[[], list[Exporter]] = options.pop("make_exporters", lambda: [self.exporter])
        self.reporter = Reporter(make, **{**defaults, **options})

    def report(self, *numbers: int) -> None:
        for number in numbers:
            self.reporter.report(make_span(number))

    def hang_with(self, number: int) -> None:
        """Report a span and leave the worker hanging in its send."""
        self.transport.may_send.clear()
        self.report(number)
        threading.Thread(target=self.reporter.flush, args=(DEADLINE_S,), daemon=True).start()
        until(self.transport.sending.is_set, "the send")

    @property
    def counted(self) -> int:
        exporter, reporter = self.exporter, self.reporter
        return (
            exporter.sent
            + exporter.failed
            + exporter.too_large
            + exporter.waiting
            + reporter.dropped
            + len(reporter.queue)
        )


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield make
    for one in made:
        one.transport.may_send.set()
        one.reporter.close(DEADLINE_S)


def retryable(text: str = "503", **options: Any) -> TransportError:
    return TransportError(text, retryable=True, **options)


def test_span_arrives_after_the_interval(rig: Callable[..., Rig]) -> None:
    """A program that does little would never see its spans."""
    one = rig(interval_s=0.02)
    one.report(1)
    until(lambda: one.transport.ids == [1])
    one.report(2)
    until(lambda: one.transport.ids == [1, 2])
    assert one.troubles == []


def test_full_batch_does_not_wait_for_the_interval(rig: Callable[..., Rig]) -> None:
    """A busy program would fill its queue in a second, and lose the rest."""
    one = rig(max_batch=10)
    one.report(*range(1, 12))
    until(lambda: len(one.transport.ids) >= 10)
    assert max(one.encoder.batches) <= 10


def test_nothing_runs_before_the_first_span(rig: Callable[..., Rig]) -> None:
    """A thread or a socket at start-up breaks programs that fork."""
    made: list[int] = []
    one = rig(make_exporters=lambda: made.append(1) or [])
    assert one.reporter.flush(DEADLINE_S)
    assert one.reporter.pause(1) == 0
    assert (made, one.reporter._running) == ([], False)


def test_peeking_takes_nothing(rig: Callable[..., Rig]) -> None:
    """Spans that are only looked at, to measure what they cost, would be lost, or the look fail while others are added."""
    seen: list[int] = []

    def make() -> list[Exporter]:
        one.report(4)
        seen.extend(span.span_id for span in one.reporter.peek(2))
        return [one.exporter]

    one = rig(make_exporters=make)
    assert one.reporter.peek(5) == []
    one.report(1, 2, 3)
    assert one.reporter.flush(DEADLINE_S)
    assert one.reporter.flush(DEADLINE_S)
    assert seen == [1, 2]
    assert one.transport.ids == [1, 2, 3, 4]


def test_worker_is_the_only_sender_and_not_the_program(rig: Callable[..., Rig]) -> None:
    """A slow collector would be felt in requests."""
    one = rig(max_batch=2)
    one.report(*range(1, 20))
    assert one.reporter.flush(DEADLINE_S)
    assert len(one.transport.senders) == 1
    assert threading.get_ident() not in one.transport.senders
    assert sorted(one.transport.ids) == list(range(1, 20))


def test_queue_is_bounded_and_drops_are_counted_exactly(rig: Callable[..., Rig]) -> None:
    """With a collector that hangs, memory would grow until the program is killed; or the numbers would be wrong."""
    one = rig(max_queue=10, max_batch=4)
    one.hang_with(1)
    one.report(*range(2, 30))
    assert (len(one.reporter.queue), one.reporter.dropped) == (10, 18)
    assert one.counted == 29
    one.transport.may_send.set()
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == list(range(1, 12))
    one.report(30)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids[-1] == 30
    assert one.encoder.lost[-1] == (18, 0, 0)


def test_what_came_during_a_send_does_not_wait_for_the_interval(rig: Callable[..., Rig]) -> None:
    """After a burst, a batch and more would lie in the queue until the next request, or a whole interval."""
    one = rig(max_queue=100, max_batch=4)
    one.hang_with(1)
    one.report(*range(2, 12))
    one.transport.may_send.set()
    until(lambda: one.exporter.sent == 11, "the export")


def test_report_does_not_wait_while_the_collector_hangs(rig: Callable[..., Rig]) -> None:
    """Requests would stand still with the collector."""
    one = rig(max_queue=100)
    one.hang_with(1)
    finished: list[float] = []
    caller = threading.Thread(target=lambda: (one.report(*range(2, 1000)), finished.append(1.0)))
    caller.start()
    caller.join(DEADLINE_S)
    assert finished
    assert one.transport.sending.is_set()


def test_flush_gives_up_in_time(rig: Callable[..., Rig]) -> None:
    """A program that flushes would hang with its collector."""
    one = rig()
    one.hang_with(1)
    started = time.monotonic()
    assert not one.reporter.flush(0.05)
    assert time.monotonic() - started < DEADLINE_S / 2


def test_concurrent_flushes_are_all_served(rig: Callable[..., Rig]) -> None:
    """One of two threads that flush would wait for its whole timeout."""
    one = rig()
    one.hang_with(1)
    results: list[bool] = []
    flushers = [
        threading.Thread(target=lambda: (one.report(2), results.append(one.reporter.flush(DEADLINE_S))))
        for _ in range(8)
    ]
    for flusher in flushers:
        flusher.start()
    until(lambda: len(one.reporter.queue) == 8)
    one.transport.may_send.set()
    started = time.monotonic()
    for flusher in flushers:
        flusher.join(DEADLINE_S)
    assert results == [True] * 8
    assert time.monotonic() - started < DEADLINE_S / 2
    assert len(one.transport.ids) == 9


def test_flush_during_a_send_covers_what_came_meanwhile(rig: Callable[..., Rig]) -> None:
    """``flush`` would return True with the caller's own span still in the queue."""
    one = rig()
    one.hang_with(1)
    one.report(2)
    threading.Timer(0.05, one.transport.may_send.set).start()
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1, 2]


def test_failed_payload_is_sent_again_with_growing_delays(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans of a short outage would be lost; a collector that is just coming up would be hammered."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.04)
    one = rig()
    one.transport.errors = [retryable() for _ in range(3)]
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1]
    gaps = [after - before for before, after in zip(one.transport.times, one.transport.times[1:], strict=False)]
    assert [gap >= least for gap, least in zip(gaps, (0.03, 0.06, 0.12), strict=True)] == [True] * 3
    assert (one.exporter.sent, one.exporter.failed, len(one.troubles)) == (1, 0, 3)


def test_retry_after_is_honoured(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that asks for peace would be asked again at once."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.001)
    one = rig()
    one.transport.errors = [retryable("429", retry_after_s=0.2)]
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.times[1] - one.transport.times[0] >= 0.2


def test_payload_is_given_up_after_a_while(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead collector would be sent the oldest spans for ever, and no new ones when it is back."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.01)
    one = rig(retry_for_s=0.1)
    one.transport.errors, one.transport.keeps_failing = [retryable()], True
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.exporter.sent, one.exporter.failed, one.exporter.waiting) == (0, 1, 0)
    assert len(one.transport.times) > 1


def test_failure_that_cannot_pass_is_not_tried_again(rig: Callable[..., Rig]) -> None:
    """A collector would get the same broken payload for half a minute."""
    one = rig()
    one.transport.errors = [TransportError("400 bad data")]
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.exporter.failed, len(one.transport.times)) == (1, 1)
    assert one.troubles == ["cannot export spans: 400 bad data"]


def test_what_waits_for_a_retry_is_bounded(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded spans would pile up while the collector is away; and afterwards the oldest would come, not the newest."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", NEVER_S)
    one = rig(max_queue=20, max_batch=5, interval_s=0.001, retry_for_s=2 * NEVER_S)
    one.transport.errors = [retryable()]
    for number in range(1, 61):
        one.report(number)
        until(lambda: not one.reporter.queue)
    assert one.exporter.waiting <= 20
    until(lambda: one.counted == 60)
    assert one.exporter.failed >= 40
    assert one.reporter.close(DEADLINE_S)
    assert one.transport.ids[-1] == 60


def test_spans_flow_again_when_the_collector_is_back(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage would end tracing until the next deployment."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.01)
    one = rig(interval_s=0.005, max_queue=8, max_batch=4)
    one.transport.errors, one.transport.keeps_failing = [retryable()], True
    one.report(*range(1, 100))
    until(lambda: len(one.transport.times) > 3)
    one.transport.errors.clear()
    one.report(100)
    until(lambda: one.reporter.is_idle)
    one.report(101)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids[-1] == 101
    assert one.counted == 101


def test_one_dead_exporter_does_not_hold_up_the_other(rig: Callable[..., Rig]) -> None:
    """Two backends, one of them down: the other would starve for half a minute a batch."""
    encoder, transport = FakeEncoder(), FakeTransport()
    one = rig(interval_s=0.01, make_exporters=lambda: [one.exporter, Exporter("alive", encoder, transport)])
    one.transport.errors, one.transport.keeps_failing = [retryable()], True
    one.report(1)
    until(lambda: transport.ids == [1])
    one.report(2)
    until(lambda: transport.ids == [1, 2])


def test_wake_up_during_a_retry_is_not_lost(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that came while the worker waited to try again would wait for another whole interval."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.2)
    one = rig()
    one.transport.errors = [retryable()]
    one.report(1)
    assert not one.reporter.flush(0.05)
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1, 2]


def test_refused_spans_are_counted_and_not_sent_again(rig: Callable[..., Rig]) -> None:
    """OTLP's partial success would count as success, or be repeated, which the specification forbids."""
    one = rig()
    one.transport.response = b"2"
    one.report(1, 2, 3)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.exporter.sent, one.exporter.failed, len(one.transport.payloads)) == (1, 2, 1)
    assert one.troubles == ["fake refused 2 of 3 spans"]


def test_senseless_answer_is_survived(rig: Callable[..., Rig]) -> None:
    """An answer that cannot be read would end the worker."""
    one = rig()
    one.transport.response = b"nonsense"
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    one.transport.response = b"-5"
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.exporter.failed, one.exporter.sent) == (1, 1)


def test_too_large_spans_are_counted(rig: Callable[..., Rig]) -> None:
    """Spans would vanish without a trace in the numbers."""
    one = rig()
    one.encoder.unfit = {2}
    one.report(1, 2)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.exporter.sent, one.exporter.too_large, one.counted) == (1, 1, 2)


@pytest.mark.parametrize("error", [RuntimeError("bug"), MemoryError(), RecursionError(), SystemExit(3)])
def test_fault_of_the_encoder_costs_its_batch_only(
    rig: Callable[..., Rig], error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    """One odd span would end tracing for the whole process, or print a traceback of ours."""
    one = rig()
    one.encoder.error = error
    one.report(1)
    one.reporter.flush(DEADLINE_S)
    one.encoder.error = None
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.transport.ids, one.exporter.failed, one.counted) == ([2], 1, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("x"), TransportError("")])
def test_fault_of_the_transport_costs_its_payload_only(rig: Callable[..., Rig], error: Exception) -> None:
    """As above, for whatever a socket may raise."""
    one = rig()
    one.transport.errors = [error]
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.transport.ids, one.exporter.failed) == ([2], 1)
    assert one.troubles[0].startswith("cannot export spans: ")


def test_trouble_that_cannot_be_told_is_swallowed(rig: Callable[..., Rig]) -> None:
    """A closed stderr would end tracing."""

    def fail(text: str) -> None:
        raise OSError(text)

    one = rig(on_trouble=fail)
    one.transport.errors = [TransportError("down")]
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [2]


def test_exporters_that_cannot_be_made_are_tried_again(rig: Callable[..., Rig]) -> None:
    """A fault at the first export would end tracing silently, or start a thread for each span."""
    answers: list[Any] = [RuntimeError("no"), "yes"]

    def make() -> list[Exporter]:
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return [one.exporter]

    one = rig(make_exporters=make)
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert (one.reporter.dropped, one.troubles) == (1, ["cannot export spans: RuntimeError: no"])
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [2]


def test_dead_worker_is_replaced(rig: Callable[..., Rig], capfd: pytest.CaptureFixture[str]) -> None:
    """A fault of ours in the thread would end tracing until the restart of the program."""
    faults: list[Exception] = [RuntimeError("first")]

    def shield() -> None:
        if faults:
            raise faults.pop()

    one = rig(shield=shield)
    one.report(1)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1]
    assert one.troubles == ["the reporting thread failed: RuntimeError: first"]
    assert capfd.readouterr() == ("", "")


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)


def test_thread_that_cannot_be_had(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads, or while Python 3.12 ends, the program would get our RuntimeError, or its spans be lost."""
    one = rig()
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        one.report(1, 2)
        assert one.reporter.flush(DEADLINE_S)
        assert one.transport.ids == [1, 2]
        one.report(3)
        assert one.reporter.close(DEADLINE_S)
    assert (one.transport.ids, one.transport.closed) == ([1, 2, 3], 1)


def test_thread_is_asked_for_again(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment at the limit of threads would end tracing for good."""
    one = rig(max_batch=4, interval_s=0.01)
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        one.report(1)
    one.report(*range(2, 10))
    until(lambda: len(one.transport.ids) == 9)


def test_flush_without_threads_ends_in_time(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a program without threads would hang with its collector."""
    refuse_threads(monkeypatch)
    one = rig()
    one.transport.may_send.clear()
    one.report(1)
    started = time.monotonic()
    one.reporter.close(0.1)
    assert time.monotonic() - started < DEADLINE_S / 2
    assert one.counted == 1


def test_close_sends_the_rest_ends_the_worker_and_closes(rig: Callable[..., Rig]) -> None:
    """The last second of every program would be missing."""
    one = rig(max_batch=2)
    one.report(1, 2, 3, 4, 5)
    assert one.reporter.close(DEADLINE_S)
    assert (one.transport.ids, one.transport.closed) == ([1, 2, 3, 4, 5], 1)
    until(lambda: not one.reporter._running)
    assert one.reporter.close(DEADLINE_S)


def test_close_does_not_try_again(rig: Callable[..., Rig]) -> None:
    """Beside a dead collector every program would take longer to end."""
    one = rig(max_batch=1)
    one.transport.errors, one.transport.keeps_failing = [retryable()], True
    one.report(1, 2, 3)
    started = time.monotonic()
    one.reporter.close(DEADLINE_S)
    assert time.monotonic() - started < DEADLINE_S / 2
    assert (one.exporter.failed, one.exporter.waiting) == (3, 0)


def test_close_ends_a_wait_for_a_retry(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that only waited to be tried again would be lost at the end although the collector is back."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 20.0)
    one = rig()
    one.transport.errors = [retryable()]
    one.report(1)
    assert not one.reporter.flush(0.1)
    assert one.reporter.close(DEADLINE_S)
    assert one.transport.ids == [1]


def test_spans_after_close_are_dropped_and_counted(rig: Callable[..., Rig]) -> None:
    """A daemon thread that outlives the end would start threads in a dying interpreter."""
    one = rig()
    assert one.reporter.close(DEADLINE_S)
    one.report(1, 2)
    assert (one.reporter.dropped, one.reporter._running) == (2, False)


def test_close_gives_up_in_time(rig: Callable[..., Rig]) -> None:
    """A program would not end while its collector hangs."""
    one = rig()
    one.hang_with(1)
    started = time.monotonic()
    assert not one.reporter.close(0.05)
    assert time.monotonic() - started < DEADLINE_S / 2
    assert one.transport.closed == 0


def test_second_close_does_not_wait_again(rig: Callable[..., Rig]) -> None:
    """SIGTERM in the middle of the end would add another timeout to it."""
    one = rig()
    one.hang_with(1)
    assert not one.reporter.close(0.05)
    started = time.monotonic()
    assert not one.reporter.close(DEADLINE_S)
    assert time.monotonic() - started < DEADLINE_S / 2


def test_pause_ends_an_idle_worker_and_keeps_the_queue(rig: Callable[..., Rig]) -> None:
    """Python 3.12 would warn at every fork; or the fork would have to wait for the network."""
    one = rig()
    one.report(1)
    until(lambda: one.reporter._running)
    assert one.reporter.pause(DEADLINE_S) > 0
    assert not one.reporter._running
    assert (one.transport.ids, len(one.reporter.queue)) == ([], 1)
    one.reporter.resume()
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1]


def test_pause_does_not_wait_for_a_hanging_collector(rig: Callable[..., Rig]) -> None:
    """Each fork of a server would stand still beside a dead collector."""
    one = rig()
    one.hang_with(1)
    started = time.monotonic()
    assert one.reporter.pause(0.02) == 0
    assert time.monotonic() - started < DEADLINE_S / 2
    one.reporter.resume()
    one.transport.may_send.set()
    one.report(2)
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1, 2]


def test_pause_that_takes_effect_after_the_fork(rig: Callable[..., Rig]) -> None:
    """A worker that saw to the pause too late would leave the spans in the queue for ever."""
    one = rig(interval_s=0.01, max_batch=1)
    one.hang_with(1)
    one.report(2)
    assert one.reporter.pause(0.01) == 0
    one.transport.may_send.set()
    until(lambda: not one.reporter._running)
    one.reporter.resume()
    one.report(3)
    until(lambda: one.transport.ids == [1, 2, 3])


def test_no_thread_is_started_by_the_fork_itself(rig: Callable[..., Rig]) -> None:
    """Python 3.13 looks for threads after the hooks of a fork, and would warn of the one that we have just started."""
    one = rig()
    one.report(1)
    assert one.reporter.pause(DEADLINE_S)
    one.reporter.resume()
    assert not one.reporter._running


def test_pause_keeps_what_waits_for_a_retry(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that forks while its collector restarts would lose spans by it."""
    monkeypatch.setattr("autoinstr.report.FIRST_DELAY_S", 0.1)
    one = rig()
    one.transport.errors = [retryable()]
    one.report(1)
    assert not one.reporter.flush(0.02)
    one.reporter.pause(DEADLINE_S)
    assert (one.exporter.waiting, one.exporter.failed) == (1, 0)
    one.reporter.resume()
    assert one.reporter.flush(DEADLINE_S)
    assert one.transport.ids == [1]


def test_flush_survives_a_pause(rig: Callable[..., Rig]) -> None:
    """A thread that flushes while another one forks would wait for its whole timeout."""
    one = rig()
    one.hang_with(1)
    results: list[bool] = []
    flusher = threading.Thread(target=lambda: results.append(one.reporter.flush(DEADLINE_S)))
    flusher.start()
    until(lambda: one.reporter._waiters)
    one.reporter.pause(0.01)
    one.transport.may_send.set()
    one.reporter.resume()
    started = time.monotonic()
    flusher.join(DEADLINE_S)
    assert results == [True]
    assert time.monotonic() - started < DEADLINE_S / 2


def test_child_begins_anew(rig: Callable[..., Rig]) -> None:
    """A forked child would send its parent's spans again, and on its parent's connection."""
    one = rig()
    one.hang_with(1)
    one.report(2)
    one.transport.may_send.set()
    assert one.reporter.pause(DEADLINE_S)
    child = Rig()
    one.reporter.make_exporters = child.reporter.make_exporters
    one.reporter.abandon()
    assert one.transport.abandoned == 1
    assert (len(one.reporter.queue), one.reporter.taken, one.reporter.dropped, one.reporter.exporters) == (0, 0, 0, [])
    one.report(3)
    assert one.reporter.flush(DEADLINE_S)
    assert child.transport.ids == [3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_locks_are_held(rig: Callable[..., Rig]) -> None:
    """A child forked while its parent's worker sends would hang at its first flush, for ever."""
    one = rig()
    one.hang_with(1)
    child = os.fork()
    if child == 0:
        signal.alarm(DEADLINE_S)
        one.reporter.abandon()
        one.transport = FakeTransport()
        one.exporter = Exporter("fake", FakeEncoder(), one.transport)
        one.report(2)
        flushed = one.reporter.flush(DEADLINE_S)
        os._exit(0 if flushed and one.transport.ids == [2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_reports_and_flushes_from_a_signal_handler(rig: Callable[..., Rig]) -> None:
    """A handler that ends a span while the program is just ending one would deadlock, or spoil the counts."""
    one = rig(max_batch=3, max_queue=50, interval_s=0.001)
    created = [0]

    def handler(number: int, frame: object) -> None:
        created[0] += 1
        one.report(created[0])
        if created[0] % 50 == 0:
            one.reporter.flush(DEADLINE_S)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    own = 0
    try:
        until_s = time.monotonic() + 0.7
        while time.monotonic() < until_s:
            one.report(1)
            own += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert one.reporter.flush(DEADLINE_S)
    assert created[0] > 10
    assert one.counted == own + created[0]


@pytest.fixture
def frantic_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", ["healthy", "failing", "forking"])
def test_every_span_is_counted_once(rig: Callable[..., Rig], frantic_switching: None, kind: str) -> None:
    """Created = sent + failed + too large + dropped + left: otherwise nobody can trust the numbers, nor find a loss."""
    one = rig(max_batch=7, max_queue=200, interval_s=0.001, retry_for_s=0.05)
    one.encoder.unfit = {13}
    if kind == "failing":
        one.transport.errors = [retryable() if number % 3 else TransportError("no") for number in range(300)]
    workers, each = 8, 1500
    stop = threading.Event()

    def work() -> None:
        for number in range(each):
            one.report(number % 100)
            if number % 211 == 0:
                one.reporter.flush(0.01)

    def fork() -> None:
        while not stop.is_set():
            one.reporter.pause(0.001)
            one.reporter.resume()
            time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    if kind == "forking":
        forker = threading.Thread(target=fork)
        forker.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S * 3)
    stop.set()
    if kind == "forking":
        forker.join(DEADLINE_S)
    assert one.reporter.close(DEADLINE_S)
    assert one.counted == workers * each
    assert one.reporter.is_idle
    assert one.exporter.sent == len(one.transport.ids)
    assert one.exporter.too_large > 0


def test_one_worker_for_many_first_spans(rig: Callable[..., Rig], frantic_switching: None) -> None:
    """A server whose first requests come at once would have several workers on one connection."""
    for _ in range(50):
        one = rig()
        barrier = threading.Barrier(6)
        started: list[int] = []
        one.reporter.shield = lambda started=started: started.append(1)

        def first(one: Rig = one, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(DEADLINE_S)
            one.report(1)

        threads = [threading.Thread(target=first) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert one.reporter.flush(DEADLINE_S)
        assert len(started) == 1
        assert len(one.transport.ids) == 6


def test_memory_reporter_is_bounded() -> None:
    """A test-suite that never looks at its spans would eat the machine's memory."""
    reporter = InMemoryReporter(max_spans=2)
    for number in (1, 2, 3):
        reporter.report(make_span(number))
    assert [span.span_id for span in reporter.spans] == [2, 3]


def test_waiters_that_another_worker_took_are_none_of_this_one() -> None:
    """A worker that ends while its successor begins would die over a flush that the successor serves, with a traceback."""

    class Taken(deque[Any]):
        """Looks as if something were in it, and is empty by the time it is asked."""

        def __bool__(self) -> bool:
            return True

    reporter = Reporter(list)
    reporter._waiters = Taken()
    reporter._leave([])
