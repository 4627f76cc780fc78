"""The one reader of CSV: every format's records come from here, by the names of their columns.

The first line shows the delimiter, or Excel's `sep=;`. A header that stands there again is passed over,
decimal commas become points, and what cannot be read is a broken place at its line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from perfkit.errors import BadInput
from perfkit.importing.head import SEPARATOR, Head
from perfkit.importing.limits import LONGEST_LINE, LONGEST_TEXT, MB, MOST_COLUMNS
from perfkit.importing.nouns import Wrong
from perfkit.importing.source import Source, short
from perfkit.importing.times import whole

#: So many records, or bytes, are read column by column.
_LARGE = 8 * MB
BATCH = 2_000
_QUOTES = re.compile(rb'"+')
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def records(
    source: Source,
    needed: Iterable[str] = (),
    names: Sequence[str] = (),
    *,
    fewest: int | None = None,
    delimiter: str = "",
) -> Iterator[dict[str, str]]:
    """Every record as column -> text.

    names: of the columns of a file without a header. needed: columns without which one with a header is of
    another format (BadInput), as it is where one of them stands there twice. fewest: records may lack columns
    beyond these.
    """
    table = _Table(source, needed, names, fewest, delimiter)
    for row in table.rows():
        yield dict(zip(table.columns, row))  # noqa: B905 - shorter ones were asked for


class WrongRows(ValueError):
    """Records of a batch that cannot be, by their place in it, each with what is wrong with it."""

    def __init__(self, rows: Mapping[int, ValueError]) -> None:
        super().__init__(*rows.values())
        self.rows = rows


@dataclass(frozen=True)
class Batch:
    """Some records of a CSV; of each its line, and the lines that it has beyond that one."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    places: Sequence[tuple[int, int]]
    _columns: dict[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pa.Array:
        """A column's texts; empty ones where there is no such column."""
        if name not in self.names:
            return pa.repeat("", len(self))
        if name not in self._columns:
            texts = map(itemgetter(self.names.index(name)), self.rows)
            self._columns[name] = pa.array(list(texts), pa.string())
        return self._columns[name]

    def cast(self, name: str) -> pa.Array | None:
        """A column's whole numbers (int64), null where it is empty; None where Arrow cannot read them all."""
        texts = self.column(name)
        try:
            return pc.if_else(pc.equal(texts, ""), None, texts).cast(pa.int64())
        except pa.ArrowInvalid:
            return None

    def numbers(self, name: str) -> pa.Array:
        """The same, also with blanks around them; WrongRows for what is not a whole number."""
        found = self.cast(name)
        if found is not None:
            return found
        return self.made(name, lambda text: whole(text) if text.strip() else None, "a whole number")

    def made(self, name: str, make: Callable[[str], int | None], expected: str) -> pa.Array:
        """What is made of each text of a column (int64); WrongRows for those that make a ValueError."""
        found: list[int | None] = []
        wrong: dict[int, ValueError] = {}
        for i, text in enumerate(self.column(name).to_pylist()):
            try:
                found.append(make(text))
            except (ValueError, OverflowError):
                wrong[i] = Wrong(f"{name} {short(text)}", expected)
        if wrong:
            raise WrongRows(wrong)
        return pa.array(found, pa.int64())

    def refuse(self, where: pa.Array, error: Callable[[int], ValueError]) -> None:
        """WrongRows for the records where it is true, each with an error of its own."""
        if pc.any(where).as_py():
            wrong = np.flatnonzero(where.to_numpy(zero_copy_only=False)).tolist()
            raise WrongRows({i: error(i) for i in wrong})

    def take(self, source: Source, read: Callable[[Batch], None], expected: str) -> None:
        """Have it read, and blame the records that cannot be; where one cannot, `read` leaves nothing."""
        wrong = sorted(self._taken(read), key=lambda one: one[0])
        for place, error, row in wrong:
            source.line, source.more = place
            source.blame(error, ",".join(row), expected)

    def _taken(
        self, read: Callable[[Batch], None]
    ) -> Iterator[tuple[tuple[int, int], Exception, Sequence[str]]]:
        """Have it read without the records that cannot be; yields place, error and texts of those."""
        try:
            if self.rows:
                read(self)
        except WrongRows as error:  # the others are read together, as often as there are columns
            yield from ((self.places[i], why, self.rows[i]) for i, why in error.rows.items())
            yield from self._of([i for i in range(len(self)) if i not in error.rows])._taken(read)
        except (ValueError, OverflowError) as error:
            half = len(self) // 2
            if half:
                yield from self._of(range(half))._taken(read)
                yield from self._of(range(half, len(self)))._taken(read)
            else:
                yield self.places[0], error, self.rows[0]

    def _of(self, which: Iterable[int]) -> Batch:
        return Batch(self.names, [self.rows[i] for i in which], [self.places[i] for i in which])


class _Split(Sequence[Sequence[str]]):
    """Records of a line each: split when somebody asks for one."""

    def __init__(self, lines: bytes, delimiter: str, count: int) -> None:
        self._lines, self._delimiter, self._count = lines, delimiter, count

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _records(self) -> list[list[str]]:
        lines = self._lines.decode().removesuffix("\n").split("\n")
        return list(csv.reader(lines, delimiter=self._delimiter, strict=True))

    def __getitem__(self, at: Any) -> Any:
        return self._records[at]


def mapped(texts: pa.Array, make: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """What is made of texts, once of each different one."""
    coded = texts.dictionary_encode()
    return pa.array(map(make, coded.dictionary.to_pylist()), kind).take(coded.indices)


def batches(source: Source, needed: Iterable[str] = (), names: Sequence[str] = ()) -> Iterator[Batch]:
    """The same, many at a time, where a file is read column by column."""
    table = _Table(source, needed, names, None, "")
    columns = table.columns
    rows: list[list[str]] = []
    places: list[tuple[int, int]] = []
    meter = source.meter
    begun = spent = meter.spent
    records = table.rows()
    while True:
        if (ahead := table.ahead()) is not None:
            yield Batch(columns, rows, places)
            yield ahead
            columns, rows, places, begun = table.columns, [], [], meter.spent
            continue
        if (row := next(records, None)) is None:
            break
        place = source.line, source.more  # who takes a batch changes them
        if meter.spent != spent:  # a block more
            if meter.spent > spent + MB:  # nobody looks at more of a text
                row = [cell[:LONGEST_TEXT] for cell in row]
            spent = meter.spent
        if len(rows) >= BATCH or spent - begun > _LARGE or place[1] or table.columns is not columns:
            yield Batch(columns, rows, places)
            columns, rows, places, begun = table.columns, [], [], spent
        rows.append(row)
        places.append(place)
        if place[1]:  # whether it can be read is known before the next one comes
            yield Batch(columns, rows, places)
            rows, places = [], []
    yield Batch(columns, rows, places)


class _Table:
    """The records of a CSV; `columns`, a new list where another header stands among them."""

    def __init__(
        self, source: Source, needed: Iterable[str], names: Sequence[str], fewest: int | None, delimiter: str
    ) -> None:
        self._source, self._needed, self._fewest = source, () if names else tuple(needed), fewest
        delimiter = delimiter or Head(source.head).delimiter(names or self._needed)
        self._delimiter, self._commas = delimiter, delimiter != ","
        self._rows = _rows(source, delimiter)
        self.columns = list(names) or _header(source, next(self._rows, []), self._needed)
        self._singly_to = 0  # up to this line there is something that only the reader of records knows

    def ahead(self) -> Batch | None:
        """The records of the lines in memory; None where not each line is a record, and no header."""
        if self._source.line < self._singly_to:
            return None
        lines = self._source.ahead()
        self._singly_to = self._source.line + lines.count(b"\n")
        odd = b"\0" in lines or (self._commas and b"," in lines)
        if not lines or odd or not _quoted_well(lines, self._delimiter.encode()):
            return None
        numbered = [str(at) for at in range(len(self.columns))]
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                pa_csv.ReadOptions(column_names=numbered, use_threads=False, block_size=len(lines)),
                pa_csv.ParseOptions(delimiter=self._delimiter),
                pa_csv.ConvertOptions(column_types=dict.fromkeys(numbered, pa.string())),
            )
        except pa.ArrowInvalid:  # other columns, or no UTF-8
            return None
        found = [column.combine_chunks() for column in table.columns]
        other_ends = len(table) != lines.count(b"\n")  # blank lines, quoted ones, or a \r among them
        if other_ends or pc.any(pc.is_in(found[0], value_set=pa.array(self._known()))).as_py():
            return None
        first = self._source.passed(lines, len(table))
        places = [(line, 0) for line in range(first, first + len(table))]
        columns = dict(reversed(list(zip(self.columns, found, strict=True))))  # of two alike the first
        return Batch(self.columns, _Split(lines, self._delimiter, len(table)), places, columns)

    def rows(self) -> Iterator[list[str]]:
        """The records that fit the columns, without headers that stand there again and decimal commas."""
        source, fewest, decimal = self._source, self._fewest, ""
        width, known = len(self.columns), self._known()
        for row in self._rows:
            if (len(row) != width or row[0] in known) and self._is_header(row):
                width, known = len(self.columns), self._known()
                continue
            if len(row) != width and not (fewest and fewest <= len(row) <= width):
                source.bad(f"{len(row)} columns", f"{width}" if fewest is None else f"{fewest} to {width}")
                continue
            if self._commas:
                found = next((one for one in row if _DECIMAL_COMMA.fullmatch(one)), "")
                if found:
                    row = [one.replace(",", ".") if _DECIMAL_COMMA.fullmatch(one) else one for one in row]
                    decimal = decimal or found
            yield row
        if decimal:
            source.notes.append(f"commas in numbers were read as decimal points, as in {decimal}")

    def _known(self) -> set[str]:
        """What a header may begin with."""
        return {mark + name for name in (*self.columns, *self._needed) for mark in ("", "\ufeff")}

    def _is_header(self, row: list[str]) -> bool:
        """Whether a record is a header once more, of these columns or others; those count from here on."""
        source, names = self._source, [one.strip().removeprefix("\ufeff") for one in row]
        if len(row) <= 2 and SEPARATOR.fullmatch(",".join(names)):
            return True
        if names != self.columns and not (self._needed and set(self._needed) <= set(names)):
            return False
        if source.line > 1:
            source.notes.append(f"line {source.line:,} repeats the header: were files joined?")
        if names != self.columns:
            self.columns = _header(source, names, self._needed)
        return True


def _quoted_well(lines: bytes, delimiter: bytes) -> bool:
    """Whether all readers of CSV agree on the quotes: each begins or ends a cell, or is doubled within one.

    False too where it would take long to find out.
    """
    if lines.count(b'"') > 6 * lines.count(b"\n"):
        return False
    for run in _QUOTES.finditer(lines):
        begins = lines[run.start() - 1 : run.start()] in (b"", b"\n", delimiter)
        ends = lines[run.end() : run.end() + 1] in (b"\r", b"\n", delimiter)
        single = len(run[0]) % 2
        if begins + ends == 1 - single:
            return False
    return True


def _header(source: Source, first: Sequence[str], needed: Iterable[str]) -> list[str]:
    """The names of a table's columns."""
    names = [name.strip() for name in first]
    if len(names) > MOST_COLUMNS:
        raise BadInput(f"{source.path} has {len(names):,} columns; up to {MOST_COLUMNS:,} are read")
    if missing := [name for name in needed if name not in names]:
        there = short(", ".join(names))
        what = f"no column {', '.join(missing)} in its first line, {there}"
        raise BadInput(f"{source.path}: {what}; it is of another format")
    refuse_twice(source, names, needed)
    return names


def refuse_twice(source: Source, names: Sequence[str], needed: Iterable[str]) -> None:
    """BadInput when several columns have a name that is needed."""
    for name in needed:
        if names.count(name) > 1:
            twice = f"{names.count(name)} columns are called {short(name)}"
            raise BadInput(f"{source.path}: {twice}, so it is ambiguous; rename all but one")


def _rows(source: Source, delimiter: str) -> Iterator[list[str]]:
    """Every record of a CSV file; `source.line` is the number of its first line.

    A quote that is not closed is a broken place, and takes the lines after it along: they are counted.
    """
    csv.field_size_limit(LONGEST_LINE)
    first = count = size = quoted = 0  # where a record begins; its lines and characters so far

    def lines() -> Iterator[str]:
        nonlocal first, count, size
        for text in source.texts():
            if source.line == 1 and SEPARATOR.fullmatch(text):
                continue
            first = first or source.line
            count += 1
            size += len(text) + 1
            if size > LONGEST_LINE + 1:
                raise csv.Error(f"more than {LONGEST_LINE // MB} MB in quotes")
            yield text + "\n"

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        first = count = size = 0
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            source.line, source.more = first, count - 1
            problem = str(error).replace("unexpected end of data", "a quote that is never closed")
            source.bad(problem, "a line of CSV")
            continue
        source.line, source.more = first, count - 1
        broken = source.broken_count
        yield row
        if broken == source.broken_count:
            quoted += count - 1
    if quoted:
        words = "lines are inside quotes opened by an earlier line, as part of its text"
        source.notes.append(f"{quoted:,} {words}")
