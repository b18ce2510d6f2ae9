"""Rows that become no document: the reason, and what the quarantine file keeps of such a row.

What belongs here: the record and the exception. What does not: deciding that a row is broken
(`file_formats.py`, `layouts.py`, `documents_from_rows.py`).
"""

from dataclasses import dataclass


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
