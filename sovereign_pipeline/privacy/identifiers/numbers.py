"""Find long unlabelled numbers, and numbers with unusual separators or line breaks.

Exported letters break lines anywhere, quote one another with `> `, and use people's numbers in file names. A number
that is missed cannot be removed later, so every long number is replaced unless it is a date, an amount, a list or a
measurement.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from stdnum import luhn

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.labels import (
    SPOKEN,
    UP_TO_A_NUMBER,
    LabelFound,
    labels_between,
    labels_in,
    small_letters,
)
from sovereign_pipeline.privacy.identifiers.patterns import (
    DIGITS_OF_A_NATIONAL_ID,
    END,
    MONTH,
    NOT_AN_AMOUNT,
    UNIT,
    count_of_digits,
    is_date_or_years,
    is_omani_phone,
)
from sovereign_pipeline.privacy.identifiers.phones import (
    AROUND,
    Regions,
    bracketed_machines,
    has_cue,
    ibans,
    phones,
    prefixed_phones,
)
from sovereign_pipeline.privacy.spans import Span, value_key

# --- long numbers -----------------------------------------------------------------------------------------------------

# With a year and at most six digits: a longer number of this shape may be a person's.
_FILE_NUMBER = re.compile(r"\b[A-Z]{2,6}([/-])(?:19|20)\d\d\1\d{1,6}\b")
_LONGEST_LABEL_OF_FILE_NUMBER = 60
# Of a file: "IMG_20240315_142233.jpg", "scan-20240315.pdf".
_DATE_IN_A_FILE_NAME = re.compile(
    r"(?<!\d)(?:(?:19[89]|20[0-3])\d[01]\d[0-3]\d|[0-3]\d[01]\d20[0-3]\d)(?:[_T-]?[0-2]\d[0-5]\d[0-5]?\d?)?(?!\d)"
    r"(?=[\w-]{0,40}\.(?:pdf|docx?|xlsx?|pptx?|jpe?g|png|gif|tiff?|heic|mp[34]|mov|wav|opus|txt|csv|zip|eml|msg|html?|md)\b)"
)
_TIMESTAMP = re.compile(r"(?<![\d-])(?:19|20)\d\d-[01]\d-[0-3]\d[ T][0-2]?\d:[0-5]\d(?::[0-5]\d)?")
_DATE_IN_WORDS = re.compile(rf"(?=[JFMASOND]){MONTH}[ -]\d{{1,2}},?[ -](?:19|20)\d\d(?!\d)")
# UUIDs, and digests and tokens in hexadecimal digits, whose digits and letters alternate.
_HEXADECIMAL = re.compile(
    r"(?=[0-9A-Fa-f-]{16})(?<![^\W_])(?i:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|(?=(?:[0-9]*[a-f]+){3})(?=(?:[a-f]*[0-9]+){3})[0-9a-f]{16,})(?![^\W_])"
)
_LONG_NUMBER = re.compile(rf"(?<!\w){NOT_AN_AMOUNT}(?:\d{{8,}}|\d{{2,}}(?:[ -]\d{{2,}})+){END}")
# Next to letters, as in web addresses and in tables without separators.
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
_FRACTION_WITH_COMMA = re.compile(
    r",\d{1,3}(?!\d|[.,-]\d)"
)  # may also be the next cell, so it is ignored for eight digits
_FRACTION_BEFORE = re.compile(r"(?<![\d.])\d{1,3}\.\Z")


def long_numbers(plain: str) -> Iterator[Span]:
    """Yield every long run of digits, also next to letters: a NID if it has eight digits, otherwise an ACCOUNT.

    Args:
        plain: normalised text without file numbers and timestamps (`without_file_numbers`).
    """
    for match in _LONG_NUMBER.finditer(plain):
        if count_of_digits(match.group()) >= DIGITS_OF_A_NATIONAL_ID and not is_date_or_years(match.group()):
            yield _long_number_span(match)
    for match in _GLUED_NUMBER.finditer(plain):
        yield _long_number_span(match)


def numbers_beside_digits(plain: str, start: int, end: int) -> Iterator[Span]:
    """Yield the long numbers in plain[start:end] that `long_numbers` skips because of adjacent digits, without
    amounts. An amount has a currency beside it or a fraction other than zero. A whole number that a table wrote as
    10457832.0 is not an amount."""
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
    """Replace the institution's own file numbers and timestamps by `#`, at the same length. Labelled values are not
    replaced."""
    text = _FILE_NUMBER.sub(lambda match: match.group() if _has_label(match) else "#" * len(match.group()), text)
    for pattern in (_TIMESTAMP, _DATE_IN_A_FILE_NAME, _DATE_IN_WORDS, _HEXADECIMAL):
        text = pattern.sub(lambda match: "#" * len(match.group()), text)
    return text


def _has_label(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _LONGEST_LABEL_OF_FILE_NUMBER) : match.start()]
    return any(UP_TO_A_NUMBER.fullmatch(before, found.end) for found in labels_in(small_letters(before)))


def _long_number_span(match: re.Match[str]) -> Span:
    kind = _kind(match.group())
    return Span(match.start(), match.end(), kind, value_key(kind, match.group()), labelled=False, by_length=True)


def _kind(value: str) -> Kind:
    return "NID" if count_of_digits(value) == DIGITS_OF_A_NATIONAL_ID else "ACCOUNT"


# --- numbers in words -------------------------------------------------------------------------------------------------

_IN_WORDS = re.compile(SPOKEN, re.IGNORECASE)
_FEWEST_IN_WORDS = 7
_UNIT = re.compile(r"[^\W\d_]+")
_ORDER = (
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
    ["صفر", "واحد", "اثنان", "ثلاثة", "اربعة", "خمسة", "ستة", "سبعة", "ثمانية", "تسعة"],
)


def has_spoken_digits(small: str) -> bool:
    """Return whether a lower-case text may contain a number in words."""
    return sum(map(small.__contains__, _COMMON_DIGITS)) > 1


_COMMON_DIGITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "elev", "ty", "oh", "double",
    "صفر", "واحد", "اثن", "ثلاث", "اربع", "خمس", "ست", "سبع", "ثما", "تسع",
)  # fmt: skip


def spoken_numbers(text: str) -> Iterator[Span]:
    """Yield the numbers in words with at least seven digits, without those that count up."""
    for match in _IN_WORDS.finditer(text):
        words = _UNIT.findall(match.group().lower().translate(str.maketrans("أإ", "اا")))
        digits = len(words) + sum(
            word.endswith(("ty", "teen")) or word in ("ten", "eleven", "twelve", "double") for word in words
        )
        counts = any(" ".join(words) in " ".join(order[::step]) for order in _ORDER for step in (1, -1))
        if digits >= _FEWEST_IN_WORDS and not counts:
            kind: Kind = (
                "PHONE" if has_cue(text, *match.span()) else "NID" if digits == DIGITS_OF_A_NATIONAL_ID else "ACCOUNT"
            )
            yield Span(*match.span(), kind, value_key(kind, match.group()), labelled=False, by_length=True)


# --- numbers in unusual separators ------------------------------------------------------------------------------------

# A percent or currency sign, an operator or "@" ends a number; anything else except letters may be inside one.
_GAP = r"(?:[^\w\t%€£$¥=+×÷<≤≥±°@&]|_){1,14}"
_CHAIN = re.compile(rf"\d+(?:{_GAP}\d+)*")
_USUAL_GAPS = frozenset({" ", "-"})
_ODD = re.compile(r"[_|\\/~*•·>\"'“”«»\[\](){}#]|\s{2,}|\n")
_SENTENCE_ENDS = re.compile(r"[.;!?,:]\s|\n[\s>|]*\n")
_YEAR = re.compile(r"(?:19|20)\d\d\Z")
_DATE = re.compile(
    r"(?:\d{1,2}[-/. ]{1,3}\d{1,2}[-/. ]{1,3}(?:19|20)?\d\d|(?:19|20)\d\d[-/. ]{1,3}\d{1,2}[-/. ]{1,3}\d{1,2}"
    r"|[0-3]?\d[-/.][01]?\d[-/.]1[34]\d\d|1[34]\d\d[-/.][01]?\d[-/.][0-3]?\d)"  # after the Hijra
    r"(?:[ T,]{1,3}\d{1,2}[:.]\d\d(?:[:.]\d\d)?)?\Z"
)
_TIMES = re.compile(r"[0-2]?\d[:.][0-5]\d(?:[:.][0-5]\d)?(?:\s?[-–]\s?[0-2]?\d[:.][0-5]\d)?\Z")
_AMOUNT = re.compile(r"\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?\Z|(?!\d{5,}\.0\Z)\d+[.,]\d{1,3}\Z")
_FILE_SIGN_BEFORE = re.compile(r"(?<!\w)[A-Za-z]{2,6}[/_-]\Z")
_CAPITALS_BEFORE = re.compile(r"(?<![A-Za-z])(?:[A-Za-z][\W_]{0,2}){1,3}[\W_]{0,2}\Z")
# Words before a number that show that it is not a person's.
_COUNTED_BEFORE = re.compile(
    r"(?:(?i:(?<!\w)(?:rooms?|sections?|plots?|articles?|ratio|blocks?|berths?|our letter|your letter)"
    r"(?: (?:no\.?|numbers?))?)|(?:كتابكم|كتابنا|القطعة|قطعة) رقم):? ?\Z"
)

# Digits of a labelled number: the counts that are certain, then the minimum and the maximum.
# By the shape of the label's values in `labels.py`.
_DIGITS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "id number": ((8,), 7, 15), "passport": ((7, 8), 5, 9), "account": ((), 7, 20), "register": ((7,), 5, 10),
    "card": ((16, 15), 12, 19), "phone": ((8, 11, 13), 7, 13), "social security": ((9,), 9, 9),
    "licence": ((8,), 5, 14),
}  # fmt: skip
_LONGEST_LABEL = 90
_NEXT_IN_A_LIST = 20
"""Maximum difference between neighbouring numbers of a list."""


@dataclass(frozen=True)
class _Group:
    start: int
    end: int
    digits: str
    gap: str
    """Text between this group and the next; empty for the last group."""


def separated_numbers(text: str, plain: str, labels: Sequence[LabelFound], regions: Regions = AROUND) -> Iterator[Span]:
    """Yield the numbers of a normalised text with unusual separators or across lines. Spans may overlap.

    Args:
        plain: the same text without file numbers and timestamps (`without_file_numbers`).
        labels: the labels in the text.
    """
    yield from prefixed_phones(text)
    yield from bracketed_machines(text)
    for chain in _CHAIN.finditer(plain):
        found = [*ibans(text, chain), *_in_chain(text, plain, chain, labels)]
        yield from found
        if not any(
            span.kind in ("IBAN", "CARD") for span in found
        ):  # part of an IBAN or card number could look like a phone
            yield from phones(plain, *chain.span(), regions)


def _in_chain(text: str, plain: str, chain: re.Match[str], labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield the numbers in a chain of digit groups, which are separated by anything but letters."""
    if chain.end() - chain.start() < 5:
        return
    if not chain.group().isdigit():
        yield from numbers_beside_digits(plain, *chain.span())
    if _is_ordinary(chain.group()):
        return
    groups = _groups(chain)
    if sum(len(group.digits) for group in groups) < 5:
        return
    labelled = _labelled(text, groups, labels)
    if labelled is not None:
        yield labelled
    if len(groups) > 1 and not _COUNTED_BEFORE.search(plain[max(0, chain.start() - 30) : chain.start()]):
        yield from _by_shape(plain, groups)


