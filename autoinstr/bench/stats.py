"""The statistics of a campaign: pure functions over a handful of numbers each.

Owns: Student's t, intervals, permutation, Holm, equivalence, Theil-Sen, the exact binomial test, the cost model.
Must not know: runs, variants, files; what the numbers mean.
Invariants: no state, no clock, no input or output; what is drawn at random is drawn from a seed that the caller gives; no numpy and
no scipy (they are the judges in the tests): a campaign is analysed where it ran, and that is often a small container.

The unit of inference is the block. Requests within a run are not independent, runs within a block share their hour; what is
independent is one block's difference and the next one's. So every interval here is Student's t over block differences:
with heavy-tailed blocks it covers 95 to 97 % for 4 to 16 of them, where the percentile bootstrap covers 81 to 90 %.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, median, stdev

from autoinstr.bench.parts import CostModel, Estimate

#: Sampled shares for which a cost model predicts: Dapper's (table 2 of its report), ours, none.
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.01, 1 / 1024, 0.0)
#: With more blocks Student's t is the normal distribution but for a first correction.
NEARLY_NORMAL = 100_000
#: Below so many slots a monotone order is no rare accident (1 in 12 with four), so that a slope says nothing.
FEWEST_FOR_A_SLOPE = 5
#: How far the halves of a window may differ.
STEADY, STEADY_IF_SHORT = 0.02, 0.10
SIGNS_AT_A_TIME = 8
#: With fewer degrees of freedom a control's slope adds more scatter than it takes away.
FEWEST_FOR_A_CONTROL = 8
#: Of fewer values all 2^n signs cannot give 0.05, whatever the values are.
FEWEST_FOR_SIGNS = 6
#: Slopes between all pairs of more points take seconds: neighbours are put together first.
MOST_POINTS_FOR_SLOPES = 1500


# Student's t.


def t_cdf(t: float, df: float) -> float:
    """The probability that Student's t with ``df`` degrees of freedom is at most ``t``."""
    tail = _t_tail(abs(t), df)
    return 1.0 - tail if t > 0 else tail


def _t_tail(t: float, df: float) -> float:
    """The probability of more than ``t`` >= 0."""
    if not df > 0:
        raise ValueError(f"Student's t needs more than 0 degrees of freedom, not {df}.")
    if math.isinf(t):
        return 0.0
    return 0.5 * _beta_share(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))


def _beta_share(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b); ``rest`` is 1 - x, given because the caller has it more exactly.

    By its continued fraction (DLMF 8.17.22), on the side where that converges.
    """
    if x <= 0.0:
        return 0.0
    if rest <= 0.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, rest) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction, evaluated by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    found = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 / (1.0 + step * d or tiny)
            c = 1.0 + step / c or tiny
            found *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return found


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """The value that Student's t with ``df`` degrees of freedom stays below with probability ``p`` (0 < p < 1)."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"A probability is between 0 and 1, not {p}.")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -_t_of_tail(p, df)
    return _t_of_tail(1.0 - p, df)


def _t_of_tail(tail: float, df: float) -> float:
    """By bisection: slow (a hundred steps of a microsecond), sure, and exact to the last digits."""
    low, high = 0.0, 1.0
    while _t_tail(high, df) > tail:
        low, high = high, high * 2
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        if _t_tail(middle, df) > tail:
            low = middle
        else:
            high = middle


def normal_quantile(p: float) -> float:
    """The value that a standard normal variable stays below with probability ``p``."""
    return NormalDist().inv_cdf(p)


