"""The triggers that let a table only grow, in SQLite and PostgreSQL, and whether a database still has them.

Whoever owns the database can drop a trigger or put another in its place. It is found here when the registry is opened;
what was done meanwhile is found by comparing rows with the ledger.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import Connection, Table, UniqueConstraint, text

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.ledger.tables import Table as Model

MESSAGE = "the registry only grows"
FUNCTION = "registry_only_grows"
FUNCTION_BODY = f" BEGIN RAISE EXCEPTION '%: {MESSAGE}', TG_TABLE_NAME; END "
MAY_CHANGE = {"may_change": True}
"""`info` of a table that is no record and may change, such as an index that can be made again."""

# Bits of pg_trigger.tgtype: for each row 1, before 2, delete 8, update 16, truncate 32.
POSTGRESQL_KINDS = {"no_change": 1 + 2 + 8 + 16, "no_truncate": 2 + 32}

Keys = Sequence[tuple[str, ...]]


def statements(dialect: str, table: str, keys: Keys) -> list[str]:
    """What makes the triggers of one table.

    keys: its primary and unique keys. SQLite's INSERT OR REPLACE deletes without asking the delete trigger, so an
    insert that meets an existing key is refused by a trigger of its own.
    """
    if dialect == "sqlite":
        return list(_in_sqlite(table, keys).values())
    return [
        f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $${FUNCTION_BODY}$$",
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()",
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()",
        *always(table).values(),
    ]


def always(table: str) -> dict[str, str]:
    """In PostgreSQL: trigger -> what lets it fire also where a session says that it is a replica."""
    names = [f"{table}_{kind}" for kind in POSTGRESQL_KINDS]
    return {name: f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for name in names}


def assert_in_place(connection: Connection) -> None:
    """Raise IntegrityError that names a trigger which is missing, was changed, or does not belong here."""
    tables = [table for table in Model.metadata.sorted_tables if not table.info.get("may_change")]
    find = _wrong_in_sqlite if connection.dialect.name == "sqlite" else _wrong_in_postgresql
    wrong = list(find(connection, tables))
    if wrong:
        raise IntegrityError(
            f"The registry's tables no longer refuse changes: {'; '.join(wrong)}.",
            "Restore the registry from a copy, and find out who changed it. Rows may have been changed meanwhile.",
        )


def keys_of(table: Table) -> list[tuple[str, ...]]:
    """Primary key and unique keys, in no particular order."""
    unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    return [tuple(column.name for column in each.columns) for each in (table.primary_key, *unique)]


def _in_sqlite(table: str, keys: Keys) -> dict[str, str]:
    """Name -> text."""
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table}: {MESSAGE}'); END"
    taken = " OR ".join("(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys)
    made = {
        f"{table}_no_{verb.lower()}": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}"
        for verb in ("UPDATE", "DELETE")
    }
    made[f"{table}_no_replace"] = (
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken}) {refuse}"
    )
    return made


def _wrong_in_sqlite(connection: Connection, tables: Collection[Table]) -> Iterator[str]:
    rows = connection.execute(text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"))
    found = {(table, name): sql for name, table, sql in rows}
    for table in tables:
        # `UNIQUE` constraints have no order.
        allowed = [_in_sqlite(table.name, keys) for keys in itertools.permutations(keys_of(table))]
        for name in allowed[0]:
            sql = found.pop((table.name, name), None)
            if sql is None:
                yield f"trigger {name} is missing"
            elif sql not in {each[name] for each in allowed}:
                yield f"trigger {name} was changed"
    ours = {table.name for table in tables}
    yield from (f"trigger {name} does not belong to table {table}" for table, name in found if table in ours)


def _wrong_in_postgresql(connection: Connection, tables: Collection[Table]) -> Iterator[str]:
    rows = connection.execute(
        text(
            "SELECT c.relname, t.tgname, t.tgtype, t.tgenabled, t.tgqual, t.tgattr::text, p.proname, p.prosrc "
            "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid "
            "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
        )
    )
    found = {(table, name): rest for table, name, *rest in rows}
    for table in tables:
        for kind, bits in POSTGRESQL_KINDS.items():
            name = f"{table.name}_{kind}"
            state = found.pop((table.name, name), None)
            if state is None:
                yield f"trigger {name} is missing"
            elif state != [bits, "A", None, "", FUNCTION, FUNCTION_BODY]:
                yield f"trigger {name} was changed or switched off"
    ours = {table.name for table in tables}
    yield from (f"trigger {name} does not belong to table {table}" for table, name in found if table in ours)
    rules = connection.execute(text("SELECT tablename, rulename FROM pg_rules WHERE schemaname = current_schema()"))
    yield from (f"rule {name} does not belong to table {table}" for table, name in rules if table in ours)
