"""From two groups of runs to a comparison: which runs count, in which design, and the verdict of all."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from perfkit import stats
from perfkit.compare.configuration import differences, differences_within, refuse_unknown
from perfkit.compare.family import Case, compare_metrics, unjudged
from perfkit.compare.nouns import Comparison, Options, Result, Side, Verdict, headline
from perfkit.compare.reduce import (
    MOST_OPERATIONS,
    WARMED_UP,
    Reduced,
    most_frequent,
    reduce_part,
    warmup_of,
)
from perfkit.compare.replayed import recording_and_replay
from perfkit.compare.steady import loaded
from perfkit.errors import BadInput
from perfkit.store import Run
from perfkit.store.results import digest
from perfkit.store.rows import Part

#: Tables of so many rows have room in memory together: 80 bytes a row.
_FEW_ROWS = 500_000
#: Of the runs that one side lost more than the other: a selection below this p, or from this share of a side
#: on (a few runs never reach the p, and without a third of them the rest says another thing).
_LOST_BY_CHANCE, _MANY_LOST = 0.05, 1 / 3
_SURELY = 8  #: so many requests are not missing by chance
#: Worst first: the overall verdict is that of the worst primary metric.
_WORST: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved", "equivalent")


def compare(
    a: Sequence[Run],
    b: Sequence[Run],
    options: Options | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    history: Mapping[str, stats.History] | None = None,
    known: dict[tuple[Any, ...], Any] | None = None,
) -> Comparison:
    """Compare two groups of runs.

    known: what runs were reduced to by earlier calls with it; this call's are added.

    history: noise of earlier runs of this configuration, by metric of all operations (`compare.noise`),
    for pairs under `paired <metric>`. BadInput for an empty group or a run on both sides.
    """
    options = options or Options()
    for side, name in ((a, names[0]), (b, names[1])):
        if not side:
            raise BadInput(f"no run on side {name}; give at least one")
    _refuse_twice([*a, *b])
    reduced = _reduced([*a, *b], {} if known is None else known)
    groups = reduced[: len(a)], reduced[len(a) :]
    return judge(*groups, options, names=names, history=history, refused=_same_rows([*a, *b]))


def _refuse_twice(runs: Sequence[Run]) -> None:
    """BadInput for a run that is given twice, by its path or its id: a copy replicates nothing."""
    first: dict[str, int] = {}
    for i, run in enumerate(runs):
        for same in (str(run.path.resolve()), run.id):
            if first.setdefault(same, i) != i:
                raise BadInput(f"{run.id} is given twice; name each run once, on one side")


def _reduced(runs: Sequence[Run], known: dict[tuple[Any, ...], Any]) -> list[Reduced]:
    """Each run from the same share of its time on, and in the same operations."""
    tables = contextlib.ExitStack()
    few = sum(run.row_count() for run in runs) <= _FEW_ROWS

    @functools.cache
    def opened(run: Run) -> Part:
        part = Part(run)
        if few:  # both passes over a run share one table
            tables.enter_context(loaded(part))
        return part

    def once(run: Run, make: Callable[..., Any], *how: Any) -> Any:
        key = (run.path, make, *how)
        if key not in known:
            known[key] = make(opened(run), *how)
        return known[key]

    # numpy and pyarrow let others run
    with tables, ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as threads:
        cuts = list(threads.map(lambda run: once(run, warmup_of), runs))
        common = _common_cut([cut.share for cut in cuts if cut.counts])
        asked = most_frequent(cut.operations for cut in cuts)
        alone = threads.map(lambda run: once(run, reduce_part, common, asked), runs)
        return [
            dataclasses.replace(one, notes=(*cut.notes, *one.notes))
            for one, cut in zip(alone, cuts, strict=True)
        ]


def _common_cut(shares: Sequence[float]) -> float:
    """The longest warm-up after dropping the longest quarter: of many runs some seem to warm up by chance."""
    rising = sorted(shares)
    return rising[-1 - len(rising) // 4] if rising else stats.LEAST_CUT


def judge(
    a: Sequence[Reduced],
    b: Sequence[Reduced],
    options: Options,
    *,
    names: tuple[str, str] = ("A", "B"),
    history: Mapping[str, stats.History] | None = None,
    refused: Sequence[str] = (),
) -> Comparison:
    """The same for runs that are reduced already; refused: what speaks against comparing them at all."""
    everything = [*a, *b]
    refuse_unknown(options.vary)
    # who is excluded anyway does not keep the others from being compared
    sides = [[one for one in side if not one.reasons] or side for side in (a, b)]
    wrong = differences((one.run for side in sides for one in side), options.vary)
    pair = recording_and_replay(everything)
    for given, name in zip(sides, names, strict=True):
        within = differences_within(one.run for one in given)
        wrong += [f"runs of {name} differ: {told}" for told in within if told not in wrong]
    may = [line for line in wrong if not line.startswith(("different tool:", "different fidelity:"))]
    if pair:  # which says more than all in which they differ
        wrong, may = pair, []
    wrong += refused
    hint = " Name what is meant to differ with --vary NAME (in Python vary=…)." if may else ""
    forced: list[str] = []
    if options.force:
        forced = [*wrong, *(f"{one.run.id}: {why}" for one in everything for why in one.reasons)]
        wrong = []
    good_a, good_b = ([one for one in side if options.force or not one.reasons] for side in (a, b))
    pairs = _pairs(good_a, good_b)
    if options.look is not None:
        options = dataclasses.replace(options, look=options.look.now(len(pairs)))
    if len(pairs) >= 2:
        good_a, good_b = [one for one, _ in pairs], [one for _, one in pairs]
    left, right = _side(names[0], a, good_a), _side(names[1], b, good_b)
    if not wrong and (found := _one_side_failed(left, right, a, b, options, tuple(forced))):
        return found
    for side in (left, right):
        if not side.runs:
            why = "; ".join(dict.fromkeys(reason for _, reasons in side.left_out for reason in reasons))
            wrong.append(f"no run of {side.name} can be compared ({why})")
    if wrong or not all(one.values for one in (*good_a, *good_b)):
        wrong = wrong or ["a run has no successful request to compare"]
        words = f"REFUSED: {'; '.join(wrong)}.{hint}"
        return Comparison("refused", words, left, right, len(pairs), (), tuple(wrong), (), (), options)
    spans = [one.span_s for one in (*good_a, *good_b)]
    case = Case(good_a, good_b, len(pairs) >= 2, max(spans) <= 1.1 * min(spans), options, history or {})
    selection, note = _selection((left, right), (a, b))
    told = _told(case, left, right, tuple(forced), selection)
    return dataclasses.replace(told, notes=(*note, *told.notes))


def _one_side_failed(
    left: Side,
    right: Side,
    a: Sequence[Reduced],
    b: Sequence[Reduced],
    options: Options,
    forced: tuple[str, ...],
) -> Comparison | None:
    """The comparison where no request of any run of one side succeeded, and of the other side some did."""
    failed_a, failed_b = (all(one.all_failed for one in side) for side in (a, b))
    if failed_a == failed_b or not (left if failed_b else right).runs:
        return None
    verdict: Verdict = "regressed" if failed_b else "improved"
    name, failed = (right.name, b) if failed_b else (left.name, a)
    words = f"{verdict.upper()}: no request of {name} succeeded: {'; '.join(failed[0].outcomes)}."
    return Comparison(verdict, words, left, right, 0, (), (), forced, (), options)


def _selection(
    kept: tuple[Side, Side], sides: tuple[Sequence[Reduced], Sequence[Reduced]]
) -> tuple[str | None, list[str]]:
    """Words for a side that lost more of its runs, maybe by its server's doing; a note where it is chance.

    What is left of such a side is a selection of its good runs: it cannot be called as good as the other.
    """
    lost = [sum(bool(one.outcomes) for one in side) for side in sides]
    if lost[0] * len(sides[1]) == lost[1] * len(sides[0]):
        return None, []
    told = " and ".join(
        f"{n} of {len(side)} runs of {one.name}" for n, side, one in zip(lost, sides, kept, strict=True)
    )
    reasons = "; ".join(dict.fromkeys(text for side in sides for one in side for text in one.outcomes[:1]))
    told += f" were excluded for what may be their server's doing ({reasons})"
    p = stats.fisher_p([(n, len(side) - n) for n, side in zip(lost, sides, strict=True)])
    many = any(n >= _MANY_LOST * len(side) for n, side in zip(lost, sides, strict=True))
    if p >= _LOST_BY_CHANCE and not many:
        return None, [f"{told}, no more than chance explains (Fisher's exact test, p = {p:.2g})"]
    every = [len(one.left_out) for one in kept]
    more = "; with the other run of each pair and other reasons, {} and {} are excluded".format(*every)
    return (
        "one side lost more of its runs, so the rest is a selected sample: "
        f"{told}{more if every != lost else ''}"
    ), []


def _same_rows(runs: Sequence[Run]) -> list[str]:
    """Runs of the same rows, or imported from one file: that was measured once, whatever it is called."""
    first: dict[str, Run] = {}
    found = []
    for run in runs:
        files = run.files()
        imported = run.meta.imported.sha256 if run.meta.imported else ""
        rows = "".join(map(digest, files)) if files and run.row_count() else ""
        for what, same in (("file", imported), ("rows", rows)):
            if same and (other := first.setdefault(same, run)) is not run:
                found.append(f"{other.id} and {run.id} have the same {what}; the same data counts only once")
                break
    return found


def _side(name: str, side: Sequence[Reduced], kept: Sequence[Reduced]) -> Side:
    there = {one.run.id for one in kept}
    lost = [
        (one.run.id, one.reasons or ("the other run of its pair is excluded",))
        for one in side
        if one.run.id not in there
    ]
    return Side(name, tuple(one.run.id for one in kept), tuple(lost))


def _pairs(a: Sequence[Reduced], b: Sequence[Reduced]) -> list[tuple[Reduced, Reduced]]:
    """Runs that were carried out one after the other as a pair of one experiment; none when any was not."""

    def place(one: Reduced) -> tuple[str, int] | None:
        where = one.run.meta.experiment
        return (where.id, where.pair) if where and where.id and where.pair is not None else None

    left, right = ({place(one): one for one in side} for side in (a, b))
    if None in left or None in right or len(left) < len(a) or len(right) < len(b):
        return []
    return [(one, right[key]) for key, one in left.items() if key in right]


def _told(case: Case, a: Side, b: Side, forced: tuple[str, ...], selection: str | None) -> Comparison:
    found = compare_metrics(case)
    blind, lacking = list(unjudged(case, found)), tuple(_lacking(case, (a.name, b.name)))
    left = {metric for metric, _, _ in blind}  # which has a sentence of its own
    verdict: Verdict = "within-run only"
    if not case.alone:
        primary = {one.verdict for one in found if one.primary and one.metric not in left}
        verdict = next((one for one in _WORST if one in primary), "inconclusive")
        doubt = selection or lacking or any(change for _, _, change in blind)
        if verdict in ("equivalent", "improved") and doubt:
            verdict = "inconclusive"
    said = [one for one in found if one.verdict != "inconclusive" or one.metric not in left]
    but = [selection] if selection else []
    but += [f"not every operation is on both sides: {'; '.join(lacking)}"] if lacking else []
    if blind:
        but.append(f"not judged: {'; '.join(f'{metric} ({why})' for metric, why, _ in blind)}")
    return Comparison(
        verdict=verdict,
        words=headline(verdict, said, (a.name, b.name), case.options, but),
        a=a,
        b=b,
        pairs=len(case.a) if case.paired else 0,
        duet=case.paired and any((place := one.run.meta.experiment) and place.duet for one in case.a),
        results=tuple(found),
        refused=(),
        forced=forced,
        notes=tuple(_notes(case, found, (a.name, b.name))),
        options=case.options,
        history_df=max((one.df for one in case.history.values()), default=0.0),
        cut=max(one.cut for one in (*case.a, *case.b)),
        unjudged=tuple((metric, why) for metric, why, _ in blind),
        selection=selection,
        lacking=lacking,
    )


def _lacking(case: Case, names: tuple[str, str]) -> Iterator[str]:
    """Operations that one side has none of, though at the other's share it would have had some."""
    shares, sizes = _mix(case)
    for operation, mix in shares.items():
        for here, there in ((0, 1), (1, 0)):
            if not mix[here] and mix[there] * sizes[here] >= _SURELY:
                yield f"{names[here]} has no {operation}, {mix[there]:.2%} of the requests of {names[there]}"


