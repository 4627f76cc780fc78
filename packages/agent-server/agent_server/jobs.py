"""Runs of agents and batches of them as rows: created, pending, running, then completed or failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_server.database_troubles import trouble_database
from agent_server.limits import within
from agent_server.model import PRICE_USD
from agent_server.model_calls import answer_tokens
from agent_server.services import Actor, Services, own
from agent_server.tables import jobs, messages, new_id, now
from perfkit_probes import current_request, timed

#: Which states a job may come from: it never goes back, and of the last two only one ever wins.
_BEFORE = {
    "pending": ("created",),
    "running": ("created", "pending"),
    "completed": ("running",),
    "failed": ("created", "pending", "running"),
}
_SEARCH = "conversation_search"


@dataclass
class Run:
    """A run under way: its row, what is asked of whom, and when things happened (monotonic ns)."""

    row: dict[str, Any]
    agent: dict[str, Any]
    question: str
    started_ns: int
    first_token_ns: int | None = None
    ended_ns: int | None = None

    @property
    def id(self) -> str:
        """The id of its row."""
        return str(self.row["id"])

    @property
    def model(self) -> str:
        """The name of the agent's model."""
        return str(self.agent["llm_config"].get("model") or "unknown")


def job_row(actor: Actor, kind: str, agent_id: str | None, **more: Any) -> dict[str, Any]:
    """A new job, `created`."""
    stamp = now()
    row: dict[str, Any] = {"id": new_id(kind), "kind": kind, "status": "created", "agent_id": agent_id}
    row |= {"organization_id": actor.organization_id, "user_id": actor.user_id, "background": False}
    return row | {"created_at": stamp, "updated_at": stamp, **more}


async def create_run(
    services: Services, actor: Actor, agent: dict[str, Any], question: str, **more: Any
) -> Run:
    """Store a run with its user's message, in one transaction. Its time counts from the request's start."""
    row = job_row(actor, "run", agent["id"], **more)
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(jobs).values(row))
        said = message_row(agent["id"], row["id"], "user_message", question)
        await connection.execute(sa.insert(messages).values(said))
    services.registry.add("count_user_message")
    request = current_request()
    return Run(row, agent, question, request.started_ns if request else time.monotonic_ns())


@asynccontextmanager
async def running(services: Services, job_id: str) -> AsyncIterator[None]:
    """Mark a job as running; as failed when the block breaks down, also when its client has gone."""
    try:
        async with services.engine.begin() as connection:
            await change(connection, job_id, "running")
        yield
    except BaseException as error:
        # A task of its own: this one may be cancelled again before the row is written.
        services.see_through(_fail(services, job_id, type(error).__name__))
        raise


async def finish_run(services: Services, run: Run, reply: str) -> dict[str, Any]:
    """Store the reply and close the run, in one transaction; returns the reply's row."""
    row = message_row(run.agent["id"], run.id, "assistant_message", reply)
    closed = {"stop_reason": "end_turn", "usage": usage(run.question, reply), "completed_at": now()}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(messages).values(row))
        await change(connection, run.id, "completed", **closed)
    return row


async def record_times(services: Services, actor: Actor, run: Run) -> None:
    """Write down when the first token was there and when the response had ended, from the run's start.

    Only of a run of the actor's organization. Until then the run says `times_pending`.
    """
    run.ended_ns = time.monotonic_ns()

    async def write() -> None:
        async with services.engine.begin() as connection:
            await connection.execute(sa.update(jobs).where(own(jobs, run.id, actor)).values(**times_of(run)))

    services.see_through(write())  # after the client's last byte: it must not wait for this


def times_of(run: Run) -> dict[str, int | None]:
    """`ttft_ns` and `total_duration_ns` of a run that has ended."""
    first = None if run.first_token_ns is None else run.first_token_ns - run.started_ns
    return {"ttft_ns": first, "total_duration_ns": (run.ended_ns or time.monotonic_ns()) - run.started_ns}


async def _fail(services: Services, job_id: str, error: str) -> None:
    closed = {"stop_reason": "error", "error": error, "completed_at": now()}
    async with services.engine.begin() as connection:
        await change(connection, job_id, "failed", **closed)


