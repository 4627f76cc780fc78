"""The noise floor: how much runs of one configuration differ on one machine, kept for later comparisons.

`perfkit aa` measures it by comparing a workload with itself. What is kept is a variance with its degrees of
freedom for every metric: of a run, and of the difference of a pair. A comparison of few runs borrows from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perfkit import stats
from perfkit.compare import Options
from perfkit.compare.configuration import CONTENT, configuration
from perfkit.compare.nouns import detectable_words
from perfkit.compare.reduce import Reduced
from perfkit.store import Run, read_json, write_json
from perfkit.store.metrics import METRICS
from perfkit.store.summary import TOTAL

#: Runs a side the table of detectable effects is made for.
REPEATS = (3, 5, 7, 10, 20)


@dataclass
class _Kept:
    """What is read of a file that `save` has written."""

    metrics: dict[str, stats.History]


def key(run: Run) -> str:
    """Names the configuration of a run: the same machine, target, scenario and load."""
    told = configuration(run)
    told.pop("schema")
    told = {name: value for name, value in told.items() if not name.endswith(CONTENT)}
    text = json.dumps(told, sort_keys=True, default=str)
    return f"{told.get('scenario') or 'run'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def measure(a: Sequence[Reduced], b: Sequence[Reduced]) -> dict[str, stats.History]:
    """The noise of pairs of runs of the same thing, by metric: of a run, and `paired …` of a difference."""
    found: dict[str, stats.History] = {}
    for metric in METRICS:
        values = [[one.value(TOTAL, metric) for one in side] for side in (a, b)]
        whole = [(x.y, y.y) for x, y in zip(*values, strict=True) if x is not None and y is not None]
        if METRICS[metric].kind == "errors" or not np.isfinite(whole).all():  # counts bring their own error
            continue
        if len(whole) < 2 or len(whole) < len(a):
            continue
        y = np.array(whole)
        # differences of a thing with itself have the mean 0: it is known, and costs no degree of freedom
        difference = y[:, 1] - y[:, 0]
        found[metric] = stats.variance_within([y.ravel()])
        found[f"paired {metric}"] = stats.History(float(np.mean(difference**2)), len(difference))
    return found


def save(data_dir: Path, run: Run, noise: Mapping[str, stats.History]) -> Path:
    """Keep it under `data_dir`/noise; an older floor of the same configuration is replaced."""
    folder = data_dir / "noise"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key(run)}.json"
    told = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": configuration(run),
        "metrics": {name: {"variance": one.variance, "df": one.df} for name, one in noise.items()},
    }
    write_json(file, told)
    return file


def load(data_dir: Path, run: Run) -> dict[str, stats.History]:
    """What is known of the noise of this run's configuration; empty when nothing is, or it cannot be read."""
    return load_key(data_dir, key(run))


def load_key(data_dir: Path, name: str) -> dict[str, stats.History]:
    """The same by the configuration's key."""
    try:
        found = msgspec.convert(read_json(data_dir / "noise" / f"{name}.json"), _Kept).metrics
    except (OSError, ValueError):  # msgspec's ValidationError is a ValueError
        return {}
    return {name: one for name, one in found.items() if math.isfinite(one.variance) and one.df > 0}


def table(noise: Mapping[str, stats.History]) -> list[dict[str, Any]]:
    """The change of each metric that so many pairs would find 8 times of 10, a share; sd: of a run.

    As one of the usual primary metrics, of which it is the only one to change.
    """
    rows = []
    level = Options().alpha / len(Options().primary)
    for metric in METRICS:
        of_pairs = noise.get(f"paired {metric}")
        if of_pairs is None:
            continue
        row: dict[str, Any] = {"metric": metric, "sd": math.sqrt(noise[metric].variance)}
        for repeats in REPEATS:
            se = math.sqrt(of_pairs.variance / repeats)
            df = repeats - 1 + of_pairs.df
            row[str(repeats)] = stats.detectable(se, df, level=level, known_df=of_pairs.df)
        rows.append(row)
    return rows


def words(noise: Mapping[str, stats.History], name: str) -> str:
    """The table as text."""
    rows = table(noise)
    if not rows:
        return f"{name}: no metric could be computed for every run"
    head = f"{'metric':<12}{'sd of a run':>12}" + "".join(f"{f'{r} pairs':>11}" for r in REPEATS)
    lines = [
        f"noise floor of {name}: the change that {REPEATS[0]} to {REPEATS[-1]} pairs would detect "
        "with 80 % power",
        head,
    ]
    for row in rows:
        cells = "".join(f"{detectable_words(row[str(r)]):>11}" for r in REPEATS)
        lines.append(f"{row['metric']:<12}{row['sd']:>12.2%}{cells}")
    return "\n".join(lines)
