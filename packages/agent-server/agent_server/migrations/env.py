"""Alembic's entry: the connection comes from `database.migrate`."""

from alembic import context

from agent_server.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
