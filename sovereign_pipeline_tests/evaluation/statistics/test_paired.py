"""The statistics against closed forms and hand-counted binomial sums; intervals of means in `test_intervals.py`."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from sovereign_pipeline.evaluation.statistics.paired import (
    compare_losses,
    compare_shares,
    mcnemar_exact,
)


def test_mcnemar_is_the_binomial_tail_counted_by_hand() -> None:
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert mcnemar_exact(2, 10) == pytest.approx(2 * tail)
    # Agresti 2002, table 10.1 (approval of the Prime Minister): 150 and 86 changed their mind; z = 4.17.
    exact = 2 * sum(math.comb(236, k) for k in range(87)) / 2**236
    assert mcnemar_exact(150, 86) == pytest.approx(exact)
    assert exact == pytest.approx(math.erfc(4.17 / math.sqrt(2)), rel=0.5)
    assert mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize(("gained", "lost"), [(2, 10), (7, 7), (0, 5), (40, 22)])
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    assert mcnemar_exact(lost, gained) == pytest.approx(mcnemar([[9, lost], [gained, 9]], exact=True).pvalue)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_does_not_care_which_arm_is_which(only_reference: int, only_candidate: int) -> None:
    p_value = mcnemar_exact(only_reference, only_candidate)
    assert p_value == pytest.approx(mcnemar_exact(only_candidate, only_reference))
    assert 0 < p_value <= 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.sampled_from("abcde")), min_size=1, max_size=30))
def test_loss_difference_lies_in_its_interval_and_in_the_data(rows: list[tuple[float, float, str]]) -> None:
    reference, candidate, cases = (list(column) for column in zip(*rows, strict=True))
    result = compare_losses(reference, candidate, cases, seed=7)
    differences = [after - before for before, after in zip(reference, candidate, strict=True)]
    assert result.difference == pytest.approx(result.candidate - result.reference, abs=1e-9)
    assert min(differences) - 1e-9 <= result.low <= result.high <= max(differences) + 1e-9
    assert result.clusters == len(set(cases))


def test_share_difference_counts_the_discordant_rows() -> None:
    reference = [True] * 6 + [False] * 4
    candidate = [True] * 3 + [False] * 3 + [True] + [False] * 3
    result = compare_shares(reference, candidate, [str(i) for i in range(10)])
    assert (result.reference, result.candidate, result.only_reference, result.only_candidate) == (0.6, 0.4, 3, 1)
    assert result.difference == pytest.approx(-0.2)
    assert result.p_value == pytest.approx(0.625)
    assert result.low < -0.2 < result.high


def test_no_difference_is_exactly_none() -> None:
    result = compare_losses([1.5, 2.5], [1.5, 2.5], ["a", "b"], seed=7)
    assert (result.difference, result.low, result.high) == (0.0, 0.0, 0.0)
