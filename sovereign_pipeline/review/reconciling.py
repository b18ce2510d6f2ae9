"""Compare the registry's rows about a review with its signed acts, and report differences as findings.

A review has no findings if every act in the ledger is signed with the review's key, none is missing or moved, every act
has its row and every row its act, a sign-in precedes every ballot, and the ledger has every act that was recorded as
signed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import audit_log as audit
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import trust_root, verify_act
from sovereign_pipeline.record.people import person_in_short
from sovereign_pipeline.record.statements import EARLY_CLOSING
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import (
    AuditEntry,
    Ballot,
    BlindReview,
    Guess,
    ReviewClosing,
    SignInLink,
    SignInUse,
)
from sovereign_pipeline.review.acts import (
    BALLOT_GIVEN,
    GUESS_GIVEN,
    HINT,
    LINK_ISSUED,
    OPENED,
    PROXY,
    REVIEW_CLOSED,
    REVIEW_CLOSED_EARLY,
    SIGNED_IN,
    Act,
    SignedAct,
    acts_of,
    digest_of_row,
    find_all,
    is_key_kept,
    noted_reviews,
    signed_acts,
)
from sovereign_pipeline.review.ballots import ballots_digest, ballots_of, content_of, guesses_of, was_asked
from sovereign_pipeline.review.plan import PlanContents, plan_of

CLOSE = "close"
"""Permission in the trust root that an officer needs to close a review early."""
STATEMENT = "statement"
"""Key under which an early closing's entry stores the officer's signed statement."""


@dataclass(frozen=True)
class ReviewRows:
    """All rows of one review in the registry, read in one transaction."""

    review: BlindReview
    links: Sequence[SignInLink]
    uses: Sequence[SignInUse]
    ballots: Sequence[Ballot]
    guesses: Sequence[Guess]
    closing: ReviewClosing | None
    log: Sequence[AuditEntry]

    @property
    def entries(self) -> list[AuditEntry]:
        return [entry for entry in self.log if _is_about(entry, self.review.id)]

    @property
    def given(self) -> list[Ballot | Guess]:
        """Ballots and guesses that operators gave."""
        return [*filter(was_asked, self.ballots), *self.guesses]

    @property
    def asked(self) -> int:
        """Number of ballots that operators gave."""
        return sum(map(was_asked, self.ballots))


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
        log=log,
    )


def findings_in(
    rows: ReviewRows, contents: PlanContents, settings: Settings, noted: Sequence[SignedAct] = ()
) -> list[str]:
    """Return the findings about one review, one sentence each; empty if there are none.

    Args:
        noted: the acts recorded when they were signed (`acts.signed_acts`); empty if they cannot be read.
    """
    key = contents.plan.act_key
    if rows.review.act_key != key:
        return ["the row names another key than the sealed plan"]
    acts = acts_of(rows.entries, key)
    return [
        *_chain(rows.entries, acts),
        *_cut_off(acts, noted),
        *_rows_and_acts(rows, acts),
        *_signed_in(acts),
        *_planned(rows, contents),
        *_closing(rows, acts),
        *_closed_early(rows, contents, settings, acts),
    ]


def assert_none(review: str, findings: Sequence[str]) -> None:
    if findings:
        raise IntegrityError(f"Review {review} cannot be trusted: {'; '.join(findings)}.", HINT)


def examine_all(registry: Registry, store: ArtifactStore, settings: Settings) -> dict[str, list[str]]:
    """Return review -> its findings, for each review with findings."""
    reviews = find_all(registry)
    with registry.reading() as session:
        log = read_log(session)
        rows = {review.id: rows_of(session, review, log) for review in reviews}
    found = {id: _examined(each, store, settings) for id, each in rows.items()}
    absent = {str(entry.subjects["review"]) for entry in log if "review" in entry.subjects} - rows.keys()
    for id in sorted(absent | (set(noted_reviews(settings)) - rows.keys())):
        found[id] = ["the log or the stored acts name this review, but the registry has no row about it"]
    return {id: findings for id, findings in found.items() if findings}


def _examined(rows: ReviewRows, store: ArtifactStore, settings: Settings) -> list[str]:
    try:
        contents = plan_of(store, rows.review)
    except SovereignError as error:
        return [error.message.rstrip(".")]
    found = findings_in(rows, contents, settings, signed_acts(settings, rows.review.id))
    if rows.closing is not None and is_key_kept(settings, rows.review.id):
        found.append("it is closed, but the key that signs its acts still exists; delete it (SOVEREIGN_REVIEW_SECRETS)")
    return found


def _is_about(entry: AuditEntry, review: str) -> bool:
    return entry.subjects.get("review") == review


def _chain(entries: Sequence[AuditEntry], acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings about the chain: entries without a valid signature, and acts that are missing, repeated or
    moved."""
    signed = {act.sequence for act in acts}
    for entry in entries:
        if entry.sequence not in signed:
            yield f"entry {entry.sequence} of the log ({entry.action}) is not signed with the review's key"
    number, digest = 0, audit.FIRST
    for act in acts:
        if (act.number, act.previous) != (number + 1, digest):
            yield f"entry {act.sequence} is act {act.number} and does not follow act {number}: one is missing or moved"
        number, digest = act.number, act.digest


