"""What the owner of the database can do: take the triggers away, change whatever there is, and put them back."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.orm import Session

from sovereign_pipeline.record import tables as triggers
from sovereign_pipeline.record.audit_log import REGISTERED, digest_of_columns, held_tables, key_of
from sovereign_pipeline.record.tables import AuditEntry, Table, row_as_dict


def drop_triggers(connection: Connection) -> list[str]:
    """Returns the tables that had some: every one but an index."""
    held = {name for name, table in Table.metadata.tables.items() if not table.info.get("may_change")}
    tables = [name for name in inspect(connection).get_table_names() if name in held]
    for table in tables:
        if connection.dialect.name == "sqlite":
            for verb in ("update", "delete", "replace"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_{verb}"))
        else:
            for kind in triggers.POSTGRESQL_KINDS:
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_{kind} ON {table}"))
    return tables


def make_triggers(connection: Connection, tables: list[str]) -> None:
    for table in tables:
        keys = triggers.keys_of(Table.metadata.tables[table])
        for statement in triggers.statements(connection.dialect.name, table, keys):
            connection.exec_driver_sql(statement.replace("%", "%%") if "FUNCTION registry" in statement else statement)


@contextmanager
def without_triggers(engine: Engine) -> Iterator[None]:
    """Within it every table can be changed; afterwards nothing shows that."""
    with engine.begin() as connection:
        tables = drop_triggers(connection)
    yield
    with engine.begin() as connection:
        there = set(inspect(connection).get_table_names())
        make_triggers(connection, [each for each in tables if each in there])


def change(engine: Engine, statement: str, parameters: Mapping[str, object] | None = None) -> None:
    """One statement, past the triggers."""
    with without_triggers(engine), engine.begin() as connection:
        connection.execute(text(statement), parameters or {})


def forge_entries(engine: Engine) -> None:
    """Let the entries in columns name the rows as they are now."""
    with without_triggers(engine), Session(engine) as session:
        digests = {
            table.__tablename__: {
                key_of(row): digest_of_columns(row_as_dict(row)) for row in session.scalars(select(table))
            }
            for table in held_tables()
        }
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.action == REGISTERED)):
            rows = {table: {key: digests[table][key] for key in keys} for table, keys in entry.subjects["rows"].items()}
            session.execute(
                text("UPDATE audit_entry SET subjects = :subjects WHERE sequence = :sequence"),
                {"subjects": json.dumps({**entry.subjects, "rows": rows}), "sequence": entry.sequence},
            )
        session.commit()
