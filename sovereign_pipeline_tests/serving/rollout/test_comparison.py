"""The statistics: published vectors, and simulated rollouts in which nothing, or something, is wrong."""

import math

import pytest

from sovereign_pipeline.serving.rollout.hold import (
    Sums,
    best_scale,
    difference,
    is_worse_at_any_look,
    one_sided_bound,
    sample_ratio_p,
    two_sided_bound,
    upper_limit,
)
from sovereign_pipeline_tests.serving.rollout.simulated import Arms, Rollout, aborted

MARGIN = 0.02
AS_BAD_AS_ALLOWED = Rollout(rise=MARGIN)


def by_sequence(arms: Arms) -> bool:
    found = difference(*arms, is_share=True)
    return found is not None and is_worse_at_any_look(found, MARGIN, 0.05)


def by_requests(arms: Arms) -> bool:
    """The test that dashboards make: on pooled requests, at every look."""
    (count, total), (others, of_others) = (
        (sum(each.count for each in arm.values()), sum(each.total for each in arm.values())) for arm in arms
    )
    if not total + of_others:
        return False
    one, other = total / count, of_others / others
    spread = math.sqrt(one * (1 - one) / count + other * (1 - other) / others)
    return one - other - MARGIN > 1.645 * spread


@pytest.mark.parametrize(
    ("variance", "one_sided", "two_sided"),
    [(100, 36.343051, 38.550546), (1000, 87.470842, 95.981736), (5000, 204.341682, 222.952920)],
)
def test_the_bounds_are_those_of_confseq(variance: float, one_sided: float, two_sided: float) -> None:
    """Howard and others' own program, with alpha 0.05 and tightest at a variance of 1,000."""
    assert two_sided_bound(variance, 0.05, best_scale(1000, 0.05)) == pytest.approx(two_sided, abs=1e-5)
    assert one_sided_bound(variance, 0.05, best_scale(1000, 0.1)) == pytest.approx(one_sided, abs=1e-5)


def test_an_adapter_that_is_as_bad_as_allowed_is_seldom_taken_back() -> None:
    ours = aborted(AS_BAD_AS_ALLOWED, range(120), by_sequence)
    naive = aborted(AS_BAD_AS_ALLOWED, range(120), by_requests)
    assert ours <= 0.05
    assert naive >= 0.2


def test_one_that_does_harm_is_taken_back() -> None:
    assert aborted(Rollout(rise=0.17), range(30), by_sequence) >= 0.9


def test_a_difference_is_between_users() -> None:
    staged = {str(number): Sums(10, number % 2 * 10) for number in range(20)}
    production = {str(number): Sums(10, 5) for number in range(20)}
    found = difference(staged, production, is_share=True)
    assert found is not None
    assert found.estimate == 0
    assert found.standard_error == pytest.approx(math.sqrt(0.25 / 19 + 0.25 / 200), rel=0.02)
    assert upper_limit(found, 0.05) == pytest.approx(1.729 * found.standard_error, rel=0.01)
    assert difference({"one": Sums(10, 5)}, production, is_share=True) is None


def test_an_arm_in_which_nothing_happened_is_not_certain() -> None:
    quiet = {str(number): Sums(5, 0) for number in range(12)}
    found = difference(quiet, quiet, is_share=True)
    assert found is not None
    assert found.variance > 0


def test_users_who_are_not_as_they_were_drawn_are_noticed() -> None:
    assert sample_ratio_p(100, 900, 0.1) == pytest.approx(1)
    assert sample_ratio_p(160, 840, 0.1) < 1e-6
    assert sample_ratio_p(0, 0, 0.1) == 1
