"""What every training of a recipe has in common: length, batches, passes and the course of the learning rate.

What does not belong here: what is trained (`training.py`, `reward_model.py`).
"""

from typing import Literal

from pydantic import Field, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

LARGEST_BATCH = 64


def changed_fields(section: RecipeModel, *names: str) -> list[str]:
    """Names of those fields that do not have their default."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]


class Tuning(RecipeModel):
    """What every training has."""

    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the learning rate rises from zero."""

    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """Course of the learning rate after `warmup_steps`."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the rows; a fraction ends within a pass."""

    max_steps: int | None = Field(default=None, ge=1)
    """Largest number of optimizer steps; null: as many as `epochs` takes."""

    max_length: int = Field(default=1024, ge=32)
    """Tokens of a pack, and of a row; of a pair, of each reply with its prompt."""

    batch_size: int = Field(default=1, ge=1)
    """Units (packs, or single rows) that a device processes at once; 4 where the method is `kto`. Times
    `gradient_accumulation` and devices it is the effective batch. LoRA loses to full tuning when that is large
    (Thinking Machines 2025, "LoRA Without Regret", section on batch size): stay below 32 rows; above 64 units the
    recipe is refused."""

    gradient_accumulation: int = Field(default=4, ge=1)
    """Batches whose gradients are added up for one step."""

    packing: bool = True
    """Pack several rows into up to `max_length` tokens, kept apart by their positions. Preferences are not packed: all
    replies of a batch are computed in one pass."""

    @model_validator(mode="after")
    def _batch_is_not_huge(self) -> "Tuning":
        if self.batch_size * self.gradient_accumulation > LARGEST_BATCH:
            raise ValueError(
                f"batch_size × gradient_accumulation is {self.batch_size * self.gradient_accumulation}, more than "
                f"{LARGEST_BATCH}; adapters learn worse from large batches: lower gradient_accumulation"
            )
        return self
