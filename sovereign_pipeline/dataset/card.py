"""The dataset card: what a dataset holds and where it comes from, as JSON for programs and Markdown for people.

What belongs here: counts, digests and terms of use of one dataset. What does not: any text of a document.
"""

import hashlib
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.hashing import canonical_json, short
from sovereign_pipeline.corpus.document import Document


class _CardPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(_CardPart):
    """size: bytes. columns: in the order of the keys of every row."""

    path: str
    sha256: str
    size: int
    rows: int
    columns: tuple[str, ...]


class Characters(_CardPart):
    """Length of one column over all rows, in Unicode characters (NFC)."""

    min: int
    median: float
    max: int


class CardSource(_CardPart):
    """rows: how many rows of this dataset come from it. sha256: of the institution's file as it was read."""

    name: str
    role: Literal["letters", "preferences"]
    rows: int
    sha256: str
    licence: str
    retention: str


class SplitNumbers(_CardPart):
    """From the proof of the split that the dataset was made of; rows are counted there with both roles."""

    rows_train: int
    rows_held_out: int
    held_out_share_of_letters: float
    components: int
    near_duplicate_pairs: int
    crossing: dict[str, int]
    seed: int


class DatasetCard(_CardPart):
    """classification: the level of the whole dataset (of all it was made from); the histogram is of its rows.

    exact_duplicates: rows whose text equals that of an earlier row. inputs: kind -> digest of each ancestor artifact.
    """

    kind: str
    line: str
    classification: str
    file: DataFile
    instruction: str
    by_department: dict[str, int]
    by_language: dict[str, int]
    by_year: dict[str, int]
    by_classification: dict[str, int]
    characters: dict[str, Characters]
    exact_duplicates: int
    sources: tuple[CardSource, ...]
    split: SplitNumbers
    inputs: dict[str, str]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """A data card that an auditor reads without tools; the same facts as the JSON."""
        file, split = self.file, self.split
        crossing = ", ".join(f"{kind.replace('_', '-')} {count}" for kind, count in split.crossing.items())
        parts = [
            f"# {self.kind} of line {self.line}",
            f"{file.rows:,} rows in `{file.path}`, classification **{self.classification}**.",
            "## File",
            _table(
                ("file", "rows", "bytes", "SHA-256"), [(f"`{file.path}`", file.rows, file.size, f"`{file.sha256}`")]
            ),
            f"Columns: {', '.join(f'`{column}`' for column in file.columns)}. One JSON object a line, UTF-8, NFC.",
            f"Instruction: {_cell(self.instruction)}",
            "## Sources",
            _table(
                ("source", "role", "rows here", "licence", "retention", "SHA-256 of the source file"),
                [(s.name, s.role, s.rows, s.licence, s.retention, f"`{s.sha256}`") for s in self.sources],
            ),
            "## Rows",
            *(
                _table((title, "rows"), list(histogram.items()))
                for title, histogram in (
                    ("department", self.by_department),
                    ("language", self.by_language),
                    ("year", self.by_year),
                    ("classification", self.by_classification),
                )
                if histogram
            ),
            _table(
                ("column", "shortest (characters)", "median", "longest"),
                [(name, length.min, f"{length.median:g}", length.max) for name, length in self.characters.items()],
            )
            if self.characters
            else "No rows.",
            f"Exact duplicates of an earlier row: {self.exact_duplicates}.",
            "## Split",
            f"Made from the training side alone: {split.rows_train:,} documents for training, "
            f"{split.rows_held_out:,} held out ({split.held_out_share_of_letters:.1%} of the letters), in "
            f"{split.components:,} groups that stay together, seed {split.seed}; {split.near_duplicate_pairs:,} "
            f"near-duplicate pairs were kept on one side. Crossing: {crossing}.",
            "## Made from",
            _table(("artifact", "digest"), [(kind, f"`{short(digest)}`") for kind, digest in self.inputs.items()]),
        ]
        return "\n\n".join(parts) + "\n"


class RowStatistics:
    """Takes the rows of a dataset one at a time, so that it is never in memory. columns: those that hold text.

    What is kept of a row is its lengths and a digest of its text.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lengths = {column: array("L") for column in columns}
        self._texts: set[bytes] = set()
        self._histograms: dict[str, Counter[str]] = {
            name: Counter() for name in ("source", "department", "language", "year", "classification")
        }
        self.rows = 0

    def add(self, document: Document, row: Mapping[str, object]) -> None:
        self.rows += 1
        for column in self._columns:
            self._lengths[column].append(len(str(row[column])))
        text = canonical_json([row[column] for column in self._columns])
        self._texts.add(hashlib.blake2b(text, digest_size=16).digest())
        for name, value in (
            ("source", document.source),
            ("department", document.department),
            ("language", document.language),
            ("year", document.date[:4]),
            ("classification", document.classification),
        ):
            self._histograms[name][value] += 1

    @property
    def exact_duplicates(self) -> int:
        return self.rows - len(self._texts)

    def histogram(self, name: str) -> dict[str, int]:
        """Value -> count, ordered by value."""
        return dict(sorted(self._histograms[name].items()))

    def characters(self) -> dict[str, Characters]:
        """Lengths of each column; empty for no rows."""
        if self.rows == 0:
            return {}
        return {
            column: Characters(min=min(lengths), median=statistics.median(lengths), max=max(lengths))
            for column, lengths in self._lengths.items()
        }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
