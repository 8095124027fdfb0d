"""OpenTelemetry's API on this engine: what is written for that API, programs and instrumentations, makes spans of ours.

Owns: the translation between OpenTelemetry's objects and ours, in both directions; the rule that no request gets two spans.
Must not know: samplers, queues, wire formats, what is in the headers (the propagator does).
Invariants: what is current is kept in one place, ``autoinstr.trace.current``; a span has one facade as long as anybody holds it;
nothing here raises for a value that a program hands in; loaded only after the program has imported ``opentelemetry.trace``.

A facade knows its span, and the span its facade only weakly: with a cycle, each span would wait for the garbage collector.

Source: OpenTelemetry specification, trace and context API; what it leaves open is done as the Python SDK does it.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from opentelemetry import context as api_context
from opentelemetry import trace as api
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.context.context import Context, _RuntimeContext
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.trace.span import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util._once import Once

from autoinstr.instrument.http import set_route
from autoinstr.model import RANDOM, SAMPLED, Kind
from autoinstr.model import SpanContext as OwnContext
from autoinstr.trace import SUPPRESSED, Span, current, type_name
from autoinstr.trouble import fault, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextvars import Token
    from types import TracebackType

    from autoinstr.instrument import Patcher, Tracing
    from autoinstr.model import AttributeValue

#: Scopes whose client spans say all there is to say of a call, so that the layers below it get no spans.
INSTRUMENTATIONS = "opentelemetry.instrumentation."
#: The older key for "no spans from here on", which libraries still use beside, or instead of, the API's.
SUPPRESS_KEY = "suppress_instrumentation"
#: By one of these an instrumentation's span is known to tell of a whole request.
REQUEST_METHODS = frozenset({"http.request.method", "http.method"})
LEAVE_ALONE = "(AUTOINSTR_DISABLED_INSTRUMENTS=opentelemetry leaves it alone)"
MAX_TRACERS = 1000
#: Headers that are read beside those by which a propagator sees that there is something to read.
MORE_HEADERS = ("tracestate", "x-b3-spanid")
BAGGAGE_HEADER = "uberctx-"

FLAG_RANDOM = 0x02
FLAGS = {number: TraceFlags(number) for number in range(4)}
KINDS: tuple[api.SpanKind, ...] = (api.SpanKind.INTERNAL, *api.SpanKind)
SERVER, CLIENT, INTERNAL = Kind.SERVER, Kind.CLIENT, Kind.INTERNAL
PLAIN = frozenset({str, bool, int, float})

_new = object.__new__
_get_current, _set_current, _reset_current = current.get, current.set, current.reset


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Make ours the provider and the context of a program that has just imported ``opentelemetry.trace``."""
    trace = patcher.module
    if trace._TRACER_PROVIDER is not None:
        say(f"the program has an OpenTelemetry provider already, which stays: its spans are not ours {LEAVE_ALONE}")
        return
    runtime = RuntimeContext(tracing, api_context._RUNTIME_CONTEXT)
    provider = Provider(tracing, runtime)
    done = Once()
    done.do_once(lambda: None)
    patcher.set(trace, "_TRACER_PROVIDER_SET_ONCE", done)
    patcher.set(trace, "_TRACER_PROVIDER", provider)
    patcher.wrap("set_tracer_provider", keep_ours(provider))
    patcher.set(api_context, "_RUNTIME_CONTEXT", runtime)


def patch_propagation(patcher: Patcher, tracing: Tracing) -> None:
    """Make ours the propagator of ``opentelemetry.propagate``; a program may still set another."""
    patcher.set(patcher.module, "_HTTP_TEXT_FORMAT", TextMap(tracing))


