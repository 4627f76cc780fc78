"""A service level objective of one request: `ttft < 500 ms and tpot < 50 ms`.

Requests that succeed and meet all of it, a second, are the goodput of a run (Zhong et al., DistServe, 2024).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perfkit.errors import BadInput, unknown
from perfkit.store.metrics import MULTIPLES

EXAMPLE = "ttft < 500 ms and tpot < 50 ms"
#: What an objective may limit.
_TIMES = ("response", "service", "ttft", "tpot")
_CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(<=?)\s*(\d+(?:\.\d+)?)\s*(\S*)\s*")
_MOST = 8


class Condition(NamedTuple):
    """One limit: `column` of a row must be below it (ms), or, with `<=`, at most it."""

    column: str
    operator: str
    limit_ms: float

    @property
    def sql(self) -> str:
        """True, false, or null where the row lacks the time."""
        met = f"{self.column} {self.operator} {self.limit_ms!r}::DOUBLE"
        # an answer of one token has no time between tokens, and no user has waited for one
        return f"coalesce({met}, tokens_out <= 1)" if self.column == "tpot_ms" else met


def parse(text: str) -> tuple[Condition, ...]:
    """Read an objective; BadInput says what is wrong with it and what is allowed."""
    parts = re.split(r"\band\b", text)
    if len(text) > 400 or len(parts) > _MOST:
        raise BadInput(f"slo {text!r:.80}: at most {_MOST} conditions")
    return tuple(_condition(text, part) for part in parts)


def _condition(text: str, part: str) -> Condition:
    found = _CONDITION.fullmatch(part)
    if found is None:
        raise BadInput(f"slo {text!r:.100}: cannot read {part.strip()!r:.60}; write it like {EXAMPLE}")
    name, operator, number, unit = found.groups()
    if name not in _TIMES:
        raise unknown(f"time in slo {text!r:.100}:", name, _TIMES)
    units = MULTIPLES["latency"]
    if unit not in units:
        raise BadInput(f"slo {text!r:.100}: {name} takes a unit of {', '.join(units)}, not {unit!r:.20}")
    return Condition(f"{name}_ms", operator, float(number) * units[unit])


def sql(text: str) -> str:
    """SQL over a row of the timeline: whether it succeeded within the objective; null without a valid one."""
    if not text:
        return "NULL::BOOLEAN"
    try:
        conditions = parse(text)
    except BadInput:  # a damaged run.json
        return "NULL::BOOLEAN"
    return " AND ".join(["ok", *(f"coalesce({one.sql}, false)" for one in conditions)])
