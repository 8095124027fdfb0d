"""What users write into the environment, and what the agent makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr import config
from autoinstr.config import Config, forms, from_env
from autoinstr.config.program import program_name
from autoinstr.config.reference import to_markdown

DOCS = Path(__file__).parents[1] / "docs"


def fields_of(made: Config) -> dict[str, object]:
    return {field: getattr(made, field) for field in config.DEFAULTS}


def changed(**environ: str) -> dict[str, object]:
    """The fields that these variables change, after checking that nobody complains."""
    made = from_env(environ)
    assert made.warnings == []
    return {field: value for field, value in fields_of(made).items() if value != config.DEFAULTS[field]}


# ---- Without variables, and the value itself -----------------------------------------------------


def test_behaves_as_jaegers_client_when_nothing_is_said() -> None:
    """A user of Jaeger who sets nothing would find no spans if we did not do what Jaeger's clients do."""
    made = from_env({"PATH": "/bin", "HOME": "/home/bob"}, ["python", "shop.py"])
    assert ("shop", "remote", 0.001, True) == (
        made.service_name,
        made.sampler_type,
        made.sampler_initial_rate,
        made.sampler_parent_based,
    )
    assert ("http://localhost:5778/sampling", ("jaeger-udp",)) == (made.sampler_endpoint, made.exporters)
    assert ("localhost", 6831) == (made.agent_host, made.agent_port)
    assert ([], {}) == (made.warnings, made.sources)


def test_empty_variables_are_unset() -> None:
    """Compose files and Helm charts set variables to nothing; that must not look like a wrong value."""
    environ = {variable: blank for variable, *_ in config.ROWS for blank in ("", "  ")}
    made = from_env(environ)
    verbatim = {"jaeger_password", "file_path", "jaeger_certificate"} | {
        field for field in config.DEFAULTS if field.startswith("otlp_c")
    }
    assert {} == {
        field: value
        for field, value in fields_of(made).items()
        if field not in verbatim and value != config.DEFAULTS[field]
    }


def test_config_is_frozen_and_does_not_share_dictionaries() -> None:
    """A hook that changed the configuration would change it for all other hooks."""
    made = Config(agent_port=1)
    with pytest.raises(AttributeError):
        made.agent_port = 2  # type: ignore[misc, unused-ignore]
    made.otlp_headers["a"] = "b"
    assert ({}, 1) == (Config().otlp_headers, made.agent_port)
    with pytest.raises(TypeError, match="agent_prot"):
        Config(agent_prot=1)


def test_a_broken_mapping_gives_defaults_and_a_warning() -> None:
    """An error of ours would otherwise stop the program that is traced."""

    class Broken(dict[str, str]):
        def items(self):  # type: ignore[no-untyped-def]
            raise OSError("broken")

    made = from_env(Broken())
    assert (("jaeger-udp",), 1) == (made.exporters, len(made.warnings))


# ---- The table -----------------------------------------------------------------------------------


def test_table_fields_and_annotations_agree() -> None:
    """A variable that leads to no field, or a field without a default, would be silently without effect."""
    fields = {field for _, field, _, _ in config.ROWS} - {""}
    assert fields <= set(config.DEFAULTS)
    assert set(config.DEFAULTS) == set(Config.__annotations__) - {"sources", "warnings"}
    assert {"sampler_parent_based", "sampler_initial_rate"} == set(config.DEFAULTS) - fields
    assert set(config._DERIVED) - {""} <= fields


def test_rows_of_a_field_stand_in_order_of_precedence() -> None:
    """Parsing and documentation take the order of the table for the precedence."""

    def rank(variable: str) -> tuple[int, bool]:
        prefixes = ("AUTOINSTR_", "OTEL_", "JAEGER_")
        return next(i for i, prefix in enumerate(prefixes) if variable.startswith(prefix)), "_TRACES_" not in variable

    for field in config.DEFAULTS:
        ranks = [rank(variable) for variable, other, _, _ in config.ROWS if other == field]
        if field not in ("sampler_type", "sampler_param", "exporters"):
            assert sorted(ranks) == ranks, field
        assert sorted(major for major, _ in ranks) == [major for major, _ in ranks], field


@pytest.mark.parametrize("variable", [v for v, field, *_ in config.ROWS if field])
def test_every_variable_refuses_or_uses_what_it_gets(variable: str) -> None:
    """A variable that neither changes anything nor complains misleads whoever set it."""
    made = from_env({variable: "\x01%zz("})
    used = any(name == variable for name, _ in made.sources.values())
    if not used and variable not in ("OTEL_TRACES_SAMPLER_ARG", "OTEL_SEMCONV_STABILITY_OPT_IN"):
        assert [True] == [warning.startswith(variable + ": ") for warning in made.warnings]


