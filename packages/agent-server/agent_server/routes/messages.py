"""Messages to agents: plain, streamed, in the background and in batches; and the runs they make."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from agent_server.agent_state import agent_state
from agent_server.bodies import Body, Limit
from agent_server.errors import known_fault, log_error
from agent_server.jobs import (
    Run,
    create_run,
    finish_run,
    job_row,
    record_times,
    reply_to,
    running,
    tokens,
    usage,
)
from agent_server.limits import within
from agent_server.services import Acting, Actor, Services, Serving, all_rows, answer, one_row, own
from agent_server.tables import jobs, messages, new_id, now

router = APIRouter()


class TextPart(BaseModel):
    """A piece of a message's content."""

    type: Literal["text"] = "text"
    text: str


class Message(BaseModel):
    """One message to an agent."""

    role: Literal["user", "system", "assistant"] = "user"
    content: str | list[TextPart]


class MessagesBody(Body):
    """Body of POST messages."""

    messages: list[Message] = Field(min_length=1)
    stream_tokens: bool = False


class BatchItem(BaseModel):
    """One request of a batch."""

    agent_id: str
    messages: list[Message] = Field(min_length=1)


class Batch(Body):
    """Body of POST /messages/batches."""

    requests: list[BatchItem] = Field(min_length=1)


def _question(given: list[Message]) -> str:
    """What the model is asked: the messages' text, one below the other."""
    contents = [message.content for message in given]
    return "\n".join(one if isinstance(one, str) else "".join(part.text for part in one) for one in contents)


@router.post("/agents/{agent_id}/messages")
async def send_message(agent_id: str, body: MessagesBody, services: Serving, actor: Acting) -> Response:
    """Ask an agent and wait for the whole answer."""
    agent = await agent_state(services, agent_id, actor)
    question = _question(body.messages)
    run = await create_run(services, actor, agent, question)
    async with running(services, run.id):
        reply = await reply_to(services, run)
        row = await finish_run(services, run, reply)
    said = {"id": row["id"], "date": row["created_at"], "message_type": "assistant_message", "content": reply}
    stop = {"message_type": "stop_reason", "stop_reason": "end_turn"}
    counts = {"message_type": "usage_statistics", **usage(question, reply), "run_ids": [run.id]}
    response = answer({"messages": [said], "stop_reason": stop, "usage": counts})
    response.background = BackgroundTask(record_times, services, actor, run)  # when the last byte is out
    return response


@router.post("/agents/{agent_id}/messages/stream")
async def stream_message(agent_id: str, body: MessagesBody, services: Serving, actor: Acting) -> Response:
    """Ask an agent and get the answer as server-sent events."""
    agent = await agent_state(services, agent_id, actor)
    run = await create_run(services, actor, agent, _question(body.messages))
    events = _with_error_event(services, _events(services, run, body.stream_tokens), run.id)
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache"},
        background=BackgroundTask(record_times, services, actor, run),
    )


async def _events(services: Services, run: Run, stream_tokens: bool) -> AsyncIterator[bytes]:
    said: list[str] = []
    head = {"message_type": "assistant_message", "id": new_id("message"), "date": now().isoformat()}
    async with running(services, run.id):
        async for token in tokens(services, run):
            said.append(token)
            if stream_tokens:
                yield _event(**head, content=token)
        reply = "".join(said)
        await finish_run(services, run, reply)
    if not stream_tokens:
        run.first_token_ns = time.monotonic_ns()  # the first the client sees of it
        yield _event(**head, content=reply)
    yield _event(message_type="stop_reason", stop_reason="end_turn")
    yield _event(message_type="usage_statistics", **usage(run.question, reply), run_ids=[run.id])
    yield b"data: [DONE]\n\n"


