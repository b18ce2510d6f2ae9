"""`data/institution.yaml`: what holds for every line of one institution."""

from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator

from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml


class Institution(RecipeModel):
    """The institution's name, its ladder (lowest level first) and how often a registered adapter must be reviewed."""

    name: str
    classification: tuple[str, ...] = Field(min_length=1)
    review_every_days: int = Field(default=180, ge=1)

    @field_validator("classification")
    @classmethod
    def _each_level_once(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(levels)) != len(levels):
            raise ValueError("each classification level may be named once only")
        return levels

    @cached_property
    def ladder(self) -> ClassificationLadder:
        return ClassificationLadder(self.classification)


def load_institution(data: Path) -> Institution:
    return read_yaml(Institution, data / "institution.yaml")
