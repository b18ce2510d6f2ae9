"""Shingles in a file: what is read is what was written, the Jaccard of pairs is that of the sets, rare ones lead."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.split import shingles as module
from sovereign_pipeline.split.shingles import (
    Block,
    Rarity,
    Shingles,
    jaccard_of_pairs,
    mixed,
    runs_of_about,
)
from sovereign_pipeline_tests.split.chain import write_shingles

Rows = list[set[int]]
rows = st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=20), min_size=1, max_size=6)
in_one_directory = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, sets: Rows) -> Shingles:
    return write_shingles(path, [hashes(each) for each in sets])


def hashes(values: set[int]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.sort(mixed(np.array(sorted(values), np.uint64)))


def rows_of(block: Block) -> list[list[int]]:
    return [row.tolist() for row in block.by_row()]


@in_one_directory
@given(rows, st.data())
def test_any_rows_are_read_in_any_order(tmp_path: Path, sets: Rows, data: st.DataObject) -> None:
    shingles = written(tmp_path / "any", sets)
    chosen = data.draw(st.lists(st.integers(0, len(sets) - 1), min_size=1))
    expected = [hashes(sets[number]).tolist() for number in chosen]
    assert rows_of(shingles.read(np.array(chosen))) == expected
    assert rows_of(shingles.subset(np.array(chosen)).read(np.arange(len(chosen)))) == expected


def test_no_rows_are_an_empty_block(tmp_path: Path) -> None:
    shingles = write_shingles(tmp_path / "none", [])
    assert len(shingles) == 0
    assert list(shingles.blocks()) == []
    assert shingles.read(np.empty(0, np.int64)).values.size == 0


@pytest.mark.parametrize("per_block", [50, 1 << 21])
@in_one_directory
@given(left=rows, right=rows)
def test_jaccard_is_that_of_the_sets(tmp_path: Path, per_block: int, left: Rows, right: Rows) -> None:
    one, other = (each.ravel() for each in np.mgrid[: len(left), : len(right)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHINGLES_PER_BLOCK", per_block)
        found = jaccard_of_pairs(written(tmp_path / "l", left), written(tmp_path / "r", right), one, other)
    expected = [len(left[i] & right[j]) / len(left[i] | right[j]) for i, j in zip(one, other, strict=True)]
    assert found.tolist() == expected


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 40), st.integers(1, 9))
def test_runs_are_all_positions_once_and_bounded(sizes: list[int], total: int, most: int) -> None:
    runs = list(runs_of_about(np.array(sizes, np.int64), total, most))
    assert [position for run in runs for position in run.tolist()] == list(range(len(sizes)))
    for run in runs:
        assert 1 <= run.size <= most
        assert sum(sizes[position] for position in run[:-1].tolist()) < total + max(sizes)


@pytest.mark.parametrize("per_part", [10, 1 << 24])
@in_one_directory
@given(sets=rows)
def test_rarer_shingles_come_first_in_every_row(tmp_path: Path, per_part: int, sets: Rows) -> None:
    shingles = written(tmp_path / "rare", sets)
    frequency = Counter(value for each in sets for value in each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHINGLES_PER_PART", per_part)
        tokens = Rarity.of(tmp_path, shingles).rarest_first(shingles.read(np.arange(len(sets))))
    by_hash = {int(hashes({value})[0]) >> 20: value for value in frequency}
    for row, each in zip(rows_of(tokens), sets, strict=True):
        values = [by_hash[token & ((1 << 44) - 1)] for token in row]
        assert set(values) == each
        levels = [int(9 * np.log2(frequency[value])) for value in values]
        assert levels == sorted(levels)


def test_equal_shingles_are_equal_tokens_whichever_side_they_are_on(tmp_path: Path) -> None:
    sides = [written(tmp_path / str(number), [{1, 2, 3}, {3, 4}]) for number in range(2)]
    rarity = Rarity.of(tmp_path, *sides)
    assert rows_of(rarity.rarest_first(sides[0].read(np.arange(2)))) == rows_of(
        rarity.rarest_first(sides[1].read(np.arange(2)))
    )
