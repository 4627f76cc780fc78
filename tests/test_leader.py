"""Leader election on a real PostgreSQL: one leads, another follows, and a late leader cannot write."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent_server.postgres import embedded_postgres
from perfkit_probes import Fenced, Leader, Ring, fenced, leader_tables

pytestmark = pytest.mark.slow

RETRY_S, CHECK_S, LEASE_S = 0.2, 0.1, 0.8
DRILLS = Path(__file__).parent.parent / "benchmarks" / "leader_drills.py"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A PostgreSQL with the election's tables and one to write to."""

    async def prepare(url: str) -> None:
        engine = create_async_engine(url)
        metadata = sa.MetaData()
        leader_tables(metadata)
        sa.Table("written", metadata, sa.Column("epoch", sa.BigInteger))
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    with embedded_postgres(None) as url:
        asyncio.run(prepare(url))
        yield url


class Election:
    """Candidates for one name on one database."""

    def __init__(self, url: str, name: str) -> None:
        self.host, self.name = parse_qs(urlsplit(url).query)["host"][0], name
        self.leaders: list[Leader] = []
        self.ring = Ring()
        self.engine: AsyncEngine = create_async_engine(url)

    async def connect(self, database: str = "postgres") -> Any:
        """A connection outside of the pool."""
        return await asyncpg.connect(host=self.host, user="postgres", database=database)

    def candidate(self, **more: Any) -> Leader:
        """One more, not started."""
        times = {"retry_s": RETRY_S, "check_s": CHECK_S, "lease_s": LEASE_S}
        given: dict[str, Any] = {"name": self.name, "ring": self.ring, "connect": self.connect} | times | more
        leader = Leader(instance=f"i{len(self.leaders)}", **given)
        self.leaders.append(leader)
        return leader

    async def leading(self, after: int = 0) -> Leader:
        """The one that leads in an epoch beyond `after`."""
        return await until(
            lambda: next((one for one in self.leaders if one.leads and one.epoch > after), None)
        )

    async def write(self, epoch: int) -> None:
        """A write under an epoch."""
        async with fenced(self.engine, self.name, epoch, LEASE_S) as connection:
            await connection.execute(sa.text("INSERT INTO written VALUES (:epoch)"), {"epoch": epoch})


async def until(look: Callable[[], Any], timeout_s: float = 6.0) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def election(url: str, name: str) -> AsyncIterator[Election]:
    """An election that ends with the block."""
    made = Election(url, name)
    try:
        yield made
    finally:
        for leader in made.leaders:
            await leader.stop()
        await made.engine.dispose()


