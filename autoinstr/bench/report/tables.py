"""What a report says in tables: the same ones in HTML, Markdown and on the terminal.

Owns: names of cells and variants for people, which figures stand in which table.
Must not know: how tables look.
Invariants: pure; reads ``parts.Results`` and computes nothing that the analysis did not.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from autoinstr.bench.parts import AGAIN, BASE, RATE, Account, CellResult, CostModel, Manifest, Results, Run
from autoinstr.bench.report import quantities
from autoinstr.bench.report.blocks import Column, Table
from autoinstr.bench.report.quantities import GLUE, NOTHING

LATENCIES = ("p50_us", "p90_us", "p99_us", "p999_us")


def cell_title(result: CellResult) -> str:
    cell = result.cell
    return f"{cell.scenario} · {cell.framework} · {load_of(result)}"


def load_of(result: CellResult) -> str:
    """Concurrency and mode, in words."""
    cell = result.cell
    users = f"{cell.concurrency} user{'s' if cell.concurrency > 1 else ''}"
    return f"{users} at {quantities.share(cell.load)} load" if cell.mode == RATE else f"{users}, saturated"


def variant_name(name: str) -> str:
    return f"{AGAIN} (A/A)" if name == AGAIN else name


def stamps(result: CellResult) -> tuple[str, ...]:
    return ("noisy",) if result.is_noisy else ()


def variants_of(result: CellResult, metric: str = "cpu_us") -> tuple[str, ...]:
    return tuple(one.variant for one in result.differences if one.metric == metric)


def bare(result: CellResult, metric: str = "cpu_us") -> str:
    """What the bare program needs, where that is known."""
    one = next((one for one in result.differences if one.metric == metric), None)
    return quantities.amount(metric, one.base) if one and one.base else NOTHING


def added(result: CellResult, metric: str = "cpu_us") -> Table:
    """Each variant against bare, for one metric."""
    how = quantities.metric_of(metric)
    own = [one for one in result.differences if one.metric == metric]
    places = quantities.decimals([one.absolute for one in own], how.factor)
    rows = []
    for one in own:
        percent = NOTHING if one.percent is None else f"{quantities.percent(one.percent.mean)}"
        if one.absolute is None:
            rows.append((variant_name(one.variant), quantities.seen(one, places), "no interval", percent, NOTHING, str(one.blocks), ""))
            continue
        rows.append(
            (
                variant_name(one.variant),
                f"{quantities.signed(one.absolute.mean * how.factor, places)}{GLUE}{how.unit}",
                quantities.interval(one.absolute, places, how.factor),
                percent,
                probability(one.p_holm),
                str(one.blocks),
                "" if one.blocks_for_one_percent is None else str(one.blocks_for_one_percent),
            )
        )
    columns = (
        Column("variant"), Column("added", True), Column("95 % interval", True), Column("of bare", True),
        Column("p (Holm)", True), Column("blocks", True), Column("for ±1 %", True),
    )  # fmt: skip
    return Table(f"Added {how.title}; bare: {bare(result, metric)}", columns, tuple(rows))


def probability(p: float | None) -> str:
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def latencies(result: CellResult, metrics: Iterable[str] = LATENCIES) -> Table:
    """Response times, bare and under each variant, with what the variant added."""
    known = [metric for metric in metrics if result.difference(AGAIN, metric) or any(variants_of(result, metric))]
    rows = []
    if known:
        rows.append((BASE, *(bare(result, metric) for metric in known)))
    for name in variants_of(result, known[0]) if known else ():
        found = [result.difference(name, metric) for metric in known]
        rows.append((variant_name(name), *(quantities.change(one) if one else NOTHING for one in found)))
    columns = (
        Column("variant"),
        *(Column(quantities.metric_of(metric).title.split(", ")[1], True) for metric in known),
    )
    return Table("Response time: bare, and what each variant adds [95 % interval]", columns, tuple(rows))


def model(found: CostModel) -> Table:
    """What the model says at other samplings."""
    rows = []
    for share, predicted in found.predictions:
        percent = 100 * predicted.mean / found.base_us.mean if found.base_us.mean else 0.0
        rows.append(
            (
                quantities.fraction(share),
                *_columns(predicted.mean, predicted.low, predicted.high),
                quantities.percent(percent),
            )
        )
    columns = (Column("sampled"), Column("added", True), Column("95 % interval", True), Column("of bare", True))
    return Table("What the model predicts, per request", columns, tuple(rows))


def _columns(mean: float, low: float, high: float) -> tuple[str, str]:
    places = 2 if abs(mean) < 1 else 1
    ends = f"[{quantities.signed(low, places)},{GLUE}{quantities.signed(high, places)}]"
    return f"{quantities.signed(mean, places)}{GLUE}µs", ends


def model_sentence(found: CostModel) -> str:
    """The finding of a cost model."""
    fixed, per_span = quantities.estimate(found.fixed_us, "µs"), quantities.estimate(found.per_span_us, "µs")
    return f"every request pays {fixed}; each sampled span adds {per_span}. R² = {found.r_squared:.3f}."


def model_points(found: CostModel) -> Table:
    """What was measured, beside what the model says."""
    rows = []
    for name, spans, measured in found.points:
        says = found.fixed_us.mean + found.per_span_us.mean * spans
        numbers = (f"{spans:.4g}", f"{quantities.signed(measured)}{GLUE}µs", f"{quantities.signed(says)}{GLUE}µs")
        rows.append((name, *numbers, f"{quantities.signed(measured - says)}{GLUE}µs"))
    columns = (
        Column("variant"),
        Column("sampled spans/request", True),
        Column("measured", True),
        Column("model", True),
        Column("off by", True),
    )
    return Table("Measured, and modelled", columns, tuple(rows))


def accounts(result: CellResult) -> Table:
    """Where the spans have gone. Columns that nothing is known of are left out."""
    heads: dict[str, Callable[[Account], str]] = {
        "variant": lambda one: one.variant,
        "runs": lambda one: quantities.count(one.runs),
        "requests": lambda one: quantities.count(one.requests),
        "spans started": lambda one: quantities.count(one.started),
        "sampled": lambda one: NOTHING if one.sampled_share is None else quantities.share(one.sampled_share),
        "expected": lambda one: NOTHING if one.expected_share is None else quantities.share(one.expected_share),
        "exported": lambda one: quantities.count(one.exported),
        "received": lambda one: quantities.count(one.received),
        "dropped": lambda one: quantities.count(one.dropped),
        "failed": lambda one: quantities.count(one.failed),
        "left": lambda one: quantities.count(one.left),
        "bytes/span": lambda one: NOTHING if one.bytes_per_span is None else f"{one.bytes_per_span:,.0f}",
        "spans/trace": lambda one: (
            NOTHING if one.spans_per_sampled_request is None else f"{one.spans_per_sampled_request:.3g}"
        ),
        "trouble": lambda one: one.trouble or "none",
    }
    rows = tuple(tuple(write(one) for write in heads.values()) for one in result.accounts)
    # A column in which nobody has anything to say is none.
    told = [number for number in range(len(heads)) if any(row[number] not in (NOTHING, "none") for row in rows)]
    columns = tuple(
        Column(title, title not in ("variant", "trouble")) for number, title in enumerate(heads) if number in told
    )
    rows = tuple(tuple(row[number] for number in told) for row in rows)
    return Table("Spans, summed over all runs", columns, rows)


def memory(result: CellResult) -> Table:
    """Resident memory: the median over the runs, first and last reading."""
    rows = []
    for name, points in result.memory.items():
        if not points:
            continue
        early, late = halves(points)
        start, end = median(value for _, value in early or late), median(value for _, value in late)
        changed = result.difference(name, "rss_bytes")
        rows.append(
            (
                variant_name(name), quantities.amount("rss_bytes", start), quantities.amount("rss_bytes", end),
                f"{quantities.signed((end - start) / 1e6, 2)}{GLUE}MB",
                quantities.change(changed) if changed else NOTHING,
            )
        )  # fmt: skip
    columns = (
        Column("variant"),
        Column("at the start", True),
        Column("at the end", True),
        Column("growth", True),
        Column("added to bare", True),
    )
    return Table("Resident memory of all processes, medians over runs", columns, tuple(rows))


def halves(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Readings of the starts and of the ends of runs; the former are missing where a system does not tell."""
    middle = (min(at for at, _ in points) + max(at for at, _ in points)) / 2
    return [one for one in points if one[0] < middle], [one for one in points if one[0] >= middle]


