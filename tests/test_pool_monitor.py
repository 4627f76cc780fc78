"""The pool monitor beside SQLAlchemy's own counters, on each kind of pool, SQLite and real PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import sysconfig
import threading
import time
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy.ext.asyncio import create_async_engine

from perfkit_probes import (
    POOL_EVENTS,
    MetricRegistry,
    PoolMonitor,
    RequestTimes,
    Ring,
    count_database_time,
    request_scope,
)

ONE = sa.text("SELECT 1")


def sqlite_engine(tmp_path: Path, pool: type[sa.Pool] = sa.QueuePool, **options: Any) -> sa.Engine:
    """An engine on a file."""
    return sa.create_engine(
        f"sqlite:///{tmp_path}/db", poolclass=pool, connect_args={"check_same_thread": False}, **options
    )


def figures(monitor: PoolMonitor) -> tuple[int, int, int, int]:
    """Total, out, available, overflow."""
    state = monitor.state()
    return state.total, state.checked_out, state.available, state.overflow


# -- states ----------------------------------------------------------------------------------------

#: What is done (connections taken, given back) and what must be seen: total, out, available, overflow.
TABLE = [
    ("nothing opened", 0, 0, (0, 0, 0, 0)),
    ("1 out", 1, 0, (1, 1, 0, 0)),
    ("returned", 1, 1, (1, 0, 1, 0)),
    ("full", 3, 0, (3, 3, 0, 0)),
    ("overflow", 5, 0, (5, 5, 0, 2)),
    ("half returned", 5, 2, (5, 3, 2, 2)),
    ("all returned", 5, 5, (3, 0, 3, 0)),
]


@pytest.mark.parametrize(("state", "take", "back", "seen"), TABLE)
def test_states_of_a_queue_pool(
    tmp_path: Path, state: str, take: int, back: int, seen: tuple[int, int, int, int]
) -> None:
    """Size 3, overflow 2: the figures are right, and SQLAlchemy's own."""
    engine = sqlite_engine(tmp_path, pool_size=3, max_overflow=2)
    monitor = PoolMonitor(engine)
    monitor.start()
    taken = [engine.connect() for _ in range(take)]
    for connection in taken[:back]:
        connection.close()
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    assert monitor.state().size == 3
    # of 5 that come back, the last 2 are closed: the pool keeps 3
    expected = seen if state != "half returned" else (5, 3, 2, 2)
    assert figures(monitor) == expected
    assert figures(monitor)[1:] == (pool.checkedout(), pool.checkedin(), max(0, pool.overflow()))
    for connection in taken[back:]:
        connection.close()
    engine.dispose()


@pytest.mark.parametrize(("state", "take", "back", "seen"), TABLE)
def test_states_of_an_async_queue_pool(
    tmp_path: Path, state: str, take: int, back: int, seen: tuple[int, int, int, int]
) -> None:
    """The same behind asyncio."""

    async def work() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db", pool_size=3, max_overflow=2)
        assert isinstance(engine.pool, sa.AsyncAdaptedQueuePool)
        monitor = PoolMonitor(engine)
        monitor.start()
        taken = [await engine.connect() for _ in range(take)]
        for connection in taken[:back]:
            await connection.close()
        pool: Any = engine.pool
        assert figures(monitor) == seen
        assert figures(monitor)[1:] == (pool.checkedout(), pool.checkedin(), max(0, pool.overflow()))
        for connection in taken[back:]:
            await connection.close()
        await engine.dispose()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("pool", "out", "back"),
    [(sa.NullPool, (1, 1, 0, 0), (0, 0, 0, 0)), (sa.StaticPool, (1, 1, 0, 0), (1, 0, 1, 0))],
)
def test_pools_without_counters(
    tmp_path: Path, pool: type[sa.Pool], out: tuple[int, ...], back: tuple[int, ...]
) -> None:
    """A NullPool keeps nothing, a StaticPool its one connection; both are counted by their events."""
    engine = sqlite_engine(tmp_path, pool)
    monitor = PoolMonitor(engine)
    monitor.start()
    assert figures(monitor) == (0, 0, 0, 0)
    for _ in range(2):
        with engine.connect():
            assert figures(monitor) == out
        assert figures(monitor) == back
    engine.dispose()


def test_a_null_pool_lends_many(tmp_path: Path) -> None:
    """Three at once are three out."""
    engine = sqlite_engine(tmp_path, sa.NullPool)
    monitor = PoolMonitor(engine)
    monitor.start()
    taken = [engine.connect() for _ in range(3)]
    assert figures(monitor) == (3, 3, 0, 0)
    taken[0].close()
    assert figures(monitor) == (2, 2, 0, 0)
    for connection in taken[1:]:
        connection.close()


