"""The load engine as the harness sees it: a Locust process that is started, read second by second, and stopped.

Owns: Locust's command line and environment, the generator's folder (record and log), what to say when it fails.
Must not know: windows, variants, statistics. Never imports Locust, which patches the process that does (``recorder.py`` does).
Invariants: what is in ``Final`` is exact: every request that a server answered is in it, as the generator stops by letting
those in flight end; a slot is handed out once it is complete, the first and the last never; the generator does not outlive
this process. Locust's settings of the caller (``LOCUST_…``, files in the home folder) do not leak into it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoinstr.bench import durations, probe
from autoinstr.bench.load import schedule
from autoinstr.bench.parts import RATE, SATURATION, LoadFigures, Refusal
from autoinstr.bench.target import free_port

RECORDER = Path(__file__).with_name("recorder.py")
STATIC_LOAD = Path(__file__).with_name("static_load.py")
#: How long requests in flight may take to end when the load stops, in seconds; what takes longer is cut off.
DRAIN_S = 10.0
START_TIMEOUT_S = 30.0
#: For Locust to end after its last words.
END_TIMEOUT_S = 10.0
POLL_S = 0.02
#: What would change what the generator does; other agents' variables would have it traced.
FOREIGN = ("LOCUST_", "AUTOINSTR_", "OTEL_", "JAEGER_", "DD_", "ELASTIC_APM_", "GEVENT_")
#: ``[2026-11-23 09:22:33,365] host/INFO/locust.main: `` before a line of Locust's log.
LOG_PREFIX = re.compile(r"^\[[^\]]*\] \S*?/(?P<level>[A-Z]+)/\S+?: ")


class GeneratorFailed(Exception):
    """The generator ended by itself, or never began: ``str()`` has its own last words."""


@dataclass(frozen=True)
class Slot:
    """One second of load. ``service``, ``response`` and ``lag`` are encoded histograms (``durations``).

    In saturation mode nothing is due: ``response`` is ``service``, and ``lag`` None. ``late``: sent later than due for want of a
    free user. ``due_unsent``: still waiting for one at the end of the slot. ``cpu_us``: of all processes with users.
    """

    end_s: int
    seconds: float
    requests: int
    errors: int
    late: int
    median_us: float
    response: str
    service: str
    lag: str | None
    cpu_us: float
    due_unsent: int = 0


@dataclass(frozen=True)
class Final:
    """The whole run, warm-up included. ``aborted``: in flight when the time to end was over, in no other count."""

    all_requests: int
    all_errors: int
    unsent: int = 0
    aborted: int = 0
    #: What failed -> how often.
    kinds: Mapping[str, int] = field(default_factory=dict)


def worker_command(locustfile: Path, host: str, port: int) -> list[str]:
    """The words that start a worker for a generator whose ``master_bind`` is this address, as seen from the worker's host."""
    files = f"{locustfile},{RECORDER}"
    return [sys.executable, "-m", "locust", "-f", files, "--worker", "--master-host", host, "--master-port", str(port)]


