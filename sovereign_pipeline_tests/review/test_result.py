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
from sovereign_pipeline.review.plan import candidate_arms, pairs_to_guess
from sovereign_pipeline.review.result import ReviewResult
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench

GATE = "net_preference_not_negative"


def result_of(room: ReviewBench) -> ReviewResult:
    artifact, _ = room.materialize()
    return ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())


def test_a_candidate_that_is_liked_better_ships_and_every_figure_follows_from_the_ballots(room: ReviewBench) -> None:
    room.planted.same = frozenset({0})
    room.recipe(prompts_each=2, shared_prompts=2)
    room.open()
    room.vote_all(1)
    room.close()
    artifact, verdicts = room.materialize()
    result = ReviewResult.model_validate_json(artifact.file("review.json").read_bytes())
    own = [each for pairs in room.contents.plan.operators.values() for each in pairs if not each.shared]
    tied = sum(each.prompt in room.contents.identical for each in own)
    assert (result.wins, result.losses, result.ties, result.identical) == (10 - tied, 0, tied, tied)
    assert result.net_preference.mean == pytest.approx((10 - tied) / 10)
    assert result.criteria["tone"].difference.mean == 2.0
    assert (result.criteria["tone"].candidate, result.criteria["tone"].opponent) == (4.0, 2.0)
    assert (result.operators, result.ballots, result.closed_early, result.guesses) == (
        5,
        room.contents.plan.ballots,
        None,
        None,
    )
    assert verdicts[GATE].passed
    assert verdicts[GATE].evidence["outcome"] == "pass"
    assert_usable(BLIND_REVIEW, room.bench.workplace(), artifact.ref)
    assert artifact.manifest.external_inputs["review_plan"] == room.review.plan_digest
    shown = artifact.file("review.md").read_text() + verdicts[GATE].message + json.dumps(artifact.manifest.summary)
    assert "wording" not in shown


def test_an_auditor_derives_every_side_again_from_the_revealed_seed(room: ReviewBench) -> None:
    room.open()
    room.vote_all(1)
    seed = bytes.fromhex(room.close().seed)
    artifact, _ = room.materialize()
    for row in read_jsonl(artifact.file("ballots.jsonl")):
        operator = str(row["operator"])
        sides = candidate_arms(seed, operator, room.contents.plan.operators[operator])
        assert sides[str(row["pair"])] == row["candidate_side"]
        assert row["preference"] == 1


@pytest.mark.parametrize("accepted", [0.0, 1.0])
def test_a_candidate_that_is_liked_less_does_not_ship_whatever_the_recipe_says(
    room: ReviewBench, accepted: float
) -> None:
    room.recipe(margin=accepted)
    room.open()
    (first, *_), *_ = ([each for each in room.asked(name) if not each.shared] for name in room.operators)
    for operator in room.operators:
        for each in room.asked(operator):
            room.vote(operator, each.pair, -1 if each == first else 0)
    room.close()
    artifact, verdicts = room.materialize()
    assert verdicts[GATE].evidence["outcome"] == "fail"
    assert "net preference -0.100 (0 won, 1 lost, 9 tied" in verdicts[GATE].message
    assert "does not ship" in verdicts[GATE].message
    with pytest.raises(GateRefused, match="failed for"):
        assert_usable(BLIND_REVIEW, room.bench.workplace(), artifact.ref)


def test_what_cannot_be_told_is_inconclusive_with_what_could_have_been_seen(room: ReviewBench) -> None:
    room.open()
    for operator in room.operators:
        for number, each in enumerate(room.asked(operator)):
            room.vote(operator, each.pair, 1 if number == 0 else 0 if number == 1 else number % 2 * 2 - 1)
    room.close()
    _, verdicts = room.materialize()
    evidence = verdicts[GATE].evidence
    expected = "fail" if evidence["net_preference"]["mean"] < 0 else "inconclusive"
    assert (evidence["outcome"], verdicts[GATE].passed) == (expected, False)


def win_one(room: ReviewBench) -> None:
    """One pair is won and all others are tied."""
    decided = next(each for each in room.asked("operator-1") if not each.shared)
    for operator in room.operators:
        for each in room.asked(operator):
            room.vote(operator, each.pair, 1 if each == decided else 0)


def test_what_a_review_is_judged_by_is_fixed_before_the_first_ballot(room: ReviewBench) -> None:
    room.open()
    win_one(room)
    room.recipe(margin=1.0, officer_may="accept_inconclusive", may_close_early=["officer.salim"])
    with pytest.raises(InputError, match="the recipe under which it was opened allows nobody"):
        room.close(officer="officer.salim", reason="late")
    room.close()
    artifact, verdicts = room.materialize()
    assert verdicts[GATE].evidence["outcome"] == "inconclusive"
    assert "the recipe allows it only since the review was opened" in verdicts[GATE].message
    (gate,) = BLIND_REVIEW.gates
    with pytest.raises(GateRefused, match="waive an inconclusive verdict only"):
        waive(BLIND_REVIEW, gate, room.bench.workplace(), artifact.ref, "officer.salim", "I like it")


