"""Archival memory: passages with embeddings, searched by vector."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from agent_server.agent_state import agent_state
from agent_server.bodies import Body, Limit
from agent_server.model_calls import embed
from agent_server.services import Acting, Serving, all_rows, answer, not_found
from agent_server.tables import new_id, now, passages

router = APIRouter(prefix="/agents/{agent_id}/archival-memory")
archives = APIRouter(prefix="/archives")


class NewPassage(Body):
    """Body of POST."""

    text: str = Field(min_length=1)
    tags: list[str] = Field(default_factory=list)


@router.post("")
async def insert_passage(agent_id: str, body: NewPassage, services: Serving, actor: Acting) -> Response:
    """Embed a text and store it; answers a list of one passage."""
    agent = await agent_state(services, agent_id, actor)
    config = agent["embedding_config"]
    embedding = await embed(services, body.text, config["embedding_dim"])
    services.registry.record("hist_file_process_bytes", len(body.text.encode()))
    stamp = now()
    row = {"id": new_id("passage"), "agent_id": agent_id, **body.model_dump(), "embedding": embedding}
    row |= {"created_at": stamp, "updated_at": stamp}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(passages).values(row))
    return answer([_shown(row, agent)])


@router.get("")
async def list_passages(agent_id: str, services: Serving, actor: Acting, limit: Limit = 100) -> Response:
    """The agent's passages, oldest first."""
    agent = await agent_state(services, agent_id, actor, may_lag=True)
    query = sa.select(passages).where(passages.c.agent_id == agent_id).order_by(passages.c.created_at)
    async with services.read_engine.connect() as connection:
        rows = await all_rows(connection, query.limit(limit))
    return answer([_shown(row, agent) for row in rows])


@router.get("/search")
async def search_passages(
    agent_id: str, query: str, services: Serving, actor: Acting, top_k: Limit = 10
) -> Response:
    """The passages nearest in meaning, by cosine distance, nearest first."""
    agent = await agent_state(services, agent_id, actor, may_lag=True)
    vector = await embed(services, query, agent["embedding_config"]["embedding_dim"])
    async with services.read_engine.connect() as connection:
        rows = await _nearest(connection, agent_id, vector, top_k)
    results = [
        {"id": r["id"], "timestamp": r["created_at"], "content": r["text"], "tags": r["tags"]} for r in rows
    ]
    return answer({"results": results, "count": len(results)})


@router.delete("/{passage_id}")
async def delete_passage(agent_id: str, passage_id: str, services: Serving, actor: Acting) -> Response:
    """Delete a passage."""
    await agent_state(services, agent_id, actor)
    condition = sa.and_(passages.c.id == passage_id, passages.c.agent_id == agent_id)
    async with services.engine.begin() as connection:
        done = await connection.execute(sa.delete(passages).where(condition))
    if not done.rowcount:
        raise not_found("Passage", passage_id)
    return answer({"message": f"Passage id={passage_id} successfully deleted"})


@archives.delete("/{archive_id}")
async def delete_archive(archive_id: str, services: Serving, actor: Acting) -> Response:
    """Empty an archive: the agent whose it is goes on without its passages."""
    agent = await agent_state(services, archive_id.replace("archive-", "agent-", 1), actor)
    async with services.engine.begin() as connection:
        await connection.execute(sa.delete(passages).where(passages.c.agent_id == agent["id"]))
    return Response(status_code=204)


def _shown(row: dict[str, Any], agent: dict[str, Any]) -> dict[str, Any]:
    """A passage's JSON; every agent has one archive, named after it."""
    archive = agent["id"].replace("agent-", "archive-")
    more = {"archive_id": archive, "organization_id": agent["organization_id"], "is_deleted": False}
    return row | more | {"embedding_config": agent["embedding_config"]}


async def _nearest(
    connection: AsyncConnection, agent_id: str, vector: list[float], top_k: int
) -> list[dict[str, Any]]:
    query = sa.select(passages).where(passages.c.agent_id == agent_id)
    if connection.dialect.name == "postgresql":
        distance: Any = passages.c.embedding.op("<=>", return_type=sa.Float)
        return await all_rows(connection, query.order_by(distance(vector)).limit(top_k))
    rows = await all_rows(connection, query)
    return sorted(rows, key=lambda row: -_dot(row["embedding"], vector))[:top_k]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
