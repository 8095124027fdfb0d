"""OpenTracing on this engine: its own compatibility checks, tags and logs, and spans beside automatic ones."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

opentracing = pytest.importorskip("opentracing")
pytest.importorskip("mock")

from opentracing import Format, InvalidCarrierException, SpanContextCorruptedException
from opentracing.harness.api_check import APICompatibilityCheckMixin
from opentracing.harness.scope_check import ScopeCompatibilityCheckMixin
from opentracing.mocktracer import MockTracer
from opentracing.scope_managers import ThreadLocalScopeManager
from opentracing.scope_managers.asyncio import AsyncioScopeManager

from autoinstr.bridge.opentracing import Scope, ScopeManager, Span, SpanContext, Tracer, patch
from autoinstr.config import from_env
from autoinstr.instrument import Patcher, Tracing, Watcher
from autoinstr.model import Kind, Status
from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
from autoinstr.report import InMemoryReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import SUPPRESSED, UnsampledSpan, current
from autoinstr.trace import Tracer as OwnTracer
from fakes import SpanSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path



def build_tracing(reporter: InMemoryReporter, keep: bool = True, **environ: str) -> Tracing:
    config = from_env(environ, ())
    propagators = (Propagator(config.propagators, key) for key in (plain, environ_key, asgi_key))
    return Tracing(OwnTracer(ConstSampler(keep), reporter), config, *propagators)


@pytest.fixture
def reporter() -> InMemoryReporter:
    return InMemoryReporter()


@pytest.fixture
def tracing(reporter: InMemoryReporter) -> Tracing:
    return build_tracing(reporter)


@pytest.fixture
def tracer(tracing: Tracing) -> Tracer:
    return Tracer(tracing)


@pytest.fixture(autouse=True)
def nothing_stays_active() -> Iterator[None]:
    yield
    assert current.get() is None, "the test left a span active"


class TestTheApi(APICompatibilityCheckMixin):
    """OpenTracing's own check: programs and integrations are written for what it asserts."""

    _tracer: Any = None

    def tracer(self) -> Tracer:
        if self._tracer is None:
            self._tracer = Tracer(build_tracing(InMemoryReporter()))
        return self._tracer

    def is_parent(self, parent: Any, span: Any) -> bool:
        return span.own.parent_id == (0 if parent is None else parent.own.span_id)


class TestTheApiUnsampled(TestTheApi):
    """The same where the trace is not kept: a program must not notice."""

    def tracer(self) -> Tracer:
        if self._tracer is None:
            self._tracer = Tracer(build_tracing(InMemoryReporter(), keep=False))
        return self._tracer

    def is_parent(self, parent: Any, span: Any) -> bool:
        return parent is None or span.own.trace_id == parent.own.trace_id


class TestScopes(ScopeCompatibilityCheckMixin):
    """OpenTracing's own check of scope managers."""

    def scope_manager(self) -> ScopeManager:
        return ScopeManager(Tracer(build_tracing(InMemoryReporter())))

    def run_test(self, test_fn: Callable[[], None]) -> None:
        contextvars.copy_context().run(test_fn)


class TestScopesInTasks(TestScopes):
    """The same in a coroutine."""

    def run_test(self, test_fn: Callable[[], None]) -> None:
        async def run() -> None:
            test_fn()

        asyncio.run(run())


# The global tracer ------------------------------------------------------------------------------------------------


@pytest.fixture
def patched(tracing: Tracing) -> Iterator[Any]:
    patcher = Patcher(opentracing)
    patch(patcher, tracing)
    yield opentracing
    patcher.undo()
    opentracing._reset_global_tracer()


def test_the_global_tracer_is_ours(patched: Any) -> None:
    """A program that only uses the API would have no spans."""
    assert isinstance(patched.global_tracer(), Tracer)
    assert patched.tracer is patched.global_tracer()
    assert patched.is_global_tracer_registered()


