"""The environment as one frozen value: which variable wins, what follows from several, what there is to complain about.

Owns: ``from_env``, the precedence of variables, the warnings; it gives out what the rest of the agent needs of the rooms
below: ``value`` (the result, and how it is shown), ``forms`` (what a text may look like), ``table`` (all variables),
``program`` (a name for the service), ``reference`` (the documentation, made from the table).
Must not know: ``os.environ`` (a mapping is passed in), sockets, files, samplers and exporters (only their names).
Invariants: ``from_env`` is pure and never raises; a wrong value costs one warning, never the start of the program; an
empty variable is an unset one.

Precedence, for each field: AUTOINSTR_* over OTEL_* (the signal's own over the general) over JAEGER_* over the default;
in ``TABLE`` the rows of one field stand in that order. Loaded into every traced process, with the rooms below but for
``reference``, it imports nothing else.
"""

from __future__ import annotations

from autoinstr.config.forms import (
    DELAY,
    SAMPLER_ARG,
    UNSUPPORTED,
    Instead,
    parse_milliseconds,
    parse_number,
    parse_sampling_url,
    split_items,
    split_port,
    split_url,
)
from autoinstr.config.table import FIELDS, FORMS, PER_INSTRUMENT, PROGRAM_VARIABLE, ROWS, TABLE
from autoinstr.config.value import DEFAULTS, Config, clean, show, show_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["DEFAULTS", "FORMS", "PROGRAM_VARIABLE", "ROWS", "TABLE", "Config", "from_env"]

PREFIXES = ("AUTOINSTR_", "OTEL_", "JAEGER_")

OTLP_GRPC_PORT = "4317"
SAMPLING_GRPC_PORTS = ("14250", "5779")
#: The share of the CPU time that tracing may take where the sampler is `budget` and nobody says how much.
DEFAULT_BUDGET = 0.01

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
        from autoinstr.config.program import program_name  # Only where nobody has named the service.

        draft.values["service_name"] = program_name(argv, environ)
    return Config(sources=draft.sources, warnings=_warnings(draft), **draft.values)


def _parse_variable(draft: _Draft, variable: str) -> None:
    form = FORMS.get(variable) or (FORMS[PER_INSTRUMENT] if _instrument_of(variable) else None)
    if form is None:
        if variable.startswith("AUTOINSTR_"):
            _object_to_unknown(draft, variable)
        return
    raw = draft.given[variable]
    text = raw if form.verbatim else clean(raw)
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


def _instrument_of(variable: str) -> str:
    """The instrument of a variable: "flask" for OTEL_PYTHON_FLASK_EXCLUDED_URLS, "" for other variables."""
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
    raw = show_raw(FIELDS.get(variable, ""), draft.given[variable])
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
    for item in split_items(draft.parsed.get("JAEGER_TAGS", "")):
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
    return clean(environ.get(variable) or "") or default


def _derive_sampler(draft: _Draft) -> None:
    _derive_sampler_endpoint(draft)
    if "OTEL_TRACES_SAMPLER" in draft.parsed:
        _use_otel_sampler(draft)
    elif not any(name.startswith(("JAEGER_SAMPLER_", "JAEGER_SAMPLING_")) for name in draft.given):
        # An OpenTelemetry user who says nothing expects OpenTelemetry's default, and so does one who wants to see spans
        # on the console or in a file: only Jaeger has strategies to ask for.
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
        for item in split_items(argument):
            _use_remote_argument(draft, item)
    else:
        _use_rate(draft, "OTEL_TRACES_SAMPLER_ARG", argument, "sampler_param")


def _use_remote_argument(draft: _Draft, item: str) -> None:
    """One part of jaeger_remote's argument, as OpenTelemetry's SDK specification defines it."""
    variable = "OTEL_TRACES_SAMPLER_ARG"
    name, _, value = (part.strip() for part in item.partition("="))
    try:
        if name == "endpoint":
            draft.put("sampler_endpoint", _over_http(draft, variable, parse_sampling_url(value)), variable)
        elif name == "pollingIntervalMs":
            draft.put("sampler_refresh_s", parse_milliseconds(value), variable)
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
        rate = parse_number(text)
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
    elif kind == "budget":
        _use_share(draft, param)
    else:
        _use_param(draft, kind, param)


def _use_missing_param(draft: _Draft, kind: str) -> None:
    """Without a parameter all of Jaeger's clients sample nothing with const; Java's takes 0.001 with the others."""
    if kind in ("const", "budget"):
        draft.put("sampler_param", DEFAULT_BUDGET if kind == "budget" else 0.0, "JAEGER_SAMPLER_TYPE")
    if kind != "remote" and "JAEGER_SAMPLER_PARAM" not in draft.problems:
        used = f"{kind} {show('', draft.values['sampler_param'])}"
        draft.object_to("JAEGER_SAMPLER_TYPE", "complete without JAEGER_SAMPLER_PARAM", used)


def _use_share(draft: _Draft, param: float) -> None:
    """A share of the CPU time, above 0: who wants no traces says so."""
    valid = param if 0 < param <= 1 else DEFAULT_BUDGET
    if valid != param:
        draft.object_to("JAEGER_SAMPLER_PARAM", "a share of the CPU time, above 0 and at most 1 (budget)", show("", valid))
    draft.put("sampler_param", valid, "JAEGER_SAMPLER_PARAM")


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
    scheme, authority, path = split_url(url)
    host, port = split_port(authority)
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
    scheme, authority, path = split_url(draft.parsed[variable])
    host, port = split_port(authority)
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