def patch_fastapi(patcher: Patcher, _tracing: Tracing) -> None:
    """FastAPI's own spans (newer versions make them) only where the program wants them.

    It makes half a dozen for each request once there is a provider that is more than the API's default, which is ours, always.
    """

    def make(wrapped: Any) -> Callable[..., Any]:
        def _unconfigured(provider: Any) -> Any:
            if provider.__class__ is Provider and not provider.is_wanted:
                return True
            return wrapped(provider)

        return _unconfigured

    module = patcher.module
    original = module._unconfigured
    patcher.wrap("_unconfigured", make)
    for name in ("_asgi", "_runtime"):  # Those that have taken it from there, where the library came before us.
        taker = sys.modules.get(f"{module.__package__}.{name}")
        if taker is not None and vars(taker).get("_unconfigured") is original:
            patcher.set(taker, "_unconfigured", module._unconfigured)


def keep_ours(provider: Provider) -> Callable[[Any], Callable[..., Any]]:
    """A program that sets up the SDK goes on working; its spans come here. One that has thrown ours out (tests do) gets its own."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def set_tracer_provider(tracer_provider: Any) -> None:
            if api._TRACER_PROVIDER is not provider:
                wrapped(tracer_provider)
                return
            provider.is_wanted = True
            if not isinstance(tracer_provider, Provider):
                say(
                    "the program's own OpenTelemetry provider is not used: its spans are part of the traces made here "
                    + LEAVE_ALONE,
                    about="OpenTelemetry provider",
                )

        return set_tracer_provider

    return make


# Context: what is current, for both.


class Attached:
    """What was attached: a context, the span that became the current one with it, and the baggage which that span had then.

    ``server`` is the server span that was open then. ``origin`` is what the program attached, where this was derived from it.
    """

    __slots__ = ("baggage", "context", "origin", "server", "span")

    def __init__(
        self,
        context: Context,
        span: Span | None,
        baggage: dict[str, str] | None,
        server: Span | None,
        origin: Attached | None = None,
    ) -> None:
        self.context = context
        self.span = span
        self.baggage = baggage
        self.server = server
        self.origin = origin


class RuntimeContext(_RuntimeContext):
    """OpenTelemetry's context, whose span and baggage are always those that are current here.

    As long as the span that was attached is the current one, the context is what was attached; otherwise it is that with
    another span in it, which is remembered, because instrumentations ask for it many times in a request.
    """

    def __init__(self, tracing: Tracing, before: _RuntimeContext) -> None:
        self._tracing = tracing
        self._before = before
        nothing = Attached(Context(), None, None, None)
        self._attached: ContextVar[Attached] = ContextVar("autoinstr.opentelemetry", default=nothing)

    def get_current(self) -> Context:
        """The context, with the span that is current now."""
        attached = self._attached.get()
        span = _get_current()
        if span is attached.span and (span is None or span.baggage is attached.baggage):
            return attached.context
        try:
            return self._derive(attached.origin or attached, span)
        except Exception as trouble:  # Host safety: any program's object may be in a context.
            fault("OpenTelemetry's current context", trouble)
            return attached.context

    def _derive(self, attached: Attached, span: Span | None) -> Context:
        values = dict(attached.context)
        baggage = None
        if span is None:
            values.pop(_SPAN_KEY, None)
        elif span is SUPPRESSED:
            values.pop(_SPAN_KEY, None)
            values[_SUPPRESS_INSTRUMENTATION_KEY] = True
        else:
            values[_SPAN_KEY] = facade(span)
            baggage = span.baggage
            if baggage is not attached.baggage:
                values[_BAGGAGE_KEY] = dict(baggage) if baggage else {}
        context = Context(values)
        self._attached.set(Attached(context, span, baggage, attached.server, attached))
        return context

    def attach(self, context: Context) -> Any:
        """Make it the context, and its span the current one; the token is for ``detach``."""
        before = self._attached.get()
        now = _get_current()
        span, undo = None, None
        try:
            context, span, undo = self._taken_up(context)
        except Exception as trouble:  # Host safety: any program's object may be in a context.
            fault("an OpenTelemetry context", trouble)
        server = now if is_open_server(now) else before.server if now is before.span else None
        attached = Attached(context, span, None if span is None else span.baggage, server)
        return self._attached.set(attached), _set_current(span), span, undo

    def detach(self, token: Any) -> None:
        """Put back what there was before ``attach``. The API reports what is raised for a token that is none."""
        if token.__class__ is not tuple:  # Attached before we came.
            self._before.detach(token)
            return
        attached, before, span, undo = token
        try:
            self._attached.reset(attached)
        except ValueError:  # In another context than it was attached in, as generators end: there is nothing to put back.
            pass
        if undo is not None and undo[0].baggage is undo[2]:
            undo[0].baggage = undo[1]
        if span is None or _get_current() is not None:  # Otherwise who set the one before has taken it away meanwhile.
            _reset(before)

    def _taken_up(self, context: Context) -> tuple[Context, Span | None, Any]:
        """The context to keep, the span to make the current one, and how to undo a change of that span's baggage."""
        if context.get(_SUPPRESS_INSTRUMENTATION_KEY) or context.get(SUPPRESS_KEY):
            return context, SUPPRESSED, None
        known = context.get(_SPAN_KEY)
        if isinstance(known, Facade):
            if known.__class__ is Joined:  # It is for the instrumentation that made it; others get the span itself.
                context = Context({**context, _SPAN_KEY: facade(known.own)})
            return context, known.own, _lend_baggage(known.own, context)
        if isinstance(known, api.Span):
            parent = remote_parent(known, context)
            if parent is not None and parent.is_valid:
                stand_in = self._tracing.tracer.stand_in(parent)
                stand_in.facade = known
                return context, stand_in, None
        return context, None, None

    def peek(self) -> Attached:
        """What was attached last."""
        return self._attached.get()

    def parent_without_span(self) -> Span | OwnContext | None:
        """What the context has for a new trace: baggage, or a decision that came without ids."""
        attached = self._attached.get()
        return parent_in(attached.context) if attached.span is None and attached.context else None

    def span_in_suppression(self) -> Span | OwnContext | None:
        """Where no library is to be traced, a program's own spans have the context's parent; ``SUPPRESSED`` in our own work."""
        attached = self._attached.get()
        known = attached.origin or attached
        return parent_in(known.context) if known.span is SUPPRESSED else SUPPRESSED


