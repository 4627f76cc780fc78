"""Rows on their way from a file to a run folder: checked one by one, written a segment at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit.importing.nouns import coarsest
from perfkit.importing.words import Names, clean
from perfkit.store import write_segment

#: So many rows are held in memory before they become a segment.
SEGMENT = 100_000
#: A resolution is measured on at least so many rows; fewer can look rounded by chance.
_ENOUGH = 20
_YEAR_NS = 366 * 86_400 * 1_000_000_000
_UNIX = (631_152_000 * 1_000_000_000, 7_258_118_400 * 1_000_000_000)  # 1990 to 2200
_NAMES = ("planned", "started", "sent", "first_byte", "done", "operation", "status", "error", "error_text",
          "bytes_sent", "bytes_received", "user")  # fmt: skip
_TEXT = pa.dictionary(pa.int32(), pa.string())
_TYPES = dict.fromkeys(_NAMES, pa.int64()) | {"operation": _TEXT, "error": _TEXT, "error_text": pa.string()}
_TYPES |= {"status": pa.int16(), "user": pa.int32()}


class Wrong(ValueError):
    """A row that cannot be; `found` and `expected` say what is wrong with it."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found, self.expected = found, expected


class Rows:
    """Collects rows and writes them to `folder`/segments, instants as the file's clock has them, ns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[Any, ...]] = []
        self._users: dict[str, int] = {}
        self._segments = 0
        self._divisors = {"started": 0, "done": 0, "took": 0}
        self.names = Names()
        self.absolute = True  #: instants are Unix time; a reader sets it before the first row
        self.count = self.failed = 0
        self.first: int | None = None
        self.last: int | None = None

    def add(
        self,
        operation: str,
        *,
        started: int | None,
        done: int | None,
        planned: int | None = None,
        sent: int | None = None,
        first_byte: int | None = None,
        status: int | None = None,
        error: str | None = None,
        words: object = None,
        bytes_sent: int | None = None,
        bytes_received: int | None = None,
        user: object = None,
    ) -> None:
        """One request, instants in ns; without `planned` it is taken to have been due when it started.

        Wrong when its instants are out of order or out of any calendar, or its status is no HTTP status.
        """
        begin = planned if planned is not None else started
        if begin is None:
            raise Wrong("no instant to begin with", "planned or started")
        self._check(begin, started, sent, first_byte, done)
        if status is not None and not 100 <= status <= 599:
            raise Wrong(f"status {status}", "100 to 599")
        if done is None and error is None:
            raise Wrong("no end", "one for a request that succeeded")
        self._rows.append((
            begin, started, sent, first_byte, done, operation, status, error,
            clean(words) if words and error else None,
            _size(bytes_sent), _size(bytes_received), self._user(user),
        ))  # fmt: skip
        if len(self._rows) >= SEGMENT:
            self._flush()

    def _check(self, begin: int, *later: int | None) -> None:
        low, high = _UNIX if self.absolute else (-_YEAR_NS, _YEAR_NS)
        before = begin
        if not low <= begin <= high:
            what = "between 1990 and 2200" if self.absolute else "within a year"
            raise Wrong(f"an instant of {begin / 1e9:.6g} s", f"one {what}")
        for one in later:
            if one is None:
                continue
            if one < before:
                raise Wrong(
                    "an instant before the one it follows", "planned ≤ started ≤ sent ≤ first byte ≤ done"
                )
            before = one
        if before - begin > _YEAR_NS:
            raise Wrong(f"a request that took {(before - begin) / 1e9:.6g} s", "less than a year")

    def _user(self, user: object) -> int | None:
        """A user's number: its own, or for a name the place of that name among all."""
        if user is None or user == "":
            return None
        if isinstance(user, int):
            return user if 0 <= user < 2**31 else None
        return self._users.setdefault(str(user), len(self._users))

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = dict(zip(_NAMES, zip(*self._rows, strict=True), strict=True))
        self._rows = []
        n = len(columns["planned"])
        seq = np.arange(self.count, self.count + n)
        table = pa.table(
            {
                name: pa.array(values, _plain(_TYPES[name])).cast(_TYPES[name])
                for name, values in columns.items()
            }
            | {
                "seq": seq,
                "worker": pa.array(np.zeros(n, np.int32)),
                "attempt": pa.array(np.ones(n, np.uint8)),
            }
        )
        self._look(table)
        write_segment(self._folder, f"{self._segments:06}", table)
        self._segments += 1
        self.count += n

    def _look(self, table: pa.Table) -> None:
        """Remember what the run as a whole needs to know of its rows."""
        begin = table["planned"].to_numpy()
        ended = pc.drop_null(table["done"]).to_numpy()
        took = pc.drop_null(pc.subtract(table["done"], table["planned"])).to_numpy()
        self.failed += n_valid(table["error"])
        low, high = int(begin.min()), int(max(begin.max(), ended.max() if len(ended) else begin.max()))
        self.first = low if self.first is None else min(self.first, low)
        self.last = high if self.last is None else max(self.last, high)
        started = pc.drop_null(table["started"]).to_numpy()
        for name, values in (("started", started), ("done", ended), ("took", took)):
            common = int(np.gcd.reduce(values)) if len(values) else 0
            self._divisors[name] = math.gcd(self._divisors[name], common)

    def close(self) -> None:
        """Write what is left."""
        self._flush()

    @property
    def added(self) -> int:
        """How many rows there are, those in memory too."""
        return self.count + len(self._rows)

    def resolution(self) -> tuple[int, int]:
        """The steps instants and latencies turned out to be rounded to, ns; 1 where nothing can be said.

        Not by `planned`: a schedule may be even.
        """
        if self.count < _ENOUGH:
            return 1, 1
        found = {name: coarsest(divisor) for name, divisor in self._divisors.items()}
        return max(found["started"], found["done"]), found["took"]

    @property
    def span_ns(self) -> tuple[int, int]:
        """The first begin and the last end."""
        assert self.first is not None
        assert self.last is not None
        return self.first, self.last


def n_valid(column: pa.ChunkedArray) -> int:
    return len(column) - int(column.null_count)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind == _TEXT else kind


def _size(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < 2**62 else None


def settle(folder: Path, origin: int, scenario: str) -> None:
    """Put the segments on the run's own clock: instants from `origin` on; a segment's rows by their begin."""
    for file in sorted((folder / "segments").glob("*.parquet")):
        table = pq.read_table(file)
        for name in ("planned", "started", "sent", "first_byte", "done"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pc.subtract(table[name], pa.scalar(origin, pa.int64())))
        n = len(table)
        for name, word in (("scenario", scenario), ("phase", "measure")):
            table = table.append_column(name, pa.array([word], pa.string()).dictionary_encode().take([0] * n))
        write_segment(folder, file.stem, table.take(pc.sort_indices(table["planned"])))


def spread(begin: int, end: int, n: int) -> Iterator[int]:
    """n instants evenly over a bucket of time, none on its edges."""
    return (begin + (end - begin) * (2 * i + 1) // (2 * n) for i in range(n))