def test_the_reference_page_is_up_to_date() -> None:
    """Users would read about variables that do not exist any more."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert to_markdown() == page, "run: python docs/generate.py"
    assert all(f"`{variable}`" in page for variable, *_ in config.ROWS)


def test_importing_loads_nothing_heavy() -> None:
    """Every traced process pays for it, and gevent must patch before anybody imports sockets and threads."""
    code = (
        "import sys; before = set(sys.modules); from autoinstr import config;"
        "config.from_env({'JAEGER_TAGS': 'a=${B:c}', 'OTEL_RESOURCE_ATTRIBUTES': 'a=%20'}, ['python', 'app.py']);"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=DOCS.parent, check=True
    )
    rooms = ["autoinstr.config.forms", "autoinstr.config.program", "autoinstr.config.table", "autoinstr.config.value"]
    assert ["__future__", "autoinstr", "autoinstr.config", *rooms] == loaded.stdout.split()


# ---- Single variables ----------------------------------------------------------------------------

SIMPLE_CASES: list[tuple[str, str, str, object]] = [
    ("JAEGER_DISABLED", "1", "enabled", False),
    ("JAEGER_DISABLED", "T", "enabled", False),
    ("OTEL_SDK_DISABLED", "TRUE", "enabled", False),
    ("JAEGER_SERVICE_NAME", " shop ", "service_name", "shop"),
    ("OTEL_SERVICE_NAME", "shop", "service_name", "shop"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b=x%2Cy%3Dz,", "resource_attributes", {"a": "1", "b": "x,y=z"}),
    ("OTEL_RESOURCE_ATTRIBUTES", "n%C3%A4me=%E2%82%AC", "resource_attributes", {"n\u00e4me": "\u20ac"}),
    ("JAEGER_TAGS", " a = b , c=d=e,f=", "resource_attributes", {"a": "b", "c": "d=e", "f": ""}),
    ("JAEGER_TAGS", "a=%20", "resource_attributes", {"a": "%20"}),
    ("JAEGER_SAMPLER_REFRESH_INTERVAL", "1m30s", "sampler_refresh_s", 90.0),
    ("JAEGER_SAMPLER_REFRESH_INTERVAL", "250", "sampler_refresh_s", 0.25),
    ("JAEGER_SAMPLER_MAX_OPERATIONS", "10", "sampler_max_operations", 10),
    ("AUTOINSTR_SAMPLER_WAIT", "0.5", "sampler_wait_s", 0.5),
    ("AUTOINSTR_SAMPLER_WAIT", "0", "sampler_wait_s", 0.0),
    ("AUTOINSTR_FILE", "/tmp/a b", "file_path", "/tmp/a b"),
    ("AUTOINSTR_MAX_PACKET_SIZE", "1400", "max_packet_size", 1400),
    ("JAEGER_AGENT_PORT", "0", "agent_port", 0),
    ("OTEL_EXPORTER_JAEGER_AGENT_PORT", "65535", "agent_port", 65535),
    ("JAEGER_REPORTER_ATTEMPT_RECONNECTING_DISABLED", "true", "agent_reconnect", False),
    ("JAEGER_REPORTER_ATTEMPT_RECONNECT_INTERVAL", "1h", "agent_reconnect_interval_s", 3600.0),
    ("JAEGER_AUTH_TOKEN", "abc\n", "jaeger_token", "abc"),
    ("JAEGER_REPORTER_TIMEOUT", "100", "jaeger_timeout_s", 0.1),
    ("AUTOINSTR_CERTIFICATE", "/ca.pem", "jaeger_certificate", "/ca.pem"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "otlp_protocol", "http/json"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%3Db,x=y=z", "otlp_headers", {"api-key": "a=b", "x": "y=z"}),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500", "otlp_timeout_s", 2.5),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "otlp_timeout_s", forms.LONGEST_S),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "otlp_compression", "gzip"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem", "otlp_certificate", "/ca.pem"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem", "otlp_client_key", "/k.pem"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem", "otlp_client_certificate", "/c.pem"),
    ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://z:1/p", "zipkin_endpoint", "http://z:1/p"),
    ("OTEL_EXPORTER_ZIPKIN_TIMEOUT", "1000", "zipkin_timeout_s", 1.0),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "1000", "max_queue_size", 1000),
    ("JAEGER_REPORTER_MAX_QUEUE_SIZE", "600", "max_queue_size", 600),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10", "max_batch_size", 10),
    ("OTEL_BSP_SCHEDULE_DELAY", "5000", "flush_interval_s", 5.0),
    ("JAEGER_REPORTER_FLUSH_INTERVAL", "500ms", "flush_interval_s", 0.5),
    ("JAEGER_REPORTER_FLUSH_INTERVAL", "500", "flush_interval_s", 0.5),
    ("OTEL_BSP_EXPORT_TIMEOUT", "1000", "export_timeout_s", 1.0),
    ("JAEGER_REPORTER_LOG_SPANS", "true", "log_spans", True),
    ("OTEL_PROPAGATORS", "b3, tracecontext,b3", "propagators", ("b3", "tracecontext")),
    ("OTEL_PROPAGATORS", "none", "propagators", ()),
    ("JAEGER_PROPAGATION", "W3C b3", "propagators", ("tracecontext", "baggage", "b3multi")),
    ("AUTOINSTR_PROPAGATE_TO", "*.internal, api.example.com", "propagate_to", ("*.internal", "api.example.com")),
    ("AUTOINSTR_PROPAGATE_TO", "none", "propagate_to", ()),
    ("AUTOINSTR_NO_PROPAGATE_TO", "*.amazonaws.com", "no_propagate_to", ("*.amazonaws.com",)),
    ("JAEGER_TRACEID_128BIT", "false", "trace_id_bits", 64),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0", "attribute_count", 0),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100", "attribute_length", 100),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1", "event_count", 1),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", "1", "link_count", 1),
    ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1", "event_attribute_count", 1),
    ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1", "link_attribute_count", 1),
    ("AUTOINSTR_DISABLED_INSTRUMENTS", "Flask,urllib", "disabled_instruments", frozenset(("flask", "urllib"))),
    ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*", "disabled_instruments", frozenset("*")),
    ("OTEL_PYTHON_EXCLUDED_URLS", "health, ^/x$", "excluded_urls", ("health", "^/x$")),
    ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "ping", "excluded_urls_by_instrument", {"flask": ("ping",)}),
    (
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
        "X-Id,Accept",
        "server_request_headers",
        ("x-id", "accept"),
    ),
    ("AUTOINSTR_REDACT_QUERY", "pin", "redact_query", ("pin",)),
    ("AUTOINSTR_REDACT_QUERY", "none", "redact_query", ()),
    ("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "GET,PURGE", "known_methods", frozenset(("GET", "PURGE"))),
    ("OTEL_SEMCONV_STABILITY_OPT_IN", "database,http/dup", "semconv", "dup"),
    ("AUTOINSTR_SEMCONV", "old", "semconv", "old"),
    ("AUTOINSTR_REQUIRE_PARENT", "true", "require_parent", True),
    ("AUTOINSTR_WEBSOCKET_SPAN", "connection", "websocket_span", "connection"),
    ("AUTOINSTR_SIGTERM", "false", "sigterm", False),
    ("AUTOINSTR_METRICS_PORT", "9000", "metrics_port", 9000),
    ("AUTOINSTR_EXIT_TIMEOUT", "500ms", "exit_timeout_s", 0.5),
    ("OTEL_LOG_LEVEL", "debug", "log_level", "debug"),
    ("OTEL_LOG_LEVEL", "WARNING", "log_level", "warn"),
    ("OTEL_LOG_LEVEL", "critical", "log_level", "none"),
]


@pytest.mark.parametrize(("variable", "text", "field", "value"), SIMPLE_CASES)
def test_a_variable_sets_its_field_and_no_other(variable: str, text: str, field: str, value: object) -> None:
    """The documented effect of the variable would be missing, or it would have another one too."""
    unnamed = changed(**{variable: text})
    assert {field: value} == unnamed
    assert (variable, text) == from_env({variable: text}).sources[field]


WRONG_CASES: list[tuple[str, str, str]] = [
    ("JAEGER_AGENT_PORT", "68x31", "'68x31' is not a port (0 to 65535); using 6831"),
    # Kubernetes makes this one for a service that is called jaeger-agent.
    ("JAEGER_AGENT_PORT", "tcp://10.0.0.1:6831", "'tcp://10.0.0.1:6831' is not a port (0 to 65535); using 6831"),
    ("JAEGER_AGENT_PORT", "65536", "'65536' is not a port (0 to 65535); using 6831"),
    ("JAEGER_AGENT_HOST", "jaeger:6831", "'jaeger:6831' is not a host name or an IP address; using localhost"),
    ("JAEGER_DISABLED", "yes", "'yes' is not a boolean (true, false, 1 or 0); using false"),
    ("JAEGER_TRACEID_128BIT", "no", "'no' is not a boolean (true, false, 1 or 0); using true"),
    ("OTEL_SDK_DISABLED", "1", "'1' is not true or false; using false"),
    ("OTEL_BSP_SCHEDULE_DELAY", "-1", "'-1' is not milliseconds (an integer from 10 to 86400000); using 1 s"),
    ("OTEL_BSP_SCHEDULE_DELAY", "0", "'0' is not milliseconds (an integer from 10 to 86400000); using 0.01 s"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "1_0", "'1_0' is not an integer from 1 to 1000000; using 4096"),
    (
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "5000",
        "'5000' is not an integer from 1 to 4096, the size of the queue; using 4096",
    ),
    ("JAEGER_SAMPLER_REFRESH_INTERVAL", "1x", "using 60 s"),
    ("JAEGER_SAMPLER_REFRESH_INTERVAL", "48h", "using 86400 s"),
    ("JAEGER_SAMPLER_PARAM", "nan", "'nan' is not a number; using 0.001"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c=%4", "is not a list of name=value, percent-encoded; using none"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c=%FF", "using none"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "using none"),
    ("JAEGER_TAGS", "a=b,c,=d", "(value may be ${VARIABLE:default}); using a=b"),
    ("OTEL_TRACES_SAMPLER", "xray", "parentbased_jaeger_remote; using remote"),
    ("OTEL_PROPAGATORS", "b3,xray", "b3, b3multi or none; using b3"),
    ("OTEL_PROPAGATORS", "xray", "using jaeger, tracecontext, baggage"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf or http/json (gRPC is not available); using http/protobuf"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "using http://collector:4318/v1/traces"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "using http://localhost:4318/v1/traces"),
    ("JAEGER_ENDPOINT", "http://h:99999/", "using http://localhost:14268/api/traces"),
    ("JAEGER_ENDPOINT", "http://h/a b", "using http://localhost:14268/api/traces"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0D%0Ab", "'***' is not a list of header=value"),
    ("JAEGER_AUTH_TOKEN", "secr\u00e9t", "'***' is not printable ASCII; using none"),
    ("JAEGER_USER", "bob", "'bob' is not usable without JAEGER_PASSWORD; using none"),
    ("JAEGER_PASSWORD", "secret", "'***' is not usable without JAEGER_USER; using none"),
    ("AUTOINSTR_EXCLUDED_URLS", "ok,(", "is not a comma list of regular expressions; using ok"),
    ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "(", "is not a comma list of regular expressions; using flask=none"),
    (
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
        "accept,Authorization,x.*",
        "is not a list of header names that carry no credentials; using accept",
    ),
    ("AUTOINSTR_SAMPLR", "1", "not read, the variable is not known (did you mean AUTOINSTR_SAMPLER_WAIT?)"),
    ("OTEL_CONFIG_FILE", "otel.yaml", "'otel.yaml' is not supported (Only variables are read)"),
    ("JAEGER_GRPC_TARGET", "c:14250", "is not supported (gRPC is not available; use JAEGER_ENDPOINT)"),
    ("JAEGER_SENDER_FACTORY", "grpc", "is not supported"),
    ("OTEL_LOG_LEVEL", "loud", "'loud' is not none, error, warn, info or debug; using info"),
]


@pytest.mark.parametrize(("variable", "text", "complaint"), WRONG_CASES)
def test_a_wrong_value_is_named_with_what_is_used(variable: str, text: str, complaint: str) -> None:
    """A user with a typing error would look for it in the dark."""
    (warning,) = from_env({variable: text}).warnings
    assert warning.startswith(f"{variable}: ")
    assert warning.endswith(complaint) if "using" in complaint else complaint in warning


@pytest.mark.parametrize(
    "variable", ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_INSECURE", "AUTOINSTR_SERVICE_HOST", "OTEL_UNHEARD_OF"]
)
def test_variables_for_others_raise_no_warning(variable: str) -> None:
    """A warning for each harmless variable would drown those that matter."""
    assert {} == changed(**{variable: "anything"})


def test_a_wrong_value_falls_through_to_the_next_variable() -> None:
    """A bad OTEL_* variable would hide a good JAEGER_* one, and the warning would name a value that is not used."""
    made = from_env({"OTEL_BSP_MAX_QUEUE_SIZE": "many", "JAEGER_REPORTER_MAX_QUEUE_SIZE": "700"})
    assert 700 == made.max_queue_size
    assert made.warnings[0].endswith("using 700")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1h1m1s", 3661),
        ("1.5s", 1.5),
        (".5m", 30),
        ("1us1\u00b5s1\u03bcs", 3e-6),
        ("+3ns", 3e-9),
        ("-2s", -2),
    ],
)
def test_go_durations_are_read_as_go_does(text: str, seconds: float) -> None:
    """The same deployment file serves services in Go and in Python."""
    assert seconds == pytest.approx(forms._parse_go_duration(text))


@pytest.mark.parametrize("text", ["", "-", "1", "s", "1.s.", "1 s", "1s2", "..s", "1d", "3sm"])
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    """A duration that Go's client refuses would work in one service and not in the next."""
    with pytest.raises(ValueError):
        forms._parse_go_duration(text)