# --- labels ----------------------------------------------------------------------------------------------------------


def _labelled(text: str, groups: Sequence[_Group], labels: Sequence[LabelFound]) -> Span | None:
    """Return the number at the start of a chain if a label precedes it."""
    capitals = _CAPITALS_BEFORE.search(text, max(0, groups[0].start - 8), groups[0].start)
    sign = _FILE_SIGN_BEFORE.search(text, max(0, groups[0].start - 8), groups[0].start)
    starts = [groups[0].start]
    starts += [capitals.start()] if capitals is not None else []
    starts += [sign.start()] if sign is not None else []
    for label, _, end_of_label in reversed(labels_between(labels, starts[0] - _LONGEST_LABEL, starts[0])):
        if label.shape not in _DIGITS:
            continue
        for start in starts:
            if start < end_of_label or not UP_TO_A_NUMBER.fullmatch(text, end_of_label, start):
                continue
            if start != groups[0].start and sign is None and label.shape not in ("passport", "licence"):
                continue
            end = _end_of_value(text, groups, *_DIGITS[label.shape])
            if end is not None:
                is_letters = capitals is not None and start == capitals.start() and label.kind != "NID"
                return _span(text, start if is_letters else groups[0].start, end, label.kind, labelled=True)
    return None


def _end_of_value(text: str, groups: Sequence[_Group], certain: tuple[int, ...], fewest: int, most: int) -> int | None:
    """Return the end of a labelled value with so many digits, always the end of a group: where the number of digits is
    certain, otherwise before the next sentence. Return None if the value is a list, a date, a time or an amount."""
    digits = 0
    end = None
    for group in groups:
        digits += len(group.digits)
        if digits > most:
            break
        if digits in certain:
            end = group.end
            break
        if digits >= fewest:
            end = group.end
            if _SENTENCE_ENDS.search(group.gap):
                break
    within = [group for group in groups if end is not None and group.end <= end]
    is_row = (
        len(within) > 2
        and all(group.gap in (", ", "، ") for group in within[:-1])
        and (_is_list(within) or all(map(_is_year, within)))
    )
    if end is None or is_row or _is_ordinary(text[groups[0].start : end]):
        return None
    return end


