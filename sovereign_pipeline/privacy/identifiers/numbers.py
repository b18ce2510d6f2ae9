"""Use length, numbering plan and separators to find numbers that are identifiers. Numbers that measure or count, such
as amounts, are left out.

Exported letters break lines anywhere, quote one another with `> `, and contain people's numbers in file names. A number
that is missed cannot be removed later, so every long number is replaced unless it is a date, an amount, a list or a
measurement.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import luhn

from sovereign_pipeline.policy.corpus import PhoneRegions
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.forms import (
    DIGITS_OF_A_NATIONAL_ID,
    FRAGMENTS,
    count_of_digits,
    is_date_or_years,
    is_iban,
    is_omani_phone,
    is_valid_phone,
    length_of_an_iban,
    section,
)
from sovereign_pipeline.privacy.identifiers.labels import (
    UP_TO_A_NUMBER,
    LabelFound,
    labels_between,
    labels_in,
    small_letters,
)
from sovereign_pipeline.privacy.spans import Span, value_key

_WORDS = {name: re.compile(pattern) for name, pattern in section("numbers").items()}


AROUND = PhoneRegions()
"""The phone regions of a recipe that sets none."""


# --- long numbers -----------------------------------------------------------------------------------------------------

_LONG_NUMBER = re.compile(
    rf"(?<!\w){FRAGMENTS['NOT_AN_AMOUNT']}(?:\d{{8,}}|\d{{2,}}(?:[ -]\d{{2,}})+){FRAGMENTS['END']}"
)
# A long number next to letters, as in web addresses and in tables without separators.
_GLUED_NUMBER = re.compile(rf"(?<![\d.,]){FRAGMENTS['NOT_AN_AMOUNT']}\d{{8,}}+(?![.,]\d)")
# A long number beside other digits, as in a table row or after the number of a list entry.
_RUN = re.compile(r"(?<!\d)\d{8,20}(?!\d)")
_FRACTION = re.compile(r"\.(?!0+(?!\d))\d{1,3}(?!\d|[.,-]\d)")  # not ".0", which tables append to whole numbers
_LONGEST_LABEL = 90


def long_numbers(plain: str) -> Iterator[Span]:
    """Yield each number of at least eight digits that is not a date or an amount, even next to letters. A number of
    eight digits has the kind NID, a longer number the kind ACCOUNT.

    Args:
        plain: normalised text without file numbers and timestamps (`without_file_numbers`).
    """
    for match in _LONG_NUMBER.finditer(plain):
        if count_of_digits(match.group()) >= DIGITS_OF_A_NATIONAL_ID and not is_date_or_years(match.group()):
            yield _span(plain, *match.span(), _kind_by_length(match.group()))
    for match in _GLUED_NUMBER.finditer(plain):
        yield _span(plain, *match.span(), _kind_by_length(match.group()))


def _numbers_beside_digits(plain: str, start: int, end: int) -> Iterator[Span]:
    """Yield the long numbers in plain[start:end] that `long_numbers` skips because other digits are next to them.
    Amounts, which follow a currency or have a fraction, are left out."""
    for match in _RUN.finditer(plain, start, end):
        before = plain[max(0, match.start() - 10) : match.start()]
        if _WORDS["currency before"].search(before) or _FRACTION.match(plain, match.end()):
            continue
        digits = match.group()
        kind: Kind = "PHONE" if is_omani_phone(digits) or is_omani_phone(f"+{digits}") else _kind_by_length(digits)
        yield _span(plain, *match.span(), kind)


def without_file_numbers(text: str) -> str:
    """Return the text with the institution's file numbers, timestamps and digests replaced by `#`. The length stays the
    same. A file number with a label before it is not replaced."""
    text = _WORDS["file number"].sub(lambda match: match.group() if _has_label(match) else _hashes(match), text)
    for name in ("timestamp", "date in a file name", "date in words", "hexadecimal"):
        text = _WORDS[name].sub(_hashes, text)
    return text


def _hashes(match: re.Match[str]) -> str:
    return "#" * len(match.group())


def _has_label(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _LONGEST_LABEL) : match.start()]
    return any(UP_TO_A_NUMBER.fullmatch(before, found.end) for found in labels_in(small_letters(before)))


def _kind_by_length(value: str) -> Kind:
    return "NID" if count_of_digits(value) == DIGITS_OF_A_NATIONAL_ID else "ACCOUNT"


def _span(text: str, start: int, end: int, kind: Kind, labelled: bool = False) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]), labelled=labelled, by_length=not labelled)


# --- numbers with unusual separators ----------------------------------------------------------------------------------

# A percent or currency sign, an operator or "@" ends a number; anything else except letters may be inside one.
_CHAIN = re.compile(r"\d+(?:(?:[^\w\t%€£$¥=+×÷<≤≥±°@&]|_){1,14}\d+)*")
_USUAL_GAPS = frozenset({" ", "-"})
_ODD = re.compile(r"[_|\\/~*•·>\"'“”«»\[\](){}#]|\s{2,}|\n")
_SENTENCE_ENDS = re.compile(r"[.;!?,:]\s|\n[\s>|]*\n")
_YEAR = re.compile(r"(?:19|20)\d\d\Z")
_TIMES_AND_AMOUNTS = re.compile(
    r"(?:[0-2]?\d[:.][0-5]\d(?:[:.][0-5]\d)?(?:\s?[-–]\s?[0-2]?\d[:.][0-5]\d)?"
    r"|\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?|(?!\d{5,}\.0\Z)\d+[.,]\d{1,3})\Z"
)
_SIGN_BEFORE = re.compile(r"(?<!\w)[A-Za-z]{2,6}[/_-]\Z")
_CAPITALS_BEFORE = re.compile(r"(?<![A-Za-z])(?:[A-Za-z][\W_]{0,2}){1,3}[\W_]{0,2}\Z")

# Number of digits of a labelled number, by the label's shape: (certain counts, minimum, maximum).
_DIGITS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "id number": ((8,), 7, 15), "passport": ((7, 8), 5, 9), "account": ((), 7, 20), "register": ((7,), 5, 10),
    "card": ((16, 15), 12, 19), "phone": ((8, 11, 13), 7, 13), "social security": ((9,), 9, 9),
    "licence": ((8,), 5, 14),
}  # fmt: skip
_NEXT_IN_A_LIST = 20
"""Maximum difference between neighbouring numbers of a list."""


@dataclass(frozen=True)
class _Group:
    start: int
    end: int
    digits: str
    gap: str
    """Text between this group and the next; empty for the last group."""

    @property
    def is_year(self) -> bool:
        return _YEAR.match(self.digits) is not None

    def precedes(self, after: "_Group") -> bool:
        """Return True if this group and `after` may be successive numbers of a list."""
        is_short = max(len(self.digits), len(after.digits)) <= 6
        return is_short and 0 < int(after.digits) - int(self.digits) <= _NEXT_IN_A_LIST


def separated_numbers(
    text: str, plain: str, labels: Sequence[LabelFound], regions: PhoneRegions = AROUND
) -> Iterator[Span]:
    """Yield the numbers of a normalised text that have unusual separators or continue across lines. Spans may overlap.

    Args:
        plain: the same text without file numbers and timestamps (`without_file_numbers`).
        labels: the labels in the text.
    """
    yield from _prefixed_phones(text)
    for chain in _CHAIN.finditer(plain):
        found = [*_ibans(text, chain), *_in_chain(text, plain, chain, labels)]
        yield from found
        if not any(span.kind in ("IBAN", "CARD") for span in found):  # part of these could look like a phone
            yield from _phones(plain, *chain.span(), regions)


def _in_chain(text: str, plain: str, chain: re.Match[str], labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield the numbers in a chain of digit groups. Any characters except letters may separate the groups."""
    written = chain.group()
    if not written.isdigit():
        yield from _numbers_beside_digits(plain, *chain.span())
    if count_of_digits(written) < 5 or _is_ordinary(written):
        return
    numbers = list(re.finditer(r"\d+", written))
    ends = [*(number.start() for number in numbers[1:]), len(written)]
    groups = [
        _Group(chain.start() + each.start(), chain.start() + each.end(), each.group(), written[each.end() : end])
        for each, end in zip(numbers, ends, strict=True)
    ]
    yield from _labelled(text, groups, labels)
    if len(groups) > 1 and not _WORDS["counted before"].search(plain[max(0, chain.start() - 30) : chain.start()]):
        yield from _by_shape(plain, groups)


