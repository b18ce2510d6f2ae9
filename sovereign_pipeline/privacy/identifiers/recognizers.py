"""Find all structured identifiers in a text: by form, by label, and by length.

Patterns run on normalised text, so one pattern covers Latin and Arabic digits and text with diacritics. A finding is
the value without its label.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    section,
)
from sovereign_pipeline.privacy.identifiers.labels import (
    LABELS,
    LINK_AND_HALVES,
    Label,
    LabelFound,
    labels_between,
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
from sovereign_pipeline.privacy.normalisation import rows_of_tables
from sovereign_pipeline.privacy.spans import PLACEHOLDER, Span, value_key, without_overlaps

RECOGNIZERS: tuple[Form | Label, ...] = (*FORMS, *LABELS, *CODES)
_PLACEHOLDER = re.compile(rf"{PLACEHOLDER.pattern}{{1,3}}(?!\d)")
_FIGURES: tuple[Kind, ...] = ("PHONE", "NID", "ACCOUNT", "SSN", "CARD", "IBAN", "PO_BOX")
"""Kinds of identifiers that an amount or a count could be mistaken for."""


def structured_spans(text: str, also: frozenset[Kind] = frozenset(), regions: PhoneRegions = AROUND) -> list[Span]:
    """Return every structured identifier of a normalised text, without overlaps, in reading order.

    The text is searched twice: first for identifiers in their usual form, then with stricter patterns that also match
    unusual forms. A finding of the first search takes precedence, unless it is only a part of a complete finding of the
    second search. Unlabelled amounts and counts are left out.

    Args:
        also: kinds in `KEPT_BY_DEFAULT` that should be detected as well.
        regions: regions in which a phone number without a country prefix may be valid.
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
    """Return the identifiers that are still in a scrubbed, normalised text."""
    return structured_spans(without_placeholders(text), regions=regions)


def without_placeholders(text: str) -> str:
    """Replace each placeholder with letters, which cannot be part of a number. The text's length stays the same."""
    return _PLACEHOLDER.sub(lambda placeholder: "x" * len(placeholder.group()), text)


def _may_be_a_figure(span: Span) -> bool:
    return not span.labelled and span.kind in _FIGURES


def _is_a_figure(text: str, span: Span, counts: Sequence[tuple[int, int]]) -> bool:
    is_counted = any(start <= span.start and span.end <= end for start, end in counts)
    return is_counted or is_of_something_else(text, span)


def _as_a_phone(span: Span, regions: Iterable[str]) -> Span:
    """If the span's kind was determined by its length alone, and if the value is a valid phone number in one of the
    regions, return the span with the kind PHONE. Otherwise return the span unchanged."""
    is_one = span.by_length and span.kind in ("NID", "ACCOUNT") and is_valid_phone(span.key, regions)
    return replace(span, kind="PHONE", key=value_key("PHONE", span.key)) if is_one else span


def _halves(text: str, labels: Iterable[LabelFound]) -> Iterable[Span]:
    """Yield labelled numbers whose eight digits are split by arithmetic signs, "and" or a currency."""
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
    """Return True if a finding of the first search is a part of a complete finding of the second search. Example: the
    first line of a number that continues in the next line."""
    if usual.kind == strict.kind == "EMAIL":
        return strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    inside = strict.start <= usual.start and usual.end <= strict.end and usual.key != strict.key
    certain = strict.kind in ("IBAN", "CARD") and is_complete(strict.kind, strict.key)  # by its check digits
    is_whole = is_complete(strict.kind, strict.key, regions) and not is_complete(usual.kind, usual.key, regions)
    return inside and (certain or is_whole)


# --- labels behind their value ----------------------------------------------------------------------------------------

