"""The command line of ``autoinstr serve``, as a process."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import HOST, NAMES, Backend, running, serve_command


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(serve_command(*options), capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("option", NAMES)
def test_a_taken_port_is_an_error_that_names_its_option(backend: Backend, option: str) -> None:
    """Whoever runs another one has to learn which of six ports collides, and by which option to move it."""
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


@pytest.mark.parametrize("options", [("--query-port", "70000"), ("--otlp-port", "x"), ("--max-spans", "0")])
def test_a_wrong_option_is_explained(options: tuple[str, str]) -> None:
    """The command line's mistakes end with status 2 and the option's name."""
    ended = run(*options)
    assert ended.returncode == 2
    assert options[0] in ended.stderr.splitlines()[-1]


def test_each_port_serves_its_own_paths_only(backend: Backend) -> None:
    """Whoever opens the port for spans to the network must not open the stored traces with it."""
    assert backend.get("query", "/api/services")[0] == 200
    assert [backend.get(name, "/api/services")[0] for name in ("sampling", "collector", "otlp", "zipkin")] == [404] * 4
