"""The statistics against scipy, against brute force, and against simulated campaigns whose truth is known."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from statistics import fmean, stdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoinstr.bench import stats

judge = pytest.importorskip("scipy.stats", reason="scipy, the judge, is not installed")

SIMULATIONS = 300
values_of_blocks = st.lists(st.floats(-100, 100).map(lambda one: round(one, 3)), min_size=2, max_size=12)


def heavy_tailed(chance: random.Random) -> float:
    """Noise of a block: one in ten is three times as wide."""
    return chance.gauss(0, 3 if chance.random() < 0.1 else 1)


# Student's t.


@settings(deadline=None, max_examples=200)
@given(st.floats(-50, 50), st.one_of(st.integers(1, 60), st.floats(0.5, 1e5)))
def test_the_distribution_of_t_is_scipys(t: float, df: float) -> None:
    """Every interval and every p would be wrong by a little, which nobody sees."""
    assert stats.t_cdf(t, df) == pytest.approx(judge.t.cdf(t, df), rel=1e-8, abs=1e-14)


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-9, 1 - 1e-9), st.one_of(st.integers(1, 60), st.floats(1, 1e5)))
def test_the_quantile_of_t_is_scipys(p: float, df: float) -> None:
    """An interval of 95 % would be one of 94 %."""
    assert stats.t_quantile(p, df) == pytest.approx(judge.t.ppf(p, df), rel=1e-7, abs=1e-9)


def test_the_quantile_of_a_normal_variable_is_scipys() -> None:
    assert stats.normal_quantile(0.975) == pytest.approx(judge.norm.ppf(0.975), rel=1e-12)


@pytest.mark.parametrize(("p", "df"), [(0.0, 5), (1.0, 5), (0.9, 0), (0.9, -1), (float("nan"), 5)])
def test_what_is_no_probability_is_refused(p: float, df: float) -> None:
    """A wrong level would loop for ever, or give an interval of nothing."""
    with pytest.raises(ValueError, match=r"probability|degrees"):
        stats.t_quantile(p, df)


# Intervals.


@settings(deadline=None)
@given(values_of_blocks, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_an_interval_is_scipys(values: list[float], confidence: float) -> None:
    assume(stdev(values) > 0)
    found = stats.t_interval(values, confidence)
    low, high = judge.t.interval(confidence, len(values) - 1, fmean(values), judge.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert found.low <= found.mean <= found.high


def test_an_interval_of_one_block_is_refused() -> None:
    """One block would be reported as if it had an interval."""
    with pytest.raises(ValueError, match="two blocks"):
        stats.t_interval([1.0])
    with pytest.raises(ValueError, match="each campaign"):
        stats.welch_interval([1.0, 2.0], [1.0])


def test_logarithms_become_percent() -> None:
    """Twice as much would be reported as 69 %."""
    found = stats.log_ratio_interval([math.log(2.0)] * 3)
    assert (found.mean, found.low, found.high) == pytest.approx((100, 100, 100))
    around = stats.log_ratio_interval([-0.1, 0.1, 0.0])
    assert (1 + around.low / 100) * (1 + around.high / 100) == pytest.approx(1)


@settings(deadline=None)
@given(values_of_blocks, values_of_blocks)
def test_two_campaigns_are_compared_as_scipy_does(values: list[float], others: list[float]) -> None:
    assume(stdev(values) > 0.01 and stdev(others) > 0.01)
    low, high = judge.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    found = stats.welch_interval(values, others)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-7, abs=1e-7)


def test_two_campaigns_without_any_scatter_differ_by_their_means() -> None:
    assert stats.welch_interval([2.0, 2.0], [1.5, 1.5]) == stats.Estimate(0.5, 0.5, 0.5)


@given(st.floats(-5, 5), st.floats(10, 1000), st.floats(-50, 50), st.integers(1, 9), st.integers(1, 9))
def test_a_linear_drift_cancels_in_a_mirrored_block(
    drift: float, base: float, cost: float, place: int, half: int
) -> None:
    """A machine that slows down would make the variants that run later look dear."""
    assume(place <= half)
    last = 2 * half + 1

    def at(position: int, level: float) -> float:
        return level + drift * position

    variant = (at(place, base + cost), at(last - place, base + cost))
    found = stats.mirrored_difference(variant, (at(0, base), at(last, base)))
    assert found.absolute == pytest.approx(cost, abs=1e-6)


def test_a_mirrored_difference_of_logarithms() -> None:
    found = stats.mirrored_difference((200.0, 50.0), (10.0, 10.0))
    assert found.absolute == pytest.approx(115)
    assert found.log == pytest.approx(math.log(10))
    assert stats.mirrored_difference((1.0, 1.0), (0.0, 1.0)).log is None


def test_intervals_cover_the_truth_with_heavy_tailed_blocks() -> None:
    """One report in five would be wrong where it says one in twenty (as with a bootstrap over six blocks)."""
    chance = random.Random(11)
    for blocks in (4, 8):
        covered = sum(
            not stats.t_interval([5 + heavy_tailed(chance) for _ in range(blocks)]).excludes(5)
            for _ in range(SIMULATIONS)
        )
        assert 0.90 <= covered / SIMULATIONS <= 0.99


# Tests.


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9))
def test_sign_flips_are_counted_exactly(values: list[int]) -> None:
    """A p of five blocks could be smaller than five blocks can show."""
    observed = abs(sum(values))
    flips = [abs(sum(map(lambda v, s: v * s, values, signs))) for signs in itertools.product((1, -1), repeat=len(values))]
    assert stats.sign_flip_p(values, seed=1) == pytest.approx(sum(one >= observed for one in flips) / len(flips))


def test_few_blocks_cannot_reach_significance() -> None:
    """With four blocks the smallest p is 0.125: less would be invented."""
    assert stats.sign_flip_p([5.0, 5.1, 4.9, 5.2], seed=1) == 0.125
    assert stats.sign_flip_p([5.0] * 6, seed=1) == 2 / 64
    with pytest.raises(ValueError, match="needs values"):
        stats.sign_flip_p([], seed=1)


def test_many_blocks_are_flipped_at_random_but_repeatably() -> None:
    """The same campaign would show another p at each look."""
    values = [random.Random(3).gauss(0.3, 1) for _ in range(20)]
    assert stats.sign_flip_p(values, seed=7) == stats.sign_flip_p(values, seed=7)
    exact = stats.sign_flip_p(values[:12], seed=7)
    assert stats.sign_flip_p(values[:12], seed=7, exact_to=5) == pytest.approx(exact, abs=0.02)
    assert stats.sign_flip_p([1.0] * 40, seed=7, draws=999) == 0.001


def test_false_alarms_of_sign_flips_stay_at_the_level() -> None:
    """Bare against bare would be called different too often."""
    chance = random.Random(12)
    alarms = sum(
        stats.sign_flip_p([heavy_tailed(chance) for _ in range(8)], seed=number) <= 0.05 for number in range(1000)
    )
    assert 0.02 <= alarms / 1000 <= 0.07


def test_holm_is_the_published_procedure() -> None:
    """With nine variants one would be called different by chance in every third cell."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted))
    ordered = [after for _, after in sorted(zip(p_values, adjusted))]
    assert ordered == sorted(ordered)


