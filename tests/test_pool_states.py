"""The pool's figures beside the sessions that a real PostgreSQL has, whatever became of the connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perfkit_probes import PoolMonitor
from tests.test_pool_monitor import ONE, figures

Held = list[AsyncConnection]


async def taken(engine: AsyncEngine, count: int) -> Held:
    """So many connections, each with a session of its own."""
    return [await engine.connect() for _ in range(count)]


async def invalidated(engine: AsyncEngine, count: int, bad: int) -> Held:
    held = await taken(engine, count)
    for connection in held[:bad]:
        await connection.invalidate()
    return await given_back(held, bad)


async def given_back(held: Held, back: int) -> Held:
    for connection in held[:back]:
        await connection.close()
    return held[back:]


async def soft_invalidated(engine: AsyncEngine, count: int) -> Held:
    held = await taken(engine, count)
    for connection in held:
        (await connection.get_raw_connection()).invalidate(soft=True)
    return await given_back(held, count)


async def detached(engine: AsyncEngine, back: int) -> Held:
    held = await taken(engine, 2)
    await held[1].run_sync(lambda connection: connection.detach())
    return await given_back(held, back)


async def killed(engine: AsyncEngine, count: int, back: int) -> Held:
    held = await given_back(await taken(engine, count), back)
    await kill(engine)
    return held


async def kill(engine: AsyncEngine) -> None:
    """End the sessions of a pool, from outside."""
    admin = create_async_engine(engine.url, poolclass=sa.NullPool)
    async with admin.connect() as connection:
        await connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {OF_THE_POOL}"))
    await admin.dispose()


async def used_after_a_kill(engine: AsyncEngine) -> Held:
    held = await killed(engine, 3, 0)
    for connection in held:
        with pytest.raises(sa.exc.DBAPIError):
            await connection.execute(ONE)
    await given_back(held, 3)
    async with engine.connect() as connection:
        await connection.execute(ONE)
    return []


OF_THE_POOL = "FROM pg_stat_activity WHERE application_name = 'pool'"
#: What is done with a pool of 3 + 2, and what is to be seen on a QueuePool and on a NullPool: total, out,
#: available, overflow. What is out and closed has its place all the same.
ON_POSTGRES: dict[str, tuple[Callable[[AsyncEngine], Awaitable[Held]], tuple[int, ...], tuple[int, ...]]] = {
    "2 out": (lambda e: taken(e, 2), (2, 2, 0, 0), (2, 2, 0, 0)),
    "5 out": (lambda e: taken(e, 5), (5, 5, 0, 2), (5, 5, 0, 0)),
    "5 invalidated": (lambda e: invalidated(e, 5, 5), (0, 0, 0, 0), (0, 0, 0, 0)),
    "2 of 5 invalidated": (lambda e: invalidated(e, 5, 2), (3, 3, 0, 0), (3, 3, 0, 0)),
    "2 to be replaced": (lambda e: soft_invalidated(e, 2), (2, 0, 2, 0), (0, 0, 0, 0)),
    "1 of 2 detached": (lambda e: detached(e, 0), (1, 1, 0, 0), (1, 1, 0, 0)),
    "1 of 2 detached, returned": (lambda e: detached(e, 2), (1, 0, 1, 0), (0, 0, 0, 0)),
    "3 killed while out": (lambda e: killed(e, 3, 0), (0, 3, 0, 0), (0, 3, 0, 0)),
    "3 killed, 2 of them idle": (lambda e: killed(e, 3, 2), (0, 1, 0, 0), (0, 1, 0, 0)),
    "3 killed, 1 opened again": (used_after_a_kill, (1, 0, 1, 0), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("state", ON_POSTGRES)
@pytest.mark.parametrize("pool", ["QueuePool", "NullPool"])
def test_states_on_postgres(postgres: str, pool: str, state: str) -> None:
    """Whatever becomes of connections, the figures are true: as many are open as PostgreSQL has sessions."""
    do, of_queue, of_null = ON_POSTGRES[state]
    expected = of_queue if pool == "QueuePool" else of_null
    sizes: Any = {"pool_size": 3, "max_overflow": 2} if pool == "QueuePool" else {"poolclass": sa.NullPool}
    open_sessions = expected[0] + (state == "1 of 2 detached")  # that one is nobody's but its user's

    async def work() -> tuple[tuple[int, ...], int]:
        options = {"server_settings": {"application_name": "pool"}}
        engine = create_async_engine(postgres, connect_args=options, **sizes)
        admin = create_async_engine(postgres, poolclass=sa.NullPool)
        monitor = PoolMonitor(engine)
        monitor.start()
        held = await do(engine)
        seen: tuple[int, ...] = ()
        sessions: Any = -1
        async with admin.connect() as look:
            for _ in range(100):  # a session takes a moment to end, and the driver to hear of it
                sessions = await look.scalar(sa.text(f"SELECT count(*) {OF_THE_POOL}"))
                seen = figures(monitor)
                if (seen, sessions) == (expected, open_sessions):
                    break
                await asyncio.sleep(0.05)
        for connection in held:
            await connection.close()
        await engine.dispose()
        await admin.dispose()
        return seen, sessions

    assert asyncio.run(work()) == (expected, open_sessions)
