"""Every metric of a case compared: a t on one number per run, adjusted for the family, then a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from perfkit import stats
from perfkit.comparison.nouns import Options, Result, Verdict
from perfkit.reduce import METRICS, TOTAL, UNITS, Reduced, Value

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
            if metric == "success_p99" and not any(
                one.value(operation, metric) for one in (*case.a, *case.b)
            ):
                continue
            if a is not None and b is not None:
                primary = operation == TOTAL and metric in case.options.primary
                line = _Line(operation, metric, a, b, primary, None)
                line.difference = _difference(case, line)
                yield line


def _carried(side: Sequence[Reduced], operation: str, metric: str) -> list[Value] | None:
    """The metric of every run; None where one does not carry it."""
    found = []
    for one in side:
        value = one.value(operation, metric)
        if value is None and metric == "success_p99":  # nothing failed: success is all there is
            value = one.value(operation, "p99") if not one.failed else None
        if value is None:
            return None
        found.append(value)
    return found


def _difference(case: Case, line: _Line) -> stats.Difference | None:
    """B - A on the log scale; None when no error can be given to it, or nothing failed anywhere."""
    a, b = line.y
    if METRICS[line.metric] == "errors" and not any(v.level for v in (*line.a, *line.b)):
        return None
    known = case.history if line.operation == TOTAL else {}
    if case.paired:
        return stats.paired(a, b, known.get(f"paired {line.metric}"))
    history = known.get(line.metric)
    if case.alone and (history is None or history.df < _SCREENING_DF):
        return None
    if case.even:
        return stats.pooled(a, b, history)
    return stats.welch(a, b) if min(len(a), len(b)) >= 3 else None


def _adjusted(case: Case, lines: Sequence[_Line]) -> list[float]:
    """p-values: max-T or Holm in the primary family, Benjamini–Hochberg among the others; NaN for none."""
    p = [math.nan if line.difference is None else line.difference.p for line in lines]
    family = [i for i, line in enumerate(lines) if line.primary and not math.isnan(p[i])]
    others = [i for i, line in enumerate(lines) if not line.primary and not math.isnan(p[i])]
    runs = min(len(case.a), len(case.b))
    found = dict(zip(others, stats.benjamini_hochberg([p[i] for i in others]), strict=True))
    if family and runs >= _MAX_T_FROM and all(_method(lines[i]) == "pooled" for i in family):
        a, b = (np.array([lines[i].y[side] for i in family]).T for side in (0, 1))
        found |= dict(zip(family, stats.max_t(a, b), strict=True))
    else:
        found |= dict(zip(family, stats.holm([p[i] for i in family]), strict=True))
    return [found.get(i, math.nan) for i in range(len(lines))]


def _method(line: _Line) -> str:
    return "within-run" if line.difference is None else line.difference.method


# -- one metric ------------------------------------------------------------------------------------


def _result(case: Case, line: _Line, p: float, family: int) -> Result:
    alpha, kind, one = case.options.alpha, METRICS[line.metric], line.difference
    a, b = line.y
    ratio = math.exp(float(b.mean() - a.mean()))
    interval = together = narrow = _NONE
    detectable, tipping, repeats = math.nan, math.nan, None
    notes = list(_notes(line))
    if one is None:
        interval, tipping = _within(line)
    else:
        interval, narrow = one.interval(0.95), one.interval(1 - 2 * alpha)
        together = one.interval(1 - alpha / family) if line.primary else _NONE
        detectable = stats.detectable(one.se, one.df, level=alpha)
        repeats = _repeats(case, one, len(a), len(b))
        if one.noisier:
            notes.append("noisier than earlier runs of this configuration, whose noise was not used")
    verdict = _verdict(case, line, narrow, p, ratio)
    real = verdict == "equivalent" and (interval[0] > 1 or interval[1] < 1)
    if one is None and kind == "errors":
        ratio, interval = math.nan, _NONE
    return Result(
        operation=line.operation, metric=line.metric, unit=UNITS[kind], primary=line.primary,
        a=_level(kind, line.a), b=_level(kind, line.b), runs_a=len(a), runs_b=len(b),
        ratio=ratio, low=interval[0], high=interval[1], low_all=together[0], high_all=together[1],
        low90=narrow[0], high90=narrow[1], p=math.nan if one is None else one.p, p_adjusted=p,
        method=_method(line), verdict=verdict, small_but_real=real, detectable=detectable, repeats=repeats,
        tipping_point=tipping, notes=tuple(notes),
    )  # fmt: skip


def _verdict(case: Case, line: _Line, narrow: tuple[float, float], p: float, ratio: float) -> Verdict:
    """Equivalent before different: what lies within the margin is no difference anybody cares for."""
    if case.alone:
        return "within-run only"
    if _equivalent(case, line, narrow):
        return "equivalent"
    if p < case.options.alpha:
        worse = ratio < 1 if METRICS[line.metric] == "rate" else ratio > 1
        return "regressed" if worse else "improved"
    return "inconclusive"


def _equivalent(case: Case, line: _Line, narrow: tuple[float, float]) -> bool:
    """The 90 % interval lies within the margin: two one-sided tests (Schuirmann 1987)."""
    options = case.options
    if METRICS[line.metric] != "errors":
        return narrow[0] >= 1 - options.margin and narrow[1] <= 1 + options.margin
    # a ratio of nearly nothing says nothing: shares are judged by their difference
    a, b = (np.array([v.level for v in side]) for side in (line.a, line.b))
    plain = stats.paired(a, b) if case.paired else stats.pooled(a, b)
    half = stats.t_factor(1 - 2 * options.alpha, plain.df) * plain.se
    return abs(plain.d) + half <= options.error_margin


def _repeats(case: Case, one: stats.Difference, a: int, b: int) -> int | None:
    sd = one.se * math.sqrt(a if case.paired else 1 / (1 / a + 1 / b))
    return stats.repeats_needed(sd, case.options.margin, pairs=case.paired)


def _level(kind: str, side: Sequence[Value]) -> float:
    """A geometric mean, of shares of errors the plain one."""
    if kind == "errors":
        return float(np.mean([v.level for v in side]))
    return math.exp(float(np.mean([v.y for v in side])))


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
    return (math.exp(d - half), math.exp(d + half)), stats.tipping_point(d, half)


def _notes(line: _Line) -> Iterator[str]:
    """What a reader must know of this metric."""
    thin = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01}.get(line.metric.rsplit("_", 1)[-1])
    least = min(v.n for v in (*line.a, *line.b))
    if thin is not None and thin * least < stats.GOOD_SUPPORT:
        yield f"only {thin * least:.0f} requests lie beyond it in one run"
