"""Calibration of whole comparisons: run folders on disk through `compare()`, every rule of it included.

    .venv/bin/python benchmarks/calibrate_compare.py [--comparisons 200] [--out METHOD.md]

`calibrate.py` asks the tests behind a verdict, many thousand times, on runs cut at a fixed place. Here runs
lie on disk as a load wrote them, with a cold start or without, and everything happens that happens to a
user's: warm-ups found and cut, drift, backlog and gaps looked for, runs left out, sides guarded against
selection.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from peers.measure import print_table
from simulated import REGIMES, cold, run_effect, stored

from perfkit.compare import compare
from perfkit.store.summary import TOTAL

SEED = 20261129
#: Requests of a run, runs a side.
SIZES = ((500, 3), (5_000, 5))
STARTS = ("warm", "cold")
#: How much slower side B is.
CHANGES = (1.0, 1.05, 1.2)
POOL = 40
MARKS = ("<!-- compare:begin -->", "<!-- compare:end -->")
Cell = tuple[str, str, int, int, int]


def judged(cell: Cell) -> dict[float, Counter[str]]:
    """Per change: verdicts, runs left out, and intervals of p50 that hold the truth."""
    regime, start, n, repeats, comparisons = cell
    rng = np.random.default_rng([SEED, n, list(REGIMES).index(regime), STARTS.index(start)])
    found: dict[float, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="perfkit-calibrate-") as name:
        pools = []
        for change in CHANGES:
            runs = []
            for number, shift in enumerate(run_effect("normal", rng, POOL)):
                t, x = REGIMES[regime](rng, n)
                made = t, x * float(np.exp(shift)) * change
                runs.append(stored(Path(name) / f"{change}", cold(made) if start == "cold" else made, number))
            pools.append(runs)
        for change, slower in zip(CHANGES, pools, strict=True):
            told: Counter[str] = Counter()
            for _ in range(comparisons):
                pick = rng.permutation(POOL)
                a, b = pick[:repeats], pick[repeats : 2 * repeats]
                # ids of one pool are those of the others: no run of B may be one of A
                one = compare([pools[0][i] for i in a], [slower[i] for i in b])
                told[one.verdict] += 1
                told["left out"] += len(one.a.left_out) + len(one.b.left_out)
                p50 = [r for r in one.results if (r.operation, r.metric) == (TOTAL, "p50")]
                if p50 and math.isfinite(p50[0].low):
                    told["intervals"] += 1
                    told["hold"] += p50[0].low <= change <= p50[0].high
            found[change] = told
    return found


HEAD = ("regime", "start", "n, R", "false", "equivalent", "inconclusive", "excluded", "+5 % detected",
        "+20 % detected", "p50 covered")  # fmt: skip
TEXT = (
    "{} comparisons per row and change, of {} runs that differ by 3 %; seed {}. In %: for a server against "
    "itself, false, equivalent and inconclusive verdicts, and excluded runs; for one that is 5 and 20 % "
    "slower, comparisons that say regressed; p50 intervals that cover the truth."
)


def table(comparisons: int) -> str:
    """All cells as Markdown."""
    cells = [(r, s, n, k, comparisons) for (n, k), r, s in itertools.product(SIZES, REGIMES, STARTS)]
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(cells, pool.map(judged, cells), strict=True))
    lines = [TEXT.format(comparisons, POOL, SEED), ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---|---|---|" + "---:|" * 7]
    for (regime, start, n, repeats, _), found in results.items():
        same, slower = found[1.0], [found[change]["regressed"] / comparisons for change in CHANGES[1:]]
        held, of = (sum(told[what] for told in found.values()) for what in ("hold", "intervals"))
        false = same["regressed"] + same["improved"]
        unsure = comparisons - false - same["equivalent"]
        shares = [one / comparisons for one in (false, same["equivalent"], unsure)]
        shares += [same["left out"] / (2 * repeats * comparisons), *slower, held / max(of, 1)]
        numbers = " | ".join(f"{100 * one:.1f}" for one in shares)
        lines.append(f"| {regime} | {start} | {n:,}, {repeats} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_table(__doc__, table, MARKS, "comparisons", 200)
