"""The engine and its pool, the migrations, and the default organization and user."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent_server.prefill import prefill
from agent_server.settings import Settings
from agent_server.tables import AGENT_INDEXES, organizations, users

DEFAULT_ORGANIZATION = "org-00000000-0000-4000-8000-000000000000"
DEFAULT_USER = "user-00000000-0000-4000-8000-000000000000"
_MIGRATION_LOCK = 0x7065_7266  # servers that start at once on one database migrate one after the other
_DRIVERS = {"postgresql": "asyncpg", "postgres": "asyncpg", "sqlite": "aiosqlite"}


class CannotUse(Exception):
    """The database cannot be used; the message is one line."""


def async_url(given: str) -> sa.URL:
    """A database URL with its async driver; ValueError says which databases there are."""
    try:
        url = sa.make_url(given)
    except sa.exc.ArgumentError:
        raise ValueError("--database-url: give postgresql://USER@HOST/DATABASE or sqlite:///FILE") from None
    name = url.get_backend_name()
    if name not in _DRIVERS:
        raise ValueError(f"--database-url: {name!r} is not served; give postgresql://… or sqlite:///FILE")
    if name == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("--database-url: SQLite in memory is not served; give a file, sqlite:///FILE")
    url = url.set(drivername=f"{'postgresql' if name == 'postgres' else name}+{_DRIVERS[name]}")
    if "sslmode" in url.query:  # libpq's word; asyncpg calls it ssl
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    return url


async def look_at(url: sa.URL) -> str:
    """The database's name and version; CannotUse says in one line why it will not do."""
    if url.get_backend_name() == "sqlite":
        try:
            sqlite3.connect(str(url.database)).execute("PRAGMA user_version").connection.close()
        except sqlite3.Error as error:
            raise CannotUse(f"the database {url.database} cannot be used: {error}") from None
        return f"SQLite {sqlite3.sqlite_version}"
    engine = create_async_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        async with engine.connect() as connection:
            version = await connection.scalar(sa.text("SHOW server_version"))
            vector = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
            if not await connection.scalar(sa.text(vector)):
                raise CannotUse("the database has no pgvector; install the extension `vector`")
    except (OSError, sa.exc.SQLAlchemyError, asyncpg.PostgresError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        where = url.render_as_string(hide_password=True)
        raise CannotUse(f"the database {where} does not answer: {reason[0]}") from error
    finally:
        await engine.dispose()
    return f"PostgreSQL {str(version).split()[0]}"


def make_engine(url: sa.URL, settings: Settings) -> AsyncEngine:
    """An engine with the pool the settings ask for; on SQLite always with one connection.

    SQLite has one writer. Waiting for the pool is fair; waiting for SQLite's own lock is not, and fails
    with `database is locked` under load. Errors are told without values: among them are users' keys.
    """
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(
            url,
            connect_args={"timeout": settings.pool_timeout_s},
            hide_parameters=True,
            pool_size=1,
            max_overflow=0,
            pool_timeout=settings.pool_timeout_s,
        )
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    limits: dict[str, Any] = {}
    if settings.query_timeout_s:
        limits["server_settings"] = {"statement_timeout": f"{1000 * settings.query_timeout_s:.0f}"}
    return create_async_engine(
        url,
        connect_args=limits,
        hide_parameters=True,
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
    """Bring the schema up to date, see to the indexes, and make the rows that are there from the start."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.text("SET LOCAL statement_timeout = 0"))  # an index may take long
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
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
        await prefill(connection, settings, DEFAULT_ORGANIZATION)


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
