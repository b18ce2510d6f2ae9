"""Names of the files in a dataset, and the ids of its rows.

What belongs here: what is true of every kind of dataset. What does not: the rows' other columns (`formats.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypedDict, cast

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.corpus.document import Document, Role, read_documents, read_jsonl
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training.training import Canaries

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"
CARD_FOR_HUBS = "README.md"


def row_ids(dataset: Artifact) -> set[str]:
    """The ids in a dataset's files of rows: those of the documents that are trained on, and of canaries.

    Raises IntegrityError for a dataset without such a file.
    """
    names = {entry.path for entry in dataset.manifest.files} & {TRAINING_ROWS, PREFERENCE_ROWS, LABEL_ROWS}
    if not names:
        raise IntegrityError(f"{dataset.path}: this dataset has no file of rows.", "Restore it from a copy.")
    return {str(row["id"]) for name in names for row in read_jsonl(dataset.file(name))}


class SftRow(TypedDict):
    """One row of training_dataset's `train.jsonl`."""

    id: str
    instruction: str
    input: str
    output: str


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class MessagesRow(TypedDict):
    """One row of training_dataset's `messages.jsonl`: a user's turn and the assistant's."""

    id: str
    messages: list[Message]


class PreferenceRow(TypedDict):
    """One row of preference_dataset's `preferences.jsonl`."""

    id: str
    prompt: str
    """The whole user message."""
    chosen: str
    rejected: str


class LabelRow(TypedDict):
    """One row of preference_dataset's `labels.jsonl`, as KTO reads it (Ethayarajh et al. 2024)."""

    id: str
    prompt: str
    """The whole user message."""
    completion: str
    label: bool
    """Binary feedback: whether people found the completion good."""


def sft_row(document: Document, instruction: str) -> SftRow:
    """The document as a row for supervised fine-tuning."""
    parts = (document.subject, document.request)
    return SftRow(
        id=document.id,
        instruction=instruction,
        input="\n\n".join(part for part in parts if part),
        output=document.response,
    )


def user_message(instruction: str, input: str) -> str:
    """The content of the single user turn, around which the base model's chat template is put."""
    return "\n\n".join(part for part in (instruction, input) if part)


def messages_row(row: SftRow) -> MessagesRow:
    """The same row as messages."""
    return MessagesRow(
        id=row["id"],
        messages=[
            Message(role="user", content=user_message(row["instruction"], row["input"])),
            Message(role="assistant", content=row["output"]),
        ],
    )


def sft_row_of(row: MessagesRow, instruction: str) -> SftRow:
    """The inverse of `messages_row`, character for character.

    Raises ValueError for other turns than these two, or for a user turn that does not begin with the instruction.
    """
    user, assistant = row["messages"]
    before = user_message(instruction, " ")[:-1]
    if (user["role"], assistant["role"]) != ("user", "assistant") or not user["content"].startswith(before):
        raise ValueError(f"row {row['id']} is not the line's instruction with an input and a reply")
    return SftRow(
        id=row["id"], instruction=instruction, input=user["content"][len(before) :], output=assistant["content"]
    )


def preference_row(document: Document, instruction: str) -> PreferenceRow:
    """The document as a preference pair. Raises ValueError for a document without a rejected reply."""
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
    """The document as a reply with binary feedback. Raises ValueError for a document without a label."""
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
