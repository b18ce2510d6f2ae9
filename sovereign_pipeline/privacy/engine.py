"""Scrubbing a whole corpus: batches of case files, worked through by this process, by processes or by Ray actors.

What belongs here: how a file of documents is cut into batches, who works on them, and how what comes back is written.
Every engine gives the same bytes: a batch is a list of places in the file, a worker reads them, scrubs them with the
canaries and hands back finished lines; only the parent writes. What does not: scrubbing itself (`scrubbing.py`).
"""

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import unicodedata
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import IntegrityError, PrivacyError, SovereignError, place_of
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.line import Corpus, Privacy
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.detection import Text
from sovereign_pipeline.privacy.name_models import is_spacy_model
from sovereign_pipeline.privacy.recognizers import Kind
from sovereign_pipeline.privacy.scrubbing import LETTER, Findings, Scrubber, count
from sovereign_pipeline.privacy.vault import MappingRow, Vault
from sovereign_pipeline.processes import die_with_parent
from sovereign_pipeline.settings import go_offline

# A batch is worth a round of canaries, which are searched again with it, and small enough to show progress.
NEW_DOCUMENTS_A_BATCH = 128
DOCUMENTS_A_BATCH = 2_048
# What work costs, roughly, on one core: it decides how many workers are started and nothing else.
SECONDS_A_DOCUMENT = 250e-6
NEW_CHARACTERS_A_SECOND = 50_000
SECONDS_WORTH_A_WORKER = 6.0
SAMPLE = 1_000
ROW_IDS_SHOWN = 20

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
        documents = [[_document_at(self._source, self._stream, offset) for offset in rows] for rows in batch]
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


def scrub_file(job: ScrubJob, target: Path, vault: Vault, corpus: Corpus, progress: Progress) -> Findings:
    """Scrub a file of documents case by case and write the same documents in the same order.

    Memory holds a few batches of case files and a few integers for each row. Each batch's originals are in the vault
    before its text is written. Raises PrivacyError; when it is the policy that stops, nothing was written at all.
    """
    index = _read_index(job)
    new_share, new_characters = _estimate(job, index.offsets)
    rows_of = list(_batches(index.cases, new_share))
    seconds = len(index.offsets) * SECONDS_A_DOCUMENT + new_characters / NEW_CHARACTERS_A_SECOND
    worth = max(1, int(seconds / SECONDS_WORTH_A_WORKER))
    findings = Findings()

    def batches() -> Iterator[Batch]:
        for batch in rows_of:
            yield [array("Q", (index.offsets[row] for row in rows)) for rows in batch]

    with (
        _started(job, corpus, at_most=min(worth, len(rows_of))) as scrubbed,
        tempfile.TemporaryFile(dir=target.parent) as aside,
    ):
        if "stop" in job.treatments.values():
            _stop_where_the_policy_says(job.line, scrubbed(batches()))
        places = array("Q", bytes(8 * len(index.offsets)))
        for number, batch in scrubbed(batches()):
            vault.add(job.line, batch.mapping)
            rows = (row for case in rows_of[number] for row in case)
            for row, line in zip(rows, batch.lines, strict=True):
                places[row] = aside.tell()
                aside.write(line)
            findings.add(batch.findings)
            progress(f"privacy: {findings.documents:,} of {len(index.offsets):,} documents scrubbed")
        with target.open("wb") as stream:
            for place in places:
                aside.seek(place)
                stream.write(aside.readline())
    return findings


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


# --- who works -------------------------------------------------------------------------------------------------------


def _started(job: ScrubJob, corpus: Corpus, at_most: int) -> AbstractContextManager[Engine]:
    """at_most: how many workers are worth their start; Ray is asked for explicitly and starts in any case."""
    workers = corpus.workers or usable_cores()
    if corpus.engine == "ray":
        from sovereign_pipeline.privacy.ray_engine import ray_actors

        return ray_actors(job, workers)
    if min(workers, at_most) <= 1:
        return contextlib.nullcontext(_in_this_process(job))
    return _processes(job, min(workers, at_most))


