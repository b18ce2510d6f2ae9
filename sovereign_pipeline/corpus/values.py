"""Read single values of a source file: ids, days, languages, truth values, states and links."""

import datetime
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.institution import iso_day

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
    """Return whether a reader sees the character: no space, no mark of direction, nothing of no width."""
    return bool(compared_as(character).strip())


def is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def is_a_text(value: Any) -> bool:
    """Return whether a value stands for one text: not a list, a truth value, bytes, or a number such as NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int | Decimal | datetime.date) and not isinstance(value, bool))


def is_identifier(text: str) -> bool:
    return len(text) <= LONGEST_IDENTIFIER and _CONTROL_CHARACTER.search(text) is None


def language_of(tag: str) -> str:
    """Return the language of a tag, without script and region. Raises RowRejected, which does not quote what is
    none."""
    if _LANGUAGE_TAG.fullmatch(tag) is None:
        raise RowRejected("language is not a BCP 47 language tag, such as en or ar-OM")
    return tag.lower().split("-")[0]


def day_of(text: str) -> str:
    """Return the day of an ISO date. Raises RowRejected, which says what another form is, and does not quote it."""
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


_TRUE = frozenset(("true", "yes", "y", "t", "on", "1", "نعم"))
_FALSE = frozenset(("false", "no", "n", "f", "off", "0", "لا"))
_PLAIN_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?", re.ASCII)
_TAG_OF_LANGUAGE = re.compile(r"[a-z]{2}(?:-[A-Z]{2})?")
_SHORT_NUMBER = re.compile(r"\d{1,2}(?:\.0)?", re.ASCII)
_SHOWN = frozenset(
    f"""{" ".join(_TRUE | _FALSE)}
    open closed answered unanswered pending draft final new done active inactive approved refused rejected withdrawn
    published archived sent received cancelled deleted completed incomplete assigned unassigned resolved unresolved
    waiting current expired valid invalid public internal confidential secret restricted official unclassified
    protected private sensitive low medium normal high urgent critical letter email phone fax web form post question
    answer reply request complaint application english arabic french german spanish en ar good bad neutral positive
    negative unknown other مفتوح مغلق عام سري داخلي محدود جديد مكتمل معلق عربي إنجليزي""".split()
) | {"in progress", "on hold", "top secret", "not answered", "e-mail", "no reply"}
"""Words of states, levels, kinds and languages. Any other word may be somebody's name."""
_MOST_SHOWN = 8


def truth_of(value: Any) -> bool | None:
    """Return whether a value says yes or no, in any usual spelling; None for another one, and for none."""
    text = _compared(value)
    return True if text in _TRUE else False if text in _FALSE else None


def is_wanted(value: Any, wanted: str | int | bool | None) -> bool:
    """Return whether a value of a file is the one that `where` names, whatever its spelling.

    An empty value is null, and false: exports leave the cell of what is not so empty.
    """
    if isinstance(value, bool):
        return truth_of(wanted) is value
    text = _compared(value)
    if isinstance(wanted, bool):
        return truth_of(value) is wanted or (text in NO_VALUE and not wanted)
    if wanted is None or not str(wanted).strip():
        return text in NO_VALUE
    return text == _compared(wanted)


def may_be_shown(text: str, *, of_languages: bool = False) -> bool:
    """Return whether a value is a word of states, levels or languages, or a small number.

    Args:
        of_languages: whether the value's column is one of languages. Names of people have two letters too.
    """
    word = text.strip().casefold()
    return word in _SHOWN or bool(
        _SHORT_NUMBER.fullmatch(word) or (of_languages and _TAG_OF_LANGUAGE.fullmatch(text.strip()))
    )


def format_values(seen: Mapping[str, int]) -> str:
    """Return the values of a column for a message, with how often each stands there; what may be a text is counted."""
    shown = [
        f"{value.strip() or 'nothing'} ({times:,})"
        for value, times in Counter(seen).most_common()
        if not value.strip() or may_be_shown(value)
    ]
    others = len(seen) - len(shown)
    more = [f"{others:,} {'values' if others > 1 else 'value'} not shown"] if others else []
    cut = [f"{len(shown) - _MOST_SHOWN:,} more"] if len(shown) > _MOST_SHOWN else []
    return ", ".join([*shown[:_MOST_SHOWN], *cut, *more])


def _compared(value: Any) -> str:
    """Return a value as it is compared: NFKC, without blanks around it and letter case, `1.0` as `1`."""
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    text = unicodedata.normalize("NFKC", str(value)).strip().casefold()
    text = "".join(str(unicodedata.decimal(each, each)) for each in text) if not text.isascii() else text
    if _PLAIN_NUMBER.fullmatch(text) is None or _has_zeros_in_front(text):
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return str(number.to_integral_value()) if number == number.to_integral_value() else str(number.normalize())


def _has_zeros_in_front(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] != "."


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
    """Return the one spelling of an id, for rows and for links to them: NFC, stripped, without characters of no width
    and marks of direction, digits of any script as 0-9; `5346.0`, as tables of numbers write it, is `5346`."""
    if text.isascii():
        composed = text.strip()
    else:
        seen = "".join(each for each in text if unicodedata.category(each) != "Cf")
        composed = unicodedata.normalize("NFC", seen.strip())
        composed = "".join(str(unicodedata.decimal(each, each)) for each in composed)
    whole = _WHOLE_AS_FRACTION.fullmatch(composed)
    return whole[1] if whole else composed


def link_key(id: str) -> str:
    """Return the form in which ids and links are compared: without letter case and the form of dashes. Leading
    zeros count."""
    return folded(id) or id


def linked_ids(cell: Any) -> tuple[str, ...]:
    """Return the ids in a cell of the links column.

    A list, in JSON or Parquet or written into the cell (`["1", "2"]`, `[1, 2]`, `{1,2}`), one number, or a text with
    `,` `;` `|` or line breaks between the ids; without any of these, white space divides them. Raises RowRejected for
    anything else.
    """
    if isinstance(cell, str):
        return _from_text(cell)
    values = cell if isinstance(cell, list | tuple) else [cell]
    return _normal(values)


def resolved(links: tuple[str, ...], known: Callable[[], Collection[str]]) -> tuple[str, ...]:
    """Return the links, where only the ids of the rows tell what they are: `17/18` is two ids where it is none itself
    and both parts are ids; `0` is none unless a row has it.

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
    """Return the ids of an array as NumPy prints it, which may wrap over lines; None for another form.

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
    """Return whether a value of a list can stand for an id or for none: a text, a whole number, null or NaN."""
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
        """Return how many links the rows of a source hold, and how many of them name no row, once all sources are
        read."""
        links = self._links.get(source, Counter[str]())
        return links.total(), sum(count for id, count in links.items() if id not in self._rows)

    def to_themselves(self, source: str) -> int:
        """Return how many links of a source's rows name the row that has them."""
        return self._to_themselves[source]
