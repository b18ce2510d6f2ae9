"""The rule of the gates: the scenarios of the CONSORT extension, and the power that an inconclusive answer states."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower

from sovereign_pipeline.evaluation.statistics.non_inferiority import evaluate_difference, minimum_detectable_difference
from sovereign_pipeline.evaluation.statistics.score_interval import score_interval
from sovereign_pipeline_tests.evaluation.statistics.test_score_interval import passing_probability


@dataclass(frozen=True)
class Observed:
    low: float
    difference: float
    high: float
    rows: int = 100


# Piaggio et al. 2012, figure 1: the intervals A to H, with a margin of 0.10 and a measure that is better when higher.
SCENARIOS = {
    "A superior": (Observed(0.02, 0.06, 0.10), "pass"),
    "B": (Observed(-0.06, 0.02, 0.10), "pass"),
    "C": (Observed(-0.09, -0.04, 0.01), "pass"),
    "D worse, within the margin": (Observed(-0.09, -0.05, -0.01), "pass"),
    "E": (Observed(-0.16, -0.04, 0.08), "inconclusive"),
    "F": (Observed(-0.24, -0.11, 0.02), "inconclusive"),
    "G worse, perhaps within the margin": (Observed(-0.14, -0.08, -0.02), "inconclusive"),
    "G worse, by more than the margin at best guess": (Observed(-0.22, -0.12, -0.02), "fail"),
    "H inferior": (Observed(-0.30, -0.21, -0.12), "fail"),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenarios_of_the_guideline(name: str) -> None:
    observed, outcome = SCENARIOS[name]
    assert evaluate_difference(observed, 0.10, "higher").outcome == outcome
    turned = Observed(-observed.high, -observed.difference, -observed.low)
    assert evaluate_difference(turned, 0.10, "lower").outcome == outcome


@pytest.mark.parametrize(
    ("observed", "outcome"),
    [
        (Observed(-0.3, -0.2, -0.1), "pass"),
        (Observed(-0.3, -0.1, 0.1), "inconclusive"),
        (Observed(-0.1, 0.1, 0.3), "inconclusive"),
        (Observed(0.1, 0.2, 0.3), "fail"),
        (Observed(0.0, 0.0, 0.0), "inconclusive"),
    ],
)
def test_a_margin_of_none_asks_for_superiority(observed: Observed, outcome: str) -> None:
    judgement = evaluate_difference(observed, 0.0, "lower")
    assert (judgement.outcome, judgement.rows_needed) == (outcome, None)


def test_a_whole_interval_at_the_margin_does_not_pass() -> None:
    assert evaluate_difference(Observed(-0.10, -0.05, 0.0), 0.10, "higher").outcome == "inconclusive"


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.001, 1), st.floats(0, 1))
def test_a_wider_margin_never_turns_a_pass_into_less(
    difference: float, below: float, above: float, margin: float, more: float
) -> None:
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    observed = Observed(difference - below, difference, difference + above)
    strict, lax = (evaluate_difference(observed, each, "higher").outcome for each in (margin, margin + more))
    assert order[strict] <= order[lax]


def test_the_minimum_detectable_difference_difference_is_that_of_statsmodels_power() -> None:
    low, high = score_interval(2_000, 2_000, 20_000)
    deviation = 0.2**0.5  # of differences of which a tenth is +1 and a tenth -1
    reference = NormalIndPower(ddof=0).solve_power(nobs1=20_000, alpha=0.05, power=0.8, ratio=0) * deviation
    assert minimum_detectable_difference(Observed(low, 0.0, high)) == pytest.approx(reference, rel=0.01)


def test_an_equally_good_candidate_passes_at_the_minimum_detectable_difference_margin_as_often_as_said() -> None:
    low, high = score_interval(15, 15, 150)
    visible = minimum_detectable_difference(Observed(low, 0.0, high, 150))
    assert passing_probability(150, 0.1, 0.1, visible) == pytest.approx(0.8, abs=0.03)


def test_a_suite_that_is_too_small_says_how_large_it_would_have_to_be() -> None:
    low, high = score_interval(5, 5, 50)
    judgement = evaluate_difference(Observed(low, 0.0, high, 50), 0.10, "higher")
    assert judgement.outcome == "inconclusive"
    assert judgement.rows_needed is not None
    assert 0.78 <= passing_probability(judgement.rows_needed, 0.1, 0.1, 0.10) <= 0.88
