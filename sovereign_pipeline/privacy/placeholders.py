"""Placeholders such as `NAME_1`, numbered anew in every case file.

What belongs here: their form and their numbers. What does not: which value is which (`case_files.py`).
"""

import re
from collections import Counter

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.normalisation import normalise

PLACEHOLDER = re.compile(rf"(?<![A-Z_])(?:{'|'.join(KINDS)})_\d")
AUTHOR = "author"


class Placeholders:
    """The placeholders of one case file, numbered within their kind in the order in which values are first read."""

    def __init__(self) -> None:
        self._given: dict[tuple[Kind, object], str] = {}
        self._last: Counter[Kind] = Counter()

    def of(self, kind: Kind, value: object) -> str:
        """The placeholder of a value; the same one each time."""
        if (kind, value) not in self._given:
            self._last[kind] += 1
            self._given[kind, value] = f"{kind}_{self._last[kind]}"
        return self._given[kind, value]


def kind_of(placeholder: str) -> Kind:
    """`NAME_1` stands for a NAME."""
    kind: Kind = placeholder.rsplit("_", 1)[0]  # type: ignore[assignment]
    return kind


def refuse_placeholders(document: Document) -> None:
    """Raise PrivacyError for a document that holds what looks like a placeholder: it could not be restored."""
    for field, text in {**document.texts, AUTHOR: document.author}.items():
        if "_" in text and PLACEHOLDER.search(normalise(text).text):
            raise PrivacyError(
                f"Row {document.id}: its {field} already holds something that looks like a placeholder, so the "
                f"original could not be restored.",
                "Correct the row in its source, or leave it out with `exclude`.",
            )
