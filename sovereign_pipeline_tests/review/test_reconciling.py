"""What somebody who can write to the registry's database, or owns it, does to a review, and that it is found.

Whoever plants it holds everything but the key: the database, its triggers gone, the log with its public way of hashing,
the store, and the sealed seed. On either kind of database.
"""

import datetime
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.catalog import row_as_dict
from sovereign_pipeline.ledger.tables import (
    AuditEntry,
    Ballot,
    BlindReview,
    Guess,
    ReviewClosing,
    SignInLink,
    SignInUse,
    Table,
)
from sovereign_pipeline.review import ballots, custody
from sovereign_pipeline.review.closed_reviews import adapters_that_lost, read_closed
from sovereign_pipeline.review.custody import signed_acts
from sovereign_pipeline.review.links import SignedIn, use_link
from sovereign_pipeline.review.reconciling import examine_all, findings_in, read_log, rows_of
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.slow]

Attack = Callable[[ReviewBench, Session], None]


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
    return findings_in(rows, reviews.contents, signed_acts(reviews.bench.settings, reviews.review.id))


def as_owner(reviews: ReviewBench, attack: Attack) -> None:
    """The database's owner: no trigger is left, and everything can be written."""
    with reviews.registry.engine.begin() as connection:
        for table in Table.metadata.sorted_tables:
            if reviews.registry.engine.dialect.name == "sqlite":
                for verb in ("update", "delete", "replace"):
                    connection.execute(text(f"DROP TRIGGER IF EXISTS {table.name}_no_{verb}"))
            else:
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table.name}_no_change ON {table.name}"))
    with Session(reviews.registry.engine) as session:
        attack(reviews, session)
        session.commit()


def a_ballot(reviews: ReviewBench, operator: str, pair: str, preference: str = "a") -> Ballot:
    ratings = dict.fromkeys(ballots.ratings_asked(reviews.contents.plan.criteria), 5)
    now = datetime.datetime.now(datetime.UTC)
    review = reviews.review.id
    return Ballot(review_id=review, operator=operator, pair=pair, preference=preference, ratings=ratings, given_at=now)


def log_again(session: Session) -> None:
    """Compute the chain of the whole log again, as whoever read the code can."""
    entries = list(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)))
    content = [(each.at, each.actor, each.action, each.subjects) for each in entries]
    for each in entries:
        session.delete(each)
    session.flush()
    session.expunge_all()
    last = audit.FIRST
    for number, (at, actor, action, subjects) in enumerate(content, 1):
        entry = AuditEntry(sequence=number, at=at, actor=actor, action=action, subjects=subjects, previous=last)
        entry.hash = last = digest_of({name: value for name, value in audit.as_dict(entry).items() if name != "hash"})
        session.add(entry)
    session.flush()


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


def an_entry_copied_to_the_end(reviews: ReviewBench, session: Session) -> None:
    last = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[-1]
    audit.append(session, last.actor, last.action, last.subjects)


def a_true_entry_for_another_operator(reviews: ReviewBench, session: Session) -> None:
    given = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[0]
    session.add(a_ballot(reviews, "operator-4", reviews.asked("operator-4")[0].pair))
    session.flush()
    audit.append(session, "operator-4", given.action, given.subjects)


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


@pytest.mark.security_case("ballots of operators who never signed in are inserted, with entries in the log", "refused")
@pytest.mark.security_case("a ballot, guess, tie, link or sign-in is inserted into the registry", "refused")
@pytest.mark.security_case("an entry of a true ballot is copied, or given another operator's name", "refused")
@pytest.mark.parametrize("attack", INSERTED)
def test_what_is_inserted_is_found_and_nothing_is_closed(reviews: ReviewBench, attack: str) -> None:
    with reviews.registry.writing() as session:
        INSERTED[attack](reviews, session)
    found = findings(reviews)
    assert found
    with pytest.raises(IntegrityError):
        reviews.close()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {reviews.review.id: found}
    with reviews.registry.reading() as session:
        assert session.get(ReviewClosing, reviews.review.id) is None


def a_changed_ballot(reviews: ReviewBench, session: Session) -> None:
    ballot = next(iter(session.scalars(select(Ballot))))
    ballot.preference = "a" if ballot.preference == "b" else "b"
    entry = next(each for each in session.scalars(select(AuditEntry)) if each.subjects.get("pair") == ballot.pair)
    entry.subjects = {**entry.subjects, "ballot": digest_of(ballots.content_of(ballot))}
    session.flush()
    log_again(session)


