"""Messages answered as a stream of server-sent events: time to first token, between chunks, chunks a second.

Setup makes the agents. One step sends a message to one of them: POST `/v1/agents/{id}/messages/stream`; each
event's instant is kept in the row's `chunks`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Response, Session
from perfkit.model import Count
from perfkit.scenarios._agents import AgentParams, create_agent, message, sign_up, unique
from perfkit.streams import letta


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    agents: Count = 5
    messages: Count = 100
    workers: Count = 5
    stream_tokens: bool = True
    questions: bool = False  #: ask, of agents with tools: the reference server's then search their messages


@dataclass(frozen=True)
class State:
    params: Params
    headers: dict[str, str]
    agent_ids: list[str]


def load(params: Params) -> dict[str, Any]:
    return {"users": {"count": params.workers, "iterations": params.messages}}


async def setup(session: Session, params: Params) -> State:
    session.headers = await sign_up(session, params, unique(session, "user"))
    names = [unique(session, f"stream-{i}") for i in range(params.agents)]
    agents = [
        await create_agent(session, params, name, include_base_tools=params.questions) for name in names
    ]
    return State(params, dict(session.headers), agents)


def stream_is_whole(response: Response) -> bool | str:
    """A stream that ends without a stop reason was cut short by the server, whatever its status says."""
    return "stop_reason" in response.text or "the stream ended without a stop_reason"


async def step(session: Session, state: State, rng: random.Random) -> None:
    agent_id = state.agent_ids[session.iteration % len(state.agent_ids)]
    number, ask = rng.randrange(10**6), state.params.questions
    body = message(f"What is known of number {number}?" if ask else f"Tell me about number {number}.")
    body["stream_tokens"] = state.params.stream_tokens
    session.headers = state.headers
    await session.post(
        f"/v1/agents/{agent_id}/messages/stream",
        json=body,
        name="stream_message",
        check=stream_is_whole,
        stream=letta,
    )
