"""Triggers that let a table only grow (`ledger/triggers.py`). Every migration that makes a table uses them."""

from alembic import op

from sovereign_pipeline.ledger import triggers


def forbid_changes(table: str, *keys: tuple[str, ...]) -> None:
    """Refuse UPDATE, DELETE and, in PostgreSQL, TRUNCATE of a table. keys: its primary and unique keys."""
    for statement in triggers.statements(op.get_bind().dialect.name, table, keys):
        op.execute(statement)
