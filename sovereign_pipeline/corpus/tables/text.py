"""The rows of a table of text: CSV, TSV and their like.

What belongs here: text to cells to rows, and what is broken about one. What does not: compression and encoding
(`corpus/opening.py`), which columns are needed (`corpus/expected_columns.py`).
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.row import Row
from sovereign_pipeline.corpus.tables.header import refuse_repeated_columns
from sovereign_pipeline.corpus.tables.lines import ENDLESS, EndlessRecord, RecordLines
from sovereign_pipeline.corpus.tables.lost_quotes import LostQuotes

_QUOTES = (
    "Correct the quotes there: one is missing or too many, or something stands between a quote and the delimiter. A "
    "quote inside a quoted cell is written twice, without a backslash."
)
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
REPEATED_HEADER = "repeats the header: several exports in one file"


def rows_of_table(
    stream: IO[bytes], path: Path, max_row_bytes: int, delimiter: str, check_header: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    """Stream the rows of a table in UTF-8. Raises SourceError where its rows cannot be told apart."""
    # surrogateescape lets one wrongly encoded row be quarantined instead of ending the whole file.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(ENDLESS)
    # In a record above this limit the cells are above theirs, whatever is quoted in them.
    lines = RecordLines(text, delimiter, 2 * max_row_bytes + (1 << 16))
    # Spaces before a quote are none of the cell's: in `a, "b"` it begins with b.
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
            continue  # an empty line, which is no row in JSONL either
        is_line = len(cells) == len(header)
        if is_line:
            quotes.add(cells, (begins, reader.line_num))
        elif reader.line_num > begins:
            # The rows between would be lost without a trace.
            raise SourceError(
                f"{path}, lines {begins} to {reader.line_num}: they form one row that does not fit the header.", _QUOTES
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
            f"{path}, lines {found[0]} to {found[1]}: a quoted cell of one row seems to hold whole rows.",
            f"{_QUOTES} Where a letter does hold such lines, leave it out of the file, or export the file as JSONL.",
        )


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise SourceError(f"{path}: the header row is not CSV ({error}).", "Correct the quotes there.") from None
    except EndlessRecord:
        raise SourceError(f"{path}: the header row does not end.", "Correct the quotes there.") from None
    if not header:
        raise SourceError(f"{path}: the file has no header row.", "Name the columns in its first line.")
    if any(map(_was_not_utf8, header)):
        raise SourceError(
            f"{path}: the header row is not UTF-8.",
            "Name the file's encoding under `encoding` in the recipe, or save it in UTF-8.",
            act="look_at_source",
            file=str(path),
        )
    refuse_repeated_columns(path, header)
    return header


def _repeated_header(cells: Sequence[str], header: Sequence[str], path: Path, number: int, line: int) -> Row:
    """The row of a header that stands again in the file. Raises SourceError where it names other columns' places."""
    if [*map(_plain, cells)] == [*map(_plain, header)]:
        return Row(number, None, REPEATED_HEADER)
    raise SourceError(
        f"{path}, line {line}: the header stands there again with its columns in another order.",
        "Split the file there into two, each a source of its own.",
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def _was_not_utf8(text: str) -> bool:
    """Whether surrogateescape replaced bytes."""
    return not text.isascii() and _ESCAPED_BYTE.search(text) is not None
