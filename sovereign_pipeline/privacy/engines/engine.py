"""Scrubbing a whole corpus: batches of case files, worked through by this process, by processes or by Ray actors.

What belongs here: how a file of documents is cut into batches, who works on them, and how what comes back is written.
Every engine gives the same bytes: a batch is a list of places in the file, a worker reads them, scrubs them with the
canaries and hands back finished lines; only the parent writes. What does not: scrubbing itself (`scrubbing.py`).
"""

import contextlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.detection import Text
from sovereign_pipeline.privacy.engines.batches import (
    Batch,
    Engine,
    ScrubbedBatch,
    ScrubJob,
    document_at,
    not_a_document,
)
from sovereign_pipeline.privacy.engines.processes import in_this_process, processes
from sovereign_pipeline.privacy.engines.ray import ray_actors
from sovereign_pipeline.privacy.scrubbing import LETTER, Findings
from sovereign_pipeline.privacy.vault.vault import Vault

# A batch is worth a round of canaries, which are searched again with it, and small enough to show progress.
NEW_DOCUMENTS_A_BATCH = 128
DOCUMENTS_A_BATCH = 2_048
# What work costs, roughly, on one core: it decides how many workers are started and nothing else.
SECONDS_A_DOCUMENT = 250e-6
NEW_CHARACTERS_A_SECOND = 50_000
SECONDS_WORTH_A_WORKER = 6.0
SAMPLE = 1_000
ROW_IDS_SHOWN = 20


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
        return ray_actors(job, workers)
    if min(workers, at_most) <= 1:
        return contextlib.nullcontext(in_this_process(job))
    return processes(job, min(workers, at_most))


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
                raise not_a_document(job.source, f"line {number + 1}") from None
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
        documents = [document_at(job.source, stream, offsets[row]) for row in rows]
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
