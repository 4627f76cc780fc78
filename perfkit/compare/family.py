"""Every metric of a case compared: a t on one number per run, adjusted for the family, then a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from perfkit import stats
from perfkit.compare.nouns import Options, Result, Verdict
from perfkit.compare.reduce import Reduced, Value
from perfkit.store.metrics import METRICS
from perfkit.store.summary import TOTAL

#: From so many runs a side on the family is adjusted by permutations; with fewer Holm.
_MAX_T_FROM = 5
#: So many degrees of freedom of history let one run a side be screened.
_SCREENING_DF = 9
_NONE = (math.nan, math.nan)


@dataclass
class Case:
    """What a comparison's statistics need: the runs that count, in pairs if `paired`, and known noise."""

    a: list[Reduced]
    b: list[Reduced]
    paired: bool
    even: bool  #: the runs are of one length
    options: Options
    history: Mapping[str, stats.History] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """One run on a side: nothing is replicated."""
        return min(len(self.a), len(self.b)) < 2


@dataclass
class _Line:
    """One metric of one operation: its value in each run, and the difference, if that has an error."""

    operation: str
    metric: str
    a: list[Value]
    b: list[Value]
    primary: bool
    difference: stats.Difference | None

    @property
    def y(self) -> tuple[stats.Floats, stats.Floats]:
        return np.array([v.y for v in self.a]), np.array([v.y for v in self.b])


def compare_metrics(case: Case) -> list[Result]:
    """A result for each metric of each operation that every run carries."""
    lines = list(_lines(case))
    family = sum(line.primary and line.difference is not None for line in lines)
    adjusted = _adjusted(case, lines)
    return [_result(case, line, p, family) for line, p in zip(lines, adjusted, strict=True)]


def _lines(case: Case) -> Iterator[_Line]:
    operations = dict.fromkeys(v.operation for one in (*case.a, *case.b) for v in one.values)
    for operation in operations:
        for metric in METRICS:
            a, b = (_carried(side, operation, metric) for side in (case.a, case.b))
            primary = operation == TOTAL and metric in case.options.primary
            if metric == "success_p99" and not primary and not _fails(case, operation):
                continue  # it is the p99
            if a is not None and b is not None:
                line = _Line(operation, metric, a, b, primary, None)
                line.difference = _difference(case, line)
                yield line


def _fails(case: Case, operation: str) -> bool:
    """Whether a run tells of failures, without which success is all there is."""
    return any(one.value(operation, "success_p99") for one in (*case.a, *case.b))


def _carried(side: Sequence[Reduced], operation: str, metric: str) -> list[Value] | None:
    """The metric of every run; None where one does not carry it, or where some reach it and some do not."""
    found = []
    for one in side:
        value = one.value(operation, metric)
        if value is None and metric == "success_p99":  # nothing failed: success is all there is
            value = one.value(operation, "p99") if not one.failed else None
        if value is None:
            return None
        found.append(value)
    reached = {math.isfinite(value.y) for value in found}
    return found if len(reached) == 1 else None


def unjudged(case: Case, results: Sequence[Result]) -> Iterator[tuple[str, str, bool]]:
    """Primary metrics that these runs cannot judge: the metric, why, and whether that itself may be a change.

    It may be when just one side carries the metric, and when it was asked for by name.
    """
    for metric in case.options.primary:
        sides = [_carried(side, TOTAL, metric) for side in (case.a, case.b)]
        if sides[0] and sides[1] and not _reached(sides[0]) and not _reached(sides[1]):
            yield metric, "more than 1 % of requests failed on both sides", case.options.by_name
            continue
        if sides[0] is None or sides[1] is None:
            lopsided = any(sides)
            runs = (*case.a, *case.b)
            coarse = next((one.coarse[TOTAL, metric] for one in runs if (TOTAL, metric) in one.coarse), None)
            why = coarse or "too few requests in some run"
            yield metric, why, lopsided or case.options.by_name
            continue
        (one,) = (r for r in results if r.primary and r.metric == metric)
        if METRICS[metric].kind == "errors" and math.isnan(one.p) and one.verdict == "inconclusive":
            n = [sum(v.n for v in side) for side in sides if side]
            why = f"no failure in {n[0]:,} and {n[1]:,} requests; a share of up to "
            why += f"{blind_share(*(side or [] for side in sides)):.2%} would not have shown"
            yield metric, why, case.options.by_name


def _reached(side: Sequence[Value]) -> bool:
    """Whether the runs of a side reach a metric: the p99 of success is endless where more than 1 % fail."""
    return math.isfinite(side[0].y)