# Intervals.


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean with its interval by Student's t. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("An interval needs at least two blocks.")
    mean = fmean(values)
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def log_ratio_interval(log_differences: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Differences of logarithms as a change in percent, with its interval: ``100 (exp(m) - 1)``."""
    log = t_interval(log_differences, confidence)
    return Estimate(*(100 * math.expm1(one) for one in (log.mean, log.low, log.high)))


def welch_interval(values: Sequence[float], others: Sequence[float], confidence: float = 0.95) -> Estimate:
    """``mean(values) - mean(others)`` of two independent campaigns, by Welch's t (Welch 1947).

    Raises ValueError where either has fewer than two values.
    """
    if min(len(values), len(others)) < 2:
        raise ValueError("An interval needs at least two blocks of each campaign.")
    mean = fmean(values) - fmean(others)
    errors = [stdev(one) ** 2 / len(one) for one in (values, others)]
    total = sum(errors)
    if total == 0:
        return Estimate(mean, mean, mean)
    df = total**2 / sum(error**2 / (len(one) - 1) for error, one in zip(errors, (values, others), strict=True))
    half = t_quantile((1 + confidence) / 2, df) * math.sqrt(total)
    return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class BlockDifference:
    """A variant less bare in one block: in the metric's unit, and of logarithms (None where a value is not positive)."""

    absolute: float
    log: float | None


def mirrored_difference(variant_pair: Sequence[float], base_pair: Sequence[float]) -> BlockDifference:
    """``mean(x1, x2) - mean(b1, b2)`` over the two mirrored runs of a block, and the same of logarithms.

    Both pairs have the same mean position in the block, so a linear drift of the machine is in both and cancels.
    """
    absolute = fmean(variant_pair) - fmean(base_pair)
    if min(*variant_pair, *base_pair) <= 0:
        return BlockDifference(absolute, None)
    return BlockDifference(absolute, fmean(map(math.log, variant_pair)) - fmean(map(math.log, base_pair)))


# Tests.


def sign_flip_p(values: Sequence[float], seed: int, exact_to: int = 14, draws: int = 10_000) -> float:
    """Two-sided p of the sign-flip permutation test that the differences are symmetric about 0 (Fisher 1935).

    All 2^n signs up to ``exact_to`` values, so that p is never below 2/2^n; ``draws`` random ones (plus the observed one)
    beyond. Raises ValueError without values.
    """
    if not values:
        raise ValueError("A permutation test needs values.")
    # What a rounding error separates is the same sum.
    observed = abs(math.fsum(values)) - 1e-9 * math.fsum(map(abs, values))
    if len(values) <= exact_to:
        # The other half has the same sums with the other sign.
        sums = [values[0] + one for one in _signed_sums(values[1:])]
        return sum(abs(one) >= observed for one in sums) / len(sums)
    chance = random.Random(seed)  # noqa: S311 (a permutation, not a secret)
    # All signs of a few values at a time, and of each few one at random: as random as sign by sign, and ten times as fast.
    few = [_signed_sums(values[at : at + SIGNS_AT_A_TIME]) for at in range(0, len(values), SIGNS_AT_A_TIME)]
    drawn = zip(*(chance.choices(sums, k=draws) for sums in few), strict=True)
    extreme: int = sum(abs(sum(one)) >= observed for one in drawn)
    return (extreme + 1) / (draws + 1)


def _signed_sums(values: Sequence[float]) -> list[float]:
    """The sums of the values with all 2^n signs."""
    sums = [0.0]
    for value in values:
        sums = [one + signed for one in sums for signed in (value, -value)]
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of any false alarm among them stays at the level (Holm 1979); in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def tost(values: Sequence[float], delta: float, alpha: float = 0.05) -> bool:
    """Whether the mean is shown to lie within ±``delta``: two one-sided tests at ``alpha`` (Schuirmann 1987).

    The same as the ``1 - 2 alpha`` interval lying inside. Raises ValueError for fewer than two values.
    """
    found = t_interval(values, 1 - 2 * alpha)
    return -delta < found.low and found.high < delta


def tost_percent(log_differences: Sequence[float], delta_percent: float, alpha: float = 0.05) -> bool:
    """The same for a change in percent, from differences of logarithms."""
    found = log_ratio_interval(log_differences, 1 - 2 * alpha)
    return -delta_percent < found.low and found.high < delta_percent


def blocks_needed(values: Sequence[float], half_width: float, confidence: float = 0.95) -> int:
    """How many blocks give an interval of ``± half_width``, if they scatter as these do: ``n >= (t s / h)^2``.

    t depends on n, so n is raised until it holds. Raises ValueError for fewer than two values or a width that is not positive.
    """
    if len(values) < 2 or not half_width > 0:
        raise ValueError("How many blocks are needed can be said from two blocks on, and for a width above 0.")
    ratio = stdev(values) / half_width
    z = normal_quantile((1 + confidence) / 2)
    n = max(2, math.ceil((z * ratio) ** 2))
    if n > NEARLY_NORMAL:
        return n + math.ceil((z * z + 1) / 2)  # The first term of t's expansion about z; the next one is below 1.
    while n < (t_quantile((1 + confidence) / 2, n - 1) * ratio) ** 2:
        n += 1
    return n


def binomial_two_sided(k: int, n: int, p: float) -> float:
    """The exact p of k of n at probability p: the sum of all outcomes that are no likelier than the observed one.

    As R's and scipy's ``binomtest``. Tails are summed until a term no longer counts, so the time grows with the standard
    deviation, not with n: a millisecond at n = 10^6. Raises ValueError where k is not in 0..n or p not in 0..1.
    """
    if not 0 <= k <= n or not 0.0 <= p <= 1.0:
        raise ValueError(f"{k} of {n} at {p} is no binomial outcome.")
    if p in (0.0, 1.0):
        return 1.0 if k == n * p else 0.0
    mode = int((n + 1) * p)
    if k == mode:
        return 1.0
    if k > mode:  # Seen from the other side, k is in the lower tail.
        return binomial_two_sided(n - k, n, 1 - p)
    # scipy's tolerance: outcomes equally likely but for rounding belong to the sum.
    limit = _log_likelihood(k, n, p) + 1e-7
    low, high = mode, n + 1
    while low < high:
        middle = (low + high) // 2
        if _log_likelihood(middle, n, p) > limit:
            low = middle + 1
        else:
            high = middle
    upper = _lower_tail(n - low, n, 1 - p) if low <= n else 0.0
    return min(1.0, _lower_tail(k, n, p) + upper)


def _log_likelihood(k: int, n: int, p: float) -> float:
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choices + k * math.log(p) + (n - k) * math.log1p(-p)


def _lower_tail(k: int, n: int, p: float) -> float:
    """The probability of k or fewer, for k below the mode: from k downwards every term is smaller than the one before."""
    term = total = math.exp(_log_likelihood(k, n, p))
    odds = (1 - p) / p
    while k > 0 and term > total * 1e-17:
        term *= k / (n - k + 1) * odds
        total += term
        k -= 1
    return total


def rate_limit_allows(sampled: int, per_second: float, seconds: float, limiters: int = 1) -> bool:
    """Whether leaky buckets of ``per_second``, full at the start, can have let so many through (Jaeger's ratelimiting)."""
    return sampled <= limiters * (per_second * seconds + max(per_second, 1.0))


# Trends.


def theil_sen(xs: Sequence[float], ys: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The median of the slopes between all pairs, with Sen's interval (Sen 1968; ties as in ``scipy.stats.theilslopes``).

    Of more than ``MOST_POINTS_FOR_SLOPES`` points, the medians of neighbours are taken. Raises ValueError for fewer than two
    different xs.
    """
    xs, ys = _thinned(xs, ys)
    pairs = itertools.combinations(zip(xs, ys, strict=True), 2)
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x1 != x2)
    if not slopes:
        raise ValueError("A slope needs two points with different xs.")
    z = -normal_quantile((1 - confidence) / 2)
    spread = z * math.sqrt(max(_kendall_variance(xs, ys), 0.0))
    low = max(round((len(slopes) - spread) / 2) - 1, 0)
    high = min(round((len(slopes) + spread) / 2), len(slopes) - 1)
    return Estimate(median(slopes), slopes[low], slopes[high])


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    size = math.ceil(len(xs) / MOST_POINTS_FOR_SLOPES)
    if size <= 1:
        return xs, ys
    starts = range(0, len(xs), size)
    return [median(xs[at : at + size]) for at in starts], [median(ys[at : at + size]) for at in starts]


def _kendall_variance(xs: Sequence[float], ys: Sequence[float]) -> float:
    def term(n: int) -> int:
        return n * (n - 1) * (2 * n + 5)

    ties = sum(term(sum(1 for _ in group)) for one in (xs, ys) for _, group in itertools.groupby(sorted(one)))
    return (term(len(xs)) - ties) / 18


def is_steady(medians: Sequence[float]) -> bool:
    """Whether a window shows no trend: the slope of its slots' medians may be 0, and its halves differ by at most
    ``STEADY`` of the whole.

    Of fewer than five slots only the halves are compared, and only a gross difference counts (``STEADY_IF_SHORT``): single seconds
    scatter by more than the other. A single slot has no halves, and is not called steady.
    """
    if len(medians) < 2:
        return False
    half = len(medians) // 2
    is_short = len(medians) < FEWEST_FOR_A_SLOPE
    change = abs(median(medians[-half:]) - median(medians[:half]))
    if not change <= (STEADY_IF_SHORT if is_short else STEADY) * abs(median(medians)):
        return False
    return is_short or not theil_sen(range(len(medians)), medians).excludes(0)


# A control variate.


def pooled_slope(groups: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    """The common slope of y on x within groups that have levels of their own (analysis of covariance, Fisher 1932).

    None with fewer than ``FEWEST_FOR_A_CONTROL`` degrees of freedom, or where x does not vary within any group.
    """
    freedom = sum(len(group) - 1 for group in groups if group) - 1
    if freedom < FEWEST_FOR_A_CONTROL:
        return None
    centred = [(x - x_mean, y - y_mean) for group in groups for x_mean, y_mean in [_centre(group)] for x, y in group]
    spread = math.fsum(x * x for x, _ in centred)
    return math.fsum(x * y for x, y in centred) / spread if spread > 0 else None


def _centre(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return (fmean(x for x, _ in points), fmean(y for _, y in points)) if points else (0.0, 0.0)


def scatter_within(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation within groups that have levels of their own; None where no group has two values."""
    freedom = sum(len(group) - 1 for group in groups if group)
    if freedom < 1:
        return None
    means = [fmean(group) if group else 0.0 for group in groups]
    return math.sqrt(math.fsum((y - mean) ** 2 for group, mean in zip(groups, means, strict=True) for y in group) / freedom)


# The cost model.


@dataclass(frozen=True)
class Fit:
    """Least squares: coefficients, their covariance (scaled by the residuals), and the share of variance explained."""

    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    r_squared: float


def weighted_least_squares(
    rows: Sequence[Sequence[float]], ys: Sequence[float], weights: Sequence[float] | None = None
) -> Fit:
    """Fit ``y = rows · coefficients`` by an orthogonal decomposition (modified Gram-Schmidt), for a few columns.

    ``weights`` are inverse variances up to a factor, 1 where not given. R² is about the weighted mean. With as many points as
    columns the fit is exact and the covariance 0. Raises ValueError where the columns do not determine the coefficients.
    """
    weights = [1.0] * len(ys) if weights is None else weights
    width = len(rows[0]) if rows else 0
    if len(rows) < width or not width or min(weights) < 0:
        raise ValueError(f"{len(rows)} points do not determine {width} coefficients.")
    roots = [math.sqrt(weight) for weight in weights]
    columns = [[row[j] * root for row, root in zip(rows, roots, strict=True)] for j in range(width)]
    basis, upper = _orthogonal(columns)
    target = [y * root for y, root in zip(ys, roots, strict=True)]
    coefficients = _solved(upper, [_dot(one, target) for one in basis])
    errors = [y - _dot(row, coefficients) for y, row in zip(ys, rows, strict=True)]
    left = math.fsum(weight * error**2 for weight, error in zip(weights, errors, strict=True))
    scale = left / (len(rows) - width) if len(rows) > width else 0.0
    mean = math.fsum(weight * y for weight, y in zip(weights, ys, strict=True)) / math.fsum(weights)
    whole = math.fsum(weight * (y - mean) ** 2 for weight, y in zip(weights, ys, strict=True))
    inverse = [_solved(upper, [float(i == j) for i in range(width)]) for j in range(width)]  # Columns of R^-1.
    covariance = tuple(
        tuple(scale * math.fsum(one[i] * one[j] for one in inverse) for j in range(width)) for i in range(width)
    )
    return Fit(tuple(coefficients), covariance, 1.0 - left / whole if whole > 0 else 1.0)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _orthogonal(columns: Sequence[Sequence[float]]) -> tuple[list[list[float]], list[list[float]]]:
    """Q by columns, and R by rows."""
    basis: list[list[float]] = []
    upper = [[0.0] * len(columns) for _ in columns]
    for j, column in enumerate(columns):
        rest = list(column)
        for i, unit in enumerate(basis):
            upper[i][j] = _dot(unit, rest)
            rest = [a - upper[i][j] * b for a, b in zip(rest, unit, strict=True)]
        upper[j][j] = math.sqrt(_dot(rest, rest))
        if upper[j][j] <= 1e-10 * math.sqrt(_dot(column, column)):
            raise ValueError("The points do not tell the coefficients apart.")
        basis.append([a / upper[j][j] for a in rest])
    return basis, upper


def _solved(upper: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Back substitution."""
    found = [0.0] * len(right)
    for i in reversed(range(len(right))):
        known = math.fsum(upper[i][j] * found[j] for j in range(i + 1, len(right)))
        found[i] = (right[i] - known) / upper[i][i]
    return found


@dataclass(frozen=True)
class CostPoint:
    """What one variant (with hooks) added in one block, in µs a request, at the sampled spans per request it achieved."""

    variant: str
    spans: float
    added_us: float


def cost_model(
    blocks: Sequence[Sequence[CostPoint]],
    base_us: Sequence[float],
    spans_per_request: float,
    confidence: float = 0.95,
) -> CostModel:
    """``added = fixed + per_span * spans``: one fit for each block, intervals by Student's t over the blocks' fits.

    Why not one fit of all points: all differences of a block have the same bare runs in them, so their errors go together.
    Where they are taken for independent, the 95 % interval of ``fixed`` covers too little: 76 to 79 % in simulated campaigns of
    4 to 16 heavy-tailed blocks for all points pooled, 70 to 72 % for the variants' means. Over the blocks' own fits it
    covered 94 to 96 %, that of ``per_span`` too (tests/bench/test_stats.py repeats this). Within a block the shared error
    shifts all points alike, which plain least squares puts into ``fixed``, where it belongs. That the line itself may be
    wrong is not in the intervals: ``r_squared`` says how well it goes through the variants' means.

    ``base_us`` has what a bare request costs in each block. Raises ValueError for fewer than two blocks, or one whose points
    have fewer than two different ``spans``.
    """
    fits = [weighted_least_squares([(1.0, one.spans) for one in block], [one.added_us for one in block]) for block in blocks]
    coefficients = [fit.coefficients for fit in fits]
    means = _means(blocks)
    overall = weighted_least_squares(
        [(1.0, spans) for spans, _, _ in means.values()],
        [added for _, added, _ in means.values()],
        [count for _, _, count in means.values()],
    )
    return CostModel(
        base_us=t_interval(base_us, confidence),
        fixed_us=t_interval([fixed for fixed, _ in coefficients], confidence),
        per_span_us=t_interval([per_span for _, per_span in coefficients], confidence),
        r_squared=overall.r_squared,
        spans_per_request=spans_per_request,
        points=tuple((variant, spans, added) for variant, (spans, added, _) in means.items()),
        predictions=tuple(
            (share, t_interval([f + g * share * spans_per_request for f, g in coefficients], confidence))
            for share in SHARES
        ),
    )


def _means(blocks: Sequence[Sequence[CostPoint]]) -> Mapping[str, tuple[float, float, float]]:
    """Variant -> mean spans, mean of what it added, number of blocks."""
    found: dict[str, list[CostPoint]] = {}
    for point in itertools.chain.from_iterable(blocks):
        found.setdefault(point.variant, []).append(point)
    return {
        variant: (fmean(one.spans for one in points), fmean(one.added_us for one in points), float(len(points)))
        for variant, points in found.items()
    }
