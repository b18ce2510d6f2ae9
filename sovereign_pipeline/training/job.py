"""Define the job file, the result file and the hooks that connect a stage with the trainer's process."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import model_validator

from sovereign_pipeline.base.errors import (
    Act,
    IntegrityError,
    SovereignError,
    TrainingDiverged,
    TrainingFailed,
    TrainingStopped,
)
from sovereign_pipeline.base.files import FIND_OUT, Frozen, canonical_json, keyed_digest
from sovereign_pipeline.policy.rlhf import RewardModel, Rlhf, Tuning
from sovereign_pipeline.policy.training import Checkpoints, Devices, Preference, Sft

KEY_VARIABLE = "SOVEREIGN_TRAINER_KEY"
"""Environment variable with the key for the MACs of `mark_of`, 64 hex digits. Each training identity has its own key.
The key is not used for signatures."""
_key = bytes.fromhex(os.environ.get(KEY_VARIABLE) or secrets.token_hex(32))
"""Key for MACs. A process without the environment variable uses a random key, and therefore accepts only its own
files."""
Method = Literal["sft", "dpo", "ipo", "kto", "trl", "reward", "ppo", "rloo", "grpo"]


class RewardModelGiven(Frozen):
    """A trained reward model that scores replies."""

    directory: Path
    """PEFT directory of the reward model, including the score head."""
    digest: str
    """Digest of the reward model's artifact."""


class RewardJob(Frozen):
    """The settings of an RLHF job. In such a job, `TrainingJob.dataset` is a file of prompts."""

    rlhf: Rlhf
    held_out: Path
    """JSONL file of held-out prompts, which are measured but never trained on."""
    code: dict[str, str]
    """SHA-256 of the program and files of each tool, and of the local files that a command uses. Each key is a path, as
    the recipe states it."""
    code_directory: Path
    """Directory with a copy of each program and file. A copy's name is its SHA-256."""
    cache: Path
    """Directory of cached scores."""
    reward_model: RewardModelGiven | None = None
    """Reward model; None if no part of the reward or of the held-out measurement uses a reward model."""

    @model_validator(mode="after")
    def _has_what_judges(self) -> "RewardJob":
        if self.rlhf.uses_reward_model != (self.reward_model is not None):
            raise ValueError("reward_model must be set if, and only if, the rlhf section uses a reward model")
        return self


