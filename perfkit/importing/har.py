"""HAR: what a browser or a proxy recorded, one JSON document; an entry for each request.

startedDateTime is when a request began, to a millisecond; its timings lead to the other instants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfkit.errors import BadInput
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows, Wrong
from perfkit.importing.source import Head, Source, short
from perfkit.importing.times import UNITS, ns, unix_ns
from perfkit.importing.words import error_class

_BEFORE_SENT = ("blocked", "dns", "connect", "send")


def is_har(head: Head) -> bool:
    """One JSON object that begins with `log`."""
    start = head.text.lstrip()[:400].replace(" ", "").replace("\n", "").replace("\r", "").replace("\t", "")
    return start.startswith('{"log":{')


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each entry."""
    found = source.json()
    log = found.get("log") if isinstance(found, Mapping) else None
    entries = log.get("entries") if isinstance(log, Mapping) else None
    if not isinstance(log, Mapping) or not isinstance(entries, list):
        raise BadInput(f"{source.path} is no HAR: it has no log.entries")
    cached = 0
    for number, entry in enumerate(entries, 1):
        place = f"entry {number:,}"
        if isinstance(entry, Mapping) and entry.get("_fromCache"):
            cached += 1  # no server saw it
            continue
        try:
            _add(rows, entry)
        except Wrong as wrong:
            source.bad(wrong.found, wrong.expected, place)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            source.bad(f"{type(error).__name__} at {short(str(error))}", "a HAR entry with its times", place)
    rows.steps.units["took"] = UNITS["ms"]
    notes = ["a browser asks when its page wants it: that instant is not in the file"]
    notes += [f"{cached:,} answers came from the browser's cache and are left out"] if cached else []
    return Facts("HAR", version=_creator(log), rounded_ns=(UNITS["ms"], 1), notes=tuple(notes))


def _creator(log: Mapping[str, Any]) -> str | None:
    """Who recorded it, by its own word."""
    told = log.get("creator")
    if not isinstance(told, Mapping) or not told.get("name"):
        return None
    return f"by {told['name']} {told.get('version') or ''}".strip()[:60]


def _add(rows: Rows, entry: Mapping[str, Any]) -> None:
    request, response = entry["request"], entry.get("response") or {}
    started, timings = unix_ns(entry["startedDateTime"]), entry.get("timings") or {}
    took = {name: max(0, ns(timings.get(name) or 0, "ms")) for name in (*_BEFORE_SENT, "wait", "receive")}
    total = ns(entry["time"], "ms")
    if total < 0 and total != -UNITS["ms"]:
        raise Wrong(f"a time of {entry['time']!r}", "0 ms or more")
    status = response.get("status") or 0
    status = status if isinstance(status, int) and status > 0 else None
    words = response.get("_failureText") or response.get("_error") or entry.get("_error")
    error = error_class(status, str(words or ""), failed=status is None)
    sent = started + sum(took[name] for name in _BEFORE_SENT)
    done = started + max(total, sum(took.values()))
    answered = status is not None and timings.get("wait", -1) >= 0
    rows.add(
        rows.names.of(str(request["url"]), str(request["method"])), started=started,
        sent=sent if answered else None, first_byte=sent + took["wait"] if answered else None,
        done=done if status is not None or total >= 0 else None, status=status, error=error,
        words=words or (f"status {status}" if error else None), bytes_sent=_whole(request.get("bodySize")),
        bytes_received=_whole(response.get("bodySize")),
    )  # fmt: skip


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
