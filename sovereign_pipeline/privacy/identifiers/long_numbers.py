"""Runs of eight digits or more that nothing names, taken by their length: one that is kept by mistake cannot be undone.

What belongs here: which long numbers are no identifier (dates, amounts, the institution's file numbers, points in
time). What does not: numbers with a label or a form of their own (`labels.py`, `shapes.py`).
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.checks import count_of_digits, is_date_or_years, is_omani_phone
from sovereign_pipeline.privacy.identifiers.fragments import DIGITS_OF_A_NATIONAL_ID, END, NOT_AN_AMOUNT
from sovereign_pipeline.privacy.identifiers.labels import LABELS
from sovereign_pipeline.privacy.spans import Span, value_key

# With a year and at most six digits: anything longer may be a person's number in its shape.
_FILE_NUMBER = re.compile(r"\b[A-Z]{2,6}/(?:19|20)\d\d/\d{1,6}\b")
_LONGEST_LABEL = 60
_TIMESTAMP = re.compile(r"(?<![\d-])(?:19|20)\d\d-[01]\d-[0-3]\d[ T][0-2]?\d:[0-5]\d(?::[0-5]\d)?")
_LONG_NUMBER = re.compile(rf"(?<!\w){NOT_AN_AMOUNT}(?:\d{{8,}}|\d{{2,}}(?:[ -]\d{{2,}})+){END}")
# Glued to letters, as in web addresses and in tables whose cells ran together.
_GLUED_NUMBER = re.compile(rf"(?<![\d.,]){NOT_AN_AMOUNT}\d{{8,}}+(?![.,]\d)")
# Beside other digits, as in a table's row or behind the number of a list's entry.
_RUN = re.compile(r"(?<!\d)\d{8,20}(?!\d)")
_CURRENCY = (
    r"(?:(?<![A-Z])(?:OMR|R\.?O\.?|AED|SAR|QAR|KWD|BHD|USD|US|EUR|GBP|INR)|(?i:rials?|riyals?|dollars?|euros?|pounds?)(?!\w)"
    r"|[$€£¥]|ر\.? ?ع\.?|ريال|درهم|دينار|دولار)"
)
_CURRENCY_BEFORE = re.compile(rf"{_CURRENCY}[ .:]{{0,2}}\Z")
_CURRENCY_AFTER = re.compile(rf"(?:[.,]\d{{1,3}})? ?(?:{_CURRENCY}|%)")
_FRACTION = re.compile(r"\.(?!0+(?!\d))\d{1,3}(?!\d|[.,-]\d)")
_FRACTION_WITH_COMMA = re.compile(r",\d{1,3}(?!\d|[.,-]\d)")  # or the next cell: of eight digits none
_FRACTION_BEFORE = re.compile(r"(?<![\d.])\d{1,3}\.\Z")


def long_numbers(plain: str) -> Iterator[Span]:
    """Every such run, glued to letters or not: a NID at eight digits, else an ACCOUNT.

    Args:
        plain: normalised text without what only looks like one (`without_file_numbers`).
    """
    for match in _LONG_NUMBER.finditer(plain):
        if count_of_digits(match.group()) >= DIGITS_OF_A_NATIONAL_ID and not is_date_or_years(match.group()):
            yield _span(match)
    for match in _GLUED_NUMBER.finditer(plain):
        yield _span(match)


def numbers_beside_digits(plain: str, start: int, end: int) -> Iterator[Span]:
    """Every such run of plain[start:end] that `long_numbers` leaves because of the digits beside it, unless it is an
    amount: with a currency beside it, or with a fraction that is not zero. A whole number that a table wrote as
    10457832.0 is none."""
    for match in _RUN.finditer(plain, start, end):
        before = plain[max(0, match.start() - 10) : match.start()]
        if _CURRENCY_BEFORE.search(before) or _CURRENCY_AFTER.match(plain, match.end()):
            continue
        if _FRACTION.match(plain, match.end()):
            continue
        digits = match.group()
        kind: Kind = "PHONE" if is_omani_phone(digits) or is_omani_phone(f"+{digits}") else _kind(digits)
        is_measure = _FRACTION_BEFORE.search(before) or _FRACTION_WITH_COMMA.match(plain, match.end())
        if kind == "ACCOUNT" and is_measure:
            continue
        yield Span(match.start(), match.end(), kind, value_key(kind, digits), labelled=False, by_length=True)


def without_file_numbers(text: str) -> str:
    """The same text, of the same length, with the institution's own file numbers and points in time blotted out. What a
    label names stays, whatever its shape."""
    text = _FILE_NUMBER.sub(lambda match: match.group() if _has_label(match) else "#" * len(match.group()), text)
    return _TIMESTAMP.sub(lambda match: "#" * len(match.group()), text)


def _has_label(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _LONGEST_LABEL) : match.start()]
    return any(label.search(before) for _, label in LABELS)


def _span(match: re.Match[str]) -> Span:
    kind = _kind(match.group())
    return Span(match.start(), match.end(), kind, value_key(kind, match.group()), labelled=False, by_length=True)


def _kind(value: str) -> Kind:
    return "NID" if count_of_digits(value) == DIGITS_OF_A_NATIONAL_ID else "ACCOUNT"
