"""Variants of one small file as a whole, from `first_files.yaml`: compression, format, encoding; each with its outcome.

Keys of a variant, beside `what` and `file`:
    as: `jsonl`, `csv`, `parquet`, `xlsx` or `ods`, with the arguments of that function of `first_file.py`; or
        `content`, the bytes. A variant that has neither is written by `WRITTEN[what]`.
    everywhere, last, without, in_arabic_digits: how its rows differ from the six letters.
    packed, edit: what is done to the whole, in order.
    source: keys of its source in the recipe.
    read, broken, stops_all, stop, one_column, not_passed: the outcome; without one, every row is read.
"""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow
import yaml

from sovereign_pipeline_tests.corpus import office
from sovereign_pipeline_tests.corpus.first_file import (
    ALL,
    ROWS,
    NotPassed,
    Read,
    Row,
    Stop,
    Variant,
    Write,
    as_json,
    broken,
    content,
    csv_text,
    cut,
    everywhere,
    in_arabic_digits,
    jsonl,
    parquet,
    rows,
    stops_all,
    table,
    with_links,
    without,
    zstd,
)


def _sheet(given: Sequence[Row]) -> list[list[Any]]:
    """The rows of a sheet, with days and whole numbers as such."""

    def cell(value: Any) -> Any:
        if isinstance(value, list):
            return json.dumps(value)
        with suppress(TypeError, ValueError):
            return datetime.date.fromisoformat(value)
        return int(value) if str(value).isdigit() else value

    return [[*given[0]], *([cell(value) for value in row.values()] for row in given)]


def _workbook(write: Callable[..., bytes], **more: Any) -> Callable[..., Write]:
    return lambda given=ROWS, **sheets: content(write({"Letters": _sheet(given), **sheets}, **more))


WRITERS: Mapping[str, Callable[..., Write]] = {
    "jsonl": jsonl,
    "csv": table,
    "parquet": parquet,
    "xlsx": _workbook(office.xlsx),
    "ods": _workbook(office.ods),
    "xls": _workbook(office.xls),
}
PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "lzma": lzma.compress,
    "zstd": zstd,
    "cut": cut,
}
GIVEN: Mapping[str, Callable[[Any], list[Row]]] = {
    "everywhere": lambda changes: everywhere(**changes),
    "last": lambda changes: rows(*changes),
    "without": lambda columns: without(*columns),
    "in_arabic_digits": in_arabic_digits,
}
OUTCOMES: Mapping[str, Callable[[Any], Read | Stop | NotPassed]] = {
    "read": lambda counts: Read(**counts),
    "broken": broken,
    "stops_all": lambda parts: stops_all(*parts),
    "stop": lambda parts: Stop(*parts),
    "one_column": lambda sign: Stop(f"header is one column, whose name contains {sign}", f"Set `delimiter: {sign}`"),
    "not_passed": lambda parts: NotPassed(*parts),
}
FORM = ("encoding", "delimiter", "end", "quoting", "ascii_only")


def _variant(described: Mapping[str, Any]) -> Variant:
    outcome = next((make(described[key]) for key, make in OUTCOMES.items() if key in described), ALL)
    return Variant(described["what"], described["file"], _write(described), outcome, described.get("source", {}))


def _write(described: Mapping[str, Any]) -> Write:
    if "content" in described:
        return content(described["content"].encode("latin-1"))
    if "as" not in described:
        return WRITTEN[described["what"]]
    form = {key: described[key] for key in FORM if key in described}
    if "packed" in described:
        form["packed"] = lambda data: reduce(lambda packed, name: PACKED[name](packed), described["packed"], data)
    if "edit" in described:
        form["edit"] = lambda text: _edited(text, **described["edit"])
    given = next((make(described[key]) for key, make in GIVEN.items() if key in described), ROWS)
    return WRITERS[described["as"]](given, **form)


def _edited(
    text: str, *, replace: Sequence[Sequence[Any]] = (), before: str = "", after: str = "", without_header: bool = False
) -> str:
    """replace: old, new and perhaps how often."""
    for each in replace:
        text = text.replace(*each)
    return f"{before}{text.split(chr(10), 1)[1] if without_header else text}{after}"


