"""When a file has requests: gaps that part it into several runs, and clocks that were set back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_S = 1_000_000_000
#: Requests are looked for in cells of so many s; so long is the shortest gap that is said.
_CELL_S = 10
_SAID_S = 600
#: A gap is said where nothing happened for so many times as long as between requests elsewhere.
_TIMES = 20
#: A clock was set back where a line ends so much before those above it, and all that follow do, too.
_BACK_S = 5
_MOST_STEPS = 20
_FOLLOW, _LEAST = 20, 10
Span = tuple[int, int]


class Times:
    """Looks at rows a segment at a time, in the order of the file."""

    def __init__(self) -> None:
        self._cells: np.ndarray = np.empty(0, np.int64)  # that have a request in them, in order
        self.in_order = True  #: rows come in the order of the file; not where they are made of counts
        #: Begins and ends of the last ones, of which not all is known yet.
        self._last: np.ndarray = np.empty((2, 0), np.int64)
        self._steps: list[Span] = []  # how far back, and when the clock then stood

    def look(self, table: pa.Table) -> None:
        """Remember when these rows began and ended."""
        if not len(table):
            return
        begin = table["planned"].to_numpy()
        done = table["done"].fill_null(-1).to_numpy() if "done" in table.column_names else begin
        end = np.maximum(begin, done)
        self._mark(begin // (_CELL_S * _S), end // (_CELL_S * _S))
        self._follow(np.stack([begin, end]))

    def _mark(self, first: np.ndarray, last: np.ndarray) -> None:
        long = np.flatnonzero(last - first > 1)
        long = long[np.argsort(first[long])]
        covered: list[np.ndarray] = []
        reach = np.iinfo(np.int64).min
        for at in long.tolist():  # requests of more than a cell; what one covers need not be made again
            low, high = max(int(first[at]), reach), int(last[at])
            if high > low:
                covered.append(np.arange(low, min(high, low + 1_000_000)))
                reach = high
        self._cells = np.unique(np.concatenate([self._cells, first, last, *covered]))

    def _follow(self, instants: np.ndarray) -> None:
        """Look for requests that fall behind those above them, for good: their begins and their ends."""
        self._last = np.concatenate([self._last, instants], axis=1)
        if self._last.shape[1] > 2 * _FOLLOW:
            self._look_for_steps(self._last.shape[1] - _FOLLOW)
            self._last = self._last[:, -_FOLLOW - 1 :]

    def _look_for_steps(self, until: int) -> None:
        drops = (np.diff(self._last[:, : until + 1]) < -_BACK_S * _S).all(axis=0)
        for at in np.flatnonzero(drops).tolist():
            ends = self._last[1, at : at + 1 + _FOLLOW]
            if len(ends) > _LEAST and int(ends[1:].max()) < int(ends[0]) - _BACK_S * _S:
                self._steps.append((int(ends[0] - ends[1]), int(ends[1])))

    def steps_back(self) -> list[Span]:
        """How far (ns) the clock was set back, and where it then stood, each time.

        None where lines are in no order, which many such steps tell.
        """
        self._look_for_steps(self._last.shape[1] - 1)
        self._last = self._last[:, :0]
        return self._steps if self.in_order and len(self._steps) <= _MOST_STEPS else []

    def gaps(self, at_least_ns: int | None = None) -> list[Span]:
        """Spans without a request of at least so long, to a few s; by default those worth a word: of 10 min
        and of 20 times the others."""
        between = np.diff(self._cells) - 1
        cells = max(1, _SAID_S // _CELL_S if at_least_ns is None else at_least_ns // (_CELL_S * _S))
        wide = np.flatnonzero(between >= cells)
        if at_least_ns is None and len(wide):
            usual = np.sort(between[between > 0])
            typical = float(np.median(usual)) if len(usual) > 2 * len(wide) else 0.0
            wide = wide[between[wide] >= _TIMES * typical]
        cell = _CELL_S * _S
        return [(int(self._cells[at] + 1) * cell, int(self._cells[at + 1]) * cell) for at in wide.tolist()]
