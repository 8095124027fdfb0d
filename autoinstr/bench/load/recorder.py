"""A locustfile without users that goes beside any other: it decides when requests are made, and records them exactly.

    locust --headless -f scenarios/hello.py,autoinstr/bench/load/recorder.py --host http://127.0.0.1:8000 -u 16 -r 16 \
        --stop-timeout 10 --bench-record slots.jsonl --bench-mode rate --bench-rate 500

Owns: the ``--bench-…`` options, Locust's events, when a task begins, what master and workers tell one another, the record.
Must not know: who started it, windows, variants.
Loaded by Locust only (it imports Locust, which patches the process); everything that can do without is in ``seconds.py``.

Invariants: the users' own ``wait_time`` is never kept. saturation (closed load): a user begins its next task as soon as the last
one has ended. rate (open load): a task begins when the schedule says so and a user is free. After the stop nothing begins,
what is in flight ends, and only then are the last words written; what Locust's ``--stop-timeout`` cuts off is counted as
``aborted``. Locust's own statistics are not used: they round to milliseconds, and their listener costs CPU.

The record, one JSON object a line: ``{"begun": …}``, slots (``seconds.fold``), ``{"failed": why}``, and at last ``{"final": true, …}``.
Workers send slots and last words to the master, which merges and writes them.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from locust import User, events
from locust.exception import StopUser
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING, DefaultTaskSet, TaskSet

from autoinstr.bench.load import schedule, seconds, turnstile
from autoinstr.bench.parts import RATE, SATURATION, Refusal

log = logging.getLogger("autoinstr.bench")

#: From the decision to begin to the first request that is due: workers must have heard of it, users must be there.
LEAD_S, LEAD_OF_MASTER_S = 0.1, 0.5
#: For requests that are due at the very moment of the stop.
GRACE_S = 0.5
#: After the users' ``--stop-timeout``, for workers to send what they have.
REPORT_S = 5.0
CHECK_S = 0.5

# Messages between master and workers.
SLOT, FINAL, STOP = "bench_slot", "bench_final", "bench_stop"


def add_options(parser: Any) -> None:
    """Workers get their values from the master."""
    # A campaign is what its manifest says, not what lies in somebody's home folder.
    parser._default_config_files = []

    def add(name: str, **keywords: Any) -> None:
        parser.add_argument(name, include_in_web_ui=False, **keywords)

    add("--bench-mode", choices=(SATURATION, RATE), default=SATURATION, help="closed load, or requests at a rate")
    add("--bench-rate", type=float, default=0.0, metavar="N", help="requests per second of all workers together")
    add("--bench-arrivals", choices=schedule.KINDS, default=schedule.POISSON, help="when requests are due")
    add("--bench-seed", type=int, default=0, metavar="N", help="of the poisson schedule")
    add("--bench-record", default="", metavar="FILE", help="where slots are written, a line of JSON each second")
    add("--bench-follow-parent", action="store_true", help="end when the process that started this one has ended")


def begin(environment: Any, runner: Any, **_: Any) -> None:
    """Make this process what its options say: alone, a worker, or the master."""
    options = environment.parsed_options
    parent = os.getppid() if options.bench_follow_parent else None
    if isinstance(runner, MasterRunner):
        Master(environment, parent)
        return
    Local(environment, parent) if not isinstance(runner, WorkerRunner) else Worker(environment, parent)


class Process:
    """What all kinds of processes do: end with the process that started them, and let the users end first."""

    def __init__(self, environment: Any, parent: int | None) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        self._parent = parent
        self._record = open(self.options.bench_record, "a", encoding="utf-8") if self._writes else None  # noqa: SIM115
        environment.events.test_start.add_listener(self._on_start)
        environment.events.quitting.add_listener(self._on_quitting)
        gevent.spawn(self._watch)

    @property
    def _writes(self) -> bool:
        return bool(self.options.bench_record)

    def _on_start(self, environment: Any, **_: Any) -> None:
        raise NotImplementedError

    def _on_quitting(self, environment: Any, **_: Any) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        """Whether all is well with the others."""

    def _watch(self) -> None:
        while True:
            gevent.sleep(CHECK_S)
            if self._parent is not None and os.getppid() != self._parent:
                log.error("The process that started this one has ended; so does this one.")
                _end()
                return
            self._check()

    def _write(self, line: dict[str, Any]) -> None:
        if self._record is not None:
            self._record.write(json.dumps(line) + "\n")
            self._record.flush()


def _end() -> None:
    """As if somebody had sent SIGTERM, which is the one way out that Locust keeps tidy."""
    os.kill(os.getpid(), signal.SIGTERM)


class Users(Process):
    """A process that has users: alone, or a worker."""

    def __init__(self, environment: Any, parent: int | None) -> None:
        super().__init__(environment, parent)
        self._recording: seconds.Recording | None = None
        self._turnstile: turnstile.Turnstile | None = None
        self._folding = BoundedSemaphore()
        self._unsent = self._aborted = 0
        self._is_over = False
        environment.events.test_stopping.add_listener(self._on_stopping)
        environment.events.test_stop.add_listener(self._on_stop)
        _forget_statistics_of_locust(environment)
        take_over_tasks(self)

    # What a kind of process does with what it has.

    def _schedule(self) -> tuple[float, int, int]:
        """When the schedule starts (epoch seconds), which worker this is, and of how many."""
        raise NotImplementedError

    def _tell_slot(self, slot: dict[str, Any]) -> None:
        raise NotImplementedError

    def _tell_final(self, final: dict[str, Any]) -> None:
        raise NotImplementedError

    # Begin.

    def _on_start(self, environment: Any, **_: Any) -> None:
        # Modules and classes stay: collecting them again and again takes up to 10 ms, in which nothing is sent.
        gc.collect()
        gc.freeze()
        now, offset = perf_counter(), time.time() - perf_counter()
        is_rate = self.options.bench_mode == RATE
        self._recording = seconds.Recording(now, offset, has_due=is_rate)
        if is_rate:
            start, worker, workers = self._schedule()
            options = self.options
            arrivals = schedule.arrivals(options.bench_arrivals, options.bench_rate, options.bench_seed, worker, workers)
            self._turnstile = turnstile.Turnstile(start - offset + after for after in arrivals)
        _listen(environment, self._recording, is_rate=is_rate)
        gevent.spawn(self._fold_each_second)

    def _fold_each_second(self) -> None:
        recording = self._recording
        while recording is not None and not self._is_over:
            gevent.sleep(max(recording.next_boundary - perf_counter(), 0.0))
            with self._folding:
                while not self._is_over and recording.next_boundary <= perf_counter():
                    self._fold(recording, until=None)

    def _fold(self, recording: seconds.Recording, until: float | None) -> None:
        backlog = self._turnstile.backlog if self._turnstile is not None else 0
        piece = recording.cut(time.process_time() * 1e6, backlog, until)
        self._tell_slot(seconds.fold(piece, lambda: gevent.sleep(0)))

    # Tasks.

    def wait_for_turn(self, user: Any) -> None:
        """Before a task: in rate mode, until one is due."""
        if self._recording is None:
            # A worker that takes no part, or Locust's code has changed: nothing may be sent that is not counted.
            raise StopUser
        if self._turnstile is None:
            return
        # Locust ends users at once that wait, and others when their task has ended.
        user._state = LOCUST_STATE_WAITING
        due, is_late = self._turnstile.take()
        user._state = LOCUST_STATE_RUNNING
        gevent.getcurrent().bench_due = due
        if is_late:
            self._recording.late.append(perf_counter())

    def note_aborted(self) -> None:
        """A task was cut off in the middle: its request may have reached the server, but nobody counted it."""
        self._aborted += 1

    # End.

    def _on_stopping(self, environment: Any, **_: Any) -> None:
        if self._turnstile is not None:
            self._unsent = self._turnstile.close(GRACE_S)

    def _on_stop(self, environment: Any, **_: Any) -> None:
        """All users have ended."""
        if self._is_over:
            return
        with self._folding:
            self._is_over = True
            recording = self._recording
            if recording is not None:
                while recording.next_boundary <= perf_counter():
                    self._fold(recording, until=None)
                self._fold(recording, until=perf_counter())
        self._tell_final(
            {
                "final": True,
                "all_requests": recording.requests if recording else 0,
                "all_errors": recording.errors if recording else 0,
                "unsent": self._unsent,
                "aborted": self._aborted,
                "kinds": dict(recording.kinds) if recording else {},
            }
        )

    def _on_quitting(self, environment: Any, **_: Any) -> None:
        environment.runner.stop()
        # What the program answered with is in the record; only trouble of the generator itself is a failure of the process.
        environment.process_exit_code = 0


class Local(Users):
    """One process that does it all."""

    def __init__(self, environment: Any, parent: int | None) -> None:
        super().__init__(environment, parent)
        _check_options(environment, workers=1)

    def _on_start(self, environment: Any, **keywords: Any) -> None:
        super()._on_start(environment, **keywords)
        self._write({"begun": time.time()})

    def _schedule(self) -> tuple[float, int, int]:
        return time.time() + LEAD_S, 0, 1

    def _tell_slot(self, slot: dict[str, Any]) -> None:
        self._write(slot)

    def _tell_final(self, final: dict[str, Any]) -> None:
        self._write(final)


class Worker(Users):
    """One of several, here or on another host."""

    def __init__(self, environment: Any, parent: int | None) -> None:
        super().__init__(environment, parent)
        # In a greenlet of its own: while the users end, heartbeats must go on.
        environment.runner.register_message(STOP, self._on_order_to_stop, concurrent=True)

    @property
    def _writes(self) -> bool:
        return False

    def _on_start(self, environment: Any, **keywords: Any) -> None:
        if environment.runner.client_id not in self.options.bench_workers:
            log.error("This worker came after the start and takes no part: --expect-workers of the master is too small.")
            return
        super()._on_start(environment, **keywords)

    def _on_order_to_stop(self, environment: Any, msg: Any) -> None:
        environment.runner.stop()

    def _schedule(self) -> tuple[float, int, int]:
        workers = self.options.bench_workers
        return self.options.bench_start, workers.index(self.environment.runner.client_id), len(workers)

    def _tell_slot(self, slot: dict[str, Any]) -> None:
        self.environment.runner.send_message(SLOT, slot)

    def _tell_final(self, final: dict[str, Any]) -> None:
        self.environment.runner.send_message(FINAL, final)


class Master(Process):
    """Sends nothing itself; merges what the workers send."""

    def __init__(self, environment: Any, parent: int | None) -> None:
        super().__init__(environment, parent)
        self._merging: seconds.Merging | None = None
        self._workers: list[str] = []
        self._finals: dict[str, dict[str, Any]] = {}
        self._is_stopping = self._has_failed = False
        environment.runner.register_message(SLOT, self._on_slot)
        environment.runner.register_message(FINAL, self._on_final)

    def _on_start(self, environment: Any, **_: Any) -> None:
        self._workers = sorted(environment.runner.clients)
        _check_options(environment, len(self._workers))
        self._merging = seconds.Merging(self._workers)
        # Locust sends its options to the workers with the order to begin.
        self.options.bench_workers = self._workers
        self.options.bench_start = time.time() + LEAD_OF_MASTER_S
        self._write({"begun": time.time()})

    def _on_slot(self, environment: Any, msg: Any) -> None:
        if self._merging is not None and msg.node_id in self._workers:
            for slot in self._merging.add(msg.node_id, msg.data):
                self._write(slot)

    def _on_final(self, environment: Any, msg: Any) -> None:
        self._finals[msg.node_id] = msg.data

    def _check(self) -> None:
        if self._is_stopping or not self._workers:
            return
        clients = self.environment.runner.clients
        lost = [one for one in self._workers if one not in clients or clients[one].state == STATE_MISSING]
        if lost:
            self._fail(f"{len(lost)} of {len(self._workers)} workers of the generator were lost; what they sent is not known")

    def _fail(self, text: str) -> None:
        log.error(text)
        self._write({"failed": text})
        self._is_stopping = self._has_failed = True
        _end()

    def _on_quitting(self, environment: Any, **_: Any) -> None:
        """Comes before Locust's own listener, which would give the workers half a second."""
        environment.process_exit_code = 0
        if self._has_failed:
            return
        if self._workers and len(self._finals) < len(self._workers):
            self._is_stopping = True
            environment.runner.send_message(STOP)
            deadline = perf_counter() + environment.stop_timeout + GRACE_S + REPORT_S
            while not self._has_all() and perf_counter() < deadline:
                gevent.sleep(0.005)
        if self._merging is not None:
            for slot in self._merging.rest():
                self._write(slot)
        if self._has_all():
            self._write(seconds.totals(list(self._finals.values())))
        else:
            self._write({"failed": "workers of the generator did not say in time what they had sent"})

    def _has_all(self) -> bool:
        return all(one in self._finals for one in self._workers)


