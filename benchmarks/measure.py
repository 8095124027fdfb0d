"""What the benchmarks share: pinned processes, alternating samples, paired differences, files of results.

Owns: which CPU does what, the order of samples, the statistics, the facts about the machine, `results/`.
Must not know: scenarios, agents' settings.
Invariants: a variant is only ever compared with a bare sample taken right before or after it; raw samples are kept.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents import AGENTS, ALL_VARIANTS, BARE, HERE, Addresses, Variant, install, is_installed, parse_variant, versions

MEASURED_CPU = 0
#: Everything that is not measured (collector, origin, load generator) runs here.
PEER_CPU = max(os.sched_getaffinity(0))

#: Other work on the measured CPU, in cores, from which a pair is called noisy.
NOISY = 0.2

Sample = dict[str, Any]
Pairs = list[tuple[Sample, Sample]]


class SampleFailed(Exception):
    """A measured process ended, or answered wrongly; the text says what it printed."""


def start_pinned(command: Sequence[str], cpu: int, **options: Any) -> subprocess.Popen[str]:
    """Start a process that, with all its children, may use one CPU only."""

    def pin() -> None:
        os.sched_setaffinity(0, {cpu})

    # There are no threads here that could make this unsafe.
    return subprocess.Popen(command, text=True, cwd=HERE, preexec_fn=pin, **options)  # noqa: PLW1509


@contextmanager
def peer(*arguments: str, python: str = sys.executable) -> Iterator[dict[str, int]]:
    """Run the sink or `origin.py` on the other CPU; gives what it prints, ports mostly."""
    process = start_pinned([python, *arguments], PEER_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        process.stdin.close()


@contextmanager
def collector() -> Iterator[Addresses]:
    """The harness's counting sink stands in for every collector; it needs the interpreter that has autoinstr."""
    words = ("-m", "autoinstr.bench.sink", "--child", "--http=0", "--udp=0")
    with peer(*words, python=AGENTS["autoinstr"].bin("python")) as ports:
        yield Addresses(ports["udp_port"], ports["http_port"])


def take(at: Addresses) -> dict[str, Any]:
    """What the collector received since the last call (``Counts`` of ``autoinstr.bench.sink``): batches, bytes, spans."""
    connection = http.client.HTTPConnection("127.0.0.1", at.http_port, timeout=600)
    try:
        connection.request("POST", "/-/take")
        counts: dict[str, Any] = json.loads(connection.getresponse().read())
        return counts
    finally:
        connection.close()


def alternate(
    variants: Sequence[Variant], pairs: int, measure: Callable[[Variant, bool], tuple[Sample, Sample]]
) -> dict[str, Pairs]:
    """Pairs of samples, ``measure(variant, variant goes first)``, of each variant in turn, ``pairs`` times.

    A variant whose sample fails is reported, and left out from then on.
    """
    results: dict[str, Pairs] = {variant.label: [] for variant in variants}
    failed: set[str] = set()
    for number in range(pairs):
        for variant in variants:
            if variant.label in failed:
                continue
            try:
                results[variant.label].append(measure(variant, number % 2 == 1))
            except SampleFailed as error:
                print(f"{variant.label}: {error}", file=sys.stderr)
                failed.add(variant.label)
    return {label: found for label, found in results.items() if found}


def one_after_the_other(sample: Callable[[Variant], Sample]) -> Callable[[Variant, bool], tuple[Sample, Sample]]:
    """Pairs of whole runs, for what cannot be measured in slices."""

    def measure(variant: Variant, variant_first: bool) -> tuple[Sample, Sample]:
        if variant_first:
            theirs = sample(variant)
            return sample(BARE), theirs
        return sample(BARE), sample(variant)

    return measure


def busy_seconds(cpu: int) -> float:
    """How long a CPU of the machine has worked for anybody, interrupts and stolen time included."""
    with open("/proc/stat") as stat:
        fields = next(line for line in stat if line.startswith(f"cpu{cpu} ")).split()
    user, nice, system, interrupts, soft_interrupts, stolen = (int(fields[i]) for i in (1, 2, 3, 6, 7, 8))
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


