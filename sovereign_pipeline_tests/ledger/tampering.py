"""What whoever owns the database can do to it, and how it looked at an earlier migration. Tests plant it."""

import json

from sqlalchemy import Connection, select, text
from sqlalchemy.orm import Session

from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import ENTERED, HELD, digest_of_columns
from sovereign_pipeline.ledger.tables import AuditEntry, Table, row_as_dict

UNDONE = {
    "0007": ("DROP TABLE transition", "DROP TABLE release_decision", "DROP TABLE release_request"),
    "0005": ("DROP INDEX ix_audit_entry_action",),
    "0004": ("ALTER TABLE blind_review DROP COLUMN act_key",),
}
"""Migration -> what takes it back, the newest first."""


def go_back(connection: Connection, revision: str) -> None:
    """Take the tables back to an earlier migration. Rows and triggers are the caller's."""
    for newer, statements in UNDONE.items():
        if newer > revision:
            for statement in statements:
                connection.execute(text(statement))
    connection.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'"))


def drop_triggers(connection: Connection) -> None:
    """Let every row be changed and removed, as the owner of the database can."""
    if connection.dialect.name == "sqlite":
        for trigger in list(connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))):
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        return
    for table in Table.metadata.sorted_tables:
        connection.execute(text(f"ALTER TABLE {table.name} DISABLE TRIGGER USER"))


def change(registry: Registry, *statements: str) -> None:
    """Run statements past every trigger."""
    with registry.engine.connect() as connection, connection.begin():
        drop_triggers(connection)
        for statement in statements:
            connection.execute(text(statement))


def forge_entries(registry: Registry) -> None:
    """Let the entries name the rows as they are now."""
    change(registry)
    with Session(registry.engine) as session:
        digests = {
            table.__tablename__: {
                key_of(row): digest_of_columns(row_as_dict(row)) for row in session.scalars(select(table))
            }
            for table in HELD
        }
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.action.in_(ENTERED))):
            rows = {table: {key: digests[table][key] for key in keys} for table, keys in entry.subjects["rows"].items()}
            session.execute(
                text("UPDATE audit_entry SET subjects = :subjects WHERE sequence = :sequence"),
                {"subjects": json.dumps({**entry.subjects, "rows": rows}), "sequence": entry.sequence},
            )
        session.commit()


def key_of(row: Table) -> str:
    return str(getattr(row, "id", None) or row.digest)  # type: ignore[attr-defined]
