"""What somebody who can write to the registry's database, or owns it, does to a review is found."""

import datetime
import hashlib

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.record import audit_log as audit
from sovereign_pipeline.record import checkpoints, replay
from sovereign_pipeline.record.database import kept_state
from sovereign_pipeline.record.tables import (
    BlindReview,
    ReviewClosing,
    SignInLink,
    row_as_dict,
)
from sovereign_pipeline.review import ballots
from sovereign_pipeline.review.acts import signed_acts
from sovereign_pipeline.review.ballots import SignedIn, use_link
from sovereign_pipeline.review.closing import examine_all, findings_in, read_log, rows_of
from sovereign_pipeline.review.stages import adapters_that_lost
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.forged_acts import (
    CHANGED,
    INSERTED,
    Attack,
    a_ballot,
    a_ballot_alone,
    as_owner,
    the_closing,
    the_last_two_ballots_cut_off,
    the_log_cut_to_one_entry,
    the_whole_log_gone,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def reviews(reviews: ReviewBench) -> ReviewBench:
    """Open, with all ballots of the first operator and one of the second; it may be closed at two."""
    reviews.recipe(ballots=2)
    reviews.open()
    for each in reviews.asked("operator-1"):
        reviews.vote("operator-1", each.pair, -1)
    reviews.vote("operator-2", reviews.asked("operator-2")[0].pair, -1)
    return reviews


def findings(reviews: ReviewBench) -> list[str]:
    with reviews.registry.reading() as session:
        rows = rows_of(session, reviews.review, read_log(session))
    return findings_in(
        rows, reviews.contents, reviews.bench.settings, signed_acts(reviews.bench.settings, reviews.review.id)
    )


@pytest.mark.security_case("ballots of operators who never signed in are inserted, with entries in the log", "rejected")
@pytest.mark.security_case("a ballot, guess, tie, link or sign-in is inserted into the registry", "rejected")
@pytest.mark.security_case("The entry of a genuine ballot is copied, or gets another operator's name", "rejected")
@pytest.mark.parametrize("attack", INSERTED)
def test_what_is_inserted_is_found_and_nothing_is_closed(reviews: ReviewBench, attack: str) -> None:
    as_owner(reviews, INSERTED[attack])
    found = findings(reviews)
    assert found
    with pytest.raises(IntegrityError):
        reviews.close()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {reviews.review.id: found}
    with reviews.registry.reading() as session:
        assert session.get(ReviewClosing, reviews.review.id) is None


@pytest.mark.security_case(
    "the database's owner changes a ballot and its entry, and computes the log again", "rejected"
)
@pytest.mark.security_case("Ballots are removed with their entries, or entries are exchanged", "rejected")
@pytest.mark.security_case("the last ballots are cut off with their entries", "rejected")
@pytest.mark.security_case("All acts of a review are signed again with another key", "rejected")
@pytest.mark.parametrize("attack", CHANGED)
def test_what_the_owner_changes_is_found_and_nothing_is_closed(reviews: ReviewBench, attack: str) -> None:
    as_owner(reviews, CHANGED[attack])
    found = findings(reviews)
    assert found
    with pytest.raises((IntegrityError, ConflictError)):
        reviews.close()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {reviews.review.id: found}


@pytest.mark.security_case("Someone who controls the review page signs for a closed review", "the key has been deleted")
def test_a_review_without_an_attack_has_no_finding(reviews: ReviewBench) -> None:
    key = reviews.bench.settings.review_secrets / f"{reviews.review.id}.key"
    assert findings(reviews) == [] and key.is_file()
    reviews.close()
    assert not key.exists()
    assert findings(reviews) == []
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}


@pytest.mark.security_case("A lost review is removed from the registry and the log", "`audit verify` names it")
@pytest.mark.security_case("The log is truncated to one entry", "`audit verify` names the missing reviews")
@pytest.mark.parametrize("attack", [the_log_cut_to_one_entry, the_whole_log_gone])
def test_a_review_that_is_gone_altogether_is_known_from_what_was_signed(reviews: ReviewBench, attack: Attack) -> None:
    review = reviews.review.id
    as_owner(reviews, attack)
    found = examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings)
    assert list(found) == [review]
    assert "has no row" in found[review][0]


@pytest.mark.security_case("a review is closed by inserting its closing", "its result is rejected")
@pytest.mark.usefixtures("database")  # on either kind
def test_an_inserted_closing_gives_no_result(reviews: ReviewBench) -> None:
    with reviews.registry.writing() as session:
        the_closing(reviews, session)
    with pytest.raises(IntegrityError, match="not signed with the review's key"):
        reviews.materialize()
    with pytest.raises(IntegrityError, match="the closing is in the registry without an act"):
        adapters_that_lost(reviews.registry, reviews.bench.store, "lamps")


