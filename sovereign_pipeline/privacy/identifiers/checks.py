"""Checks of what a pattern matched: check digits, numbering plans, and what is a date or an amount instead.

What belongs here: yes or no about one value. What does not: where values stand in a text (`shapes.py`, `labels.py`).
"""

import re

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

# Omani numbering plan: mobile 7[1-9], 9[1-9]; fixed 2[1-6]; toll-free 800.
_OMANI = re.compile(r"7[1-9]\d{6}|9[1-9]\d{6}|2[1-6]\d{6}|800\d{5}")
_YEARS_OR_DATE = re.compile(
    r"(?:19|20)\d\d[ -](?:19|20)\d\d|(?:19|20)\d\d[ .-][01]?\d[ .-][0-3]?\d|[0-3]?\d[ .-][01]?\d[ .-](?:19|20)\d\d"
    r"|1[34]\d\d[.-][01]?\d[.-][0-3]?\d|[0-3]?\d[.-][01]?\d[.-]1[34]\d\d"
)
_AMOUNT = re.compile(r"\d{1,3}(?: \d{3})+")  # thousands come in groups of three alone
_EXTENSION_MARK = re.compile("x|ext")


def count_of_digits(value: str) -> int:
    return sum(character.isdigit() for character in value)


def is_date_or_years(value: str) -> bool:
    """`2022-2023`, `2024-03-09`, `9 3 2024`, `12-7-1445` after the Hijra."""
    return _YEARS_OR_DATE.fullmatch(value) is not None


def has_digits_of_an_iban(value: str) -> bool:
    return count_of_digits(value) >= 10


def has_iban_check_digits(value: str) -> bool:
    """ISO 7064 MOD 97-10, as ISO 13616 has it."""
    plain = _without_separators(value).upper()
    return bool(mod_97_10.is_valid(plain[4:] + plain[:4]))


def has_card_check_digit(value: str) -> bool:
    """Luhn, ISO/IEC 7812-1."""
    return bool(luhn.is_valid(_without_separators(value)))


def is_omani_phone(value: str) -> bool:
    plain = _without_separators(value)
    try:
        return _OMANI.fullmatch(plain) is not None or phonenumbers.is_valid_number(phonenumbers.parse(plain, "OM"))
    except phonenumbers.NumberParseException:  # a country's prefix with nothing behind it
        return False


def is_grouped_phone(value: str) -> bool:
    """Eight to thirteen digits in groups that are neither a date nor an amount."""
    digits = count_of_digits(_EXTENSION_MARK.split(value)[0])
    return 8 <= digits <= 13 and _AMOUNT.fullmatch(value) is None and not is_date_or_years(value)


def _without_separators(value: str) -> str:
    return re.sub("[ -]", "", value)
