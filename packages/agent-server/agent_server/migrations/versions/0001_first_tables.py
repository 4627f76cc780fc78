"""The first tables: users and keys, tools, blocks, agents, passages, jobs, messages."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _ref(name: str, to: str, nullable: bool = False, ondelete: str = "CASCADE") -> sa.Column[str]:
    return sa.Column(name, sa.String, sa.ForeignKey(f"{to}.id", ondelete=ondelete), nullable=nullable)


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _json(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON, nullable=nullable)


def _name(name: str, nullable: bool = False, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String, nullable=nullable, unique=unique)


def _create(name: str, *columns: sa.schema.SchemaItem) -> None:
    stamps = [sa.Column(n, sa.DateTime(timezone=True), nullable=False) for n in ("created_at", "updated_at")]
    op.create_table(name, sa.Column("id", sa.String, primary_key=True), *columns, *stamps)


def _link(name: str, other: str) -> None:
    key = f"{other}_id"
    op.create_table(
        name, _ref("agent_id", "agents"), _ref(key, f"{other}s"), sa.PrimaryKeyConstraint("agent_id", key)
    )
    op.create_index(f"ix_{name}_{key}", name, [key])


def upgrade() -> None:
    """Make everything."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    _create("organizations", _name("name"))
    _create("users", _ref("organization_id", "organizations"), _name("name"))
    _create("api_keys", _ref("user_id", "users"), _name("key", unique=True))
    _create(
        "tools",
        *(_ref("organization_id", "organizations"), _name("name"), _text("description", nullable=True)),
        *(_text("source_code"), _json("json_schema"), _name("tool_type")),
        sa.UniqueConstraint("organization_id", "name"),
    )
    _create(
        "blocks",
        *(_ref("organization_id", "organizations"), _name("label"), _text("value")),
        *(
            _text("description", nullable=True),
            sa.Column("limit", sa.Integer, nullable=False),
            _json("metadata"),
        ),
    )
    _create(
        "agents",
        _ref("organization_id", "organizations"),
        _ref("created_by_id", "users", nullable=True, ondelete="SET NULL"),
        *(_name("name"), _text("description", nullable=True), _name("agent_type"), _text("system")),
        *map(_json, ("llm_config", "embedding_config", "tags", "metadata")),
    )
    _link("tools_agents", "tool")
    _link("blocks_agents", "block")
    embedding = sa.Column("embedding", Vector() if postgresql else sa.JSON(), nullable=False)
    _create("passages", _ref("agent_id", "agents"), _text("text"), _json("tags"), embedding)
    _create(
        "jobs",
        _ref("organization_id", "organizations"),
        _ref("user_id", "users", nullable=True, ondelete="SET NULL"),
        _ref("agent_id", "agents", nullable=True),
        *(_name("kind"), _name("status"), sa.Column("background", sa.Boolean, nullable=False)),
        *(
            _name("stop_reason", nullable=True),
            _json("request", nullable=True),
            _json("usage", nullable=True),
        ),
        *(_text("error", nullable=True), sa.Column("completed_at", sa.DateTime(timezone=True))),
    )
    _create(
        "messages",
        _ref("agent_id", "agents"),
        _ref("run_id", "jobs", nullable=True),
        _name("message_type"),
        _text("content"),
    )
    op.create_index("ix_jobs_agent_id", "jobs", ["agent_id"])
    op.create_index("ix_agents_organization_id", "agents", ["organization_id"])


def downgrade() -> None:
    """Drop everything, what refers to others first."""
    names: Sequence[str] = (
        "messages",
        "jobs",
        "passages",
        "blocks_agents",
        "tools_agents",
        "agents",
        "blocks",
    )
    for name in (*names, "tools", "api_keys", "users", "organizations"):
        op.drop_table(name)
