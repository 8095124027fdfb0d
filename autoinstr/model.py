"""The nouns of tracing, as plain values: what a span is, who emitted it, how it is referred to.

Owns: ids and flags, kinds and statuses, ``SpanContext``, ``SpanData`` and what hangs on it, ``Resource``, ``Batch``.
Must not know: clocks, sockets, threads, the environment, wire formats, headers.
Invariants: ids are ints (0 = absent), times are integer nanoseconds since the epoch (``*_ns``), text is ``str``.

This module is loaded into every traced process, so it imports nothing: no ``enum``, ``dataclasses`` or ``typing`` at run time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Protocol, TypeAlias

    AttributeValue: TypeAlias = str | bool | int | float | bytes | Sequence[str | bool | int | float]
    Attributes: TypeAlias = Mapping[str, AttributeValue]
    #: Attributes not written out yet: a pure function and its hashable arguments, ``(describe, *arguments)``.
    #: ``describe(*arguments)`` gives the attributes. Codecs cache the bytes of a whole tuple, so that what repeats from
    #: request to request is encoded once. Each argument position must keep to one type (1 == 1.0 == True as a cache key).
    Facts: TypeAlias = tuple[Any, ...]

    class Sampler(Protocol):
        """Decides, once per trace and at its root, whether the trace is kept."""

        #: True when the decision depends on the operation name, so that it should wait until the name is known.
        by_name: bool
        #: True when it decides for joined traces, too (OpenTelemetry's samplers that are not parent-based).
        ignores_parent: bool

        def decide(self, trace_id: int, name: str) -> Facts | None:
            """Facts to put on the root span (``sampler.type``, ``sampler.param``) when kept, ``None`` when not."""

    class Encoder(Protocol):
        """Turns finished spans into payloads that a transport can send."""

        content_type: str

        def encode(
            self, spans: Sequence[SpanData], lost: tuple[int, int, int] = (0, 0, 0)
        ) -> tuple[list[tuple[bytes, int]], int]:
            """``([(payload, spans in it), ...], spans that cannot be encoded or are too large)``; never raises for a span.

            ``lost`` counts the spans that this client has lost so far: (queue full, too large, failed to send).
            """

        def rejected(self, response: bytes) -> int:
            """How many spans of an accepted payload the receiver says, in its response body, that it refused."""

    class Transport(Protocol):
        """Moves bytes."""

        def send(self, payload: bytes, timeout_s: float | None = None) -> bytes:
            """The response body (empty where there is none); raises ``transport.TransportError``.

            ``timeout_s`` shortens the waits of this one call: the program is about to end.
            """

        def close(self) -> None: ...

        def abandon(self) -> None:
            """In a forked child: let go of what belongs to the parent, without a word on the wire."""

    class Sink(Protocol):
        """Takes finished spans: a reporter."""

        def report(self, span: SpanData) -> None: ...


#: Bits of ``flags`` (the trace flags of W3C Trace Context share bit 0; the others are Jaeger's).
SAMPLED = 0x01
DEBUG = 0x02
FIREHOSE = 0x08
#: The lower 56 bits of the trace id are known to be random: bit 1 in W3C Trace Context level 2. Here it is a bit above the
#: byte that travels in Jaeger's formats, where bit 1 is ``DEBUG``.
RANDOM = 0x100
#: The flags of a kept trace that begins here. One object: looking it up in a dictionary need not compare numbers.
STARTED = SAMPLED | RANDOM

MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


class Kind:
    """Span kinds, numbered as in OTLP's ``Span.SpanKind``."""

    UNSPECIFIED, INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(6)
    NAMES = ("", "internal", "server", "client", "producer", "consumer")


class Status:
    """Span statuses, numbered as in OTLP's ``Status.StatusCode``."""

    UNSET, OK, ERROR = range(3)
    NAMES = ("", "OK", "ERROR")


class SpanContext:
    """What identifies a span beyond its process: the part that travels in headers. Treat it as frozen.

    A context without ids (``trace_id == 0``) is legal: it may carry only baggage or a debug id (Jaeger's
    ``jaeger-baggage`` and ``jaeger-debug-id`` headers); a span started from it is a new root.

    ``deferred``: there are ids, but the caller left the sampling decision to us (B3 without a sampling state).
    ``decision``: there are no ids, only the caller's sampling decision (B3's lone sampling state), else ``None``.
    """

    __slots__ = ("baggage", "debug_id", "decision", "deferred", "flags", "is_remote", "span_id", "trace_id", "trace_state")

    def __init__(
        self,
        trace_id: int = 0,
        span_id: int = 0,
        flags: int = 0,
        trace_state: str = "",
        baggage: dict[str, str] | None = None,
        debug_id: str = "",
        *,
        is_remote: bool = False,
        deferred: bool = False,
        decision: bool | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.trace_state = trace_state
        self.baggage = baggage
        self.debug_id = debug_id
        self.is_remote = is_remote
        self.deferred = deferred
        self.decision = decision

    @property
    def is_valid(self) -> bool:
        """Whether both ids are there."""
        return self.trace_id != 0 and self.span_id != 0

    @property
    def sampled(self) -> bool:
        """Whether the trace is kept."""
        return self.flags & SAMPLED != 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanContext):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.trace_id, self.span_id))

    def __repr__(self) -> str:
        return f"SpanContext({self.trace_id:032x}:{self.span_id:016x}:{self.flags:x})"


