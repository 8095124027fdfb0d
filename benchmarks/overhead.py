"""CPU that an agent adds to one request, inside one process, against the same process bare.

A pair of samples is two processes on CPU 0, one bare and one under an agent, that take turns of some 20 ms: whatever slows
the machine down for a while slows both. CPU of all threads is counted, with the agent flushed after every 500 requests and
at the end, inside the window. What agents export goes to a collector on another CPU that counts bytes and spans.

    python benchmarks/overhead.py                                          # everything
    python benchmarks/overhead.py --scenarios flask --variants autoinstr@100 opentelemetry@100 --pairs 7
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
import time

from agents import BARE, Addresses, Variant
from measure import (
    MEASURED_CPU,
    Pairs,
    Report,
    Sample,
    SampleFailed,
    Spread,
    added,
    alternate,
    bare,
    busy_seconds,
    chosen_variants,
    collector,
    in_words,
    is_noisy,
    parser,
    peer,
    start_pinned,
    table,
    take,
)

#: Requests per turn (a divisor of 500, after which agents are flushed), and turns per sample.
TURNS = {"wsgi": (500, 30), "flask": (500, 16), "fastapi": (500, 16), "requests": (50, 40), "urlopen": (100, 40)}

TITLES = {
    "wsgi": "Bare WSGI function",
    "flask": "Flask `/`",
    "fastapi": "FastAPI `/`",
    "requests": "One `requests.get`",
    "urlopen": "One `urllib.request.urlopen`",
}

#: Where a figure is not what the reader would take it for.
NOTES = {
    ("elastic", "fastapi"): "not zero-code: one line was added, as `elasticapm-run` sends nothing for FastAPI",
    ("ddtrace", "urlopen"): "with `DD_TRACE_HTTPLIB_ENABLED`; by default it does not trace urllib",
}

#: Cells that cannot be measured, and why.
LEFT_OUT = {
    ("elastic", "wsgi"): "has no WSGI middleware",
    ("elastic", "requests"): "makes client spans only under a transaction",
    ("elastic", "urlopen"): "makes client spans only under a transaction",
}


class Measured:
    """A process of ``workloads.py`` under an agent."""

    def __init__(self, scenario: str, to: Addresses, origin: str, variant: Variant) -> None:
        variables = {**variant.agent.variables(to, variant.rate), "BENCH_ORIGIN": origin}
        if scenario == "urlopen" and variant.agent.name == "ddtrace":
            variables["DD_TRACE_HTTPLIB_ENABLED"] = "true"
        command = variant.agent.command("python", "workloads.py", scenario, str(TURNS[scenario][0]))
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self.process = start_pinned(
            command, MEASURED_CPU, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )

    def wait_for(self, mark: str) -> str:
        """The rest of the line that begins with the mark; agents may print other lines."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(mark):
                return line[len(mark) :]
        self.errors.seek(0)
        raise SampleFailed(f"the process ended early\n{self.errors.read()[-2000:]}")

    def take_turn(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.wait_for("@done")

    def finish(self) -> float:
        """Microseconds of CPU, the last flush included."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return float(self.wait_for("@cpu"))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def measure_pair(
    scenario: str, turns: int, to: Addresses, origin: str, variant: Variant, variant_first: bool
) -> tuple[Sample, Sample]:
    """Bare and variant in turns: CPU per request of each, and what the collector got from the variant."""
    count = turns * TURNS[scenario][0]
    plain = Measured(scenario, to, origin, BARE)
    theirs = Measured(scenario, to, origin, variant)
    try:
        plain.wait_for("@ready")
        theirs.wait_for("@ready")
        take(to)
        begin, busy = time.monotonic(), busy_seconds(MEASURED_CPU)
        for turn in range(turns):
            for process in (theirs, plain) if (turn % 2 == 1) != variant_first else (plain, theirs):
                process.take_turn()
        cpu = (plain.finish(), theirs.finish())
        wall, busy = time.monotonic() - begin, busy_seconds(MEASURED_CPU) - busy
    finally:
        plain.end()
        theirs.end()
    got = take(to)
    facts = {"other_load": round(max(0.0, busy - sum(cpu) / 1e6) / wall, 3), "spans_per_request": got["spans"] / count}
    return {"us": cpu[0] / count}, {"us": cpu[1] / count, **got, **facts}


def row(label: str, scenario: str, pairs: Pairs) -> list[str]:
    """A line of the table: added CPU, what was sent for it, what to know about it."""
    last = pairs[-1][1]
    sent = last["spans_per_request"]
    agent = label.partition("@")[0]
    notes = [NOTES[agent, scenario]] if (agent, scenario) in NOTES else []
    if sent > 1.001:
        notes.append(f"does more work: {sent:.3g} spans per request")
    if label.endswith("@100") and any(one["spans_per_request"] % 1 or not one["spans"] for _, one in pairs):
        notes.append("**not all spans arrived**")
    if is_noisy(pairs):
        notes.append("noisy: other work ran beside it")
    return [
        in_words(label),
        added(pairs, "us").text(),
        f"{sent:.3g}" if sent else "–",
        f"{last['bytes'] / last['spans']:.0f}" if last["spans"] else "–",
        "; ".join(notes),
    ]


def measured(variants: list[Variant], scenario: str) -> list[Variant]:
    return [variant for variant in variants if (variant.agent.name, scenario) not in LEFT_OUT]


def main() -> None:
    arguments = parser(__doc__, pairs=7)
    arguments.add_argument("--scenarios", nargs="+", choices=list(TURNS), default=list(TURNS))
    arguments.add_argument("--scale", type=float, default=1, help="multiplies the number of turns per sample")
    options = arguments.parse_args()
    variants = chosen_variants(options)
    report = Report("overhead", options)
    with collector() as to, peer("origin.py") as origin:
        for scenario in options.scenarios:
            turns = max(1, round(TURNS[scenario][1] * options.scale))
            run = functools.partial(measure_pair, scenario, turns, to, f"http://127.0.0.1:{origin['port']}/stock")
            results = alternate(measured(variants, scenario), options.pairs, run)
            count = turns * TURNS[scenario][0]
            report.record["samples"][scenario] = results
            report.add(*summary(scenario, count, results))
    report.save()


def summary(scenario: str, count: int, results: dict[str, Pairs]) -> tuple[str, str]:
    """Title and text of a scenario's part of the report."""
    rows = [row(label, scenario, pairs) for label, pairs in results.items()]
    absent = [f"{agent} {why}" for (agent, what), why in LEFT_OUT.items() if what == scenario]
    text = table(("agent", "added µs of CPU (min to max)", "spans/request", "bytes/span", ""), rows)
    if results:
        alone: Spread = bare(results, "us")
        text = f"Bare: {alone.text()} µs. {count} requests per sample.\n\n" + text
    return TITLES[scenario], text + "".join(f"\nNot measured: {line}.\n" for line in absent)


if __name__ == "__main__":
    main()