# ---- Several variables ---------------------------------------------------------------------------


def test_service_name_and_attributes_are_joined_in_order() -> None:
    """A service would appear under another name in Jaeger than the one that its owner set."""
    environ = {
        "JAEGER_TAGS": "a=jaeger,b=${HOST:x},c=${NONE:dflt},d=${NONE},service.name=tags",
        "HOST": "h1",
        "JAEGER_SERVICE_NAME": "jaeger",
        "OTEL_RESOURCE_ATTRIBUTES": "a=otel,service.name=attributes",
        "OTEL_SERVICE_NAME": "otel",
    }
    made = from_env(environ)
    assert {"a": "otel", "b": "h1", "c": "dflt", "d": ""} == made.resource_attributes
    names = []
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "JAEGER_SERVICE_NAME", "JAEGER_TAGS"):
        names.append(from_env(environ, ["python", "app.py"]).service_name)
        del environ[variable]
    assert ["otel", "attributes", "jaeger", "tags"] == names
    assert "app" == from_env(environ, ["python", "app.py"]).service_name


Sampler = tuple[str, float, bool]
SAMPLER_CASES: list[tuple[dict[str, str], Sampler]] = [
    ({"JAEGER_SAMPLER_TYPE": "Const", "JAEGER_SAMPLER_PARAM": "1"}, ("const", 1, True)),
    ({"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "0"}, ("const", 0, True)),
    ({"JAEGER_SAMPLER_TYPE": "probabilistic", "JAEGER_SAMPLER_PARAM": "0.25"}, ("probabilistic", 0.25, True)),
    ({"JAEGER_SAMPLER_TYPE": "ratelimiting", "JAEGER_SAMPLER_PARAM": "2.5"}, ("ratelimiting", 2.5, True)),
    ({"JAEGER_SAMPLER_TYPE": "remote"}, ("remote", 0.001, True)),
    ({"JAEGER_SAMPLER_PARAM": "1"}, ("remote", 1, True)),
    ({"OTEL_TRACES_SAMPLER": "always_on"}, ("const", 1, False)),
    ({"OTEL_TRACES_SAMPLER": "always_off"}, ("const", 0, False)),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, ("const", 0, True)),
    ({"OTEL_TRACES_SAMPLER": "traceidratio"}, ("probabilistic", 1, False)),
    (
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        ("probabilistic", 0.5, True),
    ),
    ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, ("remote", 0.001, False)),
    ({"OTEL_TRACES_SAMPLER": "always_on", "JAEGER_SAMPLER_TYPE": "remote"}, ("const", 1, False)),
    # OpenTelemetry's argument counts only with OpenTelemetry's sampler.
    ({"OTEL_TRACES_SAMPLER_ARG": "0.5"}, ("remote", 0.001, True)),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, ("const", 1, True)),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("const", 1, True)),
    ({"OTEL_TRACES_EXPORTER": "otlp", "JAEGER_SAMPLER_TYPE": "remote"}, ("remote", 0.001, True)),
    ({"JAEGER_ENDPOINT": "http://c:14268/api/traces"}, ("remote", 0.001, True)),
]


