"""Texts and numbers of other tools as whole nanoseconds, without a float's rounding."""

from __future__ import annotations

import functools
import math
import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

#: Nanoseconds of a unit.
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_PLAIN = re.compile(r"(-?)(\d{1,20})(?:\.(\d{0,30}))?", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,12})\d*)?\s*"
    r"(Z|z|[A-Z]{3,5}|(?:GMT|UTC)?[+-]\d\d(?::?\d\d)?)?(?:\[([\w/+-]{1,40})\])?",
    re.ASCII,
)
#: Zones by their names, h from UTC: those of RFC 822, and Europe's.
_ZONES = {"UT": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "EET": 2,
          "EEST": 3, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
          "PDT": -7}  # fmt: skip


def ns(value: object, unit: str) -> int:
    """A number (or its text) of `unit` in nanoseconds; ValueError for what is none, NaN or infinite."""
    size = UNITS[unit]
    if type(value) is str and value.isdigit() and value.isascii() and len(value) < 20:
        return int(value) * size
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int):
        return value * size
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(value)
        return round(value * size)
    found = _PLAIN.fullmatch(str(value).strip())
    if found is None:  # such as 1e-05
        return ns(float(str(value)), unit)
    sign, whole, fraction = found.groups()
    amount = int(whole) * size
    if fraction:
        amount += round(int(fraction) * size / 10 ** len(fraction))
    return -amount if sign else amount


def unix_ns(text: str) -> int:
    """An ISO 8601 time, also with / in its date, in Unix nanoseconds; without a zone it is UTC.

    ValueError for anything else.
    """
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    year, month, day, clock, fraction, zone, place = found.groups()
    second = _second(f"{year}-{month}-{day}T{clock}", zone, place)
    return second * 1_000_000_000 + (int(fraction.ljust(9, "0")[:9]) if fraction else 0)


@functools.lru_cache(10_000)
def _second(clock: str, zone: str | None, place: str | None) -> int:
    """A date and time in Unix seconds."""
    offset = _offset(zone) if zone else ""
    given = datetime.fromisoformat(f"{clock}{offset}")
    return int((given if offset else given.replace(tzinfo=_zone(place))).timestamp())


def _offset(zone: str) -> str:
    """A zone as an offset; ValueError for a name nobody knows."""
    if zone in "Zz":
        return "+00:00"
    if zone in _ZONES:
        return f"{_ZONES[zone]:+03d}:00"
    digits = zone.removeprefix("GMT").removeprefix("UTC")
    if digits[:1] not in ("+", "-"):
        raise ValueError(f"a time zone {zone}")
    return digits if len(digits) > 3 else f"{digits}:00"


@functools.cache
def _zone(place: str | None) -> tzinfo:
    try:
        return ZoneInfo(place) if place else UTC
    except (LookupError, OSError):
        raise ValueError(f"a time zone {place}") from None


def has_zone(text: str) -> bool:
    """Whether an ISO 8601 time says where on earth."""
    found = _RFC3339.fullmatch(text.strip())
    return found is not None and bool(found[6] or found[7])


def iso(unix: int) -> str:
    """Unix nanoseconds as run.json writes a time."""
    return datetime.fromtimestamp(unix // 1_000_000_000, UTC).replace(
        microsecond=unix % 1_000_000_000 // 1_000
    ).isoformat(timespec="milliseconds")  # fmt: skip


def whole(value: object) -> int:
    """A whole number or its text; ValueError else."""
    if type(value) is str and value.isdigit() and value.isascii() and len(value) < 20:
        return int(value)
    if isinstance(value, str) and _INTEGRAL.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, bool) or (isinstance(value, float) and value != math.floor(value)):
        raise ValueError(value)
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 20):
        raise ValueError(value)
    return int(text)  # type: ignore[call-overload,no-any-return]


_INTEGRAL = re.compile(r"-?\d{1,18}\.0*", re.A)
