"""Define the table of recognizers of structured identifiers, and run it over a text.

Patterns run on normalised text, so one pattern covers Latin and Arabic digits and text with diacritics. A finding is
the value without its label.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, Kind
from sovereign_pipeline.privacy.identifiers import addresses, labels, patterns
from sovereign_pipeline.privacy.identifiers.addresses import address_spans
from sovereign_pipeline.privacy.identifiers.forms import FORMS, Form, spans_by_form
from sovereign_pipeline.privacy.identifiers.labels import (
    LABELS,
    LINK_AND_HALVES,
    Label,
    LabelFound,
    labels_in,
    small_letters,
)
from sovereign_pipeline.privacy.identifiers.numbers import (
    has_spoken_digits,
    is_of_something_else,
    long_numbers,
    separated_numbers,
    spoken_numbers,
    without_file_numbers,
)
from sovereign_pipeline.privacy.identifiers.patterns import AT_A_HOST, AT_IN_WORDS, DIGITS_OF_A_NATIONAL_ID
from sovereign_pipeline.privacy.identifiers.phones import (
    AROUND,
    Regions,
    has_country_of_an_iban,
    is_complete,
    is_valid_phone,
)
from sovereign_pipeline.privacy.identifiers.tables import (
    counts_in_columns,
    identifiers_before_their_label,
    identifiers_in_columns,
    labelled_spans,
    with_cells_apart,
)
from sovereign_pipeline.privacy.spans import PLACEHOLDER, Span, value_key, without_overlaps

Clue = Literal["a digit", "five digits", "an @", "an at in words", "anything"]
_PLACEHOLDER = re.compile(rf"{PLACEHOLDER.pattern}{{1,3}}(?!\d)")
_DIGIT = re.compile("[0-9]")
_FIVE_DIGITS = re.compile(r"\d(?:[\W_]{0,14}\d){4}")


def _always(value: str) -> bool:
    return True


def _has_eight_digits(value: str) -> bool:
    return patterns.count_of_digits(value) == DIGITS_OF_A_NATIONAL_ID


def _has_country_and_digits_of_an_iban(value: str) -> bool:
    return patterns.count_of_digits(value) >= 10 and has_country_of_an_iban(value)


def _never(value: str) -> bool:
    return False


@dataclass(frozen=True)
class Recognizer:
    """A pattern that finds values of one kind. The value is the named group that matched, or the whole match."""

    kind: Kind
    pattern: re.Pattern[str]
    accepts: Callable[[str], bool] = _always
    """Predicate that returns whether a matched value is of this kind."""
    is_certain: Callable[[str], bool] = _always
    """Predicate that returns whether the label or check digits make the kind certain (`Span.labelled`)."""
    needs: Clue = "a digit"
    """Clue that a text must contain before the pattern runs. Most texts contain no identifier."""
    signs: tuple[str, ...] = ()
    """Lower-case substrings, one of which the text must contain too; empty if the pattern has no words."""
    by: Literal["label", "check digits", "form"] = "form"
    """Evidence by which the pattern determines the kind."""

    def may_find(self, small: str) -> bool:
        """Return whether a text may contain a value, by the substrings of its lower-case form."""
        return not self.signs or any(map(small.__contains__, self.signs))

    def spans(self, text: str) -> Iterator[Span]:
        """Yield every value of a normalised text, in reading order."""
        for match in self.pattern.finditer(text):
            group = match.lastgroup or 0
            value = match[group]
            if self.accepts(value):
                yield Span(*match.span(group), self.kind, value_key(self.kind, value), self.is_certain(value))


_PATTERNS: tuple[Recognizer, ...] = (
    Recognizer("CREDENTIAL", patterns.JSON_WEB_TOKEN, needs="anything", signs=("eyj",)),
    Recognizer("CREDENTIAL", patterns.PRIVATE_KEY, needs="anything", signs=("private key",)),
    Recognizer("CREDENTIAL", patterns.CODE_TO_ENTER, signs=("enter", "use", "type", "input"), by="label"),
    Recognizer("CREDENTIAL", patterns.IN_A_QUERY, signs=patterns.SIGNS_OF_QUERIES),
    Recognizer("CREDENTIAL", patterns.IN_AN_ADDRESS, needs="an @", signs=("://",)),
    Recognizer(
        "CREDENTIAL",
        patterns.BY_LABEL,
        patterns.looks_like_a_credential,
        needs="anything",
        signs=patterns.SIGNS_OF_LABELS,
        by="label",
    ),
    Recognizer("COORDINATES", addresses.IN_DEGREES, signs=("°",)),
    Recognizer("COORDINATES", addresses.DECIMAL_PAIR, addresses.is_a_place, needs="five digits"),
    Recognizer(
        "COORDINATES", addresses.PAIR_BY_LABEL, addresses.is_on_the_globe, signs=addresses.SIGNS_OF_LABELS, by="label"
    ),
    Recognizer("COORDINATES", addresses.BY_LABEL, signs=addresses.SIGNS_OF_LABELS, by="label"),
    Recognizer("PHONE", labels.REACHED_AT, signs=labels.SIGNS_OF_REACHING, by="label"),
    *(
        Recognizer("ADDRESS", pattern, signs=labels.SIGNS_OF_ADDRESSES, by="label")
        for pattern in labels.LOCAL_ADDRESSES
    ),
    Recognizer("PLATE", labels.PLATE_BY_FORM),
    Recognizer(
        "DATE_OF_BIRTH",
        labels.MONTH_OR_YEAR_OF_BIRTH,
        labels.is_when,
        signs=labels.SIGNS_OF_BIRTH,
        by="label",
    ),
    Recognizer("CARD", patterns.MASKED_BY_LABEL, signs=patterns.SIGNS_OF_A_MASK, by="label"),
    Recognizer("CARD", patterns.MASKED, signs=patterns.SIGNS_OF_A_MASK),
    Recognizer("CARD", patterns.EXPIRY, signs=patterns.SIGNS_OF_EXPIRY, by="label"),
    Recognizer("CREDENTIAL", patterns.CODE_AFTER_EXPIRY, needs="five digits"),
    Recognizer("CARD", patterns.LAST_DIGITS, signs=patterns.SIGNS_OF_LAST_DIGITS, by="label"),
    Recognizer("PLATE", labels.VESSEL_NUMBER, signs=labels.SIGNS_OF_VESSELS, by="label"),
    Recognizer("EMAIL", patterns.EMAIL, needs="an @"),
    Recognizer(
        "IBAN",
        patterns.IBAN,
        _has_country_and_digits_of_an_iban,
        patterns.has_iban_check_digits,
        needs="five digits",
        by="check digits",
    ),
    Recognizer(
        "CARD", patterns.CARD_NUMBER, patterns.has_card_check_digit, _never, by="check digits", needs="five digits"
    ),
    Recognizer("PHONE", patterns.PREFIXED_PHONE, is_certain=_never, needs="five digits"),
    Recognizer("PHONE", patterns.LOCAL_PHONE, patterns.is_omani_phone, _never, needs="five digits"),
    Recognizer("PO_BOX", patterns.ZIP_PLUS_FOUR, is_certain=_never, needs="five digits"),
    Recognizer("PHONE", patterns.GROUPED_PHONE, patterns.is_grouped_phone, _never, needs="five digits"),
    Recognizer("PHONE", patterns.PHONE_BEFORE_ITS_LABEL, patterns.is_no_date, by="label", needs="five digits"),
    Recognizer("PASSPORT", patterns.PASSPORT_SHAPE, is_certain=_never, needs="five digits"),
    Recognizer("SSN", patterns.SSN, is_certain=_never, needs="five digits"),
    Recognizer("IP", patterns.IP_V4),
    Recognizer("IP", patterns.IP_V6),
    Recognizer("DATE", patterns.ANY_DATE, is_certain=_never),
    Recognizer("AGE", patterns.AGE),
    Recognizer("URL", patterns.URL, is_certain=_never, needs="anything"),
)
RECOGNIZERS: tuple[Recognizer | Label | Form, ...] = (*_PATTERNS, *LABELS, *FORMS)


@cache
def _by_clue() -> dict[Clue, tuple[Recognizer, ...]]:
    """Return the recognizers by what they need, with those of services' keys, whose patterns are loaded only now."""
    of_services = (
        Recognizer("CREDENTIAL", pattern, needs="anything", signs=signs) for pattern, signs in patterns.of_services()
    )
    every = (*of_services, *_PATTERNS)
    return {clue: tuple(each for each in every if each.needs == clue) for clue in get_args(Clue)}


