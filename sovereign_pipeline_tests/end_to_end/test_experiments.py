"""An experiment through the command line: killed and resumed, compared, and never registered."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import yaml

from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.registry.mlflow_mirror import mirrored
from sovereign_pipeline_tests.end_to_end.conftest import Installation, harbour_recipe, install
from sovereign_pipeline_tests.waiting import processes_of, wait_until_ended

pytestmark = pytest.mark.slow

RATES = {
    "experiment": "rates",
    "line": "harbour",
    "vary": {"sft.learning_rate": [0.001, 0.003, 0.01]},
    "budget": {"trials": 3},
    # Long enough that a kill at a line of the log meets the training that the line names.
    "halving": {"steps": [60]},
}


@pytest.fixture
def installation(tmp_path: Path, tiny_model: Path) -> Installation:
    installation = install(tmp_path, tiny_model)
    (installation.settings.data / "experiments").mkdir()
    (installation.settings.data / "experiments" / "rates.yaml").write_text(yaml.safe_dump(RATES))
    return installation


def test_an_experiment_is_killed_resumed_compared_and_registers_nothing(installation: Installation) -> None:
    installation.write_recipe(harbour_recipe(max_steps=120))
    status, output = installation.ask("experiment", "run", "rates")
    assert status == 2 and "has no selection side" in output and "split: {selection" in output
    recipe = {**harbour_recipe(max_steps=120), "split": {"selection": 0.15}}
    installation.write_recipe(recipe)
    run = installation.start("experiment", "run", "rates")
    assert run.stdout is not None
    printed = ""
    for line in run.stdout:
        printed += line
        if "trial 2 of 3" in line:
            break
    family = psutil.Process(run.pid).children(recursive=True)
    (trainer,) = processes_of("sovereign_pipeline.training.warm", under=run.pid)
    os.kill(trainer.pid, signal.SIGKILL)
    printed += run.stdout.read()
    assert run.wait() == 1 and "SIGKILL" in printed and "Traceback" not in printed, printed
    wait_until_ended(family)

    so_far = installation.json("experiment", "show", "rates")
    assert [trial["state"] for trial in so_far["trials"]] == ["running", "waiting", "waiting"]
    assert so_far["best"] is None and so_far["diff"] == ""
    run = installation.start("experiment", "run", "rates")
    assert run.stdout is not None
    for line in run.stdout:
        if "trial 2 of 3" in line:
            break
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()  # the whole command, which Dagster does not notice
    run.communicate()
    wait_until_ended(family)

    status, output = installation.run("experiment", "run", "rates")
    assert status == 0, output
    assert "trial 1 of 3" not in output.split("trial 3 of 3")[0]  # to its first rung it was trained before the kill
    assert "still in memory" in output and "sovereign experiment show rates" in output

    shown = installation.json("experiment", "show", "rates")
    assert sorted(trial["state"] for trial in shown["trials"]) == ["finished", "finished", "stopped"]
    assert shown["complete"] and shown["classification"] == "CONFIDENTIAL"
    best = next(trial for trial in shown["trials"] if trial["trial"] == shown["best"])
    assert f"learning_rate: {best['values']['sft.learning_rate']}" in shown["diff"] or shown["diff"] == ""
    assert "data:image/png" in Path(shown["page"]).read_text()
    assert installation.json("experiment", "list")[0]["trials"] == 3
    assert installation.json("adapters", "list") == []
    assert installation.store.current("harbour", "sft_adapter") is None

    settings, before = installation.settings, dict(os.environ)
    try:
        instance = open_instance(settings)
        assert set(instance.get_dynamic_partitions("trial")) == {"rates/001", "rates/002", "rates/003"}
        assert "rates" in instance.get_dynamic_partitions("experiment")
    finally:
        os.environ.clear()  # opening the instance sets some
        os.environ.update(before)
    with mirrored(settings) as client:
        (of_line,) = [each for each in client.search_experiments() if each.name.endswith("harbour")]
        runs = client.search_runs([of_line.experiment_id])
    trained = {digest for trial in shown["trials"] for digest in trial["artifacts"]}
    assert {run.data.tags["artifact_digest"] for run in runs} == trained
    assert {run.data.tags["stage"] for run in runs} == {"experiment_trial"}
    losses = {trial["selection"]["loss"] for trial in shown["trials"]}
    assert losses <= {run.data.metrics["selection.loss"] for run in runs}
