"""Read single values of a source file: ids, dates, languages, booleans, states, levels and links."""

import datetime
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.text import compared_as, folded
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.policy.corpus import UNIX, WantedValue
from sovereign_pipeline.policy.institution import EARLIEST, LATEST, iso_day

LONGEST_DATE = 60
_UNITS = {
    **dict.fromkeys((9, 10), ("seconds", 1.0)),
    **dict.fromkeys((12, 13), ("milliseconds", 1e3)),
    16: ("microseconds", 1e6),
    19: ("nanoseconds", 1e9),
}
"""Maps the number of digits of a time since 1970 to its unit, and to the number of these units in a second."""
_EPOCH = re.compile(r"\d+(?:[.,]\d+)?")
_TIME = re.compile(
    r"(?:[ t,]+|[ ]*-[ ]+)(?:at |الساعه )?\d{1,2}[:.]\d\d(?:[:.]\d\d(?:[.,]\d+)?)?"
    r" *(?:[ap]\.?m\.?|ص|م|صباحا|مساء)? *(?:z|utc|gmt|[+-]\d\d:?\d\d)?(?: *\([a-z ]+\))?$"
)
_GREGORIAN = re.compile(r" *(?:م|ميلادي|ad|ce)\.?$")
_ARABIC_DATE_SEPARATOR = "\u060d"
_HIJRI_YEAR = re.compile(r"1[34]\d\d")
_AFTER_HIJRI = re.compile(r" *(?:ه|هجري|هجريه|ah|h)\.?$")
_WEEKDAY = re.compile(
    r"^(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*|(?:يوم )?ال(?:سبت|احد|اثنين|ثلاثاء|اربعاء|خميس|جمعه))[,،.]? +"
)
_PARTS = re.compile(
    r"(\d{1,4}|[^\W\d_]+)(?:st|nd|rd|th)?([ ./,،-]+)(\d{1,4}|[^\W\d_]+)(?:st|nd|rd|th)?([ ./,،-]+)(\d{1,4})"
)


def day_of(text: str, formats: Iterable[str] = ()) -> str:
    """Return the day of a date as `YYYY-MM-DD`. The date must be in ISO form or in one of `formats`. Raises
    RowRejected, without quoting the text, for any other text, and if the formats give different days."""
    text = text.strip()
    digits = _digits_since_1970(text)
    problem = f"is a number of {_UNITS[digits][0]} since 1970" if digits in _UNITS else ""
    if not problem:
        try:
            return iso_day(text).isoformat()
        except ValueError as error:
            problem = "is a number, which is how workbooks store days" if digits else str(error)
    found = days_in(text)
    days = {found[each] for each in formats if each in found}
    if len(days) == 1:
        return days.pop().isoformat()
    if formats:
        raise RowRejected(f"date is not written as {' or '.join(formats)}" if not days else "date has several readings")
    raise RowRejected(f"date {problem}")


def is_iso(text: str) -> bool:
    """Return True if a text is an ISO date, such as 2024-12-31 or 20241231. A time may follow the date."""
    if not 8 <= len(text) <= 40 or _digits_since_1970(text) in _UNITS:
        return False
    try:
        iso_day(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4_096)
def days_in(text: str) -> Mapping[str, datetime.date]:
    """Return a dict that maps each format, except ISO, in which the text is a date to the day in that format."""
    if not any(map(str.isdigit, text)) or len(text) > LONGEST_DATE:
        return {}
    plain = " ".join("".join(map(_plain, text)).lower().replace(" of ", " ").split())
    if _EPOCH.fullmatch(plain):
        return _since_1970(plain)
    plain = _WEEKDAY.sub("", _GREGORIAN.sub("", _TIME.sub("", plain)))
    for name, joined in _two_word_months().items():
        plain = plain.replace(name, joined)
    match = _PARTS.fullmatch(plain)
    if match is None:
        return {}
    one, first, two, second, three = match.groups()
    found = {}
    for form in _ORDERS:
        parts = dict(zip(form, (one, two, three), strict=True))
        by_name = not parts["m"].isdigit()
        if not by_name and (first.strip() or " ") != (second.strip() or " "):
            continue
        day = _day(parts)
        if day is not None:
            separator = " " if by_name else first.strip() or " "
            month, year = "mmm" if by_name else "mm", "y" * max(2, len(parts["y"]))
            found[separator.join({"d": "dd", "m": month, "y": year}[part] for part in form)] = day
    return found


