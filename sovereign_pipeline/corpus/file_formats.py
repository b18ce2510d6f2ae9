"""Read the rows of a JSONL, JSON, CSV, TSV or Parquet file, which may be compressed, or of a sheet of a workbook.
Detect cells of a table that contain whole rows because a quote is missing."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.columns import reject_repeated_columns
from sovereign_pipeline.corpus.document import Row
from sovereign_pipeline.corpus.opening import (
    BLOCK,
    GET_A_WHOLE_COPY,
    PACKINGS,
    as_utf8,
    name_without_packing,
    packing_of,
    reject_unreadable,
    unpacked,
)
from sovereign_pipeline.corpus.parsing import Sandboxes
from sovereign_pipeline.corpus.values import WrittenNumber

WORKBOOKS = (".xlsx", ".xls", ".ods")
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", *WORKBOOKS)
TABLES = (".csv", ".tsv", ".parquet", *WORKBOOKS)
"""Suffixes of tables, in which every row has the same columns."""
_WORKBOOK_PARSERS = "sovereign_pipeline.corpus.office_files"
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*(?:\{|\Z)")
LARGEST_PACKED_PARQUET = 1 << 30
"""Maximum unpacked size of a compressed Parquet file, in bytes. A reader of Parquet begins at the end of the file, so
the whole file is unpacked into memory. A small file can unpack to a thousand times its size."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def format_of(path: Path) -> str:
    """Return the suffix of a file's format in lower case, without the suffix of a compression: `.csv` for `A.CSV.gz`.
    Raises SourceError for an unknown format."""
    suffix = Path(name_without_packing(path)).suffix
    if suffix in FORMATS:
        return suffix
    remedy = f"The file name must end in {', '.join(FORMATS)}, optionally followed by {', '.join(PACKINGS)}."
    if suffix in (".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz", ".tbz2", ".txz"):
        raise SourceError(f"{path}: this is an archive.", f"Unpack the archive, and use the file inside. {remedy}")
    raise SourceError(f"{path}: the suffix of this file belongs to no known format.", remedy)


def read_rows(
    path: Path,
    max_row_bytes: int,
    encoding: str | None = None,
    delimiter: str | None = None,
    check_header: Callable[[Sequence[str]], None] = lambda columns: None,
    sheet: str | None = None,
) -> Iterator[Row]:
    """Stream the rows of a file, including broken rows. Raises SourceError for a file that cannot be read.

    Args:
        encoding: encoding of a text file; None for UTF-8.
        delimiter: delimiter of a CSV or TSV file; None for a comma, or a tab in .tsv.
        check_header: function that is called with a table's column names before its first row.
        sheet: name of a workbook's sheet; None if the workbook has only one.
    """
    reject_unreadable(path)
    suffix = format_of(path)
    if suffix in WORKBOOKS:
        yield from rows_of_table(_sheet_as_csv(path, sheet), path, max_row_bytes, ",", check_header)
        return
    with unpacked(path) as stream:
        if suffix == ".parquet":
            yield from _parquet(stream, path, max_row_bytes, check_header)
            return
        text = as_utf8(stream, path, encoding)
        if suffix in TABLES:
            own = "\t" if suffix == ".tsv" else ","
            yield from rows_of_table(text, path, max_row_bytes, delimiter or own, check_header)
        else:
            yield from (_jsonl if suffix == ".jsonl" else _json_array)(text, path, max_row_bytes)


def _sheet_as_csv(path: Path, sheet: str | None) -> IO[bytes]:
    """Return a workbook's sheet as CSV. Raises SourceError if the workbook cannot be read."""
    items = _parsed_workbook(path, "parse_sheet", {"sheet": sheet})
    text = io.StringIO()
    csv.writer(text).writerows(row for item in items for row in item["rows"])
    return io.BytesIO(text.getvalue().encode(errors="replace"))


