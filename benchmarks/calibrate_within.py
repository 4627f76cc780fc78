"""Calibration of what one run knows of itself: do its intervals hold the truth, and where is there none?

    .venv/bin/python benchmarks/calibrate_within.py [--runs 400] [--out METHOD.md]

Runs whose truth is known (independent requests, AR(1), M/M/1 in its steady state) go through the statistics
that `show`, reports and comparisons take. An open interval holds what lies above its lower end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from peers.measure import print_table
from scipy.signal import lfilter
from scipy.special import ndtri

from perfkit import stats

SEED = 20261129
SIZES = (500, 1200, 5000, 20_000, 50_000)
REGIMES = ("iid", "AR .9", "AR .99", "AR .999", "M/M/1 .7", "M/M/1 .8", "M/M/1 .9", "M/M/1 .95")
QUANTILES = (0.5, 0.95, 0.99)
NAMES = ("p50", "p95", "p99", "mean", "throughput")
MARKS = ("<!-- within:begin -->", "<!-- within:end -->")


class Cell(NamedTuple):
    """Of the intervals of a cell: hits among those there are; how many are open, or missing."""

    runs: int = 0
    hits: int = 0
    open: int = 0
    missing: int = 0

    def add(self, low: float, high: float, truth: float) -> Cell:
        """One more."""
        if math.isnan(low):
            return self._replace(runs=self.runs + 1, missing=self.missing + 1)
        hit, is_open = low <= truth <= high, math.isinf(high)
        return self._replace(runs=self.runs + 1, hits=self.hits + hit, open=self.open + is_open)

    def words(self) -> str:
        """Coverage of those there are, and the shares of open and missing ones, %."""
        given = self.runs - self.missing
        if not self.runs:
            return ""
        cover = f"{100 * self.hits / given:.0f}" if given else "–"
        return f"{cover} ({100 * self.open / self.runs:.0f}, {100 * self.missing / self.runs:.0f})"


def made(regime: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Instants and response times, both [n]; one arrival a unit of time, in the queue as many as its load."""
    kind, _, given = regime.partition(" ")
    if kind == "M/M/1":
        load = float(given)
        between, service = rng.exponential(1 / load, n), rng.exponential(size=n)
        first = rng.exponential(1 / (1 - load)) if rng.random() < load else 0.0
        walk = np.concatenate([[0.0], np.cumsum(service[:-1] - between[1:])])
        return np.cumsum(between), service + np.maximum(first + walk, walk - np.minimum.accumulate(walk))
    memory = float(given) if kind == "AR" else 0.0
    shocks = rng.normal(size=n) * math.sqrt(1 - memory**2)
    shocks[0] = rng.normal()
    return np.cumsum(rng.exponential(size=n)), np.exp(0.5 * lfilter([1.0], [1.0, -memory], shocks))


def truths(regime: str) -> list[float]:
    """What the intervals are to hold, in the order of NAMES."""
    if regime.startswith("M/M/1"):
        load = float(regime.partition(" ")[2])
        return [*(-math.log(1 - p) / (1 - load) for p in QUANTILES), 1 / (1 - load), load]
    return [*(math.exp(0.5 * ndtri(p)) for p in QUANTILES), math.exp(0.125), 1.0]


def estimates(t: np.ndarray, x: np.ndarray) -> Iterator[tuple[float, float]]:
    """The ends of each interval of a run."""
    slices = stats.Slices.of(t)
    for one in (*stats.quantiles(x, slices, QUANTILES), stats.mean(x, slices)):
        yield one.low, one.high
    place = slices.place if slices.place is not None else stats.time_slices(t)
    counts = np.bincount(place, minlength=stats.SLICES)
    rate = len(t) / (t[-1] - t[0])
    se, df = stats.slice_error(counts / counts.mean() - 1)
    half = stats.t_factor(stats.LEVEL, df) * se
    yield rate * math.exp(-half), rate * math.exp(half)


def measured(cell: tuple[str, int, int]) -> list[Cell]:
    """So many runs of a regime and a size."""
    regime, n, runs = cell
    rng = np.random.default_rng([SEED, REGIMES.index(regime), n])
    found = [Cell() for _ in NAMES]
    for _ in range(runs):
        ends = estimates(*made(regime, n, rng))
        both = zip(found, ends, truths(regime), strict=True)
        found = [one.add(*end, truth) for one, end, truth in both]
    return found


def table(runs: int) -> str:
    """All cells as Markdown."""
    cells = [(regime, n, runs) for regime in REGIMES for n in SIZES]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(cells, pool.map(measured, cells), strict=True))
    lines = [
        f"{runs} runs a cell, seed {SEED}: the share (%) of 95 % intervals that hold the truth, closed and"
        " open ones; in brackets the shares of open and of missing ones.",
    ]
    for i, name in enumerate(NAMES):
        lines += ["", f"| {name} | {' | '.join(f'n {n:,}' for n in SIZES)} |", "|---|" + "---:|" * len(SIZES)]
        for regime in REGIMES:
            row = " | ".join(found[regime, n, runs][i].words() for n in SIZES)
            lines.append(f"| {regime} | {row} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_table(__doc__, table, MARKS, "runs", 400)