async def _with_error_event(
    services: Services, events: AsyncIterator[bytes], run_id: str
) -> AsyncIterator[bytes]:
    """The status has long been 200 when something breaks; an event says so, as in Letta, and no [DONE]."""
    try:
        while (event := await within(services, "request", anext(events, None))) is not None:
            yield event
    except Exception as error:
        fault = known_fault(services, error)
        trace_id = log_error(f"stream of {run_id}", error) if fault is None else None
        said = {} if fault is None else {"message": fault[1]["detail"]}
        yield _event(message_type="stop_reason", stop_reason="error")
        yield b"event: error\n" + _event(
            message_type="error_message",
            error_type=type(error).__name__,
            run_id=run_id,
            trace_id=trace_id,
            **said,
        )


def _event(**data: Any) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


@router.post("/agents/{agent_id}/messages/async")
async def send_message_later(agent_id: str, body: MessagesBody, services: Serving, actor: Acting) -> Response:
    """Ask an agent in the background; answers the run."""
    agent = await agent_state(services, agent_id, actor)
    run = await create_run(services, actor, agent, _question(body.messages), background=True)
    services.spawn(_carry_out(services, actor, run))
    return answer(_shown(run.row))


async def _carry_out(services: Services, actor: Actor, run: Run) -> None:
    async with running(services, run.id):
        await finish_run(services, run, await reply_to(services, run))
    await record_times(services, actor, run)


@router.get("/agents/{agent_id}/messages")
async def list_messages(agent_id: str, services: Serving, actor: Acting, limit: Limit = 50) -> Response:
    """The agent's messages, oldest first."""
    await agent_state(services, agent_id, actor, may_lag=True)
    query = sa.select(messages).where(messages.c.agent_id == agent_id).order_by(messages.c.created_at)
    async with services.read_engine.connect() as connection:
        return answer(await all_rows(connection, query.limit(limit)))


# -- runs and batches


@router.get("/runs")
async def list_runs(
    services: Serving, actor: Acting, agent_id: str | None = None, limit: Limit = 50
) -> Response:
    """The organization's runs, newest first."""
    query = sa.select(jobs).where(jobs.c.organization_id == actor.organization_id, jobs.c.kind == "run")
    query = query if agent_id is None else query.where(jobs.c.agent_id == agent_id)
    async with services.engine.connect() as connection:
        rows = await all_rows(connection, query.order_by(jobs.c.created_at.desc()).limit(limit))
    return answer([_shown(row) for row in rows])


@router.get("/runs/{run_id}")
async def get_run(run_id: str, services: Serving, actor: Acting) -> Response:
    """One run."""
    return await _job(services, actor, "run", "Run", run_id)


@router.post("/messages/batches")
async def create_batch(body: Batch, services: Serving, actor: Acting) -> Response:
    """Take a batch of messages; the scheduler of the leading instance carries it out."""
    for item in body.requests:
        await agent_state(services, item.agent_id, actor)
    items = [{"agent_id": item.agent_id, "question": _question(item.messages)} for item in body.requests]
    row = job_row(actor, "batch", None, background=True, request={"items": items})
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(jobs).values(row))
    return answer(_shown(row))


@router.get("/messages/batches")
async def list_batches(services: Serving, actor: Acting, limit: Limit = 50) -> Response:
    """The organization's batches, newest first."""
    query = sa.select(jobs).where(jobs.c.organization_id == actor.organization_id, jobs.c.kind == "batch")
    async with services.engine.connect() as connection:
        rows = await all_rows(connection, query.order_by(jobs.c.created_at.desc()).limit(limit))
    return answer([_shown(row) for row in rows])


@router.get("/messages/batches/{batch_id}")
async def get_batch(batch_id: str, services: Serving, actor: Acting) -> Response:
    """One batch."""
    return await _job(services, actor, "batch", "Batch", batch_id)


async def _job(services: Services, actor: Actor, kind: str, words: str, job_id: str) -> Response:
    query = sa.select(jobs).where(own(jobs, job_id, actor), jobs.c.kind == kind)
    async with services.engine.connect() as connection:
        return answer(_shown(await one_row(connection, query, words, job_id)))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    hidden = ("request", "kind", "organization_id", "item")
    told = {key: value for key, value in row.items() if key not in hidden}
    pending = row["kind"] == "run" and row["status"] == "completed" and row.get("total_duration_ns") is None
    return {"job_type": row["kind"], **told, "times_pending": pending}
