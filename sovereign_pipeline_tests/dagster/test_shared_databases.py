"""Dagster and MLflow on a PostgreSQL server: their databases belong to one home."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import create_engine, make_url, text

from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.base.files import held_if_free
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.cli.doctor import dagster_database
from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.dagster.services import Ports, serve_until_interrupted
from sovereign_pipeline.registry.mlflow_mirror import mirrored
from sovereign_pipeline_tests.review.page.servers import free_port

PASSWORD = "lantern-of-the-runs"


@pytest.fixture
def settings(postgresql_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for variable in (*VARIABLES.values(), "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # restored, whatever opening the instance sets
    engine = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    urls = [make_url(postgresql_server).set(database=name, password=PASSWORD) for name in ("runs", "tracking")]
    with engine.connect() as connection:
        for url in urls:
            connection.execute(text(f"CREATE DATABASE {url.database}"))
    dagster, mlflow = (url.render_as_string(hide_password=False) for url in urls)
    yield Settings(tmp_path / "home", tmp_path / "data", dagster_url=dagster, mlflow_url=mlflow)
    with engine.connect() as connection:
        for url in urls:
            connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
    engine.dispose()


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
