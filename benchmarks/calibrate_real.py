"""The real calibration: pairs of short runs on the reference server, with itself and with a slower model.

    .venv/bin/python benchmarks/calibrate_real.py [--minutes 20] [--pairs 60] [--slower 25] [--out METHOD.md]

Each run has a fresh server. Pairs are carried out in turns (AB BA) and at once (a duet): of the same thing,
which is the noise, and with a model that is 5 and 10 % slower (`server: {model_speed: ...}`). Each pair is a
line of --results, so the same command goes on where it was cut off, until those of the same have --pairs and
the others --slower; with --minutes 0 it only makes the tables. Many draws of R of those pairs, without
replacement, say how often perfkit's own `judge` is wrong and how often it sees the slowdown, how long
`--until-clear` takes, and what the usual tests say of the same rows. Draws share pairs: shares are less
certain than their number suggests.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from calibrate import in_pair, percent
from calibrate_stopping import ends_at, looks_of
from peers.measure import put_between_marks
from scipy import stats as scipy_stats

from perfkit.compare import Options, judge, noise
from perfkit.compare.reduce import Reduced, Value, reduce_part
from perfkit.compare.turns import Turns
from perfkit.errors import NothingToJudge
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL

SEED = 20261124
SPEED = 4.0
LOAD = {"scenario": "message_stream", "params": {"agents": 8}}
USERS = 8
OPTIONS = Options(primary=("p50", "p95", "throughput"))  # too few requests for p99 and for errors of 0.1 %
MOST = 20  #: pairs of a fixed design, and at most of one that stops early
DRAWS = 500
DESIGNS = ("turns", "duet")
SLOWER = (1.0, 1.05, 1.1)
TESTS = ("Mann-Whitney, requests", "KS, requests", "Welch, requests", "Mann-Whitney, run medians")


class Cell(NamedTuple):
    """How pairs are carried out, and how much slower B's model is."""

    design: str
    slower: float

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.design}, " + ("the same" if self.slower == 1.0 else f"{self.slower - 1:.0%} slower")


@dataclass
class Pair:
    """Two runs reduced, the response times of their steady parts, ms, and what the pair took."""

    a: Reduced
    b: Reduced
    rows: tuple[np.ndarray, np.ndarray]
    seconds: float

    @property
    def reasons(self) -> list[str]:
        """Why it may not be compared."""
        return [why.partition(":")[0] for one in (self.a, self.b) for why in one.reasons]


# -- carrying out ----------------------------------------------------------------------------------


def carry_out(results: Path, wanted: Mapping[Cell, int], minutes: float, seconds: float) -> None:
    """Append pairs to `results`, of the cell that lacks most, until all are there or time is up."""
    ends = time.monotonic() + 60 * minutes
    done = Counter({cell: len(found) for cell, found in read(results).items()})
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            cell = min(wanted, key=lambda one: done[one] / wanted[one])
            if done[cell] >= wanted[cell]:
                return
            try:
                line = {**cell._asdict(), **one_pair(cell, Path(folder), done[cell], seconds)}
            except NothingToJudge as error:  # the machine is too busy now
                print(error, file=sys.stderr)
                continue
            done[cell] += 1
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")


def one_pair(cell: Cell, folder: Path, number: int, seconds: float) -> dict[str, Any]:
    """Carry out one pair, in the order of its number, as a line of the results."""
    load = {**LOAD, "users": {"count": USERS, "duration_s": seconds}}
    given = {
        side: {**load, "server": {"model_speed": SPEED / by}}
        for side, by in zip("AB", (1.0, cell.slower), strict=True)
    }
    swapped = number % 2 == 1
    if swapped:
        given = {"A": given["B"], "B": given["A"]}
    turns = Turns(given, ("A", "B"), folder, (), most=1, show_progress=False, duet=cell.design == "duet")
    began = time.monotonic()
    turns.pair()
    took_s = time.monotonic() - began
    runs = [turns.found[side][0] for side in ("BA" if swapped else "AB")]
    return {"seconds": round(took_s, 1), "of": seconds, "runs": [told(run) for run in runs]}


def told(run: Run) -> dict[str, Any]:
    """One run as the results keep it."""
    part = Part(run)
    one = reduce_part(part)
    rows = "FROM part WHERE ok AND t_s >= $low ORDER BY planned, seq"
    times = part.arrays(f"SELECT response_ms {rows}", low=one.cut * part.span_s)["response_ms"]
    values = {v.metric: (v.level, v.y, v.n) for v in one.values if v.operation == TOTAL and np.isfinite(v.y)}
    return {
        **{"id": run.id, "cut": one.cut, "span_s": one.span_s, "n": one.n, "failed": one.failed},
        **{"reasons": one.reasons, "values": values, "ms": times.round(3).tolist()},
    }


