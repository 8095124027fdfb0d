"""Histograms of durations against a sorted list, and against HdrHistogram itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("hdrh", reason="hdrhistogram is not installed")

from autoinstr.bench import durations

ONE_DIGIT_IN_A_THOUSAND = 1.002


def histogram_of(values: list[float]) -> durations.HdrHistogram:
    histogram = durations.new()
    durations.record(histogram, values)
    return histogram


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1, 6e7), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_are_those_of_the_sorted_durations(values: list[float], percentile: float) -> None:
    """A report would show other percentiles than the requests had."""
    ordered = sorted(round(one) for one in values)
    rank = min(max(-int(-percentile * len(ordered) // 100), 1), len(ordered))
    (found,) = durations.at(histogram_of(values), [percentile])
    nearby = ordered[max(rank - 2, 0) : rank + 1]  # A rank that is whole but for rounding may be the one beside it.
    assert any(true <= found <= max(true * ONE_DIGIT_IN_A_THOUSAND, true + 1) for true in nearby)


def test_merging_is_the_same_as_recording_all_in_one() -> None:
    """The p99 of a run on two workers would be an average of two p99s, which is the p99 of nothing."""
    chance = random.Random(4)
    parts = [[chance.lognormvariate(7, 1) * (1 + worker) for _ in range(2000)] for worker in range(3)]
    together = histogram_of([one for part in parts for one in part])
    merged = durations.merged([*(durations.encode(histogram_of(part)) for part in parts), ""])
    assert durations.quantiles(merged) == durations.quantiles(together)
    assert merged.get_total_count() == 6000


def test_quantiles_agree_with_hdrhistograms_own() -> None:
    """Other tools that read our histograms would show other figures than our reports."""
    chance = random.Random(5)
    histogram = histogram_of([chance.expovariate(1 / 800) for _ in range(10_000)])
    found = durations.quantiles(histogram)
    percentiles = (50, 90, 99, 99.9)
    assert [found.p50, found.p90, found.p99, found.p999] == [histogram.get_value_at_percentile(p) for p in percentiles]
    assert found.mean == pytest.approx(histogram.get_mean_value(), rel=1e-3)
    assert found.max == histogram.get_max_value()


def test_durations_outside_the_range_are_counted_at_its_ends() -> None:
    """Requests that hung for more than a minute would vanish, and the service look better for it."""
    histogram = histogram_of([-3.0, 0.0, 0.2, 9e9, float("inf")])
    assert histogram.get_total_count() == 5
    assert durations.at(histogram, [0, 60, 61, 100]) == [1.0, 1.0, 6e7, 6e7]
    with pytest.raises(ValueError, match="not a number"):
        histogram_of([float("nan")])


def test_nothing_recorded_has_quantiles_of_zero() -> None:
    """A second without requests would end the analysis."""
    found = durations.quantiles(durations.new())
    assert (found.mean, found.p50, found.max) == (0.0, 0.0, 0.0)
    assert durations.merged([found.histogram]).get_total_count() == 0
    assert durations.quantiles(durations.new(), with_histogram=False).histogram == ""


@pytest.mark.parametrize("text", ["x", "AAAA", "HISTFAAAAAo=", "é" * 9])
def test_garbage_is_refused_with_its_cause(text: str) -> None:
    """A damaged record would end in a traceback from inside a library."""
    with pytest.raises(ValueError, match="Not a histogram"):
        durations.decode(text)


def test_a_histogram_of_another_range_is_refused() -> None:
    """Milliseconds added to microseconds would pass for a measurement."""
    from hdrh.histogram import HdrHistogram

    other = HdrHistogram(1, 1000, 2)
    other.record_value(5)
    with pytest.raises(ValueError, match=r"1\.\.1000 with 2 digits"):
        durations.decode(durations.encode(other))
