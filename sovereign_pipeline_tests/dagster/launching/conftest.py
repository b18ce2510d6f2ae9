"""What the tests of launchers share: an interpreter that prints while it loads, a step that launches."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster import resources as trainer
from sovereign_pipeline.training import ray_jobs
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.conftest import make_job, make_session_job, tiny_model
from sovereign_pipeline_tests.training.processes.launching import chatty, program

__all__ = ["make_job", "make_session_job", "tiny_model"]

SECRET = "hunter2-must-not-travel"


@pytest.fixture(autouse=True)
def secrets_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", f"postgresql://registrar:{SECRET}@db/registry")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    # For Ray's head and its client: the head wants the token, and the trainer never sees it.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setattr(ray_jobs, "SECONDS_BETWEEN_POLLS", 0.05)


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The real interpreter with the code under test, and a library that prints a document while it is loaded."""
    return program(tmp_path / "python", f'{chatty(tmp_path)}\nexec {sys.executable} "$@"')


def say_where(settings: Settings, section: dict[str, Any] | None) -> None:
    path = settings.data / "institution.yaml"
    content = yaml.safe_load(path.read_text())
    content.pop("trainer", None)
    path.write_text(yaml.safe_dump(content if section is None else {**content, "trainer": section}))


def launch_under_dagster(institution: DemoInstitution, section: dict[str, Any] | None, job: Path) -> list[str]:
    """Launch a job from the step of an asset; the run's log. What the launcher raises comes through."""
    institution.write()
    say_where(institution.settings, section)
    # Off the volumes of these tests, which mount all of the test's directory.
    secret = ("vault", "review_secrets", "keys", "corpus", "serving")
    nowhere: dict[str, Any] = {name: Path("/nowhere") / name for name in secret}
    settings = replace(institution.settings, **nowhere)
    raised: list[BaseException] = []

    @dg.asset
    def training(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        try:
            trainer.launch_with_pipes(context, settings)(job)
        except SovereignError as error:
            raised.append(error)
            raise
        return dg.MaterializeResult()

    with tempfile.TemporaryDirectory() as keys, dg.instance_for_test() as instance:
        settings = replace(settings, keys=Path(keys))
        result = dg.materialize([training], instance=instance, raise_on_error=False)
        log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    if raised:
        raise raised[0]
    if not result.success:
        raise AssertionError("\n".join(log))
    return log
