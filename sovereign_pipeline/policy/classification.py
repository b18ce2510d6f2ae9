"""The classification ladder. Levels only rise: the one way to combine levels is to take the highest."""

from collections.abc import Iterable
from dataclasses import dataclass

from sovereign_pipeline.base.errors import RecipeError


@dataclass(frozen=True)
class ClassificationLadder:
    """The classification levels of one institution."""

    levels: tuple[str, ...]
    """From lowest to highest, such as PUBLIC, INTERNAL, CONFIDENTIAL, SECRET."""

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise RecipeError(
                f"The classification ladder {list(self.levels)} must hold at least one level, each named once.",
                "Correct `classification` in institution.yaml.",
            )

    def __contains__(self, level: object) -> bool:
        return level in self.levels

    def rank(self, level: str) -> int:
        """Position on the ladder, 0 for the lowest. Raises RecipeError for a name that is not a level."""
        if level not in self.levels:
            raise RecipeError(
                f"'{level}' is not a classification level.", f"Use one of the ladder: {', '.join(self.levels)}."
            )
        return self.levels.index(level)

    def highest(self, levels: Iterable[str]) -> str:
        """The highest of the given levels; the lowest level of the ladder when there are none."""
        return max(levels, key=self.rank, default=self.levels[0])

    def exceeds(self, level: str, ceiling: str) -> bool:
        """Whether a level lies above a ceiling."""
        return self.rank(level) > self.rank(ceiling)
