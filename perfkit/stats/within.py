"""What one run knows of its own numbers: quantiles and means with intervals from time slices.

Requests of one run are autocorrelated: a slow second makes many slow requests, so an interval that takes
them for independent is too narrow. The intervals here cut the run into 40 time slices and let the slices
say how much the statistic moves. They are **within-run** intervals: they know nothing of what another run
of the same thing would show, and no verdict may rest on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfkit.stats.series import Floats, Ints

SLICES = 40
LEVEL = 0.95
#: Fewer rows than this a slice, on average, and the slices say nothing; then rows are taken as independent.
ROWS_A_SLICE = 10
#: A quantile with fewer requests beyond it than this is not shown; than the second, not without warning.
MIN_SUPPORT = 10
GOOD_SUPPORT = 50
#: Where fewer independent requests than this lie on one side of a quantile, its interval is open there; where
#: fewer than the second lie on both, there is none.
MIN_INDEPENDENT = 10
FEWEST_INDEPENDENT = 5
#: The same for a mean, as (mean ÷ standard error)²: open above below the first, none below the second.
_MIN_FOR_MEAN, _FEWEST_FOR_MEAN = 100, 4

WITHIN_RUN = "time slices, within-run"
INDEPENDENT = "requests, assumed independent"
#: Why there is no interval: fewer than MIN_SUPPORT requests carry it; or it would hold nearly any value.
THIN = "too few requests"
WIDE = "time slices that differ too much"
#: Of a number that a summary carries: its requests are not there.
SUMMARIZED = "a number of a summary"
NO_INTERVAL = (THIN, WIDE, SUMMARIZED)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval at `level`, the rows it rests on and the unit of replication.

    low, high: NaN without an interval; infinite where the interval is open at that end.
    """

    point: float
    low: float
    high: float
    level: float
    n: int
    unit: str


def quantile(x: Floats, p: float) -> float:
    """The p-quantile by numpy's `linear` method (Hyndman & Fan 1996, type 7); NaN for no values."""
    return float(np.quantile(x, p)) if len(x) else math.nan


def support(n: int, p: float) -> float:
    """How many of n requests lie beyond the p-quantile on its thinner side: what the number rests on."""
    return round(n * min(p, 1 - p), 9)  # 100 × (1 - 0.9) is 10, not 9.999…


@dataclass(frozen=True)
class Slices:
    """The time slice of each row, for several statistics of the same rows; `place` is None for too few.

    Also where all rows fall in less than half of the slices (a burst) they say nothing.
    """

    place: Ints | None

    @classmethod
    def of(cls, t: Floats, span: tuple[float, float] | None = None) -> Slices:
        """Cut a span of time, or that of t itself, into `SLICES` equal lengths."""
        if len(t) < SLICES * ROWS_A_SLICE:
            return cls(None)
        place = time_slices(t, SLICES, span)
        return cls(place if slices_carry(np.bincount(place)) else None)


