"""Links between rows: the forms in which a column lists ids, the one spelling of an id, and links that name no row.

What belongs here: reading a cell of the links column, and counting. What does not: what a link ties (`split/`).
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from sovereign_pipeline.corpus.quarantine import RowRejected

_WHOLE_AS_FRACTION = re.compile(r"(-?\d+)\.0+", re.ASCII)
_BRACKETS = (("[", "]"), ("{", "}"), ("(", ")"))
_SEPARATORS = re.compile(r"[,;|\n،؛]")
_LEFT_OVER = re.compile(r"[\[\]{}()\"']")
_NONE = ("", "null", "none", "nan")
"""What stands for no id, in lower case: so Python writes null and NaN, and exports too."""


def normal_id(text: str) -> str:
    """The one spelling of an id, for rows and for links to them: NFC, stripped, digits of any script as 0-9; `5346.0`,
    as tables of numbers write it, is `5346`."""
    composed = unicodedata.normalize("NFC", text.strip())
    if not composed.isascii():
        composed = "".join(str(unicodedata.decimal(each, each)) for each in composed)
    whole = _WHOLE_AS_FRACTION.fullmatch(composed)
    return whole[1] if whole else composed


def linked_ids(cell: Any) -> tuple[str, ...]:
    """The ids in a cell of the links column.

    A list, in JSON or Parquet or written into the cell (`["1", "2"]`, `[1, 2]`, `{1,2}`), one number, or a text with
    `,` `;` `|` or line breaks between the ids; without any of these, white space divides them. Raises RowRejected for
    anything else.
    """
    if isinstance(cell, str):
        return _from_text(cell)
    values = cell if isinstance(cell, list | tuple) else [cell]
    return _normal(values)


def _from_text(text: str) -> tuple[str, ...]:
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            return _normal(json.loads(stripped))
        except (ValueError, RecursionError):
            pass  # written by another program than one for JSON, such as ['1', '2']
    if any(stripped.startswith(first) and stripped.endswith(last) for first, last in _BRACKETS):
        stripped = stripped[1:-1].strip()
    parts = _SEPARATORS.split(stripped) if _SEPARATORS.search(stripped) else stripped.split()
    ids = [part.strip().strip("\"'").strip() for part in parts]
    if any(_LEFT_OVER.search(id) for id in ids):
        raise RowRejected("the links are neither a list of ids nor a text of them")
    return _normal(ids)


def _normal(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(map(_is_id, values)):
        raise RowRejected("the links are neither a list of ids nor a text of them")
    present = [
        value
        for value in values
        if value is not None and not (isinstance(value, float | Decimal) and math.isnan(value))
    ]
    ids = (normal_id(str(value)) for value in present)
    return tuple(dict.fromkeys(id for id in ids if id.lower() not in _NONE))


def _is_id(value: Any) -> bool:
    """Whether a value of a list can stand for an id or for none: a text, a whole number, null or NaN."""
    if isinstance(value, float | Decimal):
        return math.isnan(value) or (math.isfinite(value) and value == int(value))
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


class LinkTally:
    """Which links of a line name a row of its sources, whatever became of that row."""

    def __init__(self) -> None:
        self._rows: set[str] = set()
        self._links: dict[str, Counter[str]] = {}

    def add(self, source: str, row: str | None, links: Iterable[str]) -> None:
        """
        Args:
            row: id of a row of the source, in its one spelling; None when it has none that can be read.
            links: ids that it links to.
        """
        if row is not None:
            self._rows.add(row)
        self._links.setdefault(source, Counter()).update(links)

    def of(self, source: str) -> tuple[int, int]:
        """How many links the rows of a source hold, and how many of them name no row, once all sources are read."""
        links = self._links.get(source, Counter())
        return links.total(), sum(count for id, count in links.items() if id not in self._rows)
