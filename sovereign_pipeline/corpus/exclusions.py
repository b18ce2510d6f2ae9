"""The rows that a recipe leaves out of a source by their ids, each with a reason.

What belongs here: which row an exclusion names, what is recorded of it, and an exclusion that names none. What does
not: leaving out rows by the value of a column (`where`), broken rows (`quarantine.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import PrivacyError, SourceError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.links import normal_id
from sovereign_pipeline.policy.corpus import Source


@dataclass
class Excluded:
    """One exclusion of a recipe, as `sources.json` holds it."""

    id: str
    """In its one spelling."""
    reason: str
    rows: int = 0
    """That have the id."""


class Exclusions:
    """The exclusions of one source, and how many rows each has named so far."""

    def __init__(self, source: Source, screen: ColumnScreen | None) -> None:
        self._source = source
        self._screen = screen
        self._by_id = {normal_id(each.id): Excluded(normal_id(each.id), each.reason) for each in source.exclude}

    @property
    def all(self) -> list[Excluded]:
        """In the order of the recipe."""
        return list(self._by_id.values())

    def naming(self, id: str | None) -> Excluded | None:
        """The exclusion that names a row by its id, or by the key that stands for it in messages."""
        if id is None or not self._by_id:
            return None
        key = self._screen.tied(id) if self._screen is not None else None
        return self._by_id.get(id) or (self._by_id.get(key) if key is not None else None)

    def refuse_personal_data(self) -> None:
        """Raise PrivacyError where a recipe would carry personal data into what is recorded of a corpus."""
        if self._screen is None:
            return
        for number, each in enumerate(self.all, start=1):
            for name, value in (("id", each.id), ("reason", each.reason)):
                if kinds := sorted(self._screen.kinds_in(value)):
                    raise PrivacyError(
                        f"Source '{self._source.name}', exclude {number}: its {name} holds personal data "
                        f"({', '.join(kinds)}), and both are recorded with the corpus. Nothing was written.",
                        "Name the row by the key that stands in messages for its id, and give a reason without names.",
                    )

    def refuse_without_row(self, path: Path) -> None:
        """Raise SourceError, once all rows are read, for an id that no row has: the row that was meant would stay."""
        missing = [each.id for each in self.all if not each.rows]
        if missing:
            raise SourceError(
                f"{path}: `exclude` of source '{self._source.name}' names {counted(len(missing), 'id')} that no row "
                f"has: {and_more(missing)}.",
                "Correct the id, or take it out of `exclude`.",
            )