class Event:
    """A timed note on a span (Jaeger: log, OpenTelemetry: event)."""

    __slots__ = ("attributes", "name", "time_ns")

    def __init__(self, name: str, time_ns: int, attributes: Attributes | None = None) -> None:
        self.name = name
        self.time_ns = time_ns
        self.attributes = attributes or {}

    def __repr__(self) -> str:
        return f"Event({self.name!r}, {self.time_ns}, {self.attributes!r})"


class Link:
    """A pointer to a span that is not the parent (Jaeger: reference).

    ``child_of`` tells Jaeger's two reference types apart: ``False`` is FOLLOWS_FROM, ``True`` a further CHILD_OF.
    """

    __slots__ = ("attributes", "child_of", "context")

    def __init__(self, context: SpanContext, attributes: Attributes | None = None, *, child_of: bool = False) -> None:
        self.context = context
        self.attributes = attributes or {}
        self.child_of = child_of

    def __repr__(self) -> str:
        return f"Link({self.context!r}, child_of={self.child_of})"


class SpanData:
    """One unit of work, finished or not: what codecs write and read.

    ``facts`` and ``own`` together are the attributes (``attributes`` joins them; ``own`` wins). ``parent_is_remote``
    says that the parent lived in another process. ``scope`` names the instrument that made the span ("flask",
    "requests"; Jaeger's ``component`` tag, OTLP's instrumentation scope). ``dropped`` counts what limits removed:
    (attributes, events, links), or ``None``.
    """

    __slots__ = (
        "dropped",
        "end_ns",
        "events",
        "facts",
        "flags",
        "kind",
        "links",
        "name",
        "own",
        "parent_id",
        "parent_is_remote",
        "scope",
        "span_id",
        "start_ns",
        "status",
        "status_message",
        "trace_id",
        "trace_state",
    )

    facts: tuple[Facts, ...]
    own: dict[str, AttributeValue] | None
    events: list[Event] | None
    links: Sequence[Link]
    dropped: tuple[int, int, int] | None

    def __init__(
        self,
        name: str,
        trace_id: int,
        span_id: int,
        parent_id: int = 0,
        *,
        kind: int = Kind.INTERNAL,
        flags: int = SAMPLED,
        start_ns: int = 0,
        end_ns: int = 0,
        attributes: Attributes | None = None,
        events: list[Event] | None = None,
        links: Sequence[Link] = (),
        status: int = Status.UNSET,
        status_message: str = "",
        scope: str = "",
        trace_state: str = "",
        parent_is_remote: bool = False,
    ) -> None:
        self.name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.parent_is_remote = parent_is_remote
        self.kind = kind
        self.flags = flags
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.facts = ()
        self.own = dict(attributes) if attributes else None
        self.events = events
        self.links = links
        self.status = status
        self.status_message = status_message
        self.scope = scope
        self.trace_state = trace_state
        self.dropped = None

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """All attributes, as a new dictionary."""
        result: dict[str, AttributeValue] = {}
        for fact in self.facts:
            result.update(fact[0](*fact[1:]))
        if self.own:
            result.update(self.own)
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.trace_id:032x}:{self.span_id:016x}>"


class Resource:
    """Who emits spans (Jaeger: process, OpenTelemetry: resource). ``attributes`` leave the service name out."""

    __slots__ = ("attributes", "service_name")

    def __init__(self, service_name: str, attributes: Attributes | None = None) -> None:
        self.service_name = service_name
        self.attributes = dict(attributes) if attributes else {}

    def __repr__(self) -> str:
        return f"Resource({self.service_name!r}, {self.attributes!r})"


class Batch:
    """Spans of one resource, as decoded from one payload.

    ``lost`` is the client's own count of spans it lost so far (queue full, too large, failed to send), and ``sequence``
    its batch number, where the format has them (Jaeger's ``Batch.stats`` and ``Batch.seqNo``).
    """

    __slots__ = ("lost", "resource", "sequence", "spans")

    def __init__(
        self,
        resource: Resource,
        spans: list[SpanData],
        sequence: int | None = None,
        lost: tuple[int, int, int] | None = None,
    ) -> None:
        self.resource = resource
        self.spans = spans
        self.sequence = sequence
        self.lost = lost


if TYPE_CHECKING:
    Describe: TypeAlias = Callable[..., Attributes]