def test_it_is_ours_as_soon_as_it_is_imported(reporter: InMemoryReporter) -> None:
    """``from opentracing import tracer`` is the first line of many programs."""
    watcher = Watcher(build_tracing(reporter))
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "opentracing"}
    watcher.install()
    try:
        fresh = importlib.import_module("opentracing")
        assert isinstance(fresh.tracer, Tracer)
        assert watcher.patched["opentracing"] == "patched"
    finally:
        watcher.uninstall()
        for name in [name for name in sys.modules if name.partition(".")[0] == "opentracing"]:
            del sys.modules[name]
        sys.modules.update(before)


def test_a_tracer_of_the_program_is_used_and_said(patched: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """A program that brings its tracer works with that one; its user should know why its spans are not here."""
    other = MockTracer()
    patched.set_global_tracer(other)
    assert patched.global_tracer() is other
    assert "mocktracer" in capfd.readouterr().err
    with pytest.raises(ValueError, match="None"):
        patched.set_global_tracer(None)


def test_a_tracer_that_is_there_already_stays(tracing: Tracing) -> None:
    """An agent that starts late must not take the program's tracer away."""
    other = MockTracer()
    opentracing.set_global_tracer(other)
    patcher = Patcher(opentracing)
    try:
        patch(patcher, tracing)
        assert opentracing.global_tracer() is other
    finally:
        patcher.undo()
        opentracing._reset_global_tracer()


# Spans ------------------------------------------------------------------------------------------------------------


def test_a_span_has_what_it_was_given(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Times, names and tags that a program sets itself would be lost."""
    span = tracer.start_span("a", tags={"k": "v", "n": 1, "status": HTTPStatus.OK, 7: object}, start_time=1000.5)
    span.set_operation_name("b").set_tag("f", 1.5).set_tag("t", True).finish(1002.25)
    (own,) = reporter.spans
    assert (own.name, own.start_ns, own.end_ns) == ("b", 1_000_500_000_000, 1_002_250_000_000)
    assert own.attributes | {"k": "v", "n": 1, "status": 200, "7": "object", "f": 1.5, "t": True} == own.attributes
    assert type(own.attributes["status"]) is int


@pytest.mark.parametrize(
    ("value", "kind"),
    [("server", Kind.SERVER), ("client", Kind.CLIENT), ("producer", Kind.PRODUCER), ("consumer", Kind.CONSUMER)],
)
def test_span_kind(tracer: Tracer, reporter: InMemoryReporter, value: str, kind: int) -> None:
    """Calls between services are drawn by it."""
    tracer.start_span("a", tags={"span.kind": value}).finish()
    tracer.start_span("a").set_tag("span.kind", value).finish()
    assert [(own.kind, "span.kind" in own.attributes) for own in reporter.spans] == [(kind, False)] * 2


def test_error_tag(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Failed requests are found by it; a program may also take it back."""
    for values in ([True], ["true"], [False], [True, False], [False, True], ["timeout"]):
        span = tracer.start_span("a")
        for value in values:
            span.set_tag("error", value)
        span.finish()
    statuses = [own.status for own in reporter.spans]
    assert statuses == [Status.ERROR, Status.ERROR, Status.UNSET, Status.UNSET, Status.ERROR, Status.UNSET]
    assert reporter.spans[-1].attributes["error"] == "timeout"


def test_sampling_priority(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """The one way for a program to keep a trace, or to drop it."""
    unkept = Tracer(build_tracing(reporter, keep=False))
    with unkept.start_active_span("kept", tags={"sampling.priority": 1}) as scope:
        assert scope.span.context.flags & 3 == 3
        unkept.start_span("below").finish()
    with tracer.start_active_span("dropped") as scope:
        scope.span.set_tag("sampling.priority", 0)
        tracer.start_span("below").finish()
    assert [own.name for own in reporter.spans] == ["below", "kept"]


def test_values_that_have_no_text(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """What a program hands in must not fail its request."""

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    it = Unprintable()
    span = tracer.start_span(it, child_of="nonsense", references=[], tags={"a": it}, start_time="noon")
    span.set_tag(it, None).log_kv({"a": it}, timestamp=float("nan")).set_baggage_item("b", it)
    span.log_kv(None)
    span.finish(float("inf"))
    assert span.get_baggage_item("b") == "<unprintable>"
    assert len(reporter.spans) == 1


def test_nonsense_gives_a_span_that_records_nothing(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """The program goes on to use whatever it was given."""
    span = tracer.start_span("a", references=7)
    with tracer.scope_manager.activate(span, True) as scope:
        scope.span.set_tag("a", 1).set_baggage_item("b", "c").log_kv({"event": "x"})
        carrier: dict[str, str] = {}
        tracer.inject(span.context, Format.TEXT_MAP, carrier)
    assert not reporter.spans
    assert SUPPRESSED.baggage is None


def test_logs(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Events, under the name by which they are found."""
    span = tracer.start_span("a")
    span.log_kv({"event": "cache miss", "key": "x", "size": 3}, 1000.5)
    span.log_kv({"only": "fields"}).log_event("old", {"a": 1}).log(event="older", payload=2)
    span.finish()
    events = reporter.spans[0].events or []
    assert [event.name for event in events] == ["cache miss", "log", "old", "older"]
    assert (events[0].time_ns, events[0].attributes) == (1_000_500_000_000, {"key": "x", "size": 3})
    assert [event.attributes for event in events[1:]] == [{"only": "fields"}, {"payload": "{'a': 1}"}, {"payload": 2}]


def test_an_error_that_leaves_a_block(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Three ways to lose an exception, and one to log it: all are found alike, the stack included."""
    with pytest.raises(KeyError), tracer.start_span("span"):
        raise KeyError("x")
    with pytest.raises(KeyError), tracer.start_active_span("scope"):
        raise KeyError("x")
    with pytest.raises(KeyError), Tracer(tracer._tracing, OwnManager()).start_active_span("a scope of another manager"):
        raise KeyError("x")
    try:
        raise KeyError("x")
    except KeyError as error:
        fields = {"event": "error", "error.object": error, "error.kind": KeyError, "message": "m", "tries": 2}
        tracer.start_span("log").set_tag("error", True).log_kv(fields).finish()
    assert [own.status for own in reporter.spans] == [Status.ERROR] * 4
    for own in reporter.spans:
        (event,) = own.events or ()
        assert (event.name, event.attributes["exception.type"]) == ("exception", "KeyError")
        assert event.attributes["exception.message"] == "'x'"
        assert "raise KeyError" in event.attributes["exception.stacktrace"]
    assert event.attributes["tries"] == 2


def test_an_error_log_without_the_exception(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Some programs log only its parts."""
    try:
        raise KeyError("x")
    except KeyError as error:
        stack = error.__traceback__
    tracer.start_span("a").log_kv({"event": "error", "error.kind": KeyError, "message": "m", "stack": stack}).finish()
    (event,) = reporter.spans[0].events or ()
    assert (event.attributes["exception.type"], event.attributes["exception.message"]) == ("KeyError", "m")
    assert "raise KeyError" in event.attributes["exception.stacktrace"]


def test_after_its_end_nothing_is_added(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """The span is being written meanwhile, and would be lost by a change."""
    span = tracer.start_span("a")
    span.finish()
    span.set_tag("k", "v").log_kv({"a": 1}).set_operation_name("b").set_tag("error", True).finish()
    (own,) = reporter.spans
    assert (own.name, own.status, own.events, "k" in own.attributes) == ("a", Status.UNSET, None, False)


# Parents ----------------------------------------------------------------------------------------------------------


def test_parents(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """What is below what is all that a trace says."""
    with tracer.start_active_span("active") as scope:
        active, other = scope.span, tracer.start_span("other", ignore_active_span=True)
        expected = [
            (tracer.start_span("a"), active),
            (tracer.start_span("a", child_of=other), other),
            (tracer.start_span("a", child_of=other.context), other),
            (tracer.start_span("a", references=[opentracing.child_of(other.context)]), other),
            (tracer.start_span("a", references=opentracing.follows_from(other.context)), other),
            (tracer.start_span("a", references=[opentracing.child_of(None)]), active),
            (opentracing.start_child_span(other, "a"), other),
        ]
        for span, parent in expected:
            assert (span.context.trace_id, span.context.parent_id) == (parent.context.trace_id, parent.context.span_id)
        assert other.context.trace_id != active.context.trace_id
        assert other.context.parent_id is None


def test_references(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Work that was caused by several, or follows from what is over."""
    first, second = tracer.start_span("1"), tracer.start_span("2")
    both = [opentracing.follows_from(first.context), opentracing.child_of(second.context)]
    tracer.start_span("a", references=both).finish()
    tracer.start_span("b", references=both[:1]).finish()
    joined, follower = reporter.spans
    assert (joined.parent_id, follower.parent_id) == (second.own.span_id, first.own.span_id)
    assert [(link.context.span_id, link.child_of) for link in joined.links] == [(first.own.span_id, False)]
    assert [(link.context.span_id, link.child_of) for link in follower.links] == [(first.own.span_id, False)]


def test_a_parent_of_another_implementation(tracer: Tracer) -> None:
    """A library may hold contexts of jaeger_client."""
    jaeger_client = pytest.importorskip("jaeger_client")
    context = jaeger_client.SpanContext(trace_id=1, span_id=2, parent_id=3, flags=1, baggage={"a": "b"})
    span = tracer.start_span("a", child_of=context)
    assert (span.context.trace_id, span.context.parent_id, span.context.baggage) == (1, 2, {"a": "b"})
    carrier: dict[str, str] = {}
    tracer.inject(context, Format.HTTP_HEADERS, carrier)
    assert carrier["uber-trace-id"] == "0000000000000001:0000000000000002:0:1"


# Beside automatic spans -------------------------------------------------------------------------------------------


def test_automatic_spans_are_active(tracer: Tracer, tracing: Tracing, reporter: InMemoryReporter) -> None:
    """A program asks for the request's span to put tags on it; it must not end it."""
    server = tracing.tracer.start("GET", Kind.SERVER, None, "flask")
    token = current.set(server)
    scope = tracer.scope_manager.active
    assert scope is tracer.scope_manager.active
    assert tracer.active_span is scope.span
    scope.span.set_tag("user", "x").finish()
    scope.close()
    assert tracer.active_span is scope.span
    with tracer.start_active_span("below") as below:
        assert below.span.context.parent_id == server.span_id
        child = tracing.tracer.start("SELECT", Kind.CLIENT, current.get(), "sqlite3")
        inner = current.set(child)
        assert tracer.active_span is not below.span
        assert tracer.active_span.context.span_id == child.span_id
        current.reset(inner)
        assert tracer.scope_manager.active is below
        assert child.parent_id == below.span.context.span_id
    assert tracer.active_span is scope.span
    current.reset(token)
    assert tracer.active_span is None
    server.end()
    assert [own.name for own in reporter.spans] == ["below", "GET"]
    assert reporter.spans[1].attributes["user"] == "x"


def test_our_own_work_is_not_active(tracer: Tracer) -> None:
    """What the agent does by itself is nobody's request."""
    token = current.set(SUPPRESSED)
    assert tracer.active_span is None
    current.reset(token)


@pytest.mark.parametrize("keep", [True, False])
def test_one_server_span_a_request(reporter: InMemoryReporter, keep: bool) -> None:
    """Integrations read the request's headers again: without care the request would be there twice, side by side."""
    tracing = build_tracing(reporter, keep=keep)
    tracer = Tracer(tracing)
    headers = {"uber-trace-id": "abc:def:0:1"} if keep else {"uber-trace-id": "abc:def:0:0"}
    server = tracing.tracer.start("GET", Kind.SERVER, tracing.plain.extract(headers), "flask")
    token = current.set(server)
    caller = tracer.extract(Format.HTTP_HEADERS, headers)
    span = tracer.start_span("index", child_of=caller, tags={"span.kind": "server"})
    current.reset(token)
    assert span.context.trace_id == 0xABC
    assert span.context.parent_id == (server.span_id if keep else 0xDEF)
    assert span.own.kind == Kind.INTERNAL


def test_a_debug_id_starts_one_trace(tracer: Tracer, tracing: Tracing) -> None:
    """As above, where the headers only ask for a trace."""
    headers = {"jaeger-debug-id": "x"}
    server = tracing.tracer.start("GET", Kind.SERVER, tracing.plain.extract(headers), "flask")
    token = current.set(server)
    span = tracer.start_span("index", child_of=tracer.extract(Format.HTTP_HEADERS, headers))
    current.reset(token)
    assert span.context.trace_id == server.trace_id
    alone = tracer.start_span("index", child_of=tracer.extract(Format.HTTP_HEADERS, headers))
    assert (alone.own.attributes["jaeger-debug-id"], alone.context.flags & 3) == ("x", 3)


def test_a_request_of_another_caller_is_not_taken_for_the_current(tracer: Tracer, tracing: Tracing) -> None:
    """A worker that handles messages inside another span must follow each message's own headers."""
    server = tracing.tracer.start("GET", Kind.SERVER, tracing.plain.extract({"uber-trace-id": "abc:def:0:1"}), "flask")
    token = current.set(server)
    context = tracer.extract(Format.TEXT_MAP, {"uber-trace-id": "abc:123:0:1"})
    span = tracer.start_span("job", child_of=context)
    current.reset(token)
    assert span.context.parent_id == 0x123


def test_threads_and_tasks(tracer: Tracer) -> None:
    """Work in a task is below what started it; a thread of its own begins with nothing."""
    seen: list[Any] = []

    async def task() -> None:
        seen.append(tracer.active_span)

    async def main() -> None:
        with tracer.start_active_span("a") as scope:
            await asyncio.create_task(task())
            seen.append(scope.span)
        seen.append(tracer.active_span)

    asyncio.run(main())
    assert seen[0] is seen[1]
    assert seen[2] is None
    with tracer.start_active_span("b") as scope:
        thread = threading.Thread(target=lambda: seen.append(tracer.active_span))
        thread.start()
        thread.join()
        assert seen[3] is None
        own = scope.span.own
        carried = threading.Thread(target=lambda: (current.set(own), seen.append(tracer.active_span)))
        carried.start()
        carried.join()
        assert seen[4] is scope.span


def test_a_scope_that_is_closed_elsewhere_ends_its_span(tracer: Tracer, reporter: InMemoryReporter) -> None:
    """Frameworks may open and close in different contexts, or below a span that an instrument has set again."""
    context = contextvars.copy_context()
    scope = context.run(tracer.start_active_span, "a")
    scope.close()
    scope.close()
    assert [own.name for own in reporter.spans] == ["a"]
    server = tracer._tracing.tracer.start("GET", Kind.SERVER, None, "flask")
    scope = tracer.start_active_span("b")
    token = current.set(server)
    scope.close()
    assert current.get() is server
    current.reset(token)
    current.set(None)
    assert [own.name for own in reporter.spans] == ["a", "b"]


def test_scopes_that_are_never_closed_do_not_pile_up(tracer: Tracer) -> None:
    """A thread that serves for months must not keep a chain of all its requests."""

    def request() -> int:
        current.set(None)
        tracer.start_active_span("leaked")
        depth, scope = 0, tracer.scope_manager.active
        while scope is not None:
            depth, scope = depth + 1, scope.below
        return depth

    context = contextvars.copy_context()
    assert [context.run(request) for _ in range(3)] == [1, 1, 1]


def test_spans_do_not_wait_for_the_garbage_collector(tracer: Tracer) -> None:
    """A cycle in each span makes a busy process stop for collections."""
    from weakref import ref

    span = tracer.start_span("a")
    gone = ref(span)
    span.finish()
    del span
    assert gone() is None


class OwnManager(opentracing.ScopeManager):
    """A program's own idea of what is active: one for the process."""

    def __init__(self) -> None:
        self.stack: list[Any] = []

    def activate(self, span: Any, finish_on_close: bool) -> Any:
        manager = self

        class OwnScope(opentracing.Scope):
            def close(self) -> None:
                manager.stack.remove(self)
                if finish_on_close:
                    self.span.finish()

        self.stack.append(OwnScope(self, span))
        return self.stack[-1]

    @property
    def active(self) -> Any:
        return self.stack[-1] if self.stack else None


def test_scope_managers(tracing: Tracing) -> None:
    """Programs pass the package's managers, whose work ours does; one of their own is asked."""
    for given in (ThreadLocalScopeManager(), AsyncioScopeManager()):
        tracer = Tracer(tracing, given)
        with tracer.start_active_span("a") as scope:
            assert isinstance(scope, Scope)
            assert current.get() is scope.span.own
    manager = OwnManager()
    tracer = Tracer(tracing, manager)
    assert tracer.scope_manager is manager
    with tracer.start_active_span("a") as scope:
        assert tracer.active_span is scope.span
        assert tracer.start_span("b").context.parent_id == scope.span.context.span_id


# Headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier_format", [Format.TEXT_MAP, Format.HTTP_HEADERS])
def test_headers(tracer: Tracer, carrier_format: str) -> None:
    """The callee would begin a trace of its own."""
    span = tracer.start_span("a").set_baggage_item("user", "Zoë & co")
    carrier: dict[str, str] = {"kept": "x"}
    tracer.inject(span.context, carrier_format, carrier)
    assert carrier["kept"] == "x"
    assert carrier["uber-trace-id"] == f"{span.context.trace_id:032x}:{span.context.span_id:016x}:0:1"
    assert carrier["uberctx-user"] == ("Zoë & co" if carrier_format == Format.TEXT_MAP else "Zo%C3%AB%20%26%20co")
    context = tracer.extract(carrier_format, {key.title(): value for key, value in carrier.items()})
    assert isinstance(context, SpanContext)
    assert (context.trace_id, context.span_id) == (span.context.trace_id, span.context.span_id)
    assert context.baggage == {"user": "Zoë & co"}
    child = tracer.start_span("b", child_of=context)
    assert (child.context.parent_id, child.get_baggage_item("user")) == (span.context.span_id, "Zoë & co")


def test_binary(tracer: Tracer) -> None:
    """Jaeger's binary form goes to the end of what is there already, and is read by its other clients."""
    codec = pytest.importorskip("jaeger_client.codecs").BinaryCodec()
    span = tracer.start_span("a").set_baggage_item("k", "v")
    carrier = bytearray()
    tracer.inject(span, Format.BINARY, carrier)
    theirs = codec.extract(carrier)
    assert (theirs.trace_id, theirs.span_id, theirs.flags, theirs.baggage) == (
        *(span.context.trace_id, span.context.span_id, span.context.flags),
        {"k": "v"},
    )
    ours = tracer.extract(Format.BINARY, carrier)
    assert (ours.trace_id, ours.span_id, ours.baggage) == (theirs.trace_id, theirs.span_id, {"k": "v"})
    appended = bytearray(b"x")
    tracer.inject(span, Format.BINARY, appended)
    assert appended == b"x" + carrier


def test_carriers_that_are_none(tracer: Tracer) -> None:
    """Integrations catch these exceptions, and no others."""
    span = tracer.start_span("a")
    carriers = ((Format.TEXT_MAP, None), (Format.HTTP_HEADERS, "text"), (Format.BINARY, {}), (Format.TEXT_MAP, []))
    for carrier_format, carrier in carriers:
        with pytest.raises(InvalidCarrierException):
            tracer.inject(span.context, carrier_format, carrier)
        with pytest.raises(InvalidCarrierException):
            tracer.extract(carrier_format, carrier)
    with pytest.raises(SpanContextCorruptedException):
        tracer.extract(Format.BINARY, bytearray(b"too short"))
    assert tracer.extract(Format.BINARY, bytearray()) is None


@pytest.mark.parametrize(
    "headers", [{}, {"uber-trace-id": "nonsense"}, {"uber-trace-id": ["a", "b"]}, {1: 2}, {b"\xff": b"\xff"}]
)
def test_headers_that_say_nothing(tracer: Tracer, headers: Any) -> None:
    """Anybody can send anything."""
    assert tracer.extract(Format.HTTP_HEADERS, headers) is None


def test_what_has_no_ids_is_not_injected(tracer: Tracer) -> None:
    """OpenTracing's own no-op spans are in programs that were written to work without a tracer."""
    carrier: dict[str, str] = {}
    for context in (opentracing.SpanContext(), None, object(), opentracing.tracer.start_span("a").context):
        tracer.inject(context, Format.TEXT_MAP, carrier)
    assert carrier == {}


def test_an_undecided_span_decides_before_it_is_told(reporter: InMemoryReporter) -> None:
    """A header is sent once: what is decided later would be another trace at the callee's."""

    class ByName(ConstSampler):
        by_name = True

    tracing = build_tracing(reporter)
    tracing.tracer.sampler = ByName(False)
    server = tracing.tracer.start("GET", Kind.SERVER, None, "flask", True)
    token = current.set(server)
    tracer = Tracer(tracing)
    carrier = bytearray()
    tracer.inject(tracer.active_span.context, Format.BINARY, carrier)
    current.reset(token)
    assert type(server) is UnsampledSpan
    assert tracer.extract(Format.BINARY, carrier).flags == 0
    another = tracing.tracer.start("GET", Kind.SERVER, None, "flask", True)
    assert SpanContext.of(another).flags == 0
    assert type(another) is UnsampledSpan


def test_close_sends_what_is_there(tracing: Tracing) -> None:
    """Scripts end with ``tracer.close()``."""

    class Sink:
        flushed: list[tuple[float, Any]] = []

        def flush(self, timeout_s: float) -> bool:
            self.flushed.append((timeout_s, current.get()))
            return True

    tracing.tracer.sink = Sink()  # type: ignore[assignment]
    assert Tracer(tracing).close() is True
    assert Sink.flushed == [(2.0, SUPPRESSED)]


def test_a_span_costs_little(tracer: Tracer) -> None:
    """Manual spans are in the hottest loops of programs."""

    def calls() -> int:
        counted = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        try:
            with tracer.start_active_span("a") as scope:
                scope.span.set_tag("k", "v")
        finally:
            sys.setprofile(None)
        return counted

    calls()
    assert calls() <= 40
    assert isinstance(tracer.start_span("a", start_time=time.time()), Span)


LAUNCHED = """
from autoinstr import span
import opentracing

def work():
    with opentracing.tracer.start_active_span("in a thread"):
        pass

with opentracing.global_tracer().start_active_span("outer", tags={"k": "v"}) as scope:
    import threading
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with span("ours"):
        opentracing.tracer.active_span.set_tag("k", "v")
        opentracing.tracer.start_span("inner").finish()
"""


def test_a_launched_program(tmp_path: Path) -> None:
    """With nothing but the launcher, spans of both APIs and of threads are one trace."""
    sink = SpanSink()
    path = tmp_path / "app.py"
    path.write_text(LAUNCHED)
    words = [sys.executable, "-m", "autoinstr", str(path)]
    environ = {**os.environ, **sink.environ}
    try:
        done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        spans = {name: (trace_id, span_id, parent_id) for name, _, trace_id, span_id, parent_id in sink.spans}
    finally:
        sink.close()
    assert len({trace_id for trace_id, _, _ in spans.values()}) == 1
    assert {name: spans[name][2] for name in ("outer", "in a thread", "ours", "inner")} == {
        "outer": "",
        "in a thread": spans["outer"][1],
        "ours": spans["outer"][1],
        "inner": spans["ours"][1],
    }
