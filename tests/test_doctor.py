"""``autoinstr doctor``: a user without traces asks it why, so each trouble must be named and come with a way out."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autoinstr import config, doctor
from autoinstr.doctor import NOTE, OK, TROUBLE, Finding
from autoinstr.instrument import TABLE
from autoinstr.wire import jaeger, otlp, zipkin
from backend.conftest import running

DEADLINE_S = 60
KEEP_ALL = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1"}


# ---- Receivers that behave as they do in the field -----------------------------------------------


@contextmanager
def server(status: int = 200, body: bytes = b"", context: ssl.SSLContext | None = None) -> Iterator[Any]:
    """An HTTP server that always gives the same answer; ``requests`` are (method, path, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self.server.requests.append((self.command, self.path, self.headers, self.rfile.read(length)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Silence."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that breaks off TLS is what the test wants."""

    listening = Server(("127.0.0.1", 0), Handler)
    listening.requests = []
    if context is not None:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listening
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@contextmanager
def speaker(words: bytes | None) -> Iterator[int]:
    """A port that is not HTTP: says ``words`` to each caller and hangs up, or (``None``) says nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                if words is not None:
                    connection.recv(65536)
                    connection.sendall(words)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def unused_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collector")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "collector.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


def tls(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


# ---- Asking --------------------------------------------------------------------------------------


def findings(about: str, **environ: str) -> list[Finding]:
    return [finding for finding in doctor.examine(environ).findings if finding.about == about]


def the_finding(about: str, **environ: str) -> Finding:
    (finding,) = findings(about, **environ)
    return finding


def export_to(url: str, exporter: str = "otlp", **environ: str) -> Finding:
    """The finding about a collector at ``url``."""
    variable = {
        "otlp": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "jaeger-http": "JAEGER_ENDPOINT",
        "zipkin": "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
    }[exporter]
    return the_finding(exporter, **{"AUTOINSTR_EXPORTER": exporter, variable: url, **KEEP_ALL, **environ})


def run(*words: str, flags: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """``python [flags] -m autoinstr doctor words``: exit status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, *flags, "-m", "autoinstr", "doctor", *words],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# ---- The command ---------------------------------------------------------------------------------


def test_path_is_enough_to_be_traced() -> None:
    """The documented ``PYTHONPATH=$(autoinstr doctor --path)`` would start nothing, or print more than a path."""
    status, out, err = run("--path")
    assert (0, "") == (status, err)
    code = "import sys; print('autoinstr.runtime' in sys.modules)"
    traced = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": out.strip()},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "True\n" == traced.stdout


@pytest.mark.parametrize("words", [("--pth",), ("now",), ("--json", "--path"), ("--json", "--json")])
def test_wrong_use(words: tuple[str, ...]) -> None:
    """A typing error would look like a healthy set-up to a script that reads the exit status."""
    status, out, err = run(*words)
    assert (2, "") == (status, out)
    assert err.startswith("usage: autoinstr doctor")


def test_help() -> None:
    """``--help`` would count as wrong use."""
    assert (0, doctor.USAGE, "") == run("--help")


@pytest.mark.parametrize("exporter", ["jaeger-udp", "jaeger-http", "otlp", "zipkin"])
def test_all_is_well(exporter: str, tmp_path: Path) -> None:
    """A user whose set-up works would look for a trouble that is not there; the probe would leave a trace."""
    with running(tmp_path) as backend:
        ports = backend.ports
        environ = {
            "AUTOINSTR_EXPORTER": exporter,
            "JAEGER_AGENT_HOST": "127.0.0.1",
            "JAEGER_AGENT_PORT": str(ports["agent"]),
            "JAEGER_SAMPLING_ENDPOINT": f"http://127.0.0.1:{ports['sampling']}/sampling",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports['otlp']}",
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT": f"http://127.0.0.1:{ports['zipkin']}/api/v2/spans",
        }
        if exporter == "jaeger-http":
            environ["JAEGER_ENDPOINT"] = f"http://127.0.0.1:{ports['collector']}/api/traces"
        status, out, err = run("--json", environ=environ)
        report = json.loads(out)
        assert (0, "", True) == (status, err, report["healthy"]), report["findings"]
        states = {found["about"]: found["state"] for found in report["findings"]}
        assert (OK, OK) == (states[exporter], states["sampling"])
        assert [] == backend.data("/api/services")


def test_troubles_are_told_with_a_way_out() -> None:
    """The first run without a backend: exit status 0 or no advice would leave the user where they were."""
    environ = {
        "JAEGER_AGENT_HOST": "127.0.0.1",
        "JAEGER_AGENT_PORT": str(unused_port(socket.SOCK_DGRAM)),
        "JAEGER_SAMPLING_ENDPOINT": f"http://127.0.0.1:{unused_port()}/sampling",
    }
    status, out, err = run(environ=environ)
    assert (1, "") == (status, err)
    assert "\x1b" not in out, "colours are for terminals"
    lines = out.splitlines()
    troubles = [number for number, line in enumerate(lines) if line.startswith("  !!")]
    assert 2 == len(troubles), out
    assert all(lines[number + 1].lstrip().startswith("-> ") for number in troubles), out
    assert "2 of the checks need attention" in lines[-1]


def test_text_shows_each_setting_with_its_variable() -> None:
    """A user could not see which of several variables won, or would see a password in the output they paste."""
    environ = {
        "JAEGER_SERVICE_NAME": "shop",
        "OTEL_SERVICE_NAME": "till",
        "JAEGER_AUTH_TOKEN": "s3cret",
        **KEEP_ALL,
        "AUTOINSTR_EXPORTER": "console",
    }
    text = doctor.as_text(doctor.examine(environ))
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["service_name"])
    assert ["service_name", "till", "OTEL_SERVICE_NAME=till"] == row
    assert "s3cret" not in text
    assert "s3cret" not in json.dumps([list(row.values()) for row in doctor.examine(environ).configuration])
    assert set(config.DEFAULTS) <= set(text.split())


