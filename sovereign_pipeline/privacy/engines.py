"""Scrub a file of documents with any engine of `corpus.engines`. The result has the same bytes with every engine.

The originals of a batch are written to the vault before its scrubbed text is written. A batch is a list of byte offsets
of whole case files. A worker reads the documents, scrubs them and returns the scrubbed documents as JSON lines.
"""

import json
import platform
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from sovereign_pipeline.base.errors import PrivacyError, WorkerKilled
from sovereign_pipeline.base.text import Countdown, and_more, counted, folded
from sovereign_pipeline.corpus.document import Document, jsonl_line, not_a_document
from sovereign_pipeline.corpus.engines import Engine, choose_engine
from sovereign_pipeline.policy.corpus import Corpus, Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.privacy.case_files import Findings
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import FindingsCache
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.vault import MappingDigest, MappingRow, Vault
from sovereign_pipeline.record.stage import Progress

# --- batches ----------------------------------------------------------------------------------------------------------

Batch: TypeAlias = "array[int]"
"""Byte offsets of rows in the file of documents. A batch contains all rows of its case files, case by case."""


@dataclass(frozen=True)
class ScrubJob:
    """The parameters of one scrubbing run. Each worker receives a copy."""

    source: Path
    """The file of documents."""
    line: str
    run: str
    """Fingerprint of the scrubbing run, which is also stored in each of the run's rows in the vault."""
    privacy: Privacy
    treatments: Treatments
    detector: str
    """Digest of the detectors (`detection.detector_digest`)."""
    cache: Path | None
    """Directory of the cache (`detection.FindingsCache`); None disables the cache."""
    secret: bytes = field(repr=False)
    """Secret that authenticates the entries of the cache."""
    words: WordLists = NO_WORDS
    """Corrections of the findings, from the word lists of the line of adapters."""
    node: str = field(default_factory=platform.node)
    """Name of the machine that distributes the work."""

    @property
    def cache_here(self) -> Path | None:
        """Directory of the cache for this machine. Each machine other than `node` uses its own directory, because
        processes of several machines cannot share a SQLite file in WAL mode."""
        here = platform.node()
        return self.cache if self.cache is None or here == self.node else self.cache / here


class ScrubbedBatch(NamedTuple):
    """The result of scrubbing a batch."""

    lines: list[bytes]
    """Scrubbed documents as JSON lines, in the order of the batch."""
    mapping: list[MappingRow]
    findings: Findings


@contextmanager
def start_scrubbing(job: ScrubJob) -> Iterator[Callable[[Batch], ScrubbedBatch]]:
    """Open the file of documents and the cache for a worker, and yield a function that scrubs a batch. The yielded
    function raises IntegrityError if a row is not a document, and PrivacyError if scrubbing fails."""
    directory = job.cache_here
    cache = FindingsCache(directory, job.detector, job.secret) if directory is not None else None
    scrubber = Scrubber(job.line, job.run, job.privacy, job.treatments, cache, job.words)
    with job.source.open("rb") as stream, closing(cache) if cache is not None else nullcontext():

        def scrub(batch: Batch) -> ScrubbedBatch:
            cases: dict[str, list[Document]] = {}
            for offset in batch:
                document = _document_at(stream, offset, job.source)
                cases.setdefault(folded(document.case), []).append(document)
            findings = Findings(searched=-scrubber.texts_searched)
            scrubbed = scrubber.scrub(list(cases.values()))
            findings.searched += scrubber.texts_searched
            for case in scrubbed:
                findings.merge(case.findings)
            return ScrubbedBatch(
                [jsonl_line(document.model_dump()).encode() for case in scrubbed for document in case.documents],
                [row for case in scrubbed for row in case.mapping],
                findings,
            )

        yield scrub


def _document_at(stream: IO[bytes], offset: int, source: Path) -> Document:
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        stream.seek(0)
        raise not_a_document(source, stream.read(offset).count(b"\n") + 1) from None


# The canaries are searched with every batch that has something new. This batch size keeps that overhead small and still
# shows progress often.
DOCUMENTS_PER_BATCH = 512
BYTES_WORTH_A_WORKER = 500_000
"""Number of bytes of text whose search takes as long as starting one worker."""


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
    """Largest number of workers for which each worker saves more time than it takes to start."""

    def batches(self) -> Iterator[Batch]:
        return (array("Q", (self.offsets[row] for row in rows)) for rows in self.rows_of_batches)


