"""A run reduced to one number per metric, on the log scale, from its steady part; and may it be compared?

A comparison knows of a run only what stands here. Rules, in this order: the run is complete and its generator
healthy; its warm-up is cut off; what is left neither drifts nor piles up nor breaks Little's law. A run
that fails one is told with the reason, and left out by whoever compares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from perfkit import stats
from perfkit.compare.measured import Measured, think_time_s
from perfkit.model import Users
from perfkit.store import Run, fidelity
from perfkit.store.metrics import METRICS
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL

#: The quantiles of successes, of each latency: p by name.
_QUANTILES = {
    column: {
        one.name: one.p
        for one in METRICS.values()
        if one.p is not None and (one.population, one.column) == ("successes", column)
    }
    for column in ("response_ms", "ttft_ms", "tpot_ms")
}
#: How many operations are compared one by one, the most frequent first.
MOST_OPERATIONS = 8
#: What a client takes between an answer and the next request is nobody's waiting, up to this a request.
_OWN_S = 1e-4
#: A run needs so many requests in its steady part.
FEWEST = 100


@dataclass(frozen=True, slots=True)
class Value:
    """One metric of one run: y on the log scale, its within-run standard error and df; n requests.

    level: the number itself, in the metric's unit. se is NaN where nothing within the run replicates.
    """

    operation: str
    metric: str
    level: float
    y: float
    se: float
    df: float
    n: int


@dataclass(frozen=True)
class Reduced:
    """What is known of a run. reasons: why it may not be compared; notes: what a reader should know."""

    run: Run
    cut: float  #: share of the measured time left out at the beginning
    span_s: float  #: length of the steady part
    n: int
    failed: int
    values: tuple[Value, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    outcomes: tuple[str, ...] = ()  #: those of the reasons that may be the server's doing
    all_failed: bool = False  #: the run's verdict is FAILED
    groups_ms: tuple[float, float] | None = None  #: the two groups of requests that its p50 lies between
    operations: Mapping[str, int] = field(default_factory=dict)  #: requests of each in the steady part
    #: Why an imported run's times are too coarse for a metric, by operation and metric.
    coarse: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def value(self, operation: str, metric: str) -> Value | None:
        """One metric, None where the run does not carry it."""
        found = (v for v in self.values if v.operation == operation and v.metric == metric)
        return next(found, None)


# -- the steady part -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warmup:
    """The share of a run's time its warm-up took; counts: whether the run may be compared, by run.json."""

    share: float
    counts: bool
    notes: tuple[str, ...] = ()


def warmup_of(part: Part) -> Warmup:
    """The warm-up of a run by itself."""
    good = part.arrays("SELECT t_s, response_ms FROM part WHERE ok AND response_ms IS NOT NULL")
    return _warmup(part.run, good["t_s"], good["response_ms"])


def _warmup(run: Run, planned: np.ndarray, response_ms: np.ndarray) -> Warmup:
    """planned, response_ms: of the successes."""
    counts = len(planned) > 0 and not any(refusals(run))
    if not counts or _load_changes(run):
        return Warmup(stats.LEAST_CUT, counts)
    share = stats.warmup_share(response_ms, planned)
    if share < stats.MOST_CUT:
        told = f"its warm-up took {share:.0%} of the measured part"
        return Warmup(share, counts, (told,) if share >= stats.WARN_CUT else ())
    # MSER's least error at its limit says that it found no end: whether there is a level, drift decides
    return Warmup(
        stats.LEAST_CUT, counts, ("the end of its warm-up was not found; the first tenth is cut off",)
    )


def operations_of(part: Part) -> dict[str, int]:
    """How many requests each operation has."""
    counted = part.query("SELECT operation, count(*) AS n FROM part GROUP BY 1")
    return dict(zip(counted["operation"].to_pylist(), counted["n"].to_pylist(), strict=True))


def most_frequent(counts: Iterable[Mapping[str, int]]) -> tuple[str, ...]:
    """The operations that are compared one by one, of all runs together, the most frequent first."""
    both: Counter[str] = sum(map(Counter, counts), Counter())
    return tuple(sorted(both, key=lambda name: (-both[name], name))[:MOST_OPERATIONS])


def reduce_run(run: Run, cut: float | None = None) -> Reduced:
    """Reduce a run; `cut` is a share to leave out at its beginning instead of the one found."""
    return reduce_part(Part(run), cut)


def reduce_part(part: Part, cut: float | None = None, asked: Sequence[str] | None = None) -> Reduced:
    """The same for a run that was opened already; asked: operations, else its own most frequent ones."""
    return reduce(part.run, Measured.of(part), cut, asked)


