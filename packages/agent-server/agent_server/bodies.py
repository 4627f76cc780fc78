"""What every request body has in common: text that a database can hold, and bounds on numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field, model_validator

#: How many rows a list answers at most.
Limit = Annotated[int, Query(ge=1, le=10_000)]
#: A whole number that fits a database's integer.
Int32 = Annotated[int, Field(gt=0, lt=2**31)]
_MAX_DEPTH = 100


class Body(BaseModel):
    """A JSON body. NUL, half a surrogate and NaN are JSON to Python, but no database stores them: 422."""

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, given: Any) -> Any:
        _check(given)
        return given


def _check(given: Any) -> None:
    values = [(given, 0)]
    while values:  # no recursion: a body may be deeper than Python's stack
        value, depth = values.pop()
        if isinstance(value, str):
            if "\0" in value or not _is_unicode(value):
                raise ValueError("text must be Unicode without NUL")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("numbers must be finite")
        elif isinstance(value, (dict, list)):
            if depth == _MAX_DEPTH:
                raise ValueError(f"values must not be nested deeper than {_MAX_DEPTH}")
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            values += [(one, depth + 1) for one in inside]


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