def how_many_excluded(results: Results) -> str:
    """In words: runs that are not used at all, and those of which some figures are not."""
    wholly = sum(not one.usable("cpu") for one in results.excluded)
    partly = len(results.excluded) - wholly
    return f"{wholly or 'none'} thrown out or repeated" + (f", {partly} used in part" if partly else "")


def excluded(results: Results) -> Table:
    rows = tuple(
        (
            f"{one.planned.cell}, block {one.planned.block + 1}, position {one.planned.position + 1}",
            one.planned.variant,
            f"{one.status}, attempt {one.attempt + 1}",
            reasons(one),
        )
        for one in results.excluded
    )
    return Table(
        "Runs that were thrown out or repeated", (Column("run"), Column("variant"), Column("what"), Column("why")), rows
    )


def reasons(run: Run) -> str:
    return "; ".join(f"{fault.text} (spoils {fault.scope})" for fault in run.faults) or "no reason recorded"


def pace(results: Results) -> Table:
    """What the speed of the server's CPUs did to the cells, and what is left of it."""
    rows = tuple(
        (
            cell_title(one),
            f"{one.pace.usual_us:.1f}",
            f"{one.pace.fastest_us:.1f} … {one.pace.slowest_us:.1f}",
            f"{one.pace.elasticity['cpu_us']:.2f}",
            f"{one.pace.scatter_percent:.1f}{GLUE}%",
            f"{one.pace.left_percent:.1f}{GLUE}%",
        )
        for one in results.cells
        if one.pace
    )
    columns = (
        Column("cell"),
        Column("a fixed piece of work took, µs", True),
        Column("in the fastest and slowest run", True),
        Column("elasticity of CPU per request", True),
        Column("scatter between runs", True),
        Column("left at the usual pace", True),
    )
    return Table("The pace of the server's CPUs", columns, rows)