def sheets_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets. Raises SourceError if the workbook cannot be read."""
    reject_unreadable(path)
    return [name for item in _parsed_workbook(path, "parse_sheet_names", {}) for name in item["sheets"]]


def _parsed_workbook(path: Path, parser: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a parser of `office_files.py` on a workbook in the sandbox. Raises SourceError for an unreadable workbook."""
    with Sandboxes(f"{_WORKBOOK_PARSERS}:{parser}", options) as sandboxes:
        items = [*sandboxes.items_of(path)]
    if problem := next((item["broken"] for item in items if "broken" in item), None):
        raise SourceError(f"{path}: the workbook cannot be read: {problem}.", "Correct it, or save the sheet as CSV.")
    return items


def has_header(path: Path) -> bool:
    """Return True if the file is a table. The header of a table names the columns of all rows."""
    return name_without_packing(path).endswith(TABLES)


def _jsonl(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    lines = _bounded_lines(stream, max_row_bytes)
    first, second = next(lines, b""), next(lines, b"")
    first = first.removeprefix(BYTE_ORDER_MARK) if first is not None else None
    is_all = second is not None and not second.strip()
    if first is not None and _begins_an_array(first, is_all):
        raise SourceError(
            f"{path}: the file contains one array instead of one object per line.", "Rename the file to .json."
        )
    if first is not None and first.strip() == b"{" and (second or b"").lstrip().startswith(b'"'):
        raise SourceError(
            f"{path}: the JSON objects in this file span several lines.",
            "Write each object on a single line, or write all objects as one array into a .json file.",
        )
    for number, line in enumerate(chain([first, second], lines), start=1):
        if line is None:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
            continue
        if not line.removeprefix(BYTE_ORDER_MARK).strip():
            continue
        try:
            values = json.loads(
                _object_of(line).decode("utf-8"), object_pairs_hook=_unique_fields, parse_float=WrittenNumber
            )
        except UnicodeDecodeError:
            yield Row(number, None, "not UTF-8")
        except _DuplicateField:
            yield Row(number, None, "names a field twice")
        except json.JSONDecodeError as error:
            several = b"\r" in line.strip()
            said = error.msg.removesuffix(" at")
            why = "several lines that end in CR alone" if several else f"{said} at column {error.colno}"
            yield Row(number, None, f"not JSON ({why})")
        except (ValueError, RecursionError) as error:  # a number too long, or nested too deep
            yield Row(number, None, f"not JSON that can be read ({type(error).__name__})")
        else:
            yield Row(number, values) if isinstance(values, dict) else Row(number, None, "not a JSON object")


def _object_of(line: bytes) -> bytes:
    """Return a line without a byte order mark, and without a comma after the object. Lines have such a comma if they
    were copied from an array."""
    stripped = line.removeprefix(BYTE_ORDER_MARK).rstrip()
    return stripped[:-1] if stripped.endswith(b"},") else stripped


def _begins_an_array(line: bytes, is_all: bool) -> bool:
    """Return True if a file's first line begins an array of objects that later lines continue, or is a whole array of
    several objects. `is_all`: True if the file has only this line."""
    if _ARRAY_OF_OBJECTS.match(line) is None:
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return is_all and len(value) > 1 and all(isinstance(each, dict) for each in value)


class _DuplicateField(ValueError):
    """Raised if a JSON object has the same key twice. `json` would keep only the last value, and this value may be a
    lower classification level."""


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _DuplicateField
    return values


def _bounded_lines(stream: IO[bytes], max_row_bytes: int) -> Iterator[bytes | None]:
    """Yield lines without their newline. For a line above the limit, yield None, and do not load the whole line."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    while line := buffered.readline(max_row_bytes + 1):
        if len(line) <= max_row_bytes or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = buffered.readline(max_row_bytes)
        yield None


def _json_array(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    """Yield the elements of one array of objects, with one element in memory at a time. Raises SourceError if the file
    is not one array. Also raises SourceError at an element that is not JSON or far above the limit, because the
    elements after that element cannot be separated."""
    # With surrogateescape, one wrongly encoded element is quarantined and the rest of the file is read.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    decoder = json.JSONDecoder()
    buffer = text.read(BLOCK).lstrip()
    if not buffer.startswith("["):
        raise SourceError(
            f"{path}: a .json source must be one array of objects.",
            "If the file has one object per line, rename the file to .jsonl. Otherwise, write the rows as one array.",
        )
    buffer, number, ended = buffer[1:], 0, False
    while True:
        buffer = buffer.lstrip()
        try:
            value, end = decoder.raw_decode(buffer)
            separator = buffer[end:].lstrip()[:1]
        except (ValueError, RecursionError):
            separator = ""
        if separator in (",", "]"):
            number += 1
            yield _element(number, value, buffer[:end], max_row_bytes)
            buffer = buffer[end:].lstrip()[1:]
            if separator == "]":
                break
            continue
        if number == 0 and buffer.startswith("]"):
            buffer = buffer[1:]
            break
        if ended or len(buffer) > max_row_bytes + BLOCK:
            raise SourceError(
                f"{path}, element {number + 1}: this element is not JSON, or is longer than {max_row_bytes:,} "
                f"characters. The elements after this one cannot be separated.",
                "Correct the element, or raise quarantine.max_row_bytes in the recipe.",
            )
        more = text.read(max(BLOCK, len(buffer)))
        ended = not more
        buffer += more
    while not buffer.strip() and (buffer := text.read(BLOCK)):
        pass
    if buffer:
        raise SourceError(f"{path}: the file has text after the end of the array.", "Correct the file.")


def _element(number: int, value: Any, written: str, max_row_bytes: int) -> Row:
    if _ESCAPED_BYTE.search(written):
        return Row(number, None, "not UTF-8")
    if len(written.encode("utf-8", "surrogatepass")) > max_row_bytes:
        return Row(number, None, f"longer than {max_row_bytes:,} bytes")
    if not isinstance(value, dict):
        return Row(number, None, "not a JSON object")
    try:
        return Row(number, json.loads(written, object_pairs_hook=_unique_fields, parse_float=WrittenNumber), None)
    except _DuplicateField:
        return Row(number, None, "names a field twice")


def _parquet(
    stream: IO[bytes], path: Path, max_row_bytes: int, check_header: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    if packing_of(path) is not None:
        stream = _in_memory(stream, path)
    if stream.read(4) != b"PAR1":
        raise SourceError(f"{path}: this is not a Parquet file.", "Correct the file's suffix.")
    stream.seek(0)
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        columns = file.schema_arrow.names
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: the file cannot be read as Parquet ({type(error).__name__}).", GET_A_WHOLE_COPY
        ) from None
    reject_repeated_columns(path, columns)
    check_header(columns)
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1_000):
            for values in _values_of(batch):
                number += 1
                if isinstance(values, str):
                    yield Row(number, None, values)
                elif len(str(values).encode(errors="surrogatepass")) > max_row_bytes:
                    yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
                else:
                    yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise SourceError(
            f"{path}: the file cannot be read as Parquet ({type(error).__name__}).", GET_A_WHOLE_COPY
        ) from None


def _in_memory(stream: IO[bytes], path: Path) -> io.BytesIO:
    unpacked = io.BytesIO()
    while block := stream.read(BLOCK):
        if unpacked.tell() + len(block) > LARGEST_PACKED_PARQUET:
            raise SourceError(
                f"{path}: the file unpacks to more than {LARGEST_PACKED_PARQUET:,} bytes.",
                "Unpack the file, and name the .parquet file in the recipe. Parquet is already compressed.",
            )
        unpacked.write(block)
    unpacked.seek(0)
    return unpacked


def _values_of(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yield the values of each row of a record batch, or the reason why the row is broken."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError, KeyError):  # a value that is not UTF-8, a time or time zone that Python lacks
        for number in range(batch.num_rows):
            try:
                (values,) = batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield "not UTF-8"
            except (ValueError, OverflowError, KeyError) as error:
                yield f"a value cannot be read ({type(error).__name__})"
            else:
                yield values


# --- CSV and TSV ------------------------------------------------------------------------------------------------------

ENDLESS = 1 << 28
"""Length of a record in characters above which the reader assumes that a closing quote is missing."""


def rows_of_table(
    stream: IO[bytes], path: Path, max_row_bytes: int, delimiter: str, check_header: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    """Stream the rows of a table in UTF-8. Raises SourceError for an invalid header or inseparable rows."""
    # With surrogateescape, one wrongly encoded row is quarantined and the rest of the file is read.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(ENDLESS)
    # A record above this limit is also above `max_row_bytes`, so its text is not needed.
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
            raise SourceError(f"{path}: the row from line {begins} is not CSV ({error}).", _QUOTES) from None
        except EndlessRecord:
            raise SourceError(f"{path}: the row from line {begins} has a cell that does not end.", _QUOTES) from None
        if cells is None:
            break
        if not cells:
            continue  # an empty line is not a row, as in JSONL
        is_line = len(cells) == len(header)
        if is_line:
            quotes.add(cells, (begins, reader.line_num))
        elif reader.line_num > begins:
            # Without this error, the rows within these lines would be lost silently.
            raise SourceError(
                f"{path}: lines {begins} to {reader.line_num} form one row that does not fit the header.", _QUOTES
            )
        if lines.is_too_long:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
        elif not is_line:
            yield Row(number, None, f"has {len(cells)} cells, but the header has {len(header)}")
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
            f"{_QUOTES} If a letter really contains such lines, remove the letter, or export the file as JSONL.",
        )


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise SourceError(f"{path}: the header row is not CSV ({error}).", "Correct the quotes in this row.") from None
    except EndlessRecord:
        raise SourceError(f"{path}: the header row does not end.", "Correct the quotes in this row.") from None
    if not header:
        raise SourceError(f"{path}: the file has no header row.", "Write the column names into the file's first line.")
    if any(map(_was_not_utf8, header)):
        raise SourceError(
            f"{path}: the header row is not UTF-8.",
            "Name the file's encoding under `encoding` in the recipe, or save the file in UTF-8.",
            act="look_at_source",
            file=str(path),
        )
    reject_repeated_columns(path, header)
    return header


def _repeated_header(cells: Sequence[str], header: Sequence[str], path: Path, number: int, line: int) -> Row:
    """Return a broken row for a line that repeats the header. Raises SourceError if the line has the columns in a
    different order."""
    if [*map(_plain, cells)] == [*map(_plain, header)]:
        return Row(number, None, REPEATED_HEADER)
    raise SourceError(
        f"{path}, line {line}: this line repeats the header with the columns in a different order.",
        f"Split the file at line {line}, and use a separate source for each part.",
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def _was_not_utf8(text: str) -> bool:
    return not text.isascii() and _ESCAPED_BYTE.search(text) is not None


class EndlessRecord(Exception):
    """Raised if a record is so long that its closing quote must be missing."""


# --- lines, record by record ------------------------------------------------------------------------------------------


class RecordLines(Iterator[str]):
    """Iterates over the lines of a file for `csv.reader`, which reads as many lines as a record has.

    To save memory, the part of a record beyond the limit is shortened: `x` replaces each run of characters between
    quotes, delimiters, spaces and line ends. `csv.reader` still finds the end of the record.
    """

    def __init__(self, text: io.TextIOWrapper, delimiter: str, limit: int) -> None:
        """`limit`: maximum length in characters of a record that stays unchanged."""
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
        while part := self._text.readline(BLOCK):
            if self._is_first:  # the byte order mark of a file that was appended to another file
                part = part.removeprefix("\ufeff")
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


# --- quoted cells that contain whole rows -----------------------------------------------------------------------------

# A cell's closing quote may be missing while a later row has an extra quote in the same column. The rows between them
# then form one row with as many cells as the header. Its quoted cell differs from a text of several lines: at each
# hidden row end, one line ends in the cells that follow the quoted column, and the next line begins with the cells that
# precede this column. These cells resemble the cells of other rows.


_ROWS_LEARNT, _LONG_ROWS_LEARNT = 2_000, 20_000
"""When `LostQuotes` has learnt from the first number of rows, it learns only from rows on several lines of the file. At
the second number, it stops learning."""
_MOST_SUSPECTS = 20_000
_SHORT = 60
"""Maximum length in characters of an id, a date, a level or a name."""
_FEW = 20
"""Maximum number of distinct values in a column of levels, languages or states."""
_ENOUGH = 20
"""Minimum number of distinct values in a column before a code of a new form counts as foreign to the column."""
_LONG_NUMBER = 5
"""Number of digits from which a number is no year, and rarely the number of a house or list item."""
_NEXT = 10
"""Amount by which an id may exceed the highest learnt id, or a quarter of the learnt range if that is more."""
_CERTAIN = 1.5
_FEWEST_COLUMNS = 3
"""Minimum number of columns for detection. In a table of only an id and a text, a row cannot be distinguished from a
line of a text."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")


