"""Frames behind the figures of distributions: counted on all rows, thinned only as lines."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.errors import unknown
from perfkit.frames.rows import of_part, small
from perfkit.frames.tables import operations
from perfkit.store.quantiles import BIN, Binned, counted, middles, outline
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, numbers_of

__all__ = ["boxes", "histogram", "percentiles", "survival", "user_column"]

#: At most so many operations get a line of their own in a figure.
MOST_OPERATIONS = 8
#: And so many a histogram.
MOST_HISTOGRAMS = 12
#: So many of the slowest requests of each operation are drawn exactly; those below from bins.
MOST_EXACT = 20_000


@of_part
def histogram(rows: Part, bins: int = 80) -> pd.DataFrame:
    """Return the histogram of successes by operation: operation, left, right (ms), count, over the same bins.

    Log bins when they span more than 20-fold. The most frequent `MOST_HISTOGRAMS` operations. attrs: log, ok
    (successes), marks (exact quantiles by operation).
    """
    names, _, binned = counted(rows)
    grid, log = bin_edges(binned, bins)
    shown = [g for g in range(len(names)) if binned.n(g)][:MOST_HISTOGRAMS]
    inner = np.nextafter(grid[1:-1], -np.inf).tolist()
    found = rows.query(
        "SELECT g, map_values(histogram(latency_ms, $inner)) AS n FROM part JOIN operations USING (operation)"
        " WHERE ok AND latency_ms IS NOT NULL GROUP BY g",
        inner=inner,
    ).to_pylist()
    counts = {one["g"]: one["n"] for one in found}
    parts = [_bars(grid, counts[g]).assign(operation=names[g]) for g in shown]
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["left", "right", "count", "operation"])
    marks = {names[g]: carried(binned, g) for g in shown}
    hidden = sum(binned.n(g) > 0 for g in range(len(names))) - len(shown)
    return small(data, rows, log=log, ok=binned.n(), marks=marks, hidden_operations=hidden)


def bars(
    part: Part, values: str, binned: Binned, bins: int, floor: float | None = None
) -> tuple[pd.DataFrame, bool]:
    """Return the count of x per bin (left, right, count) and whether the bins are logarithmic.

    values: SQL over the part that gives x, not null; binned: the same values. What lies below `floor` is
    counted in the first bin: times close to zero would stretch a log scale.
    """
    grid, log = bin_edges(binned, bins, floor)
    inner = np.nextafter(grid[1:-1], -np.inf).tolist()
    found = part.row(f"SELECT map_values(histogram(x, $inner)) AS n FROM ({values})", inner=inner)["n"]
    return _bars(grid, found), log


def bin_edges(binned: Binned, bins: int, floor: float | None = None) -> tuple[stats.Floats, bool]:
    """Return the edges of a histogram [at most bins + 1], and whether they are logarithmic."""
    n = binned.n()
    bins = min(bins, max(int(2 * n**0.5), 10))  # few rows fill few bins
    low, high = binned.quantiles([(None, 0.0), (None, 1.0)]) if n else (0.0, 1.0)
    if floor is not None:
        low, high = max(low, floor), max(high, floor)
    if high <= 1.001 * low:  # of one value, or nearly: ticks that differ
        low, high = 0.995 * low, 1.005 * high
    log = low > 0 and high > 20 * low
    grid = np.geomspace(low, high, bins + 1) if log else stats.edges(low, high, bins)
    grid[0], grid[-1] = min(grid[0], low), max(grid[-1], high)
    return grid, log


def _bars(grid: stats.Floats, found: list[int] | None) -> pd.DataFrame:
    """Bars from DuckDB's histogram over the inner edges."""
    count = np.zeros(len(grid) - 1, np.int64)
    count[: len(found or ())] = found or ()  # without the last one where nothing lies beyond
    return pd.DataFrame({"left": grid[:-1], "right": grid[1:], "count": count})


def carried(binned: Binned, group: int | None = None) -> dict[str, float]:
    """Those of p50, p95 and p99, of a group or of all, that enough requests carry to be shown."""
    ps = [p for p in (0.5, 0.95, 0.99) if stats.support(binned.n(group), p) >= stats.MIN_SUPPORT]
    found = binned.quantiles([(group, p) for p in ps])
    return {f"p{100 * p:g}": x for p, x in zip(ps, found, strict=True)}


# -- boxes -----------------------------------------------------------------------------------------

