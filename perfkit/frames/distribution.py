"""Frames behind the figures of distributions: counted on all rows, thinned only as lines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.frames.rows import operations, small, succeeded

#: Failures that tell only that a request took longer than seen; the others end it early and are left out.
CENSORED = ("timeout", "cutoff")
#: At most so many operations get a line of their own in a figure.
MOST_OPERATIONS = 8


def histogram(rows: pd.DataFrame, bins: int = 80, column: str = "latency_ms") -> pd.DataFrame:
    """Counts of successes per bin: left, right (ms), count; equal ratios when they span more than 20-fold.

    attrs: log, ok (successes), marks (exact quantiles).
    """
    x = succeeded(rows, column)[column].dropna().to_numpy()
    data, log = counted(x, bins)
    return small(data, rows, log=log, ok=len(x), marks=carried(x))


def counted(x: stats.Floats, bins: int, floor: float = 0.0) -> tuple[pd.DataFrame, bool]:
    """How many of x lie in each bin (left, right, count) and whether the bins are of equal ratio.

    What lies below `floor` is counted in the first bin: times of next to nothing would stretch a ratio scale.
    """
    bins = min(bins, max(int(2 * len(x) ** 0.5), 10))  # few rows fill few bins
    x = np.maximum(x, floor)
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    log = low > 0 and high > 20 * low
    grid = np.geomspace(low, high, bins + 1) if log else stats.edges(low, high, bins)
    grid[0], grid[-1] = min(grid[0], low), max(grid[-1], high)
    counts = np.histogram(x, grid)[0]
    return pd.DataFrame({"left": grid[:-1], "right": grid[1:], "count": counts}), log


def carried(x: stats.Floats) -> dict[str, float]:
    """Those of p50, p95 and p99 that enough requests carry to be shown."""
    ps = [p for p in (0.5, 0.95, 0.99) if stats.support(len(x), p) >= stats.MIN_SUPPORT]
    return {f"p{100 * p:g}": stats.quantile(x, p) for p in ps}


def boxes(rows: pd.DataFrame, by: str = "operation", most: int = 20) -> pd.DataFrame:
    """Exact quantiles of the successes of each group, slowest median first: group, n, min, p5 … p95, max.

    Of more than `most` groups the slowest and the fastest are kept. attrs: groups (how many there are).
    """
    good = succeeded(rows, by, "latency_ms")
    codes, names = pd.factorize(good[by])
    ps = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    counts, values = stats.grouped(codes, good["latency_ms"].to_numpy(), max(len(names), 1), ps)
    frame = pd.DataFrame(dict(zip(("min", "p5", "p25", "p50", "p75", "p95", "max"), values, strict=True)))
    frame.insert(0, "n", counts)
    frame.insert(0, by, [str(name) for name in names] if len(names) else [""])
    frame = frame[frame["n"] > 0].sort_values("p50", ascending=False, kind="stable")
    if len(frame) > most:
        frame = pd.concat([frame.head(most // 2), frame.tail(most - most // 2)])
    return small(frame.reset_index(drop=True), rows, groups=len(names), by=by)


def survival(rows: pd.DataFrame, points: int = 300) -> pd.DataFrame:
    """Share of requests answered well within each latency, per operation, timeouts and cutoffs censored.

    operation, latency_ms, share (Kaplan–Meier on all rows, thinned to `points` a line). Requests that ended
    by another failure never had a latency to wait for and are left out. attrs: censored, excluded.
    """
    late = rows["error"].isin(CENSORED).to_numpy()
    other = rows["error"].notna().to_numpy() & ~late
    known = rows["latency_ms"].fillna(rows["response_ms"]).to_numpy()
    parts = []
    for name in operations(rows)[:MOST_OPERATIONS]:
        pick = (rows["operation"] == name).to_numpy() & ~other & ~np.isnan(known)
        x, share = stats.kaplan_meier(known[pick], late[pick])
        keep = _thin(share, points)
        parts.append(pd.DataFrame({"operation": name, "latency_ms": x[keep], "share": share[keep]}))
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["operation", "latency_ms", "share"])
    return small(data, rows, censored=int(late.sum()), excluded=int(other.sum()), **_hidden(rows))


def _thin(share: stats.Floats, points: int) -> stats.Ints:
    """Places of at most about `points` steps: evenly by share, finer towards the end, ends kept."""
    if len(share) <= points:
        return np.arange(len(share))
    tail = 1 - np.geomspace(0.5, max(1 - share[-1], 1e-7), points // 2)
    wanted = np.concatenate([np.linspace(0, 1, points // 2), tail])
    return np.unique(
        np.concatenate([[0, len(share) - 1], np.minimum(np.searchsorted(share, wanted), len(share) - 1)])
    )


def percentiles(rows: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """Latency at each percentile, per operation: operation, p, latency_ms, firm (10 or more beyond)."""
    good = succeeded(rows, "operation", "latency_ms")
    parts = []
    for name in operations(good)[:MOST_OPERATIONS]:
        x = good["latency_ms"].to_numpy()[(good["operation"] == name).to_numpy()]
        p = 1 - np.geomspace(1, max(1 / len(x), 1e-6), points)
        firm = len(x) * (1 - p) >= stats.MIN_SUPPORT
        parts.append(pd.DataFrame({"operation": name, "p": p, "latency_ms": np.quantile(x, p), "firm": firm}))
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["operation", "p", "latency_ms", "firm"])
    return small(data, rows, **_hidden(rows))


def _hidden(rows: pd.DataFrame) -> dict[str, int]:
    return {"hidden_operations": max(len(operations(rows)) - MOST_OPERATIONS, 0)}
