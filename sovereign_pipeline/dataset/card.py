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
from sovereign_pipeline.dataset.quality import Finding
from sovereign_pipeline.dataset.tokens import TokenNumbers, as_table


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
    role: Literal["letters", "preferences", "labels"]
    rows: int
    sha256: str
    licence: str
    retention: str


class PlantedCanaries(_CardPart):
    """rows: count times repeats; they stand behind the letters in the file and are in no other number of the card."""

    count: int
    repeats: int
    rows: int


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

    also: other files with the same rows. labels: of labelled replies, how many are "good" and "bad"; else empty.
    canaries: rows of the file that are no documents.
    exact_duplicates: rows whose text equals that of an earlier row. inputs: kind -> digest of each ancestor artifact.
    """

    kind: str
    line: str
    classification: str
    file: DataFile
    also: tuple[DataFile, ...]
    instruction: str
    by_department: dict[str, int]
    by_language: dict[str, int]
    by_year: dict[str, int]
    by_classification: dict[str, int]
    labels: dict[str, int]
    characters: dict[str, Characters]
    exact_duplicates: int
    tokens: TokenNumbers
    findings: tuple[Finding, ...]
    sources: tuple[CardSource, ...]
    split: SplitNumbers
    inputs: dict[str, str]
    canaries: PlantedCanaries | None = None

    @property
    def documents(self) -> int:
        """Rows of the file that are documents."""
        return self.file.rows - (self.canaries.rows if self.canaries else 0)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """A data card that an auditor reads without tools; the same facts as the JSON."""
        file, split = self.file, self.split
        crossing = ", ".join(f"{kind.replace('_', '-')} {count}" for kind, count in split.crossing.items())
        parts = [
            f"# {self.kind} of line {self.line}",
            f"{self.documents:,} rows in `{file.path}`, classification **{self.classification}**.",
            *(
                [
                    f"Behind them stand {self.canaries.rows:,} rows that are no documents: {self.canaries.count:,} "
                    f"canaries of random words, {self.canaries.repeats:,} times each, by which the red team measures "
                    f"what training memorises. Their ids begin with `canary-`; nothing below counts them but the file."
                ]
                if self.canaries
                else []
            ),
            "## File",
            _table(
                ("file", "columns", "rows", "bytes", "SHA-256"),
                [(f"`{f.path}`", ", ".join(f.columns), f.rows, f.size, f"`{f.sha256}`") for f in (file, *self.also)],
            ),
            "One JSON object a line, keys in this order, UTF-8, NFC, a newline after each.",
            f"Instruction: {_cell(self.instruction) or 'none'}",
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
                    ("label", self.labels),
                )
                if histogram
            ),
            _table(
                ("column", "shortest (characters)", "median", "longest"),
                [(name, length.min, f"{length.median:g}", length.max) for name, length in self.characters.items()],
            )
            if self.characters
            else "No rows.",
            "## Tokens",
            f"Prompt and reply together, of a pair the longer side, in tokens of `{self.tokens.base_model}`; the "
            f"recipe's limit is {self.tokens.limit:,}. Of the held-out side only lengths were taken.",
            self.token_table,
            "## Quality",
            "Findings warn; what must not be trained on is stopped by the gates.",
            self.findings_table,
            "## Split",
            f"Made from the training side alone: {split.rows_train:,} documents for training, "
            f"{split.rows_held_out:,} held out ({split.held_out_share_of_letters:.1%} of the letters), in "
            f"{split.components:,} groups that stay together, seed {split.seed}; {split.near_duplicate_pairs:,} "
            f"near-duplicate pairs were kept on one side. Crossing: {crossing}.",
            "## Made from",
            _table(("artifact", "digest"), [(kind, f"`{short(digest)}`") for kind, digest in self.inputs.items()]),
        ]
        return "\n\n".join(parts) + "\n"

    @property
    def token_table(self) -> str:
        """Markdown."""
        rows = as_table(self.tokens)
        return _table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])

    @property
    def findings_table(self) -> str:
        """Markdown. What warrants a look comes first; the others show that they were looked for."""
        return _table(
            ("", "finding", "rows", "share", "first row ids", "what it counts", "what to do"),
            [
                (
                    "⚠" if each.warns else "✓",
                    each.name,
                    each.count,
                    f"{each.share:.1%}",
                    ", ".join(each.rows) if each.warns else "",
                    "; ".join([each.what, *(f"{name.replace('_', ' ')} {n:g}" for name, n in each.numbers.items())]),
                    each.todo if each.warns else "",
                )
                for each in sorted(self.findings, key=lambda finding: not finding.warns)
            ],
        )


class RowStatistics:
    """Takes the rows of a dataset one at a time, so that it is never in memory. columns: those that hold text.

    What is kept of a row is its lengths and a digest of its text.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lengths = {column: array("L") for column in columns}
        self._texts: set[bytes] = set()
        self._histograms: dict[str, Counter[str]] = {
            name: Counter() for name in ("source", "department", "language", "year", "classification", "label")
        }
        self.rows = 0

    def add(self, document: Document, row: Mapping[str, object]) -> bool:
        """Returns whether an earlier row has the same text."""
        self.rows += 1
        before = len(self._texts)
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
        if document.label is not None:
            self._histograms["label"]["good" if document.label else "bad"] += 1
        return len(self._texts) == before

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
