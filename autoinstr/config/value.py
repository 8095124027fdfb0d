"""The frozen result of reading the environment, its defaults, and how its values look to people.

Owns: ``Config``, ``DEFAULTS``, the fields that are secret, text fit to be shown and encoded.
Must not know: variables, how they are read, and where their texts came from.
Invariants: a ``Config`` cannot be changed; secrets, and passwords in URLs, are masked wherever a value is shown;
durations are seconds (``*_s``).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
    "log_level": "info",
    "log_correlation": False,
    "log_events": "",
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
    log_level: str
    log_correlation: bool
    log_events: str
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
        return f"{variable}={show_raw(field, raw)}"


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
    return show_raw(field, str(value))


def show_raw(field: str, raw: str) -> str:
    """The text of a variable that leads to a field: printable in UTF-8, secrets and passwords in URLs masked."""
    if field in SECRET_FIELDS:
        return MASK
    text = clean(raw)
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or "@" not in authority:
        return text
    return f"{scheme}://{MASK}@{authority.rpartition('@')[2]}{slash}{path}"


def clean(raw: str) -> str:
    """Trimmed, and without the lone surrogates of an environment that is not UTF-8, which no encoder could write."""
    if not raw.isascii():
        raw = raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return raw.strip()
