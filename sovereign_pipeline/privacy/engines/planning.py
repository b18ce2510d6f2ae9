"""Reading a file of documents once, and cutting it into batches of whole case files.

What belongs here: where rows and cases stand in the file, how large a batch is, how many workers are worth their start.
None of it changes what comes out. What does not: who works on a batch (`engine.py`).
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.text import Countdown, counted
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.detection import guarded, texts_of
from sovereign_pipeline.privacy.engines.batches import Batch, ScrubJob, document_at, not_a_document

# A batch is worth a round of canaries, which are searched again with it, and small enough to show progress.
NEW_DOCUMENTS_PER_BATCH = 128
DOCUMENTS_PER_BATCH = 2_048
# What work costs, roughly, on one core: it decides how many workers are started and nothing else.
SECONDS_PER_DOCUMENT = 250e-6
NEW_CHARACTERS_PER_SECOND = 50_000
SECONDS_WORTH_A_WORKER = 6.0
SAMPLE = 1_000


@dataclass(frozen=True)
class CorpusIndex:
    """Where rows and cases stand in a file of documents."""

    offsets: "array[int]"
    """Byte offset of every row."""
    cases: list["array[int]"]
    """Row numbers of every case, in the order in which cases first appear."""


@dataclass(frozen=True)
class Plan:
    """How a file is worked through."""

    index: CorpusIndex
    rows_of_batches: list[list["array[int]"]]
    """Of each batch the row numbers of its cases."""
    useful_workers: int
    """How many workers are worth their start."""

    @property
    def documents(self) -> int:
        return len(self.index.offsets)

    def batches(self) -> Iterator[Batch]:
        for rows_of_cases in self.rows_of_batches:
            yield [array("Q", (self.index.offsets[row] for row in rows)) for rows in rows_of_cases]


def plan_for(job: ScrubJob, progress: Progress) -> Plan:
    """Read the file once and lay out the work.

    Raises PrivacyError for a language without a detector, and IntegrityError for a row that is not a document.
    """
    index = _read_index(job, progress)
    estimate = _estimate(job, index.offsets)
    rows_of_batches = list(_cut(index.cases, estimate.new_share))
    seconds = len(index.offsets) * SECONDS_PER_DOCUMENT + estimate.new_characters / NEW_CHARACTERS_PER_SECOND
    useful = max(1, int(seconds / SECONDS_WORTH_A_WORKER))
    return Plan(index, rows_of_batches, min(useful, len(rows_of_batches)))


def _read_index(job: ScrubJob, progress: Progress) -> CorpusIndex:
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    languages: Counter[str] = Counter()
    position = 0
    countdown = Countdown(progress, "privacy, reading the corpus", job.source.stat().st_size, "byte")
    with job.source.open("rb") as stream:
        for number, line in enumerate(stream):
            try:
                row = json.loads(line)
                case, language = row["case"], row["language"]
            except (ValueError, KeyError, TypeError):
                raise not_a_document(job.source, f"line {number + 1}") from None
            offsets.append(position)
            cases.setdefault(folded(case), array("Q")).append(number)
            languages[language] += 1
            position += len(line)
            countdown.reached(position)
    _refuse_unknown_languages(job, languages)
    return CorpusIndex(offsets, list(cases.values()))


def _refuse_unknown_languages(job: ScrubJob, languages: Counter[str]) -> None:
    known = {*job.privacy.name_models, *job.privacy.patterns_only}
    unknown = [f"{name} ({counted(rows, 'row')})" for name, rows in sorted(languages.items()) if name not in known]
    if unknown:
        raise PrivacyError(
            f"Line {job.line}: no name detector for language {', '.join(unknown)}.",
            "Name a model under privacy.name_models, or accept patterns alone under privacy.patterns_only.",
        )


@dataclass(frozen=True)
class _Estimate:
    """How much of a corpus was not searched before, from evenly spread rows."""

    new_share: float
    """Share of documents with a text not searched before."""
    new_characters: float
    """Characters of all such texts."""


def _estimate(job: ScrubJob, offsets: "array[int]") -> _Estimate:
    if not offsets:
        return _Estimate(new_share=1.0, new_characters=0.0)
    rows = range(0, len(offsets), -(-len(offsets) // SAMPLE))
    with job.source.open("rb") as stream:
        documents = [document_at(job.source, stream, offsets[row]) for row in rows]
    texts = [
        [
            text
            for text in guarded("the normalisation", document.id, partial(texts_of, document)).values()
            if text.original
        ]
        for document in documents
    ]
    known: dict[bytes, bytes] = {}
    if job.cache is not None:
        cache = FindingsCache(job.cache, job.detector)
        known = cache.read([text.key for each in texts for text in each])
        cache.close()
    new = [[text for text in each if text.key not in known] for each in texts]
    characters = sum(len(text.original) for each in new for text in each)
    return _Estimate(sum(map(bool, new)) / len(rows), characters * len(offsets) / len(rows))


def _cut(cases: Sequence["array[int]"], new_share: float) -> Iterator[list["array[int]"]]:
    """Whole cases, so many that a batch holds enough new documents to be worth its canaries."""
    size = int(NEW_DOCUMENTS_PER_BATCH / max(new_share, 1e-6))
    size = min(DOCUMENTS_PER_BATCH, max(NEW_DOCUMENTS_PER_BATCH, size))
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
