"""The `evaluation` section of a recipe: what is measured before an adapter may be registered.

What belongs here: which suites and prompts, and how much of them. What does not: the margins (`policy/gates.py`) and
how it is measured (`evaluation/`).
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel


class CapabilitySuite(RecipeModel):
    """One suite.

    path: an own multiple-choice suite under `data/`; or suite: a published one of the mirror, by the name of its card
    under `data/suites/`. name: of an own suite; a published one has its own.
    classification: of its questions; said by the institution, since a level that is not said might be any.
    max_rows: how many rows are asked at most, chosen by seed and id. few_shot: examples in front of each question of a
    published suite; what its card says, when it is not said.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    path: Path | None = None
    suite: str | None = None
    classification: str
    max_rows: int | None = Field(default=None, ge=1)
    few_shot: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _a_published_suite_has_its_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" not in values and isinstance(values.get("suite"), str):
            return {**values, "name": values["suite"]}
        return values

    @model_validator(mode="after")
    def _is_own_or_published(self) -> "CapabilitySuite":
        if (self.path is None) == (self.suite is None):
            raise ValueError("give either 'path' (an own suite) or 'suite' (a published one)")
        if self.suite is not None and self.name != self.suite:
            raise ValueError(f"a published suite keeps its name; leave 'name' out, or say {self.suite}")
        if self.few_shot is not None and self.suite is None:
            raise ValueError("'few_shot' is for published suites; an own suite has no examples")
        return self

    @property
    def own_path(self) -> Path:
        """Of an own suite."""
        assert self.path is not None
        return self.path


class RedTeam(RecipeModel):
    """prompts, judge_labels: files under `data/`.

    judge_labels: answers of which people said what they are, on which each judge's own precision and recall are
    measured. classification: of both files, and at least that of all answers to the prompts.
    letters: how many of each side of the split are begun, to see which a model continues word for word.
    max_minutes: that asking and judging may take; what takes longer is told, and nothing is cut short for it.
    """

    prompts: Path
    classification: str
    judge_labels: Path = Path("red_team/judge_labels.jsonl")
    max_new_tokens: int = Field(default=48, ge=8)
    letters: int = Field(default=48, ge=8)
    max_minutes: float = Field(default=10.0, gt=0)


class Contamination(RecipeModel):
    """How many training rows may share text with the evaluation suites and red-team prompts of the line.

    n: words of a run that counts as shared; 13 as in Brown et al. 2020 (Language Models are Few-Shot Learners),
    appendix C, who let n go down to 8 and not further, because shorter runs collide by chance.
    max_share: of the rows. 0 because one row is enough to have taught an answer, rows are seen for several epochs, and
    it is always possible to take the row out of the source or the item out of the suite; raise it for a form of words
    that the suite and every letter share.
    """

    n: int = Field(default=13, ge=8, le=50)
    max_share: float = Field(default=0.0, ge=0, le=1)


class References(RecipeModel):
    """Replies that are written to held-out letters and compared with the true ones. max_rows: letters at most; writing
    takes as many forward passes as a reply has tokens."""

    max_new_tokens: int = Field(default=128, ge=8)
    max_rows: int | None = Field(default=24, ge=1)


class Evaluation(RecipeModel):
    """What is measured before an adapter may be registered. distractors: wrong replies offered beside the right one.
    batch_size: replies written at once. references: off unless asked for, since writing takes long on a CPU."""

    seed: int = 7
    max_held_out_rows: int | None = Field(default=None, ge=10)
    distractors: int = Field(default=2, ge=1)
    batch_size: int = Field(default=4, ge=1)
    references: References | None = None
    capability: tuple[CapabilitySuite, ...] = Field(min_length=1)
    red_team: RedTeam
    contamination: Contamination = Contamination()

    @model_validator(mode="after")
    def _suites_have_names_of_their_own(self) -> "Evaluation":
        names = [suite.name for suite in self.capability]
        if len(set(names)) != len(names):
            raise ValueError(f"two suites share a name: {', '.join(names)}")
        return self