@dataclass
class _Column:
    """Learnt properties of the cells in one column."""

    values: set[str] = field(default_factory=set)
    filled: int = 0
    long: int = 0
    without_digit: int = 0
    shapes: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    lowest: int | None = None
    highest: int | None = None

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
        """Return True if every filled cell is short and a code with a digit, such as an id, a number or a date."""
        return bool(self.values) and not self.long and not self.without_digit

    @property
    def has_few_values(self) -> bool:
        return not self.long and 0 < len(self.values) <= min(_FEW, max(1, self.filled / 2))

    def certainty_of(self, text: str) -> float | None:
        """Return the certainty, from 0 to 1, that a text belongs to this column instead of fitting by chance. Return
        None if the text does not fit the column."""
        if self.has_few_values and text in self.values:
            return 1
        if self.has_codes:
            is_new = text not in self.values or len(self.values) < self.filled
            if is_new and _is_code(text) and _shape(text) in self.shapes:
                return 1 if self._is_near(text) else 0.5
            return None if len(self.values) >= _ENOUGH or not _is_code(text) else 0
        return None if not self.long and len(text) > _SHORT else 0

    def _is_near(self, text: str) -> bool:
        """Return False if a code is a plain number that is far from the column's numbers, as the number of a house or
        list item usually is. A number of at least _LONG_NUMBER digits is not far if a value of the column has the same
        length."""
        if len(text) >= _LONG_NUMBER and len(text) in self.lengths:
            return True
        if not text.isdecimal() or self.lowest is None or self.highest is None:
            return True
        return self.lowest <= int(text) <= self.highest + max(_NEXT, (self.highest - self.lowest) // 4)


@dataclass(frozen=True)
class _Suspect:
    """A line end in a quoted cell at which one row may end and the next row may begin."""

    lines: tuple[int, int]
    """First and last line of the record in the file."""
    cells: tuple[tuple[int, str], ...]
    """Column index and cell of each cell around the possible row end."""


class LostQuotes:
    """Detects quoted cells that contain whole rows. Learns from a table's rows which values each column has."""

    def __init__(self, columns: int, delimiter: str) -> None:
        self._delimiter = delimiter
        self._columns = [_Column() for _ in range(columns)]
        self._rows = 0
        self._suspects: list[_Suspect] = []

    def add(self, cells: Sequence[str], lines: tuple[int, int]) -> None:
        """Learn the columns' values from a row. Collect the line ends in the row's cells: a hidden row may end there.

        Args:
            cells: the cells of a row, as many as the header has.
            lines: the first and the last line of the row in the file.
        """
        is_one_line = lines[0] == lines[1]
        places = [] if is_one_line else [place for place, cell in enumerate(cells) if _LINE_END.search(cell)]
        if self._rows < (_LONG_ROWS_LEARNT if places else _ROWS_LEARNT):
            self._rows += 1
            for place, (column, cell) in enumerate(zip(self._columns, cells, strict=True)):
                # A cell that may contain rows does not show the values of its column.
                if place not in places:
                    column.add(cell)
        for place in places:
            self._suspects += self._suspects_in(cells[place], place, lines)
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects = [each for each in self._suspects if self._is_a_row_end(each)]

    def found(self) -> tuple[int, int] | None:
        """Return the first and last line of the first record with a cell that contains whole rows. Return None if there
        is no such record. Call this method after all rows are added."""
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
        """Return True if a suspected line end is the end of a row: every cell around it fits its column, and some cells
        would hardly fit by chance."""
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
    """Return the shape of a code. Codes of a column share it: `a-9-9` for `PRM-2024-00017` and `PRM-2025-9`."""
    return _DIGITS.sub("9", _LETTERS.sub("a", text))


_QUOTES = (
    "Correct the quotes in these lines: one is missing or too many, or there is text between a quote and the "
    "delimiter. A quote inside a quoted cell is written twice, without a backslash."
)
REPEATED_HEADER = "repeats the header: several exports in one file"