def _lend_baggage(span: Span, context: Context) -> Any:
    """Give a span the baggage of a context while that is attached: (span, what it had, what it has), ``None`` if it has it."""
    if _BAGGAGE_KEY not in context:
        return None
    had, has = span.baggage, own_baggage(context)
    if (had or None) == has:
        return None
    span.baggage = has
    return span, had, has


def own_baggage(context: Context) -> dict[str, str] | None:
    """The baggage of a context in our words."""
    baggage = context.get(_BAGGAGE_KEY)
    return {str(key): str(value) for key, value in baggage.items()} if baggage and isinstance(baggage, dict) else None


def own_context(context: Any) -> OwnContext | None:
    """What identifies a span, in our words; ``None`` for an invalid one."""
    if not isinstance(context, SpanContext) or not context.is_valid:
        return None
    flags = context.trace_flags & SAMPLED | (RANDOM if context.trace_flags & FLAG_RANDOM else 0)
    state = context.trace_state.to_header() if context.trace_state else ""
    return OwnContext(context.trace_id, context.span_id, flags, state, is_remote=context.is_remote)


def api_context_of(span: Any, *, is_remote: bool) -> SpanContext:
    """What identifies a span or a context of ours, in OpenTelemetry's words."""
    flags = span.flags & SAMPLED | (FLAG_RANDOM if span.flags & RANDOM else 0)
    state = TraceState.from_header([span.trace_state]) if span.trace_state else None
    return SpanContext(span.trace_id, span.span_id, is_remote, FLAGS[flags], state)


class RemoteParent(NonRecordingSpan):
    """A caller's span, with what its headers said beyond OpenTelemetry's notion of it: debug id, deferred decision, and so on."""

    def __init__(self, own: OwnContext) -> None:
        super().__init__(api_context_of(own, is_remote=True))
        self.own = own


