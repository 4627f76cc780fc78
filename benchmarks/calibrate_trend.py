"""Calibration of trends: how often noise is called a shift, which shifts are found, and is a promise kept?

    .venv/bin/python benchmarks/calibrate_trend.py [--series 200] [--out METHOD.md]

Series of runs with a known truth go through `stats.change_points` as a trend page's do. The noise of a run is
2 %; a level that goes up and back lasts for the middle third.
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from peers.measure import print_table
from scipy.signal import lfilter

from perfkit import stats

SEED = 20261129
LENGTHS = (10, 20, 30, 60)
#: Name, memory of the noise, size of the shift, whether it goes away again.
KINDS = (
    ("noise, uncorrelated", 0.0, 1.0, False),
    ("noise, AR .5", 0.5, 1.0, False),
    ("up by 3 %", 0.0, 1.03, False),
    ("up by 5 %", 0.0, 1.05, False),
    ("up by 10 %", 0.0, 1.1, False),
    ("up by 5 % and back", 0.0, 1.05, True),
    ("up by 10 % and back", 0.0, 1.1, True),
    ("× 1.5 and back", 0.0, 1.5, True),
    ("× 3 and back", 0.0, 3.0, True),
)
PROMISE = "the size stated as detectable"
MARKS = ("<!-- trend:begin -->", "<!-- trend:end -->")


def noise(rng: np.random.Generator, m: int, memory: float) -> np.ndarray:
    """Runs on the log scale [m]."""
    shocks = rng.normal(0, 0.02 * math.sqrt(1 - memory**2), m + 30)
    return np.asarray(lfilter([1.0], [1.0, -memory], shocks)[30:])


def told(cell: tuple[int, int, int]) -> float:
    """The share of series of a kind and a length in which a change point is told."""
    kind, m, series = cell
    rng = np.random.default_rng([SEED, kind, m])
    found = 0
    for _ in range(series):
        if kind == len(KINDS):
            size, memory, back = 1 + stats.detectable_shift(noise(rng, m, 0.0)), 0.0, False
        else:
            _, memory, size, back = KINDS[kind]
        y = noise(rng, m, memory)
        if math.isnan(size):
            return math.nan
        y[m // 3 if back else m // 2 : 2 * m // 3 if back else m] += math.log(size)
        found += bool(stats.change_points(y))
    return found / series


def table(series: int) -> str:
    """All cells as Markdown."""
    names = [*(kind[0] for kind in KINDS), PROMISE]
    cells = [(kind, m, series) for kind in range(len(names)) for m in LENGTHS]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(cells, pool.map(told, cells), strict=True))
    lines = [
        f"{series} series per cell, seed {SEED}: share (%) in which a change point is reported; "
        "noise of a run 2 %.",
        "",
        f"| | {' | '.join(f'{m} runs' for m in LENGTHS)} |",
        "|---|" + "---:|" * len(LENGTHS),
    ]
    for kind, name in enumerate(names):
        shares = [found[kind, m, series] for m in LENGTHS]
        row = " | ".join("none" if math.isnan(one) else f"{100 * one:.1f}" for one in shares)
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_table(__doc__, table, MARKS, "series", 200)
