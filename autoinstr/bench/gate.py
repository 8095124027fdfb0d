"""``autoinstr bench gate``: rules such as ``cpu_us(const:0) < 5us``, for continuous integration; the exit code says
what became of them.

Owns: the grammar of rules, how an interval decides, how statuses add up.
Must not know: how figures are computed, files' formats.
Invariants: the interval decides, never the mean: a rule is broken only when the whole interval is beyond the limit,
and passed only when all of it is inside; where it straddles, the rule is inconclusive and says how many more blocks
would settle it; data that is not valid decides nothing.

    metric(variant)[ in CELL] < limit          or >; metric is cpu_us, p50, p90, p99, p999, throughput, rss

The metric is what the variant adds to bare; with ``--baseline``, how much more it adds than it did there. Variants and
cells may have ``*`` in them; a cell is named by words of its name: ``in flask c16``, ``in rate 60%``. Units: us, µs,
ms, s, %, KB, MB, /s.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from autoinstr.bench import stats
from autoinstr.bench.parts import (
    BROKEN,
    INCONCLUSIVE,
    INVALID,
    PASSED,
    USAGE,
    CellResult,
    Difference,
    Estimate,
    Refusal,
    Results,
)
from autoinstr.bench.report import quantities

#: As a rule writes it -> as ``Difference`` has it.
METRICS = {
    "cpu_us": "cpu_us", "cpu": "cpu_us", "throughput": "throughput", "rss": "rss_bytes", "rss_bytes": "rss_bytes",
    **{f"p{one}{unit}": f"p{one}_us" for one in ("50", "90", "99", "999") for unit in ("", "_us")},
}  # fmt: skip
#: Unit -> factor to the unit that ``Difference`` has, for the metrics that can be in it.
TIMES = {"us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6}
SIZES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "kib": 1024.0, "mib": 1048576.0}
RATES = {"/s": 1.0}
PERCENT = "%"
#: What a longer campaign cannot settle in reason.
MOST_BLOCKS = 1000

_SHAPE = re.compile(
    r"\s*(?P<metric>\w+)\s*\(\s*(?P<variant>.+?)\s*\)\s*(?:in\s+(?P<cell>[^<>]+?)\s*)?(?P<sign>[<>])\s*(?P<limit>[+\-−]?[\d.]+)\s*(?P<unit>\S*)\s*"
)
WORDS = {PASSED: "passed", BROKEN: "broken", INCONCLUSIVE: "inconclusive", INVALID: "invalid data"}


@dataclass(frozen=True)
class Rule:
    """``limit`` is in percent, or in the unit of ``Difference``. ``text`` is as its author wrote it."""

    text: str
    metric: str
    variant: str
    cell: str
    is_below: bool
    limit: float
    is_percent: bool


@dataclass(frozen=True)
class Outcome:
    """Of one rule for one variant in one cell."""

    rule: str
    status: int
    cell: str
    variant: str
    text: str

    def __str__(self) -> str:
        where = f" [{self.cell}, {self.variant}]" if self.cell else ""
        return f"{WORDS[self.status]}: {self.rule}{where}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """``status`` is the exit code. ``lines`` say why, one for each rule, cell and variant."""

    status: int
    outcomes: tuple[Outcome, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(map(str, self.outcomes))


# Reading rules.


def parse(text: str) -> Rule:
    """A rule. Raises Refusal that names the position of what cannot be understood, counted from 1."""
    _check_shape(text)
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise _refusal(text, len(text.rstrip()), "this is not a rule")
    metric = METRICS.get(found["metric"].lower())
    if metric is None:
        raise _refusal(
            text,
            found.start("metric"),
            f"there is no metric {found['metric']!r}; there are: cpu_us, p50, p90, p99, p999, throughput, rss",
        )
    try:
        limit = float(found["limit"].replace(quantities.MINUS, "-"))
    except ValueError:
        raise _refusal(text, found.start("limit"), f"{found['limit']!r} is not a number") from None
    factor = _factor(text, metric, found)
    variant, cell = found["variant"], (found["cell"] or "").strip("'\"")
    return Rule(text.strip(), metric, variant, cell, found["sign"] == "<", limit * (factor or 1.0), factor is None)


def _check_shape(text: str) -> None:
    """The parts of a rule from left to right, so that the first one that is missing is named."""
    steps = (
        (r"\s*\w+", "a metric must stand here, such as cpu_us"),
        (r"\s*\(", "here must be ( and a variant"),
        (r"\s*[^\s)]", "a variant must stand here, such as const:0"),
        (r".*?\)", "the variant must end with )"),
        (r"\s*(?:in\s+[^<>\s][^<>]*)?", ""),
        (r"\s*[<>]", "here must be < or > (or: in CELL)"),
        (r"\s*[+\-−]?[\d.]+", "a number must stand here (there are only < and >)"),
        (r"\s*\S*\s*$", "here the rule must end"),
    )
    at = 0
    for pattern, complaint in steps:
        found = re.compile(pattern).match(text, at)
        if found is None:
            blank = re.compile(r"\s*").match(text, at)
            raise _refusal(text, blank.end() if blank else at, complaint)
        at = found.end()


def _factor(text: str, metric: str, found: re.Match[str]) -> float | None:
    """From the unit written to the metric's own; None for percent."""
    unit = found["unit"].lower()
    if unit == PERCENT:
        return None
    known = SIZES if metric == "rss_bytes" else RATES if metric == "throughput" else TIMES
    if unit in known:
        return known[unit]
    if not unit and found["metric"].lower() == metric and metric.endswith("_us"):
        return 1.0
    complaint = f"{found['unit']!r} is no unit of {found['metric']}" if unit else f"{found['metric']} needs a unit here"
    raise _refusal(text, found.start("unit"), f"{complaint}: %, {', '.join(one for one in known if one.isascii())}")


