"""How many rows PostgreSQL reads by sequential scans, table by table: what a missing index looks like."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from perfkit_probes.ring import Ring

_COUNTS = sa.text("SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables")


async def watch_table_scans(url: sa.URL, ring: Ring, every_s: float = 1.0) -> None:
    """Each second, `db.seq_scans` and `db.seq_rows` of every table that was scanned since; until cancelled.

    On a connection of its own, so that it neither waits for the pool nor shows in it. Backends tell their
    counts about once a second (https://www.postgresql.org/docs/current/monitoring-stats.html).
    """
    engine = create_async_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    try:
        while True:
            try:
                await _watch(engine, ring, every_s)
            except (OSError, sa.exc.SQLAlchemyError):  # the database went away: others will tell of it
                await asyncio.sleep(5 * every_s)
    finally:
        await engine.dispose()


async def _watch(engine: AsyncEngine, ring: Ring, every_s: float) -> None:
    before: dict[str, tuple[int, int]] | None = None
    async with engine.connect() as connection:
        while True:
            counts = {name: (scans, rows) for name, scans, rows in await connection.execute(_COUNTS)}
            for name, (scans, rows) in counts.items() if before is not None else ():
                scans_before, rows_before = (before or {}).get(name, (0, 0))
                if scans > scans_before:
                    ring.add("db.seq_scans", scans - scans_before, name)
                    ring.add("db.seq_rows", max(rows - rows_before, 0), name)
            before = counts
            await asyncio.sleep(every_s)
