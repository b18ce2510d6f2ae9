"""One batch of case files: what a worker gets, how it scrubs it, what it gives back.

A batch is a list of places in the file of documents. A worker reads them, scrubs them with the canaries and gives back
finished lines; only the parent writes. What does not belong here: where workers run (`engine.py`).
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sovereign_pipeline.base.errors import IntegrityError, PrivacyError, SovereignError, place_of
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document, jsonl_line
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.findings import Findings, findings_of
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.vault.vault import MappingRow
from sovereign_pipeline.privacy.word_lists import NO_WORDS, WordLists

Batch = list["array[int]"]
"""Of each case the byte offsets of its rows in the file of documents."""


@dataclass(frozen=True)
class ScrubJob:
    """All that a worker is told."""

    source: Path
    """The file of documents."""
    line: str
    run: str
    """Fingerprint under which originals go to the vault."""
    privacy: Privacy
    treatments: Treatments
    detector: str
    """Digest of the detectors (`detection.detector_digest`)."""
    cache: Path | None
    """Directory of earlier findings; None for none."""
    words: WordLists = NO_WORDS
    """What people corrected in the line's findings."""


@dataclass(frozen=True)
class ScrubbedBatch:
    """What became of a batch."""

    lines: list[bytes]
    """The scrubbed documents as they are written to a file, in the order of the batch."""
    mapping: list[MappingRow]
    findings: Findings
    stopped: list[tuple[Kind, str]]
    """Kinds at which the policy stops, each with a row that holds it."""


class BatchScrubber:
    """What each worker holds: the open file, the cache and the detectors."""

    def __init__(self, job: ScrubJob) -> None:
        self._source = job.source
        self._stream = job.source.open("rb")
        self._cache = FindingsCache(job.cache, job.detector) if job.cache is not None else None
        self._scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, self._cache, job.words)

    def close(self) -> None:
        self._stream.close()
        if self._cache is not None:
            self._cache.close()

    def scrub(self, batch: Batch) -> ScrubbedBatch:
        """Raises PrivacyError or IntegrityError; nothing else, since the message of anything else may quote a text."""
        try:
            return self._scrub(batch)
        except SovereignError:
            raise
        except Exception as error:
            raise PrivacyError(
                f"Scrubbing failed with {place_of(error)}, {self._where_it_fails(batch)}. Nothing was kept.",
                "Correct the row in its source, or leave it out with `exclude`; and report this as a defect.",
            ) from None

    def _where_it_fails(self, batch: Batch) -> str:
        """The rows at fault by their ids: a row that fails alone, else the rows of a case file that fails alone."""
        for case in batch:
            if not self._fails([case]):
                continue
            alone = [array("Q", [offset]) for offset in case if self._fails([array("Q", [offset])])]
            ids = [self._id_at(offset) for rows in alone or [case] for offset in rows]
            return f"in {'row' if len(ids) == 1 else 'rows of one case file:'} {and_more(ids)}"
        return f"in a batch that begins with row {self._id_at(batch[0][0])}, and in none of its case files alone"

    def _fails(self, batch: Batch) -> bool:
        try:
            self._scrub(batch)
        except Exception:  # which one it is was told of the whole batch
            return True
        return False

    def _id_at(self, offset: int) -> str:
        return document_at(self._source, self._stream, offset).id

    def _scrub(self, batch: Batch) -> ScrubbedBatch:
        documents = [[document_at(self._source, self._stream, offset) for offset in rows] for rows in batch]
        searched_before = self._scrubber.texts_searched
        scrubbed = self._scrubber.scrub(documents)
        findings = Findings(searched=self._scrubber.texts_searched - searched_before)
        for before, case in zip(documents, scrubbed, strict=True):
            findings.add(findings_of(before, case))
        return ScrubbedBatch(
            lines=[jsonl_line(document.model_dump()).encode() for case in scrubbed for document in case.documents],
            mapping=[row for case in scrubbed for row in case.mapping],
            findings=findings,
            stopped=[each for case in scrubbed for each in case.stopped],
        )


def document_at(source: Path, stream: IO[bytes], offset: int) -> Document:
    """The document whose row begins at a byte of the file. Raises IntegrityError."""
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        raise not_a_document(source, f"line {line_at(source, offset)}") from None


def line_at(source: Path, offset: int) -> int:
    """The number, from 1, of the line that begins at a byte of the file."""
    line = 1
    with source.open("rb") as stream:
        while offset > 0 and (block := stream.read(min(offset, 1 << 20))):
            line += block.count(b"\n")
            offset -= len(block)
    return line


def not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document.", "Make the corpus again.")