_VALUE_BEFORE = re.compile(
    r"(?<![\w.,/:+-])(?P<value>(?:[A-Z]{1,3} ?|[A-Z]{1,6}[/-])?\d(?:[ ./-]?\d){3,15}"
    r"|\d{2,5} ?(?:[A-Z]{1,2}|[ء-ي](?: ?[ء-ي])?)"
    r"(?!\w))(?: ?\((?P<bracket>)(?:(?:my|his|her|our|their|your|the) )?"
    r"|(?: ?, ?| - | ?= ?| (?:is|was|being|as) )(?:(?:my|his|her|our|their|your|the|a|its) )?"
    r"|،? (?:هو|هي|وهو|وهي) )(?=[^\W\d_])"
)
_WORD = re.compile(r"[A-Z]\w{1,20} ")
_LABEL_BEFORE = re.compile(
    r"(?i)(?:no\b\.?|number|phone|tel\.?|mobile|passport|card|account|رقم|هاتف)(?: is)?[ :#]{0,3}\Z"
)


def labelled_spans(text: str, labels: Iterable[LabelFound]) -> Iterator[Span]:
    """Yield the values that follow their labels."""
    for label, _, end in labels:
        value = label.value_behind(text, end)
        if value is not None:
            yield _span(text, *value, label.kind)