def _tar(packed: Callable[[bytes], bytes] = bytes) -> Write:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("letters.csv")
        member.size = len(csv_text())
        tar.addfile(member, io.BytesIO(csv_text().encode()))
    return content(packed(archive.getvalue()))


def _lines(begin: str = "", end: str = "", given: Sequence[Row] = ROWS) -> bytes:
    return "".join(f"{begin}{json.dumps(row)}{end}\n" for row in given).encode()


def _one_in_latin(text: bytes) -> Write:
    return content(text.replace(b"Lamp X", b"Lamp \xe9"))


def _swallowed(first: int, last: int, column: str) -> Write:
    """A table in which a cell's closing quote is missing, and another row has one too many in the same column."""

    def lose(text: str) -> str:
        lines = text.split("\r\n")
        cells = [line.split(",") for line in lines]
        place = cells[0].index(column)
        cells[first][place] = f'"{cells[first][place]}'
        cells[last][place] = f'{cells[last][place]}"'
        return "\r\n".join(",".join(each) for each in cells)

    return table(with_links(";".join), edit=lose)


def _spaced(text: str) -> str:
    """Every cell in quotes, and a space behind each delimiter."""
    return "".join(
        ", ".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in csv.reader(io.StringIO(text))
    )


def _each(change: Callable[[int, Row], Row], given: Sequence[Row] = ROWS) -> list[Row]:
    return [{**row, **change(number, row)} for number, row in enumerate(given)]


def _first_two(yes: str, no: str) -> Write:
    return table(_each(lambda number, row: {"open": yes if number < 2 else no}))


def _in_a_cell() -> Iterator[tuple[str, Write]]:
    forms: dict[str, Callable[[list[str]], Any]] = {
        "a JSON list": json.dumps,
        "a list of Python": repr,
        "`a;b`": ";".join,
        "`a|b`": "|".join,
        "`a,b`": ",".join,
        "`a b`": " ".join,
        "`a، b` (an Arabic comma)": "، ".join,
        "`{a,b}`": lambda ids: "{" + ",".join(ids) + "}",
    }
    return ((f"{what} in a cell", table(with_links(form))) for what, form in forms.items())


