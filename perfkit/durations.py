"""Times as people write them: `300ms`, `30s`, `2m`, `1.5h`, `1m30s`."""

from __future__ import annotations

import re

#: Nanoseconds of a unit.
_UNITS = {
    **{"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000},
    **{"s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3_600 * 10**9},
}
_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|min|m|h)", re.ASCII)
_LONGEST = 40  #: characters
#: For messages: what a time may look like.
EXAMPLES = "300ms, 30s, 2m or 1.5h"


def duration_ns(text: str) -> int:
    """Return a duration with units, as Go and k6 write it, in nanoseconds; ValueError for anything else."""
    text = text.strip().replace(" ", "")
    pieces = _PIECE.findall(text) if len(text) <= _LONGEST else []
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise ValueError(text)
    return sum(round(float(number) * _UNITS[unit]) for number, unit in pieces)
