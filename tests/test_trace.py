"""The tracer and its spans: what programs, instruments and callers' headers do to them, and what must come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autoinstr import trace
from autoinstr.model import DEBUG, RANDOM, SAMPLED, STARTED, Kind, Link, SpanContext, SpanData, Status
from autoinstr.report import InMemoryReporter
from autoinstr.trace import STALE_PARENT_NS, Limits, Span, Tracer, UndecidedSpan, UnsampledSpan, current

TRACE, SPAN = 0xABC0_0000_0000_0000_0000_0000_0000_0001, 0x77
REMOTE = SpanContext(TRACE, SPAN, SAMPLED, "vendor=1", {"user": "7"}, is_remote=True)


class Choosing:
    """A sampler that keeps what ``keeps`` says, and remembers what it was asked."""

    def __init__(self, keeps: Any = True, *, by_name: bool = False, ignores_parent: bool = False) -> None:
        self.keeps = keeps if callable(keeps) else lambda _: keeps
        self.by_name = by_name
        self.ignores_parent = ignores_parent
        self.asked: list[tuple[int, str]] = []

    def decide(self, trace_id: int, name: str) -> Any:
        self.asked.append((trace_id, name))
        return (lambda: {"sampler.type": "choosing"},) if self.keeps(name) else None


def make(sampler: Choosing | None = None, **limits: Any) -> tuple[Tracer, deque[SpanData]]:
    """A tracer and the spans that it has finished."""
    reporter = InMemoryReporter()
    return Tracer(sampler or Choosing(), reporter, Limits(**limits)), reporter.spans


def never(bits: int) -> int:
    raise AssertionError("an unsampled span asks for no random number")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Both clocks, to be set by the test."""
    now = {"wall": 10**18, "monotonic": 5_000}
    monkeypatch.setattr(trace, "time_ns", lambda: now["wall"])
    monkeypatch.setattr(trace, "perf_counter_ns", lambda: now["monotonic"])
    return now


# ---- Ids and parents -----------------------------------------------------------------------------


def test_new_trace() -> None:
    """A root with a parent, or with somebody's flags, would be shown as a broken trace."""
    tracer, spans = make()
    span = tracer.start("work", Kind.SERVER, scope="flask")
    span.end()
    assert [span] == list(spans)
    assert (0, False, STARTED, "", None) == (
        span.parent_id,
        span.parent_is_remote,
        span.flags,
        span.trace_state,
        span.baggage,
    )
    assert ("work", Kind.SERVER, "flask", Status.UNSET) == (span.name, span.kind, span.scope, span.status)
    assert {"sampler.type": "choosing"} == span.attributes
    assert span.start_ns <= span.end_ns


@pytest.mark.parametrize("bits", [64, 128])
def test_length_of_trace_ids(bits: int) -> None:
    """Old receivers take only 64 bits; all the others need the 128 that were asked for."""
    tracer = Tracer(Choosing(), InMemoryReporter(), id_bits=bits)
    ids = [tracer.start("x").trace_id for _ in range(64)]
    assert max(ids) < 1 << bits
    assert max(ids) >= 1 << (bits - 8), "64 ids without one in the upper part of the range"
    assert 64 == len(set(ids))


@pytest.mark.parametrize("bits", [64, 128])
def test_trace_ids_are_random_where_they_say_so(bits: int) -> None:
    """W3C Trace Context level 2: samplers downstream take a hash for granted in the right-most seven bytes."""
    tracer = Tracer(Choosing(), InMemoryReporter(), id_bits=bits)
    spans = [tracer.start("x") for _ in range(256)]
    assert {STARTED} == {span.flags for span in spans}
    # By chance a bit is the same in 256 ids once in 2**255 times; each is one in about half of them.
    for bit in range(56):
        assert 64 < sum(span.trace_id >> bit & 1 for span in spans) < 192, f"bit {bit} is not random"


