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


#: Units as people write them out.
_WRITTEN = {
    **dict.fromkeys(("msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
}
_NEXT = {"h": "m", "m": "s", "min": "s", "s": "ms"}  #: the unit that `1m30` leaves out


def _why(text: str) -> str:
    """What is wrong with a text that is no time, where that can be told: a sign, a unit, its length."""
    if re.match(r"\s*-\s*[\d.]", text):
        return "it is negative; "
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST} characters; "
    units = re.findall(r"[\d.]\s*([^\W\d_]+)", text)
    odd = next((unit for unit in units if unit.lower() not in _UNITS and unit.lower() not in _WRITTEN), None)
    day = " (a day is 24h)" if odd in ("d", "day", "days") else ""
    return f"there is no unit {odd!r}{day}; " if odd else ""


def how_to_write(text: str, examples: str = f"write {EXAMPLES}") -> str:
    """What to write in place of a time that is none: what was meant where that is near, and examples."""
    pieces = re.findall(r"([\d.]+)\s*([a-zµμ]*)", text[:_LONGEST].lower())
    units = [_WRITTEN.get(unit, unit) for _, unit in pieces]
    if len(units) > 1 and not units[-1]:
        units[-1] = _NEXT.get(units[-2], "")
    meant = "".join(number + unit for (number, _), unit in zip(pieces, units, strict=True))
    written = "".join(number + unit for number, unit in pieces) == text.lower().replace(" ", "")
    try:
        duration_ns(meant if written else "")
    except ValueError:
        return _why(text) + examples
    return f"did you mean {meant}? ({examples})"


def duration_ns(text: str) -> int:
    """Return a duration with units, as Go and k6 write it, in nanoseconds; ValueError for anything else."""
    text = text.strip().replace(" ", "")
    pieces = _PIECE.findall(text) if len(text) <= _LONGEST else []
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise ValueError(text)
    return sum(round(float(number) * _UNITS[unit]) for number, unit in pieces)
