"""The stages `sft_adapter`, `reward_model` and `aligned_adapter`: their jobs, results and gates."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import CeilingExceeded, InputError, IntegrityError
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.sandbox import require_sandbox
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.stages import BASE_MODEL, open_base_model, read_descriptor
from sovereign_pipeline.dataset.contamination import NO_CONTAMINATION
from sovereign_pipeline.dataset.jsonl import replaces_instruction, row_files
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.line import Line, no_evaluation
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.policy.training import Preference, Training
from sovereign_pipeline.record.stage import (
    Built,
    Config,
    Gate,
    Inputs,
    Stage,
    Workplace,
    library_versions,
    source_digest,
)
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training import gates
from sovereign_pipeline.training.checkpoints import remove_unless_training
from sovereign_pipeline.training.continuation import (
    GATE_NAME,
    assert_base_not_recalled,
    assert_base_saw_nothing_held_out,
    evaluate_start,
    parent_config,
    parent_digests,
    resolve_parent,
)
from sovereign_pipeline.training.job import Method, RewardJob, RewardModelGiven, TrainingJob, read_result
from sovereign_pipeline.training.report import REPORT_FILE, RLHF_FILE, TRAINING_LIBRARIES, RlhfReport, TrainingReport
from sovereign_pipeline.training.reward_model import REWARD_DIRECTORY, RewardReport
from sovereign_pipeline.training.rlhf.prompts import write_held_out_prompts, write_training_prompts
from sovereign_pipeline.training.rlhf.rewards import code_digests, copy_code
from sovereign_pipeline.training.tuned_model import tuned_model

REWARD_CODE = "reward "
"""Prefix of the external inputs that name the tools of a reward. The path of a program or file follows the prefix."""


def build_sft_adapter(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train the line's SFT adapter; see `train_sft`."""
    return train_sft(workplace, inputs, workspace)


def train_sft(
    workplace: Workplace,
    inputs: Inputs,
    workspace: Path,
    group: str = "sft",
    selection: Sequence[Path] = (),
    until_step: int | None = None,
) -> Built:
    """Train with the line's SFT settings, in the trainer's process. Raises TrainingFailed with the trainer's error, and
    the errors of `_begin` and `resolve_parent`.

    Args:
        group: second part of the checkpoint directory's name, after the line. Several trials may share this directory.
        selection: files of rows on which a trial is measured after the training.
        until_step: step after which a trial pauses; None trains to the end.
    """
    scratch, base = _begin(workplace, inputs, workspace)
    parent = resolve_parent(workplace, inputs, base)
    dataset, *conversations = row_files(inputs[TRAINING_DATASET.kind])
    job = _job(
        workplace,
        inputs,
        scratch,
        "sft",
        {"config": sft_config(workplace.line), "started_from": parent.facts if parent is not None else None},
        group,
        base_model=base,
        dataset=dataset,
        conversations=next(iter(conversations), None),
        selection=tuple(selection),
        until_step=until_step,
        parent_adapter=parent.directory if parent is not None else None,
        files={
            **_base_files(inputs, base),
            **_digests(inputs[TRAINING_DATASET.kind], dataset, *conversations, *selection),
            **(parent.files if parent is not None else {}),
        },
    )
    built = _run(workplace, job, workspace)
    if parent is None:
        return built
    summary = {**built.summary, "started_from": parent.facts}
    return replace(built, summary=summary, classification=parent.classification)


