"""A campaign: run after run of the plan, each on the disk before the next one starts.

Owns: what all runs share (sink, cores, the services behind), repetition of spoiled runs, when to stop, progress, resuming.
Must not know: how a run is done (``run``), what results mean (``analysis``).
Invariants: whatever ends it (Ctrl-C, a full disk, a fault), what was measured is kept and no process or port stays behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import signal
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoinstr.bench import analysis, awake, plan, rivals, run, scenarios, store, validity, variants, worker
from autoinstr.bench.machine import Cores
from autoinstr.bench.parts import (
    AGAIN,
    BASE,
    RATE,
    SATURATION,
    Cell,
    Difference,
    Fault,
    Manifest,
    Planned,
    Refusal,
    Run,
    Timing,
)
from autoinstr.bench.sink import Sink
from autoinstr.bench.target import free_port, nothing_left, pinned

#: A run that the rules spoil is repeated this often, unless told otherwise.
REPETITIONS = 2
#: A variant or a program that fails this often in a row does not work: going on would only take time.
FAILURES_IN_A_ROW = 3
#: Name of the scenario and the framework of a program of the user's own.
OWN = "own"


class Stopped(Exception):
    """The campaign ended early; ``str()`` says why. What was measured is on the disk."""


class Campaign:
    """A campaign in its folder; a context that starts what the runs share, and takes it down.

    ``until_ci`` (percent) ends it when every interval of the primary figure is at most so wide to either side; ``budget_s``
    when no whole block fits any more.
    """

    def __init__(
        self,
        folder: store.Folder,
        manifest: Manifest,
        *,
        repetitions: int = REPETITIONS,
        until_ci: float | None = None,
        budget_s: float | None = None,
        say: Progress | None = None,
        done: Sequence[Run] = (),
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.cores = Cores(frozenset(manifest.server_cpus), frozenset(manifest.generator_cpus))
        self.repetitions = repetitions
        self.until_ci = until_ci
        self.budget_s = budget_s
        self.say = say or Progress()
        self.runs = list(done)
        self._variants = {one.name: one for one in manifest.variants}
        self._stack = contextlib.ExitStack()
        self._failures: dict[str, int] = {}

    def __enter__(self) -> Campaign:  # noqa: PYI034 (typing.Self is of Python 3.11)
        with self._stack:
            self._stack.enter_context(nothing_left())
            scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="autoinstr-bench-")))
            sink = self._stack.enter_context(Sink.start(self.cores.generator or None))
            self._origin = ""
            if any(self._needs_origin(cell) for cell in self.manifest.cells):
                self._origin = self._stack.enter_context(scenarios.start_origin(self.cores.generator)).url
            self._conditions = run.Conditions(
                sink,
                self.cores,
                self.manifest.timing,
                self.manifest.seed,
                scratch,
                self.manifest.processes,
                self.manifest.workers,
                worker.address(self.manifest.master) if self.manifest.workers else None,
            )
            self._stack.enter_context(_terminated_like_interrupted())
            # Looking after a run is work, too; what is started from here is pinned where it belongs.
            self._stack.enter_context(pinned(self.cores.generator or None))
            self._stack.enter_context(awake.kept(self.cores.generator))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _needs_origin(self, cell: Cell) -> bool:
        return cell.scenario != OWN and scenarios.find(cell.scenario).needs_origin

    def measure(self) -> None:
        """All runs that are not on the disk yet. Raises Stopped, or KeyboardInterrupt."""
        names = [one.name for one in self.manifest.variants]
        finished = {one.planned.key for one in self.runs if one.status != "failed"}
        every_block = list(plan.blocks(self.manifest.cells, names, self.manifest.blocks, self.manifest.seed))
        todo = [[one for one in block if one.key not in finished] for block in every_block]
        self.say.begin(sum(map(len, todo)), plan.seconds_of_run(self.manifest.timing))
        began = time.monotonic()
        for number, block in enumerate(todo):
            if not block:
                continue
            at_a_boundary = number % len(self.manifest.cells) == 0 and every_block[number][0].block % 2 == 0
            if at_a_boundary and self._is_narrow_enough():
                return
            if self.budget_s is not None:
                needed = plan.seconds_of_run(self.manifest.timing) * len(block)
                if time.monotonic() - began + needed > self.budget_s:
                    self.say.line("the time that was given is used up")
                    return
            for planned in block:
                self._do(planned)

    def _is_narrow_enough(self) -> bool:
        """Looks at widths only, never at p or at where the interval lies: stopping must not favour a result."""
        if self.until_ci is None or not self.runs:
            return False
        # Of two or three blocks an interval can be narrow by luck.
        results = analysis.analyse(store.read(self.folder.path))
        for cell in results.cells:
            for one in cell.differences:
                if one.metric != "cpu_us":
                    continue
                if one.blocks < analysis.FEWEST_BLOCKS or one.percent is None or (one.percent.high - one.percent.low) / 2 > self.until_ci:
                    return False
        return bool(results.cells)

    def _do(self, planned: Planned) -> None:
        """One planned run, repeated where the rules spoil it."""
        for attempt in range(self.repetitions + 1):
            self.say.run(planned)
            done = self._run(planned, attempt)
            try:
                self.folder.append(done)
            except OSError as error:
                raise Stopped(f"{self.folder.path}: {error.strerror}: all runs before this one are kept") from None
            self.runs.append(done)
            self.say.done(done)
            if not validity.is_worth_repeating(done.faults):
                break
        self._count_failures(done)

    def _count_failures(self, done: Run) -> None:
        name = done.planned.variant
        failures = self._failures.get(name, 0) + 1 if done.status == "failed" else 0
        self._failures[name] = failures
        if failures >= FAILURES_IN_A_ROW or (failures and not any(one.load for one in self.runs)):
            cause = "; ".join(fault.text for fault in done.faults)
            raise Stopped(f"{name} in {done.planned.cell} does not run: {cause}")

    def _run(self, planned: Planned, attempt: int) -> Run:
        cell = planned.cell
        variant = self._variants[planned.variant]
        if variant.sampling is not None and variant.sampling.type == "remote":
            share = {"samplingRate": variant.sampling.param}
            self._conditions.sink.serve_strategy(
                variants.SERVICE, {"strategyType": "PROBABILISTIC", "probabilisticSampling": share}
            )
        log = self.folder.log_of(planned, attempt)
        done = run.measure(
            planned,
            variant,
            self.service(cell),
            self._conditions,
            log,
            rate=self._rate(cell),
            attempt=attempt,
            say=self.say.step,
        )
        if done.status != "failed":
            log.unlink(missing_ok=True)
        return done

    def service(self, cell: Cell) -> run.Service:
        """The program of a cell, on a port that is free now."""
        if cell.scenario == OWN:
            return own_service(self.manifest)
        scenario, framework = scenarios.find(cell.scenario), scenarios.find_framework(cell.framework)
        port = free_port()
        return run.Service(
            program=tuple(framework.command(port)),
            url=f"http://127.0.0.1:{port}{scenario.path}",
            locustfile=scenario.locustfile,
            variables=framework.environment(self._origin),
            folder=framework.folder,
            counts_requests=True,
            is_uniform=scenario.is_uniform,
        )

    def _rate(self, cell: Cell) -> float | None:
        if cell.mode != RATE:
            return None
        return cell.load * self.manifest.calibration[calibration_key(cell)]

    def calibrate(self) -> None:
        """What the bare program can do at most, for every cell in rate mode; the manifest keeps it."""
        wanted = {calibration_key(cell): cell for cell in self.manifest.cells if cell.mode == RATE}
        found = dict(self.manifest.calibration)
        for key, cell in wanted.items():
            if key in found:
                continue
            self.say.line(f"how much can {key} do bare?")
            rates = []
            for position in range(2):
                pilot = Planned(dataclasses.replace(cell, mode=SATURATION, load=0.0), -1, position, BASE)
                done = self._run(pilot, 0)
                if done.load is None:
                    raise Stopped(f"{key} does not run: {'; '.join(fault.text for fault in done.faults)}")
                rates.append(done.load.per_second)
            found[key] = sum(rates) / len(rates)
            self.say.line(f"{key}: {found[key]:.0f} requests/s")
        self.manifest = dataclasses.replace(self.manifest, calibration=found)
        self.folder.write_manifest(self.manifest)


def check(manifest: Manifest) -> None:
    """Find out before anything starts. Raises Refusal for a program or an agent that is nowhere, and for too few users."""
    missing = rivals.missing(manifest.variants)
    if missing:
        raise Refusal(missing)
    if manifest.workers:
        worker.address(manifest.master)
        if len({cell.scenario for cell in manifest.cells}) > 1:
            raise Refusal("workers on other hosts know one scenario: give each scenario a campaign of its own")
    addresses = dict.fromkeys(("http", "http_port", "udp_port", "metrics_port"), "0")
    for cell in manifest.cells:
        processes = max(manifest.processes, manifest.workers)
        if cell.concurrency < processes:
            raise Refusal(f"{cell.concurrency} users are too few for {processes} processes: each needs one at least")
        program = shlex.split(manifest.program) if cell.scenario == OWN else scenarios.find_framework(cell.framework).command(0)
        for variant in manifest.variants:
            variants.command(variant, program, addresses)


def calibration_key(cell: Cell) -> str:
    return f"{cell.scenario} {cell.framework} c{cell.concurrency}"


def own_service(manifest: Manifest) -> run.Service:
    """A program of the user's own, with the user's own locustfile or one that asks for its URL."""
    path = urllib.parse.urlsplit(manifest.url)
    target = (path.path or "/") + (f"?{path.query}" if path.query else "")
    locustfile = Path(manifest.locustfile) if manifest.locustfile else scenarios.folder() / "own.py"
    return run.Service(tuple(shlex.split(manifest.program)), manifest.url, locustfile, load_variables={"SCENARIO_PATH": target})


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a campaign as Ctrl-C does: with everything taken down."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """What goes on, on stderr: one line that changes on a terminal, a line per run elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._total = self._done = 0
        self._seconds_per_run = 0.0
        self._began = 0.0
        self._current = ""

    def begin(self, total: int, seconds_per_run: float) -> None:
        self._total, self._done = total, 0
        self._seconds_per_run, self._began = seconds_per_run, time.monotonic()

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    def run(self, planned: Planned) -> None:
        self._current = f"{planned.cell}, block {planned.block + 1}, {planned.variant}"

    def step(self, what: str) -> None:
        """What the current run is doing."""
        if self._is_terminal:
            self._clear()
            text = f"[{self._done + 1}/{self._total}] {self._current}: {what} · {self._left()}"
            print(text[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr, flush=True)

    def done(self, run: Run) -> None:
        if run.attempt == 0:
            self._done += 1
        figures = "" if run.server is None or run.load is None else (
            f"{run.server.cpu_us_per_request:.1f} µs/request, {run.load.per_second:.0f}/s"
        )
        faults = _in_words(run.faults)
        status = run.status if run.status in ("unsteady", "failed") else ""
        if not self._is_terminal or status or faults:
            text = "; ".join(filter(None, (figures, status, faults)))
            self.line(f"[{self._done}/{self._total}] {self._current}: {text} · {self._left()}")

    def _left(self) -> str:
        """Time left, by what the runs took so far."""
        per_run = (time.monotonic() - self._began) / self._done if self._done else self._seconds_per_run
        return f"{plan.in_words(per_run * max(self._total - self._done, 0))} left"

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\x1b[2K", end="", file=sys.stderr)


def _in_words(faults: Sequence[Fault]) -> str:
    """Each cause once, with what it spoils."""
    spoiled: dict[str, list[str]] = {}
    for fault in faults:
        spoiled.setdefault(fault.text, []).append(fault.scope)
    return "; ".join(
        f"not used: {text}" if "all" in scopes else f"not used for {', '.join(scopes)}: {text}"
        for text, scopes in spoiled.items()
    )


def again(
    blocks: int,
    timing: Timing,
    cores: Cores,
    machine: Mapping[str, Any],
    say: Progress | None = None,
    *,
    scenario: str = "hello",
    framework: str = "flask",
    concurrency: int = 8,
) -> Difference | None:
    """Bare against bare, ``blocks`` times: what this machine can tell apart. None where it could not be measured."""
    manifest = Manifest(
        id="again",
        created_at="",
        seed=1,
        argv=(),
        blocks=blocks,
        timing=timing,
        variants=(variants.parse(BASE), variants.parse(AGAIN)),
        cells=(Cell(scenario, framework, SATURATION, concurrency),),
        machine=machine,
        versions={},
        server_cpus=tuple(sorted(cores.server)),
        generator_cpus=tuple(sorted(cores.generator)),
    )
    with tempfile.TemporaryDirectory(prefix="autoinstr-bench-") as scratch:
        folder = store.Folder.create(Path(scratch) / "campaign", manifest)
        with Campaign(folder, manifest, repetitions=0, say=say or Progress(quiet=True)) as campaign:
            campaign.measure()
        (cell,) = analysis.analyse(store.read(folder.path)).cells
    return cell.again
