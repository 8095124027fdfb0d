"""The agent on a host as processes: killed, and with a real collector behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from autoinstr.backend.forward import Forwarder

from . import clients
from .conftest import poll, running
from .recorder import Recorder, otlp_names

PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def collector() -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.start()
    yield recorder
    recorder.stop()


AGENT = """
import sys
from autoinstr.backend.forward import Forwarder
from autoinstr.model import Batch, Resource, SpanData
forwarder = Forwarder(sys.argv[1], folder=sys.argv[2])
number = int(sys.argv[3])
while True:
    forwarder.write([Batch(Resource("shop"), [SpanData(f"{number}", 7, number + 1, start_ns=1, end_ns=2)])])
    print(number, flush=True)
    number += 1
"""


def test_an_agent_that_is_killed_loses_nothing(collector: Recorder, tmp_path: Path) -> None:
    """kill -9, with the collector up and down: all that was answered arrives after the next start."""
    answered = -1
    for round_number in range(4):
        arguments = [f"http://127.0.0.1:{collector.port}", str(tmp_path), str(answered + 1)]
        process = subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(100):
            line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait(timeout=30)
        process.stdout.close()
        answered = int([line, *rest[: rest.rfind("\n") + 1].split()][-1])
        if round_number % 2:
            collector.start()
        else:
            collector.stop()
    forwarder = Forwarder(f"http://127.0.0.1:{collector.port}", folder=str(tmp_path))
    try:
        poll(lambda: forwarder.figures()["forward_waiting_spans"] == 0, "an empty spool")
    finally:
        forwarder.close()
    assert {str(number) for number in range(answered + 1)} <= set(otlp_names(collector.taken))


@pytest.mark.parametrize("scheme", ["http", "jaeger+http"])
def test_from_a_datagram_through_agent_and_collector_to_a_trace(tmp_path: Path, scheme: str) -> None:
    """Two real processes: what an old client sends to the agent is found in the collector, also what was sent while the
    collector was away, and programs get the collector's strategies."""
    strategy = {"default_strategy": {"type": "probabilistic", "param": 0.25}}
    (tmp_path / "strategies.json").write_text(json.dumps(strategy))
    kept = ["--data", str(tmp_path / "collector"), "--strategies-file", str(tmp_path / "strategies.json")]
    with running(tmp_path, *kept) as collector:
        ports = collector.ports
        receiver = ports["otlp" if scheme == "http" else "collector"]
        agent_folder = tmp_path / "agent"
        agent_folder.mkdir()
        way = ["--forward", f"{scheme}://127.0.0.1:{receiver}", "--data", str(agent_folder)]
        asking = ["--forward-sampling", f"http://127.0.0.1:{ports['sampling']}/sampling"]
        stack = ExitStack()
        agent = stack.enter_context(running(agent_folder, *way, *asking))
        with stack:
            started = time.monotonic()
            agent.send_datagram(clients.jaeger_datagram("before", compact=True))
            collector.wait_for_service("before")
            assert time.monotonic() - started < 5
            status, body = agent.get("sampling", "/sampling?service=before")
            assert (status, json.loads(body)["probabilisticSampling"]) == (200, {"samplingRate": 0.25})
            collector.process.kill()
            collector.process.wait(timeout=30)
            agent.send_datagram(clients.jaeger_datagram("meanwhile", compact=True))
            assert agent.post("otlp", "/v1/traces", clients.otlp_body("answered"), PROTOBUF)[0] == 200
            (tmp_path / "ports.json").unlink()
            fixed = [word for name in ports for word in (f"--{name}-port", str(ports[name]))]
            with running(tmp_path, *kept, *fixed) as again:
                for service in ("before", "meanwhile", "answered"):
                    again.wait_for_service(service)
