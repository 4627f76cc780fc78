"""Runs that never happened, in the ways servers behave: for the calibration of comparisons.

Each regime is a function of (rng, n) that returns planned instants (s) and response times (ms), both [n]. All
have a median near 40 ms and about 500 requests a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.signal import lfilter

from perfkit.compare.measured import Measured
from perfkit.compare.reduce import Reduced, values_of
from perfkit.store import Metadata

RATE_PER_S = 500.0
Made = tuple[np.ndarray, np.ndarray]


def _arrivals(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.cumsum(rng.exponential(1 / RATE_PER_S, n))


def iid(rng: np.random.Generator, n: int) -> Made:
    """Requests that know nothing of each other."""
    return _arrivals(rng, n), 40 * np.exp(rng.normal(0, 0.5, n))


def ar1(rng: np.random.Generator, n: int) -> Made:
    """A load level with a memory of 50 requests."""
    phi = math.exp(-1 / 50)
    start = rng.normal(0, 0.3)
    level, _ = lfilter([1.0], [1.0, -phi], rng.normal(0, 0.3 * math.sqrt(1 - phi * phi), n), zi=[phi * start])
    return _arrivals(rng, n), 40 * np.exp(level + rng.normal(0, 0.35, n))


def queue(rng: np.random.Generator, n: int, rho: float = 0.8) -> Made:
    """One server behind a queue (M/G/1, lognormal service), waiting included, from an empty start."""
    t = _arrivals(rng, n)
    service = rho / RATE_PER_S * np.exp(rng.normal(-0.125, 0.5, n))
    ahead = np.cumsum(service[:-1] - np.diff(t))
    walk = np.concatenate([[0.0], ahead])
    wait = walk - np.minimum(np.minimum.accumulate(walk), 0.0)
    return t, 30 + 1000 * (wait + service)


def stalls(rng: np.random.Generator, n: int) -> Made:
    """Now and then everything stops for a moment; who comes meanwhile waits until it is over."""
    t, x = iid(rng, n)
    for at in np.cumsum(rng.exponential(2.0, int(t[-1]) + 1)):
        length = rng.exponential(0.1)
        inside = (t >= at) & (t < at + length)
        x[inside] += 1000 * (at + length - t[inside])
    return t, x


def ties(rng: np.random.Generator, n: int) -> Made:
    """A clock of 5 ms."""
    t, x = ar1(rng, n)
    return t, np.maximum(np.round(x / 5) * 5, 5)


def two_modes(rng: np.random.Generator, n: int) -> Made:
    """A cache that hits 7 times of 10."""
    t, x = ar1(rng, n)
    return t, np.where(rng.random(n) < 0.7, x, 4 * x)


REGIMES: dict[str, Callable[[np.random.Generator, int], Made]] = {
    one.__name__: one for one in (iid, ar1, queue, stalls, ties, two_modes)
}


def measured(made: Made) -> Measured:
    """As a run's rows."""
    t, x = made
    n = len(t)
    return Measured(
        planned=t, done=t + x / 1000, response_ms=x, ttft_ms=np.full(n, np.nan), good=np.ones(n, bool),
        operation=np.zeros(n, np.int32), names=("made",), step=None, span_s=float(t[-1]),
    )  # fmt: skip


def run_effect(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """How whole runs differ, on the log scale [n]: none, normal 3 %, heavy tails, or a tenth of them bad."""
    if kind == "none":
        return np.zeros(n)
    if kind == "t3":
        return 0.03 / math.sqrt(3) * rng.standard_t(3, n)
    normal = rng.normal(0, 0.03, n)
    return normal + 0.1 * (rng.random(n) < 0.1) if kind == "bad" else normal


def reduced(made: Made, number: int, cut: float = 0.1) -> Reduced:
    """One made run reduced as perfkit reduces a real one, its first tenth left out."""
    rows = measured(made)
    values = tuple(values_of(rows, cut * rows.span_s, rows.span_s))
    run: Any = SimpleNamespace(id=f"made-{number}", meta=Metadata.of({"state": "complete"}), path=None)
    return Reduced(run, cut, rows.span_s * (1 - cut), len(made[0]), 0, values, (), ())
