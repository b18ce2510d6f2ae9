"""What goes between a stage and the trainer's process: the job file, and the file in which the trainer answers."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from sovereign_pipeline.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.policy.training import Checkpoints, Devices, Preference, Sft, Tuning

Method = Literal["sft", "dpo", "ipo", "kto"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingJob(_Record):
    """One run of the trainer.

    base_model: directory of the model that is trained, or that the adapter is put on. base_model_name,
    base_model_digest, chat_template_sha256: as the base_model artifact has them.
    sft: also says, for a preference method, how the model is held (adapter, precision). preference: with a learning
    rate; for a preference method only. start_adapter: PEFT directory that training goes on from; needed by a preference
    method on an adapter.
    output: directory that the trainer makes and fills with `adapter/` (or `model/`, when the whole model is tuned),
    `training_log.jsonl` and `report.json`. result: file in which the trainer answers. locks: directory of the locks
    that keep one trainer a device. identity: digest of all that decides the result; a checkpoint of another one is
    never gone on from. checkpoint_directory: of this identity. references: directory of reference log-probabilities.
    """

    method: Method
    base_model: Path
    base_model_name: str
    base_model_digest: str
    chat_template_sha256: str
    eos_ids: tuple[int, ...]
    dataset: Path
    output: Path
    result: Path
    locks: Path
    identity: str
    checkpoint_directory: Path
    references: Path
    seed: int
    sft: Sft
    preference: Preference | None = None
    start_adapter: Path | None = None
    checkpoints: Checkpoints = Checkpoints()
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _method_has_its_section(self) -> "TrainingJob":
        if self.method == "sft":
            return self
        if self.preference is None or self.preference.method != self.method or self.preference.learning_rate is None:
            raise ValueError(f"{self.method} needs its preference section, with a learning rate")
        if self.start_adapter is None and self.sft.adapter != "none":
            raise ValueError(f"{self.method} on an adapter goes on from one: start_adapter")
        return self

    @property
    def tuning(self) -> Tuning:
        """The section that says how long and in which batches this method trains."""
        return self.sft if self.method == "sft" or self.preference is None else self.preference

    @property
    def learning_rate(self) -> float:
        preferred = None if self.method == "sft" or self.preference is None else self.preference.learning_rate
        return self.sft.learning_rate if preferred is None else preferred

    @classmethod
    def read(cls, path: Path) -> "TrainingJob":
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")


class TrainingResult(_Record):
    """error: the paragraph for people when the training stopped. measured: durations (s), rates (tokens/s), bytes."""

    error: str | None = None
    measured: dict[str, float] = {}

    def write(self, path: Path) -> None:
        """Written aside and given its name, so that a reader sees a whole answer or none. Of several processes the
        first to answer is heard: when one fails, the others fail for want of it."""
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            path.hardlink_to(aside)
        aside.unlink()


def read_result(path: Path) -> TrainingResult:
    """The trainer's answer. Raises TrainingFailed with its paragraph when it stopped, or when there is no answer."""
    if not path.is_file():
        raise TrainingFailed(
            f"{path}: the trainer ended without an answer. It was killed from outside, most often for want of memory: "
            f"lower training.sft.max_length or batch_size in the recipe, or free memory, and run again."
        )
    try:
        result = TrainingResult.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(f"{path}: not a trainer's answer. Run again.") from None
    if result.error is not None:
        raise TrainingFailed(result.error)
    return result


LIBRARIES = ("accelerate", "bitsandbytes", "peft", "safetensors", "torch", "transformers", "trl")
