"""The command line of ``autoinstr serve``, as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from autoinstr.backend import app, options

from . import clients
from .conftest import HOST, NAMES, Backend, poll, running, serve_command
from .test_writer import Shelf

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def run(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = serve_command(*options)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environ}
    )


@pytest.mark.parametrize("option", NAMES)
def test_a_taken_port_is_an_error_that_names_its_option(backend: Backend, option: str) -> None:
    """Whoever runs another one has to learn which of eight ports collides, and by which option to move it."""
    port = backend.ports[option]
    ended = run(f"--{option}-port", str(port))
    assert ended.returncode == 1
    assert (
        ended.stderr == f"autoinstr serve: cannot listen on {HOST}:{port} (--{option}-port): Address already in use\n"
    )
    assert ended.stdout == ""


def test_ports_are_printed_and_written(tmp_path: Path) -> None:
    """With port 0 there is no other way to know where to send and to look."""
    with running(tmp_path) as backend:
        lines = [backend.process.stdout.readline() for _ in NAMES]
        ports = json.loads((tmp_path / "ports.json").read_text())
        assert lines == [f"{name} {HOST}:{ports[name]}\n" for name in NAMES]
        assert backend.process.stdout.readline() == f"web interface http://{HOST}:{ports['query']}/\n"
        assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]
        # Listening already: who has read the file may connect at once.
        assert backend.get("query", "/api/services")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: int) -> None:
    """Supervisors and Ctrl-C expect a quiet and successful end, without a traceback."""
    with running(tmp_path) as backend:
        backend.get("query", "/")
        backend.process.send_signal(number)
        assert backend.process.wait(timeout=30) == 0
        assert backend.process.stderr.read() == ""


@pytest.mark.parametrize("content", ["{", '{"default_strategy": 5}', None], ids=["not JSON", "wrong form", "absent"])
def test_a_bad_strategies_file_prevents_the_start(tmp_path: Path, content: str | None) -> None:
    """Starting with other rates than those in the file would sample wrongly and silently."""
    path = tmp_path / "strategies.json"
    if content is not None:
        path.write_text(content)
    ended = run("--strategies-file", str(path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"autoinstr serve: strategies file {path}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--query-port", "70000"),
        ("--otlp-port", "x"),
        ("--max-spans", "0"),
        ("--max-bytes", "5"),
        ("--max-bytes", "many"),
        ("--max-age", "soon"),
        ("--adaptive", "0"),
        ("--storage", "stone"),
        ("--storage", "postgres"),
        ("--forward-header", "x"),
    ],
)
def test_a_wrong_option_is_explained(options: tuple[str, str]) -> None:
    """The command line's mistakes end with status 2 and the option's name."""
    ended = run(*options, AUTOINSTR_SERVE_POSTGRES="")
    assert ended.returncode == 2
    assert options[0] in ended.stderr.splitlines()[-1]


def test_each_port_serves_its_own_paths_only(backend: Backend) -> None:
    """Whoever opens the port for spans to the network must not open the stored traces with it."""
    assert backend.get("query", "/api/services")[0] == 200
    assert [backend.get(name, "/api/services")[0] for name in ("sampling", "collector", "otlp", "zipkin")] == [404] * 4


def test_a_port_can_be_left_out(tmp_path: Path) -> None:
    """Where a Jaeger runs already, the query port alone is wanted."""
    left_out = [word for name in NAMES if name != "query" for word in (f"--{name}-port", "off")]
    with running(tmp_path, *left_out) as backend:
        assert list(backend.ports) == ["query"]
        assert backend.get("query", "/api/services")[0] == 200


def test_it_listens_within_a_second(tmp_path: Path) -> None:
    """A slow start is a reason to leave it out. CPU is measured, since other work on this machine is not its fault."""
    with running(tmp_path) as backend:
        fields = Path(f"/proc/{backend.process.pid}/stat").read_text().rpartition(")")[2].split()
        assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < 1


def store_span(backend: Backend, service: str) -> int:
    return backend.post("otlp", "/v1/traces", clients.otlp_body(service), PROTOBUF)[0]


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """The promise of a 2xx: the sender forgets the spans. Nothing may be left to the end of the process."""
    with running(tmp_path, "--data", str(tmp_path / "data")) as backend:
        assert [store_span(backend, f"kept-{number}") for number in range(20)] == [200] * 20
        backend.process.kill()
        backend.process.wait(30)
    (tmp_path / "ports.json").unlink()
    with running(tmp_path, "--data", str(tmp_path / "data")) as backend:
        assert set(backend.data("/api/services")) >= {f"kept-{number}" for number in range(20)}


def test_what_came_over_udp_survives_an_end_in_order(tmp_path: Path) -> None:
    """Datagrams have no answer: what has come when SIGTERM comes has to be written first."""
    services = [f"late-{number}" for number in range(100)]
    datagrams = [clients.jaeger_datagram(service, compact=True) for service in services]
    with running(tmp_path, "--data", str(tmp_path / "data")) as backend:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, backend.ports["agent"]))
            for datagram in datagrams:
                sock.send(datagram)
        backend.process.terminate()
        assert backend.process.wait(30) == 0
        assert backend.process.stderr.read() == ""
    (tmp_path / "ports.json").unlink()
    with running(tmp_path, "--data", str(tmp_path / "data")) as backend:
        assert set(backend.data("/api/services")) == set(services)


def test_the_store_is_closed_after_the_last_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is slow at the end, a disk that wakes up, must not cost what waits for it."""

    class Slow(Shelf):
        def close(self) -> None:
            self.writes.append(-1)

    shelf = Slow()
    monkeypatch.setattr(app, "_open_store", lambda chosen: shelf)
    with ExitStack() as closing:
        backend = app.Backend(options.parse([]), closing)
        shelf.is_open.clear()
        for service in ("one", "two"):
            backend.take_datagrams([clients.jaeger_datagram(service, compact=True)])
        assert shelf.is_busy.wait(30)
        threading.Timer(0.2, shelf.is_open.set).start()
    assert sum(shelf.writes) == 1
    assert shelf.writes[-1] == -1


