"""How figures are written: +6.1 µs [+5.4, +6.8] (+3.2 %), microseconds first, with the unit, and no more digits than
are known.

Owns: units and names of metrics, signs, decimals, how bytes and durations are shown.
Must not know: results, tables, markup.
Invariants: pure; a number and its unit are never parted at the end of a line; a difference always has its sign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoinstr.bench.parts import Difference, Estimate

#: Between a number and its unit, where no line may end.
GLUE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
NOTHING = "–"


@dataclass(frozen=True)
class Metric:
    """``factor`` times the stored value is in ``unit``."""

    title: str
    unit: str
    factor: float = 1.0


METRICS = {
    "cpu_us": Metric("CPU per request", "µs"),
    "p50_us": Metric("response time, median", "µs"),
    "p90_us": Metric("response time, p90", "µs"),
    "p99_us": Metric("response time, p99", "µs"),
    "p999_us": Metric("response time, p99.9", "µs"),
    "throughput": Metric("requests per second", "/s"),
    "rss_bytes": Metric("resident memory", "MB", 1e-6),
}


def metric_of(name: str) -> Metric:
    """How a metric is shown; one that is not known here is shown by the unit in its name."""
    if name in METRICS:
        return METRICS[name]
    stem, _, unit = name.rpartition("_")
    units = {"us": ("µs", 1.0), "ms": ("ms", 1.0), "s": ("s", 1.0), "bytes": ("MB", 1e-6)}
    sign, factor = units.get(unit, ("", 1.0))
    return Metric(stem.replace("_", " ") if stem and sign else name, sign, factor)


def decimals(estimates: Iterable[Estimate | None], factor: float = 1.0) -> int:
    """So many that the narrowest interval of a column still shows two different ends."""
    halves = [(one.high - one.low) / 2 * factor for one in estimates if one is not None]
    if not halves:
        return 1
    narrowest = min(halves)
    return 0 if narrowest >= 10 else 1 if narrowest >= 0.05 else 2


def signed(value: float, places: int = 1) -> str:
    """With its sign; what rounds to nothing has none."""
    text = f"{abs(value):,.{places}f}"
    if not any(character in "123456789" for character in text):
        return text
    return ("+" if value > 0 else MINUS) + text


def interval(estimate: Estimate, places: int = 1, factor: float = 1.0) -> str:
    return f"[{signed(estimate.low * factor, places)},{GLUE}{signed(estimate.high * factor, places)}]"


def plain(value: float, places: int | None = None) -> str:
    """A quantity without a sign of its own: three digits, or so many places."""
    if places is None:
        size = abs(value)
        places = 0 if size >= 100 else 1 if size >= 10 else 2
    text = f"{abs(value):,.{places}f}"
    return MINUS + text if value < 0 and any(character in "123456789" for character in text) else text


def amount(metric: str, value: float) -> str:
    """A value of a metric, with its unit."""
    how = metric_of(metric)
    if how.unit == "µs":
        return duration(value)
    return f"{plain(value * how.factor)}{GLUE if how.unit[:1] != '/' else ''}{how.unit}"


def duration(microseconds: float) -> str:
    if abs(microseconds) >= 1e6:
        return f"{plain(microseconds / 1e6)}{GLUE}s"
    if abs(microseconds) >= 10_000:
        return f"{plain(microseconds / 1e3)}{GLUE}ms"
    return f"{plain(microseconds, 0 if abs(microseconds) >= 1000 else 1)}{GLUE}µs"


def percent(value: float, places: int = 1) -> str:
    return f"{signed(value, places)}{GLUE}%"


def share(value: float) -> str:
    """Of 1, as a percentage with the digits that a small share needs."""
    if value in (0, 1):
        return f"{value * 100:.0f}{GLUE}%"
    return f"{value * 100:.3g}{GLUE}%"


def seen(difference: Difference, places: int = 1) -> str:
    """What was seen where there is no interval; a dash where bare or the variant has no usable run."""
    if not (difference.base and difference.value):
        return NOTHING
    how = metric_of(difference.metric)
    glue = "" if how.unit.startswith("/") else GLUE
    return f"{signed((difference.value - difference.base) * how.factor, places)}{glue}{how.unit}"


def change(difference: Difference, places: int | None = None) -> str:
    """``+6.1 µs [+5.4, +6.8] (+3.2 %)``; where there is no interval, what was seen, said to be without one."""
    how = metric_of(difference.metric)
    glue = "" if how.unit.startswith("/") else GLUE
    if difference.absolute is None:
        text = seen(difference)
        return text if text == NOTHING else f"{text} (no interval)"
    places = decimals([difference.absolute], how.factor) if places is None else places
    text = f"{signed(difference.absolute.mean * how.factor, places)}{glue}{how.unit} "
    text += interval(difference.absolute, places, how.factor)
    return text if difference.percent is None else f"{text} ({percent(difference.percent.mean)})"


def estimate(value: Estimate, unit: str, places: int | None = None) -> str:
    """``+2.1 µs [+1.9, +2.3]``."""
    places = decimals([value]) if places is None else places
    return f"{signed(value.mean, places)}{GLUE}{unit} {interval(value, places)}"


def count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def fraction(value: float) -> str:
    """A share as people write sampling: 1/16, 1/1024, 1 %, none."""
    if value == 0:
        return "none"
    inverse = round(1 / value)
    if abs(value * inverse - 1) < 1e-6 and inverse & (inverse - 1) == 0:
        return "all" if inverse == 1 else f"1/{inverse}"
    return share(value)
