"""The agent put together in this process: what it counts, what it hooks into the process and takes out again."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

import autoinstr
from autoinstr import runtime, trouble
from autoinstr.model import SpanContext
from fakes import DEADLINE_S, SpanSink, make_span


@pytest.fixture
def sink() -> Iterator[SpanSink]:
    one = SpanSink()
    yield one
    one.close()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., runtime.Runtime]]:
    monkeypatch.setattr(trouble, "_last_said", {})

    def begin(**environ: str) -> runtime.Runtime:
        runtime.start({"AUTOINSTR_EXPORTER": "none", "OTEL_BSP_SCHEDULE_DELAY": "3600000", **environ}, instrument=False)
        assert runtime.running is not None
        return runtime.running

    yield begin
    runtime.stop()


ALL = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1"}
NONE = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "0"}


def test_counts_of_kept_traces(start: Callable[..., runtime.Runtime], sink: SpanSink) -> None:
    """Dashboards would show fewer spans finished than started, or more sent than there were."""
    agent = start(**sink.environ)
    with autoinstr.span("root"), autoinstr.span("child"):
        assert agent.metrics()['started_spans{sampled="y"}'] == 2
        assert agent.metrics()['finished_spans{sampled="y"}'] == 0
    with autoinstr.span("joined", parent=SpanContext(1, 2, 1, is_remote=True)):
        pass
    assert agent.metrics()["reporter_queue_length"] == 3
    assert agent.metrics()["reporter_backlog_length"] == 0
    assert autoinstr.flush(DEADLINE_S)
    counts = agent.metrics()
    assert {name: count for name, count in counts.items() if count} == {
        'traces{state="started",sampled="y"}': 1,
        'traces{state="joined",sampled="y"}': 1,
        'started_spans{sampled="y"}': 3,
        'finished_spans{sampled="y"}': 3,
        'reporter_spans{result="ok"}': 3,
    }
    assert autoinstr.metrics() == counts
    assert sink.names == ["child", "joined", "root"]


def test_counts_of_dropped_traces(start: Callable[..., runtime.Runtime]) -> None:
    """The rate at which traces are kept could not be read from the numbers."""
    agent = start(**NONE)
    with autoinstr.span("root"):
        pass
    with autoinstr.span("joined", parent=SpanContext(1, 2, 0, is_remote=True)):
        pass
    assert {name: count for name, count in agent.metrics().items() if count} == {
        'traces{state="started",sampled="n"}': 1,
        'traces{state="joined",sampled="n"}': 1,
        'started_spans{sampled="n"}': 2,
        'finished_spans{sampled="n"}': 2,
    }


def test_counts_of_drops_and_failures(start: Callable[..., runtime.Runtime], sink: SpanSink) -> None:
    """Lost spans would not be seen."""
    sink.answers = [b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"]
    agent = start(**sink.environ, OTEL_BSP_MAX_QUEUE_SIZE="2", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")
    agent.reporter._attention = 2  # No worker yet, so that the queue fills.
    for number in range(5):
        agent.reporter.report(make_span(number + 1))
    assert agent.metrics()['reporter_spans{result="dropped"}'] == 3
    assert agent.flush(DEADLINE_S)
    assert agent.metrics()['reporter_spans{result="err"}'] == 2
    assert agent.metrics()['finished_spans{sampled="y"}'] == 5


def test_partial_success_is_counted(start: Callable[..., runtime.Runtime], sink: SpanSink) -> None:
    """A collector that refuses spans in an answer of success would hide it."""
    body = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "odd"}}'
    sink.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
    agent = start(**sink.environ)
    for name in ("a", "b", "c"):
        with autoinstr.span(name):
            pass
    assert agent.flush(DEADLINE_S)
    assert (agent.metrics()['reporter_spans{result="ok"}'], agent.metrics()['reporter_spans{result="err"}']) == (2, 1)
    assert len(sink.requests) == 1


def test_start_twice_is_one_agent(start: Callable[..., runtime.Runtime]) -> None:
    """A reloaded module would add a second agent: every span twice."""
    agent = start(**ALL)
    assert start(**NONE) is agent


def test_stop_puts_everything_back(start: Callable[..., runtime.Runtime]) -> None:
    """A test-suite that starts and stops the agent would pile up hooks."""
    before = (os._exit, os.execv, os.execve, signal.getsignal(signal.SIGTERM), list(sys.meta_path))
    start(**ALL)
    assert os._exit is not before[0]
    assert signal.getsignal(signal.SIGTERM) is not before[3]
    runtime.stop()
    assert (os._exit, os.execv, os.execve, signal.getsignal(signal.SIGTERM), sys.meta_path) == before
    runtime.stop()


def test_stop_leaves_what_the_program_has_put_there(start: Callable[..., runtime.Runtime]) -> None:
    """The program's own handlers would be taken away with ours."""
    start(**ALL)
    theirs = os._exit, lambda *_: None
    os._exit = wrapped = lambda status: theirs[0](status)  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, theirs[1])
    try:
        runtime.stop()
        assert (os._exit, signal.getsignal(signal.SIGTERM)) == (wrapped, theirs[1])
    finally:
        os._exit = theirs[0].__wrapped__  # type: ignore[attr-defined]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_own_handler_of_sigterm_is_left_alone(start: Callable[..., runtime.Runtime]) -> None:
    """A program embedded in one that handles SIGTERM would lose that."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        start(**ALL)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_wrapped_functions_look_like_the_originals(start: Callable[..., runtime.Runtime]) -> None:
    """Programs that pickle or inspect ``os._exit`` (as ``multiprocessing`` does with targets) would fail."""
    signatures = [inspect.signature(function) for function in (os._exit, os.execv, os.execve)]
    start(**ALL)
    functions = (os._exit, os.execv, os.execve)
    assert [inspect.signature(function) for function in functions] == signatures
    assert [pickle.loads(pickle.dumps(function)) for function in functions] == list(functions)
    with pytest.raises(TypeError):
        os._exit()  # type: ignore[call-arg]


def test_exporter_that_cannot_be_built_is_left_out(
    start: Callable[..., runtime.Runtime],
    sink: SpanSink,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One wrong setting would cost the spans of all exporters."""
    build = runtime.build_exporter

    def fail_for_zipkin(name: str, *arguments: object) -> object:
        if name == "zipkin":
            raise ValueError("odd")
        return build(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime, "build_exporter", fail_for_zipkin)
    agent = start(**{**sink.environ, "AUTOINSTR_EXPORTER": "zipkin,otlp"})
    with autoinstr.span("a"):
        pass
    assert agent.flush(DEADLINE_S)
    assert sink.names == ["a"]
    assert capfd.readouterr().err == "autoinstr: exporter zipkin cannot be used: ValueError: odd\n"


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({"JAEGER_USER": "me", "JAEGER_PASSWORD": "pw", "JAEGER_AUTH_TOKEN": "t"}, "Basic bWU6cHc="),
        ({"JAEGER_AUTH_TOKEN": "t"}, "Bearer t"),
    ],
)
def test_authorization_at_a_jaeger_collector(
    start: Callable[..., runtime.Runtime], sink: SpanSink, environ: dict[str, str], header: str
) -> None:
    """A collector behind a gateway would refuse all spans; basic authentication wins, as in Jaeger's clients."""
    agent = start(
        **ALL, **environ, AUTOINSTR_EXPORTER="jaeger-http", JAEGER_ENDPOINT=f"http://127.0.0.1:{sink.port}/api/traces"
    )
    with autoinstr.span("a"):
        pass
    assert agent.flush(DEADLINE_S)
    (request,) = sink.requests
    assert (request.headers["authorization"], request.target) == (header, "/api/traces")
    assert request.headers["content-type"] == "application/x-thrift"


def test_child_counts_from_zero(start: Callable[..., runtime.Runtime], sink: SpanSink) -> None:
    """Sums over the workers of a server would count their master's spans once for each."""
    agent = start(**sink.environ)
    with autoinstr.span("a"):
        pass
    child = os.fork()
    if child == 0:
        counts = runtime.running.metrics() if runtime.running else {"": 1}
        os._exit(1 if any(counts.values()) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert agent.metrics()["reporter_queue_length"] == 1
