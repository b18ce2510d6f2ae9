"""Runs of eight digits or more that nothing names, taken by their length: one that is kept by mistake cannot be undone.

What belongs here: which long numbers are no identifier (dates, amounts, the institution's file numbers, points in
time). What does not: numbers with a label or a form of their own (`labels.py`, `shapes.py`).
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.checks import count_of_digits, is_date_or_years
from sovereign_pipeline.privacy.identifiers.fragments import END, NOT_AN_AMOUNT
from sovereign_pipeline.privacy.spans import Span, value_key

DIGITS_OF_A_NATIONAL_ID = 8
_FILE_NUMBER = re.compile(r"\b[A-Z]{2,6}/\d{2,4}/\d+\b")
_TIMESTAMP = re.compile(r"(?<![\d-])(?:19|20)\d\d-[01]\d-[0-3]\d[ T][0-2]?\d:[0-5]\d(?::[0-5]\d)?")
_LONG_NUMBER = re.compile(rf"(?<!\w){NOT_AN_AMOUNT}(?:\d{{8,}}|\d{{2,}}(?:[ -]\d{{2,}})+){END}")
# Glued to letters, as in web addresses and in tables whose cells ran together.
_GLUED_NUMBER = re.compile(rf"(?<![\d.,]){NOT_AN_AMOUNT}\d{{8,}}+(?![.,]\d)")


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


def without_file_numbers(text: str) -> str:
    """The same text, of the same length, with the institution's own file numbers and points in time blotted out."""
    for pattern in (_FILE_NUMBER, _TIMESTAMP):
        text = pattern.sub(lambda match: "#" * len(match.group()), text)
    return text


def _span(match: re.Match[str]) -> Span:
    kind: Kind = "NID" if count_of_digits(match.group()) == DIGITS_OF_A_NATIONAL_ID else "ACCOUNT"
    return Span(match.start(), match.end(), kind, value_key(kind, match.group()), labelled=False, by_length=True)
