"""Calibration: how often comparisons cry wolf, how often they see what is there, beside the usual tests.

    .venv/bin/python benchmarks/calibrate.py [--subset] [--out METHOD.md]

Simulated runs (`simulated.py`) are reduced and compared by perfkit's own code, many thousand times: a server
with itself (false alarms, coverage), and with itself slower by 5 % (power). On the same rows: Mann-Whitney,
Kolmogorov-Smirnov and Welch on requests, a bootstrap that takes requests as independent, and Mann-Whitney on
run medians as benchstat does. `--subset` takes two minutes and exits with 1 when a rate of false alarms
leaves 2 to 8 %; the seed is fixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import stats as scipy_stats
from simulated import REGIMES, Made, queue, reduced, run_effect

from perfkit import stats
from perfkit.compare import Options, judge
from perfkit.compare.reduce import Reduced
from perfkit.store import Metadata
from perfkit.store.summary import TOTAL

SEED = 20261124
POOL = {500: 300, 5000: 200, 50_000: 80}
METRICS = ("p50", "p99", "mean", "throughput")
LIMITS = (0.02, 0.08)
SLOWER = math.log(1.05)
_POOLS: dict[tuple[str, int], tuple[list[Made], list[Reduced]]] = {}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of the grid."""

    regime: str
    n: int
    repeats: int
    effect: str
    history: int = 0  #: runs of an earlier noise floor
    design: str = "pooled"  #: or paired, or Welch (B's runs a fifth longer)
    draws: int = 3000
    judged: int = 300


def pool(regime: str, n: int) -> tuple[list[Made], list[Reduced]]:
    """Runs to draw from; made once in each process."""
    if (regime, n) not in _POOLS:
        rng = np.random.default_rng([SEED, n, list(REGIMES).index(regime)])
        made = [REGIMES[regime](rng, n) for _ in range(POOL[n])]
        _POOLS[regime, n] = made, [reduced(one, i) for i, one in enumerate(made)]
    return _POOLS[regime, n]


def carried(runs: list[Reduced]) -> dict[str, np.ndarray]:
    """y of each metric [runs] that every run carries."""
    found = {}
    for metric in METRICS:
        values = [one.value(TOTAL, metric) for one in runs]
        if all(values):
            found[metric] = np.array([v.y for v in values if v])
    return found


def rates(cell: Cell) -> dict[str, Any]:
    """Per metric: false alarms of A/A at 5 %, how often 5 % are seen; of the whole family the verdicts."""
    _, runs = pool(cell.regime, cell.n)
    rng = np.random.default_rng(
        [SEED, cell.n, cell.repeats, sum(map(ord, cell.regime + cell.effect + cell.design)), cell.history]
    )
    test = {"pooled": stats.pooled, "paired": stats.paired, "Welch": lambda a, b, known: stats.welch(a, b)}
    compared = test[cell.design]
    y = carried(runs)
    alarms, seen, covered = (dict.fromkeys(y, 0) for _ in range(3))
    for _ in range(cell.draws):
        pick = rng.permutation(len(runs))[: 2 * cell.repeats]
        shift = run_effect(cell.effect, rng, 2 * cell.repeats)
        before = run_effect(cell.effect, rng, cell.history), rng.integers(0, len(runs), cell.history)
        for metric, all_ in y.items():
            sign = -1 if metric == "throughput" else 1
            x = all_[pick] + sign * shift
            known = stats.variance_within([all_[before[1]] + before[0]]) if cell.history else None
            a, b = x[: cell.repeats], x[cell.repeats :]
            one = compared(a, b, known)
            alarms[metric] += one.p < 0.05
            moved = compared(a, b + SLOWER, known)
            seen[metric] += moved.p < 0.05
            low, high = moved.interval()
            covered[metric] += low <= 1.05 <= high
    verdicts = [verdict_of(runs, cell, rng, at) for at in [0.0] * cell.judged + [SLOWER] * cell.judged]
    first, second = verdicts[: cell.judged], verdicts[cell.judged :]
    return {
        "alarms": {m: c / cell.draws for m, c in alarms.items()},
        "seen": {m: c / cell.draws for m, c in seen.items()},
        "covered": {m: c / cell.draws for m, c in covered.items()},
        "family": sum(v in ("regressed", "improved") for v, _ in first) / cell.judged,
        "equal at margin": sum(p50 == "equivalent" for _, p50 in second) / cell.judged,
        "regressed": sum(v == "regressed" for v, _ in second) / cell.judged,
    }


