"""Change points in a metric over many runs: where a series shifts, against autocorrelated noise."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfkit.stats.series import Floats, Ints

#: A segment has at least so many runs.
SHORTEST = 3


@dataclass(frozen=True)
class ChangePoint:
    """The first run of the new level, the ratio new ÷ old on the log scale's exp, and its p-value."""

    at: int
    ratio: float
    p: float


def change_points(
    y: Floats, *, level: float = 0.01, floor: float = 0.0, seed: int = 1, draws: int = 999
) -> list[ChangePoint]:
    """Shifts of the mean of y [runs], log scale, in order; by circular binary segmentation.

    A stretch of runs, at an end or inside, is told from the rest of its segment (Olshen, Venkatraman, Lucito
    & Wigler 2004), so that a level that goes away again is found too. The largest |t| is compared with those
    of `draws` simulated AR(1) series that have the segment's own autocorrelation (a parametric bootstrap), so
    that slow noise is no change. Shifts below `floor` (log scale) are not told. A change point is a question
    for a comparison, not a verdict.
    """
    rng = np.random.default_rng(seed)
    found: dict[int, float] = {}
    waiting = [(0, len(y))]
    while waiting:
        low, high = waiting.pop()
        begin, end, p = _stretch(y[low:high], rng, draws)
        if p > level:
            continue
        edges = sorted({low, low + begin, low + end, high})
        waiting += itertools.pairwise(edges)
        found |= dict.fromkeys(edges[1:-1], p)
    if not found:
        return []
    # a ratio is that of the levels on both sides, which other changes must not blur
    places = sorted(found)
    levels = [float(y[low:high].mean()) for low, high in itertools.pairwise([0, *places, len(y)])]
    steps = np.diff(levels)
    told = [ChangePoint(at, math.exp(step), found[at]) for at, step in zip(places, steps, strict=True)]
    return [one for one in told if abs(math.log(one.ratio)) >= floor]


def drifted(y: Floats, places: Sequence[int]) -> float:
    """The ratio last ÷ first of a slow drift of y [runs], log scale, where a line describes it better than
    the levels between the change points at `places` (by BIC; Schwarz 1978); NaN where it does not."""
    m = len(y)
    if not places or m < 2 * SHORTEST + 2:
        return math.nan
    x = np.arange(m) - (m - 1) / 2
    slope = float(x @ y) / float(x @ x)
    line = float(np.sum((y - y.mean() - slope * x) ** 2))
    edges = itertools.pairwise([0, *places, m])
    steps = sum(float(np.sum((y[low:high] - y[low:high].mean()) ** 2)) for low, high in edges)
    if line <= 0:
        return math.exp(slope * (m - 1))
    better = m * math.log(line / max(steps, 1e-300)) < (2 * len(places) - 1) * math.log(m)
    return math.exp(slope * (m - 1)) if better else math.nan


