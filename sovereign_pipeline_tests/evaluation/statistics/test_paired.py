"""The statistics against closed forms, scipy's own bootstrap and hand-counted binomial sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from sovereign_pipeline.evaluation.statistics import paired as statistics
from sovereign_pipeline.evaluation.statistics.paired import (
    clustered_interval,
    compare_losses,
    compare_shares,
    mcnemar_exact,
)


def test_interval_of_singletons_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).normal(-0.2, 1.0, 60)
    reference = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=4).confidence_interval
    low, high = clustered_interval(values.tolist(), [str(i) for i in range(60)], seed=7)
    assert low == pytest.approx(reference.low, abs=0.02)
    assert high == pytest.approx(reference.high, abs=0.02)


def test_interval_of_singletons_is_the_normal_one_for_many_rows() -> None:
    values = np.random.default_rng(5).normal(1.0, 2.0, 2_000)
    half = 1.959964 * values.std() / math.sqrt(2_000)
    low, high = clustered_interval(values.tolist(), [str(i) for i in range(2_000)], seed=7)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_copies_of_a_row_add_no_certainty_within_a_case() -> None:
    values = np.random.default_rng(6).normal(0.0, 1.0, 30).tolist()
    names = [str(i) for i in range(30)]
    once = clustered_interval(values, names, seed=7)
    assert clustered_interval(values * 4, names * 4, seed=7) == pytest.approx(once)
    as_if_independent = clustered_interval(values * 4, [str(i) for i in range(120)], seed=7)
    assert as_if_independent[1] - as_if_independent[0] < 0.6 * (once[1] - once[0])


def test_interval_covers_the_truth_about_as_often_as_it_promises() -> None:
    generator = np.random.default_rng(8)
    covered = 0
    for trial in range(100):
        of_case = np.repeat(generator.normal(0.0, 1.0, 40), 3)
        values = of_case + generator.normal(0.0, 0.5, 120)
        low, high = clustered_interval(values.tolist(), [str(i // 3) for i in range(120)], seed=trial)
        covered += low <= 0 <= high
    assert 0.87 <= covered / 100 <= 0.99


def test_with_six_cases_a_candidate_worse_by_the_margin_passes_once_in_twenty_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plain percentile interval lets it pass in 7 %."""
    monkeypatch.setattr(statistics, "RESAMPLES", 2_000)
    generator, trials, margin = np.random.default_rng(9), 1_000, 0.05
    names = [str(i) for i in range(6)]
    passed = sum(
        clustered_interval(generator.normal(margin, 0.2, 6).tolist(), names, seed=trial)[1] < margin
        for trial in range(trials)
    )
    assert passed / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 values"):
        clustered_interval([], [], seed=7)


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
