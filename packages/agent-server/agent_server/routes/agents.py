"""Agents: create, read, list, change, delete, attach and detach."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from pydantic import Field
from starlette.responses import Response

from agent_server.agent_state import (
    agent_state,
    base_tool_ids,
    embedding_config,
    link,
    llm_config,
    new_agent,
    own_rows,
    read_listed,
    read_state,
    replace_links,
    state,
)
from agent_server.bodies import Body, Limit
from agent_server.routes.blocks import BlockBody, new_block
from agent_server.services import (
    Acting,
    Actor,
    Services,
    Serving,
    all_rows,
    answer,
    as_json,
    json_answer,
    not_found,
    own,
)
from agent_server.tables import agents, blocks, blocks_agents, now, tools, tools_agents

router = APIRouter(prefix="/agents")


class NewAgent(Body):
    """Body of POST /agents."""

    name: str = Field(default="agent", min_length=1)
    description: str | None = None
    agent_type: str = "letta_v1_agent"
    system: str | None = None
    memory_blocks: list[BlockBody] = Field(default_factory=list)
    tool_ids: list[str] = Field(default_factory=list)
    block_ids: list[str] = Field(default_factory=list)
    include_base_tools: bool = True
    model: str | None = None
    embedding: str | None = None
    llm_config: dict[str, Any] | None = None
    embedding_config: dict[str, Any] | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)


class AgentChange(Body):
    """Body of PATCH /agents/{id}; a list that is given replaces the agent's whole list."""

    name: str | None = Field(default=None, min_length=1)
    description: str | None = None
    system: str | None = None
    tool_ids: list[str] | None = None
    block_ids: list[str] | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None


@router.post("")
async def create_agent(body: NewAgent, services: Serving, actor: Acting) -> Response:
    """Make an agent with its memory blocks, tools and shared blocks, in one transaction."""
    values = body.model_dump(include={"name", "description", "agent_type", "system", "tags", "metadata"})
    values["llm_config"] = await llm_config(services, body.model, body.llm_config)
    values["embedding_config"] = await embedding_config(services, body.embedding, body.embedding_config)
    agent = new_agent(values, actor)
    memory = [new_block(block, actor.organization_id) for block in body.memory_blocks]
    reading = services.agent_cache.reading()
    async with services.engine.begin() as connection:
        base = await base_tool_ids(connection, actor) if body.include_base_tools else []
        own_tools = await own_rows(connection, tools, "Tool", [*body.tool_ids, *base], actor)
        shared = await own_rows(connection, blocks, "Block", body.block_ids, actor)
        await connection.execute(sa.insert(agents).values(agent))
        if memory:
            await connection.execute(sa.insert(blocks).values(memory))
        own_blocks = [*memory, *shared]
        await link(connection, tools_agents, agent["id"], [row["id"] for row in own_tools])
        await link(connection, blocks_agents, agent["id"], [row["id"] for row in own_blocks])
    found = state(agent, own_tools, own_blocks)
    services.agent_cache.put(found["id"], found, reading)
    services.agent_added()
    return answer(found)


@router.get("")
async def list_agents(
    services: Serving, actor: Acting, limit: Limit = 50, name: str | None = None
) -> Response:
    """The organization's agents, newest first; from the cache of queries when that is on."""
    key = ("agents", actor.organization_id, limit, name)
    kept: bytes | None = services.query_cache.get(key)
    if kept is not None:
        return json_answer(kept)
    reading = services.query_cache.reading()
    query = sa.select(agents).where(agents.c.organization_id == actor.organization_id)
    query = query if name is None else query.where(agents.c.name == name)
    async with services.read_engine.connect() as connection:
        rows = await all_rows(connection, query.order_by(agents.c.created_at.desc()).limit(limit))
        states = await read_listed(connection, rows, one_by_one=services.settings.one_by_one)
    body = as_json(states)
    services.query_cache.put(key, body, reading)
    return json_answer(body)