def verdict_of(runs: list[Reduced], cell: Cell, rng: np.random.Generator, slower: float) -> tuple[str, str]:
    """The verdict of a whole comparison, and that of its p50."""
    pick = rng.permutation(len(runs))[: 2 * cell.repeats]
    shift = run_effect(cell.effect, rng, 2 * cell.repeats)
    shift[cell.repeats :] += slower
    sides = [moved(runs[i], by) for i, by in zip(pick, shift, strict=True)]
    a, b = sides[: cell.repeats], sides[cell.repeats :]
    if cell.design == "paired":
        a, b = ([in_pair(one, i) for i, one in enumerate(side)] for side in (a, b))
    if cell.design == "Welch":
        b = [dataclasses.replace(one, span_s=1.2 * one.span_s) for one in b]
    history = noise_of(runs, cell, rng) if cell.history else {}
    found = judge(a, b, Options(), history=history)
    return found.verdict, found.result("p50").verdict


def in_pair(one: Reduced, pair: int) -> Reduced:
    """The same run as one of a pair."""
    document = {"state": "complete", "experiment": {"id": "x", "pair": pair}}
    run: Any = SimpleNamespace(id=one.run.id, path=None, meta=Metadata.of(document))
    return dataclasses.replace(one, run=run)


def noise_of(runs: list[Reduced], cell: Cell, rng: np.random.Generator) -> dict[str, stats.History]:
    """An earlier noise floor of this configuration."""
    picked = [moved(runs[i], by) for i, by in zip(rng.integers(0, len(runs), cell.history),
              run_effect(cell.effect, rng, cell.history), strict=True)]  # fmt: skip
    return {metric: stats.variance_within([y]) for metric, y in carried(picked).items()}


def moved(one: Reduced, by: float) -> Reduced:
    """The same run with everything slower by a factor, on the log scale."""
    values = []
    for v in one.values:
        sign = -1 if v.metric == "throughput" else 0 if v.metric == "error_rate" else 1
        values.append(dataclasses.replace(v, y=v.y + sign * by, level=v.level * math.exp(sign * by)))
    return dataclasses.replace(one, values=tuple(values))


# -- the usual tests -------------------------------------------------------------------------------

PEERS = (
    "Mann-Whitney, requests",
    "KS, requests",
    "Welch, requests",
    "bootstrap, requests",
    "Mann-Whitney, run medians",
)


def peers(cell: Cell, slower: float = 0.0) -> dict[str, float]:
    """How often each of the usual tests sees a difference at 5 %: of a server from itself, or 5 % slower."""
    made, _ = pool(cell.regime, cell.n)
    rng = np.random.default_rng([SEED, 7, cell.n, sum(map(ord, cell.regime + cell.effect))])
    found = dict.fromkeys(PEERS, 0)
    for _ in range(cell.judged):
        pick = rng.permutation(len(made))[: 2 * cell.repeats]
        shift = run_effect(cell.effect, rng, 2 * cell.repeats)
        shift[cell.repeats :] += slower
        x = [made[i][1] * by for i, by in zip(pick, np.exp(shift), strict=True)]
        a, b = np.concatenate(x[: cell.repeats]), np.concatenate(x[cell.repeats :])
        medians = [float(np.median(one)) for one in x]
        p = (
            scipy_stats.mannwhitneyu(a, b, method="asymptotic").pvalue,
            scipy_stats.ks_2samp(a, b, method="asymp").pvalue,
            scipy_stats.ttest_ind(a, b, equal_var=False).pvalue,
            _bootstrap(a, b, rng),
            scipy_stats.mannwhitneyu(medians[: cell.repeats], medians[cell.repeats :], method="exact").pvalue,
        )
        for name, one in zip(PEERS, p, strict=True):
            found[name] += one < 0.05
    return {name: count / cell.judged for name, count in found.items()}


def _bootstrap(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, draws: int = 200) -> float:
    """p of equal medians by resampling requests as if they were independent.

    The median of a resample of n sorted values is their value at a beta-distributed place: no need to draw n.
    """
    medians = []
    for x in (np.sort(a), np.sort(b)):
        place = rng.beta((len(x) + 1) / 2, (len(x) + 1) / 2, draws)
        medians.append(x[np.minimum((place * len(x)).astype(int), len(x) - 1)])
    share = float(np.mean(medians[1] > medians[0]) + np.mean(medians[1] == medians[0]) / 2)
    return 2 * min(share, 1 - share)


# -- the rules that leave runs out -----------------------------------------------------------------


RUNS = {500: 300, 5000: 300, 50_000: 60}
FLAGS = (
    "cut over 10 %",
    "drift",
    "fell behind",
    "drift of 20 %",
    "drift of 50 %",
    "slow start cut",
)


