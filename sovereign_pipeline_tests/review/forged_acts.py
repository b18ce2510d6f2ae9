"""Acts of a review planted by who holds everything but its key: database, log's key, store and sealed seed."""

import datetime
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.record import audit_log as audit
from sovereign_pipeline.record.tables import (
    AuditEntry,
    Ballot,
    BlindReview,
    Guess,
    ReviewClosing,
    SignInLink,
    SignInUse,
)
from sovereign_pipeline.review import acts as custody
from sovereign_pipeline.review import ballots
from sovereign_pipeline.review.acts import signed_acts
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.review.conftest import ReviewBench

Attack = Callable[[ReviewBench, Session], None]


def as_owner(reviews: ReviewBench, attack: Attack) -> None:
    """Whoever has the database, the home and the log's key."""
    forge(reviews.registry, partial(attack, reviews))


def a_ballot(reviews: ReviewBench, operator: str, pair: str, preference: str = "a") -> Ballot:
    ratings = dict.fromkeys(ballots.ratings_asked(reviews.contents.plan.criteria), 5)
    now = datetime.datetime.now(datetime.UTC)
    review = reviews.review.id
    return Ballot(review_id=review, operator=operator, pair=pair, preference=preference, ratings=ratings, given_at=now)


def entered(reviews: ReviewBench, session: Session, ballot: Ballot, **subjects: Any) -> None:
    """A ballot with an entry in the log that says all that a true one says."""
    said: dict[str, Any] = {"review": ballot.review_id, "pair": ballot.pair}
    said["ballot"] = digest_of(ballots.content_of(ballot))
    acts = signed_acts(reviews.bench.settings, ballot.review_id)
    said |= {"act": acts[-1].number + 1, "act_before": acts[-1].digest, "sign_in": 7, **subjects}
    session.add(ballot)
    session.flush()
    audit.append(session, ballot.operator, "ballot given", said)


def sixteen_ballots_of_people_who_never_came(reviews: ReviewBench, session: Session) -> None:
    added = [(name, each.pair) for name in reviews.operators[1:] for each in reviews.asked(name)][1:]
    assert len(added) == 15
    for operator, pair in added:
        entered(reviews, session, a_ballot(reviews, operator, pair, reviews.position_of(operator, pair)))


def one_signed_with_another_key(reviews: ReviewBench, session: Session) -> None:
    ballot = a_ballot(reviews, "operator-3", reviews.asked("operator-3")[0].pair)
    key = custody.draw_secrets().key
    session.add(ballot)
    session.flush()
    last = signed_acts(reviews.bench.settings, ballot.review_id)[-1]
    said: dict[str, Any] = {
        "review": ballot.review_id,
        "act": last.number + 1,
        "act_before": last.digest,
        "pair": ballot.pair,
    }
    said |= {"ballot": digest_of(ballots.content_of(ballot)), "sign_in": 7}
    audit.append(session, "operator-3", "ballot given", said, lambda content: custody.sign(key, content))


def a_ballot_alone(reviews: ReviewBench, session: Session) -> None:
    session.add(a_ballot(reviews, "operator-3", reviews.asked("operator-3")[0].pair))


def a_guess_alone(reviews: ReviewBench, session: Session) -> None:
    pair, now = reviews.asked("operator-1")[0].pair, datetime.datetime.now(datetime.UTC)
    session.add(Guess(review_id=reviews.review.id, operator="operator-1", pair=pair, choice="a", given_at=now))


def a_tie_that_nobody_gave(reviews: ReviewBench, session: Session) -> None:
    tie = a_ballot(reviews, "operator-3", reviews.asked("operator-3")[0].pair, "tie")
    tie.ratings = None
    session.add(tie)


def without_rows(entry: AuditEntry) -> dict[str, Any]:
    """An entry that names a row once more cannot be replayed."""
    return {name: value for name, value in entry.subjects.items() if name != audit.ROWS}


def an_entry_copied_to_the_end(reviews: ReviewBench, session: Session) -> None:
    last = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[-1]
    audit.append(session, last.actor, last.action, without_rows(last))


def a_true_entry_for_another_operator(reviews: ReviewBench, session: Session) -> None:
    given = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[0]
    session.add(a_ballot(reviews, "operator-4", reviews.asked("operator-4")[0].pair))
    session.flush()
    audit.append(session, "operator-4", given.action, without_rows(given))


