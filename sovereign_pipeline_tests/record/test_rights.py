"""The roles of `docs/how-to/ledger.md` on a real server: the owner's is a finding, the service's does every act."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.record.database import Registry, beyond_a_service, open_registry
from sovereign_pipeline_tests.record.lamps import exact_bytes, light
from sovereign_pipeline_tests.registry.bench import Bench

ROLES, GRANTS = re.findall(
    r"^```sql\n(.*?)^```", (PROJECT_ROOT / "docs" / "how-to" / "ledger.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def roles(postgresql_server: str) -> Iterator[dict[str, str]]:
    """Role -> the URL by which it connects; the database and the roles are gone afterwards."""
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in filter(str.strip, ROLES.split(";")):
            connection.execute(text(statement))
    url = make_url(postgresql_server).set(database="registry")
    yield {
        role: url.set(username=role).render_as_string(hide_password=False)
        for role in ("registry_owner", "registry_service")
    } | {"superuser": url.render_as_string(hide_password=False)}
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE registry WITH (FORCE)"))
        connection.execute(text("DROP ROLE registry_service"))
        connection.execute(text("DROP ROLE registry_owner"))
    engine.dispose()


@pytest.mark.postgresql
def test_a_service_does_every_act_and_whoever_may_do_more_is_named(
    bench: Bench, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for role in ("registry_owner", "registry_service", "superuser"):
        monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles[role])
        registry = open_registry(bench.settings)
        light(registry, 1)
        with registry.engine.connect() as connection:
            found[role] = beyond_a_service(connection)
        if role == "registry_owner":
            with registry.engine.begin() as connection:
                for statement in filter(str.strip, GRANTS.split(";")):
                    connection.execute(text(statement))
        if role == "registry_service":
            for statement in ("UPDATE entry SET head = 'x'", "ALTER TABLE blob DROP COLUMN data"):
                with pytest.raises(ProgrammingError), registry.engine.begin() as connection:
                    connection.execute(text(statement))
        registry.engine.dispose()
    assert found["registry_service"] == []
    assert [each[:19] for each in found["registry_owner"]] == ["registry_owner owns"]
    assert "is a superuser" in found["superuser"][0]

    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_owner"])
    engine = open_registry(bench.settings).engine
    with engine.begin() as connection:
        connection.execute(text("GRANT UPDATE ON blob TO registry_service"))
    engine.dispose()
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_service"])
    engine = open_registry(bench.settings).engine
    with engine.connect() as connection:
        assert beyond_a_service(connection) == ["registry_service has UPDATE on blob"]
    engine.dispose()


def as_owner(registry: Registry, *statements: str) -> None:
    with registry.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


REFUSED = [
    "UPDATE {table} SET data = NULL",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
    "DROP TABLE {table}",
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} ADD COLUMN more text",
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
        for table in ("entry", "blob"):
            for statement in REFUSED:
                with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                    as_owner(registry, statement.format(table=table))
        registry.engine.dispose()
    finally:
        as_owner(owner, "DROP OWNED BY service", "DROP ROLE service")
