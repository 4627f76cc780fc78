"""Groups of runs as small frames: their distributions with run-level bands, shifts, dots, trends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.compare import Comparison
from perfkit.compare.configuration import differences
from perfkit.compare.reduce import Reduced, reduce_part, reduce_run, refusals
from perfkit.compare.steady import in_flight, responses
from perfkit.errors import unknown
from perfkit.store import Run
from perfkit.store.metrics import METRICS
from perfkit.store.quantiles import Binned
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL

#: The quantiles of a shift function.
SHIFT = np.linspace(0.05, 0.95, 19)
_POINTS = 240


def results(comparison: Comparison) -> pd.DataFrame:
    """Return the results of a comparison, a row each: the columns of `compare.Result`."""
    columns = list(comparison.results[0].__dataclass_fields__) if comparison.results else []
    return pd.DataFrame(
        [{c: getattr(one, c) for c in columns} for one in comparison.results], columns=columns
    )


def steady_latencies(runs: Sequence[Run], cut: float | None = None) -> list[Binned]:
    """Return how the response times (ms) of each run's successes in its steady part are distributed: [runs].

    cut: the share a comparison cut off every run; without it, each run's own.
    """
    found = []
    for run in runs:
        part = Part(run)
        share = reduce_part(part).cut if cut is None else cut
        found.append(responses(part, share * part.span_s))
    return found


def group_ecdf(sides: dict[str, list[Binned]]) -> pd.DataFrame:
    """Return distribution functions of groups of runs: side, ms, share, low, high; runs in attrs.

    share: mean over the runs, at 240 places, each within 0.2 % of `ms`; low, high: its 95 % interval there,
    from how runs differ (t), NaN for one run. sides: distributions by side and run (`steady_latencies`).
    """
    sides = {side: [x for x in runs if x.n()] for side, runs in sides.items()}
    every = [x for runs in sides.values() for x in runs]
    if not all(sides.values()):
        empty = pd.DataFrame(columns=["side", "ms", "share", "low", "high"])
        empty.attrs = {"runs": {side: len(runs) for side, runs in sides.items()}, "n": 0}
        return empty
    ends = np.array([x.quantiles([(None, 0.0), (None, 0.999)]) for x in every])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    grid = np.geomspace(max(low, 1e-6), max(high, low * 1.001), _POINTS)
    frames = []
    for side, runs in sides.items():
        shares = np.array([x.roughly_at_most(grid) / x.n() for x in runs])
        middle = shares.mean(axis=0)
        half = np.full(len(grid), np.nan)
        if len(runs) > 1:
            half = stats.t_factor(0.95, len(runs) - 1) * shares.std(axis=0, ddof=1) / math.sqrt(len(runs))
        bounds = {"low": np.clip(middle - half, 0, 1), "high": np.clip(middle + half, 0, 1)}
        frames.append(pd.DataFrame({"side": side, "ms": grid, "share": middle, **bounds}))
    found = pd.concat(frames, ignore_index=True)
    found.attrs = {"runs": {side: len(runs) for side, runs in sides.items()}, "n": sum(x.n() for x in every)}
    return found


def shift(a: list[Binned], b: list[Binned], *, paired: bool) -> pd.DataFrame:
    """Return the shift function (Doksum 1974; Rousselet et al. 2017): B ÷ A at 19 quantiles with one band.

    q, ratio, low, high. The band is run-level and simultaneous: its factor is the 95 % quantile of the
    largest |t| over permutations of the runs where there are enough of them, else Šidák's t; NaN for one run.
    """
    if not a or not b or not all(x.n() for x in (*a, *b)):
        frame = pd.DataFrame(columns=["q", "ratio", "low", "high"], dtype=float)
        frame.attrs = {"method": "a side has no run", "runs": (len(a), len(b))}
        return frame
    y = [np.log(np.array([x.quantiles([(None, q) for q in SHIFT]) for x in runs])) for runs in (a, b)]
    d = y[1].mean(axis=0) - y[0].mean(axis=0)
    half = np.full(len(SHIFT), np.nan)
    method = "one run per side: no band"
    if min(len(a), len(b)) > 1:
        each = [
            stats.paired(x, z) if paired else stats.pooled(x, z) for x, z in zip(y[0].T, y[1].T, strict=True)
        ]
        se, df = np.array([one.se for one in each]), each[0].df
        factor, method = stats.simultaneous_factor(y[0], y[1], paired=paired, df=df)
        half = factor * se
    frame = pd.DataFrame({"q": SHIFT, "ratio": np.exp(d), "low": np.exp(d - half), "high": np.exp(d + half)})
    frame.attrs = {"method": method, "runs": (len(a), len(b))}
    return frame


def dots(
    sides: dict[str, Sequence[Run]],
    cut: float | None = None,
    metrics: Sequence[str] = ("p50", "p99", "throughput"),
) -> pd.DataFrame:
    """Return each run's metrics: side, run, order (by time), metric, level, unit. cut: as of a comparison."""
    rows: list[dict[str, Any]] = []
    everything = [run for runs in sides.values() for run in runs]
    places = {run.id: run.meta.experiment for run in everything}
    together = len({place and place.id for place in places.values()}) == 1  # else each counts from 1
    by_time = {run.id: i + 1 for i, run in enumerate(sorted(everything, key=lambda run: run.id))}
    for side, runs in sides.items():
        for run in runs:
            one = reduce_run(run, cut)
            place = places[run.id]
            order = place.order if together and place and place.order is not None else by_time[run.id]
            for metric in metrics:
                value = one.value(TOTAL, metric)
                if value is not None:
                    rows.append({"side": side, "run": run.id, "order": order, "metric": metric,
                                 "level": value.level, "unit": METRICS[metric].unit})  # fmt: skip
    return pd.DataFrame(rows, columns=["side", "run", "order", "metric", "level", "unit"])