_BOX = {"min": 0.0, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
#: SQL of the latencies of successes, x, of groups g.
_GOOD = "SELECT {g} AS g, latency_ms AS x FROM part WHERE ok AND latency_ms IS NOT NULL"
#: The same for groups of which there may be many.
_OUTLINED = {
    "user": _GOOD.format(g="coalesce(user, 0)::INTEGER"),
    "group": f"""{_GOOD.format(g='"group"')} AND "group" IS NOT NULL""",
}


def user_column(rows: Part) -> str:
    """Return what tells users apart in `boxes`: `group` where the scenario set some, `user` in a closed loop.

    Empty otherwise: the users of an open model are a pool of whoever is free, and nobody in particular.
    """
    grouped = rows.row('SELECT count(*) > 0 AS found FROM (FROM part WHERE "group" IS NOT NULL LIMIT 1)')
    return "group" if grouped["found"] else "user" if rows.run.meta.closed else ""


@of_part
def boxes(rows: Part, by: str = "operation", most: int = 20) -> pd.DataFrame:
    """Return box-plot numbers, slowest median first: what `by` names, n, min, p5, p25, p50, p75, p95, max.

    by: `operation`, `user` (the virtual user), or `group` (as the scenario set it; requests without one are
    left out). Of more than `most` boxes the slowest and the fastest are kept. Quantiles by operation are
    exact, others to 0.3 %. Without a name in `by` there are none. attrs: groups (how many there are).
    """
    if not isinstance(by, str) or by not in ("", "operation", *_OUTLINED):
        raise unknown("by", by, ("operation", *_OUTLINED))
    if not by:
        frame = pd.DataFrame(columns=["", "n", *_BOX])
    elif by == "operation":
        names, _, binned = counted(rows)
        there = [g for g in range(len(names)) if binned.n(g)]
        found = np.reshape(binned.quantiles([(g, p) for g in there for p in _BOX.values()]), (-1, len(_BOX)))
        frame = pd.DataFrame(found, columns=list(_BOX))
        frame.insert(0, "n", [binned.n(g) for g in there])
        frame.insert(0, by, [names[g] for g in there])
    else:
        ps = [p for p in _BOX.values() if 0 < p < 1]
        frame = rows.query(outline(_OUTLINED[by], ps)).to_pandas()
        frame = frame.sort_values("g").rename(columns={"g": by}).astype({by: str})[[by, "n", *_BOX]]
    groups = len(frame)
    frame = frame.sort_values("p50", ascending=False, kind="stable")
    if groups > most:
        frame = pd.concat([frame.head(most // 2), frame.tail(most - most // 2)])
    return small(frame.reset_index(drop=True), rows, groups=groups, by=by)


# -- distribution functions ------------------------------------------------------------------------


class _Outline(NamedTuple):
    """The latencies of an operation, rising; how many requests ended at each, how many were last seen."""

    x: stats.Floats
    ended: stats.Ints
    late: stats.Ints


@functools.lru_cache(maxsize=4)
def _outlines(part: Part) -> dict[str, _Outline]:
    """The latencies of the most frequent operations: bins of 0.14 %, the slowest `MOST_EXACT` as they are."""
    names, _, binned = counted(part)
    names = names[:MOST_OPERATIONS]
    values = (
        "SELECT g, coalesce(latency_ms, response_ms) AS x, censored AS late FROM part JOIN operations"
        f" USING (operation) WHERE g < {len(names)} AND (censored OR ok AND latency_ms IS NOT NULL)"
    )
    known = f"SELECT *, {BIN} AS bin FROM ({values}) WHERE x IS NOT NULL"
    late = {name: np.empty(0, np.int64) for name in ("g", "bin", "n")}
    if numbers_of(part)["censored"]:
        late = part.arrays(f"SELECT g, bin, count(*) AS n FROM ({known}) WHERE late GROUP BY ALL")
    counts = [_counts(binned, g, late) for g in range(len(names))]
    tails = [_tail(bins, ended + late) for bins, ended, late in counts]
    part.use("tails", g=("INTEGER", range(len(names))), first=("INTEGER", tails))
    least = middles(np.array([min(tails, default=1) - 1]))[0]  # most rows need not be looked up
    exact = part.arrays(
        "SELECT g, x, count(*) FILTER (NOT late) AS ended, count(*) FILTER (late) AS late"
        f" FROM ({known} AND x >= {float(least)!r}::DOUBLE) JOIN tails USING (g) WHERE bin >= first"
        " GROUP BY g, x ORDER BY g, x"
    )
    found = {}
    for g, (name, (bins, *below)) in enumerate(zip(names, counts, strict=True)):
        body, tail = bins < tails[g], exact["g"] == g
        columns = zip((middles(bins), *below), ("x", "ended", "late"), strict=True)
        found[name] = _Outline(*(np.concatenate([of[body], exact[column][tail]]) for of, column in columns))
    return found


def _counts(binned: Binned, g: int, late: dict[str, np.ndarray]) -> tuple[stats.Ints, stats.Ints, stats.Ints]:
    """Bins of an operation, rising, and how many requests ended or only waited in each."""
    bins, upto = binned.cumulated(g)
    mine = late["g"] == g
    every = np.union1d(bins, late["bin"][mine])
    counts = np.zeros((2, len(every)), np.int64)
    counts[0, np.searchsorted(every, bins)] = np.diff(upto, prepend=0)
    counts[1, np.searchsorted(every, late["bin"][mine])] = late["n"][mine]
    return every, counts[0], counts[1]


def _tail(bins: stats.Ints, counts: stats.Ints) -> int:
    """The first of the last bins that together hold no more than `MOST_EXACT`."""
    beyond = np.cumsum(counts[::-1])[::-1]
    exact = bins[beyond <= MOST_EXACT]
    return int(exact[0]) if len(exact) else int(bins[-1]) + 1 if len(bins) else 0


@of_part
def survival(rows: Part, points: int = 300) -> pd.DataFrame:
    """Return the share of requests answered within each latency, per operation; timeouts are censored.

    operation, latency_ms, share (Kaplan–Meier on all rows, thinned to `points` a line; latencies to 0.07 %,
    of the slowest 20,000 of an operation exact). Requests that failed in another way have no latency
    and are excluded; cutoffs are censored, too. attrs: censored, excluded, unanswered (operations
    without a success, which have no line), exact (whether no line is drawn from bins).
    """
    parts, outlines = [], _outlines(rows)
    for name, (x, ended, late) in outlines.items():
        share = stats.kaplan_meier(ended, late)
        hit = ended > 0
        x, share = x[hit], share[hit]
        keep = _thin(share, points)
        parts.append(pd.DataFrame({"operation": name, "latency_ms": x[keep], "share": share[keep]}))
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["operation", "latency_ms", "share"])
    told = numbers_of(rows)
    excluded = told["failed"] - told["censored"]
    unanswered = [name for name, one in outlines.items() if not one.ended.any()]
    counts = {"censored": told["censored"], "excluded": excluded}
    return small(data, rows, unanswered=unanswered, **counts, **_drawn(rows))


def _thin(share: stats.Floats, points: int) -> stats.Ints:
    """Places of at most about `points` steps: evenly by share, finer towards the end, ends kept."""
    if len(share) <= points:
        return np.arange(len(share))
    tail = 1 - np.geomspace(0.5, max(1 - share[-1], 1e-7), points // 2)
    wanted = np.concatenate([np.linspace(0, 1, points // 2), tail])
    last = len(share) - 1
    return np.unique(np.concatenate([[0, last], np.minimum(np.searchsorted(share, wanted), last)]))


@of_part
def percentiles(rows: Part, points: int = 200) -> pd.DataFrame:
    """Return latency at each percentile, per operation: operation, p, latency_ms, firm (10 or more beyond).

    To 0.07 %, of the slowest 20,000 of an operation exact. attrs: exact (whether no line is drawn from bins).
    For an imported summary: the quantiles it gives.
    """
    if carried := rows.run.meta.carried:
        named = [(one.operation or TOTAL, point) for one in carried for point in one.quantiles]
        told = [(name, min(p, 1 - 1e-7), ms, True) for name, (p, ms) in named]
        names = ["operation", "p", "latency_ms", "firm"]
        return small(pd.DataFrame(told, columns=names), rows, hidden_operations=0, exact=True, carried=True)
    parts = []
    for name, (x, ended, _) in _outlines(rows).items():
        n = int(ended.sum())
        if not n:
            continue
        p = 1 - np.geomspace(1, max(1 / n, 1e-6), points)
        firm = n * (1 - p) >= stats.MIN_SUPPORT
        latency_ms = _quantiles(x, ended, p)
        parts.append(pd.DataFrame({"operation": name, "p": p, "latency_ms": latency_ms, "firm": firm}))
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["operation", "p", "latency_ms", "firm"])
    return small(data, rows, **_drawn(rows))


def _quantiles(x: stats.Floats, counts: stats.Ints, p: stats.Floats) -> stats.Floats:
    """The quantiles of values x, rising, that occur so often; numpy's `linear` method to the last bit."""
    upto = np.cumsum(counts)
    at = (upto[-1] - 1) * p
    low = np.floor(at)
    ranks = (low, np.minimum(low + 1, upto[-1] - 1))
    left, right = (x[np.searchsorted(upto, rank, "right")] for rank in ranks)
    share, step = at - low, right - left
    return np.asarray(np.where(share < 0.5, left + step * share, right - step * (1 - share)))


def _drawn(rows: Part) -> dict[str, Any]:
    sizes = [int((one.ended + one.late).sum()) for one in _outlines(rows).values()]
    hidden = max(len(operations(rows)) - MOST_OPERATIONS, 0)
    return {"hidden_operations": hidden, "exact": max(sizes, default=0) <= MOST_EXACT}