ONE_LATIN = rows({"subject": "Lamp X"})
ARABIC = {"response": "نفيدكم بأن المصباح القديم يعمل الآن", "request": "نود الاستفسار عن المصباح القديم"}
MARKED = [csv_text(part).encode("utf-8-sig") for part in (ROWS[:3], ROWS[3:])]
OTHER_ORDER = csv_text(ROWS[:3]) + csv_text([dict(reversed(row.items())) for row in ROWS[3:]])
SWALLOWED = ((2, 3, "request"), (1, 5, "response"), (3, 4, "id"), (1, 6, "subject"))
NO_AND_YES = (("0", "1"), ("0.0", "1.0"), ("", "x"), ("No ", "Yes"), ("null", "t"))
WRITTEN: Mapping[str, Write] = {
    "two sheets": _workbook(office.xlsx)(Others=[["a"], ["b"]]),
    "two sheets, one named": _workbook(office.xlsx)(Others=[["a"], ["b"]]),
    "a sheet that is not there": _workbook(office.xlsx)(Others=[["a"], ["b"]]),
    "a workbook with macros": _workbook(office.xlsx, parts={"xl/vbaProject.bin": b"x"})(),
    "a workbook with entities": _workbook(
        office.xlsx, parts={"xl/workbook.xml": "<!DOCTYPE a [<!ENTITY a 'b'>]><a/>"}
    )(),
    "a workbook that unpacks to 2 GB": content(office.bomb(office.xlsx({"Letters": []}))),
    "a workbook, cut": content(office.xlsx({"Letters": _sheet(ROWS)})[:-99]),
    "zstd": content(zstd(csv_text().encode())),
    "a tar archive named CSV": _tar(),
    "a packed tar archive named CSV": _tar(gzip.compress),
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/null"),
    "one JSON array": as_json(ROWS),
    "one JSON array named JSONL": as_json(ROWS),
    "an array over many lines": as_json(ROWS, 1),
    "objects over many lines": as_json(ROWS[0], 1),
    "a comma behind each line": content(_lines(end=",")),
    "files joined, each with a mark": content(_lines(begin="\ufeff")),
    "no byte in gzip": content(gzip.compress(b"")),
    "a header alone": content(",".join(ROWS[0]).encode()),
    "the same, with Arabic names of columns": table(
        [{"الموضوع الأول": "المصباح", **row} for row in ROWS], encoding="utf-16-le"
    ),
    "latin-1 in one line of UTF-8": _one_in_latin(_lines(given=ONE_LATIN).rstrip(b"\n")),
    "latin-1 in one cell of UTF-8": _one_in_latin(csv_text(ONE_LATIN).encode()),
    **{
        f"quotes are lost, so that rows {first} to {last} stand in one '{column}'": _swallowed(first, last, column)
        for first, last, column in SWALLOWED
    },
    "spaces before quotes": table(edit=_spaced),
    "spaces before quotes alone": table(rows({"subject": " x, y"}), edit=lambda text: text.replace(',"', ', "')),
    "a cell of three megabytes": table(rows({"request": "The lamp, is out. " * 170_000})),
    "two exports in one, each with a header": content(b"".join(MARKED)),
    "two exports in one, of other columns": content(OTHER_ORDER.encode()),
    "columns in capitals": jsonl([{name.upper(): value for name, value in row.items()} for row in ROWS]),
    "rows with a state": _first_two("True", "False"),
    **{f"rows with a state, as {no!r} and {yes!r}": _first_two(yes, no) for no, yes in NO_AND_YES},
    **dict(_in_a_cell()),
    "one number, such as `4669.0`": table(with_links(lambda ids: float(ids[0]) if ids else "")),
    "lists of fractions": parquet(with_links(lambda ids: [float(id) for id in ids])),
    "one fraction, or null": parquet(with_links(lambda ids: float(ids[0]) if ids else None)),
    "an object": jsonl(with_links(lambda ids: {"ids": ids})),
    "a row that names itself alone": jsonl(_each(lambda _, row: {"linked": row["linked"] or [row["id"]]})),
    "other ids than the rows'": jsonl(with_links(lambda ids: [f"X-{id}" for id in ids])),
    "`4669.00`": table(_each(lambda _, row: {"id": f"{row['id']}.00"})),
    "fractions": parquet(_each(lambda _, row: {"id": float(row["id"])})),
    "decimals": parquet(id=pyarrow.array([Decimal(f"{row['id']}.00") for row in ROWS])),
    "a letter for an id": jsonl(rows({"id": "The lamp is out. " * 20})),
    "timestamps": parquet(date=pyarrow.array([datetime.datetime(2024, 2, 3)] * 6)),
    "timestamps of a time zone": parquet(date=pyarrow.array([0] * 6, pyarrow.timestamp("s", "UTC"))),
    "Arabic letters without a language": jsonl(_each(lambda *_: ARABIC, without("language"))),
    "NaN for a text": jsonl(rows({"subject": float("nan")})),
    "objects for texts": parquet(request=pyarrow.array([{"text": "x"}] * 6)),
    "bytes for texts": parquet(request=pyarrow.array([b"x"] * 6)),
    "a text in a dictionary": parquet(department=pyarrow.array(["lamps"] * 6).dictionary_encode()),
    "one key twice": content(_lines(given=ROWS[:5]) + b'{"id": "7", "id": "8"}'),
    "the last line cut": content(_lines()[:-41]),
    "a text above a megabyte": jsonl(rows({"request": "The lamp is out. " * 70_000})),
}


VARIANTS: Mapping[str, tuple[Variant, ...]] = {
    heading: tuple(map(_variant, described))
    for heading, described in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}
"""Heading on the page -> the variants below it."""
