"""The calendar of reviews: days, periods, and what a recipe may name."""

import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sovereign_pipeline.policy.cadence import Cadence

DAY = datetime.date


@pytest.mark.parametrize(
    ("every", "since", "due", "period"),
    [
        ("6 months", DAY(2026, 8, 31), DAY(2027, 2, 28), "2027-H1"),
        ("6 months", DAY(2027, 1, 31), DAY(2027, 7, 31), "2027-H2"),
        ("3 months", DAY(2026, 11, 30), DAY(2027, 2, 28), "2027-Q1"),
        ("1 month", DAY(2026, 12, 15), DAY(2027, 1, 15), "2027-01"),
        ("1 year", DAY(2024, 2, 29), DAY(2025, 2, 28), "2025"),
        ("24 months", DAY(2026, 1, 1), DAY(2028, 1, 1), "2028"),
        ("5 months", DAY(2026, 1, 1), DAY(2026, 6, 1), "2026-06-01"),
        ("2 weeks", DAY(2026, 1, 1), DAY(2026, 1, 15), "2026-01-15"),
        ("1 day", DAY(2026, 1, 1), DAY(2026, 1, 2), "2026-01-02"),
        (None, DAY(2026, 1, 1), DAY(2026, 6, 30), "2026-06-30"),
    ],
)
def test_the_next_review_has_a_day_and_a_period(every: str | None, since: DAY, due: DAY, period: str) -> None:
    cadence = Cadence(every=every)
    assert cadence.next_day(since, institutions_days=180) == due
    assert cadence.period(due) == period


@given(
    number=st.integers(1, 36),
    unit=st.sampled_from(["days", "weeks", "months", "years"]),
    first=st.dates(DAY(2020, 1, 1), DAY(2060, 1, 1)),
)
def test_reviews_that_follow_each_other_never_share_a_period(number: int, unit: str, first: DAY) -> None:
    if unit == "years" and number > 10:
        return
    cadence = Cadence(every=f"{number} {unit}")
    days = [first]
    for _ in range(8):
        days.append(cadence.next_day(days[-1], 180))
    assert all(cadence.period(one) != cadence.period(other) for one, other in pairwise(days))


@pytest.mark.parametrize(
    "every", ["6months", "0 days", "six months", "-1 days", "1.5 years", "11 years", "6 moons", ""]
)
def test_another_length_of_time_is_refused(every: str) -> None:
    with pytest.raises(ValidationError, match="every"):
        Cadence(every=every)


def test_an_event_that_nobody_here_hears_of_is_refused() -> None:
    with pytest.raises(ValidationError, match="base_superseded"):
        Cadence.model_validate({"on": ["library_advisory"]})