# --- without a label -------------------------------------------------------------------------------------------------


def _by_shape(text: str, chain: Sequence[_Group]) -> Iterator[Span]:
    """Yield the numbers that their digits and groups alone identify."""
    for place, (first, second) in enumerate(pairwise(chain)):
        is_pair = len(first.digits) == len(second.digits) == 4 and (
            first.gap not in _USUAL_GAPS or (first.gap == " " and _is_parted(chain, place))
        )
        if not is_pair or _is_year(first) or _is_year(second) or _follows(first, second):
            continue
        # Another four-digit group beside the pair would make it a column of figures.
        beside = [*chain[max(0, place - 1) : place], *chain[place + 2 : place + 3]]
        if is_omani_phone(first.digits + second.digits) and all(len(group.digits) != 4 for group in beside):
            yield _span(text, first.start, second.end, "PHONE")
    for groups in _sentences(chain):
        kind = _kind_of(text, groups)
        if kind is not None:
            yield _span(text, groups[0].start, groups[-1].end, kind)


def _is_parted(chain: Sequence[_Group], place: int) -> bool:
    """Return whether punctuation separates two groups from their neighbours: "1.9234 1187", "10:30,9234 1187"."""
    gaps = [each.gap for each in (*chain[max(0, place - 1) : place], chain[place + 1])]
    return any(gaps) and all(gap.strip() or not gap for gap in gaps)


