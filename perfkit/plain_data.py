"""Bounds of what is given as data: a workload, the parameters of a scenario or a notebook."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from perfkit.errors import BadInput

MOST_VALUES = 20_000  #: names and values together, counted wherever they are repeated
DEEPEST = 50  #: lists and mappings inside each other
LONGEST = 1_000_000  #: characters of all texts together; bytes of a YAML file
LARGEST = 2**63 - 1  #: a whole number
_HALF = re.compile("[\ud800-\udfff]").search


def require_plain(given: Any, where: str) -> None:
    """BadInput for data beyond the bounds above, data that contains itself, and numbers that are not finite.

    Takes the same short time whatever is given: what is shared or endless is followed only up to the bounds.
    """
    rest = [(0, where, given)]
    values = characters = 0
    while rest:
        depth, path, value = rest.pop()
        values += 1
        if isinstance(value, str):
            characters += len(value)
            _require_whole(value, path)
        elif isinstance(value, int | float):
            _require_number(value, path)
        elif isinstance(value, Mapping | list | tuple):
            values += len(value) if isinstance(value, Mapping) else 0
            if depth == DEEPEST:
                words = f"contain themselves, or are nested more than {DEEPEST} deep"
                raise BadInput(f"{where}: lists or mappings {words}")
            if values + len(rest) + len(value) > MOST_VALUES:
                raise BadInput(f"{where}: more than {MOST_VALUES:,} names and values; keep data in a file")
            inner = value.items() if isinstance(value, Mapping) else ((None, one) for one in value)
            for name, one in inner:
                if isinstance(name, str):
                    characters += len(name)
                    _require_whole(name, path)
                rest.append((depth + 1, path if name is None else f"{path}, {name!s:.40}", one))
        if characters > LONGEST:
            raise BadInput(f"{where}: more than {LONGEST:,} characters of text; keep data in a file")


def _require_whole(text: str, where: str) -> None:
    if half := _HALF(text):
        raise BadInput(f"{where}: {half[0]!a} is half of a surrogate pair, which no file can hold")


def _require_number(value: float, where: str) -> None:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise BadInput(f"{where}: whole numbers are at most {LARGEST:,}")
    if not math.isfinite(value):
        raise BadInput(f"{where}: {value} is not a finite number")
