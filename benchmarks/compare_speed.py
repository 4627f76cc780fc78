"""How long it takes to reduce a run of a million rows, and to compare ten of them.

    .venv/bin/python benchmarks/compare_speed.py [--rows 1000000] [--repeats 7]

Reading included. Goals: 0.3 s and 3 s. Each repeat opens the runs anew; the files are in the page cache.
Beside it, in the same process, what `pandas` takes to read the same columns of one run for four quantiles.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from make_timeline import make_timeline

from perfkit.comparison import compare
from perfkit.reduce import reduce_run
from perfkit.store import Run

GOALS_S = {"reduce one run": 0.3, "compare 5 with 5": 3.0}


def main() -> None:
    """Make the runs, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            make_timeline(Path(folder), given.rows, seed=i, error_rate=0.002, restless=0.02).path
            for i in range(1, 11)
        ]

        def by_pandas() -> object:
            columns = ["planned", "sent", "first_byte", "done", "phase", "error", "operation"]
            rows = pd.read_parquet(paths[0] / "timeline.parquet", columns=columns)
            rows = rows[(rows["phase"] == "measure") & rows["error"].isna()]
            return ((rows["done"] - rows["planned"]) / 1e6).quantile([0.5, 0.9, 0.95, 0.99])

        tasks: dict[str, Callable[[], object]] = {
            "reduce one run": lambda: reduce_run(Run(paths[0])),
            "compare 5 with 5": lambda: compare([Run(p) for p in paths[:5]], [Run(p) for p in paths[5:]]),
            "pandas, four quantiles of one run": by_pandas,
        }
        took: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(given.repeats):
            for name, task in tasks.items():
                began = time.perf_counter()
                task()
                took[name].append(time.perf_counter() - began)
    print(f"{given.rows:,} rows a run; median of {given.repeats} [lowest–highest], s")
    for name, values in took.items():
        middle = statistics.median(values)
        goal = GOALS_S.get(name)
        told = f"; goal {goal:g} {'met' if middle < goal else 'NOT met'}" if goal else ""
        print(f"{name}: {middle:.3f} [{min(values):.3f}–{max(values):.3f}]{told}")


if __name__ == "__main__":
    main()