@pytest.mark.parametrize("random", [RANDOM, 0])
@pytest.mark.parametrize(
    ("sampler", "parent"),
    [
        (Choosing(), SpanContext(TRACE, SPAN, SAMPLED)),
        (Choosing(), SpanContext(TRACE, SPAN)),
        (Choosing(ignores_parent=True), SpanContext(TRACE, SPAN)),
        (Choosing(keeps=False, ignores_parent=True), SpanContext(TRACE, SPAN, SAMPLED)),
        (Choosing(by_name=True, ignores_parent=True), SpanContext(TRACE, SPAN)),
        (Choosing(by_name=True), SpanContext(TRACE, SPAN, deferred=True)),
        (Choosing(keeps=False, by_name=True), SpanContext(TRACE, SPAN, deferred=True)),
    ],
    ids=["kept", "not kept", "always on", "always off", "by name", "left to us", "left to us and not kept"],
)
def test_callers_word_on_its_trace_id_stands(sampler: Choosing, parent: SpanContext, random: int) -> None:
    """Only who made an id knows whether it is random; whoever says so of another's id must not, and who forgets it may not."""
    tracer, _ = make(sampler)
    caller = SpanContext(TRACE, SPAN, parent.flags | random, deferred=parent.deferred, is_remote=True)
    span = tracer.start("x", Kind.SERVER, caller, late=True)
    child = tracer.start("y", parent=span)
    assert (TRACE, TRACE) == (span.trace_id, child.trace_id)
    assert [random] * 3 == [each.flags & RANDOM for each in (span, child, span.context)]
    assert [span.recording] * 2 == [bool(each.flags & SAMPLED) for each in (span, child)]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("parent", [None, SpanContext(baggage={"user": "7"}), SpanContext(debug_id="ticket-1")])
@pytest.mark.parametrize("by_name", [True, False])
def test_our_own_trace_ids_are_said_to_be_random(keeps: bool, parent: SpanContext | None, by_name: bool) -> None:
    """However a trace begins here, its id is one of ours."""
    tracer, _ = make(Choosing(keeps, by_name=by_name))
    span = tracer.start("x", Kind.SERVER, parent, late=True)
    child = tracer.start("y", parent=span)
    assert [RANDOM] * 2 == [each.flags & RANDOM for each in (span, child)]


def test_ids_are_never_zero() -> None:
    """0 means "no id" in every format: such a span would be refused, or lose its parent."""
    tracer, _ = make()
    tracer.getrandbits = lambda bits: 0  # type: ignore[method-assign,assignment]
    root = tracer.start("root")
    child = tracer.start("child", parent=root)
    assert (1, 1, 1) == (root.trace_id, root.span_id, child.span_id)


def test_ids_leave_the_programs_random_alone() -> None:
    """A program that seeds ``random`` (games, simulations, tests) would get other numbers under the agent."""
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    tracer, _ = make()
    first = tracer.start("a").trace_id
    assert expected == random.random()
    random.seed(1)
    assert first != make()[0].start("a").trace_id, "ids repeat when the program seeds"


def test_two_tracers_make_different_ids() -> None:
    """A forked worker that made the ids of its siblings would mix their traces."""
    assert make()[0].start("a").trace_id != make()[0].start("a").trace_id


def test_child() -> None:
    """A child below another trace or another span is lost from the tree."""
    sampler = Choosing()
    tracer, _ = make(sampler)
    parent = tracer.start("parent", parent=REMOTE)
    child = tracer.start("child", Kind.CLIENT, parent)
    assert (TRACE, parent.span_id, False) == (child.trace_id, child.parent_id, child.parent_is_remote)
    assert parent.span_id != child.span_id
    assert (SAMPLED, "vendor=1", {"user": "7"}, parent.clock_ns) == (
        child.flags,
        child.trace_state,
        child.baggage,
        child.clock_ns,
    )
    assert ([], ()) == (sampler.asked, child.facts)


