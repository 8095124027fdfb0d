"""The environment as one frozen value: every variable that a user can set, how it is read, and what follows from it.

Owns: ``TABLE`` (variable, field, form, help; parsing, documentation and the self-check are derived from it), the forms
that values can have, ``Config``, the precedence of variables, the warnings, the name of the program.
Must not know: ``os.environ`` (a mapping is passed in), sockets, files, samplers and exporters (only their names).
Invariants: ``from_env`` is pure and never raises; a wrong value costs one warning, never the start of the program; an
empty variable is an unset one; secrets are masked wherever a value is shown; durations are seconds (``*_s``).

Precedence, for each field: AUTOINSTR_* over OTEL_* (the signal's own over the general) over JAEGER_* over the default;
in ``TABLE`` the rows of one field stand in that order. Loaded into every traced process, this module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[str, str, "Form", str]

PREFIXES = ("AUTOINSTR_", "OTEL_", "JAEGER_")

#: Set by nobody but ourselves: lets children of ``multiprocessing`` (reloaders, uvicorn's workers), whose command line
#: names no program, keep the name of the program that started them.
PROGRAM_VARIABLE = "_AUTOINSTR_PROGRAM"

#: Longer waits overflow the timers of some platforms, and nobody can tell a day from for ever.
LONGEST_S = 86_400.0
#: Shorter intervals would make the worker spin.
SHORTEST_INTERVAL_S = 0.01

OTLP_GRPC_PORT = "4317"
SAMPLING_GRPC_PORTS = ("14250", "5779")


# ---- The value -----------------------------------------------------------------------------------

DEFAULTS: dict[str, object] = {
    "enabled": True,
    "service_name": "unknown_service:python",
    "resource_attributes": {},
    "propagators": ("jaeger", "tracecontext", "baggage"),
    "propagate_to": ("*",),
    "no_propagate_to": (),
    "trace_id_bits": 128,
    "sampler_type": "remote",
    "sampler_param": 0.001,
    "sampler_parent_based": True,
    "sampler_endpoint": "http://localhost:5778/sampling",
    "sampler_refresh_s": 60.0,
    "sampler_initial_rate": 0.001,
    "sampler_max_operations": 2000,
    "sampler_wait_s": 0.1,
    "exporters": ("jaeger-udp",),
    "agent_host": "localhost",
    "agent_port": 6831,
    "max_packet_size": 65000,
    "agent_reconnect": True,
    "agent_reconnect_interval_s": 30.0,
    "jaeger_endpoint": "http://localhost:14268/api/traces",
    "jaeger_user": "",
    "jaeger_password": "",
    "jaeger_token": "",
    "jaeger_timeout_s": 5.0,
    "jaeger_certificate": "",
    "otlp_endpoint": "http://localhost:4318/v1/traces",
    "otlp_protocol": "http/protobuf",
    "otlp_headers": {},
    "otlp_timeout_s": 10.0,
    "otlp_compression": "none",
    "otlp_certificate": "",
    "otlp_client_certificate": "",
    "otlp_client_key": "",
    "zipkin_endpoint": "http://localhost:9411/api/v2/spans",
    "zipkin_timeout_s": 10.0,
    "file_path": "spans.jsonl",
    "max_queue_size": 4096,
    "max_batch_size": 512,
    "flush_interval_s": 1.0,
    "export_timeout_s": 30.0,
    "exit_timeout_s": 2.0,
    "log_spans": False,
    "attribute_count": 128,
    # OpenTelemetry has no limit here; an agent in a stranger's process needs one.
    "attribute_length": 4096,
    "event_count": 128,
    "link_count": 128,
    "event_attribute_count": 128,
    "link_attribute_count": 128,
    "disabled_instruments": frozenset(),
    "excluded_urls": (),
    "excluded_urls_by_instrument": {},
    "server_request_headers": (),
    "server_response_headers": (),
    "client_request_headers": (),
    "client_response_headers": (),
    # The first seven are those of OpenTelemetry's semantic conventions for ``url.query``.
    "redact_query": (
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "X-Goog-Signature",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "token",
        "access_token",
        "api_key",
        "apikey",
        "key",
        "password",
        "secret",
        "code",
    ),
    "known_methods": frozenset(
        ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"),
    ),
    "semconv": "stable",
    "require_parent": False,
    "websocket_span": "handshake",
    "sigterm": True,
    "metrics_port": None,
    "verbose": False,
}


class Config:
    """Everything that the agent lets a user choose. Frozen; ``Config()`` is the default, keywords change single fields.

    ``warnings`` are lines for the user. ``sources`` says where a field that is not at its default came from: field ->
    (variable, raw value); raw values may be secrets, so show them with ``describe`` only.
    """

    __slots__ = (*DEFAULTS, "sources", "warnings")

    enabled: bool
    service_name: str
    resource_attributes: dict[str, str]
    propagators: tuple[str, ...]
    propagate_to: tuple[str, ...]
    no_propagate_to: tuple[str, ...]
    trace_id_bits: int
    sampler_type: str
    sampler_param: float
    sampler_parent_based: bool
    sampler_endpoint: str
    sampler_refresh_s: float
    sampler_initial_rate: float
    sampler_max_operations: int
    sampler_wait_s: float
    exporters: tuple[str, ...]
    agent_host: str
    agent_port: int
    max_packet_size: int
    agent_reconnect: bool
    agent_reconnect_interval_s: float
    jaeger_endpoint: str
    jaeger_user: str
    jaeger_password: str
    jaeger_token: str
    jaeger_timeout_s: float
    jaeger_certificate: str
    otlp_endpoint: str
    otlp_protocol: str
    otlp_headers: dict[str, str]
    otlp_timeout_s: float
    otlp_compression: str
    otlp_certificate: str
    otlp_client_certificate: str
    otlp_client_key: str
    zipkin_endpoint: str
    zipkin_timeout_s: float
    file_path: str
    max_queue_size: int
    max_batch_size: int
    flush_interval_s: float
    export_timeout_s: float
    exit_timeout_s: float
    log_spans: bool
    attribute_count: int
    attribute_length: int
    event_count: int
    link_count: int
    event_attribute_count: int
    link_attribute_count: int
    disabled_instruments: frozenset[str]
    excluded_urls: tuple[str, ...]
    excluded_urls_by_instrument: dict[str, tuple[str, ...]]
    server_request_headers: tuple[str, ...]
    server_response_headers: tuple[str, ...]
    client_request_headers: tuple[str, ...]
    client_response_headers: tuple[str, ...]
    redact_query: tuple[str, ...]
    known_methods: frozenset[str]
    semconv: str
    require_parent: bool
    websocket_span: str
    sigterm: bool
    metrics_port: int | None
    verbose: bool
    sources: dict[str, tuple[str, str]]
    warnings: list[str]

    def __init__(
        self,
        *,
        sources: dict[str, tuple[str, str]] | None = None,
        warnings: list[str] | None = None,
        **values: Any,
    ) -> None:
        fill = object.__setattr__
        for field, default in DEFAULTS.items():
            value = values.pop(field, default)
            fill(self, field, value.copy() if isinstance(value, dict) else value)
        if values:
            raise TypeError(f"no such field: {', '.join(values)}")
        fill(self, "sources", sources or {})
        fill(self, "warnings", warnings or [])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Config is frozen ({name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Config is frozen ({name})")

    def describe(self) -> list[tuple[str, str, str]]:
        """(field, value, where it came from) for every field, as text for people; secrets are masked."""
        return [(field, show(field, getattr(self, field)), self._source(field)) for field in DEFAULTS]

    def _source(self, field: str) -> str:
        if field not in self.sources:
            return "default"
        variable, raw = self.sources[field]
        return f"{variable}={_masked(variable, raw)}" if variable in FORMS else variable


# ---- How values look to people -------------------------------------------------------------------

MASK = "***"
SECRET_FIELDS = frozenset(("jaeger_password", "jaeger_token", "otlp_headers"))


def show(field: str, value: object) -> str:
    """The value of a field as text: units added, nothing is "none", secrets and passwords in URLs masked."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", (), {}, frozenset()):
        return "none"
    if isinstance(value, dict):
        shown = {key: MASK if field in SECRET_FIELDS else show("", item) for key, item in value.items()}
        return ", ".join(f"{key}={item}" for key, item in shown.items())
    if field in SECRET_FIELDS:
        return MASK
    if isinstance(value, (tuple, frozenset)):
        return ", ".join(sorted(value) if isinstance(value, frozenset) else value)
    if isinstance(value, float):
        return f"{value:g} s" if field.endswith("_s") else f"{value:g}"
    return _displayable(str(value))


