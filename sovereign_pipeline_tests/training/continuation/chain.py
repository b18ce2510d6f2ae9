"""Lines that continue from registered adapters: a real registry, real datasets and splits.

Only the training, and the evaluation, are done by hand, in moments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.stages import BASE_MODEL, open_base_model
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.registration import register, registered_adapter_stage
from sovereign_pipeline.training.continuation import resolve_parent
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import split_stage
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import a_report

SHAPE = {"rank": 4, "alpha": 8, "max_length": 512, "precision": "float32"}


def train_by_hand(base: Path, rows: Iterable[Any], target: Path, sft: Sft, parent: Path | None) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(base)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules)
    config = LoraConfig(r=sft.rank, lora_alpha=sft.alpha, target_modules=targets, task_type="CAUSAL_LM")
    model = (
        get_peft_model(loaded, config)
        if parent is None
        else PeftModel.from_pretrained(loaded, parent, is_trainable=True)
    )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for row in rows:
        (completion,) = encode(tokenizer, "sft", row, [EOS_ID]).completions
        loss = model(input_ids=torch.tensor([completion.ids]), labels=torch.tensor([completion.labels])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(target, save_embedding_layers=False)


def build_by_hand(workplace: Workplace, inputs: Inputs, workspace: Path, looks: bool = True) -> Built:
    """looks: whether it asks, as the room does, if the adapter may be gone on from."""
    base = open_base_model(workplace.settings, inputs["base_model"], silent)
    parent = resolve_parent(workplace, inputs, base) if looks else None
    rows = read_jsonl(inputs["training_dataset"].file("train.jsonl"))
    directory = None if parent is None else parent.directory
    train_by_hand(base, rows, workspace / "adapter", workplace.line.training.sft, directory)
    (workspace / "report.json").write_text(a_report(inputs["base_model"]))
    if parent is None:
        return Built(summary={})
    return Built(summary={"started_from": parent.facts}, classification=parent.classification)


def build_without_check(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    return build_by_hand(workplace, inputs, workspace, looks=False)


def _scored(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "report.json").write_text("{}")
    return Built(summary={"outcome": "pass", "loss": 1.0})


GATE = "start_saw_nothing_held_out"


def inputs_of(workplace: Workplace, artifact: Artifact) -> dict[str, Artifact]:
    return {each: workplace.store.open_input(artifact.manifest, each) for each in artifact.manifest.inputs}


def evaluated(workplace: Workplace, artifact: Artifact, inputs: Inputs | None = None) -> Verdict:
    """The verdict of the gate on an adapter, with its own inputs or with these."""
    (gate,) = (each for each in SFT_ADAPTER.gates if each.name == GATE)
    return gate.evaluate(workplace, artifact, inputs or inputs_of(workplace, artifact))


@dataclass
class Office:
    """Runs lines of one institution from the corpus to the registry."""

    institution: DemoInstitution

    def __post_init__(self) -> None:
        split = split_stage()
        self.training = replace(TRAINING_DATASET, inputs=(split,))
        self.preferences = replace(PREFERENCE_DATASET, inputs=(split,))
        self.sft = replace(SFT_ADAPTER, inputs=(BASE_MODEL, self.training), build=build_by_hand)

    def line(self, name: str, rows: list[dict[str, Any]], **training: Any) -> Workplace:
        self.institution.recipe["line"] = name
        self.institution.recipe["training"] = {
            "base_model": "small",
            "instruction": "Answer.",
            "sft": dict(SHAPE),
            **training,
        }
        self.institution.rows = rows
        return self.institution.workplace()

    def make(self, workplace: Workplace, stage: Stage) -> tuple[ArtifactRef, dict[str, Verdict]]:
        inputs = {each.kind: self.make(workplace, each)[0] for each in stage.inputs}
        ref = produce(stage, workplace, inputs).ref
        workplace.store.make_current(workplace.line.line, stage.kind, ref)
        return ref, evaluate_gates(stage, workplace, ref) if ref.kind == stage.kind else {}

    def register(self, workplace: Workplace) -> tuple[Adapter, ArtifactRef]:
        aligned = replace(ALIGNED_ADAPTER, inputs=(BASE_MODEL, self.sft, self.preferences))
        report = Stage("evaluation_report", "1", _scored, (BASE_MODEL, aligned))
        stage = registered_adapter_stage((aligned, report, self.training, self.preferences, BASE_MODEL))
        record, verdicts = self.make(workplace, stage)
        assert all(verdict.passed for verdict in verdicts.values()), verdicts
        return register(open_registry(workplace.settings), workplace, record, stage), record


OLD = [letter(number) for number in range(24)]


NEW = [letter(1000 + number) for number in range(24)]
