"""Experiments through the real store, with a tiny model: what is trained, what is found again, and what it never is."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import (
    GateRefused,
    IntegrityError,
    NotFoundError,
    RecipeError,
    SovereignError,
    TrainingStopped,
)
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.policy.experiment import Experiment, recipe_diff, settings_of
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace, identity_of
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline.training import experiments
from sovereign_pipeline.training.experiments import (
    TRIAL,
    Results,
    assert_selection_side,
    read_results,
    run_experiment,
    trial_stage,
)
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, TrainingResult
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline.training.tuned_model import stated_weights, tuned_model
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.training.chain import dataset_stage
from sovereign_pipeline_tests.training.conftest import letters

pytestmark = pytest.mark.slow

RATES = {
    "experiment": "rates",
    "vary": {"sft.learning_rate": [1e-3, 1e-2], "sft.rank": [2, 4]},
    "budget": {"trials": 4},
}
TWO_RANKS = {"vary": {"sft.rank": [2, 4]}, "budget": {"trials": 2}}


def _build_split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / HELD_OUT).write_text(json.dumps({"id": "H-0"}) + "\n")
    return Built({}, classification="CONFIDENTIAL")


def _build_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    rows = letters(20)
    (workspace / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    turns = [[{"role": "user", "content": r["input"]}, {"role": "assistant", "content": r["output"]}] for r in rows]
    selection = [{"id": row["id"], "messages": each} for row, each in zip(rows, turns, strict=True)][12:]
    (workspace / "selection.jsonl").write_text("".join(json.dumps(row) + "\n" for row in selection))
    return Built({"rows": 12})


SPLIT = Stage(kind="leakage_safe_split", code_version="1", build=_build_split)
DATASET = Stage(kind="training_dataset", code_version="1", build=_build_dataset, inputs=(SPLIT,))


@dataclass
class Bench:
    """A line with a selection side, whose trainings run in this process."""

    institution: DemoInstitution
    workplace: Workplace
    jobs: list[TrainingJob] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    stop_at: int = 0
    """Number of the training that is stopped, from 1, before its third step."""
    made: list[ArtifactRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workplace = replace(self.workplace, launch=self._launch, progress=self.told.append)
        self.make(BASE_MODEL)
        self.make(SPLIT)
        self.make(DATASET)

    def make(self, stage: Stage) -> ArtifactRef:
        line, store = self.workplace.line.line, self.workplace.store
        inputs = {each.kind: store.current(line, each.kind) for each in stage.inputs}
        ref = produce(stage, self.workplace, {kind: each for kind, each in inputs.items() if each is not None}).ref
        store.make_current(line, stage.kind, ref)
        evaluate_gates(stage, self.workplace, ref)
        return ref

    def experiment(self, **changes: Any) -> Experiment:
        return Experiment.model_validate({**RATES, "line": self.workplace.line.line, **changes})

    def run(self, experiment: Experiment) -> Results:
        settings = settings_of(experiment, self.workplace.line)
        return run_experiment(self.workplace, experiment, settings, lambda trial, ref: self.made.append(ref))

    def read(self, experiment: Experiment) -> Results:
        return read_results(self.workplace, experiment, settings_of(experiment, self.workplace.line))

    def _launch(self, job: Path) -> None:
        given = TrainingJob.read(job)
        self.jobs.append(given)
        steps: list[object] = []
        stops = len(self.jobs) == self.stop_at
        train(given, TrainerHooks(steps.append, self.told.append, should_stop=lambda: stops and len(steps) == 2))
        TrainingResult(measured={"training_seconds": 1.0, "peak_memory_bytes": 1e9}).write(given.result)


@pytest.fixture
def bench(institution: DemoInstitution, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    institution.recipe["split"] = {"selection": 0.2}
    institution.recipe["training"]["sft"] |= {"max_steps": 4, "warmup_steps": 0, "scheduler": "constant"}
    # The stand-ins of the datasets take the place of the real stages, as in `Chain`.
    monkeypatch.setattr(experiments, "TRAINING_DATASET", DATASET)
    return Bench(institution, institution.workplace())


def test_every_trial_is_trained_once_and_measured_on_the_selection_side(bench: Bench) -> None:
    """And the best one has the weights that its diff makes the line train."""
    grid = bench.experiment()
    assert not bench.read(grid).best
    results = bench.run(grid)
    assert [trial.state for trial in results.trials] == ["finished"] * 4 and results.is_complete
    assert results.classification == "CONFIDENTIAL"
    losses = [trial.score["loss"] for trial in results.trials]
    assert results.best is results.trials[losses.index(min(losses))] and len(set(losses)) == 4
    for trial in results.trials:
        assert trial.score["low"] <= trial.score["loss"] <= trial.score["high"] and trial.score["rows"] == 8
        assert trial.behind is not None and trial.behind[1] <= trial.behind[0] <= trial.behind[2]
    assert results.best.behind == (0, 0, 0)
    assert [ref for trial in results.trials for ref in trial.artifacts] == bench.made
    again = bench.run(grid)
    assert len(bench.jobs) == 4 and [trial.to_dict() for trial in again.trials] == [t.to_dict() for t in results.trials]
    assert [trial.to_dict() for trial in bench.read(grid).trials] == [trial.to_dict() for trial in results.trials]
    other = bench.experiment(vary={"sft.rank": [2, 8], "sft.learning_rate": [1e-2]})
    bench.run(other)  # one of its settings was trained by the other experiment
    assert len(bench.jobs) == 5

    name, best = bench.workplace.line.line, results.best
    chosen = settings_of(grid, load_line(bench.workplace.settings.data, name, bench.workplace.institution))
    line = chosen[best.setting.number - 1]
    assert recipe_diff(bench.workplace.settings.data / "lines" / f"{name}.yaml", line)
    bench.workplace = replace(bench.workplace, line=line.line)
    adapter = bench.make(replace(SFT_ADAPTER, inputs=(BASE_MODEL, DATASET), gates=()))
    summary = bench.workplace.store.read_manifest(best.artifacts[-1]).summary
    assert stated_weights(bench.workplace.store.read_manifest(adapter)) == summary["weights_sha256"]


def test_an_interrupted_experiment_trains_on_from_the_checkpoint(bench: Bench) -> None:
    two = bench.experiment(**TWO_RANKS)
    bench.stop_at = 2
    with pytest.raises(TrainingStopped):
        bench.run(two)
    assert [trial.state for trial in bench.read(two).trials] == ["finished", "waiting"]
    results = bench.run(two)
    assert results.is_complete and len(bench.jobs) == 3
    assert "resuming from step-00000003" in bench.told
    assert not list((bench.workplace.settings.home / "checkpoints").rglob("step-*"))


def test_the_worse_half_is_stopped_at_each_rung_and_the_others_train_on(bench: Bench) -> None:
    halved = bench.experiment(halving={"steps": [1, 2]}, vary={"sft.learning_rate": [1e-3, 3e-3, 1e-2, 3e-2]})
    results = bench.run(halved)
    assert sorted((trial.state, trial.steps) for trial in results.trials) == [
        ("finished", 4),
        ("stopped", 1),
        ("stopped", 1),
        ("stopped", 2),
    ]
    assert [job.until_step for job in bench.jobs] == [1, 1, 1, 1, 2, 2, None]
    assert "resuming from step-00000001" in bench.told and "resuming from step-00000002" in bench.told
    first = {job.sft.learning_rate for job in bench.jobs if job.until_step == 2}
    stopped = [trial for trial in results.trials if trial.steps == 1]
    assert first.isdisjoint(trial.setting.line.training.sft.learning_rate for trial in stopped)
    bench.run(halved)
    assert len(bench.jobs) == 7


def test_a_trial_that_diverged_is_recorded_and_never_the_best(bench: Bench) -> None:
    wild = bench.experiment(vary={"sft.learning_rate": [1e30, 1e-2]}, halving={"steps": [2]})
    results = bench.run(wild)
    assert [trial.state for trial in results.trials] == ["diverged", "finished"]
    assert results.trials[0].message and results.best is results.trials[1]
    bench.run(wild)
    assert len(bench.jobs) == 3


def test_no_trial_begins_once_the_hours_are_over(bench: Bench) -> None:
    vary = {"sft.precision": ["bfloat16", "float32"], "sft.rank": [2, 4]}
    short = bench.experiment(budget={"trials": 4, "hours": 1e-9}, vary=vary)
    results = bench.run(short)
    assert [trial.state for trial in results.trials] == ["finished", "waiting", "waiting", "waiting"]
    assert not results.is_complete and any("is used up" in each for each in bench.told)


def test_trials_measure_the_same_turns_of_a_conversation(bench: Bench) -> None:
    def with_a_conversation(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / "conversations.jsonl").write_text("{}\n")
        return _build_dataset(workplace, inputs, workspace)

    bench.make(replace(DATASET, build=with_a_conversation, code_version="2"))
    with pytest.raises(RecipeError):
        bench.run(bench.experiment(vary={"sft.max_length": [256, 512]}, budget={"trials": 2}))
    assert bench.jobs == []


def test_a_line_without_a_selection_side_has_no_experiments(bench: Bench) -> None:
    without = bench.workplace.line.model_copy(
        update={"split": bench.workplace.line.split.model_copy(update={"selection": 0})}
    )
    with pytest.raises(RecipeError) as refused:
        assert_selection_side(without, bench.experiment())
    assert "split: {selection" in refused.value.hint
    old = dataset_stage("training_dataset", "train.jsonl", letters(4))
    bench.make(old)
    with pytest.raises(NotFoundError):
        bench.run(bench.experiment())


@pytest.mark.security_case(
    "A trial of an experiment is named as the line's adapter, in the store's references or in its index",
    "refused: it has neither weights, nor gates, nor an adapter's identity",
)
def test_a_trial_is_no_adapter(bench: Bench) -> None:
    best = bench.run(bench.experiment(**TWO_RANKS)).best
    assert best is not None
    trial, store, line = best.artifacts[-1], bench.workplace.store, bench.workplace.line.line
    artifact = store.open(trial)
    assert trial.kind == TRIAL and {entry.path for entry in artifact.manifest.files} == {
        "report.json",
        "selection_losses.jsonl",
        "training_log.jsonl",
    }
    with pytest.raises(IntegrityError):
        tuned_model(artifact)
    sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, DATASET))
    inputs = {each.kind: ref for each in sft.inputs if (ref := store.current(line, each.kind)) is not None}
    store.remember(identity_of(sft, bench.workplace, inputs).fingerprint, trial)
    with pytest.raises((GateRefused, IntegrityError)):
        bench.make(sft)
    # Named in the store as the line's adapter, by whoever can write there.
    store.make_current(line, "sft_adapter", trial.model_copy(update={"kind": "sft_adapter"}))
    with pytest.raises((GateRefused, IntegrityError)):
        bench.make(Stage(kind="aligned_adapter", code_version="1", build=_build_split, inputs=(sft,)))


@pytest.mark.security_case(
    "An experiment is run where the held-out side is gone, or is put in the place of its selection side",
    "it reads no held-out file; other files than the dataset's are refused",
)
def test_a_trial_reads_no_held_out_row(bench: Bench) -> None:
    grid = bench.experiment()
    settings = settings_of(grid, bench.workplace.line)
    assert {stage.kind for stage in trial_stage(settings[0], "x", None).inputs} == {"base_model", "training_dataset"}
    store, line = bench.workplace.store, bench.workplace.line.line
    split, dataset = (store.current(line, kind) for kind in ("leakage_safe_split", "training_dataset"))
    assert split is not None and dataset is not None
    held_out = (store.path_of(split.digest) / HELD_OUT).read_bytes()
    (store.path_of(split.digest) / HELD_OUT).unlink()
    assert bench.run(bench.experiment(**TWO_RANKS)).is_complete
    for job in bench.jobs:
        read = [*job.row_files, *job.selection, *(job.files or {})]
        assert not any(path.is_relative_to(store.path_of(split.digest)) for path in read)
    (store.path_of(dataset.digest) / "selection.jsonl").write_bytes(held_out)
    with pytest.raises(SovereignError) as refused:
        bench.run(grid)
    assert isinstance(refused.value, IntegrityError)
