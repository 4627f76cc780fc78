"""Runs compared: one number per run, on the log scale, and t statistics on those. The run is replicated.

A difference `d` = mean of B - mean of A of log values, so exp(d) is the ratio B ÷ A. No function here takes
a request: tests on requests call noise a difference (Mann–Whitney in 30 to 90 % of comparisons of a server
with itself, METHOD.md).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perfkit.stats.series import Floats
from perfkit.stats.within import t_factor

Method = Literal["paired", "paired, moderated", "pooled", "moderated", "Welch"]


@dataclass(frozen=True)
class History:
    """What earlier runs of the same configuration say of the noise: a variance and its degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Difference:
    """d = log(B ÷ A) with its standard error, the method's name and its degrees of freedom.

    noisier: the history said less noise than these runs show, so it was not used.
    """

    d: float
    se: float
    df: float
    method: Method
    noisier: bool = False

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference."""
        from scipy.special import stdtr

        if self.se <= 0:
            return 1.0 if self.d == 0 else 0.0
        return float(2 * stdtr(self.df, -abs(self.d) / self.se))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval of the ratio B ÷ A."""
        half = t_factor(level, self.df) * self.se
        return ratio_of(self.d - half), ratio_of(self.d + half)

    def at_least(self, se: float) -> Difference:
        """The same with an error of at least `se`: counts of few cannot vary less than they do by chance."""
        return dataclasses.replace(self, se=max(self.se, se))


def ratio_of(d: float) -> float:
    """exp, bounded: an interval may end anywhere, and 1e304 is as good as any of those ends."""
    return math.exp(min(d, 700.0))


def paired(a: Floats, b: Floats, history: History | None = None) -> Difference:
    """A t on the differences of pairs that ran one after the other: what changed slowly falls out.

    a, b: [pairs]. history: of the variance of such differences.
    """
    x = b - a
    variance, df, noisier = _moderated(float(np.var(x, ddof=1)), len(x) - 1, history)
    method: Method = "paired" if history is None or noisier else "paired, moderated"
    return Difference(float(x.mean()), math.sqrt(variance / len(x)), df, method, noisier)


def pooled(a: Floats, b: Floats, history: History | None = None) -> Difference:
    """Student's t with one variance for both groups; a: [runs of A], b: [runs of B].

    With a history its variance is moderated (Smyth 2004): weighted by degrees of freedom with the
    earlier one, unless the runs are noisier than that.
    """
    df = len(a) + len(b) - 2
    squares = float(np.sum((a - a.mean()) ** 2) + np.sum((b - b.mean()) ** 2))
    variance, total, noisier = _moderated(squares / df if df else math.nan, df, history)
    se = math.sqrt(variance * (1 / len(a) + 1 / len(b)))
    method: Method = "pooled" if history is None or noisier else "moderated"
    return Difference(float(b.mean() - a.mean()), se, total, method, noisier)


def _moderated(variance: float, df: float, history: History | None) -> tuple[float, float, bool]:
    """Variance and degrees of freedom with the history taken in; and whether it had to be left out."""
    from scipy.stats import f

    if history is None or history.df <= 0:
        return variance, df, False
    if df == 0:
        return history.variance, history.df, False
    if variance > history.variance * float(f.ppf(0.9, df, history.df)):
        return variance, df, True
    total = df + history.df
    return (df * variance + history.df * history.variance) / total, total, False


