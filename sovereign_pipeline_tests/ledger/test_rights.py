"""The roles of `docs/how-to/ledger.md` on a real server: the owner's is a finding, the service's does every act."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.record.database import beyond_a_service, open_registry
from sovereign_pipeline_tests.ledger.lamps import light
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
            for statement in ("UPDATE audit_entry SET actor = 'x'", "ALTER TABLE adapter DROP COLUMN line"):
                with pytest.raises(ProgrammingError), registry.engine.begin() as connection:
                    connection.execute(text(statement))
        registry.engine.dispose()
    assert found["registry_service"] == []
    assert [each[:19] for each in found["registry_owner"]] == ["registry_owner owns"]
    assert "is a superuser" in found["superuser"][0]

    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_owner"])
    engine = open_registry(bench.settings).engine
    with engine.begin() as connection:
        connection.execute(text("GRANT UPDATE ON adapter TO registry_service"))
    engine.dispose()
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_service"])
    engine = open_registry(bench.settings).engine
    with engine.connect() as connection:
        assert beyond_a_service(connection) == ["registry_service has UPDATE on adapter"]
    engine.dispose()
