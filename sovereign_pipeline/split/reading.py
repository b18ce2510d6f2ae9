"""The columns of a file of documents: what the split compares, read once, by several processes, without the text.

What belongs here: from documents to columns. What does not: embeddings (`paraphrases.py`), and what is concluded
(`assignment.py`).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.corpus.document import Document, not_a_document
from sovereign_pipeline.corpus.folding import folded, folded_author
from sovereign_pipeline.countdown import Countdown, silent
from sovereign_pipeline.processes.worker_pool import WorkerPool
from sovereign_pipeline.split.grouping import Ties, key_of, matters_of
from sovereign_pipeline.split.shingles import Shingles
from sovereign_pipeline.split.similarity import normal_form, shingles_of_normal_forms
from sovereign_pipeline.split.texts import TextCollector, TextRecords, Texts, texts_of

_BYTES_PER_PART = 1 << 22

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Columns:
    """What is known of many documents, by their number in the file; no text."""

    ids: list[str]
    is_preference: NDArray[np.bool_]
    days: NDArray[np.int64]
    """Proleptic Gregorian ordinal of the document's date."""
    cases: Ties
    """A document without a case file has no key here."""
    matters: Ties
    """Own ids and linked ids."""
    shingles: Shingles
    """Of request and response together."""
    texts: Texts

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FilePart:
    """Whole lines of a file: the bytes from start up to stop."""

    path: Path
    start: int
    stop: int
    first_line: int
    """From 1."""


def read_columns(documents: Path, scratch: Path, progress: Progress = silent) -> Columns:
    """Read a file of documents. scratch: a directory that keeps their shingles as long as the result is used.

    Raises IntegrityError with file and line for a row that is not a document.
    """
    ids: list[str] = []
    parts: list[_PartColumns] = []
    shingles, of_texts = scratch / f"{documents.name}.shingles", scratch / f"{documents.name}.texts"
    size = documents.stat().st_size
    countdown = Countdown(progress, f"reading {documents.name}", -(-size // _BYTES_PER_PART), "part")
    with shingles.open("wb") as file, of_texts.open("wb") as file_of_texts:
        for number, (part, hashes, hashes_of_texts) in enumerate(over_parts(documents, _part_columns), start=1):
            countdown.reached(number)
            hashes.tofile(file)
            hashes_of_texts.tofile(file_of_texts)
            parts.append(part.after(len(ids)))
            ids += part.ids

    def whole(column: str, kind: type) -> Any:
        return np.concatenate([np.empty(0, kind), *(getattr(part, column) for part in parts)])

    sizes = whole("sizes", np.int64)
    return Columns(
        ids=ids,
        is_preference=whole("is_preference", np.bool_),
        days=whole("days", np.int64),
        cases=Ties(whole("case_rows", np.int64), whole("case_keys", np.uint64)),
        matters=Ties(whole("matter_rows", np.int64), whole("matter_keys", np.uint64)),
        shingles=Shingles(shingles, np.cumsum(sizes) - sizes, sizes),
        texts=Texts.joined([part.texts for part in parts], of_texts),
    )


def read_author_keys(documents: Path) -> dict[str, int]:
    """Id -> key of the author, for the documents that name one. Spellings of one name are one author (`folded`)."""
    return {id: key for part in over_parts(documents, _part_authors) for id, key in part}


def over_parts(file: Path, work: Callable[[FilePart], _Result]) -> Iterator[_Result]:
    """Do `work` on every part of a file, in the file's order; in one process per core when there are several parts.

    Raises WorkerKilled when one of them was killed, and what `work` raises.
    """
    parts = list(_parts(file))
    if len(parts) <= 1:
        yield from map(work, parts)
        return
    with WorkerPool(min(len(os.sched_getaffinity(0)), len(parts))) as pool:
        yield from pool.over(iter(parts), work)


def documents_in(part: FilePart) -> Iterator[Document]:
    """Stream the documents of a part. Raises IntegrityError with file and line for a row that is not a document."""
    with part.path.open("rb") as stream:
        stream.seek(part.start)
        for number, line in enumerate(stream.read(part.stop - part.start).splitlines(), start=part.first_line):
            try:
                yield Document.model_validate_json(line)
            except ValueError:
                raise not_a_document(part.path, number) from None


@dataclass(frozen=True)
class _PartColumns:
    """`Columns` of one part; row numbers count from its first line."""

    ids: list[str]
    is_preference: NDArray[np.bool_]
    days: NDArray[np.int64]
    case_rows: NDArray[np.int64]
    case_keys: NDArray[np.uint64]
    matter_rows: NDArray[np.int64]
    matter_keys: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    texts: TextRecords

    def after(self, documents: int) -> "_PartColumns":
        """The same behind so many documents."""
        return replace(
            self,
            case_rows=self.case_rows + documents,
            matter_rows=self.matter_rows + documents,
            texts=self.texts.after(documents),
        )


def _part_columns(part: FilePart) -> tuple[_PartColumns, NDArray[np.uint64], NDArray[np.uint64]]:
    """The columns, and the shingles of its documents and of their texts."""
    rows = []
    cases, matters, normal_forms = [], [], []
    texts = TextCollector()
    for number, document in enumerate(documents_in(part)):
        rows.append((document.id, document.is_preference, date.fromisoformat(document.date).toordinal()))
        if document.case:
            cases.append((number, key_of(folded(document.case))))
        matters += [(number, key_of(matter)) for matter in matters_of(document)]
        normal_forms.append(normal_form(document))
        texts.add(number, texts_of(document))
    hashes = shingles_of_normal_forms(normal_forms)
    ids, is_preference, days = zip(*rows, strict=True)
    case_rows, case_keys = zip(*cases, strict=True) if cases else ((), ())
    matter_rows, matter_keys = zip(*matters, strict=True)
    columns = _PartColumns(
        ids=list(ids),
        is_preference=np.array(is_preference, np.bool_),
        days=np.array(days, np.int64),
        case_rows=np.array(case_rows, np.int64),
        case_keys=np.array(case_keys, np.uint64),
        matter_rows=np.array(matter_rows, np.int64),
        matter_keys=np.array(matter_keys, np.uint64),
        sizes=np.array([each.size for each in hashes], np.int64),
        texts=texts.records(),
    )
    return columns, np.concatenate(hashes), texts.shingles()


def _part_authors(part: FilePart) -> list[tuple[str, int]]:
    return [
        (document.id, key_of(folded_author(document.author)))
        for document in documents_in(part)
        if document.author.strip()
    ]


def _parts(file: Path) -> Iterator[FilePart]:
    """Whole lines, about _BYTES_PER_PART of them at a time."""
    with file.open("rb") as stream:
        start, line = 0, 1
        while block := stream.read(_BYTES_PER_PART):
            block += stream.readline()
            yield FilePart(file, start, start + len(block), line)
            start += len(block)
            line += block.count(b"\n")