# -- events ----------------------------------------------------------------------------------------


def test_every_event_is_counted_once(tmp_path: Path) -> None:
    """All ten, on a pool that goes through everything; in the monitor and in the metric."""
    reader = InMemoryMetricReader()
    engine = sqlite_engine(tmp_path, pool_size=1, max_overflow=0)
    monitor = PoolMonitor(engine, "here", registry=MetricRegistry.of(MeterProvider([reader])))
    monitor.start()
    with engine.connect() as connection:
        connection.execute(ONE)
    with engine.connect() as connection:
        connection.invalidate(ValueError("gone"))
    raw = engine.raw_connection()
    raw.invalidate(soft=True)
    raw.close()
    raw = engine.raw_connection()
    raw.detach()
    raw.close()
    counts = dict(monitor.counts)
    assert set(counts) == set(POOL_EVENTS)
    assert all(counts.values()), counts
    assert (counts["first_connect"], counts["invalidate"], counts["soft_invalidate"]) == (1, 1, 1)
    assert (counts["detach"], counts["close_detached"]) == (1, 1)
    assert counts["checkout"] == 4
    monitor.sample()
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for m in data.resource_metrics[0].scope_metrics[0].metrics}
    points = metrics["count_db_pool_connection_events"].data.data_points
    assert {p.attributes["event"]: p.value for p in points} == counts  # type: ignore[index, union-attr]
    assert {p.attributes["engine_name"] for p in points} == {"here"}  # type: ignore[index]
    errors = metrics["count_db_pool_connection_errors"].data.data_points
    assert {p.attributes["exception_type"]: p.value for p in errors} == {"ValueError": 1, "unknown": 1}  # type: ignore[index, union-attr]
    engine.dispose()


def test_two_monitors_count_once_and_stop_takes_effect(tmp_path: Path) -> None:
    """The second stays idle; a stopped one counts nothing more; then another may start."""
    engine = sqlite_engine(tmp_path)
    first, second = PoolMonitor(engine), PoolMonitor(engine)
    for monitor in (first, first, second):
        monitor.start()
    with engine.connect():
        pass
    assert (first.counts["checkout"], second.counts["checkout"]) == (1, 0)
    first.stop()
    with engine.connect():
        pass
    assert first.counts["checkout"] == 1
    second.start()
    with engine.connect():
        assert second.state().checked_out == 1
    assert second.counts["checkout"] == 1
    engine.dispose()


def test_dispose_does_not_end_the_watch(tmp_path: Path) -> None:
    """The engine's new pool is watched as the old one was, waiting times included."""
    engine, ring = sqlite_engine(tmp_path, pool_size=1, max_overflow=0), Ring()
    monitor = PoolMonitor(engine, ring=ring)
    monitor.start()
    with engine.connect():
        pass
    engine.dispose()
    assert figures(monitor) == (0, 0, 0, 0)
    _wait_for_a_connection(engine, 0.1)
    assert monitor.counts["checkout"] == 3
    (waited,) = (sample for sample in ring.page().samples if sample.probe == "pool.wait_ms")
    assert 80 <= waited.value < 200
    engine.dispose()


# -- waiting ---------------------------------------------------------------------------------------


def _wait_for_a_connection(engine: sa.Engine, hold_s: float) -> None:
    """Let a second thread wait for the only connection."""
    connection = engine.connect()
    thread = threading.Thread(target=lambda: engine.connect().close())
    thread.start()
    time.sleep(hold_s)
    connection.close()
    thread.join()


def test_waiting_is_measured_and_seen_while_it_lasts(postgres: str) -> None:
    """A pool of one on PostgreSQL: a free connection is not waited for, opening one is no waiting either."""
    ring = Ring()

    async def work() -> tuple[int, int, RequestTimes, RequestTimes]:
        engine = create_async_engine(postgres, pool_size=1, max_overflow=0)
        monitor = PoolMonitor(engine, "pg", ring=ring)
        monitor.start()
        first, second = RequestTimes("a", 0), RequestTimes("b", 0)
        with request_scope(first):
            connection = await engine.connect()  # opened: some milliseconds, but no waiting
        with request_scope(second):
            task = asyncio.create_task(engine.connect().start())
        await asyncio.sleep(0.2)
        during = monitor.state().waiting
        await connection.close()
        await (await task).close()
        after = monitor.state().waiting
        await engine.dispose()
        return during, after, first, second

    during, after, first, second = asyncio.run(work())
    assert (during, after) == (1, 0)
    assert first.db_wait_ns < 20e6
    assert 170e6 <= second.db_wait_ns <= 260e6
    waits = {one.request_id: one for one in ring.page().samples if one.probe == "pool.wait_ms"}
    waited = waits["b"]  # on a busy machine the first may have waited a moment, too
    assert waited.label == "pg"
    assert waited.value == pytest.approx(second.db_wait_ns / 1e6)


