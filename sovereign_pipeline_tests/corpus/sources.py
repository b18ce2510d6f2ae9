"""Write rows to a source file of any format, and read the file as a stage does."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sovereign_pipeline.corpus.document import Document, Quarantined
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution

OWN = {"name": "letters", "licence": "own", "retention": "1 year"}


def write(path: Path, *rows: Any) -> Path:
    """Write rows in the format of the file's suffix; `.gz` packs the file."""
    packed, path = path.suffix == ".gz", path.with_suffix("") if path.suffix == ".gz" else path
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if packed:
        unpacked, path = path, path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(unpacked.read_bytes()))
    return path


def reader_of(path: Path, recipe: Mapping[str, Any], most: int = 100_000, **how: Any) -> SourceReader:
    """Return a reader of a file. recipe: keys of its source beside `OWN`; most: bytes of a row."""
    source = Source(**{**OWN, "path": path, **recipe})
    return SourceReader(source, path, Quarantine(max_row_bytes=most), ClassificationLadder(tuple(LADDER)), set(), **how)


def read(path: Path, most: int = 100_000, **recipe: Any) -> tuple[list[Document], list[Quarantined]]:
    """Read a file, of which no row may be lost."""
    return outcomes_of(reader_of(path, recipe, most))


def outcomes_of(reader: SourceReader) -> tuple[list[Document], list[Quarantined]]:
    outcomes: Sequence[Document | Quarantined] = list(reader)
    documents = [each for each in outcomes if isinstance(each, Document)]
    quarantined = [each for each in outcomes if isinstance(each, Quarantined)]
    assert reader.count.rows == len(documents) + len(quarantined) + reader.count.not_selected
    return documents, quarantined


def changed_document(document: Document, changes: Mapping[str, Any]) -> Document:
    """Return a letter with other values under the keys of its stored row, or as other messages."""
    stored = document.model_dump(exclude={"messages"} if "messages" in changes else set())
    return Document.model_validate({**stored, **changes})


def raw_corpus_of(institution: DemoInstitution) -> Artifact:
    """Build the raw corpus of an institution, pass its gates, and return it."""
    workplace = institution.workplace()
    ref = produce(RAW_CORPUS, workplace, {}).ref
    verdicts = evaluate_gates(RAW_CORPUS, workplace, ref)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    return workplace.store.open(ref)
