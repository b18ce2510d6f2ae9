"""Comparing the rows of a dataset with the line's own held-out documents.

What belongs here: that comparison, for the gate not_contaminated. What does not: the evaluation suites
(`contamination.py`), and keeping the documents apart (`split/`). Rows and held-out documents are read from their files
again; that the split proves the same is not relied on.
"""

from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.split.containment import Boilerplate
from sovereign_pipeline.split.crossing_texts import crossing_texts
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline.split.reading import read_columns
from sovereign_pipeline.split.texts import TextCollector, Texts, texts_in

_FIELDS = {
    "input": "request",
    "prompt": "request",
    "output": "response",
    "chosen": "response",
    "completion": "response",
    "rejected": "rejected",
}


@dataclass(frozen=True)
class HeldOutInRows:
    """What rows hold of held-out documents."""

    documents: int
    """Held-out documents compared."""
    found: tuple[tuple[str, str], ...]
    """(held-out document id, row id), each once."""
    by_fields: dict[str, int]
    """`field ~ field` (of the held-out document, of the row) -> pairs of texts."""


def held_out_in_rows(workplace: Workplace, rows: Path, split: Artifact) -> HeldOutInRows:
    """Every row in which a text of a held-out document stands, or that stands in one, whatever the column.

    What is boilerplate is told from the documents of the split alone, so that no row can make it so.
    """
    with workplace.store.workspace() as scratch:
        held = read_columns(split.file(HELD_OUT), scratch, workplace.progress)
        train = read_columns(split.file(TRAIN), scratch, workplace.progress)
        ids, texts = _read_rows(rows, scratch / "rows.texts")
        of_split = Boilerplate.of(scratch, held.texts, train.texts)
        repeated = Boilerplate.of(scratch, held.texts, texts)
        boilerplate = Boilerplate(of_split.marks | repeated.marks, of_split.shingles, of_split.formulas)
        crossing = crossing_texts(held.texts, texts, boilerplate)
    found = [(held.ids[one], ids[other]) for one, other in crossing.documents.tolist()]
    return HeldOutInRows(len(held), tuple(found), crossing.by_fields)


def _read_rows(rows: Path, shingles: Path) -> tuple[list[str], Texts]:
    ids: list[str] = []
    collector = TextCollector()
    for number, row in enumerate(read_jsonl(rows)):
        ids.append(str(row["id"]))
        for column, value in row.items():
            if column != "id" and isinstance(value, str):
                collector.add(number, texts_in(_FIELDS.get(column, "request"), value))
    collector.shingles().tofile(shingles)
    return ids, Texts.joined([collector.records()], shingles)
