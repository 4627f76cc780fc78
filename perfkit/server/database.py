"""The engine and its pool, the migrations, and the default organization and user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from perfkit.server.settings import Settings
from perfkit.server.tables import AGENT_INDEXES, organizations, users

DEFAULT_ORGANIZATION = "org-00000000-0000-4000-8000-000000000000"
DEFAULT_USER = "user-00000000-0000-4000-8000-000000000000"
_DRIVERS = {"postgresql": "asyncpg", "postgres": "asyncpg", "sqlite": "aiosqlite"}


def async_url(given: str) -> sa.URL:
    """A database URL with its async driver; ValueError says which databases there are."""
    try:
        url = sa.make_url(given)
    except sa.exc.ArgumentError:
        raise ValueError("--database-url: give postgresql://USER@HOST/DATABASE or sqlite:///FILE") from None
    name = url.get_backend_name()
    if name not in _DRIVERS:
        raise ValueError(f"--database-url: {name!r} is not served; give postgresql://… or sqlite:///FILE")
    return url.set(drivername=f"{'postgresql' if name == 'postgres' else name}+{_DRIVERS[name]}")


def make_engine(url: sa.URL, settings: Settings) -> AsyncEngine:
    """An engine with the pool the settings ask for."""
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, connect_args={"timeout": settings.pool_timeout_s})
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    return create_async_engine(
        url,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout_s,
    )


def _prepare_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


async def migrate(engine: AsyncEngine, settings: Settings) -> None:
    """Bring the schema up to date, see to the indexes, and make the default organization and user."""
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)
        for index in AGENT_INDEXES:
            change = index.create if settings.indexes else index.drop
            await connection.run_sync(change, checkfirst=True)
        for table, row in (
            (organizations, {"id": DEFAULT_ORGANIZATION, "name": "default_org"}),
            (users, {"id": DEFAULT_USER, "organization_id": DEFAULT_ORGANIZATION, "name": "default_user"}),
        ):
            there = await connection.scalar(sa.select(table.c.id).where(table.c.id == row["id"]))
            if there is None:
                await connection.execute(sa.insert(table).values(row))


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