class TrainingJob(Frozen):
    """The description of one run of the trainer."""

    method: Method
    base_model: Path
    """Directory of the model that is trained, or that the adapter is added to."""
    base_model_name: str
    """Name of the base model in the base_model artifact. The next three values are from the same artifact."""
    base_model_digest: str
    chat_template_sha256: str
    eos_ids: tuple[int, ...]
    dataset: Path
    """JSONL file of the rows to train on; in RLHF, JSONL file of the prompts."""
    conversations: Path | None = None
    """JSONL file of further rows to train on."""
    output: Path
    """Directory that the trainer creates, with `adapter/` or `model/`, `training_log.jsonl` and `report.json`."""
    result: Path
    """File for the trainer's `TrainingResult`."""
    locks: Path
    """Directory of the lock files, which ensure that only one trainer uses a device at a time."""
    identity: str
    """Digest of everything that affects the result. A checkpoint with a different identity is skipped."""
    checkpoint_directory: Path
    """Directory of checkpoints with this identity."""
    references: Path
    """Directory of cached reference log-probabilities."""
    seed: int
    sft: Sft
    """SFT section of the recipe. Preference methods also use its adapter and precision settings."""
    preference: Preference | None = None
    """Preference section of the recipe, with the effective learning rate; None for methods that are not preference
    methods."""
    reward_model: RewardModel | None = None
    """Settings for training a reward model; only for method `reward`."""
    held_out: Path | None = None
    """JSONL file of held-out pairs, which are measured but never trained on; only for method `reward`."""
    reward: RewardJob | None = None
    """Settings of RLHF; only for methods `ppo`, `rloo` and `grpo`."""
    selection: tuple[Path, ...] = ()
    """JSONL files of the selection side. The loss on the rows of these files is measured after the training. Only
    trials of experiments have such files."""
    until_step: int | None = None
    """Step after which a trial pauses. The trial is then measured. Its checkpoint stays, so that a later job can resume
    the trial."""
    parent_adapter: Path | None = None
    """PEFT directory of the adapter that training continues from. Required for RLHF, and for preference methods unless
    `sft.adapter` is `none`. Must be None for method `reward`."""
    files: dict[Path, str] | None = None
    """Mapping of path to SHA-256, for every file that the trainer reads. The stage verified these hashes. None only for
    a job that no stage created."""
    checkpoints: Checkpoints = Checkpoints()
    devices: Devices = Devices()
    device_watts: float | None = None
    """Power of one device in watts. It is used if the devices have no energy counters; see `Institution`."""

    @model_validator(mode="after")
    def _method_has_its_section(self) -> "TrainingJob":
        if (self.selection or self.until_step) and self.method != "sft":
            raise ValueError("selection and until_step are only for method sft")
        if self.sft.precision == "auto":
            raise ValueError("sft.precision is auto; a job needs the precision that the stage decided")
        if self.method == "sft":
            return self
        if self.method == "reward":
            if self.reward_model is None or self.held_out is None or self.parent_adapter is not None:
                raise ValueError("reward needs reward_model and held_out, and must have no parent_adapter")
            return self
        if self.reward is not None or self.method in ("ppo", "rloo", "grpo"):
            if self.reward is None or self.reward.rlhf.algorithm != self.method or self.parent_adapter is None:
                raise ValueError(f"{self.method} needs a reward section with this algorithm, and parent_adapter")
            return self
        if self.preference is None or self.preference.method != self.method or self.preference.learning_rate is None:
            raise ValueError(f"{self.method} needs a preference section with this method and a learning rate")
        if self.parent_adapter is None and self.sft.adapter != "none":
            raise ValueError(f"{self.method} continues from an adapter, but parent_adapter is not set")
        return self

    @property
    def tuning(self) -> Tuning:
        """Section of the recipe that sets this method's maximum length and batch sizes."""
        return self.reward_model or (self.sft if self.method == "sft" or self.preference is None else self.preference)

    @property
    def row_files(self) -> list[Path]:
        return [each for each in (self.dataset, self.conversations) if each is not None]

    @property
    def directories(self) -> list[Path]:
        """Directories of models and adapters that the trainer reads."""
        reward_model = self.reward.reward_model if self.reward is not None else None
        own = [self.base_model, self.parent_adapter, reward_model.directory if reward_model is not None else None]
        return [each for each in own if each is not None]

    @property
    def inputs(self) -> list[Path]:
        """Directories and files that the trainer reads."""
        return [*self.directories, *self.row_files, *(self.files or ())]

    @property
    def packs(self) -> bool:
        """True if a pass concatenates several replies in one row. TRL pads replies instead."""
        return self.tuning.packing and not self.is_trls

    @property
    def is_trls(self) -> bool:
        """True if one of TRL's trainers computes the losses and the forward passes."""
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
        """Read a job. Raises IntegrityError if a file that `write_named` wrote was changed."""
        content = path.read_bytes()
        if path.stem not in ("job", sha256(content).hexdigest()):
            raise IntegrityError(f"{path}: this job file was changed after the job was launched.", FIND_OUT)
        return cls.model_validate_json(content)

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    def write_named(self, directory: Path) -> Path:
        """Write the job to a file whose name is the content's SHA-256, so that the trainer can verify the content."""
        content = self.model_dump_json().encode()
        path = directory / f"{sha256(content).hexdigest()}.json"
        path.write_bytes(content)
        return path


class Failure(Frozen):
    """Describes an error in the trainer's process. The process that started the trainer raises it as an exception
    (`as_error`)."""

    message: str
    hint: str = ""
    act: Act | None = None
    about: dict[str, str] = {}
    """Mapping of argument name to value, for the remedy `act`."""
    resumes: bool = False
    """True if a new run of the same job resumes from this run's last checkpoint."""
    diverged: bool = False
    """True if the job's settings caused the error, so that the same job would fail again."""

    @classmethod
    def of(cls, error: SovereignError) -> "Failure":
        resumes, diverged = isinstance(error, TrainingStopped), isinstance(error, TrainingDiverged)
        if error.remedy is None:
            return cls(message=error.message, hint=error.hint, resumes=resumes, diverged=diverged)
        return cls(message=error.message, hint=error.hint, act=error.remedy.act, about=dict(error.remedy.about))

    def as_error(self) -> TrainingFailed:
        if self.resumes:
            return TrainingStopped(self.message, self.hint)
        if self.diverged:
            return TrainingDiverged(self.message, self.hint)
        return TrainingFailed(self.message, self.hint, act=self.act, **self.about)


