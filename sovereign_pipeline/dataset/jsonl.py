"""Define the JSONL files of a dataset: names, formats of rows, and the conversion of documents to rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.corpus.document import Document, Message, Role, ToolCall, read_documents, read_jsonl
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Canaries
from sovereign_pipeline.record.store import Artifact

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CONVERSATION_ROWS = "conversations.jsonl"
"""File of the conversations, in training_dataset and in preference_dataset. Written only if there are conversations."""
SELECTION_ROWS = "selection.jsonl"
"""File of the selection side's documents, each as a conversation, in both kinds of dataset. It is written only if the
split has a selection side. No model is trained on this file. With this file, an experiment needs no artifact that
contains held-out documents."""
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"
CARD_FOR_HUBS = "README.md"
Row = Mapping[str, object]
Turn = Mapping[str, Any]
"""A message as in OpenAI, Transformers and TRL. The arguments of calls are an object instead of JSON text."""


def row_files(dataset: Artifact) -> list[Path]:
    """Return the files with a dataset's training rows. The file of letters comes first. Raises IntegrityError if the
    dataset has no such file."""
    names = {entry.path for entry in dataset.manifest.files}
    found = [each for each in (TRAINING_ROWS, PREFERENCE_ROWS, LABEL_ROWS, CONVERSATION_ROWS) if each in names]
    if not found:
        raise IntegrityError(f"{dataset.path}: the dataset has no file of rows.", "Restore the dataset from a copy.")
    return [dataset.file(name) for name in found]


def row_ids(dataset: Artifact) -> set[str]:
    """Return the ids of a dataset's training documents and canaries. Raises IntegrityError as `row_files` does."""
    return {str(row["id"]) for path in row_files(dataset) for row in read_jsonl(path)}


class SftRow(TypedDict):
    """A row of training_dataset's `train.jsonl`."""

    id: str
    instruction: str
    input: str
    output: str


class TextTurn(TypedDict):
    """A turn of a letter."""

    role: Literal["user", "assistant"]
    content: str


class MessagesRow(TypedDict):
    """A row of training_dataset's `messages.jsonl`: one turn of the user and one turn of the assistant."""

    id: str
    messages: list[TextTurn]


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


class ConversationRow(TypedDict):
    """A row of `conversations.jsonl`, in TRL's conversational form. training_dataset has `messages`. preference_dataset
    has `prompt`, and either `chosen` and `rejected` with one message each, or `completion` with one message and its
    `label`."""

    id: str
    messages: NotRequired[list[Turn]]
    prompt: NotRequired[list[Turn]]
    chosen: NotRequired[list[Turn]]
    rejected: NotRequired[list[Turn]]
    completion: NotRequired[list[Turn]]
    label: NotRequired[bool]
    tools: NotRequired[list[Mapping[str, Any]]]
    """Absent without tools, because some chat templates render an empty list."""
    instruction: NotRequired[str]
    """Text at the beginning of the first user turn. If the trainer drops the first turns of a long conversation, this
    text moves to the first user turn that is left."""


class Prompt(NamedTuple):
    """Messages in the form in which the model receives them."""

    messages: list[Turn]
    shared: int = 0
    """Number of characters at the beginning of the first user turn that other requests may share: the instruction,
    followed by the caller's system message."""


def as_served(messages: Sequence[Turn], instruction: str | None, replaces: bool = False) -> Prompt:
    """Prepend the line's instruction to the first user turn, both in training and in serving.

    System messages at the beginning move into that turn, after the instruction. If there is no user turn, the
    instruction and these messages form one. The messages are returned unchanged if they begin with a system message and
    `replaces` is true, if the line has no instruction, or if they contain neither a system message at the beginning nor
    a user turn.
    """
    begin = next((place for place, each in enumerate(messages) if each["role"] != "system"), len(messages))
    system = "\n\n".join(each["content"] for each in messages[:begin])
    if not instruction or (begin and replaces):
        return Prompt([*messages])
    before = "\n\n".join([instruction, system] if begin else [instruction])
    rest = messages[begin:]
    first = next((place for place, each in enumerate(rest) if each["role"] == "user"), None)
    if first is None:
        return Prompt([{"role": "user", "content": before}, *rest] if begin else [*messages])
    content = user_message(before, rest[first]["content"])
    shared = len(before) if content.startswith(before) else 0
    return Prompt([*rest[:first], {**rest[first], "content": content}, *rest[first + 1 :]], shared)


