"""Identifiers in any separators that are told by their own check: prefixes of phones, IBANs, addresses of machines.

What belongs here: gathering their characters, and whether a number is whole by its own measure. What does not: numbers
that a label or their groups tell (`separated.py`).
"""

import re
from collections.abc import Iterable, Iterator

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.checks import is_omani_phone
from sovereign_pipeline.privacy.identifiers.fragments import DIGITS_OF_A_NATIONAL_ID
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.spans import Span, value_key

LONGEST_GAP = 14
"""Characters that may stand between two of a number."""

_PREFIXED = re.compile(r"(?<![\w+])\(?(?:\+|00)[ ().\-/_\n>|]{0,3}\d(?:[ ().\-/_\n>|]{0,8}\d){5,14}(?!\d)")
_OMAN_PREFIX = re.compile(r"\(?(?:\+|(?<!\d)00)[\W_]{0,3}9[\W_]?6[\W_]?8(?:[\W_]{0,8}\d){1,8}")
_COUNTRY_BEFORE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][\W_]{0,2}[A-Za-z][\W_]{0,14}\Z")
_BRACKETED_IP = re.compile(
    r"(?<![\w.])\d{1,3}(?:\s?[\[({]\s?(?:\.|dot)\s?[\])}]\s?\d{1,3}|\s\.\s\d{1,3}|\.\d{1,3}){3}(?!\w)"
)

# Characters of an IBAN by country: SWIFT's IBAN registry.
_IBAN_LENGTHS = {
    "AE": 23, "AT": 20, "BE": 16, "BH": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EG": 29, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IT": 27, "JO": 30, "KW": 30,
    "LB": 28, "LU": 20, "LY": 25, "MT": 31, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PT": 25, "QA": 29,
    "RO": 24, "SA": 24, "SD": 18, "SE": 24, "TN": 24, "TR": 26, "YE": 30,
}  # fmt: skip


def is_complete(kind: Kind, key: str, regions: Regions = AROUND) -> bool:
    """Whether a number is whole by its own measure, so that no further digits can belong to it. key: its digits."""
    match kind:
        case "NID" | "RESIDENT_CARD":
            return len(key) == DIGITS_OF_A_NATIONAL_ID
        case "PHONE" if len(key) <= 15:
            return is_omani_phone(key) or _is_valid_abroad(key) or is_valid_phone(key, regions.valid + regions.grouped)
        case "CARD":
            return 13 <= len(key) <= 19 and bool(luhn.is_valid(key))
        case "IBAN":
            return _is_iban(key.upper())
    return kind != "PHONE"


def prefixed_phones(text: str) -> Iterator[Span]:
    if "+" not in text and "00" not in text:
        return
    for match in _OMAN_PREFIX.finditer(text):
        yield _span(text, match.start(), match.end(), "PHONE")
    for match in _PREFIXED.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _is_valid_abroad(digits.removeprefix("00")):
            yield _span(text, match.start(), match.end(), "PHONE")


def is_valid_phone(digits: str, regions: Iterable[str]) -> bool:
    return any(_is_valid_in(digits, each) for each in regions)


def _is_valid_abroad(digits: str) -> bool:
    return _is_valid_in(f"+{digits}", None)


def _is_valid_in(digits: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False


def ibans(text: str, chain: re.Match[str]) -> Iterator[Span]:
    """By country, length and check digits, whatever stands between the characters; the chain begins its digits."""
    before = _COUNTRY_BEFORE.search(text, max(0, chain.start() - LONGEST_GAP - 4), chain.start())
    if before is None:
        return
    length = _IBAN_LENGTHS.get("".join(filter(str.isalpha, before.group())).upper(), 0)
    gathered: list[int] = []
    for position in range(before.start(), len(text)):
        if len(gathered) == length or (gathered and position - gathered[-1] > LONGEST_GAP):
            break
        if text[position].isascii() and text[position].isalnum():
            gathered.append(position)
    if gathered and len(gathered) == length and _is_iban("".join(text[place] for place in gathered).upper()):
        yield _span(text, gathered[0], gathered[-1] + 1, "IBAN", labelled=True)


def bracketed_machines(text: str) -> Iterator[Span]:
    """Addresses of machines with their stops in brackets or between spaces, so that nobody follows them."""
    if text.count(".") < 3 and "dot" not in text:
        return
    for match in _BRACKETED_IP.finditer(text):
        parts = [int(part) for part in re.findall(r"\d+", match.group())]
        if not re.fullmatch(r"[\d.]+", match.group()) and max(parts) < 256:
            yield _span(text, match.start(), match.end(), "IP")


def has_country_of_an_iban(value: str) -> bool:
    return value[:2].upper() in _IBAN_LENGTHS


def _is_iban(characters: str) -> bool:
    digits = sum(character.isdigit() for character in characters)  # letters are a bank's code, and never prose
    plain = (
        len(characters) > 14
        and characters[2:4].isdigit()
        and characters.isascii()
        and 5 * digits >= 3 * len(characters)
    )
    return plain and bool(mod_97_10.is_valid(characters[4:] + characters[:4]))


def _span(text: str, start: int, end: int, kind: Kind, labelled: bool = False) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]), labelled=labelled, by_length=not labelled)