# -- capacity --------------------------------------------------------------------------------------


def load_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the server's performance at each level of load: a row per step of a stepped run, or per run.

    load (asked: requests a second, or users), concurrency (mean in flight), throughput (successes a second),
    p50, p95 (ms), failed (share), n. The first 20 % of each step are left out. attrs: unit, runs, n; and
    left_out, runs not looked at and why: aborted, invalid, or in more than the load unlike the first.
    """
    rows: list[dict[str, Any]] = []
    left_out = _strangers(runs, ("users", "arrivals"))
    unknown_load = "imported: its load is unknown"
    left_out |= {run.id: unknown_load for run in runs if run.meta.imported and run.id not in left_out}
    runs = [run for run in runs if run.id not in left_out]
    for run in runs:
        part = Part(run)
        arrivals, users = run.meta.arrivals, run.meta.users
        rates = arrivals.step_rates_per_s if arrivals and arrivals.shape == "steps" else ()
        if arrivals and rates:
            length = arrivals.duration_s / len(rates)
            for i, rate in enumerate(rates):
                rows.append({"load": rate, **_window(part, i * length, (i + 1) * length)})
        else:
            asked = users.count if users else arrivals.rate_per_s if arrivals else None
            rows.append({"load": asked, **_window(part, 0.0, part.span_s)})
    names = ["load", "concurrency", "throughput", "p50", "p95", "failed", "n"]
    frame = pd.DataFrame(rows, columns=names)
    open_model = bool(runs) and runs[0].meta.arrivals is not None
    frame.attrs = {
        "unit": "requests a second" if open_model else "users",
        "runs": len(runs),
        "n": int(frame["n"].sum()),
        "left_out": left_out,
    }
    return frame


def _strangers(runs: Sequence[Run], vary: Sequence[str]) -> dict[str, str]:
    """Runs that cannot stand beside the others: id -> why. The first that can be trusted is the measure."""
    found = {run.id: "; ".join(why) for run in runs if (why := list(refusals(run)))}
    trusted = [run for run in runs if run.id not in found]
    for run in trusted[1:]:
        if other := differences([trusted[0], run], vary):
            found[run.id] = "; ".join(other)
    return found


def _window(part: Part, low: float, high: float) -> dict[str, Any]:
    low = low + 0.2 * (high - low)
    seen = part.row(
        "WITH one AS (SELECT *, t_s >= $low AND t_s < $high AS asked FROM part)"
        " SELECT count(*) FILTER (asked) AS n, count(*) FILTER (asked AND NOT ok) AS failed,"
        " count(*) FILTER (ok AND done_s >= $low AND done_s < $high) AS ended FROM one",
        low=low, high=high,
    )  # fmt: skip
    times, n = responses(part, low, high), seen["n"]
    carried = [p for p in (0.5, 0.95) if stats.support(times.n(), p) >= stats.MIN_SUPPORT]
    levels = dict(zip(carried, times.quantiles([(None, p) for p in carried]), strict=True))
    return {
        "concurrency": in_flight(part, low, high),
        "throughput": seen["ended"] / (high - low),
        "p50": levels.get(0.5, math.nan),
        "p95": levels.get(0.95, math.nan),
        "failed": seen["failed"] / n if n else 0.0,
        "n": n,
    }


def scalability(steps: pd.DataFrame) -> dict[str, stats.Scalability]:
    """Fit the Universal Scalability Law to levels of load, `alike` weighted and `by 1/throughput`.

    Empty for fewer than four levels.
    """
    good = steps[(steps["throughput"] > 0).to_numpy() & (steps["concurrency"] > 0).to_numpy()]
    if good["load"].nunique() < 4 or good["concurrency"].nunique() < 4:
        return {}
    n, x = good["concurrency"].to_numpy(), good["throughput"].to_numpy()
    try:
        return {"alike": stats.fit_usl(n, x), "by 1/throughput": stats.fit_usl(n, x, relative=True)}
    except ValueError:
        return {}


# -- trend -----------------------------------------------------------------------------------------


def trend(runs: Sequence[Run], metric: str = "p50") -> pd.DataFrame:
    """Return a metric over runs, oldest first.

    run, created, git, level, low, high (within-run, 95 %), counts (whether the run is comparable with the
    newest), why (the reason where it is not).
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    points = [trend_points(run, (metric,))[metric] for run in runs]
    strange = _strangers(list(reversed(runs)), ())
    for run, point in zip(runs, points, strict=True):
        if point["counts"] and run.id in strange:
            point |= {"counts": False, "why": strange[run.id]}
    return trend_of(points, metric)


