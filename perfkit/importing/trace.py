"""A trace: a CSV of time, method, path and perhaps body, a line for each request, made to be replayed."""

from __future__ import annotations

import re

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import has_zone, ns, unix_ns

_COLUMNS = ("time", "method", "path")
_NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?", re.I | re.A)
#: Seconds from here on are since 1970.
_UNIX_S = 10**8
EXPECTED = "time (seconds, or ISO 8601), method, path"


def is_csv(head: Head) -> bool:
    """The three columns."""
    return head.has(_COLUMNS)


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A request for each record."""
    notes: dict[str, None] = {}
    kinds: set[bool] = set()

    def take(told: dict[str, str]) -> None:
        text = told["time"].strip()
        at = ns(text, "s") if _NUMBER.fullmatch(text) else unix_ns(text)
        if not _NUMBER.fullmatch(text) and not has_zone(text):
            notes["its times have no zone and were taken as UTC"] = None
        kinds.add(at >= ns(_UNIX_S, "s"))
        if len(kinds) > 1:
            raise Wrong(f"time {short(text)}", "times since 1970 alone, or since a start alone")
        rows.absolute = at >= ns(_UNIX_S, "s")
        body = told.get("body", "")
        kind = "application/json" if body.lstrip()[:1] in ("{", "[") else "text/plain; charset=utf-8"
        headers = (("content-type", kind),) if body else ()
        operation = rows.request(told["path"].strip(), told["method"].strip().upper(), headers, body.encode())
        rows.add(operation, started=at, done=at)

    source.each(records(source, _COLUMNS), take, EXPECTED)
    return Facts("trace", notes=tuple(notes), timed=False)
