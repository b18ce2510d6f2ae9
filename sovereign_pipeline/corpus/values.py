"""Read single values of a source file: ids, languages, truth values, states, levels and links."""

import datetime
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from sovereign_pipeline.base.text import compared_as, folded
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.policy.corpus import WantedValue

_NAMES_OF_LANGUAGES = {
    **dict.fromkeys(("english", "الإنجليزية", "الانجليزية", "إنجليزي", "انجليزي", "إنجليزية"), "en"),
    **dict.fromkeys(("arabic", "العربية", "عربي", "عربية"), "ar"),
    **dict.fromkeys(("french", "français", "الفرنسية"), "fr"),
    **dict.fromkeys(("persian", "farsi", "فارسی"), "fa"),
    **dict.fromkeys(("urdu", "اردو"), "ur"),
}
"""Name of a language -> its tag."""
NO_VALUE = frozenset(("", "null", "none", "nan", "n/a", "na", "<na>", "#n/a", "-", "--", "\\n"))
"""Lower-case spellings of null, as Python, pandas, databases, workbooks and people write it."""
LONGEST_IDENTIFIER = 200
"""Maximum length of an id or case in characters. Both appear in messages, and a longer value is a text in the wrong
column."""
# RFC 5646, section 2.1. Longer first subtags are reserved but not registered for any language: they may be names.
_LANGUAGE_TAG = re.compile(
    r"[A-Za-z]{2,3}(?:-[A-Za-z]{3}){0,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3})){0,3}"
)
DIGITS_LOST = re.compile(r"-?\d(?:\.\d+)?[eE]\+\d+", re.ASCII)
"""Pattern of an id that a workbook has shortened. 1.2E+11 may stand for several ids."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class WrittenNumber(float):
    """A JSON number whose text is its original spelling, so that the case files 2024.10 and 2024.1 differ."""

    __slots__ = ("_written",)
    _written: str

    def __new__(cls, written: str) -> "WrittenNumber":
        number = super().__new__(cls, written)
        number._written = written
        return number

    def __str__(self) -> str:
        return self._written if "e" not in self._written.lower() else float.__str__(self)


def is_seen(character: str) -> bool:
    """Return whether a character is visible: not a space, a direction mark or a zero-width character."""
    return bool(compared_as(character).strip())


def is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def is_a_text(value: Any) -> bool:
    """Return True if a value can be read as one text. Lists, truth values, bytes and numbers such as NaN cannot be read
    as text."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int | Decimal | datetime.date) and not isinstance(value, bool))


def is_identifier(text: str) -> bool:
    return len(text) <= LONGEST_IDENTIFIER and _CONTROL_CHARACTER.search(text) is None


def language_of(tag: str) -> str:
    """Return the language subtag of a BCP 47 tag, or of the language that a name means. Raises RowRejected, without
    quoting the text, if it is neither."""
    if (named := _NAMES_OF_LANGUAGES.get(tag.casefold())) is not None:
        return named
    if _LANGUAGE_TAG.fullmatch(tag) is None:
        raise RowRejected("language is not a BCP 47 language tag, such as en or ar-OM")
    return tag.lower().split("-")[0]


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
    negative unknown other issued void مفتوح مغلق عام سري داخلي محدود جديد مكتمل معلق عربي إنجليزي مسودة نهائي نهائية
    ملغى محذوف مسحوب معتمد مرسل منشور مرفوض مؤرشف""".split()
) | {"in progress", "on hold", "top secret", "not answered", "e-mail", "no reply"}
"""Words for states, levels, kinds and languages, which messages may show. Any other word may be a person's name."""
_MOST_SHOWN = 8


def truth_of(value: Any) -> bool | None:
    """Return True for any usual spelling of yes, False for any usual spelling of no, and None for other values."""
    text = _compared(value)
    return True if text in _TRUE else False if text in _FALSE else None


def is_wanted(value: Any, wanted: WantedValue | tuple[WantedValue, ...]) -> bool:
    """Return True if a file's value equals `wanted`, or one of the values in `wanted`, in any spelling. An empty value
    equals null and false, because exports leave false cells empty."""
    if isinstance(wanted, tuple):
        return any(is_wanted(value, each) for each in wanted)
    if isinstance(value, bool):
        return truth_of(wanted) is value
    text = _compared(value)
    if isinstance(wanted, bool):
        return truth_of(value) is wanted or (text in NO_VALUE and not wanted)
    if wanted is None or not str(wanted).strip():
        return text in NO_VALUE
    return text == _compared(wanted)


