"""The beginning of a file, as the formats look at it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from perfkit.importing.limits import LONGEST_LINE


@dataclass(frozen=True)
class Head:
    """What the formats recognise a file by: its first bytes, and its first line in some lights."""

    raw: bytes

    @cached_property
    def text(self) -> str:
        """As text; what is not UTF-8 is replaced."""
        return self.raw.decode(errors="replace")

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank."""
        return next((line for line in self.text.splitlines() if line.strip()), "")

    @cached_property
    def first_json(self) -> Any:
        """The first line as JSON, None when it is none."""
        try:
            return msgspec.json.decode(self.first_line.encode())
        except (msgspec.DecodeError, RecursionError):
            return None

    def names(self, delimiter: str = ",") -> list[str]:
        """The first line as the names of a CSV's columns."""
        csv.field_size_limit(LONGEST_LINE)
        try:
            return [
                name.strip() for name in next(csv.reader(io.StringIO(self.first_line), delimiter=delimiter))
            ]
        except (csv.Error, StopIteration):
            return []
