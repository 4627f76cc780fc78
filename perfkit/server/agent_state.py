"""Agents as rows and as Letta's AgentState: everything here runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from fastapi import HTTPException
from sqlalchemy.ext.asyncio import AsyncConnection

from perfkit.server.model import MAX_DIMENSIONS, NAME
from perfkit.server.services import Actor, Services, all_rows, not_found, own
from perfkit.server.tables import INSERT, agents, blocks, blocks_agents, new_id, now, tools, tools_agents

_SYSTEM = "You are an agent of perfkit's reference server. Your model is simulated."
_BASE_TOOLS = ("conversation_search", "memory_insert", "memory_replace")


def llm_config(handle: str | None, given: dict[str, Any] | None) -> dict[str, Any]:
    """The model's configuration; 400 when neither a handle nor a configuration is given."""
    if handle is None and given is None:
        raise HTTPException(400, "Must specify either model or llm_config in request")
    name = (handle or "").rpartition("/")[2]
    default = {"model": name, "handle": handle, "model_endpoint_type": NAME, "context_window": 128_000}
    return {**default, **(given or {}), "model_endpoint": NAME}


def embedding_config(handle: str | None, given: dict[str, Any] | None) -> dict[str, Any]:
    """The embedding's configuration; 400 when it is missing or has an unusable number of dimensions."""
    if handle is None and given is None:
        raise HTTPException(400, "Must specify either embedding or embedding_config in request")
    name = (handle or "").rpartition("/")[2]
    default = {"embedding_model": name, "handle": handle, "embedding_dim": 1536, "embedding_chunk_size": 300}
    config = {**default, **(given or {}), "embedding_endpoint_type": NAME}
    dimensions = config["embedding_dim"]
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise HTTPException(400, f"embedding_dim must be a number from 1 to {MAX_DIMENSIONS}")
    return config


async def base_tool_ids(connection: AsyncConnection, actor: Actor) -> list[str]:
    """The ids of the organization's base tools, made when they are asked for first."""
    wanted = sa.and_(tools.c.organization_id == actor.organization_id, tools.c.name.in_(_BASE_TOOLS))
    there = await all_rows(connection, sa.select(tools.c.id, tools.c.name).where(wanted))
    missing = [name for name in _BASE_TOOLS if name not in {row["name"] for row in there}]
    if not missing:
        return [row["id"] for row in there]
    rows = [_base_tool(name, actor) for name in missing]
    insert: Any = INSERT[connection.dialect.name]
    await connection.execute(insert(tools).values(rows).on_conflict_do_nothing())
    return [row["id"] for row in await all_rows(connection, sa.select(tools.c.id).where(wanted))]


def _base_tool(name: str, actor: Actor) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return {
        "id": new_id("tool"),
        "organization_id": actor.organization_id,
        "name": name,
        "description": name.replace("_", " "),
        "source_code": f"def {name}(text: str) -> str: ...",
        "json_schema": {"name": name, "description": name.replace("_", " "), "parameters": parameters},
        "tool_type": "letta_core",
    }


async def own_rows(
    connection: AsyncConnection, table: sa.Table, kind: str, ids: Sequence[str], actor: Actor
) -> list[dict[str, Any]]:
    """The rows with these ids, or 404 for the first one that is not the organization's."""
    if not ids:
        return []
    query = sa.select(table).where(table.c.id.in_(ids), table.c.organization_id == actor.organization_id)
    found = {row["id"]: row for row in await all_rows(connection, query)}
    for one in ids:
        if one not in found:
            raise not_found(kind, one)
    return [found[one] for one in dict.fromkeys(ids)]


async def link(connection: AsyncConnection, table: sa.Table, agent_id: str, ids: Sequence[str]) -> None:
    """Attach tools or blocks; what is attached already stays."""
    key = table.c[1].name
    rows = [{"agent_id": agent_id, key: one} for one in dict.fromkeys(ids)]
    if rows:
        insert: Any = INSERT[connection.dialect.name]
        await connection.execute(insert(table).values(rows).on_conflict_do_nothing())


async def replace_links(
    connection: AsyncConnection, table: sa.Table, agent_id: str, ids: Sequence[str]
) -> None:
    """Attach exactly these tools or blocks."""
    await connection.execute(sa.delete(table).where(table.c.agent_id == agent_id))
    await link(connection, table, agent_id, ids)


async def read_state(
    connection: AsyncConnection, agent_id: str, actor: Actor, *, lock: bool = False
) -> dict[str, Any]:
    """An agent's state from its rows; `lock` holds the agent's row until the transaction ends."""
    query = sa.select(agents).where(own(agents, agent_id, actor))
    query = query.with_for_update() if lock else query
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise not_found("Agent", agent_id)
    own_tools = await all_rows(
        connection, sa.select(tools).join(tools_agents).where(tools_agents.c.agent_id == agent_id)
    )
    own_blocks = await all_rows(
        connection, sa.select(blocks).join(blocks_agents).where(blocks_agents.c.agent_id == agent_id)
    )
    return state(dict(row), own_tools, own_blocks)


def state(
    agent: dict[str, Any], own_tools: list[dict[str, Any]], own_blocks: list[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON of an agent, as Letta's AgentState."""
    memory = {
        "agent_type": agent["agent_type"],
        "blocks": own_blocks,
        "file_blocks": [],
        "prompt_template": "",
    }
    return {
        **agent,
        "last_updated_by_id": agent["created_by_id"],
        "memory": memory,
        "blocks": own_blocks,
        "tools": own_tools,
        "sources": [],
        "tool_rules": [],
        "message_ids": [],
        "tool_exec_environment_variables": [],
        "identity_ids": [],
        "project_id": None,
        "template_id": None,
        "response_format": None,
        "message_buffer_autoclear": False,
        "enable_sleeptime": False,
        "multi_agent_group": None,
        "timezone": "UTC",
    }


async def agent_state(services: Services, agent_id: str, actor: Actor) -> dict[str, Any]:
    """An agent's state, from the cache when that is on."""
    cached = services.agent_states.get(agent_id)
    if cached is not None and cached["organization_id"] == actor.organization_id:
        return cached
    async with services.engine.connect() as connection:
        found = await read_state(connection, agent_id, actor)
    remember(services, found)
    return found


def remember(services: Services, found: dict[str, Any]) -> None:
    """Keep a state in the cache, when that is on."""
    if services.settings.agent_cache:
        services.agent_states[found["id"]] = found


def new_agent(values: dict[str, Any], actor: Actor) -> dict[str, Any]:
    """The row of a new agent."""
    stamp = now()
    return {
        "id": new_id("agent"),
        "organization_id": actor.organization_id,
        "created_by_id": actor.user_id,
        **values,
        "system": values["system"] or _SYSTEM,
        "created_at": stamp,
        "updated_at": stamp,
    }
