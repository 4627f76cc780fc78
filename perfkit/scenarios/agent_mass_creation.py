"""Many agents created at once for several users, each agent with tools, shared blocks and its own memory.

Setup makes the users, the tools and each user's blocks. One step creates one agent: POST `/v1/agents/` with
tool_ids, block_ids, memory blocks, a model and an embedding. The users take turns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.model import Count, CountOrZero
from perfkit.scenarios._agents import (
    AgentParams,
    create_agent,
    create_blocks,
    create_tools,
    sign_up,
    unique,
)


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    users: Count = 7
    agents_per_user: Count = 100
    blocks_per_user: CountOrZero = 10
    tools: CountOrZero = 2
    workers: Count = 20
    include_base_tools: bool = True


@dataclass(frozen=True)
class Account:
    name: str  #: the group of its requests
    headers: dict[str, str]
    block_ids: list[str]
    tool_ids: list[str]


@dataclass(frozen=True)
class State:
    params: Params
    accounts: list[Account]
    tag: str


def load(params: Params) -> dict[str, Any]:
    return {"users": {"count": params.workers, "iterations": params.users * params.agents_per_user}}


async def setup(session: Session, params: Params) -> State:
    accounts: list[Account] = []
    tools: list[str] = []
    for user in range(params.users):
        session.headers, session.group = {}, f"user {user}"
        session.headers = await sign_up(session, params, unique(session, f"user-{user}"))
        tools = tools or await create_tools(session, params, params.tools)
        blocks = await create_blocks(session, params, params.blocks_per_user, f"block-{user}")
        accounts.append(Account(session.group, dict(session.headers), blocks, tools))
    return State(params, accounts, unique(session, "agent"))


async def step(session: Session, state: State, rng: random.Random) -> None:
    account = state.accounts[session.iteration % len(state.accounts)]
    session.headers, session.group = account.headers, account.name
    await create_agent(
        session,
        state.params,
        f"{state.tag}-{session.iteration}",
        tool_ids=account.tool_ids,
        block_ids=account.block_ids,
        include_base_tools=state.params.include_base_tools,
    )