def rules(regime: str, n: int) -> dict[str, float]:
    """How often a run without a fault is flagged, and one with a fault."""
    rng = np.random.default_rng([SEED, 11, n, list(REGIMES).index(regime)])
    found = dict.fromkeys(FLAGS, 0)
    for _ in range(RUNS[n]):
        t, x = REGIMES[regime](rng, n)
        low = 0.1 * t[-1]
        late = t >= low
        cut = stats.warmup_share(x, t)
        slow = x * np.where(t < 0.15 * t[-1], 1.5, 1.0)
        hits = (
            cut > 0.1,
            stats.drift(x[late], t[late]).found,
            stats.growth(t, t + x / 1000, low, float(t[-1])).found,
            *(stats.drift((x * (1 + by * t / t[-1]))[late], t[late]).found for by in (0.2, 0.5)),
            stats.warmup_share(slow, t) >= 0.13,
        )
        for name, hit in zip(FLAGS, hits, strict=True):
            found[name] += bool(hit)
    return {name: count / RUNS[n] for name, count in found.items()}


def saturation(rho: float, n: int) -> float:
    """How often a queue at this utilisation is told to fall behind."""
    rng = np.random.default_rng([SEED, 13, n, int(1000 * rho)])
    hits = 0
    for _ in range(RUNS[n]):
        t, x = queue(rng, n, rho)
        hits += stats.growth(t, t + x / 1000, 0.1 * float(t[-1]), float(t[-1])).found
    return hits / RUNS[n]


# -- tables ----------------------------------------------------------------------------------------


def percent(x: float | None) -> str:
    return "—" if x is None else f"{100 * x:.1f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def grid(subset: bool) -> list[Cell]:
    """The cells that are simulated."""
    if subset:
        sizes = itertools.product(REGIMES, (500, 5000), (3, 5), ("none", "normal"))
        others = [Cell(r, 5000, 5, "normal", 20 * (d == "pooled"), d) for r in REGIMES for d in DESIGNS]
        cells = [Cell(r, n, k, e) for r, n, k, e in sizes]
        return [dataclasses.replace(cell, judged=100) for cell in (*cells, *others)]
    sizes = itertools.product(REGIMES, (500, 5000, 50_000), (3, 5, 10), ("none", "normal"))
    odd = itertools.product(REGIMES, (5000,), (3, 5, 10), ("t3", "bad"))
    cells = [Cell(r, n, k, e) for r, n, k, e in (*sizes, *odd)]
    cells += [Cell(r, 5000, k, "normal", history=20) for r in REGIMES for k in (3, 5)]
    return cells + [
        Cell(r, 5000, k, "normal", 0, d) for r in REGIMES for k in (3, 5, 10) for d in DESIGNS[1:]
    ]


#: `pooled` with a history is the moderated t.
DESIGNS = ("pooled", "paired", "Welch")


def report(subset: bool) -> Iterator[str]:
    """The tables, as Markdown; the last part begins with OUTSIDE when false alarms left their limits."""
    sizes = (500, 5000) if subset else (500, 5000, 50_000)
    cells = grid(subset)
    few = 60 if subset else 200
    beside = [Cell(r, 5000, 5, e, judged=few) for r in REGIMES for e in ("none", "normal")]
    names = list(itertools.product(REGIMES, sizes))
    loads = list(itertools.product((0.7, 0.9, 0.95, 1.02, 1.05), sizes))
    with ProcessPoolExecutor(2) as workers:
        found = {}
        for cell, one in zip(cells, workers.map(rates, cells), strict=True):
            found[cell] = one
            print(f"{len(found)}/{len(cells)} {cell.regime} n {cell.n} R {cell.repeats}", file=sys.stderr)
        usual = [dict(zip(beside, workers.map(peers, beside, [by] * len(beside)), strict=True))
                 for by in (0.0, SLOWER)]  # fmt: skip
        flags = dict(zip(names, workers.map(rules, *zip(*names, strict=True)), strict=True))
        behind = dict(zip(loads, workers.map(saturation, *zip(*loads, strict=True)), strict=True))
    yield "**A server compared with itself**: how often p < 5 % (%; all n and R: mean [lowest–highest])"
    yield alarms_table(found)
    yield "**5 % slower**: detected, intervals that cover the truth, called equivalent (%; all regimes)"
    yield power_table(found)
    yield (
        "**The usual tests on the same rows**: how often they report a difference (%; n 5,000, R 5) "
        "of a server from itself / from one 5 % slower. Mann-Whitney on run medians is benchstat's rule"
    )
    yield peers_table(found, *usual)
    yield "**The rules that exclude runs** (% of runs): no fault, then a drift or a slow first 15 %"
    rows = [[f"{r}, {n:,}", *(percent(one[k]) for k in FLAGS)] for (r, n), one in flags.items()]
    yield table(["regime, n", *FLAGS], rows)
    yield "**Queues reported as falling behind** (% of runs, by utilisation)"
    rows = [
        [f"{rho:g}", *(percent(behind[rho, n]) for n in sizes)] for rho in dict.fromkeys(r for r, _ in loads)
    ]
    yield table(["utilisation", *(f"n {n:,}" for n in sizes)], rows)
    outside = [
        f"{c.regime}, n {c.n:,}, R {c.repeats}, {c.effect}, {c.design}, {what}: {share:.1%}"
        for c, one in found.items()
        for what, share, (low, high) in checked(one)
        if c.effect in ("none", "normal") and not low <= share <= high
    ]
    if outside:
        yield f"OUTSIDE: {'; '.join(outside)}"


