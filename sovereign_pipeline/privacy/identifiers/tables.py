"""Find identifiers in table columns by the column heads, and identifiers that precede their label."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.forms import section
from sovereign_pipeline.privacy.identifiers.labels import Label, LabelFound, labels_between
from sovereign_pipeline.privacy.normalisation import rows_of_tables
from sovereign_pipeline.privacy.spans import Span, value_key

# --- labels behind their value ----------------------------------------------------------------------------------------

_VALUE_BEFORE = re.compile(
    r"(?<![\w.,/:+-])(?P<value>(?:[A-Z]{1,3} ?|[A-Z]{1,6}[/-])?\d(?:[ ./-]?\d){3,15}"
    r"|\d{2,5} ?(?:[A-Z]{1,2}|[ء-ي](?: ?[ء-ي])?)"
    r"(?!\w))(?: ?\((?P<bracket>)(?:(?:my|his|her|our|their|your|the) )?"
    r"|(?: ?, ?| - | ?= ?| (?:is|was|being|as) )(?:(?:my|his|her|our|their|your|the|a|its) )?"
    r"|،? (?:هو|هي|وهو|وهي) )(?=[^\W\d_])"
)
_WORD = re.compile(r"[A-Z]\w{1,20} ")
_IS_ITS_OWN_LABEL = re.compile(r"[.:#=\s]{0,3}(?:(?i:no|nr|number|is|was|of|رقم|هو)\b\.?[\s:#]{0,2})*[+(A-Z]{0,3} ?\d")
"""Pattern of a value after a label, which shows that the label does not belong to the value before it."""
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
        for label, _, end in behind:
            if label.value.fullmatch(match["value"]) and _IS_ITS_OWN_LABEL.match(text, end) is None:
                yield _span(text, *match.span("value"), label.kind)
                break


# --- columns of tables ------------------------------------------------------------------------------------------------

CELL_END = "\t"
"""Character that ends a cell in `with_cells_apart`. A number never continues across it."""

_CELLS, _HEADS, _ALONE = (
    {name: re.compile(pattern) for name, pattern in section(of).items()} for of in ("cells", "heads", "alone")
)
_FIGURE = re.compile(r"\d+")
_RULE = re.compile(r"[-=|:+\t ]*")
_WIDE_GAP = re.compile(r" {2,}")
_LONGEST_HEAD = 300


def with_cells_apart(text: str) -> str:
    """Replace each bar between table cells by `CELL_END`. The length stays the same."""
    if "|" not in text or "\n" not in text:
        return text
    lines = text.split("\n")
    return "\n".join(
        line.replace("|", CELL_END) if is_row else line
        for line, is_row in zip(lines, rows_of_tables(lines, "|"), strict=True)
    )


def identifiers_in_columns(text: str, labels: Sequence[LabelFound]) -> Iterator[Span]:
    """Yield the values in table columns whose head names an identifier."""
    lines = text.split("\n")
    start = 0
    number = 0
    while number < len(lines):
        head = _head(lines[number], start, labels)
        start += len(lines[number]) + 1
        number += 1
        if head is None:
            continue
        rows: list[tuple[int, str]] = []
        while number < len(lines) and (_RULE.fullmatch(lines[number]) or head.has_row(lines[number])):
            if not lines[number].strip():
                break
            if _head(lines[number], start, labels) is not None:
                break
            rows.append((start, lines[number]))
            start += len(lines[number]) + 1
            number += 1
        yield from _in_rows(text, head, [row for row in rows if not _RULE.fullmatch(row[1])])


def counts_in_columns(text: str) -> list[tuple[int, int]]:
    """Return the spans of cells in columns whose head names a count, a measurement or a year."""
    found: list[tuple[int, int]] = []
    places: list[int] = []
    delimiter, width, start = "", 0, 0
    for line in text.split("\n"):
        if not places or not (_RULE.fullmatch(line) or len(_cells(line, delimiter)) == width):
            delimiter = next((each for each in ("\t", "|", ";", "  ") if each in line.strip(" ")), "")
            cells = _cells(line, delimiter) if delimiter and len(line) <= _LONGEST_HEAD else []
            places = [place for place, (_, cell) in enumerate(cells) if _HEADS["of a count"].fullmatch(cell.strip())]
            width = len(cells)
        elif not _RULE.fullmatch(line):
            cells = _cells(line, delimiter)
            found += [(start + cells[place][0], start + cells[place][0] + len(cells[place][1])) for place in places]
        start += len(line) + 1
    return found


@dataclass(frozen=True)
class _Head:
    delimiter: str
    """Delimiter of the cells; empty for a single space."""
    cells: tuple[str, ...]
    labels: tuple[tuple[Label, int], ...]
    """Labels of the columns, each with the column's index."""

    def has_row(self, line: str) -> bool:
        if not self.delimiter:
            return bool(line.strip()) and _HEADS["sentence"].search(line.strip()) is None
        return len(_cells(line, self.delimiter)) == len(self.cells)