def read(results: Path) -> dict[Cell, list[Pair]]:
    """The pairs there are, by cell."""
    found: dict[Cell, list[Pair]] = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        one = json.loads(line)
        mine = found.setdefault(Cell(one["design"], one["slower"]), [])
        a, b = (in_pair(reduced(run), len(mine)) for run in one["runs"])
        rows = tuple(np.array(run["ms"]) for run in one["runs"])
        mine.append(Pair(a, b, (rows[0], rows[1]), one["seconds"]))
    return found


def reduced(told: Mapping[str, Any]) -> Reduced:
    """A run as `judge` takes it, once it stands in a pair."""
    run: Any = SimpleNamespace(id=told["id"])
    values = tuple(
        Value(TOTAL, metric, level, y, float("nan"), float("nan"), n)
        for metric, (level, y, n) in told["values"].items()
    )
    return Reduced(
        run, told["cut"], told["span_s"], told["n"], told["failed"], values, tuple(told["reasons"]), ()
    )


# -- tables ----------------------------------------------------------------------------------------


def draws(cell: Cell, pairs: list[Pair], repeats: int) -> Iterator[tuple[list[Reduced], list[Reduced]]]:
    """Draws of `repeats` pairs; where both are the same chance says which run is A."""
    rng = np.random.default_rng(
        [SEED, repeats, len(pairs), int(100 * cell.slower), DESIGNS.index(cell.design)]
    )
    for _ in range(DRAWS):
        pick = [pairs[i] for i in rng.permutation(len(pairs))[:repeats]]
        swap = rng.random(repeats) < (0.5 if cell.slower == 1.0 else 0.0)
        both = [(p.b, p.a) if turned else (p.a, p.b) for p, turned in zip(pick, swap, strict=True)]
        a, b = ([in_pair(one[side], i) for i, one in enumerate(both)] for side in (0, 1))
        yield a, b


def fixed(cells: Mapping[Cell, list[Pair]]) -> Iterator[str]:
    """Verdicts of R pairs."""
    kinds, seen = ("equivalent", "inconclusive", "regressed", "improved"), ("p50", "p95", "throughput")
    yield "| pairs, B's model | n | R | " + " | ".join((*kinds, *(f"{m} seen" for m in seen))) + " |"
    yield "|---|---:|---:|" + "---:|" * 7
    for (cell, pairs), repeats in itertools.product(cells.items(), (3, 5, 10)):
        if len(pairs) < repeats + 2:
            continue
        found: Counter[str] = Counter()
        for a, b in draws(cell, pairs, repeats):
            one = judge(a, b, OPTIONS)
            found[one.verdict] += 1
            found.update(metric for metric in seen if one.result(metric).p < 0.05)
        shares = " | ".join(percent(found[name] / DRAWS) for name in (*kinds, *seen))
        yield f"| {cell.name} | {len(pairs)} | {repeats} | {shares} |"


def until_clear(cells: Mapping[Cell, list[Pair]]) -> Iterator[str]:
    """Stopping early beside a fixed number of pairs."""
    yield (
        "| pairs, B's model | n | at most | stopping early: regressed or improved | equivalent | pairs |"
        " minutes | fixed: regressed or improved | equivalent | minutes |"
    )
    yield "|---|---:|---:|" + "---:|" * 7
    for cell, pairs in cells.items():
        most = min(MOST, len(pairs))
        if most < 5:
            continue
        minutes = float(np.mean([one.seconds for one in pairs])) / 60
        early, last, count = Counter[str](), Counter[str](), []
        for a, b in draws(cell, pairs, most):
            said = looks_of(a, b, OPTIONS)
            end = ends_at(said)
            early[said[end].verdict] += 1
            count.append(said[end].pairs)
            last[judge(a, b, OPTIONS).verdict] += 1
        mean = float(np.mean(count))
        cells_of = [
            [percent((one["regressed"] + one["improved"]) / DRAWS), percent(one["equivalent"] / DRAWS)]
            for one in (early, last)
        ]
        told = [*cells_of[0], f"{mean:.1f}", f"{mean * minutes:.1f}", *cells_of[1], f"{most * minutes:.1f}"]
        yield f"| {cell.name} | {len(pairs)} | {most} | {' | '.join(told)} |"