@pytest.mark.parametrize(("flags", "kept"), [(SAMPLED, True), (SAMPLED | DEBUG, True), (0, False), (8, False)])
def test_callers_decision_stands(flags: int, kept: bool) -> None:
    """A trace of which some services keep their part and others do not is useless."""
    sampler = Choosing(not kept)
    tracer, spans = make(sampler)
    span = tracer.start("x", parent=SpanContext(TRACE, SPAN, flags, is_remote=True))
    span.end()
    assert (TRACE, flags) == (span.trace_id, span.flags)
    assert (kept, int(kept), []) == (span.recording, len(spans), sampler.asked)
    if kept:
        assert (SPAN, True) == (span.parent_id, span.parent_is_remote)


def test_sampler_that_ignores_the_caller() -> None:
    """``always_off`` (without ``parentbased_``) means off; but the trace stays the caller's."""
    sampler = Choosing(keeps=False, ignores_parent=True)
    tracer, spans = make(sampler)
    span = tracer.start("x", parent=REMOTE)
    child = tracer.start("y", parent=span)
    child.end()
    span.end()
    assert (TRACE, 0) == (span.trace_id, span.flags)
    assert (0, [(TRACE, "x")]) == (len(spans), sampler.asked)


def test_sampler_that_ignores_an_unsampled_caller() -> None:
    """``always_on`` means on, and children of this process follow their parent here."""
    sampler = Choosing(ignores_parent=True)
    tracer, spans = make(sampler)
    span = tracer.start("x", parent=SpanContext(TRACE, SPAN, 0, is_remote=True))
    tracer.start("y", parent=span).end()
    span.end()
    assert (2, TRACE, SPAN) == (len(spans), span.trace_id, span.parent_id)
    assert 1 == len(sampler.asked)


def test_context_with_baggage_only() -> None:
    """Jaeger's ``jaeger-baggage`` header without a trace: a new root that carries it on."""
    tracer, _ = make()
    span = tracer.start("x", parent=SpanContext(baggage={"user": "7"}, is_remote=True))
    assert (0, {"user": "7"}) == (span.parent_id, span.baggage)
    assert span.trace_id


def test_debug_id() -> None:
    """``curl -H jaeger-debug-id:...`` must give a trace whatever the sampler says, found by that tag."""
    sampler = Choosing(keeps=False, by_name=True)
    tracer, spans = make(sampler)
    span = tracer.start("x", parent=SpanContext(debug_id="ticket-1", is_remote=True), late=True)
    span.end()
    assert [span] == list(spans)
    assert (STARTED | DEBUG, {"jaeger-debug-id": "ticket-1"}) == (span.flags, span.attributes)
    assert [] == sampler.asked


@pytest.mark.parametrize(("decision", "flags"), [(True, SAMPLED), (True, SAMPLED | DEBUG), (False, 0)])
def test_b3_decision_without_ids(decision: bool, flags: int) -> None:
    """``b3: 0`` is how Zipkin's users keep health checks out, ``b3: d`` how they force a trace."""
    sampler = Choosing(not decision)
    tracer, spans = make(sampler)
    span = tracer.start("x", parent=SpanContext(flags=flags, decision=decision, is_remote=True))
    span.end()
    assert (decision, flags | RANDOM, 0) == (span.recording, span.flags, span.parent_id)
    assert ({}, [], int(decision)) == (span.attributes, sampler.asked, len(spans))


@pytest.mark.parametrize("keeps", [True, False])
def test_b3_decision_left_to_us(keeps: bool) -> None:
    """B3 ids without a sampling state: we decide, in the caller's trace."""
    sampler = Choosing(keeps)
    tracer, _ = make(sampler)
    span = tracer.start("x", parent=SpanContext(TRACE, SPAN, deferred=True, is_remote=True))
    assert (TRACE, keeps, [(TRACE, "x")]) == (span.trace_id, span.recording, sampler.asked)
    if keeps:
        assert (SPAN, True) == (span.parent_id, span.parent_is_remote)


# ---- Unsampled -----------------------------------------------------------------------------------