def _refusal(text: str, at: int, complaint: str) -> Refusal:
    """With the rule and a mark below the place."""
    return Refusal(f"rule, position {at + 1}: {complaint}\n  {text}\n  {' ' * at}^", USAGE)


def read_rules(path: Path) -> list[str]:
    """One rule a line; empty lines and what follows a # at a line's start do not count. Raises Refusal."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    rules = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            parse(line)
        except Refusal as refusal:
            raise Refusal(f"{path}, line {number}: {refusal}", refusal.status) from None
        rules.append(line.strip())
    return rules


# Deciding.


def check(results: Results, rules: Sequence[str], baseline: Results | None = None) -> Verdict:
    """What becomes of the rules.

    With ``baseline``, limits are for the change of the added cost since then (Welch's t on block differences; of
    percentages, on their logarithms). Raises Refusal for a rule that cannot be understood or speaks of no cell or
    variant of the campaign.
    """
    if not rules:
        raise Refusal("a gate needs a rule: --rule 'cpu_us(const:0) < 5us', or --rules FILE")
    outcomes = [one for text in rules for one in _outcomes(parse(text), results, baseline)]
    statuses = {one.status for one in outcomes}
    # A rule that is broken by valid data stays broken, whatever is wrong elsewhere.
    worst = next((status for status in (BROKEN, INVALID, INCONCLUSIVE) if status in statuses), PASSED)
    return Verdict(worst, tuple(outcomes))


def _outcomes(rule: Rule, results: Results, baseline: Results | None) -> Iterable[Outcome]:
    cells = [one for one in results.cells if matches(rule.cell, one)]
    if not cells:
        known = "; ".join(str(one.cell) for one in results.cells)
        raise Refusal(f"{rule.text}: the campaign has no cell {rule.cell!r}; it has: {known}")
    found = [
        (cell, one)
        for cell in cells
        for one in cell.differences
        if one.metric == rule.metric and (one.variant == rule.variant or fnmatchcase(one.variant, rule.variant))
    ]
    if not found:
        raise Refusal(f"{rule.text}: {_why_nothing(rule, cells)}")
    for cell, one in found:
        status, text = _decide(rule, results, cell, one, baseline)
        yield Outcome(rule.text, status, str(cell.cell), one.variant, text)


def matches(pattern: str, cell: CellResult) -> bool:
    """Whether each word of the pattern is, or fits, a word of the cell's name."""
    names = str(cell.cell).split()
    return all(any(word == name or fnmatchcase(name, word) for name in names) for word in pattern.split())


def _why_nothing(rule: Rule, cells: Sequence[CellResult]) -> str:
    variants = list(dict.fromkeys(one.variant for cell in cells for one in cell.differences))
    if not any(one == rule.variant or fnmatchcase(one, rule.variant) for one in variants):
        return f"the campaign has no variant {rule.variant!r}; it has: {', '.join(variants)}"
    metrics = list(dict.fromkeys(one.metric for cell in cells for one in cell.differences))
    return f"{rule.metric} was not measured there; there is: {', '.join(metrics)}"


def _decide(
    rule: Rule, results: Results, cell: CellResult, one: Difference, baseline: Results | None
) -> tuple[int, str]:
    trouble = _invalid(results, cell)
    if trouble:
        return INVALID, trouble
    if results.manifest.is_smoke:
        return INCONCLUSIVE, "a smoke campaign allows no inference: run it without --quick"
    if baseline is not None:
        return _decide_change(rule, results, cell, one, baseline)
    return _decide_by(rule, one, one.percent if rule.is_percent else one.absolute)


def _invalid(results: Results, cell: CellResult) -> str:
    if results.status == INVALID:
        return results.verdict
    if cell.is_too_noisy:
        again = f" ({quantities.change(cell.again)})" if cell.again else ""
        return f"noisy: bare differs from bare here{again}; use a quieter machine, or more blocks"
    return ""


