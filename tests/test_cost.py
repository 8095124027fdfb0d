"""What a span costs, as the agent measures it for the receiver: bounded, thrown away, and on every way out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import autoinstr
from autoinstr import cost, runtime, trouble
from autoinstr.model import Resource, SpanData
from autoinstr.report import NullReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import Tracer, current
from autoinstr.wire import jaeger, otlp, zipkin
from fakes import DEADLINE_S, Collector, FakeEncoder, make_span, response, until

NAME = "autoinstr.span_cost_us"


class Clock:
    """CPU time that passes only where ``work`` says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowTracer(Tracer):
    """A tracer whose spans take so long to start, slice by slice."""

    def __init__(self, clock: Clock, *costs_s: float) -> None:
        super().__init__(ConstSampler(True), NullReporter())
        self.clock, self.costs_s, self.started = clock, list(costs_s), 0

    def start(self, *arguments: Any, **keywords: Any) -> Any:
        self.clock.now += self.costs_s[min(self.started // cost.CYCLES, len(self.costs_s) - 1)]
        self.started += 1
        return super().start(*arguments, **keywords)


class SlowEncoder(FakeEncoder):
    """An encoder that takes so long for each span; the first of each name as much more."""

    def __init__(self, clock: Clock, cost_s: float, first_s: float = 0.0) -> None:
        super().__init__()
        self.clock, self.cost_s, self.first_s = clock, cost_s, first_s
        self.seen: set[str] = set()

    def encode(self, spans: Any, lost: Any = (0, 0, 0)) -> Any:
        self.clock.now += self.cost_s * len(spans) + self.first_s * len({span.name for span in spans} - self.seen)
        self.seen |= {span.name for span in spans}
        return super().encode(spans, lost)


def measure(
    tracer: SlowTracer, *encoders: SlowEncoder, spans: int = 1, in_haste: bool = False
) -> tuple[float, list[float]]:
    """The figure, and the rests between slices."""
    rests: list[float] = []
    finished = [make_span(number) for number in range(1, spans + 1)]
    found = cost.span_cost_us(tracer, encoders, finished, in_haste=in_haste, clock=tracer.clock, rest=rests.append)
    return found, rests


def test_the_figure_is_start_and_end_and_each_encoding() -> None:
    """Nobody could say what a second exporter costs, and whether tracing is worth it."""
    clock = Clock()
    encoders = [SlowEncoder(clock, 3e-6), SlowEncoder(clock, 5e-6)]
    assert measure(SlowTracer(clock, 2e-6), *encoders)[0] == pytest.approx(10)


def test_the_fastest_slice_of_the_tracer_counts() -> None:
    """One hiccup of the machine would stand beside the service until it is restarted."""
    clock = Clock()
    assert measure(SlowTracer(clock, 3e-6, 1e-6, 2e-6, 1e-6), SlowEncoder(clock, 1e-6))[0] == pytest.approx(2)


def test_what_repeats_is_measured_as_repeated_and_what_does_not_as_new() -> None:
    """Encoders keep what repeats: a service with a path of its own for each request pays more, and would not see it."""
    clock = Clock()
    tracer = SlowTracer(clock, 1e-6)
    assert measure(tracer, SlowEncoder(clock, 1e-6, first_s=20e-6), spans=1)[0] == pytest.approx(2)
    assert measure(tracer, SlowEncoder(clock, 1e-6, first_s=20e-6), spans=cost.MOST_SPANS)[0] == pytest.approx(22)


def test_the_agent_keeps_as_many_spans_as_can_be_used() -> None:
    """The two numbers stand in two files, because the one must not be loaded at start."""
    assert runtime.FIRST_SPANS == cost.MOST_SPANS


@pytest.mark.parametrize("slowness", [1e-7, 1e-6, 5e-6, 12e-6])
def test_it_takes_no_more_than_its_budget(slowness: float) -> None:
    """A slow machine would pay tens of milliseconds for a figure that it did not ask for."""
    clock = Clock()
    tracer, encoders = SlowTracer(clock, slowness), [SlowEncoder(clock, slowness) for _ in range(2)]
    measure(tracer, *encoders, spans=500)
    assert clock.now <= cost.BUDGET_S
    assert tracer.started <= cost.TRACER_SLICES * cost.CYCLES


def test_a_machine_too_slow_for_the_budget_gets_one_slice_of_each() -> None:
    """The budget is kept as well as it can be, and there is a figure."""
    clock = Clock()
    tracer, encoder = SlowTracer(clock, 1e-3), SlowEncoder(clock, 1e-3)
    assert measure(tracer, encoder)[0] == pytest.approx(2000)
    assert (tracer.started, encoder.batches) == (cost.CYCLES, [cost.FIRST, cost.SPANS])


def test_others_may_run_between_the_slices() -> None:
    """Requests would wait for the interpreter as long as all of it takes."""
    clock = Clock()
    _, rests = measure(SlowTracer(clock, 1e-6), SlowEncoder(clock, 1e-6))
    assert len(rests) == cost.TRACER_SLICES + 1 + cost.ENCODER_SLICES
    assert set(rests) == {cost.REST_S}


def test_no_rest_while_the_program_waits() -> None:
    """On a busy machine ten short sleeps are a tenth of a second, which a process that ends may not have."""
    clock = Clock()
    found, rests = measure(SlowTracer(clock, 1e-6), SlowEncoder(clock, 1e-6), in_haste=True)
    assert (found, rests) == (pytest.approx(2), [])


@pytest.mark.parametrize("in_haste", [True, False])
def test_the_worker_tells_haste_from_leisure(
    start: Callable[..., runtime.Runtime], monkeypatch: pytest.MonkeyPatch, in_haste: bool, tmp_path: Path
) -> None:
    """A service's first export would hold up its requests, or a child's last one its end."""
    said: list[bool] = []
    monkeypatch.setattr(cost, "span_cost_us", lambda *arguments, in_haste: said.append(in_haste) or 1.0)
    delay = "3600000" if in_haste else "10"
    start(AUTOINSTR_EXPORTER="file", AUTOINSTR_FILE=str(tmp_path / "spans"), OTEL_BSP_SCHEDULE_DELAY=delay)
    with autoinstr.span("work"):
        pass
    if in_haste:
        assert autoinstr.flush(DEADLINE_S)
    until(lambda: said, "the measuring")
    assert said == [in_haste]


def test_measuring_leaves_no_trace() -> None:
    """The worker would trace its own sending from then on, or count spans that never were."""
    encoder = jaeger.BinaryEncoder(Resource("a"))
    span = make_span()
    before = {name: getattr(span, name) for name in SpanData.__slots__}
    token = current.set(None)
    try:
        found = cost.span_cost_us(Tracer(ConstSampler(True), NullReporter()), [encoder], [span])
        assert current.get() is None
    finally:
        current.reset(token)
    assert {name: getattr(span, name) for name in SpanData.__slots__} == before
    assert 0.1 < found < 10_000


def test_the_clock_is_this_threads_own_where_there_is_one() -> None:
    """Another thread's work would be taken for ours."""
    clock = cost.cpu_clock()
    begun, cpu = time.perf_counter(), clock()
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    busy.start()
    time.sleep(0.2)
    cpu = clock() - cpu
    stop.set()
    busy.join()
    assert time.perf_counter() - begun >= 0.2
    if time.get_clock_info("thread_time").resolution < 1e-6:
        assert cpu < 0.1


# ---- On its way --------------------------------------------------------------------------------------


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., runtime.Runtime]]:
    monkeypatch.setattr(trouble, "_last_said", {})

    def begin(**environ: str) -> runtime.Runtime:
        settings = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1"}
        runtime.start({**settings, **environ}, instrument=False)
        assert runtime.running is not None
        return runtime.running

    yield begin
    runtime.stop()


