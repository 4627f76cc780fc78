"""Runs of agents and batches of them as rows: created, running, then completed or failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from perfkit.server.services import Actor, Services
from perfkit.server.tables import jobs, messages, new_id, now

_OPEN = ("created", "running")


async def create_job(
    services: Services, actor: Actor, kind: str, agent_id: str | None, question: str = "", **more: Any
) -> dict[str, Any]:
    """Store a run or a batch, a run with its user's message, in one transaction; returns the job's row."""
    stamp = now()
    row: dict[str, Any] = {"id": new_id(kind), "kind": kind, "status": "created", "agent_id": agent_id}
    row |= {"organization_id": actor.organization_id, "user_id": actor.user_id, "background": False}
    row |= {"created_at": stamp, "updated_at": stamp, **more}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(jobs).values(row))
        if agent_id is not None:
            said = _message(agent_id, row["id"], "user_message", question)
            await connection.execute(sa.insert(messages).values(said))
    return row


@asynccontextmanager
async def running(services: Services, job_id: str) -> AsyncIterator[None]:
    """Mark a job as running; as failed when the block breaks down, also when its client has gone."""
    try:
        async with services.engine.begin() as connection:
            await _change(connection, job_id, status="running")
        yield
    except BaseException as error:
        # A task of its own: this one may be cancelled again before the row is written.
        services.see_through(_fail(services, job_id, type(error).__name__))
        raise


async def finish_run(services: Services, run: dict[str, Any], question: str, reply: str) -> dict[str, Any]:
    """Store the reply and close the run, in one transaction; returns the reply's row."""
    row = _message(run["agent_id"], run["id"], "assistant_message", reply)
    closed = {"status": "completed", "stop_reason": "end_turn", "usage": usage(question, reply)}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(messages).values(row))
        await _change(connection, run["id"], **closed, completed_at=now())
    return row


async def finish_batch(services: Services, batch_id: str) -> None:
    """Close a batch whose runs have all ended well."""
    async with services.engine.begin() as connection:
        await _change(connection, batch_id, status="completed", completed_at=now())


async def _fail(services: Services, job_id: str, error: str) -> None:
    closed = {"status": "failed", "stop_reason": "error", "error": error}
    async with services.engine.begin() as connection:
        await _change(connection, job_id, **closed, completed_at=now())


async def tokens(services: Services, question: str) -> AsyncIterator[str]:
    """The simulated model's tokens; blocks the event loop first when an experiment asks for it."""
    if services.settings.blocking_ms:
        time.sleep(services.settings.blocking_ms / 1000)  # on purpose
    async for token in services.model.stream(question):
        yield token


async def reply_to(services: Services, question: str) -> str:
    """The simulated model's whole answer."""
    return "".join([token async for token in tokens(services, question)])


def usage(question: str, reply: str) -> dict[str, int]:
    """Token counts, one a word."""
    prompt, completion = len(question.split()), len(reply.split())
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, "step_count": 1}


def _message(agent_id: str, run_id: str, kind: str, content: str) -> dict[str, Any]:
    stamp = now()
    row = {"id": new_id("message"), "agent_id": agent_id, "run_id": run_id, "message_type": kind}
    return row | {"content": content, "created_at": stamp, "updated_at": stamp}


async def _change(connection: AsyncConnection, job_id: str, **values: Any) -> None:
    """Change a job that has not ended: what is completed never becomes failed, and the other way round."""
    open_job = sa.and_(jobs.c.id == job_id, jobs.c.status.in_(_OPEN))
    await connection.execute(sa.update(jobs).where(open_job).values(**values, updated_at=now()))
