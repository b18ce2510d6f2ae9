"""Reading rows of a file an institution already has: JSONL, a JSON array, CSV, TSV or Parquet, also gzipped, by row.

What belongs here: bytes to rows, and saying what is wrong with one. What does not: what a row means (`reading.py`).
"""

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

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_BLOCK = 1 << 16
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """number: 1-based line (JSONL), element (JSON) or record (CSV, Parquet). values: None when the row is broken; then
    `problem` says why, in words that hold no text of the row."""

    number: int
    values: dict[str, Any] | None
    problem: str | None = None


def read_rows(path: Path, max_row_bytes: int) -> Iterator[Row]:
    """Stream the rows of a file, broken ones included. Raises SourceError when the file itself cannot be read."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such source file. Correct `path` in the recipe, or put the file there.")
    name = path.name.removesuffix(".gz")
    readers = {".jsonl": _jsonl, ".json": _json_array, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    reader = readers.get(Path(name).suffix)
    if reader is None:
        raise SourceError(f"{path}: a source must be named {', '.join(FORMATS)}, optionally with .gz behind it.")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield from reader(cast(IO[bytes], stream), path, max_row_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read to its end ({error}). Get a whole copy of the file.") from None


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
            values = json.loads(line.decode("utf-8"), object_pairs_hook=_named_once)
        except UnicodeDecodeError:
            yield Row(number, None, "not UTF-8")
        except _NamedTwice:
            yield Row(number, None, "names a field twice")
        except json.JSONDecodeError as error:
            yield Row(number, None, f"not JSON ({error.msg} at column {error.colno})")
        except (ValueError, RecursionError) as error:  # a number too long, or nested too deep
            yield Row(number, None, f"not JSON that can be read ({type(error).__name__})")
        else:
            whole = isinstance(values, dict)
            yield Row(number, values, None) if whole else Row(number, None, "not a JSON object")


class _NamedTwice(ValueError):
    """Of two values under one name Python keeps the last; if that is a level, a document could fall by it."""


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _NamedTwice
    return values


def _stop_at_columns_named_twice(path: Path, columns: Sequence[str]) -> None:
    twice = len(columns) - len(set(columns))
    if twice:
        raise SourceError(f"{path}: {twice} columns have the name of another one. Give every column a name of its own.")


def _bounded_lines(stream: IO[bytes], max_row_bytes: int) -> Iterator[bytes | None]:
    """Lines without their newline; None for a line over the limit, which is skipped without being held in memory."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    while line := buffered.readline(max_row_bytes + 1):
        if len(line) <= max_row_bytes or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = buffered.readline(max_row_bytes)
        yield None


def _json_array(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    """One array of objects, of which one at a time is in memory. Where its own syntax is broken, or an element is so
    long that its end is not seen, the rows behind cannot be told apart, so the whole file stops."""
    # surrogateescape lets one wrongly encoded element be quarantined instead of ending the whole file.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    decoder = json.JSONDecoder()
    buffer = text.read(_BLOCK).lstrip()
    if not buffer.startswith("["):
        raise SourceError(
            f"{path}: a .json source must be one array of objects. A file with an object on each line is named .jsonl."
        )
    buffer, number, ended = buffer[1:], 0, False
    while True:
        buffer = buffer.lstrip()
        try:
            value, end = decoder.raw_decode(buffer)
            behind = buffer[end:].lstrip()[:1]
        except (ValueError, RecursionError):
            behind = ""
        if behind in (",", "]"):
            number += 1
            yield _element(number, value, buffer[:end], max_row_bytes)
            buffer = buffer[end:].lstrip()[1:]
            if behind == "]":
                break
            continue
        if number == 0 and buffer.startswith("]"):
            buffer = buffer[1:]
            break
        if ended or len(buffer) > max_row_bytes + _BLOCK:
            raise SourceError(
                f"{path}, element {number + 1}: not JSON, or longer than {max_row_bytes:,} characters, so the elements "
                f"behind it cannot be told apart. Correct it, or raise quarantine.max_row_bytes in the recipe."
            )
        more = text.read(max(_BLOCK, len(buffer)))
        ended = not more
        buffer += more
    while not buffer.strip() and (buffer := text.read(_BLOCK)):
        pass
    if buffer:
        raise SourceError(f"{path}: something follows the array's end. Correct the file.")


def _element(number: int, value: Any, written: str, max_row_bytes: int) -> Row:
    if _ESCAPED_BYTE.search(written):
        return Row(number, None, "not UTF-8")
    if len(written.encode("utf-8", "surrogatepass")) > max_row_bytes:
        return Row(number, None, f"longer than {max_row_bytes:,} bytes")
    if not isinstance(value, dict):
        return Row(number, None, "not a JSON object")
    try:
        return Row(number, json.loads(written, object_pairs_hook=_named_once), None)
    except _NamedTwice:
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
        raise SourceError(f"{path}: the header row is not CSV ({error}). Correct the quotes there.") from None
    if not header:
        raise SourceError(f"{path}: the CSV file has no header row.")
    if any(map(_was_not_utf8, header)):
        raise SourceError(f"{path}: the header row is not UTF-8. Save the file in UTF-8.")
    _stop_at_columns_named_twice(path, header)
    number = 0
    while True:
        number += 1
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(f"{path}, from line {begins}: not CSV ({error}). Correct the quotes there.") from None
        if not cells:
            continue  # an empty line, which is no row in JSONL either
        if len(cells) != len(header):
            if reader.line_num > begins:
                # Rows between would be lost without a trace, so the whole file stops.
                raise SourceError(
                    f"{path}, lines {begins} to {reader.line_num}: they run together into one row that does not fit "
                    f"the header. A quote is missing or one too many; correct it."
                )
            yield Row(number, None, f"has {len(cells)} cells where the header has {len(header)}")
        elif any(map(_was_not_utf8, cells)):
            yield Row(number, None, "not UTF-8")
        elif sum(len(cell.encode()) for cell in cells) > max_row_bytes:
            yield Row(number, None, f"longer than {max_row_bytes:,} bytes")
        else:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _was_not_utf8(text: str) -> bool:
    """Whether surrogateescape had to stand in for bytes."""
    return not text.isascii() and _ESCAPED_BYTE.search(text) is not None


def _parquet(stream: IO[bytes], path: Path, max_row_bytes: int) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(stream.read()) if path.suffix == ".gz" else stream)
        columns = file.schema_arrow.names
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}). Get a whole copy.") from None
    _stop_at_columns_named_twice(path, columns)
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
        raise SourceError(f"{path}: not readable as Parquet ({type(error).__name__}). Get a whole copy.") from None


def _values_of(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Of each row of a record batch its values, or what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # some value is no UTF-8, or a time that Python has none for
        for number in range(batch.num_rows):
            try:
                (values,) = batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield "not UTF-8"
            except (ValueError, OverflowError) as error:
                yield f"a value cannot be read ({type(error).__name__})"
            else:
                yield values
