"""A file of another tool: opened, looked at, read line by line, and what of it was broken."""

from __future__ import annotations

import csv
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.limits import (
    LONGEST_LINE,
    LONGEST_TEXT,
    MB,
    MOST_BLANK,
    MOST_BROKEN,
    MOST_COLUMNS,
)
from perfkit.importing.metered import BLOCK, Meter
from perfkit.importing.words import clean

_HEAD = 1024 * 1024
_TOLD = 3


@dataclass(frozen=True)
class Broken:
    """A place of the file that could not be read: what stands there, what would be right."""

    place: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.place}: {self.found}, expected {self.expected}"


class Source:
    """A file opened for reading. BadInput, from the constructor on, for what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: list[Broken] = []
        self.broken_count = 0
        self.swallowed = 0  #: lines that were lost with a broken place, being in its quotes
        self.quoted = 0  #: lines in quotes of a record that began before them, and was read
        self.line = 0  #: of the line read last, from 1; of a CSV's record its first
        self._more = 0  # lines of the record read last beyond its first
        self.meter = Meter(path)
        self._raw_head = self._looked_at()

    def _looked_at(self) -> bytes:
        if self.path.is_dir():
            raise BadInput(f"{self.path} is a folder; give a file that a tool wrote")
        if self.path.exists() and not self.path.is_file():
            raise BadInput(f"{self.path} is no regular file; write what it has to a file first")
        try:
            with open(self.path, "rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from None
        if not head:
            raise BadInput(f"{self.path} is empty; nothing to import")
        return head

    @property
    def is_gzip(self) -> bool:
        """Whether its first bytes are those of gzip."""
        return self._raw_head[:2] == b"\x1f\x8b"

    @cached_property
    def head(self) -> bytes:
        """The first MB, unpacked, without a byte order mark."""
        try:
            with self.meter.open(packed=self.is_gzip) as file:
                head = file.read(_HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{self.path}: its gzip is damaged ({error}); nothing was imported") from None
        if not head.strip():
            raise BadInput(f"{self.path} has nothing but blanks; nothing to import")
        return head.removeprefix(b"\xef\xbb\xbf")

    def refuse_binary(self) -> None:
        """BadInput for what is no UTF-8 text."""
        if self.head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadInput(f"{self.path} is UTF-16; `iconv -f UTF-16 -t UTF-8 FILE > NEW` makes it readable")
        if b"\0" in self.head[:8192]:
            raise BadInput(f"{self.path} is binary, not text; for formats see `perfkit import --help`")

    def sha256(self) -> str:
        """Of the file as it lies there, packed or not."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self) -> int:
        """Bytes of the file as it lies there."""
        return os.stat(self.path).st_size

    # -- reading -----------------------------------------------------------------------------------

    def lines(self) -> Iterator[bytes]:
        """Every line that is not blank, without its end; one that is too long is broken and left out.

        `line` is its number. A gzip that ends too early is a broken place.
        """
        number = blank = 0
        with self.meter.open(packed=self.is_gzip) as file:
            try:
                while line := file.readline(LONGEST_LINE):
                    number += 1
                    self.line, self._more = number, 0
                    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                        while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                            continue
                        self.bad(f"more than {LONGEST_LINE // MB} MB", "a line")
                        continue
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if line.strip():
                        blank = 0
                        yield line.rstrip(b"\r\n")  # tabs and blanks at the end may be empty columns
                    elif (blank := blank + 1) > MOST_BLANK:
                        raise BadInput(f"{self.path}: more than {MOST_BLANK:,} blank lines from line "
                                       f"{number - MOST_BLANK:,} on; nothing was imported")  # fmt: skip
            except (OSError, EOFError, zlib.error) as error:
                self.bad(f"the gzip is damaged ({error})", "more of the file")

    def blocks(self) -> Iterator[bytes]:
        """All of the file, some kB at a time. A gzip that ends too early is a broken place."""
        with self.meter.open(packed=self.is_gzip) as file:
            try:
                while block := file.read(BLOCK):
                    yield block
            except (OSError, EOFError, zlib.error) as error:
                self.bad(f"the gzip is damaged ({error})", "more of the file")

    def texts(self) -> Iterator[str]:
        """The same as text; what is not UTF-8 is broken."""
        for line in self.lines():
            try:
                text = line.decode()
            except UnicodeDecodeError:
                self.bad(f"{line[:40]!r} is not UTF-8", "text")
                continue
            if "\0" in text:
                self.bad("zero bytes", "text")
                continue
            yield text

    def table(self, delimiter: str = ",") -> Iterator[list[str]]:
        """Every record of a CSV file; `line` is the number of its first line.

        A quote that is not closed is a broken place, and takes the lines after it along: they are counted.
        """
        csv.field_size_limit(LONGEST_LINE)
        lines = _RecordLines(self)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin()
            record, problem = None, ""
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = str(error).replace("unexpected end of data", "a quote that is never closed")
            self.line, self._more = lines.first, lines.count - 1
            if record is None:
                self.bad(problem, "a line of CSV")
                continue
            broken = self.broken_count
            yield record
            if broken == self.broken_count:
                self.quoted += lines.count - 1

    def header(self, records: Iterator[list[str]], needed: Iterable[str]) -> list[str]:
        """The names of a table's columns, its first record.

        BadInput when one that is needed is missing, or stands there twice.
        """
        names = [name.strip() for name in next(records, [])]
        if len(names) > MOST_COLUMNS:
            raise BadInput(f"{self.path} has {len(names):,} columns; up to {MOST_COLUMNS:,} are read")
        missing = [name for name in needed if name not in names]
        if missing:
            there = ", ".join(names)
            raise BadInput(
                f"{self.path}: no column {', '.join(missing)} in its first line, {short(there)}; "
                "it is of another format"
            )
        self.refuse_twice(names, needed)
        return names

    def refuse_twice(self, names: list[str], needed: Iterable[str]) -> None:
        """BadInput when several columns have a name that is needed."""
        for name in needed:
            if names.count(name) > 1:
                twice = f"{names.count(name)} columns are called {short(name)}"
                raise BadInput(f"{self.path}: {twice}, which is meant is not known; rename all but one")

    def document(self, largest: int, hint: str) -> memoryview:
        """All of a file that is one document of up to `largest` bytes; BadInput, with a hint, for more."""
        try:
            with self.meter.open(packed=self.is_gzip) as file:
                whole = file.read(largest + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{self.path}: its gzip is damaged ({error}); nothing was imported") from None
        if len(whole) > largest:
            raise BadInput(f"{self.path} is one JSON document of more than {largest // MB} MB; {hint}")
        return memoryview(whole)[3 if whole.startswith(b"\xef\xbb\xbf") else 0 :]

    def json(self, largest: int, hint: str) -> Any:
        """The one JSON value the file is; BadInput says where it is broken or too large."""
        try:
            return msgspec.json.decode(self.document(largest, hint))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{self.path} is broken JSON ({error}); nothing was imported") from None

    # -- what is broken ----------------------------------------------------------------------------

    def bad(self, found: str, expected: str, place: str | None = None) -> None:
        """Note a broken place; by default the line, or the record of a CSV, read last."""
        self.broken_count += 1
        if place is None and self._more:
            self.swallowed += self._more
            found, self._more = f"{found} (and {self._more:,} more lines in its quotes)", 0
        if len(self.broken) < _TOLD:
            found = clean(found) or "nothing"  # it is kept in the run, and may hold a secret
            self.broken.append(Broken(place or f"line {self.line:,}", found, expected))
        if self.broken_count > MOST_BROKEN:
            raise BadInput(f"{self.path}: more than {MOST_BROKEN:,} broken places, nothing was imported: "
                           f"{self.told()}")  # fmt: skip

    def told(self) -> str:
        """The first broken places in words."""
        more = self.broken_count - len(self.broken)
        return "; ".join(map(str, self.broken)) + (f"; and {more:,} more" if more else "")


class _RecordLines:
    """The lines of a file for `csv.reader`: how many a record has, from which on; none is too long."""

    def __init__(self, source: Source) -> None:
        self._source, self._texts = source, source.texts()
        self.first = self.count = self._size = 0

    def begin(self) -> None:
        """A record begins with the next line."""
        self.first = self.count = self._size = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        text = next(self._texts)
        self.count += 1
        self.first = self.first or self._source.line
        self._size += len(text) + 1
        if self._size > LONGEST_LINE + 1:
            raise csv.Error(f"more than {LONGEST_LINE // MB} MB in quotes")
        return f"{text}\n"


def short(value: object) -> str:
    """A value as it may stand in a message."""
    text = value[:LONGEST_TEXT] if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
