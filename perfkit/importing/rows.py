"""Rows on their way from a file to a run folder: checked one by one, written a segment at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit.errors import BadInput
from perfkit.importing.limits import LONGEST_NAME, MOST_ROWS, MOST_USERS
from perfkit.importing.nouns import Wrong
from perfkit.importing.steps import Steps
from perfkit.importing.times_seen import Times
from perfkit.importing.words import Names, clean
from perfkit.store import write_segment
from perfkit.store.columns import TEXT, TYPES
from perfkit.store.reading import SCHEMA

#: So many rows are held in memory before they become a segment.
SEGMENT = 50_000
_FEW = 1_000  # so many counted requests are added as quickly one by one
_YEAR_NS = 366 * 86_400 * 1_000_000_000
_UNIX = (631_152_000 * 1_000_000_000, 7_258_118_400 * 1_000_000_000)  # 1990 to 2200
#: The instants other tools know of.
INSTANTS = ("planned", "started", "sent", "first_byte", "done")
_NAMES = (*INSTANTS, "operation", "status", "error", "error_text", "bytes_sent",
          "bytes_received", "user", "phase")  # fmt: skip
#: A user's number may be any until `settle`.
_TYPES = {name: TYPES[name] for name in _NAMES} | {"user": pa.int64()}
_MOST_USERS = 2**31
Span = tuple[int, int]
Headers = tuple[tuple[str, str], ...]


class Rows:
    """Collects rows and writes them to `folder`/segments, instants as the file's clock has them, ns."""

    #: Whether requests are kept, to be sent again: readers then say what was asked, not its name.
    keeps_requests = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []  # of the next segment
        self._users: dict[str, int] = {}
        self._segments = 0
        self._numbered = 0  # users with a number of their own: one more than the highest
        self.unnamed = 0  #: requests of users whose names came after MOST_USERS others
        self._all: Span | None = None
        self._measured: Span | None = None
        #: Only requests that begin in it are kept, from the first to before the last.
        self.window: Span | None = None
        self.times = Times()
        self.steps = Steps()  #: a reader tells it in which units the file has its times
        self.names = Names()
        self.absolute = True  #: instants are Unix time; a reader sets it before the first row
        self.count = 0

    def request(
        self, label: str, method: str, headers: Headers = (), body: bytes = b"", *, url: str = ""
    ) -> str:
        """The operation of a request; all but label and method is for who keeps requests."""
        return self.names.of(label, method)

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
        phase: str = "measure",
    ) -> None:
        """One request, instants in ns; without `planned` it is taken to have been due when it started.

        words: of an error; by default its status.

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
            clean(words or f"status {status}") if error else None,
            _size(bytes_sent), _size(bytes_received), self.user(user), phase,
        ))  # fmt: skip
        if len(self._rows) >= SEGMENT:
            self._to_table()

    def add_columns(self, columns: Mapping[str, Any], kept: np.ndarray | None = None) -> None:
        """Many requests that cannot be wrong (see `refuse`), in columns; kept: which of them are rows.

        What is not given is null, the phase `measure`.
        """
        n = len(columns["planned"])
        found: dict[str, pa.Array] = {name: pa.nulls(n, kind) for name, kind in _TYPES.items()}
        found |= {name: pa.array(column).cast(_TYPES[name]) for name, column in columns.items()}
        if "phase" not in columns:
            found["phase"] = pa.repeat("measure", n).cast(TEXT)
        self._to_table()
        self._add_table(found, kept)

    def refuse(self, first: int, last: int, longest: int) -> None:
        """Wrong for requests that begin so and take so long at most, as `add`."""
        self._check(first, first)
        self._check(last, last, last + longest)

    def _check(self, begin: int, *later: int | None) -> None:
        low, high = _UNIX if self.absolute else (-_YEAR_NS, _YEAR_NS)
        if not low <= begin <= high:
            what = "between 1990 and 2200" if self.absolute else "within a year"
            raise Wrong(f"an instant of {begin / 1e9:.6g} s", f"one {what}")
        known = [begin, *(one for one in later if one is not None)]
        if known != sorted(known):
            order = "planned ≤ started ≤ sent ≤ first byte ≤ done"
            raise Wrong("an instant before the one it follows", order)
        if (took := known[-1] - begin) > _YEAR_NS:
            raise Wrong(f"a request that took {took / 1e9:.6g} s", "less than a year")

    def user(self, user: object) -> int | None:
        """A user's number; one with a name gets -1, -2, … until `settle` knows which numbers are free."""
        if user is None or user == "":
            return None
        if isinstance(user, int) and 0 <= user < _MOST_USERS:
            self._numbered = max(self._numbered, user + 1)
            return user
        name = str(user)[:LONGEST_NAME]
        number = self._users.get(name)
        if number is None and len(self._users) >= MOST_USERS:
            self.unnamed += 1
            return None
        return -1 - (self._users.setdefault(name, len(self._users)) if number is None else number)

    def add_counted(
        self, operation: str, started: np.ndarray, done: np.ndarray | None, failure: str | None
    ) -> None:
        """Up to SEGMENT requests a file only counts, as int64 instants in ns; done None: they have no end.

        failure: the words of theirs, None where they succeeded. Wrong as `add`.
        """
        error = "check" if failure else None
        if len(started) < _FEW:
            for at, begin in enumerate(started.tolist()):
                end = None if done is None else int(done[at])
                self.add(operation, started=begin, done=end, error=error, words=failure)
            return
        took = started if done is None else done - started
        for at in {int(one) for times in (started, took) for one in (times.argmin(), times.argmax())}:
            self._check(int(started[at]), int(started[at]), None if done is None else int(done[at]))
        columns: dict[str, Any] = {"planned": started, "started": started}
        columns |= {} if done is None else {"done": done}
        same = {"operation": operation, "error": error, "error_text": clean(failure) if failure else None}
        self.add_columns(columns | {name: pa.repeat(one, len(started)) for name, one in same.items() if one})

    def refuse_more(self, n: int) -> None:
        """BadInput when n more requests would be more than a run has at most."""
        if self.count + n > MOST_ROWS:
            raise BadInput(f"the file has more than {MOST_ROWS:,} requests; split it and import the parts")

    def _to_table(self) -> None:
        if not self._rows:
            return
        columns = dict(zip(_NAMES, zip(*self._rows, strict=True), strict=True))
        self._rows = []
        plain = {name: pa.string() if kind == TEXT else kind for name, kind in _TYPES.items()}
        self._add_table({
            name: pa.array(values, plain[name]).cast(_TYPES[name]) for name, values in columns.items()
        })  # fmt: skip

    def _add_table(self, columns: dict[str, pa.Array], kept: np.ndarray | None = None) -> None:
        table = pa.table(columns)
        self.refuse_more(len(table))
        if kept is not None and not kept.all():
            table = table.filter(pa.array(kept))
        if self.window is not None:
            table = table.filter(pc.and_(pc.greater_equal(table["planned"], self.window[0]),
                                         pc.less(table["planned"], self.window[1])))  # fmt: skip
        n = len(table)
        table = table.append_column("seq", pa.array(np.arange(self.count, self.count + n)))
        table = table.append_column("worker", pa.array(np.zeros(n, np.int32)))
        table = table.append_column("attempt", pa.array(np.ones(n, np.uint8)))
        self._look(table)
        self._tables.append(table)
        self.count += n
        if sum(map(len, self._tables)) >= SEGMENT:
            self._write()

    def _write(self) -> None:
        """The next segment."""
        if self._tables:
            write_segment(self._folder, f"{self._segments:06}", pa.concat_tables(self._tables))
            self._segments += 1
            self._tables = []

    def _look(self, table: pa.Table) -> None:
        """Remember what the run as a whole needs to know of its rows."""
        self.steps.look(table)
        self.times.look(table)
        self._all = _wider(self._all, table)
        self._measured = _wider(self._measured, table.filter(pc.equal(table["phase"], "measure")))

    def close(self) -> None:
        """Write what is left."""
        self._to_table()
        self._write()

    @property
    def added(self) -> int:
        """How many rows there are, those in memory too."""
        return self.count + len(self._rows)

    @property
    def span_ns(self) -> Span:
        """The first begin and the last end; 0 where there is no row."""
        return self._all or (0, 0)

    @property
    def measured_ns(self) -> Span | None:
        """The same of the measured rows; None where there is none."""
        return self._measured

    def settle(self, scenario: str) -> None:
        """Put the segments on the run's own clock: instants from 0 on; a segment's rows by their begin.

        Users with names get the numbers after those that users have of their own.
        """
        origin = pa.scalar(self.span_ns[0], pa.int64())
        if not self._segments:  # a summary
            write_segment(self._folder, "000000", SCHEMA.empty_table())
            return
        for file in sorted((self._folder / "segments").glob("*.parquet")):
            table = pq.read_table(file)
            columns = dict(zip(table.column_names, table.columns, strict=True))
            columns |= {name: pc.subtract(columns[name], origin) for name in INSTANTS}
            named = pc.subtract(self._numbered - 1, table["user"])
            user = pc.if_else(pc.less(table["user"], 0), named, table["user"])
            columns["user"] = pc.if_else(pc.less(user, _MOST_USERS), user, None).cast(pa.int32())
            names = table["operation"].combine_chunks()
            settled = pa.array([self.names.settled(one) for one in names.dictionary.to_pylist()], pa.string())
            columns["operation"] = settled.take(names.indices).dictionary_encode()
            words = pa.array([scenario], pa.string()).dictionary_encode()
            columns["scenario"] = words.take([0] * len(table))
            whole = pa.table(columns)
            write_segment(self._folder, file.stem, whole.take(pc.sort_indices(whole["planned"])))


def _wider(span: Span | None, table: pa.Table) -> Span | None:
    """A span that takes in these rows too: from the first begin to the last end."""
    if not len(table):
        return span
    begin, end = (pc.min_max(table[name]).as_py() for name in ("planned", "done"))
    last = begin["max"] if end["max"] is None else max(begin["max"], end["max"])
    return (begin["min"], last) if span is None else (min(span[0], begin["min"]), max(span[1], last))


def _size(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < 2**62 else None
