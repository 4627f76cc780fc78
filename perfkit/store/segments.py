"""Segments of rows by name: `w0-000007` is the eighth of worker 0, `w0-000000-000031` holds its first 32.

A segment that holds others takes their place the moment it has its name, also while they are still there:
no row is read twice or missed, whenever a kill comes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

#: So many of one size make a larger one; never more bytes than are joined in half a second.
FAN = 32
MOST_BYTES = 16_000_000
_parts = re.compile(r"(.*?)(\d{6,})(?:-(\d{6,}))?\.parquet").fullmatch


class _Segment(NamedTuple):
    writer: str
    low: int
    high: int
    name: str

    @property
    def size(self) -> int:
        return self.high - self.low + 1


def _segment(name: str) -> _Segment:
    if (parts := _parts(name)) is None:
        return _Segment(name, 0, 0, name)
    writer, low, high = parts.groups()
    return _Segment(writer, int(low), int(high or low), name)


def current(names: Iterable[str]) -> list[str]:
    """Return the names of segments, in order, without those that another one holds."""
    return [segment.name for segment in _current(names)]


def _current(names: Iterable[str]) -> list[_Segment]:
    kept: list[_Segment] = []
    for one in sorted(map(_segment, names), key=lambda one: (one.writer, one.low, -one.high)):
        if not (kept and one.writer == kept[-1].writer and one.high <= kept[-1].high):
            kept.append(one)
    return kept


def due(folder: Path) -> tuple[str, list[Path]] | None:
    """Return the next segments to be joined and the name of what they make, None where there are too few."""
    names = [name for name in os.listdir(folder) if name.endswith(".parquet")]
    for (writer, size, at), same in groupby(_current(names), key=_block):
        files = [folder / one.name for one in same]
        # fewer: one may still be on its way
        if len(files) == FAN and sum(file.stat().st_size for file in files) <= MOST_BYTES:
            return f"{writer}{at * FAN * size:06}-{(at + 1) * FAN * size - 1:06}", files
    return None


def _block(one: _Segment) -> tuple[str, int, int]:
    """Those that may be joined: of one writer and size, from a multiple of what they make together."""
    return one.writer, one.size, one.low // (FAN * one.size)
