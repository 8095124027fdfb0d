"""The overhead budget in a real server: rates that follow, errors beyond them, an account that the metrics show."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fakes import DEADLINE_S, SpanSink, until
from ports import free_port

pytest.importorskip("gunicorn")

SHARE = 0.02
APP = """
from time import thread_time

def app(environ, start_response):
    until = thread_time() + 0.001
    while thread_time() < until:
        pass
    fails = environ["PATH_INFO"] == "/fails"
    start_response("500 Oops" if fails else "200 OK", [("Content-Length", "0")])
    return [b""]
"""


class Traffic:
    """Requests over one connection, every tenth of which fails."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def is_answered(self) -> bool:
        try:
            self.get("/")
        except OSError:
            self.connection.close()
            return False
        return True

    def get(self, path: str) -> int:
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.count += 1
            assert self.get("/" if self.count % 10 else "/fails") == (200 if self.count % 10 else 500)


def cpu_of(port: int) -> dict[str, int]:
    """CPU microseconds of "process" and "tracing" by the process's own account."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    found = [line for line in lines if line.startswith("jaeger_tracer_cpu_microseconds_total{")]
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in found}


def attributes_of(sink: SpanSink) -> list[dict[str, Any]]:
    """Those of every span that arrived, with its name."""
    return [
        {"name": span["name"], **{item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}}
        for request in list(sink.requests)
        for group in json.loads(request.body)["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]


def test_budget_of_a_server(tmp_path: Path) -> None:
    """A team that allows 2 % would see no trace, every trace, or none of the requests that failed; and not what it pays."""
    (tmp_path / "budget_app.py").write_text(APP)
    port, metrics_port = free_port(), free_port(2)
    sink = SpanSink()
    command = ["gunicorn", "--threads", "2", "--preload", "-b", f"127.0.0.1:{port}", "budget_app:app"]
    server = subprocess.Popen(
        [sys.executable, "-m", "autoinstr", "-m", *command],
        env={
            **os.environ,
            **sink.environ,
            "JAEGER_SAMPLER_TYPE": "budget",
            "JAEGER_SAMPLER_PARAM": str(SHARE),
            "AUTOINSTR_METRICS_PORT": str(metrics_port),
        },
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    traffic = Traffic(port)
    try:
        until(traffic.is_answered, "an answer")
        traffic.run(2.5)
        before, count = cpu_of(metrics_port), traffic.count
        traffic.run(3)
        after = cpu_of(metrics_port)
    finally:
        traffic.connection.close()
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=DEADLINE_S)
        sink.close()
    assert b"autoinstr" not in said
    spent = (after["tracing"] - before["tracing"]) / (after["process"] - before["process"])
    assert 0 < spent < SHARE * 1.3
    found = attributes_of(sink)
    assert {span["sampler.type"] for span in found} == {"budget"}
    by_rate = [span for span in found if "sampler.reason" not in span]
    assert 0 < len(by_rate) < 0.8 * traffic.count
    assert all(0 < span["sampler.param"] <= 1 and 0 <= span["sampler.spent"] < 0.2 for span in by_rate)
    beyond = [span for span in found if span.get("sampler.reason") == "error"]
    assert beyond
    assert {(span["http.response.status_code"], span["sampler.param"]) for span in beyond} == {("500", 1)}
    assert count < traffic.count
