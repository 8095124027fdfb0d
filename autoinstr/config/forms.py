"""What values of variables must look like, and how they are read: as those read them who have defined the variables.

Owns: ``Form`` and all forms that there are: booleans, numbers and durations of Go and of OpenTelemetry, lists, URLs.
Must not know: variables and fields (the table joins them with forms), defaults, other values than the one to be read.
Invariants: parsing is pure, and raises nothing but ``ValueError`` and ``OverflowError``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

#: Longer waits overflow the timers of some platforms, and nobody can tell a day from for ever.
LONGEST_S = 86_400.0
#: Shorter intervals would make the worker spin.
SHORTEST_INTERVAL_S = 0.01


class Instead(ValueError):
    """A value that is wrong, but says enough: ``value`` is used, and the user is warned."""

    def __init__(self, value: object) -> None:
        self.value = value


class Form:
    """``parse(text)`` gives the value, ``None`` (says nothing), or raises ``ValueError`` or ``Instead``.

    ``allowed`` completes "is not ...". ``shown`` turns a field's value back into what the variable would say (where it
    disables what the field enables). A ``verbatim`` text is parsed without being trimmed or cleaned.
    """

    __slots__ = ("allowed", "parse", "shown", "verbatim")

    def __init__(
        self,
        parse: Callable[[str], object],
        allowed: str,
        shown: Callable[[Any], object] | None = None,
        *,
        verbatim: bool = False,
    ) -> None:
        self.parse = parse
        self.allowed = allowed
        self.shown = shown
        self.verbatim = verbatim


def _parse_go_boolean(text: str) -> bool:
    """As Go's ``strconv.ParseBool``, which reads the booleans of Jaeger's clients."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError


def _parse_otel_boolean(text: str) -> bool:
    """As OpenTelemetry's specification of environment variables: only "true", in any case, is true."""
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _not(value: Any) -> bool:
    return not value


