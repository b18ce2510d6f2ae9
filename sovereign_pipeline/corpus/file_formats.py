"""The rows of a file that an institution already has: JSONL, a JSON array, CSV, TSV or Parquet, also gzipped.

What belongs here: bytes to rows, one at a time, and what is broken about one. What does not: what a row means
(`documents_from_rows.py`).
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.wording import counted

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
TABLES = (".csv", ".tsv", ".parquet")
"""Formats in which every row has the same columns."""
_BLOCK = 1 << 16
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_GET_A_WHOLE_COPY = "Get a whole copy of the file."
LARGEST_PARQUET_IN_GZIP = 1 << 30
"""Bytes. A Parquet file is read from its end, so all of it must be unpacked into memory; a small file can unpack into
a thousand times its size."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One row of a file, broken or not."""

    number: int
    """Line (JSONL), element (JSON) or record (CSV, Parquet), from 1."""
    values: dict[str, Any] | None
    """None when the row is broken."""
    problem: str | None = None
    """Why the row is broken; holds no text of it."""


def read_rows(
    path: Path, max_row_bytes: int, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Row]:
    """Stream the rows of a file, broken ones included. Raises SourceError for a file that cannot be read.

    Args:
        encoding: of a text file; None is UTF-8.
        delimiter: between the cells of a CSV or TSV file; None is a comma, and a tab in .tsv.
    """
    if not path.is_file():
        raise SourceError(
            f"{path}: there is no such source file.", "Correct `path` in the recipe, or put the file there."
        )
    name = path.name.removesuffix(".gz")
    readers = {".jsonl": _jsonl, ".json": _json_array, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    reader = readers.get(Path(name).suffix)
    if reader is None:
        raise SourceError(
            f"{path}: the format of the source is unknown.",
            f"The name must end in {', '.join(FORMATS)}, optionally followed by .gz.",
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            content = cast(IO[bytes], stream)
            if encoding is not None and reader is not _parquet:
                content = cast(IO[bytes], io.BufferedReader(_Recoded(content, path, encoding)))
            if delimiter is not None and reader in (_csv, _tsv):
                yield from _csv(content, path, max_row_bytes, delimiter)
            else:
                yield from reader(content, path, max_row_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read to its end ({error}).", _GET_A_WHOLE_COPY) from None


class _Recoded(io.RawIOBase):
    """A file in another encoding, as UTF-8. A byte that is none of its encoding ends the reading with SourceError: what
    the rows after it hold would be a guess."""

    def __init__(self, stream: IO[bytes], path: Path, encoding: str) -> None:
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._stream.read(_BLOCK)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeError:
                raise SourceError(
                    f"{self._path}: not {self._encoding}, within the bytes {self._read:,} to "
                    f"{self._read + len(block):,}.",
                    "Correct `encoding` of the source in the recipe.",
                ) from None
            self._read += len(block)
            self._ready = text.encode("utf-8", "surrogatepass")
            if not block:
                break
        given, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def has_header(path: Path) -> bool:
    """Whether all rows of the file have the same columns, named once."""
    return path.name.removesuffix(".gz").endswith(TABLES)


def _jsonl(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    for number, line in enumerate(_bounded_lines(stream, max_row_bytes), start=1):
        if number == 1 and line is not None:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line is None:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"), object_pairs_hook=_unique_fields)
        except UnicodeDecodeError:
            yield Row(number, None, "not UTF-8")
        except _DuplicateField:
            yield Row(number, None, "names a field twice")
        except json.JSONDecodeError as error:
            yield Row(number, None, f"not JSON ({error.msg} at column {error.colno})")
        except (ValueError, RecursionError) as error:  # a number too long, or nested too deep
            yield Row(number, None, f"not JSON that can be read ({type(error).__name__})")
        else:
            yield Row(number, values) if isinstance(values, dict) else Row(number, None, "not a JSON object")


class _DuplicateField(ValueError):
    """An object has two values under one name. Python keeps the last, which could lower a classification level."""


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _DuplicateField
    return values


def _check_unique_columns(path: Path, columns: Sequence[str]) -> None:
    duplicates = len(columns) - len(set(columns))
    if duplicates:
        raise SourceError(
            f"{path}: {counted(duplicates, 'column has', 'columns have')} the name of another column.",
            "Give every column a name of its own.",
        )


def _bounded_lines(stream: IO[bytes], max_row_bytes: int) -> Iterator[bytes | None]:
    """Lines without their newline; None for a line over the limit, which is never held in memory."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    while line := buffered.readline(max_row_bytes + 1):
        if len(line) <= max_row_bytes or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = buffered.readline(max_row_bytes)
        yield None


def _json_array(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    """The elements of one array of objects, one in memory at a time.

    Raises SourceError where the array's own syntax is broken or an element does not end within the limit: the rows
    after that cannot be told apart.
    """
    # surrogateescape lets one wrongly encoded element be quarantined instead of ending the whole file.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    decoder = json.JSONDecoder()
    buffer = text.read(_BLOCK).lstrip()
    if not buffer.startswith("["):
        raise SourceError(
            f"{path}: a .json source must be one array of objects.",
            "Name a file with one object on each line .jsonl.",
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
        if ended or len(buffer) > max_row_bytes + _BLOCK:
            raise SourceError(
                f"{path}, element {number + 1}: not JSON, or longer than {max_row_bytes:,} characters. The elements "
                f"after it cannot be told apart.",
                "Correct the element, or raise quarantine.max_row_bytes in the recipe.",
            )
        more = text.read(max(_BLOCK, len(buffer)))
        ended = not more
        buffer += more
    while not buffer.strip() and (buffer := text.read(_BLOCK)):
        pass
    if buffer:
        raise SourceError(f"{path}: something follows the array's end.", "Correct the file.")


def _element(number: int, value: Any, written: str, max_row_bytes: int) -> Row:
    if _ESCAPED_BYTE.search(written):
        return Row(number, None, "not UTF-8")
    if len(written.encode("utf-8", "surrogatepass")) > max_row_bytes:
        return Row(number, None, f"longer than {max_row_bytes:,} bytes")
    if not isinstance(value, dict):
        return Row(number, None, "not a JSON object")
    try:
        return Row(number, json.loads(written, object_pairs_hook=_unique_fields), None)
    except _DuplicateField:
        return Row(number, None, "names a field twice")


def _tsv(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    return _csv(stream, path, max_row_bytes, delimiter="\t")


def _csv(stream: IO[bytes], path: Path, max_row_bytes: int, delimiter: str = ",") -> Iterator[Row]:
    # surrogateescape lets one wrongly encoded row be quarantined instead of ending the whole file.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(max(max_row_bytes * 2, 131_072))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise SourceError(f"{path}: the header row is not CSV ({error}).", "Correct the quotes there.") from None
    if not header:
        raise SourceError(f"{path}: the file has no header row.", "Name the columns in its first line.")
    if any(map(_was_not_utf8, header)):
        raise SourceError(f"{path}: the header row is not UTF-8.", "Save the file in UTF-8.")
    _check_unique_columns(path, header)
    number = 0
    while True:
        number += 1
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(f"{path}, from line {begins}: not CSV ({error}).", "Correct the quotes there.") from None
        if not cells:
            continue  # an empty line, which is no row in JSONL either
        if len(cells) != len(header):
            if reader.line_num > begins:
                # The rows between would be lost without a trace.
                raise SourceError(
                    f"{path}, lines {begins} to {reader.line_num}: they form one row that does not fit the header.",
                    "Correct the quotes there: one is missing, or there is one too many.",
                )
            yield Row(number, None, f"has {len(cells)} cells where the header has {len(header)}")
        elif any(map(_was_not_utf8, cells)):
            yield Row(number, None, "not UTF-8")
        elif sum(len(cell.encode()) for cell in cells) > max_row_bytes:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
        else:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _was_not_utf8(text: str) -> bool:
    """Whether surrogateescape replaced bytes."""
    return not text.isascii() and _ESCAPED_BYTE.search(text) is not None


def _parquet(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".gz":
        stream = _unpacked(stream, path)
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        columns = file.schema_arrow.names
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}).", _GET_A_WHOLE_COPY) from None
    _check_unique_columns(path, columns)
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
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}).", _GET_A_WHOLE_COPY) from None


def _unpacked(stream: IO[bytes], path: Path) -> io.BytesIO:
    unpacked = io.BytesIO()
    while block := stream.read(_BLOCK):
        if unpacked.tell() + len(block) > LARGEST_PARQUET_IN_GZIP:
            raise SourceError(
                f"{path}: unpacks into more than {LARGEST_PARQUET_IN_GZIP:,} bytes.",
                "Unpack the file, and name the .parquet file in the recipe. Parquet is compressed already.",
            )
        unpacked.write(block)
    unpacked.seek(0)
    return unpacked


def _values_of(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The values of each row of a record batch, or why the row is broken."""
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