def reduce(run: Run, rows: Measured, cut: float | None = None, asked: Sequence[str] | None = None) -> Reduced:
    """The same for rows that were read already."""
    reasons = list(refusals(run))
    good = rows.only(rows.good & np.isfinite(rows.response_ms))
    if run.meta.carried:
        return Reduced(run, 0.0, 0.0, 0, 0, (), tuple(reasons), ())
    if len(good.planned) == 0 or rows.span_s <= 0:
        failed = run.verdict.word == "FAILED"
        nothing = (run.verdict.words if failed else "no request of its measured part succeeded",)
        return Reduced(run, 0.0, 0.0, len(rows.planned), int((~rows.good).sum()), (),
                       (*reasons, *nothing), (), nothing, all_failed=failed)  # fmt: skip
    warmup = _warmup(run, good.planned, good.response_ms) if cut is None else Warmup(cut, True)
    low, high = warmup.share * rows.span_s, _end(run, rows)
    steady = good.only(good.planned >= low)
    n = int((rows.planned >= low).sum())
    notes, outcomes = _unsteady(run, rows, steady, low, high)
    if n < FEWEST:
        outcomes.append(f"only {n:,} requests in its steady part; at least {FEWEST} are needed")
    reasons += _unaccounted(run, rows, steady, low, high)
    counts = np.bincount(rows.operation[rows.planned >= low], minlength=len(rows.names)).tolist()
    operations = {name: count for name, count in zip(rows.names, counts, strict=True) if count}
    if asked is None:
        asked = most_frequent([operations])
    values, coarse = _carried(run, tuple(_values(rows, steady, low, high, asked)), high - low)
    too_short = fidelity.coarse_span(run.meta, high - low)
    groups = _groups(steady)
    uncarried = dict.fromkeys([*([too_short] if too_short else []), *coarse.values()])
    return Reduced(
        run=run, cut=warmup.share, span_s=high - low, n=n, failed=n - len(steady.planned),
        values=values, reasons=(*reasons, *outcomes),
        notes=(*warmup.notes, *notes, *_jumps(groups), *fidelity.unchecked(run.meta), *uncarried),
        outcomes=tuple(outcomes), operations=operations, coarse=coarse, groups_ms=groups,
    )  # fmt: skip


def _carried(
    run: Run, values: tuple[Value, ...], span_s: float
) -> tuple[tuple[Value, ...], dict[tuple[str, str], str]]:
    """The values that the times of an imported run are fine enough for, and why others are left out."""
    too_short = fidelity.coarse_span(run.meta, span_s)
    kept, coarse = [], {}
    for value in values:
        kind, why = METRICS[value.metric].kind, None
        if kind == "latency":
            why = fidelity.coarse_latency(run.meta, _median(values, value))
            place = value.operation if value.operation != TOTAL else ""
            why = f"{place}: {why}" if why and place else why
        elif kind == "rate":
            why = too_short
        if why is None:
            kept.append(value)
        else:
            coarse[value.operation, value.metric] = why
    return tuple(kept), coarse


def _median(values: Iterable[Value], one: Value) -> float:
    """The median, ms, of the same operation; the level itself where too few requests carry a median."""
    p50 = next(name for name, p in _QUANTILES[METRICS[one.metric].column].items() if p == 0.5)
    found = (v.level for v in values if (v.operation, v.metric) == (one.operation, p50))
    enough = stats.support(one.n, 0.5) >= stats.MIN_SUPPORT  # then it is missing because it is 0
    return next(found, 0.0 if enough else one.level)


def refusals(run: Run) -> Iterable[str]:
    """Why a run may not be compared, from its verdict. That everything failed is a finding, not a reason."""
    verdict = run.verdict
    if not verdict.sound and verdict.word != "FAILED":
        yield verdict.words
    yield from fidelity.refusals(run.meta)


def _end(run: Run, rows: Measured) -> float:
    """The end of the steady part: where a fixed number of steps runs out, users go idle one by one."""
    users = run.meta.users
    return float(rows.planned.max()) if users and users.iterations else rows.span_s


def _load_changes(run: Run) -> bool:
    """Whether the load is meant to change during the run: then nothing about it is steady by design."""
    return any(
        load.ramp_s > run.meta.warmup_s or load.ramp_down_s > 0
        if isinstance(load, Users)
        else load.shape in ("ramp", "steps", "spike", "replay")
        for load in run.meta.loads
    )