def _mix(case: Case) -> tuple[dict[str, tuple[float, float]], tuple[int, int]]:
    """The share of each operation in the requests of both sides, the most frequent first, and their sizes."""
    a, b = (sum((Counter(run.operations) for run in side), Counter[str]()) for side in (case.a, case.b))
    both = a + b
    every = sorted(both, key=lambda name: (-both[name], name))
    shares = {name: (a[name] / max(a.total(), 1), b[name] / max(b.total(), 1)) for name in every}
    return shares, (a.total(), b.total())


def _mix_notes(case: Case, a: str, b: str) -> Iterator[str]:
    """Operations that are not compared one by one, and a mix that is not that of the other side."""
    shares, sizes = _mix(case)
    shown = {value.operation for one in (*case.a, *case.b) for value in one.values}
    hidden = [name for name in shares if name not in shown]
    if len(shares) > MOST_OPERATIONS:
        more = f" and {len(hidden) - 5} more" if len(hidden) > 5 else ""
        yield (
            f"{len(shares)} operations: the {MOST_OPERATIONS} most frequent are compared one by one, "
            f"not {', '.join(hidden[:5])}{more}"
        )
    for operation, (of_a, of_b) in shares.items():
        few, many = sorted((of_a, of_b))
        if few and many > 2 * few and min(sizes) * many >= 10 * _SURELY:
            yield f"another mix: {operation} is {of_a:.2%} of the requests of {a} and {of_b:.2%} of {b}"


