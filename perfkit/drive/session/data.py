"""Rows of a CSV or JSON Lines file for a scenario: each row once, however many workers share the file."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from perfkit.errors import BadInput
from perfkit.redaction import secrets_of
from perfkit.store import read_regular
from perfkit.suggestions import nearest, nearest_file


class UnknownColumn(BadInput, KeyError):
    """A column that a data file does not have; a KeyError, as of any mapping."""


class DataRow(dict[str, Any]):
    """A row of a data file by its columns; asked for another, it names those that there are."""

    def __missing__(self, name: object) -> Any:
        columns = [str(one) for one in self]
        shown = f"known: {', '.join(columns[:20])}" + f", … ({len(columns):,})" * (len(columns) > 20)
        if len(columns) == 1 and (others := [one for one in _DELIMITERS if one in columns[0]]):
            commas = f"columns are separated by commas, not {others[0]!r}"
            raise UnknownColumn(f"no column {name!r:.60}; the only one is {columns[0]!r:.80}: {commas}")
        close = nearest(str(name), columns)
        raise UnknownColumn(f"no column {name!r:.60}; {f'did you mean {close!r}? ' * bool(close)}{shown}")


#: What separates columns in files that are no CSV as it is read here.
_DELIMITERS = (";", "\t", "|")
_NOT_HERE = (
    "did not come along to this host: only files do whose names stand in the scenario's text or its"
    " parameters, written out in full (docs/many-hosts.md)"
)
Per = Literal["user", "step"]
AtEnd = Literal["error", "cycle"]
_MOST_BYTES = 64 * 2**20


class Taken(NamedTuple):
    """A row and the secrets in it: values of columns named like secrets, such as `password`."""

    row: DataRow
    secrets: tuple[str, ...]


class DataFiles:
    """Hands out the rows of data files in one worker, `index` of `count`.

    folder: where relative names begin. The order is that of the seed and the file's name, the same in every
    run and in every worker. A user has the row of its number. Steps of worker i have rows i, i + count, … of
    the order: measured steps from the front, steps of the warm-up from the back, so that how many of those
    there were changes no measured step.
    """

    def __init__(
        self, folder: Path, seed: int, index: int = 0, count: int = 1, *, travelled: bool = False
    ) -> None:
        """travelled: the scenario came from another host, with the data files that it names."""
        self._folder, self._seed, self._travelled = folder, seed, travelled
        self._index, self._count = index, count
        self._ordered: dict[str, list[DataRow] | BadInput] = {}
        self._furthest: Counter[tuple[str, bool]] = Counter()  #: rows in use, by file and part of the run

    def take(self, name: str, per: Per, at_end: AtEnd, user: int, step: int) -> Taken:
        """Return the row for a user or a step; BadInput for a broken file, a wrong word, and no row left."""
        for given, allowed in ((per, ("user", "step")), (at_end, ("error", "cycle"))):
            if given not in allowed:
                raise BadInput(f"data {name!r:.80}: {given!r:.20} is not one of {' and '.join(allowed)}")
        rows = self._rows(name)
        place, rows = (user, rows) if per == "user" else (self._place(step), self._share(rows, at_end))
        warming = per == "step" and step < 0
        if at_end == "cycle":
            place %= len(rows)
        else:
            self._require(name, per, place, len(rows), warming)
        row = rows[-1 - place] if warming else rows[place]
        return Taken(row, secrets_of(row))

    def _place(self, step: int) -> int:
        """How many steps of this worker, in the same part of the run, have smaller numbers."""
        return (-1 - step if step < 0 else step) // self._count

    def _share(self, rows: list[DataRow], at_end: AtEnd) -> list[DataRow]:
        own = rows[self._index :: self._count]
        return rows if not own and at_end == "cycle" else own

    def _require(self, name: str, per: Per, place: int, size: int, warming: bool) -> None:
        """BadInput unless there is such a row, and neither the front nor the back has come to it yet."""
        needed = place + 1
        if per == "step":
            needed = max(needed, self._furthest[name, warming])
            self._furthest[name, warming] = min(needed, size)
            needed += self._furthest[name, not warming]
        if needed > size:
            share = f" of this worker, 1 of {self._count}," if per == "step" and self._count > 1 else ""
            raise BadInput(
                f"data {name}: all {size:,} rows{share} are used, one for each {per}; add rows, or pass"
                ' at_end="cycle" to begin again'
            )

    def _rows(self, name: str) -> list[DataRow]:
        """Every row of a file, in the seeded order; read once, and so is what was wrong with it."""
        found = self._ordered.get(name)
        if found is None:
            try:
                if self._travelled and not (self._folder / name).exists():
                    raise BadInput(f"data {name:.80} {_NOT_HERE}")
                found = read_rows(self._folder / name)
                random.Random(f"{self._seed}:data:{name}").shuffle(found)
            except BadInput as error:
                found = error
            self._ordered[name] = found
        if isinstance(found, BadInput):
            raise BadInput(str(found))
        return found


def read_rows(path: Path) -> list[DataRow]:
    """Return the rows of a CSV file (a header, texts) or a JSON Lines file (an object per line).

    BadInput, with the line, for anything else, for no rows and for more than 64 MB.
    """
    if path.suffix.lower() not in _KINDS:
        raise BadInput(f"data {path.name}: the name must end in {', '.join(_KINDS)}")
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"data {path.name}: not UTF-8 text") from None
    except (OSError, ValueError) as error:  # the latter: a null byte in the name
        words = getattr(error, "strerror", error)
        raise BadInput(f"data {path.name} in {path.parent}: {words}{_near(path)}") from None
    rows = list(_KINDS[path.suffix.lower()](text, path.name))
    if not rows:
        raise BadInput(f"data {path.name}: it has no rows")
    return rows


def _near(path: Path) -> str:
    """The file beside it that was meant, or those there are, where one is not there."""
    if near := nearest_file(path, _KINDS):
        return f"; did you mean {near.name}?"
    try:
        there = sorted(one.name for one in path.parent.iterdir() if one.suffix.lower() in _KINDS)
    except (OSError, ValueError):
        return ""
    return f"; there: {', '.join(there[:5])}" * bool(there)


def _csv(text: str, name: str) -> Iterator[DataRow]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if repeated := [column for column, times in Counter(header).items() if times > 1]:
            raise BadInput(f"data {name}: column {repeated[0]!r:.60} is there twice")
        for fields in lines:
            if fields and len(fields) != len(header):
                where = f"data {name}, line {lines.line_num}"
                raise BadInput(f"{where}: {len(fields)} fields, where the header has {len(header)}")
            if fields:
                yield DataRow(zip(header, fields, strict=True))
    except csv.Error as error:
        raise BadInput(f"data {name}, line {lines.line_num}: {error}") from None


def _json_lines(text: str, name: str) -> Iterable[DataRow]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = decode(line)
            except msgspec.DecodeError as error:
                raise BadInput(f"data {name}, line {number}: not a JSON object: {error}") from None
            yield DataRow(row)


_KINDS: dict[str, Callable[[str, str], Iterable[DataRow]]] = {
    ".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines,
}  # fmt: skip
