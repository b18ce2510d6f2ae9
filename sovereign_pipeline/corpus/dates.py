"""Read dates in the formats that institutions use, and find the format of a column."""

import datetime
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.policy.corpus import UNIX
from sovereign_pipeline.policy.institution import EARLIEST, LATEST, iso_day

LONGEST_DATE = 60
_UNITS = {
    **dict.fromkeys((9, 10), ("seconds", 1.0)),
    **dict.fromkeys((12, 13), ("milliseconds", 1e3)),
    16: ("microseconds", 1e6),
    19: ("nanoseconds", 1e9),
}
"""Number of digits of a time since 1970 -> its unit, and the number of units in a second."""
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
    RowRejected, without quoting the text, for any other text."""
    text = text.strip()
    digits = _digits_since_1970(text)
    problem = f"is a number of {_UNITS[digits][0]} since 1970" if digits in _UNITS else ""
    if not problem:
        try:
            return iso_day(text).isoformat()
        except ValueError as error:
            problem = "is a number, as workbooks keep days" if digits else str(error)
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
    """Return a dict from each format, other than ISO, in which the text is a date to the day in that format."""
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
    """Return whether a text is a date with a four-digit year of the Hijri calendar, such as 12/11/1445."""
    plain = _AFTER_HIJRI.sub("", " ".join("".join(map(_plain, text[:LONGEST_DATE])).lower().split()))
    match = _PARTS.fullmatch(_WEEKDAY.sub("", plain))
    return match is not None and any(_HIJRI_YEAR.fullmatch(part) for part in (match[1], match[5]))


def formats_of_column(values: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return up to MOST_FORMATS formats that together fit nearly all values of a column. Return none if the values are
    not dates. Each returned format is a tuple of alternatives that fit equally many rows. `values`: value -> number of
    rows."""
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
    """Return the format that fits most rows, and the number of these rows. If several formats fit equally many rows,
    return all of them."""
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
    """Return True if a value is a different day in two of the formats."""
    days = days_in(value)
    of_each = [{days[each] for each in alternatives if each in days} for alternatives in formats]
    return sum(map(bool, of_each)) > 1 and len(set[datetime.date]().union(*of_each)) > 1


LEAST_DATED = 0.9
"""Minimum share of a column's values that its formats must fit."""
MOST_FORMATS = 2
_SAMPLE = 1_000
"""Number of values that are tested before the whole column, so that a column without dates is recognised quickly."""
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
    """Return a dict from each month's name, in comparison form, to the month's number."""
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