def trend_points(run: Run, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a run is in the trend of each metric: the columns of `trend`. Plain values, to be kept."""
    one: Reduced = reduce_run(run)
    about = {"run": run.id, "created": run.meta.created, "git": run.meta.git.sha[:8]}
    return {metric: about | _point(one, metric) for metric in metrics}


def _point(one: Reduced, metric: str) -> dict[str, Any]:
    value = one.value(TOTAL, metric)
    if value is not None and not math.isfinite(value.level):  # endless: more failed than it looks at
        value = None
    level = math.nan if value is None else value.level
    half = stats.t_factor(0.95, 1e9) * value.se if value is not None and level > 0 else math.nan
    return {
        "level": level, "low": level * math.exp(-half), "high": level * math.exp(half),
        "counts": not one.reasons and value is not None,
        "why": "; ".join(one.reasons) or ("" if value is not None else "too few requests"),
    }  # fmt: skip


def trend_of(points: Sequence[dict[str, Any]], metric: str) -> pd.DataFrame:
    """The frame of `trend` from the points of its runs."""
    frame = pd.DataFrame(list(points))
    frame.attrs = {"metric": metric, "unit": METRICS[metric].unit, "runs": len(points)}
    levels = frame["level"].to_numpy(float)[frame["counts"].to_numpy(bool)]
    shares = METRICS[metric].kind == "errors"
    frame.attrs["detectable"] = math.nan if shares else stats.detectable_shift(np.log(levels))
    return frame


def changes(frame: pd.DataFrame, floor: float = math.nan, level: float = 0.01) -> pd.DataFrame:
    """Return the change points of a trend: run, place (row of `frame`), ratio, p; excluded runs are skipped.

    None for an error rate. attrs: drift, the ratio of the last run to the first where a slow drift describes
    the series better than shifts, else NaN.
    """
    there = np.flatnonzero(frame["counts"].to_numpy())
    if METRICS[frame.attrs["metric"]].kind == "errors":
        there = there[:0]  # rare counts: their logarithm is noise or none at all
    y = np.log(frame["level"].to_numpy()[there])
    found = stats.change_points(y, level=level, floor=0.0 if math.isnan(floor) else floor)
    places = [int(there[one.at]) for one in found]
    told = pd.DataFrame({
        "run": [frame["run"][place] for place in places], "place": places,
        "ratio": [one.ratio for one in found], "p": [one.p for one in found],
    })  # fmt: skip
    told.attrs["drift"] = stats.drifted(y, [one.at for one in found])
    return told