def _in_this_process(job: ScrubJob) -> Engine:
    scrubber = BatchScrubber(job)

    def scrubbed(batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        return enumerate(map(scrubber, batches))

    return scrubbed


@contextmanager
def _processes(job: ScrubJob, workers: int) -> Iterator[Engine]:
    """Started anew, not forked, since this process may have threads. Few batches are under way at any time."""
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin_worker, initargs=(job, os.getpid())
    )

    def scrubbed(batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        under_way: deque[Future[ScrubbedBatch]] = deque()
        number = 0
        try:
            under_way.extend(pool.submit(_scrub_in_worker, batch) for batch in islice(batches, 2 * workers))
            while under_way:
                yield number, under_way.popleft().result()
                number += 1
                under_way.extend(pool.submit(_scrub_in_worker, batch) for batch in islice(batches, 1))
        except BrokenProcessPool:
            raise PrivacyError(
                "A worker of the scrubbing was killed from outside; most often memory ran out. Nothing of it counts. "
                "Lower corpus.workers in the recipe, and materialize scrubbed_corpus again."
            ) from None

    try:
        yield scrubbed
    finally:
        pool.shutdown(cancel_futures=True)


_job_of_worker: ScrubJob | None = None
_scrubber_of_worker: BatchScrubber | None = None


def _begin_worker(job: ScrubJob, parent: int) -> None:
    global _job_of_worker
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a worker already
    if all(is_spacy_model(model) for model in job.privacy.name_models.values()):
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, for nothing: more than a second
    silence()
    _job_of_worker = job


def _scrub_in_worker(batch: Batch) -> ScrubbedBatch:
    global _scrubber_of_worker
    if _scrubber_of_worker is None:
        assert _job_of_worker is not None
        _scrubber_of_worker = BatchScrubber(_job_of_worker)
        gc.freeze()  # what was loaded stays; looking through it again and again costs a sixth of the time
    return _scrubber_of_worker(batch)


def silence() -> None:
    """Libraries warn with pieces of the text they were given, and document text may not reach a log."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


# --- the file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Index:
    """offsets: byte offset of every row. cases: the row numbers of every case, in the order in which cases appear."""

    offsets: "array[int]"
    cases: list["array[int]"]


def _read_index(job: ScrubJob) -> _Index:
    """Raises PrivacyError when there is a language that the recipe knows nothing about."""
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    languages: Counter[str] = Counter()
    position = 0
    with job.source.open("rb") as stream:
        for number, line in enumerate(stream):
            try:
                row = json.loads(line)
                case, language = row["case"], row["language"]
            except (ValueError, KeyError, TypeError):
                raise _not_a_document(job.source, f"line {number + 1}") from None
            offsets.append(position)
            cases.setdefault(case, array("Q")).append(number)
            languages[language] += 1
            position += len(line)
    _refuse_unknown_languages(job, languages)
    return _Index(offsets, list(cases.values()))


def _refuse_unknown_languages(job: ScrubJob, languages: Counter[str]) -> None:
    known = {*job.privacy.name_models, *job.privacy.patterns_only}
    unknown = [f"{language} ({rows} rows)" for language, rows in sorted(languages.items()) if language not in known]
    if unknown:
        raise PrivacyError(
            f"Line {job.line}: no name detector for language {', '.join(unknown)}. Name a model under "
            f"privacy.name_models, or accept patterns alone under privacy.patterns_only."
        )


def _estimate(job: ScrubJob, offsets: "array[int]") -> tuple[float, float]:
    """From evenly spread rows: the share of documents that hold a text not searched before, and the characters of all
    such texts. Decides how the work is laid out, never what comes out."""
    if not offsets:
        return 1.0, 0.0
    rows = range(0, len(offsets), -(-len(offsets) // SAMPLE))
    with job.source.open("rb") as stream:
        documents = [_document_at(job.source, stream, offsets[row]) for row in rows]
    texts = [
        [Text.of(document.id, document.language, name == LETTER, text) for name, text in document.texts.items() if text]
        for document in documents
    ]
    known: dict[bytes, bytes] = {}
    if job.cache is not None:
        cache = FindingsCache(job.cache, job.detector)
        known = cache.read([text.key for each in texts for text in each])
        cache.close()
    new = [[text for text in each if text.key not in known] for each in texts]
    characters = sum(len(text.original) for each in new for text in each)
    return sum(map(bool, new)) / len(rows), characters * len(offsets) / len(rows)


def _batches(cases: Sequence["array[int]"], new_share: float) -> Iterator[list["array[int]"]]:
    """Whole cases, so many that a batch holds enough new documents to be worth its canaries."""
    size = min(DOCUMENTS_A_BATCH, max(NEW_DOCUMENTS_A_BATCH, int(NEW_DOCUMENTS_A_BATCH / max(new_share, 1e-6))))
    batch: list[array[int]] = []
    documents = 0
    for rows in cases:
        batch.append(rows)
        documents += len(rows)
        if documents >= size:
            yield batch
            batch, documents = [], 0
    if batch:
        yield batch


def _document_at(source: Path, stream: IO[bytes], offset: int) -> Document:
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        raise _not_a_document(source, f"byte {offset}") from None


def _not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document. Materialize the corpus again.")


def _line(document: Document) -> bytes:
    """As `corpus.document.write_jsonl` writes it."""
    return unicodedata.normalize("NFC", document.model_dump_json()).encode() + b"\n"


def _stop_where_the_policy_says(line: str, scrubbed: Iterator[tuple[int, ScrubbedBatch]]) -> None:
    rows: dict[Kind, set[str]] = {}
    for _, batch in scrubbed:
        for kind, row in batch.stopped:
            rows.setdefault(kind, set()).add(row)
    if not rows:
        return
    held = "; ".join(f"{kind} in {_shown(sorted(ids))}" for kind, ids in sorted(rows.items()))
    raise PrivacyError(
        f"Line {line}: the institution's policy stops at {held}. Nothing was written. Leave these rows out of the "
        f"source with `where`, or change `sensitive` in institution.yaml."
    )


def _shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - ROW_IDS_SHOWN:,} more" if len(ids) > ROW_IDS_SHOWN else ""
    return f"{len(ids):,} rows: {', '.join(ids[:ROW_IDS_SHOWN])}{more}"
