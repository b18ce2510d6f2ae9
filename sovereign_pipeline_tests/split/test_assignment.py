"""What ties documents together."""

import datetime
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document, exchange
from sovereign_pipeline.split.assignment import MIN_SHARE, OVERSHOOT, choose, components, hold_out, hold_out_newest
from sovereign_pipeline.split.features import Ties, matters_of
from sovereign_pipeline.split.shingles import key_of

NO_PAIRS = np.empty((0, 2), np.int64)


def ties(*keys_of_rows: tuple[str, ...]) -> Ties:
    """The keys of row 0, of row 1, …"""
    tied = [(row, key_of(key)) for row, keys in enumerate(keys_of_rows) for key in keys]
    return Ties(np.array([row for row, _ in tied], np.int64), np.array([key for _, key in tied], np.uint64))


def test_ties_of_every_kind_and_similarity_tie_transitively() -> None:
    cases = ties(("1",), ("1",), (), (), ("2",))
    links = ties(("a",), ("b",), ("c", "b"), ("d",), ("e",))
    assert components(5, [cases, links], [np.array([[2, 3]])]).tolist() == [0, 0, 0, 0, 4]


def test_the_kinds_are_apart() -> None:
    assert components(2, [ties(("x",), ()), ties((), ("x",))], []).tolist() == [0, 1]


def test_a_document_carries_its_own_id_and_those_it_links_to() -> None:
    document = Document(
        id="a", source="", case="", department="", author="", date="2024-01-01", classification="", language="",
        subject="", messages=exchange("", ""), links=("gone", "b"),
    )  # fmt: skip
    assert matters_of(document) == ("a", "gone", "b")
    other = document.model_copy(update={"id": "PRM\u2013017", "links": ("\u0661\u0668",)})
    assert matters_of(other) == ("prm-017", "18"), "ids and links are compared as case files are"


def test_a_link_to_a_document_that_is_not_there_ties_those_that_name_it() -> None:
    assert components(3, [ties(("a", "gone"), ("b",), ("c", "gone"))], []).tolist() == [0, 1, 0]


def test_the_keys_of_one_side() -> None:
    is_held_out = np.array([True, False, True])
    assert ties(("a", "b"), ("c",), ("d",)).on(is_held_out).tolist() == [key_of(each) for each in "abd"]


def test_documents_that_nothing_ties_stay_apart() -> None:
    assert components(3, [], [NO_PAIRS]).tolist() == [0, 1, 2]


numbers = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)),
        st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=2), min_size=n, max_size=n),
    )
)


@given(numbers)
def test_components_are_those_of_a_flood(case: tuple[int, list[tuple[int, int]], list[list[str]]]) -> None:
    count, pairs, keys = case
    found = components(count, [ties(*map(tuple, keys))], [NO_PAIRS, np.array(pairs, np.int64).reshape(-1, 2)])
    expected = list(range(count))
    edges = pairs + [(i, j) for i in range(count) for j in range(i) if set(keys[i]) & set(keys[j])]
    for _ in range(count):
        for one, other in edges:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert found.tolist() == expected


Sizes = list[tuple[int, int]]


@dataclass(frozen=True)
class Corpus:
    """Components with (letters, preferences) documents each."""

    sizes: Sizes

    @property
    def rows(self) -> list[tuple[int, bool, str]]:
        return [
            (component, number >= letters, f"{component:04d}-{number:04d}")
            for component, (letters, preferences) in enumerate(self.sizes)
            for number in range(letters + preferences)
        ]

    def held(self, share: float, seed: int, rng: random.Random | None = None) -> set[int]:
        """The components that are held out, none of them in part; rng: in which order the rows stand."""
        rows = self.rows
        if rng:
            rng.shuffle(rows)
        component_of = np.array([component for component, _, _ in rows], np.int64)
        is_preference = np.array([each for _, each, _ in rows], np.bool_)
        is_held_out = hold_out([id for _, _, id in rows], is_preference, component_of, share, seed)
        held = set(component_of[is_held_out].tolist())
        assert not held & set(component_of[~is_held_out].tolist())
        return held


def held_letters(sizes: Sizes, held: set[int]) -> int:
    return sum(sizes[component][0] for component in held)


sizes_of_letters = st.lists(st.integers(1, 40).map(lambda letters: (letters, 0)), min_size=2, max_size=60)
shares = st.floats(0.10, 0.5)


@given(sizes_of_letters, shares, st.integers())
def test_the_share_is_reached_and_both_sides_have_letters(sizes: Sizes, share: float, seed: int) -> None:
    held = held_letters(sizes, Corpus(sizes).held(share, seed))
    total = sum(letters for letters, _ in sizes)
    assert max(share, MIN_SHARE) * total - 1e-6 <= held < total


@given(st.integers(50, 400), st.lists(st.integers(50, 900), max_size=3), shares, st.integers())
def test_huge_components_do_not_inflate_the_held_out_side(
    single: int, huge: list[int], share: float, seed: int
) -> None:
    sizes = [(letters, 0) for letters in huge] + [(1, 0)] * single
    total = sum(letters for letters, _ in sizes)
    target = math.ceil(share * total)
    held = held_letters(sizes, Corpus(sizes).held(share, seed))
    if single >= target:
        assert held <= target + max(1, OVERSHOOT * total)


def test_a_huge_component_is_held_out_when_the_others_do_not_suffice() -> None:
    sizes = [(90, 0)] + [(1, 0)] * 10
    assert Corpus(sizes).held(0.12, seed=7) == {0}