# Weak evidence only: any other finding takes precedence.
STRICT_RECOGNIZERS: tuple[Recognizer, ...] = (
    Recognizer("EMAIL", patterns.SEPARATED_EMAIL, is_certain=_never, needs="an @"),
    Recognizer("EMAIL", patterns.STRICT_EMAIL, is_certain=_never, needs="an @"),
    Recognizer("EMAIL", patterns.CLIPPED_EMAIL, is_certain=_never, needs="an @"),
    Recognizer("EMAIL", patterns.LETTER_BY_LETTER_EMAIL, is_certain=_never, needs="an @"),
    Recognizer("EMAIL", patterns.PROFILE, is_certain=_never, needs="anything", signs=patterns.SIGNS_OF_PROFILES),
    Recognizer("EMAIL", patterns.HASHTAG, is_certain=_never, needs="anything", signs=("#",)),
    Recognizer("EMAIL", patterns.HANDLE, is_certain=_never, needs="an @"),
    Recognizer("EMAIL", patterns.MISREAD_EMAIL, is_certain=_never, needs="anything", signs=patterns.SIGNS_MISREAD),
    Recognizer("EMAIL", patterns.BRACKETED_EMAIL, is_certain=_never, needs="an at in words"),
    Recognizer("IBAN", patterns.STRICT_IBAN, has_country_of_an_iban, is_certain=_never, needs="five digits"),
    Recognizer("PHONE", patterns.PHONE_AFTER_ITS_FIRST_DIGIT, patterns.is_omani_phone, _never, needs="five digits"),
)