WAYS = {
    "jaeger-http": ("JAEGER_ENDPOINT", "/api/traces", lambda body: [jaeger.decode_batch(body)]),
    "otlp": ("OTEL_EXPORTER_OTLP_ENDPOINT", "", otlp.decode_protobuf),
    "otlp json": ("OTEL_EXPORTER_OTLP_ENDPOINT", "", otlp.decode_json),
    "zipkin": ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "/api/v2/spans", zipkin.decode_json),
}


def send_one() -> None:
    with autoinstr.span("work"):
        pass
    assert autoinstr.flush(DEADLINE_S)


@pytest.mark.parametrize("way", list(WAYS))
def test_every_http_exporter_carries_the_figure(start: Callable[..., runtime.Runtime], way: str) -> None:
    """Services that export by another protocol would have no figure in the interface."""
    variable, path, decode = WAYS[way]
    collector = Collector(response())
    try:
        protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json" if "json" in way else "http/protobuf"}
        exporter = {"AUTOINSTR_EXPORTER": way.split(maxsplit=1)[0]}
        start(**exporter, **protocol, **{variable: f"http://127.0.0.1:{collector.port}{path}"})
        send_one()
        [batch] = decode(collector.requests[0].body)
        [span] = batch.spans
        said = {**batch.resource.attributes, **span.attributes}[NAME]
        assert 0.1 < float(said) < 10_000
        if way != "zipkin":  # Which has text only.
            assert isinstance(said, float)
        assert span.name == "work"
        assert len(collector.requests) == 1
    finally:
        collector.close()


