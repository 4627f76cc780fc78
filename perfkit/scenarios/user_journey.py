"""A user's whole way: sign up, get a key, create an agent, then talk to it again and again.

A virtual user's first step does the sign-up: POST `/v1/admin/users` (random name), POST
`/v1/admin/users/keys`, then with that bearer token POST `/v1/agents/` (base tools, human and persona memory).
Every step sends one message. Think time between steps is uniform in 1 to 5 s by default.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.model import Count, NotNegative, Positive
from perfkit.scenarios._agents import AgentParams, create_agent, ended_well, message, random_name, sign_up


@dataclass(frozen=True, kw_only=True)
class Params(AgentParams):
    users: Count = 10
    duration_s: Positive = 60.0
    think_low_s: NotNegative = 1.0
    think_high_s: NotNegative = 5.0


def load(params: Params) -> dict[str, Any]:
    think = [params.think_low_s, params.think_high_s]
    return {"users": {"count": params.users, "duration_s": params.duration_s, "think_time_s": think}}


async def step(session: Session, params: Params, rng: random.Random) -> None:
    if "agent_id" not in session.local:
        name = random_name(rng)
        session.headers = {}
        session.headers = await sign_up(session, params, name)
        session.local["agent_id"] = await create_agent(session, params, name, include_base_tools=True)
    body = message(f"Hello, this is message {rng.randrange(10**6)}.")
    await session.post(
        f"/v1/agents/{session.local['agent_id']}/messages", json=body, name="send_message", check=ended_well
    )
