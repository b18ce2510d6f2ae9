"""The three kinds of datasets: SFT rows, preference pairs, and replies with binary feedback.

What belongs here: what distinguishes them, behind one protocol. What does not: the rows themselves (`formats.py`),
measuring them (`measuring.py`), the stages (`stages.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, Role, read_documents
from sovereign_pipeline.dataset.files import LABEL_ROWS, MESSAGES_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.formats import (
    LabelRow,
    PreferenceRow,
    SftRow,
    label_row,
    preference_row,
    sft_row,
    user_message,
)
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training.training import Canaries

Row = Mapping[str, object]
Exchange = tuple[str, str]
"""A user message and a reply to it."""


class Layout(Protocol):
    """What distinguishes one kind of dataset from the others."""

    kind: str
    """Kind of the artifact."""
    file: str
    """File of the rows in it."""
    role: Role
    """Role of the sources that it is made from."""
    columns: tuple[str, ...]
    """Keys of every row, in order."""
    text_columns: tuple[str, ...]
    """Columns whose lengths and duplicates the card states."""

    def includes(self, document: Document) -> bool:
        """Whether a document is a row of this dataset."""

    def row(self, document: Document, instruction: str) -> Row: ...

    def exchanges(self, row: Row) -> Sequence[Exchange]:
        """The user message with each reply of a row."""

    def max_length(self, line: Line) -> int:
        """The recipe's limit of a row, in tokens."""

    def canaries(self, line: Line) -> Canaries | None:
        """The canaries that are planted after the documents."""

    def messages_file(self, line: Line) -> str | None:
        """A second file with the same rows as messages, where the recipe has one."""


class SftLayout:
    """Requests with the replies that the institution sent."""

    kind: str = "training_dataset"
    file: str = TRAINING_ROWS
    role: Role = "letters"
    columns: tuple[str, ...] = tuple(SftRow.__annotations__)
    text_columns: tuple[str, ...] = ("input", "output")

    def includes(self, document: Document) -> bool:
        return not document.is_preference

    def row(self, document: Document, instruction: str) -> Row:
        return cast(Row, sft_row(document, instruction))

    def exchanges(self, row: Row) -> Sequence[Exchange]:
        letter = cast(SftRow, row)
        return ((user_message(letter["instruction"], letter["input"]), letter["output"]),)

    def max_length(self, line: Line) -> int:
        return line.training.sft.max_length

    def canaries(self, line: Line) -> Canaries | None:
        return line.training.canaries

    def messages_file(self, line: Line) -> str | None:
        return MESSAGES_ROWS if line.training.format == "messages" else None


class PairLayout:
    """Requests with a chosen and a rejected reply."""

    kind: str = "preference_dataset"
    file: str = PREFERENCE_ROWS
    role: Role = "preferences"
    columns: tuple[str, ...] = tuple(PreferenceRow.__annotations__)
    text_columns: tuple[str, ...] = ("prompt", "chosen", "rejected")

    def includes(self, document: Document) -> bool:
        return document.rejected is not None

    def row(self, document: Document, instruction: str) -> Row:
        return cast(Row, preference_row(document, instruction))

    def exchanges(self, row: Row) -> Sequence[Exchange]:
        pair = cast(PreferenceRow, row)
        return (pair["prompt"], pair["chosen"]), (pair["prompt"], pair["rejected"])

    def max_length(self, line: Line) -> int:
        return _max_length_of_preferences(line)

    def canaries(self, line: Line) -> Canaries | None:
        return None

    def messages_file(self, line: Line) -> str | None:
        return None


class LabelLayout:
    """Requests with a reply and binary feedback on it."""

    kind: str = "preference_dataset"
    file: str = LABEL_ROWS
    role: Role = "labels"
    columns: tuple[str, ...] = tuple(LabelRow.__annotations__)
    text_columns: tuple[str, ...] = ("prompt", "completion")

    def includes(self, document: Document) -> bool:
        return document.label is not None

    def row(self, document: Document, instruction: str) -> Row:
        return cast(Row, label_row(document, instruction))

    def exchanges(self, row: Row) -> Sequence[Exchange]:
        labelled = cast(LabelRow, row)
        return ((labelled["prompt"], labelled["completion"]),)

    def max_length(self, line: Line) -> int:
        return _max_length_of_preferences(line)

    def canaries(self, line: Line) -> Canaries | None:
        return None

    def messages_file(self, line: Line) -> str | None:
        return None


def preference_layout(line: Line) -> Layout:
    """Binary feedback where a source of the line has it, else pairs; a line never has both."""
    return LabelLayout() if any(source.role == "labels" for source in line.sources) else PairLayout()


def documents_of(layout: Layout, split: Artifact, side: str) -> Iterator[Document]:
    """The documents of one side of a split that are rows of this dataset. side: a file of the split."""
    return filter(layout.includes, read_documents(split.file(side)))


def _max_length_of_preferences(line: Line) -> int:
    learned = line.training.preference or line.training.reward_model or line.training.sft
    return learned.max_length
