"""The classification ladder. Levels only rise: the single way to combine levels is to take the highest."""

from collections.abc import Iterable
from dataclasses import dataclass

from sovereign_pipeline.errors import RecipeError


@dataclass(frozen=True)
class ClassificationLadder:
    """Levels from lowest to highest, such as PUBLIC, INTERNAL, CONFIDENTIAL, SECRET."""

    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise RecipeError(
                f"The classification ladder {list(self.levels)} needs at least one level, each named once."
            )

    def __contains__(self, level: object) -> bool:
        return level in self.levels

    def rank(self, level: str) -> int:
        """Position on the ladder, 0 for the lowest. Raises RecipeError for a name that is not a level."""
        if level not in self.levels:
            raise RecipeError(f"'{level}' is not a classification level; the ladder is {', '.join(self.levels)}.")
        return self.levels.index(level)

    def highest(self, levels: Iterable[str]) -> str:
        """The join: the highest of the given levels, the lowest level of the ladder when there are none."""
        return max(levels, key=self.rank, default=self.levels[0])

    def exceeds(self, level: str, ceiling: str) -> bool:
        return self.rank(level) > self.rank(ceiling)