def welch(a: Floats, b: Floats) -> Difference:
    """Welch's t (1947): the groups may vary differently, as runs of different lengths do. Three a side."""
    parts = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    total = float(sum(parts))
    down = float(parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    df = total**2 / down if down > 0 else len(a) + len(b) - 2
    return Difference(float(b.mean() - a.mean()), math.sqrt(total), df, "Welch")


def variance_within(groups: Sequence[Floats]) -> History:
    """The variance of one run, pooled over groups of runs of the same thing, and its degrees of freedom."""
    many = [g for g in groups if len(g) > 1]
    df = sum(len(g) - 1 for g in many)
    squares = sum(float(np.sum((g - g.mean()) ** 2)) for g in many)
    return History(squares / df if df else math.nan, df)


# -- several metrics -------------------------------------------------------------------------------


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance of any false alarm in the family stays below the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    found, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[int(i)]))
        found[int(i)] = highest
    return found


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the share of false alarms among what is called found (1995)."""
    from scipy.stats import false_discovery_control

    return [float(one) for one in false_discovery_control(np.asarray(p))] if len(p) else []


MOST_PERMUTATIONS = 5000


def max_t(a: Floats, b: Floats, seed: int = 1) -> list[float]:
    """Adjusted p-values by permuting runs between groups (Westfall & Young 1993); a, b: [runs, metrics].

    Of all metrics' |t| the largest is compared with the largest of each permutation, so that metrics that
    move together cost less than Holm takes. Exact up to 5000 permutations, else that many drawn.
    """
    both, n = np.concatenate([a, b]), len(a)
    count = math.comb(len(both), n)
    if count <= MOST_PERMUTATIONS:
        picks = np.array(list(itertools.combinations(range(len(both)), n)))
    else:
        rng = np.random.default_rng(seed)
        drawn = [np.sort(rng.permutation(len(both))[:n]) for _ in range(MOST_PERMUTATIONS)]
        picks = np.array([np.arange(n), *drawn])
    chosen = np.zeros((len(picks), len(both)), bool)
    np.put_along_axis(chosen, picks, True, axis=1)
    t = _t_of(both, chosen)
    largest = t.max(axis=1)
    return [float(np.mean(largest >= one * (1 - 1e-9))) for one in t[0]]


def _t_of(both: Floats, chosen: np.ndarray) -> Floats:
    """|t| with pooled variance for each choice of the first group: [choices, metrics]."""
    n, m = int(chosen[0].sum()), both.shape[0]
    centred = both - both.mean(axis=0)
    sums = chosen @ centred
    squares = (centred**2).sum(axis=0)
    between = sums**2 * (1 / n + 1 / (m - n))  # the sums of both groups cancel
    within = np.maximum(squares - between, 1e-300)
    return np.asarray(np.sqrt(between / within * (m - 2)))


# -- what could have been found --------------------------------------------------------------------


def detectable(
    se: float, df: float, *, level: float = 0.05, power: float = 0.8, known_df: float = math.inf
) -> float:
    """The smallest change, as a share, that a test with this error finds with this probability.

    From the noncentral t distribution; 0.05 means a change of 5 %. known_df: degrees of freedom of the
    earlier runs that the error is known from, for a test that is still to be made: what is promised has to
    hold on average over how wrong that error may be.
    """
    return ratio_of(_noncentrality(df, level, power, known_df) * se) - 1 if se > 0 else 0.0


#: Equally probable values of an error's square stand for its distribution.
_NODES = 24


@functools.lru_cache(4096)
def _noncentrality(df: float, level: float, power: float, known_df: float) -> float:
    """The d/se that a two-sided t test of `level` finds with probability `power`."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, nct, t

    bound = float(t.ppf(1 - level / 2, df))
    scale = np.ones(1)
    if math.isfinite(known_df):
        scale = np.sqrt(chi2.ppf((np.arange(_NODES) + 0.5) / _NODES, known_df) / known_df)

    def missing(shift: float) -> float:
        seen = 1 - nct.cdf(bound, df, shift * scale)  # NaN far out, where it is certain
        return float(np.where(np.isnan(seen), 1.0, seen).mean()) - power

    return float(brentq(missing, 1e-6, 20 * bound + 80))


def repeats_needed(
    sd: float, margin: float, *, pairs: bool, level: float = 0.05, more_df: float = 0.0, most: int = 1000
) -> int | None:
    """Runs a side until a change of `margin` would be found 8 times of 10; None when beyond `most`.

    sd: of one run on the log scale, or of one pair's difference when `pairs`. more_df: degrees of freedom
    that a history adds.
    """
    if not math.isfinite(sd):
        return None

    def enough(repeats: int) -> bool:
        df = more_df + (repeats - 1 if pairs else 2 * repeats - 2)
        se = sd * math.sqrt((1 if pairs else 2) / repeats)
        return detectable(se, df, level=level) <= margin

    low, high = 2, 3
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# -- one run a side --------------------------------------------------------------------------------


def tipping_point(d: float, half: float, level: float = 0.95) -> float:
    """The run-to-run sd (log scale, a share) below which the difference of one run a side would count.

    half: half the width of the within-run interval of d at `level`. 0: it would not count at all.
    """
    z = t_factor(level, 1e9)
    return math.sqrt(max((d / z) ** 2 - (half / z) ** 2, 0.0) / 2)


def simultaneous_factor(
    a: Floats, b: Floats, *, paired: bool, df: float, level: float = 0.95, seed: int = 1
) -> tuple[float, str]:
    """The factor of a band that holds at all columns of a, b [runs, columns] at once, and how it was found.

    From the largest |t| over permutations of runs between groups (of signs, when paired), where at least 200
    of them exist; else Šidák's t, which takes the columns for independent.
    """
    n, columns = len(a), a.shape[1]
    if paired and 2 ** (n - 1) >= 200:
        d = b - a
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2000, n))
        centred = d - d.mean(axis=0)
        mean = signs @ centred / n
        spread = np.sqrt(np.maximum((centred**2).sum(axis=0) / n - mean**2, 1e-300) / (n - 1))
        return float(
            np.quantile(np.abs(mean / spread).max(axis=1), level)
        ), "largest |t| over changes of sign"
    if not paired and math.comb(n + len(b), n) >= 200:
        both = np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)])
        rng = np.random.default_rng(seed)
        chosen = np.zeros((2000, len(both)), bool)
        for row in chosen:
            row[rng.permutation(len(both))[:n]] = True
        return float(
            np.quantile(_t_of(both, chosen).max(axis=1), level)
        ), "largest |t| over permutations of runs"
    return t_factor(level ** (1 / columns), df), "Šidák's t"


def fisher_p(table: Sequence[tuple[int, int]]) -> float:
    """The two-sided p of Fisher's exact test (1935) on a table of two by two counts."""
    from scipy.stats import fisher_exact

    return float(fisher_exact(np.array(table)).pvalue)