def test_a_live_tail_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Somebody always has the page open."""
    with running(tmp_path) as backend:
        connection = http.client.HTTPConnection(HOST, backend.ports["query"], timeout=30)
        connection.request("GET", "/ui/data/live")
        response = connection.getresponse()
        assert response.status == 200
        started = time.monotonic()
        backend.process.terminate()
        assert backend.process.wait(30) == 0
        assert time.monotonic() - started < 2.5
        connection.close()
        assert backend.process.stderr.read() == ""


def test_by_default_spans_are_kept_in_the_users_own_folder(tmp_path: Path) -> None:
    """Traces have to survive a restart without an option, and belong to nobody else on the machine."""
    ports = tmp_path / "ports.json"
    words = [word for name in NAMES for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "autoinstr", "serve", *words, "--ports-file", str(ports)]
    environ = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        poll(lambda: ports.exists() or process.poll() is not None, "the ports file")
        assert store_span(Backend(process, json.loads(ports.read_text())), "default") == 200
    finally:
        process.terminate()
        _, error = process.communicate(timeout=30)
    assert error == ""
    [folder] = tmp_path.rglob("autoinstr")
    assert (folder.stat().st_mode & 0o077) == 0
    assert list((folder / "traces").iterdir())


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"XDG_DATA_HOME": "/data"}, "linux", "/data/autoinstr"),
        ({"XDG_DATA_HOME": "relative"}, "linux", "~/.local/share/autoinstr"),
        ({}, "linux", "~/.local/share/autoinstr"),
        ({}, "darwin", "~/Library/Application Support/autoinstr"),
    ],
)
def test_data_folders(environ: dict[str, str], platform: str, folder: str) -> None:
    """Each system has its place, which its users back up and clean."""
    assert options.data_folder(environ, platform) == os.path.expanduser(folder)


@pytest.mark.parametrize(
    ("text", "number"), [("512M", 512 << 20), ("2G", 2 << 30), ("1.5 GiB", 3 << 29), ("2000000", 2_000_000)]
)
def test_sizes(text: str, number: int) -> None:
    """People write sizes in units."""
    assert options.size(text) == number


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("0", 0)])
def test_durations(text: str, seconds: float) -> None:
    """And times."""
    assert options.duration(text) == seconds


def test_secrets_need_not_be_in_the_list_of_processes(tmp_path: Path) -> None:
    """Everybody on a machine can read command lines."""
    (tmp_path / "user").write_text("ann:from-file\n")
    chosen = options.parse(["--user", f"@{tmp_path / 'user'}"])
    found = options.credentials(chosen, {options.TOKEN_VARIABLE: "from-environment"})
    assert (found.users, found.tokens) == (("ann:from-file",), ("from-environment",))


@pytest.mark.parametrize("words", [("--user", "ann"), ("--user", "@/nowhere/at/all"), ("--token", "")])
def test_a_secret_that_is_none_prevents_the_start(words: tuple[str, str]) -> None:
    """Starting without the password that was meant would be open to everybody."""
    ended = run(*words)
    assert ended.returncode == 1
    assert words[0] in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_beyond_loopback_without_a_password_it_warns(tmp_path: Path) -> None:
    """Whoever opens it to a network has to know that the network reads the traces."""
    for words, warns in ((("--host", "0.0.0.0"), True), (("--host", "0.0.0.0", "--token", "x"), False)):
        (tmp_path / "ports.json").unlink(missing_ok=True)
        with running(tmp_path, *words) as backend:
            backend.process.terminate()
            error = backend.process.communicate(timeout=30)[1]
        assert ("open_to_the_network" in error) == warns


def test_logs_in_json_are_one_object_a_line(tmp_path: Path) -> None:
    """A collector of logs takes lines apart; a traceback in between would spoil them."""
    with running(tmp_path, "--log", "json", "--host", "0.0.0.0") as backend:
        with socket.create_connection((HOST, backend.ports["query"])) as sock:
            sock.sendall(b"no http\r\n\r\n")
            sock.recv(1000)
        backend.process.terminate()
        error = backend.process.communicate(timeout=30)[1]
    events = [json.loads(line) for line in error.splitlines()]
    assert [event["event"] for event in events] == ["open_to_the_network", "listening", "server", "stopped"]
    assert events[1]["query"] == backend.ports["query"]
    assert {"time", "level"} <= set(events[0])


def test_health_and_readiness(backend: Backend) -> None:
    """An orchestrator asks; a backend that cannot store should get no more spans."""
    assert backend.get("query", "/health") == (200, b"ok\n")
    assert backend.get("query", "/ready") == (200, b"ready\n")


def test_a_folder_that_cannot_be_written_prevents_the_start(tmp_path: Path) -> None:
    """Better now than at the first span."""
    (tmp_path / "file").write_text("")
    ended = run("--data", str(tmp_path / "file" / "data"))
    assert ended.returncode == 1
    assert "--data" in ended.stderr
    assert ended.stderr.count("\n") == 1


#: A sample in Prometheus' text format: name, labels, value.
SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[a-z]+="(?P<first>(?:[^"\\\n]|\\[n"\\])*)"(?:,[a-z]+="[^"\\\n]*")*\})? -?\d+'
)


def test_metrics_are_in_prometheus_format(backend: Backend) -> None:
    """One line that is wrong, and Prometheus takes none of them."""
    store_span(backend, 'quo"ted\\\n')
    text = backend.get("query", "/metrics")[1].decode()
    samples = [SAMPLE.fullmatch(line) for line in text.splitlines() if not line.startswith("# TYPE ")]
    assert None not in samples
    assert any(sample["first"] == r"quo\"ted\\\n" for sample in samples)
    names = {sample["name"] for sample in samples}
    assert {"autoinstr_writer_queue_bytes", "autoinstr_store_spans", "autoinstr_udp_kernel_buffer_bytes"} <= names
    kinds = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE "))
    assert names <= set(kinds)


def test_a_forwarder_sends_everything_on(tmp_path: Path) -> None:
    """The agent on a host: spans of all kinds, and the collector's sampling strategies."""
    strategies = tmp_path / "strategies.json"
    strategies.write_text('{"default_strategy": {"type": "probabilistic", "param": 0.25}}')
    for name in ("collector", "agent"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "collector", "--strategies-file", str(strategies)) as collector:
        url = f"http://{HOST}:{collector.ports['otlp']}"
        sampling = f"http://{HOST}:{collector.ports['sampling']}/sampling"
        words = ("--forward", url, "--forward-sampling", sampling, "--data", str(tmp_path / "agent"))
        with running(tmp_path / "agent", *words) as agent:
            agent.send_datagram(clients.jaeger_datagram("by-udp", compact=True))
            assert store_span(agent, "by-otlp") == 200
            for service in ("by-udp", "by-otlp"):
                assert len(collector.wait_for_service(service)["spans"]) == 1
            status, body = agent.get("sampling", "/sampling?service=x")
            assert (status, json.loads(body)["probabilisticSampling"]["samplingRate"]) == (200, 0.25)
            assert agent.get("query", "/ready")[0] == 200
            assert agent.metric("autoinstr_forward_received_spans_total") == 2


def test_an_unwritable_ports_file_is_explained(tmp_path: Path) -> None:
    """A supervisor waits for that file; it must not find a running backend without one."""
    ended = run("--ports-file", str(tmp_path / "nowhere" / "ports.json"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("autoinstr serve: cannot write ")
    assert ended.stderr.count("\n") == 1
