"""Near-duplicates: planted pairs in both scripts are found, nothing else is, and crowds cost no more than others."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.grouping import components
from sovereign_pipeline.split.near_duplicates import (
    LEAST_JACCARD_OF_PARTS,
    NEIGHBOURS,
    RECALL,
    NearDuplicates,
    compared_share,
    near_duplicates,
)
from sovereign_pipeline.split.shingles import Rarity, write_shingles
from sovereign_pipeline.split.similarity import shingles_of
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
        return near_duplicates(shingles, Rarity.of(tmp_path, shingles), threshold)

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
