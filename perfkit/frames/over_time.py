"""Frames behind the figures over time: binned or thinned to a few thousand points at most."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.frames.rows import of_part, small
from perfkit.store.quantiles import outline
from perfkit.store.rows import Part

__all__ = ["calls", "concurrency", "delays", "over_time"]

#: Up to so many rows each call is drawn as a point.
MOST_POINTS = 2000
#: Drawn over time.
QUANTILES_OVER_TIME = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
#: So many successes there are in a bin of time on average, at least.
_A_BIN = 30
#: Up to so many rows the extremes of concurrency are looked for at every start and end.
MOST_EXACT = 100_000
#: Beyond, in so many moments of the run.
MOMENTS = 500_000


class _Grid(NamedTuple):
    """Equal cells of time on the run's clock; the last one has its end in it, and may be shorter."""

    low_ns: int
    high_ns: int
    step_ns: int
    cells: int
    begin_ns: int  #: of the measured part

    @property
    def edges_s(self) -> stats.Floats:
        """The edges of the cells in s since the measured part began [cells + 1]."""
        edges = np.minimum(self.step_ns * np.arange(self.cells + 1), self.high_ns - self.low_ns)
        return np.asarray((self.low_ns - self.begin_ns + edges) / 1e9)

    @property
    def step_s(self) -> float:
        """Length of a cell."""
        return self.step_ns / 1e9

    def cell(self, instant: str) -> str:
        """SQL of the cell an instant (ns) lies in."""
        return f"greatest(least(({instant} - {self.low_ns}) // {self.step_ns}, {self.cells - 1}), 0)::INTEGER"

    def spread(self, cells: np.ndarray, values: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Values of cells at their places [cells], `empty` elsewhere."""
        found = np.full(self.cells, empty, values.dtype if empty == 0 else np.float64)
        found[cells] = values
        return found


@functools.lru_cache(maxsize=4)
def _moments(part: Part) -> _Grid:
    """`MOMENTS` cells from the start of the measured part, or what was due before, to the last end."""
    ends = part.row("SELECT min(planned) AS low, max(planned) AS due, max(done) AS done FROM part")
    begin, high = part.window_ns
    last = [ends[name] for name in ("due", "done") if ends[name] is not None]
    low = min(begin, begin if ends["low"] is None else ends["low"])
    step = max(-((low - max([high, *last])) // MOMENTS), 1)
    return _Grid(low, low + step * MOMENTS, step, MOMENTS, begin)


def extent(part: Part) -> tuple[float, float]:
    """From the start of the measured part, or what was due before, to the last end or a moment later, in s
    since it began."""
    edges_s = _moments(part).edges_s
    return float(edges_s[0]), float(edges_s[-1])


def grid_of(rows: Part, bins: int, rows_a_bin: int = 0) -> _Grid:
    """Cells of so many moments each that there are at most `bins`; few rows get fewer of them."""
    if rows_a_bin:
        bins = min(bins, max(rows.counts["n"] // rows_a_bin, 8))
    fine, each = _moments(rows), -(-MOMENTS // min(bins, MOMENTS))
    return fine._replace(step_ns=fine.step_ns * each, cells=-(-MOMENTS // each))


class _Instants(NamedTuple):
    """How many instants lie in each moment, and how long before its end they do together, ns: [MOMENTS]."""

    n: np.ndarray
    before_ns: np.ndarray

    def __sub__(self, others: _Instants) -> _Instants:
        return _Instants(self.n - others.n, self.before_ns - others.before_ns)


class _Clock(NamedTuple):
    """What happened when: counts [MOMENTS], and how many more are waiting, or in flight, than before."""

    due: np.ndarray
    ok: np.ndarray  #: ended; what never did counts where it was due
    failed: np.ndarray
    waiting: _Instants  #: due, and neither sent nor ended
    flying: _Instants  #: sent and not ended, of those that did both


@functools.lru_cache(maxsize=2)
def _clock(part: Part) -> _Clock:
    """Count what happens when, once for all figures over time."""
    end, flown = "coalesce(done, planned)", "sent IS NOT NULL AND done IS NOT NULL"
    (due,) = _instants(part, "planned", "true")
    left, sent = _instants(part, "coalesce(sent, done)", "true", flown)
    ended, done = _instants(part, end, "true", flown)
    (failed,) = _instants(part, end, "true", where="failed")
    (never,) = _instants(part, end, "true", where="sent IS NULL AND done IS NULL")
    return _Clock(due.n, ended.n - failed.n, failed.n, due - never - left, sent - done)


def _instants(part: Part, instant: str, *which: str, where: str = "true") -> list[_Instants]:
    """When `instant` happened to the requests that are meant, all in SQL; few at once, for memory's sake."""
    fine = _moments(part)
    before = f"({fine.low_ns + fine.step_ns} + {fine.step_ns}::BIGINT * g - {instant})::DOUBLE AS before"
    each = f"SELECT *, {fine.cell(instant)} AS g, {before} FROM part WHERE {instant} IS NOT NULL AND {where}"
    sums = (
        f"count(*) FILTER ({of})::INTEGER AS n{i}, coalesce(sum(before) FILTER ({of}), 0) AS ns{i}"
        for i, of in enumerate(which)
    )
    found = part.arrays(f"SELECT g, {', '.join(sums)} FROM ({each}) GROUP BY g")
    spread = {name: fine.spread(found["g"], found.pop(name), 0) for name in list(found) if name != "g"}
    return [_Instants(spread[f"n{i}"], spread[f"ns{i}"]) for i in range(len(which))]


def _firsts(grid: _Grid) -> np.ndarray:
    """The first moment of each cell [cells]."""
    return np.arange(0, MOMENTS, -(-MOMENTS // grid.cells))


def _level(rise: _Instants, step_ns: int) -> tuple[stats.Floats, stats.Floats]:
    """How many there are at the left edge of each moment, and on average in it [MOMENTS].

    rise: how many come there, less how many go.
    """
    level = np.cumsum(rise.n) - rise.n
    return level, level + rise.before_ns / step_ns


@of_part
def calls(rows: Part, bins: int = 200) -> pd.DataFrame:
    """Return latency over planned time: every success, or quantiles per bin when there are many.

    With up to `MOST_POINTS` rows: t_s, latency_ms, operation, error. With more: t_s (middle of the bin), n,
    min, max in ms, of all successes of the bin, and p50, p90, p99 to 0.3 %. A quantile is that of so many
    bins together that 10 requests lie beyond it; NaN where they do not, or where there are fewer than 3 such
    stretches. attrs: drawn ("calls" or "bins"); bin_s, length of a bin; over_s, of a stretch by quantile.
    """
    if rows.counts["n"] <= MOST_POINTS:
        columns = "SELECT t_s, latency_ms, operation, error FROM part"
        each = rows.query(f"{columns} WHERE latency_ms IS NOT NULL ORDER BY planned, seq").to_pandas()
        frame = each.astype({"operation": "category", "error": "category"})
        return small(frame, rows, drawn="calls")
    ok = rows.counts["n"] - rows.counts["failed"]
    grid = grid_of(rows, min(bins, max(ok // _A_BIN, 8)))
    found = _quantiles(rows, grid, "latency_ms", "ok")
    data: dict[str, Any] = {
        "t_s": grid.edges_s[:-1] + grid.step_s / 2,
        "n": np.nan_to_num(found["n"]).astype(np.int64),
        "min": found["min"],
        "max": found["max"],
    }
    over_s = {}
    for name, p in QUANTILES_OVER_TIME.items():
        least = stats.MIN_SUPPORT / (1 - p)
        together = min(math.ceil(grid.cells * 1.5 * least / max(ok, 1)), grid.cells)
        data[name] = _firm(rows, grid, name, together, least)
        over_s[name] = together * grid.step_s
    return small(data, rows, drawn="bins", bin_s=grid.step_s, over_s=over_s)


def _firm(rows: Part, grid: _Grid, name: str, together: int, least: float) -> stats.Floats:
    """A quantile of so many cells of `grid` together, at each of them [cells]; NaN where it says little."""
    if together > 1 and grid.cells < 3 * together:
        return np.full(grid.cells, np.nan)
    wide = grid._replace(step_ns=together * grid.step_ns, cells=-(-grid.cells // together))
    found = _quantiles(rows, wide, "latency_ms", "ok")
    firm = np.where(np.nan_to_num(found["n"]) >= round(least), found[name], np.nan)
    return np.repeat(firm, together)[: grid.cells]


@functools.lru_cache(maxsize=8)  # of many rows, all quantiles of a figure have the same grid
def _quantiles(rows: Part, grid: _Grid, column: str, where: str = "true") -> dict[str, np.ndarray]:
    """n, min, p50, p90, p99, max of a column by planned time, in each cell of `grid` [bins]; NaN for none."""
    values = f"SELECT {grid.cell('planned')} AS g, {column} AS x FROM part WHERE {where} AND x IS NOT NULL"
    found = rows.arrays(outline(values, tuple(QUANTILES_OVER_TIME.values())))
    cells = found.pop("g")
    return {name: grid.spread(cells, column) for name, column in found.items()}


@of_part
def over_time(rows: Part, bins: int = 100) -> pd.DataFrame:
    """Return throughput per bin: t_s (left edge), ok_per_s, failed_per_s, planned_per_s (by planned time).

    attrs: bin_s; due_s, when requests ceased to be due.
    """
    grid, clock = grid_of(rows, bins, rows_a_bin=20), _clock(rows)
    data = {"t_s": grid.edges_s[:-1]}
    for name, counts in (("planned", clock.due), ("ok", clock.ok), ("failed", clock.failed)):
        data[f"{name}_per_s"] = np.add.reduceat(counts, _firsts(grid)) / np.diff(grid.edges_s)
    last = np.flatnonzero(clock.due)[-1:] + 1  # the moment after
    due_s = _moments(rows).edges_s[last[0]] if len(last) else 0.0
    return small(data, rows, bin_s=grid.step_s, due_s=due_s, clocks=rows.run.meta.clock_doubt)


@of_part
def concurrency(rows: Part, bins: int = 200) -> pd.DataFrame:
    """Return requests in flight per bin: t_s (left), mean, least, most; waiting: planned but not sent.

    attrs: moments_s, how far apart the moments are in which least and most were looked for; 0: at every start
    and end.
    """
    grid, clock, moment_ns = grid_of(rows, bins), _clock(rows), _moments(rows).step_ns
    first = _firsts(grid)
    size = np.diff(first, append=MOMENTS)
    _, waiting = _level(clock.waiting, moment_ns)
    if rows.counts["n"] <= MOST_EXACT:
        flown = rows.arrays("SELECT sent_s, done_s FROM part WHERE sent IS NOT NULL AND done IS NOT NULL")
        mean, least, most = stats.concurrency(flown["sent_s"], flown["done_s"], grid.edges_s)
        moments_s = 0.0
    else:
        level, means = _level(clock.flying, moment_ns)
        mean = np.add.reduceat(means, first) / size
        least, most = (extreme.reduceat(level, first) for extreme in (np.minimum, np.maximum))
        moments_s = moment_ns / 1e9
    data = {
        "t_s": grid.edges_s[:-1],
        "mean": mean,
        "least": least,
        "most": most,
        "waiting": np.maximum(np.add.reduceat(waiting, first) / size, 0),
    }
    return small(data, rows, bin_s=grid.step_s, moments_s=moments_s, clocks=rows.run.meta.clock_doubt)


@of_part
def delays(rows: Part, bins: int = 100) -> pd.DataFrame:
    """Return the generator's delays per bin: t_s (middle); `kickoff_` and `queue_` p50, p99, max in ms.

    p50 and p99 to 0.3 %.
    """
    grid = grid_of(rows, bins, rows_a_bin=20)
    data: dict[str, Any] = {"t_s": grid.edges_s[:-1] + grid.step_s / 2}
    for name in ("kickoff", "queue"):
        found = _quantiles(rows, grid, f"{name}_ms")
        data |= {f"{name}_{part}": found[part] for part in ("p50", "p99", "max")}
    return small(data, rows, bin_s=grid.step_s)