def _cut_off(acts: Sequence[Act], noted: Sequence[SignedAct]) -> Iterator[str]:
    there = {SignedAct(act.number, act.digest) for act in acts}
    gone = [act.number for act in noted if act not in there]
    if gone:
        yield f"acts {gone[0]} to {gone[-1]} were signed, and {len(gone)} of them are no longer in the log"


def _rows_and_acts(rows: ReviewRows, acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings: rows without the act that added them, and acts without their row."""

    def of(*actions: str, name: str = "row") -> list[str]:
        return [act.subjects[name] for act in acts if act.action in actions and act.subjects.get("by") != PROXY]

    closings = [rows.closing] if rows.closing is not None else []
    given = [each for each in rows.ballots if was_asked(each)]
    kinds: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        "the review's row": ([digest_of_row(rows.review)], of(OPENED)),
        "a link": (map(digest_of_row, rows.links), of(LINK_ISSUED)),
        "a sign-in": (map(digest_of_row, rows.uses), of(SIGNED_IN)),
        "a ballot": ((digest_of(content_of(each)) for each in given), of(BALLOT_GIVEN, name="ballot")),
        "a guess": ((digest_of(content_of(each)) for each in rows.guesses), of(GUESS_GIVEN, name="ballot")),
        "the closing": (map(digest_of_row, closings), of(REVIEW_CLOSED, REVIEW_CLOSED_EARLY)),
    }
    for what, (stored, entered) in kinds.items():
        in_rows, in_acts = Counter(stored), Counter(entered)
        if added := (in_rows - in_acts).total():
            yield f"{what} is in the registry without an act in the log, or was changed ({added})"
        if gone := (in_acts - in_rows).total():
            yield f"{what} is in the log and not in the registry ({gone})"


def _signed_in(acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings: operators who gave ballots or guesses before any sign-in."""
    sign_ins = {act.number: act for act in acts if act.action == SIGNED_IN}
    without: Counter[str] = Counter()
    for act in acts:
        if act.action in (BALLOT_GIVEN, GUESS_GIVEN):
            sign_in = sign_ins.get(act.subjects["sign_in"])
            if sign_in is None or sign_in.actor != act.actor or sign_in.number > act.number:
                without[act.actor] += 1
    for operator, count in without.items():
        yield f"{person_in_short(operator)} gave {count} without having signed in"


def _planned(rows: ReviewRows, contents: PlanContents) -> Iterator[str]:
    """Yield findings: ballots about pairs that the operator was not shown, and ties that are not in the plan."""
    planned = {(name, each.pair): each.prompt for name, pairs in contents.plan.operators.items() for each in pairs}
    ties = {key for key, prompt in planned.items() if prompt in contents.identical}
    unasked = [each for each in rows.ballots if not was_asked(each)]
    if {(each.operator, each.pair) for each in unasked} != ties or any(each.preference != "tie" for each in unasked):
        yield "the logged ties for identical answers differ from the plan"
    if not {(each.operator, each.pair) for each in rows.given} <= planned.keys() - ties:
        yield "a ballot is about a pair that its operator was never shown"


def _closing(rows: ReviewRows, acts: Sequence[Act]) -> Iterator[str]:
    if rows.closing is None:
        return
    if not acts or acts[-1].action not in (REVIEW_CLOSED, REVIEW_CLOSED_EARLY):
        yield "there are entries after the closing"
    yield from _not_as_closed(rows, rows.closing)


def _closed_early(rows: ReviewRows, contents: PlanContents, settings: Settings, acts: Sequence[Act]) -> Iterator[str]:
    """Yield findings unless an authorised officer signed the early closing."""
    closing, act = rows.closing, acts[-1] if acts else None
    if closing is None:
        return
    if closing.officer is None:
        if rows.asked < rows.review.ballots:
            yield "it was closed below the pre-registered number of ballots without an officer"
        return
    statement = act.subjects.get(STATEMENT) if act is not None else None
    if act is None or statement is None:
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
            at_index=act.sequence - 1,
        )
    except SovereignError as error:
        yield f"its early closing is invalid: {error.message.rstrip('.')}"
        return
    if dict(verified.statement.predicate) != said_of(rows.review, closing) or verified.key.keyid != closing.officer:
        yield "its early closing is not the one that the officer signed"


def said_of(review: BlindReview, closing: ReviewClosing) -> dict[str, Any]:
    """Return the content that an officer signs to close a review early."""
    return {
        "line": review.line,
        "review": review.id,
        "ballots": closing.ballots,
        "ballots_sha256": closing.ballots_sha256,
        "reason": closing.reason,
    }


def _not_as_closed(rows: ReviewRows, closing: ReviewClosing) -> Iterator[str]:
    if (ballots_digest(rows.ballots, rows.guesses), rows.asked) != (closing.ballots_sha256, closing.ballots):
        yield "the ballots differ from those at its closing"