def test_a_checkout_that_gives_up_is_an_error_with_its_waiting(tmp_path: Path) -> None:
    """Pool timeouts are counted; what they waited is told."""
    ring = Ring()
    engine = sqlite_engine(tmp_path, pool_size=1, max_overflow=0, pool_timeout=0.1)
    monitor = PoolMonitor(engine, ring=ring)
    monitor.start()
    with engine.connect(), pytest.raises(sa.exc.TimeoutError):
        engine.connect()
    seen = {sample.probe: sample for sample in ring.page().samples}
    assert seen["pool.error"].label == "TimeoutError"
    assert 80 <= seen["pool.timeout_ms"].value < 250
    assert monitor.state().checked_out == 0
    engine.dispose()


def test_a_database_that_refuses_is_an_error() -> None:
    """Nobody listens: counted by its kind, and nothing is out."""
    ring = Ring()

    async def work() -> None:
        engine = create_async_engine("postgresql+asyncpg://x@127.0.0.1:1/x")
        monitor = PoolMonitor(engine, ring=ring)
        monitor.start()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await engine.connect()
        assert figures(monitor) == (0, 0, 0, 0)
        await engine.dispose()

    asyncio.run(work())
    assert [sample.label for sample in ring.page().samples] == ["ConnectionRefusedError"]


@pytest.mark.parametrize("slow", ["creator", "ping"])
def test_opening_and_pinging_are_no_waiting(tmp_path: Path, slow: str) -> None:
    """A creator of the service's own, or a ping before use, takes 100 ms; nobody waited for a connection."""

    def creator() -> sqlite3.Connection:
        time.sleep(0.1 if slow == "creator" else 0)
        return sqlite3.connect(tmp_path / "db")

    engine = sa.create_engine("sqlite://", creator=creator, poolclass=sa.QueuePool, pool_pre_ping=True)
    monitor, times = PoolMonitor(engine), RequestTimes("r", 0)
    if slow == "ping":
        engine.dialect.do_ping = lambda connection: time.sleep(0.1) is None  # type: ignore[method-assign]
        engine.connect().close()  # only a connection that was used before is asked
    monitor.start()
    began = time.monotonic()
    with request_scope(times):
        engine.connect().close()
    assert time.monotonic() - began >= 0.1
    assert times.db_wait_ns < 20e6
    engine.dispose()


# -- what others do to the pool --------------------------------------------------------------------


@pytest.mark.parametrize("pool", [sa.QueuePool, sa.NullPool])
def test_a_checkout_that_begins_again_is_out_once(tmp_path: Path, pool: type[sa.Pool]) -> None:
    """Another listener finds the connection dead, SQLAlchemy takes a new one: one is out, then none."""
    engine = sqlite_engine(tmp_path, pool)
    monitor, dead = PoolMonitor(engine, leak_after_s=0.0), [True]
    monitor.start()

    @sa.event.listens_for(engine, "checkout")
    def check(*_: object) -> None:
        if dead:
            dead.pop()
            raise sa.exc.DisconnectionError

    with engine.connect():
        assert monitor.counts["checkout"] == 2
        assert (monitor.state().checked_out, len(monitor.leaks())) == (1, 1)
    assert (monitor.state().checked_out, len(monitor.leaks())) == (0, 0)
    engine.dispose()


def test_a_checkout_that_is_refused_is_one_error(tmp_path: Path) -> None:
    """SQLAlchemy invalidates the connection and raises the same exception: it is counted once."""
    engine, ring = sqlite_engine(tmp_path), Ring()
    PoolMonitor(engine, ring=ring).start()

    @sa.event.listens_for(engine, "checkout")
    def refuse(*_: object) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        engine.connect()
    assert [sample.label for sample in ring.page().samples] == ["PermissionError"]
    engine.dispose()


def test_engines_of_one_pool_are_watched_once(tmp_path: Path) -> None:
    """An engine with execution options shares the pool; either may be watched, and either disposed of."""
    engine = sqlite_engine(tmp_path)
    other = engine.execution_options(isolation_level="AUTOCOMMIT")
    first, second = PoolMonitor(other, leak_after_s=0.0), PoolMonitor(engine)
    first.start()
    second.start()
    engine.connect().close()
    assert (first.counts["checkout"], second.counts["checkout"]) == (1, 0)
    engine.dispose()
    with other.connect():
        assert len(first.leaks()) == 1
    engine.dispose()


