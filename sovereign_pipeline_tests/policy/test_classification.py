"""The ladder: levels only rise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.errors import RecipeError
from sovereign_pipeline.policy.classification import ClassificationLadder

LADDER = ClassificationLadder(("PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"))
levels = st.sampled_from(LADDER.levels)


@given(st.lists(levels), st.lists(levels))
def test_join_never_falls_and_does_not_depend_on_order(some: list[str], more: list[str]) -> None:
    joined = LADDER.highest(some + more)
    assert joined == LADDER.highest(more + some) == LADDER.highest([LADDER.highest(some), LADDER.highest(more)])
    assert all(not LADDER.exceeds(level, joined) for level in some + more)
    assert joined in [*some, *more, "PUBLIC"]


def test_unknown_level_is_named() -> None:
    with pytest.raises(RecipeError, match="'RESTRICTED' is not a classification level"):
        LADDER.highest(["PUBLIC", "RESTRICTED"])


def test_a_level_named_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="each named once"):
        ClassificationLadder(("PUBLIC", "PUBLIC"))
