"""Read the source files again and compare them with a raw corpus. This module has its own code for each row's
classification level, because a level that both codes missed would lower everything made from the row."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.columns import SPELLINGS_REMEMBERED, ColumnScreen
from sovereign_pipeline.corpus.document import Document, Quarantined, jsonl_line, read_documents, read_jsonl
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.parsing import digest_of_source
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.store import Artifact


@dataclass(frozen=True)
class ChangedRows:
    """The changed documents of one source, by their ids."""

    withdrawn: tuple[str, ...]
    """Ids of documents whose row is no longer in the file, or is broken there."""
    reclassified: tuple[str, ...]
    """Ids of documents with another classification level now."""
    reworded: tuple[str, ...]
    """Ids of documents at the same level whose text or another field changed."""
    added: int
    """Number of documents that were added to the file."""

    def __str__(self) -> str:
        named = {"withdrawn": self.withdrawn, "reclassified": self.reclassified, "reworded": self.reworded}
        parts = [f"{counted(len(ids), 'row')} {what} ({and_more(ids)})" for what, ids in named.items() if ids]
        if self.added:
            parts.append(f"{counted(self.added, 'row')} added")
        return "; ".join(parts) or "no row changed"


@dataclass(frozen=True)
class ChangedSource:
    """A source file that was changed or removed since the raw corpus was built."""

    name: str
    path: str
    sha256: str
    """SHA-256 of the file from which the corpus was built."""
    state: Literal["changed", "missing"]
    rows: ChangedRows | None
    """Changed rows. None if the file or the documents are missing or unreadable."""

    def __str__(self) -> str:
        subject = f"{self.path}: the source '{self.name}' ({short(self.sha256)})"
        if self.state == "missing":
            return f"{subject} is missing."
        return f"{subject} was changed since it was read{f': {self.rows}' if self.rows is not None else ''}."


def changed_sources(
    data: Path, manifest: Manifest, sources: list[dict[str, Any]], documents: Path | None, screen: ColumnScreen | None
) -> Iterator[ChangedSource]:
    """Yield every source file of a raw corpus that is missing or changed.

    Args:
        data: the directory that the institution edits.
        manifest: the manifest of the raw corpus.
        sources: the content of its `sources.json`.
        documents: its verified file of documents, or None if unreadable.
        screen: the screen of its columns, from its configuration (`ColumnScreen.of`).
    """
    for source in sources:
        path = data / source["path"]
        if not path.exists():
            yield ChangedSource(source["name"], str(path), source["sha256"], "missing", None)
        elif digest_of_source(path) != source["sha256"]:
            rows = _compare_rows(path, source["name"], manifest, documents, screen) if documents is not None else None
            yield ChangedSource(source["name"], str(path), source["sha256"], "changed", rows)


def _compare_rows(
    path: Path, name: str, manifest: Manifest, documents: Path, screen: ColumnScreen | None
) -> ChangedRows | None:
    """Return the changed rows of one source, or None if the file cannot be read by the source's description."""
    described = _description(manifest, name)
    if described is None:
        return None
    source, limits = described
    if source.kind != "table":
        return None
    then, of_others = dict[str, tuple[str, bytes]](), set[str]()
    for document in read_documents(documents):
        if document.source == name:
            then[document.id] = document.classification, _digest(document)
        else:
            of_others.add(document.id)
    reclassified, reworded, added, found = list[str](), list[str](), 0, set[str]()
    reader = SourceReader(source, path, limits, ClassificationLadder(manifest.ladder), of_others, screen=screen)
    try:
        for now in reader:
            if not isinstance(now, Document):
                continue
            level, digest = then.get(now.id, (None, b""))
            found.add(now.id)
            if level is None:
                added += 1
            elif level != now.classification:
                reclassified.append(now.id)
            elif digest != _digest(now):
                reworded.append(now.id)
        reader.reject_unlike_recipe()
    except SourceError:
        return None
    withdrawn = [id for id in then if id not in found]
    return ChangedRows(tuple(withdrawn), tuple(reclassified), tuple(reworded), added)


