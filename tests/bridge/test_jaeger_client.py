"""jaeger_client on this engine: services that were written for it, and what their settings do here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("opentracing")

import opentracing

from autoinstr import runtime
from autoinstr.bridge import jaeger_client as ours
from autoinstr.bridge.jaeger_client import Config
from autoinstr.model import SAMPLED, Kind
from autoinstr.trace import current
from autoinstr.wire.jaeger_read import decode_message
from fakes import DEADLINE_S, until
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.model import SpanData

ROOM = "autoinstr.bridge.jaeger_client"


class Agent:
    """Jaeger's agent: reads datagrams."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(DEADLINE_S)
        self.port: int = self.socket.getsockname()[1]
        self.services: dict[str, dict[str, Any]] = {}

    def receive(self, count: int) -> list[SpanData]:
        spans: list[SpanData] = []
        while len(spans) < count:
            batch = decode_message(self.socket.recv(65536))
            self.services[batch.resource.service_name] = batch.resource.attributes
            spans += batch.spans
        return spans

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    with contextlib.closing(Agent()) as started:
        yield started


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a new process; what was started is taken down."""
    monkeypatch.setattr(Config, "_initialized", False)
    monkeypatch.setattr(Config, "_followed", None)
    others: list[runtime.Runtime] = []
    install = runtime.Runtime.install

    def note(agent: runtime.Runtime, *, instrument: bool = True) -> None:
        others.append(agent)
        install(agent, instrument=instrument)

    monkeypatch.setattr(runtime.Runtime, "install", note)
    yield
    for agent in others:
        if agent is not runtime.running:
            agent.uninstall()
    runtime.stop()
    opentracing._reset_global_tracer()


def config_of(agent: Agent, **settings: Any) -> dict[str, Any]:
    return {
        "sampler": {"type": "const", "param": 1},
        "local_agent": {"reporting_host": "127.0.0.1", "reporting_port": agent.port},
        **settings,
    }


# Real services ----------------------------------------------------------------------------------------------------

SCRIPT = """
import logging, sys, time
import opentracing
from opentracing.ext import tags
from ROOM import Config
from ROOM.constants import TRACE_ID_HEADER
from ROOM.span_context import SpanContext

config = Config(
    config={
        'sampler': {'type': 'const', 'param': 1},
        'local_agent': {'reporting_host': '127.0.0.1', 'reporting_port': int(sys.argv[1])},
        'logging': True,
        'reporter_batch_size': 1,
        'tags': {'deployment': 'blue', 'shard': 7},
    },
    service_name='shop',
    validate=True,
)
tracer = config.initialize_tracer()
assert opentracing.global_tracer() is tracer
assert config.initialize_tracer() is None and Config.initialized()

with tracer.start_active_span('GET /checkout', tags={tags.SPAN_KIND: tags.SPAN_KIND_RPC_SERVER}) as scope:
    scope.span.set_baggage_item('user', 'x')
    with opentracing.tracer.start_active_span('charge') as inner:
        inner.span.set_tag(tags.HTTP_STATUS_CODE, 200)
        inner.span.set_tag('amount', 12.5)
        inner.span.set_tag('items', ['a', 1])
        inner.span.log_kv({'event': 'paid', 'currency': 'EUR'})
        headers = {}
        tracer.inject(inner.span, opentracing.Format.HTTP_HEADERS, headers)
        trace_id, span_id, _, flags = headers[TRACE_ID_HEADER].split(':')
        assert int(trace_id, 16) == inner.span.trace_id and int(span_id, 16) == inner.span.span_id and flags == '1'
        assert headers['uberctx-user'] == 'x'
        later = tracer.start_span('mail', references=opentracing.follows_from(inner.span.context), tags={'error': True})
    later.finish()
remote = tracer.extract(opentracing.Format.HTTP_HEADERS, headers)
assert isinstance(remote, SpanContext) and remote.trace_id == inner.span.trace_id
tracer.start_span('remote', child_of=remote, start_time=1600000000.5).finish(1600000001.25)
try:
    with tracer.start_active_span('failing'):
        raise ValueError('broken')