def _check_options(environment: Any, workers: int) -> None:
    """Ends the process with a sentence where the options make no sense."""
    options = environment.parsed_options
    if options.bench_mode != RATE:
        return
    try:
        schedule.check(options.bench_arrivals, options.bench_rate)
    except Refusal as error:
        sys.exit(f"--bench-rate, --bench-arrivals: {error}")
    if environment.shape_class is not None:
        sys.exit("This locustfile has a LoadTestShape, which changes the number of users: it cannot be run at a rate.")
    if (options.num_users or 1) < workers:
        sys.exit(f"{options.num_users} users are too few for {workers} workers: each needs one to send its requests.")


def _forget_statistics_of_locust(environment: Any) -> None:
    """Nobody reads them, they round to milliseconds, and they cost more than our own listener."""
    for handler in list(getattr(environment.events.request, "_handlers", ())):
        if getattr(handler, "__module__", "") == "locust.runners":
            environment.events.request.remove_listener(handler)


def _listen(environment: Any, recording: seconds.Recording, *, is_rate: bool) -> None:
    """The hot path: called once for each request that has ended."""
    done, service, due = recording.done.append, recording.service.append, recording.due.append
    current = gevent.getcurrent

    def on_request(response_time: float, exception: Any = None, **facts: Any) -> None:
        now = perf_counter()
        done(now)
        service(response_time)
        if exception is not None:
            recording.note_error(now, f"{facts.get('request_type')} {facts.get('name')}: {exception!r}")

    def on_request_that_was_due(response_time: float, exception: Any = None, **facts: Any) -> None:
        on_request(response_time, exception, **facts)
        greenlet = current()
        was_due = getattr(greenlet, "bench_due", None)
        # The second request of a task, or one before the first task: it was due when it was sent.
        due(was_due if was_due is not None else recording.done[-1] - response_time / 1e3)
        greenlet.bench_due = None

    def on_user_error(exception: Any, **_: Any) -> None:
        recording.note_error(perf_counter(), f"exception in the scenario: {exception!r}")

    environment.events.request.add_listener(on_request_that_was_due if is_rate else on_request)
    environment.events.user_error.add_listener(on_user_error)


