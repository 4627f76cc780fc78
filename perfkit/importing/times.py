"""Texts and numbers of other tools as whole nanoseconds, without a float's rounding."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

#: Nanoseconds of a unit.
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_PLAIN = re.compile(r"(-?)(\d{1,20})(?:\.(\d{0,30}))?", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,12})\d*)?\s?(Z|z|[+-]\d\d:?\d\d)?", re.ASCII
)
_DAYS: dict[tuple[str, str, str | None], int] = {}


def ns(value: object, unit: str) -> int:
    """A number (or its text) of `unit` in nanoseconds; ValueError for what is none, NaN or infinite."""
    size = UNITS[unit]
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
    """An ISO 8601 time in Unix nanoseconds; without a zone it is UTC. ValueError for anything else."""
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    day, clock, fraction, zone = found.groups()
    key = (day, clock, zone)
    second = _DAYS.get(key)
    if second is None:
        offset = "+00:00" if zone in (None, "Z", "z") else zone
        second = int(datetime.fromisoformat(f"{day}T{clock}{offset}").timestamp())
        if len(_DAYS) > 10_000:
            _DAYS.clear()
        _DAYS[key] = second
    return second * 1_000_000_000 + (int(fraction.ljust(9, "0")[:9]) if fraction else 0)


def has_zone(text: str) -> bool:
    """Whether an ISO 8601 time says where on earth."""
    found = _RFC3339.fullmatch(text.strip())
    return found is not None and found[4] is not None


def iso(unix: int) -> str:
    """Unix nanoseconds as run.json writes a time."""
    return datetime.fromtimestamp(unix // 1_000_000_000, UTC).replace(
        microsecond=unix % 1_000_000_000 // 1_000
    ).isoformat(timespec="milliseconds")  # fmt: skip


def whole(value: object) -> int:
    """A whole number or its text; ValueError else."""
    if isinstance(value, bool) or (isinstance(value, float) and value != math.floor(value)):
        raise ValueError(value)
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 20):
        raise ValueError(value)
    return int(text)  # type: ignore[call-overload,no-any-return]
