"""One document of the corpus, and the JSONL in which documents and other rows are stored.

What belongs here: the typed document and the one JSONL format of this project. What does not: reading an institution's
own files (`file_formats.py`, `documents_from_rows.py`).
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.frozen import Frozen

Role = Literal["letters", "preferences", "labels"]
"""What the rows of a source are: requests with their replies, pairs of replies, or replies with binary feedback."""


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
    """What was written to the institution."""
    response: str
    """The reply that the institution sent; the chosen one where there is a rejected reply."""
    rejected: str | None = None
    label: bool | None = None
    """Binary feedback: whether people found the reply good; None without feedback."""
    links: tuple[str, ...] = ()
    """Ids of rows that belong to the same matter."""

    @property
    def is_preference(self) -> bool:
        """Whether it is a pair or a labelled reply. Its response is then not a reply that the institution sent."""
        return self.rejected is not None or self.label is not None

    @property
    def texts(self) -> dict[str, str]:
        """The fields that hold free text, in reading order."""
        fields = {"subject": self.subject, "request": self.request, "response": self.response}
        return fields if self.rejected is None else {**fields, "rejected": self.rejected}


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON object a line (UTF-8, NFC, newline), one document in memory at a time. Returns their number."""
    return write_jsonl(path, (document.model_dump() for document in documents))


def read_documents(path: Path) -> Iterator[Document]:
    """Stream documents. Raises IntegrityError with file and line for a row that is not a document."""
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            yield Document.model_validate(row)
        except ValueError:
            raise not_a_document(path, number) from None


def not_a_document(path: Path, line: int) -> IntegrityError:
    """The error for a stored row that is not a document. line: from 1."""
    return IntegrityError(f"{path}, line {line}: not a document.", "Materialize the corpus again.")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write the canonical JSONL: keys in the given order, NFC, no spaces, a newline after each. Returns the rows."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(jsonl_line(row))
            count += 1
    return count


def jsonl_line(row: Mapping[str, object]) -> str:
    """One row as `write_jsonl` writes it. Raises ValueError for NaN and TypeError for a type that JSON has not."""
    return json.dumps(_composed(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _composed(value: object) -> object:
    """The value with every text in NFC."""
    # Not the written line: there an accent after a newline would join the `n` of its escape.
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {_composed(key): _composed(each) for key, each in value.items()}
    return [_composed(each) for each in value] if isinstance(value, list | tuple) else value


def read_jsonl(path: Path) -> Iterator[dict[str, object]]:
    """Stream the rows of a file that `write_jsonl` wrote."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield json.loads(line)