class Generator:
    """A running generator. Made by ``start``; ``stop`` or ``kill`` must follow."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._record = folder / "slots.jsonl"
        self._log = folder / "generator.log"
        self._read_bytes = 0
        self._slots: list[Slot] = []
        self._final: Final | None = None
        self._failed = ""
        self._has_begun = False

    @classmethod
    def start(
        cls,
        locustfile: Path,
        host: str,
        *,
        users: int,
        mode: str,
        rate: float | None = None,
        arrivals: str = schedule.POISSON,
        seed: int = 0,
        cpus: frozenset[int] | None = None,
        processes: int = 1,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        master_bind: tuple[str, int] | None = None,
        expect_workers: int = 0,
    ) -> Generator:
        """Start it, all users at once, and wait until it has begun.

        ``users``: requests in flight at most; ``rate``: requests per second in rate mode; ``cpus``: what it may run on;
        ``folder``: for its record and log, earlier ones are replaced. With ``master_bind`` (address and port) it sends
        nothing itself, but waits for ``expect_workers`` workers (``worker_command``); then this returns at once, and
        ``wait_until_begun`` waits for them.
        Raises Refusal for what cannot be, GeneratorFailed when it ends at once: the locustfile is wrong, as a rule.
        """
        _check(locustfile, users, mode, rate, arrivals, processes, master_bind, expect_workers)
        folder.mkdir(parents=True, exist_ok=True)
        words = _words(locustfile, host, users, mode, rate, arrivals, seed, folder)
        words += _distribution(processes, master_bind, expect_workers)
        for name in ("slots.jsonl", "generator.log"):
            (folder / name).unlink(missing_ok=True)
        generator = cls(_launched(words, folder, environment or {}, cpus), folder)
        if master_bind is None:
            try:
                generator.wait_until_begun()
            except BaseException:
                generator.kill()
                raise
        return generator

    def wait_until_begun(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the users start, after the last worker has come. Raises GeneratorFailed."""
        deadline = time.monotonic() + timeout_s
        while not self._has_begun:
            if time.monotonic() > deadline:
                raise GeneratorFailed(f"The load generator has not begun after {timeout_s:.0f} s: {self._last_words()}")
            time.sleep(POLL_S)
            self._look()

    def slots(self) -> list[Slot]:
        """The complete seconds so far. Raises GeneratorFailed when the generator has ended with anything but its last words."""
        self._look()
        return list(self._slots)

    def pids(self) -> list[int]:
        """Of all its processes on this host."""
        return [self.pid, *probe.descendants(self.pid)]

    def cpu_us(self) -> float:
        """CPU of its processes so far, in µs."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                total += probe.cpu_ns(pid)
        return total / 1e3

    def stop(self, timeout_s: float = DRAIN_S + END_TIMEOUT_S) -> Final:
        """End the load: nothing new is sent, what is in flight ends. All counts of the run.

        Raises GeneratorFailed when it has no last words within ``timeout_s``, or had ended before by a failure.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._read()
            if self._final is None:
                raise GeneratorFailed(f"The load generator did not end within {timeout_s:.0f} s.") from None
        finally:
            self.kill()
        self._look()
        if self._final is None:
            raise GeneratorFailed(f"The load generator ended without its last words: {self._last_words()}")
        return self._final

    def kill(self) -> None:
        """End all its processes at once, if any are left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _look(self) -> None:
        status = self._process.poll()
        self._read()
        if self._failed:
            raise GeneratorFailed(f"The load generator gave up: {self._failed}.")
        if status is not None and self._final is None:
            raise GeneratorFailed(f"The load generator ended with {_in_words(status)}: {self._last_words()}")

    def _read(self) -> None:
        """What was written since the last time, whole lines only."""
        with contextlib.suppress(FileNotFoundError), self._record.open("rb") as record:
            record.seek(self._read_bytes)
            text, newline, _ = record.read().rpartition(b"\n")
            self._read_bytes += len(text) + len(newline)
            for line in text.splitlines():
                self._take(json.loads(line))

    def _take(self, line: Mapping[str, Any]) -> None:
        if "begun" in line:
            self._has_begun = True
        elif "failed" in line:
            self._failed = line["failed"]
        elif "final" in line:
            self._final = Final(
                line["all_requests"], line["all_errors"], line["unsent"], line["aborted"], dict(line["kinds"])
            )
        elif line["whole"]:
            self._slots.append(_slot(line))

    def _last_words(self) -> str:
        """The last line of its log that says something: of a traceback, the error with the place in the locustfile."""
        try:
            lines = self._log.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            lines = []
        # What gevent's own taking down leaves behind comes after the cause.
        spoken = itertools.takewhile(lambda line: not line.startswith("Exception ignored"), lines)
        telling = [line for line in spoken if line.strip() and not _is_chatter(line)]
        if not telling:
            return "it said nothing"
        last = LOG_PREFIX.sub("", telling[-1]).strip()
        places = [line.strip() for line in telling if line.lstrip().startswith('File "')]
        return f"{last} ({places[-1]})" if places and not LOG_PREFIX.match(telling[-1]) else last


def _is_chatter(line: str) -> bool:
    found = LOG_PREFIX.match(line)
    return found is not None and found["level"] in ("INFO", "DEBUG")


def _in_words(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _check(
    locustfile: Path,
    users: int,
    mode: str,
    rate: float | None,
    arrivals: str,
    processes: int,
    master_bind: tuple[str, int] | None,
    expect_workers: int,
) -> None:
    if importlib.util.find_spec("locust") is None:
        raise Refusal("Load is made by Locust, which is not installed: pip install 'autoinstr[bench]'.")
    if not locustfile.is_file():
        raise Refusal(f"There is no locustfile {locustfile}.")
    if "," in f"{locustfile}{RECORDER}":
        raise Refusal(f"Locust takes a comma in a path for the end of a file's name: move {locustfile} elsewhere.")
    if mode not in (SATURATION, RATE):
        raise Refusal(f"There is no mode {mode!r}: choose {SATURATION} or {RATE}.")
    if mode == RATE:
        schedule.check(arrivals, rate if rate is not None else math.nan)
    if processes > 1 and master_bind is not None:
        raise Refusal("Several processes here and workers elsewhere do not go together: start workers here as well.")
    if master_bind is not None and expect_workers < 1:
        raise Refusal("A generator with workers elsewhere must know how many to wait for.")
    if users < max(processes, expect_workers, 1):
        raise Refusal(f"{users} users are too few for {max(processes, expect_workers)} processes: each needs one at least.")


def _words(
    locustfile: Path, host: str, users: int, mode: str, rate: float | None, arrivals: str, seed: int, folder: Path
) -> list[str]:
    words = [sys.executable, "-m", "locust", "-f", f"{locustfile.resolve()},{RECORDER}", "--headless", "--only-summary"]
    words += ["--host", host, "--users", str(users), "--spawn-rate", str(users), "--stop-timeout", f"{DRAIN_S:.0f}"]
    words += ["--bench-mode", mode, "--bench-seed", str(seed), "--bench-record", str((folder / "slots.jsonl").resolve())]
    words += ["--bench-follow-parent"]
    if mode == RATE:
        words += ["--bench-rate", repr(rate), "--bench-arrivals", arrivals]
    return words


def _distribution(processes: int, master_bind: tuple[str, int] | None, expect_workers: int) -> list[str]:
    if master_bind is not None:
        address, port = master_bind
        words = ["--master", "--master-bind-host", address, "--master-bind-port", str(port)]
        return [*words, "--expect-workers", str(expect_workers)]
    if processes > 1:
        local, free = "127.0.0.1", str(free_port())
        words = ["--processes", str(processes), "--master-bind-host", local, "--master-bind-port", free]
        return [*words, "--master-host", local, "--master-port", free]
    return []


def _launched(
    words: Sequence[str], folder: Path, additional: Mapping[str, str], cpus: frozenset[int] | None
) -> subprocess.Popen[bytes]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    package = str(Path(__file__).parents[3])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (package, variables.get("PYTHONPATH", ""))))
    with (folder / "generator.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**variables, **additional},
            start_new_session=True,
        )
    _pin(process.pid, cpus)
    return process


def _pin(pid: int, cpus: frozenset[int] | None) -> None:
    """Right after its start: threads and processes that it makes later inherit it."""
    if cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cpus)


def _slot(line: Mapping[str, Any]) -> Slot:
    return Slot(
        end_s=line["end"],
        seconds=line["seconds"],
        requests=line["requests"],
        errors=line["errors"],
        late=line["late"],
        median_us=line["median_us"],
        response=line["response"] or line["service"],
        service=line["service"],
        lag=line["lag"],
        cpu_us=line["cpu_us"],
        due_unsent=line["due_unsent"],
    )


def figures(slots: Sequence[Slot], final: Final | None, target_per_second: float | None) -> LoadFigures:
    """The slots of a window as one. ``target_per_second`` is None in saturation mode. Raises ValueError without slots."""
    if not slots:
        raise ValueError("No slots: nothing was measured.")
    seconds = sum(slot.seconds for slot in slots)
    requests = sum(slot.requests for slot in slots)
    lags = [slot.lag for slot in slots if slot.lag is not None]
    return LoadFigures(
        seconds=seconds,
        requests=requests,
        errors=sum(slot.errors for slot in slots),
        late=sum(slot.late for slot in slots),
        per_second=requests / seconds,
        target_per_second=target_per_second,
        response=durations.quantiles(durations.merged(slot.response for slot in slots)),
        service=durations.quantiles(durations.merged(slot.service for slot in slots)),
        lag=durations.quantiles(durations.merged(lags)) if lags else None,
        slots=tuple((slot.requests, slot.median_us) for slot in slots),
        unsent=final.unsent if final else 0,
        all_requests=final.all_requests if final else 0,
        all_errors=final.all_errors if final else 0,
    )


def ceiling(cpus: frozenset[int] | None, seconds: float, *, users: int = 16, folder: Path | None = None) -> float:
    """Requests per second that one generator process on these CPUs makes against a server that does nothing.

    The server runs on the other CPUs, if there are any. ``seconds``: of measuring, at least 1; ``folder`` keeps record and log.
    Raises GeneratorFailed.
    """
    with tempfile.TemporaryDirectory() as passing, static_url(_others(cpus)) as url:
        kept = folder or Path(passing)
        generator = Generator.start(STATIC_LOAD, url, users=users, mode=SATURATION, cpus=cpus, folder=kept)
        try:
            slots = _after_a_second(generator, max(round(seconds), 1))
            generator.stop()
        finally:
            generator.kill()
    return statistics.median(slot.requests / slot.seconds for slot in slots)


def _after_a_second(generator: Generator, count: int) -> list[Slot]:
    """So many slots after the first, in which connections were made and code got warm."""
    deadline = time.monotonic() + 3 * count + 10
    while len(slots := generator.slots()) <= count:
        if time.monotonic() > deadline:
            raise GeneratorFailed("The load generator has made no load: is something else using all CPUs?")
        time.sleep(POLL_S)
    return slots[1 : count + 1]


def _others(cpus: frozenset[int] | None) -> frozenset[int] | None:
    if not cpus or not hasattr(os, "sched_getaffinity"):
        return None
    return frozenset(os.sched_getaffinity(0)) - cpus or None


@contextlib.contextmanager
def static_url(cpus: frozenset[int] | None = None) -> Iterator[str]:
    """The URL of a server that does nothing but answer, for as long as the block takes."""
    words = [sys.executable, "-m", "autoinstr.bench.load.static_server"]
    package = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": package}
    )
    try:
        _pin(process.pid, cpus)
        assert process.stdout is not None  # noqa: S101 - for mypy; it is a pipe.
        line = process.stdout.readline()
        if not line:
            raise GeneratorFailed("The static server did not start.")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.kill()
        process.communicate()
