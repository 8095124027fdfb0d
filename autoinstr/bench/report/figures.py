"""Plots as SVG: no library, no script, a few hundred bytes each.

Owns: how marks are drawn, where labels go so that none lies on another, how curves are thinned out.
Must not know: results; what is drawn comes as numbers and names.
Invariants: all text is SVG text, escaped; widths are shares of whatever room there is and heights are pixels, so that
text keeps its size on any screen; labels beside the lines stand in a margin of their own, at least ``LINE`` pixels
apart.

Lines and dots lie in an inner ``svg`` that is stretched (``preserveAspectRatio="none"``; strokes are not, and a dot is
a stroke without length); ticks and text in the outer one, by percentages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from autoinstr.bench.report.scales import Scale, Tick

#: Pixels between the baselines of two labels.
LINE = 15
#: Units of the inner drawing, in both directions.
UNITS = 1000
#: A point of a curve that lies nearer to the line between its neighbours says nothing (units).
TOLERANCE = 4.0
LONGEST_LABEL = 14
#: Pixels of plot on the narrowest screen, and of a letter: what labels within the plot reckon with.
NARROWEST, LETTER = 190, 6.4


@dataclass(frozen=True)
class Series:
    """A line. ``ends`` are intervals (low, high) of its points, where they have any."""

    name: str
    colour: int
    points: tuple[tuple[float, float], ...]
    ends: tuple[tuple[float, float], ...] = ()
    title: str = ""
    has_dots: bool = True
    is_dashed: bool = False


def svg(height: int, label: str, inside: Iterable[Markup]) -> Markup:
    return Markup('<svg class="chart" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, label, Markup("").join(inside)
    )


def chart(
    series: Sequence[Series],
    x: Scale,
    y: Scale,
    *,
    label: str,
    x_title: str,
    y_title: str,
    height: int = 240,
) -> Markup:
    """Lines and dots on two axes, named at the right end of each."""
    height = max(height, LINE * len(series) + 10)
    lines = [_grid(x, y), *(_line(one, x, y) for one in series)]
    inside = [_ticks(x, y, height, x_title), _stretched(height, lines), _labels(series, y, height)]
    return _framed(svg(height, label, inside), y_title, "labelled")


def _framed(drawn: Markup, y_title: str, margin: str = "bare") -> Markup:
    return Markup('<div class="plot {}"><p class="unit">{}</p>{}</div>').format(margin, y_title, drawn)


def _percent(place: float) -> str:
    return f"{place * 100:.4g}%"


def _pixel(place: float, height: int) -> str:
    return f"{(1 - place) * height:.4g}"


def _grid(x: Scale, y: Scale) -> Markup:
    """Lines through the ticks, and the axes, in the stretched drawing."""
    rows = "".join(f"M0 {(1 - y.place(tick.value)) * UNITS:.0f}h{UNITS}" for tick in y.ticks if not tick.is_minor)
    columns = "".join(f"M{x.place(tick.value) * UNITS:.0f} 0v{UNITS}" for tick in x.ticks if not tick.is_minor)
    zero = f"M0 {(1 - y.place(0)) * UNITS:.0f}h{UNITS}" if y.low < 0 < y.high else ""
    return Markup('<path class="grid" d="{}"/><path class="axis" d="{}M0 {}h{}"/>').format(
        rows + columns, zero, UNITS, UNITS
    )


def _ticks(x: Scale, y: Scale, height: int, x_title: str) -> Markup:
    up = [(tick, "0", _pixel(y.place(tick.value), height)) for tick in y.ticks]
    across = [(tick, _percent(x.place(tick.value)), "0") for tick in x.ticks]
    return Markup(
        '<g class="y" transform="translate(-7)">{}</g><g class="x" transform="translate(0 {})">{}</g>'
        '<text class="title" x="50%" y="{}">{}</text>'
    ).format(Markup("").join(map(_tick, up)), height + 16, Markup("").join(map(_tick, across)), height + 33, x_title)


def _tick(one: tuple[Tick, str, str]) -> Markup:
    tick, across, down = one
    minor = Markup(' class="minor"') if tick.is_minor else ""
    # 0 is what a place is anyway.
    x = Markup(' x="{}"').format(across) if across != "0" else ""
    y = Markup(' y="{}"').format(down) if down != "0" else ""
    return Markup("<text{}{}{}>{}</text>").format(minor, x, y, tick.label)


def _stretched(height: int, inside: Iterable[Markup]) -> Markup:
    return Markup('<svg width="100%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>').format(
        height, UNITS, UNITS, Markup("").join(inside)
    )


def _units(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x.place(one) * UNITS, (1 - y.place(other)) * UNITS) for one, other in points]


def path(points: Sequence[tuple[float, float]]) -> str:
    """Steps from point to point in whole units: half as long as absolute coordinates."""
    whole = [(round(across), round(down)) for across, down in points]
    steps = "".join(f"l{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(whole) if a != b)
    return f"M{whole[0][0]} {whole[0][1]}{steps}" if whole else ""


def thinned(points: Sequence[tuple[float, float]], tolerance: float = TOLERANCE) -> list[tuple[float, float]]:
    """Without the points that nobody would miss (Douglas and Peucker 1973)."""
    if len(points) < 3:
        return list(points)
    kept, waiting = {0, len(points) - 1}, [(0, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        distance, at = max(
            ((_distance(points[at], points[first], points[last]), at) for at in range(first + 1, last)),
            default=(0.0, 0),
        )
        if distance > tolerance:
            kept.add(at)
            waiting += [(first, at), (at, last)]
    return [points[at] for at in sorted(kept)]


def _distance(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """From a point to the nearest one of a straight line's."""
    across, down = end[0] - start[0], end[1] - start[1]
    length = across**2 + down**2
    along = ((point[0] - start[0]) * across + (point[1] - start[1]) * down) / length if length else 0.0
    along = min(max(along, 0.0), 1.0)
    return math.hypot(point[0] - start[0] - along * across, point[1] - start[1] - along * down)


