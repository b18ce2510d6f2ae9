"""The choice of components: share, whole groups, determinism, and one huge group."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split.grouping import Member
from sovereign_pipeline.split.hold_out import MIN_SHARE, OVERSHOOT, hold_out

Sizes = list[tuple[int, int]]


def corpus(sizes: Sizes) -> tuple[list[Member], list[int]]:
    """Components with (letters, preferences) documents each."""
    members, component_of = [], []
    for component, (letters, preferences) in enumerate(sizes):
        for number in range(letters + preferences):
            members.append(Member(f"{component:04d}-{number:04d}", "", "", (), is_preference=number >= letters))
            component_of.append(component)
    return members, component_of


def held_letters(sizes: Sizes, held: set[int]) -> int:
    return sum(sizes[component][0] for component in held)


sizes_of_letters = st.lists(st.integers(1, 40).map(lambda letters: (letters, 0)), min_size=2, max_size=60)
shares = st.floats(0.10, 0.5)


@given(sizes_of_letters, shares, st.integers())
def test_the_share_is_reached_and_both_sides_have_letters(sizes: Sizes, share: float, seed: int) -> None:
    held = held_letters(sizes, hold_out(*corpus(sizes), share, seed))
    total = sum(letters for letters, _ in sizes)
    assert max(share, MIN_SHARE) * total - 1e-6 <= held < total


@given(st.integers(50, 400), st.lists(st.integers(50, 900), max_size=3), shares, st.integers())
def test_huge_components_do_not_inflate_the_held_out_side(
    single: int, huge: list[int], share: float, seed: int
) -> None:
    sizes = [(letters, 0) for letters in huge] + [(1, 0)] * single
    total = sum(letters for letters, _ in sizes)
    target = math.ceil(share * total)
    held = held_letters(sizes, hold_out(*corpus(sizes), share, seed))
    if single >= target:
        assert held <= target + max(1, OVERSHOOT * total)


def test_a_huge_component_is_held_out_when_the_others_do_not_suffice() -> None:
    sizes = [(90, 0)] + [(1, 0)] * 10
    assert hold_out(*corpus(sizes), 0.12, seed=7) == {0}


@given(sizes_of_letters, shares, st.integers(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_rows(
    sizes: Sizes, share: float, seed: int, rng: random.Random
) -> None:
    members, component_of = corpus(sizes)
    shuffled = list(zip(members, component_of, strict=True))
    rng.shuffle(shuffled)
    again = hold_out([member for member, _ in shuffled], [component for _, component in shuffled], share, seed)
    assert again == hold_out(members, component_of, share, seed)


def test_another_seed_gives_another_choice() -> None:
    members, component_of = corpus([(1, 0)] * 100)
    assert hold_out(members, component_of, 0.1, seed=1) != hold_out(members, component_of, 0.1, seed=2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=5, max_size=40), st.integers())
def test_preferences_are_held_out_too_and_some_stay(sizes: Sizes, seed: int) -> None:
    if sum(1 for letters, _ in sizes if letters) < 2:
        return
    held = hold_out(*corpus(sizes), 0.12, seed)
    preferences = sum(each for _, each in sizes)
    alone = [each for letters, each in sizes if not letters and each]
    held_preferences = sum(sizes[component][1] for component in held)
    if len(alone) >= 2:
        assert held_preferences >= 0.12 * preferences - 1e-6
        with_letters = sum(sizes[component][1] for component in held if sizes[component][0])
        assert held_preferences < preferences or with_letters == held_preferences


@pytest.mark.parametrize(("sizes", "says"), [([(30, 4)], "tied together"), ([(0, 4), (0, 2)], "no letter")])
def test_letters_that_cannot_be_on_both_sides_stop_the_line(sizes: Sizes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        hold_out(*corpus(sizes), 0.12, seed=7)