def test_unsampled_span_records_nothing() -> None:
    """What is not kept must cost nothing, and nothing of it may leave."""
    tracer, spans = make(Choosing(keeps=False))
    span = tracer.start("x")
    span.set_attribute("a", 1).set_attributes({"b": 2}).add_event("e").add_link(REMOTE)
    span.record_exception(ValueError("x")).fail(ValueError("x")).set_status(Status.ERROR)
    span.end()
    span.end()
    assert (False, {}, None, ()) == (span.recording, span.attributes, span.events, span.links)
    assert (0, 1, None, Status.UNSET) == (len(spans), tracer.finished_unsampled, span.own, span.status)


def test_unsampled_span_still_carries_the_trace() -> None:
    """Ids, baggage and the decision must reach the next service, or it decides by itself."""
    tracer, _ = make(Choosing(keeps=False))
    root = tracer.start("x").set_baggage("user", "7")
    context = root.context
    assert (root.trace_id, root.span_id, RANDOM, {"user": "7"}) == (
        context.trace_id,
        context.span_id,
        context.flags,
        context.baggage,
    )


def test_unsampled_children_are_cheap() -> None:
    """Children of an unsampled span need no id: nobody will look for them."""
    tracer, spans = make(Choosing(keeps=False))
    root = tracer.start("x")
    tracer.getrandbits = never  # type: ignore[method-assign]
    child = tracer.start("y", parent=root)
    child.end()
    assert (root.trace_id, root.span_id, False) == (child.trace_id, child.span_id, child.recording)
    assert 0 == len(spans)


def test_suppressed() -> None:
    """Below the agent's own work nothing is traced, or sending spans would make spans for ever."""
    tracer, spans = make()
    span = tracer.start("x", parent=trace.SUPPRESSED)
    span.end()
    assert (False, True, 0) == (span.recording, span.leaf, len(spans))


# ---- A decision that waits -----------------------------------------------------------------------


def users_only(name: str) -> bool:
    return name == "GET /users/{id}"


def test_decision_waits_for_the_route() -> None:
    """Strategies per operation are keyed by routes: deciding at "GET" would never match one."""
    sampler = Choosing(users_only, by_name=True)
    tracer, spans = make(sampler)
    span = tracer.start("GET", Kind.SERVER, late=True)
    assert (UndecidedSpan, True, []) == (type(span), span.recording, sampler.asked)
    span.set_attribute("early", 1)
    span.update_name("GET /users/{id}")
    span.end()
    assert [(span.trace_id, "GET /users/{id}")] == sampler.asked
    assert (Span, STARTED, {"early": 1, "sampler.type": "choosing"}) == (type(span), span.flags, span.attributes)
    assert [span] == list(spans)


def test_decision_against() -> None:
    """What was recorded while waiting must not get out when the answer is no."""
    tracer, spans = make(Choosing(users_only, by_name=True))
    span = tracer.start("GET", Kind.SERVER, late=True)
    span.set_attribute("early", 1)
    span.update_name("GET /health")
    span.end()
    assert (UnsampledSpan, RANDOM, {}) == (type(span), span.flags, span.attributes)
    assert (0, 1, 1) == (len(spans), tracer.finished_unsampled, tracer.roots_unsampled)


@pytest.mark.parametrize(
    "settle",
    [
        lambda tracer, span: tracer.start("child", parent=span),
        lambda tracer, span: span.context,
        lambda tracer, span: span.end(),
    ],
    ids=["child", "header", "end"],
)
@pytest.mark.parametrize("keeps", [True, False])
def test_decision_cannot_wait_longer(settle: Callable[[Tracer, Span], object], keeps: bool) -> None:
    """Children and other services must get the decision that the root gets, and a root that ends needs one."""
    sampler = Choosing(keeps, by_name=True)
    tracer, spans = make(sampler)
    span = tracer.start("GET", Kind.SERVER, late=True)
    made = settle(tracer, span)
    assert [(span.trace_id, "GET")] == sampler.asked
    assert (STARTED if keeps else RANDOM) == span.flags
    if isinstance(made, (Span, SpanContext)):
        assert span.flags == made.flags
    span.update_name("GET /late")
    span.end()
    assert (1, "GET /late", int(keeps)) == (len(sampler.asked), span.name, len(spans))


