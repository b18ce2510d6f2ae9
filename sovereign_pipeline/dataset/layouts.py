"""MODULE DOCSTRING."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.dataset.files import LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
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
from sovereign_pipeline.policy.training import Canaries

Role = Literal["letters", "preferences", "labels"]


Row = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """What tells the datasets apart. text_columns: those whose lengths and duplicates the card states.

    belongs: whether a document is a row of this dataset. exchanges: the user message with each reply of a row.
    """

    kind: str
    file: str
    role: Role
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    belongs: Callable[[Document], bool]
    row: Callable[[Document, str], Row]
    exchanges: Callable[[Row], Sequence[tuple[str, str]]]

    def documents(self, split: Artifact, side: str) -> Iterator[Document]:
        return (document for document in read_documents(split.file(side)) if self.belongs(document))

    def canaries(self, line: Line) -> Canaries | None:
        """What is planted behind its documents: letters alone may be learnt by heart unnoticed."""
        return line.training.canaries if self.role == "letters" else None

    def max_length(self, line: Line) -> int:
        preference = line.training.preference
        return preference.max_length if self.role != "letters" and preference else line.training.sft.max_length


def _exchange(row: Row) -> Sequence[tuple[str, str]]:
    letter = cast(SftRow, row)
    return ((user_message(letter["instruction"], letter["input"]), letter["output"]),)


def _exchanges_of_pair(row: Row) -> Sequence[tuple[str, str]]:
    pair = cast(PreferenceRow, row)
    return (pair["prompt"], pair["chosen"]), (pair["prompt"], pair["rejected"])


def _labelled_exchange(row: Row) -> Sequence[tuple[str, str]]:
    labelled = cast(LabelRow, row)
    return ((labelled["prompt"], labelled["completion"]),)


TRAINING = Layout(
    kind="training_dataset",
    file=TRAINING_ROWS,
    role="letters",
    columns=tuple(SftRow.__annotations__),
    text_columns=("input", "output"),
    belongs=lambda document: not document.is_preference,
    row=cast(Callable[[Document, str], Row], sft_row),
    exchanges=_exchange,
)


PREFERENCES = Layout(
    kind="preference_dataset",
    file=PREFERENCE_ROWS,
    role="preferences",
    columns=tuple(PreferenceRow.__annotations__),
    text_columns=("prompt", "chosen", "rejected"),
    belongs=lambda document: document.rejected is not None,
    row=cast(Callable[[Document, str], Row], preference_row),
    exchanges=_exchanges_of_pair,
)


LABELS = Layout(
    kind="preference_dataset",
    file=LABEL_ROWS,
    role="labels",
    columns=tuple(LabelRow.__annotations__),
    text_columns=("prompt", "completion"),
    belongs=lambda document: document.label is not None,
    row=cast(Callable[[Document, str], Row], label_row),
    exchanges=_labelled_exchange,
)


def preference_layout(line: Line) -> Layout:
    """Labelled replies where a source has them, else pairs; a line never has both."""
    return LABELS if any(source.role == "labels" for source in line.sources) else PREFERENCES


def writes_messages(layout: Layout, line: Line) -> bool:
    return layout is TRAINING and line.training.format == "messages"
