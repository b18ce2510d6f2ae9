"""A variant of a small file with its outcome, and the page `docs/reference/first-file.md` that lists all variants."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


OUTCOMES = ("documents", "quarantined", "excluded", "not_selected")


@dataclass(frozen=True)
class Read:
    """The file is read: rows = documents + quarantined + excluded + not selected."""

    documents: int = 6
    quarantined: int = 0
    excluded: int = 0
    not_selected: int = 0
    reason: str = ""
    """Of every quarantined row."""
    links: int = 3
    """Of its documents, each naming a row."""

    @property
    def rows(self) -> int:
        return sum(getattr(self, name) for name in OUTCOMES)

    def __str__(self) -> str:
        parts = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in OUTCOMES if getattr(self, name)]
        return f"{self.rows} rows = {' + '.join(parts)}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Stop:
    """The line stops, and names the file."""

    says: str
    """Part of the message."""
    remedy: str
    """Part of the hint."""

    def __str__(self) -> str:
        return f"Stops: “{self.says}”. “{self.remedy}”."


ALL = Read()


def broken(reason: str, links: int = 3) -> Read:
    """One row of six in quarantine."""
    return Read(5, 1, reason=reason, links=links)


def stops_all(reason: str, remedy: str, row: int = 1) -> Stop:
    """Every row is broken. row: the first with the reason."""
    return Stop(f"are broken, 100.0%; the recipe allows 90.0%. {reason}: row {row}", remedy)


@dataclass(frozen=True)
class NotPassed:
    """The rows are read, and a gate does not pass."""

    gate: str
    says: str

    def __str__(self) -> str:
        return f"The gate `{self.gate}` does not pass: “{self.says}”."


@dataclass(frozen=True)
class Variant:
    """One file."""

    what: str
    name: str
    write: Write
    outcome: Read | Stop | NotPassed
    source: Mapping[str, Any] = field(default_factory=dict)
    """Keys of its source in the recipe."""


def first_file_markdown(variants: Mapping[str, Iterable[Variant]]) -> str:
    """The page. variants: heading -> the variants below it."""
    lines = [
        "# The first file",
        "",
        "What becomes of one file of six letters in the states in which exports arrive, with the recipe's keys in the",
        "second column. The parts of the message that name the cause and the remedy are in quotes. `make test` writes",
        "and reads every file (`corpus/test_first_file.py`); this page is made from the tests' table by `make docs`.",
        "More broken rows than `quarantine.max_share` stop the line; here it is 0.9. No message quotes a text.",
        "",
        "Not found: a file in one old encoding that is named as another of the same kind (cp1256 as cp1252). Its",
        "letters are wrong in every row. `sources look` proposes an encoding; a person reads whether they are right.",
        "Rows in one quoted cell, because its closing quote is missing and a later row has one too many in the same",
        "column, where the table has fewer than three columns, or no other one of ids, numbers, dates or a few values.",
    ]
    for heading, each in variants.items():
        lines += ["", f"## {heading}", "", "| the file | recipe | what happens |", "|---|---|---|"]
        lines += [f"| {variant.what} (`{variant.name}`) | {_keys(variant)} | {_cell(variant)} |" for variant in each]
    return "\n".join(lines) + "\n"


def _keys(variant: Variant) -> str:
    return _escaped(", ".join(f"`{key}: {value}`" for key, value in variant.source.items()))


def _cell(variant: Variant) -> str:
    return _escaped(str(variant.outcome))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
