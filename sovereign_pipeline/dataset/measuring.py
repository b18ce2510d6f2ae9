"""Read a dataset's rows from a split, measure each row once, and build the card, for the build and its gate."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS, SOURCES
from sovereign_pipeline.corpus.values import normal_id
from sovereign_pipeline.dataset.canaries import PREFIX, canary_rows, is_canary
from sovereign_pipeline.dataset.card import (
    CardExclusion,
    CardOcr,
    CardSource,
    DataFile,
    DatasetCard,
    JudgedSample,
    PlantedCanaries,
    RowStatistics,
    SplitNumbers,
)
from sovereign_pipeline.dataset.jsonl import (
    SELECTION_ROWS,
    Layout,
    Row,
    conversation_row,
    documents_of,
    replaces_instruction,
)
from sovereign_pipeline.dataset.quality import Quality
from sovereign_pipeline.dataset.tokens import BaseTokenizer, TokenCounts, TokenNumbers, tokenizer_digests
from sovereign_pipeline.privacy.preview import estimate_of, read_judgements, recorded_judgements
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN, has_selection
from sovereign_pipeline.split.proof import Proof
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT

_FROM_SPLIT_TO_SOURCES = (SCRUBBED_CORPUS.kind, CLASSIFIED_CORPUS.kind, RAW_CORPUS.kind)
_DOCUMENTS_PER_BATCH = 64


def outside_files(workplace: Workplace) -> dict[str, str]:
    """Return the digests of the tokenizer's files, and of people's judgements of the scrubbed corpus."""
    return {**tokenizer_digests(workplace), **recorded_judgements(workplace)}


class Measured:
    """The rows of a dataset in order, with their measurements."""

    def __init__(self, layout: Layout, workplace: Workplace, split: Artifact) -> None:
        line = workplace.line
        limit = layout.max_length(line)
        self.layout = layout
        self.statistics = RowStatistics(layout.text_columns)
        self.quality = Quality(layout.role, limit)
        self._split = split
        self._proof = Proof.model_validate_json(split.file(PROOF).read_bytes())
        self._counts = self._proof.letters if layout.role == "letters" else self._proof.preferences
        self._progress = workplace.progress
        self._instruction = line.training.instruction
        self._replaces = replaces_instruction(workplace.institution, line)
        self._canaries = layout.canaries(line)
        self._base_model = line.training.base_model
        self._tokenizer = BaseTokenizer(workplace)
        self._digests = tokenizer_digests(workplace)
        self._training, self._selection, self._held_out = TokenCounts(limit), TokenCounts(limit), TokenCounts(limit)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield the file and the row of each training document, which is measured at the same time, then the
        unmeasured canaries, and then the selection side. Raises InputError for a document with the id of a canary."""
        for document, (file, row), length in self._measured(TRAIN, self._counts.train):
            if self._canaries is not None and is_canary(document.id):
                raise InputError(
                    f"Row {document.id}: its id begins with '{PREFIX}', which is for the canaries of the recipe.",
                    "Give the row another id in its source, or remove training.canaries from the recipe.",
                )
            is_copy = self.statistics.add(document, row)
            self.quality.add(document, length, is_copy=is_copy)
            self._training.add(document.id, length)
            yield file, row
        for canary in canary_rows(self._canaries, self._instruction):
            yield self.layout.file, canary
        for document, _, length in (
            self._measured(SELECTION, self._counts.selection) if has_selection(self._split) else ()
        ):
            self._selection.add(document.id, length)
            yield SELECTION_ROWS, conversation_row(document, self._instruction, self._replaces)

    def tokens(self) -> TokenNumbers:
        """Return the token lengths of the yielded rows and of the held-out documents. Only the lengths of held-out
        documents are kept."""
        for document, _, length in self._measured(HELD_OUT, self._counts.held_out):
            self._held_out.add(document.id, length)
        return TokenNumbers(
            base_model=self._base_model,
            tokenizer=self._digests,
            limit=self._training.limit,
            training=self._training.result(),
            selection=self._selection.result() if has_selection(self._split) else None,
            held_out=self._held_out.result(),
        )

    def card(self, workplace: Workplace, directory: Path) -> DatasetCard:
        """Return the card of the files in `directory`. Call it after all rows are yielded."""
        layout, statistics, proof = self.layout, self.statistics, self._proof
        ancestors = _ancestors(workplace, self._split)
        sources = ancestors[RAW_CORPUS.kind].external_inputs
        rows_of_source, ocr = statistics.histogram("source"), _ocr_of_sources(workplace, ancestors)
        canaries = layout.canaries(workplace.line)
        file, *also = [
            _data_file(directory / name, columns)
            for name, columns in layout.files(workplace.line).items()
            if (directory / name).is_file()
        ]
        return DatasetCard(
            kind=layout.kind,
            line=workplace.line.line,
            classification=self._split.manifest.classification,
            file=file,
            also=tuple(also),
            instruction=self._instruction,
            by_department=statistics.histogram("department"),
            by_language=statistics.histogram("language"),
            by_year=statistics.histogram("year"),
            by_classification=statistics.histogram("classification"),
            labels=statistics.histogram("label"),
            characters=statistics.characters(),
            exact_duplicates=statistics.exact_duplicates,
            tokens=self.tokens(),
            findings=self.quality.findings(),
            sources=tuple(
                CardSource(
                    name=source.name,
                    role=source.role,
                    rows=rows_of_source.get(source.name, 0),
                    sha256=sources[f"source:{source.name}"],
                    licence=source.licence,
                    retention=source.retention,
                    excluded=tuple(CardExclusion(id=normal_id(each.id), reason=each.reason) for each in source.exclude),
                    ocr=ocr.get(source.name),
                )
                for source in workplace.line.sources
                if source.role == layout.role
            ),
            split=SplitNumbers(
                rows_train=proof.rows.train,
                rows_selection=proof.rows.selection,
                rows_held_out=proof.rows.held_out,
                held_out_share_of_letters=proof.held_out_share_of_letters,
                components=proof.components.count,
                near_duplicate_pairs=proof.near_duplicates.pairs,
                crossing=proof.crossing,
                seed=proof.parameters.seed,
            ),
            inputs={kind: manifest.digest for kind, manifest in ancestors.items()},
            canaries=PlantedCanaries.of(canaries) if canaries else None,
            judged=JudgedSample.of(estimate_of(read_judgements(workplace, ancestors[SCRUBBED_CORPUS.kind].digest))),
        )

    def _measured(self, side: str, count: int) -> Iterator[tuple[Document, tuple[str, Row], int]]:
        """Yield each document of one side with its file and row, and the token length with its longest reply."""
        name = side.removesuffix(".jsonl").replace("_", "-")
        countdown = Countdown(self._progress, f"{self.layout.kind}: lengths of {name} documents", count, "document")
        documents = documents_of(self.layout, self._split, side)
        done = 0
        while batch := list(islice(documents, _DOCUMENTS_PER_BATCH)):
            countdown.reached(done)
            done += len(batch)
            rows = [self.layout.row_of(document, self._instruction, self._replaces) for document in batch]
            yield from zip(batch, rows, self._tokenizer.lengths([row for _, row in rows]), strict=True)