def test_a_margin_that_was_registered_beforehand_is_the_one_that_counts(room: ReviewBench) -> None:
    room.recipe(margin=1.0)
    room.open()
    win_one(room)
    room.close()
    room.recipe(margin=0.0)
    _, verdicts = room.materialize()
    assert verdicts[GATE].passed


def test_operators_who_never_came_are_no_opinions(room: ReviewBench) -> None:
    """One operator won everything; the others have nothing but ties that nobody asked them for."""
    room.recipe(margin=0.0, may_close_early=["officer.salim"])
    room.planted.same = frozenset(range(0, 12, 3))
    room.open()
    came = next(name for name in room.operators if any(not each.shared for each in room.asked(name)))
    for each in room.asked(came):
        room.vote(came, each.pair, 1)
    room.close(officer="officer.salim", reason="the others are on leave")
    artifact, verdicts = room.materialize()
    assert ReviewResult.model_validate_json(artifact.file("review.json").read_bytes()).operators == 1
    assert verdicts[GATE].evidence["outcome"] == "inconclusive"  # one operator alone gives no interval


def test_a_candidate_that_people_like_less_is_nobodys_opponent(room: ReviewBench) -> None:
    """Else the next one could ship for being better than what may not ship."""
    room.open()
    room.vote_all(1)
    room.close()
    room.another_adapter()
    room.open()
    assert room.contents.plan.opponent == "lamps-1.0.0"
    room.vote_all(-1)
    room.close()
    room.another_adapter()
    room.open()
    assert (room.contents.plan.adapter, room.contents.plan.opponent) == ("lamps-1.2.0", "lamps-1.0.0")


def test_the_same_weights_under_another_version_keep_their_answer(room: ReviewBench) -> None:
    room.open()
    room.vote_all(-1)
    room.close()
    room.bench.recipe["purpose"] = "Answer letters about lamps and lanterns."
    again = room.bench.register()
    assert again.version == "1.0.1"
    with pytest.raises(ConflictError, match=r"lamps-1\.0\.1 \(then lamps-1\.0\.0, the same weights\) was reviewed"):
        room.open()
    _, verdicts = room.materialize()
    assert verdicts[GATE].evidence["outcome"] == "fail"


@pytest.mark.parametrize("outcome", ["inconclusive", "fail"])
def test_an_officer_may_accept_what_is_inconclusive_where_the_recipe_says_so_and_never_a_no(
    room: ReviewBench, outcome: Outcome
) -> None:
    """One pair is won, or lost, and all others are tied."""
    room.recipe(officer_may="accept_inconclusive")
    room.open()
    decided = next(each for each in room.asked("operator-1") if not each.shared)
    for operator in room.operators:
        for each in room.asked(operator):
            room.vote(operator, each.pair, 0 if each != decided else -1 if outcome == "fail" else 1)
    room.close()
    artifact, verdicts = room.materialize()
    assert verdicts[GATE].outcome == outcome
    workplace = room.bench.workplace()
    (gate,) = BLIND_REVIEW.gates
    with pytest.raises(GateRefused):
        assert_usable(BLIND_REVIEW, workplace, artifact.ref)
    if outcome == "fail":
        with pytest.raises(GateRefused, match="waive an inconclusive verdict only"):
            waive(BLIND_REVIEW, gate, workplace, artifact.ref, "officer.salim", "I like it")
        return
    waive(BLIND_REVIEW, gate, workplace, artifact.ref, "officer.salim", "as good as the other, and cheaper")
    assert_usable(BLIND_REVIEW, workplace, artifact.ref)


def test_agreement_is_over_the_shared_pairs_alone_and_the_net_preference_over_the_others(room: ReviewBench) -> None:
    """Everybody wins their own pairs; of the shared ones, everybody likes the first and nobody the second."""
    room.open()
    shared = sorted({each.prompt for name in room.operators for each in room.asked(name) if each.shared})
    for operator in room.operators:
        for each in room.asked(operator):
            room.vote(operator, each.pair, -1 if each.prompt == shared[1] else 1, (4, 2))
    room.close()
    result = result_of(room)
    assert (result.wins, result.losses) == (10, 0)
    assert (result.agreement["preference"].alpha, result.agreement["preference"].units) == (1.0, 2)
    assert result.agreement["tone"].units == 4


