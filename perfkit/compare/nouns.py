"""What a comparison says: options, a result for each metric, sides, the whole; and its words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from perfkit import stats
from perfkit.errors import BadInput, unknown
from perfkit.store.metrics import METRICS
from perfkit.store.rows import label
from perfkit.store.summary import TOTAL

Verdict = Literal["regressed", "improved", "equivalent", "inconclusive", "within-run only", "refused"]


#: The order in which a headline gives what is decided.
_DECIDED: tuple[Verdict, ...] = ("regressed", "improved", "equivalent")
#: More runs per side than this are no advice that anybody follows.
_FEASIBLE_RUNS = 30
#: Half an interval up to this share of its middle, its arms alike up to this ratio, is told as ± that half.
_NARROW, _EVEN = 0.1, 1.25
_ANY_SIZE = 1.0  #: a change that goes undetected unless it is larger may have any size

#: The part of alpha that several looks may use: a t on few runs is less alike from look to look than the
#: normal test that the levels are made for; its intervals would miss in 5.5 % (METHOD.md, "Stopping early").
_OF_SEVERAL = 0.9
_PRIMARY = ("p50", "p99", "throughput", "error_rate")


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at an experiment that stops when it is clear: its levels keep those of all looks together.

    counts: pairs that counted at each look so far, this one included; most: pairs it may have at most.
    final: the last look, which uses up what is left of alpha. again: no more pairs count than at the look
    before.
    """

    counts: tuple[int, ...]
    most: int
    final: bool = False
    again: bool = False

    def now(self, count: int) -> Look:
        """This look, at which `count` pairs counted; one at no more pairs than the last shows nothing new."""
        if self.counts and count <= self.counts[-1]:
            return dataclasses.replace(self, again=True)
        return dataclasses.replace(self, counts=(*self.counts, max(count, 1)))

    def level(self, alpha: float) -> float:
        """The two-sided level of this look, when all looks together have `alpha`."""
        fractions = [count / self.most for count in self.counts]
        if len(fractions) > 1 or not self.final:
            alpha *= _OF_SEVERAL
        if self.again and self.final:  # of other pairs, perhaps: what is left is all that may be used
            return alpha - stats.spent(fractions[-1], alpha)
        return stats.nominal_levels(fractions, alpha, last=self.final)[-1]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of a comparison."""

    margin: float = 0.05  #: a ratio within 1 ± this is no difference anybody cares for
    error_margin: float = 0.001  #: the same for the share of failed requests, absolute
    alpha: float = 0.05  #: chance of a false alarm in the whole primary family
    primary: tuple[str, ...] = _PRIMARY
    vary: tuple[str, ...] = ()  #: what may differ between the sides besides `server` and the code
    force: bool = False  #: compare what is not comparable; the page says so
    look: Look | None = None  #: of an experiment that stops when it is clear

    def __post_init__(self) -> None:
        for name, low, high in (("margin", 0.0001, 1), ("error_margin", 1e-6, 1), ("alpha", 1e-6, 0.5)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and low <= value < high):
                raise BadInput(f"{name} must be between {low:g} and {high:g}, not {value!r:.80}")
        for name in self.primary:
            if name not in METRICS:
                raise unknown("metric", name, METRICS)

    @property
    def level(self) -> float:
        """The level of this judgement: alpha, or the part of it that this look may use."""
        return self.alpha if self.look is None else self.look.level(self.alpha)

    @property
    def interval_level(self) -> float:
        """The level of a metric's own interval, %; where one looks several times it holds at each look."""
        return 95.0 if self.look is None else 100 * (1 - self.level)

    @property
    def narrow_level(self) -> float:
        """The level of the interval that equivalence is judged by, %: two one-sided tests at the level."""
        return 100 * (1 - 2 * self.level)

    @property
    def family_level(self) -> float:
        """The level of the intervals of the whole primary family at once, %."""
        return 100 * (1 - self.level)

    @property
    def by_name(self) -> bool:
        """Whether somebody chose the primary metrics: then one that cannot be judged leaves no verdict."""
        return self.primary != _PRIMARY


@dataclass(frozen=True)
class Result:
    """One metric of one operation. Levels are geometric means of the runs; ratio is B ÷ A, NaN without any.

    low, high: 95 % interval; low_all, high_all: that of the whole primary family at once, of level 1 - alpha;
    low_narrow, high_narrow: what equivalence is judged by, of level 1 - 2 alpha. detectable: the change, a
    share, that would be found 8 times of 10 if only this metric changed; repeats: runs a side until that is
    the margin (None: beyond reach).
    """

    operation: str
    metric: str
    unit: str
    primary: bool
    a: float
    b: float
    runs_a: int
    runs_b: int
    ratio: float
    low: float
    high: float
    low_all: float
    high_all: float
    low_narrow: float
    high_narrow: float
    p: float
    p_adjusted: float
    method: str
    verdict: Verdict
    small_but_real: bool
    detectable: float
    repeats: int | None
    tipping_point: float
    notes: tuple[str, ...]
    jumps: bool = False  #: a median between two groups of requests