def may_be_shown(text: str, *, of_languages: bool = False) -> bool:
    """Return True if messages may show a value: if it is a word for a state, a level or a language, or a small number.

    Args:
        of_languages: whether the column contains languages. In other columns, two letters may be a name.
    """
    word = text.strip().casefold()
    return word in _SHOWN or bool(
        _SHORT_NUMBER.fullmatch(word) or (of_languages and _TAG_OF_LANGUAGE.fullmatch(text.strip()))
    )


def format_values(seen: Mapping[str, int]) -> str:
    """Return the values of a column for a message, each with its count. Values that may be texts or names are only
    counted."""
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
    """Return the comparison form of a value: NFKC, case-folded, without surrounding blanks, and with `1.0` written as
    `1`."""
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
"""Limit above which a float cannot represent every whole number. Above it, two ids may become the same number."""


def normal_id(text: str) -> str:
    """Return the normalised spelling of the id of a row or in a link: NFC, stripped, without zero-width characters and
    direction marks, and with digits of any script written as 0-9. `5346.0` (from numeric tables) becomes `5346`."""
    if text.isascii():
        composed = text.strip()
    else:
        seen = "".join(each for each in text if unicodedata.category(each) != "Cf")
        composed = unicodedata.normalize("NFC", seen.strip())
        composed = "".join(str(unicodedata.decimal(each, each)) for each in composed)
    whole = _WHOLE_AS_FRACTION.fullmatch(composed)
    return whole[1] if whole else composed


def link_key(id: str) -> str:
    """Return the comparison form of an id or a link. It ignores letter case and the form of dashes. Leading zeros
    count."""
    return folded(id) or id


def linked_ids(cell: Any) -> tuple[str, ...]:
    """Return the ids in a cell of the links column.

    A cell is a list in JSON or Parquet, a list written as text (`["1", "2"]`, `[1, 2]`, `{1,2}`), one number, or a text
    with ids separated by `,` `;` `|` or line breaks, or else by white space. Raises RowRejected for anything else.
    """
    if isinstance(cell, str):
        return _from_text(cell)
    values = cell if isinstance(cell, list | tuple) else [cell]
    return _normal(values)


def resolved(links: tuple[str, ...], known: Callable[[], Collection[str]]) -> tuple[str, ...]:
    """Return the links after resolving ambiguous links by the ids of rows. `17/18` becomes two links if no row has this
    id but rows have the ids 17 and 18. `0` is dropped unless a row has that id.

    `known` is a function that returns the `link_key` of every row's id. It is called only for ambiguous links.
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
            pass  # not JSON, such as ['1', '2']
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
    """Return the ids in an array as NumPy prints it, on one or several lines. Return None if the text has another
    format. Raises RowRejected for an array that NumPy shortened."""
    if "..." in inner.split():
        raise RowRejected("the links are shortened with '...'")
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
    """Return whether a list element can be an id or null: a text, a whole number, null or NaN."""
    if isinstance(value, WrittenNumber):
        return math.isfinite(value)
    if isinstance(value, float | Decimal):
        return math.isnan(value) or (math.isfinite(value) and value == int(value))
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


class LinkTally:
    """Counts the links of all sources, and the links to missing rows. A row counts as existing even if it became no
    document."""

    def __init__(self) -> None:
        self._rows: set[str] = set()
        self._links: dict[str, Counter[str]] = {}
        self._to_themselves = Counter[str]()

    def add(self, source: str, row: str | None, links: Iterable[str]) -> None:
        """Args:
        row: normalised id of a row of the source; None if it is unreadable.
        links: ids that the row links to. Links from the row to itself are counted separately.
        """
        own = link_key(row) if row is not None else None
        if own is not None:
            self._rows.add(own)
        keys = list(map(link_key, links))
        others = [key for key in keys if key != own]
        self._links.setdefault(source, Counter()).update(others)
        self._to_themselves[source] += len(keys) - len(others)

    def of(self, source: str) -> tuple[int, int]:
        """Return the number of links in a source, and the number of these links to missing rows. Call it after all
        sources are read."""
        links = self._links.get(source, Counter[str]())
        return links.total(), sum(count for id, count in links.items() if id not in self._rows)

    def to_themselves(self, source: str) -> int:
        return self._to_themselves[source]
