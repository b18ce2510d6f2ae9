"""What goes between a stage and the trainer's process: the job file, and the file in which the trainer answers."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.policy.training import Preference, Sft


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingJob(_Record):
    """One run of the trainer.

    sft: also says, for `method="dpo"`, how the base is held (adapter, precision). preference, start_adapter: for
    `method="dpo"` only. output: directory that the trainer makes and fills with `adapter/`, `training_log.jsonl` and
    `report.json`. result: file in which the trainer answers. locks: directory of the locks that keep one trainer a
    device. base_model_name, base_model_digest, chat_template_sha256: as the base_model artifact has them.
    """

    method: Literal["sft", "dpo"]
    base_model: Path
    base_model_name: str
    base_model_digest: str
    chat_template_sha256: str
    eos_ids: tuple[int, ...]
    dataset: Path
    output: Path
    result: Path
    locks: Path
    seed: int
    sft: Sft
    preference: Preference | None = None
    start_adapter: Path | None = None

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
        """Written aside and renamed, so that a reader sees a whole answer or none."""
        aside = path.with_suffix(".part")
        aside.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        aside.replace(path)


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