@pytest.mark.security_case("A lost review is inserted again under another id, as won", "rejected")
def test_a_second_review_on_a_used_plan_gives_no_result(reviews: ReviewBench) -> None:
    reviews.close()

    def won(reviews: ReviewBench, session: Session) -> None:
        lost = row_as_dict(reviews.review)
        now = datetime.datetime.now(datetime.UTC)
        session.add(BlindReview(**{**lost, "id": "won", "opened_at": now}))
        session.flush()
        for name in reviews.operators:
            for each in reviews.asked(name):
                ballot = a_ballot(reviews, name, each.pair, reviews.position_of(name, each.pair))
                ballot.review_id = "won"
                session.add(ballot)
        session.flush()
        held = ballots.ballots_of(session, "won")
        digest = ballots.ballots_digest(held, [])
        seed = reviews.seed.hex()
        session.add(ReviewClosing(review_id="won", closed_at=now, seed=seed, ballots=20, ballots_sha256=digest))

    as_owner(reviews, won)
    with pytest.raises(IntegrityError, match="Review won cannot be trusted"):
        reviews.materialize()


@pytest.mark.security_case("a sign-in link is inserted, to sign in as an operator", "rejected")
def test_a_link_that_nobody_issued_signs_nobody_in(reviews: ReviewBench) -> None:
    token, later = "guessed", datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    digest = hashlib.sha256(token.encode()).hexdigest()
    link = SignInLink(token_sha256=digest, review_id=reviews.review.id, operator="operator-3", expires_at=later)
    as_owner(reviews, lambda _, session: session.add(link))
    with pytest.raises(SignInError, match="link is invalid"):
        use_link(reviews.registry, reviews.bench.settings, token)
    assert findings(reviews) == ["a link is in the registry without an act in the log, or was changed (1)"]


@pytest.mark.security_case(
    "The registry is restored to a state before the last ballots", "rejected, also for further ballots"
)
def test_nothing_is_added_to_a_log_that_ends_before_what_was_signed(reviews: ReviewBench) -> None:
    as_owner(reviews, the_last_two_ballots_cut_off)
    with pytest.raises(IntegrityError, match="is not the last signed act"):
        reviews.vote("operator-3", reviews.asked("operator-3")[0].pair, 1)


@pytest.mark.security_case("A ballot is inserted for a pair, so that the page does not show it", "the page rejects it")
def test_an_operator_whose_ballots_were_added_to_is_shown_nothing(reviews: ReviewBench) -> None:
    as_owner(reviews, a_ballot_alone)
    with pytest.raises(IntegrityError, match="the ballots or guesses of operator-3 differ from the ledger"):
        ballots.given(reviews.registry, reviews.review, "operator-3")
    ballots.given(reviews.registry, reviews.review, "operator-2")


def test_a_crash_between_commit_and_note_stops_nothing(reviews: ReviewBench) -> None:
    path = reviews.bench.settings.review_secrets / f"{reviews.review.id}.acts"
    *before, last = path.read_text().rstrip().splitlines()
    path.write_text("\n".join([*before, last[:9]]))
    reviews.vote("operator-3", reviews.asked("operator-3")[0].pair, 1)
    assert findings(reviews) == []


@pytest.mark.security_case("a ballot names the sign-in of another operator", "rejected")
def test_a_sign_in_is_good_for_one_operator(reviews: ReviewBench) -> None:
    """As a page would record it that confuses two people: everything is signed."""
    assert reviews.opened is not None
    given = dict.fromkeys(ballots.ratings_asked(reviews.contents.plan.criteria), 3)
    own = use_link(reviews.registry, reviews.bench.settings, reviews.opened.links["operator-4"])
    pair = reviews.asked("operator-4")[0].pair
    ballots.give_ballot(reviews.registry, reviews.bench.settings, own, pair, "a", given)
    log = [entry for entry in audit.entries(reviews.registry) if entry.actor == "operator-4"]
    assert log[1].subjects["sign_in"] == log[0].subjects["act"] == own.sign_in
    assert own.sign_in is not None and findings(reviews) == []
    another = SignedIn(reviews.review.id, "operator-3", own.sign_in)
    pair = reviews.asked("operator-3")[0].pair
    ballots.give_ballot(reviews.registry, reviews.bench.settings, another, pair, "a", given)
    assert findings(reviews) == ["operator-3 gave ballots or guesses (1) without having signed in"]


FALSE_SNAPSHOTS = {
    "ballots for the other arm": (
        "UPDATE ballot SET preference = CASE preference WHEN 'a' THEN 'b' WHEN 'b' THEN 'a' ELSE preference END"
    ),
    "a ballot removed": (
        "DELETE FROM ballot WHERE pair IN "
        "(SELECT pair FROM ballot WHERE ratings IS NOT NULL AND ratings != 'null' LIMIT 1)"
    ),
    "a link that never expires": "UPDATE sign_in_link SET expires_at = '2999-01-01 00:00:00.000000'",
}


@pytest.mark.security_case("Ballots or links are changed in a snapshot that is signed with the log's key", "rejected")
@pytest.mark.parametrize("change", FALSE_SNAPSHOTS)
def test_rows_of_a_false_snapshot_are_found_and_nothing_is_closed(reviews: ReviewBench, change: str) -> None:
    settings, view = reviews.bench.settings, reviews.registry.view
    log_key = checkpoints.signer(settings)
    assert log_key is not None
    with view.lock:
        with view.changing() as connection:
            assert connection.execute(text(FALSE_SNAPSHOTS[change])).rowcount
        view.keep(kept_state(settings), log_key)
    replay.forget_all()
    assert findings(reviews)
    with pytest.raises(IntegrityError):
        reviews.close()
