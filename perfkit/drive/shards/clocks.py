"""How far a shard's clock is from the coordinator's, by round trips over their connection.

A round trip bounds the offset: half of it is the most that its middle can be wrong by (Cristian,
"Probabilistic clock synchronization", 1989). Of a clock whose drift does not change the offset is a line, and
all round trips together bound where that can be; we take its middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.model import INSTANTS

#: Round trips before the load and after it; during the load there is one a second.
BURST = 50
#: A drift that is not seen for certain is told only of a clock that was watched for so long.
_DRIFT_NS = 10_000_000_000
#: No clock drifts more than this from another: NTP slews by so much at most, crystals are off by a tenth.
_MOST_DRIFT = 500e-6
_ROUNDS = 8
_MOST = 100_000


class Trip(NamedTuple):
    """A round trip: its middle on our clock, its length, and the shard's clock minus ours, all in ns."""

    at_ns: int
    trip_ns: int
    offset_ns: int


class Line(NamedTuple):
    """An offset that grows evenly: at an instant of ours, its drift in ns per ns, and its error, at most."""

    at_ns: int
    offset: float
    drift: float
    error: float


class ShardClock:
    """The offset of one shard's clock, as far as it is known."""

    def __init__(self) -> None:
        self._trips: list[Trip] = []
        self._line: Line | None = None
        self.began_ns: int | None = None  #: the offset when the run's instants were agreed on

    def add(self, sent_ns: int, shard_ns: int, received_ns: int) -> None:
        """Note a round trip: sent and received on our clock, answered on the shard's."""
        middle = (sent_ns + received_ns) // 2
        self._trips.append(Trip(middle, received_ns - sent_ns, shard_ns - middle))
        if len(self._trips) > _MOST:  # a day of them: every second one will do
            del self._trips[BURST::2]
        self._line = None

    @property
    def trips(self) -> int:
        """How many there were."""
        return len(self._trips)

    @property
    def shortest_ns(self) -> int:
        """The shortest round trip."""
        return min((one.trip_ns for one in self._trips), default=0)

    @property
    def error_ns(self) -> int:
        """By how much an offset may be wrong, at most, from the first round trip to the last."""
        return math.ceil(self._fit().error)

    def offset_ns(self, at_ns: int) -> float:
        """Return the shard's clock minus ours at an instant of ours."""
        line = self._fit()
        return line.offset + line.drift * (at_ns - line.at_ns)

    @property
    def drift_ppm(self) -> float:
        """By how many microseconds it gains in a second."""
        return self._fit().drift * 1e6

    def corrected(self, rows: pa.Table, origin_ns: int) -> pa.Table:
        """Return a shard's rows on our clock; their instants count from the start as it was agreed on.

        origin_ns: the run's start, on our clock.
        """
        at_ns, offset, drift, _ = self._fit()
        began = self.began_ns or 0
        for i, name in enumerate(rows.column_names):
            if name in INSTANTS:
                there = rows[name].to_numpy(zero_copy_only=False).astype(float)  # NaN where it was never
                since = (there + (origin_ns + began - at_ns) - offset) / (1.0 + drift)  # on our clock
                whole = np.rint(np.nan_to_num(offset - began + drift * since)).astype(np.int64)
                rows = rows.set_column(i, name, pc.subtract(rows[name], pa.array(whole)))
        return rows

    def _fit(self) -> Line:
        """The line that all round trips allow, or where they allow none the one that they are closest to."""
        line = self._line  # a round trip that is noted meanwhile, in another thread, takes it away
        if line is None:
            trips = list(self._trips)
            self._line = line = (_between(trips) or _through(trips)) if trips else Line(0, 0.0, 0.0, 0.0)
        return line

    def to_mapping(self) -> dict[str, Any]:
        """For run.json; the offset is that of the middle of the measurement."""
        middle = (self._trips[0].at_ns + self._trips[-1].at_ns) // 2 if self._trips else 0
        return {
            "offset_ns": round(self.offset_ns(middle)),
            "error_ns": self.error_ns,
            "drift_ppm": round(self.drift_ppm, 4),
            "shortest_trip_ns": self.shortest_ns,
            "round_trips": self.trips,
        }


def _bounds(trips: Sequence[Trip]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each round trip its instant since the first, the offset it measured (less that of the first), and by
    how much that may be wrong; the clock drifts while it is under way, too."""
    first = trips[0]
    at = np.array([one.at_ns - first.at_ns for one in trips], float)
    offset = np.array([one.offset_ns - first.offset_ns for one in trips], float)
    return at, offset, np.array([one.trip_ns for one in trips], float) / 2 * (1.0 + _MOST_DRIFT) + 1.0


def _between(trips: Sequence[Trip]) -> Line | None:
    """The middle of all lines that leave no round trip's bounds; None where there is no such line.

    Their values at the first and the last instant bound their drift, and that bounds these values.
    """
    at, offset, half = _bounds(trips)
    lower, upper, span = offset - half, offset + half, max(float(at[-1]), 1.0)
    least, most = -_MOST_DRIFT, _MOST_DRIFT
    for _ in range(_ROUNDS):
        begin = float((lower - most * at).max()), float((upper - least * at).min())
        end = float((lower + least * (span - at)).max()), float((upper + most * (span - at)).min())
        least, most = max(least, (end[0] - begin[1]) / span), min(most, (end[1] - begin[0]) / span)
        if begin[0] > begin[1] or end[0] > end[1] or least > most:
            return None
    if span < _DRIFT_NS and least <= 0.0 <= most:
        ends = [*begin, *end]
        level, drift = (min(ends) + max(ends)) / 2, 0.0
        error = max(ends) - level
    else:
        level, drift = sum(begin) / 2, (sum(end) - sum(begin)) / 2 / span
        error = max(begin[1] - begin[0], end[1] - end[0]) / 2  # largest at an end: the bounds are straight
    return Line(trips[0].at_ns, trips[0].offset_ns + level, drift, error)


def _through(trips: Sequence[Trip]) -> Line:
    """A line as close to the round trips as their lengths say, for a clock whose drift has changed.

    Its error at any instant is known from each round trip: what it says there, and what may have come since.
    """
    at, offset, half = _bounds(trips)
    drift, level = (float(one) for one in np.polyfit(at, offset, 1, w=1.0 / half))
    wrong = np.abs(offset - level - drift * at) + half
    rate = _MOST_DRIFT + abs(drift)
    since = np.minimum.accumulate(wrong - rate * at) + rate * at
    until = np.minimum.accumulate((wrong + rate * at)[::-1])[::-1] - rate * at
    error = float(np.minimum(since, until).max() + rate * np.diff(at).max() / 2)
    return Line(trips[0].at_ns, trips[0].offset_ns + level, drift, error)
