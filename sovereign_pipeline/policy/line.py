"""Define and load the recipe of a line of adapters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.base.errors import NotFoundError, RecipeError
from sovereign_pipeline.policy.corpus import Corpus, Privacy, Quarantine, Source, Split
from sovereign_pipeline.policy.evaluation import Evaluation, Gates
from sovereign_pipeline.policy.institution import Cadence, Institution
from sovereign_pipeline.policy.recipe_model import (
    FILL_IN,
    NotAllowed,
    RecipeModel,
    example_of,
    keys_to_fill_in,
    named_twice,
    nearest_known,
    read_yaml,
    still_to_fill_in,
)
from sovereign_pipeline.policy.training import Training

LINE_NAME = re.compile(r"[a-z0-9_-]+")


class Line(RecipeModel):
    """A line: successive versions of an adapter for one purpose."""

    line: str = Field(examples=["permits-desk"])
    """Name of the line and of its file: a-z, 0-9, '-' and '_'."""

    purpose: str = Field(examples=["Draft replies to letters about permits."])
    """Purpose of the adapters; shown in lists, cards and reports."""

    owner: str = Field(examples=["team:permits-directorate"])
    """Owner of the line, in Dagster's format: `team:NAME` or an e-mail address."""

    ceiling: str = Field(examples=["CONFIDENTIAL"])
    """Highest classification level of the line. A document above this level stops the line."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """The institution's files, folders and databases, and how they become documents."""

    quarantine: Quarantine = Quarantine()
    """Limits on broken rows of a source. The line stops if a limit is exceeded."""

    corpus: Corpus = Corpus()
    """Resources of stages that process the whole corpus."""

    privacy: Privacy = Privacy()
    """How personal data is detected and treated."""

    split: Split = Split()
    """How the held-out documents are chosen."""

    training: Training
    """Base model, training stages and their settings, and devices."""

    evaluation: Evaluation | None = None
    """The measurements that are required before an adapter is registered. Null: not decided yet; datasets can be built,
    but no adapter is trained. Once `evaluation` is set, every dataset is searched for text of the suites and prompts
    before the dataset is used."""

    gates: Gates = Gates()
    """Margins of the evaluation's gates, and the blind review."""

    review: Cadence = Cadence()
    """When the line's registered adapter must be reviewed, and whether the line is run again when a review is due."""

    @property
    def named_evaluation(self) -> Evaluation:
        """The line's evaluation. Raises RecipeError (`no_evaluation`) if the recipe has no evaluation yet."""
        if self.evaluation is None:
            raise no_evaluation(self)
        return self.evaluation

    @field_validator("line")
    @classmethod
    def _usable_as_partition_key(cls, line: str) -> str:
        if not LINE_NAME.fullmatch(line):
            raise ValueError("a line's name may contain only a-z, 0-9, '-' and '_'")
        return line

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: named_twice(source.name for source in it.sources), "two sources share a name: {1}"),
        (
            lambda it: {"preferences", "labels"} <= it.roles,
            "a line has sources with the role preferences or with the role labels, not both",
        ),
        (
            lambda it: it.training.preference is not None and {it.preference_role} - it.roles,
            "training.preference with method {0.training.preference.method} needs a source with role "
            "'{0.preference_role}'",
        ),
        (
            lambda it: it.training.reward_model is not None and "preferences" not in it.roles,
            "training.reward_model needs a source with role 'preferences'",
        ),
        (
            lambda it: not it.training.reads_preferences and it.roles & {"preferences", "labels"},
            "a source with role 'preferences' or 'labels' needs training.preference or training.reward_model",
        ),
        (lambda it: "letters" not in it.roles, "at least one source must have the role 'letters'"),
        (
            lambda it: it.split.by_author and any(each.constants.get("author") == "" for each in it.sources),
            "split.by_author needs an author for each row, so no source can have an empty author in 'constants'",
        ),
    )

    @property
    def roles(self) -> set[str]:
        return {source.role for source in self.sources}

    @property
    def preference_role(self) -> str:
        """Role of the sources from which the preference stage learns."""
        preference = self.training.preference
        return "labels" if preference is not None and preference.method == "kto" else "preferences"

    @model_validator(mode="after")
    def _margins_are_of_suites(self) -> "Line":
        if self.evaluation is None:
            return self
        suites = [suite.name for suite in self.evaluation.capability]
        for named in self.gates.capability.margins:
            if named not in suites:
                raise ValueError(
                    f"gates.capability.margins: '{named}' is not a suite of the line; {nearest_known(named, suites)}"
                )
        return self