def _description(manifest: Manifest, name: str) -> tuple[Source, Quarantine] | None:
    """Return the description and the quarantine limits of a source from the manifest.

    Returns None if the manifest has no source of this name, or if an earlier release recorded sources in another form.
    """
    recorded: Mapping[str, Any] = manifest.producer.config
    try:
        sources = [Source.model_validate(each) for each in recorded["sources"]]
        limits = Quarantine.model_validate(recorded["quarantine"])
    except (KeyError, ValidationError):
        return None
    return next(((source, limits) for source in sources if source.name == name), None)


def _digest(document: Document) -> bytes:
    return sha256(jsonl_line(document.model_dump()).encode()).digest()


@dataclass
class Comparison:
    rows: int = 0
    """Number of rows in the sources."""
    documents: int = 0
    """Number of documents in the corpus."""
    quarantined: int = 0
    """Number of quarantined rows in the corpus."""
    excluded: int = 0
    """Number of rows of the sources that the recipe excludes."""
    not_selected: int = 0
    """Number of rows of the sources that `where` excludes."""
    different: list[str] = field(default_factory=list)
    """Ids of documents that differ from their row, have no row, or are missing."""
    lowered: list[str] = field(default_factory=list)
    """Ids of documents below the classification level of their row or source."""
    quarantine_differs: bool = False
    levels: set[str] = field(default_factory=set)
    """Classification levels of the sources' documents."""


def compare_with_sources(
    corpus: Artifact, documents: str, quarantine: str, readers: Iterable[SourceReader], ladder: ClassificationLadder
) -> Comparison:
    """Compare a raw corpus with its sources, row by row in their common order.

    Args:
        documents: the name of the corpus's file of documents.
        quarantine: the name of its file of quarantined rows.
        readers: one reader for each source, in the order of the recipe.

    Raises SourceError for a source that cannot be read, and IntegrityError for a stored row that is not a document.
    """
    found = Comparison()
    broken: list[dict[str, object]] = []

    def from_sources() -> Iterator[Document]:
        for reader in readers:
            for outcome in reader:
                if isinstance(outcome, Quarantined):
                    broken.append(asdict(outcome))
                    continue
                if _is_below_what_is_stated(outcome, reader, ladder):
                    found.lowered.append(outcome.id)
                found.levels.add(outcome.classification)
                yield outcome
            found.rows += reader.count.rows
            found.excluded += reader.count.excluded
            found.not_selected += reader.count.not_selected

    for again, stored in zip_longest(from_sources(), read_documents(corpus.file(documents))):
        found.documents += stored is not None
        if again == stored:
            continue
        found.different += dict.fromkeys(each.id for each in (stored, again) if each is not None)
        if again and stored and again.id == stored.id and ladder.exceeds(again.classification, stored.classification):
            found.lowered.append(again.id)
    stored_broken = list(read_jsonl(corpus.file(quarantine)))
    found.quarantined = len(stored_broken)
    found.quarantine_differs = stored_broken != broken
    return found


def _is_below_what_is_stated(document: Document, reader: SourceReader, ladder: ClassificationLadder) -> bool:
    """Return whether a document's row or source states a level that is above the document's level or not on the
    ladder."""
    source = reader.source
    of_source = [level for level in (source.classification_floor, source.constants.get("classification")) if level]
    column = source.columns.get("classification", "classification")
    stated = [*map(reader.level_of, _values_under(column, reader.row.values or {})), *of_source]
    return any(level not in ladder or ladder.exceeds(level, document.classification) for level in stated)


def _values_under(column: str, values: Mapping[str, Any]) -> list[str]:
    """Return the values of every column whose name has the same letters and digits as `column`."""
    wanted = _letters(column)
    return [text for name, value in values.items() if _letters(name) == wanted and (text := _text(value))]


def _text(value: Any) -> str:
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


@lru_cache(maxsize=SPELLINGS_REMEMBERED)
def _letters(name: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFKD", name).casefold() if each.isalnum())
