"""What the rows of a run come to: counts and kinds of failure, kept in run.json so that lists read no rows.

What is kept is a cache. It holds while its stamp is that of the rows; otherwise it is computed from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from perfkit.store import carried
from perfkit.store.metadata import FailureKind, Results
from perfkit.store.rows import Part

#: Of what is computed; results of another version are computed from the rows.
VERSION = 1
#: Kinds of failure kept in run.json, the most frequent first.
_KINDS = 50


def results_of(part: Part) -> Results:
    """Compute the results from the measured part of a run, or take those that a summary carries."""
    if part.run.meta.carried:
        return carried.results_of(part.run.meta.carried)
    counts = part.row(
        "SELECT count(*) AS rows, count(error) AS errors, count(*) FILTER (measured) AS n,"
        " count(error) FILTER (measured) AS failed FROM r"
    )
    kinds = failure_kinds(part)[:_KINDS] if counts["failed"] else ()
    return Results(**counts, failures=tuple(kinds))


def failure_kinds(part: Part) -> list[FailureKind]:
    """Count the failures by class and operation, the most frequent first, with the first words heard."""
    if part.run.meta.carried:
        return list(carried.results_of(part.run.meta.carried).failures)
    found = part.query(
        "SELECT error, operation, count(*) AS count, coalesce(arg_min(error_text, seq), '') AS words"
        " FROM part WHERE failed GROUP BY ALL ORDER BY count DESC, error, operation"
    )
    return [FailureKind(**row) for row in found.to_pylist()]


def stamped(results: Results, timeline: Path) -> dict[str, Any]:
    """The results as run.json keeps them, with the stamp of the rows they were computed from."""
    return dataclasses.asdict(dataclasses.replace(results, version=VERSION, digest=digest(timeline)))


def digest(timeline: Path) -> str:
    """SHA-256 of a Parquet file's size and footer, which holds the place and statistics of every column."""
    with timeline.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        return hashlib.sha256(f"{size} ".encode() + file.read()).hexdigest()
