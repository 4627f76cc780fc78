"""A run reduced to one number per metric, on the log scale, from its steady part; and may it be compared?

A comparison knows of a run only what stands here. Rules, in this order: the run is complete and its generator
healthy; its warm-up is cut off; what is left neither drifts nor piles up nor breaks Little's law. A run
that fails one is told with the reason, and left out by whoever compares.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfkit import stats
from perfkit.compare.steady import Loaded, Steady, loaded, span_of, warmup_share
from perfkit.model import Users
from perfkit.stages import changes_after, level_after
from perfkit.store import Run, fidelity
from perfkit.store.metrics import METRICS
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, no_goodput

#: The quantiles of successes, of each latency: p by name.
OF_LATENCIES = {
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
#: How the note of a long warm-up begins.
WARMED_UP = "its warm-up took"
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

    @classmethod
    def of(cls, operation: str, metric: str, one: stats.Estimate) -> Value:
        """An estimate on the log scale; half its 95 % interval ÷ 1.96 stands for the standard error."""
        closed = one.low > 0 and math.isfinite(one.high)  # on an open interval no claim rests
        se = math.log(one.high / one.low) / (2 * stats.t_factor(0.95, 1e9)) if closed else math.nan
        return cls(operation, metric, one.point, math.log(one.point), se, math.nan, one.n)

    @classmethod
    def of_errors(cls, operation: str, failed: int, n: int) -> Value:
        """The error rate."""
        y = math.log((failed + 0.5) / n)
        se, df = 1 / math.sqrt(failed + 0.5), max(failed - 1, 1)
        return cls(operation, "error_rate", failed / n, y, se, df, n)

    @classmethod
    def of_ends(cls, operation: str, metric: str, ended: np.ndarray, span_s: float, n: int) -> Value | None:
        """A rate of what ended in each time slice, a second; None where nothing did."""
        if not ended.sum():
            return None
        rate, error = int(ended.sum()) / span_s, (math.nan, math.nan)
        if ended.sum() >= stats.SLICES * stats.ROWS_A_SLICE:
            error = stats.slice_error(ended / ended.mean() - 1)
        return cls(operation, metric, rate, math.log(rate), *error, n)


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
    """The share of a run's time its warm-up took; counts: whether the run may be compared, by run.json.

    operations: requests of each in the whole measured part.
    """

    share: float
    counts: bool
    notes: tuple[str, ...] = ()
    operations: Mapping[str, int] = field(default_factory=dict)


def warmup_of(part: Part) -> Warmup:
    """The warm-up of a run by itself, and its operations."""
    with loaded(part) as whole:
        return dataclasses.replace(_warmup(whole), operations=_operations(part, "measured", -math.inf))


def _warmup(whole: Loaded) -> Warmup:
    run = whole.part.run
    counts = whole.good > 0 and not any(refusals(run))
    if not counts or _load_changes(run):
        return Warmup(stats.LEAST_CUT, counts)
    share = warmup_share(whole)
    if share < stats.MOST_CUT:
        told = f"{WARMED_UP} {share:.0%} of the measured part"
        return Warmup(share, counts, (told,) if share >= stats.WARN_CUT else ())
    # MSER's least error at its limit says that it found no end: whether there is a level, drift decides
    return Warmup(
        stats.LEAST_CUT, counts, ("the end of its warm-up was not found; the first tenth is cut off",)
    )


def operations_of(part: Part) -> dict[str, int]:
    """How many requests each operation has."""
    return _operations(part, "part", -math.inf)


def _operations(part: Part, rows: str, low: float) -> dict[str, int]:
    counted = part.query(f"SELECT operation, count(*) AS n FROM {rows} WHERE t_s >= $low GROUP BY 1", low=low)
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
    if part.run.meta.carried:
        return Reduced(part.run, 0.0, 0.0, 0, 0, (), tuple(refusals(part.run)), ())
    with loaded(part) as whole:
        return _reduced(whole, cut, asked)


def _reduced(whole: Loaded, cut: float | None, asked: Sequence[str] | None) -> Reduced:
    part, run = whole.part, whole.part.run
    reasons = list(refusals(run))
    if not whole.good or part.span_s <= 0:
        failed = run.verdict.word == "FAILED"
        nothing = (run.verdict.words if failed else "no request of its measured part succeeded",)
        return Reduced(run, 0.0, 0.0, whole.n, whole.n - whole.good, (),
                       (*reasons, *nothing), (), nothing, all_failed=failed)  # fmt: skip
    warmup = _warmup(whole) if cut is None else Warmup(cut, True)
    low, high = warmup.share * part.span_s, span_of(whole)
    operations = _operations(part, "measured", low)
    steady = Steady(part, low, high, most_frequent([operations]) if asked is None else asked)
    n, good = steady.counts[None]
    every = tuple(_values(steady)) if high > low else ()
    notes, outcomes = _unsteady(run, steady)
    if n < FEWEST:
        outcomes.append(f"only {n:,} requests in its steady part; at least {FEWEST} are needed")
    reasons += _unaccounted(run, steady)
    values, coarse = _carried(run, every, high - low)
    too_short = fidelity.coarse_span(run.meta, high - low)
    groups = _groups(steady)
    uncarried = dict.fromkeys([*([too_short] if too_short else []), *coarse.values()])
    return Reduced(
        run=run, cut=warmup.share, span_s=high - low, n=n, failed=n - good,
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
    p50 = next(name for name, p in OF_LATENCIES[METRICS[one.metric].column].items() if p == 0.5)
    found = (v.level for v in values if (v.operation, v.metric) == (one.operation, p50))
    enough = stats.support(one.n, 0.5) >= stats.MIN_SUPPORT  # then it is missing because it is 0
    return next(found, 0.0 if enough else one.level)


def refusals(run: Run) -> Iterable[str]:
    """Why a run may not be compared, from its verdict. That everything failed is a finding, not a reason."""
    verdict = run.verdict
    if not verdict.sound and verdict.word != "FAILED":
        yield verdict.words
    yield from fidelity.refusals(run.meta)


def _load_changes(run: Run) -> bool:
    """Whether the load is meant to change during the run: then nothing about it is steady by design."""
    warmup_s = run.meta.warmup_s
    return any(
        changes_after(load.stages, warmup_s)
        if load.stages
        else load.ramp_s > warmup_s or load.ramp_down_s > 0
        if isinstance(load, Users)
        else load.shape in ("ramp", "steps", "spike", "replay")
        for load in run.meta.loads
    )


def _unsteady(run: Run, steady: Steady) -> tuple[list[str], list[str]]:
    """Drift and saturation of the steady part: notes, and reasons against the run."""
    span_s = steady.high - steady.low
    if steady.counts[None][1] < FEWEST or span_s <= 0:
        return [], []
    if _load_changes(run):
        return ["its load changes by plan: warm-up, drift and backlog were not checked"], []
    notes, found = [], []
    moved = steady.drift()
    if fidelity.too_coarse_for_drift(run.meta, span_s):
        notes.append("latency drift was not checked: the timestamps are too coarse")
    elif moved.found:
        told = f"{moved.ratio - 1:+.0%} from its first half to its last third"
        found.append(f"no steady state, its latency drifts: {told}")
    elif math.isnan(moved.ratio):
        notes.append("latency drift could not be checked: there are gaps without successes")
    if run.meta.arrivals:
        grown = steady.growth()
        if grown.found:
            found.append(
                f"the server fell behind: requests in flight grew {grown.ratio:.1f}-fold, "
                "so its latency depends on how long the run lasted"
            )
    return notes, found


def _unaccounted(run: Run, steady: Steady) -> Iterable[str]:
    """Little's law in a closed loop: time of the users that neither waiting nor thinking explains.

    Users are waiting for an answer or thinking; else the client stalled, or rows are missing.
    """
    users, span_s = run.meta.users, steady.high - steady.low
    if not users or _load_changes(run) or steady.counts[None][1] < FEWEST or span_s <= 0:
        return
    think_s = float(np.mean(users.think_time_s))
    n, steps = steady.begun(steps=think_s > 0)
    level = level_after(users.stages, run.meta.warmup_s) if users.stages else users.count
    active = max(1, int(level))
    share, limit = stats.little(steady.in_flight(), think_s * steps / span_s, active, steps or n)
    limit += _OWN_S * n / span_s / active
    if abs(share - 1) > limit:
        yield (
            f"Little's law does not hold: {share:.1%} of the users' time is accounted for, "
            f"{1 - limit:.1%} to {1 + limit:.1%} would be"
        )


def _groups(steady: Steady) -> tuple[float, float] | None:
    """The response times, ms, of two groups of requests that the median lies between, None for one group."""
    if steady.response.n() < FEWEST:
        return None
    low, high = steady.response.quantiles([(None, 0.45), (None, 0.55)])
    return (low, high) if low > 0 and high / low > 2 else None


def _jumps(groups: tuple[float, float] | None) -> Iterable[str]:
    """A quantile between two groups of requests jumps from run to run."""
    if groups:
        low, high = groups
        yield f"its p50 lies between two groups of requests, {low:.3g} and {high:.3g} ms, and may jump"


# -- numbers ---------------------------------------------------------------------------------------


def _values(steady: Steady) -> Iterable[Value]:
    """Every metric of all operations together, and of each that is asked for where there are several."""
    found = {column: steady.quantiles(column, [*ps.values()]) for column, ps in OF_LATENCIES.items()}
    scored = not no_goodput(steady.part)
    for group in steady.groups if len(steady.operations) > 1 else (None,):
        name = TOTAL if group is None else steady.operations[group]
        if steady.counts[group][0]:
            yield from _counted(name, steady, group)
            if scored:
                yield _goodput(name, steady, group)
            yield from _latencies(name, steady, group, found)


def _counted(name: str, steady: Steady, group: int | None) -> Iterable[Value]:
    """Throughput, error rate, and the p99 of success, for which a failure takes for ever."""
    n, good = steady.counts[group]
    failed, span_s = n - good, steady.high - steady.low
    if rate := Value.of_ends(name, "throughput", steady.ended(group), span_s, n):
        yield rate
    yield Value.of_errors(name, failed, n)
    if failed and stats.support(n, 0.99) >= stats.MIN_SUPPORT:
        place, level = steady.success_place(group), math.inf
        if place is not None:
            (level,) = steady.response.quantiles([(group, place)])
        if level > 0:  # an imported latency may be rounded to 0
            yield Value(name, "success_p99", level, math.log(level), math.nan, math.nan, n)


def _goodput(name: str, steady: Steady, group: int | None) -> Value:
    """The rate of what meets the `slo`; of none the log of half a request."""
    span_s, n = steady.high - steady.low, steady.counts[group][0]
    none = Value(name, "goodput", 0.0, math.log(0.5 / span_s), math.nan, math.nan, n)
    return Value.of_ends(name, "goodput", steady.ended(group, "met"), span_s, n) or none


def _latencies(
    name: str, steady: Steady, group: int | None, found: Mapping[str, Mapping[Any, stats.Estimate]]
) -> Iterable[Value]:
    """Of successes: quantiles with at least 10 requests beyond them, the mean, times of tokens."""
    for column, estimated in found.items():
        for metric, p in OF_LATENCIES[column].items():
            one = estimated.get((group, p))
            if one is not None and one.point > 0:
                yield Value.of(name, metric, one)
        if column == "response_ms":
            mean = steady.mean(group)
            if mean.n >= stats.MIN_SUPPORT and mean.point > 0:
                yield Value.of(name, "mean", mean)
