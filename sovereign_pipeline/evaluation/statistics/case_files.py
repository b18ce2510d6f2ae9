"""Which rows depend on each other because they are of one case file.

What belongs here: the clusters of held-out documents, for every interval over them. What does not: the intervals
(`paired.py`), and what a published suite states as a cluster.
"""

from collections.abc import Iterable
from typing import Protocol

from sovereign_pipeline.corpus.folding import folded


class OfCase(Protocol):
    """A row of a document."""

    @property
    def case(self) -> str: ...


def case_files(rows: Iterable[OfCase]) -> list[str]:
    """The case file of each row, in the one spelling by which the split keeps case files together."""
    return [folded(row.case) for row in rows]
