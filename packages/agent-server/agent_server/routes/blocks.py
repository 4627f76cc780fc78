"""Memory blocks, which agents may share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from agent_server.bodies import Body, Int32, Limit
from agent_server.services import Acting, Serving, all_rows, answer, not_found, one_row, own
from agent_server.tables import blocks, new_id, now

router = APIRouter(prefix="/blocks")


class BlockBody(Body):
    """Body of POST /blocks, and of an agent's own memory blocks."""

    label: str
    value: str
    description: str | None = None
    limit: Int32 = 20_000
    metadata: dict[str, Any] = Field(default_factory=dict)


class BlockChange(Body):
    """Body of PATCH /blocks/{id}."""

    label: str | None = None
    value: str | None = None
    description: str | None = None
    limit: Int32 | None = None
    metadata: dict[str, Any] | None = None


def new_block(body: BlockBody, organization_id: str) -> dict[str, Any]:
    """The row of a new block."""
    stamp = now()
    given = {"id": new_id("block"), "organization_id": organization_id, **body.model_dump()}
    return {**given, "created_at": stamp, "updated_at": stamp}


@router.post("")
async def create_block(body: BlockBody, services: Serving, actor: Acting) -> Response:
    """Make a block."""
    row = new_block(body, actor.organization_id)
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(blocks).values(row))
    return answer(row)


@router.get("")
async def list_blocks(
    services: Serving, actor: Acting, limit: Limit = 50, label: str | None = None
) -> Response:
    """The organization's blocks."""
    query = sa.select(blocks).where(blocks.c.organization_id == actor.organization_id).limit(limit)
    query = query if label is None else query.where(blocks.c.label == label)
    async with services.read_engine.connect() as connection:
        return answer(await all_rows(connection, query.order_by(blocks.c.created_at)))


@router.get("/{block_id}")
async def get_block(block_id: str, services: Serving, actor: Acting) -> Response:
    """One block."""
    async with services.engine.connect() as connection:
        query = sa.select(blocks).where(own(blocks, block_id, actor))
        return answer(await one_row(connection, query, "Block", block_id))


@router.patch("/{block_id}")
async def change_block(block_id: str, body: BlockChange, services: Serving, actor: Acting) -> Response:
    """Change what is given."""
    changes = body.model_dump(exclude_unset=True, exclude_none=True) | {"updated_at": now()}
    async with services.engine.begin() as connection:
        statement = sa.update(blocks).where(own(blocks, block_id, actor)).values(changes).returning(*blocks.c)
        row = await one_row(connection, statement, "Block", block_id)
    services.agents_changed()
    return answer(row)


@router.delete("/{block_id}")
async def delete_block(block_id: str, services: Serving, actor: Acting) -> Response:
    """Delete a block; agents lose it."""
    async with services.engine.begin() as connection:
        done = await connection.execute(sa.delete(blocks).where(own(blocks, block_id, actor)))
    if not done.rowcount:
        raise not_found("Block", block_id)
    services.agents_changed()
    return answer({"message": f"Block id={block_id} successfully deleted"})
