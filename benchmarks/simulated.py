"""Runs that never happened, in the ways servers behave: for the calibration of comparisons.

Each regime is a function of (rng, n) that returns planned instants (s) and response times (ms), both [n]. All
have a median near 40 ms and about 500 requests a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.signal import lfilter

from perfkit import stats
from perfkit.compare.reduce import OF_LATENCIES, Reduced, Value
from perfkit.store import Metadata, Run
from perfkit.store.reading import SCHEMA
from perfkit.store.summary import TOTAL

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


def cold(made: Made) -> Made:
    """The first tenth of a run half as slow again, and less so from request to request."""
    t, x = made
    return t, x * (1 + 0.5 * np.clip(1 - t / (0.1 * t[-1]), 0, 1))


def stored(
    folder: Path,
    made: Made,
    number: int,
    *,
    good: np.ndarray | None = None,
    load: Mapping[str, Any] | None = None,
    span_s: float | None = None,
) -> Run:
    """A run whose requests were these, each a step; by default all good and of an open model."""
    t, x = made
    n, path = len(t), folder / "runs" / f"20260101-000000-made-{number:04x}"
    path.mkdir(parents=True)
    at = (t * 1e9).astype(np.int64)
    told = dict.fromkeys(("planned", "started", "sending", "sent"), at)
    told |= {"done": at + (x * 1e6).astype(np.int64), "seq": np.arange(n), "step": np.arange(n)}
    columns = {field.name: pa.nulls(n, field.type) for field in SCHEMA}
    columns |= {name: pa.array(values).cast(SCHEMA.field(name).type) for name, values in told.items()}
    for name, value in {"operation": "made", "phase": "measure", "status": 200, "attempt": 1}.items():
        columns[name] = pa.array([value] * n).cast(SCHEMA.field(name).type)
    if good is not None:
        errors = pa.array(np.where(good, None, "http_5xx"), pa.string())
        columns["error"] = errors.cast(SCHEMA.field("error").type)
    pq.write_table(pa.table(columns, SCHEMA), path / "timeline.parquet")
    length_s = span_s or float(t[-1])
    poisson = {"arrivals": {"shape": "poisson", "rate_per_s": RATE_PER_S, "duration_s": n / RATE_PER_S}}
    document = {
        "schema": 2, "id": path.name, "state": "complete", "created": "2026-01-01T00:00:00Z",
        "workload": {"scenario": "made", **(load or poisson)}, "scenario": {"name": "made"},
        "clock": {"monotonic_ns": 0, "unix_ns": 1_767_225_600_000_000_000},
        "measured": {"from_ns": 0, "to_ns": int(length_s * 1e9)}, "health": {"valid": True},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(document))
    return Run(path)


def run_effect(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """How whole runs differ, on the log scale [n]: none, normal 3 %, heavy tails, or a tenth of them bad."""
    if kind == "none":
        return np.zeros(n)
    if kind == "t3":
        return 0.03 / math.sqrt(3) * rng.standard_t(3, n)
    normal = rng.normal(0, 0.03, n)
    return normal + 0.1 * (rng.random(n) < 0.1) if kind == "bad" else normal


def values_of(made: Made, low: float, high: float) -> Iterator[Value]:
    """What `perfkit.compare.reduce` finds of such rows in a file, from arrays (tests/test_steady.py)."""
    t, x = made
    done, (t, x) = t + x / 1000, (one[t >= low] for one in made)
    ended = stats.time_slices(done[(done >= low) & (done <= high)], stats.SLICES, (low, high))
    rate = Value.of_ends(TOTAL, "throughput", np.bincount(ended, minlength=stats.SLICES), high - low, len(t))
    if rate is not None:
        yield rate
    yield Value.of_errors(TOTAL, 0, len(t))
    slices = stats.Slices.of(t, (low, high))
    carried = {
        q: p for q, p in OF_LATENCIES["response_ms"].items() if stats.support(len(x), p) >= stats.MIN_SUPPORT
    }
    found = stats.quantiles(stats.without_ties(x), slices, list(carried.values()))
    for metric, one in zip(carried, found, strict=True):
        yield Value.of(TOTAL, metric, one)
    yield Value.of(TOTAL, "mean", stats.mean(x, slices))


def reduced(made: Made, number: int, cut: float = 0.1) -> Reduced:
    """One made run reduced as perfkit reduces a real one, its first tenth left out."""
    span_s = float(made[0][-1])
    values = tuple(values_of(made, cut * span_s, span_s))
    run: Any = SimpleNamespace(id=f"made-{number}", meta=Metadata.of({"state": "complete"}), path=None)
    return Reduced(run, cut, span_s * (1 - cut), len(made[0]), 0, values, (), ())