class Spread:
    """Median, minimum and maximum of a list of numbers."""

    def __init__(self, values: Sequence[float]) -> None:
        self.median, self.low, self.high = statistics.median(values), min(values), max(values)

    def text(self, digits: int = 1) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def added(pairs: Pairs, key: str) -> Spread:
    """The paired differences, variant less bare."""
    return Spread([theirs[key] - bare[key] for bare, theirs in pairs])


def share(pairs: Pairs, key: str) -> Spread:
    """The paired ratios, variant to bare."""
    return Spread([theirs[key] / bare[key] for bare, theirs in pairs])


def bare(results: Mapping[str, Pairs], key: str) -> Spread:
    return Spread([pair[0][key] for pairs in results.values() for pair in pairs])


def is_noisy(pairs: Pairs) -> bool:
    """Fewer than three pairs had the measured CPU nearly to themselves."""
    quiet = [theirs for _, theirs in pairs if theirs["other_load"] < NOISY]
    return len(quiet) < min(3, len(pairs))


def in_words(label: str) -> str:
    """How a table names a variant; bare against bare shows what the method cannot tell apart."""
    return label.replace("@", " ") + " %" if "@" in label else "bare again (noise)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> dict[str, Any]:
    """What a reader must know of the machine, and nothing that names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit of this repository, marked when the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty"]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


class Report:
    """A run's record: raw samples as JSON and tables as Markdown, side by side in a folder."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.folder = name, Path(options.results)
        self.tables: list[str] = []
        self.record: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "options": {key: value for key, value in vars(options).items() if key != "results"},
            "versions": {
                agent.environment: versions(agent)
                for agent in AGENTS.values()
                if agent.name == agent.environment and is_installed(agent)
            },
            "samples": {},
        }

    def add(self, title: str, text: str) -> None:
        self.tables.append(f"## {title}\n\n{text}")
        print(self.tables[-1], flush=True)

    def save(self) -> None:
        facts = self.record["machine"]
        intro = (
            f"# {self.name}, {self.record['date']}\n\n{facts['cpu']}, {facts['cpus']} CPUs, {facts['kernel']}, "
            f"Python {facts['python']}, commit {self.record['commit']}, {self.compared()}.\n"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"{self.name}-{self.record['date'][:16].replace(':', '')}"
        stem.with_suffix(".json").write_text(json.dumps(self.record, indent=1) + "\n")
        stem.with_suffix(".md").write_text("\n".join([intro, *self.tables]))
        print(f"written: {stem}.md and .json", file=sys.stderr)

    def compared(self) -> str:
        """The versions of what is compared, in one line."""
        shown = ("autoinstr", "opentelemetry-sdk", "ddtrace", "elastic-apm", "Flask", "fastapi", "requests", "gunicorn")
        everything = {name: version for found in self.record["versions"].values() for name, version in found.items()}
        return ", ".join(f"{name} {everything[name]}" for name in shown if name in everything)


def parser(description: str | None, pairs: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    result = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    result.add_argument("--install", action="store_true", help="make or upgrade the environments first")
    result.add_argument(
        "--variants", nargs="+", metavar="AGENT@PERCENT", default=ALL_VARIANTS, help=f"of {', '.join(ALL_VARIANTS)}"
    )
    result.add_argument("--pairs", type=int, default=pairs, help="pairs of samples per variant (default: %(default)s)")
    result.add_argument("--results", default=str(HERE / "results"), help="folder for the results")
    return result


def chosen_variants(options: argparse.Namespace) -> list[Variant]:
    """The variants asked for, their environments made if need be; this process leaves the measured CPU."""
    os.sched_setaffinity(0, {PEER_CPU})
    variants = [parse_variant(text) for text in options.variants]
    names = {variant.agent.name for variant in variants} | {"bare", "autoinstr"}
    missing = [name for name in names if not is_installed(AGENTS[name])]
    if options.install or missing:
        install(sorted(names) if options.install else missing)
    return variants
