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
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from benchmarks.simulated import REGIMES, Made, queue, reduced, run_effect
from perfkit import stats
from perfkit.comparison import Options, judge
from perfkit.reduce import TOTAL, Reduced

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
        [SEED, cell.n, cell.repeats, sum(map(ord, cell.regime + cell.effect)), cell.history]
    )
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
            one = stats.pooled(a, b, known)
            alarms[metric] += one.p < 0.05
            moved = stats.pooled(a, b + SLOWER, known)
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
    found = judge(sides[: cell.repeats], sides[cell.repeats :], Options())
    return found.verdict, found.result("p50").verdict


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


def peers(cell: Cell) -> dict[str, float]:
    """How often each of the usual tests calls a server different from itself, at 5 %."""
    made, _ = pool(cell.regime, cell.n)
    rng = np.random.default_rng([SEED, 7, cell.n, sum(map(ord, cell.regime + cell.effect))])
    found = dict.fromkeys(PEERS, 0)
    for _ in range(cell.judged):
        pick = rng.permutation(len(made))[: 2 * cell.repeats]
        shift = np.exp(run_effect(cell.effect, rng, 2 * cell.repeats))
        x = [made[i][1] * by for i, by in zip(pick, shift, strict=True)]
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
    at = [np.sort(x)[np.minimum((rng.beta((len(x) + 1) / 2, (len(x) + 1) / 2, draws) * len(x)).astype(int), len(x) - 1)]
          for x in (a, b)]  # fmt: skip
    share = float(np.mean(at[1] > at[0]))
    return 2 * min(share, 1 - share)


# -- the rules that leave runs out -----------------------------------------------------------------


def rules(regime: str, n: int) -> dict[str, float]:
    """How often a run without a fault is flagged, and one with a fault."""
    rng = np.random.default_rng([SEED, 11, n, list(REGIMES).index(regime)])
    count = {500: 300, 5000: 300, 50_000: 60}[n]
    found = dict.fromkeys(("cut over 10 %", "drift", "growth", "drift of 20 %", "slow start cut"), 0)
    for _ in range(count):
        t, x = REGIMES[regime](rng, n)
        low = 0.1 * t[-1]
        late = t >= low
        found["cut over 10 %"] += stats.warmup_share(x, t) > 0.1
        found["drift"] += stats.drift(x[late], t[late]).found
        found["growth"] += stats.growth(t, t + x / 1000, low, float(t[-1])).found
        found["drift of 20 %"] += stats.drift((x * (1 + 0.2 * t / t[-1]))[late], t[late]).found
        slow = x * np.where(t < 0.15 * t[-1], 1.5, 1.0)
        found["slow start cut"] += 0.13 <= stats.warmup_share(slow, t) <= 0.3
    return {name: c / count for name, c in found.items()}


def saturation(rho: float, n: int) -> float:
    """How often a queue at this utilisation is told to fall behind."""
    rng = np.random.default_rng([SEED, 13, n, int(1000 * rho)])
    count = {500: 300, 5000: 300, 50_000: 60}[n]
    hits = 0
    for _ in range(count):
        t, x = queue(rng, n, rho)
        hits += stats.growth(t, t + x / 1000, 0.1 * float(t[-1]), float(t[-1])).found
    return hits / count


# -- tables ----------------------------------------------------------------------------------------


def percent(x: float | None) -> str:
    return "—" if x is None else f"{100 * x:.1f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def grid(subset: bool) -> list[Cell]:
    if subset:
        return [Cell(r, 5000, 5, e, draws=2000, judged=150) for r in REGIMES for e in ("none", "normal")]
    sizes = itertools.product(REGIMES, (500, 5000, 50_000), (3, 5, 10), ("none", "normal", "t3", "bad"))
    cells = [Cell(r, n, k, e) for r, n, k, e in sizes]
    return cells + [Cell(r, 5000, k, "normal", history=20) for r in REGIMES for k in (3, 5)]


