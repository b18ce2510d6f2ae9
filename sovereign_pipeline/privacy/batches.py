"""Split a file of documents into batches of whole case files, and scrub one batch.

A batch is a list of byte offsets in the file. A worker reads the documents, scrubs them together with the canaries and
returns the finished JSON lines. Only the parent process writes.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sovereign_pipeline.base.errors import IntegrityError, PrivacyError
from sovereign_pipeline.base.text import IDS_IN_A_MESSAGE, Countdown, counted
from sovereign_pipeline.corpus.document import Document, jsonl_line
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import FindingsCache
from sovereign_pipeline.privacy.scrubbing import Findings, Scrubber, findings_of
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline.record.stage import Progress

Batch = list["array[int]"]
"""Byte offsets of the rows of each case file, in the file of documents."""


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
    """Return the document whose row starts at a byte offset of the file. Raises IntegrityError."""
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        raise not_a_document(source, f"line {line_at(source, offset)}") from None


def line_at(source: Path, offset: int) -> int:
    """Return the line number, from 1, of the line that starts at a byte offset of the file."""
    line = 1
    with source.open("rb") as stream:
        while offset > 0 and (block := stream.read(min(offset, 1 << 20))):
            line += block.count(b"\n")
            offset -= len(block)
    return line


def not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document.", "Build the corpus again.")


# Every batch searches the canaries again, so a batch is large enough to be worth that and small enough for progress.
DOCUMENTS_PER_BATCH = 512
BYTES_WORTH_A_WORKER = 500_000
"""Size of texts that take as long to search as a worker takes to start."""


@dataclass(frozen=True)
class CorpusIndex:
    """An index of the rows and case files in a file of documents."""

    offsets: "array[int]"
    """Byte offset of every row."""
    cases: list["array[int]"]
    """Row numbers of every case file, in the order in which the case files first appear."""


@dataclass(frozen=True)
class Plan:
    """A file's batches and the number of workers to start."""

    index: CorpusIndex
    rows_of_batches: list[list["array[int]"]]
    """Row numbers of the case files in each batch."""
    useful_workers: int
    """Number of workers that save more time than their start costs."""

    @property
    def documents(self) -> int:
        return len(self.index.offsets)

    def batches(self) -> Iterator[Batch]:
        for rows_of_cases in self.rows_of_batches:
            yield [array("Q", (self.index.offsets[row] for row in rows)) for rows in rows_of_cases]


def plan_for(job: ScrubJob, progress: Progress) -> Plan:
    """Read the file once and plan its batches.

    Raises PrivacyError for a language without a name detector, and IntegrityError for a row that is not a document.
    """
    index = _read_index(job, progress)
    rows_of_batches = list(_cut(index.cases))
    useful = max(1, job.source.stat().st_size // BYTES_WORTH_A_WORKER)
    return Plan(index, rows_of_batches, min(useful, len(rows_of_batches)))


def _read_index(job: ScrubJob, progress: Progress) -> CorpusIndex:
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
                raise not_a_document(job.source, f"line {number + 1}") from None
            offsets.append(position)
            cases.setdefault(folded(case), array("Q")).append(number)
            languages[language] += 1
            if languages[language] <= IDS_IN_A_MESSAGE:
                first_ids.setdefault(language, []).append(id)
            position += len(line)
            countdown.reached(position)
    _reject_unknown_languages(job, languages, first_ids)
    return CorpusIndex(offsets, list(cases.values()))


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


def _cut(cases: Sequence["array[int]"]) -> Iterator[list["array[int]"]]:
    """Yield batches of whole case files."""
    batch: list[array[int]] = []
    documents = 0
    for rows in cases:
        batch.append(rows)
        documents += len(rows)
        if documents >= DOCUMENTS_PER_BATCH:
            yield batch
            batch, documents = [], 0
    if batch:
        yield batch