def detectable_shift(y: Floats, *, level: float = 0.01, power: float = 0.8, seed: int = 1) -> float:
    """The lasting shift in the middle of a series [runs] that would be told so often, a share; NaN below 15.

    By simulation: of series with the memory and the noise of this one, and on average over how wrong the
    noise may be that so few runs show.
    """
    m = len(y)
    if m < _ENOUGH or np.ptp(y) == 0:
        return math.nan
    edges = [0, *(one.at for one in change_points(y, level=level, seed=seed)), m]
    rest = np.concatenate([y[low:high] - y[low:high].mean() for low, high in itertools.pairwise(edges)])
    df = max(m - len(edges) + 1, 1)
    sd = float(np.sqrt(np.sum(rest**2) / df))
    rng = np.random.default_rng(seed)
    made = _ar1(rng, _TRIED, m, _memory(y))
    size = np.sqrt(rng.chisquare(df, _TRIED) / df)[:, None] * (np.arange(m) >= m // 2)
    memories, bounds = _bounds(m, level)
    low, high = 0.0, 64.0
    for _ in range(14):
        middle = (low + high) / 2
        tried = made + middle * size
        bound = np.interp([_memory(one) for one in tried], memories, bounds)
        seen = float(np.mean(_stretch_t(tried).max(axis=1) >= bound))
        low, high = (low, middle) if seen >= power else (middle, high)
    return math.exp(high * sd) - 1


@functools.lru_cache(8)
def _bounds(m: int, level: float) -> tuple[Floats, Floats]:
    """The |t| that a share `level` of series of noise reaches, for memories of it."""
    rng, memories = np.random.default_rng(m), np.linspace(0, 0.9, 7)
    found = [np.quantile(_stretch_t(_ar1(rng, 999, m, r)).max(axis=1), 1 - level) for r in memories]
    return memories, np.array(found)


#: Fewer runs do not know their own noise well enough for a promise.
_ENOUGH = 15
#: Series that are simulated for what would be told.
_TRIED = 400


def _stretch(y: Floats, rng: np.random.Generator, draws: int) -> tuple[int, int, float]:
    """The stretch [begin, end) of a segment that differs most from its rest, and its p-value."""
    m = len(y)
    if m < 2 * SHORTEST + 2 or np.ptp(y) == 0:
        return 0, m, 1.0
    t = _stretch_t(y[None, :])[0]
    at = int(np.argmax(t))
    begins, ends = _stretches(m)
    largest = _stretch_t(_ar1(rng, draws, m, _memory(y))).max(axis=1)
    return int(begins[at]), int(ends[at]), (1 + int(np.sum(largest >= t[at]))) / (draws + 1)


def _memory(y: Floats) -> float:
    """The lag-1 autocorrelation of the noise around a level that may shift a few times, in [0, 0.9].

    From differences, which hardly see a shift: E(y_t - y_(t-2))² ÷ E(y_t - y_(t-1))² = 1 + r of an AR(1). The
    largest tenth of each, where shifts are, is left out. Half a standard error is added: who takes slow noise
    for fast sees shifts in it.
    """
    squares = [np.sort((y[lag:] - y[:-lag]) ** 2) for lag in (1, 2)]
    one, two = (float(d[: max(int(0.9 * len(d)), 1)].mean()) for d in squares)
    return min(max(two / one - 1, 0.0) + 0.5 / math.sqrt(len(y)), 0.9) if one > 0 else 0.0


@functools.lru_cache(16)
def _stretches(m: int) -> tuple[Ints, Ints]:
    """Where stretches of m runs begin and end; each, and its rest, has SHORTEST runs or more. Of many runs
    their ends lie on a coarser grid: at most some 2,000 stretches are looked at."""
    step = max(1, round(m / 60))
    grid = np.unique([0, *range(SHORTEST, m - SHORTEST + 1, step), m])
    begins, ends = (one.ravel() for one in np.meshgrid(grid, grid, indexing="ij"))
    length = ends - begins
    good = (length >= SHORTEST) & (m - length >= SHORTEST)
    whole = np.arange(SHORTEST, m - SHORTEST + 1)  # every split
    begins, ends = np.concatenate([begins[good], 0 * whole]), np.concatenate([ends[good], whole])
    return begins.astype(np.int64), ends.astype(np.int64)


def _stretch_t(y: Floats) -> Floats:
    """|t| of each stretch of each series against its rest: [series, stretches]."""
    m = y.shape[1]
    begins, ends = _stretches(m)
    k = ends - begins
    centred = y - y.mean(axis=1, keepdims=True)
    sums = np.concatenate([np.zeros((len(y), 1)), np.cumsum(centred, axis=1)], axis=1)
    between = (sums[:, ends] - sums[:, begins]) ** 2 * (m / (k * (m - k)))
    within = np.maximum((centred**2).sum(axis=1, keepdims=True) - between, 1e-300)
    return np.asarray(np.sqrt(between / within * (m - 2)))


def _ar1(rng: np.random.Generator, series: int, m: int, r: float) -> Floats:
    from scipy.signal import lfilter

    shocks = rng.normal(size=(series, m)) * math.sqrt(1 - r * r)
    shocks[:, 0] = rng.normal(size=series)
    return np.asarray(lfilter([1.0], [1.0, -r], shocks, axis=1))
