"""What the owner of the database can do: take the triggers away, change whatever there is, and put them back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, inspect, text

from sovereign_pipeline.ledger import triggers
from sovereign_pipeline.ledger.tables import Table


def drop_triggers(connection: Connection) -> list[str]:
    """Returns the tables that had some."""
    tables = [name for name in inspect(connection).get_table_names() if name in Table.metadata.tables]
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
