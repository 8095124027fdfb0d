"""The self-check: ``autoinstr doctor`` says what is configured and traced, whether the backend answers, what to do.

Owns: the checks, their advice, the report for people and (``--json``) for machines.
Must not know: how anything is patched or encoded; it asks the modules that do.
Invariants: no traced library is imported (its version comes from its metadata); nothing is sent but an empty batch;
every wait is limited by ``PATIENCE_S``; secrets are masked, as in ``Config.describe``; a trouble comes with what to do.

Runs in a process of its own, so it may import what it likes. Exit status: 0 all is well, 1 something needs attention,
2 wrong use.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from autoinstr import __version__, config, runtime, sampling
from autoinstr.__main__ import boot_folder
from autoinstr.instrument import TABLE
from autoinstr.trace import SUPPRESSED, current
from autoinstr.transport import HTTPTransport, TransportError
from autoinstr.wire import thrift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from autoinstr.config import Config

USAGE = """\
usage: autoinstr doctor [--json | --path]

Check the set-up of tracing in this environment: run it where, and as, the program runs.

  --json   the report as JSON
  --path   only print what to put on PYTHONPATH to trace without the launcher
"""

#: Seconds that one backend may take to answer.
PATIENCE_S = 3.0
#: Seconds in which the kernel says that nobody listens on a UDP port of this machine or network.
UDP_PATIENCE_S = 0.3

OK, NOTE, TROUBLE = "ok", "note", "trouble"
MARKS = {OK: "ok  ", NOTE: "note", TROUBLE: "!!  "}
COLOURS = {OK: "32", NOTE: "33", TROUBLE: "31;1"}

WRAPT_FROM, WRAPT_BEFORE = (1, 14), (3,)

#: Instrument: the distribution that has its library (or several that do), and the oldest version supported. Others are in Python.
DISTRIBUTIONS = {
    "werkzeug": ("Werkzeug", "2.3"),
    "gunicorn": ("gunicorn", "22"),
    "waitress": ("waitress", "3"),
    "cheroot": ("cheroot", "10"),
    "uvicorn": ("uvicorn", "0.30"),
    "hypercorn": ("Hypercorn", "0.17"),
    "daphne": ("daphne", "4.1"),
    "granian": ("granian", "1.6"),
    "flask": ("Flask", "3"),
    "quart": ("Quart", "0.19"),
    "django": ("Django", "4.2"),
    "bottle": ("bottle", "0.13"),
    "falcon": ("falcon", "3.1"),
    "starlette": ("starlette", "0.40"),
    "fastapi": ("fastapi", "0.110"),
    "requests": ("requests", "2.31"),
    "urllib3": ("urllib3", "2"),
    "httpx": ("httpx", "0.27"),
    "httpx2": ("httpx2", "2"),
    "aiohttp-client": ("aiohttp", "3.9"),
    "aiohttp-server": ("aiohttp", "3.9"),
    "aiosqlite": ("aiosqlite", "0.20"),
    "psycopg": ("psycopg", "3.1"),
    "psycopg2": ("psycopg2 psycopg2-binary", "2.9"),
    "asyncpg": ("asyncpg", "0.29"),
    "pymysql": ("PyMySQL", "1.1"),
    "aiomysql": ("aiomysql", "0.2"),
    "mysqlclient": ("mysqlclient", "2.2"),
    "mysql.connector": ("mysql-connector-python", "8.2"),
    "sqlalchemy": ("SQLAlchemy", "2"),
    "redis": ("redis", "5"),
    "valkey": ("valkey", "6"),
    "celery": ("celery", "5.4"),
    "pymongo": ("pymongo", "4.9"),
    "kafka": ("kafka-python", "2.0.3"),
    "aiokafka": ("aiokafka", "0.11"),
    "confluent_kafka": ("confluent-kafka", "2.4"),
    "grpc": ("grpcio", "1.60"),
    "botocore": ("botocore", "1.34"),
    "opentelemetry": ("opentelemetry-api", "1.21"),
    "opentracing": ("opentracing", "2.4"),
}

#: Folders by which other agents start themselves in every Python, as ours does: part of the path, name.
OTHER_AGENTS = (
    ("opentelemetry/instrumentation/auto_instrumentation", "opentelemetry-instrument"),
    ("ddtrace/bootstrap", "ddtrace-run"),
    ("newrelic/bootstrap", "newrelic-admin"),
    ("elasticapm/instrumentation/wrapper", "elasticapm-run"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``state`` is ok, note or trouble; ``advice`` says what to do."""

    about: str
    state: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that can be traced; ``version`` is "" where it is not installed, ``supported_from`` in Python's own."""

    name: str
    version: str
    supported_from: str
    hooks: tuple[str, ...]
    missing_hooks: tuple[str, ...]
    switched_off: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found."""

    version: str
    python: str
    executable: str
    path: str
    configuration: list[dict[str, str]]
    libraries: list[Library]
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether nothing needs attention."""
        return all(finding.state != TROUBLE for finding in self.findings)


