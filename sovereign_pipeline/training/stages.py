"""The stages `sft_adapter` and `aligned_adapter`: the trainer's job, its result, and the gates.

What does not belong here: what every stage of training does around its job (`stage_run.py`), what a gate checks
(`gates/`, `continuation.py`), and the training itself (`loop/`).
"""

from pathlib import Path

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Workplace
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.jsonl import LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training.training import Preference, Training
from sovereign_pipeline.training.continuation import (
    GATE_NAME,
    ParentAdapter,
    evaluate_start,
    parent_config,
    parent_digests,
    resolve_parent,
)
from sovereign_pipeline.training.gates import base_digest, end_of_turn, weights
from sovereign_pipeline.training.job import Method, RewardJob, TrainingJob
from sovereign_pipeline.training.report import REPORT_FILE, TRAINING_LIBRARIES, TrainingReport
from sovereign_pipeline.training.reward_model.stages import REWARD_MODEL
from sovereign_pipeline.training.rlhf.preparing import prepare, reward_digests
from sovereign_pipeline.training.rlhf.report import RLHF_FILE, RlhfReport
from sovereign_pipeline.training.stage_run import begin, new_job, run
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model


def build_sft_adapter(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train the SFT adapter in the trainer's process. Raises TrainingFailed with the trainer's failure."""
    return _train(workplace, inputs, workspace, "sft", inputs[TRAINING_DATASET.kind].file(TRAINING_ROWS))


def build_aligned_adapter(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train on preferences or by reward, from the SFT adapter. Raises TrainingFailed with the trainer's failure."""
    if workplace.line.training.rlhf is not None:
        return _train(workplace, inputs, workspace, workplace.line.training.rlhf.algorithm, None)
    preference = workplace.line.training.preference
    if preference is None:
        raise ValueError("aligned_adapter is a passthrough of sft_adapter for a line with neither preference nor rlhf")
    rows = LABEL_ROWS if preference.method == "kto" else PREFERENCE_ROWS
    return _train(workplace, inputs, workspace, preference.method, inputs[PREFERENCE_DATASET.kind].file(rows))


def _train(workplace: Workplace, inputs: Inputs, workspace: Path, method: Method, dataset: Path | None) -> Built:
    """dataset: the rows; None: prompts for a training by reward, which are written here."""
    scratch, base = begin(workplace, inputs, workspace)
    parent = resolve_parent(workplace, inputs, base) if method == "sft" else None
    reward = None
    if dataset is None:
        workplace.progress("writing the prompts of both sides of the split")
        dataset, reward = prepare(workplace, inputs, scratch)
    job = _job(workplace, inputs, scratch, method, dataset, base, parent, reward)
    measured, remove_checkpoints = run(workplace, job, workspace)
    summary = TrainingReport.model_validate_json((workspace / REPORT_FILE).read_bytes()).summary
    if reward is not None:
        summary["rlhf"] = RlhfReport.model_validate_json((workspace / RLHF_FILE).read_bytes()).summary
    if parent is None:
        return Built(summary=summary, measured=measured, after_commit=remove_checkpoints)
    return Built(
        {**summary, "started_from": parent.facts}, measured, parent.classification, after_commit=remove_checkpoints
    )


def _job(
    workplace: Workplace,
    inputs: Inputs,
    scratch: Path,
    method: Method,
    dataset: Path,
    base: Path,
    parent: ParentAdapter | None,
    reward: RewardJob | None,
) -> TrainingJob:
    training = workplace.line.training
    aligned = method != "sft"
    decided_by = {
        "config": (_aligned_config if aligned else _sft_config)(workplace.line),
        "started_from": parent.facts if parent is not None else None,
        **({"reward": reward.code} if reward is not None else {}),
    }
    tuned = tuned_model(inputs[SFT_ADAPTER.kind]) if aligned else None
    return new_job(
        workplace,
        inputs,
        scratch,
        method,
        decided_by,
        base_model=tuned.directory if tuned is not None and tuned.holds == "model" else base,
        dataset=dataset,
        preference=_preference(training) if aligned else None,
        reward=reward,
        parent_adapter=_parent_directory(parent, tuned),
    )


def _parent_directory(parent: ParentAdapter | None, tuned: TunedModel | None) -> Path | None:
    """The PEFT directory to continue from: a registered adapter's for SFT, the SFT adapter's for preferences."""
    if parent is not None:
        return parent.directory
    return tuned.directory if tuned is not None and tuned.holds == "adapter" else None


def _preference(training: Training) -> Preference | None:
    """The section with its effective learning rate."""
    if training.preference is None:
        return None
    return training.preference.model_copy(update={"learning_rate": training.preference_learning_rate})


def _sft_config(line: Line) -> Config:
    training = line.training
    config = {
        "seed": training.seed,
        "sft": training.sft.model_dump(mode="json"),
        "devices": training.devices.model_dump(mode="json"),
    }
    return config if training.start_from is None else {**config, "start_from": training.start_from}


def _aligned_config(line: Line) -> Config:
    """Of the SFT section only how the base model is held, and which rows are left out."""
    holding = {"adapter", "precision", "max_cut_share", "optimizer", "gradient_checkpointing"}
    held = line.training.sft.model_dump(mode="json", include=holding)
    preference = _preference(line.training)
    # Keys of one method only are no part of the others' identity, which was there before them.
    absent = {"trainer", "arguments"} if preference is not None and preference.method != "trl" else set()
    config: Config = {
        "seed": line.training.seed,
        "sft": held,
        "preference": preference.model_dump(mode="json", exclude=absent) if preference is not None else None,
        "devices": line.training.devices.model_dump(mode="json"),
    }
    if line.training.rlhf is None:
        return config
    by_reward = {
        "rlhf": line.training.rlhf.identity(),
        "instruction": line.training.instruction,
        "passes": line.training.sft.model_dump(mode="json", include={"max_length", "packing"}),
    }
    return {**config, **by_reward}


def _compares_authors(line: Line) -> bool:
    """Whether the step, never the trainer, compares authors with those of a parent; no scrubbed text names them."""
    return line.split.by_author


def _adapter_shape(line: Line) -> Config:
    shaping = {"adapter", "rank", "alpha", "target_modules", "rslora", "dora"}
    return line.training.sft.model_dump(mode="json", include=shaping)


def _adapter_held(line: Line) -> Config:
    return line.training.sft.model_dump(mode="json", include={"adapter", "precision"})


_ADAPTER_GATES = (
    Gate(
        name=end_of_turn.NAME,
        question="Does every row end in a supervised end-of-turn token, and did the model learn to stop?",
        code_version="3",
        evaluate=end_of_turn.evaluate_end_of_turn,
        config=_adapter_held,
    ),
    Gate(
        name=weights.NAME,
        question=(
            "Does the adapter hold exactly the recipe's tensors, all finite, and no LoRA-B of zeros? Or, after full "
            "tuning, is every tensor of the base present, finite and of the same shape, and every linear layer changed?"
        ),
        code_version="2",
        evaluate=weights.evaluate_adapter_non_zero,
        config=_adapter_shape,
    ),
    Gate(
        name=base_digest.NAME,
        question="Was the adapter trained on exactly the pinned base model and chat template?",
        code_version="1",
        evaluate=base_digest.evaluate_base_digest,
    ),
    Gate(
        name=GATE_NAME,
        question=(
            "Was the parent adapter, if there is one, trained on no row that is held out now, and so too a base model "
            "that was made here?"
        ),
        code_version="1",
        evaluate=evaluate_start,
        config=parent_config,
    ),
)


SFT_ADAPTER = Stage(
    kind="sft_adapter",
    code_version="4",
    build=build_sft_adapter,
    inputs=(BASE_MODEL, TRAINING_DATASET),
    config=_sft_config,
    external=parent_digests,
    reads_corpus=_compares_authors,
    libraries=TRAINING_LIBRARIES,
    gates=_ADAPTER_GATES,
)

ALIGNED_ADAPTER = Stage(
    kind="aligned_adapter",
    code_version="3",
    build=build_aligned_adapter,
    inputs=(BASE_MODEL, SFT_ADAPTER, PREFERENCE_DATASET),
    optional_inputs=(REWARD_MODEL,),
    reads_optional=lambda line: (REWARD_MODEL.kind,) if line.training.rewards_by_model else (),
    config=_aligned_config,
    libraries=TRAINING_LIBRARIES,
    reads_corpus=_compares_authors,
    gates=_ADAPTER_GATES,
    external=reward_digests,
    passthrough_of=lambda line: (
        SFT_ADAPTER.kind if line.training.preference is None and line.training.rlhf is None else None
    ),
)
