"""Tables of text: records that are too long or do not end, quotes that were lost, letters that look like rows."""

import csv
import io
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus import tables
from sovereign_pipeline.corpus.document import Row
from sovereign_pipeline.corpus.file_formats import read_rows

HEADER = "id,date,question,answer\n"


def row(number: int, question: str = "Why is it out?", answer: str = "It is mended.") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([f"L-{number}", f"2024-01-{number % 28 + 1:02d}", question, answer])
    return text.getvalue()


def read(path: Path, text: str, max_row_bytes: int = 1_000) -> list[Row]:
    path.write_text(text, newline="")
    return list(read_rows(path, max_row_bytes))


def test_a_cell_above_the_limit_is_one_broken_row(tmp_path: Path) -> None:
    long = 'One, "two",\n three. ' * 40_000
    rows = read(tmp_path / "a.csv", HEADER + row(1) + row(2, long) + row(3))
    assert [each.problem for each in rows] == [None, "longer than 1,000 bytes", None]


def test_a_long_row_of_wrong_cells_is_one_broken_row(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", f"{HEADER}{row(1)}{'x' * 300_000},y\n{row(3)}")
    assert [each.problem for each in rows] == [None, "longer than 1,000 bytes", None]


def test_a_record_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ENDLESS", 1 << 20)
    text = HEADER + row(1) + 'L-2,2024-01-01,"Why' + "".join(map(row, range(3, 40_000)))
    with pytest.raises(SourceError, match=r"a\.csv, from line 3: a cell does not end"):
        read(tmp_path / "a.csv", text)


def test_rows_in_a_cell_above_the_limit_stop_the_file(tmp_path: Path) -> None:
    begin, end = 'L-2,2024-01-01,"Why,It is mended.\n', 'L-9000,2024-01-01,Why",It is mended.\n'
    text = HEADER + row(1) + begin + "".join(map(row, range(3, 9_000))) + end + row(9_001)
    with pytest.raises(SourceError, match="lines 3 to 9001: a quoted cell of one row seems to hold whole rows"):
        read(tmp_path / "a.csv", text)


@pytest.mark.parametrize(
    "letter",
    [
        "Dear office,\nthe lamps 12, 13, 14\nare out, since 2024-01-03, all of them\nyours, A.",
        "2024-01-03, 2024-01-04,\n2024-01-05, 2024-01-06,\n2024-01-07",
        "L-4, L-5, L-6\nL-7, L-8, L-9\nL-10",
        "a,b,c\nd,e,f\ng,h,i",
    ],
)
@pytest.mark.parametrize("column", ["question", "answer"])
def test_a_letter_of_several_lines_with_commas_is_one_row(tmp_path: Path, letter: str, column: str) -> None:
    text = HEADER + "".join(row(number, **({column: letter} if number % 3 else {})) for number in range(60))
    assert [each.problem for each in read(tmp_path / "a.csv", text)] == [None] * 60


def test_spaces_within_quotes_are_of_the_cell(tmp_path: Path) -> None:
    (first,) = read(tmp_path / "a.csv", 'a, b\n " x, y", z \n')
    assert first.values == {"a": " x, y", "b": "z "}