def test_colours() -> None:
    """On a terminal the troubles are to stand out."""
    report = doctor.examine({"JAEGER_DISABLED": "true", "AUTOINSTR_EXPORTER": "console", **KEEP_ALL})
    assert "\x1b[31;1m!!" in doctor.as_text(report, colourful=True)


def test_a_check_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one check would cost the user all the others."""

    def broken() -> Iterator[Finding]:
        yield Finding("wrapt", OK, "so far so good")
        raise RuntimeError("boom")

    monkeypatch.setattr(doctor, "check_wrapt", broken)
    report = doctor.examine({"AUTOINSTR_EXPORTER": "console", **KEEP_ALL})
    told = {finding.about: finding for finding in report.findings}
    assert (TROUBLE, True) == (told["doctor"].state, "RuntimeError: boom" in told["doctor"].text)
    assert OK == told["console"].state
    assert not report.healthy


# ---- Variables -----------------------------------------------------------------------------------


def test_wrong_variable() -> None:
    """A value that was ignored at start, with one line that scrolled away, is what doctor is asked about."""
    found = the_finding("configuration", JAEGER_AGENT_PORT="68x31", AUTOINSTR_EXPORTER="console", **KEEP_ALL)
    assert TROUBLE == found.state
    assert "68x31" in found.text
    assert "JAEGER_AGENT_PORT" in found.advice


def test_switched_off() -> None:
    """Somebody who inherited JAEGER_DISABLED=true from an image would search everywhere else."""
    found = the_finding("configuration", JAEGER_DISABLED="true", AUTOINSTR_EXPORTER="console", **KEEP_ALL)
    assert (TROUBLE, "unset JAEGER_DISABLED") == (found.state, found.advice)


@pytest.mark.parametrize(("level", "told"), [("none", True), ("error", True), ("info", False), ("debug", False)])
def test_silence_is_told(level: str, told: bool) -> None:
    """Somebody whose platform sets OTEL_LOG_LEVEL=error waits for a line about lost spans that never comes."""
    report = doctor.examine({"OTEL_LOG_LEVEL": level, "AUTOINSTR_EXPORTER": "console", **KEEP_ALL})
    notes = [each.text for each in report.findings if each.about == "configuration" and each.state == NOTE]
    assert ([True] if told else []) == [text.startswith(f"OTEL_LOG_LEVEL={level}:") for text in notes]


@pytest.mark.parametrize(
    ("environ", "state", "says"),
    [
        ({"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "0"}, TROUBLE, "no trace is kept"),
        ({"JAEGER_SAMPLER_TYPE": "probabilistic", "JAEGER_SAMPLER_PARAM": "0.25"}, OK, "25 % of the traces"),
        ({"JAEGER_SAMPLER_TYPE": "ratelimiting", "JAEGER_SAMPLER_PARAM": "5"}, OK, "5 traces per second"),
        (KEEP_ALL, OK, "every trace is kept"),
    ],
)
def test_sampler(environ: dict[str, str], state: str, says: str) -> None:
    """ "No traces" is most often a sampler that keeps none."""
    found = the_finding("sampling", AUTOINSTR_EXPORTER="console", **environ)
    assert (state, True) == (found.state, says in found.text), found


# ---- The start -----------------------------------------------------------------------------------


def start_of(out: str) -> list[dict[str, str]]:
    return [found for found in json.loads(out)["findings"] if found["about"] == "start"]


def test_start_through_pythonpath() -> None:
    """An image that sets PYTHONPATH is right, and is to be told so."""
    (found,) = start_of(run("--json", environ={"PYTHONPATH": doctor.boot_folder()})[1])
    assert OK == found["state"]


@pytest.mark.parametrize("flag", ["-E", "-I", "-S"])
def test_flags_that_switch_off_the_start(flag: str) -> None:
    """Python ignores PYTHONPATH or site under these flags, silently; nothing else would tell the user."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    code = (
        f"import sys; sys.path[1:1] = {[str(Path(doctor.__file__).parents[1]), *packages]!r};"
        "from autoinstr.doctor import main; sys.exit(main(['--json']))"
    )
    done = subprocess.run(
        [sys.executable, flag, "-c", code],
        env={**os.environ, "PYTHONPATH": doctor.boot_folder()},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    found = start_of(done.stdout)[0]
    assert (TROUBLE, True) == (found["state"], flag in found["text"]), done.stderr


def test_somebody_elses_sitecustomize_in_front(tmp_path: Path) -> None:
    """Python imports the first sitecustomize only: with another in front the agent never starts."""
    (tmp_path / "sitecustomize.py").write_text("")
    path = os.pathsep.join([str(tmp_path), doctor.boot_folder()])
    found = start_of(run("--json", environ={"PYTHONPATH": path})[1])[0]
    assert (TROUBLE, True) == (found["state"], str(tmp_path) in found["text"])


def test_another_installation(tmp_path: Path) -> None:
    """PYTHONPATH of one environment, Python of another: the agent that runs is not the one that was examined."""
    other = tmp_path / "autoinstr" / "_boot"
    path = os.pathsep.join([doctor.boot_folder(), str(other)])
    found = start_of(run("--json", environ={"PYTHONPATH": path})[1])[-1]
    assert (TROUBLE, True) == (found["state"], str(other) in found["text"])


@pytest.mark.parametrize("fragment", [fragment for fragment, _ in doctor.OTHER_AGENTS])
def test_other_agents(fragment: str, tmp_path: Path) -> None:
    """Two agents make every span twice, and fight over headers."""
    found = findings("neighbours", PYTHONPATH=str(tmp_path / fragment), AUTOINSTR_EXPORTER="console", **KEEP_ALL)
    assert TROUBLE in {finding.state for finding in found}


def test_own_sitecustomize_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a sitecustomize of their own wants to know that it still runs."""
    (tmp_path / "sitecustomize.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert [OK] == [found.state for found in doctor.check_neighbours({}) if str(tmp_path) in found.text]


@pytest.mark.parametrize(
    ("version", "state"), [("1.13.9", TROUBLE), ("1.14.0rc1", OK), ("2.1", OK), ("3.0.0", TROUBLE), ("", TROUBLE)]
)
def test_wrapt(version: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable wrapt nothing is traced, whatever else is right."""

    def installed(name: str) -> str:
        if not version:
            raise doctor.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(doctor.metadata, "version", installed)
    (found,) = doctor.check_wrapt()
    assert (state, state == TROUBLE) == (found.state, bool(found.advice))


# ---- Libraries -----------------------------------------------------------------------------------


def test_libraries_are_found_without_being_imported() -> None:
    """Importing Django to see whether it is there has effects; a library that is left out would go unnoticed."""
    code = (
        "import json, sys; before = set(sys.modules); from autoinstr import config, doctor\n"
        "found = doctor.installed_libraries(config.from_env({}))\n"
        "print(json.dumps([{x.name: [x.version, x.missing_hooks] for x in found}, sorted(set(sys.modules) - before)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    libraries, modules = json.loads(done.stdout)
    assert [name for _, name, _ in TABLE] and set(libraries) == {name for _, name, _ in TABLE}
    assert {} == {name: found for name, found in libraries.items() if not found[0] or found[1]}
    tops = {module.partition(".")[0] for module, _, _ in TABLE} - set(sys.stdlib_module_names)
    assert set() == tops & {name.partition(".")[0] for name in modules}


def test_every_library_has_its_distribution() -> None:
    """A new instrument without a row in doctor would be shown as part of Python."""
    of_python = {name for module, name, _ in TABLE if module.partition(".")[0] in sys.stdlib_module_names}
    known = {name for _, name, _ in TABLE} - of_python
    assert known == set(doctor.DISTRIBUTIONS)


def test_library_that_has_taken_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu is an object without a specification once it has been imported: doctor would end with a traceback."""
    monkeypatch.setitem(sys.modules, "kombu", ModuleType("kombu"))
    libraries = {library.name: library for library in doctor.installed_libraries(config.from_env({}))}
    assert (bool(libraries["redis"].version), libraries["redis"].missing_hooks) == (True, ())


def test_switched_off_library() -> None:
    """ "Why is Flask not traced?" Because a variable says so."""
    effective = config.from_env({"AUTOINSTR_DISABLED_INSTRUMENTS": "flask"})
    found = doctor.check_libraries(doctor.installed_libraries(effective))
    assert [(NOTE, True)] == [(one.state, one.text.startswith("flask ")) for one in found if one.state != OK]


def test_everything_switched_off() -> None:
    """``*`` stands for all libraries."""
    effective = config.from_env({"AUTOINSTR_DISABLED_INSTRUMENTS": "*"})
    assert all(library.switched_off for library in doctor.installed_libraries(effective))


@pytest.mark.parametrize(
    ("version", "missing", "state"), [("9.0", ("flask.app",), TROUBLE), ("1.1", (), NOTE), ("3.1", (), None)]
)
def test_library_that_has_changed(version: str, missing: tuple[str, ...], state: str | None) -> None:
    """A library whose next version moved what is patched is traced no more, and says nothing."""
    library = doctor.Library("flask", version, "3", ("flask.app",), missing, switched_off=False)
    told = [found.state for found in doctor.check_libraries([library]) if found.state != OK]
    assert ([state] if state else []) == told


def test_module_that_is_not_there() -> None:
    """A renamed module, or a folder that became a file, would pass for patchable."""
    assert (True, True, False, False, False) == tuple(
        map(doctor._exists, ("http.client", "json", "json.nothing", "nothing.at.all", "json.decoder.deeper"))
    )


# ---- Sampling strategies -------------------------------------------------------------------------


def ask(port: int) -> Finding:
    return the_finding(
        "sampling", AUTOINSTR_EXPORTER="console", JAEGER_SAMPLING_ENDPOINT=f"http://127.0.0.1:{port}/sampling"
    )


def test_strategy_is_summarised() -> None:
    """The rate that the backend gives is the first thing to know about missing traces."""
    body = json.dumps({"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.125}}).encode()
    with server(body=body) as listening:
        found = ask(listening.server_port)
        assert (OK, True) == (found.state, "0.125" in found.text)
        assert "/sampling?service=" in listening.requests[0][1]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b"\xff"])
def test_strategy_that_is_none(body: bytes) -> None:
    """Some other service on that port: the agent keeps 1 trace in 1000, which looks like none."""
    with server(body=body) as listening:
        found = ask(listening.server_port)
    assert (TROUBLE, True) == (found.state, "0.1 % of the traces" in found.text)
    assert "JAEGER_SAMPLING_ENDPOINT" in found.advice


def test_nobody_gives_strategies() -> None:
    """The way out when one has no remote sampling is not to use it."""
    found = ask(unused_port())
    assert TROUBLE == found.state
    assert "JAEGER_SAMPLER_TYPE=const" in found.advice


# ---- Receivers -----------------------------------------------------------------------------------


def agent_at(host: str, port: int) -> Finding:
    return the_finding("jaeger-udp", JAEGER_AGENT_HOST=host, JAEGER_AGENT_PORT=str(port), **KEEP_ALL)


def test_agent_gets_a_batch_without_spans() -> None:
    """The probe must be something that an agent understands, or its error log blames the user."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(DEADLINE_S)
        assert OK == agent_at("127.0.0.1", agent.getsockname()[1]).state
        assert [] == jaeger.decode_message(agent.recv(65536)).spans


def test_no_agent() -> None:
    """The commonest trouble of all: UDP says nothing by itself."""
    found = agent_at("127.0.0.1", unused_port(socket.SOCK_DGRAM))
    assert (TROUBLE, True) == (found.state, "nobody listens" in found.text)
    assert "JAEGER_AGENT_HOST" in found.advice


def test_agent_without_a_name() -> None:
    """A host that is not known (a typing error, a network of Docker's) is another trouble than a silent one."""
    found = agent_at("agent.invalid", 6831)
    assert (TROUBLE, True) == (found.state, "agent.invalid" in found.text)


@pytest.mark.parametrize(
    ("exporter", "environ", "decode"),
    [
        ("jaeger-http", {}, lambda body: jaeger.decode_batch(body).spans),
        ("otlp", {}, otlp.decode_protobuf),
        ("otlp", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, otlp.decode_json),
        ("zipkin", {}, zipkin.decode_json),
    ],
)
def test_collector_gets_a_batch_without_spans(
    exporter: str, environ: dict[str, str], decode: Callable[[bytes], list[Any]]
) -> None:
    """The probe must be harmless, and be what the agent would send: same path, type and credentials."""
    credentials = {"JAEGER_AUTH_TOKEN": "t", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t"}
    with server(202) as listening:
        url = f"http://127.0.0.1:{listening.server_port}/spans"
        assert OK == export_to(url, exporter, **credentials, **environ).state
        ((method, path, headers, body),) = listening.requests
    assert ("POST", "/spans", []) == (method, path, decode(body))
    if exporter != "zipkin":
        assert "Bearer t" == headers["Authorization"]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "wants credentials"),
        (403, "refuses these credentials"),
        (404, "nothing is served at this path"),
        (405, "takes no POST"),
        (415, "does not take this encoding"),
        (503, "not ready"),
        (500, "log"),
    ],
)
def test_collector_refuses(status: int, advice: str) -> None:
    """A bare status would leave it to the user to know which variable it belongs to."""
    with server(status) as listening:
        found = export_to(f"http://127.0.0.1:{listening.server_port}/v1/traces")
    assert (TROUBLE, True) == (found.state, str(status) in found.text)
    assert advice in found.advice
    assert "{" not in found.advice


