"""The rows of a dataset, and the prompt of a document. Training, evaluation and serving all call these functions.

What belongs here: from documents to rows, and from one format of rows to another. What does not: which documents
(`layouts.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict, cast

from sovereign_pipeline.corpus.document import Document, read_jsonl
from sovereign_pipeline.errors import IntegrityError


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
