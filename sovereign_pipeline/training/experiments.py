"""Run an experiment: train its trials, stop the worse trials early, and compare the trials on the selection side of the
split.

The artifact of a trial is identified by the trial's settings, so a finished trial is reused and never trained again.
The artifact contains only the SHA-256 of the trial's weights, so a trial cannot be registered or served. The inputs of
a trial are the base model and the training dataset. The dataset's selection side shares no rows with the held-out side.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.base.errors import NotFoundError, RecipeError, TrainingDiverged
from sovereign_pipeline.base.files import canonical_json, short
from sovereign_pipeline.base.intervals import clustered_interval
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.jsonl import CONVERSATION_ROWS, SELECTION_ROWS
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.policy.experiment import Experiment, Setting, Value
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Config, Inputs, Stage, Workplace, find_artifact, identity_of
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.training.checkpoints import remove_unless_training
from sovereign_pipeline.training.continuation import parent_digests
from sovereign_pipeline.training.preflight import with_decided_precision
from sovereign_pipeline.training.report import SELECTION_FILE, TRAINING_LIBRARIES
from sovereign_pipeline.training.stages import sft_config, train_sft
from sovereign_pipeline.training.tuned_model import ADAPTER_DIRECTORY, MODEL_DIRECTORY, TunedModel

TRIAL = "experiment_trial"
"""Artifact kind of a trial. No stage has a trial as an input."""
DIVERGED_FILE = "diverged.json"
"""File in the artifact of a trial whose training diverged. The file contains the message of the failed check."""
SELECTION_EXAMPLE = "split: {selection: 0.10}"


def trial_stage(setting: Setting, group: str, until_step: int | None) -> Stage:
    """Return the stage that trains one trial up to one rung. The stage reads neither the split nor the held-out side.

    Args:
        group: name that the experiment's checkpoint directories share; see `stages.train_sft`.
        until_step: the rung, as the step at which the trial pauses and is measured; None trains to the end.
    """
    of_trial = with_decided_precision(setting.line)

    def config(line: Line) -> Config:
        return {**sft_config(of_trial), "until_step": until_step}

    return Stage(
        kind=TRIAL,
        code_version="2",
        build=partial(_build_trial, of_trial, group, until_step),
        inputs=(BASE_MODEL, TRAINING_DATASET),
        config=config,
        external=parent_digests,
        libraries=TRAINING_LIBRARIES,
    )


def _build_trial(
    line: Line, group: str, until_step: int | None, workplace: Workplace, inputs: Inputs, workspace: Path
) -> Built:
    selection = [inputs[TRAINING_DATASET.kind].file(SELECTION_ROWS)]
    try:
        built = train_sft(replace(workplace, line=line), inputs, workspace, group, selection, until_step)
    except TrainingDiverged as error:
        for path in workspace.iterdir():
            shutil.rmtree(path)
        (workspace / DIVERGED_FILE).write_bytes(canonical_json({"message": error.message}) + b"\n")
        return Built({"diverged": error.message})
    name = MODEL_DIRECTORY if line.training.sft.adapter == "none" else ADAPTER_DIRECTORY
    weights = TunedModel("model" if name == MODEL_DIRECTORY else "adapter", workspace / name).weights_sha256
    shutil.rmtree(workspace / name)
    rows = [Row(**row) for row in read_jsonl(workspace / SELECTION_FILE)]  # type: ignore[arg-type]
    score = score_of(rows, line.split.seed)
    return replace(built, summary={**built.summary, "weights_sha256": weights, "selection": score})


@dataclass(frozen=True)
class Row:
    """A trial's mean loss per reply token on one document of the selection side."""

    id: str
    tokens: int
    loss: float


def score_of(rows: Sequence[Row], seed: int) -> dict[str, float]:
    """Return `loss`, the mean loss per reply token; `low` and `high`, the bounds of its 95 % confidence interval
    (clustered by document); and the numbers of `rows` and reply `tokens`. Raises RecipeError if there are no rows."""
    if not rows:
        raise RecipeError("No document of the selection side fits the model's context.", "Raise split.selection.")
    low, high = _interval([row.loss for row in rows], rows, seed)
    return {
        "loss": _mean([row.loss for row in rows], rows),
        "low": low,
        "high": high,
        "rows": len(rows),
        "tokens": sum(row.tokens for row in rows),
    }


def _mean(values: Sequence[float], rows: Sequence[Row]) -> float:
    tokens = sum(row.tokens for row in rows)
    return round(sum(value * row.tokens for value, row in zip(values, rows, strict=True)) / tokens, 6)


def _interval(values: Sequence[float], rows: Sequence[Row], seed: int) -> tuple[float, float]:
    low, high = clustered_interval(values, [row.id for row in rows], seed, [row.tokens for row in rows])
    return round(low, 6), round(high, 6)


State = Literal["waiting", "running", "stopped", "diverged", "finished"]


