"""A table that no longer refuses changes is named when the registry is opened."""

from dataclasses import replace

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import tables
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.tables import Table
from sovereign_pipeline_tests.ledger.lamps import exact_bytes, light
from sovereign_pipeline_tests.registry.bench import Bench

TABLES = sorted(name for name, table in Table.metadata.tables.items() if not table.info.get("may_change"))


def as_owner(registry: Registry, *statements: str) -> None:
    with registry.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def refused(registry: Registry, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        open_registry(registry.settings)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_trigger_is_named(bench: Bench, database: str, table: str) -> None:
    registry = bench.open_registry()
    if database == "sqlite":
        as_owner(registry, *(f"DROP TRIGGER {table}_no_{verb}" for verb in ("update", "delete", "replace")))
        refused(registry, f"{table}_no_update is missing; trigger {table}_no_delete is missing; .*{table}_no_replace")
        return
    as_owner(registry, *(f"DROP TRIGGER {table}_{kind} ON {table}" for kind in tables.POSTGRESQL_KINDS))
    refused(registry, f"{table}_no_change is missing; trigger {table}_no_truncate is missing")


@pytest.mark.parametrize(
    "instead",
    [
        "BEFORE UPDATE ON adapter WHEN 0 BEGIN SELECT RAISE(ABORT, 'adapter: the registry only grows'); END",
        "BEFORE UPDATE OF id ON adapter BEGIN SELECT RAISE(ABORT, 'adapter: the registry only grows'); END",
        "BEFORE UPDATE ON adapter BEGIN SELECT 1; END",
        "BEFORE UPDATE ON dataset BEGIN SELECT RAISE(ABORT, 'adapter: the registry only grows'); END",
    ],
)
def test_a_changed_trigger_is_named_in_sqlite(bench: Bench, instead: str) -> None:
    registry = bench.open_registry()
    as_owner(registry, "DROP TRIGGER adapter_no_update", f"CREATE TRIGGER adapter_no_update {instead}")
    refused(registry, "adapter_no_update")


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE adapter DISABLE TRIGGER adapter_no_change"],
        ["ALTER TABLE adapter ENABLE TRIGGER adapter_no_change"],
        [
            "DROP TRIGGER adapter_no_change ON adapter",
            "CREATE TRIGGER adapter_no_change BEFORE UPDATE OF id OR DELETE ON adapter "
            "FOR EACH ROW EXECUTE FUNCTION registry_only_grows()",
            "ALTER TABLE adapter ENABLE ALWAYS TRIGGER adapter_no_change",
        ],
        [
            "DROP TRIGGER adapter_no_change ON adapter",
            "CREATE TRIGGER adapter_no_change BEFORE UPDATE OR DELETE ON adapter "
            "FOR EACH ROW WHEN (OLD.id = 'x') EXECUTE FUNCTION registry_only_grows()",
            "ALTER TABLE adapter ENABLE ALWAYS TRIGGER adapter_no_change",
        ],
        [
            "CREATE OR REPLACE FUNCTION registry_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN NEW; END $$"
        ],
    ],
)
def test_a_changed_trigger_is_named_in_postgresql(bench: Bench, postgresql: str, statements: list[str]) -> None:
    registry = bench.open_registry()
    as_owner(registry, *statements)
    refused(registry, "adapter_no_change was changed or switched off")


def test_what_does_not_belong_to_a_table_is_named(bench: Bench, database: str) -> None:
    registry = bench.open_registry()
    if database == "sqlite":
        as_owner(registry, "CREATE TRIGGER quiet BEFORE INSERT ON adapter BEGIN SELECT RAISE(IGNORE); END")
        refused(registry, "trigger quiet does not belong to table adapter")
        return
    as_owner(registry, "CREATE RULE quiet AS ON DELETE TO adapter DO INSTEAD NOTHING")
    refused(registry, "rule quiet does not belong to table adapter")


def test_a_replica_session_is_refused_too_in_postgresql(bench: Bench, postgresql: str) -> None:
    bench.register()
    registry = bench.open_registry()
    with pytest.raises(Exception, match="only grows"), registry.engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        connection.execute(text("UPDATE adapter SET classification = 'PUBLIC'"))


REFUSED = [
    "UPDATE {table} SET sequence = 9",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
    "DROP TABLE {table}",
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} ADD COLUMN more text",
    "DROP TRIGGER {table}_no_change ON {table}",
    "CREATE OR REPLACE FUNCTION registry_only_grows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "SET session_replication_role = replica",
]


def test_a_service_that_may_read_and_insert_alone_acts_and_can_change_nothing(bench: Bench, postgresql: str) -> None:
    owner = bench.open_registry()
    grants = "GRANT USAGE ON SCHEMA public TO service; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO service"
    as_owner(owner, "DROP ROLE IF EXISTS service", "CREATE ROLE service LOGIN", *grants.split("; "))
    try:
        url = make_url(postgresql).set(username="service").render_as_string(hide_password=False)
        registry = open_registry(replace(bench.settings, registry_url=url))
        light(registry, 1, 2)
        assert len(exact_bytes(owner)) == 2
        for table in ("audit_entry", "ledger_entry"):
            for statement in REFUSED:
                with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                    as_owner(registry, statement.format(table=table))
        registry.engine.dispose()
    finally:
        as_owner(owner, "DROP OWNED BY service", "DROP ROLE service")
