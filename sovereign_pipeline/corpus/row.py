"""One row of a source file, as it was read.

What belongs here: the record. What does not: reading it (`file_formats.py`), what it means (`documents_from_rows.py`).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a file, broken or not."""

    number: int
    """Line (JSONL), element (JSON) or record (CSV, Parquet), from 1."""
    values: dict[str, Any] | None
    """None when the row is broken."""
    problem: str | None = None
    """Why the row is broken; holds no text of it."""
