"""Times of jobs, items of batches, and who leads the scheduler."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPEN = sa.text("kind = 'batch' AND status IN ('created', 'running')")


def upgrade() -> None:
    """Add columns to jobs, and two tables."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("ttft_ns", sa.BigInteger))
        jobs.add_column(sa.Column("total_duration_ns", sa.BigInteger))
        jobs.add_column(sa.Column("batch_id", sa.String))
        jobs.add_column(sa.Column("item", sa.Integer))
        jobs.create_foreign_key("fk_jobs_batch_id", "jobs", ["batch_id"], ["id"], ondelete="CASCADE")
        jobs.create_unique_constraint("uq_jobs_batch_id_item", ["batch_id", "item"])
    op.create_index(
        "ix_jobs_open_batches", "jobs", ["created_at"], postgresql_where=_OPEN, sqlite_where=_OPEN
    )
    op.create_table(
        "leaderships",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("leader", sa.String, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("leases")
    op.drop_table("leaderships")
    op.drop_index("ix_jobs_open_batches", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("uq_jobs_batch_id_item", type_="unique")
        jobs.drop_constraint("fk_jobs_batch_id", type_="foreignkey")
        for name in ("item", "batch_id", "total_duration_ns", "ttft_ns"):
            jobs.drop_column(name)
