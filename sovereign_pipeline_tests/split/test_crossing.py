"""The exhaustive measurement finds exactly what comparing everything with everything finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.split import crossing
from sovereign_pipeline.split.crossing import (
    crossing_authors,
    crossing_cases,
    crossing_links,
    crossing_near_duplicates,
)
from sovereign_pipeline.split.grouping import Member
from sovereign_pipeline.split.similarity import Shingles

Rows = list[set[int]]
rows = st.lists(st.sets(st.integers(0, 25), min_size=1, max_size=20), min_size=1, max_size=12)


def as_shingles(side: Rows) -> Shingles:
    hashes = np.array([value for row in side for value in sorted(row)], np.uint64)
    return Shingles(hashes, np.cumsum([0, *map(len, side)]))


def brute_force(held_out: Rows, train: Rows, threshold: float) -> list[tuple[int, int]]:
    return [
        (one, other)
        for one, left in enumerate(held_out)
        for other, right in enumerate(train)
        if len(left & right) / len(left | right) >= threshold
    ]


@given(rows, rows, st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 0.6, 0.7, 0.8, 1.0]))
def test_equals_the_brute_force(held_out: Rows, train: Rows, threshold: float) -> None:
    found = crossing_near_duplicates(as_shingles(held_out), as_shingles(train), threshold)
    assert found == brute_force(held_out, train, threshold)


def test_equals_the_brute_force_in_many_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "_COLLISIONS_PER_BLOCK", 5)
    rng = np.random.default_rng(5)
    held_out, train = ([set(rng.integers(0, 12, 9).tolist()) for _ in range(40)] for _ in range(2))
    found = crossing_near_duplicates(as_shingles(held_out), as_shingles(train), 0.7)
    assert found == brute_force(held_out, train, 0.7)
    assert found


def test_names_what_is_on_both_sides() -> None:
    train = [Member("a", "C1", "X", ("z",), False), Member("b", "", "", (), False)]
    held_out = [Member("c", "C1", "Y", ("b", "z"), False), Member("d", "", "", (), False)]
    assert crossing_cases(train, held_out) == {"C1"}
    assert crossing_links(train, held_out) == {"b", "z"}
    assert crossing_authors(train, held_out) == set()
    assert crossing_authors(train, [Member("e", "", "X", (), False)]) == {"X"}