except ValueError:
    pass
tracer.close()
time.sleep(float(sys.argv[2]))
"""


def run_script(folder: Path, agent: Agent, room: str, *launcher: str, linger_s: float = 0) -> dict[str, SpanData]:
    path = folder / "app.py"
    path.write_text(SCRIPT.replace("ROOM", room))
    done = subprocess.run(
        [sys.executable, *launcher, str(path), str(agent.port), str(linger_s)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {span.name: span for span in agent.receive(5)}


def shape(spans: dict[str, SpanData]) -> dict[str, Any]:
    """What two implementations should have in common: everything but ids, times and the words for an exception."""
    names = {span.span_id: span.name for span in spans.values()}
    return {
        name: (
            names.get(span.parent_id),
            span.kind if span.kind == Kind.SERVER else Kind.INTERNAL,
            span.status,
            span.flags,
            {key: value for key, value in span.attributes.items() if key != "error.type"},
            [(names[link.context.span_id], link.child_of) for link in span.links],
            [(event.name, dict(event.attributes)) for event in span.events or () if event.name == "paid"],
            len([event for event in span.events or () if event.name != "baggage"]),
        )
        for name, span in spans.items()
    }


@pytest.mark.parametrize("launcher", [(), ("-m", "autoinstr")], ids=["bare", "launched"])
def test_a_service_runs_after_one_import_is_changed(tmp_path: Path, agent: Agent, launcher: tuple[str, ...]) -> None:
    """That is what users of jaeger_client are promised: the spans, their tags and their process are there as before."""
    spans = run_script(tmp_path, agent, ROOM, *launcher)
    names = ("GET /checkout", "charge", "mail", "remote", "failing")
    checkout, charge, mail, remote, failing = (spans[name] for name in names)
    assert {checkout.trace_id} == {span.trace_id for span in (charge, mail, remote)} != {failing.trace_id}
    assert (remote.start_ns, remote.end_ns) == (1_600_000_000_500_000_000, 1_600_000_001_250_000_000)
    assert checkout.attributes["sampler.type"] == "const"
    (event,) = failing.events or ()
    assert (event.name, event.attributes["exception.message"]) == ("exception", "broken")
    process = agent.services["shop"]
    assert (process["deployment"], process["shard"]) == ("blue", 7)
    assert list(agent.services) == ["shop"]


def test_it_is_what_jaeger_client_sends(tmp_path: Path, agent: Agent) -> None:
    """Dashboards and searches are made for what was sent before."""
    pytest.importorskip("jaeger_client")
    theirs = run_script(tmp_path, agent, "jaeger_client", "-W", "ignore", linger_s=1)
    assert shape(theirs) == shape(run_script(tmp_path, agent, ROOM))
    assert {theirs["mail"].parent_id, theirs["remote"].parent_id} == {theirs["charge"].span_id}


SERVICE = """
import sys
from flask import Flask
from flask_opentracing import FlaskTracing
import opentracing
from ROOM import Config

app = Flask(__name__)

def init():
    return Config(config={
        'sampler': {'type': 'const', 'param': 1},
        'local_agent': {'reporting_host': '127.0.0.1', 'reporting_port': int(sys.argv[1])},
        'reporter_flush_interval': 0.05,
    }, service_name='shop').initialize_tracer()

tracing = FlaskTracing(init, trace_all_requests=True, app=app)

@app.route('/cart')
def cart():
    with opentracing.global_tracer().start_active_span('load') as scope:
        scope.span.set_tag('rows', 3)
    return 'ok'

