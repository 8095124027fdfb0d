"""OpenTracing's API on this engine: the tracer, spans, scopes and contexts of programs that are written for it.

Owns: the translation between OpenTracing's objects and ours, what is active, what tags and logs mean.
Must not know: samplers, queues, wire formats, what is in the headers (the propagator does).
Invariants: what is active is kept in one place, ``autoinstr.trace.current``, so that spans of the program and of
instruments are below each other in the order in which they happen; nothing here raises but what OpenTracing demands for
formats and carriers; a span of an instrument cannot be ended from here. Loaded only after the program has imported
``opentracing``.

Sources: the OpenTracing specification 1.1; OpenTelemetry's "OpenTracing compatibility" for what tags and logs become.
"""

from __future__ import annotations

from contextvars import ContextVar
from weakref import ref

import opentracing as api
from opentracing import Format, InvalidCarrierException, SpanContextCorruptedException, UnsupportedFormatException

from autoinstr.model import Kind, Status
from autoinstr.model import SpanContext as OwnContext
from autoinstr.propagate import decode_binary, encode_binary
from autoinstr.trace import SUPPRESSED, current, describe_exception
from autoinstr.trace import Span as OwnSpan
from autoinstr.trouble import fault, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, TypeAlias

    from autoinstr.instrument import Patcher, Tracing
    from autoinstr.model import AttributeValue
    from autoinstr.propagate import Headers

    #: Where ids, flags and baggage of a context are: in a span of this process, or in what came from another one.
    Source: TypeAlias = OwnSpan | OwnContext

PLAIN = frozenset((str, bool, int, float))
#: Tags whose values are said by a span's kind.
KINDS = {name: kind for kind, name in enumerate(Kind.NAMES) if name}
#: Fields of an error log, by OpenTelemetry's names of the attributes of an exception.
ERROR_FIELDS = {"error.kind": "exception.type", "message": "exception.message", "stack": "exception.stacktrace"}
#: The prefix of baggage in Jaeger's headers.
BAGGAGE = "uberctx-"
FLUSH_S = 2.0


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Make ours the global tracer of a program that has just imported ``opentracing``, and has no other."""
    module = patcher.module
    if getattr(module, "is_tracer_registered", False):
        return
    patcher.set(module, "tracer", Tracer(tracing))
    patcher.set(module, "is_tracer_registered", True)
    patcher.wrap("set_global_tracer", tell_of_another)


def tell_of_another(wrapped: Any) -> Callable[..., Any]:
    """A program that brings another implementation gets it: it holds that tracer itself, too, and two do not mix."""

    def set_global_tracer(value: Any) -> Any:
        try:
            if not isinstance(value, Tracer) and type(value) is not api.Tracer and value is not None:
                kind = f"{type(value).__module__}.{type(value).__name__}"
                say(
                    f"the program sets an OpenTracing tracer of its own ({kind}): its spans are not part of these"
                    " traces (for jaeger_client, import autoinstr.bridge.jaeger_client instead)",
                    about="opentracing",
                )
        except Exception as error:  # Host safety: the tracer can be any object.
            fault("the look at a tracer", error)
        return wrapped(value)

    return set_global_tracer


# Contexts ---------------------------------------------------------------------------------------------------------


class SpanContext(api.SpanContext):  # type: ignore[misc]
    """What identifies a span; of a span of this process it tells what holds now, baggage included."""

    _source: Source

    @classmethod
    def of(cls, source: Source) -> SpanContext:
        """The context of a span, or of what was extracted."""
        made: SpanContext = cls.__new__(cls)
        made._source = source
        return made

    @property
    def baggage(self) -> dict[str, str]:
        """A copy."""
        return dict(self._source.baggage or ())

    @property
    def trace_id(self) -> int:
        """0 where there is only baggage or a debug id."""
        return self._source.trace_id

    @property
    def span_id(self) -> int:
        return self._source.span_id

    @property
    def parent_id(self) -> int | None:
        """``None`` for a root, and where it is not known."""
        return getattr(self._source, "parent_id", 0) or None

    @property
    def flags(self) -> int:
        """Jaeger's: 1 sampled, 2 debug."""
        return settled(self._source).flags & 0xFF

    @property
    def debug_id(self) -> str | None:
        return getattr(self._source, "debug_id", "") or None

    @property
    def has_trace(self) -> bool:
        return bool(self._source.trace_id and self._source.span_id)

    def __repr__(self) -> str:
        return f"{self.trace_id:x}:{self.span_id:x}:{self.parent_id or 0:x}:{self.flags:x}"


