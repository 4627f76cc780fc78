"""Frames behind the figures over time: binned or thinned to a few thousand points at most."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from perfkit import stats
from perfkit.errors import BadInput
from perfkit.frames.rows import small
from perfkit.store.quantiles import outline
from perfkit.store.rows import Part

#: Up to so many rows each call is drawn as a point.
MOST_POINTS = 2000
#: Up to so many rows the extremes of concurrency are looked for at every start and end.
MOST_EXACT = 100_000
#: Beyond, in so many moments of the run.
MOMENTS = 500_000
#: When a request ended; one that never did counts where it was due.
_ENDED = "coalesce(done, planned)"


class _Grid(NamedTuple):
    """Equal cells of time on the run's clock, from `low_ns` on; the last one has its end in it."""

    low_ns: int
    step_ns: int
    cells: int
    begin_ns: int  #: of the measured part

    @property
    def edges_s(self) -> stats.Floats:
        """The edges of the cells in s since the measured part began [cells + 1]."""
        return (self.low_ns - self.begin_ns + self.step_ns * np.arange(self.cells + 1)) / 1e9

    @property
    def step_s(self) -> float:
        """Length of a cell."""
        return self.step_ns / 1e9

    def cut(self, parts: int) -> _Grid:
        """Each cell cut into so many."""
        return self._replace(step_ns=self.step_ns // parts, cells=self.cells * parts)

    def cell(self, instant: str) -> str:
        """SQL of the cell an instant (ns) lies in."""
        return f"greatest(least(({instant} - {self.low_ns}) // {self.step_ns}, {self.cells - 1}), 0)::INTEGER"

    def spread(self, cells: np.ndarray, values: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Values of cells at their places [cells], `empty` elsewhere."""
        found = np.full(self.cells, float(empty))
        found[cells] = values
        return found


@functools.lru_cache(maxsize=4)
def _ends_ns(part: Part) -> tuple[int, int]:
    """From the start of the measured part, or what was due before, to the last end."""
    ends = part.row("SELECT min(planned) AS low, max(planned) AS due, max(done) AS done FROM part")
    low, high = part.window_ns
    last = [ends[name] for name in ("due", "done") if ends[name] is not None]
    return min(low, low if ends["low"] is None else ends["low"]), max([high, *last])


def extent(part: Part) -> tuple[float, float]:
    """The same in s since the measured part began."""
    low, high = ((end - part.window_ns[0]) / 1e9 for end in _ends_ns(part))
    return low, high


def _grid(rows: Part, bins: int, rows_a_bin: int = 0, parts: int = 1) -> _Grid:
    """Cells over the extent of the rows, that can be cut into `parts`; few rows get fewer of them."""
    if bins < 1:
        raise BadInput(f"bins: expected at least 1, got {bins}")
    if rows_a_bin:
        bins = min(bins, max(rows.counts["n"] // rows_a_bin, 8))
    low, high = _ends_ns(rows)
    return _Grid(low, max(-((low - high) // (bins * parts)), 1) * parts, bins, rows.window_ns[0])


def waterfall(rows: Part, most: int = 2000) -> pd.DataFrame:
    """Requests in the order they were due, thinned evenly to `most` but with the slowest kept.

    order, t_s, sent_s, done_s, operation, error. attrs: drawn.
    """
    n = rows.counts["n"]
    drawn = _thinned(rows, n, most) if n > most else _all_in_order(rows)
    frame = drawn.astype({"operation": "category", "error": "category"})
    return small(frame, rows, drawn=len(frame))


_DRAWN = "t_s, sent_s, done_s, operation, error"


def _all_in_order(rows: Part) -> pd.DataFrame:
    frame: pd.DataFrame = rows.query(f"SELECT {_DRAWN} FROM part ORDER BY planned, seq").to_pandas()
    return frame.assign(order=np.arange(len(frame)))


def _thinned(rows: Part, n: int, most: int) -> pd.DataFrame:
    """The slowest tenth of `most`, and rows at even ranks of `planned`; only their cells are sorted."""
    slow = rows.query(
        "SELECT planned, seq, attempt FROM part ORDER BY response_ms DESC NULLS LAST, planned LIMIT $most",
        most=most // 10,
    )
    ranks = np.linspace(0, n - 1, most - len(slow)).astype(np.int64)
    grid = _grid(rows, MOMENTS)
    counts = _counts(rows, grid, "planned")
    upto = np.cumsum(counts)
    cells = np.searchsorted(upto, ranks, "right")
    rows.use("slow", slow)
    rows.use("ranks", pa.table({"g": cells, "within": ranks - (upto[cells] - counts[cells]) + 1}))
    cell = grid.cell("planned")
    drawn: pd.DataFrame = rows.query(
        f"WITH cells AS (SELECT g FROM ranks UNION SELECT {cell} FROM slow),"
        f" ranked AS (SELECT {cell} AS g, planned, seq, attempt, {_DRAWN},"
        " row_number() OVER (PARTITION BY g ORDER BY planned, seq, attempt) AS within"
        " FROM part WHERE g IN (FROM cells))"
        f" SELECT g, within, {_DRAWN} FROM ranked"
        " WHERE (g, within) IN (FROM ranks) OR (planned, seq, attempt) IN (FROM slow) ORDER BY ALL"
    ).to_pandas()
    drawn["order"] = (upto - counts)[drawn.pop("g")] + drawn.pop("within") - 1
    return drawn


def calls(rows: Part, bins: int = 200) -> pd.DataFrame:
    """The latency of every success over its planned time: each call, or with many calls each bin's quantiles.

    With up to `MOST_POINTS` rows: t_s, latency_ms, operation, error. With more: t_s (middle of the bin), n,
    min, p50, p99, max in ms, of all successes of the bin; p50 and p99 to 0.3 %. attrs: drawn ("calls" or
    "bins").
    """
    if rows.counts["n"] <= MOST_POINTS:
        columns = "SELECT t_s, latency_ms, operation, error FROM part"
        each = rows.query(f"{columns} WHERE latency_ms IS NOT NULL ORDER BY planned, seq").to_pandas()
        frame = each.astype({"operation": "category", "error": "category"})
        return small(frame, rows, drawn="calls")
    grid = _grid(rows, bins)
    found = _quantiles(rows, grid, "latency_ms", "ok")
    data: dict[str, Any] = {
        "t_s": grid.edges_s[:-1] + grid.step_s / 2,
        "n": np.nan_to_num(found["n"]).astype(np.int64),
    }
    data |= {name: found[name] for name in ("min", "p50", "p99", "max")}
    return small(data, rows, drawn="bins", bin_s=grid.step_s)


def _quantiles(rows: Part, grid: _Grid, column: str, where: str = "true") -> dict[str, np.ndarray]:
    """n, min, p50, p99, max of a column by planned time, in each cell of `grid` [bins]; NaN for none."""
    values = f"SELECT {grid.cell('planned')} AS g, {column} AS x FROM part WHERE {where} AND x IS NOT NULL"
    found = rows.arrays(outline(values, (0.5, 0.99)))
    cells = found.pop("g")
    return {name: grid.spread(cells, column) for name, column in found.items()}


def over_time(rows: Part, bins: int = 100) -> pd.DataFrame:
    """What ended in each bin: t_s (left edge), ok_per_s, failed_per_s, planned_per_s (what was due)."""
    grid = _grid(rows, bins, rows_a_bin=20)
    due = _counts(rows, grid, "planned")
    ended = rows.arrays(
        f"SELECT {grid.cell(_ENDED)} AS g, count(*) FILTER (NOT failed) AS ok, count(*) FILTER (failed)"
        " AS failed FROM part GROUP BY g"
    )
    data = {"t_s": grid.edges_s[:-1], "planned_per_s": due / grid.step_s}
    for name in ("ok", "failed"):
        data[f"{name}_per_s"] = grid.spread(ended["g"], ended[name], 0) / grid.step_s
    return small(data, rows, bin_s=grid.step_s)


def concurrency(rows: Part, bins: int = 200) -> pd.DataFrame:
    """Requests in flight (sent, not done) per bin: t_s (left), mean, least, most; waiting: due, not sent.

    attrs: moments_s, how far apart the moments are in which least and most were looked for; 0: at every start
    and end.
    """
    parts = max(MOMENTS // bins, 1)
    grid = _grid(rows, bins, parts=parts)
    flying = "sent IS NOT NULL AND done IS NOT NULL"
    if rows.counts["n"] <= MOST_EXACT:
        flown = rows.arrays(f"SELECT sent_s, done_s FROM part WHERE {flying}")
        mean, least, most = stats.concurrency(flown["sent_s"], flown["done_s"], grid.edges_s)
        moments_s = 0.0
    else:
        fine = grid.cut(parts)
        levels = _levels(fine, *(_instants(rows, fine, name, flying) for name in ("sent", "done")))
        level, means = (one.reshape(bins, parts) for one in levels)
        mean, least, most = means.mean(axis=1), level.min(axis=1), level.max(axis=1)
        moments_s = fine.step_s
    left, waits = "coalesce(sent, done)", "coalesce(sent, done) IS NOT NULL"
    _, waiting = _levels(grid, *(_instants(rows, grid, name, waits) for name in ("planned", left)))
    data = {
        "t_s": grid.edges_s[:-1],
        "mean": mean,
        "least": least,
        "most": most,
        "waiting": np.maximum(waiting, 0),
    }
    return small(data, rows, bin_s=grid.step_s, moments_s=moments_s)


def _counts(rows: Part, grid: _Grid, instant: str) -> stats.Ints:
    """How many instants lie in each cell [cells]."""
    found = rows.arrays(f"SELECT {grid.cell(instant)} AS g, count(*) AS n FROM part GROUP BY g")
    return grid.spread(found["g"], found["n"], 0).astype(np.int64)


def _instants(rows: Part, grid: _Grid, instant: str, where: str) -> tuple[stats.Floats, stats.Floats]:
    """How many instants lie in each cell, and how long before its end they do together, ns [cells]."""
    left = f"({grid.low_ns + grid.step_ns} + {grid.step_ns}::BIGINT * g - {instant})::DOUBLE"
    found = rows.arrays(
        f"SELECT {grid.cell(instant)} AS g, count(*) AS n, sum({left}) AS left_ns FROM part"
        f" WHERE {where} GROUP BY g"
    )
    return grid.spread(found["g"], found["n"], 0), grid.spread(found["g"], found["left_ns"], 0)


def _levels(
    grid: _Grid, start: tuple[stats.Floats, stats.Floats], end: tuple[stats.Floats, stats.Floats]
) -> tuple[stats.Ints, stats.Floats]:
    """How many are under way at the left edge of each cell, and on average in it [cells]."""
    rise = start[0] - end[0]
    level = (np.cumsum(rise) - rise).astype(np.int64)
    return level, level + (start[1] - end[1]) / grid.step_ns


def delays(rows: Part, bins: int = 100) -> pd.DataFrame:
    """The generator's own delays per bin: t_s (middle), kickoff_ and queue_ p50, p99, max in ms.

    p50 and p99 to 0.3 %.
    """
    grid = _grid(rows, bins, rows_a_bin=20)
    data: dict[str, Any] = {"t_s": grid.edges_s[:-1] + grid.step_s / 2}
    for name in ("kickoff", "queue"):
        found = _quantiles(rows, grid, f"{name}_ms")
        data |= {f"{name}_{part}": found[part] for part in ("p50", "p99", "max")}
    return small(data, rows, bin_s=grid.step_s)