@settings(deadline=None)
@given(values_of_blocks, st.floats(0.1, 50))
def test_equivalence_is_two_one_sided_tests(values: list[float], delta: float) -> None:
    """"No measurable overhead" would be said where it was only not measured."""
    assume(stdev(values) > 0.01)
    p = max(
        judge.ttest_1samp(values, -delta, alternative="greater").pvalue,
        judge.ttest_1samp(values, delta, alternative="less").pvalue,
    )
    assume(abs(p - 0.05) > 1e-9)
    assert stats.tost(values, delta) == (p < 0.05)


def test_equivalence_in_percent() -> None:
    logs = [math.log(1.004), math.log(1.005), math.log(1.006), math.log(1.005)]
    assert stats.tost_percent(logs, 1.0)
    assert not stats.tost_percent(logs, 0.5)
    assert not stats.tost_percent([-one for one in logs], 0.5)


@settings(deadline=None)
@given(values_of_blocks, st.floats(0.01, 100))
def test_blocks_needed_are_the_fewest_that_are_enough(values: list[float], ratio: float) -> None:
    """Somebody would wait for forty blocks where twelve do, or for twelve that do not."""
    assume(stdev(values) > 0.01)
    half_width = stdev(values) * ratio

    def width(n: int) -> float:
        return judge.t.ppf(0.975, n - 1) * stdev(values) / math.sqrt(n)

    n = stats.blocks_needed(values, half_width)
    assert width(n) <= half_width * 1.000001
    assert n == 2 or width(n - 1) > half_width * 0.999999


def test_blocks_needed_needs_something_to_go_by() -> None:
    assert stats.blocks_needed([3.0, 3.0], 1.0) == 2
    with pytest.raises(ValueError, match="two blocks"):
        stats.blocks_needed([3.0], 1.0)
    with pytest.raises(ValueError, match="above 0"):
        stats.blocks_needed([3.0, 4.0], 0.0)


def test_very_many_blocks_are_found_at_once() -> None:
    """A campaign with one absurd run would be analysed for ever."""
    values = [0.0, 1.0]
    for half_width in (0.0044, 0.0043):  # On both sides of where the search is left for a formula.
        n = stats.blocks_needed(values, half_width)
        exact = (judge.t.ppf(0.975, n - 1) * stdev(values) / half_width) ** 2
        assert exact <= n < exact + 2
    assert stats.blocks_needed([0.0, 1e12], 1.0) == pytest.approx(0.5e24 * 1.96**2, rel=1e-4)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.0005, 0.9995))
