"""Calibration of stopping early: false verdicts, runs needed, and intervals under a user who stops at will.

    .venv/bin/python benchmarks/calibrate_stopping.py [--experiments 300] [--out METHOD.md]

Simulated runs (`simulated.py`) in pairs go through `judge` and `is_clear` at each look, as `--until-clear`
has them: a server with itself, with itself slower by the margin (5 %), and by 10 %. Intervals of p50 are
asked for the truth at every look: who stops at any of them, for whatever reason, has a true one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
from calibrate import in_pair, moved, percent, pool
from peers.measure import print_table
from simulated import REGIMES

from perfkit import stats
from perfkit.compare import Options, judge
from perfkit.compare.nouns import Comparison, Look
from perfkit.compare.reduce import Reduced, Value
from perfkit.compare.until_clear import LOOKS, is_clear, looks_up_to
from perfkit.store.summary import TOTAL

SEED = 20261130
N = 5000
#: How whole runs differ: the sd of a run on the log scale.
SPREADS = (0.01, 0.02, 0.03)
MARKS = ("<!-- stopping:begin -->", "<!-- stopping:end -->")


@dataclasses.dataclass
class Found:
    """Counts over the experiments of a cell; pairs: until each ended."""

    false: int = 0
    equivalent: int = 0
    decided: int = 0
    uncovered: int = 0  #: experiments in which an interval missed the truth at some look
    pairs: list[int] = dataclasses.field(default_factory=list)

    def add(self, said: list[Comparison], size: float) -> None:
        """One experiment: what was said at every look, and the truth."""
        end = ends_at(said)
        p50 = [one.result("p50") for one in said]
        verdicts = {one.verdict for one in said[end].results if one.primary}
        self.pairs.append(looks_up_to(LOOKS[-1])[end])
        self.false += bool(verdicts & {"regressed", "improved"})
        self.equivalent += p50[end].verdict == "equivalent"
        self.decided += is_clear(said[end])
        self.uncovered += any(not one.low <= 1 + size <= one.high for one in p50)


def looks_at(regime: str, spread: float, slower: float, rng: np.random.Generator) -> list[Comparison]:
    """What is said at every look of one experiment, to the last one."""
    _, runs = pool(regime, N)
    most = LOOKS[-1]
    pick = rng.permutation(len(runs))[: 2 * most]
    shift = rng.normal(0, spread, 2 * most)
    shift[most:] += slower
    sides = [moved(runs[i], by) for i, by in zip(pick, shift, strict=True)]
    a, b = ([in_pair(one, i) for i, one in enumerate(side)] for side in (sides[:most], sides[most:]))
    return looks_of(a, b, Options())


def looks_of(a: list[Reduced], b: list[Reduced], options: Options) -> list[Comparison]:
    """What is said of these runs at every look, to the last one."""
    most = len(a)
    found: list[Comparison] = []
    counts: tuple[int, ...] = ()
    for count in looks_up_to(most):
        look = Look(counts=counts, most=most, final=count == most)
        said = judge(a[:count], b[:count], dataclasses.replace(options, look=look))
        assert said.options.look is not None
        counts = said.options.look.counts
        found.append(said)
    return found


def ends_at(said: list[Comparison]) -> int:
    """The look at which `--until-clear` stops."""
    return next((i for i, one in enumerate(said) if is_clear(one)), len(said) - 1)


def experiments(cell: tuple[str, float, float, int]) -> Found:
    """A number of experiments with a truth of `1 + size`."""
    regime, spread, size, many = cell
    rng = np.random.default_rng([SEED, sum(map(ord, regime)), int(1e4 * spread), int(1e4 * size)])
    found = Found()
    for _ in range(many):
        found.add(looks_at(regime, spread, math.log1p(size), rng), size)
    return found


# -- one metric, as the literature has it ------------------------------------------------------------

#: Pairs until the same server is found equivalent with one metric in an independent simulation of this rule,
#: by the sd of a run; and levels by looks, the spending function's power, and who says so.
EXPECTED_PAIRS = {0.01: 5.5, 0.02: 8.6}
PUBLISHED = {
    ((1, 2, 3, 4, 5), 1.0, "Jennison & Turnbull 2000, table 7.4"): (0.0100, 0.0128, 0.0159, 0.0193, 0.0230),
    (LOOKS, 2.0, "alpha t^2, simulated"): (0.00113, 0.00235, 0.0059, 0.0162, 0.0389),
}
FEW = 2  #: experiments with one metric for one with all of them


def one_metric(cell: tuple[float, float, int]) -> Found:
    """Experiments whose runs carry nothing but a p50 that differs by `spread` (sd) from run to run."""
    spread, size, many = cell
    rng = np.random.default_rng([SEED, 2, int(1e4 * spread), int(1e4 * size)])
    options, most, found = Options(primary=("p50",)), LOOKS[-1], Found()
    run: Any = SimpleNamespace(id="", path=None)
    for _ in range(many):
        y = rng.normal(0, spread, (2, most))
        y[1] += math.log1p(size)
        a, b = (
            [
                in_pair(
                    Reduced(run, 0.1, 9.0, N, 0, (Value(TOTAL, "p50", math.exp(x), x, 0, 0, N),), (), ()), i
                )
                for i, x in enumerate(side)
            ]
            for side in y
        )
        found.add(looks_of(a, b, options), size)
    return found


def literature(many: int) -> list[str]:
    """The table of one metric, and the levels beside those that are published."""
    lines = [
        "",
        f"One metric, {many} experiments a row:",
        "",
        "| sd of a run | A/A: false | A/A: pairs (expected) | +5 %: called equivalent | an interval misses |",
        "|---|---:|---:|---:|---:|",
    ]
    cells = [(spread, size, many) for spread in SPREADS for size in (0.0, 0.05)]
    with ProcessPoolExecutor(2) as workers:
        found = dict(zip(cells, workers.map(one_metric, cells), strict=True))
    for spread in SPREADS:
        same, margin = found[spread, 0.0, many], found[spread, 0.05, many]
        pairs = f"{np.mean(same.pairs):.1f} ({EXPECTED_PAIRS.get(spread, '–')})"
        missed = (same.uncovered + margin.uncovered) / (2 * many)
        told = [percent(same.false / many), pairs, percent(margin.equivalent / many), percent(missed)]
        lines.append(f"| {spread:.0%} | {' | '.join(told)} |")
    lines += ["", "The levels of looks beside published ones:", ""]
    for (counts, power, where), published in PUBLISHED.items():
        levels = stats.nominal_levels([count / counts[-1] for count in counts], 0.05, power)
        off = max(abs(one / other - 1) for one, other in zip(levels, published, strict=True))
        lines.append(f"- {where}: {', '.join(f'{one:.5f}' for one in levels)}; at most {off:.1%} off")
    return lines


def table(many: int) -> str:
    """All cells as Markdown."""
    cells = [
        (regime, spread, size, many)
        for regime, spread, size in itertools.product(REGIMES, SPREADS, (0.0, 0.05, 0.10))
    ]
    with ProcessPoolExecutor(2) as workers:
        found = dict(zip(cells, workers.map(experiments, cells), strict=True))
    lines = [
        f"Seed {SEED}; {many} experiments a cell, {N:,} requests a run, looks at "
        f"{', '.join(map(str, LOOKS))} pairs.",
        "",
        "| regime, sd of a run | A/A: any false verdict | A/A: clear | pairs | +5 %: p50 called equivalent | "
        "+10 %: regressed | pairs | an interval of p50 misses at some look |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for regime, spread in itertools.product(REGIMES, SPREADS):
        same, margin, more = (found[regime, spread, size, many] for size in (0.0, 0.05, 0.10))
        missed = np.mean([one.uncovered for one in (same, margin, more)])
        shares = (same.false, same.decided, margin.equivalent, more.false, missed)
        a, b, c, d, e = (percent(count / many) for count in shares)
        pairs = [f"{np.mean(one.pairs):.1f}" for one in (same, more)]
        lines.append(f"| {regime}, {spread:.0%} | {a} | {b} | {pairs[0]} | {c} | {d} | {pairs[1]} | {e} |")
    missed, all_of_them = sum(one.uncovered for one in found.values()), many * len(found)
    lines += [
        "",
        f"All cells: an interval misses at some look in {missed / all_of_them:.1%} of {all_of_them:,}.",
    ]
    return "\n".join([*lines, *literature(FEW * many)])


if __name__ == "__main__":
    print_table(__doc__, table, MARKS, "experiments", 300)
