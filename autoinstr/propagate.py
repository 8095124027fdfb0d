"""Trace identity in headers: reading it from a request that comes in, writing it on one that goes out.

Owns: the formats ``jaeger``, ``tracecontext``, ``baggage``, ``b3`` and ``b3multi``, and Jaeger's binary form.
Must not know: frameworks, spans (whatever has the attributes of one will do), samplers, sockets.
Invariants: nothing that a peer sends can make ``extract`` raise, hang or keep more than bounded memory; nothing that a program
puts in its baggage can make ``inject`` raise or break out of a header; hexadecimal is read strictly (Python's ``int`` also
takes ``0x``, ``_``, signs and blanks).

How a header is spelled as a key differs by carrier: ``plain`` ("traceparent"), ``environ_key`` (WSGI: "HTTP_TRACEPARENT"),
``asgi_key`` (b"traceparent", with values in bytes).

Specifications: jaegertracing.io "Client libraries: propagation format"; W3C Trace Context level 2; W3C Baggage;
openzipkin/b3-propagation.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from autoinstr.model import DEBUG, MASK_64, RANDOM, SAMPLED, STARTED, SpanContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    Carrier: TypeAlias = Mapping[Any, Any]
    Headers: TypeAlias = list[tuple[str, str]]

#: W3C Baggage, section 3.3.2: what every implementation carries on; we carry no more, in either format.
MAX_BAGGAGE_ITEMS = 64
MAX_BAGGAGE_BYTES = 8192
#: W3C Trace Context, section 3.3.1.1 and 3.3.1.3.
MAX_STATE_MEMBERS = 32
MAX_STATE_PART = 256
_MAX_STATE_TEXT = MAX_STATE_MEMBERS * 2 * (MAX_STATE_PART + 1) + 1024
_MAX_DEBUG_ID = 256
#: Even with every character percent-encoded an uber-trace-id is not longer.
_MAX_UBER_TRACE_ID = 3 * (32 + 16 + 16 + 2 + 3)
#: Jaeger's Go client refuses more when it reads the binary form.
_MAX_BINARY_ITEMS = 180
_MAX_BINARY_ITEM_BYTES = 4096
_BINARY_HEAD = Struct(">QQQQBi")
_BINARY_LENGTH = Struct(">i")

# What is left of a header's bytes when these are deleted tells, at C speed, whether only allowed characters are in it.
_LOWER_HEX = b"0123456789abcdef"
_HEX = _LOWER_HEX + b"ABCDEF"
_STATE_KEY_FIRST = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
_STATE_KEY = b"0123456789abcdefghijklmnopqrstuvwxyz_-*/@"
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110, section 5.6.2
_BLANK = " \t"

# The % operator: an f-string takes half as long again for large numbers.
_TRACEPARENT = "00-%032x-%016x-%02x"
#: Bits of W3C's trace flags, and what they are called here; nothing else is read or sent.
_W3C_SAMPLED, _W3C_RANDOM = 0x01, 0x02
_FROM_W3C = {0: 0, _W3C_SAMPLED: SAMPLED, _W3C_RANDOM: RANDOM, _W3C_SAMPLED | _W3C_RANDOM: STARTED}
#: The last digit of trace flags with the random bit, as text and in bytes.
_RANDOM_DIGITS = frozenset("2367abef") | frozenset(b"2367abef")
#: What stands between the ids in the lines that nearly every request gets.
_USUAL_FLAGS = {
    0: (":0:0\r\ntraceparent: 00-", "-00"),
    SAMPLED: (":0:1\r\ntraceparent: 00-", "-01"),
    RANDOM: (":0:0\r\ntraceparent: 00-", "-02"),
    STARTED: (":0:1\r\ntraceparent: 00-", "-03"),
}
_UBER_64 = "%016x:%016x:%x:%x"
_UBER_128 = "%032x:%016x:%x:%x"

_B3_STATES = {"0": 0, "1": SAMPLED, "d": SAMPLED | DEBUG}
_B3_SAMPLED = {"0": 0, "1": SAMPLED, "false": 0, "true": SAMPLED}


def plain(name: str) -> str:
    """The key of a header in a mapping of lower-case names."""
    return name


def environ_key(name: str) -> str:
    """The key of a header in a WSGI environ (PEP 3333)."""
    return "HTTP_" + name.upper().replace("-", "_")


def asgi_key(name: str) -> bytes:
    """The name of a header in an ASGI scope."""
    return name.encode("ascii")


class Propagator:
    """Reads and writes the headers of several formats; ``ValueError`` for a name that is no format.

    ``decoding_errors`` counts headers that were there but could not be read (approximately, if threads race).
    ``fields`` names the headers that ``inject`` may write (baggage in Jaeger's format adds ``uberctx-*``). Without any of
    ``probes`` (keys, as the carrier spells them) there is nothing to extract.
    """

    def __init__(self, formats: Sequence[str], key: Callable[[str], Hashable] = plain) -> None:
        unknown = [name for name in formats if name not in _FORMATS]
        if unknown:
            raise ValueError(f"unknown propagation format {unknown[0]!r}; known are {', '.join(_FORMATS)}")
        parts = [_FORMATS[name](key) for name in dict.fromkeys(formats)]
        self.decoding_errors = 0
        #: How often headers were written, approximately as well.
        self.injected = 0
        self.fields: tuple[str, ...] = tuple(name for part in parts for name in part.fields)
        self.probes = tuple(dict.fromkeys(probe for part in parts for probe in part.probes))
        # Both B3 formats read both forms, so one of them is enough.
        self._reads = tuple({part.probes: part.read for part in parts}.values())
        self._writes = tuple(part.write for part in parts)
        self._is_usual = tuple(dict.fromkeys(formats)) == ("jaeger", "tracecontext", "baggage")

    def extract(self, carrier: Carrier) -> SpanContext | None:
        """What the caller sent, or ``None`` if nothing of use. Never raises.

        The first format with valid ids wins; the baggage of all is joined (the first of equal keys wins). A result without
        ids carries baggage, a ``debug_id``, or a ``decision`` (B3's lone sampling state, with its ``flags``).
        """
        try:
            for probe in self.probes:
                if probe in carrier:
                    return self._read(carrier)
        except Exception:  # Host safety: the carrier is a stranger's object with a stranger's content.
            self.decoding_errors += 1
        return None

    def extract_asgi(
        self, headers: Iterable[tuple[bytes, bytes]], carrier: dict[bytes, bytes] | None = None
    ) -> SpanContext | None:
        """``extract`` from the header list of an ASGI scope (needs ``key=asgi_key``). Never raises.

        ``carrier`` is ``dict(headers)``, if the caller has it.

        Headers that occur more than once are joined by commas, as WSGI servers do: right for lists (tracestate,
        baggage), and it makes two traceparents invalid, as W3C wants.
        """
        try:
            if carrier is None:
                if iter(headers) is headers:
                    return None  # It can be read only once, and that once is the application's.
                carrier = dict(headers)
            for probe in self.probes:
                if probe in carrier:
                    return self._read(carrier if len(carrier) == len(headers) else _joined(headers))  # type: ignore[arg-type]
        except Exception:  # Host safety: a server, or a test, may put anything in the scope.
            self.decoding_errors += 1
        return None

    def inject(self, span: Any) -> Headers:
        """The headers, as (name, value), that tell a callee about ``span`` (or a context). Never raises for its content.

        Read are ``trace_id``, ``span_id``, ``flags``, ``trace_state``, ``baggage`` and, if there, ``parent_id``. Without
        ids only baggage is written.
        """
        self.injected += 1
        if span.flags < 0:
            span.settle()  # A header is where a sampling decision that still waits must be made.
        headers: Headers = []
        for write in self._writes:
            write(span, headers)
        return headers

    def inject_lines(self, span: Any) -> bytes:
        """``inject`` as the lines of an HTTP/1.1 request, joined by CRLF and without one at the end."""
        if self._is_usual and not (span.baggage or span.trace_state):
            self.injected += 1
            if span.flags < 0:
                span.settle()
            flags = _USUAL_FLAGS.get(span.flags)
            if flags is not None and span.trace_id > MASK_64:
                # Both ids at once, and by `hex`, which is much faster than formatting large numbers.
                ids = (span.trace_id << 64 | span.span_id).to_bytes(24, "big").hex()
                trace_id, span_id = ids[:32], ids[32:]
                return f"uber-trace-id: {trace_id}:{span_id}{flags[0]}{trace_id}-{span_id}{flags[1]}".encode()
        return "\r\n".join([f"{name}: {value}" for name, value in self.inject(span)]).encode("latin-1", "replace")

    def _read(self, carrier: Carrier) -> SpanContext | None:
        context = SpanContext(is_remote=True)
        for read in self._reads:
            self.decoding_errors += read(carrier, context)
        if context.trace_id:
            context.debug_id = ""  # It only starts traces (Jaeger ignores it beside a valid context).
            context.decision = None
            return context
        if context.baggage or context.debug_id or context.decision is not None:
            return context
        return None


class _Jaeger:
    """``uber-trace-id``, ``uberctx-*``, ``jaeger-debug-id``, ``jaeger-baggage``."""

    fields = ("uber-trace-id",)

    def __init__(self, key: Callable[[str], Hashable]) -> None:
        self._ids = key("uber-trace-id")
        self._debug_id = key("jaeger-debug-id")
        self._baggage = key("jaeger-baggage")
        self._prefix: Any = key("uberctx-")
        self._is_environ = key is environ_key
        self.probes = (self._ids, self._debug_id, self._baggage)

    def read(self, carrier: Carrier, context: SpanContext) -> int:
        """Fill the context; the number of unreadable headers."""
        errors = 0
        ids = carrier.get(self._ids)
        if ids is not None and not context.trace_id:
            try:
                context.trace_id, context.span_id, context.flags = _parse_uber_trace_id(_text(ids))
            except (ValueError, TypeError):
                errors = 1
        debug_id = carrier.get(self._debug_id)
        ad_hoc = carrier.get(self._baggage)
        if ids is None and debug_id is None and ad_hoc is None:
            return 0
        try:
            if debug_id is not None:
                context.debug_id = _unquoted(_text(debug_id)[:_MAX_DEBUG_ID])
            self._read_items(carrier, context)
            return errors if ad_hoc is None else errors + _read_ad_hoc_baggage(_text(ad_hoc), context)
        except TypeError:
            return errors + 1

    def _read_items(self, carrier: Carrier, context: SpanContext) -> None:
        prefix = self._prefix
        # One search in all names is several times as fast as looking at each.
        names = (b"\n" if prefix.__class__ is bytes else "\n").join(carrier)
        if prefix not in (names if self._is_environ else names.lower()):
            return
        for key in carrier:
            name = key if self._is_environ else key.lower()
            if name.startswith(prefix):
                item = _text(name[len(prefix) :]).lower()
                value = _text(carrier[key])
                if len(value) <= MAX_BAGGAGE_BYTES:
                    _add_baggage(context, item.replace("_", "-") if self._is_environ else item, _unquoted(value))

    def write(self, span: Any, headers: Headers) -> None:
        """Append what goes out."""
        trace_id = span.trace_id
        if trace_id and span.span_id:
            form = _UBER_128 if trace_id > MASK_64 else _UBER_64
            ids = form % (trace_id, span.span_id, getattr(span, "parent_id", 0), span.flags & 0xFF)
            headers.append(("uber-trace-id", ids))
        if span.baggage:
            headers.extend(("uberctx-" + key.lower(), value) for key, value in _sendable(span.baggage))


class _TraceContext:
    """``traceparent``, ``tracestate``.

    Of the flags bit 0 and bit 1 are read and written, as level 2 of the specification has it; others are sent as 0. Bit 1
    means "random trace id" there and "debug" in Jaeger, and must not cross over (``RANDOM`` is a bit of its own).
    """

    fields = ("traceparent", "tracestate")

    def __init__(self, key: Callable[[str], Hashable]) -> None:
        self._ids = key("traceparent")
        self._state = key("tracestate")
        self.probes = (self._ids,)

    def read(self, carrier: Carrier, context: SpanContext) -> int:
        """Fill the context; the number of unreadable headers."""
        ids = carrier.get(self._ids)
        if ids is None:
            return 0
        state = carrier.get(self._state)
        try:
            if context.trace_id and state is None:
                # The same trace came in a format that was preferred, and that cannot say whether its id is random.
                if len(ids) > 54 and ids[54] in _RANDOM_DIGITS and int(ids[3:35], 16) == context.trace_id:
                    context.flags |= RANDOM
                return 0
            trace_id, span_id, flags = _parse_traceparent(_text(ids))
            if not context.trace_id:
                context.trace_id, context.span_id, context.flags = trace_id, span_id, flags
            elif context.trace_id == trace_id:
                context.flags |= flags & RANDOM
            # Other vendors' state survives, too.
            if state is not None and context.trace_id == trace_id:
                context.trace_state = _checked_state(_text(state))
        except (ValueError, TypeError):
            return 1
        return 0

    def write(self, span: Any, headers: Headers) -> None:
        """Append what goes out."""
        if not (span.trace_id and span.span_id):
            return
        flags = span.flags & SAMPLED | (_W3C_RANDOM if span.flags & RANDOM else 0)
        headers.append(("traceparent", _TRACEPARENT % (span.trace_id, span.span_id, flags)))
        state = span.trace_state
        # A program may have made the context itself.
        if state and state.isascii() and state.isprintable():
            headers.append(("tracestate", state))


class _Baggage:
    """W3C ``baggage``. Properties of a member (``;ttl=1``) are not carried on."""

    fields = ("baggage",)

    def __init__(self, key: Callable[[str], Hashable]) -> None:
        self._members = key("baggage")
        self.probes = (self._members,)

    def read(self, carrier: Carrier, context: SpanContext) -> int:
        """Fill the context; 1 if a member was unreadable."""
        text = carrier.get(self._members)
        if text is None:
            return 0
        errors = 0
        for member in _members(_text(text)):
            key, equals, value = member.partition(";")[0].partition("=")
            key = key.strip(_BLANK)
            if equals and _is_token(key):
                _add_baggage(context, key, _unquoted(value.strip(_BLANK), plus_is_blank=False))
            else:
                errors = 1
        return errors

    def write(self, span: Any, headers: Headers) -> None:
        """Append what goes out."""
        if span.baggage:
            members = ",".join([f"{key}={value}" for key, value in _sendable(span.baggage)])
            if members:
                headers.append(("baggage", members))


class _B3:
    """``b3``; reads ``X-B3-*`` too (the single header goes first, as the specification wants)."""

    fields: tuple[str, ...] = ("b3",)

    def __init__(self, key: Callable[[str], Hashable]) -> None:
        self._single = key("b3")
        self._trace_id = key("x-b3-traceid")
        self._span_id = key("x-b3-spanid")
        self._sampled = key("x-b3-sampled")
        self._flags = key("x-b3-flags")
        self.probes = (self._single, self._trace_id, self._sampled, self._flags)

    def read(self, carrier: Carrier, context: SpanContext) -> int:
        """Fill the context; the number of unreadable headers."""
        if context.trace_id:
            return 0
        errors = 0
        single = carrier.get(self._single)
        if single is not None:
            try:
                _fill_b3(context, *_parse_b3(_text(single)))
            except (ValueError, TypeError):
                errors = 1
            else:
                return 0
        try:
            self._read_multi(carrier, context)
        except (ValueError, TypeError):
            errors += 1
        return errors

    def _read_multi(self, carrier: Carrier, context: SpanContext) -> None:
        trace_id, span_id, sampled, flags = map(
            carrier.get, (self._trace_id, self._span_id, self._sampled, self._flags)
        )
        state: int | None = None
        if flags is not None and _text(flags) == "1":
            state = SAMPLED | DEBUG
        elif sampled is not None:
            state = _looked_up(_B3_SAMPLED, _text(sampled).lower())
        if trace_id is not None or span_id is not None:
            _fill_b3(context, *_b3_ids(_text(trace_id), _text(span_id)), state)
        elif state is not None:
            _fill_b3(context, 0, 0, state)

    def write(self, span: Any, headers: Headers) -> None:
        """Append what goes out; never the parent's id (OpenTelemetry: B3 requirements)."""
        if span.trace_id and span.span_id:
            state = "" if _is_deferred(span) else "-d" if span.flags & DEBUG else "-1" if span.flags & SAMPLED else "-0"
            headers.append(("b3", f"{_b3_trace_id(span.trace_id)}-{span.span_id:016x}{state}"))


class _B3Multi(_B3):
    """``X-B3-*``; reads ``b3`` too."""

    fields = ("x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags")

    def write(self, span: Any, headers: Headers) -> None:
        """Append what goes out; debug implies sampled, which is then left out."""
        if not (span.trace_id and span.span_id):
            return
        headers.append(("x-b3-traceid", _b3_trace_id(span.trace_id)))
        headers.append(("x-b3-spanid", f"{span.span_id:016x}"))
        if span.flags & DEBUG:
            headers.append(("x-b3-flags", "1"))
        elif not _is_deferred(span):
            headers.append(("x-b3-sampled", "1" if span.flags & SAMPLED else "0"))


_FORMATS: dict[str, type[_Jaeger | _TraceContext | _Baggage | _B3]] = {
    "jaeger": _Jaeger,
    "tracecontext": _TraceContext,
    "baggage": _Baggage,
    "b3": _B3,
    "b3multi": _B3Multi,
}
#: The names that ``Propagator`` knows.
FORMATS = tuple(_FORMATS)


def encode_binary(context: Any) -> bytes:
    """Jaeger's binary form (OpenTracing's ``Format.BINARY``); read is what ``Propagator.inject`` reads."""
    items = [
        (str(key).encode("utf-8", "replace"), str(value).encode("utf-8", "replace"))
        for key, value in (context.baggage or {}).items()
    ]
    items = [item for item in items if len(item[0]) + len(item[1]) <= _MAX_BINARY_ITEM_BYTES][:_MAX_BINARY_ITEMS]
    trace_id = context.trace_id
    parent_id = getattr(context, "parent_id", 0)
    parts = [
        _BINARY_HEAD.pack(
            trace_id >> 64, trace_id & MASK_64, context.span_id, parent_id, context.flags & 0xFF, len(items)
        )
    ]
    for item in items:
        for text in item:
            parts += (_BINARY_LENGTH.pack(len(text)), text)
    return b"".join(parts)


def decode_binary(data: bytes) -> SpanContext:
    """The context in Jaeger's binary form; ``ValueError`` if it is cut short, too large or not UTF-8."""
    try:
        high, low, span_id, _, flags, count = _BINARY_HEAD.unpack_from(data)
        if not 0 <= count <= _MAX_BINARY_ITEMS:
            raise ValueError(f"{count} items of baggage in a binary trace context")
        offset = _BINARY_HEAD.size
        baggage = {}
        for _ in range(count):
            key, offset = _binary_text(data, offset)
            value, offset = _binary_text(data, offset)
            if len(key) + len(value) > _MAX_BINARY_ITEM_BYTES:
                raise ValueError("an item of baggage in a binary trace context is too large")
            baggage[key.decode()] = value.decode()
    except StructError as error:
        raise ValueError("a binary trace context is cut short") from error
    return SpanContext(high << 64 | low, span_id, flags, baggage=baggage or None, is_remote=True)


def _binary_text(data: bytes, offset: int) -> tuple[bytes, int]:
    (length,) = _BINARY_LENGTH.unpack_from(data, offset)
    start = offset + _BINARY_LENGTH.size
    if not 0 <= length <= len(data) - start:
        raise ValueError("a binary trace context is cut short")
    return data[start : start + length], start + length


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b"," + value if name in joined else value
    return joined


def _text(value: object) -> str:
    """A header's value as text; several values are joined by commas; ``TypeError`` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value[:MAX_STATE_MEMBERS]))
    raise TypeError("a header must be text")


def _parse_uber_trace_id(value: str) -> tuple[int, int, int]:
    """Trace id, span id and flags; the parent's id must be there, and is of no use."""
    if len(value) > _MAX_UBER_TRACE_ID:
        raise ValueError("uber-trace-id is too long")
    if "%" in value:
        value = _unquoted(value)
    if value.encode().translate(None, _HEX) != b":::":
        raise ValueError("uber-trace-id must be four hexadecimal numbers")
    trace, span, parent, flags = value.split(":")
    if len(trace) > 32 or len(span) > 16 or not 0 < len(parent) <= 16 or len(flags) > 2:
        raise ValueError("a part of uber-trace-id is too long or empty")
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not (trace_id and span_id):
        raise ValueError("an id in uber-trace-id is 0")
    return trace_id, span_id, int(flags, 16)


def _parse_traceparent(value: str) -> tuple[int, int, int]:
    """Trace id, span id and those flags that we know (W3C Trace Context level 2, section 3.2)."""
    if len(value) != 55 or value[:3] != "00-":
        value = _as_version_0(value)
    if value.encode().translate(None, _LOWER_HEX) != b"---" or value[2] != "-" or value[35] != "-" or value[52] != "-":
        raise ValueError("malformed traceparent")
    trace_id, span_id = int(value[3:35], 16), int(value[36:52], 16)
    if not (trace_id and span_id):
        raise ValueError("an id in traceparent is 0")
    return trace_id, span_id, _FROM_W3C[int(value[53:], 16) & 0x03]


def _as_version_0(value: str) -> str:
    """The part of a traceparent that any version shares (section 3.2.4: versions above 00 may add fields)."""
    value = value.strip(_BLANK)
    version = value[:2]
    if version == "ff" or len(value) < 55 or (len(value) > 55 and (version == "00" or value[55] != "-")):
        raise ValueError("malformed traceparent")
    return value[:55]


def _checked_state(text: str) -> str:
    """A tracestate without blanks and empty members; one bad member spoils all (section 3.3)."""
    if len(text) > _MAX_STATE_TEXT:
        raise ValueError("tracestate is too long")
    members = [stripped for member in text.split(",") if (stripped := member.strip(_BLANK))]
    if len(members) > MAX_STATE_MEMBERS or not all(map(_is_state_member, members)):
        raise ValueError("malformed tracestate")
    return ",".join(members)


def _is_state_member(member: str) -> bool:
    key, _, value = member.partition("=")
    return (
        0 < len(key) <= MAX_STATE_PART
        and key[0] in _STATE_KEY_FIRST
        and not key.encode().translate(None, _STATE_KEY)
        and 0 < len(value) <= MAX_STATE_PART
        and "=" not in value
        and value.isascii()
        and value.isprintable()
    )


def _parse_b3(value: str) -> tuple[int, int, int | None]:
    """Trace id, span id and flags of the single header; ids 0 for a lone state, flags ``None`` if deferred."""
    trace, *rest = value.split("-", 4)
    if not rest:
        return 0, 0, _looked_up(_B3_STATES, trace)
    if len(rest) > 3:
        raise ValueError("b3 has too many parts")
    if len(rest) == 3:
        _hex_id(rest[2], 16)
    state = _looked_up(_B3_STATES, rest[1]) if len(rest) > 1 else None
    return *_b3_ids(trace, rest[0]), state


def _b3_ids(trace: str, span: str) -> tuple[int, int]:
    trace_id, span_id = _hex_id(trace, 32), _hex_id(span, 16)
    if not (trace_id and span_id):
        raise ValueError("an id in a B3 header is 0")
    return trace_id, span_id


def _hex_id(text: str, digits: int) -> int:
    if len(text) > digits or text.encode().translate(None, _HEX):
        raise ValueError("an id must be hexadecimal")
    return int(text, 16)


def _looked_up(states: dict[str, int], text: str) -> int:
    try:
        return states[text]
    except KeyError:
        raise ValueError("unknown sampling state") from None


def _fill_b3(context: SpanContext, trace_id: int, span_id: int, flags: int | None) -> None:
    context.trace_id, context.span_id, context.flags = trace_id, span_id, flags or 0
    if trace_id:
        context.deferred = flags is None
    else:
        context.decision = bool(flags)


def _b3_trace_id(trace_id: int) -> str:
    return f"{trace_id:032x}" if trace_id > MASK_64 else f"{trace_id:016x}"


def _is_deferred(span: Any) -> bool:
    return getattr(span, "deferred", False)


def _read_ad_hoc_baggage(text: str, context: SpanContext) -> int:
    """``jaeger-baggage: k1=v1, k2=v2``, written by hand to start a trace with baggage; 1 if a member was unreadable."""
    errors = 0
    for member in _members(_unquoted(text[:MAX_BAGGAGE_BYTES])):
        key, equals, value = member.partition("=")
        if equals and key.strip() and "=" not in value:
            _add_baggage(context, key.strip(), value.strip())
        else:
            errors = 1
    return errors


def _members(text: str) -> list[str]:
    """The members of a list that are not blank; what lies beyond the permitted length is left out whole."""
    if len(text) > MAX_BAGGAGE_BYTES:
        text = text[: MAX_BAGGAGE_BYTES + 1].rpartition(",")[0]
    return [member for member in text.split(",") if member.strip(_BLANK)]


def _add_baggage(context: SpanContext, key: str, value: str) -> None:
    if context.baggage is None:
        context.baggage = {}
    if len(context.baggage) < MAX_BAGGAGE_ITEMS and key:
        context.baggage.setdefault(key, value)


def _sendable(baggage: Mapping[str, str]) -> Headers:
    """Items with a key that may stand in a header, percent-encoded, as many as the limits allow."""
    from urllib.parse import quote  # Only where there is baggage: slow to load.

    items: Headers = []
    room = MAX_BAGGAGE_BYTES
    for key, value in list(baggage.items()):
        # A '+' and a ',' are encoded whatever the format: some readers take them for a blank and for the end.
        if isinstance(key, str) and _is_token(key) and len(items) < MAX_BAGGAGE_ITEMS and isinstance(value, str):
            encoded = quote(value, safe="/:@!$'()*", errors="replace")
            size = len(key) + len(encoded) + 2
            # The last member has no comma behind it.
            if size - 1 <= room:
                room -= size
                items.append((key, encoded))
    return items


def _is_token(text: str) -> bool:
    return text != "" and not text.encode("utf-8", "replace").translate(None, _TOKEN)


def _unquoted(text: str, *, plus_is_blank: bool = True) -> str:
    """Percent-decoded. In Jaeger's headers a plus is a blank: Go and Java write it so, and all encode a real one."""
    if plus_is_blank:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    from urllib.parse import unquote  # Slow to load, and seldom needed.

    return unquote(text)
