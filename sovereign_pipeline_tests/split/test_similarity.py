"""Near-duplicates: planted pairs in both scripts are found, nothing else is, and the definition is the stated one."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.similarity import (
    MIN_RECALL,
    bands_for,
    collect_shingles,
    jaccard,
    near_duplicates,
    normal_form,
    shingles_of,
)

ARABIC_STEMS = ["ميناء", "رخصة", "قارب", "صياد", "رسوم", "مرسى", "تفتيش", "سلامة", "طلب", "كتاب", "دائرة", "موسم"]


def document(request: str, response: str = "", **changes: Any) -> Document:
    fields: dict[str, Any] = {
        "id": "D",
        "source": "s",
        "case": "C",
        "department": "d",
        "author": "a",
        "date": "2024-01-01",
        "classification": "PUBLIC",
        "language": "en",
        "subject": "s",
        "request": request,
        "response": response,
    }
    return Document(**{**fields, **changes})


def english(rng: random.Random, words: int) -> list[str]:
    return [f"word{rng.randrange(3000)}" for _ in range(words)]


def arabic(rng: random.Random, words: int) -> list[str]:
    return [rng.choice(ARABIC_STEMS) + rng.choice(["", "ها", "هم", "نا"]) for _ in range(words)]


def edited(rng: random.Random, words: list[str], other: list[str], edits: int) -> list[str]:
    changed = list(words)
    for place in rng.sample(range(len(words)), edits):
        changed[place] = other[place]
    return changed


def string_shingles(one: Document) -> set[Any]:
    """The stated definition, without hashes: words for Latin script, characters for Arabic."""
    text = normal_form(one)
    if any("\u0620" <= character <= "\u06d3" for character in text):
        return {text[start : start + 9] for start in range(max(1, len(text) - 8))}
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def string_jaccard(one: Document, other: Document) -> float:
    left, right = string_shingles(one), string_shingles(other)
    return len(left & right) / len(left | right)


@pytest.mark.parametrize(("writing", "most_edits"), [(english, 8), (arabic, 25)])
def test_exactly_the_pairs_of_the_brute_force_are_found(writing: Any, most_edits: int) -> None:
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
    assert near_duplicates(collect_shingles(documents), 0.7).pairs == expected


def test_planted_near_duplicates_are_found_nearly_always() -> None:
    rng = random.Random(11)
    documents = []
    for _ in range(400):
        words = english(rng, 150)
        documents += [document(" ".join(words)), document(" ".join(edited(rng, words, english(rng, 150), 3)))]
    found = set(near_duplicates(collect_shingles(documents), 0.7).pairs)
    planted = {
        (first, first + 1)
        for first in range(0, len(documents), 2)
        if string_jaccard(documents[first], documents[first + 1]) >= 0.8
    }
    assert len(planted) > 300
    assert len(planted & found) >= 0.99 * len(planted)


def test_placeholders_count_by_kind_and_not_by_number() -> None:
    one = document("NAME_1 asks on behalf of NAME_2 for ACCOUNT_1.", "وNAME_3 كذلك")
    other = document("NAME_7 asks on behalf of NAME_9 for ACCOUNT_4.", "وNAME_12 كذلك")
    assert normal_form(one) == normal_form(other)
    assert normal_form(one) != normal_form(document("NAME_1 asks on behalf of NAME_2 for PHONE_1.", "وNAME_3 كذلك"))


def test_spelling_variants_of_one_arabic_text_are_the_same() -> None:
    plain = document("رقم الملف 2024 لدى الوزارة")
    variant = document("رَقْم الملـــف ٢٠٢٤ لدى \u200fالوزارة")
    assert normal_form(plain) == normal_form(variant)


def test_wide_letters_and_case_do_not_matter() -> None:
    assert normal_form(document("ＡＢＣ Harbour")) == normal_form(document("abc HARBOUR"))


def test_copies_form_a_star_and_not_all_pairs() -> None:
    rng = random.Random(1)
    copied = document(" ".join(english(rng, 60)))
    documents = [copied, document(" ".join(english(rng, 60))), copied, copied]
    found = near_duplicates(collect_shingles(documents), 0.7)
    assert found.pairs == [(0, 2), (0, 3)]
    assert found.copies == 2


@pytest.mark.parametrize("text", ["", "…", "one", "one two three four", "ما"])
def test_a_text_shorter_than_a_shingle_equals_only_itself(text: str) -> None:
    shingles = [shingles_of(document(text)), shingles_of(document(text)), shingles_of(document("something else"))]
    assert shingles[0].size == 1
    assert jaccard(shingles[0], shingles[1]) == 1
    assert jaccard(shingles[0], shingles[2]) == 0


words_of_few = st.lists(st.sampled_from("abcdefg"), max_size=30).map(" ".join)


@given(words_of_few, words_of_few)
def test_jaccard_is_that_of_the_strings(one: str, other: str) -> None:
    left, right = document(one), document(other)
    assert jaccard(shingles_of(left), shingles_of(right)) == pytest.approx(string_jaccard(left, right))


@given(st.floats(min_value=0.1, max_value=1))
def test_the_bands_keep_their_recall(threshold: float) -> None:
    bands = bands_for(threshold)
    assert bands.count * bands.rows <= 128
    assert bands.recall >= MIN_RECALL