def build_reward_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train a reward model on the preference pairs in the trainer's process. Raises TrainingFailed with the trainer's
    error, and the errors of `_begin`."""
    scratch, base = _begin(workplace, inputs, workspace)
    held_out = scratch / "held_out.jsonl"
    pairs = gates.held_out_pairs(workplace, inputs[LEAKAGE_SAFE_SPLIT.kind])
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in pairs).encode()
    held_out.write_bytes(content)
    dataset, *conversations = row_files(inputs[PREFERENCE_DATASET.kind])
    job = _job(
        workplace,
        inputs,
        scratch,
        "reward",
        {"config": _reward_config(workplace.line)},
        base_model=base,
        dataset=dataset,
        conversations=next(iter(conversations), None),
        reward_model=workplace.line.training.reward_model,
        held_out=held_out,
        files={
            **_base_files(inputs, base),
            **_digests(inputs[PREFERENCE_DATASET.kind], dataset, *conversations),
            held_out: sha256(content).hexdigest(),
        },
    )
    return _run(workplace, job, workspace)


def build_aligned_adapter(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Train the SFT adapter further, on preferences or with a reward (RLHF). Raises TrainingFailed with the trainer's
    error, and the errors of `_begin` and `_prepare_reward`."""
    training = workplace.line.training
    scratch, base = _begin(workplace, inputs, workspace)
    tuned = tuned_model(inputs[SFT_ADAPTER.kind])
    decided_by: Config = {"config": _aligned_config(workplace.line), "started_from": None}
    reward: RewardJob | None = None
    method: Method
    files = inputs[SFT_ADAPTER.kind].digests(tuned.directory)
    conversations: list[Path] = []
    if tuned.holds == "adapter":
        files |= _base_files(inputs, base)
    if training.rlhf is not None:
        workplace.progress("writing the prompts of both sides of the split")
        method = training.rlhf.algorithm
        dataset, reward = _prepare_reward(workplace, inputs, scratch, training.rlhf)
        files |= {path: file_sha256(path) for path in (dataset, reward.held_out)}
        if reward.reward_model is not None:
            files |= inputs[REWARD_MODEL.kind].digests(reward.reward_model.directory)
        decided_by = {**decided_by, "reward": reward.code}
    elif training.preference is not None:
        method = training.preference.method
        dataset, *conversations = row_files(inputs[PREFERENCE_DATASET.kind])
        files |= _digests(inputs[PREFERENCE_DATASET.kind], dataset, *conversations)
    else:
        raise ValueError("aligned_adapter is a passthrough of sft_adapter for a line with neither preference nor rlhf")
    job = _job(
        workplace,
        inputs,
        scratch,
        method,
        decided_by,
        base_model=tuned.directory if tuned.holds == "model" else base,
        dataset=dataset,
        conversations=next(iter(conversations), None),
        preference=_preference(training),
        reward=reward,
        parent_adapter=tuned.directory if tuned.holds == "adapter" else None,
        files=files,
    )
    built = _run(workplace, job, workspace)
    return built if training.rlhf is None else replace(built, classification=_level_of_tools(workplace, training.rlhf))


def _level_of_tools(workplace: Workplace, rlhf: Rlhf) -> str:
    """Return the highest classification level of the reward tools. The policy may learn content of the tools' files.
    Raises CeilingExceeded if this level is above the line's ceiling."""
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    level = ladder.highest(tool.classification for tool in rlhf.tools if tool.classification is not None)
    if ladder.exceeds(level, ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line}: a tool of training.rlhf has the level {level}, but the line's ceiling is "
            f"{ceiling}.",
            "Use a tool with a lower classification, or have the line's ceiling raised.",
        )
    return level


def reward_digests(workplace: Workplace) -> dict[str, str]:
    """Return the external inputs of RLHF: the digests of `reward_code`, each with the prefix `REWARD_CODE` before its
    path. Empty if the line has no rlhf section."""
    rlhf = workplace.line.training.rlhf
    code = {} if rlhf is None else reward_code(workplace.settings, rlhf)
    return {REWARD_CODE + path: digest for path, digest in code.items()}


def reward_code(settings: Settings, rlhf: Rlhf) -> dict[str, str]:
    """Return `code_digests` of the recipe's rlhf section. Raises InputError if a command would see a directory of this
    pipeline or of the institution, or if a tool uses a file in a private directory; and the errors of `code_digests`.
    """
    kept = {"SOVEREIGN_HOME": settings.home, "SOVEREIGN_DATA": settings.data, **settings.secret_directories}
    for path in dict.fromkeys(path.resolve() for tool in rlhf.tools for path in tool.uses):
        for variable, directory in kept.items():
            if path.is_relative_to(directory.resolve()) or directory.resolve().is_relative_to(path):
                raise InputError(
                    f"{path}: a command in training.rlhf must not see {directory} ({variable}).", "Use another path."
                )
    for path in (settings.data / path for tool in rlhf.tools for path in tool.named):
        if (private := settings.private_directory_of(path)) is not None:
            raise InputError(
                f"{path}: a tool of training.rlhf must not see {private}.", "Use another file of the data root."
            )
    return code_digests(settings.data, rlhf)