def main(argv: Sequence[str]) -> int:
    """Carry out ``autoinstr doctor argv``; the exit status."""
    options = set(argv)
    if options & {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    if options - {"--json", "--path"} or len(argv) > 1:
        sys.stderr.write(USAGE)
        return 2
    if options == {"--path"}:
        print(boot_folder())
        return 0
    # Where PYTHONPATH leads to the agent, it runs in this process, too.
    current.set(SUPPRESSED)
    report = examine(os.environ)
    if options == {"--json"}:
        print(json.dumps({"healthy": report.healthy, **asdict(report)}, indent=2))
    else:
        print(as_text(report, colourful=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    return 0 if report.healthy else 1


def examine(environ: Mapping[str, str]) -> Report:
    """Look at everything. Never raises for what it finds; a check that fails is a finding."""
    effective = config.from_env(environ)
    libraries = installed_libraries(effective)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: check_variables(effective),
        lambda: check_start(environ, effective),
        lambda: check_neighbours(environ),
        check_wrapt,
        lambda: check_libraries(libraries),
        lambda: check_sampler(effective),
        lambda: check_exporters(effective),
    )
    return Report(
        version=__version__,
        python=".".join(map(str, sys.version_info[:3])),
        executable=sys.executable,
        path=boot_folder(),
        configuration=[
            {"setting": field, "value": _value(effective, field, value), "source": source}
            for field, value, source in effective.describe()
        ],
        libraries=libraries,
        findings=[finding for check in checks for finding in _guarded(check)],
    )


def _value(effective: Config, field: str, value: str) -> str:
    if field == "service_name" and field not in effective.sources:
        return "the program's name"
    return value


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check found; one that fails is reported, and the others still run."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:
        text = f"this check failed: {type(error).__name__}: {error}"
        found.append(Finding("doctor", TROUBLE, text, "report this as a bug, with the output of --json"))
    return found


# ---- The environment -----------------------------------------------------------------------------


def check_variables(effective: Config) -> Iterator[Finding]:
    """Variables that are wrong, or switch tracing off."""
    for warning in effective.warnings:
        variable = warning.partition(":")[0]
        yield Finding("configuration", TROUBLE, warning, f"correct {variable}, or unset it")
    if not effective.enabled:
        variable, raw = effective.sources["enabled"]
        yield Finding("configuration", TROUBLE, f"tracing is switched off by {variable}={raw}", f"unset {variable}")
    elif not effective.warnings:
        yield Finding("configuration", OK, f"{len(effective.sources)} settings are not at their defaults")
    if effective.log_level in {"none", "error"}:
        variable, raw = effective.sources["log_level"]
        text = f"{variable}={raw}: a traced program does not say on stderr that its spans are lost"
        yield Finding("configuration", NOTE, text, f"unset {variable} while you look for a fault")


def check_start(environ: Mapping[str, str], effective: Config) -> Iterator[Finding]:
    """Whether and how the agent gets into processes that are started here."""
    folder = boot_folder()
    entries = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    on_path = folder in entries
    flags = _flags_against_start()
    if flags:
        launched = f"python {flags} -m autoinstr app.py traces that process, but not the Pythons it starts with {flags}"
        text = f"Python runs with {flags}: PYTHONPATH or site is ignored"
        yield Finding("start", TROUBLE if on_path else NOTE, text, f"drop {flags}; or use the launcher: {launched}")
    elif not on_path:
        text = "PYTHONPATH does not lead to the agent: only what the launcher starts is traced"
        yield Finding("start", NOTE, text, f"use python -m autoinstr app.py, or set PYTHONPATH={folder}")
    elif effective.enabled and runtime.running is None:
        first = next((entry for entry in entries if Path(entry, "sitecustomize.py").is_file()), folder)
        cause = f"{first} is found before it" if first != folder else "site did not import it"
        text = f"PYTHONPATH leads to the agent, but it did not start in this process: {cause}"
        yield Finding("start", TROUBLE, text, f"put {folder} first on PYTHONPATH")
    else:
        yield Finding("start", OK, "PYTHONPATH leads to the agent: every Python that is started here is traced")
    for entry in entries:
        if entry != folder and entry.replace("\\", "/").endswith("/autoinstr/_boot"):
            text = f"PYTHONPATH leads to another installation of autoinstr: {entry}"
            yield Finding("start", TROUBLE, text, f"remove {entry} from PYTHONPATH, or run its own doctor")


def _flags_against_start() -> str:
    if sys.flags.isolated:
        return "-I"
    return " ".join(flag for flag, given in (("-E", sys.flags.ignore_environment), ("-S", sys.flags.no_site)) if given)


def check_neighbours(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Other agents, and a ``sitecustomize`` of the user's."""
    ours = boot_folder()
    folders = [*environ.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    for fragment, name in OTHER_AGENTS:
        found = next((folder for folder in folders if fragment in folder.replace("\\", "/")), None)
        if found is not None:
            text = f"{name} is active here too ({found}): requests get spans of both, and headers of both"
            yield Finding("neighbours", TROUBLE, text, f"start the program with one of the two, without {name}")
    own = next((folder for folder in sys.path if folder != ours and Path(folder, "sitecustomize.py").is_file()), None)
    if own is not None:
        yield Finding("neighbours", OK, f"the sitecustomize in {own} still runs, after the agent's")


def check_wrapt() -> Iterator[Finding]:
    """The one dependency: wrapt does the hooking."""
    try:
        version = metadata.version("wrapt")
    except metadata.PackageNotFoundError:
        text = "wrapt is not installed: nothing can be traced"
        yield Finding("wrapt", TROUBLE, text, "pip install 'wrapt>=1.14,<3'")
        return
    if not WRAPT_FROM <= _numbers(version) < WRAPT_BEFORE:
        yield Finding("wrapt", TROUBLE, f"wrapt {version} is not supported", "pip install 'wrapt>=1.14,<3'")
    else:
        yield Finding("wrapt", OK, f"wrapt {version}")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "3.0.0rc1" is (3, 0, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


# ---- Libraries -----------------------------------------------------------------------------------


def installed_libraries(effective: Config) -> list[Library]:
    """Every library of the table of instruments, installed or not, in the table's order."""
    hooks: dict[str, list[str]] = {}
    for module, name, _ in TABLE:
        hooks.setdefault(name, []).append(module)
    return [_library(name, modules, effective) for name, modules in hooks.items()]


def _library(name: str, modules: Sequence[str], effective: Config) -> Library:
    distribution, supported_from = DISTRIBUTIONS.get(name, ("", ""))
    version = _version(distribution) if distribution else "Python's own"
    return Library(
        name=name,
        version=version,
        supported_from=supported_from,
        hooks=tuple(modules),
        # What another package of the same name for switching off would have (kombu beside redis) is not missing.
        missing_hooks=tuple(
            module for module in modules if version and _exists(module.partition(".")[0]) and not _exists(module)
        ),
        switched_off=not effective.disabled_instruments.isdisjoint((name, "*")),
    )


def _version(distributions: str) -> str:
    for distribution in distributions.split():
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _exists(module: str) -> bool:
    """Whether a module could be imported; no part of it is (``find_spec`` of a dotted name imports its parents)."""
    first, *rest = module.split(".")
    name = first
    try:
        spec = find_spec(first)
    except ValueError:  # It has been imported, and put something in its own place (kombu does).
        spec = PathFinder.find_spec(first)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec is not None


def check_libraries(libraries: Sequence[Library]) -> Iterator[Finding]:
    """Libraries that are here and will not be traced, or are too old."""
    installed = [library for library in libraries if library.version]
    for library in installed:
        title = f"{library.name} {library.version}"
        if library.switched_off:
            advice = f"to trace it, take {library.name} out of the variable"
            yield Finding("libraries", NOTE, f"{title} is switched off by configuration", advice)
        elif len(library.missing_hooks) == len(library.hooks):
            text = f"{title} has no {' or '.join(library.missing_hooks)}, where it would be patched: it is not traced"
            advice = f"install {library.name} {library.supported_from} or a version close to it"
            yield Finding("libraries", TROUBLE, text, advice)
        elif library.supported_from and _numbers(library.version) < _numbers(library.supported_from):
            text = f"{title} is older than what is supported ({library.supported_from})"
            yield Finding("libraries", NOTE, text, f"if its spans are missing: pip install -U {library.name}")
    active = [library for library in installed if not library.switched_off]
    yield Finding("libraries", OK, f"{len(active)} of {len(libraries)} known libraries are here and would be traced")


# ---- Sampling ------------------------------------------------------------------------------------


def check_sampler(effective: Config) -> Iterator[Finding]:
    """How many traces are kept, and whether the backend that decides that answers."""
    kind, param = effective.sampler_type, effective.sampler_param
    if kind == "remote":
        yield _ask_for_strategy(effective)
    elif param == 0:
        variable = effective.sources.get("sampler_type", effective.sources.get("sampler_param", ("the sampler", "")))[0]
        advice = "to keep all: JAEGER_SAMPLER_TYPE=const JAEGER_SAMPLER_PARAM=1"
        yield Finding("sampling", TROUBLE, f"no trace is kept ({variable})", advice)
    else:
        yield Finding("sampling", OK, _kept(kind, param))


def _kept(kind: str, param: float) -> str:
    if kind == "ratelimiting":
        return f"{param:g} traces per second are kept"
    if kind == "budget":
        return f"as many traces are kept as {param * 100:g} % of the program's CPU time pays for"
    return "every trace is kept" if kind == "const" or param == 1 else f"{param * 100:g} % of the traces are kept"


def _ask_for_strategy(effective: Config) -> Finding:
    url = f"{effective.sampler_endpoint}?service={_quoted(effective.service_name)}"
    meanwhile = f"until a strategy arrives, {_kept('probabilistic', effective.sampler_initial_rate)}"
    transport = HTTPTransport(url, timeout_s=PATIENCE_S)
    try:
        body = transport.request("GET", None, {"Accept": "application/json"})
        sampler = sampling.from_strategy(json.loads(body))
    except TransportError as error:
        advice = _advice(error, "JAEGER_SAMPLING_ENDPOINT", "http://host:5778/sampling")
        advice += "; or keep all traces without asking: JAEGER_SAMPLER_TYPE=const JAEGER_SAMPLER_PARAM=1"
        return Finding("sampling", TROUBLE, f"{_said(error)}; {meanwhile}", advice)
    except ValueError as error:
        advice = "check JAEGER_SAMPLING_ENDPOINT: does it lead to Jaeger (port 5778, path /sampling)?"
        text = f"{effective.sampler_endpoint} does not answer with a sampling strategy ({error}); {meanwhile}"
        return Finding("sampling", TROUBLE, text, advice)
    finally:
        transport.close()
    return Finding("sampling", OK, f"{effective.sampler_endpoint} answers: {sampler!r}")


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


# ---- Exporters -----------------------------------------------------------------------------------


def check_exporters(effective: Config) -> Iterator[Finding]:
    """Whether each configured receiver takes what the agent would send."""
    names = [name for name in effective.exporters if name != "none"]
    if not names and not effective.log_spans:
        variable = effective.sources.get("exporters", ("AUTOINSTR_EXPORTER", ""))[0]
        yield Finding("export", TROUBLE, f"{variable} names no exporter: spans go nowhere", f"unset {variable}")
    for name in names:
        if name == "jaeger-udp":
            yield probe_agent(effective)
        elif name == "file":
            yield _check_file(effective.file_path)
        elif name == "console":
            yield Finding(name, OK, "spans are written to stderr")
        else:
            yield probe_collector(name, effective)


def probe_agent(effective: Config) -> Finding:
    """Send a batch without spans to the agent. UDP knows no answers, but a kernel says when nobody listens."""
    host, port = effective.agent_host, effective.agent_port
    where = f"{host}:{port} (UDP)"
    advice = (
        "start a backend here with `autoinstr serve`, or set JAEGER_AGENT_HOST (and _PORT) to where one is; for a"
        " collector without an agent set JAEGER_ENDPOINT=http://host:14268/api/traces"
    )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(UDP_PATIENCE_S)
            sock.connect(address)
            sock.send(_empty_message())
            sock.recv(1)
    except TimeoutError:
        return Finding("jaeger-udp", OK, f"nobody refuses datagrams at {where}; UDP gives no other sign of life")
    except ConnectionRefusedError:
        return Finding("jaeger-udp", TROUBLE, f"nobody listens at {where}", advice)
    except socket.gaierror as error:
        text = f"the host {host} is not known: {error.strerror}"
        return Finding("jaeger-udp", TROUBLE, text, "correct JAEGER_AGENT_HOST, or see to the name service")
    except OSError as error:
        return Finding("jaeger-udp", TROUBLE, f"cannot send to {where}: {error}", advice)
    return Finding("jaeger-udp", NOTE, f"{where} answers datagrams, which an agent does not", "check JAEGER_AGENT_PORT")


def probe_collector(name: str, effective: Config) -> Finding:
    """POST a batch without spans to a collector, with the headers and certificates that the agent would use."""
    variable, hint = _COLLECTORS[name]
    resource = runtime.build_resource(effective)
    try:
        encoder, transport = runtime.build_exporter(name, effective, resource)
    except Exception as error:
        text = f"the exporter cannot be made: {type(error).__name__}: {error}"
        return Finding(name, TROUBLE, text, "correct the paths of certificates")
    assert isinstance(transport, HTTPTransport)  # noqa: S101 - for the type checker: these exporters have no other
    transport.timeout_s = min(transport.timeout_s, PATIENCE_S)
    try:
        transport.send(_EMPTY_BATCHES[name, encoder.content_type]())
    except TransportError as error:
        return Finding(name, TROUBLE, _said(error), _advice(error, variable, hint))
    finally:
        transport.close()
    return Finding(name, OK, f"{transport.url} takes spans")


def _check_file(path: str) -> Finding:
    place = Path(path).absolute()
    target = place if place.exists() else place.parent
    if os.access(target, os.W_OK) and not place.is_dir():
        return Finding("file", OK, f"spans are appended to {path}")
    return Finding("file", TROUBLE, f"{path} cannot be written", "set AUTOINSTR_FILE to a file in a folder of yours")


_COLLECTORS = {
    "jaeger-http": ("JAEGER_ENDPOINT", "http://host:14268/api/traces"),
    "otlp": ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host:4318 (v1/traces is added)"),
    "zipkin": ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://host:9411/api/v2/spans"),
}


#: Who sends the empty batches, should the receiver log them.
_PROCESS = (1, thrift.STRING, b"autoinstr-doctor")
_END = b"\0"


def _empty_batch() -> bytes:
    """Jaeger's ``Batch`` without spans, binary protocol."""
    process = thrift.binary_fields([_PROCESS]) + _END
    return thrift.binary_fields([(1, thrift.STRUCT, process), (2, thrift.LIST, [])]) + _END


def _empty_message() -> bytes:
    """``Agent.emitBatch`` of a ``Batch`` without spans, compact protocol."""
    process = thrift.compact_fields([_PROCESS]) + _END
    batch = thrift.compact_fields([(1, thrift.STRUCT, process), (2, thrift.LIST, [])]) + _END
    arguments = thrift.compact_fields([(1, thrift.STRUCT, batch)]) + _END
    return thrift.compact_message_header(b"emitBatch", thrift.ONEWAY, 1) + arguments


_EMPTY_BATCHES: dict[tuple[str, str], Callable[[], bytes]] = {
    ("jaeger-http", "application/x-thrift"): _empty_batch,
    # An empty message of Protocol Buffers is no bytes at all.
    ("otlp", "application/x-protobuf"): lambda: b"",
    ("otlp", "application/json"): lambda: b'{"resourceSpans":[]}',
    ("zipkin", "application/json"): lambda: b"[]",
}


# ---- Troubles of HTTP ----------------------------------------------------------------------------


def _said(error: TransportError) -> str:
    return str(error).removesuffix(".")


_BY_STATUS = {
    401: "the receiver wants credentials: set {credentials}",
    403: "the receiver refuses these credentials: check {credentials}",
    404: "nothing is served at this path: check {variable}; usual is {hint}",
    405: "this path takes no POST: check {variable}; usual is {hint}",
    415: "the receiver does not take this encoding: check {variable}; usual is {hint}",
    400: "the receiver does not understand the payload: check {variable}; usual is {hint}",
    429: "the receiver is overloaded: sample less, or give it more room",
    503: "the receiver is there, but not ready: wait for it, or look at its log",
}

_BY_CAUSE = (
    ("CERTIFICATE_VERIFY_FAILED", "name the file of its certificate authority: {certificate}"),
    ("WRONG_VERSION_NUMBER", "that port does not speak TLS: use http:// in {variable}"),
    ("SSL", "TLS fails: check the certificates ({certificate}) and the scheme in {variable}"),
    ("FileNotFoundError", "a file of certificates is not there: check {certificate}"),
    ("gaierror", "the host is not known: correct {variable}, or see to the name service"),
    ("ConnectionRefusedError", "nobody listens there: start a backend (`autoinstr serve`), or correct {variable}"),
    ("Timeout", "no answer in time: a firewall? the wrong port? check {variable}; usual is {hint}"),
    ("BadStatusLine", "that is not HTTP (a port for gRPC, or TLS?): check {variable}; usual is {hint}"),
    ("RemoteDisconnected", "that may not be HTTP (a port for gRPC, or TLS?): check {variable}; usual is {hint}"),
)


def _advice(error: TransportError, variable: str, hint: str) -> str:
    """What to do about an exchange that failed."""
    text = str(error)
    status = re.search(r" answered (\d{3}) ", text)
    names = {
        "variable": variable,
        "hint": hint,
        "credentials": "OTEL_EXPORTER_OTLP_HEADERS" if "OTLP" in variable else "JAEGER_AUTH_TOKEN (or JAEGER_USER)",
        "certificate": "OTEL_EXPORTER_OTLP_CERTIFICATE" if "OTLP" in variable else "AUTOINSTR_CERTIFICATE",
    }
    if status is not None:
        known = _BY_STATUS.get(int(status[1]), "look at the receiver's log; check {variable}; usual is {hint}")
        return known.format(**names)
    causes = f"{type(error.__cause__).__name__} {text}"
    return next(
        (advice.format(**names) for cause, advice in _BY_CAUSE if cause in causes),
        f"check {variable}; usual is {hint}",
    )


# ---- The report for people -----------------------------------------------------------------------


def as_text(report: Report, *, colourful: bool = False) -> str:
    """The report, aligned; ``colourful`` for terminals."""
    troubles = sum(finding.state == TROUBLE for finding in report.findings)
    summary = "all is well" if not troubles else f"{troubles} of the checks need{'s' * (troubles == 1)} attention"
    return "\n".join(
        [
            f"autoinstr {report.version}, Python {report.python} ({report.executable})",
            "",
            "Configuration",
            *_columns([(row["setting"], row["value"], row["source"]) for row in report.configuration]),
            "",
            "Libraries",
            *_columns([_library_row(library) for library in report.libraries if library.version]),
            f"  not installed: {', '.join(item.name for item in report.libraries if not item.version) or 'none'}",
            "",
            "Checks",
            *(line for finding in report.findings for line in _lines(finding, colourful=colourful)),
            "",
            _painted(f"autoinstr doctor: {summary}", OK if report.healthy else TROUBLE, colourful=colourful),
        ]
    )


def _library_row(library: Library) -> tuple[str, str, str]:
    supported = f"supported from {library.supported_from}" if library.supported_from else ""
    fate = "switched off" if library.switched_off else f"patched at import of {', '.join(library.hooks)}"
    return library.name, f"{library.version:<12}  {supported}", fate


def _columns(rows: Sequence[tuple[str, str, str]], widest: int = 44) -> list[str]:
    """Rows as aligned lines; what is too wide is cut short."""
    cut = [tuple(text if len(text) <= widest else text[: widest - 1] + "…" for text in row[:2]) for row in rows]
    first, second = (max((len(row[index]) for row in cut), default=0) for index in (0, 1))
    return [f"  {a:<{first}}  {b:<{second}}  {row[2]}".rstrip() for (a, b), row in zip(cut, rows, strict=True)]


def _lines(finding: Finding, *, colourful: bool) -> list[str]:
    mark = _painted(MARKS[finding.state], finding.state, colourful=colourful)
    lines = [f"  {mark}  {finding.about:<13}  {finding.text}"]
    if finding.advice:
        lines.append(f"{'':>8}-> {finding.advice}")
    return lines


def _painted(text: str, state: str, *, colourful: bool) -> str:
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if colourful else text