def test_decision_does_not_wait_where_the_name_does_not_matter() -> None:
    """A probabilistic sampler can say at once that nothing need be recorded."""
    tracer, _ = make(Choosing(keeps=False, by_name=False))
    assert UnsampledSpan is type(tracer.start("GET", Kind.SERVER, late=True))


# ---- sampling.priority ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, True, 2.0, "1"])
def test_priority_turns_recording_on(value: Any) -> None:
    """OpenTracing's way to keep a trace from within, when the program knows that it matters."""
    tracer, spans = make(Choosing(keeps=False))
    span = tracer.start("x")
    span.set_attribute("sampling.priority", value)
    span.set_attribute("a", 1)
    child = tracer.start("y", parent=span)
    child.end()
    span.end()
    assert (STARTED | DEBUG, {"sampling.priority": value, "a": 1}) == (span.flags, span.attributes)
    assert ([child, span], STARTED | DEBUG) == (list(spans), child.flags)
    assert 0 < span.start_ns <= child.start_ns <= child.end_ns <= span.end_ns


def test_span_that_is_turned_on_is_whole() -> None:
    """A span without its name or its place in the caller's trace is not what one forced it for."""
    tracer, _ = make()
    span = tracer.start("GET", Kind.SERVER, SpanContext(TRACE, SPAN, 0, is_remote=True), "wsgi")
    span.set_attribute("sampling.priority", 1)
    span.end()
    assert ("GET", Kind.SERVER, "wsgi") == (span.name, span.kind, span.scope)
    assert (TRACE, SPAN, True) == (span.trace_id, span.parent_id, span.parent_is_remote)


@pytest.mark.parametrize("value", [0, False, "0", -1])
def test_priority_turns_recording_off(value: Any) -> None:
    """And to drop one that is of no use."""
    tracer, spans = make()
    span = tracer.start("x").set_attribute("a", 1).set_attribute("sampling.priority", value)
    tracer.start("y", parent=span).end()
    span.end()
    assert (0, RANDOM, {}) == (len(spans), span.flags, span.attributes)


@pytest.mark.parametrize("value", ["high", None, [], float("nan"), b"\xff"])
def test_priority_that_is_none(value: Any) -> None:
    """Nonsense changes nothing and raises nothing."""
    tracer, spans = make()
    tracer.start("x").set_attribute("sampling.priority", value).end()
    assert 1 == len(spans)


def test_priority_settles_a_decision_that_waits() -> None:
    """The forced decision wins over the sampler's, whatever the name becomes."""
    tracer, spans = make(Choosing(users_only, by_name=True))
    span = tracer.start("GET", Kind.SERVER, late=True)
    span.set_attribute("sampling.priority", 1)
    span.update_name("GET /health")
    span.end()
    assert [span] == list(spans)
    assert span.flags == STARTED | DEBUG


# ---- What a span holds ---------------------------------------------------------------------------


def test_attributes() -> None:
    """The later value wins, also over what an instrument said."""
    tracer, _ = make()
    span = tracer.start("x")
    span.facts = ((lambda code: {"code": code, "kept": True}, 200),)
    span.set_attributes({"a": 1, "code": 500}).set_attribute("a", 2)
    assert {"a": 2, "code": 500, "kept": True} == span.attributes


def test_limit_of_attributes() -> None:
    """A program that sets attributes in a loop must not fill the memory; what is there can still be changed."""
    tracer, _ = make(attribute_count=2)
    span = tracer.start("x")
    for number in range(5):
        span.set_attribute(f"a{number}", number)
    span.set_attribute("a0", "changed")
    assert {"a0": "changed", "a1": 1} == span.own
    assert (3, 0, 0) == span.dropped


@pytest.mark.parametrize(
    ("value", "cut"),
    [("abcdef", "abcd"), ("äöüßé", "äöüß"), (b"abcdef", b"abcd"), (["abcdef", 1], ["abcd", 1]), (123456, 123456)],
)
def test_limit_of_length(value: Any, cut: Any) -> None:
    """A body put on a span is cut, not sent."""
    tracer, _ = make(attribute_length=4)
    assert cut == tracer.start("x").set_attribute("a", value).attributes["a"]
    assert value == make(attribute_length=None)[0].start("x").set_attribute("a", value).attributes["a"]


