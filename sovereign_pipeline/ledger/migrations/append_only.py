"""Triggers that let a table only grow, for SQLite and PostgreSQL. Every migration that makes a table uses them.

Whoever owns the database can still drop a trigger or change the file: that is what signatures and `adapters verify`
find. The triggers stop every program that merely has write access.
"""

from alembic import op

MESSAGE = "the registry only grows"


def forbid_changes(table: str, *keys: tuple[str, ...]) -> None:
    """Refuse UPDATE, DELETE and, in PostgreSQL, TRUNCATE of a table.

    keys: its primary and unique keys. SQLite's INSERT OR REPLACE deletes without asking the delete trigger, so an
    insert that meets an existing key is refused by a trigger of its own.
    """
    if op.get_bind().dialect.name == "sqlite":
        _forbid_in_sqlite(table, keys)
        return
    _forbid_in_postgresql(table)


def _forbid_in_sqlite(table: str, keys: tuple[tuple[str, ...], ...]) -> None:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table}: {MESSAGE}'); END"
    for verb in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}")
    taken = " OR ".join("(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys)
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken}) {refuse}"
    )


def _forbid_in_postgresql(table: str) -> None:
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION registry_only_grows() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '%: {MESSAGE}', TG_TABLE_NAME; END $$
        """
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION registry_only_grows()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION registry_only_grows()"
    )