@dataclass(frozen=True)
class Side:
    """One side: its name, the runs that count, and those left out with the reasons."""

    name: str
    runs: tuple[str, ...]
    left_out: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Comparison:
    """All of it; `verdict` is the worst of the primary metrics. refused: why there is none.

    cut: the share left out at the beginning of every run. unjudged: primary metrics that the runs cannot
    judge, and why. selection: words for sides that lost different shares of their runs to what their server
    did. lacking: operations that one side lacks, in words.
    """

    verdict: Verdict
    words: str
    a: Side
    b: Side
    pairs: int
    results: tuple[Result, ...]
    refused: tuple[str, ...]
    forced: tuple[str, ...]
    notes: tuple[str, ...]
    options: Options
    history_df: float = 0.0
    cut: float | None = None
    unjudged: tuple[tuple[str, str], ...] = ()
    selection: str | None = None
    lacking: tuple[str, ...] = ()
    duet: bool = False  #: both runs of a pair were carried out at once

    @property
    def part(self) -> str:
        """Of which part of every run the numbers are."""
        return label(self.cut or 0.0)

    def change(self, one: Result) -> str:
        """How much a metric changed, in words; see `change`."""
        return change(one, self.options)

    @property
    def level(self) -> Literal["good", "warn", "bad"]:
        """How a reader should take it."""
        if self.forced or self.verdict in ("regressed", "refused"):
            return "bad"
        return "good" if self.verdict in ("improved", "equivalent") else "warn"

    def to_mapping(self) -> dict[str, Any]:
        """As JSON has it; NaN and infinity become null."""
        return cast(dict[str, Any], _plain(dataclasses.asdict(self)))

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_mapping`; msgspec.ValidationError for anything else."""
        results = [
            {
                _OLD_NAMES.get(name, name): math.nan if value is None and name in _FLOATS else value
                for name, value in one.items()
            }
            if isinstance(one, Mapping)
            else one
            for one in given["results"]
        ]
        return msgspec.convert({**given, "results": results}, cls)

    def result(self, metric: str, operation: str = TOTAL) -> Result:
        """One of the results; KeyError for one there is not."""
        for one in self.results:
            if one.metric == metric and one.operation == operation:
                return one
        raise KeyError(f"{metric} of {operation}")


#: Fields of a result that may be NaN, which JSON does not know.
_OLD_NAMES = {"low90": "low_narrow", "high90": "high_narrow"}
_FLOATS = {f.name for f in dataclasses.fields(Result) if f.type == "float"} | set(_OLD_NAMES)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


# -- words ------------------------------------------------------------------------------------------


def headline(
    verdict: Verdict,
    results: Sequence[Result],
    names: tuple[str, str],
    options: Options,
    but: Sequence[str] = (),
) -> str:
    """The verdict and what it rests on, in a sentence; `but`: what stands in its way, a sentence each.

    Where every metric is decided and the whole is still inconclusive, the first of `but` is why: it leads.
    """
    text = _headline(verdict, results, *names, options)
    primary = {one.verdict for one in results if one.primary}
    if verdict == "inconclusive" and but and primary and "inconclusive" not in primary:
        text = f"INCONCLUSIVE: {but[0]}. {text.removeprefix('INCONCLUSIVE: ')}"
        but = but[1:]
    if options.look is not None and verdict != "refused":
        text += f" {_stopped(options)}"
    return " ".join([text, *(f"{one[0].upper()}{one[1:]}." for one in but)])


def _headline(verdict: Verdict, results: Sequence[Result], a: str, b: str, options: Options) -> str:
    primary = [one for one in results if one.primary]
    if verdict == "within-run only":
        known = [r for r in primary if math.isfinite(r.ratio)]
        told = "; ".join(f"{r.metric} {change(r, options)}{_tipping(r)}" for r in known)
        why = "WITHIN-RUN ONLY, no verdict: one run per side cannot distinguish a change from chance."
        return f"{why} {b} vs {a}: {told}."
    if not primary:
        return f"{verdict.upper()}: no primary metric could be computed for every run of {a} and {b}."
    decided = [r for word in _DECIDED for r in primary if r.verdict == word]
    clauses = [f"{r.metric} {change(r, options)} {r.verdict}" for r in decided]
    clauses += _undecided([r for r in primary if r.verdict == "inconclusive"])
    return f"{verdict.upper()}: {b} vs {a}: {'; '.join(clauses)}.{_speed(decided, a, b)}"


def _stopped(options: Options) -> str:
    """What looking several times means for the numbers."""
    look = options.look
    assert look is not None
    early = not look.final
    words = (
        f"{'Stopped' if early else 'Ended'} with {look.counts[-1]} pairs that count, of at most {look.most}, "
        f"at look {len(look.counts)} (level {options.level:.2%} of {options.alpha:.0%}): the intervals hold "
        "whenever one stops"
    )
    return words + ("; estimates after an early stop lean away from zero." if early else ".")


def _undecided(results: Sequence[Result]) -> list[str]:
    """A clause for each reason why metrics are undecided; of several, the size of the worst."""
    same: dict[str, list[Result]] = {}
    for one in results:
        same.setdefault(_why_undecided(one), []).append(one)
    clauses = []
    for why, of in same.items():
        worst = max(one.detectable for one in of)
        size = f"below {worst:.1%}" if worst < _ANY_SIZE else "of any size"
        words = why.format(whose="its" if len(of) == 1 else "their", size=size)
        clauses.append(f"{' and '.join(one.metric for one in of)} {words}")
    return clauses


def _why_undecided(one: Result) -> str:
    """What a metric that is undecided may have hidden, and what it would take to see that."""
    if one.jumps:
        return (
            "cannot be decided this way: it lies between two groups of requests, whose share moves from run "
            "to run; compare the operations one by one"
        )
    if METRICS[one.metric].kind == "errors" or not math.isfinite(one.detectable):
        return "undecided"
    if needed := needed_words(one):
        return f"undecided: a change {{size}} may go undetected; {needed} would detect the margin"
    return (
        "cannot be decided this way: {whose} runs differ so much that a change {size} may go undetected; try "
        "longer runs, an idle machine or a wider --margin"
    )


def detectable_words(change: float) -> str:
    """A detectable change, a share, for a table; `any size` for one that is no finding to anybody."""
    return "any size" if change >= _ANY_SIZE else f"{change:.1%}" if math.isfinite(change) else "—"


def needed_words(one: Result) -> str:
    """The runs that would bring the detectable change to the margin; empty where that is too many."""
    return f"{one.repeats} runs per side" if one.repeats and one.repeats <= _FEASIBLE_RUNS else ""


def _speed(decided: Sequence[Result], a: str, b: str) -> str:
    """`B is 1.20 ± 0.05 times faster than A (p50).`, of the first latency that changed, with its interval."""
    for one in decided:
        if one.verdict == "equivalent" or METRICS[one.metric].kind != "latency" or not math.isfinite(one.low):
            continue
        word, times = ("slower", (one.ratio, one.low, one.high)) if one.ratio > 1 else (
            "faster", (1 / one.ratio, 1 / one.high, 1 / one.low)
        )  # fmt: skip
        return f" {b} is {_times(*times, word)} than {a} ({one.metric})."
    return ""


def _times(factor: float, low: float, high: float, word: str) -> str:
    """`1.20 ± 0.05 times faster`; `31 times faster (17 to 57)` where ± would name other ends."""
    half, (short, long) = (high - low) / 2, sorted((factor - low, high - factor))
    if half <= _NARROW * factor and long <= _EVEN * short:
        digits = 2 if half < 1 else 1 if half < 10 else 0
        return f"{factor:,.{digits}f} ± {half:,.{digits}f} times {word}"
    digits = 2 if factor < 10 else 0
    factor_words, *ends = (f"{x:,.{digits}f}" for x in (factor, low, high))
    return f"{factor_words} times {word} ({' to '.join(ends)})"


def _tipping(one: Result) -> str:
    text = tipping_words(one)
    return f" ({text})" if text else ""


def tipping_words(one: Result) -> str:
    """What one run a side would need to count; empty where that is not known."""
    if not math.isfinite(one.tipping_point):
        return ""
    if one.tipping_point < 0.0005:
        return "would not count even if runs never differed"
    return f"would count only if runs differ by less than {one.tipping_point:.1%} (sd)"


def verdict_words(one: Result) -> str:
    """A metric's verdict for a table; where neither side had a failure, that, and not `inconclusive`."""
    none_failed = METRICS[one.metric].kind == "errors" and one.a == 0 == one.b
    return "no failures" if none_failed and one.verdict == "inconclusive" else one.verdict


def ratio_words(one: Result, options: Options) -> str:
    """`change` for a column beside both levels: a dash where it would only repeat them."""
    text = change(one, options)
    return "—" if " → " in text else text


def change(one: Result, options: Options) -> str:
    """`+3.2 % [+1.0 %, +5.4 %]`, the interval that decided: 95 %, of equivalence 90 % where alpha is 0.05;
    errors as shares."""
    if METRICS[one.metric].kind == "errors":
        return f"{one.a:.2%} → {one.b:.2%}"
    if one.metric == "success_p99" and not (math.isfinite(one.a) and math.isfinite(one.b)):
        a, b = ("not reached" if not math.isfinite(x) else f"{x:.4g} {one.unit}" for x in (one.a, one.b))
        return f"{a} → {b}"
    if not math.isfinite(one.ratio):
        return "unknown"
    if not math.isfinite(one.low):
        return f"{one.ratio - 1:+.1%}, no interval"
    low, high, level = one.low, one.high, ""
    if options.look is not None:
        level = f"{options.interval_level:.4g} %: "
    if one.verdict == "equivalent" and math.isfinite(one.low_narrow):
        low, high, level = one.low_narrow, one.high_narrow, f"{options.narrow_level:.4g} %: "
    return f"{one.ratio - 1:+.1%} [{level}{low - 1:+.1%}, {high - 1:+.1%}]"