def _displayable(text: str) -> str:
    """Printable in UTF-8, and without user and password where it is a URL."""
    text = _clean(text)
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or "@" not in authority:
        return text
    return f"{scheme}://{MASK}@{authority.rpartition('@')[2]}{slash}{path}"


def _masked(variable: str, raw: str) -> str:
    return MASK if FIELDS.get(variable) in SECRET_FIELDS else _displayable(raw)


# ---- Forms: what a value must look like, and how it is read --------------------------------------


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


def _parse_number(text: str) -> float:
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


def _parse_milliseconds(text: str) -> float:
    return _bounded(_parse_integer(text) / 1000, SHORTEST_INTERVAL_S)


def _parse_timeout(text: str) -> float:
    """Milliseconds; 0 means no limit in OpenTelemetry's specification, which here is a day."""
    return _bounded(_parse_integer(text) / 1000) or LONGEST_S


def _parse_seconds(text: str) -> float:
    try:
        seconds = _parse_number(text)
    except ValueError:
        seconds = _parse_go_duration(text)
    return _bounded(seconds)


def _items(text: str) -> list[str]:
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

_JAEGER_SAMPLERS: dict[str, object] = {name: name for name in ("remote", "const", "probabilistic", "ratelimiting")}

#: Levels that languages add to those of the specification are understood too; we have only two.
_LOG_LEVELS: dict[str, object] = {
    **dict.fromkeys(("none", "off", "fatal", "critical", "error", "warn", "warning", "info"), False),
    **dict.fromkeys(("debug", "trace", "verbose", "all"), True),
}

_SEMCONVS: dict[str, object] = {name: name for name in ("stable", "old", "dup")}


def _parse_stability(text: str) -> str | None:
    """Only ``http`` concerns us in the list; the other items are for other conventions."""
    items = _items(text.lower())
    if "http/dup" in items:
        return "dup"
    return "stable" if "http" in items else None


def _parse_url(text: str) -> str:
    """An absolute http(s) URL; one without a scheme is taken as http."""
    if "://" not in text:
        raise Instead(_parse_url("http://" + text))
    scheme, authority, _ = _split_url(text)
    host, port = _split_port(authority.rpartition("@")[2])
    if scheme.lower() not in ("http", "https") or not host or (port and not _is_port(port)):
        raise ValueError
    # Also keeps the request line of our own HTTP from being broken.
    if any(character <= " " or character == "\x7f" for character in text):
        raise ValueError
    return text


def _split_url(url: str) -> tuple[str, str, str]:
    """(scheme, authority, path and what follows it)."""
    scheme, _, rest = url.partition("://")
    end = min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))
    return scheme, rest[:end], rest[end:]


def _split_port(authority: str) -> tuple[str, str]:
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


def _parse_sampling_url(text: str) -> str:
    url = text if "://" in text else "http://" + text
    scheme, authority, path = _split_url(_parse_url(url))
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
    for item in _items(text):
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
    for pattern in _items(text):
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
NUMBER = Form(_parse_number, "a number")
INTERVAL = Form(_parse_interval, "a duration (500ms, 2s, 1m30s) or milliseconds, from 10ms to 24h")
DELAY = Form(_parse_milliseconds, "milliseconds (an integer from 10 to 86400000)")
TIMEOUT = Form(_parse_timeout, "milliseconds (an integer from 0 to 86400000; 0 is no limit)")
SECONDS = Form(_parse_seconds, "seconds (2, 0.5) or a duration (500ms), at most 24h")
TEXT = Form(str, "a text")
PATH = Form(str, "a path", verbatim=True)
SECRET = Form(str, "a text", verbatim=True)
TOKEN = Form(_parse_token, "printable ASCII")
HOST = Form(_parse_host, "a host name or an IP address")
URL = Form(_parse_url, "a URL (http://host:port/path)")
SAMPLING_URL = Form(_parse_sampling_url, "a URL (http://host:port/path) or host:port")
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
LOG_LEVEL = Form(_choice(_LOG_LEVELS).parse, "none, error, warn, info or debug")
IGNORED = Form(_say_nothing, "")
UNSUPPORTED = Form(_refuse, "supported")


# ---- The table -----------------------------------------------------------------------------------

