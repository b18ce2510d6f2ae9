"""One document: a letter with its reply, with a chosen and a rejected one, or with a labelled one; and its JSONL."""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.errors import IntegrityError

# The order of the fields is the order of the keys in every JSONL file of the corpus rooms.


class Document(BaseModel):
    """source: name of the source in the recipe. date: ISO day. request: the incoming letter. response: the reply that
    the institution sent (the chosen one where there is a rejected). label: whether people found that reply good; None
    where nobody was asked. links: ids of rows that belong to the same matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    case: str
    department: str
    author: str
    date: str
    classification: str
    language: str
    subject: str
    request: str
    response: str
    rejected: str | None = None
    label: bool | None = None
    links: tuple[str, ...] = ()

    @property
    def is_preference(self) -> bool:
        """It says what people prefer: a pair, or a labelled reply. Its response is then no reply that was sent."""
        return self.rejected is not None or self.label is not None

    @property
    def texts(self) -> dict[str, str]:
        """The fields that hold free text, in reading order."""
        fields = {"subject": self.subject, "request": self.request, "response": self.response}
        return fields if self.rejected is None else {**fields, "rejected": self.rejected}


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON object a line (UTF-8, NFC, newline). Returns the number of rows. Never holds more than one."""
    return write_jsonl(path, (document.model_dump() for document in documents))


def read_documents(path: Path) -> Iterator[Document]:
    """Stream documents. Raises IntegrityError naming file and line for one that is not a document."""
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            yield Document.model_validate(row)
        except ValueError:
            raise IntegrityError(f"{path}, line {number}: not a document. Materialize the corpus again.") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """The canonical JSONL of this project: keys as given, NFC, no spaces, one newline a row."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(jsonl_line(row))
            count += 1
    return count


def jsonl_line(row: Mapping[str, object]) -> str:
    """One row as `write_jsonl` writes it. Raises ValueError for NaN and TypeError for what JSON does not know."""
    return json.dumps(_composed(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _composed(value: object) -> object:
    """The value with every text in NFC. Not the written line: there an accent after a newline would join the `n` of
    its escape."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {_composed(key): _composed(each) for key, each in value.items()}
    return [_composed(each) for each in value] if isinstance(value, list | tuple) else value


def read_jsonl(path: Path) -> Iterator[dict[str, object]]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield json.loads(line)
