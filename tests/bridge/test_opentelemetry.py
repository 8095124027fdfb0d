"""OpenTelemetry's API on our engine, as programs use it: spans, context, baggage, headers, provider."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.bridge.opentelemetry import Provider
from autoinstr.config import from_env
from autoinstr.instrument import Patcher, Tracing, load
from autoinstr.model import Kind, SpanContext, Status
from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
from autoinstr.report import InMemoryReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import SUPPRESSED, Tracer, current
from fakes import SpanSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

api = pytest.importorskip("opentelemetry.trace")

from opentelemetry import baggage, context, propagate  # noqa: E402

PATCHES = (
    ("opentelemetry.trace", "autoinstr.bridge.opentelemetry:patch"),
    ("opentelemetry.propagate", "autoinstr.bridge.opentelemetry:patch_propagation"),
)
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLER_TRACE, CALLER_SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def build(reporter: InMemoryReporter, *, keep: bool = True, **environ: str) -> Tracing:
    config = from_env(environ, ())
    propagators = (Propagator(config.propagators, key) for key in (plain, environ_key, asgi_key))
    return Tracing(Tracer(ConstSampler(keep, ignores_parent=False), reporter), config, *propagators)


@pytest.fixture
def reporter() -> InMemoryReporter:
    return InMemoryReporter()


@pytest.fixture
def bridge(reporter: InMemoryReporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tracing]]:
    """``bridge(keep=True, **environ)`` puts it in; it is out again after the test, and nothing is left current."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    patchers: list[Patcher] = []

    def put_in(**options: Any) -> Tracing:
        tracing = build(reporter, **options)
        for module, target in PATCHES:
            patchers.append(Patcher(import_module(module)))
            load(target)(patchers[-1], tracing)
        return tracing

    yield put_in
    while patchers:
        patchers.pop().undo()
    assert current.get() is None, "something was left current"


@pytest.fixture
def tracing(bridge: Callable[..., Tracing]) -> Tracing:
    return bridge()


@pytest.fixture
def tracer(tracing: Tracing) -> Any:
    return api.get_tracer("shop")


def test_a_span_is_one_of_ours(tracer: Any, reporter: InMemoryReporter) -> None:
    """What a program has traced by hand would be missing in its traces, or tell less."""
    link = api.Link(api.SpanContext(1, 2, is_remote=True), {"why": "retry"})
    with tracer.start_as_current_span("buy", kind=api.SpanKind.PRODUCER, attributes={"n": 1}, links=[link]) as span:
        span.set_attribute("who", "me")
        span.set_attributes({"list": ["a", "b"], "deep": {"a": [1]}, "none": None, "flag": True})
        span.add_event("seen", {"at": 3}, timestamp=5)
        span.update_name("buy it")
        span.set_status(api.Status(api.StatusCode.ERROR, "no money"))
    (own,) = reporter.spans
    assert (own.name, own.kind, own.scope, own.parent_id) == ("buy it", Kind.PRODUCER, "shop", 0)
    assert own.own == {"n": 1, "who": "me", "list": ["a", "b"], "deep": '{"a": [1]}', "flag": True}
    (event,) = own.events or ()
    assert (event.name, event.time_ns, event.attributes) == ("seen", 5, {"at": 3})
    assert [(each.context.trace_id, each.context.span_id, each.attributes) for each in own.links] == [(1, 2, {"why": "retry"})]
    assert (own.status, own.status_message) == (Status.ERROR, "no money")
    assert own.end_ns >= own.start_ns > 0