def replaces_instruction(institution: Institution, line: Line) -> bool:
    """Return True if a system message replaces the line's instruction when the gateway serves the line. A system
    message then replaces the instruction in training, too."""
    served = institution.serving.lines.get(line.line)
    return served is not None and served.system == "replace"


def turn_of(message: Message) -> Turn:
    """Convert a message to the form that rows and chat templates use."""
    calls = [
        {"type": "function", **({"id": call.id} if call.id else {}), "function": call.model_dump(exclude={"id"})}
        for call in message.tool_calls
    ]
    others = message.model_dump(include={"tool_call_id", "name", "weight"}, exclude_defaults=True)
    return {"role": message.role, "content": message.content, **({"tool_calls": calls} if calls else {}), **others}


def message_of(turn: Turn) -> Message:
    """Convert a turn to a message. This is the exact inverse of `turn_of`."""
    calls = tuple(ToolCall(**call["function"], id=call.get("id")) for call in turn.get("tool_calls", ()))
    return Message.model_validate({**turn, "tool_calls": calls})


def conversation_row(document: Document, instruction: str, replaces: bool = False) -> ConversationRow:
    """Convert a document to a row of messages, in the form in which the gateway sends messages to the model. As in a
    letter, the document's subject precedes the text of the first user turn."""
    turns = [dict(turn_of(each)) for each in document.messages]
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is not None:
        first["content"] = user_message(document.subject, first["content"])
    served = as_served(turns, instruction, replaces)
    *prompt, reply = served.messages
    row = ConversationRow(id=document.id)
    if served.shared:
        row["instruction"] = next(each["content"] for each in prompt if each["role"] == "user")[: served.shared]
    if not document.is_preference:
        row["messages"] = [*prompt, reply]
    elif document.rejected is not None:
        rejected = {"role": "assistant", "content": document.rejected}
        row |= {"prompt": prompt, "chosen": [reply], "rejected": [rejected]}
    else:
        row |= {"prompt": prompt, "completion": [reply], "label": bool(document.label)}
    if document.tools:
        row["tools"] = list(document.tools)
    return row


def conversations_of(row: Any) -> list[list[Turn]]:
    """Return one conversation for each reply of a row: the prompt, followed by the reply. The conversation with the
    chosen reply comes first."""
    if "output" in row:
        return [list(messages_row(row)["messages"])]
    if "messages" in row:
        return [row["messages"]]
    replies = (row[name] for name in ("chosen", "rejected", "completion") if name in row)
    return [[*_turns("user", row["prompt"]), *_turns("assistant", reply)] for reply in replies]


def _turns(role: str, column: Any) -> list[Turn]:
    return [{"role": role, "content": column}] if isinstance(column, str) else column


def is_letter(row: Row) -> bool:
    """Return True if a row of a dataset is a letter, and False if it is a conversation."""
    return "output" in row or isinstance(row.get("prompt"), str)


def document_of(row: Mapping[str, Any]) -> Document:
    """Convert the row of a conversation to a document with the row's id and texts. Its other fields are empty."""
    whole, *others = conversations_of(row)
    columns = ("source", "case", "department", "author", "date", "classification", "language", "subject")
    rejected = others[0][-1]["content"] if others else None
    texts = {"messages": [*map(message_of, whole)], "tools": row.get("tools", ()), "rejected": rejected}
    return Document.model_validate({**dict.fromkeys(columns, ""), "id": row["id"], **texts})


def sft_row(document: Document, instruction: str) -> SftRow:
    parts = (document.subject, document.request)
    return SftRow(
        id=document.id,
        instruction=instruction,
        input="\n\n".join(part for part in parts if part),
        output=document.response,
    )


def user_message(instruction: str, input: str) -> str:
    """Join the instruction and the input into the content of one user message, without the chat template. An empty
    part is left out."""
    return "\n\n".join(part for part in (instruction, input) if part)


def messages_row(row: SftRow) -> MessagesRow:
    return MessagesRow(
        id=row["id"],
        messages=[
            TextTurn(role="user", content=user_message(row["instruction"], row["input"])),
            TextTurn(role="assistant", content=row["output"]),
        ],
    )