def report(subset: bool) -> Iterator[str]:
    """The tables, as Markdown; raises SystemExit at the end when the subset left its limits."""
    cells = grid(subset)
    with ProcessPoolExecutor(2) as workers:
        found = dict(zip(cells, workers.map(rates, cells), strict=True))
        beside = (
            [] if subset else [Cell(r, 5000, 5, e, judged=200) for r in REGIMES for e in ("none", "normal")]
        )
        usual = dict(zip(beside, workers.map(peers, beside), strict=True))
        names = [(r, n) for r in REGIMES for n in ((5000,) if subset else (500, 5000, 50_000))]
        flags = dict(zip(names, workers.map(rules, *zip(*names, strict=True)), strict=True))
        loads = [
            (rho, n)
            for rho in (0.7, 0.9, 0.95, 1.02, 1.05)
            for n in ((5000,) if subset else (500, 5000, 50_000))
        ]
        behind = dict(zip(loads, workers.map(saturation, *zip(*loads, strict=True)), strict=True))
    yield "**A server compared with itself: how often p < 5 %** (%; every n and R of a row together: mean [lowest–highest])\n"
    yield alarms_table(found)
    yield "\n**5 % slower: how often it is seen, how often 95 % intervals hold the truth, how often it is called equivalent** (%)\n"
    yield power_table(found)
    if usual:
        yield "\n**The usual tests on the same rows**: how often they call a server different from itself (%; n 5,000, R 5)\n"
        rows = [
            [c.regime, c.effect, percent(mean_of(found, c)), *(percent(usual[c][p]) for p in PEERS)]
            for c in beside
        ]
        yield table(["regime", "runs differ", "perfkit", *PEERS], rows)
    yield "\n**The rules that leave runs out** (% of runs)\n"
    kinds = list(next(iter(flags.values())))
    yield table(
        ["regime, n", *kinds],
        [[f"{r}, {n:,}", *(percent(one[k]) for k in kinds)] for (r, n), one in flags.items()],
    )
    sizes = sorted({n for _, n in loads})
    yield "\n**Queues told to fall behind** (% of runs, by utilisation)\n"
    yield table(["utilisation", *(f"n {n:,}" for n in sizes)],
                [[f"{rho:g}", *(percent(behind[rho, n]) for n in sizes)] for rho in sorted({r for r, _ in loads})])  # fmt: skip
    outside = [
        (c, m, a)
        for c, one in found.items()
        for m, a in one["alarms"].items()
        if not LIMITS[0] <= a <= LIMITS[1]
    ]
    if c_bad := [o for o in outside if o[0].effect in ("none", "normal")]:
        yield (
            "\nOutside 2 to 8 %: "
            + "; ".join(f"{c.regime} n {c.n} R {c.repeats} {c.effect} {m} {a:.1%}" for c, m, a in c_bad)
            + "\n"
        )
        if subset:
            raise SystemExit(1)


def mean_of(found: dict[Cell, Any], like: Cell) -> float | None:
    same = [
        one["alarms"]["p50"]
        for c, one in found.items()
        if (c.regime, c.n, c.repeats, c.effect, c.history) == (like.regime, 5000, 5, like.effect, 0)
    ]
    return float(np.mean(same)) if same else None


def alarms_table(found: dict[Cell, Any]) -> str:
    rows = []
    for regime, effect, history in dict.fromkeys((c.regime, c.effect, c.history) for c in found):
        cells = [
            one for c, one in found.items() if (c.regime, c.effect, c.history) == (regime, effect, history)
        ]
        row = [regime, effect + (f", history of {history} runs" if history else "")]
        for metric in METRICS:
            values = [one["alarms"][metric] for one in cells if metric in one["alarms"]]
            row.append(
                f"{percent(float(np.mean(values)))} [{percent(min(values))}–{percent(max(values))}]"
                if values
                else "—"
            )
        families = [one["family"] for one in cells]
        rows.append(
            [*row, f"{percent(float(np.mean(families)))} [{percent(min(families))}–{percent(max(families))}]"]
        )
    return table(["regime", "runs differ", *METRICS, "any false verdict"], rows)


def power_table(found: dict[Cell, Any]) -> str:
    rows = []
    for n, repeats, effect, history in dict.fromkeys((c.n, c.repeats, c.effect, c.history) for c in found):
        if effect not in ("none", "normal"):
            continue
        cells = [
            one
            for c, one in found.items()
            if (c.n, c.repeats, c.effect, c.history) == (n, repeats, effect, history)
        ]
        cover = [v for one in cells for v in one["covered"].values()]
        rows.append([
            f"{n:,}", str(repeats), effect + (", history" if history else ""),
            *(_mean([one["seen"].get(m) for one in cells]) for m in ("p50", "p99")),
            _mean([one["regressed"] for one in cells]),
            f"{percent(float(np.mean(cover)))} [{percent(min(cover))}–{percent(max(cover))}]",
            _mean([one["equal at margin"] for one in cells]),
        ])  # fmt: skip
    head = [
        "n",
        "R",
        "runs differ",
        "p50 seen",
        "p99 seen",
        "verdict regressed",
        "coverage",
        "p50 called equivalent",
    ]
    return table(head, rows)


def _mean(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    return percent(float(np.mean(known))) if known else "—"


def main() -> None:
    """Print the tables, and put them between the markers of --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subset", action="store_true", help="two minutes, for CI")
    parser.add_argument("--out", type=Path, help="file with <!-- calibration:begin --> and end markers")
    given = parser.parse_args()
    began, parts, code = time.monotonic(), [], 0
    try:
        for part in report(given.subset):
            print(part, flush=True)
            parts.append(part)
    except SystemExit as failed:
        code = int(failed.code or 0)
    took = f"{(time.monotonic() - began) / 60:.1f} minutes"
    print(f"\n{took}, seed {SEED}")
    if given.out:
        text = given.out.read_text()
        begin, end = "<!-- calibration:begin -->", "<!-- calibration:end -->"
        head, _, rest = text.partition(begin)
        body = "\n".join(part.rstrip("\n") if part.startswith("|") else part for part in parts)
        given.out.write_text(
            f"{head}{begin}\nSeed {SEED}; {took} on two cores.\n\n{body}\n{end}{rest.partition(end)[2]}"
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