def _begin(workplace: Workplace, inputs: Inputs, workspace: Path) -> tuple[Path, Path]:
    """Create a directory for the job in the workspace, and verify the base model. Returns the job's directory and the
    base model's directory.

    Raises RecipeError if the line has no evaluation or a recall applies to the base model; IntegrityError if the base
    model differs from its pinned digest; GateRefused if it was, or may have been, tuned locally on rows that are held
    out now or on items of the evaluation.
    """
    if workplace.line.evaluation is None:
        raise no_evaluation(workplace.line)  # the rows were not compared with evaluation suites
    # Inside the workspace, so that a killed run's files are removed with the workspace. Checkpoints outlive it.
    scratch = workspace / "scratch"
    scratch.mkdir()
    base = open_base_model(workplace.settings, inputs[BASE_MODEL.kind], workplace.progress)
    assert_base_not_recalled(workplace, inputs)
    assert_base_saw_nothing_held_out(workplace, inputs)
    return scratch, base


def _digests(artifact: Artifact, *files: Path) -> dict[Path, str]:
    return {path: digest for file in files for path, digest in artifact.digests(file).items()}


def _base_files(inputs: Inputs, base: Path) -> dict[Path, str]:
    """Return a mapping of path to SHA-256, for each file of the line's base model."""
    return {base / name: digest for name, digest in read_descriptor(inputs[BASE_MODEL.kind])["files"].items()}


def _job(
    workplace: Workplace,
    inputs: Inputs,
    scratch: Path,
    method: Method,
    decided_by: Config,
    group: str | None = None,
    **own: Any,
) -> TrainingJob:
    """Build the job of a method.

    Args:
        decided_by: values that decide the result, besides inputs, code and libraries.
        group: second part of the checkpoint directory's name, after the line; None uses the method's name.
        own: fields of the job that only this method has.
    """
    descriptor = read_descriptor(inputs[BASE_MODEL.kind])
    training = workplace.line.training
    home = workplace.settings.home
    identity = digest_of(
        {
            "code": source_digest(),
            "libraries": library_versions(TRAINING_LIBRARIES),
            "inputs": {kind: inputs[kind].ref.digest for kind in inputs},
            **decided_by,
        }
    )
    return TrainingJob(
        method=method,
        base_model_name=descriptor["name"],
        base_model_digest=descriptor["digest"],
        chat_template_sha256=descriptor["chat_template_sha256"],
        eos_ids=tuple(descriptor["eos_ids"]),
        output=scratch / "output",
        result=scratch / "result.json",
        locks=home / "locks",
        identity=identity,
        checkpoint_directory=home / "checkpoints" / f"{workplace.line.line}.{group or method}" / identity[:16],
        references=home / "references",
        seed=training.seed,
        sft=training.sft,
        checkpoints=training.checkpoints,
        devices=training.devices,
        device_watts=workplace.institution.device_watts,
        **own,
    )


def _run(workplace: Workplace, job: TrainingJob, workspace: Path) -> Built:
    """Run the job in the trainer's process, move the job's output into the workspace, and remove the job's directory.
    The job's checkpoints stay until the artifact is in the store, so that an earlier failure does not lose them. Before
    the job starts, checkpoints of the line and method with a different identity are removed, except for trials."""
    if not job.selection:
        of_this_line = job.checkpoint_directory.parent.glob("*")
        remove_unless_training([abandoned for abandoned in of_this_line if abandoned != job.checkpoint_directory])
    scratch = job.result.parent
    workplace.launch(job.write_named(scratch))
    result = read_result(job.result)
    for path in job.output.iterdir():
        path.rename(workspace / path.name)
    shutil.rmtree(scratch)
    report: type[TrainingReport] | type[RewardReport] = RewardReport if job.method == "reward" else TrainingReport
    summary = report.model_validate_json((workspace / REPORT_FILE).read_bytes()).summary
    if job.reward is not None:
        summary["rlhf"] = RlhfReport.model_validate_json((workspace / RLHF_FILE).read_bytes()).summary
    remove_checkpoints = partial(remove_unless_training, [job.checkpoint_directory] if job.until_step is None else [])
    return Built(summary, result.measured, recorded=result.recorded, after_commit=remove_checkpoints)


