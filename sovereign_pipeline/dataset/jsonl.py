"""Define the JSONL rows of a dataset: file names, formats, and how a document becomes a row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.corpus.document import Document, Role, read_documents, read_jsonl
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Canaries
from sovereign_pipeline.record.store import Artifact

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"
CARD_FOR_HUBS = "README.md"
Row = Mapping[str, object]
Exchange = tuple[str, str]
"""A user message and a reply to it."""


def row_ids(dataset: Artifact) -> set[str]:
    """Return the ids of a dataset's training documents and canaries. Raises IntegrityError if the dataset has no file
    of rows."""
    names = {entry.path for entry in dataset.manifest.files} & {TRAINING_ROWS, PREFERENCE_ROWS, LABEL_ROWS}
    if not names:
        raise IntegrityError(f"{dataset.path}: this dataset has no file of rows.", "Restore it from a copy.")
    return {str(row["id"]) for name in names for row in read_jsonl(dataset.file(name))}


class SftRow(TypedDict):
    """A row of training_dataset's `train.jsonl`."""

    id: str
    instruction: str
    input: str
    output: str


class Message(TypedDict):
    """A turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class MessagesRow(TypedDict):
    """A row of training_dataset's `messages.jsonl`: a user's turn and the assistant's turn."""

    id: str
    messages: list[Message]


class PreferenceRow(TypedDict):
    """A row of preference_dataset's `preferences.jsonl`."""

    id: str
    prompt: str
    """The whole user message."""
    chosen: str
    rejected: str


class LabelRow(TypedDict):
    """A row of preference_dataset's `labels.jsonl`, as KTO reads it (Ethayarajh et al. 2024)."""

    id: str
    prompt: str
    """The whole user message."""
    completion: str
    label: bool
    """Binary feedback: true if people rated the completion as good."""


def sft_row(document: Document, instruction: str) -> SftRow:
    parts = (document.subject, document.request)
    return SftRow(
        id=document.id,
        instruction=instruction,
        input="\n\n".join(part for part in parts if part),
        output=document.response,
    )


def user_message(instruction: str, input: str) -> str:
    """Return the content of the single user turn, without chat template."""
    return "\n\n".join(part for part in (instruction, input) if part)


def messages_row(row: SftRow) -> MessagesRow:
    return MessagesRow(
        id=row["id"],
        messages=[
            Message(role="user", content=user_message(row["instruction"], row["input"])),
            Message(role="assistant", content=row["output"]),
        ],
    )


def sft_row_of(row: MessagesRow, instruction: str) -> SftRow:
    """Convert messages back to the row, as the exact inverse of `messages_row`. Raises ValueError for other turns than
    these two, or for a user turn that does not begin with the instruction."""
    user, assistant = row["messages"]
    before = user_message(instruction, " ")[:-1]
    if (user["role"], assistant["role"]) != ("user", "assistant") or not user["content"].startswith(before):
        raise ValueError(f"row {row['id']} is not the line's instruction with an input and a reply")
    return SftRow(
        id=row["id"], instruction=instruction, input=user["content"][len(before) :], output=assistant["content"]
    )


def preference_row(document: Document, instruction: str) -> PreferenceRow:
    """Return the document as a preference pair. Raises ValueError for a document without a rejected reply."""
    if document.rejected is None:
        raise ValueError(f"document {document.id} has no rejected reply")
    row = sft_row(document, instruction)
    return PreferenceRow(
        id=document.id,
        prompt=user_message(row["instruction"], row["input"]),
        chosen=document.response,
        rejected=document.rejected,
    )


def label_row(document: Document, instruction: str) -> LabelRow:
    """Return the document as a reply with binary feedback. Raises ValueError for a document without a label."""
    if document.label is None:
        raise ValueError(f"document {document.id} has no label")
    row = sft_row(document, instruction)
    return LabelRow(
        id=document.id,
        prompt=user_message(row["instruction"], row["input"]),
        completion=document.response,
        label=document.label,
    )


def read_label_rows(path: Path) -> Iterator[LabelRow]:
    """Stream rows with binary feedback. Raises IntegrityError with file and line for a row in another form."""
    for number, row in enumerate(read_jsonl(path), start=1):
        if {name: type(value) for name, value in row.items()} != LabelRow.__annotations__:
            raise IntegrityError(
                f"{path}, line {number}: not a row with id, prompt, completion and a label of true or false.",
                "Materialize preference_dataset again.",
            )
        yield cast(LabelRow, row)


@dataclass(frozen=True)
class Layout:
    """A kind of dataset: its file, and how a document becomes one of its rows."""

    kind: str
    file: str
    """Name of the artifact's file of rows."""
    role: Role
    """Role of the sources that the dataset is made from."""
    columns: tuple[str, ...]
    """Keys of every row, in order."""
    text_columns: tuple[str, ...]
    """Columns whose lengths and duplicates the card states."""
    includes: Callable[[Document], bool]
    """Returns whether a document is a row of this dataset."""
    row: Callable[[Document, str], Row]
    """Returns the row of a document, given an instruction."""
    exchanges: Callable[[Any], Sequence[Exchange]]
    """Returns the user message with each reply of a row."""

    def max_length(self, line: Line) -> int:
        training = line.training
        if self.role == "letters":
            return training.sft.max_length
        return (training.preference or training.reward_model or training.sft).max_length

    def canaries(self, line: Line) -> Canaries | None:
        return line.training.canaries if self.role == "letters" else None

    def messages_file(self, line: Line) -> str | None:
        """Return the name of a second file with the same rows as messages, if the recipe requests one."""
        return MESSAGES_ROWS if self.role == "letters" and line.training.format == "messages" else None


SFT = Layout(
    kind="training_dataset",
    file=TRAINING_ROWS,
    role="letters",
    columns=tuple(SftRow.__annotations__),
    text_columns=("input", "output"),
    includes=lambda document: not document.is_preference,
    row=sft_row,
    exchanges=lambda row: ((user_message(row["instruction"], row["input"]), row["output"]),),
)
"""Layout of requests with the replies that the institution sent."""

PAIRS = Layout(
    kind="preference_dataset",
    file=PREFERENCE_ROWS,
    role="preferences",
    columns=tuple(PreferenceRow.__annotations__),
    text_columns=("prompt", "chosen", "rejected"),
    includes=lambda document: document.rejected is not None,
    row=preference_row,
    exchanges=lambda row: ((row["prompt"], row["chosen"]), (row["prompt"], row["rejected"])),
)
"""Layout of requests with a chosen and a rejected reply."""

LABELS = Layout(
    kind="preference_dataset",
    file=LABEL_ROWS,
    role="labels",
    columns=tuple(LabelRow.__annotations__),
    text_columns=("prompt", "completion"),
    includes=lambda document: document.label is not None,
    row=label_row,
    exchanges=lambda row: ((row["prompt"], row["completion"]),),
)
"""Layout of requests with a reply and binary feedback on it."""


def preference_layout(line: Line) -> Layout:
    """Return the layout of binary feedback if a source of the line has it, or else of pairs. A line never has both."""
    return LABELS if any(source.role == "labels" for source in line.sources) else PAIRS


def documents_of(layout: Layout, split: Artifact, side: str) -> Iterator[Document]:
    """Return the documents of one side of a split that are rows of this dataset. `side`: a file of the split."""
    return filter(layout.includes, read_documents(split.file(side)))
