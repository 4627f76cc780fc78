"""One leader among processes that share a PostgreSQL, and the fence that makes a late leader's writes fail.

The leader holds an advisory lock on a connection of its own, outside of any pool, so that the lock goes when
the process goes. A process that is frozen, or whose network is cut, keeps its connection: so there is a lease
too, on the database's clock. A follower that finds it expired ends the old leader's backend, and with it its
lock. What the old leader may still have in flight is stopped by the fence: each leader has an epoch, higher
than all before, and every write is in a transaction that holds on to it (`fenced`). Method: fencing tokens,
Kleppmann, "How to do distributed locking", 2016.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from perfkit_probes.ring import Ring

_log = logging.getLogger("perfkit_probes")

_NEW_EPOCH = """
INSERT INTO leaderships (name, epoch, leader) VALUES ($1, 1, $2)
ON CONFLICT (name) DO UPDATE SET epoch = leaderships.epoch + 1, leader = $2 RETURNING epoch"""
_TAKE_LEASE = """
INSERT INTO leases (name, pid, renewed_at) VALUES ($1, pg_backend_pid(), clock_timestamp())
ON CONFLICT (name) DO UPDATE SET pid = pg_backend_pid(), renewed_at = clock_timestamp()"""
_RENEW = """
UPDATE leases SET renewed_at = clock_timestamp() WHERE name = $1 AND pid = pg_backend_pid() AND EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
    AND classid::bigint = $2 AND objid::bigint = $3 AND objsubid = 1) RETURNING true"""
# One that froze after it had the lock and before it had the lease counts from the start of its connection,
# which it made to try. Advisory locks are per database, pg_locks shows those of all.
_END_EXPIRED = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN leases ON leases.pid = l.pid AND leases.name = $1
WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $2 AND l.objid::bigint = $3
AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND greatest(leases.renewed_at, a.backend_start) < clock_timestamp() - make_interval(secs => $4)"""


def leader_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """The tables it needs, for the service's migrations: the fence, which only new leaders change, and the
    lease, which is renewed all the time."""
    fence = sa.Table(
        "leaderships",
        metadata,
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("leader", sa.String, nullable=False),
    )
    lease = sa.Table(
        "leases",
        metadata,
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
    )
    return fence, lease


class Fenced(Exception):
    """This process does not lead any more: nothing of the transaction was written."""


