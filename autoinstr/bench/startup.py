"""``autoinstr bench startup``: what a variant adds before the first request: time, CPU, memory.

Owns: the three programs that are started, how one start is timed, the order of starts, the table.
Must not know: load, campaigns, how a variant is made.
Invariants: every start is a fresh process on the server's core, timed by this one on another; variants are interleaved in
mirrored blocks and compared within a block, bare again being one of them; nothing that was started is left running.

``pass`` and ``import`` count from before exec to the end of the process; ``request`` from before exec to the last byte
of the first answer, with what all processes of the server had used by then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import IO, Any

from autoinstr.bench import machine, plan, probe, rivals, scenarios, stats, store, target, variants
from autoinstr.bench.parts import (
    AGAIN,
    BASE,
    INVALID,
    PASSED,
    SATURATION,
    Cell,
    Difference,
    Refusal,
    Variant,
    to_json,
)
from autoinstr.bench.sink import Sink

DEFAULT_VARIANTS = "off,const:1"
RUNS = 10
#: A start that takes longer hangs.
PATIENCE_S = 60.0
#: Between attempts to connect, while nothing listens yet.
KNOCK_S = 0.0005

PASS, IMPORT, FIRST = "pass", "import", "request"
#: Program -> what the reader is told that it is.
TITLES = {
    PASS: "python -c pass, from exec to exit",
    IMPORT: "python -c 'import flask, requests', from exec to exit",
    FIRST: "Flask under gunicorn, from exec to the first answer",
}
_CODE = {PASS: "pass", IMPORT: "import flask, requests"}

Sample = Mapping[str, float]


@dataclass(frozen=True)
class Starter:
    """What all starts share. ``addresses`` are the sink's, for the variants' settings."""

    cores: machine.Cores
    addresses: Mapping[str, int | str]

    def sample(self, variant: Variant, program: str) -> Sample:
        """One start: metric -> value (``ms``, ``cpu_ms``, ``rss_bytes``). Raises Refusal where it fails."""
        with tempfile.TemporaryFile() as said:
            return self._served(variant, said) if program == FIRST else self._ended(variant, _CODE[program], said)

    def _ended(self, variant: Variant, code: str, said: IO[bytes]) -> Sample:
        begun_s = time.perf_counter()
        process = self._started(variant, ["python", "-c", code], {}, None, said)
        with _patience(process), _reaped(process):
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun_s
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            how = f"ended with status {process.returncode}"
            raise _failed(variant, how if seconds < PATIENCE_S else f"did not end within {PATIENCE_S:g} s", said)
        return {"ms": seconds * 1e3, "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3}

    def _served(self, variant: Variant, said: IO[bytes]) -> Sample:
        framework, port = scenarios.find_framework("flask"), target.free_port()
        begun_s = time.perf_counter()
        process = self._started(variant, framework.command(port), framework.environment(), framework.folder, said)
        with _ended_after(process):
            tree = probe.Tree([process.pid])
            trouble = _first_answer(port, process, begun_s + PATIENCE_S)
            seconds = time.perf_counter() - begun_s
            if trouble:
                raise _failed(variant, trouble, said)
            tree.look_for_children()
            cpu_ns, peaks = tree.read_ns(), [probe.peak_rss_bytes(pid) or 0 for pid in tree.pids()]
        return {"ms": seconds * 1e3, "cpu_ms": cpu_ns / 1e6, **({"rss_bytes": max(peaks)} if any(peaks) else {})}

    def _started(
        self, variant: Variant, words: Sequence[str], extra: Mapping[str, str], folder: Path | None, said: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = variants.command(variant, words, self.addresses)
        environment = variants.environment(variant, self.addresses, extra)
        try:
            with target.pinned(self.cores.server or None):
                return subprocess.Popen(  # noqa: S603 (this is what is measured)
                    command,
                    env=environment,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
        except OSError as error:
            raise Refusal(f"{command[0]} cannot be started: {error}", INVALID) from None


def _failed(variant: Variant, how: str, said: IO[bytes]) -> Refusal:
    said.seek(0)
    last = said.read()[-4000:].decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
    return Refusal(f"the program under {variant.name} {how}: {last[0]}", INVALID)


@contextlib.contextmanager
def _patience(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process that hangs, by an alarm: polling for its end would wake this process and its core."""
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def _reaped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ask the server to end, and then make its whole session end."""
    try:
        yield
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _first_answer(port: int, process: subprocess.Popen[bytes], deadline: float) -> str:
    """Ask until there is an answer; nothing, or what went wrong instead.

    A server that listens before it can answer keeps the request waiting, so the moment of the answer is exact.
    """
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            return f"ended with status {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), max(deadline - time.perf_counter(), KNOCK_S)) as connection:
                connection.sendall(request)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionRefusedError:
            time.sleep(KNOCK_S)
            continue
        except OSError as error:
            return f"did not answer: {error}"
        status = answer.split(b"\r\n", 1)[0].decode("latin-1")
        return "" if " 200 " in status else f"answered {status!r}"
    return f"did not answer within {PATIENCE_S:g} s"


# ---- Blocks ----------------------------------------------------------------------------------------


def measure(
    names: Sequence[str],
    runs: int,
    sample: Callable[[str, str], Sample],
    *,
    programs: Sequence[str] = (PASS, IMPORT, FIRST),
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[Difference]]:
    """Program -> what each variant adds, metric by metric. ``sample(variant, program)`` makes one start.

    ``runs`` blocks, in each of which every variant is started twice, mirrored. The first start of everything is thrown away:
    it writes and reads files that the others find.
    """
    everything = plan.with_bases(names)
    for name in everything:
        for program in programs:
            sample(name, program)
    found: dict[tuple[int, str, str, str], list[float]] = {}
    for number in range(runs):
        say(f"block {number + 1} of {runs}")
        for planned in plan.block(Cell("startup", "flask", SATURATION, 1), number, everything, seed):
            for program in programs:
                for metric, value in sample(planned.variant, program).items():
                    found.setdefault((number, planned.variant, program, metric), []).append(value)
    metrics = dict.fromkeys((program, metric) for _, _, program, metric in found)
    results: dict[str, list[Difference]] = {program: [] for program in programs}
    for program, metric in metrics:
        pairs = {
            name: [found[number, name, program, metric] for number in range(runs)] for name in everything
        }
        results[program] += _with_holm([_difference(name, metric, pairs, seed) for name in everything if name != BASE])
    return results


def _difference(name: str, metric: str, pairs: Mapping[str, Sequence[Sequence[float]]], seed: int) -> Difference:
    both = [stats.mirrored_difference(*pair) for pair in zip(pairs[name], pairs[BASE], strict=True)]
    absolute, logs = [one.absolute for one in both], [one.log for one in both if one.log is not None]
    several = len(both) > 1
    base = fmean(map(fmean, pairs[BASE]))
    return Difference(
        variant=name,
        metric=metric,
        blocks=len(both),
        base=base,
        value=fmean(map(fmean, pairs[name])),
        absolute=stats.t_interval(absolute) if several else None,
        percent=stats.log_ratio_interval(logs) if several and len(logs) == len(both) else None,
        p=stats.sign_flip_p(absolute, seed) if several else None,
        p_holm=None,
        is_equivalent=None,
        blocks_for_one_percent=stats.blocks_needed(absolute, 0.01 * base) if several and base > 0 else None,
        series=tuple(absolute),
    )


def _with_holm(differences: Sequence[Difference]) -> list[Difference]:
    """With p adjusted over the variants; bare again is no claim that could be a false alarm."""
    claims = [one for one in differences if one.variant != AGAIN and one.p is not None]
    adjusted = dict(zip((one.variant for one in claims), stats.holm([one.p or 0.0 for one in claims]), strict=True))
    return [replace(one, p_holm=adjusted.get(one.variant)) for one in differences]


# ---- The command -----------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """Carry out ``autoinstr bench startup words``; the exit status. Raises Refusal."""
    options = _parser().parse_args(words)
    if options.runs < 2:
        raise Refusal("--runs must be at least 2: an interval needs more than one block")
    programs = _names(options.programs)
    unknown = [name for name in programs if name not in TITLES]
    if unknown or not programs:
        raise Refusal(f"--programs {options.programs!r}: there are {', '.join(TITLES)}")
    chosen = {name: variants.parse(name) for name in plan.with_bases(_names(options.variants))}
    if options.add_to is not None:
        store.read_manifest(options.add_to)
    missing = rivals.missing(chosen.values())
    if missing:
        raise Refusal(missing)
    cores = machine.cores(options.server_cpus, options.generator_cpus)
    with target.nothing_left(), Sink.start(cores.generator or None) as sink:
        addresses: dict[str, int | str] = {"http": sink.url, "http_port": sink.http_port, "udp_port": sink.udp_port}
        starter = Starter(cores, addresses)
        results = measure(
            list(chosen),
            options.runs,
            lambda name, program: starter.sample(chosen[name], program),
            programs=programs,
            seed=options.seed,
            say=_progress,
        )
    if options.add_to is not None:
        store.write_start_up(options.add_to, {TITLES[name]: found for name, found in results.items()})
    if options.json:
        print(json.dumps(as_json(results, options.seed), indent=1))
    else:
        print(as_text(results))
    return PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("autoinstr bench startup", description="What a variant adds to the start of a program.")
    parser.add_argument("--variants", default=DEFAULT_VARIANTS, metavar="A,B", help=f"default: {DEFAULT_VARIANTS}")
    every = ",".join(TITLES)
    parser.add_argument("--programs", default=every, metavar="A,B", help=f"what is started; default: {every}")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"blocks, two starts of each; default: {RUNS}")
    parser.add_argument("--seed", type=int, default=1, help="of the orders; default: 1")
    parser.add_argument("--server-cpus", metavar="0", help="where the program starts; default: the first one")
    parser.add_argument("--generator-cpus", metavar="1", help="where it is timed; default: all others")
    parser.add_argument("--add-to", type=Path, metavar="RUN", help="keep the figures in a campaign's folder, for its report")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def as_json(results: Mapping[str, Sequence[Difference]], seed: int) -> dict[str, Any]:
    """The figures, the machine, and what the programs are."""
    programs = {name: {"title": TITLES[name], "differences": to_json(found)} for name, found in results.items()}
    return {"machine": machine.machine(), "seed": seed, "programs": programs}


#: Metric -> (title, unit, divisor).
_UNITS = {"ms": ("time", "ms", 1.0), "cpu_ms": ("CPU", "ms", 1.0), "rss_bytes": ("peak memory", "MiB", float(1 << 20))}


def as_text(results: Mapping[str, Sequence[Difference]]) -> str:
    """The table for people: what is added, with 95 % intervals, absolute figures first."""
    lines: list[str] = []
    for program, found in results.items():
        lines.append(TITLES[program])
        for metric in dict.fromkeys(one.metric for one in found):
            lines += _rows(metric, [one for one in found if one.metric == metric])
        lines.append("")
    blocks = max(one.blocks for found in results.values() for one in found)
    lines.append(f"{blocks} blocks of two starts each, mirrored; 95 % intervals by Student's t over blocks")
    return "\n".join(lines)


def _rows(metric: str, found: Sequence[Difference]) -> Iterator[str]:
    title, unit, divisor = _UNITS[metric]
    yield f"  {title:<12} {'bare':<18} {found[0].base / divisor:9.1f} {unit}"
    for one in found:
        name = "bare again (A/A)" if one.variant == AGAIN else one.variant
        text = f"  {'':<12} {name:<18} {one.value / divisor:9.1f} {unit}"
        if one.absolute is not None:
            low, mean, high = (value / divisor for value in (one.absolute.low, one.absolute.mean, one.absolute.high))
            percent = f" ({one.percent.mean:+.1f} %)" if one.percent is not None else ""
            text += f"  {mean:+8.1f} [{low:+.1f}, {high:+.1f}]{percent}"
            if one.variant == AGAIN and one.absolute.excludes(0):
                text += "  noisy: bare differs from itself"
        yield text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
