"""Bad input of every kind: each row ends as a document or in quarantine, or the whole stops; nothing is lost."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import QuarantineExceeded, SourceError
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.corpus.sources import raw_corpus_of

MARKER = "87654321"
"""Stands in every broken row and may be seen nowhere after it."""
LONGEST_ROW = 5_000


@dataclass(frozen=True)
class Case:
    """good: for each row whether it is a document. Fewer come out only when the whole is refused."""

    name: str
    content: bytes
    good: list[bool]


def broken_letter(number: int, **changes: Any) -> dict[str, Any]:
    return letter(number, **{"author": MARKER, **changes})


def _json(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _csv_line(cells: Any, terminator: str = "\n") -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=terminator, quoting=csv.QUOTE_ALL).writerow(list(cells))
    return text.getvalue().encode()


def _json_of(changes: dict[str, Any], number: int) -> bytes:
    return _json(broken_letter(number, **changes))


def _csv_of(changes: dict[str, Any], number: int) -> bytes:
    return _csv_line(broken_letter(number, **changes).values())


# What any format can say wrongly, as changes of a row. A duplicate of row 0 is broken because row 0 is always good.
CHANGES: dict[str, dict[str, Any]] = {
    "missing": {"response": ""},
    "blank": {"request": " \t\n"},
    "unknown level": {"classification": "RESTRICTED"},
    "level in small letters": {"classification": "secret"},
    "no level": {"classification": ""},
    "no day": {"date": "15/02/2024"},
    "no such day": {"date": "2024-02-30"},
    "duplicate": {"id": letter(0)["id"]},
    "too long": {"request": "x" * LONGEST_ROW + MARKER},
    "a letter for an id": {"id": f"My number is {MARKER}. " * 20},
    "an id of two lines": {"id": f"R-1\n{MARKER}"},
    "no language": {"language": "-"},
}
# `first_files.yaml` has further kinds, row by row.
JSONL: dict[str, Callable[[int], bytes]] = {
    **{name: partial(_json_of, changes) for name, changes in CHANGES.items()},
    "cut": lambda number: _json(broken_letter(number))[:-20],
    "not an object": lambda number: _json([MARKER]),
    "nested": lambda number: b"[" * 2_400 + MARKER.encode() + b"]" * 2_400,
    "infinite": lambda number: _json(broken_letter(number)).replace(b'"en"', b"1e999"),
    "huge": lambda number: _json(broken_letter(number)).replace(b'"en"', b"9" * 4_400),
    "half a character": lambda number: json.dumps(broken_letter(number, subject="\ud800")).encode(),
    "surrogate bytes": lambda number: _json(broken_letter(number, subject="\ud800")),
    "control character": lambda number: _json(broken_letter(number)).replace(b"en", b"e\x00n"),
    "latin-1": lambda number: json.dumps(broken_letter(number, subject="é"), ensure_ascii=False).encode("latin-1"),
    "utf-16": lambda number: json.dumps(broken_letter(number)).encode("utf-16-be").replace(b"\n", b" "),
    "absent": lambda number: _json({name: value for name, value in broken_letter(number).items() if name != "case"}),
    "null": lambda number: _json(broken_letter(number, response=None)),
    "two levels": lambda number: _json(broken_letter(number))[:-1] + b', "classification": "PUBLIC"}',
}
CSV: dict[str, Callable[[int], bytes]] = {
    **{name: partial(_csv_of, changes) for name, changes in CHANGES.items() if name != "blank"},
    "too few cells": lambda number: _csv_line([MARKER, "x"]),
    "too many cells": lambda number: _csv_line([*letter(number).values(), MARKER]),
    "latin-1": lambda number: ",".join(broken_letter(number, subject="é").values()).encode("latin-1") + b"\n",
    "control character": lambda number: _csv_line(broken_letter(number, id="R\x00").values()),
}
PARQUET: dict[str, dict[str, Any]] = {**CHANGES, "null": {"response": None}, "latin-1": {"subject": b"\xe9"}}

# Good rows may hold whatever text there is but NUL; the line's own breaks and quotes are the format's business.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
prose = st.text(characters, max_size=30).map(lambda text: f"Text: {text}.")
fields = st.fixed_dictionaries({"subject": prose, "request": prose, "response": prose})


def rows_of(broken: Sequence[str]) -> st.SearchStrategy[list[str | dict[str, str]]]:
    """Good rows as their texts, broken ones as the name of what is wrong; the first is good."""
    return st.tuples(fields, st.lists(st.one_of(fields, st.sampled_from(broken)), max_size=12)).map(
        lambda pair: [pair[0], *pair[1]]
    )


@st.composite
def jsonl_files(draw: st.DrawFn) -> Case:
    rows = draw(rows_of(sorted(JSONL)))
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    between = draw(st.sampled_from([b"", end, b"  " + end]))
    lines = [JSONL[row](n) if isinstance(row, str) else _json(letter(n, **row)) for n, row in enumerate(rows)]
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + between.join(line + end for line in lines)
    return _case(draw, "given.jsonl", content, rows)


@st.composite
def csv_files(draw: st.DrawFn) -> Case:
    rows = draw(rows_of(sorted(CSV)))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [_csv_line(letter(0), end)]
    lines += [
        CSV[row](n) if isinstance(row, str) else _csv_line(letter(n, **row).values(), end) for n, row in enumerate(rows)
    ]
    between = draw(st.sampled_from([b"", end.encode()]))
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + between.join(lines)
    return _case(draw, "given.csv", content, rows)


@st.composite
def parquet_files(draw: st.DrawFn) -> Case:
    rows = draw(rows_of(sorted(PARQUET)))
    values = [
        broken_letter(n, **PARQUET[row]) if isinstance(row, str) else letter(n, **row) for n, row in enumerate(rows)
    ]
    columns = {
        name: pyarrow.array(
            [value.encode() if isinstance(value, str) else value for value in (row[name] for row in values)],
            pyarrow.binary(),
        ).view(pyarrow.string())
        for name in values[0]
    }
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=draw(st.integers(1, 6)))
    return _case(draw, "given.parquet", sink.getvalue(), rows)


def _case(draw: st.DrawFn, name: str, content: bytes, rows: Sequence[str | dict[str, str]]) -> Case:
    good = [not isinstance(row, str) for row in rows]
    return Case(f"{name}.gz", gzip.compress(content), good) if draw(st.booleans()) else Case(name, content, good)


def institution_with(root: Path, case: Case) -> DemoInstitution:
    recipe = minimal_recipe(quarantine={"max_share": 0.99, "max_row_bytes": LONGEST_ROW})
    recipe["sources"][0]["path"] = f"sources/{case.name}"
    institution = DemoInstitution(root, recipe, [letter(0)])
    institution.write()
    (institution.settings.data / "sources" / case.name).write_bytes(case.content)
    return institution


def assert_nothing_is_lost(case: Case) -> None:
    with tempfile.TemporaryDirectory() as directory:
        raw = raw_corpus_of(institution_with(Path(directory), case))
        documents = list(read_documents(raw.file("documents.jsonl")))
        quarantined = list(read_jsonl(raw.file("quarantine.jsonl")))
        assert [document.id for document in documents] == [letter(n)["id"] for n, good in enumerate(case.good) if good]
        assert len(quarantined) == case.good.count(False)
        (source,) = json.loads(raw.file("sources.json").read_bytes())
        assert source["rows"] == len(case.good) == len(documents) + len(quarantined) + source["not_selected"]
        for said in (raw.file("quarantine.jsonl"), raw.file("sources.json"), raw.path / "manifest.json"):
            assert MARKER not in said.read_text()


@pytest.mark.parametrize("files", [jsonl_files(), csv_files(), parquet_files()], ids=["JSONL", "CSV", "Parquet"])
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_nothing_of_a_file_is_lost(files: st.SearchStrategy[Case], data: st.DataObject) -> None:
    assert_nothing_is_lost(data.draw(files))


@settings(max_examples=15, deadline=None)
@given(st.one_of(jsonl_files(), csv_files(), parquet_files()), st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_accounted_for(case: Case, data: st.DataObject) -> None:
    """The gate reads the file once more and must find as many rows; a gzip or Parquet file that was cut must stop."""
    cut = data.draw(st.integers(0, len(case.content) - 1))
    changed = bytearray(case.content[:cut])
    was_only_cut = data.draw(st.booleans())
    if not was_only_cut:
        changed = bytearray(case.content)
        changed[cut] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as directory:
        institution = institution_with(Path(directory), Case(case.name, bytes(changed), []))
        try:
            raw_corpus_of(institution)
        except (SourceError, QuarantineExceeded) as refused:
            assert case.name in str(refused) or "have no documents" in str(refused)
            assert MARKER not in str(refused)
            assert not list(institution.settings.artifacts.glob("*/manifest.json"))
        else:
            assert not (was_only_cut and case.name.endswith((".gz", ".parquet")))


def test_each_kind_of_broken_row_is_quarantined_beside_good_ones() -> None:
    good = [number % 2 == 0 for number in range(2 * len(JSONL) + 1)]
    lines = [_json(letter(n)) if is_good else [*JSONL.values()][n // 2](n) for n, is_good in enumerate(good)]
    assert_nothing_is_lost(Case("given.jsonl", b"\n".join(lines), good))
    good = [number % 2 == 0 for number in range(2 * len(CSV) + 1)]
    rows = [_csv_line(letter(n).values()) if is_good else [*CSV.values()][n // 2](n) for n, is_good in enumerate(good)]
    assert_nothing_is_lost(Case("given.csv", b"".join((_csv_line(letter(0)), *rows)), good))


def test_a_parquet_file_that_names_a_column_twice_stops_the_line(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([letter(0)])
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table.append_column("classification", pyarrow.array(["PUBLIC"])), sink)
    with pytest.raises(SourceError, match="1 column has the name of another column"):
        raw_corpus_of(institution_with(tmp_path, Case("given.parquet", sink.getvalue(), [])))


def test_ids_that_differ_in_their_code_points_alone_are_one(tmp_path: Path) -> None:
    content = b"\n".join((_json(letter(0, id="Caf\u00e9")), _json(letter(1, id="Cafe\u0301"))))
    raw = raw_corpus_of(institution_with(tmp_path, Case("given.jsonl", content, [])))
    (row,) = read_jsonl(raw.file("quarantine.jsonl"))
    assert row["reason"] == "duplicate id"
