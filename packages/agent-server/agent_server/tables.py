"""The tables, as SQLAlchemy Core sees them; migrations/ makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from perfkit_probes.leader import leader_tables


class Embedding(TypeDecorator[list[float]]):
    """A pgvector column on PostgreSQL, JSON text elsewhere."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See SQLAlchemy."""
        return dialect.type_descriptor(Vector() if dialect.name == "postgresql" else sa.JSON())


def new_id(kind: str) -> str:
    """`agent-<uuid4>` and the like, as Letta names things."""
    return f"{kind}-{uuid4()}"


def now() -> datetime:
    """The time of day rows are stamped with."""
    return datetime.now(UTC)


#: `insert` with `on_conflict_do_…`, by the name of the dialect.
INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

metadata = sa.MetaData()


class Utc(sa.types.TypeDecorator[datetime]):
    """A time with its zone; SQLite forgets the zone, so it is said again on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """See SQLAlchemy."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _table(name: str, *columns: Any) -> sa.Table:
    stamps = [sa.Column(n, Utc, nullable=False, default=now) for n in ("created_at", "updated_at")]
    return sa.Table(name, metadata, sa.Column("id", sa.String, primary_key=True), *columns, *stamps)


def _ref(
    name: str, to: str, *, nullable: bool = False, ondelete: str = "CASCADE", **more: Any
) -> sa.Column[str]:
    return sa.Column(name, sa.String, sa.ForeignKey(f"{to}.id", ondelete=ondelete), nullable=nullable, **more)


organizations = _table("organizations", sa.Column("name", sa.String, nullable=False))
users = _table(
    "users", _ref("organization_id", "organizations"), sa.Column("name", sa.String, nullable=False)
)
api_keys = _table(
    "api_keys", _ref("user_id", "users"), sa.Column("key", sa.String, nullable=False, unique=True)
)
tools = _table(
    "tools",
    _ref("organization_id", "organizations"),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("source_code", sa.Text, nullable=False),
    sa.Column("json_schema", sa.JSON, nullable=False),
    sa.Column("tool_type", sa.String, nullable=False, default="custom"),
    sa.UniqueConstraint("organization_id", "name"),
)
blocks = _table(
    "blocks",
    _ref("organization_id", "organizations"),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("limit", sa.Integer, nullable=False, default=20_000),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
)
agents = _table(
    "agents",
    _ref("organization_id", "organizations"),
    _ref("created_by_id", "users", nullable=True, ondelete="SET NULL"),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("agent_type", sa.String, nullable=False),
    sa.Column("system", sa.Text, nullable=False),
    sa.Column("llm_config", sa.JSON, nullable=False),
    sa.Column("embedding_config", sa.JSON, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
)
tools_agents = sa.Table(
    "tools_agents",
    metadata,
    _ref("agent_id", "agents", primary_key=True),
    _ref("tool_id", "tools", primary_key=True),
)
blocks_agents = sa.Table(
    "blocks_agents",
    metadata,
    _ref("agent_id", "agents", primary_key=True),
    _ref("block_id", "blocks", primary_key=True),
)
passages = _table(
    "passages",
    _ref("agent_id", "agents"),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False, default=list),
    sa.Column("embedding", Embedding, nullable=False),
)
jobs = _table(
    "jobs",
    _ref("organization_id", "organizations"),
    _ref("user_id", "users", nullable=True, ondelete="SET NULL"),
    _ref("agent_id", "agents", nullable=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("background", sa.Boolean, nullable=False, default=False),
    sa.Column("stop_reason", sa.String),
    sa.Column("request", sa.JSON),
    sa.Column("usage", sa.JSON),
    sa.Column("error", sa.Text),
    sa.Column("completed_at", Utc),
    sa.Column("ttft_ns", sa.BigInteger),
    sa.Column("total_duration_ns", sa.BigInteger),
    _ref("batch_id", "jobs", nullable=True),
    sa.Column("item", sa.Integer),
    sa.UniqueConstraint("batch_id", "item"),
)
messages = _table(
    "messages",
    _ref("agent_id", "agents"),
    _ref("run_id", "jobs", nullable=True),
    sa.Column("message_type", sa.String, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)

leaderships, leases = leader_tables(metadata)

#: What the scheduler polls for; small, however many jobs there are.
sa.Index(
    "ix_jobs_open_batches",
    jobs.c.created_at,
    postgresql_where=sa.text("kind = 'batch' AND status IN ('created', 'running')"),
    sqlite_where=sa.text("kind = 'batch' AND status IN ('created', 'running')"),
)

#: The indexes an experiment may switch off.
AGENT_INDEXES = (
    sa.Index("ix_passages_agent_id", passages.c.agent_id),
    sa.Index("ix_messages_agent_id", messages.c.agent_id),
)

for _column in (tools_agents.c.tool_id, blocks_agents.c.block_id, jobs.c.agent_id, agents.c.organization_id):
    sa.Index(f"ix_{_column.table.name}_{_column.name}", _column)