@pytest.mark.parametrize(("environ", "sampler"), SAMPLER_CASES)
def test_samplers(environ: dict[str, str], sampler: Sampler) -> None:
    """More, or fewer, traces would be kept than asked for."""
    made = from_env(environ)
    assert [] == made.warnings
    assert sampler == (made.sampler_type, made.sampler_param, made.sampler_parent_based)
    if sampler[0] == "remote":
        assert sampler[1] == made.sampler_initial_rate


WRONG_SAMPLER_CASES: list[tuple[dict[str, str], float, str]] = [
    (
        {"JAEGER_SAMPLER_TYPE": "probabilistic", "JAEGER_SAMPLER_PARAM": "1.5"},
        1,
        "'1.5' is not a rate (0 to 1); using 1",
    ),
    ({"JAEGER_SAMPLER_TYPE": "probabilistic", "JAEGER_SAMPLER_PARAM": "-1"}, 0, "using 0"),
    ({"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "0.5"}, 1, "'0.5' is not 1 or 0 (const); using 1"),
    ({"JAEGER_SAMPLER_TYPE": "ratelimiting", "JAEGER_SAMPLER_PARAM": "-1"}, 0, "using 0"),
    ({"JAEGER_SAMPLER_TYPE": "const"}, 0, "'const' is not complete without JAEGER_SAMPLER_PARAM; using const 0"),
    ({"JAEGER_SAMPLER_TYPE": "probabilistic"}, 0.001, "using probabilistic 0.001"),
    ({"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "on"}, 0, "'on' is not a number; using 0"),
    ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, 1, "'2' is not a rate (0 to 1); using 1"),
    ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"}, 1, "'10%' is not a rate"),
    (
        {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "initialSamplingRate=x"},
        0.001,
        "is not a rate (0 to 1); using 0.001",
    ),
]


@pytest.mark.parametrize(("environ", "param", "complaint"), WRONG_SAMPLER_CASES)
def test_wrong_parameters_of_samplers_are_named(environ: dict[str, str], param: float, complaint: str) -> None:
    """A user who asks for 150 % or 10% would not learn what happens instead."""
    made = from_env(environ)
    assert param == made.sampler_param
    (warning,) = made.warnings
    assert complaint in warning


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"JAEGER_AGENT_HOST": "agent"}, "http://agent:5778/sampling"),
        ({"JAEGER_AGENT_HOST": "::1"}, "http://[::1]:5778/sampling"),
        ({"JAEGER_AGENT_HOST": "a", "JAEGER_SAMPLER_MANAGER_HOST_PORT": "m:1"}, "http://m:1/sampling"),
        ({"JAEGER_SAMPLER_MANAGER_HOST_PORT": "http://m:1/x"}, "http://m:1/x"),
        (
            {"JAEGER_SAMPLER_MANAGER_HOST_PORT": "m:1", "JAEGER_SAMPLING_ENDPOINT": "https://e:2/sampling"},
            "https://e:2/sampling",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://o:3"},
            "http://o:3/sampling",
        ),
        (
            {
                "OTEL_TRACES_SAMPLER": "parentbased_jaeger_remote",
                "OTEL_TRACES_SAMPLER_ARG": "endpoint=o:3,pollingIntervalMs=5000,initialSamplingRate=0.25",
                "JAEGER_SAMPLING_ENDPOINT": "http://e:2/sampling",
            },
            "http://o:3/sampling",
        ),
    ],
)
def test_where_strategies_are_asked_for(environ: dict[str, str], endpoint: str) -> None:
    """Strategies set in the backend would never arrive."""
    made = from_env(environ)
    assert ([], endpoint) == (made.warnings, made.sampler_endpoint)
    if "pollingInterval" in environ.get("OTEL_TRACES_SAMPLER_ARG", ""):
        assert (5.0, 0.25) == (made.sampler_refresh_s, made.sampler_initial_rate)


