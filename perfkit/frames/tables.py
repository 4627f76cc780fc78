"""Frames behind the tables of a report: summary, its warnings, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from perfkit import stats
from perfkit.frames.rows import operations, small, succeeded, throughput
from perfkit.store import Run

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
#: The names of the quantile columns: p50 … p99.9.
NAMES = tuple(f"p{100 * p:g}" for p in QUANTILES)
TOTAL = "all operations"


def summary(rows: pd.DataFrame, level: float = stats.LEVEL) -> pd.DataFrame:
    """One row per operation, one for all: n, failed, rate_per_s; mean, std, min, p50 … p99.9, max in ms.

    Latencies are those of the requests that succeeded, n counts all; rate_per_s counts those that ended in
    the measured part. `<statistic>_low`, `_high`: interval at `level`, NaN when too few requests carry it;
    `unit`: what it takes for independent. Quantiles are exact, numpy's linear method on every row.
    """
    return small(
        [
            _summary_row(name, part, level, bool(rows.attrs.get("untimed")))
            for name, part in [*_by_operation(rows), (TOTAL, rows)]
        ],
        rows,
        operations=operations(rows),
    )


def _by_operation(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each operation with its rows, only what tables need of them; nothing when there is just one."""
    names = operations(rows)
    needed = rows[["operation", "error", "latency_ms", "t_s", "done_s"]]
    return [(name, needed[(rows["operation"] == name).to_numpy()]) for name in names if len(names) > 1]


def _summary_row(name: str, rows: pd.DataFrame, level: float, untimed: bool) -> dict[str, Any]:
    good = succeeded(rows, "latency_ms", "t_s")
    x, t = good["latency_ms"].to_numpy(), good["t_s"].to_numpy()
    n, instants = len(x), stats.Slices(None) if untimed else stats.Slices.of(t)
    row: dict[str, Any] = {"operation": name, "n": len(rows), "failed": int(rows["error"].notna().sum())}
    row["ok"] = n
    row["rate_per_s"] = throughput(rows)
    estimates = {"mean": stats.mean(x, instants, level)}
    estimates |= dict(zip(NAMES, stats.quantiles(x, instants, QUANTILES, level), strict=True))
    row["unit"] = estimates["p50"].unit
    row["std"] = float(np.std(x, ddof=1)) if n > 1 else math.nan
    row["min"], row["max"] = (float(x.min()), float(x.max())) if n else (math.nan, math.nan)
    for key, estimate in estimates.items():
        row[key], row[f"{key}_low"], row[f"{key}_high"] = estimate.point, estimate.low, estimate.high
    return row


def warnings(rows: pd.DataFrame) -> list[str]:
    """What a reader of the summary must know: quantiles on few requests or between modes, retries."""
    found = []
    for name, part in [(TOTAL, rows), *_by_operation(rows)]:
        x = succeeded(part, "latency_ms")["latency_ms"].to_numpy()
        found += [f"{name}: {told}" for told in (_thin_support(len(x)), *_between_modes(x)) if told]
    retries = int((rows["attempt"] > 1).sum())
    if retries:
        found.append(f"{retries:,} of the rows are retries; each attempt is a row of its own")
    return found


def _thin_support(n: int) -> str:
    """Which quantiles of n requests rest on few of them, and which are not shown for it."""
    weak = [(name, stats.support(n, p)) for name, p in zip(NAMES, QUANTILES, strict=True)]
    weak = [(name, on) for name, on in weak if n and on < stats.GOOD_SUPPORT]
    shown = [f"{name} of {n:,} requests rests on {on:.0f}" for name, on in weak if on >= stats.MIN_SUPPORT]
    not_shown = [f"{name} ({on:.2g})" for name, on in weak if on < stats.MIN_SUPPORT]
    hidden = [f"not shown, because {n:,} requests leave too few beyond them: {', '.join(not_shown)}"]
    return "; ".join(shown + (hidden if not_shown else []))


def _between_modes(x: stats.Floats) -> list[str]:
    """A quantile in a gap of the distribution jumps from run to run."""
    if len(x) < 20:
        return []
    bounds = [(p, *np.quantile(x, [p - 0.05, p + 0.05])) for p in (0.5, 0.9)]
    return [
        f"p{100 * p:g} lies between two groups of requests ({low:.3g} ms and {high:.3g} ms within ±5 %), "
        "it may jump from run to run"
        for p, low, high in bounds
        if low > 0 and high / low > 2
    ]


def errors(run: Run, rows: pd.DataFrame, most: int = 50) -> pd.DataFrame:
    """Failures by class and operation: count, share of the operation's requests, the first words heard."""
    table = run.table(["phase", "operation", "error", "error_text"])
    table = table.filter(pc.is_valid(table["error"]))
    table = table.filter(pc.equal(table["phase"].cast(pa.string()), "measure"))
    plain = pa.table({name: table[name].cast(pa.string()) for name in ("error", "operation", "error_text")})
    grouped = plain.group_by(["error", "operation"], use_threads=False)  # one thread: the first is the first
    counts = grouped.aggregate([([], "count_all"), ("error_text", "first")]).to_pandas()
    counts = counts.rename(columns={"count_all": "count", "error_text_first": "words"})
    counts = counts.sort_values("count", ascending=False, kind="stable")
    of = rows["operation"].value_counts()
    counts["share"] = [
        c / max(int(of.get(o, c)), 1) for c, o in zip(counts["count"], counts["operation"], strict=True)
    ]
    return small(counts.head(most).reset_index(drop=True), rows, kinds=len(counts))


def listing(told: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Runs as `perfkit ls` tells them: id, created (UTC), scenario, state, valid, rows, errors, tags."""
    columns = ["id", "created", "scenario", "state", "valid", "rows", "errors", "tags"]
    frame = pd.DataFrame([dict(one) for one in told], columns=columns)
    frame["created"] = pd.to_datetime(frame["created"], utc=True, errors="coerce", format="ISO8601")
    return frame
