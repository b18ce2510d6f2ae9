"""Verify a review against its signed acts, and close it: reveal its seed, and reject further acts.

A review has no findings if all of the following is true: every act in the ledger is signed with the review's key, no
act is missing or moved, the rows are exactly those that acts added, a sign-in precedes every ballot, and the ledger
contains every act in the file of signed acts.
"""

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import GateRefused, InputError, IntegrityError, SignInError, SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import audit_log as audit
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import (
    People,
    assert_may,
    officer_of,
    on_one_line,
    person_in_short,
    trust_root,
    verify_act,
)
from sovereign_pipeline.record.statements import EARLY_CLOSING, Statement, Subject, sign_statement
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import (
    AuditEntry,
    Ballot,
    BlindReview,
    Guess,
    ReviewClosing,
    SignInLink,
    SignInUse,
    Table,
)
from sovereign_pipeline.review import acts as custody
from sovereign_pipeline.review.acts import HINT, Act, Entering, SignedAct, acts_of, without_act
from sovereign_pipeline.review.ballots import ballots_digest, ballots_of, guesses_of, stands_for, was_asked
from sovereign_pipeline.review.plan import PlanContents, ReviewPlan, plan_of

CLOSE = "close"
"""Permission in the trust root that an officer needs to close a review early."""
STATEMENT = "statement"
"""Key in the ledger entry of an early closing. The value is the officer's signed statement."""


@dataclass(frozen=True)
class ReviewRows:
    """All rows and ledger entries about one review, read in one transaction."""

    review: BlindReview
    links: Sequence[SignInLink]
    uses: Sequence[SignInUse]
    ballots: Sequence[Ballot]
    guesses: Sequence[Guess]
    closing: ReviewClosing | None
    entries: Sequence[AuditEntry]

    @property
    def asked(self) -> int:
        """Number of ballots that operators gave. Automatic ties do not count."""
        return sum(map(was_asked, self.ballots))


def close(
    registry: Registry,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    actor: str,
    signer: Signer | None = None,
    reason: str | None = None,
) -> ReviewClosing:
    """Close a review, reveal its seed, and delete the key that signs its acts.

    Args:
        actor: the person who runs the command.
        signer: key of an officer who closes the review before the pre-registered number of ballots is cast. The plan
            must list the officer.
        reason: the officer's reason; required with `signer`.

    Raises GateRefused for too few ballots, InputError for a key without a reason or a reason without a key, SignInError
    for an officer who may not close early, and ConflictError if the review is closed. Raises IntegrityError with a list
    of all differences between the registry's rows and the signed acts.
    """
    people, said = People(settings), on_one_line(reason or "")
    try:
        _assert_may_close_early(people, settings, review, contents, signer, said)
        with custody.entering_acts(settings, registry, review.id) as entering:
            rows = rows_of(entering.session, review, read_log(entering.session))
            assert_none(review.id, findings_in(rows, contents, settings, custody.signed_acts(settings, review.id)))
            is_early = rows.asked < review.ballots
            if is_early and signer is None:
                raise _too_few(people, review, contents.plan, rows.asked)
            officer = signer if is_early else None
            closing = ReviewClosing(
                review_id=review.id,
                closed_at=datetime.datetime.now(datetime.UTC),
                seed=custody.sealed_seed(settings, review).hex(),
                ballots=rows.asked,
                ballots_sha256=ballots_digest(rows.ballots, rows.guesses),
                officer=officer.keyid if officer is not None else None,
                reason=said if is_early else None,
            )
            signed = _signed(entering, settings, review, closing, officer) if officer is not None else {}
            entering.session.add(closing)
            entering.session.flush()
            facts = {
                name: getattr(closing, name) for name in ("seed", "ballots", "ballots_sha256", "officer", "reason")
            }
            action = custody.REVIEW_CLOSED_EARLY if is_early else custody.REVIEW_CLOSED
            entering.enter(actor, action, {**facts, "row": custody.digest_of_row(closing), **signed})
        return closing
    finally:
        # Delete the key also if an error occurred after the commit, and when closing is tried again. With the key,
        # further acts could be signed.
        if custody.is_closed(registry, review.id):
            custody.forget_key(settings, review.id)


def read_log(session: Session) -> list[AuditEntry]:
    about_review = AuditEntry.subjects["review"].as_string().is_not(None)
    return list(session.scalars(select(AuditEntry).where(about_review).order_by(AuditEntry.sequence)))


def rows_of(session: Session, review: BlindReview, log: Sequence[AuditEntry]) -> ReviewRows:
    links = list(session.scalars(select(SignInLink).where(SignInLink.review_id == review.id)))
    tokens = [link.token_sha256 for link in links]
    return ReviewRows(
        review=review,
        links=links,
        uses=list(session.scalars(select(SignInUse).where(SignInUse.token_sha256.in_(tokens)))),
        ballots=ballots_of(session, review.id),
        guesses=guesses_of(session, review.id),
        closing=session.get(ReviewClosing, review.id),
        entries=[entry for entry in log if entry.subjects.get("review") == review.id],
    )


