"""What grows steadily during a run, and how the load itself grew meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from perfkit.observe.frames import by_source
from perfkit.store.rows import Part

#: What grows steadily grows in each quarter after the first by a third of its largest step, or more: what
#: warms up takes ever smaller steps, and what rises once takes one.
_STEADY = 1 / 3
_FEWEST = 6  #: samples of a growth


@dataclass(frozen=True)
class Growth:
    """A series that grew steadily: its first and last value, how much after its first quarter, how fast."""

    first: float
    last: float
    grown: float
    per_s: float
    quarters: tuple[float, float]  #: the middles of its first and last quarter, s


def growth(t_s: np.ndarray, values: np.ndarray) -> Growth | None:
    """Return how a series grew when it grew steadily, by the medians of four quarters of its time, else None.

    Its first quarter is the warm-up: growth counts from the middle of that to the middle of the last.
    """
    if len(t_s) < _FEWEST or t_s[-1] <= t_s[0]:
        return None
    quarter = np.minimum((4 * (t_s - t_s[0]) / (t_s[-1] - t_s[0])).astype(int), 3)
    if len(np.unique(quarter)) < 4:
        return None
    at, x = (np.array([np.median(one[quarter == i]) for i in range(4)]) for one in (t_s, values))
    steps = np.diff(x)
    if steps.max() <= 0 or steps.min() < _STEADY * steps.max():
        return None
    grown = float(x[3] - x[0])
    ends = (float(at[0]), float(at[3]))
    return Growth(float(values[0]), float(values[-1]), grown, grown / (ends[1] - ends[0]), ends)


def growths(samples: pd.DataFrame, probe: str) -> Iterator[tuple[str, pd.DataFrame, Growth]]:
    """The samples of each source whose probe grew steadily: source, samples, growth."""
    for source, part in by_source(samples, probe):
        if (grew := growth(part["t_s"].to_numpy(), part["value"].to_numpy())) is not None:
            yield source, part, grew


def new_clients(rows: Part, grew: Growth) -> int:
    """How many of the load's users appeared meanwhile: each may hold a connection and wait for an answer."""
    users = 'SELECT min(t_s) AS begin_s FROM part GROUP BY worker, "user"'
    return _count(rows, f"FROM ({users}) WHERE begin_s > $low AND begin_s <= $high", grew)


def of_each(rows: Part, grew: Growth, unit: float) -> float:
    """What it grew by for each request that ended meanwhile."""
    return unit * grew.grown / max(_count(rows, "FROM part WHERE done_s > $low AND done_s <= $high", grew), 1)


def _count(rows: Part, which: str, grew: Growth) -> int:
    low, high = grew.quarters
    return int(rows.row(f"SELECT count(*) AS n {which}", low=low, high=high)["n"])
