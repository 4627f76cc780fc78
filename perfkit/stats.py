"""Statistics on plain arrays: quantiles with honest intervals, Kaplan–Meier, concurrency, time bins.

Requests of one run are autocorrelated: a slow second makes many slow requests, so an interval that takes
them for independent is too narrow. The intervals here cut the run into 40 time slices and let the slices
say how much the statistic moves. They are **within-run** intervals: they know nothing of what another run
of the same thing would show, and no verdict may rest on them.

Everywhere: `x` are values, float64 [n]; `t` are the instants that order them, float64 [n], any unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLICES = 40
LEVEL = 0.95
#: Fewer rows than this a slice, on average, and the slices say nothing; then rows are taken as independent.
ROWS_A_SLICE = 10
#: A quantile with fewer requests beyond it than this is not shown; than the second, not without warning.
MIN_SUPPORT = 10
GOOD_SUPPORT = 50

WITHIN_RUN = "time slices, within-run"
INDEPENDENT = "requests, taken as independent"
NOTHING = "none"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval at `level`, the rows it rests on and the unit of replication."""

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


# -- intervals -------------------------------------------------------------------------------------


def quantiles(x: Floats, t: Floats, ps: Sequence[float], level: float = LEVEL) -> list[Estimate]:
    """Each p-quantile of x with its interval; the point is exactly numpy's.

    Interval: Woodruff's inversion, Q(p ± t·se), with the standard error of the distribution function taken
    from 40 time slices (`slice_error`); with fewer than 400 rows, or all of them in less than half of the
    slices (a burst), the order-statistic interval that takes rows as independent; with less than
    `MIN_SUPPORT` requests beyond the quantile none (NaN).
    """
    if not len(x):
        return [Estimate(math.nan, math.nan, math.nan, level, 0, NOTHING) for _ in ps]
    points = np.quantile(x, np.asarray(ps))
    place = _slices_of(t)
    bounds = [_bounds(x, place, p, point, level) for p, point in zip(ps, points, strict=True)]
    inside = np.quantile(x, np.clip([q for low, high, _ in bounds for q in (low, high)], 0, 1))
    found = []
    for i, (point, (_, _, unit)) in enumerate(zip(points, bounds, strict=True)):
        lo, hi = (math.nan, math.nan) if unit == NOTHING else inside[2 * i : 2 * i + 2]
        found.append(Estimate(float(point), float(lo), float(hi), level, len(x), unit))
    return found


def _bounds(x: Floats, place: Ints | None, p: float, point: float, level: float) -> tuple[float, float, str]:
    """Probabilities whose quantiles bound the p-quantile, and the unit of replication."""
    n = len(x)
    if support(n, p) < MIN_SUPPORT:
        return p, p, NOTHING
    if place is not None:
        below = np.bincount(place, weights=x <= point, minlength=SLICES)
        counts = np.bincount(place, minlength=SLICES)
        se, df = slice_error((below - p * counts) / counts.mean())
        half = t_factor(level, df) * se
        return max(p - half, 0.0), min(p + half, 1.0), WITHIN_RUN
    low, high = order_statistics(n, p, level)
    return (low - 1) / (n - 1), (high - 1) / (n - 1), INDEPENDENT


def order_statistics(n: int, p: float, level: float = LEVEL) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that bound the p-quantile of n independent values.

    The number of values below the quantile is binomial(n, p); David & Nagaraja, Order Statistics, 7.1.
    A bound that would lie outside the sample is its end.
    """
    from scipy.stats import binom

    tail = (1 - level) / 2
    low, high = int(binom.ppf(tail, n, p)), int(binom.ppf(1 - tail, n, p)) + 1
    return max(low, 1), min(high, n)


def mean(x: Floats, t: Floats, level: float = LEVEL) -> Estimate:
    """The arithmetic mean with a within-run interval from time slices (ratio estimator).

    With fewer than 400 rows, or a burst, the t interval that takes rows as independent, down to 10 rows.
    """
    n = len(x)
    if not n:
        return Estimate(math.nan, math.nan, math.nan, level, 0, NOTHING)
    point = float(np.mean(x))
    if n < MIN_SUPPORT:
        return Estimate(point, math.nan, math.nan, level, n, NOTHING)
    place = _slices_of(t)
    if place is None:
        half = t_factor(level, n - 1) * float(np.std(x, ddof=1)) / math.sqrt(n)
        return Estimate(point, point - half, point + half, level, n, INDEPENDENT)
    counts = np.bincount(place, minlength=SLICES)
    sums = np.bincount(place, weights=x, minlength=SLICES)
    se, df = slice_error((sums - point * counts) / counts.mean())
    half = t_factor(level, df) * se
    return Estimate(point, point - half, point + half, level, n, WITHIN_RUN)


def _slices_of(t: Floats) -> Ints | None:
    """The slice of each row, or None where slices say nothing: few rows, or a burst in few of them."""
    if len(t) < SLICES * ROWS_A_SLICE:
        return None
    place = time_slices(t)
    return place if len(np.unique(place)) >= SLICES // 2 else None


def time_slices(t: Floats, count: int = SLICES) -> Ints:
    """The slice, 0 … count-1, each instant falls in when its span is cut into equal lengths."""
    low, high = float(np.min(t)), float(np.max(t))
    if high <= low:
        return np.zeros(len(t), np.int64)
    return np.minimum(((t - low) * (count / (high - low))).astype(np.int64), count - 1)


def slice_error(u: Floats) -> tuple[float, float]:
    """Standard error of the mean of slice deviations u [slices], and its degrees of freedom.

    The lag-1 correlation r between neighbouring slices, corrected for its bias by (1 + 3r)/m and kept in
    [0, 0.95], inflates the variance by f = (1 + r)/(1 - r); df = m/f - 1.
    """
    m = len(u)
    centred = u - u.mean()
    power = float(centred @ centred)
    r = float(centred[:-1] @ centred[1:]) / power if power > 0 else 0.0
    r = min(max(r + (1 + 3 * r) / m, 0.0), 0.95)
    f = (1 + r) / (1 - r)
    return float(np.std(u, ddof=1)) * math.sqrt(f / m * (m - 1) / (m - f)), max(m / f - 1, 1.0)


def t_factor(level: float, df: float) -> float:
    """The two-sided Student t factor of an interval at `level`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


