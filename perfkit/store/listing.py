"""Runs as `perfkit ls` lists them, a line for each, without what only carrying out a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perfkit.errors import PerfkitError
from perfkit.store import fidelity
from perfkit.store.reading import Run


def brief(run: Run) -> dict[str, Any]:
    """A run in one line; rows, errors: of all phases; n, failed: of the measured part."""
    meta, results = run.meta, run.results
    return {
        "id": run.id,
        "state": "damaged" if meta.damage else run.state,
        "verdict": run.verdict.brief,
        "rows": results.rows,
        "errors": results.errors,
        "n": results.n,
        "failed": results.failed,
        "fidelity": fidelity.fidelity(run.meta).label or None,
        "scenario": meta.scenario.name,
        "created": meta.created or None,
        "tags": " ".join(filter(None, (*meta.tags, meta.damage_reason))),
    }


def listed(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return `brief` of each; a damaged one is listed as such and hides no other."""
    found = []
    for run in runs:
        try:
            found.append(brief(run))
        except PerfkitError as error:
            damaged = dict.fromkeys(("state", "verdict"), "damaged")
            unknown = dict.fromkeys(("rows", "errors", "n", "failed", "scenario", "created"))
            found.append({"id": run.id, **damaged, **unknown, "tags": str(error)})
    return found