#: Stands for one variable per instrument: OTEL_PYTHON_FLASK_EXCLUDED_URLS, OTEL_PYTHON_REQUESTS_EXCLUDED_URLS, ...
PER_INSTRUMENT = "OTEL_PYTHON_<INSTRUMENT>_EXCLUDED_URLS"

#: Topic -> rows of (variable, field, form, help). Of the rows of one field, the upper one wins.
TABLE: dict[str, tuple[Row, ...]] = {
    "Service": (
        ("OTEL_SDK_DISABLED", "enabled", NOT_OTEL_BOOLEAN, "Switches tracing off: nothing is patched"),
        ("JAEGER_DISABLED", "enabled", NOT_GO_BOOLEAN, "Switches tracing off: nothing is patched"),
        (
            "OTEL_SERVICE_NAME",
            "service_name",
            TEXT,
            "Name of the service; `service.name` in OTEL_RESOURCE_ATTRIBUTES is next",
        ),
        ("JAEGER_SERVICE_NAME", "service_name", TEXT, "Name of the service"),
        ("OTEL_RESOURCE_ATTRIBUTES", "resource_attributes", PAIRS, "What is known of the process, on all its spans"),
        (
            "JAEGER_TAGS",
            "resource_attributes",
            TAGS,
            "The same in Jaeger's form; joined with OTEL_RESOURCE_ATTRIBUTES, which win by name",
        ),
    ),
    "Sampling": (
        (
            "OTEL_TRACES_SAMPLER",
            "sampler_type",
            OTEL_SAMPLER,
            "Which traces are kept; JAEGER_SAMPLER_* count only without it",
        ),
        (
            "OTEL_TRACES_SAMPLER_ARG",
            "sampler_param",
            SAMPLER_ARG,
            "Argument of OTEL_TRACES_SAMPLER; the ratio is 1 if not given",
        ),
        (
            "JAEGER_SAMPLER_TYPE",
            "sampler_type",
            JAEGER_SAMPLER,
            "Which traces are kept. Nothing said, but an exporter chosen with OTEL_*: all, unless a parent decided",
        ),
        (
            "JAEGER_SAMPLER_PARAM",
            "sampler_param",
            NUMBER,
            "const: 1 or 0; probabilistic: rate; ratelimiting: traces/second; remote: rate until the first strategy",
        ),
        (
            "JAEGER_SAMPLING_ENDPOINT",
            "sampler_endpoint",
            SAMPLING_URL,
            "Where strategies of the remote sampler are asked for",
        ),
        (
            "JAEGER_SAMPLER_MANAGER_HOST_PORT",
            "sampler_endpoint",
            SAMPLING_URL,
            "Older form of JAEGER_SAMPLING_ENDPOINT; without both the host is JAEGER_AGENT_HOST, the port 5778",
        ),
        ("JAEGER_SAMPLER_REFRESH_INTERVAL", "sampler_refresh_s", INTERVAL, "How often strategies are asked for"),
        ("JAEGER_SAMPLER_MAX_OPERATIONS", "sampler_max_operations", SIZE, "Operations with a sampler of their own"),
        (
            "AUTOINSTR_SAMPLER_WAIT",
            "sampler_wait_s",
            SECONDS,
            "How long the very first trace may wait for the first strategy",
        ),
    ),
    "Exporter": (
        (
            "AUTOINSTR_EXPORTER",
            "exporters",
            EXPORTERS,
            "Where spans go. Not said: otlp with an OTLP endpoint, jaeger-http with JAEGER_ENDPOINT, else jaeger-udp",
        ),
        (
            "OTEL_TRACES_EXPORTER",
            "exporters",
            EXPORTERS,
            "Where spans go; jaeger is jaeger-http if an endpoint is given",
        ),
        (
            "OTEL_EXPORTER_JAEGER_PROTOCOL",
            "exporters",
            JAEGER_PROTOCOL,
            "Which of the two `jaeger` is in OTEL_TRACES_EXPORTER",
        ),
        ("AUTOINSTR_FILE", "file_path", PATH, "File of the exporter `file`"),
    ),
    "Jaeger's agent (jaeger-udp)": (
        ("OTEL_EXPORTER_JAEGER_AGENT_HOST", "agent_host", HOST, "Host of the agent"),
        ("JAEGER_AGENT_HOST", "agent_host", HOST, "Host of the agent"),
        ("OTEL_EXPORTER_JAEGER_AGENT_PORT", "agent_port", PORT, "UDP port of the agent (compact Thrift)"),
        ("JAEGER_AGENT_PORT", "agent_port", PORT, "UDP port of the agent (compact Thrift)"),
        ("AUTOINSTR_MAX_PACKET_SIZE", "max_packet_size", PACKET_SIZE, "Bytes of a datagram at most"),
        (
            "JAEGER_REPORTER_ATTEMPT_RECONNECTING_DISABLED",
            "agent_reconnect",
            NOT_GO_BOOLEAN,
            "Resolve the agent's name only once",
        ),
        (
            "JAEGER_REPORTER_ATTEMPT_RECONNECT_INTERVAL",
            "agent_reconnect_interval_s",
            INTERVAL,
            "How often the agent's name is resolved again",
        ),
    ),
    "Jaeger's collector (jaeger-http)": (
        ("OTEL_EXPORTER_JAEGER_ENDPOINT", "jaeger_endpoint", URL, "URL of the collector (Thrift over HTTP)"),
        (
            "JAEGER_ENDPOINT",
            "jaeger_endpoint",
            URL,
            "URL of the collector (Thrift over HTTP); the agent is then not used",
        ),
        ("OTEL_EXPORTER_JAEGER_USER", "jaeger_user", TEXT, "User for HTTP Basic"),
        ("JAEGER_USER", "jaeger_user", TEXT, "User for HTTP Basic; needs JAEGER_PASSWORD"),
        ("OTEL_EXPORTER_JAEGER_PASSWORD", "jaeger_password", SECRET, "Password for HTTP Basic"),
        ("JAEGER_PASSWORD", "jaeger_password", SECRET, "Password for HTTP Basic; needs JAEGER_USER"),
        ("JAEGER_AUTH_TOKEN", "jaeger_token", TOKEN, "Bearer token"),
        ("OTEL_EXPORTER_JAEGER_TIMEOUT", "jaeger_timeout_s", TIMEOUT, "How long one request may take"),
        ("JAEGER_REPORTER_TIMEOUT", "jaeger_timeout_s", TIMEOUT, "How long one request may take"),
        ("AUTOINSTR_CERTIFICATE", "jaeger_certificate", PATH, "File of certificates to trust for https (PEM)"),
    ),
    "OTLP": (
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_endpoint", URL, "URL for spans, used as it is"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", URL, "Base URL; v1/traces is added"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "otlp_protocol", PROTOCOL, "Encoding of spans"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol", PROTOCOL, "Encoding"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "otlp_headers", HEADERS, "Headers to send with spans"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers", HEADERS, "Headers to send"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "otlp_timeout_s", TIMEOUT, "How long one request may take"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "otlp_timeout_s", TIMEOUT, "How long one request may take"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "otlp_compression", COMPRESSION, "Compression of spans"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "otlp_compression", COMPRESSION, "Compression"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "otlp_certificate", PATH, "File of certificates to trust (PEM)"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "otlp_certificate", PATH, "File of certificates to trust (PEM)"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "otlp_client_certificate", PATH, "Own certificate (PEM)"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "otlp_client_certificate", PATH, "Own certificate (PEM)"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "otlp_client_key", PATH, "Key of the own certificate (PEM)"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "otlp_client_key", PATH, "Key of the own certificate (PEM)"),
    ),
    "Zipkin": (
        ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "zipkin_endpoint", URL, "URL for spans (Zipkin v2 JSON)"),
        ("OTEL_EXPORTER_ZIPKIN_TIMEOUT", "zipkin_timeout_s", TIMEOUT, "How long one request may take"),
    ),
    "Queue": (
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "max_queue_size",
            SIZE,
            "Finished spans that may wait; more are dropped and counted",
        ),
        ("JAEGER_REPORTER_MAX_QUEUE_SIZE", "max_queue_size", SIZE, "Finished spans that may wait"),
        (
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "max_batch_size",
            SIZE,
            "Spans of one export; at most the size of the queue",
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "flush_interval_s", DELAY, "How long a finished span waits at most"),
        ("JAEGER_REPORTER_FLUSH_INTERVAL", "flush_interval_s", INTERVAL, "How long a finished span waits at most"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "export_timeout_s", TIMEOUT, "How long one export may take, with retries"),
        ("JAEGER_REPORTER_LOG_SPANS", "log_spans", GO_BOOLEAN, "Also log each finished span"),
    ),
    "Propagation": (
        ("OTEL_PROPAGATORS", "propagators", PROPAGATORS, "Headers that are read and sent"),
        (
            "JAEGER_PROPAGATION",
            "propagators",
            JAEGER_PROPAGATORS,
            "The same in Jaeger's words; b3 is the form with several headers",
        ),
        ("AUTOINSTR_PROPAGATE_TO", "propagate_to", HOST_GLOBS, "Hosts to which headers are sent"),
        ("AUTOINSTR_NO_PROPAGATE_TO", "no_propagate_to", HOST_GLOBS, "Hosts to which no headers are sent; wins"),
        ("JAEGER_TRACEID_128BIT", "trace_id_bits", WIDE_IDS, "Trace ids of 128 bits; false: 64"),
    ),
    "Limits": (
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "attribute_count", LIMIT, "Attributes of a span"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "attribute_count", LIMIT, "Attributes of a span, an event or a link"),
        (
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "attribute_length",
            LIMIT,
            "Characters of an attribute; the rest is cut off",
        ),
        (
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "attribute_length",
            LIMIT,
            "Characters of an attribute; the rest is cut off",
        ),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "event_count", LIMIT, "Events of a span"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "link_count", LIMIT, "Links of a span"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "event_attribute_count", LIMIT, "Attributes of an event"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "event_attribute_count", LIMIT, "Attributes of a span, an event or a link"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "link_attribute_count", LIMIT, "Attributes of a link"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "link_attribute_count", LIMIT, "Attributes of a span, an event or a link"),
    ),
    "Instruments": (
        ("AUTOINSTR_DISABLED_INSTRUMENTS", "disabled_instruments", INSTRUMENTS, "Libraries that are left alone"),
        ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "disabled_instruments", INSTRUMENTS, "Libraries that are left alone"),
        (
            "AUTOINSTR_EXCLUDED_URLS",
            "excluded_urls",
            PATTERNS,
            "URLs without spans; each pattern is searched in the URL",
        ),
        (
            "OTEL_PYTHON_EXCLUDED_URLS",
            "excluded_urls",
            PATTERNS,
            "URLs without spans; each pattern is searched in the URL",
        ),
        (
            PER_INSTRUMENT,
            "excluded_urls_by_instrument",
            PATTERNS,
            "The same for one instrument (FLASK, REQUESTS, ...), in place of the general list",
        ),
    ),
    "HTTP": (
        (
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
            "server_request_headers",
            HEADER_NAMES,
            "Headers of incoming requests to record",
        ),
        (
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
            "server_response_headers",
            HEADER_NAMES,
            "Headers of own responses to record",
        ),
        (
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST",
            "client_request_headers",
            HEADER_NAMES,
            "Headers of outgoing requests to record",
        ),
        (
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE",
            "client_response_headers",
            HEADER_NAMES,
            "Headers of received responses to record",
        ),
        ("AUTOINSTR_REDACT_QUERY", "redact_query", NAMES, "Query parameters whose values are not recorded"),
        ("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "known_methods", METHODS, "Methods that are recorded by name"),
        (
            "AUTOINSTR_SEMCONV",
            "semconv",
            SEMCONV,
            "Names of HTTP attributes: today's, those before OpenTelemetry 1.23, or both",
        ),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "semconv", STABILITY, "http: today's names; http/dup: both"),
        ("AUTOINSTR_REQUIRE_PARENT", "require_parent", GO_BOOLEAN, "Trace outgoing requests only inside another span"),
        ("AUTOINSTR_WEBSOCKET_SPAN", "websocket_span", WEBSOCKET_SPAN, "How long the span of a WebSocket lasts"),
    ),
    "Process": (
        (
            "AUTOINSTR_SIGTERM",
            "sigterm",
            GO_BOOLEAN,
            "Send the last spans at SIGTERM, where the program does not handle it",
        ),
        (
            "AUTOINSTR_EXIT_TIMEOUT",
            "exit_timeout_s",
            SECONDS,
            "How long the end of the process may wait for the last spans",
        ),
        ("AUTOINSTR_METRICS_PORT", "metrics_port", PORT, "Port for the agent's own counters"),
        ("OTEL_LOG_LEVEL", "verbose", LOG_LEVEL, "debug: the agent says what it does"),
    ),
    "Known, but without effect": (
        ("OTEL_CONFIG_FILE", "", UNSUPPORTED, "Only variables are read"),
        ("JAEGER_GRPC_TARGET", "", UNSUPPORTED, "gRPC is not available; use JAEGER_ENDPOINT"),
        ("JAEGER_SENDER_FACTORY", "", UNSUPPORTED, "There is one sender per exporter; use AUTOINSTR_EXPORTER"),
        ("JAEGER_GRPC_ROOT_CERTIFICATE", "", IGNORED, "gRPC is not available"),
        ("JAEGER_GRPC_CLIENT_CHAIN", "", IGNORED, "gRPC is not available"),
        ("JAEGER_GRPC_CLIENT_KEY", "", IGNORED, "gRPC is not available"),
        ("JAEGER_AGENT_SOCKET_TYPE", "", IGNORED, "Follows from the agent's address"),
        ("JAEGER_RPC_METRICS", "", IGNORED, "Metrics of requests are not made"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "", IGNORED, "Only for gRPC; the URL's scheme decides"),
        ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "", IGNORED, "Only for gRPC; the URL's scheme decides"),
        ("OTEL_METRICS_EXPORTER", "", IGNORED, "Only traces are exported"),
        ("OTEL_LOGS_EXPORTER", "", IGNORED, "Only traces are exported"),
        ("OTEL_PYTHON_CONTEXT", "", IGNORED, "No OpenTelemetry SDK is involved"),
        ("OTEL_PYTHON_ID_GENERATOR", "", IGNORED, "Ids are random"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "", IGNORED, "No OpenTelemetry SDK is involved"),
        ("OTEL_PYTHON_DISTRO", "", IGNORED, "No OpenTelemetry SDK is involved"),
        ("OTEL_PYTHON_CONFIGURATOR", "", IGNORED, "No OpenTelemetry SDK is involved"),
        ("OTEL_PYTHON_LOG_CORRELATION", "", IGNORED, "Logs are left alone"),
        ("OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED", "", IGNORED, "Logs are left alone"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "", IGNORED, "Name attributes in OTEL_RESOURCE_ATTRIBUTES"),
    ),
}