def test_a_grpc_sampling_endpoint_is_replaced_by_http() -> None:
    """The specification's own example names the gRPC port; asked over HTTP it would never answer."""
    made = from_env({"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://jaeger:14250"})
    assert "http://jaeger:5778/sampling" == made.sampler_endpoint
    assert made.warnings[0].endswith("using http://jaeger:5778/sampling")


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        ({"JAEGER_ENDPOINT": "http://c:14268/api/traces"}, ("jaeger-http",)),
        ({"JAEGER_ENDPOINT": "http://c:1/", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:2"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:2"}, ("zipkin",)),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, ("otlp", "console")),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_http"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "none"}, ("none",)),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, ("jaeger-udp",)),
        ({"OTEL_TRACES_EXPORTER": "jaeger", "JAEGER_ENDPOINT": "http://c:1/"}, ("jaeger-http",)),
        ({"OTEL_TRACES_EXPORTER": "jaeger", "OTEL_EXPORTER_JAEGER_PROTOCOL": "http/thrift.binary"}, ("jaeger-http",)),
        ({"AUTOINSTR_EXPORTER": "file", "OTEL_TRACES_EXPORTER": "otlp"}, ("file",)),
    ],
)
def test_which_exporters_are_used(environ: dict[str, str], exporters: tuple[str, ...]) -> None:
    """Spans would go where nobody listens."""
    made = from_env(environ)
    assert ([], exporters) == (made.warnings, made.exporters)