def _unsteady(
    run: Run, rows: Measured, steady: Measured, low: float, high: float
) -> tuple[list[str], list[str]]:
    """Drift and saturation of the steady part: notes, and reasons against the run."""
    if len(steady.planned) < FEWEST or high <= low:
        return [], []
    if _load_changes(run):
        return ["its load changes by plan: warm-up, drift and backlog were not checked"], []
    notes, found = [], []
    moved = stats.drift(steady.response_ms, steady.planned)
    if fidelity.too_coarse_for_drift(run.meta, high - low):
        notes.append("latency drift was not checked: the timestamps are too coarse")
    elif moved.found:
        told = f"{moved.ratio - 1:+.0%} from its first half to its last third"
        found.append(f"no steady state, its latency drifts: {told}")
    elif math.isnan(moved.ratio):
        notes.append("latency drift could not be checked: there are gaps without successes")
    if run.meta.arrivals:
        grown = stats.growth(rows.planned, rows.done, low, high)
        if grown.found:
            found.append(
                f"the server fell behind: requests in flight grew {grown.ratio:.1f}-fold, "
                "so its latency depends on how long the run lasted"
            )
    return notes, found


def _unaccounted(run: Run, rows: Measured, steady: Measured, low: float, high: float) -> Iterable[str]:
    """Little's law in a closed loop: time of the users that neither waiting nor thinking explains."""
    users = run.meta.users
    if users and not _load_changes(run) and len(steady.planned) >= FEWEST and high > low:
        yield from _off_littles_law(rows, users.count, think_time_s(run), low, high)


def _groups(steady: Measured) -> tuple[float, float] | None:
    """The response times, ms, of two groups of requests that the median lies between, None for one group."""
    x = steady.response_ms
    if len(x) < FEWEST:
        return None
    low, high = map(float, np.quantile(x, (0.45, 0.55)))
    return (low, high) if low > 0 and high / low > 2 else None


def _jumps(groups: tuple[float, float] | None) -> Iterable[str]:
    """A quantile between two groups of requests jumps from run to run."""
    if groups:
        low, high = groups
        yield f"its p50 lies between two groups of requests, {low:.3g} and {high:.3g} ms, and may jump"


def _off_littles_law(rows: Measured, users: int, think_s: float, low: float, high: float) -> Iterable[str]:
    """Users are waiting for an answer or thinking; else the client stalled, or rows are missing."""
    inside = np.minimum(rows.done, high) - np.maximum(rows.planned, low)
    in_flight = float(np.maximum(inside, 0).sum()) / (high - low)
    asked = (rows.planned >= low) & (rows.planned < high)
    n = int(asked.sum())
    steps = 0 if rows.step is None else len(np.unique(rows.step[asked]))
    share, limit = stats.little(in_flight, think_s * steps / (high - low), users, steps or n)
    limit += _OWN_S * n / (high - low) / users
    if abs(share - 1) > limit:
        yield (
            f"Little's law does not hold: {share:.1%} of the users' time is accounted for, "
            f"{1 - limit:.1%} to {1 + limit:.1%} would be"
        )


# -- numbers ---------------------------------------------------------------------------------------


def values_of(rows: Measured, low: float, high: float) -> Iterable[Value]:
    """Every metric of the rows planned from `low` on, s; what ended until `high` counts for throughput.

    Of all operations together, and of each where there are several.
    """
    return _values(rows, rows.only(rows.good & (rows.planned >= low)), low, high, tuple(rows.names))


def _values(rows: Measured, good: Measured, low: float, high: float, asked: Sequence[str]) -> Iterable[Value]:
    """The same; good: the successes planned from `low` on; asked: operations."""
    planned = rows.operation[rows.planned >= low]
    n, successes = (np.bincount(one, minlength=len(rows.names)) for one in (planned, good.operation))
    span_s = high - low
    ended = _ended(rows, low, high)
    met = None if rows.met is None else _ended(rows, low, high, met=rows.met)
    yield from _counted(TOTAL, good.response_ms, int(n.sum()), ended.sum(axis=0), span_s)
    yield from _goodput(TOTAL, None if met is None else met.sum(axis=0), span_s, int(n.sum()))
    yield from _latencies(TOTAL, good, (low, high))
    there = [rows.names.index(name) for name in asked if name in rows.names]
    there = [i for i in there if n[i]]
    if len(asked) < 2:
        return
    good = good.only(np.argsort(good.operation.astype(np.int16), kind="stable"))
    ends = np.cumsum(successes)
    for i in there:
        mine = good.only(slice(ends[i] - successes[i], ends[i]))
        yield from _counted(rows.names[i], mine.response_ms, int(n[i]), ended[i], span_s)
        yield from _goodput(rows.names[i], None if met is None else met[i], span_s, int(n[i]))
        yield from _latencies(rows.names[i], mine, (low, high))


