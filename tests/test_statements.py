"""What is seen of a service's statements: without values, by endpoint, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_server.database import async_url, make_engine
from agent_server.errors import database_fault
from agent_server.settings import Settings
from agent_server.slow_network import slow_network
from perfkit_probes import ProbesMiddleware, Ring, StatementMonitor, watch_postgres
from perfkit_probes.statement_text import numbered, statement_kind

SECRET = "sk-4711-secret"

# -- texts -----------------------------------------------------------------------------------------

KINDS = [
    (f"SELECT a FROM t WHERE k = '{SECRET}' AND n > -1.5e3", "SELECT a FROM t WHERE k = ? AND n > ?"),
    (f"DELETE FROM t WHERE k='it''s -- {SECRET}'\n AND b='{SECRET}'", "DELETE FROM t WHERE k=? AND b=?"),
    (f"SELECT 1 FROM t WHERE k=E'\\'{SECRET}' OR $q$'{SECRET}$q$=k", "SELECT ? FROM t WHERE k=? OR ?=k"),
    (f"SELECT a FROM t /* '{SECRET} */ WHERE k = '{SECRET} was cut", "SELECT a FROM t WHERE k = ?"),
    ("SELECT a1 FROM t2 WHERE a1 IN ($1::VARCHAR, $2::VARCHAR)", "SELECT a1 FROM t2 WHERE a1 IN (?)"),
    ("UPDATE t SET a=%(a)s::TIMESTAMP WITH TIME ZONE WHERE b = :b", "UPDATE t SET a=? WHERE b = ?"),
    (f"INSERT INTO t ({'column_name, ' * 9}b) VALUES (1, 2), (3, 4)", "INSERT INTO t (…) VALUES (?)"),
    (f"SELECT {'t.column_name, ' * 9}b FROM t WHERE id = 7", "SELECT … FROM t WHERE id = ?"),
    (f'SELECT "it\'s" FROM t WHERE "it\'s" = \'{SECRET}\'', 'SELECT "it\'s" FROM t WHERE "it\'s" = ?'),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "kind"), KINDS)
def test_statements_are_told_without_values(sql: str, kind: str) -> None:
    """Whatever a value looks like; lists are cut short, and what differs in values only is one kind."""
    assert statement_kind(sql) == kind


def test_placeholders_become_postgresqls_own() -> None:
    """Those of any driver; one that is named twice is one value."""
    assert numbered("a = %(x)s AND b = %(y)s AND c = %(x)s AND d LIKE '%%'") == (
        "a = $1 AND b = $2 AND c = $1 AND d LIKE '%'",
        2,
    )
    assert numbered("a = %s AND b = %s") == ("a = $1 AND b = $2", 2)
    assert numbered("a = $2 AND b = $1 AND c = '$9'")[1] == 2


# -- by endpoint -----------------------------------------------------------------------------------

THINGS = sa.table("things", sa.column("id"), sa.column("word"))


async def tables(engine: AsyncEngine, rows: int = 0) -> None:
    """A fresh table `things`, its statistics known."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE IF EXISTS things"))
        await connection.execute(sa.text("CREATE TABLE things (id int, word text)"))
        fill = "INSERT INTO things SELECT i, 'word ' || i FROM generate_series(1, :rows) AS i"
        await connection.execute(sa.text(fill), {"rows": rows})
        await connection.execute(sa.text("ANALYZE things"))


def service(engine: AsyncEngine, ring: Ring) -> Any:
    """A service with an endpoint that asks for one row after the other, and works on after its answer."""

    async def things(request: Any) -> Response:
        async with engine.connect() as connection:
            for number in range(int(request.path_params["count"])):
                await connection.execute(sa.select(THINGS.c.word).where(THINGS.c.id == number))
        return JSONResponse([], background=BackgroundTask(go_on))

    async def go_on() -> None:
        later.append(asyncio.create_task(count()))

    async def count() -> None:
        await asyncio.sleep(0.05)  # the request has ended
        async with engine.connect() as connection:
            await connection.execute(sa.select(sa.func.count()).select_from(THINGS))

    later: list[asyncio.Task[None]] = []
    app = Starlette(routes=[Route("/things/{count:int}", things)])
    app.add_middleware(ProbesMiddleware, ring=ring)
    return app, later


def seen(ring: Ring, probe: str) -> dict[str, float]:
    """The sum of a probe's samples by label."""
    found: dict[str, float] = {}
    for sample in ring.page(0, 100_000).samples:
        if sample.probe == probe:
            found[sample.label] = found.get(sample.label, 0) + sample.value
    return found