app.run(port=int(sys.argv[2]))
"""


@pytest.mark.parametrize("launcher", [(), ("-m", "autoinstr")], ids=["bare", "launched"])
def test_a_flask_service(tmp_path: Path, agent: Agent, launcher: tuple[str, ...]) -> None:
    """The usual service: an integration, the global tracer, perhaps automatic spans: all in the caller's trace."""
    pytest.importorskip("flask_opentracing")
    path, port = tmp_path / "app.py", free_port()
    path.write_text(SERVICE.replace("ROOM", ROOM))
    words = [sys.executable, "-W", "ignore", *launcher, str(path), str(agent.port), str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    request = Request(f"http://127.0.0.1:{port}/cart", headers={"uber-trace-id": "abc:def:0:1"})
    try:

        def answer() -> bytes:
            try:
                with urlopen(request, timeout=DEADLINE_S) as response:
                    return bytes(response.read())
            except OSError:
                assert process.poll() is None
                return b""

        assert until(answer, "the service") == b"ok"
        spans = {span.name: span for span in agent.receive(3 if launcher else 2)}
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
    assert {span.trace_id for span in spans.values()} == {0xABC}
    assert spans["load"].parent_id == spans["cart"].span_id
    assert spans["cart"].attributes["http.status_code"] == 200
    assert spans["cart"].scope == "Flask"
    if launcher:
        assert (spans["GET /cart"].parent_id, spans["cart"].parent_id) == (0xDEF, spans["GET /cart"].span_id)
    else:
        assert spans["cart"].parent_id == 0xDEF
    assert [span.kind for span in spans.values()].count(Kind.SERVER) == 1
    assert list(agent.services) == ["shop"]


# Configuration ----------------------------------------------------------------------------------------------------


def test_settings_become_the_agents(fresh: None, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that does nothing is found out in production."""
    monkeypatch.setenv("JAEGER_TAGS", "shard=8,zone=a")
    config = Config(
        config_of(
            agent,
            service_name="shop",
            local_agent={"reporting_host": "127.0.0.1", "reporting_port": agent.port, "sampling_port": 5770},
            sampler={"type": "rate_limiting", "param": 2.5},
            reporter_batch_size=7,
            reporter_queue_size=50,
            reporter_flush_interval=0.5,
            sampling_refresh_interval=5,
            max_operations=11,
            max_tag_value_length=9,
            generate_128bit_trace_id=False,
            tags={"shard": 7, "debug": True},
        ),
        validate=True,
    )
    tracer = config.new_tracer()
    running = runtime.running
    assert running is not None
    settings = running.config
    assert settings.service_name == "shop"
    assert (settings.sampler_type, settings.sampler_param) == ("ratelimiting", 2.5)
    assert (settings.agent_host, settings.agent_port) == ("127.0.0.1", agent.port)
    assert (settings.max_batch_size, settings.max_queue_size, settings.flush_interval_s) == (7, 50, 0.5)
    assert (running.reporter.max_batch, running.reporter.max_queue, running.reporter.interval_s) == (7, 50, 0.5)
    assert (settings.sampler_refresh_s, settings.sampler_max_operations) == (5, 11)
    assert settings.sampler_endpoint == "http://127.0.0.1:5770/sampling"
    assert settings.resource_attributes == {"shard": "8", "zone": "a", "debug": True}
    with tracer.start_span("a", tags={"long": "x" * 20}) as span:
        assert span.trace_id < 1 << 64
    (sent,) = agent.receive(1) if tracer.close().result() else ()
    assert sent.attributes["long"] == "x" * 9


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"type": "const", "param": True}, "const", 1.0),
        ({"type": "const", "param": "false"}, "const", 0.0),
        ({"type": "probabilistic", "param": "0.25"}, "probabilistic", 0.25),
        ({"type": "ratelimiting", "param": 3}, "ratelimiting", 3.0),
        ({"type": "remote", "param": 0.5}, "remote", 0.5),
        ({}, "remote", 0.001),
        (ours.ProbabilisticSampler(0.5), "probabilistic", 0.5),
        (ours.RemoteControlledSampler(None, "shop"), "remote", 0.001),
    ],
)
def test_samplers(fresh: None, agent: Agent, given: Any, kind: str, param: float) -> None:
    """A service would send nothing, or a thousand times as much."""
    Config(config_of(agent, sampler=given), service_name="shop").new_tracer()
    assert runtime.running is not None
    assert (runtime.running.config.sampler_type, runtime.running.config.sampler_param) == (kind, param)


def test_settings_that_are_mistakes(agent: Agent) -> None:
    """A service that does not start with jaeger_client does not start here: somebody has to see the mistake."""
    with pytest.raises(ValueError, match="Unexpected keys found in config:typo"):
        Config({"typo": 1}, service_name="shop", validate=True)
    with pytest.raises(ValueError, match="service_name"):
        Config({})
    with pytest.raises(ValueError, match="Unknown sampler type"):
        Config({"sampler": {"type": "typo"}}, service_name="shop").new_tracer()
    with pytest.raises(AssertionError):
        Config({"sampler": {"type": "probabilistic", "param": 2}}, service_name="shop").new_tracer()
    assert runtime.running is None


def test_settings_without_effect_are_said(agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    """Somebody may rely on them."""
    from autoinstr import trouble

    trouble._last_said.clear()
    for _ in range(2):
        Config(config_of(agent, throttler={"port": 5778}, max_traceback_length=9), service_name="shop", validate=True)
    assert capfd.readouterr().err.splitlines() == [
        "autoinstr: settings of jaeger_client.Config without effect here: max_traceback_length, throttler"
    ]


def test_who_runs_the_service_decides(fresh: None, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code wins over JAEGER_*, as there; OTEL_* and AUTOINSTR_*, which it never read, win over the code."""
    monkeypatch.setenv("JAEGER_SERVICE_NAME", "environment")
    monkeypatch.setenv("JAEGER_AGENT_PORT", "1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")
    Config(config_of(agent, reporter_batch_size=7), service_name="code").new_tracer()
    assert runtime.running is not None
    settings = runtime.running.config
    assert (settings.service_name, settings.agent_port, settings.sampler_param) == ("code", agent.port, 0.0)
    assert settings.max_batch_size == 3


def test_the_global_tracer_is_initialized_once(
    fresh: None, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    """Services call it in each of their modules, and look at the result."""
    config = Config(config_of(agent), service_name="shop")
    assert not Config.initialized()
    with caplog.at_level(logging.INFO, "jaeger_tracing"):
        tracer = config.initialize_tracer()
        assert opentracing.global_tracer() is tracer
        assert config.initialize_tracer() is None
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[-1] == "Jaeger tracer already initialized, skipping"


def test_a_running_agent_takes_the_settings_over(fresh: None, agent: Agent) -> None:
    """Started by the launcher, the agent has a name and a sampler before the program says which."""
    with contextlib.closing(Agent()) as before:
        environ = {
            "JAEGER_AGENT_PORT": str(before.port),
            "JAEGER_AGENT_HOST": "127.0.0.1",
            "JAEGER_SAMPLER_TYPE": "const",
            "JAEGER_SAMPLER_PARAM": "1",
            "JAEGER_SERVICE_NAME": "unnamed",
            "JAEGER_REPORTER_FLUSH_INTERVAL": "1h",
        }
        runtime.start(environ, instrument=False)
        running = runtime.running
        assert running is not None
        running.tracing.tracer.start("early").end()
        running.flush(DEADLINE_S)
        running.tracing.tracer.start("just before").end()
        open_span = running.tracing.tracer.start("open")
        tracer = Config(config_of(agent), service_name="shop").new_tracer()
        open_span.end()
        tracer.start_span("late").finish()
        assert tracer.close().result() is True
        assert [span.name for span in before.receive(2)] == ["early", "just before"]
        assert [span.name for span in agent.receive(2)] == ["open", "late"]
        assert (list(before.services), list(agent.services)) == (["unnamed"], ["shop"])
        assert runtime.running is running
        assert running.metrics()['finished_spans{sampled="y"}'] == 4
        assert running._open_spans() == 0


def test_several_services_in_one_process(fresh: None, agent: Agent) -> None:
    """Some programs give a database a service of its own."""
    shop = Config(config_of(agent), service_name="shop").new_tracer()
    again = Config(config_of(agent), service_name="shop").new_tracer()
    redis = Config(config_of(agent), service_name="redis").new_tracer()
    assert shop._tracing is again._tracing is not redis._tracing
    with shop.start_active_span("a"):
        redis.start_span("b").finish()
    shop.close()
    redis.close()
    first, second = agent.receive(2)
    assert first.trace_id == second.trace_id
    assert set(agent.services) == {"shop", "redis"}


def test_tracing_that_is_switched_off(fresh: None, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service works all the same."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracer = Config(config_of(agent), service_name="shop").initialize_tracer()
    assert tracer is not None
    with tracer.start_active_span("a") as scope:
        scope.span.set_tag("a", 1)
        assert not scope.span.is_sampled()
    assert tracer.close().result() is True
    assert runtime.running is None


def test_a_fault_of_ours_leaves_the_service_running(
    fresh: None, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer that cannot be had must not keep a service from starting."""

    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(ours, "agent_of", fail)
    tracer = Config(config_of(agent), service_name="shop").new_tracer()
    tracer.start_span("a").finish()


# Names of headers -------------------------------------------------------------------------------------------------


def test_other_names_of_headers(fresh: None, agent: Agent) -> None:
    """Peers with the same settings would not find the trace."""
    settings = {
        "trace_id_header": "X-Shop_Trace",
        "baggage_header_prefix": "X-Shop-Ctx-",
        "debug_id_header": "X-Shop-Debug",
    }
    tracer = Config(config_of(agent, **settings), service_name="shop", validate=True).new_tracer()
    span = tracer.start_span("a").set_baggage_item("k", "v w")
    for carrier_format in (opentracing.Format.TEXT_MAP, opentracing.Format.HTTP_HEADERS):
        carrier: dict[str, str] = {}
        tracer.inject(span.context, carrier_format, carrier)
        assert "x-shop-trace" in carrier
        assert "x-shop-ctx-k" in carrier
        assert not [name for name in carrier if name.startswith("uber")]
        del carrier["traceparent"]
        found = tracer.extract(carrier_format, {name.upper(): value for name, value in carrier.items()})
        assert (found.trace_id, found.baggage) == (span.trace_id, {"k": "v w"})
    assert tracer.extract(carrier_format, {"X-Shop-Debug": "x"}).debug_id == "x"


def test_b3(fresh: None, agent: Agent) -> None:
    """Peers that only know Zipkin's headers."""
    tracer = Config(config_of(agent, propagation="b3"), service_name="shop", validate=True).new_tracer()
    span, carrier = tracer.start_span("a"), {}
    tracer.inject(span.context, opentracing.Format.HTTP_HEADERS, carrier)
    assert set(carrier) == {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}
    found = tracer.extract(opentracing.Format.HTTP_HEADERS, {name.title(): value for name, value in carrier.items()})
    assert (found.trace_id, found.span_id, found.flags) == (span.trace_id, span.span_id, SAMPLED)
    assert isinstance(found, ours.SpanContext)
    assert tracer.extract(opentracing.Format.HTTP_HEADERS, {}) is None


# Tracers that a program puts together -----------------------------------------------------------------------------


class EveryOther:
    """A sampler as programs write them."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def is_sampled(self, trace_id: int, operation: str = "") -> tuple[bool, dict[str, Any]]:
        self.asked.append(operation)
        return len(self.asked) % 2 == 1, {"sampler.type": "every other", "list": [1]}

    def close(self) -> None: ...


def test_a_tracer_for_tests(fresh: None) -> None:
    """Services test their spans so; no agent is started for it."""
    reporter = ours.InMemoryReporter()
    tracer = ours.Tracer(service_name="shop", reporter=reporter, sampler=ours.ConstSampler(True), tags={"a": "b"})
    with tracer.start_active_span("a", tags={"span.kind": "client"}) as scope:
        assert scope.span.parent_id is None
        child = tracer.start_span("b", tags={"k": "v"})
        child.error("broken", "payload")
        child.finish()
    first, second = reporter.get_spans()
    assert (first, second) == (child, scope.span)
    assert (first.operation_name, first.tags, first.parent_id) == ("b", {"k": "v"}, second.span_id)
    assert second.is_rpc()
    assert second.is_rpc_client()
    assert second.is_sampled()
    assert not second.is_debug()
    assert second.start_time <= first.start_time <= first.end_time <= second.end_time <= time.time() + 1
    assert second.trace_id < 1 << 64
    assert str(second).endswith("shop.a")
    assert runtime.running is None


def test_a_sampler_of_the_program(fresh: None, agent: Agent) -> None:
    """Its decision and its tags."""
    sampler, reporter = EveryOther(), ours.InMemoryReporter()
    tracer = ours.Tracer("shop", reporter, sampler)
    for name in ("a", "b", "c"):
        tracer.start_span(name).finish()
    assert [span.operation_name for span in reporter.spans] == ["a", "c"]
    assert sampler.asked == ["a", "b", "c"]
    assert reporter.spans[0].tags == {"sampler.type": "every other", "list": "[1]"}
    for service in ("shop", "another"):
        tracer = Config(config_of(agent, sampler=EveryOther()), service_name=service).new_tracer()
        for name in ("a", "b", "c"):
            tracer.start_span(name).finish()
        tracer.close()
        assert [span.name for span in agent.receive(2)] == ["a", "c"]


def test_faults_of_the_program_s_parts(fresh: None) -> None:
    """They are called in the middle of requests."""

    class Broken(ours.BaseReporter):
        def is_sampled(self, *_: Any) -> Any:
            raise RuntimeError

        def close(self) -> None:
            raise RuntimeError

    tracer = ours.Tracer("shop", Broken(), Broken())
    tracer.start_span("a").finish()
    tracer = ours.Tracer("shop", Broken(), ours.ConstSampler(True))
    tracer.start_span("a").finish()
    assert tracer.close().result() is True


@pytest.mark.parametrize("make", [lambda lib: lib.ConstSampler(True), lambda lib: lib.ProbabilisticSampler(0.5)])
def test_samplers_answer_as_there(make: Callable[[Any], Any]) -> None:
    """Programs wrap them."""
    theirs = make(pytest.importorskip("jaeger_client"))
    sampler = make(ours)
    for trace_id in (1, 1 << 61, (1 << 62) - 1):
        assert sampler.is_sampled(trace_id, "a") == theirs.is_sampled(trace_id, "a")
    assert str(sampler) == str(theirs)
    assert sampler == make(ours)
    assert sampler != ours.ConstSampler(False)


def test_names_that_services_import() -> None:
    """One import is changed, whichever it is."""
    theirs = pytest.importorskip("jaeger_client")
    samplers = ("ConstSampler", "ProbabilisticSampler", "RateLimitingSampler", "RemoteControlledSampler")
    for name in ("Config", "Tracer", "Span", "SpanContext", *samplers):
        assert hasattr(theirs, name)
        assert hasattr(ours, name)
    import importlib

    for room in ("constants", "config", "tracer", "span", "span_context", "codecs", "sampler", "reporter", "metrics"):
        there = importlib.import_module(f"jaeger_client.{room}")
        here = importlib.import_module(f"{ROOM}.{room}")
        names = [name for name in vars(here) if not name.startswith("_") and name != "prometheus"]
        assert names
        assert [name for name in names if not hasattr(there, name)] == []
        if room == "constants":
            assert [name for name in names if getattr(here, name) != getattr(there, name)] == []
    exec(f"from {ROOM}.metrics.prometheus import PrometheusMetricsFactory as F; F('x').create_counter('c')(1)")


def test_contexts_that_a_program_makes(fresh: None) -> None:
    """Ids that travelled in a message of the program's own."""
    tracer = ours.Tracer("shop", ours.InMemoryReporter(), ours.ConstSampler(True))
    context = ours.SpanContext(trace_id=1, span_id=2, parent_id=3, flags=1, baggage={"a": "b"})
    assert (context.has_trace, context.parent_id, repr(context)) == (True, 3, "1:2:3:1")
    more = context.with_baggage_item("c", "d").with_baggage_item("a", None)
    assert (more.baggage, context.baggage, more.parent_id) == ({"c": "d"}, {"a": "b"}, 3)
    assert tracer.start_span("a", child_of=more).parent_id == 2
    debug = ours.SpanContext.with_debug_id("x")
    assert (debug.has_trace, debug.is_debug_id_container_only, debug.debug_id) == (False, True, "x")
    assert tracer.start_span("a", child_of=debug).is_debug()


def test_the_active_span_goes_before_references(fresh: None) -> None:
    """jaeger_client's rule, whose traces look as they did."""
    tracer = ours.Tracer("shop", ours.InMemoryReporter(), ours.ConstSampler(True))
    other = tracer.start_span("other")
    with tracer.start_active_span("active") as scope:
        span = tracer.start_span("a", references=opentracing.follows_from(other.context))
        assert span.parent_id == scope.span.span_id
        assert [link.context.span_id for link in span.own.links] == [other.span_id]
        references = [opentracing.child_of(other.context)]
        assert tracer.start_span("b", references=references, ignore_active_span=True).parent_id == other.span_id


def test_a_second_end_is_a_mistake(fresh: None, caplog: pytest.LogCaptureFixture) -> None:
    """As there, the log tells of it."""
    reporter = ours.InMemoryReporter()
    span = ours.Tracer("shop", reporter, ours.ConstSampler(True)).start_span("a")
    span.finish()
    span.finish()
    assert len(reporter.spans) == 1
    assert caplog.messages == ["Span has already been finished; will not be reported again."]


def test_spans_in_the_log(fresh: None, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    """What ``logging: true`` is for: to see that there are any."""
    tracer = Config(config_of(agent, logging=True), service_name="shop").new_tracer()
    with caplog.at_level(logging.INFO, "jaeger_tracing"):
        span = tracer.start_span("a")
        span.finish()
    assert caplog.messages == [f"Reporting span {span!r}"]
    assert repr(span).endswith(" shop.a")


def test_close_can_be_waited_for(fresh: None) -> None:
    """In a coroutine, in a thread, or not at all."""
    reporter = ours.CompositeReporter(ours.NullReporter(), ours.LoggingReporter())
    tracer = ours.Tracer("shop", reporter, ours.ConstSampler(True))
    tracer.start_span("a").finish()

    async def close() -> Any:
        return await tracer.close()

    assert asyncio.run(close()) is True
    assert tracer.close().done()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_worker_goes_on(tmp_path: Path, agent: Agent) -> None:
    """Prefork servers initialize before they fork: each worker must send its own spans, by the same settings."""
    path = tmp_path / "app.py"
    path.write_text(
        f"""
import os, sys
from {ROOM} import Config
tracer = Config({{'sampler': {{'type': 'const', 'param': 1}}, 'local_agent': {{'reporting_host': '127.0.0.1',
    'reporting_port': {agent.port}}}}}, service_name='shop').initialize_tracer()
other = Config({{'sampler': {{'type': 'const', 'param': 1}}, 'local_agent': {{'reporting_host': '127.0.0.1',
    'reporting_port': {agent.port}}}}}, service_name='other').new_tracer()
tracer.start_span('parent').finish()
pid = os.fork()
if not pid:
    tracer.start_span('child').finish()
    other.start_span('other child').finish()
    sys.exit(0)
os.waitpid(pid, 0)
"""
    )
    subprocess.run([sys.executable, str(path)], timeout=60, check=True)
    assert {span.name for span in agent.receive(3)} == {"parent", "child", "other child"}
    assert set(agent.services) == {"shop", "other"}


def test_nothing_is_current_afterwards() -> None:
    """The tests above share this thread."""
    assert current.get() is None
