"""Runs of agents and batches of them as rows: created, running, then completed or failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa

from perfkit.server.services import Actor, Services
from perfkit.server.tables import jobs, messages, new_id, now


async def start_run(
    services: Services, actor: Actor, agent_id: str, question: str, *, background: bool = False
) -> dict[str, Any]:
    """Store the user's message and a run for it, in one transaction; returns the run's row."""
    stamp = now()
    row: dict[str, Any] = {
        "id": new_id("run"),
        "organization_id": actor.organization_id,
        "user_id": actor.user_id,
        "agent_id": agent_id,
        "kind": "run",
        "status": "created" if background else "running",
        "background": background,
        "created_at": stamp,
        "updated_at": stamp,
    }
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(jobs).values(row))
        await connection.execute(
            sa.insert(messages).values(_message(agent_id, row["id"], "user_message", question))
        )
    return row


async def finish_run(services: Services, run: dict[str, Any], question: str, reply: str) -> dict[str, Any]:
    """Store the reply and close the run, in one transaction; returns the reply's row."""
    row = _message(run["agent_id"], run["id"], "assistant_message", reply)
    closed = {"status": "completed", "stop_reason": "end_turn", "usage": usage(question, reply)}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(messages).values(row))
        await _change(connection, run["id"], **closed, completed_at=now())
    return row


async def fail_run(services: Services, run_id: str, error: str) -> None:
    """Close a run that broke down."""
    async with services.engine.begin() as connection:
        await _change(
            connection, run_id, status="failed", stop_reason="error", error=error, completed_at=now()
        )


async def set_running(services: Services, job_id: str) -> None:
    """Mark a job as taken up."""
    async with services.engine.begin() as connection:
        await _change(connection, job_id, status="running")


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


async def _change(connection: Any, job_id: str, **values: Any) -> None:
    await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values, updated_at=now()))
