"""Intervals over few operators against textbooks and simulation; alpha and the ranking against published tables."""

import math

import numpy as np
import pytest
from scipy import stats

from sovereign_pipeline.review.result import Estimate, agreement, estimate, outcome_of, rank_versions

PREFERENCE = (-1.0, 1.0)


def test_with_clusters_of_one_size_it_is_the_t_interval_of_their_means() -> None:
    values = [1, 1, 1, 0, -1, -1, 1, 1, 0, -1, -1, -1, 1, 1, 1, 1, 0, 0, -1, -1]
    clusters = [f"operator-{number // 4}" for number in range(20)]
    means = np.reshape(values, (5, 4)).mean(axis=1)
    expected = stats.t.interval(0.95, 4, loc=means.mean(), scale=stats.sem(means))
    found = estimate(values, clusters, (-10.0, 10.0))
    spread = float(np.var(values)) * 20 + (10 - found.mean) ** 2 / 2 + (10 + found.mean) ** 2 / 2
    assert stats.sem(means) ** 2 < spread / 400  # here the second variance is the larger one
    narrow = estimate(values, clusters, PREFERENCE)
    assert stats.sem(means) ** 2 > (float(np.var(values)) * 20 + 1) / 400  # and here the first
    assert (narrow.low, narrow.high) == pytest.approx((expected[0], 1.0))  # cut to the bounds
    assert narrow.mean == pytest.approx(means.mean())
    assert (narrow.values, narrow.clusters) == (20, 5)


def test_with_clusters_of_different_sizes_it_is_the_cluster_robust_interval_of_statsmodels() -> None:
    import statsmodels.api as sm

    values = [1.0, 1, 1, 1, 0, -1, 1, -1, -1, 0, -1, -1, 1, 1]
    groups = [0] * 5 + [1] * 3 + [2] * 4 + [3] * 2
    fitted = sm.OLS(values, np.ones(14)).fit(cov_type="cluster", cov_kwds={"groups": np.array(groups)}, use_t=True)
    found = estimate(values, [str(group) for group in groups], (-2.0, 2.0))
    assert (found.low, found.high) == pytest.approx(fitted.conf_int()[0])


def test_one_operator_gives_no_interval_and_unanimous_ones_give_one_with_width() -> None:
    assert estimate([1.0, 0.0], ["amal", "amal"], PREFERENCE).low is None
    unanimous = estimate([1.0] * 100, [f"operator-{n % 5}" for n in range(100)], PREFERENCE)
    assert unanimous.high == 1.0
    assert unanimous.low is not None
    assert 0.9 < unanimous.low < 1.0


def simulate(
    rng: np.random.Generator, true: float, operators: int, pairs: int, spread: float, ties: float = 0.25
) -> Estimate:
    """Ballots of operators whose own net preferences lie around the true one; a share of pairs is tied."""
    values = []
    for own in np.clip(rng.normal(true, spread, operators), -(1 - ties), 1 - ties):
        values.append(rng.choice([1.0, -1.0, 0.0], pairs, p=[(1 - ties + own) / 2, (1 - ties - own) / 2, ties]))
    clusters = [f"operator-{number}" for number in range(operators) for _ in range(pairs)]
    return estimate(np.concatenate(values).tolist(), clusters, PREFERENCE)


SHAPES = [(5, 20, 0.2), (10, 20, 0.1)]
ROUNDS = 600
FAR = 4 * math.sqrt(0.05 * 0.95 / ROUNDS)  # four standard errors of a share that is 5 %


@pytest.mark.parametrize(("operators", "pairs", "spread"), SHAPES)
@pytest.mark.parametrize("true", [0.0, 0.3])
def test_the_interval_holds_the_truth_in_95_of_100_reviews(
    operators: int, pairs: int, spread: float, true: float
) -> None:
    rng = np.random.default_rng(20)
    found = [simulate(rng, true, operators, pairs, spread) for _ in range(ROUNDS)]
    missed = sum(each.low is None or each.high is None or not each.low <= true <= each.high for each in found)
    assert missed / ROUNDS < 0.05 + FAR


@pytest.mark.parametrize(("operators", "pairs", "spread"), SHAPES)
@pytest.mark.parametrize(("true", "margin"), [(-0.01, 0.0), (-0.1, 0.1)])
def test_a_candidate_that_is_truly_worse_ships_in_at_most_2_5_percent_of_reviews(
    operators: int, pairs: int, spread: float, true: float, margin: float
) -> None:
    rng = np.random.default_rng(21)
    shipped = sum(outcome_of(simulate(rng, true, operators, pairs, spread), margin) == "pass" for _ in range(ROUNDS))
    assert shipped / ROUNDS < 0.025 + FAR / 1.4


