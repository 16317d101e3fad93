"""What alembic runs: the migrations on a connection that is given. Touches: the ops-db."""

from __future__ import annotations

from alembic import context

from ccatwm.edges.opsdb.upgrade import alembic_options

connection = context.config.attributes["connection"]
context.configure(connection=connection, **alembic_options(connection))
with context.begin_transaction():
    context.run_migrations()
