"""The review section: its defaults, and what is inconsistent."""

from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.policy.review import Review


def test_by_default_five_operators_rate_twenty_prompts_each() -> None:
    review = Review()
    assert (review.operator_count, review.prompts_each, review.criteria) == (
        5,
        20,
        ("accuracy", "helpfulness", "tone"),
    )
    assert review.prompts == 5 * 20 + 2
    assert review.pairs == review.ballots_to_close == 5 * 22


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"operators": 4}, "5 to 10"),
        ({"operators": 11}, "5 to 10"),
        ({"operators": ["amal", "badr", "dana", "eid", "amal"]}, "named twice"),
        ({"operators": ["amal", "badr", "dana", "eid", "a b"]}, "pattern"),
        ({"prompts_each": 3}, "multiple of 2"),
        ({"shared_prompts": 1}, "multiple of 2"),
        ({"ballots": 111}, "more than the 110 pairs"),
        ({"guess_pairs": 22}, "guess_pairs"),
        ({"criteria": []}, "at least 1"),
        ({"criteria": ["tone", "tone"]}, "named twice"),
        ({"criteria": ["beauty"]}, "accuracy"),
        ({"seed": 7}, "Extra"),
    ],
)
def test_an_inconsistent_review_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Review.model_validate(wrong)
