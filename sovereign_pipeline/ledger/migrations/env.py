"""Alembic's entry: runs the migrations on the connection it was given, inside that connection's transaction."""

from alembic import context

from sovereign_pipeline.ledger.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
