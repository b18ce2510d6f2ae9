"""One batch of case files: what a worker gets, how it scrubs it, what it gives back.

A batch is a list of places in the file of documents. A worker reads them, scrubs them with the canaries and gives back
finished lines; only the parent writes. What does not belong here: where workers run (`engine.py`).
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sovereign_pipeline.corpus.document import Document, jsonl_line
from sovereign_pipeline.errors import IntegrityError, PrivacyError, SovereignError, place_of
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.findings import Findings, findings_of
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.vault.vault import MappingRow

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
        self._scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, self._cache)

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
                f"Scrubbing failed with {place_of(error)}. Nothing was kept.", "Report this as a defect."
            ) from None

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
        raise not_a_document(source, f"byte {offset}") from None


def not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document.", "Make the corpus again.")