def structured_spans(text: str, also: frozenset[Kind] = frozenset(), regions: Regions = AROUND) -> list[Span]:
    """Return every structured identifier of a normalised text, without overlaps, in reading order.

    The text is searched twice: for identifiers in their usual form, and with stricter patterns that also match unusual
    forms. A usual finding wins if it is complete. If it is only a part of a complete strict finding, the strict finding
    wins.

    Args:
        also: the kinds of `KEPT_BY_DEFAULT` to detect too.
        regions: regions of phone numbers without a prefix.
    """
    small = small_letters(text)
    clues = _clues(text, small)
    found = [
        span
        for clue in clues
        for recognizer in _by_clue()[clue]
        if recognizer.may_find(small) and (recognizer.kind not in KEPT_BY_DEFAULT or recognizer.kind in also)
        for span in recognizer.spans(text)
    ]
    plain = with_cells_apart(without_file_numbers(text)) if "a digit" in clues else ""
    of_labels = labels_in(small)
    if plain:
        found += [
            Span(start, end, "ADDRESS", value_key("ADDRESS", text[start:end])) for start, end in address_spans(text)
        ]
        found += long_numbers(plain) if "five digits" in clues else ()
    if has_spoken_digits(small):
        found += spoken_numbers(text)
    found += spans_by_form(text)
    found += labelled_spans(text, of_labels)
    if of_labels and plain:
        found += identifiers_before_their_label(text, of_labels)
        if "\n" in text:
            found += identifiers_in_columns(text, of_labels)
    usual = without_overlaps(found)
    strict = _strictly(text, plain, clues, small, of_labels, regions)
    spans = _joined(usual, strict, regions) if strict else usual
    if any(map(_may_be_a_figure, spans)):
        counted = counts_in_columns(text) if "\n" in text else []
        spans = [span for span in spans if not (_may_be_a_figure(span) and _is_a_figure(text, span, counted))]
    return spans if regions.valid == AROUND.valid else [_as_a_phone(span, regions.valid) for span in spans]


