"""What is read of the documents is what they say, in one part or in many, by one process or by several."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.links import link_key
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.split import reading
from sovereign_pipeline.split.grouping import key_of
from sovereign_pipeline.split.reading import read_author_keys, read_columns
from sovereign_pipeline.split.similarity import shingles_of
from sovereign_pipeline_tests.conftest import letter


def documents(count: int) -> list[Document]:
    rows = [letter(number, source="letters") for number in range(count)]
    for number, row in enumerate(rows):
        row["links"] = [f"R-{number - 1:05d}"] if number % 3 == 2 else []
        row["case"] = "" if number % 5 == 4 else row["case"]
        row["rejected"] = "no" if number % 4 == 0 else None
    return [Document(**row) for row in rows]


@pytest.mark.parametrize("bytes_per_part", [1 << 22, 3_000])
def test_columns_hold_what_the_documents_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_per_part: int
) -> None:
    monkeypatch.setattr(reading, "_BYTES_PER_PART", bytes_per_part)
    written = documents(30)
    write_documents(tmp_path / "documents.jsonl", written)
    columns = read_columns(tmp_path / "documents.jsonl", tmp_path)
    assert columns.ids == [document.id for document in written]
    assert columns.is_preference.tolist() == [document.is_preference for document in written]
    assert columns.days.tolist() == [date.fromisoformat(document.date).toordinal() for document in written]
    ties = list(zip(columns.cases.rows.tolist(), columns.cases.keys.tolist(), strict=True))
    assert ties == [(number, key_of(folded(document.case))) for number, document in enumerate(written) if document.case]
    ties = list(zip(columns.matters.rows.tolist(), columns.matters.keys.tolist(), strict=True))
    assert ties == [
        (n, key_of(link_key(id))) for n, document in enumerate(written) for id in (document.id, *document.links)
    ]
    found = columns.shingles.read(np.arange(30)).by_row()
    assert [row.tolist() for row in found] == [shingles_of(document).tolist() for document in written]


def test_authors_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    names = ["Salim  Al Hinai", "SALIM AL-HINАI", "Maryam", " "]
    rows = [letter(number, source="letters", author=name) for number, name in enumerate(names)]
    write_documents(tmp_path / "documents.jsonl", [Document(**row) for row in rows])
    keys = read_author_keys(tmp_path / "documents.jsonl")
    assert list(keys) == ["R-00000", "R-00001", "R-00002"]
    assert keys["R-00000"] == keys["R-00001"] != keys["R-00002"]


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "documents.jsonl").touch()
    columns = read_columns(tmp_path / "documents.jsonl", tmp_path)
    assert len(columns) == len(columns.shingles) == 0


@pytest.mark.parametrize("bytes_per_part", [1 << 22, 3_000])
def test_a_broken_line_is_named_by_its_number_in_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_per_part: int
) -> None:
    monkeypatch.setattr(reading, "_BYTES_PER_PART", bytes_per_part)
    write_documents(tmp_path / "documents.jsonl", documents(30))
    lines = (tmp_path / "documents.jsonl").read_bytes().splitlines(keepends=True)
    lines[21] = lines[21].replace(b'"date"', b'"day"')
    (tmp_path / "documents.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match=r"documents.jsonl, line 22: not a document"):
        read_columns(tmp_path / "documents.jsonl", tmp_path)
