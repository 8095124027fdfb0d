"""Writes the overhead section of the README: from the campaign, and from the newest in-process measurement.

    python benchmarks/readme.py
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoinstr.bench import analysis, store
from autoinstr.bench.parts import AGAIN, CellResult, Difference, Refusal, Results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CAMPAIGN = RESULTS / "overhead"
BEGIN, END = "<!-- overhead: begin", "<!-- overhead: end -->"
SERVICES = {
    ("fanout_requests", "flask"): "Flask on gunicorn (threads), three `requests` calls in each request",
    ("hello", "fastapi"): "FastAPI on uvicorn, a request that only answers",
}
VARIANTS = {
    "off": "autoinstr, switched off",
    "const:0": "autoinstr, 0 %",
    "prob:0.1": "autoinstr, 10 %",
    "const:1": "autoinstr, 100 %",
    "otel:0": "OpenTelemetry, 0 %",
    "otel": "OpenTelemetry, 100 %",
    "ddtrace": "Datadog, 100 %",
    AGAIN: "*bare again*",
}
IN_PROCESS = {
    "wsgi": "bare WSGI function",
    "flask": "Flask `/`",
    "fastapi": "FastAPI `/`",
    "requests": "one `requests.get`",
    "urlopen": "one `urllib.request.urlopen`",
}
AGENTS = {
    "autoinstr": "autoinstr",
    "opentelemetry": "OpenTelemetry",
    "ddtrace": "Datadog",
    "elastic": "Elastic APM",
}


# Under load: the campaign.


def under_load(results: Results) -> Iterator[str]:
    """One table for each service: a line for each variant, CPU and throughput at each concurrency."""
    yield (
        "CPU that a request costs more on a server under load, in µs with 95 % intervals (and requests per second, where the load\n"
        "generator was not the limit). Each figure is a difference from the same program without an agent; bare against bare is the\n"
        "error of the method:"
    )
    for (scenario, framework), title in SERVICES.items():
        cells = [one for one in results.cells if (one.cell.scenario, one.cell.framework) == (scenario, framework)]
        heads = "".join(f" {one.cell.concurrency} user{'s' * (one.cell.concurrency > 1)} |" for one in cells)
        yield f"\n{title}:\n"
        yield "| |" + heads
        yield "|---|" + "---|" * len(cells)
        yield "| bare | " + " | ".join(bare(one) for one in cells) + " |"
        for name, label in VARIANTS.items():
            yield f"| {label} | " + " | ".join(cost(one, name) for one in cells) + " |"


def bare(cell: CellResult) -> str:
    known = [one.base for one in cell.differences if one.metric == "cpu_us" and one.base]
    return f"{known[0]:,.0f} µs" if known else "–"


def cost(cell: CellResult, variant: str) -> str:
    """``+13.1 ± 2.0 (−4 %/s)``, or a dash."""
    one, throughput = cell.difference(variant), cell.difference(variant, "throughput")
    if one is None or one.absolute is None:
        return "–"
    text = f"{signed(one.absolute.mean)} ± {rounded((one.absolute.high - one.absolute.low) / 2)}"
    if throughput is not None and throughput.percent is not None and variant != AGAIN:
        text += f" ({signed(throughput.percent.mean, 0)} %/s)"
    return text


def signed(value: float, places: int = 1) -> str:
    text = rounded(abs(value), places)
    return text if not float(text.replace(",", "")) else f"{'+' if value > 0 else '−'}{text}"


def rounded(value: float, places: int = 1) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.{places}f}"


def machine(results: Results) -> str:
    """Where and with what the campaign was made, and how far it can be relied on."""
    manifest = results.manifest
    facts, blocks = manifest.machine, max((one.blocks for cell in results.cells for one in cell.differences), default=0)
    scatter = [one.pace for one in results.cells if one.pace]
    versions = ", ".join(
        f"{package} {manifest.versions[environment][package]}"
        for environment, package in (("otel", "opentelemetry-sdk"), ("ddtrace", "ddtrace"))
        if package in manifest.versions.get(environment, {})
    )
    text = (
        f"{manifest.created_at[:10]}, {facts['cpu']['model']}, {facts['cpu']['cores']} CPUs, Python "
        f"{facts['python']['version']}; {versions}; {results.runs:,} runs\nin {blocks} blocks."
    )
    if scatter:
        before, left = (statistics.median(getattr(one, name) for one in scatter) for name in ("scatter_percent", "left_percent"))
        text += (
            f" Runs scattered by {before:.0f} % on this shared machine, by {left:.1f} % at the usual pace of its CPUs, which is what is"
            " shown."
        )
    return text


def start_up(results: Results) -> Iterator[str]:
    """What a start costs, one line for each program and metric, one column for each agent."""
    names = [one for one in ("const:1", "otel", "ddtrace", "elastic") if any(one == d.variant for d in flat(results))]
    if not names:
        return
    yield "Added once, when a process starts (95 % intervals):\n"
    yield "| | bare |" + "".join(f" {VARIANTS.get(name, name).partition(',')[0]} |" for name in names)
    yield "|---|---|" + "---|" * len(names)
    for title, found in results.start_up.items():
        for metric, unit, divisor in (("ms", "ms", 1.0), ("rss_bytes", "MiB at most resident", 1 << 20)):
            own = {one.variant: one for one in found if one.metric == metric}
            if not own:
                continue
            base = next(iter(own.values())).base / divisor
            yield f"| {title}: {unit} | {base:.1f} | " + " | ".join(interval(own.get(name), divisor) for name in names) + " |"
    yield ""


def flat(results: Results) -> list[Difference]:
    return [one for found in results.start_up.values() for one in found]


def interval(one: Difference | None, divisor: float) -> str:
    if one is None or one.absolute is None:
        return "–"
    low, mean, high = (value / divisor for value in (one.absolute.low, one.absolute.mean, one.absolute.high))
    return f"{signed(mean)} ± {rounded((high - low) / 2)}"


# In one process: benchmarks/overhead.py.


def in_process() -> Iterator[str]:
    """Medians of the paired differences."""
    files = sorted(RESULTS.glob("overhead-*.json"))
    if not files:
        return
    record = json.loads(files[-1].read_text())
    yield (
        "One library at a time, all in one warm process that takes turns with the same process bare, so that nothing but the\n"
        "library's own code counts (medians, µs of CPU per request or call; every trace sampled, and none):\n"
    )
    yield "| | bare |" + "".join(f" {name} 100 % | 0 % |" for name in AGENTS.values())
    yield "|---|---|" + "---|" * (2 * len(AGENTS))
    for scenario, samples in record["samples"].items():
        base = statistics.median(pair[0]["us"] for pairs in samples.values() for pair in pairs)
        cells = [median(samples, f"{agent}@{rate}") for agent in AGENTS for rate in ("100", "0")]
        yield f"| {IN_PROCESS.get(scenario, scenario)} | {base:.1f} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"{record['date'][:10]}; bare differed from bare by at most {noise(record['samples'])} µs, line by line. OpenTelemetry makes three spans\n"
        "for a FastAPI request and Datadog two (nine for Flask, four for WSGI): they do more work for their figure. Elastic's\n"
        "FastAPI figure took one line in the program."
    )


def median(samples: Mapping[str, Any], label: str) -> str:
    pairs: Sequence[Any] = samples.get(label) or ()
    return f"{statistics.median(theirs['us'] - base['us'] for base, theirs in pairs):.1f}" if pairs else "–"


def noise(scenarios: Mapping[str, Any]) -> str:
    """What the method cannot tell apart, line by line: the largest difference of bare from bare."""
    return ", ".join(
        f"{max(abs(theirs['us'] - base['us']) for base, theirs in samples['bare']):.1f}"
        for samples in scenarios.values()
        if samples.get("bare")
    )


def calibrated() -> Iterator[str]:
    """What the harness has found of what was known to be there."""
    files = sorted(RESULTS.glob("calibration-*.json"))
    if not files:
        return
    rows = {one["variant"]: one for one in json.loads(files[-1].read_text())["summary"]}
    burnt, again = rows["burn:50"], rows[AGAIN]
    yield (
        f"Can one trust it? Of {burnt['of']} campaigns with {burnt['truth_us']:.0f} µs burnt in each request, {burnt['held']} had them in "
        f"their intervals\n(mean of what was found: {burnt['mean_us']:.2f} µs); no difference between bare and bare was found in {again['held']} of {again['of']}."
    )
    yield ""


def section(campaign: Path) -> str:
    """The text between the marks. Raises Refusal."""
    results = analysis.analyse(store.read(campaign))
    parts = [*under_load(results), "", machine(results), "", *calibrated(), *start_up(results), *in_process()]
    return "\n".join([*parts, "", "Raw data, reports and scripts: [benchmarks](benchmarks/README.md)."])


def main() -> None:
    """Replace the section."""
    try:
        found = section(Path(sys.argv[1]) if sys.argv[1:] else CAMPAIGN)
    except Refusal as refusal:
        sys.exit(f"{refusal}\nautoinstr bench run --matrix benchmarks/overhead.toml --out {CAMPAIGN} makes the campaign")
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, _, rest = text.partition(BEGIN)
    mark, _, rest = rest.partition("-->")
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{BEGIN}{mark}-->\n\n{found}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
