"""celery: real workers of every pool, a real broker, and one trace across it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import celery
import kombu.pools
import pytest
from celery import signals
from kombu.exceptions import OperationalError

from autoinstr import trouble
from autoinstr.model import Kind, Status
from autoinstr.trace import current
from fakes import SpanSink, until
from ports import free_port

from . import redis_server
from .contract_client import below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter

needs_broker = pytest.mark.skipif(redis_server.BINARY is None, reason=redis_server.WHY_NOT)
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")

SHOP = """\
import http.client
import os
from celery import Celery

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, task_protocol=int(os.environ.get("PROTOCOL", "2")))

@app.task(name="add")
def add(a, b):
    return a + b

@app.task(name="outer")
def outer():
    add.delay(1, 2)
    return os.getpid()

@app.task(name="flaky", bind=True, default_retry_delay=0)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("odd"), countdown=0)
    return self.request.retries

@app.task(name="broken")
def broken():
    raise KeyError("nope")
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server.running(tmp_path_factory.mktemp("broker")) as port:
        yield f"redis://127.0.0.1:{port}/"


class Sink(SpanSink):
    """With attributes."""

    def all_attributes(self, name: str) -> list[dict[str, Any]]:
        """Of the spans of a name; numbers as numbers."""
        spans = [
            span
            for request in list(self.requests)
            for group in json.loads(request.body)["resourceSpans"]
            for scope in group["scopeSpans"]
            for span in scope["spans"]
        ]
        return [{item["key"]: read_value(item["value"]) for item in span["attributes"]} for span in spans if span["name"] == name]

    def attributes(self, name: str) -> dict[str, Any]:
        """Of the only span of a name."""
        (one,) = self.all_attributes(name)
        return one


def read_value(value: dict[str, Any]) -> Any:
    return int(value["intValue"]) if "intValue" in value else next(iter(value.values()))


@pytest.fixture
def sink() -> Iterator[Sink]:
    one = Sink()
    yield one
    one.close()