def test_limit_of_list_attributes() -> None:
    """A list of a million items is an attribute, too."""
    tracer, _ = make(attribute_count=3)
    assert [0, 1, 2] == tracer.start("x").set_attribute("a", list(range(9))).attributes["a"]


def test_events_and_their_limits() -> None:
    """A retry loop that notes each attempt must not fill the memory."""
    tracer, _ = make(event_count=2, event_attribute_count=1, attribute_length=2)
    span = tracer.start("x")
    span.add_event("one", {"a": "long", "b": 1}, time_ns=7).add_event("two").add_event("three").add_event("four")
    assert span.events is not None
    assert [("one", {"a": "lo"}), ("two", {})] == [(event.name, event.attributes) for event in span.events]
    assert 7 == span.events[0].time_ns
    assert span.start_ns <= span.events[1].time_ns <= span.now_ns()
    assert (0, 2, 0) == span.dropped


def test_links_and_their_limits() -> None:
    """A batch consumer links every message."""
    tracer, _ = make(link_count=1, link_attribute_count=1)
    span = tracer.start("x").add_link(REMOTE, {"a": 1, "b": 2}, child_of=True).add_link(REMOTE)
    (link,) = span.links
    assert (REMOTE, {"a": 1}, True) == (link.context, link.attributes, link.child_of)
    assert (0, 0, 1) == span.dropped


class Hostile(dict[str, Any]):
    """A mapping that fails when it is read."""

    def items(self) -> Any:
        raise RuntimeError("boom")


def test_mapping_that_fails() -> None:
    """A lazy mapping of the program's (an ORM's, a proxy) must not make a note on a span raise."""
    span = make()[0].start("x").add_event("e", Hostile(a=1))
    assert span.events is not None
    assert {} == span.events[0].attributes


def test_baggage() -> None:
    """Baggage goes to what is started from then on, and not to the parent or to siblings."""
    tracer, _ = make()
    root = tracer.start("root")
    before = tracer.start("before", parent=root)
    root.set_baggage("user", "7").set_baggage("n", 1)  # type: ignore[arg-type]
    after = tracer.start("after", parent=root)
    after.set_baggage("user", None).set_baggage("n", None)
    assert (None, {"user": "7", "n": "1"}, None) == (before.baggage, root.baggage, after.baggage)


# ---- Status and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([(Status.ERROR, "bad")], (Status.ERROR, "bad")),
        ([(Status.OK, "ignored")], (Status.OK, "")),
        ([(Status.OK, ""), (Status.ERROR, "late")], (Status.OK, "")),
        ([(Status.ERROR, "bad"), (Status.UNSET, "")], (Status.ERROR, "bad")),
        ([(Status.ERROR, "bad"), (Status.OK, "")], (Status.OK, "")),
        ([(Status.ERROR, "one"), (Status.ERROR, "two")], (Status.ERROR, "two")),
    ],
)
def test_status(calls: list[tuple[int, str]], expected: tuple[int, str]) -> None:
    """OpenTelemetry's rules: OK is final, UNSET is ignored, only an error has a message."""
    span = make()[0].start("x")
    for status, message in calls:
        span.set_status(status, message)
    assert expected == (span.status, span.status_message)


