"""What the agent-server scenarios share: how one opens an account, and what an agent's body looks like.

Profiles: `reference` is perfkit's own server (keys per user, default organization and model); `letta-0.16` is
a real Letta 0.16.8, which has no `/v1/admin/users/keys`, wants an `organization_id` for a user, takes the
acting user from the header `user_id`, and needs a model and an embedding for an agent.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from perfkit.drive.session import Response, Session
from perfkit.errors import PerfkitError, RequestFailed
from perfkit.streams import LETTA_GOOD

Profile = Literal["reference", "letta-0.16"]

PARAGRAPH = (
    "The load test began before dawn. Every request was written down with the moment it was planned, the "
    "moment it was sent and the moment it was answered, and nobody rounded anything. When the pool ran dry "
    "the waiting was counted too, for a user who waits does not care in which queue. "
)


@dataclass(frozen=True, kw_only=True)
class AgentParams:
    """Parameters every scenario of the agent server has."""

    profile: Profile = "reference"
    organization_id: str | None = None  #: for new users; default: the server's first organization
    model: str = "openai-proxy/gpt-4o-mini"
    embedding: str = "openai/text-embedding-3-small"
    keep: bool = False  #: leave what the scenario made on the server


async def sign_up(session: Session, params: AgentParams, name: str) -> dict[str, str]:
    """Make a user; returns the headers with which to act as that user."""
    async with _hinting(session, params):
        return await _sign_up(session, params, name)


@asynccontextmanager
async def _hinting(session: Session, params: AgentParams) -> AsyncIterator[None]:
    """Say what to do where a server of another kind knows no such path (404) or body (422)."""
    try:
        yield
    except RequestFailed as failed:
        if failed.status not in (404, 422):
            raise
        raise RequestFailed(f"{failed}{await _hint(session, params)}", failed.status) from None


async def _hint(session: Session, params: AgentParams) -> str:
    """What to do where the server says that it is another one than the profile is for."""
    if session.local.setdefault("knows the version", False):  # asked once a user: steps sign up, too
        return ""
    session.local["knows the version"] = True
    answer = await session.get("/v1/health/", name="health")
    try:
        version = str(answer.json()["version"])
    except (ValueError, TypeError, KeyError):
        return ""
    if "perfkit" in version:
        return ""
    if params.profile == "reference":
        return (f"; the server says it is Letta {version}: add -p profile=letta-0.16, and -p model=… "
                "-p embedding=… of models it has")  # fmt: skip
    models = f"model {params.model!r}, embedding {params.embedding!r}"
    return f"; the server says it is Letta {version}: has it {models}?"


async def _sign_up(session: Session, params: AgentParams, name: str) -> dict[str, str]:
    body = {"name": name}
    organization = params.organization_id
    if organization is None and params.profile == "letta-0.16":
        organizations = await ok(session.get("/v1/admin/orgs/", name="list_orgs"))
        if not organizations:
            raise PerfkitError("the server has no organization; make one, or name it: -p organization_id=…")
        organization = organizations[0]["id"]
    if organization is not None:
        body["organization_id"] = organization
    user = await ok(session.post("/v1/admin/users/", json=body, name="create_user"))
    if not params.keep:
        session.on_teardown("DELETE", f"/v1/admin/users/?user_id={user['id']}")
    if params.profile == "letta-0.16":
        return {"user_id": user["id"]}
    key = await ok(session.post("/v1/admin/users/keys", json={"user_id": user["id"]}, name="create_key"))
    return {"authorization": f"Bearer {key['key']}"}


def agent_body(params: AgentParams, name: str, **more: Any) -> dict[str, Any]:
    """A body for POST /v1/agents/ with human and persona memory."""
    return {
        "name": name,
        "memory_blocks": [
            {"label": "human", "value": f"The user is called {name}."},
            {"label": "persona", "value": "I am a helpful agent under load."},
        ],
        "model": params.model,
        "embedding": params.embedding,
        **more,
    }


async def create_agent(session: Session, params: AgentParams, name: str, **more: Any) -> str:
    """Create an agent, to be removed at teardown with its own memory blocks; returns its id."""
    body = agent_body(params, name, **more)
    async with _hinting(session, params):
        agent = await ok(session.post("/v1/agents/", json=body, name="create_agent"))
    for block in agent["memory"]["blocks"]:
        if block["id"] not in more.get("block_ids", ()):
            remove_later(session, params, f"/v1/blocks/{block['id']}")
    remove_later(session, params, f"/v1/agents/{agent['id']}")
    return str(agent["id"])


async def create_blocks(session: Session, params: AgentParams, count: int, label: str) -> list[str]:
    """Create memory blocks, to be removed at teardown; returns their ids."""
    ids = []
    for i in range(count):
        body = {"label": f"{label}-{i}", "value": f"{PARAGRAPH}({label}, block {i})"}
        block = await ok(session.post("/v1/blocks/", json=body, name="create_block"))
        remove_later(session, params, f"/v1/blocks/{block['id']}")
        ids.append(str(block["id"]))
    return ids


async def create_tools(session: Session, params: AgentParams, count: int) -> list[str]:
    """Create tools of this run's own, to be removed at teardown; returns their ids."""
    prefix = unique(session, "tool").replace("-", "_")
    ids = []
    for i in range(count):
        source = (
            f"def {prefix}_{i}(text: str) -> str:\n"
            f'    """Return the text, marked by tool {i}.\n\n'
            '    Args:\n        text (str): What to mark.\n    """\n'
            f"    return text + ' {i}'\n"
        )
        tool = await ok(session.put("/v1/tools/", json={"source_code": source}, name="upsert_tool"))
        remove_later(session, params, f"/v1/tools/{tool['id']}")
        ids.append(str(tool["id"]))
    return ids


def remove_later(session: Session, params: AgentParams, path: str) -> None:
    """Have something deleted when the run is over, unless it is to be kept."""
    if not params.keep:
        session.on_teardown("DELETE", path)


def unique(session: Session, what: str) -> str:
    """A name that no other run uses on a shared server, the same for the same seed and moment of a run."""
    return f"perfkit-{what}-{session.run_tag}"


def message(text: str) -> dict[str, Any]:
    """The body of a user's message."""
    return {"messages": [{"role": "user", "content": text}]}


def ended_well(response: Response) -> bool | str:
    """An answer of status 200 may say that the model failed: its stop reason is not a good one."""
    reason = (response.json().get("stop_reason") or {}).get("stop_reason")
    return reason in LETTA_GOOD or f"the answer ended with stop_reason {reason}"


def random_name(rng: random.Random) -> str:
    """A random user name."""
    return f"user-{rng.getrandbits(48):012x}"


async def ok(sending: Any) -> Any:
    """The JSON of a response; ends the step (or the setup) when the request failed."""
    response: Response = await sending
    return response.raise_for_status().json()
