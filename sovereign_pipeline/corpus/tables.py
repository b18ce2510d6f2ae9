"""Read the rows of a CSV or TSV file, and detect quoted cells that contain whole rows because a quote is missing.

If a cell's closing quote is missing and a later row has an extra quote in the same column, the rows between them form
one row with as many cells as the header. Such a cell differs from a text of several lines where one row would end and
the next begin: the line before ends in the cells that follow the quoted cell, the line after begins with the cells that
precede it, and these cells resemble the cells of other rows.
"""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.columns import reject_repeated_columns
from sovereign_pipeline.corpus.document import Row

ENDLESS = 1 << 28
"""Maximum length of a record in characters. A longer record has a missing quote."""
_BLOCK = 1 << 16
_MARK = "\ufeff"


def rows_of_table(
    stream: IO[bytes], path: Path, max_row_bytes: int, delimiter: str, check_header: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    """Stream the rows of a table in UTF-8. Raises SourceError if its rows cannot be separated."""
    # With surrogateescape, one wrongly encoded row is quarantined and the rest of the file is read.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(ENDLESS)
    # A record above this limit also exceeds the limit of its cells.
    lines = RecordLines(text, delimiter, 2 * max_row_bytes + (1 << 16))
    # Spaces before a quote do not belong to the cell: the second cell of `a, "b"` is b.
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != " ")
    header = _header(reader, path)
    check_header(header)
    names = [*map(_plain, header)]
    quotes = LostQuotes(len(header), delimiter)
    number = 0
    while True:
        number += 1
        begins = reader.line_num + 1
        lines.begin_record()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise SourceError(f"{path}, from line {begins}: not CSV ({error}).", _QUOTES) from None
        except EndlessRecord:
            raise SourceError(f"{path}, from line {begins}: a cell does not end.", _QUOTES) from None
        if cells is None:
            break
        if not cells:
            continue  # an empty line is not a row, as in JSONL
        is_line = len(cells) == len(header)
        if is_line:
            quotes.add(cells, (begins, reader.line_num))
        elif reader.line_num > begins:
            # Otherwise the rows between would be lost without an error.
            raise SourceError(
                f"{path}: lines {begins} to {reader.line_num} form one row that does not fit the header.", _QUOTES
            )
        if lines.is_too_long:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
        elif not is_line:
            yield Row(number, None, f"has {len(cells)} cells where the header has {len(header)}")
        elif any(map(_was_not_utf8, cells)):
            yield Row(number, None, "not UTF-8")
        elif sum(len(cell.encode()) for cell in cells) > max_row_bytes:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
        elif _plain(cells[0]) in names and sorted(map(_plain, cells)) == sorted(names):
            yield _repeated_header(cells, header, path, number, begins)
        else:
            yield Row(number, dict(zip(header, cells, strict=True)))
    if (found := quotes.found()) is not None:
        raise SourceError(
            f"{path}, lines {found[0]} to {found[1]}: a quoted cell of one row seems to contain whole rows.",
            f"{_QUOTES} If a letter really contains such lines, remove it from the file, or export the file as JSONL.",
        )


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise SourceError(f"{path}: the header row is not CSV ({error}).", "Correct the quotes there.") from None
    except EndlessRecord:
        raise SourceError(f"{path}: the header row does not end.", "Correct the quotes there.") from None
    if not header:
        raise SourceError(f"{path}: the file has no header row.", "Write the column names into its first line.")
    if any(map(_was_not_utf8, header)):
        raise SourceError(
            f"{path}: the header row is not UTF-8.",
            "Name the file's encoding under `encoding` in the recipe, or save it in UTF-8.",
            act="look_at_source",
            file=str(path),
        )
    reject_repeated_columns(path, header)
    return header