def test_connections_the_garbage_collector_gives_back(tmp_path: Path) -> None:
    """It may run in any line of the monitor, and calls it from there: that must not stand still.

    Here a connection nobody closed goes at every line, by a trace function.
    """
    engine = sqlite_engine(tmp_path, pool_size=5, max_overflow=-1)
    monitor = PoolMonitor(engine, ring=Ring(), registry=MetricRegistry.of(MeterProvider()), leak_after_s=0.0)
    monitor.start()
    forgotten = [engine.raw_connection() for _ in range(200)]
    code, lines = sys.modules[PoolMonitor.__module__].__file__, set[int]()

    def trace(frame: FrameType, what: str, _: object) -> Any:
        if frame.f_code.co_filename != code:
            return None
        if what == "line" and frame.f_lineno not in lines:
            lines.add(frame.f_lineno)
            forgotten.pop()
        return trace

    def work() -> None:
        sys.settrace(trace)
        for look in (monitor.sample, monitor.state, monitor.leaks, lambda: monitor.counts):
            look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(forgotten) == 200 - len(lines) < 180
    assert monitor.state().checked_out == len(monitor.leaks()) == len(forgotten)
    assert monitor.counts["checkin"] == len(lines)
    forgotten.clear()
    engine.dispose()


def test_a_monitor_does_not_keep_an_engine_alive(tmp_path: Path) -> None:
    """A service that drops its engine without stopping the monitor loses nothing but the monitor."""
    engine = sqlite_engine(tmp_path)
    PoolMonitor(engine).start()
    engine.connect().close()
    engine.dispose()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


# -- leaks -----------------------------------------------------------------------------------------


def forget_to_close(engine: sa.Engine) -> sa.Connection:
    """The leak."""
    return engine.connect()


