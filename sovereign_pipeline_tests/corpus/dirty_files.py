"""Six invented letters, and ways to write them to a small file as exports arrive."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sovereign_pipeline_tests.conftest import letter

Row = dict[str, Any]
Write = Callable[[Path], None]
Change = Callable[[Row], Row]

ROWS: list[Row] = [letter(number, id=str(4669 + number), linked=[]) for number in range(6)]
ROWS[1]["linked"] = ["4669"]
ROWS[2]["linked"] = ["4669", "4670"]
SECRET_WORDS = (*(f"w{number}x" for number in range(6)), "mended", "lamp is out", "Officer")
"""Stand in every letter's texts or authors, and may stand in no message."""


def rows(*changes: Mapping[str, Any], each: Change = lambda row: row) -> list[Row]:
    """The letters, the last ones of them changed."""
    kept = [*ROWS[: len(ROWS) - len(changes)]]
    changed = [{**row, **change} for row, change in zip(ROWS[len(kept) :], changes, strict=True)]
    return [each(row) for row in (*kept, *changed)]


def jsonl(
    given: Sequence[Row] = ROWS,
    *,
    encoding: str = "utf-8",
    end: str = "\n",
    ascii_only: bool = False,
    before: str = "",
    packed: Callable[[bytes], bytes] = bytes,
) -> Write:
    """One object a line."""
    text = before + "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in given)
    return content(packed(text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")))


def as_json(given: Any, indent: int | None = None) -> Write:
    """One value of JSON."""
    return content(json.dumps(given, indent=indent, ensure_ascii=False).encode())


def csv_text(given: Sequence[Row] = ROWS, *, delimiter: str = ",", end: str = "\r\n", quoting: int = 0) -> str:
    """A table of text; lists as JSON."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(given[0])
    for row in given:
        writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue()


def table(
    given: Sequence[Row] = ROWS,
    *,
    delimiter: str = ",",
    encoding: str = "utf-8",
    end: str = "\r\n",
    quoting: int = 0,
    edit: Callable[[str], str] = str,
) -> Write:
    """A table of text in a file. edit: what is done to the whole text."""
    return content(edit(csv_text(given, delimiter=delimiter, end=end, quoting=quoting)).encode(encoding))


def parquet(given: Sequence[Row] = ROWS, **columns: Any) -> Write:
    """columns: arrays of Arrow in place of the letters' own."""
    built = pyarrow.Table.from_pylist(list(given))
    for name, array in columns.items():
        built = built.set_column(built.schema.get_field_index(name), name, array)

    def write(path: Path) -> None:
        pyarrow.parquet.write_table(built, path)

    return write


def content(given: bytes) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(given)

    return write


def with_links(links: Callable[[list[str]], Any]) -> list[Row]:
    return [{**row, "linked": links(row["linked"])} for row in ROWS]


def without(*columns: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in columns} for row in ROWS]


def everywhere(**changes: Any) -> list[Row]:
    """The letters, each of them changed."""
    return [{**row, **changes} for row in ROWS]


def in_arabic_digits(column: str) -> list[Row]:
    digits = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
    return [{**row, column: row[column].translate(digits)} for row in ROWS]


def zstd(given: bytes) -> bytes:
    packed: bytes = pyarrow.compress(given, codec="zstd", asbytes=True)
    return packed


def cut(given: bytes) -> bytes:
    return given[:-9]
