"""Exact order statistics of any number of rows in bounded memory: two passes over the rows.

The first pass counts in bins of 1/512 octave, by group and time slice; the second fetches only the values of
the bins that hold the ranks wanted, equal ones once. A quantile is numpy's `linear` (Hyndman & Fan 1996,
type 7) on every row, to the last bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perfkit import stats
from perfkit.stats import SLICES, Floats, Ints
from perfkit.store.rows import Part

#: The bin of a number x, which rises with x, also below zero and at it.
BIN = (
    "(CASE WHEN x > 0 THEN 1000000 + floor(512 * log2(x)) WHEN x = 0 THEN 0"
    " ELSE -1000000 - floor(512 * log2(-x)) END)::INTEGER"
)
#: For lines that are only drawn, of 1/128 octave: fewer of them cost less.
_COARSE = BIN.replace("512", "128")
#: What summaries, boxes and marks ask of latencies: fetched together.
OFTEN = (0.0, 0.05, 0.25, 0.45, 0.5, 0.55, 0.75, 0.85, 0.9, 0.95, 0.99, 0.999, 1.0)


class _Cells(NamedTuple):
    """Counts n of cells: of group g, slice s, and bin or value x. One array each, sorted by group."""

    g: np.ndarray
    s: np.ndarray
    x: np.ndarray
    n: np.ndarray

    def of(self, group: int | None) -> _Cells:
        """Those of one group; None: all."""
        if group is None:
            return self
        mine = slice(*np.searchsorted(self.g, (group, group + 1)))
        return _Cells(*(column[mine] for column in self))


class Binned:
    """How values are distributed over bins, by group and slice.

    values: SQL over the part, that gives g (group, from 0), s (slice, 0 … slices-1) and x, not null;
    parameters: those it names. cells: what a query that asked for more has counted already. bin: SQL of
    the bin of x, where the values know it.
    """

    def __init__(
        self,
        part: Part,
        values: str,
        slices: int = 1,
        parameters: Mapping[str, Any] | None = None,
        cells: _Cells | None = None,
        bin: str = BIN,
    ) -> None:
        self._part, self._values, self._slices = part, values, slices
        self._parameters, self._bin_sql = dict(parameters or {}), bin
        self._cells = cells or _Cells(
            **part.arrays(
                f"SELECT g, s, {bin} AS x, count(*) AS n FROM ({values}) GROUP BY ALL ORDER BY g",
                **self._parameters,
            )
        )
        groups = np.unique(self._cells.g)
        self._only = int(groups[0]) if len(groups) == 1 else None  #: the one group, which is all of it
        self._fetched: dict[tuple[int | None, int], _Cells] = {}
        self._cumulated: dict[int | None, tuple[np.ndarray, np.ndarray]] = {}

    def n(self, group: int | None = None) -> int:
        """How many values a group has; None: all groups together."""
        upto = self.cumulated(group)[1]
        return int(upto[-1]) if len(upto) else 0

    def quantiles(self, wanted: Sequence[tuple[int | None, float]]) -> list[float]:
        """The p-quantile of a group, or of all together, for each (group, p); NaN for no values."""
        wanted = [(self._same(group), p) for group, p in wanted]
        ranks = {(group, rank) for group, p in wanted for rank in _ranks(self.n(group), p)}
        self._fetch({(group, self._bin_of(group, rank)[0]) for group, rank in ranks})
        value = {one: self._value(*one) for one in ranks}
        found = []
        for group, p in wanted:
            n = self.n(group)
            if not n:
                found.append(np.nan)
                continue
            left, right = (value[group, rank] for rank in _ranks(n, p))
            share, step = (n - 1) * p - int((n - 1) * p), right - left
            # numpy's own way of interpolating, so that the last bit agrees
            found.append(left + step * share if share < 0.5 else right - step * (1 - share))
        return found

    def expect(self, wanted: Iterable[tuple[int | None, float]]) -> None:
        """Read now, in one pass, what these quantiles will take, and those a tenth of a bin beside them."""
        places = set()
        for group, p in ((self._same(group), p) for group, p in wanted):
            n = self.n(group)
            for rank in _ranks(n, p):
                beside = self._bin_of(group, rank)[2] // 10
                near = (max(rank - beside, 0), rank, min(rank + beside, n - 1))
                places |= {(group, self._bin_of(group, one)[0]) for one in near}
        self._fetch(places)

    def roughly_below(self, group: int | None, p: float) -> Ints:
        """How many values of each slice are below the p-quantile, to half a bin, without a pass: [slices]."""
        place, cells = self._bin_of(group, _ranks(self.n(group), p)[0])[0], self._cells.of(group)
        return self._sliced(cells, cells.x < place) + self._sliced(cells, cells.x == place) // 2

    def roughly_at_most(self, x: Floats) -> Ints:
        """How many values of all groups are at most each of x, to one bin, without a pass: int64 [len(x)]."""
        bins, upto = self.cumulated(None)
        place = np.searchsorted(bins, [_bin(one) for one in x], "right")
        return np.concatenate([[0], upto])[place].astype(np.int64)

    def at_most(self, group: int | None, x: float) -> Ints:
        """How many values of each slice are at most x: int64 [slices]."""
        group = self._same(group)
        place, cells = _bin(x), self._cells.of(group)
        below = self._sliced(cells, cells.x < place)
        if place not in self.cumulated(group)[0]:  # between two values that lie apart
            return below
        self._fetch({(group, place)})
        same = self._fetched[group, place]
        return below + self._sliced(same, same.x <= x)

    def sizes(self, group: int | None) -> Ints:
        """How many values each slice has: int64 [slices]."""
        return self._sliced(self._cells.of(group), slice(None))

    def _sliced(self, cells: _Cells, which: Any) -> Ints:
        found = np.bincount(cells.s[which], weights=cells.n[which], minlength=self._slices)
        return found.astype(np.int64)

    def cumulated(self, group: int | None) -> tuple[Ints, Ints]:
        """The bins that hold values, rising, and how many values lie up to the end of each."""
        if group not in self._cumulated:
            cells = self._cells.of(group)
            bins, place = np.unique(cells.x, return_inverse=True)
            sums = np.bincount(place, weights=cells.n).astype(np.int64)
            self._cumulated[group] = bins, np.cumsum(sums)
        return self._cumulated[group]

    def _bin_of(self, group: int | None, rank: int) -> tuple[int, int, int]:
        """The bin that holds a rank, how many values lie below it, and in it."""
        bins, sums = self.cumulated(group)
        at = int(np.searchsorted(sums, rank, "right"))
        below = int(sums[at - 1]) if at else 0
        return int(bins[at]), below, int(sums[at]) - below

    def _same(self, group: int | None) -> int | None:
        """The group, by one name: None where it is the only one."""
        return None if group == self._only else group

    def _value(self, group: int | None, rank: int) -> float:
        place, below, _ = self._bin_of(group, rank)
        cells = self._fetched[group, place]
        order = np.argsort(cells.x, kind="stable")
        return float(cells.x[order][np.searchsorted(np.cumsum(cells.n[order]), rank - below, "right")])

    def _fetch(self, places: set[tuple[int | None, int]]) -> None:
        """Read the distinct values of these bins of these groups (None: of all) with their counts."""
        missing = places - self._fetched.keys()
        if not missing:
            return
        whole = {place for group, place in missing if group is None}
        single = {(group, place) for group, place in missing if group is not None and place not in whole}
        wanted = [(None, place) for place in whole] + list(single)
        groups, bins = zip(*wanted, strict=True)
        found = self._part.arrays(
            "SELECT bin, g, s, x, count(*)::INTEGER AS n"
            f" FROM (SELECT g, s, x, {self._bin_sql} AS bin FROM ({self._values}))"
            " JOIN (SELECT unnest($groups::INTEGER[]) AS of, unnest($bins::INTEGER[]) AS bin) USING (bin)"
            " WHERE of IS NULL OR of = g GROUP BY ALL ORDER BY bin, g",
            groups=list(groups),
            bins=list(bins),
            **self._parameters,
        )
        place_of = found.pop("bin")
        for group, place in missing:
            there = slice(*np.searchsorted(place_of, (place, place + 1)))
            mine = _Cells(**{name: column[there] for name, column in found.items()})
            self._fetched[group, place] = mine.of(group)


def _ranks(n: int, p: float) -> tuple[int, ...]:
    """The ranks, from 0, between which the p-quantile of n values lies; none of no values."""
    low = int((n - 1) * p)
    return (low, min(low + 1, n - 1)) if n else ()


def estimates(
    binned: Binned,
    wanted: Sequence[tuple[int | None, float]],
    level: float = stats.LEVEL,
    *,
    timed: bool = True,
    near: Sequence[tuple[int | None, float]] = (),
) -> dict[tuple[int | None, float], stats.Estimate]:
    """The p-quantile of each (group, p) with its interval: what `stats.quantiles` says of the values.

    timed: whether the time slices of the rows say how much it moves. near: quantiles that will be asked for
    next, to be read in the same pass.
    """
    counts = {
        group: sizes if timed and stats.slices_carry(sizes := binned.sizes(group)) else None
        for group in {group for group, _ in wanted}
    }

    def bounds(group: int | None, p: float, below: Ints | None) -> tuple[float, float, str]:
        slices = counts[group]
        share = None if slices is None or below is None else stats.slice_shares(below, slices, p)
        return stats.quantile_bounds(binned.n(group), p, share, level)

    # where the ends lie is known well enough before, so that one pass reads all
    likely = [*near, *wanted]
    for group, p in wanted:
        if binned.n(group):
            low, high, _ = bounds(group, p, binned.roughly_below(group, p))
            likely += [(group, end) for end in (low, high) if math.isfinite(end)]
    binned.expect(likely)
    points = dict(zip(wanted, binned.quantiles(wanted), strict=True))
    found = {
        one: bounds(*one, None if counts[one[0]] is None else binned.at_most(one[0], point))
        for one, point in points.items()
    }
    closed = [(group, end) for (group, _), (*ends, _) in found.items() for end in ends if math.isfinite(end)]
    values = iter(binned.quantiles(closed))
    told = {}
    for one, (low, high, unit) in found.items():
        low, high = (next(values) if math.isfinite(end) else end for end in (low, high))
        if unit in stats.NO_INTERVAL:
            low, high = math.nan, math.nan
        told[one] = stats.Estimate(points[one], low, high, level, binned.n(one[0]), unit)
    return told


def middles(bins: np.ndarray) -> Floats:
    """The middle of each bin, at most 0.07 % from any value in it."""
    size = np.exp2((np.abs(bins) - 1_000_000 + 0.5) / 512)
    return np.where(bins == 0, 0.0, np.sign(bins) * size)


def outline(values: str, ps: Sequence[float]) -> str:
    """SQL of quantiles that are only drawn: g, n, min, max and p<100p> of each group that has values.

    values: SQL that gives g and x, not null. Counts and extremes are exact, a quantile is off by 0.3 % at
    most: in its bin it is taken to lie halfway between the least and the greatest value. Many groups may have
    many bins, none of them leaves the database.
    """
    ends, points = [], []
    for i, p in enumerate(ps):
        place = f"((n - 1) * {p}::DOUBLE)"
        ends.append(f"min(x) FILTER (upto > floor({place})) AS low{i}")
        ends.append(f"min(x) FILTER (upto > least(floor({place}) + 1, n - 1)) AS high{i}")
        points.append(f"low{i} + (high{i} - low{i}) * ({place} - floor({place})) AS p{100 * p:g}")
    return (
        "WITH bins AS (SELECT g, count(*) AS of, min(x) AS least, max(x) AS most"
        f" FROM ({values}) GROUP BY g, {_COARSE}),"
        " sums AS (SELECT g, least, most, (least + most) / 2 AS x,"
        " sum(of) OVER (PARTITION BY g)::BIGINT AS n,"
        " sum(of) OVER (PARTITION BY g ORDER BY least)::BIGINT AS upto FROM bins),"
        " ends AS (SELECT g, any_value(n) AS n, min(least) AS min, max(most) AS max,"
        f" {', '.join(ends)} FROM sums GROUP BY g)"
        f" SELECT g, n, min, max, {', '.join(points)} FROM ends"
    )


def _bin(x: float) -> int:
    """`BIN` of one number."""
    if x == 0:
        return 0
    return int((1 if x > 0 else -1) * (1_000_000 + np.floor(512 * np.log2(abs(x)))))


class Counted(NamedTuple):
    """What one pass over a part counts. names: its operations, the most frequent first.

    cells: g, the place of the operation in names; s, its time slice; failed, censored; good, whether it has a
    latency, x, the bin of that; n; total_ms and variance of its latencies. One array each, sorted by g.
    latencies: how those of successes are distributed, by g and s.
    """

    names: list[str]
    cells: dict[str, np.ndarray]
    latencies: Binned


@functools.lru_cache(maxsize=4)
def counted(part: Part) -> Counted:
    """Count the requests of a part by operation, time slice, outcome, and bin of the latency."""
    part.keep(
        "cells",
        "SELECT operation, slice AS s, failed, censored,"
        f" CASE WHEN ok THEN {BIN} END AS x, count(*) AS n, sum(latency_ns)::DOUBLE / 1e6 AS total_ms,"
        " var_pop(latency_ms) AS variance FROM (SELECT *, latency_ms AS x FROM part) GROUP BY ALL",
    )
    part.keep(
        "operations",
        "SELECT operation,"
        " (row_number() OVER (ORDER BY sum(n) DESC, operation) - 1)::INTEGER AS g"
        " FROM cells GROUP BY operation",
    )
    names = part.arrays("SELECT operation FROM operations ORDER BY g")["operation"].tolist()
    cells = part.arrays(
        "SELECT g, s, failed, censored, x IS NOT NULL AS good, coalesce(x, 0) AS x, n, total_ms, variance"
        " FROM cells JOIN operations USING (operation) ORDER BY g"
    )
    part.query("DROP TABLE cells")
    values = (
        "SELECT g, slice AS s, latency_ms AS x FROM part JOIN operations USING (operation)"
        " WHERE ok AND latency_ms IS NOT NULL"
    )
    binned = Binned(
        part, values, SLICES, cells=_Cells(*(cells[name][cells["good"]] for name in _Cells._fields))
    )
    return Counted(names, cells, binned)