class TrainingResult(Frozen):
    """The result of the trainer's process."""

    failure: Failure | None = None
    """Error of the training; None if it succeeded."""
    measured: dict[str, float] = {}
    """Durations (s), rates (tokens/s), bytes, energy (kWh)."""
    recorded: dict[str, str] = {}
    """Further facts that may differ between training runs with equal inputs, such as the source of the energy value."""

    def write(self, path: Path) -> None:
        """Write the result file atomically, unless it exists. With several processes the first result counts, because
        the failure of one process makes all other processes fail."""
        aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # process ids are not unique across nodes
        aside.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            path.hardlink_to(aside)
        aside.unlink()


def read_result(path: Path) -> TrainingResult:
    """Read the trainer's result. Raises TrainingFailed if the result states a failure or is missing, and IntegrityError
    if the file is not a trainer's result."""
    if not path.is_file():
        raise TrainingFailed(
            f"{path}: the trainer ended without a result. The trainer was killed from outside, most often because "
            f"memory ran out.",
            "Free memory, or lower training.sft.max_length or batch_size in the recipe. Then run again.",
        )
    try:
        result = TrainingResult.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(f"{path}: this file is not a trainer's result.", "Run again.") from None
    if result.failure is not None:
        raise result.failure.as_error()
    return result


def mark_of(purpose: str, value: Any, key: bytes | None = None) -> str:
    """Return the MAC (keyed digest) of a value. A resumed job uses MACs to recognise its own files. key: key of the
    MAC; None for this process's key."""
    return keyed_digest(key or _key, purpose, canonical_json(value)).hex()


def use_key(key: str) -> None:
    """Set the key that this process uses for MACs. A trainer calls this function if it does not get the key in an
    environment variable. key: 64 hex digits."""
    global _key
    _key = bytes.fromhex(key)


def lock_of_line(checkpoint_directory: Path) -> Path:
    """Return the path of the lock file for training one line with one method. The file is locked during such a training
    run, and while the checkpoints of the line and method are removed."""
    directory = checkpoint_directory.parent
    return directory.with_name(f"{directory.name}.lock")


def lock_of_device(directory: Path) -> Path:
    """Return the path of the lock file for the devices that this process can use. The file is locked while the devices
    are in use."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "default"
    return directory / f"trainer-{device}.lock"


@dataclass(frozen=True)
class Step:
    """The progress of a training run after a step."""

    step: int
    steps: int
    loss: float
    """Loss of this step."""
    tokens_per_second: float
    """Mean number of tokens per second since this process began to train."""
    seconds_left: float
    """Estimate of the remaining seconds."""


class Kept(Protocol):
    """Parts that a trainer keeps in memory between jobs, such as the base model; see `warm.KeptParts`."""

    def base(self, job: TrainingJob, load: Callable[[], Any], progress: Callable[[str], None]) -> Any: ...

    def is_on(self, model: Any) -> None: ...

    def once(self, job: TrainingJob, of: object, measure: Callable[[], Any]) -> Any: ...

    def rows(self, job: TrainingJob, dataset: Path, encode: Callable[[], list[Any]]) -> list[Any]: ...


@dataclass(frozen=True)
class TrainerHooks:
    """The functions that the training loop calls in the trainer's process."""

    on_step: Callable[[Step], None]
    progress: Callable[[str], None]
    """Function that reports a message to people. It never gets document text."""
    should_stop: Callable[[], bool] = lambda: False
    """Function that returns True if a stop was requested. The training then saves a checkpoint and ends."""
    kept: Kept | None = None
    """Parts that this process keeps in memory between jobs. If None, nothing is kept."""


def stopped_before_first_step() -> TrainingStopped:
    """Return the error for a training run that was stopped before its first step."""
    return TrainingStopped(
        "The training was stopped, as requested, before its first step.",
        "Run again; a checkpoint of an earlier run is kept.",
    )
