"""oha: `--db-url FILE` (SQLite), `--output-format csv` and `--output-format json`.

The database and the CSV have a line for each request that was answered, in s since oha began; the database
also when it was due, if oha ran with --latency-correction. The JSON has counts and quantiles of all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from perfkit.errors import BadInput
from perfkit.importing.buckets import Outcome, add_bucket, add_lost, by_rank
from perfkit.importing.head import Head
from perfkit.importing.limits import LARGEST_DOCUMENT, MB
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows, Wrong
from perfkit.importing.source import Source, short
from perfkit.importing.times import ns, whole
from perfkit.importing.words import error_class

_CSV = ("request-start", "DNS", "DNS+dialup", "Response-delay", "request-duration", "bytes", "status")
_MAGIC = b"SQLite format 3\0"
_ANSWERED = "oha keeps only requests that were answered here: failures without an answer are missing"


def is_sqlite(head: Head) -> bool:
    """A database."""
    return head.raw.startswith(_MAGIC)


def is_csv(head: Head) -> bool:
    """The header of oha's CSV."""
    return tuple(head.names()) == _CSV


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
    place = source.path.resolve().as_uri() + "?mode=ro&immutable=1"
    query = "SELECT url, start, start_latency_correction, end, status, len_bytes FROM oha ORDER BY rowid"
    try:
        with closing(sqlite3.connect(place, uri=True)) as database:
            database.text_factory = lambda raw: raw.decode(errors="replace")
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MB)
            database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)  # a long one takes hours
            database.set_authorizer(_only_rows)
            for number, record in enumerate(database.execute(query), 1):
                try:
                    corrected += _add_record(rows, *record)
                except Wrong as wrong:
                    source.bad(wrong.found, wrong.expected, f"row {number:,}")
                except (ValueError, TypeError, OverflowError, AttributeError):
                    source.bad(short(repr(record)), "times in s, a status, a size", f"row {number:,}")
    except sqlite3.Error as error:
        raise BadInput(f"{source.path} is no database of oha's ({error}); nothing was imported") from None
    known = 0 < corrected == rows.added
    notes = (
        _ANSWERED,
        *(() if known else ("without --latency-correction: when requests were due is not in it",)),
    )
    return Facts("oha", intended_time=known, notes=notes)


def _only_rows(
    action: int, first: str | None, second: str | None, place: str | None, view: str | None
) -> int:
    """Let a query read rows of tables: views, functions and recursion can make a few kB endless."""
    is_row = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) and view is None
    return sqlite3.SQLITE_OK if is_row else sqlite3.SQLITE_DENY


def _add_record(rows: Rows, url: Any, start: Any, due: Any, end: Any, status: Any, size: Any) -> bool:
    """One record; whether it says when it was due."""
    started, done = ns(start, "s"), ns(end, "s")
    planned = None if due is None else min(ns(due, "s"), started)
    code = whole(status)
    error = error_class(code, None, failed=False)
    rows.add(rows.names.of(url), planned=planned, started=started, done=done, status=code, error=error,
             words=f"status {code}" if error else None, bytes_received=whole(size))  # fmt: skip
    return planned is not None


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line."""
    rows.absolute = False
    records = source.table()
    source.header(records, _CSV)
    for record in records:
        try:
            start, _, _, first, took, size, status = record
            started, done, code = ns(start, "s"), ns(start, "s") + ns(took, "s"), whole(status)
            error = error_class(code, None, failed=False)
            rows.add("request", started=started, done=done, status=code, error=error,
                     first_byte=min(started + ns(first, "s"), done) if ns(first, "s") > 0 else None,
                     words=f"status {code}" if error else None, bytes_received=whole(size))  # fmt: skip
        except Wrong as wrong:
            source.bad(wrong.found, wrong.expected)
        except (ValueError, OverflowError):
            source.bad(short(",".join(record)), ",".join(_CSV))
    return Facts("oha", notes=(_ANSWERED, "when requests were due is not in the file"))


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """As many rows as the codes count, with latencies by rank from the quantiles."""
    rows.absolute = False
    found: Any = source.json(LARGEST_DOCUMENT, "oha's JSON has a few kB, however long it ran")
    try:
        summary, codes = (
            found["summary"],
            {whole(k): whole(v) for k, v in found["statusCodeDistribution"].items()},
        )
        lost = {str(words): whole(count) for words, count in (found.get("errorDistribution") or {}).items()}
        length, points = ns(summary["total"], "s"), _points(found["latencyPercentiles"], summary)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{source.path} is no JSON of oha's: {type(error).__name__} at {short(str(error))}"
        ) from None
    n = sum(codes.values())
    if length <= 0 or min([0, *codes.values(), *lost.values()]) < 0 or not n + sum(lost.values()):
        raise BadInput(f"{source.path}: {n} answers in {summary['total']} s; nothing to import")
    if n and not points:
        raise BadInput(f"{source.path} has answers but no latencyPercentiles; nothing was imported")
    outcomes = []
    for code, count in codes.items():
        error_name = error_class(code, None, failed=False)
        outcomes.append(Outcome(count, code, error_name, f"status {code}" if error_name else None))
    if n:
        add_bucket(rows, "request", (0, length), by_rank(points, n), outcomes)
    add_lost(rows, "request", (0, length), [
        Outcome(count, None, error_class(None, words, failed=True), words) for words, count in lost.items()
    ])  # fmt: skip
    return Facts("oha", span_ns=(0, length), bucketed=True, notes=(
        "oha's JSON has quantiles of the whole run: how latency moved in it is not known",
        "whether they were counted from when requests were due is not in the file",
    ))  # fmt: skip


def _points(quantiles: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[float, int]]:
    """(share, latency in ns) in order; the slowest is the last."""
    points = [(float(name.removeprefix("p")) / 100, ns(value, "s")) for name, value in quantiles.items()
              if value is not None]  # fmt: skip
    points += [(1.0, ns(summary["slowest"], "s"))] if summary.get("slowest") is not None else []
    if any(value < 0 or not 0 <= share <= 1 for share, value in points):
        raise ValueError("a quantile below 0")
    return sorted(points)
