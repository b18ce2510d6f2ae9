"""What a closed review amounts to, on artifacts and ballots of the real store and registry."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from sovereign_pipeline.artifacts.gates import assert_usable, waive
from sovereign_pipeline.artifacts.stage import Built, Inputs, Outcome, Workplace
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.errors import ConflictError, GateRefused, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.review.ballots import give_guess
from sovereign_pipeline.review.plan import Position, candidate_positions, pairs_to_guess
from sovereign_pipeline.review.result import ReviewResult
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench

GATE = "net_preference_not_negative"


def result_of(reviews: ReviewBench) -> ReviewResult:
    artifact, _ = reviews.materialize()
    return ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())


def test_a_candidate_that_is_liked_better_ships_and_every_figure_follows_from_the_ballots(reviews: ReviewBench) -> None:
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


def test_an_auditor_derives_every_side_again_from_the_revealed_seed(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    seed = bytes.fromhex(reviews.close().seed)
    artifact, _ = reviews.materialize()
    for row in read_jsonl(artifact.file("ballots.jsonl")):
        operator = str(row["operator"])
        sides = candidate_positions(seed, operator, reviews.contents.plan.operators[operator])
        assert sides[str(row["pair"])] == row["candidate_side"]
        assert row["preference"] == 1


@pytest.mark.parametrize("accepted", [0.0, 1.0])
def test_a_candidate_that_is_liked_less_does_not_ship_whatever_the_recipe_says(
    reviews: ReviewBench, accepted: float
) -> None:
    reviews.recipe(margin=accepted)
    reviews.open()
    (first, *_), *_ = ([each for each in reviews.asked(name) if not each.shared] for name in reviews.operators)
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, -1 if each == first else 0)
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].evidence["outcome"] == "fail"
    assert "net preference -0.100 (0 won, 1 lost, 9 tied" in verdicts[GATE].message
    assert "does not ship" in verdicts[GATE].message
    with pytest.raises(GateRefused, match="failed for"):
        assert_usable(BLIND_REVIEW, reviews.bench.workplace(), artifact.ref)


def test_what_cannot_be_told_is_inconclusive_with_what_could_have_been_seen(reviews: ReviewBench) -> None:
    reviews.open()
    for operator in reviews.operators:
        for number, each in enumerate(reviews.asked(operator)):
            reviews.vote(operator, each.pair, 1 if number == 0 else 0 if number == 1 else number % 2 * 2 - 1)
    reviews.close()
    _, verdicts = reviews.materialize()
    evidence = verdicts[GATE].evidence
    expected = "fail" if evidence["net_preference"]["mean"] < 0 else "inconclusive"
    assert (evidence["outcome"], verdicts[GATE].passed) == (expected, False)


def win_one(reviews: ReviewBench) -> None:
    """One pair is won and all others are tied."""
    decided = next(each for each in reviews.asked("operator-1") if not each.shared)
    for operator in reviews.operators:
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, 1 if each == decided else 0)


def test_what_a_review_is_judged_by_is_fixed_before_the_first_ballot(reviews: ReviewBench) -> None:
    reviews.open()
    win_one(reviews)
    reviews.recipe(margin=1.0, officer_may="accept_inconclusive", may_close_early=["officer.salim"])
    with pytest.raises(InputError, match="The recipe it was opened under allows nobody"):
        reviews.close(officer="officer.salim", reason="late")
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].outcome == "inconclusive"
    (gate,) = BLIND_REVIEW.gates
    workplace = reviews.bench.workplace()
    with pytest.raises(GateRefused, match="lets an officer waive nothing"):
        waive(BLIND_REVIEW, gate, workplace, artifact.ref, "officer.salim", "I like it")
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


def test_a_candidate_that_people_like_less_is_nobodys_opponent(reviews: ReviewBench) -> None:
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


def test_the_same_weights_under_another_version_keep_their_answer(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(-1)
    reviews.close()
    reviews.bench.recipe["purpose"] = "Answer letters about lamps and lanterns."
    again = reviews.bench.register()
    assert again.version == "1.0.1"
    with pytest.raises(ConflictError, match=r"lamps-1\.0\.1 \(then lamps-1\.0\.0, the same weights\) was reviewed"):
        reviews.open()
    _, verdicts = reviews.materialize()
    assert verdicts[GATE].evidence["outcome"] == "fail"


@pytest.mark.parametrize("outcome", ["inconclusive", "fail"])
def test_an_officer_may_accept_what_is_inconclusive_where_the_recipe_says_so_and_never_a_no(
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
        with pytest.raises(GateRefused, match="waive an inconclusive verdict only"):
            waive(BLIND_REVIEW, gate, workplace, artifact.ref, "officer.salim", "I like it")
        return
    waive(BLIND_REVIEW, gate, workplace, artifact.ref, "officer.salim", "as good as the other, and cheaper")
    assert_usable(BLIND_REVIEW, workplace, artifact.ref)


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
            side = reviews.position_of(operator, pair)
            wrong: Position = "b" if side == "a" else "a"
            give_guess(reviews.registry, reviews.review.id, operator, pair, side if number < 4 else wrong)
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


def test_a_new_candidate_is_not_carried_by_the_review_of_the_one_before(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    artifact, _ = reviews.materialize()
    reviews.another_adapter()
    with pytest.raises(NotFoundError, match="no review of its current registered adapter was closed"):
        reviews.materialize()
    with pytest.raises(Exception, match="is stale"):
        assert_usable(BLIND_REVIEW, reviews.bench.workplace(), artifact.ref)


def test_an_early_closing_shows_in_the_answer_by_name_and_reason(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    for each in reviews.asked("operator-1"):
        reviews.vote("operator-1", each.pair, 1)
    reviews.close(officer="officer.salim", reason="the others are on leave")
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].evidence["outcome"] == "inconclusive"  # one operator alone gives no interval
    assert "Closed early by officer.salim with 4 of 20 ballots: the others are on leave" in verdicts[GATE].message
    assert "Closed early by officer.salim: the others are on leave" in artifact.file("review.md").read_text()
    assert artifact.manifest.summary["closed_early"] is True


def test_a_review_without_a_ballot_to_count_gives_no_answer(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.close(officer="officer.salim", reason="wrong operators")
    with pytest.raises(GateRefused, match="without a ballot to count"):
        reviews.materialize()


def test_a_result_that_was_polished_is_refused(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(0)
    reviews.close()

    def polished(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = BLIND_REVIEW.build(workplace, inputs, workspace)
        file = workspace / "review.json"
        file.write_bytes(file.read_bytes().replace(b'"wins":0', b'"wins":9'))
        return built

    _, verdicts = reviews.materialize(replace(BLIND_REVIEW, build=polished))
    assert not verdicts[GATE].passed
    assert "differs from what the ballots give" in verdicts[GATE].message


def test_a_seed_that_is_not_the_committed_one_is_refused(reviews: ReviewBench) -> None:
    """Whoever could choose the seed afterwards could choose who won."""
    reviews.open()
    reviews.vote_all(-1)
    reviews.close()
    with reviews.registry.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER review_closing_no_update"))
        connection.execute(text("UPDATE review_closing SET seed = :seed"), {"seed": "0" * 64})
    with pytest.raises(IntegrityError, match="revealed seed is not the one that was committed to"):
        reviews.materialize()


def test_a_tie_that_was_put_in_for_a_pair_that_should_have_been_asked_is_refused(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    asked = reviews.asked("operator-1")
    for each in asked[1:]:
        reviews.vote("operator-1", each.pair, -1)
    with reviews.registry.writing() as session:
        session.execute(
            text(
                "INSERT INTO ballot SELECT review_id, operator, :pair, 'tie', NULL, given_at FROM ballot LIMIT 1"
            ).bindparams(pair=asked[0].pair)
        )
    reviews.close(officer="officer.salim", reason="late")
    with pytest.raises(IntegrityError, match="a tie is on record that nobody gave"):
        reviews.materialize()
