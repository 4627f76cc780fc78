"""Access logs of nginx and Apache (common, combined, with a virtual host): a line for each request.

They tell when a request ended, mostly to the second, and not how long it took: they can be replayed, not
imported.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta, timezone

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS, ns

_LINE = re.compile(
    r'\[(\d{1,2}/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d)(?:\.(\d{1,9}))? ([+-]\d{4})\] "((?:[^"\\]|\\.)*)" \d{3} '
)
_LOOKED_AT = 20
_ESCAPED = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))")
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
EXPECTED = 'a line of an access log: … [10/Oct/2026:13:55:36 +0000] "GET /path HTTP/1.1" 200 …'


def is_log(head: Head) -> bool:
    """The time and the request line of the common log format; the first lines may be broken."""
    return any(map(_LINE.search, head.lines[:_LOOKED_AT]))


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A request for each line that has one."""
    none = 0

    def take(line: str) -> None:
        nonlocal none
        found = _LINE.search(line)
        if found is None:
            raise Wrong("another line", EXPECTED)
        clock, fraction, zone, request = found.groups()
        second = _unix_ns(clock, zone)
        if "\\" in request:
            request = _ESCAPED.sub(_unescaped, request)
        parts = request.split(" ")
        if len(parts) != 3:  # a scan, a broken handshake, or nothing within the timeout
            none += 1
            return
        at = second + (ns(f"0.{fraction}", "s") if fraction else 0)
        rows.add(rows.names.of(parts[1], parts[0]), started=at, done=at)

    source.each(source.texts(), take, EXPECTED)
    notes = ["its instants are those at which requests ended, as the log has no others"]
    notes += [f"left out: {none:,} lines without a request, such as scans"] if none else []
    return Facts("access log", notes=tuple(notes), timed=False)


@functools.lru_cache(10_000)
def _unix_ns(clock: str, zone: str) -> int:
    """`10/Oct/2026:13:55:36` in a zone as Unix ns; ValueError for what is no date."""
    day, month, rest = clock.split("/")
    year, hour, minute, second = rest.split(":")
    place = _MONTHS.find(month)
    if place < 0 or place % 3:
        raise Wrong(f"a month {month}", "Jan to Dec")
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:])) * (-1 if zone[0] == "-" else 1)
    # a leap second is the second before it
    numbers = (int(year), place // 3 + 1, int(day), int(hour), int(minute), min(int(second), 59))
    return int(datetime(*numbers, tzinfo=timezone(offset)).timestamp()) * UNITS["s"]


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else found[2]