def test_a_leak_is_reported_once_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Held longer than the limit: where it was taken; given back, it is no leak any more."""
    engine, ring = sqlite_engine(tmp_path), Ring()
    monitor = PoolMonitor(engine, ring=ring, leak_after_s=0.05)
    monitor.start()
    kept = forget_to_close(engine)
    with engine.connect():
        pass
    monitor.sample()
    assert not monitor.leaks()
    time.sleep(0.08)
    for _ in range(3):
        monitor.sample()
    (leak,) = monitor.leaks()
    assert leak.place.startswith("tests/test_pool_monitor.py:")
    assert leak.place.endswith(" forget_to_close")
    assert leak.held_s >= 0.05
    assert [s.label for s in ring.page().samples if s.probe == "pool.leak_s"] == [leak.place]
    assert sum("forget_to_close" in record.getMessage() for record in caplog.records) == 1
    kept.close()
    assert not monitor.leaks()
    engine.dispose()


def test_the_place_of_an_async_checkout_is_the_coroutine(tmp_path: Path) -> None:
    """The stack inside SQLAlchemy's greenlet has no frame of the service; the coroutine's has."""

    async def forget(engine: Any) -> Any:
        async with engine.begin() as connection:
            await connection.execute(ONE)
            (leak,) = monitor.leaks()
            return leak

    async def work() -> Any:
        nonlocal monitor
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db")
        monitor = PoolMonitor(engine, leak_after_s=0.0)
        monitor.start()
        with request_scope(RequestTimes("r7", 0)):
            leak = await forget(engine)
        await engine.dispose()
        return leak

    monitor: Any = None
    leak = asyncio.run(work())
    assert leak.place.endswith(" forget")
    assert leak.request_id == "r7"


def test_the_place_in_a_service_that_was_installed(tmp_path: Path) -> None:
    """Installed by pip, a service is among the libraries; the place is in it all the same."""
    file = Path(sysconfig.get_paths()["purelib"]) / "service" / "app.py"
    names: dict[str, Any] = {}
    exec(compile("def handler(engine):\n    return engine.connect()\n", str(file), "exec"), names)
    engine = sqlite_engine(tmp_path)
    monitor = PoolMonitor(engine, leak_after_s=0.0)
    monitor.start()
    with names["handler"](engine):
        (leak,) = monitor.leaks()
    assert leak.place == "service/app.py:2 handler"
    engine.dispose()


# -- real trouble ----------------------------------------------------------------------------------


def test_connections_killed_by_the_server(postgres: str) -> None:
    """pg_terminate_backend on connections out and idle: invalidated, counted, and the figures stay true."""
    ring = Ring()

    async def work() -> None:
        engine = create_async_engine(postgres, pool_size=3, max_overflow=0)
        admin = create_async_engine(postgres, poolclass=sa.NullPool)
        monitor = PoolMonitor(engine, ring=ring)
        monitor.start()
        taken = [await engine.connect() for _ in range(3)]
        pids = [await connection.scalar(sa.text("SELECT pg_backend_pid()")) for connection in taken]
        await taken[2].close()  # idle when it is killed
        async with admin.connect() as other:
            for pid in pids:
                await other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        await asyncio.sleep(0.1)
        for connection in taken[:2]:
            with pytest.raises(sa.exc.DBAPIError):
                await connection.execute(ONE)
            await connection.close()
        assert figures(monitor)[1] == 0
        assert monitor.counts["invalidate"] >= 2
        for _ in range(3):
            with_fresh = 0
            for _ in range(2):  # the idle one is found dead at its first use
                try:
                    async with engine.connect() as connection:
                        with_fresh = await connection.scalar(ONE)
                    break
                except sa.exc.DBAPIError:
                    continue
            assert with_fresh == 1
        pool: Any = engine.pool
        assert figures(monitor)[1:] == (pool.checkedout(), pool.checkedin(), max(0, pool.overflow()))
        assert figures(monitor)[1] == 0
        await engine.dispose()
        await admin.dispose()

    asyncio.run(work())
    assert any(sample.probe == "pool.error" for sample in ring.page().samples)
    gc.collect()


def test_many_threads_end_with_nothing_out(tmp_path: Path) -> None:
    """8 threads, 200 checkouts each, on 4 connections: each event counted, zero out at the end."""
    engine, ring = sqlite_engine(tmp_path, pool_size=3, max_overflow=1), Ring()
    monitor = PoolMonitor(engine, ring=ring)
    monitor.start()

    def work() -> None:
        for _ in range(200):
            with engine.connect():
                monitor.sample()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.counts["checkout"] == monitor.counts["checkin"] == 1600
    assert monitor.state().checked_out == monitor.state().waiting == 0
    assert max(s.value for s in ring.page(0, 100_000).samples if s.probe == "pool.checked_out") <= 4
    engine.dispose()


# -- time in the database --------------------------------------------------------------------------


def test_time_in_the_database_is_counted_into_the_request(postgres: str) -> None:
    """pg_sleep of 100 ms is 100 ms of `db`, once however often it is set up; undone, nothing is counted."""

    async def work() -> list[float]:
        engine = create_async_engine(postgres)
        found = []
        undo = count_database_time(engine)
        count_database_time(engine)
        for _ in range(2):
            times = RequestTimes("r", 0)
            with request_scope(times):
                async with engine.begin() as connection:
                    await connection.execute(sa.text("SELECT pg_sleep(0.1)"))
            found.append(times.db_ns / 1e6)
            undo()
        await engine.dispose()
        return found

    counted, undone = asyncio.run(work())
    assert 98 <= counted < 160
    assert undone == 0


@pytest.mark.parametrize("query", ["SELECT 1", "SELECT pg_sleep(0.6)"])
def test_waiting_for_a_full_core_is_no_time_in_the_database(postgres: str, query: str) -> None:
    """Twenty tasks keep the loop at work, in turns of 20 ms and more: a statement that is done at once waits
    two of them, and next to nothing of that is the database's; a slow one is the database's all the same."""

    async def busy() -> None:
        while True:
            until = time.thread_time() + 0.001
            while time.thread_time() < until:
                pass
            await asyncio.sleep(0)

    async def work() -> tuple[float, float]:
        engine = create_async_engine(postgres)
        undo = count_database_time(engine)
        seen = []
        async with engine.connect() as connection:
            await connection.execute(sa.text(query))  # prepared once
            others = [asyncio.create_task(busy()) for _ in range(20)]
            await asyncio.sleep(0.1)
            for _ in range(1 if "sleep" in query else 5):  # PostgreSQL itself may wait for a busy machine
                times, began = RequestTimes("r", 0), time.monotonic_ns()
                with request_scope(times):
                    await connection.execute(sa.text(query))
                seen.append(((time.monotonic_ns() - began) / 1e6, times.db_ns / 1e6))
            for task in others:
                task.cancel()
        undo()
        await engine.dispose()
        return min(seen, key=lambda one: one[1] / one[0])

    lasted, counted = asyncio.run(work())
    if "sleep" in query:
        assert 450 <= counted <= lasted
    else:
        assert lasted > 20
        assert counted < 0.35 * lasted