class Unprintable(Exception):
    """The program's own exceptions do anything."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever the test raises
        return caught


def test_exception() -> None:
    """Type, message and stack are what one looks for in a failed request."""
    span = make()[0].start("x")
    span.record_exception(raised(KeyError("id")), {"exception.escaped": True})
    assert span.events is not None
    (event,) = span.events
    assert ("exception", "KeyError", "'id'", True) == (
        event.name,
        event.attributes["exception.type"],
        event.attributes["exception.message"],
        event.attributes["exception.escaped"],
    )
    assert "in raised" in str(event.attributes["exception.stacktrace"])
    assert Status.UNSET == span.status, "recording an exception does not fail a span"


def test_exception_that_cannot_be_printed() -> None:
    """An exception with a broken ``__str__`` would be replaced by another one, while the program handles it."""
    span = make()[0].start("x").fail(raised(Unprintable()))
    assert span.events is not None
    assert "<unprintable>" == span.events[0].attributes["exception.message"]
    assert (Status.ERROR, True) == (span.status, str(span.attributes["error.type"]).endswith("Unprintable"))


def test_with_block() -> None:
    """An exception that leaves the block fails the span, goes on, and the span ends."""
    tracer, spans = make()
    with pytest.raises(KeyError), tracer.start("x") as span:
        raise KeyError("id")
    assert ([span], Status.ERROR, "KeyError") == (list(spans), span.status, span.attributes["error.type"])


def test_closed_generator_is_no_error() -> None:
    """A client that stops reading a streamed response closes a generator; that is nobody's fault."""
    tracer, spans = make()

    def stream() -> Iterator[int]:
        with tracer.start("x"):
            yield 1

    steps = stream()
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert (Status.UNSET, None) == (spans[0].status, spans[0].events)


def test_names_of_errors() -> None:
    """``error.type`` is a qualified name, but for what everybody knows."""
    assert "ValueError" == trace.type_name(ValueError())
    assert f"{__name__}.Unprintable" == trace.type_name(Unprintable())


# ---- Time and end --------------------------------------------------------------------------------


def test_wall_clock_that_is_stepped(clock: dict[str, int]) -> None:
    """NTP steps the clock during a request: without one pair of readings, children begin before their parents."""
    tracer, _ = make()
    root = tracer.start("root")
    clock["wall"] -= 3_600 * 10**9
    clock["monotonic"] += 100
    child = tracer.start("child", parent=root)
    child.add_event("note")
    clock["monotonic"] += 50
    child.end()
    root.end()
    assert (10**18, 10**18 + 100, 10**18 + 150, 10**18 + 150) == (
        root.start_ns,
        child.start_ns,
        child.end_ns,
        root.end_ns,
    )
    assert child.events is not None
    assert 10**18 + 100 == child.events[0].time_ns


def test_new_root_reads_the_wall_clock(clock: dict[str, int]) -> None:
    """A process that runs for weeks must not keep the time of its first span."""
    tracer, _ = make()
    tracer.start("first")
    clock["wall"] += 500
    assert 10**18 + 500 == tracer.start("second").start_ns


def test_given_times() -> None:
    """Programs that import spans from elsewhere know when they were."""
    tracer, _ = make()
    span = tracer.start_span("x", start_ns=5)
    span.end(9)
    assert (5, 9) == (span.start_ns, span.end_ns)


def test_ending_twice() -> None:
    """A handler and a ``finally`` that both end a span would send it twice."""
    tracer, spans = make()
    span = tracer.start("x")
    span.end(7 + span.start_ns)
    span.end()
    assert ([span], span.start_ns + 7) == (list(spans), span.end_ns)


def test_child_of_an_ended_span(clock: dict[str, int]) -> None:
    """A background task that is started in a request ends after it: still part of the trace, for a while."""
    tracer, _ = make()
    parent = tracer.start("request")
    parent.end()
    clock["monotonic"] += STALE_PARENT_NS
    child = tracer.start("task", parent=parent)
    assert (parent.trace_id, parent.span_id) == (child.trace_id, child.parent_id)


def test_child_of_a_stale_span(clock: dict[str, int]) -> None:
    """A worker started inside the first request would put everything that it ever does into that request's trace."""
    tracer, _ = make()
    parent = tracer.start("request")
    parent.end()
    clock["monotonic"] += STALE_PARENT_NS + 1
    span = tracer.start("task", Kind.CONSUMER, parent)
    (link,) = span.links
    assert parent.trace_id != span.trace_id
    assert (0, parent.context, False, Kind.CONSUMER) == (span.parent_id, link.context, link.child_of, span.kind)
    assert (2, 0) == (tracer.roots_sampled, tracer.children)


