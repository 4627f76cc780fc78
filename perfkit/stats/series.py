"""Values over time and their distribution: Kaplan–Meier, concurrency, bins, groups, ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# -- distribution with censoring -------------------------------------------------------------------


def kaplan_meier(ended: Ints, censored: Ints) -> Floats:
    """The distribution function at rising values, of how many ended or were last seen at each [values].

    The share that has ended by then (Kaplan & Meier 1958). What was censored at the instant of an end was
    still at risk in it.
    """
    at_risk = np.cumsum((ended + censored)[::-1])[::-1]
    return np.asarray(1 - np.cumprod(1 - ended / at_risk), np.float64)


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


def mean_level(start: Floats, end: Floats, grid: Floats) -> Floats:
    """Mean number of intervals [start, end) under way in each cell of an even `grid` [bins + 1]: [bins].

    What `concurrency` gives, without sorting: for a million requests.
    """
    area = _even_area(start, grid) - _even_area(end, grid)
    return np.asarray(np.diff(area) / np.diff(grid))


def _even_area(instants: Floats, grid: Floats) -> Floats:
    """As `_area`, for instants in any order and a grid of equal steps."""
    bins = len(grid) - 1
    cell = np.clip(np.floor((instants - grid[0]) * (bins / (grid[-1] - grid[0]))) + 1, 0, bins + 1).astype(
        np.int64
    )
    counts = np.bincount(cell, minlength=bins + 2)[: bins + 1]
    sums = np.bincount(cell, weights=instants, minlength=bins + 2)[: bins + 1]
    return np.asarray(grid * np.cumsum(counts) - np.cumsum(sums))


def slice_medians(x: Floats, place: Ints, count: int) -> Floats:
    """The median of x in each slice 0 … count-1 of `place` [count]; NaN where nothing is."""
    order = np.argsort(place.astype(np.int16), kind="stable")  # a radix sort
    ends = np.cumsum(np.bincount(place, minlength=count))
    parts = np.split(x[order], ends[:-1])
    return np.array([np.median(part) if len(part) else np.nan for part in parts])


def without_ties(x: Floats) -> Floats:
    """Values recorded on a coarse clock, spread evenly over the step they were rounded to.

    Where fewer than a tenth of the values are distinct, the k-th of m equal ones moves by
    ((k + ½)/m - ½) of the smallest gap between values; otherwise x itself. A quantile of ties would jump by a
    whole step.
    """
    if len(x) < 100 or len(np.unique(x[:2000])) > 0.1 * min(len(x), 2000):
        return x
    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    if len(values) < 2:
        return x
    step = float(np.diff(values).min())
    order = np.argsort(place, kind="stable")
    first = np.cumsum(counts) - counts
    rank = np.empty(len(x))
    rank[order] = np.arange(len(x)) - np.repeat(first, counts)
    return np.asarray(x + step * ((rank + 0.5) / counts[place] - 0.5))