def test_guesses_are_counted_against_one_half(room: ReviewBench) -> None:
    room.open()
    room.vote_all(0)
    for number, operator in enumerate(room.operators):
        pairs = room.contents.plan.operators[operator]
        for pair in pairs_to_guess(room.seed, operator, pairs, set(), 2):
            side = room.side_of(operator, pair)
            wrong = "b" if side == "a" else "a"
            give_guess(room.registry, room.review.id, operator, pair, side if number < 4 else wrong)
    room.close()
    guesses = result_of(room).guesses
    assert guesses is not None
    assert (guesses.mean, guesses.values, guesses.clusters) == (0.8, 10, 5)
    assert guesses.low is not None and guesses.low < 0.5 < 0.8


def test_the_ladder_grows_over_the_reviews_of_a_line(room: ReviewBench) -> None:
    room.open()
    room.vote_all(1)
    room.close()
    first, _ = room.materialize()
    room.another_adapter()
    room.open()
    room.vote_all(1)
    room.close()
    rungs = [(rung.version, rung.pairs) for rung in result_of(room).ladder]
    assert rungs == [("lamps-1.1.0", 10), ("lamps-1.0.0", 20), ("tiny", 10)]
    assert [
        rung.version for rung in ReviewResult.model_validate_json(first.file("review.json").read_bytes()).ladder
    ] == [
        "lamps-1.0.0",
        "tiny",
    ]


def test_a_new_candidate_is_not_carried_by_the_review_of_the_one_before(room: ReviewBench) -> None:
    room.open()
    room.vote_all(1)
    room.close()
    artifact, _ = room.materialize()
    room.another_adapter()
    with pytest.raises(NotFoundError, match="no review of its current registered adapter was closed"):
        room.materialize()
    with pytest.raises(Exception, match="is stale"):
        assert_usable(BLIND_REVIEW, room.bench.workplace(), artifact.ref)


def test_an_early_closing_shows_in_the_answer_by_name_and_reason(room: ReviewBench) -> None:
    room.recipe(may_close_early=["officer.salim"])
    room.open()
    for each in room.asked("operator-1"):
        room.vote("operator-1", each.pair, 1)
    room.close(officer="officer.salim", reason="the others are on leave")
    artifact, verdicts = room.materialize()
    assert verdicts[GATE].evidence["outcome"] == "inconclusive"  # one operator alone gives no interval
    assert "Closed early by officer.salim with 4 of 20 ballots: the others are on leave" in verdicts[GATE].message
    assert "Closed early by officer.salim: the others are on leave" in artifact.file("review.md").read_text()
    assert artifact.manifest.summary["closed_early"] is True


def test_a_review_without_a_ballot_to_count_gives_no_answer(room: ReviewBench) -> None:
    room.recipe(may_close_early=["officer.salim"])
    room.open()
    room.close(officer="officer.salim", reason="wrong operators")
    with pytest.raises(GateRefused, match="without a ballot to count"):
        room.materialize()


def test_a_result_that_was_polished_is_refused(room: ReviewBench) -> None:
    room.open()
    room.vote_all(0)
    room.close()

    def polished(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = BLIND_REVIEW.build(workplace, inputs, workspace)
        file = workspace / "review.json"
        file.write_bytes(file.read_bytes().replace(b'"wins":0', b'"wins":9'))
        return built

    _, verdicts = room.materialize(replace(BLIND_REVIEW, build=polished))
    assert not verdicts[GATE].passed
    assert "does not say what the ballots say" in verdicts[GATE].message


def test_a_seed_that_is_not_the_committed_one_is_refused(room: ReviewBench) -> None:
    """Whoever could choose the seed afterwards could choose who won."""
    room.open()
    room.vote_all(-1)
    room.close()
    with room.registry.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER review_closing_no_update"))
        connection.execute(text("UPDATE review_closing SET seed = :seed"), {"seed": "0" * 64})
    with pytest.raises(IntegrityError, match="revealed seed is not the one that was committed to"):
        room.materialize()


def test_a_tie_that_was_put_in_for_a_pair_that_should_have_been_asked_is_refused(room: ReviewBench) -> None:
    room.recipe(may_close_early=["officer.salim"])
    room.open()
    asked = room.asked("operator-1")
    for each in asked[1:]:
        room.vote("operator-1", each.pair, -1)
    with room.registry.writing() as session:
        session.execute(
            text(
                "INSERT INTO ballot SELECT review_id, operator, :pair, 'tie', NULL, given_at FROM ballot LIMIT 1"
            ).bindparams(pair=asked[0].pair)
        )
    room.close(officer="officer.salim", reason="late")
    with pytest.raises(IntegrityError, match="a tie stands without having been asked"):
        room.materialize()
