"""Files as they are read: limits, members of archives, records without end, quotes that were lost."""

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus import file_formats
from sovereign_pipeline.corpus.document import Row
from sovereign_pipeline.corpus.file_formats import read_rows


@pytest.mark.security_case(
    "A gzipped Parquet file of a few kilobytes unpacks to more than the memory", "rejected after 1 GiB is unpacked"
)
def test_a_gzipped_parquet_file_is_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "LARGEST_PACKED_PARQUET", 1 << 20)
    unpacked = []

    class Counting(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            block = super().read(size)
            unpacked.append(len(block))
            return block

    monkeypatch.setattr("sovereign_pipeline.corpus.opening.gzip.open", Counting)
    path = tmp_path / "letters.parquet.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(SourceError, match=r"letters\.parquet\.gz: the file unpacks to more than 1,048,576 bytes"):
        list(file_formats.read_rows(path, 1_000))
    assert sum(unpacked) < 2 << 20


LINES = b"".join(b'{"id": "%d"}\n' % number for number in range(30))
HALF = len(LINES) // 2
PACKERS: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}


@pytest.mark.parametrize("packing", PACKERS)
def test_all_members_of_a_packed_file_are_read_and_what_follows_and_is_none_stops_it(
    tmp_path: Path, packing: str
) -> None:
    pack, path = PACKERS[packing], tmp_path / f"letters.jsonl.{packing}"
    packed = pack(LINES[HALF:])
    path.write_bytes(pack(LINES[:HALF]) + pack(b"") + packed + bytes(8))
    assert len(list(file_formats.read_rows(path, 1_000))) == 30
    for rest in (b"X" + packed[1:], LINES[HALF:], packed[:-9], b"X"):
        path.write_bytes(pack(LINES[:HALF]) + rest)
        with pytest.raises(SourceError, match="cannot be read completely"):
            list(file_formats.read_rows(path, 1_000))


HEADER = "id,date,question,answer\n"


def row(number: int, question: str = "Why is it out?", answer: str = "It is mended.") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([f"L-{number}", f"2024-01-{number % 28 + 1:02d}", question, answer])
    return text.getvalue()


def read(path: Path, text: str, max_row_bytes: int = 1_000) -> list[Row]:
    path.write_text(text, newline="")
    return list(read_rows(path, max_row_bytes))


@pytest.mark.parametrize(
    "long", [row(2, 'One, "two",\n three. ' * 40_000), f"{'x' * 300_000},y\n"], ids=["one cell", "wrong cells"]
)
def test_a_row_above_the_limit_is_one_broken_row(tmp_path: Path, long: str) -> None:
    rows = read(tmp_path / "a.csv", HEADER + row(1) + long + row(3))
    assert [each.problem for each in rows] == [None, "longer than 1,000 bytes", None]


def test_a_record_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "ENDLESS", 1 << 20)
    text = HEADER + row(1) + 'L-2,2024-01-01,"Why' + "".join(map(row, range(3, 40_000)))
    with pytest.raises(SourceError, match=r"a\.csv: the row from line 3 has a cell that does not end"):
        read(tmp_path / "a.csv", text)


def test_rows_in_a_cell_above_the_limit_stop_the_file(tmp_path: Path) -> None:
    begin, end = 'L-2,2024-01-01,"Why,It is mended.\n', 'L-9000,2024-01-01,Why",It is mended.\n'
    text = HEADER + row(1) + begin + "".join(map(row, range(3, 9_000))) + end + row(9_001)
    with pytest.raises(SourceError, match="lines 3 to 9001: a quoted cell of one row seems to contain whole rows"):
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
def test_a_letter_of_several_lines_with_commas_is_one_row(tmp_path: Path, letter: str) -> None:
    cells: list[dict[str, str]] = [{}, {"question": letter}, {"answer": letter}]
    text = HEADER + "".join(row(number, **cells[number % 3]) for number in range(60))
    assert [each.problem for each in read(tmp_path / "a.csv", text)] == [None] * 60


def test_spaces_within_quotes_are_of_the_cell(tmp_path: Path) -> None:
    (first,) = read(tmp_path / "a.csv", 'a, b\n " x, y", z \n')
    assert first.values == {"a": " x, y", "b": "z "}