def _sentences(chain: Sequence[_Group]) -> Iterator[Sequence[_Group]]:
    """Yield the pieces of a chain, split where a sentence or a list entry ends."""
    begun = 0
    for number, group in enumerate(chain[:-1]):
        if _SENTENCE_ENDS.search(group.gap):
            yield chain[begun : number + 1]
            begun = number + 1
    yield chain[begun:]
    if begun:
        yield chain


def _kind_of(text: str, groups: Sequence[_Group]) -> Kind | None:
    digits = "".join(group.digits for group in groups)
    gaps = [group.gap for group in groups[:-1]]
    lengths = [len(group.digits) for group in groups]
    written = text[groups[0].start : groups[-1].end]
    if lengths == [1] * DIGITS_OF_A_NATIONAL_ID and max(map(len, gaps)) <= 3 and not {", ", "، "} & set(gaps):
        return None if digits[0] == "0" or len(set(digits)) < 4 or _counts_up(digits) else _eight(digits)
    if gaps and _is_card(digits, lengths, gaps):
        return "CARD"
    in_a_name = "_" in text[max(0, groups[0].start - 1) : groups[0].start] + text[groups[-1].end : groups[-1].end + 1]
    if not gaps or _is_ordinary(written) or (all(gap in _USUAL_GAPS for gap in gaps) and not in_a_name):
        return None
    if any(map(_is_year, groups)) or _is_column(text, groups) or _is_list(groups):
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
    """Return the kind of an eight-digit number: PHONE if the Omani numbering plan contains it, otherwise NID."""
    return "PHONE" if is_omani_phone(digits) else "NID"