def _repeated_header(cells: Sequence[str], header: Sequence[str], path: Path, number: int, line: int) -> Row:
    """Return the broken row for a repeated header. Raises SourceError if its columns have another order."""
    if [*map(_plain, cells)] == [*map(_plain, header)]:
        return Row(number, None, REPEATED_HEADER)
    raise SourceError(
        f"{path}, line {line}: the header is repeated with its columns in another order.",
        "Split the file there, and use a separate source for each part.",
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def _was_not_utf8(text: str) -> bool:
    return not text.isascii() and _ESCAPED_BYTE.search(text) is not None


class EndlessRecord(Exception):
    """Raised if a record does not end."""


# --- lines, record by record ------------------------------------------------------------------------------------------


class RecordLines(Iterator[str]):
    """Iterates over the lines of a file for `csv.reader`, which takes as many lines as a record has.

    In a record above the limit, only quotes, delimiters and line ends are kept, so that the record still ends in the
    right place.
    """

    def __init__(self, text: io.TextIOWrapper, delimiter: str, limit: int) -> None:
        """Args:
        limit: maximum length of a record, in characters, that is kept unchanged.
        """
        self._text, self._limit = text, limit
        self._words = re.compile(rf'[^"\r\n {re.escape(delimiter)}]+')
        self._spaces = re.compile(" +")
        self._characters = 0
        self._is_first = True

    def begin_record(self) -> None:
        self._characters = 0
        self._is_first = True

    @property
    def is_too_long(self) -> bool:
        return self._characters > self._limit

    def __next__(self) -> str:
        parts = []
        while part := self._text.readline(_BLOCK):
            if self._is_first:  # the byte order mark of a file that was appended to another file
                part = part.removeprefix(_MARK)
                self._is_first = False
            self._characters += len(part)
            if self._characters > ENDLESS:
                raise EndlessRecord
            parts.append(self._divisions(part) if self.is_too_long else part)
            if part.endswith(("\n", "\r")):
                break
        if not parts:
            raise StopIteration
        return "".join(parts)

    def _divisions(self, part: str) -> str:
        return self._spaces.sub(" ", self._words.sub("x", part))


_ROWS_LEARNT, _LONG_ROWS_LEARNT = 2_000, 20_000
"""Number of rows from which the columns are learnt, and the higher number for rows of several lines."""
_MOST_SUSPECTS = 20_000
_SHORT = 60
"""Maximum length in characters of an id, a date, a level or a name."""
_FEW = 20
"""Maximum number of distinct values in a column of levels, languages or states."""
_ENOUGH = 20
"""Number of distinct values in a column from which a value of another form does not belong to it."""
_LONG_NUMBER = 5
"""Number of digits from which a number is not a year, and rarely a street or list number."""
_NEXT = 10
"""Minimum amount by which an id may exceed the highest learnt id."""
_CERTAIN = 1.5
_FEWEST_COLUMNS = 3
"""Minimum number of columns for detection. With only an id and a text, rows and lines of texts cannot be
distinguished."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")


# --- quoted cells that hold whole rows --------------------------------------------------------------------------------


@dataclass
class _Column:
    """Learnt properties of the cells in one column."""

    values: set[str] = field(default_factory=set)
    """Short values of the column."""
    filled: int = 0
    long: int = 0
    without_digit: int = 0
    shapes: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    lowest: int | None = None
    highest: int | None = None
    """Highest of the plain numbers in the column."""

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
        """Return whether every cell is short and contains a digit, such as an id, a number or a date."""
        return bool(self.values) and not self.long and not self.without_digit

    @property
    def has_few_values(self) -> bool:
        return not self.long and 0 < len(self.values) <= min(_FEW, max(1, self.filled / 2))

    def certainty_of(self, text: str) -> float | None:
        """Return the evidence, from 0 to 1, that a text belongs to this column rather than fitting by chance; None if
        it does not fit."""
        if self.has_few_values and text in self.values:
            return 1
        if self.has_codes:
            is_new = text not in self.values or len(self.values) < self.filled
            if is_new and _is_code(text) and _shape(text) in self.shapes:
                return 1 if self._is_near(text) else 0.5
            return None if len(self.values) >= _ENOUGH or not _is_code(text) else 0
        return None if not self.long and len(text) > _SHORT else 0

    def _is_near(self, text: str) -> bool:
        """Return whether a plain number is near the column's numbers. Street and list numbers are not."""
        if len(text) >= _LONG_NUMBER and len(text) in self.lengths:
            return True
        if not text.isdecimal() or self.lowest is None or self.highest is None:
            return True
        return self.lowest <= int(text) <= self.highest + max(_NEXT, (self.highest - self.lowest) // 4)


@dataclass(frozen=True)
class _Suspect:
    """A place in a quoted cell where one row may end and the next begin."""

    lines: tuple[int, int]
    """First and last line of the record in the file."""
    cells: tuple[tuple[int, str], ...]
    """Column index and cell of each cell around the possible row end."""


class LostQuotes:
    """Detects cells that contain whole rows. Learns the columns of one table from its rows."""

    def __init__(self, columns: int, delimiter: str) -> None:
        self._delimiter = delimiter
        self._columns = [_Column() for _ in range(columns)]
        self._rows = 0
        self._suspects: list[_Suspect] = []

    def add(self, cells: Sequence[str], lines: tuple[int, int]) -> None:
        """
        Args:
            cells: the cells of a row, as many as the header has.
            lines: the first and the last line of the row in the file.
        """
        is_one_line = lines[0] == lines[1]
        places = [] if is_one_line else [place for place, cell in enumerate(cells) if _LINE_END.search(cell)]
        if self._rows < (_LONG_ROWS_LEARNT if places else _ROWS_LEARNT):
            self._rows += 1
            for place, (column, cell) in enumerate(zip(self._columns, cells, strict=True)):
                # A cell that contains rows tells nothing about its column.
                if place not in places:
                    column.add(cell)
        for place in places:
            self._suspects += self._suspects_in(cells[place], place, lines)
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects = [each for each in self._suspects if self._is_a_row_end(each)]

    def found(self) -> tuple[int, int] | None:
        """Return the lines of the first record with a cell that contains whole rows, or None. Call it after all rows
        are added."""
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
            # Within a quoted cell, an empty cell `""` becomes one quote. Any other quote would have ended the cell.
            texts = ((column, text.strip()[: _SHORT + 1]) for column, text in (*ends, *begins))
            cells = tuple((column, "" if text == '"' else text) for column, text in texts)
            if not any('"' in text for _, text in cells):
                found.append(_Suspect(lines, cells))
        return found

    def _is_a_row_end(self, suspect: _Suspect) -> bool:
        """Return whether the place is the end of a row: every cell fits its column, and some cells would hardly fit by
        chance."""
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
    """Return the shape of a code, which is equal for all rows: `PRM-2024-00017` and `PRM-2025-9` have the shape
    `a-9-9`."""
    return _DIGITS.sub("9", _LETTERS.sub("a", text))


_QUOTES = (
    "Correct the quotes there: one is missing or too many, or there is text between a quote and the delimiter. A "
    "quote inside a quoted cell is written twice, without a backslash."
)
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
REPEATED_HEADER = "repeats the header: several exports in one file"