@pytest.mark.parametrize(
    ("environ", "endpoint", "complaints"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces", 0),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces", 0),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "http://c:4318/", 0),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"},
            "http://c:1/x",
            0,
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "http://c:4318/v1/traces", 1),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http://c:4318/v1/traces",
            2,
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, "http://c:4318/v1/traces", 1),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://c:4317/v1/traces",
            0,
        ),
    ],
)
def test_otlp_endpoints(environ: dict[str, str], endpoint: str, complaints: int) -> None:
    """An exporter one path, or one port, off loses every span."""
    made = from_env(environ)
    assert (endpoint, complaints) == (made.otlp_endpoint, len(made.warnings))


def test_the_variable_for_traces_wins_over_the_general_one() -> None:
    """Headers for the metrics' tenant would go out with spans."""
    made = from_env({"OTEL_EXPORTER_OTLP_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=2"})
    assert {"b": "2"} == made.otlp_headers


def test_one_general_limit_serves_spans_events_and_links() -> None:
    """A user who lowers the limit to save memory would save nothing on events."""
    made = from_env({"OTEL_ATTRIBUTE_COUNT_LIMIT": "5", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "7"})
    assert (5, 5, 7) == (made.attribute_count, made.event_attribute_count, made.link_attribute_count)


def test_a_small_queue_makes_the_default_batch_small_without_a_word() -> None:
    """A batch larger than the queue is never full."""
    assert {"max_queue_size": 100, "max_batch_size": 100} == changed(JAEGER_REPORTER_MAX_QUEUE_SIZE="100")


