"""A look at PostgreSQL from outside of the pool: the way there, waits for locks, scans and their plans.

It needs no extension and no right beyond an ordinary user's, who sees the statements of that user's sessions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from perfkit_probes.ring import Ring
from perfkit_probes.statement_text import numbered, statement_kind, without_values
from perfkit_probes.statements import StatementMonitor, Wait

_SCANS_EVERY_S = 1.0
_AGAIN_S = 5.0  # after the database did not answer
#: A scan that reads fewer rows is no reason to ask for a plan; of a table so many statements are tried.
_LARGE_ROWS, _MOST_PLANS = 500, 5
_LONGEST_PLAN = 250
_SETTINGS = (
    "SET application_name = 'perfkit-probes'",
    "SET statement_timeout = '2s'",
    "SET lock_timeout = '500ms'",  # a plan needs a lock, too; nobody is to wait behind it
    "SET plan_cache_mode = 'force_generic_plan'",
)
_ONE = sa.text("SELECT 1")
_COUNTS = sa.text("SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables")
#: Sessions that wait for a lock, and the one at the head of each queue: it waits for no lock itself.
_LOCKS = sa.text("""
    SELECT waits.query, 1000 * extract(epoch FROM clock_timestamp() - waits.query_start),
        holds.state, holds.query
    FROM pg_stat_activity waits
    LEFT JOIN LATERAL (
        SELECT state, query FROM pg_stat_activity
        WHERE pid = ANY(pg_blocking_pids(waits.pid)) AND wait_event_type IS DISTINCT FROM 'Lock' LIMIT 1
    ) holds ON true
    WHERE waits.wait_event_type = 'Lock' AND waits.datname = current_database()
""")


async def watch_postgres(
    url: sa.URL, ring: Ring, statements: StatementMonitor | None = None, *, every_s: float = 0.5
) -> None:
    """Look at a database each half second, until cancelled, and put what is seen into the ring.

    `url` names an async driver, whatever the service uses itself.

    `db.round_trip_ms`: how long a `SELECT 1` took. `db.lock_waits`, labelled with a statement: how many
    sessions waited for a lock with it; `db.lock_wait_ms`: the longest of them so far; `db.lock_holder`,
    labelled `STATE: STATEMENT`: what the session does that they wait for. Each second `db.seq_scans` and
    `db.seq_rows` of every table that was scanned since. With `statements`, and PostgreSQL 12 or later,
    `db.plan_cost`, labelled `TABLE: STATEMENT -> PLAN`, once for a statement that reads a large table from
    end to end: its plan for whatever values (nothing is executed).

    On a connection of its own, so that it neither waits for the pool nor shows in it. Backends tell their
    counts about once a second (https://www.postgresql.org/docs/current/monitoring-stats.html).
    """
    engine = create_async_engine(
        url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True
    )
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    await _Look(connection, ring, statements).go_on(every_s)
            except (OSError, sa.exc.SQLAlchemyError):  # the database went away: others will tell of it
                await asyncio.sleep(_AGAIN_S)
    finally:
        await engine.dispose()


class _Look:
    """What one connection has seen so far."""

    def __init__(self, connection: AsyncConnection, ring: Ring, statements: StatementMonitor | None) -> None:
        self._connection, self._ring, self._statements = connection, ring, statements
        self._before: dict[str, tuple[int, int]] | None = None
        self._explained: set[str] = set()

    async def go_on(self, every_s: float) -> None:
        """Look again and again."""
        for setting in _SETTINGS:
            await self._connection.exec_driver_sql(setting)
        scanned_at = -_SCANS_EVERY_S
        while True:
            wait = Wait()
            await self._connection.execute(_ONE)
            self._ring.add("db.round_trip_ms", wait.ns() / 1e6)
            await self._locks()
            if time.monotonic() - scanned_at >= _SCANS_EVERY_S:
                scanned_at = time.monotonic()
                await self._scans()
            await asyncio.sleep(every_s)

    async def _locks(self) -> None:
        waits: dict[str, list[float]] = defaultdict(list)
        holders: dict[str, int] = defaultdict(int)
        for query, ms, state, holder in await self._connection.execute(_LOCKS):
            waits[statement_kind(query or "")].append(float(ms or 0))
            if state is not None:
                holders[f"{state}: {statement_kind(holder or '')}"] += 1
        for kind, waited in waits.items():
            self._ring.add("db.lock_waits", len(waited), kind)
            self._ring.add("db.lock_wait_ms", max(waited), kind)
        for label, count in holders.items():
            self._ring.add("db.lock_holder", count, label)

    async def _scans(self) -> None:
        counts = {name: (scans, rows) for name, scans, rows in await self._connection.execute(_COUNTS)}
        before, self._before = self._before, counts
        for name, (scans, rows) in counts.items() if before is not None else ():
            scans_before, rows_before = (before or {}).get(name, (0, 0))
            if scans > scans_before:
                read = max(rows - rows_before, 0)
                self._ring.add("db.seq_scans", scans - scans_before, name)
                self._ring.add("db.seq_rows", read, name)
                if read >= _LARGE_ROWS * (scans - scans_before):
                    await self._explain(name)

    async def _explain(self, table: str) -> None:
        """Ask for the plans of the statements that name a table, until one reads it from end to end."""
        if self._statements is None or table in self._explained:
            return
        for kind, text in self._statements.most_costly(table)[:_MOST_PLANS]:
            try:
                plan = await self._plan(text)
            except sa.exc.DBAPIError:  # it is no query, or the types of its values are not known here
                continue
            scan = _scan_of(table, plan)
            if scan:
                self._explained.add(table)
                self._ring.add("db.plan_cost", float(plan["Total Cost"]), f"{table}: {kind} -> {scan}")
                return

    async def _plan(self, text: str) -> dict[str, Any]:
        prepared, count = numbered(text)
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        await self._connection.exec_driver_sql(f"PREPARE perfkit_plan AS {prepared}")
        try:
            explain = f"EXPLAIN (FORMAT JSON) EXECUTE perfkit_plan{nulls}"
            found = (await self._connection.exec_driver_sql(explain)).scalar_one()
        finally:
            await self._connection.exec_driver_sql("DEALLOCATE perfkit_plan")
        plan = json.loads(found) if isinstance(found, str) else found
        return dict(plan[0]["Plan"])


def _scan_of(table: str, plan: dict[str, Any]) -> str:
    """The way through a plan to its sequential scan of a table, without values; empty without one."""
    for path in _paths(plan):
        scan = path[-1]
        if scan["Node Type"].endswith("Seq Scan") and scan.get("Relation Name") == table:
            filtered = f", filter {without_values(scan['Filter'])}" if "Filter" in scan else ""
            above = "".join(f"{node['Node Type']} > " for node in path[:-1])
            return f"{above}{scan['Node Type']} on {table}{filtered}"[:_LONGEST_PLAN]
    return ""


def _paths(node: dict[str, Any], above: tuple[dict[str, Any], ...] = ()) -> Iterator[tuple[Any, ...]]:
    path = (*above, node)
    yield path
    for inner in node.get("Plans", ()):
        yield from _paths(inner, path)
