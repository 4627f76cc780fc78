"""Organizations, users and their keys."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.responses import Response

from agent_server.bodies import Body, Limit
from agent_server.database import DEFAULT_ORGANIZATION, DEFAULT_USER
from agent_server.services import Acting, Services, Serving, all_rows, answer, not_found, one_row
from agent_server.tables import api_keys, new_id, now, organizations, users

router = APIRouter(prefix="/admin")


class NewOrganization(Body):
    """Body of POST /orgs."""

    name: str


class NewUser(Body):
    """Body of POST /users."""

    name: str
    organization_id: str = DEFAULT_ORGANIZATION


class NewKey(Body):
    """Body of POST /users/keys."""

    user_id: str
    name: str | None = None


@router.get("/orgs")
async def list_organizations(services: Serving, actor: Acting, limit: Limit = 50) -> Response:
    """Organizations, oldest first."""
    query = sa.select(organizations).order_by(organizations.c.created_at).limit(limit)
    async with services.engine.connect() as connection:
        return answer(await all_rows(connection, query))


@router.post("/orgs")
async def create_organization(body: NewOrganization, services: Serving, actor: Acting) -> Response:
    """Make an organization; its users do not see what belongs to others."""
    stamp = now()
    row = {"id": new_id("org"), "name": body.name, "created_at": stamp, "updated_at": stamp}
    async with services.engine.begin() as connection:
        await connection.execute(sa.insert(organizations).values(row))
    return answer(row)


@router.post("/users")
async def create_user(body: NewUser, services: Serving, actor: Acting) -> Response:
    """Make a user in an organization."""
    stamp = now()
    row = {"id": new_id("user"), **body.model_dump(), "created_at": stamp, "updated_at": stamp}
    async with services.engine.begin() as connection:
        known = sa.select(organizations.c.id).where(organizations.c.id == body.organization_id)
        await one_row(connection, known, "Organization", body.organization_id)
        await connection.execute(sa.insert(users).values(row))
    return answer({**row, "is_deleted": False})


@router.get("/users")
async def list_users(services: Serving, actor: Acting, limit: Limit = 100) -> Response:
    """Users, oldest first."""
    async with services.engine.connect() as connection:
        return answer(await all_rows(connection, sa.select(users).order_by(users.c.created_at).limit(limit)))


@router.post("/users/keys")
async def create_key(body: NewKey, services: Serving, actor: Acting) -> Response:
    """Make a key with which to act as a user."""
    key = f"sk-{secrets.token_urlsafe(24)}"
    async with services.engine.begin() as connection:
        await one_row(
            connection, sa.select(users.c.id).where(users.c.id == body.user_id), "User", body.user_id
        )
        await connection.execute(sa.insert(api_keys).values(id=new_id("key"), user_id=body.user_id, key=key))
    return answer({"key": key, "user_id": body.user_id, "name": body.name})


@router.delete("/users")
async def delete_user_by_query(user_id: str, services: Serving, actor: Acting) -> Response:
    """Delete a user and the user's keys."""
    return await _delete(user_id, services)


@router.delete("/users/{user_id}")
async def delete_user(user_id: str, services: Serving, actor: Acting) -> Response:
    """Delete a user and the user's keys."""
    return await _delete(user_id, services)


async def _delete(user_id: str, services: Services) -> Response:
    async with services.engine.begin() as connection:
        condition = sa.and_(users.c.id == user_id, users.c.id != DEFAULT_USER)
        row = (
            (await connection.execute(sa.delete(users).where(condition).returning(*users.c)))
            .mappings()
            .first()
        )
    if row is None:
        raise not_found("User", user_id)
    services.agents_changed()  # states name the user who made the agent
    return answer({**row, "is_deleted": True})