def sft_row_of(row: MessagesRow, instruction: str) -> SftRow:
    """Convert a row of messages back to the SFT row. This is the exact inverse of `messages_row`. Raises ValueError
    unless the messages are one user turn that begins with the instruction, and one assistant turn."""
    user, assistant = row["messages"]
    before = user_message(instruction, " ")[:-1]
    if (user["role"], assistant["role"]) != ("user", "assistant") or not user["content"].startswith(before):
        raise ValueError(f"row {row['id']} does not consist of the line's instruction, an input and a reply")
    return SftRow(
        id=row["id"], instruction=instruction, input=user["content"][len(before) :], output=assistant["content"]
    )


def preference_row(document: Document, instruction: str) -> PreferenceRow:
    """Convert a document to a preference pair. Raises ValueError for a document without a rejected reply."""
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
    """Convert a document to a row with binary feedback. Raises ValueError for a document without a label."""
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
    """Yield the rows of letters with binary feedback. Raises IntegrityError, which names the file and the line, for an
    invalid row."""
    for number, row in enumerate(read_jsonl(path), start=1):
        if {name: type(value) for name, value in row.items()} != LabelRow.__annotations__:
            raise IntegrityError(
                f"{path}, line {number}: the row must have exactly id, prompt, completion and label (true or false).",
                "Materialize preference_dataset again.",
            )
        yield cast(LabelRow, row)


@dataclass(frozen=True)
class Layout:
    """The layout of one kind of dataset: the documents that it includes, their conversion to rows, and the file."""

    kind: str
    file: str
    """Name of the file with the rows of letters, in the artifact."""
    role: Role
    """Role of the sources from which the dataset is built."""
    columns: tuple[str, ...]
    """Keys of every row in `file`, in order."""
    text_columns: tuple[str, ...]
    """Columns whose lengths and duplicates the card states."""
    includes: Callable[[Document], bool]
    """Function that returns True if a document belongs in this dataset."""
    row: Callable[[Document, str], Row]
    """Function that returns the row for a letter and an instruction."""

    def row_of(self, document: Document, instruction: str, replaces: bool) -> tuple[str, Row]:
        """Return two values: the name of the file to which the document's row belongs, and the row."""
        if document.is_letter:
            return self.file, self.row(document, instruction)
        return CONVERSATION_ROWS, conversation_row(document, instruction, replaces)

    def max_length(self, line: Line) -> int:
        training = line.training
        if self.role == "letters":
            return training.sft.max_length
        return (training.preference or training.reward_model or training.sft).max_length

    def canaries(self, line: Line) -> Canaries | None:
        return line.training.canaries if self.role == "letters" else None

    def messages_file(self, line: Line) -> str | None:
        """Return the name of the file that repeats the rows in the form of messages. Return None if the recipe does not
        request this file."""
        return MESSAGES_ROWS if self.role == "letters" and line.training.format == "messages" else None

    def files(self, line: Line) -> dict[str, tuple[str, ...]]:
        """Return a dict that maps the name of each file of rows that a dataset may have to the keys of its rows."""
        turns = ("messages",) if self.role == "letters" else self.columns[1:]
        return {
            self.file: self.columns,
            **({MESSAGES_ROWS: tuple(MessagesRow.__annotations__)} if self.messages_file(line) else {}),
            **dict.fromkeys((CONVERSATION_ROWS, SELECTION_ROWS), ("id", *turns, "tools", "instruction")),
        }


SFT = Layout(
    kind="training_dataset",
    file=TRAINING_ROWS,
    role="letters",
    columns=tuple(SftRow.__annotations__),
    text_columns=("input", "output"),
    includes=lambda document: not document.is_preference,
    row=sft_row,
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
)
"""Layout of requests, each with a reply and binary feedback on the reply."""


def preference_layout(line: Line) -> Layout:
    """Return LABELS if a source of the line has the role `labels`, and otherwise PAIRS. A line never has both roles."""
    return LABELS if any(source.role == "labels" for source in line.sources) else PAIRS


def documents_of(layout: Layout, split: Artifact, side: str) -> Iterator[Document]:
    """Yield the documents that a dataset includes from one side of a split. `side`: name of the side's file."""
    return filter(layout.includes, read_documents(split.file(side)))