def settled(source: Source) -> Source:
    """The same, its sampling decided if that was still open."""
    if source.flags < 0 and isinstance(source, OwnSpan):
        source.settle()
    return source


def source_of(given: Any) -> Source | None:
    """What a program gives as a parent, or to inject: a span or context, ours or others'; ``None`` if it has no ids."""
    if isinstance(given, Span):
        return given.own
    if isinstance(given, SpanContext):
        return given._source
    if isinstance(given, (OwnSpan, OwnContext)):
        return given
    context = getattr(given, "context", given)  # Of another implementation, such as jaeger_client's.
    if isinstance(context, SpanContext):
        return context._source
    trace_id, span_id = getattr(context, "trace_id", None), getattr(context, "span_id", None)
    if type(trace_id) is not int or type(span_id) is not int or trace_id >> 128 or span_id >> 64:
        return None
    flags, baggage = getattr(context, "flags", 0), getattr(context, "baggage", None)
    return OwnContext(
        trace_id,
        span_id,
        flags & 0xFF if type(flags) is int else 0,
        baggage={str(key): str(value) for key, value in baggage.items()} if isinstance(baggage, dict) else None,
        is_remote=True,
    )


# Spans ------------------------------------------------------------------------------------------------------------


class Span(api.Span):  # type: ignore[misc]
    """Stands for a span of ours. ``is_borrowed``: an instrument's, which ends it."""

    def __init__(self, tracer: Tracer, own: OwnSpan, *, is_borrowed: bool = False, is_in_server: bool = False) -> None:
        super().__init__(tracer, tracer.context_class.of(own))
        #: The span of ours; everything that is known of it is kept there.
        self.own = own
        self._is_borrowed = is_borrowed
        #: The request has a server span already, an instrument's: there are not two.
        self._is_in_server = is_in_server

    def set_operation_name(self, operation_name: Any) -> Span:
        """Replace the name."""
        if not self.own.end_ns:
            self.own.update_name(text_of(operation_name))
        return self

    def set_tag(self, key: Any, value: Any) -> Span:
        """Set an attribute; ``span.kind``, ``error`` and ``sampling.priority`` set what they mean."""
        own = self.own
        if (own.recording or key == "sampling.priority") and not own.end_ns:
            try:
                if key == "span.kind" or key == "error":
                    self._set_meaning(key, value)
                else:
                    own.set_attribute(key if key.__class__ is str else text_of(key), plain(value))
            except Exception as error:  # Host safety: key and value are the program's own.
                fault("a tag of OpenTracing", error)
        return self

    def _set_meaning(self, key: str, value: Any) -> None:
        own = self.own
        if key == "span.kind" and isinstance(value, str) and value in KINDS:
            if not self._is_borrowed and not (value == "server" and self._is_in_server):
                own.kind = KINDS[value]
        elif key == "error" and (value is True or value == "true"):
            own.set_status(Status.ERROR)
        elif key == "error" and (value is False or value == "false"):
            if own.status == Status.ERROR:  # Directly: by OpenTelemetry's rules a status is never taken back.
                own.status, own.status_message = Status.UNSET, ""
        else:
            own.set_attribute(key, plain(value))

    def log_kv(self, key_values: Any, timestamp: float | None = None) -> Span:
        """Add an event, named by the field ``event``; errors as OpenTelemetry has exceptions."""
        own = self.own
        if own.recording and not own.end_ns:
            try:
                fields = {text_of(key): value for key, value in key_values.items()}
                time_ns = nanoseconds(timestamp) or None
                name = text_of(fields.pop("event", "log"))
                if name == "error":
                    name, fields = "exception", error_fields(fields, own.tracer.limits.attribute_length)
                own.add_event(name, {key: plain(value) for key, value in fields.items()}, time_ns)
            except Exception as error:  # Host safety: the fields are the program's own.
                fault("a log of OpenTracing", error)
        return self

    def set_baggage_item(self, key: Any, value: Any) -> Span:
        """Carry it to all spans that are started below from now on; ``None`` removes it."""
        self.own.set_baggage(text_of(key), None if value is None else text_of(value))
        return self

    def get_baggage_item(self, key: Any) -> str | None:
        baggage = self.own.baggage
        return baggage.get(key) if baggage else None

    def finish(self, finish_time: float | None = None) -> None:
        """End it, at ``finish_time`` (seconds since the epoch) if given. What an instrument has started, it ends."""
        own = self.own
        if self._is_borrowed or own.end_ns:
            return
        end_ns = nanoseconds(finish_time)
        own.end(max(end_ns, own.start_ns) if end_ns else 0)

    def fail(self, error: BaseException | None) -> None:
        """Record what left a block."""
        if error is not None and not isinstance(error, GeneratorExit) and not self.own.end_ns:
            self.own.fail(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.fail(error)
        self.finish()


def facade(own: OwnSpan, tracer: Tracer) -> Span:
    """What stands for a span; the same object as long as somebody holds it, and no other API has the place."""
    known: Any = getattr(own, "facade", None)
    if known.__class__ is ref:
        known = known()
    if isinstance(known, tracer.span_class):
        return known
    made = tracer.span_class(tracer, own, is_borrowed=True)
    if known is None:
        own.facade = ref(made)
    return made


def plain(value: object) -> AttributeValue:
    """A tag's value as Jaeger's clients have it: numbers and booleans as they are, everything else as text."""
    if value.__class__ in PLAIN:
        return value  # type: ignore[return-value]
    if isinstance(value, int):  # An enumeration's, such as http.HTTPStatus.
        return int(value)
    if isinstance(value, float):
        return float(value)
    return text_of(value)


def text_of(value: Any) -> str:
    """Text for anything, and a name for a class."""
    try:
        if isinstance(value, type):
            return value.__qualname__ if value.__module__ == "builtins" else f"{value.__module__}.{value.__qualname__}"
        if type(value).__name__ == "traceback":
            from traceback import format_tb

            return "".join(format_tb(value, -64))
        return str(value)
    except Exception:  # Host safety: __str__ is the program's.
        return "<unprintable>"


def error_fields(fields: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The fields of an error log by OpenTelemetry's names; of a long stack the end, where it says what failed."""
    error = fields.get("error.object")
    found: dict[str, Any] = {}
    if isinstance(error, BaseException):
        found.update(describe_exception(error))
        del fields["error.object"]
    for key, value in fields.items():
        name = ERROR_FIELDS.get(key, key)
        if name not in found and value is not None:
            found[name] = text_of(value) if name.startswith("exception.") else value
    stack = found.get("exception.stacktrace")
    if stack and limit:
        found["exception.stacktrace"] = stack[-limit:]
    return found


def nanoseconds(seconds: Any) -> int:
    """A time as OpenTracing has it, in nanoseconds; 0 for none, or none that makes sense."""
    if not seconds:
        return 0
    try:
        return max(int(seconds * 1_000_000) * 1000, 0)  # A float has no more than microseconds.
    except (TypeError, ValueError, OverflowError):
        return 0


# What is active ---------------------------------------------------------------------------------------------------


class Scope(api.Scope):  # type: ignore[misc]
    """A span that was made active. ``entered`` is current meanwhile, ``below`` and ``before`` is what was there."""

    def __init__(
        self,
        manager: ScopeManager,
        span: Any,
        finish_on_close: bool,  # noqa: FBT001 - as in the API
        entered: OwnSpan | None,
        before: OwnSpan | None = None,
        below: Scope | None = None,
    ) -> None:
        super().__init__(manager, span)
        self._finish_on_close = finish_on_close
        self.entered = entered
        self.before = before
        self.below = below
        self.is_closed = False

    def close(self) -> None:
        """What was active before is so again. Nothing while one above is open; elsewhere than opened, only the end."""
        top = top_scope()
        if self.is_closed or (top is not self and is_among(self, top)):
            return
        self.is_closed = True
        if top is self:
            _top.set(self.below)
            if current.get() is self.entered:
                current.set(self.before)
        if self._finish_on_close:
            self.span.finish()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self.span, Span):
            self.span.fail(error)
            self.close()
        else:
            super().__exit__(kind, error, traceback)


class BorrowedScope(Scope):
    """Stands for a span that an instrument has made current, and will take away again."""

    def close(self) -> None:
        """Nothing."""


#: The scope that was opened last, or one that stands for an instrument's span above it.
_top: ContextVar[Scope | None] = ContextVar("autoinstr.opentracing", default=None)


def top_scope() -> Scope | None:
    """The scope that was opened last and is open."""
    scope = _top.get()
    while scope is not None and (scope.is_closed or isinstance(scope, BorrowedScope)):
        scope = scope.below
    return scope


def is_among(scope: Scope, top: Scope | None) -> bool:
    """Whether a scope is ``top`` or was opened before it."""
    while top is not None and top is not scope:
        top = top.below
    return top is not None


class ScopeManager(api.ScopeManager):  # type: ignore[misc]
    """Keeps what is active where the instruments do: it follows threads, tasks and greenlets as they do.

    Nothing is kept in a manager itself: those of several tracers are one.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def activate(self, span: Any, finish_on_close: bool) -> Scope:  # noqa: FBT001 - as in the API
        """Make a span active; one of another implementation is, too, but automatic spans are not below it."""
        before, below = current.get(), top_scope()
        if before is None and below is not None and below.entered is not None:
            below = None  # Of a request that never closed it.
        entered = span.own if isinstance(span, Span) else before
        scope = Scope(self, span, finish_on_close, entered, before, below)
        _top.set(scope)
        if entered is not before:
            current.set(entered)
        return scope

    @property
    def active(self) -> Scope | None:
        """The scope of the span that is current, whoever made it so."""
        now, scope = current.get(), _top.get()
        while scope is not None and (scope.entered is not now or scope.is_closed):
            scope = scope.below
        if scope is None and now is not None and now is not SUPPRESSED:
            # Kept, so that whoever asks again gets the same.
            scope = BorrowedScope(self, facade(now, self._tracer), False, now, below=top_scope())  # noqa: FBT003
            _top.set(scope)
        return scope


# The tracer -------------------------------------------------------------------------------------------------------


class Tracer(api.Tracer):  # type: ignore[misc]
    """OpenTracing's tracer on the process's own.

    The scope managers of the ``opentracing`` package are taken as a wish for what ours does anyway; a program's own is
    used, and only spans that are started by OpenTracing's API are then below what it holds.
    """

    span_class: type[Span] = Span
    context_class: type[SpanContext] = SpanContext
    #: Whether the active span is the parent even where references name another: the rule of jaeger_client alone.
    prefers_active = False

    def __init__(self, tracing: Tracing, scope_manager: Any = None) -> None:
        is_own = scope_manager is None or type(scope_manager).__module__.startswith("opentracing.")
        super().__init__(ScopeManager(self) if is_own else scope_manager)
        self._tracing = tracing
        self._has_own_manager = is_own

    def start_span(
        self,
        operation_name: Any = None,
        child_of: Any = None,
        references: Any = None,
        tags: Any = None,
        start_time: float | None = None,
        ignore_active_span: bool = False,  # noqa: FBT001, FBT002 - as in the API
    ) -> Span:
        """Start a span, by default below the active one."""
        try:
            active = None if ignore_active_span else self._active_own()
            parent, links = self._causes(child_of, references, active)
            name = "" if operation_name is None else text_of(operation_name)
            own = self._tracing.tracer.start(name, Kind.INTERNAL, parent)
            for link, is_child in links:
                own.add_link(link.context if isinstance(link, OwnSpan) else link, child_of=is_child)
            start_ns = nanoseconds(start_time)
            if start_ns:
                own.start_ns = start_ns
            is_in_server = isinstance(parent, OwnSpan) and parent.kind == Kind.SERVER and bool(parent.scope)
            span = self.span_class(self, own, is_in_server=is_in_server)
            own.facade = ref(span)  # Weakly: with a cycle, each span would wait for the garbage collector.
            if tags:
                for key, value in tags.items():
                    span.set_tag(key, value)
            return span
        except Exception as error:  # Host safety: what a program hands in can be anything.
            fault("a span of OpenTracing", error)
            return self.span_class(self, self._tracing.tracer.start("", Kind.INTERNAL, SUPPRESSED))

    def start_active_span(
        self,
        operation_name: Any = None,
        child_of: Any = None,
        references: Any = None,
        tags: Any = None,
        start_time: float | None = None,
        ignore_active_span: bool = False,  # noqa: FBT001, FBT002 - as in the API
        finish_on_close: bool = True,  # noqa: FBT001, FBT002
    ) -> Any:
        """Start a span and make it active."""
        span = self.start_span(operation_name, child_of, references, tags, start_time, ignore_active_span)
        return self._scope_manager.activate(span, finish_on_close)

    def inject(self, span_context: Any, format: Any, carrier: Any) -> None:  # noqa: A002 - as in the API
        """Write what continues a span: headers into a mapping, Jaeger's binary form at the end of a ``bytearray``."""
        if format == Format.BINARY:
            if not isinstance(carrier, bytearray):
                raise InvalidCarrierException("carrier not a bytearray")
        elif format != Format.TEXT_MAP and format != Format.HTTP_HEADERS:
            raise UnsupportedFormatException(format)
        elif not (hasattr(carrier, "__setitem__") and hasattr(carrier, "items")):
            raise InvalidCarrierException("carrier not a collection")
        try:
            source = source_of(span_context)
            if source is None or not (source.trace_id or source.baggage):
                return
            headers: Iterable[tuple[str, str]] = ()
            if format == Format.BINARY:
                carrier += encode_binary(settled(source))
            else:
                headers = self._write_headers(source, format)
        except Exception as error:  # Host safety: the request goes out without our headers.
            fault("the headers of a span of OpenTracing", error)
            return
        for name, value in headers:
            carrier[name] = value

    def extract(self, format: Any, carrier: Any) -> SpanContext | None:  # noqa: A002 - as in the API
        """What a caller sent; ``None`` if nothing of use."""
        if format == Format.BINARY:
            context = self._extract_binary(carrier)
        elif format == Format.TEXT_MAP or format == Format.HTTP_HEADERS:
            context = self._extract_text(carrier, format)
        else:
            raise UnsupportedFormatException(format)
        return None if context is None else self.context_class.of(context)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Send all finished spans now; True if nothing is left."""
        flush = getattr(self._tracing.tracer.sink, "flush", None)
        if flush is None:
            return True
        token = current.set(SUPPRESSED)
        try:
            return bool(flush(timeout_s))
        except Exception as error:  # Host safety: sending is our affair.
            fault("flushing", error)
            return False
        finally:
            current.reset(token)

    def close(self) -> Any:
        """Send what is there. Tracing goes on: instruments have spans of their own."""
        return self.flush()

    def _active_own(self) -> OwnSpan | None:
        if not self._has_own_manager:
            scope = self._scope_manager.active
            span = None if scope is None else scope.span
            if isinstance(span, Span):
                return span.own
        return current.get()

    def _causes(
        self, child_of: Any, references: Any, active: OwnSpan | None
    ) -> tuple[Source | None, list[tuple[Source, bool]]]:
        """The parent, and what else is referred to: (what, whether as a parent)."""
        explicit = None if child_of is None else source_of(child_of)
        links: list[tuple[Source, bool]] = []
        if references:
            for reference in [references] if isinstance(references, api.Reference) else references:
                source = source_of(reference.referenced_context)
                if source is not None:
                    links.append((source, reference.type == api.ReferenceType.CHILD_OF))
        if explicit is None and self.prefers_active:
            explicit = active
        if explicit is None and links:
            chosen = next((link for link in links if link[1]), links[0])
            explicit = chosen[0]
            if chosen[1]:
                links.remove(chosen)
        parent = active if explicit is None else explicit
        if isinstance(parent, OwnContext):
            parent = self._below_same_request(parent)
        return parent, [link for link in links if link[0].trace_id]

    @staticmethod
    def _below_same_request(caller: OwnContext) -> Source:
        """A context from headers, or the server span that an instrument has made of the same headers."""
        now = current.get()
        if now is None or now.kind not in (Kind.SERVER, Kind.CONSUMER):
            return caller
        if caller.trace_id:
            is_same = now.trace_id == caller.trace_id and now.parent_id == caller.span_id and now.parent_is_remote
        else:  # A debug id or baggage, which starts a trace.
            is_same = not now.parent_id
        return now if is_same else caller

    def _write_headers(self, source: Source, format: str) -> Headers:  # noqa: A002
        headers = self._tracing.plain.inject(source)
        if format == Format.TEXT_MAP and source.baggage:
            # Jaeger's clients encode values only for HTTP.
            headers = [header for header in headers if not header[0].startswith(BAGGAGE)]
            headers += [(BAGGAGE + key, value) for key, value in source.baggage.items()]
        return headers

    def _read_headers(self, headers: dict[str, Any], format: str) -> OwnContext | None:  # noqa: A002
        return self._tracing.plain.extract(headers)

    def _extract_text(self, carrier: Any, format: str) -> OwnContext | None:  # noqa: A002
        if not hasattr(carrier, "items"):
            raise InvalidCarrierException("carrier not a collection")
        try:
            headers = {
                (key.decode("latin-1") if isinstance(key, bytes) else str(key)).lower(): value
                for key, value in carrier.items()
            }
            return self._read_headers(headers, format)
        except Exception as error:  # Host safety: the carrier is the program's own.
            fault("reading headers for OpenTracing", error)
            return None

    @staticmethod
    def _extract_binary(carrier: Any) -> OwnContext | None:
        if not isinstance(carrier, (bytearray, bytes)):
            raise InvalidCarrierException("carrier not a bytearray")
        if not carrier:
            return None
        try:
            context = decode_binary(bytes(carrier))
        except ValueError as error:
            raise SpanContextCorruptedException(str(error)) from error
        return context if context.trace_id and context.span_id else None