def _prepare_reward(workplace: Workplace, inputs: Inputs, scratch: Path, rlhf: Rlhf) -> tuple[Path, RewardJob]:
    """Write the prompts and copy the tools into `scratch`. Returns the file of training prompts, and the reward part of
    the job. Training prompts come from the dataset that the SFT adapter was trained on, held-out prompts from that
    dataset's split. Raises CeilingExceeded if a tool is above the line's ceiling; IntegrityError if that split differs
    from the preference dataset's, or if a tool changed while it was copied; SandboxUnavailable if a tool needs a
    sandbox and this machine has none; and the errors of `reward_code`."""
    _level_of_tools(workplace, rlhf)
    if rlhf.tools:
        require_sandbox()
    store = workplace.store
    dataset = store.open_input(inputs["sft_adapter"].manifest, TRAINING_DATASET.kind)
    split = store.open_input(dataset.manifest, LEAKAGE_SAFE_SPLIT.kind)
    of_line = inputs[PREFERENCE_DATASET.kind].manifest.inputs.get(LEAKAGE_SAFE_SPLIT.kind)
    if of_line != split.ref.digest:
        raise IntegrityError(
            f"{dataset.path}: the SFT adapter's dataset was built from a different split than the preference dataset. "
            f"Rows that one of these splits holds out may be training rows in the other split.",
            "Run the line again from training_dataset.",
        )
    before = reward_code(workplace.settings, rlhf)
    code = copy_code(workplace.settings.data, rlhf, scratch / "code")
    if code != before:
        raise IntegrityError(f"{workplace.settings.data}: a reward tool changed while it was copied.", "Run again.")
    training, held_out = scratch / "prompts.jsonl", scratch / "held_out.jsonl"
    write_training_prompts(training, dataset, split)
    instruction, seed = workplace.line.training.instruction, workplace.line.training.seed
    replaces = replaces_instruction(workplace.institution, workplace.line)
    write_held_out_prompts(held_out, split, instruction, rlhf.measured_prompts, seed, replaces)
    reward_model = None
    if rlhf.uses_reward_model:
        artifact = inputs[REWARD_MODEL.kind]
        reward_model = RewardModelGiven(directory=artifact.path / REWARD_DIRECTORY, digest=artifact.ref.digest)
    job = RewardJob(
        rlhf=rlhf,
        held_out=held_out,
        code=code,
        code_directory=scratch / "code",
        cache=workplace.settings.home / "rewards" / workplace.line.line,  # one training of a line runs at a time
        reward_model=reward_model,
    )
    return training, job


def _preference(training: Training) -> Preference | None:
    """Return the preference section with its effective learning rate."""
    if training.preference is None:
        return None
    return training.preference.model_copy(update={"learning_rate": training.preference_learning_rate})


def sft_config(line: Line) -> Config:
    training = line.training
    config = {
        "seed": training.seed,
        "sft": training.sft.model_dump(mode="json"),
        "devices": training.devices.model_dump(mode="json"),
    }
    return config if training.start_from is None else {**config, "start_from": training.start_from}


def _reward_config(line: Line) -> Config:
    """Return the settings that determine a reward model, including the SFT section's keys in `_HELD` and `_SHAPE`."""
    section = line.training.reward_model
    return {
        "seed": line.training.seed,
        "instruction": line.training.instruction,
        "sft": line.training.sft.model_dump(mode="json", include=_HELD | _SHAPE),
        "reward_model": section.model_dump(mode="json") if section is not None else None,
        "devices": line.training.devices.model_dump(mode="json"),
    }


def _aligned_config(line: Line) -> Config:
    """Return the settings that determine an aligned adapter. The SFT section contributes only the keys of `_HELD` and,
    in RLHF, `max_length` and `packing`."""
    preference = _preference(line.training)
    # Keys that only `trl` has are omitted for other methods, so that earlier identities of these methods stay valid.
    absent = {"trainer", "arguments"} if preference is not None and preference.method != "trl" else set()
    config: Config = {
        "seed": line.training.seed,
        "sft": line.training.sft.model_dump(mode="json", include=_HELD),
        "preference": preference.model_dump(mode="json", exclude=absent) if preference is not None else None,
        "devices": line.training.devices.model_dump(mode="json"),
    }
    if line.training.rlhf is None:
        return config
    by_reward = {
        "code": "2",  # a `code_version` that applies to RLHF only
        "rlhf": line.training.rlhf.identity(),
        "instruction": line.training.instruction,
        "passes": line.training.sft.model_dump(mode="json", include={"max_length", "packing"}),
    }
    return {**config, **by_reward}