def _labelled(text: str, groups: Sequence[_Group], labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield the number at the start of a chain of digit groups if a label precedes the number. A few letters may be
    between the label and the number."""
    number = groups[0].start
    sign, capitals = (each.search(text, max(0, number - 8), number) for each in (_SIGN_BEFORE, _CAPITALS_BEFORE))
    letters = capitals or sign
    for label, _, end_of_label in reversed(labels_between(labels, number - _LONGEST_LABEL, number)):
        end = _end_of_value(text, groups, *_DIGITS[label.shape]) if label.shape in _DIGITS else None
        if end is None:
            continue
        start = number
        if not UP_TO_A_NUMBER.fullmatch(text, end_of_label, number):
            may_have_letters = sign or label.shape in ("passport", "licence")
            if not (letters and may_have_letters and UP_TO_A_NUMBER.fullmatch(text, end_of_label, letters.start())):
                continue
            start = capitals.start() if capitals and label.kind != "NID" else number
        yield _span(text, start, end, label.kind, labelled=True)
        return


def _end_of_value(text: str, groups: Sequence[_Group], certain: tuple[int, ...], fewest: int, most: int) -> int | None:
    """Return the offset at which a labelled value ends, which is always the end of a digit group. Return None if the
    value has too few digits, or is a list, a date, a time or an amount.

    Args:
        certain: usual numbers of digits of a value of this kind. The value ends as soon as it has such a number of
            digits.
        fewest: minimum number of digits of a value that reaches none of `certain`. Such a value ends with its sentence.
        most: maximum number of digits of a value.
    """
    digits = count = 0
    for number, group in enumerate(groups, start=1):
        digits += len(group.digits)
        if digits > most:
            break
        if digits in certain or digits >= fewest:
            count = number
            if digits in certain or _SENTENCE_ENDS.search(group.gap):
                break
    within = groups[:count]
    is_row = len(within) > 2 and all(group.gap in (", ", "، ") for group in within[:-1])
    is_row = is_row and (_is_list(within) or all(group.is_year for group in within))
    if not within or is_row or _is_ordinary(text[groups[0].start : within[-1].end]):
        return None
    return within[-1].end


def _by_shape(text: str, chain: Sequence[_Group]) -> Iterator[Span]:
    """Yield the numbers whose digits and groups alone show that they are identifiers."""
    for place, (first, second) in enumerate(pairwise(chain)):
        is_pair = len(first.digits) == len(second.digits) == 4 and first.gap not in _USUAL_GAPS
        if not is_pair or first.is_year or second.is_year or first.precedes(second):
            continue
        # Another four-digit group beside the pair would make it a column of amounts or counts.
        beside = [*chain[max(0, place - 1) : place], *chain[place + 2 : place + 3]]
        if is_omani_phone(first.digits + second.digits) and all(len(group.digits) != 4 for group in beside):
            yield _span(text, first.start, second.end, "PHONE")
    ends = [number for number, group in enumerate(chain[:-1], start=1) if _SENTENCE_ENDS.search(group.gap)]
    pieces = [chain[start:end] for start, end in pairwise((0, *ends, len(chain)))]
    for groups in (*pieces, chain) if ends else pieces:
        kind = _kind_of(text, groups)
        if kind is not None:
            yield _span(text, groups[0].start, groups[-1].end, kind)


def _kind_of(text: str, groups: Sequence[_Group]) -> Kind | None:
    digits = "".join(group.digits for group in groups)
    gaps = [group.gap for group in groups[:-1]]
    lengths = [len(group.digits) for group in groups]
    if lengths == [1] * DIGITS_OF_A_NATIONAL_ID and max(map(len, gaps)) <= 3 and not {", ", "، "} & set(gaps):
        counts_up = len({int(after) - int(before) for before, after in pairwise(digits)}) == 1
        return None if digits[0] == "0" or len(set(digits)) < 4 or counts_up else _eight(digits)
    if gaps and _is_card(digits, lengths, gaps):
        return "CARD"
    in_a_name = "_" in text[max(0, groups[0].start - 1) : groups[0].start] + text[groups[-1].end : groups[-1].end + 1]
    if not gaps or (all(gap in _USUAL_GAPS for gap in gaps) and not in_a_name):
        return None
    if _is_ordinary(text[groups[0].start : groups[-1].end]) or any(group.is_year for group in groups):
        return None
    if _is_column(text, groups) or _is_list(groups):
        return None
    if len(digits) == DIGITS_OF_A_NATIONAL_ID:
        tight = lengths == [4, 4] and not re.search(r"\s", gaps[0])
        if tight or in_a_name or (len(groups) <= 4 and all(_ODD.search(gap) for gap in gaps)):
            return _eight(digits)
    if lengths == [3, 2, 4] and len(set(gaps)) == 1 and digits[:3] not in ("000", "666"):
        return "SSN"
    uniform = len({gap.strip() for gap in gaps}) == 1 and len(groups) <= 5 and min(lengths) >= 3
    if uniform and 9 <= len(digits) <= 20 and re.search(r"[_|\\/~*•·>]", gaps[0]):
        return "ACCOUNT"
    return None


def _eight(digits: str) -> Kind:
    """Return the kind of an eight-digit number: PHONE if it is in the Omani numbering plan, otherwise NID."""
    return "PHONE" if is_omani_phone(digits) else "NID"


def _is_card(digits: str, lengths: Sequence[int], gaps: Sequence[str]) -> bool:
    ends = set(accumulate(lengths[:-1]))
    grouped = ends <= {4, 8, 12, 16} or ends <= {4, 10} or set(lengths) == {1}  # as printed on cards
    is_one = 13 <= len(digits) <= 19 and digits[0] in "3456" and grouped and sum("\n" in gap for gap in gaps) <= 1
    return is_one and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_ordinary(written: str) -> bool:
    """Return whether a number is a date, a period, a time or an amount."""
    patterns = (_WORDS["date"], _TIMES_AND_AMOUNTS)
    return is_date_or_years(written) or any(pattern.match(written) for pattern in patterns)


def _is_column(text: str, groups: Sequence[_Group]) -> bool:
    """Return True if the groups are a column of amounts or counts: if they span several lines, and no letter precedes
    them in the first of these lines."""
    line = text[text.rfind("\n", 0, groups[0].start) + 1 : groups[0].start]
    return any("\n" in group.gap for group in groups[:-1]) and re.search(r"[^\W\d_]", line) is None


def _is_list(groups: Sequence[_Group]) -> bool:
    """Return whether the groups are a list of at least three slowly rising numbers, such as "berths 101/102/103"."""
    return len(groups) > 2 and all(before.precedes(after) for before, after in pairwise(groups))


# --- phones and IBANs in running text ---------------------------------------------------------------------------------

# A gap between two digit groups with several characters, or with an unusual one.
_ODD_GAP = re.compile(r"\d[^\w\n]{2,5}\d|\d[./\\_)]\d")
_PIECE_ENDS = re.compile(r"\n|[,;|،؛]|\s{3,}|\.\s(?=\d{1,2}\D)")
_REACH_OF_A_CUE = 40
_LONGEST = 60
_GAP = re.compile(r"(?<=\d)\D+(?=\d)")
_ALONE = re.compile(r"(?<![\d+(])(?!\A1\W)\d(?!\d)")
_LONGEST_GAP = 14
"""Maximum number of characters that may separate two characters of a number."""
_PREFIXED = re.compile(r"(?<![\w+])\(?(?:\+|00)[ ().\-/_\n>|]{0,3}\d(?:[ ().\-/_\n>|]{0,8}\d){5,14}(?!\d)")
_OMAN_PREFIX = re.compile(r"\(?(?:\+|(?<!\d)00)[\W_]{0,3}9[\W_]?6[\W_]?8(?:[\W_]{0,8}\d){1,8}")
_COUNTRY_BEFORE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][\W_]{0,2}[A-Za-z][\W_]{0,14}\Z")


def _phones(text: str, start: int, end: int, regions: PhoneRegions) -> Iterator[Span]:
    """Yield the phone numbers in text[start:end], which has no letters.

    Without a cue such as "call" beside it, a number must be valid in one of the `valid` regions, or have the grouping
    of one of the `grouped` regions. With a cue, the number must be valid in any of these regions, or be possible in the
    first `valid` region.
    """
    if _ODD_GAP.search(text, start, end) is None:
        return
    ends = [gap.span() for gap in _PIECE_ENDS.finditer(text, start, end)]
    for (_, first), (last, _) in pairwise(((start, start), *ends, (end, end))):
        yield from _in_piece(text, first, last, regions)


def _in_piece(text: str, start: int, end: int, regions: PhoneRegions) -> Iterator[Span]:
    if end - start > _LONGEST or count_of_digits(text[start:end]) < 7 or _ODD_GAP.search(text, start, end) is None:
        return
    before = text[max(0, start - 2) : start]
    start -= len(before) - len(before.rstrip("+("))  # include "+" and "(" before the number
    piece = text[start:end]
    cued = has_cue(text, start, end)
    if _WORDS["no phone"].search(piece) or (_UNIT_BEHIND.match(text, end) and not cued):
        return
    gaps = set(_GAP.findall(piece))
    is_of_figures = ("." in gaps and len(gaps) > 1) or _ALONE.search(piece)
    if not cued and (is_of_figures or _WORDS["numbered before"].search(text[max(0, start - 20) : start])):
        return
    for begin, length in _matches(piece, cued, regions):
        span = _span(text, start + begin, start + begin + length, "PHONE")
        if cued or not (text[span.start - 1 : span.start].isalnum() or text[span.end : span.end + 1].isalnum()):
            yield span


def has_cue(text: str, start: int, end: int) -> bool:
    """Return True if a word beside a number, such as "call" or "mobile", shows that the number is a phone number."""
    before = text[max(0, start - _REACH_OF_A_CUE) : start]
    behind = re.compile(r"[ ()-]*").match(text, end)
    return (
        _WORDS["cue"].search(before) is not None
        or _WORDS["cue"].match(text, behind.end() if behind else end) is not None
    )


@lru_cache(maxsize=4096)
def _matches(piece: str, cued: bool, regions: PhoneRegions) -> tuple[tuple[int, int], ...]:
    """Return the start and length of each phone number in a piece of text. Combinations of region and leniency are
    tried in order until one finds a number."""
    ways = [(region, Leniency.VALID) for region in regions.valid]
    ways += [(region, Leniency.STRICT_GROUPING) for region in regions.grouped]
    if cued:
        ways += [(region, Leniency.VALID) for region in regions.grouped] + [(regions.valid[0], Leniency.POSSIBLE)]
    for region, leniency in ways:
        found = [(match.start, len(match.raw_string)) for match in PhoneNumberMatcher(piece, region, leniency, 64)]
        if found:
            return tuple(found)
    return ()


def _prefixed_phones(text: str) -> Iterator[Span]:
    if "+" in text or "00" in text:
        yield from (_span(text, *match.span(), "PHONE") for match in _OMAN_PREFIX.finditer(text))
        for match in _PREFIXED.finditer(text):
            if is_valid_phone(f"+{re.sub(r'[^0-9]', '', match.group()).removeprefix('00')}", (None,)):
                yield _span(text, *match.span(), "PHONE")


def is_complete(kind: Kind, key: str, regions: PhoneRegions = AROUND) -> bool:
    """Return True if a value is complete according to the rules of its kind, so that no further digits belong to the
    value. If the kind has no such rules, return True.

    Args:
        key: the value's digits and letters (`Span.key`).
    """
    match kind:
        case "NID" | "RESIDENT_CARD":
            return len(key) == DIGITS_OF_A_NATIONAL_ID
        case "PHONE":
            return len(key) <= 15 and (
                is_omani_phone(key)
                or is_valid_phone(f"+{key}", (None,))
                or is_valid_phone(key, regions.valid + regions.grouped)
            )
        case "CARD":
            return 13 <= len(key) <= 19 and bool(luhn.is_valid(key))
        case "IBAN":
            return is_iban(key.upper())
    return True


def _ibans(text: str, chain: re.Match[str]) -> Iterator[Span]:
    """Yield the IBAN whose digits begin where the chain begins, if the country, the length and the check digits are
    valid. Any separators may be between the characters of the IBAN."""
    before = _COUNTRY_BEFORE.search(text, max(0, chain.start() - _LONGEST_GAP - 4), chain.start())
    if before is None:
        return
    length = length_of_an_iban("".join(filter(str.isalpha, before.group())))
    gathered: list[int] = []
    for position in range(before.start(), len(text)):
        if len(gathered) == length or (gathered and position - gathered[-1] > _LONGEST_GAP):
            break
        if text[position].isascii() and text[position].isalnum():
            gathered.append(position)
    if gathered and len(gathered) == length and is_iban("".join(text[place] for place in gathered).upper()):
        yield _span(text, gathered[0], gathered[-1] + 1, "IBAN", labelled=True)


# --- what a number counts or measures ---------------------------------------------------------------------------------

_UNIT_BEHIND = re.compile(rf"(?:[.,]\d{{1,4}})? ?{FRAGMENTS['UNIT']}")
_HS_BEFORE = re.compile(r"(?<!\w)HS:? ?\Z")
_HS_FORM = re.compile(r"\d{4}([. -])\d\d\1\d\d(?:\1\d\d)?")
_OPERAND = r"[$€£(]{0,3}\d[\d.,]*[%)]{0,2}"
_CALCULATION = re.compile(rf"{_OPERAND}(?: ?[+×÷*/-] ?{_OPERAND})+ ?= ?{_OPERAND}")  # "3*33011356 = 101034068"
_REACH_OF_A_CALCULATION = 60
_FRACTION_OF = re.compile(r"(?:\d\d|(?<!\d)0)\.\Z")
_DECIMAL = re.compile(r"\d{1,6}[.,]\d{2,6}")
_LONG_GROUP = re.compile(r"\d{6}")
_OF_GOODS = ("currency before", "classified before")
_BACK = 120
"""Number of characters before a number that are searched for words about it."""


def is_of_something_else(text: str, span: Span) -> bool:
    """Return True if words, a unit or an operator beside an unlabelled number show that it is not an identifier."""
    value = text[span.start : span.end]
    before = text[max(0, span.start - _BACK) : span.start]
    near = max(0, span.start - _REACH_OF_A_CALCULATION), span.end + _REACH_OF_A_CALCULATION
    sums = _CALCULATION.finditer(text, *near) if text.find("=", *near) >= 0 else ()
    if any(each.start() <= span.start and span.end <= each.end() for each in sums):
        return True
    if span.kind in ("ACCOUNT", "CARD", "IBAN") and _FRACTION_OF.search(before):
        return True
    if span.kind in ("CARD", "IBAN", "PO_BOX") or value[0] in "+(" or value.startswith("00"):
        return False
    is_cued = has_cue(text, span.start, span.end)
    is_measured = _UNIT_BEHIND.match(text, span.end) or any(_WORDS[each].search(before) for each in _OF_GOODS)
    if is_measured or (span.kind != "PHONE" and _WORDS["document before"].search(before)):
        return not is_cued
    if _HS_FORM.fullmatch(value) and (_HS_BEFORE.search(before) or ("." in value and not is_cued)):
        return True
    if is_cued or _LONG_GROUP.search(value):  # no room has such a number; a phone may follow a room
        return False
    words = ("several before", "one before", *(("measured before",) if _DECIMAL.fullmatch(value) else ()))
    return any(_WORDS[each].search(before) for each in words)