def _parse_integer(text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise ValueError
    return int(text)


def _integer(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        value = _parse_integer(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Form(parse, f"an integer from {low} to {high}")


def parse_number(text: str) -> float:
    value = float(text)
    if "_" in text or value - value != 0:  # NaN and the infinities
        raise ValueError
    return value


def _bounded(seconds: float, shortest: float = 0.0) -> float:
    if seconds < 0:
        raise ValueError
    if not shortest <= seconds <= LONGEST_S:
        raise Instead(min(max(seconds, shortest), LONGEST_S))
    return seconds


_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def _parse_go_duration(text: str) -> float:
    """Seconds in a text like "1m30s" or "500ms", as Go's ``time.ParseDuration``; without a unit only "0"."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError
    total = 0.0
    while rest:
        after = rest.lstrip("0123456789.")
        unit = after[: len(after) - len(after.lstrip("".join(_NANOSECONDS)))]
        number = rest[: len(rest) - len(after)]
        rest = after[len(unit) :]
        if unit not in _NANOSECONDS:
            raise ValueError
        total += float(number) * _NANOSECONDS[unit]
    return -total / 1e9 if text[0] == "-" else total / 1e9


def _parse_interval(text: str) -> float:
    """Go's client reads a duration here, the other clients integer milliseconds; both are understood."""
    try:
        seconds = _parse_integer(text) / 1000
    except ValueError:
        seconds = _parse_go_duration(text)
    return _bounded(seconds, SHORTEST_INTERVAL_S)


def parse_milliseconds(text: str) -> float:
    return _bounded(_parse_integer(text) / 1000, SHORTEST_INTERVAL_S)


def _parse_timeout(text: str) -> float:
    """Milliseconds; 0 means no limit in OpenTelemetry's specification, which here is a day."""
    return _bounded(_parse_integer(text) / 1000) or LONGEST_S


def _parse_seconds(text: str) -> float:
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = _parse_go_duration(text)
    return _bounded(seconds)


def split_items(text: str) -> list[str]:
    """The items of a comma list, trimmed; empty ones are left out."""
    return [item for item in map(str.strip, text.split(",")) if item]


def _parse_words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def _parse_words_or_none(text: str) -> tuple[str, ...]:
    return () if text.lower() == "none" else _parse_words(text)


def _parse_instruments(text: str) -> frozenset[str]:
    return frozenset(_parse_words(text.lower()))


def _parse_methods(text: str) -> frozenset[str]:
    return frozenset(_parse_words(text))


def _choice(choices: Mapping[str, object], remark: str = "") -> Form:
    def parse(text: str) -> object:
        if text.lower() not in choices:
            raise ValueError
        return choices[text.lower()]

    return Form(parse, _either(choices) + remark)


def _either(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _named_list(names: Mapping[str, tuple[str, ...]], documented: Iterable[str]) -> Form:
    """A list, by commas or blanks, of names in any case; each stands for some values. "none" is the empty list."""

    def parse(text: str) -> tuple[str, ...]:
        words = _parse_words(text.lower())
        known = [word for word in words if word in names]
        if not known and words != ("none",):
            raise ValueError
        values = tuple(dict.fromkeys(value for word in known for value in names[word]))
        if len(known) + words.count("none") < len(words):
            raise Instead(values)
        return values

    return Form(parse, f"a list of {_either(documented)}")


_EXPORTERS = {
    name: (name,) for name in ("jaeger", "jaeger-udp", "jaeger-http", "otlp", "zipkin", "console", "file")
} | {
    # The names under which OpenTelemetry's Python packages register their exporters.
    "jaeger_thrift": ("jaeger",),
    "otlp_proto_http": ("otlp",),
    "otlp_proto_grpc": ("otlp",),
    "zipkin_json": ("zipkin",),
    "zipkin_proto": ("zipkin",),
    "logging": ("console",),
}

_PROPAGATORS = {name: (name,) for name in ("jaeger", "tracecontext", "baggage", "b3", "b3multi")}

_JAEGER_PROPAGATORS = {
    "jaeger": ("jaeger",),
    "w3c": ("tracecontext", "baggage"),
    # Jaeger's clients know only the form of B3 with several headers.
    "b3": ("b3multi",),
}

#: OpenTelemetry's names of samplers: type, parameter, whether a parent's decision is followed.
_OTEL_SAMPLERS: dict[str, object] = {
    "always_on": ("const", 1.0, False),
    "always_off": ("const", 0.0, False),
    "traceidratio": ("probabilistic", 1.0, False),
    "parentbased_always_on": ("const", 1.0, True),
    "parentbased_always_off": ("const", 0.0, True),
    "parentbased_traceidratio": ("probabilistic", 1.0, True),
    "jaeger_remote": ("remote", 0.001, False),
    "parentbased_jaeger_remote": ("remote", 0.001, True),
}

_JAEGER_SAMPLERS: dict[str, object] = {name: name for name in ("remote", "const", "probabilistic", "ratelimiting", "budget")}

#: OpenTelemetry's levels, and those that languages add to them. Nothing that we say is worse than an error.
_LOG_LEVELS: dict[str, object] = {
    **{name: name for name in ("none", "error", "warn", "info", "debug")},
    **dict.fromkeys(("off", "fatal", "critical"), "none"),
    "warning": "warn",
    **dict.fromkeys(("trace", "verbose", "all"), "debug"),
}

#: Levels of Python's logging, and the names that it has besides; "" for none.
_LOG_EVENTS: dict[str, object] = {
    **{name: name for name in ("debug", "info", "warning", "error", "critical")},
    **dict.fromkeys(("off", "none"), ""),
    "warn": "warning",
    "fatal": "critical",
}

_SEMCONVS: dict[str, object] = {name: name for name in ("stable", "old", "dup")}


def _parse_stability(text: str) -> str | None:
    """Only ``http`` concerns us in the list; the other items are for other conventions."""
    items = split_items(text.lower())
    if "http/dup" in items:
        return "dup"
    return "stable" if "http" in items else None


def _parse_url(text: str) -> str:
    """An absolute http(s) URL; one without a scheme is taken as http."""
    if "://" not in text:
        raise Instead(_parse_url("http://" + text))
    scheme, authority, _ = split_url(text)
    host, port = split_port(authority.rpartition("@")[2])
    if scheme.lower() not in ("http", "https") or not host or (port and not _is_port(port)):
        raise ValueError
    # Also keeps the request line of our own HTTP from being broken.
    if any(character <= " " or character == "\x7f" for character in text):
        raise ValueError
    return text


def split_url(url: str) -> tuple[str, str, str]:
    """(scheme, authority, path and what follows it)."""
    scheme, _, rest = url.partition("://")
    end = min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))
    return scheme, rest[:end], rest[end:]


def split_port(authority: str) -> tuple[str, str]:
    """(host, port or ""); an IPv6 address keeps its brackets."""
    host, colon, port = authority.rpartition(":")
    return (host, port) if colon and not authority.endswith("]") else (authority, "")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _parse_host(text: str) -> str:
    """A host name or an address; "host:port" and URLs are refused, since nothing could be reached under them."""
    if text[:1] == "[" and text[-1:] == "]":
        text = text[1:-1]
    if not text or text.count(":") == 1 or any(mark in text for mark in "/@ \t\r\n"):
        raise ValueError
    return text


def parse_sampling_url(text: str) -> str:
    url = text if "://" in text else "http://" + text
    scheme, authority, path = split_url(_parse_url(url))
    return f"{scheme}://{authority}{path or '/sampling'}"


_HEX_DIGITS = "0123456789abcdefABCDEF"


def _percent_decoded(text: str) -> str:
    """Raises ``ValueError`` for a bad escape and for bytes that are no UTF-8."""
    if "%" not in text:
        return text
    first, *escaped = text.split("%")
    result = bytearray(first.encode())
    for part in escaped:
        if len(part) < 2 or part[0] not in _HEX_DIGITS or part[1] not in _HEX_DIGITS:
            raise ValueError
        result += bytes.fromhex(part[:2]) + part[2:].encode()
    return result.decode()


def _parse_pairs(text: str) -> dict[str, str]:
    """``key=value,...``, percent-encoded; as OpenTelemetry's SDK specification asks, one error discards everything."""
    result: dict[str, str] = {}
    for item in split_items(text):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ValueError
        result[_percent_decoded(key.strip())] = _percent_decoded(value.strip())
    return result


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_header_name(text: str) -> bool:
    """A token of RFC 9110, without the ``*`` that stands for many names elsewhere."""
    return bool(text) and text.isascii() and all(mark.isalnum() or mark in "!#$%&'+-.^_`|~" for mark in text)


def _parse_headers(text: str) -> dict[str, str]:
    headers = {name.lower(): value for name, value in _parse_pairs(text).items()}
    for name, value in headers.items():
        # A header that http.client refuses would make every export fail.
        if not _is_header_name(name) or not _is_printable_ascii(value):
            raise ValueError
    return headers


#: Headers that carry credentials: never recorded, whatever the user asks for.
NEVER_CAPTURED = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"))


def _parse_header_names(text: str) -> tuple[str, ...]:
    words = _parse_words(text.lower())
    names = tuple(word for word in words if _is_header_name(word) and word not in NEVER_CAPTURED)
    if len(names) < len(words):
        raise Instead(names)
    return names


def _parse_token(text: str) -> str:
    if not _is_printable_ascii(text):
        raise ValueError
    return text


def _parse_patterns(text: str) -> tuple[str, ...]:
    """A comma list of regular expressions, split as OpenTelemetry's Python contrib does (so none can hold a comma)."""
    import re

    patterns, wrong = [], False
    for pattern in split_items(text):
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            wrong = True
        else:
            patterns.append(pattern)
    if wrong:
        raise Instead(tuple(patterns))
    return tuple(patterns)


def _say_nothing(text: str) -> None:
    del text


def _refuse(text: str) -> None:
    raise ValueError(text)


GO_BOOLEAN = Form(_parse_go_boolean, "a boolean (true, false, 1 or 0)")
NOT_GO_BOOLEAN = Form(lambda text: not _parse_go_boolean(text), GO_BOOLEAN.allowed, _not)
NOT_OTEL_BOOLEAN = Form(lambda text: not _parse_otel_boolean(text), "true or false", _not)
WIDE_IDS = Form(lambda text: 128 if _parse_go_boolean(text) else 64, GO_BOOLEAN.allowed, lambda bits: bits == 128)
PORT = Form(_integer(0, 65535).parse, "a port (0 to 65535)")
SIZE = _integer(1, 1_000_000)
LIMIT = _integer(0, 1_000_000_000)
PACKET_SIZE = _integer(512, 65507)
NUMBER = Form(parse_number, "a number")
INTERVAL = Form(_parse_interval, "a duration (500ms, 2s, 1m30s) or milliseconds, from 10ms to 24h")
DELAY = Form(parse_milliseconds, "milliseconds (an integer from 10 to 86400000)")
TIMEOUT = Form(_parse_timeout, "milliseconds (an integer from 0 to 86400000; 0 is no limit)")
SECONDS = Form(_parse_seconds, "seconds (2, 0.5) or a duration (500ms), at most 24h")
TEXT = Form(str, "a text")
PATH = Form(str, "a path", verbatim=True)
SECRET = Form(str, "a text", verbatim=True)
TOKEN = Form(_parse_token, "printable ASCII")
HOST = Form(_parse_host, "a host name or an IP address")
URL = Form(_parse_url, "a URL (http://host:port/path)")
SAMPLING_URL = Form(parse_sampling_url, "a URL (http://host:port/path) or host:port")
TAGS = Form(str, "a list of name=value (value may be ${VARIABLE:default})")
PAIRS = Form(_parse_pairs, "a list of name=value, percent-encoded")
HEADERS = Form(_parse_headers, "a list of header=value, percent-encoded, printable ASCII")
HEADER_NAMES = Form(_parse_header_names, "a list of header names that carry no credentials")
PATTERNS = Form(_parse_patterns, "a comma list of regular expressions")
HOST_GLOBS = Form(_parse_words_or_none, "a list of host names with * (api.example.com, *.internal), or none")
NAMES = Form(_parse_words_or_none, "a list of names, or none")
METHODS = Form(_parse_methods, "a list of HTTP methods")
INSTRUMENTS = Form(_parse_instruments, "a list of instruments, or *")
EXPORTERS = _named_list(
    _EXPORTERS, ("jaeger", "jaeger-udp", "jaeger-http", "otlp", "zipkin", "console", "file", "none")
)
PROPAGATORS = _named_list(_PROPAGATORS, (*_PROPAGATORS, "none"))
JAEGER_PROPAGATORS = _named_list(_JAEGER_PROPAGATORS, _JAEGER_PROPAGATORS)
OTEL_SAMPLER = _choice(_OTEL_SAMPLERS)
SAMPLER_ARG = Form(
    str, "a ratio (0 to 1), or endpoint=...,pollingIntervalMs=...,initialSamplingRate=... for jaeger_remote"
)
JAEGER_SAMPLER = _choice(_JAEGER_SAMPLERS)
JAEGER_PROTOCOL = _choice({"http/thrift.binary": "jaeger-http", "udp/thrift.compact": "jaeger-udp"})
PROTOCOL = _choice(
    {"http/protobuf": "http/protobuf", "http/json": "http/json"},
    " (gRPC is not available)",
)
COMPRESSION = _choice({"gzip": "gzip", "none": "none"})
SEMCONV = _choice(_SEMCONVS)
STABILITY = Form(_parse_stability, "a list with http or http/dup")
WEBSOCKET_SPAN = _choice({"handshake": "handshake", "connection": "connection"})
LOG_EVENTS = Form(_choice(_LOG_EVENTS).parse, "debug, info, warning, error, critical or none")
LOG_LEVEL = Form(_choice(_LOG_LEVELS).parse, "none, error, warn, info or debug")
IGNORED = Form(_say_nothing, "")
UNSUPPORTED = Form(_refuse, "supported")
