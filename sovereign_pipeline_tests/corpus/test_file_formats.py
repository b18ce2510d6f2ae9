"""Limits of what is read of a source file, whatever it claims to hold."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus import file_formats


@pytest.mark.security_case(
    "A gzipped Parquet file of some kilobytes unpacks into more than the memory",
    "refused once more than 1 GiB is unpacked, and no more is ever held",
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
    with pytest.raises(SourceError, match=r"letters\.parquet\.gz: unpacks into more than 1,048,576 bytes"):
        list(file_formats.read_rows(path, 1_000))
    assert sum(unpacked) < 2 << 20


LINES = b"".join(b'{"id": "%d"}\n' % number for number in range(30))
HALF = len(LINES) // 2
PACKERS: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}


@pytest.mark.parametrize("packing", PACKERS)
def test_all_members_of_a_packed_file_are_read(tmp_path: Path, packing: str) -> None:
    pack = PACKERS[packing]
    path = tmp_path / f"letters.jsonl.{packing}"
    path.write_bytes(pack(LINES[:HALF]) + pack(b"") + pack(LINES[HALF:]) + bytes(8))
    assert len(list(file_formats.read_rows(path, 1_000))) == 30


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(
    "rest",
    [lambda packed: b"X" + packed[1:], lambda packed: LINES[HALF:], lambda packed: packed[:-9], lambda packed: b"X"],
    ids=["damaged", "plain text", "cut", "one byte"],
)
def test_what_follows_a_member_and_is_none_stops_the_file(
    tmp_path: Path, packing: str, rest: Callable[[bytes], bytes]
) -> None:
    pack = PACKERS[packing]
    path = tmp_path / f"letters.jsonl.{packing}"
    path.write_bytes(pack(LINES[:HALF]) + rest(pack(LINES[HALF:])))
    with pytest.raises(SourceError, match="cannot be read to its end"):
        list(file_formats.read_rows(path, 1_000))
