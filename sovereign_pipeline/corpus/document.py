"""Define documents, the messages in documents, and quarantined rows. Read and write documents as canonical JSONL."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.policy.institution import ClassificationLadder

Role = Literal["letters", "preferences", "labels"]
"""Kind of rows in a source: requests with their replies, pairs of replies, or replies with binary feedback."""


class ToolCall(Frozen):
    """An assistant's call of a tool."""

    name: str
    arguments: dict[str, Any] = {}
    id: str | None = None


class Message(Frozen):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    """Text of the turn, or a tool's result, often JSON. Reasoning comes first, between <think> and </think>."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Id of the call that a tool's message answers."""
    name: str | None = None
    """Name of the tool that answers, or of a speaker."""
    weight: Literal[0, 1] = 1
    """0 if this turn of the assistant must not be trained on, as in OpenAI's training files; otherwise 1."""

    @property
    def as_text(self) -> str:
        """Return the content and the calls as one text."""
        return "\n".join(part for part in (self.content, self.calls_as_text) if part)

    @property
    def calls_as_text(self) -> str:
        """Return the calls as text, one line of JSON for each call."""
        calls = ({"name": call.name, "arguments": call.arguments} for call in self.tool_calls)
        return "\n".join(json.dumps(call, ensure_ascii=False) for call in calls)


def exchange(request: str, response: str) -> tuple[Message, Message]:
    """Return a request and its reply as two messages."""
    return Message(role="user", content=request), Message(role="assistant", content=response)


