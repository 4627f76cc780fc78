"""Leader election on real PostgreSQL, and the drills with real server processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.leader_drills import DRILLS, RETRY_S, run_drill
from perfkit.probes import Fenced, Leader, Ring, fenced, leader_tables
from perfkit.server.postgres import embedded_postgres

metadata = sa.MetaData()
leader_tables(metadata)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a real PostgreSQL with the two tables."""

    async def prepare(url: str) -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    with embedded_postgres(None) as url:
        asyncio.run(prepare(url))
        yield url


def candidate(postgres: str, instance: str, **options: Any) -> Leader:
    """A leader-to-be with short times, on a lease of its own name."""
    args, named = create_async_engine(postgres).dialect.create_connect_args(sa.make_url(postgres))
    times = {"retry_s": 0.2, "check_s": 0.1, "lease_s": 0.6}
    return Leader(lambda: asyncpg.connect(*args, **named), instance, **(times | options))


async def until(condition: Any, timeout_s: float = 5) -> None:
    """Wait for it."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_one_leads_and_hands_over_when_it_stops(postgres: str) -> None:
    """Of three one leads; when it stops another does, in a later epoch; ring and callbacks say so."""

    async def work() -> None:
        ring, told = Ring(), []
        all_ = [
            candidate(postgres, f"i{n}", name="a", ring=ring, gained=told.append, lost=lambda: told.append(0))
            for n in range(3)
        ]
        for one in all_:
            one.start()
        await until(lambda: any(one.leads for one in all_))
        await asyncio.sleep(0.5)
        (first,) = (one for one in all_ if one.leads)
        await first.stop()
        assert not first.leads
        others = [one for one in all_ if one is not first]
        await until(lambda: any(one.leads for one in others), 2 * 0.2)
        (second,) = (one for one in others if one.leads)
        assert second.epoch == first.epoch + 1
        assert told == [first.epoch, 0, second.epoch]
        for one in others:
            await one.stop()
        gained = [sample.value for sample in ring.page().samples if sample.probe == "leader.gained"]
        assert gained == [first.epoch, second.epoch]

    asyncio.run(work())


def test_the_fence_refuses_an_earlier_epoch(postgres: str) -> None:
    """A transaction of the leader passes; after a new leader came, the old one's writes nothing."""

    async def work() -> None:
        engine = create_async_engine(postgres)
        async with engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE notes (text VARCHAR)"))
        note = sa.text("INSERT INTO notes VALUES ('x')")
        first = candidate(postgres, "i1", name="b")
        first.start()
        await until(lambda: first.leads)
        async with fenced(engine, "b", first.epoch) as connection:
            await connection.execute(note)
        await first.stop()
        second = candidate(postgres, "i2", name="b")
        second.start()
        await until(lambda: second.leads)
        with pytest.raises(Fenced):
            async with fenced(engine, "b", first.epoch) as connection:
                await connection.execute(note)
        async with engine.connect() as connection:
            assert await connection.scalar(sa.text("SELECT count(*) FROM notes")) == 1
        await second.stop()
        await engine.dispose()

    asyncio.run(work())


def test_a_new_leader_waits_for_the_transaction_under_way(postgres: str) -> None:
    """What the old leader began before the new one came is finished first: they never write side by side."""

    async def work() -> None:
        engine = create_async_engine(postgres)
        first, second = (candidate(postgres, name, name="c") for name in ("i1", "i2"))
        first.start()
        await until(lambda: first.leads)
        async with fenced(engine, "c", first.epoch, lease_s=5):
            await first.stop()
            second.start()
            await asyncio.sleep(0.4)
            assert not second.leads
        await until(lambda: second.leads, 2)
        await second.stop()
        await engine.dispose()

    asyncio.run(work())


def test_a_session_that_freezes_inside_the_fence_is_ended(postgres: str) -> None:
    """The database itself ends an idle transaction after the lease, so that nobody waits for the frozen."""

    async def work() -> None:
        engine = create_async_engine(postgres)
        leader = candidate(postgres, "i1", name="d")
        leader.start()
        await until(lambda: leader.leads)

        async def freeze() -> None:
            async with fenced(engine, "d", leader.epoch, lease_s=0.2) as connection:
                await asyncio.sleep(0.6)
                await connection.execute(sa.text("SELECT 1"))

        with pytest.raises(sa.exc.DBAPIError):
            await freeze()
        await leader.stop()
        await engine.dispose()

    asyncio.run(work())


def test_a_leader_whose_backend_is_ended_steps_down_and_comes_back(postgres: str) -> None:
    """pg_terminate_backend: lost within a check, then somebody leads again in a later epoch."""

    async def work() -> None:
        engine = create_async_engine(postgres)
        told: list[str] = []
        leader = candidate(postgres, "i1", name="e", lost=lambda: told.append("lost"))
        leader.start()
        await until(lambda: leader.leads)
        before = leader.epoch
        async with engine.begin() as connection:
            end = sa.text("SELECT pg_terminate_backend(pid) FROM leases WHERE name = 'e'")
            await connection.execute(end)
        await until(lambda: told == ["lost"], 1)
        await until(lambda: leader.leads, 2)
        assert leader.epoch == before + 1
        await leader.stop()
        await engine.dispose()

    asyncio.run(work())


@pytest.mark.parametrize("options", [{"check_s": 2.0, "lease_s": 1.0}, {"retry_s": 0.0}])
def test_times_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    """A lease shorter than its check would be lost all the time."""
    with pytest.raises(ValueError, match="check_s < lease_s"):
        Leader(lambda: asyncpg.connect(), "x", **options)


@pytest.mark.slow
@pytest.mark.parametrize("drill", DRILLS)
def test_drill(drill: str) -> None:
    """A new leader within twice the retry interval, every item of every batch carried out once, no double."""
    found = asyncio.run(run_drill(drill, 1))
    start_up_s = 20 if drill == "stampede" else 0  # the time to start a process
    assert max(found["times"]) <= 2 * RETRY_S + start_up_s
    assert found["batches"] >= 2
    assert found["doubles"] == 0
