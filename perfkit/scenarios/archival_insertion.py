"""One burst of insertions into the archival memory of many agents at once.

Setup makes the agents. There are as many virtual users, and all start together: POST
`/v1/agents/{id}/archival-memory` with a paragraph of text, which the server embeds and stores.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from perfkit.drive.session import Session
from perfkit.model import Count
from perfkit.scenarios._agents import PARAGRAPH, AgentParams, create_agent, remove_later, sign_up, unique


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    agents: Count = 30
    inserts_per_agent: Count = 1


@dataclass(frozen=True)
class State:
    params: Params
    headers: dict[str, str]
    agent_ids: list[str]
    archives: set[str] = field(default_factory=set)  #: that are removed already when the run is over


def load(params: Params) -> dict[str, Any]:
    return {"users": {"count": params.agents, "iterations": params.agents * params.inserts_per_agent}}


async def setup(session: Session, params: Params) -> State:
    session.headers = await sign_up(session, params, unique(session, "user"))
    names = [unique(session, f"archive-{i}") for i in range(params.agents)]
    agents = [await create_agent(session, params, name, include_base_tools=False) for name in names]
    return State(params, dict(session.headers), agents)


async def step(session: Session, state: State, rng: random.Random) -> None:
    agent_id = state.agent_ids[session.iteration % len(state.agent_ids)]
    text = f"{PARAGRAPH}Paragraph {session.iteration}, number {rng.randrange(10**6)}."
    session.headers = state.headers
    path = f"/v1/agents/{agent_id}/archival-memory"
    response = await session.post(path, json={"text": text}, name="insert_passage")
    if state.params.profile == "letta-0.16" and response.is_success:  # there an archive outlives its agent
        for archive in {passage.get("archive_id") for passage in response.json()} - {None, *state.archives}:
            state.archives.add(archive)
            remove_later(session, state.params, f"/v1/archives/{archive}")