def test_long_span_is_no_stale_parent(clock: dict[str, int]) -> None:
    """A request that takes an hour is still the parent of what it does."""
    tracer, _ = make()
    parent = tracer.start("report")
    clock["monotonic"] += 60 * STALE_PARENT_NS
    assert parent.span_id == tracer.start("query", parent=parent).parent_id


# ---- Written by hand, counters, the current span -------------------------------------------------


def test_start_span() -> None:
    """The public API's way: everything in one call, with the same limits."""
    tracer, _ = make(attribute_count=1, link_count=1)
    span = tracer.start_span(
        "x", kind=Kind.PRODUCER, parent=REMOTE, attributes={"a": 1, "b": 2}, links=[Link(REMOTE), Link(REMOTE)]
    )
    assert (Kind.PRODUCER, SPAN, {"a": 1}, 1, (1, 0, 1)) == (
        span.kind,
        span.parent_id,
        span.attributes,
        len(span.links),
        span.dropped,
    )


def test_counters() -> None:
    """The client metrics tell an operator how many traces were started, joined and thrown away."""
    tracer, _ = make(Choosing(lambda name: name == "kept"))
    for root in (tracer.start("kept"), tracer.start("dropped")):
        tracer.start("child", parent=root).end()
        root.end()
    tracer.start("x", parent=REMOTE).end()
    tracer.start("x", parent=SpanContext(TRACE, SPAN)).end()
    assert (1, 1, 1, 1) == (
        tracer.roots_sampled,
        tracer.roots_unsampled,
        tracer.joined_sampled,
        tracer.joined_unsampled,
    )
    assert (1, 3) == (tracer.children, tracer.finished_unsampled)


def test_late_decisions_are_counted() -> None:
    """A root that settles late is still one root."""
    tracer, _ = make(Choosing(users_only, by_name=True))
    for name in ("GET /users/{id}", "GET /health"):
        span = tracer.start("GET", late=True)
        span.update_name(name)
        span.end()
    assert (1, 1, 1) == (tracer.roots_sampled, tracer.roots_unsampled, tracer.finished_unsampled)


def test_starting_does_not_make_current() -> None:
    """Only who starts a span knows where it is current; a leaked one would be the parent of everything after."""
    tracer, _ = make()
    tracer.start("x")
    assert None is current.get()


@pytest.mark.parametrize("flags", [0, SAMPLED])
def test_stand_in(flags: int) -> None:
    """A parent that another API holds is lost, is asked for a decision of its own, or is reported as a span of ours."""
    sampler = Choosing(keeps=not flags)
    tracer, spans = make(sampler)
    remote = tracer.stand_in(SpanContext(TRACE, SPAN, flags, "vendor=1", {"user": "7"}, is_remote=True))
    assert remote.recording == bool(flags)
    child = tracer.start("x", parent=remote.set_attribute("a", 1))
    assert (child.trace_id, child.trace_state, child.baggage) == (TRACE, "vendor=1", {"user": "7"})
    assert child.recording == bool(flags)
    if flags:
        assert child.parent_id == SPAN
    child.end()
    remote.end()
    assert list(spans) == [child] * bool(flags)
    assert sampler.asked == []


def test_all_kinds_of_span_have_every_slot() -> None:
    """A slot that one way of starting forgets is an AttributeError in a codec, later, on another thread."""
    tracer, _ = make()
    quiet, _ = make(Choosing(keeps=False))
    waiting, _ = make(Choosing(by_name=True))
    root = tracer.start("x")
    spans = [
        root,
        tracer.start("x", parent=REMOTE),
        tracer.start("x", parent=root),
        quiet.start("x"),
        quiet.start("x", parent=quiet.start("y")),
        waiting.start("x", late=True),
        tracer.stand_in(REMOTE),
        tracer.stand_in(SpanContext(TRACE, SPAN)),
    ]
    slots = [slot for cls in Span.__mro__ for slot in getattr(cls, "__slots__", ()) if slot != "facade"]
    assert [] == [(type(span), slot) for span in spans for slot in slots if not hasattr(span, slot)]
