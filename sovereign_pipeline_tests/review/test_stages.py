"""The gate of a closed review: what passes, what an officer may waive, and what is refused as tampered with."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import ConflictError, GateRefused, IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline.record.officers import officer_in_short
from sovereign_pipeline.record.stage import Built, Inputs, Outcome, Workplace
from sovereign_pipeline_tests.officers import officer_called, waive
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.review.conftest import BLIND_REVIEW, ReviewBench

pytestmark = pytest.mark.slow

GATE = "net_preference_not_negative"


@pytest.mark.parametrize("accepted", [0.0, 1.0])
def test_a_candidate_that_lost_does_not_ship_whatever_the_recipe_allows(reviews: ReviewBench, accepted: float) -> None:
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


def test_what_shows_neither_is_inconclusive(reviews: ReviewBench) -> None:
    reviews.open()
    for operator in reviews.operators:
        won, lost = (each for each in reviews.asked(operator) if not each.shared)
        for each in reviews.asked(operator):
            reviews.vote(operator, each.pair, 1 if each == won else -1 if each == lost else 0)
    reviews.close()
    _, verdicts = reviews.materialize()
    assert (verdicts[GATE].evidence["outcome"], verdicts[GATE].passed) == ("inconclusive", False)


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
    with pytest.raises(SignInError, match="The recipe that applied at its opening allows nobody"):
        reviews.close(officer="officer.salim", reason="late")
    reviews.close()
    artifact, verdicts = reviews.materialize()
    assert verdicts[GATE].outcome == "inconclusive"
    (gate,) = BLIND_REVIEW.gates
    workplace = reviews.bench.workplace()
    with pytest.raises(GateRefused, match="lets an officer waive nothing"):
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


def test_the_same_weights_under_another_version_keep_their_result(reviews: ReviewBench) -> None:
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
        with pytest.raises(GateRefused, match="waive an inconclusive verdict only"):
            waive(BLIND_REVIEW, gate, workplace, artifact.ref, "I like it")
        return
    waive(BLIND_REVIEW, gate, workplace, artifact.ref, "as good as the other, and cheaper")
    assert_usable(BLIND_REVIEW, workplace, artifact.ref)


def test_a_new_candidate_is_not_carried_by_the_review_of_the_one_before(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    reviews.close()
    artifact, _ = reviews.materialize()
    reviews.another_adapter()
    with pytest.raises(NotFoundError, match="there is no closed review of its current registered adapter"):
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
    officer = officer_in_short(officer_called(reviews.bench.settings, "officer.salim").keyid)
    assert f"Closed early by {officer} with 4 of 20 ballots: the others are on leave" in verdicts[GATE].message
    assert f"Closed early by {officer}: the others are on leave" in artifact.file("review.md").read_text()
    assert artifact.manifest.summary["closed_early"] is True


def test_a_review_without_a_ballot_to_count_gives_no_answer(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.close(officer="officer.salim", reason="wrong operators")
    with pytest.raises(GateRefused, match="no operator rated an unshared pair"):
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
    statement = text("UPDATE review_closing SET seed = :seed").bindparams(seed="0" * 64)
    forge(reviews.registry, lambda session: session.execute(statement))
    with pytest.raises(IntegrityError, match="the closing is in the registry without an act"):
        reviews.materialize()


def test_a_tie_that_was_put_in_for_a_pair_that_should_have_been_asked_is_refused(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    asked = reviews.asked("operator-1")
    for each in asked[1:]:
        reviews.vote("operator-1", each.pair, -1)
    statement = text("INSERT INTO ballot SELECT review_id, operator, :pair, 'tie', NULL, given_at FROM ballot LIMIT 1")
    forge(reviews.registry, lambda session: session.execute(statement.bindparams(pair=asked[0].pair)))
    with pytest.raises(IntegrityError, match="the logged ties for identical answers differ from the plan"):
        reviews.close(officer="officer.salim", reason="late")
