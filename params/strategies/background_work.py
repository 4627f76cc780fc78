"""Agents are read while a batch of many messages is carried out in the background.

Setup makes the agents and posts the batch, which takes longer than the run. One step reads one of the agents.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.model import Count
from perfkit.scenarios._agents import AgentParams, create_agent, message, ok, sign_up, unique


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    agents: Count = 4
    batch_items: Count = 3000


@dataclass(frozen=True)
class State:
    headers: dict[str, str]
    agent_ids: list[str]


async def setup(session: Session, params: Params) -> State:
    session.headers = await sign_up(session, params, unique(session, "user"))
    names = [unique(session, f"batch-{i}") for i in range(params.agents)]
    agents = [await create_agent(session, params, name, include_base_tools=False) for name in names]
    items: list[dict[str, Any]] = [
        {"agent_id": agents[i % len(agents)], **message(f"Tell me about item {i}.")}
        for i in range(params.batch_items)
    ]
    await ok(session.post("/v1/messages/batches", json={"requests": items}, name="create_batch"))
    return State(dict(session.headers), agents)


async def step(session: Session, state: State, rng: random.Random) -> None:
    agent_id = state.agent_ids[session.iteration % len(state.agent_ids)]
    session.headers = state.headers
    await session.get(f"/v1/agents/{agent_id}", name="get_agent")