# -- distribution with censoring -------------------------------------------------------------------


def kaplan_meier(x: Floats, censored: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The distribution function of x where `censored` values are only known to be larger than seen.

    Returns (times, cdf): the distinct values that were not censored, rising, and the share that has ended by
    then (Kaplan & Meier 1958). A value censored at the instant of an event was still at risk in it.
    """
    order = np.argsort(x, kind="stable")
    x, ended = x[order], ~censored[order]
    first = np.flatnonzero(np.diff(x, prepend=-np.inf) > 0)
    if not len(x) or not ended.any():
        return np.empty(0), np.empty(0)
    deaths = np.add.reduceat(ended.astype(np.int64), first)
    at_risk = len(x) - first
    hit = deaths > 0
    survival = np.cumprod(1 - deaths[hit] / at_risk[hit])
    return x[first][hit], np.asarray(1 - survival, np.float64)


# -- time ------------------------------------------------------------------------------------------


def edges(low: float, high: float, bins: int) -> Floats:
    """bins + 1 equally spaced edges; a span of nothing becomes one of a millionth."""
    return np.linspace(low, max(high, low + 1e-6), bins + 1)


def concurrency(start: Floats, end: Floats, grid: Floats) -> tuple[Floats, Ints, Ints]:
    """Mean, least and most intervals [start, end) under way in each cell of `grid` [bins + 1], exactly.

    An instant t has #(start ≤ t) - #(end ≤ t) of them under way; it can only rise at a start and fall at an
    end, so a cell's extremes are found there and at its left edge, and its mean is a difference of sums.
    """
    start, end = np.sort(start), np.sort(end)
    bins = len(grid) - 1
    at_edge = np.searchsorted(start, grid, "right") - np.searchsorted(end, grid, "right")
    after_start = np.arange(1, len(start) + 1) - np.searchsorted(end, start, "right")
    after_end = np.searchsorted(start, end, "right") - np.arange(1, len(end) + 1)
    most, least = at_edge[:-1].copy(), at_edge[:-1].copy()
    cell = np.searchsorted(grid, start, "right") - 1
    inside = (cell >= 0) & (cell < bins)
    np.maximum.at(most, cell[inside], after_start[inside])
    cell = np.searchsorted(grid, end, "right") - 1
    inside = (cell >= 0) & (cell < bins)
    np.minimum.at(least, cell[inside], after_end[inside])
    area = np.diff(_area(start, grid) - _area(end, grid))
    return area / np.diff(grid), least, most


def _area(sorted_instants: Floats, grid: Floats) -> Floats:
    """The sum over instants before each grid point of how long before it they were."""
    sums = np.concatenate([[0.0], np.cumsum(sorted_instants)])
    before = np.searchsorted(sorted_instants, grid, "right")
    return np.asarray(before * grid - sums[before])


def binned(t: Floats, x: Floats, grid: Floats, ps: Sequence[float]) -> tuple[Ints, Floats]:
    """Counts [bins] and p-quantiles [len(ps), bins] of x in each cell of `grid`, numpy's exactly; or NaN.

    The last cell includes its right edge; what lies outside is left out. p = 0 and 1 are the extremes.
    """
    bins = len(grid) - 1
    cell = np.searchsorted(grid, t, "right") - 1
    cell[t == grid[-1]] = bins - 1
    return grouped(cell, x, bins, ps)


def grouped(group: NDArray[Any], x: Floats, groups: int, ps: Sequence[float]) -> tuple[Ints, Floats]:
    """Counts [groups] and p-quantiles [len(ps), groups] of x in each group 0 … groups-1; others left out."""
    inside = (group >= 0) & (group < groups)
    if not inside.all():
        group, x = group[inside], x[inside]
    order = np.argsort(x)
    small = group[order].astype(np.int16 if groups < 2**15 else np.int64)
    ranked = x[order][np.argsort(small, kind="stable")]
    counts = np.bincount(group, minlength=groups)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    result = np.full((len(ps), groups), np.nan)
    there = counts > 0
    for i, p in enumerate(ps):
        at = (counts[there] - 1) * p
        floor = np.floor(at).astype(np.int64)
        left = ranked[first[there] + floor]
        right = ranked[first[there] + np.minimum(floor + 1, counts[there] - 1)]
        share = at - floor
        step = right - left
        # numpy's own way of interpolating, so that the last bit agrees too
        result[i, there] = np.where(share < 0.5, left + step * share, right - step * (1 - share))
    return counts, result
