"""Write the dataset card as JSON for programs, Markdown for people and `README.md` for model hubs. The card contains no
document text. The artifact stores all three files, so a change of their wording needs a new `code_version`."""

import hashlib
import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from pydantic import Field

from sovereign_pipeline.base.files import Frozen, canonical_json, short
from sovereign_pipeline.base.intervals import MeasuredShare
from sovereign_pipeline.corpus.document import Document, Role
from sovereign_pipeline.dataset.jsonl import (
    CARD,
    CARD_FOR_PEOPLE,
    CONVERSATION_ROWS,
    LABEL_ROWS,
    MESSAGES_ROWS,
    PREFERENCE_ROWS,
    SELECTION_ROWS,
    TRAINING_ROWS,
    ConversationRow,
    LabelRow,
    MessagesRow,
    PreferenceRow,
    SftRow,
    TextTurn,
)
from sovereign_pipeline.dataset.quality import QualityFinding
from sovereign_pipeline.dataset.tokens import TokenNumbers, as_table
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.policy.training import Canaries
from sovereign_pipeline.privacy.preview import Estimate, format_share

# The order of the fields is the order of the keys in `card.json`.


class DataFile(Frozen):
    """A JSONL file of rows."""

    path: str
    sha256: str
    size: int
    rows: int
    columns: tuple[str, ...]
    """Keys of the rows, in order. The row of a conversation may lack some of them."""


class Characters(Frozen):
    """Lengths of the values in one column over all rows, in Unicode characters (NFC)."""

    min: int
    median: float
    max: int


class CardExclusion(Frozen):
    """A row that the recipe excludes from a source, with the reason."""

    id: str
    reason: str


class CardOcr(Frozen):
    """Counts of OCR results for all documents of a source, including documents that are in no row."""

    documents: int
    pages: int
    mean_confidence: float | None
    """Mean confidence of all words, 0 to 100; None if no document was read by OCR."""
    lowest_confidence: float | None
    """Lowest mean confidence of any one document, 0 to 100."""


class CardSource(Frozen):
    """A source of the dataset."""

    name: str
    role: Role
    rows: int
    sha256: str
    licence: str
    retention: str
    excluded: tuple[CardExclusion, ...] = ()
    ocr: CardOcr | None = Field(default=None, exclude_if=lambda value: value is None)


class PlantedCanaries(Frozen):
    """Numbers of the canaries. In the dataset's file, the rows of canaries follow the rows of documents. Apart from
    these numbers, only the card's rows and sizes of files include canaries."""

    count: int
    repeats: int
    rows: int

    @classmethod
    def of(cls, recipe: Canaries) -> "PlantedCanaries":
        return cls(count=recipe.count, repeats=recipe.repeats, rows=recipe.count * recipe.repeats)


class SplitNumbers(Frozen):
    """Numbers from the proof of the split from which the dataset was built."""

    rows_train: int
    """Number of training documents, of all roles."""
    rows_selection: int = Field(default=0, exclude_if=lambda rows: not rows)
    rows_held_out: int
    held_out_share_of_letters: float
    components: int
    near_duplicate_pairs: int
    crossing: dict[str, int]
    seed: int


class JudgedKind(Frozen):
    """Precision and recall for one kind of personal data, estimated from judged rows."""

    kind: Kind
    precision: MeasuredShare
    """Share of replaced values that are personal data."""
    recall: MeasuredShare
    """Share of personal data that was replaced."""


class JudgedSample(Frozen):
    """The precision and recall of scrubbing, estimated from rows that a person judged."""

    rows: int
    values: int
    """Number of replaced values in the judged rows."""
    precision: MeasuredShare
    recall: MeasuredShare
    by_kind: tuple[JudgedKind, ...]

    @classmethod
    def of(cls, estimate: Estimate) -> "JudgedSample | None":
        """Convert an estimate to the form of the card. Return None if no row was judged."""
        if estimate.rows == 0:
            return None
        return cls(
            rows=estimate.rows,
            values=estimate.judged,
            precision=estimate.precision(),
            recall=estimate.recall(),
            by_kind=tuple(
                JudgedKind(kind=kind, precision=estimate.precision([kind]), recall=estimate.recall([kind]))
                for kind in estimate.kinds
            ),
        )