class Document(Frozen):
    """A conversation that ends with one of three kinds of reply: a reply that the institution sent, the chosen reply of
    a pair (`rejected` is the other reply), or a reply with binary feedback (`label`).

    A letter (`is_letter`) is stored with `request` and `response` instead of `messages`. The class parses both forms.
    """

    # The order of the fields is the order of the keys in every JSONL file of documents.

    id: str
    source: str
    case: str
    department: str
    author: str
    date: str
    """ISO day."""
    classification: str
    language: str
    subject: str
    messages: tuple[Message, ...]
    """Turns in order. The last is the reply; for a pair, the chosen reply."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the assistant could call, each `{type: function, function: {name, description, parameters}}`."""
    rejected: str | None = None
    label: bool | None = None
    """Binary feedback: true if people rated the reply as good; None without feedback."""
    links: tuple[str, ...] = ()
    """Ids of rows that belong to the same matter."""

    @model_validator(mode="before")
    @classmethod
    def _letter_as_messages(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "request" not in values or "response" not in values:
            return values
        others = {name: value for name, value in values.items() if name not in ("request", "response")}
        turns = [("user", values["request"]), ("assistant", values["response"])]
        # If `messages` exists too, the turns stay under `request`: pydantic rejects it as an unknown field.
        name = "messages" if "messages" not in values else "request"
        return {**others, name: [{"role": role, "content": content} for role, content in turns]}

    @model_validator(mode="after")
    def _ends_in_a_reply(self) -> "Document":
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("the last message is not from the assistant")
        if any(message.tool_calls for message in self.messages if message.role != "assistant"):
            raise ValueError("only messages of the assistant may call tools")
        return self

    @model_serializer(mode="wrap")
    def _stored(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stored: dict[str, Any] = dump(self)
        if "messages" not in stored:  # the caller excluded the field
            return stored
        turns: dict[str, Any] = {"request": self.request, "response": self.response}
        if not self.is_letter:
            turns = {"messages": [message.model_dump(exclude_defaults=True) for message in self.messages]}
            turns |= {"tools": stored["tools"]} if self.tools else {}
        names = tuple(stored)
        place = names.index("messages")
        before, behind = names[:place], [name for name in names[place + 1 :] if name != "tools"]
        return {**{name: stored[name] for name in before}, **turns, **{name: stored[name] for name in behind}}

    @property
    def is_preference(self) -> bool:
        """Return True if the document has a rejected reply or binary feedback. The response of such a document is not a
        reply that the institution sent."""
        return self.rejected is not None or self.label is not None

    @property
    def is_letter(self) -> bool:
        """Return True if the document is one user and one assistant message, without tools, calls, names or weights of
        0."""
        if len(self.messages) != 2 or self.tools:
            return False
        request, reply = self.messages
        return request == Message(role="user", content=request.content) and reply == Message(
            role="assistant", content=reply.content
        )

    @property
    def request(self) -> str:
        """Return all messages before the last as one text. For a letter, this text is the request."""
        return "\n\n".join(message.as_text for message in self.messages[:-1])

    @property
    def response(self) -> str:
        """Return the last message as text."""
        return self.messages[-1].as_text

    @property
    def texts_in_language(self) -> list[str]:
        """Return the texts in which name detection uses the document's language: all messages, the rejected reply, and
        the strings in the JSON of tool calls and tool results."""
        texts = [] if self.rejected is None else [self.rejected]
        for message in self.messages:
            arguments = [call.arguments for call in message.tool_calls]
            texts += strings_in([json_in(message.content) or message.content, arguments])
        return texts

    @property
    def texts(self) -> dict[str, str]:
        """Return a dict that maps a name to each free text, in reading order. A letter has the names `subject`,
        `request` and `response`. Other conversations have `subject`, `message 1`, `message 2` and so on, and parts such
        as `message 3 name`. A pair also has `rejected`. The arguments of a tool call (`message 3 call 1`) and `tools`
        are JSON texts."""
        found: dict[str, str] = {}
        self._changed(lambda name, text: found.setdefault(name, text))
        return found

    def with_texts(self, texts: Mapping[str, str]) -> "Document":
        """Return a copy of the document with new texts. `texts` maps names of `Document.texts` to new texts. A new text
        for arguments or tools must be JSON."""
        return self._changed(lambda name, text: texts.get(name, text))

    def _changed(self, change: Callable[[str, str], str]) -> "Document":
        """Return a copy of the document in which `change(name, text)` replaces each text."""
        subject = change("subject", self.subject)
        messages: tuple[Message, ...]
        if self.is_letter:
            messages = exchange(change("request", self.request), change("response", self.response))
        else:
            numbered = enumerate(self.messages, start=1)
            messages = tuple(_changed_message(each, f"message {number}", change) for number, each in numbered)
        rejected = None if self.rejected is None else change("rejected", self.rejected)
        tools = tuple(_changed_json(list(self.tools), "tools", change)) if self.tools else ()
        return self.model_copy(update={"subject": subject, "messages": messages, "rejected": rejected, "tools": tools})


def _changed_message(message: Message, name: str, change: Callable[[str, str], str]) -> Message:
    def changed(part: str, text: str | None) -> str | None:
        return text and change(f"{name} {part}", text)

    return message.model_copy(
        update={
            "content": change(name, message.content),
            # A speaker's name is a text; a tool's name stays unchanged.
            "name": message.name if message.role == "tool" else changed("name", message.name),
            "tool_calls": tuple(
                call.model_copy(
                    update={
                        "arguments": _changed_json(call.arguments, f"{name} call {number}", change),
                        "id": changed(f"call {number} id", call.id),
                    }
                )
                for number, call in enumerate(message.tool_calls, start=1)
            ),
            "tool_call_id": changed("call id", message.tool_call_id),
        }
    )


def _changed_json(value: Any, name: str, change: Callable[[str, str], str]) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if (changed := change(name, text)) == text else json.loads(changed)


def json_of(text: str) -> Any:
    """Parse a JSON text. Raises ValueError if the text is invalid or an object repeats a key, and RecursionError if the
    text is nested too deeply."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def json_in(content: str) -> Any:
    """Parse a text as a JSON object or list; return None for any other text."""
    if not content.lstrip().startswith(("{", "[")):
        return None
    try:
        return json_of(content)
    except (ValueError, RecursionError):
        return None


def strings_in(value: Any, *, with_keys: bool = False) -> Iterator[str]:
    """Yield every string in a JSON value. If `with_keys` is true, yield the keys of objects, too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from [key] if with_keys else []
            yield from strings_in(each, with_keys=with_keys)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_in(each, with_keys=with_keys)


PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
"""Pattern of a parameter's name in a tool's schema."""


def properties_in(schema: Any) -> Iterator[str]:
    """Yield the names of parameters in the JSON Schemas of tools."""
    if isinstance(schema, Mapping):
        for key, each in schema.items():
            if key == "properties" and isinstance(each, Mapping):
                yield from each
            yield from properties_in(each)
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from properties_in(each)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write each document as one line of canonical JSONL (UTF-8, NFC). Return the number of documents. Only one
    document is in memory at a time."""
    return write_jsonl(path, (document.model_dump() for document in documents))


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a JSONL file one at a time. Raises IntegrityError, which names the file and the line, if a
    row is not a valid document."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                document = Document.model_validate(json.loads(line))
            except ValueError:
                raise not_a_document(path, number) from None
            yield document


def not_a_document(path: Path, line: int) -> IntegrityError:
    """Return the error to raise for a stored row that is not a valid document. `line` counts from 1."""
    return IntegrityError(f"{path}, line {line}: not a document.", "Materialize the corpus again.")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows as canonical JSONL (`jsonl_line`), and return the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(jsonl_line(row))
            count += 1
    return count


def jsonl_line(row: Mapping[str, object]) -> str:
    """Return one row as a line of canonical JSONL: keys in the row's order, NFC, no spaces, a newline at the end.
    Raises ValueError for NaN and infinity, and TypeError for types that JSON lacks."""
    return json.dumps(_composed(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _composed(value: object) -> object:
    """Return the value with every string in it normalised to NFC."""
    # Normalise before writing: in the written line, an accent after a newline would combine with the `n` of its escape.
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {_composed(key): _composed(each) for key, each in value.items()}
    return [_composed(each) for each in value] if isinstance(value, list | tuple) else value


def read_jsonl(path: Path) -> Iterator[dict[str, object]]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield json.loads(line)


@dataclass(frozen=True)
class Row:
    """One row of a file, broken or not."""

    number: int
    """Number of the line (JSONL), element (JSON) or record (CSV, Parquet), from 1."""
    values: dict[str, Any] | None
    """Values by column name; None if the row is broken."""
    problem: str | None = None
    """Reason why the row is broken, without text of the row."""


class RowRejected(Exception):
    """Raised if a row cannot become a document. The message is the reason for quarantine, without text of the row."""


@dataclass(frozen=True)
class Quarantined:
    """A quarantined row: a line of `quarantine.jsonl`."""

    source: str
    row: int
    """Number of the row in its file, from 1."""
    id: str | None
    """Id of the row; None if it is unreadable or must not be shown."""
    reason: str


_REMEDIES = {
    "not UTF-8": "Name the file's encoding under `encoding` of the source.",
    "not JSON": "Write one object on each line, each line ending in LF, or correct the file's suffix.",
    "has ": "Give every row as many cells as the header, or correct `delimiter`.",
    "date is not written as": "Correct the format under `date`, list two formats there, or correct these dates.",
    "date": "Set the format of dates, such as `date: {{format: dd.mm.yyyy}}`. ISO dates (2024-12-31) need none.",
    "unknown or missing classification level": "Give each word a level under `levels`: {levels}.",
    "repeats the header": "Delete the header lines within the file, or use a separate source for each export.",
    "duplicate id": "Set `columns: id` to a column whose values are all different.",
    "id or case is a number": "Export the column as text.",
    "the links": "Write the ids as a list, or separate them by `,` `;` `|` or spaces.",
    "longer than": "Raise quarantine.max_row_bytes if such long rows are correct.",
    "language": "Map a column of language tags, set one language under `constants`, or set `language_from_text: true`.",
}
"""Maps the beginning of a quarantine reason to the remedy for all rows whose reason begins with it."""


def format_rows_by_reason(broken: Sequence[Quarantined]) -> str:
    """Format the reasons for quarantine, each with its first rows. The most frequent reason comes first."""
    rows: dict[str, list[Quarantined]] = {}
    for row in broken:
        rows.setdefault(row.reason, []).append(row)
    frequent = sorted(rows.items(), key=lambda each: -len(each[1]))
    return and_more((f"{reason}: {and_more(map(_named, of_reason))}" for reason, of_reason in frequent), separator="; ")


def _named(row: Quarantined) -> str:
    return f"row {row.row}{f' ({row.id})' if row.id else ''}"


def remedy_for(broken: Sequence[Quarantined], ladder: ClassificationLadder) -> str:
    """Return the remedy for the most frequent reason among quarantined rows."""
    reason = Counter(row.reason for row in broken).most_common(1)[0][0]
    common = next((remedy for begin, remedy in _REMEDIES.items() if reason.startswith(begin)), "")
    otherwise = "orrect the rows, `exclude` them, or raise quarantine.max_share."
    return f"{common.format(levels=', '.join(ladder.levels))} Or c{otherwise}" if common else f"C{otherwise}"
