"""Rows that become no document: the reason, what the quarantine file keeps of such a row, and what to do about many.

What belongs here: the record, the exception and their wording. What does not: deciding that a row is broken
(`file_formats.py`, `layouts.py`, `documents_from_rows.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.policy.classification import ClassificationLadder


class RowRejected(Exception):
    """One row cannot become a document. The message is the reason for quarantine and holds no text of the row."""


@dataclass(frozen=True)
class Quarantined:
    """One line of `quarantine.jsonl`."""

    source: str
    row: int
    """Number in the file, from 1."""
    id: str | None
    """The row's own id; None where it could not be read."""
    reason: str


_REMEDIES = {
    "not UTF-8": "Name the file's encoding under `encoding` of the source.",
    "not JSON": "Write one object on each line, each line ending in LF, or name the file as what it is.",
    "has ": "Give every row as many cells as the header, or correct `delimiter`.",
    "date": "Write dates as 2024-12-31, of the Gregorian calendar.",
    "unknown or missing classification level": "Levels are written as in institution.yaml: {levels}.",
    "repeats the header": "Delete the header lines within the file, or make each export a source of its own.",
    "duplicate id": "Name the column whose values are all different under `columns: id`.",
    "id or case is a number": "Export the column as text.",
    "the links": "List the ids, or write them with `,` `;` `|` or spaces between.",
    "longer than": "Raise quarantine.max_row_bytes, if rows are that long.",
    "language": "Name a column of language tags, or one language under `constants`.",
}
"""How a reason begins -> what puts such rows right at once."""


def rows_by_reason(broken: Sequence[Quarantined]) -> str:
    """Each reason with the first rows that have it, the most frequent one first."""
    rows: dict[str, list[Quarantined]] = {}
    for row in broken:
        rows.setdefault(row.reason, []).append(row)
    frequent = sorted(rows.items(), key=lambda each: -len(each[1]))
    return and_more((f"{reason}: {and_more(map(_named, of_reason))}" for reason, of_reason in frequent), separator="; ")


def _named(row: Quarantined) -> str:
    return f"row {row.row}{f' ({row.id})' if row.id else ''}"


def remedy_for(broken: Sequence[Quarantined], ladder: ClassificationLadder) -> str:
    """What to do about rows of which the most frequent reason says what they have in common."""
    reason = Counter(row.reason for row in broken).most_common(1)[0][0]
    common = next((remedy for begin, remedy in _REMEDIES.items() if reason.startswith(begin)), "")
    otherwise = "orrect the rows, `exclude` them, or raise quarantine.max_share."
    return f"{common.format(levels=', '.join(ladder.levels))} Or c{otherwise}" if common else f"C{otherwise}"
