"""Requests per second that a real server keeps under an agent, as a share of what it does bare.

One server process on CPU 0 at saturation, `wrk` with 32 connections, the collector and the origin server on another CPU.
A pair of samples is two servers, one bare and one under an agent, that take turns of a second: whatever slows the machine
down for a while slows both. CPU per request is that of all processes of the server, until they have ended.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --scenarios uvicorn --variants autoinstr@100 ddtrace@100 --pairs 5
"""

from __future__ import annotations

import functools
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from agents import BARE, Addresses, Variant
from measure import (
    MEASURED_CPU,
    PEER_CPU,
    Pairs,
    Report,
    Sample,
    SampleFailed,
    added,
    alternate,
    bare,
    chosen_variants,
    collector,
    in_words,
    parser,
    peer,
    share,
    start_pinned,
    table,
    take,
)
from workloads import HEADERS

CONNECTIONS = 32
START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0

GUNICORN = ("gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "8", "--bind")

UVICORN = ("uvicorn", "--no-access-log", "--log-level", "warning", "--port")

#: Requests before the load, so that what is imported or cached at the first ones is not measured.
WARM_UP = 200


class Scenario(NamedTuple):
    """``PORT`` in the program stands for the port; ``end`` is a signal after which the interpreter's exit handlers run."""

    title: str
    path: str
    program: tuple[str, ...]
    end: signal.Signals


SCENARIOS = {
    "gunicorn": Scenario(
        "gunicorn (gthread, 1 worker of 8 threads), Flask, each request makes one `requests.get`",
        "/call",
        (*GUNICORN, "127.0.0.1:PORT", "service_flask:app"),
        signal.SIGTERM,
    ),
    # After SIGTERM uvicorn kills itself with the same signal, and what agents have not sent by then is lost.
    "uvicorn": Scenario(
        "uvicorn (1 worker, uvloop, httptools), FastAPI `/`",
        "/",
        (*UVICORN, "PORT", "service_fastapi:app"),
        signal.SIGINT,
    ),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_open(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SampleFailed("the server did not start")


def processes_under(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU of a running process and all that it started, ended children included."""
    ticks = 0
    for one in processes_under(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def ask(port: int, path: str, times: int) -> None:
    """Make requests one after the other, each on a connection of its own."""
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers=HEADERS)
            response = connection.getresponse()
            if response.status != 200:
                raise SampleFailed(f"status {response.status}")
            response.read()
        finally:
            connection.close()


def stop(process: subprocess.Popen[str], by: signal.Signals = signal.SIGTERM) -> float:
    """End a server; CPU seconds of its whole life, children included."""
    process.send_signal(by)
    deadline = time.monotonic() + STOP_TIMEOUT
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.02)


def load(url: str) -> Sample:
    """One turn of wrk; requests, requests per second, milliseconds of latency."""
    headers = [word for name, value in HEADERS.items() if name != "Host" for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "--latency", *headers, url]
    process = start_pinned(command, PEER_CPU, stdout=subprocess.PIPE)
    output = process.communicate()[0]
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    total = re.search(r"(\d+) requests in", output)
    if rate is None or total is None or "Non-2xx" in output:
        raise SampleFailed(output)
    latencies = {f"p{percent}_ms": milliseconds(output, percent) for percent in (50, 99)}
    return {"rate": float(rate[1]), "requests": int(total[1]), **latencies}


def milliseconds(output: str, percent: int) -> float:
    found = re.search(rf"\s{percent}%\s+([\d.]+)(us|ms|s)\n", output)
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]] if found else float("nan")


class Server:
    """A server process under an agent, and what its loads gave."""

    def __init__(self, scenario: Scenario, to: Addresses, origin: str, variant: Variant) -> None:
        self.scenario, self.port, self.loads = scenario, free_port(), list[Sample]()
        command = variant.agent.command(*(word.replace("PORT", str(self.port)) for word in scenario.program))
        variables = {**variant.agent.variables(to, variant.rate), "BENCH_ORIGIN": origin}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self.process = start_pinned(command, MEASURED_CPU, env=variables, stdout=self.log, stderr=self.log)

    def warm_up(self) -> None:
        try:
            wait_until_open(self.process, self.port)
            ask(self.port, self.scenario.path, WARM_UP)
        except (SampleFailed, OSError) as error:
            self.log.seek(0)
            raise SampleFailed(f"{error}\n{self.log.read()[-2000:]}") from None
        self.cpu_before = cpu_seconds(self.process.pid)

    def take_turn(self) -> None:
        self.loads.append(load(f"http://127.0.0.1:{self.port}{self.scenario.path}"))

    def finish(self) -> Sample:
        requests = sum(one["requests"] for one in self.loads)
        cpu = stop(self.process, self.scenario.end) - self.cpu_before
        medians = {key: statistics.median(one[key] for one in self.loads) for key in ("rate", "p50_ms", "p99_ms")}
        return {**medians, "requests": requests, "us": cpu * 1e6 / requests, "loads": self.loads}

    def end(self) -> None:
        if self.process.returncode is None:
            stop(self.process)
        self.log.close()


def measure_pair(
    scenario: Scenario, turns: int, to: Addresses, origin: str, variant: Variant, variant_first: bool
) -> tuple[Sample, Sample]:
    """Two servers loaded in turns. What the collector got is of all requests, those before the load included."""
    take(to)
    plain = Server(scenario, to, origin, BARE)
    theirs = Server(scenario, to, origin, variant)
    try:
        plain.warm_up()
        theirs.warm_up()
        for turn in range(turns):
            for server in (theirs, plain) if (turn % 2 == 1) != variant_first else (plain, theirs):
                server.take_turn()
        results = plain.finish(), theirs.finish()
    finally:
        plain.end()
        theirs.end()
    got = take(to)
    return results[0], {**results[1], **got, "spans_per_request": got["spans"] / (results[1]["requests"] + WARM_UP)}


def row(label: str, pairs: Pairs) -> list[str]:
    latest = pairs[-1][1]
    sent = latest["spans_per_request"]
    return [
        in_words(label),
        share(pairs, "rate").text(2),
        added(pairs, "us").text(0),
        added(pairs, "p50_ms").text(1),
        f"{sent:.2f}" if sent else "–",
        f"{latest['bytes'] / latest['spans']:.0f}" if latest["spans"] else "–",
    ]


def main() -> None:
    arguments = parser(__doc__, pairs=5)
    arguments.add_argument("--scenarios", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    arguments.add_argument(
        "--seconds", type=int, default=5, help="turns of one second per sample (default: %(default)s)"
    )
    options = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: `apt-get install wrk`, `brew install wrk`")
    variants = chosen_variants(options)
    report = Report("throughput", options)
    with collector() as to, peer("origin.py") as origin:
        for name in options.scenarios:
            scenario = SCENARIOS[name]
            run = functools.partial(
                measure_pair, scenario, options.seconds, to, f"http://127.0.0.1:{origin['port']}/stock"
            )
            results = alternate(variants, options.pairs, run)
            report.record["samples"][name] = results
            report.add(scenario.title, summary(results))
    report.save()


def summary(results: dict[str, Pairs]) -> str:
    """The text of a scenario's part of the report."""
    head = ("agent", "share of bare", "added µs of CPU", "added ms, p50", "spans/request", "bytes/span")
    text = table(head, [row(label, pairs) for label, pairs in results.items()])
    if results:
        alone = f"Bare: {bare(results, 'rate').text(0)} requests/s, {bare(results, 'us').text(0)} µs of CPU each.\n\n"
        text = alone + text
    return text


if __name__ == "__main__":
    main()