def test_user_and_password_go_together() -> None:
    """Half of a credential would be sent, and refused, with every export."""
    both = {"JAEGER_USER": "bob", "JAEGER_PASSWORD": " secret "}
    assert {"jaeger_user": "bob", "jaeger_password": " secret "} == changed(**both)


def test_text_that_is_not_utf8_can_still_be_encoded() -> None:
    """A single odd byte in the environment would make every batch of spans fail to encode."""
    made = from_env({"JAEGER_SERVICE_NAME": "caf\udce9", "JAEGER_TAGS": "a=${X}", "X": "\udcff"})
    assert ("caf\ufffd", {"a": "\ufffd"}) == (made.service_name, made.resource_attributes)


# ---- What is shown -------------------------------------------------------------------------------


def test_secrets_are_never_shown() -> None:
    """The self-check is pasted into bug reports."""
    made = from_env(
        {
            "JAEGER_USER": "bob",
            "JAEGER_PASSWORD": "hunter2",
            "JAEGER_AUTH_TOKEN": "hunter2",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2",
            "JAEGER_ENDPOINT": "http://bob:hunter2@c:14268/api/traces",
        }
    )
    described = {field: (value, source) for field, value, source in made.describe()}
    assert "hunter2" not in repr(described)
    assert ("api-key=***", "OTEL_EXPORTER_OTLP_HEADERS=***") == described["otlp_headers"]
    assert "http://***@c:14268/api/traces" == described["jaeger_endpoint"][0]
    assert "hunter2" == made.jaeger_password


def test_describe_tells_value_and_source_of_every_field() -> None:
    """Whoever asks why a service behaves as it does must find the variable that is to blame."""
    described = from_env({"JAEGER_AGENT_HOST": "agent", "OTEL_BSP_SCHEDULE_DELAY": "20"}).describe()
    assert list(config.DEFAULTS) == [field for field, _, _ in described]
    assert ("sampler_endpoint", "http://agent:5778/sampling", "JAEGER_AGENT_HOST=agent") in described
    assert ("flush_interval_s", "0.02 s", "OTEL_BSP_SCHEDULE_DELAY=20") in described
    assert ("sigterm", "true", "default") in described


def test_a_long_wrong_value_is_clipped() -> None:
    """One warning would fill the log."""
    (warning,) = from_env({"JAEGER_AGENT_PORT": "x" * 10_000}).warnings
    assert len(warning) < 500