ROWS: tuple[Row, ...] = tuple(row for rows in TABLE.values() for row in rows)
FORMS: dict[str, Form] = {variable: form for variable, _, form, _ in ROWS}
#: The field of a variable; the first one, where a general variable has several.
FIELDS: dict[str, str] = {variable: field for variable, field, _, _ in reversed(ROWS)}

#: Fields that depend on more than one variable at a time: a function of their own fills them.
_DERIVED = frozenset(
    (
        "service_name",
        "resource_attributes",
        "sampler_type",
        "sampler_param",
        "sampler_endpoint",
        "exporters",
        "otlp_endpoint",
        "excluded_urls_by_instrument",
        "",
    )
)


# ---- Reading -------------------------------------------------------------------------------------


class _Draft:
    """A configuration in the making."""

    __slots__ = ("environ", "given", "parsed", "problems", "sources", "values")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        #: variable -> raw value, of those that are set and concern us.
        self.given = {name: value for name, value in environ.items() if value and name.startswith(PREFIXES)}
        #: variable -> value, of those that make sense.
        self.parsed: dict[str, Any] = {}
        self.values: dict[str, Any] = dict(DEFAULTS)
        self.sources: dict[str, tuple[str, str]] = {}
        #: variable -> (what it is not, field whose value is used or, in words, what is).
        self.problems: dict[str, tuple[str, str]] = {}

    def put(self, field: str, value: object, variable: str) -> None:
        self.values[field] = value
        self.sources[field] = (variable, self.given.get(variable, ""))

    def forget(self, field: str) -> None:
        self.values[field] = DEFAULTS[field]
        self.sources.pop(field, None)

    def object_to(self, variable: str, allowed: str = "", used: str = "") -> None:
        """Keep a complaint; what is used instead is known only when everything has been read."""
        self.problems[variable] = (allowed or FORMS[variable].allowed, used)

    def first(self, *variables: str) -> str:
        """The first of the variables that makes sense, or ""."""
        return next((variable for variable in variables if variable in self.parsed), "")


