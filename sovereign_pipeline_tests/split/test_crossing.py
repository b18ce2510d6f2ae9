"""The exhaustive measurement finds exactly what comparing everything with everything finds."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.split.crossing import crossing_keys, crossing_near_duplicates
from sovereign_pipeline.split.shingles import Rarity, write_shingles
from sovereign_pipeline.split.similarity import mixed

Rows = list[set[int]]
rows = st.lists(st.sets(st.integers(0, 25), min_size=1, max_size=20), min_size=1, max_size=12)
thresholds = st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 0.6, 0.7, 0.8, 1.0])


def found_in(held_out: Rows, train: Rows, threshold: float) -> list[tuple[int, ...]]:
    with tempfile.TemporaryDirectory() as directory:
        left, right = (
            write_shingles(Path(directory) / name, [np.sort(mixed(np.array(sorted(row), np.uint64))) for row in side])
            for name, side in (("held_out", held_out), ("train", train))
        )
        rarity = Rarity.of(Path(directory), left, right)
        found = crossing_near_duplicates(left, right, rarity, threshold, Path(directory))
    return [tuple(pair) for pair in found.pairs.tolist()]


def brute_force(held_out: Rows, train: Rows, threshold: float) -> list[tuple[int, ...]]:
    return [
        (one, other)
        for one, left in enumerate(held_out)
        for other, right in enumerate(train)
        if len(left & right) / len(left | right) >= threshold
    ]


@settings(deadline=None)
@given(rows, rows, thresholds)
def test_equals_the_brute_force(held_out: Rows, train: Rows, threshold: float) -> None:
    assert found_in(held_out, train, threshold) == brute_force(held_out, train, threshold)


@settings(deadline=None)
@given(st.data(), thresholds)
def test_finds_rows_made_from_one_another(data: st.DataObject, threshold: float) -> None:
    """Rows that differ by few shingles and in length, so that most thresholds are met narrowly or missed narrowly."""
    held_out = data.draw(st.lists(st.sets(st.integers(0, 40), min_size=5, max_size=40), min_size=1, max_size=5))
    train = [row ^ data.draw(st.sets(st.integers(0, 45), max_size=9)) for row in held_out for _ in range(3)]
    train = [row for row in train if row] or [{1}]
    assert found_in(held_out, train, threshold) == brute_force(held_out, train, threshold)


@pytest.mark.parametrize("bound", ["crossing._MEETINGS_PER_BLOCK", "shingles._SHINGLES_PER_PART"])
def test_equals_the_brute_force_in_many_small_blocks(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(f"sovereign_pipeline.split.{bound}", 20)
    rng = np.random.default_rng(5)
    held_out, train = ([set(rng.integers(0, 12, 9).tolist()) for _ in range(40)] for _ in range(2))
    found = found_in(held_out, train, 0.7)
    assert found == brute_force(held_out, train, 0.7)
    assert found


def test_what_all_rows_share_costs_no_comparisons(tmp_path: Path) -> None:
    """Half of each row is a letterhead that all have: were it looked up, every row would meet every other."""
    letterhead = np.arange(50)
    held_out, train = (
        write_shingles(
            tmp_path / str(side),
            [
                np.sort(mixed(np.concatenate((letterhead, start + np.arange(50))).astype(np.uint64)))
                for start in range(side, 100_000, 1_000)
            ],
        )
        for side in (100, 500)
    )
    found = crossing_near_duplicates(held_out, train, Rarity.of(tmp_path, held_out, train), 0.7, tmp_path)
    assert found.compared == 0
    assert not len(found.pairs)


def test_keys_on_both_sides_are_told() -> None:
    held_out, train = np.array([7, 3, 3, 9], np.uint64), np.array([3, 9, 8, 9], np.uint64)
    assert crossing_keys(held_out, train).tolist() == [3, 9]
    assert crossing_keys(held_out[:1], train).size == 0