def slices_carry(counts: Floats | Ints) -> bool:
    """Whether slices with so many rows each say how much a statistic moves: 400 rows, not in one burst."""
    return bool(counts.sum() >= SLICES * ROWS_A_SLICE and np.count_nonzero(counts) >= SLICES // 2)


# -- intervals -------------------------------------------------------------------------------------


def quantiles(x: Floats, t: Floats | Slices, ps: Sequence[float], level: float = LEVEL) -> list[Estimate]:
    """Each p-quantile of x with its interval; the point is exactly numpy's.

    Interval: that of a proportion of as many independent requests as the 40 time slices show there to be
    (`quantile_bounds`), inverted (Woodruff 1952); with fewer than 400 rows, or all of them in less than half
    of the slices (a burst), the order-statistic interval that takes rows as independent; with less than
    `MIN_SUPPORT` requests beyond the quantile, or too few independent ones on both sides, none (NaN).
    """
    if not len(x):
        return [Estimate(math.nan, math.nan, math.nan, level, 0, THIN) for _ in ps]
    ranked = _ranked(x, ps)
    points = [quantile_of(ranked, p) for p in ps]
    place = (t if isinstance(t, Slices) else Slices.of(t)).place
    below, counts = (None, None) if place is None else _below(x, place, points)
    bounds = []
    for i, p in enumerate(ps):
        share = None if below is None or counts is None else slice_shares(below[i], counts, p)
        bounds.append(quantile_bounds(len(x), p, share, level))
    ranked = _ranked(ranked, [end for low, high, _ in bounds for end in (low, high) if math.isfinite(end)])
    found = []
    for point, (low, high, unit) in zip(points, bounds, strict=True):
        ends = (end if math.isinf(end) else quantile_of(ranked, end) for end in (low, high))
        both = (math.nan, math.nan) if unit in NO_INTERVAL else tuple(ends)
        found.append(Estimate(point, both[0], both[1], level, len(x), unit))
    return found


def _ranked(x: Floats, ps: Sequence[float]) -> Floats:
    """The values so ordered that those of the ranks around these quantiles are in their places."""
    low = {int((len(x) - 1) * p) for p in ps}
    ranks = np.array(sorted(low | {min(rank + 1, len(x) - 1) for rank in low}), np.intp)
    return np.partition(x, ranks)


def quantile_of(ranked: Floats, p: float) -> float:
    """The p-quantile of values that are in their sorted places around it; numpy's, to the last bit."""
    at = (len(ranked) - 1) * p
    floor = int(at)
    left, right = ranked[floor], ranked[min(floor + 1, len(ranked) - 1)]
    share, step = at - floor, right - left
    return float(left + step * share if share < 0.5 else right - step * (1 - share))


def _below(x: Floats, place: Ints, points: Sequence[float]) -> tuple[Floats, Floats]:
    """How many values of each slice are at most each point [points, SLICES], and how many there are."""
    rising = np.sort(points)
    code = np.zeros(len(x), np.int8)  # how many points are smaller; faster than searchsorted for so few
    for point in rising:
        code += x > point
    table = np.bincount(place * (len(rising) + 1) + code, minlength=SLICES * (len(rising) + 1))
    sums = np.cumsum(table.reshape(SLICES, -1), axis=1).astype(np.float64)
    return sums[:, np.searchsorted(rising, points, "right") - 1].T, sums[:, -1]


def slice_shares(below: Floats | Ints, counts: Floats | Ints, p: float) -> Floats:
    """How far the share of values below the p-quantile is off in each slice: float64 [slices]."""
    return np.asarray((below - p * counts) / counts.mean())


def quantile_bounds(n: int, p: float, share: Floats | None, level: float) -> tuple[float, float, str]:
    """Probabilities whose quantiles bound the p-quantile, ±inf at an open end; and the unit of replication.

    share: how far the share of values below the quantile is off in each slice, None without slices. Then the
    bounds are those of a binomial proportion (Jeffreys' interval; Brown, Cai & DasGupta 2001) of as many
    independent requests as have the slices' error. How far a tail reaches cannot be known from a run in which
    it was met a few times: the largest value seen is no bound.
    """
    from scipy.special import betaincinv

    if support(n, p) < MIN_SUPPORT:
        return p, p, THIN
    if share is not None:
        m = _independent(n, p, share, level)
        below, beyond = p * m, (1 - p) * m
        if max(below, beyond) < MIN_INDEPENDENT and min(below, beyond) < FEWEST_INDEPENDENT:
            return p, p, WIDE
        tails = (1 - level) / 2, (1 + level) / 2
        low, high = (float(betaincinv(below + 0.5, beyond + 0.5, tail)) for tail in tails)
        open_low = below < MIN_INDEPENDENT <= beyond
        open_high = beyond < MIN_INDEPENDENT <= below
        return -math.inf if open_low else low, math.inf if open_high else high, WITHIN_RUN
    low, high = order_statistics(n, p, level)
    return (low - 1) / (n - 1), (high - 1) / (n - 1), INDEPENDENT


def _independent(n: int, p: float, share: Floats, level: float) -> float:
    """How many independent requests would leave a share below the p-quantile as uncertain as it is.

    Fewer where the error itself is uncertain: by t for its degrees of freedom, and by half a standard
    deviation of the count of the rarer ones.
    """
    se, df = slice_error(share)
    if se <= 0:
        return float(n)
    m = p * (1 - p) / se**2 * (t_factor(level, 1e9) / t_factor(level, df)) ** 2
    return float(min(m / (1 + 0.5 / math.sqrt(m * min(p, 1 - p))), n))


def order_statistics(n: int, p: float, level: float = LEVEL) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that bound the p-quantile of n independent values.

    The number of values below the quantile is binomial(n, p); David & Nagaraja, Order Statistics, 7.1.
    A bound that would lie outside the sample is its end.
    """
    from scipy.stats import binom

    tail = (1 - level) / 2
    low, high = int(binom.ppf(tail, n, p)), int(binom.ppf(1 - tail, n, p)) + 1
    return max(low, 1), min(high, n)


def mean(x: Floats, t: Floats | Slices, level: float = LEVEL) -> Estimate:
    """The arithmetic mean with a within-run interval from time slices (ratio estimator).

    With fewer than 400 rows, or a burst, the t interval that takes rows as independent, down to 10 rows.
    """
    n = len(x)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, level, 0, THIN)
    point = float(np.mean(x))
    place = (t if isinstance(t, Slices) else Slices.of(t)).place
    if place is None:
        return mean_estimate(point, float(np.std(x, ddof=1)), n, None, None, level)
    counts = np.bincount(place, minlength=SLICES)
    sums = np.bincount(place, weights=x, minlength=SLICES).astype(np.float64)
    return mean_estimate(point, math.nan, n, sums, counts, level)


def mean_estimate(
    point: float, sd: float, n: int, sums: Floats | None, counts: Floats | Ints | None, level: float = LEVEL
) -> Estimate:
    """A mean with its interval: from sums and counts of slices [slices], or from its standard deviation.

    The latter also where so few rows in a slice, or a burst, say nothing (`slices_carry`).

    That of slices is symmetric on the log scale, for times are positive and skewed. Where it would reach
    further than a fifth the upper end is open, for the tail that makes the mean was met too rarely.
    """
    if n < MIN_SUPPORT:
        return Estimate(point, math.nan, math.nan, level, n, THIN)
    if sums is None or counts is None or not slices_carry(counts):
        half, unit = t_factor(level, n - 1) * sd / math.sqrt(n), INDEPENDENT
        if half >= point > 0:  # times are positive: an interval from below zero says nothing
            return Estimate(point, math.nan, math.nan, level, n, WIDE)
        return Estimate(point, point - half, point + half, level, n, unit)
    se, df = slice_error((sums - point * counts) / counts.mean())
    z = t_factor(level, 1e9)
    m = (point / se * z / t_factor(level, df)) ** 2 if se > 0 and point > 0 else math.inf
    m /= 1 + 0.5 / math.sqrt(m) if math.isfinite(m) else 1
    if not m >= _FEWEST_FOR_MEAN:
        return Estimate(point, math.nan, math.nan, level, n, WIDE)
    half = z / math.sqrt(m)
    high = point * math.exp(half) if m >= _MIN_FOR_MEAN else math.inf
    return Estimate(point, point * math.exp(-half), high, level, n, WITHIN_RUN)


def time_slices(t: Floats, count: int = SLICES, span: tuple[float, float] | None = None) -> Ints:
    """The slice, 0 … count-1, each instant falls in when a span, or its own, is cut into equal lengths."""
    low, high = span or (float(np.min(t)), float(np.max(t)))
    if high <= low:
        return np.zeros(len(t), np.int64)
    return np.clip(((t - low) * (count / (high - low))).astype(np.int64), 0, count - 1)


def slice_error(u: Floats) -> tuple[float, float]:
    """Standard error of the mean of slice deviations u [slices], and its degrees of freedom.

    The lag-1 correlation r between neighbouring slices, corrected for its bias by (1 + 3r)/m and kept in
    [0, 0.95], inflates the variance by f = (1 + r)/(1 - r), at most m - 1; df = m/f - 1.
    """
    m = len(u)
    centred = u - u.mean()
    power = float(centred @ centred)
    r = float(centred[:-1] @ centred[1:]) / power if power > 0 else 0.0
    r = min(max(r + (1 + 3 * r) / m, 0.0), 0.95)
    f = min((1 + r) / (1 - r), m - 1)
    return float(np.std(u, ddof=1)) * math.sqrt(f / m * (m - 1) / (m - f)), max(m / f - 1, 1.0)


def t_factor(level: float, df: float) -> float:
    """The two-sided Student t factor of an interval at `level`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))
