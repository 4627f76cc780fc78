"""Frames behind the tables of a report: summary, its warnings, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from perfkit import stats
from perfkit.frames.rows import of_part, small
from perfkit.store import results
from perfkit.store.quantiles import counted
from perfkit.store.rows import Part
from perfkit.store.summary import numbers_of, summarize

__all__ = ["errors", "listing", "operations", "summary"]


@of_part
def summary(rows: Part, level: float = stats.LEVEL) -> pd.DataFrame:
    """Return the rows of `store.summary.summarize`: one per operation, then the total. attrs: operations."""
    found = summarize(rows, level)
    return small(list(found), rows, operations=operations(rows))


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
