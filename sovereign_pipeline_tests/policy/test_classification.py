"""The ladder: levels only rise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.policy.classification import ClassificationLadder

LADDER = ClassificationLadder(("PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"))
levels = st.sampled_from(LADDER.levels)


@given(st.lists(levels), st.lists(levels))
def test_join_never_falls_and_does_not_depend_on_order(some: list[str], more: list[str]) -> None:
    joined = LADDER.highest(some + more)
    assert joined == LADDER.highest(more + some) == LADDER.highest([LADDER.highest(some), LADDER.highest(more)])
    assert all(not LADDER.exceeds(level, joined) for level in some + more)
    assert joined in [*some, *more, "PUBLIC"]


@given(levels, levels, levels)
def test_the_join_is_the_maximum_of_a_chain(one: str, two: str, three: str) -> None:
    def join(*some: str) -> str:
        return LADDER.highest(some)

    assert join(join(one, two), three) == join(one, join(two, three)) == join(one, two, three)
    assert join(one, two) == join(two, one)
    assert join(one, one) == join(one) == join(one, LADDER.levels[0]) == one
    assert LADDER.rank(join(one, two)) == max(LADDER.rank(one), LADDER.rank(two))


def test_unknown_level_is_named() -> None:
    with pytest.raises(RecipeError, match="'RESTRICTED' is not a classification level"):
        LADDER.highest(["PUBLIC", "RESTRICTED"])


def test_a_level_named_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="each named once"):
        ClassificationLadder(("PUBLIC", "PUBLIC"))