def test_no_collector() -> None:
    """The container was not started."""
    found = export_to(f"http://127.0.0.1:{unused_port()}/v1/traces")
    assert (TROUBLE, True) == (found.state, "autoinstr serve" in found.advice)


def test_collector_without_a_name() -> None:
    """A typing error in the host."""
    assert "host is not known" in export_to("http://collector.invalid:4318/").advice


@pytest.mark.parametrize("words", [b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", b""])
def test_port_of_grpc(words: bytes) -> None:
    """4317 instead of 4318 is the commonest mistake with OTLP."""
    with speaker(words) as port:
        found = export_to(f"http://127.0.0.1:{port}/v1/traces")
    assert (TROUBLE, True) == (found.state, "gRPC" in found.advice)


def test_collector_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that swallows packets must not hang the doctor."""
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.2)
    asked = time.monotonic()
    with speaker(None) as port:
        found = export_to(f"http://127.0.0.1:{port}/v1/traces", OTEL_EXPORTER_OTLP_TIMEOUT="30000")
    assert time.monotonic() - asked < 20
    assert (TROUBLE, True) == (found.state, "no answer in time" in found.advice)


def test_certificate_that_nobody_vouches_for(authority: Path) -> None:
    """The way out is the variable with the authority's file, and with it all is well."""
    with server(context=tls(authority)) as listening:
        url = f"https://127.0.0.1:{listening.server_port}/v1/traces"
        found = export_to(url)
        assert (TROUBLE, True) == (found.state, "authority: OTEL_EXPORTER_OTLP_CERTIFICATE" in found.advice)
        assert OK == export_to(url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority)).state


def test_tls_to_a_port_without() -> None:
    """https:// instead of http://."""
    with server() as listening:
        found = export_to(f"https://127.0.0.1:{listening.server_port}/v1/traces")
    assert (TROUBLE, True) == (found.state, "use http://" in found.advice)


def test_missing_client_certificate() -> None:
    """A path that is wrong in the container."""
    found = export_to("https://127.0.0.1:1/", OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE="/nowhere.pem")
    assert (TROUBLE, True) == (found.state, "file of certificates" in found.advice)


def test_no_exporter() -> None:
    """OTEL_TRACES_EXPORTER=none, inherited from somewhere."""
    found = the_finding("export", OTEL_TRACES_EXPORTER="none", **KEEP_ALL)
    assert (TROUBLE, "unset OTEL_TRACES_EXPORTER") == (found.state, found.advice)


@pytest.mark.parametrize(("name", "state"), [("spans.jsonl", OK), ("no/folder/spans.jsonl", TROUBLE), (".", TROUBLE)])
def test_file(name: str, state: str, tmp_path: Path) -> None:
    """A file in a folder that is not there gets no spans."""
    path = str(tmp_path / name)
    assert state == the_finding("file", AUTOINSTR_EXPORTER="file", AUTOINSTR_FILE=path, **KEEP_ALL).state
