"""Find all structured identifiers of a text: by form, by label, and by length.

Patterns run on normalised text, so one pattern covers Latin and Arabic digits and text with diacritics. A finding is
the value without its label.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sovereign_pipeline.policy.corpus import PhoneRegions
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.forms import (
    CODES,
    DIGITS_OF_A_NATIONAL_ID,
    FORMS,
    Form,
    address_spans,
    clues,
    code_spans,
    count_of_digits,
    form_spans,
    is_valid_phone,
)
from sovereign_pipeline.privacy.identifiers.labels import (
    LABELS,
    LINK_AND_HALVES,
    Label,
    LabelFound,
    labels_in,
    small_letters,
)
from sovereign_pipeline.privacy.identifiers.numbers import (
    AROUND,
    is_complete,
    is_of_something_else,
    long_numbers,
    separated_numbers,
    without_file_numbers,
)
from sovereign_pipeline.privacy.identifiers.tables import (
    counts_in_columns,
    identifiers_before_their_label,
    identifiers_in_columns,
    labelled_spans,
    with_cells_apart,
)
from sovereign_pipeline.privacy.spans import PLACEHOLDER, Span, value_key, without_overlaps

RECOGNIZERS: tuple[Form | Label, ...] = (*FORMS, *LABELS, *CODES)
_PLACEHOLDER = re.compile(rf"{PLACEHOLDER.pattern}{{1,3}}(?!\d)")
_FIGURES: tuple[Kind, ...] = ("PHONE", "NID", "ACCOUNT", "SSN", "CARD", "IBAN", "PO_BOX")
"""Kinds that a figure could be mistaken for."""


def structured_spans(text: str, also: frozenset[Kind] = frozenset(), regions: PhoneRegions = AROUND) -> list[Span]:
    """Return every structured identifier of a normalised text, without overlaps, in reading order.

    The text is searched twice: for identifiers in their usual form, and with stricter patterns that also match unusual
    forms. A usual finding wins if it is complete. If it is only a part of a complete strict finding, the strict finding
    wins.

    Args:
        also: the kinds of `KEPT_BY_DEFAULT` to detect too.
        regions: regions of phone numbers without a prefix.
    """
    small = small_letters(text)
    labels = labels_in(small)
    has = clues(text, small)
    plain = with_cells_apart(without_file_numbers(text)) if "five digits" in has else ""
    found = [
        *form_spans(text, small, has, also),
        *code_spans(text),
        *labelled_spans(text, labels),
        *long_numbers(plain),
        *(address_spans(text) if "a digit" in has else ()),
        *(identifiers_before_their_label(text, labels) if labels and "a digit" in has else ()),
        *(identifiers_in_columns(text, labels) if labels and "a digit" in has and "\n" in text else ()),
    ]
    strict = [
        *form_spans(text, small, has, strict=True),
        *_halves(text, labels),
        *(separated_numbers(text, plain, labels, regions) if plain else ()),
    ]
    usual = without_overlaps(found)
    spans = _joined(usual, strict, regions) if strict else usual
    if any(_may_be_a_figure(span) for span in spans):
        counts = counts_in_columns(text) if "\n" in text else []
        spans = [span for span in spans if not (_may_be_a_figure(span) and _is_a_figure(text, span, counts))]
    return spans if regions.valid == AROUND.valid else [_as_a_phone(span, regions.valid) for span in spans]


def leftovers(text: str, regions: PhoneRegions = AROUND) -> list[Span]:
    """Return the identifiers in a scrubbed, normalised text."""
    return structured_spans(without_placeholders(text), regions=regions)


def without_placeholders(text: str) -> str:
    """Replace each placeholder by letters of the same length, which cannot be part of a number."""
    return _PLACEHOLDER.sub(lambda placeholder: "x" * len(placeholder.group()), text)


def _may_be_a_figure(span: Span) -> bool:
    return not span.labelled and span.kind in _FIGURES


def _is_a_figure(text: str, span: Span, counts: Sequence[tuple[int, int]]) -> bool:
    is_counted = any(start <= span.start and span.end <= end for start, end in counts)
    return is_counted or is_of_something_else(text, span)


def _as_a_phone(span: Span, regions: Iterable[str]) -> Span:
    """Return the span as a PHONE if only its length determined its kind and it is valid in one of the regions."""
    is_one = span.by_length and span.kind in ("NID", "ACCOUNT") and is_valid_phone(span.key, regions)
    return replace(span, kind="PHONE", key=value_key("PHONE", span.key)) if is_one else span


def _halves(text: str, labels: Iterable[LabelFound]) -> Iterable[Span]:
    """Yield the labelled numbers of eight digits that arithmetic signs, "and" or a currency split."""
    for label, _, end in labels:
        halves = LINK_AND_HALVES.match(text, end) if label.halves else None
        if halves and count_of_digits(halves["value"]) == DIGITS_OF_A_NATIONAL_ID:
            key = value_key(label.kind, halves["value"])
            yield Span(*halves.span("value"), label.kind, key, by_length=True)


def _joined(usual: Sequence[Span], strict: Iterable[Span], regions: PhoneRegions) -> list[Span]:
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


def _is_part_of(usual: Span, strict: Span, regions: PhoneRegions) -> bool:
    """Return whether a usual finding is a part of a complete strict finding, such as the first line of a number that
    continues in the next line."""
    if usual.kind == strict.kind == "EMAIL":
        return strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    inside = strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    certain = strict.kind in ("IBAN", "CARD") and is_complete(strict.kind, strict.key)  # by its check digits
    is_whole = is_complete(strict.kind, strict.key, regions) and not is_complete(usual.kind, usual.key, regions)
    return inside and (certain or is_whole)
