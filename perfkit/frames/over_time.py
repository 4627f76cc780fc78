"""Frames behind the figures over time: binned or thinned to a few thousand points at most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.errors import BadInput
from perfkit.frames.rows import small, succeeded

#: Up to so many rows each call is drawn as a point.
MOST_POINTS = 2000


def _grid(rows: pd.DataFrame, bins: int, rows_a_bin: int = 0) -> stats.Floats:
    """Edges of the bins from the start of the measured part to the last end; few rows get fewer bins."""
    if bins < 1:
        raise BadInput(f"bins: expected at least 1, got {bins}")
    if rows_a_bin:
        bins = min(bins, max(len(rows) // rows_a_bin, 8))
    ends = [rows[name].max() for name in ("t_s", "done_s")] if len(rows) else []
    high = max([rows.attrs["span_s"], *(e for e in ends if e == e)])
    low = min(float(rows["t_s"].min()), 0.0) if len(rows) else 0.0
    return stats.edges(low, high, bins)


def waterfall(rows: pd.DataFrame, most: int = 2000) -> pd.DataFrame:
    """Requests in the order they were due, thinned evenly to `most` but with the slowest kept.

    order, t_s, sent_s, done_s, operation, error. attrs: drawn.
    """
    order = np.argsort(rows["t_s"].to_numpy(), kind="stable")
    n = len(order)
    keep = np.arange(n)
    if n > most:
        slowest = np.argsort(-rows["response_ms"].fillna(0).to_numpy()[order], kind="stable")[: most // 10]
        keep = np.union1d(np.linspace(0, n - 1, most - len(slowest)).astype(np.int64), slowest)
    part = rows.iloc[order[keep]][["t_s", "sent_s", "done_s", "operation", "error"]]
    return small(part.reset_index(drop=True).assign(order=keep), rows, drawn=len(keep))


def calls(rows: pd.DataFrame, bins: int = 200) -> pd.DataFrame:
    """The latency of every success over its planned time: each call, or with many calls each bin's quantiles.

    With up to `MOST_POINTS` rows: t_s, latency_ms, operation, error. With more: t_s (middle of the bin), n,
    min, p50, p99, max in ms, computed on all rows of the bin. attrs: drawn ("calls" or "bins").
    """
    if len(rows) <= MOST_POINTS:
        part = rows[["t_s", "latency_ms", "operation", "error"]].dropna(subset=["latency_ms"])
        return small(part.reset_index(drop=True), rows, drawn="calls")
    good = succeeded(rows, "t_s", "latency_ms")
    grid = _grid(rows, bins)
    counts, values = stats.binned(
        good["t_s"].to_numpy(), good["latency_ms"].to_numpy(), grid, (0, 0.5, 0.99, 1)
    )
    data = {
        "t_s": (grid[:-1] + grid[1:]) / 2,
        "n": counts,
        **dict(zip(("min", "p50", "p99", "max"), values, strict=True)),
    }
    return small(data, rows, drawn="bins", bin_s=float(grid[1] - grid[0]))


def over_time(rows: pd.DataFrame, bins: int = 100) -> pd.DataFrame:
    """What ended in each bin: t_s (left edge), ok_per_s, failed_per_s, planned_per_s (what was due)."""
    grid = _grid(rows, bins, rows_a_bin=20)
    width = grid[1] - grid[0]
    ended = rows["done_s"].fillna(rows["t_s"]).to_numpy()
    good = rows["error"].isna().to_numpy()
    data = {"t_s": grid[:-1], "planned_per_s": np.histogram(rows["t_s"], grid)[0] / width}
    data["ok_per_s"] = np.histogram(ended[good], grid)[0] / width
    data["failed_per_s"] = np.histogram(ended[~good], grid)[0] / width
    return small(data, rows, bin_s=float(width))


def concurrency(rows: pd.DataFrame, bins: int = 200) -> pd.DataFrame:
    """Requests in flight (sent, not done) per bin: t_s (left), mean, least, most; waiting: due, not sent."""
    grid = _grid(rows, bins)
    sent, done, due = (rows[name].to_numpy() for name in ("sent_s", "done_s", "t_s"))
    flying = ~np.isnan(sent) & ~np.isnan(done)
    mean, least, most = stats.concurrency(sent[flying], done[flying], grid)
    left = np.where(np.isnan(sent), done, sent)
    waits = ~np.isnan(left)
    waiting, _, _ = stats.concurrency(due[waits], left[waits], grid)
    data = {"t_s": grid[:-1], "mean": mean, "least": least, "most": most, "waiting": np.maximum(waiting, 0)}
    return small(data, rows, bin_s=float(grid[1] - grid[0]))


def delays(rows: pd.DataFrame, bins: int = 100) -> pd.DataFrame:
    """The generator's own delays per bin: t_s (middle), kickoff_ and queue_ p50, p99, max in ms."""
    grid = _grid(rows, bins, rows_a_bin=20)
    data: dict[str, Any] = {"t_s": (grid[:-1] + grid[1:]) / 2}
    for name in ("kickoff", "queue"):
        known = rows[f"{name}_ms"].notna().to_numpy()
        t, x = rows["t_s"].to_numpy()[known], rows[f"{name}_ms"].to_numpy()[known]
        _, values = stats.binned(t, x, grid, (0.5, 0.99, 1))
        data |= {f"{name}_{part}": value for part, value in zip(("p50", "p99", "max"), values, strict=True)}
    return small(data, rows, bin_s=float(grid[1] - grid[0]))