def identifiers_before_their_label(text: str, labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield values that precede their label, such as "1045 7832 (civil number)"."""
    by_start: dict[int, list[LabelFound]] = {}
    for found in labels:
        by_start.setdefault(found.start, []).append(found)
    for match in _VALUE_BEFORE.finditer(text):
        if match["bracket"] is None and _LABEL_BEFORE.search(text, max(0, match.start() - 20), match.start()):
            continue
        word = _WORD.match(text, match.end())
        behind = [*by_start.get(match.end(), ()), *by_start.get(word.end() if word else -1, ())]
        kind = next((each.label.kind for each in behind if each.label.value.fullmatch(match["value"])), None)
        if kind is not None:
            yield _span(text, *match.span("value"), kind)


# --- columns of tables ------------------------------------------------------------------------------------------------

CELL_END = "\t"
"""Character that ends a cell in `with_cells_apart`. A number never continues across this character."""

_CELLS, _HEADS = ({name: re.compile(pattern) for name, pattern in section(of).items()} for of in ("cells", "heads"))
_RULE = re.compile(r"[-=|:+\t ]*")
_WIDE_GAP = re.compile(r" {2,}")
_LONGEST_HEAD = 300


def with_cells_apart(text: str) -> str:
    """Replace each bar between table cells by `CELL_END`. The text's length stays the same."""
    if "|" not in text or "\n" not in text:
        return text
    lines = text.split("\n")
    return "\n".join(
        line.replace("|", CELL_END) if is_row else line
        for line, is_row in zip(lines, rows_of_tables(lines, "|"), strict=True)
    )


@dataclass
class _Table:
    """Adjacent lines with the same number of cells, under a header row that names at least one identifier or count."""

    delimiter: str
    head: list[str]
    columns: list[tuple[int, Label | None]]
    """(index, label) of each column whose header cell names an identifier or a count; the label of a count is None."""
    rows: list[list[tuple[int, str]]]
    """(offset in the text, content) of each cell, row by row."""


def identifiers_in_columns(text: str, labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield the values in those table columns whose header cell names an identifier."""

    def columns(cells: Sequence[tuple[int, str]]) -> list[tuple[int, Label | None]]:
        if any(character.isdigit() for _, cell in cells for character in cell):
            return []
        of_line = labels_between(labels, cells[0][0], cells[-1][0] + len(cells[-1][1]))
        return [(place, label) for place, cell in enumerate(cells) for label in _heading(*cell, of_line)]

    for table in _tables(text, ("\t", "|", ";", ",", "  "), columns, head_ends=True):
        yield from _in_rows(text, table)


def counts_in_columns(text: str) -> list[tuple[int, int]]:
    """Return the spans of the cells in those table columns whose header cell names a count, a measurement or a year."""

    def columns(cells: Sequence[tuple[int, str]]) -> list[tuple[int, Label | None]]:
        heads = enumerate(cell.strip() for _, cell in cells)
        return [(place, None) for place, head in heads if _HEADS["of a count"].fullmatch(head)]

    cells = [
        row[place]
        for table in _tables(text, ("\t", "|", ";", "  "), columns, head_ends=False)
        for row in table.rows
        for place, _ in table.columns
    ]
    return [(start, start + len(cell)) for start, cell in cells]


def _tables(
    text: str,
    delimiters: Sequence[str],
    columns: Callable[[Sequence[tuple[int, str]]], list[tuple[int, Label | None]]],
    head_ends: bool,
) -> Iterator[_Table]:
    """Yield the tables in a text.

    Args:
        columns: function that returns (index, label) of each column that a line names. It returns an empty list if the
            line is not a header row.
        head_ends: True if the header row of another table ends the current table.
    """
    table: _Table | None = None
    start = 0
    for line in text.split("\n"):
        delimiter = next((each for each in delimiters if each in line.strip(" ")), "")
        cells = _cells(line, delimiter, start) if delimiter and len(line) <= _LONGEST_HEAD else []
        named = columns(cells) if len(cells) > 1 and (head_ends or table is None) else []
        row = _cells(line, table.delimiter, start) if table else []
        if table and line.strip() and not named and _RULE.fullmatch(line):
            pass
        elif table and not named and len(row) == len(table.head):
            table.rows.append(row)
        else:
            if table:
                yield table
            named = named or (columns(cells) if len(cells) > 1 else [])
            table = _Table(delimiter, [cell for _, cell in cells], named, []) if named else None
        start += len(line) + 1
    if table:
        yield table


def _heading(start: int, cell: str, labels: Sequence[LabelFound]) -> Iterator[Label]:
    """Yield those labels that are the whole text of a cell."""
    for label, begin, end in labels:
        around = (cell[: max(0, begin - start)], cell[max(0, end - start) :])
        if start <= begin and end <= start + len(cell) and not any(each.strip("*_#:. ") for each in around):
            yield label


def _cells(line: str, delimiter: str, start: int) -> list[tuple[int, str]]:
    """Return each cell of a line with its offset in the text. The line begins at `start`."""
    gap = _WIDE_GAP if delimiter == "  " else re.compile(re.escape(delimiter))
    begin = len(line) - len(line.lstrip(" ")) if delimiter == "  " else 0
    cells: list[tuple[int, str]] = []
    for match in gap.finditer(line.rstrip(" ") if delimiter == "  " else line, begin):
        cells.append((start + begin, line[begin : match.start()]))
        begin = match.end()
    return [*cells, (start + begin, line[begin:])]


def _in_rows(text: str, table: _Table) -> Iterator[Span]:
    for place, label in table.columns:
        if label is None or not table.rows:
            continue
        column = [row[place] for row in table.rows]
        values = [cell.strip(" *_'\"") for _, cell in column]
        form = _CELLS.get(label.shape, label.value)
        if not _are_figures(table, place, label.kind, form, values):
            for (start, cell), value in zip(column, values, strict=True):
                if value and form.fullmatch(value):
                    first = start + cell.index(value)
                    yield _span(text, first, first + len(value), label.kind)


def _are_figures(table: _Table, place: int, kind: Kind, form: re.Pattern[str], values: Sequence[str]) -> bool:
    """Return True if a column contains counts or amounts, although its header cell could name identifiers."""

    def some(cells: Iterable[str], heads: str) -> bool:
        return any(map(_HEADS[heads].fullmatch, cells))

    figures = [value for value in values if value.isdigit()]
    others = [cell for number, cell in enumerate(table.head) if number != place and cell.strip()]
    if kind == "DATE_OF_BIRTH":
        is_of_years = not _HEADS["birth"].search(table.head[place]) or some(table.head, "of a count")
        is_of_years &= not some(table.head, "of one")
        return any(is_of_years or not form.fullmatch(value) for value in figures)
    if not figures:
        return False
    if some(values, "amount"):
        return True
    if _HEADS["says number"].search(table.head[place]):
        return False
    lengths = set(map(len, figures))
    if kind == "ACCOUNT" and max(lengths) < 8:
        return True  # account codes of a chart of accounts
    round_ones = sum(value.endswith("00") for value in figures)
    if max(lengths) - min(lengths) > 1 or min(lengths) < 6 or 2 * round_ones > len(figures):
        return True
    return not some(others, "of one") and some(others[:1], "of figures")


def _span(text: str, start: int, end: int, kind: Kind) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]))
