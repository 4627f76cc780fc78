"""oha: `--db-url FILE` (SQLite), `--output-format csv` and `--output-format json`.

The database and the CSV have a line for each request that was answered, in s since oha began; the database
also when it was due, if oha ran with --latency-correction. The JSON has counts and quantiles of all.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import MB
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, lost_kinds, status_kinds, summary_of
from perfkit.importing.times import ns, whole
from perfkit.importing.words import error_class

_CSV = ("request-start", "DNS", "DNS+dialup", "Response-delay", "request-duration", "bytes", "status")
_MAGIC = b"SQLite format 3\0"
_ANSWERED = "oha wrote only the requests that got a response: failures without one are missing"


def is_sqlite(head: Head) -> bool:
    """A database."""
    return head.raw.startswith(_MAGIC)


def is_csv(head: Head) -> bool:
    """The header of oha's CSV."""
    return tuple(head.columns()) == _CSV


def is_json(head: Head) -> bool:
    """The beginning of oha's JSON."""
    start = "".join(head.text[:2000].split())
    return start.startswith('{"summary":{') and '"successRate"' in start


def read_sqlite(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each of the table `oha`."""
    if source.is_gzip:
        raise BadInput(f"{source.path} is a packed database; gunzip it first")
    rows.absolute = False
    corrected = 0

    def add(record: tuple[Any, ...]) -> None:
        nonlocal corrected
        url, start, due, end, status, size = record
        started, done, code = ns(start, "s"), ns(end, "s"), whole(status)
        planned = None if due is None else min(ns(due, "s"), started)
        rows.add(rows.names.of(str(url)), planned=planned, started=started, done=done, status=code,
                 error=error_class(code, None, failed=False), bytes_received=whole(size))  # fmt: skip
        corrected += planned is not None

    place = source.path.resolve().as_uri() + "?mode=ro&immutable=1"
    query = "SELECT url, start, start_latency_correction, end, status, len_bytes FROM oha ORDER BY rowid"
    try:
        with closing(sqlite3.connect(place, uri=True)) as database:
            database.text_factory = lambda raw: raw.decode(errors="replace")
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MB)
            database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)  # a long one takes hours
            database.set_authorizer(_only_rows)
            source.each(database.execute(query), add, "times in s, a status, a size", "row")
    except sqlite3.Error as error:
        raise BadInput(f"{source.path} is not an oha database ({error}); nothing was imported") from None
    known = 0 < corrected == rows.added
    more = () if known else ("recorded without --latency-correction, so it has no planned times",)
    return Facts("oha", intended_time=known, notes=(_ANSWERED, *more))


def _only_rows(
    action: int, first: str | None, second: str | None, place: str | None, view: str | None
) -> int:
    """Let a query read rows of tables: views, functions and recursion can make a few kB endless."""
    is_row = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) and view is None
    return sqlite3.SQLITE_OK if is_row else sqlite3.SQLITE_DENY


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line."""
    rows.absolute = False

    def add(told: dict[str, str]) -> None:
        times = ("request-start", "Response-delay", "request-duration")
        started, first, took = (ns(told[name], "s") for name in times)
        code = whole(told["status"])
        rows.add("request", started=started, done=started + took, status=code,
                 error=error_class(code, None, failed=False), bytes_received=whole(told["bytes"]),
                 first_byte=started + min(first, took) if first > 0 else None)  # fmt: skip

    source.each(records(source, _CSV, asked.names), add, ",".join(_CSV))
    return Facts("oha", notes=(_ANSWERED, "the file has no planned times"))


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary: counts and quantiles."""
    told = Told(source, "oha's JSON", "oha's JSON has a few kB, however long it ran")
    summary, quantiles = told.at("summary"), told.at("latencyPercentiles")
    codes = told.at("statusCodeDistribution").counts()
    lost = told.at("errorDistribution").counts()
    kinds = [*status_kinds(codes), *lost_kinds(lost)]
    points = [(float(name.removeprefix("p")) / 100, quantiles.seconds(name)) for name in quantiles.names("p")]
    whole_run = carried(
        n=sum(codes.values()) + sum(lost.values()), kinds=kinds, rate_per_s=summary.number("requestsPerSec"),
        mean=summary.seconds("average"), low=summary.seconds("fastest"), high=summary.seconds("slowest"),
        points=points,
    )  # fmt: skip
    return summary_of("oha", [whole_run], span_s=summary.number("total"))