def _line(one: Series, x: Scale, y: Scale) -> Markup:
    """The line, the intervals of its points as strokes, and the points as strokes without length."""
    parts = []
    if len(one.points) > 1:
        kind = "l dashed" if one.is_dashed else "l"
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, path(thinned(_units(one.points, x, y)))))
    if one.ends:
        strokes = []
        for (across, _), (low, high) in zip(one.points, one.ends, strict=True):
            top, bottom = ((1 - y.place(end)) * UNITS for end in (high, low))
            strokes.append(f"M{x.place(across) * UNITS:.0f} {top:.0f}V{bottom:.0f}")
        parts.append(Markup('<path class="e" d="{}"/>').format("".join(strokes)))
    if one.has_dots:
        parts.append(Markup('<path class="d" d="{}"/>').format(_specks(one.points, x, y)))
    return (
        Markup('<g class="s v{}">{}{}</g>').format(one.colour, _title(one), Markup("").join(parts))
        if parts
        else Markup("")
    )


def _title(one: Series) -> Markup:
    return Markup("<title>{}</title>").format(one.title) if one.title else Markup("")


def _area(band: Sequence[tuple[float, float, float]], x: Scale, y: Scale) -> str:
    there = _units(((at, high) for at, _, high in band), x, y)
    back = _units(((at, low) for at, low, _ in reversed(band)), x, y)
    return path(there + back) + "z"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to those wanted that are ``gap`` apart, and between ``low`` and ``high`` where there is room."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    # Neighbours that are too close become one heap, which lies around the mean of what its members want.
    heaps: list[tuple[float, int]] = []
    for at in order:
        heaps.append((wanted[at], 1))
        while len(heaps) > 1 and heaps[-1][0] - heaps[-2][0] < gap * (heaps[-1][1] + heaps[-2][1]) / 2:
            (second, more), (first, count) = heaps.pop(), heaps.pop()
            heaps.append(((first * count + second * more) / (count + more), count + more))
        heaps = [(_within(middle, count, gap, low, high), count) for middle, count in heaps]
    places = [middle + gap * (number - (count - 1) / 2) for middle, count in heaps for number in range(count)]
    found = [0.0] * len(wanted)
    for at, place in zip(order, _apart(places, gap, low, high), strict=True):
        found[at] = place
    return found


def _within(middle: float, count: int, gap: float, low: float, high: float) -> float:
    half = gap * (count - 1) / 2
    return max(low + half, min(middle, high - half))


