"""An experiment through the command line: killed and resumed, compared, and never registered."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.registry.mlflow_mirror import mirrored
from sovereign_pipeline_tests.end_to_end.conftest import HALTING, Installation, harbour_recipe, install
from sovereign_pipeline_tests.waiting import processes_of, wait_until_ended

pytestmark = pytest.mark.slow

RATES = {
    "experiment": "rates",
    "line": "harbour",
    "vary": {"sft.learning_rate": [0.001, 0.003, 0.01]},
    "budget": {"trials": 3},
    "halving": {"steps": [6]},
}


@pytest.fixture
def installation(tmp_path: Path, tiny_model: Path) -> Installation:
    installation = install(tmp_path, tiny_model)
    (installation.settings.data / "experiments").mkdir()
    (installation.settings.data / "experiments" / "rates.yaml").write_text(yaml.safe_dump(RATES))
    return installation


def test_an_experiment_is_killed_resumed_compared_and_registers_nothing(installation: Installation) -> None:
    """The second training of each of the first two runs halts, so that it is not over when it is killed."""
    installation.write_recipe(harbour_recipe(max_steps=12))
    status, output = installation.ask("experiment", "run", "rates")
    assert status == 2 and "has no selection side" in output and "split: {selection" in output
    recipe = {**harbour_recipe(max_steps=12), "split": {"selection": 0.15}}
    installation.write_recipe(recipe)
    halting = replace(installation, site=HALTING)
    run = halting.start("experiment", "run", "rates")
    assert run.stdout is not None
    printed = ""
    for line in run.stdout:
        printed += line
        if "trial 2 of 3" in line:
            break
    family = psutil.Process(run.pid).children(recursive=True)
    (trainer,) = processes_of(".warm_that_halts", under=run.pid)
    os.kill(trainer.pid, signal.SIGKILL)
    printed += run.stdout.read()
    assert run.wait() == 1 and "SIGKILL" in printed and "Traceback" not in printed, printed
    wait_until_ended(family)

    so_far = installation.json("experiment", "show", "rates")
    assert [trial["state"] for trial in so_far["trials"]] == ["running", "waiting", "waiting"]
    assert so_far["best"] is None and so_far["diff"] == ""
    run = halting.start("experiment", "run", "rates")
    assert run.stdout is not None
    assert any("trial 3 of 3" in line for line in run.stdout)
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()  # the whole command, which Dagster does not notice
    run.communicate()
    wait_until_ended(family)

    status, output = installation.run("experiment", "run", "rates")
    assert status == 0, output
    first, _, _ = output.partition("trial 3 of 3")
    assert "trial 1 of 3" not in first and "trial 2 of 3" not in first  # to their first rung they were trained before
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