def _is_card(digits: str, lengths: Sequence[int], gaps: Sequence[str]) -> bool:
    ends = set(accumulate(lengths[:-1]))
    grouped = ends <= {4, 8, 12, 16} or ends <= {4, 10} or set(lengths) == {1}  # as printed on cards
    return (
        13 <= len(digits) <= 19
        and digits[0] in "3456"
        and grouped
        and sum("\n" in gap for gap in gaps) <= 1
        and len(set(digits)) > 1
        and bool(luhn.is_valid(digits))
    )


# --- what is something else ------------------------------------------------------------------------------------------


def _is_ordinary(written: str) -> bool:
    """Return whether a number is a date, a period, a time or an amount."""
    return is_date_or_years(written) or any(pattern.match(written) for pattern in (_DATE, _TIMES, _AMOUNT))


def _is_year(group: _Group) -> bool:
    return _YEAR.match(group.digits) is not None


def _is_column(text: str, groups: Sequence[_Group]) -> bool:
    """Return whether the groups are a column of figures: they span lines, and nothing but figures precedes them in
    their first line."""
    if not any("\n" in group.gap for group in groups[:-1]):
        return False
    line = text[text.rfind("\n", 0, groups[0].start) + 1 : groups[0].start]
    return re.search(r"[^\W\d_]", line) is None


def _is_list(groups: Sequence[_Group]) -> bool:
    """Return whether the groups are a list of at least three slowly rising numbers, such as "berths 101/102/103"."""
    return len(groups) > 2 and all(_follows(before, after) for before, after in pairwise(groups))


def _follows(before: _Group, after: _Group) -> bool:
    """Return whether a group may be the next number of a list."""
    if max(len(before.digits), len(after.digits)) > 6:
        return False
    return 0 < int(after.digits) - int(before.digits) <= _NEXT_IN_A_LIST


def _counts_up(digits: str) -> bool:
    steps = {int(after) - int(before) for before, after in pairwise(digits)}
    return len(steps) == 1


# --- text ------------------------------------------------------------------------------------------------------------


def _groups(chain: re.Match[str]) -> list[_Group]:
    numbers = list(re.finditer(r"\d+", chain.group()))
    ends = [*(number.start() for number in numbers[1:]), len(chain.group())]
    return [
        _Group(
            chain.start() + number.start(),
            chain.start() + number.end(),
            number.group(),
            chain.group()[number.end() : following],
        )
        for number, following in zip(numbers, ends, strict=True)
    ]


def _span(text: str, start: int, end: int, kind: Kind, labelled: bool = False) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]), labelled=labelled, by_length=not labelled)


# --- what a number counts or measures ---------------------------------------------------------------------------------