def take_over_tasks(users: Users) -> None:
    """Put ``users`` between Locust's sets of tasks, those of the scenario too, and their tasks."""
    for kind in (TaskSet, DefaultTaskSet):
        setattr(kind, "execute_task", _taking_turns(kind.execute_task, users))  # noqa: B010 - mypy forbids the assignment.
    setattr(TaskSet, "wait", _go_on)  # noqa: B010


def _taking_turns(execute_task: Callable[[Any, Any], None], users: Users) -> Callable[[Any, Any], None]:
    def execute(self: Any, task: Any) -> None:
        if isinstance(task, type):  # A set of tasks, which come here one by one.
            execute_task(self, task)
            return
        users.wait_for_turn(self.user)
        try:
            execute_task(self, task)
        except gevent.GreenletExit:
            users.note_aborted()
            raise

    return execute


def _go_on(self: Any) -> None:
    """Instead of the scenario's waiting. The state stays "running": Locust ends those that wait in the midst of what they do next."""
    if self.user._state == LOCUST_STATE_STOPPING:
        raise StopUser
    gevent.sleep(0)
    if self.user._state == LOCUST_STATE_STOPPING:
        raise StopUser


def _has_users(kind: Any = User) -> bool:
    return any(one.abstract is False or _has_users(one) for one in kind.__subclasses__())


if not _has_users():
    # Locust would go on to look for tests of pytest's, whose users cannot be told when to send.
    sys.exit("The locustfile has no class of users: it needs one, of FastHttpUser or HttpUser, with a task.")

# Locust's own are untyped.
hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(begin)
