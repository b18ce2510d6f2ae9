"""How a document is shown to a model. Training, evaluation and serving all call these two functions and no other."""

from typing import TypedDict

from sovereign_pipeline.corpus.document import Document


class SftRow(TypedDict):
    """One row of training_dataset's `train.jsonl`."""

    id: str
    instruction: str
    input: str
    output: str


class PreferenceRow(TypedDict):
    """One row of preference_dataset's `preferences.jsonl`. prompt: the whole user message."""

    id: str
    prompt: str
    chosen: str
    rejected: str


def sft_row(document: Document, instruction: str) -> SftRow:
    return SftRow(
        id=document.id,
        instruction=instruction,
        input=f"{document.subject}\n\n{document.request}",
        output=document.response,
    )


def user_message(instruction: str, input: str) -> str:
    """The content of the one user turn; the chat template of the base model is put around it."""
    return f"{instruction}\n\n{input}"


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