async def change(connection: AsyncConnection, job_id: str, status: str, **values: Any) -> bool:
    """Move a job on to a status; False, and nothing is changed, when it may not go there from where it is."""
    allowed = sa.and_(jobs.c.id == job_id, jobs.c.status.in_(_BEFORE[status]))
    values |= {"status": status, "updated_at": now()}
    done = await connection.execute(sa.update(jobs).where(allowed).values(**values))
    return done.rowcount == 1


# -- one step of an agent --------------------------------------------------------------------------


async def tokens(services: Services, run: Run) -> AsyncIterator[str]:
    """The tokens of an agent's answer: one step, with a tool when the question asks for one.

    Whatever trouble an experiment asks for comes first.
    """
    if services.settings.blocking_ms:
        time.sleep(services.settings.blocking_ms / 1000)  # on purpose
    number = services.next_message()
    await services.maybe_leak(number)
    await services.troubles.provoke()
    await trouble_database(services, number)
    began = time.monotonic_ns()
    if "?" in run.question and _SEARCH in [tool["name"] for tool in run.agent["tools"]]:
        await _search(services, run)
    asked, model_ns, count = time.monotonic_ns(), 0, 0
    async with aclosing(answer_tokens(services, run.model, run.question)) as stream:
        while True:
            before = time.monotonic_ns()
            token = await anext(stream, None)
            model_ns += time.monotonic_ns() - before
            if token is None:
                break
            if not count:
                run.first_token_ns = time.monotonic_ns()
                _observe(services, "hist_ttft_ms", "model.ttft_ms", run, run.first_token_ns - asked)
            count += 1
            yield token
    _observe(services, "hist_llm_execution_time_ms", "model.total_ms", run, model_ns)
    model = {"model.name": run.model}
    services.registry.record("hist_message_output_tokens", count, **model)
    services.registry.record("hist_message_cost_usd", count * PRICE_USD)
    services.registry.record("hist_step_execution_time_ms", (time.monotonic_ns() - began) / 1e6)


def _observe(services: Services, metric: str, probe: str, run: Run, ns: int) -> None:
    services.registry.record(metric, ns / 1e6, **{"model.name": run.model})
    if services.ring is not None:
        request = current_request()
        services.ring.add(probe, ns / 1e6, run.model, request.request_id if request else None)


async def _search(services: Services, run: Run) -> None:
    """The simulated agent looks into its conversation, with a tool."""
    began, good = time.monotonic_ns(), False
    try:
        await within(services, "tool", _look_into_messages(services, run))
        good = True
    finally:
        took_ms = (time.monotonic_ns() - began) / 1e6
        services.registry.record("hist_tool_execution_time_ms", took_ms, **{"tool.name": _SEARCH})
        told = {"tool.name": _SEARCH, "tool.execution_success": good, "step.id": None if good else run.id}
        services.registry.add("count_tool_execution", 1, **told)


async def _look_into_messages(services: Services, run: Run) -> None:
    if services.settings.tool_hang_ms:
        with timed("tool"):
            await asyncio.sleep(services.settings.tool_hang_ms / 1000)  # on purpose
    word = max(run.question.split(), key=len).strip("?")
    mine = sa.and_(messages.c.agent_id == run.agent["id"], messages.c.content.contains(word, autoescape=True))
    async with services.engine.connect() as connection:
        await connection.execute(sa.select(messages.c.id).where(mine).limit(10))


async def reply_to(services: Services, run: Run) -> str:
    """The simulated agent's whole answer."""
    return "".join([token async for token in tokens(services, run)])


def usage(question: str, reply: str) -> dict[str, int]:
    """Token counts, one a word."""
    prompt, completion = len(question.split()), len(reply.split())
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, "step_count": 1}


def message_row(agent_id: str, run_id: str, kind: str, content: str) -> dict[str, Any]:
    """A message of a run."""
    stamp = now()
    row = {"id": new_id("message"), "agent_id": agent_id, "run_id": run_id, "message_type": kind}
    return row | {"content": content, "created_at": stamp, "updated_at": stamp}
