"""MODULE DOCSTRING."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.canaries import PREFIX, canary_rows, is_canary
from sovereign_pipeline.dataset.card import (
    CardSource,
    DataFile,
    DatasetCard,
    PlantedCanaries,
    RowStatistics,
    SplitNumbers,
)
from sovereign_pipeline.dataset.files import CHAIN_TO_THE_SOURCES, MESSAGES_ROWS, ROWS_PER_BATCH
from sovereign_pipeline.dataset.formats import (
    MessagesRow,
)
from sovereign_pipeline.dataset.layouts import Layout, Row, writes_messages
from sovereign_pipeline.dataset.quality import Quality
from sovereign_pipeline.dataset.tokens import BaseTokenizer, TokenCounts, TokenNumbers, tokenizer_digests
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split.files import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT


class Measured:
    """The rows of a dataset in order, and what its card says of them, for build and gate alike."""

    def __init__(self, layout: Layout, workplace: Workplace, split: Artifact) -> None:
        line = workplace.line
        limit = layout.max_length(line)
        self.layout = layout
        self.statistics = RowStatistics(layout.text_columns)
        self.quality = Quality(layout.role, limit)
        self._split = split
        self._instruction = line.training.instruction
        self._canaries = layout.canaries(line)
        self._base_model = line.training.base_model
        self._tokenizer = BaseTokenizer(workplace)
        self._digests = tokenizer_digests(workplace)
        self._training, self._held_out = TokenCounts(limit), TokenCounts(limit)

    def rows(self) -> Iterator[Row]:
        """Each row of the training side, measured when it is taken; then the canaries, which are not measured.

        Raises InputError for a document that would pass for a canary.
        """
        for document, row, length in self._measured(TRAIN):
            if self._canaries is not None and is_canary(document.id):
                raise InputError(
                    f"Row {document.id}: its id begins with '{PREFIX}', as those of the canaries do that the recipe "
                    f"plants. Give it another id in its source, or take training.canaries out of the recipe."
                )
            is_copy = self.statistics.add(document, row)
            self.quality.add(document, length, is_copy=is_copy)
            self._training.add(document.id, length)
            yield row
        yield from cast(Iterator[Row], canary_rows(self._canaries, self._instruction))

    def tokens(self) -> TokenNumbers:
        """Of the rows that were taken, and of the held-out side, of which nothing but ids and lengths is kept."""
        for document, _, length in self._measured(HELD_OUT):
            self._held_out.add(document.id, length)
        return TokenNumbers(
            base_model=self._base_model,
            tokenizer=self._digests,
            limit=self._training.limit,
            training=self._training.result(),
            held_out=self._held_out.result(),
        )

    def _measured(self, side: str) -> Iterator[tuple[Document, Row, int]]:
        """Each document of one side with its row and the length of its longest exchange in tokens."""
        documents = self.layout.documents(self._split, side)
        while batch := list(islice(documents, ROWS_PER_BATCH)):
            rows = [self.layout.row(document, self._instruction) for document in batch]
            exchanges = [self.layout.exchanges(row) for row in rows]
            lengths = iter(self._tokenizer.lengths([each for of_row in exchanges for each in of_row]))
            for document, row, of_row in zip(batch, rows, exchanges, strict=True):
                yield document, row, max(next(lengths) for _ in of_row)


def build_card(measured: Measured, workplace: Workplace, split: Artifact, directory: Path) -> DatasetCard:
    """What the card of the files in `directory` must say, once every row was taken from `measured`."""
    layout, statistics = measured.layout, measured.statistics
    ancestors = _ancestors(workplace, split)
    raw = ancestors["raw_corpus"]
    proof: dict[str, Any] = json.loads(split.file(PROOF).read_bytes())
    rows_of_source = statistics.histogram("source")
    canaries = layout.canaries(workplace.line)
    also = (MESSAGES_ROWS,) if writes_messages(layout, workplace.line) else ()
    return DatasetCard(
        kind=layout.kind,
        line=workplace.line.line,
        classification=split.manifest.classification,
        file=_data_file(directory / layout.file, layout.columns),
        also=tuple(_data_file(directory / name, tuple(MessagesRow.__annotations__)) for name in also),
        canaries=PlantedCanaries(count=canaries.count, repeats=canaries.repeats, rows=canaries.count * canaries.repeats)
        if canaries
        else None,
        instruction=workplace.line.training.instruction,
        by_department=statistics.histogram("department"),
        by_language=statistics.histogram("language"),
        by_year=statistics.histogram("year"),
        by_classification=statistics.histogram("classification"),
        labels=statistics.histogram("label"),
        characters=statistics.characters(),
        exact_duplicates=statistics.exact_duplicates,
        tokens=measured.tokens(),
        findings=measured.quality.findings(),
        sources=tuple(
            CardSource(
                name=source.name,
                role=source.role,
                rows=rows_of_source.get(source.name, 0),
                sha256=raw.external_inputs[f"source:{source.name}"],
                licence=source.licence,
                retention=source.retention,
            )
            for source in workplace.line.sources
            if source.role == layout.role
        ),
        split=SplitNumbers(
            rows_train=proof["rows"]["train"],
            rows_held_out=proof["rows"]["held_out"],
            held_out_share_of_letters=proof["held_out_share_of_letters"],
            components=proof["components"]["count"],
            near_duplicate_pairs=proof["near_duplicates"]["pairs"],
            crossing=proof["crossing"],
            seed=proof["parameters"]["seed"],
        ),
        inputs={kind: manifest.digest for kind, manifest in ancestors.items()},
    )


def _ancestors(workplace: Workplace, split: Artifact) -> dict[str, Manifest]:
    """The verified manifests from the split back to the raw corpus, which holds the digests of the source files."""
    manifest = split.manifest
    found = {LEAKAGE_SAFE_SPLIT.kind: manifest}
    for kind in CHAIN_TO_THE_SOURCES:
        manifest = workplace.store.read_manifest(workplace.store.input_ref(manifest, kind))
        found[kind] = manifest
    return found


def _data_file(path: Path, columns: tuple[str, ...]) -> DataFile:
    with path.open("rb") as stream:
        rows = sum(1 for _ in stream)
    return DataFile(path=path.name, sha256=file_sha256(path), size=path.stat().st_size, rows=rows, columns=columns)
