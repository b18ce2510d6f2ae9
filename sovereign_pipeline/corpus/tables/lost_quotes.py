"""Quoted cells of a table of text that hold whole rows, because a quote is missing.

Where the closing quote of a cell is missing and a later row has one too many in the same column, the rows between make
one row that has as many cells as the header. What belongs here: telling such a cell from a letter of several lines,
which may hold delimiters too. What does not: reading the table (`text.py`).

Told by the place where one row would end and the next begin: the line before it ends in the cells that stand behind
the quoted one, the line after it begins with the cells that stand before it, and these are as other rows have them.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_ROWS_LEARNT, _LONG_ROWS_LEARNT = 2_000, 20_000
"""Rows by which the columns are known; those of several lines are learnt from for longer."""
_MOST_SUSPECTS = 20_000
_SHORT = 60
"""Characters of a cell that may be an id, a date, a level or a name."""
_FEW = 20
"""Different values of a column of levels, languages or states."""
_ENOUGH = 20
"""Different values of a column from which one of another form does not belong to it."""
_LONG_NUMBER = 5
"""Digits from which a number is no year, and seldom one of a street or a list."""
_NEXT = 10
"""By how much an id may be above the highest of those that were learnt."""
_CERTAIN = 1.5
_FEWEST_COLUMNS = 3
"""A table of an id and a text shows nothing else by which a row is told from a line of a letter."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")


@dataclass
class _Column:
    """What the cells of one column look like."""

    values: set[str] = field(default_factory=set)
    """The short ones."""
    filled: int = 0
    long: int = 0
    without_digit: int = 0
    shapes: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    lowest: int | None = None
    highest: int | None = None
    """Of its plain numbers."""

    def add(self, cell: str) -> None:
        text = cell.strip()
        if not text:
            return
        self.filled += 1
        if len(text) > _SHORT or _LINE_END.search(text):
            self.long += 1
            return
        self.values.add(text)
        self.shapes.add(_shape(text))
        self.lengths.add(len(text))
        self.without_digit += not _is_code(text)
        if text.isdecimal():
            number = int(text)
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            self.highest = number if self.highest is None else max(self.highest, number)

    @property
    def has_codes(self) -> bool:
        """Whether every cell is short and has a digit, such as an id, a number or a date."""
        return bool(self.values) and not self.long and not self.without_digit

    @property
    def has_few_values(self) -> bool:
        return not self.long and 0 < len(self.values) <= min(_FEW, max(1, self.filled / 2))

    def certainty_of(self, text: str) -> float | None:
        """How hardly a text would stand in a cell of this column by chance, from 0 to 1; None for one that does not
        fit."""
        if self.has_few_values and text in self.values:
            return 1
        if self.has_codes:
            is_new = text not in self.values or len(self.values) < self.filled
            if is_new and _is_code(text) and _shape(text) in self.shapes:
                return 1 if self._is_near(text) else 0.5
            return None if len(self.values) >= _ENOUGH or not _is_code(text) else 0
        return None if not self.long and len(text) > _SHORT else 0

    def _is_near(self, text: str) -> bool:
        """Whether a plain number is as those of the column; the numbers of streets and lists are not."""
        if len(text) >= _LONG_NUMBER and len(text) in self.lengths:
            return True
        if not text.isdecimal() or self.lowest is None or self.highest is None:
            return True
        return self.lowest <= int(text) <= self.highest + max(_NEXT, (self.highest - self.lowest) // 4)


@dataclass(frozen=True)
class _Suspect:
    """A place in a quoted cell where one row may end and the next begin."""

    lines: tuple[int, int]
    """Of the file, on which the whole record stands."""
    cells: tuple[tuple[int, str], ...]
    """Column and what would be its cell there."""


class LostQuotes:
    """Collects what the rows of one table look like, and the cells that may hold whole rows."""

    def __init__(self, columns: int, delimiter: str) -> None:
        self._delimiter = delimiter
        self._columns = [_Column() for _ in range(columns)]
        self._rows = 0
        self._suspects: list[_Suspect] = []

    def add(self, cells: Sequence[str], lines: tuple[int, int]) -> None:
        """
        Args:
            cells: of a row with as many as the header has.
            lines: the first and the last one on which it stands in the file.
        """
        is_one_line = lines[0] == lines[1]
        places = [] if is_one_line else [place for place, cell in enumerate(cells) if _LINE_END.search(cell)]
        if self._rows < (_LONG_ROWS_LEARNT if places else _ROWS_LEARNT):
            self._rows += 1
            for place, (column, cell) in enumerate(zip(self._columns, cells, strict=True)):
                # What holds rows is no cell of its column, and tells nothing about it.
                if place not in places:
                    column.add(cell)
        for place in places:
            self._suspects += self._suspects_in(cells[place], place, lines)
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects = [each for each in self._suspects if self._is_a_row_end(each)]

    def found(self) -> tuple[int, int] | None:
        """The lines of the first record with a cell that holds whole rows, once all rows are read; None for none."""
        return next((each.lines for each in self._suspects if self._is_a_row_end(each)), None)

    def _suspects_in(self, cell: str, place: int, lines: tuple[int, int]) -> list[_Suspect]:
        behind = len(self._columns) - 1 - place
        if len(self._columns) < _FEWEST_COLUMNS:
            return []
        parts = [line.split(self._delimiter) for line in _LINE_END.split(cell)]
        found = []
        for before, after in itertools.pairwise(parts):
            if len(before) <= behind or len(after) <= place:
                continue
            ends = zip(range(place + 1, place + 1 + behind), before[len(before) - behind :], strict=True)
            begins = zip(range(place), after, strict=False)
            # Two quotes, an empty cell, are one within a quoted cell. Any other quote would have ended it.
            texts = ((column, text.strip()[: _SHORT + 1]) for column, text in (*ends, *begins))
            cells = tuple((column, "" if text == '"' else text) for column, text in texts)
            if not any('"' in text for _, text in cells):
                found.append(_Suspect(lines, cells))
        return found

    def _is_a_row_end(self, suspect: _Suspect) -> bool:
        """Whether no cell contradicts what its column holds, and some could hardly stand there by chance."""
        certain = 0.0
        possible = 0
        for place, text in suspect.cells:
            if not text:
                continue
            column = self._columns[place]
            certainty = column.certainty_of(text)
            if certainty is None:
                return False
            certain += certainty
            possible += column.has_codes or column.has_few_values
        return possible > 0 and certain >= min(_CERTAIN, possible)


def _is_code(text: str) -> bool:
    return len(text.split()) <= 2 and any(map(str.isdigit, text))


def _shape(text: str) -> str:
    """A code without what differs from row to row: `PRM-2024-00017` and `PRM-2025-9` are `a-9-9`."""
    return _DIGITS.sub("9", _LETTERS.sub("a", text))