class DatasetCard(Frozen):
    """The content of `card.json`."""

    kind: str
    line: str
    classification: str
    """Classification level of the dataset, the highest of its inputs."""
    file: DataFile
    also: tuple[DataFile, ...]
    """Additional files: letters in the form of messages, conversations beside letters, or the selection side."""
    instruction: str
    by_department: dict[str, int]
    by_language: dict[str, int]
    by_year: dict[str, int]
    by_classification: dict[str, int]
    labels: dict[str, int]
    """Maps a label, "good" or "bad", to the number of replies. Empty without binary feedback."""
    characters: dict[str, Characters]
    """Maps a text column to the lengths of its values. Empty if there are no rows."""
    exact_duplicates: int
    """Number of rows whose text equals the text of an earlier row."""
    tokens: TokenNumbers
    findings: tuple[QualityFinding, ...]
    sources: tuple[CardSource, ...]
    split: SplitNumbers
    inputs: dict[str, str]
    """Maps the kind of each ancestor artifact to the artifact's digest."""
    canaries: PlantedCanaries | None = None
    judged: JudgedSample | None = None
    """Judged sample of the scrubbed corpus, from all sides of the split; None if nobody judged rows."""

    @property
    def documents(self) -> int:
        rows = sum(file.rows for file in (self.file, *self.also) if file.path not in (MESSAGES_ROWS, SELECTION_ROWS))
        return rows - (self.canaries.rows if self.canaries else 0)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the content of `card.md`, which states the facts of `card.json` for auditors without tools."""
        files = (file.path for file in (self.file, *self.also) if file.path not in (MESSAGES_ROWS, SELECTION_ROWS))
        row_files = " and ".join(f"`{path}`" for path in files)
        return _page().render(card=self, split=self.split, row_files=row_files, tokens=as_table(self.tokens))


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"head": _head, "row": _row, "short": short}
    environment.filters |= {"n": "{:,}".format, "percent": "{:.1%}".format, "cell": _cell, "share": format_share}
    return environment.get_template("card.md.jinja")


def _head(*names: str) -> str:
    return f"{_row(*names)}\n{_row(*['---'] * len(names))}"


def _row(*values: object) -> str:
    return f"| {' | '.join(map(_cell, values))} |"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


_CONVERSATION = "conversation"
"""Name under which the card states the lengths of conversations: the total lengths of their texts."""


class RowStatistics:
    """Collects statistics over a dataset's rows. Keeps only the lengths and a digest of each row's text in memory."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lengths = {column: array("L") for column in (*columns, _CONVERSATION)}
        self._texts: set[bytes] = set()
        self._histograms: dict[str, Counter[str]] = {
            name: Counter() for name in ("source", "department", "language", "year", "classification", "label")
        }
        self.rows = 0

    def add(self, document: Document, row: Mapping[str, object]) -> bool:
        """Count one row. Return True if an earlier row has the same text."""
        self.rows += 1
        before = len(self._texts)
        if document.is_letter:
            for column in self._columns:
                self._lengths[column].append(len(str(row[column])))
            text = canonical_json([row[column] for column in self._columns])
        else:
            self._lengths[_CONVERSATION].append(sum(map(len, document.texts.values())))
            text = canonical_json([value for column, value in row.items() if column not in ("id", "label")])
        self._texts.add(hashlib.blake2b(text, digest_size=16).digest())
        for name, value in (
            ("source", document.source),
            ("department", document.department),
            ("language", document.language),
            ("year", document.date[:4]),
            ("classification", document.classification),
        ):
            self._histograms[name][value] += 1
        if document.label is not None:
            self._histograms["label"]["good" if document.label else "bad"] += 1
        return len(self._texts) == before

    @property
    def exact_duplicates(self) -> int:
        return self.rows - len(self._texts)

    def histogram(self, name: str) -> dict[str, int]:
        return dict(sorted(self._histograms[name].items()))

    def characters(self) -> dict[str, Characters]:
        """Return a dict that maps each text column to the lengths of its values; empty without rows."""
        if self.rows == 0:
            return {}
        return {
            column: Characters(min=min(lengths), median=statistics.median(lengths), max=max(lengths))
            for column, lengths in self._lengths.items()
            if lengths
        }


_ROWS: dict[str, type] = {
    TRAINING_ROWS: SftRow,
    MESSAGES_ROWS: MessagesRow,
    PREFERENCE_ROWS: PreferenceRow,
    LABEL_ROWS: LabelRow,
    CONVERSATION_ROWS: ConversationRow,
    SELECTION_ROWS: ConversationRow,
}
_TYPES: dict[Any, dict[str, object]] = {
    str: {"dtype": "string"},
    bool: {"dtype": "bool"},
    list[TextTurn]: {"list": [{"name": name, "dtype": "string"} for name in TextTurn.__annotations__]},
}
"""Maps the type of a column to its description for the `datasets` library."""


def hub_card(card: DatasetCard) -> str:
    files = (card.file, *card.also)
    front_matter = yaml.safe_dump(
        {
            "pretty_name": f"{card.kind} of line {card.line}",
            "language": sorted(card.by_language),
            "license": "other",
            "configs": list(_configurations(files)),
            "dataset_info": [
                {"config_name": _configuration_of(file), "features": list(_features(file))} for file in files
            ],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return (
        f"---\n{front_matter}---\n\n"
        f"# {card.kind} of line {card.line}\n\n"
        f"Classification **{card.classification}**. [`{CARD_FOR_PEOPLE}`]({CARD_FOR_PEOPLE}) is the data card, with "
        f"the terms of each source; [`{CARD}`]({CARD}) has the same facts for programs.\n\n"
        f"`datasets.load_dataset` reads this directory, and copies the rows into its own cache: keep "
        f"`HF_DATASETS_CACHE` where {card.classification} may lie.\n"
    )


def _configuration_of(file: DataFile) -> str:
    named = (MESSAGES_ROWS, CONVERSATION_ROWS, SELECTION_ROWS)
    return file.path.removesuffix(".jsonl") if file.path in named else "default"


def _configurations(files: tuple[DataFile, ...]) -> Iterator[dict[str, object]]:
    for file in files:
        yield {
            "config_name": _configuration_of(file),
            "data_files": [{"split": "validation" if file.path == SELECTION_ROWS else "train", "path": file.path}],
        }


def _features(file: DataFile) -> Iterator[dict[str, object]]:
    for name in file.columns:
        # Messages and tools have different keys in each row. Only this type reads them without loss.
        yield {"name": name, **_TYPES.get(get_type_hints(_ROWS[file.path])[name], {"list": "json"})}