def a_ballot_of_another_time(reviews: ReviewBench, session: Session) -> None:
    ballot = next(iter(session.scalars(select(Ballot))))
    ballot.given_at += datetime.timedelta(seconds=1)


def a_ballot_taken_out_with_its_entry(reviews: ReviewBench, session: Session) -> None:
    pair = reviews.asked("operator-1")[1].pair
    session.delete(session.get_one(Ballot, (reviews.review.id, "operator-1", pair)))
    for entry in session.scalars(select(AuditEntry)).all():
        if entry.subjects.get("pair") == pair:
            session.delete(entry)
    session.flush()
    log_again(session)


def two_entries_exchanged(reviews: ReviewBench, session: Session) -> None:
    first, second = session.scalars(select(AuditEntry).where(AuditEntry.action == "ballot given")).all()[:2]
    first.subjects, second.subjects = second.subjects, first.subjects
    session.flush()
    log_again(session)


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
    session.flush()
    log_again(session)


def no_key_at_all(reviews: ReviewBench, session: Session) -> None:
    """As if release 0.1.0 had opened it."""
    session.execute(update(BlindReview).values(act_key=None))
    audit.append(session, "sovereign", "unsigned reviews end here", {"reviews": [reviews.review.id]})


CHANGED: dict[str, Attack] = {
    each.__name__: each
    for each in (
        a_changed_ballot,
        a_ballot_of_another_time,
        a_ballot_taken_out_with_its_entry,
        two_entries_exchanged,
        the_last_two_ballots_cut_off,
        the_log_cut_to_one_entry,
        the_whole_log_gone,
        everything_signed_anew,
        no_key_at_all,
    )
}


@pytest.mark.security_case("the database's owner changes a ballot and its entry, and computes the log again", "refused")
@pytest.mark.security_case("ballots are taken out with their entries, or entries exchanged", "refused")
@pytest.mark.security_case("the last ballots are cut off with their entries", "refused")
@pytest.mark.security_case("the log is cut to one entry while ballots stand", "refused")
@pytest.mark.security_case("all acts of a review are signed anew with another key", "refused")
@pytest.mark.parametrize("attack", CHANGED)
def test_what_the_owner_changes_is_found_and_nothing_is_closed(reviews: ReviewBench, attack: str) -> None:
    as_owner(reviews, CHANGED[attack])
    found = findings(reviews)
    assert found
    with pytest.raises((IntegrityError, ConflictError)):
        reviews.close()
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {reviews.review.id: found}


def test_a_review_without_an_attack_has_no_finding(reviews: ReviewBench) -> None:
    assert findings(reviews) == []
    reviews.close()
    assert findings(reviews) == []
    assert examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings) == {}


@pytest.mark.security_case("a review that was lost is taken out of the registry and the log", "`audit verify` names it")
def test_a_review_that_is_gone_altogether_is_known_from_what_was_signed(reviews: ReviewBench) -> None:
    def without_it(reviews: ReviewBench, session: Session) -> None:
        for table in (Ballot, AuditEntry, SignInUse, SignInLink, BlindReview):
            for row in session.scalars(select(table)):
                session.delete(row)
            session.flush()

    review = reviews.review.id
    as_owner(reviews, without_it)
    found = examine_all(reviews.registry, reviews.bench.store, reviews.bench.settings)
    assert list(found) == [review]
    assert "has no row" in found[review][0]


@pytest.mark.security_case("a review is closed by inserting its closing", "its result is refused")
def test_an_inserted_closing_gives_no_result(reviews: ReviewBench) -> None:
    with reviews.registry.writing() as session:
        the_closing(reviews, session)
    with pytest.raises(IntegrityError, match="not signed with the review's key"):
        reviews.materialize()
    with pytest.raises(IntegrityError, match="the closing is in the registry without an act"):
        adapters_that_lost(reviews.registry, reviews.bench.store, "lamps")


@pytest.mark.security_case("a lost review is inserted once more under another id, won", "refused")
def test_a_second_review_on_a_used_plan_gives_no_result(reviews: ReviewBench) -> None:
    reviews.close()
    with reviews.registry.writing() as session:
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
    with pytest.raises(IntegrityError, match="Review won cannot be trusted"):
        reviews.materialize()


