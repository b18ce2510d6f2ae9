"""Personal data in the columns that are kept beside the texts: id, case, department, links.

These reach cards, scores, reports, messages and databases as they are, so a value that holds personal data never leaves
the source file: a key takes its place, or the row goes to quarantine. What belongs here: what becomes of such a value.
What does not: finding personal data (`privacy/columns.py`).
"""

import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from sovereign_pipeline.artifacts.stage import KindsIn
from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.links import link_key
from sovereign_pipeline.corpus.quarantine import RowRejected
from sovereign_pipeline.policy.corpus import ColumnTreatment
from sovereign_pipeline.policy.personal_data import Kind

COLUMNS = ("id", "case", "department")
_LETTERS_OF_KEY = 24  # of 16: 96 bits
_AS_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")  # digits could look like an identifier again


@dataclass(frozen=True)
class ColumnScreen:
    """Keeps personal data out of the columns of one line's documents."""

    treatment: ColumnTreatment
    kinds_in: KindsIn
    stops: Collection[Kind]
    """The kinds at which the institution's policy stops the line."""
    secret: Callable[[], bytes]
    """Of this installation, for the keys: without it a key could be found by trying every number. Read when needed."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        kinds_in_columns: Callable[[Mapping[str, Any]], KindsIn],
        secret: Callable[[], bytes],
    ) -> "ColumnScreen | None":
        """As a raw corpus's configuration has it; None for one of a release that did not look into columns."""
        if "columns" not in config:
            return None
        stops = frozenset(kind for kind, treatment in config["sensitive"].items() if treatment == "stop")
        return cls(config["columns"]["personal_data"], kinds_in_columns(config), stops, cache(secret))

    def screened(self, fields: dict[str, str], links: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """The fields of a document and its links, with a key for each value that holds personal data.

        A key depends on the value and its column alone, so that rows of one case, and links to an id, stay together.
        Raises RowRejected where the recipe wants such rows in quarantine, and PrivacyError for a kind at which the
        policy stops.
        """
        found = {name: kinds for name in COLUMNS if (kinds := self.kinds_in(fields[name]))}
        in_links = [bool(kinds) for kinds in map(self.kinds_in, links)]
        kinds = sorted({kind for each in found.values() for kind in each})
        if any(in_links):
            kinds = sorted({*kinds, *(kind for link in links for kind in self.kinds_in(link))})
        if not kinds:
            return fields, tuple(links)
        where = ", ".join([*found, *(["links"] if any(in_links) else [])])
        if not self._stopping(kinds) and self.treatment == "replace":
            keyed = {name: self._key(name, fields[name]) for name in found}
            return {**fields, **keyed}, tuple(
                self._key("id", link) if held else link for link, held in zip(links, in_links, strict=True)
            )
        if self._stopping(kinds):
            raise PrivacyError(
                f"A row holds {', '.join(self._stopping(kinds))} in {where}, and the institution's policy stops at it. "
                f"Nothing was written.",
                "Leave such rows out of the source with `exclude`, or change `sensitive` in institution.yaml.",
            )
        raise RowRejected(f"personal data in {where} ({', '.join(kinds)})")

    def shown(self, id: str) -> str | None:
        """An id as messages may name it: None for one that holds personal data."""
        return None if self.kinds_in(id) else id

    def tied(self, id: str) -> str | None:
        """An id as links to it have it; None where rows with such links are in quarantine."""
        if not self.kinds_in(id):
            return id
        return self._key("id", id) if self.treatment == "replace" else None

    def _stopping(self, kinds: Sequence[Kind]) -> list[Kind]:
        return [kind for kind in kinds if kind in self.stops]

    def _key(self, column: str, value: str) -> str:
        written = link_key(value) if column == "id" else folded(value) if column == "case" else value
        digest = hmac.new(self.secret(), f"{column}\0{written}".encode(), sha256).hexdigest()
        return f"{column}-{digest[:_LETTERS_OF_KEY].translate(_AS_LETTERS)}"
