"""The roles of `docs/how-to/ledger.md` on a real server: the owner's is a finding, the service's does every act."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from sovereign_pipeline.base.processes import run_program
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.terminal import print_error
from sovereign_pipeline.record import replay
from sovereign_pipeline.record.database import Registry, beyond_a_service, open_registry
from sovereign_pipeline_tests.record.lamps import exact_bytes, light
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.waiting import wait_until

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
            for statement in (
                "UPDATE entry SET head = 'x'",
                "UPDATE blob SET data = 'x'",
                "DELETE FROM blob",
                "DELETE FROM sealed",
                "ALTER TABLE blob DROP COLUMN data",
            ):
                with pytest.raises(ProgrammingError), registry.engine.begin() as connection:
                    connection.execute(text(statement))
        registry.engine.dispose()
    assert found["registry_service"] == []
    assert [each[:19] for each in found["registry_owner"]] == ["registry_owner owns"]
    assert "is a superuser" in found["superuser"][0]

    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_owner"])
    engine = open_registry(bench.settings).engine
    grants = (
        *("DELETE ON entry, node", "UPDATE (data) ON blob", "TRUNCATE ON registry_format"),
        "CREATE ON SCHEMA public",
    )
    with engine.begin() as connection:
        for each in grants:
            connection.execute(text(f"GRANT {each} TO registry_service"))
        as_seen_by_owner = beyond_a_service(connection)
    engine.dispose()
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_service"])
    engine = open_registry(bench.settings).engine
    with engine.connect() as connection:
        seen = beyond_a_service(connection)
    assert (
        seen
        == as_seen_by_owner[1:]
        == [
            "registry_service has DELETE on entry, node",
            "registry_service has TRUNCATE on registry_format",
            "registry_service has UPDATE on blob",
            "registry_service has CREATE on the schema public",
        ]
    )
    engine.dispose()


JUNK = {
    "an entry": "INSERT INTO entry (sequence, data) VALUES (9999, 'x')",
    "the next entry": "INSERT INTO entry (sequence, data, head) SELECT max(sequence) + 1, 'x', 'y' FROM entry",
    "an entry before all": "INSERT INTO entry (sequence, data) VALUES (-1, 'x')",
    "a node": "INSERT INTO node (level, position, hash) SELECT 0, max(sequence), 'x' FROM entry",
    "a node of no tree": "INSERT INTO node (level, position, hash) VALUES (70, -1, 'x')",
    "a blob": "INSERT INTO blob (sha256, data) VALUES ('x', 'x')",
    "a key": "INSERT INTO ledger_key (verifier) VALUES ('x')",
    "an artifact": "INSERT INTO sealed (manifest_sha256, sequence) VALUES ('x', 2147483647)",
    "a format": "INSERT INTO registry_format (version) VALUES (99)",
    "a search path": "ALTER ROLE registry_service SET search_path = nowhere",
    "an encoding": "ALTER ROLE registry_service SET client_encoding = 'SQL_ASCII'",
    "another encoding": "ALTER ROLE registry_service SET client_encoding = 'LATIN1'",
    "no writing": "ALTER ROLE registry_service SET default_transaction_read_only = on",
    "no time": "ALTER ROLE registry_service SET statement_timeout = 1",
}
COMMANDS = (
    ("adapters", "list"),
    ("recall", "--document", "R-00011"),
    ("audit", "verify"),
    ("doctor",),
    ("audit", "checkpoint"),
)


@pytest.mark.postgresql
@pytest.mark.security_case(
    "A service's database role inserts rows, or sets a search path, read-only mode or time-out",
    "every command works as before or ends with a message; no result changes",
)
def test_a_service_changes_no_answer_and_every_command_ends_by_a_message(
    bench: Bench, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_owner"])
    owner = bench.open_registry()
    bench.register()
    as_owner(owner, *filter(str.strip, GRANTS.split(";")))
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", roles["registry_service"])
    monkeypatch.setenv("SOVEREIGN_HOME", str(bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(bench.settings.data))

    def ends(*arguments: str) -> tuple[object, str]:
        replay.forget_all()
        with pytest.raises(SystemExit) as end:
            run_program(lambda: app(arguments), print_error)
        return end.value.code, capsys.readouterr().out

    before = {each: ends(*each) for each in COMMANDS}
    assert before["adapters", "list"][0] == before["recall", "--document", "R-00011"][0] == 0
    stops, superuser = set(), create_engine(roles["superuser"])
    for what, statement in JUNK.items():
        attacker = create_engine(roles["registry_service"])
        with attacker.begin() as connection:
            connection.execute(text(statement))
        for arguments in COMMANDS:
            code, shown = ends(*arguments)
            assert code in (0, 1, 2), (what, arguments)
            if code != before[arguments][0]:
                stops.add(what)
            elif arguments != ("doctor",):
                assert shown == before[arguments][1], (what, arguments)
        attacker.dispose()
        as_owner(owner, *UNDONE)
        with superuser.begin() as connection:
            connection.execute(text("ALTER ROLE registry_service RESET ALL"))
    superuser.dispose()
    assert {"an entry", "a key", "a blob", "an artifact"} <= stops and not {"a search path", "an encoding"} & stops
    owner.engine.dispose()


@pytest.mark.postgresql
def test_a_process_that_opens_the_registry_again_and_again_leaves_no_connection_open(
    bench: Bench, postgresql: str
) -> None:
    opened = [open_registry(replace(bench.settings, registry_url=postgresql)) for _ in range(3)]
    for registry in opened:
        light(registry, 1)
    with create_engine(postgresql, isolation_level="AUTOCOMMIT").connect() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        wait_until(lambda: connection.scalar(text(others)) == 0, lambda: "connections stay open")


UNDONE = (
    "DELETE FROM entry WHERE data = 'x'",
    "DELETE FROM node WHERE hash = 'x'",
    "DELETE FROM blob WHERE data = 'x'",
    "DELETE FROM ledger_key WHERE verifier = 'x'",
    "DELETE FROM sealed WHERE manifest_sha256 = 'x'",
    "DELETE FROM registry_format WHERE version = 99",
)


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