def _ended(rows: Measured, low: float, high: float, met: np.ndarray | None = None) -> np.ndarray:
    """How many successes of each operation, of whatever phase, ended in each time slice.

    met: of the measured rows; then only those that meet the `slo` count. [operations + 1, SLICES]; the last
    row is of operations that the measured part has not.
    """
    counts, others = (rows.good, slice(None)) if met is None else (rows.good & met, rows.others_met)
    done = np.concatenate([rows.done[counts], rows.others_done[others]])
    operation = np.concatenate([rows.operation[counts], rows.others_operation[others]])
    inside = (done >= low) & (done <= high)
    place = ((done[inside] - low) * (stats.SLICES / (high - low))).astype(np.int64)
    row = np.where(operation[inside] < 0, len(rows.names), operation[inside]).astype(np.int64)
    place = row * stats.SLICES + np.minimum(place, stats.SLICES - 1)
    return np.bincount(place, minlength=(len(rows.names) + 1) * stats.SLICES).reshape(-1, stats.SLICES)


def _counted(name: str, good_ms: np.ndarray, n: int, ended: np.ndarray, span_s: float) -> Iterable[Value]:
    """Throughput, error rate, and the p99 of success, for which a failure takes for ever."""
    failed = n - len(good_ms)
    yield from _rate(name, "throughput", ended, span_s, n)
    if n:
        y = math.log((failed + 0.5) / n)
        yield Value(name, "error_rate", failed / n, y, 1 / math.sqrt(failed + 0.5), max(failed - 1, 1), n)
    if failed and stats.support(n, 0.99) >= stats.MIN_SUPPORT:
        level = _success(good_ms, n, 0.99)
        if level > 0:  # an imported latency may be rounded to 0
            yield Value(name, "success_p99", level, math.log(level), math.nan, math.nan, n)


def _goodput(name: str, met: np.ndarray | None, span_s: float, n: int) -> Iterable[Value]:
    """The rate of what meets the `slo`, where that is known; of none the log of half a request."""
    if met is not None and met.any():
        yield from _rate(name, "goodput", met, span_s, n)
    elif met is not None and n:
        yield Value(name, "goodput", 0.0, math.log(0.5 / span_s), math.nan, math.nan, n)


def _rate(name: str, metric: str, ended: np.ndarray, span_s: float, n: int) -> Iterable[Value]:
    """A rate of what ended in each time slice, a second; nothing where nothing did."""
    if rate := int(ended.sum()) / span_s:
        error = (math.nan, math.nan)
        if ended.sum() >= stats.SLICES * stats.ROWS_A_SLICE:
            error = stats.slice_error(ended / ended.mean() - 1)
        yield Value(name, metric, rate, math.log(rate), *error, n)


def _success(good_ms: np.ndarray, n: int, p: float) -> float:
    """The p-quantile (numpy's) of n requests of which those that are not in `good_ms` take for ever."""
    place = p * (n - 1)
    low, high = math.floor(place), math.ceil(place)
    if high >= len(good_ms):
        return math.inf
    x = np.partition(good_ms, (low, high))
    return float(x[low] + (place - low) * (x[high] - x[low]))


def _latencies(name: str, good: Measured, span: tuple[float, float]) -> Iterable[Value]:
    """Of successes: quantiles with at least 10 requests beyond them, the mean, times of tokens."""
    slices = stats.Slices.of(good.planned, span)
    for q, one in _quantiles(good.response_ms, slices, _QUANTILES["response_ms"]):
        yield _value(name, q, one)
    mean = stats.mean(good.response_ms, slices)
    if mean.n >= stats.MIN_SUPPORT and mean.point > 0:
        yield _value(name, "mean", mean)
    for column, times in (("ttft_ms", good.ttft_ms), ("tpot_ms", good.tpot_ms)):
        if times is None:
            continue
        there = ~np.isnan(times)
        of = slices if there.all() else stats.Slices.of(good.planned[there], span)
        for q, one in _quantiles(times[there], of, _QUANTILES[column]):
            yield _value(name, q, one)


def _quantiles(
    x: np.ndarray, slices: stats.Slices, wanted: Mapping[str, float]
) -> Iterable[tuple[str, stats.Estimate]]:
    carried = {q: p for q, p in wanted.items() if stats.support(len(x), p) >= stats.MIN_SUPPORT}
    found = stats.quantiles(stats.without_ties(x), slices, list(carried.values()))
    return ((q, one) for q, one in zip(carried, found, strict=True) if one.point > 0)


def _value(name: str, metric: str, one: stats.Estimate) -> Value:
    """An estimate on the log scale; half its 95 % interval ÷ 1.96 stands for the standard error."""
    closed = one.low > 0 and math.isfinite(one.high)  # on an open interval no claim rests
    se = math.log(one.high / one.low) / (2 * stats.t_factor(0.95, 1e9)) if closed else math.nan
    return Value(name, metric, one.point, math.log(one.point), se, math.nan, one.n)