@pytest.mark.security_case("a sign-in link is inserted, to sign in as an operator", "refused")
def test_a_link_that_nobody_issued_signs_nobody_in(reviews: ReviewBench) -> None:
    token, later = "guessed", datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    digest = hashlib.sha256(token.encode()).hexdigest()
    with reviews.registry.writing() as session:
        link = SignInLink(token_sha256=digest, review_id=reviews.review.id, operator="operator-3", expires_at=later)
        session.add(link)
        session.flush()
    with pytest.raises(SignInError, match="not one of ours"):
        use_link(reviews.registry, reviews.bench.settings, token)
    assert findings(reviews) == ["a link is in the registry without an act in the log, or was changed (1)"]


@pytest.mark.security_case("a registry is restored from before the last ballots", "refused, also for further ballots")
def test_nothing_is_added_to_a_log_that_ends_before_what_was_signed(reviews: ReviewBench) -> None:
    as_owner(reviews, the_last_two_ballots_cut_off)
    with pytest.raises(IntegrityError, match="is not the one that was signed last"):
        reviews.vote("operator-3", reviews.asked("operator-3")[0].pair, 1)


@pytest.mark.security_case("a ballot is put in for a pair, so that the page does not show it", "the page refuses")
def test_an_operator_whose_ballots_were_added_to_is_shown_nothing(reviews: ReviewBench) -> None:
    with reviews.registry.writing() as session:
        session.add(a_ballot(reviews, "operator-3", reviews.asked("operator-3")[0].pair))
    with pytest.raises(IntegrityError, match="what operator-3 gave is not what the audit log says"):
        ballots.given(reviews.registry, reviews.review, "operator-3")
    ballots.given(reviews.registry, reviews.review, "operator-2")


def test_a_crash_between_commit_and_note_stops_nothing(reviews: ReviewBench) -> None:
    path = reviews.bench.settings.review_secrets / f"{reviews.review.id}.acts"
    *before, last = path.read_text().rstrip().splitlines()
    path.write_text("\n".join([*before, last[:9]]))
    reviews.vote("operator-3", reviews.asked("operator-3")[0].pair, 1)
    assert findings(reviews) == []


@pytest.mark.security_case("whoever has taken over the page signs for a review that is closed", "its key is deleted")
def test_after_closing_nobody_can_sign(reviews: ReviewBench) -> None:
    key = reviews.bench.settings.review_secrets / f"{reviews.review.id}.key"
    assert key.is_file()
    reviews.close()
    assert not key.exists()


def test_a_ballot_names_the_sign_in_of_its_operator(reviews: ReviewBench) -> None:
    assert reviews.opened is not None
    who = use_link(reviews.registry, reviews.bench.settings, reviews.opened.links["operator-4"])
    given = dict.fromkeys(ballots.ratings_asked(reviews.contents.plan.criteria), 3)
    pair = reviews.asked("operator-4")[0].pair
    ballots.give_ballot(reviews.registry, reviews.bench.settings, who, pair, "a", given)
    log = [entry for entry in audit.entries(reviews.registry) if entry.actor == "operator-4"]
    assert [entry.action for entry in log] == ["signed in", "ballot given"]
    assert log[1].subjects["sign_in"] == log[0].subjects["act"] == who.sign_in


@pytest.mark.security_case("a ballot names the sign-in of another operator", "refused")
def test_a_sign_in_is_good_for_one_operator(reviews: ReviewBench) -> None:
    """As a page would record it that confuses two people: everything is signed."""
    pair = reviews.asked("operator-3")[0].pair
    given = dict.fromkeys(ballots.ratings_asked(reviews.contents.plan.criteria), 3)
    who = SignedIn(reviews.review.id, "operator-3", 7)  # the sign-in of operator-1
    ballots.give_ballot(reviews.registry, reviews.bench.settings, who, pair, "a", given)
    assert findings(reviews) == ["operator-3 gave 1 without having signed in"]


def test_closed_reviews_are_read_as_they_were_closed(reviews: ReviewBench) -> None:
    closing = reviews.close()
    (closed,) = read_closed(reviews.registry, reviews.bench.store, [(reviews.review, closing)])
    assert len(closed.ballots) == 5
    assert closed.contents.plan.act_key == reviews.review.act_key
