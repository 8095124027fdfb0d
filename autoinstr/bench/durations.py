"""Histograms of durations: how many requests took how long, to three digits, so that they can be added up later.

Owns: the range and the precision that all parts of a campaign share, and the text form (HdrHistogram V2, base64) in ``runs.jsonl``.
Must not know: what the durations are of, Locust, files.
Invariants: values are whole microseconds from 1 µs to 60 s, what lies outside counts as the nearest end and is never lost;
percentiles are never averaged: histograms are added, and percentiles read off the sum (load-testing rule: the mean of two p99
is the p99 of nothing).

Source of the format: HdrHistogram by G. Tene, V2 encoding, as its Java, C and Python libraries read and write it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from autoinstr.bench.parts import Quantiles, Refusal

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 60_000_000
DIGITS = 3


def new() -> HdrHistogram:
    """An empty histogram, 1 µs to 60 s, 3 digits. Raises Refusal where the library is missing."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError as error:
        raise Refusal(f"Durations need the package hdrhistogram ({error}): pip install 'autoinstr[bench]'.") from error
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def record(histogram: HdrHistogram, durations_us: Iterable[float]) -> None:
    """Count durations, in microseconds, rounded to whole ones and clamped to the range. Raises ValueError for NaN."""
    whole = Counter(min(max(round(one), LOWEST_US), HIGHEST_US) for one in map(_finite, durations_us))
    for value, count in whole.items():
        histogram.record_value(value, count)


def _finite(duration_us: float) -> float:
    if duration_us != duration_us:
        raise ValueError("A duration is not a number.")
    return min(max(duration_us, LOWEST_US), HIGHEST_US)


def encode(histogram: HdrHistogram) -> str:
    """As text: HdrHistogram V2, zlib, base64."""
    text: str = histogram.encode().decode("ascii")
    return text


def decode(text: str) -> HdrHistogram:
    """The inverse of ``encode``. Raises ValueError for what is no such histogram, or one of another range or precision."""
    from hdrh.histogram import HdrHistogram

    try:
        histogram = HdrHistogram.decode(text)
    except Exception as error:  # The library raises seven kinds, by what is broken.
        raise ValueError(f"Not a histogram in HdrHistogram V2: {error or type(error).__name__}.") from error
    found = (histogram.lowest_trackable_value, histogram.highest_trackable_value, histogram.significant_figures)
    if found != (LOWEST_US, HIGHEST_US, DIGITS):
        raise ValueError(f"A histogram of {found[0]}..{found[1]} with {found[2]} digits cannot be added to ours.")
    return histogram


def merged(texts: Iterable[str]) -> HdrHistogram:
    """The sum of encoded histograms; empty texts (nothing was kept) count as empty histograms."""
    total = new()
    for text in texts:
        if text:
            total.add(decode(text))
    return total


def at(histogram: HdrHistogram, percentiles: Sequence[float]) -> list[float]:
    """The durations, in µs, that so many percent (0..100) of the requests did not exceed; 0 where nothing was recorded."""
    return _read_off(_cells(histogram), percentiles)


def quantiles(histogram: HdrHistogram, with_histogram: bool = True) -> Quantiles:
    """Mean, percentiles and maximum, in µs; all 0 where nothing was recorded."""
    text = encode(histogram) if with_histogram else ""
    cells = _cells(histogram)
    total = sum(count for _, _, count in cells)
    mean = sum(middle * count for middle, _, count in cells) / total if total else 0.0
    p50, p90, p99, p999, highest = _read_off(cells, (50, 90, 99, 99.9, 100))
    return Quantiles(mean=mean, p50=p50, p90=p90, p99=p99, p999=p999, max=highest, histogram=text)


def _cells(histogram: HdrHistogram) -> list[tuple[float, float, int]]:
    """Middle, largest duration and count of every cell that holds anything, in ascending order."""
    if not histogram.get_total_count():
        return []
    last = histogram.get_counts_array_index(histogram.get_max_value())
    cells = []
    for index, count in enumerate(histogram.counts[: last + 1]):
        if count:
            lowest = histogram.get_value_from_index(index)
            highest = min(histogram.get_highest_equivalent_value(lowest), HIGHEST_US)
            cells.append(((lowest + highest) / 2, float(highest), count))
    return cells


def _read_off(cells: Sequence[tuple[float, float, int]], percentiles: Sequence[float]) -> list[float]:
    """A percentile is the largest duration of its cell, as HdrHistogram has it: never less than what was measured."""
    if not cells:
        return [0.0] * len(percentiles)
    cumulated = list(accumulate(count for _, _, count in cells))
    # What is a rounding error above a whole number is that number: 99.9 % of 1000 are 999.
    wanted = (math.ceil(percentile / 100 * cumulated[-1] - 1e-6) for percentile in percentiles)
    return [cells[bisect_left(cumulated, min(max(count, 1), cumulated[-1]))][1] for count in wanted]
