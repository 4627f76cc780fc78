"""Findings of the client's rows: what failed and how, in words. DuckDB alone, for every installation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from perfkit.observe.limits import Limits
from perfkit.store import fidelity, results
from perfkit.store.metadata import FailureKind, Finding
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from perfkit.text import plural

#: Kinds of findings that are said before all others: what latencies say is of the requests that are left.
FIRST = ("failing", "deadlocks", "step_errors")
#: Operations that failed, each with a finding of its own.
_OPERATIONS = 10
#: Classes of failure that a finding names, and characters of the words heard.
_CLASSES, _LONGEST = 3, 80
_LONGEST_MISTAKE = 300
_CENSORED = ("timeout", "cutoff")
#: What a request says that the end of the run has cut off (`drive.session.sending`).
_AT_THE_END = "still in flight when the run ended"
#: PostgreSQL's SQLSTATE for a deadlock, and its own words.
_DEADLOCK = "40P01|deadlock( was)? detected"
_TIME = "min(t_s) AS from_s, max(t_s) AS to_s"


class _Failed(NamedTuple):
    """An operation that failed: how often of n, from when to when, in which ways; named for a sentence."""

    named: str
    n: int
    failed: int
    from_s: float
    to_s: float
    kinds: Sequence[FailureKind]

    @property
    def share(self) -> float:
        return self.failed / self.n if self.n else 1.0

    def order(self, limits: Limits) -> tuple[bool, bool, int, str]:
        """Sorts what fails wholly first, then what mostly does, then by how often."""
        return self.share < 1, self.share < limits.failed_share, -self.failed, self.named


def findings(rows: Part, limits: Limits | None = None) -> list[Finding]:
    """All findings of the rows of a part of a run; there is one wherever a request failed."""
    limits = limits or Limits()
    found = [*_failures(rows, limits)]
    if not rows.run.meta.carried:
        found += [*_step_errors(rows), *_deadlocks(rows), *_bursts(rows, limits), *_retries(rows)]
    return sorted(found, key=lambda one: one.kind not in FIRST)


def _failures(rows: Part, limits: Limits) -> Iterator[Finding]:
    """Each operation that failed, with its classes and the first words heard; the few as well as the many."""
    operations = sorted(_failed_operations(rows), key=lambda one: one.order(limits))
    for one in operations[:_OPERATIONS]:
        told = ", ".join(map(_told, one.kinds[:_CLASSES]))
        if (rarer := len(one.kinds) - _CLASSES) > 0:
            told += f" and {plural(rarer, 'more class', 'more classes')}"
        of, kind = f"{one.failed:,} of {one.n:,} requests of {one.named}", "failures"
        text = f"{of} failed ({_percent(one.share)})"
        if one.share == 1:
            kind, text = "failing", f"Every request of {one.named} failed ({one.failed:,} of {one.n:,})"
        elif one.share >= limits.failed_share:
            kind = "failing"
        elif all(way.error in _CENSORED for way in one.kinds) and one.kinds:
            kind, text = "timeouts", f"{of} got no answer in time ({_percent(one.share)})"
        text += f": {told}." if told else ", it is not known in which way."
        if kind == "failing" and one.share < 1:
            text += " Its latencies are those of the others only."
        yield Finding(kind, text, one.from_s, one.to_s)
    if more := operations[_OPERATIONS:]:
        failed, n = sum(one.failed for one in more), sum(one.n for one in more)
        text = f"{failed:,} of {n:,} requests of {len(more):,} more operations failed"
        text += f" ({_percent(failed / n)})."
        yield Finding("failures", text, min(one.from_s for one in more), max(one.to_s for one in more))


def _told(kind: FailureKind) -> str:
    """A way to fail: how often, its class, the first words heard."""
    words = " ".join(kind.words.split())
    words = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    return f"{kind.count:,} × {kind.error}{f' ({words})' if words else ''}"


def _percent(share: float) -> str:
    return "99.9%" if 0.9995 <= share < 1 else f"{100 * share:.3g}%"


def _failed_operations(rows: Part) -> Iterator[_Failed]:
    if rows.run.meta.carried:
        yield from _failed_of_summary(rows)
        return
    if not rows.counts["failed"]:
        return
    kinds = results.failure_kinds(rows)
    counts = rows.query(
        "SELECT operation, count(*) AS n, count(*) FILTER (failed) AS failed,"
        " min(t_s) FILTER (failed) AS from_s, max(t_s) FILTER (failed) AS to_s"
        " FROM part GROUP BY operation HAVING failed > 0"
    )
    for one in counts.to_pylist():
        named = one.pop("operation")
        yield _Failed(named, **one, kinds=[kind for kind in kinds if kind.operation == named])


def _failed_of_summary(rows: Part) -> Iterator[_Failed]:
    """What another tool's summary tells of failures, all operations together; it may not tell which."""
    kinds, total = results.failure_kinds(rows), summarize(rows)[-1]
    failed = sum(kind.count for kind in kinds) if math.isnan(total["failed"]) else int(total["failed"])
    n = failed if math.isnan(total["n"]) else int(total["n"])
    if failed:
        yield _Failed(total["operation"], max(n, failed), failed, 0.0, rows.span_s, kinds)


