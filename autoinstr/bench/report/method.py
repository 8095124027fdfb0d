"""How a campaign was made, in sentences, from its manifest: what a reader needs to repeat it, or to doubt it.

Owns: the text. Must not know: results.
Invariants: says only what the manifest says; rules and statistics are those of docs/bench.md.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from autoinstr.bench.parts import AGAIN, BASE, RATE, SATURATION, Manifest
from autoinstr.bench.report.quantities import GLUE

RULES = (
    ("everything", "more than 0.01 % of the requests failed, or the program died"),
    (
        "everything",
        (
            "the spans do not add up: finished is not exported + dropped + failed + left, or exported is not "
            "what the sink received "
            "(UDP: more than 0.1 % lost), or the sampled share is outside the exact binomial interval (0.001)"
        ),
    ),
    ("throughput, latency", "the generator used more than 70 % of its core"),
    (
        "latency",
        (
            "in rate mode: achieved over target rate outside 0.99 … 1.01, lag p99 above the larger of 1 ms and "
            "10 % of the median "
            "response, or requests unsent"
        ),
    ),
    (
        "latency, throughput",
        "steal above 1 %, or other processes above 5 % of a core on the CPUs in use; from 5 % and 20 % on everything",
    ),
)


def sentences(manifest: Manifest, runs: int) -> tuple[str, ...]:
    """One paragraph each."""
    all_of_them = (
        _order(manifest, runs),
        _run(manifest),
        _load(manifest),
        _places(manifest),
        STATISTICS,
        _repeat(manifest),
    )
    return tuple(map(glued, all_of_them))


def rules() -> tuple[tuple[str, str], ...]:
    """What a rule spoils, and the rule."""
    return tuple((scope, glued(text)) for scope, text in RULES)


def glued(text: str) -> str:
    """Numbers and their units on one line."""
    return re.sub(r"(?<=\d) (?=(?:%|s|ms|µs)(?!\w))", GLUE, text)


def _order(manifest: Manifest, runs: int) -> str:
    others = [one.name for one in manifest.variants if one.name not in (BASE, AGAIN)]
    return (
        f"{runs:,} runs, each a fresh process: {len(manifest.cells)} cell{_s(manifest.cells)} × {manifest.blocks} "
        "blocks. A block has every variant "
        f"twice, mirrored ({BASE}, v1 … vk, vk … v1, {BASE}), in an order of its own (seed {manifest.seed}), so "
        "that a drift of the machine "
        f"cancels. Variants: {', '.join(others) or 'none'}; and {AGAIN}, the bare program once more, whose "
        "difference from bare "
        "is the error of the harness (A/A)."
    )


def _s(values: Sequence[object]) -> str:
    return "" if len(values) == 1 else "s"


def _run(manifest: Manifest) -> str:
    timing = manifest.timing
    return (
        f"A run: warm-up of at least {timing.warm_up_s:g} s and {timing.warm_up_requests:,} requests, a window of "
        f"{timing.window_s} s that "
        f"must be steady (else it moves on, at most {timing.extensions} times), {timing.idle_s:g} s without load "
        "whose CPU is taken off, "
        "then the agent's queue empties and the sink counts. CPU per request: all processes of the program, over "
        "the requests answered in "
        "the window."
    )


def _load(manifest: Manifest) -> str:
    modes = {cell.mode for cell in manifest.cells}
    parts = []
    if SATURATION in modes:
        parts.append(
            "Saturated: as many users as the cell says, each asking again as soon as it was answered (closed loop)."
        )
    if RATE in modes:
        parts.append(
            "At a load: requests on an absolute schedule, at the same rate for all variants, a share of what the "
            "bare program did at saturation; "
            "response time counts from when a request was due, so that a stall is not hidden (open loop)."
        )
    ceiling = manifest.calibration.get("generator")
    if ceiling:
        parts.append(f"The generator alone reaches {ceiling:,.0f} requests per second.")
    return " ".join(parts)


def _places(manifest: Manifest) -> str:
    if manifest.server_cpus or manifest.generator_cpus:
        return (
            f"Pinned: the program to CPU {_cpus(manifest.server_cpus)}, generator ({manifest.processes} process"
            f"{'es' if manifest.processes > 1 else ''}) and sink to CPU {_cpus(manifest.generator_cpus)}, which on Linux is "
            "kept busy with nothing (SCHED_IDLE) where they leave it idle: a hyperthread beside the program would be the "
            "quieter, the dearer the variant is."
        )
    return "Nothing was pinned to CPUs."


def _cpus(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "any"


STATISTICS = (
    "Per block, a variant's difference is the mean of its two runs less the mean of bare's two. Intervals are "
    "Student's t over blocks, 95 %; "
    "percentages by the same on logarithms. p: sign-flip permutation, Holm over the variants of a cell. "
    "“Equivalent” only by two one-sided "
    "tests. A cell whose A/A interval excludes 0 is stamped noisy. Outliers are never removed; runs are invalid "
    "only by the rules below, "
    "which were stated beforehand. Figures are at the usual pace of the program's CPUs: a fixed piece of work is timed "
    "there a hundred times a second, and what its changes from run to run explain of a figure's (least squares within the "
    "variants of a cell) is taken out; runs.jsonl has all figures as measured. p is shown from 6 blocks on: of fewer "
    "no values at all give 0.05."
)


def _repeat(manifest: Manifest) -> str:
    words = manifest.argv
    command = shlex.join(words if words[:1] == ("autoinstr",) else ("autoinstr", "bench", "run", *words))
    what = f" Program: {manifest.program} at {manifest.url}." if manifest.program else ""
    return f"Campaign {manifest.id}, {manifest.created_at}. Made by: {command}.{what}"
