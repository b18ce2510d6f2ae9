"""Source files that are no longer as a raw corpus was read from them, and which of its rows that concerns.

What belongs here: the comparison of documents with the files as they are today. What does not: what follows from it; a
line refuses to go on (`artifacts/gates.py`), and a registered adapter is reported (`registry/verification.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import file_sha256, short
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.document import Document, jsonl_line, read_documents
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.corpus import Quarantine, Source


@dataclass(frozen=True)
class ChangedRows:
    """What became of the documents of one source, by their ids."""

    withdrawn: tuple[str, ...]
    """No longer in the file, or broken there."""
    reclassified: tuple[str, ...]
    """At another level now."""
    reworded: tuple[str, ...]
    """At the same level, with another text or another value in some other field."""
    added: int
    """Documents that the file gives now and did not give then."""

    def __str__(self) -> str:
        named = {"withdrawn": self.withdrawn, "reclassified": self.reclassified, "reworded": self.reworded}
        parts = [f"{counted(len(ids), 'row')} {what} ({and_more(ids)})" for what, ids in named.items() if ids]
        if self.added:
            parts.append(f"{counted(self.added, 'row')} added")
        return "; ".join(parts) or "no row changed"


@dataclass(frozen=True)
class ChangedSource:
    """A source file that is not the one that was read."""

    name: str
    path: str
    sha256: str
    """Of the file that was read."""
    state: Literal["changed", "missing"]
    rows: ChangedRows | None
    """None where the rows cannot be compared: the file is missing or unreadable, or the documents are."""

    def __str__(self) -> str:
        subject = f"{self.path}: the source '{self.name}' ({short(self.sha256)})"
        if self.state == "missing":
            return f"{subject} is no longer there."
        return f"{subject} was changed since it was read{f': {self.rows}' if self.rows is not None else ''}."


def changed_sources(
    data: Path,
    manifest: Manifest,
    sources: list[dict[str, Any]],
    documents: Path | None,
    screen: ColumnScreen | None,
) -> Iterator[ChangedSource]:
    """Every source file of a raw corpus that is missing or has other bytes now.

    Args:
        data: the directory that the institution edits.
        manifest: of the raw corpus.
        sources: the content of its `sources.json`.
        documents: its verified file of documents, or None where it cannot be read.
        screen: what kept personal data out of its columns (`ColumnScreen.of` its configuration).
    """
    for source in sources:
        path = data / source["path"]
        if not path.is_file():
            yield ChangedSource(source["name"], str(path), source["sha256"], "missing", None)
        elif file_sha256(path) != source["sha256"]:
            rows = _compare_rows(path, source["name"], manifest, documents, screen) if documents is not None else None
            yield ChangedSource(source["name"], str(path), source["sha256"], "changed", rows)


def _compare_rows(
    path: Path, name: str, manifest: Manifest, documents: Path, screen: ColumnScreen | None
) -> ChangedRows | None:
    """The rows of one source then and now; None where the file cannot be read as its source was described."""
    described = _description(manifest, name)
    if described is None:
        return None
    source, limits = described
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
        reader.refuse_what_is_not_as_described()
    except SourceError:
        return None
    withdrawn = [id for id in then if id not in found]
    return ChangedRows(tuple(withdrawn), tuple(reclassified), tuple(reworded), added)


def _description(manifest: Manifest, name: str) -> tuple[Source, Quarantine] | None:
    """How a source was read, from the manifest; None where an earlier release described sources in another way."""
    recorded: Mapping[str, Any] = manifest.producer.config
    try:
        sources = [Source.model_validate(each) for each in recorded["sources"]]
        limits = Quarantine.model_validate(recorded["quarantine"])
    except (KeyError, ValidationError):
        return None
    return next(((source, limits) for source in sources if source.name == name), None)


def _digest(document: Document) -> bytes:
    return sha256(jsonl_line(document.model_dump()).encode()).digest()
