"""Agents as rows and as Letta's AgentState: everything here runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from fastapi import HTTPException
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent_server.cache import Cache
from agent_server.model import MAX_DIMENSIONS, NAME, USUAL_MODEL
from agent_server.services import Actor, Services, all_rows, not_found, one_row, own
from agent_server.tables import INSERT, agents, blocks, blocks_agents, new_id, now, tools, tools_agents
from perfkit_probes import timed

_SYSTEM = "You are an agent of perfkit's reference server. Your model is simulated."
#: Fields of Letta's AgentState for what this server does not have.
_NOT_SIMULATED: dict[str, Any] = {
    **{key: [] for key in ("sources", "tool_rules", "message_ids", "identity_ids", "identities", "secrets")},
    **dict.fromkeys(("project_id", "template_id", "base_template_id", "deployment_id", "entity_id")),
    **dict.fromkeys(("response_format", "multi_agent_group", "managed_group", "hidden", "last_stop_reason")),
    **dict.fromkeys(("last_run_completion", "last_run_duration_ms", "max_files_open")),
    **{"tool_exec_environment_variables": [], "per_file_view_window_char_limit": None},
    **{"message_buffer_autoclear": False, "enable_sleeptime": False, "timezone": "UTC"},
}
_BASE_TOOLS = ("conversation_search", "memory_insert", "memory_replace")


async def llm_config(services: Services, handle: str | None, given: dict[str, Any] | None) -> dict[str, Any]:
    """The model's configuration; 400 when neither a handle nor a configuration is given."""
    if handle is None and given is None:
        raise HTTPException(400, "Must specify either model or llm_config in request")
    name = (handle or "").rpartition("/")[2]
    told = await _look_up(services, services.llm_configs, handle)
    default = {"model": name, "handle": handle, "model_endpoint_type": NAME}
    return {**default, "context_window": told["context_window"], **(given or {}), "model_endpoint": NAME}


async def embedding_config(
    services: Services, handle: str | None, given: dict[str, Any] | None
) -> dict[str, Any]:
    """The embedding's configuration; 400 when it is missing or has an unusable number of dimensions."""
    if handle is None and given is None:
        raise HTTPException(400, "Must specify either embedding or embedding_config in request")
    name = (handle or "").rpartition("/")[2]
    told = await _look_up(services, services.embedding_configs, handle)
    default: dict[str, Any] = {"embedding_model": name, "handle": handle, "embedding_chunk_size": 300}
    config = {
        **default,
        "embedding_dim": told["embedding_dim"],
        **(given or {}),
        "embedding_endpoint_type": NAME,
    }
    dimensions = config["embedding_dim"]
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise HTTPException(400, f"embedding_dim must be a number from 1 to {MAX_DIMENSIONS}")
    return config


async def _look_up(services: Services, cache: Cache, handle: str | None) -> dict[str, int]:
    """What a model's provider says of it, no older than the cache keeps it; without a name, the usual."""
    if handle is None:
        return USUAL_MODEL
    kept: dict[str, int] | None = cache.get(handle)
    if kept is not None:
        return kept
    reading = cache.reading()
    with timed("model"):
        told = await services.model.look_up(handle)
    cache.put(handle, told, reading)
    return told


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


async def read_state(connection: AsyncConnection, agent_id: str, actor: Actor) -> dict[str, Any]:
    """An agent's state from its rows, or 404."""
    row = await one_row(connection, sa.select(agents).where(own(agents, agent_id, actor)), "Agent", agent_id)
    (found,) = await read_states(connection, [row])
    return found


async def read_listed(
    connection: AsyncConnection, rows: list[dict[str, Any]], *, one_by_one: bool
) -> list[dict[str, Any]]:
    """The states of a list's agents; `one_by_one` asks for each agent by itself: N+1, an experiment."""
    if not one_by_one:
        return await read_states(connection, rows)
    return [state for row in rows for state in await read_states(connection, [row])]


async def read_states(connection: AsyncConnection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The states of agents whose rows are given: two queries, however many there are."""
    ids = [row["id"] for row in rows]
    own_tools = await _linked(connection, tools, tools_agents, ids)
    own_blocks = await _linked(connection, blocks, blocks_agents, ids)
    return [state(row, own_tools.get(row["id"], []), own_blocks.get(row["id"], [])) for row in rows]


async def _linked(
    connection: AsyncConnection, table: sa.Table, links: sa.Table, agent_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The tools or blocks of agents, by agent, oldest first."""
    query = sa.select(table, links.c.agent_id).join(links).where(links.c.agent_id.in_(agent_ids))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await all_rows(connection, query.order_by(table.c.created_at, table.c.id)):
        found.setdefault(row.pop("agent_id"), []).append(row)
    return found


def state(
    agent: dict[str, Any], own_tools: list[dict[str, Any]], own_blocks: list[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON of an agent, as Letta's AgentState."""
    memory = {"agent_type": agent["agent_type"], "blocks": own_blocks}
    return {
        **agent,
        **_NOT_SIMULATED,
        "last_updated_by_id": agent["created_by_id"],
        "model": agent["llm_config"].get("handle"),
        "embedding": agent["embedding_config"].get("handle"),
        "memory": {**memory, "file_blocks": [], "prompt_template": ""},
        "blocks": own_blocks,
        "tools": own_tools,
    }


async def agent_state(
    services: Services, agent_id: str, actor: Actor, *, may_lag: bool = False
) -> dict[str, Any]:
    """An agent's state, from the cache when that is on; `may_lag`: a replica will do."""
    cached: dict[str, Any] | None = services.agent_cache.get(agent_id)
    if cached is not None and cached["organization_id"] == actor.organization_id:
        return cached
    reading = services.agent_cache.reading()
    engine = services.read_engine if may_lag else services.engine
    try:
        found = await _read_from(engine, agent_id, actor)
    except HTTPException:
        if engine is services.engine:
            raise
        found = await _read_from(services.engine, agent_id, actor)  # made a moment ago, perhaps
    services.agent_cache.put(agent_id, found, reading)
    return found


async def _read_from(engine: AsyncEngine, agent_id: str, actor: Actor) -> dict[str, Any]:
    async with engine.connect() as connection:
        return await read_state(connection, agent_id, actor)


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
