"""Search and measurement of contained texts find exactly what comparing every pair by the definition finds."""

import random
import tempfile
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.split import containment
from sovereign_pipeline.split.containment import Boilerplate, OwnShingles, contained_pairs, needed_in_common
from sovereign_pipeline.split.crossing_texts import crossing_texts
from sovereign_pipeline.split.texts import Text, TextCollector, Texts

Corpus = list[str]


def texts_in(directory: Path, name: str, documents: Corpus) -> Texts:
    collector = TextCollector()
    for number, words in enumerate(documents):
        collector.add(number, [Text("request", words)])
    path = directory / name
    collector.shingles().tofile(path)
    return Texts.joined([collector.records()], path)


def runs(words: str) -> set[tuple[str, ...]]:
    split = words.split()
    return {tuple(split[start : start + 5]) for start in range(len(split) - 4)}


def contained(one: str, other: str, common: set[Any], formulas: set[str]) -> bool:
    """The definition, written a second time."""
    if one == other and one not in formulas:
        return True
    left, right = runs(one) - common, runs(other) - common
    size = min(len(left), len(right))
    if size < 4:
        return False
    return len(left & right) >= max(-(-size // 2) - 2, min(size, 6))


def boilerplate_of(documents: Corpus) -> set[Any]:
    counted = [words for words in documents if len(words.split()) < 24]
    counted += {words for words in documents if len(words.split()) >= 24}
    counts = Counter(run for words in counted for run in runs(words))
    return {run for run, count in counts.items() if count > 20}


def formulas_of(documents: Corpus) -> set[str]:
    return {words for words, count in Counter(documents).items() if count > 20 and len(words.split()) < 24}


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Texts that share pieces with one another, of all lengths, some with changed words, some in all texts."""
    rng = draw(st.randoms(use_true_random=False))
    pieces = [" ".join(rng.choice("abcdefghijklmnop") for _ in range(rng.choice([5, 9, 14, 30]))) for _ in range(14)]
    documents = []
    for _ in range(draw(st.integers(2, 45))):
        words = " ".join(rng.choice(pieces[: rng.choice([2, 14])]) for _ in range(rng.randint(1, 4))).split()
        for _ in range(rng.choice([0, 0, 1, 3])):
            words[rng.randrange(len(words))] = f"z{rng.randrange(99)}"
        documents.append(" ".join(words))
    return documents


@settings(deadline=None, max_examples=60)
@given(corpora())
def test_the_search_equals_the_brute_force(documents: Corpus) -> None:
    with tempfile.TemporaryDirectory() as directory:
        all_texts = texts_in(Path(directory), "texts", documents)
        texts = all_texts.distinct()
        boilerplate = Boilerplate.of(Path(directory), all_texts)
        pairs = texts.documents[contained_pairs(texts, OwnShingles.of(texts, boilerplate))]
    common = boilerplate_of(documents)
    formulas = formulas_of(documents)
    numbers = [n for n, words in enumerate(documents) if len(words.split()) < 24 or words not in documents[:n]]
    expected = [(n, m) for n, m in combinations(numbers, 2) if contained(documents[n], documents[m], common, formulas)]
    assert sorted(set(map(tuple, pairs.tolist()))) == expected


@settings(deadline=None, max_examples=60)
@given(corpora(), st.randoms(use_true_random=False))
def test_the_measurement_equals_the_brute_force(documents: Corpus, rng: random.Random) -> None:
    held, train = documents[: len(documents) // 3 + 1], documents[len(documents) // 3 + 1 :]
    train += rng.sample(held, len(held) // 2)
    with tempfile.TemporaryDirectory() as directory:
        sides = [texts_in(Path(directory), name, side) for name, side in (("held", held), ("train", train))]
        found = crossing_texts(sides[0], sides[1], Boilerplate.of(Path(directory), *sides))
    common = boilerplate_of([*held, *train])

    def first(side: Corpus) -> list[int]:
        return [n for n, words in enumerate(side) if len(words.split()) < 24 or words not in side[:n]]

    formulas = formulas_of([*held, *train])
    expected = [(n, m) for n, m in product(first(held), first(train)) if contained(held[n], train[m], common, formulas)]
    assert list(map(tuple, found.documents.tolist())) == expected
    assert found.by_fields["request ~ request"] == sum(found.by_fields.values()) == len(expected)


@pytest.mark.parametrize("bound", ["containment._PAIRS_PER_BLOCK", "crossing_texts._TEXTS_PER_BLOCK"])
def test_the_same_in_many_small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: str) -> None:
    rng = random.Random(3)
    pieces = [" ".join(f"w{rng.randrange(900)}" for _ in range(30)) for _ in range(12)]
    documents = [f"{rng.choice(pieces)} {rng.choice(pieces)}" for _ in range(40)]

    def found() -> list[Any]:
        texts = texts_in(tmp_path, "texts", documents).distinct()
        boilerplate = Boilerplate.of(tmp_path, texts)
        pairs = texts.documents[contained_pairs(texts, OwnShingles.of(texts, boilerplate))]
        return [sorted(pairs.tolist()), crossing_texts(texts, texts, boilerplate).documents.tolist()]

    before = found()
    monkeypatch.setattr(f"sovereign_pipeline.split.{bound}", 3)
    assert found() == before
    assert all(before)


def test_the_threshold_leaves_one_changed_word_in_ten_at_every_length() -> None:
    sizes = np.arange(1, 2_000)
    needed = needed_in_common(sizes)
    assert (needed[:3] > 2_000).all()
    assert needed[3:8].tolist() == [4, 5, 6, 6, 6]
    words = sizes + 4
    left = sizes - 5 * (words // 10)
    enough = words >= 20
    assert (needed[enough] <= left[enough]).all()
    assert needed[38 - 4 - 1] == 15
    assert (np.diff(needed[3:]) >= 0).all()


def test_boilerplate_is_what_more_than_twenty_texts_hold_and_copies_count_once(tmp_path: Path) -> None:
    formula = "with reference to your letter we advise as follows"
    own = [" ".join(f"w{n}x{place}" for place in range(30)) for n in range(containment.BOILERPLATE_TEXTS + 1)]
    copies = texts_in(tmp_path, "copies", [own[0]] * 50)
    assert Boilerplate.of(tmp_path, copies).shingles.size == 0
    few = texts_in(tmp_path, "few", [f"{formula} {each}" for each in own[1:]])
    assert Boilerplate.of(tmp_path, few).shingles.size == 0
    many = texts_in(tmp_path, "many", [f"{formula} {each}" for each in own])
    boilerplate = Boilerplate.of(tmp_path, many)
    assert boilerplate.shingles.size == len(runs(formula))
    assert OwnShingles.of(many, boilerplate).sizes.tolist() == [39 - 4 - len(runs(formula))] * len(own)
