"""Read the rows of a JSONL, JSON, CSV, TSV or Parquet file, compressed or not, or of a workbook's sheet."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
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
from sovereign_pipeline.corpus.tables import rows_of_table
from sovereign_pipeline.corpus.values import WrittenNumber

WORKBOOKS = (".xlsx", ".xls", ".ods")
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", *WORKBOOKS)
TABLES = (".csv", ".tsv", ".parquet", *WORKBOOKS)
"""Suffixes of tables, in which every row has the same columns."""
_WORKBOOK_PARSERS = "sovereign_pipeline.corpus.office_files"
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*(?:\{|\Z)")
LARGEST_PACKED_PARQUET = 1 << 30
"""Maximum unpacked size of a compressed Parquet file, in bytes. Parquet is read from its end, so the whole file is
unpacked into memory, and a small file can unpack to a thousand times its size."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def format_of(path: Path) -> str:
    """Return the suffix of a file's format in lower case, without its compression. Raises SourceError for an unknown
    format."""
    suffix = Path(name_without_packing(path)).suffix
    if suffix in FORMATS:
        return suffix
    remedy = f"The name must end in {', '.join(FORMATS)}, optionally followed by {', '.join(PACKINGS)}."
    if suffix in (".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz", ".tbz2", ".txz"):
        raise SourceError(f"{path}: this is an archive.", f"Unpack it, and use the file in it. {remedy}")
    raise SourceError(f"{path}: its name does not reveal its format.", remedy)


def read_rows(
    path: Path,
    max_row_bytes: int,
    encoding: str | None = None,
    delimiter: str | None = None,
    check_header: Callable[[Sequence[str]], None] = lambda columns: None,
    sheet: str | None = None,
) -> Iterator[Row]:
    """Stream the rows of a file, broken ones included. Raises SourceError for a file that cannot be read.

    Args:
        encoding: encoding of a text file; None for UTF-8.
        delimiter: delimiter of a CSV or TSV file; None for a comma, or a tab in .tsv.
        check_header: called with the column names of a table before its first row.
        sheet: sheet of a workbook; None if it has one.
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
    """Return a sheet as CSV. Raises SourceError."""
    items = _parsed_workbook(path, "parse_sheet", {"sheet": sheet})
    text = io.StringIO()
    csv.writer(text).writerows(row for item in items for row in item["rows"])
    return io.BytesIO(text.getvalue().encode(errors="replace"))


def sheets_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets. Raises SourceError."""
    reject_unreadable(path)
    return [name for item in _parsed_workbook(path, "parse_sheet_names", {}) for name in item["sheets"]]


def _parsed_workbook(path: Path, parser: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Parse a workbook in the sandbox."""
    with Sandboxes(f"{_WORKBOOK_PARSERS}:{parser}", options) as sandboxes:
        items = [*sandboxes.items_of(path)]
    if problem := next((item["broken"] for item in items if "broken" in item), None):
        raise SourceError(f"{path}: the workbook cannot be read: {problem}.", "Correct it, or save the sheet as CSV.")
    return items


def has_header(path: Path) -> bool:
    """Return whether the file is a table, whose header names the columns of all rows."""
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
            f"{path}: its objects span several lines.",
            "Write each object on one line, or all objects in one array (.json).",
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
    """Return a line without a byte order mark and without a comma after its object, as in files that were made by
    splitting an array."""
    stripped = line.removeprefix(BYTE_ORDER_MARK).rstrip()
    return stripped[:-1] if stripped.endswith(b"},") else stripped


def _begins_an_array(line: bytes, is_all: bool) -> bool:
    """Return whether a file's first line begins an array of objects, or contains an array of several. `is_all`: whether
    nothing follows the line."""
    if _ARRAY_OF_OBJECTS.match(line) is None:
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return is_all and len(value) > 1 and all(isinstance(each, dict) for each in value)


class _DuplicateField(ValueError):
    """Raised if an object has two values under one name. Python would keep the last one, which could lower a
    classification level."""


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _DuplicateField
    return values


def _bounded_lines(stream: IO[bytes], max_row_bytes: int) -> Iterator[bytes | None]:
    """Yield lines without their newline, and None for a line above the limit, which is never loaded completely."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    while line := buffered.readline(max_row_bytes + 1):
        if len(line) <= max_row_bytes or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = buffered.readline(max_row_bytes)
        yield None


def _json_array(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    """Yield the elements of one array of objects, with one in memory at a time. Raises SourceError if the array's
    syntax is broken or an element is above the limit, because the following rows cannot be separated."""
    # With surrogateescape, one wrongly encoded element is quarantined and the rest of the file is read.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    decoder = json.JSONDecoder()
    buffer = text.read(BLOCK).lstrip()
    if not buffer.startswith("["):
        raise SourceError(
            f"{path}: a .json source must be one array of objects.",
            "Rename a file with one object per line to .jsonl; write other JSON as one array.",
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
                f"{path}, element {number + 1}: not JSON, or longer than {max_row_bytes:,} characters. The elements "
                f"after it cannot be separated.",
                "Correct the element, or raise quarantine.max_row_bytes in the recipe.",
            )
        more = text.read(max(BLOCK, len(buffer)))
        ended = not more
        buffer += more
    while not buffer.strip() and (buffer := text.read(BLOCK)):
        pass
    if buffer:
        raise SourceError(f"{path}: there is text after the array's end.", "Correct the file.")


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
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}).", GET_A_WHOLE_COPY) from None
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
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}).", GET_A_WHOLE_COPY) from None


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