def plan_for(job: ScrubJob, progress: Progress) -> Plan:
    """Read the file once and plan its batches.

    Raises PrivacyError if a row's language has no name detector, and IntegrityError if a row is not a JSON object with
    `id`, `case` and `language`.
    """
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    unknown: dict[str, list[str]] = {}
    position = 0
    countdown = Countdown(progress, "privacy, reading the corpus", job.source.stat().st_size, "byte")
    with job.source.open("rb") as stream:
        for number, line in enumerate(stream):
            try:
                row = json.loads(line)
                id, case, language = row["id"], row["case"], row["language"]
            except (ValueError, KeyError, TypeError):
                raise not_a_document(job.source, number + 1) from None
            offsets.append(position)
            cases.setdefault(folded(case), array("Q")).append(number)
            if language not in job.privacy.detected:
                unknown.setdefault(language, []).append(id)
            position += len(line)
            countdown.reached(position)
    if unknown:
        named = (f"{name} ({counted(len(ids), 'row')}: {and_more(ids)})" for name, ids in sorted(unknown.items()))
        raise PrivacyError(
            f"Line {job.line}: no name detector for language {', '.join(named)}.",
            "Name a model under privacy.name_models, accept patterns alone under privacy.patterns_only, or leave these "
            "rows out with `exclude`.",
        )
    batches = list(_cut(cases.values()))
    useful = max(1, min(position // BYTES_WORTH_A_WORKER, len(batches)))
    return Plan(offsets, len(cases), batches, useful)


def _cut(cases: Iterable["array[int]"]) -> Iterator["array[int]"]:
    """Yield batches of row numbers. Each batch has all rows of its case files."""
    batch = array("Q")
    for rows in cases:
        batch += rows
        if len(batch) >= DOCUMENTS_PER_BATCH:
            yield batch
            batch = array("Q")
    if batch:
        yield batch


# --- a whole file -----------------------------------------------------------------------------------------------------


def scrub_file(job: ScrubJob, target: Path, vault: Vault, corpus: Corpus, progress: Progress) -> Findings:
    """Scrub a file of documents case by case, write the documents in their original order, and return the counts.

    Only a few batches, and a few integers for each row, are in memory. Raises PrivacyError if scrubbing fails, or if a
    document contains a kind for which the policy says `stop`. In the second case, nothing is written.
    """
    plan = plan_for(job, progress)
    progress(f"privacy: {counted(len(plan.offsets), 'document')} in {counted(plan.cases, 'case file')}")
    with (
        choose_engine(partial(start_scrubbing, job), job.source, corpus, plan.useful_workers, progress) as engine,
        tempfile.TemporaryFile(dir=target.parent) as aside,
    ):
        if "stop" in job.treatments.values():
            _reject_stopped_rows(job.line, _scrubbed(job, plan, engine, progress, "looking for kinds with `stop`"))
        findings, digest = Findings(), MappingDigest()
        places = array("Q", bytes(8 * len(plan.offsets)))
        batches = _scrubbed(job, plan, engine, progress, "scrubbing")
        for rows, batch in zip(plan.rows_of_batches, batches, strict=True):
            # Write originals to the vault before the scrubbed text.
            vault.add(job.line, batch.mapping)
            digest.add(batch.mapping)
            for row, line in zip(rows, batch.lines, strict=True):
                places[row] = aside.tell()
                aside.write(line)
            findings.merge(batch.findings)
        _write_in_order(aside, places, target, progress)
    return replace(findings, mapping_sha256=digest.value)


def _scrubbed(
    job: ScrubJob, plan: Plan, engine: Engine[Batch, ScrubbedBatch], progress: Progress, work: str
) -> Iterator[ScrubbedBatch]:
    countdown = Countdown(progress, f"privacy, {work}", len(plan.offsets), "document")
    done = 0
    try:
        for batch in engine(plan.batches()):
            yield batch
            done += batch.findings.documents
            countdown.reached(done)
    except WorkerKilled as killed:
        raise PrivacyError(
            killed.message,
            "Lower corpus.workers in the recipe, and run the line again.",
            act="run_line",
            line=job.line,
        ) from None


def _reject_stopped_rows(line: str, scrubbed: Iterator[ScrubbedBatch]) -> None:
    found = Findings()
    for batch in scrubbed:
        found.merge(batch.findings)
    if not found.stopped:
        return
    held = "; ".join(
        f"{kind} in {counted(len(ids), 'row')}: {and_more(sorted(ids))}" for kind, ids in sorted(found.stopped.items())
    )
    raise PrivacyError(
        f"Line {line}: rows contain personal data whose treatment is `stop` ({held}). Nothing was written.",
        "Leave these rows out of the source with `exclude`, or change `sensitive` or `sensitive_by_line` in "
        "institution.yaml.",
    )


def _write_in_order(aside: IO[bytes], places: "array[int]", target: Path, progress: Progress) -> None:
    """Copy the lines of one file to another, in the order of their rows.

    Args:
        places: byte offset of each row's line.
    """
    countdown = Countdown(progress, "privacy, writing the corpus", len(places), "document")
    with target.open("wb") as stream:
        for row, place in enumerate(places):
            aside.seek(place)
            stream.write(aside.readline())
            countdown.reached(row)