def _apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Push down what heaps that were moved back inside have come to overlap, then up from the end."""
    down: list[float] = []
    for place in places:
        down.append(max(place, down[-1] + gap) if down else place)
    up: list[float] = []
    for place in reversed(down):
        limit = up[-1] - gap if up else max(high, low + gap * (len(places) - 1))
        up.append(min(place, limit))
    return up[::-1]


def shortened(name: str, longest: int = LONGEST_LABEL) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _labels(series: Sequence[Series], y: Scale, height: int) -> Markup:
    named = [one for one in series if one.points]
    ends = [(1 - y.place(one.points[-1][1])) * height for one in named]
    parts = []
    for one, end, place in zip(named, ends, spread(ends, LINE, 4, height - 4), strict=True):
        shown = shortened(one.name)
        whole = Markup("<title>{}</title>").format(one.name) if shown != one.name else ""
        line = Markup('<g class="s lead v{}"><path d="M5 {}L13 {}h6"/><text x="22" y="{}">{}</text>{}</g>')
        parts.append(line.format(one.colour, *(f"{at:.0f}" for at in (end, place, place)), shown, whole))
    return Markup('<svg x="100%" overflow="visible">{}</svg>').format(Markup("").join(parts))


def within(series: Sequence[Series], x: Scale, y: Scale, height: int) -> Markup:
    """Names beside single dots, left away where they would lie on another one on a narrow screen (the legend has all)."""
    dots = [
        (x.place(one.points[0][0]) * NARROWEST, (1 - y.place(one.points[0][1])) * height)
        for one in series
        if one.points
    ]
    taken = [(across - 5, down - 5, across + 5, down + 5) for across, down in dots]
    parts = []
    for one, (across, at) in zip([one for one in series if one.points], dots, strict=True):
        name = shortened(one.name)
        wide = len(name) * LETTER
        is_left = across + 9 + wide > NARROWEST
        start = across - 9 - wide if is_left else across + 9
        # On the left above the line, which comes from below there.
        down = at - 10 if is_left else at
        box = (start, down - 7, start + wide, down + 7)
        if start < 0 or any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        side = Markup(' text-anchor="end" dx="-9"') if is_left else Markup(' dx="9"')
        place = _percent(x.place(one.points[0][0]))
        parts.append(Markup('<text class="near" x="{}" y="{}"{}>{}</text>').format(place, f"{down:.4g}", side, name))
    return Markup("").join(parts)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def fitted(
    points: Sequence[Series],
    line: Sequence[tuple[float, float, float, float]],
    x: Scale,
    y: Scale,
    *,
    label: str,
    x_title: str,
    y_title: str,
    height: int = 300,
) -> Markup:
    """Measured dots with intervals, and a fitted line with its band: (x, low, middle, high)."""
    drawn = _units(((at, middle) for at, _, middle, _ in line), x, y)
    inside = [
        _ticks(x, y, height, x_title),
        _stretched(
            height,
            [
                _grid(x, y),
                Markup('<path class="band" d="{}"/>').format(
                    _area([(at, low, high) for at, low, _, high in line], x, y)
                ),
                Markup('<path class="fit" d="{}"/>').format(path(drawn)),
                *(_line(one, x, y) for one in points),
            ],
        ),
        within(points, x, y, height),
    ]
    return _framed(svg(height, label, inside), y_title)


def scatter(
    clouds: Mapping[int, tuple[str, Sequence[tuple[float, float]]]],
    hollow: Sequence[tuple[float, float]],
    x: Scale,
    y: Scale,
    *,
    label: str,
    x_title: str,
    y_title: str,
    height: int = 200,
) -> Markup:
    """Very many dots: one path for each colour, whose dots are strokes without length."""
    inside = [_ticks(x, y, height, x_title)]
    parts = [_grid(x, y)]
    for colour, (name, points) in clouds.items():
        parts.append(
            Markup('<path class="cloud v{}" d="{}"><title>{}</title></path>').format(
                colour, _specks(points, x, y), name
            )
        )
    inside.append(_stretched(height, parts))
    for across, up in hollow:
        at, down = _percent(x.place(across)), _pixel(y.place(up), height)
        inside.append(Markup('<circle class="hollow" cx="{}" cy="{}" r="5"/>').format(at, down))
    return _framed(svg(height, label, inside), y_title)


def _specks(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "".join(f"M{round(across)} {round(down)}h0" for across, down in _units(points, x, y))


def spark(
    values: Sequence[float], middle: tuple[float, float, float], half: float, colour: int, *, label: str
) -> Markup:
    """Values in their order around their mean; ``middle`` is (low, mean, high), ``half`` the height in their unit."""
    low, mean, high = middle

    def down(value: float) -> int:
        return round(min(max((1 - (value - mean) / half) / 2, 0.0), 1.0) * UNITS)

    band = Markup('<path class="band" d="M0 {}h{}v{}h-{}z"/>').format(down(high), UNITS, down(low) - down(high), UNITS)
    zero = Markup('<path class="zero" d="M0 {}h{}"/>').format(down(0), UNITS) if abs(mean) <= half else ""
    dots = "".join(
        f"M{round((number + 0.5) / len(values) * UNITS)} {down(value)}h0" for number, value in enumerate(values)
    )
    return Markup(
        '<svg class="spark v{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}{}'
        '<path class="mean" d="M0 {}h{}"/><path class="cloud" d="{}"/></svg>'
    ).format(colour, UNITS, UNITS, label, band, zero, down(mean), UNITS, dots)


def strip(scale: Scale, low: float | None, value: float, high: float | None, colour: int) -> Markup:
    """A dot with its interval, for a row of a forest plot."""
    line = Markup("")
    if low is not None and high is not None:
        line = Markup('<line x1="{}" x2="{}"/>').format(_percent(scale.place(low)), _percent(scale.place(high)))
    return Markup('<svg class="strip v{}">{}<circle cx="{}" r="{}"/></svg>').format(
        colour, line, _percent(scale.place(value)), "4.5" if line else "3"
    )


def bar(scale: Scale, low: float, value: float, high: float, colour: int) -> Markup:
    """A bar from 0 with its interval."""
    return Markup('<svg class="strip bar v{}"><rect width="{}"/><line x1="{}" x2="{}"/></svg>').format(
        colour, *(_percent(scale.place(one)) for one in (value, low, high))
    )


def strip_axis(scale: Scale) -> Markup:
    """The ticks above the rows."""
    ticks = Markup("").join(_tick((tick, _percent(scale.place(tick.value)), "0")) for tick in scale.ticks)
    return Markup('<svg class="strip" aria-hidden="true"><g class="x">{}</g></svg>').format(ticks)