def _measured_with(line: Line) -> Config:
    section = line.training.reward_model
    return {
        "precision": line.training.sft.precision,
        "instruction": line.training.instruction,
        "max_length": section.max_length if section is not None else None,
    }


def _adapter_shape(line: Line) -> Config:
    return line.training.sft.model_dump(mode="json", include=_SHAPE)


def _compares_authors(line: Line) -> bool:
    """Return True if the stage's process compares the authors of documents with the authors of a parent adapter's
    documents. The comparison needs the corpus root. The trainer's process does not compare authors, because scrubbed
    text names no author."""
    return line.split.by_author


_HELD = {"adapter", "precision", "max_cut_share", "optimizer", "gradient_checkpointing"}
"""Keys of the SFT section for precision and quantisation, the optimizer, memory use, and the limit for omitted rows."""
_SHAPE = {"adapter", "precision", "rank", "alpha", "target_modules", "rslora", "dora"}

_ADAPTER_GATES = (
    Gate(
        name=gates.END_OF_TURN,
        question="Does every row end in a supervised end-of-turn token, and did the model learn to stop?",
        code_version="4",
        evaluate=gates.evaluate_end_of_turn,
        config=lambda line: line.training.sft.model_dump(mode="json", include={"adapter", "precision", "supervise"}),
    ),
    Gate(
        name=gates.ADAPTER_NON_ZERO,
        question=(
            "Does the adapter hold exactly the recipe's tensors, all finite, and no LoRA-B of zeros? Or, after full "
            "tuning, is every tensor of the base present, finite and of the same shape, and every linear layer changed?"
        ),
        code_version="3",
        evaluate=gates.evaluate_adapter_non_zero,
        config=_adapter_shape,
    ),
    Gate(
        name=gates.BASE_DIGEST,
        question="Was the adapter trained on exactly the pinned base model and chat template?",
        code_version="1",
        evaluate=gates.evaluate_base_digest,
    ),
    Gate(
        name=GATE_NAME,
        question=(
            "Were the parent adapter and a locally tuned base model, if there are any, trained without rows of the "
            "current held-out split and without items of the evaluation?"
        ),
        code_version="2",
        evaluate=evaluate_start,
        config=parent_config,
        external=NO_CONTAMINATION.external,
    ),
)

SFT_ADAPTER = Stage(
    kind="sft_adapter",
    code_version="6",
    build=build_sft_adapter,
    inputs=(BASE_MODEL, TRAINING_DATASET),
    config=sft_config,
    external=parent_digests,
    reads_corpus=_compares_authors,
    libraries=TRAINING_LIBRARIES,
    gates=_ADAPTER_GATES,
)

REWARD_MODEL = Stage(
    kind="reward_model",
    code_version="3",
    build=build_reward_model,
    inputs=(BASE_MODEL, LEAKAGE_SAFE_SPLIT, PREFERENCE_DATASET),
    config=_reward_config,
    libraries=TRAINING_LIBRARIES,
    reads_corpus=_compares_authors,
    gates=(
        Gate(
            name=gates.TOLD_APART,
            question="Does it prefer the chosen reply of held-out pairs more often than chance?",
            code_version="2",
            evaluate=gates.evaluate_told_apart,
            config=_measured_with,
        ),
        Gate(
            name=gates.COMPLETE,
            question="Has it exactly the recipe's tensors and a head, finite and changed, for the pinned base model?",
            code_version="1",
            evaluate=gates.evaluate_complete,
            config=_adapter_shape,
        ),
        Gate(
            name=GATE_NAME,
            question=(
                "Was a locally tuned base model, if there is one, trained without rows of the current held-out split "
                "and without items of the evaluation?"
            ),
            code_version="2",
            evaluate=evaluate_start,
            config=parent_config,
            external=NO_CONTAMINATION.external,
        ),
    ),
    passthrough_of=lambda line: PREFERENCE_DATASET.kind if line.training.reward_model is None else None,
)

ALIGNED_ADAPTER = Stage(
    kind="aligned_adapter",
    code_version="5",
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
