"""Closing: when, by whom, and what it reveals; on either kind of database."""

import pytest

from sovereign_pipeline.errors import ConflictError, GateRefused, InputError
from sovereign_pipeline.ledger.audit_log import entries
from sovereign_pipeline.ledger.people import People
from sovereign_pipeline.review.ballots import progress
from sovereign_pipeline.review.plan import commitment
from sovereign_pipeline.review.reconciling import examine_all
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.slow]  # on either kind


def test_nothing_is_summed_up_before_the_review_is_closed(reviews: ReviewBench) -> None:
    """What can be read of an open review is how many; the ballots themselves say A and B and no more."""
    reviews.open()
    for operator in reviews.operators:
        reviews.vote(operator, reviews.asked(operator)[0].pair, 1)
    counts = progress(reviews.registry, reviews.review, dict.fromkeys(reviews.operators, 4))
    assert [(each.ballots, each.pairs, each.guesses) for each in counts] == [(1, 4, 0)] * 5
    said = repr([entry.subjects for entry in entries(reviews.registry)] + counts)
    assert not any(word in said for word in ("preference", "tie", "'a'", "'b'", "accuracy"))
    with pytest.raises(Exception, match="no review of its current registered adapter was closed"):
        reviews.materialize()


def test_it_closes_at_the_registered_number_and_reveals_the_seed_it_committed_to(reviews: ReviewBench) -> None:
    reviews.open()
    reviews.vote_all(1)
    closing = reviews.close()
    assert commitment(bytes.fromhex(closing.seed)) == reviews.review.seed_sha256
    assert (closing.ballots, closing.officer, closing.reason) == (20, None, None)
    entry = entries(reviews.registry)[-1]
    assert (entry.action, entry.subjects["ballots_sha256"]) == ("review closed", closing.ballots_sha256)
    with pytest.raises(ConflictError, match="is closed"):
        reviews.close()
    pair = reviews.asked("operator-1")[0].pair
    with pytest.raises(ConflictError, match="is closed"):
        reviews.guess("operator-1", pair, "a")


def test_below_that_number_only_a_named_officer_closes_with_a_reason(reviews: ReviewBench) -> None:
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.open()
    reviews.vote("operator-1", reviews.asked("operator-1")[0].pair, 1)
    with pytest.raises(GateRefused, match="1 of the 20 pre-registered ballots"):
        reviews.close()
    for early in ({"officer": "officer.salim"}, {"reason": "late"}, {"officer": "officer.salim", "reason": "  "}):
        with pytest.raises(InputError, match="takes both"):
            reviews.close(**early)
    with pytest.raises(InputError, match=r"officer\.x may not close .* it was opened under allows officer\.salim"):
        reviews.close(officer="officer.x", reason="late")
    closing = reviews.close(officer="officer.salim", reason="two operators are on leave")
    officer = People(reviews.bench.settings).known("officer.salim")
    assert (closing.ballots, closing.officer, closing.reason) == (1, officer, "two operators are on leave")
    entry = entries(reviews.registry)[-1]
    assert (entry.actor, entry.action) == ("clerk", "review closed early")
    assert (entry.subjects["officer"], entry.subjects["reason"]) == (officer, "two operators are on leave")


def test_a_lower_registered_number_lets_it_close_without_the_rest(reviews: ReviewBench) -> None:
    reviews.recipe(ballots=3)
    reviews.open()
    for each in reviews.asked("operator-1")[:3]:
        reviews.vote("operator-1", each.pair, 1)
    assert reviews.close().officer is None


def test_ties_that_nobody_was_asked_for_do_not_bring_a_review_to_its_number(reviews: ReviewBench) -> None:
    """Nine prompts are ties on record from the beginning, which are more than the number."""
    reviews.planted.same = frozenset(range(3, 12))
    reviews.recipe(ballots=2)
    reviews.open()
    came = next(name for name in reviews.operators if reviews.asked(name))
    reviews.vote(came, reviews.asked(came)[0].pair, 1)
    counts = progress(reviews.registry, reviews.review, {name: len(reviews.asked(name)) for name in reviews.operators})
    assert sum(each.ballots for each in counts) == 1
    with pytest.raises(GateRefused, match="1 of the 2 pre-registered ballots"):
        reviews.close()


def test_the_registered_number_is_no_more_than_what_can_be_asked(reviews: ReviewBench) -> None:
    reviews.planted.same = frozenset({0})
    reviews.open()
    asked = sum(len(reviews.asked(name)) for name in reviews.operators)
    assert asked < 20
    reviews.vote_all(1)
    assert reviews.close().ballots == asked


@pytest.mark.security_case(
    "closing ends before the signing key is deleted, which then lies there", "found, and deleted"
)
def test_no_key_outlives_the_closing_of_its_review(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews.open()
    reviews.vote_all(1)
    key = reviews.bench.settings.review_secrets / f"{reviews.review.id}.key"

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("sovereign_pipeline.review.acts.note_signed", no_space)
        kept = key.read_bytes()
        with pytest.raises(OSError, match="No space left"):
            reviews.close()
    assert not key.exists()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}

    key.write_bytes(kept)  # as when the process is killed between the two
    ((review, (finding,)),) = examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings).items()
    assert (review, "the key that signs its acts is still there" in finding) == (reviews.review.id, True)
    with pytest.raises(ConflictError, match="is closed"):
        reviews.close()
    assert not key.exists()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}


def test_the_key_stays_while_the_review_is_open(reviews: ReviewBench) -> None:
    reviews.open()
    with pytest.raises(GateRefused):
        reviews.close()
    reviews.vote_all(1)
    assert reviews.close().ballots == 20
