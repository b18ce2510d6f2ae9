"""`data/privacy/<line>.yaml`: what people corrected in the findings of one line.

What belongs here: the lists, reading them, and when two of their words are one. What does not: applying them
(`corrections.py`). The file may
hold names of persons, so it is no part of the recipe, which cards and reports quote; an artifact's identity holds its
digest.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml
from sovereign_pipeline.privacy.normalisation import normalise


class NeverPersonal(RecipeModel):
    """A word or phrase that is no personal data in this line."""

    value: str = Field(pattern=r"\w", examples=["Harbour Master"])
    """The word or phrase, whole; letter case and white space do not matter."""

    reason: str = Field(pattern=r"\S", examples=["an office, not a person"])
    """Why, for whoever reads the list later."""


class AlwaysPersonal(RecipeModel):
    """A word or phrase that is personal data wherever it stands in this line."""

    value: str = Field(pattern=r"\w", examples=["Blue Lantern"])
    """The word or phrase, whole; letter case and white space do not matter."""

    kind: Kind = Field(examples=["NAME"])
    """What it counts as."""


class WordLists(RecipeModel):
    """What people corrected in the findings of one line."""

    never: tuple[NeverPersonal, ...] = ()
    """Words and phrases that are no personal data. What is found inside one of them is left as it is, and the second
    reading does not count it."""

    always: tuple[AlwaysPersonal, ...] = ()
    """Words and phrases that are replaced wherever they stand."""

    same_person: tuple[tuple[str, ...], ...] = Field(default=(), examples=[[["Salma Zadjali", "Umm Idris"]]])
    """Names of one person in each list: they get one placeholder in a case file, and are always names."""

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        never = {folded_words(each.value) for each in self.never}
        names = [folded_words(name) for group in self.same_person for name in group]
        for value in (*(folded_words(each.value) for each in self.always), *names):
            if value in never:
                raise ValueError("a value stands in `never` and in another list")
        if any(len(group) < 2 for group in self.same_person):
            raise ValueError("`same_person` needs at least two names in each list")
        if not all(name.strip() for name in names):
            raise ValueError("`same_person` holds an empty name")
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice in `same_person`")
        return self


NO_WORDS = WordLists()


def word_lists_file(data: Path, line: str) -> Path:
    """Where the lists of a line are; there may be none."""
    return data / "privacy" / f"{line}.yaml"


def load_word_lists(data: Path, line: str) -> WordLists:
    """The lists of a line; empty ones where there is no file. Raises RecipeError."""
    file = word_lists_file(data, line)
    return read_yaml(WordLists, file) if file.exists() else NO_WORDS


def folded_words(value: str) -> str:
    """The spelling by which words of the lists are compared, with each other and with texts."""
    return " ".join(normalise(value).text.casefold().split())