def _difference(case: Case, line: _Line) -> stats.Difference | None:
    """B - A on the log scale; None when no error can be given to it, or nothing failed anywhere."""
    if not (_reached(line.a) and _reached(line.b)):
        return _of_failures(case, line)
    a, b = line.y
    counts = METRICS[line.metric].kind == "errors"
    if counts and not any(v.level for v in (*line.a, *line.b)):
        return None
    known = case.history if line.operation == TOTAL and not counts else {}
    history = known.get(line.metric)
    if case.paired:
        found = stats.paired(a, b, known.get(f"paired {line.metric}"))
    elif case.alone and (history is None or history.df < _SCREENING_DF):
        return None
    elif case.even:
        found = stats.pooled(a, b, history)
    elif min(len(a), len(b)) >= 3:
        found = stats.welch(a, b)
    else:
        return None
    # five runs with one failure each are no more alike than chance made them
    return found.at_least(_counting_error(line.a, line.b)) if counts else found


def _of_failures(case: Case, line: _Line) -> stats.Difference | None:
    """The difference of the shares of failures, where just one side reaches the p99 of success."""
    if _reached(line.a) == _reached(line.b):
        return None
    a, b = (_carried(side, line.operation, "error_rate") for side in (case.a, case.b))
    if a is None or b is None:
        return None
    return _difference(case, _Line(line.operation, "error_rate", a, b, line.primary, None))


def _adjusted(case: Case, lines: Sequence[_Line]) -> list[float]:
    """p-values: max-T or Holm in the primary family, Benjamini–Hochberg among the others; NaN for none."""
    p = [math.nan if line.difference is None else line.difference.p for line in lines]
    family = [i for i, line in enumerate(lines) if line.primary and not math.isnan(p[i])]
    others = [i for i, line in enumerate(lines) if not line.primary and not math.isnan(p[i])]
    runs = min(len(case.a), len(case.b))
    found = dict(zip(others, stats.benjamini_hochberg([p[i] for i in others]), strict=True))
    alike = all(
        _method(lines[i]) == "pooled" and _reached(lines[i].a) and _reached(lines[i].b) for i in family
    )
    if family and runs >= _MAX_T_FROM and alike and case.options.look is None:  # too few for such levels
        a, b = (np.array([lines[i].y[side] for i in family]).T for side in (0, 1))
        found |= dict(zip(family, stats.max_t(a, b), strict=True))
    else:
        found |= dict(zip(family, stats.holm([p[i] for i in family]), strict=True))
    return [found.get(i, math.nan) for i in range(len(lines))]


def _method(line: _Line) -> str:
    return "within-run" if line.difference is None else line.difference.method


# -- one metric ------------------------------------------------------------------------------------


def _result(case: Case, line: _Line, p: float, family: int) -> Result:
    alpha, kind, one = case.options.level, METRICS[line.metric].kind, line.difference
    a, b = line.y
    endless = [not _reached(side) for side in (line.a, line.b)]
    ratio = math.nan if any(endless) else stats.ratio_of(float(b.mean() - a.mean()))
    level = alpha / family if line.primary and one is not None else alpha
    interval = together = narrow = _NONE
    detectable, tipping, repeats = math.nan, math.nan, None
    notes = list(_notes(line))
    if one is None:
        interval, tipping = _within(line)
    else:
        interval, narrow = one.interval(case.options.interval_level / 100), one.interval(1 - 2 * alpha)
        together = one.interval(1 - level) if line.primary else _NONE
        detectable = stats.detectable(one.se, one.df, level=level)
        repeats = _repeats(case, one, len(a), len(b), level)
        if case.alone:  # a screening; what the runs know of themselves is told beside it
            _, tipping = _within(line)
        if one.noisier:
            notes.append("noisier than earlier runs of this configuration, so the noise floor was not used")
    if any(endless):  # what was tested is the share of failures
        interval = together = narrow = _NONE
        detectable, tipping, repeats = math.nan, math.nan, None
    verdict = _verdict(case, line, narrow, p, math.inf if endless[1] else 0.0 if endless[0] else ratio)
    real = verdict == "equivalent" and (interval[0] > 1 or interval[1] < 1)
    if one is None and kind == "errors":
        ratio, interval = math.nan, _NONE
    return Result(
        operation=line.operation, metric=line.metric, unit=METRICS[line.metric].unit, primary=line.primary,
        a=_level(kind, line.a), b=_level(kind, line.b), runs_a=len(a), runs_b=len(b),
        ratio=ratio, low=interval[0], high=interval[1], low_all=together[0], high_all=together[1],
        low_narrow=narrow[0], high_narrow=narrow[1], p=math.nan if one is None else one.p, p_adjusted=p,
        method=_method(line), verdict=verdict, small_but_real=real, detectable=detectable, repeats=repeats,
        tipping_point=tipping, notes=tuple(notes), jumps=_jumps(case, line),
    )  # fmt: skip