@dataclass
class Trial:
    """A trial and its progress so far."""

    setting: Setting
    state: State = "waiting"
    """`running`: a rung was measured, and training continues to the next rung. `stopped`: at a rung, the trial was not
    among the best trials."""
    steps: int | None = None
    """Number of steps at the last measurement."""
    score: Mapping[str, float] = field(default_factory=dict)
    """`loss`, `low`, `high`, `rows`, `tokens` of the last measurement; empty if there is no measurement."""
    behind: tuple[float, float, float] | None = None
    """The trial's loss minus the best trial's loss, then the lower and upper bound of the 95 % confidence interval of
    this difference, paired by document. None if the trial has not finished, or measured different tokens."""
    seconds: float = 0.0
    """Duration of all rungs together, in seconds."""
    peak_memory_bytes: float = 0.0
    artifacts: list[ArtifactRef] = field(default_factory=list)
    """One artifact for each rung that the trial has reached."""
    message: str | None = None
    """The message of the failed check, if the trial diverged; otherwise None."""

    def to_dict(self) -> dict[str, Any]:
        values: Mapping[str, Value] = self.setting.values
        behind = dict(zip(("difference", "low", "high"), self.behind, strict=True)) if self.behind is not None else None
        return {
            "trial": self.setting.number,
            "values": dict(values),
            "state": self.state,
            "steps": self.steps,
            "selection": dict(self.score),
            "above_best": behind,
            "seconds": round(self.seconds, 1),
            "peak_memory_bytes": self.peak_memory_bytes,
            "artifacts": [ref.digest for ref in self.artifacts],
            "message": self.message,
        }