async def until(done: Callable[[], Any], work: Callable[[], Any] = lambda: None) -> None:
    """Wait for a condition, 20 s at most, doing some work meanwhile."""
    for _ in range(400):
        work()
        if done():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the condition did not come")


def test_statements_are_counted_by_endpoint(postgres: str) -> None:
    """Calls, rows, time and requests of each endpoint; also of what runs after its answer, or outside."""
    ring = Ring()

    async def work() -> None:
        engine = create_async_engine(postgres)
        await tables(engine, 5)
        monitor = StatementMonitor(engine, ring=ring)
        monitor.start()
        app, later = service(engine, ring)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
            for count in (3, 5):
                await http.get(f"/things/{count}")
        await asyncio.gather(*later)
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
        monitor.stop()
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 2"))  # not counted: it was stopped
        await until(lambda: seen(ring, "db.calls"), monitor.sample)
        await engine.dispose()

    asyncio.run(work())
    by_id = "GET /things/{count}: SELECT things.word FROM things WHERE things.id = ?"
    count = "GET /things/{count}: SELECT count(*) AS count_1 FROM things"
    assert seen(ring, "db.calls") == {by_id: 8, count: 2, "outside of requests: SELECT ?": 1}
    assert seen(ring, "db.rows") == {by_id: 2 + 4, count: 2, "outside of requests: SELECT ?": 1}
    assert seen(ring, "db.requests") == {"GET /things/{count}": 2}
    assert 0 < seen(ring, "db.total_ms")[by_id] < 5000


def test_one_monitor_watches_a_primary_and_its_replica() -> None:
    """What is sent to either is one kind, whose plan can be asked for; stopped, it counts neither."""
    ring, engines = Ring(), [sa.create_engine("sqlite://") for _ in range(2)]
    monitor = StatementMonitor(*engines, ring=ring)
    monitor.start()
    for engine in engines:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    monitor.stop()
    with engines[1].connect() as connection:
        connection.execute(sa.text("SELECT 2"))
    asyncio.run(until(lambda: seen(ring, "db.calls"), monitor.sample))
    assert seen(ring, "db.calls") == {"outside of requests: SELECT ?": 2}
    assert [kind for kind, _ in monitor.most_costly("SELECT")] == ["SELECT ?"]
    for engine in engines:
        engine.dispose()


def test_a_statement_that_fails_is_told_without_its_values(postgres: str) -> None:
    """By its SQLSTATE; a duplicate or unusable value is the request's error, no trouble of the database."""
    ring = Ring()

    async def work() -> None:
        engine = create_async_engine(postgres)
        monitor = StatementMonitor(engine, ring=ring)
        monitor.start()
        for sql in (
            ("SET LOCAL statement_timeout = 20", "SELECT pg_sleep(20)"),
            ("SELECT nothing", "SELECT 1/0"),
        ):
            for one in sql:
                with contextlib.suppress(sa.exc.DBAPIError):
                    async with engine.begin() as connection:
                        await connection.execute(sa.text(sql[0]))
                        await connection.execute(sa.text(one))
        with contextlib.suppress(sa.exc.DBAPIError):
            async with engine.begin() as connection:
                await connection.execute(sa.text("SELECT 1/0"))
        monitor.stop()
        await engine.dispose()

    asyncio.run(work())
    assert seen(ring, "db.error") == {"57014 SELECT pg_sleep(?)": 1, "42703 SELECT nothing": 2}


# -- a look from outside ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def looking(url: str, ring: Ring, statements: StatementMonitor | None = None) -> AsyncIterator[None]:
    """`watch_postgres` at work."""
    task = asyncio.create_task(watch_postgres(sa.make_url(url), ring, statements, every_s=0.05))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_waits_for_a_lock_are_seen_with_who_holds_it(postgres: str) -> None:
    """Two wait for a row: how many, with which statement, how long, and what its holder does meanwhile."""
    ring = Ring()
    change = sa.update(THINGS).where(THINGS.c.id == 1).values(word=SECRET)

    async def work() -> None:
        engine = create_async_engine(postgres)
        await tables(engine, 3)

        async def wait() -> None:
            async with engine.begin() as connection:
                await connection.execute(change)

        async with engine.begin() as holder:
            await holder.execute(change)
            async with looking(postgres, ring):  # no longer: the first who waited holds it next
                waiting = [asyncio.create_task(wait()) for _ in range(2)]
                await until(
                    lambda: any(s.value == 2 for s in ring.page().samples if s.probe == "db.lock_waits")
                )
        await asyncio.gather(*waiting)
        await engine.dispose()

    asyncio.run(work())
    update = "UPDATE things SET word=? WHERE things.id = ?"
    assert set(seen(ring, "db.lock_waits")) == set(seen(ring, "db.lock_wait_ms")) == {update}
    assert set(seen(ring, "db.lock_holder")) == {f"idle in transaction: {update}"}
    assert seen(ring, "db.round_trip_ms")[""] > 0


