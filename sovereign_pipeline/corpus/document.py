"""Define documents and quarantined rows, and read and write their canonical JSONL."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.policy.institution import ClassificationLadder

Role = Literal["letters", "preferences", "labels"]
"""Kind of rows in a source: requests with their replies, pairs of replies, or replies with binary feedback."""


class Document(Frozen):
    """A request with its reply, a chosen and a rejected reply, or a reply with binary feedback."""

    # The order of the fields is the order of the keys in every JSONL file of documents.

    id: str
    source: str
    """Name of the source in the recipe."""
    case: str
    department: str
    author: str
    date: str
    """ISO day."""
    classification: str
    language: str
    subject: str
    request: str
    """Text that the institution received."""
    response: str
    """Reply that the institution sent, or the chosen reply of a pair."""
    rejected: str | None = None
    label: bool | None = None
    """Binary feedback: true if people rated the reply as good; None without feedback."""
    links: tuple[str, ...] = ()
    """Ids of rows that belong to the same matter."""

    @property
    def is_preference(self) -> bool:
        """Return whether the document is a pair of replies or has binary feedback, so that its response was not sent by
        the institution."""
        return self.rejected is not None or self.label is not None

    @property
    def texts(self) -> dict[str, str]:
        """Return the fields with free text, in reading order."""
        fields = {"subject": self.subject, "request": self.request, "response": self.response}
        return fields if self.rejected is None else {**fields, "rejected": self.rejected}


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON object per line (UTF-8, NFC, newline), with one document in memory at a time. Return their
    number."""
    return write_jsonl(path, (document.model_dump() for document in documents))


def read_documents(path: Path) -> Iterator[Document]:
    """Stream documents. Raises IntegrityError with file and line for a row that is not a document."""
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            yield Document.model_validate(row)
        except ValueError:
            raise not_a_document(path, number) from None


def not_a_document(path: Path, line: int) -> IntegrityError:
    """Return the error for a stored row that is not a document. `line` counts from 1."""
    return IntegrityError(f"{path}, line {line}: not a document.", "Materialize the corpus again.")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write canonical JSONL: keys in the given order, NFC, no spaces, a newline after each row. Return the number of
    rows."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(jsonl_line(row))
            count += 1
    return count


def jsonl_line(row: Mapping[str, object]) -> str:
    """Return one row as a line of canonical JSONL. Raises ValueError for NaN, and TypeError for types that JSON
    lacks."""
    return json.dumps(_composed(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _composed(value: object) -> object:
    """Return the value with every text in it in NFC."""
    # The written line cannot be normalised: an accent after a newline would combine with the `n` of its escape.
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
    """Number in the file, from 1."""
    id: str | None
    """Id of the row; None if it is unreadable or must not be shown."""
    reason: str


_REMEDIES = {
    "not UTF-8": "Name the file's encoding under `encoding` of the source.",
    "not JSON": "Write one object on each line, each line ending in LF, or correct the file's suffix.",
    "has ": "Give every row as many cells as the header, or correct `delimiter`.",
    "date is not written as": "Correct the format under `date`, add a second one as a list, or correct these dates.",
    "date": "Set the format of dates, such as `date: {{format: dd.mm.yyyy}}`. ISO dates (2024-12-31) need none.",
    "unknown or missing classification level": "Give each word a level under `levels`: {levels}.",
    "repeats the header": "Delete the header lines within the file, or use a separate source for each export.",
    "duplicate id": "Set `columns: id` to a column whose values are all different.",
    "id or case is a number": "Export the column as text.",
    "the links": "List the ids, or write them with `,` `;` `|` or spaces between.",
    "longer than": "Raise quarantine.max_row_bytes if such long rows are correct.",
    "language": "Map a column of language tags, set one language under `constants`, or set `language_from_text: true`.",
}
"""Beginning of a quarantine reason -> remedy for all such rows."""


def format_rows_by_reason(broken: Sequence[Quarantined]) -> str:
    """Return the reasons of quarantine with the first rows of each, the most frequent reason first."""
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
