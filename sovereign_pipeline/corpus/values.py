"""Single values of a source file: what stands for a text, an id, a day or a language.

What belongs here: checks of one value, whose reasons hold nothing of it. What does not: which value becomes which
field (`documents_from_rows.py`), truth values (`states.py`), links (`links.py`).
"""

import datetime
import math
import re
from decimal import Decimal
from typing import Any

from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.corpus.quarantine import RowRejected
from sovereign_pipeline.policy.days import iso_day

NO_VALUE = frozenset(("", "null", "none", "nan", "n/a", "na", "<na>", "#n/a", "-", "--", "\\n"))
"""What stands for nothing, in small letters: so Python, pandas, databases, workbooks and people write null."""
LONGEST_IDENTIFIER = 200
"""Characters of an id or case. Both appear in messages; what is longer is a text in the wrong column."""
# RFC 5646, section 2.1. The longer first subtags that it reserves are registered for no language: they may be names.
_LANGUAGE_TAG = re.compile(
    r"[A-Za-z]{2,3}(?:-[A-Za-z]{3}){0,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3})){0,3}"
)
_TIMES = {9: "seconds", 10: "seconds", 12: "milliseconds", 13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}
"""Digits of a time as programs keep it."""
_NUMBER = re.compile(r"[\d.,]+")
DIGITS_LOST = re.compile(r"-?\d(?:\.\d+)?[eE]\+\d+", re.ASCII)
"""An id as workbooks shorten it: 1.2E+11 may have been several."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class WrittenNumber(float):
    """A number of JSON that keeps its spelling as a text: 2024.10 is not 2024.1 where both are case files."""

    __slots__ = ("_written",)
    _written: str

    def __new__(cls, written: str) -> "WrittenNumber":
        number = super().__new__(cls, written)
        number._written = written
        return number

    def __str__(self) -> str:
        return self._written if "e" not in self._written.lower() else float.__str__(self)


def is_seen(character: str) -> bool:
    """Whether a reader sees the character: no space, no mark of direction, nothing of no width."""
    return bool(compared_as(character).strip())


def is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def is_a_text(value: Any) -> bool:
    """Whether a value stands for one text: not a list, a truth value, bytes, or a number such as NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int | Decimal | datetime.date) and not isinstance(value, bool))


def is_identifier(text: str) -> bool:
    return len(text) <= LONGEST_IDENTIFIER and _CONTROL_CHARACTER.search(text) is None


def language_of(tag: str) -> str:
    """The language of a tag, without script and region. Raises RowRejected, which does not quote what is none."""
    if _LANGUAGE_TAG.fullmatch(tag) is None:
        raise RowRejected("language is not a BCP 47 language tag, such as en or ar-OM")
    return tag.lower().split("-")[0]


def day_of(text: str) -> str:
    """The day of an ISO date. Raises RowRejected, which says what another form is, and does not quote it."""
    whole = len(re.split("[.,]", text)[0]) if _NUMBER.fullmatch(text) else 0
    if whole in _TIMES:
        raise RowRejected(f"date is a number of {_TIMES[whole]} since 1970")
    try:
        day = iso_day(text)
    except ValueError as error:
        raise RowRejected(f"date {'is a number, as workbooks keep days' if whole else error}") from None
    return day.isoformat()


def without_markup(text: str) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for end in soup.find_all(["br", "p", "li", "tr"]):
        end.append("\n")
    return "\n".join(line.strip() for line in soup.get_text().splitlines() if line.strip())