def test_the_plan_of_a_statement_that_scans_a_large_table(postgres: str) -> None:
    """Once, for whatever values, without any; a small table's is not asked for."""
    ring = Ring()
    query = sa.select(THINGS.c.id).where(THINGS.c.word == SECRET, sa.text("id <> 4711"))

    async def work() -> None:
        engine = create_async_engine(postgres)
        await tables(engine, 2000)
        monitor = StatementMonitor(engine, ring=ring)
        monitor.start()
        async with looking(postgres, ring, monitor), engine.connect() as connection:
            while not seen(ring, "db.plan_cost"):
                await connection.execute(query)
                await connection.rollback()  # in a transaction a session tells no counts
                await asyncio.sleep(0.05)
                monitor.sample()
        monitor.stop()
        await engine.dispose()

    asyncio.run(asyncio.wait_for(work(), 30))
    ((label, cost),) = seen(ring, "db.plan_cost").items()
    statement, _, plan = label.removeprefix("things: ").partition(" -> ")
    assert statement == "SELECT things.id FROM things WHERE things.word = ? AND id <> ?"
    assert plan.startswith("Seq Scan on things, filter ((id <> ?) AND (word = ")
    assert "4711" not in label
    assert cost > 1


# -- the reference server's engine -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["postgresql", "sqlite"])
def test_no_value_is_in_an_error(name: str, postgres: str, tmp_path: Path) -> None:
    """A user's key is among the values of the statement that looks for it: no log may have it."""
    url = async_url(f"sqlite:///{tmp_path}/db") if name == "sqlite" else sa.make_url(postgres)

    async def work() -> str:
        engine = make_engine(url, Settings())
        with pytest.raises(sa.exc.DBAPIError) as raised:
            async with engine.connect() as connection:
                await connection.execute(sa.text("SELECT * FROM no_keys WHERE key = :key"), {"key": SECRET})
        await engine.dispose()
        return str(raised.value)

    words = asyncio.run(work())
    assert "no_keys" in words
    assert SECRET not in words


def test_a_cancelled_statement_is_no_shutdown(postgres: str) -> None:
    """A client hears 504 and what the database did; a lock that was not to be had is 503."""

    async def fault(setting: str, sql: str) -> tuple[int, str] | None:
        engine = make_engine(sa.make_url(postgres), Settings())
        await tables(engine, 1)
        try:
            async with engine.begin() as holder, engine.begin() as connection:
                await holder.execute(sa.text("LOCK TABLE things"))
                await connection.execute(sa.text(f"SET LOCAL {setting} = 20"))
                await connection.execute(sa.text(sql))
        except sa.exc.DBAPIError as error:
            return database_fault(error)
        finally:
            await engine.dispose()
        return None

    slow = asyncio.run(fault("statement_timeout", "SELECT pg_sleep(20)"))
    locked = asyncio.run(fault("lock_timeout", "SELECT * FROM things"))
    assert slow is not None
    assert locked is not None
    assert (slow[0], locked[0]) == (504, 503)
    assert "statement_timeout" in slow[1]
    assert "lock_timeout" in locked[1]


def test_a_slow_network_delays_from_when_it_begins(postgres: str) -> None:
    """Each way and back, as often as the statement asks; before that a round trip is quick."""

    async def trip(url: sa.URL, begin: Callable[[], None]) -> tuple[float, float]:
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            took = []
            for before in (lambda: None, begin):
                await connection.execute(sa.text("SELECT 1"))
                before()
                began = asyncio.get_running_loop().time()
                await connection.execute(sa.text("SELECT 1"))
                took.append(asyncio.get_running_loop().time() - began)
        await engine.dispose()
        return took[0], took[1]

    with slow_network(sa.make_url(postgres), 300) as (url, begin):
        quick, slow = asyncio.run(trip(url, begin))
    assert quick < 0.6 <= slow
