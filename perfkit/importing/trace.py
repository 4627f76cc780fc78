"""A trace: a CSV of time, method, path and perhaps body, a line for each request, made to be replayed."""

from __future__ import annotations

import re

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, has_zone, ns, unix_ns

_COLUMNS = ("time", "method", "path")
_NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?", re.I | re.A)
#: Instants from here on are since 1970.
_UNIX_NS = 10**8 * UNITS["s"]
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
        is_number = _NUMBER.fullmatch(text) is not None
        at = ns(text, "s") if is_number else unix_ns(text)
        if not is_number and not has_zone(text):
            notes["its times have no zone and were taken as UTC"] = None
        rows.absolute = at >= _UNIX_NS
        kinds.add(rows.absolute)
        if len(kinds) > 1:
            raise Wrong(f"time {short(text)}", "times since 1970 alone, or since a start alone")
        body = told.get("body", "")
        kind = "application/json" if body.lstrip()[:1] in ("{", "[") else "text/plain; charset=utf-8"
        headers = (("content-type", kind),) if body else ()
        operation = rows.request(told["path"].strip(), told["method"].strip().upper(), headers, body.encode())
        rows.add(operation, started=at, done=at)

    source.each(records(source, _COLUMNS), take, EXPECTED)
    return Facts("trace", notes=tuple(notes), timed=False)