def test_what_is_detectable_is_detected_in_four_of_five_reviews() -> None:
    rng = np.random.default_rng(23)
    detectable = float(np.median([simulate(rng, 0.2, 10, 20, 0.1).detectable for _ in range(300)]))
    found = [outcome_of(simulate(rng, detectable, 10, 20, 0.1), 0.0) for _ in range(ROUNDS)]
    assert found.count("pass") / ROUNDS == pytest.approx(0.8, abs=0.06)


def test_alpha_is_the_published_one() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units."""
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    ratings = [
        (f"observer-{observer}", unit, float(value))
        for observer, row in enumerate(table)
        for unit, value in enumerate(row)
        if value is not None
    ]
    found = {level: agreement(ratings, level) for level in ("nominal", "ordinal", "interval")}
    assert {level: round(each.alpha or 0, 3) for level, each in found.items()} == {
        "nominal": 0.743,
        "ordinal": 0.815,
        "interval": 0.849,
    }
    assert (found["nominal"].units, found["nominal"].raters) == (12, 4)


BASEBALL = {  # Agresti 2002, table 10.10: 1987, American League East; wins of the row over the column
    "Milwaukee": {"Detroit": 7, "Toronto": 9, "New York": 7, "Boston": 7, "Cleveland": 9, "Baltimore": 11},
    "Detroit": {"Milwaukee": 6, "Toronto": 7, "New York": 5, "Boston": 11, "Cleveland": 9, "Baltimore": 9},
    "Toronto": {"Milwaukee": 4, "Detroit": 6, "New York": 7, "Boston": 7, "Cleveland": 8, "Baltimore": 12},
    "New York": {"Milwaukee": 6, "Detroit": 8, "Toronto": 6, "Boston": 6, "Cleveland": 7, "Baltimore": 10},
    "Boston": {"Milwaukee": 6, "Detroit": 2, "Toronto": 6, "New York": 7, "Cleveland": 7, "Baltimore": 12},
    "Cleveland": {"Milwaukee": 4, "Detroit": 4, "Toronto": 5, "New York": 6, "Boston": 6, "Baltimore": 6},
    "Baltimore": {"Milwaukee": 2, "Detroit": 4, "Toronto": 1, "New York": 3, "Boston": 1, "Cleveland": 7},
}


def test_the_ranking_is_that_of_the_textbook() -> None:
    """Agresti 2002, section 10.6.2: 1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0 without the ties added here, which move it
    towards the middle: with every result fifty times they weigh nothing."""
    games = [
        (one, other, 1.0) for one, beaten in BASEBALL.items() for other, wins in beaten.items() for _ in range(wins)
    ]
    ranked = rank_versions(games * 50, of=games[0][0])
    assert [each.version for each in ranked] == [
        "Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore",
    ]  # fmt: skip
    assert [each.strength for each in ranked] == pytest.approx([1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0], abs=0.01)


def test_a_version_that_won_every_time_stands_high_but_not_infinitely() -> None:
    ranked = rank_versions(
        [("lamps-1.1.0", "lamps-1.0.0", 1.0)] * 10 + [("lamps-1.0.0", "tiny", 0.5)] * 10, of="lamps-1.1.0"
    )
    assert [(each.version, each.pairs) for each in ranked] == [("lamps-1.1.0", 10), ("lamps-1.0.0", 20), ("tiny", 10)]
    assert ranked[0].strength == pytest.approx(math.log(10.5 / 0.5))
    assert ranked[1].strength == pytest.approx(0.0, abs=1e-6)
    assert rank_versions([], of="lamps-1.1.0") == []


def test_versions_that_nothing_links_to_the_one_in_question_stand_on_no_common_rank_versions() -> None:
    games = [("lamps-1.1.0", "tiny", 1.0)] * 12 + [("lamps-1.3.0", "lamps-1.2.0", 1.0)] * 12
    assert [each.version for each in rank_versions(games, of="lamps-1.3.0")] == ["lamps-1.3.0", "lamps-1.2.0"]
    assert len(rank_versions([*games, ("lamps-1.2.0", "tiny", 1.0)], of="lamps-1.3.0")) == 4
