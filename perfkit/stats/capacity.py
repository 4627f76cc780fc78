"""Capacity: the Universal Scalability Law fitted to throughput against concurrency, and its knee."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from perfkit.stats.series import Floats
from perfkit.stats.within import t_factor

#: A law that misses a point near the top by more than this says nothing about the knee.
_MOST_MISS = 0.1


@dataclass(frozen=True)
class Scalability:
    """X(N) = γN / (1 + α(N-1) + βN(N-1)), Gunther 1993; with 95 % intervals.

    gamma: throughput of one; alpha: contention; beta: coherency. knee: the N of most throughput, √((1-α)/β),
    with its interval; told is why the knee is not to be believed, empty when it is.
    """

    gamma: float
    alpha: float
    beta: float
    intervals: dict[str, tuple[float, float]]
    knee: float
    knee_interval: tuple[float, float]
    peak: float
    most_measured: float
    told: str

    def __call__(self, n: Floats) -> Floats:
        """Throughput at these concurrencies."""
        return _usl(np.asarray(n, float), self.gamma, self.alpha, self.beta)


def _usl(n: Floats, gamma: float, alpha: float, beta: float) -> Floats:
    return np.asarray(gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1)))


def fit_usl(n: Floats, x: Floats, *, relative: bool = False) -> Scalability:
    """Fit throughput x (per second) measured at concurrencies n, both [points], 4 points or more.

    Least squares from three starts with α, β ≥ 0; `relative` weighs each point by 1/x. The knee's interval is
    by the delta method on its logarithm. ValueError for fewer than 4 different concurrencies.
    """
    from scipy.optimize import curve_fit

    n, x = np.asarray(n, float), np.asarray(x, float)
    if len(np.unique(n)) < 4:
        raise ValueError(
            f"{len(np.unique(n))} different concurrencies; the law has 3 parameters, give 4 or more"
        )
    first = float(np.max(x / n))
    best, error = None, math.inf
    for alpha, beta in ((0.01, 1e-4), (0.1, 1e-3), (0.5, 1e-2)):
        try:
            found, covariance = curve_fit(
                _usl, n, x, p0=(first, alpha, beta), sigma=x if relative else None,
                bounds=((0, 0, 0), (np.inf, 1, np.inf)), max_nfev=20_000,
                x_scale=(max(first, 1e-12), 0.01, 1e-4),
            )  # fmt: skip
        except RuntimeError:
            continue
        left = float(np.sum(((x - _usl(n, *found)) / (x if relative else 1)) ** 2))
        if left < error:
            best, error = (found, covariance), left
    if best is None:
        raise ValueError("the law cannot be fitted to these points")
    return _told(*best, n, x)


def _misfit(law: Scalability, n: Floats, x: Floats) -> str:
    """Why a law does not describe its points near the knee: those with half the most throughput or more."""
    near = x >= 0.5 * x.max()
    miss = np.abs(law(n[near]) / x[near] - 1)
    if miss.max() > _MOST_MISS:
        at = n[near][int(miss.argmax())]
        return f"the law does not describe this server: it misses by {miss.max():.0%} at {at:.3g} in flight"
    return ""


def _told(found: Floats, covariance: Floats, n: Floats, x: Floats) -> Scalability:
    gamma, alpha, beta = (float(one) for one in found)
    factor = t_factor(0.95, max(len(n) - 3, 1))
    se = np.sqrt(np.maximum(np.diag(covariance), 0))
    intervals = {
        name: (max(float(value - factor * s), 0.0), float(value + factor * s))
        for name, value, s in zip(("gamma", "alpha", "beta"), found, se, strict=True)
    }
    most = float(n.max())
    knee, bounds = math.inf, (math.nan, math.inf)
    if beta > 1e-12 and alpha < 1:
        knee = math.sqrt((1 - alpha) / beta)
        slope = np.array([0.0, -0.5 / (1 - alpha), -0.5 / beta])  # of log knee
        half = factor * math.sqrt(max(float(slope @ covariance @ slope), 0.0))
        bounds = (knee * math.exp(-half), knee * math.exp(min(half, 700.0)))
    told = ""
    if not knee <= most:
        told = f"beyond the measured range: the highest load was {most:g}, and the fit puts the knee "
        told += f"at {knee:.3g}" if math.isfinite(knee) else "nowhere"
    elif not (bounds[1] - bounds[0]) < 0.5 * knee:
        told = (
            f"too uncertain: the fit puts it at {knee:.3g}, 95 % interval {bounds[0]:.3g} to {bounds[1]:.3g}"
        )
    peak = float(_usl(np.array([knee]), gamma, alpha, beta)[0]) if math.isfinite(knee) else math.nan
    law = Scalability(gamma, alpha, beta, intervals, knee, bounds, peak, most, told)
    return dataclasses.replace(law, told=_misfit(law, n, x) or told)