def _head(line: str, start: int, labels: Sequence[LabelFound]) -> _Head | None:
    of_line = labels_between(labels, start, start + len(line))
    if not of_line or not 4 <= len(line) <= _LONGEST_HEAD or any(map(str.isdigit, line)):
        return None
    delimiter = next((each for each in ("\t", "|", ";", ",", "  ") if each in line.strip(" ")), "")
    if not delimiter:
        return _head_of_words(line, of_line)
    cells = _cells(line, delimiter)
    if len(cells) < 2:
        return None
    found = tuple(
        (each, place) for place, (begin, cell) in enumerate(cells) for each in _heading(start + begin, cell, of_line)
    )
    return _Head(delimiter, tuple(cell for _, cell in cells), found) if found else None


def _heading(start: int, cell: str, labels: Sequence[LabelFound]) -> Iterator[Label]:
    """Yield the labels that fill a cell."""
    for label, begin, end in labels:
        around = (cell[: max(0, begin - start)], cell[max(0, end - start) :])
        if start <= begin and end <= start + len(cell) and not any(each.strip("*_#:. ") for each in around):
            yield label


def _head_of_words(line: str, labels: Sequence[LabelFound]) -> _Head | None:
    words = line.split()
    if not 2 <= len(words) <= 12 or line.rstrip()[-1] in ".:;,!?" or _HEADS["counting"].search(line):
        return None
    if sum(word[0].islower() for word in words) > len(words) // 2:
        return None
    found = tuple((each.label, -1) for each in labels if each.label.kind in _ALONE)
    return _Head("", (line,), found) if found else None


def _cells(line: str, delimiter: str) -> list[tuple[int, str]]:
    """Return the cells of a line, each with its offset."""
    if delimiter != "  ":
        places = [0]
        for cell in line.split(delimiter):
            places.append(places[-1] + len(cell) + 1)
        return [(begin, line[begin : end - 1]) for begin, end in pairwise(places)]
    begin = len(line) - len(line.lstrip(" "))
    cells: list[tuple[int, str]] = []
    for gap in _WIDE_GAP.finditer(line.rstrip(" "), begin):
        cells.append((begin, line[begin : gap.start()]))
        begin = gap.end()
    return [*cells, (begin, line[begin:].rstrip(" "))]


def _in_rows(text: str, head: _Head, rows: Sequence[tuple[int, str]]) -> Iterator[Span]:
    if not head.delimiter:
        for start, line in rows:
            for kind in dict.fromkeys(label.kind for label, _ in head.labels):
                for match in _ALONE[kind].finditer(line):
                    if not match.group().endswith("00"):
                        yield _span(text, start + match.start(), start + match.end(), kind)
        return
    cells = [[(start + begin, cell) for begin, cell in _cells(line, head.delimiter)] for start, line in rows]
    for place, of_place in groupby(head.labels, key=lambda each: each[1]):
        column = [row[place] for row in cells]
        values = [cell.strip(" *_'\"") for _, cell in column]
        for label, _ in of_place:
            form = _CELLS.get(label.shape, label.value)
            if _are_figures(head, place, label.kind, form, values, [_first(row) for row in cells]):
                continue
            for (start, cell), value in zip(column, values, strict=True):
                if value and form.fullmatch(value):
                    first = start + cell.index(value)
                    yield _span(text, first, first + len(value), label.kind)


def _first(row: Sequence[tuple[int, str]]) -> str:
    """Return the first cell that is not empty."""
    return next((cell.strip() for _, cell in row if cell.strip()), "")


def _are_figures(
    head: _Head, place: int, kind: Kind, form: re.Pattern[str], values: Sequence[str], firsts: Sequence[str]
) -> bool:
    """Return whether a column contains counts or amounts, although its head could name identifiers."""
    figures = [value for value in values if _FIGURE.fullmatch(value)]
    if kind == "DATE_OF_BIRTH":
        is_of_years = not _HEADS["birth"].search(head.cells[place]) or any(
            map(_HEADS["of a count"].fullmatch, head.cells)
        )
        is_of_years &= not any(map(_HEADS["of one"].fullmatch, head.cells))
        return any(is_of_years or not form.fullmatch(value) for value in figures)
    if not figures:
        return False
    if kind == "PLATE":
        return _HEADS["number of a vessel"].match(head.cells[place]) is None
    others = [cell for number, cell in enumerate(head.cells) if number != place and cell.strip()]
    if any(_HEADS["amount"].fullmatch(value) for value in values):
        return True
    if kind == "CR" and any(_HEADS["of accounts"].fullmatch(cell) for cell in others):
        return True
    if _HEADS["says number"].search(head.cells[place]):
        return False
    if kind == "ACCOUNT" and max(map(len, figures)) < 8:
        return True  # account codes of a chart of accounts
    lengths = set(map(len, figures))
    round_ones = sum(value.endswith("00") for value in figures)
    if max(lengths) - min(lengths) > 1 or min(lengths) < 6 or 2 * round_ones > len(figures):
        return True
    if any(_HEADS["sum"].fullmatch(first) for first in firsts):
        return True
    if any(_HEADS["of one"].fullmatch(cell) for cell in others):
        return False
    return all(_HEADS["time"].fullmatch(first) for first in firsts) or any(
        _HEADS["of figures"].fullmatch(cell) for cell in others[:1]
    )


def _span(text: str, start: int, end: int, kind: Kind) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]))
