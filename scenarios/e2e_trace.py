"""From end to end: has the trace of each request arrived whole at the backend?

    autoinstr serve
    JAEGER_SAMPLER_TYPE=const JAEGER_SAMPLER_PARAM=1 python -m autoinstr gunicorn ... flask_app:app
    locust -f e2e_trace.py --host http://127.0.0.1:8000 --backend http://127.0.0.1:16686 --headless --run-time 1m

Each request brings a trace context of its own. Then the backend is asked for that trace until it is whole, which counts as
a request "TRACE" with the time that it took; one that is not whole in time is a failure, and Locust ends with status 1.
With --calls N the service calls the one behind N times for each request, and as many more spans are asked for.
"""

from __future__ import annotations

import sys
import time
from collections import deque

import gevent
from common import Visitor, new_id
from locust import between, events, task
from locust.runners import LocalRunner
from traces import Sent, spans_of, trouble


@events.init_command_line_parser.add_listener
def add_options(parser):
    def add(name, kind, default, text):
        variable = f"SCENARIO_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=f"{text} ({default})")

    add("backend", str, "http://127.0.0.1:16686", "e2e_trace: where traces are asked for")
    add("calls", int, 0, "e2e_trace: calls of the service behind per request")
    add("patience", float, 10.0, "e2e_trace: seconds that a trace may take to be whole")


class Examiner:
    """Keeps what was sent until the backend has it, or the time is up; every outcome becomes a request of Locust's."""

    #: Seconds between two looks at the same trace.
    PAUSE_S = 0.2

    def __init__(self, environment):
        self.environment = environment
        self.waiting = deque()
        self.is_over = False
        self.greenlet = gevent.spawn(self._examine_always)

    def expect(self, sent, route):
        if not self.is_over:
            self.waiting.append((time.monotonic(), sent, route))

    def finish(self):
        """What is still waiting gets its time, and no more comes."""
        self.is_over = True
        self.greenlet.join()

    def _examine_always(self):
        while self.waiting or not self.is_over:
            for _ in range(len(self.waiting)):
                self._examine(*self.waiting.popleft())
            gevent.sleep(self.PAUSE_S)

    def _examine(self, since, sent, route):
        options = self.environment.parsed_options
        spans = []
        try:
            spans = spans_of(options.backend, sent.trace_id)
            found = trouble(sent, spans)
        except (OSError, ValueError) as error:
            found = f"the backend at {options.backend} does not answer: {error}"
        if found and time.monotonic() < since + options.patience:
            self.waiting.append((since, sent, route))
            return
        self.environment.events.request.fire(
            request_type="TRACE",
            name=route,
            response_time=(time.monotonic() - since) * 1000,
            response_length=len(spans),
            exception=AssertionError(found) if found else None,
            context={},
        )


@events.init.add_listener
def refuse_many_processes(environment, **_):
    """A master does not wait for what its workers still examine: lost traces would not count, and the check would pass."""
    if not isinstance(environment.runner, LocalRunner):
        sys.exit("e2e_trace examines traces in one process: leave out --processes, --master and --worker")


@events.test_start.add_listener
def start(environment, **_):
    environment.examiner = Examiner(environment)


@events.test_stop.add_listener
def finish(environment, **_):
    environment.examiner.finish()


@events.quitting.add_listener
def stop_first(environment, **_):
    """After SIGTERM Locust decides on its status before it stops the users: what their last traces say would not count."""
    environment.runner.stop()


class Traced(Visitor):
    # Slowly: each request is followed by questions to the backend.
    wait_time = between(0.05, 0.15)

    @task
    def traced(self):
        calls = self.environment.parsed_options.calls
        path, route = (f"/fanout?n={calls}", "/fanout") if calls else ("/items/7", "/items/{id}")
        sent = Sent(new_id(16), new_id(8), 1 + calls)
        answer = self.client.get(path, name=route, headers={"traceparent": f"00-{sent.trace_id}-{sent.span_id}-01"})
        if answer.ok:
            self.environment.examiner.expect(sent, route)
