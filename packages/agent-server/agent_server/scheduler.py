"""The scheduler: the leading instance works off batches, each item exactly once.

APScheduler ticks; each tick takes the open batches in turn. An item's model call comes first, then one fenced
transaction stores its run and its messages: its effects are there once or not at all, whoever was leading. A
leader that loses its place in the middle leaves the item as if it had never begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import asyncpg
import sqlalchemy as sa
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from fastapi import HTTPException

from agent_server.agent_state import read_state
from agent_server.jobs import Run, change, job_row, message_row, reply_to, times_of, usage
from agent_server.limits import LimitReached
from agent_server.model import ModelUnavailable
from agent_server.services import Actor, Services, all_rows
from agent_server.tables import jobs, leaderships, messages, now
from perfkit_probes import Fenced, Leader, fenced

logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick that is skipped is no news
_log = logging.getLogger("agent_server")
_NAME = "scheduler"
_AT_ONCE = 100  # batches a tick reads: they hold their items


class Scheduler:
    """Ticks while this process leads; on PostgreSQL one of all processes does, on SQLite this one alone."""

    def __init__(self, services: Services, instance: str) -> None:
        self._services, self._settings = services, services.settings
        self._ticks: AsyncIOScheduler | None = None
        self._epoch = 0
        self._leader: Leader | None = None
        self._at_work: asyncio.Task[Any] | None = None
        url = services.engine.url
        if url.get_backend_name() == "postgresql":
            given, options = services.engine.dialect.create_connect_args(url)
            self._leader = Leader(
                lambda: asyncpg.connect(*given, **options),
                instance,
                name=_NAME,
                retry_s=self._settings.scheduler_retry_s,
                check_s=self._settings.scheduler_check_s,
                lease_s=self._settings.scheduler_lease_s,
                gained=self._gained,
                lost=self._lost,
                ring=services.ring,
            )

    async def start(self) -> None:
        """Begin to try to lead."""
        if self._leader is not None:
            self._leader.start()
            return
        async with self._services.engine.begin() as connection:
            epoch = await connection.scalar(sa.select(leaderships.c.epoch).where(leaderships.c.name == _NAME))
            values = {"name": _NAME, "epoch": (epoch or 0) + 1, "leader": "alone"}
            await connection.execute(sa.delete(leaderships).where(leaderships.c.name == _NAME))
            await connection.execute(sa.insert(leaderships).values(values))
        self._gained((epoch or 0) + 1)

    async def stop(self) -> None:
        """Stop the ticks, and let another process lead."""
        self._lost()
        if self._at_work is not None:  # it must have let go of its connection before the pool is closed
            await asyncio.wait([self._at_work], timeout=5)
        if self._leader is not None:
            await self._leader.stop()

    def _gained(self, epoch: int) -> None:
        self._epoch = epoch
        self._ticks = AsyncIOScheduler(event_loop=asyncio.get_running_loop(), timezone="UTC")
        self._ticks.add_job(
            self._tick,
            "interval",
            seconds=self._settings.scheduler_poll_s,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._ticks.start()

    def _lost(self) -> None:
        """At once: a tick under way is cancelled."""
        if self._ticks is not None:
            self._ticks.shutdown(wait=False)
            self._ticks = None

    def _leads(self) -> bool:
        return self._ticks is not None and (self._leader is None or self._leader.leads)

    async def _tick(self) -> None:
        began, done = time.monotonic_ns(), 0
        self._at_work = asyncio.current_task()
        try:
            for batch in await self._open_batches():
                done += await self._work_off(batch)
        except Fenced as error:
            _log.warning("a tick was refused: %s", error)
        except asyncio.CancelledError:
            pass  # leadership is lost; nobody awaits a tick
        except sa.exc.TimeoutError:
            pass  # the pool's monitor says so; the next tick is not far
        except (OSError, sa.exc.SQLAlchemyError) as error:
            _log.warning("a tick broke down: %s", (str(error).splitlines() or [type(error).__name__])[0])
        finally:
            if self._at_work is asyncio.current_task():
                self._at_work = None
        if self._services.ring is not None:
            ms = (time.monotonic_ns() - began) / 1e6
            self._services.ring.add("job.tick_ms", ms, f"poll_batches done={done}")

    async def _open_batches(self) -> list[dict[str, Any]]:
        is_open = sa.and_(jobs.c.kind == "batch", jobs.c.status.in_(("created", "running")))
        # literals, so that PostgreSQL may use the index of open batches
        query = sa.select(jobs).where(sa.text("kind = 'batch' AND status IN ('created', 'running')"), is_open)
        async with self._services.engine.connect() as connection:
            return await all_rows(connection, query.order_by(jobs.c.created_at).limit(_AT_ONCE))

    async def _work_off(self, batch: dict[str, Any]) -> int:
        """Carry out a batch's items that have no run yet; returns how many."""
        items = batch["request"]["items"]
        async with self._fenced() as connection:
            await change(connection, batch["id"], "running")
            there = sa.select(jobs.c.item).where(jobs.c.batch_id == batch["id"])
            done = set((await connection.scalars(there)).all())
        for number, item in enumerate(items):
            if number not in done:
                if not self._leads():
                    raise Fenced("not leading any more")
                try:
                    await self._carry_out(batch, number, item)
                except HTTPException as error:  # its agent is gone
                    return await self._close(batch, "failed", number, error=error.detail)
                except (LimitReached, ModelUnavailable) as error:
                    return await self._close(batch, "failed", number, error=str(error))
        return await self._close(batch, "completed", len(items) - len(done))

    async def _close(self, batch: dict[str, Any], status: str, done: int, **values: Any) -> int:
        async with self._fenced() as connection:
            await change(connection, batch["id"], status, completed_at=now(), **values)
        return done

    async def _carry_out(self, batch: dict[str, Any], number: int, item: dict[str, str]) -> None:
        actor = Actor(batch["user_id"], batch["organization_id"])
        link = {
            "background": True,
            "batch_id": batch["id"],
            "item": number,
            "request": {"epoch": self._epoch},
        }
        row = job_row(actor, "run", item["agent_id"], **link)
        async with self._services.engine.connect() as connection:
            agent = await read_state(connection, item["agent_id"], actor)
        run = Run(row, agent, item["question"], time.monotonic_ns())
        self._services.registry.add("count_user_message")
        reply = await reply_to(self._services, run)
        closed = {"status": "completed", "stop_reason": "end_turn", "completed_at": now()}
        closed["usage"] = usage(run.question, reply)
        said = [("user_message", run.question), ("assistant_message", reply)]
        async with self._fenced() as connection:
            await connection.execute(sa.insert(jobs).values(row | closed | times_of(run)))
            rows = [message_row(agent["id"], run.id, kind, content) for kind, content in said]
            await connection.execute(sa.insert(messages).values(rows))

    def _fenced(self) -> Any:
        return fenced(self._services.engine, _NAME, self._epoch, self._settings.scheduler_lease_s)