def test_the_binomial_test_is_scipys(n: int, part: float, p: float) -> None:
    """A sampler that keeps what it should would be called broken, or a broken one not."""
    k = min(n, int(part * (n + 1)))
    assert stats.binomial_two_sided(k, n, p) == pytest.approx(judge.binomtest(k, n, p).pvalue, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize(
    ("k", "n", "p"), [(60_100, 600_000, 0.1), (501_000, 1_000_000, 0.5), (85, 60_000, 0.001), (0, 60_000, 0.001)]
)
def test_the_binomial_test_of_many_requests_is_scipys(k: int, n: int, p: float) -> None:
    assert stats.binomial_two_sided(k, n, p) == pytest.approx(judge.binomtest(k, n, p).pvalue, rel=1e-6)


def test_the_binomial_test_at_its_ends() -> None:
    """A const sampler keeps all or nothing: one trace too many is a fault."""
    assert stats.binomial_two_sided(0, 100, 0.0) == stats.binomial_two_sided(100, 100, 1.0) == 1.0
    assert stats.binomial_two_sided(1, 100, 0.0) == stats.binomial_two_sided(99, 100, 1.0) == 0.0
    assert stats.binomial_two_sided(0, 0, 0.5) == 1.0
    with pytest.raises(ValueError, match="5 of 4"):
        stats.binomial_two_sided(5, 4, 0.5)


def test_a_rate_limiter_may_begin_with_a_full_bucket() -> None:
    assert stats.rate_limit_allows(110, 10, 10)
    assert not stats.rate_limit_allows(111, 10, 10)
    assert stats.rate_limit_allows(2, 0.1, 10)
    assert stats.rate_limit_allows(220, 10, 10, limiters=2)


# Trends.


points = st.lists(st.tuples(st.integers(0, 30), st.integers(-50, 50)), min_size=3, max_size=25)


@settings(deadline=None)
@given(points)
def test_the_slope_is_scipys(points: list[tuple[int, int]]) -> None:
    """Memory that grows would be called flat, or the other way round."""
    xs, ys = zip(*points)
    assume(len(set(xs)) > 1 and len(set(ys)) > 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's word for an interval that it cannot give.
        expected = judge.theilslopes(ys, xs, 0.95)
    found = stats.theil_sen(xs, ys)
    assert found.mean == pytest.approx(expected.slope, abs=1e-12)
    assume(not math.isnan(expected.low_slope))
    assert (found.low, found.high) == pytest.approx((expected.low_slope, expected.high_slope), abs=1e-12)


def test_a_slope_of_many_points_is_found_in_time() -> None:
    """The analysis of a soak run of an hour would take minutes."""
    chance = random.Random(13)
    xs = list(range(20_000))
    found = stats.theil_sen(xs, [0.5 * x + chance.gauss(0, 100) for x in xs])
    assert not found.excludes(0.5)
    assert found.high - found.low < 0.001


def test_a_slope_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="different xs"):
        stats.theil_sen([1, 1, 1], [1, 2, 3])


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        ([100, 101, 100, 99, 100, 101, 99, 100], True),
        ([100, 100.4, 100.8, 101.2, 101.6, 102, 102.4, 102.8], False),  # A slope, though the halves are near.
        ([104, 104, 104, 104, 100, 100, 100, 100], False),  # The halves differ.
        ([103, 98, 104, 99, 97, 103, 98, 104], True),
        ([100, 100.5, 101], True),  # Too few for a slope: any three are in order one time in three.
        ([100, 108], True),  # Single seconds scatter.
        ([100, 112], False),
        ([100, 100, 88], False),
        ([100], False),
        ([], False),
        ([0, 0, 0, 0], True),
        ([100, float("nan"), 100, 100], False),
    ],
)
def test_a_window_is_steady_without_a_trend(medians: list[float], steady: bool) -> None:
    """A program that was still warming up would be measured."""
    assert stats.is_steady(medians) is steady


# A control variate.


def test_the_common_slope_is_that_of_regression_with_levels_of_their_own() -> None:
    """Variants that differ in level would bend the slope, and the slope would take their difference away."""
    chance = random.Random(41)
    groups = [[(x, level + 0.8 * x + chance.gauss(0, 0.1)) for x in (chance.gauss(0, 1) for _ in range(6))] for level in (0, 5, -3)]
    rows = [[x, *(float(at == number) for at in range(3))] for number, group in enumerate(groups) for x, _ in group]
    expected = stats.weighted_least_squares(rows, [y for group in groups for _, y in group])
    assert stats.pooled_slope(groups) == pytest.approx(expected.coefficients[0])
    assert stats.pooled_slope([[(0.0, y) for _, y in group] for group in groups]) is None
    assert stats.pooled_slope([groups[0][:5], groups[1][:5]]) is None
    assert stats.pooled_slope([[], []]) is None