def from_env(environ: Mapping[str, str], argv: Sequence[str] = ()) -> Config:
    """The configuration that the variables ask for; never raises, complaints are in ``Config.warnings``.

    ``argv`` is the whole command line, interpreter included (``sys.orig_argv``): the default of the service's name.
    """
    try:
        return _read(environ, argv)
    except Exception as error:  # noqa: BLE001 - the program that is traced must start, whatever is wrong with us
        return Config(warnings=[f"configuration cannot be read ({type(error).__name__}); using the defaults"])


def _read(environ: Mapping[str, str], argv: Sequence[str]) -> Config:
    draft = _Draft(environ)
    if draft.given:
        for variable in draft.given:
            _parse_variable(draft, variable)
        for variable, field, _, _ in ROWS:
            if variable in draft.parsed and field not in _DERIVED and field not in draft.sources:
                draft.put(field, draft.parsed[variable], variable)
        for derive in (
            _derive_resource,
            _derive_sampler,
            _derive_exporters,
            _derive_otlp_endpoint,
            _derive_excluded_urls,
        ):
            derive(draft)
        _settle_batch_size(draft)
        _settle_credentials(draft)
    if "service_name" not in draft.sources:
        draft.values["service_name"] = program_name(argv, environ)
    return Config(sources=draft.sources, warnings=_warnings(draft), **draft.values)


def _parse_variable(draft: _Draft, variable: str) -> None:
    form = FORMS.get(variable) or (FORMS[PER_INSTRUMENT] if _instrument_of(variable) else None)
    if form is None:
        if variable.startswith("AUTOINSTR_"):
            _object_to_unknown(draft, variable)
        return
    raw = draft.given[variable]
    text = raw if form.verbatim else _clean(raw)
    if not text:
        return
    try:
        value = form.parse(text)
    except Instead as wrong:
        draft.object_to(variable, form.allowed)
        value = wrong.value
    except (ValueError, OverflowError):
        draft.object_to(variable, form.allowed)
        return
    if value is not None:
        draft.parsed[variable] = value


def _clean(raw: str) -> str:
    """Trimmed, and without the lone surrogates of an environment that is not UTF-8, which no encoder could write."""
    if not raw.isascii():
        raw = raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return raw.strip()