def test_spans_of_both_apis_are_one_tree(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Spans of a library that uses OpenTelemetry would stand beside the request that they belong to, in a trace of their own."""
    server = tracing.tracer.start("GET /", Kind.SERVER)
    token = current.set(server)
    with tracer.start_as_current_span("theirs") as span:
        assert current.get() is span.own
        inner = tracing.tracer.start("ours", Kind.CLIENT, current.get())
        inner.end()
    current.reset(token)
    server.end()
    assert [(each.name, each.parent_id) for each in reporter.spans] == [
        ("ours", span.own.span_id),
        ("theirs", server.span_id),
        ("GET /", 0),
    ]


def test_the_current_span_is_always_the_same_object(tracing: Tracing, tracer: Any) -> None:
    """Programs compare spans, and keep their own attributes on them."""
    assert api.get_current_span() is api.INVALID_SPAN
    with tracer.start_as_current_span("outer") as outer:
        assert api.get_current_span() is outer
        with tracer.start_as_current_span("inner") as inner:
            assert api.get_current_span() is inner
        assert api.get_current_span() is outer
    server = tracing.tracer.start("GET /", Kind.SERVER)
    token = current.set(server)
    assert api.get_current_span() is api.get_current_span()
    assert api.get_current_span().name == "GET /"
    current.reset(token)
    assert api.get_current_span() is api.INVALID_SPAN


def test_what_a_span_can_be_asked_for(tracing: Tracing, tracer: Any) -> None:
    """Hooks of instrumentations and log formatters read spans; the SDK's have these properties."""
    with tracer.start_as_current_span("a") as parent, tracer.start_as_current_span("b", kind=api.SpanKind.CLIENT) as span:
        span.set_attribute("k", "v")
        span.set_status(api.StatusCode.OK)
        span.add_event("seen", {"a": 1}, timestamp=5)
        span.add_link(api.SpanContext(1, 2, is_remote=True), {"b": 2})
        assert [(event.name, event.timestamp, event.attributes) for event in span.events] == [("seen", 5, {"a": 1})]
        assert [(link.context.trace_id, link.attributes["b"]) for link in span.links] == [(1, 2)]
        assert (span.name, span.kind, span.attributes) == ("b", api.SpanKind.CLIENT, {"k": "v"})
        assert (span.status.status_code, span.status.is_ok) == (api.StatusCode.OK, True)
        assert span.parent.span_id == parent.context.span_id
        assert span.context is span.get_span_context()
        assert (span.context.is_valid, span.context.is_remote, span.context.trace_flags) == (True, False, 3)
        assert span.start_time > 0
        assert span.end_time is None
        assert span.is_recording()
    assert not span.is_recording()
    assert span.end_time >= span.start_time
    assert parent.parent is None


def test_spans_are_freed_without_the_collector(tracer: Any, reporter: InMemoryReporter) -> None:
    """A cycle in each span would make the garbage collector run all the time, in the program's requests."""
    with tracer.start_as_current_span("warm"):
        api.get_current_span()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with tracer.start_as_current_span("a"):
                api.get_current_span()
        reporter.spans.clear()
        assert gc.collect() < 50
    finally:
        gc.enable()


class Stubborn:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Mute:
    pass


@pytest.mark.parametrize("value", [None, Stubborn(), Mute()])
def test_values_that_are_none_are_left_out(tracer: Any, reporter: InMemoryReporter, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A program's odd value would raise in it, spoil the batch, or flood its log."""
    with tracer.start_as_current_span("a", attributes={"bad": value}) as span:
        span.set_attribute("bad", value)
        span.set_attributes({"bad": value})
        span.set_attribute("", "x")
        span.set_attribute(None, "x")
        span.set_attributes(3)
        span.set_status("fine")
        span.add_link(None)
        span.record_exception("text")
        span.end("now")
    (own,) = reporter.spans
    assert own.own == {}
    assert caplog.records == []


def test_limits_hold(bridge: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """A program could make a span of any size by way of this API."""
    bridge().tracer.limits.attribute_count = 2
    with api.get_tracer("x").start_as_current_span("a", attributes={"a": "x" * 5000, "b": 1, "c": 2}) as span:
        span.set_attribute("d", 1)
        span.set_attribute("b", ["y" * 5000])
    (own,) = reporter.spans
    assert {key: len(str(value)) for key, value in (own.own or {}).items()} == {"a": 4096, "b": 4096 + 4}
    assert own.dropped == (2, 0, 0)


@pytest.mark.parametrize("by_use_span", [False, True])
def test_an_exception_is_on_the_span(tracer: Any, reporter: InMemoryReporter, by_use_span: bool) -> None:
    """An error would not be seen in the trace, or not be the program's any more."""
    error = ValueError("broken")
    with pytest.raises(ValueError) as caught:
        if by_use_span:
            with api.use_span(tracer.start_span("a"), end_on_exit=True):
                raise error
        else:
            with tracer.start_as_current_span("a"):
                raise error
    assert caught.value is error
    (own,) = reporter.spans
    assert (own.status, own.status_message) == (Status.ERROR, "ValueError: broken")
    (event,) = own.events or ()
    assert (event.name, event.attributes["exception.type"]) == ("exception", "ValueError")
    assert "raise error" in str(event.attributes["exception.stacktrace"])


def test_exceptions_that_are_to_be_left_out(tracer: Any, reporter: InMemoryReporter) -> None:
    """A program has said that its exceptions are no errors; nor is the end of a generator, or of the program."""
    with pytest.raises(KeyError), tracer.start_as_current_span("a", record_exception=False, set_status_on_exception=False):
        raise KeyError
    with pytest.raises(SystemExit), tracer.start_as_current_span("b"):
        raise SystemExit
    with pytest.raises(KeyError), tracer.start_span("c", record_exception=False, set_status_on_exception=False):
        raise KeyError
    assert [(own.name, own.status, own.events) for own in reporter.spans] == [("a", 0, None), ("b", 0, None), ("c", 0, None)]


def test_a_span_that_goes_on_after_its_block(tracer: Any, reporter: InMemoryReporter) -> None:
    """Streaming responses end their spans later, and by themselves."""
    with tracer.start_as_current_span("a", end_on_exit=False) as span:
        pass
    assert not reporter.spans
    span.end(end_time=span.start_time + 7)
    span.end()
    (own,) = reporter.spans
    assert own.end_ns - own.start_ns == 7


def test_times_of_the_program(tracer: Any, reporter: InMemoryReporter) -> None:
    """Instrumentations tell afterwards when something began; some give floats."""
    tracer.start_span("a", start_time=1_000).end(end_time=2_000)
    tracer.start_span("b", start_time=1e9).end(end_time=2e9)
    assert [(own.start_ns, own.end_ns) for own in reporter.spans] == [(1_000, 2_000), (10**9, 2 * 10**9)]


def test_decorated_functions(tracer: Any, reporter: InMemoryReporter) -> None:
    """Each call is a span; a coroutine's lasts until it is done, and both stay what they were."""

    @tracer.start_as_current_span("plain")
    def plain_function(number: int) -> int:
        """Doc."""
        return number + len(api.get_current_span().name)

    @tracer.start_as_current_span("coroutine")
    async def coroutine(number: int) -> str:
        await asyncio.sleep(0)
        return f"{api.get_current_span().name} {number}"

    assert (plain_function(1), plain_function(2), plain_function.__doc__) == (6, 7, "Doc.")
    assert asyncio.iscoroutinefunction(coroutine) if sys.version_info < (3, 14) else True

    async def both() -> list[str]:
        return await asyncio.gather(coroutine(1), coroutine(2))

    assert asyncio.run(both()) == ["coroutine 1", "coroutine 2"]
    assert [own.name for own in reporter.spans] == ["plain", "plain", "coroutine", "coroutine"]
    assert len({own.trace_id for own in reporter.spans}) == 4


def test_unsampled_spans(bridge: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """What is not kept costs nothing, and its callees are told so."""
    bridge(keep=False)
    with api.get_tracer("x").start_as_current_span("a", attributes={"a": 1}) as span:
        assert not span.is_recording()
        assert span.get_span_context().trace_flags & 1 == 0
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        with api.get_tracer("x").start_as_current_span("b"):
            pass
    assert carrier["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}"
    assert carrier["traceparent"][-1] in "02"
    assert not reporter.spans


# Context.


def test_attach_makes_it_current_here_too(tracing: Tracing, tracer: Any) -> None:
    """Instrumentations attach contexts by hand; our own instruments below would not know whose children their spans are."""
    span = tracer.start_span("a")
    token = context.attach(api.set_span_in_context(span))
    assert current.get() is span.own
    assert api.get_current_span() is span
    inner = context.attach(context.set_value("key", "value"))
    assert (context.get_value("key"), current.get()) == ("value", span.own)
    context.detach(inner)
    assert context.get_value("key") is None
    context.detach(token)
    assert current.get() is None


def test_an_empty_context_hides_the_span(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Programs start new traces that way; afterwards the request goes on as it was."""
    with tracer.start_as_current_span("outer") as outer:
        token = context.attach(context.Context())
        assert api.get_current_span() is api.INVALID_SPAN
        tracer.start_span("new").end()
        context.detach(token)
        assert api.get_current_span() is outer
        tracer.start_span("other", context=context.Context()).end()
    assert [own.parent_id for own in reporter.spans] == [0, 0, 0]
    assert len({own.trace_id for own in reporter.spans}) == 3


def test_values_stay_when_the_span_changes(tracing: Tracing, tracer: Any) -> None:
    """A value that a program has put in its context would be gone below a span of ours, or a stranger's would be seen."""
    token = context.attach(context.set_value("key", "value"))
    span = tracing.tracer.start("ours")
    own_token = current.set(span)
    assert context.get_value("key") == "value"
    assert api.get_current_span().name == "ours"
    with tracer.start_as_current_span("theirs"):
        assert context.get_value("key") == "value"
        assert api.get_current_span().name == "theirs"
    assert api.get_current_span().name == "ours"
    current.reset(own_token)
    assert context.get_value("key") == "value"
    assert api.get_current_span() is api.INVALID_SPAN
    context.detach(token)


def test_a_callers_span_is_the_parent(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Whoever continues a caller's trace by hand, with a span of no process, would begin a new one."""
    caller = api.NonRecordingSpan(api.SpanContext(CALLER_TRACE, CALLER_SPAN, is_remote=True, trace_flags=api.TraceFlags(1)))
    token = context.attach(api.set_span_in_context(caller))
    assert api.get_current_span() is caller
    tracer.start_span("theirs").end()
    tracing.tracer.start("ours", Kind.CLIENT, current.get()).end()
    context.detach(token)
    tracer.start_span("by context", context=api.set_span_in_context(caller)).end()
    assert [(own.trace_id, own.parent_id) for own in reporter.spans] == [(CALLER_TRACE, CALLER_SPAN)] * 3


def test_a_caller_that_does_not_keep_its_trace(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Its children would be fragments of traces that nobody has."""
    caller = api.NonRecordingSpan(api.SpanContext(CALLER_TRACE, CALLER_SPAN, is_remote=True))
    with api.use_span(caller):
        tracer.start_span("a").end()
    tracer.start_span("b", context=api.set_span_in_context(caller)).end()
    assert not reporter.spans


def test_suppression(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Exporters and pollers say that their traffic is not to be traced; what a program itself traces there stays."""
    for key in (context._SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"):
        with tracer.start_as_current_span("outer") as outer:
            token = context.attach(context.set_value(key, True))
            assert current.get() is SUPPRESSED
            with tracer.start_as_current_span("by hand") as span:
                assert context.get_value(key)
                assert current.get() is SUPPRESSED
                assert api.get_current_span() is span
            context.detach(token)
            assert current.get() is outer.own
        assert [(own.name, own.parent_id) for own in reporter.spans] == [("by hand", outer.own.span_id), ("outer", 0)]
        reporter.spans.clear()


def test_our_own_work_is_suppressed(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """An instrumentation would trace the sending of spans, which makes spans, and so on."""
    token = current.set(SUPPRESSED)
    assert context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)
    with tracer.start_as_current_span("a") as span:
        assert not span.is_recording()
    current.reset(token)
    assert not context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)
    assert not reporter.spans


def test_detach_in_another_context(tracing: Tracing, tracer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Generators that are closed elsewhere flood the logs of programs with "Failed to detach context"."""
    span = tracer.start_span("a")
    token = contextvars.copy_context().run(context.attach, api.set_span_in_context(span))
    context.detach(token)
    assert caplog.records == []
    assert current.get() is None

    def steps() -> Iterator[int]:
        with tracer.start_as_current_span("b"):
            yield 1

    running = steps()
    contextvars.copy_context().run(next, running)
    running.close()
    assert caplog.records == []


def test_detach_of_nonsense_is_said_by_the_api(tracing: Tracing, caplog: pytest.LogCaptureFixture) -> None:
    """A program's mistake stays as visible as it was, and does not raise."""
    context.detach("token")  # type: ignore[arg-type]
    assert [record.message for record in caplog.records] == ["Failed to detach context"]


def test_a_span_that_ended_in_the_meantime_does_not_come_back(tracing: Tracing, tracer: Any) -> None:
    """A streamed response is torn down after its request: its span would stick to the thread, and all later work to it."""
    server = tracing.tracer.start("GET /", Kind.SERVER)
    own_token = current.set(server)
    token = context.attach(api.set_span_in_context(tracer.start_span("view")))
    current.set(server)
    current.reset(own_token)
    context.detach(token)
    assert current.get() is None


def test_threads_begin_with_nothing(tracing: Tracing, tracer: Any) -> None:
    """Work of one request would be seen in another."""
    seen: list[Any] = []
    with tracer.start_as_current_span("a"):
        api.get_current_span()
        thread = threading.Thread(target=lambda: seen.append(api.get_current_span()))
        thread.start()
        thread.join()
    assert seen == [api.INVALID_SPAN]


def test_tasks_have_their_own(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Concurrent tasks would be each other's children."""

    async def work(name: str) -> None:
        with tracer.start_as_current_span(name) as span:
            await asyncio.sleep(0)
            assert api.get_current_span() is span
            token = context.attach(context.set_value("name", name))
            await asyncio.sleep(0)
            assert (api.get_current_span(), context.get_value("name")) == (span, name)
            context.detach(token)

    async def main() -> None:
        with tracer.start_as_current_span("main"):
            await asyncio.gather(*(work(str(number)) for number in range(5)))

    asyncio.run(main())
    *children, root = reporter.spans
    assert {own.parent_id for own in children} == {root.span_id}


# Baggage and headers.


def test_baggage_of_both_is_the_same(tracing: Tracing, tracer: Any) -> None:
    """A tenant's name set by one API would not be there for the other, nor reach the callees."""
    with tracer.start_as_current_span("outer") as outer:
        outer.own.set_baggage("ours", "1")
        assert baggage.get_all() == {"ours": "1"}
        token = context.attach(baggage.set_baggage("theirs", 2))
        assert baggage.get_all() == {"ours": "1", "theirs": 2}
        child = tracing.tracer.start("client", Kind.CLIENT, current.get())
        assert child.baggage == {"ours": "1", "theirs": "2"}
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        assert carrier["baggage"] == "ours=1,theirs=2"
        with tracer.start_as_current_span("inner"):
            assert baggage.get_all() == {"ours": "1", "theirs": 2}
        context.detach(token)
        assert (baggage.get_all(), outer.own.baggage) == ({"ours": "1"}, {"ours": "1"})
    assert baggage.get_all() == {}


def test_baggage_without_a_span(tracing: Tracing, tracer: Any) -> None:
    """Baggage is often set before the first span, and would be lost."""
    token = context.attach(baggage.set_baggage("k", "v"))
    with tracer.start_as_current_span("a") as span:
        assert span.own.baggage == {"k": "v"}
        assert baggage.get_all() == {"k": "v"}
    context.detach(token)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, baggage.set_baggage("k", "v"))
    assert carrier == {"uberctx-k": "v", "baggage": "k=v"}


def test_headers_in_and_out(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Consumers of message queues propagate by this API; traces would break there."""
    found = propagate.extract({"traceparent": CALLER, "tracestate": "a=b", "baggage": "k=v"})
    caller = api.get_current_span(found).get_span_context()
    assert (caller.trace_id, caller.span_id, caller.is_remote, caller.trace_state["a"]) == (CALLER_TRACE, CALLER_SPAN, True, "b")
    assert baggage.get_all(found) == {"k": "v"}
    with tracer.start_as_current_span("handle", context=found, kind=api.SpanKind.CONSUMER) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
    assert carrier["traceparent"] == f"00-{CALLER_TRACE:032x}-{span.context.span_id:016x}-01"
    assert (carrier["tracestate"], carrier["baggage"]) == ("a=b", "k=v")
    assert carrier["uber-trace-id"].startswith(f"{CALLER_TRACE:032x}:{span.context.span_id:016x}:")
    (own,) = reporter.spans
    assert (own.trace_id, own.parent_id, own.parent_is_remote) == (CALLER_TRACE, CALLER_SPAN, True)


def test_jaegers_headers(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """The caller's debug flag, baggage and forced traces do not fit into OpenTelemetry's notion of a context, and would be lost."""
    found = propagate.extract({"uber-trace-id": "a1:b2:0:3", "uberctx-Key": "v"})
    assert tracer.start_span("a", context=found).own.flags & 3 == 3
    assert baggage.get_all(found) == {"key": "v"}
    forced = propagate.extract({"jaeger-debug-id": "find-me"})
    tracer.start_span("b", context=forced).end()
    token = context.attach(forced)
    tracer.start_span("c").end()
    context.detach(token)
    assert [own.attributes.get("jaeger-debug-id") for own in reporter.spans] == ["find-me", "find-me"]


def test_configured_formats(bridge: Callable[..., Tracing]) -> None:
    """A fleet that speaks B3 would not understand us."""
    bridge(OTEL_PROPAGATORS="b3multi")
    found = propagate.extract({"x-b3-traceid": "a1", "x-b3-spanid": "b2", "x-b3-sampled": "1"})
    assert api.get_current_span(found).get_span_context().span_id == 0xB2
    carrier: dict[str, str] = {}
    propagate.inject(carrier, found)
    assert set(carrier) == {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"} <= propagate.get_global_textmap().fields


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "nonsense"}, {"traceparent": None}, {"baggage": "="}])
def test_nothing_of_use_in_the_headers(tracing: Tracing, carrier: Any) -> None:
    """Anybody can send anything."""
    known = context.Context({"key": "value"})
    assert propagate.extract(carrier, known) == known
    assert propagate.extract(carrier) == context.Context()


def test_headers_are_those_of_the_span_of_ours(tracing: Tracing) -> None:
    """A library that injects by this API below an instrument of ours would send another identity than ours, or none."""
    span = tracing.tracer.start("GET", Kind.CLIENT, SpanContext(5, 6, 1))
    token = current.set(span)
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    current.reset(token)
    assert carrier == dict(tracing.plain.inject(span))


# One span for one request.


def test_a_second_server_span_joins_the_first(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Each request would be there twice, and be counted so in all statistics."""
    server = tracing.tracer.start("GET", Kind.SERVER, SpanContext(CALLER_TRACE, CALLER_SPAN, 1, is_remote=True))
    own_token = current.set(server)
    found = propagate.extract({"traceparent": CALLER})
    token = context.attach(found)  # FastAPI does so, and hides our span by it.
    with tracer.start_as_current_span("GET /x", context=found, kind=api.SpanKind.SERVER, attributes={"http.route": "/x"}) as span:
        span.update_name("GET /y")
        span.set_attribute("more", 1)
        assert current.get() is server
        assert api.get_current_span() is not span
        assert server.name == "GET /x"
        with tracer.start_as_current_span("view"):
            pass
    context.detach(token)
    with api.use_span(tracer.start_span("twice", kind=api.SpanKind.SERVER), end_on_exit=True):
        api.get_current_span().update_name("GET, as the program calls it")
    current.reset(own_token)
    assert not server.end_ns
    server.end()
    assert [(own.name, own.parent_id) for own in reporter.spans] == [
        ("view", server.span_id),
        ("GET, as the program calls it", CALLER_SPAN),
    ]
    assert (server.route, server.own) == ("/x", {"more": 1})


def test_another_request_inside_a_request_is_its_own(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Applications call others in the same process, and test clients do; those requests would be swallowed."""
    server = tracing.tracer.start("GET", Kind.SERVER)
    own_token = current.set(server)
    carrier: dict[str, str] = {}
    with tracer.start_as_current_span("call", kind=api.SpanKind.CLIENT) as client:
        propagate.inject(carrier)
        with tracer.start_as_current_span("inner", context=propagate.extract(carrier), kind=api.SpanKind.SERVER):
            pass
    current.reset(own_token)
    server.end()
    assert next((own.name, own.parent_id) for own in reporter.spans) == ("inner", client.context.span_id)
    assert len(reporter.spans) == 3


def test_a_request_of_another_caller_is_its_own(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """A gateway that handles several messages in one request would show them as one, and their callers' traces would end there."""
    server = tracing.tracer.start("GET", Kind.SERVER)
    token = current.set(server)
    tracer.start_span("message", context=propagate.extract({"traceparent": CALLER}), kind=api.SpanKind.SERVER).end()
    current.reset(token)
    assert [(own.name, own.trace_id, own.parent_id) for own in reporter.spans] == [("message", CALLER_TRACE, CALLER_SPAN)]


def test_a_client_span_below_a_leaf_joins_it(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """One request of a client would be two spans, one for each layer."""
    leaf = tracing.tracer.start("GET", Kind.CLIENT)
    leaf.leaf = True
    token = current.set(leaf)
    with pytest.raises(OSError), tracer.start_as_current_span("HTTP GET", kind=api.SpanKind.CLIENT, attributes={"a": 1}):
        raise OSError("refused")
    current.reset(token)
    leaf.fail(OSError("refused")) if (leaf.own or {}).get("error.type") is None else leaf.end()
    (own,) = reporter.spans
    assert own.name == "GET"
    assert own.own == {"a": 1, "error.type": "OSError"}
    assert [event.name for event in own.events or ()] == ["exception"]


def test_client_spans_of_instrumentations_are_leaves(tracing: Tracing) -> None:
    """Our instruments of the layers below would make a second span for each request."""
    kinds = api.SpanKind
    of_package = api.get_tracer("opentelemetry.instrumentation.requests")
    assert of_package.start_span("GET", kind=kinds.CLIENT).own.leaf
    assert not of_package.start_span("process", kind=kinds.CONSUMER).own.leaf
    assert not api.get_tracer("shop").start_span("pay", kind=kinds.CLIENT).own.leaf


# Provider.


def test_a_program_that_throws_ours_out_gets_its_own(tracing: Tracing, capfd: Any) -> None:
    """Test suites reset the API's globals and set up a provider for each test."""
    api._TRACER_PROVIDER_SET_ONCE._done = False
    api._TRACER_PROVIDER = None
    theirs = api.NoOpTracerProvider()
    api.set_tracer_provider(theirs)
    assert api.get_tracer_provider() is theirs
    assert capfd.readouterr().err == ""


def test_the_program_sets_up_the_sdk(tracing: Tracing, reporter: InMemoryReporter, capfd: Any, caplog: Any) -> None:
    """Its spans would go to two places or to none, or its start-up code would fail; and it has to be told."""
    from autoinstr import trouble

    trouble._last_said.clear()
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    theirs = sdk.TracerProvider(shutdown_on_exit=False)
    api.set_tracer_provider(theirs)
    provider = api.get_tracer_provider()
    assert isinstance(provider, Provider)
    provider.add_span_processor(sdk.SpanProcessor())
    with api.get_tracer("shop").start_as_current_span("a"):
        pass
    assert [own.name for own in reporter.spans] == ["a"]
    first, second = capfd.readouterr().err.splitlines()
    assert "provider is not used" in first
    assert "SpanProcessor" in second
    assert "AUTOINSTR_DISABLED_INSTRUMENTS=opentelemetry" in first
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    theirs.shutdown()


def test_spans_of_an_sdk_provider_that_is_used_directly(tracing: Tracing, tracer: Any, reporter: InMemoryReporter) -> None:
    """Programs take tracers from their own provider: those spans go where they went, and ours below them are their children."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    theirs = sdk.TracerProvider(shutdown_on_exit=False)
    with tracer.start_as_current_span("outer") as outer, theirs.get_tracer("x").start_as_current_span("sdk") as span:
        assert span.parent.span_id == outer.context.span_id
        tracing.tracer.start("ours", Kind.CLIENT, current.get()).end()
    assert reporter.spans[0].parent_id == span.context.span_id
    assert api.get_current_span() is api.INVALID_SPAN
    theirs.shutdown()


def test_what_programs_call_on_the_provider(bridge: Callable[..., Tracing]) -> None:
    """An attribute that the SDK's provider has would raise in programs that ask for it."""
    bridge(OTEL_SERVICE_NAME="shop", OTEL_RESOURCE_ATTRIBUTES="team=a")
    provider = api.get_tracer_provider()
    assert provider.get_tracer("a", "1.0") is provider.get_tracer("a", "2.0", schema_url="x", attributes={"a": 1})
    assert provider.resource.attributes["service.name"] == "shop"
    assert provider.resource.attributes["team"] == "a"
    assert provider.force_flush() is True
    provider.shutdown()
    assert provider.get_tracer("") is provider.get_tracer(None)


def test_taken_out_it_leaves_nothing(bridge: Callable[..., Tracing]) -> None:
    """A program that stops the agent would have a dead provider for ever."""
    before = api.set_tracer_provider, context._RUNTIME_CONTEXT, propagate.get_global_textmap(), api._TRACER_PROVIDER_SET_ONCE
    tracing = build(InMemoryReporter())
    patchers = [Patcher(import_module(module)) for module, _ in PATCHES]
    for patcher, (_, target) in zip(patchers, PATCHES, strict=True):
        load(target)(patcher, tracing)
    assert isinstance(api.get_tracer_provider(), Provider)
    for patcher in patchers:
        patcher.undo()
    assert api._TRACER_PROVIDER is None
    assert before == (
        api.set_tracer_provider, context._RUNTIME_CONTEXT, propagate.get_global_textmap(), api._TRACER_PROVIDER_SET_ONCE
    )


def test_what_was_attached_before_can_be_detached(bridge: Callable[..., Tracing], caplog: pytest.LogCaptureFixture) -> None:
    """Something that ran before we came has a token of the API's own."""
    token = context.attach(context.Context({"a": 1}))
    bridge()
    context.detach(token)
    assert caplog.records == []


PROGRAM = """
import sys
import os
from autoinstr import runtime
runtime.start(os.environ)

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer(__name__)
with tracer.start_as_current_span("order"):
    with tracer.start_as_current_span("pay"):
        pass
if "fork" in sys.argv:
    if os.fork() == 0:
        with tracer.start_as_current_span("in the child"):
            pass
        sys.exit()
    os.wait()
print("done")
"""


def test_a_whole_program(tmp_path: Any) -> None:
    """The program that OpenTelemetry's documentation begins with, unchanged: spans arrive, once, also those of a forked child."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    sink = SpanSink()
    try:
        run = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, "fork"], env={**sink.environ, "PYTHONPATH": ":".join(sys.path)}, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=True,
        )
        spans = {name: (trace_id, parent_id) for name, _, trace_id, _, parent_id in sink.spans}
        assert sink.names == ["in the child", "order", "pay"]
        assert spans["pay"][0] == spans["order"][0] != spans["in the child"][0]
        assert run.stdout == "done\n"
        (line,) = run.stderr.splitlines()
        assert line.startswith("autoinstr: the program's own OpenTelemetry provider is not used")
    finally:
        sink.close()