def test_scatter_within_leaves_the_levels_out() -> None:
    assert stats.scatter_within([[1.0, 3.0], [101.0, 103.0], []]) == pytest.approx(math.sqrt(2))
    assert stats.scatter_within([[1.0], [2.0]]) is None


# The cost model.


def test_least_squares_with_weights_is_numpys() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy, the judge, is not installed")
    chance = random.Random(14)
    rows = [(1.0, chance.random(), chance.gauss(0, 5)) for _ in range(20)]
    ys = [3 + 2 * a - b + chance.gauss(0, 0.1) for _, a, b in rows]
    weights = [chance.uniform(0.1, 3) for _ in rows]
    found = stats.weighted_least_squares(rows, ys, weights)
    matrix, diagonal = numpy.array(rows), numpy.diag(weights)
    inverse = numpy.linalg.inv(matrix.T @ diagonal @ matrix)
    coefficients = inverse @ matrix.T @ diagonal @ ys
    errors = ys - matrix @ coefficients
    assert found.coefficients == pytest.approx(list(coefficients))
    expected = inverse * (errors @ diagonal @ errors) / (20 - 3)
    assert numpy.array(found.covariance) == pytest.approx(expected)
    assert 0.99 < found.r_squared < 1


def test_points_that_do_not_tell_the_coefficients_apart_are_refused() -> None:
    """Fixed and per-span cost would be split by rounding errors."""
    with pytest.raises(ValueError, match="apart"):
        stats.weighted_least_squares([(1.0, 2.0)] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(ValueError, match="do not determine"):
        stats.weighted_least_squares([(1.0, 2.0)], [1.0])
    assert stats.weighted_least_squares([(1.0, 0.0), (1.0, 2.0)], [1.0, 5.0]).coefficients == pytest.approx((1, 2))


FIXED, PER_SPAN, BARE = 14.0, 9.0, 120.0
ACHIEVED = {"const:0": 0.0, "prob:0.01": 0.03, "prob:0.1": 0.3, "prob:0.5": 1.5, "const:1": 3.0}


def simulated(chance: random.Random, blocks: int) -> tuple[list[list[stats.CostPoint]], list[float]]:
    """Blocks whose points share the error of their bare runs."""
    found, base_us = [], []
    for _ in range(blocks):
        base = heavy_tailed(chance)
        base_us.append(BARE + base)
        found.append(
            [
                stats.CostPoint(name, spans, FIXED + PER_SPAN * spans + heavy_tailed(chance) - base)
                for name, spans in ACHIEVED.items()
            ]
        )
    return found, base_us


@pytest.mark.parametrize("blocks", [4, 10])
def test_the_cost_model_covers_the_truth(blocks: int) -> None:
    """The fixed cost would be stated five times as sure as it is, for all points share the error of the bare runs."""
    chance = random.Random(15)
    covered = {"fixed": 0, "per span": 0, "prediction": 0}
    for _ in range(SIMULATIONS):
        model = stats.cost_model(*simulated(chance, blocks), spans_per_request=3.0)
        covered["fixed"] += not model.fixed_us.excludes(FIXED)
        covered["per span"] += not model.per_span_us.excludes(PER_SPAN)
        share, prediction = model.predictions[2]
        covered["prediction"] += not prediction.excludes(FIXED + PER_SPAN * 3 * share)
    assert all(0.90 <= count / SIMULATIONS <= 0.99 for count in covered.values()), covered


def test_the_cost_model_says_how_well_the_line_fits() -> None:
    model = stats.cost_model(*simulated(random.Random(16), 8), spans_per_request=3.0)
    assert model.r_squared > 0.97
    assert [share for share, _ in model.predictions] == list(stats.SHARES)
    assert model.predictions[-1][1] == model.fixed_us
    assert [name for name, _, _ in model.points] == list(ACHIEVED)
    crooked = [[stats.CostPoint(str(x), x, 10.0 * (x == 1.5)) for x in ACHIEVED.values()] for _ in range(4)]
    assert stats.cost_model(crooked, [BARE] * 4, 3.0).r_squared < 0.5


def test_a_cost_model_of_one_block_or_one_variant_is_refused() -> None:
    blocks, base_us = simulated(random.Random(17), 2)
    with pytest.raises(ValueError, match="two blocks"):
        stats.cost_model(blocks[:1], base_us[:1], 3.0)
    with pytest.raises(ValueError, match="do not determine"):
        stats.cost_model([block[:1] for block in blocks], base_us, 3.0)
