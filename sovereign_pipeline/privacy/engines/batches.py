"""MODULE DOCSTRING."""

import unicodedata
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import IntegrityError, PrivacyError, SovereignError, place_of
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.scrubbing import Findings, Scrubber, count
from sovereign_pipeline.privacy.vault.vault import MappingRow

Batch = list["array[int]"]  # of each case the byte offsets of its rows in the file of documents


@dataclass(frozen=True)
class ScrubJob:
    """All that a worker is told. detector: digest of the detectors. cache: directory, None for none. The other fields
    as in `Scrubber`."""

    source: Path
    line: str
    run: str
    privacy: Privacy
    treatments: Treatments
    detector: str
    cache: Path | None


@dataclass(frozen=True)
class ScrubbedBatch:
    """lines: the scrubbed documents as they are written to a file, in the order of the batch. stopped: rows that hold a
    kind at which the policy stops."""

    lines: list[bytes]
    mapping: list[MappingRow]
    findings: Findings
    stopped: list[tuple[Kind, str]]


class BatchScrubber:
    """What each worker holds: the open file, the cache and the detectors."""

    def __init__(self, job: ScrubJob) -> None:
        self._source = job.source
        self._stream = job.source.open("rb")
        cache = FindingsCache(job.cache, job.detector) if job.cache is not None else None
        self._scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, cache)

    def __call__(self, batch: Batch) -> ScrubbedBatch:
        """Raises PrivacyError or IntegrityError; nothing else, since the message of anything else may quote a text."""
        try:
            return self._scrub(batch)
        except SovereignError:
            raise
        except Exception as error:
            raise PrivacyError(f"Scrubbing failed with {place_of(error)}. Report this; nothing was kept.") from None

    def _scrub(self, batch: Batch) -> ScrubbedBatch:
        documents = [[document_at(self._source, self._stream, offset) for offset in rows] for rows in batch]
        searched_before = self._scrubber.texts_searched
        scrubbed = self._scrubber.scrub(documents)
        findings = Findings(searched=self._scrubber.texts_searched - searched_before)
        for before, case in zip(documents, scrubbed, strict=True):
            findings.add(count(before, case))
        return ScrubbedBatch(
            lines=[_line(document) for case in scrubbed for document in case.documents],
            mapping=[row for case in scrubbed for row in case.mapping],
            findings=findings,
            stopped=[each for case in scrubbed for each in case.stopped],
        )


# Batches go in; out come their numbers and what became of them, in any order.
Engine = Callable[[Iterator[Batch]], Iterator[tuple[int, ScrubbedBatch]]]


def document_at(source: Path, stream: IO[bytes], offset: int) -> Document:
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        raise not_a_document(source, f"byte {offset}") from None


def not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document. Materialize the corpus again.")


def _line(document: Document) -> bytes:
    """As `corpus.document.write_jsonl` writes it."""
    return unicodedata.normalize("NFC", document.model_dump_json()).encode() + b"\n"