def is_hijri(text: str) -> bool:
    """Return True if a text is a date with a four-digit year of the Hijri calendar, such as 12/11/1445."""
    plain = _AFTER_HIJRI.sub("", " ".join("".join(map(_plain, text[:LONGEST_DATE])).lower().split()))
    match = _PARTS.fullmatch(_WEEKDAY.sub("", plain))
    return match is not None and any(_HIJRI_YEAR.fullmatch(part) for part in (match[1], match[5]))


def formats_of_column(values: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return up to MOST_FORMATS date formats that together fit nearly all values of a column. Return an empty tuple if
    the values are not dates, or if two of the formats read a value as different days. Each format is a tuple of
    alternatives that fit equally many rows. `values` maps a value to its number of rows."""
    if len(values) > _SAMPLE and not formats_of_column(dict(islice(values.items(), _SAMPLE))):
        return ()
    left, found, read = dict(values), list[tuple[str, ...]](), 0
    while not found or read < LEAST_DATED * sum(values.values()):
        best, most = _best_formats(left)
        if not most or len(found) == MOST_FORMATS:
            return ()
        found.append(best)
        read += most
        left = {value: times for value, times in left.items() if not days_in(value).keys() >= {*best}}
    return tuple(found) if len(found) == 1 or not any(_is_read_twice(value, found) for value in values) else ()


def _best_formats(values: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """Return two values: the formats that fit most rows, and the number of these rows. If several formats fit equally
    many rows, the first is returned with those that fit a value that the first fits, too. Unlikely formats are left out
    if others remain."""
    counts, latest = Counter[str](), datetime.date.today().year + 1
    for value, times in values.items():
        for each, day in days_in(value).items():
            # A two-digit year in the future is from another calendar: 45 is 1445, not 2045.
            if day.year <= latest or _FULL_YEAR.search(each):
                counts[each] += times
    most = max(counts.values(), default=0)
    best = [each for each in counts if counts[each] == most]
    best = [each for each in best if any({best[0], each} <= days_in(value).keys() for value in values)]
    return tuple(sorted([each for each in best if not _UNLIKELY.match(each)] or best)), most


def _is_read_twice(value: str, formats: Sequence[tuple[str, ...]]) -> bool:
    """Return True if two of the formats read a value as different days."""
    days = days_in(value)
    of_each = [{days[each] for each in alternatives if each in days} for alternatives in formats]
    return sum(map(bool, of_each)) > 1 and len(set[datetime.date]().union(*of_each)) > 1


LEAST_DATED = 0.9
"""Minimum share of a column's values that its date formats must fit."""
MOST_FORMATS = 2
_SAMPLE = 1_000
"""Number of values that are tested first. If they are not dates, the rest of the column is not tested."""
_FULL_YEAR = re.compile(f"yyyy|{UNIX}")
_UNLIKELY = re.compile(r"mm\.dd\.|y+\W+dd|yy mmm")
"""Pattern of formats that are hardly ever used: the month first with dots, the day after the year, or a two-digit year
before the name of a month."""
_ORDERS = ("dmy", "mdy", "ymd", "ydm")


def _plain(character: str) -> str:
    if unicodedata.category(character) == "Pd":
        return "-"
    if character == _ARABIC_DATE_SEPARATOR:
        return "/"
    digit = unicodedata.decimal(character, None)
    return str(digit) if digit is not None else compared_as(character)


def _day(parts: Mapping[str, str]) -> datetime.date | None:
    month = int(parts["m"]) if parts["m"].isdigit() else _months().get(parts["m"], 0)
    if not (parts["d"].isdigit() and parts["y"].isdigit()) or len(parts["y"]) not in (2, 4) or len(parts["d"]) > 2:
        return None
    year = int(parts["y"])
    if len(parts["y"]) == 2:
        year += 1900 if year > 68 else 2000
    try:
        day = datetime.date(year, month, int(parts["d"]))
    except ValueError:
        return None
    return day if EARLIEST <= day.year <= LATEST else None


def _digits_since_1970(text: str) -> int:
    """Return the number of digits of a number before its fraction, or 0 if the text is not a plain number."""
    return len(re.split("[.,]", text)[0]) if _EPOCH.fullmatch(text) else 0


def _since_1970(number: str) -> dict[str, datetime.date]:
    unit = _UNITS.get(_digits_since_1970(number))
    if unit is None:
        return {}
    moment = datetime.datetime.fromtimestamp(float(number.replace(",", ".")) / unit[1], datetime.UTC)
    return {UNIX: moment.date()} if EARLIEST <= moment.year <= LATEST else {}


@cache
def _months() -> dict[str, int]:
    """Return a dict that maps each name of a month, in comparison form, to the month's number."""
    lines = Path(__file__).with_name("months.txt").read_text(encoding="utf-8").splitlines()
    return {
        "".join(map(_plain, name.replace("_", ""))): int(number)
        for number, *names in map(str.split, lines)
        for name in names
    }


@cache
def _two_word_months() -> dict[str, str]:
    words = Path(__file__).with_name("months.txt").read_text(encoding="utf-8").split()
    names = ("".join(map(_plain, word)) for word in words if "_" in word)
    return {name.replace("_", " "): name.replace("_", "") for name in names}


_NAMES_OF_LANGUAGES = {
    **dict.fromkeys(("english", "الإنجليزية", "الانجليزية", "إنجليزي", "انجليزي", "إنجليزية"), "en"),
    **dict.fromkeys(("arabic", "العربية", "عربي", "عربية"), "ar"),
    **dict.fromkeys(("french", "français", "الفرنسية"), "fr"),
    **dict.fromkeys(("persian", "farsi", "فارسی"), "fa"),
    **dict.fromkeys(("urdu", "اردو"), "ur"),
}
"""Maps the name of a language to its tag."""
NO_VALUE = frozenset(("", "null", "none", "nan", "n/a", "na", "<na>", "#n/a", "-", "--", "\\n"))
"""Lower-case spellings of null, as Python, pandas, databases, workbooks and people write it."""
LONGEST_IDENTIFIER = 200
"""Maximum length of an id or case in characters. A longer value is a text in the wrong column."""
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
    """A JSON number whose text is its spelling (without exponent), so that the cases 2024.10 and 2024.1 differ."""

    __slots__ = ("_written",)
    _written: str

    def __new__(cls, written: str) -> "WrittenNumber":
        number = super().__new__(cls, written)
        number._written = written
        return number

    def __str__(self) -> str:
        return self._written if "e" not in self._written.lower() else float.__str__(self)


def is_seen(character: str) -> bool:
    """Return True if a character is visible. Spaces, direction marks and zero-width characters are not."""
    return bool(compared_as(character).strip())


def is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def is_a_text(value: Any) -> bool:
    """Return True if a value can be read as one text. Lists, booleans, bytes, and numbers such as NaN cannot."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int | Decimal | datetime.date) and not isinstance(value, bool))


def is_identifier(text: str) -> bool:
    return len(text) <= LONGEST_IDENTIFIER and _CONTROL_CHARACTER.search(text) is None


def language_of(tag: str) -> str:
    """Return the language subtag of a BCP 47 tag or of a language's name, such as `Arabic`. Raises RowRejected for any
    other text, and does not quote it."""
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
    """Return True if messages may show a value: a word for a state, a level or a language, or a small number.

    Args:
        of_languages: True if the column contains languages. In any other column, two letters may be a name.
    """
    word = text.strip().casefold()
    return word in _SHOWN or bool(
        _SHORT_NUMBER.fullmatch(word) or (of_languages and _TAG_OF_LANGUAGE.fullmatch(text.strip()))
    )


def format_values(seen: Mapping[str, int]) -> str:
    """Format the values of a column for a message, each with its count. Possible texts and names are only counted."""
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
    """Return the comparison form of a value: NFKC, case-folded, stripped, and with `1.0` written as `1`."""
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
    """Normalise the id of a row, or an id in a link: NFC, stripped, without zero-width characters and direction marks,
    and with digits of any script written as 0-9. `5346.0` (from numeric tables) becomes `5346`."""
    if text.isascii():
        composed = text.strip()
    else:
        seen = "".join(each for each in text if unicodedata.category(each) != "Cf")
        composed = unicodedata.normalize("NFC", seen.strip())
        composed = "".join(str(unicodedata.decimal(each, each)) for each in composed)
    whole = _WHOLE_AS_FRACTION.fullmatch(composed)
    return whole[1] if whole else composed


def link_key(id: str) -> str:
    """Return the comparison form of an id or a link. Two ids that differ only in letter case or the form of dashes have
    the same form. Ids that differ in leading zeros do not."""
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
    """Resolve ambiguous links by the ids of rows, and return all links. `17/18` becomes two links if no row has this id
    but rows have the ids 17 and 18. `0` is dropped unless a row has this id.

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
        raise RowRejected("the links are neither a list of ids nor a text with separated ids")
    return _normal(ids)


def _array_of_numpy(inner: str) -> list[str] | None:
    """Return the ids in an array in NumPy's printed form, on one or several lines. Return None if the text has a
    different format. Raises RowRejected for an array that NumPy shortened."""
    if "..." in inner.split():
        raise RowRejected("the links are shortened with '...'")
    if _QUOTED_BY_SPACES.fullmatch(inner):
        return [single or double for single, double in _QUOTED.findall(inner)]
    if _NUMBERS_BY_SPACES.fullmatch(inner):
        return [number.removesuffix(".") for number in inner.split()]
    return None


def _normal(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(map(_is_id, values)):
        raise RowRejected("the links are neither a list of ids nor a text with separated ids")
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
    """Return True if a list element can be an id or null: a text, a whole number, a finite JSON number, null or NaN."""
    if isinstance(value, WrittenNumber):
        return math.isfinite(value)
    if isinstance(value, float | Decimal):
        return math.isnan(value) or (math.isfinite(value) and value == int(value))
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


class LinkTally:
    """Counts the links of all sources, and the links to missing rows. A row that became no document is not missing."""

    def __init__(self) -> None:
        self._rows: set[str] = set()
        self._links: dict[str, Counter[str]] = {}
        self._to_themselves = Counter[str]()

    def add(self, source: str, row: str | None, links: Iterable[str]) -> None:
        """Register one row, and count its links. Links from the row to itself are counted separately.

        Args:
            row: normalised id of a row of the source; None if the id is unreadable.
            links: ids that the row links to.
        """
        own = link_key(row) if row is not None else None
        if own is not None:
            self._rows.add(own)
        keys = list(map(link_key, links))
        others = [key for key in keys if key != own]
        self._links.setdefault(source, Counter()).update(others)
        self._to_themselves[source] += len(keys) - len(others)

    def of(self, source: str) -> tuple[int, int]:
        """Return the number of links in a source, and how many of these lead to missing rows. Call this method after
        all sources are read."""
        links = self._links.get(source, Counter[str]())
        return links.total(), sum(count for id, count in links.items() if id not in self._rows)

    def to_themselves(self, source: str) -> int:
        return self._to_themselves[source]
