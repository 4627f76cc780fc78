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
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from calibrate import in_pair, moved, percent, pool
from peers.measure import print_table
from simulated import REGIMES

from perfkit import stats
from perfkit.compare import Options, judge
from perfkit.compare.nouns import Comparison, Look
from perfkit.compare.reduce import Reduced
from perfkit.compare.until_clear import LOOKS, is_clear, looks_up_to

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


def looks_of(
    a: list[Reduced], b: list[Reduced], options: Options, history: Mapping[str, stats.History] | None = None
) -> list[Comparison]:
    """What is said of these runs at every look, to the last one."""
    most = len(a)
    found: list[Comparison] = []
    counts: tuple[int, ...] = ()
    for count in looks_up_to(most):
        look = Look(counts=counts, most=most, final=count == most)
        said = judge(a[:count], b[:count], dataclasses.replace(options, look=look), history=history)
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
        said = looks_at(regime, spread, math.log1p(size), rng)
        ends = ends_at(said)
        p50 = [one.result("p50") for one in said]
        verdicts = {one.verdict for one in said[ends].results if one.primary}
        found.pairs.append(LOOKS[ends])
        found.false += bool(verdicts & {"regressed", "improved"})
        found.equivalent += p50[ends].verdict == "equivalent"
        found.decided += is_clear(said[ends])
        found.uncovered += any(not one.low <= 1 + size <= one.high for one in p50)
    return found


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
        "+10 %: regressed | pairs | an interval of p50 that misses at some look, worst |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for regime, spread in itertools.product(REGIMES, SPREADS):
        same, margin, more = (found[regime, spread, size, many] for size in (0.0, 0.05, 0.10))
        worst = max(one.uncovered for one in (same, margin, more))
        shares = (same.false, same.decided, margin.equivalent, more.false, worst)
        a, b, c, d, e = (percent(count / many) for count in shares)
        pairs = [f"{np.mean(one.pairs):.1f}" for one in (same, more)]
        lines.append(f"| {regime}, {spread:.0%} | {a} | {b} | {pairs[0]} | {c} | {d} | {pairs[1]} | {e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_table(__doc__, table, MARKS, "experiments", 300)
