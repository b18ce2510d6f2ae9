"""Encodings and long lines of source files."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import RecipeError, SourceError
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.inspection import encoding_of
from sovereign_pipeline.policy.corpus import Quarantine, Source
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline_tests.conftest import LADDER

INSTITUTION = Institution(name="Lamps", classification=tuple(LADDER))


def test_bytes_that_are_not_of_the_encoding_end_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("{}\n".encode("utf-16")[:-1])
    source = Source(name="a", path=tmp_path / "a.jsonl", encoding="utf-16", licence="own", retention="1 y")
    with pytest.raises(SourceError, match=r"a\.jsonl: not utf-16, within the bytes"):
        list(SourceReader(source, tmp_path / "a.jsonl", Quarantine(), INSTITUTION.ladder, set()))


@pytest.mark.parametrize("encoding", ["hex", "none", "unicode_escape", "utf-7", "x" * 300, "a\0b"])
def test_what_is_no_encoding_of_files_is_refused_in_a_recipe(encoding: str) -> None:
    with pytest.raises((ValueError, RecipeError), match="no encoding"):
        Source(name="a", path=Path("a.csv"), encoding=encoding, licence="own", retention="1 y")


def test_one_long_line_is_read_in_blocks(tmp_path: Path) -> None:
    """A byte that is no UTF-8 among many characters that are does not make the file another encoding."""
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"a": "é" * 900_000}, ensure_ascii=False).encode() + b"\n\xff")
    assert encoding_of(tmp_path / "a.jsonl") is None
