"""Is a run steady? Where its warm-up ends, whether it drifts, whether the server fell behind.

Rules over time slices, with the limits that were measured on simulated runs (METHOD.md, "Which runs are
compared"). Everywhere: `x` values, `t` instants, float64 [n], any unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perfkit.stats.series import Floats, mean_level, slice_medians
from perfkit.stats.within import slice_error, time_slices

#: At least so much of a run's time is taken for warm-up; at most half of it can be.
LEAST_CUT, MOST_CUT = 0.1, 0.5
WARN_CUT = 0.3
WARMUP_SLICES = 100
TREND_SLICES = 20
TREND_P = 0.01
#: A drift smaller than this changes no verdict at the usual margin.
DRIFT_SHARE = 0.05
DRIFT_P = 0.001
GROWTH = 1.5


def mser(y: Floats, most: float = MOST_CUT) -> int:
    """How many leading values to leave out so that the standard error of the rest's mean is least.

    MSER (White 1997): the d ≤ `most`·len(y) that minimises Σ(y - mean)² / (len(y) - d)² over y[d:].
    """
    m = len(y)
    n = np.arange(m, 0, -1)
    tail, squares = np.cumsum(y[::-1])[::-1], np.cumsum((y * y)[::-1])[::-1]
    error = (squares - tail * tail / n) / n**2
    return int(np.argmin(error[: int(most * m) + 1]))


def warmup_share(x: Floats, t: Floats) -> float:
    """The share of a run's time to leave out at its beginning: 10 %, or MSER on 100 slice log-medians.

    Slices follow one another by time; those without a request are passed over.
    """
    return warmup_of_medians(slice_medians(x, time_slices(t, WARMUP_SLICES), WARMUP_SLICES))


def warmup_of_medians(medians: Floats) -> float:
    """The same from the medians of its 100 slices, NaN for one without a request: float64 [100]."""
    there = np.flatnonzero(medians > 0)
    if len(there) < 20:
        return LEAST_CUT
    first = mser(np.log(medians[there]))
    return max(LEAST_CUT, float(there[first]) / 100 if first else 0.0)


def mann_kendall(y: Floats) -> float:
    """The two-sided p-value of a monotonic trend (Mann 1945, Kendall 1975); 1 for fewer than 4 values."""
    from scipy.stats import kendalltau

    y = y[~np.isnan(y)]
    if len(y) < 4 or np.ptp(y) == 0:
        return 1.0
    return float(kendalltau(np.arange(len(y)), y).pvalue)


@dataclass(frozen=True)
class Drift:
    """How the last third of a run differs from its first half: a ratio of medians, and its p-value.

    NaN where it could not be checked.
    """

    ratio: float
    p: float

    @property
    def found(self) -> bool:
        """The levels differ by more than would change a verdict, and not by chance: no steady state."""
        return abs(math.log(self.ratio)) > math.log1p(DRIFT_SHARE) and self.p < DRIFT_P


def drift(x: Floats, t: Floats) -> Drift:
    """Whether x drifts over t, or steps: a slice t on 30 log-medians of its first half, 20 of its last third.

    Fewer than 8 values a slice make fewer slices. A slice without any is a gap; where a fifth of either part
    are gaps it is unchecked.
    """
    slices = drift_slices(len(x))
    return drift_of_medians(slice_medians(x, time_slices(t, slices), slices) if slices else np.empty(0))


def drift_slices(n: int) -> int:
    """How many slices n values make for `drift`; 0 for too few."""
    slices = 3 * min(TREND_SLICES, n // 24)
    return slices if slices >= 12 else 0


def drift_of_medians(medians: Floats) -> Drift:
    """`drift` from the medians of its slices, NaN for one without values: float64 [drift_slices(n)]."""
    slices = len(medians)
    there = medians > 0
    parts = [np.flatnonzero(there[: slices // 2]), 2 * slices // 3 + np.flatnonzero(there[2 * slices // 3 :])]
    if slices < 12 or len(parts[0]) < 0.4 * slices or len(parts[1]) < 0.8 / 3 * slices:
        return Drift(math.nan, math.nan)
    first, last = (np.log(medians[part]) for part in parts)
    # the noise around each part's own slope: a slope is what is looked for, not noise
    (se_first, df_first), (se_last, df_last) = (
        slice_error(_without_slope(y, at.astype(float))) for y, at in zip((first, last), parts, strict=True)
    )
    change = float(last.mean() - first.mean())
    p = _t_p(change, math.hypot(se_first, se_last), min(df_first, df_last))
    return Drift(math.exp(change), p)


def _without_slope(y: Floats, x: Floats) -> Floats:
    x = x - x.mean()
    return np.asarray(y - x * float(x @ y) / float(x @ x))


@dataclass(frozen=True)
class Growth:
    """How requests in flight grew over a run, last quarter to first, and how sure that is."""

    ratio: float
    trend_p: float
    slope_p: float

    @property
    def found(self) -> bool:
        """The server fell behind: what was in flight grew all the time."""
        return self.ratio >= GROWTH and self.trend_p < TREND_P and self.slope_p < 0.05


def growth(start: Floats, end: Floats, low: float, high: float) -> Growth:
    """Saturation of an open loop: a trend of the requests in flight on 20 slices, the first 20 % skipped.

    Latencies of such a run tell how long the run was, not how fast the server is.
    """
    # never seen to end: still under way
    return growth_of_levels(mean_level(start, np.where(np.isnan(end), high, end), growth_grid(low, high)))


def growth_grid(low: float, high: float) -> Floats:
    """The ends of the slices of `growth`: float64 [21]."""
    return np.linspace(low + 0.2 * (high - low), high, TREND_SLICES + 1)


def growth_of_levels(level: Floats) -> Growth:
    """`growth` from the mean number of requests in flight in each of its slices: float64 [20]."""
    quarter = TREND_SLICES // 4
    before, after = float(level[:quarter].mean()), float(level[-quarter:].mean())
    ratio = after / before if before > 0 else (math.inf if after > 0 else 1.0)
    return Growth(ratio, mann_kendall(level), newey_west_slope(level))


def newey_west_slope(y: Floats) -> float:
    """p-value of a linear trend whose errors may be autocorrelated (Newey & West 1987, Bartlett kernel)."""
    m = len(y)
    x = np.arange(m) - (m - 1) / 2
    slope = float(x @ y) / float(x @ x)
    u = x * (y - y.mean() - slope * x)
    lags = int(4 * (m / 100) ** (2 / 9)) + 1
    power = float(u @ u)
    for lag in range(1, lags + 1):
        power += 2 * (1 - lag / (lags + 1)) * float(u[lag:] @ u[:-lag])
    se = math.sqrt(max(power, 0.0) * m / (m - 2)) / float(x @ x)
    return _t_p(slope, se, m - 2)


def _t_p(estimate: float, se: float, df: float) -> float:
    """Two-sided p-value of an estimate with its standard error."""
    from scipy.special import stdtr

    if se <= 0:
        return 1.0 if estimate == 0 else 0.0
    return float(2 * stdtr(df, -abs(estimate) / se))


def little(in_flight: float, thinking: float, users: int, n: int) -> tuple[float, float]:
    """Little's law in a closed loop: (mean in flight + mean thinking) / users, and how far off 1 it may be.

    Little 1961: L = λW. Users who are neither waiting for an answer nor thinking were held up by the client,
    or rows are missing. The limit is max(2 %, 4 sd) with the sd of n requests, 0.4/√n, found by simulation.
    """
    return (in_flight + thinking) / users, max(0.02, 4 * 0.4 / math.sqrt(max(n, 1)))