def _decide_by(rule: Rule, one: Difference, interval: Estimate | None) -> tuple[int, str]:
    from autoinstr.bench.analysis import FEWEST_BLOCKS

    if interval is None or one.blocks < FEWEST_BLOCKS:
        return (
            INCONCLUSIVE,
            (
                f"{one.blocks} complete blocks, of at least {FEWEST_BLOCKS}: {max(FEWEST_BLOCKS - one.blocks, 1)} "
                "more blocks are needed"
            ),
        )
    seen = _written(rule, interval)
    status = decided(rule, interval)
    if status != INCONCLUSIVE:
        return status, seen
    return INCONCLUSIVE, f"{seen} has the limit in it: {_more_blocks(rule, one, interval)}"


def decided(rule: Rule, interval: Estimate) -> int:
    """Inside, beyond, or both. An end that lies on the limit is not inside."""
    if rule.is_below:
        return PASSED if interval.high < rule.limit else BROKEN if interval.low >= rule.limit else INCONCLUSIVE
    return PASSED if interval.low > rule.limit else BROKEN if interval.high <= rule.limit else INCONCLUSIVE


def _written(rule: Rule, interval: Estimate) -> str:
    if rule.is_percent:
        return quantities.estimate(interval, "%")
    how = quantities.metric_of(rule.metric)
    scaled = Estimate(*(one * how.factor for one in (interval.mean, interval.low, interval.high)))
    return quantities.estimate(scaled, how.unit)


def _more_blocks(rule: Rule, one: Difference, interval: Estimate) -> str:
    """How many blocks would move the nearer end to this side of the limit, if the mean stays where it is."""
    distance = abs(interval.mean - rule.limit)
    half = (interval.high - interval.low) / 2
    own_half = (one.absolute.high - one.absolute.low) / 2 if one.absolute else 0.0
    if not own_half or half**2 * one.blocks > MOST_BLOCKS * distance**2:
        return f"it lies too near to the mean for any campaign of up to {MOST_BLOCKS} blocks; choose another limit"
    # The series is in the metric's unit. An interval of percentages, or of a change between
    # campaigns, shrinks as its own does.
    needed = stats.blocks_needed(one.series, distance * own_half / half)
    more = max(needed - one.blocks, 1)
    return f"about {more} more block{'s' if more > 1 else ''} ({one.blocks + more} in all) would settle it"


# Against an earlier campaign.


def _decide_change(
    rule: Rule, results: Results, cell: CellResult, one: Difference, baseline: Results
) -> tuple[int, str]:
    from autoinstr.bench import compare

    earlier = next((other for other in baseline.cells if other.cell == cell.cell), None)
    before = earlier.difference(one.variant, one.metric) if earlier else None
    if earlier is None or before is None:
        return INVALID, "the baseline has no such cell and variant: measure them there as well"
    trouble = _invalid(baseline, earlier)
    if trouble:
        return INVALID, f"baseline: {trouble}"
    if not rule.is_percent and compare.is_other_machine(results.manifest, baseline.manifest):
        return (
            INVALID,
            (
                "the baseline is from a different machine: only percentages can be compared, with care; give the "
                "limit in %"
            ),
        )
    changed = compare.change(before, one)
    decisive = changed.percent if rule.is_percent else changed.absolute
    fewer = one if one.blocks <= before.blocks else before
    status, text = _decide_by(rule, replace(one, blocks=fewer.blocks), decisive.estimate if decisive else None)
    return status, f"change since the baseline: {text}"


# The command.


def main(words: list[str]) -> int:
    """``autoinstr bench gate RUN --rule RULE``; returns the exit code. Raises Refusal."""
    from autoinstr.bench.compare import results_of

    options = _parser().parse_args(words)
    rules = [*options.rule, *(rule for path in options.rules for rule in read_rules(path))]
    for rule in rules:
        parse(rule)
    verdict = check(results_of(options.run), rules, results_of(options.baseline) if options.baseline else None)
    if options.json:
        outcomes = [
            {"rule": one.rule, "status": WORDS[one.status], "cell": one.cell, "variant": one.variant, "text": one.text}
            for one in verdict.outcomes
        ]
        json.dump(
            {"status": WORDS[verdict.status], "exit_code": verdict.status, "rules": outcomes},
            sys.stdout,
            indent=1,
            ensure_ascii=False,
        )
        sys.stdout.write("\n")
    else:
        print("\n".join(line.replace(quantities.GLUE, " ") for line in verdict.lines))
        print(f"gate: {WORDS[verdict.status]}")
    return verdict.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "autoinstr bench gate",
        description="Check a campaign against rules. "
        "Exit codes: 0 passed, 1 broken, 2 usage, 3 inconclusive, 4 invalid data.",
        epilog="A rule: metric(variant)[ in CELL] < limit, or >. Metrics: cpu_us, p50, p90, p99, p999, throughput, rss. "
        "For example: "
        "'cpu_us(const:0) < 5us', 'p99(prob:0.01) in rate 60%% < +3%%', 'throughput(const:*) > -5%%'.",
    )
    parser.add_argument("run", type=Path, help="folder of the campaign")
    parser.add_argument("--rule", action="append", default=[], metavar="RULE", help="may be given several times")
    parser.add_argument(
        "--rules", action="append", type=Path, default=[], metavar="FILE", help="rules, one a line; # begins a comment"
    )
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="limits are for the change since this campaign")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    return parser
