"""Links between rows: the forms in which a column lists ids, the one spelling of an id, and links that name no row.

What belongs here: reading a cell of the links column, and counting. What does not: what a link ties (`split/`).
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from typing import Any

from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.quarantine import RowRejected
from sovereign_pipeline.corpus.values import DIGITS_LOST, NO_VALUE, WrittenNumber

_WHOLE_AS_FRACTION = re.compile(r"(-?\d+)\.0+", re.ASCII)
_BRACKETS = (("[", "]"), ("{", "}"), ("(", ")"))
_SEPARATORS = re.compile(r"[,;|\n\r\u2028\u2029،؛、，；]|<br\s*/?>", re.IGNORECASE)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_QUOTED_BY_SPACES = re.compile(r"(?:'[^']*'|\"[^\"]*\")(?:\s+(?:'[^']*'|\"[^\"]*\"))*")
_NUMBERS_BY_SPACES = re.compile(r"-?\d+\.?\d*(?:\s+-?\d+\.?\d*)+|-?\d+\.", re.ASCII)
_SLASH = re.compile(r"\s*/\s*")
_LEFT_OVER = re.compile(r"[\[\]{}()\"']")
_LOST = "the links are numbers such as 1.2E+11, which have lost digits"
WHOLE_IN_FLOAT = 2**53
"""From here on not every whole number is a float: two ids may be one."""


def normal_id(text: str) -> str:
    """The one spelling of an id, for rows and for links to them: NFC, stripped, without characters of no width and
    marks of direction, digits of any script as 0-9; `5346.0`, as tables of numbers write it, is `5346`."""
    if text.isascii():
        composed = text.strip()
    else:
        seen = "".join(each for each in text if unicodedata.category(each) != "Cf")
        composed = unicodedata.normalize("NFC", seen.strip())
        composed = "".join(str(unicodedata.decimal(each, each)) for each in composed)
    whole = _WHOLE_AS_FRACTION.fullmatch(composed)
    return whole[1] if whole else composed


def link_key(id: str) -> str:
    """What an id and a link to it have in common: as case files, they are compared without regard to letter case and to
    the form of dashes. Zeros in front count."""
    return folded(id) or id


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


def resolved(links: tuple[str, ...], known: Callable[[], Collection[str]]) -> tuple[str, ...]:
    """The links, where only the ids of the rows tell what they are: `17/18` is two ids where it is none itself and both
    parts are ids; `0` is none unless a row has it.

    known: gives the keys of the ids of all rows; called only where such a link stands.
    """
    if not any("/" in link or link == "0" for link in links):
        return links
    found: list[str] = []
    for link in links:
        parts = [part.strip() for part in link.split("/")]
        if link_key(link) in known():
            found.append(link)
        elif len(parts) > 1 and all(link_key(part) in known() for part in parts):
            found += parts
        elif link != "0":
            found.append(link)
    return tuple(dict.fromkeys(found))


def _from_text(text: str) -> tuple[str, ...]:
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            return _normal(json.loads(stripped, parse_float=WrittenNumber))
        except (ValueError, RecursionError):
            pass  # written by another program than one for JSON, such as ['1', '2']
    if any(stripped.startswith(first) and stripped.endswith(last) for first, last in _BRACKETS):
        stripped = stripped[1:-1].strip()
        if (by_spaces := _array_of_numpy(stripped)) is not None:
            return _normal(by_spaces)
    parts = _SEPARATORS.split(stripped) if _SEPARATORS.search(stripped) else _SLASH.sub("/", stripped).split()
    ids = [part.strip().strip("\"'").strip() for part in parts]
    if any(_LEFT_OVER.search(id) for id in ids):
        raise RowRejected("the links are neither a list of ids nor a text of them")
    return _normal(ids)


def _array_of_numpy(inner: str) -> list[str] | None:
    """The ids of an array as NumPy prints it, which may wrap over lines; None for another form.

    Raises RowRejected for one that NumPy has shortened.
    """
    if "..." in inner.split():
        raise RowRejected("the links are shortened: '...' stands for some of them")
    if _QUOTED_BY_SPACES.fullmatch(inner):
        return [single or double for single, double in _QUOTED.findall(inner)]
    if _NUMBERS_BY_SPACES.fullmatch(inner):
        return [number.removesuffix(".") for number in inner.split()]
    return None


def _normal(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(map(_is_id, values)):
        raise RowRejected("the links are neither a list of ids nor a text of them")
    present = [
        value
        for value in values
        if value is not None and not (isinstance(value, float | Decimal) and math.isnan(value))
    ]
    if any(type(value) is float and abs(value) >= WHOLE_IN_FLOAT for value in present):
        raise RowRejected(_LOST)
    ids = [normal_id(str(value)) for value in present]
    if any(map(DIGITS_LOST.fullmatch, ids)):
        raise RowRejected(_LOST)
    return tuple(dict.fromkeys(id for id in ids if folded(id) not in NO_VALUE))


def _is_id(value: Any) -> bool:
    """Whether a value of a list can stand for an id or for none: a text, a whole number, null or NaN."""
    if isinstance(value, WrittenNumber):
        return math.isfinite(value)
    if isinstance(value, float | Decimal):
        return math.isnan(value) or (math.isfinite(value) and value == int(value))
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


class LinkTally:
    """Which links of a line name a row of its sources, whatever became of that row."""

    def __init__(self) -> None:
        self._rows: set[str] = set()
        self._links: dict[str, Counter[str]] = {}
        self._to_themselves = Counter[str]()

    def add(self, source: str, row: str | None, links: Iterable[str]) -> None:
        """
        Args:
            row: id of a row of the source, in its one spelling; None when it has none that can be read.
            links: ids that it links to. Those to itself name no other row, and are counted apart.
        """
        own = link_key(row) if row is not None else None
        if own is not None:
            self._rows.add(own)
        keys = list(map(link_key, links))
        others = [key for key in keys if key != own]
        self._links.setdefault(source, Counter()).update(others)
        self._to_themselves[source] += len(keys) - len(others)

    def of(self, source: str) -> tuple[int, int]:
        """How many links the rows of a source hold, and how many of them name no row, once all sources are read."""
        links = self._links.get(source, Counter[str]())
        return links.total(), sum(count for id, count in links.items() if id not in self._rows)

    def to_themselves(self, source: str) -> int:
        """How many links of a source's rows name the row that has them."""
        return self._to_themselves[source]
