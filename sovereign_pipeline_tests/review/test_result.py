"""The figures of a closed review and its gate: what passes, what an officer may waive, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.evaluation.report.looks import confidence_at
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline.record.officers import officer_in_short
from sovereign_pipeline.record.stage import Built, Inputs, Outcome, Workplace
from sovereign_pipeline.review.plan import Position, candidate_positions, pairs_to_guess
from sovereign_pipeline.review.result import ReviewResult
from sovereign_pipeline_tests.officers import officer_called, waive
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench

pytestmark = pytest.mark.slow
GATE = "net_preference_not_negative"


def test_a_candidate_that_won_ships_and_every_figure_follows_from_the_ballots(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset({0})
    closing = reviews.reviewed(1)
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
    seed = bytes.fromhex(closing.seed)  # from which an auditor derives every position again
    for row in read_jsonl(artifact.file("ballots.jsonl")):
        operator = str(row["operator"])
        positions = candidate_positions(seed, operator, reviews.contents.plan.operators[operator])
        assert positions[str(row["pair"])] == row["candidate_position"]


@pytest.mark.security_case(
    "One candidate after another is reviewed with the same prompts, until one wins by chance",
    "each review is another look, whose interval is wider; a win that passes first is inconclusive later",
)
def test_a_later_review_with_the_same_prompts_needs_stronger_evidence(reviews: ReviewBench) -> None:
    results: list[ReviewResult] = []
    for number in range(3):
        if number:
            reviews.another_adapter()
        reviews.reviewed(1)
        artifact, verdicts = reviews.materialize()
        results.append(ReviewResult.model_validate_json(artifact.file("review.json").read_bytes()))
    assert [each.look for each in results] == [1, 2, 3]
    detectable = [each.net_preference.detectable or 0.0 for each in results]
    assert detectable[0] < detectable[1] < detectable[2]
    assert f"{100 * confidence_at(3):.4g} % CI" in verdicts[GATE].message and "look 3" in verdicts[GATE].message
    ranked = [[(each.version, each.pairs) for each in result.ranking] for result in results[:2]]
    assert ranked[0] == [("lamps-1.0.0", 10), ("tiny", 10)]
    assert ranked[1] == [("lamps-1.1.0", 10), ("lamps-1.0.0", 20), ("tiny", 10)]


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
    officer = officer_in_short(officer_called(reviews.bench.settings, "officer.salim").keyid)
    assert f"Closed early by {officer}" in verdicts[GATE].message
    assert f"Closed early by {officer}: the others are on leave" in artifact.file("review.md").read_text()
    assert artifact.manifest.summary["closed_early"] is True


def test_agreement_is_over_the_shared_pairs_alone_and_guesses_are_compared_with_one_half(reviews: ReviewBench) -> None:
    """Everybody wins their own pairs; of the shared ones, everybody likes the first and nobody the second."""
    reviews.open()
    shared = sorted({each.prompt for name in reviews.operators for each in reviews.asked(name) if each.shared})
    for number, operator in enumerate(reviews.operators):
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, -1 if each.prompt == shared[1] else 1, (4, 2))
        pairs = reviews.contents.plan.operators[operator]
        for pair in pairs_to_guess(reviews.seed, operator, pairs, set(), 2):
            position = reviews.position_of(operator, pair)
            wrong: Position = "b" if position == "a" else "a"
            reviews.guess(operator, pair, position if number < 4 else wrong)
    reviews.close()
    artifact, _ = reviews.materialize()
    result = ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())
    assert (result.wins, result.losses) == (10, 0)
    assert (result.agreement["preference"].alpha, result.agreement["preference"].units) == (1.0, 2)
    assert result.agreement["tone"].units == 4
    guesses = result.guesses
    assert guesses is not None
    assert (guesses.mean, guesses.values, guesses.clusters) == (0.8, 10, 5)
    assert guesses.low is not None and guesses.low < 0.5 < 0.8


def test_a_candidate_that_lost_does_not_ship_whatever_the_recipe_allows(reviews: ReviewBench) -> None:
    reviews.recipe(margin=1.0)
    reviews.open()
    (first, *_), *_ = ([each for each in reviews.asked(name) if not each.shared] for name in reviews.operators)
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, -1 if each == first else 0)
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].evidence["outcome"] == "fail"
    assert "net preference -0.100 (0 won, 1 lost, 9 tied" in verdicts[GATE].message
    with pytest.raises(GateRefused, match="failed for"):
        assert_usable(BLIND_REVIEW, reviews.bench.workplace(), artifact.ref)


def win_one(reviews: ReviewBench) -> None:
    """One pair is won and all others are tied."""
    decided = next(each for each in reviews.asked("operator-1") if not each.shared)
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, 1 if each == decided else 0)


def test_what_a_review_is_evaluated_by_is_fixed_before_the_first_ballot(reviews: ReviewBench) -> None:
    reviews.open()
    win_one(reviews)
    reviews.recipe(margin=1.0, officer_may="accept_inconclusive", may_close_early=["officer.salim"])
    with pytest.raises(SignInError, match="the recipe allowed nobody"):
        reviews.close(officer="officer.salim", reason="late")
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].outcome == "inconclusive"
    (gate,) = BLIND_REVIEW.gates
    workplace = reviews.bench.workplace()
    with pytest.raises(GateRefused, match="permits waiving nothing"):
        waive(BLIND_REVIEW, gate, workplace, artifact.ref, "I like it")
    with pytest.raises(GateRefused, match="is inconclusive") as refusal:
        assert_usable(BLIND_REVIEW, workplace, artifact.ref)
    assert refusal.value.remedy is None


def test_a_margin_that_was_registered_beforehand_is_the_one_that_counts(reviews: ReviewBench) -> None:
    reviews.recipe(margin=1.0)
    reviews.open()
    win_one(reviews)
    reviews.close()
    reviews.recipe(margin=0.0)
    _, verdicts = reviews.materialize()
    assert verdicts[GATE].passed


@pytest.mark.parametrize("outcome", ["inconclusive", "fail"])
def test_an_officer_may_waive_what_is_inconclusive_where_the_recipe_allows_it_and_never_a_fail(
    reviews: ReviewBench, outcome: Outcome
) -> None:
    """One pair is won, or lost, and all others are tied."""
    reviews.recipe(officer_may="accept_inconclusive")
    reviews.open()
    decided = next(each for each in reviews.asked("operator-1") if not each.shared)
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, 0 if each != decided else -1 if outcome == "fail" else 1)
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].outcome == outcome
    workplace = reviews.bench.workplace()
    (gate,) = BLIND_REVIEW.gates
    with pytest.raises(GateRefused):
        assert_usable(BLIND_REVIEW, workplace, artifact.ref)
    if outcome == "fail":
        with pytest.raises(GateRefused, match="waiving only an inconclusive verdict"):
            waive(BLIND_REVIEW, gate, workplace, artifact.ref, "I like it")
        return
    waive(BLIND_REVIEW, gate, workplace, artifact.ref, "as good as the other, and cheaper")
    assert_usable(BLIND_REVIEW, workplace, artifact.ref)


def test_a_new_candidate_is_not_carried_by_the_review_of_the_one_before(reviews: ReviewBench) -> None:
    reviews.reviewed(1)
    artifact, _ = reviews.materialize()
    reviews.another_adapter()
    with pytest.raises(NotFoundError, match="there is no closed review of its current registered adapter"):
        reviews.materialize()
    with pytest.raises(Exception, match="is stale"):
        assert_usable(BLIND_REVIEW, reviews.bench.workplace(), artifact.ref)


def test_a_result_that_was_polished_is_refused(reviews: ReviewBench) -> None:
    reviews.reviewed(0)

    def polished(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = BLIND_REVIEW.build(workplace, inputs, workspace)
        file = workspace / "review.json"
        file.write_bytes(file.read_bytes().replace(b'"wins":0', b'"wins":9'))
        return built

    _, verdicts = reviews.materialize(replace(BLIND_REVIEW, build=polished))
    assert not verdicts[GATE].passed
    assert "does not match the ballots" in verdicts[GATE].message


def test_a_seed_that_is_not_the_committed_one_is_refused(reviews: ReviewBench) -> None:
    """Whoever could choose the seed afterwards could choose who won."""
    reviews.reviewed(-1)
    statement = text("UPDATE review_closing SET seed = :seed").bindparams(seed="0" * 64)
    forge(reviews.registry, lambda session: session.execute(statement))
    with pytest.raises(IntegrityError, match="the closing is in the registry without an act"):
        reviews.materialize()