def machine(manifest: Manifest) -> Table:
    rows = tuple((key, text) for key, text in flattened(manifest.machine))
    return Table("The machine", (Column("what"), Column("value")), rows)


def versions(manifest: Manifest) -> Table:
    rows = [
        (name or "the harness's own", package, version)
        for name, packages in manifest.versions.items()
        for package, version in packages.items()
    ]
    return Table("Versions", (Column("environment"), Column("package"), Column("version")), tuple(rows))


def variants(manifest: Manifest) -> Table:
    rows = []
    for one in manifest.variants:
        settings = " ".join(f"{key}={value}" for key, value in one.variables.items())
        rows.append((one.name, one.kind, shlex.join(one.launcher) or NOTHING, settings or NOTHING))
    return Table("Variants", (Column("name"), Column("kind"), Column("launcher"), Column("variables")), tuple(rows))


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """A mapping of mappings as lines; what the system did not say is left out."""
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}, ")
        elif key == "memory_bytes" and isinstance(value, int):
            yield prefix + "memory", f"{value / 2**30:.1f}{GLUE}GiB"
        elif value is not None and value not in ("", [], ()):
            yield name, _plainly(value)


def _plainly(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def machine_line(manifest: Manifest) -> str:
    """The machine in half a line."""
    found = dict(flattened(manifest.machine))
    known = [found.get(key) for key in ("cpu, model", "cpu", "cpu model")]
    cpu = next((one for one in known if one), "unknown CPU")
    cores = found.get("cpu, cores") or found.get("cores")
    python = found.get("python, version") or found.get("python") or ""
    parts = [
        cpu,
        f"{cores} CPUs" if cores else "",
        f"Python {python.removeprefix('CPython ').split(' ')[0]}" if python else "",
    ]
    return ", ".join(part for part in parts if part)
