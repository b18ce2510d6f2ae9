"""The figures of a closed review, on artifacts and ballots of the real store and registry."""

import json

import pytest

from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.evaluation.report.looks import confidence_at
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline.review.plan import Position, candidate_positions, pairs_to_guess
from sovereign_pipeline.review.result import ReviewResult
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench

GATE = "net_preference_not_negative"


def result_of(reviews: ReviewBench) -> ReviewResult:
    artifact, _ = reviews.materialize()
    return ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())


def test_a_candidate_that_won_ships_and_every_figure_follows_from_the_ballots(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset({0})
    reviews.recipe(prompts_each=2, shared_prompts=2)
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    artifact, verdicts = reviews.materialize()
    result = ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())
    own = [each for pairs in reviews.contents.plan.operators.values() for each in pairs if not each.shared]
    tied = sum(each.prompt in reviews.contents.identical for each in own)
    assert (result.wins, result.losses, result.ties, result.identical) == (10 - tied, 0, tied, tied)
    assert result.net_preference.mean == pytest.approx((10 - tied) / 10)
    assert result.criteria["tone"].difference.mean == 2.0
    assert (result.criteria["tone"].candidate, result.criteria["tone"].opponent) == (4.0, 2.0)
    assert (result.operators, result.ballots, result.closed_early, result.guesses) == (
        5,
        reviews.contents.plan.ballots,
        None,
        None,
    )
    assert verdicts[GATE].passed
    assert verdicts[GATE].evidence["outcome"] == "pass"
    assert_usable(BLIND_REVIEW, reviews.bench.workplace(), artifact.ref)
    assert artifact.manifest.external_inputs["review_plan"] == reviews.review.plan_digest
    shown = artifact.file("review.md").read_text() + verdicts[GATE].message + json.dumps(artifact.manifest.summary)
    assert "wording" not in shown


@pytest.mark.security_case(
    "One candidate after another is reviewed with the same prompts, until one wins by chance",
    "each review is another look, whose interval is wider; a win that passes first is inconclusive later",
)
def test_a_later_review_with_the_same_prompts_needs_stronger_evidence(reviews: ReviewBench) -> None:
    detectable: list[float] = []
    looks: list[int] = []
    for number in range(3):
        if number:
            reviews.another_adapter()
        reviews.open()
        reviews.vote_all(1)
        reviews.close()
        artifact, verdicts = reviews.materialize()
        result = ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())
        detectable.append(result.net_preference.detectable or 0.0)
        looks.append(result.look)
    assert looks == [1, 2, 3]
    assert detectable[0] < detectable[1] < detectable[2]
    assert f"{100 * confidence_at(3):.4g} % CI" in verdicts[GATE].message and "look 3" in verdicts[GATE].message


def test_an_auditor_derives_every_position_again_from_the_revealed_seed(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    seed = bytes.fromhex(reviews.close().seed)
    artifact, _ = reviews.materialize()
    for row in read_jsonl(artifact.file("ballots.jsonl")):
        operator = str(row["operator"])
        positions = candidate_positions(seed, operator, reviews.contents.plan.operators[operator])
        assert positions[str(row["pair"])] == row["candidate_position"]
        assert row["preference"] == 1


def test_operators_who_never_came_are_no_opinions(reviews: ReviewBench) -> None:
    """One operator won everything; the others have nothing but ties that nobody asked them for."""
    reviews.recipe(margin=0.0, may_close_early=["officer.salim"])
    reviews.planted.same = frozenset(range(0, 12, 3))
    reviews.open()
    came = next(name for name in reviews.operators if any(not each.shared for each in reviews.asked(name)))
    for each in reviews.asked(came):
        reviews.vote(came, each.pair, 1)
    reviews.close(officer="officer.salim", reason="the others are on leave")
    artifact, verdicts = reviews.materialize()
    assert ReviewResult.model_validate_json(artifact.file("review.json").read_bytes()).operators == 1
    assert verdicts[GATE].evidence["outcome"] == "inconclusive"  # one operator alone gives no interval


def test_a_candidate_that_lost_the_review_is_nobodys_opponent(reviews: ReviewBench) -> None:
    """Else the next one could ship for being better than what may not ship."""
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    reviews.another_adapter()
    reviews.open()
    assert reviews.contents.plan.opponent == "lamps-1.0.0"
    reviews.vote_all(-1)
    reviews.close()
    reviews.another_adapter()
    reviews.open()
    assert (reviews.contents.plan.adapter, reviews.contents.plan.opponent) == ("lamps-1.2.0", "lamps-1.0.0")


def test_agreement_is_over_the_shared_pairs_alone_and_the_net_preference_over_the_others(reviews: ReviewBench) -> None:
    """Everybody wins their own pairs; of the shared ones, everybody likes the first and nobody the second."""
    reviews.open()
    shared = sorted({each.prompt for name in reviews.operators for each in reviews.asked(name) if each.shared})
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, -1 if each.prompt == shared[1] else 1, (4, 2))
    reviews.close()
    result = result_of(reviews)
    assert (result.wins, result.losses) == (10, 0)
    assert (result.agreement["preference"].alpha, result.agreement["preference"].units) == (1.0, 2)
    assert result.agreement["tone"].units == 4


def test_guesses_are_counted_against_one_half(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(0)
    for number, operator in enumerate(reviews.operators):
        pairs = reviews.contents.plan.operators[operator]
        for pair in pairs_to_guess(reviews.seed, operator, pairs, set(), 2):
            position = reviews.position_of(operator, pair)
            wrong: Position = "b" if position == "a" else "a"
            reviews.guess(operator, pair, position if number < 4 else wrong)
    reviews.close()
    guesses = result_of(reviews).guesses
    assert guesses is not None
    assert (guesses.mean, guesses.values, guesses.clusters) == (0.8, 10, 5)
    assert guesses.low is not None and guesses.low < 0.5 < 0.8


def test_the_ranking_grows_over_the_reviews_of_a_line(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    first, _ = reviews.materialize()
    reviews.another_adapter()
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    ranked = [(each.version, each.pairs) for each in result_of(reviews).ranking]
    assert ranked == [("lamps-1.1.0", 10), ("lamps-1.0.0", 20), ("tiny", 10)]
    assert [
        each.version for each in ReviewResult.model_validate_json(first.file("review.json").read_bytes()).ranking
    ] == [
        "lamps-1.0.0",
        "tiny",
    ]