@dataclass(frozen=True)
class Results:
    """The results of an experiment's trials so far."""

    trials: Sequence[Trial]
    classification: str
    """Highest classification level of the trials' artifacts and inputs."""

    @property
    def is_complete(self) -> bool:
        return all(trial.state in ("stopped", "diverged", "finished") for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The finished trial with the lowest loss; None if none has finished."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return min(finished, key=_rank, default=None)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)


def run_experiment(
    workplace: Workplace,
    experiment: Experiment,
    settings: Sequence[Setting],
    made: Callable[[Trial, ArtifactRef], None],
) -> Results:
    """Train the unfinished trials until the experiment's budget of hours is used up. Returns the results of all trials.
    When all trials have ended, their checkpoints are removed. Raises the errors of `produce` and `compare`.

    Args:
        made: function that is called with a trial and its artifact for each rung, whether trained now or earlier.
    """
    inputs, group = shared_inputs(workplace), _group(experiment)
    spent = 0.0

    def measured(trial: Trial, until_step: int | None) -> ArtifactRef | None:
        nonlocal spent
        setting, hours = trial.setting, experiment.budget.hours
        stage = trial_stage(setting, group, until_step)
        ref = find_artifact(workplace, identity_of(stage, workplace, inputs))
        described = ", ".join(f"{key} {value}" for key, value in setting.values.items())
        if ref is None:
            if hours is not None and spent >= hours * 3600:
                workplace.progress(f"trial {setting.number} is not trained: the budget of {hours:g} hours is used up")
                return None
            to = f"to step {until_step}" if until_step is not None else "to its end"
            workplace.progress(f"trial {setting.number} of {len(settings)}, {described}: {to}")
            ref = produce(stage, workplace, inputs).ref
        manifest = workplace.store.read_manifest(ref)
        spent += manifest.circumstances.measured["seconds"]
        loss = manifest.summary.get("selection", {}).get("loss")
        workplace.progress(
            f"trial {setting.number}, {described}: {'diverged' if loss is None else f'loss {loss:.4f}'} "
            f"({short(ref.digest)})"
        )
        made(trial, ref)
        return ref

    results = compare(workplace, experiment, settings, measured)
    if results.is_complete:
        directory = workplace.settings.home / "checkpoints" / f"{workplace.line.line}.{group}"
        remove_unless_training(list(directory.glob("*")))
    return results


def read_results(workplace: Workplace, experiment: Experiment, settings: Sequence[Setting]) -> Results:
    """Read the results so far from the artifacts in the store, without training. Raises the errors of `compare`."""
    inputs, group = shared_inputs(workplace), _group(experiment)

    def measured(trial: Trial, until_step: int | None) -> ArtifactRef | None:
        stage = trial_stage(trial.setting, group, until_step)
        return find_artifact(workplace, identity_of(stage, workplace, inputs))

    return compare(workplace, experiment, settings, measured)


def assert_selection_side(line: Line, experiment: Experiment) -> None:
    """Raise RecipeError if the line has no selection side."""
    if not line.split.selection:
        raise RecipeError(
            f"Line {line.line} has no selection side, but experiment {experiment.experiment} needs one.",
            f"Add to the recipe: {SELECTION_EXAMPLE}. The documents of the selection side are not trained on.",
        )


def shared_inputs(workplace: Workplace) -> dict[str, ArtifactRef]:
    """Return the line's current base model and training dataset. Raises NotFoundError if either is missing, or if the
    dataset has no selection side."""
    line = workplace.line.line
    found = {stage.kind: workplace.store.current(line, stage.kind) for stage in (BASE_MODEL, TRAINING_DATASET)}
    dataset = found[TRAINING_DATASET.kind]
    if dataset is not None:
        files = workplace.store.read_manifest(dataset).files
        if SELECTION_ROWS not in {entry.path for entry in files}:
            raise NotFoundError(
                f"Line {line}: the current training_dataset was built before split.selection was set in the recipe.",
                "Run the line again.",
                act="run_line_until",
                line=line,
                until=TRAINING_DATASET.kind,
            )
    missing = [kind for kind, ref in found.items() if ref is None]
    if missing:
        raise NotFoundError(
            f"Line {line} has no {' and no '.join(missing)} yet.",
            "Run the line first.",
            act="run_line_until",
            line=line,
            until=missing[0],
        )
    return {kind: ref for kind, ref in found.items() if ref is not None}


def compare(
    workplace: Workplace,
    experiment: Experiment,
    settings: Sequence[Setting],
    measured: Callable[[Trial, int | None], ArtifactRef | None],
) -> Results:
    """Advance the trials rung by rung, and compare each finished trial with the best one. Raises RecipeError if the
    trials would measure different tokens, and the errors of `shared_inputs`.

    Args:
        measured: function that returns the artifact of a trial at a rung; None if the trial was not trained that far.
    """
    store = workplace.store
    _assert_same_tokens(workplace, experiment)
    trials = [Trial(setting) for setting in settings]
    going, rows = list(trials), dict[int, list[Row]]()
    for until_step in experiment.rungs:
        for trial in going:
            ref = measured(trial, until_step)
            if ref is not None:
                rows[trial.setting.number] = _take(store, trial, ref, is_end=until_step is None)
        if any(len(trial.artifacts) <= experiment.rungs.index(until_step) for trial in going):
            break
        going = [trial for trial in going if trial.state == "running"]
        if experiment.halving is not None:
            kept = sorted(going, key=_rank)[: math.ceil(len(going) * experiment.halving.keep)]
            for trial in going:
                trial.state = "running" if trial in kept else "stopped"
            going = [trial for trial in going if trial in kept]
    found = [store.read_manifest(ref).classification for trial in trials for ref in trial.artifacts]
    lowest = [store.read_manifest(ref).classification for ref in shared_inputs(workplace).values()]
    results = Results(trials, workplace.institution.ladder.highest([*found, *lowest]))
    if (best := results.best) is not None:
        _compare_with(rows[best.setting.number], trials, rows, workplace.line.split.seed)
    return results


def _assert_same_tokens(workplace: Workplace, experiment: Experiment) -> None:
    """Raise RecipeError if the trials would truncate conversations at different turns, so that their tokens differ."""
    files = workplace.store.read_manifest(shared_inputs(workplace)[TRAINING_DATASET.kind]).files
    if "sft.max_length" in experiment.vary and CONVERSATION_ROWS in {entry.path for entry in files}:
        raise RecipeError(
            f"Experiment {experiment.experiment}: sft.max_length cannot vary on line {workplace.line.line}, because "
            f"the maximum length decides which turns of a conversation are measured.",
            "Set one sft.max_length in the line's recipe.",
        )


def _take(store: ArtifactStore, trial: Trial, ref: ArtifactRef, is_end: bool) -> list[Row]:
    """Add the measurement at a rung to `trial`. Returns one row with the loss for each document; empty if the trial
    diverged."""
    manifest = store.read_manifest(ref)
    measured, summary = manifest.circumstances.measured, manifest.summary
    trial.artifacts.append(ref)
    trial.seconds += measured["seconds"]
    trial.peak_memory_bytes = max(trial.peak_memory_bytes, measured.get("peak_memory_bytes", 0.0))
    if "diverged" in summary:
        trial.state, trial.message, trial.score = "diverged", summary["diverged"], {}
        return []
    trial.state = "finished" if is_end else "running"
    trial.steps, trial.score = summary["steps"], summary["selection"]
    lines = store.read_file(ref, manifest, SELECTION_FILE).splitlines()
    return [Row(**json.loads(line)) for line in lines]


def _compare_with(best: Sequence[Row], trials: Sequence[Trial], rows: Mapping[int, Sequence[Row]], seed: int) -> None:
    """Set `behind` of each finished trial that measured the same documents and tokens as the best trial."""
    for trial in trials:
        own = rows.get(trial.setting.number, [])
        if trial.state != "finished":
            continue
        if [(row.id, row.tokens) for row in own] != [(row.id, row.tokens) for row in best]:
            continue  # a different max_length truncates conversations at different turns, so the tokens differ
        differences = [one.loss - other.loss for one, other in zip(own, best, strict=True)]
        trial.behind = (_mean(differences, own), *_interval(differences, own, seed))


def _rank(trial: Trial) -> tuple[float, int]:
    return trial.score["loss"], trial.setting.number


def _group(experiment: Experiment) -> str:
    return f"experiment-{experiment.experiment}"
