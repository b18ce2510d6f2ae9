"""Near-duplicates: planted pairs in both scripts are found, nothing else is, and crowds cost no more than others."""

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.assignment import components
from sovereign_pipeline.split.near_duplicates import (
    LEAST_JACCARD_OF_PARTS,
    NEIGHBOURS,
    RECALL,
    NearDuplicates,
    compared_share,
    crossing_near_duplicates,
    near_duplicates,
)
from sovereign_pipeline.split.shingles import Rarity, mixed
from sovereign_pipeline_tests.split.chain import shingles_of, write_shingles
from sovereign_pipeline_tests.split.test_similarity import document, string_jaccard, string_shingles

ARABIC_STEMS = ["ميناء", "رخصة", "قارب", "صياد", "رسوم", "مرسى", "تفتيش", "سلامة", "طلب", "كتاب", "دائرة", "موسم"]


def english(rng: random.Random, words: int) -> list[str]:
    return [f"word{rng.randrange(3000)}" for _ in range(words)]


def arabic(rng: random.Random, words: int) -> list[str]:
    return [rng.choice(ARABIC_STEMS) + rng.choice(["", "ها", "هم", "نا"]) for _ in range(words)]


def edited(rng: random.Random, words: list[str], other: list[str], edits: int) -> list[str]:
    changed = list(words)
    for place in rng.sample(range(len(words)), edits):
        changed[place] = other[place]
    return changed


@pytest.fixture
def find(tmp_path: Path) -> Any:
    def find_in(documents: list[Document], threshold: float = 0.7) -> NearDuplicates:
        shingles = write_shingles(tmp_path / "shingles", [shingles_of(each) for each in documents])
        return near_duplicates(shingles, Rarity.of(tmp_path, shingles), threshold, tmp_path)

    return find_in


@pytest.mark.parametrize(("writing", "most_edits"), [(english, 8), (arabic, 25)])
def test_exactly_the_pairs_of_the_brute_force_are_found(find: Any, writing: Any, most_edits: int) -> None:
    rng = random.Random(3)
    documents = []
    for _ in range(60):
        words = writing(rng, 120)
        documents.append(document(" ".join(words[:70]), " ".join(words[70:])))
        changed = edited(rng, words, writing(rng, 120), edits=rng.randint(1, most_edits))
        documents.append(document(" ".join(changed[:70]), " ".join(changed[70:])))
    sets = list(map(string_shingles, documents))
    expected = [
        (one, other)
        for one, left in enumerate(sets)
        for other, right in enumerate(sets)
        if one < other and len(left & right) / len(left | right) >= 0.7
    ]
    assert 20 < len(expected) < 60
    assert list(map(tuple, find(documents).pairs.tolist())) == expected


def test_planted_near_duplicates_are_found_nearly_always(find: Any) -> None:
    rng = random.Random(11)
    documents = []
    for _ in range(400):
        words = english(rng, 150)
        documents += [document(" ".join(words)), document(" ".join(edited(rng, words, english(rng, 150), 3)))]
    found = set(map(tuple, find(documents).pairs.tolist()))
    planted = {
        (first, first + 1)
        for first in range(0, len(documents), 2)
        if string_jaccard(documents[first], documents[first + 1]) >= 0.8
    }
    assert len(planted) > 300
    assert len(planted & found) >= 0.99 * len(planted)


def test_copies_form_a_star_and_not_all_pairs(find: Any) -> None:
    rng = random.Random(1)
    copied = document(" ".join(english(rng, 60)))
    documents = [copied, document(" ".join(english(rng, 60))), copied, copied]
    found = find(documents)
    assert found.pairs.tolist() == [[0, 2], [0, 3]]
    assert found.copies == 2


def test_a_letterhead_that_all_share_makes_no_candidates(find: Any) -> None:
    rng = random.Random(2)
    letterhead = " ".join(english(rng, 40))
    found = find([document(letterhead, " ".join(english(rng, 70))) for _ in range(1_000)])
    assert found.candidates < 10
    assert not len(found.pairs)


def test_a_crowd_of_near_equal_letters_is_one_group_at_the_cost_of_few_comparisons(find: Any) -> None:
    rng = random.Random(4)
    words = english(rng, 120)
    count = 40 * NEIGHBOURS
    documents = [document(" ".join(edited(rng, words, english(rng, 120), edits=1))) for _ in range(count)]
    found = find(documents)
    assert set(components(count, [], [found.pairs]).tolist()) == {0}
    assert found.rows_in_large_buckets > 0
    assert found.candidates < count * (count - 1) / 3


@given(st.floats(0.45, 0.99), st.integers(50, 400), st.floats(0, 1), st.floats(0, 1))
def test_the_compared_parts_are_as_similar_as_the_recall_supposes(
    threshold: float, smaller: int, larger: float, common: float
) -> None:
    """For sets of any allowed sizes and overlap, in the worst order: what only one of them has is rarest."""
    sizes = smaller, round(smaller * (1 + larger * (1 / threshold - 1)))
    least = threshold / (1 + threshold) * sum(sizes)
    overlap = round(least + common * (smaller - least))
    if overlap / (sum(sizes) - overlap) < threshold or overlap > smaller:
        return
    share = compared_share(threshold)
    parts = [round(share * size) for size in sizes]
    kept = [max(0, part - (size - overlap)) for part, size in zip(parts, sizes, strict=True)]
    in_both = min(kept)
    rounding = 4 / min(parts)
    assert in_both / (sum(parts) - in_both) >= LEAST_JACCARD_OF_PARTS - rounding


def test_the_worst_pair_is_found_all_but_surely() -> None:
    assert RECALL > 0.999
    assert compared_share(0.3) == 1


def test_an_empty_corpus_has_no_pairs(find: Any) -> None:
    found = find([])
    assert found.pairs.shape == (0, 2)
    assert found.candidates == 0


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


@pytest.mark.parametrize("bound", ["near_duplicates._MEETINGS_PER_BLOCK", "shingles._SHINGLES_PER_PART"])
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
