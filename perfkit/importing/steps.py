"""To what step a file's times were rounded: found from the times, and from the unit they are written in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.importing.nouns import coarsest
from perfkit.importing.times import UNITS

#: A step is found on at least so many rows; fewer can look rounded by chance.
_ENOUGH = 20
#: Delays against a rounded plan lie anywhere from 0 to its step; those of a generator are less, or pass it.
_TYPICAL, _MOST = 0.25, 1.05


class Steps:
    """Looks at rows a segment at a time, and then says to what step their times were rounded.

    units: in what (ns) `planned`, `started`, `done` or `took` (a latency) are written, where that is known.
    between: the instants whose difference the latency is, where the file has none of its own.
    """

    def __init__(self) -> None:
        self.units: dict[str, int] = {}
        self.between: Sequence[str] = ()
        self._count = 0
        self._divisors = {"planned": 0, "started": 0, "done": 0, "took": 0}
        self._shared = False  #: two rows were planned at the same instant
        self._delays = self._delay_sum = self._delay_most = 0

    def look(self, table: pa.Table) -> None:
        """Remember what matters of some rows."""
        self._count += len(table)
        times = {name: _known(table[name]) for name in ("planned", "started", "done")}
        times["took"] = _known(pc.subtract(table["done"], table["planned"]))
        for name, values in times.items():
            common = int(np.gcd.reduce(values)) if len(values) else 0
            self._divisors[name] = math.gcd(self._divisors[name], common)
        self._shared = self._shared or len(np.unique(times["planned"])) < len(table)
        delays = _known(pc.subtract(table["started"], table["planned"]))
        if len(delays):
            self._delays += len(delays)
            self._delay_sum += int(delays.sum())
            self._delay_most = max(self._delay_most, int(delays.max()))

    def resolution(self) -> tuple[int, int]:
        """The steps instants and latencies turned out to be rounded to, ns; 1 where nothing can be said."""
        steps = {name: self._step(name) for name in self._divisors}
        if self._is_even_plan(steps["planned"]):
            steps["planned"] = 1
        latency = max(steps["took"], *(steps[name] for name in self.between), 1)
        return max(steps["planned"], steps["started"], steps["done"]), latency

    def _step(self, name: str) -> int:
        """The step of one time. Whole s or ms are their unit's, however few; a latency's is never coarser."""
        divisor, unit = self._divisors[name], self.units.get(name, 1)
        found = coarsest(divisor) if self._count >= _ENOUGH else 1
        if unit < UNITS["ms"] or divisor % unit:
            return found
        return unit if name == "took" else max(found, unit)

    def _is_even_plan(self, step: int) -> bool:
        """Whether a plan that looks rounded is a real schedule with even gaps: no two of it at one instant.

        Unless the delays against it are those of a rounded one: spread over its step and never beyond.
        """
        spread = self._delay_sum >= _TYPICAL * step * self._delays and self._delay_most <= _MOST * step
        return not self._shared and not (self._delays and spread)


def _known(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.drop_null(column).to_numpy())
