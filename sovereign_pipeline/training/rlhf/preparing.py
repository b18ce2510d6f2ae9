"""What the stage prepares for a training by reward: files of prompts, and copies of the tools' code.

What does not belong here: the prompts' form (`prompts.py`), and the stage itself (`training/stages.py`).
"""

from pathlib import Path

from sovereign_pipeline.artifacts.stage import Inputs, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.policy.training.rlhf import Rlhf
from sovereign_pipeline.sandbox.sandbox import require_sandbox
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.job import RewardJob, RewardModelGiven
from sovereign_pipeline.training.reward_model.scoring import REWARD_DIRECTORY
from sovereign_pipeline.training.reward_model.stages import REWARD_MODEL
from sovereign_pipeline.training.rlhf.prompts import write_held_out_prompts, write_training_prompts
from sovereign_pipeline.training.rlhf.reward.tools import code_digests, copy_code

REWARD_CODE = "reward "
"""Before the path of a tool's program or file among what an artifact was made from outside the store."""


def reward_digests(workplace: Workplace) -> dict[str, str]:
    """SHA-256 of all that the line's tools consist of; empty for a line without a reward."""
    rlhf = workplace.line.training.rlhf
    return (
        {}
        if rlhf is None
        else {REWARD_CODE + path: each for path, each in reward_code(workplace.settings, rlhf).items()}
    )


def prepare(workplace: Workplace, inputs: Inputs, scratch: Path) -> tuple[Path, RewardJob]:
    """Write the prompts and copy the tools into `scratch`: the file of training prompts, and the job's part.

    Prompts come from the dataset that the SFT adapter was trained on, held-out ones from that dataset's split, which
    must be the line's. Raises IntegrityError when it is not, or when a tool changed since its digest was taken, and
    SandboxUnavailable when there is a tool and this machine cannot run one.
    """
    rlhf = workplace.line.training.rlhf
    if rlhf is None:
        raise ValueError(f"line {workplace.line.line} has no training.rlhf")
    if rlhf.tools:
        require_sandbox()
    store = workplace.store
    dataset = store.open_input(inputs["sft_adapter"].manifest, TRAINING_DATASET.kind)
    split = store.open_input(dataset.manifest, LEAKAGE_SAFE_SPLIT.kind)
    of_line = inputs[PREFERENCE_DATASET.kind].manifest.inputs.get(LEAKAGE_SAFE_SPLIT.kind)
    if of_line != split.ref.digest:
        raise IntegrityError(
            f"{dataset.path}: the SFT adapter's dataset is of another split than the line's; what one holds out the "
            f"other may train on.",
            "Run the line again from training_dataset.",
        )
    before = reward_code(workplace.settings, rlhf)
    code = copy_code(workplace.settings.data, rlhf, scratch / "code")
    if code != before:
        raise IntegrityError(f"{workplace.settings.data}: a reward's tool was changed just now.", "Run again.")
    training, held_out = scratch / "prompts.jsonl", scratch / "held_out.jsonl"
    write_training_prompts(training, dataset, split)
    instruction, seed = workplace.line.training.instruction, workplace.line.training.seed
    write_held_out_prompts(held_out, split, instruction, rlhf.measured_prompts, seed)
    cache = workplace.settings.home / "rewards" / workplace.line.line  # only one training of a line runs at a time
    job = RewardJob(
        rlhf=rlhf,
        held_out=held_out,
        code=code,
        code_directory=scratch / "code",
        cache=cache,
        reward_model=_reward_model(inputs[REWARD_MODEL.kind]) if rlhf.uses_reward_model else None,
    )
    return training, job


def _reward_model(artifact: Artifact) -> RewardModelGiven:
    return RewardModelGiven(directory=artifact.path / REWARD_DIRECTORY, digest=artifact.ref.digest)


def reward_code(settings: Settings, rlhf: Rlhf) -> dict[str, str]:
    """`code_digests` of the section. Raises InputError too where a command would be shown a directory of this pipeline
    or of the institution."""
    kept = {"SOVEREIGN_HOME": settings.home, "SOVEREIGN_DATA": settings.data, **settings.secret_directories}
    for path in dict.fromkeys(path.resolve() for tool in rlhf.tools for path in tool.uses):
        for variable, directory in kept.items():
            if path.is_relative_to(directory.resolve()) or directory.resolve().is_relative_to(path):
                raise InputError(
                    f"{path}: a command in training.rlhf must not see {directory} ({variable}).", "Name another path."
                )
    return code_digests(settings.data, rlhf)
