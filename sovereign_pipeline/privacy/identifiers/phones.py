"""Find phones with `phonenumbers`, and IBANs and machine addresses in any separators.

Without a cue such as "call", a number must be valid in one of the `valid` regions, or have the grouping of one of the
`grouped` regions. With a cue, it must be valid in one of these regions or possible in the first.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

import phonenumbers
from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban, luhn, numdb

from sovereign_pipeline.policy.corpus import PhoneRegions
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.patterns import DIGITS_OF_A_NATIONAL_ID, is_omani_phone
from sovereign_pipeline.privacy.spans import Span, value_key


class Regions(NamedTuple):
    """The regions of `policy.corpus.PhoneRegions` as a hashable value."""

    valid: tuple[str, ...]
    grouped: tuple[str, ...]

    @classmethod
    def of(cls, regions: PhoneRegions) -> "Regions":
        return cls(regions.valid, regions.grouped)


AROUND = Regions.of(PhoneRegions())
"""Default regions of a recipe."""

# --- phones in running text -------------------------------------------------------------------------------------------

# More than one character between two groups, or one that is unusual there.
_ODD_GAP = re.compile(r"\d[^\w\n]{2,5}\d|\d[./\\_)]\d")
_PIECE_ENDS = re.compile(r"\n|[,;|،؛]|\s{3,}|\.\s(?=\d{1,2}\D)")
_DIGIT = re.compile(r"\d")
_CUE = re.compile(
    r"(?i)phone|\btel\b|\bmob(?:ile)?\b|\bgsm\b|\bcell|\bfax|whats ?app|\b(?:call|ring|dial|text|contact|"
    r"reach)(?:ed|ing)?\b"
    r"|هاتف|جوال|نقال|فاكس|واتس|تواصل|اتصل|اتصال"
)
_NO_CUE_ACROSS = re.compile(r"[.!?؟]\s|\n\s*\n")
_REACH_OF_A_CUE = 40
_LONGEST = 60
_CALCULATED = re.compile(r"\s?[=+×÷*<>]")
_THOUSANDS = re.compile(r"\A\d{1,3}(?:[., ]\d{3})+\Z")
_GAP = re.compile(r"(?<=\d)[^\d]+(?=\d)")
_TRUNK = re.compile(r"\A1(?=[^\w])")
_ALONE = re.compile(r"(?<![\d+(])\d(?!\d)")
_YEAR = r"(?:1[34]|19|20)\d\d"
# Dates and years with any separators; times; amounts and their parts; files and laws.
_NO_PHONE = re.compile(
    rf"(?<!\d){_YEAR}(?!\d)"
    r"|(?<!\d)(?:1[5-9]|20)\d\d\s?--?\s?(?:1[5-9]|20)\d\d(?!\d)"
    r"|(?<!\d)\d{1,2}\s*[-/.]\s*\d{1,2}\s*[-/.]\s*\d{2,4}(?!\d)"
    r"|(?<!\d)[0-2]?\d:[0-5]\d"
    r"|(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)|\d%"
)
_DECIMALS = re.compile(r"\A\d{1,6}\.\d{1,4}(?:\s+-?\s*\d{1,6}\.\d{1,4})+\s*\Z")
_NUMBERED_BEFORE = re.compile(
    r"(?i:(?:OMR|R\.?O\.?|AED|SAR|QAR|KWD|BHD|USD|EUR|GBP|[$€£¥]|no\.?|number|ref(?:erence)?\.?|invoice|file|law|decree|order|decision|circular|"
    r"article|sections?|pages?|paragraphs?|annex|tender|lot|rooms?|berths?|rows?|blocks?|plots?|version|between|from|"
    r"رقم|المادة|مرسوم|قرار|قانون|مبلغ|ص|فاتورة|ملف))[ :#]{0,2}\Z|[A-Za-z]{2,6}[/_-]\Z|[=+×÷*<>] ?\Z"
)
_UNIT_AFTER = re.compile(
    r"\s?(?:%|[°$€£]|(?i:OMR|rials?|riyals?|dirhams?|dollars?|euros?|pounds?|tonnes?|tons?|kg|km|m2|"
    r"degrees?|per cent|percent|(?:ريال|درهم|دينار|طن|كم)\w{0,3})(?!\w))"
)


def phones(text: str, start: int, end: int, regions: Regions = AROUND) -> Iterator[Span]:
    """Yield the phone numbers in text[start:end], which contains digits separated by anything but letters."""
    if _ODD_GAP.search(text, start, end) is None:
        return
    position = start
    ends = [gap.span() for gap in _PIECE_ENDS.finditer(text, start, end)]
    for before, after in [*ends, (end, end)]:
        yield from _in_piece(text, position, before, regions)
        position = after


def _in_piece(text: str, start: int, end: int, regions: Regions) -> Iterator[Span]:
    digits = len(_DIGIT.findall(text, start, end))
    if digits < 7 or end - start > _LONGEST or _ODD_GAP.search(text, start, end) is None:
        return
    first = start - len(text[max(0, start - 2) : start]) + _opening(text[max(0, start - 2) : start])
    piece = text[first:end]
    if any(pattern.search(piece) for pattern in (_NO_PHONE, _DECIMALS, _THOUSANDS)) or _UNIT_AFTER.match(text, end):
        return
    cued = has_cue(text, start, end)
    before = text[max(0, first - 20) : first]
    if not cued and (_is_of_figures(piece) or _NUMBERED_BEFORE.search(before) or _CALCULATED.match(text, end)):
        return
    for begin, length in _matches(piece, cued, regions):
        span = _span(text, first + begin, first + begin + length)
        if cued or not (text[span.start - 1 : span.start].isalnum() or text[span.end : span.end + 1].isalnum()):
            yield span


def _is_of_figures(piece: str) -> bool:
    """Return whether a piece consists of figures: it mixes a decimal point with other separators, or has a lone
    digit."""
    gaps = _GAP.findall(piece)
    return (any(gap == "." for gap in gaps) and len(set(gaps)) > 1) or _ALONE.search(_TRUNK.sub("", piece)) is not None


def _opening(before: str) -> int:
    """Return the number of characters, of those before a number, that are not its opening "+" or "("."""
    kept = len(before)
    while kept and before[kept - 1] in "+(":
        kept -= 1
    return kept


def has_cue(text: str, start: int, end: int) -> bool:
    """Return whether a word beside a number shows that it is a phone number, such as "call" or "mobile"."""
    before = text[max(0, start - _REACH_OF_A_CUE) : start]
    for stop in reversed(list(_NO_CUE_ACROSS.finditer(before))):
        before = before[stop.end() :]
        break
    return _CUE.search(before) is not None or _CUE.match(text, _first_letter(text, end)) is not None


def _first_letter(text: str, position: int) -> int:
    while position < len(text) and text[position] in " ()-":
        position += 1
    return position


@lru_cache(maxsize=4096)
def _matches(piece: str, cued: bool, regions: Regions) -> tuple[tuple[int, int], ...]:
    """Return the start and length of each phone number, by the first region and leniency that find any."""
    ways = [(region, Leniency.VALID) for region in regions.valid]
    ways += [(region, Leniency.STRICT_GROUPING) for region in regions.grouped]
    if cued:
        ways += [(region, Leniency.VALID) for region in regions.grouped] + [(regions.valid[0], Leniency.POSSIBLE)]
    for region, leniency in ways:
        found = [(match.start, len(match.raw_string)) for match in PhoneNumberMatcher(piece, region, leniency, 64)]
        if found:
            return tuple(found)
    return ()


def _span(text: str, start: int, end: int) -> Span:
    return Span(start, end, "PHONE", value_key("PHONE", text[start:end]), labelled=False, by_length=True)


# --- prefixes, IBANs and machine addresses ----------------------------------------------------------------------------

LONGEST_GAP = 14
"""Maximum number of characters between two characters of a number."""

_PREFIXED = re.compile(r"(?<![\w+])\(?(?:\+|00)[ ().\-/_\n>|]{0,3}\d(?:[ ().\-/_\n>|]{0,8}\d){5,14}(?!\d)")
_OMAN_PREFIX = re.compile(r"\(?(?:\+|(?<!\d)00)[\W_]{0,3}9[\W_]?6[\W_]?8(?:[\W_]{0,8}\d){1,8}")
_COUNTRY_BEFORE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][\W_]{0,2}[A-Za-z][\W_]{0,14}\Z")
_BRACKETED_IP = re.compile(
    r"(?<![\w.])\d{1,3}(?:\s?[\[({]\s?(?:\.|dot)\s?[\])}]\s?\d{1,3}|\s\.\s\d{1,3}|\.\d{1,3}){3}(?!\w)"
)


@cache
def _length_of_an_iban(country: str) -> int:
    """Return the number of characters of a country's IBANs by SWIFT's registry, or 0 if it has none."""
    _, facts = numdb.get("iban").info(country.upper())[0]
    return 4 + sum(map(int, re.findall(r"(\d+)!", facts["bban"]))) if facts else 0


def is_complete(kind: Kind, key: str, regions: Regions = AROUND) -> bool:
    """Return whether a number, given by its digits, is complete by the rules of its kind, so that no further digits
    belong to it."""
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
        yield _checked_span(text, match.start(), match.end(), "PHONE")
    for match in _PREFIXED.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _is_valid_abroad(digits.removeprefix("00")):
            yield _checked_span(text, match.start(), match.end(), "PHONE")


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
    """Yield the IBAN whose digits begin at the chain, by country, length and check digits, whatever its separators."""
    before = _COUNTRY_BEFORE.search(text, max(0, chain.start() - LONGEST_GAP - 4), chain.start())
    if before is None:
        return
    length = _length_of_an_iban("".join(filter(str.isalpha, before.group())))
    gathered: list[int] = []
    for position in range(before.start(), len(text)):
        if len(gathered) == length or (gathered and position - gathered[-1] > LONGEST_GAP):
            break
        if text[position].isascii() and text[position].isalnum():
            gathered.append(position)
    if gathered and len(gathered) == length and _is_iban("".join(text[place] for place in gathered).upper()):
        yield _checked_span(text, gathered[0], gathered[-1] + 1, "IBAN", labelled=True)


def bracketed_machines(text: str) -> Iterator[Span]:
    """Yield IP addresses whose dots are in brackets or between spaces, written so that they are no links."""
    if text.count(".") < 3 and "dot" not in text:
        return
    for match in _BRACKETED_IP.finditer(text):
        parts = [int(part) for part in re.findall(r"\d+", match.group())]
        if not re.fullmatch(r"[\d.]+", match.group()) and max(parts) < 256:
            yield _checked_span(text, match.start(), match.end(), "IP")


def has_country_of_an_iban(value: str) -> bool:
    return _length_of_an_iban(value[:2]) > 0


def _is_iban(characters: str) -> bool:
    """Verify the check digits and the form that the country's registry entry gives: letters of prose do not fit it."""
    return bool(iban.is_valid(characters, check_country=False))


def _checked_span(text: str, start: int, end: int, kind: Kind, labelled: bool = False) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]), labelled=labelled, by_length=not labelled)