def remote_parent(known: api.Span, context: Context) -> OwnContext | None:
    """A parent that is no span of ours, with the baggage of the context that it is in."""
    parent = known.own if isinstance(known, RemoteParent) else own_context(known.get_span_context())
    if parent is not None and _BAGGAGE_KEY in context:
        baggage = own_baggage(context)
        if baggage != parent.baggage:
            parent = OwnContext(
                parent.trace_id,
                parent.span_id,
                parent.flags,
                parent.trace_state,
                baggage,
                parent.debug_id,
                is_remote=parent.is_remote,
                deferred=parent.deferred,
                decision=parent.decision,
            )
    return parent


def parent_in(context: Context) -> Span | OwnContext | None:
    """The parent that a context names."""
    known = context.get(_SPAN_KEY)
    if isinstance(known, Facade):
        return known.own
    parent = remote_parent(known, context) if isinstance(known, api.Span) else None
    if parent is None and context.get(_BAGGAGE_KEY):
        return OwnContext(baggage=own_baggage(context))
    return parent


def facade(span: Span) -> api.Span:
    """OpenTelemetry's view of a span of ours; the same object as long as somebody holds it."""
    known: Any = getattr(span, "facade", None)
    if known.__class__ is ref:
        known = known()
        if known is None:
            del span.facade
    if isinstance(known, api.Span):
        return known
    made = Facade(span)
    if known is None:  # Otherwise the place is another API's.
        span.facade = ref(made)
    return made


def is_open_server(span: Span | None) -> bool:
    """Whether it is a server span of this process that has not ended."""
    return span is not None and span.kind == SERVER and not span.end_ns


# Spans.


