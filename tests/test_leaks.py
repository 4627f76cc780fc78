"""Connections that are leaked, and those that are only in use for long: on a real PostgreSQL, and by rule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perfkit import frames
from perfkit.observe import findings
from perfkit_probes import PoolMonitor, Ring
from perfkit_probes.statements import connections_at_work
from tests.test_server_side import TEN_S, Sample, at, run_with

SLEEP = sa.text("SELECT pg_sleep(0.5)")
User = Callable[[AsyncEngine, list[AsyncConnection], int], Coroutine[Any, Any, None]]


async def watched(url: str, users: int, leak_after_s: float, load: User) -> list[Sample]:
    """What a pool's monitor saw while so many users did this at once: samples, s since the beginning."""
    engine, ring, kept = create_async_engine(url, pool_size=30), Ring(), list[AsyncConnection]()
    monitor = PoolMonitor(engine, "main", ring=ring, leak_after_s=leak_after_s)
    monitor.start()
    began = time.monotonic_ns()

    async def sample() -> None:
        while True:
            monitor.sample()
            await asyncio.sleep(0.05)

    sampling = asyncio.create_task(sample())
    await asyncio.gather(*(load(engine, kept, user) for user in range(users)))
    sampling.cancel()
    monitor.stop()
    for connection in kept:
        await connection.close()
    await engine.dispose()
    return [((one.t_ns - began) / 1e9, one.probe, one.value, one.label, None) for one in ring.page().samples]


async def leaking(engine: AsyncEngine, kept: list[AsyncConnection], user: int) -> None:
    """Ask for little, again and again; the first of the users forgets one connection after the other."""
    for number in range(80):
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
            await asyncio.sleep(0.05)
        if user == 0 and number % 8 == 0 and number < 48:
            kept.append(await engine.connect())


async def asking_for_long(engine: AsyncEngine, kept: list[AsyncConnection], user: int) -> None:
    """Statements that take half a second each."""
    for _ in range(5):
        async with engine.connect() as connection:
            await connection.execute(SLEEP)


def test_leaks_are_found_and_slow_statements_are_none_of_them(postgres: str, tmp_path: Path) -> None:
    """8 and 20 users: six connections forgotten long before `leak_after_s` are a leak, by its line;
    statements that take longer than `leak_after_s` are no leak."""

    async def work() -> list[list[Sample]]:
        loads: list[tuple[float, User]] = [(30.0, leaking), (0.2, asking_for_long)]
        each = [watched(postgres, users, limit_s, load) for users in (8, 20) for limit_s, load in loads]
        return await asyncio.gather(*each)

    found = [
        findings.judge(frames.measured(run_with(tmp_path / str(number), samples, scale=0.1))).findings
        for number, samples in enumerate(asyncio.run(work()))
    ]
    for leak, slow in (found[:2], found[2:]):
        (one,) = leak
        assert one.kind == "connection_leak"
        assert "tests/test_leaks.py:" in one.text
        assert " leaking: close them there." in one.text
        assert slow == []


def test_a_connection_at_work_is_no_leak(postgres: str) -> None:
    """While its statement runs it is none, however long; out and unused for as long, it is one."""

    async def work() -> None:
        engine = create_async_engine(postgres)
        monitor = PoolMonitor(engine, leak_after_s=0.2)
        monitor.start()
        async with engine.connect() as connection:
            asking = asyncio.create_task(connection.execute(sa.text("SELECT pg_sleep(0.6)")))
            while not connections_at_work(engine):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert monitor.leaks() == []
            assert not asking.done(), "it was looked at too late"
            await asking
            await asyncio.sleep(0.3)
            (leak,) = monitor.leaks()
            assert leak.held_s >= 0.9
        assert monitor.leaks() == []
        await engine.dispose()

    asyncio.run(work())


# -- rules: above their limit and below it ----------------------------------------------------------

LOOKS = at(TEN_S, "pool.checked_out", 9, "main")


def texts(folder: Path, samples: list[Sample]) -> list[str]:
    """The texts of a run's findings, all of leaks; no request took longer than 0.2 s."""
    found = findings.judge(frames.measured(run_with(folder, samples + LOOKS, scale=0.1))).findings
    assert {one.kind for one in found} <= {"connection_leak"}
    return [one.text for one in found]


def test_connections_unused_for_longer_than_any_request_are_leaked(tmp_path: Path) -> None:
    """Three of them, steadily or at once, with where they were taken; two are none, nor those of the end,
    nor those that are used again after some time, however many they are."""
    for name, times in {"steadily": [2, 4, 6], "at once": [1, 1, 1]}.items():
        (text,) = texts(tmp_path / name, at(times, "pool.unused_s", 1, "app.py:7 f"))
        assert text.startswith(
            "The connections of server that are out of their pool and run nothing grew by 3:"
        )
        assert text.endswith("Most of them were taken at app.py:7 f: close them there.")
    assert texts(tmp_path / "two", at([2, 4], "pool.unused_s", 1)) == []
    assert texts(tmp_path / "end", at([9.85] * 4, "pool.unused_s", 1)) == []
    held = at(TEN_S, "pool.unused_s", 1.05) + at(TEN_S + 0.5, "pool.used_again_s", 1.5)
    assert texts(tmp_path / "held", held) == []


@pytest.mark.parametrize(("returned", "left"), [(0, 3), (2, 1), (3, 0)])
def test_a_connection_given_back_after_all_was_no_leak(returned: int, left: int, tmp_path: Path) -> None:
    """Of three that were out for long, those that came back later do not count; nor do those of another
    place, nor those that were unused for less, or reported before the measured part."""
    back = at([4], "pool.used_again_s", 3.5) * returned
    others = at([4], "pool.used_again_s", 3, "y") + at([0.5], "pool.used_again_s", 9)
    others += at([5, 6, 7], "pool.used_again_s", 1.2)
    found = texts(tmp_path, at([2, 2.1, 2.2], "pool.leak_s", 2) + back + others)
    told = (
        f"{left} database connection{'s were' if left > 1 else ' was'} taken at x and neither used nor given "
    )
    assert found == [f"{told}back for 2 s or more. Close them there."] * bool(left)


def test_of_old_leaks_and_all_of_them_the_more_are_told(tmp_path: Path) -> None:
    """One finding for one trouble: four that grew tell more than the one of them that is old already."""
    grew = at([1, 3, 5, 7], "pool.unused_s", 1, "app.py:7 f")
    (text,) = texts(tmp_path / "few old", grew + at([9], "pool.leak_s", 9, "app.py:7 f"))
    assert "grew by 4" in text
    (text,) = texts(tmp_path / "all old", grew + at([9] * 4, "pool.leak_s", 2, "app.py:7 f"))
    assert text.startswith("4 database connections were taken at app.py:7 f")
