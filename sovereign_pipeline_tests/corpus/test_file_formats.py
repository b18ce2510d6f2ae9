"""Limits of what is read of a source file, whatever it claims to hold."""

import gzip
from pathlib import Path

import pytest

from sovereign_pipeline.corpus import file_formats
from sovereign_pipeline.errors import SourceError


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
