"""What an agent costs before and beside the requests: time to start, memory of a Flask worker.

Start: `python -c pass` under the agent's launcher, from the first exec to the exit; wall clock and CPU. Memory: of the one
sync worker of gunicorn that serves a Flask application, after some requests, by the kernel's own figures.

    python benchmarks/startup.py
    python benchmarks/startup.py --variants autoinstr@100 opentelemetry@100 --pairs 20
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import time
from pathlib import Path

from agents import Addresses, Variant
from measure import (
    MEASURED_CPU,
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
    one_after_the_other,
    parser,
    start_pinned,
    table,
)
from throughput import ask, free_port, processes_under, stop, wait_until_open

PROGRAMS = {"pass": "pass", "imports": "import flask, requests"}
TITLES = {"pass": "Start of `python -c pass`", "imports": "Start of `python -c 'import flask, requests'`"}

#: Enough for every cache and thread of an agent to be there.
REQUESTS = 300


def start_sample(program: str, to: Addresses, variant: Variant) -> Sample:
    """Milliseconds from exec to exit, of the wall clock and of CPU, children included."""
    command = variant.agent.command("python", "-c", program)
    variables = variant.agent.variables(to, variant.rate)
    begin = time.perf_counter()
    process = start_pinned(command, MEASURED_CPU, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SampleFailed(f"`{' '.join(command[1:])}` ended with status {process.returncode}")
    return {"ms": wall * 1000, "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000}


def memory_sample(to: Addresses, variant: Variant) -> Sample:
    """MiB of a Flask worker: resident now, at most, in proportion; the last also of all processes of the server."""
    port = free_port()
    bind = f"127.0.0.1:{port}"
    command = variant.agent.command("gunicorn", "--workers", "1", "--bind", bind, "service_flask:app")
    with tempfile.TemporaryFile("w+") as log:
        server = start_pinned(
            command, MEASURED_CPU, env=variant.agent.variables(to, variant.rate), stdout=log, stderr=log
        )
        try:
            wait_until_open(server, port)
            ask(port, "/", REQUESTS)
            return {**memory(worker_of(server.pid)), "pss_all": sum(map(proportional, processes_under(server.pid)))}
        finally:
            stop(server)


def worker_of(master: int) -> int:
    """The worker is the child that holds Flask; agents may have children of their own."""
    children = [pid for pid in processes_under(master)[1:] if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if len(children) != 1:
        raise SampleFailed(f"{len(children)} workers instead of one")
    return children[0]


def kib(file: str, field: str) -> int:
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def proportional(pid: int) -> float:
    """MiB resident, pages that are shared counted in part."""
    return kib(f"/proc/{pid}/smaps_rollup", "Pss") / 1024


def memory(pid: int) -> Sample:
    status = f"/proc/{pid}/status"
    return {"rss": kib(status, "VmRSS") / 1024, "hwm": kib(status, "VmHWM") / 1024, "pss": proportional(pid)}


def rows(results: dict[str, Pairs], keys: tuple[str, ...]) -> list[list[str]]:
    return [
        ["bare", *(bare(results, key).text() for key in keys)],
        *([in_words(name), *("added " + added(pairs, key).text() for key in keys)] for name, pairs in results.items()),
    ]


def main() -> None:
    arguments = parser(__doc__, pairs=15)
    arguments.add_argument("--memory-pairs", type=int, default=3, help="pairs for memory, which varies little")
    options = arguments.parse_args()
    variants = [variant for variant in chosen_variants(options) if variant.rate or variant.agent.name == "bare"]
    report = Report("startup", options)
    with collector() as to:
        for name, program in PROGRAMS.items():
            results = alternate(
                variants, options.pairs, one_after_the_other(functools.partial(start_sample, program, to))
            )
            report.record["samples"][name] = results
            text = table(("agent", "ms (min to max)", "ms of CPU (min to max)"), rows(results, ("ms", "cpu_ms")))
            report.add(TITLES[name], text)
        run = one_after_the_other(functools.partial(memory_sample, to))
        results = alternate(variants, options.memory_pairs, run)
        report.record["samples"]["memory"] = results
        head = ("agent", "resident, MiB", "at most, MiB", "proportional (PSS), MiB", "PSS of all processes, MiB")
        report.add(
            "Memory of a gunicorn worker with Flask", table(head, rows(results, ("rss", "hwm", "pss", "pss_all")))
        )
    report.save()


if __name__ == "__main__":
    main()
