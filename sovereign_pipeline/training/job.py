"""The job file, the result file and the hooks that connect a stage with the trainer's process."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from sovereign_pipeline.base.errors import Act, IntegrityError, SovereignError, TrainingFailed
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.policy.rlhf import RewardModel, Rlhf, Tuning
from sovereign_pipeline.policy.training import Checkpoints, Devices, Preference, Sft

Method = Literal["sft", "dpo", "ipo", "kto", "trl", "reward", "ppo", "rloo", "grpo"]


class RewardModelGiven(Frozen):
    """A reward model that judges replies."""

    directory: Path
    """PEFT directory with the head."""
    digest: str
    """Digest of its artifact."""


class RewardJob(Frozen):
    """The part of a job that learns from a reward. The job's dataset is then a file of prompts."""

    rlhf: Rlhf
    held_out: Path
    """JSONL file of held-out prompts, which are only measured."""
    code: dict[str, str]
    """Path of each tool's program and files, as in the recipe, and of what a command uses of the machine -> SHA-256."""
    code_directory: Path
    """Directory of copies of programs and files, each named by its SHA-256."""
    cache: Path
    """Directory of cached scores."""
    reward_model: RewardModelGiven | None = None
    """Where a part of the reward, or of what is measured, is judged by one."""

    @model_validator(mode="after")
    def _has_what_judges(self) -> "RewardJob":
        if self.rlhf.uses_reward_model != (self.reward_model is not None):
            raise ValueError("a reward model is given exactly where a part of the section uses one")
        return self


class TrainingJob(Frozen):
    """One run of the trainer."""

    method: Method
    base_model: Path
    """Directory of the model that is trained, or that the adapter is put on."""
    base_model_name: str
    """As the base_model artifact has it; so are the next three."""
    base_model_digest: str
    chat_template_sha256: str
    eos_ids: tuple[int, ...]
    dataset: Path
    """JSONL file of the rows."""
    output: Path
    """Directory that the trainer creates: `adapter/` or `model/`, `training_log.jsonl`, `report.json`."""
    result: Path
    """File of the trainer's `TrainingResult`."""
    locks: Path
    """Directory of the locks that allow one trainer per device."""
    identity: str
    """Digest of everything that decides the result; a checkpoint with another one is refused."""
    checkpoint_directory: Path
    """Checkpoints of this identity."""
    references: Path
    """Directory of cached reference log-probabilities."""
    seed: int
    sft: Sft
    """For a preference method too: how the model is held (adapter, precision)."""
    preference: Preference | None = None
    """For a preference method only, with its learning rate."""
    reward_model: RewardModel | None = None
    """For method `reward` only, which trains a reward model."""
    held_out: Path | None = None
    """For method `reward` only: JSONL file of held-out pairs, which are only measured."""
    reward: RewardJob | None = None
    """For an algorithm that learns from a reward only."""
    parent_adapter: Path | None = None
    """PEFT directory that training continues from; every method after SFT on an adapter needs one."""
    checkpoints: Checkpoints = Checkpoints()
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _method_has_its_section(self) -> "TrainingJob":
        if self.sft.precision == "auto":
            raise ValueError("precision: auto is decided where the recipe is read, before there is a job")
        if self.method == "sft":
            return self
        if self.method == "reward":
            if self.reward_model is None or self.held_out is None or self.parent_adapter is not None:
                raise ValueError("reward needs its section and held-out pairs, and continues from nothing")
            return self
        if self.reward is not None or self.method in ("ppo", "rloo", "grpo"):
            if self.reward is None or self.reward.rlhf.algorithm != self.method or self.parent_adapter is None:
                raise ValueError(f"{self.method} needs its reward section and an adapter to continue from")
            return self
        if self.preference is None or self.preference.method != self.method or self.preference.learning_rate is None:
            raise ValueError(f"{self.method} needs its preference section, with a learning rate")
        if self.parent_adapter is None and self.sft.adapter != "none":
            raise ValueError(f"{self.method} continues from an adapter, and none is given")
        return self

    @property
    def tuning(self) -> Tuning:
        """The section with length and batches of this method's training."""
        return self.reward_model or (self.sft if self.method == "sft" or self.preference is None else self.preference)

    @property
    def packs(self) -> bool:
        """Whether several replies share a row in one pass; TRL pads them instead."""
        return self.tuning.packing and not self.is_trls

    @property
    def is_trls(self) -> bool:
        """Whether a trainer of TRL has the losses and the forward passes."""
        return self.method in ("trl", "reward", "rloo", "grpo")

    @property
    def learning_rate(self) -> float:
        if self.reward_model is not None:
            return self.reward_model.learning_rate
        if self.reward is not None:
            return self.reward.rlhf.learning_rate
        preferred = None if self.method == "sft" or self.preference is None else self.preference.learning_rate
        return self.sft.learning_rate if preferred is None else preferred

    @classmethod
    def read(cls, path: Path) -> "TrainingJob":
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")


