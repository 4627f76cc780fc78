"""Frames behind the tables of a report: summary, its warnings, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from perfkit import stats
from perfkit.errors import BadInput
from perfkit.frames.rows import of_part, small
from perfkit.store import results
from perfkit.store.quantiles import counted
from perfkit.store.rows import Part
from perfkit.store.summary import NAMES, firm, numbers_of, summarize

#: The columns of a summary that are read first: pandas hides those in the middle of a wide frame.
_FIRST = ("operation", "n", "failed", "rate_per_s", "p50", "p95", "p99")
__all__ = ["errors", "listing", "operations", "summary"]


@of_part
def summary(rows: Part, level: float = stats.LEVEL) -> pd.DataFrame:
    """Return the rows of `store.summary.summarize`: one per operation where there are several, and the total.

    NaN for a quantile that rests on too few requests, as no report shows it either. What is read first comes
    first; intervals, then what they are made of, come last. attrs: operations.
    """
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise BadInput(f"level: expected a share between 0 and 1, such as 0.95, got {level!r:.60}")
    shown = [_firm_only(row) for row in summarize(rows, level)]
    frame = small(shown, rows, operations=operations(rows))
    return frame[sorted(frame.columns, key=_place)]


def _firm_only(row: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a summary, without the quantiles that rest on too few requests."""
    weak = [name for name in NAMES if not firm(row, name)]
    return {**row, **{f"{name}{end}": math.nan for name in weak for end in ("", "_low", "_high")}}


def _place(column: Any) -> tuple[int, int]:
    """Where a column of a summary stands; those of one rank keep their order."""
    if column in _FIRST:
        return 0, _FIRST.index(column)
    return (3 if column.endswith("_unit") else 2 if column.endswith(("_low", "_high")) else 1), 0


def operations(rows: Part) -> list[str]:
    """Return the operations, most frequent first."""
    return counted(rows).names


@of_part
def errors(rows: Part, most: int = 50) -> pd.DataFrame:
    """Return failures by class and operation: count, share of the operation's requests, first message."""
    kinds = results.failure_kinds(rows)
    counts = pd.DataFrame(
        [
            (one.error, one.operation, one.count, one.words, one.count / (n or math.nan))
            for one in kinds
            for n in [numbers_of(rows, one.operation)["n"]]
        ],
        columns=["error", "operation", "count", "words", "share"],
    )
    return small(counts.head(most), rows, kinds=len(counts))


def listing(told: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return runs as `perfkit ls` lists them.

    Columns: id, created (UTC), scenario, state, verdict, rows, errors, tags.
    """
    columns = ["id", "created", "scenario", "state", "verdict", "rows", "errors", "tags"]
    frame = pd.DataFrame([dict(one) for one in told], columns=columns)
    frame["created"] = pd.to_datetime(frame["created"], utc=True, errors="coerce", format="ISO8601")
    return frame