def _step_errors(rows: Part) -> Iterator[Finding]:
    """What steps of the scenario did wrong; the verdict says it where all of them did."""
    meta = rows.run.meta
    if meta.step_errors and not meta.steps_broken:
        count = sum(one.count for one in meta.step_errors)
        first = max(meta.step_errors, key=lambda one: one.count)
        text = f"The scenario went wrong {plural(count, 'time')}"
        text += f", {first.count:,} of them so: " if len(meta.step_errors) > 1 else ": "
        text += f"{first.text[:_LONGEST_MISTAKE]}. Requests that these steps did not make are in no figure."
        yield Finding("step_errors", text, 0.0, rows.span_s)


def _deadlocks(rows: Part) -> Iterator[Finding]:
    """Requests that failed by a deadlock in the database, where the server's words tell."""
    if not rows.counts["failed"]:
        return
    kinds = rows.query(
        f"SELECT operation, count(*) AS n, {_TIME} FROM part"
        " WHERE failed AND regexp_matches(error_text, $words, 'i') GROUP BY 1 ORDER BY n DESC, operation",
        words=_DEADLOCK,
    ).to_pylist()
    if kinds:
        of = ", ".join(f"{one['n']:,} of {one['operation']}" for one in kinds[:3])
        of += f" and of {len(kinds) - 3} more operations" if len(kinds) > 3 else ""
        n = sum(one["n"] for one in kinds)
        text = f"PostgreSQL detected deadlocks (40P01), and {plural(n, 'request')} failed: {of}. "
        text += "Transactions locked the same rows in different orders."
        yield Finding("deadlocks", text, *_when(kinds))


def _when(kinds: Sequence[dict[str, Any]]) -> tuple[float, float]:
    return min(one["from_s"] for one in kinds), max(one["to_s"] for one in kinds)


def _bursts(rows: Part, limits: Limits) -> Iterator[Finding]:
    """Seconds in which at least half of what ended had failed, in a run that mostly went well: few of its
    seconds, with many of its failures. What the end of the run has cut off is none of them."""
    failed = rows.counts["failed"]
    if not failed or failed >= 0.5 * rows.counts["n"] or fidelity.untimed(rows.run.meta):
        return
    second = "floor(coalesce(done_s, t_s))::BIGINT"
    broke = f"failed AND NOT (error = 'cutoff' AND coalesce(error_text = '{_AT_THE_END}', false))"
    rows.keep(
        "bursts",
        f"SELECT {second} AS second FROM part GROUP BY 1"
        f" HAVING count(*) FILTER ({broke}) >= $failures AND count(*) FILTER ({broke}) >= 0.5 * count(*)",
        failures=limits.burst_failures,
    )
    seconds = rows.row("SELECT count(*) AS n FROM bursts")["n"]
    if not seconds or (time_share := seconds / max(rows.span_s, 1.0)) >= limits.burst_time_share:
        return
    kinds = rows.query(
        f"SELECT error, count(*) AS n, {_TIME} FROM part WHERE {broke} AND {second} IN"
        " (SELECT second FROM bursts) GROUP BY 1 ORDER BY n DESC, error"
    ).to_pylist()
    n = sum(one["n"] for one in kinds)
    every = rows.row(f"SELECT count(*) AS n FROM part WHERE {broke}")["n"]
    if n / every >= limits.burst_excess * time_share:
        text = f"Errors came in bursts: {n:,} of the {failed:,} failures within "
        text += f"{seconds} s ({', '.join(one['error'] for one in kinds[:3])})."
        yield Finding("error_burst", text, *_when(kinds))


def _retries(rows: Part) -> Iterator[Finding]:
    again = rows.row(f"SELECT count(*) AS n, {_TIME} FROM part WHERE attempt > 1")
    if again["n"]:
        text = f"{again['n']:,} of {rows.counts['n']:,} rows are retries: "
        text += "what users feel is the sum of their attempts."
        yield Finding("retries", text, again["from_s"], again["to_s"])