def test_datagrams_carry_the_figure_and_are_numbered_from_the_first(start: Callable[..., runtime.Runtime]) -> None:
    """What was encoded for the measuring would look like lost datagrams to a receiver that counts them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(DEADLINE_S)
        port = str(agent.getsockname()[1])
        start(AUTOINSTR_EXPORTER="jaeger-udp", JAEGER_AGENT_HOST="127.0.0.1", JAEGER_AGENT_PORT=port)
        figures = []
        for number in (1, 2):
            send_one()
            batch = jaeger.decode_message(agent.recv(65_535))
            assert (batch.sequence, [span.name for span in batch.spans]) == (number, ["work"])
            figures.append(batch.resource.attributes[NAME])
        assert figures[0] == figures[1]


def test_nothing_is_measured_for_nobody(start: Callable[..., runtime.Runtime], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who exports nothing would pay for a figure that nobody sees."""
    calls: list[object] = []
    monkeypatch.setattr(cost, "span_cost_us", lambda *arguments, **keywords: calls.append(arguments) or 1.0)
    start(AUTOINSTR_EXPORTER="none")
    send_one()
    assert calls == []


def test_a_failure_costs_the_figure_not_the_spans(
    start: Callable[..., runtime.Runtime], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An encoder that stumbles over the first spans would stop all export."""

    def fail(*arguments: object, **keywords: object) -> float:
        raise RuntimeError("no clock")

    monkeypatch.setattr(cost, "span_cost_us", fail)
    collector = Collector(response())
    try:
        start(AUTOINSTR_EXPORTER="jaeger-http", JAEGER_ENDPOINT=f"http://127.0.0.1:{collector.port}/api/traces")
        send_one()
        batch = jaeger.decode_batch(collector.requests[0].body)
        assert NAME not in batch.resource.attributes
        assert len(batch.spans) == 1
    finally:
        collector.close()
    assert capfd.readouterr().err.count("no clock") == 1


def test_the_programs_own_word_stands(start: Callable[..., runtime.Runtime]) -> None:
    """Whoever has measured better could not say so."""
    resource = Resource("a", {NAME: 1.5})
    config = SimpleNamespace(exporters=("file",), attribute_length=None, file_path="unused")
    runtime.add_span_cost(resource, config, [make_span()])  # type: ignore[arg-type]
    assert resource.attributes == {NAME: 1.5}


PROGRAM = """
import json, sys
from autoinstr import runtime, span, flush
before = "autoinstr.cost" in sys.modules
with span("work"):
    pass
waiting = "autoinstr.cost" in sys.modules
flush(20)
print(json.dumps([before, waiting, "autoinstr.cost" in sys.modules]))
"""


def test_nothing_is_loaded_or_measured_before_the_first_export(tmp_path: Path) -> None:
    """Every start of a traced program, and its first request, would be slower."""
    environ = {
        **os.environ,
        "AUTOINSTR_EXPORTER": "file",
        "AUTOINSTR_FILE": str(tmp_path / "spans.jsonl"),
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
    }
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "autoinstr", str(script)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [False, False, True]
    [batch] = otlp.decode_json((tmp_path / "spans.jsonl").read_bytes())
    assert 0.1 < batch.resource.attributes[NAME] < 10_000
