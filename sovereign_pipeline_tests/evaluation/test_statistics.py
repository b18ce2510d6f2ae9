"""Rows of one case file are one cluster of every interval, in whatever spelling each of them names it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from sovereign_pipeline.evaluation.held_out import private_result, reply_result
from sovereign_pipeline.evaluation.memorisation import memorisation_result
from sovereign_pipeline.evaluation.records import PrivateSample, ReplySample, VerbatimSample
from sovereign_pipeline.evaluation.statistics import (
    clustered_score_interval,
    compare_losses,
    design_effect,
    evaluate_difference,
    mcnemar_exact,
    minimum_detectable_difference,
    score_interval,
)
from sovereign_pipeline_tests.evaluation.report.planted import continuations, private, replies_to_letters

SPELLINGS = ("PRM-{}/2024", "prm – {} / ٢٠٢٤", "ＰＲＭ-{}∕2024")
Row = TypeVar("Row", PrivateSample, ReplySample, VerbatimSample)


def in_cases_of_four(rows: Sequence[Row], spellings: Sequence[str]) -> list[Row]:
    return [row.model_copy(update={"case": spellings[n % len(spellings)].format(n // 4)}) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("result", "rows", "clusters"),
    [
        (lambda rows: private_result(rows, 7), private(0.5), lambda each: (each.loss, each.choice)),
        (lambda rows: reply_result(rows, 7), replies_to_letters(), lambda each: (each.chrf, each.rouge_l)),
        (
            lambda rows: memorisation_result([], rows, 7),
            continuations(9),
            lambda each: (each.verbatim.trained, each.verbatim.control),
        ),
    ],
    ids=["losses and choices", "replies", "continuations"],
)
def test_spellings_of_a_case_file_are_one_cluster(
    result: Callable[[Any], Any], rows: list[Any], clusters: Callable[[Any], tuple[Any, Any]]
) -> None:
    one, many = (result(in_cases_of_four(rows, spellings)) for spellings in (SPELLINGS[:1], SPELLINGS))
    assert many == one
    documents = len(rows) // (2 if isinstance(rows[0], VerbatimSample) else 1)
    assert {each["base"].clusters for each in clusters(many)} == {documents // 4}


def test_interval_is_the_published_one() -> None:
    # Fagerland, Lydersen and Laake 2014, tables II and V: 21 children's airways before and after a transplantation.
    assert score_interval(gained=1, lost=7, rows=21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_where_no_row_or_every_row_differs_it_is_wilsons_interval() -> None:
    """A bootstrap of rows that do not differ has no width: three questions that nobody lost would pass any margin."""
    for rows in (3, 28, 150):
        _, reference = proportion_confint(0, rows, alpha=0.05, method="wilson")
        assert score_interval(0, 0, rows) == pytest.approx((-reference, reference))
    for gained in (0, 3, 20):
        low, high = proportion_confint(gained, 20, alpha=0.05, method="wilson")
        assert score_interval(gained, 20 - gained, 20) == pytest.approx((2 * low - 1, 2 * high - 1))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_interval_holds_the_difference_and_turns_with_it(gained: int, lost: int, tied: int) -> None:
    rows = gained + lost + tied + 1
    low, high = score_interval(gained, lost, rows)
    assert -1 <= low <= (gained - lost) / rows <= high <= 1
    assert low < high
    assert score_interval(lost, gained, rows) == pytest.approx((-high, -low), abs=1e-9)


def passing_probability(rows: int, gained: float, lost: float, margin: float) -> float:
    """Exact probability that the whole interval lies above -margin, over all outcomes of the rows."""
    total = 0.0
    for more in range(rows + 1):
        for less in range(rows + 1 - more):
            counts, shares = (more, less, rows - more - less), (gained, lost, 1 - gained - lost)
            if any(count and share <= 0 for count, share in zip(counts, shares, strict=True)):
                continue
            if score_interval(more, less, rows)[0] <= -margin:
                continue
            logarithm = math.lgamma(rows + 1) - sum(math.lgamma(count + 1) for count in counts)
            logarithm += sum(n * math.log(share) for n, share in zip(counts, shares, strict=True) if n)
            total += math.exp(logarithm)
    return total


@pytest.mark.parametrize("rows", [6, 48])
@pytest.mark.parametrize("margin", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("gained", [0.0, 0.10])
def test_a_candidate_worse_by_the_margin_passes_as_rarely_as_promised(rows: int, margin: float, gained: float) -> None:
    assert passing_probability(rows, gained, gained + margin, margin) <= 0.035


def drawn(
    generator: np.random.Generator, clusters: int, of: int, lost: float, gained: float, shared: float
) -> list[int]:
    """Differences of which a share is the same throughout a cluster."""
    shares = [gained, lost, 1 - gained - lost]
    common = generator.choice([1, -1, 0], (clusters, 1), p=shares)
    own = generator.choice([1, -1, 0], (clusters, of), p=shares)
    return [int(each) for each in np.where(generator.random((clusters, of)) < shared, common, own).ravel()]


@pytest.mark.parametrize(("clusters", "of", "lost", "gained"), [(6, 5, 0.15, 0.05), (40, 3, 0.1, 0)])
def test_rows_that_go_together_do_not_make_it_pass_more_often(
    clusters: int, of: int, lost: float, gained: float
) -> None:
    generator, trials = np.random.default_rng(3), 400
    names = [str(n // of) for n in range(clusters * of)]
    passed = sum(
        clustered_score_interval(drawn(generator, clusters, of, lost, gained, 0.7), names)[0] > gained - lost
        for _ in range(trials)
    )
    assert passed / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_the_design_effect_is_that_of_cluster_robust_errors() -> None:
    generator = np.random.default_rng(4)
    values = drawn(generator, 30, 6, 0.3, 0.2, 0.6)
    groups = np.repeat(np.arange(30), 6)
    model = sm.OLS(np.array(values, dtype=float), np.ones(180))
    robust = model.fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[0]
    plain = model.fit().bse[0]
    assert design_effect(values, [str(each) for each in groups]) == pytest.approx((robust / plain) ** 2, rel=0.01)


def test_clusters_of_one_row_are_rows_and_copies_of_a_row_add_nothing() -> None:
    values = [-1, 0, 0, 1, 0, -1, 0, 0, 0, 0, -1, 0]
    names = [str(n) for n in range(12)]
    assert clustered_score_interval(values, names) == score_interval(1, 3, 12)
    once, copied = clustered_score_interval(values, names), clustered_score_interval(values * 4, names * 4)
    assert copied[1] - copied[0] > 0.95 * (once[1] - once[0])
    assert clustered_score_interval([0] * 40, names[:4] * 10)[0] < score_interval(0, 0, 4)[0]
    assert clustered_score_interval([0] * 40, ["one"] * 40) == (-1.0, 1.0)


def test_one_row_that_differs_says_no_more_about_passages_than_none() -> None:
    """100 questions on 20 passages. Taken as 100 that stand alone as soon as one is lost, they would end at -0.060."""
    passages = [str(n // 5) for n in range(100)]
    none, one = (clustered_score_interval([-1] * lost + [0] * (100 - lost), passages) for lost in (0, 1))
    bound = 2.0930**2 / (20 + 2.0930**2)  # Student's quantile with 19 degrees of freedom in Wilson's bound
    assert none == pytest.approx((-bound, bound), abs=1e-4)
    assert one[0] == pytest.approx(-bound, abs=1e-4)
    assert 0.10 < one[1] < bound


def test_where_many_rows_differ_the_estimated_design_effect_counts_alone() -> None:
    """Nineteen of 100 rows, all but two of them alone in their passages."""
    passages = [str(n // 5) for n in range(100)]
    differences = [-1 if (n % 5 == 0 and n < 90) or n == 1 else 0 for n in range(100)]
    effect = design_effect(differences, passages)
    assert 1 <= effect < 1.5
    reference = score_interval(0, 19 / effect, 100 / effect, quantile=2.093024)
    assert clustered_score_interval(differences, passages) == pytest.approx(reference, abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.integers(6, 30), st.integers(2, 10), st.integers(1, 6), st.data())
def test_no_loss_however_placed_is_taken_for_less_than_none(
    passages: int, of: int, lost: int, data: st.DataObject
) -> None:
    names = [str(n // of) for n in range(passages * of)]
    places = data.draw(st.sets(st.integers(0, len(names) - 1), min_size=lost, max_size=lost))
    differences = [-1 if n in places else 0 for n in range(len(names))]
    none = clustered_score_interval([0] * len(names), names)
    assert clustered_score_interval(differences, names)[0] <= none[0] + 1e-9


@dataclass(frozen=True)
class Observed:
    low: float
    difference: float
    high: float
    rows: int = 100


@pytest.mark.parametrize(
    ("margin", "low", "difference", "high", "outcome"),
    [
        # Piaggio et al. 2012, figure 1: the intervals A to H, with a measure that is better when higher.
        (0.10, 0.02, 0.06, 0.10, "pass"),
        (0.10, -0.06, 0.02, 0.10, "pass"),
        (0.10, -0.09, -0.04, 0.01, "pass"),
        (0.10, -0.09, -0.05, -0.01, "pass"),
        (0.10, -0.16, -0.04, 0.08, "inconclusive"),
        (0.10, -0.24, -0.11, 0.02, "inconclusive"),
        (0.10, -0.14, -0.08, -0.02, "inconclusive"),
        (0.10, -0.22, -0.12, -0.02, "fail"),
        (0.10, -0.30, -0.21, -0.12, "fail"),
        # An interval that ends at the margin, and a margin of 0, which asks for superiority.
        (0.10, -0.10, -0.05, 0.0, "inconclusive"),
        (0.0, 0.1, 0.2, 0.3, "pass"),
        (0.0, -0.1, 0.1, 0.3, "inconclusive"),
        (0.0, -0.3, -0.2, -0.1, "fail"),
        (0.0, 0.0, 0.0, 0.0, "inconclusive"),
    ],
)
def test_a_difference_is_evaluated_as_the_guideline_says(
    margin: float, low: float, difference: float, high: float, outcome: str
) -> None:
    assert evaluate_difference(Observed(low, difference, high), margin, "higher").outcome == outcome
    assert evaluate_difference(Observed(-high, -difference, -low), margin, "lower").outcome == outcome


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


def test_a_suite_that_is_too_small_says_how_large_it_would_have_to_be() -> None:
    low, high = score_interval(5, 5, 50)
    judgement = evaluate_difference(Observed(low, 0.0, high, 50), 0.10, "higher")
    assert judgement.outcome == "inconclusive"
    assert judgement.rows_needed is not None
    assert 0.78 <= passing_probability(judgement.rows_needed, 0.1, 0.1, 0.10) <= 0.88


@pytest.mark.parametrize(("gained", "lost"), [(2, 10), (10, 2), (7, 7), (0, 5), (40, 22), (0, 0)])
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    assert mcnemar_exact(lost, gained) == pytest.approx(mcnemar([[9, lost], [gained, 9]], exact=True).pvalue)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.sampled_from("abcde")), min_size=1, max_size=30))
def test_loss_difference_lies_in_its_interval_and_in_the_data(rows: list[tuple[float, float, str]]) -> None:
    reference, candidate, cases = (list(column) for column in zip(*rows, strict=True))
    result = compare_losses(reference, candidate, cases, seed=7)
    differences = [after - before for before, after in zip(reference, candidate, strict=True)]
    assert result.difference == pytest.approx(result.candidate - result.reference, abs=1e-9)
    assert min(differences) - 1e-9 <= result.low <= result.high <= max(differences) + 1e-9
    assert result.clusters == len(set(cases))
