"""``autoinstr bench worker``: makes load for a campaign that runs on another host (``bench run --workers N``).

Owns: the workers' processes on this host, and their coming back for each run.
Must not know: the campaign; mode, rate, users and schedule come from its master.
Invariant: nothing is left running after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from autoinstr.bench import load, scenarios
from autoinstr.bench.parts import PASSED, Refusal

POLL_S = 0.1
END_TIMEOUT_S = 10.0
#: A worker that ends by a fault at once would be started again and again.
FAULTS_IN_A_ROW = 3


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT``. Raises Refusal."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise Refusal(f"{text!r} is not an address: it is written HOST:PORT, such as 10.0.0.1:5557")
    return host.strip("[]"), int(port)


def main(words: list[str]) -> int:
    """Work until Ctrl-C."""
    parser = argparse.ArgumentParser("autoinstr bench worker", description="Make load for a campaign on another host.")
    parser.add_argument("--master", required=True, metavar="HOST:PORT", help="where `bench run --workers` listens")
    parser.add_argument("--scenario", default="own", help="the campaign's scenario (default: its own service)")
    parser.add_argument("--locustfile", type=Path, help="the campaign's own locustfile, if it has one")
    parser.add_argument("--processes", type=int, default=1, help="workers on this host (default: 1)")
    options = parser.parse_args(words)
    host, port = address(options.master)
    locustfile = options.locustfile or _locustfile(options.scenario)
    if not locustfile.is_file():
        raise Refusal(f"--locustfile {locustfile}: no such file")
    if options.processes < 1:
        raise Refusal("--processes must be 1 or more")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _work(load.worker_command(locustfile.resolve(), host, port), options.processes)
    except KeyboardInterrupt:
        return PASSED
    finally:
        signal.signal(signal.SIGTERM, before)


def _locustfile(scenario: str) -> Path:
    return scenarios.folder() / "own.py" if scenario == "own" else scenarios.find(scenario).locustfile


def _work(command: list[str], count: int) -> int:
    """Keep so many workers going: each ends with its run, and the next one waits for the next run."""
    workers: list[subprocess.Popen[bytes]] = []
    faults = 0
    try:
        while True:
            for ended in [worker for worker in workers if worker.poll() is not None]:
                workers.remove(ended)
                faults = faults + 1 if ended.returncode else 0
                if faults >= FAULTS_IN_A_ROW:
                    raise Refusal(f"workers end with exit code {ended.returncode}: the lines above say why", 1)
            workers += [_started(command) for _ in range(count - len(workers))]
            time.sleep(POLL_S)
    finally:
        _end(workers)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(load.FOREIGN)}
    # Ctrl-C comes to this process, which then ends them.
    return subprocess.Popen([*command, "--loglevel", "WARNING"], env=kept, stdout=sys.stderr, start_new_session=True)


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