def _jumps(case: Case, line: _Line) -> bool:
    """Whether the median of all requests lies between two groups of them, in some run."""
    runs = (*case.a, *case.b)
    return line.metric == "p50" and line.operation == TOTAL and any(one.groups_ms for one in runs)


def _verdict(case: Case, line: _Line, narrow: tuple[float, float], p: float, ratio: float) -> Verdict:
    """Equivalent before different: what lies within the margin is no difference anybody cares for."""
    if case.alone:
        return "within-run only"
    if _equivalent(case, line, narrow):
        return "equivalent"
    if p < case.options.level:
        worse = ratio < 1 if METRICS[line.metric].higher_is_better else ratio > 1
        return "regressed" if worse else "improved"
    return "inconclusive"


def _equivalent(case: Case, line: _Line, narrow: tuple[float, float]) -> bool:
    """The interval of level 1 - 2 alpha lies within the margin: two one-sided tests (Schuirmann 1987)."""
    options = case.options
    if METRICS[line.metric].kind != "errors":
        return narrow[0] >= 1 - options.margin and narrow[1] <= 1 + options.margin
    # a ratio of nearly nothing says nothing: shares are judged by their difference
    if line.difference is None:
        return blind_share(line.a, line.b) <= options.error_margin
    a, b = (np.array([v.level for v in side]) for side in (line.a, line.b))
    by_chance = _counting_error(line.a, line.b, lambda v: (v.level + 0.5 / v.n) / v.n)
    plain = (stats.paired(a, b) if case.paired else stats.pooled(a, b)).at_least(by_chance)
    half = stats.t_factor(1 - 2 * options.level, plain.df) * plain.se
    return abs(plain.d) + half <= options.error_margin


def blind_share(a: Sequence[Value], b: Sequence[Value]) -> float:
    """The share of failures that no failure at all leaves possible on the smaller side: 3 ÷ n (95 %).

    The rule of three (Hanley & Lippman-Hand 1983).
    """
    return 3 / max(min(sum(v.n for v in side) for side in (a, b)), 1)


def _counting_error(
    a: Sequence[Value], b: Sequence[Value], variance: Callable[[Value], float] = lambda v: v.se**2
) -> float:
    """The standard error of a difference of means that counts of failures have by chance alone (Poisson)."""
    return math.sqrt(sum(sum(map(variance, side)) / len(side) ** 2 for side in (a, b)))


def _repeats(case: Case, one: stats.Difference, a: int, b: int, level: float) -> int | None:
    sd = one.se * math.sqrt(a if case.paired else 1 / (1 / a + 1 / b))
    borrowed = one.df - (a - 1 if case.paired else a + b - 2) if "moderated" in one.method else 0.0
    return stats.repeats_needed(
        sd, case.options.margin, pairs=case.paired, level=level, more_df=max(borrowed, 0.0)
    )


def _level(kind: str, side: Sequence[Value]) -> float:
    """A geometric mean, of shares of errors and of nothing at all the plain one."""
    if kind == "errors" or not _reached(side) or not any(v.level for v in side):
        return float(np.mean([v.level for v in side]))
    return stats.ratio_of(float(np.mean([v.y for v in side])))


def _within(line: _Line) -> tuple[tuple[float, float], float]:
    """One run a side: the within-run interval of the ratio, and the run-to-run sd it would have to beat.

    From both runs' errors by MOVER (Zou & Donner 2008), symmetric on the log scale.
    """
    if not len(line.a) == len(line.b) == 1:
        return _NONE, math.nan
    d = line.b[0].y - line.a[0].y
    half = stats.t_factor(0.95, 1e9) * math.hypot(line.a[0].se, line.b[0].se)
    if math.isnan(half):
        return _NONE, math.nan
    return (stats.ratio_of(d - half), stats.ratio_of(d + half)), stats.tipping_point(d, half)


def _notes(line: _Line) -> Iterator[str]:
    """What a reader must know of this metric."""
    thin = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01}.get(line.metric.rsplit("_", 1)[-1])
    least = min(v.n for v in (*line.a, *line.b))
    if thin is not None and thin * least < stats.GOOD_SUPPORT:
        yield f"only {thin * least:.0f} requests lie beyond it in one run"
