"""Axes: where a value lies between the two ends of a plot, and which values are marked.

Owns: linear, logarithmic and mixed scales, the scale of percentiles, choice of ticks.
Must not know: pixels, markup, results.
Invariants: pure; ``place`` gives 0 to 1, values beyond the ends lie on them; ticks are few enough for a plot 200
pixels wide when the minor ones are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoinstr.bench.report.quantities import GLUE, MINUS, plain


@dataclass(frozen=True)
class Tick:
    """A value that is marked on an axis."""

    value: float
    label: str
    #: Left out where there is little room.
    is_minor: bool = False


@dataclass(frozen=True)
class Scale:
    """``forward`` makes the scale even: equal steps of it are equal lengths."""

    low: float
    high: float
    forward: Callable[[float], float]
    ticks: tuple[Tick, ...]
    #: What readers must know of it, where it is not plain.
    note: str = ""

    def place(self, value: float) -> float:
        """From 0, the low end, to 1."""
        start, end = self.forward(self.low), self.forward(self.high)
        if end == start:
            return 0.5
        return min(max((self.forward(value) - start) / (end - start), 0.0), 1.0)


def _identity(value: float) -> float:
    return value


def _short(value: float) -> str:
    """A tick's label: no more digits than it needs."""
    if value == 0:
        return "0"
    size = abs(value)
    text = f"{size / 1e6:g}M" if size >= 1e6 else f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
    return (MINUS if value < 0 else "") + text


def step_of(span: float, wanted: int) -> float:
    """1, 2 or 5 times a power of ten, so that ``span`` has about ``wanted`` steps."""
    rough = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def linear(
    values: Iterable[float],
    wanted: int = 4,
    *,
    with_zero: bool = False,
    is_tight: bool = False,
    label: Callable[[float], str] = _short,
) -> Scale:
    """Even steps, from a tick to a tick; ``is_tight``: from the least value to the greatest."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        margin = abs(high) * 0.1 or 1.0
        low, high = (low, high + margin) if with_zero else (low - margin, high + margin)
    step = step_of(high - low, wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(Tick(number * step, label(round(number * step, 12))) for number in range(first, last + 1))
    if is_tight:
        return Scale(
            low, high, _identity, tuple(one for one in ticks if low - step / 1e6 <= one.value <= high + step / 1e6)
        )
    return Scale(first * step, last * step, _identity, ticks)


def logarithmic(values: Iterable[float], *, label: Callable[[float], str] = _short) -> Scale:
    """Equal ratios are equal lengths. Marks powers of ten, and 2 and 5 between them where they are few."""
    known = [value for value in values if value > 0 and math.isfinite(value)] or [1.0, 10.0]
    low, high = min(known) / 1.05, max(known) * 1.05
    factors: Sequence[int] = (1, 2, 5) if high / low <= 300 else (1,)
    if high / low < 4:
        return _narrow_logarithmic(low, high, label)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marked = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    ticks = tuple(Tick(one, label(one)) for one in marked if low <= one <= high)
    return Scale(low, high, math.log, ticks)


def _narrow_logarithmic(low: float, high: float, label: Callable[[float], str]) -> Scale:
    """Less than two octaves: even steps are read more easily."""
    step = step_of(high - low, 4)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Scale(
        low, high, math.log, tuple(Tick(number * step, label(number * step)) for number in range(first, last + 1))
    )


def around_zero(values: Iterable[float], finest: float) -> Scale:
    """For differences: even where they fit one scale; where they do not, logarithmic on both sides of a linear middle.

    ``finest`` is the smallest size that must be told from 0, as the half-width of the narrowest interval.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    largest = max(map(abs, known)) or 1.0
    finest = max(finest, largest / 1e4)
    if largest <= 40 * finest:
        return linear(known, 4, with_zero=True)
    unit = 10.0 ** math.ceil(math.log10(finest))

    def forward(value: float) -> float:
        size = abs(value) / unit
        return math.copysign(size if size <= 1 else 1 + math.log10(size) * 1.2, value)

    low, high = min(known), max(known)
    powers = [unit * 10.0**power for power in range(6)]
    right = [one for one in powers if one <= high * 1.0001]
    left = [-one for one in powers if -one >= low * 1.0001]
    between = [factor * one for one in right[:-1] + right[-1:] for factor in (3,) if factor * one <= high]
    ticks = [Tick(one, _short(one)) for one in [*reversed(left), 0.0, *right]] + [
        Tick(one, _short(one), True) for one in between
    ]
    note = f"The scale is even up to ±{_short(unit)} and logarithmic beyond."
    return Scale(
        min(low * 1.1, -unit), max(high * 1.1, unit), forward, tuple(sorted(ticks, key=lambda one: one.value)), note
    )


def percentiles(highest: float) -> Scale:
    """0 to 100, so stretched that each further nine takes the same length: log(1 - q)."""
    highest = min(max(highest, 90.0), 99.9999)

    def forward(percentile: float) -> float:
        return -math.log10(1 - min(percentile, highest) / 100)

    marks = [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99"), (99.999, "99.999")]
    ticks = tuple(Tick(value, text, value in (0.0, 50.0)) for value, text in marks if value <= highest + 1e-9)
    return Scale(0.0, highest, forward, ticks)


def doublings(values: Iterable[float]) -> Scale:
    """For a sweep: each doubling is the same length; marked are the values themselves."""
    known = sorted({value for value in values if value > 0}) or [1.0]
    scale = Scale(known[0], known[-1], math.log2, ())
    if len(known) == 1:
        scale = Scale(known[0] / 2, known[0] * 2, math.log2, ())
    ticks: list[Tick] = []
    last = -1.0
    for value in known:
        place = scale.place(value)
        ticks.append(Tick(value, _short(value), place - last < 0.16 and bool(ticks)))
        last = place if not ticks[-1].is_minor else last
    return Scale(scale.low, scale.high, math.log2, tuple(ticks))


def microseconds(value: float) -> str:
    """A tick of a scale of durations, in the unit that it is read best in."""
    if value == 0:
        return "0"
    if value >= 1e6:
        return f"{value / 1e6:.3g}{GLUE}s"
    if value >= 1e3:
        return f"{value / 1e3:.3g}{GLUE}ms"
    return f"{value:.3g}{GLUE}µs"


def megabytes(value: float) -> str:
    return f"{plain(value / 1e6, 0 if value >= 20e6 else 1)}{GLUE}MB"


def whole_percent(value: float) -> str:
    return f"{value * 100:.3g}{GLUE}%"