def findings_in(
    rows: ReviewRows, contents: PlanContents, settings: Settings, noted: Sequence[SignedAct] = ()
) -> list[str]:
    """Return the findings about one review, one sentence each. Return an empty list if there are none.

    Args:
        noted: the acts in the file of signed acts (`acts.signed_acts`); empty to skip the comparison with it.
    """
    key = contents.plan.act_key
    if rows.review.act_key != key:
        return ["the key in the review's row differs from the key in the sealed plan"]
    acts = acts_of(rows.entries, key)
    return [
        *_chain(rows.entries, acts),
        *_cut_off(acts, noted),
        *_rows_and_acts(rows, acts),
        *_signed_in(acts),
        *_planned(rows, contents),
        *_closing(rows, contents, settings, acts),
    ]


def assert_none(review: str, findings: Sequence[str]) -> None:
    if findings:
        raise IntegrityError(f"Review {review} cannot be trusted: {'; '.join(findings)}.", HINT)


def examine_all(registry: Registry, store: ArtifactStore, settings: Settings) -> dict[str, list[str]]:
    """Return a mapping of review id to findings. Reviews without findings are left out."""
    reviews = custody.find_all(registry)
    with registry.reading() as session:
        log = read_log(session)
        rows = {review.id: rows_of(session, review, log) for review in reviews}
    found = {id: _examined(each, store, settings) for id, each in rows.items()}
    absent = {str(entry.subjects["review"]) for entry in log if "review" in entry.subjects} - rows.keys()
    for id in sorted(absent | (set(custody.noted_reviews(settings)) - rows.keys())):
        found[id] = ["the log or the file of signed acts names this review, but the registry has no row for it"]
    return {id: findings for id, findings in found.items() if findings}


def _examined(rows: ReviewRows, store: ArtifactStore, settings: Settings) -> list[str]:
    try:
        contents = plan_of(store, rows.review)
    except SovereignError as error:
        return [error.message.rstrip(".")]
    found = findings_in(rows, contents, settings, custody.signed_acts(settings, rows.review.id))
    if rows.closing is not None and custody.is_key_kept(settings, rows.review.id):
        found.append("it is closed, but the key that signs its acts still exists; delete it (SOVEREIGN_REVIEW_SECRETS)")
    return found