@router.get("/count")
async def count_agents(services: Serving, actor: Acting) -> Response:
    """How many agents the organization has."""
    query = sa.select(sa.func.count()).where(agents.c.organization_id == actor.organization_id)
    async with services.read_engine.connect() as connection:
        return answer(await connection.scalar(query))


@router.get("/{agent_id}")
async def get_agent(agent_id: str, services: Serving, actor: Acting) -> Response:
    """One agent's state."""
    return answer(await agent_state(services, agent_id, actor, may_lag=True))


@router.patch("/{agent_id}")
async def change_agent(agent_id: str, body: AgentChange, services: Serving, actor: Acting) -> Response:
    """Change what is given; `tool_ids` and `block_ids` replace the whole list."""
    given = body.model_dump(exclude_unset=True)
    links = {name: given.pop(name) for name in ("tool_ids", "block_ids") if given.get(name) is not None}
    # an explicit null changes nothing, but a description may be taken away
    changes = {key: value for key, value in given.items() if value is not None or key == "description"}
    async with services.engine.begin() as connection:
        await _lock(connection, agent_id, actor)
        if "tool_ids" in links:
            await own_rows(connection, tools, "Tool", links["tool_ids"], actor)
            await replace_links(connection, tools_agents, agent_id, links["tool_ids"])
        if "block_ids" in links:
            await own_rows(connection, blocks, "Block", links["block_ids"], actor)
            await replace_links(connection, blocks_agents, agent_id, links["block_ids"])
        await connection.execute(
            sa.update(agents).where(agents.c.id == agent_id).values(changes | {"updated_at": now()})
        )
        found = await read_state(connection, agent_id, actor)
    services.agent_changed(agent_id)
    return answer(found)


@router.delete("/{agent_id}")
async def delete_agent(agent_id: str, services: Serving, actor: Acting) -> Response:
    """Delete an agent with its messages and passages."""
    async with services.engine.begin() as connection:
        done = await connection.execute(sa.delete(agents).where(own(agents, agent_id, actor)))
    services.agent_changed(agent_id)
    if not done.rowcount:
        raise not_found("Agent", agent_id)
    return answer({"message": f"Agent id={agent_id} successfully deleted"})


@router.patch("/{agent_id}/tools/{change}/{tool_id}")
async def attach_tool(agent_id: str, change: str, tool_id: str, services: Serving, actor: Acting) -> Response:
    """Attach or detach one tool."""
    return await _attach(services, actor, agent_id, change, tools_agents, tools, "Tool", tool_id)


@router.patch("/{agent_id}/core-memory/blocks/{change}/{block_id}")
async def attach_block(
    agent_id: str, change: str, block_id: str, services: Serving, actor: Acting
) -> Response:
    """Attach or detach one block."""
    return await _attach(services, actor, agent_id, change, blocks_agents, blocks, "Block", block_id)


async def _attach(
    services: Services,
    actor: Actor,
    agent_id: str,
    change: str,
    links: sa.Table,
    table: sa.Table,
    kind: str,
    one: str,
) -> Response:
    if change not in ("attach", "detach"):
        raise HTTPException(404, "Not Found")
    async with services.engine.begin() as connection:
        await _lock(connection, agent_id, actor)
        await own_rows(connection, table, kind, [one], actor)
        if change == "attach":
            await link(connection, links, agent_id, [one])
        else:
            condition = sa.and_(links.c.agent_id == agent_id, links.c[1] == one)
            await connection.execute(sa.delete(links).where(condition))
        found = await read_state(connection, agent_id, actor)
    services.agent_changed(agent_id)
    return answer(found)


async def _lock(connection: Any, agent_id: str, actor: Actor) -> None:
    """Hold the agent's row, so that two changes of one agent come one after the other."""
    query = sa.select(agents.c.id).where(own(agents, agent_id, actor)).with_for_update()
    if await connection.scalar(query) is None:
        raise not_found("Agent", agent_id)