def spread(cells: Mapping[Cell, list[Pair]]) -> Iterator[str]:
    """How much pairs differ, and the ratio they give."""
    yield "| pairs, B's model | n | p50 of A, ms | sd of a difference, p50 | throughput | p50 | throughput |"
    yield "|---|---:|---:|---:|---:|---|---|"
    for cell, pairs in cells.items():
        if len(pairs) < 3:
            continue
        one = judge([p.a for p in pairs], [p.b for p in pairs], OPTIONS)
        y = {
            m: np.array([[side.value(TOTAL, m).y for side in (p.a, p.b)] for p in pairs])  # type: ignore[union-attr]
            for m in ("p50", "throughput")
        }
        sd = [f"{100 * np.std(np.diff(values), ddof=1):.1f} %" for values in y.values()]
        ratios = [f"{r.ratio - 1:+.1%} [{r.low - 1:+.1%}, {r.high - 1:+.1%}]" for r in map(one.result, y)]
        level = f"{np.exp(y['p50'][:, 0].mean()):.0f}"
        yield f"| {cell.name} | {len(pairs)} | {' | '.join([level, *sd, *ratios])} |"


def usual(cells: Mapping[Cell, list[Pair]], repeats: int = 5) -> Iterator[str]:
    """How often the usual tests see a difference in rows of pairs in turns."""
    yield f"| pairs, B's model | {' | '.join(TESTS)} |"
    yield "|---|" + "---:|" * len(TESTS)
    for cell, pairs in cells.items():
        if len(pairs) < repeats + 2 or cell.design != "turns":
            continue
        rng = np.random.default_rng([SEED, 7, repeats])
        found = np.zeros(len(TESTS))
        for _ in range(DRAWS // 4):
            pick = [pairs[i].rows for i in rng.permutation(len(pairs))[:repeats]]
            found += [p < 0.05 for p in p_values(pick)]
        yield f"| {cell.name} | {' | '.join(percent(float(one)) for one in found / (DRAWS // 4))} |"


def p_values(pick: list[tuple[np.ndarray, np.ndarray]]) -> Iterable[float]:
    """Of the usual tests."""
    a, b = (np.concatenate([one[i] for one in pick]) for i in (0, 1))
    medians = [[float(np.median(one[i])) for one in pick] for i in (0, 1)]
    yield scipy_stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    yield scipy_stats.ks_2samp(a, b, method="asymp").pvalue
    yield scipy_stats.ttest_ind(a, b, equal_var=False).pvalue
    yield scipy_stats.mannwhitneyu(*medians, method="exact").pvalue


def report(found: Mapping[Cell, list[Pair]]) -> str:
    """The tables, as Markdown."""
    every = [one for pairs in found.values() for one in pairs]
    cells = {cell: [one for one in found[cell] if not one.reasons] for cell in sorted(found, reverse=True)}
    left = Counter(why for one in every for why in one.reasons)
    minutes = sum(one.seconds for one in every) / 60
    lines = [
        f"{len(every)} pairs of runs with {USERS} users, {minutes:.0f} minutes; {DRAWS} draws, seed {SEED}.",
        f"Runs excluded by rule: {'; '.join(f'{n} × {why}' for why, n in left.items()) or 'none'}.",
    ]
    parts = (
        ("Verdicts of R pairs (%), and how often a metric alone has p < 5 %:", fixed),
        ("`--until-clear` beside a fixed number of pairs (%):", until_clear),
        ("How much pairs differ, and the change they show, with 95 % intervals:", spread),
        ("The usual tests on the same rows, R 5, how often they see a difference (%):", usual),
    )
    for head, part in parts:
        lines += ["", head, "", *part(cells)]
    same = cells.get(Cell("turns", 1.0), [])
    if len(same) > 2:
        known = noise.measure([p.a for p in same], [p.b for p in same])
        lines += ["", "```", noise.words(known, "these pairs, in turns"), "```"]
    return "\n".join(lines)


def main() -> None:
    """Carry out what is missing, print, and put between the markers of --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="of the same, of each design")
    parser.add_argument("--slower", type=int, default=25, help="of each slowdown, of each design")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a run; more on a busy machine")
    parser.add_argument("--minutes", type=float, default=600.0, help="carry out pairs for so long")
    parser.add_argument("--results", type=Path, default=Path("data/calibration/real_pairs.jsonl"))
    parser.add_argument("--out", type=Path, help="file with <!-- real:begin --> and end markers")
    given = parser.parse_args()
    cells = itertools.starmap(Cell, itertools.product(DESIGNS, SLOWER))
    wanted = {cell: given.pairs if cell.slower == 1.0 else given.slower for cell in cells}
    carry_out(given.results, wanted, given.minutes, given.seconds)
    text = report(read(given.results))
    print(text)
    if given.out:
        put_between_marks(given.out, text, ("<!-- real:begin -->", "<!-- real:end -->"))


if __name__ == "__main__":
    main()
