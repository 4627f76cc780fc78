"""Many updates on few agents, in random order: PATCH `/v1/agents/{id}` with `tool_ids` or with `block_ids`.

Setup makes the tools, the agents and blocks for each agent. Each agent gets the same number of updates, half
of them of each kind; the order is drawn from the workload's seed. The two kinds are two operations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.model import Count
from perfkit.scenarios._agents import (
    AgentParams,
    create_agent,
    create_blocks,
    create_tools,
    sign_up,
    unique,
)

MOST_UPDATES = 1_000_000  # their order is drawn before the first


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    agents: Count = 5
    updates_per_agent: Count = 100
    blocks_per_agent: Count = 10
    tools: Count = 3
    workers: Count = 50

    def __post_init__(self) -> None:
        if self.agents * self.updates_per_agent > MOST_UPDATES:
            raise ValueError(f"agents times updates_per_agent is at most {MOST_UPDATES:,}")


@dataclass(frozen=True)
class State:
    headers: dict[str, str]
    tool_ids: list[str]
    agents: list[tuple[str, list[str]]]  #: agent id and the blocks made for it
    order: list[tuple[int, str]]  #: agent and kind of each update


def load(params: Params) -> dict[str, Any]:
    return {"users": {"count": params.workers, "iterations": params.agents * params.updates_per_agent}}


async def setup(session: Session, params: Params) -> State:
    session.headers = await sign_up(session, params, unique(session, "user"))
    tools = await create_tools(session, params, params.tools)
    agents = []
    for i in range(params.agents):
        blocks = await create_blocks(session, params, params.blocks_per_agent, f"update-{i}")
        agent = await create_agent(session, params, unique(session, f"update-{i}"), tool_ids=tools)
        agents.append((agent, blocks))
    kinds = ("tool_ids", "block_ids")
    order = [(i, kinds[k % 2]) for i in range(params.agents) for k in range(params.updates_per_agent)]
    random.Random(session.seed).shuffle(order)
    return State(dict(session.headers), tools, agents, order)


async def step(session: Session, state: State, rng: random.Random) -> None:
    agent, kind = state.order[session.iteration % len(state.order)]
    agent_id, blocks = state.agents[agent]
    ids = state.tool_ids if kind == "tool_ids" else blocks
    chosen = rng.sample(ids, rng.randint(1, len(ids)))
    session.headers = state.headers
    name = f"update_agent_{kind.removesuffix('_ids')}s"
    await session.patch(f"/v1/agents/{agent_id}", json={kind: chosen}, name=name)