class Failure(Frozen):
    """An error of the trainer's process, to be raised in the process that started it."""

    message: str
    hint: str = ""
    act: Act | None = None
    about: dict[str, str] = {}
    """Arguments of the act."""

    @classmethod
    def of(cls, error: SovereignError) -> "Failure":
        if error.remedy is None:
            return cls(message=error.message, hint=error.hint)
        return cls(message=error.message, hint=error.hint, act=error.remedy.act, about=dict(error.remedy.about))

    def as_error(self) -> TrainingFailed:
        return TrainingFailed(self.message, self.hint, act=self.act, **self.about)


class TrainingResult(Frozen):
    """The result of the trainer's process."""

    failure: Failure | None = None
    """None after a training that ended well."""
    measured: dict[str, float] = {}
    """Durations (s), rates (tokens/s), bytes."""

    def write(self, path: Path) -> None:
        """Write the whole file, or leave the one that is there.

        Of several processes the first result counts: when one fails, the others fail in consequence.
        """
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            path.hardlink_to(aside)
        aside.unlink()


def read_result(path: Path) -> TrainingResult:
    """The trainer's result. Raises TrainingFailed when it states a failure, or when there is none."""
    if not path.is_file():
        raise TrainingFailed(
            f"{path}: the trainer ended without a result. It was killed from outside, most often because memory ran "
            f"out.",
            "Free memory, or lower training.sft.max_length or batch_size in the recipe. Then run again.",
        )
    try:
        result = TrainingResult.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(f"{path}: this is no trainer's result.", "Run again.") from None
    if result.failure is not None:
        raise result.failure.as_error()
    return result


def lock_of_line(checkpoint_directory: Path) -> Path:
    """Held while a line is trained by one method, and while its checkpoints are removed."""
    directory = checkpoint_directory.parent
    return directory.with_name(f"{directory.name}.lock")


def lock_of_device(directory: Path) -> Path:
    """Held while the devices that this process sees are in use."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "default"
    return directory / f"trainer-{device}.lock"


@dataclass(frozen=True)
class Step:
    """Progress of a training after a step."""

    step: int
    steps: int
    loss: float
    """Loss of this step."""
    tokens_per_second: float
    """Mean since the start of this process's training."""
    seconds_left: float
    """An estimate."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class TrainerHooks:
    """Functions of the process that the training loop calls."""

    on_step: Callable[[Step], None]
    progress: Callable[[str], None]
    """For messages to people; never given document text."""
    should_stop: Callable[[], bool] = _never
    """Whether a stop was requested; the training then saves a checkpoint and ends."""


def stopped_before_first_step() -> TrainingFailed:
    """The error of a training that was stopped while it prepared, where there is nothing to save."""
    return TrainingFailed(
        "The training was stopped, as requested, before its first step.",
        "Run again; a checkpoint of an earlier run is kept.",
    )