_UNIT_BEHIND = re.compile(rf"(?:[.,]\d{{1,4}})?\s?{UNIT}")
# Other numbers of the same list, and what joins them.
_REST_OF_A_LIST = r"(?:[\s\d.,;:/&()#–-]|\b(?:and|or|to|nos?|numbers?|list|of)\b\.?|و|إلى|رقم|أرقام){0,80}\Z"
# Not offices, shops and desks: a phone may follow one of these.
_ONE = (
    r"rooms?|lockers?|classrooms?|chalets?|wards?|berths?|plots?|sections?|articles?|seats?|booths?|stalls?|gates?|"
    r"parcels?|wells?|bays?|cabins?|channels?|frequenc(?:y|ies)|flights?|pages?|annex(?:es)?|lots?|"
    r"(?:ال)?(?:غرفة|قاعة|قطعة|رصيف|تردد)"
)
_SEVERAL = (
    r"(?:(?:room|office|hall|locker|classroom|chalet|ward|flat|apartment|unit|villa|berth|plot|block|section|article|"
    r"seat|stand|booth|stall|shop|gate|parcel|well|bay|cabin|suite|desk|building|channel|flight|route|road|train|page|"
    r"item|lot|tender|pump|machine|valve|invoice|permit)(?:s| list| numbers| nos\b\.?)|frequencies|buses|"
    r"(?:ال)?(?:غرف|قاعات|مكاتب|قطع|أرصفة|مواد|صفحات|ترددات))"
)
_SEVERAL_BEFORE = re.compile(rf"(?i)(?<!\w){_SEVERAL}(?!\w){_REST_OF_A_LIST}")
_ONE_BEFORE = re.compile(rf"(?i)(?<!\w)(?:{_ONE})(?: (?:no\.?|numbers?|رقم))?:? ?\Z")
_MEASURED_BEFORE = re.compile(
    r"(?i)(?<!\w)(?:rates?|ind(?:ex|ices)|prices?|coefficients?|ratios?|levels?|frequenc(?:y|ies)|bands?|channels?|vhf|uhf|"
    r"tides?|readings?|سعر|أسعار|معدل|مؤشر|تردد|الترددات)(?!\w)[^\n.;!?\d]{0,30}" + _REST_OF_A_LIST
)
_CLASSIFIED_BEFORE = re.compile(
    r"(?i)(?<!\w)(?:(?:H\.?S\.?|harmoni[sz]ed(?: system)?|customs|commodity|CN|tariff) "
    r"(?:(?:sub)?headings?|codes?|items?|lines?|tariffs?)|tariffs?|(?:sub)?headings?|"
    r"(?:ال)?(?:بند|بنود|رمز|رموز) (?:ال)?(?:جمركي|جمركية|منسق)|النظام المنسق)(?!\w)" + _REST_OF_A_LIST
)
_HS_BEFORE = re.compile(r"(?<!\w)HS:? ?\Z")
_HS_FORM = re.compile(r"\d{4}([. -])\d\d\1\d\d(?:\1\d\d)?")
# Of a calculation: "3*33011356 = 101034068".
_CALCULATED_BEFORE = re.compile(r"[\d)%]\s?[=+×÷*]\s?[$€£]?\Z")
_CALCULATED_AFTER = re.compile(r"\)?\s?[=+×÷*]\s?[$€£]?\(?\d")
_FRACTION_OF = re.compile(r"(?:\d\d|(?<!\d)0)\.\Z")
_DECIMAL = re.compile(r"\d{1,6}[.,]\d{2,6}")
_LONG_GROUP = re.compile(r"\d{6}")
_BACK = 120
"""Number of characters before a number that are searched for context."""


def is_of_something_else(text: str, span: Span) -> bool:
    """Return whether the words or the unit beside an unlabelled number show that it is not an identifier."""
    value = text[span.start : span.end]
    if _CALCULATED_BEFORE.search(text, max(0, span.start - 4), span.start) or (
        _CALCULATED_AFTER.match(text, span.end)
        or (value.startswith("+ ") and text[: span.start].rstrip()[-1:].isdigit())
    ):
        return True
    if span.kind in ("CARD", "IBAN", "PO_BOX"):
        return _FRACTION_OF.search(text, max(0, span.start - 6), span.start) is not None
    if value[0] in "+(" or value.startswith("00"):
        return False
    if _UNIT_BEHIND.match(text, span.end):
        return True
    before = text[max(0, span.start - _BACK) : span.start]
    if _CLASSIFIED_BEFORE.search(before) or (_HS_FORM.fullmatch(value) and _HS_BEFORE.search(before)):
        return True
    if has_cue(text, span.start, span.end):
        return False
    if _HS_FORM.fullmatch(value) and "." in value:
        return True
    if _DECIMAL.fullmatch(value) and _MEASURED_BEFORE.search(before):
        return True
    if _LONG_GROUP.search(value):
        return False  # rooms have no such numbers, and a phone may follow a room
    return bool(_SEVERAL_BEFORE.search(before) or _ONE_BEFORE.search(before))
