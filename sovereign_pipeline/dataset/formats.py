"""How a document is shown to a model. Training, evaluation and serving all call these functions and no other.

What belongs here: documents to rows, and one format of rows to another. What does not: which documents (`stages.py`).
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
    role: Literal["user", "assistant"]
    content: str


class MessagesRow(TypedDict):
    """One row of training_dataset's `messages.jsonl`: a user's turn and the assistant's."""

    id: str
    messages: list[Message]


class PreferenceRow(TypedDict):
    """One row of preference_dataset's `preferences.jsonl`. prompt: the whole user message."""

    id: str
    prompt: str
    chosen: str
    rejected: str


class LabelRow(TypedDict):
    """One row of preference_dataset's `labels.jsonl`, as KTO reads it (Ethayarajh et al. 2024). prompt: the whole user
    message. label: whether people found the completion good."""

    id: str
    prompt: str
    completion: str
    label: bool


def sft_row(document: Document, instruction: str) -> SftRow:
    parts = (document.subject, document.request)
    return SftRow(
        id=document.id,
        instruction=instruction,
        input="\n\n".join(part for part in parts if part),
        output=document.response,
    )


def user_message(instruction: str, input: str) -> str:
    """The content of the one user turn; the chat template of the base model is put around it."""
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
    """Back from messages, every character of the text as it was. Raises ValueError for other turns than these two, or
    for a user's turn that does not begin with the instruction."""
    user, assistant = row["messages"]
    before = user_message(instruction, " ")[:-1]
    if (user["role"], assistant["role"]) != ("user", "assistant") or not user["content"].startswith(before):
        raise ValueError(f"row {row['id']} is not the line's instruction with an input, and a reply")
    return SftRow(
        id=row["id"], instruction=instruction, input=user["content"][len(before) :], output=assistant["content"]
    )


def preference_row(document: Document, instruction: str) -> PreferenceRow:
    """Raises ValueError for a document without a rejected reply."""
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
    """Raises ValueError for a document whose reply nobody labelled."""
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
    """Stream labelled rows. Raises IntegrityError naming file and line for one that is none."""
    for number, row in enumerate(read_jsonl(path), start=1):
        if {name: type(value) for name, value in row.items()} != LabelRow.__annotations__:
            raise IntegrityError(
                f"{path}, line {number}: not a row with id, prompt, completion and a label of true or false. "
                f"Materialize preference_dataset again."
            )
        yield cast(LabelRow, row)