def _chain(entries: Sequence[AuditEntry], acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings about ledger entries without a valid signature, and acts that are missing, repeated or moved."""
    signed = {act.sequence for act in acts}
    for entry in entries:
        if entry.sequence not in signed:
            yield f"entry {entry.sequence} of the log ({entry.action}) is not signed with the review's key"
    number, digest = 0, audit.FIRST
    for act in acts:
        if (act.number, act.previous) != (number + 1, digest):
            yield f"entry {act.sequence} is act {act.number} but follows act {number}: an act is missing or moved"
        number, digest = act.number, act.digest


def _cut_off(acts: Sequence[Act], noted: Sequence[SignedAct]) -> Iterator[str]:
    there = {SignedAct(act.number, act.digest) for act in acts}
    gone = [act.number for act in noted if act not in there]
    if gone:
        yield f"acts {gone[0]} to {gone[-1]} were signed, and {len(gone)} of them are no longer in the log"


def _rows_and_acts(rows: ReviewRows, acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings about rows without an act, rows that were changed, and acts whose rows are missing."""
    kinds: dict[str, Sequence[Table]] = {
        "the review's row": [rows.review],
        "a link": rows.links,
        "a sign-in": rows.uses,
        "a ballot": [*filter(was_asked, rows.ballots)],
        "a guess": rows.guesses,
        "the closing": [rows.closing] if rows.closing is not None else [],
    }
    for what, stored in kinds.items():
        if added := without_act(stored, acts):
            yield f"{what} is in the registry without an act in the log, or was changed ({len(added)})"
    there = {(row.__tablename__, audit.key_of(row)) for row in (*chain.from_iterable(kinds.values()), *rows.ballots)}
    if missing := custody.rows_added(acts).keys() - there:
        yield f"rows of {', '.join(sorted({table for table, _ in missing}))} are in the log but not in the registry"


def _signed_in(acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings about operators who gave a ballot or guess without an earlier sign-in of their own."""
    sign_ins = {act.number: act for act in acts if act.action == custody.SIGNED_IN}
    without: Counter[str] = Counter()
    for act in acts:
        if act.action in (custody.BALLOT_GIVEN, custody.GUESS_GIVEN):
            sign_in = sign_ins.get(act.subjects["sign_in"])
            if sign_in is None or sign_in.actor != act.actor or sign_in.number > act.number:
                without[act.actor] += 1
    for operator, count in without.items():
        yield f"{person_in_short(operator)} gave ballots or guesses ({count}) without having signed in"


def _planned(rows: ReviewRows, contents: PlanContents) -> Iterator[str]:
    """Yield findings about ballots and guesses on pairs that the plan did not assign to the operator, and about
    automatic ties that differ from the plan's."""
    planned = {(name, each.pair): each.prompt for name, pairs in contents.plan.operators.items() for each in pairs}
    ties = {key for key, prompt in planned.items() if prompt in contents.identical}
    unasked = [each for each in rows.ballots if not was_asked(each)]
    if {(each.operator, each.pair) for each in unasked} != ties or any(each.preference != "tie" for each in unasked):
        yield "the recorded ties for identical answers differ from the ties in the plan"
    given: list[Ballot | Guess] = [*filter(was_asked, rows.ballots), *rows.guesses]
    if not {(each.operator, each.pair) for each in given} <= planned.keys() - ties:
        yield "a ballot or guess is for a pair that the plan does not assign to its operator"


def _closing(rows: ReviewRows, contents: PlanContents, settings: Settings, acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings about the closing: ledger entries after it, ballots that differ from the closing's digest, and an
    early closing without an officer's valid signature."""
    closing, last = rows.closing, acts[-1] if acts else None
    if closing is None:
        return
    if last is None or last.action not in (custody.REVIEW_CLOSED, custody.REVIEW_CLOSED_EARLY):
        yield "the log has entries after the closing"
    if (ballots_digest(rows.ballots, rows.guesses), rows.asked) != (closing.ballots_sha256, closing.ballots):
        yield "the ballots are not the ballots that the closing covers"
    if closing.officer is None:
        if rows.asked < rows.review.ballots:
            yield "it was closed before the pre-registered number of ballots was cast, and not by an officer"
        return
    statement = last.subjects.get(STATEMENT) if last is not None else None
    if last is None or statement is None:
        yield "it was closed early without an officer's signature"
        return
    try:
        verified = verify_act(
            str(statement).encode(),
            trust_root(settings),
            CLOSE,
            [contents.classification],
            predicate_type=EARLY_CLOSING,
            sha256=rows.review.plan_manifest_sha256,
            at_index=last.sequence - 1,
        )
    except SovereignError as error:
        yield f"its early closing is invalid: {error.message.rstrip('.')}"
        return
    if dict(verified.statement.predicate) != said_of(rows.review, closing) or verified.key.keyid != closing.officer:
        yield "its early closing differs from the officer's signed statement"


def said_of(review: BlindReview, closing: ReviewClosing) -> dict[str, Any]:
    """Return the content of the statement that an officer signs to close a review early."""
    return {
        "line": review.line,
        "review": review.id,
        "ballots": closing.ballots,
        "ballots_sha256": closing.ballots_sha256,
        "reason": closing.reason,
    }


def _signed(
    entering: Entering, settings: Settings, review: BlindReview, closing: ReviewClosing, signer: Signer
) -> dict[str, str | int]:
    """Return the further fields of an early closing's ledger entry: the signed statement and the trust root's
    versions."""
    trust = trust_root(settings)
    assert_in_force(entering.session, settings, trust)
    subject = Subject("review_plan/manifest.json", review.plan_manifest_sha256)
    bundle = sign_statement(signer, Statement((subject,), EARLY_CLOSING, said_of(review, closing)))
    return {STATEMENT: bundle.decode(), **trust_named(trust)}


def _assert_may_close_early(
    people: People,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    signer: Signer | None,
    reason: str,
) -> None:
    if (signer is None) != (not reason):
        raise InputError(
            "Closing a review early needs both an officer's key and a reason.",
            "Add the missing key or reason.",
            act="close_review_early",
            line=review.line,
        )
    if signer is None:
        return
    officer, named = officer_of(trust_root(settings), signer.keyid), contents.plan.may_close_early
    if stands_for(people, officer.person, named) is None:
        allowed = ", ".join(_names(people, named))
        raise SignInError(
            f"{officer.person} may not close this review of line {review.line} early. When the review was opened, "
            f"the recipe allowed {allowed or 'nobody'} to close it early (gates.review.may_close_early).",
            "Wait for the missing ballots, or have one of these officers close it."
            if allowed
            else "Wait for the missing ballots.",
        )
    assert_may(officer, CLOSE, [contents.classification])


def _names(people: People, persons: Iterable[str]) -> list[str]:
    names = people.listed()
    return [people.shown(each, names) for each in persons]


def _too_few(people: People, review: BlindReview, plan: ReviewPlan, asked: int) -> GateRefused:
    message = (
        f"Line {review.line}: {asked} of the {review.ballots} pre-registered ballots were cast, so the review stays "
        f"open."
    )
    if not plan.may_close_early:
        return GateRefused(
            message,
            "Wait for the missing ballots. When the review was opened, the recipe allowed nobody to close it early "
            "(gates.review.may_close_early).",
            act="review_status",
            line=review.line,
        )
    allowed = " or ".join(_names(people, plan.may_close_early))
    return GateRefused(
        message,
        f"Wait for the missing ballots, or have {allowed} close the review early, with a reason.",
        act="close_review_early",
        line=review.line,
    )
