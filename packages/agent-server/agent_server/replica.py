"""A read replica: the engine that reads from it, and how far it is behind the primary."""

from __future__ import annotations

import asyncio
import time

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perfkit_probes import Ring

_EVERY_S, _ASK_EVERY_S, _AGAIN_S = 0.2, 0.005, 1.0
#: As far as every transaction that has been committed is on the primary's disk.
_COMMITTED = sa.text("SELECT CAST(pg_current_wal_flush_lsn() AS text)")
_REPLAYED = sa.text("SELECT pg_last_wal_replay_lsn() >= CAST(CAST(:lsn AS text) AS pg_lsn)")


class Replica:
    """Reads may go to it while it is `fresh`: no more than `max_lag_s` behind when that was last measured.

    Five times a second the primary is asked how far it has come, and the replica until it has come as far. A
    replica that is late stops being fresh when `max_lag_s` have passed, so what is read from it is at most
    `max_lag_s` + 0.2 s old (and the time of two questions). One that does not answer is not fresh.
    """

    def __init__(self, primary: sa.URL, engine: AsyncEngine, max_lag_s: float) -> None:
        self.engine, self.fresh = engine, False
        self._primary, self._max_lag_s = primary, max_lag_s

    async def watch(self, ring: Ring | None = None) -> None:
        """Measure the lag until cancelled; each is a sample `db.replica_lag_ms`.

        The questions go on connections of their own, so that they wait for no pool.
        """
        engines = [
            create_async_engine(
                url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True
            )
            for url in (self._primary, self.engine.url)
        ]
        try:
            while True:
                try:
                    async with engines[0].connect() as primary, engines[1].connect() as replica:
                        await self._go_on(primary, replica, ring)
                except (OSError, sa.exc.SQLAlchemyError):  # one of them went away
                    self.fresh = False
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self.fresh = False
            for engine in engines:
                await engine.dispose()

    async def _go_on(self, primary: AsyncConnection, replica: AsyncConnection, ring: Ring | None) -> None:
        while True:
            lag_s = await self._lag_s(primary, replica)
            self.fresh = lag_s <= self._max_lag_s
            if ring is not None:
                ring.add("db.replica_lag_ms", 1000 * lag_s)
            await asyncio.sleep(_EVERY_S)

    async def _lag_s(self, primary: AsyncConnection, replica: AsyncConnection) -> float:
        """How long it takes until the replica has what the primary has committed by now."""
        began = time.monotonic()
        lsn = await primary.scalar(_COMMITTED)
        while not await replica.scalar(_REPLAYED, {"lsn": lsn}):
            if time.monotonic() - began > self._max_lag_s:
                self.fresh = False
            await asyncio.sleep(_ASK_EVERY_S)
        return time.monotonic() - began

    async def close(self) -> None:
        """Close its connections."""
        await self.engine.dispose()
