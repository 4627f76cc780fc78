"""Locust: the log of `locust.contrib.csv_request_logger`, and the stats history and statistics of `--csv`.

The log has a line for each request: when it was sent (s since 1970) and its response time, rounded to
0.01 ms. The history has, about every second, how many requests each name has had so far, and quantiles in
whole ms: counts become rows spread over their interval, with latencies by rank from the quantiles. Those are
of the last ten seconds in a full history (`--csv-full-history`), which has lines of every name; in one of all
names together they are of all requests so far, and then the last line's are taken for the whole run.

The statistics (NAME_stats.csv, until 0.11 NAME_requests.csv) are a summary: a row for each operation and one
for all together. Response times are ms, and those of failures are in them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from perfkit.errors import BadInput
from perfkit.importing.buckets import add_bucket, add_lost, by_rank, refuse_too_many
from perfkit.importing.head import Head
from perfkit.importing.limits import MOST_LINES_OF_COUNTS
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, operations, summary_of
from perfkit.importing.times import UNITS, ns, whole
from perfkit.importing.words import error_class
from perfkit.store.metadata import Carried, FailureKind

_LOG = ("timestamp", "request_type", "name", "response_time_ms")
_HISTORY = ("Timestamp", "User Count", "Type", "Name")
_COUNTS = ("Total Request Count", "Total Failure Count")
_WHY = "Locust's history does not say why"
_NO_LATENCY = "Locust's history has no latency of it"


def is_log(head: Head) -> bool:
    """The header of the request log."""
    return head.has(_LOG)


def is_history(head: Head) -> bool:
    """The header of the stats history."""
    return head.has({*_HISTORY, *_COUNTS})


def read_log(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line."""

    def add(told: dict[str, str]) -> None:
        started, took = ns(told["timestamp"], "s"), ns(told["response_time_ms"], "ms")
        if took < 0:
            raise Wrong(f"a response time of {told['response_time_ms']}", "0 ms or more")
        status, words = whole(told.get("status_code") or 0) or None, told.get("exception")
        rows.add(
            rows.names.of(told["name"], told["request_type"]), started=started, done=started + took,
            status=status, error=error_class(status, words, failed=bool(words)), words=words,
            bytes_received=whole(told["response_length"]) if told.get("response_length") else None,
        )  # fmt: skip

    expected = "a time in s, a type, a name, a response time in ms"
    source.each(records(source, _LOG, asked.names), add, expected)
    notes = ("Locust does not record planned times",)
    return Facts("Locust", rounded_ns=(1, UNITS["ms"] // 100), notes=notes)


# -- stats history ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moment:
    """A line of the history: counts so far, quantiles (shares, and ns of each) of the last ten seconds."""

    at: int
    count: int
    failed: int
    shares: tuple[float, ...] = ()
    begins: bool = False  #: what came before it was counted apart: the statistics were reset
    values: array[int] = field(default_factory=lambda: array("q"))

    @property
    def points(self) -> list[tuple[float, int]]:
        """The quantiles as (share, ns)."""
        return list(zip(self.shares, self.values, strict=True))


def read_history(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Rows by interval; lines of all names together count only where there are no others."""
    series: dict[int | None, list[_Moment]] = {}  # by the hash of a name; None: lines of all together
    operations: dict[int | None, str] = {None: "requests"}
    users = lines = 0

    def add(told: dict[str, str]) -> None:
        nonlocal users, lines
        if (lines := lines + 1) > MOST_LINES_OF_COUNTS:
            raise BadInput(f"{source.path}: a history of more than {MOST_LINES_OF_COUNTS:,} lines; import "
                           "the request log of locust.contrib.csv_request_logger instead")  # fmt: skip
        users = max(users, whole(told["User Count"]))
        name = told["Type"], told["Name"]
        key = None if name == ("", "Aggregated") else hash(name)
        if key not in operations:
            operations[key] = rows.names.of(told["Name"], told["Type"])
        _follow(series.setdefault(key, []), _moment(told))

    rows.times.in_order = False  # name by name
    source.each(records(source, (*_HISTORY, *_COUNTS)), add, "a time, counts and quantiles")
    total = series.pop(None, [])
    notes = ["made from counts a second and quantiles of the last ten seconds"]
    if not series:
        notes = ["made from counts a second; Locust's quantiles are of all requests so far, without "
                 "--csv-full-history: how latency changed over time is unknown"]  # fmt: skip
        left_out = _add_cumulative(rows, operations[None], total)
    else:
        left_out = sum(_add_series(rows, operations[key], moments) for key, moments in series.items())
    if resets := sum(one.begins for one in total or next(iter(series.values()), [])):
        why = "statistics were reset, or files joined"
        notes.append(f"its counts restart {resets} times: {why}; everything is counted")
    if left_out and not rows.added:
        raise BadInput(f"{source.path} has counts but no quantiles, so no request has a latency; import the "
                       "request log of locust.contrib.csv_request_logger instead")  # fmt: skip
    if left_out:
        notes.append(f"{left_out:,} successes are skipped: the history has no quantiles for their names")
    span = _span([total, *series.values()])
    return Facts("Locust", bucketed=True, rounded_ns=(UNITS["s"], UNITS["ms"]), load={"users": users},
                 span_ns=span, timed=bool(series), notes=tuple(notes))  # fmt: skip


def _span(series: Iterable[list[_Moment]]) -> tuple[int, int] | None:
    """From the first line to the last; requests the first one counts were in the second before it."""
    lines = [moments for moments in series if moments]
    if not lines:
        return None
    begin = min(one[0].at - (UNITS["s"] if one[0].count else 0) for one in lines)
    return begin, max(one[-1].at for one in lines)


def _moment(told: dict[str, str]) -> _Moment:
    points = [(float(name[:-1]) / 100, ns(value, "ms")) for name, value in told.items()
              if name.endswith("%") and value not in ("N/A", "")]  # fmt: skip
    if any(value < 0 for _, value in points):
        raise Wrong("a negative quantile", "0 ms or more")
    if not any(value for _, value in points) and not float(told.get("Requests/s") or 0):
        points = []  # its zeros are of a window without a request; in one with any, they are below 0.5 ms
    count, failed = (whole(told[name]) for name in _COUNTS)
    points.sort()
    shares, values = _shared(tuple(share for share, _ in points)), array("q", [value for _, value in points])
    return _Moment(ns(told["Timestamp"], "s"), count, failed, shares, values=values)


@lru_cache(maxsize=64)
def _shared(shares: tuple[float, ...]) -> tuple[float, ...]:
    """The first tuple equal to this one: lines have the same columns, and there can be a million of them."""
    return shares


def _follow(moments: list[_Moment], one: _Moment) -> None:
    """Add a moment that can follow the ones before it; where counts go back the statistics were reset."""
    before = moments[-1] if moments else _Moment(one.at, 0, 0)
    if one.at < before.at:
        raise Wrong("a time that goes back", "one that grows")
    if one.failed > one.count:
        raise Wrong(f"{one.failed} failures of {one.count} requests", "no more failures than requests")
    if one.count < before.count or one.failed < before.failed:
        one = replace(one, begins=True)
    refuse_too_many(one.count - _since(before, one)[0])
    moments.append(one)


def _since(before: _Moment | None, one: _Moment) -> tuple[int, int]:
    """Requests and failures that had been counted before a moment."""
    return (0, 0) if before is None or one.begins else (before.count, before.failed)


def _add_series(rows: Rows, name: str, moments: list[_Moment]) -> int:
    """The rows of one name; how many successes were left out for want of a latency."""
    before, left_out = None, 0
    for one, informed in zip(moments, _informed(moments), strict=True):
        counted = _since(before, one)
        n, failed = one.count - counted[0], one.failed - counted[1]
        begin = before.at if before and before.at < one.at else one.at - UNITS["s"]
        before = one
        if n <= 0:
            continue
        if informed:
            add_bucket(rows, name, (begin, one.at), by_rank(informed.points, n), failed, _WHY)
        else:
            failed = min(failed, n)
            add_lost(rows, name, (begin, one.at), failed, _NO_LATENCY)
            left_out += n - failed
    return left_out


def _add_cumulative(rows: Rows, name: str, moments: list[_Moment]) -> int:
    """The same where quantiles are of all requests so far: the last ones are those of the run."""
    left_out = 0
    for part in _stretches(moments):
        informed = next((one for one in reversed(part) if one.values), None)
        if informed is None:
            left_out += _add_series(rows, name, part)
            continue
        latencies = by_rank(informed.points, part[-1].count)
        np.random.default_rng(len(latencies)).shuffle(latencies)  # which of them fell when is not known
        before = _Moment(part[0].at - UNITS["s"], 0, 0)
        for one in part:
            mine = latencies[before.count : one.count]
            if len(mine):
                begin = before.at if before.at < one.at else one.at - UNITS["s"]
                add_bucket(rows, name, (begin, one.at), mine, one.failed - before.failed, _WHY)
            before = one
    return left_out


def _stretches(moments: Iterable[_Moment]) -> Iterator[list[_Moment]]:
    """The moments between resets of the statistics."""
    part: list[_Moment] = []
    for one in moments:
        if one.begins and part:
            yield part
            part = []
        part.append(one)
    yield part


def _informed(moments: list[_Moment]) -> list[_Moment | None]:
    """For each moment the next one with quantiles, whose window reaches back; else the last one with any."""
    informed = next((one for one in reversed(moments) if one.values), None)
    found = []
    for one in reversed(moments):
        informed = one if one.values else informed
        found.append(informed)
    return found[::-1]


# -- statistics ------------------------------------------------------------------------------------

_MOST = 10_000
_NAMES = {"# requests": "request count", "# failures": "failure count", "method": "type"}
_NEEDED = {"type", "name", "request count", "failure count", "average response time", "requests/s"}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%?")


def is_stats(head: Head) -> bool:
    """The header, in the words of any version."""
    return {_NAMES.get(name.lower(), name.lower()) for name in head.columns()} >= _NEEDED


def read_stats(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Every row, the one of all together without a name."""
    if not is_stats(Head(source.head)):
        raise BadInput(f"{source.path} lacks the columns of Locust's statistics; it has another format")
    found: dict[tuple[str, str], Carried] = {}  # by name and method
    seen: set[tuple[str, str]] = set()

    def add(record: dict[str, str]) -> None:
        told = {_NAMES.get(name.lower(), name.lower()): text.strip() for name, text in record.items()}
        key = told["name"], told["type"]
        if len(found) >= _MOST:
            words = f"more than {_MOST:,} operations; give requests a name without ids"
            raise BadInput(f"{source.path} has {words}")
        if key in seen:
            raise BadInput(f"{source.path} has {key[0][:80]!r} twice: files were joined; split it")
        seen.add(key)
        found[key] = _carried(told)

    source.each(records(source, ("Name",)), add, "counts and ms in the columns that Locust has")
    totals = {key for key in found if key[0] in ("Aggregated", "Total") and key[1] in ("", "None")}
    others = [key for key in found if key not in totals]
    names = dict(zip(others, operations(rows, others), strict=True))
    told = [_named(one, names.get(key, "")) for key, one in found.items()]
    total = next((one for one in told if not one.operation), None)
    span = total.n / total.rate_per_s if total and total.n and total.rate_per_s else None
    return summary_of("Locust", told, span_s=span, notes=["response times include failures"])


def _named(one: Carried, name: str) -> Carried:
    """The same of an operation."""
    failures = tuple(replace(kind, operation=name) for kind in one.failures)
    return replace(one, operation=name, failures=failures)


def _carried(told: dict[str, str]) -> Carried:
    """What one row tells."""
    n, failed = whole(told["request count"]), whole(told["failure count"])
    if not 0 <= failed <= n:
        raise Wrong(f"{failed} failures of {n} requests", "no more failures than requests")
    times = (f"{name} response time" for name in ("average", "min", "max", "median"))
    mean, low, high, median = (_ms(told, name) if n else None for name in times)
    shares = {name: float(share[1]) / 100 for name in told if (share := _SHARE.fullmatch(name))}
    points = [(0.5, median), *((share, _ms(told, name) if n else None) for name, share in shares.items())]
    kinds = [FailureKind("check", "", failed, "Locust's statistics do not say why")] if failed else []
    rate = float(told["requests/s"]) if n else None
    return carried(
        n=n, failed=failed, kinds=kinds, rate_per_s=rate, mean=mean, low=low, high=high, points=points
    )


def _ms(told: dict[str, str], name: str) -> float | None:
    """A time in ms, None where it is not told."""
    text = told.get(name, "")
    return None if text in ("", "N/A", "None") else ns(text, "ms") / UNITS["ms"]
