"""The table of all variables: parsing, documentation and the self-check are derived from it.

Owns: ``TABLE``, what can be looked up in it, and the names of variables that have no row. Data only.
Must not know: how a text is read, which is its form's affair.
Invariant: of the rows of one field, the upper one wins, whence their order: AUTOINSTR_*, the OTEL_* for traces, the
general OTEL_*, JAEGER_*.
"""

from __future__ import annotations

from autoinstr.config.forms import (
    COMPRESSION,
    DELAY,
    EXPORTERS,
    GO_BOOLEAN,
    HEADER_NAMES,
    HEADERS,
    HOST,
    HOST_GLOBS,
    IGNORED,
    INSTRUMENTS,
    INTERVAL,
    JAEGER_PROPAGATORS,
    JAEGER_PROTOCOL,
    JAEGER_SAMPLER,
    LIMIT,
    LOG_EVENTS,
    LOG_LEVEL,
    METHODS,
    NAMES,
    NOT_GO_BOOLEAN,
    NOT_OTEL_BOOLEAN,
    NUMBER,
    OTEL_SAMPLER,
    PACKET_SIZE,
    PAIRS,
    PATH,
    PATTERNS,
    PORT,
    PROPAGATORS,
    PROTOCOL,
    SAMPLER_ARG,
    SAMPLING_URL,
    SECONDS,
    SECRET,
    SEMCONV,
    SIZE,
    STABILITY,
    TAGS,
    TEXT,
    TIMEOUT,
    TOKEN,
    UNSUPPORTED,
    URL,
    WEBSOCKET_SPAN,
    WIDE_IDS,
    Form,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Row: TypeAlias = tuple[str, str, Form, str]

#: Stands for one variable per instrument: OTEL_PYTHON_FLASK_EXCLUDED_URLS, OTEL_PYTHON_REQUESTS_EXCLUDED_URLS, ...
PER_INSTRUMENT = "OTEL_PYTHON_<INSTRUMENT>_EXCLUDED_URLS"

#: Set by nobody but ourselves: lets children of ``multiprocessing`` (reloaders, uvicorn's workers), whose command line
#: names no program, keep the name of the program that started them.
PROGRAM_VARIABLE = "_AUTOINSTR_PROGRAM"

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
            ("const: 1 or 0; probabilistic: rate; ratelimiting: traces/second; remote: rate until the first strategy;"
            " budget: the largest share of the program's CPU time that tracing may take"),
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
        (
            "AUTOINSTR_DISABLED_INSTRUMENTS",
            "disabled_instruments",
            INSTRUMENTS,
            "Libraries that are left alone; of a framework also its applications, whatever serves them",
        ),
        (
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
            "disabled_instruments",
            INSTRUMENTS,
            "Libraries that are left alone; of a framework also its applications, whatever serves them",
        ),
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
    "Logs": (
        (
            "AUTOINSTR_LOG_CORRELATION",
            "log_correlation",
            GO_BOOLEAN,
            "Put otelTraceID, otelSpanID, otelTraceSampled and otelServiceName into every record of logging",
        ),
        ("OTEL_PYTHON_LOG_CORRELATION", "log_correlation", GO_BOOLEAN, "The same; formats and handlers are left alone"),
        (
            "AUTOINSTR_LOG_EVENTS",
            "log_events",
            LOG_EVENTS,
            "Records of logging from this level on become events of the current span",
        ),
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
        ("AUTOINSTR_METRICS_PORT", "metrics_port", PORT, "Port for the agent's own counters; further processes of a program take the next ones, up to 32"),
        (
            "OTEL_LOG_LEVEL",
            "log_level",
            LOG_LEVEL,
            "What is said on stderr. error: what is not traced; warn, info: and what is lost; debug: and tracebacks",
        ),
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
        ("OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED", "", IGNORED, "Logs are left alone"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "", IGNORED, "Name attributes in OTEL_RESOURCE_ATTRIBUTES"),
    ),
}

ROWS: tuple[Row, ...] = tuple(row for rows in TABLE.values() for row in rows)
FORMS: dict[str, Form] = {variable: form for variable, _, form, _ in ROWS}
#: The field of a variable; the first one, where a general variable has several.
FIELDS: dict[str, str] = {variable: field for variable, field, _, _ in reversed(ROWS)}