def _may_be_a_figure(span: Span) -> bool:
    return not span.labelled and span.kind in ("PHONE", "NID", "ACCOUNT", "SSN", "CARD", "IBAN", "PO_BOX")


def _is_a_figure(text: str, span: Span, counted: Sequence[tuple[int, int]]) -> bool:
    is_counted = any(start <= span.start and span.end <= end for start, end in counted)
    return is_counted or is_of_something_else(text, span)


def _as_a_phone(span: Span, regions: Iterable[str]) -> Span:
    """Return the span as a PHONE if only its length determined its kind and it is valid in one of the regions."""
    is_one = span.by_length and span.kind in ("NID", "ACCOUNT") and is_valid_phone(span.key, regions)
    return replace(span, kind="PHONE", key=value_key("PHONE", span.key)) if is_one else span


def _strictly(
    text: str, plain: str, clues: set[Clue], small: str, of_labels: Sequence[LabelFound], regions: Regions
) -> list[Span]:
    found = [
        replace(span, by_length=True)
        for recognizer in STRICT_RECOGNIZERS
        if recognizer.needs in clues and recognizer.may_find(small)
        for span in recognizer.spans(text)
    ]
    for label, _, end in of_labels:
        halves = LINK_AND_HALVES.match(text, end) if label.halves else None
        if halves and _has_eight_digits(halves["value"]):
            key = value_key(label.kind, halves["value"])
            found.append(Span(*halves.span("value"), label.kind, key, by_length=True))
    return [*found, *separated_numbers(text, plain, of_labels, regions)] if "five digits" in clues else found


def _joined(usual: Sequence[Span], strict: Iterable[Span], regions: Regions) -> list[Span]:
    """Return the merged findings of both searches, without overlaps."""
    added: list[Span] = []
    replaced: set[Span] = set()
    for span in strict:
        first = bisect_right(usual, span.start, key=lambda each: each.end)
        beside = usual[first : bisect_left(usual, span.end, first, key=lambda each: each.start)]
        if all(_is_part_of(each, span, regions) for each in beside):
            added.append(span)
            replaced.update(beside)
    return without_overlaps([*(each for each in usual if each not in replaced), *without_overlaps(added)])


def _is_part_of(usual: Span, strict: Span, regions: Regions) -> bool:
    """Return whether a usual finding is a part of a complete strict finding, such as the first line of a number that
    continues in the next line."""
    if usual.kind == strict.kind == "EMAIL":
        return strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    inside = strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    certain = strict.kind in ("IBAN", "CARD") and is_complete(strict.kind, strict.key)  # by its check digits
    is_whole = is_complete(strict.kind, strict.key, regions) and not is_complete(usual.kind, usual.key, regions)
    return inside and (certain or is_whole)


def leftovers(text: str, regions: Regions = AROUND) -> list[Span]:
    """Return the identifiers in a scrubbed, normalised text."""
    return structured_spans(without_placeholders(text), regions=regions)


def without_placeholders(text: str) -> str:
    """Replace each placeholder by letters of the same length, which cannot be part of a number."""
    return _PLACEHOLDER.sub(lambda placeholder: "x" * len(placeholder.group()), text)


def _clues(text: str, small: str) -> set[Clue]:
    """
    Args:
        small: the text in lower case.
    """
    clues: set[Clue] = {"anything"}
    if any(sign in small for sign in AT_IN_WORDS) or AT_A_HOST.search(small):
        clues.add("an at in words")
    if "@" in text:
        clues.add("an @")
    if _DIGIT.search(text):
        clues.add("a digit")
        if _FIVE_DIGITS.search(text):
            clues.add("five digits")
    return clues
