"""The hot path: tracer, spans and the current span.

Owns: starting and ending spans, the one ``ContextVar``, ids, the clock of a local root, limits on what a span may hold.
Must not know: samplers' rules, headers, wire formats, the environment, queues (``Tracer.sink`` takes finished spans).
Invariants: a span belongs to one task until it ends, so there is no lock; ``end()`` twice is a no-op; nothing here raises for
a value that a user hands in; an unsampled span has the same layout as a recording one, so that the decision can still change.

Times of all spans below one local root come from one pair of readings of the wall clock and of the monotonic clock, so that
they are consistent with each other when the wall clock is stepped.
"""

from __future__ import annotations

from _random import Random
from contextvars import ContextVar
from os import urandom
from time import perf_counter_ns, time_ns

from autoinstr.model import (
    DEBUG,
    MASK_64,
    RANDOM,
    SAMPLED,
    STARTED,
    Event,
    Kind,
    Link,
    SpanContext,
    SpanData,
    Status,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from autoinstr.model import Attributes, AttributeValue, Sampler, Sink

#: Flags of a span whose sampling decision waits for its name (a server span before its route is known); of the bits only
#: ``RANDOM`` means something.
UNDECIDED = -1
#: A parent that ended longer ago than this is followed from, not joined: a worker task that was started inside a request
#: copies that request's context and would otherwise stick to its trace for ever.
STALE_PARENT_NS = 60 * 1_000_000_000

_new = object.__new__


class Limits:
    """How much one span may hold; ``attribute_length`` in characters, the rest are counts. ``None`` = no limit."""

    __slots__ = (
        "attribute_count",
        "attribute_length",
        "event_attribute_count",
        "event_count",
        "link_attribute_count",
        "link_count",
    )

    def __init__(
        self,
        attribute_count: int = 128,
        attribute_length: int | None = 4096,
        event_count: int = 128,
        link_count: int = 128,
        event_attribute_count: int = 128,
        link_attribute_count: int = 128,
    ) -> None:
        self.attribute_count = attribute_count
        self.attribute_length = attribute_length
        self.event_count = event_count
        self.link_count = link_count
        self.event_attribute_count = event_attribute_count
        self.link_attribute_count = link_attribute_count

    def cut(self, value: AttributeValue) -> AttributeValue:
        """The value, shortened where it is longer than allowed."""
        limit = self.attribute_length
        if limit is None:
            return value
        try:
            if value.__class__ is str or value.__class__ is bytes:
                return value[:limit] if len(value) > limit else value
            if isinstance(value, (list, tuple)):
                return [item[:limit] if isinstance(item, str) else item for item in value[: self.attribute_count]]
            if isinstance(value, (bytearray, memoryview)):
                return bytes(value[:limit])
        except Exception:  # noqa: S110 - Host safety: an object of the program's, which may do anything; codecs take all.
            pass
        return value

    def cut_all(self, attributes: Attributes | None, count: int) -> dict[str, AttributeValue]:
        """At most ``count`` of the attributes, each shortened; an unusable mapping gives an empty one."""
        try:
            if not attributes:
                return {}
            return {str(key): self.cut(value) for key, value in list(attributes.items())[:count]}
        except Exception:  # Host safety: the mapping is the program's own, and may do anything.
            return {}


class Span(SpanData):
    """A unit of work that is being recorded. Made by ``Tracer``; ended once, by ``end()``.

    ``leaf`` says that what happens inside needs no spans of its own: the layers below an HTTP client, or our own traffic.
    ``clock_ns`` + ``perf_counter_ns()`` is the wall time within the local root. ``route`` is what a server's framework matched,
    ``is_complete`` its word that the response needs no more of the program's code. ``facade`` is what stands for the span in
    the API of another library; it is unset (not ``None``) until one asks, so that nobody else pays for it.
    """

    __slots__ = ("baggage", "clock_ns", "facade", "is_complete", "leaf", "route", "tracer")

    #: Whether it is worth building anything to put on this span.
    recording = True
    tracer: Tracer
    baggage: dict[str, str] | None
    clock_ns: int
    facade: object
    leaf: bool
    is_complete: bool
    route: str

    def __init__(self) -> None:
        """Left empty: ``Tracer`` fills the slots, which is measurably cheaper than passing twenty arguments."""

    @property
    def context(self) -> SpanContext:
        """What identifies this span in other processes."""
        if self.flags < 0:
            self.settle()
        return SpanContext(self.trace_id, self.span_id, self.flags, self.trace_state, self.baggage)

    def settle(self) -> None:
        """Make a decision that is still open; here there is none."""

    def update_name(self, name: str) -> None:
        """Replace the operation name."""
        self.name = name

    def set_attribute(self, key: str, value: AttributeValue) -> Span:
        """Set one attribute; ``sampling.priority`` > 0 forces the trace to be kept and 0 drops it (OpenTracing)."""
        try:
            if key == "sampling.priority":
                return self._set_priority(value)
            own = self.own
            if own is None:
                self.own = own = {}
            limits = self.tracer.limits
            if key in own or len(own) < limits.attribute_count:
                own[key] = limits.cut(value)
                return self
        except Exception:  # noqa: S110 - Host safety: a key of the program's own that is no text.
            pass
        self._count_dropped(attributes=1)
        return self

    def set_attributes(self, attributes: Attributes) -> Span:
        """Set several attributes."""
        try:
            for key, value in attributes.items():
                self.set_attribute(key, value)
        except Exception:  # Host safety: the mapping is the program's own, and may do anything.
            self._count_dropped(attributes=1)
        return self

    def add_event(self, name: str, attributes: Attributes | None = None, time_ns: int | None = None) -> Span:
        """Note that something happened, now or at ``time_ns`` (nanoseconds since the epoch)."""
        if self.events is None:
            self.events = []
        limits = self.tracer.limits
        if len(self.events) >= limits.event_count:
            self._count_dropped(events=1)
            return self
        cut = limits.cut_all(attributes, limits.event_attribute_count)
        self.events.append(Event(name, time_ns if time_ns is not None else self.now_ns(), cut))
        return self

    def add_link(self, context: SpanContext, attributes: Attributes | None = None, *, child_of: bool = False) -> Span:
        """Point to another span that caused this one and is not its parent."""
        limits = self.tracer.limits
        if len(self.links) >= limits.link_count:
            self._count_dropped(links=1)
            return self
        cut = limits.cut_all(attributes, limits.link_attribute_count)
        self.links = (*self.links, Link(context, cut, child_of=child_of))
        return self

    def record_exception(self, error: BaseException, attributes: Attributes | None = None) -> Span:
        """Add an ``exception`` event: type, message and stack trace, by OpenTelemetry's conventions."""
        described = describe_exception(error)
        stack, limit = described["exception.stacktrace"], self.tracer.limits.attribute_length
        if limit and isinstance(stack, str):
            described["exception.stacktrace"] = stack[-limit:]  # What failed stands at its end.
        described.update(self.tracer.limits.cut_all(attributes, self.tracer.limits.event_attribute_count))
        return self.add_event("exception", described)

    def set_status(self, status: int, message: str = "") -> Span:
        """Set the outcome, a ``Status``; OK is final (OpenTelemetry: trace API, set status)."""
        if self.status != Status.OK and status != Status.UNSET:
            self.status = status
            self.status_message = self.tracer.limits.cut(message) if status == Status.ERROR else ""  # type: ignore[assignment]
        return self

    def fail(self, error: BaseException) -> Span:
        """Record an exception that ended the work, unless it is there already (was logged), and set the status to ERROR."""
        if not is_recorded(self, error):
            self.record_exception(error)
        self.set_attribute("error.type", type_name(error))
        return self.set_status(Status.ERROR)

    def set_baggage(self, key: str, value: str | None) -> Span:
        """Carry a key and value to all spans started below from now on, here and downstream; ``None`` removes it."""
        baggage = dict(self.baggage) if self.baggage else {}
        if value is None:
            baggage.pop(key, None)
        else:
            try:
                baggage[key] = str(value)
            except Exception:  # Host safety: key and value are the program's own.
                return self
        self.baggage = baggage or None
        return self

    def now_ns(self) -> int:
        """The time by the clock of this span's local root."""
        return self.clock_ns + perf_counter_ns()

    def end(self, end_ns: int = 0) -> None:
        """Finish: take the time (or ``end_ns``) and hand the span on. Later calls do nothing."""
        if self.end_ns:
            return
        self.end_ns = end_ns or self.clock_ns + perf_counter_ns()
        self.tracer.sink.report(self)

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            try:
                self.fail(error)
            except Exception:  # noqa: S110 - Host safety: there may be no stack left to describe it (RecursionError).
                pass
        self.end()

    def _start_clock(self) -> None:
        """Take the time that an unsampled span does without; here it was taken."""

    def _count_dropped(self, attributes: int = 0, events: int = 0, links: int = 0) -> None:
        before = self.dropped or (0, 0, 0)
        self.dropped = (before[0] + attributes, before[1] + events, before[2] + links)

    def _set_priority(self, value: AttributeValue) -> Span:
        """OpenTracing's forced sampling, as Jaeger's clients have it: the tag is kept only when it grants something."""
        try:
            wanted = int(value) > 0  # type: ignore[arg-type]
        except Exception:  # Host safety: __int__ is the program's; infinity has its own error.
            return self
        if not self.trace_id:  # Below our own work, which is never traced.
            return self
        self.settle()
        if wanted:
            if not self.recording:
                self._start_clock()
            self.__class__ = Span
            self.flags |= SAMPLED | DEBUG
            if self.own is None:
                self.own = {}
            self.own["sampling.priority"] = value
        else:
            self.__class__ = UnsampledSpan
            self.flags &= ~(SAMPLED | DEBUG)
        return self


class UnsampledSpan(Span):
    """A span of a trace that is not kept: it carries ids, baggage and the decision, and records nothing.

    All slots are set, although few are read: a ``__getattr__`` for the others would make every access slow.
    """

    __slots__ = ()
    recording = False

    def _start_clock(self) -> None:
        """Begin now, if no time was taken."""
        if not self.start_ns:
            self.start_ns = now_ns = time_ns()
            self.clock_ns = now_ns - perf_counter_ns()

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """Always empty."""
        return {}

    def set_attribute(self, key: str, value: AttributeValue) -> Span:
        """Nothing, but ``sampling.priority`` can still turn recording on."""
        return self._set_priority(value) if key == "sampling.priority" else self

    def add_event(self, name: str, attributes: Attributes | None = None, time_ns: int | None = None) -> Span:
        """Nothing."""
        return self

    def add_link(self, context: SpanContext, attributes: Attributes | None = None, *, child_of: bool = False) -> Span:
        """Nothing."""
        return self

    def record_exception(self, error: BaseException, attributes: Attributes | None = None) -> Span:
        """Nothing."""
        return self

    def set_status(self, status: int, message: str = "") -> Span:
        """Nothing."""
        return self

    def fail(self, error: BaseException) -> Span:
        """Nothing."""
        return self

    def end(self, end_ns: int = 0) -> None:
        """Only marks the end."""
        if not self.end_ns:
            self.end_ns = end_ns or 1
            self.tracer.finished_unsampled += 1


class RemoteSpan(UnsampledSpan):
    """Stands for a span of another process that keeps its trace: what starts below is its child, and it is never sent."""

    __slots__ = ()
    recording = True

    def end(self, end_ns: int = 0) -> None:
        """Nothing: it ends elsewhere."""


class UndecidedSpan(Span):
    """A root whose sampling decision waits for its name.

    Per-operation strategies are keyed by names such as ``GET /users/{id}``, which a server span gets only once the
    framework has matched the route. Until then it records; it settles with the first of: the route, a child, a header to
    send, its end. (Jaeger's Go client calls this late binding.)
    """

    __slots__ = ()

    def settle(self) -> None:
        """Ask the sampler, by the name known now, and become a recording or an unsampled span."""
        facts = self.tracer.sampler.decide(self.trace_id, self.name)
        self.flags &= RANDOM
        if facts is None:
            self.__class__ = UnsampledSpan  # type: ignore[assignment]
            self.tracer.roots_unsampled += 1
        else:
            self.__class__ = Span  # type: ignore[assignment]
            self.flags |= SAMPLED
            self.facts = (*self.facts, facts)
            self.tracer.roots_sampled += 1

    def update_name(self, name: str) -> None:
        """Replace the operation name, and decide by it."""
        self.name = name
        self.settle()

    def end(self, end_ns: int = 0) -> None:
        """Decide, then finish."""
        if not self.end_ns:
            self.settle()
            self.end(end_ns)


class Tracer:
    """Starts spans. One per process; a forked child gets a new one, so that spans of the parent are never sent twice.

    ``bits`` is 64 or 128, the length of new trace ids. The counters are plain ints, read by the client metrics.
    """

    __slots__ = (
        "children",
        "children_unsampled",
        "finished_unsampled",
        "getrandbits",
        "id_bits",
        "joined_sampled",
        "joined_unsampled",
        "limits",
        "roots_sampled",
        "roots_unsampled",
        "sampler",
        "sink",
    )

    def __init__(self, sampler: Sampler, sink: Sink, limits: Limits | None = None, id_bits: int = 128) -> None:
        self.sampler = sampler
        self.sink = sink
        self.limits = limits or Limits()
        self.id_bits = id_bits
        # A generator of our own, seeded by the system: the program's `random` is neither read nor moved.
        self.getrandbits = Random(int.from_bytes(urandom(32), "little")).getrandbits
        self.roots_sampled = self.roots_unsampled = self.joined_sampled = self.joined_unsampled = 0
        self.children = self.children_unsampled = self.finished_unsampled = 0

    def start(
        self,
        name: str,
        kind: int = Kind.INTERNAL,
        parent: Span | SpanContext | None = None,
        scope: str = "",
        late: bool = False,  # noqa: FBT001, FBT002 - keyword passing costs on the hot path
    ) -> Span:
        """Start a span below ``parent`` (``None``: a new trace). Does not make it the current one.

        ``late`` lets the sampling decision of a root wait for the final name where the sampler goes by names.
        """
        if parent is None or parent.__class__ is SpanContext:
            return self.start_local_root(name, kind, parent, scope, late)
        flags = parent.flags
        if flags < 0:
            parent.settle()  # type: ignore[union-attr]
            flags = parent.flags
        if not flags & SAMPLED:
            self.children_unsampled += 1
            return self._unsampled(parent.trace_id, parent.span_id, name, kind, scope, parent)
        clock_ns: int = parent.clock_ns  # type: ignore[union-attr]
        now_ns = clock_ns + perf_counter_ns()
        if parent.end_ns and now_ns - parent.end_ns > STALE_PARENT_NS:  # type: ignore[union-attr]
            root = self.start_local_root(name, kind, None, scope, late)
            return root.add_link(parent.context)  # type: ignore[union-attr]
        self.children += 1
        span: Span = _new(Span)
        span.trace_id = parent.trace_id
        span.parent_id = parent.span_id
        span.span_id = self.getrandbits(64) or 1
        span.parent_is_remote = span.leaf = span.is_complete = False
        span.flags = flags
        span.trace_state = parent.trace_state
        span.baggage = parent.baggage
        span.clock_ns = clock_ns
        span.start_ns = now_ns
        span.name = name
        span.kind = kind
        span.scope = scope
        span.tracer = self
        span.facts = span.links = ()
        span.own = span.events = span.dropped = None
        span.end_ns = span.status = 0
        span.route = span.status_message = ""
        return span

    def start_local_root(self, name: str, kind: int, parent: SpanContext | None, scope: str, late: bool) -> Span:  # noqa: FBT001
        """``start`` for the first span of a trace in this process: below a context from outside, or a new trace."""
        facts: tuple[object, ...] | None = None
        span: Span
        if parent is None:
            trace_id = self.getrandbits(self.id_bits) or 1
            sampler = self.sampler
            if late and sampler.by_name:
                flags = UNDECIDED
            else:
                facts = sampler.decide(trace_id, name)
                if facts is None:
                    self.roots_unsampled += 1
                    # As `_unsampled`, once more: this is the path of a service that samples one request in a thousand.
                    idle = _new(UnsampledSpan)
                    idle.trace_id = trace_id
                    idle.span_id = trace_id & MASK_64 or 1
                    idle.name = name
                    idle.kind = kind
                    idle.scope = scope
                    idle.tracer = self
                    idle.leaf = idle.is_complete = idle.parent_is_remote = False
                    idle.flags = RANDOM
                    idle.parent_id = idle.status = idle.start_ns = idle.clock_ns = idle.end_ns = 0
                    idle.trace_state = idle.route = idle.status_message = ""
                    idle.baggage = idle.own = idle.events = idle.dropped = None
                    idle.facts = idle.links = ()
                    return idle
                flags = STARTED
                self.roots_sampled += 1
        else:
            trace_id, flags, facts = self._join(parent, name, late)
            if not flags & SAMPLED:
                span = self._unsampled(trace_id, self.getrandbits(64) or 1, name, kind, scope, parent)
                span.flags |= flags & RANDOM
                return span
        span = _new(UndecidedSpan if flags < 0 else Span)
        if parent is None:
            span.parent_id = 0
            span.parent_is_remote = False
            span.trace_state = ""
            span.baggage = None
        else:
            span.parent_id = parent.span_id
            span.parent_is_remote = parent.is_remote
            span.trace_state = parent.trace_state
            span.baggage = parent.baggage
        span.trace_id = trace_id
        span.span_id = self.getrandbits(64) or 1
        span.flags = flags
        span.start_ns = now_ns = time_ns()
        span.clock_ns = now_ns - perf_counter_ns()
        span.facts = (facts,) if facts is not None else ()
        span.name = name
        span.kind = kind
        span.scope = scope
        span.tracer = self
        span.leaf = span.is_complete = False
        span.links = ()
        span.own = span.events = span.dropped = None
        span.end_ns = span.status = 0
        span.route = span.status_message = ""
        return span

    def _join(self, parent: SpanContext, name: str, late: bool) -> tuple[int, int, tuple[object, ...] | None]:  # noqa: FBT001
        """Trace id, flags and the sampler's facts for a span below a context from outside."""
        sampler = self.sampler
        trace_id = parent.trace_id
        if trace_id and not parent.deferred and not sampler.ignores_parent:
            if parent.flags & SAMPLED:
                self.joined_sampled += 1
            else:
                self.joined_unsampled += 1
            return trace_id, parent.flags, None
        random = parent.flags & RANDOM if trace_id else RANDOM
        trace_id = trace_id or self.getrandbits(self.id_bits) or 1
        facts: tuple[object, ...] | None = None
        if parent.debug_id or parent.decision is not None:
            facts, flags = self._forced(parent)
        elif late and sampler.by_name:
            return trace_id, UNDECIDED & ~RANDOM | random, None
        else:
            facts = sampler.decide(trace_id, name)
            flags = SAMPLED if facts is not None else 0
        if flags:
            self.roots_sampled += 1
        else:
            self.roots_unsampled += 1
        return trace_id, flags | random, facts

    def _unsampled(
        self, trace_id: int, span_id: int, name: str, kind: int, scope: str, parent: Span | SpanContext
    ) -> Span:
        """A span that records nothing: what travels, and what it needs should `sampling.priority` turn it on."""
        span: Span = _new(UnsampledSpan)
        span.trace_id = trace_id
        span.span_id = span_id
        span.name = name
        span.kind = kind
        span.scope = scope
        span.tracer = self
        if isinstance(parent, SpanContext):
            span.parent_id = parent.span_id
            span.parent_is_remote = parent.is_remote
            span.leaf = False
        else:  # It goes by its parent's id, which nobody else will record.
            span.parent_id = parent.parent_id
            span.parent_is_remote = parent.parent_is_remote
            span.leaf = parent.leaf
        span.is_complete = False
        span.flags = parent.flags & ~SAMPLED
        span.trace_state = parent.trace_state
        span.baggage = parent.baggage
        span.status = span.start_ns = span.clock_ns = span.end_ns = 0
        span.route = span.status_message = ""
        span.own = span.events = span.dropped = None
        span.facts = span.links = ()
        return span

    def stand_in(self, parent: SpanContext) -> Span:
        """A span to be current in place of one of another process, for APIs whose contexts hold such a parent."""
        span = self._unsampled(parent.trace_id, parent.span_id, "", Kind.INTERNAL, "", parent)
        if parent.flags & SAMPLED:
            span.flags = parent.flags
            span._start_clock()  # noqa: SLF001 - the same file
            span.__class__ = RemoteSpan
        return span

    @staticmethod
    def _forced(parent: SpanContext) -> tuple[tuple[object, ...] | None, int]:
        """A decision that came in a header without a trace: Jaeger's debug id, or B3's lone sampling state."""
        if parent.debug_id:
            return (describe_debug_id, parent.debug_id), SAMPLED | DEBUG
        return ((describe_nothing,), parent.flags) if parent.decision else (None, 0)

    def start_span(
        self,
        name: str,
        *,
        kind: int = Kind.INTERNAL,
        parent: Span | SpanContext | None = None,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> Span:
        """``start`` for code written by hand: with attributes, links and a start time."""
        span = self.start(name, kind, parent)
        if span.recording:
            if start_ns is not None:
                span.start_ns = start_ns
            if attributes:
                span.set_attributes(attributes)
            for link in links:
                span.add_link(link.context, link.attributes, child_of=link.child_of)
        return span


#: The span that new spans start below. Set and reset it in the same frame, never across a ``yield``.
current: ContextVar[Span | None] = ContextVar("autoinstr.span", default=None)


def describe_debug_id(debug_id: str) -> Attributes:
    """The tag by which a forced trace is found again (Jaeger's ``jaeger-debug-id`` header)."""
    return {"jaeger-debug-id": debug_id}


def describe_nothing() -> Attributes:
    """No attributes, for a decision that leaves no tag."""
    return {}


def type_name(error: BaseException) -> str:
    """The qualified name of an exception's class, as ``error.type`` wants it."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ in {"builtins", "__main__"} else f"{cls.__module__}.{cls.__qualname__}"


def is_recorded(span: Span, error: BaseException) -> bool:
    """Whether a span has an exception already. The text is compared, too: what is tried again fails anew, perhaps otherwise."""
    kind = type_name(error)
    events = [event.attributes for event in span.events or () if event.name == "exception"]
    messages = [event.get("exception.message") for event in events if event.get("exception.type") == kind]
    if not messages:
        return False
    try:
        return span.tracer.limits.cut(str(error)) in messages
    except Exception:  # Host safety: __str__ is the program's.
        return True


def describe_exception(error: BaseException) -> dict[str, AttributeValue]:
    """``exception.type``, ``exception.message`` and ``exception.stacktrace``."""
    try:
        message = str(error)
    except Exception:  # Host safety: __str__ is the program's.
        message = "<unprintable>"
    try:
        from traceback import format_exception  # Only for errors: it is slow to load.

        stack = "".join(format_exception(type(error), error, error.__traceback__, limit=-64))
    except Exception:  # Host safety: formatting calls the program's __str__, too.
        stack = ""
    return {"exception.type": type_name(error), "exception.message": message, "exception.stacktrace": stack}


def _make_suppressed() -> Span:
    """A span that is never sent, below which nothing is traced: set while the agent does its own work."""

    class Nowhere:
        @staticmethod
        def report(span: SpanData) -> None:
            """Drop it."""

    class Never:
        by_name = ignores_parent = False

        @staticmethod
        def decide(trace_id: int, name: str) -> None:
            """Keep nothing."""

    span = Tracer(Never(), Nowhere()).start("autoinstr")
    span.trace_id = 0
    span.leaf = True
    return span


SUPPRESSED = _make_suppressed()