def _version_notes(case: Case) -> Iterator[str]:
    """Versions of what the generator runs on that differ between the runs."""
    found = [
        {name: str(value) for name, value in one.run.meta.versions.items()}
        | {name: str(one.run.meta.host.get(name) or "") for name in ("python", "kernel")}
        for one in (*case.a, *case.b)
    ]
    for name in dict.fromkeys(name for one in found for name in one):
        seen = list(dict.fromkeys(one.get(name) or "none" for one in found))
        if len(seen) > 1:
            yield f"runs with different {name}: {', '.join(seen[:3])}{' and others' * (len(seen) > 3)}"


def _notes(case: Case, found: Sequence[Result], names: tuple[str, str]) -> Iterator[str]:
    """What a reader must know of the runs and the design."""
    every = [(one, note) for one in (*case.a, *case.b) for note in one.notes]
    if any(note.startswith(WARMED_UP) for _, note in every):
        cut = max(one.cut for one in (*case.a, *case.b))
        yield (
            "a warm-up is the start of a run, as far as it differs from the rest; the first "
            f"{cut:.0%} of every measured part, as long as most of them took, are left out; longer runs, or "
            "warmup_s in the workload, leave more to compare"
        )
    yield from (f"{one.run.id}: {note}" for one, note in every)
    for side in (case.a, case.b):
        commits = {one.run.meta.git.sha for one in side}
        if len(commits) > 1:
            yield f"the runs of one side come from {len(commits)} commits: {', '.join(sorted(commits))[:60]}"
    endless = any(v.level == math.inf for one in (*case.a, *case.b) for v in one.values)
    if endless and not any(one.metric == "success_p99" for one in found):
        yield "success_p99 is not compared: more than 1 % of the requests failed"
    yield from _mix_notes(case, *names)
    yield from _version_notes(case)
    if not case.even:
        design = (
            "pairs are still compared as pairs" if case.paired else "Welch's t, which needs 3 runs per side"
        )
        yield f"the runs differ in length by more than 10 %: {design}"
    if case.alone and any(math.isfinite(one.p) for one in found):
        yield "one run per side: p-values borrow the noise of earlier runs, for screening, not for a gate"