class Facade(api.Span):
    """A span of ours by OpenTelemetry's names."""

    __slots__ = ("_context", "_record_exception", "_set_status", "own")

    def __init__(self, own: Span) -> None:
        self.own = own
        self._record_exception = self._set_status = True
        self._context: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """What identifies it in other processes. To say it, the sampling decision must be made."""
        own = self.own
        if own.flags < 0:
            own.settle()
        known = self._context
        if known is None or known.trace_flags & SAMPLED != own.flags & SAMPLED:
            self._context = known = api_context_of(own, is_remote=False)
        return known

    @property
    def context(self) -> SpanContext:
        """As the SDK's spans have it."""
        return self.get_span_context()

    def is_recording(self) -> bool:
        """Whether it is worth putting anything on it."""
        return self.own.recording and not self.own.end_ns

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""
        own = self.own
        if own.recording and not own.end_ns:
            put(own, ((key, value),))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        own = self.own
        if own.recording and not own.end_ns and attributes:
            put(own, items_of(attributes))

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Note that something happened."""
        if self.is_recording():
            self.own.add_event(str(name), clean_all(attributes), whole(timestamp) or None)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Point to another span."""
        linked = own_context(context) if self.is_recording() else None
        if linked is not None:
            self.own.add_link(linked, clean_all(attributes))

    def update_name(self, name: str) -> None:
        """Give it another name."""
        if not self.own.end_ns:
            self.own.update_name(str(name))

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the outcome; OK is final."""
        if not self.is_recording():
            return
        if isinstance(status, Status):
            description = status.description
            status = status.status_code
        if isinstance(status, StatusCode):
            self.own.set_status(status.value, str(description) if description else "")

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Add an event that tells of an exception."""
        own = self.own
        if not self.is_recording() or not isinstance(exception, BaseException):
            return
        found = clean_all(attributes)
        if escaped:
            found["exception.escaped"] = "True"
        before = len(own.events or ())
        own.record_exception(exception, found)
        at_ns = whole(timestamp)
        if at_ns and own.events and len(own.events) > before:
            own.events[-1].time_ns = at_ns

    def end(self, end_time: int | None = None) -> None:
        """Finish. Later calls do nothing."""
        self.own.end(whole(end_time))

    def __enter__(self) -> Facade:  # noqa: PYI034 - the API's own is typed so
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self.fail(error, record=self._record_exception, set_status=self._set_status, escaped=True)
        self.end()

    def fail(self, error: BaseException, *, record: bool, set_status: bool, escaped: bool = False) -> None:
        """What an exception that leaves the span's block does to it."""
        try:
            if self.is_recording():
                if record:
                    self.record_exception(error, escaped=escaped)
                if set_status:
                    self.own.set_status(StatusCode.ERROR.value, f"{type(error).__name__}: {error}")
        except Exception as trouble:  # Host safety: the exception's __str__ is the program's.
            fault("an exception in an OpenTelemetry span", trouble)

    def __repr__(self) -> str:
        return repr(self.own)

    # What the SDK's spans can be asked for, as programs and hooks of instrumentations do.

    @property
    def name(self) -> str:
        """Its name."""
        return self.own.name

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes, as a copy."""
        return self.own.attributes

    @property
    def kind(self) -> api.SpanKind:
        """Its kind."""
        return KINDS[self.own.kind]

    @property
    def status(self) -> Status:
        """Its outcome."""
        return Status(StatusCode(self.own.status), self.own.status_message or None)

    @property
    def parent(self) -> SpanContext | None:
        """What it stands below."""
        own = self.own
        if not own.parent_id:
            return None
        context = self.get_span_context()
        return SpanContext(
            own.trace_id, own.parent_id, own.parent_is_remote, context.trace_flags, context.trace_state
        )

    @property
    def events(self) -> tuple[SeenEvent, ...]:
        """What was noted on it."""
        return tuple(SeenEvent(event.name, event.time_ns, event.attributes) for event in self.own.events or ())

    @property
    def links(self) -> tuple[api.Link, ...]:
        """What it points to."""
        return tuple(
            api.Link(api_context_of(link.context, is_remote=link.context.is_remote), link.attributes)
            for link in self.own.links
        )

    @property
    def start_time(self) -> int | None:
        """When it began, in nanoseconds since the epoch."""
        return self.own.start_ns or None

    @property
    def end_time(self) -> int | None:
        """When it ended; an unsampled span does not know."""
        return self.own.end_ns if self.own.end_ns > 1 else None


class SeenEvent:
    """An event of a span, by the names that the SDK's have."""

    __slots__ = ("attributes", "name", "timestamp")

    def __init__(self, name: str, timestamp: int, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.timestamp = timestamp
        self.attributes = attributes


class Joined(Facade):
    """For what would be a second span of one request: it goes on the span that is there, which is not ended by it.

    Nor is that renamed, for it has the name that its own instrument gives it. What both know, it keeps as its instrument has it.
    """

    __slots__ = ()

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        own = self.own
        if not own.recording or own.end_ns or not attributes:
            return
        others = [item for item in items_of(attributes) if item[0] not in {"http.route", "error.type"}]
        put(own, others)
        try:
            route = attributes.get("http.route")
            if route and own.kind == SERVER and not own.route and " " not in own.name:
                set_route(own, str(route))
        except Exception as trouble:  # Host safety: the mapping is the program's own, and may do anything.
            fault("the route of a request", trouble)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Add an event that tells of an exception, unless its own instrument has done so."""
        own = self.own
        if self.is_recording() and (own.own is None or own.own.get("error.type") != type_name(exception)):
            super().record_exception(exception, attributes, timestamp, escaped)
            own.set_attribute("error.type", type_name(exception))

    def update_name(self, name: str) -> None:
        """Nothing."""

    def end(self, end_time: int | None = None) -> None:
        """Nothing: it goes on."""


def whole(number: Any) -> int:
    """A time that a program gives, which may be a float or nonsense; 0 for none."""
    if number.__class__ is int:
        return number
    try:
        return int(number) if number else 0
    except (TypeError, ValueError, OverflowError):
        return 0


def items_of(attributes: Any) -> Sequence[tuple[Any, Any]]:
    """The items of a program's mapping; none for what is no mapping."""
    try:
        return list(attributes.items())
    except Exception as trouble:  # Host safety: any object may be handed in.
        fault("attributes of an OpenTelemetry span", trouble)
        return ()


def put(own: Span, items: Iterable[tuple[Any, Any]]) -> None:
    """Set attributes of a recording span, within its limits. Flat, for most of an instrumentation's time goes here."""
    known = own.own
    if known is None:
        own.own = known = {}
    limits = own.tracer.limits
    length, room = limits.attribute_length, limits.attribute_count
    for key, value in items:
        if value.__class__ not in PLAIN:
            value = clean(value)  # noqa: PLW2901
            if value is None:
                continue
            value = limits.cut(value)  # noqa: PLW2901
        elif length is not None and value.__class__ is str and len(value) > length:
            value = value[:length]  # noqa: PLW2901
        if key.__class__ is str and key and key != "sampling.priority" and (key in known or len(known) < room):
            known[key] = value
        elif isinstance(key, str) and key:
            own.set_attribute(str.__str__(key), value)  # Counts what it has no room for.


def clean(value: Any) -> AttributeValue | None:
    """An attribute value that we can send, as the SDK makes it; ``None`` for what has none."""
    if value.__class__ in PLAIN or isinstance(value, bytes):
        return cast("AttributeValue", value)
    try:
        if value is None:
            return None
        if isinstance(value, str):
            return str.__str__(value)  # An enumeration's member, say, whose str() is another.
        if isinstance(value, (int, float)):
            return int(value) if isinstance(value, int) else float(value)
        if isinstance(value, (list, tuple)):
            return [clean_item(item) for item in value]
        if hasattr(value, "items"):
            return as_json(value)
        cls: Any = type(value)
        return str(value) if cls.__str__ is not object.__str__ or cls.__repr__ is not object.__repr__ else None
    except Exception as trouble:  # Host safety: what is called here is the program's.
        fault("an attribute of an OpenTelemetry span", trouble)
        return None


def clean_item(item: Any) -> str | bool | int | float:
    """One value of a sequence; what is more than a value is written as text."""
    value = clean(item)
    if value is None:
        return ""
    return value if isinstance(value, (str, int, float)) else as_json(value)


def as_json(value: Any) -> str:
    """Structured values, which most formats do not have."""
    from json import dumps

    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return dumps(dict(value) if hasattr(value, "items") else value, default=str)


def clean_all(attributes: Any) -> dict[str, Any]:
    """The attributes of an event or link that we can send."""
    if not attributes:
        return {}
    return {str(key): value for key, raw in items_of(attributes) if key and (value := clean(raw)) is not None}


# Tracers.


class Tracer(api.Tracer):
    """Starts spans of ours for one instrumentation scope."""

    def __init__(self, tracing: Tracing, runtime: RuntimeContext, scope: str) -> None:
        self._tracing = tracing
        self._runtime = runtime
        self._scope = scope
        self._is_instrumentation = scope.startswith(INSTRUMENTATIONS)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: api.SpanKind = api.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[api.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> api.Span:
        """Start a span below the current one, or below the one in ``context``."""
        try:
            parent: Span | OwnContext | None
            if context is not None:
                parent = parent_in(context)
            else:
                parent = _get_current()
                if parent is None:
                    parent = self._runtime.parent_without_span()
                elif parent is SUPPRESSED:
                    parent = self._runtime.span_in_suppression()
                    if parent is SUPPRESSED:
                        return INVALID_SPAN
            own_kind: int = kind.value + 1
            if own_kind != INTERNAL or (context is not None and self._is_instrumentation):
                there = self._there(parent, own_kind, context, attributes)
                if there is not None:
                    joined = Joined(there)
                    joined.set_attributes(attributes)
                    return joined
            own = self._tracing.tracer.start(name if name.__class__ is str else str(name), own_kind, parent, self._scope)
            if own_kind == CLIENT and self._is_instrumentation:
                own.leaf = True
            span = _new(Facade)
            span.own = own
            span._record_exception = record_exception
            span._set_status = set_status_on_exception
            span._context = None
            own.facade = ref(span)
            if own.recording:
                if start_time:
                    own.start_ns = whole(start_time) or own.start_ns
                if attributes:
                    put(own, attributes.items() if attributes.__class__ is dict else items_of(attributes))
                if links:
                    for link in links:
                        span.add_link(link.context, link.attributes)
        except Exception as trouble:  # Host safety: the program's work goes on, untraced.
            fault("the start of an OpenTelemetry span", trouble)
            return INVALID_SPAN
        return span

    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: Context | None = None,
        kind: api.SpanKind = api.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[api.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Active:
        """The same, and it is the current one inside a block or a function."""
        return Active(
            self,
            (name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception),
            end_on_exit,
        )

    def _there(
        self, parent: Span | OwnContext | None, kind: int, context: Context | None, attributes: Any
    ) -> Span | None:
        """The span of ours that tells of the same request already."""
        if kind == CLIENT:
            return parent if isinstance(parent, Span) and parent.leaf else None
        if kind == SERVER:
            attached = self._runtime.peek()
            for span in (_get_current(), attached.server):
                if span is not None and is_open_server(span) and _is_same_request(span, parent):
                    return span
        elif isinstance(parent, Span) and is_open_server(parent) and parent.scope != self._scope:
            # Instrumentations of servers make an internal one of what they receive below a server span.
            tells_of_request = kind == INTERNAL and attributes and not REQUEST_METHODS.isdisjoint(attributes)
            return parent if tells_of_request else None
        return None


def _is_same_request(server: Span, parent: Span | OwnContext | None) -> bool:
    """Whether a server span below ``parent`` would tell of the request that ``server`` tells of."""
    if parent is None or parent is server or not parent.trace_id:
        return True
    return parent.trace_id == server.trace_id and parent.span_id in {server.parent_id, server.span_id}


class Active:
    """A span that is current inside a ``with`` block, or inside each call of the function that it decorates."""

    __slots__ = ("_arguments", "_end_on_exit", "_span", "_token", "_tracer")

    def __init__(self, tracer: Tracer, arguments: tuple[Any, ...], end_on_exit: bool) -> None:  # noqa: FBT001
        self._tracer = tracer
        self._arguments = arguments
        self._end_on_exit = end_on_exit
        self._token: Any = None

    def __enter__(self) -> api.Span:
        span = self._span = self._tracer.start_span(*self._arguments)
        if span is INVALID_SPAN:
            return span
        if _get_current() is SUPPRESSED:
            runtime = self._tracer._runtime
            self._token = runtime.attach(api.set_span_in_context(span, runtime.get_current()))
        else:
            self._token = _set_current(span.own)  # type: ignore[attr-defined]
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token = self._token
        if token is None:
            return
        self._token = None
        if token.__class__ is tuple:
            self._tracer._runtime.detach(token)
        else:
            _reset(token)
        span = cast("Facade", self._span)
        if error is not None and isinstance(error, Exception):
            span.fail(error, record=self._arguments[6], set_status=self._arguments[7])
        if self._end_on_exit:
            span.end()

    def __call__(self, function: Any) -> Any:
        """Decorate: a new span for each call."""
        tracer, arguments, end_on_exit = self._tracer, self._arguments, self._end_on_exit
        if iscoroutinefunction(function):

            @wraps(function)
            async def traced_coroutine(*args: Any, **keywords: Any) -> Any:
                with Active(tracer, arguments, end_on_exit):
                    return await function(*args, **keywords)

            return traced_coroutine

        @wraps(function)
        def traced(*args: Any, **keywords: Any) -> Any:
            with Active(tracer, arguments, end_on_exit):
                return function(*args, **keywords)

        return traced


def _reset(token: Token[Span | None]) -> None:
    try:
        _reset_current(token)
    except ValueError:  # The end of a generator, in another context than it began in.
        pass


class Resource:
    """Who emits spans, as far as the SDK's resources are read by programs."""

    __slots__ = ("attributes", "schema_url")

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.attributes = attributes
        self.schema_url = ""


class Provider(api.TracerProvider):
    """Gives tracers; has what programs call on the SDK's. ``is_wanted``: the program has tried to set up one of its own."""

    def __init__(self, tracing: Tracing, runtime: RuntimeContext) -> None:
        self._tracing = tracing
        self._runtime = runtime
        self._tracers: dict[str, Tracer] = {}
        self.is_wanted = False

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> Tracer:
        """The tracer of a scope; one for all its versions."""
        scope = str(instrumenting_module_name or "")
        known = self._tracers.get(scope)
        if known is None:
            known = Tracer(self._tracing, self._runtime, scope)
            if len(self._tracers) < MAX_TRACERS:
                self._tracers[scope] = known
        return known

    @property
    def resource(self) -> Resource:
        """Who emits the spans."""
        config = self._tracing.config
        return Resource({"service.name": config.service_name, **dict(config.resource_attributes)})

    def add_span_processor(self, span_processor: Any) -> None:
        """Nothing but a word: spans do not go through the SDK."""
        self.is_wanted = True
        say(
            f"the program's OpenTelemetry span processor ({type(span_processor).__name__}) is not used: its spans are sent "
            f"from here {LEAVE_ALONE}",
            about="OpenTelemetry span processors",
        )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is waiting."""
        flush = getattr(self._tracing.tracer.sink, "flush", None)
        try:
            return flush is None or bool(flush(timeout_millis / 1000))
        except Exception as trouble:  # Host safety: the program only wanted to be sure.
            fault("a flush by way of OpenTelemetry", trouble)
            return False

    def shutdown(self) -> None:
        """Send what is waiting; the agent itself ends with the process."""
        self.force_flush()


# Headers.


class TextMap(TextMapPropagator):
    """The configured formats, for code that propagates by OpenTelemetry's API."""

    def __init__(self, tracing: Tracing) -> None:
        self._plain = tracing.plain
        self._probes = tuple(map(str, tracing.plain.probes))
        self._items_beside = frozenset(name for name in self._probes if name.startswith(("uber-", "jaeger-")))

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        """The context, with what the carrier says of the caller."""
        context = Context() if context is None else context
        try:
            found = self._plain.extract(self._read(carrier, getter))
            if found is None:
                return context
            values = dict(context)
            if found.trace_id or found.debug_id or found.decision is not None:
                values[_SPAN_KEY] = RemoteParent(found)
            if found.baggage:
                known = context.get(_BAGGAGE_KEY)
                values[_BAGGAGE_KEY] = {**(known if isinstance(known, dict) else {}), **found.baggage}
            return Context(values)
        except Exception as trouble:  # Host safety: carrier and getter are the program's.
            fault("the headers of an OpenTelemetry carrier", trouble)
            return context

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        """Write what continues the context."""
        try:
            source = self._source(api_context.get_current() if context is None else context)
            headers = [] if source is None else self._plain.inject(source)
        except Exception as trouble:  # Host safety: the context may hold anything.
            fault("the headers for an OpenTelemetry carrier", trouble)
            return
        for name, value in headers:
            setter.set(carrier, name, value)

    @property
    def fields(self) -> set[str]:
        """The names of the headers that ``inject`` may write."""
        return set(self._plain.fields)

    def _read(self, carrier: Any, getter: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self._probes:
            values = getter.get(carrier, name)
            if values:
                found[name] = values
        if not found:
            return found
        for name in MORE_HEADERS:
            values = getter.get(carrier, name)
            if values:
                found[name] = values
        # All keys are looked through only where baggage of this form would be read: for some carriers that takes long.
        if not self._items_beside.isdisjoint(found):
            for key in getter.keys(carrier) or ():
                if isinstance(key, str) and key.lower().startswith(BAGGAGE_HEADER):
                    found[key.lower()] = getter.get(carrier, key)
        return found

    @staticmethod
    def _source(context: Context) -> Span | OwnContext | None:
        """What is to be told to the callee."""
        source = parent_in(context)
        if not isinstance(source, Span) or _BAGGAGE_KEY not in context:
            return source
        baggage = own_baggage(context)
        if baggage == (source.baggage or None):
            return source
        known = source.context
        return OwnContext(known.trace_id, known.span_id, known.flags, known.trace_state, baggage)
