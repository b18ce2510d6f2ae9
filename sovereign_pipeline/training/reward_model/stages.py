"""The stage `reward_model`: the trainer's job, its result, and the gates.

What does not belong here: what a gate checks (`gates.py`), and the training itself (`trainer.py`).
"""

import json
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Workplace
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.jsonl import PREFERENCE_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.continuation import GATE_NAME, evaluate_start, parent_config
from sovereign_pipeline.training.report import REPORT_FILE, TRAINING_LIBRARIES
from sovereign_pipeline.training.reward_model.gates import (
    COMPLETE,
    TOLD_APART,
    evaluate_complete,
    evaluate_told_apart,
    held_out_pairs,
)
from sovereign_pipeline.training.reward_model.report import RewardReport
from sovereign_pipeline.training.stage_run import begin, new_job, run


def build_reward_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train on the preference pairs in the trainer's process. Raises TrainingFailed with the trainer's failure."""
    scratch, base = begin(workplace, inputs, workspace)
    held_out = scratch / "held_out.jsonl"
    pairs = held_out_pairs(workplace.line, inputs[LEAKAGE_SAFE_SPLIT.kind])
    held_out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pairs), encoding="utf-8")
    job = new_job(
        workplace,
        inputs,
        scratch,
        "reward",
        {"config": _config(workplace.line)},
        base_model=base,
        dataset=inputs[PREFERENCE_DATASET.kind].file(PREFERENCE_ROWS),
        reward_model=workplace.line.training.reward_model,
        held_out=held_out,
    )
    measured, remove_checkpoints = run(workplace, job, workspace)
    report = RewardReport.model_validate_json((workspace / REPORT_FILE).read_bytes())
    return Built(report.summary, measured, after_commit=remove_checkpoints)


def _config(line: Line) -> Config:
    """Of the SFT section the adapter's shape, how the base model is held, and which rows are left out."""
    held = {"adapter", "precision", "max_cut_share", "optimizer", "gradient_checkpointing"}
    section = line.training.reward_model
    return {
        "seed": line.training.seed,
        "instruction": line.training.instruction,
        "sft": line.training.sft.model_dump(mode="json", include=held | set(_shape(line))),
        "reward_model": section.model_dump(mode="json") if section is not None else None,
        "devices": line.training.devices.model_dump(mode="json"),
    }


def _shape(line: Line) -> Config:
    shaping = {"adapter", "rank", "alpha", "target_modules", "rslora", "dora"}
    return line.training.sft.model_dump(mode="json", include=shaping)


def _measured_with(line: Line) -> Config:
    section = line.training.reward_model
    return {
        "precision": line.training.sft.precision,
        "instruction": line.training.instruction,
        "max_length": section.max_length if section is not None else None,
    }


REWARD_MODEL = Stage(
    kind="reward_model",
    code_version="1",
    build=build_reward_model,
    inputs=(BASE_MODEL, LEAKAGE_SAFE_SPLIT, PREFERENCE_DATASET),
    config=_config,
    libraries=TRAINING_LIBRARIES,
    reads_corpus=lambda line: line.split.by_author,
    gates=(
        Gate(
            name=TOLD_APART,
            question="Does it prefer the chosen reply of held-out pairs more often than chance?",
            code_version="1",
            evaluate=evaluate_told_apart,
            config=_measured_with,
        ),
        Gate(
            name=COMPLETE,
            question="Has it exactly the recipe's tensors and a head, finite and changed, for the pinned base model?",
            code_version="1",
            evaluate=evaluate_complete,
            config=_shape,
        ),
        Gate(
            name=GATE_NAME,
            question="Was a base model that was made here trained on no row that is held out now?",
            code_version="1",
            evaluate=evaluate_start,
            config=parent_config,
        ),
    ),
    passthrough_of=lambda line: PREFERENCE_DATASET.kind if line.training.reward_model is None else None,
)