class Stage:
    """A worker, and an application that sends it tasks from here."""

    def __init__(self, folder: Path, broker: str, sink: Sink) -> None:
        self.folder, self.broker, self.sink = folder, broker, sink
        self.app = celery.Celery("client", broker=broker, backend=broker)

    @contextlib.contextmanager
    def worker(self, pool: str, *options: str, end: int = signal.SIGTERM, **environ: str) -> Iterator[None]:
        """It is ended as a supervisor ends it, and has sent everything then: it never does by itself."""
        (self.folder / "shop.py").write_text(SHOP)
        words = ["-A", "shop", "worker", "--pool", pool, "--concurrency", "2", "--loglevel", "INFO", "--without-mingle", "--without-gossip", *options]
        paths = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        env = {
            **os.environ, **self.sink.environ, "BROKER": self.broker, "PYTHONPATH": paths,
            "JAEGER_REPORTER_FLUSH_INTERVAL": "1h", "C_FORCE_ROOT": "1", **environ,
        }
        with open(self.folder / "log", "wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "autoinstr", "-m", "celery", *words], cwd=self.folder, env=env, stdout=log, stderr=log)
        try:
            yield
            process.send_signal(end)
            process.wait(20)
        finally:
            process.kill()
            process.wait()
        assert "autoinstr:" not in self.log

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def send(self, task: str, *arguments: Any, **options: Any) -> Any:
        result = self.app.send_task(task, arguments, **options)
        try:
            return result.get(timeout=20)
        finally:
            result.forget()

    def arrived(self) -> dict[str, Any]:
        """Spans by name, without those of the result backend's commands."""
        return {name: found for name, found in ((span[0], span) for span in self.sink.spans) if " " in name}


@pytest.fixture
def stage(tmp_path: Path, broker: str, sink: Sink) -> Iterator[Stage]:
    number = int(sink.port) % 1000 % 15 + 1
    one = Stage(tmp_path, f"{broker}{number}", sink)
    yield one
    one.app.close()
    one.app.backend.client.close()
    one.app.backend.client.connection_pool.disconnect()
    kombu.pools.reset()


@needs_broker
@pytest.mark.parametrize("pool", POOLS)
def test_one_trace_across_the_broker(stage: Stage, watch: Callable[..., Watcher], reporter: InMemoryReporter, pool: str) -> None:
    """What a request has set going would be another trace, or none: in workers that fork, or whose threads are none."""
    watcher = watch()
    # These two take five seconds for an orderly end, also without us.
    is_slow = pool in ("gevent", "eventlet")
    end, interval = (signal.SIGKILL, "100ms") if is_slow else (signal.SIGTERM, "1h")
    with stage.worker(pool, end=end, JAEGER_REPORTER_FLUSH_INTERVAL=interval):
        with below(watcher) as parent:
            pid = stage.send("outer")
        until(lambda: "Task add" in stage.log and stage.log.count("succeeded") == 2, "the second task")
        if is_slow:
            until(lambda: set(stage.arrived()) >= {"run outer", "publish add", "run add"}, "the arrival of the spans")
    sent = next(span for span in reporter.spans if span.name == "publish outer")
    assert (sent.kind, sent.trace_id, sent.parent_id) == (Kind.PRODUCER, parent.trace_id, parent.span_id)
    arrived = stage.arrived()
    assert set(arrived) >= {"run outer", "publish add", "run add"}
    ids = {"publish outer": f"{sent.span_id:016x}", **{name: span[3] for name, span in arrived.items()}}
    trace = f"{parent.trace_id:032x}"
    assert {name: span[2] for name, span in arrived.items()} == dict.fromkeys(arrived, trace)
    assert arrived["run outer"][4] == ids["publish outer"]
    assert arrived["publish add"][4] == ids["run outer"]
    assert arrived["run add"][4] == ids["publish add"]
    assert arrived["run outer"][1] == pid
    # What the worker does for itself is no trace.
    assert {span[2] for span in stage.sink.spans} == {trace}


@needs_broker
def test_retries_failures_and_chains(stage: Stage, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """A retry would hang below the run that sent the first message, and a failure would look like a success."""
    watcher = watch()
    with stage.worker("threads"):
        with below(watcher):
            assert stage.send("flaky") == 2
        with below(watcher), pytest.raises(KeyError):
            stage.send("broken")
        with below(watcher) as chained:
            add = stage.app.signature("add")
            result = celery.chain(add.clone((1, 2)), add.clone((3,))).apply_async()
            assert result.get(timeout=20) == 6
    runs = [span for span in stage.sink.spans if span[0] == "run flaky"]
    sends = [span for span in stage.sink.spans if span[0] == "publish flaky"]
    (first,) = [span for span in reporter.spans if span.name == "publish flaky"]
    parents = {span[3]: span[4] for span in [*runs, *sends]}
    assert (len(runs), len(sends)) == (3, 2)
    # run < publish < run < publish < run < publish
    one, steps = next(span[3] for span in runs if span[3] not in parents.values()), 0
    while one in parents:
        one, steps = parents[one], steps + 1
    assert (one, steps) == (f"{first.span_id:016x}", 5)
    chain_runs = [span for span in stage.sink.spans if span[0] == "run add"]
    assert [span[2] for span in chain_runs] == [f"{chained.trace_id:032x}"] * 2
    known = stage.sink.attributes("run broken")
    assert known["celery.state"] == "FAILURE"
    assert known["error.type"] == "KeyError"
    assert known["messaging.destination.name"] == "celery"
    assert sorted(str(one.get("celery.state")) for one in stage.sink.all_attributes("run flaky")) == ["RETRY", "RETRY", "SUCCESS"]
    assert sorted(one.get("celery.retries", 0) for one in stage.sink.all_attributes("run flaky")) == [0, 1, 2]


@needs_broker
def test_processes_that_are_replaced(stage: Stage, watch: Callable[..., Watcher]) -> None:
    """The spans of all but the last process would be lost: they end by themselves, not with the worker."""
    watch()
    with stage.worker("prefork", "--max-tasks-per-child", "1"):
        assert [stage.send("add", number, 1) for number in range(2)] == [1, 2]
    runs = [span for span in stage.sink.spans if span[0] == "run add"]
    assert len({span[1] for span in runs}) == len(runs) == 2


@needs_broker
def test_a_process_of_the_pool_that_is_terminated(stage: Stage, watch: Callable[..., Watcher]) -> None:
    """Supervisors send SIGTERM to all processes of a service; those of the pool have put the default back, and die of it."""
    watch()
    with stage.worker("prefork", "--concurrency", "1"):
        # A result is there a little before the end of its span: that of the first is over when the second begins.
        pids = {stage.send("outer"), stage.send("outer")}
        os.kill(pids.pop(), signal.SIGTERM)
        until(lambda: "run outer" in stage.sink.names, "the arrival of what the process has kept")
        assert not pids


@needs_broker
def test_the_old_protocol(stage: Stage, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Old workers want it, and its messages are built otherwise."""
    watcher = watch()
    stage.app.conf.task_protocol = 1
    with stage.worker("solo", PROTOCOL="1"), below(watcher) as parent:
        stage.send("outer")
        until(lambda: stage.log.count("succeeded") == 2, "the second task")
    assert {name: span[2] for name, span in stage.arrived().items()} == dict.fromkeys(
        ("run outer", "publish add", "run add"), f"{parent.trace_id:032x}"
    )
    sent = next(span for span in reporter.spans if span.name == "publish outer")
    assert sent.attributes["messaging.message.id"]


class Local:
    """An application whose broker is the memory of this process."""

    def __init__(self, **settings: Any) -> None:
        self.app = celery.Celery("local", broker="memory://", set_as_current=False)
        self.app.conf.update(**settings)
        self.sent: list[dict[str, Any]] = []
        self.seen: list[Any] = []

        @self.app.task(name="add")
        def add(a: Any, b: Any) -> Any:
            self.seen.append(current.get())
            return a + b

        @self.app.task(name="bad")
        def bad() -> float:
            return 1 / 0

        self.add, self.bad = add, bad

    def note(self, headers: Any = None, **_: Any) -> None:
        """A receiver of the program's."""
        self.sent.append(dict(headers))


@pytest.fixture
def local() -> Iterator[Local]:
    one = Local()
    signals.after_task_publish.connect(one.note)
    yield one
    signals.after_task_publish.disconnect(one.note)
    one.app.close()


def test_attributes_of_what_is_sent(local: Local, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """One could not tell which queue is slow, nor find the task of a log line; arguments would lie open."""
    watch()
    result = local.add.apply_async(("secret", 2), queue="urgent")
    (span,) = reporter.spans
    assert (span.name, span.kind, span.scope, span.status) == ("publish add", Kind.PRODUCER, "celery", Status.UNSET)
    found = {key: value for key, value in span.attributes.items() if key.startswith(("messaging.", "celery.", "server."))}
    assert found == {
        "messaging.system": "celery",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "urgent",
        "messaging.message.id": result.id,
        "celery.task_name": "add",
        "server.address": "localhost",
    }
    assert f"{span.span_id:016x}" in local.sent[0]["traceparent"]


def test_a_broker_that_refuses(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """What could not be sent would have no span at all, or an open one for ever."""
    watch()
    app = celery.Celery("refused", broker=f"redis://:secret@127.0.0.1:{free_port()}/", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0}
    with pytest.raises(OperationalError):
        app.send_task("add", retry=False)
    app.close()
    span = reporter.spans[-1]
    assert (span.name, span.status, span.attributes["server.address"]) == ("publish add", Status.ERROR, "127.0.0.1")
    assert current.get() is None
    assert "secret" not in str(span.attributes)


def test_headers_of_the_program(local: Local, watch: Callable[..., Watcher]) -> None:
    """They would be lost, or an old context would be sent again."""
    watcher = watch()
    stale = {"own": "kept", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "old=1"}
    with below(watcher) as parent:
        local.add.apply_async((1, 2), headers=stale)
    assert local.sent[0]["own"] == "kept"
    assert f"{parent.trace_id:032x}" in local.sent[0]["traceparent"]
    assert "tracestate" not in local.sent[0]


def test_a_trace_that_is_not_kept(local: Local, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The worker would decide anew, and keep the half of a trace."""
    watcher = watch(keep=False)
    with below(watcher) as parent:
        local.add.delay(1, 2)
    assert local.sent[0]["traceparent"] == f"00-{parent.trace_id:032x}-{parent.span_id:016x}-02"
    assert not reporter.spans


def test_eager(local: Local, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """In tests and in small installations tasks run where they are called."""
    watcher = watch()
    local.app.conf.task_always_eager = True
    with below(watcher) as parent:
        assert local.add.delay(1, 2).get() == 3
        assert local.bad.delay().state == "FAILURE"
        assert current.get() is parent
    good, bad = reporter.spans
    assert (good.name, good.kind, good.parent_id) == ("run add", Kind.INTERNAL, parent.span_id)
    assert local.seen[0] is good
    assert (bad.name, bad.status, bad.attributes["error.type"]) == ("run bad", Status.ERROR, "ZeroDivisionError")
    assert bad.attributes["celery.state"] == "FAILURE"


def test_a_task_that_is_called_is_a_function(local: Local, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    watch()
    assert local.add(1, 2) == 3
    assert not reporter.spans


def test_trouble_of_ours_stays_ours(local: Local, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A task would fail, or not be sent, by a mistake of the agent's."""
    watcher = watch()
    monkeypatch.setattr(trouble, "_last_said", {})
    monkeypatch.setattr(type(watcher.tracing.plain), "inject", lambda *_: 1 / 0)
    monkeypatch.setattr(type(watcher.tracing.tracer), "start", lambda *_: 1 / 0)
    local.add.delay(1, 2)
    assert local.sent
    assert local.add.apply((1, 2)).get() == 3
    assert "internal error in a signal of celery" in capfd.readouterr().err


def test_nothing_is_left_of_it(watch: Callable[..., Watcher], local: Local, reporter: InMemoryReporter) -> None:
    counts = len(signals.task_prerun.receivers), len(signals.before_task_publish.receivers)
    watcher = watch()
    assert len(signals.task_prerun.receivers) == counts[0] + 1
    watcher.uninstall()
    assert (len(signals.task_prerun.receivers), len(signals.before_task_publish.receivers)) == counts
    local.add.delay(1, 2)
    local.add.apply((1, 2))
    assert not reporter.spans