def _instrument_of(variable: str) -> str:
    """ "flask" for OTEL_PYTHON_FLASK_EXCLUDED_URLS, "" for other variables."""
    prefix, suffix = PER_INSTRUMENT.split("<INSTRUMENT>")
    if variable.startswith(prefix) and variable.endswith(suffix):
        return variable[len(prefix) : -len(suffix)].lower()
    return ""


def _object_to_unknown(draft: _Draft, variable: str) -> None:
    if variable.startswith(("AUTOINSTR_SERVICE_", "AUTOINSTR_PORT")):
        return  # Kubernetes makes these for a service that is called autoinstr.
    import difflib

    ours = [name for name in FORMS if name.startswith("AUTOINSTR_")]
    near = difflib.get_close_matches(variable, ours, 1, 0.6)
    hint = f" (did you mean {near[0]}?)" if near else ""
    draft.object_to(variable, f"read, the variable is not known{hint}", "nothing of it")


def _warnings(draft: _Draft) -> list[str]:
    return [_warning(draft, variable, *problem) for variable, problem in draft.problems.items()]


def _warning(draft: _Draft, variable: str, allowed: str, used: str) -> str:
    form = FORMS.get(variable)
    field = FIELDS.get(variable) or ("excluded_urls_by_instrument" if _instrument_of(variable) else "")
    if not used:
        value = draft.values[field] if field else "the other variables"
        used = show(field, form.shown(value) if form and form.shown else value)
    if form is UNSUPPORTED:
        allowed += f" ({next(text for name, _, _, text in ROWS if name == variable)})"
    raw = _masked(variable, draft.given[variable])
    return f"{variable}: {_clipped(repr(raw))} is not {allowed}; using {_clipped(used)}"


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "\u2026"


# ---- What follows from several variables ---------------------------------------------------------


def _derive_resource(draft: _Draft) -> None:
    tags = _read_tags(draft)
    attributes = dict(draft.parsed.get("OTEL_RESOURCE_ATTRIBUTES", {}))
    names = {
        "OTEL_SERVICE_NAME": draft.parsed.get("OTEL_SERVICE_NAME"),
        "OTEL_RESOURCE_ATTRIBUTES": attributes.pop("service.name", ""),
        "JAEGER_SERVICE_NAME": draft.parsed.get("JAEGER_SERVICE_NAME"),
        "JAEGER_TAGS": tags.pop("service.name", ""),
    }
    for variable, name in names.items():
        if name:
            draft.put("service_name", name, variable)
            break
    if tags or attributes:
        variable = "OTEL_RESOURCE_ATTRIBUTES" if attributes else "JAEGER_TAGS"
        draft.put("resource_attributes", tags | attributes, variable)