EXAMPLE_OF_EVALUATION = example_of(Line, [("evaluation",)])
"""Example of the section `evaluation` with all required keys, as YAML."""


def no_evaluation(line: Line) -> RecipeError:
    """Return the error for a line that has no evaluation. The error's hint shows everything to add."""
    return RecipeError(
        f"Line {line.line}: the recipe has no 'evaluation' yet. Its datasets can be built, but no adapter can be "
        f"trained or registered.",
        f"Add to the recipe, with your values:\n{EXAMPLE_OF_EVALUATION}",
    )


def check_against_institution(line: Line, institution: Institution) -> None:
    """Raise RecipeError if the line's recipe uses a classification level that the institution does not define."""
    ladder = institution.ladder
    named = [
        ("ceiling", line.ceiling),
        *(
            (f"sources.{source.name}.classification_floor", source.classification_floor)
            for source in line.sources
            if source.classification_floor is not None
        ),
        *(
            (f"sources.{source.name}.levels.{word}", level)
            for source in line.sources
            for word, level in source.levels.items()
            if FILL_IN not in level
        ),
    ]
    if line.evaluation is not None:
        named += [
            (f"evaluation.capability.{suite.name}.classification", suite.classification)
            for suite in line.evaluation.capability
        ]
        named.append(("evaluation.red_team.classification", line.evaluation.red_team.classification))
    if line.training.rlhf is not None:
        named += [
            (f"training.rlhf, tool {tool.program}: classification", tool.classification)
            for tool in line.training.rlhf.tools
            if tool.classification is not None
        ]
    unknown = ", ".join(f"{what} is '{level}'" for what, level in named if level not in ladder)
    if unknown:
        raise RecipeError(
            f"Line {line.line}: {unknown}, but the classification levels are {', '.join(ladder.levels)}.",
            "Use one of these levels, or add a level to institution.yaml.",
        )


def read_line(path: Path, institution: Institution) -> Line:
    """Read a recipe file. Raises RecipeError if the recipe is invalid, or if the file's name is not the line's name."""
    line = read_yaml(Line, path, act="check_recipe")
    if path.stem != line.line:
        raise RecipeError(
            f"{path}: the file is named '{path.stem}', but its line is '{line.line}'.", "Use the same name for both."
        )
    check_against_institution(line, institution)
    return line


def refuse_to_fill_in(line: Line) -> None:
    """Raise RecipeError if the recipe still has the placeholder `FILL IN`. The placeholder would otherwise appear in
    data cards, records and bills of materials."""
    if keys := keys_to_fill_in(line):
        raise still_to_fill_in(f"Line {line.line}", keys)


def line_names(data: Path) -> list[str]:
    """Return the sorted names of all lines that have a recipe, valid or not."""
    return sorted(path.stem for path in (data / "lines").glob("*.yaml"))


def load_line(data: Path, name: str, institution: Institution) -> Line:
    """Load the recipe of a line by name. For an unknown name, raises NotFoundError that lists the known lines. Raises
    RecipeError for an invalid recipe."""
    if name not in line_names(data):
        known = ", ".join(line_names(data)) or "none"
        raise NotFoundError(
            f"There is no line '{name}' under {data / 'lines'}.",
            f"Known lines: {known}. The data directory is {data}; the variable SOVEREIGN_DATA selects it.",
        )
    return read_line(data / "lines" / f"{name}.yaml", institution)


@dataclass(frozen=True)
class Recipes:
    """The recipes of all of an institution's lines of adapters."""

    valid: tuple[Line, ...]

    broken: Mapping[str, RecipeError]
    """Maps a line to the error in its recipe."""


def load_lines(data: Path, institution: Institution, line: str | None = None) -> Recipes:
    """Load the recipes of one line, or of all lines sorted by name. An invalid recipe does not stop the others."""
    valid, broken = [], {}
    for name in (each for each in line_names(data) if line in (None, each)):
        try:
            valid.append(read_line(data / "lines" / f"{name}.yaml", institution))
        except RecipeError as error:
            broken[name] = error
    return Recipes(tuple(valid), broken)
