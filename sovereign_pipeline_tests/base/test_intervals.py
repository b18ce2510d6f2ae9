"""The interval of a mean against scipy's own bootstrap, and that of a share against a published example."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from sovereign_pipeline.base import intervals
from sovereign_pipeline.base.intervals import clustered_interval, measured_share


def test_interval_of_singletons_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).normal(-0.2, 1.0, 60)
    reference = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=4).confidence_interval
    low, high = clustered_interval(values.tolist(), [str(i) for i in range(60)], seed=7)
    assert low == pytest.approx(reference.low, abs=0.02)
    assert high == pytest.approx(reference.high, abs=0.02)


def test_copies_of_a_row_add_no_certainty_within_a_case() -> None:
    values = np.random.default_rng(6).normal(0.0, 1.0, 30).tolist()
    names = [str(i) for i in range(30)]
    once = clustered_interval(values, names, seed=7)
    assert clustered_interval(values * 4, names * 4, seed=7) == pytest.approx(once)
    as_if_independent = clustered_interval(values * 4, [str(i) for i in range(120)], seed=7)
    assert as_if_independent[1] - as_if_independent[0] < 0.6 * (once[1] - once[0])


def test_a_row_of_weight_three_is_three_rows_of_its_case() -> None:
    values = np.random.default_rng(6).normal(0.0, 1.0, 30).tolist()
    names, weights = [str(i // 2) for i in range(30)], [1 + i % 3 for i in range(30)]
    repeated = [place for place, weight in enumerate(weights) for _ in range(weight)]
    written_out = clustered_interval([values[i] for i in repeated], [names[i] for i in repeated], seed=7)
    assert clustered_interval(values, names, seed=7, weights=weights) == pytest.approx(written_out)
    assert clustered_interval(values, names, seed=7) != pytest.approx(written_out, abs=1e-3)


def test_with_six_cases_a_candidate_worse_by_the_margin_passes_once_in_twenty_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plain percentile interval lets it pass in 7 %."""
    monkeypatch.setattr(intervals, "RESAMPLES", 2_000)
    generator, trials, margin = np.random.default_rng(9), 1_000, 0.05
    names = [str(i) for i in range(6)]
    passed = sum(
        clustered_interval(generator.normal(margin, 0.2, 6).tolist(), names, seed=trial)[1] < margin
        for trial in range(trials)
    )
    assert passed / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_nothing_has_no_interval_of_a_mean_and_the_widest_of_a_share() -> None:
    with pytest.raises(ValueError, match="0 values"):
        clustered_interval([], [], seed=7)
    assert (measured_share(0, 0).low, measured_share(0, 0).high) == (0.0, 1.0)


def test_the_interval_of_a_share_is_that_of_a_published_example() -> None:
    """81 of 263: Newcombe 1998 (Statistics in Medicine 17: 857-872), table I, method 3."""
    share = measured_share(81, 263)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    assert share.share == 81 / 263