class Leader:
    """Tries to lead, holds on to it, and says so.

    connect: a new asyncpg connection each time it is called. instance: this process's name. A follower tries
    every `retry_s`, up to a fifth less by chance; the leader makes sure every `check_s` that it still is, and
    is no more when it could not for `lease_s`. So a new one leads within `retry_s`, or within `lease_s` +
    `retry_s` where the database does not see the old one go. `gained(epoch)` and `lost()` are called on the
    loop.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        instance: str,
        *,
        name: str = "scheduler",
        retry_s: float = 5.0,
        check_s: float = 2.0,
        lease_s: float = 5.0,
        gained: Callable[[int], None] = lambda epoch: None,
        lost: Callable[[], None] = lambda: None,
        ring: Ring | None = None,
    ) -> None:
        if not 0 < check_s < lease_s or retry_s <= 0:
            raise ValueError("Leader: expected 0 < check_s < lease_s and 0 < retry_s")
        self.name, self.instance, self.epoch = name, instance, 0
        self._connect, self._ring = connect, ring
        self._retry_s, self._check_s, self._lease_s = retry_s, check_s, lease_s
        self._gained, self._lost = gained, lost
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        self._key = (digest >> 32, digest & 0xFFFFFFFF)  # as pg_locks shows it: classid, objid
        self._lock = digest - (1 << 64 if digest >> 63 else 0)  # as bigint
        self._connection: Any = None
        self._renewed = 0.0
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to try, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="perfkit-leader")

    async def stop(self) -> None:
        """Give the lock back, so that a follower takes over at its next try."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection = self._connection
        self._step_down("stopped")
        if connection is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with asyncio.timeout(self._check_s):
                    await connection.execute("SELECT pg_advisory_unlock($1)", self._lock)
                    await connection.close()
            connection.terminate()

    @property
    def leads(self) -> bool:
        """Whether this process may act as leader: its lease holds. To be asked before every piece of work."""
        return self._connection is not None and time.monotonic() - self._renewed < self._lease_s

    async def _run(self) -> None:
        while True:
            try:
                await (self._hold() if self._connection is not None else self._try())
                self._trouble = ""
            except Exception as error:  # whatever a dying connection raises: a candidate never gives up
                self._failed(f"{type(error).__name__}: {error}".strip(": "))
            if self._ring is not None:
                self._ring.add("leader.is", float(self.leads), self.instance)
            leading = self._connection is not None
            wait = self._check_s if leading else self._retry_s * random.uniform(0.8, 1.0)
            await asyncio.sleep(wait)

    async def _try(self) -> None:
        began = time.monotonic()
        async with asyncio.timeout(self._lease_s):
            connection = await self._connect()
        try:
            async with asyncio.timeout(self._lease_s):
                if not await self._lock_taken(connection):
                    await connection.close()
                    return
                async with connection.transaction():
                    await connection.execute(_TAKE_LEASE, self.name)
                    epoch = await connection.fetchval(_NEW_EPOCH, self.name, self.instance)
        except BaseException:
            connection.terminate()
            raise
        self._connection, self._renewed, self.epoch = connection, began, int(epoch)
        _log.info("%s leads %s in epoch %d", self.instance, self.name, self.epoch)
        if self._ring is not None:
            self._ring.add("leader.gained", self.epoch, self.instance)
        self._gained(self.epoch)

    async def _lock_taken(self, connection: Any) -> bool:
        """The lock, if it is free, or held under a lease that has expired."""
        attempt = "SELECT pg_try_advisory_lock($1)"
        if await connection.fetchval(attempt, self._lock):
            return True
        if not await connection.fetch(_END_EXPIRED, self.name, *self._key, self._lease_s):
            return False
        for _ in range(20):  # the backend needs a moment to end
            if await connection.fetchval(attempt, self._lock):
                return True
            await asyncio.sleep(0.05)
        return False

    async def _hold(self) -> None:
        began = time.monotonic()
        async with asyncio.timeout(max(self._lease_s - (began - self._renewed), 0.05)):
            renewed = await self._connection.fetchval(_RENEW, self.name, *self._key)
        if renewed:
            self._renewed = began
        else:
            self._drop("the lock is gone")

    def _failed(self, reason: str) -> None:
        if self._connection is None and reason != self._trouble:  # a follower says it once, not at every try
            _log.warning("%s cannot try to lead %s: %s", self.instance, self.name, reason)
        self._trouble = reason
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        connection = self._connection
        self._step_down(reason)
        if connection is not None:
            connection.terminate()

    def _step_down(self, reason: str) -> None:
        if self._connection is None:
            return
        self._connection = None
        level = logging.INFO if reason == "stopped" else logging.WARNING
        _log.log(level, "%s leads %s no longer: %s", self.instance, self.name, reason)
        if self._ring is not None:
            self._ring.add("leader.lost", self.epoch, f"{self.instance} {reason}")
        self._lost()


@asynccontextmanager
async def fenced(
    engine: AsyncEngine, name: str, epoch: int, lease_s: float = 10.0
) -> AsyncIterator[AsyncConnection]:
    """A transaction that a later leader cannot overtake; Fenced when one has come already.

    It shares a lock on the epoch: a new leader waits for its end, and a process that freezes inside it has
    its session ended by the database after `lease_s`.
    """
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            limit = f"SET LOCAL idle_in_transaction_session_timeout = {int(1000 * lease_s)}"
            await connection.execute(sa.text(limit))
        share = " FOR SHARE" if connection.dialect.name == "postgresql" else ""
        query = sa.text(f"SELECT epoch FROM leaderships WHERE name = :name{share}")
        if await connection.scalar(query, {"name": name}) != epoch:
            raise Fenced(f"epoch {epoch} of {name} is over")
        yield connection
