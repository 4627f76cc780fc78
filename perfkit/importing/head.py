"""The beginning of a file, as the formats look at it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from perfkit.importing.limits import LONGEST_LINE

COLOURS = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
DELIMITERS = (",", ";", "\t", "|")
#: How a file names its delimiter to Excel.
SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.I)
_NAME = re.compile(r'"([^"\\]{1,100})"\s*:')
_OF_JSON = 200_000


@dataclass(frozen=True)
class Head:
    """What the formats recognise a file by: its first bytes, and its first line in some lights.

    given: names of the columns of a file that has no header.
    """

    raw: bytes
    given: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """As text without a terminal's colours; what is not UTF-8 is replaced."""
        return COLOURS.sub("", self.raw.decode(errors="replace"))

    @cached_property
    def lines(self) -> list[str]:
        """Those that are not blank."""
        return [line for line in self.text.splitlines() if line.strip()]

    @cached_property
    def first_line(self) -> str:
        """The first line that is neither blank nor Excel's `sep=`."""
        lines = self.lines[:2]
        return next((line for line in lines if not SEPARATOR.fullmatch(line)), "")

    @cached_property
    def first_json(self) -> Any:
        """The first line as JSON, None when it is none."""
        try:
            return msgspec.json.decode(self.first_line.encode())
        except (msgspec.DecodeError, RecursionError):
            return None

    @cached_property
    def keys(self) -> frozenset[str]:
        """The names in a JSON object, however deep; none where the file begins otherwise."""
        text = self.text[:_OF_JSON]
        return frozenset(_NAME.findall(text)) if text.lstrip()[:1] == "{" else frozenset()

    def names(self, delimiter: str = ",") -> list[str]:
        """The names of a CSV's columns: those given, or the first line."""
        return list(self.given) or self.cells(delimiter)

    def cells(self, delimiter: str = ",") -> list[str]:
        """The first line as the cells of a CSV."""
        csv.field_size_limit(LONGEST_LINE)
        try:
            cells = next(csv.reader(io.StringIO(self.first_line), delimiter=delimiter))
        except (csv.Error, StopIteration):
            return []
        return [cell.strip() for cell in cells]

    def columns(self) -> list[str]:
        """The names of a CSV's columns by its likeliest delimiter."""
        return self.names(self.delimiter())

    def has(self, needed: Iterable[str]) -> bool:
        """Whether a CSV has these columns, whatever its delimiter."""
        return any(set(needed) <= set(self.names(one)) for one in DELIMITERS)

    def delimiter(self, needed: Iterable[str] = ()) -> str:
        """The one named to Excel, else the one by which all columns that are needed are there, else the one
        that makes most of the first line."""
        told = SEPARATOR.fullmatch(self.lines[0]) if self.lines else None
        if told:
            return told[1]
        fit = [one for one in DELIMITERS if set(needed) <= set(self.cells(one))] if needed else []
        return (fit or [max(DELIMITERS, key=lambda one: len(self.cells(one)))])[0]