def a_link_and_a_sign_in(reviews: ReviewBench, session: Session) -> None:
    now = datetime.datetime.now(datetime.UTC)
    link = SignInLink(token_sha256="a" * 64, review_id=reviews.review.id, operator="operator-3", expires_at=now)
    session.add(link)
    session.flush()
    session.add(SignInUse(token_sha256="a" * 64, used_at=now))


def the_closing(reviews: ReviewBench, session: Session) -> None:
    held, guesses = ballots.ballots_of(session, reviews.review.id), ballots.guesses_of(session, reviews.review.id)
    closing = ReviewClosing(
        review_id=reviews.review.id,
        closed_at=datetime.datetime.now(datetime.UTC),
        seed=reviews.seed.hex(),
        ballots=len(held),
        ballots_sha256=ballots.ballots_digest(held, guesses),
    )
    session.add(closing)
    session.flush()
    audit.append(session, "clerk", "review closed", {"review": reviews.review.id, "seed": closing.seed})


INSERTED: dict[str, Attack] = {
    each.__name__: each
    for each in (
        sixteen_ballots_of_people_who_never_came,
        one_signed_with_another_key,
        a_ballot_alone,
        a_guess_alone,
        a_tie_that_nobody_gave,
        an_entry_copied_to_the_end,
        a_true_entry_for_another_operator,
        a_link_and_a_sign_in,
    )
}


def a_changed_ballot(reviews: ReviewBench, session: Session) -> None:
    ballot = next(iter(session.scalars(select(Ballot))))
    ballot.preference = "a" if ballot.preference == "b" else "b"
    entry = next(each for each in session.scalars(select(AuditEntry)) if each.subjects.get("pair") == ballot.pair)
    entry.subjects = {**entry.subjects, "ballot": digest_of(ballots.content_of(ballot))}


def a_ballot_of_another_time(reviews: ReviewBench, session: Session) -> None:
    ballot = next(iter(session.scalars(select(Ballot))))
    ballot.given_at += datetime.timedelta(seconds=1)


def a_ballot_taken_out_with_its_entry(reviews: ReviewBench, session: Session) -> None:
    pair = reviews.asked("operator-1")[1].pair
    session.delete(session.get_one(Ballot, (reviews.review.id, "operator-1", pair)))
    for entry in session.scalars(select(AuditEntry)).all():
        if entry.subjects.get("pair") == pair:
            session.delete(entry)


def two_entries_exchanged(reviews: ReviewBench, session: Session) -> None:
    first, second = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[:2]
    first.subjects, second.subjects = second.subjects, first.subjects


def the_last_two_ballots_cut_off(reviews: ReviewBench, session: Session) -> None:
    for entry in session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)).all()[-2:]:
        if entry.action == "ballot given":
            session.delete(session.get_one(Ballot, (reviews.review.id, entry.actor, entry.subjects["pair"])))
        session.delete(entry)


def the_log_cut_to_one_entry(reviews: ReviewBench, session: Session) -> None:
    for entry in session.scalars(select(AuditEntry).where(AuditEntry.sequence > 1)):
        session.delete(entry)


def the_whole_log_gone(reviews: ReviewBench, session: Session) -> None:
    for entry in session.scalars(select(AuditEntry)):
        session.delete(entry)


def everything_signed_anew(reviews: ReviewBench, session: Session) -> None:
    """With a key of their own in the review's row; the sealed plan names the true one."""
    key = custody.draw_secrets().key
    session.execute(update(BlindReview).values(act_key=custody.public_key_of(key)))
    digest = audit.FIRST
    for number, entry in enumerate(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)).all(), 1):
        entry.subjects = {**entry.subjects, "act": number, "act_before": digest}
        content = audit.signed_content(entry)
        entry.subjects = {**entry.subjects, audit.SIGNATURE: custody.sign(key, content).hex()}
        digest = hashlib.sha256(content).hexdigest()


CHANGED: dict[str, Attack] = {
    each.__name__: each
    for each in (
        a_changed_ballot,
        a_ballot_of_another_time,
        a_ballot_taken_out_with_its_entry,
        two_entries_exchanged,
        the_last_two_ballots_cut_off,
        everything_signed_anew,
    )
}
