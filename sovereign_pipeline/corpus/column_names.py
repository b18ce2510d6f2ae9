"""The names of columns: a column that is spelled in other letter case than the recipe spells it is the same column.

What belongs here: which column of a row a name stands for. What does not: what is done with a row whose columns cannot
be told apart (`documents_from_rows.py`).
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.quarantine import RowRejected

SPELLINGS_REMEMBERED = 1_024
"""Sets of column names that are looked up once. A table has one, rows of JSON may have several."""


class ColumnNames:
    """The columns that a source reads, under the names that its recipe uses."""

    def __init__(self, read: Iterable[str]) -> None:
        """
        Args:
            read: every column that is read. Other columns of the file are left as they are.
        """
        self._read = {folded(name): name for name in read}
        self._renames = lru_cache(SPELLINGS_REMEMBERED)(self._renames_of)

    def applied(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, each column that is read under its name in the recipe.

        Raises RowRejected, which names them, where several columns have one of these names.
        """
        renames = self._renames(tuple(values))
        return {renames.get(name, name): value for name, value in values.items()} if renames else values

    def _renames_of(self, columns: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for column in columns:
            name = self._read.get(folded(column))
            if name is None:
                continue
            if name in found:
                raise RowRejected(f"the columns {found[name]!r} and {column!r} have the same name")
            found[name] = column
        return {column: name for name, column in found.items() if column != name}
