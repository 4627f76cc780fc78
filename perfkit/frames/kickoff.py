"""Frame behind the kick-off timeline: every request, or counts on a map of time where there are thousands."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from perfkit.frames.over_time import MOST_POINTS, grid_of
from perfkit.frames.rows import of_part, small
from perfkit.store.rows import Part

__all__ = ["waterfall"]

#: Cells of a map: of time, and of how long a request waited or was served.
_WIDE, _HIGH = 120, 36
_LEAST_MS = 0.01
#: Parts of an octave: the height of a cell is so many of them that the map has its height.
_FINEST = 24
#: SQL of how long each request waited, was served, or took to fail; ms.
_KINDS = {
    "waiting": ("(sent - planned) / 1e6", "sent IS NOT NULL"),
    "service": ("(done - sent) / 1e6", "ok AND sent IS NOT NULL AND done IS NOT NULL"),
    "failed": ("(done - coalesce(sent, planned)) / 1e6", "failed AND done IS NOT NULL"),
}


@of_part
def waterfall(rows: Part, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return requests by planned time; of more than `most`, how many there are on a map.

    order, t_s, sent_s, done_s, operation, error. On a map: kind (waiting: planned to sent; service: sent to
    done; failed: to its end), t_s (left edge, by planned time), low_ms, high_ms, n. attrs: drawn ("calls" or
    "map"), bin_s.
    """
    if rows.counts["n"] > most:
        return _on_a_map(rows)
    each = rows.query("SELECT t_s, sent_s, done_s, operation, error FROM part ORDER BY planned, seq")
    frame = each.to_pandas().astype({"operation": "category", "error": "category"})
    return small(frame.assign(order=np.arange(len(frame))), rows, drawn="calls")


def _on_a_map(rows: Part) -> pd.DataFrame:
    grid = grid_of(rows, _WIDE)
    each = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, {grid.cell('planned')} AS cell, greatest({took}, {_LEAST_MS}) AS x"
        f" FROM part WHERE {where}"
        for kind, (took, where) in _KINDS.items()
    )
    fine = rows.arrays(
        f"SELECT kind, cell, floor({_FINEST} * log2(x))::INTEGER AS bin, count(*) AS n FROM ({each})"
        " GROUP BY ALL"
    )
    height = math.ceil((np.ptp(fine["bin"]) + 1) / _HIGH) if len(fine["bin"]) else 1
    found = pd.DataFrame(fine | {"bin": fine["bin"] // height}, copy=False)
    found = found.groupby(["kind", "cell", "bin"])[["n"]].sum().reset_index()
    parts = _FINEST / height  # of an octave
    data = {
        "kind": found["kind"],
        "t_s": grid.edges_s[found["cell"]],
        "low_ms": 2 ** (found["bin"] / parts),
        "high_ms": 2 ** ((found["bin"] + 1) / parts),
        "n": found["n"],
    }
    return small(data, rows, drawn="map", bin_s=grid.step_s)
