"""Where the trainer runs: chosen by the institution, no part of what it makes, and given nothing of this process."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.dagster import resources as trainer
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.training.launcher import (
    INSTALLATION_VARIABLE,
    PARENT_VARIABLE,
    refuse_another_installation,
    remote_environment,
    worker_environment,
)
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.launching.conftest import SECRET, launch_under_dagster, say_where
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.processes.launching import written

pytestmark = pytest.mark.slow


def test_the_institution_chooses_the_launcher(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, make_job: JobMaker
) -> None:
    calls: list[str] = []
    for name in ("run_trainer", "run_trainer_on_kubernetes", "run_trainer_on_ray", "run_trainer_on_slurm"):
        monkeypatch.setattr(trainer, name, lambda *given, name=name: calls.append(name))
    job = written(make_job("where", []))
    for section, called in examples(__file__, "the_institution_chooses_the_launcher"):
        launch_under_dagster(institution, section, job)
        assert calls.pop() == called and not calls, section


def test_where_the_trainer_runs_is_no_part_of_what_it_makes(institution: DemoInstitution) -> None:
    here = institution.workplace()
    say_where(institution.settings, {"where": "ray", "address": "http://head:8265"})
    there: Workplace = institution.workplace_as_written()
    assert isinstance(there.institution.trainer, Ray)
    assert SFT_ADAPTER.config_at(here) == SFT_ADAPTER.config_at(there)


def test_the_remote_environment_holds_nothing_of_this_process(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    given = remote_environment(job)
    assert set(given) == {*worker_environment(job), "HOME", "USER", INSTALLATION_VARIABLE}
    assert PARENT_VARIABLE not in given
    assert given["HF_HUB_OFFLINE"] == "1" and given["PYTHONHASHSEED"] == "0"
    assert SECRET not in json.dumps(given)


def test_a_trainer_of_another_release_refuses_and_another_build_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    given = remote_environment(Path("/job.json"))[INSTALLATION_VARIABLE]
    monkeypatch.setenv(INSTALLATION_VARIABLE, given)
    refuse_another_installation()
    versions = json.loads(given)
    assert "+" not in versions["torch"]
    monkeypatch.setenv(INSTALLATION_VARIABLE, json.dumps({**versions, "peft": "0.1"}))
    with pytest.raises(TrainingFailed, match=r"peft is .*, not 0\.1"):
        refuse_another_installation()
    monkeypatch.setenv(INSTALLATION_VARIABLE, json.dumps({**versions, "the program's source": "0" * 16}))
    with pytest.raises(TrainingFailed, match="the program's source is"):
        refuse_another_installation()
