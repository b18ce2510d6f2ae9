"""Dagster and MLflow on a PostgreSQL server: their databases belong to one home."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.files import held_if_free
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.cli.doctor import dagster_database
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.dagster.moving import move
from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.dagster.services import Ports, serve_until_interrupted
from sovereign_pipeline.ops.postgresql import Database, assert_empty
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import RegistryUnreached, open_registry
from sovereign_pipeline.record.tables import AuditEntry, row_as_dict
from sovereign_pipeline.registry.mlflow_mirror import mirrored
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.small_stages import make
from sovereign_pipeline_tests.waiting import free_port

PASSWORD = "lantern-of-the-runs"


@pytest.fixture
def urls(postgresql_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    for variable in (*VARIABLES.values(), "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # restored, whatever opening the instance sets
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    # MLflow remembers in each process which databases it has prepared.
    given = [f"{name}_{uuid.uuid4().hex[:8]}" for name in ("runs", "tracking", "acts")]
    urls = [make_url(postgresql_server).set(database=name, password=PASSWORD) for name in given]
    with engine.connect() as connection:
        for url in urls:
            connection.execute(text(f"CREATE DATABASE {url.database}"))
    names = ("dagster_url", "mlflow_url", "registry_url")
    yield dict(zip(names, (url.render_as_string(hide_password=False) for url in urls), strict=True))
    with engine.connect() as connection:
        for url in urls:
            connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def settings(urls: dict[str, Any], tmp_path: Path) -> Settings:
    del urls["registry_url"]
    return Settings(tmp_path / "home", tmp_path / "data", **urls)


@pytest.mark.postgresql
@pytest.mark.slow
def test_a_database_belongs_to_the_home_that_used_it_first(settings: Settings, tmp_path: Path) -> None:
    with open_instance(settings) as instance:
        instance.add_run(dg.DagsterRun("chain"))
    with mirrored(settings) as client:
        client.create_registered_model("lamps")
    with open_instance(settings) as instance, mirrored(settings) as client:
        assert instance.get_runs_count() == len(client.search_registered_models()) == 1
    assert PASSWORD not in "".join(path.read_text() for path in settings.dagster_home.glob("*.yaml"))
    (finding,) = dagster_database(settings)
    assert finding.ok

    other = replace(settings, home=tmp_path / "other")
    with pytest.raises(ConflictError):
        open_instance(other)
    with pytest.raises(ConflictError), mirrored(other):
        pass
    (finding,) = dagster_database(other)
    assert not finding.ok


@pytest.mark.postgresql
def test_a_database_that_cannot_be_opened_is_named_without_its_password(settings: Settings) -> None:
    nowhere = make_url(settings.dagster_url or "").set(database="nowhere").render_as_string(hide_password=False)
    for url in (nowhere, f"mysql://desk:{PASSWORD}@127.0.0.1/runs", settings.mlflow_url):
        with pytest.raises(InputError) as refused:
            open_instance(replace(settings, dagster_url=url))
        assert PASSWORD not in str(refused.value) and VARIABLES["dagster_url"] in str(refused.value)


def test_a_second_daemon_of_a_home_is_not_started(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home", tmp_path / "data")
    ports = Ports(*(free_port() for _ in range(5)))
    with held_if_free(settings.dagster_home / ".daemon"), pytest.raises(ConflictError):
        serve_until_interrupted(settings, ports, print)


LAMP = dg.AssetKey("lamp")


@dg.asset(
    partitions_def=dg.DynamicPartitionsDefinition(name="line"), check_specs=[dg.AssetCheckSpec("holds", asset="lamp")]
)
def lamp(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]  # Dagster reads another annotation as outputs
    context.log.info(f"lit for {context.partition_key}")
    if context.partition_key == "b":  # a run within the time of another
        _light(context.instance, "a")
    holds = dg.AssetCheckResult(passed=context.partition_key == "a", check_name="holds")
    return dg.MaterializeResult(data_version=dg.DataVersion(context.run.run_id), check_results=[holds])


def _light(instance: dg.DagsterInstance, *lines: str) -> None:
    for line in lines:
        assert dg.materialize([lamp], instance=instance, partition_key=line).success


def _run_of(record: dg.EventLogRecord | None) -> str | None:
    return record.run_id if record is not None else None


def _of_dagster(instance: dg.DagsterInstance) -> dict[str, object]:
    runs = instance.get_run_records(ascending=True)
    logs = {each.dagster_run.run_id: instance.all_logs(each.dagster_run.run_id) for each in runs}
    checks = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(LAMP, "holds"), limit=100)
    return {
        "runs": [(each.dagster_run, each.create_timestamp, each.start_time, each.end_time) for each in runs],
        "logs": {
            run: [(each.timestamp, each.user_message, each.dagster_event) for each in log] for run, log in logs.items()
        },
        "lines": instance.get_dynamic_partitions("line"),
        "newest": [_run_of(instance.get_latest_data_version_record(LAMP, partition_key=line)) for line in "ab"],
        "newest of all": _run_of(instance.fetch_materializations(LAMP, limit=1).records[0]),
        "checks": [(each.run_id, each.status) for each in checks],
        "cursor": instance.run_storage.get_cursor_values({"reviews"}),
    }


def _acts(session: Session) -> list[dict[str, object]]:
    return [row_as_dict(each) for each in session.scalars(select(AuditEntry).order_by(AuditEntry.sequence))]


@pytest.mark.postgresql
@pytest.mark.slow
def test_files_move_to_a_server_with_all_that_is_in_them(institution: DemoInstitution, urls: dict[str, Any]) -> None:
    workplace = institution.workplace()
    settings = workplace.settings
    make(RAW_CORPUS, workplace)
    running = open_registry(settings)  # as a gateway that was started by itself
    with running.writing() as session:
        append(session, "clerk", "lamp lit", {"lamp": "harbour"})
    with open_registry(settings).reading() as session:
        entries = _acts(session)
    with mirrored(settings) as client:
        client.create_registered_model("lamps", tags={"level": "PUBLIC"})
        tracked = client.create_run(client.create_experiment("lamps"))
        client.log_metric(tracked.info.run_id, "loss", 0.5, step=3)
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("line", ["a", "b"])
        _light(instance, "a", "b")
        instance.run_storage.set_cursor_values({"reviews": "7"})
        there = _of_dagster(instance)

    moved_to = replace(settings, **urls)
    with held_if_free(settings.dagster_home / ".daemon"), pytest.raises(ConflictError):
        move(moved_to, print)
    assert {each.variable for each in move(moved_to, print)} == {VARIABLES[setting] for setting in urls}
    assert not {"registry.db", "mlflow.db", "history", "schedules"} & {path.name for path in settings.home.rglob("*")}
    with pytest.raises(RegistryUnreached), running.writing() as session:
        append(session, "gateway", "lamp out", {"lamp": "harbour"})
    with open_registry(moved_to).reading() as session:
        assert _acts(session) == entries
    with open_registry(moved_to).writing() as session:
        append(session, "clerk", "lamp out", {"lamp": "harbour"})
    with mirrored(moved_to) as client:
        assert client.get_registered_model("lamps").tags == {"level": "PUBLIC"}
        assert [each.value for each in client.get_metric_history(tracked.info.run_id, "loss")] == [0.5]
        client.create_run(client.create_experiment("after"))
    with open_instance(moved_to) as instance:
        assert _of_dagster(instance) == there
        _light(instance, "a")
        assert len(instance.get_runs()) == 4
    with pytest.raises(InputError):
        move(moved_to, print)
    with pytest.raises(IntegrityError):  # a command without the variable does not begin another registry
        open_registry(settings)


@pytest.mark.postgresql
@pytest.mark.slow
def test_a_move_that_fails_leaves_the_files_in_use(
    institution: DemoInstitution, urls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = institution.workplace().settings
    with open_registry(settings).writing() as session:
        append(session, "clerk", "lamp lit", {"lamp": "harbour"})
    with mirrored(settings) as client:
        client.create_registered_model("lamps")
    engine = create_engine(make_url(settings.registry_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE entry SET data = data || x'20'"))
    with pytest.raises(IntegrityError):
        move(replace(settings, **urls), print)
    with engine.begin() as connection:
        connection.execute(text("UPDATE entry SET data = substr(data, 1, length(data) - 1)"))
    engine.dispose()
    with open_registry(settings).reading(), mirrored(settings) as client:
        assert client.get_registered_model("lamps")
    for each in urls.values():
        assert_empty(Database("SOVEREIGN_REGISTRY_URL", each))