def _read_tags(draft: _Draft) -> dict[str, str]:
    """``name=value,...`` as Jaeger's clients read it; ``${VAR:default}`` is looked up. Bad parts are left out."""
    tags: dict[str, str] = {}
    for item in _items(draft.parsed.get("JAEGER_TAGS", "")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if equals and name:
            tags[name] = _expanded(value, draft.environ)
        else:
            draft.object_to("JAEGER_TAGS")
    return tags


def _expanded(value: str, environ: Mapping[str, str]) -> str:
    if not (value.startswith("${") and value.endswith("}")):
        return value
    variable, _, default = value[2:-1].partition(":")
    return _clean(environ.get(variable) or "") or default


def _derive_sampler(draft: _Draft) -> None:
    _derive_sampler_endpoint(draft)
    if "OTEL_TRACES_SAMPLER" in draft.parsed:
        _use_otel_sampler(draft)
    elif not any(name.startswith(("JAEGER_SAMPLER_", "JAEGER_SAMPLING_")) for name in draft.given):
        # An OpenTelemetry user who says nothing expects OpenTelemetry's default, and so does one who wants to see spans on
        # the console or in a file: only Jaeger has strategies to ask for.
        chosen = draft.first(
            "AUTOINSTR_EXPORTER",
            "OTEL_TRACES_EXPORTER",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        )
        asks_jaeger = chosen == "AUTOINSTR_EXPORTER" and any("jaeger" in name for name in draft.parsed[chosen])
        if chosen and not asks_jaeger:
            _use_sampler(draft, ("const", 1.0, True), chosen)
    else:
        _use_jaeger_sampler(draft)


def _use_sampler(draft: _Draft, sampler: tuple[str, float, bool], variable: str) -> None:
    kind, param, parent_based = sampler
    draft.put("sampler_type", kind, variable)
    draft.put("sampler_param", param, variable)
    draft.put("sampler_parent_based", parent_based, variable)


def _use_otel_sampler(draft: _Draft) -> None:
    sampler = draft.parsed["OTEL_TRACES_SAMPLER"]
    _use_sampler(draft, sampler, "OTEL_TRACES_SAMPLER")
    argument = draft.parsed.get("OTEL_TRACES_SAMPLER_ARG", "")
    if not argument or sampler[0] == "const":
        return
    if sampler[0] == "remote":
        for item in _items(argument):
            _use_remote_argument(draft, item)
    else:
        _use_rate(draft, "OTEL_TRACES_SAMPLER_ARG", argument, "sampler_param")


def _use_remote_argument(draft: _Draft, item: str) -> None:
    """One part of jaeger_remote's argument, as OpenTelemetry's SDK specification defines it."""
    variable = "OTEL_TRACES_SAMPLER_ARG"
    name, _, value = (part.strip() for part in item.partition("="))
    try:
        if name == "endpoint":
            draft.put("sampler_endpoint", _over_http(draft, variable, _parse_sampling_url(value)), variable)
        elif name == "pollingIntervalMs":
            draft.put("sampler_refresh_s", _parse_milliseconds(value), variable)
        elif name == "initialSamplingRate":
            _use_rate(draft, variable, value, "sampler_param", "sampler_initial_rate")
        else:
            raise ValueError
    except Instead as wrong:
        draft.put("sampler_refresh_s", wrong.value, variable)
        draft.object_to(variable, DELAY.allowed + " (pollingIntervalMs)", show("sampler_refresh_s", wrong.value))
    except ValueError:
        draft.object_to(variable, SAMPLER_ARG.allowed, "the other parts and defaults")


def _use_rate(draft: _Draft, variable: str, text: str, *fields: str) -> None:
    """A probability, clamped to what one can be."""
    try:
        rate = _parse_number(text)
    except ValueError:
        draft.object_to(variable, "a rate (0 to 1)", show("", draft.values[fields[0]]))
        return
    clamped = min(max(rate, 0.0), 1.0)
    if clamped != rate:
        draft.object_to(variable, "a rate (0 to 1)", show("", clamped))
    for field in fields:
        draft.put(field, clamped, variable)


def _use_jaeger_sampler(draft: _Draft) -> None:
    kind = draft.parsed.get("JAEGER_SAMPLER_TYPE", "remote")
    if "JAEGER_SAMPLER_TYPE" in draft.parsed:
        draft.put("sampler_type", kind, "JAEGER_SAMPLER_TYPE")
    param = draft.parsed.get("JAEGER_SAMPLER_PARAM")
    if param is None:
        _use_missing_param(draft, kind)
    elif kind == "probabilistic":
        _use_rate(draft, "JAEGER_SAMPLER_PARAM", str(param), "sampler_param")
    elif kind == "remote":
        _use_rate(draft, "JAEGER_SAMPLER_PARAM", str(param), "sampler_param", "sampler_initial_rate")
    else:
        _use_param(draft, kind, param)


def _use_missing_param(draft: _Draft, kind: str) -> None:
    """Without a parameter all of Jaeger's clients sample nothing with const; Java's takes 0.001 with the others."""
    if kind == "const":
        draft.put("sampler_param", 0.0, "JAEGER_SAMPLER_TYPE")
    if kind != "remote" and "JAEGER_SAMPLER_PARAM" not in draft.problems:
        used = f"{kind} {show('', draft.values['sampler_param'])}"
        draft.object_to("JAEGER_SAMPLER_TYPE", "complete without JAEGER_SAMPLER_PARAM", used)


def _use_param(draft: _Draft, kind: str, param: float) -> None:
    """const: as in Go's client, anything but 0 is 1; ratelimiting: traces per second."""
    valid = float(param != 0) if kind == "const" else max(param, 0.0)
    if valid != param:
        allowed = "1 or 0 (const)" if kind == "const" else "0 or more traces per second"
        draft.object_to("JAEGER_SAMPLER_PARAM", allowed, show("", valid))
    draft.put("sampler_param", valid, "JAEGER_SAMPLER_PARAM")


def _derive_sampler_endpoint(draft: _Draft) -> None:
    variable = draft.first("JAEGER_SAMPLING_ENDPOINT", "JAEGER_SAMPLER_MANAGER_HOST_PORT")
    if variable:
        draft.put("sampler_endpoint", _over_http(draft, variable, draft.parsed[variable]), variable)
    elif "agent_host" in draft.sources:
        host = draft.values["agent_host"]
        host = f"[{host}]" if ":" in host else host
        draft.put("sampler_endpoint", f"http://{host}:5778/sampling", draft.sources["agent_host"][0])


def _over_http(draft: _Draft, variable: str, url: str) -> str:
    """The specification's example is the collector's gRPC port; what we can ask is 5778 of the same host, over HTTP."""
    scheme, authority, path = _split_url(url)
    host, port = _split_port(authority)
    if port not in SAMPLING_GRPC_PORTS:
        return url
    url = f"{scheme}://{host}:5778{path}"
    draft.object_to(variable, f"an HTTP endpoint ({port} is a port for gRPC, which is not available)", show("", url))
    return url


def _derive_exporters(draft: _Draft) -> None:
    variable = draft.first(
        "AUTOINSTR_EXPORTER",
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_JAEGER_ENDPOINT",
        "JAEGER_ENDPOINT",
    )
    if not variable:
        return
    if variable.endswith("_EXPORTER"):
        names = [_jaeger_exporter(draft) if name == "jaeger" else name for name in draft.parsed[variable]]
        exporters = tuple(dict.fromkeys(names)) or ("none",)
    else:
        exporters = ("otlp",) if "OTLP" in variable else ("jaeger-http",)
    draft.put("exporters", exporters, variable)


def _jaeger_exporter(draft: _Draft) -> str:
    default = "jaeger-http" if "jaeger_endpoint" in draft.sources else "jaeger-udp"
    return str(draft.parsed.get("OTEL_EXPORTER_JAEGER_PROTOCOL", default))


def _derive_otlp_endpoint(draft: _Draft) -> None:
    """As the specification of the OTLP exporter: the base gets ``v1/traces``, the one for traces is used as it is."""
    variable = draft.first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not variable:
        return
    scheme, authority, path = _split_url(draft.parsed[variable])
    host, port = _split_port(authority)
    # Nothing but gRPC listens there, and OpenTelemetry's Python distribution made it the default for years.
    is_grpc = port == OTLP_GRPC_PORT and "otlp_protocol" not in draft.sources
    if is_grpc:
        authority = f"{host}:4318"
    if "TRACES" not in variable:
        path = path.rstrip("/") + "/v1/traces"
    elif not path.strip("/"):
        path = "/v1/traces" if is_grpc else "/"
    url = f"{scheme}://{authority}{path}"
    draft.put("otlp_endpoint", url, variable)
    if is_grpc:
        draft.object_to(
            variable, f"an HTTP endpoint ({port} is a port for gRPC, which is not available)", show("", url)
        )


def _derive_excluded_urls(draft: _Draft) -> None:
    patterns = {
        _instrument_of(variable): (variable, value)
        for variable, value in draft.parsed.items()
        if _instrument_of(variable)
    }
    for variable, _ in patterns.values():
        by_instrument = {name: value for name, (_, value) in sorted(patterns.items())}
        draft.put("excluded_urls_by_instrument", by_instrument, variable)


def _settle_batch_size(draft: _Draft) -> None:
    size, queue = draft.values["max_batch_size"], draft.values["max_queue_size"]
    if size <= queue:
        return
    draft.values["max_batch_size"] = queue
    if "max_batch_size" in draft.sources:
        draft.object_to(draft.sources["max_batch_size"][0], f"an integer from 1 to {queue}, the size of the queue")


def _settle_credentials(draft: _Draft) -> None:
    """As Go's client: a user without a password, or the reverse, is a mistake; neither is sent."""
    for field, other in (("jaeger_user", "jaeger_password"), ("jaeger_password", "jaeger_user")):
        if draft.values[field] and not draft.values[other]:
            variable = draft.sources[field][0]
            partner = variable.replace(field[7:].upper(), other[7:].upper())
            draft.forget(field)
            draft.object_to(variable, f"usable without {partner}")


# ---- The name of the program ---------------------------------------------------------------------

_SERVERS = frozenset(("gunicorn", "uvicorn", "hypercorn", "daphne", "granian", "waitress-serve"))
#: Options of these servers whose values look like an application.
_MISLEADING_OPTIONS = frozenset(
    ("-b", "--bind", "-c", "--config", "-u", "--uds", "-k", "--worker-class", "--log-config")
)
_GENERIC_MODULES = frozenset(("main", "app", "wsgi", "asgi", "__init__", "__main__"))


def program_name(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """A name for the service from the command line of its process (``sys.orig_argv``); never empty.

    A server or task runner is named after the application it is given: ``python -m uvicorn shop.main:app`` is "shop".
    """
    environ = environ or {}
    program, rest = _split_command(list(argv))
    if program.startswith("-c"):
        inherited = environ.get(PROGRAM_VARIABLE, "") if "from multiprocessing" in program else ""
        return inherited or "python"
    if not program:
        return str(DEFAULTS["service_name"])
    folder, _, file = _clean(program).replace("\\", "/").rstrip("/").rpartition("/")
    name = _stem(file)
    if name == "autoinstr" and rest:
        return program_name(["python", *rest], environ)
    if name == "manage" and file.endswith(".py"):
        name = folder.rpartition("/")[2].strip(".") or "django"
    elif name == "__main__":
        name = folder.rpartition("/")[2]
    else:
        name = _application_name(_application(name, rest, environ)) or name
    return name.strip(". ") or str(DEFAULTS["service_name"])


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    """(script, first part of the module, or "-c" and the code; what follows), as CPython reads its command line."""
    position = 1
    while position < len(argv):
        word = argv[position]
        position += 1
        if word == "-":
            return "-c", argv[position:]
        if not word.startswith("-"):
            return word, argv[position:]
        if word == "--check-hash-based-pycs":
            position += 1
        if word.startswith("--"):
            continue
        letter, value = _option_with_value(word)
        if letter and not value:
            value = argv[position] if position < len(argv) else ""
            position += 1
        if letter == "c":
            return "-c" + value, argv[position:]
        if letter == "m":
            return value.partition(".")[0], argv[position:]
    return ("-c", []) if argv else ("", [])


def _option_with_value(word: str) -> tuple[str, str]:
    """The option that takes a value in a cluster of short options, and what follows it there: "-um" is ("m", "")."""
    for index, letter in enumerate(word):
        if letter in "cmWX":
            return letter, word[index + 1 :]
    return "", ""


def _stem(file: str) -> str:
    for suffix in (".py", ".pyc", ".pyw", ".pyz", ".zip", ".exe"):
        if file.lower().endswith(suffix):
            return file[: -len(suffix)]
    return file


def _application(program: str, arguments: list[str], environ: Mapping[str, str]) -> str:
    """The application that a server or task runner is told to load, or ""."""
    if program in _SERVERS:
        return _server_application(arguments)
    if program in ("celery", "flask"):
        return _option_value(arguments, "-A", "--app") or (environ.get("FLASK_APP", "") if program == "flask" else "")
    if program == "fastapi":
        return next((word for word in arguments if word.endswith(".py")), "")
    return ""


def _server_application(arguments: list[str]) -> str:
    words = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not word.startswith("-") and before not in _MISLEADING_OPTIONS
    ]
    # Values of options stand between them, so "module:attribute" is the surest sign, then the place.
    for word in words:
        module, colon, attribute = word.partition(":")
        if colon and _is_module(module) and attribute[:1].isidentifier():
            return word
    places = [*arguments[:1], *words[-1:]]
    return next((word for word in places if _is_module(word)), "")


def _is_module(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _option_value(arguments: list[str], short: str, long: str) -> str:
    for position, word in enumerate(arguments):
        if word in (short, long):
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if word.startswith(long + "="):
            return word[len(long) + 1 :]
        if word.startswith(short) and not word.startswith("--"):
            return word[len(short) :]
    return ""


def _application_name(application: str) -> str:
    """The package of "shop.main:app", the most telling part of "src/shop/main.py"."""
    text = _clean(application).replace("\\", "/")
    if "/" in text or text.partition(":")[0].endswith(".py"):
        parts = [_stem(part) for part in text.partition(":")[0].split("/") if part not in ("", ".", "..")]
        while len(parts) > 1 and parts[-1] in _GENERIC_MODULES:
            parts.pop()
        return parts[-1] if parts else ""
    parts = text.partition(":")[0].split(".")
    return parts[1] if parts[0] == "src" and len(parts) > 1 else parts[0]


# ---- The documentation ---------------------------------------------------------------------------

_INTRODUCTION = """\
# Configuration

<!-- Written by docs/generate.py from autoinstr/config.py; do not edit. -->

Everything is optional, and everything is an environment variable. Without any, autoinstr behaves as Jaeger's clients
do: the service is called after the program, spans go by UDP to an agent at localhost:6831, and the remote sampler asks
http://localhost:5778/sampling.

For one setting AUTOINSTR_* wins over OTEL_* (a variable for traces over the general one), that over JAEGER_*, that over
the default; in the tables, of the variables with the same setting the upper one wins. An empty variable is an unset
one. A wrong value never stops the program: a line says which variable is wrong, what is allowed and what is used, as in
`JAEGER_AGENT_PORT: '68x31' is not a port (0 to 65535); using 6831`.
"""

_DOCUMENTED_DEFAULTS = {"service_name": "the program's name (app.py: `app`, uvicorn shop.main:app: `shop`)"}


def to_markdown() -> str:
    """The reference page of all variables."""
    return _INTRODUCTION + "".join(_section(topic, rows) for topic, rows in TABLE.items())


def _section(topic: str, rows: Sequence[Row]) -> str:
    if not any(field for _, field, _, _ in rows):
        lines = ["| Variable | Why |", "|---|---|"]
        lines += [
            f"| `{variable}` | {text}{'. A warning says so' * (form is UNSUPPORTED)} |"
            for variable, _, form, text in rows
        ]
    else:
        lines = ["| Variable | Setting | Meaning | Allowed | Default |", "|---|---|---|---|---|"]
        lines += [_documented(*row) for row in rows]
    return "\n".join(("", f"## {topic}", "", *lines, ""))


def _documented(variable: str, field: str, form: Form, text: str) -> str:
    value = form.shown(DEFAULTS[field]) if form.shown else DEFAULTS[field]
    default = _DOCUMENTED_DEFAULTS.get(field) or show(field, value)
    return f"| `{variable}` | {field} | {text} | {form.allowed} | {default} |"