def _ancestors(workplace: Workplace, split: Artifact) -> dict[str, Manifest]:
    """Return the verified manifests from the split back to the raw corpus, which has the sources' digests."""
    manifest = split.manifest
    found = {LEAKAGE_SAFE_SPLIT.kind: manifest}
    for kind in _FROM_SPLIT_TO_SOURCES:
        manifest = workplace.store.read_manifest(workplace.store.input_ref(manifest, kind))
        found[kind] = manifest
    return found


def _ocr_of_sources(workplace: Workplace, ancestors: Mapping[str, Manifest]) -> dict[str, CardOcr]:
    """Return what OCR read of each source, as the raw corpus states it."""
    if not any(source.ocr for source in workplace.line.sources):
        return {}
    ref = workplace.store.input_ref(ancestors[CLASSIFIED_CORPUS.kind], RAW_CORPUS.kind)
    described = json.loads(workplace.store.read_file(ref, ancestors[RAW_CORPUS.kind], SOURCES))
    return {each["name"]: CardOcr.model_validate(each["ocr"]) for each in described if "ocr" in each}


def _data_file(path: Path, columns: tuple[str, ...]) -> DataFile:
    with path.open("rb") as stream:
        rows = sum(1 for _ in stream)
    return DataFile(path=path.name, sha256=file_sha256(path), size=path.stat().st_size, rows=rows, columns=columns)
