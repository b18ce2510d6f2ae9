"""The stages of this package through the real store, with a tiny model; datasets stand in for the rooms before."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, TrainingResult
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline_tests.training.conftest import letters, pairs

Tamper = Callable[[Path], None]


def dataset_stage(kind: str, file: str, rows: list[dict[str, Any]]) -> Stage:
    """Stands for the dataset room, whose stages need the whole chain before them."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Built({"rows": len(rows)}, classification="CONFIDENTIAL")

    return Stage(kind=kind, code_version="1", build=build)


@dataclass
class Chain:
    """Produces and judges the stages of training; `tamper` changes the trainer's output before it is sealed."""

    workplace: Workplace
    tamper: Tamper = lambda output: None
    kept: Path | None = None
    """Directory of outputs; a training whose output is there is not run again."""
    refs: dict[str, ArtifactRef] = field(default_factory=dict)
    trainings: int = 0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workplace = replace(self.workplace, launch=self._launch)
        self._letters = dataset_stage("training_dataset", "train.jsonl", letters(16))
        self._pairs = dataset_stage("preference_dataset", "preferences.jsonl", pairs(8))
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, self._letters))
        self.aligned = replace(ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, self._pairs))

    def make(self, stage: Stage) -> dict[str, Verdict]:
        read = stage.inputs_of(self.workplace.line)
        for each in read:
            if each.kind not in self.refs:
                self.make(each)
        inputs = {each.kind: self.refs[each.kind] for each in read}
        ref = produce(stage, self.workplace, inputs).ref
        self.refs[stage.kind] = ref
        self.workplace.store.make_current(self.workplace.line.line, stage.kind, ref)
        return evaluate_gates(stage, self.workplace, ref) if ref.kind == stage.kind else {}

    def gate(self, name: str, ref: ArtifactRef) -> Verdict:
        """The verdict of one gate on a sft_adapter."""
        artifact = self.workplace.store.open(ref)
        inputs = {kind: self.workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}
        (gate,) = (each for each in SFT_ADAPTER.gates if each.name == name)
        return gate.evaluate(self.workplace, artifact, inputs)

    def _launch(self, job: Path) -> None:
        given, measured = TrainingJob.read(job), {"training_seconds": 1.0}
        kept = None if self.kept is None else self.kept / given.identity
        if kept is not None and kept.exists():
            shutil.copytree(kept, given.output)
        else:
            measured = self._train(given)
            self.trainings += 1
            if kept is not None:
                shutil.copytree(given.output, kept)
        TrainingResult(measured=measured).write(given.result)
        self.tamper(given.output)

    def _train(self, job: TrainingJob) -> dict[str, float]:
        return train(job, TrainerHooks(on_step=lambda step: None, progress=self.told.append))


def with_preference(workplace: Workplace, **changes: Any) -> Workplace:
    recipe = workplace.line.model_dump(mode="json")
    recipe["training"]["preference"] = {"learning_rate": 1e-3, "max_steps": 2, "gradient_accumulation": 2, **changes}
    recipe["sources"].append({**recipe["sources"][0], "name": "pairs", "role": "preferences"})
    return replace(workplace, line=Line.model_validate(recipe))
