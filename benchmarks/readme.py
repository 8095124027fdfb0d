"""Writes the overhead section of the README from the newest results.

    python benchmarks/readme.py
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- overhead: begin", "<!-- overhead: end -->"
TITLES = {
    "wsgi": "bare WSGI function",
    "flask": "Flask `/`",
    "fastapi": "FastAPI `/`",
    "requests": "one `requests.get`",
    "urlopen": "one `urllib.request.urlopen`",
    "gunicorn": "gunicorn (threads), Flask making one requests call",
    "uvicorn": "uvicorn, FastAPI `/`",
}
AGENTS = {
    "autoinstr": "autoinstr",
    "opentelemetry": "OpenTelemetry",
    "ddtrace": "Datadog",
    "elastic": "Elastic APM",
}


def newest(kind: str) -> dict[str, Any] | None:
    """The newest record of one benchmark."""
    files = sorted(RESULTS.glob(f"{kind}-*.json"))
    return json.loads(files[-1].read_text()) if files else None


def median(samples: dict[str, Any], label: str, key: str, *, as_share: bool = False) -> str:
    """The median of the paired differences, or ratios, of one agent at one rate; a dash where it was not measured."""
    pairs = samples.get(label)
    if not pairs:
        return "–"
    values = [theirs[key] / bare[key] if as_share else theirs[key] - bare[key] for bare, theirs in pairs]
    return f"{statistics.median(values):.2f}" if as_share else f"{statistics.median(values):.1f}"


def rows(record: dict[str, Any], key: str, *, as_share: bool) -> list[str]:
    """One line per scenario, two columns per agent."""
    lines = []
    for scenario, samples in record["samples"].items():
        bare = statistics.median(pair[0][key] for pairs in samples.values() for pair in pairs)
        cells = [
            median(samples, f"{agent}@{rate}", key, as_share=as_share) for agent in AGENTS for rate in ("100", "0")
        ]
        unit = f"{bare:.0f}/s" if as_share else f"{bare:.1f}"
        lines.append(f"| {TITLES.get(scenario, scenario)} | {unit} | " + " | ".join(cells) + " |")
    return lines


def noise(scenarios: dict[str, Any]) -> str:
    """What the method cannot tell apart, line by line: the largest difference of bare from bare."""
    largest = [
        f"{max(abs(theirs['us'] - bare['us']) for bare, theirs in samples['bare']):.1f}"
        for samples in scenarios.values()
        if samples.get("bare")
    ]
    return f" Bare differed from bare by at most\n{', '.join(largest)} µs, line by line:" if largest else ""


def start_rows(samples: dict[str, Any]) -> list[str]:
    """Start-up time and memory, one line each, one column per agent."""
    lines = []
    for title, scenario, key in (
        ("start of `python -c pass`, ms", "pass", "ms"),
        ("memory of a gunicorn worker with Flask, MiB resident", "memory", "rss"),
    ):
        bare = statistics.median(pair[0][key] for pairs in samples[scenario].values() for pair in pairs)
        cells = [median(samples[scenario], f"{agent}@100", key) for agent in AGENTS]
        lines.append(f"| {title} | {bare:.1f} | " + " | ".join(cells) + " |")
    return lines


def section() -> str:
    """The text between the marks."""
    overhead, throughput, startup = newest("overhead"), newest("throughput"), newest("startup")
    if overhead is None:
        sys.exit(f"no results in {RESULTS}: run benchmarks/overhead.py first")
    machine, versions = overhead["machine"], overhead["versions"]
    heads = "".join(f" {name} 100 % | 0 % |" for name in AGENTS.values())
    ruler = "|---|---|" + "---|" * (2 * len(AGENTS))
    text = [
        "CPU that tracing adds to one request, in µs, with every trace sampled and with none (medians of paired runs that take",
        "turns with the same process bare; all exporting is flushed inside the window)." + noise(overhead["samples"]),
        "",
        "| | bare |" + heads,
        ruler,
        *rows(overhead, "us", as_share=False),
        "",
    ]
    if throughput is not None:
        text += [
            "Requests per second kept under load (32 connections), as a share of bare:",
            "",
            "| | bare |" + heads,
            ruler,
            *rows(throughput, "rate", as_share=True),
            "",
        ]
    if startup is not None:
        text += ["Added once, when a process starts:", "", "| | bare |" + "".join(f" {name} |" for name in AGENTS.values())]
        text += ["|---|---|" + "---|" * len(AGENTS), *start_rows(startup["samples"]), ""]
    rival_versions = ", ".join(
        f"{package} {versions[agent][package]}"
        for agent, package in (
            ("opentelemetry", "opentelemetry-sdk"),
            ("ddtrace", "ddtrace"),
            ("elastic", "elastic-apm"),
        )
        if package in versions.get(agent, {})
    )
    text += [
        f"{overhead['date'][:10]}, {machine['cpu']}, {machine['cpus']} CPUs, Python {machine['python']}; {rival_versions}. OpenTelemetry makes",
        "three spans for a FastAPI request and Datadog two (nine for Flask, four for WSGI): they do more work for their figure. Elastic's",
        "FastAPI figure took one line in the program. Spreads, bytes per span and the other two wires: [benchmarks/results](benchmarks/results).",
    ]
    return "\n".join(text)


def main() -> None:
    """Replace the section."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, _, rest = text.partition(BEGIN)
    mark, _, rest = rest.partition("-->")
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{BEGIN}{mark}-->\n\n{section()}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
