"""Split a file of documents into batches of whole case files, and scrub one batch.

A batch is a list of byte offsets in the file. A worker reads the documents, scrubs them together with the canaries and
returns the finished JSON lines. Only the parent process writes.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sovereign_pipeline.base.errors import IntegrityError, PrivacyError
from sovereign_pipeline.base.text import IDS_IN_A_MESSAGE, Countdown, counted
from sovereign_pipeline.corpus.document import Document, jsonl_line
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import FindingsCache
from sovereign_pipeline.privacy.scrubbing import Findings, Scrubber
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline.record.stage import Progress

Batch: TypeAlias = "array[int]"
"""Byte offsets of the rows of whole case files, case by case, in the file of documents."""


@dataclass(frozen=True)
class ScrubJob:
    """The input of a worker."""

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
    """Directory of cached findings; None disables the cache."""
    secret: bytes = field(repr=False)
    """Secret under which cached findings are marked."""
    words: WordLists = NO_WORDS
    """Corrections of the findings, from the word lists of the line of adapters."""


@dataclass(frozen=True)
class ScrubbedBatch:
    """The result of scrubbing a batch."""

    lines: list[bytes]
    """Scrubbed documents as JSON lines, in the order of the batch."""
    mapping: list[MappingRow]
    findings: Findings
    stopped: list[tuple[Kind, str]]
    """Kinds that the policy treats with "stop", each with the id of a row that contains the kind."""


class BatchScrubber:
    """A worker's open file, cache and detectors."""

    def __init__(self, job: ScrubJob) -> None:
        self._source = job.source
        self._stream = job.source.open("rb")
        self._cache = FindingsCache(job.cache, job.detector, job.secret) if job.cache is not None else None
        self._scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, self._cache, job.words)

    def close(self) -> None:
        self._stream.close()
        if self._cache is not None:
            self._cache.close()

    def scrub(self, batch: Batch) -> ScrubbedBatch:
        """Scrub a batch. Raises PrivacyError or IntegrityError."""
        cases: dict[str, list[Document]] = {}
        for offset in batch:
            document = self._document_at(offset)
            cases.setdefault(folded(document.case), []).append(document)
        searched_before = self._scrubber.texts_searched
        scrubbed = self._scrubber.scrub(list(cases.values()))
        findings = Findings(searched=self._scrubber.texts_searched - searched_before)
        for before, case in zip(cases.values(), scrubbed, strict=True):
            findings.add(before, case)
        return ScrubbedBatch(
            lines=[jsonl_line(document.model_dump()).encode() for case in scrubbed for document in case.documents],
            mapping=[row for case in scrubbed for row in case.mapping],
            findings=findings,
            stopped=[each for case in scrubbed for each in case.stopped],
        )

    def _document_at(self, offset: int) -> Document:
        self._stream.seek(offset)
        try:
            return Document.model_validate_json(self._stream.readline())
        except ValueError:
            self._stream.seek(0)
            line = self._stream.read(offset).count(b"\n") + 1
            raise _not_a_document(self._source, line) from None


def _not_a_document(source: Path, line: int) -> IntegrityError:
    return IntegrityError(f"{source}, line {line}: not a document.", "Build the corpus again.")


# Every batch searches the canaries again, so a batch is large enough to be worth that and small enough for progress.
DOCUMENTS_PER_BATCH = 512
BYTES_WORTH_A_WORKER = 500_000
"""Size of texts that take as long to search as a worker takes to start."""


@dataclass(frozen=True)
class Plan:
    """The batches of a file of documents and the number of workers to start."""

    offsets: "array[int]"
    """Byte offset of every row."""
    cases: int
    """Number of case files."""
    rows_of_batches: list["array[int]"]
    """Row numbers of each batch, case by case."""
    useful_workers: int
    """Number of workers that save more time than their start costs."""

    def batches(self) -> Iterator[Batch]:
        return (array("Q", (self.offsets[row] for row in rows)) for rows in self.rows_of_batches)


def plan_for(job: ScrubJob, progress: Progress) -> Plan:
    """Read the file once and plan its batches.

    Raises PrivacyError for a language without a name detector, and IntegrityError for a row that is not a document.
    """
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    languages: Counter[str] = Counter()
    first_ids: dict[str, list[str]] = {}
    position = 0
    countdown = Countdown(progress, "privacy, reading the corpus", job.source.stat().st_size, "byte")
    with job.source.open("rb") as stream:
        for number, line in enumerate(stream):
            try:
                row = json.loads(line)
                id, case, language = row["id"], row["case"], row["language"]
            except (ValueError, KeyError, TypeError):
                raise _not_a_document(job.source, number + 1) from None
            offsets.append(position)
            cases.setdefault(folded(case), array("Q")).append(number)
            languages[language] += 1
            if languages[language] <= IDS_IN_A_MESSAGE:
                first_ids.setdefault(language, []).append(id)
            position += len(line)
            countdown.reached(position)
    _reject_unknown_languages(job, languages, first_ids)
    batches = list(_cut(cases.values()))
    useful = max(1, min(position // BYTES_WORTH_A_WORKER, len(batches)))
    return Plan(offsets, len(cases), batches, useful)


def _reject_unknown_languages(job: ScrubJob, languages: Counter[str], first_ids: Mapping[str, list[str]]) -> None:
    known = {*job.privacy.name_models, *job.privacy.patterns_only}
    unknown = [
        f"{name} ({counted(rows, 'row')}: {', '.join(first_ids[name])}{', …' if rows > IDS_IN_A_MESSAGE else ''})"
        for name, rows in sorted(languages.items())
        if name not in known
    ]
    if unknown:
        raise PrivacyError(
            f"Line {job.line}: no name detector for language {', '.join(unknown)}.",
            "Name a model under privacy.name_models, accept patterns alone under privacy.patterns_only, or leave these "
            "rows out with `exclude`.",
        )


def _cut(cases: Iterable["array[int]"]) -> Iterator["array[int]"]:
    """Yield the rows of whole case files in batches."""
    batch = array("Q")
    for rows in cases:
        batch += rows
        if len(batch) >= DOCUMENTS_PER_BATCH:
            yield batch
            batch = array("Q")
    if batch:
        yield batch