@pytest.fixture
def elect(url: str, request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Run a coroutine function on an election of its own."""

    def run(work: Callable[[Election], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with election(url, request.node.name) as made:
                await work(made)

        asyncio.run(inside())

    return run


def test_one_of_five_leads_and_when_it_stops_another_does(elect: Callable[[Any], None]) -> None:
    """Within two retry intervals, in a higher epoch; at no moment do two lead."""

    async def work(e: Election) -> None:
        for _ in range(5):
            e.candidate().start()
        epoch = 0
        for _ in range(3):
            leader = await e.leading(epoch)
            assert leader.epoch == epoch + 1
            await asyncio.sleep(2 * RETRY_S)
            assert [one for one in e.leaders if one.leads] == [leader]
            epoch, began = leader.epoch, time.monotonic()
            await leader.stop()
            await e.leading(epoch)
            assert time.monotonic() - began <= 2 * RETRY_S
        probes = [s.probe for s in e.ring.page().samples if s.probe in ("leader.gained", "leader.lost")]
        assert probes == ["leader.gained", "leader.lost"] * 3 + ["leader.gained"]

    elect(work)


def test_a_leader_whose_connection_is_ended_finds_out(elect: Callable[[Any], None]) -> None:
    """`lost` is called within a check interval or so, and someone leads again in a higher epoch."""

    async def work(e: Election) -> None:
        lost: list[float] = []
        e.candidate(lost=lambda: lost.append(time.monotonic())).start()
        leader = await e.leading()
        other = await e.connect()
        began = time.monotonic()
        await other.execute("SELECT pg_terminate_backend(pid) FROM leases WHERE name = $1", e.name)
        await until(lambda: lost)
        assert lost[0] - began < CHECK_S + 0.2
        assert (await e.leading(1)) is leader
        await other.close()

    elect(work)


def test_a_leader_whose_lock_is_gone_leads_no_longer(elect: Callable[[Any], None]) -> None:
    """Its connection is well, but pg_locks does not show the lock: it steps down."""

    async def work(e: Election) -> None:
        leader = e.candidate()
        leader.start()
        await e.leading()
        await leader._connection.execute("SELECT pg_advisory_unlock_all()")
        lost = await until(lambda: [s for s in e.ring.page().samples if s.probe == "leader.lost"])
        assert "the lock is gone" in lost[0].label

    elect(work)


def test_an_earlier_leader_cannot_write(elect: Callable[[Any], None]) -> None:
    """Fenced, and nothing is written; the present leader can."""

    async def work(e: Election) -> None:
        e.candidate().start()
        first = await e.leading()
        await e.write(first.epoch)
        await first.stop()
        e.candidate().start()
        second = await e.leading(first.epoch)
        with pytest.raises(Fenced):
            await e.write(first.epoch)
        await e.write(second.epoch)
        async with e.engine.begin() as connection:
            epochs = (await connection.scalars(sa.text("DELETE FROM written RETURNING epoch"))).all()
        assert sorted(epochs) == [first.epoch, second.epoch]

    elect(work)


def test_no_epoch_begins_while_a_write_of_the_last_is_under_way(elect: Callable[[Any], None]) -> None:
    """The new leader waits for the transaction: what it reads then has the old leader's write in it."""

    async def work(e: Election) -> None:
        e.candidate().start()
        first = await e.leading()
        async with fenced(e.engine, e.name, first.epoch, 30):
            await first.stop()
            e.candidate().start()
            await asyncio.sleep(3 * RETRY_S)
            assert not any(one.leads for one in e.leaders)
        await e.leading(first.epoch)

    elect(work)


def test_a_write_that_freezes_is_ended_by_the_database(elect: Callable[[Any], None]) -> None:
    """After the lease time the transaction is gone, so a new leader need not wait for who never wakes."""

    async def work(e: Election) -> None:
        e.candidate().start()
        first = await e.leading()

        async def freeze() -> None:
            async with fenced(e.engine, e.name, first.epoch, 0.3) as connection:
                await first.stop()
                e.candidate().start()
                await e.leading(first.epoch)
                await connection.execute(sa.text("INSERT INTO written VALUES (0)"))

        with pytest.raises(sa.exc.DBAPIError):
            await freeze()

    elect(work)


def test_who_froze_between_lock_and_lease_does_not_lead_for_ever(elect: Callable[[Any], None]) -> None:
    """A holder of the lock without a lease is ended when its connection is older than one; not before."""

    async def work(e: Election) -> None:
        follower = e.candidate()
        frozen = await e.connect()
        began = time.monotonic()
        await frozen.execute("SELECT pg_advisory_lock($1)", follower._lock)
        follower.start()
        await e.leading()
        assert LEASE_S <= time.monotonic() - began <= LEASE_S + 2 * RETRY_S
        frozen.terminate()

    elect(work)


def test_elections_in_two_databases_leave_each_other_alone(elect: Callable[[Any], None]) -> None:
    """pg_locks shows the other database's lock, but its holder, lease or not, is not ended."""

    async def work(e: Election) -> None:
        admin = await e.connect()
        await admin.execute("CREATE DATABASE other")
        mine, blocker = e.candidate(), await e.connect()
        stranger = await e.connect("other")
        await stranger.execute("SELECT pg_advisory_lock($1)", mine._lock)
        await asyncio.sleep(LEASE_S + 0.1)  # old enough to be ended
        await blocker.execute("SELECT pg_advisory_lock($1)", mine._lock)  # so that it looks for whom to end
        mine.start()
        await e.leading()
        assert await stranger.fetchval("SELECT 1") == 1
        for connection in (stranger, blocker):
            connection.terminate()
        await admin.close()

    elect(work)


def test_a_loop_that_stood_still_past_the_lease_does_not_lead(elect: Callable[[Any], None]) -> None:
    """The lease is over for the leader itself at once when it wakes, before it has asked anybody."""

    async def work(e: Election) -> None:
        e.candidate().start()
        leader = await e.leading()
        time.sleep(LEASE_S + 0.05)
        assert not leader.leads

    elect(work)


def test_trouble_does_not_end_the_election(
    elect: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A database that refuses, and a callback that breaks, are told of once; then it tries again."""

    async def work(e: Election) -> None:
        refusals = 3

        async def connect() -> Any:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise OSError("no route")
            return await e.connect()

        calls: list[int] = []

        def gained(epoch: int) -> None:
            calls.append(epoch)
            if len(calls) == 1:
                raise KeyError("broken callback")

        e.candidate(connect=connect, gained=gained).start()
        await until(lambda: len(calls) == 2)
        assert calls == [1, 2]
        assert caplog.text.count("no route") == 1
        assert "broken callback" in caplog.text

    elect(work)


@pytest.mark.parametrize("times", [{"check_s": 1, "lease_s": 1}, {"retry_s": 0}, {"check_s": 0}])
def test_times_that_cannot_work_are_refused(times: dict[str, float]) -> None:
    """ValueError: a leader has to check more often than its lease lasts."""

    async def connect() -> Awaitable[Any]:
        raise AssertionError

    with pytest.raises(ValueError, match="check_s"):
        Leader(connect, "i", **times)  # type: ignore[arg-type]


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("drill", ["kill", "freeze", "terminate", "cut", "blackhole", "stop", "stampede"])
def test_drill(drill: str) -> None:
    """Real servers: leadership moves in time, every item is done once, no late write comes through."""
    command = [sys.executable, str(DRILLS), "--repeats", "1", "--drill", drill]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