@pytest.mark.parametrize(
    ("rows", "target", "chosen"),
    [
        ([95, 10, 5, 400], 100, {0, 1}),  # 105 is within the tolerance of 2 % of all rows
        ([95, 10, 5, 40], 100, {0, 2}),
        ([3, 4, 2], 5, {0, 2}),  # and at least 1
        ([3, 2, 50], 52, {1, 2}),  # of those that are no longer needed the largest is returned
    ],
)
def test_components_are_taken_in_order_as_far_as_they_fit(rows: list[int], target: int, chosen: set[int]) -> None:
    assert set(choose(np.array(rows), target, np.arange(len(rows)))) == chosen


def test_of_two_huge_components_the_smaller_is_held_out_and_alone() -> None:
    for seed in range(4):
        assert Corpus([(90, 0), (50, 0), *[(1, 0)] * 10]).held(0.12, seed) == {1}


@pytest.mark.parametrize("last", [10, 19])
def test_documents_of_last_choice_are_held_out_when_the_others_are_too_few(last: int) -> None:
    ids, component_of = [f"{number:02d}" for number in range(20)], np.arange(20)
    is_last = component_of < last
    for seed in range(4):
        is_held_out = hold_out(ids, np.zeros(20, np.bool_), component_of, 0.2, seed, is_last)
        assert is_held_out.sum() == 4
        assert (is_held_out & ~is_last).sum() == min(4, 20 - last)


@given(sizes_of_letters, shares, st.integers(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_rows(
    sizes: Sizes, share: float, seed: int, rng: random.Random
) -> None:
    assert Corpus(sizes).held(share, seed, rng) == Corpus(sizes).held(share, seed)


def test_a_component_is_drawn_by_its_lowest_id() -> None:
    assert Corpus([(1, 0)] * 100).held(0.1, seed=1) == Corpus([(1, 1)] * 100).held(0.1, seed=1)


def test_another_seed_gives_another_choice() -> None:
    assert Corpus([(1, 0)] * 100).held(0.1, seed=1) != Corpus([(1, 0)] * 100).held(0.1, seed=2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=5, max_size=40), st.integers())
def test_preferences_are_held_out_too_and_some_stay(sizes: Sizes, seed: int) -> None:
    if sum(1 for letters, _ in sizes if letters) < 2:
        return
    held = Corpus(sizes).held(0.12, seed)
    preferences = sum(each for _, each in sizes)
    alone = [each for letters, each in sizes if not letters and each]
    held_preferences = sum(sizes[component][1] for component in held)
    if len(alone) >= 2:
        all_that_could = held_preferences >= sum(alone)
        assert held_preferences >= 0.12 * preferences - 1e-6 or all_that_could
        with_letters = sum(sizes[component][1] for component in held if sizes[component][0])
        assert held_preferences < preferences or with_letters == held_preferences


@pytest.mark.parametrize(("sizes", "says"), [([(30, 4)], "tied together"), ([(0, 4), (0, 2)], "no letter")])
def test_letters_that_cannot_be_on_both_sides_stop_the_line(sizes: Sizes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Corpus(sizes).held(0.12, seed=7)


Dated = list[tuple[int, bool, int]]
"""(component, is a preference, day) of each document."""
dated = st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.integers(1, 60)), min_size=2, max_size=80)


def columns(rows: Dated) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    component_of, is_preference, days = zip(*rows, strict=True)
    return np.array(days, np.int64), np.array(is_preference, np.bool_), np.array(component_of, np.int64)


@given(dated, shares)
def test_by_date_the_newest_components_are_held_out_whole(rows: Dated, share: float) -> None:
    first = {component: number for number, (component, _, _) in reversed(list(enumerate(rows)))}
    rows = [(first[component], is_preference, day) for component, is_preference, day in rows]
    newest = {component: max(day for c, _, day in rows if c == component) for component, _, _ in rows}
    letters = [newest[component] for component, is_preference, _ in rows if not is_preference]
    try:
        is_held_out, day = hold_out_newest(*columns(rows), share)
    except InputError:
        # Then, and only then, each cut that reaches the share takes every letter.
        reaching = [cut for cut in range(1, 62) if sum(day >= cut for day in letters) >= share * len(letters) - 1e-6]
        assert not letters or sum(day >= max(reaching) for day in letters) == len(letters)
        return
    cut = day.toordinal()
    for (component, _, of_row), is_held in zip(rows, is_held_out.tolist(), strict=True):
        assert is_held == (newest[component] >= cut)
        assert is_held or of_row < cut
    held = sum(day >= cut for day in letters)
    assert max(share, MIN_SHARE) * len(letters) - 1e-6 <= held < len(letters)
    later = sum(day >= cut + 1 for day in letters)
    assert later < share * len(letters)


def test_by_date_an_old_document_follows_the_newest_of_its_group() -> None:
    days = [datetime.date(2024, 1, day).toordinal() for day in (1, 2, 3, 4, 5, 6, 7, 8, 9, 31)]
    component_of = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    is_held_out, day = hold_out_newest(np.array(days), np.zeros(10, np.bool_), np.array(component_of), 0.12)
    assert day == datetime.date(2024, 1, 31)
    assert np.flatnonzero(is_held_out).tolist() == [0, 9]


def test_by_date_letters_of_one_day_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"all 3 letters .* would be held out: each is dated 2024-05-01 or later"):
        hold_out_newest(
            np.full(3, datetime.date(2024, 5, 1).toordinal()), np.zeros(3, np.bool_), np.array([0, 1, 2]), 0.12
        )


def test_by_date_a_corpus_without_letters_is_refused() -> None:
    with pytest.raises(InputError, match="no letter"):
        hold_out_newest(np.array([5]), np.array([True]), np.array([0]), 0.12)
