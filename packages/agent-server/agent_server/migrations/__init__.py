"""Alembic's revisions; `database.migrate` runs them at start-up."""