def checked(one: dict[str, Any]) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """What a cell must hold to: false alarms of each metric, of the family, and coverage."""
    yield from ((metric, share, LIMITS) for metric, share in one["alarms"].items())
    yield from ((f"coverage of {metric}", share, (0.92, 0.98)) for metric, share in one["covered"].items())
    yield "any false verdict", one["family"], (0.0, LIMITS[1])


def peers_table(found: dict[Cell, Any], same: dict[Cell, Any], slower: dict[Cell, Any]) -> str:
    """perfkit's p50 beside the others."""
    rows = []
    for cell, one in same.items():
        mine = next(v for c, v in found.items() if dataclasses.replace(c, judged=cell.judged) == cell)
        both = [(mine["alarms"]["p50"], mine["seen"]["p50"]), *((one[p], slower[cell][p]) for p in PEERS)]
        rows.append([cell.regime, cell.effect, *(f"{percent(a)} / {percent(b)}" for a, b in both)])
    return table(["regime", "runs differ", "perfkit, p50", *PEERS], rows)


def span(values: list[float]) -> str:
    """Mean [lowest–highest], %."""
    if not values:
        return "—"
    return f"{percent(float(np.mean(values)))} [{percent(min(values))}–{percent(max(values))}]"


def alarms_table(found: dict[Cell, Any]) -> str:
    """False alarms by regime and by how whole runs differ."""
    rows = []
    for key in dict.fromkeys((c.regime, c.effect, c.history, c.design) for c in found):
        regime, effect, history, design = key
        cells = [v for c, v in found.items() if (c.regime, c.effect, c.history, c.design) == key]
        name = effect + (f", history of {history} runs" if history else "")
        name += f", {design}" if design != "pooled" else ""
        shares = [span([one["alarms"][m] for one in cells if m in one["alarms"]]) for m in METRICS]
        rows.append([regime, name, *shares, span([one["family"] for one in cells])])
    return table(["regime", "runs differ", *METRICS, "any false verdict"], rows)


def power_table(found: dict[Cell, Any]) -> str:
    """What is seen of 5 %, by n, R and how whole runs differ."""
    rows = []
    for key in dict.fromkeys((c.n, c.repeats, c.effect, c.history, c.design) for c in found):
        n, repeats, effect, history, design = key
        cells = [v for c, v in found.items() if (c.n, c.repeats, c.effect, c.history, c.design) == key]
        name = effect + (", history" if history else "") + (f", {design}" if design != "pooled" else "")
        rows.append([
            f"{n:,}", str(repeats), name,
            *(span([one["seen"][m] for one in cells if m in one["seen"]]) for m in ("p50", "p99")),
            span([one["regressed"] for one in cells]),
            span([v for one in cells for v in one["covered"].values()]),
            span([one["equal at margin"] for one in cells]),
        ])  # fmt: skip
    head = ["n", "R", "runs differ", "p50 seen", "p99 seen", "verdict regressed", "coverage of 95 %"]
    return table([*head, "p50 called equivalent"], rows)


def main() -> None:
    """Print the tables, and put them between the markers of --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subset", action="store_true", help="two minutes, for CI")
    parser.add_argument("--out", type=Path, help="file with <!-- calibration:begin --> and end markers")
    given = parser.parse_args()
    began, parts = time.monotonic(), []
    for part in report(given.subset):
        print(part, "\n", flush=True)
        parts.append(part.rstrip("\n"))
    told = f"Seed {SEED}; {(time.monotonic() - began) / 60:.1f} minutes on two cores."
    print(told)
    if given.out:
        begin, end = "<!-- calibration:begin -->", "<!-- calibration:end -->"
        head, _, rest = given.out.read_text().partition(begin)
        body = "\n\n".join([told, *parts])
        given.out.write_text(f"{head}{begin}\n{body}\n{end}{rest.partition(end)[2]}")
    sys.exit(1 if given.subset and parts[-1].startswith("OUTSIDE") else 0)


if __name__ == "__main__":
    main()
