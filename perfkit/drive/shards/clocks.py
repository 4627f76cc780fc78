"""How far a shard's clock is from the coordinator's, by round trips over their connection.

A round trip bounds the offset: half of it is the most that its middle can be wrong by (Cristian,
"Probabilistic clock synchronization", 1989). The quickest of each burst says most; a line through the
quickest ones gives the drift.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.model import INSTANTS

#: Round trips before the load and after it; during the load there is one a second.
BURST = 50
#: A drift is told only of a clock that was watched for so long: before that it is less than the error.
_DRIFT_NS = 10_000_000_000
_MOST = 100_000


class Trip(NamedTuple):
    """A round trip: its middle on our clock, its length, and the shard's clock minus ours, all in ns."""

    at_ns: int
    trip_ns: int
    offset_ns: int


class ShardClock:
    """The offset of one shard's clock, as far as it is known."""

    def __init__(self) -> None:
        self._trips: list[Trip] = []
        self._line: tuple[int, float, float] | None = None
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
        """By how much an offset may be wrong: half of the quickest round trip, of the worse end."""
        ends = (self._trips[:BURST], self._trips[-BURST:])
        return max((min(one.trip_ns for one in end) for end in ends if end), default=0) // 2

    def offset_ns(self, at_ns: int) -> float:
        """Return the shard's clock minus ours at an instant of ours."""
        middle, offset, drift = self._fit()
        return offset + drift * (at_ns - middle)

    @property
    def drift_ppm(self) -> float:
        """By how many microseconds it gains in a second."""
        return self._fit()[2] * 1e6

    def corrected(self, rows: pa.Table, origin_ns: int) -> pa.Table:
        """Return a shard's rows on our clock; their instants count from the start as it was agreed on.

        origin_ns: the run's start, on our clock.
        """
        middle, offset, drift = self._fit()
        for i, name in enumerate(rows.column_names):
            if name in INSTANTS:
                there = rows[name].to_numpy(zero_copy_only=False).astype(float)  # NaN where it was never
                off = offset - (self.began_ns or 0) + drift * (there + origin_ns - middle)
                whole = np.rint(np.nan_to_num(off)).astype(np.int64)
                rows = rows.set_column(i, name, pc.subtract(rows[name], pa.array(whole)))
        return rows

    def _fit(self) -> tuple[int, float, float]:
        """The line through the quickest round trips: an instant, the offset there, the drift."""
        line = self._line  # a round trip that is noted meanwhile, in another thread, takes it away
        if line is None:
            self._line = line = self._fitted()
        return line

    def _fitted(self) -> tuple[int, float, float]:
        if not self._trips:
            return 0, 0.0, 0.0
        best = min(self._trips, key=lambda one: one.trip_ns)
        quick = [one for one in self._trips if one.trip_ns <= 1.5 * best.trip_ns]
        if quick[-1].at_ns - quick[0].at_ns < _DRIFT_NS:
            return best.at_ns, float(best.offset_ns), 0.0
        at = np.array([one.at_ns - best.at_ns for one in quick], float)
        offset = np.array([one.offset_ns - best.offset_ns for one in quick], float)
        weight = 1.0 / np.array([max(one.trip_ns, 1) for one in quick], float)
        drift, rest = np.polyfit(at, offset, 1, w=weight)
        return best.at_ns, best.offset_ns + float(rest), float(drift)

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
