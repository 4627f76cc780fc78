"""Troubles with the database that an experiment asks for, in every message or in every so many."""

from __future__ import annotations

import asyncio
import contextlib

import sqlalchemy as sa

from agent_server.database import DEFAULT_ORGANIZATION, DEFAULT_USER
from agent_server.services import Services
from agent_server.tables import now, organizations, users

_TIMEOUT_MS, _SLOW_S = 50, 10


async def trouble_database(services: Services, number: int) -> None:
    """Whatever the settings ask for in message `number`; the message goes on after it."""
    settings = services.settings
    if settings.statements_per_message:
        await _one_by_one(services, settings.statements_per_message)
    if settings.slow_query_ms:
        await _slow_query(services, settings.slow_query_ms / 1000)
    if settings.hot_row_ms:
        await _hot_row(services, settings.hot_row_ms / 1000)
    if settings.timeout_every and number % settings.timeout_every == 0:
        with contextlib.suppress(sa.exc.DBAPIError):
            await _timeout(services)
    if settings.kill_every and number % settings.kill_every == 0:
        with contextlib.suppress(sa.exc.DBAPIError):
            await _kill(services)


async def _one_by_one(services: Services, count: int) -> None:
    """Ask for one row after the other, where one statement would do: N+1."""
    query = sa.select(users.c.name).where(users.c.id == DEFAULT_USER)
    async with services.engine.connect() as connection:
        for _ in range(count):
            await connection.execute(query)


async def _hot_row(services: Services, hold_s: float) -> None:
    """Change a row that all messages change, and keep it locked while doing something else."""
    change = sa.update(organizations).where(organizations.c.id == DEFAULT_ORGANIZATION)
    async with services.engine.begin() as connection:
        await connection.execute(change.values(updated_at=now()))
        await asyncio.sleep(hold_s)


async def _slow_query(services: Services, seconds: float) -> None:
    """Run a statement that takes long."""
    async with services.engine.connect() as connection:
        await connection.execute(sa.select(sa.func.pg_sleep(seconds)))


async def _timeout(services: Services) -> None:
    """Run a statement that takes longer than PostgreSQL allows it."""
    async with services.engine.begin() as connection:
        await connection.execute(sa.text(f"SET LOCAL statement_timeout = {_TIMEOUT_MS}"))
        await connection.execute(sa.select(sa.func.pg_sleep(_SLOW_S)))


async def _kill(services: Services) -> None:
    """Have PostgreSQL end the session of a connection that is in use."""
    async with services.engine.connect() as connection:
        await connection.execute(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())))