# ---- Anything at all -----------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        "a=b",
        "=",
        ",",
        "%",
        "%41",
        "${X:y}",
        "${",
        "http://",
        "h:1",
        "[::1]",
        "@",
        "none",
        "b3",
        "5",
        "-",
        "1e999",
        "ms",
        "(",
    ]
)
VALUES = st.one_of(st.text(max_size=20), st.lists(FRAGMENTS, max_size=6).map("".join))
VARIABLES = st.sampled_from(
    sorted({variable for variable, *_ in config.ROWS} | {"OTEL_PYTHON_X_EXCLUDED_URLS", "AUTOINSTR_X"})
)


@given(st.dictionaries(VARIABLES, VALUES, max_size=12), st.lists(VALUES, max_size=5))
def test_no_environment_whatever_breaks_the_reading(environ: dict[str, str], argv: list[str]) -> None:
    """``from_env`` would fall back to plain defaults, and lose every other variable of the user."""
    made = config._read(environ, argv)
    assert all(
        type(default) is type(value)
        for (field, value), default in zip(fields_of(made).items(), config.DEFAULTS.values(), strict=True)
        if field != "metrics_port"
    )
    assert made.service_name
    assert 0 < made.flush_interval_s <= forms.LONGEST_S
    assert made.max_batch_size <= made.max_queue_size
    assert all(made.describe())
    assert all(warning.partition(": ")[0] in environ for warning in made.warnings)


# ---- The name of the program ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("", "unknown_service:python"),
        ("python", "python"),
        ("python app.py", "app"),
        ("python -X dev -Wignore -O -u ./src/shop.py --port 1", "shop"),
        ("python -um shop.main", "shop"),
        ("python -c print(1)", "python"),
        ("python -", "python"),
        ("python shop.pyz", "shop"),
        ("python shop/", "shop"),
        ("python .", "unknown_service:python"),
        ("python shop/__main__.py", "shop"),
        ("python /srv/shop/manage.py runserver", "shop"),
        ("python manage.py runserver", "django"),
        ("python ./manage.py runserver", "django"),
        ("python -m pytest tests", "pytest"),
        ("python /venv/bin/pytest tests", "pytest"),
        ("python -m flask --app shop run", "shop"),
        ("python -m flask --app=shop.web:create_app run", "shop"),
        ("python -m flask run", "flask"),
        ("python /venv/bin/gunicorn -w 4 -b :8000 shop.main:app", "shop"),
        ("python /venv/bin/gunicorn -c python:conf.gunicorn shop.wsgi", "shop"),
        ("python /venv/bin/gunicorn shop.wsgi --log-level debug", "shop"),
        ("python /venv/bin/gunicorn -b unix:shop.sock shop:create_app()", "shop"),
        ("python -m uvicorn --host 0.0.0.0 --port 80 src.shop.main:app --reload", "shop"),
        ("python -m uvicorn app:app", "app"),
        ("python -m hypercorn shop.asgi:application", "shop"),
        ("python -m daphne -p 80 shop.asgi:application", "shop"),
        ("python -m granian --interface wsgi shop:app", "shop"),
        ("python -m uvicorn", "uvicorn"),
        ("python -m celery -A shop.tasks worker", "shop"),
        ("python -m celery --app=shop worker", "shop"),
        ("python -m fastapi run shop/main.py", "shop"),
        ("python -m autoinstr app.py", "app"),
        ("python /venv/bin/autoinstr gunicorn shop:app", "shop"),
        (r"python.exe C:\venv\Scripts\uvicorn.exe shop:app", "shop"),
    ],
)
def test_names_from_command_lines(command: str, name: str) -> None:
    """All services behind gunicorn would be called gunicorn in Jaeger."""
    assert name == program_name(command.split())


def test_flask_reads_its_own_variable() -> None:
    """``flask run`` finds its application in FLASK_APP."""
    assert "shop" == program_name(["python", "-m", "flask", "run"], {"FLASK_APP": "shop/app.py"})


def test_children_of_multiprocessing_keep_the_name() -> None:
    """Requests served by a worker of ``uvicorn --workers`` would belong to a service called python."""
    environ = {config.PROGRAM_VARIABLE: "shop"}
    code = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)"
    assert "shop" == from_env(environ, ["python", "-c", code, "--multiprocessing-fork"]).service_name
    assert "python" == from_env(environ, ["python", "-c", "print()"]).service_name
    assert "app" == from_env(environ, ["python", "app.py"]).service_name
