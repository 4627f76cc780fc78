"""Change points in a metric over many runs: where a series shifts, against autocorrelated noise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from perfkit.stats.series import Floats

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
    """Shifts of the mean of y [runs], log scale, in order; by binary segmentation.

    The largest |t| of a split of a segment is compared with those of `draws` simulated AR(1) series that have
    the segment's own autocorrelation (a parametric bootstrap), so that slow noise is no change. Shifts below
    `floor` (log scale) are not told. A change point is a question for a comparison, not a verdict.
    """
    rng = np.random.default_rng(seed)
    found: list[ChangePoint] = []
    waiting = [(0, len(y))]
    while waiting:
        low, high = waiting.pop()
        one = _split(y[low:high], rng, draws)
        if one is None or one.p > level:
            continue
        at = low + one.at
        waiting += [(low, at), (at, high)]
        found.append(ChangePoint(at, one.ratio, one.p))
    found.sort(key=lambda change: change.at)
    # a ratio is that of the levels on both sides, which other changes must not blur
    edges = [0, *(one.at for one in found), len(y)]
    levels = [float(y[low:high].mean()) for low, high in itertools.pairwise(edges)]
    steps = np.diff(levels)
    told = [ChangePoint(one.at, math.exp(step), one.p) for one, step in zip(found, steps, strict=True)]
    return [one for one in told if abs(math.log(one.ratio)) >= floor]


def detectable_shift(y: Floats, *, level: float = 0.01, power: float = 0.8, seed: int = 1) -> float:
    """The lasting shift in the middle of a series [runs] that would be told so often, a share; NaN below 8.

    From the noise around the changes that were found, and the largest |t| of series with its memory.
    """
    m = len(y)
    if m < 2 * SHORTEST + 2 or np.ptp(y) == 0:
        return math.nan
    edges = [0, *(one.at for one in change_points(y, level=level, seed=seed)), m]
    rest = np.concatenate([y[low:high] - y[low:high].mean() for low, high in itertools.pairwise(edges)])
    made = _ar1(np.random.default_rng(seed), 999, m, _memory(y))
    t = _split_t(made)
    bound = float(np.quantile(t.max(axis=1), 1 - level))
    middle = np.abs(t[:, m // 2 - SHORTEST])  # how far a shift's own t scatters around where it belongs
    scatter = float(np.sqrt(np.mean(middle**2)))
    sd = float(np.sqrt(np.sum(rest**2) / max(m - len(edges) + 1, 1)))
    return math.exp((bound + 0.84 * scatter) * sd * math.sqrt(4 / m)) - 1


def _split(y: Floats, rng: np.random.Generator, draws: int) -> ChangePoint | None:
    m = len(y)
    if m < 2 * SHORTEST + 2 or np.ptp(y) == 0:
        return None
    t = _split_t(y[None, :])[0]
    at = int(np.argmax(t))
    k = at + SHORTEST
    before, after = y[:k], y[k:]
    r = _memory(y)
    made = _ar1(rng, draws, m, r)
    largest = _split_t(made).max(axis=1)
    p = (1 + int(np.sum(largest >= t[at]))) / (draws + 1)
    return ChangePoint(k, math.exp(float(after.mean() - before.mean())), p)


def _memory(y: Floats) -> float:
    """The lag-1 autocorrelation of the noise around a level that may shift a few times, in [0, 0.9].

    From differences, which hardly see a shift: E(y_t - y_(t-2))² ÷ E(y_t - y_(t-1))² = 1 + r of an AR(1). The
    largest tenth of each, where shifts are, is left out.
    """
    squares = [np.sort((y[lag:] - y[:-lag]) ** 2) for lag in (1, 2)]
    one, two = (float(d[: max(int(0.9 * len(d)), 1)].mean()) for d in squares)
    return min(max(two / one - 1, 0.0), 0.9) if one > 0 else 0.0


def _split_t(y: Floats) -> Floats:
    """|t| of each split of each series: [series, splits], a split after SHORTEST … m - SHORTEST values."""
    m = y.shape[1]
    k = np.arange(SHORTEST, m - SHORTEST + 1)
    centred = y - y.mean(axis=1, keepdims=True)
    sums = np.cumsum(centred, axis=1)[:, k - 1]
    between = sums**2 * (m / (k * (m - k)))
    within = np.maximum((centred**2).sum(axis=1, keepdims=True) - between, 1e-300)
    return np.asarray(np.sqrt(between / within * (m - 2)))


def _ar1(rng: np.random.Generator, series: int, m: int, r: float) -> Floats:
    from scipy.signal import lfilter

    shocks = rng.normal(size=(series, m)) * math.sqrt(1 - r * r)
    shocks[:, 0] = rng.normal(size=series)
    return np.asarray(lfilter([1.0], [1.0, -r], shocks, axis=1))
