"""Rows that are there before the first request, so that an experiment's tables have a realistic size."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_server.model import NAME, USUAL_MODEL
from agent_server.settings import Settings
from agent_server.tables import agents, blocks, blocks_agents, messages, now

_PROMPT = "You are an agent that was here before the first request. " * 8
_SAID = "Every request was written down with the moment it was planned, sent and answered. "


async def prefill(connection: AsyncConnection, settings: Settings, organization_id: str) -> None:
    """Make `prefill_agents` agents with two blocks each, and `prefill_messages` messages spread over them.

    Only in a database without them: several servers that start at once on one database fill it once.
    """
    there = await connection.scalar(
        sa.select(sa.func.count()).where(agents.c.id.startswith("agent-prefill-"))
    )
    if there or not settings.prefill_agents:
        return
    rows = [_agent(number, organization_id) for number in range(settings.prefill_agents)]
    own = [_block(row["id"], label, organization_id) for row in rows for label in ("human", "persona")]
    await connection.execute(sa.insert(agents), rows)
    await connection.execute(sa.insert(blocks), own)
    links = [{"agent_id": block["id"].rpartition("-")[0][6:], "block_id": block["id"]} for block in own]
    await connection.execute(sa.insert(blocks_agents), links)
    if settings.prefill_messages:
        await connection.execute(_messages(settings))
    if connection.dialect.name == "postgresql":  # plans for what is there now, not when autovacuum comes by
        await connection.execute(sa.text("ANALYZE"))


def _agent(number: int, organization_id: str) -> dict[str, Any]:
    model = {"model": "gpt-4o-mini", "handle": "openai-proxy/gpt-4o-mini", "model_endpoint": NAME}
    embedding = {"embedding_model": "text-embedding-3-small", "handle": "openai/text-embedding-3-small"}
    stamp = now()
    return {
        "id": f"agent-prefill-{number}",
        "organization_id": organization_id,
        "name": f"prefill-{number}",
        "agent_type": "letta_v1_agent",
        "system": _PROMPT,
        "llm_config": model | {"context_window": USUAL_MODEL["context_window"]},
        "embedding_config": embedding | {"embedding_dim": USUAL_MODEL["embedding_dim"]},
        "tags": [],
        "metadata": {},
        "created_at": stamp,
        "updated_at": stamp,
    }


def _block(agent_id: str, label: str, organization_id: str) -> dict[str, Any]:
    stamp = now()
    return {
        "id": f"block-{agent_id}-{label}",
        "organization_id": organization_id,
        "label": label,
        "value": _SAID * 3,
        "limit": 20_000,
        "metadata": {},
        "created_at": stamp,
        "updated_at": stamp,
    }


def _messages(settings: Settings) -> sa.Insert:
    """One statement, on any database: 100,000 rows take about 2 s."""
    number = sa.select(sa.literal(0).label("i")).cte("numbers", recursive=True)
    following = sa.select(number.c.i + 1).where(number.c.i < settings.prefill_messages - 1)
    number = number.union_all(following)
    text = sa.cast(number.c.i, sa.String)
    stamp = sa.literal(now(), messages.c.created_at.type)
    agent = sa.literal("agent-prefill-") + sa.cast(number.c.i % settings.prefill_agents, sa.String)
    columns = {
        "id": sa.literal("message-prefill-") + text,
        "agent_id": agent,
        "message_type": sa.literal("user_message"),
        "content": sa.literal(_SAID) + text,
        "created_at": stamp,
        "updated_at": stamp,
    }
    return sa.insert(messages).from_select(
        list(columns), sa.select(*(column.label(name) for name, column in columns.items()))
    )
