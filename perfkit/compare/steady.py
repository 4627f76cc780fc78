"""The steady part of a run, counted where its rows lie: bounded in memory, whatever their number.

What is computed here of all rows is computed by `perfkit.stats` of what was counted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from perfkit import stats
from perfkit.store.quantiles import BIN, Binned, estimates
from perfkit.store.rows import Part

#: SQL of the times of a column, of successes: of group g and slice s.
_TIMES = "SELECT of_group AS g, place AS s, {0} AS x, t_s, of_bin FROM steady WHERE ok AND {0} IS NOT NULL"
#: Up to so many rows are decoded once and kept; more are read anew by every query.
_FEW = 2_000_000
#: Of so many values, fewer than a tenth distinct ones say that the clock was coarse (`stats.without_ties`).
_LOOKED_AT = 2000


class Loaded(NamedTuple):
    """A part whose rows can be asked for as `measured`, and what one look at all of them says."""

    part: Part
    n: int
    good: int  #: successes
    first_s: float | None  #: when the first success was planned, and the last; None for none
    last_s: float | None
    until_s: float | None  #: when the last request was planned


_loaded: dict[Part, Loaded] = {}  #: those that somebody is within


@contextlib.contextmanager
def loaded(part: Part) -> Iterator[Loaded]:
    """Yield a part whose rows are in `measured`: a table, or a view where they are many.

    Within it, others who ask for the same part share that: decoding rows costs more than counting them.
    """
    if (shared := _loaded.get(part)) is not None:
        yield shared
        return
    kind = "TABLE" if part.run.row_count() <= _FEW else "VIEW"
    part.query(
        f"CREATE OR REPLACE TEMP {kind} measured AS SELECT * EXCLUDE (x), {BIN} AS of_bin FROM (SELECT t_s,"
        " done_s, response_ms, response_ms AS x, latency_ns, ttft_ms, tpot_ms, ok, operation, step FROM part)"
    )
    try:
        heads = part.row(
            "SELECT count(*) AS n, count(*) FILTER (ok) AS good, min(t_s) FILTER (ok) AS first_s,"
            " max(t_s) FILTER (ok) AS last_s, max(t_s) AS until_s FROM measured"
        )
        _loaded[part] = Loaded(part, **heads)
        yield _loaded[part]
    finally:
        _loaded.pop(part, None)
        part.query(f"DROP {kind} measured")
        part.query("DROP TABLE IF EXISTS spread")


def responses(part: Part, low: float, high: float = math.inf) -> Binned:
    """How the response times of the successes planned in [low, high), s, are distributed, as recorded."""
    rows = "FROM part WHERE ok AND t_s >= $low AND t_s < $high"
    values = f"SELECT 0 AS g, 0 AS s, response_ms AS x {rows}"
    return Binned(part, values, parameters={"low": low, "high": high})


def in_flight(part: Part, low: float, high: float, rows: str = "part") -> float:
    """How many requests were under way on average in [low, high], s; one never seen to end still is."""
    inside = "least(coalesce(done_s, $high), $high) - greatest(t_s, $low)"
    found = part.row(f"SELECT sum(greatest({inside}, 0)) AS busy_s FROM {rows}", low=low, high=high)
    return float(found["busy_s"] or 0) / (high - low)


def warmup_share(whole: Loaded) -> float:
    """`stats.warmup_share` of the successes of a part."""
    if whole.first_s is None or whole.last_s is None:
        return stats.LEAST_CUT
    span = whole.first_s, whole.last_s
    return stats.warmup_of_medians(_medians(whole.part, whole.first_s, span, stats.WARMUP_SLICES))


class Steady:
    """The rows of a loaded part from `low` on, and what ended until `high`, s since the measured part began.

    operations: those that are counted one by one, as groups 0, 1, …; None stands for all together.
    """

    def __init__(self, part: Part, low: float, high: float, operations: Sequence[str] = ()) -> None:
        self.part, self.low, self.high = part, low, high
        self.operations = tuple(operations)
        self.groups: tuple[int | None, ...] = (None, *range(len(self.operations)))
        part.use("compared", operation=("VARCHAR", operations), g=("INTEGER", range(len(operations))))
        group, place = f"coalesce(g, {len(operations)})", _slice("t_s", low, high, stats.SLICES)
        part.query(
            f"CREATE OR REPLACE TEMP VIEW steady AS SELECT *, {group} AS of_group, {place} AS place"
            f" FROM measured LEFT JOIN compared USING (operation) WHERE t_s >= {_double(low)}"
        )

    @cached_property
    def _heads(self) -> dict[str, np.ndarray]:
        times = ", ".join(f"count({one}) FILTER (ok) AS {one}" for one in ("ttft_ms", "tpot_ms"))
        return self.part.arrays(
            "SELECT of_group AS g, count(*) AS n, count(*) FILTER (ok) AS good, min(t_s) FILTER (ok) AS low,"
            f" max(t_s) FILTER (ok) AS high, {times} FROM steady GROUP BY 1"
        )

    @cached_property
    def counts(self) -> dict[int | None, tuple[int, int]]:
        """Requests, and successes, of each group."""
        found = [self._heads[name].astype(int).tolist() for name in ("g", "n", "good")]
        each = {g: (n, ok) for g, n, ok in zip(*found, strict=True)}
        total = sum(found[1]), sum(found[2])
        return {group: total if group is None else each.get(group, (0, 0)) for group in self.groups}

    # -- steady or not

    def drift(self) -> stats.Drift:
        """`stats.drift` of its successes."""
        count = stats.drift_slices(self.counts[None][1])
        if not count:
            return stats.drift_of_medians(np.empty(0))
        span = float(np.nanmin(self._heads["low"])), float(np.nanmax(self._heads["high"]))
        return stats.drift_of_medians(_medians(self.part, self.low, span, count))

    def growth(self) -> stats.Growth:
        """`stats.growth` of all requests."""
        grid = stats.growth_grid(self.low, self.high)
        # a request that was never seen to end is still under way
        began, ended = _areas(self.part, ("t_s", f"coalesce(done_s, {_double(self.high)})"), grid)
        area = began - ended
        return stats.growth_of_levels(np.diff(area) / np.diff(grid))

    def in_flight(self) -> float:
        """How many requests were under way on average."""
        return in_flight(self.part, self.low, self.high, "measured")

    def begun(self, *, steps: bool) -> tuple[int, int]:
        """Requests that were planned in it, and, if asked, the steps they belong to."""
        where = f"t_s >= {_double(self.low)} AND t_s < {_double(self.high)}"
        distinct = "count(DISTINCT step)" if steps else "0"
        found = self.part.row(f"SELECT count(*) AS n, {distinct} AS steps FROM measured WHERE {where}")
        return found["n"], found["steps"]

    # -- numbers

    @cached_property
    def _ended(self) -> dict[str, np.ndarray]:
        where = f"done_s BETWEEN {_double(self.low)} AND {_double(self.high)}"
        begin = self.part.begin_ns
        return self.part.arrays(
            f"SELECT coalesce(g, {len(self.operations)}) AS g, {_slice('done_s', self.low, self.high)} AS s,"
            " count(*) AS n, count(*) FILTER (coalesce(meets_slo, false)) AS met"
            f" FROM (SELECT *, (done - {begin}) / 1e9 AS done_s FROM r WHERE ok)"
            f" LEFT JOIN compared USING (operation) WHERE {where} GROUP BY 1, 2"
        )

    def ended(self, group: int | None, what: str = "n") -> np.ndarray:
        """How many successes, of whatever phase, ended in each time slice; `met`: that meet the `slo`."""
        mine = slice(None) if group is None else self._ended["g"] == group
        places, counts = self._ended["s"][mine], self._ended[what][mine]
        return np.bincount(places, counts, stats.SLICES).astype(np.int64)

    @cached_property
    def _sums(self) -> dict[str, np.ndarray]:
        return self.part.arrays(
            "SELECT of_group AS g, place AS s, count(*) AS n, sum(latency_ns)::DOUBLE / 1e6 AS total,"
            " var_pop(response_ms) AS variance FROM steady WHERE ok GROUP BY 1, 2"
        )

    def mean(self, group: int | None) -> stats.Estimate:
        """The mean response time of the successes, ms."""
        mine = slice(None) if group is None else self._sums["g"] == group
        s, n, total, variance = (self._sums[name][mine] for name in ("s", "n", "total", "variance"))
        counts, sums = (np.bincount(s, one, stats.SLICES) for one in (n, total))
        count = int(n.sum())
        point = float(total.sum()) / count if count else math.nan
        squares = float((n * (variance + (total / n - point) ** 2)).sum())
        sd = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
        return stats.mean_estimate(point, sd, count, sums.astype(np.float64), counts)

    @cached_property
    def response(self) -> Binned:
        """How the response times of successes are distributed, by group and slice."""
        return Binned(self.part, _TIMES.format("response_ms"), stats.SLICES, bin="of_bin")

    def _spread(self, column: str) -> Binned | None:
        """The same of times of a coarse clock, spread as `stats.without_ties` does; None where it is fine."""
        times = _TIMES.format(column)
        looked = f"SELECT x FROM ({times}) LIMIT {_LOOKED_AT}"
        seen = self.part.row(f"SELECT count(*) AS n, count(DISTINCT x) AS distinct FROM ({looked})")
        if seen["n"] < 100 or seen["distinct"] > 0.1 * seen["n"]:
            return None
        gaps = f"SELECT x - lag(x) OVER (ORDER BY x) AS gap FROM (SELECT DISTINCT x FROM ({times}))"
        step = self.part.row(f"SELECT min(gap) AS step FROM ({gaps})")["step"]
        if step is None:
            return None
        equals = "OVER (PARTITION BY x ORDER BY t_s ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
        moved = f"x + {_double(step)} * ((row_number() {equals} - 0.5e0) / count(*) {equals} - 0.5e0)"
        self.part.keep("spread", f"SELECT g, s, {moved} AS x FROM ({times})")
        return Binned(self.part, "SELECT g, s, x FROM spread", stats.SLICES)

    def quantiles(
        self, column: str, ps: Sequence[float]
    ) -> Mapping[tuple[int | None, float], stats.Estimate]:
        """Quantiles of the times of each group that enough requests carry, with their intervals."""
        if column == "response_ms":
            binned = self._spread(column) or self.response
            near = self._asked_next if binned is self.response else ()
        else:
            if not self._heads[column].any():
                return {}
            binned, near = self._spread(column) or Binned(self.part, _TIMES.format(column), stats.SLICES), ()
        wanted = [
            (group, p)
            for group in self.groups
            for p in ps
            if stats.support(binned.n(group), p) >= stats.MIN_SUPPORT
        ]
        return estimates(binned, wanted, near=near)

    @property
    def _asked_next(self) -> Sequence[tuple[int | None, float]]:
        """What else is asked of the response times: read in the same pass."""
        success = [(group, p) for group in self.groups if (p := self.success_place(group)) is not None]
        return [(None, 0.45), (None, 0.55), *success]

    def success_place(self, group: int | None, p: float = 0.99) -> float | None:
        """Which quantile of the successes is the p-quantile of all requests, of which failures take for ever.

        None where that is endless.
        """
        n, good = self.counts[group]
        place = p * (n - 1)
        if math.ceil(place) >= good:
            return None
        return place / (good - 1) if good > 1 else 0.0


def _slice(t: str, low: float, high: float, count: int = stats.SLICES) -> str:
    """SQL of `stats.time_slices`."""
    per_s = count / (high - low) if high > low else 0.0
    return f"least(greatest(trunc(({t} - {_double(low)}) * {_double(per_s)}), 0), {count - 1})::INTEGER"


def _double(x: float) -> str:
    """A number as a DOUBLE in SQL, where a bare 0.1 is a DECIMAL."""
    text = repr(float(x))
    return f"({text if 'e' in text else text + 'e0'})"


def _medians(part: Part, low: float, span: tuple[float, float], count: int) -> np.ndarray:
    """The median response time of the successes of each slice of a span, NaN for none: float64 [count]."""
    rows = f"FROM measured WHERE ok AND t_s >= {_double(low)}"
    values = f"SELECT {_slice('t_s', *span, count)} AS g, 0 AS s, response_ms AS x, of_bin {rows}"
    binned = Binned(part, values, bin="of_bin")
    return np.array(binned.quantiles([(g, 0.5) for g in range(count)]))


def _areas(part: Part, instants: Sequence[str], grid: np.ndarray) -> list[np.ndarray]:
    """Of each of these instants: the time since each one, summed up, at each place of an even grid."""
    low, high, bins = float(grid[0]), float(grid[-1]), len(grid) - 1
    cell = f"floor((x - {_double(low)}) * {_double(bins / (high - low))}) + 1"
    values = " UNION ALL ".join(f"SELECT {i} AS of, {x} AS x FROM measured" for i, x in enumerate(instants))
    found = part.arrays(
        f"SELECT of, least(greatest({cell}, 0), {bins + 1})::INTEGER AS cell, count(*) AS n,"
        f" sum(x) AS total FROM ({values}) GROUP BY 1, 2"
    )
    areas = []
    for i in range(len(instants)):
        mine = found["of"] == i
        counts, sums = (
            np.bincount(found["cell"][mine], found[name][mine], bins + 2)[: bins + 1]
            for name in ("n", "total")
        )
        areas.append(np.asarray(grid * np.cumsum(counts) - np.cumsum(sums)))
    return areas


def span_of(whole: Loaded) -> float:
    """Where its steady part ends, s: where a fixed number of steps runs out, users go idle one by one."""
    users = whole.part.run.meta.users
    return whole.part.span_s if whole.until_s is None or not (users and users.iterations) else whole.until_s
